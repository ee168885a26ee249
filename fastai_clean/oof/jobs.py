"What a fold has to do: train on the others, predict its own"
import copy
from dataclasses import dataclass, field

import numpy as np
from fastai.callback.core import Callback
from fastai.learner import Learner, SkipToEpoch
from fastai.torch_core import no_random
from fastcore.imports import noop
from fastprogress.fastprogress import progress_bar

from ..data import predict
from ..data.distributed import bare_dl, bare_model, is_distributed
from .fit import FoldLearner, InFold, copy_model, detached
from .state import load_state, state_bytes, take_state


def fold_random(
    seed,  # Seed of the folds, 0 or more
    *keys,  # Numbers that tell one use from another
):
    "Context in which random numbers follow from `seed` and `keys` alone; those outside go on as if nothing had been"
    return no_random(int(np.random.SeedSequence([seed, *keys]).generate_state(1)[0]) >> 1, reproducible=False)


@dataclass
class FoldResult:
    "What is known of the m items of a fold: `preds` as in `OutOfFold`, `masks` (m, h, w) or None, `metrics` by name"
    preds: np.ndarray
    masks: np.ndarray | None = None
    metrics: dict = field(default_factory=dict)


@dataclass
class Predicts:
    "How folds predict, see `folds.predict`"
    act: object
    c: int | None
    task: str
    n: int
    tta: str | None
    metrics: list

    def __call__(self, learn, dl, metrics=()):
        learn.remove_cbs(SkipToEpoch)
        return predict(learn, dl, self.act, self.c, self.task, n=self.n, tta=self.tta, metrics=metrics)


class EachEpoch(Callback):
    """In a fold Learner: predict its fold after each epoch but the last, which the fold predicts after the fit. A copy
    of model and callbacks predicts: nothing of the training is touched."""
    order, _sum, _n, _open, _new = 10**4, None, 0, False, False
    def __init__(self, predicts): self.predicts = predicts
    def before_fit(self): self._new = True

    def before_train(self):
        if self._new: self._sum, self._n = None, 0
        self._open, self._new = True, False

    def after_epoch(self):
        if not self._open or self.learn.epoch >= self.learn.n_epoch - 1: return
        preds = self.predicts(self._copy(), bare_dl(self.learn.dls.valid)).preds
        self._sum, self._n, self._open = preds if self._sum is None else self._sum + preds, self._n + 1, False

    def _copy(self):
        learn, model = self.learn, bare_model(self.learn.model)
        new = FoldLearner(learn, copy_model(model, [learn, learn.dls, *learn.cbs]), ()).learn
        new.dls, new.opt = learn.dls, learn.opt
        memo = {id(learn): new, id(model): new.model, **{id(o): o for o in (learn.opt, learn.dls)},
                **{id(o): o for dl in learn.dls.loaders for o in (dl, dl.dataset)}}
        new.loss_func = copy.deepcopy(learn.loss_func, memo)
        cbs = [o for o in learn.cbs if not isinstance(o, (InFold, EachEpoch)) and not is_distributed(o)]
        memo = detached([vars(o) for o in cbs], memo)
        for cb in cbs: Learner.add_cb(new, copy.deepcopy(cb, memo))
        return new

    def mean(self,
        preds,  # Predictions after the fit: those of its last epoch
    ):
        "The mean over the epochs of the last fit"
        if self._sum is None: return preds
        return (self._sum + preds)/(self._n + 1) if self._open else self._sum/self._n


@dataclass
class FoldJob:
    """All that one fold needs, in this process or in another one: `fold`, its FoldLearner as far as it has come, and
    the FitRecords `fits`, or `fit`, a function that trains instead. `run` gives the FoldResult."""
    fold: FoldLearner
    fits: list
    fit: object
    held_out: np.ndarray
    seed: int
    k: int
    predicts: Predicts
    each_epoch: bool = False
    state: bytes | None = None
    keeps: bool = False
    plain: list | None = None

    @property
    def follows(self):
        "Whether the fold Learner may have more fits to come"
        return self.fit is None

    def run(self,
        tick=noop,  # Function that takes the share of a fit that is done, 0 to 1
    ) -> FoldResult:
        "Train on what is not held out, as far as that is still to be done, and predict the rest"
        fold = self.fold
        if self.state is not None and not fold.n_done: self._go_on()
        for j, record in enumerate(self.fits[fold.n_done:], fold.n_done):
            with fold_random(self.seed, self.k, j):
                run, each = InFold(tick, record.stop_at), EachEpoch(self.predicts)
                with fold.learn.added_cbs([*fold.set_up(record, self.held_out), run]):
                    last = j == len(self.fits) - 1
                    if self.each_epoch and last: Learner.add_cb(fold.learn, each)
                    self._train(record, run)
                    if last: res = self._predict(each)
        fold.n_done = len(self.fits)
        fold.rest()
        return res

    def _train(self, record, run):
        if self.fit is None: return self.fold.repeat(record)
        self.fit(self.fold.learn)
        if not run.fitted: raise ValueError("fit did not train the Learner that it was given: use its argument, for "
                                            "example lambda l: l.fine_tune(3)")

    def _predict(self, each):
        learn = self.fold.learn
        if each in learn.cbs: learn.remove_cb(each)
        got = self.predicts(learn, learn.dls.valid, self.predicts.metrics)
        return FoldResult(each.mean(got.preds), got.masks,
                          {'fold': self.k, 'items': int(self.held_out.sum()), **got.metrics})

    def _go_on(self):
        state = load_state(self.state)
        if state['n_done'] >= len(self.fits): return
        for j, record in enumerate(self.fits[:state['n_done']]):
            with fold_random(self.seed, self.k, j): self.fold.set_up(record, self.held_out)
        take_state(self.fold, state)

    def kept_state(self):
        "What `state_bytes` gives of the fold after `run`, where it is wanted"
        return state_bytes(self.fold, self.plain) if self.keeps else None


def fold_bar(
    n_folds,  # Number of folds
    show,  # Whether to draw a bar
):
    "Each fold, with a function that takes the share of it that is done, 0 to 1"
    if not show:
        yield from ((k, noop) for k in range(n_folds))
        return
    bar = progress_bar(range(100*n_folds), leave=False)
    bar.update(0)
    for k in range(n_folds):
        bar.comment = f'fold {k + 1} of {n_folds}'
        yield k, lambda pct, done=100*k: bar.update(done + min(99, int(100*pct)))
    bar.update(100*n_folds)
