"Folds sample, schedule and save as the Learner does, or it is said before the first batch"
import random
from functools import partial
from types import MethodType

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback
from fastai.callback.data import WeightedDL
from fastai.callback.mixup import MixUp
from fastai.callback.tracker import ReduceLROnPlateau, TrackerCallback
from fastai.data.core import DataLoaders, TfmdDL
from helpers import digit_dls, tiny_learn, tiny_model
from test_replay import VALID, N, by_hand

from fastai_clean.all import ConfidentLearningCallback

# Schedules

class SetRates(Callback):
    "Sets the rate that is listed for each epoch"
    def __init__(self, rates): self.rates = rates
    def before_epoch(self): self.learn.opt.set_hyper('lr', self.rates[self.epoch])


class Halving(TrackerCallback):
    "A tracker of the user's own"
    def after_epoch(self): self.learn.opt.set_hyper('lr', self.learn.opt.hypers[-1]['lr']/2)


@pytest.mark.parametrize('cb, rates', [
    (partial(ReduceLROnPlateau, patience=1, factor=10, min_delta=10), [1e-1, 1e-1, 1e-2, 1e-3]),
    (partial(ReduceLROnPlateau, monitor='train_loss', patience=1, factor=2, min_delta=10), None),
    (Halving, [1e-1, 5e-2, 2.5e-2, 1.25e-2])])
def test_rates_that_a_tracker_sets_are_those_of_the_folds(cb, rates):
    class Seen(Callback):
        order = 50
        def before_epoch(self):
            lr = self.learn.opt.hypers[-1]['lr']
            if not hasattr(self.learn, 'gather_preds'): seen.setdefault(id(self.learn), []).append(lr)
    seen = {}
    learn = tiny_learn(digit_dls(range(N), VALID))
    learn.fit(4, 1e-1, cbs=[cb(), Seen(), ConfidentLearningCallback(3)])
    rates_seen, *folds = seen.values()
    assert len(folds) == 3 and all(o == rates_seen for o in folds)
    assert len(set(rates_seen)) > 1 and (rates is None or np.allclose(rates_seen, rates))
    hand = by_hand(lambda o: o.fit(4, 1e-1, cbs=SetRates(rates_seen)), learn.oof.targets)
    assert np.abs(learn.oof.pred_probs - hand).max() == 0.


# Sampling

def drawn(dl):
    "Share of the digits below 3 among what `dl` trains on"
    return np.mean([(y < 3).float().mean().item() for _ in range(4) for *_, y in dl])


def only_low(rng, dl):
    y = np.array([int(o[1]) for o in dl.dataset])
    low = rng.choice(np.flatnonzero(y < 3), len(y)//2)
    return [int(i) for i in np.r_[low, rng.choice(len(y), len(y) - len(y)//2)]]


class LowDL(TfmdDL):
    def __init__(self, dataset=None, low=False, weight=None, **kwargs):
        self.low = low
        self.weight = weight
        super().__init__(dataset, **kwargs)

    def get_idxs(self): return only_low(RNG, self) if self.low else super().get_idxs()


class ForgetsDL(TfmdDL):
    def __init__(self, dataset=None, low=False, **kwargs): super().__init__(dataset, **kwargs)


RNG = np.random.default_rng(0)


def sampled(kind):
    dls = digit_dls(range(N), VALID, shuffle=True)
    train = dls.train
    kw = dict(bs=16, shuffle=True, device='cpu')
    if kind == 'method': train.get_idxs = MethodType(lambda self: only_low(RNG, train), train)
    if kind == 'function': train.get_idxs = lambda: only_low(RNG, train)
    if kind == 'shuffle_fn': train.shuffle_fn = lambda idxs: only_low(RNG, train)
    if kind == 'subclass': dls = DataLoaders(LowDL(train.dataset, low=True, weight=np.ones(N), **kw), dls.valid)
    if kind == 'weights':
        y = np.array([int(o[1]) for o in train.dataset])
        dls = DataLoaders(WeightedDL(train.dataset, wgts=np.where(y < 3, 5., 1.), **kw), dls.valid)
    return dls


@pytest.mark.parametrize('kind', ['method', 'function', 'shuffle_fn', 'subclass', 'weights'])
def test_own_sampling_is_that_of_the_folds_too(kind):
    class Shares(Callback):
        in_folds = True
        def after_batch(self):
            if self.training: seen.setdefault(id(self.learn), []).append((self.yb[0] < 3).float().mean().item())
    seen = {}
    tiny_learn(sampled(kind)).fit(4, cbs=[Shares(), ConfidentLearningCallback(2)])
    own, *folds = [np.mean(o) for o in seen.values()]
    assert own > .4 and len(folds) == 2
    # 13 batches of a fold: a deviation of .04 each
    assert all(abs(o - own) < .17 for o in folds)


def test_numbers_that_the_own_loader_draws_next_are_those_of_a_fit_without_folds():
    after = []
    for cbs in ([], [ConfidentLearningCallback(2)]):
        torch.manual_seed(0)
        np.random.seed(0)
        random.seed(0)
        dls = digit_dls(range(N), VALID, shuffle=True)
        dls.train.get_idxs = lambda dl=dls.train: dl.rng.sample(range(N), N)
        learn = tiny_learn(dls, tiny_model(dropout=.3), cbs=cbs)
        learn.fit(2)
        after.append((list(dls.train.get_idxs()), torch.rand(2).tolist(), [p.sum().item() for p in learn.model.parameters()]))
    assert after[0] == after[1]


@pytest.mark.parametrize('name', ['sample', 'create_batches'])
def test_sampling_that_cannot_be_rebuilt_is_refused_before_the_first_batch(name):
    dls = digit_dls(range(N), VALID, shuffle=True)
    setattr(dls.train, name, getattr(dls.train, name))
    learn = tiny_learn(dls)
    before = learn.model[0][1].weight.clone()
    with pytest.raises(TypeError, match=f'has a {name} of its own'): learn.fit(1, cbs=ConfidentLearningCallback(2))
    assert torch.equal(before, learn.model[0][1].weight)


def test_subclass_that_forgets_its_argument_is_refused_before_the_first_batch():
    dls = digit_dls(range(N), VALID, shuffle=True)
    dls = DataLoaders(ForgetsDL(dls.train.dataset, low=True, bs=16, shuffle=True, device='cpu'), dls.valid)
    with pytest.raises(TypeError, match='ForgetsDL, whose argument low'):
        tiny_learn(dls).fit(1, cbs=ConfidentLearningCallback(2))


# The user's own callbacks

class Saves(Callback):
    def after_epoch(self): self.learn.save('last', with_opt=False)


class Logs(Callback):
    def __init__(self, file): self.file = file
    def after_epoch(self):
        with open(self.file, 'a') as f: f.write(f'{self.epoch}\n')


class Clips(Callback):
    def before_step(self): torch.nn.utils.clip_grad_norm_(self.model.parameters(), .1)


class SetsMomentum(Callback):
    def before_epoch(self): self.model[0][2].momentum = .5 if self.epoch else .1


class Noise(Callback):
    in_folds = True
    def before_batch(self):
        if self.training: self.learn.xb = (self.x + .1,)


def in_fold(*cbs, **kw):
    "The names of the callbacks of the folds of a fit"
    cb = ConfidentLearningCallback(2, **kw)
    learn = tiny_learn(digit_dls(range(N), VALID))
    learn.fit(2, 1e-2, cbs=[*cbs, cb])
    return {type(o).__name__ for f in cb.folds.folds.values() for o in f.twins.values()}, learn


def test_callbacks_that_only_look_are_left_out_and_their_files_are_those_of_the_learner(tmp_path):
    learn = tiny_learn(digit_dls(range(N), VALID), path=tmp_path, cbs=[Saves(), Logs(tmp_path/'log.csv')])
    learn.fit(2, 1e-2, cbs=ConfidentLearningCallback(2))
    saved = torch.load(tmp_path/'models'/'last.pth', weights_only=True)
    assert all(map(torch.equal, saved.values(), learn.model.state_dict().values()))
    assert (tmp_path/'log.csv').read_text() == '0\n1\n' and len(list(tmp_path.rglob('*.pth'))) == 1
    assert learn.oof.done.all()


@pytest.mark.parametrize('cb', [Clips, SetsMomentum])
def test_callbacks_that_shape_training_run_in_folds_and_are_named_once(cb):
    with pytest.warns(UserWarning, match=f'^{cb.__name__}: callbacks that are neither') as said: found, learn = in_fold(cb())
    assert cb.__name__ in found and sum('are neither' in str(o.message) for o in said) == 1
    hand = by_hand(lambda o: o.fit(2, 1e-2, cbs=cb()), learn.oof.targets, n_folds=2)
    assert np.abs(learn.oof.pred_probs - hand).max() == 0.


def test_in_folds_and_leave_out_decide(recwarn):
    assert 'Noise' in in_fold(Noise())[0]
    assert 'Clips' not in in_fold(Clips(), leave_out=Clips)[0]
    assert not any('are neither' in str(o.message) for o in recwarn)


def test_fold_saves_to_a_folder_of_its_own_and_loads_from_the_users(tmp_path):
    class Restarts(Callback):
        in_folds = True
        def before_epoch(self):
            self.learn.load('mine', with_opt=False)
            self.learn.save('mine')
    learn = tiny_learn(digit_dls(range(N), VALID), path=tmp_path)
    file = learn.save('mine', with_opt=False)
    before = file.read_bytes()
    learn.oof_preds(lambda o: o.fit(1, cbs=Restarts()), n_folds=2)
    assert file.read_bytes() == before and len(list(tmp_path.rglob('*.pth'))) == 1


def test_trial_batch_fires_no_event_of_an_own_callback():
    class Counts(Callback):
        def __getattr__(self, name):
            if name.startswith(('before_', 'after_')): raise AttributeError(name)
            return super().__getattr__(name)
        def before_batch(self): batches.append(id(self.learn))
    batches = []
    learn = tiny_learn(digit_dls(range(N), VALID), cbs=Counts())
    learn.fit(1, cbs=ConfidentLearningCallback(2))
    n = len(learn.dls.train) + len(learn.dls.valid)
    assert batches[:n] == [id(learn)]*n and len(set(batches)) == 3


class ReadsLoss(Callback):
    order = 60
    def after_epoch(self):
        if not hasattr(self.learn, 'gather_preds'):
            self.learn.opt.set_hyper('lr', .001*self.recorder.values[-1][1])


def test_callback_that_reads_the_validation_loss_works_if_folds_validate():
    with pytest.warns(UserWarning, match='fails, with ReadsLoss .* validate=True .* leave_out=, or set in_folds'):
        with pytest.raises(IndexError, match='ReadsLoss'): in_fold(ReadsLoss())
    found, learn = in_fold(ReadsLoss(), validate=True)
    assert 'ReadsLoss' in found and learn.oof.done.all()


def test_folds_that_validate_see_the_users_validation_set_and_not_their_own_items():
    class Sees(Callback):
        in_folds = True
        def after_batch(self):
            if not self.training and not hasattr(self.learn, 'gather_preds'): seen.setdefault(id(self.learn), []).append(self.y.tolist())
    seen = {}
    tiny_learn(digit_dls(range(N), VALID)).fit(1, cbs=[Sees(), ConfidentLearningCallback(2, validate=True)])
    assert len(seen) == 3 and all(o == next(iter(seen.values())) for o in seen.values())


def test_mixup_subclass_of_the_user_is_seen_to_shape_training(recwarn):
    class MyMixUp(MixUp): pass
    assert 'MyMixUp' in in_fold(MyMixUp())[0]
