"The out-of-fold result, and the fold Learners that make it"
from .auto import AutoFolds
from .features import FeatureHeads
from .fit import FitRecord, snapshot, warn_of_training, was_trained
from .folds import FoldLearners
from .options import FoldOptions, make_engine
from .result import OutOfFold

__all__ = ['AutoFolds', 'FeatureHeads', 'FitRecord', 'FoldLearners', 'FoldOptions', 'OutOfFold',
           'make_engine', 'snapshot', 'warn_of_training', 'was_trained']
