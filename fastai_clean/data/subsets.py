"Views of data sets, DataLoaders over them, and data sets with decided labels"
import copy

import numpy as np
import pandas as pd
from fastai.callback.data import PartialDL
from fastai.data.core import Datasets, TfmdLists
from fastai.data.load import DataLoader
from fastai.tabular.core import Tabular
from fastai.text.data import SortedDL
from torch.utils.data import BatchSampler, RandomSampler, SequentialSampler, Subset
from torch.utils.data import DataLoader as TorchLoader



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


def fewer(
    dl,  # The fastai or torch DataLoader to take after
    n,  # Number of items of the new one, no more than those of `dl`
    drop_single=False,  # Whether to leave out a last batch of one item, which batch normalization refuses
) -> dict:
    "Arguments for `new_dl` of fewer items: a batch size that they fill, and drop_last where a single one would be left"
    size = dl.bs if isinstance(dl, DataLoader) else dl.batch_size
    if size is None: return {}
    size = min(size, n)
    return {'bs': size, **({'drop_last': True} if drop_single and size > 1 and n % size == 1 else {})}


def plain_dl(
    dl,  # The DataLoader whose data set is to be read
    idxs=None,  # Positions (m,) to read; None: all
    like=None,  # The DataLoader whose batch transforms and batch size to use; None: `dl`
    bs=None,  # Batch size; None: as it is
):
    "A DataLoader over the items `idxs` of `dl.dataset`, each once, in order of loading only, without augmentation"
    idxs = np.arange(len(dl.dataset)) if idxs is None else np.asarray(idxs)
    ds = view(dl.dataset, idxs, 1)
    kw = dict(shuffle=False, drop_last=False, **({} if bs is None else {'bs': bs}))
    if like is None or type(like) is not type(dl): return new_dl(dl, ds, idxs, **kw)
    if isinstance(dl, SortedDL): return like.new(ds, sort_func=dl.sort_func, val_res=[dl.res[i] for i in idxs], **kw)
    return like.new(ds, **kw) if isinstance(like, DataLoader) else _new_torch_dl(like, ds, **kw)


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
    res = copy.copy(dls)
    res.loaders = [new_dl(dl, view(dl.dataset, train, 0), train, **fewer(dl, len(train), drop_single)),
                   plain_dl(dl, np.flatnonzero(held_out), dls[1] if len(dls.loaders) > 1 else None)]
    return res


class _Decided:
    "Stands for an item whose label was decided, among the items of a target's transforms"
    def __init__(self, value): self.value = value


class _Passing:
    "A transform before the one that has the vocab; a decided label passes it, and the last gives it out"
    def __init__(self, f, last): self.f, self.last = f, last
    def decode(self, o, **kwargs): return self.f.decode(o, **kwargs)

    def __call__(self, o, **kwargs):
        if isinstance(o, _Decided): return o.value if self.last else o
        return self.f(o, **kwargs)

    def __getattr__(self, name):
        if name.startswith('__') or name == 'f': raise AttributeError(name)
        return getattr(self.f, name)


class _Relabelled:
    "A plain data set with decided class indices, whose items keep their names when some are left out"
    def __init__(self, ds, new, items): self.ds, self.new, self.items = ds, new, items
    def __len__(self): return len(self.ds)

    def __getitem__(self, i):
        o = self.ds[i]
        return (*o[:-1], o[-1]*0 + self.new[i]) if i in self.new else o

    def __getattr__(self, name):
        if name.startswith('__') or name == 'ds': raise AttributeError(name)
        return getattr(getattr(self.ds, 'dataset', self.ds), name)


def relabelled(ds, new, names):
    "`ds`, a `folds.view`, with the labels `new`: position -> (class index, class); `names` of its items"
    if hasattr(ds, 'tls'): return _relabelled_lists(ds, new) if new else ds
    if not hasattr(ds, 'procs'): return _Relabelled(ds, {i: code for i, (code, _) in new.items()}, names)
    column = ds.items.columns.get_loc(ds.y_names[0])
    for i, (code, _) in new.items(): ds.items.iloc[i, column] = code
    return ds


def _relabelled_lists(ds, new):
    from ..review.names import as_column_like, as_objects
    tl = ds.tls[ds.n_inp]
    items, fs = tl.items, list(tl.tfms.fs)
    k = next((i for i, f in enumerate(fs) if getattr(f, 'vocab', None) is not None), len(fs))
    if isinstance(items, pd.DataFrame) and k == 1 and (column := _column_read(fs[0], items)) is not None:
        values = as_objects(items[column])
        for i, (_, value) in new.items(): values[i] = value
        labels = as_column_like(values, items[column])
        return type(ds)(tls=[o._new(_with_column(o.items, column, labels)) for o in ds.tls], n_inp=ds.n_inp)
    items = [items.iloc[i] for i in range(len(items))] if hasattr(items, 'iloc') else list(items)
    for i, (code, value) in new.items():
        if k == len(fs): value = tl[i]*0 + code
        items[i] = _Decided(value) if k else value
    target = tl._new(items)
    target.tfms.fs = type(tl.tfms.fs)([*(_Passing(f, j == k - 1) for j, f in enumerate(fs[:k])), *fs[k:]])
    return type(ds)(tls=[*ds.tls[:ds.n_inp], target], n_inp=ds.n_inp)


def _with_column(items, name, column):
    "A copy of the DataFrame `items` with that column replaced; the inputs' frame of a text data set may lack it"
    if not isinstance(items, pd.DataFrame) or name not in items: return items
    items = items.copy()
    items[name] = column.array
    return items


def _column_read(f, df):
    "The one column of `df` that fastai's ColReader `f` gives as it is, or None"
    cols = getattr(f, 'cols', None)
    plain = not any(getattr(f, o, None) for o in ('pref', 'suff', 'label_delim'))
    return cols[0] if cols and plain and len(cols) == 1 and isinstance(cols[0], str) and cols[0] in df else None

