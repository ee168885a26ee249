"The filter 'auto' and the noise rate: what is found, and what must not change it"
import numpy as np
import pandas as pd
import pytest
from helpers import case
from hypothesis import given, settings
from hypothesis import strategies as st

from fastai_clean.issues import (
    CLEANLAB,
    FILTERS,
    StreamedIssues,
    channel,
    find_issues,
    find_multilabel_issues,
    noise_rate,
)
from fastai_clean.issues.channel import error_probability, likely_wrong, sample

THREE = [[.9, .1], [.8, .2], [.05, .95], [.1, .9], [.1, .9]]


def noisy(seed, n=1500, c=5, rate=.15, kind='even', sharp=4., dtype=np.float64):
    """Given labels, probabilities of a calibrated model trained on labels of that noise, and which
    labels are wrong"""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, c, n)
    z = rng.normal(size=(n, c)) + sharp*np.eye(c)[true]
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    wrong = rng.random(n) < rate
    step = 1 if kind == 'pair' else rng.integers(1, c, n)
    labels = np.where(wrong, (true + step) % c, true)
    flip = np.roll(p, 1, 1) if kind == 'pair' else (1 - p)/(c - 1)
    return labels, ((1 - rate)*p + rate*flip).astype(dtype), wrong


def f1(flagged, wrong): return 2*(flagged & wrong).sum()/(flagged.sum() + wrong.sum())


def best_cut(labels, probs, wrong):
    at = np.arange(len(labels))
    own = probs[at, labels]
    rest = probs.copy()
    rest[at, labels] = 0
    hits = np.cumsum(wrong[np.argsort(own/rest.max(1))])
    return (2*hits/(np.arange(1, len(labels) + 1) + wrong.sum())).max()


@pytest.mark.parametrize('kind', ['even', 'pair'])
@pytest.mark.parametrize('rate', [.03, .15, .35])
def test_planted_errors_are_counted_and_found_as_the_best_cut_finds_them(rate, kind):
    labels, probs, wrong = noisy(0, 4000, rate=rate, kind=kind)
    streamed = StreamedIssues(labels, probs)
    assert (streamed.channel.matrix is not None) == (kind == 'pair')
    assert f1(streamed.mask(), wrong) > best_cut(labels, probs, wrong) - .05
    assert streamed.noise_rate == pytest.approx(rate, rel=.1 if kind == 'even' else .4)


def test_rates_of_pairs_are_those_of_the_errors():
    labels, probs, _ = noisy(1, 6000, rate=.2, kind='pair')
    matrix = StreamedIssues(labels, probs).channel.matrix
    assert np.allclose(matrix.sum(1), 1)
    assert np.allclose(np.diag(np.roll(matrix, -1, 1)), .2, atol=.06)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), c=st.integers(2, 6), kind=st.sampled_from(['even', 'pair']))
def test_order_of_items_and_classes_changes_nothing(seed, c, kind):
    labels, probs, _ = noisy(seed, 400, c, kind=kind)
    whole = StreamedIssues(labels, probs)
    rng = np.random.default_rng(seed)
    rows, columns = rng.permutation(400), rng.permutation(c)
    other = StreamedIssues(columns.argsort()[labels[rows]], probs[rows][:, columns])
    assert np.allclose(other.error_probability, whole.error_probability[rows], atol=1e-4)
    # But for the rounding of sums in another order
    assert (other.mask() != whole.mask()[rows]).sum() <= 1
    assert other.noise_rate == pytest.approx(whole.noise_rate, rel=1e-4)


def test_duplicated_items_are_flagged_together():
    labels, probs, _ = noisy(2, 300)
    mask = StreamedIssues(np.repeat(labels, 2), np.repeat(probs, 2, 0)).mask()
    assert np.array_equal(mask[::2], mask[1::2]) and mask.any()


@pytest.mark.parametrize('kind', ['even', 'pair'])
def test_float32_and_a_memory_map_give_what_float64_gives(kind, tmp_path):
    labels, probs, _ = noisy(3, kind=kind)
    expected = StreamedIssues(labels, probs)
    single = StreamedIssues(labels, probs.astype(np.float32))
    assert np.allclose(single.error_probability, expected.error_probability, atol=1e-3)
    assert (single.mask() != expected.mask()).sum() <= 1

    np.save(tmp_path/'p.npy', probs)
    mapped = np.load(tmp_path/'p.npy', mmap_mode='r')
    assert np.array_equal(StreamedIssues(labels, mapped, chunk=60, n_jobs=2).mask(), expected.mask())
    assert isinstance(mapped, np.memmap) and noise_rate(labels, mapped) == noise_rate(labels, probs)


def test_temperature_of_the_model_does_not_matter():
    labels, probs, _ = noisy(4)
    expected = StreamedIssues(labels, probs)
    for power in (.5, 2.):
        other = probs**power
        found = StreamedIssues(labels, other/other.sum(1, keepdims=True))
        assert found.noise_rate == pytest.approx(expected.noise_rate, rel=.02)
        assert (found.mask() != expected.mask()).mean() < .01


def test_a_sample_is_fitted_beyond_the_limit_and_all_items_up_to_it(monkeypatch):
    labels, probs, wrong = noisy(5, 4000)
    whole = StreamedIssues(labels, probs)
    for limit in (4000, 5000):
        monkeypatch.setattr(channel, 'ITEMS', limit)
        assert np.array_equal(StreamedIssues(labels, probs).error_probability, whole.error_probability)
    monkeypatch.setattr(channel, 'ITEMS', 800)
    sampled = StreamedIssues(labels, probs)
    assert sampled.noise_rate == pytest.approx(whole.noise_rate, rel=.1)
    assert f1(sampled.mask(), wrong) > f1(whole.mask(), wrong) - .02
    rows = np.random.default_rng(0).permutation(4000)
    shuffled = StreamedIssues(labels[rows], probs[rows])
    assert np.array_equal(shuffled.mask(), sampled.mask()[rows])


def test_the_sample_is_spread_from_the_likeliest_right_to_the_least(monkeypatch):
    given = np.linspace(.01, .99, 1000)
    labels = np.arange(1000) % 2
    every = sample(labels, given, 1 - given, 2)
    assert np.array_equal(np.sort(every), np.arange(1000)) and (np.diff(labels[every]) >= 0).all()
    monkeypatch.setattr(channel, 'VALUES', 200)
    found = np.sort(sample(labels, given, 1 - given, 2))
    assert len(found) == 100 and (np.diff(found) == 10).all()


def test_a_few_items_give_the_one_that_stands_out():
    assert StreamedIssues([0, 0, 0, 1, 1], THREE).mask().tolist() == [False, False, True, False, False]


@pytest.mark.parametrize('labels, probs, flagged', [
    (np.arange(60) % 3, np.eye(3)[np.arange(60) % 3], 0),
    (np.r_[1, np.zeros(59, int)], np.eye(3)[np.zeros(60, int)], 1),
    (np.r_[np.arange(50) % 2, 0], np.eye(4)[np.r_[np.arange(50) % 2, 1]], 1)])
@pytest.mark.filterwarnings('ignore:1 of')
def test_hard_probabilities_are_taken_at_their_word(labels, probs, flagged):
    streamed = StreamedIssues(labels, probs)
    assert streamed.mask(min_examples_per_class=0).sum() == flagged
    assert streamed.noise_rate == pytest.approx(flagged/len(labels), abs=.01)


def test_probabilities_that_know_nothing_flag_nothing():
    assert not StreamedIssues([0, 1]*20, np.full((40, 2), .5)).mask().any()
    labels, probs = case(5, 400, sharp=.3)
    assert not StreamedIssues(labels, probs).mask().any()


def test_labels_of_one_class_have_a_rate():
    probs = np.c_[np.r_[np.full(95, .97), np.full(5, .02)], np.r_[np.full(95, .03), np.full(5, .98)]]
    assert noise_rate(np.zeros(100, int), probs) == pytest.approx(.05, abs=.01)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), c=st.integers(2, 6))
def test_no_item_is_flagged_that_the_model_agrees_with(seed, c):
    labels, probs = case(seed, 80, c=c)
    streamed = StreamedIssues(labels, probs)
    assert not (streamed.mask() & (streamed.predicted == labels)).any()
    assert ((streamed.error_probability >= 0) & (streamed.error_probability <= 1)).all()


def test_as_many_are_flagged_as_promise_the_largest_f1():
    likely = np.array([.9, .8, .45, .3, .05, 0])
    assert likely_wrong(likely, np.zeros(6, bool)).tolist() == [True]*3 + [False]*3
    assert likely_wrong(likely, np.arange(6) < 2).tolist() == [False]*2 + [True]*2 + [False]*2
    assert not likely_wrong(likely/20, np.zeros(6, bool)).any()


def test_the_channel_gives_bayes_rule():
    labels = np.array([0, 1])
    probs = np.array([[.6, .4], [.6, .4]])
    even = channel.Channel(1., .1, None, 1.)
    assert np.allclose(error_probability(even, labels, probs), [.04/.58, .06/.42])
    pairs = even._replace(matrix=np.array([[.8, .2], [0., 1.]]))
    assert np.allclose(error_probability(pairs, labels, probs), [0, .12/.52])


def test_options_mean_for_auto_what_they_mean_for_the_filters_that_prune():
    labels, probs, _ = noisy(6)
    streamed = StreamedIssues(labels, probs)
    whole, half = streamed.mask(), streamed.mask(frac_noise=.5)
    assert half.sum() == round(.5*whole.sum()) and not (half & ~whole).any()
    least = streamed.error_probability[half].min()
    assert (streamed.error_probability[whole & ~half] <= least).all()
    three = streamed.mask(num_to_remove_per_class=[3, 0, 1, 0, 2])
    assert np.bincount(labels[three], minlength=5).tolist() == [3, 0, 1, 0, 2]
    with pytest.warns(UserWarning, match='min_examples_per_class=290: their items are not flagged'):
        spared = streamed.mask(min_examples_per_class=290)
    kept = np.bincount(labels)[labels] > 290
    assert 0 < kept.sum() < 1500 and not spared[~kept].any() and spared[kept].any()


def test_auto_is_the_default_and_the_others_are_cleanlabs():
    labels, probs, _ = noisy(7, 300)
    assert FILTERS == ('auto', *CLEANLAB) and len(CLEANLAB) == 7
    assert find_issues(labels, probs).equals(find_issues(labels, probs, 'auto'))
    assert noise_rate(labels, probs) == StreamedIssues(labels, probs).noise_rate


# Several classes an item

def test_auto_asks_of_every_class_whether_an_item_has_it():
    rng = np.random.default_rng(0)
    true = rng.random((600, 3)) < .4
    flip = rng.random((600, 3)) < .06
    probs = np.clip(.15 + .7*true + .15*rng.normal(size=true.shape), .01, .99)
    labels = (true ^ flip).astype(int)
    df = find_multilabel_issues(labels, probs).sort_index()
    for k in range(3):
        alone = StreamedIssues(labels[:, k], np.c_[1 - probs[:, k], probs[:, k]]).mask()
        assert f1(alone, flip[:, k]) > .85
    assert f1(df.is_issue.to_numpy(), flip.any(1)) > .85
    few = find_multilabel_issues(labels, probs, num_to_remove_per_class=[2, 0, 1])
    assert few.n_classes_flagged.sum() == 3


# Masks

LABELS, PROBS, WRONG = noisy(8, 100)
NAMES = [f'r{i}' for i in range(100)]


@pytest.mark.parametrize('mask, kw', [
    (WRONG, {}), (WRONG.tolist(), {}), (WRONG.astype(object), {}), (pd.Series(WRONG), {}),
    (pd.Series(WRONG, NAMES)[::-1], dict(ids=NAMES)), (pd.Series(WRONG).to_frame(), {}),
    (pd.Series(WRONG, pd.RangeIndex(100, name='position'))[::-1], dict(ids=NAMES)),
    (pd.Series(WRONG, NAMES, dtype='boolean'), dict(ids=NAMES))])
def test_a_mask_is_taken_as_it_is_by_its_index(mask, kw):
    df = find_issues(LABELS, PROBS, mask, **kw).sort_index()
    assert np.array_equal(df.is_issue, WRONG) and df.is_issue.dtype == bool


def test_a_mask_follows_the_index_of_the_labels():
    labels = pd.Series(LABELS, NAMES)
    df = find_issues(labels, PROBS, pd.Series(WRONG, NAMES).sample(frac=1, random_state=0)).sort_index()
    assert np.array_equal(df.is_issue, WRONG)


@pytest.mark.parametrize('mask, match', [
    ({True, False}, r'filter_by has shape \(\) and dtype object for 100 items: pass one boolean per item'),
    (WRONG[1:], r'filter_by has shape \(99,\) and dtype bool for 100 items: pass one boolean per item'),
    (WRONG.astype(int), 'dtype int64 for 100 items'), (['auto']*100, 'dtype <U4'),
    (pd.Series(WRONG, [f's{i}' for i in range(100)]), 'filter_by has an index that does not fit'),
    (5, 'filter_by is 5: choose one of auto'), (None, 'filter_by is None: choose one of auto')])
def test_masks_that_do_not_fit_are_named(mask, match):
    with pytest.raises(ValueError, match=match): find_issues(LABELS, PROBS, mask)


def test_a_mask_needs_no_channel(monkeypatch):
    monkeypatch.setattr(channel, 'fit_channel', None)
    assert find_issues(LABELS, PROBS, WRONG).is_issue.sum() == WRONG.sum()
