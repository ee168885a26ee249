"The rows of the user's data that the items of a review are: by id and label, and by what they hold"
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from math import lgamma, log
from typing import Any, NamedTuple
from warnings import warn

import numpy as np
import pandas as pd

from .._columns import objects
from .._text import as_text, brief


class Item(NamedTuple):
    "An item of the issue table, and what was decided on it"
    given: str  # Text of its given class
    action: str | None = None  # As in `ReviewSession.state`
    label: str | None = None  # Text of the class that it gets

    @property
    def change(self) -> str | bool | None:
        "What applying does to its row: gives it this class, deletes it (True), or nothing (None)"
        if self.action == 'delete': return True
        return None if self.label == self.given else self.label


def rows_of(
    items: dict[str, Item],  # By id
    names: Sequence[str | None],  # Ids (n,) of the rows of the data; None: missing
    labels: Sequence[str],  # Texts of their classes
    what: str,  # What messages call the data
    ours: pd.DataFrame | None = None,  # The items' own rows, in the order of `items`
    theirs: pd.DataFrame | None = None,  # The rows (n,) of the data
) -> dict[str, int]:  # Id -> number of its row; deleted items may be missing
    """The row of every item: that with its id, if all have the label that the item was given or
    gets, and hold what they held when they were reviewed, as far as the two frames have the same
    columns. Otherwise, as after a shuffle with a new index, the row with the same content and
    label, with a warning. Raises ValueError if neither is to be had."""
    columns = _common(ours, theirs)
    try:
        at = _by_id(items, names, labels, what)
        if columns: _check_content(items, at, labels, what, ours, theirs, columns)
    except ValueError:
        at = _by_content(items, labels, _keys(ours, columns), _keys(theirs, columns))
        if not columns or at is None: raise
    else:
        if columns: _check_gone(items, at, labels, what, ours, theirs, columns)
        return at
    shown = ', '.join(map(brief, columns[:4]))
    warn(f"{what} has other ids than the issue table: the rows of {len(at)} items were found by "
         f"what they hold, in {shown}", stacklevel=5)
    return at


def _by_id(items, names, labels, what):
    at = {}
    for i, name in enumerate(names):
        if name in at:
            raise ValueError(f"{what} has the item {brief(name)} twice: give each item its own "
                             "id")
        if name in items: at[name] = i
    # Deleted items may be missing: the result of an earlier call is still the same data
    gone = [o for o, item in items.items() if o not in at and item.action != 'delete']
    see = 'id_column=' if what == 'df' else 'set='
    if gone or (not at and len(names)):
        gone = gone or list(items)
        raise ValueError(f"{len(gone)} of {len(items)} items of the issue table are not in {what}, "
                         f"first {brief(gone[0])}; it has {brief(next(iter(names), ''))}: pass the "
                         f"data that the table was made from (see {see})")
    nameless = len(names) - len({*names} - {None})
    if len(at) < len(items) and nameless:
        raise ValueError(f"{what} has {nameless} rows without an id of their own, which may be the "
                         f"{len(items) - len(at)} deleted items that are not in it: give each row "
                         f"its id (see {see})")

    # All of them, decided or not: a frame that was indexed anew has the same ids on other rows
    differ = [o for o, i in at.items() if labels[i] not in (items[o].given, items[o].label)]
    if differ:
        name = differ[0]
        raise ValueError(f"{what} gives {len(differ)} of {len(at)} items another label than the "
                         f"issue table, first {brief(name)} {brief(labels[at[name]])} instead of "
                         f"{brief(items[name].given)}: pass the data that the table was made from, "
                         "with the same ids")
    return at


def _check_content(items, at, labels, what, ours, theirs, columns):
    """Raise ValueError if the rows that the ids name hold what other rows held: labels that agree
    may do so by chance. Columns that were edited since are no reason."""
    place = {o: i for i, o in enumerate(items)}
    mine = np.array([place[o] for o in at], dtype=int)
    there = np.array([*at.values()], dtype=int)
    changed = np.array([items[o].change is not None for o in at], dtype=bool)
    same = []
    moved = {}
    for name in columns:
        a = ours[name].iloc[mine]
        b = theirs[name]
        # Of one type and equal, as nearly always: no text need be made of them
        if not a.reset_index(drop=True).equals(b.iloc[there].reset_index(drop=True)):
            a = said(a)
            b = said(b)
            differ = a != b[there]
            if differ.any(): moved[name] = a, b, differ
        if name not in moved: same.append(name)
    if not moved: return

    # A copy of the ids says no more than they do
    names = said(pd.Series([*at], dtype=object))
    same = [o for o in same if (said(ours[o].iloc[mine]) != names).any()]
    # What the ids say is borne out by columns that tell the changed rows from all others
    known = _by_content(items, labels, _keys(ours, same), _keys(theirs, same)) is not None
    alone = not known and not _telling([items[o].given for o in at])
    for name in moved:
        a, b, differ = moved[name]
        values = {*b}
        elsewhere = 2*sum(o in values for o in a[differ]) >= differ.sum()
        # Few values are in other rows anyway, and mean nothing if others tell the rows apart
        telling = 2*len({*a}) > len(a) or not known
        if elsewhere and telling or alone: break
        # A column that most rows have as it was was not edited: this row is another one
        if not known and 2*differ.sum() < len(a) and (differ & changed).any(): break
    else: return
    i = differ.argmax()
    raise ValueError(f"{what} has other values in {brief(name)} for {differ.sum()} of {len(at)} "
                     f"items than the data that were reviewed, first {brief(names[i])}: "
                     f"{brief(b[there[i]])} instead of {brief(a[i])}; pass those data with the ids "
                     "that they had, or without that column if it was edited since")


def _check_gone(items, at, labels, what, ours, theirs, columns):
    "Raise ValueError if deleted items seem to be there, under other ids"
    if len(at) == len(items): return
    mine = dict(zip(items, _keys(ours, columns)))
    count = Counter(mine.values())
    taken = {*at.values()}
    free = Counter(o for i, o in enumerate(zip(_keys(theirs, columns), labels)) if i not in taken)
    gone = [o for o in items if o not in at]
    found = [o for o in gone if count[mine[o]] == 1 == free[mine[o], items[o].given]]
    # Of many, one or the other may have a copy that is no item
    if found and 2*len(found) >= len(gone):
        raise ValueError(f"{what} lacks {len(gone)} deleted items, but has rows that hold what "
                         f"{len(found)} of them hold, first {brief(found[0])}: pass the data with "
                         "the ids that they had, or drop those rows")


def _telling(labels):
    "Whether few rows in another order, one in a million, would have the same labels"
    orders = lgamma(len(labels) + 1) - sum(lgamma(n + 1) for n in Counter(labels).values())
    return orders > log(1e6)


def _by_content(items, labels, ours, theirs):
    """Id -> row by keys of what items and rows hold, or None if rows are missing or cannot be told
    apart: copies may be confused if they have the same label and the same is done to them"""
    if not ours and not theirs: return None
    rows: dict[Any, list[int]] = {}
    for i, key in enumerate(theirs): rows.setdefault(key, []).append(i)
    alike: dict[Any, list[str]] = {}
    for name, key in zip(items, ours): alike.setdefault(key, []).append(name)

    at: dict[str, int] = {}
    for key, names in alike.items():
        there = rows.get(key, [])
        known = {items[o].given for o in names}
        made = {items[o].change for o in names} - {None}
        if not there and made == {True} and all(items[o].change for o in names): continue
        # One of them is no item, or one has the label that another had: nobody can say which
        if made and (len(there) != len(names) or len(known) > 1 and made & known): return None
        for given in known:
            mine = [o for o in names if items[o].given == given]
            changes = {items[o].change for o in mine}
            change = next(iter(changes))
            fits = {given, change} if len(known) == 1 else {given}
            found = [i for i in there if labels[i] in fits]
            if len(changes) > 1 or len(found) < len(mine): return None
            at.update(zip(mine, found))
    deleted = [o in at for o, item in items.items() if item.action == 'delete']
    # All, or none if they were deleted before; what is left of them may be copies of theirs
    return at if all(deleted) or not any(deleted) else None


def _common(ours, theirs):
    "Columns that both frames have once, as the user had them"
    if ours is None or theirs is None: return []
    counts = Counter(ours), Counter(theirs)
    once = [o for o in ours if counts[0][o] == 1 == counts[1][o]]
    # Tokens and the like are not what the user's frame has
    return [o for o in once if ours[o].dtype != object or not ours[o].map(_is_made).any()]


def _is_made(o): return hasattr(o, '__len__') and not isinstance(o, (str, bytes))


def _keys(df, columns: Iterable[Hashable]):
    "What each row of `df` holds in `columns`, as something that can be looked up"
    columns = list(columns)
    if df is None: return []
    return list(zip(*(said(df[o]) for o in columns))) if columns else [()]*len(df)


def said(
    column: pd.Series,
) -> np.ndarray:  # (n,) texts
    """What the values say, whatever their type is: 1, 1.0 and '1' are the same, as are gaps and ''.
    A CSV and a change of type leave it as it was."""
    return objects(map(_said, column))


def class_text(
    o,  # A label in the user's data
    classes: dict[str, Any],  # Text of a class -> the class
) -> str:
    "Its text: 3.0 is the class 3, since pandas makes floats of whole numbers beside a gap"
    text = as_text(o)
    return text if text in classes or not isinstance(o, (float, np.floating)) else _said(o)


def _said(o):
    if isinstance(o, (bool, np.bool_)): return str(o)
    if isinstance(o, str) and not (o[:1].isdigit() or o[:1] in ('-', '.', '+')): return o
    try: number = float(o)
    except (TypeError, ValueError, OverflowError):
        missing = o is None or o is pd.NA or o is pd.NaT
        return '' if missing else as_text(o)
    if number != number: return ''
    if isinstance(o, int): return str(o)
    if number.is_integer(): return as_text(int(o) if str(o).isdecimal() else int(number))
    # Numbers that are the same in 32 and in 64 bits, and after a CSV
    return f'{number:.6g}'
