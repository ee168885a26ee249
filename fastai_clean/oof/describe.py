"What a run is made of, as JSON: the same in every process for the same run, so that a cache knows its own"
import hashlib
import inspect
import json
import os
import re
from functools import partial
from pathlib import Path
from types import FunctionType, MethodType

import fastai
import numpy as np
import pandas as pd
import torch
from fastai.callback.core import Callback
from fastcore.xtras import is_listy
from torch import nn
from torch.distributions import Distribution

__all__ = ['describe', 'describe_fit', 'describe_run', 'digest']

_PLAIN, _ARRAYS = (bool, int, str, type(None)), (np.ndarray, torch.Tensor)


def digest(
    o,  # Anything that JSON holds, or bytes
) -> str:
    "A short hash of `o`"
    data = o if isinstance(o, bytes) else json.dumps(o, sort_keys=True, default=str).encode()
    return hashlib.sha1(data).hexdigest()[:16]


def describe(
    o,  # Anything
    seen=(),  # Ids of what `o` is a part of
):
    """`o` as JSON. Functions: their code, defaults, closures and the plain values and functions of their own module
    that they name. Arrays and frames: a hash. Other objects: their class, and the arguments they were made with where
    they keep them, callbacks under the same names; else their attributes. No addresses, no order of sets."""
    if isinstance(o, _PLAIN): return o
    if isinstance(o, float): return repr(o)
    if isinstance(o, np.generic): return describe(o.item())
    if isinstance(o, Path): return o.as_posix()
    if isinstance(o, (*_ARRAYS, pd.DataFrame, pd.Series, pd.Index)): return _values(o)
    if id(o) in seen or len(seen) > 8: return type(o).__name__
    seen = (*seen, id(o))
    if isinstance(o, dict): return {str(k): describe(v, seen) for k, v in o.items()}
    if isinstance(o, (set, frozenset)): return sorted(json.dumps(describe(v, seen), sort_keys=True) for v in o)
    if is_listy(o) and not isinstance(o, slice): return [describe(v, seen) for v in o]
    if isinstance(o, partial): return [describe(v, seen) for v in (o.func, o.args, o.keywords)]
    if isinstance(o, MethodType): return [describe(o.__self__, seen), o.__name__]
    if isinstance(o, FunctionType): return _function(o, seen)
    if hasattr(o, '__qualname__'): return f'{o.__module__}.{o.__qualname__}'
    if isinstance(o, nn.Module): return [type(o).__qualname__, _layers(o), _weights(o)]
    if isinstance(o, Distribution): return repr(o)
    return [type(o).__qualname__, {k: describe(v, seen) for k, v in _settings(o).items()}]


def _settings(o):
    "Attributes that say how `o` was made, not what it did since, as far as can be told"
    values = getattr(o, '__dict__', {})
    if '__stored_args__' in values: return values['__stored_args__']
    if not isinstance(o, Callback): return values
    args = inspect.signature(type(o).__init__).parameters
    return {k: v for k, v in values.items() if k in args or isinstance(v, Distribution)}


def _function(f, seen):
    def code(c): return [c.co_code.hex(), c.co_names, [code(k) if hasattr(k, 'co_code') else describe(k, seen)
                                                       for k in c.co_consts]]

    def names(c): return {*c.co_names, *(n for k in c.co_consts if hasattr(k, 'co_code') for n in names(k))}
    own = {k: f.__globals__[k] for k in sorted(names(f.__code__)) if k in f.__globals__}
    own = {k: describe(v, seen) for k, v in own.items() if isinstance(v, (*_PLAIN, float, list, tuple)) or (
        isinstance(v, FunctionType) and v.__module__ == f.__module__)}
    cells = [describe(o.cell_contents, seen) for o in f.__closure__ or ()]
    return [f.__qualname__, digest(code(f.__code__)), describe(f.__defaults__, seen), cells, own]


def _values(o):
    if isinstance(o, torch.Tensor):
        data = o.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        return f'{o.dtype} {tuple(o.shape)} {digest(data)}'
    if isinstance(o, np.ndarray) and o.dtype != object:
        return f'{o.dtype} {o.shape} {digest(np.ascontiguousarray(o).tobytes())}'
    if isinstance(o, np.ndarray): return [describe(v) for v in o.reshape(-1)]
    if isinstance(o, pd.DataFrame): o = o.astype({k: str for k, t in o.dtypes.items() if t == 'object'})
    return digest(pd.util.hash_pandas_object(o).to_numpy().tobytes())


def _weights(model): return digest([[k, describe(v)] for k, v in model.state_dict().items()])


def _layers(model): return re.sub('0x[0-9a-f]+', '', repr(model))


def _inputs(ds):
    "A hash of the items of `ds`, of files their sizes and times; None for a data set without"
    items = getattr(ds, 'items', None)
    if items is None or callable(items): return None
    if isinstance(items, (pd.DataFrame, pd.Series)): return describe(items)
    return digest([_item(o) for o in items])


def _item(o):
    if is_listy(o): return [_item(v) for v in o]
    if not isinstance(o, Path) or not o.exists(): return describe(o)
    stat = os.stat(o)
    return [o.as_posix(), stat.st_size, stat.st_mtime_ns]


def describe_run(
    folds,  # FoldLearners as they are made
) -> dict:
    "What all fits of a run share, name -> value: its data, labels and weights hashed, and how it is folded"
    record, (targets, vocab, task), act = folds.record, folds.labels, folds.act
    versions = {o.__name__: o.__version__ for o in (torch, fastai)}
    return dict(labels=digest([describe(targets), describe(vocab), task]), items=digest(folds.items),
                inputs=_inputs(record.dls.train.dataset), weights=_weights(folds.snapshot),
                model=digest(_layers(folds.snapshot)), folds=digest([describe(o) for o in folds.numbers]),
                n_folds=folds.n_folds, n_repeats=folds.n_repeats, seed=folds.seed, average=folds.average,
                tta=folds.tta, act=act.__name__ if isinstance(act, MethodType) else digest(describe(act)), **versions)


def describe_fit(
    record,  # FitRecord with its parts
    fit=None,  # The function that trains, where `record` says nothing of it
) -> dict:
    "What a fit is, name -> value, as `describe` sees it"
    (_, loss), *cbs = record.parts
    res = dict(record.config, loss=loss, data=_loader(record.dls.train))
    for _, cb in cbs: res.setdefault(type(cb).__name__, []).append(cb)
    if record.opt is not None:
        res |= {o: getattr(record, o) for o in 'n_epoch hypers groups frozen_idx requires_grad clear stop_at'.split()}
    res = {k: describe(v) for k, v in res.items()} | ({} if fit is None else {'fit': describe(fit)})
    return {k: v if isinstance(v, (*_PLAIN, float)) else digest(v) for k, v in res.items()}


def _loader(dl):
    "What a DataLoader does with its items: batches, and the transforms' names and arguments"
    ds, pipes = dl.dataset, [getattr(dl, o, None) for o in ('after_item', 'before_batch', 'after_batch')]
    pipes += [getattr(tl, 'tfms', None) for tl in getattr(ds, 'tls', ())]
    tfms = [[type(f).__qualname__, describe(vars(f).get('__stored_args__', {})) if hasattr(f, '__dict__') else {}]
            for p in pipes for f in getattr(p, 'fs', ())]
    plain = {o: getattr(dl, o, None) for o in ('bs', 'batch_size', 'shuffle', 'drop_last', 'n', 'device')}
    return [type(dl).__qualname__, {k: str(v) for k, v in plain.items()}, tfms]
