"Callbacks that find and soften wrong labels while a Learner trains as it always does"
from .confident import ConfidentLearningCallback

__all__ = ['ConfidentLearningCallback']
