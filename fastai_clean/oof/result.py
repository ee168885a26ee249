"The out-of-fold result, saved and loaded"
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np

from .._files import load_arrays, save_arrays
from ..issues.checks import TASKS, check_labels_probs


class OutOfFold:
    """Out-of-fold predictions: row i is what a model that never saw item i says of it.

    `task` says what the labels are, and with it the shapes: `pred_probs` (n, c) float and `targets` (n,) class indices;
    for several labels an item (`multilabel`) (n, c) probabilities and (n, c) booleans; for `regression` the predictions
    and targets, (n,) or (n, k) float; for `segmentation` (n, c, h, w) and (n, h, w). `fold` (n,) is the fold in which
    the item was held out; `ids` n texts that name the items; `vocab` c class names, empty for regression; `config` how it was
    made, `config['fold_metrics']` with the metrics of each fold's held-out items. Rows of folds that were interrupted
    are NaN, see `done`. Raises ValueError where the lengths do not fit."""

    def __init__(self,
        pred_probs,  # Probabilities (n, c), or predictions, in the order of `dls.train_ds.items`
        targets,  # Given class indices (n,), or targets of the task
        fold=None,  # Fold numbers (n,); None: unknown, all -1
        ids=None,  # Stable names of the items (n,); None: their positions
        vocab=None,  # Class names (c,); None: the class indices
        config=None,  # How the probabilities were made: anything that JSON holds
        task='classification',  # One of `checks.TASKS`
    ):
        if task not in TASKS: raise ValueError(f"task is {task!r}: choose one of {', '.join(TASKS)}")
        self.pred_probs, self.targets, self.task = np.asarray(pred_probs), np.asarray(targets), task
        shape = self.pred_probs.shape
        if len(shape) not in ((1, 2) if task == 'regression' else (4,) if task == 'segmentation' else (2,)):
            raise ValueError(f"pred_probs has shape {shape}, which does not fit the task {task}: see OutOfFold")
        n, c = shape[0], 0 if task == 'regression' else shape[1]
        self.fold = np.full(n, -1) if fold is None else np.asarray(fold)
        self.ids = [str(i) for i in range(n)] if ids is None else [str(o) for o in ids]
        self.vocab = list(range(c)) if vocab is None else [o.item() if isinstance(o, np.generic) else o for o in vocab]
        self.config = dict(config or {})
        wanted = {'classification': (n,), 'segmentation': (n, *shape[2:])}.get(task, shape)
        if self.targets.shape != wanted:
            raise ValueError(f"targets has length {len(self.targets)} and shape {self.targets.shape}, but pred_probs "
                             f"has shape {shape}: it must be {wanted}")
        for name, found, want in (('fold', len(self.fold), n), ('ids', len(self.ids), n),
                                  ('vocab', len(self.vocab), c)):
            if found != want:
                raise ValueError(f"{name} has length {found}, but pred_probs has shape {shape}: it must be {want}")

    def __len__(self): return len(self.pred_probs)

    def __repr__(self):
        kind = f'{len(self.vocab)} classes' if self.vocab else f'{self.pred_probs[:1].size} numbers each'
        return (f"OutOfFold({len(self)} items, {kind}, {len(np.unique(self.fold))} folds, {self.done.sum()} predicted"
                f"{'' if self.task == 'classification' else ', ' + self.task})")

    @property
    def done(self):
        "Boolean mask (n,) of the items whose fold was finished"
        return np.isfinite(self.pred_probs.reshape(len(self), -1).sum(1))

    @classmethod
    def from_arrays(cls,
        labels,  # Class indices (n,), or values of `vocab`
        pred_probs,  # Probabilities (n, c) made elsewhere, each row by a model that did not see the item
        *,
        vocab=None,  # Class names (c,)
        ids=None,  # Stable names of the items (n,)
        fold=None,  # Fold numbers (n,)
        config=None,  # How the probabilities were made
    ):
        "An OutOfFold of probabilities made elsewhere, checked as `find_issues` checks them; raises what it raises"
        labels, pred_probs = check_labels_probs(labels, pred_probs, vocab)
        return cls(pred_probs, labels, fold, ids, vocab, config)

    def save(self,
        path,  # Folder to make
        overwrite=False,  # Whether to replace an OutOfFold saved there before
    ) -> Path:
        """Write .npy and .json files, never a pickle, into the new folder `path`, which appears whole or not at all.

        Raises FileExistsError where `path` holds something else, or holds an OutOfFold and `overwrite` is False, and
        TypeError where a name of the vocab is not text, a number or a boolean."""
        meta = dict(format=2, task=self.task, ids=self.ids, vocab=self.vocab, config=self.config)
        return save_arrays(path, 'an OutOfFold', 'oof.json', {o: getattr(self, o) for o in _ARRAYS}, meta, overwrite,
                           _plain)

    @classmethod
    def load(cls,
        path,  # Folder that `save` made
        mmap_mode=None,  # 'r' leaves the probabilities on disk, as a memory map; None reads them
    ):
        "Read what `save` wrote. Raises FileNotFoundError or ValueError that name what is missing or does not fit"
        if mmap_mode not in (None, 'r'): raise ValueError(f"mmap_mode is {mmap_mode!r}: pass 'r' or None")
        arrays, meta = load_arrays(path, 'OutOfFold', 'oof.json', _ARRAYS, ('pred_probs',) if mmap_mode else ())
        return cls(**arrays, **{o: meta[o] for o in ('ids', 'vocab', 'config')},
                   task=meta.get('task', 'classification'))


def _plain(o):
    if hasattr(o, 'tolist'): return o.tolist()
    raise TypeError(f"config holds {o!r}, which JSON cannot: use text, numbers, lists and dicts")


_ARRAYS = 'pred_probs', 'targets', 'fold'
_oofs = WeakKeyDictionary()


def oof_of(
    learn,  # A Learner
) -> OutOfFold | None:
    "The OutOfFold of the training set of `learn`, as `learn.oof` gives it"
    return _oofs.get(learn)


def set_oof(
    learn,  # A Learner
    value,  # An OutOfFold; None: forget it
):
    "Set `learn.oof`. It is kept beside the Learner, so that `learn.export()` leaves it out"
    if value is None: _oofs.pop(learn, None)
    elif isinstance(value, OutOfFold): _oofs[learn] = value
    else: raise TypeError(f"oof is a {type(value).__name__}: set an OutOfFold, for example OutOfFold.load(path)")
