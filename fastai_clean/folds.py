"Splits, views of data sets, fold DataLoaders and predictions: what out-of-fold training needs from fastai's data"
import copy
import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
from fastai.callback.data import PartialDL
from fastai.data.core import Datasets, TfmdLists
from fastai.data.load import DataLoader
from fastai.tabular.core import Tabular
from fastai.text.data import LMDataLoader, SortedDL
from fastcore.xtras import is_listy
from sklearn.model_selection import StratifiedGroupKFold
from torch.utils.data import BatchSampler, IterableDataset, RandomSampler, SequentialSampler, Subset
from torch.utils.data import DataLoader as TorchLoader

from .checks import check_class_targets, check_probs

__all__ = ['fold_numbers', 'labels_of', 'item_ids', 'view', 'new_dl', 'plain_dl', 'fold_dls', 'predict']


def fold_numbers(
    targets,  # Class indices (n,)
    n_folds=5,  # Number of folds
    splits=None,  # Fold numbers (n,), group ids (n,), a scikit-learn splitter, or None for stratified folds
    seed=42,  # Seed of the shuffling; no global random state is touched
) -> np.ndarray:  # (n,) int, the fold in which each item is held out
    """The fold of each item: every fold has its share of every class, also of classes rarer than `n_folds`.

    An array `splits` whose values are just 0..n_folds-1 is taken as fold numbers; any other array as group ids, whose
    items stay in one fold (scikit-learn's StratifiedGroupKFold). A splitter must hold out each item exactly once.
    Raises ValueError where there are fewer than 2 folds, more folds than items, or `splits` does not fit."""
    targets = np.asarray(targets)
    n = len(targets)
    if hasattr(splits, 'split') and not isinstance(splits, np.ndarray): return _from_splitter(splits, targets)
    if not isinstance(n_folds, (int, np.integer)) or n_folds < 2:
        raise ValueError(f"n_folds is {n_folds!r}: at least 2 folds are needed")
    if n_folds > n: raise ValueError(f"n_folds is {n_folds}, but there are only {n} training items: use fewer folds")
    if splits is None:
        order = np.random.default_rng(seed).permutation(n)
        order = order[np.argsort(targets[order], kind='stable')]
        fold = np.empty(n, dtype=np.int64)
        fold[order] = np.arange(n) % n_folds
        return fold
    groups = np.asarray(splits)
    if groups.ndim != 1 or len(groups) != n:
        raise ValueError(f"splits has shape {groups.shape}, but there are {n} training items: one number or group "
                         "id an item is needed, or a scikit-learn splitter")
    if pd.isna(groups).any(): raise ValueError("splits has missing values: every item needs a fold number or group id")
    values, codes = np.unique(groups, return_inverse=True)
    if len(values) < n_folds:
        raise ValueError(f"splits has {len(values)} distinct values, fewer than n_folds={n_folds}: "
                         f"pass n_folds={len(values)} to hold out one value at a time")
    if len(values) == n_folds: return codes.astype(np.int64)
    return _from_splitter(StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed), targets, codes)


def _from_splitter(splitter, targets, groups=None):
    fold, everything = np.full(len(targets), -1, dtype=np.int64), np.arange(len(targets))
    for k, (train, test) in enumerate(splitter.split(everything, targets, groups)):
        if (fold[test] >= 0).any() or len(train) + len(test) != len(targets):
            raise ValueError(f"splits is a {type(splitter).__name__}, which does not hold out each item exactly once "
                             "and train on the rest: use KFold, StratifiedKFold, GroupKFold or the like")
        fold[test] = k
    if (fold < 0).any() or fold.max(initial=0) < 1:
        raise ValueError(f"splits is a {type(splitter).__name__}, which never holds out {(fold < 0).sum()} of "
                         f"{len(targets)} items: use KFold, StratifiedKFold, GroupKFold or the like")
    return fold


def labels_of(
    dl,  # A fastai or torch DataLoader
) -> tuple[np.ndarray, list | None]:  # Class indices (n,) in the data set's order, and the vocab where there is one
    """The labels of the data set behind `dl`, item by item, read without its inputs where the data set allows it.

    Raises TypeError where the data set has no labels, or labels that are not one class an item."""
    ds = dl.dataset
    if isinstance(dl, LMDataLoader):
        raise TypeError("the DataLoaders are a language model's, whose targets are the next words: label issues need "
                        "a classifier, for example TextDataLoaders.from_df(..., is_lm=False)")
    if isinstance(ds, IterableDataset) or not hasattr(ds, '__getitem__') or not hasattr(ds, '__len__'):
        raise TypeError(f"the data set is a {type(ds).__name__}, which cannot be indexed: out-of-fold training needs "
                        "a data set with __getitem__ and __len__")
    if len(ds) == 0: raise ValueError("the data set is empty (so are an exported Learner's): pass a labelled one")
    if isinstance(ds, Tabular):
        names = [o for o in ds.y_names if o in ds.items.columns]
        if len(names) > 1: raise TypeError(f"there are {len(names)} target columns {names}: one is needed")
        ys, vocab = (ds.items[names[0]].values if names else None), getattr(ds.procs, 'vocab', None)
        if names and vocab is None:
            raise TypeError(f"the target column {names[0]!r} holds numbers (regression): pass y_block=CategoryBlock()")
    elif isinstance(ds, Datasets):
        tls = ds.tls[ds.n_inp:]
        if len(tls) > 1: raise TypeError(f"there are {len(tls)} targets an item: one is needed (see n_inp)")
        ys, vocab = (tls[0] if len(tls) else None), getattr(tls[0], 'vocab', None) if len(tls) else None
    else:
        first = ds[0]
        n_inp = getattr(dl, 'n_inp', max(1, len(first) - 1)) if is_listy(first) else 1
        labelled = is_listy(first) and len(first) == n_inp + 1
        ys, vocab = ((ds[i][n_inp] for i in range(len(ds))) if labelled else None), getattr(ds, 'vocab', None)
    if ys is None:
        raise TypeError("the data set has no labels: build it with a target, or with with_labels=True for test_dl")
    targets = []
    for y in ys:
        if not targets: check_class_targets(y)
        targets.append(int(y))
    if vocab is not None and len(vocab) and not isinstance(vocab[0], str) and is_listy(vocab[0]): vocab = vocab[-1]
    targets = np.array(targets, dtype=np.int64)
    if targets.min() < 0 or (vocab is not None and targets.max() >= len(vocab)):
        raise ValueError(f"{((targets < 0) | (targets >= len(vocab or targets))).sum()} labels are outside the vocab: "
                         "give every item a label of the vocab")
    return targets, None if vocab is None else list(vocab)


def item_ids(
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


def view(
    ds,  # A data set: Datasets, TfmdLists, Tabular, or any torch Dataset
    idxs,  # Positions (m,) in `ds`
    split_idx,  # 0: transforms as in training; 1: as in validation, without augmentation
):
    "The items `idxs` of `ds`, in that order, with the transforms of `split_idx`; nothing is fitted again"
    idxs = [int(i) for i in idxs]
    if isinstance(ds, Datasets):
        return type(ds)(tls=[tl._new(tl._get(idxs), split_idx=split_idx) for tl in ds.tls], n_inp=ds.n_inp)
    if isinstance(ds, TfmdLists): return ds._new(ds._get(idxs), split_idx=split_idx)
    if isinstance(ds, Tabular): return ds.new(ds.items.iloc[idxs])
    return Subset(ds, idxs)


def new_dl(
    dl,  # The fastai or torch DataLoader to take after
    ds,  # The data set of the new one: a `view` of `dl.dataset`
    idxs,  # Positions (m,) in `dl.dataset` of the items of `ds`
    **kwargs,  # Passed to the new DataLoader: shuffle, drop_last, ...
):
    """`dl` over `ds`, with what fastai's `new` loses: sample weights, the partial count and the sorting.

    Raises TypeError for a torch DataLoader with a sampler or batch sampler of its own."""
    if not isinstance(dl, DataLoader): return _new_torch_dl(dl, ds, **kwargs)
    if isinstance(dl, SortedDL):
        kwargs.update(sort_func=dl.sort_func, val_res=[dl.res[i] for i in idxs])
    if 'wgts' in vars(dl):
        wgts = dl.wgts[idxs]
        if wgts.sum() <= 0: wgts = np.ones(len(idxs))
        kwargs.update(wgts=wgts)
    if isinstance(dl, PartialDL) and dl.partial_n and kwargs.get('shuffle', True):
        kwargs.update(partial_n=dl.partial_n)
    return dl.new(ds, **kwargs)


def _new_torch_dl(dl, ds, shuffle=None, drop_last=None, bs=None):
    parts = [type(o) for o in (dl, dl.sampler, dl.batch_sampler)]
    if any(o not in known for o, known in zip(parts, (
            (TorchLoader,), (RandomSampler, SequentialSampler), (BatchSampler, type(None))))):
        raise TypeError(f"the DataLoader is torch's {' with '.join(o.__name__ for o in parts)}, which cannot be"
                        " rebuilt for a fold: use fastai's DataLoader (weights: WeightedDL), or plain shuffling")
    if shuffle is None: shuffle = type(dl.sampler) is RandomSampler
    return TorchLoader(ds, batch_size=bs or dl.batch_size, shuffle=shuffle, num_workers=dl.num_workers,
                       collate_fn=dl.collate_fn, pin_memory=dl.pin_memory, timeout=dl.timeout,
                       drop_last=dl.drop_last if drop_last is None else drop_last, worker_init_fn=dl.worker_init_fn,
                       multiprocessing_context=dl.multiprocessing_context, persistent_workers=False)


def plain_dl(
    dl,  # The DataLoader whose data set is to be read
    idxs=None,  # Positions (m,) to read; None: all
    like=None,  # The DataLoader whose batch transforms and batch size to use; None: `dl`
):
    "A DataLoader over the items `idxs` of `dl.dataset`, each once, in order of loading only, without augmentation"
    idxs = np.arange(len(dl.dataset)) if idxs is None else np.asarray(idxs)
    ds = view(dl.dataset, idxs, 1)
    if like is None or type(like) is not type(dl): return new_dl(dl, ds, idxs, shuffle=False, drop_last=False)
    if isinstance(dl, SortedDL):
        return like.new(ds, shuffle=False, drop_last=False, sort_func=dl.sort_func, val_res=[dl.res[i] for i in idxs])
    return (like.new if isinstance(like, DataLoader) else lambda d, **kw: _new_torch_dl(like, d, **kw))(
        ds, shuffle=False, drop_last=False)


def fold_dls(
    dls,  # DataLoaders of the user's Learner; only the training set is used
    held_out,  # Boolean mask (n,) of the training items to hold out
    drop_single=False,  # Whether to leave out a last batch of one item, which batch normalization refuses
):
    "DataLoaders that train on the items not `held_out` and whose validation set is the held-out items, as they are"
    dl = dls.train
    limit = getattr(dl, 'n', None)
    train = np.flatnonzero(~held_out)
    if limit is not None: train = train[train < limit]
    if not len(train): raise ValueError("a fold has no training items: use fewer folds or other splits")
    size = dl.batch_size if not isinstance(dl, DataLoader) else dl.bs
    kw = {} if size is None else {'bs': min(size, len(train))}
    if drop_single and kw and kw['bs'] > 1 and len(train) % kw['bs'] == 1: kw['drop_last'] = True
    res = copy.copy(dls)
    res.loaders = [new_dl(dl, view(dl.dataset, train, 0), train, **kw),
                   plain_dl(dl, np.flatnonzero(held_out), dls[1] if len(dls.loaders) > 1 else None)]
    return res


def predict(
    learn,  # The Learner that predicts
    dl,  # A DataLoader that is not shuffled, or a list of batches
    act,  # Activation that turns outputs into probabilities
    c=None,  # Number of classes, where known
    with_loss=False,  # Whether to return losses too
) -> tuple:  # Probabilities (n, c) float32 and a list with the losses (n,), or none, in the order of the data set
    "The one way to predict: sorted DataLoaders are put back in order. Raises ValueError as `check_probs` does"
    idxs = list(dl.get_idxs()) if hasattr(dl, 'get_idxs') else None
    preds, _, *losses = learn.get_preds(dl=dl, act=act, with_loss=with_loss, reorder=False)
    n = len(idxs) if idxs is not None else len(dl.dataset) if hasattr(dl, 'dataset') else None
    probs, order = check_probs(preds, n, c), slice(None) if idxs is None else np.argsort(idxs)
    return probs[order], [o[order] for o in losses]
