"Which items a batch holds, and what training tells of them"
from .history import DYNAMICS_SCORES, Dynamics
from .items import BatchItems

__all__ = ['DYNAMICS_SCORES', 'BatchItems', 'Dynamics']
