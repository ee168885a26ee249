"""Confident learning against cleanlab called directly, over random tables of every kind.
PARITY_CASES sets how many, 300 by default"""
import os
import tracemalloc
from types import SimpleNamespace

import cleanlab.filter
import cleanlab.rank
import numpy as np
import pandas as pd
import pytest
from cleanlab.count import (
    calibrate_confident_joint,
    compute_confident_joint,
    estimate_latent,
    get_confident_thresholds,
)
from cleanlab.filter import find_label_issues
from cleanlab.internal.util import round_preserving_row_totals
from cleanlab.rank import get_label_quality_scores
from helpers import case

from fastai_clean.interpret import CleanInterpretation
from fastai_clean.issues import (
    CLEANLAB,
    FILTERS,
    SCORES,
    StreamedIssues,
    class_thresholds,
    confident,
    confident_joint,
    find_issues,
    label_quality,
    noise_matrix,
    prune,
)
from fastai_clean.issues.checks import check_labels_probs

CASES = int(os.environ.get('PARITY_CASES', 300))
PARTS = 10
ENTROPY = SCORES[-1]
KINDS = ('random', 'sharp', 'ties', 'uniform', 'one-hot', 'all right', 'all wrong', 'close',
         'counted')


class StableNumpy:
    "numpy whose `argsort` leaves equal values in their order"
    def __getattr__(self, name): return getattr(np, name)
    def argsort(self, a, **kwargs): return np.argsort(a, kind='stable', **kwargs)


@pytest.fixture
def by_position(monkeypatch):
    "cleanlab breaks ties by position, as we do: its sort of its own breaks them by chance"
    monkeypatch.setattr(cleanlab.filter, 'np', StableNumpy())
    monkeypatch.setattr(cleanlab.rank, 'np', StableNumpy())


def counted(seed):
    """One-hot items by random counts of (given, predicted), and some that fit no class, so that the
    joint is scaled"""
    rng = np.random.default_rng(seed)
    c = 7
    counts = rng.poisson(1, (c, c)) + np.diag(rng.poisson(5, c) + 2)
    given, seen = np.repeat(np.divmod(np.arange(c*c), c), counts.ravel(), axis=1)
    rest = np.repeat(np.arange(c), rng.integers(0, 9, c))
    probs = np.concatenate([np.eye(c)[seen], np.full((len(rest), c), 1/c)])
    return np.concatenate([given, rest]), probs


def draw(seed):
    """A table of a random kind, size, dtype and order in memory, and random options; its arrays as
    they are to be passed"""
    rng = np.random.default_rng(seed)
    kind = KINDS[rng.integers(len(KINDS))]
    c = int(rng.choice([2, 2, 3, 4, 7, 20, 40]))
    n = int(rng.choice([2, 3, 5, 17, 60, 201, 500]))
    given = rng.choice(c, size=rng.integers(2, c + 1), replace=False)
    labels = given[np.concatenate([[0, 1], rng.integers(0, len(given), n - 2)])]
    probs = rng.dirichlet(np.full(c, rng.choice([.1, .5, 3.])), n)
    if kind == 'sharp': probs[np.arange(n), labels] += rng.random(n)
    elif kind == 'ties': probs = (probs*4).round() + .01
    elif kind == 'uniform': probs[:] = 1
    elif kind == 'one-hot': probs = np.eye(c)[rng.integers(0, c, n)]
    elif kind == 'all right': probs = np.eye(c)[labels] + .1*probs
    elif kind == 'all wrong': probs = np.eye(c)[(labels + 1) % c] + .1*probs
    elif kind == 'close': probs = 1 + 3e-6*rng.integers(-1, 2, (n, c)).cumsum(1)
    elif kind == 'counted': labels, probs = counted(seed)
    probs = (probs/probs.sum(1, keepdims=True)).astype(rng.choice([np.float32, np.float64]))
    layouts = probs, np.asfortranarray(probs), np.repeat(probs, 2, 0)[::2], probs[:, ::-1]
    probs = layouts[rng.integers(4)]
    kw = dict(frac_noise=float(rng.choice([1., 1., .5, .13, 0.])),
              min_examples_per_class=int(rng.choice([1, 1, 0, 5])))
    if rng.random() < .25:
        kw['num_to_remove_per_class'] = rng.integers(0, 4, probs.shape[1]).tolist()
    return labels, probs, kw, int(rng.choice([1, 8, 100, 2**18]))


def same(a, b): return a.dtype == b.dtype and np.array_equal(a, b)


def differences(seed):
    "Names of what we and cleanlab disagree about for the table of `seed`"
    labels, probs, kw, chunk = draw(seed)
    threads = 1 + (seed % 4 == 0)
    streamed = StreamedIssues(labels, probs, entropy=seed % 2 == 0, chunk=chunk, n_jobs=threads)
    joint = compute_confident_joint(labels, probs)
    given = np.bincount(labels, minlength=probs.shape[1]) > 0
    thresholds = np.asarray(get_confident_thresholds(labels, probs), float)
    checks = {'joint': same(streamed.joint, joint),
              'noise matrix': same(noise_matrix(labels, joint=joint),
                                   estimate_latent(joint, labels)[1]),
              'thresholds': np.array_equal(streamed.thresholds[given], thresholds[given]),
              'predicted': np.array_equal(streamed.predicted, probs.argmax(1)),
              'confidence': same(streamed.confidence, probs.max(1))}
    for o in SCORES:
        checks[o] = same(streamed.score(o), get_label_quality_scores(labels, probs, method=o))
    for i, o in enumerate(CLEANLAB):
        own = kw if o in CLEANLAB[:3] else {}
        mask = find_label_issues(labels, probs, filter_by=o, n_jobs=1, **own)
        checks[f'mask {o}'] = same(streamed.mask(o, **own), mask)
        if seed % 7 == i:
            by = SCORES[seed % 3]
            ranked = find_label_issues(labels, probs, filter_by=o, n_jobs=1,
                                       return_indices_ranked_by=by, **own)
            df = find_issues(labels, probs, o, by, **own)
            checks[f'ranked {o} by {by}'] = np.array_equal(df.index[df.is_issue], ranked)
    return [f'{seed}: {name}' for name, ok in checks.items() if not ok]


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('part', range(PARTS))
def test_random_tables_give_what_cleanlab_gives_bit_for_bit(part, by_position):
    found = [o for seed in range(part, CASES, PARTS) for o in differences(seed)]
    assert not found, f'{len(found)} differences, for example {found[:5]}'


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('filter_by', ['prune_by_class', *CLEANLAB[5:]])
def test_masks_differ_from_those_of_cleanlab_only_in_items_as_good_as_the_last(filter_by):
    for seed in range(CASES//3):
        labels, probs, kw, _ = draw(seed)
        if filter_by != 'prune_by_class': kw = {}
        mask = find_label_issues(labels, probs, filter_by=filter_by, n_jobs=1, **kw)
        streamed = StreamedIssues(labels, probs)
        ours = streamed.mask(filter_by, **kw)
        name = 'self_confidence' if filter_by == 'prune_by_class' else filter_by[4:]
        score = streamed.score(name)
        classes = labels if kw else np.zeros_like(labels)
        for k in np.unique(classes):
            last = score[(classes == k) & (mask != ours)]
            assert len(np.unique(last)) <= 1, seed
        if not kw: assert mask.sum() == ours.sum(), seed


def test_the_joint_is_added_up_in_the_order_of_cleanlab():
    other = 0
    for labels, probs in map(counted, range(60)):
        joint = compute_confident_joint(labels, probs)
        raw = compute_confident_joint(labels, probs, calibrate=False)
        assert same(StreamedIssues(labels, probs).joint, joint)
        contiguous = calibrate_confident_joint(np.ascontiguousarray(raw), labels)
        other += not np.array_equal(contiguous, joint)
    assert other


@pytest.mark.parametrize('seed', range(20))
def test_rows_are_rounded_as_cleanlab_rounds_them(seed):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 40, (50, rng.integers(2, 40)))/rng.choice([3, 4, 7.3])
    for o in x, np.asfortranarray(x), -x:
        assert same(prune.round_rows(o), round_preserving_row_totals(o))


@pytest.mark.parametrize('n', [20, 21, 22])
def test_entropy_of_column_order_is_added_up_column_by_column(n):
    labels, probs = case(n, n, c=20)
    for p in (probs, np.asfortranarray(probs)):
        expected = get_label_quality_scores(labels, p, method=ENTROPY)
        for entropy in (False, True):
            streamed = StreamedIssues(labels, p, entropy=entropy, chunk=1)
            assert same(streamed.score(ENTROPY), expected)


@pytest.mark.parametrize('filter_by', CLEANLAB[:3])
def test_of_equal_items_the_first_are_flagged(filter_by):
    labels = np.repeat([0, 0, 1], 20)
    probs = np.repeat([[.1, .9], [.95, .05], [.2, .8]], 20, axis=0)
    mask = StreamedIssues(labels, probs).mask(filter_by, frac_noise=.5)
    assert 5 < mask.sum() < 15 and mask[:mask.sum()].all()


def test_of_equal_scores_the_first_are_flagged():
    labels = np.repeat([0, 0, 1], 20)
    probs = np.repeat([[.1, .9], [.95, .05], [.2, .8]], 20, axis=0)
    probs[25], probs[50:] = [.1, .9], [.9, .1]
    streamed = StreamedIssues(labels, probs)
    num = streamed.mask('confident_learning').sum()
    found = np.argsort(streamed.score(), kind='stable')[:num]
    assert set(np.flatnonzero(streamed.mask('low_self_confidence'))) == set(found) and 0 < num < 60


# What is made of it

def in_chunks(f, monkeypatch):
    "What `f` gives in one chunk, and in chunks of ten items of four classes"
    whole = f()
    monkeypatch.setattr(confident, 'CHUNK', 40)
    return whole, f()


@pytest.mark.parametrize('filter_by, score', [
    *zip(CLEANLAB, SCORES*3), ('both', lambda y, p: p[np.arange(300), y]), ('both', np.arange(300)),
    ('both', [ENTROPY, np.arange(300), lambda y, p: p.max(1)])])
def test_the_table_is_the_same_in_chunks(filter_by, score, monkeypatch):
    labels, probs = case(3, 300, sharp=.3)
    names = list('wxyz')
    ids = [f'item {i}' for i in range(300)]
    whole, chunks = in_chunks(
        lambda: find_issues(labels, probs, filter_by, score, vocab=names, ids=ids), monkeypatch)
    assert 10 < whole.is_issue.sum() < 200
    pd.testing.assert_frame_equal(whole, chunks, check_exact=True)


@pytest.mark.parametrize('f', [confident_joint, class_thresholds, noise_matrix, label_quality])
def test_estimates_are_the_same_in_chunks(f, monkeypatch):
    labels, probs = case(4, 300, sharp=.3)
    whole, chunks = in_chunks(lambda: f(np.minimum(labels, 2), probs), monkeypatch)
    assert np.array_equal(whole, chunks, equal_nan=True) and whole.dtype == chunks.dtype


def test_all_filters_and_scores_are_those_of_find_issues_alone():
    labels, probs = case(6, 300, sharp=.3)
    df = StreamedIssues(labels, probs).table(frac_noise=.5)
    assert list(df) == [*FILTERS, *SCORES] and df.index.name == 'position'
    assert df[list(FILTERS)].dtypes.eq(bool).all()
    for o in FILTERS:
        kw = dict(frac_noise=.5) if o in confident.PRUNE else {}
        assert np.array_equal(df[o], find_issues(labels, probs, o, **kw).is_issue.sort_index())
    for o in SCORES: assert np.array_equal(df[o], label_quality(labels, probs, o))


def test_the_table_takes_none_for_all_one_name_and_no_names():
    streamed = StreamedIssues(*case(1))
    every = streamed.table(None, None)
    assert list(every) == [*FILTERS, *SCORES] and len(streamed.table([], [])) == 60
    assert streamed.table('both', 'self_confidence').equals(every[['both', 'self_confidence']])
    assert list(streamed.table('both', ['self_confidence'])) == ['both', 'self_confidence']
    with pytest.raises(ValueError, match='filters is 5: choose one of'): streamed.table(5)


def test_the_probabilities_are_read_once_and_a_second_time_for_pairs_only(monkeypatch):
    labels, probs = case(7, 300)
    read, pairs = [], []
    first = StreamedIssues._read
    second = confident.prune_by_noise_rate
    monkeypatch.setattr(StreamedIssues, '_read',
                        lambda self, part: read.append(part) or first(self, part))
    monkeypatch.setattr(StreamedIssues, '_read_entropy', None)
    monkeypatch.setattr(confident, 'prune_by_noise_rate',
                        lambda *args: pairs.append(1) or second(*args))
    StreamedIssues(labels, probs, entropy=True).table(CLEANLAB)
    assert read == [slice(0, 300)] and len(pairs) == 1


# Checks

@pytest.mark.parametrize('kw', [
    dict(p=lambda p: p[:, 0]), dict(p=lambda p: p[:0], y=lambda y: y[:0]),
    dict(p=lambda p: p.astype(str)), dict(p=lambda p: p*2), dict(p=np.log),
    dict(p=lambda p: np.where(np.arange(60)[:, None] % 20 == 7, np.nan, p)),
    dict(p=lambda p: np.where(np.arange(60)[:, None] == 59, np.inf, p)),
    dict(p=lambda p: p - [.1, 0, -.1, 0]), dict(y=lambda y: y[1:]), dict(y=lambda y: y + 1),
    dict(y=lambda y: y.astype(float)), dict(vocab=list('wxy')), dict(vocab=list('wxyy')),
    dict(y=lambda y: list('wxyq')*15, vocab=list('wxyz')), dict(y=lambda y: y*0),
    dict(filter_by='prune'), dict(score='loss')])
@pytest.mark.filterwarnings('ignore:invalid value:RuntimeWarning')
def test_bad_input_gets_the_same_sentence_in_chunks(kw, monkeypatch):
    labels, probs = case(8)
    labels = kw.pop('y', lambda o: o)(labels)
    probs = kw.pop('p', lambda o: o)(probs)
    with pytest.raises((TypeError, ValueError)) as whole: find_issues(labels, probs, **kw)
    monkeypatch.setattr(confident, 'CHUNK', 28)
    with pytest.raises(whole.type) as chunks: find_issues(labels, probs, **kw)
    assert str(chunks.value) == str(whole.value)
    if not {'filter_by', 'score'} & kw.keys() and not np.array_equal(labels, case(8)[0]*0):
        with pytest.raises(whole.type) as checked: check_labels_probs(labels, probs, **kw)
        assert str(checked.value) == str(whole.value)


@pytest.mark.parametrize('change', [
    lambda p: p + [1e-3, -1e-3, 2e-3, 0], lambda p: p.astype(np.float16),
    lambda p: np.eye(4, dtype=int)[p.argmax(1)],
    lambda p: np.where(p == p.max(1, keepdims=True), 1 + 5e-4, -5e-7)])
def test_rows_that_hardly_sum_to_one_and_other_numbers_are_read_as_check_labels_probs_reads_them(
        change, by_position):
    labels, probs = case(9, 300, dtype=np.float64)
    if change(probs).min() < -1e-6: probs = .99*probs + .0025
    labels, checked = check_labels_probs(labels, change(probs))
    streamed = StreamedIssues(labels, change(probs), chunk=40)
    assert same(streamed.checked(), checked)
    assert same(streamed.joint, compute_confident_joint(labels, checked))
    for o in CLEANLAB:
        mask = find_label_issues(labels, checked, filter_by=o, n_jobs=1)
        assert np.array_equal(streamed.mask(o), mask)
    for o in SCORES:
        assert same(streamed.score(o), get_label_quality_scores(labels, checked, method=o))


@pytest.mark.parametrize('n_jobs', [1, 2])
@pytest.mark.parametrize('block', [1, 7, 400, 10**6])
def test_blocks_and_threads_change_nothing(block, n_jobs, monkeypatch):
    monkeypatch.setattr(prune, 'BLOCK', block)
    labels, probs = case(10, 400, c=30, sharp=.3)
    streamed = StreamedIssues(labels, probs, n_jobs=n_jobs, chunk=100)
    expected = find_label_issues(labels, probs, n_jobs=1)
    assert expected.sum() > 20 and np.array_equal(streamed.mask('prune_by_noise_rate'), expected)
    ranked = find_label_issues(labels, probs, n_jobs=1, return_indices_ranked_by='self_confidence')
    df = find_issues(labels, probs, 'prune_by_noise_rate', n_jobs=n_jobs)
    assert np.array_equal(df.index[df.is_issue], ranked)


def test_options_that_do_not_fit_are_named():
    labels, probs = case(11)
    streamed = StreamedIssues(labels, probs)
    with pytest.raises(ValueError, match='num_to_remove_per_class has shape'):
        streamed.mask(num_to_remove_per_class=[1, 2])
    with pytest.raises(ValueError, match="filter_by is 'predicted_neq_given': leave it out"):
        streamed.mask('predicted_neq_given', num_to_remove_per_class=[1]*4)
    with pytest.warns(UserWarning, match='frac_noise is 0.5'):
        streamed.mask('low_self_confidence', frac_noise=.5)
    with pytest.warns(UserWarning, match='min_examples_per_class=50: their items are not flagged'):
        assert not streamed.mask(min_examples_per_class=50).any()


# Memory

def interpretation(labels, probs):
    learn = SimpleNamespace(path=None, loss_func=None)
    dl = SimpleNamespace(dataset=list(enumerate(labels)))
    interp = CleanInterpretation(learn, dl, None, None, probs, labels)
    interp.health()
    interp.confusion_matrix()
    interp.top_pairs()
    interp.noise_rate  # noqa: B018


def every_filter_and_score(labels, probs): StreamedIssues(labels, probs).table()


@pytest.mark.parametrize('f', [find_issues, every_filter_and_score, check_labels_probs,
                               interpretation])
def test_a_memory_map_is_never_copied_whole(f, tmp_path, monkeypatch):
    monkeypatch.setattr(confident, 'CHUNK', 2**16)  # So that a chunk is little beside the array
    labels, probs = case(12, 20_000, c=250)
    np.save(tmp_path/'probs.npy', probs)
    probs = np.load(tmp_path/'probs.npy', mmap_mode='r')
    tracemalloc.start()
    try:
        f(labels, probs)
        peak = tracemalloc.get_traced_memory()[1]
    finally: tracemalloc.stop()
    assert peak < .5*probs.nbytes
