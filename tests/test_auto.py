"mode='auto', the default: what it takes, why, what it says before it costs anything, and what ends it in between"
import numpy as np
import pytest
import torch
from fastai.callback.core import Callback
from fastai.callback.progress import ProgressCallback
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.torch_core import set_seed
from helpers import DIGITS, digit_dls, plant, quiet, tiny_learn, tiny_model
from torch import nn

from fastai_clean.all import CleanInterpretation, ConfidentLearningCallback
from fastai_clean.oof.auto import AutoFolds, _span
from fastai_clean.oof.features import FeatureHeads
from fastai_clean.oof.folds import FoldLearners

LABELS, WRONG = plant(DIGITS.target, .1)
LR = {'features': 0., 'folds': 1e-2}


def learner(mode, valid=True):
    """A Learner for which auto takes `mode`: its net stays random if the rate is `LR[mode]`, 0, while heads learn from
    random features; or its features are all the same, but it can train"""
    dls = digit_dls(range(200), range(200, 260 if valid else 200), LABELS)
    learn = tiny_learn(dls, tiny_model(3))
    if mode == 'folds': learn.model[0][1].weight.data.mul_(0)
    return learn


def fitted(takes, n_epoch=4, n_folds=2, valid=True, **kwargs):
    learn = learner(takes, valid)
    cb = ConfidentLearningCallback(n_folds, **kwargs)
    with learn.no_bar(): learn.fit(n_epoch, LR[takes], cbs=cb)
    return learn, cb


@pytest.mark.parametrize('valid', [True, False])
@pytest.mark.parametrize('mode', ['features', 'folds'])
def test_default_takes_what_agrees_more_with_labels_it_has_not_seen(mode, valid):
    learn, cb = fitted(mode, valid=valid)
    config = learn.oof.config
    word = {'features': 'no lower than', 'folds': 'lower than'}[mode]
    where = 'validation set' if valid else 'first fold'
    assert cb.mode == 'auto' and config['mode'] == mode and learn.oof.done.all()
    assert f', {word} the ' in config['mode_reason'] and where in config['mode_reason']
    assert 'the fit took' in config['mode_cost'] and '2 folds' in config['mode_cost']
    same, _ = fitted(mode, valid=valid, mode=mode)
    assert np.array_equal(same.oof.pred_probs, learn.oof.pred_probs)


def test_learner_is_the_same_to_the_last_bit_whatever_is_taken():
    for mode in LR:
        set_seed(0)
        plain = learner(mode)
        with plain.no_bar(): plain.fit(2, LR[mode])
        after = torch.rand(3)
        set_seed(0)
        learn, _ = fitted(mode, 2)
        assert torch.equal(after, torch.rand(3))
        assert all(torch.equal(a, b) for a, b in zip(plain.model.parameters(), learn.model.parameters()))
        assert plain.recorder.values == learn.recorder.values


@pytest.mark.parametrize('mode', LR)
def test_choice_reason_and_cost_are_said_before_the_folds_are_trained(mode, capsys, monkeypatch):
    said = []
    train = FoldLearners.finish
    def finish(*args, **kwargs):
        said.append(capsys.readouterr().out)
        return train(*args, **kwargs)
    monkeypatch.setattr(FoldLearners, 'finish', finish)
    learn = learner(mode)
    learn.add_cb(ProgressCallback())
    learn.fit(4, LR[mode], cbs=ConfidentLearningCallback(2))
    said = said[0] if mode == 'folds' else capsys.readouterr().out
    verb = {'features': 'would take', 'folds': 'take'}[mode]
    assert f"mode='auto' chose {mode}: on the validation set accuracy of heads on features is" in said
    assert 'and the features ' in said and f'2 folds {verb} about' in said
    assert ('TrainingDynamicsCallback (in-sample) no further fit' in said) == (mode == 'folds')


@pytest.mark.parametrize('mode', LR)
def test_fine_tune_is_compared_once_at_its_end(mode, monkeypatch):
    compared, configs = [], []
    compare = AutoFolds._compared
    def noted(self, *args):
        compared.append(len(self.folds.fits))
        return compare(self, *args)
    monkeypatch.setattr(AutoFolds, '_compared', noted)
    learn = learner(mode)
    cb = ConfidentLearningCallback(2)
    follow = AutoFolds.follow
    def followed(self, record=None):
        follow(self, record)
        configs.append(learn.oof.config.copy())
    monkeypatch.setattr(AutoFolds, 'follow', followed)
    with learn.no_bar(): learn.fine_tune(4, LR[mode], cbs=cb)
    first, last = configs
    assert compared == [2] and first['mode'] == 'features' and 'trained the head alone' in first['mode_reason']
    assert last['mode'] == mode
    if mode == 'folds': assert last['n_epoch'] == [1, 4]


def test_validation_set_that_heads_cannot_read_means_folds(monkeypatch):
    def fail(self, dl): raise RuntimeError('mat1 and mat2')
    monkeypatch.setattr(FeatureHeads, 'predict', fail)
    learn, _ = fitted('features', 1)
    assert learn.oof.config['mode'] == 'folds' and learn.oof.done.all()
    assert learn.oof.config['mode_reason'] == 'there are no features, RuntimeError: mat1 and mat2'


def data(x, y): return [(a, b) for a, b in zip(x, y)]


def without_features(kind):
    "A Learner that heads cannot help, and a part of the reason"
    torch.manual_seed(0)
    x = torch.rand(40, 1, 8, 8)
    y = [i % 2 for i in range(40)]
    loss = CrossEntropyLossFlat()
    if kind == 'no linear layer': model = nn.Sequential(nn.Conv2d(1, 2, 8), nn.Flatten())
    elif kind == 'masks':
        y = torch.randint(0, 2, (40, 8, 8))
        model = nn.Conv2d(1, 2, 1)
        loss = CrossEntropyLossFlat(axis=1)
    else: model = Twice()
    dls = DataLoaders(DataLoader(data(x, y), bs=8), DataLoader(data(x, y)[:8], bs=8))
    return quiet(Learner(dls, model, loss_func=loss))


class Twice(nn.Module):
    "Its linear layer runs twice for each batch, as one that several inputs share does"
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 2)

    def forward(self, x): return self.linear(x.flatten(1)) + self.linear(x.flatten(1).flip(1))


@pytest.mark.parametrize('kind, reason', [('no linear layer', 'no linear layer'), ('masks', 'the task is segmentation'),
                                          ('twice', 'not one row of up to')])
def test_learner_without_features_falls_to_folds_and_says_why(kind, reason):
    learn = without_features(kind)
    learn.fit(1, 1e-3, cbs=ConfidentLearningCallback(2))
    assert learn.oof.done.all() and learn.oof.config['mode'] == 'folds'
    assert 'there are no features' in learn.oof.config['mode_reason'] and reason in learn.oof.config['mode_reason']
    assert 'features' not in learn.oof.config['mode_cost']
    learn = without_features(kind)
    learn.oof_preds(lambda o: o.fit(1, 1e-3), 2, mode='auto')
    assert learn.oof.done.all() and reason in learn.oof.config['mode_reason']


@pytest.mark.parametrize('option', [dict(average='epochs'), dict(tta='flip')])
def test_option_about_the_predictions_of_folds_means_folds(option):
    # A net for which auto would take features
    learn = learner('features')
    if 'tta' in option:
        net = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
        images = [(torch.rand(3, 8, 8), i % 2) for i in range(24)]
        dls = DataLoaders(DataLoader(images, bs=8), DataLoader(images, bs=8))
        learn = quiet(Learner(dls, net, loss_func=CrossEntropyLossFlat()))
    name, value = next(iter(option.items()))
    try: learn.fit(1, 0., cbs=ConfidentLearningCallback(2, **option))
    except TypeError as e: assert 'tta' in str(e)
    else:
        assert learn.oof.config['mode'] == 'folds' and learn.oof.config[name] == value
        assert learn.oof.config['mode_reason'] == f'{name}={value!r} says how folds predict'


def test_callback_that_may_run_in_folds_is_named_as_such():
    class Mine(Callback): pass
    with pytest.warns(UserWarning, match='Mine: callbacks .* run in the folds too, if any are trained, unless they'):
        learner('features').fit(1, 0., cbs=[Mine(), ConfidentLearningCallback(2)])


def test_oof_preds_trains_folds_unless_it_is_asked_for_something_else():
    learn = learner('features')
    assert 'mode' not in learn.oof_preds(lambda o: o.fit(1, 0.), 2).config
    with pytest.raises(TypeError, match='fit is None'): learn.oof_preds()


@pytest.mark.parametrize('mode, n_fits', [('features', 1), ('folds', 3)])
def test_oof_preds_with_auto_trains_no_fold_twice(mode, n_fits):
    trained = []
    def fit(learn):
        trained.append(learn)
        learn.fit(4, LR[mode])
    learn = learner(mode)
    oof = learn.oof_preds(fit, 3, mode='auto')
    assert len(trained) == n_fits and oof.config['mode'] == mode and 'first fold' in oof.config['mode_reason']
    assert 'the first fold took' in oof.config['mode_cost'] and '2 more' in oof.config['mode_cost']
    same = learner(mode).oof_preds(lambda o: o.fit(4, LR[mode]), 3, mode=mode)
    assert np.array_equal(oof.pred_probs, same.pred_probs)


@pytest.mark.parametrize('where', [(FeatureHeads, '_held_out'), (FoldLearners, '_job'), (AutoFolds, '_trained')])
def test_interruption_anywhere_is_resumed(where, monkeypatch):
    whole, _ = fitted('folds')
    learn = learner('folds')
    cb = ConfidentLearningCallback(2)
    def stop(*args): raise KeyboardInterrupt
    monkeypatch.setattr(*where, stop)
    with learn.no_bar(), pytest.raises(KeyboardInterrupt): learn.fit(4, LR['folds'], cbs=cb)
    monkeypatch.undo()
    with learn.no_bar(): oof = cb.resume()
    assert np.array_equal(oof.pred_probs, whole.oof.pred_probs) and oof.config['mode'] == 'folds'
    assert oof.config['mode_reason'] == whole.oof.config['mode_reason']


@pytest.mark.slow
def test_two_processes_train_the_folds_that_auto_chose():
    whole, _ = fitted('folds')
    learn, _ = fitted('folds', n_jobs=2)
    assert learn.oof.config['mode'] == 'folds' and np.array_equal(learn.oof.pred_probs, whole.oof.pred_probs)


def test_what_was_taken_is_told_with_the_issues():
    learn, _ = fitted('features')
    how = CleanInterpretation.from_learner(learn).how
    assert how['mode'] == 'features' and how['probabilities'] == 'out-of-fold' and how['mode_reason']


@pytest.mark.parametrize('seconds, said', [(.44, '0.4 s'), (40.2, '40 s'), (600., '10 min'), (9000., '2.5 h')])
def test_seconds_are_said_as_a_person_says_them(seconds, said): assert _span(seconds) == said
