"Masks and predicted pixel probabilities in, the issue table of the images and the wrong pixels out"
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from cleanlab.experimental.label_issues_batched import LabelInspector
from cleanlab.segmentation.rank import get_label_quality_scores
from scipy.ndimage import binary_opening

from .._columns import objects
from .checks import as_array, check_vocab
from .columns import (
    Score,
    any_score,
    as_is,
    check_choice,
    id_column,
    names_of,
    warn_of_twins,
    worst_first,
)

SEGMENTATION_SCORES = 'softmin', 'num_pixel_issues'


def find_segmentation_issues(
    labels: Any,  # Given masks (n, h, w), integers; those outside 0..c-1 (say 255) have no label
    pred_probs: Any,  # Probabilities (n, c, h, w), out-of-fold if trained on these masks
    *,
    score: Score = 'softmin',  # Ranks items: one of `SEGMENTATION_SCORES`, or see `label_quality`
    ids: Sequence | None = None,  # Stable names of the images (n,); None: their positions
    vocab: Sequence | None = None,  # Names of the c classes; None: their indices
    min_area: float = .005,  # An issue if more than this share of its labelled pixels is flagged
    border: int | None = None,  # Flagged strips up to twice as wide do not count; None: see below
) -> pd.DataFrame:  # n rows; columns of `find_issues`, and issue_pixels
    """The issue table of masks: every image, the likeliest wrong one first, indexed by its
    position.

    `issue_pixels` is the share of the labelled pixels that `segmentation_pixel_issues` flags,
    `given` and `predicted` the most common classes there and `confidence` their mean
    probability of the class predicted there; None and NaN for an image without any. `label_quality`
    is cleanlab's, 0 to 1: Lad and Mueller, "Estimating label quality and errors in semantic
    segmentation data via any model", 2023. `pred_probs` may be a memory map.

    The rule of `is_issue` is this package's own: pixels along outlines are often flagged even in
    correct masks, so a flagged region counts only if a cross of `border` pixels fits into it (a
    binary opening), by default 1/64 of the shorter side. On generated shapes with objects missing,
    added, moved or of a wrong class it had F1 .96 to 1.0 at sizes of 48 to 192 pixels, "any pixel
    flagged" .37 to .50.

    Raises ValueError or TypeError for arguments that do not fit."""
    labels, pred_probs, labelled = _check_masks(labels, pred_probs, vocab)
    n, c, h, w = pred_probs.shape
    border = _check_area(min_area, border, min(h, w))
    column = id_column(ids, n)

    flagged = _pixel_issues(labels, pred_probs, labelled)
    total = np.maximum(labelled.sum((1, 2)), 1)
    share = flagged.sum((1, 2))/total
    softmin = np.ones(n)
    confidence = np.full(n, np.nan)
    given, predicted = np.full((2, n), c)
    for i, y, p in _pixels(labels, pred_probs, labelled):
        bad = flagged[i][labelled[i]]
        quality, _ = get_label_quality_scores(y[None, None], p.T[None, :, None], verbose=False)
        softmin[i] = quality[0]
        if bad.any():
            given[i] = np.bincount(y[bad]).argmax()
            predicted[i] = np.bincount(p[bad].argmax(1)).argmax()
            confidence[i] = p[bad].max(1).mean()

    def named(name):
        check_choice('score', name, SEGMENTATION_SCORES)
        return softmin if name == 'softmin' else 1 - share

    wide = flagged.sum((1, 2))
    if border: wide = np.array([binary_opening(m, iterations=border).sum() for m in flagged])
    warn_of_twins(vocab)
    names = objects([*names_of(c, vocab).tolist(), None])  # None is for images without any
    return worst_first(pd.DataFrame({
        'id': as_is(column), 'given': as_is(names[given]), 'predicted': as_is(names[predicted]),
        'confidence': confidence, 'label_quality': any_score(score, named, labels, pred_probs),
        'is_issue': wide/total > min_area, 'issue_pixels': share}))


def segmentation_pixel_issues(
    labels: Any,  # Given masks (n, h, w), integers; those outside 0..c-1 are pixels without a label
    pred_probs: Any,  # Probabilities (n, c, h, w)
) -> np.ndarray:  # (n, h, w) bool
    """The pixels whose label is likely wrong: those that cleanlab's
    `segmentation.filter.find_label_issues` flags.

    Pixels without a label are never flagged, and do not enter the estimate. One image is held at a
    time, and otherwise 14 bytes per pixel (cleanlab itself keeps a Python list of all pixels).
    Raises ValueError or TypeError for arguments that do not fit."""
    return _pixel_issues(*_check_masks(labels, pred_probs))


def _pixel_issues(labels, pred_probs, labelled):
    inspector = LabelInspector(num_class=pred_probs.shape[1], store_results=False, n_jobs=1,
                               verbose=False)
    for _, y, p in _pixels(labels, pred_probs, labelled):
        inspector.update_confident_thresholds(y, p)

    size = int(labelled.sum())
    flagged, differs = np.zeros((2, size), dtype=bool)
    quality = np.empty(size, dtype=pred_probs.dtype if pred_probs.dtype == float else np.float32)
    start = 0
    for _, y, p in _pixels(labels, pred_probs, labelled):
        part = slice(start, start + len(y))
        quality[part] = inspector.score_label_quality(y, p)
        differs[part] = p.argmax(1) != y
        start += len(y)
    # cleanlab's own call: argsort is not stable, and ties at the cut must fall as they do there
    if size: flagged[np.argsort(quality)[:inspector.get_num_issues()]] = True
    mask = np.zeros(labelled.shape, dtype=bool)
    mask[labelled] = flagged & differs
    return mask


def _pixels(labels, pred_probs, labelled):
    """For each image that has labelled pixels: its position, the labels (m,) and the probabilities
    (m, c) of these pixels"""
    for i, keep in enumerate(labelled):
        if not keep.any(): continue
        p = np.asarray(pred_probs[i])
        if p.dtype != float: p = p.astype(np.float32, copy=False)
        yield i, labels[i][keep].astype(np.int64), np.moveaxis(p, 0, -1)[keep]


def _check_area(min_area, border, side):
    "The border in pixels"
    if not 0 <= min_area < 1:
        raise ValueError(f"min_area is {min_area!r}: pass a share of the pixels from 0 to 1")
    if border is None: return max(1, round(side/64))
    if border < 0 or border != int(border):
        raise ValueError(f"border is {border!r}: pass a whole number of pixels, 0 or more")
    return int(border)


def _check_masks(labels, pred_probs, vocab=None):
    labels = as_array(labels, 'labels')
    probs = as_array(pred_probs, 'pred_probs')
    if labels.dtype.kind not in 'iub':
        raise TypeError(f"labels has dtype {labels.dtype}: pass integers, one per pixel")
    if probs.dtype.kind != 'f': raise TypeError(f"pred_probs has dtype {probs.dtype}: pass floats")
    if probs.ndim != 4 or probs.shape[1] < 2 or not probs.size:
        raise ValueError(f"pred_probs has shape {probs.shape}: pass (images, classes, height, "
                         "width), at least 1 image and 2 classes")
    n, c, h, w = probs.shape
    if labels.shape != (n, h, w):
        raise ValueError(f"labels has shape {labels.shape}, but pred_probs has {probs.shape}: pass "
                         f"masks of shape {(n, h, w)}")
    check_vocab(vocab, c)
    for i, p in enumerate(probs): _check_image(i, np.asarray(p, dtype=np.float32))

    labelled = (labels >= 0) & (labels < c)
    if not labelled.all():
        given = np.unique(labels[labelled])
        if len(given) < 2:
            raise ValueError(f"labels has values outside 0..{c - 1}, first "
                             f"{labels[~labelled][0]}, and otherwise only {given.tolist()}: "
                             f"masks of 0 and 255? Make them class indices 0..{c - 1}")
    return labels, probs, labelled


def _check_image(i, p):
    if not np.isfinite(p).all():
        raise ValueError(f"pred_probs has NaN or infinite values, first in image {i}: leave those "
                         "images out, or predict them")
    if p.min() < -1e-3 or p.max() > 1 + 1e-3 or np.abs(p.sum(0) - 1).max() > 1e-2:
        raise ValueError(f"pred_probs does not hold probabilities in image {i}, with values from "
                         f"{p.min():.4g} to {p.max():.4g}: pass probabilities that sum to 1 over "
                         "the classes, not logits")
