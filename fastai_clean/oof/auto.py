"The cheap out-of-fold predictions where they are good enough, else those of K fold Learners"
from ..data import labels_of, plain_dl
from .features import METRICS, agreement
from .fit import FitRecord, FoldLearner, copy_model, snapshot
from .jobs import FoldJob, fold_random
from .result import oof_of


class AutoFolds:
    """`FeatureHeads` first; the K folds only where the heads agree less with the given labels than the trained model.

    Both are compared on the validation set: the trained Learner and the mean of the heads, same items, same labels.
    Where there is none with labels, or the Learner itself is not trained (`oof_preds`), one fold Learner is trained and
    compared on its fold. `oof.config['mode_reason']` says what was found, in a sentence that is also printed where the
    Learner draws progress bars. Every fit is compared anew: after the first of `fine_tune`'s two, the features may do,
    and after the second no longer."""

    def __init__(self,
        heads,  # FeatureHeads; the K folds that may be trained are its `folds`
    ):
        self.heads, self.folds, self.learn, self.choice = heads, heads.folds, heads.learn, None

    def prepare(self,
        record,  # The FitRecord of the fit that begins
        fit=None,  # The function that trains, where `record` says nothing of it
    ):
        "As `FeatureHeads.prepare`"
        self.heads.prepare(record, fit)

    def follow(self,
        record=None,  # The FitRecord of a fit that has ended; None: only finish what was interrupted
    ):
        "Compare, repeat the fits on the folds where that is needed, set `learn.oof`"
        if record is not None: self.choice = None
        if self.choice is None:
            self.heads.follow(record)
            self.choice = self._choose()
        if self.choice[0] == 'folds': self.folds.follow()
        self._explain()

    def run(self,
        record,  # FitRecord of the Learner as it is
        fit,  # Function that trains the Learner it is given
    ):
        "Compare with one fold Learner that `fit` trains, have it train the others where needed, set `learn.oof`"
        self.heads.run(record, fit)
        self.choice = self._trial([record], fit)
        if self.choice[0] == 'folds': self.folds.run(FitRecord(self.learn, None), fit)
        self._explain()

    def _explain(self):
        mode, reason = self.choice
        oof_of(self.learn).config.update(mode=mode, mode_reason=reason)
        if hasattr(self.learn, 'progress'): print(reason)

    def _choose(self):
        fits, (dl, targets) = self.folds.fits, self._labelled_valid()
        if dl is None: return self._trial(fits)
        with fold_random(self.folds.seed):
            fold = FoldLearner(self.learn, snapshot(self.learn), self.folds.leave_out)
            with fold.learn.added_cbs(fold.set_up(fits[-1], self.folds.fold == 0)):
                trained = self.folds.predicts(fold.learn, plain_dl(dl)).preds
        return self._compare(self.heads.predict(dl), trained, targets, 'the trained model', 'the validation set')

    def _labelled_valid(self):
        "The validation DataLoader and its targets, or None for both"
        loaders, task = self.folds.fits[-1].dls.loaders, self.folds.labels.task
        if len(loaders) < 2: return None, None
        try: labels = labels_of(loaders[1], task == 'multilabel')
        except (TypeError, ValueError): return None, None
        return (loaders[1], labels.targets) if labels.task == task else (None, None)

    def _trial(self, fits, fit=None):
        folds, held_out = self.folds, self.folds.fold == 0
        fold = FoldLearner(self.learn, copy_model(folds.snapshot), folds.leave_out)
        trained = FoldJob(fold, fits, fit, held_out, folds.seed, 0, folds.predicts).run().preds
        return self._compare(oof_of(self.learn).pred_probs[held_out], trained, folds.labels.targets[held_out],
                             'a model trained without them', 'the items of the first fold')

    def _compare(self, heads, trained, targets, what, where):
        task = self.folds.labels.task
        ours, theirs = (agreement(o, targets, task) for o in (heads, trained))
        mode, word = ('features', 'no lower than') if ours >= theirs else ('folds', 'lower than')
        return mode, (f"mode='auto' chose {mode}: on {where} {METRICS[task]} of the heads is {ours:.3f}, {word} the "
                      f"{theirs:.3f} of {what}")
