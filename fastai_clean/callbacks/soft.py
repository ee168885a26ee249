"Training on what other models say of the items, instead of labels that look wrong"
import os
from pathlib import Path

import numpy as np
import torch
from fastcore.basics import store_attr
from torch.nn import functional as F

from ..issues import find_issues, label_quality
from ..issues.checks import check_labels_probs
from ..losses import soft_targets
from ..oof import OutOfFold
from .targets import TargetsCallback


class SoftPseudoLabelCallback(TargetsCallback):
    """Gives chosen training items their probabilities as soft targets; the others keep their labels. Add it to a new
    Learner on the same training set: `learn2.fine_tune(5, cbs=SoftPseudoLabelCallback(learn.oof))`.

    Which items: 'issues', the label issues whose confidence is at least `threshold`; 'confident', all that are that
    confident; 'all'. Items are matched by their names, see `folds.ids_of`; those without probabilities keep their
    labels. Works with MixUp, CutMix, label smoothing, class weights, mixed precision and every loss that can give one
    value an item. Fold Learners of `ConfidentLearningCallback` do without it, since the probabilities may have seen
    their fold. For the maths see `soft_targets`. `n_soft` is the number of softened items.

    Raises ValueError, before the first batch, where no item is in `source`, or with another vocab."""
    _stateattrs = (*TargetsCallback._stateattrs, 'source', '_mask', '_targets')

    def __init__(self,
        source,  # OutOfFold, CleanInterpretation, (ids, probabilities (m, c)), or the folder of a saved OutOfFold
        threshold=.9,  # Least confidence, 0 to 1, for which='issues' and 'confident'
        which='issues',  # Whose targets become soft: 'issues', 'confident' or 'all'
        temperature=1.,  # Above 1 flattens the probabilities, below 1 sharpens them
        mix=1.,  # Share of the probabilities in a soft target, 0 to 1; the given label has the rest
        warmup=0,  # Epochs at the start of each fit with the labels as they are
    ):
        soft_targets(np.eye(2), np.arange(2), np.ones(2), which=which, threshold=threshold, temperature=temperature,
                     mix=mix)
        if warmup < 0: raise ValueError(f"warmup is {warmup}: pass a number of epochs, 0 or more")
        self._init_state()
        store_attr()

    def _init_state(self):
        super()._init_state()
        vars(self).update(source=None, _mask=None, _targets=None)

    @property
    def n_soft(self):
        "Number of softened items of the last fit, 0 before"
        return 0 if self._mask is None else int(self._mask.sum())

    def setup(self, ids):
        probs, is_issue = _lined_up(self.source, ids, self._labels)
        known = np.isfinite(probs).all(1)
        if self.which == 'issues' and is_issue is None: is_issue = _issues_of(self._labels.targets, probs, known)
        self._mask, targets = soft_targets(probs, self._labels.targets, is_issue, which=self.which,
                                           threshold=self.threshold, temperature=self.temperature, mix=self.mix)
        self._targets = torch.as_tensor(targets)
        said = f'{self.n_soft:,} of {len(ids):,} training items get soft targets'
        if self.n_soft or self.which == 'all': return said
        among = is_issue & known if self.which == 'issues' else known
        if not among.any(): return f'{said}: none of them is a label issue'
        what = 'issues' if self.which == 'issues' else 'items'
        return (f'{said}: the {among.sum():,} {what} have a confidence of at most '
                f'{probs[among].max():.3f}, below the threshold of {self.threshold}')

    def targets_of(self, idxs, yb):
        if self.epoch < self.warmup or not self.n_soft: return yb
        return (self._targets[idxs],)


class ItemWeightsCallback(TargetsCallback):
    """Weighs the loss of every training item, by its label quality or by weights of your own, mean 1 over the items.

    The weight is the score of `label_quality` (self-confidence: what the folds believe in the given label). Items
    without one weigh 1. Importance weights for noisy labels: Liu and Tao, "Classification with noisy labels by
    importance reweighting", TPAMI 2016. Raises as `SoftPseudoLabelCallback` does."""
    order = TargetsCallback.order + 1
    _stateattrs = (*TargetsCallback._stateattrs, 'source', '_weights')

    def __init__(self,
        source,  # OutOfFold, CleanInterpretation, (ids, probabilities (m, c)), or the folder of a saved OutOfFold
        score='self_confidence',  # Label quality: a name or a function, see `label_quality`
    ):
        if not isinstance(score, str) and not callable(score):
            raise TypeError(f"score is a {type(score).__name__}: pass a name or a function, since values of your own "
                            "have no item names")
        self._init_state()
        store_attr()

    def _init_state(self):
        super()._init_state()
        vars(self).update(source=None, _weights=None)

    def setup(self, ids):
        probs, _ = _lined_up(self.source, ids, self._labels)
        known = np.isfinite(probs).all(1)
        weights = np.ones(len(ids), dtype=np.float32)
        quality = label_quality(self._labels.targets[known], probs[known], self.score)
        if quality.min() < 0 or quality.sum() <= 0:
            raise ValueError(f"score gives label qualities from {quality.min():.3g} to {quality.max():.3g}: give 0 or "
                             "more, not 0 for all")
        weights[known] = quality/quality.mean()
        self._weights = torch.as_tensor(weights)
        return f'training items weigh {weights.min():.3f} to {weights.max():.3f}, 1 on average'

    def targets_of(self, idxs, yb):
        y, c = yb[0], self._labels.c or int(self._labels.targets.max()) + 1
        soft = y if y.is_floating_point() else F.one_hot(y.long().reshape(-1), c)
        return (soft*self._weights[idxs].to(y.device)[:, None],)


def _lined_up(source, ids, labels):
    "Probabilities (n, c) in the order of `ids` and of the classes, NaN where unknown; and the mask of issues, or None"
    if source is None:
        raise ValueError("source is None: pass an OutOfFold, such as learn.oof after a fit with "
                         "ConfidentLearningCallback; a Learner that was copied or exported leaves it behind")
    if isinstance(source, (str, os.PathLike)): source = OutOfFold.load(source)
    vocab, flags = getattr(source, 'vocab', None), None
    if isinstance(source, OutOfFold): names, probs = source.ids, source.pred_probs
    elif hasattr(source, 'issues') and hasattr(source, 'probs'):
        names, probs = source.ids, source.probs
        flags = source.issues.is_issue.sort_index().to_numpy(dtype=bool)
    else:
        try: names, probs = source
        except (TypeError, ValueError) as e:
            raise TypeError(f"source is a {type(source).__name__}: pass an OutOfFold, a CleanInterpretation, (ids, "
                            "probabilities), or the folder of a saved OutOfFold") from e
        names = [o.as_posix() if isinstance(o, Path) else str(o) for o in names]
        probs = np.asarray(probs.detach().float().cpu() if isinstance(probs, torch.Tensor) else probs, dtype=float)
    if getattr(source, 'task', 'classification') != 'classification':
        raise TypeError(f"source is of the task {source.task}: soft targets need one class an item")
    return _matched(list(names), probs, vocab, flags, ids, labels)


def _matched(names, probs, vocab, flags, ids, labels):
    c = labels.c or int(labels.targets.max()) + 1
    if probs.ndim != 2 or len(names) != len(probs):
        raise ValueError(f"source has {len(names)} ids, but probabilities of shape {probs.shape}: pass (ids, classes)")
    if probs.shape[1] != c: raise ValueError(f"source has {probs.shape[1]} classes, but the training set {c}")
    if vocab is not None and labels.vocab is not None and list(vocab) != list(labels.vocab):
        at = {str(o): i for i, o in enumerate(vocab)}
        if missing := [o for o in labels.vocab if str(o) not in at]:
            raise ValueError(f"source does not have the class {str(missing[0])[:80]!r} of the training set's vocab: "
                             "pass probabilities of the same classes")
        probs = probs[:, [at[str(o)] for o in labels.vocab]]
    if not names: raise ValueError("source has no items: pass ids and their probabilities")
    place = {o: i for i, o in enumerate(names)}
    if len(place) < len(names): raise ValueError(f"source has {len(names) - len(place)} ids twice: give each item one")
    rows = np.array([place.get(o, -1) for o in ids])
    found = rows >= 0
    if not found.any():
        raise ValueError(f"source has none of the {len(ids)} training items: it has {str(names[0])[:80]!r}, they are "
                         f"called such as {ids[0][:80]!r}")
    res = np.full((len(ids), c), np.nan)
    res[found] = probs[rows[found]]
    known = np.isfinite(res).all(1)
    if known.any(): check_labels_probs(labels.targets[known], res[known])
    if flags is None: return res, None
    mask = np.zeros(len(ids), dtype=bool)
    mask[found] = flags[rows[found]]
    return res, mask


def _issues_of(targets, probs, known):
    mask = np.zeros(len(targets), dtype=bool)
    at = np.flatnonzero(known)
    if len(at): mask[at] = find_issues(targets[at], probs[at]).sort_index().is_issue
    return mask
