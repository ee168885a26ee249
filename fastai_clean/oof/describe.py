"What a run is made of, as JSON: the same in every process for the same run, so that a cache knows its own"
import hashlib
import inspect
import json
import os
import re
from argparse import Namespace
from functools import partial
from pathlib import Path
from types import FunctionType, MethodType, SimpleNamespace

import fastai
import numpy as np
import pandas as pd
import torch
from fastai.callback.core import Callback
from fastai.callback.schedule import ParamScheduler
from fastai.data.core import Datasets
from fastcore.xtras import is_listy
from fasttransform import Transform
from torch import nn
from torch.distributions import Distribution

__all__ = ['describe', 'describe_fit', 'describe_run', 'digest', 'input_files']

_PLAIN, _ARRAYS = (bool, int, str, type(None)), (np.ndarray, torch.Tensor)
_VALUES = (*_PLAIN, float, np.generic, *_ARRAYS, list, tuple, dict, set, frozenset, SimpleNamespace, Namespace)
_RUNNING = {'run', 'training', 'split_idx', 'order'}  # Attributes of callbacks and transforms that are no settings
_CHANGING = 'fastai.vision.augment', 'fastai.text'  # Whose objects keep what they did last
_LIBRARIES = {'builtins', 'fastai', 'fastcore', 'fasttransform', 'timm', 'torch', 'torchvision', 'transformers'}


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
    """`o` as JSON. Functions: their code, defaults, closures and the values and functions of their own module that they
    name. Arrays and frames: a hash. Modules: layers, weights, arguments, and the code of what is no library's. Other
    objects: their class, and the arguments they were made with where fastai's classes keep them under the same names;
    else their attributes. No addresses, no order of sets."""
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
    if isinstance(o, nn.Module): return [type(o).__qualname__, _layers(o), _weights(o), _made(o, seen)]
    if isinstance(o, Distribution): return [repr(o), [describe(getattr(o, k)) for k in sorted(o.arg_constraints)]]
    return [type(o).__qualname__, {k: describe(v, seen) for k, v in _settings(o).items()}]


def _settings(o):
    "Attributes that say how `o` was made, not what it did since, as far as can be told"
    slots = {k: getattr(o, k) for c in type(o).__mro__ for k in vars(c).get('__slots__', ()) if hasattr(o, k)}
    values = {**slots, **getattr(o, '__dict__', {})}
    if '__stored_args__' in values: return values['__stored_args__']
    if not isinstance(o, (Callback, Transform)) and not type(o).__module__.startswith(_CHANGING): return values
    args, own = _arguments(o), not _of_library(type(o))
    return {k: v for k, v in values.items() if k not in _RUNNING and (
        k in args or isinstance(v, Distribution) or (own and isinstance(v, (*_PLAIN, float))))}


def _arguments(o):
    return {k for c in type(o).__mro__ if '__init__' in vars(c) for k in inspect.signature(c.__init__).parameters}


def _of_library(f): return f.__module__.partition('.')[0] in _LIBRARIES


def _made(model, seen):
    "What layers and weights do not show of a model: arguments of its parts, and the code of those of no library"
    parts = []
    for name, m in model.named_modules():
        args = _arguments(m)
        values = {k: v for k, v in vars(m).items() if k in args and not isinstance(v, (nn.Module, torch.Tensor))}
        code = [] if _of_library(type(m)) else [describe(f, seen) for k, f in sorted(vars(type(m)).items())
                                                if isinstance(f, FunctionType)]
        if values or code: parts.append([name, describe(values, seen), code])
    return digest(parts)


def _function(f, seen):
    def code(c): return [c.co_code.hex(), c.co_names, [code(k) if hasattr(k, 'co_code') else describe(k, seen)
                                                       for k in c.co_consts]]

    def names(c): return {*c.co_names, *(n for k in c.co_consts if hasattr(k, 'co_code') for n in names(k))}
    own = {k: f.__globals__[k] for k in sorted(names(f.__code__)) if k in f.__globals__}
    own = {k: describe(v, seen) for k, v in own.items() if isinstance(v, _VALUES) or f.__module__ == (
        v.__module__ if isinstance(v, FunctionType) else type(v).__module__)}
    cells = [describe(o.cell_contents, seen) for o in f.__closure__ or ()]
    defaults = describe([f.__defaults__, f.__kwdefaults__], seen)
    return [f.__qualname__, digest(code(f.__code__)), defaults, cells, own]


def _values(o):
    if isinstance(o, torch.Tensor):
        data = o.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        return f'{o.dtype} {tuple(o.shape)} {digest(data)}'
    if isinstance(o, np.ndarray) and o.dtype != object:
        return f'{o.dtype} {o.shape} {digest(np.ascontiguousarray(o).tobytes())}'
    if isinstance(o, np.ndarray): return [describe(v) for v in o.reshape(-1)]
    if isinstance(o, pd.DataFrame): return [describe(o.iloc[:, i]) for i in range(o.shape[1])]
    if o.dtype == object: o = o.map(lambda v: v if isinstance(v, str) else json.dumps(describe(v)))
    return [str(getattr(o, 'name', None)), digest(pd.util.hash_pandas_object(o).to_numpy().tobytes())]


def _weights(model): return digest([[k, describe(v)] for k, v in model.state_dict().items()])


def _layers(model): return re.sub('0x[0-9a-f]+', '', repr(model))


def _inputs(ds):
    "A hash of the items of `ds`, of files their sizes and times; None for a data set without"
    items = getattr(ds, 'items', None)
    if items is None or callable(items): return None
    if not isinstance(items, (pd.DataFrame, pd.Series)): return digest([_item(o) for o in items])
    return digest([describe(items), [_item(o) for o in input_files(ds) or ()]])


def input_files(
    ds,  # A data set
):
    "The image file of each item, or None where the inputs are no images in files"
    if not isinstance(ds, Datasets): return None
    items, found = ds.tls[0].items, []
    for i in range(len(ds)):
        x = items.iloc[i] if hasattr(items, 'iloc') else items[i]
        for f in ds.tls[0].tfms.fs:
            if 'PIL' in getattr(f, 'name', ''): break
            x = f(x, split_idx=1)
        else: return None
        if not isinstance(x, (str, Path)): return None
        found.append(Path(x))
    return found


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
    res = {o: getattr(folds, o) for o in 'n_folds n_repeats seed average tta'.split()}
    return dict(res, labels=digest([describe(targets), describe(vocab), task]), items=digest(folds.items),
                inputs=_inputs(record.dls.train.dataset), weights=_weights(folds.snapshot),
                model=digest([_layers(folds.snapshot), _made(folds.snapshot, ())]),
                folds=digest([describe(o) for o in folds.numbers]),
                metrics=', '.join(getattr(o, 'name', str(o)) for o in record.learn.metrics),
                act=act.__name__ if isinstance(act, MethodType) else digest(describe(act)),
                **{o.__name__: o.__version__ for o in (torch, fastai)})


def describe_fit(
    record,  # FitRecord with its parts
    fit=None,  # The function that trains, where `record` says nothing of it
) -> dict:
    "What a fit is, name -> value, as `describe` sees it"
    (_, loss), *cbs = record.parts
    res = dict(record.config, loss=loss, **_loader(record.dls.train))
    for _, cb in cbs: res.setdefault('schedule' if type(cb) is ParamScheduler else type(cb).__name__, []).append(cb)
    if record.opt is not None:
        res |= {o: getattr(record, o) for o in 'n_epoch hypers groups frozen_idx requires_grad clear stop_at'.split()}
    res = {k: describe(v) for k, v in res.items()} | ({} if fit is None else {'fit': describe(fit)})
    return {k: v if isinstance(v, (*_PLAIN, float)) else digest(v) for k, v in res.items()}


def _loader(dl):
    "What a DataLoader does with its items: batches, and the transforms, name -> value"
    pipes = {'item_tfms': [getattr(dl, 'after_item', None)],
             'batch_tfms': [getattr(dl, o, None) for o in ('before_batch', 'after_batch')],
             'transforms': [getattr(tl, 'tfms', None) for tl in getattr(dl.dataset, 'tls', ())]}
    res = {k: [_transform(f) for p in some for f in getattr(p, 'fs', ())] for k, some in pipes.items()}
    res |= {o: getattr(dl, o, None) for o in ('shuffle', 'drop_last', 'n', 'partial_n')}
    res |= {o: vars(dl)[o] for o in ('wgts', 'collate_fn') if o in vars(dl)}
    return {**res, 'dataloader': type(dl).__qualname__, 'device': str(getattr(dl, 'device', None)),
            'batch_size': getattr(dl, 'bs', getattr(dl, 'batch_size', None))}


def _transform(f):
    "Its arguments, and the code of what is not fastai's own"
    methods = getattr(getattr(f, 'encodes', None), 'methods', ())
    own = [o.implementation for o in methods if isinstance(getattr(o, 'implementation', None), FunctionType)]
    return [describe(f), sorted(json.dumps(describe(o), sort_keys=True) for o in own if not _of_library(o))]
