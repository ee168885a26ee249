"Out-of-fold probabilities while a Learner trains as it always does"
from dataclasses import fields
from warnings import warn

import torch
from fastai.callback.core import Callback
from fastai.callback.tracker import SaveModelCallback

from ..data.labels import warn_if_unreadable
from ..oof import FitRecord, FoldOptions, OutOfFold, make_engine, warn_of_training
from ..oof.fit import shapes_training
from ..oof.options import fold_options, takes_options
from ..oof.result import oof_of
from ..oof.watch import Watch, is_own
from .base import unwatch_errors, watch_errors


class ConfidentLearningCallback(Callback):
    """Gathers out-of-fold probabilities of the training set: after every fit, linear heads on the
    features of the untrained model predict it, each without its fold; if the trained Learner agrees
    better with the validation set's labels than they do, K fold Learners repeat the fit instead,
    each without its fold, and predict the fold. `learn.oof` (and `oof` here) holds the result.

    >>> from fastai.basics import *
    >>> from fastai_clean.all import *
    >>> items = [(torch.rand(4) + i % 2, i % 2) for i in range(20)]
    >>> dls = DataLoaders.from_dsets(items, items, bs=4, device='cpu', num_workers=0)
    >>> learn = Learner(dls, nn.Linear(4, 2), CrossEntropyLossFlat())
    >>> with learn.no_bar(), learn.no_logging():
    ...     learn.fit(1, cbs=ConfidentLearningCallback(n_folds=2))
    >>> learn.oof
    OutOfFold(20 items, 2 classes, 2 folds, 20 predicted)
    >>> learn.oof.config['mode']
    'features'

    `fit`, `fit_one_cycle`, `fine_tune`, `fit_flat_cos`, `fit_sgdr`, gradual unfreezing and any fits
    in a row are followed; `validate`, `get_preds`, `tta` and `lr_find` are not fits. The Learner
    itself trains as it would without the callback: same weights, records, files and random
    numbers. Folds leave out progress bars, loggers and trackers (SaveModel, EarlyStopping: folds
    stop where the Learner stopped). Confident learning: Northcutt, Jiang and Chuang, JAIR 2021.

    `mode='features'` trains no folds, but K regularised linear heads on the features of the model
    as it is before the first fit, kept in `cache_dir` for the same inputs and weights: little more
    than one prediction of the training set, and for a pretrained body often better; of no use for
    random weights. `mode='folds'` costs about K more fits. `mode='auto'`, the default, begins with
    the heads and trains the folds only where they are better, as said above, or where there are no
    features (masks, a model without a linear layer) or an option is about the predictions of folds
    (`tta`, `average`). Before it trains folds it prints what it chose, why, and what each takes,
    which `oof.config` keeps in `mode`, `mode_reason` and `mode_cost`. After a fit of the head
    alone, such as the first of `fine_tune`'s two, it does not compare.

    `n_jobs` trains folds in other processes, through joblib: loky's, or those of
    `joblib.parallel_config(backend='dask'|'ray')`. The Learner stays here; data, untrained model
    and callbacks are copied there. On the CPU the result is the same to the last bit: each process
    has as many torch threads as this one (call `torch.set_num_threads` before, so that `n_jobs`
    times that many fit the machine); with several GPUs, fold k runs on number k modulo their
    count. A process that is killed costs its fold's time.

    Within `with learn.distrib_ctx():`, fastai's Accelerate integration, the processes that
    `accelerate launch` or `torchrun` started train each fold together as they train the Learner,
    and each predicts all held-out items: use the probabilities of rank 0, since without `sync_bn`
    batch normalization differs a little. `n_jobs` and `cache_dir` are refused there.

    `cache_dir` keeps each fold as it ends. The same script, run again with the same seeds, repeats
    the Learner's own fit and does the folds that are missing; a fold that was not finished repeats
    all its fits. A folder of another run is refused: other labels, ids, files (by size and time),
    frames, weights, settings of transforms, loss and callbacks, fits, versions, or other code of
    your own functions and classes, with the values that it reads from its module and class. The
    cache does not see the code of installed packages but for the versions above, files that your
    own functions open, or the state of numpy's generators: change `cache_key` when one changes.

    Raises TypeError or ValueError for invalid options, and at the first batch of the
    fit, before anything is trained, for data, optimizers and callbacks that cannot be split into
    folds or copied, and for a `cache_dir` of another run. Warns if the Learner is trained
    already."""
    order = SaveModelCallback.order + 10
    in_folds = False
    _stateattrs = 'folds', 'splits', '_record', '_armed', '_cancelled', '_weights', '_watch'

    @takes_options()
    def __init__(self, *args, **kwargs):
        self._init_state()
        vars(self).update(vars(fold_options(*args, **kwargs)))
        # `export` and copies leave out `splits`, which may be a large array
        self.has_splits = self.splits is not None

    def _init_state(self):
        super()._init_state()
        vars(self).update(folds=None, splits=None, _record=None, _armed=False, _cancelled=False,
                          _weights=None, _watch=None)

    @property
    def oof(self) -> OutOfFold | None:
        "The `OutOfFold` of the Learner that this callback followed, or None"
        return None if self.folds is None else oof_of(self.folds.learn)

    def before_fit(self):
        "Note what the fit is, unless it is `lr_find` or `get_preds`"
        # A prediction or validation within the fit, which holds the lock, must not end the record
        if self.learn.lock.locked(): return
        self._record = None
        self._armed = False
        self._cancelled = False
        # A fit that an error ended fired no event that could have taken the watch off
        self._end_watch()
        if hasattr(self.learn, 'lr_finder') or hasattr(self.learn, 'gather_preds'): return
        self._record = FitRecord(self.learn, self.learn.opt)
        watch_errors(self.learn)

    def before_train(self):
        "The fit is real: take the untrained model, and refuse what cannot be followed"
        # `validate` and `get_preds` fire `before_fit` and `after_fit` too, but never this event
        if self._record is None or self._armed: return
        try: self._arm()
        except Exception:
            # Only fastai's Cancel exceptions reach the events that would put a swapped loss back
            self.learn.loss_func = self._record.loss_func
            raise
        self._armed = True

    def _arm(self):
        learn = self.learn
        if self.has_splits and self.splits is None:
            raise ValueError("splits was left behind when the Learner was copied or exported: pass "
                             "it again to a new ConfidentLearningCallback")
        if self.folds is None or self.folds.learn is not learn:
            warn_of_training(learn)
            names = [o.name for o in fields(FoldOptions)]
            options = FoldOptions(**{o: vars(self)[o] for o in names if o in vars(self)})
            folds = make_engine(self._record, options)
            for dl in self._record.dls.loaders[1:2]: warn_if_unreadable(dl)
        else:
            folds = self.folds
            if not torch.equal(self._weights, _fingerprint(learn.model)):
                warn("the Learner's weights changed since the fit that was last followed (a fit "
                     "without the callback, an interrupted one, or load): the folds go on from "
                     "where their own last fit ended", stacklevel=2)
        folds.prepare(self._record)
        self.folds = folds
        self._weights = _fingerprint(learn.model)
        if self.mode == 'features': return
        in_force = [o for o in learn.cbs if o.run and o is not self]
        needed = [o for o in in_force if shapes_training(o, self.leave_out)]
        own = [o for o in needed if is_own(o)]
        self._watch = Watch(learn, own, [o for o in in_force if o not in needed],
                            self._record.hypers)

    def _end_watch(self):
        watch = vars(self).get('_watch')
        self._watch = None
        return ([], []) if watch is None else watch.end()

    # What callbacks/base.py asks of a callback that an error must not leave as it is
    @property
    def _in_fit(self): return vars(self).get('_record') is not None

    def _leave(self):
        self._record = None
        self._armed = False
        self._end_watch()
        unwatch_errors(self.learn)

    def __setattr__(self, name, value):
        # A callback of `fit(cbs=...)` that an error ended leaves the Learner without an event
        if name == 'learn' and value is None and self.learn is not None: self._leave()
        super().__setattr__(name, value)

    def after_cancel_fit(self):
        "Note that the fit ended early: the folds end it there too"
        self._cancelled = True

    def after_fit(self):
        "Repeat the fit on the folds, and predict them"
        if self.learn.lock.locked(): return
        record = self._record
        armed = self._armed
        self._record = None
        self._armed = False
        unwatch_errors(self.learn)
        if not armed: return
        self._weights = _fingerprint(self.learn.model)
        if self._cancelled: record.stop_at = self.learn.pct_train
        watch = self._watch
        self.folds.leave_idle(record, *self._end_watch())
        if watch is not None: record.changed = watch.changes
        self.folds.follow(record)

    def resume(self) -> OutOfFold:
        """Finish the folds after an interruption; those that were finished are kept. Raises
        ValueError if no fit was followed"""
        if self.folds is None:
            raise ValueError("there is nothing to resume: no fit was followed yet")
        self.folds.follow()
        return self.oof


def _fingerprint(model):
    "A sum per parameter: equal for equal weights"
    return torch.stack([p.detach().double().sum().cpu() for p in model.parameters()])
