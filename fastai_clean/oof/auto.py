"The cheap out-of-fold predictions if they are good enough, else those of K fold Learners"
from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from ..data import labels_of, plain_dl
from ..data.distributed import same_everywhere
from .features import FeatureHeads
from .fit import FitRecord, FoldLearner, snapshot
from .folds import FoldLearners
from .heads import METRICS, agreement
from .job import fold_random
from .result import oof_of

FOLDS_ONLY = 'tta', 'average'  # Options that say how folds predict; heads have neither


class Choice(NamedTuple):
    "What was taken, and why"
    mode: str  # 'features' or 'folds'
    reason: str  # What was found, in a sentence


class AutoFolds:
    """Heads on the features of the untrained model, unless the trained model agrees more than they
    do with the labels of the validation set: then the K folds.

    Both predict the same items. If there is no validation set with labels, or the Learner itself is
    not trained (`oof_preds`), the first fold is trained, and both are compared on its items. The
    folds are trained, too, where there are no features: for masks, for models without a linear
    layer, and if the pass that makes them fails; and if `tta` or `average` is given, which only
    folds have. A fit of the head alone, as the first of `fine_tune` is, says no more than heads on
    the same features: those are taken, and the next fit is compared.

    `oof.config` says what was taken in `mode`, why in `mode_reason`, and what each takes in
    `mode_cost`; both are printed, before more than one fold is trained, if the Learner draws
    progress bars."""

    def __init__(self,
        folds: FoldLearners,  # Not fitted
        cache_dir=None,  # Folder to keep features in, see `FeatureHeads`
    ):
        self.folds = folds
        self.learn = folds.learn
        self.heads: FeatureHeads | None = None
        self.choice: Choice | None = None
        self.said = None
        self.fit_seconds = 0.  # Of the fits that the folds have yet to repeat
        self.features_seconds = 0.
        self.started = 0.
        self.no_heads = _wants_folds(folds.options)
        if self.no_heads: return
        try: self.heads = FeatureHeads(folds, cache_dir)
        except (TypeError, ValueError) as e: self.no_heads = _failed(e)

    def prepare(self,
        record: FitRecord,  # Record of the fit that begins
        fit: Callable | None = None,  # The function that trains, if `record` says nothing about it
    ) -> None:
        "As `FoldLearners.prepare`"
        (self.heads or self.folds).prepare(record, fit)
        self.started = time.perf_counter()

    def leave_idle(self, record: FitRecord, writing: list, looking: list) -> None:
        "As `FoldLearners.leave_idle`"
        self.folds.leave_idle(record, writing, looking)

    def follow(self,
        record: FitRecord | None = None,  # Record of a fit that ended; None: finish what is left
    ) -> None:
        "Compare, repeat the fits on the folds if that is needed, set `learn.oof`"
        if record is not None:
            self.fit_seconds += time.perf_counter() - self.started
            self.folds.note(record)
            self.choice = None
        if self.choice is None: self.choice = same_everywhere(self._choose())
        k = self.folds.n_folds
        n = k*self.folds.n_repeats
        # A fold trains on the items of the others
        cost = self._cost(f'the fit took {_span(self.fit_seconds)}', f'{n} folds',
                          self.fit_seconds*(1 - 1/k)*n)
        self._finish(cost, self.folds.follow)
        if self.choice.mode == 'folds': self.fit_seconds = 0.

    def run(self,
        record: FitRecord,  # The Learner as it is
        fit: Callable,  # Function that trains the Learner it is given
    ) -> None:
        """Have `fit` train the first fold, compare, have it train the others if needed, set
        `learn.oof`"""
        self.prepare(record, fit)
        made = self._heads_made()
        start = time.perf_counter()
        first = self.folds.first([record], fit)
        seconds = time.perf_counter() - start
        choice = self._compared_on_first(first) if made else Choice('folds', self.no_heads)
        self.choice = same_everywhere(choice)
        n = self.folds.n_folds*self.folds.n_repeats - 1
        cost = self._cost(f'the first fold took {_span(seconds)}', f'{n} more', seconds*n)
        self._finish(cost, lambda: self.folds.finish([record], fit))

    def _finish(self, cost, train):
        mode, reason = self.choice
        if reason != self.said and hasattr(self.learn, 'progress'):
            print(f"mode='auto' chose {mode}: {reason}; {cost}")
        self.said = reason
        if mode == 'features': self.heads.follow()
        else: train()
        oof_of(self.learn).config.update(mode=mode, mode_reason=reason, mode_cost=cost)

    def _cost(self, took, folds, seconds):
        verb = 'take' if self.choice.mode == 'folds' else 'would take'
        features = f' and the features {_span(self.features_seconds)}' if self.heads else ''
        cost = f'{took}{features}, {folds} {verb} about {_span(seconds)}'
        if self.choice.mode == 'features' or self.folds.labels.task != 'classification': return cost
        return f'{cost}, TrainingDynamicsCallback (in-sample) no further fit'

    def _choose(self):
        if not self._heads_made(): return Choice('folds', self.no_heads)
        record = self.folds.fits[-1]
        if record.frozen_idx and record.frozen_idx == len(record.hypers) - 1:
            return Choice('features', "the fit trained the head alone, on the features of the same "
                                      "frozen body")
        dl, targets = self._labelled_valid()
        if dl is None: return self._compared_on_first(self.folds.first(self.folds.fits))
        heads = self._made(self.heads.predict, dl)
        if heads is None: return Choice('folds', self.no_heads)
        return self._compared(heads, self._trained(dl), targets, 'the trained model',
                              'the validation set')

    def _heads_made(self):
        if self.heads: self._made(self.heads.follow)
        return self.heads is not None

    def _made(self, make, *args):
        "What the heads make; if that fails, None, and `no_heads` says why"
        start = time.perf_counter()
        try: return make(*args)
        except (TypeError, ValueError, RuntimeError, AssertionError) as e:
            self.heads = None
            self.no_heads = _failed(e)
        finally: self.features_seconds += time.perf_counter() - start

    def _trained(self, dl):
        "What the trained model predicts for `dl`"
        with fold_random(self.folds.seed):
            fold = FoldLearner(self.learn, snapshot(self.learn), self.folds.leave_out)
            cbs = fold.set_up(self.folds.fits[-1], self.folds.fold == 0)
            with fold.own_folder(), fold.learn.added_cbs(cbs):
                return self.folds.predicts(fold.learn, plain_dl(dl)).preds

    def _labelled_valid(self):
        "The validation DataLoader and its targets, or None for both"
        loaders = self.folds.fits[-1].dls.loaders
        task = self.folds.labels.task
        if len(loaders) < 2 or not len(loaders[1].dataset): return None, None
        try: labels = labels_of(loaders[1], task == 'multilabel')
        except (TypeError, ValueError): return None, None
        return (loaders[1], labels.targets) if labels.task == task else (None, None)

    def _compared_on_first(self, first):
        held_out = self.folds.fold == 0
        return self._compared(self.heads.result.pred_probs[held_out], first,
                              self.folds.labels.targets[held_out], 'a model trained without them',
                              'the items of the first fold')

    def _compared(self, heads, trained, targets, what, where):
        task = self.folds.labels.task
        ours = agreement(heads, targets, task)
        theirs = agreement(trained, targets, task)
        mode, word = ('features', 'no lower than') if ours >= theirs else ('folds', 'lower than')
        return Choice(mode, f"on {where} {METRICS[task]} of heads on features is {ours:.3f}, "
                            f"{word} the {theirs:.3f} of {what}")


def _wants_folds(options):
    "What the user asked for that only folds have, in a sentence, or None"
    for name in FOLDS_ONLY:
        value = getattr(options, name)
        if value is not None: return f"{name}={value!r} says how folds predict"
    return None


def _failed(e): return f"there are no features, {type(e).__name__}: {str(e)[:300]}"


def _span(seconds):
    "Seconds as a person says them"
    if seconds < 10: return f'{seconds:.1f} s'
    if seconds < 120: return f'{seconds:.0f} s'
    return f'{seconds/60:.0f} min' if seconds < 7200 else f'{seconds/3600:.1f} h'
