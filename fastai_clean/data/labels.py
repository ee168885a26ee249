"What a data set's targets and items are, read without its inputs where the data set allows it"
import hashlib
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from fastai.data.core import Datasets
from fastai.data.transforms import EncodedMultiCategorize
from fastai.tabular.core import Tabular
from fastai.text.data import LMDataLoader
from fastai.vision.core import AddMaskCodes
from fastcore.xtras import is_listy
from torch import nn
from torch.nn import functional as F
from torch.utils.data import IterableDataset


class Labels(NamedTuple):
    """The labels of a data set of n items: `targets` (n,) class indices, (n, c) booleans for several labels an item,
    (n,) or (n, k) float32 for regression, None for masks, which only a loaded batch shows as the model sees them;
    `vocab` the c class names, or None where there are none; `task`, one of `checks.TASKS`."""
    targets: np.ndarray | None
    vocab: list | None
    task: str

    @property
    def c(self):
        "Number of outputs that a model needs, or None where it is not known"
        if self.task == 'regression': return 1 if self.targets.ndim == 1 else self.targets.shape[1]
        return None if self.vocab is None else len(self.vocab)


def labels_of(
    dl,  # A fastai or torch DataLoader
    binary=False,  # Whether vectors of 0 and 1 of a plain data set are several labels, as the loss tells, not numbers
) -> Labels:
    """The labels of the data set behind `dl`, item by item.

    Raises TypeError where the data set has no labels, or labels that are neither classes, masks nor numbers, and
    ValueError for an empty data set and for labels outside the vocab."""
    ds = dl.dataset
    if isinstance(dl, LMDataLoader):
        raise TypeError("the DataLoaders are a language model's, whose targets are the next words: label issues need "
                        "a classifier, for example TextDataLoaders.from_df(..., is_lm=False)")
    if isinstance(ds, IterableDataset) or not hasattr(ds, '__getitem__') or not hasattr(ds, '__len__'):
        raise TypeError(f"the data set is a {type(ds).__name__}, which cannot be indexed: out-of-fold training needs "
                        "a data set with __getitem__ and __len__")
    if len(ds) == 0: raise ValueError("the data set is empty (so are an exported Learner's): pass a labelled one")
    if isinstance(ds, Tabular): return _table_labels(ds)
    if isinstance(ds, Datasets):
        tls = ds.tls[ds.n_inp:]
        if len(tls) > 1: raise TypeError(f"there are {len(tls)} targets an item: one is needed (see n_inp)")
        first, ys = (tls[0][0], tls[0]) if len(tls) else (None, None)
        vocab = getattr(ys, 'vocab', None)
    else:
        first, vocab = ds[0], getattr(ds, 'vocab', None)
        n_inp = getattr(dl, 'n_inp', max(1, len(first) - 1)) if is_listy(first) else 1
        labelled = is_listy(first) and len(first) == n_inp + 1
        first, ys = (first[n_inp], (ds[i][n_inp] for i in range(len(ds)))) if labelled else (None, None)
    if ys is None:
        raise TypeError("the data set has no labels: build it with a target, or with with_labels=True for test_dl")
    task = task_of(first)
    if task == 'regression' and binary and not isinstance(ds, Datasets) and np.ndim(first): task = 'multilabel'
    if task == 'segmentation': return Labels(None, _unique(_codes(dl) or vocab), task)
    if vocab is not None and len(vocab) and not isinstance(vocab[0], str) and is_listy(vocab[0]): vocab = vocab[-1]
    return _checked([np.asarray(y.cpu() if isinstance(y, torch.Tensor) else y) for y in ys], vocab, task)


def _checked(ys, vocab, task):
    if task == 'classification':
        targets = np.array([_class_index(i, y) for i, y in enumerate(ys)], dtype=np.int64)
        bad = (targets < 0) | (targets >= (targets.max() + 1 if vocab is None else len(vocab)))
    else:
        if len({y.shape for y in ys}) > 1:
            raise ValueError("the targets have different lengths: give each item as many")
        targets = np.stack(ys).astype(np.float32)
        if targets.ndim == 2 and targets.shape[1] == 1 and task == 'regression': targets = targets[:, 0]
        bad = ~np.isfinite(targets.reshape(len(targets), -1)).all(1)
        if task == 'multilabel':
            c = targets.shape[1] if vocab is None else len(vocab)
            bad |= ~np.isin(targets, (0, 1)).all(1) | (targets.shape[1] != c)
            targets = targets.astype(bool)
    if bad.any():
        kind = 'missing or infinite' if task == 'regression' else 'outside the vocab'
        raise ValueError(f"{bad.sum()} labels are {kind}, first that of item {bad.argmax()}: correct them or leave the "
                         "items out")
    return Labels(targets, None if task == 'regression' else _unique(vocab), task)


def _class_index(i, y):
    try: return int(y)
    except (TypeError, ValueError) as e:
        raise ValueError(f"the label of item {i} is {y!r}, but the first was a class index: give every item one") from e


def _unique(vocab):
    if vocab is None: return None
    if len(set(vocab)) < len(vocab):
        raise ValueError(f"vocab has {len(set(vocab))} different names in {len(vocab)}: give each class its own")
    return list(vocab)


def _table_labels(to):
    names = [o for o in to.y_names if o in to.items.columns]
    if not names: raise TypeError("the table has no target column: pass y_names, or with_labels=True for test_dl")
    vocab = getattr(to.procs, 'vocab', None)
    if len(names) > 1 and vocab is not None and not any(isinstance(o, EncodedMultiCategorize) for o in to.procs.fs):
        raise TypeError(f"there are {len(names)} target columns {names}, each with classes: one is needed, or "
                        "MultiCategoryBlock(encoded=True) for columns of 0 and 1")
    ys = to.items[names].to_numpy(dtype=np.float32)
    if len(names) > 1 and vocab is not None: return _checked(list(ys), names, 'multilabel')
    if len(names) == 1: ys = ys[:, 0]
    return _checked(list(ys), vocab, 'regression' if vocab is None else 'classification')


def _codes(dl):
    "Class names of masks, where MaskBlock was given them"
    fs = getattr(getattr(dl, 'after_item', None), 'fs', ())
    return next((list(o.codes) for o in fs if isinstance(o, AddMaskCodes) and o.codes is not None), None)


def ids_of(
    ds,  # A data set: Datasets, Tabular, or any torch Dataset
    path=None,  # Folder that file paths are made relative to
) -> list[str]:
    """Stable names of the items of `ds`: a file's relative path, a DataFrame's row label, a number or a short text
    itself, the hash of a long text; for a data set without such items, the index by which it is read."""
    items = getattr(ds, 'items', None)
    if items is None or callable(items): return [str(i) for i in range(len(ds))]
    if isinstance(items, (pd.DataFrame, pd.Series)): return [str(o) for o in items.index]
    return [_item_id(o, i, path) for i, o in enumerate(items)]


def _item_id(o, i, path):
    if is_listy(o) and len(o): o = o[0]
    if isinstance(o, (int, np.integer)): return str(o)
    if isinstance(o, Path): return (o.relative_to(path) if path and o.is_relative_to(path) else o).as_posix()
    if isinstance(o, str): return o if len(o) < 200 and o.isprintable() else \
        'sha1:' + hashlib.sha1(o.encode(errors='surrogatepass')).hexdigest()
    return str(i)


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


def is_binary_loss(
    loss_func,  # Loss function of a Learner
) -> bool:
    "Whether `loss_func` is fastai's or torch's binary cross-entropy"
    base = loss_func.func if isinstance(loss_func, partial) else loss_func
    return (isinstance(getattr(base, 'func', base), (nn.BCELoss, nn.BCEWithLogitsLoss))
            or base in (F.binary_cross_entropy, F.binary_cross_entropy_with_logits))

