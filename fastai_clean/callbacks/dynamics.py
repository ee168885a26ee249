"Training dynamics of every item, while a Learner trains as it always does"
from weakref import ref

import numpy as np
import torch
from fastai.callback.core import Callback
from fastai.callback.mixup import MixHandler
from fastai.callback.tracker import SaveModelCallback
from fastai.torch_core import no_random
from fastcore.basics import store_attr
from fastcore.imports import noop

from ..data import ids_of, labels_of
from ..data.batch_items import BatchItems
from ..data.labels import is_binary_loss
from ..data.predict import check_preds, infer_act
from ..dynamics import Dynamics, margin, set_dynamics
from .restore import restored_on_error

OWN_SHARE = .75


class TrainingDynamicsCallback(Callback):
    """Records what the model says of every training item each time it learns from it; costs one copy of the outputs a
    batch, and no further fit. After every fit `learn.dynamics` (and `dynamics` here) holds the `Dynamics` of all fits
    that this callback followed: area under the margin, forgetting events, data map, mean probabilities.

    `fit`, `fit_one_cycle`, `fine_tune`, gradual unfreezing and any fits in a row are joined, also ones that ended
    early, by an error too; `validate`, `get_preds` and `lr_find` are not fits. The Learner trains as it would without
    the callback: same weights, records and random numbers. Items that an epoch leaves out (drop_last, weights) have no
    record there. Under MixUp and CutMix an item is recorded in the batches that leave at least three quarters of it.
    The records are in-sample: they find wrong labels because those are learned late, so train for a while, but not
    until all are known by heart. Pleiss et al., NeurIPS 2020; Toneva et al., ICLR 2019; Swayamdipta et al., EMNLP 2020.

    With `threshold_samples`, n/(c+1) random items are trained as an extra class c+1, which no label truly is; what has
    an AUM below the 99th percentile of theirs is an issue (Pleiss et al.). It needs a model of c+1 outputs (`n_out=`),
    changes the fit, and tells nothing of the samples' own labels: train a new Learner with another `seed` for those.

    Raises TypeError or ValueError before the first step where the labels are not one class an item, or the outputs do
    not fit."""
    order, run_valid, in_folds = SaveModelCallback.order + 20, False, False
    _stateattrs = ('_history', '_items', '_labels', '_names', '_samples', '_of', '_loss', '_act', '_result', '_epochs',
                   '_yb', '_idxs', '_forget')

    def __init__(self,
        act=None,  # Activation that turns outputs into probabilities; None: the loss's
        threshold_samples=False,  # Whether to train random items as an extra class, whose AUM is the threshold
        seed=42,  # Seed of the choice of the threshold samples
    ):
        self._init_state()
        store_attr()

    def _init_state(self):
        super()._init_state()
        vars(self).update({o: None for o in self._stateattrs}, _epochs=[], _forget=noop)

    @property
    def dynamics(self):
        "The `Dynamics` after the last fit, or None"
        return self._result

    def before_fit(self):
        "Note the loss, unless this is `lr_find`, or prediction and validation, which hold the Learner's lock"
        if self.learn.lock.locked(): return
        self._end()
        self._loss = None if hasattr(self.learn, 'lr_finder') else self.learn.loss_func
        self._forget = restored_on_error(self.learn, self._end)

    def before_train(self):
        "The fit is real: look at the labels, and follow the items of the batches"
        if self._loss is None: return
        if self._act is None:
            try: self._arm()
            except Exception:
                self.learn.loss_func = self._loss
                raise
        self._items = BatchItems(self.learn.dls.train).start()

    def _arm(self):
        learn, mixed = self.learn, [type(o).__name__ for o in self._mixers()]
        if self.threshold_samples and mixed:
            raise ValueError(f"threshold_samples cannot be used with {mixed[0]}, which mixes the extra class into the "
                             "others: leave one of them out")
        with no_random():
            labels = labels_of(learn.dls.train, is_binary_loss(self._loss))
            names = ids_of(learn.dls.train_ds, learn.path)
        if labels.task != 'classification':
            raise TypeError(f"TrainingDynamicsCallback needs one class an item, but these labels are of the task "
                            f"{labels.task}: use ConfidentLearningCallback")
        act = infer_act(self._loss, self.act, labels.task)
        if self._of is None or self._of() is not learn:
            self._of, self._labels, self._names, self._history, self._epochs = ref(learn), labels, names, None, []
            self._samples = self._draw()
        elif names != self._names or not np.array_equal(labels.targets, self._labels.targets):
            raise ValueError("learn.dls has other training items or labels than in the fit before: make a new Learner "
                             "and a new callback for them")
        self._act = act
        self._epochs.append(0)

    def _mixers(self): return [o for o in self.learn.cbs if isinstance(o, MixHandler) and o.run]

    def _c(self): return self._labels.c or int(self._labels.targets.max()) + 1

    def _draw(self):
        n = len(self._names)
        size = max(1, round(n/(self._c() + 1))) if self.threshold_samples else 0
        return np.isin(np.arange(n), np.random.default_rng(self.seed).choice(n, size, replace=False))

    def before_batch(self):
        "Note the items of the batch; give the threshold samples the extra class"
        if self._items is None: return
        self._idxs = self._items.idxs
        if not self.threshold_samples: return
        y = self.learn.yb[0]
        if y.is_floating_point() or y.ndim != 1:
            raise ValueError(f"threshold_samples needs class indices as targets, but the batch has {y.dtype} of shape "
                             f"{tuple(y.shape)}: leave out the callback that softens them")
        self._yb, sample = self.learn.yb, torch.as_tensor(self._samples[self._idxs.numpy()], device=y.device)
        self.learn.yb = (torch.where(sample, torch.full_like(y, self._c()), y),)

    def after_pred(self):
        "See, at the first batch, that the outputs are those of a classifier"
        if self._items is None or self._history is not None: return
        pred, c = self.learn.pred, self._labels.c
        if self.threshold_samples:
            c = self._c() + 1
            if isinstance(pred, torch.Tensor) and pred.shape[-1] != c:
                raise ValueError(f"threshold_samples needs a model of {c} outputs, one more than there are classes, "
                                 f"but it has {pred.shape[-1]}: pass n_out={c} where the model is made")
        probs = self._act(self._outputs()) if isinstance(pred, torch.Tensor) else pred
        n_out = check_preds(probs, None, c).shape[1]
        targets = np.where(self._samples, n_out - 1, self._labels.targets)
        self._history = _History(targets, n_out - self.threshold_samples, n_out)

    def _outputs(self): return self.learn.pred.detach().as_subclass(torch.Tensor).float().cpu()

    def after_loss(self):
        "Record the batch; metrics get the labels as they are"
        if self._items is None: return
        if self.threshold_samples: self.learn.yb = self._yb
        outputs, idxs = self._outputs(), self._idxs
        if len(outputs) != len(idxs):
            raise ValueError(f"the batch has {len(idxs)} items, but the outputs {len(outputs)}: leave out the callback "
                             "that drops some of them, such as CoTeachingCallback")
        for cb in self._mixers():
            own = (cb.lam.detach().cpu() >= OWN_SHARE).expand(len(idxs))
            outputs, idxs = outputs[own], idxs[own]
        self._history.add(idxs, outputs, self._act(outputs))

    def after_train(self):
        "Close the epoch"
        self._close()

    def after_epoch(self):
        "Close the epoch that was cancelled"
        if not self.learn.lock.locked(): self._close()

    def after_cancel_fit(self):
        "Close the epoch in which the fit ended"
        self._close()

    def _close(self):
        if self._items is None: return
        self._items.stop()
        self._items = None
        if self._history is not None: self._epochs[-1] += self._history.end_epoch()

    def after_fit(self):
        "Set `learn.dynamics`"
        if not self.learn.lock.locked(): self._end()

    def _end(self):
        forget, self._forget = self._forget, noop
        forget()
        if self._act is None: return
        self._close()
        self._act = self._loss = None
        if self._history is None or not self._history.probs: return
        vocab = self._labels.vocab or list(range(self._history.c))
        config = dict(n_epoch=list(self._epochs), model=type(self.learn.model).__name__, seed=self.seed,
                      threshold_samples=self.threshold_samples)
        self._result = self._history.dynamics(self._labels.targets, ids=self._names, vocab=vocab, config=config)
        set_dynamics(self.learn, self._result)


class _History:
    "Gathers `Dynamics` batch by batch; memory O(n (c + epochs)). Outputs that are not finite leave no record"

    def __init__(self,
        targets,  # Class indices (n,) that the items are trained with; c for the threshold samples
        c,  # Number of classes
        n_out,  # Number of the model's outputs: c, or c + 1 with threshold samples
    ):
        self.targets, self.c, n = np.asarray(targets), c, len(targets)
        self.probs, self.margins, self.views = [], [], np.zeros(n, dtype=int)
        self.epoch, self.total = torch.zeros(n, n_out + 2), torch.zeros(n, n_out)

    def add(self,
        idxs,  # LongTensor (m,): positions of the items
        outputs,  # Outputs of the model (m, n_out)
        probs,  # Their probabilities (m, n_out)
    ):
        "Record a batch of the epoch"
        ok = torch.isfinite(outputs).all(1) & torch.isfinite(probs).all(1)
        idxs, outputs, probs = idxs[ok], outputs[ok], probs[ok]
        margins = torch.as_tensor(margin(outputs.numpy(), self.targets[idxs.numpy()]))[:, None]
        self.epoch.index_add_(0, idxs, torch.cat([probs, margins, torch.ones_like(margins)], 1))

    def end_epoch(self):
        "Close the epoch, and say whether any item was met; where none was there is no record"
        count = self.epoch[:, -1]
        met = (count > 0).numpy()
        if not met.any(): return False
        self.epoch.div_(count.clamp(min=1)[:, None].clone())
        values = self.epoch.numpy()
        self.probs.append(np.where(met, values[np.arange(len(met)), self.targets], np.nan))
        self.margins.append(np.where(met, values[:, -2], np.nan))
        self.total += self.epoch[:, :-2]
        self.views += met
        self.epoch.zero_()
        return True

    def dynamics(self,
        targets,  # Given class indices (n,)
        **kwargs,  # Passed to `Dynamics`: ids, vocab, config
    ):
        "The `Dynamics` of the closed epochs, or None where there are none"
        if not self.probs: return None
        samples = self.targets == self.c
        probs = self.total.numpy()[:, :self.c]
        total = probs.sum(1, keepdims=True)
        known = ((self.views > 0) & ~samples)[:, None] & (total > 0)
        probs = np.divide(probs, total, out=np.full_like(probs, np.nan), where=known)
        return Dynamics(np.stack(self.probs), np.stack(self.margins), probs, targets, samples, **kwargs)
