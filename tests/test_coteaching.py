"CoTeachingCallback against a loop of its own, what it selects, refuses and leaves untouched"
import copy

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback, CancelFitException
from fastai.callback.fp16 import MixedPrecision
from fastai.callback.mixup import CutMix, MixUp
from fastai.callback.schedule import lr_find  # noqa: F401, gives Learner its schedules
from fastai.callback.training import GradientAccumulation
from fastai.learner import Learner, load_learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy
from fastai.optimizer import SGD, OptimWrapper
from helpers import DIGITS, PIXELS, digit_dls, plant, tiny_learn, tiny_model, weights
from torch import nn
from torch.nn import functional as F

from fastai_clean.all import ConfidentLearningCallback
from fastai_clean.callbacks.coteaching import CoTeachingCallback, small_losses
from fastai_clean.callbacks.elr import EarlyLearningRegularizationCallback
from fastai_clean.callbacks.soft import SoftPseudoLabelCallback
from fastai_clean.data import ids_of

NOISY, WRONG = plant(DIGITS.target, .4)


def learner(cb, labels=DIGITS.target, **kwargs):
    kwargs['cbs'] = [cb, *kwargs.get('cbs', ())]
    return tiny_learn(digit_dls(range(64), range(64, 80), labels), **kwargs)


def smallest(out, y, rate):
    "The indices of the smallest losses, in numpy"
    out = out.detach().double().numpy()
    losses = np.log(np.exp(out).sum(1)) - out[np.arange(len(y)), y.numpy()]
    return torch.tensor(sorted(range(len(y)), key=lambda i: losses[i])[:int((1 - rate)*len(y))])


def loop(nets, lrs, rates):
    "The algorithm as its paper writes it, with plain gradient descent"
    for net in nets: net.train()
    for rate, lr in zip(rates, lrs):
        for i in range(4):
            x, y = PIXELS[16*i:16*i + 16], torch.tensor(DIGITS.target[16*i:16*i + 16])
            outs = [net(x) for net in nets]
            picks = [smallest(out, y, rate) for out in outs]
            for net, out, pick in zip(nets, outs, picks[::-1]):
                grads = torch.autograd.grad(F.cross_entropy(out[pick], y[pick]), list(net.parameters()))
                with torch.no_grad():
                    for p, g in zip(net.parameters(), grads): p -= lr*g
    return nets


def test_both_nets_are_those_of_an_own_loop_over_fits():
    mine, peer = tiny_model(1), tiny_model(2)
    twins = copy.deepcopy(mine), copy.deepcopy(peer)
    learn = learner(CoTeachingCallback(peer, .5, ramp=2), model=mine, opt_func=SGD)
    learn.fit(2, .1, wd=0.)
    learn.fit(2, .05, wd=0.)
    a, b = loop(twins, [.1, .1, .05, .05], [0, .25, .5, .5])
    assert learn.co_teaching.peer.model is peer
    for got, want in ((mine, a), (peer, b)):
        assert torch.allclose(weights(got), weights(want), atol=1e-5)
        for m, n in zip(got.buffers(), want.buffers()): assert torch.allclose(m.float(), n.float(), atol=1e-4)
    assert not torch.allclose(weights(mine), weights(peer), atol=1e-2)


def test_rate_grows_to_the_forget_rate_over_a_share_of_the_fit():
    class Rates(Callback):
        def before_fit(self): self.seen = []
        def after_train(self): self.seen.append((round(self.learn.co_teaching.rate, 6), len(self.co_teaching.kept)))
    rates = Rates()
    learn = learner(CoTeachingCallback(tiny_model(2), .4, ramp=.5), cbs=[rates])
    for _ in range(2):
        learn.fit(4)
        assert rates.seen == [(0, 16), (.2, 12), (.4, 9), (.4, 9)]


@pytest.mark.parametrize('n, rate, k', [(10, .9, 1), (10, .7, 3), (7, .5, 3), (3, .9, 1), (16, 0, 16), (50, .02, 49)])
def test_smallest_losses_are_chosen_in_order(n, rate, k):
    out, y = torch.randn(n, 4), torch.randint(4, (n,))
    got = small_losses(F.cross_entropy, out, (y,), rate)
    losses = F.cross_entropy(out, y, reduction='none')
    assert len(got) == k and losses[got].tolist() == sorted(losses.tolist())[:k]
    loss = CrossEntropyLossFlat()
    assert torch.equal(small_losses(loss, out, (y,), rate), got) and loss.reduction == 'mean'


@pytest.mark.slow
def test_planted_errors_are_left_out_and_learned_by_heart_less():
    class Watch(Callback):
        run_valid = False
        def before_epoch(self): self.positions = []
        def after_loss(self): self.positions += (32*self.iter + self.learn.co_teaching.kept).tolist()
    def net(seed):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU()), nn.Linear(128, 10))
    watch, predicted = Watch(), []
    dls = digit_dls(range(320), range(320, 330), NOISY, bs=32)
    for cbs in (None, [CoTeachingCallback(net(2), .4, ramp=5), watch]):
        learn = tiny_learn(dls, net(1), lr=1e-2, cbs=cbs)
        learn.fit(40)
        with torch.no_grad(): predicted += [o.eval()(PIXELS).argmax(1).numpy() for o in
                                            [learn.model] + ([cbs[0].peer.model] if cbs else [])]
    assert len(watch.positions) == 19*10
    assert WRONG[:320].mean() > .35 and WRONG[watch.positions].mean() < .15
    plain, mine, peers = ((o == DIGITS.target)[330:].mean() for o in predicted)
    assert min(mine, peers) > plain + .1
    assert (predicted[1] != predicted[2]).any()


def test_peer_follows_schedule_freezing_and_device():
    class Same(Callback):
        order, run_valid, n = 100, False, 0
        def after_pred(self):
            mine, peer = self.learn, self.learn.co_teaching.peer
            assert mine.opt.hypers == peer.opt.hypers and mine.opt.frozen_idx == peer.opt.frozen_idx
            assert peer.model.training
            self.n += 1
    peer, same = tiny_model(2), Same()
    body = weights(peer[0]).clone()
    learn = learner(CoTeachingCallback(peer), cbs=[same], wd=.1)
    learn.freeze()
    learn.fit_one_cycle(1, slice(1e-4, 1e-2))
    assert torch.equal(weights(peer[0][1]), body[:64*24 + 24]) and same.n == 4
    learn.unfreeze()
    learn.fit_one_cycle(1, slice(1e-4, 1e-2))
    assert not torch.equal(weights(peer[0]), body) and same.n == 8 and not peer.training


def test_peer_may_be_a_learner_with_an_optimizer_of_its_own():
    other = tiny_learn(digit_dls(range(64), range(64, 80)), tiny_model(2), metrics=accuracy,
                       opt_func=lambda p, **kw: OptimWrapper(p, torch.optim.AdamW, **kw))
    before = weights(other.model)
    learn = learner(CoTeachingCallback(other))
    learn.fit_one_cycle(2)
    assert learn.co_teaching.peer is other and not torch.allclose(weights(other.model), before)
    assert len(other.validate()) == 2


def test_whole_batch_is_given_back_and_validation_is_untouched():
    class Sizes(Callback):
        order, run_valid = 100, True
        def before_fit(self): self.seen = set()
        def after_loss(self): self.seen.add((self.training, len(self.pred), len(self.y), len(self.x)))
    sizes = Sizes()
    learn = learner(CoTeachingCallback(tiny_model(2), .5, ramp=1), cbs=[sizes], metrics=accuracy)
    learn.fit(2)
    assert sizes.seen == {(True, 16, 16, 16), (False, 16, 16, 16)}
    probs, targ = learn.get_preds()
    loss, acc = learn.validate()
    assert abs(loss - F.nll_loss(probs.log(), targ).item()) < 1e-5 and acc == (probs.argmax(1) == targ).float().mean()


def test_early_learning_regularization_sees_the_whole_batch():
    learn = learner(CoTeachingCallback(tiny_model(2), .5, ramp=1), cbs=[EarlyLearningRegularizationCallback(.5)])
    learn.fit(3)
    assert np.allclose(learn.early_learning_regularization.targets.sum(1), 1 - .5**3, atol=1e-3)


def test_soft_targets_are_cut_and_the_hard_labels_given_back():
    class Metric(Callback):
        order, run_valid = 100, False
        def before_fit(self): self.dtypes = set()
        def after_loss(self): self.dtypes.add((self.y.dtype, len(self.y)))
    probs, metric = np.full((64, 10), .1), Metric()
    dls = digit_dls(range(64), range(64, 80))
    soft = SoftPseudoLabelCallback((ids_of(dls.train_ds), probs), which='all')
    learn = tiny_learn(dls, cbs=[CoTeachingCallback(tiny_model(2), .5, ramp=1), soft, metric])
    learn.fit(2)
    assert metric.dtypes == {(torch.int64, 16)}
    assert (learn.get_preds()[0].max(1).values < .5).all()


def test_lr_find_trains_no_peer():
    peer = tiny_model(2)
    before = weights(peer).clone()
    learn = learner(CoTeachingCallback(peer))
    learn.lr_find(num_it=8, show_plot=False)
    learn.validate()
    assert torch.equal(weights(peer), before)
    learn.fit(1)
    assert not torch.equal(weights(peer), before)


def test_mixed_precision_trains_both():
    peer = tiny_model(2)
    before = weights(peer).clone()
    learn = learner(CoTeachingCallback(peer), cbs=[MixedPrecision('bf16')])
    learn.fit(1)
    assert not torch.equal(weights(peer), before) and weights(learn.model).isfinite().all()


@pytest.mark.parametrize('error', [KeyError, CancelFitException])
def test_error_in_the_fit_leaves_loss_and_the_next_fit_whole(error):
    class Breaks(Callback):
        order, done = 90, False
        def after_loss(self):
            if self.training and self.iter == 1 and not self.done: raise error('stop')
    breaks = Breaks()
    learn = learner(CoTeachingCallback(tiny_model(2)), cbs=[breaks])
    loss = learn.loss_func
    if error is KeyError:
        with pytest.raises(KeyError): learn.fit(1)
    else: learn.fit(1)
    breaks.done = True
    assert learn.loss_func is loss and loss.reduction == 'mean' and '_call_one' not in vars(learn)
    assert not learn.co_teaching.peer.model.training
    probs, targ = learn.get_preds()
    assert len(probs) == 16
    learn.fit(1)


def test_export_leaves_the_peer_out_and_asks_for_it(tmp_path):
    big = nn.Sequential(nn.Sequential(nn.Flatten(), nn.Linear(64, 20000)), nn.Linear(20000, 10))
    learn = learner(CoTeachingCallback(big), path=tmp_path)
    learn.fit(1)
    learn.export('m.pkl')
    assert (tmp_path/'m.pkl').stat().st_size < 1e6
    twin = load_learner(tmp_path/'m.pkl')
    twin.dls = learn.dls
    assert torch.equal(twin.get_preds()[0], learn.get_preds()[0])
    with pytest.raises(ValueError, match='peer was left behind'): twin.fit(1)


def test_peer_that_learned_beside_another_learner_is_refused():
    cb = CoTeachingCallback(tiny_model(2))
    learn = learner(cb)
    for _ in range(2): learn.fit(1)
    learned = weights(cb.peer.model)
    with pytest.raises(ValueError, match='beside another Learner'): learner(cb).fit(1)
    assert torch.equal(weights(cb.peer.model), learned)


def test_folds_of_confident_learning_train_plainly():
    learn = learner(CoTeachingCallback(tiny_model(2)), cbs=[ConfidentLearningCallback(2, mode='folds')])
    learn.fit(2)
    plain = tiny_learn(digit_dls(range(64), range(64, 80)), cbs=ConfidentLearningCallback(2, mode='folds'))
    plain.fit(2)
    assert np.array_equal(learn.oof.pred_probs, plain.oof.pred_probs)


@pytest.mark.parametrize('make, message', [
    (lambda m: CoTeachingCallback(None), 'peer is a NoneType: pass a second model'),
    (lambda m: CoTeachingCallback(m, 1), 'forget_rate is 1: pass a share'),
    (lambda m: CoTeachingCallback(m, ramp=0), 'ramp is 0: pass a whole number of epochs'),
    (lambda m: CoTeachingCallback(m, ramp=1.5), 'ramp is 1.5'),
    (lambda m: learner(CoTeachingCallback(m), model=m).fit(1), 'shares weights'),
    (lambda m: learner(CoTeachingCallback(m), model=copy.deepcopy(m)).fit(1), 'has the same weights'),
    (lambda m: learner(CoTeachingCallback(Learner(digit_dls(range(9), range(9)), m, CrossEntropyLossFlat()))).fit(1),
     'peer has 1 parameter groups, but the Learner has 2'),
    (lambda m: learner(CoTeachingCallback(m), cbs=[MixUp()]).fit(1), 'cannot be used with MixUp'),
    (lambda m: learner(CoTeachingCallback(m), cbs=[CutMix()]).fit(1), 'cannot be used with CutMix'),
    (lambda m: learner(CoTeachingCallback(m), cbs=[GradientAccumulation()]).fit(1), 'with GradientAccumulation'),
    (lambda m: learner(CoTeachingCallback(m), loss_func=lambda p, y, reduction='mean': p.mean()).fit(1),
     r'gives shape \(\) for 16 items'),
])
def test_bad_use_is_named(make, message):
    with pytest.raises((ValueError, TypeError), match=message): make(tiny_model(3))
