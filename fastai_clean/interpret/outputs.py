"""The files of a CleanInterpretation: the public functions here are its methods.

A file is written whole or not at all, and never over another one without `overwrite`."""
import csv
import json
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING
from warnings import warn

import numpy as np
import pandas as pd
from fastai.tabular.core import Tabular
from fastcore.foundation import L

from .._files import free_path, write_file
from .._text import as_text, inert
from ..data.show import decoded_frame, image_path, own_frame, readable
from .report import page, parts_of
from .tables import need_classes

if TYPE_CHECKING:
    from ..review import ReviewSession
    from ..review.estimate import Estimate
    from .base import CleanInterpretation

ADDED = 'given', 'predicted', 'confidence', 'label_quality', 'is_issue', 'id'
LISTS = list, tuple, dict, np.ndarray


def to_frame(
    interp: 'CleanInterpretation',
    only_issues: bool = True,  # Whether to leave out the items that are not issues
) -> pd.DataFrame:
    """The worst items first: the columns of the data set's DataFrame, or `path` and `label`; then
    those of `issues` without what `audit` found: `given` and `predicted`, the Learner's classes or
    numbers, `confidence` (not for regression), `label_quality`, `is_issue` and `id`.

    `given` is the label that the model was trained or tested on. The user's columns come back as
    they were, original text too, and may say something else: codes, or, if the labels come from a
    function, what stood there before `apply_dls`. (fastai has changed some for good: tables are
    decoded, and of tokenized text that is also relabelled only the tokens may be left.) A column of
    the user's with one of these names, or named `set`, gets a number: `given_1`. Several labels are
    joined by ';'."""
    rows = interp.issues[interp.issues.is_issue] if only_issues else interp.issues
    ds = interp.dl.dataset
    if isinstance(ds, Tabular): df = _whole(decoded_frame(ds), ds.cont_names).iloc[rows.index]
    elif (frame := own_frame(ds)) is not None: df = _untokenized(frame.iloc[rows.index])
    else: df = pd.DataFrame({'path': rows.id, 'label': _column(rows.given)}, dtype=object)

    added = {o: _column(rows[o]) for o in ADDED if o in rows}
    # A review takes a column `set` for that of the issues
    taken = {*df, *ADDED, 'set'}
    new = {}
    for name in [o for o in df if o in ADDED or o == 'set']:
        new[name] = next(o for i in count(1) if (o := f'{name}_{i}') not in taken)
        taken.add(new[name])
    df = df.rename(columns=new)
    return df.assign(**{name: pd.Series(o.to_numpy(), df.index, dtype=o.dtype)
                        for name, o in added.items()})


def to_csv(
    interp: 'CleanInterpretation',
    path: str | Path,  # File to write
    only_issues: bool = True,  # Whether to leave out the items that are not issues
    overwrite: bool = False,  # Whether to replace a file
) -> Path:
    """Write `to_frame` as CSV, lists as JSON. A text or a column's name that a spreadsheet would
    run, such as `=1+1`, gets an apostrophe in front; `fastai_clean_review` takes it off again, and
    so does `.str.replace(r"^'(?='*\\s*[=+@-])", '', regex=True)`.

    Warns if the model is too weak to judge the labels. Raises FileExistsError if `path` exists and
    `overwrite` is False, and another OSError if no file can be written there."""
    written = write_file(path, lambda tmp: _to_csv(interp.to_frame(only_issues), tmp), overwrite)
    return _warned(interp, written)


def to_review(
    interp: 'CleanInterpretation',
    path: str | Path,  # File to write
    overwrite: bool = False,  # Whether to replace a file
) -> Path:
    """Write all of `issues` as the CSV that `fastai_clean_review` shows, with a column `path` of
    the image files, or a column `text` of the items if not all have one.

    Warns if the model is too weak to judge the labels. Raises FileExistsError if `path` exists and
    `overwrite` is False, and TypeError unless items have one class."""
    need_classes(interp, 'review')
    rows = interp.issues
    files = [image_path(interp.dl.dataset, i) for i in rows.index]
    if all(files):
        names = [as_text(o) for o in files]
        df = rows.assign(path=pd.Series(names, rows.index, dtype=object))
    else:
        # As objects: pandas' text columns refuse what UTF-8 cannot hold
        texts = [_said(interp.shown(i)) for i in rows.index]
        df = rows.assign(text=pd.Series(texts, rows.index, dtype=object))
    return _warned(interp, write_file(path, lambda tmp: _to_csv(df, tmp), overwrite))


def to_parquet(
    interp: 'CleanInterpretation',
    path: str | Path,  # File to write
    only_issues: bool = True,  # Whether to leave out the items that are not issues
    overwrite: bool = False,  # Whether to replace a file
) -> Path:
    """Write `to_frame` as Parquet, columns of mixed types as text.

    Warns if the model is too weak to judge the labels. Raises FileExistsError if `path` exists and
    `overwrite` is False, ValueError if a column appears twice, and ImportError if pyarrow (extra
    `parquet`) is not installed."""
    try: import_module('pyarrow')
    except ImportError as e:
        raise ImportError("to_parquet needs pyarrow: pip install 'fastai_clean[parquet]'") from e
    df = interp.to_frame(only_issues)
    if df.columns.has_duplicates:
        twice = df.columns[df.columns.duplicated()][0]
        raise ValueError(f"the column {twice!r} appears twice, which Parquet cannot hold: rename "
                         "one, or use to_csv")

    for name in df:
        # Arrow refuses a column of numbers and texts, and texts that UTF-8 cannot hold
        if pd.api.types.is_object_dtype(df[name]): df[name] = _for_arrow(df[name])
    return _warned(interp, write_file(path, lambda tmp: df.to_parquet(tmp, index=False), overwrite))


def report(
    interp: 'CleanInterpretation',
    path: str | Path = 'report.html',  # File to write
    n: int = 100,  # Number of items, the worst first
    title: str | None = None,  # Title of the page; None: by the data set
    overwrite: bool = False,  # Whether to replace a file
    estimate: 'Estimate | ReviewSession | None' = None,  # From `estimate`, or a session for it
) -> Path:
    """Write one HTML file that needs nothing else: the summary, the pictures, the `n` worst items,
    and how the probabilities were made; and how many labels are wrong, if decisions on some give an
    `estimate`.

    Raises FileExistsError if `path` exists and `overwrite` is False, ValueError if n < 1, and as
    `interp.estimate` does."""
    if n < 1: raise ValueError(f"n is {n}: show at least 1 item")
    # Before the work: drawing the pictures takes seconds
    free_path(path, overwrite)

    if not title: title = f"Label report: {interp.how.get('data set', 'data')}"
    text = page(title, **parts_of(interp, n, estimate))
    return write_file(path, lambda tmp: tmp.write_text(text, encoding='utf-8'), overwrite)


def _warned(interp, path):
    "`path`; warns, in the name of the caller's caller, if its issues are those of a weak model"
    # Even if it was said before: a file is passed on, and does not say it
    if interp.weakness:
        warn(f"{path.name} has the issues of a weak model: {interp.weakness}", stacklevel=3)
    return path


def _column(values):
    joined = [';'.join(map(str, o)) if isinstance(o, tuple) else o for o in values]
    return pd.Series(joined, values.index, dtype=values.dtype)


def _untokenized(df):
    "`df` with one text in place of the tokens that fastai made of it"
    for name in [o for o in df if df[o].map(lambda v: isinstance(v, L)).any()]:
        df = df.assign(**{name: df[name].map(lambda v: readable(v) if isinstance(v, L) else v)})
    return df


def _whole(df, names):
    "`df` with whole numbers in the columns `names` that had them before they were normalized"
    for name in names:
        values = df[name]
        whole = values.round()
        # Normalize works in 32 bits: 39 comes back as 39.000004
        if (np.abs(values - whole) > 1e-5*np.abs(whole).clip(1)).any(): continue
        df[name] = whole.astype('Int64') if whole.isna().any() else whole.astype(np.int64)
    return df


def _said(item):
    "What a CSV can hold of an item that `shown` returned"
    return '' if isinstance(item, np.ndarray) else str(item)


def _for_arrow(values):
    "A column of objects as it is if Parquet can hold it, else as text"
    import pyarrow as pa
    try:
        # A struct would give every dict the keys of all
        if not any(isinstance(o, dict) for o in values):
            pa.array(values, from_pandas=True)
            return values
    except (pa.ArrowException, ValueError, TypeError, OverflowError): pass
    found = [o if pd.api.types.is_scalar(o) and pd.isna(o) else as_text(o) for o in values]
    return pd.Series(found, values.index, dtype=object)


def _to_csv(df, tmp):
    "Write a CSV that every reader reads back as it was"
    columns = []
    for i in range(df.shape[1]):
        column = df.iloc[:, i]
        if column.dtype.kind not in 'biufcmM':
            # As objects: pandas' text columns refuse what UTF-8 cannot hold
            column = pd.Series([inert(_listed(o)) for o in column], df.index, dtype=object)
        columns.append(column)
    # pandas leaves a lone carriage return unquoted, which ends the row for every reader
    stray = any(isinstance(o, str) and '\r' in o for column in columns for o in column
                if column.dtype == object)
    names = [inert(o) for o in df.columns]
    pd.concat(columns, axis=1).set_axis(names, axis=1).to_csv(
        tmp, index=False, errors='backslashreplace',
        quoting=csv.QUOTE_NONNUMERIC if stray else csv.QUOTE_MINIMAL)


def _listed(o):
    "A list as JSON, anything else as it is"
    if not isinstance(o, LISTS): return o
    if isinstance(o, np.ndarray): o = o.tolist()
    return json.dumps(o, ensure_ascii=False, default=str)
