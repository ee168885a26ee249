"Labels and predicted probabilities, checked: everything here only looks and raises"
import numpy as np
import pandas as pd

TASKS = 'classification', 'multilabel', 'regression', 'segmentation'

def check_labels_probs(
    labels,  # Class indices (n,) below c, or values of `vocab`
    pred_probs,  # Probabilities (n, c), each row summing to 1; array, tensor or DataFrame
    vocab=None,  # The c class names, in the order of the columns of `pred_probs`
) -> tuple[np.ndarray, np.ndarray]:  # int64 labels (n,) and float pred_probs (n, c), not copied where already such
    """The one validation of labels and predicted probabilities: cleanlab itself lets NaN and logits pass.

    Raises TypeError for what is not numbers, ValueError for shapes that do not fit, values outside 0..1, NaN, rows
    that do not sum to 1 and labels outside the vocab; the message says which rows."""
    probs = as_probs(pred_probs)
    probs = probs.astype(float_of(probs.dtype), copy=False)
    if check_rows(probs): probs = probs.clip(0, 1)
    return check_labels(labels, *probs.shape, vocab), probs


def as_array(
    x,  # Array, list, DataFrame, or tensor on any device
) -> np.ndarray:
    "`x` as an array, not copied where it need not be"
    # A tensor is known by its methods, so that tables can be checked without importing torch
    if not hasattr(x, 'detach'): return np.asarray(x)
    x = x.detach().cpu()
    return (x.float() if str(x.dtype) == 'torch.bfloat16' else x).numpy()


def check_vocab(
    vocab,  # Names of the classes, or None
    c,  # Number of classes in pred_probs
    many='classes',  # What pred_probs has `c` of, for the message
    one='class',  # One of these
):
    "Raise TypeError for what is no list, ValueError where there is not one name a class, or two are the same"
    if vocab is None: return
    if not hasattr(vocab, '__len__'): raise TypeError(f"vocab is {vocab!r}: pass a list of the {c} class names")
    if len(vocab) != c or len(set(vocab)) != len(vocab):
        raise ValueError(f"vocab has {len(set(vocab))} different names in {len(vocab)}, but pred_probs has {c} "
                         f"{many}: pass one name a {one}")


def as_probs(
    pred_probs,  # Array, tensor or DataFrame
) -> np.ndarray:  # Not copied where it need not be
    "`pred_probs` as an array of numbers (n, c); raises as `check_labels_probs` does, but does not look at the values"
    try: probs = as_array(pred_probs)
    except ValueError as e: raise ValueError(f"pred_probs is no table ({e}): pass one row of c numbers an item") from e
    if probs.dtype.kind not in 'fiu':
        raise TypeError(f"pred_probs has dtype {probs.dtype}: pass a numeric array of shape (items, classes)")
    if probs.ndim != 2 or probs.shape[1] < 2 or not len(probs):
        raise ValueError(f"pred_probs has shape {probs.shape}: pass (items, classes), at least 1 item and 2 classes")
    return probs


def float_of(
    dtype,  # dtype of probabilities
) -> np.dtype:
    "float32 for itself and for all that is smaller, else float64"
    return np.dtype(np.float32 if dtype == np.float32 or dtype.itemsize < 4 else np.float64)


def check_rows(
    probs,  # Numbers (n, c)
) -> bool:  # Whether any value is a hair outside 0..1
    "Raise ValueError where a row is no probabilities; looks at a few rows at a time, and copies none but those"
    bad, off, beyond = _bad_rows(probs)
    if bad.any():
        raise ValueError(f"pred_probs has NaN or infinite values in {bad.sum()} rows, first in row {bad.argmax()}: "
                         "leave those items out, or predict them (an interrupted fold leaves its rows NaN)")
    if off.any():
        p = probs[off.argmax()].astype(float_of(probs.dtype))
        raise ValueError(f"pred_probs has {off.sum()} rows that are no probabilities, first row {off.argmax()} with "
                         f"values from {p.min():.4g} to {p.max():.4g} and sum {p.sum():.4g}: pass probabilities that "
                         "sum to 1, not logits")
    return beyond


def _bad_rows(probs, values=2**22):
    "Rows that are not finite, rows that are no probabilities, and whether any value is a hair outside 0..1"
    beyond, size = False, max(1, values//probs.shape[1])
    bad, off = np.zeros((2, len(probs)), dtype=bool)
    for i in range(0, len(probs), size):
        p = probs[i:i + size]
        p = p.astype(float_of(p.dtype), copy=False)
        low, high, total = p.min(1), p.max(1), p.sum(1)
        beyond |= bool(low.min() < 0 or high.max() > 1)
        bad[i:i + size] = ~np.isfinite(low) | ~np.isfinite(high)
        off[i:i + size] = (low < -1e-6) | (high > 1 + 1e-3) | (np.abs(total - 1) > 1e-2)
    return bad, off, beyond


def check_labels(
    labels,  # Class indices (n,) below c, or values of `vocab`
    n,  # Number of items
    c,  # Number of classes
    vocab=None,  # The c class names
) -> np.ndarray:  # int64 (n,)
    "The class indices of `labels`; raises as `check_labels_probs` does"
    check_vocab(vocab, c, 'columns', 'column')
    y = as_array(labels)
    if y.shape != (n,):
        raise ValueError(f"labels has shape {y.shape}, but pred_probs has {n} rows: pass one label an item")
    if pd.isna(y).any(): raise ValueError(f"labels has {pd.isna(y).sum()} missing values: label or leave out the items")
    if y.dtype == object and all(isinstance(o, (int, np.integer)) for o in y):
        y = y.clip(-1, c).astype(np.int64)  # what is beyond 64 bits too is outside the vocab
    if y.dtype.kind not in 'iub':
        if vocab is None:
            raise TypeError(f"labels has dtype {y.dtype}: pass class indices 0..{c - 1}, or vocab= to name the columns")
        index = {v: i for i, v in enumerate(vocab)}
        unknown = sorted({repr(v) for v in y.tolist() if v not in index})
        if unknown:
            raise ValueError(f"labels has {len(unknown)} values outside the vocab, for example {unknown[0][:80]}: "
                             "correct them or add them to vocab and pred_probs")
        y = np.array([index[v] for v in y.tolist()])
    bad = (y < 0) | (y >= c)
    if bad.any():
        raise ValueError(f"labels has {bad.sum()} values outside the vocab, first {y[bad.argmax()]} at position "
                         f"{bad.argmax()}: pred_probs has {c} columns, so labels must be 0..{c - 1}")
    return y.astype(np.int64, copy=False)

