"Several classes per item: the issue table of the items, and that of their classes"
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from cleanlab.multilabel_classification.filter import find_multilabel_issues_per_class
from cleanlab.rank import get_label_quality_scores

from .._columns import objects
from .checks import check_vocab
from .columns import (
    Score,
    any_score,
    as_is,
    check_choice,
    check_numbers,
    id_column,
    names_of,
    worst_first,
)
from .confident import FILTERS, SCORES


def find_multilabel_issues(
    labels: Any,  # Given labels (n, c): 1 or True if the item has the class, else 0
    pred_probs: Any,  # Probabilities (n, c) of each class, 0 to 1; rows need not sum to 1
    filter_by: str = 'prune_by_noise_rate',  # Which classes of an item are issues: one of `FILTERS`
    score: Score = 'self_confidence',  # Ranks items: one of `SCORES`, or see `label_quality`
    *,
    ids: Sequence | None = None,  # Stable names of the items (n,); None: their positions
    vocab: Sequence | None = None,  # Names of the c classes; None: their indices
    threshold: float = .5,  # Least probability at which a class counts as predicted
    **kwargs,  # cleanlab's `frac_noise`, `num_to_remove_per_class`, `min_examples_per_class`
) -> pd.DataFrame:  # n rows; columns of `find_issues`, and worst_class, n_classes_flagged
    """The issue table of a multi-label data set: every item, the likeliest wrong one first, indexed
    by its position.

    `given` and `predicted` are tuples of class names, `worst_class` the class whose label is the
    likeliest wrong, and `confidence` the larger of the probabilities that the item has it and that
    it does not. `label_quality` is cleanlab's moving average over the classes, dominated by the
    worst; an item is an issue if any class is flagged. (For the two `low_` filters cleanlab itself
    would flag as many items, but those of lowest `label_quality`.) A class given to no item or to
    all of them cannot be flagged. Method: Thyagarajan et al., "Identifying Incorrect Annotations in
    Multi-Label Classification Data", 2022. Raises ValueError or TypeError for arguments that do not
    fit.

    >>> labels = [[1, 0], [1, 1], [0, 1], [0, 0], [1, 0]]
    >>> probs = [[.9, .2], [.8, .7], [.1, .9], [.2, .1], [.9, .95]]
    >>> df = find_multilabel_issues(labels, probs, vocab=['cat', 'dog'])
    >>> df[['given', 'predicted', 'worst_class', 'is_issue']].head(1).to_dict('index')
    {4: {'given': ('cat',), 'predicted': ('cat', 'dog'), 'worst_class': 'dog', 'is_issue': True}}
    """
    labels, pred_probs = _check_multilabel(labels, pred_probs, vocab)
    column = id_column(ids, len(labels))
    flagged = _class_issues(labels, pred_probs, filter_by, **kwargs)
    own = score if isinstance(score, str) else 'self_confidence'
    quality = _class_quality(labels, pred_probs, own)

    def named(o):
        return _moving_average(quality if o == own else _class_quality(labels, pred_probs, o))

    names = names_of(labels.shape[1], vocab)
    worst = quality.argmin(1)
    p = pred_probs[np.arange(len(labels)), worst]
    return worst_first(pd.DataFrame({
        'id': as_is(column), 'given': _tuples(names, labels),
        'predicted': _tuples(names, pred_probs >= threshold), 'confidence': np.maximum(p, 1 - p),
        'label_quality': any_score(score, named, labels, pred_probs), 'is_issue': flagged.any(1),
        'worst_class': as_is(names[worst]), 'n_classes_flagged': flagged.sum(1)}))


def find_class_issues(
    labels: Any,  # Given labels (n, c): 1 or True if the item has the class, else 0
    pred_probs: Any,  # Probabilities (n, c) of each class, 0 to 1
    filter_by: str = 'prune_by_noise_rate',  # Which classes of an item are issues: one of `FILTERS`
    score: str = 'self_confidence',  # Ranks the rows: one of `SCORES`
    *,
    ids: Sequence | None = None,  # Stable names of the items (n,); None: their positions
    vocab: Sequence | None = None,  # Names of the c classes; None: their indices
    only_issues: bool = True,  # Leave out what is not flagged; False: n*c rows
    **kwargs,  # cleanlab's `frac_noise`, `num_to_remove_per_class`, `min_examples_per_class`
) -> pd.DataFrame:  # Columns id, class, given, probability, label_quality, is_issue
    """Which classes of which items are wrong: one row per item and class, the likeliest wrong
    first, indexed by the item's position (an item with several flagged classes has several rows).
    `given` says whether the item was given the class, `probability` how likely it has it. Method
    and errors are those of `find_multilabel_issues`."""
    labels, pred_probs = _check_multilabel(labels, pred_probs, vocab)
    column = id_column(ids, len(labels))
    flagged = _class_issues(labels, pred_probs, filter_by, **kwargs)
    quality = _class_quality(labels, pred_probs, score)

    keep = np.flatnonzero(flagged) if only_issues else np.arange(labels.size)
    item, k = np.divmod(keep, labels.shape[1])
    df = pd.DataFrame({
        'id': as_is(column[item]), 'class': as_is(names_of(labels.shape[1], vocab)[k]),
        'given': labels.ravel()[keep], 'probability': pred_probs.ravel()[keep],
        'label_quality': quality.ravel()[keep], 'is_issue': flagged.ravel()[keep]})
    return worst_first(df.set_axis(item))


def _class_issues(labels, pred_probs, filter_by, frac_noise=1., num_to_remove_per_class=None,
                  min_examples_per_class=1):
    "Which classes of which items (n, c) are flagged"
    check_choice('filter_by', filter_by, FILTERS)
    c = labels.shape[1]
    remove = num_to_remove_per_class
    if remove is not None and len(remove) != c:
        raise ValueError(f"num_to_remove_per_class has {len(remove)} numbers for {c} classes: pass "
                         "one per class")

    flagged = np.zeros(labels.shape, dtype=bool)
    # cleanlab raises for a class that no item has, or that all have; and it would fork `n_jobs`
    # processes, with no limit
    both = np.flatnonzero(labels.any(0) & ~labels.all(0))
    if len(both):
        flagged[:, both] = find_multilabel_issues_per_class(
            [np.flatnonzero(row).tolist() for row in labels[:, both]], pred_probs[:, both],
            filter_by=filter_by, frac_noise=frac_noise,
            num_to_remove_per_class=None if remove is None else [remove[i] for i in both],
            min_examples_per_class=min_examples_per_class, n_jobs=1, verbose=False)
    return flagged


def _class_quality(labels, pred_probs, score):
    "Quality (n, c) of each class of each item"
    check_choice('score', score, SCORES)
    columns = [get_label_quality_scores(y.astype(int), np.stack([1 - p, p], 1), method=score)
               for y, p in zip(labels.T, pred_probs.T)]
    return np.stack(columns, 1).astype(float)


def _moving_average(quality, alpha=.8):
    "cleanlab's aggregate: from best class to worst, each weighs `alpha`, those before it the rest"
    best_first = -np.sort(-quality, 1)
    total = best_first[:, 0]
    for q in best_first.T[1:]: total = alpha*q + (1 - alpha)*total
    return total


def _tuples(names, mask): return objects(tuple(names[row].tolist()) for row in mask)


def _check_multilabel(labels, pred_probs, vocab):
    labels = check_numbers('labels', labels, (2,))
    probs = check_numbers('pred_probs', pred_probs, (2,))
    if labels.shape != probs.shape:
        raise ValueError(f"labels has shape {labels.shape}, but pred_probs has {probs.shape}: pass "
                         "(items, classes) for both, 1 if the item has the class")
    bad = ((labels != 0) & (labels != 1)).any(1)
    if bad.any():
        raise ValueError(f"labels has {bad.sum()} rows with values other than 0 and 1, first row "
                         f"{bad.argmax()}: pass 1 if the item has the class, else 0")
    bad = ((probs < 0) | (probs > 1)).any(1)
    if bad.any():
        row = bad.argmax()
        raise ValueError(f"pred_probs has {bad.sum()} rows outside 0..1, first row {row} with "
                         f"values from {probs[row].min():.4g} to {probs[row].max():.4g}: pass "
                         "probabilities, not logits")
    check_vocab(vocab, probs.shape[1])
    if probs.dtype not in (np.float32, np.float64): probs = probs.astype(np.float32)
    return labels.astype(bool), probs
