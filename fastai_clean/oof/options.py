"The options of out-of-fold training, declared once, and the engine that they choose"
import inspect
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from numbers import Integral, Real
from typing import Any

from fastcore.foundation import L

from ..data.distributed import check_one_process
from .auto import AutoFolds
from .cache import cache_folder
from .features import FeatureHeads
from .fit import FitRecord
from .folds import FoldLearners

MODES = 'folds', 'features', 'auto'


@dataclass
class FoldOptions:
    """How the folds are made, trained, kept and averaged: what `ConfidentLearningCallback` and
    `Learner.oof_preds` take.

    Raises TypeError or ValueError, naming the option, for an invalid value. What depends on the
    data is checked by `fold_numbers` (`n_folds`, `splits`) and `infer_act` (`act`), before anything
    is trained."""
    n_folds: int = 5  # Number of folds
    splits: Any = None  # Fold numbers or group ids (n,), a scikit-learn splitter; None: stratified
    seed: int = 42  # Seed of the folds and of the fold Learners' random numbers
    act: Callable | None = None  # Turns outputs into probabilities; None: the loss's activation
    # Callback classes that folds leave out, besides progress bars, loggers and trackers
    leave_out: type | Sequence[type] = ()
    tta: str | None = None  # 'flip': mean over each held-out image and its mirror image
    n_jobs: int = 1  # Processes that train folds; 1: only this one, -1: one per core
    # Folder in which finished folds are kept; None: nowhere
    cache_dir: str | os.PathLike | None = None
    n_repeats: int = 1  # Runs, each with the next seed, whose probabilities are averaged
    # 'epochs': mean of the predictions after each epoch of the last fit; for long fits
    average: str | None = None
    # 'features': heads on the untrained model's features; 'auto': these, or folds where better
    mode: str = 'auto'
    # Your text or number in the cache's key: change it when what the cache cannot see changes
    cache_key: str | float | None = None
    # Whether folds validate too, on the Learner's validation set, for callbacks that read its loss
    validate: bool = False
    # Rounds of heads on features, each without the items that the one before doubts, averaged
    n_rounds: int = 3
    # Pixels of the pictures' shorter side for features; None: the body's own, 0: the Learner's
    feature_size: int | None = None

    def __post_init__(self):
        for name, least in (('seed', 0), ('n_repeats', 1), ('n_rounds', 1), ('feature_size', 0)):
            value = getattr(self, name)
            if name == 'feature_size' and value is None: continue
            # True is the whole number 1, but nobody's seed
            if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
                raise ValueError(f"{name} is {value!r}: pass a whole number, {least} or more")
        n_jobs = self.n_jobs
        if isinstance(n_jobs, bool) or not isinstance(n_jobs, Integral) or n_jobs < -1 \
                or not n_jobs:
            raise ValueError(f"n_jobs is {n_jobs!r}: pass a number of processes, -1 for one "
                             "per core")
        if not all(isinstance(o, type) for o in L(self.leave_out)):
            raise TypeError(f"leave_out is {self.leave_out!r}: pass callback classes, such as "
                            "(MixUp,)")
        if self.tta not in (None, 'flip'):
            raise ValueError(f"tta is {self.tta!r}: choose 'flip' or None")
        if self.average not in (None, 'epochs'):
            raise ValueError(f"average is {self.average!r}: choose 'epochs' or None")
        if self.mode not in MODES:
            raise ValueError(f"mode is {self.mode!r}: choose 'folds', 'features' or 'auto'")
        if self.mode == 'features' and self.tta is not None:
            raise ValueError(f"tta is {self.tta!r}, which features do not support: pass tta=None "
                             "or mode='folds'")
        if self.mode == 'features' and self.average is not None:
            raise ValueError(f"average is {self.average!r}, but features have no epochs: pass "
                             "average=None or mode='folds'")
        if not isinstance(self.cache_key, (str, Real, type(None))):
            raise TypeError(f"cache_key is {self.cache_key!r}: pass a text or a number")

        self.seed = int(self.seed)
        self.n_repeats = int(self.n_repeats)
        self.n_rounds = int(self.n_rounds)
        self.n_jobs = int(n_jobs)
        self.leave_out = tuple(L(self.leave_out))


def fold_options(*args, **kwargs) -> FoldOptions:
    """What a user passed, as `FoldOptions`. Raises TypeError for a mistyped option, listing all,
    and ValueError for a `cache_key` without a `cache_dir`."""
    names = [o.name for o in fields(FoldOptions)]
    for o in kwargs:
        if o not in names:
            raise TypeError(f"there is no option {o!r}: choose from {', '.join(names)}")
    options = FoldOptions(*args, **kwargs)
    if options.cache_key is not None and options.cache_dir is None:
        raise ValueError(f"cache_key is {options.cache_key!r}, but there is no cache: pass "
                         "cache_dir= too")
    return options


def takes_options(
    **defaults,  # Defaults of `f` that differ from those of `FoldOptions`, which `f` itself passes
) -> Callable:
    """A decorator for a function that passes `*args` and `**kwargs` on to `FoldOptions`: `help()`,
    `inspect.signature` and fastcore's docments show the options as its own"""
    def shown(f):
        sig = inspect.signature(f)
        stars = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
        own = [o for o in sig.parameters.values() if o.kind not in stars]
        options = inspect.signature(FoldOptions).parameters.values()
        options = [o.replace(default=defaults.get(o.name, o.default)) for o in options]
        f.__signature__ = sig.replace(parameters=[*own, *options])
        # fastcore's `delegates` would point at the `__init__` that the dataclass generates, which
        # has no source: docments needs the class, whose comments it can read
        f.__delwrap__ = FoldOptions
        return f
    return shown


def make_engine(
    record: FitRecord,  # FitRecord of the Learner as it is before training
    options: FoldOptions,  # How the folds are made
) -> FoldLearners | FeatureHeads | AutoFolds:
    """What follows the fits of a Learner and sets its `oof`.

    Raises what that raises, and ValueError if this is one of several processes that train together
    and an option works in a single process only."""
    check_one_process(options.n_jobs, options.cache_dir)
    if options.mode == 'folds': return FoldLearners(record, options)

    folder = None if options.cache_dir is None else cache_folder(options.cache_dir)
    if options.mode == 'features':
        return FeatureHeads(FoldLearners(record, replace(options, cache_dir=None)), folder)
    if folder is None: return AutoFolds(FoldLearners(record, options))
    folds = FoldLearners(record, replace(options, cache_dir=folder/'folds'))
    return AutoFolds(folds, folder/'features')
