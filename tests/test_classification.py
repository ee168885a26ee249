"The issue table against cleanlab called directly, and by property"
import cleanlab
import numpy as np
import pandas as pd
import pytest
import torch
from helpers import case
from hypothesis import given, settings
from hypothesis import strategies as st

from fastai_clean.issues import (
    CLEANLAB,
    SCORES,
    StreamedIssues,
    confident_joint,
    find_issues,
    health_score,
    label_quality,
    noise_matrix,
    noise_rate,
)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), c=st.integers(2, 6), filter_by=st.sampled_from(CLEANLAB),
       score=st.sampled_from(SCORES), dtype=st.sampled_from([np.float32, np.float64]))
def test_table_equals_cleanlab_for_every_filter_and_score(seed, c, filter_by, score, dtype):
    labels, probs = case(seed, c=c, dtype=dtype)
    df = find_issues(labels, probs, filter_by, score).sort_index()
    flagged = cleanlab.filter.find_label_issues(labels, probs, filter_by=filter_by, n_jobs=1)
    quality = cleanlab.rank.get_label_quality_scores(labels, probs, method=score)
    assert np.array_equal(df.is_issue, flagged) and np.array_equal(df.label_quality, quality)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), c=st.integers(2, 6), score=st.sampled_from(SCORES))
def test_table_is_sorted_complete_and_keeps_positions(seed, c, score):
    labels, probs = case(seed, c=c)
    names = [f'class {i}' for i in range(c)]
    ids = [f'item {i}' for i in range(len(labels))]
    df = find_issues(labels, probs, score=score, vocab=names, ids=ids)
    assert df.label_quality.is_monotonic_increasing and sorted(df.index) == list(range(len(labels)))
    assert list(df.columns) == ['id', 'given', 'predicted', 'confidence', 'label_quality',
                                'is_issue']
    assert all(df.id == [f'item {i}' for i in df.index])
    assert all(df.given == [names[labels[i]] for i in df.index])
    assert all(df.predicted == [names[probs[i].argmax()] for i in df.index])
    assert np.array_equal(df.confidence, probs[df.index].max(1))


def test_ties_keep_the_order_of_the_data_set():
    df = find_issues([0, 1]*10, np.full((20, 2), .5))
    assert list(df.index) == list(range(20))


@pytest.mark.parametrize('seed', range(5))
def test_noise_estimates_equal_cleanlab(seed):
    labels, probs = case(seed, 200)
    joint = cleanlab.count.compute_confident_joint(labels, probs)
    assert np.array_equal(confident_joint(labels, probs), joint)
    expected = cleanlab.count.estimate_latent(joint, labels)[1]
    assert np.array_equal(noise_matrix(labels, probs), expected)
    expected = 1 - np.trace(cleanlab.count.estimate_joint(labels, probs))
    assert 1 - health_score(labels, probs) == pytest.approx(expected)


def test_planted_noise_rate_is_estimated():
    rng = np.random.default_rng(0)
    true = rng.integers(0, 3, 3000)
    probs = np.full((3000, 3), .02)
    probs[np.arange(3000), true] = .96
    labels = np.where(rng.random(3000) < .2, (true + 1) % 3, true)
    assert 1 - health_score(labels, probs) == pytest.approx((labels != true).mean(), abs=1e-6)
    assert noise_rate(labels, probs) == pytest.approx((labels != true).mean(), abs=.02)
    found = find_issues(labels, probs).sort_index().is_issue
    assert (found == (labels != true)).mean() > .999


@pytest.mark.parametrize('kind', [list, pd.Series, torch.tensor,
                                  lambda o: np.array(o, dtype=np.int8),
                                  lambda o: np.array(o, dtype=object)])
def test_labels_of_every_type_give_the_same_table(kind):
    labels, probs = case(0)
    expected = find_issues(labels, probs)
    assert find_issues(kind(labels.tolist()), probs).equals(expected)
    assert find_issues(labels, torch.tensor(probs)).equals(expected)


def test_label_names_are_looked_up_in_the_vocab():
    labels, probs = case(0)
    names = list('wxyz')
    expected = find_issues(labels, probs, vocab=names)
    assert find_issues([names[i] for i in labels], probs, vocab=names).equals(expected)


LABELS, PROBS = case(1)


def broken(row, values):
    probs = PROBS.copy()
    probs[row] = values
    return probs


BAD_OPTIONS = [
    ('frac_noise', -.1), ('frac_noise', 2), ('frac_noise', np.nan), ('frac_noise', 'all'),
    ('frac_noise', None), ('min_examples_per_class', -1), ('min_examples_per_class', 1.5),
    ('min_examples_per_class', None), ('num_to_remove_per_class', 3),
    ('num_to_remove_per_class', [1, 2]), ('num_to_remove_per_class', [.5]*4),
    ('num_to_remove_per_class', [-1]*4), ('num_to_remove_per_class', [np.nan]*4),
    ('n_jobs', 0), ('n_jobs', -2), ('n_jobs', 1.5), ('n_jobs', 'all'), ('n_jobs', True)]


@pytest.mark.parametrize('labels, probs, kw, error, match', [
    (LABELS[:-1], PROBS, {}, ValueError,
     r'labels has shape \(59,\), but pred_probs has 60 rows'),
    (LABELS[:, None], PROBS, {}, ValueError, r'labels has shape \(60, 1\)'),
    (LABELS, PROBS[:, 0], {}, ValueError, r'pred_probs has shape \(60,\)'),
    (LABELS[:0], PROBS[:0], {}, ValueError, 'at least 1 item'),
    (LABELS*0, PROBS[:, :1], {}, ValueError, '2 classes'),
    (LABELS, broken(3, np.nan), {}, ValueError,
     'NaN or infinite values in 1 rows, first in row 3'),
    (LABELS, broken(3, np.inf), {}, ValueError, 'first in row 3'),
    (LABELS, broken(5, [2, -1, 0, 0]), {}, ValueError,
     'first row 5 with values from -1 to 2'),
    (LABELS, broken(5, [.2, .2, .2, .2]), {}, ValueError, 'sum 0.8'),
    (LABELS, np.log(PROBS), {}, ValueError, 'not logits'),
    (LABELS, PROBS.astype(str), {}, TypeError, 'numeric'),
    (LABELS + 1, PROBS, {}, ValueError, r'outside the vocab, first 4 .* must be 0..3'),
    (LABELS - 1, PROBS, {}, ValueError, 'outside the vocab, first -1'),
    (LABELS.astype(float), PROBS, {}, TypeError, 'dtype float64'),
    (np.where(LABELS == 2, np.nan, LABELS), PROBS, {}, ValueError, 'missing values'),
    (list('wxyq')*15, PROBS, dict(vocab=list('wxyz')), ValueError,
     "outside the vocab, for example 'q'"),
    (list('wxyz')*15, PROBS, {}, TypeError, 'vocab='),
    (list('wxyz')*15, PROBS, dict(vocab=set('wxyz')), TypeError, 'pass a list of the 4 class names'),
    (LABELS, PROBS, dict(vocab=list('wxy')), ValueError, '4 columns'),
    (LABELS, PROBS, dict(vocab=list('wxyy')), ValueError, '3 different names in 4'),
    (LABELS, PROBS, dict(ids=['a']), ValueError, 'ids has 1 names for 60'),
    (LABELS, PROBS, dict(filter_by='prune'), ValueError,
     "filter_by is 'prune': choose one of auto, prune_by_noise_rate"),
    (LABELS, PROBS, dict(score='loss'), ValueError, "score is 'loss'"),
    ([2**70, *LABELS[1:]], PROBS, {}, ValueError,
     'labels has 1 values outside the vocab, first 1180591620717411303424 at position 0'),
    (LABELS, [[.5, .5], [.1]], {}, ValueError, 'pred_probs is not a table'),
    (LABELS, PROBS, dict(vocab=5), TypeError, 'vocab is 5: pass a list of the 4 class names'),
    (LABELS, PROBS, dict(ids=5), TypeError, 'ids is 5: pass a list of 60 names'),
    (LABELS*0, PROBS, {}, ValueError, 'labels has only 0'),
    *[(LABELS, PROBS, {k: v}, ValueError, f'{k} (is|has)') for k, v in BAD_OPTIONS],
])
def test_bad_input_is_named(labels, probs, kw, error, match):
    with pytest.raises(error, match=match): find_issues(labels, probs, **kw)


@pytest.mark.parametrize('name, value', BAD_OPTIONS)
def test_bad_options_are_named_alike_by_the_table_and_by_the_streamed_object(name, value):
    with pytest.raises(ValueError) as table: find_issues(LABELS, PROBS, **{name: value})
    own = {name: value} if name == 'n_jobs' else {}
    options = {} if own else {name: value}
    with pytest.raises(ValueError) as mask: StreamedIssues(LABELS, PROBS, **own).mask(**options)
    with pytest.raises(ValueError) as by: StreamedIssues(LABELS, PROBS, **own).table(**options)
    assert str(table.value) == str(mask.value) == str(by.value)


def test_more_jobs_than_processors_are_as_many_as_there_are():
    assert find_issues(LABELS, PROBS, n_jobs=10**6).equals(find_issues(LABELS, PROBS))


def test_brain_floats_are_taken():
    probs = torch.tensor(PROBS).bfloat16()
    assert find_issues(LABELS, probs).equals(find_issues(LABELS, probs.float()))


def test_bad_input_is_named_by_every_function():
    for f in (confident_joint, noise_matrix, noise_rate, label_quality):
        with pytest.raises(ValueError, match='NaN'): f(LABELS, broken(3, np.nan))


def test_names_that_are_no_text_for_utf8_are_kept():
    names = ['a', 'b\udcff', '<b>', '']
    labels, probs = case(0)
    df = find_issues(labels, probs, vocab=names, ids=[f'\udcff{i}' for i in range(60)])
    assert df.id.sort_index()[7] == '\udcff7' and set(df.given) == set(names)
