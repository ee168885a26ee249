"The one way to predict: one pass over a data set, in its order, for all that is wanted of it"
import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any
from warnings import warn

import numpy as np
import torch
from fastai.callback.core import Callback, CancelEpochException, CancelFitException
from fastai.data.load import DataLoader
from fastai.learner import Learner, Metric
from fastai.losses import LabelSmoothingCrossEntropy
from fastai.torch_core import find_bs, no_random, to_np
from fastcore.basics import noop
from torch import nn
from torch.nn import functional as F

from .distributed import alone
from .labels import is_binary_loss

MAX_MASK_VALUES = 2**28  # Probabilities of masks that are kept: 1 GiB
MAX_FEATURES = 4096  # With more than this, the inputs of a layer are not features but pixels
RECORDS = 'final_record', 'lrs', 'iters', 'losses', 'values', 'log', 'hps'


@dataclass
class Predicted:
    """The results of one pass, row i for item i of the data set.

    `preds` are float32 (n, c), for regression (n,) or (n, k), for masks (n, c, h, w); `masks` (n,
    h, w) the given ones as the model saw them; `losses` (n,); `features` (n, d) the inputs of the
    model's last linear layer; `metrics` name -> value. What was not asked for, or cannot be had, is
    None or empty."""
    preds: np.ndarray
    masks: np.ndarray | None = None
    losses: torch.Tensor | None = None
    features: np.ndarray | None = None
    metrics: dict = field(default_factory=dict)


def predict(
    learn: Learner,  # The Learner that predicts
    dl: DataLoader | Sequence,  # A DataLoader that is not shuffled, or a list of batches
    act: Callable,  # Activation that turns outputs into probabilities
    c: int | None = None,  # Number of classes, if known
    task: str = 'classification',  # One of `issues.checks.TASKS`
    *,
    n: int | None = None,  # Number of items in all, if `dl` is a part of them; None: those of `dl`
    with_loss: bool = False,  # Whether to return losses, for which the loss needs a `reduction`
    tta: str | None = None,  # 'flip': the mean over each image and its mirror image; None: off
    features: bool = False,  # Whether to return features
    metrics: Sequence[Metric] = (),  # Metrics of the plain predictions; copies of them are used
) -> Predicted:
    """Predict every item once.

    Masks of more than 2**28 probabilities in all are averaged over squares of 2, 4, ... pixels,
    until they are fewer. Raises ValueError as `check_preds` does and for an unknown `tta`,
    TypeError if `tta` finds no images."""
    if tta not in (None, 'flip'): raise ValueError(f"tta is {tta!r}: choose 'flip' or None")

    idxs = list(dl.get_idxs()) if hasattr(dl, 'get_idxs') else None
    found = None
    if idxs is not None: found = len(idxs)
    elif hasattr(dl, 'dataset'): found = len(dl.dataset)
    cb = _Collect(act, task, n or found or 1, tta, features, list(metrics))
    try:
        with alone(learn), _unnoticed(learn), _uncancelled(learn):
            # `reorder` would sort only what GatherPredsCallback holds; this callback holds the rest
            *_, losses = learn.get_preds(dl=dl, with_preds=False, with_targs=False,
                                         with_loss=with_loss, reorder=False, cbs=cb)
    finally: cb.after_validate()

    preds = check_preds(_cat(cb.preds), found, c, task)
    # SortedDL reads items by length: what came k-th is item `idxs[k]`
    order = slice(None) if idxs is None else np.argsort(idxs)
    masks = to_np(_cat(cb.masks))[order] if cb.masks else None
    feats = _features(cb)
    return Predicted(preds[order], masks, losses[order] if with_loss else None,
                     None if feats is None else feats[order], _values(cb, len(preds)))


class _Collect(Callback):
    "Gathers batch by batch what `Predicted` holds"
    order = -2

    def __init__(self, act, task, n, tta, with_features, metrics):
        self.act = act
        self.task = task
        self.n = n
        self.tta = tta
        self.with_features = with_features
        self.mets = metrics
        self.preds = []
        self.masks = []
        self.features = []
        self.total = None
        self.layer = None
        self.factor = None

    def before_validate(self):
        mets = self.mets
        self.mets = []
        for m in mets:
            with _by_product(m):
                self.mets.append(copy.deepcopy(m))
                self.mets[-1].reset()
        if not self.with_features: return
        layers = [m for m in self.learn.model.modules() if isinstance(m, nn.Linear)]
        if layers: self.layer = layers[-1].register_forward_pre_hook(self._see)

    def _see(self, _, inputs):
        if self.seen is None and inputs: self.seen = inputs[0]

    def before_batch(self): self.seen = None

    def after_batch(self):
        # A callback that cancels the batch may leave no prediction
        if not hasattr(self.learn, 'pred'): return
        self._measure()
        if self.seen is not None:
            self.features.append(self.learn.to_detach(item_features(self.seen, find_bs(self.xb))))

        preds = self.learn.pred
        if isinstance(preds, torch.Tensor):
            preds = self.act(preds)
            if self.tta: preds = (preds + self._flipped())/2
        if self.task == 'segmentation' and isinstance(preds, torch.Tensor) and preds.ndim == 4:
            preds, masks = self._smaller(preds, self.yb[0])
            self.masks.append(self.learn.to_detach(masks))
        self.preds.append(self.learn.to_detach(preds))

    def _measure(self):
        for m in list(self.mets):
            self.mets.remove(m)
            with _by_product(m):
                m.accumulate(self.learn)
                self.mets.append(m)
        if len(self.yb):
            loss = float(self.learn.to_detach(self.learn.loss).mean())
            self.total = (self.total or 0) + loss*find_bs(self.yb)

    def _flipped(self):
        "Predictions of the mirror images; `learn.pred` stays that of the images"
        if not any(_is_images(x) for x in self.xb):
            raise TypeError("tta is 'flip', but the inputs are not images (batch, channels, h, w): "
                            "pass tta=None")
        # Not fastai's `tta`, which fails on TfmdLists and augments at random
        plain = self.learn.pred
        try:
            mirrored = [x.flip(-1) if _is_images(x) else x for x in self.xb]
            self.learn.pred = self.learn.model(*mirrored)
            self.learn('after_pred')
            preds = self.act(self.learn.pred)
        finally: self.learn.pred = plain
        return preds.flip(-1) if self.task == 'segmentation' else preds

    def _smaller(self, preds, masks):
        if self.factor is None:
            self.factor = 1
            while self.n*preds[0].numel()/self.factor**2 > MAX_MASK_VALUES: self.factor *= 2
        if self.factor == 1: return preds, masks

        c = preds.shape[1]
        # Pixels without a class, such as a border of 255, are a class of their own until the vote
        inside = torch.where((masks >= 0) & (masks < c), masks, c).long()
        shares = F.one_hot(inside, c + 1).movedim(-1, 1).float()
        shares = F.avg_pool2d(shares, self.factor, ceil_mode=True)
        return F.avg_pool2d(preds.float(), self.factor, ceil_mode=True), shares.argmax(1)

    def after_validate(self):
        if self.layer is not None: self.layer.remove()

    def after_cancel_validate(self): self.after_validate()


def _is_images(x): return isinstance(x, torch.Tensor) and x.ndim == 4


@contextmanager
def _unnoticed(learn):
    "`get_preds` empties the Learner's record and moves the random states: put both back"
    kept = []
    for o in (learn, getattr(learn, 'recorder', learn)):
        values = {k: v for k, v in vars(o).items() if k in RECORDS}
        for k, v in values.items():
            if isinstance(v, list): values[k] = list(v)
        kept.append((o, values))
    with no_random():
        try: yield
        finally:
            for o, values in kept: vars(o).update(values)


@contextmanager
def _uncancelled(learn) -> Iterator[None]:
    """A callback that ends a fit after an epoch has nothing to end here: `get_preds` calls that
    event outside of what catches it"""
    put = vars(learn).get('_call_one')
    call = learn._call_one

    def call_one(name):
        cancels = (CancelFitException, CancelEpochException) if name == 'after_epoch' else ()
        with suppress(*cancels): call(name)
    learn._call_one = call_one
    try: yield
    finally:
        del learn._call_one
        if put is not None: learn._call_one = put


@contextmanager
def _by_product(metric) -> Iterator[None]:
    "A metric that fails costs its value, and a warning, but not the predictions"
    try: yield
    except Exception as e:
        name = getattr(metric, 'name', metric)
        warn(f"metric {name} has no value for the held-out items: {type(e).__name__}: "
             f"{e}", stacklevel=2)


def _cat(tensors):
    if not tensors:
        raise ValueError("no batch was predicted: a callback in force cancels validation; remove "
                         "it, or keep it out of the folds with in_folds = False in its class")
    if not all(isinstance(o, torch.Tensor) for o in tensors): return tensors[0]
    shapes = {tuple(o.shape[1:]) for o in tensors}
    if len(shapes) > 1:
        raise ValueError(f"the items have predictions of {len(shapes)} shapes, such as "
                         f"{sorted(shapes)[:2]}: make the images of one size, for example with "
                         "item_tfms=Resize(128)")
    return torch.cat(tensors)


def _features(cb):
    "(n, d) float32, or None if a batch had none, or if their number differs between batches"
    widths = {o.shape[1] for o in cb.features}
    if len(cb.features) != len(cb.preds) or len(widths) != 1 or 0 in widths: return None
    return to_np(_cat(cb.features).float())


def item_features(
    x: Any,  # What went into a layer
    bs: int,  # Number of items of the batch
) -> torch.Tensor:  # (bs, d), or (bs, 0) if `x` is not one row of features per item, or a huge one
    "One row per item: the mean over the axes between items and features, such as that of words"
    if not isinstance(x, torch.Tensor) or x.ndim < 2 or x.shape[0] != bs: return torch.zeros(bs, 0)
    if x.shape[-1] > MAX_FEATURES: return torch.zeros(bs, 0)
    return x.reshape(bs, -1, x.shape[-1]).mean(1)


def _values(cb, n):
    "Metrics by name; a name that is taken gets a number"
    values = {} if cb.total is None else {'valid_loss': cb.total/n}
    for m in cb.mets:
        names = (f'{m.name}_{i}' if i else m.name for i in count())
        with _by_product(m):
            # 'fold' and 'items' are columns of the folds' table of metrics
            name = next(o for o in names if o not in {*values, 'fold', 'items'})
            values[name] = float(m.value)
    return values


def infer_act(
    loss_func: Callable,  # Loss function of a Learner: fastai's, torch's, or a partial of it
    act: Callable | None = None,  # Activation that the user asks for, which is returned as it is
    task: str = 'classification',  # One of `issues.checks.TASKS`
) -> Callable:
    """The activation that turns the outputs of a model trained with `loss_func` into probabilities,
    or into numbers for regression.

    fastai's losses name theirs. torch's cross-entropy means softmax over the classes, its negative
    log-likelihood exp, its binary cross-entropy with logits a sigmoid. Outputs of other losses for
    numbers are taken as they are. Raises TypeError if `act` is not a function, and ValueError for
    any other loss, since a wrong guess would go unnoticed, and for a loss of another task."""
    if act is not None:
        if not callable(act):
            raise TypeError(f"act is {act!r}: pass a function, for example torch.sigmoid")
        return act

    base = loss_func.func if isinstance(loss_func, partial) else loss_func
    name = getattr(base, '__name__', type(base).__name__)
    inner = getattr(base, 'func', base)
    if task == 'regression': return _regression_act(loss_func, base, inner, name)
    binary = is_binary_loss(loss_func)
    numbers = isinstance(inner, (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss))
    if numbers and task == 'classification':
        raise ValueError(f"loss_func is {name}, but the targets are integers, which are taken for "
                         "classes: make them floats (RegressionBlock), or use cross-entropy")
    if binary and task != 'multilabel':
        raise ValueError(f"loss_func is {name}, whose outputs do not sum to 1 over the classes "
                         "(multi-label), but every item has one class: use one output per class "
                         "and cross-entropy, or MultiCategoryBlock")
    # fastai's takes the softmax over the last axis, which is the width of a mask
    if task == 'segmentation' and isinstance(inner, LabelSmoothingCrossEntropy):
        return partial(torch.softmax, dim=1)
    if hasattr(loss_func, 'activation'): return loss_func.activation
    # For a loss without an `activation`, `get_preds` would return logits
    found = _torch_act(base, binary, task)
    if found is None:
        raise ValueError(f"loss_func is {name}, which has no `activation`: pass act=, the function "
                         "that turns the model's outputs into probabilities, for example "
                         "act=partial(torch.softmax, dim=1)")
    return found


def _regression_act(loss_func, base, inner, name):
    of_classes = isinstance(inner, (nn.CrossEntropyLoss, nn.NLLLoss))
    if of_classes or base in (F.cross_entropy, F.nll_loss) or is_binary_loss(loss_func):
        raise ValueError(f"loss_func is {name}, but the targets are numbers (regression): make "
                         "them classes with CategoryBlock or integers, or use a loss for numbers "
                         "such as MSELossFlat")
    if isinstance(inner, nn.PoissonNLLLoss) and inner.log_input: return torch.exp
    return getattr(loss_func, 'activation', noop)


def _torch_act(base, binary, task):
    if task == 'multilabel':
        with_logits = isinstance(base, nn.BCEWithLogitsLoss)
        if with_logits or base is F.binary_cross_entropy_with_logits: return torch.sigmoid
        return noop if binary else None
    if base is F.cross_entropy or isinstance(base, nn.CrossEntropyLoss):
        return partial(torch.softmax, dim=1)
    return torch.exp if base is F.nll_loss or isinstance(base, nn.NLLLoss) else None


SHAPES = {  # task -> how many axes predictions have, and their names
    'classification': ((2,), '(n, classes)'), 'multilabel': ((2,), '(n, classes)'),
    'regression': ((1, 2), '(n,) or (n, outputs)'), 'segmentation': ((4,), '(n, classes, h, w)')}


def check_preds(
    preds: Any,  # A tensor (n, c), for regression (n,) or (n, k), for masks (n, c, h, w)
    n: int | None = None,  # Number of items that were to be predicted, if known
    c: int | None = None,  # Number of classes, if known
    task: str = 'classification',  # One of `issues.checks.TASKS`
) -> np.ndarray:  # float32, (n, 1) made (n,) for regression
    "`preds` as an array. Raises ValueError if they cannot be class probabilities, or numbers"
    _check_shape(preds, task)
    if n is not None and len(preds) != n:
        raise ValueError(f"the model predicted {len(preds)} of {n} items: some were skipped while "
                         "loading (SkipItemException?); leave them out of the data set")
    p = preds.detach().float().cpu().numpy()
    if task == 'regression' and p.ndim == 2 and p.shape[1] == 1: p = p[:, 0]
    found = 1 if p.ndim == 1 else p.shape[1]
    if c is not None and found != c:
        wanted = f'the vocab has {c} classes'
        if task == 'regression': wanted = f'there are {c} targets per item'
        raise ValueError(f"the model has {found} outputs, but {wanted}")
    bad = ~np.isfinite(p.reshape(len(p), -1)).all(1)
    if bad.any():
        raise ValueError(f"the predictions of {bad.sum()} items are NaN or infinite: the model "
                         "diverged; lower the learning rate or clip gradients")
    if task == 'regression': return p

    off = 0 if task == 'multilabel' else np.abs(p.sum(1) - 1).max(initial=0)
    # Half precision sums to 1 within a thousandth
    if p.min(initial=0) < -1e-3 or p.max(initial=0) > 1 + 1e-3 or off > 1e-3:
        why = 'values outside 0..1' if task == 'multilabel' else 'rows do not sum to 1'
        raise ValueError(f"the predictions are not probabilities ({why}): pass act=, the function "
                         "that turns the model's outputs into probabilities")
    return p.clip(0, 1) if task == 'multilabel' else p


def _check_shape(preds, task):
    ndims, shape = SHAPES[task]
    is_tensor = isinstance(preds, torch.Tensor)
    if is_tensor and preds.ndim in ndims: return
    found = f"shape {tuple(preds.shape)}" if is_tensor else f"a {type(preds).__name__}"
    target = 'target' if task == 'regression' else 'class'
    raise ValueError(f"the model's predictions are {found}, not {shape}: {task} needs one output "
                     f"per {target}")
