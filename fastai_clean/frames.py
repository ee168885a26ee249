"Frames of items, labels and is_valid, checked before a DataLoader trips over them"
import pandas as pd

__all__ = ['check_frame', 'check_values']


def check_frame(
    df,  # What a person passed
    needed=('text', 'label', 'is_valid'),  # Columns that it needs; text and path must hold text
    source='covid_tweets',  # The function that makes such a frame, for messages
):
    """Raise TypeError or ValueError where `df` is no frame to train and validate on: a column or a value is missing,
    is_valid is not True or False, or the same in every row, or a label occurs in validation rows alone."""
    if not isinstance(df, pd.DataFrame):
        raise TypeError(f"df is a {type(df).__name__}: pass a DataFrame as of {source}, or DataLoaders")
    lacking = [o for o in needed if o not in df]
    if lacking: raise ValueError(f"df lacks the column {' and '.join(lacking)}: see {source}")
    check_values(df, needed)
    if df.is_valid.nunique() != 2:
        raise ValueError(f"df has is_valid {df.is_valid.unique().tolist()} alone: training and validation rows needed")
    if 'label' not in needed: return
    valid = df.is_valid.astype(bool)
    _none(valid & ~df.label.isin(df.label[~valid]), df.label, 'validation rows with a label that no training row has')


def check_values(
    df,  # A frame
    needed,  # Columns of it to look at
):
    "Raise ValueError where a value of `needed` is missing, one of is_valid no boolean, or of text or path no text"
    for name in needed:
        _none(df[name].isna(), df[name], f'missing values in {name}')
        if name == 'is_valid': _none(~df[name].isin([True, False]), df[name], 'values in is_valid that are no booleans')
        if name in ('text', 'path'):
            _none(~df[name].map(_is_text), df[name], f'values in {name} that are no text of UTF-8')


def _none(bad, values, what):
    if not bad.any(): return
    i = int(bad.to_numpy().argmax())
    first = ascii(values.tolist()[i])[:80]
    raise ValueError(f"df has {int(bad.sum())} {what}, first {first} in row {i}: correct them or leave the rows out")


def _is_text(o):
    if not isinstance(o, str): return False
    try: o.encode()
    except UnicodeEncodeError: return False
    return True
