"What the issue tables of every task share: their columns, their order, and checks of arrays"
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeAlias
from unicodedata import category, east_asian_width, normalize
from warnings import warn

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from .._columns import objects
from .._rows import aligned, as_series
from .._text import as_text, shorten
from .checks import as_array

Score: TypeAlias = str | Callable | Sequence | np.ndarray | pd.Series  # What `any_score` takes


def worst_first(
    df: pd.DataFrame,  # Table with a column `label_quality`, indexed by position
) -> pd.DataFrame:
    "The table from the lowest label quality to the highest; ties keep their order"
    order = np.argsort(df.label_quality.to_numpy(), kind='stable')
    return df.iloc[order].rename_axis('position')


def as_is(
    values: np.ndarray,  # (n,)
) -> np.ndarray | pd.Series:
    "A column of `values` that pandas keeps as objects"
    # pandas' text columns refuse what UTF-8 cannot hold, such as the stray bytes of a file name
    return pd.Series(values, dtype=object) if values.dtype == object else values


def warn_of_twins(
    vocab: Sequence | None,  # Names of the classes, or None
) -> None:
    """Warn of names that look the same, since they differ in blanks, in the form of their Unicode
    characters, or in their width alone: they are mostly one class, whose items then look wrong"""
    seen: dict[str, str] = {}
    twins = []
    for o in vocab if vocab is not None else ():
        if not isinstance(o, str): continue
        # NFKC for width alone: it also takes m² for m2, which look different
        one_width = (normalize('NFKC', k) if east_asian_width(k) in 'FH' else k for k in o)
        visible = ''.join(k for k in ''.join(one_width) if category(k) != 'Cf')
        first = seen.setdefault(' '.join(normalize('NFC', visible).split()), o)
        if first != o: twins.append((first, o))
    if not twins: return
    others = f' and {len(twins) - 1} more' if len(twins) > 1 else ''
    # In ASCII, where the two forms of é and the kinds of blanks can be told apart
    a, b = (ascii(shorten(o, 40)) for o in twins[0])
    warn(f"vocab has classes that look the same, {a} and {b}{others}: give them one name, or names "
         "that can be told apart", stacklevel=3)


def names_of(
    c: int,  # Number of classes, or of outputs
    vocab: Sequence | None = None,  # Their names, or None
) -> np.ndarray:  # (c,) the names, or 0..c-1
    "What to call each class"
    return np.arange(c) if vocab is None else objects(vocab)


def id_column(
    ids: Sequence | None,  # Stable names of the items, or None
    n: int,  # Number of items
    index: pd.Index | None = None,  # Row labels of the items, for `ids` that is a Series
) -> np.ndarray:  # (n,) the names, or 0..n-1
    """The `id` column. Raises TypeError if `ids` is not a list, ValueError unless it has one name
    per item"""
    if ids is None: return np.arange(n)
    if not hasattr(ids, '__len__'): raise TypeError(f"ids is {ids!r}: pass a list of {n} names")
    ids = as_series(ids)
    if index is not None: ids = aligned(ids, 'ids', index)
    if len(ids) != n:
        raise ValueError(f"ids has {len(ids)} names for {n} labels: pass one per item")
    return objects(ids)


def index_of(
    labels: Any,  # What the user passed as labels
    preds: Any = None,  # What the user passed as predictions
) -> pd.Index | None:
    "The row labels of the items, if one of the two has any"
    for o in (labels, preds):
        if isinstance(o, (pd.Series, pd.DataFrame)): return o.index
    return None


def score_of(
    score: Score,  # What the user passed
    labels: Any,
    preds: Any = None,
) -> Score:
    "`score`, a Series of it in the order of the items, whose row labels `labels` or `preds` has"
    index = index_of(labels, preds)
    if index is None: return score
    if isinstance(score, (list, tuple)) and any(map(_is_score, score)):
        return [score_of(o, labels, preds) for o in score]
    if not isinstance(score, pd.Series): return score
    return aligned(score, 'score', index).to_numpy()


def any_score(
    score: Score,  # A name, scores (n,), a function that returns them, or a list of these
    named: Callable[[str], np.ndarray],  # Function from a name to its scores (n,)
    labels: np.ndarray,  # Given labels, for `score` if it is a function
    preds: np.ndarray,  # Predictions, likewise
) -> np.ndarray:  # (n,) floats, low if the label is likely wrong
    """The scores; for a list, the mean of each item's rank by every score. Raises ValueError if
    they are not n finite numbers"""
    n = len(labels)
    if isinstance(score, str): return named(score)
    if isinstance(score, (list, tuple)) and any(map(_is_score, score)):
        ranks = [rankdata(any_score(o, named, labels, preds)) for o in score]
        return np.mean(ranks, 0)/n

    if isinstance(score, pd.Series):
        # The index says which item each score belongs to; in an issue table it is not in order
        if not np.array_equal(np.sort(score.index), np.arange(n)):
            raise ValueError(f"score is a Series whose index is not the positions 0..{n - 1}: pass "
                             "score.to_numpy() in the order of the data set")
        if score.index.name != 'position' and not np.array_equal(score.index, np.arange(n)):
            # Rows of a shuffled frame have these numbers too, in the order of the data set
            raise ValueError("score is a Series whose index is the positions in another order, but "
                             "not named 'position', as that of an issue table is: pass "
                             "score.to_numpy() if it is in the order of the data set, else "
                             "score.sort_index()")
        score = score.sort_index()
    values = as_array(score(labels, preds) if callable(score) else score, 'score')
    # pandas' own missing value is no float
    values = np.where(pd.isna(values), np.nan, values).astype(float)
    if values.shape != (n,):
        found = f'{len(values)} scores' if values.ndim == 1 else f'shape {values.shape}'
        raise ValueError(f"score gives {found} for {n} items: pass one per item, low if its label "
                         "is likely wrong")
    if not np.isfinite(values).all():
        raise ValueError(f"score gives {(~np.isfinite(values)).sum()} values that are not finite: "
                         "pass numbers")
    return values


def _is_score(o): return isinstance(o, str) or callable(o) or np.ndim(o) > 0


def check_choice(
    name: str,  # Name of the argument
    value: Any,  # What was passed
    choices: Collection[str],  # What may be passed
) -> None:
    "Raise ValueError if `value` is not one of `choices`"
    if value not in choices:
        raise ValueError(f"{name} is {value!r}: choose one of {', '.join(choices)}")


def check_filter(
    filter_by: Any,  # What the user passed: a name, or a mask
    choices: Collection[str],  # Names that may be passed
    n: int,  # Number of items
    index: pd.Index | None = None,  # Row labels of the items, for a mask that is a Series
    ids: Any = None,  # Ids of the items, likewise
) -> np.ndarray | None:  # The mask (n,) in the order of the items, or None if it is a name
    "Raises ValueError if `filter_by` is neither one of `choices` nor one boolean per item"
    filter_by = as_series(filter_by)
    if isinstance(filter_by, str) or not np.iterable(filter_by):
        check_choice('filter_by', filter_by, choices)
        return None
    if isinstance(filter_by, pd.Series):
        texts = None if ids is None else [as_text(o) for o in ids]
        filter_by = aligned(filter_by, 'filter_by', index, texts)
    mask = as_array(filter_by, 'filter_by')
    if mask.dtype == object and all(isinstance(o, (bool, np.bool_)) for o in mask.ravel()):
        mask = mask.astype(bool)
    if mask.dtype != bool or mask.shape != (n,):
        raise ValueError(f"filter_by has shape {mask.shape} and dtype {mask.dtype} for {n} items: "
                         f"pass one boolean per item, or one of {', '.join(choices)}")
    return mask


def check_numbers(
    name: str,  # Name of the argument
    x: Any,  # What was passed
    ndims: Collection[int],  # Numbers of axes that it may have
) -> np.ndarray:
    "`x` as an array of finite numbers. Raises TypeError or ValueError if it is not"
    try: x = as_array(x, name)
    except ValueError as e:
        if isinstance(x, np.ma.MaskedArray): raise
        raise ValueError(f"{name} is not a table ({e}): pass rows of one length") from e
    if x.dtype.kind not in 'fiub':
        raise TypeError(f"{name} has dtype {x.dtype}: pass an array of numbers")
    if x.ndim not in ndims or not x.size:
        raise ValueError(f"{name} has shape {x.shape}: pass {' or '.join(map(str, ndims))} axes, "
                         "items first, and at least 1 item")
    bad = ~np.isfinite(x.reshape(len(x), -1)).all(1)
    if bad.any():
        raise ValueError(f"{name} has NaN or infinite values in {bad.sum()} rows, first in row "
                         f"{bad.argmax()}: leave those items out, or label or predict them")
    return x
