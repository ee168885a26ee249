"Losses that wrong labels mislead less, soft targets, and the loss that takes hard or soft ones"
from functools import partial
from numbers import Real

import numpy as np
import torch
from fastai.callback.mixup import reduce_loss
from fastai.losses import BaseLoss, LabelSmoothingCrossEntropy
from torch import nn
from torch.nn import functional as F

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


class _Reduced(nn.Module):
    "The mean, the sum or all (`reduction`) of what `items` makes of log-probabilities (n, c) and class indices (n,)"
    def __init__(self, items, reduction):
        super().__init__()
        if reduction not in ('mean', 'sum', 'none'):
            raise ValueError(f"reduction is {reduction!r}: pass 'mean', 'sum' or 'none'")
        self.items, self.reduction = items, reduction

    def forward(self, inp, targ):
        if inp.dtype in (torch.float16, torch.bfloat16): inp = inp.float()
        return reduce_loss(self.items(F.log_softmax(inp, dim=-1), targ), self.reduction)


class _SoftmaxLoss(BaseLoss):
    "What fastai asks of a loss for one class an item: it flattens, interpolates under MixUp, predicts and decodes"
    y_int = True
    def __init__(self, items, axis, reduction): super().__init__(_Reduced, items, reduction, axis=axis)
    def decodes(self, x): return x.argmax(dim=self.axis)
    def activation(self, x): return F.softmax(x, dim=self.axis)


def _log_prob(log_p, targ): return -F.nll_loss(log_p, targ, reduction='none')


def _generalized(log_p, targ, q): return -torch.expm1(q*_log_prob(log_p, targ))/q


def _symmetric(log_p, targ, alpha, beta, A):
    log_py = _log_prob(log_p, targ)
    return -alpha*log_py + beta*A*torch.expm1(log_py)


def _forward(log_p, targ, log_matrix):
    if len(log_matrix) != log_p.shape[-1]:
        raise ValueError(f"noise_matrix is of {len(log_matrix)} classes, but the model has {log_p.shape[-1]} outputs: "
                         "pass the matrix of the same classes")
    return -torch.logsumexp(log_p + F.embedding(targ, log_matrix.to(log_p)), -1)


def check_number(
    name,  # Name of the argument
    value,  # What was passed
    ok,  # Function that says whether a number will do
    ask,  # What to pass, in words
) -> float:
    "`value` as a float; raises ValueError where it is no number that will do"
    if not isinstance(value, Real) or not ok(value): raise ValueError(f"{name} is {value!r}: pass {ask}")
    return float(value)


class GeneralizedCrossEntropy(_SoftmaxLoss):
    """(1 - p_y^q)/q, between cross-entropy (q towards 0) and half the mean absolute error (q=1), so that an item the
    model disbelieves pulls less. Without truncation.

    Zhang and Sabuncu, "Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy Labels", NeurIPS
    2018, equation 6. Raises ValueError where q is not above 0 and at most 1."""
    def __init__(self,
        q=.7,  # Robustness: above 0, the nearer to 1 the more robust and the slower to learn; the paper's .7
        *,
        axis=-1,  # Class axis
        reduction='mean',  # 'mean', 'sum' or 'none'
    ):
        self.q = check_number('q', q, lambda o: 0 < o <= 1, "a number above 0 and at most 1 (near 0: cross-entropy)")
        super().__init__(partial(_generalized, q=self.q), axis, reduction)


class SymmetricCrossEntropy(_SoftmaxLoss):
    """alpha times cross-entropy plus beta times reverse cross-entropy -A (1 - p_y), which bounds what one item costs.

    Wang et al., "Symmetric Cross Entropy for Robust Learning with Noisy Labels", ICCV 2019, equation 7, with log 0 set
    to A. Raises ValueError for weights below 0 or both 0, and where A is not below 0."""
    def __init__(self,
        alpha=.1,  # Weight of cross-entropy: high learns hard classes and overfits; the paper's for 10 classes
        beta=1.,  # Weight of reverse cross-entropy, which is robust
        A=-4.,  # What log 0 is taken for
        *,
        axis=-1,  # Class axis
        reduction='mean',  # 'mean', 'sum' or 'none'
    ):
        weight = lambda o: 0 <= o < float('inf')
        self.alpha = check_number('alpha', alpha, weight, "a weight of 0 or more")
        self.beta = check_number('beta', beta, weight, "a weight of 0 or more")
        self.A = check_number('A', A, lambda o: -float('inf') < o < 0, "a number below 0, what log 0 is taken for")
        if not alpha + beta: raise ValueError("alpha and beta are both 0: give one of them a weight")
        super().__init__(partial(_symmetric, alpha=self.alpha, beta=self.beta, A=self.A), axis, reduction)


class ForwardCorrection(_SoftmaxLoss):
    """Cross-entropy of the given labels with the model's probabilities sent through the noise, so that the model
    itself learns the true classes: -log sum_j P(given = y | true = j) p_j.

    Patrini et al., "Making Deep Neural Networks Robust to Label Noise: a Loss Correction Approach", CVPR 2017, theorem
    2; their T is the transpose of `noise_matrix`. A label that the matrix says no class is given costs a constant.
    Raises TypeError for a matrix that is not numbers, ValueError where it is not square, its columns do not sum to 1
    or, in the first batch, its size is not the model's outputs."""
    def __init__(self,
        noise_matrix,  # (c, c), P(given = row | true = column), as `fastai_clean.issues.noise_matrix` estimates it
        *,
        axis=-1,  # Class axis
        reduction='mean',  # 'mean', 'sum' or 'none'
    ):
        log_matrix = torch.as_tensor(_column_stochastic(noise_matrix)).log().clamp(min=-1e4)
        super().__init__(partial(_forward, log_matrix=log_matrix), axis, reduction)


def _column_stochastic(matrix):
    "`matrix` in float64, or an error that says why it is no noise matrix"
    if isinstance(matrix, torch.Tensor): matrix = matrix.detach().cpu()
    res = np.array(matrix)
    if res.dtype.kind not in 'fiu':
        raise TypeError(f"noise_matrix has dtype {res.dtype}: pass numbers (c, c), as `noise_matrix` gives them")
    if res.ndim != 2 or res.shape[0] != res.shape[1] or len(res) < 2:
        raise ValueError(f"noise_matrix has shape {res.shape}: pass (c, c), a row a given and a column a true class")
    res = res.astype(np.float64)
    if not np.isfinite(res).all() or res.min() < 0:
        raise ValueError("noise_matrix has values that are negative or not finite: pass probabilities, 0 to 1")
    off = np.abs(res.sum(0) - 1) > 1e-4
    if off.any():
        turned = np.allclose(res.sum(1), 1, atol=1e-4)
        raise ValueError(f"noise_matrix has {off.sum()} columns that do not sum to 1, first column {off.argmax()} with "
                         f"{res[:, off.argmax()].sum():.4g}: pass P(given = row | true = column)"
                         + (", that is the transpose of this one" if turned else ""))
    return res/res.sum(0)

