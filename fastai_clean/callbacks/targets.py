"Other targets for the items of a batch: what soft labels and item weights share"
import torch
from fastai.callback.core import Callback
from fastai.callback.mixup import MixHandler
from fastai.imports import noop
from fastai.torch_core import no_random

from ..data import ids_of, labels_of
from ..data.batch_items import BatchItems
from ..losses import SoftLoss
from .restore import restored_on_error


class TargetsCallback(Callback):
    """Base of callbacks that give training items other targets than their labels, item by item.

    From the first training batch of a fit to its end the Learner's loss takes soft targets and weights too (`SoftLoss`,
    the same for class indices), and every training batch gets what `targets_of` makes of its items, before MixUp and
    CutMix; so does `lr_find`. After the loss the batch has its labels back, so metrics, validation and predictions are
    as ever. Loss and DataLoader are put back when the fit ends, also by an error."""
    order, in_folds, run_valid = MixHandler.order - 2, False, False
    _stateattrs = '_items', '_labels', '_forget', '_base', '_hard', '_said'

    def _init_state(self):
        super()._init_state()
        vars(self).update(_items=None, _labels=None, _forget=noop, _base=None, _hard=None, _said=None)

    def setup(self):
        "What follows from the Learner's `_labels` and `ids` of its training items; returns a sentence of it"
        raise NotImplementedError

    def targets_of(self, idxs, yb):
        "Targets, a tuple, of the items at positions `idxs`, whose labels are `yb`"
        raise NotImplementedError

    def before_fit(self):
        "Leave nothing of a fit before, nor of this one; prediction and validation within a fit hold the lock"
        if self.learn.lock.locked(): return
        self._restore()
        self._forget = restored_on_error(self.learn, self._restore)

    def before_train(self):
        "At the first epoch, take the training items' labels, and the loss"
        if self._items is not None: return
        learn, dl = self.learn, self.dls.train
        with no_random(): labels = labels_of(dl)
        if labels.task != 'classification':
            raise TypeError(f"the training set's labels are of {labels.task}: {type(self).__name__} needs one class an "
                            "item")
        self._labels = labels
        said = f'{type(self).__name__}: {self.setup(ids_of(dl.dataset, learn.path))}'
        if said != self._said and learn.logger is not noop and not hasattr(learn, 'lr_finder'): print(said)
        self._said = said
        self._items = BatchItems(dl).start()
        if not isinstance(learn.loss_func, SoftLoss): self._base, learn.loss_func = learn.loss_func, SoftLoss(
            learn.loss_func)

    def before_batch(self):
        "Give the batch its targets"
        if self._items is None: return
        idxs, y = self._items.idxs, self.learn.yb[0]
        if not y.is_floating_point():
            given = torch.as_tensor(self._labels.targets[idxs.numpy()])
            if y.shape[:1] != given.shape or not torch.equal(y.detach().cpu().long().reshape(-1), given):
                raise ValueError("the batch's labels are not those of its items: leave out what changes labels in the "
                                 f"data or before {type(self).__name__}")
            self._hard = self.learn.yb
        self.learn.yb = tuple(o.to(y.device) for o in self.targets_of(idxs, self.learn.yb))

    def after_loss(self):
        "Give the batch its labels back"
        if self._hard is not None: self.learn.yb, self._hard = self._hard, None

    def after_cancel_batch(self):
        "Give a batch that was cancelled before its loss its labels back"
        self.after_loss()

    def after_fit(self):
        "Put loss and DataLoader back"
        if not self.learn.lock.locked(): self._restore()

    def __setattr__(self, name, value):
        "Where the callback is taken off the Learner, also by an error, leave nothing there"
        if name == 'learn' and value is None and self.learn is not None: self._restore()
        super().__setattr__(name, value)

    def _restore(self):
        forget, self._forget, self._hard = self._forget, noop, None
        forget()
        if self._items is not None: self._items.stop()
        if self._base is not None: self.learn.loss_func = self._base
        self._items = self._base = None
