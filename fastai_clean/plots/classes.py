"How each class fares: its label quality scores, and how often its label is wrong"
import math
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter
from numpy.typing import ArrayLike

from ._names import PLAIN, class_names, first_classes, one_font_warning

Size = tuple[float, float]


@one_font_warning()
def plot_quality(
    quality: ArrayLike,  # Label quality scores (n,), 0 to 1, or any finite numbers
    given: ArrayLike,  # Class indices (n,) of the given labels
    is_issue: ArrayLike,  # Whether each item is an issue (n,)
    vocab: Sequence | None = None,  # Names of the c classes; None: their indices
    *,
    thresholds: ArrayLike | None = None,  # Confident learning's, of each class (c,); NaN: none
    max_classes: int | None = 12,  # Classes to show, those with most issues; None: all
    bins: int = 40,  # Bins from 0 to 1, or over the range of other scores
    ncols: int | None = None,  # Columns of the grid; None: as square as possible
    figsize: Size | None = None,  # Inches (width, height); None: by the grid
) -> np.ndarray:  # Axes, one per class shown, in the order of the classes
    """Histograms of the label quality scores of each given class, the issues at the bottom in a
    second colour.

    Counts are on a log scale if the highest bar would flatten the others. A dashed line is the
    class's threshold in confident learning, the mean probability of the class among the items given
    it: Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels",
    JAIR 2021. Raises ValueError for shapes or values that do not fit."""
    quality, given, is_issue = _check_scores(quality, given, is_issue)
    if bins < 1: raise ValueError(f"bins is {bins}: pass at least 1")
    if ncols is not None and ncols < 1:
        raise ValueError(f"ncols is {ncols}: draw at least 1 column")
    c = _number_of_classes(given, vocab, thresholds)
    means = np.full(c, np.nan) if thresholds is None else _class_values('thresholds', thresholds, c)
    names = class_names(vocab, c, 'given', 16)

    counts, edges = _histograms(quality, given, is_issue, c, bins)
    shown = np.sort(first_classes(counts[:, 1].sum(1), max_classes))
    fig, axs = _grid(len(shown), ncols, figsize)
    log = _flattens(counts[shown].sum(1))
    for ax, k in zip(axs, shown):
        _draw_histogram(ax, counts[k], edges, means[k], log)
        title = f'{names[k]}: {counts[k, 1].sum():,} issues of {counts[k].sum():,}'
        ax.set_title(title, fontsize=9, **PLAIN)
    fig.supylabel('items, log scale' if log else 'items', fontsize='medium')
    # One legend for all: not every class has a threshold, so no single panel has every entry
    by_label = {o.get_label(): o for ax in axs for o in ax.get_legend_handles_labels()[0]}
    fig.legend(handles=list(by_label.values()), loc='outside lower center', ncols=3, frameon=False,
               fontsize=9)
    if len(shown) < c:
        fig.suptitle(f'{len(shown)} of {c} classes, those with most issues', fontsize='medium')
    return axs


@one_font_warning()
def plot_class_health(
    noise: ArrayLike,  # P(true != k | given = k) of each class k (c,); NaN: not known
    inverse_noise: ArrayLike,  # P(given != k | true = k) of each class k (c,); NaN: not known
    vocab: Sequence | None = None,  # Names of the c classes; None: their indices
    *,
    counts: Sequence[int] | np.ndarray | None = None,  # Items of each class (c,), shown beside it
    max_classes: int | None = 25,  # Classes to show, those with most label noise; None: all
    figsize: Size | None = None,  # Inches (width, height) of a new figure; None: by the classes
    ax: Axes | None = None,  # Axes to draw on; None: a new figure
) -> Axes:
    """Bars of the share of each class's labels that are wrong, and of its true items labelled
    otherwise, worst first.

    The order is that of label noise, then inverse label noise, as in cleanlab's class rankings.
    Raises ValueError for shapes that do not fit or shares outside 0..1."""
    c = np.size(noise)
    wrong = _class_values('noise', noise, c)
    inverse = _class_values('inverse_noise', inverse_noise, c)
    names = class_names(vocab, c, 'noise')
    if counts is not None:
        if len(counts) != c:
            raise ValueError(f"counts has {len(counts)} entries for {c} classes: pass one for "
                             "each")
        names = [f'{o} ({int(k):,})' for o, k in zip(names, counts)]

    order = np.lexsort((-np.nan_to_num(inverse), -np.nan_to_num(wrong)))
    shown = order[first_classes(-np.arange(c), max_classes)]
    if ax is None:
        _, ax = plt.subplots(figsize=figsize or (7, .36*len(shown) + 1.3), layout='constrained')
    at = np.arange(len(shown))
    for shift, values, label in [
            (-.2, wrong, 'label noise: given this class, truly another'),
            (.2, inverse, 'inverse label noise: truly this class, given another')]:
        bars = ax.barh(at + shift, np.nan_to_num(values[shown]), .38, label=label)
        texts = ['' if np.isnan(v) else f'{v:.1%}' for v in values[shown]]
        ax.bar_label(bars, texts, padding=2, fontsize=7)
    ax.set_yticks(at, [names[k] for k in shown], fontsize=8, **PLAIN)
    ax.set_ylim(len(shown) - .5, -.5)
    longest = max(np.nan_to_num(o[shown]).max() for o in (wrong, inverse))
    ax.set_xlim(0, 1.12*max(longest, .005))
    ax.xaxis.set_major_formatter(PercentFormatter(1))
    ax.set_xlabel('estimated share of the items', fontsize=9)
    ax.tick_params(axis='x', labelsize=8)
    ax.legend(loc='lower center', bbox_to_anchor=(.5, 1), fontsize=8, frameon=False)
    if len(shown) < c:
        note = f'{len(shown)} of {c} classes, those with most label noise'
        ax.set_title(note, fontsize='medium', pad=34)
    return ax


def _check_scores(quality, given, is_issue):
    quality, given, is_issue = map(np.asarray, (quality, given, is_issue))
    for name, o in [('quality', quality), ('given', given), ('is_issue', is_issue)]:
        if o.ndim != 1 or len(o) != len(quality) or not len(o):
            raise ValueError(f"{name} has shape {o.shape}: pass one entry per item in each of "
                             "quality, given and is_issue")
    if given.dtype.kind not in 'iu' or given.min() < 0:
        raise ValueError(f"given has dtype {given.dtype}, least value {given.min()}: pass class "
                         "indices from 0")
    if is_issue.dtype != bool:
        raise ValueError(f"is_issue has dtype {is_issue.dtype}: pass booleans, True for an issue")
    bad = ~np.isfinite(quality)
    if bad.any():
        first = bad.argmax()
        raise ValueError(f"quality has {bad.sum()} values that are NaN or infinite, first "
                         f"{quality[first]} at position {first}: pass label quality scores")
    return quality, given.astype(np.int64, copy=False), is_issue


def _number_of_classes(given, vocab, thresholds):
    if vocab is not None: c = len(vocab)
    elif thresholds is not None: c = len(thresholds)
    else: c = int(given.max()) + 1
    if given.max() >= c:
        raise ValueError(f"given has the class {given.max()}, but there are {c} classes: name each "
                         "in vocab")
    return c


def _class_values(name, values, c):
    values = np.asarray(values, dtype=float)
    if values.shape != (c,) or not c:
        raise ValueError(f"{name} has shape {values.shape} for {c} classes: pass one value per "
                         "class")
    if ((values < 0) | (values > 1)).any():
        raise ValueError(f"{name} has values from {np.nanmin(values):.4g} to "
                         f"{np.nanmax(values):.4g}: pass shares between 0 and 1")
    return values


def _histograms(quality, given, is_issue, c, bins):
    "Counts (c, 2, bins) of each class's other items and issues, and the edges (bins + 1,)"
    edges = np.linspace(min(0, quality.min()), max(1, quality.max()), bins + 1)
    at = np.clip(np.searchsorted(edges, quality, side='right') - 1, 0, bins - 1)
    # All histograms in one pass: a call of np.histogram per class reads the n scores c times
    counts = np.bincount((given*2 + is_issue)*bins + at, minlength=c*2*bins)
    return counts.reshape(c, 2, bins), edges


def _grid(n, ncols, figsize):
    "A figure and the Axes (n,) of its n panels; the lowest of each column has the x axis' numbers"
    ncols = min(ncols or math.ceil(math.sqrt(n)), n)
    nrows = math.ceil(n/ncols)
    fig, axs = plt.subplots(nrows, ncols, squeeze=False, sharex=True, layout='constrained',
                            figsize=figsize or (max(3.2*ncols, 4.5), 2*nrows + .8))
    for ax in axs.flat[n:]: ax.axis('off')
    # The panels above an empty one are at the bottom too, which `sharex` does not know
    for ax in axs.flat[max(0, n - ncols):n]:
        ax.tick_params(labelbottom=True)
        ax.set_xlabel('label quality', fontsize=9)
    return fig, axs.flatten()[:n]


def _flattens(totals):
    "Whether the highest bar would leave half of the others under a thirtieth of its height"
    return bool(totals.any()) and totals.max() > 30*np.median(totals[totals > 0])


def _draw_histogram(ax, counts, edges, threshold, log):
    rest, issues = counts
    ax.stairs(issues + rest, edges, baseline=issues, fill=True, color='C0', label='other items')
    ax.stairs(issues, edges, fill=True, color='C1', label='issues')
    if not np.isnan(threshold):
        colour = plt.rcParams['text.color']
        ax.axvline(threshold, ls='--', lw=1.2, color=colour, label='mean of the class')
    ax.set_xlim(edges[0], edges[-1])
    if log:
        ax.set_yscale('log', nonpositive='clip')
        # A bar of 1 ends at 1, which would be the bottom of the axis: it would be invisible
        ax.set_ylim(bottom=.7)
    ax.tick_params(labelsize=8)
