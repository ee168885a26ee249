"Callbacks that find and soften wrong labels while a Learner trains as it always does"
from .confident import ConfidentLearningCallback
from .coteaching import CoTeachingCallback
from .dynamics import TrainingDynamicsCallback
from .elr import EarlyLearningRegularizationCallback
from .soft import ItemWeightsCallback, SoftPseudoLabelCallback

__all__ = ['ConfidentLearningCallback', 'CoTeachingCallback', 'EarlyLearningRegularizationCallback',
           'ItemWeightsCallback', 'SoftPseudoLabelCallback', 'TrainingDynamicsCallback']
