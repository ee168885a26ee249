"Soft targets, the loss that takes hard or soft ones, and losses robust to wrong labels"
from collections.abc import Callable, Sequence
from functools import partial
from numbers import Real
from typing import Any

import numpy as np
import torch
from fastai.callback.mixup import reduce_loss
from fastai.losses import BaseLoss, LabelSmoothingCrossEntropy
from torch import Tensor, nn
from torch.nn import functional as F

from .issues.checks import as_array, check_labels, check_rows

SOFTENED = 'issues', 'confident', 'all'
CHUNK = 1 << 22  # Outputs that SoftLoss passes to a loss at a time, about 16 MB
HALVES = torch.float16, torch.bfloat16


def soft_targets(
    pred_probs: np.ndarray,  # Probabilities (n, c); rows with NaN are not known
    labels: np.ndarray | Sequence[int],  # Given class indices (n,)
    is_issue: np.ndarray | Sequence[bool] | None = None,  # Mask (n,) of the issues, or None
    *,
    which: str = 'issues',  # Whose targets become soft: one of `SOFTENED`
    threshold: float = .9,  # Least confidence, 0 to 1, of an item for 'issues' and 'confident'
    temperature: float = 1.,  # Above 1 flattens the probabilities, below 1 sharpens them
    mix: float = 1.,  # Share of the probabilities in a soft target, 0 to 1; the label has the rest
) -> tuple[np.ndarray, np.ndarray]:  # Mask (n,) of the soft ones, and float32 targets (n, c)
    """Targets whose rows sum to 1. For the softened items they are `mix` times p**(1/temperature),
    made to sum to 1, plus 1 - `mix` times the given label; for the others the given label.

    >>> soft, targets = soft_targets([[.05, .95], [.4, .6]], [0, 0], which='confident', mix=.8)
    >>> soft
    array([ True, False])
    >>> targets.round(2)
    array([[0.24, 0.76],
           [1.  , 0.  ]], dtype=float32)

    Confidence is the largest probability, before the temperature. Soft labels in this sense:
    Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network", 2015; mixed with the
    given one: Reed et al., "Training deep neural networks on noisy labels with bootstrapping",
    2015.

    Raises ValueError for values out of range, rows that are not probabilities, labels that are no
    class or not one per row, and TypeError for an `is_issue` that is not a mask."""
    if which not in SOFTENED:
        raise ValueError(f"which is {which!r}: choose one of {', '.join(SOFTENED)}")
    for name, value in (('threshold', threshold), ('mix', mix)):
        if not 0 <= value <= 1: raise ValueError(f"{name} is {value}: pass a number from 0 to 1")
    if not 0 < temperature < np.inf:
        raise ValueError(f"temperature is {temperature}: pass a number above 0")
    if which == 'issues' and is_issue is None:
        raise ValueError("is_issue is None, but which is 'issues': pass a mask")

    probs = as_array(pred_probs, 'pred_probs').astype(float)
    if probs.ndim != 2:
        raise ValueError(f"pred_probs has shape {probs.shape}: pass (items, classes)")
    soft = np.isfinite(probs).all(1)
    if soft.any(): check_rows(probs[soft])
    labels = check_labels(labels, *probs.shape)
    if is_issue is not None: is_issue = _mask(is_issue, len(probs))
    if which != 'all': soft &= np.where(soft, probs.max(1), 0) >= threshold
    if which == 'issues': soft &= is_issue
    hard = np.zeros(probs.shape)
    hard[np.arange(len(labels)), labels] = 1
    with np.errstate(divide='ignore'):
        logs = np.log(np.where(soft[:, None], probs, 1).clip(0))/temperature
    # Minus the largest: otherwise a low temperature would let a whole row underflow to 0
    sharp = np.exp(logs - logs.max(1, keepdims=True))
    sharp /= sharp.sum(1, keepdims=True)
    return soft, np.where(soft[:, None], mix*sharp + (1 - mix)*hard, hard).astype(np.float32)


def _mask(values, n):
    "`values` as booleans (n,)"
    mask = as_array(values, 'is_issue')
    # Positions would be taken for a mask, and every text, 'False' too, is true
    if mask.dtype != bool:
        raise TypeError(f"is_issue has dtype {mask.dtype}: pass a mask, one boolean per item")
    if mask.shape != (n,):
        raise ValueError(f"is_issue has shape {mask.shape}, but pred_probs has {n} rows: pass one "
                         "boolean per row")
    return mask


class SoftLoss:
    """`base` for class indices (bs,), unchanged. For soft targets (bs, c) the expectation of `base`
    over the classes, sum_k t_k base(pred, k) for each item, reduced as `base` reduces. A row that
    sums to w instead of 1 gives its item the weight w.

    For cross-entropy, also with label smoothing and class weights, that is torch's own loss of
    probabilities. Its mean divides by the number of items even under class weights, whereas that of
    class indices divides by the sum of their weights: use class weights that are 1 on average.
    Everything else is that of `base`: `reduction`, `y_int`, `activation`, `decodes`.

    Raises TypeError for a `base` that cannot give one loss per item, and ValueError for soft
    targets that are negative or NaN, on the CPU only."""

    def __init__(self,
        base: Callable,  # Loss of class indices with a `reduction`: fastai's, torch's, or one below
    ):
        self.base = base
        self._default = 'mean'
        if isinstance(base, partial): self._default = base.keywords.get('reduction', 'mean')
        self._reduction = self._default

    def __call__(self,
        pred: Tensor,  # Outputs (bs, c)
        target: Tensor,  # Class indices (bs,), or soft targets (bs, c)
        **kwargs,  # Passed to `base`; for soft targets only `reduction` is used
    ) -> Tensor:
        "The loss, reduced"
        if not target.is_floating_point():
            # A plain function has no attribute to set: it is told how to reduce at every call
            told = hasattr(self.base, 'reduction') or self._reduction == self._default
            given = {} if told else {'reduction': self._reduction}
            return self.base(pred, target, **given, **kwargs)
        return reduce_loss(self._soft(pred, target), kwargs.pop('reduction', self.reduction))

    def _soft(self, pred, target):
        "Losses (bs,)"
        if pred.shape != target.shape:
            raise ValueError(f"soft targets have shape {tuple(target.shape)}, but the outputs of "
                             f"the model have {tuple(pred.shape)}: pass one probability per output")
        # Elsewhere the question would wait for the device in every batch
        if target.device.type == 'cpu' and not (target >= 0).all():
            raise ValueError("soft targets are negative or NaN: pass probabilities, or 0 or more")
        plain = _cross_entropy(self.base)
        # fastai's tensor classes may refuse to be combined with one another
        pred = pred.as_subclass(Tensor)
        target = target.as_subclass(Tensor)
        if pred.dtype in HALVES: pred = pred.float()
        if plain is None: return self._expected(pred, target)

        if plain.get('weight') is not None: plain['weight'] = plain['weight'].to(pred)
        target = target.to(pred.dtype)
        if not plain.get('label_smoothing'):
            return F.cross_entropy(pred, target, **plain, reduction='none')
        # Smoothing mixes in 1/c whatever a row sums to: weigh the loss, and not the target
        total = target.sum(1)
        target = target/total[:, None].clamp(min=torch.finfo(target.dtype).tiny)
        return total*F.cross_entropy(pred, target, **plain, reduction='none')

    def _expected(self, pred, target):
        "Losses (bs,) of a `base` that only knows class indices, in chunks of the classes above 0"
        items, classes = target.nonzero(as_tuple=True)
        size = max(1, CHUNK//pred.shape[1])
        parts = [self._unreduced(pred[i], k)
                 for i, k in zip(items.split(size), classes.split(size))]
        losses = torch.cat(parts).as_subclass(Tensor)
        shares = target[items, classes].to(losses.dtype)
        return losses.new_zeros(len(pred)).index_add(0, items, losses*shares)

    def _unreduced(self, pred, target):
        if not hasattr(self.base, 'reduction'): losses = self.base(pred, target, reduction='none')
        else:
            before = self.base.reduction
            self.base.reduction = 'none'
            try: losses = self.base(pred, target)
            finally: self.base.reduction = before
        if losses.shape != target.shape:
            raise TypeError(f"loss_func gives {tuple(losses.shape)} losses for {len(target)} items "
                            "without reduction: soft targets need one per item")
        return losses

    @property
    def reduction(self) -> str:
        "The reduction of `base`"
        return getattr(self.base, 'reduction', self._reduction)

    @reduction.setter
    def reduction(self, value: str):
        if hasattr(self.base, 'reduction'): self.base.reduction = value
        else: self._reduction = value

    @property
    def y_int(self) -> bool:
        "That of `base`; True if it has none: MixUp then mixes losses, as it must for class indices"
        return getattr(self.base, 'y_int', True)

    def __getattr__(self, name):
        # A copy has no `base` yet while it is made, and would look for it here for ever
        if name.startswith('__') or name in ('base', '_reduction', '_default'):
            raise AttributeError(name)
        return getattr(self.base, name)


def _cross_entropy(base) -> dict[str, Any] | None:
    "Arguments of `F.cross_entropy` that give the losses of `base`, or None if there are none"
    func = getattr(base, 'func', base)
    # Subclasses may compute something else, so types are compared, and isinstance will not do
    if isinstance(base, partial):
        if base.func is not F.cross_entropy or base.args: return None
        kw = {k: v for k, v in base.keywords.items() if k != 'reduction'}
    elif base is F.cross_entropy: kw = {}
    elif type(func) is nn.CrossEntropyLoss:
        kw = {o: getattr(func, o) for o in ('weight', 'label_smoothing', 'ignore_index')}
    elif type(func) is LabelSmoothingCrossEntropy and func.weight is None:
        kw = {'label_smoothing': func.eps}
    else: return None

    if kw.pop('ignore_index', -100) >= 0 or not kw.keys() <= {'weight', 'label_smoothing'}:
        return None
    return kw


class _Reduced(nn.Module):
    """The mean, the sum or all (`reduction`) of the values of `losses`, a function of
    log-probabilities (n, c) and class indices (n,)"""
    def __init__(self, losses, reduction):
        super().__init__()
        if reduction not in ('mean', 'sum', 'none'):
            raise ValueError(f"reduction is {reduction!r}: pass 'mean', 'sum' or 'none'")
        self.losses = losses
        self.reduction = reduction

    def forward(self, inp, targ):
        if inp.dtype in HALVES: inp = inp.float()
        return reduce_loss(self.losses(F.log_softmax(inp, dim=-1), targ), self.reduction)


class _SoftmaxLoss(BaseLoss):
    "What fastai asks of a loss of one class per item: it flattens, mixes, predicts and decodes"
    y_int = True  # MixUp must mix the losses, since class indices cannot be mixed

    def __init__(self, losses, axis, reduction):
        super().__init__(_Reduced, losses, reduction, axis=axis)

    def decodes(self, x: Tensor) -> Tensor:
        "Outputs to class indices"
        return x.argmax(dim=self.axis)

    def activation(self, x: Tensor) -> Tensor:
        "Outputs to probabilities"
        return F.softmax(x, dim=self.axis)


class GeneralizedCrossEntropy(_SoftmaxLoss):
    """(1 - p_y^q)/q, between cross-entropy (q towards 0) and half the mean absolute error (q=1), so
    that an item whose label the model does not believe pulls less. Without truncation.

    >>> loss = GeneralizedCrossEntropy(q=.5, reduction='none')
    >>> logits = torch.tensor([[.64, .36], [.01, .99]]).log()
    >>> [round(o, 2) for o in loss(logits, torch.tensor([0, 0])).tolist()]
    [0.4, 1.8]

    Zhang and Sabuncu, "Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy
    Labels", NeurIPS 2018, equation 6. Raises ValueError if q is not above 0 and at most 1."""
    def __init__(self,
        q: float = .7,  # Above 0 and at most 1: near 1 robust, but slow to learn; the paper's .7
        *,
        axis: int = -1,  # Class axis
        reduction: str = 'mean',  # 'mean', 'sum' or 'none'
    ):
        self.q = check_number('q', q, lambda o: 0 < o <= 1,
                              "a number above 0 and at most 1 (near 0: cross-entropy)")
        super().__init__(partial(_generalized, q=self.q), axis, reduction)


class SymmetricCrossEntropy(_SoftmaxLoss):
    """alpha times cross-entropy plus beta times reverse cross-entropy -A (1 - p_y), which bounds
    what one item costs.

    Wang et al., "Symmetric Cross Entropy for Robust Learning with Noisy Labels", ICCV 2019,
    equation 7, with log 0 set to A. Raises ValueError for weights below 0 or both 0, and if A is
    not below 0."""
    def __init__(self,
        alpha: float = .1,  # Weight of cross-entropy, which overfits; the paper's for 10 classes
        beta: float = 1.,  # Weight of reverse cross-entropy, which is robust
        A: float = -4.,  # What log 0 is taken for
        *,
        axis: int = -1,  # Class axis
        reduction: str = 'mean',  # 'mean', 'sum' or 'none'
    ):
        def is_weight(o): return 0 <= o < float('inf')
        self.alpha = check_number('alpha', alpha, is_weight, "a weight of 0 or more")
        self.beta = check_number('beta', beta, is_weight, "a weight of 0 or more")
        self.A = check_number('A', A, lambda o: -float('inf') < o < 0,
                              "a number below 0, what log 0 is taken for")
        if not alpha + beta:
            raise ValueError("alpha and beta are both 0: give one of them a weight")

        losses = partial(_symmetric, alpha=self.alpha, beta=self.beta, A=self.A)
        super().__init__(losses, axis, reduction)


# Module-level functions and `partial`, since `learn.export()` must pickle the loss

def _log_prob(log_p, targ): return -F.nll_loss(log_p, targ, reduction='none')


def _generalized(log_p, targ, q): return -torch.expm1(q*_log_prob(log_p, targ))/q


def _symmetric(log_p, targ, alpha, beta, A):
    log_py = _log_prob(log_p, targ)
    return -alpha*log_py + beta*A*torch.expm1(log_py)


def check_number(
    name: str,  # Name of the argument
    value: Any,  # What was passed
    ok: Callable[[Any], bool],  # Function that says whether a number is valid
    ask: str,  # What to pass, in words
) -> float:
    "`value` as a float. Raises ValueError if it is not a valid number"
    # True is 1 to Python, and a slip to the user
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, Real) or not ok(value):
        raise ValueError(f"{name} is {value!r}: pass {ask}")
    return float(value)
