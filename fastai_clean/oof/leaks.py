"""What makes probabilities out-of-fold in name only: copies of an item in several folds, weights
that know the labels, labels that are drawn anew at every reading"""
from __future__ import annotations

import os
from pathlib import PurePath
from warnings import warn

import numpy as np
import pandas as pd
import torch
from fastai.data.core import Datasets, TfmdLists
from fastai.data.transforms import ColReader, ItemGetter
from fastai.tabular.core import Tabular
from fastcore.xtras import is_listy
from torch.utils.data import Subset, TensorDataset

from .._columns import objects
from .._strength import strength_of
from .._text import brief, shorten
from ..data.labels import labels_of
from ..data.subsets import view
from .fingerprint import image_files

N_TRIED = 32, 256  # Items that show whether the weights know the labels; few suffice if not
N_MASKS = 4, 16  # The same, if each has the labels of many pixels
N_READ = 256  # Targets that are read a second time, if inputs need not be read for it
N_READ_WHOLE = 64  # The same, if each reading loads the input too


def copies_of(
    ds,  # A data set: Datasets, Tabular, or any torch Dataset
) -> np.ndarray | None:  # (n,) integers, the same for copies of one item; None: not known
    """Which items of `ds` have the same input: the same file, the same cells of a frame, an equal
    tensor. Links count as the file that they lead to; no file is opened. Labels do not count."""
    if isinstance(ds, Tabular): keys = _row_keys(ds.items[[*ds.cat_names, *ds.cont_names]])
    elif isinstance(ds, (Datasets, TfmdLists)): keys = _list_keys(ds)
    else: keys = _plain_keys(ds)
    return None if keys is None else pd.factorize(objects(keys))[0]


def _list_keys(ds):
    "Keys of the items of fastai's Datasets"
    items = ds.items
    tls = ds.tls[:ds.n_inp] if isinstance(ds, Datasets) else [ds]
    readers = [_reader(tl) for tl in tls]
    # What else a function of the user's reads of an item is not known, but files are
    if not any(isinstance(o, (ColReader, ItemGetter)) for o in readers):
        files = [image_files(tl) for tl in tls]
        if None not in files: return [tuple(map(_file_key, o)) for o in zip(*files)]
    if isinstance(items, pd.DataFrame): return _frame_keys(items, ds, readers)
    if isinstance(items, pd.Series): items = items.tolist()
    at = {o.i for o in readers if isinstance(o, ItemGetter)}
    # What a function reads of an item is not known: then all of it counts
    known = at and all(isinstance(o, ItemGetter) for o in readers)
    if known: return [tuple(_key(o[i]) for i in sorted(at)) for o in items]
    return [_key(o) for o in items]


def _frame_keys(items, ds, readers):
    "Keys of rows: of the columns that the inputs read, or of all but the label's"
    read = [_columns_of(o, items) for o in readers]
    if all(read): names = sorted({o for names in read for o in names}, key=str)
    else:
        target = ds.tls[ds.n_inp:] if isinstance(ds, Datasets) else []
        labels = {o for tl in target for o in _columns_of(_reader(tl), items) or ()}
        names = [o for o in items if o not in labels]
    return _row_keys(items[names]) if names else None


def _reader(tl): return next(iter(getattr(tl.tfms, 'fs', ())), None)


def _columns_of(f, items):
    "The columns of `items` that fastai's ColReader `f` reads; nothing for any other function"
    if not isinstance(f, ColReader): return None
    cols = [items.columns[o] if isinstance(o, int) else o for o in f.cols]
    return [o for o in cols if o in items] or None


def _row_keys(df):
    df = df.copy()
    for i, name in enumerate(df.columns):
        # Cells may be lists, such as tokens, which pandas cannot hash
        if pd.api.types.is_object_dtype(df.iloc[:, i]): df[name] = df[name].map(_key).map(str)
    return pd.util.hash_pandas_object(df, index=False).to_numpy()


def _plain_keys(ds):
    "Keys of the items of a torch data set, if it holds them in memory"
    if isinstance(ds, Subset):
        keys = _plain_keys(ds.dataset)
        return list(ds.indices) if keys is None else [keys[i] for i in ds.indices]
    if isinstance(ds, TensorDataset):
        inputs = ds.tensors[:max(1, len(ds.tensors) - 1)]
        return [tuple(_key(t[i]) for t in inputs) for i in range(len(ds))]
    if not is_listy(ds): return None
    return [_key(o[:-1] if isinstance(o, tuple) and len(o) > 1 else o) for o in ds]


def _key(o):
    "Something hashable that is equal for equal values"
    if isinstance(o, PurePath): return _file_key(o)
    if isinstance(o, torch.Tensor): o = o.detach().cpu().numpy()
    if isinstance(o, np.ndarray) and o.dtype != object:
        return (o.shape, o.dtype.str, hash(np.ascontiguousarray(o).tobytes()))
    if isinstance(o, dict): return tuple((_key(k), _key(v)) for k, v in o.items())
    if is_listy(o): return tuple(map(_key, o))
    try: hash(o)
    except TypeError: return id(o)
    # 1 and True are equal, and so are 1 and 1.0
    return (type(o).__name__, o) if isinstance(o, (bool, float)) else o


def _file_key(path):
    "The same for one file under several names: links, and paths with dots"
    try: stat = os.stat(path)
    except (OSError, ValueError): return os.path.abspath(path)
    # Some file systems have no numbers for files
    return (stat.st_dev, stat.st_ino) if stat.st_ino else os.path.abspath(path)


def warn_of_copies(
    copies: np.ndarray,  # From `copies_of`
    fold: np.ndarray,  # Fold numbers (n,)
    ids: list[str],  # Ids (n,)
    own_splits: bool,  # Whether the folds are the user's
) -> None:
    """Warn that copies share a fold, or of the user's `splits`, or too few different items, that
    put copies of an item in several folds"""
    again = np.flatnonzero(pd.Series(copies).duplicated())
    parted = int((pd.Series(fold).groupby(copies).nunique() > 1).sum())
    if not len(again) or own_splits and not parted: return

    same = np.flatnonzero(copies == copies[again[0]])
    said = (f"{len(again)} of the {len(ids)} training items are duplicates of others, for example "
            f"{brief(ids[same[1]])} of {brief(ids[same[0]])}")
    if own_splits:
        warn(f"splits puts copies of {parted} items in several folds ({said}): a model that was "
             "trained on one knows the label of the other; give copies the same group id in "
             "splits, or leave splits out", stacklevel=2)
    elif parted:
        warn(f"{said}: there are too few different items for copies to share a fold, so a model "
             "knows the labels that it judges; remove the duplicates, or use fewer folds",
             stacklevel=2)
    else:
        warn(f"{said}: copies share a fold, since a model that was trained on one knows the label "
             "of the other", stacklevel=2)


def check_labels_stay(
    dl,  # DataLoader of the training set
    labels,  # Its `data.labels.Labels`
    ids: list[str],  # Ids (n,)
) -> None:
    """Raise ValueError if some labels are different when they are read again: the labels of the
    folds would not be those that are judged. Masks, which are augmented with their images, are
    not read."""
    if labels.targets is None: return
    n = len(labels.targets)
    cheap = isinstance(dl.dataset, (Datasets, Tabular))
    # Numbers of a plain data set may be points of an image that is augmented as it is read
    if labels.task == 'regression' and not cheap: return
    m = min(n, N_READ if cheap else N_READ_WHOLE)
    at = np.sort(np.random.default_rng(0).choice(n, m, replace=False))
    again = labels_of(_Reading(dl, view(dl.dataset, at, 0)), labels.task == 'multilabel').targets
    once = labels.targets[at]
    if again.shape == once.shape:
        differ = (again != once).reshape(m, -1).any(1)
        if not differ.any(): return
        j = int(differ.argmax())
        found = f"{differ.sum()} of {m} labels are different when they are read again, first that "
        found += f"of item {brief(ids[at[j]])}: {labels.said(once[j])}, then "
        found += labels.said(again[j])
    else: found = "the labels have other lengths when they are read again"
    raise ValueError(f"{found}; out-of-fold probabilities need one fixed label per item: draw the "
                     "labels once, before the data set is made")


class _Reading:
    "A data set with what `labels_of` asks of a DataLoader"
    def __init__(self, dl, ds):
        self.dataset = ds
        if hasattr(dl, 'n_inp'): self.n_inp = dl.n_inp


def warn_of_empty(
    labels,  # The training set's `data.labels.Labels`
    ids: list[str],  # Ids (n,) of the items
) -> None:
    "Warn, naming an item, if blank text is a class: it is a missing label more often than a class"
    if labels.task != 'classification': return
    blank = [k for k, o in enumerate(labels.vocab or ()) if isinstance(o, str) and not o.strip()]
    at = np.flatnonzero(np.isin(labels.targets, blank))
    if not len(at): return
    warn(f"{len(at)} of {len(ids)} labels are empty texts, first that of item "
         f"{shorten(ids[at[0]], 80)}: they are trained as a class of their own; if they are "
         "missing labels, correct them or leave the items out", stacklevel=2)


def warn_of_known_labels(
    predict,  # From positions (m,) to what the model says before training, and given targets
    labels,  # The training set's `data.labels.Labels`
    n: int,  # Number of its items
) -> None:
    """Warn if the model that is about to be trained predicts the training labels: then it was
    trained on them, maybe elsewhere, and no fold is new to it.

    A trained model is sure of the labels, a random head is not, even if it is right by luck. So the
    mean probability of the given label must exceed the middle between 1/c and 1: .75 for 2 classes,
    .67 for 3, .6 for 5, .55 for 10. The highest of 100 random heads on pretrained features of real
    Imagenette, and of 100 random nets on digits, were .59, .39, .23 and .11. Several labels per
    item are judged label by label, present and absent ones with the same weight in that mean.

    Two things go unnoticed. Numbers to predict have no probabilities, and a random linear model of
    one input predicts them by luck too often. And a body that was trained on the labels, under a
    new head: heads on its features agree with the labels, wrong ones too, but so do heads on a good
    body that never saw them; that they agree less with a validation set may only mean that it is
    harder."""
    if labels.task == 'regression': return
    sizes = N_MASKS if labels.task == 'segmentation' else N_TRIED
    for size, least in zip(sizes, (0, 6)):
        found = _known_labels(predict, labels.task, n, size, least)
        if found is None: return
    warn(f"the model seems to have been trained before: it predicts {found.agreement:.0%} of the "
         f"training labels already ({found.chance:.0%} would be chance). If its weights have seen "
         "these labels, the probabilities are not out-of-fold, and wrong labels that it knows are "
         "not found: start from weights that have not", stacklevel=2)


def _known_labels(predict, task, n, size, least):
    """The `Strength` of the model on `size` items if it knows their labels, `least` standard errors
    beyond chance, else None"""
    at = np.sort(np.random.default_rng(0).choice(n, min(n, size), replace=False))
    preds, given = predict(at)
    if task == 'multilabel':
        given = given.ravel().astype(int)
        preds = np.stack([1 - preds.ravel(), preds.ravel()], 1)
    if task == 'segmentation':
        c = preds.shape[1]
        preds = np.moveaxis(preds, 1, -1).reshape(-1, c)
        inside = (given.ravel() >= 0) & (given.ravel() < c)
        given = given.ravel()[inside]
        preds = preds[inside]
    found = strength_of(given, preds.argmax(1))
    if found is None or found.kappa < max(.3, least*found.error): return None
    sure = preds[np.arange(len(given)), given]
    # Absent labels are many, and a head may begin with that
    parts = [sure[given == k] for k in (0, 1)] if task == 'multilabel' else [sure]
    mean = np.mean([o.mean() for o in parts])
    return found if mean > (1/preds.shape[1] + 1)/2 else None
