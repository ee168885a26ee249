"Masks and predicted pixel probabilities in, the issue table of the images and the wrong pixels out"
import numpy as np
import pandas as pd
from cleanlab.experimental.label_issues_batched import LabelInspector
from cleanlab.segmentation.rank import get_label_quality_scores
from scipy.ndimage import binary_opening

from .checks import as_array, check_vocab
from .columns import any_score, as_is, check_choice, id_column, names_of, objects, worst_first

SEGMENTATION_SCORES = 'softmin', 'num_pixel_issues'


def find_segmentation_issues(
    labels,  # Given masks (n, h, w), integers; those outside 0..c-1 (say 255) are pixels without a label
    pred_probs,  # Probabilities (n, c, h, w), out-of-fold where the model was trained on these masks; memmap is fine
    *,
    score='softmin',  # What ranks the images: one of `SEGMENTATION_SCORES`, or as in `label_quality`
    ids=None,  # Stable names of the images (n,); None: their positions
    vocab=None,  # Names of the c classes; None: their indices
    min_area=.005,  # An image is an issue where a larger share of its labelled pixels is flagged, 0 to 1, after
    border=None,  # leaving out flagged strips up to 2*border pixels wide; None: border 1/64 of the shorter side
) -> pd.DataFrame:  # n rows; columns of `find_issues`, and issue_pixels
    """The issue table of masks: every image, the likeliest wrong one first, indexed by its position.

    `issue_pixels` is the share of the labelled pixels that `segmentation_pixel_issues` flags, `given` and `predicted`
    the commonest classes of these pixels and `confidence` their mean probability of the class predicted there; None
    and NaN for an image without any. `label_quality` is cleanlab's, 0 to 1: Lad and Mueller, "Estimating label quality
    and errors in semantic segmentation data via any model", 2023.

    The rule of `is_issue` is this package's own: flags along outlines are the rule even in right masks, so a flagged
    region counts where a cross of `border` pixels fits in (a binary opening). On generated shapes with objects missing,
    added, moved or of a wrong class it had F1 .96 to 1.0 at sizes of 48 to 192 pixels, "any pixel flagged" .37 to .50.

    Raises ValueError or TypeError for arguments that do not fit."""
    labels, pred_probs, labelled = _check_masks(labels, pred_probs, vocab)
    if not 0 <= min_area < 1: raise ValueError(f"min_area is {min_area!r}: pass a share of the pixels from 0 to 1")
    n, c, h, w = pred_probs.shape
    if border is not None and (border < 0 or border != int(border)):
        raise ValueError(f"border is {border!r}: pass a whole number of pixels, 0 or more")
    if border is None: border = max(1, round(min(h, w)/64))
    ids, names = id_column(ids, n), objects([*names_of(c, vocab).tolist(), None])
    flagged = _pixel_issues(labels, pred_probs, labelled)
    total = np.maximum(labelled.sum((1, 2)), 1)
    share = flagged.sum((1, 2))/total
    softmin, confidence, given, predicted = np.ones(n), np.full(n, np.nan), np.full(n, c), np.full(n, c)

    def named(name):
        check_choice('score', name, SEGMENTATION_SCORES)
        return softmin if name == 'softmin' else 1 - share
    for i, y, p in _pixels(labels, pred_probs, labelled):
        bad = flagged[i][labelled[i]]
        softmin[i] = get_label_quality_scores(y[None, None], p.T[None, :, None], verbose=False)[0][0]
        if bad.any():
            given[i], predicted[i] = (np.bincount(o).argmax() for o in (y[bad], p[bad].argmax(1)))
            confidence[i] = p[bad].max(1).mean()
    quality = any_score(score, named, labels, pred_probs)
    wide = np.array([binary_opening(m, iterations=border).sum() for m in flagged]) if border else flagged.sum((1, 2))
    df = pd.DataFrame({
        'id': as_is(ids), 'given': as_is(names[given]),
        'predicted': as_is(names[predicted]), 'confidence': confidence, 'label_quality': quality,
        'is_issue': wide/total > min_area, 'issue_pixels': share})
    return worst_first(df)


def segmentation_pixel_issues(
    labels,  # Given masks (n, h, w), integers; those outside 0..c-1 are pixels without a label
    pred_probs,  # Probabilities (n, c, h, w)
) -> np.ndarray:  # (n, h, w) bool
    """The pixels whose label is likely wrong: those that cleanlab's `segmentation.filter.find_label_issues` flags.

    Pixels without a label are never flagged, and do not enter the estimate. One image is in work at a time, beside
    which a pixel takes 14 bytes (cleanlab itself keeps a Python list of them all). Raises ValueError or TypeError for
    arguments that do not fit."""
    return _pixel_issues(*_check_masks(labels, pred_probs))


def _pixel_issues(labels, pred_probs, labelled):
    inspector = LabelInspector(num_class=pred_probs.shape[1], store_results=False, n_jobs=1, verbose=False)
    for _, y, p in _pixels(labels, pred_probs, labelled): inspector.update_confident_thresholds(y, p)
    size, start = int(labelled.sum()), 0
    flagged, differs = np.zeros((2, size), dtype=bool)
    quality = np.empty(size, dtype=pred_probs.dtype if pred_probs.dtype == float else np.float32)
    for _, y, p in _pixels(labels, pred_probs, labelled):
        part = slice(start, start + len(y))
        quality[part], differs[part] = inspector.score_label_quality(y, p), p.argmax(1) != y
        start += len(y)
    # The same call as cleanlab's: argsort is not stable, and ties at the boundary must fall the same way
    if size: flagged[np.argsort(quality)[:inspector.get_num_issues()]] = True
    mask = np.zeros(labelled.shape, dtype=bool)
    mask[labelled] = flagged & differs
    return mask


def _pixels(labels, pred_probs, labelled):
    "Image by image: position, labels (m,) and probabilities (m, c) of its labelled pixels; images without are left out"
    for i, keep in enumerate(labelled):
        if not keep.any(): continue
        p = np.asarray(pred_probs[i])
        if p.dtype != float: p = p.astype(np.float32, copy=False)
        yield i, labels[i][keep].astype(np.int64), np.moveaxis(p, 0, -1)[keep]


def _check_masks(labels, pred_probs, vocab=None):
    labels, probs = as_array(labels), as_array(pred_probs)
    if labels.dtype.kind not in 'iub': raise TypeError(f"labels has dtype {labels.dtype}: pass integers, one a pixel")
    if probs.dtype.kind != 'f': raise TypeError(f"pred_probs has dtype {probs.dtype}: pass floats")
    if probs.ndim != 4 or probs.shape[1] < 2 or not probs.size:
        raise ValueError(f"pred_probs has shape {probs.shape}: pass (images, classes, height, width), at least 1 image "
                         "and 2 classes")
    n, c, h, w = probs.shape
    if labels.shape != (n, h, w):
        raise ValueError(f"labels has shape {labels.shape}, but pred_probs has {probs.shape}: pass masks of shape "
                         f"{(n, h, w)}")
    check_vocab(vocab, c)
    for i, p in enumerate(probs):
        p = np.asarray(p, dtype=np.float32)
        if not np.isfinite(p).all():
            raise ValueError(f"pred_probs has NaN or infinite values, first in image {i}: leave those images out, or "
                             "predict them")
        if p.min() < -1e-3 or p.max() > 1 + 1e-3 or np.abs(p.sum(0) - 1).max() > 1e-2:
            raise ValueError(f"pred_probs is no probabilities in image {i}, with values from {p.min():.4g} to "
                             f"{p.max():.4g}: pass probabilities that sum to 1 over the classes, not logits")
    labelled = (labels >= 0) & (labels < c)
    if not labelled.all():
        given = np.unique(labels[labelled])
        if len(given) < 2:
            raise ValueError(f"labels has values outside 0..{c - 1}, first {labels[~labelled][0]}, and beside them "
                             f"only {given.tolist()}: masks of 0 and 255? Make them class indices 0..{c - 1}")
    return labels, probs, labelled
