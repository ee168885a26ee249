"Rows of two tables: brought into one order by name, and refused where their labels contradict"
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ._text import as_text, brief


def as_series(
    values: Any,  # A DataFrame of one column; anything else is returned as it is
) -> Any:
    "The one column: it is as good as a Series"
    one = isinstance(values, pd.DataFrame) and values.shape[1] == 1
    return values.iloc[:, 0] if one else values


def aligned(
    values: Any,  # A Series or DataFrame; anything else is returned as it is
    name: str,  # What the user calls `values`, for the message
    index: pd.Index | Sequence | None = None,  # Row labels (n,) of the items; None: positions
    ids: Sequence[str] | None = None,  # Ids (n,), which may be row labels of `values` too
) -> Any:  # A Series or DataFrame in the order of the items
    """`values` with its rows in the order of the items, by its own index.

    The index of `values` holds either the row labels of the items or their ids, in any order and
    others too, or it is the default one, 0..n-1, for items that have no row labels of their own; an
    index named `position`, as that of an issue table, holds positions. Raises ValueError if a label
    is there twice, unless both indices are the same; if items are missing from it; and if it can
    be read in two ways that differ: as positions and as the ids, or as the labels of a shuffled
    frame and as those that pandas gives to rows that were made from an array."""
    if not isinstance(values, (pd.Series, pd.DataFrame)): return values
    items = ids if index is None else index
    n = len(values) if items is None else len(items)
    if values.index.name == 'position' and getattr(index, 'name', None) != 'position':
        index = pd.RangeIndex(n)
        ids = None
    if index is not None: index = pd.Index(index)
    # Labels that appear twice are in order if they are so on both sides
    if index is not None and values.index.equals(index): return values

    _check_unique(values.index, name)
    found = None if index is None else _found(values.index, index)
    if index is not None and found is not None and _is_new(values.index) and len(values) == n:
        raise ValueError(f"the index of {name} is that of new rows, 0..{n - 1}, while the items "
                         f"have the same numbers in another order, first {brief(index[0])}: pass "
                         f"{name} as an array if it is in the order of the items, or its .loc of "
                         "their index if the numbers are its row labels")
    if found is None and index is None and _is_default(values.index) and len(values) == n:
        found = np.arange(n)
    # Only if need be: of the row labels 1 and '1', which are different, the ids are the same
    if ids is not None and (found is None or index is None):
        texts = pd.Index([as_text(o) for o in values.index], dtype=object)
        _check_unique(texts, name)
        by_id = _found(texts, ids)
        if found is not None and by_id is not None and (found != by_id).any():
            raise ValueError(f"the index of {name} can be read as positions and as ids, which "
                             f"differ: pass {name} as an array in the order of the items")
        if found is None: found = by_id
    if found is None:
        wanted = pd.Index(range(n) if items is None else items)
        lost = wanted[values.index.get_indexer(wanted) < 0]
        first = f', first {brief(lost[0])}' if len(lost) else ''
        raise ValueError(f"{name} has an index that does not fit: {len(lost)} of {n} items are "
                         f"missing from it{first}, while it has "
                         f"{brief(next(iter(values.index), ''))}; give it the row labels of the "
                         "items, or pass an array in their order")
    return values.iloc[found]


def _found(index, wanted):
    "Positions in `index` of every one of `wanted`, or None if it does not have them all"
    found = index.get_indexer(pd.Index(wanted))
    return None if (found < 0).any() else found


def _check_unique(index, name):
    # Of a label that is there twice, nobody can say which row is meant
    if index.is_unique: return
    twice = index[index.duplicated()][0]
    raise ValueError(f"the index of {name} has {brief(twice)} twice: give each row its own "
                     "label, or pass an array in the order of the items")


def _is_new(index): return isinstance(index, pd.RangeIndex) and _is_default(index)


def _is_default(index):
    return pd.api.types.is_integer_dtype(index) and (index == np.arange(len(index))).all()


def check_same_labels(
    ids: Sequence[str],  # Ids (n,) of the items that both tables have
    ours: Sequence,  # Labels (n,) of the user's data
    theirs: Sequence,  # Labels (n,) that the other table was made with
    what: str,  # What the other table is called, for the message
    data: str,  # What the user's data is called, for the message
    advice: str,  # What to do, for the message
) -> None:
    """Raise ValueError if an item has other labels in two tables: it is then not the same item, or
    its label was changed since. Labels are compared as texts."""
    differ = [i for i, (a, b) in enumerate(zip(ours, theirs)) if as_text(a) != as_text(b)]
    if not differ: return
    i = differ[0]
    raise ValueError(f"{what} has another label for {len(differ)} of {len(ids)} items than {data}, "
                     f"first {brief(ids[i])}: {brief(theirs[i])} instead of {brief(ours[i])}; "
                     f"{advice}")
