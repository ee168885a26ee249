"Weights & Biases: training curves, fold metrics, the worst items and their CSV"
import os
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from io import BytesIO
from numbers import Real
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4
from weakref import WeakSet

import numpy as np
import torch
from fastai.callback.core import Callback
from fastai.learner import Learner
from fastai.torch_core import no_random, rank_distrib
from fastcore.basics import store_attr
from PIL import Image

from .._images import thumbnail
from .._text import inert
from ..interpret import CleanInterpretation
from ..oof.result import oof_of
from .confident import ConfidentLearningCallback

MAX_TEXT = 4000  # Characters of a cell
MAX_PIXELS = 256  # Pixels a side of a picture
_started: WeakSet = WeakSet()  # Runs that a CleanWandbCallback started, and so may finish


class CleanWandbCallback(Callback):
    """Logs a Learner to Weights & Biases: losses and hyperparameters of each batch, metrics of each
    epoch and, if ConfidentLearningCallback made a new `learn.oof`, the folds' metrics, a table of
    the worst items and a CSV artifact.

    A run that is active (`wandb.run`) is used and never finished. Otherwise the first fit starts
    one, which stays open for the fits that follow, until `finish()`, `wandb.finish()`, another
    CleanWandbCallback or the end of the program. Each fold also gets a run of its own in the run's
    group, started and finished when the folds are done. Training is the same with and without it.
    If wandb is not installed it does nothing.

    If fastai's WandbCallback is on the Learner too, it logs the training. Raises ValueError for
    n_items < 1 and, before the first batch, what `wandb.init` raises."""
    # Not a subclass of fastai's WandbCallback: in fastai 2.8 that fails before the first batch
    # (fastai issue 4173), and could only be mended by changing fastai
    order = ConfidentLearningCallback.order + 1
    in_folds = False
    remove_on_fetch = True
    _stateattrs = 'wandb_run', '_following', '_curves', '_oof', '_epochs', '_fits'

    def __init__(self,
        project: str | None = None,  # Project of a run that is started; None: wandb's default
        group: str | None = None,  # Its group; None: WANDB_RUN_GROUP, or cv-<run id>
        n_items: int = 50,  # Rows of the table of the worst items
        fold_runs: bool = True,  # Whether each fold gets a run of its own
        artifact: str | None = None,  # Name of the artifact; None: label_issues-<run id>
        **kwargs: Any,  # Passed to `wandb.init` if a run is started: entity, name, tags, mode, dir
    ):
        _check_n_items(n_items)
        self._init_state()
        store_attr('project,group,n_items,fold_runs,artifact,kwargs')

    def _init_state(self):
        super()._init_state()
        vars(self).update(wandb_run=None, _following=False, _curves=True, _oof=None, _epochs=0,
                          _fits=0)

    def before_fit(self):
        "Forget a fit that was interrupted"
        # Prediction and validation within a fit, which hold the lock, fire this event too
        if self.learn.lock.locked(): return
        self._following = False
        self._oof = None

    def before_train(self):
        "Once per fit, unless it is `lr_find`: find or start the run"
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
        "Set `wandb_run`: the user's run, the one that this callback started, or a new one"
        run = wandb.run
        if run is None or (run in _started and run is not self.wandb_run):
            if run is not None: run.finish()
            new = uuid4().hex[:8]
            group = self.group or os.environ.get('WANDB_RUN_GROUP')
            if not group and self.fold_runs: group = f'cv-{new}'
            ours = {'project': self.project, 'group': group, 'job_type': 'train', 'id': new}
            run = wandb.init(**ours | self.kwargs)
            # It may return a run that was active already, which is not this callback's to finish
            if run.id == self.kwargs.get('id', new): _started.add(run)
        if run is self.wandb_run: return
        self.wandb_run = run
        self._epochs = 0
        self._fits = 0

    def after_batch(self):
        "Log losses and hyperparameters"
        if not (self._following and self._curves and self.training): return
        values = {'train_loss': self.smooth_loss, 'raw_loss': self.loss}
        for i, group in enumerate(self.opt.hypers):
            values |= {f'{name}_{i}': value for name, value in group.items()}
        epoch = self._epochs + (self.iter + 1)/self.n_iter
        self.wandb_run.log({'epoch': epoch, **_numbers(values)})

    def after_epoch(self):
        "Log the metrics"
        if self.learn.lock.locked() or not (self._following and self._curves): return
        self._epochs += 1
        values = dict(zip(self.recorder.metric_names, self.recorder.log))
        for name in ('epoch', 'train_loss', 'time'): values.pop(name, None)
        self.wandb_run.log({'epoch': self._epochs, **_numbers(values)})

    def after_fit(self):
        "Log the folds, if they followed this fit"
        if self.learn.lock.locked(): return
        following = self._following
        before = self._oof
        self._following = False
        self._oof = None
        oof = oof_of(self.learn)
        if following and oof is not None and oof is not before: self.log_oof(self.learn)

    def log_oof(self,
        learn: Learner,  # The Learner, with a finished `learn.oof`
    ) -> None:
        """Log `learn.oof` to the run. This is done after every fit that made one; call it after
        `ConfidentLearningCallback.resume`.

        Raises ValueError before the first fit, after `finish()` and if `learn.oof` is None."""
        run = self.wandb_run
        oof = oof_of(learn)
        if run is None:
            raise ValueError("there is no run to log to: fit first, or use log_interpretation")
        if oof is None:
            raise ValueError("learn.oof is None: fit with ConfidentLearningCallback first")
        if run.disabled: return
        self._fits += 1
        metrics = oof.config.get('fold_metrics', [])
        group = run.group or f'cv-{run.id}'
        config = {name: value for name, value in oof.config.items() if name != 'fold_metrics'}
        run.config.update({'oof': {**config, 'group': group}}, allow_val_change=True)
        run.summary.update(fold_summary(metrics))
        if self.fold_runs:
            for row in metrics: self._log_fold(row, group)
        # The pictures are read once more, and a fit that follows must not draw other random numbers
        with no_random(reproducible=False):
            interp = CleanInterpretation.from_learner(learn, ds_idx=0)
            log_interpretation(interp, run, self.n_items, artifact=self.artifact)
        run.summary.update(_counts(interp))

    def _log_fold(self, row, group):
        wandb = _wandb()
        run = self.wandb_run
        k = row['fold'] + 1
        name = f'fold {k}' if self._fits == 1 else f'fold {k}, fit {self._fits}'
        config = {'fold': k, 'items': row['items'], 'fit': self._fits, 'run': run.id}
        with wandb.init(project=run.project, entity=run.entity or None, group=group,
                        job_type='fold', name=name, config=config,
                        mode='offline' if run.offline else 'online', dir=run.settings.root_dir,
                        # Beside the main run, which goes on
                        reinit='create_new',
                        settings=wandb.Settings(console='off', quiet=True)) as fold:
            fold.log(_metrics_of(row))

    def finish(self) -> None:
        "Finish the run, if this callback started it; the next fit starts another"
        if self.wandb_run in _started: self.wandb_run.finish()
        self.wandb_run = None


def log_interpretation(
    interp: CleanInterpretation,  # Of any data set
    run: Any = None,  # The run; None: the active one
    n_items: int = 50,  # Rows of the table
    name: str | None = None,  # Of the table; None: worst_items, for other sets worst_items_<set>
    artifact: str | None = None,  # Of the artifact; None: label_issues-<run id>, likewise
) -> Any:  # The artifact
    """Log the worst items as a `wandb.Table` and the label issues, as `interp.to_csv` writes them,
    as an artifact of type `label-issues`; every call makes a new version of it.

    The table has the columns of `interp.issues`, and `image` (at most 256 pixels a side) or `text`
    of the item; for an item that cannot be read, `text` says why. Raises ImportError without wandb,
    ValueError for n_items < 1 and without a run."""
    _check_n_items(n_items)
    wandb = _wandb()
    if wandb is None: raise ImportError("wandb is not installed: pip install wandb")
    if run is None: run = wandb.run
    if run is None:
        raise ValueError("run is None and no run is active: call wandb.init() first, or pass run=")

    which = interp.how.get('data set', 'training set')
    suffix = '' if which == 'training set' else '_' + which.replace(' ', '_')
    run.log({name or f'worst_items{suffix}': _table(wandb, interp, n_items)})
    artifact = artifact or f'label_issues{suffix}-{run.id}'
    made = wandb.Artifact(artifact, 'label-issues', metadata=_counts(interp))
    with TemporaryDirectory() as folder:
        made.add_file(str(interp.to_csv(Path(folder)/'label_issues.csv')))
        return run.log_artifact(made)


def fold_summary(
    metrics: Sequence[dict],  # `oof.config['fold_metrics']`: per fold its number, items and metrics
) -> dict[str, float]:
    """Each fold's metrics as `fold_1/accuracy`, and over the folds `folds/accuracy_mean` and `_std`
    (of a sample)"""
    res: dict[str, float] = {}
    values: dict[str, list[float]] = {}
    for row in metrics:
        for name, value in _metrics_of(row).items():
            res[f"fold_{row['fold'] + 1}/{name}"] = value
            values.setdefault(name, []).append(value)
    for name, found in values.items():
        res[f'folds/{name}_mean'] = float(np.mean(found))
        if len(found) > 1: res[f'folds/{name}_std'] = float(np.std(found, ddof=1))
    return res


def _wandb():
    "The wandb module, or None if it is not installed"
    spec = find_spec('wandb')
    # wandb writes its runs into a folder named wandb, which Python takes for a package without code
    if spec is None or spec.origin is None: return None
    import wandb
    return wandb


def _table(wandb, interp, n_items):
    "The `wandb.Table` of the worst items"
    rows = interp.issues.head(n_items)
    columns = {name: _cells(rows[name].tolist()) for name in rows.columns}
    shown = [interp.shown(i) for i in rows.index]
    texts = [_cell(o) if isinstance(o, str) else None for o in shown]
    images = [None if isinstance(o, str) else _image(wandb, o) for o in shown]
    if any(o is not None for o in images): columns['image'] = images
    if any(o is not None for o in texts): columns['text'] = texts
    return wandb.Table(columns=list(columns), data=[list(o) for o in zip(*columns.values())])


def _image(wandb, array):
    data, mime, *_ = thumbnail(array, MAX_PIXELS)
    return wandb.Image(Image.open(BytesIO(data)), file_type=mime.split('/')[1])


def _cells(values):
    "`values` if all are numbers or all are booleans, else texts: a column of a table has one type"
    same = len({type(o) for o in values}) == 1 and isinstance(values[0], (bool, int, float))
    return values if same else [_cell(o) for o in values]


def _cell(o):
    """A text, or the labels of an item, as wandb can write it. Its pages show cells as plain text,
    but give them out as CSV too"""
    text = inert(', '.join(map(str, o)) if isinstance(o, (tuple, list)) else str(o))
    return text[:MAX_TEXT].encode(errors='replace').decode()


def _counts(interp):
    flagged = interp.issues.is_issue
    counts = {'noise_rate': interp.noise_rate, 'n_issues': int(flagged.sum()),
              'n_items': len(flagged)}
    # Beside the counts on the page of the run, which say little then
    return {**counts, 'weakness': inert(interp.weakness)} if interp.weakness else counts


def _metrics_of(row): return _numbers({k: v for k, v in row.items() if k not in ('fold', 'items')})


def _numbers(values):
    "Those of `values` that are one number, as floats"
    res = {}
    for name, value in values.items():
        if isinstance(value, torch.Tensor) and value.numel() == 1: value = value.item()
        if isinstance(value, Real): res[name] = float(value)
    return res


def _config(learn):
    "What the fit is, in plain values"
    dl = learn.dls.train
    return dict(
        model=type(learn.model).__name__,
        parameters=sum(p.numel() for p in learn.model.parameters()),
        loss_func=_name(learn.loss_func), opt_func=_name(learn.opt_func), n_epoch=learn.n_epoch,
        bs=getattr(dl, 'bs', None), n_train=getattr(dl, 'n', None), device=str(learn.dls.device),
        frozen_idx=learn.opt.frozen_idx, callbacks=[cb.name for cb in learn.cbs])


def _name(f):
    if isinstance(f, partial): f = f.func
    return getattr(f, '__name__', type(f).__name__)


def _check_n_items(n_items):
    if n_items < 1: raise ValueError(f"n_items is {n_items}: show at least 1 item")
