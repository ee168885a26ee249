"Labels and predicted probabilities in, the issue table out"
import numpy as np
import pandas as pd
from cleanlab.filter import find_label_issues
from cleanlab.rank import get_label_quality_scores

from ..checks import check_labels_probs
from .columns import any_score, as_is, check_choice, item_column, names_of, worst_first

__all__ = ['FILTERS', 'SCORES', 'find_issues', 'label_quality']

FILTERS = ('prune_by_noise_rate', 'prune_by_class', 'both', 'confident_learning', 'predicted_neq_given',
           'low_normalized_margin', 'low_self_confidence')
SCORES = ('self_confidence', 'normalized_margin', 'confidence_weighted_entropy')


def find_issues(
    labels,  # Given labels: class indices (n,), or values of `vocab`
    pred_probs,  # Probabilities (n, c), out-of-fold where the model was trained on these labels
    filter_by='prune_by_noise_rate',  # Which items are issues: one of `FILTERS`
    score='self_confidence',  # What ranks the items: one of `SCORES`, scores (n,), a function or a list, see below
    *,
    items=None,  # Stable names of the items (n,); None: their positions
    vocab=None,  # Names of the c classes; None: their indices
    frac_noise=1.,  # Share of the estimated issues to flag, the likeliest first; cleanlab's, as are those below
    num_to_remove_per_class=None,  # How many to flag of each class (c,), instead of the estimate
    min_examples_per_class=1,  # Classes with no more items than this are not flagged
    n_jobs=1,  # Processes; one is the fastest at every size tried
) -> pd.DataFrame:  # Columns item, given, predicted, confidence, label_quality, is_issue; n rows
    """The issue table: every item, the likeliest wrong label first, indexed by the item's position in the data set.

    `confidence` is the probability of the predicted class, 0 to 1, and `label_quality` what `label_quality` makes of
    `score`, for a name also 0 to 1. Ties keep the order of the data set. Confident learning: Northcutt,
    Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR 2021. Raises ValueError or
    TypeError as `check_labels_probs` does, and for an unknown filter or score."""
    labels, pred_probs = check_labels_probs(labels, pred_probs, vocab)
    check_choice('filter_by', filter_by, FILTERS)
    if (labels == labels[0]).all():
        raise ValueError(f"labels has {labels[0]} alone: confident learning needs items of at least 2 given classes")
    items = item_column(items, len(labels))
    quality = _quality(labels, pred_probs, score)
    flagged = find_label_issues(labels, pred_probs, filter_by=filter_by, frac_noise=frac_noise, n_jobs=n_jobs,
                                num_to_remove_per_class=num_to_remove_per_class,
                                min_examples_per_class=min_examples_per_class)
    predicted, names = pred_probs.argmax(1), names_of(pred_probs.shape[1], vocab)
    return worst_first(pd.DataFrame({
        'item': as_is(items), 'given': as_is(names[labels]), 'predicted': as_is(names[predicted]),
        'confidence': pred_probs[np.arange(len(labels)), predicted], 'label_quality': quality, 'is_issue': flagged}))


def label_quality(
    labels,  # Given labels: class indices (n,)
    pred_probs,  # Probabilities (n, c)
    score='self_confidence',  # One of `SCORES`, a function of labels and pred_probs, scores (n,), or a list of such
) -> np.ndarray:  # (n,), low where the label is likely wrong
    """Label quality scores of cleanlab, 0 to 1 (Kuan and Mueller, "Model-agnostic label quality scoring", 2022), or any
    others, in the order of the data set. Of a list, the mean of each item's rank by every score, 1/n to 1: their units
    do not matter then (Borda's count). Raises ValueError for an unknown name and for scores that are not n numbers."""
    return _quality(*check_labels_probs(labels, pred_probs), score)


def _quality(labels, pred_probs, score):
    def named(name):
        check_choice('score', name, SCORES)
        return get_label_quality_scores(labels, pred_probs, method=name)
    return any_score(score, named, labels, pred_probs)
