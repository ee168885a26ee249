"What the items of a review hold, in a few bytes each: the evidence that an id still names the same"
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pandas as pd

from .._text import sha1_of
from .match import said

COLUMNS = 4  # Of the user's, those that tell the rows apart best
HEAD = 65536  # Bytes of a file that are read
MOST = 1000  # Items of one action that are read


class Marks:
    """The marks of items: hashes of what their rows have in the columns that tell rows apart, and
    of the file that an item is, its size and its first 64 KiB.

    A decision is kept with the marks of its items. If rows are numbered anew or a folder is renamed
    later, they tell whether an item is the one that was decided on."""

    def __init__(self,
        ids: Sequence[str],  # Ids (n,) of the items
        names: Sequence,  # What each is called in its set: a path, a number
        rows: pd.DataFrame | None = None,  # The items' own rows (n,), if they have any
        root: str | Path | None = None,  # Folder that paths are relative to; None: the working one
    ):
        self.root = Path(root or '.')
        self.names = dict(zip(ids, names))
        self.rows = rows
        self.at = {i: k for k, i in enumerate(ids)}
        self._columns: list | None = None

    def of(self,
        ids: Sequence[str],  # Ids of items
    ) -> list[str | None]:  # None where nothing is known
        "Their marks; of many ids, those of the first thousand only"
        some = ids[:MOST]
        rows = self._of_rows(some)
        files = [self._of_file(i) for i in some]
        marks = [' '.join(filter(None, o)) or None for o in zip(rows, files)]
        return marks + [None]*(len(ids) - len(some))

    def _of_rows(self, ids):
        if self.rows is None: return ['']*len(ids)
        if self._columns is None: self._columns = _telling(self.rows)
        found = self.rows.iloc[[self.at[i] for i in ids]]
        columns = [[f'{sha1_of(name)[:4]}:{sha1_of(o)[:8]}' for o in said(found.iloc[:, k])]
                   for k, name in self._columns]
        return [' '.join(o) for o in zip(*columns)] if columns else ['']*len(ids)

    def _of_file(self, i):
        # A number or a text is no path, and a name may hold what no file system takes
        with suppress(OSError, ValueError):
            path = self.root/str(self.names[i])
            if not os.path.isfile(path): return ''
            with open(path, 'rb') as f: head = f.read(HEAD)
            return f'file:{sha1_of(f"{os.path.getsize(path)} {head.hex()}")[:12]}'
        return ''


def same(
    a: str | None,  # A mark
    b: str | None,  # Another
) -> bool | None:  # None: nothing that both know
    "Whether two marks are of one item: one of their common parts is equal, since some are edited"
    if not isinstance(a, str) or not isinstance(b, str): return None
    x = dict(o.split(':', 1) for o in a.split() if ':' in o)
    y = dict(o.split(':', 1) for o in b.split() if ':' in o)
    common = x.keys() & y.keys()
    return any(x[o] == y[o] for o in common) if common else None


def _telling(rows):
    "Number and name of the columns in which most rows differ"
    found = []
    for k, name in enumerate(rows.columns):
        # Tokens and other lists cannot be counted, and change with the code that makes them
        try: n = rows.iloc[:, k].nunique()
        except TypeError: continue
        if 2*n > len(rows): found.append((-n, k, name))
    return [(k, name) for _, k, name in sorted(found, key=lambda o: o[:2])[:COLUMNS]]
