"A review of label issues: a journal of decisions that loses nothing, and what they make of the data"
from .names import ACTIONS
from .session import ReviewSession

__all__ = ['ACTIONS', 'ReviewSession']
