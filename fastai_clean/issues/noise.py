"How much label noise there is, and between which classes"
import numpy as np
import pandas as pd
from cleanlab.count import compute_confident_joint, estimate_latent, get_confident_thresholds
from cleanlab.dataset import rank_classes_by_label_quality

from .checks import check_labels_probs
from .columns import as_is, names_of
from .stream import StreamedIssues, is_large


def confident_joint(
    labels,  # Given labels: class indices (n,)
    pred_probs,  # Probabilities (n, c)
) -> np.ndarray:  # (c, c) counts, row: given label, column: likely true label
    "Estimated counts of (given, true) label pairs, calibrated so that rows sum to the counts of the given labels"
    if is_large(pred_probs): return StreamedIssues(labels, pred_probs).joint
    return compute_confident_joint(*check_labels_probs(labels, pred_probs))


def noise_matrix(
    labels,  # Given labels: class indices (n,)
    pred_probs=None,  # Probabilities (n, c)
    *,
    joint=None,  # `confident_joint` (c, c) of them, where it is there already
) -> np.ndarray:  # (c, c), columns sum to 1
    "Estimated P(given label = row | true label = column); cleanlab's `noise_matrix`"
    return estimate_latent(_joint(labels, pred_probs, joint), np.asarray(labels))[1]


def noise_rate(
    labels,  # Given labels: class indices (n,)
    pred_probs=None,  # Probabilities (n, c)
    *,
    joint=None,  # `confident_joint` (c, c) of them, where it is there already
) -> float:
    "Estimated fraction of wrong labels, 0 to 1: the mass off the diagonal of the joint of given and true labels"
    joint = _joint(labels, pred_probs, joint)
    return float((joint.sum() - np.trace(joint))/joint.sum())


def class_thresholds(
    labels,  # Given labels: class indices (n,)
    pred_probs,  # Probabilities (n, c)
) -> np.ndarray:  # (c,), 0 to 1; NaN for a class that no item was given
    """Confident learning's threshold of each class: the mean self-confidence of the items labelled so. An item counts
    as truly of class j where its probability of j reaches j's threshold (Northcutt et al., JAIR 2021, equation 2)."""
    if is_large(pred_probs): return StreamedIssues(labels, pred_probs).thresholds
    labels, pred_probs = check_labels_probs(labels, pred_probs)
    thresholds = np.asarray(get_confident_thresholds(labels, pred_probs), dtype=float)
    return np.where(np.bincount(labels, minlength=len(thresholds)) > 0, thresholds, np.nan)


def class_health(
    labels,  # Given labels: class indices (n,)
    pred_probs=None,  # Probabilities (n, c)
    *,
    joint=None,  # `confident_joint` (c, c) of them, where it is there already
    vocab=None,  # Names of the c classes; None: their indices
) -> pd.DataFrame:  # c rows, the worst class first
    """cleanlab's `rank_classes_by_label_quality`, indexed by class: `items` labelled so; `estimated_wrong`, how many
    of them are wrong, `label_noise` their share, P(true != k | given = k); `estimated_missing`, how many items of
    the class are labelled otherwise, `inverse_label_noise` their share, P(given != k | true = k);
    `label_quality`, 1 - label_noise. Estimates, shares 0 to 1."""
    joint = _joint(labels, pred_probs, joint)
    df = rank_classes_by_label_quality(labels=np.asarray(labels), joint=joint/joint.sum(), num_examples=len(labels))
    df.columns = ['class', 'estimated_wrong', 'estimated_missing', 'label_noise', 'inverse_label_noise',
                  'label_quality']
    counts = np.bincount(np.asarray(labels), minlength=len(joint))
    df.insert(1, 'items', counts[df['class']])
    df['class'] = as_is(names_of(len(joint), vocab)[df['class']])
    return df.set_index('class')


def top_pairs(
    labels,  # Given labels: class indices (n,)
    predicted,  # Predicted class indices (n,)
    is_issue,  # Which items are label issues, booleans (n,)
    joint,  # `confident_joint` (c, c)
    *,
    vocab=None,  # Names of the c classes; None: their indices
    n=10,  # Number of pairs; None: all
) -> pd.DataFrame:  # Columns given, predicted, count, error_rate
    """The class pairs with most label issues: `count` items labelled `given` are issues and predicted to be
    `predicted`; `error_rate` is the estimated share, 0 to 1, of all items labelled `given` that truly are
    `predicted`. Raises ValueError for shapes that do not fit."""
    joint, labels, predicted = np.asarray(joint), np.asarray(labels, np.int64), np.asarray(predicted, np.int64)
    c, is_issue = len(joint), np.asarray(is_issue)
    if is_issue.dtype != bool or not labels.shape == predicted.shape == is_issue.shape:
        raise ValueError(f"labels, predicted and is_issue have shapes {labels.shape}, {predicted.shape} and "
                         f"{is_issue.shape} ({is_issue.dtype}): pass one entry an item in each, is_issue as booleans")
    pairs, counts = np.unique(labels[is_issue]*c + predicted[is_issue], return_counts=True)
    order = np.argsort(-counts, kind='stable')[:n]
    given, pred = pairs[order]//c, pairs[order] % c
    names = names_of(c, vocab)
    rates = joint[given, pred]/joint.sum(1).clip(1)[given]
    return pd.DataFrame({'given': as_is(names[given]), 'predicted': as_is(names[pred]), 'count': counts[order],
                         'error_rate': rates})


def _joint(labels, pred_probs, joint):
    return confident_joint(labels, pred_probs) if joint is None else np.asarray(joint)
