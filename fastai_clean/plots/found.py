"How many wrong labels a review finds, item by item"
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import StrMethodFormatter
from numpy.typing import ArrayLike

from .._text import about


def plot_found(
    reviewed: ArrayLike,  # Numbers (m,) of items to review, rising
    found: ArrayLike,  # Wrong labels (m,) that are known by then
    low: ArrayLike,  # Low end of each one's interval (m,)
    high: ArrayLike,  # High end of each one's interval (m,)
    *,
    total: tuple[float, float, float] | None = None,  # All wrong labels, and their interval
    stop: float | None = None,  # Number of items after which `share` of them are found
    share: float = .95,  # What share that is, 0 to 1, for the legend
    figsize: tuple[float, float] = (7, 4),  # Inches (width, height) of a new figure
    ax: Axes | None = None,  # Axes to draw on; None: a new figure
) -> Axes:
    """The curve of wrong labels found against items reviewed, with its band; a dashed line at the
    total, and a dotted one where a review may stop.

    The curve is drawn up to a third beyond `stop`, since the rest of the data set would press its
    rise to the edge. Raises ValueError for shapes or values that do not fit."""
    x, y, bottom, top = (np.asarray(o, dtype=float) for o in (reviewed, found, low, high))
    for name, o in (('reviewed', x), ('found', y), ('low', bottom), ('high', top)):
        if o.ndim != 1 or len(o) != len(x) or not len(o) or not np.isfinite(o).all():
            raise ValueError(f"{name} has shape {o.shape}, or values that are not finite: pass one "
                             "number per point in each of reviewed, found, low and high")
    if (np.diff(x) < 0).any():
        raise ValueError("reviewed falls: pass the numbers of items in rising order")
    if (bottom > y).any() or (y > top).any():
        i = ((bottom > y) | (y > top)).argmax()
        raise ValueError(f"found is {y[i]:g} at point {i}, outside of its interval from "
                         f"{bottom[i]:g} to {top[i]:g}: pass low <= found <= high")

    if ax is None: _, ax = plt.subplots(figsize=figsize, layout='constrained')
    end = x[-1] if not stop else min(x[-1], 4/3*stop)
    kept = x <= end
    # Up to the first point beyond the end too, or the curve would stop before it
    kept[:np.searchsorted(x, end) + 1] = True
    ax.fill_between(x[kept], bottom[kept], top[kept], color='C0', alpha=.25, lw=0,
                    label='95% interval')
    ax.plot(x[kept], y[kept], color='C0', lw=2, label='wrong labels found')
    colour = plt.rcParams['text.color']
    if total is not None:
        n, least, most = total
        ax.axhline(n, color=colour, ls='--', lw=1.2,
                   label=f'all wrong labels: about {about(n)} ({about(least)} to {about(most)})')
    if stop:
        ax.axvline(stop, color='C1', ls=':', lw=2,
                   label=f'{share:.0%} found after {about(stop, up=True)} more')
    ax.set_xlim(0, max(end, 1))
    ax.set_ylim(bottom=0)
    for axis in (ax.xaxis, ax.yaxis): axis.set_major_formatter(StrMethodFormatter('{x:,.0f}'))
    ax.set_xlabel('items to review, worst first', fontsize=9)
    ax.set_ylabel('wrong labels', fontsize=9)
    ax.tick_params(labelsize=8)
    ax.legend(loc='lower center', bbox_to_anchor=(.5, 1), ncols=2, fontsize=8, frameon=False)
    return ax
