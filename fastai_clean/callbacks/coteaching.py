"Co-teaching: two models in one fit, each of which learns the items that the other finds easy"
import torch
from fastai.callback.core import Callback
from fastai.callback.mixup import MixHandler
from fastai.callback.training import GradientAccumulation
from fastai.layers import NoneReduce
from fastai.learner import Learner
from fastcore.basics import store_attr
from fastcore.imports import noop
from torch import nn

from ..losses import check_number
from ..oof.fit import check_opt_func
from .elr import EarlyLearningRegularizationCallback, refuse
from .restore import restored_on_error


class CoTeachingCallback(Callback):
    """Trains a second model beside the Learner's: of every batch, each learns the 1 - R share with the smallest losses
    of the other. R grows from 0, epoch by epoch, to `forget_rate` after `ramp`.

    Han et al., "Co-teaching: Robust Training of Deep Neural Networks with Extremely Noisy Labels", NeurIPS 2018,
    algorithm 1; forget_rate is best near the share of wrong labels. `peer` is the second Learner: the one passed, or
    one around the model passed, with the first's data, loss and optimizer. In training it takes over the hypers and the
    freezing of the first at every batch, but not its other callbacks, and computes in full precision. `kept` are the
    positions in the batch that the first model learns. Validation, metrics and `lr_find` are untouched; the folds of
    ConfidentLearningCallback train plainly; `learn.export()` leaves the peer out. About twice the cost.

    Raises TypeError for a peer that is no model, ValueError where it is or equals the Learner's own, has other
    parameter groups, where the loss gives not one number an item, where the callback has taught another Learner, and
    with MixUp, CutMix and GradientAccumulation."""
    order, run_valid, in_folds = EarlyLearningRegularizationCallback.order - 1, False, False
    _stateattrs = 'peer', 'kept', '_model', '_whole', '_epochs', '_on', '_of', '_forget'

    def __init__(self,
        peer,  # Second model with weights of its own, built as the first was; or a Learner of it, as text needs
        forget_rate=.2,  # Share of a batch that is left out in the end, 0 up to, but not, 1
        ramp=10,  # After how many epochs R is `forget_rate`, over all fits; a float up to 1: after which share of a fit
    ):
        self._init_state()
        if not isinstance(peer, (nn.Module, Learner)):
            raise TypeError(f"peer is a {type(peer).__name__}: pass a second model (nn.Module) or a Learner of it")
        store_attr('forget_rate,ramp')
        check_number('forget_rate', forget_rate, lambda o: 0 <= o < 1, "a share from 0 up to, but not, 1")
        check_number('ramp', ramp, lambda o: 0 < o <= 1 if isinstance(o, float) else o > 0,
                     "a whole number of epochs above 0, or a share of the fit, a float up to 1")
        self.peer, self._model = (peer, None) if isinstance(peer, Learner) else (None, peer)

    def _init_state(self):
        super()._init_state()
        vars(self).update(peer=None, kept=None, _model=None, _whole=None, _epochs=0, _on=False,
                          _of=None, _forget=noop)

    def before_fit(self):
        "Refuse what changes what a batch is"
        if self.learn.lock.locked(): return
        refuse(self.learn, (MixHandler, GradientAccumulation), self, "which changes what a batch is")
        self._leave()
        self._forget = restored_on_error(self.learn, self._leave)

    def before_train(self):
        "Make the peer ready, unless this is `lr_find`"
        if hasattr(self.learn, 'lr_finder'): return
        if self._of is not None and self._of is not self.learn:
            raise ValueError("this CoTeachingCallback has taught its peer beside another Learner: pass a model built "
                             "anew to a new one")
        if self.peer is None: self.peer = self._new_peer()
        if not self._on: self._join()
        self.peer.model.train()

    def _new_peer(self):
        learn = self.learn
        if self._model is None:
            raise ValueError("peer was left behind when the Learner was copied or exported: pass a second model to "
                             "a new CoTeachingCallback")
        check_opt_func(learn.opt_func)
        names = 'loss_func opt_func lr splitter path model_dir wd wd_bn_bias train_bn moms metrics'.split()
        return Learner(learn.dls, self._model, **{o: getattr(learn, o) for o in names})

    def _join(self):
        "Bring the peer to the device and the freezing of the Learner, at the beginning of a fit"
        learn, peer = self.learn, self.peer
        ours, theirs = list(learn.model.parameters()), list(peer.model.parameters())
        peer.model.to(ours[0].device)
        if {id(o) for o in ours} & {id(o) for o in theirs}:
            raise ValueError("peer shares weights with the Learner's model: pass a model built anew")
        if len(ours) == len(theirs) and all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(ours, theirs)):
            raise ValueError("peer has the same weights as the Learner's model, so they would choose the same items: "
                             "pass a model built anew, with other random weights")
        if peer.opt is None: peer.create_opt()
        groups = [len(o.opt.param_lists) for o in (learn, peer)]
        if groups[0] != groups[1]:
            raise ValueError(f"peer has {groups[1]} parameter groups, the Learner {groups[0]}: give both one splitter")
        if peer.opt.frozen_idx != learn.opt.frozen_idx: peer.freeze_to(learn.opt.frozen_idx)
        self._on, self._of = True, learn

    @property
    def rate(self):
        "R, the share of a batch that is left out in this epoch"
        done, ramp = (self.learn.epoch, self.ramp*self.learn.n_epoch) if isinstance(self.ramp, float) else \
            (self._epochs, self.ramp)
        return self.forget_rate*min(done/ramp, 1)

    def after_pred(self):
        "Let each model choose; train the peer on this one's choice, and this one on the peer's"
        if not self._on: return
        learn, peer = self.learn, self.peer
        with torch.autocast(learn.pred.device.type, enabled=False):
            pred = peer.model(*learn.xb)
            pred = pred[0] if isinstance(pred, tuple) else pred
            self.kept = small_losses(learn.loss_func, pred, learn.yb, self.rate)
            chosen = small_losses(learn.loss_func, learn.pred, learn.yb, self.rate)
            self._step(learn.loss_func(pred[chosen], *(y[chosen] for y in learn.yb)))
        cut = tuple(y[self.kept] for y in learn.yb)
        self._whole = learn.pred, learn.yb, cut
        learn.pred, learn.yb = learn.pred[self.kept], cut

    def _step(self, loss):
        opt, hypers = self.peer.opt, self.learn.opt.hypers
        shared = hypers[0].keys() & opt.hypers[0].keys()
        opt.set_hypers(**{k: [h[k] for h in hypers] for k in shared})
        opt.zero_grad()
        loss.backward()
        opt.step()
        opt.zero_grad()

    def after_loss(self):
        "Give the whole batch back, but not targets that another callback gave back before"
        if self._whole is None: return
        self.learn.pred, yb, cut = self._whole
        if self.learn.yb is cut: self.learn.yb = yb
        self._whole = None

    def after_train(self):
        "Count the epoch"
        if self._on: self._epochs += 1

    def after_fit(self):
        "Leave the peer ready to predict"
        if not self.learn.lock.locked(): self._leave()

    def _leave(self):
        self._forget()
        if self._on: self.peer.model.eval()
        self._on, self._whole, self._forget = False, None, noop


def small_losses(
    loss_func,  # Loss function of a Learner
    pred,  # Outputs (bs, ...)
    yb,  # Tuple of the targets (bs, ...)
    rate,  # Share to leave out, 0 up to, but not, 1
) -> torch.Tensor:  # LongTensor, at least one
    "Positions of the items with the smallest losses, the smallest first. Raises ValueError where there is not one each"
    with torch.no_grad(), NoneReduce(loss_func) as each: losses = each(pred.detach().float(), *yb)
    if losses.shape != (len(pred),):
        raise ValueError(f"the loss gives shape {tuple(losses.shape)} for {len(pred)} items: co-teaching needs one "
                         "loss an item, as classification has")
    return losses.as_subclass(torch.Tensor).argsort(stable=True)[:max(1, int((1 - rate)*len(pred) + 1e-6))]
