"Regularised linear heads on fixed features, each trained without the fold that it predicts"
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from ..data import fold_numbers

PENALTIES = 3., 1., .3, .1, .03, .01, .003, .001, 3e-4, 1e-4
MAX_ITEMS = 10_000


class Head(NamedTuple):
    """A linear model of standardised features: `weights` (d + 1, c), the last row the intercepts; `penalty`, L2 on the
    mean loss; `shift` and `scale` (c,) of the targets of regression, 0 and 1 otherwise."""
    weights: torch.Tensor
    penalty: float
    shift: torch.Tensor
    scale: torch.Tensor


def standardise(
    features,  # (n, d)
    of=None,  # (m, d), the features whose mean and deviation to use; None: `features`
):
    "`features` with mean 0 and deviation 1 a column, as float32; columns that are constant become 0"
    of = features if of is None else of
    mean, std = of.mean(0, dtype=np.float64), of.std(0, dtype=np.float64)
    constant = std <= 1e-6*np.abs(mean)
    return np.where(constant, 0, (features - mean)/np.where(constant, 1, std)).astype(np.float32)


def held_out_heads(
    x,  # Standardised features (n, d), a tensor
    targets,  # Targets of the task (n,) or (n, c), a tensor
    fold,  # Fold numbers (n,)
    task,  # 'classification', 'multilabel' or 'regression'
    c,  # Number of columns to predict
    seed,  # Seed of what is drawn to choose the penalties
):
    """Yield, fold by fold, its number and the `Head` trained on the other folds, which knows nothing of its targets.

    Multinomial logistic regression, logistic regression for each label, or ridge regression, by L-BFGS. Its penalty is
    the strongest that the next one does not beat by more than a standard error, on a part of those other folds: the
    one-standard-error rule of Breiman et al., 1984, which suits wrong labels, since weak penalties fit them."""
    n_folds = int(fold.max()) + 1
    for k in range(n_folds):
        train = np.flatnonzero(fold != k)
        inner = _inner(fold[train], k, n_folds, targets[train].cpu().numpy(), seed)
        yield k, _head(x[train], targets[train], inner, task, c, seed + k)


def predict_head(
    head,  # A `Head`
    x,  # Standardised features (m, d), a tensor
    task,  # The task that it was trained for
):
    "Probabilities (m, c), or numbers, of a head, on the CPU"
    out = x @ head.weights[:-1] + head.weights[-1]
    if task == 'regression': return (out*head.scale + head.shift).cpu()
    return (out.softmax(1) if task == 'classification' else out.sigmoid()).cpu()


def _inner(fold, k, n_folds, targets, seed):
    "Mask of the items, outside fold `k`, that choose the penalty: about a quarter, whole folds where there are several"
    if n_folds > 2: return (fold - k) % n_folds <= max(1, n_folds//4)
    return fold_numbers(targets, min(4, len(targets)), seed=seed) == 0 if len(targets) > 1 else np.zeros(1, dtype=bool)


def _head(x, y, inner, task, c, seed):
    shift, scale = torch.zeros(c, device=x.device), torch.ones(c, device=x.device)
    if task == 'regression':
        y = y.reshape(len(y), -1)
        shift, std = y.mean(0), y.std(0, correction=0)
        scale = torch.where(std > 0, std, torch.ones_like(std))
        y = (y - shift)/scale
    penalty = _penalty(x, y, inner, task, c, seed)
    return Head(_fit(x, y, penalty, task, _start(y, x.shape[1], task, c)), penalty, shift, scale)


def _penalty(x, y, inner, task, c, seed):
    "The penalty for all of `x`, chosen on at most MAX_ITEMS of it"
    rows = np.random.default_rng(seed).permutation(len(x))[:MAX_ITEMS]
    train, held_out = (torch.from_numpy(np.sort(rows[o])).to(x.device) for o in (~inner[rows], inner[rows]))
    if min(len(train), len(held_out)) < 2: return PENALTIES[1]
    xs, ys, xt, yt, best, before = x[train], y[train], x[held_out], y[held_out], PENALTIES[0], None
    w = _start(ys, x.shape[1], task, c)
    for penalty in PENALTIES:
        w = _fit(xs, ys, penalty, task, w)
        losses = _losses(xt @ w[:-1] + w[-1], yt, task)
        if before is not None:
            gain = before - losses
            if gain.mean() <= gain.std()/len(gain)**.5: break
        best, before = penalty, losses
    return best*len(xs)/len(x)


def _losses(out, y, task):
    "Loss of each item (n,), of several labels or numbers their sum, so that each gets what it would get alone"
    if task == 'classification': return F.cross_entropy(out, y, reduction='none')
    if task == 'multilabel': return F.binary_cross_entropy_with_logits(out, y.float(), reduction='none').sum(1)
    return (out - y).square().sum(1)/2


def _start(y, d, task, c):
    "Weights 0, and intercepts that say how frequent each class is"
    w = torch.zeros(d + 1, c, device=y.device)
    if task == 'classification': w[-1] = ((torch.bincount(y, minlength=c) + 1)/(len(y) + c)).log()
    elif task == 'multilabel': w[-1] = ((y.sum(0) + 1)/(len(y) + 2)).logit()
    return w


def _fit(x, y, penalty, task, start, tol=1e-3):
    "Weights (d + 1, c) that minimise the mean loss and `penalty`/2 of their squares, intercepts apart, from `start` on"
    w = start.clone().requires_grad_()
    opt = torch.optim.LBFGS([w], max_iter=100, history_size=10, tolerance_change=tol, line_search_fn='strong_wolfe')

    def closure():
        opt.zero_grad()
        loss = _losses(x @ w[:-1] + w[-1], y, task).mean() + penalty/2*w[:-1].square().sum()
        loss.backward()
        return loss

    with torch.enable_grad(): opt.step(closure)
    return w.detach()
