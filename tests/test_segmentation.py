"The table of segmentation issues: against cleanlab called directly, and on planted errors"
import numpy as np
import pandas as pd
import pytest
import torch
from cleanlab.segmentation.filter import find_label_issues as find_pixels
from cleanlab.segmentation.rank import get_label_quality_scores as mask_quality
from helpers import broken
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from fastai_clean.issues import (
    SEGMENTATION_SCORES,
    find_segmentation_issues,
    segmentation_pixel_issues,
)

COLUMNS = ['id', 'given', 'predicted', 'confidence', 'label_quality', 'is_issue']


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
    assert list(df.loc[0, ['id', 'given', 'predicted']]) == ['i0', 'ground', '$c$']
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
    ((MASKS == 1)*255, MASK_PROBS, {}, ValueError, r'outside 0..2, first 255, and otherwise only \[0\]: masks of 0'),
    (MASKS, MASK_PROBS, dict(score='loss'), ValueError, "score is 'loss': choose one of softmin"),
    (MASKS, MASK_PROBS, dict(vocab=['a']), ValueError, 'vocab has 1 different names in 1, but pred_probs has 3'),
    (MASKS, MASK_PROBS, dict(ids=['a']), ValueError, 'ids has 1 names for 3'),
    (MASKS, MASK_PROBS, dict(min_area=5), ValueError, 'min_area is 5'),
])
def test_bad_masks_are_named(labels, probs, kw, error, match):
    with pytest.raises(error, match=match): find_segmentation_issues(labels, probs, **kw)
