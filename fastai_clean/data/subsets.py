"Views of data sets, DataLoaders over them, and data sets with decided labels"
import copy
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from fastai.callback.data import PartialDL
from fastai.data.core import DataLoaders, Datasets, TfmdLists
from fastai.data.load import DataLoader
from fastai.tabular.core import Tabular
from fastai.text.data import SortedDL
from torch.utils.data import BatchSampler, RandomSampler, SequentialSampler, Subset
from torch.utils.data import DataLoader as TorchLoader

from .._columns import column_like, objects
from .labels import column_read
from .sampling import Apart, Drawn, InOrder, Mapped, generators_of, is_ours, own_arguments

# What may be put on a DataLoader and refers to positions in its data set
_DRAWS = 'get_idxs', 'shuffle_fn', 'sample', 'create_batches', 'create_item'

# Views

def view(
    ds: Any,  # A data set: Datasets, TfmdLists, Tabular, or any torch Dataset
    idxs: Sequence[int] | np.ndarray,  # Positions (m,) in `ds`
    split_idx: int,  # 0: transforms as in training; 1: as in validation, without augmentation
) -> Any:  # A data set of the same type, or torch's Subset
    "The items `idxs` of `ds`, in that order, with the transforms of `split_idx`"
    idxs = [int(i) for i in idxs]
    # `_new` and `_get` rather than a new pipeline: fitting again could give another vocab
    if isinstance(ds, Datasets):
        tls = [tl._new(tl._get(idxs), split_idx=split_idx) for tl in ds.tls]
        return type(ds)(tls=tls, n_inp=ds.n_inp)
    if isinstance(ds, TfmdLists): return ds._new(ds._get(idxs), split_idx=split_idx)
    if isinstance(ds, Tabular): return ds.new(ds.items.iloc[idxs])
    return Subset(ds, idxs)


# DataLoaders

def new_dl(
    dl: DataLoader | TorchLoader,  # The DataLoader to imitate
    ds: Any,  # The data set of the new one: a `view` of `dl.dataset`
    idxs: np.ndarray,  # Positions (m,) in `dl.dataset` of the items of `ds`
    **kwargs,  # Passed to the new DataLoader: shuffle, drop_last, bs
) -> DataLoader | TorchLoader:
    """`dl` over `ds`, with what fastai's `new` loses: sample weights, partial count, sorting, the
    user's own sampling and the arguments of a subclass.

    A function that was put on `dl` as `get_idxs` or `shuffle_fn` draws positions in `dl.dataset`:
    those that are not in `ds` are left out. Random generators of the user's that it draws from are
    where they were afterwards. Raises TypeError for a torch DataLoader with a sampler or batch
    sampler of its own, for a `sample` or `create_batches` that was put on `dl`, and for arguments
    of a subclass that it does not keep as attributes."""
    if not isinstance(dl, DataLoader): return _new_torch_dl(dl, ds, **kwargs)
    # SortedDL would load every item to measure it again
    if isinstance(dl, SortedDL):
        kwargs.update(sort_func=dl.sort_func, val_res=[dl.res[i] for i in idxs])
    # Also TabularDataLoaders: they weight their rows all alike, so training draws with replacement
    # and an epoch misses about a third; `to.dataloaders(dl_type=TabDataLoader)` does not
    if 'wgts' in vars(dl):
        wgts = dl.wgts[idxs]
        if wgts.sum() <= 0: wgts = np.ones(len(idxs))
        kwargs.update(wgts=wgts)
    if isinstance(dl, PartialDL) and dl.partial_n and kwargs.get('shuffle', True):
        kwargs.update(partial_n=dl.partial_n)
    drawn = kwargs.get('shuffle', True)
    kwargs = {**own_arguments(dl, idxs, drawn), **kwargs}
    # A function of the user's reads its own data set, by positions in that
    if 'create_item' in vars(dl): kwargs['create_item'] = Mapped(dl.create_item, idxs)
    if not drawn: return dl.new(ds, **kwargs)
    for name in ('sample', 'create_batches'):
        if name in vars(dl):
            raise TypeError(f"the DataLoader has a {name} of its own, which draws from the whole "
                            "data set and cannot be rebuilt for a part of it: put a get_idxs on "
                            "it, which returns positions, or write a subclass")
    own = {'get_idxs', 'shuffle_fn'} & {*vars(dl)}
    if own: kwargs['get_idxs'] = Drawn(dl, idxs)
    res = dl.new(ds, **kwargs)
    generators = generators_of(dl.get_idxs, dl.shuffle_fn)
    if generators: res.get_idxs = Apart(res.get_idxs, generators)
    return res


def _new_torch_dl(dl, ds, shuffle=None, drop_last=None, bs=None):
    kinds = [type(dl), type(dl.sampler), type(dl.batch_sampler)]
    # A sampler holds indices into the old data set, so only kinds that torch makes itself will do
    known = [(TorchLoader,), (RandomSampler, SequentialSampler), (BatchSampler, type(None))]
    if any(kind not in allowed for kind, allowed in zip(kinds, known)):
        names = ' with '.join(o.__name__ for o in kinds)
        raise TypeError(f"the DataLoader is torch's {names}, which cannot be rebuilt for a fold: "
                        "use fastai's DataLoader (weights: WeightedDL), or plain shuffling")

    if shuffle is None: shuffle = kinds[1] is RandomSampler
    if drop_last is None: drop_last = dl.drop_last
    return TorchLoader(ds, batch_size=bs or dl.batch_size, shuffle=shuffle, drop_last=drop_last,
                       num_workers=dl.num_workers, collate_fn=dl.collate_fn,
                       pin_memory=dl.pin_memory, timeout=dl.timeout,
                       worker_init_fn=dl.worker_init_fn, persistent_workers=False,
                       multiprocessing_context=dl.multiprocessing_context)


def fewer(
    dl: DataLoader | TorchLoader,  # The DataLoader to imitate
    n: int,  # Number of items of the new one, no more than those of `dl`
    drop_single: bool = False,  # Whether to leave out a last batch of one item
) -> dict:
    "Arguments for `new_dl` of fewer items: a batch size that they fill, and maybe drop_last"
    size = dl.bs if isinstance(dl, DataLoader) else dl.batch_size
    if size is None: return {}
    size = min(size, n)
    # Batch normalization refuses to train on a batch of one item
    if drop_single and size > 1 and n % size == 1: return {'bs': size, 'drop_last': True}
    return {'bs': size}


def plain_dl(
    dl: DataLoader | TorchLoader,  # The DataLoader whose data set is to be read
    idxs: Sequence[int] | np.ndarray | None = None,  # Positions (m,) to read; None: all
    like: DataLoader | TorchLoader | None = None,  # Whose batch transforms to use; None: `dl`'s
    bs: int | None = None,  # Batch size; None: that of `like`
) -> DataLoader | TorchLoader:
    """A DataLoader that reads the items `idxs` of `dl.dataset`, each once, without augmentation.

    A SortedDL still sorts: put its predictions back in order with `get_idxs`, as `predict` does."""
    idxs = np.arange(len(dl.dataset)) if idxs is None else np.asarray(idxs)
    # `dls[0]` keeps the training augmentations, which would make every reading differ
    ds = view(dl.dataset, idxs, 1)
    kwargs = {'shuffle': False, 'drop_last': False}
    if bs is not None: kwargs['bs'] = bs

    if like is None or type(like) is not type(dl): res = new_dl(dl, ds, idxs, **kwargs)
    elif not isinstance(like, DataLoader): return _new_torch_dl(like, ds, **kwargs)
    else:
        if isinstance(dl, SortedDL):
            kwargs.update(sort_func=dl.sort_func, val_res=[dl.res[i] for i in idxs])
        res = like.new(ds, **{**own_arguments(dl, idxs, False), **kwargs})
    if not isinstance(res, DataLoader): return res

    # What draws for the user draws from other positions, and a sampler of a subclass may shuffle
    # whatever `shuffle` says: probabilities would be those of other items
    for name in _DRAWS: vars(res).pop(name, None)
    if 'create_item' in vars(dl): res.create_item = Mapped(dl.create_item, idxs)
    if not (is_ours(type(res).get_idxs) and is_ours(type(res).shuffle_fn)):
        res.get_idxs = InOrder(len(idxs))
    for name in ('sample', 'create_batches'):
        if not is_ours(getattr(type(res), name)):
            setattr(res, name, partial(getattr(DataLoader, name), res))
    return res


def fold_dls(
    dls: DataLoaders,  # DataLoaders of the user's Learner; only the training set is used
    held_out: np.ndarray,  # Boolean mask (n,) of the training items to hold out
    drop_single: bool = False,  # Whether to leave out a last batch of one item
) -> DataLoaders:
    """DataLoaders that train on the items that are not `held_out`, and validate on those that are.

    Raises ValueError if no item is left to train on."""
    dl = dls.train
    train = np.flatnonzero(~held_out)
    # A DataLoader may be told to use only its first n items
    limit = getattr(dl, 'n', None)
    if limit is not None: train = train[train < limit]
    if not len(train):
        raise ValueError("a fold has no training items: use fewer folds or other splits")

    res = copy.copy(dls)
    # The batch transforms of validation, such as a resize without a crop, are the second one's
    valid = dls[1] if len(dls.loaders) > 1 else None
    kept = view(dl.dataset, train, 0)
    res.loaders = [new_dl(dl, kept, train, **fewer(dl, len(train), drop_single)),
                   plain_dl(dl, np.flatnonzero(held_out), valid)]
    return res


# Decided labels

def relabelled(
    ds: Any,  # A data set with one class per item: a `view`, which may be changed
    new: dict[int, tuple[int, Any]],  # Position -> index and name of the class that was decided
    ids: Sequence[str],  # The ids of the items of `ds`
) -> Any:  # A data set that gives the decided labels
    "`ds` with the decided labels, which training, `labels_of`, `show_batch` and frames then have"
    if hasattr(ds, 'tls'): return _relabelled_lists(ds, new) if new else ds
    if not hasattr(ds, 'procs'):
        return _Relabelled(ds, {i: code for i, (code, _) in new.items()}, ids)
    column = ds.items.columns.get_loc(ds.y_names[0])
    for i, (code, _) in new.items(): ds.items.iloc[i, column] = code
    return ds


def _relabelled_lists(ds, new):
    """fastai's Datasets: the label in the frame's column, else in front of the transform with the
    vocab"""
    tl = ds.tls[ds.n_inp]
    fs = list(tl.tfms.fs)
    k = next((i for i, f in enumerate(fs) if getattr(f, 'vocab', None) is not None), len(fs))
    column = column_read(fs[0], tl.items) if k == 1 else None
    if column is not None: return _relabelled_frame(ds, column, new)

    items = tl.items
    items = [items.iloc[i] for i in range(len(items))] if hasattr(items, 'iloc') else list(items)
    for i, (code, value) in new.items():
        # Without a vocab the target itself is returned, in its own type
        if k == len(fs): value = tl[i]*0 + code
        items[i] = _Decided(value) if k else value
    target = tl._new(items)
    passing = [_Passing(f, j == k - 1) for j, f in enumerate(fs[:k])]
    target.tfms.fs = type(tl.tfms.fs)([*passing, *fs[k:]])
    return type(ds)(tls=[*ds.tls[:ds.n_inp], target], n_inp=ds.n_inp)


def _relabelled_frame(ds, column, new):
    old = ds.tls[ds.n_inp].items[column]
    values = objects(old)
    for i, (_, value) in new.items(): values[i] = value
    labels = column_like(values, old)
    tls = [o._new(_with_column(o.items, column, labels)) for o in ds.tls]
    return type(ds)(tls=tls, n_inp=ds.n_inp)


def _with_column(items, name, column):
    "A copy of the DataFrame `items` with that column replaced"
    # The inputs' frame of a text data set may lack the column
    if not isinstance(items, pd.DataFrame) or name not in items: return items
    items = items.copy()
    items[name] = column.array
    return items


class _Decided:
    "Stands for an item whose label was decided, among the items of a target's transforms"
    def __init__(self, value): self.value = value


class _Passing:
    """A transform before the one with the vocab: a decided label passes through, and the last such
    transform unwraps it"""
    def __init__(self, f, last):
        self.f = f
        self.last = last

    def decode(self, o, **kwargs): return self.f.decode(o, **kwargs)

    def __call__(self, o, **kwargs):
        if isinstance(o, _Decided): return o.value if self.last else o
        return self.f(o, **kwargs)

    def __getattr__(self, name):
        # Unpickling asks for methods before `f` exists
        if name.startswith('__') or name == 'f': raise AttributeError(name)
        return getattr(self.f, name)


class _Relabelled:
    "A plain data set with decided class indices, whose items keep their ids if some are left out"
    def __init__(self, ds, new, ids):
        self.ds = ds
        self.new = new
        self.items = ids  # where `ids_of` looks

    def __len__(self): return len(self.ds)

    def __getitem__(self, i):
        o = self.ds[i]
        return (*o[:-1], o[-1]*0 + self.new[i]) if i in self.new else o

    def __getattr__(self, name):
        if name.startswith('__') or name == 'ds': raise AttributeError(name)
        return getattr(getattr(self.ds, 'dataset', self.ds), name)
