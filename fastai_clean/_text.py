"Text that is safe to write, short enough to show, and readable: the one place where it is made so"
import hashlib
import math
import os
import re
import unicodedata
from pathlib import PurePath
from typing import Any

BIDI = {'LRE', 'RLE', 'LRO', 'RLO', 'PDF', 'LRI', 'RLI', 'FSI', 'PDI'}
WINDOWS_NAMES = {'con', 'prn', 'aux', 'nul',
                 *(f'{o}{i}' for o in ('com', 'lpt') for i in range(10))}
MAX_NAME = 120  # Characters of a name that a page shows


def as_text(
    o,  # Anything; its `str` is taken, for a path with forward slashes
) -> str:
    "`o` as text that UTF-8 can hold: the stray bytes of a file name become `\\udcff`"
    text = o.as_posix() if isinstance(o, PurePath) else str(o)
    return text.encode(errors='backslashreplace').decode()


def neutral(
    text: str,  # Text from the data
    n: int | None = None,  # Most characters; longer text is cut and its length added; None: all
) -> str:
    "`text` with U+FFFD for what reorders or hides text around it, and for what UTF-8 cannot hold"
    if n is not None and len(text) > n: text = f'{text[:n]}… ({len(text):,} characters)'
    # Printable text is never harmful, and nearly all text is printable: 70 times as fast
    if text.isprintable(): return text
    return ''.join('\ufffd' if _is_harmful(o) else o for o in text)


def _is_harmful(o):
    if o in '\n\t': return False
    # Right-to-left overrides let "gpj.exe" pass for "exe.jpg"; control characters drive terminals
    if unicodedata.category(o) in ('Cc', 'Cs', 'Zl', 'Zp'): return True
    return unicodedata.bidirectional(o) in BIDI


def plain(
    o,  # Anything; its `str` is taken
    n: int = MAX_NAME,  # Most characters
) -> str:
    "`o` as a page may show it, see `neutral`"
    return neutral(str(o), n)


def name_of(
    label,  # A label, or a list or tuple of the labels of one item
) -> str:
    "A label as a page shows it: never empty, several joined by semicolons"
    name = '; '.join(map(str, label)) if isinstance(label, (tuple, list)) else str(label)
    return plain(name) if name.strip() else '(empty)'


def shorten(
    text,  # Anything; its `str` is taken
    n: int = 14,  # Most characters, the ellipsis included
) -> str:
    """`text` on one line, `neutral`, cut to `n` characters with an ellipsis. Raises ValueError if
    n < 1"""
    if n < 1: raise ValueError(f"n is {n}: leave at least 1 character")

    text = neutral(' '.join(str(text)[:4*n + 64].splitlines()))
    return text if len(text) <= n else text[:n - 1] + '…'


def capital(
    text: str,
) -> str:
    "A sentence's text, its first letter a capital"
    return text[:1].upper() + text[1:]


def about(
    n: float,  # A number, not negative
    up: bool = False,  # Whether to round up
) -> str:
    "`n` to two digits, as people say an estimate: 5,300"
    unit = 10**max(0, len(str(int(n))) - 2)
    return f'{(math.ceil(n/unit) if up else round(n/unit))*unit:,}'


def brief(
    o,  # Anything
) -> str:
    "`repr(o)` for an error message: at most 80 characters"
    # numpy's numbers call themselves np.int64(1)
    if type(o).__module__ == 'numpy' and hasattr(o, 'item') and not getattr(o, 'shape', ()):
        o = o.item()
    # Of a class of the user's, it may be anything
    text = neutral(repr(o))
    return text if len(text) <= 80 else f'{text[:79]}…'


# Spreadsheets pass over blanks, and some take the wide signs of East Asian keyboards
_FORMULA = re.compile(r"'*(\s*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\r\n])")
_NUMBER = re.compile(r'([+-]?[0-9]+([.][0-9]+)?([eE][+-]?[0-9]+)?(;|$))+')  # Or several, joined


def inert(
    o,  # A value of a table
) -> Any:
    """A text that a spreadsheet would run, with an apostrophe in front, which tells it that this is
    text; anything else as it is. `as_written` undoes it"""
    if not isinstance(o, str) or not _FORMULA.match(o) or _NUMBER.fullmatch(o): return o
    return f"'{o}"


def as_written(
    o,  # A value that was read from a CSV
) -> Any:
    "What it was before `inert`"
    return o[1:] if isinstance(o, str) and o[:1] == "'" and _FORMULA.match(o) else o


def natural_key(
    o,  # Anything
) -> tuple:
    "A sort key that puts 2 before 10, and numbers before other texts"
    text = as_text(o)
    return (0, int(text), '') if re.fullmatch('[0-9]{1,9}', text) else (1, 0, text)


def sha1_of(
    text,  # Anything; its text is taken
) -> str:
    "The SHA-1 of `text`, 40 hexadecimal digits"
    return hashlib.sha1(as_text(text).encode()).hexdigest()


def safe_name(
    name,  # Anything; its text is taken
) -> str:
    "`name` if it is a safe and visible file name on every system, else one made from it and a hash"
    text = as_text(name)
    if _is_safe(text): return text

    stem, suffix = os.path.splitext(text)
    if not re.fullmatch(r'\.[A-Za-z0-9]{1,8}', suffix):
        stem = text
        suffix = ''
    words = re.sub(r'[^A-Za-z0-9]+', '_', stem)[:40].strip('_')
    return f'{words}-{sha1_of(text)[:16]}{suffix}'.lstrip('-')


def _is_safe(text):
    if not text.isprintable() or not text.strip(' .') or len(text.encode()) > 120: return False
    # Windows drops blanks and dots at the end; a dot in front hides a file, and NUL.txt is a device
    if text[0] in ' .' or text[-1] in ' .' or re.search(r'[<>:"/\\|?*]', text): return False
    return text.split('.')[0].rstrip().lower() not in WINDOWS_NAMES
