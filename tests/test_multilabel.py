"The tables of multi-label issues: against cleanlab called directly, and on planted errors"
import warnings

import cleanlab.multilabel_classification as multilabel
import numpy as np
import pandas as pd
import pytest
import torch
from helpers import broken
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from fastai_clean.issues import CLEANLAB, FILTERS, SCORES, find_class_issues, find_multilabel_issues

COLUMNS = ['id', 'given', 'predicted', 'confidence', 'label_quality', 'is_issue']


def tags(seed, n=80, c=4, rate=.1, dtype=np.float64):
    """Labels (n, c) with a share `rate` flipped, probabilities that follow the true ones, and what
    was flipped"""
    rng = np.random.default_rng(seed)
    true = rng.random((n, c)) < .4
    true[:2] = [[False]*c, [True]*c]
    flip = rng.random((n, c)) < rate
    flip[:2] = False
    probs = np.clip(.6*true + .4*rng.random((n, c)), 0, 1).astype(dtype)
    return (true ^ flip).astype(int), probs, flip


def lists(labels): return [np.flatnonzero(row).tolist() for row in labels]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), c=st.integers(2, 6), filter_by=st.sampled_from(CLEANLAB),
       score=st.sampled_from(SCORES), dtype=st.sampled_from([np.float32, np.float64]))
def test_multilabel_table_equals_cleanlab_for_every_filter_and_score(seed, c, filter_by, score, dtype):
    labels, probs, _ = tags(seed, c=c, dtype=dtype)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        df = find_multilabel_issues(labels, probs, filter_by, score).sort_index()
    per_class = multilabel.filter.find_multilabel_issues_per_class(lists(labels), probs, filter_by=filter_by, n_jobs=1)
    assert np.array_equal(df.label_quality, multilabel.get_label_quality_scores(lists(labels), probs, method=score))
    assert np.array_equal(df.n_classes_flagged, per_class.sum(1)) and np.array_equal(df.is_issue, per_class.any(1))
    if not filter_by.startswith('low_'):
        direct = multilabel.filter.find_label_issues(lists(labels), probs, filter_by=filter_by, n_jobs=1)
        assert np.array_equal(df.is_issue, direct)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), score=st.sampled_from(SCORES))
def test_class_table_equals_cleanlab_per_class(seed, score):
    labels, probs, _ = tags(seed)
    quality = multilabel.rank.get_label_quality_scores_per_class(lists(labels), probs, method=score)
    flagged = multilabel.filter.find_multilabel_issues_per_class(lists(labels), probs, n_jobs=1)
    df = find_class_issues(labels, probs, 'prune_by_noise_rate', score, only_issues=False)
    assert df.label_quality.is_monotonic_increasing and len(df) == labels.size
    assert list(df.columns) == ['id', 'class', 'given', 'probability', 'label_quality', 'is_issue']
    at = df.index.to_numpy(), df['class'].to_numpy()
    assert len(set(zip(*at))) == labels.size
    for column, values in dict(given=labels, probability=probs, label_quality=quality, is_issue=flagged).items():
        assert np.array_equal(df[column], values[at])
    assert find_class_issues(labels, probs, 'prune_by_noise_rate', score).equals(df[df.is_issue])


def test_multilabel_table_is_sorted_complete_and_named():
    labels, probs, _ = tags(0)
    names = ['<b>', '$x$', 'a b', 'ü']
    df = find_multilabel_issues(labels, probs, vocab=names, ids=[f'item {i}' for i in range(80)], threshold=.7)
    assert list(df.columns) == [*COLUMNS, 'worst_class', 'n_classes_flagged']
    assert df.label_quality.is_monotonic_increasing and sorted(df.index) == list(range(80)) and df.is_issue.any()
    assert all(df.id == [f'item {i}' for i in df.index])
    own = np.where(labels, probs, 1 - probs)
    for i, row in df.iterrows():
        worst = own[i].argmin()
        assert row.given == tuple(np.array(names)[labels[i] == 1].tolist())
        assert row.predicted == tuple(np.array(names)[probs[i] >= .7].tolist())
        assert row.worst_class == names[worst] and row.confidence == max(probs[i, worst], 1 - probs[i, worst])


def test_planted_class_errors_are_found():
    labels, probs, flip = tags(0, n=300, c=5, rate=.05)
    df = find_multilabel_issues(labels, probs).sort_index()
    assert average_precision_score(flip.any(1), -df.label_quality) > .9 > 2*flip.any(1).mean()
    long = find_class_issues(labels, probs, only_issues=False)
    assert average_precision_score(flip[long.index, long['class']], -long.label_quality) > .9 > 10*flip.mean()
    found = find_class_issues(labels, probs)
    assert flip[found.index, found['class']].mean() > .9 and len(found) > .5*flip.sum()


@pytest.mark.parametrize('filter_by', FILTERS)
def test_class_given_to_none_or_all_is_never_flagged_and_changes_no_other(filter_by):
    labels, probs, _ = tags(0)
    expected = find_class_issues(labels, probs, filter_by)
    with_more = np.c_[labels, np.zeros(80), np.ones(80)], np.c_[probs, probs[:, 1], probs[:, 0]]
    assert find_class_issues(*with_more, filter_by).equals(expected)


@pytest.mark.parametrize('score', SCORES)
@pytest.mark.parametrize('labels', [np.zeros((6, 3)), np.ones((6, 3)), np.zeros((1, 2)), np.zeros((6, 1))])
def test_labels_all_alike_give_a_table_without_issues(labels, score):
    df = find_multilabel_issues(labels, np.full(labels.shape, .3), score=score)
    assert not df.is_issue.any() and df.label_quality.between(0, 1).all()
    assert list(df.index) == list(range(len(labels)))


def test_one_class_gives_the_quality_of_its_label():
    labels, probs, _ = tags(0, c=1)
    df = find_multilabel_issues(labels, probs).sort_index()
    assert np.array_equal(df.label_quality, np.where(labels, probs, 1 - probs)[:, 0])


@pytest.mark.parametrize('kind', [np.ndarray.tolist, torch.tensor, pd.DataFrame, lambda o: o.astype(bool),
                                  lambda o: o.astype(np.float32)])
def test_multilabel_arrays_of_every_type_give_the_same_table(kind):
    labels, probs, _ = tags(0)
    expected = find_multilabel_issues(labels, probs)
    assert find_multilabel_issues(kind(labels), probs).equals(expected)
    assert find_multilabel_issues(labels, torch.tensor(probs, requires_grad=True)).equals(expected)


@pytest.mark.parametrize('kw', [dict(frac_noise=.3), dict(num_to_remove_per_class=[3, 0, 2, 1]), pytest.param(
    dict(min_examples_per_class=35), marks=pytest.mark.filterwarnings('ignore:May not flag all label issues'))])
def test_options_of_cleanlab_reach_it(kw):
    labels, probs, _ = tags(0)
    expected = multilabel.filter.find_multilabel_issues_per_class(lists(labels), probs, n_jobs=1, **kw)
    got = find_multilabel_issues(labels, probs, 'prune_by_noise_rate', **kw).sort_index().n_classes_flagged
    assert np.array_equal(got, expected.sum(1))
    every = find_multilabel_issues(labels, probs, 'prune_by_noise_rate').sort_index().n_classes_flagged
    assert not np.array_equal(got, every)


TAGS, TAG_PROBS, _ = tags(1)


@pytest.mark.parametrize('f', [find_multilabel_issues, find_class_issues])
@pytest.mark.parametrize('labels, probs, kw, error, match', [
    (TAGS[:-1], TAG_PROBS, {}, ValueError, r'labels has shape \(79, 4\), but pred_probs has \(80, 4\)'),
    (TAGS[:, 0], TAG_PROBS, {}, ValueError, r'labels has shape \(80,\)'),
    (TAGS, TAG_PROBS[:, 0], {}, ValueError, r'pred_probs has shape \(80,\)'),
    (TAGS[:0], TAG_PROBS[:0], {}, ValueError, 'at least 1 item'),
    (broken(TAGS, 7, 2), TAG_PROBS, {}, ValueError, 'values other than 0 and 1, first row 7'),
    (broken(TAGS, 7, np.nan), TAG_PROBS, {}, ValueError, 'labels has NaN or infinite values in 1 rows, first in row 7'),
    (TAGS.astype(str), TAG_PROBS, {}, TypeError, 'labels has dtype <U'),
    (TAGS, broken(TAG_PROBS, (3, 1), np.nan), {}, ValueError, 'pred_probs has NaN .* first in row 3'),
    (TAGS, broken(TAG_PROBS, (5, 1), -2), {}, ValueError, '1 rows outside 0..1, first row 5 with values from -2'),
    (TAGS, TAG_PROBS, dict(vocab=list('wxy')), ValueError, 'pred_probs has 4 classes'),
    (TAGS, TAG_PROBS, dict(vocab=list('wxyy')), ValueError, '3 different names in 4'),
    (TAGS, TAG_PROBS, dict(ids=['a']), ValueError, 'ids has 1 names for 80'),
    (TAGS, TAG_PROBS, dict(filter_by='prune'), ValueError, "filter_by is 'prune': choose one of auto, prune_by_noise_rate"),
    (TAGS, TAG_PROBS, dict(score='loss'), ValueError, "score is 'loss'"),
    (TAGS, TAG_PROBS, dict(num_to_remove_per_class=[1]), ValueError, 'num_to_remove_per_class has 1 numbers for 4'),
    (TAGS, TAG_PROBS, dict(frac=1), TypeError, 'frac'),
])
def test_bad_multilabel_input_is_named(f, labels, probs, kw, error, match):
    with pytest.raises(error, match=match): f(labels, probs, **kw)
