"Tables of multi-label, regression and segmentation issues: against cleanlab called directly, and on planted errors"
import warnings

import cleanlab.multilabel_classification as multilabel
import numpy as np
import pandas as pd
import pytest
import torch
from cleanlab import Datalab
from cleanlab.regression.rank import get_label_quality_scores as regression_quality
from cleanlab.segmentation.filter import find_label_issues as find_pixels
from cleanlab.segmentation.rank import get_label_quality_scores as mask_quality
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from sklearn.metrics import average_precision_score

from fastai_clean.issues.table import FILTERS, SCORES
from fastai_clean.issues.tasks import (
    REGRESSION_SCORES,
    SEGMENTATION_SCORES,
    find_class_issues,
    find_multilabel_issues,
    find_regression_issues,
    find_segmentation_issues,
    segmentation_pixel_issues,
)

COLUMNS = ['item', 'given', 'predicted', 'confidence', 'label_quality', 'is_issue']


def tags(seed, n=80, c=4, rate=.1, dtype=np.float64):
    "Labels (n, c) with a share `rate` flipped, probabilities that follow the true ones, and what was flipped"
    rng = np.random.default_rng(seed)
    true = rng.random((n, c)) < .4
    true[:2] = [[False]*c, [True]*c]
    flip = rng.random((n, c)) < rate
    flip[:2] = False
    return (true ^ flip).astype(int), np.clip(.6*true + .4*rng.random((n, c)), 0, 1).astype(dtype), flip


def lists(labels): return [np.flatnonzero(row).tolist() for row in labels]


# Multi-label

@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), c=st.integers(2, 6), filter_by=st.sampled_from(FILTERS),
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
    df = find_class_issues(labels, probs, score=score, only_issues=False)
    assert df.label_quality.is_monotonic_increasing and len(df) == labels.size
    assert list(df.columns) == ['item', 'class', 'given', 'probability', 'label_quality', 'is_issue']
    at = df.index.to_numpy(), df['class'].to_numpy()
    assert len(set(zip(*at))) == labels.size
    for column, values in dict(given=labels, probability=probs, label_quality=quality, is_issue=flagged).items():
        assert np.array_equal(df[column], values[at])
    assert find_class_issues(labels, probs, score=score).equals(df[df.is_issue])


def test_multilabel_table_is_sorted_complete_and_named():
    labels, probs, _ = tags(0)
    names = ['<b>', '$x$', 'a b', 'ü']
    df = find_multilabel_issues(labels, probs, vocab=names, ids=[f'item {i}' for i in range(80)], threshold=.7)
    assert list(df.columns) == [*COLUMNS, 'worst_class', 'n_classes_flagged']
    assert df.label_quality.is_monotonic_increasing and sorted(df.index) == list(range(80)) and df.is_issue.any()
    assert all(df.item == [f'item {i}' for i in df.index])
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
    got = find_multilabel_issues(labels, probs, **kw).sort_index().n_classes_flagged
    assert np.array_equal(got, expected.sum(1))
    assert not np.array_equal(got, find_multilabel_issues(labels, probs).sort_index().n_classes_flagged)


TAGS, TAG_PROBS, _ = tags(1)


def broken(a, at, value):
    a = np.array(a, dtype=float)
    a[at] = value
    return a


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
    (TAGS, TAG_PROBS, dict(ids=['a']), ValueError, 'items has 1 names for 80'),
    (TAGS, TAG_PROBS, dict(filter_by='prune'), ValueError, "filter_by is 'prune': choose one of prune_by_noise_rate"),
    (TAGS, TAG_PROBS, dict(score='loss'), ValueError, "score is 'loss'"),
    (TAGS, TAG_PROBS, dict(num_to_remove_per_class=[1]), ValueError, 'num_to_remove_per_class has 1 numbers for 4'),
    (TAGS, TAG_PROBS, dict(frac=1), TypeError, 'frac'),
])
def test_bad_multilabel_input_is_named(f, labels, probs, kw, error, match):
    with pytest.raises(error, match=match): f(labels, probs, **kw)


# Regression

def numbers(seed, n=200, k=None, rate=.05):
    "Targets with a share `rate` moved by 2 to 4 standard deviations, predictions of the right ones, what was moved"
    rng = np.random.default_rng(seed)
    true = rng.normal(size=(n, k) if k else n)
    moved = rng.random(true.shape) < rate
    return true + moved*rng.uniform(2, 4, true.shape), true + .2*rng.normal(size=true.shape), moved


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(4, 60))
def test_outre_equals_cleanlab_and_the_issues_are_those_of_datalab(seed, n):
    targets, predictions, _ = numbers(seed, n)
    df = find_regression_issues(targets, predictions, 'outre').sort_index()
    assert np.array_equal(df.label_quality, regression_quality(targets, predictions, method='outre'))
    assert np.array_equal(df.residual, predictions - targets)
    lab = Datalab({'y': targets}, label_name='y', task='regression', verbosity=0)
    lab.find_issues(pred_probs=predictions, issue_types={'label': {}})
    assert np.array_equal(df.is_issue, lab.get_issues('label').is_label_issue)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), unit=st.sampled_from([1e-6, 1., 1000.]), shift=st.sampled_from([0., 5.]))
def test_residual_equals_cleanlab_in_units_of_the_median_residual(seed, unit, shift):
    targets, predictions, _ = numbers(seed)
    size = np.median(abs(predictions - targets))
    df = find_regression_issues(unit*(targets + shift), unit*(predictions + shift)).sort_index()
    expected = regression_quality(targets/size, predictions/size, method='residual')
    assert np.allclose(df.label_quality, expected, rtol=1e-6, atol=1e-12)
    assert np.array_equal(df.is_issue, expected < .05*np.median(expected))


@pytest.mark.parametrize('score', REGRESSION_SCORES)
@pytest.mark.parametrize('k', [None, 3])
def test_planted_number_errors_are_found(score, k):
    targets, predictions, moved = numbers(0, 400, k)
    wrong = moved if k is None else moved.any(1)
    df = find_regression_issues(targets, predictions, score).sort_index()
    assert average_precision_score(wrong, -df.label_quality) > .95 > 3*wrong.mean()
    assert (df.is_issue & wrong).sum() > .5*wrong.sum() and (df.is_issue & ~wrong).sum() <= .03*len(df)


def test_worst_output_is_named_with_its_residual():
    targets, predictions, _ = numbers(0, 50, 3, rate=0)
    predictions *= [1, 100, 1]
    targets = targets*[1, 100, 1]
    targets[7, 1] += 500
    row = find_regression_issues(targets, predictions, names=list('xyz')).iloc[0]
    assert row.name == 7 and row.is_issue and row.worst_output == 'y'
    assert row.residual == predictions[7, 1] - targets[7, 1]
    assert row.given == tuple(targets[7]) and row.predicted == tuple(predictions[7])
    assert find_regression_issues(targets, predictions).worst_output.iloc[0] == 1


def test_several_outputs_combine_by_the_root_mean_square():
    targets, predictions, _ = numbers(3, 50, 2)
    each = [find_regression_issues(targets[:, j], predictions[:, j]).sort_index().label_quality for j in range(2)]
    expected = np.exp(-np.sqrt((np.log(each[0])**2 + np.log(each[1])**2)/2))
    assert np.allclose(find_regression_issues(targets, predictions).sort_index().label_quality, expected)


def test_one_output_with_an_axis_of_its_own_is_the_same_table():
    targets, predictions, _ = numbers(0)
    expected = find_regression_issues(targets, predictions)
    assert list(expected.columns) == ['item', 'given', 'predicted', 'residual', 'label_quality', 'is_issue']
    assert find_regression_issues(targets[:, None], torch.tensor(predictions)[:, None]).equals(expected)


@pytest.mark.parametrize('k', [1, 2])
def test_perfect_or_constant_numbers_have_no_issues(k):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        perfect = find_regression_issues(np.arange(10.*k).reshape(10, k), np.arange(10.*k).reshape(10, k))
        constant = find_regression_issues(np.ones((10, k)), np.full((10, k), 1.1))
        single = find_regression_issues(np.ones((1, k)), np.zeros((1, k)))
    assert (perfect.label_quality == 1).all() and list(perfect.index) == list(range(10))
    assert not perfect.is_issue.any() and not constant.is_issue.any() and not single.is_issue.any()


def test_one_wrong_number_among_perfect_ones_is_first_and_an_issue():
    targets = np.arange(20.)
    wrong = targets.copy()
    wrong[13] = 1e6
    df = find_regression_issues(wrong, targets)
    assert df.index[0] == 13 and list(df.index[df.is_issue]) == [13]


NUMBERS, PREDICTED, _ = numbers(1, 12)


@pytest.mark.parametrize('targets, predictions, kw, error, match', [
    (NUMBERS[:-1], PREDICTED, {}, ValueError, 'targets has 11 items of 1 numbers, but predictions has 12 of 1'),
    (NUMBERS, np.ones((12, 2)), {}, ValueError, 'predictions has 12 of 2'),
    (NUMBERS[:0], PREDICTED[:0], {}, ValueError, r'targets has shape \(0,\)'),
    (np.ones((2, 2, 2)), np.ones((2, 2, 2)), {}, ValueError, r'targets has shape \(2, 2, 2\)'),
    (broken(NUMBERS, 4, np.nan), PREDICTED, {}, ValueError, 'targets has NaN or infinite values in 1 rows, .* row 4'),
    (NUMBERS, broken(PREDICTED, 4, -np.inf), {}, ValueError, 'predictions has NaN .* first in row 4'),
    (NUMBERS.astype(str), PREDICTED, {}, TypeError, 'targets has dtype <U'),
    (NUMBERS, PREDICTED, dict(score='loss'), ValueError, "score is 'loss': choose one of residual, outre"),
    (NUMBERS[:3], PREDICTED[:3], dict(score='outre'), ValueError, "takes 4 to 10,000 items, but there are 3: pass"),
    (np.ones(10_001), np.ones(10_001), dict(score='outre'), ValueError, "10,001: pass score='residual'"),
    (NUMBERS, PREDICTED, dict(threshold=2), ValueError, 'threshold is 2'),
    (NUMBERS, PREDICTED, dict(ids=['a']), ValueError, 'items has 1 names for 12'),
    (NUMBERS, PREDICTED, dict(names=['a', 'b']), ValueError, 'names has 2 names for 1 outputs'),
])
def test_bad_regression_input_is_named(targets, predictions, kw, error, match):
    with pytest.raises(error, match=match): find_regression_issues(targets, predictions, **kw)


# Segmentation

def masks(seed, n=30, h=40, wrong=6, dtype=np.float32):
    """Discs of class 1 and 2 on class 0, with the outline of every mask a little off, and of the first `wrong` images a
    disc missing, of the other class, or moved; smooth probabilities of the true masks"""
    rng = np.random.default_rng(seed)
    yy, xx = np.mgrid[:h, :h]

    def draw(discs):
        mask = np.zeros((h, h), int)
        for k, y, x, r in discs: mask[(yy - y)**2 + (xx - x)**2 < r*r] = k
        return mask
    labels, probs = np.zeros((n, h, h), int), np.zeros((n, 3, h, h), dtype)
    for i in range(n):
        discs = [(k, rng.uniform(12, h - 12), x, rng.uniform(5, 7)) for k, x in ((1, 10), (2, h - 10))]
        smooth = np.stack([gaussian_filter(6.*(draw(discs) == k), 1.2) for k in range(3)])
        smooth = np.exp(smooth + .3*rng.normal(size=smooth.shape))
        probs[i] = smooth/smooth.sum(0)
        k, y, x, r = discs[1]
        if i < wrong: discs[1:] = [[], [(1, y, x, r)], [(k, y + 5, x - 3, r)]][i % 3]
        labels[i] = draw([(k, y, x, r + rng.normal(0, .8)) for k, y, x, r in discs])
    return labels, probs


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), dtype=st.sampled_from([np.float32, np.float64]))
def test_masks_equal_cleanlab(seed, dtype):
    labels, probs = masks(seed, n=8, wrong=2, dtype=dtype)
    pixels = find_pixels(labels, probs, n_jobs=1, verbose=False)
    assert pixels.any() and np.array_equal(segmentation_pixel_issues(labels, probs), pixels)
    soft, count = (find_segmentation_issues(labels, probs, score=s).sort_index() for s in SEGMENTATION_SCORES)
    assert np.array_equal(soft.label_quality, mask_quality(labels, probs, verbose=False)[0])
    expected = mask_quality(labels, probs, method='num_pixel_issues', n_jobs=1, verbose=False)[0]
    assert np.allclose(count.label_quality, expected, atol=1e-12)
    assert np.allclose(count.issue_pixels, pixels.mean((1, 2)), atol=1e-12)


@pytest.mark.parametrize('seed', range(3))
def test_planted_mask_errors_are_found(seed):
    df = find_segmentation_issues(*masks(seed))
    assert list(df.columns) == [*COLUMNS, 'issue_pixels'] and df.label_quality.is_monotonic_increasing
    assert sorted(df.index[:6]) == list(range(6)) == sorted(df.index[df.is_issue])
    assert (df.issue_pixels > 0).sum() > 12


def test_commonest_classes_of_the_flagged_pixels_are_named():
    labels, probs = masks(0)
    df = find_segmentation_issues(labels, probs, vocab=['ground', '<b>', '$c$'], ids=[f'i{i}' for i in range(30)])
    assert list(df.loc[0, ['item', 'given', 'predicted']]) == ['i0', 'ground', '$c$']
    assert list(df.loc[1, ['given', 'predicted']]) == ['<b>', '$c$']
    bad = segmentation_pixel_issues(labels, probs)[1]
    assert df.confidence[1] == pytest.approx(probs[1].max(0)[bad].mean())


def test_image_without_flagged_pixels_has_no_classes_to_name():
    labels, probs = masks(0)
    labels[20], probs[20] = 0, np.array([.98, .01, .01], np.float32)[:, None, None]
    row = find_segmentation_issues(labels, probs, vocab=list('abc')).loc[20]
    assert row.given is None and row.predicted is None and np.isnan(row.confidence) and row.issue_pixels == 0


def test_pixels_without_a_label_count_for_nothing():
    labels, probs = masks(0)
    strip = labels[:, :, :10], probs[:, :, :, :10]
    padded, noise = labels.copy(), probs.copy()
    padded[:, :, 10:] = 255
    noise[:, :, :, 10:] = np.random.default_rng(1).dirichlet([1, 1, 1], (30, 40, 30)).transpose(0, 3, 1, 2)
    pixels = segmentation_pixel_issues(padded, noise)
    assert not pixels[:, :, 10:].any() and pixels.any()
    assert np.array_equal(pixels[:, :, :10], segmentation_pixel_issues(*strip))
    got, expected = find_segmentation_issues(padded, noise), find_segmentation_issues(*strip)
    pd.testing.assert_frame_equal(got.drop(columns='is_issue'), expected.drop(columns='is_issue'))


def test_image_without_any_label_is_right():
    labels, probs = masks(0)
    labels[3] = -1
    row = find_segmentation_issues(labels, probs).loc[3]
    assert row.label_quality == 1 and not row.is_issue and row.issue_pixels == 0


def test_masks_from_disk_and_half_precision_give_the_same_issues(tmp_path):
    labels, probs = masks(0)
    half = probs.astype(np.float16)
    np.save(tmp_path/'half.npy', half)
    expected = find_segmentation_issues(labels, half.astype(np.float32))
    mapped = np.load(tmp_path/'half.npy', mmap_mode='r')
    assert find_segmentation_issues(labels.astype(np.uint8), mapped).equals(expected)
    assert find_segmentation_issues(torch.tensor(labels), torch.tensor(half)).equals(expected)
    assert sorted(expected.index[expected.is_issue]) == list(range(6))


def test_wider_border_and_area_leave_out_more():
    labels, probs = masks(0)
    count = lambda **kw: find_segmentation_issues(labels, probs, **kw).is_issue.sum()
    assert count(border=0, min_area=0) > 15 and count() == 6 and count(border=9) == 0 and count(min_area=.5) == 0


MASKS, MASK_PROBS = masks(1, n=3)


@pytest.mark.parametrize('labels, probs, kw, error, match', [
    (MASKS[:2], MASK_PROBS, {}, ValueError, r'labels has shape \(2, 40, 40\).*pass masks of shape \(3, 40, 40\)'),
    (MASKS, MASK_PROBS[:, 0], {}, ValueError, r'pred_probs has shape \(3, 40, 40\)'),
    (MASKS, MASK_PROBS[:, :1], {}, ValueError, '2 classes'),
    (MASKS[:0], MASK_PROBS[:0], {}, ValueError, 'at least 1 image'),
    (MASKS.astype(float), MASK_PROBS, {}, TypeError, 'labels has dtype float64: pass integers'),
    (MASKS, (MASK_PROBS > .5), {}, TypeError, 'pred_probs has dtype bool'),
    (MASKS, broken(MASK_PROBS, (1, 0, 0, 0), np.nan), {}, ValueError, 'NaN or infinite values, first in image 1'),
    (MASKS, np.log(MASK_PROBS), {}, ValueError, 'image 0, with values from .* not logits'),
    ((MASKS == 1)*255, MASK_PROBS, {}, ValueError, r'outside 0..2, first 255, and beside them only \[0\]: masks of 0'),
    (MASKS, MASK_PROBS, dict(score='loss'), ValueError, "score is 'loss': choose one of softmin"),
    (MASKS, MASK_PROBS, dict(vocab=['a']), ValueError, 'vocab has 1 different names in 1, but pred_probs has 3'),
    (MASKS, MASK_PROBS, dict(ids=['a']), ValueError, 'items has 1 names for 3'),
    (MASKS, MASK_PROBS, dict(min_area=5), ValueError, 'min_area is 5'),
])
def test_bad_masks_are_named(labels, probs, kw, error, match):
    with pytest.raises(error, match=match): find_segmentation_issues(labels, probs, **kw)
