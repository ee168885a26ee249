"Everything that needs no extra: `from fastai_clean.all import *`"
from .callbacks import ConfidentLearningCallback
from .folds import fold_numbers
from .interpret import CleanInterpretation
from .issues import FILTERS, SCORES, confident_joint, find_issues, label_quality, noise_matrix, noise_rate
from .oof import OutOfFold
from .plots import plot_items

__all__ = ['ConfidentLearningCallback', 'CleanInterpretation', 'OutOfFold', 'FILTERS', 'SCORES', 'confident_joint',
           'find_issues', 'fold_numbers', 'label_quality', 'noise_matrix', 'noise_rate', 'plot_items']
