"Co-teaching: two models in one fit, each of which learns the items that the other finds easy"
from collections.abc import Callable

import torch
from fastai.callback.mixup import MixHandler
from fastai.callback.training import GradientAccumulation
from fastai.layers import NoneReduce
from fastai.learner import Learner
from fastcore.basics import store_attr
from torch import nn

from ..losses import check_number
from ..oof.fit import check_opt_func
from .base import FitCallback
from .elr import EarlyLearningRegularizationCallback


class CoTeachingCallback(FitCallback):
    """Trains a second model beside the Learner's: from every batch, each learns the share 1 - R of
    items that have the smallest losses in the other. R grows from 0, epoch by epoch, to
    `forget_rate` after `ramp`.

    Han et al., "Co-teaching: Robust Training of Deep Neural Networks with Extremely Noisy Labels",
    NeurIPS 2018, algorithm 1; forget_rate is best near the share of wrong labels. `peer` is the
    second Learner: the one passed, or one around the model passed, with the first's data, loss and
    optimizer. In training it takes over the hypers and the freezing of the first at every batch,
    but not its other callbacks, and computes in full precision. `kept` are the positions in the
    batch that the first model learns. Validation, metrics and `lr_find` are untouched; the folds of
    ConfidentLearningCallback train plainly; `learn.export()` leaves the peer out. Costs about twice
    a plain fit.

    Raises TypeError if the peer is not a model. Raises ValueError if the peer is or equals the
    Learner's own model, has other parameter groups or has trained beside another Learner, if the
    loss does not give one number per item, and with MixUp, CutMix and GradientAccumulation."""
    # Its `after_loss` gives the whole batch back before ELR's looks at it
    order = EarlyLearningRegularizationCallback.order - 1
    in_folds = False
    follows_items = False
    _stateattrs = (*FitCallback._stateattrs, 'peer', 'kept', '_model', '_whole', '_epochs')

    def __init__(self,
        peer: nn.Module | Learner,  # Second model, newly built like the first; or a Learner of it
        forget_rate: float = .2,  # Share of a batch that R grows to: 0 to below 1
        ramp: int | float = 10,  # Epochs of growth over all fits; a float up to 1: share of a fit
    ):
        super().__init__()
        if not isinstance(peer, (nn.Module, Learner)):
            raise TypeError(f"peer is a {type(peer).__name__}: pass a second model (nn.Module) or "
                            "a Learner of it")
        store_attr('forget_rate,ramp')
        check_number('forget_rate', forget_rate, lambda o: 0 <= o < 1,
                     "a share from 0 to below 1")
        check_number('ramp', ramp, lambda o: 0 < o <= 1 if isinstance(o, float) else o > 0,
                     "a whole number of epochs above 0, or a share of the fit, a float up to 1")

        if isinstance(peer, Learner): self.peer = peer
        else: self._model = peer

    def _init_state(self):
        super()._init_state()
        self._epochs = 0

    def check(self):
        "Refuse callbacks that change the batches"
        self.refuse((MixHandler, GradientAccumulation), "which changes the batches")

    def start(self):
        "Bring the peer to the device and the freezing of the Learner"
        learn = self.learn
        if self._of is not None and not self.same_learner:
            raise ValueError("this CoTeachingCallback has taught its peer beside another Learner: "
                             "pass a newly built model to a new one")
        if self.peer is None: self.peer = self._new_peer()
        peer = self.peer
        ours = list(learn.model.parameters())
        theirs = list(peer.model.parameters())
        peer.model.to(ours[0].device)
        if {id(o) for o in ours} & {id(o) for o in theirs}:
            raise ValueError("peer shares weights with the Learner's model: pass a newly built "
                             "model")
        same = (a.shape == b.shape and torch.equal(a, b) for a, b in zip(ours, theirs))
        if len(ours) == len(theirs) and all(same):
            raise ValueError("peer has the same weights as the Learner's model, so they would "
                             "choose the same items: pass a newly built model with other random "
                             "weights")
        if peer.opt is None: peer.create_opt()
        n_ours = len(learn.opt.param_lists)
        n_theirs = len(peer.opt.param_lists)
        if n_ours != n_theirs:
            raise ValueError(f"peer has {n_theirs} parameter groups, but the Learner has {n_ours}: "
                             "give both the same splitter")

        if peer.opt.frozen_idx != learn.opt.frozen_idx: peer.freeze_to(learn.opt.frozen_idx)

    def _new_peer(self):
        learn = self.learn
        if self._model is None:
            raise ValueError("peer was left behind when the Learner was copied or exported: pass a "
                             "second model to a new CoTeachingCallback")
        check_opt_func(learn.opt_func)

        names = 'loss_func opt_func lr splitter path model_dir wd wd_bn_bias train_bn moms metrics'
        return Learner(learn.dls, self._model, **{o: getattr(learn, o) for o in names.split()})

    @property
    def rate(self) -> float:
        "R, the share of a batch that is left out in this epoch"
        if isinstance(self.ramp, float): share = self.learn.epoch/(self.ramp*self.learn.n_epoch)
        else: share = self._epochs/self.ramp
        return self.forget_rate*min(share, 1)

    def before_train(self):
        "The peer trains too"
        super().before_train()
        if self._on: self.peer.model.train()

    def after_pred(self):
        "Let each model choose; train the peer on this one's choice, and this one on the peer's"
        if not self._on: return
        learn = self.learn
        peer = self.peer
        # MixedPrecision scales the loss of the Learner's own model only, and without that scaling
        # float16 gradients vanish
        with torch.autocast(learn.pred.device.type, enabled=False):
            pred = peer.model(*learn.xb)
            if isinstance(pred, tuple): pred = pred[0]
            self.kept = small_losses(learn.loss_func, pred, learn.yb, self.rate)
            chosen = small_losses(learn.loss_func, learn.pred, learn.yb, self.rate)
            self._step(learn.loss_func(pred[chosen], *(y[chosen] for y in learn.yb)))
        cut = tuple(y[self.kept] for y in learn.yb)
        self._whole = learn.pred, learn.yb, cut
        learn.pred = learn.pred[self.kept]
        learn.yb = cut

    def _step(self, loss):
        opt = self.peer.opt
        hypers = self.learn.opt.hypers
        shared = hypers[0].keys() & opt.hypers[0].keys()
        for k in shared: opt.set_hyper(k, [h[k] for h in hypers])
        opt.zero_grad()
        loss.backward()
        opt.step()
        opt.zero_grad()

    def after_loss(self):
        """Give the whole batch back, but not targets that another callback has put in their place
        since"""
        if self._whole is None: return
        self.learn.pred, yb, cut = self._whole
        # TargetsCallback, whose order is lower, has given the batch its labels back by now
        if self.learn.yb is cut: self.learn.yb = yb
        self._whole = None

    def after_train(self):
        "Count the epoch, on which R depends"
        super().after_train()
        if self._on: self._epochs += 1

    def stop(self):
        "Leave the peer ready to predict"
        self.peer.model.eval()
        self._whole = None


def small_losses(
    loss_func: Callable,  # Loss function of a Learner
    pred: torch.Tensor,  # Outputs (bs, ...)
    yb: tuple,  # The targets (bs, ...), in a tuple
    rate: float,  # Share to leave out: 0 to below 1
) -> torch.Tensor:  # LongTensor of at least one position in the batch
    """Positions of the items with the smallest losses, the smallest first. Raises ValueError if
    there is not one loss per item"""
    with torch.no_grad(), NoneReduce(loss_func) as each: losses = each(pred.detach().float(), *yb)
    if losses.shape != (len(pred),):
        raise ValueError(f"the loss gives shape {tuple(losses.shape)} for {len(pred)} items: "
                         "co-teaching needs one loss per item, as classification has")
    # Rounding must not lose an item if (1 - rate)*len(pred) is a whole number
    n = max(1, int((1 - rate)*len(pred) + 1e-6))
    return losses.as_subclass(torch.Tensor).argsort(stable=True)[:n]
