"The out-of-fold result, and the fold Learners that make it"
import json
import os
import shutil
from pathlib import Path
from uuid import uuid4
from weakref import WeakKeyDictionary

import numpy as np
from fastai.learner import Learner, SkipToEpoch
from fastai.torch_core import no_random
from fastcore.basics import patch
from fastcore.foundation import L

from .checks import check_labels_probs, check_opt_func, infer_act
from .folds import fold_numbers, item_ids, labels_of, predict
from .replay import FitRecord, FoldLearner, InFold, copy_model, fold_bar, snapshot

__all__ = ['OutOfFold', 'FoldLearners']


class OutOfFold:
    """Out-of-fold probabilities: row i is what a model that never saw item i says of it.

    `pred_probs` (n, c) float; `targets` (n,) class indices as given; `fold` (n,) the fold in which the item was held
    out; `items` n stable names; `vocab` c class names; `config` how it was made. Rows of folds that were interrupted
    are NaN, see `done`. Raises ValueError where the lengths do not fit."""

    def __init__(self,
        pred_probs,  # Probabilities (n, c), in the order of `dls.train_ds.items`
        targets,  # Given class indices (n,)
        fold=None,  # Fold numbers (n,); None: unknown, all -1
        items=None,  # Stable names of the items (n,); None: their positions
        vocab=None,  # Class names (c,); None: the class indices
        config=None,  # How the probabilities were made: anything that JSON holds
    ):
        self.pred_probs, self.targets = np.asarray(pred_probs), np.asarray(targets)
        n, c = self.pred_probs.shape
        self.fold = np.full(n, -1) if fold is None else np.asarray(fold)
        self.items = [str(i) for i in range(n)] if items is None else [str(o) for o in items]
        self.vocab = list(range(c)) if vocab is None else [o.item() if isinstance(o, np.generic) else o for o in vocab]
        self.config = dict(config or {})
        for name, found, want in (('targets', len(self.targets), n), ('fold', len(self.fold), n),
                                  ('items', len(self.items), n), ('vocab', len(self.vocab), c)):
            if found != want:
                raise ValueError(f"{name} has length {found}, but pred_probs has shape {(n, c)}: it must be {want}")

    def __len__(self): return len(self.pred_probs)

    def __repr__(self):
        n, c = self.pred_probs.shape
        return f"OutOfFold({n} items, {c} classes, {len(np.unique(self.fold))} folds, {self.done.sum()} predicted)"

    @property
    def done(self):
        "Boolean mask (n,) of the items whose fold was finished"
        return np.isfinite(self.pred_probs).all(1)

    @classmethod
    def from_arrays(cls,
        labels,  # Class indices (n,), or values of `vocab`
        pred_probs,  # Probabilities (n, c) made elsewhere, each row by a model that did not see the item
        *,
        vocab=None,  # Class names (c,)
        items=None,  # Stable names of the items (n,)
        fold=None,  # Fold numbers (n,)
        config=None,  # How the probabilities were made
    ):
        "An OutOfFold of probabilities made elsewhere, checked as `find_issues` checks them; raises what it raises"
        labels, pred_probs = check_labels_probs(labels, pred_probs, vocab)
        return cls(pred_probs, labels, fold, items, vocab, config)

    def save(self,
        path,  # Folder to make
        overwrite=False,  # Whether to replace an OutOfFold saved there before
    ) -> Path:
        """Write .npy and .json files, never a pickle, into the new folder `path`, which appears whole or not at all.

        Raises FileExistsError where `path` holds something else, or holds an OutOfFold and `overwrite` is False, and
        TypeError where a name of the vocab is not text, a number or a boolean."""
        path = Path(path)
        for o in self.vocab:
            if not isinstance(o, (str, int, float)): raise TypeError(f"vocab holds {o!r}: use text or numbers")
        if path.exists():
            if not path.is_dir() or {o.name for o in path.iterdir()} - _FILES:
                raise FileExistsError(f"path {path} holds other files: choose a new folder")
            if any(path.iterdir()) and not overwrite:
                raise FileExistsError(f"path {path} holds an OutOfFold already: choose a new folder or overwrite=True")
        tmp, old = (path.with_name(f'.{path.name}-{uuid4().hex}-{o}') for o in ('new', 'old'))
        tmp.mkdir(parents=True)
        try:
            for name in _ARRAYS: np.save(tmp/f'{name}.npy', getattr(self, name), allow_pickle=False)
            meta = dict(format=1, items=self.items, vocab=self.vocab, config=self.config)
            (tmp/'oof.json').write_text(json.dumps(meta), encoding='utf-8')
            if path.exists(): os.replace(path, old)
            os.replace(tmp, path)
        finally:
            if old.exists() and not path.exists(): os.replace(old, path)
            for o in (tmp, old): shutil.rmtree(o, ignore_errors=True)
        return path

    @classmethod
    def load(cls,
        path,  # Folder that `save` made
    ):
        "Read what `save` wrote. Raises FileNotFoundError or ValueError that name what is missing or does not fit"
        path = Path(path)
        if missing := sorted(o for o in _FILES if not (path/o).is_file()):
            raise FileNotFoundError(f"path {path} is no saved OutOfFold: {', '.join(missing)} missing")
        meta = json.loads((path/'oof.json').read_text(encoding='utf-8'))
        arrays = {name: np.load(path/f'{name}.npy', allow_pickle=False) for name in _ARRAYS}
        return cls(**arrays, items=meta['items'], vocab=meta['vocab'], config=meta['config'])


_ARRAYS = 'pred_probs', 'targets', 'fold'
_FILES = {'oof.json', *(f'{o}.npy' for o in _ARRAYS)}
_oofs = WeakKeyDictionary()


def _set_oof(learn, value):
    if value is None: _oofs.pop(learn, None)
    elif isinstance(value, OutOfFold): _oofs[learn] = value
    else: raise TypeError(f"oof is a {type(value).__name__}: set an OutOfFold, for example OutOfFold.load(path)")


Learner.oof = property(_oofs.get, _set_oof, doc="The `OutOfFold` of the training set, or None; `export` leaves it out")


class FoldLearners:
    """K copies of a Learner, each with its own model, optimizer, DataLoaders, callbacks and random numbers, that repeat
    its fits on all training items but their fold, and predict that fold.

    Nothing of the Learner is changed but its `oof`, nor the global random state. Raises TypeError or ValueError, before
    anything is trained, for a Learner whose labels cannot be checked this way."""

    def __init__(self,
        record,  # FitRecord of the first fit: the Learner as it is before training
        n_folds=5,  # Number of folds
        splits=None,  # See `fold_numbers`
        seed=42,  # Seed of the folds and of each fold Learner's random numbers
        act=None,  # Activation that turns outputs into probabilities; None: the loss's
        leave_out=(),  # Callback classes that folds leave out, besides progress, loggers and trackers
    ):
        learn = record.learn
        check_opt_func(learn.opt_func)
        if seed < 0: raise ValueError(f"seed is {seed}: pass a whole number, 0 or more")
        self.learn, self.seed, self.leave_out = learn, int(seed), tuple(L(leave_out))
        self.act = infer_act(record.loss_func, act)
        with self._random():
            self.targets, self.vocab = labels_of(learn.dls.train)
            if len(np.unique(self.targets)) < 2 or (self.vocab is not None and len(self.vocab) < 2):
                raise ValueError("the training set has fewer than two classes: there is nothing to confuse")
            self.fold = fold_numbers(self.targets, n_folds, splits, seed)
            self.items = item_ids(learn.dls.train_ds, learn.path)
            self.snapshot = snapshot(learn)
        self.n_folds = int(self.fold.max()) + 1
        self.config = dict(n_folds=self.n_folds, seed=self.seed, model=type(learn.model).__name__,
                           splits='stratified' if splits is None else type(splits).__name__)
        self.fits, self.folds, self.pred_probs = [], {}, None

    def _random(self, *keys):
        return no_random(int(np.random.SeedSequence([self.seed, *keys]).generate_state(1)[0]) >> 1, reproducible=False)

    def _new_fold(self): return FoldLearner(self.learn, copy_model(self.snapshot), self.leave_out)

    def prepare(self,
        record,  # The FitRecord of the fit that begins
    ):
        """Copy what the folds need of a fit before it changes, and see that a fold Learner can be built and predicts.

        Raises ValueError where the training set is no longer the one that was split or the outputs are no class
        probabilities, TypeError where the data, the optimizer or a callback cannot be copied."""
        with self._random():
            if self.fits and record.dls is not self.fits[-1].dls and not np.array_equal(
                    labels_of(record.dls.train)[0], self.targets):
                raise ValueError("learn.dls has other training labels than in the fit before: make a new Learner "
                                 "and a new callback for them")
            record.copy_parts(self.leave_out)
            fold = self._new_fold()
            with fold.learn.added_cbs(fold.set_up(record, self.fold == 0)):
                dl = fold.learn.dls.valid
                self._probs(fold.learn, [dl.one_batch() if hasattr(dl, 'one_batch') else next(iter(dl))])

    def follow(self,
        record=None,  # The FitRecord of a fit that has ended; None: only finish what was interrupted
    ):
        "Repeat on each fold Learner the fits it has not seen, predict the folds, set `learn.oof` fold by fold"
        if record is not None:
            self.fits.append(record)
            self.pred_probs = None
        for k, tick in fold_bar(self.n_folds, hasattr(self.learn, 'progress')):
            if self.pred_probs is None or np.isnan(self.pred_probs[self.fold == k]).any(): self._follow(k, tick)

    def _follow(self, k, tick):
        fold = self.folds.pop(k, None) or self._new_fold()
        for j, record in enumerate(self.fits[fold.n_done:], fold.n_done):
            with self._random(k, j):
                run = InFold(tick, record.stop_at)
                with fold.learn.added_cbs([*fold.set_up(record, self.fold == k), run]):
                    fold.repeat(record)
                    if j == len(self.fits) - 1: self._predict(k, fold.learn)
        fold.n_done = len(self.fits)
        self.folds[k] = fold

    def run(self,
        record,  # FitRecord of the Learner as it is
        fit,  # Function that trains the Learner it is given
    ):
        "Have `fit` train each fold Learner, predict the folds, set `learn.oof`; raises ValueError if it trains none"
        self.prepare(record)
        for k, tick in fold_bar(self.n_folds, hasattr(self.learn, 'progress')):
            with self._random(k, 0):
                fold, run = self._new_fold(), InFold(tick)
                with fold.learn.added_cbs([*fold.set_up(record, self.fold == k), run]):
                    fit(fold.learn)
                    if not run.fitted:
                        raise ValueError("fit did not train the Learner that it was given: use its argument, "
                                         "for example lambda l: l.fine_tune(3)")
                    self._predict(k, fold.learn)

    def _predict(self, k, learn):
        held_out, probs = self.fold == k, self._probs(learn, learn.dls.valid)
        if self.pred_probs is None: self.pred_probs = np.full((len(self.fold), probs.shape[1]), np.nan, np.float32)
        self.pred_probs[held_out] = probs
        arrays = (o.copy() for o in (self.pred_probs, self.targets, self.fold))
        self.learn.oof = OutOfFold(*arrays, self.items, self.vocab,
                                   {**self.config, 'n_epoch': [o.n_epoch for o in self.fits]})

    def _probs(self, learn, dl):
        learn.remove_cbs(SkipToEpoch)
        return predict(learn, dl, self.act, None if self.vocab is None else len(self.vocab))[0]


@patch
def oof_preds(self: Learner,
    fit,  # Function that trains the Learner it is given, such as `lambda l: l.fine_tune(3)`
    n_folds=5,  # Number of folds
    splits=None,  # Fold numbers (n,), group ids (n,) or a scikit-learn splitter; None: stratified folds
    seed=42,  # Seed of the folds and of the fold Learners' random numbers
    act=None,  # Activation that turns outputs into probabilities; None: the loss's
    leave_out=(),  # Callback classes that folds leave out, besides progress, loggers and trackers
) -> OutOfFold:
    """Out-of-fold probabilities of the training set: `fit` trains `n_folds` copies of this Learner, not itself.

    Cross-validation as confident learning needs it (Northcutt et al., JAIR 2021). Also sets `learn.oof`. Raises
    TypeError or ValueError, before training, for data and optimizers that cannot be split into folds."""
    record = FitRecord(self, None)
    FoldLearners(record, n_folds, splits, seed, act, leave_out).run(record, fit)
    return self.oof
