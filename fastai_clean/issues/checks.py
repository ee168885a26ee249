"Labels, predicted probabilities and options, checked: everything here only looks and raises"
import os
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import pandas as pd

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
    probs = as_probs(pred_probs)
    probs = probs.astype(float_of(probs.dtype), copy=False)
    if check_rows(probs): probs = probs.clip(0, 1)
    return check_labels(labels, len(probs), probs.shape[1], vocab), probs


def as_array(
    x: Any,  # Array, list, DataFrame, or tensor on any device
) -> np.ndarray:
    "`x` as an array, copied only if need be"
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
    try: probs = as_array(pred_probs)
    except ValueError as e:
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
    y = as_array(labels)
    if y.shape != (n,):
        raise ValueError(f"labels has shape {y.shape}, but pred_probs has {n} rows: pass one label "
                         "per item")
    if y.dtype.kind not in 'iub': y = _looked_up(y, c, vocab)

    bad = (y < 0) | (y >= c)
    if bad.any():
        raise ValueError(f"labels has {bad.sum()} values outside the vocab, first "
                         f"{y[bad.argmax()]} at position {bad.argmax()}: pred_probs has {c} "
                         f"columns, so labels must be 0..{c - 1}")
    return y.astype(np.int64, copy=False)


def _looked_up(y, c, vocab):
    "Indices of the values of `vocab`"
    if pd.isna(y).any():
        raise ValueError(f"labels has {pd.isna(y).sum()} missing values: label the items or leave "
                         "them out")
    if y.dtype == object and all(isinstance(o, (int, np.integer)) for o in y):
        # Integers beyond 64 bits overflow an astype; clipped, they are still outside the vocab
        return y.clip(-1, c).astype(np.int64)
    if vocab is None:
        raise TypeError(f"labels has dtype {y.dtype}: pass class indices 0..{c - 1}, or vocab= to "
                        "name the columns")

    index = {v: i for i, v in enumerate(vocab)}
    unknown = sorted({repr(v) for v in y.tolist() if v not in index})
    if unknown:
        raise ValueError(f"labels has {len(unknown)} values outside the vocab, for example "
                         f"{unknown[0][:80]}: correct them or add them to vocab and pred_probs")
    return np.array([index[v] for v in y.tolist()])


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
) -> dict:  # The same, `num_to_remove_per_class` as a list of ints or None
    "Raise ValueError if an option of the filters is not a valid number"
    if not isinstance(frac_noise, Real) or not 0 <= frac_noise <= 1:
        raise ValueError(f"frac_noise is {frac_noise!r}: pass a share from 0 to 1")
    if not isinstance(min_examples_per_class, Integral) or min_examples_per_class < 0:
        raise ValueError(f"min_examples_per_class is {min_examples_per_class!r}: pass a whole "
                         "number, 0 or more")

    remove = None
    if num_to_remove_per_class is not None: remove = _check_remove(num_to_remove_per_class, c)
    return dict(frac_noise=frac_noise, num_to_remove_per_class=remove,
                min_examples_per_class=min_examples_per_class)


def _check_remove(num, c):
    "`num_to_remove_per_class` as a list of integers"
    try: num = np.asarray(num)
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
