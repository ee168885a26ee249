"Which filter fits the noise"
from typing import NamedTuple

import numpy as np

from .checks import check_labels_probs
from .noise import confident_joint, noise_rate
from .stream import predicted_classes

UNDERCOUNT, MUCH = .5, .3


class Advice(NamedTuple):
    """A filter, why, and the figures it rests on: `noise_rate` that confident learning estimates, and `disagreement`,
    the share of labels that are not what the model predicts, both 0 to 1."""
    filter_by: str
    reason: str
    noise_rate: float
    disagreement: float


def advise_filter(
    labels,  # Given labels: class indices (n,)
    pred_probs,  # Probabilities (n, c), out-of-fold where the model was trained on these labels
    *,
    joint=None,  # `confident_joint` (c, c) of them, where it is there already
) -> Advice:
    """The filter of `FILTERS` likely to flag with the best F1, by how many of the model's disagreements with the labels
    confident learning counts as errors.

    Less than half: it under-counts, as it does on labels by people when the model is good (CIFAR-10N), where
    `predicted_neq_given` is best. Else, as with random noise or a weak model, `both` while it estimates less than 30 %
    wrong, and `prune_by_class` beyond. A rule of thumb, made from 30 measured cases (errors of people and planted ones,
    5 to 42 %, images, digits and tweets, weak and strong models): on these its choice is .007 of F1 below the best
    filter on average and .05 at most, the default .031 and .07. It cannot tell people's errors from random ones where
    the model is weak. Raises what `check_labels_probs` raises."""
    labels, pred_probs = check_labels_probs(labels, pred_probs)
    rate = noise_rate(labels, joint=confident_joint(labels, pred_probs) if joint is None else joint)
    disagreement = float(np.mean(predicted_classes(pred_probs) != labels))
    found = (f'Confident learning counts {rate:.1%} of the labels as wrong, where the model disagrees with '
             f'{disagreement:.1%}')
    if rate < UNDERCOUNT*disagreement:
        return Advice('predicted_neq_given', f'{found}: it under-counts, as it does where a good model meets the '
                      'errors of people, and the disagreements themselves find most', rate, disagreement)
    if rate < MUCH:
        return Advice('both', f'{found}: with random errors, or a model that is often wrong itself, the strictest '
                      'filter is the most precise', rate, disagreement)
    return Advice('prune_by_class', f'{found}: with this much noise, taking the worst of each class finds most; but a '
                  'model that is often wrong itself looks the same, and then most of these are its own mistakes', rate,
                  disagreement)
