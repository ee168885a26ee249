"A grid of images or texts"
import math
import textwrap
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Rectangle

from .._images import Unreadable, scaled
from ._names import PLAIN, drawable, one_font_warning


@one_font_warning()
def plot_items(
    items: Sequence,  # Images (h, w[, 1, 3 or 4]) or texts, Unreadable among either
    titles: Sequence,  # One title per item
    ncols: int | None = None,  # Columns of the grid; None: as square as possible, 2 for texts
    figsize: tuple[float, float] | None = None,  # Inches (width, height); None: by the grid
) -> np.ndarray:  # Axes, one per item
    """A grid of images or texts under their titles. Text is drawn as text: never read as markup or
    mathematics.

    Integers are read as 0..255, floats as 0..1, or as 0..255 if they reach further; numbers outside
    are stretched from the image's smallest to its largest. Images wider or higher than four to one
    are squeezed to that. Raises ValueError if there is nothing to show, if there is not one title
    per item, or if an array is not an image."""
    if not len(items): raise ValueError("items is empty: pass at least 1 item to show")
    if len(titles) != len(items):
        raise ValueError(f"titles has {len(titles)} entries for {len(items)} items: pass one title "
                         "per item")
    if ncols is not None and ncols < 1:
        raise ValueError(f"ncols is {ncols}: draw at least 1 column")

    # Read before the figure is made: an error must not leave an empty figure open in a notebook
    shown = [o if isinstance(o, str) else scaled(o, f'items[{i}]') for i, o in enumerate(items)]
    texts = any(isinstance(o, str) and not isinstance(o, Unreadable) for o in shown)
    if ncols is None: ncols = min(2, len(items)) if texts else math.ceil(math.sqrt(len(items)))
    nrows = math.ceil(len(items)/ncols)
    if figsize is None: figsize = (6*ncols, 2.2*nrows) if texts else (2.6*ncols, 3*nrows)
    _, axs = plt.subplots(nrows, ncols, squeeze=False, layout='constrained', figsize=figsize)
    for ax in axs.flat:
        ax.axis('off')
        ax.set_anchor('NW' if texts else 'N')
    width = figsize[0]/ncols
    for ax, item, title in zip(axs.flat, shown, titles):
        if isinstance(item, Unreadable): _draw_placeholder(ax, item, min(width, figsize[1]/nrows))
        elif isinstance(item, str): _draw_text(ax, item, width)
        else: _draw_image(ax, item)
        ax.set_title(_wrapped(str(title), width, 9, 4), fontsize=9,
                     loc='left' if texts else 'center', **PLAIN)
    return axs.flatten()[:len(items)]


def _draw_text(ax, text, width):
    shown = _wrapped(text, width, 8, 8) or '(empty)'
    ax.text(0, 1, shown, fontsize=8, va='top', transform=ax.transAxes, **PLAIN)


def _draw_placeholder(ax, reason, width):
    box = Rectangle((0, 0), 1, 1, transform=ax.transAxes, facecolor='gray', edgecolor='gray',
                    alpha=.3)
    ax.add_patch(box)
    ax.set_box_aspect(1)
    shown = _wrapped(reason, .85*width, 8, 8) or 'unreadable'
    ax.text(.5, .5, shown, fontsize=8, ha='center', va='center', transform=ax.transAxes, **PLAIN)


def _draw_image(ax, pixels):
    # Limits are given, since imshow would stretch each image to its own darkest and lightest pixel
    top = 255 if pixels.dtype == np.uint8 else 1
    ax.imshow(pixels, cmap='gray', vmin=0, vmax=top, aspect='auto')
    ax.set_box_aspect(min(max(pixels.shape[0]/pixels.shape[1], 1/4), 4))


def _wrapped(text, width, fontsize, lines):
    "`text` in lines that fit `width` inches, cut to at most `lines` of them"
    columns = max(8, int(width*72/(.68*fontsize)))
    # Cut first: wrapping a text of megabytes takes seconds, and all but its first lines are dropped
    text = drawable('\n'.join(text[:2*columns*lines].splitlines()))
    shown = []
    for line in text.split('\n'):
        if len(line) <= columns: shown.append(line)
        else: shown += textwrap.wrap(line, columns) or ['']
    if len(shown) > lines: shown = [*shown[:lines - 1], shown[lines - 1][:columns - 2] + ' …']
    return '\n'.join(shown)
