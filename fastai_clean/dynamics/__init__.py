"Which items a batch holds, and what training tells of them"
from .history import Dynamics
from .items import BatchItems

__all__ = ['BatchItems', 'Dynamics']
