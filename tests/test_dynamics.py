"Training dynamics: formulas against loops, the record of every kind of fit, planted errors found"
import copy

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.core import Callback, CancelEpochException, CancelFitException
from fastai.callback.fp16 import MixedPrecision
from fastai.callback.mixup import CutMix, MixUp
from fastai.callback.tracker import EarlyStoppingCallback
from fastai.data.core import DataLoaders, Datasets
from fastai.learner import Learner, load_learner
from fastai.losses import LabelSmoothingCrossEntropyFlat
from fastai.metrics import accuracy
from fastai.tabular.all import Categorify, Normalize, TabularPandas, tabular_learner
from fastai.text.all import AWD_LSTM, TextDataLoaders, text_classifier_learner
from fastai.torch_core import set_seed
from helpers import DIGITS, PIXELS, auprc, digit_dls, plant, quiet, tiny_learn, tiny_model, weights
from scipy.special import expit, softmax
from scipy.stats import rankdata
from torch import nn

from fastai_clean.all import CleanInterpretation, ConfidentLearningCallback, OutOfFold
from fastai_clean.callbacks.dynamics import TrainingDynamicsCallback
from fastai_clean.dynamics import DYNAMICS_SCORES, Dynamics, forgetting_events, margin

# formulas

def random_dynamics(n=30, epochs=7, c=4, seed=0, **kwargs):
    rng = np.random.default_rng(seed)
    margins, probs = rng.normal(size=(epochs, n)), rng.random((epochs, n))
    gone = rng.random((epochs, n)) < .2
    margins[gone] = probs[gone] = np.nan
    return Dynamics(probs, margins, rng.dirichlet(np.ones(c), n), rng.integers(0, c, n), **kwargs)


@pytest.mark.parametrize('name', ['targets', 'pred_probs', 'ids', 'margins'])
def test_pandas_without_a_common_index_is_refused(name):
    dyn = random_dynamics()
    args = dict(probs=dyn.probs, margins=dyn.margins, pred_probs=dyn.pred_probs, targets=dyn.targets, ids=dyn.ids)
    args[name] = pd.DataFrame(args[name]) if np.ndim(args[name]) > 1 else pd.Series(args[name])
    with pytest.raises(TypeError, match=f'^{name} is a (Series|DataFrame), whose index would be ignored'): Dynamics(**args)


def test_id_that_is_there_twice_is_refused():
    with pytest.raises(ValueError, match='ids has 1 ids twice'): random_dynamics(ids=[*range(29), 7])


def test_margins_follow_their_formula():
    rng = np.random.default_rng(0)
    outputs, labels = rng.normal(size=(50, 5)), rng.integers(0, 5, 50)
    want = [o[y] - max(v for k, v in enumerate(o) if k != y) for o, y in zip(outputs, labels)]
    assert np.allclose(margin(outputs, labels), want)
    assert np.array_equal(margin(outputs, labels) > 0, outputs.argmax(1) == labels)


def test_statistics_follow_loops_over_the_epochs_that_met_the_item():
    dyn = random_dynamics()
    for i in range(len(dyn)):
        m, p = ([v for v in o[:, i] if not np.isnan(v)] for o in (dyn.margins, dyn.probs))
        events, before = 0, False
        for v in m:
            if before and v <= 0: events += 1
            before = v > 0
        if not any(v > 0 for v in m): events = len(m)
        assert dyn.forgetting[i] == events
        assert np.isclose(dyn.aum[i], np.mean(m)) and np.isclose(dyn.confidence[i], np.mean(p))
        assert np.isclose(dyn.variability[i], np.std(p))
        assert np.isclose(dyn.score('aum')[i], expit(np.mean(m)))
        assert np.isclose(dyn.score('forgetting')[i], 1 - events/len(m))
        assert np.isclose(dyn.score('data_map')[i], min(1, np.mean(p) + np.std(p)))


@pytest.mark.parametrize(('margins', 'events'), [
    ([1, 1, 1], 0), ([1, -1, 1, -1], 2), ([-1, -1, -1], 3), ([-1, 1, 1], 0), ([1, np.nan, -1], 1),
    ([-1, np.nan, -1], 2), ([np.nan, np.nan, np.nan], 0), ([1, -1, -1], 1)])
def test_forgetting_events_are_counted(margins, events):
    assert forgetting_events(np.array(margins)[:, None]).tolist() == [events]


def test_scores_lie_between_0_and_1_and_sink_with_the_label():
    dyn = random_dynamics()
    worse = copy.copy(dyn)
    dyn.margins[:, 3] = 1
    worse.margins, worse.probs = dyn.margins.copy(), dyn.probs.copy()
    worse.margins[:, 3] -= 50
    worse.probs[:, 3] *= .01
    for name in DYNAMICS_SCORES:
        assert dyn.score(name).min() >= 0 and dyn.score(name).max() <= 1
        assert worse.score(name)[3] < dyn.score(name)[3]
    assert worse.score('ensemble').argmin() == 3


def test_items_never_met_get_the_median_and_no_row():
    dyn = random_dynamics()
    dyn.margins[:, [4, 9]] = dyn.probs[:, [4, 9]] = dyn.pred_probs[[4, 9]] = np.nan
    assert np.flatnonzero(~dyn.done).tolist() == [4, 9] and np.isnan(dyn.aum[[4, 9]]).all()
    for name in ('aum', 'mean_prob', 'forgetting', 'data_map'):
        values = dyn.score(name)
        assert values[4] == values[9] == np.median(np.delete(values, [4, 9]))
    table = dyn.table()
    assert sorted(table.index) == [i for i in range(30) if i not in (4, 9)]
    assert list(table.id) == [str(i) for i in table.index]
    assert np.array_equal(table.label_quality, dyn.score('aum')[table.index])
    assert np.array_equal(table.given, dyn.targets[table.index]) and table.label_quality.is_monotonic_increasing


def test_ensemble_is_the_mean_rank_with_out_of_fold_self_confidence():
    dyn, rng = random_dynamics(), np.random.default_rng(1)
    oof = OutOfFold(rng.dirichlet(np.ones(4), 30), dyn.targets)
    own = oof.pred_probs[np.arange(30), oof.targets]
    assert np.allclose(dyn.score('ensemble', oof), (rankdata(dyn.aum) + rankdata(own))/60)
    assert np.allclose(dyn.score('ensemble'), (rankdata(dyn.aum) + rankdata(dyn.confidence))/60)
    assert np.allclose(dyn.score(['aum', own]), dyn.score('ensemble', oof))
    assert np.array_equal(dyn.table('ensemble', oof=oof).label_quality, np.sort(dyn.score('ensemble', oof)))
    oof.ids = oof.ids[::-1]
    with pytest.raises(ValueError, match='not the 30 of the training dynamics'): dyn.score('ensemble', oof)


def test_threshold_is_the_99th_percentile_of_the_samples_and_flags_what_lies_below():
    samples = np.arange(30) % 3 == 0
    dyn = random_dynamics(samples=samples)
    want = np.percentile([np.nanmean(dyn.margins[:, i]) for i in np.flatnonzero(samples)], 99)
    assert np.isclose(dyn.threshold, want)
    table = dyn.table()
    assert not samples[table.index].any() and len(table) == 20
    assert np.array_equal(table.is_issue, dyn.aum[table.index] < want) and 0 < table.is_issue.sum() < 20
    assert random_dynamics().threshold is None


def test_bad_arguments_are_named():
    dyn = random_dynamics()
    with pytest.raises(ValueError, match="score is 'margin': choose one of aum"): dyn.score('margin')
    with pytest.raises(ValueError, match='score gives 3 scores for 30 items'): dyn.score(np.ones(3))
    with pytest.raises(ValueError, match=r'margins has shape \(6, 30\)'):
        Dynamics(dyn.probs, dyn.margins[1:], dyn.pred_probs, dyn.targets)
    with pytest.raises(ValueError, match='ids has shape'):
        Dynamics(dyn.probs, dyn.margins, dyn.pred_probs, dyn.targets, ids=['a'])


def test_saved_dynamics_come_back_the_same(tmp_path):
    dyn = random_dynamics(vocab=list('abcd'), ids=[f'<b>{i}' for i in range(30)], config={'n_epoch': [7]},
                          samples=np.arange(30) == 3)
    again = Dynamics.load(dyn.save(tmp_path/'dyn'))
    for name in ('probs', 'margins', 'pred_probs', 'targets', 'samples'):
        assert np.array_equal(getattr(again, name), getattr(dyn, name), equal_nan=name in ('probs', 'margins'))
    assert (again.ids, again.vocab, again.config) == (dyn.ids, dyn.vocab, dyn.config)
    pd.testing.assert_frame_equal(again.table(), dyn.table())
    assert {o.suffix for o in (tmp_path/'dyn').iterdir()} == {'.npy', '.json'}
    with pytest.raises(FileExistsError, match='holds Dynamics already'): dyn.save(tmp_path/'dyn')
    dyn.save(tmp_path/'dyn', overwrite=True)
    assert [o.name for o in tmp_path.iterdir()] == ['dyn']
    (tmp_path/'dyn'/'mine.txt').write_text('x')
    with pytest.raises(FileExistsError, match='holds other files'): dyn.save(tmp_path/'dyn', overwrite=True)
    with pytest.raises(FileNotFoundError, match='dynamics.json'): Dynamics.load(tmp_path)


# fits

class Seen(Callback):
    "Notes what the model said of each item; the first pixel is the item's number"
    order, run_valid = 5, False
    def before_fit(self): self.log = []
    def before_train(self): self.log.append({})
    def after_loss(self):
        for x, pred in zip(self.x, self.learn.pred.detach()):
            self.log[-1].setdefault(round(float(x[0, 0, 0])), []).append(pred.numpy())


class Numbered:
    "Item number -> its pixels, the first of them the number"
    def __call__(self, i):
        x = PIXELS[i].clone()
        x[0, 0, 0] = i
        return x


class FirstPixelOff(nn.Module):
    "A classifier that does not look at the item's number"
    def __init__(self, c=10):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(63, 24), nn.ReLU(), nn.Linear(24, c))
    def forward(self, x): return self.net(x.flatten(1)[:, 1:])


N = 60


def numbered_sets(n=N, labels=DIGITS.target):
    return Datasets(list(range(n + 20)), [[Numbered()], [lambda i: int(labels[i])]],
                    splits=[range(n), range(n, n + 20)])


def numbered_dls(**kw): return numbered_sets().dataloaders(**{'bs': 16, 'num_workers': 0, 'device': 'cpu', **kw})


def numbered_learn(dls, c=10, **kw):
    torch.manual_seed(0)
    return quiet(Learner(dls, FirstPixelOff(c), nn.CrossEntropyLoss(), lr=.01, **kw))


def check_record(dyn, log, n=N, c=10):
    "The record is what the model said, item by item, epoch by epoch, in a loop"
    labels, means = DIGITS.target[:n], np.zeros((n, c))
    assert dyn.margins.shape == dyn.probs.shape == (len(log), n)
    for e, epoch in enumerate(log):
        for i in range(n):
            if i not in epoch:
                assert np.isnan(dyn.margins[e, i]) and np.isnan(dyn.probs[e, i])
                continue
            probs = np.mean([softmax(o) for o in epoch[i]], 0)
            want = np.mean([o[labels[i]] - np.delete(o, labels[i]).max() for o in epoch[i]])
            assert np.isclose(dyn.probs[e, i], probs[labels[i]], atol=1e-5)
            assert np.isclose(dyn.margins[e, i], want, atol=1e-4)
            means[i] += probs
    met = np.array([sum(i in epoch for epoch in log) for i in range(n)])
    assert np.array_equal(met > 0, dyn.done)
    assert np.allclose(dyn.pred_probs[met > 0], means[met > 0]/met[met > 0, None], atol=1e-5)
    assert np.isnan(dyn.pred_probs[met == 0]).all()


LOADERS = {
    'shuffled': lambda: numbered_dls(),
    'ordered': lambda: numbered_dls(shuffle=False, drop_last=False),
    'weighted': lambda: numbered_sets().weighted_dataloaders(np.linspace(0, 1, N), bs=16, num_workers=0, device='cpu'),
    'partial': lambda: numbered_sets().partial_dataloaders(32, bs=16, num_workers=0, device='cpu'),
    'workers': lambda: numbered_dls(num_workers=2),
    'torch': lambda: DataLoaders(*(torch.utils.data.DataLoader([numbered_sets()[i] for i in o], 16, shuffle=True,
                                                               drop_last=True) for o in (range(N), range(20)))),
}


@pytest.mark.parametrize('kind', LOADERS)
def test_every_record_is_what_the_model_said_of_that_item(kind):
    learn, seen = numbered_learn(LOADERS[kind]()), Seen()
    learn.fit(3, cbs=[TrainingDynamicsCallback(), seen])
    check_record(learn.dynamics, seen.log)
    assert np.isnan(learn.dynamics.margins).any() == (kind != 'ordered')
    assert learn.dynamics.ids == [str(i) for i in range(N)] and learn.dynamics.vocab == list(range(10))


def test_items_met_twice_and_skipped_items_are_recorded_as_such():
    class Twice:
        def __init__(self, dl): self.idxs = dl.get_idxs
        def __call__(self): return [3, 3, *[i for i in range(N) if i not in (5, 50)], 3]
    dls = numbered_dls(shuffle=False)
    dls.train.get_idxs, dls.train.drop_last = Twice(dls.train), False
    learn, seen = numbered_learn(dls), Seen()
    learn.fit(2, cbs=[TrainingDynamicsCallback(), seen])
    assert len(seen.log[0][3]) == 4 and 5 not in seen.log[0]
    check_record(learn.dynamics, seen.log)
    assert np.flatnonzero(~learn.dynamics.done).tolist() == [5, 50]


def test_fit_is_bit_identical_with_and_without_the_callback():
    ends = []
    for cbs in ([], [TrainingDynamicsCallback()]):
        set_seed(3)
        learn = tiny_learn(digit_dls(range(100), range(100, 120), shuffle=True), tiny_model(dropout=.3),
                           metrics=accuracy)
        learn.fine_tune(3, cbs=cbs)
        ends.append((weights(learn.model), learn.recorder.values, torch.rand(3), np.random.rand(3),
                     learn.recorder.losses))
    for a, b in zip(*ends): assert np.array_equal(np.asarray(a, dtype=float), np.asarray(b, dtype=float))


def test_fits_in_a_row_are_joined_and_what_is_no_fit_is_ignored():
    learn, cb, seen = numbered_learn(numbered_dls()), TrainingDynamicsCallback(), Seen()
    log = []
    class Keep(Callback):
        def after_fit(self):
            if len(seen.log): log.extend(seen.log)
            seen.log = []
    learn.fit(2, cbs=[cb, seen, Keep()])
    first = learn.dynamics
    learn.validate(cbs=cb)
    learn.get_preds(0, cbs=cb)
    with learn.added_cbs(cb): learn.lr_find(num_it=5, show_plot=False)
    assert learn.dynamics is first is cb.dynamics and len(first.probs) == 2
    learn.fine_tune(2, cbs=[cb, seen, Keep()])
    assert len(learn.dynamics.probs) == 5 and learn.dynamics.config['n_epoch'] == [2, 1, 2]
    check_record(learn.dynamics, log)
    assert np.array_equal(learn.dynamics.probs[:2], first.probs, equal_nan=True)


def test_second_callback_starts_anew_and_second_learner_too():
    learn, cb = numbered_learn(numbered_dls()), TrainingDynamicsCallback()
    learn.fit(2, cbs=cb)
    learn.fit(1, cbs=TrainingDynamicsCallback())
    assert len(learn.dynamics.probs) == 1 and len(cb.dynamics.probs) == 2
    other = numbered_learn(numbered_dls())
    other.fit(1, cbs=cb)
    assert len(other.dynamics.probs) == 1 and other.dynamics is cb.dynamics


class Stop(Callback):
    def __init__(self, when, error): self.when, self.error = when, error
    def after_batch(self):
        if self.learn.training and (self.learn.epoch, self.learn.iter) == self.when: raise self.error


@pytest.mark.parametrize('error', [CancelFitException, CancelEpochException])
def test_cancelled_fit_keeps_what_was_recorded_and_leaves_the_loader(error):
    learn, seen = numbered_learn(numbered_dls()), Seen()
    learn.fit(1)
    before = dict(vars(learn.dls.train))
    learn.fit(2, cbs=[TrainingDynamicsCallback(), seen, Stop((1, 0), error)])
    check_record(learn.dynamics, seen.log)
    assert np.isfinite(learn.dynamics.margins).sum(1).tolist() == [48, 16]
    after = vars(learn.dls.train)
    assert set(after) - {'it'} == set(before) - {'it'} and after['after_batch'] is before['after_batch']


def test_early_stopping_ends_the_record():
    learn = numbered_learn(numbered_dls())
    learn.fit(9, lr=0., cbs=[TrainingDynamicsCallback(), EarlyStoppingCallback(patience=2)])
    assert len(learn.dynamics.probs) == 3


@pytest.mark.parametrize('error', [RuntimeError, KeyboardInterrupt])
def test_fit_after_an_error_goes_on_with_the_record(error):
    learn, cb = numbered_learn(numbered_dls()), TrainingDynamicsCallback()
    learn.fit(0, cbs=cb)
    assert learn.dynamics is None
    with pytest.raises(error, match='power'): learn.fit(2, cbs=[cb, Stop((1, 0), error('power'))])
    assert len(learn.dynamics.probs) == 2 and 'do_item' not in vars(learn.dls.train)
    seen = Seen()
    learn.fit(1, cbs=[cb, seen])
    dyn = learn.dynamics
    assert np.isfinite(dyn.margins).sum(1).tolist() == [48, 16, 48] and dyn.config['n_epoch'] == [2, 1]
    check_record(Dynamics(dyn.probs[2:], dyn.margins[2:], _only(seen.log), dyn.targets), seen.log)


def _only(log):
    probs = np.full((N, 10), np.nan)
    for i, rows in log[0].items(): probs[i] = np.mean([softmax(o) for o in rows], 0)
    return probs


def test_other_training_labels_are_refused():
    learn, cb = numbered_learn(numbered_dls()), TrainingDynamicsCallback()
    learn.fit(1, cbs=cb)
    learn.dls = numbered_sets(N, (DIGITS.target + 1) % 10).dataloaders(bs=16, num_workers=0, device='cpu')
    with pytest.raises(ValueError, match='other training items or labels'): learn.fit(1, cbs=cb)


def test_labels_that_are_numbers_are_refused():
    ds = Datasets(list(range(60)), [[Numbered()], [lambda i: float(i)]], splits=[range(40), range(40, 60)])
    learn = quiet(Learner(ds.dataloaders(bs=16, num_workers=0, device='cpu'), FirstPixelOff(1), nn.MSELoss()))
    with pytest.raises(TypeError, match='regression'): learn.fit(1, cbs=TrainingDynamicsCallback())


def test_outputs_of_another_number_of_classes_are_refused():
    learn = quiet(Learner(digit_dls(range(40), range(40, 50)), FirstPixelOff(12), nn.CrossEntropyLoss()))
    with pytest.raises(ValueError, match='the model has 12 outputs, but the vocab has 10 classes'):
        learn.fit(1, cbs=TrainingDynamicsCallback())


def test_outputs_of_a_part_of_the_batch_are_refused():
    class Cut(Callback):
        def after_pred(self): self.learn.pred, self.learn.yb = self.pred[:4], (self.y[:4],)
    learn = tiny_learn(digit_dls(range(40), range(40, 50)))
    with pytest.raises(ValueError, match='the batch has 16 items, but the outputs have 4'):
        learn.fit(1, cbs=[TrainingDynamicsCallback(), Cut()])


def test_export_and_load_carry_no_record(tmp_path):
    learn = tiny_learn(digit_dls(range(100), range(100, 120)), cbs=TrainingDynamicsCallback())
    learn.path = tmp_path
    learn.fit(1)
    learn.export('a.pkl')
    size = (tmp_path/'a.pkl').stat().st_size
    learn.fit(40)
    assert len(learn.dynamics.probs) == 41
    learn.export('b.pkl')
    assert (tmp_path/'b.pkl').stat().st_size < size + 2000
    again = load_learner(tmp_path/'b.pkl')
    assert again.training_dynamics.dynamics is None and again.dynamics is None
    learn.dynamics = None
    with pytest.raises(TypeError, match='dynamics is a list'): learn.dynamics = []


# planted errors

def wide(c=10): return nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, c))


def planted(epochs, cbs, lr=2e-2, c=10, seed=0, n=600, loss=None):
    torch.manual_seed(seed)
    labels, wrong = plant(DIGITS.target[:n], .2, seed)
    labels = np.concatenate([labels, DIGITS.target[n:]])
    learn = tiny_learn(digit_dls(range(n), range(n, n + 100), labels, bs=32, shuffle=True), None, loss)
    learn.model, learn.splitter = wide(c), lambda m: [list(m.parameters())]
    learn.fit_one_cycle(epochs, lr, cbs=cbs)
    return learn, wrong


@pytest.fixture(scope='module')
def memorised():
    torch.manual_seed(0)
    return planted(40, TrainingDynamicsCallback())


@pytest.mark.slow
def test_planted_errors_are_found_where_the_model_knows_them_by_heart(memorised):
    learn, wrong = memorised
    dyn = learn.dynamics
    assert (dyn.margins[-1][wrong & np.isfinite(dyn.margins[-1])] > 0).mean() > .7
    last = auprc(wrong, np.nan_to_num(dyn.probs[-1], nan=.5))
    assert last < .75
    for name in ('aum', 'mean_prob', 'ensemble'): assert auprc(wrong, dyn.score(name)) > .95
    assert auprc(wrong, dyn.score('data_map')) > .8 and auprc(wrong, dyn.score('forgetting')) > .4
    table = dyn.table()
    assert list(table.columns) == ['id', 'given', 'predicted', 'confidence', 'label_quality', 'is_issue']
    assert wrong[table.index[:90]].mean() > .95 and wrong[table.index[table.is_issue]].mean() > .9
    assert table.id.tolist() == [str(i) for i in table.index]


def test_untrained_model_does_not_find_them():
    learn, wrong = planted(3, TrainingDynamicsCallback(), lr=0.)
    assert auprc(wrong, learn.dynamics.score('aum')) < .3


@pytest.mark.slow
def test_ensemble_with_out_of_fold_is_no_worse_than_out_of_fold():
    learn, wrong = planted(12, [TrainingDynamicsCallback(), ConfidentLearningCallback(3, mode='folds')])
    dyn, oof = learn.dynamics, learn.oof
    assert dyn.ids == oof.ids and np.array_equal(dyn.targets, oof.targets)
    own = oof.pred_probs[np.arange(len(oof)), oof.targets]
    assert auprc(wrong, dyn.score('ensemble', oof)) >= auprc(wrong, own) - .005
    interp = CleanInterpretation.from_learner(learn, score=dyn.score('ensemble', oof))
    assert np.array_equal(interp.issues.label_quality.sort_index(), dyn.score('ensemble', oof))
    assert np.array_equal(interp.find_issues(score=[dyn.score('aum'), 'self_confidence']).label_quality.sort_index(),
                          (rankdata(dyn.score('aum')) + rankdata(own))/(2*len(own)))


def test_score_ranks_the_training_set_of_a_learner_without_out_of_fold(memorised):
    learn, wrong = memorised
    with pytest.warns(UserWarning, match='in-sample'):
        interp = CleanInterpretation.from_learner(learn, ds_idx=0, score=learn.dynamics.score('aum'))
    assert wrong[interp.issues.index[:90]].mean() > .95
    assert interp.ids == learn.dynamics.ids


@pytest.mark.slow
def test_mean_probabilities_find_more_issues_than_those_of_the_last_epoch():
    learn, wrong = planted(25, TrainingDynamicsCallback(), 1e-2)
    dyn = learn.dynamics
    with pytest.warns(UserWarning, match='in-sample'): last = CleanInterpretation.from_learner(learn, ds_idx=0)
    found = dyn.table('mean_prob')
    assert (wrong[found.index] & found.is_issue).sum() > 1.5*wrong[last.noisy_idxs()].sum() + 10


def test_threshold_samples_flag_what_is_wrong_and_leave_metrics_alone():
    class Labels(Callback):
        order, run_valid = 200, False
        def before_fit(self): self.trained, self.after = [], []
        def before_batch(self): self.trained.append(self.y.clone())
        def after_loss(self): self.after.append(self.y.clone())
    look = Labels()
    learn, wrong = planted(15, [TrainingDynamicsCallback(threshold_samples=True), look], 1e-2, c=11)
    dyn = learn.dynamics
    assert dyn.samples.sum() == round(600/11) and dyn.pred_probs.shape == (600, 10)
    assert np.allclose(dyn.pred_probs[dyn.done].sum(1), 1, atol=1e-5) and not dyn.done[dyn.samples].any()
    trained, after = torch.cat(look.trained), torch.cat(look.after)
    assert after.max() == 9 and trained.max() == 10 and abs(int((trained == 10).sum()) - 15*55) < 90
    table = dyn.table()
    flagged = table.index[table.is_issue]
    assert wrong[flagged].mean() > .7 and wrong[flagged].sum() > .7*wrong[table.index].sum()
    assert auprc(wrong[table.index], table.label_quality.to_numpy()) > .95


def test_threshold_samples_without_an_extra_output_or_with_mixup_are_refused():
    with pytest.raises(ValueError, match='needs a model of 11 outputs.*but it has 10: pass n_out=11'):
        planted(1, TrainingDynamicsCallback(threshold_samples=True))
    with pytest.raises(ValueError, match='cannot be used with MixUp'):
        planted(1, [TrainingDynamicsCallback(threshold_samples=True), MixUp()], c=11)


# other callbacks, losses and kinds of data

@pytest.mark.parametrize('mix', [MixUp, CutMix])
def test_mixed_inputs_are_recorded_where_most_of_the_item_is_left(mix):
    cb = mix()
    class Shares(Callback):
        order, run_valid = 5, False
        def before_fit(self): self.n = 0
        def after_loss(self): self.n += int((cb.lam >= .75).expand(len(self.x)).sum())
    shares = Shares()
    learn, wrong = planted(20, [TrainingDynamicsCallback(), cb, shares], 1e-2, n=300)
    dyn = learn.dynamics
    assert 0 < np.isfinite(dyn.margins).sum() == shares.n < .96*dyn.margins.size
    assert auprc(wrong, dyn.score('aum')) > .9


@pytest.mark.parametrize('loss', [LabelSmoothingCrossEntropyFlat(), nn.CrossEntropyLoss(), nn.functional.cross_entropy],
                         ids=['smoothing', 'module', 'function'])
def test_losses_of_any_make_give_probabilities(loss):
    learn, wrong = planted(5, TrainingDynamicsCallback(), loss=loss)
    probs = learn.dynamics.pred_probs[learn.dynamics.done]
    assert np.allclose(probs.sum(1), 1, atol=1e-4) and auprc(wrong, learn.dynamics.score('aum')) > .9


def test_mixed_precision_gives_float32_records():
    learn, _ = planted(4, [TrainingDynamicsCallback(), MixedPrecision('bf16')])
    assert learn.dynamics.done.all() and learn.dynamics.margins.dtype == np.float32


def test_outputs_that_diverged_leave_no_record():
    class Diverge(Callback):
        order = 5
        def after_pred(self):
            if self.training and self.epoch == 1: self.learn.pred = self.pred*np.nan
    learn = tiny_learn(digit_dls(range(40), range(40, 50)), cbs=[TrainingDynamicsCallback(), Diverge()])
    learn.fit(2)
    assert len(learn.dynamics.probs) == 1 and learn.dynamics.done.all()


def test_text_errors_are_found():
    rng = np.random.default_rng(0)
    words = {'good': 'fine lovely great nice warm bright'.split(), 'bad': 'poor awful grim cold sad broken'.split()}
    true = rng.choice(['good', 'bad'], 200)
    text = [' '.join(rng.choice(words[o], rng.integers(3, 9))) for o in true]
    wrong = rng.random(200) < .15
    df = pd.DataFrame({'text': text, 'label': np.where(wrong, np.where(true == 'good', 'bad', 'good'), true)})
    dls = TextDataLoaders.from_df(df, text_col='text', label_col='label', bs=8, num_workers=0, device='cpu')
    learn = quiet(text_classifier_learner(dls, AWD_LSTM, pretrained=False, config=dict(
        emb_sz=16, n_hid=24, n_layers=2, pad_token=1, bidir=False, output_p=.1, hidden_p=.1, input_p=.1, embed_p=.02,
        weight_p=.1)))
    learn.fit_one_cycle(6, 2e-2, cbs=TrainingDynamicsCallback())
    dyn, at = learn.dynamics, learn.dls.train_ds.items.index
    assert dyn.vocab == ['bad', 'good'] and dyn.ids == [str(o) for o in at]
    assert auprc(wrong[at], dyn.score('aum')) > .8


def test_table_errors_are_found_by_row_name():
    rng = np.random.default_rng(0)
    df = pd.DataFrame({'num': rng.normal(size=400), 'cat': rng.choice(list('xyz'), 400)},
                      index=[f'row{i}' for i in range(400)])
    true, wrong = df.num + (df.cat == 'x') > 0, rng.random(400) < .15
    df['y'] = np.where(true ^ wrong, 'yes', 'no')
    to = TabularPandas(df, [Categorify, Normalize], ['cat'], ['num'], 'y',
                       splits=(list(range(320)), list(range(320, 400))))
    learn = quiet(tabular_learner(to.dataloaders(bs=16, device='cpu'), layers=[32]))
    learn.fit_one_cycle(5, 1e-2, cbs=TrainingDynamicsCallback())
    dyn = learn.dynamics
    assert dyn.ids == [f'row{i}' for i in range(320)] and np.isnan(dyn.margins).any()
    assert auprc(wrong[:320], dyn.score('aum')) > .75
    assert set(dyn.table().id) <= set(dyn.ids) and len(dyn.table()) == dyn.done.sum()
