"Arrays in, matplotlib Axes out"
import math
import textwrap
import unicodedata

import matplotlib.pyplot as plt
import numpy as np

__all__ = ['plot_items']


def plot_items(
    items,  # Images, (h, w) or (h, w, 3) arrays, or texts
    titles,  # One title an item
    ncols=None,  # Columns of the grid; None: as square as it gets, two for texts
    figsize=None,  # Inches (width, height); None: by the grid
) -> np.ndarray:  # Axes, one an item
    """A grid of images or texts under their titles. Text is drawn as text: never read as markup or mathematics.

    Raises ValueError where there is nothing to show, or not one title an item."""
    if not len(items): raise ValueError("items is empty: there is nothing to show")
    if len(titles) != len(items): raise ValueError(f"titles has {len(titles)} entries for {len(items)} items")
    texts = any(isinstance(o, str) for o in items)
    if ncols is None: ncols = min(2, len(items)) if texts else math.ceil(math.sqrt(len(items)))
    nrows = math.ceil(len(items)/ncols)
    fig, axs = plt.subplots(nrows, ncols, squeeze=False, layout='constrained',
                            figsize=figsize or ((6*ncols, 2.2*nrows) if texts else (2.6*ncols, 3*nrows)))
    for ax in axs.flat: ax.axis('off')
    for ax, item, title in zip(axs.flat, items, titles):
        if isinstance(item, str): _draw_text(ax, item)
        else: ax.imshow(item, cmap='gray' if item.ndim == 2 else None)
        ax.set_title(_drawable(title), fontsize=9, parse_math=False, loc='left' if texts else 'center')
    return axs.flatten()[:len(items)]


def _draw_text(ax, text, width=78, lines=8):
    shown = [o for line in text.splitlines() for o in textwrap.wrap(line, width) or ['']]
    if len(shown) > lines: shown = [*shown[:lines - 1], shown[lines - 1][:width - 2] + ' …']
    shown = _drawable('\n'.join(shown)) or '(empty)'
    ax.text(0, 1, shown, fontsize=8, va='top', parse_math=False, transform=ax.transAxes)


def _drawable(text):
    "`text` without what no font can draw: control characters and halves of surrogate pairs"
    return ''.join(o if o == '\n' or unicodedata.category(o) not in ('Cc', 'Cs') else '\ufffd' for o in text)
