"""Fingerprints: text that tells one run of folds, one fit and one set of features from others.

A fingerprint is plain: hashes of data and weights, settings as text, versions, and the user's own
`cache_key`. Of functions and classes that are the user's own, and not an installed package's, it
has the code, and the values that this reads from its module and class. It does not see the code of
packages, files that the user's own functions open, or the state of random generators."""
import dis
import hashlib
import os
import platform
import re
import sys
import sysconfig
from datetime import date
from enum import Enum
from functools import partial
from inspect import unwrap
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType, SimpleNamespace

import fastai
import numpy as np
import pandas as pd
import torch
from fastai.callback.schedule import ParamScheduler
from fastai.data.core import DataLoaders, Datasets
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastcore.foundation import L
from fasttransform import Transform
from plum import Function
from torch import nn
from torch.distributions import Distribution

from .. import __version__
from ..data import ids_of

# Of a loader: its weights, and what may stand in the place of its own methods
OWN = ('wgts', 'collate_fn', 'get_idxs', 'sample', 'shuffle_fn', 'create_item', 'create_batch',
       'create_batches', 'before_iter', 'after_iter', 'retain')
VERSIONS = dict(python=platform.python_version(), torch=torch.__version__,
                fastai=fastai.__version__, fastai_clean=__version__)
DEPTH = 12
_AS_WRITTEN = (bool, int, float, complex, str, bytes, type(None), range, slice, date, re.Pattern,
               Enum, torch.dtype, torch.device)
_FRAMES = pd.DataFrame, pd.Series, pd.Index
_RUNNING = {'training', 'do', 'run', 'learn', 'split_idx'}  # Attributes that are not settings
_LIVE = Learner, DataLoaders, DataLoader, torch.utils.data.DataLoader
_PACKAGES = {'site-packages', 'dist-packages'}
_PYTHON = Path(sysconfig.get_path('stdlib'))


def fingerprint(
    o,  # Anything
    live: tuple = (),  # What training changes, named by its class only: Learner, model, loaders
    depth: int = 0,  # How deep `o` is inside what was asked for
    seen: dict | None = None,  # User's functions and classes -> their code, which is told once
) -> str:
    """`o` as text, the same in every process for what was made the same way: no addresses, no
    order of sets.

    Arrays and frames: a hash. Modules: layers, settings, weights. Functions: their name, defaults
    and closure, and if they are the user's their code. Other objects: their class, and the
    attributes that its `__init__` names, or for the user's classes all that no method changes."""
    if isinstance(o, np.generic): o = o.item()
    if isinstance(o, _AS_WRITTEN): return repr(o)
    if isinstance(o, Path): return o.as_posix()
    if isinstance(o, (np.ndarray, torch.Tensor)): return _array_text(o)
    if isinstance(o, _FRAMES): return _frame_text(o)
    if depth > DEPTH or any(o is p for p in live): return type(o).__name__
    # Others than the ones that are known: the whole of a Learner is more than a setting
    if depth and isinstance(o, _LIVE): return type(o).__name__

    seen = {} if seen is None else seen
    def of(v): return fingerprint(v, (*live, o), depth + 1, seen)
    if isinstance(o, SimpleNamespace): o = vars(o)
    if isinstance(o, dict):
        return '{%s}' % ', '.join(sorted(f'{of(k)}: {of(v)}' for k, v in o.items()))
    if isinstance(o, (set, frozenset)): return '{%s}' % ', '.join(sorted(map(of, o)))
    if isinstance(o, (list, tuple, L)): return '[%s]' % ', '.join(map(of, o))
    if isinstance(o, partial): return f'partial({of(o.func)}, {of(o.args)}, {of(o.keywords)})'
    if isinstance(o, MethodType): return f'{of(o.__self__)}.{o.__name__}'
    if isinstance(o, nn.Module): return f'{model_text(o, live, depth, seen)} {_weights(o)}'
    # What fasttransform wraps a transform's functions into
    if isinstance(o, Function): return of(_dispatched(o))

    code = _code_text(o if hasattr(o, '__qualname__') else type(o), of, seen)
    if isinstance(o, FunctionType): return _function_text(o, of) + code
    if hasattr(o, '__qualname__'):
        return f'{getattr(o, "__module__", "")}.{o.__qualname__}{code}'
    if isinstance(o, torch.Generator): return f'Generator({o.initial_seed()})'
    if isinstance(o, Distribution):
        # Its repr may hide its arguments, as that of MixUp's Beta does
        return f'{type(o).__name__}({of({k: getattr(o, k) for k in o.arg_constraints})})'
    if hasattr(o, 'init_kwargs') and hasattr(o, 'get_vocab'):
        # A slow tokenizer of transformers grows caches while it runs
        return f'{type(o).__qualname__}({of(o.init_kwargs)}, {of(o.get_vocab())})'
    slots = _slots(o)
    if not hasattr(o, '__dict__') and not slots: return _without_addresses(repr(o)) + code
    settings = {**slots, **(_settings(o) if hasattr(o, '__dict__') else {})}
    return f'{type(o).__qualname__}({of(settings)}){code}'


def _array_text(o):
    if isinstance(o, torch.Tensor):
        data = o.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        return f'{o.dtype} {tuple(o.shape)} {digest(data.tobytes())}'
    if o.dtype == object: return f'{o.shape} {digest(repr([fingerprint(v) for v in o.flat]))}'
    return f'{o.dtype} {o.shape} {digest(np.ascontiguousarray(o).tobytes())}'


def _frame_text(o):
    if isinstance(o, pd.DataFrame):
        return f'[{", ".join(_frame_text(o.iloc[:, i]) for i in range(o.shape[1]))}]'
    # Cells may be arrays, which pandas cannot hash
    if o.dtype == object: o = o.map(lambda v: v if isinstance(v, str) else fingerprint(v))
    values = pd.util.hash_pandas_object(o).to_numpy()
    return f'{o.name} {digest(values.tobytes())}'


def _function_text(f, of):
    # What a wrapper wraps is in its closure
    cells = [_content(o) for o in f.__closure__ or ()]
    return f'{f.__module__}.{f.__qualname__}{of([f.__defaults__, f.__kwdefaults__, cells])}'


def _content(cell):
    try: return cell.cell_contents
    # The cell of a function that refers to itself may still be empty
    except ValueError: return None


def _settings(o):
    "Attributes that say how `o` was made, not what it did since, as far as can be told"
    stored = vars(o).get('__stored_args__', {})
    if stored and not _is_users(type(o)): return stored
    # Most transforms and callbacks do not keep their arguments: the names in `__init__` come close
    own = [vars(c).get('__init__') for c in type(o).__mro__]
    inits = [unwrap(f).__code__ for f in own if isinstance(f, FunctionType)]
    names = {n for c in inits for n in (*c.co_names, *c.co_varnames)} - _RUNNING
    # What the user sets from outside, or passes as **kwargs, is named nowhere
    if _is_users(type(o)): names |= {*vars(o)} - _changed(type(o)) - _RUNNING
    res = {k: v for k, v in vars(o).items()
           if (k in names or k.lstrip('_') in names) and not k.startswith('__')}
    # fasttransform wraps a function into a dispatcher, and the dispatcher's name says little
    if isinstance(o, Transform) and 'encodes' in res: res['encodes'] = _dispatched(res['encodes'])
    return {**stored, **res}


def _slots(o):
    names = [n for c in type(o).__mro__ for n in L(vars(c).get('__slots__', ()))]
    return {n: getattr(o, n) for n in names if not n.startswith('__') and hasattr(o, n)}


def _dispatched(o):
    "The functions behind a dispatcher of plum's"
    found = [getattr(m, 'implementation', None) for m in o.methods]
    return {f for f in found if callable(f)}


def _changed(cls):
    "Names of attributes that methods of `cls` set, other than `__init__`, and that its modules own"
    names = {*vars(nn.Module())} if issubclass(cls, nn.Module) else set()
    methods = [f for c in cls.__mro__ for k, f in vars(c).items() if k != '__init__']
    for f in methods:
        if not isinstance(f, FunctionType): continue
        names |= {o.argval for o in dis.get_instructions(f) if o.opname == 'STORE_ATTR'}
    return names


def _is_users(o):
    "Whether a function or class is the user's own: not of an installed package, nor of Python's"
    name = getattr(o, '__module__', None) or ''
    if name.partition('.')[0] == 'fastai_clean' or name in sys.builtin_module_names: return False
    # A notebook has no file
    file = Path(getattr(sys.modules.get(name), '__file__', None) or '')
    return not file.is_relative_to(_PYTHON) and not {*file.parts} & _PACKAGES


def _code_text(o, of, seen):
    """A hash of what the user's function or class `o` does: its code, and what that reads from its
    module or holds in its class. Empty for all others, and for what was told before."""
    if not isinstance(o, (FunctionType, type)) or o in seen or not _is_users(o): return ''
    seen[o] = True
    if isinstance(o, FunctionType): parts = _called(o.__code__, o, of)
    else:
        parts = [of(c) for c in o.__mro__[1:]]
        for k, v in sorted(vars(o).items()):
            v = getattr(v, '__func__', v)
            if isinstance(v, property): v = [v.fget, v.fset]
            # Python's own notes of a class; methods such as `__call__` are functions
            if k.startswith('__') and not isinstance(v, FunctionType): continue
            if k.startswith('_abc_'): continue
            parts.append(f'{k}: {of(v)}')
    return f' {digest(repr(parts))}'


def _called(code, f, of):
    "The text of `code`, which is that of `f` or lies in it, and of the globals that it reads"
    # An edited docstring changes nothing
    values = [o for o in code.co_consts if not isinstance(o, CodeType) and o != f.__doc__]
    parts = [digest(code.co_code), repr(code.co_names), of(values)]
    ops = list(dis.get_instructions(code))
    own = {o.argval for o in ops if o.opname == 'STORE_GLOBAL'}
    read = {o.argval for o in ops if o.opname in ('LOAD_GLOBAL', 'LOAD_NAME')} - own
    for k in sorted(read & {*f.__globals__}):
        v = f.__globals__[k]
        # A list that it appends to is a record of what was done, and no setting
        if isinstance(v, list) and 'append' in code.co_names: continue
        # What the code may read of another file of the user's, as in `helpers.scale(x)`
        if isinstance(v, ModuleType):
            if not _is_users(SimpleNamespace(__module__=v.__name__)): continue
            v = {n: vars(v)[n] for n in code.co_names if n in vars(v)}
        parts.append(f'{k}: {of(v)}')
    inner = [o for o in code.co_consts if isinstance(o, CodeType)]
    return parts + [_called(o, f, of) for o in inner]


def model_text(
    model: nn.Module,
    live: tuple = (),  # As in `fingerprint`
    depth: int = 0,
    seen: dict | None = None,
) -> str:
    "Layers and settings of a model, without its weights"
    seen = {} if seen is None else seen
    def of(v): return fingerprint(v, live, depth + 1, seen)
    # A layer's repr may hide arguments, as that of torch's CrossEntropyLoss does
    parts = []
    for name, m in model.named_modules():
        values = {k: v for k, v in _settings(m).items() if not isinstance(v, nn.Module)}
        parts.append(f'{name}: {of(values)}{_code_text(type(m), of, seen)}')
    return f'{_without_addresses(repr(model))} {digest(repr(parts))}'


def _weights(model):
    return digest(repr([(k, fingerprint(v)) for k, v in model.state_dict().items()]))


def _without_addresses(text): return re.sub('0x[0-9a-fA-F]+', '', text)


def digest(
    o: str | bytes,
) -> str:
    "A short hash of `o`"
    data = o if isinstance(o, bytes) else o.encode(errors='backslashreplace')
    return hashlib.sha1(data).hexdigest()[:16]


def _short(o, live=()):
    text = fingerprint(o, live)
    return text if len(text) <= 40 else digest(text)


def _stat(o):
    "An item of a data set as text; of a file its name, size and time of change"
    if isinstance(o, (list, tuple, L)): return f'[{", ".join(map(_stat, o))}]'
    # A text may be the name of a file too, which the user's own function opens
    named = o.exists() if isinstance(o, Path) else isinstance(o, str) and os.path.isfile(o)
    if not named: return fingerprint(o)
    stat = os.stat(o)
    return f'{Path(o).as_posix()} {stat.st_size} {stat.st_mtime_ns}'


def _is_pil(f):
    "Whether a transform is `PILImage.create` or the like"
    found = _dispatched(f.encodes) if hasattr(f, 'encodes') else [f]
    names = [getattr(o, '__qualname__', '') for o in found]
    return 'PIL' in f'{getattr(f, "name", "")} {names}'


def image_files(
    tl,  # The TfmdLists of the inputs or targets of a Datasets
) -> list[Path] | None:
    "The image or mask file of each item, or None if it is not made of a file"
    fs = list(tl.tfms.fs)
    # Only what comes before `PILImage.create` and the like is run: nothing is opened
    opens = [_is_pil(f) for f in fs]
    if True not in opens: return None
    k = opens.index(True)
    found = []
    for i in range(len(tl)):
        x = tl.items.iloc[i] if hasattr(tl.items, 'iloc') else tl.items[i]
        for f in fs[:k]: x = f(x, split_idx=1)
        if not isinstance(x, (str, Path)): return None
        found.append(Path(x))
    return found


def _inputs(ds, masked):
    "A hash of the items of `ds` and of the files that they name, else of its settings"
    items = getattr(ds, 'items', None)
    if items is None or callable(items): return digest(fingerprint(ds))
    frame = isinstance(items, (pd.DataFrame, pd.Series))
    parts = [fingerprint(items)] if frame else [_stat(o) for o in items]
    for tl in ds.tls if isinstance(ds, Datasets) else ():
        parts += [_stat(o) for o in image_files(tl) or ()]
    if not masked: return digest(repr(parts))
    # Masks are no labels that were read already: those of an unknown kind of file are read now
    for tl in ds.tls[ds.n_inp:] if isinstance(ds, Datasets) else ():
        if image_files(tl) is None: parts += [fingerprint(o) for o in tl]
    return digest(repr(parts))


def run_fingerprint(
    folds,  # FoldLearners as they are made
) -> dict[str, str]:
    "What all fits of a run share, name -> text: its data, labels and weights, and how it is folded"
    record = folds.record
    act = folds.act
    names = 'average', 'tta', 'cache_key'
    return {
        'n_folds': str(folds.n_folds), 'n_repeats': str(folds.n_repeats), 'seed': str(folds.seed),
        **{o: repr(getattr(folds.options, o)) for o in names},
        'labels': digest(fingerprint(tuple(folds.labels))), 'ids': digest(repr(folds.ids)),
        'inputs': _inputs(record.dls.train.dataset, folds.labels.targets is None),
        'folds': digest(fingerprint(folds.numbers)),
        'weights': _weights(folds.snapshot),
        'model': digest(model_text(folds.snapshot, _live(record))),
        'metrics': ', '.join(map(_metric_text, record.learn.metrics)),
        # A method of the loss, which `fit_fingerprint` sees whole
        'act': act.__name__ if isinstance(act, MethodType) else _short(act), **VERSIONS}


def _metric_text(o):
    f = getattr(o, 'func', None)
    code = '' if f is None else f' {digest(fingerprint(f))}'
    return getattr(o, 'name', type(o).__name__) + code


def fit_fingerprint(
    record,  # FitRecord with its parts
    fit=None,  # The function that trains, if `record` says nothing about it
) -> dict[str, str]:
    "What a fit is as it begins, name -> text: its record, loss, callbacks, loader and transforms"
    (_, loss), *cbs = record.parts
    res = {**record.config, 'loss': loss, **_loader(record.dls.train)}
    for _, cb in cbs:
        name = 'schedule' if type(cb) is ParamScheduler else type(cb).__name__
        res.setdefault(name, []).append(cb)
    if record.opt is not None:
        names = 'n_epoch', 'hypers', 'groups', 'frozen_idx', 'requires_grad', 'clear'
        res.update({o: getattr(record, o) for o in names})
    if fit is not None: res['fit'] = fit
    live = _live(record)
    return {k: _short(v, live) for k, v in res.items()}


def _live(record):
    loaders = [*record.dls.loaders, *(o.dataset for o in record.dls.loaders)]
    return (record.learn, record.learn.model, record.model, record.opt, record.dls,
            record.learn.dls, *record.stand_ins, *loaders)


def _loader(dl):
    "What a DataLoader does with its items: batches, and the transforms, name -> value"
    pipes = {'item_tfms': [getattr(dl, 'after_item', None)],
             'batch_tfms': [getattr(dl, o, None) for o in ('before_batch', 'after_batch')],
             'transforms': [getattr(tl, 'tfms', None) for tl in getattr(dl.dataset, 'tls', ())]}
    res = {}
    # What is no Pipeline is one function
    for k, some in pipes.items(): res[k] = [list(getattr(p, 'fs', [p])) for p in some]
    res.update({o: getattr(dl, o, None) for o in ('shuffle', 'drop_last', 'n', 'partial_n')})
    res.update({o: vars(dl)[o] for o in OWN if o in vars(dl)})
    return {**res, 'dataloader': type(dl).__qualname__, 'device': str(getattr(dl, 'device', None)),
            'batch_size': getattr(dl, 'bs', getattr(dl, 'batch_size', None))}


def features_key(
    learn,  # The Learner that is to read `dl`
    dl,  # A DataLoader that is not shuffled
    layer: str,  # Name of the module whose inputs or outputs are the features
    home,  # The folder that ids of files are relative to
    cache_key=None,  # The user's own
) -> str:
    """A hash of what features are made of: the model with its weights, `layer`, the callbacks,
    versions and what is read, whatever the labels.

    For images in files, what is read is their names, sizes, times of change and the first batch,
    which shows the transforms; for anything else every batch, loaded without the model."""
    ds = dl.dataset
    files = image_files(ds.tls[0]) if isinstance(ds, Datasets) else None
    batches = dl
    if files is not None:
        batches = [dl.one_batch() if isinstance(dl, DataLoader) else next(iter(dl))]
    inputs = []
    for b in batches:
        n_inp = getattr(learn.dls, 'n_inp', max(1, len(b) - 1))
        inputs.append(fingerprint(b[:n_inp]))
    parts = [model_text(learn.model), _weights(learn.model), layer, ids_of(ds, home), inputs,
             [_stat(o) for o in files or ()], repr(cache_key), VERSIONS,
             [fingerprint(o) for o in learn.cbs.sorted('order')]]
    return digest(repr(parts))
