"What a Learner must be for its labels to be checked; everything here only looks and raises"
from functools import partial

import numpy as np
import pandas as pd
import torch
from fastai.losses import LabelSmoothingCrossEntropy
from fastai.optimizer import Optimizer, OptimWrapper
from fastcore.basics import noop
from torch import nn
from torch.nn import functional as F

__all__ = ['TASKS', 'as_array', 'as_probs', 'check_labels', 'check_labels_probs', 'check_opt_func', 'check_preds',
           'check_rows', 'check_vocab', 'float_of', 'infer_act', 'is_binary_loss', 'task_of']

TASKS = 'classification', 'multilabel', 'regression', 'segmentation'


def check_labels_probs(
    labels,  # Class indices (n,) below c, or values of `vocab`
    pred_probs,  # Probabilities (n, c), each row summing to 1; array, tensor or DataFrame
    vocab=None,  # The c class names, in the order of the columns of `pred_probs`
) -> tuple[np.ndarray, np.ndarray]:  # int64 labels (n,) and float pred_probs (n, c), not copied where already such
    """The one validation of labels and predicted probabilities: cleanlab itself lets NaN and logits pass.

    Raises TypeError for what is not numbers, ValueError for shapes that do not fit, values outside 0..1, NaN, rows
    that do not sum to 1 and labels outside the vocab; the message says which rows."""
    probs = as_probs(pred_probs)
    probs = probs.astype(float_of(probs.dtype), copy=False)
    if check_rows(probs): probs = probs.clip(0, 1)
    return check_labels(labels, *probs.shape, vocab), probs


def as_array(
    x,  # Array, list, DataFrame, or tensor on any device
) -> np.ndarray:
    "`x` as an array, not copied where it need not be"
    if not isinstance(x, torch.Tensor): return np.asarray(x)
    x = x.detach().cpu()
    return (x.float() if x.dtype == torch.bfloat16 else x).numpy()


def check_vocab(
    vocab,  # Names of the classes, or None
    c,  # Number of classes in pred_probs
    many='classes',  # What pred_probs has `c` of, for the message
    one='class',  # One of these
):
    "Raise TypeError for what is no list, ValueError where there is not one name a class, or two are the same"
    if vocab is None: return
    if not hasattr(vocab, '__len__'): raise TypeError(f"vocab is {vocab!r}: pass a list of the {c} class names")
    if len(vocab) != c or len(set(vocab)) != len(vocab):
        raise ValueError(f"vocab has {len(set(vocab))} different names in {len(vocab)}, but pred_probs has {c} "
                         f"{many}: pass one name a {one}")


def as_probs(
    pred_probs,  # Array, tensor or DataFrame
) -> np.ndarray:  # Not copied where it need not be
    "`pred_probs` as an array of numbers (n, c); raises as `check_labels_probs` does, but does not look at the values"
    try: probs = as_array(pred_probs)
    except ValueError as e: raise ValueError(f"pred_probs is no table ({e}): pass one row of c numbers an item") from e
    if probs.dtype.kind not in 'fiu':
        raise TypeError(f"pred_probs has dtype {probs.dtype}: pass a numeric array of shape (items, classes)")
    if probs.ndim != 2 or probs.shape[1] < 2 or not len(probs):
        raise ValueError(f"pred_probs has shape {probs.shape}: pass (items, classes), at least 1 item and 2 classes")
    return probs


def float_of(
    dtype,  # dtype of probabilities
) -> np.dtype:
    "float32 for itself and for all that is smaller, else float64"
    return np.dtype(np.float32 if dtype == np.float32 or dtype.itemsize < 4 else np.float64)


def check_rows(
    probs,  # Numbers (n, c)
) -> bool:  # Whether any value is a hair outside 0..1
    "Raise ValueError where a row is no probabilities; looks at a few rows at a time, and copies none but those"
    bad, off, beyond = _bad_rows(probs)
    if bad.any():
        raise ValueError(f"pred_probs has NaN or infinite values in {bad.sum()} rows, first in row {bad.argmax()}: "
                         "leave those items out, or predict them (an interrupted fold leaves its rows NaN)")
    if off.any():
        p = probs[off.argmax()].astype(float_of(probs.dtype))
        raise ValueError(f"pred_probs has {off.sum()} rows that are no probabilities, first row {off.argmax()} with "
                         f"values from {p.min():.4g} to {p.max():.4g} and sum {p.sum():.4g}: pass probabilities that "
                         "sum to 1, not logits")
    return beyond


def _bad_rows(probs, values=2**22):
    "Rows that are not finite, rows that are no probabilities, and whether any value is a hair outside 0..1"
    beyond, size = False, max(1, values//probs.shape[1])
    bad, off = np.zeros((2, len(probs)), dtype=bool)
    for i in range(0, len(probs), size):
        p = probs[i:i + size]
        p = p.astype(float_of(p.dtype), copy=False)
        low, high, total = p.min(1), p.max(1), p.sum(1)
        beyond |= bool(low.min() < 0 or high.max() > 1)
        bad[i:i + size] = ~np.isfinite(low) | ~np.isfinite(high)
        off[i:i + size] = (low < -1e-6) | (high > 1 + 1e-3) | (np.abs(total - 1) > 1e-2)
    return bad, off, beyond


def check_labels(
    labels,  # Class indices (n,) below c, or values of `vocab`
    n,  # Number of items
    c,  # Number of classes
    vocab=None,  # The c class names
) -> np.ndarray:  # int64 (n,)
    "The class indices of `labels`; raises as `check_labels_probs` does"
    check_vocab(vocab, c, 'columns', 'column')
    y = as_array(labels)
    if y.shape != (n,):
        raise ValueError(f"labels has shape {y.shape}, but pred_probs has {n} rows: pass one label an item")
    if pd.isna(y).any(): raise ValueError(f"labels has {pd.isna(y).sum()} missing values: label or leave out the items")
    if y.dtype == object and all(isinstance(o, (int, np.integer)) for o in y):
        y = y.clip(-1, c).astype(np.int64)  # what is beyond 64 bits too is outside the vocab
    if y.dtype.kind not in 'iub':
        if vocab is None:
            raise TypeError(f"labels has dtype {y.dtype}: pass class indices 0..{c - 1}, or vocab= to name the columns")
        index = {v: i for i, v in enumerate(vocab)}
        unknown = sorted({repr(v) for v in y.tolist() if v not in index})
        if unknown:
            raise ValueError(f"labels has {len(unknown)} values outside the vocab, for example {unknown[0][:80]}: "
                             "correct them or add them to vocab and pred_probs")
        y = np.array([index[v] for v in y.tolist()])
    bad = (y < 0) | (y >= c)
    if bad.any():
        raise ValueError(f"labels has {bad.sum()} values outside the vocab, first {y[bad.argmax()]} at position "
                         f"{bad.argmax()}: pred_probs has {c} columns, so labels must be 0..{c - 1}")
    return y.astype(np.int64, copy=False)


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


def is_binary_loss(
    loss_func,  # Loss function of a Learner
) -> bool:
    "Whether `loss_func` is fastai's or torch's binary cross-entropy"
    base = loss_func.func if isinstance(loss_func, partial) else loss_func
    return (isinstance(getattr(base, 'func', base), (nn.BCELoss, nn.BCEWithLogitsLoss))
            or base in (F.binary_cross_entropy, F.binary_cross_entropy_with_logits))


def check_opt_func(
    opt_func,  # `opt_func` of a Learner
):
    "Raise TypeError where `opt_func` is a built optimizer, which is tied to the parameters of one model"
    if isinstance(opt_func, (OptimWrapper, Optimizer, torch.optim.Optimizer)):
        raise TypeError(f"opt_func is a built {type(opt_func).__name__}, tied to the parameters of one model: pass a "
                        "function that builds it, for example opt_func=partial(OptimWrapper, opt=torch.optim.AdamW)")


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


def task_of(
    first,  # The first target of the data set, as the data set gives it
) -> str:  # One of `TASKS`
    """What kind of labels a target belongs to: an integer is a class, fastai's TensorMultiCategory several, a mask or a
    matrix of integers one a pixel, a float or a vector of floats numbers to predict. Raises TypeError for the rest."""
    kinds = {o.__name__ for o in type(first).__mro__}
    a = first.dtype.kind if isinstance(first, (np.generic, np.ndarray)) else 'i'
    known = isinstance(first, (int, float, np.generic, np.ndarray, torch.Tensor)) and a in 'biuf'
    t = torch.as_tensor(first) if known else None
    if kinds & {'TensorMultiCategory', 'MultiCategory'}: return 'multilabel'
    if kinds & {'PILMask', 'TensorMask'}: return 'segmentation'
    if t is not None and not kinds & {'TensorPoint', 'TensorBBox', 'TensorImageBase'}:
        if t.ndim == 0: return 'regression' if t.is_floating_point() else 'classification'
        if t.ndim == 1 and t.is_floating_point(): return 'regression'
        if t.ndim == 2 and not t.is_floating_point(): return 'segmentation'
    raise TypeError(f"the targets are of type {type(first).__name__}, but label issues need one class (CategoryBlock "
                    "or an integer), several (MultiCategoryBlock), a mask (MaskBlock) or numbers (RegressionBlock) an "
                    "item")
