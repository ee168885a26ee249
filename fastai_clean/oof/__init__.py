"The out-of-fold result, and the fold Learners that make it"
from .auto import AutoFolds
from .engine import make_engine
from .features import FeatureHeads
from .learners import FoldLearners
from .replay import FitRecord, snapshot, warn_of_training, was_trained
from .result import OutOfFold

__all__ = ['AutoFolds', 'FeatureHeads', 'FitRecord', 'FoldLearners', 'OutOfFold', 'make_engine', 'snapshot',
           'warn_of_training', 'was_trained']
