"Which fold holds out which item"
from typing import Any

import numpy as np
import pandas as pd
import torch
from fastcore.foundation import L
from numpy.typing import ArrayLike
from sklearn.model_selection import StratifiedGroupKFold

from .._rows import aligned, as_series
from .._text import brief
from ..issues.checks import as_array


def fold_numbers(
    targets: ArrayLike,  # Class indices (n,), numbers (n,) or (n, k), booleans (n, c) of labels
    n_folds: int = 5,  # Number of folds
    splits: Any = None,  # Fold numbers or group ids (n,), scikit-learn splitter; None: stratified
    seed: int = 42,  # Seed of the shuffling; no global random state is touched
    copies: np.ndarray | None = None,  # Integers (n,), the same for copies of one item
) -> np.ndarray:  # (n,) int64, the fold in which each item is held out
    """The fold of each item; copies of one item share a fold if `splits` is None.

    Every fold has its share of every class, even of classes rarer than `n_folds`, of low and of
    high numbers, and of the items whose rarest label is the same.

    An array `splits` whose values are just 0..n_folds-1 is taken as fold numbers; any other array
    as group ids, whose items stay in one fold (scikit-learn's StratifiedGroupKFold). A splitter
    must hold out each item exactly once. Raises TypeError if `splits` is a text or a class, and
    ValueError if there are fewer than 2 folds, more folds than items, or if `splits` does not
    fit."""
    splits = as_series(splits)
    if isinstance(targets, (pd.Series, pd.DataFrame)):
        splits = aligned(splits, 'splits', targets.index)
    targets = as_array(targets, 'targets')
    # Several labels may come as 0 and 1; a matrix of floats is numbers
    if targets.ndim == 2 and targets.dtype.kind in 'iu': targets = targets.astype(bool)
    n = len(targets)
    if isinstance(splits, (str, type)):
        raise TypeError(f"splits is {splits!r}: pass fold numbers, group ids, a scikit-learn "
                        "splitter such as KFold(5) or None for stratified folds")
    # Tensors and fastcore's L have a method `split` too
    if hasattr(splits, 'split') and not isinstance(splits, (np.ndarray, torch.Tensor, L)):
        return _from_splitter(splits, targets)
    if not isinstance(n_folds, (int, np.integer)) or n_folds < 2:
        raise ValueError(f"n_folds is {n_folds!r}: use at least 2 folds")
    if isinstance(seed, (bool, np.bool_)):
        raise ValueError(f"seed is {seed}: pass a whole number, 0 or more")
    if n_folds > n:
        raise ValueError(f"n_folds is {n_folds}, but there are only {n} training items: use fewer "
                         "folds")

    if splits is None and copies is not None:
        first, at = np.unique(copies, return_index=True, return_inverse=False)
        if n_folds <= len(first) < n:
            # The first of several copies decides where all of them go
            return _stratified(targets[at], n_folds, seed)[np.searchsorted(first, copies)]
    if splits is None: return _stratified(targets, n_folds, seed)
    return _from_array(splits, targets, n_folds, seed)


def _stratified(targets, n_folds, seed):
    # Items are shuffled, sorted and dealt out in turn. This also works for classes with fewer items
    # than folds, which scikit-learn's StratifiedKFold warns about, and for numbers, which it
    # refuses
    order = np.random.default_rng(seed).permutation(len(targets))
    order = order[np.argsort(_strata(targets)[order], kind='stable')]
    fold = np.empty(len(targets), dtype=np.int64)
    fold[order] = np.arange(len(targets)) % n_folds
    return fold


def _strata(targets):
    "What neighbours in a stratified order share: class, first number or rarest label"
    if targets.ndim == 1: return targets
    if targets.dtype != bool: return targets[:, 0]
    rank = np.argsort(np.argsort(targets.sum(0), kind='stable'))
    return np.where(targets, rank, len(rank)).min(1)


def _from_array(splits, targets, n_folds, seed):
    "Folds of an array of fold numbers or of group ids"
    n = len(targets)
    groups = as_array(list(splits) if isinstance(splits, L) else splits, 'splits')
    if groups.ndim != 1 or len(groups) != n:
        raise ValueError(f"splits has shape {groups.shape}, but there are {n} training items: pass "
                         "one number or group id per item, or a scikit-learn splitter")
    if pd.isna(groups).any():
        raise ValueError("splits has missing values: give every item a fold number or group id")
    try: values, codes = np.unique(groups, return_inverse=True)
    # Numbers and texts have no order
    except TypeError: values, codes = np.unique(list(map(repr, groups)), return_inverse=True)
    if len(values) < 2:
        raise ValueError(f"splits has {brief(values[0])} for all {n} training items: give them at "
                         "least 2 fold numbers or group ids")
    if len(values) < n_folds:
        raise ValueError(f"splits has {len(values)} distinct values, fewer than n_folds={n_folds}: "
                         f"pass n_folds={len(values)} to hold out one value at a time")
    if len(values) == n_folds: return codes.astype(np.int64)

    strata = _strata(targets)
    if strata.dtype.kind == 'f': strata = np.argsort(np.argsort(strata))*10//n
    # StratifiedGroupKFold refuses strata none of which has an item for every fold
    counts = np.unique(strata, return_counts=True)[1]
    if counts.max() < n_folds: strata = np.zeros(n, dtype=np.int64)
    splitter = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
    return _from_splitter(splitter, strata, codes)


def _from_splitter(splitter, targets, groups=None):
    n = len(targets)
    fold = np.full(n, -1, dtype=np.int64)
    for k, (train, test) in enumerate(splitter.split(np.arange(n), targets, groups)):
        if (fold[test] >= 0).any() or len(train) + len(test) != n:
            raise ValueError(f"splits is a {type(splitter).__name__}, which does not hold out each "
                             "item exactly once and train on the rest: use KFold, StratifiedKFold, "
                             "GroupKFold or the like")
        fold[test] = k
    if (fold < 0).any() or fold.max(initial=0) < 1:
        raise ValueError(f"splits is a {type(splitter).__name__}, which never holds out "
                         f"{(fold < 0).sum()} of {n} items: use KFold, StratifiedKFold, GroupKFold "
                         "or the like")
    return fold
