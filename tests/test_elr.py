"EarlyLearningRegularizationCallback against a loop of its own, what it keeps, refuses and leaves untouched"
import copy

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback, CancelBatchException, CancelFitException
from fastai.callback.mixup import CutMix, MixUp
from fastai.callback.schedule import lr_find  # noqa: F401, gives Learner its schedules
from fastai.callback.training import GradientAccumulation
from fastai.learner import load_learner
from fastai.losses import CrossEntropyLossFlat
from fastai.optimizer import SGD
from helpers import DIGITS, PIXELS, digit_dls, plant, tiny_learn, tiny_model
from torch import nn
from torch.nn import functional as F

from fastai_clean.all import ConfidentLearningCallback
from fastai_clean.callbacks.elr import EarlyLearningRegularizationCallback as ELR

NOISY, WRONG = plant(DIGITS.target, .4)


class Orders(Callback):
    "The order of the items in every epoch, and the loss of every batch"
    run_valid, order = False, 100
    def __init__(self): self.idxs, self.losses = [], []
    def before_batch(self): self.idxs.append((PIXELS[:64].flatten(1)[:, None] == self.x.flatten(1)[None]).all(2).int()
                                             .argmax(0))
    def after_loss(self): self.losses.append(self.learn.loss.item())


def loop(model, batches, labels, lr, beta, lam):
    "The method as its paper writes it, item by item: losses, weights and targets"
    t, losses = np.zeros((64, 10)), []
    opt = torch.optim.SGD(model.parameters(), lr)
    model.train()
    for idxs in batches:
        out = model(PIXELS[idxs])
        loss = F.cross_entropy(out, labels[idxs])
        for i, row in zip(idxs.tolist(), out):
            p = (row.exp()/row.exp().sum()).clamp(1e-4, 1 - 1e-4)
            q = p.detach().double().numpy()
            t[i] = beta*t[i] + (1 - beta)*q/q.sum()
            loss = loss + lam*torch.log(1 - p @ torch.tensor(t[i], dtype=torch.float32))/len(idxs)
        opt.zero_grad()
        loss.backward()
        opt.step()
        losses.append(loss.item())
    return losses, model, t


@pytest.mark.parametrize('num_workers', [0, 2])
def test_losses_weights_and_targets_are_those_of_an_own_loop(num_workers):
    dls = digit_dls(range(64), range(64, 80), bs=16, shuffle=True, num_workers=num_workers)
    model, orders, elr = tiny_model(), Orders(), ELR(.6, 2.)
    twin = copy.deepcopy(model)
    learn = tiny_learn(dls, model, opt_func=SGD, cbs=[elr, orders])
    learn.fit(3, .1, wd=0.)
    learn.fit(1, .1, wd=0.)
    losses, twin, t = loop(twin, orders.idxs, torch.tensor(DIGITS.target), .1, .6, 2.)
    assert len(losses) == 16 and len({tuple(o.tolist()) for o in orders.idxs}) == 16
    np.testing.assert_allclose(orders.losses, losses, atol=1e-5)
    np.testing.assert_allclose(elr.targets, t, atol=1e-5)
    for a, b in zip(learn.model.parameters(), twin.parameters()): assert torch.allclose(a, b, atol=1e-5)


def test_without_weight_the_fit_is_the_plain_one():
    def weights(cbs):
        learn = tiny_learn(digit_dls(range(64), range(64, 80)), tiny_model(), cbs=cbs)
        learn.fit_one_cycle(2)
        return torch.cat([p.flatten() for p in learn.model.parameters()]), learn
    plain, one = weights(None)
    same, two = weights(ELR(lam=0))
    other, _ = weights(ELR())
    assert torch.equal(plain, same) and not torch.allclose(plain, other)
    assert one.recorder.values == two.recorder.values


def test_validation_and_lr_find_neither_change_targets_nor_loss():
    learn = tiny_learn(digit_dls(range(64), range(64, 80)), cbs=ELR())
    learn.fit(1)
    elr = learn.early_learning_regularization
    before = elr.targets.clone()
    probs, targ = learn.get_preds()
    assert abs(learn.validate()[0] - F.nll_loss(probs.log(), targ).item()) < 1e-5
    learn.lr_find(num_it=8, show_plot=False)
    assert torch.equal(elr.targets, before)


def test_other_training_items_begin_anew_and_the_same_ones_go_on():
    learn = tiny_learn(digit_dls(range(64), range(64, 80)), cbs=ELR(.9))
    elr = learn.early_learning_regularization
    learn.fit(1)
    assert np.allclose(elr.targets.sum(1), .1, atol=1e-3)
    learn.dls = digit_dls(range(64), range(64, 80), NOISY)
    learn.fit(1)
    assert np.allclose(elr.targets.sum(1), .19, atol=1e-3)
    learn.dls = digit_dls(range(100, 164), range(64, 80))
    learn.fit(1)
    assert np.allclose(elr.targets.sum(1), .1, atol=1e-3)
    twin = tiny_learn(learn.dls)
    twin.fit(1, cbs=elr)
    assert np.allclose(elr.targets.sum(1), .1, atol=1e-3)


def test_export_leaves_the_targets_out_and_the_learner_trains_on(tmp_path):
    learn = tiny_learn(digit_dls(range(64), range(64, 80)), cbs=ELR(.8), path=tmp_path)
    learn.fit(1)
    learn.export('m.pkl')
    twin = load_learner(tmp_path/'m.pkl')
    assert twin.early_learning_regularization.targets is None
    twin.dls = learn.dls
    assert torch.equal(twin.get_preds()[0], learn.get_preds()[0])
    twin.fit(1)
    assert twin.early_learning_regularization.targets.shape == (64, 10)


@pytest.mark.parametrize('event', ['before_batch', 'after_pred', 'after_loss', 'after_step'])
@pytest.mark.parametrize('error', [KeyError, CancelFitException, CancelBatchException])
def test_error_in_an_event_leaves_loss_and_loader_as_they_were(event, error):
    class Breaks(Callback):
        order = 90
    def breaks(self):
        if self.training and self.iter == 1 and not self.done: raise error('stop')
    setattr(Breaks, event, breaks)
    learn = tiny_learn(digit_dls(range(64), range(64, 80)), cbs=ELR())
    learn.fit(1)
    loss, attrs, cb = learn.loss_func, dict(vars(learn.dls.train)), Breaks()
    learn.early_learning_regularization.targets = None
    cb.done = False
    learn.add_cb(cb)
    if error is KeyError:
        with pytest.raises(KeyError): learn.fit(1)
    else: learn.fit(1)
    now = vars(learn.dls.train)
    assert learn.loss_func is loss and '_call_one' not in vars(learn)
    assert all(now.get(o) is attrs.get(o) for o in ('after_batch', 'do_item', 'do_batch', 'dataset'))
    cb.done = True
    learn.fit(1)
    assert (learn.early_learning_regularization.targets.sum(1) > .2).all()


@pytest.mark.parametrize('cb', [MixUp, CutMix])
def test_mixed_items_are_refused_before_the_loss_is_swapped(cb):
    learn = tiny_learn(digit_dls(range(64), range(64, 80)), cbs=[cb(), ELR()])
    loss = learn.loss_func
    with pytest.raises(ValueError, match=f'cannot be used with {cb.__name__}, which mixes two items'): learn.fit(1)
    assert learn.loss_func is loss
    learn.remove_cb(cb)
    learn.fit(1)


def test_gradient_accumulation_scales_the_regularization_too():
    def weights(bs, cbs):
        model = nn.Sequential(nn.Sequential(nn.Flatten(), nn.Linear(64, 8)), nn.Linear(8, 10))
        torch.manual_seed(1)
        for o in (model[0][1], model[1]): o.reset_parameters()
        learn = tiny_learn(digit_dls(range(64), range(64, 80), bs=bs), model, opt_func=SGD, cbs=[ELR(), *cbs])
        learn.fit(2, .1, wd=0.)
        return torch.cat([p.flatten() for p in model.parameters()])
    whole = weights(32, [])
    assert torch.allclose(weights(16, [GradientAccumulation(32)]), whole, atol=1e-6)
    assert not torch.allclose(weights(16, []), whole, atol=1e-3)


def test_outputs_that_are_not_finite_leave_the_targets_as_they_were():
    class Overflow(Callback):
        run_valid = False
        def after_pred(self):
            if self.epoch == 1: self.learn.pred = self.learn.pred*float('inf')
    learn = tiny_learn(digit_dls(range(64), range(64, 80)), cbs=[ELR(), Overflow()])
    learn.fit(2)
    assert np.allclose(learn.early_learning_regularization.targets.sum(1), .3, atol=1e-3)


def test_folds_of_confident_learning_are_regularized_on_their_own_items():
    learn = tiny_learn(digit_dls(range(64), range(64, 80)), cbs=[ELR(lam=0), ConfidentLearningCallback(2, mode='folds')])
    learn.fit(2)
    plain, targets = learn.oof.pred_probs, learn.early_learning_regularization.targets
    assert targets.shape == (64, 10)
    learn = tiny_learn(digit_dls(range(64), range(64, 80)), cbs=[ELR(), ConfidentLearningCallback(2, mode='folds')])
    learn.fit(2)
    assert learn.oof.done.all() and np.abs(learn.oof.pred_probs - plain).max() > 1e-4


@pytest.mark.slow
def test_wrong_labels_are_learned_by_heart_less_than_without():
    wrong = WRONG.nonzero()[0][WRONG.nonzero()[0] < 300]
    def trained(cbs):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU()), nn.Linear(128, 10))
        learn = tiny_learn(digit_dls(range(300), range(300, 310), NOISY, bs=32, shuffle=True), net,
                           CrossEntropyLossFlat(), lr=1e-2, cbs=cbs)
        learn.fit(40)
        with torch.no_grad(): return net.eval()(PIXELS).argmax(1).numpy()
    plain, elr = trained(None), trained(ELR())
    assert (elr == NOISY)[wrong].mean() < (plain == NOISY)[wrong].mean()/2
    assert (elr == DIGITS.target)[300:].mean() > (plain == DIGITS.target)[300:].mean() + .05


@pytest.mark.parametrize('kwargs, message', [
    ({'beta': 1}, 'beta is 1: pass a number from 0 to below 1'), ({'beta': -.1}, 'beta is -0.1'),
    ({'lam': -1}, 'lam is -1: pass a weight of 0 or more'), ({'lam': float('nan')}, 'lam is nan')])
def test_bad_argument_is_named(kwargs, message):
    with pytest.raises(ValueError, match=message): ELR(**kwargs)


def test_outputs_that_are_not_a_row_an_item_are_refused():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = tiny_model()
        def forward(self, x): return self.net(x)[:, :, None]
    learn = tiny_learn(digit_dls(range(64), range(64, 80)), nn.Sequential(Two(), nn.Identity()),
                       lambda p, y: F.cross_entropy(p[..., 0], y), cbs=ELR())
    with pytest.raises(ValueError, match=r'outputs are shape \(16, 10, 1\), but the batch has 16 items'): learn.fit(1)
