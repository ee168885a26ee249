"Regularised linear heads on fixed features, each trained without the fold that it predicts"
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from ..data import fold_numbers

PENALTIES = 3., 1., .3, .1, .03, .01, .003, .001, 3e-4, 1e-4
MAX_ITEMS = 10_000


class Head(NamedTuple):
    """A linear model of standardised features: `weights` (d + 1, c), the last row the intercepts;
    `penalty`, L2 on the mean loss; `shift` and `scale` (c,) of the targets of regression, 0 and 1
    otherwise."""
    weights: torch.Tensor
    penalty: float
    shift: torch.Tensor
    scale: torch.Tensor


def standardise(
    features: np.ndarray,  # (n, d)
    of: np.ndarray | None = None,  # (m, d), whose mean and deviation to use; None: `features`
) -> np.ndarray:
    """`features` with mean 0 and deviation 1 in each column, as float32; columns that are constant
    become 0"""
    of = features if of is None else of
    mean = of.mean(0, dtype=np.float64)
    std = of.std(0, dtype=np.float64)
    # Not `std == 0`: the deviation of equal float32 numbers may be a rounding error
    constant = std <= 1e-6*np.abs(mean)
    scaled = (features - mean)/np.where(constant, 1, std)
    return np.where(constant, 0, scaled).astype(np.float32)


def held_out_heads(
    x: torch.Tensor,  # Standardised features (n, d)
    targets: torch.Tensor,  # Targets of the task (n,) or (n, c)
    fold: np.ndarray,  # Fold numbers (n,)
    task: str,  # 'classification', 'multilabel' or 'regression'
    c: int,  # Number of columns to predict
    seed: int,  # Seed for drawing the items that choose the penalties
) -> Iterator[tuple[int, Head]]:
    """Yield, fold by fold, its number and the `Head` trained on the other folds, which knows
    nothing about its targets.

    Multinomial logistic regression, logistic regression for each label, or ridge regression, by
    L-BFGS. Its penalty is the strongest one that the next weaker one does not beat by more than a
    standard error, on a part of those other folds: the one-standard-error rule of Breiman et al.,
    1984, which suits wrong labels, since weak penalties fit them."""
    n_folds = int(fold.max()) + 1
    for k in range(n_folds):
        train = np.flatnonzero(fold != k)
        inner = _inner(fold[train], k, n_folds, targets[train].cpu().numpy(), seed)
        yield k, _head(x[train], targets[train], inner, task, c, seed + k)


def predict_head(
    head: Head,
    x: torch.Tensor,  # Standardised features (m, d)
    task: str,  # The task that it was trained for
) -> torch.Tensor:
    "Probabilities (m, c), or numbers, of a head, on the CPU"
    out = x @ head.weights[:-1] + head.weights[-1]
    if task == 'regression': return (out*head.scale + head.shift).cpu()
    return (out.softmax(1) if task == 'classification' else out.sigmoid()).cpu()


def _inner(fold, k, n_folds, targets, seed):
    """Mask of the items, outside fold `k`, that choose the penalty: about a quarter, whole folds if
    there are several"""
    if n_folds > 2: return (fold - k) % n_folds <= max(1, n_folds//4)
    if len(targets) < 2: return np.zeros(1, dtype=bool)
    return fold_numbers(targets, min(4, len(targets)), seed=seed) == 0


def _head(x, y, inner, task, c, seed):
    shift = torch.zeros(c, device=x.device)
    scale = torch.ones(c, device=x.device)
    if task == 'regression':
        y = y.reshape(len(y), -1)
        shift = y.mean(0)
        std = y.std(0, correction=0)
        scale = torch.where(std > 0, std, torch.ones_like(std))
        y = (y - shift)/scale
    penalty = _penalty(x, y, inner, task, c, seed)
    start = _start(y, x.shape[1], task, c)
    return Head(_fit(x, y, penalty, task, start), penalty, shift, scale)


def _penalty(x, y, inner, task, c, seed):
    "The penalty for all of `x`, chosen on at most MAX_ITEMS of it"
    rows = np.random.default_rng(seed).permutation(len(x))[:MAX_ITEMS]
    parts = [np.sort(rows[o]) for o in (~inner[rows], inner[rows])]
    train, held_out = (torch.from_numpy(o).to(x.device) for o in parts)
    if min(len(train), len(held_out)) < 2: return PENALTIES[1]

    xs = x[train]
    ys = y[train]
    xt = x[held_out]
    yt = y[held_out]
    best = PENALTIES[0]
    before = None
    w = _start(ys, x.shape[1], task, c)
    for penalty in PENALTIES:
        w = _fit(xs, ys, penalty, task, w)
        losses = _losses(xt @ w[:-1] + w[-1], yt, task)
        if before is not None:
            gain = before - losses
            if gain.mean() <= gain.std()/len(gain)**.5: break
        best = penalty
        before = losses
    # More items need less regularisation
    return best*len(xs)/len(x)


def _losses(out, y, task):
    """Loss of each item (n,), summed over several labels or numbers, so that each is fitted as it
    would be alone"""
    if task == 'classification': return F.cross_entropy(out, y, reduction='none')
    if task == 'multilabel':
        return F.binary_cross_entropy_with_logits(out, y.float(), reduction='none').sum(1)
    return (out - y).square().sum(1)/2


def _start(y, d, task, c):
    "Weights 0, and intercepts that predict how frequent each class is"
    w = torch.zeros(d + 1, c, device=y.device)
    if task == 'classification':
        w[-1] = ((torch.bincount(y, minlength=c) + 1)/(len(y) + c)).log()
    elif task == 'multilabel': w[-1] = ((y.sum(0) + 1)/(len(y) + 2)).logit()
    return w


def _fit(x, y, penalty, task, start, tol=1e-3):
    """Weights (d + 1, c) that minimise the mean loss plus `penalty`/2 times their squares (without
    the intercepts), starting at `start`"""
    w = start.clone().requires_grad_()
    opt = torch.optim.LBFGS([w], max_iter=100, history_size=10, tolerance_change=tol,
                            line_search_fn='strong_wolfe')

    def closure():
        opt.zero_grad()
        loss = _losses(x @ w[:-1] + w[-1], y, task).mean() + penalty/2*w[:-1].square().sum()
        loss.backward()
        return loss

    # Callbacks that predict are called without gradients
    with torch.enable_grad(): opt.step(closure)
    return w.detach()
