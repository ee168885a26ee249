"Regularised linear heads on fixed features, each trained without the fold that it predicts"
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from fastcore.imports import noop
from torch.nn import functional as F

from .._files import scratch_array
from ..data import fold_numbers

METRICS = {'classification': 'accuracy', 'multilabel': 'accuracy_multi', 'regression': 'r2'}
PENALTIES = 3., 1., .3, .1, .03, .01, .003, .001, 3e-4, 1e-4
MAX_ITEMS = 10_000
PART = 2**26  # Numbers of a part of the features and what is computed from it: 256 MiB
DOUBTED = .1  # Round 2 skips labels less probable than this, relative to the most probable
TRUSTED = .25  # Share of each class's items that every round trains on at least


class HeldOut(NamedTuple):
    """What heads predict for the items that they were not trained on: `preds` (n, c) float32; all
    `heads`; a row for each of `folds`; `left_out`, how many items each round did not train on."""
    preds: np.ndarray
    heads: list[Head]
    folds: list[dict]
    left_out: list[float]


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
    become 0. More than 256 MiB of them are in a memory map."""
    of = features if of is None else of
    mean = of.mean(0, dtype=np.float64)
    std = np.zeros(of.shape[1])
    for part in _slices(of): std += np.square(of[part] - mean).sum(0)
    std = (std/max(1, len(of)))**.5
    # Not `std == 0`: the deviation of equal float32 numbers may be a rounding error
    constant = std <= 1e-6*np.abs(mean)
    scale = np.where(constant, 1, std)
    small = features.size <= PART
    scaled = np.empty(features.shape, np.float32) if small else scratch_array(features.shape)
    for part in _slices(features):
        scaled[part] = np.where(constant, 0, (features[part] - mean)/scale)
    return scaled


def _slices(x):
    "Parts of the rows of `x` that fit into memory in float64, with a copy"
    size = max(1, PART//(4*x.shape[1] + 1))
    return [slice(i, i + size) for i in range(0, len(x), size)]


def on_device(
    x: np.ndarray,  # Standardised features (n, d)
    device: torch.device,  # Where heads are trained
) -> torch.Tensor:
    "`x` on `device` if there is room for it twice, else in memory, from where it is read in parts"
    res = torch.from_numpy(x)
    if device.type == 'cuda' and 2*x.nbytes > torch.cuda.mem_get_info(device)[0]: return res
    return res.to(device)


def held_out_preds(
    x: torch.Tensor,  # Standardised features (n, d)
    targets: torch.Tensor,  # Targets of the task (n,) or (n, c), on the device to train on
    numbers: Sequence[np.ndarray],  # Fold numbers (n,) of each repeat
    task: str,  # 'classification', 'multilabel' or 'regression'
    c: int,  # Number of columns to predict
    seed: int,  # Seed of the first repeat; the others have the next ones
    n_rounds: int = 3,  # Rounds of heads, whose probabilities are averaged
    tick: Callable = noop,  # Called with the share of the work that is done
) -> HeldOut:
    """Predict every item by heads that were trained without its fold: the mean over the repeats,
    and for classes over `n_rounds` rounds.

    The second round's heads are trained without the items whose given label seems a tenth as
    probable as another or less, the third's without all items whose label is not the most probable;
    further ones likewise. So fewer wrong labels are learnt, which helps most if they are alike
    (pairs of classes), and the first round keeps what is only hard. Several labels an item, where a
    rare label is improbable whether it is wrong or not, and numbers have one round."""
    y = targets.cpu().numpy()
    if task != 'classification': n_rounds = 1
    mean = np.zeros((len(y), c), np.float32)
    res = HeldOut(mean, [], [], [0.]*n_rounds)
    n_folds = [int(o.max()) + 1 for o in numbers]
    for r, fold in enumerate(numbers):
        for k, first in held_out_heads(x, targets, fold, task, c, seed + r):
            held_out = np.flatnonzero(fold == k)
            preds = np.zeros((len(held_out), c), np.float32)
            heads = _rounds(first, x, targets, fold, k, seed + r, n_rounds)
            for j, (head, left_out) in enumerate(heads):
                preds += _predicted(head, x, targets, held_out, task)/n_rounds
                res.heads.append(head)
                res.left_out[j] += left_out/sum(n_folds)
                tick(len(res.heads)/n_rounds/sum(n_folds))
            repeat = {'repeat': r} if len(numbers) > 1 else {}
            res.folds.append({**repeat, 'fold': k, 'items': len(held_out),
                              'penalty': float(f'{first.penalty:.3g}'),
                              METRICS[task]: agreement(preds, y[held_out], task)})
            mean[held_out] += preds/len(numbers)
    return res


def _rounds(first, x, targets, fold, k, seed, n_rounds):
    "Head and share of the items that it was trained without, of every round for fold `k`"
    rows = np.flatnonzero(fold != k)
    yield first, 0.
    if n_rounds == 1 or len(rows) < 4:
        for _ in range(1, n_rounds): yield first, 0.
        return
    # Whether an item is left out must not depend on the fold that the head will predict: judged by
    # the heads of the other folds, which were trained on it, the neighbours of an item that agree
    # with its label would stay, and with labels drawn at random three rounds agree by .05 more than
    # by chance. So the halves of the other folds judge each other, which finds as much
    y = targets[rows].cpu().numpy()
    if (fold[rows] == fold[rows[0]]).all(): half = fold_numbers(y, 2, seed=seed)
    else: half = np.unique(fold[rows], return_inverse=True)[1] % 2
    head = first
    trusted = np.ones(len(rows), dtype=bool)
    for j in range(1, n_rounds):
        probs = np.zeros((len(rows), first.weights.shape[1]), np.float32)
        for i in (0, 1):
            other = half != i
            # Of a few items, none of those that are trusted may be in a half
            if (other & trusted).any(): other = other & trusted
            judge = _again(first, x, targets, rows[other], zeros=True)
            probs[half == i] = _predicted(judge, x, targets, rows[half == i], 'classification')
        trusted = _trusted(probs, y, DOUBTED if j == 1 else 1.)
        head = _again(head, x, targets, rows[trusted])
        yield head, float(1 - trusted.mean())


def _again(head, x, targets, rows, zeros=False):
    "`head` trained on `rows`, from its own weights or from zeros"
    y = targets[rows]
    c = head.weights.shape[1]
    start = _start(y, x.shape[1], 'classification', c) if zeros else head.weights
    return head._replace(weights=_fit(Parts(x, y, rows, c), head.penalty, 'classification', start))


def _predicted(head, x, targets, rows, task):
    "Predictions (m, c) for `rows` of the features"
    if not len(rows): return np.zeros((0, head.weights.shape[1]), np.float32)
    parts = Parts(x, targets[rows], rows, head.weights.shape[1])
    return torch.cat([predict_head(head, o, task) for o, _ in parts]).numpy()


def _trusted(probs, y, share):
    """Mask of the items whose given label is at least `share` times as probable as the most
    probable one, and in each class of a quarter of the items, so that none dies out"""
    given = probs[np.arange(len(y)), y]
    trusted = given >= share*probs.max(1)
    for k in np.unique(y):
        items = np.flatnonzero(y == k)
        best = items[np.argsort(-given[items], kind='stable')]
        trusted[best[:int(np.ceil(TRUSTED*len(items)))]] = True
    return trusted


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
    1984, which suits wrong labels, since weak penalties fit them. Features and outputs are held in
    memory in parts of 256 MiB; the sum over all parts is what a single one would give."""
    n_folds = int(fold.max()) + 1
    for k in range(n_folds):
        train = np.flatnonzero(fold != k)
        inner = _inner(fold[train], k, n_folds, targets[train].cpu().numpy(), seed)
        yield k, _head(x, targets, train, inner, task, c, seed + k)


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


def _head(x, targets, rows, inner, task, c, seed):
    y = targets[rows]
    shift = torch.zeros(c, device=y.device)
    scale = torch.ones(c, device=y.device)
    if task == 'regression':
        y = y.reshape(len(y), -1)
        shift = y.mean(0)
        std = y.std(0, correction=0)
        scale = torch.where(std > 0, std, torch.ones_like(std))
        y = (y - shift)/scale
    start = _start(y, x.shape[1], task, c)
    penalty = _penalty(x, y, rows, inner, task, c, seed)
    return Head(_fit(Parts(x, y, rows, c), penalty, task, start), penalty, shift, scale)


def _penalty(x, y, rows, inner, task, c, seed):
    "The penalty for all of `rows`, chosen on at most MAX_ITEMS of them"
    drawn = np.random.default_rng(seed).permutation(len(rows))[:MAX_ITEMS]
    train, held_out = (np.sort(drawn[o]) for o in (~inner[drawn], inner[drawn]))
    if min(len(train), len(held_out)) < 2: return PENALTIES[1]

    trained = Parts(x, y[train], rows[train], c)
    tried = Parts(x, y[held_out], rows[held_out], c)
    best = PENALTIES[0]
    before = None
    w = _start(y[train], x.shape[1], task, c)
    for penalty in PENALTIES:
        w = _fit(trained, penalty, task, w)
        losses = torch.cat([_losses(xt @ w[:-1] + w[-1], yt, task) for xt, yt in tried])
        if before is not None:
            gain = before - losses
            if gain.mean() <= gain.std()/len(gain)**.5: break
        best = penalty
        before = losses
    # More items need less regularisation
    return best*len(train)/len(rows)


class Parts:
    """Rows of features with their targets, part by part, on the device of the targets. A single
    part is read once; several are read anew in every pass, so that one is in memory at a time."""

    def __init__(self,
        x: torch.Tensor,  # Features (n, d), in memory or in a memory map
        y: torch.Tensor,  # Targets (m,) or (m, c) of the rows
        rows: np.ndarray,  # Which rows of `x` (m,), ascending
        c: int,  # Number of outputs to compute from each row
    ):
        self.x = x
        self.y = y
        size = max(1, PART//(x.shape[1] + 4*c))
        self.rows = torch.from_numpy(rows).split(size)
        self.at = torch.arange(len(rows)).split(size)
        self.kept = [self._read(0)] if len(self.rows) == 1 else None

    def __len__(self): return len(self.y)

    def __iter__(self):
        for i in range(len(self.rows)): yield self.kept[0] if self.kept else self._read(i)

    def _read(self, i):
        device = self.y.device
        return self.x[self.rows[i].to(self.x.device)].to(device), self.y[self.at[i].to(device)]


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


def _fit(parts, penalty, task, start, tol=1e-3):
    """Weights (d + 1, c) that minimise the mean loss over `parts` plus `penalty`/2 times their
    squares (without the intercepts), starting at `start`"""
    w = start.clone().requires_grad_()
    opt = torch.optim.LBFGS([w], max_iter=100, history_size=10, tolerance_change=tol,
                            line_search_fn='strong_wolfe')

    def closure():
        opt.zero_grad()
        total = penalty/2*w[:-1].square().sum()
        total.backward()
        total = total.detach()
        for x, y in parts:
            loss = _losses(x @ w[:-1] + w[-1], y, task).sum()/len(parts)
            loss.backward()
            total += loss.detach()
        return total

    # Callbacks that predict are called without gradients
    with torch.enable_grad(): opt.step(closure)
    return w.detach()


def agreement(
    preds: np.ndarray,  # Probabilities (n, c), or numbers (n,) or (n, k)
    targets: np.ndarray,  # Given targets of the task
    task: str,  # 'classification', 'multilabel' or 'regression'
) -> float:
    "Share of the given classes, or of the single labels, that are predicted; for numbers R²"
    if task == 'classification': return float((preds.argmax(1) == targets).mean())
    if task == 'multilabel': return float(((preds > .5) == targets).mean())
    targets = targets.reshape(len(targets), -1)
    spread = np.square(targets - targets.mean(0)).sum()
    return float(1 - np.square(preds.reshape(targets.shape) - targets).sum()/max(spread, 1e-12))
