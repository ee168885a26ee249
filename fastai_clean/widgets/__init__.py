"The notebook's cleaner: a view of a ReviewSession that holds no decision itself"
from .cleaner import Cleaner

__all__ = ['Cleaner']
