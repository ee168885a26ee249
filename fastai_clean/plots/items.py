"A grid of images or texts"
import math
import textwrap

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Rectangle

from .._images import Unreadable
from .names import PLAIN, drawable


def plot_items(
    items,  # Images, (h, w), (h, w, 1), (h, w, 3) or (h, w, 4) arrays, or texts; Unreadable among either
    titles,  # One title an item
    ncols=None,  # Columns of the grid; None: as square as it gets, two for texts
    figsize=None,  # Inches (width, height); None: by the grid
) -> np.ndarray:  # Axes, one an item
    """A grid of images or texts under their titles. Text is drawn as text: never read as markup or mathematics.

    Integers are read as 0..255, floats as 0..1, or as 0..255 where they reach further; numbers outside are stretched
    from the image's least to its largest. Images wider or higher than four to one are squeezed to that. Raises
    ValueError where there is nothing to show, not one title an item, or an array is no image."""
    if not len(items): raise ValueError("items is empty: there is nothing to show")
    if len(titles) != len(items): raise ValueError(f"titles has {len(titles)} entries for {len(items)} items")
    if ncols is not None and ncols < 1: raise ValueError(f"ncols is {ncols}: draw at least 1 column")
    shown = [o if isinstance(o, str) else _pixels(o, i) for i, o in enumerate(items)]
    texts = any(isinstance(o, str) and not isinstance(o, Unreadable) for o in shown)
    if ncols is None: ncols = min(2, len(items)) if texts else math.ceil(math.sqrt(len(items)))
    nrows = math.ceil(len(items)/ncols)
    figsize = figsize or ((6*ncols, 2.2*nrows) if texts else (2.6*ncols, 3*nrows))
    fig, axs = plt.subplots(nrows, ncols, squeeze=False, layout='constrained', figsize=figsize)
    for ax in axs.flat:
        ax.axis('off')
        ax.set_anchor('NW' if texts else 'N')
    width = figsize[0]/ncols
    for ax, item, title in zip(axs.flat, shown, titles):
        if isinstance(item, Unreadable): _draw_placeholder(ax, item, min(width, figsize[1]/nrows))
        elif isinstance(item, str): _draw_text(ax, item, width)
        else: _draw_image(ax, item)
        ax.set_title(_wrapped(str(title), width, 9, 4), fontsize=9, loc='left' if texts else 'center', **PLAIN)
    return axs.flatten()[:len(items)]


def _draw_text(ax, text, width):
    ax.text(0, 1, _wrapped(text, width, 8, 8) or '(empty)', fontsize=8, va='top', transform=ax.transAxes, **PLAIN)


def _draw_placeholder(ax, reason, width):
    ax.add_patch(Rectangle((0, 0), 1, 1, transform=ax.transAxes, facecolor='gray', edgecolor='gray', alpha=.3))
    ax.set_box_aspect(1)
    ax.text(.5, .5, _wrapped(reason, .85*width, 8, 8) or 'unreadable', fontsize=8, ha='center', va='center',
            transform=ax.transAxes, **PLAIN)


def _draw_image(ax, pixels):
    ax.imshow(pixels, cmap='gray', vmin=0, vmax=255 if pixels.dtype == np.uint8 else 1, aspect='auto')
    ax.set_box_aspect(min(max(pixels.shape[0]/pixels.shape[1], 1/4), 4))


def _pixels(item, i):
    "An image as uint8, or as float in 0..1"
    x = np.asarray(item)
    if x.ndim == 3 and x.shape[2] == 1: x = x[..., 0]
    if not (x.size and x.dtype.kind in 'biuf' and (x.ndim == 2 or x.ndim == 3 and x.shape[2] in (3, 4))):
        raise ValueError(f"items[{i}] has shape {x.shape} and dtype {x.dtype}: pass numbers of shape (h, w), "
                         "(h, w, 1), (h, w, 3) or (h, w, 4), a text, or Unreadable(why)")
    if x.dtype == bool: return x.astype(np.uint8)*np.uint8(255)
    if x.dtype.kind == 'f': x = np.where(np.isfinite(x), x, 0).astype(np.float32)
    lo, hi = float(x.min()), float(x.max())
    if x.dtype.kind in 'iu' and lo >= 0 and hi <= 255: return x.astype(np.uint8)
    if x.dtype.kind == 'f' and lo >= -.05 and hi <= 1.05: return x.clip(0, 1)
    if lo >= 0 and hi <= 256: return (x/np.float32(255)).clip(0, 1)
    return ((x - np.float64(lo))/(hi - lo or 1)).astype(np.float32)


def _wrapped(text, width, fontsize, lines):
    "`text` in lines that fit `width` inches, cut to as many as `lines`"
    columns = max(8, int(width*72/(.68*fontsize)))
    text = drawable('\n'.join(text[:2*columns*lines].splitlines()))
    shown = [o for line in text.split('\n')
             for o in ([line] if len(line) <= columns else textwrap.wrap(line, columns) or [''])]
    if len(shown) > lines: shown = [*shown[:lines - 1], shown[lines - 1][:columns - 2] + ' …']
    return '\n'.join(shown)
