"CleanInterpretation: rank, show and export the label issues of a Learner's data"
from .base import CleanInterpretation

__all__ = ['CleanInterpretation']
