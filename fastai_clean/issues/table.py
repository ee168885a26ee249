"Labels and predicted probabilities in, the issue table out"
import numpy as np
import pandas as pd
from cleanlab.count import compute_confident_joint, estimate_joint, estimate_latent
from cleanlab.filter import find_label_issues
from cleanlab.rank import get_label_quality_scores

from ..checks import check_labels_probs

__all__ = ['FILTERS', 'SCORES', 'find_issues', 'label_quality', 'confident_joint', 'noise_matrix', 'noise_rate']

FILTERS = ('prune_by_noise_rate', 'prune_by_class', 'both', 'confident_learning', 'predicted_neq_given',
           'low_normalized_margin', 'low_self_confidence')
SCORES = ('self_confidence', 'normalized_margin', 'confidence_weighted_entropy')


def find_issues(
    labels,  # Given labels: class indices (n,), or values of `vocab`
    pred_probs,  # Probabilities (n, c), out-of-fold where the model was trained on these labels
    filter_by='prune_by_noise_rate',  # Which items are issues: one of `FILTERS`
    score='self_confidence',  # What ranks the items: one of `SCORES`
    *,
    items=None,  # Stable names of the items (n,); None: their positions
    vocab=None,  # Names of the c classes; None: their indices
    frac_noise=1.,  # Share of the estimated issues to flag, the likeliest first; cleanlab's, as are those below
    num_to_remove_per_class=None,  # How many to flag of each class (c,), instead of the estimate
    min_examples_per_class=1,  # Classes with no more items than this are not flagged
    n_jobs=1,  # Processes; one is the fastest at every size tried
) -> pd.DataFrame:  # Columns item, given, predicted, confidence, label_quality, is_issue; n rows
    """The issue table: every item, the likeliest wrong label first, indexed by the item's position in the data set.

    `confidence` is the probability of the predicted class and `label_quality` that the given label is right, both
    0 to 1. Ties keep the order of the data set. Confident learning: Northcutt, Jiang and Chuang, "Confident Learning:
    Estimating Uncertainty in Dataset Labels", JAIR 2021. Raises ValueError or TypeError as `check_labels_probs` does,
    and for an unknown filter or score."""
    labels, pred_probs = check_labels_probs(labels, pred_probs, vocab)
    _check_choice('filter_by', filter_by, FILTERS)
    if items is not None and len(items) != len(labels):
        raise ValueError(f"items has {len(items)} names for {len(labels)} labels: pass one an item")
    quality = label_quality(labels, pred_probs, score)
    flagged = find_label_issues(labels, pred_probs, filter_by=filter_by, frac_noise=frac_noise, n_jobs=n_jobs,
                                num_to_remove_per_class=num_to_remove_per_class,
                                min_examples_per_class=min_examples_per_class)
    predicted = pred_probs.argmax(1)
    names = np.arange(pred_probs.shape[1]) if vocab is None else np.array([*vocab, None], dtype=object)[:-1]
    df = pd.DataFrame({
        'item': np.arange(len(labels)) if items is None else np.array([*items, None], dtype=object)[:-1],
        'given': names[labels], 'predicted': names[predicted],
        'confidence': pred_probs[np.arange(len(labels)), predicted], 'label_quality': quality, 'is_issue': flagged})
    return df.iloc[np.argsort(quality, kind='stable')].rename_axis('position')


def label_quality(
    labels,  # Given labels: class indices (n,)
    pred_probs,  # Probabilities (n, c)
    score='self_confidence',  # One of `SCORES`
) -> np.ndarray:  # (n,) scores from 0, surely wrong, to 1
    "Label quality scores of cleanlab: Kuan and Mueller, \"Model-agnostic label quality scoring\", 2022"
    labels, pred_probs = check_labels_probs(labels, pred_probs)
    _check_choice('score', score, SCORES)
    return get_label_quality_scores(labels, pred_probs, method=score)


def confident_joint(
    labels,  # Given labels: class indices (n,)
    pred_probs,  # Probabilities (n, c)
) -> np.ndarray:  # (c, c) counts, row: given label, column: likely true label
    "Estimated counts of (given, true) label pairs, calibrated so that rows sum to the counts of the given labels"
    return compute_confident_joint(*check_labels_probs(labels, pred_probs))


def noise_matrix(
    labels,  # Given labels: class indices (n,)
    pred_probs,  # Probabilities (n, c)
) -> np.ndarray:  # (c, c), columns sum to 1
    "Estimated P(given label = row | true label = column); cleanlab's `noise_matrix`"
    labels, pred_probs = check_labels_probs(labels, pred_probs)
    return estimate_latent(compute_confident_joint(labels, pred_probs), labels)[1]


def noise_rate(
    labels,  # Given labels: class indices (n,)
    pred_probs,  # Probabilities (n, c)
) -> float:
    "Estimated fraction of wrong labels, 0 to 1: the mass off the diagonal of the joint of given and true labels"
    return float(1 - np.trace(estimate_joint(*check_labels_probs(labels, pred_probs))))


def _check_choice(name, value, choices):
    if value not in choices: raise ValueError(f"{name} is {value!r}: choose one of {', '.join(choices)}")
