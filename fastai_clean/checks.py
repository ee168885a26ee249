"What a Learner must be for its labels to be checked; everything here only looks and raises"
from functools import partial

import numpy as np
import pandas as pd
import torch
from fastai.optimizer import Optimizer, OptimWrapper
from torch import nn
from torch.nn import functional as F

__all__ = ['check_labels_probs', 'infer_act', 'check_opt_func', 'check_probs', 'check_class_targets']


def check_labels_probs(
    labels,  # Class indices (n,) below c, or values of `vocab`
    pred_probs,  # Probabilities (n, c), each row summing to 1; array, tensor or DataFrame
    vocab=None,  # The c class names, in the order of the columns of `pred_probs`
) -> tuple[np.ndarray, np.ndarray]:  # int64 labels (n,) and float pred_probs (n, c), not copied where already such
    """The one validation of labels and predicted probabilities: cleanlab itself lets NaN and logits pass.

    Raises TypeError for what is not numbers, ValueError for shapes that do not fit, values outside 0..1, NaN, rows
    that do not sum to 1 and labels outside the vocab; the message says which rows."""
    probs = pred_probs.detach().cpu().numpy() if isinstance(pred_probs, torch.Tensor) else np.asarray(pred_probs)
    if probs.dtype.kind not in 'fiu':
        raise TypeError(f"pred_probs has dtype {probs.dtype}: pass a numeric array of shape (items, classes)")
    if probs.ndim != 2 or probs.shape[1] < 2 or not len(probs):
        raise ValueError(f"pred_probs has shape {probs.shape}: pass (items, classes), at least 1 item and 2 classes")
    if probs.dtype not in (np.float32, np.float64): probs = probs.astype(np.float32 if probs.itemsize < 4 else float)
    bad = ~np.isfinite(probs).all(1)
    if bad.any():
        raise ValueError(f"pred_probs has NaN or infinite values in {bad.sum()} rows, first in row {bad.argmax()}: "
                         "leave those items out, or predict them (an interrupted fold leaves its rows NaN)")
    bad = ((probs < -1e-6) | (probs > 1 + 1e-3)).any(1) | (np.abs(probs.sum(1) - 1) > 1e-2)
    if bad.any():
        row = bad.argmax()
        raise ValueError(f"pred_probs has {bad.sum()} rows that are no probabilities, first row {row} with values from "
                         f"{probs[row].min():.4g} to {probs[row].max():.4g} and sum {probs[row].sum():.4g}: "
                         "pass probabilities that sum to 1, not logits")
    if vocab is not None and (len(vocab) != probs.shape[1] or len(set(vocab)) != len(vocab)):
        raise ValueError(f"vocab has {len(set(vocab))} different names in {len(vocab)}, but pred_probs has "
                         f"{probs.shape[1]} columns: pass one name a column")
    return _check_labels(labels, *probs.shape, vocab), probs


def _check_labels(labels, n, c, vocab):
    y = labels.detach().cpu().numpy() if isinstance(labels, torch.Tensor) else np.asarray(labels)
    if y.shape != (n,):
        raise ValueError(f"labels has shape {y.shape}, but pred_probs has {n} rows: pass one label an item")
    if pd.isna(y).any(): raise ValueError(f"labels has {pd.isna(y).sum()} missing values: label or leave out the items")
    if y.dtype == object and all(isinstance(o, (int, np.integer)) for o in y): y = y.astype(np.int64)
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
):
    """The activation that turns the outputs of a model trained with `loss_func` into probabilities.

    fastai's losses name theirs; torch's cross-entropy means softmax and its negative log-likelihood exp, which
    fastai alone would return as logits. Raises ValueError for any other loss, since guessing would be silent."""
    if act is not None: return act
    base = loss_func.func if isinstance(loss_func, partial) else loss_func
    name = getattr(base, '__name__', type(base).__name__)
    if (isinstance(getattr(base, 'func', base), (nn.BCELoss, nn.BCEWithLogitsLoss))
            or base in (F.binary_cross_entropy, F.binary_cross_entropy_with_logits)):
        raise ValueError(f"loss_func is {name}, whose outputs do not sum to 1 over the classes: multi-label and "
                         "one-output models are not supported, use a model with one output a class and cross-entropy")
    if hasattr(loss_func, 'activation'): return loss_func.activation
    if base is F.cross_entropy or isinstance(base, nn.CrossEntropyLoss): return partial(torch.softmax, dim=-1)
    if base is F.nll_loss or isinstance(base, nn.NLLLoss): return torch.exp
    raise ValueError(f"loss_func is {name}, which has no `activation`: pass act=, the function that turns the "
                     "model's outputs into probabilities, for example act=partial(torch.softmax, dim=-1)")


def check_opt_func(
    opt_func,  # `opt_func` of a Learner
):
    "Raise TypeError where `opt_func` is a built optimizer, which is tied to the parameters of one model"
    if isinstance(opt_func, (OptimWrapper, Optimizer, torch.optim.Optimizer)):
        raise TypeError(f"opt_func is a built {type(opt_func).__name__}, tied to the parameters of one model: pass a "
                        "function that builds it, for example opt_func=partial(OptimWrapper, opt=torch.optim.AdamW)")


def check_probs(
    probs,  # Float tensor (n, c), as the Learner's `get_preds` gave it
    n=None,  # Number of items that were to be predicted, where known
    c=None,  # Number of classes, where known
) -> np.ndarray:  # (n, c) float32
    "`probs` as an array, or a ValueError that says why it cannot be class probabilities"
    if not isinstance(probs, torch.Tensor) or probs.ndim != 2:
        found = f"shape {tuple(probs.shape)}" if isinstance(probs, torch.Tensor) else f"a {type(probs).__name__}"
        raise ValueError(f"the model's predictions are {found}, not (n, classes): one output a class is needed")
    if n is not None and len(probs) != n:
        raise ValueError(f"the model predicted {len(probs)} of {n} items: some were skipped while loading "
                         "(SkipItemException?); leave them out of the data set")
    if c is not None and probs.shape[1] != c:
        raise ValueError(f"the model has {probs.shape[1]} outputs, but the vocab has {c} classes")
    p = probs.detach().float().cpu().numpy()
    if not np.isfinite(p).all():
        raise ValueError(f"the predictions of {(~np.isfinite(p).all(1)).sum()} items are NaN or infinite: the model "
                         "diverged; lower the learning rate or clip gradients")
    if p.min(initial=0) < -1e-3 or np.abs(p.sum(1) - 1).max(initial=0) > 1e-3:
        raise ValueError("the predictions are not probabilities (rows do not sum to 1): pass act=, the function that "
                         "turns the model's outputs into probabilities")
    return p


def check_class_targets(
    first,  # The first target of the data set, as the data set gives it
):
    "Raise TypeError where `first` is no class index: regression, masks, several labels, text"
    kind = type(first).__name__
    t = torch.as_tensor(first) if isinstance(first, (int, float, np.generic, np.ndarray, torch.Tensor)) else None
    if t is not None and t.ndim == 0 and not t.is_floating_point(): return
    what = ('several labels an item (multi-label)' if 'Multi' in kind else
            'masks (segmentation)' if 'Mask' in kind else 'text' if 'Text' in kind else
            'numbers (regression)' if t is not None and t.is_floating_point() else f'of type {kind}')
    raise TypeError(f"the targets are {what}, but label issues need one class an item: use CategoryBlock "
                    "or integer class indices")
