"A (c, c) matrix of class pairs as a heat map"
import math
from collections.abc import Sequence

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, ListedColormap, PowerNorm, to_rgb
from matplotlib.ticker import FuncFormatter
from numpy.typing import ArrayLike

from ._names import PLAIN, class_names, drawable, first_classes, one_font_warning


@one_font_warning()
def plot_matrix(
    matrix: ArrayLike,  # (c, c) counts or probabilities of class pairs, none negative
    vocab: Sequence | None = None,  # Names of the c classes; None: their indices
    *,
    title: str | None = None,  # Title of the picture
    xlabel: str = '',  # What the columns are
    ylabel: str = '',  # What the rows are
    fmt: str | None = None,  # Format of the numbers, such as '.1%'; None: chosen by the values
    cmap: str | Colormap = 'Blues',  # A named one is reversed if that suits the background better
    max_classes: int | None = 25,  # Classes to show, those with most off the diagonal; None: all
    annotate: bool | None = None,  # Whether to write the numbers; None: if they fit
    figsize: tuple[float, float] | None = None,  # Inches (width, height); None: by the classes
    ax: Axes | None = None,  # Axes to draw on; None: a new figure
) -> Axes:
    """Heat map of a confident joint, noise matrix or confusion matrix, made to find the worst pairs
    of classes.

    Colours measure what is off the diagonal, on a scale that leaves small values visible. The
    diagonal, many times larger if most labels are right, is grey, and zeros stay blank. Numbers are
    counts (12k is 12,000), or per cent if the matrix holds probabilities. Raises ValueError if it
    is not square, finite and non-negative."""
    m = _check_matrix(matrix)
    names = class_names(vocab, len(m), 'matrix')
    off = m.copy()
    np.fill_diagonal(off, 0)
    shown = np.sort(_confused(off, max_classes))

    if len(shown) < len(m):
        note = f'{len(shown)} of {len(m)} classes, those with most off the diagonal'
        title = f'{title}\n{note}' if title else note
    names = [names[i] for i in shown]
    m = m[np.ix_(shown, shown)]
    if ax is None:
        side = min(max(.42*len(m), 2.4), 9.5)
        label = .075*max(map(len, names))
        figsize = figsize or (side + 1.8 + label, side + 1 + label)
        _, ax = plt.subplots(figsize=figsize, layout='constrained')
    im = _draw_cells(ax, m, cmap)
    _draw_ticks(ax, names)
    ax.set_xlabel(drawable(xlabel), **PLAIN)
    ax.set_ylabel(drawable(ylabel), **PLAIN)
    if title: ax.set_title(drawable(title), fontsize='medium', **PLAIN)
    _draw_numbers(ax, im, m, fmt, annotate)
    return ax


def _confused(off, max_classes):
    """Indices of the classes of the worst pairs, either way round, so that each is shown beside its
    counterpart"""
    keep = first_classes(off.sum(0) + off.sum(1), max_classes)
    if len(keep) == len(off): return keep
    # The worst single classes may be ones mistaken for many others, none of which would be shown.
    # Of thousands of classes, all but a few of the millions of pairs are empty
    rows, cols = np.nonzero(off)
    both = np.minimum(rows, cols)*len(off) + np.maximum(rows, cols)
    pairs, at = np.unique(both, return_inverse=True)
    worst = np.argsort(-np.bincount(at, off[rows, cols]), kind='stable')
    classes = np.stack(np.divmod(pairs[worst], len(off)), 1).ravel()
    return list(dict.fromkeys([*classes.tolist(), *keep.tolist()]))[:max_classes]


def _check_matrix(matrix):
    m = np.asarray(matrix)
    if m.ndim != 2 or m.shape[0] != m.shape[1] or len(m) < 2 or m.dtype.kind not in 'biuf':
        raise ValueError(f"matrix has shape {m.shape} and dtype {m.dtype}: pass numbers of shape "
                         "(classes, classes), at least 2 classes")
    m = m.astype(float)
    # Two passes of millions of numbers, where all is well; NaN is not at least 0
    if not (m.min() >= 0 and m.max() < np.inf):
        bad = ~np.isfinite(m) | (m < 0)
        row, col = np.argwhere(bad)[0]
        raise ValueError(f"matrix has {bad.sum()} values that are NaN, infinite or negative, first "
                         f"{m[row, col]} in row {row}, column {col}: pass counts or probabilities")
    return m


def _draw_cells(ax, m, cmap):
    eye = np.eye(len(m), dtype=bool)
    kw = dict(interpolation='nearest', aspect='auto')
    diagonal = np.ma.masked_array(eye, ~eye | (m == 0))
    ax.imshow(diagonal, cmap=ListedColormap(['gray']), alpha=.35, **kw)
    norm = PowerNorm(.7, vmin=0, vmax=m[~eye].max(initial=0) or 1)
    cmap = _from_background(cmap, ax)
    im = ax.imshow(np.ma.masked_array(m, eye | (m == 0)), cmap=cmap, norm=norm, **kw)
    ax.grid(False)
    bar = ax.figure.colorbar(im, ax=ax, shrink=.8, aspect=25, pad=.02, label='off the diagonal')
    number = _number_format(m)
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: number(v)))
    bar.outline.set_visible(False)
    return im


def _from_background(cmap, ax):
    """The colormap whose low end is nearer to the background, without its palest part, which looks
    blank"""
    if isinstance(cmap, Colormap): return cmap
    cmap = mpl.colormaps[cmap]
    ends = _luminance(cmap([0., 1.])) - _luminance(np.array([to_rgb(ax.get_facecolor())]))
    if abs(ends[1]) < abs(ends[0]): cmap = cmap.reversed()
    return ListedColormap(cmap(np.linspace(.08, 1, 256)), name=cmap.name)


def _luminance(rgb): return np.asarray(rgb)[..., :3] @ [.299, .587, .114]


def _draw_ticks(ax, names):
    cell = _cell_points(ax, len(names))
    size = min(9., max(6., .8*cell))
    # Below 6 points no name can be read: rather name every second class, or every third
    step = math.ceil(1.1*size/cell)
    at = range(0, len(names), step)
    kw = dict(fontsize=size, **PLAIN)
    ax.set_yticks(at, [names[i] for i in at], **kw)
    if max(map(len, names))*.6*size > cell:
        steep = len(names) > 15
        kw |= dict(rotation=90 if steep else 45, va='center' if steep else 'top', ha='right',
                   rotation_mode='anchor')
    ax.set_xticks(at, [names[i] for i in at], **kw)
    for spine in ax.spines.values(): spine.set_visible(False)


def _cell_points(ax, n):
    """The approximate height of a cell in points: labels and the colour bar take their share of the
    figure"""
    w, h = ax.get_position().size*ax.figure.get_size_inches()
    return 72*min(w, h)/n


def _draw_numbers(ax, im, m, fmt, annotate):
    room = _cell_points(ax, len(m))/.68
    # A thousand classes are a million texts, which take minutes to lay out: check for room first
    if annotate is False or annotate is None and room < 5: return
    number = _number_format(m, fmt)
    texts = {(i, j): number(m[i, j]) for i, j in np.argwhere(m)}
    size = min(9., room/max(map(len, texts.values()), default=1))
    if annotate is None and size < 5: return
    dark = _luminance(im.cmap(im.norm(m))) < .5
    for (i, j), text in texts.items():
        colour = 'white' if dark[i, j] else 'black'
        if i == j: colour = mpl.rcParams['text.color']
        ax.text(j, i, text, ha='center', va='center', fontsize=max(size, 4), color=colour, **PLAIN)


def _number_format(m, fmt=None):
    "The function that writes a value of `m`"
    if fmt is not None:
        return lambda v: format(int(v) if v.is_integer() and fmt.endswith('d') else v, fmt)
    return _short_number if m.max() > 1 or (m == m.round()).all() else _percent


def _percent(v):
    if v >= .0995 or v == 0: return f'{v:.0%}'
    return f'{v:.1%}' if v >= .0005 else '<.1%'


def _short_number(v):
    "At most four characters below a quadrillion: 0.25, 9999, 12k, 1.2M"
    if v < 9999.5: return f'{v:.0f}' if v >= 99.95 or float(v).is_integer() else f'{v:.2g}'
    # .9995 of a power is rounded up to it: 999,600 is 1.0M, not 1000k
    power = min(int(math.log10(v*1.0005)//3), 5)
    v /= 1000**power
    return (f'{v:.1f}' if v < 9.95 and power > 1 else f'{v:.0f}') + 'kMBTQ'[power - 1]
