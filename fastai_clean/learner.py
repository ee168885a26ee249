"""The whole loop in one call: fit with folds, find the wrong labels, clean, fit a fresh copy.

Also the one place that patches fastai's Learner: `oof`, `dynamics`, `oof_preds`,
`clean_fit`."""
import copy
import time
from collections.abc import Callable
from threading import Lock
from typing import Any, NamedTuple
from warnings import warn

import numpy as np
import pandas as pd
from fastai.callback.tracker import SaveModelCallback
from fastai.learner import Learner
from fastai.torch_core import no_random
from fastcore.basics import patch
from fastcore.foundation import L

from .callbacks import (
    ConfidentLearningCallback,
    CoTeachingCallback,
    ItemWeightsCallback,
    SoftPseudoLabelCallback,
)
from .callbacks.base import TargetsCallback
from .data import fewer, labels_of, new_dl, view
from .data.labels import is_binary_loss
from .data.subsets import relabelled
from .dynamics import dynamics_of, set_dynamics
from .interpret import CleanInterpretation
from .oof import (
    FitRecord,
    OutOfFold,
    make_engine,
    snapshot,
    warn_of_training,
    was_trained,
)
from .oof.options import fold_options, takes_options
from .oof.result import oof_of, set_oof

STRATEGIES = 'drop', 'relabel', 'soft', 'weight'


class CleanFit(NamedTuple):
    """What `clean_fit` returns: `learn`, the new Learner; `comparison`, one row per Learner
    (`plain`, the one it was called on, and the strategy) with the number of training items and of
    items changed, seconds, and the validation set's loss and metrics, on its labels as they are
    given; `interp`, the CleanInterpretation of the training set, with its `issues`."""
    learn: Learner
    comparison: pd.DataFrame
    interp: CleanInterpretation


@patch
def clean_fit(self: Learner,
    n_epoch: int,  # Epochs of a fit
    strategy: str = 'weight',  # What becomes of the label issues: one of `STRATEGIES`
    *,
    method: str = 'fit_one_cycle',  # Name of the method that fits: fit, fine_tune, fit_flat_cos
    n_folds: int = 5,  # Folds, if the Learner has no ConfidentLearningCallback of its own
    filter_by: str = 'auto',  # Which items are issues: one of `FILTERS`
    threshold: float = .5,  # soft: least confidence of an issue to be softened
    seed: int = 42,  # Seed of the folds
    act: Callable | None = None,  # From outputs to probabilities; None: the loss's activation
    **kwargs: Any,  # Passed to the fits: lr_max, base_lr, cbs, ...
) -> CleanFit:
    """Fit with out-of-fold probabilities, find the label issues, clean, and fit a fresh copy of the
    untrained Learner.

    'drop' leaves the issues out, 'relabel' gives them the predicted class, 'soft' their
    probabilities as soft targets (`SoftPseudoLabelCallback`), 'weight' weighs every item by its
    label quality (`ItemWeightsCallback`). This Learner is fitted as usual and has `oof` afterwards;
    its data stays as it is. Costs two fits, and what `ConfidentLearningCallback` adds. The figures
    are measured on the validation set's labels: if they are wrong too, see
    `CleanInterpretation.evaluate`.

    Raises ValueError for an unknown strategy or method, and if fewer than two items would be left;
    TypeError, before training, if the labels are not one class per item and for callbacks that
    cannot be in two fits; and what `ConfidentLearningCallback` raises. Warns if the Learner is
    trained already."""
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy is {strategy!r}: choose one of {', '.join(STRATEGIES)}")
    if not callable(getattr(self, method, None)):
        raise ValueError(f"method is {method!r}, which the Learner does not have: name one that "
                         "fits, such as fine_tune")
    cbs = L(kwargs.pop('cbs', None))
    _check(self, cbs)
    if was_trained(self):
        warn("the Learner was trained before clean_fit: its weights have seen every label, and the "
             "fresh copy starts from them; start from a new Learner", stacklevel=2)

    new = _fresh_copy(self)
    others = L(o for o in cbs if not _is_or_makes(o, ConfidentLearningCallback))
    own = len(others) < len(cbs) or any(isinstance(o, ConfidentLearningCallback) for o in self.cbs)
    if not own: cbs = cbs + L(ConfidentLearningCallback(n_folds, seed=seed, act=act))
    rows = {'plain': _timed(self, method, n_epoch, cbs, kwargs)}

    interp = CleanInterpretation.from_learner(self, 0, filter_by=filter_by)
    flagged = interp.noisy_idxs()
    n = len(self.oof)
    changed = len(flagged)
    if strategy == 'drop': _drop(new, np.setdiff1d(np.arange(n), flagged))
    elif strategy == 'relabel': _relabel(new, self.oof, interp.predicted, flagged)
    elif strategy == 'soft': others = others + L(SoftPseudoLabelCallback(interp, threshold))
    else: others = others + L(ItemWeightsCallback(self.oof))
    rows[strategy] = _timed(new, method, n_epoch, others, kwargs)

    # How many targets are soft is known only once the fit has matched them to the items
    if strategy == 'soft': changed = others[-1].n_soft
    if strategy == 'weight': changed = n
    comparison = pd.DataFrame.from_dict(rows, orient='index').rename_axis('labels')
    comparison.insert(0, 'changed', [0, changed])
    comparison.insert(0, 'items', [n, len(new.dls.train_ds)])
    return CleanFit(new, comparison, interp)


def _check(learn, cbs):
    "Raise TypeError for labels and callbacks with which two fits would go wrong"
    # Reading an item may augment it, but the fit must draw the random numbers that it would draw
    # if nothing had been read
    with no_random(): task = labels_of(learn.dls.train, is_binary_loss(learn.loss_func)).task
    if task != 'classification':
        raise TypeError(f"the training set's labels are of the task {task}: clean_fit needs one "
                        "class per item")

    once = CoTeachingCallback, TargetsCallback, SaveModelCallback
    for cb in [*learn.cbs, *cbs]:
        if not _is_or_makes(cb, once): continue
        name = getattr(cb, '__name__', type(cb).__name__)
        raise TypeError(f"{name} would be in both fits, and the second would use or overwrite what "
                        "the first left: leave it out of clean_fit, and fit the new Learner with "
                        "it by hand")


def _is_or_makes(cb, kinds):
    "Whether `cb` is a callback of `kinds`, or such a class, which fastai accepts too"
    return issubclass(cb if isinstance(cb, type) else type(cb), kinds)


def _fresh_copy(learn):
    """An independent Learner with a copy of the model as it is, the same frozen layers, and copies
    of the callbacks"""
    new = copy.copy(learn)
    for cb in learn.cbs: vars(new).pop(cb.name, None)
    new.model = snapshot(learn)
    new.opt = None
    new.cbs = L()
    new.lock = Lock()
    new.metrics = list(learn.metrics)
    new.dls = copy.copy(learn.dls)
    new.dls.loaders = list(learn.dls.loaders)
    # What the loss and the callbacks refer to is replaced by the copy's own, and the data is shared
    memo = {id(learn): new, id(learn.model): new.model, id(learn.dls): new.dls, id(learn.opt): None}
    for dl in new.dls.loaders: memo |= {id(dl): dl, id(dl.dataset): dl.dataset}
    new.loss_func = copy.deepcopy(learn.loss_func, memo)
    new.add_cbs([copy.deepcopy(cb, memo) for cb in learn.cbs
                 if not isinstance(cb, ConfidentLearningCallback)])
    if learn.opt is not None and learn.opt.frozen_idx: new.freeze_to(learn.opt.frozen_idx)
    return new


def _timed(learn, method, n_epoch, cbs, kwargs):
    "Fit, and return its seconds and the validation set's loss and metrics"
    start = time.perf_counter()
    getattr(learn, method)(n_epoch, cbs=cbs, **kwargs)
    row = {'seconds': time.perf_counter() - start}
    recorder = getattr(learn, 'recorder', None)
    if recorder is None or not recorder.values: return row
    values = (np.nan if o is None else float(o) for o in recorder.values[-1])
    return row | dict(zip(recorder.metric_names[1:], values))


def _drop(learn, keep):
    dl = learn.dls.train
    if len(keep) < 2:
        raise ValueError(f"all training items but {len(keep)} are label issues: too few would be "
                         "left to train on")
    kwargs = fewer(dl, len(keep), drop_single=True)
    learn.dls.loaders[0] = new_dl(dl, view(dl.dataset, keep, 0), keep, **kwargs)


def _relabel(learn, oof, predicted, flagged):
    dl = learn.dls.train
    every = np.arange(len(oof))
    new = {int(i): (int(predicted[i]), oof.vocab[predicted[i]]) for i in flagged}
    # A view, even of all items, since `relabelled` may change the data set that it is given
    learn.dls.loaders[0] = new_dl(dl, relabelled(view(dl.dataset, every, 0), new, oof.ids), every)


@patch
@takes_options(mode='folds')
def oof_preds(self: Learner,
    fit: Callable | None = None,  # Trains the Learner it is given: `lambda l: l.fine_tune(3)`
    *args,
    **kwargs,
) -> OutOfFold:
    """Out-of-fold probabilities of the training set: `fit` trains `n_folds` copies of this Learner,
    not the Learner itself.

    Cross-validation as confident learning needs it (Northcutt et al., JAIR 2021). Also sets
    `learn.oof`. The options are those of `ConfidentLearningCallback`, but `mode` is 'folds': who
    passes a function that trains is asking for what it trains. With `mode='features'` nothing is
    trained, and `fit` is not needed; with `mode='auto'` it trains the first fold, and the others
    only if heads on features agree less with the labels of that fold. `cache_dir` recognises `fit`
    by its name, defaults and closure, and by the names and constants in it: change `cache_key` if
    anything else about it changes.

    Raises TypeError or ValueError, before training, for invalid options, for data and
    optimizers that cannot be split into folds, and for a `cache_dir` of another run; warns if the
    Learner is trained already."""
    options = fold_options(*args, **{'mode': 'folds', **kwargs})
    if fit is None and options.mode != 'features':
        raise TypeError("fit is None: pass the function that trains, such as lambda l: "
                        "l.fine_tune(3), or mode='features'")
    if not (fit is None or callable(fit)):
        raise TypeError(f"fit is {fit!r}: pass the function that trains")

    warn_of_training(self)
    record = FitRecord(self, None)
    make_engine(record, options).run(record, fit)
    return self.oof


Learner.oof = property(oof_of, set_oof,
                       doc="The `OutOfFold` of the training set, or None, left out by `export`")
Learner.dynamics = property(dynamics_of, set_dynamics,
                            doc="The `Dynamics` of the training set, or None, left out by `export`")
