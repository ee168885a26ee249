"Deciding on label issues: a journal that loses nothing, and the decisions applied to the data"
from .replay import ACTIONS
from .session import ReviewSession
from .tables import read_issues

__all__ = ['ACTIONS', 'ReviewSession', 'read_issues']
