"""The files of a CleanInterpretation: the public functions here are its methods.

A file is written whole or not at all, and never over another one without `overwrite`."""
import csv
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from fastai.tabular.core import Tabular
from fastcore.xtras import is_listy

from .._files import free_path, write_file
from .._text import as_text
from ..data.show import decoded_frame, image_path, readable
from .report import page, parts_of
from .tables import need_classes

if TYPE_CHECKING:
    from .base import CleanInterpretation


def to_frame(
    interp: 'CleanInterpretation',
    only_issues: bool = True,  # Whether to leave out the items that are not issues
) -> pd.DataFrame:
    """The worst items first: the columns of the data set's DataFrame, or `path` and `label`, and
    then `predictions`, `confidence` (not for regression) and, for texts and tables, `id`, the row's
    label.

    A name that the user's frame has already gets a number: `predictions_1`. Several labels are
    joined by ';'. The full table, with what `audit` found, is `issues`."""
    rows = interp.issues[interp.issues.is_issue] if only_issues else interp.issues
    ds = interp.dl.dataset
    items = getattr(ds, 'items', None)
    framed = isinstance(items, pd.DataFrame)
    if isinstance(ds, Tabular): df = decoded_frame(ds).iloc[rows.index]
    # fastai keeps no original text of tokenized frames
    elif framed: df = items.iloc[rows.index].map(lambda o: readable(o) if is_listy(o) else o)
    else: df = pd.DataFrame({'path': rows.id, 'label': _column(rows.given)}, dtype=object)

    added = {'predictions': _column(rows.predicted).to_numpy()}
    if 'confidence' in rows: added['confidence'] = rows.confidence.to_numpy()
    # Rows of images have a path; those of tables and tokenized texts have nothing else to go by
    if isinstance(ds, Tabular) or framed and items.iloc[0].map(is_listy).any():
        added['id'] = rows.id.to_numpy(dtype=object)
    for name, values in added.items():
        column = pd.Series(values, df.index, dtype=object if values.dtype == object else None)
        df = df.assign(**{_free_name(name, df): column})
    return df


def to_csv(
    interp: 'CleanInterpretation',
    path: str | Path,  # File to write
    only_issues: bool = True,  # Whether to leave out the items that are not issues
    overwrite: bool = False,  # Whether to replace a file
) -> Path:
    """Write `to_frame` as CSV. Raises FileExistsError if `path` exists and `overwrite` is False,
    and another OSError if no file can be written there."""
    return write_file(path, lambda tmp: _to_csv(interp.to_frame(only_issues), tmp), overwrite)


def to_review(
    interp: 'CleanInterpretation',
    path: str | Path,  # File to write
    overwrite: bool = False,  # Whether to replace a file
) -> Path:
    """Write all of `issues` as the CSV that `fastai_clean_review` shows, with a column `path` of
    the image files, or a column `text` of the items if not all have one.

    Raises FileExistsError if `path` exists and `overwrite` is False, and TypeError unless items
    have one class."""
    need_classes(interp, 'review')
    rows = interp.issues
    files = [image_path(interp.dl.dataset, i) for i in rows.index]
    if all(files): df = rows.assign(path=[o.as_posix() for o in files])
    else: df = rows.assign(text=[_said(interp.shown(i)) for i in rows.index])
    return write_file(path, lambda tmp: _to_csv(df, tmp), overwrite)


def to_parquet(
    interp: 'CleanInterpretation',
    path: str | Path,  # File to write
    only_issues: bool = True,  # Whether to leave out the items that are not issues
    overwrite: bool = False,  # Whether to replace a file
) -> Path:
    """Write `to_frame` as Parquet, columns of mixed types as text.

    Raises FileExistsError if `path` exists and `overwrite` is False, ValueError if a column appears
    twice, and ImportError if pyarrow (extra `parquet`) is not installed."""
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
        if pd.api.types.is_object_dtype(df[name]):
            df[name] = pd.Series([_text_or_missing(o) for o in df[name]], df.index, dtype=object)
    return write_file(path, lambda tmp: df.to_parquet(tmp, index=False), overwrite)


def report(
    interp: 'CleanInterpretation',
    path: str | Path = 'report.html',  # File to write
    n: int = 100,  # Number of items, the worst first
    title: str | None = None,  # Title of the page; None: by the data set
    overwrite: bool = False,  # Whether to replace a file
) -> Path:
    """Write one HTML file that needs nothing else: the summary, the pictures, the `n` worst items,
    and how the probabilities were made.

    Raises FileExistsError if `path` exists and `overwrite` is False, and ValueError if n < 1."""
    if n < 1: raise ValueError(f"n is {n}: show at least 1 item")
    # Before the work: drawing the pictures takes seconds
    free_path(path, overwrite)

    if not title: title = f"Label report: {interp.how.get('data set', 'data')}"
    text = page(title, **parts_of(interp, n))
    return write_file(path, lambda tmp: tmp.write_text(text, encoding='utf-8'), overwrite)


def _column(values):
    joined = [';'.join(map(str, o)) if isinstance(o, tuple) else o for o in values]
    return pd.Series(joined, values.index, dtype=values.dtype)


def _free_name(name, df):
    "`name`, or the first of name_1, name_2, ... that is not a column of `df`"
    names = (f'{name}_{i}' if i else name for i in count())
    return next(o for o in names if o not in df)


def _said(item):
    "What a CSV can hold of an item that `shown` returned"
    return '' if isinstance(item, np.ndarray) else str(item)


def _text_or_missing(o): return o if pd.api.types.is_scalar(o) and pd.isna(o) else as_text(o)


def _to_csv(df, tmp):
    "Write a CSV that every reader reads back as it was"
    # pandas leaves a lone carriage return unquoted, which ends the row for every reader
    values = (o for name in df for o in df[[name]].to_numpy().ravel())
    stray = any(isinstance(o, str) and '\r' in o for o in values)
    df.to_csv(tmp, index=False, errors='backslashreplace',
              quoting=csv.QUOTE_NONNUMERIC if stray else csv.QUOTE_MINIMAL)
