"""FitCallback and the four callbacks on it: what ends a fit, passes within it, cancelled batches and
random data sets"""
import numpy as np
import pytest
import torch
from fastai.callback.core import (
    Callback,
    CancelBatchException,
    CancelEpochException,
    CancelFitException,
    CancelTrainException,
)
from fastai.callback.mixup import MixUp
from fastai.callback.schedule import lr_find  # noqa: F401, gives Learner its schedules
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import load_learner
from helpers import PIXELS, tiny_learn, tiny_model
from test_soft import LABELS, digits, known
from torch.utils.data import DataLoader as TorchLoader
from torch.utils.data import Dataset

from fastai_clean.callbacks import (
    CoTeachingCallback,
    EarlyLearningRegularizationCallback,
    SoftPseudoLabelCallback,
    TrainingDynamicsCallback,
)
from fastai_clean.callbacks.base import FitCallback
from fastai_clean.losses import soft_targets


class Notes(FitCallback):
    "What was called, in its order"
    def __init__(self):
        super().__init__()
        self.log = []

    def start(self): self.log.append('start')
    def end_epoch(self): self.log.append('epoch')
    def stop(self): self.log.append('stop')


class Raises(Callback):
    "An error in the second epoch"
    order = 90
    def __init__(self, error): self.error = error
    def after_pred(self):
        if self.training and self.epoch == 1: raise self.error


@pytest.mark.parametrize('passed', [True, False])
@pytest.mark.parametrize('error', [None, CancelBatchException, CancelTrainException,
                                   CancelEpochException, CancelFitException, RuntimeError('broken'),
                                   KeyboardInterrupt])
def test_whatever_ends_a_fit_is_followed_by_stop(error, passed):
    learn, notes = digits(), Notes()
    if not passed: learn.add_cb(notes)
    cbs = [o for o in (notes if passed else None, error and Raises(error)) if o]
    if isinstance(error, RuntimeError) or error is KeyboardInterrupt:
        with pytest.raises((RuntimeError, KeyboardInterrupt)): learn.fit(2, cbs=cbs)
    else: learn.fit(2, cbs=cbs)
    assert notes.log == ['start', 'epoch', 'epoch', 'stop']
    assert 'do_item' not in vars(learn.dls.train)
    assert not {'_call_one', '_with_events'} & vars(learn).keys()


def test_what_is_no_fit_is_not_followed():
    learn, notes = digits(), Notes()
    learn.add_cb(notes)
    learn.validate()
    learn.get_preds()
    learn.lr_find(num_it=5, show_plot=False)
    assert notes.log == []
    learn.fit(1)
    assert notes.log == ['start', 'epoch', 'stop']


class Exports(Callback):
    "Writes the Learner within the fit"
    def __init__(self, path): self.path = path
    def after_epoch(self): self.learn.export(self.path)


def test_a_learner_exported_within_a_fit_loads_and_trains(tmp_path):
    learn = digits()
    learn.logger = print
    learn.add_cb(Notes())
    learn.fit(1, cbs=Exports(tmp_path/'m.pkl'))
    twin = load_learner(tmp_path/'m.pkl')
    twin.remove_cb(Exports)
    twin.dls = learn.dls
    twin.fit(1)
    assert twin.notes.log == ['start', 'epoch', 'start', 'epoch', 'stop']
    assert not {'_call_one', '_with_events'} & vars(twin).keys()


class Soft(Callback):
    "Whether each training batch was soft"
    order = 100
    def __init__(self): self.seen = []
    def after_pred(self):
        if self.training: self.seen.append(self.learn.yb[0].is_floating_point())


@pytest.mark.parametrize('mixers', [[], [MixUp]])
@pytest.mark.parametrize('event', ['after_epoch', 'after_batch', 'after_validate'])
@pytest.mark.parametrize('method', ['validate', 'get_preds'])
def test_predictions_within_the_fit_leave_it_soft(method, event, mixers):
    learn, seen, n = digits(), Soft(), []
    loss, attrs = learn.loss_func, set(vars(learn.dls.train))

    class Peek(Callback):
        order = 90
    def peek(self):
        n.append(0)
        if len(n) == 1: getattr(learn, method)()
    setattr(Peek, event, peek)
    learn.fit(2, cbs=[SoftPseudoLabelCallback(known(learn), which='all'), Peek(), seen, *(o() for o in mixers)])
    assert len(seen.seen) >= 6 and all(seen.seen)
    assert learn.loss_func is loss and set(vars(learn.dls.train)) <= attrs | {'it', '_DataLoader__idxs'}


def test_a_prediction_that_fails_within_the_fit_leaves_it_soft():
    learn, seen = digits(), Soft()

    class Peek(Callback):
        order = 90
        def after_validate(self):
            if hasattr(learn, 'gather_preds'): raise RuntimeError('broken')
        def after_epoch(self):
            if hasattr(learn, 'gather_preds'): return
            with pytest.raises(RuntimeError, match='broken'): learn.get_preds()
    learn.fit(2, cbs=[SoftPseudoLabelCallback(known(learn), which='all'), Peek(), seen])
    assert len(seen.seen) == 10 and all(seen.seen)


def test_train_metrics_of_a_cancelled_batch_get_its_labels():
    learn = digits()
    learn.recorder.train_metrics = True

    class Skip(Callback):
        order = 90
        def after_pred(self):
            if self.training and self.iter == 1: raise CancelBatchException
    learn.fit(1, cbs=[SoftPseudoLabelCallback(known(learn), which='all'), Skip()])
    assert 0 <= learn.recorder.values[-1][1] <= 1


class Noisy(Dataset):
    "Digits with noise of torch's random numbers"
    def __len__(self): return 80
    def __getitem__(self, i): return PIXELS[i] + torch.rand(1)*.1, int(LABELS[i])


def test_random_numbers_are_those_of_a_fit_without():
    def weights(*cbs):
        torch.manual_seed(0)
        learn = tiny_learn(DataLoaders(TorchLoader(Noisy(), 16, shuffle=True), TorchLoader(Noisy(), 16)))
        learn.fit(1, cbs=cbs)
        return torch.cat([p.flatten() for p in learn.model.parameters()])
    sure = ([str(i) for i in range(80)], np.eye(10)[LABELS[:80]])
    assert torch.equal(weights(), weights(SoftPseudoLabelCallback(sure)))


class Predict(Callback):
    order = 200
    def validate(self):
        if not self.learn.lock.locked(): self.learn.validate()

    def peek(self):
        if not self.training or self.learn.lock.locked(): return
        learn = self.learn
        kept = learn.training, learn.dl, learn.iter, learn.n_iter
        learn.get_preds(dl=[self.dls.valid.one_batch()])
        learn.training, learn.dl, learn.iter, learn.n_iter = kept
        learn.model.train()


@pytest.mark.parametrize('make', [TrainingDynamicsCallback, EarlyLearningRegularizationCallback,
                                  lambda: CoTeachingCallback(tiny_model(7))])
@pytest.mark.parametrize('event, how', [('after_epoch', 'validate'), ('after_validate', 'validate'),
                                        ('after_batch', 'peek')])
def test_predictions_within_the_fit_change_nothing_of_it(make, event, how):
    def fitted(*cbs):
        torch.manual_seed(0)
        learn, cb = digits(), make()
        learn.dls.train.rng.seed(0)
        learn.fit(2, cbs=[cb, *cbs])
        assert 'do_item' not in vars(learn.dls.train)
        return learn, cb
    nested = Predict()
    setattr(nested, event, getattr(nested, how))
    (plain, a), (other, b) = fitted(), fitted(nested)
    for k, v in plain.model.state_dict().items(): assert torch.equal(v, other.model.state_dict()[k]), k
    if make is TrainingDynamicsCallback: np.testing.assert_array_equal(a.dynamics.margins, b.dynamics.margins)


class Broken:
    "A data set with an item that cannot be read"
    def __init__(self): self.broken = True
    def __len__(self): return 32

    def __getitem__(self, i):
        if self.broken and i == 9: raise OSError('truncated')
        return PIXELS[i], torch.tensor(i % 10)


@pytest.mark.parametrize('make', [TrainingDynamicsCallback, EarlyLearningRegularizationCallback,
                                  lambda: CoTeachingCallback(tiny_model(7)),
                                  lambda: SoftPseudoLabelCallback((['0'], np.eye(10)[:1]), which='all')])
def test_a_batch_that_cannot_be_loaded_leaves_nothing_on_the_learner(make):
    ds = Broken()
    learn = tiny_learn(DataLoaders(DataLoader(ds, bs=8), DataLoader(ds, bs=8)))
    before = {o: vars(learn.dls.train).get(o) for o in ('do_item', 'do_batch', 'after_batch')}
    with pytest.raises(OSError): learn.fit(1, cbs=make())
    assert {o: vars(learn.dls.train).get(o) for o in before} == before
    assert not {'_call_one', '_with_events'} & vars(learn).keys()
    ds.broken = False
    learn.fit(1)
    learn.fit(1, cbs=make())


def test_soft_targets_of_many_classes_need_no_square():
    mask, targets = soft_targets(np.full((3, 50_000), 1/50_000), [0, 7, 49_999], which='all', mix=0)
    assert targets.argmax(1).tolist() == [0, 7, 49_999] and mask.all()
