"What the user brings, matched to the items of a CleanInterpretation: a DataFrame, and corrections"
from collections.abc import Callable, Hashable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from fastai.data.core import Datasets
from fastai.tabular.core import Tabular
from fastcore.xtras import is_listy

from .._rows import check_same_labels
from .._text import as_text, brief
from ..data.labels import label_column, row_labels
from ..data.show import own_frame

if TYPE_CHECKING:
    from .base import CleanInterpretation

_ANEW = "give each row its own, for example with df.reset_index(drop=True) before training"


def rows(
    interp: 'CleanInterpretation',
    df: pd.DataFrame,  # The DataFrame that the Learner was made from, in any order
    column: Hashable | None = None,  # Its column of labels; None: as the Learner read them
) -> pd.DataFrame:  # One row per row of `issues`
    """The user's rows in the order of `issues`, found by their row labels: the index of `issues` is
    the position in the data set, not in `df`.

    Raises TypeError if the data set was not made from a DataFrame, and ValueError if row labels
    are missing or appear twice, or if `df` has other labels than the data set, as a frame has that
    was shuffled and numbered anew. If the Learner's own way to a label fails on `df`, as without
    that column, labels are not compared."""
    ds = interp.dl.dataset
    index = row_labels(ds)
    if not isinstance(df, pd.DataFrame):
        raise TypeError(f"df is a {type(df).__name__}: pass the DataFrame that the Learner was "
                        "made from")
    if index is None:
        raise TypeError("the Learner was not made from a DataFrame, so df has no rows of its "
                        "items: `ids` name them")
    for name, found in (('df', df.index), ('the data set', index)):
        if not found.is_unique:
            twice = found[found.duplicated()][0]
            raise ValueError(f"the row label {brief(twice)} appears twice in {name}: {_ANEW}")
    if column is not None and (k := list(df.columns).count(column)) != 1:
        raise ValueError(f"column is {column!r}, but df has {k or 'no'} columns of that name: name "
                         "the one that holds the labels")

    at = df.index.get_indexer(index[interp.issues.index])
    if (lost := at < 0).any():
        first = index[interp.issues.index][lost.argmax()]
        raise ValueError(f"df lacks {lost.sum()} of the {len(index)} items, first {brief(first)}: "
                         "pass the DataFrame that the Learner was made from")
    res = df.iloc[at]
    theirs = _labels_in(interp, res, column)
    if theirs is not None:
        shown = _shown(interp)
        ours = [shown(interp.given[i]) for i in interp.issues.index]
        ids = [interp.ids[i] for i in interp.issues.index]
        check_same_labels(ids, theirs, ours, 'the data set', 'df',
                          "pass the DataFrame that the Learner was made from, or column= if its "
                          "labels are in another column")
    return res


def _labels_in(interp, df, column):
    "The labels (n,) of the rows of `df`, to be compared as texts; None: they cannot be read"
    ds = interp.dl.dataset
    if column is None and (found := label_column(ds)) in df: column = found
    if column is not None and interp.task == 'classification':
        # 3.0 is 3: pandas makes floats of numbers beside a gap
        names = {o: as_text(o) for o in interp.vocab}
        return [names.get(o, as_text(o)) for o in df[column]]
    if column is not None and interp.task == 'regression' and interp.given.ndim == 1:
        return df[column].astype(np.float32).tolist()
    if not isinstance(ds, Datasets) or interp.task == 'segmentation': return None

    # Functions of the user's read a row however they like: read these as training read its own
    target = ds.tls[ds.n_inp]
    shown = _shown(interp)
    found = [_read(target, df.iloc[i], shown) for i in range(len(df))]
    return None if all(o is None for o in found) else found


def _read(target, row, shown):
    # A label that the vocab lacks raises, and then it is another one
    try: return shown(np.asarray(target.tfms(row)))
    except Exception: return None


def _shown(interp) -> Callable:
    "From a target to what is compared, and shown"
    if interp.task == 'classification': return lambda o: as_text(interp.vocab[int(o)])
    kind = bool if interp.task == 'multilabel' else np.float32
    return lambda o: np.asarray(o).astype(kind).squeeze().tolist()


def corrected(
    interp: 'CleanInterpretation',
    y: np.ndarray,  # Given labels, as `labelled_of` returns them
    corrections: Mapping | pd.Series | pd.DataFrame,  # As for `evaluate`
) -> np.ndarray:  # As `y`
    "`y` with the corrections. Raises TypeError or ValueError for those that fit no item or class"
    if isinstance(corrections, pd.DataFrame): corrections = _by_id(interp, corrections)
    fixed = np.array(y)
    found: dict[int, tuple] = {}
    keys = [key for key, _ in corrections.items()]
    places = _places(interp, corrections, keys)
    for (key, label), i in zip(corrections.items(), places):
        value = _encoded(interp, label)
        if i in found and np.any(found[i][0] != value):
            raise ValueError(f"corrections has two labels for {brief(key)}, "
                             f"{brief(found[i][1])} and {brief(label)}: decide on one")
        found[i] = value, label
        fixed[i] = value
    return fixed


def _by_id(interp, df):
    "The labels of a table such as `session.decisions`, indexed by id"
    if lost := [o for o in ('id', 'label') if o not in df]:
        raise ValueError(f"corrections is a DataFrame without the column {lost[0]!r}: pass the "
                         "columns id and label, as session.decisions has, or a Series of labels")
    if 'action' in df and (n := int((df.action == 'delete').sum())):
        raise ValueError(f"corrections has {n} deleted items, which have no right label: leave "
                         "them out")
    df = df[df.label.notna()]
    if 'given' in df:
        known = {o: i for i, o in enumerate(interp.ids)}
        rows = [o for o in zip(map(as_text, df.id), df.given) if o[0] in known]
        shown = _shown(interp)
        ours = [shown(interp.given[known[o]]) for o, _ in rows]
        check_same_labels([o for o, _ in rows], ours, [o for _, o in rows], 'corrections',
                          'the data set', "pass decisions about this very data set")
    return pd.Series(df.label.tolist(), index=[*map(as_text, df.id)], dtype=object)


def _places(interp, corrections, keys):
    "Position of each of `keys`, which are positions, ids or row labels"
    n = len(interp.given)
    by_id = {o: i for i, o in enumerate(interp.ids)}
    index = row_labels(interp.dl.dataset)
    # pandas means its labels: those of a frame's rows, unless they are said to be positions
    framed = isinstance(corrections, pd.Series) and index is not None
    if framed: framed = corrections.index.name != 'position' and not _all_texts(keys)
    if framed and not index.is_unique:
        raise ValueError(f"the row label {brief(index[index.duplicated()][0])} appears twice in "
                         "the data set: pass a dict, position -> label")
    by_label = {o: i for i, o in enumerate(index)} if framed else {}
    res = [_place(o, n, by_label if framed else None, by_id) for o in keys]
    if None in res:
        key = keys[res.index(None)]
        raise ValueError(f"corrections has the position {brief(key)}, which is none of the items: "
                         f"pass positions 0..{n - 1} or texts of `ids`, or a Series indexed by the "
                         "row labels of the DataFrame that the items come from")
    # `issues` is indexed by position: a Series made from it may have lost the name of its index
    other = [_place(o, n, None, by_id) for o in keys]
    if framed and None not in other and other != res:
        i = next(i for i, (a, b) in enumerate(zip(res, other)) if a != b)
        raise ValueError(f"corrections has {brief(keys[i])}, which is the row label of one item "
                         "and the position of another: pass ids as texts, or a dict, position -> "
                         "label")
    return res


def _all_texts(keys): return all(isinstance(o, str) for o in keys)


def _place(key, n, by_label, by_id):
    if isinstance(key, str) and key in by_id: return by_id[key]
    if by_label is not None: return by_label.get(key)
    whole = isinstance(key, (int, np.integer)) and not isinstance(key, bool)
    return int(key) if whole and 0 <= key < n else None


def _encoded(interp, label):
    "A label of `corrections` as `given` holds it"
    if interp.task == 'regression':
        try: value = np.asarray(label, dtype=float)
        except (TypeError, ValueError): value = np.array(np.nan)
        if not np.isfinite(value).all():
            raise ValueError(f"corrections has the label {brief(label)}: pass finite numbers")
        return value
    if interp.task == 'multilabel':
        names = label.split(';') if isinstance(label, str) else label
        if not (is_listy(names) or isinstance(names, (set, tuple))): names = [names]
        names = [o for o in names if o != '']
        for o in names: _check_known(interp, o)
        return np.array([o in names for o in interp.vocab])
    if interp.task != 'classification':
        raise TypeError(f"corrections of {interp.task} labels are not supported: leave them out")
    _check_known(interp, label)
    return list(interp.vocab).index(label)


def _check_known(interp, label):
    if label not in interp.vocab:
        raise ValueError(f"corrections has the label {label!r}, which is not in the vocab: pass "
                         "one of its names")


def own_rows(
    interp: 'CleanInterpretation',
) -> pd.DataFrame | None:  # In the order of `issues`; None: the items are not rows, or were changed
    "The user's rows without their labels, if the data set has them as they were"
    ds = interp.dl.dataset
    items = own_frame(ds)
    if items is None: return None
    # A table's columns were encoded in place
    changed = {*ds.all_col_names} if isinstance(ds, Tabular) else {label_column(ds)}
    return items.iloc[interp.issues.index].drop(columns=[o for o in items if o in changed])
