"What the issue tables of every task share: their columns, their order, and checks of arrays"
import numpy as np
import pandas as pd
from scipy.stats import rankdata

from .checks import as_array


def worst_first(
    df,  # Table with a column `label_quality`, indexed by position
):
    "The table from the lowest label quality to the highest; ties keep their order"
    return df.iloc[np.argsort(df.label_quality.to_numpy(), kind='stable')].rename_axis('position')


def objects(
    values,  # Any values, tuples among them
) -> np.ndarray:  # One axis, dtype object
    "`values` as they are, in an array of one axis"
    return np.array([*values, None], dtype=object)[:-1]


def as_is(
    values,  # (n,) array
):
    "A column of `values` that pandas does not read as text: names may hold what no UTF-8 can, as file names do"
    return pd.Series(values, dtype=object) if values.dtype == object else values


def names_of(
    c,  # Number of classes, or of outputs
    vocab=None,  # Their names, or None
) -> np.ndarray:  # (c,) the names, or 0..c-1
    "What to call each class"
    return np.arange(c) if vocab is None else objects(vocab)


def id_column(
    ids,  # Stable names of the items, or None
    n,  # Number of items
) -> np.ndarray:  # (n,) the names, or 0..n-1
    "The `id` column; raises ValueError where there is not one name an item"
    if ids is None: return np.arange(n)
    if not hasattr(ids, '__len__'): raise TypeError(f"ids is {ids!r}: pass a list of {n} names")
    if len(ids) != n: raise ValueError(f"ids has {len(ids)} names for {n} labels: pass one an item")
    return objects(ids)


def any_score(
    score,  # A name, scores (n,), a function of labels and predictions that gives them, or a list of such
    named,  # Function that gives the scores (n,) of a name
    labels,  # Given labels, as `score` gets them where it is a function
    preds,  # Predictions, likewise
) -> np.ndarray:  # (n,) floats, low where the label is likely wrong
    "The scores; of a list, the mean of each item's rank by every score. Raises ValueError for what is not n numbers"
    n = len(labels)
    if isinstance(score, str): return named(score)
    if isinstance(score, (list, tuple)) and any(isinstance(o, str) or callable(o) or np.ndim(o) for o in score):
        return np.mean([rankdata(any_score(o, named, labels, preds)) for o in score], 0)/n
    if isinstance(score, pd.Series):
        if not np.array_equal(np.sort(score.index), np.arange(n)):
            raise ValueError(f"score is a Series whose index is not the positions 0..{n - 1}: pass score.to_numpy() in "
                             "the order of the data set")
        score = score.sort_index()
    values = np.asarray(score(labels, preds) if callable(score) else score, dtype=float)
    if values.shape != (n,):
        found = f'{len(values)} scores' if values.ndim == 1 else f'shape {values.shape}'
        raise ValueError(f"score gives {found} for {n} items: pass one an item, low where its label is likely wrong")
    if not np.isfinite(values).all():
        raise ValueError(f"score gives {(~np.isfinite(values)).sum()} values that are not finite: pass numbers")
    return values


def check_choice(
    name,  # Name of the argument
    value,  # What was passed
    choices,  # What may be passed
):
    "Raise ValueError where `value` is none of `choices`"
    if value not in choices: raise ValueError(f"{name} is {value!r}: choose one of {', '.join(choices)}")


def check_numbers(
    name,  # Name of the argument
    x,  # What was passed
    ndims,  # Numbers of axes that it may have
) -> np.ndarray:
    "`x` as an array of finite numbers, or TypeError or ValueError"
    x = as_array(x)
    if x.dtype.kind not in 'fiub': raise TypeError(f"{name} has dtype {x.dtype}: pass an array of numbers")
    if x.ndim not in ndims or not x.size:
        raise ValueError(f"{name} has shape {x.shape}: pass {' or '.join(map(str, ndims))} axes, items first, "
                         "and at least 1 item")
    bad = ~np.isfinite(x.reshape(len(x), -1)).all(1)
    if bad.any():
        raise ValueError(f"{name} has NaN or infinite values in {bad.sum()} rows, first in row {bad.argmax()}: "
                         "leave those items out, or label or predict them")
    return x
