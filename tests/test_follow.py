"Folds sample, schedule and save as the Learner does, or it is said before the first batch"
import logging
import random
import warnings
from functools import partial
from types import MethodType

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback, CancelFitException
from fastai.callback.data import WeightedDL
from fastai.callback.hook import Hook
from fastai.callback.mixup import MixUp
from fastai.callback.tracker import (
    EarlyStoppingCallback,
    ReduceLROnPlateau,
    SaveModelCallback,
    TrackerCallback,
)
from fastai.callback.training import GradientAccumulation
from fastai.data.core import DataLoaders, TfmdDL
from fastai.learner import load_learner
from fastai.metrics import accuracy
from fastai.torch_core import set_seed
from helpers import DIGITS, digit_dls, tiny_learn, tiny_model, weights
from test_replay import FITS, VALID, N, NoValidation, by_hand

from fastai_clean.all import ConfidentLearningCallback, TrainingDynamicsCallback
from fastai_clean.data import fold_dls
from fastai_clean.oof.job import fold_random

# Ten kinds of fit

def stopped(learn, n_epoch=6, cbs=(), by_hand=False):
    # By hand: the epochs that the Learner had, of the number that it was to have
    stop = StopsAt(3) if by_hand else EarlyStoppingCallback(min_delta=100, patience=2)
    learn.fit_one_cycle(n_epoch, 1e-2, cbs=[stop, *cbs])


class StopsAt(Callback):
    def __init__(self, n): self.n = n
    def after_train(self):
        if self.epoch == self.n - 1: raise CancelFitException


def saved(learn, cbs=(), by_hand=False):
    save = [] if by_hand else [SaveModelCallback(monitor='accuracy', at_end=True)]
    learn.fit(2, 1e-2, cbs=[*save, *cbs])


def plateau(learn, cbs=(), by_hand=False):
    cb = SetRates([1e-1, 1e-1, 1e-2, 1e-3]) if by_hand else ReduceLROnPlateau(patience=1, min_delta=10)
    learn.fit(4, 1e-1, cbs=[cb, *cbs])


def plain(name): return lambda learn, cbs=(), by_hand=False: FITS[name](learn, cbs=list(cbs))


def weighted(train, held):
    dls = digit_dls(train, held, shuffle=True)
    wgts = np.where(DIGITS.target[list(train)] < 3, 5., 1.)
    return DataLoaders(WeightedDL(dls.train.dataset, wgts=wgts, bs=16, shuffle=True, num_workers=0, device='cpu'), dls.valid)


class Threes(TfmdDL):
    "A sampler that ignores `shuffle`"
    def get_idxs(self): return [int(i) for i in np.random.permutation(len(self.dataset))[:3*len(self.dataset)//4]]


def own_draws(train, held):
    dls = digit_dls(train, held, shuffle=True)
    return DataLoaders(Threes(dls.train.dataset, bs=16, shuffle=True, num_workers=0, device='cpu'), dls.valid)


def mixed(learn, cbs=(), by_hand=False):
    learn.to_fp32()
    learn.fit(2, 1e-2, cbs=[MixUp(), GradientAccumulation(24), *cbs])


KINDS = {
    'fit': (plain('fit'), None), 'fit_one_cycle': (plain('fit_one_cycle'), None), 'fine_tune': (plain('fine_tune'), None),
    'gradual': (plain('gradual'), None), 'fit_flat_cos': (plain('fit_flat_cos'), None), 'stopped': (stopped, None),
    'saved': (saved, None), 'plateau': (plateau, None), 'weighted': (plain('fit'), weighted), 'own_draws': (plain('fit'), own_draws),
    'mixed': (mixed, None)}


def followed(kind, make, path, cbs):
    set_seed(0)
    dls = (make or partial(digit_dls, shuffle=True))(range(N), VALID)
    learn = tiny_learn(dls, tiny_model(dropout=.3), metrics=accuracy, path=path)
    KINDS[kind][0](learn, cbs=cbs)
    return learn


@pytest.mark.slow
@pytest.mark.parametrize('kind', KINDS)
def test_kind_of_fit_leaves_the_learner_as_it_is_without_folds(kind, tmp_path):
    make = KINDS[kind][1]
    after = []
    for name, cbs in (('with', [ConfidentLearningCallback(3, mode='folds')]), ('without', [])):
        learn = followed(kind, make, tmp_path/name, cbs)
        averages = [v for o in learn.opt.state.values() for v in o.values() if isinstance(v, torch.Tensor)]
        files = {str(o.relative_to(tmp_path/name)) for o in (tmp_path/name).rglob('*')}
        after.append((learn, averages, files, torch.rand(3), np.random.rand(3), random.random(),
                      [t for *_, t in learn.dls.train]))
    a, b = after
    assert all(map(torch.equal, a[0].model.state_dict().values(), b[0].model.state_dict().values()))
    assert len(a[1]) == len(b[1]) and all(map(torch.equal, a[1], b[1])) and a[0].opt.hypers == b[0].opt.hypers
    assert np.array_equal([list(o) for o in a[0].recorder.values], [list(o) for o in b[0].recorder.values], equal_nan=True)
    assert a[2] == b[2] and torch.equal(a[3], b[3]) and np.array_equal(a[4], b[4]) and a[5] == b[5]
    assert all(map(torch.equal, a[6], b[6])) and a[0].oof.done.all() and getattr(b[0], 'oof', None) is None


@pytest.mark.slow
@pytest.mark.parametrize('kind', KINDS)
def test_kind_of_fit_equals_the_same_calls_by_hand(kind, tmp_path):
    fits, make = KINDS[kind]
    learn = followed(kind, make, tmp_path, [ConfidentLearningCallback(3, seed=7, mode='folds')])
    fold = learn.oof.fold
    hand = np.full((N, 10), np.nan, np.float32)
    for k in range(3):
        held = np.flatnonzero(fold == k)
        dls = (make or partial(digit_dls, shuffle=True))(np.flatnonzero(fold != k), held)
        one = tiny_learn(dls, tiny_model(dropout=.3), path=tmp_path)
        n_fits = {'fine_tune': 2, 'gradual': 3}.get(kind, 1)
        # Each fit of a fold begins with random numbers of its own
        starts = Starts(7, k)
        fits(one, cbs=[NoValidation(), starts], by_hand=True)
        starts.end()
        assert starts.n == n_fits
        hand[held] = one.get_preds(dl=digit_dls(held, held).valid)[0].numpy()
    assert np.abs(learn.oof.pred_probs - hand).max() == 0.


class Starts(Callback):
    "Begins each fit with the random numbers that the fold begins it with"
    order = -100
    n = 0
    within = None
    def __init__(self, seed, k):
        self.seed = seed
        self.k = k

    def before_fit(self):
        if hasattr(self.learn, 'gather_preds'): return
        self.end()
        self.within = fold_random(self.seed, self.k, self.n)
        self.within.__enter__()
        # A fold makes its DataLoader for each fit
        dls = self.learn.dls
        dls.loaders = [dls.train.new(), dls.valid] if not hasattr(dls.train, 'wgts') else [dls.train.new(wgts=dls.train.wgts), dls.valid]
        self.n += 1

    def end(self):
        if self.within is not None: self.within.__exit__(None, None, None)
        self.within = None


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
    learn.fit(4, 1e-1, cbs=[cb(), Seen(), ConfidentLearningCallback(3, mode='folds')])
    rates_seen, *folds = seen.values()
    assert len(folds) == 3 and all(o == rates_seen for o in folds)
    assert len(set(rates_seen)) > 1 and (rates is None or np.allclose(rates_seen, rates))
    hand = by_hand(lambda o: o.fit(4, 1e-1, cbs=SetRates(rates_seen)), learn.oof.targets)
    assert np.abs(learn.oof.pred_probs - hand).max() == 0.


class Decays(TrackerCallback):
    def after_epoch(self): self.learn.opt.set_hyper('wd', .1*(self.epoch + 1))


class Late(TrackerCallback):
    order = 99
    def after_epoch(self): self.learn.opt.set_hyper('lr', self.learn.opt.hypers[-1]['lr']/2)


class EachStep(TrackerCallback):
    def after_batch(self):
        if self.training: self.learn.opt.set_hyper('mom', .5 + .4*self.pct_train)


class WarmUp(Callback):
    def before_epoch(self): self.learn.opt.set_hyper('lr', 1e-4*10**self.epoch)


class Rates(Callback):
    in_folds = True
    order = 100
    def __init__(self, kind): self.kind, self.seen = kind, {}
    def before_step(self): self.seen.setdefault(id(self.learn), []).append(self.opt.hypers[-1][self.kind])
    def __deepcopy__(self, memo):
        res = Rates(self.kind)
        res.seen = self.seen
        return res


@pytest.mark.parametrize('cb, kind, leave_out', [
    (Decays, 'wd', ()), (Late, 'lr', ()), (EachStep, 'mom', ()), (WarmUp, 'lr', WarmUp), (WarmUp, 'lr', ())])
def test_what_a_left_out_callback_sets_is_set_in_the_folds(cb, kind, leave_out):
    rates = Rates(kind)
    learn = tiny_learn(digit_dls(range(N), VALID))
    learn.fit(3, 1e-2, cbs=[cb(), rates, ConfidentLearningCallback(2, leave_out=leave_out, mode='folds')])
    own, *folds = rates.seen.values()
    assert len(folds) == 2 and len({*own}) > 1
    # The same share of a fit is another number of steps
    for fold in folds:
        at = np.linspace(0, len(own) - 1, len(fold)).round().astype(int)
        assert np.allclose(fold, np.array(own)[at], rtol=.1 if cb is EachStep else 0)


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
    tiny_learn(sampled(kind)).fit(4, cbs=[Shares(), ConfidentLearningCallback(2, mode='folds')])
    own, *folds = [np.mean(o) for o in seen.values()]
    assert own > .4 and len(folds) == 2
    # 13 batches of a fold: a deviation of .04 each
    assert all(abs(o - own) < .17 for o in folds)


def test_numbers_that_the_own_loader_draws_next_are_those_of_a_fit_without_folds():
    after = []
    for cbs in ([], [ConfidentLearningCallback(2, mode='folds')]):
        torch.manual_seed(0)
        np.random.seed(0)
        random.seed(0)
        dls = digit_dls(range(N), VALID, shuffle=True)
        dls.train.get_idxs = lambda dl=dls.train: dl.rng.sample(range(N), N)
        learn = tiny_learn(dls, tiny_model(dropout=.3), cbs=cbs)
        learn.fit(2)
        after.append((list(dls.train.get_idxs()), torch.rand(2).tolist(), [p.sum().item() for p in learn.model.parameters()]))
    assert after[0] == after[1]


class Shuffles(TfmdDL):
    def get_idxs(self): return [int(i) for i in np.random.permutation(len(self.dataset))]


class Samples(TfmdDL):
    def sample(self): return (int(i) for i in np.random.permutation(len(self.dataset)))


class MakesBatches(TfmdDL):
    def create_batches(self, samps): return super().create_batches([int(i) for i in np.random.permutation([*samps])])


class NeedsLabels(TfmdDL):
    def __init__(self, dataset, labels, **kwargs):
        self.labels = labels
        super().__init__(dataset, **kwargs)

    def get_idxs(self):
        assert len(self.labels) == len(self.dataset)
        return [int(i) for i in np.random.permutation(len(self.labels))]


@pytest.mark.parametrize('cls', [Shuffles, Samples, MakesBatches, NeedsLabels])
@pytest.mark.parametrize('both', [False, True])
def test_loader_that_ignores_shuffle_gives_each_item_its_own_probabilities(cls, both):
    dls = digit_dls(range(240), range(240, 280), shuffle=True)
    kw = dict(bs=16, shuffle=True, num_workers=0, device='cpu')
    if cls is NeedsLabels: kw['labels'] = DIGITS.target[:240]
    train = cls(dls.train.dataset, **kw)
    if cls is NeedsLabels: kw['labels'] = DIGITS.target[240:280]
    valid = cls(dls.valid.dataset, **{**kw, 'shuffle': False}) if both else dls.valid
    learn = tiny_learn(DataLoaders(train, valid))
    learn.fit(6, 1e-2, cbs=ConfidentLearningCallback(2, mode='folds'))
    # Probabilities of other items agree with a tenth of the labels
    assert (learn.oof.pred_probs.argmax(1) == learn.oof.targets).mean() > .85


@pytest.mark.parametrize('bound', [False, True])
def test_create_item_of_the_user_reads_the_items_of_the_fold(bound):
    dls = digit_dls(range(N), VALID)
    ds = dls.train.dataset
    read = []

    def create_item(s):
        read.append(int(s or 0))
        return ds[int(s or 0)]
    dls.train.create_item = MethodType(lambda self, s: create_item(s), dls.train) if bound else create_item
    cb = ConfidentLearningCallback(2, mode='folds')
    learn = tiny_learn(dls)
    learn.fit(1, cbs=cb)
    for k in range(2):
        held = learn.oof.fold == k
        read.clear()
        fold = fold_dls(dls, held)
        list(fold.train)
        assert sorted(read) == list(np.flatnonzero(~held))
        read.clear()
        list(fold.valid)
        assert read == list(np.flatnonzero(held))


@pytest.mark.parametrize('kind', ['closure', 'argument', 'torch'])
def test_own_generator_goes_on_as_without_folds(kind):
    after = []
    for cbs in ([], [ConfidentLearningCallback(2, mode='folds')]):
        set_seed(0)
        dls = digit_dls(range(N), VALID, shuffle=True)
        rng = torch.Generator().manual_seed(3) if kind == 'torch' else np.random.default_rng(3)
        if kind == 'torch': dls.train.get_idxs = lambda rng=rng: torch.randperm(N, generator=rng).tolist()
        if kind == 'closure': dls.train.get_idxs = lambda rng=rng: rng.permutation(N).tolist()
        if kind == 'argument':
            dls = DataLoaders(FromRng(dls.train.dataset, generator=rng, bs=16, shuffle=True, device='cpu'), dls.valid)
        learn = tiny_learn(dls)
        learn.fit(1, cbs=cbs)
        learn.fit(1, cbs=cbs)
        state = rng.get_state().tolist() if kind == 'torch' else rng.bit_generator.state
        after.append((state, weights(learn.model).tolist()))
    assert after[0] == after[1]


class FromRng(TfmdDL):
    def __init__(self, dataset=None, generator=None, **kwargs):
        self.generator = generator
        super().__init__(dataset, **kwargs)

    def get_idxs(self): return self.generator.permutation(len(self.dataset)).tolist()


@pytest.mark.parametrize('name', ['sample', 'create_batches'])
def test_sampling_that_cannot_be_rebuilt_is_refused_before_the_first_batch(name):
    dls = digit_dls(range(N), VALID, shuffle=True)
    setattr(dls.train, name, getattr(dls.train, name))
    learn = tiny_learn(dls)
    before = learn.model[0][1].weight.clone()
    with pytest.raises(TypeError, match=f'has a {name} of its own'): learn.fit(1, cbs=ConfidentLearningCallback(2, mode='folds'))
    assert torch.equal(before, learn.model[0][1].weight)


def test_subclass_that_forgets_its_argument_is_refused_before_the_first_batch():
    dls = digit_dls(range(N), VALID, shuffle=True)
    dls = DataLoaders(ForgetsDL(dls.train.dataset, low=True, bs=16, shuffle=True, device='cpu'), dls.valid)
    with pytest.raises(TypeError, match='ForgetsDL, whose argument low'):
        tiny_learn(dls).fit(1, cbs=ConfidentLearningCallback(2, mode='folds'))


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
    cb = ConfidentLearningCallback(2, **kw, mode='folds')
    learn = tiny_learn(digit_dls(range(N), VALID))
    learn.fit(2, 1e-2, cbs=[*cbs, cb])
    return {type(o).__name__ for f in cb.folds.folds.values() for o in f.twins.values()}, learn


def test_callbacks_that_only_look_are_left_out_and_their_files_are_those_of_the_learner(tmp_path):
    learn = tiny_learn(digit_dls(range(N), VALID), path=tmp_path, cbs=[Saves(), Logs(tmp_path/'log.csv')])
    learn.fit(2, 1e-2, cbs=ConfidentLearningCallback(2, mode='folds'))
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


class ClampsData(Callback):
    def after_step(self):
        for p in self.model.parameters(): p.data.clamp_(-.1, .1)


class ScalesGradData(Callback):
    def before_step(self):
        for p in self.model.parameters(): p.grad.data.mul_(.1)


class Averages(Callback):
    order = 99
    def before_fit(self): self.mean = [p.detach().clone() for p in self.model.parameters()]
    def after_step(self):
        for a, p in zip(self.mean, self.model.parameters()): a.mul_(.5).add_(p.detach(), alpha=.5)
    def after_fit(self):
        if hasattr(self.learn, 'gather_preds'): return
        for a, p in zip(self.mean, self.model.parameters()): p.data.copy_(a)


class Dispatches(Callback):
    def __call__(self, name):
        if name == 'before_step':
            for p in self.model.parameters(): p.grad.mul_(.1)
        return super().__call__(name)


class ClearsAverages(Callback):
    def after_epoch(self): self.learn.opt.clear_state()


class Freezes(Callback):
    def before_epoch(self):
        if self.epoch == 1: self.learn.freeze()


class Penalty(Callback):
    "Of a layer's outputs, which a hook notes"
    def before_fit(self): self.handle = self.model[0][1].register_forward_hook(self.see)
    def see(self, module, inputs, out): self.out = out
    def after_loss(self):
        if self.training: self.learn.loss_grad = self.learn.loss_grad + .01*self.out.abs().mean()
    def after_fit(self): self.handle.remove()


@pytest.mark.parametrize('cb', [ClampsData, ScalesGradData, Averages, Dispatches, ClearsAverages, Freezes, Penalty])
def test_hidden_ways_to_shape_training_are_seen(cb):
    found, learn = in_fold(cb())
    hand = by_hand(lambda o: o.fit(2, 1e-2, cbs=cb()), learn.oof.targets, n_folds=2)
    assert cb.__name__ in found and np.abs(learn.oof.pred_probs - hand).max() == 0.


class TorchSaves(Callback):
    def __init__(self, file): self.file = file
    def after_epoch(self): torch.save(self.model.state_dict(), self.file)


class LinePerBatch(Callback):
    def __init__(self, file): self.file = file
    def before_fit(self): self.file.write_text('head\n')
    def after_batch(self):
        with open(self.file, 'a') as f: f.write('x\n')


class LogsLines(Callback):
    def after_epoch(self): logging.getLogger('test_follow').warning('an epoch')


def test_files_by_absolute_path_are_those_of_the_learner(tmp_path):
    log = logging.getLogger('test_follow')
    log.propagate = False
    log.addHandler(logging.FileHandler(tmp_path/'log.txt'))
    cbs = [TorchSaves(tmp_path/'best.pth'), LinePerBatch(tmp_path/'lines.csv'), LogsLines()]
    learn = tiny_learn(digit_dls(range(N), VALID), cbs=cbs)
    learn.fine_tune(1, 1e-2, cbs=ConfidentLearningCallback(2, mode='folds'))
    saved = torch.load(tmp_path/'best.pth', weights_only=True)
    assert all(map(torch.equal, saved.values(), learn.model.state_dict().values()))
    n_batches = len(learn.dls.train) + len(learn.dls.valid)
    # The second fit begins the file anew
    assert (tmp_path/'lines.csv').read_text() == 'head\n' + n_batches*'x\n'
    assert len((tmp_path/'log.txt').read_text().splitlines()) == 2
    # Without the watch
    assert not any('after_epoch' in vars(o) or 'after_batch' in vars(o) for o in cbs)


def test_callback_that_only_looks_on_may_fail_in_folds():
    class History(Callback):
        order = 60
        def after_epoch(self): seen.append(self.recorder.values[-1][1])
    seen = []
    with pytest.warns(UserWarning, match='History fails in the folds, where it is left out from there on, IndexError'):
        found, learn = in_fold(History())
    assert len(seen) == 2 and learn.oof.done.all()


@pytest.mark.parametrize('wrapped', [False, True])
def test_hook_of_a_callback_sees_the_users_model_only(wrapped):
    class Counts(Callback):
        def before_fit(self):
            self.n = 0
            layer = self.model[0][1]
            self.handle = Hook(layer, self.see) if wrapped else layer.register_forward_hook(self.see)
        def see(self, *args): self.n += 1
        def after_fit(self): self.handle.remove()
    cbs = Counts(), Counts()
    in_fold(cbs[0])
    tiny_learn(digit_dls(range(N), VALID)).fit(2, 1e-2, cbs=cbs[1])
    assert cbs[0].n == cbs[1].n


def test_learner_that_is_exported_in_a_fit_has_events_and_methods_of_its_own(tmp_path):
    class Exports(Callback):
        def after_epoch(self): self.learn.export('now.pkl')
    learn = tiny_learn(digit_dls(range(N), VALID), path=tmp_path, cbs=[Exports(), TrainingDynamicsCallback()])
    learn.fit(1, 1e-2, cbs=ConfidentLearningCallback(2, mode='folds'))
    learn.fit(1, 1e-2, cbs=ConfidentLearningCallback(2, mode='folds'))
    loaded = load_learner(tmp_path/'now.pkl')
    own = [vars(loaded)[o] for o in ('_with_events', '_call_one')]
    own += [vars(cb)['after_epoch'] for cb in loaded.cbs if 'after_epoch' in vars(cb)]
    assert len(own) > 2 and all(isinstance(o, MethodType) for o in own)


def test_broken_fit_leaves_no_watch():
    class Fails(Callback):
        def after_step(self): raise RuntimeError('no')
    cb = Fails()
    with pytest.raises(RuntimeError): in_fold(cb)
    assert 'after_step' not in vars(cb)


def test_in_folds_and_leave_out_decide(recwarn):
    assert 'Noise' in in_fold(Noise())[0]
    assert 'Clips' not in in_fold(Clips(), leave_out=Clips)[0]
    assert not any('are neither' in str(o.message) for o in recwarn)


def test_own_callbacks_are_named_once_and_before_the_first_batch():
    class Order(Callback):
        in_folds = False
        def after_batch(self): said.append([str(o.message) for o in caught])
    said = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        learn = tiny_learn(digit_dls(range(N), VALID), cbs=[Clips(), SetsMomentum(), Order()])
        learn.fine_tune(1, cbs=ConfidentLearningCallback(2, mode='folds'))
    assert [o for o in said[0] if o.startswith('Clips, SetsMomentum: callbacks that are neither')]
    assert sum('are neither' in str(o.message) for o in caught) == 1


def test_own_callbacks_are_named_by_oof_preds_too():
    learn = tiny_learn(digit_dls(range(N), VALID), cbs=Clips())
    with pytest.warns(UserWarning, match='^Clips: callbacks .* run in the folds too; what they save'):
        learn.oof_preds(lambda o: o.fit(1), n_folds=2)


def test_folds_that_validate_have_the_metrics():
    class ByAccuracy(Callback):
        order = 60
        def after_epoch(self):
            if hasattr(self.learn, 'gather_preds'): return
            self.learn.opt.set_hyper('lr', self.recorder.values[-1][2]/10)
    learn = tiny_learn(digit_dls(range(N), VALID), metrics=accuracy)
    learn.fit(2, 1e-2, cbs=[ByAccuracy(), ConfidentLearningCallback(2, validate=True, mode='folds')])
    assert learn.oof.done.all() and len(learn.recorder.values) == 2


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
    learn.fit(1, cbs=ConfidentLearningCallback(2, mode='folds'))
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
    tiny_learn(digit_dls(range(N), VALID)).fit(1, cbs=[Sees(), ConfidentLearningCallback(2, validate=True, mode='folds')])
    assert len(seen) == 3 and all(o == next(iter(seen.values())) for o in seen.values())


def test_mixup_subclass_of_the_user_is_seen_to_shape_training(recwarn):
    class MyMixUp(MixUp): pass
    assert 'MyMixUp' in in_fold(MyMixUp())[0]


def test_error_of_a_fit_takes_the_watch_off():
    class Watched(Callback):
        fails = True
        def after_step(self):
            if self.fails: raise RuntimeError('no')
    learn = tiny_learn(digit_dls(range(40), range(40, 60)))
    own = Watched()
    learn.add_cbs([own, ConfidentLearningCallback(2, mode='folds')])
    before = {*vars(own)}
    with pytest.raises(RuntimeError): learn.fit(1)
    assert {*vars(own)} <= before | {'learn'} and not {'_call_one', '_with_events'} & {*vars(learn)}
    own.fails = False
    learn.fit(1)
    assert learn.oof.done.all() and not {'_call_one', '_with_events'} & {*vars(learn)}


@pytest.mark.parametrize('average', [None, 'epochs'])
def test_callback_that_ends_the_fit_after_an_epoch_ends_those_of_the_folds(average):
    class Ends(Callback):
        def after_epoch(self):
            if self.epoch == 1: raise CancelFitException
    learn = tiny_learn(digit_dls(range(40), range(40, 60)))
    learn.fit(4, cbs=[Ends(), ConfidentLearningCallback(2, mode='folds', average=average)])
    assert learn.oof.done.all() and learn.epoch == 1
