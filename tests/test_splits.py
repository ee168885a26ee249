"Which fold holds out which item: by property, and beside scikit-learn"
import numpy as np
import pytest
import torch
from fastcore.foundation import L
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import (
    GroupKFold,
    KFold,
    RepeatedKFold,
    ShuffleSplit,
    StratifiedKFold,
    TimeSeriesSplit,
)

from fastai_clean.data import fold_numbers


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=6, max_size=80), st.integers(2, 6), st.integers(0, 99))
def test_folds_share_items_and_every_class_evenly(targets, n_folds, seed):
    fold = fold_numbers(targets, n_folds, seed=seed)
    assert np.ptp(np.bincount(fold, minlength=n_folds)) <= 1
    for c in set(targets):
        assert np.ptp(np.bincount(fold[np.array(targets) == c], minlength=n_folds)) <= 1
    assert np.array_equal(fold, fold_numbers(targets, n_folds, seed=seed))


def test_folds_depend_on_the_seed_and_touch_no_global_state():
    targets, state = np.arange(40) % 4, np.random.get_state()[1].copy()
    assert not np.array_equal(fold_numbers(targets, 4, seed=0), fold_numbers(targets, 4, seed=1))
    assert np.array_equal(np.random.get_state()[1], state)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=40, max_size=60), st.integers(0, 99))
def test_groups_stay_in_one_fold(groups, seed):
    if len(set(groups)) <= 3: return
    fold = fold_numbers(np.arange(len(groups)) % 3, 3, splits=[f'g{o}' for o in groups], seed=seed)
    assert all(len(set(fold[np.array(groups) == g])) == 1 for g in groups)


def test_fold_numbers_are_taken_as_they_are():
    splits = np.arange(30) % 3
    assert np.array_equal(fold_numbers(np.zeros(30), 3, splits), splits)


@pytest.mark.parametrize('splitter', [KFold(3), StratifiedKFold(3), GroupKFold(3)])
def test_scikit_learn_splitters_are_followed(splitter):
    targets = np.arange(30) % 5
    if isinstance(splitter, GroupKFold):
        with pytest.raises(ValueError): fold_numbers(targets, splits=splitter)
        return
    fold = fold_numbers(targets, splits=splitter)
    for k, (_, test) in enumerate(splitter.split(targets, targets)): assert all(fold[test] == k)


@pytest.mark.parametrize('splitter', [ShuffleSplit(3), RepeatedKFold(n_splits=3, n_repeats=2),
                                      TimeSeriesSplit(3)])
def test_splitters_that_do_not_hold_out_each_item_once_are_refused(splitter):
    with pytest.raises(ValueError, match=type(splitter).__name__):
        fold_numbers(np.arange(30) % 5, splits=splitter)


@pytest.mark.parametrize('n_folds, splits, match', [
    (3, np.arange(9), 'there are 10 training items'), (5, np.arange(10) % 2, 'pass n_folds=2'),
    (2, [0, 1, None]*3 + [1], 'missing values'), (11, None, 'only 10'), (1, None, 'at least 2')])
def test_impossible_splits_are_refused(n_folds, splits, match):
    with pytest.raises(ValueError, match=match): fold_numbers(np.arange(10) % 2, n_folds, splits)


def test_tensors_and_lists_of_fold_numbers_are_fold_numbers():
    y, k = np.arange(20) % 4, np.arange(20) % 5
    for splits in (torch.arange(20) % 5, L(k.tolist()), k.tolist()):
        assert np.array_equal(fold_numbers(y, 5, splits), k)
    for splits in ('stratified', KFold):
        with pytest.raises(TypeError, match='KFold\\(5\\)'): fold_numbers(y, 5, splits)


@pytest.mark.parametrize('targets', [np.random.default_rng(0).normal(size=32),
                                     np.repeat(np.arange(16), 2)])
def test_groups_work_where_no_class_has_an_item_a_fold(targets):
    groups = np.arange(32)//2
    folds = fold_numbers(targets, 5, groups)
    assert set(folds) == set(range(5)) and all(len(set(folds[groups == g])) == 1 for g in groups)
