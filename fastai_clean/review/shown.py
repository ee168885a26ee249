"What the card of an item shows: its image, its text, or why it is missing"
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from .._images import Unreadable, open_upright, thumbnail
from .._text import neutral, plain

MAX_TEXT = 4000  # Characters of an item's text
MAX_REASON = 300  # Characters of a note, or of why an item is not shown
SIZE = 176  # Pixels of a thumbnail's longest side


def shower(
    show,  # As for `Page`
    sets=(),  # Names of the sets of the review
) -> Callable[[pd.Series], np.ndarray | str]:
    """A function of a row of `session.issues` that returns an array (h, w[, 3]), a text or an
    `Unreadable`.

    A CleanInterpretation (anything with `shown` and `ids`) shows its item with the row's id; a dict
    has one for each set. None shows the row's `text`, or the image file named by its `path`, else
    by its id, upright as its EXIF data say. Raises ValueError if it is unclear which set is
    shown."""
    if show is None: return _from_table
    if isinstance(show, dict):
        if missing := [o for o in sets if o not in map(str, show)]:
            raise ValueError(f"show has nothing for the set {missing[0]!r}: give one for each of "
                             f"{', '.join(sets)}")
        shows = {str(k): shower(o) for k, o in show.items()}
        return lambda row: shows[str(row['set'])](row)
    if not hasattr(show, 'shown'): return show
    if len(sets) > 1:
        raise ValueError(f"show is one {type(show).__name__}, but the review has the sets "
                         f"{', '.join(sets)}: give a dict of set -> interpretation, since items of "
                         "different sets may have the same id")
    where = {str(o): i for i, o in enumerate(show.ids)}
    return lambda row: show.shown(where[str(row['id'])])


def picture(
    show: Callable[[pd.Series], np.ndarray | str],  # Result of `shower`
    row: pd.Series,  # A row of `session.issues`
) -> tuple[str, str, bytes, str, int]:  # Kind, text or reason, thumbnail, its MIME type and width
    "An item as an image, as text, or missing: what its loading raises is the reason"
    try:
        shown = show(row)
        if isinstance(shown, Unreadable): return 'missing', plain(shown, MAX_REASON), b'', '', 0
        if isinstance(shown, str): return 'text', neutral(shown, MAX_TEXT), b'', '', 0
        data, mime, width, _ = thumbnail(shown, SIZE)
        return 'image', '', data, mime, width
    except Exception as e:  # noqa: BLE001  a user's loading code may raise anything
        return 'missing', plain(f'{type(e).__name__}: {e}', MAX_REASON), b'', '', 0


def _from_table(row):
    if isinstance(row.get('text'), str): return row['text']
    path = Path(str(row['path'] if 'path' in row else row['id']))
    if not path.is_file():
        return Unreadable(f'{path} is not a file here: pass Cleaner(session, show=...)')
    return open_upright(path, SIZE)
