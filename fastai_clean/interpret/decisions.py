"What the Learner itself predicts: the threshold, and the `decodes`, of its loss"
from collections.abc import Callable
from typing import TYPE_CHECKING
from warnings import warn

import numpy as np
import torch
from fastai.torch_core import to_np

from .. import issues
from .._columns import objects
from .._text import shorten
from ..data.sampling import is_ours

if TYPE_CHECKING:
    from .base import CleanInterpretation


def decided(
    loss_func: Callable,  # Loss function of a Learner
    preds: np.ndarray,  # Probabilities (n, c), for masks (n, c, h, w); numbers (n,) or (n, k)
    task: str,  # One of `issues.checks.TASKS`
) -> np.ndarray:  # Classes (n,), booleans (n, c), masks (n, h, w), or numbers of the same shape
    """What the Learner itself predicts: the `decodes` of its loss, with its threshold, as
    `learn.predict` shows it. For a loss without one the likeliest class, all of at least .5, or the
    numbers themselves; the same, with a warning, if the user's `decodes` fails or returns anything
    else than that, such as one row of scores per item."""
    plain = _undecoded(preds, task)
    decodes = getattr(loss_func, 'decodes', None)
    if decodes is None: return plain
    fastais = is_ours(decodes)
    # All of these take the likeliest class, and leave numbers alone
    if fastais and task != 'multilabel': return plain
    try:
        # In parts, and copies: the user's function may need memory, or write into what it gets
        step = max(1, 2**24//max(1, preds[0].size))
        parts = [to_np(decodes(torch.tensor(preds[i:i + step])))
                 for i in range(0, len(preds), step)]
        found = np.concatenate(parts)
        flaw = _flaw(found, plain, preds, task)
    except Exception as e: flaw = f'fails on them, {type(e).__name__}: {shorten(e, 80)}'
    if not flaw: return found.reshape(plain.shape).astype(plain.dtype)
    if not fastais:
        instead = {'multilabel': 'those of at least .5 are', 'regression': 'they themselves are'}
        warn(f"loss_func is a {type(loss_func).__name__}, whose decodes is meant to turn "
             f"predictions into labels, but {flaw}: {instead.get(task, 'the likeliest class is')} "
             "taken instead; correct decodes, or remove it", stacklevel=4)
    return plain


def put_decisions(
    interp: 'CleanInterpretation',
) -> None:
    """Have `issues` say what the Learner predicts, if its loss decides otherwise than by the
    maximum. For one class per item it must still hold class indices."""
    df = interp.issues
    at = df.index
    names = objects(interp.vocab)
    if interp.task == 'multilabel':
        if (interp.predicted == (interp.probs >= .5)).all(): return
        rows = objects(tuple(names[row].tolist()) for row in interp.predicted[at])
        interp.issues = df.assign(predicted=rows)
    if interp.task == 'classification':
        mine = interp.predicted[at]
        if (df.predicted == mine).all(): return
        interp.issues = df.assign(predicted=mine, confidence=interp.probs[at, mine])
    if interp.task != 'segmentation': return
    if (interp.predicted == issues.predicted_classes(interp.probs)).all(): return

    bad = issues.segmentation_pixel_issues(interp.given, interp.probs)
    df = df.assign(predicted=df.predicted.astype(object))
    for i in np.flatnonzero(bad.any((1, 2))):
        k = np.bincount(interp.predicted[i][bad[i]]).argmax()
        df.at[i, 'predicted'] = names[k]
        p = np.take_along_axis(interp.probs[i], interp.predicted[i][None], 0)[0]
        df.at[i, 'confidence'] = p[bad[i]].mean()
    interp.issues = df


def _undecoded(preds, task):
    if task == 'regression': return preds
    return preds >= .5 if task == 'multilabel' else issues.predicted_classes(preds)


def _flaw(found, plain, preds, task):
    "Why what `decodes` returned cannot be the labels, or nothing"
    if found.shape not in (plain.shape, (*plain.shape, 1)):
        return f'returns the shape {found.shape}, not {plain.shape}'
    if found.dtype.kind not in 'biuf': return f'returns {found.dtype}'
    if not np.isfinite(found).all(): return 'returns values that are not finite'
    top = {'multilabel': 2, 'regression': None}.get(task, preds.shape[-1 if preds.ndim < 2 else 1])
    if top is not None and not np.isin(found, range(top)).all():
        bad = found[~np.isin(found, range(top))].flat[0]
        return f'returns {bad:g}, which is none of 0..{top - 1}'
    return ''
