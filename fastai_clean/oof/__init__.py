"The out-of-fold result, and the fold Learners that make it"
from .learners import FoldLearners
from .replay import FitRecord, snapshot, was_trained
from .result import OutOfFold

__all__ = ['OutOfFold', 'FoldLearners', 'FitRecord', 'snapshot', 'was_trained']
