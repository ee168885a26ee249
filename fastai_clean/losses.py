"Losses that wrong labels mislead less than cross-entropy, for `Learner(loss_func=...)`; each takes logits"
from functools import partial
from numbers import Real

import numpy as np
import torch
from fastai.callback.mixup import reduce_loss
from fastai.losses import BaseLoss
from torch import nn
from torch.nn import functional as F

__all__ = ['ForwardCorrection', 'GeneralizedCrossEntropy', 'SymmetricCrossEntropy', 'check_number']


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
