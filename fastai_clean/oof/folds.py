"The fold Learners that make the out-of-fold result"
from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING
from warnings import warn

import numpy as np
import torch

from .._rows import aligned
from .._strength import kappa_between
from ..data import fold_numbers, ids_of, labels_of, plain_dl
from ..data.labels import is_binary_loss, row_labels
from ..data.predict import infer_act
from .cache import FoldCache
from .fingerprint import fit_fingerprint, run_fingerprint
from .fit import (
    FitRecord,
    FoldLearner,
    check_opt_func,
    copy_model,
    shapes_training,
    snapshot,
    was_trained,
)
from .job import FoldJob, Predicts, fold_bar, fold_random
from .leaks import (
    check_labels_stay,
    copies_of,
    warn_of_copies,
    warn_of_empty,
    warn_of_known_labels,
)
from .result import OutOfFold, set_oof
from .watch import is_own
from .workers import dumps, run_jobs

if TYPE_CHECKING:
    from .options import FoldOptions


_RUN_TOO = (
    "{}: callbacks that are neither fastai's nor fastai_clean's run in the folds too{}; what they "
    "save with the Learner goes to a folder that is deleted, while other files and global state "
    "are shared with the Learner's own. If folds do not need one, set in_folds = False in its "
    "class or pass the class in leave_out=; in_folds = True ends this message")
_UNLESS = ", unless they write and change nothing that training depends on"


class FoldLearners:
    """K copies of a Learner, each with its own model, optimizer, DataLoaders, callbacks and random
    numbers, that repeat its fits on all training items but their fold, and predict that fold.

    Only the Learner's `oof` is changed; the global random state is not. Raises TypeError or
    ValueError, before anything is trained, for a Learner whose labels cannot be checked this way,
    and for a `cache_dir` of another run."""

    def __init__(self,
        record: FitRecord,  # Record of the first fit: the Learner as it is before training
        options: FoldOptions,  # How the folds are made, trained and kept
    ):
        learn = record.learn
        check_opt_func(learn.opt_func)
        self.learn = learn
        self.record = record
        self.options = options
        self.seed = options.seed
        self.leave_out = options.leave_out
        self.n_repeats = options.n_repeats
        with self._random():
            self.labels = _labels_to_confuse(record)
            self.act = infer_act(record.loss_func, options.act, self.labels.task)
            self.ids = ids_of(record.dls.train_ds, learn.path)
            check_labels_stay(record.dls.train, self.labels, self.ids)
            warn_of_empty(self.labels, self.ids)
            self.numbers = self._fold_numbers()
            self.snapshot = snapshot(learn)
        self.fold = self.numbers[0]
        self.n_folds = int(self.fold.max()) + 1
        kind = 'stratified' if options.splits is None else type(options.splits).__name__
        self.config = dict(n_folds=self.n_folds, seed=self.seed, model=type(record.model).__name__,
                           tta=options.tta, splits=kind, n_repeats=self.n_repeats,
                           average=options.average)
        self.predicts = Predicts(self.act, self.labels.c, self.labels.task, len(self.fold),
                                 options.tta, learn.metrics)
        self.fits: list[FitRecord] = []
        self.folds: dict[int, FoldLearner | bytes] = {}
        self.results = {}
        self.originals = []
        self.cache = None
        self.prepared = False
        self.named: set[str] = set()
        self.gone: set[int] = set()
        if options.cache_dir is not None:
            self.cache = FoldCache(options.cache_dir, run_fingerprint(self))

    def _random(self, *keys): return fold_random(self.seed, *keys)

    def _fold_numbers(self):
        "The fold numbers (n,) of each repeat"
        targets = self.labels.targets
        # Masks are known only once they are loaded: their folds are not stratified
        if targets is None: targets = np.zeros(len(self.record.dls.train_ds), dtype=np.int64)
        splits = self.options.splits
        ds = self.record.dls.train_ds
        splits = aligned(splits, 'splits', row_labels(ds), self.ids)
        copies = copies_of(ds)
        seeds = range(self.seed, self.seed + self.n_repeats)
        found = [fold_numbers(targets, self.options.n_folds, splits, o, copies) for o in seeds]
        if copies is not None: warn_of_copies(copies, found[0], self.ids, splits is not None)
        return found

    def _new_fold(self): return FoldLearner(self.learn, copy_model(self.snapshot), self.leave_out)

    def prepare(self,
        record: FitRecord,  # Record of the fit that begins
        fit: Callable | None = None,  # The function that trains, if `record` says nothing about it
    ) -> None:
        """Copy what the folds need of a fit before it changes, and check that a fold Learner can be
        built and predicts.

        Raises ValueError if the training set is no longer the one that was split or the outputs
        are not class probabilities, TypeError if data, optimizer or a callback cannot be copied."""
        with self._random():
            same = not self.fits or record.dls is self.fits[-1].dls
            if not same and not self._same_labels(record.dls.train):
                raise ValueError("learn.dls has other training labels than in the last fit: make a "
                                 "new Learner and a new callback for them")
            record.copy_parts(self.leave_out, self.originals)
            if self.cache:
                record.described = fit_fingerprint(record, fit)
                self.cache.check_fit(len(self.fits), record.described)
            self._say_what_runs(fit)
            fold = self._new_fold()
            cbs = fold.set_up(record, self.fold == 0)
            # The user's own may write files or count batches: no event of theirs is fired here
            quiet = [o for o in cbs if not is_own(o)]
            with fold.learn.added_cbs(quiet):
                dl = fold.learn.dls.valid
                batch = dl.one_batch() if hasattr(dl, 'one_batch') else next(iter(dl))
                worked = self._try(fold.learn, [batch], sure=len(quiet) == len(cbs))
                if worked and not self.prepared and not was_trained(self.learn):
                    self._warn_of_known_labels(fold.learn)
        self.prepared = True

    def _warn_of_known_labels(self, learn):
        loaders = self.record.dls.loaders
        like = loaders[1] if len(loaders) > 1 else None

        def predicted(at):
            dl = plain_dl(loaders[0], at, like)
            # Workers take longer to start than so few items to load
            if hasattr(dl, 'fake_l'): dl.fake_l.num_workers = 0
            got = self.predicts(learn, dl)
            return got.preds, self.labels.targets[at] if got.masks is None else got.masks
        # What cannot be predicted is the folds' own error, which says more
        try: warn_of_known_labels(predicted, self.labels, len(self.fold))
        except (ValueError, RuntimeError, IndexError): pass

    def leave_idle(self,
        record: FitRecord,  # Record of a fit that ended
        writing: list,  # Callbacks of the user's that only looked on, but wrote, see `watch.Watch`
        looking: list,  # Those that only looked on
    ) -> None:
        """Leave callbacks out of the folds that wrote something in the fit, but did not shape it;
        whether others shaped it matters if they fail"""
        gone = self._positions(writing, record)
        record.parts = [o for o in record.parts if o[0] not in gone]
        record.looking = self._positions(looking, record)
        self.gone |= gone

    def _positions(self, cbs, record):
        found = {i for i, o in enumerate(self.originals) if any(o is cb for cb in cbs)}
        known = {i for o in self.fits for i, _ in o.parts} | self.gone
        # Nobody saw their `before_fit`: in the first fit the folds' model has what it did
        new = found - known if self.fits else set()
        return found - {i for i in new if hasattr(self.originals[i], 'before_fit')}

    def _say_what_runs(self, fit):
        if self.options.mode == 'features': return
        own = [o for o in self.learn.cbs if is_own(o) and shapes_training(o, self.leave_out)]
        names = {type(o).__name__ for o in own} - self.named
        self.named |= names
        unless = _UNLESS if fit is None else ''
        if self.options.mode == 'auto': unless = f', if any are trained{unless}'
        if names: warn(_RUN_TOO.format(', '.join(sorted(names)), unless), stacklevel=2)

    def _try(self, learn, batches, sure=True):
        "Whether a fold Learner predicts `batches`; if not, and `sure`, an error"
        try: self.predicts(learn, batches)
        except Exception as e:
            # A callback that was left out here may be what makes the batch fit the model
            if not sure: return False
            if not isinstance(e, (RuntimeError, IndexError)): raise
            if isinstance(e, torch.OutOfMemoryError): raise
            wanted = self.labels.task
            if self.labels.c is not None: wanted += f' with {self.labels.c} outputs'
            raise ValueError(f"a fold Learner fails on its first batch, {type(e).__name__}: "
                             f"{str(e)[:200]}; check that model, loss and targets fit the task: "
                             f"{wanted}") from e
        return True

    def _same_labels(self, dl):
        targets = labels_of(dl, self.labels.task == 'multilabel').targets
        if len(dl.dataset) != len(self.fold): return False
        return targets is None or np.array_equal(targets, self.labels.targets)

    def follow(self,
        record: FitRecord | None = None,  # Record of a fit that ended; None: finish what is left
    ) -> None:
        """Repeat on each fold Learner the fits it has not had, predict the folds, set `learn.oof`
        fold by fold"""
        if record is not None: self.note(record)
        self.finish(self.fits)

    def note(self,
        record: FitRecord,  # Record of a fit that ended
    ) -> None:
        "Note a fit, which `follow()` is to repeat, and forget the results of the one before"
        self.fits.append(record)
        self.results = {}
        set_oof(self.learn, None)

    def run(self,
        record: FitRecord,  # The Learner as it is
        fit: Callable,  # Function that trains the Learner it is given
    ) -> None:
        """Have `fit` train each fold Learner, predict the folds, set `learn.oof`. Raises ValueError
        if it does not train the Learner that it is given"""
        self.prepare(record, fit)
        self.finish([record], fit)

    def first(self,
        fits: list[FitRecord],  # As for `finish`
        fit: Callable | None = None,  # As for `finish`
    ) -> np.ndarray:
        "Train and predict the first fold only, which `finish` then has"
        self.finish(fits, fit, most=1)
        return self.results[0].preds

    def finish(self,
        fits: list[FitRecord],  # The fits to repeat, or for `fit` the Learner as it is
        fit: Callable | None = None,  # A function that trains, instead of `fits`
        most: int | None = None,  # How many folds to train, the first; None: all
    ) -> None:
        "Train and predict the folds that are left, set `learn.oof` fold by fold"
        n = self.n_folds*self.n_repeats
        j = len(fits) - 1
        shown = hasattr(self.learn, 'progress')
        if self.cache:
            for k, o in enumerate(fits):
                self.cache.note_fit(k, {**o.described, 'stop_at': repr(o.stop_at), **_changes(o)})
            found = self._take_kept(j, n)
            if found and shown:
                print(f"{found} of {n} folds were taken from cache_dir {self.cache.path}; if the "
                      "code of an installed package, or a file that your own functions open, has "
                      "changed since, which the cache does not see, pass another cache_key= and a "
                      "new folder")
        left = [i for i in range(n)[:most] if i not in self.results]
        if left and self.options.n_jobs != 1: return self._finish_elsewhere(left, fits, fit)

        for i, tick in fold_bar(n, shown):
            if i not in left: continue
            # A fold Learner that was interrupted, or whose results were cached, repeats all fits
            fold = self.folds.pop(i, None) or self._new_fold()
            job = self._job(i, fold, fits, fit)
            self._take(i, job.run(tick))
            if job.follows: self.folds[i] = fold
            if self.cache: self.cache.keep(j, i, self.results[i])

    def _take_kept(self, j, n):
        found = 0
        for i in range(n):
            got = None if i in self.results else self.cache.result(j, i)
            if got is None: continue
            self._take(i, got)
            found += 1
        return found

    def _finish_elsewhere(self, left, fits, fit):
        def packed(i):
            fold = self.folds.get(i) or FoldLearner(self.learn, self.snapshot, self.leave_out)
            return dumps(self._job(i, fold, fits, fit))

        done = run_jobs({i: partial(packed, i) for i in left}, self.options.n_jobs)
        for _, tick in fold_bar(len(left), hasattr(self.learn, 'progress')):
            i, result, fold = next(done)
            self._take(i, result)
            if fold is not None: self.folds[i] = fold
            if self.cache: self.cache.keep(len(fits) - 1, i, result)
            tick(1.)

    def _job(self, i, fold, fits, fit=None):
        r, k = divmod(i, self.n_folds)
        return FoldJob(fold, fits, fit, self.numbers[r] == k, self.seed + r, k, self.predicts,
                       self.options.average == 'epochs', self.options.validate)

    def _take(self, i, result):
        "Set `learn.oof` to the results so far, with that of fold `i`; items of other folds are NaN"
        self.results[i] = result
        probs = None
        masks = None
        votes = []
        n = len(self.fold)
        for r, fold in enumerate(self.numbers):
            part = np.full((n, *result.preds.shape[1:]), np.nan, np.float32)
            for k in range(self.n_folds):
                got = self.results.get(r*self.n_folds + k)
                if got is None: continue
                part[fold == k] = got.preds
                if got.masks is None: continue
                if masks is None: masks = np.zeros((n, *got.masks.shape[1:]), got.masks.dtype)
                masks[fold == k] = got.masks
            probs = part if probs is None else probs + part
            if self.labels.task == 'classification': votes.append(part.argmax(1))
        if self.n_repeats > 1: probs /= self.n_repeats
        config = {**self.config, 'n_epoch': [o.n_epoch for o in self.fits],
                  'fold_metrics': [self._metrics_of(o) for o in sorted(self.results)]}
        finished = len(self.results) == self.n_folds*self.n_repeats
        kappa = kappa_between(votes) if finished else None
        if kappa is not None: config['kappa_between_repeats'] = kappa
        vocab = [] if self.labels.task == 'regression' else self.labels.vocab
        targets = self.labels.targets.copy() if masks is None else masks
        set_oof(self.learn, OutOfFold(probs, targets, self.fold.copy(), self.ids, vocab, config,
                                      self.labels.task))

    def _metrics_of(self, i):
        repeat = {'repeat': i//self.n_folds} if self.n_repeats > 1 else {}
        return {**repeat, **self.results[i].metrics}


def _changes(record):
    "What trackers did to the hyperparameters, for the cache; nothing if they did nothing"
    return {'changed': repr(record.changed)} if record.changed else {}


def _labels_to_confuse(record):
    "The Labels of the training set. Raises ValueError if all items have the same"
    labels = labels_of(record.dls.train, is_binary_loss(record.loss_func))
    targets, vocab, task = labels
    one_class = vocab is not None and len(vocab) < 2
    if task == 'classification' and (one_class or len(np.unique(targets)) < 2):
        raise ValueError("the training set has fewer than two classes: there is nothing to confuse")
    if task in ('regression', 'multilabel') and (targets == targets[0]).all():
        raise ValueError("the training set's targets are all the same: there is nothing to confuse")
    return labels
