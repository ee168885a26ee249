"What one fold has to do: train on the items of the others, predict its own"
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from warnings import warn

import numpy as np
from fastai.callback.core import Callback, CancelFitException, CancelValidException
from fastai.learner import Learner, SkipToEpoch
from fastai.torch_core import no_random
from fastcore.imports import noop
from fastprogress.fastprogress import progress_bar

from ..data import Predicted, plain_dl, predict
from ..data.distributed import bare_dl, bare_model, is_distributed
from .fit import FitRecord, FoldLearner, copy_model, detached
from .watch import is_looking, is_own, looking_on


def fold_random(
    seed: int,  # Seed of the folds, 0 or more
    *keys: int,  # Numbers that tell one use from another
):
    """Context in which random numbers follow from `seed` and `keys` alone; those outside go on as
    if nothing had happened"""
    number = int(np.random.SeedSequence([seed, *keys]).generate_state(1)[0]) >> 1
    return no_random(number, reproducible=False)


@dataclass
class FoldResult:
    """The result for the m items of a fold: `preds` as in `OutOfFold`, `masks` (m, h, w) or None,
    `metrics` by name"""
    preds: np.ndarray
    masks: np.ndarray | None = None
    metrics: dict = field(default_factory=dict)


@dataclass
class Predicts:
    "How folds predict, see `data.predict`"
    act: Callable
    c: int | None
    task: str
    n: int
    tta: str | None
    metrics: list

    def __call__(self, learn, dl, metrics=()) -> Predicted:
        # A fit with `start_epoch` leaves this callback behind, which would skip the prediction too
        learn.remove_cbs(SkipToEpoch)
        return predict(learn, dl, self.act, self.c, self.task, n=self.n, tta=self.tta,
                       metrics=metrics)


class InFold(Callback):
    """In a fold Learner: no validation unless it is asked for, the rates that a tracker set in the
    user's Learner, stop where that stopped, tell the progress bar"""
    order = -5
    fitted = fitting = False

    def __init__(self,
        tick: Callable,  # Called with the share of the fit that is done, 0 to 1
        stop_at: float | None = None,  # Share of the fit after which the user's Learner stopped
        changed: list | None = None,  # Share of the fit, name -> values of the groups
        valid: Any = None,  # DataLoader to validate on; None: folds do not validate
    ):
        self.tick = tick
        self.stop_at = stop_at
        self.changed = list(changed or ())
        self.valid = valid

    def before_epoch(self):
        "Trackers judge by the validation loss, which folds lack: take what they set in the fit"
        self._set_rates(self.learn.epoch/self.learn.n_epoch)

    def before_batch(self):
        "Take what was set between two batches"
        if self.learn.training: self._set_rates(self.learn.pct_train)

    def _set_rates(self, share):
        # Folds have fewer batches than the user's Learner: the nearest one
        learn = self.learn
        share += .49/(len(learn.dls.train)*learn.n_epoch)
        while self.changed and self.changed[0][0] <= share:
            _, hypers = self.changed.pop(0)
            for name, values in hypers.items(): learn.opt.set_hyper(name, values)

    def before_train(self):
        "The fit is real"
        self.fitting = True
        self.fitted = True

    def after_fit(self):
        "Let the fold be predicted"
        self.fitting = False

    def before_validate(self):
        "Skip the validation of a fit, not that of a prediction"
        if not self.fitting or hasattr(self.learn, 'gather_preds'): return
        if self.valid is None: raise CancelValidException
        # The fold's own second set is the fold, whose labels must stay unseen
        self.learn.dl = self.valid

    def after_batch(self):
        "Report how far the fit is, and end it where the user's Learner ended"
        if not self.learn.training: return
        self.tick(self.pct_train)
        if self.stop_at is None: return
        # Folds have fewer batches than the user's Learner: stop at the nearest one
        if self.pct_train > self.stop_at - .5/(self.n_iter*self.n_epoch): raise CancelFitException


class EachEpoch(Callback):
    """In a fold Learner: predict its fold after each epoch but the last, which the fold predicts
    after the fit. A copy of model and callbacks predicts: nothing of the training is touched."""
    order = 10**4
    _sum = None
    _n = 0
    _open = _new = False

    def __init__(self,
        predicts: Predicts,
    ):
        self.predicts = predicts

    def before_fit(self):
        "Another fit of the same function may follow: then only its epochs count"
        self._new = True

    def before_train(self):
        "An epoch begins"
        if self._new:
            self._sum = None
            self._n = 0
        self._open = True
        self._new = False

    def after_epoch(self):
        "Add the predictions of this epoch"
        if not self._open or self.learn.epoch >= self.learn.n_epoch - 1: return
        preds = self.predicts(self._copy(), bare_dl(self.learn.dls.valid)).preds
        self._sum = preds if self._sum is None else self._sum + preds
        self._n += 1
        self._open = False

    def _copy(self):
        learn = self.learn
        model = bare_model(learn.model)
        new = FoldLearner(learn, copy_model(model, [learn, learn.dls, *learn.cbs]), ()).learn
        new.dls = learn.dls
        new.opt = learn.opt
        memo = {id(o): o for dl in learn.dls.loaders for o in (dl, dl.dataset)}
        memo.update({id(learn): new, id(model): new.model})
        memo.update({id(o): o for o in (learn.opt, learn.dls)})
        new.loss_func = copy.deepcopy(learn.loss_func, memo)
        mine = InFold, EachEpoch
        cbs = [o for o in learn.cbs
               if not (isinstance(o, mine) or is_distributed(o) or is_looking(o))]
        memo = detached([vars(o) for o in cbs], memo)
        for cb in cbs: Learner.add_cb(new, copy.deepcopy(cb, memo))
        return new

    def mean(self,
        preds: np.ndarray,  # Predictions after the fit: those of its last epoch
    ) -> np.ndarray:
        "The mean over the epochs of the last fit"
        if self._sum is None: return preds
        # A fit that was stopped early has predicted its last epoch already
        return (self._sum + preds)/(self._n + 1) if self._open else self._sum/self._n


@dataclass
class FoldJob:
    """All that one fold needs, in this process or in another one. It can be pickled, and holds
    nothing of the user's Learner but its data. `run` returns the FoldResult."""
    fold: FoldLearner  # As far as it has come; `run` does what is left of `fits`
    fits: list[FitRecord]
    fit: Callable | None  # A function that trains, instead of `fits`
    held_out: np.ndarray
    seed: int
    k: int
    predicts: Predicts
    each_epoch: bool = False
    validate: bool = False  # Whether to validate after each epoch, on the Learner's own set

    @property
    def follows(self) -> bool:
        "Whether the fold Learner may have more fits to come"
        return self.fit is None

    def run(self,
        tick: Callable = noop,  # Called with the share of a fit that is done, 0 to 1
    ) -> FoldResult:
        "Train on what is not held out, as far as that is still to be done, and predict the rest"
        fold = self.fold
        for j, record in enumerate(self.fits[fold.n_done:], fold.n_done):
            last = j == len(self.fits) - 1
            with fold_random(self.seed, self.k, j):
                run = InFold(tick, record.stop_at, record.changed, self._valid(record))
                each = EachEpoch(self.predicts)
                cbs = fold.set_up(record, self.held_out)
                if self.validate: fold.learn.metrics = copy.deepcopy(self.predicts.metrics)
                with fold.own_folder(), fold.learn.added_cbs([*cbs, run]):
                    # Not by `fold.learn.add_cb`, which leaves out what folds do not need
                    if self.each_epoch and last: Learner.add_cb(fold.learn, each)
                    with looking_on(fold.learn, fold.lookers(record)): self._train(record, run)
                    if last: res = self._predict(each)
        fold.n_done = len(self.fits)
        fold.rest()
        return res

    def _valid(self, record):
        loaders = record.dls.loaders
        return plain_dl(loaders[1]) if self.validate and len(loaders) > 1 else None

    def _train(self, record, run):
        try:
            if self.fit is None: self.fold.repeat(record)
            else: self.fit(self.fold.learn)
        except Exception as e:
            names = sorted({type(o).__name__ for o in self.fold.learn.cbs if is_own(o)})
            if names:
                warn(f"fold {self.k} fails, with {', '.join(names)} among its callbacks, "
                     f"{type(e).__name__}: folds do not validate unless validate=True is passed, "
                     "and a callback that does not shape training can stay out of them: pass its "
                     "class in leave_out=, or set in_folds = False in it", stacklevel=2)
            raise
        if self.fit is not None and not run.fitted:
            raise ValueError("fit did not train the Learner that it was given: use its argument, "
                             "for example lambda l: l.fine_tune(3)")

    def _predict(self, each):
        learn = self.fold.learn
        learn.metrics = None
        if each in learn.cbs: learn.remove_cb(each)
        got = self.predicts(learn, learn.dls.valid, self.predicts.metrics)
        metrics = {'fold': self.k, 'items': int(self.held_out.sum()), **got.metrics}
        return FoldResult(each.mean(got.preds), got.masks, metrics)


def fold_bar(
    n_folds: int,
    show: bool,  # Whether to draw a bar
) -> Iterator[tuple[int, Callable]]:
    "Each fold, with a function that takes the share of it that is done, 0 to 1"
    if not show:
        for k in range(n_folds): yield k, noop
        return
    bar = progress_bar(range(100*n_folds), leave=False)
    bar.update(0)
    for k in range(n_folds):
        bar.comment = f'fold {k + 1} of {n_folds}'
        yield k, lambda pct, done=100*k: bar.update(done + min(99, int(100*pct)))
    bar.update(100*n_folds)
