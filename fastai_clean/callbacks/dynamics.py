"Training dynamics of every item, while a Learner trains as it always does"
from collections.abc import Callable

import numpy as np
import torch
from fastai.callback.mixup import MixHandler
from fastai.callback.tracker import SaveModelCallback
from fastai.torch_core import no_random
from fastcore.basics import store_attr

from ..data import ids_of, labels_of
from ..data.labels import is_binary_loss
from ..data.predict import check_preds, infer_act
from ..dynamics import Dynamics, margin, set_dynamics
from .base import FitCallback, n_classes

OWN_SHARE = .75  # Least share of an item in a mixed input whose output is recorded as the item's


class TrainingDynamicsCallback(FitCallback):
    """Records what the model says about every training item each time it learns from it. Costs one
    copy of the outputs per batch, and no further fit. After every fit `learn.dynamics` (and
    `dynamics` here) holds the `Dynamics` of all fits that this callback followed: area under the
    margin, forgetting events, data map, mean probabilities.

    `fit`, `fit_one_cycle`, `fine_tune`, gradual unfreezing and any fits in a row are joined, even
    if they ended early or by an error; `validate`, `get_preds` and `lr_find` are not fits. The
    Learner trains as it would without the callback: same weights, records and random numbers. Items
    that an epoch leaves out (drop_last, weights) have no record there. Under MixUp and CutMix an
    item is recorded in the batches that leave at least three quarters of it. The records are
    in-sample: they find wrong labels because those are learned late, so train for a while, but not
    until the model has memorised all. Pleiss et al., NeurIPS 2020; Toneva et al., ICLR 2019;
    Swayamdipta et al., EMNLP 2020.

    With `threshold_samples`, n/(c+1) random items are trained as an extra class c+1, which is no
    item's true class. An item whose AUM is below the 99th percentile of theirs is an issue (Pleiss
    et al.). This needs a model of c+1 outputs (`n_out=`), changes the fit, and says nothing about
    the samples' own labels: train a new Learner with another `seed` for those.

    Raises TypeError or ValueError, before the first step, if the labels are not one class per item
    or the outputs do not fit."""
    # After every callback that changes a batch or gives it back whole, so that it records the items
    # that the loss was computed from
    order = SaveModelCallback.order + 20
    in_folds = False
    _stateattrs = (*FitCallback._stateattrs, '_history', '_labels', '_ids', '_samples', '_act',
                   '_result', '_epochs', '_yb')

    def __init__(self,
        act: Callable | None = None,  # From outputs to probabilities; None: the loss's activation
        threshold_samples: bool = False,  # Whether to train random items as an extra class
        seed: int = 42,  # Seed of the choice of the threshold samples
    ):
        super().__init__()
        store_attr()

    @property
    def dynamics(self) -> Dynamics | None:
        "The `Dynamics` after the last fit, or None"
        return self._result

    def start(self):
        "Look at the labels, and go on with the record if they are those of the previous fit"
        learn = self.learn
        mixed = self.in_force(MixHandler)
        if self.threshold_samples and mixed:
            raise ValueError(f"threshold_samples cannot be used with {type(mixed[0]).__name__}, "
                             "which mixes the extra class into the others: leave one of them out")
        # Reading an item may augment it, but the fit must draw the random numbers that it would
        # draw if nothing had been read
        with no_random():
            labels = labels_of(learn.dls.train, is_binary_loss(self._loss))
            ids = ids_of(learn.dls.train_ds, learn.path)
        if labels.task != 'classification':
            raise TypeError("TrainingDynamicsCallback needs one class per item, but these labels "
                            f"are of the task {labels.task}: use ConfidentLearningCallback")
        # Not the Learner's loss as it is now: MixUp has replaced it
        self._act = infer_act(self._loss, self.act, labels.task)

        if not self.same_learner:
            self._labels = labels
            self._ids = ids
            self._history = None
            self._epochs = []
            self._samples = self._draw()
        elif ids != self._ids or not np.array_equal(labels.targets, self._labels.targets):
            raise ValueError("learn.dls has other training items or labels than in the last fit: "
                             "make a new Learner and a new callback for them")
        self._epochs.append(0)

    def _draw(self):
        "Boolean mask (n,) of the threshold samples"
        n = len(self._ids)
        size = max(1, round(n/(n_classes(self._labels) + 1))) if self.threshold_samples else 0
        drawn = np.random.default_rng(self.seed).choice(n, size, replace=False)
        return np.isin(np.arange(n), drawn)

    def before_batch(self):
        "Give the threshold samples the extra class"
        super().before_batch()
        if not self._on or not self.threshold_samples: return
        y = self.learn.yb[0]
        if y.is_floating_point() or y.ndim != 1:
            raise ValueError("threshold_samples needs class indices as targets, but the batch has "
                             f"{y.dtype} of shape {tuple(y.shape)}: leave out the callback that "
                             "softens them")
        sample = torch.as_tensor(self._samples[self._idxs.numpy()], device=y.device)
        self._yb = self.learn.yb
        self.learn.yb = (torch.where(sample, torch.full_like(y, n_classes(self._labels)), y),)

    def after_pred(self):
        "Check, at the first batch, that the outputs are those of a classifier"
        if not self._on or self._history is not None: return
        pred = self.learn.pred
        c = self._labels.c
        if self.threshold_samples:
            c = n_classes(self._labels) + 1
            if isinstance(pred, torch.Tensor) and pred.shape[-1] != c:
                raise ValueError(f"threshold_samples needs a model of {c} outputs, one more than "
                                 f"there are classes, but it has {pred.shape[-1]}: pass n_out={c} "
                                 "when the model is made")
        probs = self._act(self._outputs()) if isinstance(pred, torch.Tensor) else pred
        n_out = check_preds(probs, None, c).shape[1]
        targets = np.where(self._samples, n_out - 1, self._labels.targets)
        self._history = _History(targets, n_out - self.threshold_samples, n_out)

    def _outputs(self): return self.learn.pred.detach().as_subclass(torch.Tensor).float().cpu()

    def after_loss(self):
        "Record the batch, and give it its labels back, which metrics need"
        if not self._on: return
        if self.threshold_samples: self.learn.yb = self._yb
        outputs = self._outputs()
        idxs = self._idxs
        if len(outputs) != len(idxs):
            raise ValueError(f"the batch has {len(idxs)} items, but the outputs have "
                             f"{len(outputs)}: leave out the callback that drops some of them, "
                             "such as CoTeachingCallback")
        for cb in self.in_force(MixHandler):
            # Item i of the batch has the share `lam` of mixed input i: one number each in MixUp,
            # one for all in CutMix
            own = (cb.lam.detach().cpu() >= OWN_SHARE).expand(len(idxs))
            outputs = outputs[own]
            idxs = idxs[own]
        self._history.add(idxs, outputs, self._act(outputs))

    def end_epoch(self):
        "Close the epoch's record"
        if self._history is not None: self._epochs[-1] += self._history.end_epoch()

    def stop(self):
        "Set `learn.dynamics`"
        if self._history is None or not self._history.probs: return
        vocab = self._labels.vocab or list(range(self._history.c))
        config = dict(n_epoch=list(self._epochs), model=type(self.learn.model).__name__,
                      seed=self.seed, threshold_samples=self.threshold_samples)
        self._result = self._history.dynamics(self._labels.targets, ids=self._ids, vocab=vocab,
                                              config=config)
        set_dynamics(self.learn, self._result)


class _History:
    """Gathers `Dynamics` batch by batch, in memory O(n (c + epochs)). Outputs that are not finite
    leave no record"""

    def __init__(self,
        targets: np.ndarray,  # Class indices (n,) that the items are trained with; c: a sample
        c: int,  # Number of classes
        n_out: int,  # Number of the model's outputs: c, or c + 1 with threshold samples
    ):
        n = len(targets)
        self.targets = targets
        self.c = c
        self.probs: list[np.ndarray] = []  # Of the given labels (n,), one per closed epoch
        self.margins: list[np.ndarray] = []  # Likewise
        self.total = torch.zeros(n, n_out)  # Probabilities, summed over the closed epochs
        self.n_met = np.zeros(n, dtype=int)  # Closed epochs that met the item
        # Of the open epoch: the sums of the probabilities and of the margins, and how often met
        self.epoch = torch.zeros(n, n_out + 2)

    def add(self,
        idxs: torch.Tensor,  # LongTensor (m,): positions of the items, which may repeat
        outputs: torch.Tensor,  # Outputs of the model (m, n_out)
        probs: torch.Tensor,  # Their probabilities (m, n_out)
    ):
        "Record a batch of the epoch"
        ok = torch.isfinite(outputs).all(1) & torch.isfinite(probs).all(1)
        idxs, outputs, probs = (o[ok] for o in (idxs, outputs, probs))
        margins = torch.as_tensor(margin(outputs.numpy(), self.targets[idxs.numpy()]))[:, None]
        # Unlike `self.epoch[idxs] += ...`, this adds both rows of an item that the batch holds
        # twice
        self.epoch.index_add_(0, idxs, torch.cat([probs, margins, torch.ones_like(margins)], 1))

    def end_epoch(self) -> bool:
        "Close the epoch, and say whether any item was met in it; if none was, it leaves no record"
        count = self.epoch[:, -1]
        met = (count > 0).numpy()
        if not met.any(): return False

        self.epoch.div_(count.clamp(min=1)[:, None].clone())
        values = self.epoch.numpy()
        self.probs.append(np.where(met, values[np.arange(len(met)), self.targets], np.nan))
        self.margins.append(np.where(met, values[:, -2], np.nan))
        self.total += self.epoch[:, :-2]
        self.n_met += met
        self.epoch.zero_()
        return True

    def dynamics(self,
        targets: np.ndarray,  # Given class indices (n,)
        **kwargs,  # Passed to `Dynamics`: ids, vocab, config
    ) -> Dynamics:
        "The `Dynamics` of the closed epochs; there must be at least one"
        samples = self.targets == self.c
        probs = self.total.numpy()[:, :self.c]
        # With threshold samples the c probabilities do not sum to 1: the extra class has a share
        total = probs.sum(1, keepdims=True)
        known = ((self.n_met > 0) & ~samples)[:, None] & (total > 0)
        probs = np.divide(probs, total, out=np.full_like(probs, np.nan), where=known)
        return Dynamics(np.stack(self.probs), np.stack(self.margins), probs, targets, samples,
                        **kwargs)
