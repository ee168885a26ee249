"Pictures of items, class pairs, classes and reviews: arrays in, matplotlib Axes out"
from .._images import Unreadable
from .._text import shorten
from .classes import plot_class_health, plot_quality
from .found import plot_found
from .items import plot_items
from .matrices import plot_matrix

__all__ = ['Unreadable', 'plot_class_health', 'plot_found', 'plot_items', 'plot_matrix',
           'plot_quality', 'shorten']
