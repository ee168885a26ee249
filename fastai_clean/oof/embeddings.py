"Out-of-fold predictions from features that were made elsewhere"
from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from .._rows import aligned, as_series
from .._text import as_text
from ..data import fold_numbers
from ..issues.checks import as_array, by_column, check_labels, check_vocab
from ..issues.multilabel import indicators
from .heads import METRICS, PART, held_out_preds, on_device, standardise
from .leaks import warn_of_copies


class Predicted(NamedTuple):
    "The arguments of an OutOfFold, in its order"
    pred_probs: np.ndarray
    targets: np.ndarray
    fold: np.ndarray
    ids: list[str]
    vocab: list
    config: dict
    task: str


def predict_features(
    features: Any,  # As `OutOfFold.from_features` takes them, as are the next
    labels: Any,
    vocab: Any,
    ids: Any,
    n_folds: int,
    splits: Any,
    seed: int,
    n_repeats: int,
    n_rounds: int,
    task: str | None,
    device: Any,
) -> Predicted:
    "What `OutOfFold.from_features` returns; raises as it does"
    for name, value, least in (('seed', seed, 0), ('n_repeats', n_repeats, 1),
                               ('n_rounds', n_rounds, 1)):
        whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
        if not whole or value < least:
            raise ValueError(f"{name} is {value!r}: pass a whole number, {least} or more")
    if task is not None and task not in METRICS:
        raise ValueError(f"task is {task!r}: choose one of {', '.join(METRICS)}")

    features, labels, splits, ids = _in_one_order(features, labels, splits, ids)
    features = as_array(features, 'features')
    _check_features(features)
    n = len(features)
    if len(labels) != n:
        raise ValueError(f"labels has length {len(labels)}, but features has {n} rows: pass one "
                         "label per row")
    ids = [as_text(o) for o in (range(n) if ids is None else ids)]
    if len(ids) != n:
        raise ValueError(f"ids has length {len(ids)}, but features has {n} rows: pass one id per "
                         "row")
    targets, vocab, task = _targets(labels, vocab, task)
    copies = _copies(features)
    fold = fold_numbers(targets, n_folds, splits, seed, copies)
    warn_of_copies(copies, fold, ids, splits is not None)
    numbers = [fold, *(fold_numbers(targets, n_folds, splits, seed + r, copies)
                       for r in range(1, n_repeats))]

    c = len(vocab) if task != 'regression' else targets.reshape(n, -1).shape[1]
    device = torch.device('cpu' if device is None else device)
    x = on_device(standardise(features), device)
    y = torch.from_numpy(targets).to(device)
    found = held_out_preds(x, y, numbers, task, c, seed, n_rounds)
    preds = found.preds.reshape(targets.shape) if task == 'regression' else found.preds
    config = {'mode': 'features', 'n_folds': int(fold.max()) + 1, 'seed': int(seed),
              'n_repeats': int(n_repeats), 'n_features': features.shape[1],
              'n_rounds': len(found.left_out), 'left_out': [round(o, 4) for o in found.left_out],
              'fold_metrics': found.folds}
    return Predicted(preds, targets, fold, ids, vocab, config, task)


def _in_one_order(features, labels, splits, ids):
    """The same with the rows in one order: that of the labels if they have an index, else that of
    the features; the index of the first of them names the items"""
    labels = as_series(labels)
    frames = pd.Series, pd.DataFrame
    index = next((o.index for o in (labels, features) if isinstance(o, frames)), None)
    if index is None: return features, labels, splits, ids
    features, labels, splits, ids = (aligned(o, name, index) for o, name in (
        (features, 'features'), (labels, 'labels'), (splits, 'splits'), (ids, 'ids')))
    return features, labels, splits, index if ids is None and index.is_unique else ids


def _check_features(features):
    if features.ndim != 2 or not features.shape[1] or features.dtype.kind not in 'fiub':
        raise ValueError(f"features has shape {features.shape} and dtype {features.dtype}: pass "
                         "numbers, one row for each item")
    bad = np.zeros(len(features), bool)
    size = max(1, PART//features.shape[1])
    for i in range(0, len(features), size):
        bad[i:i + size] = ~np.isfinite(features[i:i + size]).all(1)
    if bad.any():
        raise ValueError(f"features has {bad.sum()} rows with NaN or infinite values, first row "
                         f"{bad.argmax()}: leave those items out")


def _targets(labels, vocab, task):
    "Targets, vocab and task of what the user passed as labels"
    if vocab is not None: vocab = list(vocab)
    several = not isinstance(labels, pd.DataFrame) and _are_lists(labels)
    if several and task in (None, 'multilabel'):
        if vocab is None:
            vocab = sorted({o for row in labels for o in row}, key=lambda o: (as_text(type(o)), o))
        labels = indicators(labels, len(vocab), vocab)
    elif isinstance(labels, pd.DataFrame) and (labels.dtypes.map(lambda o: o.kind) != 'f').all():
        labels = by_column(labels, 'labels', vocab)
        if vocab is None: vocab = [*labels.columns]
    y = as_array(labels, 'labels')
    if task is None: task = _task_of(y)
    if task == 'regression':
        if y.dtype.kind not in 'fiub' or y.ndim not in (1, 2) or not np.isfinite(y).all():
            raise ValueError(f"labels has shape {y.shape} and dtype {y.dtype}: for regression, "
                             "pass finite numbers, (n,) or (n, k)")
        targets = y.astype(np.float32)
    elif task == 'multilabel':
        if y.ndim != 2 or y.dtype.kind not in 'fiub' or not np.isin(y, (0, 1)).all():
            raise ValueError(f"labels has shape {y.shape} and dtype {y.dtype}: for several labels "
                             "an item, pass (items, classes), 1 if the item has the class, else "
                             "0, or a list of classes for each item")
        targets = y.astype(bool)
        check_vocab(vocab, y.shape[1])
        if vocab is None: vocab = [*range(y.shape[1])]
    else:
        if vocab is None: vocab = _classes(y)
        targets = check_labels(labels, len(y), len(vocab), vocab)
    if task == 'classification' and len(np.unique(targets)) < 2 or (targets == targets[0]).all():
        raise ValueError("labels are all the same: there is nothing to confuse")
    return targets, [] if task == 'regression' else vocab, task


def _are_lists(labels):
    "Whether each item has a list of classes, and the lists are no matrix"
    if hasattr(labels, 'detach') or getattr(labels, 'ndim', 1) != 1: return False
    rows = list(labels)
    kinds = list, tuple, set, np.ndarray
    if not rows or not all(isinstance(o, kinds) for o in rows): return False
    return len({len(o) for o in rows}) > 1 or isinstance(next((k for o in rows for k in o), 0), str)


def _task_of(y):
    if y.ndim == 2: return 'regression' if y.dtype.kind == 'f' else 'multilabel'
    return 'regression' if y.dtype.kind == 'f' else 'classification'


def _classes(y):
    "The distinct labels, in order"
    if y.ndim != 1:
        raise ValueError(f"labels has shape {y.shape}: pass one class per item, or "
                         "task='multilabel'")
    if pd.isna(y).any():
        raise ValueError(f"labels has {pd.isna(y).sum()} missing values: label the items or leave "
                         "them out")
    return np.unique(y).tolist()


def _copies(features):
    "Numbers (n,), the same for rows that are equal"
    return pd.factorize(np.array([hash(row.tobytes()) for row in features]))[0]
