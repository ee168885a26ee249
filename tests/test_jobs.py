"Folds in other processes, repeated folds, averages over epochs: each against the same done one after the other"
import threading
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.core import Callback
from fastai.callback.fp16 import MixedPrecision
from fastai.callback.mixup import MixUp
from fastai.callback.schedule import Learner
from fastai.callback.tracker import EarlyStoppingCallback
from fastai.data.block import DataBlock, MultiCategoryBlock
from fastai.data.core import DataLoaders
from fastai.losses import BCEWithLogitsLossFlat, CrossEntropyLossFlat, MSELossFlat
from fastai.metrics import accuracy
from fastai.tabular.all import Categorify, Normalize, TabularPandas, tabular_learner
from fastai.text.all import AWD_LSTM, TextDataLoaders, text_classifier_learner
from fastai.vision.all import (
    ImageDataLoaders,
    MaskBlock,
    RegressionBlock,
    TransformBlock,
    aug_transforms,
)
from helpers import DIGITS, PIXELS, digit_dls, quiet, tiny_learn, tiny_model
from test_replay import by_hand, gradual, state_after
from torch import nn

from fastai_clean._strength import kappa_between
from fastai_clean.all import ConfidentLearningCallback, TrainingDynamicsCallback
from fastai_clean.oof import workers as parallel
from fastai_clean.oof.fit import FoldLearner
from fastai_clean.oof.workers import dumps, loads

N = 60


def noisy(**kw):
    "A Learner whose training is full of randomness"
    torch.manual_seed(0)
    return tiny_learn(digit_dls(range(N), range(N, 80), shuffle=True), tiny_model(dropout=.3), cbs=MixUp(), **kw)


def probabilities(fits, make=noisy, **kw):
    learn = make()
    learn.add_cb(ConfidentLearningCallback(3, **kw, mode='folds'))
    fits(learn)
    return learn.oof.pred_probs


@pytest.mark.slow
@pytest.mark.parametrize('fits', [lambda o: o.fit(2, 1e-2), lambda o: o.fine_tune(1, 1e-2), gradual],
                         ids=['fit', 'fine_tune', 'gradual'])
def test_folds_in_processes_equal_those_in_this_one(fits):
    here = probabilities(fits)
    assert np.array_equal(probabilities(fits, n_jobs=2), here)
    assert not np.array_equal(probabilities(fits, n_jobs=2, seed=43), here)


def images(folder):
    root, df = folder
    dls = ImageDataLoaders.from_df(df, root, bs=16, num_workers=0, seed=1, batch_tfms=aug_transforms(size=12))
    return quiet(Learner(dls, nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),
                                            nn.Linear(100, 10)), CrossEntropyLossFlat()))


def text(_):
    rng = np.random.default_rng(0)
    df = pd.DataFrame({'label': rng.choice(['good', 'bad'], N)})
    df['text'] = [' '.join(rng.choice([o, 'a', 'b', 'c'], rng.integers(3, 20))) for o in df.label]
    dls = TextDataLoaders.from_df(df, text_col='text', label_col='label', bs=8, num_workers=0, device='cpu', seed=1)
    return quiet(text_classifier_learner(dls, AWD_LSTM, pretrained=False, config=dict(
        emb_sz=8, n_hid=12, n_layers=2, pad_token=1, bidir=False, output_p=.1, hidden_p=.1, input_p=.1, embed_p=.02,
        weight_p=.1)))


def table(_):
    rng = np.random.default_rng(0)
    df = pd.DataFrame({'num': rng.normal(size=N), 'cat': rng.choice(list('xyz'), N)})
    to = TabularPandas(df.assign(y=np.where(df.num > 0, 'yes', 'no')), [Categorify, Normalize], ['cat'], ['num'], 'y',
                       splits=(list(range(48)), list(range(48, N))))
    return quiet(tabular_learner(to.dataloaders(bs=16, device='cpu'), layers=[16]))


class Plain(torch.utils.data.Dataset):
    "An ordinary torch data set"
    def __len__(self): return N
    def __getitem__(self, i): return PIXELS[i], int(DIGITS.target[i])


def loaders(_):
    def dl(**kw): return torch.utils.data.DataLoader(Plain(), 16, **kw)
    return tiny_learn(DataLoaders(dl(shuffle=True), dl()))


def blocks(block, y, model, loss):
    return quiet(Learner(DataBlock((TransformBlock(), block), get_x=lambda i: PIXELS[i], get_y=y,
                                   splitter=lambda o: (list(range(48)), list(range(48, N)))).dataloaders(
                                       list(range(N)), bs=16, num_workers=0, device='cpu'), model, loss))


def flat(c): return nn.Sequential(nn.Flatten(), nn.Linear(64, c))


MAKERS = {
    'image': images, 'text': text, 'tabular': table, 'torch': loaders,
    'multilabel': lambda _: blocks(MultiCategoryBlock(vocab=['odd', 'big']), lambda i: [
        *['odd']*int(DIGITS.target[i] % 2), *['big']*int(DIGITS.target[i] > 4)], flat(2), BCEWithLogitsLossFlat()),
    'regression': lambda _: blocks(RegressionBlock(), lambda i: float(DIGITS.target[i]), flat(1), MSELossFlat()),
    'segmentation': lambda _: blocks(MaskBlock(codes=['dark', 'light']), lambda i: (PIXELS[i][0] > .5).byte().numpy(),
                                     nn.Conv2d(1, 2, 3, padding=1), CrossEntropyLossFlat(axis=1))}


@pytest.mark.slow
@pytest.mark.parametrize('kind', MAKERS)
def test_every_kind_of_data_and_task_in_processes_equals_it_here(kind, digit_folder):
    def oof(n_jobs):
        torch.manual_seed(0)
        return MAKERS[kind](digit_folder).oof_preds(lambda o: o.fit(1, 1e-2), n_folds=2, n_jobs=n_jobs)
    here, there = oof(1), oof(2)
    assert here.done.all() and np.array_equal(here.pred_probs, there.pred_probs)
    assert np.array_equal(here.targets, there.targets) and here.config == there.config


@pytest.mark.parametrize('kind', MAKERS)
def test_every_kind_of_data_and_task_is_averaged_over_the_epochs(kind, digit_folder):
    def oof(**kw):
        torch.manual_seed(0)
        return MAKERS[kind](digit_folder).oof_preds(lambda o: o.fit(2, 1e-2), n_folds=2, **kw)
    last, mean = oof(), oof(average='epochs')
    assert mean.done.all() and not np.array_equal(last.pred_probs, mean.pred_probs)


@pytest.mark.parametrize('kw, match', [
    (dict(n_jobs=0), 'n_jobs is 0'), (dict(n_repeats=0), 'n_repeats is 0'), (dict(n_repeats=1.5), 'n_repeats is 1.5'),
    (dict(n_repeats=None), 'n_repeats is None'), (dict(seed=1.9), 'seed is 1.9'), (dict(seed='a'), "seed is 'a'"),
    (dict(leave_out='MixUp'), "leave_out is 'MixUp'"), (dict(leave_out=[MixUp()]), 'leave_out is'),
    (dict(fit='fit'), "fit is 'fit'"), (dict(mode='feature'), "mode is 'feature'"),
    (dict(average='epoch'), "average is 'epoch'"), (dict(tta='both'), "tta is 'both'"),
    (dict(n_jobs=True), 'n_jobs is True'), (dict(cache_key=['a']), r"cache_key is \['a'\]"),
    (dict(n_fold=3), "no option 'n_fold'")])
def test_bad_arguments_are_named_before_anything_is_trained(kw, match):
    def fit(learn): raise AssertionError('trained')
    learn = tiny_learn(digit_dls(range(N), range(N, 80)))
    with pytest.raises((TypeError, ValueError), match=match): learn.oof_preds(**{'fit': fit, 'n_folds': 2, **kw})


def test_oof_preds_of_a_trained_learner_warns_as_the_callback_does():
    learn = tiny_learn(digit_dls(range(N), range(N, 80)))
    learn.fit(1)
    with pytest.warns(UserWarning, match='was trained before.*not out-of-fold'):
        learn.oof_preds(lambda o: o.fit(1), n_folds=2)


def test_no_more_processes_are_started_than_there_are_folds(monkeypatch):
    import joblib
    asked, parallel = [], joblib.Parallel
    monkeypatch.setattr('fastai_clean.oof.workers.Parallel', lambda n, **kw: asked.append(n) or parallel(n, **kw))
    learn = tiny_learn(digit_dls(range(N), range(N, 80)))
    learn.oof_preds(lambda o: o.fit(1), n_folds=2, n_jobs=np.int64(12))
    assert asked == [2] and learn.oof.done.all()


@pytest.mark.slow
@pytest.mark.parametrize('kw', [dict(n_jobs=2), dict(n_repeats=2), dict(average='epochs')])
def test_learner_does_not_notice_how_its_folds_are_trained(kw, tmp_path):
    with_cb, files = state_after(tmp_path/'with', [ConfidentLearningCallback(2, **kw, mode='folds')])
    without, files_without = state_after(tmp_path/'without', [])
    assert all(torch.equal(a, b) for k in without for a, b in zip(with_cb[k], without[k])) and files == files_without


def test_users_learner_stays_at_home():
    model = nn.Sequential(nn.Sequential(nn.Flatten(), nn.Linear(64, 3000)), nn.Sequential(nn.Linear(3000, 10)))
    learn = tiny_learn(digit_dls(range(N), range(N, 80)), model)
    cb, weights = ConfidentLearningCallback(2, mode='folds'), sum(p.numel()*4 for p in model.parameters())
    learn.fit(1, cbs=cb)
    job = cb.folds._job(0, cb.folds._new_fold(), cb.folds.fits)
    assert len(dumps(job)) < 1.5*weights
    there = loads(dumps(job))
    assert not {'learn', 'model', 'opt', 'loss_func'} & vars(there.fits[0]).keys()


def test_tensors_still_share_memory_and_callbacks_keep_their_state_after_the_journey():
    class Counts(Callback):
        _stateattrs = 'count',
    one, cb = torch.zeros(4), Counts()
    fold = FoldLearner(noisy(), tiny_model(), ())
    fold.twins[0] = cb
    fold.learn.counts = cb
    cb.count = 3
    a, b, fold, f = loads(dumps([one, one[:2], fold, lambda x: x + N]))
    b += 1
    assert a.tolist() == [1, 1, 0, 0] and f(1) == N + 1
    assert fold.twins[0].count == 3 and fold.learn.counts is fold.twins[0]


@pytest.mark.slow
def test_tied_weights_are_tied_in_other_processes_too():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(64, 64), nn.Linear(64, 64)
            # Another Parameter over the same memory, as some language models have it
            self.b.weight.data = self.a.weight.data
            self.head = nn.Linear(64, 10)

        def forward(self, x): return self.head(self.b(self.a(x.flatten(1)).relu()).relu())

    def learner():
        torch.manual_seed(0)
        return quiet(Learner(digit_dls(range(N), range(N, 80)), Tied(), CrossEntropyLossFlat()))
    def fits(learn): learn.fine_tune(1, 1e-2)
    assert np.array_equal(probabilities(fits, learner, n_jobs=2), probabilities(fits, learner))


class Holds(Callback):
    "Holds what cannot be pickled, and the Learner's DataLoaders"
    in_folds = False
    def before_fit(self): self.held = threading.Lock(), self.dls


@pytest.mark.slow
def test_callbacks_that_stay_here_need_not_be_pickled():
    def fits(learn): learn.fit(1, cbs=[Holds(), TrainingDynamicsCallback()])
    assert np.array_equal(probabilities(fits, n_jobs=2), probabilities(fits))


class Fails(Callback):
    "Raises in the fold in which item 0 is held out"
    in_folds = True
    armed = True
    def before_train(self):
        if self.armed and len(self.dls.train_ds) < N and 0 not in self.dls.train_ds.items: raise LookupError('broken')


@pytest.mark.slow
def test_exception_of_a_fold_is_raised_as_it_is_and_finished_folds_are_kept():
    learn = noisy()
    cb, fails = ConfidentLearningCallback(3, splits=np.arange(N)[::-1] % 3, n_jobs=2, mode='folds'), Fails()
    learn.add_cbs([cb, fails])
    with pytest.raises(LookupError, match='broken'): learn.fit(1)
    assert 0 < learn.oof.done.sum() < N and not learn.oof.done[0]
    for _, o in cb.folds.fits[0].parts:
        if isinstance(o, Fails): o.armed = False
    assert cb.resume().done.all()


class Locked:
    "Cannot be sent anywhere"
    def __init__(self): self.lock = __import__('threading').Lock()
    def __call__(self, x): return x.softmax(1)


def test_what_cannot_be_sent_is_said():
    with pytest.raises(TypeError, match="fold [0-2] cannot be sent to another process, TypeError: .*lock.*n_jobs=1"):
        probabilities(lambda o: o.fit(1), act=Locked(), n_jobs=2)


class TerminatedWorkerError(Exception): "What joblib raises has this name"


@pytest.mark.slow
@pytest.mark.parametrize('losses', [2, 9])
def test_lost_folds_are_done_again_a_few_times(losses, monkeypatch):
    real, calls = parallel._ended, []
    def ended(jobs, left, n_jobs):
        calls.append(left)
        if len(calls) > losses: yield from real(jobs, left, n_jobs)
        elif len(calls) == 1: yield from real(jobs, left[:1], n_jobs)
        raise TerminatedWorkerError('killed')
    monkeypatch.setattr(parallel, '_ended', ended)
    if losses < 4:
        assert np.array_equal(probabilities(lambda o: o.fit(1), n_jobs=2), probabilities(lambda o: o.fit(1)))
        assert calls == [[0, 1, 2], [1, 2], [1, 2]]
    else:
        with pytest.raises(RuntimeError, match=r'folds \[1, 2\] were lost 4 times'):
            probabilities(lambda o: o.fit(1), n_jobs=2)


@pytest.mark.slow
def test_warnings_of_other_processes_are_given_here():
    class Warns(Callback):
        def before_validate(self): warnings.warn('look here', stacklevel=1)
    learn = noisy()
    learn.add_cb(ConfidentLearningCallback(3, n_jobs=2, mode='folds'))
    with pytest.warns(UserWarning, match='look here'): learn.fit(1, cbs=Warns())


@pytest.mark.slow
def test_bar_advances_by_fold(capsys):
    learn = Learner(digit_dls(range(40), range(40, 50)), tiny_model(), CrossEntropyLossFlat())
    with learn.no_logging(): learn.fit(1, cbs=ConfidentLearningCallback(2, n_jobs=2, mode='folds'))
    assert 'fold 2 of 2' in capsys.readouterr().out


# repeats and averages

@pytest.mark.slow
@pytest.mark.parametrize('n_jobs', [1, 2])
def test_repeats_are_the_mean_of_runs_with_the_next_seeds(n_jobs):
    def fits(learn): learn.fine_tune(1, 1e-2)
    runs = [probabilities(fits, seed=s) for s in (5, 6, 7)]
    learn = noisy(metrics=accuracy)
    learn.fine_tune(1, 1e-2, cbs=ConfidentLearningCallback(3, seed=5, n_repeats=3, n_jobs=n_jobs, mode='folds'))
    assert np.abs(learn.oof.pred_probs - np.mean(runs, axis=0)).max() < 1e-6
    assert np.abs(runs[0] - runs[1]).max() > 1e-3
    metrics = learn.oof.config['fold_metrics']
    assert [(o['repeat'], o['fold']) for o in metrics] == [(r, k) for r in range(3) for k in range(3)]
    assert learn.oof.config['n_repeats'] == 3
    assert learn.oof.config['kappa_between_repeats'] == kappa_between([o.argmax(1) for o in runs])
    first = noisy()
    first.fit(1, cbs=ConfidentLearningCallback(3, seed=5, mode='folds'))
    assert np.array_equal(learn.oof.fold, first.oof.fold)


@pytest.mark.slow
@pytest.mark.parametrize('n_jobs', [1, 2])
def test_average_over_epochs_equals_predictions_after_each_by_hand(n_jobs):
    learn = tiny_learn(digit_dls(range(120), range(120, 150)))
    oof = learn.oof_preds(lambda o: o.fit(3, 1e-2), n_folds=3, average='epochs', n_jobs=n_jobs)
    hands = [by_hand(lambda o, n=n: [o.fit(1, 1e-2) for _ in range(n)], oof.targets) for n in (1, 2, 3)]
    assert np.abs(oof.pred_probs - np.mean(hands, axis=0)).max() < 1e-6
    assert np.abs(oof.pred_probs - hands[2]).max() > 1e-3 and oof.config['average'] == 'epochs'


@pytest.mark.parametrize('cbs', [lambda: [], lambda: [MixedPrecision('bf16')],
                                 lambda: [EarlyStoppingCallback('valid_loss', min_delta=100, patience=1)]],
                         ids=['plain', 'bf16', 'stopped'])
def test_average_over_epochs_leaves_the_training_of_folds_as_it_is(cbs):
    def weights(average):
        learn, cb = noisy(), ConfidentLearningCallback(3, average=average, mode='folds')
        learn.fine_tune(3, 1e-2, cbs=[cb, *cbs()])
        return [p for o in cb.folds.folds.values() for p in o.learn.model.state_dict().values()], learn.oof.pred_probs
    (with_it, mean), (without, last) = weights('epochs'), weights(None)
    assert all(map(torch.equal, with_it, without)) and not np.array_equal(mean, last)


@pytest.mark.parametrize('kw, match', [
    (dict(n_jobs=0), 'n_jobs is 0'), (dict(n_jobs=1.5), 'n_jobs is 1.5'), (dict(n_repeats=0), 'n_repeats is 0'),
    (dict(n_repeats=1.5), 'n_repeats is 1.5'), (dict(average='folds'), "average is 'folds'")])
def test_options_that_mean_nothing_are_refused(kw, match):
    with pytest.raises(ValueError, match=match): noisy().oof_preds(lambda o: o.fit(1), **kw)
