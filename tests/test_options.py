"FoldOptions: declared once, shown by everything that takes them, and checked in one place"
import inspect
import pickle
from dataclasses import fields

import pytest
from fastai.callback.mixup import MixUp
from fastai.learner import Learner
from fastcore.docments import docments
from helpers import digit_dls, tiny_learn

from fastai_clean.all import ConfidentLearningCallback
from fastai_clean.oof import FoldOptions

NAMES = [o.name for o in fields(FoldOptions)]


@pytest.mark.parametrize('takes', [ConfidentLearningCallback, Learner.oof_preds])
def test_every_option_is_shown_with_its_default_and_comment(takes):
    found = inspect.signature(takes).parameters
    declared = inspect.signature(FoldOptions).parameters
    comments = docments(takes)
    assert len(NAMES) == 15 and [o for o in found if o in NAMES] == NAMES
    for name in NAMES:
        default = 'folds' if takes is Learner.oof_preds and name == 'mode' else declared[name].default
        assert found[name].default == default
        assert found[name].annotation == declared[name].annotation
        assert comments[name] and comments[name] == docments(FoldOptions)[name]


def test_help_shows_the_options(capsys):
    for takes, mode in ((ConfidentLearningCallback, 'auto'), (Learner.oof_preds, 'folds')):
        help(takes)
        said = capsys.readouterr().out
        assert all(f'{o}: ' in said for o in NAMES) and f"mode: str = '{mode}'" in said


def test_first_option_by_position_is_the_number_of_folds():
    assert ConfidentLearningCallback(3).n_folds == 3
    learn = tiny_learn(digit_dls(range(40), range(40, 50)))
    assert learn.oof_preds(lambda o: o.fit(1), 2).config['n_folds'] == 2


@pytest.mark.parametrize('takes', [
    ConfidentLearningCallback,
    lambda **kw: tiny_learn(digit_dls(range(40), range(40, 50))).oof_preds(lambda o: o.fit(1), **kw)])
def test_mistyped_option_is_named(takes):
    with pytest.raises(TypeError, match="no option 'n_fold': choose from n_folds, splits"): takes(n_fold=3)


@pytest.mark.parametrize('options, error, match', [
    (dict(seed=-1), ValueError, 'seed is -1'), (dict(seed=1.9), ValueError, 'seed is 1.9'),
    (dict(n_repeats=0), ValueError, 'n_repeats is 0'), (dict(n_jobs=0), ValueError, 'n_jobs is 0'),
    (dict(n_jobs=True), ValueError, 'n_jobs is True'), (dict(tta='both'), ValueError, "tta is 'both'"),
    (dict(average='epoch'), ValueError, "average is 'epoch'"), (dict(mode='feature'), ValueError, "mode is 'feature'"),
    (dict(leave_out=[MixUp()]), TypeError, 'leave_out is'), (dict(cache_key=['a']), TypeError, 'cache_key is'),
    (dict(mode='features', tta='flip'), ValueError, "tta is 'flip', which features do not support"),
    (dict(mode='features', average='epochs'), ValueError, "average is 'epochs', but features have no epochs")])
def test_option_that_means_nothing_is_refused_as_it_is_given(options, error, match):
    for takes in (FoldOptions, ConfidentLearningCallback):
        with pytest.raises(error, match=match): takes(**options)


def test_cache_key_without_a_cache_is_refused():
    with pytest.raises(ValueError, match="cache_key is 'a', but there is no cache"): ConfidentLearningCallback(cache_key='a')


def test_callback_has_the_options_as_attributes_and_keeps_them_in_a_pickle():
    cb = ConfidentLearningCallback(3, seed=5, leave_out=MixUp, cache_key='mine', cache_dir='folds')
    again = pickle.loads(pickle.dumps(cb))
    for o in (cb, again):
        assert (o.n_folds, o.seed, o.leave_out, o.cache_key, o.mode) == (3, 5, (MixUp,), 'mine', 'auto')
