"""Early-learning regularization: what the model said about an item early on keeps it from
memorising a wrong label"""
import torch
from fastai.callback.mixup import MixHandler, reduce_loss
from fastai.callback.training import GradientAccumulation
from torch.nn import functional as F

from ..data import ids_of
from ..losses import check_number
from .base import FitCallback


class EarlyLearningRegularizationCallback(FitCallback):
    """Adds lam * mean(log(1 - <p, t>)) to the loss of every training batch. Here p are an item's
    probabilities (c,), and t is its target: the running average t <- beta t + (1 - beta) p of what
    the model said about it, which starts at 0.

    Liu et al., "Early-Learning Regularization Prevents Memorization of Noisy Labels", NeurIPS 2020,
    equations 6 and 9, with p clamped to 1e-4..1 - 1e-4 and normalised in t, as the authors do. The
    loss must take logits (n, c); the authors' lam is 3 for 10 classes, and 7 with beta .9 for 100.
    `targets` (n, c) has one row per training item. It goes on from fit to fit, and starts again for
    other items or another Learner; `learn.export()` leaves it out. Validation, `lr_find` and the
    loss function are untouched.

    Raises ValueError with MixUp and CutMix, which mix two items into one, and if the outputs are
    not (n, c); TypeError for a DataLoader whose items have no position."""
    # GradientAccumulation divides the loss in its `after_loss`: what is added must be there by then
    order = GradientAccumulation.order - 1
    _stateattrs = (*FitCallback._stateattrs, 'targets', '_ds', '_ids')

    def __init__(self,
        beta: float = .7,  # How slowly the targets follow the model: 0 to below 1
        lam: float = 3.,  # Weight of the regularization, 0 or more
    ):
        super().__init__()
        self.beta = check_number('beta', beta, lambda o: 0 <= o < 1,
                                 "a number from 0 to below 1")
        self.lam = check_number('lam', lam, lambda o: 0 <= o < float('inf'),
                                "a weight of 0 or more")

    def check(self):
        "Refuse mixed items, before MixUp has changed the loss"
        self.refuse(MixHandler, "which mixes two items into one")

    def start(self):
        "Forget what was gathered beside another Learner"
        if not self.same_learner: self._ds = self._ids = self.targets = None

    def before_train(self):
        "Start the targets again if the training items are other ones"
        super().before_train()
        ds = self.learn.dls.train.dataset
        # The ids of a large data set take a while, so they are made again only for another data set
        if not self._on or ds is self._ds: return
        ids = ids_of(ds, self.learn.path)
        if ids != self._ids: self.targets = None
        self._ds = ds
        self._ids = ids

    def after_loss(self):
        "Update the targets of the items, and add the regularization to the loss"
        if not self._on: return
        pred = self.learn.pred
        idxs = self._idxs
        is_tensor = isinstance(pred, torch.Tensor)
        if not is_tensor or pred.ndim != 2 or len(pred) != len(idxs):
            found = f"shape {tuple(pred.shape)}" if is_tensor else f"a {type(pred).__name__}"
            raise ValueError(f"the model's outputs are {found}, but the batch has {len(idxs)} "
                             f"items: {type(self).__name__} needs one row of logits (n, c) per "
                             "item")
        p = F.softmax(pred.as_subclass(torch.Tensor).float(), 1).clamp(1e-4, 1 - 1e-4)
        reg = self.lam*reduce_loss((1 - (self._updated(idxs, p.detach())*p).sum(1)).log(),
                                   getattr(self.learn.loss_func, 'reduction', 'mean'))
        # fastai goes backward from `loss_grad`; `loss` is its copy for the Recorder
        self.learn.loss_grad = self.learn.loss_grad + reg
        self.learn.loss = self.learn.loss + reg.detach()

    def _updated(self, idxs, p):
        """Targets (bs, c) of the items after this batch; outputs that are not finite leave theirs
        as they were"""
        shape = len(self._ids), p.shape[1]
        if self.targets is None or self.targets.shape != shape: self.targets = p.new_zeros(shape)
        self.targets = self.targets.to(p.device)
        idxs = idxs.to(p.device)
        old = self.targets[idxs]
        new = self.beta*old + (1 - self.beta)*p/p.sum(1, keepdim=True)
        self.targets[idxs] = torch.where(new.isfinite().all(1, keepdim=True), new, old)
        return self.targets[idxs]
