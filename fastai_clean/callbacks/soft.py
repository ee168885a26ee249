"Training on what other models say about the items, instead of labels that look wrong"
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from fastcore.basics import store_attr
from torch.nn import functional as F

from .._rows import aligned, check_same_labels
from .._text import brief
from ..issues import find_issues, label_quality
from ..issues.checks import as_array, check_labels_probs, lined_up
from ..losses import soft_targets
from ..oof import OutOfFold
from .base import TargetsCallback, n_classes


class SoftPseudoLabelCallback(TargetsCallback):
    """Gives chosen training items their probabilities as soft targets; the others keep their
    labels. Add it to a new Learner on the same training set: `learn2.fine_tune(5,
    cbs=SoftPseudoLabelCallback(learn.oof))`.

    Which items: 'issues', the label issues whose confidence is at least `threshold`; 'confident',
    all items that confident; 'all'. Items are matched by their ids, see `data.ids_of`; those
    without probabilities keep their labels. Works with MixUp, CutMix, label smoothing, class
    weights, mixed precision and every loss that can give one value per item. The fold Learners of
    `ConfidentLearningCallback` leave it out, since the models behind the probabilities may have
    seen their fold. For the maths see `soft_targets`. `n_soft` is the number of softened items.

    Raises ValueError, before the first batch, if `source` has none of the training items, other
    classes, or, unless `changed_labels`, another label for one of them: rows of a frame that was
    shuffled and numbered anew have the same ids."""
    _stateattrs = (*TargetsCallback._stateattrs, 'source', '_mask', '_targets')

    def __init__(self,
        source: Any,  # OutOfFold, its folder, CleanInterpretation, or (ids, probabilities (m, c))
        threshold: float = .9,  # Least confidence, 0 to 1, for which='issues' and 'confident'
        which: str = 'issues',  # Whose targets become soft: 'issues', 'confident' or 'all'
        temperature: float = 1.,  # Above 1 flattens the probabilities, below 1 sharpens them
        mix: float = 1.,  # Share of the probabilities, 0 to 1; the given label has the rest
        warmup: int = 0,  # Epochs at the start of each fit with the labels as they are
        changed_labels: bool = False,  # Whether labels may differ from those `source` was made with
    ):
        # Bad arguments must fail here, and not when the fit begins
        soft_targets(np.eye(2), np.arange(2), np.full(2, True), which=which, threshold=threshold,
                     temperature=temperature, mix=mix)
        if warmup < 0: raise ValueError(f"warmup is {warmup}: pass a number of epochs, 0 or more")

        super().__init__()
        store_attr()

    @property
    def n_soft(self) -> int:
        "Number of softened items of the last fit, 0 before"
        return 0 if self._mask is None else int(self._mask.sum())

    def setup(self, ids):
        "Make the soft targets; returns how many there are, or why there are none, in words"
        probs, is_issue = _lined_up(self.source, ids, self._labels, self.changed_labels)
        known = np.isfinite(probs).all(1)
        given = self._labels.targets
        if self.which == 'issues' and is_issue is None: is_issue = _issues_of(given, probs, known)
        self._mask, targets = soft_targets(
            probs, given, is_issue, which=self.which, threshold=self.threshold,
            temperature=self.temperature, mix=self.mix)
        self._targets = torch.as_tensor(targets)

        said = f'{self.n_soft:,} of {len(ids):,} training items get soft targets'
        if self.n_soft or self.which == 'all': return said
        among = is_issue & known if self.which == 'issues' else known
        if not among.any(): return f'{said}: none of them is a label issue'
        what = 'issues' if self.which == 'issues' else 'items'
        return (f'{said}: the {among.sum():,} {what} have a confidence of at most '
                f'{probs[among].max():.3f}, below the threshold of {self.threshold}')

    def targets_of(self, idxs, yb):
        """The soft targets; without any, class indices, with which the fit is the plain one to the
        last bit"""
        if self.epoch < self.warmup or not self.n_soft: return yb
        return (self._targets[idxs],)


class ItemWeightsCallback(TargetsCallback):
    """Weights the loss of every training item by its label quality, or by what a function of yours
    returns, with a mean of 1 over the items.

    The weight is the score of `label_quality` (self-confidence: how much the folds believe the
    given label). Items without a score weigh 1. Importance weights for noisy labels: Liu and Tao,
    "Classification with noisy labels by importance reweighting", TPAMI 2016. Raises as
    `SoftPseudoLabelCallback` does."""
    # After SoftPseudoLabelCallback, to weight the targets that it makes
    order = TargetsCallback.order + 1
    _stateattrs = (*TargetsCallback._stateattrs, 'source', '_weights')

    def __init__(self,
        source: Any,  # OutOfFold, its folder, CleanInterpretation, or (ids, probabilities (m, c))
        score: str | Callable = 'self_confidence',  # Name or function, see `label_quality`
        changed_labels: bool = False,  # Whether labels may differ from those `source` was made with
    ):
        if not isinstance(score, str) and not callable(score):
            raise TypeError(f"score is a {type(score).__name__}: pass a name or a function, since "
                            "values of your own have no ids")

        super().__init__()
        store_attr()

    def setup(self, ids):
        "Make the weights; returns their range, in words"
        probs, _ = _lined_up(self.source, ids, self._labels, self.changed_labels)
        known = np.isfinite(probs).all(1)
        quality = label_quality(self._labels.targets[known], probs[known], self.score)
        # Written so that NaN is refused too
        if not (quality.min() >= 0 and 0 < quality.sum() < np.inf):
            raise ValueError(f"score gives label qualities from {quality.min():.3g} to "
                             f"{quality.max():.3g}: return 0 or more, and not 0 for all")

        weights = np.ones(len(ids), dtype=np.float32)
        weights[known] = quality/quality.mean()
        self._weights = torch.as_tensor(weights)
        return f'training items weigh {weights.min():.3f} to {weights.max():.3f}, 1 on average'

    def targets_of(self, idxs, yb):
        "Rows that sum to the items' weights, which is how `SoftLoss` weighs"
        y = yb[0]
        if not y.is_floating_point():
            y = F.one_hot(y.long().reshape(-1), n_classes(self._labels))
        return (y*self._weights[idxs].to(y.device)[:, None],)


def _lined_up(source, ids, labels, changed_labels):
    """Probabilities (n, c) in the order of `ids` and of the classes, NaN where unknown; and the
    mask of issues, or None"""
    theirs, probs, vocab, flags, given = _read(source)
    columns = _columns_of(theirs, probs, vocab, labels)
    probs = probs[:, columns]
    rows = _rows_of(theirs, ids)
    found = rows >= 0
    if given is not None:
        at = np.flatnonzero(found)
        was = np.argsort(columns)[np.asarray(given)[rows[at]]]
        _check_given([ids[i] for i in at], labels.targets[at], was, labels, changed_labels)
    res = np.full((len(ids), probs.shape[1]), np.nan)
    res[found] = probs[rows[found]]
    known = np.isfinite(res).all(1)
    if known.any(): check_labels_probs(labels.targets[known], res[known])
    if flags is None: return res, None

    mask = np.zeros(len(ids), dtype=bool)
    mask[found] = flags[rows[found]]
    return res, mask


def _read(source):
    """Ids, probabilities, vocab, mask of issues and given class indices that `source` holds; the
    last three may be None"""
    if source is None:
        raise ValueError("source is None: pass an OutOfFold, such as learn.oof after a fit with "
                         "ConfidentLearningCallback; a Learner that was copied or exported leaves "
                         "it behind")
    if isinstance(source, (str, os.PathLike)): source = OutOfFold.load(source)
    if getattr(source, 'task', 'classification') != 'classification':
        raise TypeError(f"source is of the task {source.task}: soft targets need one class per "
                        "item")
    if isinstance(source, OutOfFold):
        return list(source.ids), source.pred_probs, source.vocab, None, source.targets
    # A CleanInterpretation is recognised by its attributes, since its class takes seconds to import
    if hasattr(source, 'issues') and hasattr(source, 'probs'):
        flags = source.issues.is_issue.sort_index().to_numpy(dtype=bool)
        given = getattr(source, 'given', None)
        return list(source.ids), source.probs, getattr(source, 'vocab', None), flags, given
    try: ids, probs = source
    except (TypeError, ValueError) as e:
        raise TypeError(f"source is a {type(source).__name__}: pass an OutOfFold, a "
                        "CleanInterpretation, (ids, probabilities), or the folder of a saved "
                        "OutOfFold") from e
    ids = [o.as_posix() if isinstance(o, Path) else str(o) for o in ids]
    vocab = None
    if isinstance(probs, pd.DataFrame):
        # pandas means its labels: those of the rows are ids, and those of the columns are classes
        _, probs, vocab = lined_up(None, aligned(probs, 'source', ids=ids))
    return ids, as_array(probs).astype(float), vocab, None, None


def _check_given(ids, ours, theirs, labels, changed):
    """Raise ValueError if an item had another class when the probabilities were made; if `changed`,
    only if so many had that these are other items"""
    vocab = range(n_classes(labels)) if labels.vocab is None else labels.vocab
    advice = ("pass probabilities of this training set, or changed_labels=True if you corrected "
              "labels since")
    if changed:
        # Other items agree by chance alone, which is often if most are of one class
        c = n_classes(labels)
        shares = [np.bincount(o, minlength=c)/len(o) for o in (ours, theirs)]
        if (ours == theirs).mean() >= (1 + shares[0] @ shares[1])/2: return
        advice = ("so many are no corrections but other items: pass probabilities of this "
                  "training set")
    check_same_labels(ids, [vocab[k] for k in ours], [vocab[k] for k in theirs], 'source',
                      'the training set', advice)


def _columns_of(theirs, probs, vocab, labels):
    "The column of `probs` (c,) of each class of the training set"
    c = n_classes(labels)
    if probs.ndim != 2 or len(theirs) != len(probs):
        raise ValueError(f"source has {len(theirs)} ids, but probabilities of shape {probs.shape}: "
                         "pass (ids, probabilities (m, c))")
    if probs.shape[1] != c:
        raise ValueError(f"source has {probs.shape[1]} classes, but the training set has {c}: pass "
                         "probabilities of the same classes")
    if vocab is None or labels.vocab is None: return np.arange(c)

    at = {str(o): i for i, o in enumerate(vocab)}
    if missing := [o for o in labels.vocab if str(o) not in at]:
        raise ValueError(f"source does not have the class {brief(str(missing[0]))} of the training "
                         "set's vocab: pass probabilities of the same classes")
    return np.array([at[str(o)] for o in labels.vocab])


def _rows_of(theirs, ids):
    "Rows (n,) of `ids` in `theirs`, -1 for ids that are not there"
    if not theirs: raise ValueError("source has no items: pass ids and their probabilities")
    # A dict, since numpy's isin takes quadratic time on objects
    place = {o: i for i, o in enumerate(theirs)}
    if len(place) < len(theirs):
        raise ValueError(f"source has {len(theirs) - len(place)} ids twice: give each item its own")
    rows = np.array([place.get(o, -1) for o in ids])
    if (rows < 0).all():
        raise ValueError(f"source has none of the {len(ids)} training items: its first id is "
                         f"{brief(str(theirs[0]))}, theirs is {brief(ids[0])}; pass probabilities "
                         "of this training set")
    return rows


def _issues_of(targets, probs, known):
    mask = np.zeros(len(targets), dtype=bool)
    at = np.flatnonzero(known)
    if len(at): mask[at] = find_issues(targets[at], probs[at]).sort_index().is_issue
    return mask
