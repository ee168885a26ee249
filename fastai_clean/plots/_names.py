"Text and class names as a picture can show them"
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import Any
from warnings import warn

import numpy as np
from matplotlib import font_manager as fm
from numpy.typing import ArrayLike

from .._text import shorten

# A label such as `$x$` is data: matplotlib would read it as mathematics and fail on `$\frac{1}{0`
PLAIN: dict[str, Any] = dict(parse_math=False, usetex=False)

# Fonts to install, where the name of the script does not give theirs
NOTO = dict.fromkeys(('CJK', 'Hiragana', 'Katakana', 'Hangul', 'Fullwidth', 'Halfwidth',
                      'Ideographic'), 'Noto Sans CJK SC') | {'Emoji': 'Noto Emoji'}
_lacking: ContextVar[set | None] = ContextVar('lacking', default=None)


def drawable(
    text,  # Anything; its `str` is taken
    known: frozenset | None = None,  # Code points that can be drawn; None: look them up
) -> str:
    """`text` as the font in use can draw it. Format characters, which reorder or join what follows
    them, are left out. Tabs become spaces. Control characters, halves of surrogate pairs and
    characters that the font does not have become a replacement mark."""
    text = str(text).replace('\t', ' ')
    if known is None: known = _font_characters()
    # Nearly all text is drawn as it is
    if text.isascii() and text.isprintable(): return text
    mark = '\ufffd' if 0xfffd in known else '?'
    lacking = _lacking.get()

    def drawn(o):
        if o == '\n': return o
        if unicodedata.category(o) in ('Cc', 'Cs'): return mark
        if ord(o) in known: return o
        # A mark without a glyph, such as the selector after an emoji, is no loss by itself
        if lacking is not None and not unicodedata.category(o).startswith('M'): lacking.add(o)
        return mark
    return ''.join(drawn(o) for o in text if unicodedata.category(o) != 'Cf')


@contextmanager
def one_font_warning() -> Iterator[None]:
    """Warn once, at the end, of all that the font in use lacks, and say which to set. Within
    another of these, nothing is said before that one ends."""
    if _lacking.get() is not None:
        yield
        return
    token = _lacking.set(set())
    try: yield
    finally:
        lacking = _lacking.get()
        _lacking.reset(token)
    # In the name of this line: Python shows a warning once per line, so a session has it once
    if lacking: warn(_font_advice(frozenset(lacking)), stacklevel=1)


@lru_cache(maxsize=64)
def _font_advice(lacking):
    shown = sorted(lacking)
    script = _script(shown[0])
    families = fm.FontProperties().get_family()
    fonts = sorted({o.name for o in fm.fontManager.ttflist if _covers(o, lacking)})
    # The plainest is the first: bold and narrow faces have longer names
    best = min(fonts, key=len) if fonts else NOTO.get(script, f'Noto Sans {script}')
    advice = f'set plt.rcParams["font.family"] = {[*families, best]}'
    if not fonts: advice = f'install a font that has them, such as {best}, and {advice}'
    plural = 'characters' if len(shown) > 1 else 'character'
    font = fm.get_font(fm.findfont(fm.FontProperties())).family_name
    return (f"the font {font} lacks {len(shown)} {plural} of the texts, for example "
            f"{shown[0]!r} ({script}), and a mark is drawn instead: {advice}")


def _script(o):
    name = unicodedata.name(o, 'unknown')
    if unicodedata.category(o) == 'So': return 'Emoji'
    return name.split()[0].split('-')[0].title() if not name.startswith('CJK') else 'CJK'


def _covers(font, lacking):
    # It has a box with the script's name for every character
    if 'Last Resort' in font.name: return False
    try: known = _charmap((font.fname,))
    # Fonts of bitmaps, as those of emoji, cannot be loaded
    except (RuntimeError, OSError): return False
    return all(ord(o) in known for o in lacking)


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

    known = _font_characters()
    shown = [shorten(drawable(str(o)[:10*n], known), n).strip() or '(empty)' for o in names]
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
