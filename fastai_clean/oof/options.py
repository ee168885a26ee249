"The one place where what makes out-of-fold probabilities is chosen"


from ..data.distributed import check_one_process
from .auto import AutoFolds
from .cache import cache_folder
from .features import FeatureHeads
from .folds import FoldLearners


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
