"How each class fares: its label quality scores, and how often its label is wrong"
import math

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import PercentFormatter

from .names import PLAIN, class_names, first_classes


def plot_quality(
    quality,  # Label quality scores (n,), 0 to 1, or any finite numbers
    given,  # Class indices (n,) of the given labels
    is_issue,  # Whether each item is an issue (n,)
    vocab=None,  # Names of the c classes; None: their indices
    *,
    thresholds=None,  # Confident learning's threshold of each class (c,), NaN where a class has none
    max_classes=12,  # Number of classes to show, those with most issues; None: all
    bins=40,  # Bins from 0 to 1, or over the range of other scores
    ncols=None,  # Columns of the grid; None: as square as it gets
    figsize=None,  # Inches (width, height); None: by the grid
) -> np.ndarray:  # Axes, one a class shown, in the order of the classes
    """Histograms of the label quality scores of each given class, the issues at the bottom in a second colour.

    Counts are on a log scale where the highest bar would flatten the others. A dashed line is the class's threshold
    in confident learning, the mean probability of the class among items given it: Northcutt, Jiang and Chuang,
    "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR 2021. Raises ValueError for shapes or values
    that do not fit."""
    quality, given, is_issue = _check_scores(quality, given, is_issue)
    if bins < 1: raise ValueError(f"bins is {bins}: pass at least 1")
    if ncols is not None and ncols < 1: raise ValueError(f"ncols is {ncols}: draw at least 1 column")
    c = len(vocab) if vocab is not None else len(thresholds) if thresholds is not None else int(given.max()) + 1
    if given.max() >= c:
        raise ValueError(f"given has the class {given.max()}, but there are {c} classes: name each in vocab")
    if thresholds is not None: thresholds = _class_values('thresholds', thresholds, c)
    names = class_names(vocab, c, 'given', 16)
    edges = np.linspace(min(0, quality.min()), max(1, quality.max()), bins + 1)
    at = np.clip(np.searchsorted(edges, quality, side='right') - 1, 0, bins - 1)
    counts = np.bincount((given*2 + is_issue)*bins + at, minlength=c*2*bins).reshape(c, 2, bins)
    shown = np.sort(first_classes(counts[:, 1].sum(1), max_classes))
    ncols = min(ncols or math.ceil(math.sqrt(len(shown))), len(shown))
    nrows = math.ceil(len(shown)/ncols)
    fig, axs = plt.subplots(nrows, ncols, squeeze=False, sharex=True, layout='constrained',
                            figsize=figsize or (max(3.2*ncols, 4.5), 2*nrows + .8))
    for ax in axs.flat[len(shown):]: ax.axis('off')
    log = _flattens(counts[shown].sum(1))
    for ax, k in zip(axs.flat, shown):
        _draw_histogram(ax, counts[k], edges, None if thresholds is None else thresholds[k], log)
        ax.set_title(f'{names[k]}: {counts[k, 1].sum():,} issues of {counts[k].sum():,}', fontsize=9, **PLAIN)
    for ax in axs.flat[max(0, len(shown) - ncols):len(shown)]:
        ax.tick_params(labelbottom=True)
        ax.set_xlabel('label quality', fontsize=9)
    fig.supylabel('items, log scale' if log else 'items', fontsize='medium')
    by_label = {o.get_label(): o for ax in axs.flat for o in ax.get_legend_handles_labels()[0]}
    fig.legend(handles=list(by_label.values()), loc='outside lower center', ncols=3, frameon=False, fontsize=9)
    if len(shown) < c: fig.suptitle(f'{len(shown)} of {c} classes, those with most issues', fontsize='medium')
    return axs.flatten()[:len(shown)]


def plot_class_health(
    noise,  # P(true != k | given = k) of each class k (c,), NaN where it is not known
    inverse_noise,  # P(given != k | true = k) of each class k (c,), NaN where it is not known
    vocab=None,  # Names of the c classes; None: their indices
    *,
    counts=None,  # Items given each class (c,), written after its name
    max_classes=25,  # Number of classes to show, those with most label noise; None: all
    figsize=None,  # Inches (width, height) of a new figure; None: by the number of classes
    ax=None,  # Axes to draw on; None: a new figure
) -> plt.Axes:
    """Bars of the share of each class's labels that are wrong, and of its true items labelled otherwise, worst first.

    The order is that of label noise, then inverse label noise, as in cleanlab's class rankings. Raises ValueError for
    shapes that do not fit or shares outside 0..1."""
    noise = np.asarray(noise)
    c = len(noise) if noise.ndim else 0
    noise, inverse = _class_values('noise', noise, c), _class_values('inverse_noise', inverse_noise, c)
    names = class_names(vocab, c, 'noise')
    if counts is not None:
        if len(counts) != c: raise ValueError(f"counts has {len(counts)} entries for {c} classes: pass one a class")
        names = [f'{o} ({int(k):,})' for o, k in zip(names, counts)]
    order = np.lexsort((-np.nan_to_num(inverse), -np.nan_to_num(noise)))
    shown = order[first_classes(-np.arange(c), max_classes)]
    if ax is None:
        _, ax = plt.subplots(figsize=figsize or (7, .36*len(shown) + 1.3), layout='constrained')
    at = np.arange(len(shown))
    for shift, values, label in [(-.2, noise, 'label noise: given this class, truly another'),
                                 (.2, inverse, 'inverse label noise: truly this class, given another')]:
        bars = ax.barh(at + shift, np.nan_to_num(values[shown]), .38, label=label)
        ax.bar_label(bars, ['' if np.isnan(v) else f'{v:.1%}' for v in values[shown]], padding=2, fontsize=7)
    ax.set_yticks(at, [names[k] for k in shown], fontsize=8, **PLAIN)
    ax.set_ylim(len(shown) - .5, -.5)
    ax.set_xlim(0, 1.12*max(np.nan_to_num(noise[shown]).max(), np.nan_to_num(inverse[shown]).max(), .005))
    ax.xaxis.set_major_formatter(PercentFormatter(1))
    ax.set_xlabel('estimated share of the items', fontsize=9)
    ax.tick_params(axis='x', labelsize=8)
    ax.legend(loc='lower center', bbox_to_anchor=(.5, 1), fontsize=8, frameon=False)
    if len(shown) < c:
        ax.set_title(f'{len(shown)} of {c} classes, those with most label noise', fontsize='medium', pad=34)
    return ax


def _check_scores(quality, given, is_issue):
    quality, given, is_issue = map(np.asarray, (quality, given, is_issue))
    for name, o in [('quality', quality), ('given', given), ('is_issue', is_issue)]:
        if o.ndim != 1 or len(o) != len(quality) or not len(o):
            raise ValueError(f"{name} has shape {o.shape}: pass one entry an item in each of quality, given, is_issue")
    if given.dtype.kind not in 'iu' or given.min() < 0:
        raise ValueError(f"given has dtype {given.dtype}, least value {given.min()}: pass class indices from 0")
    if is_issue.dtype != bool:
        raise ValueError(f"is_issue has dtype {is_issue.dtype}: pass booleans, True for an issue")
    bad = ~np.isfinite(quality)
    if bad.any():
        raise ValueError(f"quality has {bad.sum()} values that are NaN or infinite, first {quality[bad.argmax()]} at "
                         f"position {bad.argmax()}: pass label quality scores")
    return quality, given.astype(np.int64, copy=False), is_issue


def _class_values(name, values, c):
    values = np.asarray(values, dtype=float)
    if values.shape != (c,) or not c:
        raise ValueError(f"{name} has shape {values.shape} for {c} classes: pass one value a class")
    if ((values < 0) | (values > 1)).any():
        raise ValueError(f"{name} has values from {np.nanmin(values):.4g} to {np.nanmax(values):.4g}: pass shares "
                         "between 0 and 1")
    return values


def _flattens(totals):
    "Whether the highest bar would leave half of the others under a thirtieth of its height"
    return bool(totals.any()) and totals.max() > 30*np.median(totals[totals > 0])


def _draw_histogram(ax, counts, edges, threshold, log):
    issues, rest = counts[1], counts[0]
    ax.stairs(issues + rest, edges, baseline=issues, fill=True, color='C0', label='other items')
    ax.stairs(issues, edges, fill=True, color='C1', label='issues')
    if threshold is not None and not np.isnan(threshold):
        ax.axvline(threshold, ls='--', lw=1.2, color=plt.rcParams['text.color'], label='mean of the class')
    ax.set_xlim(edges[0], edges[-1])
    if log: ax.set_yscale('log', nonpositive='clip')
    if log: ax.set_ylim(bottom=.7)
    ax.tick_params(labelsize=8)
