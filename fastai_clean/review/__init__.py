"Deciding on label issues: a journal that loses nothing, and the data that the decisions make"
from .replay import ACTIONS
from .session import ReviewSession
from .tables import read_issues

__all__ = ['ACTIONS', 'ReviewSession', 'read_issues']
