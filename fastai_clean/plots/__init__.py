"Arrays in, matplotlib Axes out"
from .items import plot_items

__all__ = ['plot_items']
