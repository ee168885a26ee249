"Text and class names as a picture can show them"
import unicodedata
from collections import Counter
from functools import lru_cache

import numpy as np
from matplotlib import font_manager as fm

from .._text import shorten

PLAIN = dict(parse_math=False, usetex=False)


def drawable(
    text,  # Anything; its `str` is taken
) -> str:
    """`text` as the font in use can draw it: without format characters, which turn or join what follows them, tabs as
    spaces, and a replacement mark for control characters, halves of surrogate pairs and what the font lacks."""
    known = _font_characters()
    mark = '\ufffd' if 0xfffd in known else '?'
    text = ''.join(o for o in str(text).replace('\t', ' ') if unicodedata.category(o) != 'Cf')
    return ''.join(o if o == '\n' or ord(o) in known and unicodedata.category(o) not in ('Cc', 'Cs') else mark
                   for o in text)


def class_names(
    vocab,  # Names of the classes, or None: their indices
    c,  # Number of classes
    where,  # What has `c` classes, for the message
    n=20,  # Characters at most of a name
) -> list[str]:  # c names, all different unless they were the same in `vocab`
    "The names to draw; those that look the same once cut get their index. Raises ValueError where there are not `c`."
    vocab = range(c) if vocab is None else list(vocab)
    if len(vocab) != c: raise ValueError(f"vocab has {len(vocab)} names, but {where} has {c} classes: pass one a class")
    names = [shorten(drawable(str(o)[:10*n]), n).strip() or '(empty)' for o in vocab]
    count = Counter(names)
    return [o if count[o] == 1 else f'{o} #{i}' for i, o in enumerate(names)]


def first_classes(
    badness,  # (c,) numbers, the worst class the largest
    max_classes,  # Number of classes to keep; None: all
) -> np.ndarray:  # Class indices, the worst first; ties in the order of the classes
    "The classes a picture has room for. Raises ValueError for max_classes < 1."
    if max_classes is not None and max_classes < 1:
        raise ValueError(f"max_classes is {max_classes}: show at least 1 class, or all with max_classes=None")
    return np.argsort(-np.asarray(badness, dtype=float), kind='stable')[:max_classes]


def _font_characters():
    "Code points that the fonts of the default family, in which pictures are written, have a glyph for"
    paths = []
    for family in fm.FontProperties().get_family():
        try: paths.append(fm.findfont(fm.FontProperties(family), fallback_to_default=False))
        except ValueError: continue
    return _charmap(tuple(paths) or (fm.findfont(fm.FontProperties()),))


@lru_cache(maxsize=8)
def _charmap(paths):
    return frozenset(code for path in paths for code in fm.get_font(path).get_charmap())
