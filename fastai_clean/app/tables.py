"The CSVs that the app reads"
import csv
import re

import numpy as np
import pandas as pd

SEED = ['position', 'id', 'text', 'label', 'hashtags', 'prediction', 'confidence']
NAMES = 'item', 'path', 'id', 'name', 'fname', 'file', 'filename', 'image', 'text'


def read_issues(
    path,  # CSV: an issue table, what `CleanInterpretation.to_csv` wrote, or the seed's noisy_text.csv
    label_column='label',  # Column of the given labels, in what `to_csv` wrote
    id_column=None,  # Column of the items' names there; None: the first of `NAMES` that has no value twice
):  # What `ReviewSession` takes: `path` of an issue table, else a DataFrame
    """The issues of a CSV, in its order where it has no label quality. Of what `to_csv` wrote, rows whose prediction is
    not the label are issues; the seed's file, which has no header, holds nothing else. Values are read as text.

    Raises ValueError where columns are missing, none names the items, or a confidence is no number from 0 to 1."""
    with open(path, encoding='utf-8-sig', errors='backslashreplace', newline='') as f: first = next(csv.reader(f), [])
    seed = len(first) == len(SEED) and first[0].isdecimal() and first[1].isdecimal()
    if not seed and {'given', 'predicted'} < {*first} and {'item', 'id'} & {*first}: return path
    df = pd.read_csv(path, dtype=str, keep_default_na=False, encoding='utf-8-sig', encoding_errors='backslashreplace',
                     names=SEED if seed else first, header=None if seed else 0, index_col=False)
    if seed: label_column, id_column = 'label', 'id'
    predicted = 'prediction' if seed else _last(df, 'predictions')
    confidence = _last(df, 'confidence')
    for name in (label_column, predicted, confidence, *([] if id_column is None else [id_column])):
        if name not in df:
            raise ValueError(f"{path} has no column {name!r}, only {', '.join(map(repr, df))[:300]}: pass the CSV of a "
                             "CleanInterpretation or of its issues; see --label-column and --id-column")
    if id_column is None: id_column = next((o for o in NAMES if o in df and df[o].is_unique), None)
    if id_column is None:
        raise ValueError(f"{path} has none of the columns {', '.join(NAMES)} without a value twice: name the column "
                         "that names the items with --id-column")
    numbers = pd.to_numeric(df[confidence], errors='coerce')
    if not numbers.between(0, 1).all():
        raise ValueError(f"{path} has {df[confidence][~numbers.between(0, 1)].iloc[0][:80]!r} in {confidence!r}: pass "
                         "numbers from 0 to 1")
    return df.assign(item=df[id_column], given=df[label_column], predicted=df[predicted], confidence=numbers,
                     label_quality=np.nan, is_issue=seed | (df[label_column] != df[predicted]))


def _last(df, name):
    "`name` as `to_csv` wrote it, behind the person's own columns: perhaps name_1"
    return next((o for o in df.columns[::-1] if re.fullmatch(rf'{name}(_\d+)?', o)), name)
