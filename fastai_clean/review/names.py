"What items and classes are called in a journal"
import hashlib
import json
import os
import re
from pathlib import PurePath

import numpy as np
import pandas as pd

ACTIONS = 'relabel', 'delete', 'keep', 'unsure', 'note'
FORMAT, RECORD, NAME, NOTE, USER = 1, 510, 96, 220, 48
WHOLE = [1, 1]
DECODE = json.JSONDecoder().decode
ENCODE = json.JSONEncoder(ensure_ascii=False, separators=(',', ':')).encode
WINDOWS_NAMES = {'con', 'prn', 'aux', 'nul', *(f'{o}{i}' for o in ('com', 'lpt') for i in range(10))}


def as_text(o):
    "`o` as text that UTF-8 can hold: a file name's stray bytes as \\udcff"
    return (o.as_posix() if isinstance(o, PurePath) else str(o)).encode(errors='backslashreplace').decode()


def short_name(o):
    "`o` as text that fits a line of the journal: itself, or its SHA-1 where that is long, empty or not printable"
    text = as_text(o)
    return text if text and text.isprintable() and len(as_json(text)) <= NAME else f'sha1:{sha1_of(text)}'


def sha1_of(text):
    "SHA-1 of `text`, 40 hexadecimal digits"
    return hashlib.sha1(as_text(text).encode()).hexdigest()


def as_json(o):
    "`o` as JSON, in bytes"
    return ENCODE(o).encode()


def brief(o):
    "`repr(o)`, at most 80 characters of it, for messages"
    return repr(o) if len(repr(o)) <= 80 else f'{repr(o)[:79]}…'


def natural_key(o):
    "Sort key that puts 2 before 10, and numbers before texts"
    return (0, int(o), '') if re.fullmatch('[0-9]{1,9}', as_text(o)) else (1, 0, as_text(o))


def as_objects(column):
    "The values of `column` as they are, an array of one axis"
    return np.array([*column, None], dtype=object)[:-1]


def as_column_like(values, column):
    "`values` as a column of the type of `column`, where it can hold them"
    if isinstance(column.dtype, pd.CategoricalDtype):
        added = [o for o in dict.fromkeys(values) if not pd.isna(o) and o not in column.cat.categories]
        return pd.Series(values, column.index, dtype=column.cat.add_categories(added).dtype)
    res = pd.Series(values, column.index, dtype=object)
    try: return res.astype(column.dtype)
    except (TypeError, ValueError): return res


def safe_name(name):
    "`name` where it is a safe, visible file name anywhere, else one made of it with a hash"
    text = as_text(name)
    if (text.isprintable() and not re.search(r'[<>:"/\\|?*]', text) and text.strip(' .') and text[0] not in ' .'
            and text[-1] not in ' .' and len(text.encode()) <= 120
            and text.split('.')[0].rstrip().lower() not in WINDOWS_NAMES): return text
    stem, suffix = os.path.splitext(text)
    if not re.fullmatch(r'\.[A-Za-z0-9]{1,8}', suffix): stem, suffix = text, ''
    return f"{re.sub(r'[^A-Za-z0-9]+', '_', stem)[:40].strip('_')}-{sha1_of(text)[:16]}{suffix}".lstrip('-')
