"The fold Learners that make the out-of-fold result"
import numpy as np
import torch
from fastai.learner import Learner, SkipToEpoch
from fastai.torch_core import no_random
from fastcore.basics import patch
from fastcore.foundation import L

from ..checks import check_opt_func, infer_act, is_binary_loss
from ..folds import fold_numbers, item_ids, labels_of, predict
from .replay import FitRecord, FoldLearner, InFold, copy_model, fold_bar, snapshot
from .result import OutOfFold

__all__ = ['FoldLearners']


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
        tta=None,  # 'flip': predict the held-out images and their mirror images, and take the mean
    ):
        learn = record.learn
        check_opt_func(learn.opt_func)
        if seed < 0: raise ValueError(f"seed is {seed}: pass a whole number, 0 or more")
        self.learn, self.seed, self.leave_out = learn, int(seed), tuple(L(leave_out))
        with self._random():
            self.labels = labels_of(learn.dls.train, is_binary_loss(record.loss_func))
            self.act, self.tta = infer_act(record.loss_func, act, self.labels.task), tta
            targets, vocab, task = self.labels
            if task == 'classification' and (len(np.unique(targets)) < 2 or (vocab is not None and len(vocab) < 2)):
                raise ValueError("the training set has fewer than two classes: there is nothing to confuse")
            if task in ('regression', 'multilabel') and (targets == targets[0]).all():
                raise ValueError("the training set's targets are all the same: there is nothing to confuse")
            if targets is None: targets = np.zeros(len(learn.dls.train_ds), dtype=np.int64)
            self.fold = fold_numbers(targets, n_folds, splits, seed)
            self.items = item_ids(learn.dls.train_ds, learn.path)
            self.snapshot = snapshot(learn)
        self.n_folds = int(self.fold.max()) + 1
        self.config = dict(n_folds=self.n_folds, seed=self.seed, model=type(learn.model).__name__, tta=tta,
                           splits='stratified' if splits is None else type(splits).__name__)
        self.fits, self.folds, self.pred_probs, self.masks, self.metrics = [], {}, None, None, {}

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
            if self.fits and record.dls is not self.fits[-1].dls and not self._same_labels(record.dls.train):
                raise ValueError("learn.dls has other training labels than in the fit before: make a new Learner "
                                 "and a new callback for them")
            record.copy_parts(self.leave_out)
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
        if record is not None:
            self.fits.append(record)
            self.pred_probs, self.masks, self.metrics, self.learn.oof = None, None, {}, None
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
        held_out = np.flatnonzero(self.fold == k)
        got = self._predicted(learn, learn.dls.valid, self.learn.metrics)
        if self.pred_probs is None:
            self.pred_probs = np.full((len(self.fold), *got.preds.shape[1:]), np.nan, np.float32)
            if got.masks is not None: self.masks = np.zeros((len(self.fold), *got.masks.shape[1:]), got.masks.dtype)
        self.pred_probs[held_out], self.metrics[k] = got.preds, {'fold': k, 'items': len(held_out), **got.metrics}
        if got.masks is not None: self.masks[held_out] = got.masks
        targets = self.labels.targets if self.masks is None else self.masks
        config = {**self.config, 'n_epoch': [o.n_epoch for o in self.fits],
                  'fold_metrics': [self.metrics[o] for o in sorted(self.metrics)]}
        vocab = [] if self.labels.task == 'regression' else self.labels.vocab
        arrays = (o.copy() for o in (self.pred_probs, targets, self.fold))
        self.learn.oof = OutOfFold(*arrays, self.items, vocab, config, self.labels.task)

    def _predicted(self, learn, dl, metrics=()):
        learn.remove_cbs(SkipToEpoch)
        return predict(learn, dl, self.act, self.labels.c, self.labels.task, n=len(self.fold), tta=self.tta,
                       metrics=metrics)


@patch
def oof_preds(self: Learner,
    fit,  # Function that trains the Learner it is given, such as `lambda l: l.fine_tune(3)`
    n_folds=5,  # Number of folds
    splits=None,  # Fold numbers (n,), group ids (n,) or a scikit-learn splitter; None: stratified folds
    seed=42,  # Seed of the folds and of the fold Learners' random numbers
    act=None,  # Activation that turns outputs into probabilities; None: the loss's
    leave_out=(),  # Callback classes that folds leave out, besides progress, loggers and trackers
    tta=None,  # 'flip': predict the held-out images and their mirror images, and take the mean
) -> OutOfFold:
    """Out-of-fold probabilities of the training set: `fit` trains `n_folds` copies of this Learner, not itself.

    Cross-validation as confident learning needs it (Northcutt et al., JAIR 2021). Also sets `learn.oof`. Raises
    TypeError or ValueError, before training, for data and optimizers that cannot be split into folds."""
    record = FitRecord(self, None)
    FoldLearners(record, n_folds, splits, seed, act, leave_out, tta).run(record, fit)
    return self.oof
