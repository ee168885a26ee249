"Several classes per item: the issue table of the items, and that of their classes"
import warnings
from collections.abc import Hashable, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import pandas as pd
from cleanlab.multilabel_classification.filter import find_multilabel_issues_per_class
from cleanlab.rank import get_label_quality_scores

from .._columns import objects
from .._text import brief
from .checks import by_column, check_remove, check_vocab, lined_up, of_classes, two_readings
from .columns import (
    Score,
    any_score,
    as_is,
    check_choice,
    check_numbers,
    id_column,
    index_of,
    names_of,
    score_of,
    warn_of_twins,
    worst_first,
)
from .confident import FILTERS, PRUNE, SCORES, StreamedIssues


def find_multilabel_issues(
    labels: Any,  # Given labels (n, c): 1 if the item has the class; or a list of classes per item
    pred_probs: Any,  # Probabilities (n, c) of each class, 0 to 1; rows need not sum to 1
    filter_by: str = 'auto',  # Which classes of an item are issues: one of `FILTERS`
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
    worst; an item is an issue if any class is flagged: every class is filtered as a question of its
    own, has it or not, by 'auto' (see `find_issues`) or by one of cleanlab's. (For the two `low_`
    filters cleanlab itself would flag as many items, but those of lowest `label_quality`.) A class
    given to no item or to all of them cannot be flagged.

    Instead of rows of 0 and 1, `labels` may be a list of classes per item, `[[0], [1, 2], []]`, by
    index or by name, or texts such as 'b;c' or 'b c'; lists that all hold c values of 0 and 1 are
    rows. A DataFrame is brought into the order of the index of `labels` and of `vocab`.

    Method: Thyagarajan et al., "Identifying Incorrect Annotations in Multi-Label Classification
    Data", 2022. Raises ValueError or TypeError for arguments that do not fit.

    >>> labels = [[1, 0], [1, 1], [0, 1], [0, 0], [1, 0]]
    >>> probs = [[.9, .2], [.8, .7], [.1, .9], [.2, .1], [.9, .95]]
    >>> df = find_multilabel_issues(labels, probs, vocab=['cat', 'dog'])
    >>> df[['given', 'predicted', 'worst_class', 'is_issue']].head(1).to_dict('index')
    {4: {'given': ('cat',), 'predicted': ('cat', 'dog'), 'worst_class': 'dog', 'is_issue': True}}
    """
    index = index_of(labels, pred_probs)
    score = score_of(score, labels, pred_probs)
    labels, pred_probs, vocab = check_multilabel(labels, pred_probs, vocab)
    column = id_column(ids, len(labels), index)
    flagged = _class_issues(labels, pred_probs, filter_by, vocab, **kwargs)
    own = score if isinstance(score, str) else 'self_confidence'
    quality = _class_quality(labels, pred_probs, own)

    def named(o):
        return _moving_average(quality if o == own else _class_quality(labels, pred_probs, o))

    warn_of_twins(vocab)
    names = names_of(labels.shape[1], vocab)
    worst = quality.argmin(1)
    p = pred_probs[np.arange(len(labels)), worst]
    return worst_first(pd.DataFrame({
        'id': as_is(column), 'given': _tuples(names, labels),
        'predicted': _tuples(names, pred_probs >= threshold), 'confidence': np.maximum(p, 1 - p),
        'label_quality': any_score(score, named, labels, pred_probs), 'is_issue': flagged.any(1),
        'worst_class': as_is(names[worst]), 'n_classes_flagged': flagged.sum(1)}))


def find_class_issues(
    labels: Any,  # Given labels (n, c): 1 if the item has the class; or a list of classes per item
    pred_probs: Any,  # Probabilities (n, c) of each class, 0 to 1
    filter_by: str = 'auto',  # Which classes of an item are issues: one of `FILTERS`
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
    index = index_of(labels, pred_probs)
    labels, pred_probs, vocab = check_multilabel(labels, pred_probs, vocab)
    column = id_column(ids, len(labels), index)
    flagged = _class_issues(labels, pred_probs, filter_by, vocab, **kwargs)
    quality = _class_quality(labels, pred_probs, score)

    keep = np.flatnonzero(flagged) if only_issues else np.arange(labels.size)
    item, k = np.divmod(keep, labels.shape[1])
    df = pd.DataFrame({
        'id': as_is(column[item]), 'class': as_is(names_of(labels.shape[1], vocab)[k]),
        'given': labels.ravel()[keep], 'probability': pred_probs.ravel()[keep],
        'label_quality': quality.ravel()[keep], 'is_issue': flagged.ravel()[keep]})
    return worst_first(df.set_axis(item))


def _class_issues(labels, pred_probs, filter_by, vocab, frac_noise=1.,
                  num_to_remove_per_class=None, min_examples_per_class=1):
    "Which classes of which items (n, c) are flagged"
    check_choice('filter_by', filter_by, FILTERS)
    c = labels.shape[1]
    remove = of_classes(num_to_remove_per_class, vocab)
    if remove is not None and len(remove) != c:
        raise ValueError(f"num_to_remove_per_class has {len(remove)} numbers for {c} classes: pass "
                         "one per class")
    if remove is not None: remove = check_remove(remove, c)

    flagged = np.zeros(labels.shape, dtype=bool)
    # cleanlab raises for a class that no item has, or that all have; and it would fork `n_jobs`
    # processes, with no limit
    both = np.flatnonzero(labels.any(0) & ~labels.all(0))
    if not len(both): return flagged
    lists = [np.flatnonzero(row).tolist() for row in labels[:, both]]
    with warnings.catch_warnings():
        # One for each of hundreds of classes
        warnings.filterwarnings('ignore', 'May not flag all label issues in class')
        if filter_by == 'auto':
            warnings.filterwarnings('ignore', '.* of 2 classes, first')
            for k in both:
                # As cleanlab does: only items that were not given the class are counted off
                num = None if remove is None else [remove[k], 0]
                binary = np.stack([1 - pred_probs[:, k], pred_probs[:, k]], 1)
                flagged[:, k] = StreamedIssues(labels[:, k].astype(int), binary).mask(
                    'auto', frac_noise, num, min_examples_per_class)
        else:
            flagged[:, both] = find_multilabel_issues_per_class(
                lists, pred_probs[:, both], filter_by=filter_by, frac_noise=frac_noise,
                num_to_remove_per_class=None if remove is None else [remove[i] for i in both],
                min_examples_per_class=min_examples_per_class, n_jobs=1, verbose=False)

    given = labels[:, both].sum(0)
    few = both[np.minimum(given, len(labels) - given) <= min_examples_per_class]
    if filter_by in PRUNE and len(few):
        warnings.warn(f"{len(few)} of {c} classes, first {brief(names_of(c, vocab)[few[0]])}, are "
                      f"given to, or not given to, at most min_examples_per_class="
                      f"{min_examples_per_class} items: not all of their wrong labels are flagged",
                      stacklevel=3)
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


def check_multilabel(
    labels: Any,  # As `find_multilabel_issues` takes them, as is the next
    pred_probs: Any,
    vocab: Sequence | None,  # Names of the c classes, or None
) -> tuple[np.ndarray, np.ndarray, Sequence | None]:  # Booleans (n, c), floats (n, c), vocab
    "Labels, probabilities and vocab in one order; raises as `find_multilabel_issues` does"
    labels, pred_probs, vocab = lined_up(labels, pred_probs, vocab)
    if isinstance(labels, pd.DataFrame) and labels.shape[1] > 1:
        labels = by_column(labels, 'labels', vocab)
    probs = check_numbers('pred_probs', pred_probs, (2,))
    labels = check_numbers('labels', indicators(labels, probs.shape[1], vocab), (2,))
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
    return labels.astype(bool), probs, vocab


def indicators(
    labels: Any,  # As `find_multilabel_issues` takes them
    c: int,  # Number of classes
    vocab: Sequence | None,  # Their names, or None
) -> Any:
    """Rows (n, c) of booleans for lists of classes, which may be indices, names, or names in one
    text, joined by semicolons or blanks; anything else as it is. Raises ValueError, naming the
    item, for what is none of the classes."""
    if isinstance(labels, pd.DataFrame):
        # One column of lists or of texts is as good as a Series
        if labels.shape[1] != 1 or c == 1 or labels.dtypes.iloc[0].kind in 'fiub': return labels
        labels = labels.iloc[:, 0]
    if hasattr(labels, 'detach') or not np.iterable(labels): return labels
    if isinstance(labels, np.ndarray) and labels.ndim != 1: return labels
    rows = [o.tolist() if hasattr(o, 'tolist') else o for o in labels]
    if not any(map(_is_row, rows)): return labels
    # A matrix, such as [[0, 1], [1, 0]]: rows of c values that are 0 or 1
    if all(_is_row(o) and len(o) == c and all(k in (0, 1) for k in o) for o in rows): return rows

    check_vocab(vocab, c)
    at = {o: k for k, o in enumerate(range(c) if vocab is None else vocab)}
    rows = [_names_in(o, at, i) for i, o in enumerate(rows)]
    _check_no_matrix(rows, c)
    place = _places({o for row in rows for o in row if isinstance(o, Hashable)}, at)
    res = np.zeros((len(rows), c), dtype=bool)
    for i, row in enumerate(rows):
        for o in row:
            k = place.get(_key(o)) if isinstance(o, Hashable) else None
            if k is None:
                raise ValueError(f"labels has {brief(o)} for the item at position {i}, which is "
                                 f"none of the {c} classes: pass names of the vocab, or class "
                                 f"indices 0..{c - 1}")
            res[i, k] = True
    return res


def _check_no_matrix(rows, c):
    "Raise ValueError for rows of 0 and 1 of several lengths: no list of classes is like them"
    twice = [i for i, o in enumerate(rows) if len(o) > 2]
    if twice and all(k in (0, 1) for row in rows for k in row if isinstance(k, Hashable)):
        raise ValueError(f"labels has rows of 0 and 1 of other lengths than {c}, with "
                         f"{brief(rows[twice[0]])} for the item at position {twice[0]}: pass {c} "
                         "values for each item, or a list of its classes")


def _is_row(o): return np.iterable(o) and not isinstance(o, (dict, bytes))


def _names_in(row, at, i):
    "The classes of an item, as they are given"
    if not _is_row(row):
        raise ValueError(f"labels has {brief(row)} for the item at position {i}: pass a list of "
                         "its classes, an empty one if it has none")
    if not isinstance(row, str): return list(row)
    names = [o.strip() for o in row.split(';')]
    if len(names) == 1 and all(o in at for o in row.split()): names = row.split()
    if row not in at or names == [row]: return [o for o in names if o]
    if len(names) > 1 and all(o in at for o in names):
        raise ValueError(f"labels has {brief(row)} for the item at position {i}, which is one "
                         f"class and also {len(names)} that are joined: pass lists of classes")
    return [row]


def _places(labels, at):
    """Position of each of `labels` that is a class. Numbers in the vocab are names; other integers
    are positions. Raises ValueError if they can be both, and mean something else then"""
    whole = {int(o) for o in labels if isinstance(o, Integral) and not isinstance(o, bool)}
    inside = all(0 <= o < len(at) for o in whole)
    named = all(o in at for o in whole)
    differ = [o for o in whole if named and at[o] != o]
    if differ and inside: raise two_readings(differ[0], at)
    place = {_key(o): at[o] for o in at}
    if named or not inside and any(isinstance(o, Real) for o in at): return place
    return place | {_key(o): o for o in whole if 0 <= o < len(at)}


def _key(o):
    # True equals 1, which is another class
    return (isinstance(o, (bool, np.bool_)), o)
