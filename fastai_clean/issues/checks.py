"Labels, predicted probabilities and options, checked: everything here only looks and raises"
import os
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import pandas as pd

from .._rows import aligned, as_series
from .._text import brief

TASKS = 'classification', 'multilabel', 'regression', 'segmentation'


def check_labels_probs(
    labels: Any,  # Class indices (n,) below c, or values of `vocab`
    pred_probs: Any,  # Probabilities (n, c), each row summing to 1; array, tensor or DataFrame
    vocab: Sequence | None = None,  # The c class names, in the order of the columns of `pred_probs`
) -> tuple[np.ndarray, np.ndarray]:  # int64 labels (n,) and floats (n, c), copied only if need be
    """The one validation of labels and predicted probabilities: cleanlab itself lets NaN and logits
    pass.

    Raises TypeError for anything but numbers, and ValueError for shapes that do not fit, values
    outside 0..1, NaN, rows that do not sum to 1 and labels outside the vocab; the message names
    the first bad row."""
    labels, pred_probs, vocab = lined_up(labels, pred_probs, vocab)
    probs = check_probs(pred_probs)
    return check_labels(labels, len(probs), probs.shape[1], vocab), probs


def check_probs(
    pred_probs: Any,  # Probabilities (n, c)
) -> np.ndarray:  # Floats (n, c), copied only if need be
    "The probabilities alone; raises as `check_labels_probs` does"
    probs = as_probs(pred_probs)
    probs = probs.astype(float_of(probs.dtype), copy=False)
    return probs.clip(0, 1) if check_rows(probs) else probs


def lined_up(
    labels: Any,  # Given labels; a Series or DataFrame by its index
    pred_probs: Any,  # Probabilities; a DataFrame by its index and its columns
    vocab: Sequence | None = None,  # Names of the classes, or None
) -> tuple[Any, Any, Sequence | None]:  # The same, in the order of `labels` and of `vocab`
    """`pred_probs` with the rows of `labels` and the columns of `vocab`, if it is a DataFrame: its
    columns are the vocab if none is passed, unless they are the numbers 0..c-1.

    Raises ValueError if rows or columns appear twice or do not fit."""
    if not isinstance(pred_probs, pd.DataFrame): return labels, pred_probs, vocab
    if isinstance(labels, (pd.Series, pd.DataFrame)) and not labels.index.equals(pred_probs.index):
        pred_probs = aligned(pred_probs, 'pred_probs', labels.index)
    return labels, by_column(pred_probs, 'pred_probs', vocab), _vocab_of(labels, pred_probs, vocab)


def by_column(
    df: pd.DataFrame,
    name: str,  # What the user calls it, for the message
    vocab: Sequence | None,  # Names of the classes, or None
    names: str = 'the vocab',  # What the user calls `vocab`, for the message
) -> pd.DataFrame:
    "`df` with its columns in the order of `vocab`, unless they are the numbers 0..c-1"
    if not df.columns.is_unique:
        twice = df.columns[df.columns.duplicated()][0]
        raise ValueError(f"{name} has the column {brief(twice)} twice: name each class once")
    columns = list(df.columns)
    if vocab is None or not hasattr(vocab, '__len__') or columns == list(vocab): return df
    # Those that pandas gives to the columns of an array may be meant as positions
    if isinstance(df.columns, pd.RangeIndex) and {*columns} == {*vocab}:
        raise ValueError(f"the columns of {name} are the numbers 0..{len(columns) - 1}, which can "
                         f"be read as positions in {names} and as values of it, which differ: "
                         "pass an array if the columns are in its order, or name them by texts")
    if len(columns) == len(vocab) and {*columns} == {*vocab}:
        # Not by the names themselves: a list of booleans would choose rows
        at = {o: i for i, o in enumerate(columns)}
        return df.iloc[:, [at[o] for o in vocab]]
    if _is_numbered(columns): return df
    lost = [o for o in vocab if o not in columns]
    extra = [o for o in columns if o not in {*vocab}]
    found = f"no column {brief(lost[0])}" if lost else f"the column {brief(extra[0])}"
    where = 'which is' if lost else 'which is not'
    raise ValueError(f"{name} has {found}, {where} in {names}: name its columns as {names} does, "
                     "or pass an array")


def _is_numbered(columns):
    return columns == [*range(len(columns))] and not any(isinstance(o, bool) for o in columns)


def _vocab_of(labels, df, vocab):
    if vocab is not None: return vocab
    columns = list(df.columns)
    if _is_numbered(columns): return None
    texts = [str(i) for i in range(len(columns))]
    # A file holds the numbers of the columns as texts, which sort as 0, 1, 10, 2
    if columns != texts and {*columns} == {*texts} and labels is not None:
        if as_array(labels, 'labels').dtype.kind in 'iu':
            i = next(i for i, o in enumerate(columns) if o != texts[i])
            raise ValueError(f"labels are integers, while column {i} of pred_probs is called "
                             f"{brief(columns[i])}: make the names of the columns integers")
    return columns


def as_array(
    x: Any,  # Array, list, DataFrame, or tensor on any device
    name: str = 'the array',  # What the user calls it, for the message
) -> np.ndarray:
    "`x` as an array, copied only if need be. Raises ValueError if some of its values are masked"
    # numpy would give the values behind the mask, which are not meant to be there
    if isinstance(x, np.ma.MaskedArray):
        masked = int(np.ma.getmaskarray(x).sum())
        if masked:
            raise ValueError(f"{name} has {masked} masked values: leave those items out, or fill "
                             "them")
    # A tensor is known by its methods, so that tables can be checked without importing torch
    if not hasattr(x, 'detach'): return np.asarray(x)
    x = x.detach().cpu()
    return (x.float() if str(x.dtype) == 'torch.bfloat16' else x).numpy()


def check_vocab(
    vocab: Sequence | None,  # Names of the classes, or None
    c: int,  # Number of classes in pred_probs
    many: str = 'classes',  # What the c columns are called, for the message
    one: str = 'class',  # The same for one column
) -> None:
    """Raise TypeError if `vocab` is not a list, ValueError unless it has one name per class, all
    different"""
    if vocab is None: return
    # Even the same set comes in another order in another process
    if not hasattr(vocab, '__len__') or isinstance(vocab, (set, frozenset)):
        raise TypeError(f"vocab is {vocab!r}: pass a list of the {c} class names")
    if len(vocab) != c or len(set(vocab)) != len(vocab):
        raise ValueError(f"vocab has {len(set(vocab))} different names in {len(vocab)}, but "
                         f"pred_probs has {c} {many}: pass one name per {one}")


def as_probs(
    pred_probs: Any,  # Array, tensor or DataFrame
) -> np.ndarray:  # Copied only if need be
    """`pred_probs` as an array of numbers (n, c). Raises as `check_labels_probs` does, but does not
    look at the values"""
    try: probs = as_array(pred_probs, 'pred_probs')
    except ValueError as e:
        if isinstance(pred_probs, np.ma.MaskedArray): raise
        raise ValueError(f"pred_probs is not a table ({e}): pass one row of c numbers per "
                         "item") from e
    if probs.dtype.kind not in 'fiu':
        raise TypeError(f"pred_probs has dtype {probs.dtype}: pass a numeric array of shape "
                        "(items, classes)")
    if probs.ndim != 2 or probs.shape[1] < 2 or not len(probs):
        raise ValueError(f"pred_probs has shape {probs.shape}: pass (items, classes), at least "
                         "1 item and 2 classes")
    return probs


def float_of(
    dtype: np.dtype,  # dtype of probabilities
) -> np.dtype:
    "float32 for itself and for every dtype smaller than 4 bytes, else float64"
    return np.dtype(np.float32 if dtype == np.float32 or dtype.itemsize < 4 else np.float64)


def check_rows(
    probs: np.ndarray,  # Numbers (n, c)
) -> bool:  # Whether any value is a hair outside 0..1
    "Raise ValueError if a row is not probabilities; looks at a few rows at a time"
    bad, off, beyond = _bad_rows(probs)
    if bad.any():
        raise ValueError(f"pred_probs has NaN or infinite values in {bad.sum()} rows, first in row "
                         f"{bad.argmax()}: leave those items out, or predict them (an interrupted "
                         "fold leaves its rows NaN)")
    if off.any():
        p = probs[off.argmax()].astype(float_of(probs.dtype))
        raise ValueError(f"pred_probs has {off.sum()} rows that are not probabilities, first row "
                         f"{off.argmax()} with values from {p.min():.4g} to {p.max():.4g} and sum "
                         f"{p.sum():.4g}: pass probabilities that sum to 1, not logits")
    return beyond


def _bad_rows(probs, values=2**20):
    "Rows that are not finite, rows that are not probabilities, whether a value is out of 0..1"
    beyond = False
    size = max(1, values//probs.shape[1])
    bad, off = np.zeros((2, len(probs)), dtype=bool)
    for i in range(0, len(probs), size):
        p = probs[i:i + size]
        p = p.astype(float_of(p.dtype), copy=False)
        low = p.min(1)
        high = p.max(1)
        beyond |= bool(low.min() < 0 or high.max() > 1)
        bad[i:i + size] = ~np.isfinite(low) | ~np.isfinite(high)
        off[i:i + size] = (low < -1e-6) | (high > 1 + 1e-3) | (np.abs(p.sum(1) - 1) > 1e-2)
    return bad, off, beyond


def check_labels(
    labels: Any,  # Class indices (n,) below c, or values of `vocab`
    n: int,  # Number of items
    c: int,  # Number of classes
    vocab: Sequence | None = None,  # The c class names
) -> np.ndarray:  # int64 (n,)
    "The class indices of `labels`; raises as `check_labels_probs` does"
    check_vocab(vocab, c, 'columns', 'column')
    y = as_array(as_series(labels), 'labels')
    if y.shape != (n,):
        raise ValueError(f"labels has shape {y.shape}, but pred_probs has {n} rows: pass one label "
                         "per item")
    if y.dtype.kind not in 'iub':
        if pd.isna(y).any():
            raise ValueError(f"labels has {pd.isna(y).sum()} missing values: label the items or "
                             "leave them out")
        y = _typed(y)
    if vocab is not None and not _are_positions(y, c, list(vocab)): return _looked_up(y, vocab)
    if y.dtype.kind not in 'iub' and not all(isinstance(o, Integral) for o in y):
        raise TypeError(f"labels has dtype {y.dtype}: pass class indices 0..{c - 1}, or vocab= to "
                        "name the columns")

    bad = (y < 0) | (y >= c)
    if bad.any():
        raise ValueError(f"labels has {bad.sum()} values outside the vocab, first "
                         f"{brief(y[bad.argmax()])} at position {bad.argmax()}: pred_probs has {c} "
                         f"columns, so labels must be 0..{c - 1}")
    return y.astype(np.int64, copy=False)


def _typed(y):
    "Objects that are all booleans or integers of 64 bits, as pandas' own types give them, as such"
    if y.dtype != object: return y
    if all(isinstance(o, (bool, np.bool_)) for o in y): return y.astype(bool)
    if not all(isinstance(o, Integral) for o in y): return y
    try: return y.astype(np.int64)
    except OverflowError: return y


def _are_positions(y, c, vocab):
    """Whether labels are class indices, and not values of `vocab`: numbers and booleans in it are
    names. Raises ValueError if they can be both, and mean something else then"""
    if y.dtype.kind not in 'iub': return all(isinstance(o, Integral) for o in y)
    numbers = any(isinstance(o, (Real, np.bool_)) for o in vocab)
    if y.dtype != bool and not numbers: return True
    values = np.unique(y).tolist()
    index = {v: i for i, v in enumerate(vocab)}
    named = all(v in index for v in values)
    if y.dtype == bool:
        if named: return False
        # fastai turns a column of booleans into these texts
        if {*map(str, values)} <= {*vocab}: return False
        raise ValueError(f"labels are booleans, but the vocab is {brief(vocab)}: pass values of "
                         "the vocab, or their positions as integers")
    if not named:
        outside = [v for v in values if v not in index]
        if all(isinstance(o, Real) for o in vocab) and not 0 <= min(values) <= max(values) < c:
            raise ValueError(f"labels has {len(outside)} values outside the vocab, for example "
                             f"{brief(outside[0])}: correct them or add them to vocab and "
                             "pred_probs")
        return True
    changed = [v for v in values if index[v] != v]
    if changed and 0 <= min(values) and max(values) < c:
        raise two_readings(changed[0], index)
    return not changed


def two_readings(
    value,  # A label
    at: dict,  # Value of the vocab -> its position
) -> ValueError:
    "What to raise for a number that is a value of the vocab and another's position"
    return ValueError(f"labels can be read as values of the vocab and as positions in it, which "
                      f"differ: {brief(value)} is at position {at[value]} of {brief(list(at))}; "
                      "pass texts for both, or positions without a vocab")


def _looked_up(y, vocab):
    "Indices of the values of `vocab`"
    index = {v: i for i, v in enumerate(vocab)}
    if y.dtype == bool and {'False', 'True'} & {*index}: y = y.astype(str)
    y = y.tolist()
    unknown = sorted({brief(v) for v in y if v not in index})
    if unknown:
        raise ValueError(f"labels has {len(unknown)} values outside the vocab, for example "
                         f"{unknown[0]}: correct them or add them to vocab and pred_probs")
    return np.array([index[v] for v in y], dtype=np.int64)


def check_two_classes(
    labels: np.ndarray,  # Class indices (n,)
) -> None:
    "Raise ValueError if all labels are the same: confident learning compares classes"
    if (labels == labels[0]).all():
        raise ValueError(f"labels has only {labels[0]}: confident learning needs items of "
                         "at least 2 given classes")


def check_options(
    c: int,  # Number of classes
    frac_noise: float = 1.,  # As in `find_issues`, as are those below
    num_to_remove_per_class: Sequence[int] | None = None,
    min_examples_per_class: int = 1,
    vocab: Sequence | None = None,  # Names of the classes, for numbers that are given by them
) -> dict:  # The first three, `num_to_remove_per_class` as a list of ints or None
    "Raise ValueError if an option of the filters is not a valid number"
    if not isinstance(frac_noise, Real) or not 0 <= frac_noise <= 1:
        raise ValueError(f"frac_noise is {frac_noise!r}: pass a share from 0 to 1")
    if not isinstance(min_examples_per_class, Integral) or min_examples_per_class < 0:
        raise ValueError(f"min_examples_per_class is {min_examples_per_class!r}: pass a whole "
                         "number, 0 or more")

    remove = None
    if num_to_remove_per_class is not None:
        remove = check_remove(of_classes(num_to_remove_per_class, vocab), c)
    return dict(frac_noise=frac_noise, num_to_remove_per_class=remove,
                min_examples_per_class=min_examples_per_class)


def of_classes(
    numbers: Any,  # `num_to_remove_per_class`: a Series or dict by class, or in their order
    vocab: Sequence | None,  # Names of the classes; None: their indices
) -> Any:
    "`numbers` in the order of the classes. Raises ValueError if it has others"
    if not isinstance(numbers, (pd.Series, dict)): return numbers
    numbers = pd.Series(numbers)
    classes = list(range(len(numbers)) if vocab is None else vocab)
    if _is_numbered([*numbers.index]) and not any(isinstance(o, Real) for o in classes):
        return numbers.to_numpy()
    at = {o: i for i, o in enumerate(numbers.index)}
    odd = [o for o in at if o not in {*classes}] + [o for o in classes if o not in at]
    if odd or len(numbers) != len(classes):
        first = f', {brief(odd[0])} is not in both' if odd else ''
        raise ValueError(f"num_to_remove_per_class has numbers for {len(numbers)} classes, and "
                         f"the vocab {len(classes)}{first}: pass one number per class, by its name")
    return numbers.iloc[[at[o] for o in classes]].to_numpy()


def check_remove(
    num: Any,  # `num_to_remove_per_class`, in the order of the classes
    c: int,  # Number of classes
) -> list[int]:
    "The same as integers. Raises ValueError unless they are c whole numbers, 0 or more"
    try: num = as_array(num, 'num_to_remove_per_class')
    except ValueError: num = np.asarray(num, dtype=object)  # Rows of different lengths
    if num.shape != (c,):
        raise ValueError(f"num_to_remove_per_class has shape {num.shape}, but pred_probs has {c} "
                         "columns: pass one number per column")
    if num.dtype.kind not in 'iu' or num.min() < 0:
        raise ValueError(f"num_to_remove_per_class has dtype {num.dtype} and values such as "
                         f"{num.tolist()[0]!r}: pass whole numbers, 0 or more")
    return num.tolist()


def workers(
    n_jobs: int | None,  # What the user passed
) -> int:  # 1 to the number of processors
    """Number of threads for `n_jobs`; None and -1 mean one per processor. Raises ValueError if it
    is not such a number"""
    most = os.cpu_count() or 1
    if n_jobs is None: return most
    if isinstance(n_jobs, bool) or not isinstance(n_jobs, Integral) or n_jobs < -1 or not n_jobs:
        raise ValueError(f"n_jobs is {n_jobs!r}: pass 1 or more, or -1 for one per processor")
    return most if n_jobs == -1 else min(int(n_jobs), most)
