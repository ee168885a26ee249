"Early-learning regularization: what the model said early of an item keeps it from learning a wrong label by heart"
import torch
from fastai.callback.core import Callback
from fastai.callback.mixup import MixHandler, reduce_loss
from fastai.callback.training import GradientAccumulation
from fastcore.imports import noop
from torch.nn import functional as F

from ..data import ids_of
from ..data.batch_items import BatchItems
from ..losses import check_number
from .restore import restored_on_error


class EarlyLearningRegularizationCallback(Callback):
    """Adds lam * mean(log(1 - <p, t>)) to the loss of every training batch, where p are an item's probabilities (c,)
    and t its target, the running average t <- beta t + (1 - beta) p of what the model said of it, from 0.

    Liu et al., "Early-Learning Regularization Prevents Memorization of Noisy Labels", NeurIPS 2020, equations 6 and 9,
    with p clamped to 1e-4..1 - 1e-4 and normalised in t, as the authors do. The loss must take logits (n, c); the
    authors' lam is 3 for 10 classes, 7 with beta .9 for 100. `targets` (n, c) has a row an item of the training set,
    goes on from fit to fit, and begins anew for other items or another Learner; `learn.export()` leaves it out.
    Validation, `lr_find` and the loss function are untouched. Raises ValueError with MixUp and CutMix, whose items are
    no longer one, and where the outputs are not (n, c); TypeError for a DataLoader whose items have no position."""
    order, run_valid = GradientAccumulation.order - 1, False
    _stateattrs = 'targets', '_items', '_idxs', '_ds', '_names', '_of', '_forget'

    def __init__(self,
        beta=.7,  # How slowly the targets follow the model: 0 up to, but not, 1
        lam=3.,  # Weight of the regularization, 0 or more
    ):
        self._init_state()
        self.beta = check_number('beta', beta, lambda o: 0 <= o < 1, "a number from 0 up to, but not, 1")
        self.lam = check_number('lam', lam, lambda o: 0 <= o < float('inf'), "a weight of 0 or more")

    def _init_state(self):
        super()._init_state()
        vars(self).update({o: None for o in self._stateattrs}, _forget=noop)

    def before_fit(self):
        "Refuse mixed items"
        if self.learn.lock.locked(): return
        refuse(self.learn, MixHandler, self, "whose items are no longer one")
        self._end()
        self._forget = restored_on_error(self.learn, self._end)

    def before_train(self):
        "Follow the items of the batches, unless this is `lr_find`"
        if hasattr(self.learn, 'lr_finder'): return
        dl = self.learn.dls.train
        if dl.dataset is not self._ds or self._of is not self.learn:
            names = ids_of(dl.dataset, self.learn.path)
            if names != self._names or self._of is not self.learn: self.targets = None
            self._ds, self._names, self._of = dl.dataset, names, self.learn
        self._items = BatchItems(dl).start()

    def before_batch(self):
        "Note which items the batch holds"
        if self._items is not None: self._idxs = self._items.idxs

    def after_loss(self):
        "Update the targets of the items, and add the regularization to the loss"
        if self._items is None: return
        pred, idxs = self.learn.pred, self._idxs
        if not isinstance(pred, torch.Tensor) or pred.ndim != 2 or len(pred) != len(idxs):
            found = f"shape {tuple(pred.shape)}" if isinstance(pred, torch.Tensor) else f"a {type(pred).__name__}"
            raise ValueError(f"the model's outputs are {found}, but the batch has {len(idxs)} items: "
                             f"{type(self).__name__} needs one row of logits (n, c) an item")
        p = F.softmax(pred.as_subclass(torch.Tensor).float(), 1).clamp(1e-4, 1 - 1e-4)
        reg = self.lam*reduce_loss((1 - (self._updated(idxs, p.detach())*p).sum(1)).log(),
                                   getattr(self.learn.loss_func, 'reduction', 'mean'))
        self.learn.loss_grad = self.learn.loss_grad + reg
        self.learn.loss = self.learn.loss + reg.detach()

    def _updated(self, idxs, p):
        "Targets (bs, c) of the items after this batch; outputs that are not finite leave theirs as they were"
        shape = len(self._names), p.shape[1]
        if self.targets is None or self.targets.shape != shape: self.targets = p.new_zeros(shape)
        self.targets, idxs = self.targets.to(p.device), idxs.to(p.device)
        old = self.targets[idxs]
        new = self.beta*old + (1 - self.beta)*p/p.sum(1, keepdim=True)
        self.targets[idxs] = torch.where(new.isfinite().all(1, keepdim=True), new, old)
        return self.targets[idxs]

    def _stop(self):
        if self._items is not None: self._items.stop()
        self._items = None

    def _end(self):
        forget, self._forget = self._forget, noop
        forget()
        self._stop()

    def after_train(self):
        "Leave the DataLoader as it was"
        self._stop()

    def after_epoch(self):
        "Leave the DataLoader as it was where the epoch was cancelled; predictions within a fit hold the lock"
        if not self.learn.lock.locked(): self._stop()

    def after_fit(self):
        "Leave the DataLoader as it was where the fit was cancelled"
        if not self.learn.lock.locked(): self._end()


def refuse(
    learn,  # A Learner whose fit begins
    kinds,  # Callback class, or a tuple of them
    cb,  # The callback that cannot work with them
    why,  # What they do, in words
):
    "Raise ValueError where a callback of `kinds` is in force"
    for o in learn.cbs:
        if isinstance(o, kinds) and o.run:
            raise ValueError(f"{type(cb).__name__} cannot be used with {type(o).__name__}, {why}: leave one out")
