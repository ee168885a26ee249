"The tables that a review reads, checked; and the columns that it writes"
import csv
import getpass
import os
import re
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import pandas as pd

from .._columns import objects
from .._text import as_text, as_written, brief

COLUMNS = 'id', 'given', 'predicted', 'confidence', 'label_quality', 'is_issue'
SEED = ['position', 'id', 'text', 'label', 'hashtags', 'prediction', 'confidence']
NAMES = 'item', 'path', 'id', 'name', 'fname', 'file', 'filename', 'image', 'text'
USER = 46  # Bytes of a reviewer's name
FLAGS = {'true': True, 'false': False, '1': True, '0': False}


def issue_table(
    issues,  # Issue table (DataFrame), or the path of its CSV
) -> pd.DataFrame:
    """The issue table, worst first; ties keep their order. A column `item`, as version 0.1 called
    it, is renamed to `id`.

    Raises ValueError if columns or values are missing, and TypeError if it is not a table of one
    class per item."""
    if isinstance(issues, (str, os.PathLike)): issues = _read_table(issues, _separator(issues))
    if not isinstance(issues, pd.DataFrame):
        raise TypeError(f"issues is a {type(issues).__name__}: pass the table of find_issues, or "
                        "its CSV's path")
    if 'id' not in issues: issues = issues.rename(columns={'item': 'id'})
    if missing := [o for o in COLUMNS if o not in issues]:
        raise ValueError(f"issues lacks the columns {missing}: pass the table of find_issues or "
                         "its CSV")
    if issues.empty: raise ValueError("issues has no rows: pass at least one item")
    for name in ('id', 'given', 'predicted', *(['set'] if 'set' in issues else [])):
        if n := issues[name].isna().sum():
            raise ValueError(f"issues has {n} missing values in {name!r}: leave those items out, "
                             "or read the CSV with keep_default_na=False")
    for name in ('given', 'predicted'):
        for o in issues[name]:
            if isinstance(o, (tuple, list, float, np.floating, np.ndarray)):
                raise TypeError(f"issues has {brief(o)} in {name!r}: a review needs one class per "
                                "item")

    df = issues.assign(is_issue=_flags(issues.is_issue, 'issues'))
    return df.sort_values('label_quality', kind='stable')


def text_ids(
    df: pd.DataFrame,  # Issue table
) -> np.ndarray:  # (n,) unique texts
    """What a review calls each item: the text of its id, after `set:` if there is a column `set`.
    Raises ValueError if two are the same."""
    texts = df['id'].map(as_text)
    if 'set' in df: texts = df['set'].map(as_text) + ':' + texts
    if twice := texts[texts.duplicated()].tolist():
        raise ValueError(f"issues has {len(twice)} items twice, first {brief(twice[0])}: give each "
                         "its own id")
    return objects(texts)


def own_rows(
    issues,  # The table as it was passed
    df: pd.DataFrame,  # What `issue_table` made of it
    rows: pd.DataFrame | None,  # The user's rows (n,) in the order of `issues`
) -> pd.DataFrame | None:
    """The user's own columns, a row per row of `df`, the table `issues` in its order; None if there
    are none"""
    if rows is None:
        # What `to_csv` and `to_review` write has them beside those of the table
        rows = df.drop(columns=[o for o in (*COLUMNS, 'set') if o in df])
        return None if rows.columns.empty else rows
    if len(rows) != len(df):
        raise ValueError(f"rows has {len(rows)} rows, but issues has {len(df)}: pass one row per "
                         "item, in the order of issues")
    order = issues.label_quality.to_numpy(float).argsort(kind='stable')
    return rows.iloc[order]


def reviewer(
    user: str | None,
) -> str:
    "The reviewer's name: `user`, or the account's"
    if user is None:
        # An account may have no name, as in containers
        try: user = getpass.getuser()
        except (ImportError, KeyError, OSError): user = 'reviewer'
    fits = isinstance(user, str) and user.isprintable() and user.strip()
    if not fits or len(as_text(user).encode()) > USER:
        raise ValueError(f"user is {brief(user)}: pass a printable name of at most {USER} bytes")
    return as_text(user)


def read_issues(
    path,  # CSV: an issue table, what `CleanInterpretation.to_csv` wrote, or noisy_text.csv
    label_column: str | None = None,  # Column of the given labels; None: 'given', else 'label'
    id_column: str | None = None,  # Column of the ids there; None: the first of `NAMES` that fits
) -> pd.DataFrame:
    """The issues of a CSV, in its order if it has no label quality. Values are read as text.

    In what `to_csv` wrote, rows whose prediction is not the label are issues. The first
    experiment's noisy_text.csv has no header, and all its rows are issues. Raises ValueError if
    columns are missing, if every possible column of ids has repeated values, and if a confidence is
    not a number from 0 to 1."""
    sep = _separator(path)
    first = _header(path, sep)
    if twice := [o for o in COLUMNS if first.count(o) > 1]:
        raise ValueError(f"{path} has two columns {twice[0]!r}: rename or remove one")
    seed = len(first) == len(SEED) and first[0].isdecimal() and first[1].isdecimal()
    names = {*first}
    if not seed and names > {'given', 'predicted'} and names & {'item', 'id'}:
        df = _read_table(path, sep)
        for name, target in ((label_column, 'given'), (id_column, 'id')):
            if name in df: df[target] = df[name]
        # Issue tables have these; what `to_csv` wrote is in the order of its label quality
        if 'is_issue' not in df: df = df.assign(is_issue=df.given != df.predicted)
        return df if 'label_quality' in df else df.assign(label_quality=np.nan)

    df = _read_texts(path, sep, names=SEED if seed else first, header=None if seed else 0)
    if label_column is None: label_column = 'label'
    if seed: id_column = 'id'
    predicted = 'prediction' if seed else _last(df, 'predictions')
    confidence = _last(df, 'confidence')
    for name in (label_column, predicted, confidence, *([] if id_column is None else [id_column])):
        if name not in df:
            there = ', '.join(map(repr, df))[:300]
            raise ValueError(f"{path} has no column {name!r}, only {there}: pass the CSV of a "
                             "CleanInterpretation or of its issues; see --label-column and "
                             "--id-column")
    if id_column is None: id_column = next((o for o in NAMES if o in df and df[o].is_unique), None)
    if id_column is None:
        raise ValueError(f"{path} has none of the columns {', '.join(NAMES)} without a repeated "
                         "value: pass the column of the items' ids with --id-column")
    numbers = _as_numbers(df[confidence])
    if (bad := ~numbers.between(0, 1)).any():
        raise ValueError(f"{path} has {brief(df[confidence][bad].iloc[0])} in {confidence!r}: pass "
                         "numbers from 0 to 1")
    return df.assign(id=df[id_column], given=df[label_column], predicted=df[predicted],
                     confidence=numbers, label_quality=np.nan,
                     is_issue=seed | (df[label_column] != df[predicted]))


def cohen_kappa(
    pairs: Sequence[tuple],  # What two users decided about each item
) -> tuple[float, float]:
    """Share of `pairs` that agree, and Cohen's kappa ("A coefficient of agreement for nominal
    scales", 1960): NaN if there are none, or if both users gave all items one outcome"""
    n = len(pairs)
    if not n: return np.nan, np.nan

    a, b = (pd.Series(o).value_counts() for o in zip(*pairs))
    agree = sum(x == y for x, y in pairs)/n
    chance = sum(a[o]*b[o] for o in a.index if o in b.index)/n**2
    return agree, np.nan if chance == 1 else (agree - chance)/(1 - chance)


def _header(path, sep):
    "The names in the first line of a CSV"
    with open(path, encoding='utf-8-sig', newline='') as f:
        try: return next(csv.reader(f, delimiter=sep), [])
        except csv.Error as e:
            raise ValueError(f"{path} cannot be read as CSV ({e}): save it as CSV again") from e


def _separator(path):
    "What separates the columns. Raises ValueError for a file that is no CSV in UTF-8"
    if os.path.isdir(path): raise ValueError(f"{path} is a folder: pass a CSV in it")
    with open(path, 'rb') as f: data = f.read()
    advice = 'save it as CSV, in UTF-8'
    if not data.strip(): raise ValueError(f"{path} is empty: pass a CSV with at least one row")
    if data[:2] == b'PK': raise ValueError(f"{path} is a zip or an Excel file: {advice}")
    if data[:2] in (b'\xff\xfe', b'\xfe\xff'): raise ValueError(f"{path} is in UTF-16: {advice}")
    try: text = data.decode('utf-8-sig')
    except UnicodeDecodeError as e:
        line = data[:e.start].count(b'\n') + 1
        raise ValueError(f"{path} is not in UTF-8, first in line {line}, byte "
                         f"0x{data[e.start]:02x}: {advice}") from e
    # Within quotation marks someone meant to write them; elsewhere the encoding is another one
    if n := re.sub('"[^"]*"', '', text).count('\0') if '\0' in text else 0:
        raise ValueError(f"{path} has NUL characters ({n}), as UTF-16 has: {advice}")
    names = {o: text.split('\n', 1)[0].split(o) for o in ',;\t|'}
    # Excel writes semicolons where the comma is the decimal mark
    return max(names, key=lambda o: len({n.strip('"\r') for n in names[o]} & {*COLUMNS, *NAMES}))


def _read_texts(path, sep, **kwargs):
    # As text: a class may be called NA, 01 or True
    try:
        df = pd.read_csv(path, dtype=str, keep_default_na=False, encoding='utf-8-sig',
                         index_col=False, sep=sep, **kwargs)
    except pd.errors.ParserError as e:
        why = ' '.join(str(e).split())
        raise ValueError(f"{path} cannot be read as CSV ({why}): give every row as many values as "
                         "there are columns, and end every quotation") from e
    # What a row lacks at its end is read as empty, a class without a name too
    if (df.iloc[:, -1] == '').any(): _check_lengths(path, sep, df.shape[1])
    return df.map(as_written).rename(columns=as_written)


def _check_lengths(path, sep, n):
    with open(path, encoding='utf-8-sig', newline='') as f:
        rows = csv.reader(f, delimiter=sep)
        # Texts may be longer than the module takes
        with suppress(csv.Error):
            for row in rows:
                if not row or len(row) == n: continue
                raise ValueError(f"{path} has {len(row)} values in line {rows.line_num}, but {n} "
                                 "columns: give every row as many values as there are columns")


def _as_numbers(values):
    "Texts as numbers, those of a machine whose decimal mark is a comma too; else NaN"
    return pd.to_numeric(values.str.replace(',', '.'), errors='coerce')


def _read_table(path, sep):
    "The issue table of a CSV: numbers and flags as such, the rest as text"
    df = _read_texts(path, sep)
    for name in {'confidence', 'label_quality'} & {*df}:
        blank = df[name].isna() | df[name].isin(['', 'nan'])
        numbers = _as_numbers(df[name].mask(blank))
        if (bad := numbers.isna() & ~blank).any():
            raise ValueError(f"{path} has {brief(df[name][bad].iloc[0])} in {name!r}: write "
                             "numbers")
        df[name] = numbers
    return df.assign(is_issue=_flags(df.is_issue, path)) if 'is_issue' in df else df


def _flags(column, where):
    "A column of True and False; as a boolean, the text 'False' would be True"
    if column.dtype == bool: return column
    flags = column.map(lambda o: FLAGS.get(str(o).lower()))
    if flags.isna().any():
        raise ValueError(f"is_issue has {brief(column[flags.isna()].iloc[0])} in {where}: write "
                         "True or False")
    return flags.astype(bool)


def _last(df, name):
    "`name` as `to_csv` wrote it, after the user's own columns: perhaps name_1"
    return next((o for o in df.columns[::-1] if re.fullmatch(rf'{name}(_\d+)?', o)), name)
