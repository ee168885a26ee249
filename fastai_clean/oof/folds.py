"The fold Learners that make the out-of-fold result"
from functools import partial
from numbers import Integral

import numpy as np
import torch
from fastcore.foundation import L

from ..data import fold_numbers, ids_of, labels_of
from ..data.labels import is_binary_loss
from ..data.predict import infer_act
from .cache import FoldCache
from .fit import FoldLearner, check_opt_func, copy_model, snapshot
from .jobs import FoldJob, Predicts, fold_bar, fold_random
from .result import OutOfFold, set_oof
from .runs import describe_fit, describe_run
from .state import plain_state
from .workers import check_jobs, dumps, run_jobs


class FoldLearners:
    """K copies of a Learner, each with its own model, optimizer, DataLoaders, callbacks and random numbers, that repeat
    its fits on all training items but their fold, and predict that fold.

    Nothing of the Learner is changed but its `oof`, nor the global random state. Raises TypeError or ValueError, before
    anything is trained, for a Learner whose labels cannot be checked this way, and for a `cache_dir` of another run."""

    def __init__(self,
        record,  # FitRecord of the first fit: the Learner as it is before training
        n_folds=5,  # Number of folds
        splits=None,  # See `fold_numbers`
        seed=42,  # Seed of the folds and of each fold Learner's random numbers
        act=None,  # Activation that turns outputs into probabilities; None: the loss's
        leave_out=(),  # Callback classes that folds leave out, besides progress, loggers and trackers
        tta=None,  # 'flip': predict the held-out images and their mirror images, and take the mean
        n_jobs=1,  # Processes in which folds are trained; 1: this one, -1: one a core
        cache_dir=None,  # Folder in which finished folds are kept, see `FoldCache`
        n_repeats=1,  # Times that everything is repeated with the next seed; the probabilities are averaged
        average=None,  # 'epochs': the mean of the predictions after each epoch of the last fit
    ):
        learn = record.learn
        check_opt_func(learn.opt_func)
        for name, value, least in (('seed', seed, 0), ('n_repeats', n_repeats, 1)):
            if not isinstance(value, Integral) or value < least:
                raise ValueError(f"{name} is {value!r}: pass a whole number, {least} or more")
        if not all(isinstance(o, type) for o in L(leave_out)):
            raise TypeError(f"leave_out is {leave_out!r}: pass callback classes, such as (MixUp,)")
        if average not in (None, 'epochs'): raise ValueError(f"average is {average!r}: choose 'epochs' or None")
        self.learn, self.record, self.seed, self.leave_out = learn, record, int(seed), tuple(L(leave_out))
        self.n_jobs, self.n_repeats, self.average = check_jobs(n_jobs), int(n_repeats), average
        with self._random():
            self.labels = labels_of(record.dls.train, is_binary_loss(record.loss_func))
            self.act, self.tta = infer_act(record.loss_func, act, self.labels.task), tta
            targets, vocab, task = self.labels
            if task == 'classification' and (len(np.unique(targets)) < 2 or (vocab is not None and len(vocab) < 2)):
                raise ValueError("the training set has fewer than two classes: there is nothing to confuse")
            if task in ('regression', 'multilabel') and (targets == targets[0]).all():
                raise ValueError("the training set's targets are all the same: there is nothing to confuse")
            if targets is None: targets = np.zeros(len(record.dls.train_ds), dtype=np.int64)
            self.numbers = [fold_numbers(targets, n_folds, splits, self.seed + r) for r in range(self.n_repeats)]
            self.ids = ids_of(record.dls.train_ds, learn.path)
            self.snapshot = snapshot(learn)
        self.fold = self.numbers[0]
        self.n_folds = int(self.fold.max()) + 1
        self.config = dict(n_folds=self.n_folds, seed=self.seed, model=type(record.model).__name__, tta=tta,
                           splits='stratified' if splits is None else type(splits).__name__,
                           n_repeats=self.n_repeats, average=average)
        self.predicts = Predicts(self.act, self.labels.c, task, len(self.fold), tta, learn.metrics)
        self.fits, self.folds, self.results, self.originals, self.persons = [], {}, {}, [], [learn, learn.model]
        self.cache = None if cache_dir is None else FoldCache(cache_dir, describe_run(self))
        self._plain = plain_state(self.snapshot) if self.cache else None

    def _random(self, *keys): return fold_random(self.seed, *keys)

    def _new_fold(self): return FoldLearner(self.learn, copy_model(self.snapshot), self.leave_out)

    def _predicted(self, learn, dl, metrics=()): return self.predicts(learn, dl, metrics)

    def prepare(self,
        record,  # The FitRecord of the fit that begins
        fit=None,  # The function that trains, where `record` says nothing of it
    ):
        """Copy what the folds need of a fit before it changes, and see that a fold Learner can be built and predicts.

        Raises ValueError where the training set is no longer the one that was split or the outputs are no class
        probabilities, TypeError where the data, the optimizer or a callback cannot be copied."""
        with self._random():
            if self.fits and record.dls is not self.fits[-1].dls and not self._same_labels(record.dls.train):
                raise ValueError("learn.dls has other training labels than in the fit before: make a new Learner "
                                 "and a new callback for them")
            record.copy_parts(self.leave_out, self.originals)
            if self.cache:
                record.described = describe_fit(record, fit)
                self.cache.check_fit(len(self.fits), record.described)
            fold = self._new_fold()
            with fold.learn.added_cbs(fold.set_up(record, self.fold == 0)):
                dl = fold.learn.dls.valid
                self._try(fold.learn, [dl.one_batch() if hasattr(dl, 'one_batch') else next(iter(dl))])

    def _try(self, learn, batches):
        try: self._predicted(learn, batches)
        except (RuntimeError, IndexError) as e:
            if isinstance(e, torch.OutOfMemoryError): raise
            fit = self.labels.task if self.labels.c is None else f'{self.labels.task} with {self.labels.c} outputs'
            raise ValueError(f"a fold Learner fails on its first batch, {type(e).__name__}: {str(e)[:200]}; see that "
                             f"model, loss and targets fit the task: {fit}") from e

    def _same_labels(self, dl):
        targets = labels_of(dl, self.labels.task == 'multilabel').targets
        return len(dl.dataset) == len(self.fold) and (targets is None or np.array_equal(targets, self.labels.targets))

    def follow(self,
        record=None,  # The FitRecord of a fit that has ended; None: only finish what was interrupted
    ):
        "Repeat on each fold Learner the fits it has not seen, predict the folds, set `learn.oof` fold by fold"
        if record is not None: self.note(record)
        self._finish(self.fits)

    def note(self,
        record,  # The FitRecord of a fit that has ended
    ):
        "Note a fit, which `follow()` is to repeat; what is known of the one before is let go"
        self.fits.append(record)
        self.results = {}
        set_oof(self.learn, None)
        self.persons += [record.model, record.opt]

    def run(self,
        record,  # FitRecord of the Learner as it is
        fit,  # Function that trains the Learner it is given
    ):
        "Have `fit` train each fold Learner, predict the folds, set `learn.oof`; raises ValueError if it trains none"
        self.prepare(record, fit)
        self._finish([record], fit)

    def _finish(self, fits, fit=None):
        n, j, found = self.n_folds*self.n_repeats, len(fits) - 1, 0
        if self.cache:
            for k, o in enumerate(fits): self.cache.note_fit(k, {**o.described, 'stop_at': o.stop_at})
        for i in range(n):
            got = self.cache.result(j, i) if self.cache and i not in self.results else None
            if got is None: continue
            self._take(i, got)
            found += 1
        left = [i for i in range(n) if i not in self.results]
        if found and hasattr(self.learn, 'progress'): print(f'{found} of {n} folds are those of {self.cache.path}')
        if left and self.n_jobs != 1: return self._finish_elsewhere(left, fits, fit)
        for i, tick in fold_bar(n, hasattr(self.learn, 'progress')):
            if i not in left: continue
            job = self._job(i, fits, fit)
            job.fold = self.folds.pop(i, None) or self._new_fold()
            result = job.run(tick)
            self._take(i, result)
            if fit is None: self.folds[i] = job.fold
            if self.cache: self.cache.keep(j, i, result, job.kept_state())

    def _finish_elsewhere(self, left, fits, fit):
        def packed(i):
            job = self._job(i, fits, fit)
            job.fold = self.folds.get(i) or FoldLearner(self.learn, self.snapshot, self.leave_out)
            return dumps(job, self.persons)
        done = run_jobs({i: partial(packed, i) for i in left}, self.n_jobs)
        for _, tick in fold_bar(len(left), hasattr(self.learn, 'progress')):
            i, result, fold, state = next(done)
            self._take(i, result)
            if fold is not None: self.folds[i] = fold
            if self.cache: self.cache.keep(len(fits) - 1, i, result, state)
            tick(1.)

    def _job(self, i, fits, fit=None):
        r, k = divmod(i, self.n_folds)
        state = self.cache.state(i) if self.cache and len(fits) > 1 and i not in self.folds else None
        return FoldJob(None, fits, fit, self.numbers[r] == k, self.seed + r, k, self.predicts,
                       self.average == 'epochs', state, self.cache is not None and fit is None, self._plain)

    def _take(self, i, result):
        "Set `learn.oof` to what is known with the result of fold `i`; items of unfinished folds are NaN"
        self.results[i] = result
        probs, masks, n = None, None, len(self.fold)
        for r, fold in enumerate(self.numbers):
            part = np.full((n, *result.preds.shape[1:]), np.nan, np.float32)
            for k in range(self.n_folds):
                got = self.results.get(r*self.n_folds + k)
                if got is None: continue
                part[fold == k] = got.preds
                if got.masks is not None:
                    if masks is None: masks = np.zeros((n, *got.masks.shape[1:]), got.masks.dtype)
                    masks[fold == k] = got.masks
            probs = part if probs is None else probs + part
        if self.n_repeats > 1: probs /= self.n_repeats
        metrics = [{**({'repeat': o//self.n_folds} if self.n_repeats > 1 else {}), **self.results[o].metrics}
                   for o in sorted(self.results)]
        config = {**self.config, 'n_epoch': [o.n_epoch for o in self.fits], 'fold_metrics': metrics}
        vocab = [] if self.labels.task == 'regression' else self.labels.vocab
        targets = self.labels.targets.copy() if masks is None else masks
        set_oof(self.learn, OutOfFold(probs, targets, self.fold.copy(), self.ids, vocab, config,
                                      self.labels.task))
