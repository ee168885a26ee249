"The one way to predict: one pass over a data set, in its order, with all that is wanted from it"
import copy
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from warnings import warn

import numpy as np
import torch
from fastai.callback.core import Callback
from fastai.losses import LabelSmoothingCrossEntropy
from fastai.torch_core import find_bs, no_random, to_np
from fastcore.basics import noop
from torch import nn
from torch.nn import functional as F

from .distributed import alone
from .labels import is_binary_loss

MAX_MASK_VALUES, MAX_FEATURES = 2**28, 4096
RECORDS = 'final_record', 'lrs', 'iters', 'losses', 'values', 'log', 'hps'

@dataclass
class Predicted:
    """What one pass gave, row i for item i of the data set: `preds`, float32 (n, c), for regression (n,) or (n, k), for
    masks (n, c, h, w); `masks` (n, h, w) the given ones as the model saw them; `losses` (n,); `features` (n, d), the
    inputs of the model's last linear layer; `metrics`, name -> value. What was not asked for, or cannot be had, is
    None or empty."""
    preds: np.ndarray
    masks: np.ndarray | None = None
    losses: torch.Tensor | None = None
    features: np.ndarray | None = None
    metrics: dict = field(default_factory=dict)


class _Collect(Callback):
    "Gathers batch by batch what `Predicted` holds"
    order = -2

    def __init__(self, act, task, n, tta, features, metrics):
        self.act, self.task, self.n, self.tta, self.mets = act, task, n, tta, metrics
        self.preds, self.masks, self.features, self.total, self.layer, self.factor = [], [], [], None, None, None
        self.with_features = features

    def before_validate(self):
        mets, self.mets = self.mets, []
        for m in mets:
            with _by_product(m):
                self.mets.append(copy.deepcopy(m))
                self.mets[-1].reset()
        layers = [m for m in self.learn.model.modules() if isinstance(m, nn.Linear)] if self.with_features else []
        if layers: self.layer = layers[-1].register_forward_pre_hook(self._see)

    def _see(self, _, inputs):
        if self.seen is None and inputs: self.seen = inputs[0]

    def before_batch(self): self.seen = None

    def after_batch(self):
        if not hasattr(self.learn, 'pred'): return
        for m in list(self.mets):
            self.mets.remove(m)
            with _by_product(m):
                m.accumulate(self.learn)
                self.mets.append(m)
        if len(self.yb):
            self.total = (self.total or 0) + float(self.learn.to_detach(self.learn.loss).mean())*find_bs(self.yb)
        if self.seen is not None: self.features.append(self.learn.to_detach(_per_item(self.seen, find_bs(self.xb))))
        preds = self.learn.pred
        if isinstance(preds, torch.Tensor):
            preds = self.act(preds)
            if self.tta: preds = (preds + self._flipped())/2
        if self.task == 'segmentation' and isinstance(preds, torch.Tensor) and preds.ndim == 4:
            preds, masks = self._smaller(preds, self.yb[0])
            self.masks.append(self.learn.to_detach(masks))
        self.preds.append(self.learn.to_detach(preds))

    def _flipped(self):
        if not any(isinstance(x, torch.Tensor) and x.ndim == 4 for x in self.xb):
            raise TypeError("tta is 'flip', but the inputs are no images (batch, channels, h, w): pass tta=None")
        plain = self.learn.pred
        try:
            self.learn.pred = self.learn.model(*(x.flip(-1) if isinstance(x, torch.Tensor) and x.ndim == 4 else x
                                                 for x in self.xb))
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
        inside = torch.where((masks >= 0) & (masks < c), masks, c).long()
        shares = F.avg_pool2d(F.one_hot(inside, c + 1).movedim(-1, 1).float(), self.factor, ceil_mode=True)
        return F.avg_pool2d(preds.float(), self.factor, ceil_mode=True), shares.argmax(1)

    def after_validate(self):
        if self.layer is not None: self.layer.remove()

    def after_cancel_validate(self): self.after_validate()


def predict(
    learn,  # The Learner that predicts
    dl,  # A DataLoader that is not shuffled, or a list of batches
    act,  # Activation that turns outputs into probabilities
    c=None,  # Number of classes, where known
    task='classification',  # One of `checks.TASKS`
    *,
    n=None,  # Number of items of the whole result, of which `dl` may be a part; None: those of `dl`
    with_loss=False,  # Whether to return losses, which a loss without `reduction` cannot give an item
    tta=None,  # 'flip': the mean of the predictions of an image and of its mirror image
    features=False,  # Whether to return features
    metrics=(),  # fastai metrics to compute, of the plain predictions; copies of them are used
) -> Predicted:
    """Predict every item once. Sorted DataLoaders are put back in order. Masks of more than 2**28 probabilities in all
    are averaged over squares of 2, 4, ... pixels, until they are fewer. Raises ValueError as `check_preds` does and for
    an unknown `tta`, TypeError where `tta` finds no images."""
    if tta not in (None, 'flip'): raise ValueError(f"tta is {tta!r}: choose 'flip' or None")
    idxs = list(dl.get_idxs()) if hasattr(dl, 'get_idxs') else None
    found = len(idxs) if idxs is not None else len(dl.dataset) if hasattr(dl, 'dataset') else None
    cb = _Collect(act, task, n or found or 1, tta, features, list(metrics))
    try:
        with alone(learn), _unnoticed(learn):
            *_, losses = learn.get_preds(dl=dl, with_preds=False, with_targs=False, with_loss=with_loss, reorder=False,
                                         cbs=cb)
    finally: cb.after_validate()
    preds = check_preds(_cat(cb.preds), found, c, task)
    order = slice(None) if idxs is None else np.argsort(idxs)
    masks = to_np(_cat(cb.masks))[order] if cb.masks else None
    same = len(cb.features) == len(cb.preds) and len({o.shape[1] for o in cb.features}) == 1
    feats = to_np(_cat(cb.features).float())[order] if same and cb.features[0].shape[1] else None
    return Predicted(preds[order], masks, losses[order] if with_loss else None, feats, _values(cb, len(preds)))


@contextmanager
def _unnoticed(learn):
    "`get_preds` empties the Learner's record and moves the random states: put both back"
    kept = [(o, {k: list(v) if isinstance(v, list) else v for k, v in vars(o).items() if k in RECORDS})
            for o in (learn, getattr(learn, 'recorder', learn))]
    with no_random():
        try: yield
        finally:
            for o, values in kept: vars(o).update(values)


def _cat(tensors):
    if not tensors:
        raise ValueError("no batch was predicted: a callback in force cancels validation; take it off, or keep it "
                         "out of the folds by in_folds = False in its class")
    if not all(isinstance(o, torch.Tensor) for o in tensors): return tensors[0]
    if len(shapes := {tuple(o.shape[1:]) for o in tensors}) > 1:
        raise ValueError(f"the items have predictions of {len(shapes)} shapes, such as {sorted(shapes)[:2]}: make the "
                         "images of one size, for example with item_tfms=Resize(128)")
    return torch.cat(tensors)


def _per_item(x, bs):
    "(bs, d): the mean over what lies between items and features; (bs, 0) where they are no features of items, or huge"
    if not isinstance(x, torch.Tensor) or x.ndim < 2 or x.shape[0] != bs or x.shape[-1] > MAX_FEATURES:
        return torch.zeros(bs, 0)
    return x.reshape(bs, -1, x.shape[-1]).mean(1)


def _values(cb, n):
    values = {} if cb.total is None else {'valid_loss': cb.total/n}
    for m in cb.mets:
        names = (f'{m.name}_{i}' if i else m.name for i in count())
        with _by_product(m): values[next(o for o in names if o not in {*values, 'fold', 'items'})] = float(m.value)
    return values


@contextmanager
def _by_product(metric):
    "A metric that fails costs its value, and a warning, not the predictions"
    try: yield
    except Exception as e:
        warn(f"metric {getattr(metric, 'name', metric)} has no value for the held-out items: {type(e).__name__}: {e}",
             stacklevel=2)


def infer_act(
    loss_func,  # Loss function of a Learner: fastai's, torch's module or function, or a partial of it
    act=None,  # Activation asked for; returned as it is where given
    task='classification',  # One of `TASKS`
):
    """The activation that turns the outputs of a model trained with `loss_func` into probabilities, or into numbers
    for regression.

    fastai's losses name theirs; torch's cross-entropy means softmax over the classes, its negative log-likelihood exp,
    its binary cross-entropy with logits a sigmoid, which fastai alone would return as logits. Outputs of other losses
    for numbers are taken as they are. Raises ValueError for any other loss, since guessing would be silent."""
    if act is not None:
        if not callable(act): raise TypeError(f"act is {act!r}: pass a function, for example torch.sigmoid")
        return act
    base = loss_func.func if isinstance(loss_func, partial) else loss_func
    name, inner = getattr(base, '__name__', type(base).__name__), getattr(base, 'func', base)
    binary = is_binary_loss(loss_func)
    if task == 'regression':
        if binary or isinstance(inner, (nn.CrossEntropyLoss, nn.NLLLoss)) or base in (F.cross_entropy, F.nll_loss):
            raise ValueError(f"loss_func is {name}, but the targets are numbers (regression): make them classes with "
                             "CategoryBlock or integers, or use a loss for numbers such as MSELossFlat")
        if isinstance(inner, nn.PoissonNLLLoss) and inner.log_input: return torch.exp
        return getattr(loss_func, 'activation', noop)
    if isinstance(inner, (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss)) and task == 'classification':
        raise ValueError(f"loss_func is {name}, but the targets are integers, which are taken for classes: make them "
                         "floats (RegressionBlock), or use cross-entropy")
    if binary and task != 'multilabel':
        raise ValueError(f"loss_func is {name}, whose outputs do not sum to 1 over the classes (multi-label), but "
                         "every item has one class: use one output a class and cross-entropy, or MultiCategoryBlock")
    if task == 'segmentation' and isinstance(inner, LabelSmoothingCrossEntropy): return partial(torch.softmax, dim=1)
    if hasattr(loss_func, 'activation'): return loss_func.activation
    if task == 'multilabel':
        if base is F.binary_cross_entropy_with_logits or isinstance(base, nn.BCEWithLogitsLoss): return torch.sigmoid
        if binary: return noop
    elif base is F.cross_entropy or isinstance(base, nn.CrossEntropyLoss): return partial(torch.softmax, dim=1)
    elif base is F.nll_loss or isinstance(base, nn.NLLLoss): return torch.exp
    raise ValueError(f"loss_func is {name}, which has no `activation`: pass act=, the function that turns the "
                     "model's outputs into probabilities, for example act=partial(torch.softmax, dim=1)")


def check_preds(
    preds,  # Tensor as the activation gave it: (n, c), regression (n,) or (n, k), segmentation (n, c, h, w)
    n=None,  # Number of items that were to be predicted, where known
    c=None,  # Number of classes, where known
    task='classification',  # One of `TASKS`
) -> np.ndarray:  # float32, (n, 1) made (n,) for regression
    "`preds` as an array, or a ValueError that says why it cannot be class probabilities, or numbers for regression"
    ndims, shape = {'regression': ((1, 2), '(n,) or (n, outputs)'), 'segmentation': ((4,), '(n, classes, h, w)')}.get(
        task, ((2,), '(n, classes)'))
    if not isinstance(preds, torch.Tensor) or preds.ndim not in ndims:
        found = f"shape {tuple(preds.shape)}" if isinstance(preds, torch.Tensor) else f"a {type(preds).__name__}"
        raise ValueError(f"the model's predictions are {found}, not {shape}: {task} needs one output a "
                         f"{'target' if task == 'regression' else 'class'}")
    if n is not None and len(preds) != n:
        raise ValueError(f"the model predicted {len(preds)} of {n} items: some were skipped while loading "
                         "(SkipItemException?); leave them out of the data set")
    p = preds.detach().float().cpu().numpy()
    if task == 'regression' and p.ndim == 2 and p.shape[1] == 1: p = p[:, 0]
    found = 1 if p.ndim == 1 else p.shape[1]
    if c is not None and found != c:
        kind = f'there are {c} targets an item' if task == 'regression' else f'the vocab has {c} classes'
        raise ValueError(f"the model has {found} outputs, but {kind}")
    bad = ~np.isfinite(p.reshape(len(p), -1)).all(1)
    if bad.any():
        raise ValueError(f"the predictions of {bad.sum()} items are NaN or infinite: the model "
                         "diverged; lower the learning rate or clip gradients")
    if task == 'regression': return p
    off = 0 if task == 'multilabel' else np.abs(p.sum(1) - 1).max(initial=0)
    if p.min(initial=0) < -1e-3 or p.max(initial=0) > 1 + 1e-3 or off > 1e-3:
        why = 'values outside 0..1' if task == 'multilabel' else 'rows do not sum to 1'
        raise ValueError(f"the predictions are not probabilities ({why}): pass act=, the function that "
                         "turns the model's outputs into probabilities")
    return p.clip(0, 1) if task == 'multilabel' else p

