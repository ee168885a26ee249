"The one place where what makes out-of-fold probabilities is chosen"

from fastai.learner import Learner
from fastcore.basics import patch

from ..folds.distributed import check_one_process
from .auto import AutoFolds
from .cache import cache_folder
from .features import FeatureHeads
from .learners import FoldLearners
from .replay import FitRecord, warn_of_training
from .result import OutOfFold

__all__ = ['make_engine']


def make_engine(
    record,  # FitRecord of the Learner as it is before training
    mode='folds',  # 'folds', 'features' or 'auto', see `FoldLearners`, `FeatureHeads` and `AutoFolds`
    cache_dir=None,  # Folder in which what is finished is kept; None: nowhere
    **kwargs,  # Passed to `FoldLearners`
):
    "What follows the fits of a Learner and sets its `oof`; raises what that raises, ValueError for another `mode`"
    check_one_process(kwargs.get('n_jobs', 1), cache_dir)
    if mode == 'folds': return FoldLearners(record, cache_dir=cache_dir, **kwargs)
    if mode not in ('features', 'auto'): raise ValueError(f"mode is {mode!r}: choose 'folds', 'features' or 'auto'")
    if cache_dir is not None: cache_dir = cache_folder(cache_dir)
    if mode == 'features': return FeatureHeads(FoldLearners(record, **kwargs), cache_dir)
    of_folds, of_features = (None if cache_dir is None else cache_dir/o for o in ('folds', 'features'))
    return AutoFolds(FeatureHeads(FoldLearners(record, cache_dir=of_folds, **kwargs), of_features))


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
