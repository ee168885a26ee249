"Text and class names as a picture can show them"
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from matplotlib import font_manager as fm
from numpy.typing import ArrayLike

from .._text import shorten

# A label such as `$x$` is data: matplotlib would read it as mathematics and fail on `$\frac{1}{0`
PLAIN: dict[str, Any] = dict(parse_math=False, usetex=False)


def drawable(
    text,  # Anything; its `str` is taken
) -> str:
    """`text` as the font in use can draw it. Format characters, which reorder or join what follows
    them, are left out. Tabs become spaces. Control characters, halves of surrogate pairs and
    characters that the font does not have become a replacement mark."""
    known = _font_characters()
    mark = '\ufffd' if 0xfffd in known else '?'

    def drawn(o):
        if o == '\n': return o
        return o if ord(o) in known and unicodedata.category(o) not in ('Cc', 'Cs') else mark
    text = str(text).replace('\t', ' ')
    return ''.join(drawn(o) for o in text if unicodedata.category(o) != 'Cf')


def class_names(
    vocab: Sequence | None,  # Names of the classes; None: their indices
    c: int,  # Number of classes
    where: str,  # The argument that has `c` classes, for the message
    n: int = 20,  # Most characters of a name
) -> list[str]:  # c names, all different unless they are the same in `vocab`
    """The names to draw. Those that look the same once they are cut get their index. Raises
    ValueError if there are not `c` of them."""
    names = list(range(c) if vocab is None else vocab)
    if len(names) != c:
        raise ValueError(f"vocab has {len(names)} names, but {where} has {c} classes: pass one "
                         "name per class")

    shown = [shorten(drawable(str(o)[:10*n]), n).strip() or '(empty)' for o in names]
    count = Counter(shown)
    return [o if count[o] == 1 else f'{o} #{i}' for i, o in enumerate(shown)]


def first_classes(
    badness: ArrayLike,  # (c,) numbers, the largest for the worst class
    max_classes: int | None,  # Number of classes to keep; None: all
) -> np.ndarray:  # Class indices, the worst first; ties in the order of the classes
    "The classes that a picture has room for. Raises ValueError if max_classes < 1"
    if max_classes is not None and max_classes < 1:
        raise ValueError(f"max_classes is {max_classes}: show at least 1 class, or all with "
                         "max_classes=None")

    return np.argsort(-np.asarray(badness, dtype=float), kind='stable')[:max_classes]


def _font_characters():
    """Code points that have a glyph in the fonts of the default family, in which pictures are
    written"""
    paths = []
    for family in fm.FontProperties().get_family():
        try: paths.append(fm.findfont(fm.FontProperties(family), fallback_to_default=False))
        except ValueError: continue
    return _charmap(tuple(paths) or (fm.findfont(fm.FontProperties()),))


@lru_cache(maxsize=8)
def _charmap(paths):
    return frozenset(code for path in paths for code in fm.get_font(path).get_charmap())
