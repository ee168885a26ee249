"Everything that needs no extra: `from fastai_clean.all import *`"
from .callbacks import (
           ConfidentLearningCallback,
           CoTeachingCallback,
           EarlyLearningRegularizationCallback,
           ItemWeightsCallback,
           SoftPseudoLabelCallback,
           TrainingDynamicsCallback,
)
from .callbacks.wandb import CleanWandbCallback, log_interpretation
from .data import fold_numbers
from .dynamics import DYNAMICS_SCORES, Dynamics
from .interpret import CleanInterpretation
from .issues import (
           FILTERS,
           REGRESSION_SCORES,
           SCORES,
           SEGMENTATION_SCORES,
           StreamedIssues,
           advise_filter,
           apply_temperature,
           audit,
           class_health,
           class_thresholds,
           confident_joint,
           find_class_issues,
           find_issues,
           find_issues_by,
           find_multilabel_issues,
           find_regression_issues,
           find_segmentation_issues,
           fit_temperature,
           label_quality,
           noise_matrix,
           noise_rate,
           segmentation_pixel_issues,
           top_pairs,
)
from .learner import CleanFit
from .losses import GeneralizedCrossEntropy, SoftLoss, SymmetricCrossEntropy, soft_targets
from .oof import OutOfFold
from .plots import Unreadable, plot_class_health, plot_items, plot_matrix, plot_quality
from .review import ReviewSession

__all__ = ['CleanFit', 'CleanInterpretation', 'CleanWandbCallback', 'CoTeachingCallback', 'ConfidentLearningCallback',
           'DYNAMICS_SCORES', 'Dynamics', 'EarlyLearningRegularizationCallback', 'FILTERS', 'GeneralizedCrossEntropy',
           'ItemWeightsCallback', 'OutOfFold', 'REGRESSION_SCORES', 'ReviewSession', 'SCORES', 'SEGMENTATION_SCORES',
           'SoftLoss', 'SoftPseudoLabelCallback', 'StreamedIssues', 'SymmetricCrossEntropy',
           'TrainingDynamicsCallback', 'Unreadable', 'advise_filter', 'apply_temperature', 'audit', 'class_health',
           'class_thresholds', 'confident_joint', 'find_class_issues', 'find_issues', 'find_issues_by',
           'find_multilabel_issues', 'find_regression_issues', 'find_segmentation_issues', 'fit_temperature',
           'fold_numbers', 'label_quality', 'log_interpretation', 'noise_matrix', 'noise_rate', 'plot_class_health',
           'plot_items', 'plot_matrix', 'plot_quality', 'segmentation_pixel_issues', 'soft_targets', 'top_pairs']
