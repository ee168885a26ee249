"Soft targets made of probabilities, and the loss that takes hard or soft ones"
from functools import partial

import numpy as np
import torch
from fastai.losses import LabelSmoothingCrossEntropy
from torch import nn
from torch.nn import functional as F

__all__ = ['SOFTENED', 'SoftLoss', 'soft_targets']

SOFTENED = 'issues', 'confident', 'all'
CHUNK = 1 << 22


def soft_targets(
    pred_probs,  # Probabilities (n, c); rows with NaN are not known
    labels,  # Given class indices (n,)
    is_issue=None,  # Boolean mask (n,) of the label issues, for which='issues'
    *,
    which='issues',  # Whose targets become soft: one of `SOFTENED`
    threshold=.9,  # Least confidence, 0 to 1, of an item for 'issues' and 'confident'
    temperature=1.,  # Above 1 flattens the probabilities, below 1 sharpens them
    mix=1.,  # Share of the probabilities in a soft target, 0 to 1; the given label has the rest
) -> tuple[np.ndarray, np.ndarray]:  # Boolean mask (n,) of the soft ones, and float32 targets (n, c)
    """Targets whose rows sum to 1: for the softened items `mix` times p**(1/temperature), made to sum to 1, plus
    1 - `mix` times the given label; for the others the given label.

    Confidence is the largest probability, before the temperature. Soft labels in this sense: Hinton, Vinyals and Dean,
    "Distilling the knowledge in a neural network", 2015; mixed with the given one: Reed et al., "Training deep neural
    networks on noisy labels with bootstrapping", 2015. Raises ValueError for values out of range."""
    if which not in SOFTENED: raise ValueError(f"which is {which!r}: choose one of {', '.join(SOFTENED)}")
    for name, value in (('threshold', threshold), ('mix', mix)):
        if not 0 <= value <= 1: raise ValueError(f"{name} is {value}: pass a number from 0 to 1")
    if not 0 < temperature < np.inf: raise ValueError(f"temperature is {temperature}: pass a number above 0")
    if which == 'issues' and is_issue is None: raise ValueError("is_issue is None, but which is 'issues': pass a mask")
    probs, labels = np.asarray(pred_probs, dtype=float), np.asarray(labels)
    soft = np.isfinite(probs).all(1)
    if which != 'all': soft &= np.where(soft, probs.max(1), 0) >= threshold
    if which == 'issues': soft &= np.asarray(is_issue, dtype=bool)
    hard = np.zeros(probs.shape)
    hard[np.arange(len(labels)), labels] = 1
    with np.errstate(divide='ignore'): logs = np.log(np.where(soft[:, None], probs, 1).clip(0))/temperature
    sharp = np.exp(logs - logs.max(1, keepdims=True))
    sharp /= sharp.sum(1, keepdims=True)
    return soft, np.where(soft[:, None], mix*sharp + (1 - mix)*hard, hard).astype(np.float32)


class SoftLoss:
    """`base` for class indices (bs,), unchanged; for soft targets (bs, c) the expectation of `base` over the classes,
    sum_k t_k base(pred, k), an item, reduced as `base` reduces. A row that sums to w, not 1, weighs its item w times.

    For cross-entropy, also with label smoothing and class weights, that is torch's own for probabilities. Its mean
    divides by the number of items even under class weights, where that of class indices divides by the sum of their
    weights: let class weights be 1 on average. It is `base` in everything else: `reduction`, `y_int`, `activation`,
    `decodes`. Raises TypeError for a `base` that cannot give one loss an item."""

    def __init__(self,
        base,  # A loss of class indices with a `reduction`: fastai's, torch's, or one of `fastai_clean.losses`
    ):
        self.base = base
        self._default = base.keywords.get('reduction', 'mean') if isinstance(base, partial) else 'mean'
        self._reduction = self._default

    def __call__(self, pred, target, **kwargs):
        own = hasattr(self.base, 'reduction') or self._reduction == self._default
        if not target.is_floating_point():
            return self.base(pred, target, **({} if own else dict(reduction=self._reduction)), **kwargs)
        reduction = kwargs.pop('reduction', self.reduction)
        losses = self._soft(pred, target)
        return losses.mean() if reduction == 'mean' else losses.sum() if reduction == 'sum' else losses

    def _soft(self, pred, target):
        if pred.shape != target.shape:
            raise ValueError(f"soft targets have shape {tuple(target.shape)}, but the model's outputs "
                             f"{tuple(pred.shape)}: one probability an output is needed")
        plain = _cross_entropy(self.base)
        pred, target = pred.as_subclass(torch.Tensor), target.as_subclass(torch.Tensor)
        if pred.dtype in (torch.float16, torch.bfloat16): pred = pred.float()
        if plain is not None:
            if plain.get('weight') is not None: plain['weight'] = plain['weight'].to(pred)
            target = target.to(pred.dtype)
            if not plain.get('label_smoothing'): return F.cross_entropy(pred, target, **plain, reduction='none')
            total = target.sum(1)
            target = target/total[:, None].clamp(min=torch.finfo(target.dtype).tiny)
            return total*F.cross_entropy(pred, target, **plain, reduction='none')
        items, classes = target.nonzero(as_tuple=True)
        size = max(1, CHUNK//pred.shape[1])
        parts = [self._unreduced(pred[i], k) for i, k in zip(items.split(size), classes.split(size))]
        losses = torch.cat(parts).as_subclass(torch.Tensor)
        return losses.new_zeros(len(pred)).index_add(0, items, losses*target[items, classes].to(losses.dtype))

    def _unreduced(self, pred, target):
        if not hasattr(self.base, 'reduction'): losses = self.base(pred, target, reduction='none')
        else:
            before, self.base.reduction = self.base.reduction, 'none'
            try: losses = self.base(pred, target)
            finally: self.base.reduction = before
        if losses.shape != target.shape:
            raise TypeError(f"loss_func gives {tuple(losses.shape)} losses for {len(target)} items without reduction: "
                            "soft targets need one an item")
        return losses

    @property
    def reduction(self):
        "That of `base`"
        return getattr(self.base, 'reduction', self._reduction)

    @reduction.setter
    def reduction(self, value):
        if hasattr(self.base, 'reduction'): self.base.reduction = value
        else: self._reduction = value

    @property
    def y_int(self):
        "That of `base`; True where it does not say: MixUp then mixes losses, as it must for class indices"
        return getattr(self.base, 'y_int', True)

    def __getattr__(self, name):
        if name.startswith('__') or name in ('base', '_reduction', '_default'): raise AttributeError(name)
        return getattr(self.base, name)


def _cross_entropy(base):
    "Arguments of `F.cross_entropy` that give the same losses as `base`, or None where there are none"
    func = getattr(base, 'func', base)
    if isinstance(base, partial):
        if base.func is not F.cross_entropy or base.args: return None
        kw = {k: v for k, v in base.keywords.items() if k != 'reduction'}
    elif base is F.cross_entropy: kw = {}
    elif type(func) is nn.CrossEntropyLoss:
        kw = dict(weight=func.weight, label_smoothing=func.label_smoothing, ignore_index=func.ignore_index)
    elif type(func) is LabelSmoothingCrossEntropy and func.weight is None: kw = dict(label_smoothing=func.eps)
    else: return None
    return kw if kw.pop('ignore_index', -100) < 0 and kw.keys() <= {'weight', 'label_smoothing'} else None
