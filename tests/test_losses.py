"Robust losses against their formulas in float64 numpy, their limits, their gradients, and in a Learner"
import numpy as np
import pytest
import torch
from fastai.callback.core import Callback
from fastai.callback.mixup import MixUp
from fastai.learner import load_learner
from fastai.losses import CrossEntropyLossFlat
from fastai.torch_core import TensorBase, TensorCategory, set_seed
from helpers import DIGITS, PIXELS, digit_dls, plant, tiny_learn
from scipy.special import softmax
from torch import nn
from torch.nn import functional as F

from fastai_clean.losses import GeneralizedCrossEntropy, SymmetricCrossEntropy, soft_targets

RNG = np.random.default_rng(0)
LOGITS, LABELS = RNG.normal(0, 3, (40, 5)), RNG.integers(0, 5, 40)
X, Y = torch.tensor(LOGITS), torch.tensor(LABELS)
LOSSES = {'gce': GeneralizedCrossEntropy(), 'sce': SymmetricCrossEntropy()}


def chosen(p): return p[np.arange(len(LABELS)), LABELS]


def one_hot(labels, least=0.): return np.where(np.eye(5)[labels] == 1, 1, least)


FORMULAS = {
    'gce': (GeneralizedCrossEntropy(.4), lambda p: (1 - chosen(p)**.4)/.4),
    'gce q=1': (GeneralizedCrossEntropy(1), lambda p: np.abs(one_hot(LABELS) - p).sum(1)/2),
    'gce q->0': (GeneralizedCrossEntropy(1e-9), lambda p: -np.log(chosen(p))),
    'sce': (SymmetricCrossEntropy(.3, .8, -6), lambda p: -.3*np.log(chosen(p)) - .8*(
        p*np.log(one_hot(LABELS, np.exp(-6)))).sum(1)),
    'sce alone': (SymmetricCrossEntropy(1, 0), lambda p: -np.log(chosen(p))),
}


@pytest.mark.parametrize('reduction', ['mean', 'sum', 'none'])
@pytest.mark.parametrize('name', FORMULAS)
def test_loss_is_its_formula_under_every_reduction(name, reduction):
    loss, formula = FORMULAS[name]
    loss.reduction = reduction
    want = {'mean': np.mean, 'sum': np.sum, 'none': np.array}[reduction](formula(softmax(LOGITS, 1)))
    np.testing.assert_allclose(loss.func(X, Y).numpy(), want, rtol=1e-7)
    np.testing.assert_allclose(loss(X, Y).numpy(), want, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('name', LOSSES)
def test_gradient_is_that_of_finite_differences(name):
    loss, x = LOSSES[name], X[:8].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda o: loss.func(o, Y[:8]), x)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize('name', LOSSES)
def test_extreme_logits_have_finite_losses_and_gradients(name, dtype):
    x = torch.tensor([[6e4, -6e4, 0, 0, 0], [-6e4, 6e4, 6e4, 0, 0], [-6e4]*5], dtype=dtype).requires_grad_()
    for targ in range(5):
        loss = LOSSES[name](x, torch.full((3,), targ))
        grad, = torch.autograd.grad(loss, x)
        assert torch.isfinite(loss) and torch.isfinite(grad).all() and loss.dtype == torch.float32


def test_class_axis_of_masks_gives_the_loss_of_every_pixel():
    x, y = torch.randn(2, 5, 4, 3), torch.randint(5, (2, 4, 3))
    loss = GeneralizedCrossEntropy(.4, axis=1)
    p = np.take_along_axis(softmax(x.double().numpy(), 1), y.numpy()[:, None], 1)
    np.testing.assert_allclose(loss(x, y).item(), ((1 - p**.4)/.4).mean(), rtol=1e-5)
    assert torch.equal(loss.decodes(x), x.argmax(1)) and torch.equal(loss.activation(x), F.softmax(x, 1))


@pytest.mark.parametrize('name', LOSSES)
def test_fastai_tensors_and_small_integers_are_taken(name):
    loss = LOSSES[name]
    want = loss(X, Y)
    assert torch.allclose(loss(TensorBase(X), TensorCategory(Y)), want)
    assert torch.allclose(loss(X, Y.int()), want)


@pytest.mark.parametrize('make, message', [
    (lambda: GeneralizedCrossEntropy(0), 'q is 0: pass a number above 0'),
    (lambda: GeneralizedCrossEntropy(1.2), 'q is 1.2'),
    (lambda: GeneralizedCrossEntropy('a'), "q is 'a'"),
    (lambda: GeneralizedCrossEntropy(reduction='avg'), "reduction is 'avg': pass 'mean'"),
    (lambda: SymmetricCrossEntropy(-1), 'alpha is -1: pass a weight of 0 or more'),
    (lambda: SymmetricCrossEntropy(1, float('nan')), 'beta is nan'),
    (lambda: SymmetricCrossEntropy(A=0), 'A is 0: pass a number below 0'),
    (lambda: SymmetricCrossEntropy(0, 0), 'alpha and beta are both 0'),
])
def test_bad_argument_is_named(make, message):
    with pytest.raises((ValueError, TypeError), match=message): make()


# in a Learner

NOISY, WRONG = plant(DIGITS.target, .4)


class MixedLosses(Callback):
    "The loss of every training batch, and what it should be"
    order, run_valid = 100, False
    def before_fit(self): self.pairs = []
    def after_loss(self):
        each = self.learn.mix_up.old_lf
        each.reduction = 'none'
        lam, mix = self.learn.mix_up.lam, self.learn.mix_up
        want = (lam*each(self.pred, *self.yb) + (1 - lam)*each(self.pred, *mix.yb1)).mean()
        each.reduction = 'mean'
        self.pairs.append((self.learn.loss.item(), want.item()))


@pytest.mark.parametrize('name', LOSSES)
def test_mixup_interpolates_the_loss(name):
    learn = tiny_learn(digit_dls(range(64), range(64, 80)), loss_func=LOSSES[name], cbs=[MixUp(), MixedLosses()])
    learn.fit(1)
    got, want = zip(*learn.mixed_losses.pairs)
    assert len(got) == 4
    np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.parametrize('name', LOSSES)
def test_learner_predicts_exports_and_loads(name, tmp_path):
    learn = tiny_learn(digit_dls(range(64), range(64, 80)), loss_func=LOSSES[name], path=tmp_path)
    learn.fit(1)
    probs, targ, decoded, losses = learn.get_preds(with_decoded=True, with_loss=True)
    assert torch.allclose(probs.sum(1), torch.ones(16), atol=1e-5) and torch.equal(decoded, probs.argmax(1))
    assert losses.shape == (16,) and abs(losses.mean().item() - learn.validate()[0]) < 1e-5
    learn.export('m.pkl')
    twin = load_learner(tmp_path/'m.pkl')
    twin.dls = learn.dls
    assert torch.equal(twin.get_preds()[0], probs)
    assert twin.loss_func(probs, targ) == learn.loss_func(probs, targ)


def trained(loss, labels, n_epoch):
    "Classes that a net trained on the first 300 digits predicts for all"
    set_seed(0)
    net = nn.Sequential(nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU()), nn.Linear(128, 10))
    learn = tiny_learn(digit_dls(range(300), range(300, 310), labels, bs=32, shuffle=True), net, loss, lr=1e-2)
    learn.fit(n_epoch)
    with torch.no_grad(): return net.eval()(PIXELS).argmax(1).numpy()


@pytest.mark.slow
def test_wrong_labels_are_learned_by_heart_less_than_by_cross_entropy():
    wrong = WRONG.nonzero()[0][WRONG.nonzero()[0] < 300]
    plain, gce, sce = (trained(o, NOISY, 40) for o in
                       (CrossEntropyLossFlat(), GeneralizedCrossEntropy(), SymmetricCrossEntropy()))
    learned = lambda pred: (pred == NOISY)[wrong].mean()
    right = lambda pred: (pred == DIGITS.target)[300:].mean()
    assert learned(gce) < learned(plain)/2 and learned(sce) < learned(plain)/2
    assert right(gce) > right(plain) + .05 and right(sce) > right(plain) + .05


PROBS = np.array([[.9, .1], [.2, .8]])
MASK = [True, True]


@pytest.mark.parametrize('args, error, message', [
    ((PROBS, [0, -1], MASK), ValueError, 'labels has 1 values outside the vocab, first -1 at position 1'),
    ((PROBS, [0, 2], MASK), ValueError, 'first 2 at position 1'), ((PROBS, [0], MASK), ValueError, 'one label per item'),
    ((PROBS, [.5, 1.], MASK), TypeError, 'labels has dtype float64'),
    ((PROBS, np.eye(2), MASK), ValueError, 'one label per item'),
    ((PROBS, [0, 1], [0, 1]), TypeError, 'is_issue has dtype int64: pass a mask'),
    ((PROBS, [0, 1], ['False', 'True']), TypeError, 'pass a mask'),
    ((PROBS, [0, 1], [None, True]), TypeError, 'pass a mask'), ((PROBS, [0, 1], [*MASK, True]), ValueError, r'shape \(3,\)'),
    ((PROBS*9 - 4, [0, 1], MASK), ValueError, 'not logits'), ((PROBS*.5, [0, 1], MASK), ValueError, 'sum to 1'),
    ((PROBS[0], [0, 1], MASK), ValueError, r'pred_probs has shape \(2,\)'),
    ((np.ma.masked_greater(PROBS, .85), [0, 1], MASK), ValueError, '1 masked values'),
    ((PROBS, np.ma.masked_equal([0, 1], 1), MASK), ValueError, '1 masked values'),
    ((PROBS, [0, 1], np.ma.array(MASK, mask=[False, True])), ValueError, '1 masked values')])
def test_soft_targets_of_no_single_meaning_are_refused(args, error, message):
    with pytest.raises(error, match=message): soft_targets(*args)


def test_soft_targets_of_unknown_rows_are_their_labels():
    soft, targets = soft_targets(np.where(PROBS > .85, np.nan, PROBS), [0, 1], MASK, threshold=.5)
    assert soft.tolist() == [False, True] and targets[0].tolist() == [1, 0]


@pytest.mark.parametrize('bad', [-.1, np.nan])
def test_soft_targets_that_are_no_weights_are_refused(bad):
    from fastai_clean.losses import SoftLoss
    targets = torch.full((2, 5), .2)
    targets[1, 3] = bad
    with pytest.raises(ValueError, match='soft targets are negative or NaN'):
        SoftLoss(CrossEntropyLossFlat())(torch.zeros(2, 5), targets)
