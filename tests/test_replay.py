"Fold Learners do what the same calls by hand do, to the last bit, and the user's Learner does not notice"
import random
from functools import partial

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback, CancelFitException, CancelValidException
from fastai.callback.mixup import CutMix, MixUp
from fastai.callback.tracker import EarlyStoppingCallback, SaveModelCallback
from fastai.callback.training import GradientAccumulation, GradientClip
from fastai.losses import LabelSmoothingCrossEntropyFlat
from fastai.metrics import accuracy
from fastai.optimizer import SGD, OptimWrapper, RMSProp, ranger
from fastai.text.models.awdlstm import AWD_LSTM
from helpers import digit_dls, tiny_learn, tiny_model

from fastai_clean.all import ConfidentLearningCallback
from fastai_clean.data import fold_numbers
from fastai_clean.oof.fit import copy_model
from fastai_clean.oof.job import fold_random

N, VALID = 120, range(120, 150)


def by_hand(fits, targets, learn_kw=dict, n_folds=3):
    "Out-of-fold probabilities of `fits` called on Learners that are built without the package"
    fold, res = fold_numbers(targets, n_folds), np.full((N, 10), np.nan, np.float32)
    for k in range(n_folds):
        train, held = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
        learn = tiny_learn(digit_dls(train, held), **learn_kw())
        fits(learn)
        res[held] = learn.get_preds()[0].numpy()
    return res


def followed(fits, given='learner', **learn_kw):
    cb = ConfidentLearningCallback(n_folds=3, mode='folds')
    learn = tiny_learn(digit_dls(range(N), VALID), cbs=cb if given == 'learner' else None, **learn_kw)
    if given == 'add_cb': learn.add_cb(cb)
    fits(learn) if given != 'fit' else fits(learn, cbs=cb)
    return learn


def gradual(learn, **kw):
    learn.freeze()
    learn.fit_one_cycle(1, 1e-2, **kw)
    learn.freeze_to(-2)
    learn.fit_one_cycle(1, slice(1e-3, 1e-2), **kw)
    learn.unfreeze()
    learn.fit_one_cycle(2, slice(1e-3, 5e-3), **kw)


def in_a_row(learn, **kw):
    learn.fit(1, 1e-2, **kw)
    learn.fit(2, 3e-3, wd=.1, **kw)
    learn.validate()
    learn.get_preds()
    learn.fit_one_cycle(1, 1e-2, moms=(.9, .8, .9), **kw)


def reset(learn, **kw):
    learn.fit(1, 1e-2, **kw)
    learn.freeze()
    learn.fit(1, 1e-2, reset_opt=True, **kw)
    learn.fit(1, 1e-2, **kw)


FITS = {
    'fit': lambda learn, **kw: learn.fit(3, 1e-2, **kw),
    'fit_slice': lambda learn, **kw: learn.fit(3, slice(1e-3, 1e-2), **kw),
    'fit_one_cycle': lambda learn, **kw: learn.fit_one_cycle(3, 1e-2, **kw),
    'one_cycle_slices': lambda learn, **kw: learn.fit_one_cycle(3, slice(1e-3, 1e-2), wd=.05, **kw),
    'start_epoch': lambda learn, **kw: learn.fit_one_cycle(4, 1e-2, start_epoch=2, **kw),
    'fine_tune': lambda learn, **kw: learn.fine_tune(2, 1e-2, **kw),
    'fit_flat_cos': lambda learn, **kw: learn.fit_flat_cos(3, 1e-2, **kw),
    'fit_sgdr': lambda learn, **kw: learn.fit_sgdr(2, 1, 1e-2, **kw),
    'in_a_row': in_a_row, 'gradual': gradual, 'reset_opt': reset,
}
OPTS = {'sgd': partial(SGD, mom=.9), 'rmsprop': RMSProp, 'ranger': ranger,
        'adamw': partial(OptimWrapper, opt=torch.optim.AdamW), 'torch_sgd': partial(OptimWrapper, opt=torch.optim.SGD)}


@pytest.mark.parametrize('name', FITS)
def test_every_kind_of_fit_equals_the_same_calls_by_hand(name):
    learn = followed(FITS[name])
    assert np.abs(learn.oof.pred_probs - by_hand(FITS[name], learn.oof.targets)).max() == 0.


@pytest.mark.parametrize('name', ['fine_tune', 'in_a_row'])
@pytest.mark.parametrize('given', ['fit', 'add_cb'])
def test_callback_given_elsewhere_equals_the_same_calls_by_hand(name, given):
    learn = followed(FITS[name], given)
    assert np.abs(learn.oof.pred_probs - by_hand(FITS[name], learn.oof.targets)).max() == 0.


class NoValidation(Callback):
    def before_validate(self): raise CancelValidException


@pytest.mark.parametrize('name', ['fit', 'fit_one_cycle'])
def test_random_fit_equals_the_same_calls_by_hand_from_the_same_random_numbers(name):
    def learner(train, held):
        return tiny_learn(digit_dls(train, held, shuffle=True), tiny_model(dropout=.3), cbs=MixUp())
    learn = learner(range(N), VALID)
    FITS[name](learn, cbs=ConfidentLearningCallback(3, seed=7, mode='folds'))
    fold, hand = learn.oof.fold, np.full((N, 10), np.nan, np.float32)
    for k in range(3):
        with fold_random(7, k, 0):
            one = learner(np.flatnonzero(fold != k), np.flatnonzero(fold == k))
            # Folds do not validate in a fit, which would draw random numbers
            FITS[name](one, cbs=NoValidation())
        hand[fold == k] = one.get_preds()[0].numpy()
    assert np.abs(learn.oof.pred_probs - hand).max() == 0.


@pytest.mark.slow
@pytest.mark.parametrize('opt', OPTS)
@pytest.mark.parametrize('name', ['gradual', 'in_a_row', 'reset_opt'])
def test_every_optimizer_equals_the_same_calls_by_hand(opt, name):
    learn = followed(FITS[name], opt_func=OPTS[opt])
    hand = by_hand(FITS[name], learn.oof.targets, lambda: dict(opt_func=OPTS[opt]))
    assert np.abs(learn.oof.pred_probs - hand).max() == 0.


@pytest.mark.parametrize('kw', [
    lambda: dict(loss_func=LabelSmoothingCrossEntropyFlat()), lambda: dict(wd=.1), lambda: dict(train_bn=False),
    lambda: dict(wd_bn_bias=True), lambda: dict(cbs=[GradientClip(.1)]), lambda: dict(cbs=[GradientAccumulation(32)])],
    ids=['label smoothing', 'wd', 'train_bn', 'wd_bn_bias', 'clip', 'accumulation'])
def test_every_option_equals_the_same_calls_by_hand(kw):
    learn = tiny_learn(digit_dls(range(N), VALID), **kw())
    learn.fine_tune(1, 1e-2, cbs=ConfidentLearningCallback(n_folds=3, mode='folds'))
    fold_preds = by_hand(lambda o: o.fine_tune(1, 1e-2), learn.oof.targets, kw)
    assert np.abs(learn.oof.pred_probs - fold_preds).max() == 0.


@pytest.mark.parametrize('other', [lambda o: o.fine_tune(2, 1.1e-2), lambda o: o.fine_tune(2, 1e-2, freeze_epochs=2),
                                   lambda o: o.fit_one_cycle(3, 1e-2)])
def test_other_calls_by_hand_give_other_probabilities(other):
    learn = followed(FITS['fine_tune'])
    assert np.abs(learn.oof.pred_probs - by_hand(other, learn.oof.targets)).max() > 1e-4


def test_oof_preds_equals_the_callback():
    learn = tiny_learn(digit_dls(range(N), VALID))
    before = [p.clone() for p in learn.model.parameters()]
    oof = learn.oof_preds(lambda o: o.fine_tune(2, 1e-2), n_folds=3)
    assert np.array_equal(oof.pred_probs, followed(FITS['fine_tune']).oof.pred_probs)
    assert all(map(torch.equal, before, learn.model.parameters())) and learn.opt is None and learn.oof is oof


class StopAfterTwo(Callback):
    "Ends the fit before its third epoch"
    def before_epoch(self):
        if self.epoch == 2: raise CancelFitException


def test_early_stopping_stops_the_folds_at_the_same_epoch():
    stop = EarlyStoppingCallback('valid_loss', min_delta=100, patience=1)
    learn = followed(lambda o: o.fit_one_cycle(5, 1e-2, cbs=stop))
    assert len(learn.recorder.values) == 2
    hand = by_hand(lambda o: o.fit_one_cycle(5, 1e-2, cbs=StopAfterTwo()), learn.oof.targets)
    assert np.abs(learn.oof.pred_probs - hand).max() == 0.


def state_after(tmp_path, callback):
    "Weights, records, next random numbers and files of a fit full of randomness"
    torch.manual_seed(3)
    np.random.seed(3)
    random.seed(3)
    cbs = [MixUp(), SaveModelCallback(monitor='accuracy'), *callback]
    learn = tiny_learn(digit_dls(range(N), VALID, shuffle=True), tiny_model(dropout=.3), metrics=accuracy, cbs=cbs,
                       path=tmp_path)
    learn.lr_find(num_it=8, show_plot=False)
    learn.fine_tune(2, 1e-2)
    learn.fit_one_cycle(1, 1e-2)
    opt = [v for o in learn.opt.state_dict()['state'] for v in o.values()]
    return dict(weights=[*learn.model.state_dict().values()], opt=[torch.as_tensor(o) for o in opt],
                losses=[torch.stack(learn.recorder.losses)], values=[torch.tensor(list(learn.recorder.values))],
                hypers=[torch.tensor([h['lr'] for h in learn.opt.hypers])], torch=[torch.rand(3)],
                numpy=[torch.tensor(np.random.rand(3))], python=[torch.tensor(random.random())],
                grads=[torch.tensor([p.requires_grad for p in learn.model.parameters()])]), sorted(
                    o.relative_to(tmp_path).as_posix() for o in tmp_path.rglob('*'))


def test_learner_with_the_callback_is_bit_identical_to_one_without(tmp_path):
    with_cb, files = state_after(tmp_path/'with', [ConfidentLearningCallback(n_folds=3, mode='folds')])
    without, files_without = state_after(tmp_path/'without', [])
    for key in without:
        assert len(with_cb[key]) == len(without[key])
        assert all(map(torch.equal, with_cb[key], without[key])), key
    assert files == files_without


def test_state_comparison_notices_one_random_number(tmp_path):
    class Draws(Callback):
        def after_fit(self): torch.rand(1)
    with_cb, _ = state_after(tmp_path/'with', [Draws()])
    without, _ = state_after(tmp_path/'without', [])
    assert not torch.equal(with_cb['torch'][0], without['torch'][0])


@pytest.mark.parametrize('mix', [MixUp, CutMix])
def test_randomness_of_folds_depends_on_the_seed_alone(mix):
    def probs(seed, torch_seed):
        torch.manual_seed(torch_seed)
        learn = tiny_learn(digit_dls(range(N), VALID, shuffle=True), tiny_model(dropout=.3), cbs=mix())
        learn.fit(2, 1e-2, cbs=ConfidentLearningCallback(2, splits=np.arange(N) % 2, seed=seed, mode='folds'))
        return learn.oof.pred_probs
    first = probs(1, 1)
    assert np.array_equal(first, probs(1, 2)) and not np.array_equal(first, probs(2, 1))


def test_copy_of_an_awd_lstm_computes_the_same_with_weights_of_its_own():
    model = AWD_LSTM(20, 6, 8, 2).eval()
    x = torch.randint(0, 20, (2, 5))
    model(x)
    twin = copy_model(model)
    model.reset()
    twin.reset()
    assert torch.equal(model(x), twin(x))
    with torch.no_grad():
        for p in twin.parameters(): p.add_(1)
    assert not torch.equal(model(x), twin(x))
    assert not {id(p) for p in model.parameters()} & {id(p) for p in twin.parameters()}
