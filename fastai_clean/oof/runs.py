"What a run of folds and each of its fits is, for the cache to tell it from others"
import os
from pathlib import Path
from types import MethodType

import fastai
import pandas as pd
import torch
from fastai.callback.schedule import ParamScheduler
from fastai.data.core import Datasets
from fastcore.xtras import is_listy

from .describe import code_of, describe, digest, layers_of, made_of, weights_of


def _inputs(ds):
    "A hash of the items of `ds`, of files their sizes and times; None for a data set without"
    items = getattr(ds, 'items', None)
    if items is None or callable(items): return None
    if not isinstance(items, (pd.DataFrame, pd.Series)): return digest([describe_item(o) for o in items])
    return digest([describe(items), [describe_item(o) for o in input_files(ds) or ()]])


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


def describe_item(
    o,  # An item of a data set
):
    "An item as `describe` has it, of a file its name, size and time of change"
    if is_listy(o): return [describe_item(v) for v in o]
    if not isinstance(o, Path) or not o.exists(): return describe(o)
    stat = os.stat(o)
    return [o.as_posix(), stat.st_size, stat.st_mtime_ns]


def describe_run(
    folds,  # FoldLearners as they are made
) -> dict:
    "What all fits of a run share, name -> value: its data, labels and weights hashed, and how it is folded"
    record, (targets, vocab, task), act = folds.record, folds.labels, folds.act
    res = {o: getattr(folds, o) for o in 'n_folds n_repeats seed average tta'.split()}
    return dict(res, labels=digest([describe(targets), describe(vocab), task]), items=digest(folds.ids),
                inputs=_inputs(record.dls.train.dataset), weights=weights_of(folds.snapshot),
                model=digest([layers_of(folds.snapshot), made_of(folds.snapshot, _live(record))]),
                folds=digest([describe(o) for o in folds.numbers]),
                metrics=', '.join(getattr(o, 'name', str(o)) for o in record.learn.metrics),
                act=act.__name__ if isinstance(act, MethodType) else digest(describe(act)),
                **{o.__name__: o.__version__ for o in (torch, fastai)})


def describe_fit(
    record,  # FitRecord with its parts
    fit=None,  # The function that trains, where `record` says nothing of it
) -> dict:
    "What a fit is as it begins, name -> value, as `describe` sees it"
    (_, loss), *cbs = record.parts
    live = _live(record)
    res = dict(record.config, loss=loss, **_loader(record.dls.train, live))
    for _, cb in cbs: res.setdefault('schedule' if type(cb) is ParamScheduler else type(cb).__name__, []).append(cb)
    if record.opt is not None:
        res |= {o: getattr(record, o) for o in 'n_epoch hypers groups frozen_idx requires_grad clear'.split()}
    if fit is not None: res['fit'] = fit
    res = {k: describe(v, live) for k, v in res.items()}
    return {k: digest(v) if isinstance(v, (list, dict)) else v for k, v in res.items()}


def _live(record):
    dls, learn = record.dls, record.learn
    return (learn, learn.model, record.model, record.opt, dls, learn.dls, *dls.loaders,
            *(o.dataset for o in dls.loaders))


def _loader(dl, live):
    "What a DataLoader does with its items: batches, and the transforms, name -> value"
    pipes = {'item_tfms': [getattr(dl, 'after_item', None)],
             'batch_tfms': [getattr(dl, o, None) for o in ('before_batch', 'after_batch')],
             'transforms': [getattr(tl, 'tfms', None) for tl in getattr(dl.dataset, 'tls', ())]}
    tfms = {k: [f for p in some for f in getattr(p, 'fs', ())] for k, some in pipes.items()}
    res = {k: [[describe(f, live), code_of(f, live)] for f in fs] for k, fs in tfms.items()}
    res |= {o: getattr(dl, o, None) for o in ('shuffle', 'drop_last', 'n', 'partial_n')}
    res |= {o: vars(dl)[o] for o in ('wgts', 'collate_fn') if o in vars(dl)}
    return {**res, 'dataloader': type(dl).__qualname__, 'device': str(getattr(dl, 'device', None)),
            'batch_size': getattr(dl, 'bs', getattr(dl, 'batch_size', None))}
