"How much label noise there is, and between which classes"
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from .._rows import aligned
from .checks import as_array, check_labels
from .columns import as_is, names_of
from .confident import EPS, StreamedIssues


def confident_joint(
    labels: Any,  # Given labels: class indices (n,)
    pred_probs: Any,  # Probabilities (n, c)
) -> np.ndarray:  # (c, c) counts, row: given label, column: likely true label
    """Estimated counts of (given, true) label pairs, calibrated so that each row sums to the count
    of the given label (Northcutt et al., JAIR 2021, equations 1 and 3). Raises ValueError or
    TypeError as `check_labels_probs` does.

    >>> confident_joint([0, 0, 0, 1, 1], [[.9, .1], [.8, .2], [.05, .95], [.1, .9], [.1, .9]])
    array([[2, 1],
           [0, 2]])
    """
    return StreamedIssues(labels, pred_probs).joint


def noise_matrix(
    labels: Any,  # Given labels: class indices (n,)
    pred_probs: Any = None,  # Probabilities (n, c)
    *,
    joint: np.ndarray | None = None,  # Their `confident_joint` (c, c), if it is known already
) -> np.ndarray:  # (c, c), columns sum to 1
    "Estimated P(given label = row | true label = column); cleanlab's `noise_matrix`"
    joint = _joint(labels, pred_probs, joint)
    # A tiny float instead of 0, since the counts of a true label may add up to 0
    rates = joint/joint.sum(0).clip(1e-100)
    clipped = rates.clip(0, .9999)
    np.fill_diagonal(clipped, rates.diagonal())
    return clipped/clipped.sum(0).clip(1e-100)


def noise_rate(
    labels: Any,  # Given labels: class indices (n,), or values of `vocab`
    pred_probs: Any,  # Probabilities (n, c), out-of-fold if the model was trained on these labels
    *,
    vocab: Sequence | None = None,  # Names of the c classes; None: their indices
) -> float:
    """Estimated share of wrong labels, 0 to 1: the mean probability of an error by the noise
    channel of `find_issues`' filter 'auto'. On the cases named there it is typically off by a
    factor of 1.1, at most 4.6, where confident learning's rate is by 1.5 and 6.3. Errors that hit
    all classes alike it counts best; of people's it counts a half to three times as many as there
    are: for a count that holds, review a sample. Raises ValueError or TypeError as
    `check_labels_probs` does.

    >>> probs = [[.9, .1], [.8, .2], [.05, .95], [.1, .9], [.1, .9]]
    >>> round(noise_rate([0, 0, 0, 1, 1], probs), 1)
    0.2
    """
    return StreamedIssues(labels, pred_probs, vocab=vocab).noise_rate


def health_score(
    labels: Any,  # Given labels: class indices (n,)
    pred_probs: Any = None,  # Probabilities (n, c)
    *,
    joint: np.ndarray | None = None,  # Their `confident_joint` (c, c), if it is known already
) -> float:
    """cleanlab's `overall_label_health_score`, 0 to 1: the share of the joint of given and true
    labels that lies on its diagonal. 1 minus it is confident learning's noise rate.

    >>> health_score([0, 0, 0, 1], joint=[[2, 1], [0, 1]])
    0.75
    """
    joint = _joint(labels, pred_probs, joint)
    return float(np.trace(joint)/joint.sum())


def class_thresholds(
    labels: Any,  # Given labels: class indices (n,)
    pred_probs: Any,  # Probabilities (n, c)
) -> np.ndarray:  # (c,), 0 to 1; NaN for a class that was given to no item
    """Confident learning's threshold of each class: the mean self-confidence of the items labelled
    so. An item counts as truly of class j if its probability of j reaches j's threshold (Northcutt
    et al., JAIR 2021, equation 2)."""
    return StreamedIssues(labels, pred_probs).thresholds


def class_health(
    labels: Any,  # Given labels: class indices (n,), or values of `vocab`
    pred_probs: Any = None,  # Probabilities (n, c)
    *,
    joint: np.ndarray | None = None,  # Their `confident_joint` (c, c), if it is known already
    vocab: Sequence | None = None,  # Names of the c classes; None: their indices
) -> pd.DataFrame:  # c rows, the worst class first
    """cleanlab's `rank_classes_by_label_quality`, indexed by class: `items` labelled so;
    `estimated_wrong`, how many of them are wrong, `label_noise` their share, P(true != k | given =
    k); `estimated_missing`, how many items of the class are labelled otherwise,
    `inverse_label_noise` their share, P(given != k | true = k); `label_quality`, 1 - label_noise.
    Estimates, shares 0 to 1."""
    if joint is None:
        streamed = StreamedIssues(labels, pred_probs, vocab=vocab)
        joint = streamed.joint
        labels = streamed.labels
        vocab = streamed.vocab
    else:
        joint = as_array(joint, 'joint')
        labels = check_labels(labels, len(labels), len(joint), vocab)
    joint = joint/joint.sum()
    given = joint.sum(1)
    true = joint.sum(0)
    wrong = given - joint.diagonal()
    missing = true - joint.diagonal()
    noise = wrong/given.clip(EPS)
    df = pd.DataFrame({
        'class': as_is(names_of(len(joint), vocab)),
        'items': np.bincount(labels, minlength=len(joint)),
        'estimated_wrong': (wrong*len(labels)).round().astype(int),
        'estimated_missing': (missing*len(labels)).round().astype(int),
        'label_noise': noise, 'inverse_label_noise': missing/true.clip(EPS),
        'label_quality': 1 - noise})
    return df.set_index('class').sort_values('label_quality', kind='stable')


def top_pairs(
    labels: Any,  # Given labels: class indices (n,)
    predicted: Any,  # Predicted class indices (n,)
    is_issue: Any,  # Which items are label issues, booleans (n,)
    joint: Any,  # `confident_joint` (c, c)
    *,
    vocab: Sequence | None = None,  # Names of the c classes; None: their indices
    n: int | None = 10,  # Number of pairs; None: all
) -> pd.DataFrame:  # Columns given, predicted, count, error_rate
    """The class pairs with most label issues: `count` items labelled `given` are issues and
    predicted to be `predicted`; `error_rate` is the estimated share, 0 to 1, of all items labelled
    `given` that truly are `predicted`. Raises ValueError for shapes that do not fit."""
    if isinstance(labels, pd.Series):
        predicted = aligned(predicted, 'predicted', labels.index)
        is_issue = aligned(is_issue, 'is_issue', labels.index)
    joint = as_array(joint, 'joint')
    labels = check_labels(labels, len(labels), len(joint))
    predicted = as_array(predicted, 'predicted').astype(np.int64)
    is_issue = as_array(is_issue, 'is_issue')
    if is_issue.dtype != bool or not labels.shape == predicted.shape == is_issue.shape:
        raise ValueError(f"labels, predicted and is_issue have shapes {labels.shape}, "
                         f"{predicted.shape} and {is_issue.shape} ({is_issue.dtype}): pass one "
                         "entry per item in each, is_issue as booleans")

    c = len(joint)
    pairs, counts = np.unique(labels[is_issue]*c + predicted[is_issue], return_counts=True)
    order = np.argsort(-counts, kind='stable')[:n]
    given, pred = np.divmod(pairs[order], c)
    names = names_of(c, vocab)
    return pd.DataFrame({
        'given': as_is(names[given]), 'predicted': as_is(names[pred]), 'count': counts[order],
        'error_rate': joint[given, pred]/joint.sum(1).clip(1)[given]})


def _joint(labels, pred_probs, joint):
    return confident_joint(labels, pred_probs) if joint is None else as_array(joint, 'joint')
