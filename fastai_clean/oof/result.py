"The out-of-fold result, saved and loaded"
from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd
from fastai.learner import Learner

from .._files import load_arrays, save_arrays
from .._rows import aligned
from .._text import as_text, brief
from ..issues.checks import TASKS, check_labels_probs, lined_up
from .embeddings import predict_features


class OutOfFold:
    """Out-of-fold predictions: row i is what a model that never saw item i says about it.

    >>> oof = OutOfFold([[.9, .1], [.2, .8]], [0, 0], ids=['a.png', 'b.png'], vocab=['cat', 'dog'])
    >>> oof
    OutOfFold(2 items, 2 classes, 1 folds, 2 predicted)
    >>> oof.ids, oof.pred_probs.argmax(1).tolist()
    (['a.png', 'b.png'], [0, 1])

    `task` says what the labels are, and with it the shapes: `pred_probs` (n, c) float and `targets`
    (n,) class indices; for several labels per item (`multilabel`) (n, c) probabilities and (n, c)
    booleans; for `regression` the predictions and targets, (n,) or (n, k) float; for
    `segmentation` (n, c, h, w) and (n, h, w). `fold` (n,) is the fold in which the item was held
    out; `ids` n texts that name the items; `vocab` c class names, empty for regression; `config`
    how it was made, `config['fold_metrics']` with the metrics of each fold's held-out items. Rows
    of folds that were interrupted are NaN, see `done`.

    A DataFrame's columns are the classes, brought into the order of `vocab`, or the vocab itself;
    Series and DataFrames are brought into the order of `targets`, or of the first of `ids` and
    `fold`, that is a Series. Raises ValueError if that fails, if the lengths do not fit, and if an
    id is there twice."""

    def __init__(self,
        pred_probs: Any,  # Probabilities (n, c), or predictions, in the order of the training set
        targets: Any,  # Given class indices (n,), or targets of the task
        fold: Any = None,  # Fold numbers (n,); None: unknown, all -1
        ids: Any = None,  # Stable names of the items (n,); None: their positions
        vocab: Any = None,  # Class names (c,); None: the class indices
        config: dict | None = None,  # How the probabilities were made: anything that JSON holds
        task: str = 'classification',  # One of `checks.TASKS`
    ):
        if task not in TASKS:
            raise ValueError(f"task is {task!r}: choose one of {', '.join(TASKS)}")
        # The columns of regression are outputs, not classes
        if task != 'regression': _, pred_probs, vocab = lined_up(None, pred_probs, vocab)
        pred_probs, targets, fold, ids = _in_one_order(pred_probs, targets, fold, ids)
        self.pred_probs = np.asarray(pred_probs)
        self.targets = np.asarray(targets)
        self.task = task
        shape = self.pred_probs.shape
        if len(shape) not in _NDIMS.get(task, (2,)):
            raise ValueError(f"pred_probs has shape {shape}, which does not fit the task {task}: "
                             "see OutOfFold")

        n = shape[0]
        c = 0 if task == 'regression' else shape[1]
        self.fold = np.full(n, -1) if fold is None else np.asarray(fold)
        self.ids = [str(o) for o in (range(n) if ids is None else ids)]
        vocab = range(c) if vocab is None else vocab
        self.vocab = [o.item() if isinstance(o, np.generic) else o for o in vocab]
        self.config = dict(config or {})
        wanted = {'classification': (n,), 'segmentation': (n, *shape[2:])}.get(task, shape)
        if self.targets.shape != wanted:
            raise ValueError(f"targets has length {len(self.targets)} and shape "
                             f"{self.targets.shape}, but pred_probs has shape {shape}: it must be "
                             f"{wanted}")
        for name, want in (('fold', n), ('ids', n), ('vocab', c)):
            found = len(getattr(self, name))
            if found != want:
                raise ValueError(f"{name} has length {found}, but pred_probs has shape {shape}: it "
                                 f"must be {want}")
        check_ids(self.ids)

    def __len__(self): return len(self.pred_probs)

    def __repr__(self):
        kind = f'{self.pred_probs[:1].size} numbers each'
        if self.vocab: kind = f'{len(self.vocab)} classes'
        task = '' if self.task == 'classification' else f', {self.task}'
        return (f"OutOfFold({len(self)} items, {kind}, {len(np.unique(self.fold))} folds, "
                f"{self.done.sum()} predicted{task})")

    @property
    def done(self) -> np.ndarray:
        "Boolean mask (n,) of the items whose fold was finished"
        return np.isfinite(self.pred_probs.reshape(len(self), -1).sum(1))

    @classmethod
    def from_arrays(cls,
        labels: Any,  # Class indices (n,), or values of `vocab`
        pred_probs: Any,  # Probabilities (n, c), each row by a model that did not see the item
        *,
        vocab: Any = None,  # Class names (c,)
        ids: Any = None,  # Stable names of the items (n,)
        fold: Any = None,  # Fold numbers (n,)
        config: dict | None = None,  # How the probabilities were made
    ) -> OutOfFold:
        """An OutOfFold of probabilities made elsewhere, checked as `find_issues` checks them, and
        brought into one order as OutOfFold does; raises what both raise"""
        _, pred_probs, vocab = lined_up(None, pred_probs, vocab)
        pred_probs, labels, fold, ids = _in_one_order(pred_probs, labels, fold, ids)
        labels, pred_probs = check_labels_probs(labels, pred_probs, vocab)
        return cls(pred_probs, labels, fold, ids, vocab, config)

    @classmethod
    def from_features(cls,
        features: Any,  # (n, d): array, memory map, tensor or DataFrame
        labels: Any,  # Class names or indices (n,), lists of them, booleans (n, c), or numbers
        *,
        vocab: Any = None,  # Class names (c,); None: the distinct labels, in order
        ids: Any = None,  # Stable names of the items (n,); None: the index of `labels`
        n_folds: int = 5,  # Number of folds
        splits: Any = None,  # Fold numbers or group ids (n,), a scikit-learn splitter
        seed: int = 42,  # Seed of the folds
        n_repeats: int = 1,  # Runs, each with the next seed, whose predictions are averaged
        n_rounds: int = 3,  # Rounds of heads, each without what the one before doubts, averaged
        task: str | None = None,  # 'classification', 'multilabel' or 'regression'; None: by labels
        device: Any = None,  # Where to train, such as 'cuda'; None: the CPU
    ) -> OutOfFold:
        """Out-of-fold predictions by linear heads on features made elsewhere, by a network that has
        not seen these labels: what `mode='features'` does with those of a Learner's body.

        >>> oof = OutOfFold.from_features(embeddings, df.label, splits=df.patient)  # doctest: +SKIP

        Floating-point labels mean regression, booleans (n, c) and lists several labels per item,
        anything else one class. A DataFrame of features is brought into the order of `labels` by
        its index if they have one. Equal rows share a fold. Raises ValueError, naming the argument,
        for what does not fit, is missing or not finite."""
        return cls(*predict_features(features, labels, vocab, ids, n_folds, splits, seed, n_repeats,
                                     n_rounds, task, device))

    def save(self,
        path: str | Path,  # Folder to make
        overwrite: bool = False,  # Whether to replace an OutOfFold saved there before
    ) -> Path:
        """Write .npy and .json files, never a pickle, into the new folder `path`, which appears
        whole or not at all.

        Raises FileExistsError if `path` holds something else, or holds an OutOfFold and
        `overwrite` is False, and TypeError if a name of the vocab is not text, a number or a
        boolean."""
        meta = dict(format=2, task=self.task, ids=self.ids, vocab=self.vocab, config=self.config)
        arrays = {o: getattr(self, o) for o in _ARRAYS}
        return save_arrays(path, 'an OutOfFold', 'oof.json', arrays, meta, overwrite, _plain)

    @classmethod
    def load(cls,
        path: str | Path,  # Folder that `save` made
        mmap_mode: str | None = None,  # 'r' leaves the probabilities on disk; None reads them
    ) -> OutOfFold:
        """Read what `save` wrote. Raises a FileNotFoundError or ValueError that names what is
        missing or does not fit. What is left on disk is checked at its two ends only"""
        if mmap_mode not in (None, 'r'):
            raise ValueError(f"mmap_mode is {mmap_mode!r}: pass 'r' or None")
        mapped = ('pred_probs',) if mmap_mode else ()
        arrays, meta = load_arrays(path, 'OutOfFold', 'oof.json', _ARRAYS, mapped)
        # Version 0.1 had only this task, and did not save it
        return cls(**arrays, ids=meta['ids'], vocab=meta['vocab'], config=meta['config'],
                   task=meta.get('task', 'classification'))


def _in_one_order(pred_probs, targets, fold, ids):
    "The same with the rows in one order, where they have names"
    frames = pd.Series, pd.DataFrame
    index = next((o.index for o in (targets, ids, fold) if isinstance(o, frames)), None)
    if index is not None:
        targets, ids, fold, pred_probs = (aligned(o, name, index) for o, name in (
            (targets, 'targets'), (ids, 'ids'), (fold, 'fold'), (pred_probs, 'pred_probs')))
    elif isinstance(pred_probs, pd.DataFrame) and ids is not None:
        ids = list(map(as_text, ids))
        # Labels without names are in the order of `ids`; rows that are named otherwise may be too
        if {*map(as_text, pred_probs.index)} == {*ids}:
            pred_probs = aligned(pred_probs, 'pred_probs', ids=ids)
    return pred_probs, targets, fold, ids


def check_ids(
    ids: list[str],
) -> None:
    "Raise ValueError if one is there twice: nobody could say which item is meant"
    if len({*ids}) == len(ids): return
    first = next(o for o, n in Counter(ids).items() if n > 1)
    raise ValueError(f"ids has {len(ids) - len({*ids})} ids twice, first {brief(first)}: give each "
                     "item its own")


def _plain(o):
    if hasattr(o, 'tolist'): return o.tolist()
    raise TypeError(f"config holds {o!r}, which JSON cannot hold: use text, numbers, lists and "
                    "dicts")


_NDIMS = {'regression': (1, 2), 'segmentation': (4,)}
_ARRAYS = 'pred_probs', 'targets', 'fold'
# Kept beside the Learners, since `learn.export()` pickles whatever is on one
_oofs: WeakKeyDictionary[Learner, OutOfFold] = WeakKeyDictionary()


def oof_of(
    learn: Learner,
) -> OutOfFold | None:
    "The OutOfFold of the training set of `learn`, as `learn.oof` gives it"
    # Without fastai_clean.learner, `learn.oof = ...` sets a plain attribute: take it
    return vars(learn).get('oof', _oofs.get(learn))


def set_oof(
    learn: Learner,
    value: OutOfFold | None,  # None: forget it
) -> None:
    "Set `learn.oof`. Raises TypeError for anything but an OutOfFold or None"
    vars(learn).pop('oof', None)
    if value is None: _oofs.pop(learn, None)
    elif isinstance(value, OutOfFold): _oofs[learn] = value
    else:
        raise TypeError(f"oof is a {type(value).__name__}: set an OutOfFold, for example "
                        "OutOfFold.load(path)")
