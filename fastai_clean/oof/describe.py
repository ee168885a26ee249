"Anything as JSON: the same in every process for what was made the same way, so that a cache knows its own"
import dis
import hashlib
import inspect
import json
import re
from argparse import Namespace
from datetime import date
from functools import partial
from pathlib import Path
from types import FunctionType, GeneratorType, MethodType, SimpleNamespace

import numpy as np
import pandas as pd
import torch
from fastai.callback.core import Callback
from fastcore.xtras import is_listy
from fasttransform import Transform
from torch import nn
from torch.distributions import Distribution

_PLAIN, _ARRAYS = (bool, int, str, type(None)), (np.ndarray, torch.Tensor)
_FRAMES = pd.DataFrame, pd.Series, pd.Index
_AS_WRITTEN = float, complex, bytes, range, date, re.Pattern, torch.dtype, torch.device
_VALUES = (*_PLAIN, *_ARRAYS, *_AS_WRITTEN, np.generic, list, tuple, dict, set, frozenset, slice, Path, partial,
           SimpleNamespace, Namespace)
_RUNNING = {'run', 'training', 'split_idx', 'order', 'do'}  # Of callbacks and transforms, and no settings
_CHANGING = 'fastai.vision.augment', 'fastai.text'  # Whose objects keep what they did last
_LIBRARIES = {'builtins', 'fastai', 'fastcore', 'fasttransform', 'timm', 'torch', 'torchvision', 'transformers'}
DEPTH = 8


def digest(
    o,  # Anything that JSON holds, or bytes
) -> str:
    "A short hash of `o`"
    data = o if isinstance(o, bytes) else json.dumps(o, sort_keys=True, default=str).encode()
    return hashlib.sha1(data).hexdigest()[:16]


def describe(
    o,  # Anything
    live=(),  # What changes in training, and is known by its class alone: the Learner, its model, optimizer, loaders
):
    """`o` as JSON. Functions: their code, defaults, closures and the values and functions of their own module that they
    name, once; Arrays and frames: a hash. Modules: layers, weights, what they were made with, and the code of what is
    no library's. Callbacks, transforms and their parts: the arguments of `__init__`, and what it sets in those of no
    library. Other objects: their class and attributes, or what they are pickled as. No addresses, no order of sets."""
    return _Description(live)(o)


class _Description:
    def __init__(self, live): self.named, self.kept, self.path = {id(o): type(o).__name__ for o in live}, [], []

    def __call__(self, o):
        if isinstance(o, _PLAIN): return o
        if isinstance(o, _AS_WRITTEN): return repr(o)
        if isinstance(o, np.generic): return self(o.item())
        if isinstance(o, Path): return o.as_posix()
        if isinstance(o, (*_ARRAYS, *_FRAMES)): return self._values(o)
        if id(o) in self.named: return self.named[id(o)]
        if id(o) in self.path or len(self.path) > DEPTH or isinstance(o, GeneratorType): return type(o).__name__
        self.path.append(id(o))
        try: return self._parts(o)
        finally: self.path.pop()

    def _parts(self, o):
        if isinstance(o, dict): return {k if isinstance(k, str) else self._sortable(k): self(v) for k, v in o.items()}
        if isinstance(o, (set, frozenset)): return sorted(map(self._sortable, o))
        if isinstance(o, slice): return ['slice', *map(self, (o.start, o.stop, o.step))]
        if is_listy(o): return list(map(self, o))
        if isinstance(o, partial): return list(map(self, (o.func, o.args, o.keywords)))
        if isinstance(o, MethodType): return [self(o.__self__), o.__name__]
        if isinstance(o, FunctionType): return self._function(o)
        if hasattr(o, '__qualname__'): return f'{o.__module__}.{o.__qualname__}'
        if isinstance(o, nn.Module): return [type(o).__qualname__, layers_of(o), weights_of(o), self.made(o)]
        if isinstance(o, Distribution): return [repr(o), [self(getattr(o, k)) for k in sorted(o.arg_constraints)]]
        if hasattr(o, 'init_kwargs') and hasattr(o, 'get_vocab'):  # a tokenizer, whose caches grow
            return [type(o).__qualname__, self(o.init_kwargs), digest(o.get_vocab())]
        return [type(o).__qualname__, {k: self(v) for k, v in self._settings(o).items()}, self._pickled(o)]

    def _sortable(self, o): return json.dumps(self(o), sort_keys=True)

    def _settings(self, o):
        "Attributes that say how `o` was made, not what it did since, as far as can be told"
        slots = {}
        for c in type(o).__mro__:
            names = vars(c).get('__slots__', ())
            for k in (names,) if isinstance(names, str) else names:
                k = f'_{c.__name__.lstrip("_")}{k}' if k.startswith('__') and not k.endswith('__') else k
                if hasattr(o, k): slots[k] = getattr(o, k)
        values = {**slots, **getattr(o, '__dict__', {})}
        if '__stored_args__' in values: return values['__stored_args__']
        if not isinstance(o, (Callback, Transform)) and not type(o).__module__.startswith(_CHANGING): return values
        names = _made_with(o)
        return {k: v for k, v in values.items() if k not in _RUNNING and (k in names or isinstance(v, Distribution))}

    def _pickled(self, o):
        "What an object without attributes, such as an itemgetter, is made again from"
        if hasattr(o, '__dict__'): return None
        try: return self(o.__reduce_ex__(2)[1:])
        except TypeError: return None

    def made(self, model):
        "What layers and weights do not show of a model: what its parts were made with, the code of those of no library"
        parts = []
        for name, m in model.named_modules():
            names = _made_with(m)
            values = {k: self(v) for k, v in vars(m).items() if k in names and not isinstance(v, nn.Module)}
            code = self.code(m)
            if values or code: parts.append([name, values, code])
        return digest(parts)

    def code(self, o):
        "That of the methods of its classes, but for those of libraries"
        return [self(f) for c in type(o).__mro__ if not _of_library(c) for _, f in sorted(vars(c).items())
                if isinstance(f, FunctionType)]

    def _function(self, f):
        self.named[id(f)] = f.__qualname__
        self.kept.append(f)

        def code(c): return [c.co_code.hex(), c.co_names, [code(k) if hasattr(k, 'co_code') else self(k)
                                                           for k in c.co_consts]]

        def names(c): return {*c.co_names, *(n for k in c.co_consts if hasattr(k, 'co_code') for n in names(k))}
        own = {k: f.__globals__[k] for k in sorted(names(f.__code__)) if k in f.__globals__}
        own = {k: self(v) for k, v in own.items() if isinstance(v, _VALUES) or f.__module__ == (
            v.__module__ if isinstance(v, FunctionType) else type(v).__module__)}
        return [f.__qualname__, digest(code(f.__code__)), self([f.__defaults__, f.__kwdefaults__]), self.cells(f), own]

    def cells(self, f):
        "What the closure of a function holds"
        res = []
        for o in f.__closure__ or ():
            try: res.append(self(o.cell_contents))
            except ValueError: res.append('empty')
        return res

    def _values(self, o):
        if isinstance(o, torch.Tensor):
            data = o.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            return f'{o.dtype} {tuple(o.shape)} {digest(data)}'
        if isinstance(o, np.ndarray) and o.dtype != object:
            return f'{o.dtype} {o.shape} {digest(np.ascontiguousarray(o).tobytes())}'
        if isinstance(o, np.ndarray): return [self(v) for v in o.reshape(-1)]
        if isinstance(o, pd.DataFrame): return [self(o.iloc[:, i]) for i in range(o.shape[1])]
        if o.dtype == object: o = o.map(lambda v: v if isinstance(v, str) else self._sortable(v))
        return [str(getattr(o, 'name', None)), digest(pd.util.hash_pandas_object(o).to_numpy().tobytes())]


def _of_library(o): return (o.__module__ or '').partition('.')[0] in _LIBRARIES


def _made_with(o):
    "Names of the arguments of its classes' `__init__`, and of what it sets in those of no library"
    inits = [(c, vars(c)['__init__']) for c in type(o).__mro__ if isinstance(vars(c).get('__init__'), FunctionType)]
    args = {k for _, f in inits for k in inspect.signature(f).parameters}
    return args | {i.argval for c, f in inits if not _of_library(c) for i in dis.get_instructions(f)
                   if i.opname == 'STORE_ATTR'}


def weights_of(
    model,  # Any nn.Module
) -> str:
    "A hash of its state"
    return digest([[k, describe(v)] for k, v in model.state_dict().items()])


def layers_of(
    model,  # Any nn.Module
) -> str:
    "Its layers as text, without addresses"
    return re.sub('0x[0-9a-f]+', '', repr(model))


def made_of(
    model,  # Any nn.Module
    live=(),  # As in `describe`
) -> str:
    "A hash of what its parts were made with and of the code of those that are of no library"
    return _Description(live).made(model)


def code_of(
    o,  # A transform
    live=(),  # As in `describe`
) -> list:
    "The code that it runs, but for libraries', in an order of its own"
    see = _Description(live)
    found = [getattr(m, 'implementation', None) for m in getattr(getattr(o, 'encodes', None), 'methods', ())]
    res = [see.cells(f) if _of_library(f) else see(f) for f in found if isinstance(f, FunctionType)]
    res += [see(f) for f in found if isinstance(f, MethodType)]
    return [see.code(o), sorted(json.dumps(v, sort_keys=True) for v in res)]
