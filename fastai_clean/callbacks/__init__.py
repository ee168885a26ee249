"Callbacks that find and soften wrong labels while a Learner trains as it always does"
from .confident import ConfidentLearningCallback
from .soft import ItemWeightsCallback, SoftPseudoLabelCallback

__all__ = ['ConfidentLearningCallback', 'ItemWeightsCallback', 'SoftPseudoLabelCallback']
