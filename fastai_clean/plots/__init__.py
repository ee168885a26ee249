"Arrays in, matplotlib Axes out"
from .classes import plot_class_health, plot_quality
from .items import Unreadable, plot_items
from .matrices import plot_matrix
from .names import shorten

__all__ = ['Unreadable', 'plot_class_health', 'plot_items', 'plot_matrix', 'plot_quality', 'shorten']
