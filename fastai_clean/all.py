"The public names: `from fastai_clean.all import *`. Everything else is imported from its module"
from .callbacks import (
    ConfidentLearningCallback,
    CoTeachingCallback,
    EarlyLearningRegularizationCallback,
    ItemWeightsCallback,
    SoftPseudoLabelCallback,
    TrainingDynamicsCallback,
)
from .callbacks.wandb import CleanWandbCallback
from .dynamics import Dynamics
from .interpret import CleanInterpretation
from .issues import (
    StreamedIssues,
    audit,
    class_health,
    confident_joint,
    find_annotator_issues,
    find_issues,
    find_multilabel_issues,
    find_regression_issues,
    find_segmentation_issues,
    label_quality,
    majority_labels,
    noise_rate,
    top_pairs,
)
from .learner import CleanFit
from .losses import GeneralizedCrossEntropy, SymmetricCrossEntropy
from .oof import OutOfFold
from .review import ReviewSession
from .widgets import Cleaner

__all__ = [
    # Training
    'ConfidentLearningCallback', 'SoftPseudoLabelCallback', 'ItemWeightsCallback',
    'TrainingDynamicsCallback', 'EarlyLearningRegularizationCallback', 'CoTeachingCallback',
    'CleanWandbCallback', 'GeneralizedCrossEntropy', 'SymmetricCrossEntropy', 'CleanFit',
    # Results
    'OutOfFold', 'Dynamics', 'CleanInterpretation',
    # Arrays
    'find_issues', 'find_multilabel_issues', 'find_regression_issues', 'find_segmentation_issues',
    'StreamedIssues', 'label_quality', 'noise_rate', 'confident_joint', 'class_health', 'top_pairs',
    'audit', 'find_annotator_issues', 'majority_labels',
    # Deciding
    'ReviewSession', 'Cleaner',
]
