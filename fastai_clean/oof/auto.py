"The cheap out-of-fold predictions if they are good enough, else those of K fold Learners"
from collections.abc import Callable

from ..data import labels_of, plain_dl
from .features import METRICS, FeatureHeads, agreement
from .fit import FitRecord, FoldLearner, copy_model, snapshot
from .job import FoldJob, fold_random
from .result import oof_of


class AutoFolds:
    """`FeatureHeads` first; the K folds only if the heads agree less with the given labels than the
    trained model does.

    Both are compared on the validation set: the trained Learner and the mean of the heads, same
    items, same labels. If there is none with labels, or the Learner itself is not trained
    (`oof_preds`), one fold Learner is trained and compared on its fold. `oof.config['mode_reason']`
    says what was found, in a sentence that is also printed if the Learner draws progress bars.
    Every fit is compared again: the features may be good enough after the first of `fine_tune`'s
    two fits, and no longer after the second."""

    def __init__(self,
        heads: FeatureHeads,  # Its `folds` are the K folds that may be trained
    ):
        self.heads = heads
        self.folds = heads.folds
        self.learn = heads.learn
        self.choice = None

    def prepare(self,
        record: FitRecord,  # Record of the fit that begins
        fit: Callable | None = None,  # The function that trains, if `record` says nothing about it
    ) -> None:
        "As `FeatureHeads.prepare`"
        self.heads.prepare(record, fit)

    def leave_idle(self, record: FitRecord, writing: list, looking: list) -> None:
        "As `FoldLearners.leave_idle`"
        self.folds.leave_idle(record, writing, looking)

    def follow(self,
        record: FitRecord | None = None,  # Record of a fit that ended; None: finish what is left
    ) -> None:
        "Compare, repeat the fits on the folds if that is needed, set `learn.oof`"
        if record is not None: self.choice = None
        if self.choice is None:
            self.heads.follow(record)
            self.choice = self._choose()
        if self.choice[0] == 'folds': self.folds.follow()
        self._explain()

    def run(self,
        record: FitRecord,  # The Learner as it is
        fit: Callable,  # Function that trains the Learner it is given
    ) -> None:
        """Compare with one fold Learner that `fit` trains, have it train the others if needed, set
        `learn.oof`"""
        self.heads.run(record, fit)
        self.choice = self._trial([record], fit)
        if self.choice[0] == 'folds': self.folds.run(FitRecord(self.learn, None), fit)
        self._explain()

    def _explain(self):
        mode, reason = self.choice
        oof_of(self.learn).config.update(mode=mode, mode_reason=reason)
        if hasattr(self.learn, 'progress'): print(reason)

    def _choose(self):
        fits = self.folds.fits
        dl, targets = self._labelled_valid()
        if dl is None: return self._trial(fits)
        with fold_random(self.folds.seed):
            fold = FoldLearner(self.learn, snapshot(self.learn), self.folds.leave_out)
            with fold.learn.added_cbs(fold.set_up(fits[-1], self.folds.fold == 0)):
                trained = self.folds.predicts(fold.learn, plain_dl(dl)).preds
        return self._compare(self.heads.predict(dl), trained, targets, 'the trained model',
                             'the validation set')

    def _labelled_valid(self):
        "The validation DataLoader and its targets, or None for both"
        loaders = self.folds.fits[-1].dls.loaders
        task = self.folds.labels.task
        if len(loaders) < 2: return None, None
        try: labels = labels_of(loaders[1], task == 'multilabel')
        except (TypeError, ValueError): return None, None
        return (loaders[1], labels.targets) if labels.task == task else (None, None)

    def _trial(self, fits, fit=None):
        folds = self.folds
        held_out = folds.fold == 0
        fold = FoldLearner(self.learn, copy_model(folds.snapshot), folds.leave_out)
        job = FoldJob(fold, fits, fit, held_out, folds.seed, 0, folds.predicts,
                      validate=folds.options.validate)
        return self._compare(oof_of(self.learn).pred_probs[held_out], job.run().preds,
                             folds.labels.targets[held_out], 'a model trained without them',
                             'the items of the first fold')

    def _compare(self, heads, trained, targets, what, where):
        task = self.folds.labels.task
        ours = agreement(heads, targets, task)
        theirs = agreement(trained, targets, task)
        mode, word = ('features', 'no lower than') if ours >= theirs else ('folds', 'lower than')
        return mode, (f"mode='auto' chose {mode}: on {where} {METRICS[task]} of the heads is "
                      f"{ours:.3f}, {word} the {theirs:.3f} of {what}")
