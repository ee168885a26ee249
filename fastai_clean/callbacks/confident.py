"Out-of-fold probabilities while a Learner trains as it always does"
from warnings import warn

import torch
from fastai.callback.core import Callback
from fastai.callback.tracker import SaveModelCallback
from fastcore.basics import store_attr

from ..oof import FitRecord, make_engine, warn_of_training
from ..oof.result import oof_of

_OPTIONS = 'n_folds splits seed act leave_out tta n_jobs cache_dir n_repeats average mode'.split()


class ConfidentLearningCallback(Callback):
    """Gathers out-of-fold probabilities of the training set: after every fit, K fold Learners repeat that fit, each
    without its fold, and predict the fold. `learn.oof` (and `oof` here) holds the result.

    `fit`, `fit_one_cycle`, `fine_tune`, `fit_flat_cos`, `fit_sgdr`, gradual unfreezing and any fits in a row are
    followed; `validate`, `get_preds`, `tta` and `lr_find` are not fits. The Learner itself trains as it would without
    the callback: same weights, records, files and random numbers. Folds leave out progress bars, loggers and trackers
    (SaveModel, EarlyStopping: folds stop where the Learner stopped). Costs about K more fits. Confident learning:
    Northcutt, Jiang and Chuang, JAIR 2021.

    `n_jobs` trains folds in other processes, through joblib: loky's, or those of
    `joblib.parallel_config(backend='dask'|'ray')`. The Learner stays here; data, model and callbacks are copied there.
    On the CPU the result is the same to the last bit: each process has as many torch threads as this one (call
    `torch.set_num_threads` before, for `n_jobs` times that many to fit the machine); of several GPUs fold k has number
    k modulo their number. A process that is killed costs its fold's time.

    Within `with learn.distrib_ctx():`, fastai's Accelerate integration, the processes that `accelerate launch` or
    `torchrun` started train each fold together as they train the Learner, and each predicts all held-out items: use
    the probabilities of rank 0, as without `sync_bn` batch normalization differs a little. `n_jobs` and `cache_dir` are
    refused there.

    `cache_dir` keeps each fold as it ends. The same script, run again, does what is missing, the Learner's own fit
    among it; it must seed what it does before. A folder of another run is refused: other labels, items, weights,
    transforms, settings, fits, or versions of torch and fastai. Files are known by size and time, a DataFrame by its
    values and the images that it names, a plain torch data set by its labels alone. The code of libraries and of what a
    function calls in other modules is not looked at.

    `mode='features'` trains no folds, but K regularised linear heads on the features of the model as it is before the
    first fit, kept in `cache_dir` for the same inputs and weights: little more than one prediction of the training set,
    and for a pretrained body often better; no use for random weights. `mode='auto'` trains the folds only where the
    heads are worse than the trained Learner on the validation set, and says so in `oof.config['mode_reason']`.

    Raises TypeError or ValueError before the first batch where the Learner's data, optimizer or loss cannot be
    followed, or `cache_dir` is another run's; warns where the Learner is trained already."""
    order, in_folds = SaveModelCallback.order + 10, False
    _stateattrs = 'folds', 'splits', '_record', '_armed', '_cancelled', '_weights'

    def __init__(self,
        n_folds=5,  # Number of folds
        splits=None,  # Fold numbers (n,), group ids (n,) or a scikit-learn splitter; None: stratified folds
        seed=42,  # Seed of the folds and of the fold Learners' random numbers
        act=None,  # Activation that turns outputs into probabilities; None: the loss's
        leave_out=(),  # Callback classes that folds leave out, besides progress, loggers and trackers
        tta=None,  # 'flip': predict the held-out images and their mirror images, and take the mean
        n_jobs=1,  # Processes in which folds are trained; 1: this one, -1: one a core
        cache_dir=None,  # Folder in which finished folds are kept; None: nowhere
        n_repeats=1,  # Times that everything is repeated with the next seed; the probabilities are averaged
        average=None,  # 'epochs': the mean of the predictions after each epoch of the last fit; for long fits
        mode='folds',  # 'features': heads on the untrained model's features; 'auto': those where they are good enough
    ):
        self._init_state()
        store_attr()
        self.has_splits = splits is not None

    def _init_state(self):
        super()._init_state()
        vars(self).update(folds=None, splits=None, _record=None, _armed=False, _cancelled=False, _weights=None)

    @property
    def oof(self):
        "The `OutOfFold` of the Learner this callback followed, or None"
        return None if self.folds is None else oof_of(self.folds.learn)

    def before_fit(self):
        "Note what the fit is, unless it is `lr_find` or `get_preds`"
        self._record, self._armed, self._cancelled = None, False, False
        if hasattr(self.learn, 'lr_finder') or hasattr(self.learn, 'gather_preds'): return
        self._record = FitRecord(self.learn, self.learn.opt)

    def before_train(self):
        "The fit is real: take the untrained model, and refuse what cannot be followed"
        if self._record is None or self._armed: return
        try: self._arm()
        except Exception:
            self.learn.loss_func = self._record.loss_func
            raise
        self._armed = True

    def _arm(self):
        learn = self.learn
        if self.has_splits and self.splits is None:
            raise ValueError("splits was left behind when the Learner was copied or exported: pass it again to a new "
                             "ConfidentLearningCallback")
        if self.folds is None or self.folds.learn is not learn:
            warn_of_training(learn)
            folds = make_engine(self._record, **{o: getattr(self, o) for o in _OPTIONS})
        else:
            folds = self.folds
            if not torch.equal(self._weights, _fingerprint(learn.model)):
                warn("the Learner's weights changed since the fit that was last followed (a fit without the callback, "
                     "an interrupted one, or load): the folds go on from where their own last fit ended", stacklevel=2)
        folds.prepare(self._record)
        self.folds, self._weights = folds, _fingerprint(learn.model)

    def after_cancel_fit(self):
        "Note that the fit ended early: the folds end it there too"
        self._cancelled = True

    def after_fit(self):
        "Repeat the fit on the folds, and predict them"
        record, armed = self._record, self._armed
        self._record, self._armed = None, False
        if not armed: return
        self._weights = _fingerprint(self.learn.model)
        if self._cancelled: record.stop_at = self.learn.pct_train
        self.folds.follow(record)

    def resume(self):
        "Finish the folds after an interruption; those that were finished are kept"
        if self.folds is None: raise ValueError("there is nothing to resume: no fit was followed yet")
        self.folds.follow()
        return self.oof


def _fingerprint(model):
    "A sum per parameter: equal for equal weights"
    return torch.stack([p.detach().double().sum().cpu() for p in model.parameters()])
