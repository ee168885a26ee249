"The whole loop in one call: fit with folds, find the wrong labels, clean, fit a fresh copy"
import copy
import time
from threading import Lock
from typing import NamedTuple
from warnings import warn

import numpy as np
import pandas as pd
from fastai.callback.tracker import SaveModelCallback
from fastai.learner import Learner
from fastai.torch_core import no_random
from fastcore.basics import patch
from fastcore.foundation import L

from .callbacks import ConfidentLearningCallback, CoTeachingCallback, ItemWeightsCallback, SoftPseudoLabelCallback
from .callbacks.targets import TargetsCallback
from .data import fewer, labels_of, new_dl, view
from .data.labels import is_binary_loss
from .data.subsets import relabelled
from .dynamics import dynamics_of, set_dynamics
from .interpret import CleanInterpretation
from .oof import FitRecord, OutOfFold, make_engine, snapshot, warn_of_training, was_trained
from .oof.result import oof_of, set_oof

STRATEGIES = 'drop', 'relabel', 'soft', 'weight'


class CleanFit(NamedTuple):
    """What `clean_fit` gives: `learn`, the new Learner; `comparison`, one row a Learner (`plain`, the one it was called
    on, and the strategy): training items, items changed, seconds, and the validation set's loss and metrics, on its
    labels as they are given; `interp`, the CleanInterpretation of the training set, with its `issues`."""
    learn: Learner
    comparison: pd.DataFrame
    interp: CleanInterpretation


@patch
def clean_fit(self: Learner,
    n_epoch,  # Epochs of a fit
    strategy='weight',  # What becomes of the label issues: one of `STRATEGIES`
    *,
    method='fit_one_cycle',  # Name of the Learner's method that fits: fit, fine_tune, fit_flat_cos, ...
    n_folds=5,  # Folds of the first fit, where the Learner has no ConfidentLearningCallback of its own
    filter_by='prune_by_noise_rate',  # Which items are issues: one of `FILTERS`
    threshold=.5,  # soft: least confidence of an issue to be softened
    seed=42,  # Seed of the folds
    act=None,  # Activation that turns outputs into probabilities; None: the loss's
    **kwargs,  # Passed to the fits: lr_max, base_lr, ...
) -> CleanFit:
    """Fit with out-of-fold probabilities, find the label issues, clean, and fit a fresh copy of the untrained Learner.

    'drop' leaves the issues out, 'relabel' gives them the predicted class, 'soft' their probabilities as soft
    targets (`SoftPseudoLabelCallback`), 'weight' weighs every item by its label quality (`ItemWeightsCallback`). This
    Learner is fitted as it would be without, and has `oof` afterwards; its data stays as it is. Costs about
    `n_folds` + 2 fits. The figures are those of the validation set's labels: where they are wrong too, see
    `CleanInterpretation.evaluate`.

    Raises ValueError for an unknown strategy or method, and where fewer than two items would be left; TypeError, before
    training, for other than one class an item, and for callbacks that cannot be in two fits; what
    `ConfidentLearningCallback` raises. Warns where the Learner is trained already."""
    if strategy not in STRATEGIES: raise ValueError(f"strategy is {strategy!r}: choose one of {', '.join(STRATEGIES)}")
    if not callable(getattr(self, method, None)):
        raise ValueError(f"method is {method!r}, which the Learner does not have: name one that fits, as fine_tune")
    _check(self, L(kwargs.get('cbs')))
    if was_trained(self):
        warn("the Learner was trained before clean_fit: its weights have seen every label, and the fresh copy starts "
             "from them; start from a new Learner", stacklevel=2)
    new = _fresh_copy(self)
    own = any(_is_or_makes(o, ConfidentLearningCallback) for o in [*self.cbs, *L(kwargs.get('cbs'))])
    folds = None if own else ConfidentLearningCallback(n_folds, seed=seed, act=act)
    rows = {'plain': _timed(self, method, n_epoch, folds, kwargs)}
    kwargs['cbs'] = [o for o in L(kwargs.get('cbs')) if not _is_or_makes(o, ConfidentLearningCallback)]
    interp, oof, cb = CleanInterpretation.from_learner(self, 0, filter_by=filter_by), self.oof, None
    flagged = interp.noisy_idxs()
    if strategy == 'drop': _drop(new, np.setdiff1d(np.arange(len(oof)), flagged))
    elif strategy == 'relabel': _relabel(new, oof, flagged)
    elif strategy == 'soft': cb = SoftPseudoLabelCallback(interp, threshold)
    else: cb = ItemWeightsCallback(oof)
    rows[strategy] = _timed(new, method, n_epoch, cb, kwargs)
    changed = {'soft': getattr(cb, 'n_soft', 0), 'weight': len(oof)}.get(strategy, len(flagged))
    comparison = pd.DataFrame.from_dict(rows, orient='index').rename_axis('labels')
    comparison.insert(0, 'changed', [0, changed])
    comparison.insert(0, 'items', [len(oof), len(new.dls.train_ds)])
    return CleanFit(new, comparison, interp)


def _check(learn, cbs):
    with no_random(): task = labels_of(learn.dls.train, is_binary_loss(learn.loss_func)).task
    if task != 'classification':
        raise TypeError(f"the training set's labels are of {task}: clean_fit needs one class an item")
    once = CoTeachingCallback, TargetsCallback, SaveModelCallback
    if found := [o for o in [*learn.cbs, *cbs] if _is_or_makes(o, once)]:
        name = getattr(found[0], '__name__', type(found[0]).__name__)
        raise TypeError(f"{name} would be in both fits, and the second would use or overwrite what the first left: "
                        "leave it out of clean_fit, and fit the new Learner with it by hand")


def _is_or_makes(cb, cls): return issubclass(cb if isinstance(cb, type) else type(cb), cls)


def _fresh_copy(learn):
    "A Learner of its own, with the model as it is, the same frozen layers, and copies of the callbacks"
    new = copy.copy(learn)
    for cb in learn.cbs: vars(new).pop(cb.name, None)
    new.model, new.opt, new.cbs, new.lock = snapshot(learn), None, L(), Lock()
    new.metrics, new.dls = list(learn.metrics), copy.copy(learn.dls)
    new.dls.loaders = list(learn.dls.loaders)
    memo = {id(learn): new, id(learn.model): new.model, id(learn.dls): new.dls, id(learn.opt): None,
            **{id(o): o for dl in new.dls.loaders for o in (dl, dl.dataset)}}
    new.loss_func = copy.deepcopy(learn.loss_func, memo)
    new.add_cbs([copy.deepcopy(cb, memo) for cb in learn.cbs if not isinstance(cb, ConfidentLearningCallback)])
    if learn.opt is not None and learn.opt.frozen_idx: new.freeze_to(learn.opt.frozen_idx)
    return new


def _timed(learn, method, n_epoch, cb, kwargs):
    "Fit; seconds of it, and the validation set's loss and metrics"
    start = time.perf_counter()
    getattr(learn, method)(n_epoch, **{**kwargs, 'cbs': L(kwargs.get('cbs')) + L(cb)})
    row, recorder = {'seconds': time.perf_counter() - start}, getattr(learn, 'recorder', None)
    if recorder is None or not recorder.values: return row
    values = (np.nan if o is None else float(o) for o in recorder.values[-1])
    return row | dict(zip(recorder.metric_names[1:], values))


def _drop(learn, keep):
    dl = learn.dls.train
    if len(keep) < 2:
        raise ValueError(f"all training items but {len(keep)} are label issues: too few would be left to train on")
    kw = fewer(dl, len(keep), drop_single=True)
    learn.dls.loaders[0] = new_dl(dl, view(dl.dataset, keep, 0), keep, **kw)


def _relabel(learn, oof, flagged):
    dl, every = learn.dls.train, np.arange(len(oof))
    predicted = oof.pred_probs[flagged].argmax(1)
    new = {int(i): (int(k), oof.vocab[k]) for i, k in zip(flagged, predicted)}
    learn.dls.loaders[0] = new_dl(dl, relabelled(view(dl.dataset, every, 0), new, oof.ids), every)


@patch
def oof_preds(self: Learner,
    fit=None,  # Function that trains the Learner it is given, such as `lambda l: l.fine_tune(3)`; features need none
    n_folds=5,  # Number of folds
    splits=None,  # Fold numbers (n,), group ids (n,) or a scikit-learn splitter; None: stratified folds
    seed=42,  # Seed of the folds and of the fold Learners' random numbers
    act=None,  # Activation that turns outputs into probabilities; None: the loss's
    leave_out=(),  # Callback classes that folds leave out, besides progress, loggers and trackers
    tta=None,  # 'flip': predict the held-out images and their mirror images, and take the mean
    n_jobs=1,  # Processes in which folds are trained; 1: this one, -1: one a core
    cache_dir=None,  # Folder in which finished folds are kept; None: nowhere
    n_repeats=1,  # Times that everything is repeated with the next seed; the probabilities are averaged
    average=None,  # 'epochs': the mean of the predictions after each epoch of the last fit
    mode='folds',  # 'features': heads on the untrained model's features instead; 'auto': where they are good enough
) -> OutOfFold:
    """Out-of-fold probabilities of the training set: `fit` trains `n_folds` copies of this Learner, not itself.

    Cross-validation as confident learning needs it (Northcutt et al., JAIR 2021). Also sets `learn.oof`. `n_jobs`,
    `cache_dir`, `n_repeats`, `average` and `mode` are as in `ConfidentLearningCallback`; `cache_dir` knows `fit` by its
    code, its defaults and closures, and the plain values and functions of its own module that it names.

    Raises TypeError or ValueError, before training, for data and optimizers that cannot be split into folds, and for a
    `cache_dir` of another run; warns where the Learner is trained already."""
    if fit is None and mode != 'features':
        raise TypeError("fit is None: pass the function that trains, such as lambda l: l.fine_tune(3), or "
                        "mode='features'")
    if not (fit is None or callable(fit)): raise TypeError(f"fit is {fit!r}: pass the function that trains")
    warn_of_training(self)
    record = FitRecord(self, None)
    make_engine(record, mode, cache_dir, n_folds=n_folds, splits=splits, seed=seed, act=act, leave_out=leave_out,
                tta=tta, n_jobs=n_jobs, n_repeats=n_repeats, average=average).run(record, fit)
    return self.oof


Learner.oof = property(oof_of, set_oof, doc="The `OutOfFold` of the training set, or None; `export` leaves it out")
Learner.dynamics = property(dynamics_of, set_dynamics,
                            doc="The `Dynamics` of the training set, or None; `export` leaves it out")
