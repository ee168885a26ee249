"clean_fit: the whole loop on planted errors, every strategy, and the Learner it leaves"
import copy

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.mixup import MixUp
from fastai.callback.tracker import SaveModelCallback
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastai.losses import MSELossFlat
from fastai.metrics import accuracy
from fastai.tabular.all import (
    Categorify,
    CategoryBlock,
    Normalize,
    TabDataLoader,
    TabularPandas,
    tabular_learner,
)
from helpers import DIGITS, digit_dls, plant, tiny_learn, tiny_model

from fastai_clean.callbacks import (
    ConfidentLearningCallback,
    CoTeachingCallback,
    SoftPseudoLabelCallback,
)
from fastai_clean.data import labels_of
from fastai_clean.learner import STRATEGIES

N = 500
LABELS, WRONG = plant(DIGITS.target[:N], .3)
GIVEN = np.concatenate([LABELS, DIGITS.target[N:]])


def digits(**kw):
    return tiny_learn(digit_dls(range(N), range(N, N + 400), GIVEN, shuffle=True), tiny_model(), metrics=accuracy, **kw)


@pytest.mark.slow
@pytest.mark.parametrize('strategy', STRATEGIES)
def test_every_strategy_beats_the_wrong_labels_and_leaves_the_data(strategy):
    learn = digits()
    items, ds, loader = list(learn.dls.train_ds.items), learn.dls.train_ds, learn.dls.train
    res = learn.clean_fit(30, strategy, lr_max=1e-2, n_folds=3)
    assert res.comparison.index.tolist() == ['plain', strategy]
    plain, cleaned = res.comparison.accuracy
    assert cleaned > plain > .5
    assert res.learn is not learn and res.learn.model is not learn.model
    assert learn.dls.train is loader and learn.dls.train_ds is ds and list(ds.items) == items
    assert (labels_of(learn.dls.train).targets == LABELS).all() and len(learn.oof) == N
    flagged = res.interp.noisy_idxs()
    assert WRONG[flagged].mean() > .6
    labels = labels_of(res.learn.dls.train).targets
    if strategy == 'drop':
        assert res.comparison['items'].tolist() == [N, N - len(flagged)] == [N, len(labels)]
    elif strategy == 'relabel':
        assert (labels != LABELS).sum() == (res.interp.predicted[flagged] != LABELS[flagged]).sum()
        assert (labels[flagged] == res.interp.predicted[flagged]).all()
    else: assert (labels == LABELS).all()
    assert res.comparison.changed.iloc[1] == {'weight': N}.get(strategy, res.comparison.changed.iloc[1]) > 0
    assert res.learn.get_preds()[0].shape == (400, 10)


def test_the_learner_is_fitted_as_without():
    def weights(fit):
        torch.manual_seed(0)
        learn = digits()
        learn.dls.train.rng.seed(0)
        fit(learn)
        return learn.model.state_dict(), learn.recorder.values
    a, values = weights(lambda o: o.fit_one_cycle(2))
    b, same = weights(lambda o: o.clean_fit(2, 'drop', n_folds=2))
    assert all(torch.equal(a[k], b[k]) for k in a) and values == same


def test_the_copy_starts_untrained_with_its_own_callbacks_and_frozen_layers():
    learn = digits(cbs=MixUp())
    learn.freeze()
    before = copy.deepcopy(learn.model.state_dict())
    learn.clean_fit(1, 'soft', n_folds=2, threshold=0.)
    frozen = [k for k in before if k.startswith('0.1')]
    res = digits(cbs=MixUp())
    res.freeze()
    new = res.clean_fit(1, 'drop', n_folds=2).learn
    assert frozen and all(torch.equal(new.model.state_dict()[k], before[k]) for k in frozen)
    assert [type(o) for o in new.cbs] == [type(o) for o in res.cbs]
    assert not {id(o) for o in new.cbs} & {id(o) for o in res.cbs} and new.mix_up.learn is new


def test_fine_tune_and_its_arguments_are_passed_on():
    res = digits().clean_fit(1, 'drop', method='fine_tune', base_lr=1e-2, n_folds=2)
    assert len(res.learn.recorder.values) == 1 and res.comparison.seconds.gt(0).all()


@pytest.mark.parametrize('strategy', STRATEGIES)
def test_tables_are_cleaned_too(strategy):
    df = pd.DataFrame(DIGITS.data[:300], columns=[f'p{i}' for i in range(64)]).assign(y=[f'd{o}' for o in LABELS[:300]])
    to = TabularPandas(df, [Categorify, Normalize], cont_names=list(df.columns[:64]), y_names='y',
                       y_block=CategoryBlock(), splits=([*range(240)], [*range(240, 300)]))
    learn = tabular_learner(to.dataloaders(bs=32, dl_type=TabDataLoader), layers=[32], metrics=accuracy)
    with learn.no_bar(), learn.no_logging(): res = learn.clean_fit(3, strategy, n_folds=2, lr_max=1e-2, threshold=0.)
    assert (learn.dls.train_ds.items['y'].to_numpy() == labels_of(learn.dls.train).targets).all()
    assert res.comparison['items'].iloc[1] == 240 - (len(res.interp.noisy_idxs()) if strategy == 'drop' else 0)


@pytest.mark.parametrize('kw, match', [(dict(strategy='burn'), "strategy is 'burn'"), (dict(method='dance'), "method")])
def test_unknown_strategies_and_methods_are_refused_before_training(kw, match):
    learn = digits()
    with pytest.raises(ValueError, match=match): learn.clean_fit(1, **kw)
    assert learn.opt is None


def test_a_trained_learner_is_warned_about():
    learn = digits()
    learn.fit(1)
    with pytest.warns(UserWarning, match='was trained before clean_fit'): learn.clean_fit(1, n_folds=2)


def test_a_callback_of_the_learner_itself_is_used():
    learn = digits(cbs=ConfidentLearningCallback(2, mode='folds'))
    res = learn.clean_fit(1)
    assert learn.oof.config['n_folds'] == 2
    assert not any(isinstance(o, ConfidentLearningCallback) for o in res.learn.cbs)


@pytest.mark.parametrize('cb', [lambda: CoTeachingCallback(tiny_model(7)), SaveModelCallback,
                                lambda: SoftPseudoLabelCallback((['0'], np.eye(10)[:1]))])
def test_callbacks_that_cannot_be_in_two_fits_are_refused_before_training(cb):
    learn = digits()
    with pytest.raises(TypeError, match='would be in both fits'): learn.clean_fit(1, cbs=cb())
    assert learn.opt is None


def test_other_labels_than_one_class_are_refused_before_training():
    class Numbers:
        def __len__(self): return 40
        def __getitem__(self, i): return torch.ones(3)*i, torch.tensor(float(i))
    dls = DataLoaders(DataLoader(Numbers(), bs=8), DataLoader(Numbers(), bs=8))
    learn = tiny_learn_of(dls)
    with pytest.raises(TypeError, match='labels are of the task regression'): learn.clean_fit(1)
    assert learn.opt is None


def tiny_learn_of(dls): return Learner(dls, torch.nn.Linear(3, 1), MSELossFlat())


def test_a_learner_without_validation_set_is_fitted():
    learn = tiny_learn(digit_dls(range(60), [], GIVEN), metrics=accuracy)
    res = learn.clean_fit(1, 'weight', n_folds=2)
    assert res.comparison.index.tolist() == ['plain', 'weight']


def test_folds_of_the_call_are_the_only_ones():
    learn = digits()
    res = learn.clean_fit(1, cbs=ConfidentLearningCallback(2, mode='folds'))
    assert learn.oof.config['n_folds'] == 2 and res.learn.oof is None
