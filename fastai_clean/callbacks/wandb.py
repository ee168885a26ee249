"Weights & Biases: training curves, fold metrics, the worst items and their CSV; nothing where wandb is not installed"
import os
from functools import partial
from importlib.util import find_spec
from io import BytesIO
from numbers import Real
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4
from weakref import WeakSet

import numpy as np
import torch
from fastai.callback.core import Callback
from fastai.torch_core import no_random, rank_distrib
from fastcore.basics import store_attr
from PIL import Image

from .._images import thumbnail
from ..interpret import CleanInterpretation
from ..oof.result import oof_of
from . import ConfidentLearningCallback

MAX_TEXT, MAX_PIXELS = 4000, 256
_STARTED = WeakSet()


class CleanWandbCallback(Callback):
    """Logs a Learner to Weights & Biases: losses and hyperparameters of each batch, metrics of each epoch and, where
    ConfidentLearningCallback made a new `learn.oof`, the folds' metrics, a table of the worst items and a CSV artifact.

    A run that is active (`wandb.run`) is used and never finished; otherwise the first fit starts one, which stays open
    for the fits that follow, until `finish()`, `wandb.finish()`, another CleanWandbCallback or the end of the program.
    Each fold also gets a run of its own in the run's group, started and finished when the folds are done. Training is
    the same with and without it; without wandb it does nothing.

    It is a callback of its own and not a subclass of fastai's WandbCallback, which in fastai 2.8 fails before the first
    batch (fastai issue 4173) and could only be mended by changing fastai; where that one is on the Learner too, it logs
    the training. Raises ValueError for n_items < 1 and, before the first batch, what `wandb.init` raises."""
    order, in_folds, remove_on_fetch = ConfidentLearningCallback.order + 1, False, True
    _stateattrs = 'wandb_run', '_following', '_curves', '_oof', '_epochs', '_fits'

    def __init__(self,
        project=None,  # Project of a run that is started; None: wandb's default
        group=None,  # Group of a run that is started; None: WANDB_RUN_GROUP, or `cv-<run id>`
        n_items=50,  # Rows of the table of the worst items
        fold_runs=True,  # Whether each fold gets a run of its own
        artifact=None,  # Name of the artifact; None: `label_issues-<run id>`
        **kwargs,  # Passed to `wandb.init` where a run is started: entity, name, tags, mode, dir
    ):
        _check_n_items(n_items)
        self._init_state()
        store_attr('project,group,n_items,fold_runs,artifact,kwargs')

    def _init_state(self):
        super()._init_state()
        vars(self).update(wandb_run=None, _following=False, _curves=True, _oof=None, _epochs=0, _fits=0)

    def before_fit(self):
        "Forget a fit that was interrupted"
        self._following, self._oof = False, None

    def before_train(self):
        "Once a fit, if it is not `lr_find`: find or start the run"
        if self._following or hasattr(self.learn, 'lr_finder') or rank_distrib(): return
        wandb = _wandb()
        if wandb is None: return
        self._start(wandb)
        self.wandb_run.config.update({'learner': _config(self.learn)}, allow_val_change=True)
        classes = [o for cb in self.learn.cbs for o in type(cb).__mro__]
        self._curves = not any(o.__module__ == 'fastai.callback.wandb' for o in classes)
        self._oof = oof_of(self.learn)
        self._following = True

    def _start(self, wandb):
        run = wandb.run
        if run is None or (run in _STARTED and run is not self.wandb_run):
            if run is not None: run.finish()
            new = uuid4().hex[:8]
            group = self.group or os.environ.get('WANDB_RUN_GROUP') or (f'cv-{new}' if self.fold_runs else None)
            run = wandb.init(**{'project': self.project, 'group': group, 'job_type': 'train', 'id': new, **self.kwargs})
            if run.id == self.kwargs.get('id', new): _STARTED.add(run)
        if run is not self.wandb_run: self.wandb_run, self._epochs, self._fits = run, 0, 0

    def after_batch(self):
        "Log losses and hyperparameters"
        if not (self._following and self._curves and self.training): return
        hypers = {f'{name}_{i}': value for i, o in enumerate(self.opt.hypers) for name, value in o.items()}
        self.wandb_run.log({'epoch': self._epochs + (self.iter + 1)/self.n_iter, **_numbers(
            {'train_loss': self.smooth_loss, 'raw_loss': self.loss, **hypers})})

    def after_epoch(self):
        "Log the metrics"
        if not (self._following and self._curves): return
        self._epochs += 1
        values = dict(zip(self.recorder.metric_names, self.recorder.log))
        for name in ('epoch', 'train_loss', 'time'): values.pop(name, None)
        self.wandb_run.log({'epoch': self._epochs, **_numbers(values)})

    def after_fit(self):
        "Log the folds, if this fit was followed by them"
        following, before = self._following, self._oof
        self._following, self._oof = False, None
        oof = oof_of(self.learn)
        if following and oof is not None and oof is not before: self.log_oof(self.learn)

    def log_oof(self,
        learn,  # The Learner, with a finished `learn.oof`
    ):
        """Log `learn.oof` to the run: done after every fit that made one; to be called after
        `ConfidentLearningCallback.resume`. Raises ValueError before the first fit and after `finish()`."""
        run, oof = self.wandb_run, oof_of(learn)
        if run is None: raise ValueError("there is no run to log to: fit first, or use log_interpretation")
        if run.disabled: return
        self._fits += 1
        metrics, group = oof.config.get('fold_metrics', []), run.group or f'cv-{run.id}'
        config = {name: value for name, value in oof.config.items() if name != 'fold_metrics'}
        run.config.update({'oof': {**config, 'group': group}}, allow_val_change=True)
        run.summary.update(fold_summary(metrics))
        if self.fold_runs:
            for row in metrics: self._log_fold(row, group)
        with no_random(reproducible=False):
            interp = CleanInterpretation.from_learner(learn, ds_idx=0)
            log_interpretation(interp, run, self.n_items, artifact=self.artifact)
        run.summary.update(_counts(interp))

    def _log_fold(self, row, group):
        wandb, run, k = _wandb(), self.wandb_run, row['fold'] + 1
        name = f'fold {k}' if self._fits == 1 else f'fold {k}, fit {self._fits}'
        with wandb.init(project=run.project, entity=run.entity or None, group=group, job_type='fold', name=name,
                        config={'fold': k, 'items': row['items'], 'fit': self._fits, 'run': run.id},
                        mode='offline' if run.offline else 'online', dir=run.settings.root_dir, reinit='create_new',
                        settings=wandb.Settings(console='off', quiet=True)) as fold:
            fold.log(_metrics_of(row))

    def finish(self):
        "Finish the run, if this callback started it; the next fit starts another"
        if self.wandb_run in _STARTED: self.wandb_run.finish()
        self.wandb_run = None


def log_interpretation(
    interp,  # A CleanInterpretation of any data set
    run=None,  # The run; None: the active one
    n_items=50,  # Rows of the table
    name=None,  # Name of the table; None: worst_items, or worst_items_<data set> for another than the training set
    artifact=None,  # Name of the artifact; None: label_issues-<run id>, likewise; a new version with every call
):
    """Log the worst items as a `wandb.Table` and the label issues, as `interp.to_csv` writes them, as an artifact of
    type `label-issues`; returns the artifact.

    The table has the columns of `interp.issues`, and `image` (at most 256 pixels a side) or `text` of the item; why an
    item cannot be read stands in `text`. Raises ImportError without wandb, ValueError for n_items < 1 and without
    a run."""
    _check_n_items(n_items)
    wandb = _wandb()
    if wandb is None: raise ImportError("wandb is not installed: pip install wandb")
    if run is None: run = wandb.run
    if run is None: raise ValueError("run is None and no run is active: call wandb.init() first, or pass run=")
    which = interp.how.get('data set', 'training set')
    suffix = '' if which == 'training set' else '_' + which.replace(' ', '_')
    run.log({name or f'worst_items{suffix}': _table(wandb, interp, n_items)})
    made = wandb.Artifact(artifact or f'label_issues{suffix}-{run.id}', 'label-issues', metadata=_counts(interp))
    with TemporaryDirectory() as folder:
        made.add_file(str(interp.to_csv(Path(folder)/'label_issues.csv')))
        return run.log_artifact(made)


def fold_summary(
    metrics,  # `oof.config['fold_metrics']`: one dict a fold, with fold, items and metrics
) -> dict:  # Name -> number
    "Each fold's metrics as `fold_1/accuracy`, and over the folds `folds/accuracy_mean` and `_std` (of a sample)"
    res, values = {}, {}
    for row in metrics:
        for name, value in _metrics_of(row).items():
            res[f"fold_{row['fold'] + 1}/{name}"] = value
            values.setdefault(name, []).append(value)
    for name, found in values.items():
        res[f'folds/{name}_mean'] = float(np.mean(found))
        if len(found) > 1: res[f'folds/{name}_std'] = float(np.std(found, ddof=1))
    return res


def _wandb():
    "The wandb module, or None where it is not installed: a folder of runs, also named wandb, is no package"
    spec = find_spec('wandb')
    if spec is None or spec.origin is None: return None
    import wandb
    return wandb


def _table(wandb, interp, n_items):
    rows = interp.issues.head(n_items)
    columns = {name: _cells(rows[name].tolist()) for name in rows.columns}
    shown = [interp.shown(i) for i in rows.index]
    if not all(isinstance(o, str) for o in shown):
        columns['image'] = [None if isinstance(o, str) else _image(wandb, o) for o in shown]
    if any(isinstance(o, str) for o in shown):
        columns['text'] = [_text(o) if isinstance(o, str) else None for o in shown]
    return wandb.Table(columns=list(columns), data=[list(o) for o in zip(*columns.values())])


def _image(wandb, array):
    data, mime, *_ = thumbnail(array, MAX_PIXELS)
    return wandb.Image(Image.open(BytesIO(data)), file_type=mime.split('/')[1])


def _cells(values):
    "Numbers or truth values where all are of one type, else texts: a table's column has one type"
    same = len({type(o) for o in values}) == 1 and isinstance(values[0], (bool, int, float))
    return values if same else [_text(o) for o in values]


def _text(o):
    text = ', '.join(map(str, o)) if isinstance(o, (tuple, list)) else str(o)
    return text[:MAX_TEXT].encode(errors='replace').decode()


def _counts(interp):
    flagged = interp.issues.is_issue
    return {'noise_rate': interp.noise_rate, 'n_issues': int(flagged.sum()), 'n_items': len(flagged)}


def _metrics_of(row): return _numbers({k: v for k, v in row.items() if k not in ('fold', 'items')})


def _numbers(values):
    values = {k: v.detach() if isinstance(v, torch.Tensor) else v for k, v in values.items()}
    return {k: float(v) for k, v in values.items()
            if isinstance(v, Real) or (isinstance(v, torch.Tensor) and v.numel() == 1)}


def _config(learn):
    "What the fit is, in plain values"
    dls, cbs = learn.dls, [cb.name for cb in learn.cbs]
    return dict(model=type(learn.model).__name__, parameters=sum(p.numel() for p in learn.model.parameters()),
                loss_func=_name(learn.loss_func), opt_func=_name(learn.opt_func), n_epoch=learn.n_epoch,
                bs=getattr(dls.train, 'bs', None), n_train=getattr(dls.train, 'n', None), device=str(dls.device),
                frozen_idx=learn.opt.frozen_idx, callbacks=cbs)


def _name(f):
    if isinstance(f, partial): f = f.func
    return getattr(f, '__name__', type(f).__name__)


def _check_n_items(n_items):
    if n_items < 1: raise ValueError(f"n_items is {n_items}: show at least 1 item")
