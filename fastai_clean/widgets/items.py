"What is shown of an item, as text or a picture"
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from .._images import Unreadable, thumbnail
from .._text import neutral

MAX_TEXT, MAX_REASON, MAX_NAME, SIZE = 4000, 300, 120, 176


def shower(
    show,  # As for `Cleaner`
    sets=(),  # Names of the sets of the review
):
    """A function of a row of `session.issues` (a Series) that gives an array (h, w[, 3]), a text or an `Unreadable`.

    A CleanInterpretation (anything with `shown` and `items`) shows its item of the row's name; a dict has one for each
    set. None shows the row's `text`, or the image file that `path`, else `item`, names, upright as its EXIF data say.
    Raises ValueError where it cannot be told which set is shown."""
    if show is None: return _from_table
    if isinstance(show, dict):
        if lacking := [o for o in sets if o not in map(str, show)]:
            raise ValueError(f"show has nothing for the set {lacking[0]!r}: give one for each of {', '.join(sets)}")
        shows = {str(k): shower(o) for k, o in show.items()}
        return lambda row: shows[str(row['set'])](row)
    if not hasattr(show, 'shown'): return show
    if len(sets) > 1:
        raise ValueError(f"show is one {type(show).__name__}, but the review has the sets {', '.join(sets)}: give a "
                         "dict of set -> interpretation, for items of different sets may have the same name")
    where = {str(o): i for i, o in enumerate(show.ids)}
    return lambda row: show.shown(where[str(row['item'])])


def picture(
    show,  # What `shower` gives
    row,  # A row of `session.issues`
) -> tuple[str, str, bytes, str, int]:  # Kind: image, text or missing; text or reason; thumbnail, MIME type, width
    "An item as a page can show it. What the loading of an item raises is its reason to be missing."
    try:
        shown = show(row)
        if isinstance(shown, Unreadable): return 'missing', plain(shown, MAX_REASON), b'', '', 0
        if isinstance(shown, str): return 'text', plain(shown, MAX_TEXT), b'', '', 0
        data, mime, width, _ = thumbnail(shown, SIZE)
        return 'image', '', data, mime, width
    except Exception as e:  # noqa: BLE001  a person's loading code may raise anything; the reason is shown
        return 'missing', plain(f'{type(e).__name__}: {e}', MAX_REASON), b'', '', 0


def plain(
    text,  # Anything; its `str` is taken
    n=MAX_NAME,  # Characters at most
) -> str:
    "`text` as it may be shown and sent: nothing that reorders or hides what follows, nothing that UTF-8 cannot hold"
    return neutral(str(text), n)


def name_of(label):
    "A label, or the labels of an item of several, as shown"
    name = '; '.join(map(str, label)) if isinstance(label, (tuple, list)) else str(label)
    return plain(name) if name.strip() else '(empty)'


def _from_table(row):
    if isinstance(row.get('text'), str): return row['text']
    path = Path(str(row['path'] if 'path' in row else row['item']))
    if not path.is_file(): return Unreadable(f'{path} is no file here: pass Cleaner(session, show=...)')
    with Image.open(path) as im:
        im.draft('RGB', (2*SIZE, 2*SIZE))
        im = ImageOps.exif_transpose(im)
        return np.asarray(im if im.mode[0] in 'IF' else im.convert('RGB'))
