"The pictures of a CleanInterpretation: the public functions here are its methods"
from typing import TYPE_CHECKING
from warnings import warn

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap

from .. import issues, plots
from .._text import shorten
from ..data.show import show_item, show_masks
from . import reviewed
from .tables import confusion_matrix, flagged_of, health, need_classes

if TYPE_CHECKING:
    from ..review import ReviewSession
    from ..review.estimate import Estimate
    from .base import CleanInterpretation


def shown(
    interp: 'CleanInterpretation',
    i: int,  # Position in the data set
) -> np.ndarray | str:  # An image (h, w[, 3]) or a text
    "Item `i`, or `Unreadable` with the reason; masks stand beside their image"
    if interp.task == 'segmentation':
        return show_masks(interp.dl, i, interp.given[i], interp.predicted[i])
    return show_item(interp.dl.dataset, i)


def plot_noisy(
    interp: 'CleanInterpretation',
    k: int = 9,  # Number of items
    **kwargs,  # Passed to `plots.plot_items`: ncols, figsize
) -> np.ndarray:  # Axes, one per item
    """Show the `k` likeliest label issues, or all of them if there are fewer, with given and
    predicted label, the prediction's confidence, the given label's quality and the item's position
    (#).

    An item that cannot be loaded is shown as a placeholder with the reason. Warns if there is no
    issue. Raises ValueError if k < 1."""
    if k < 1: raise ValueError(f"k is {k}: show at least 1 item")

    rows = interp.issues[interp.issues.is_issue].head(k)
    if not len(rows):
        warn("no label issues were found: there is nothing to show; `issues` ranks all items",
             stacklevel=2)
        return np.empty(0, dtype=object)
    # Image and masks are one picture, three times as wide as an image
    if interp.task == 'segmentation':
        kwargs = {'ncols': min(2, len(rows)), 'figsize': (9, 2 + 2*len(rows)), **kwargs}
    titles = [_title(o) for o in rows.itertuples()]
    return plots.plot_items([interp.shown(i) for i in rows.index], titles, **kwargs)


def plot_confident_joint(
    interp: 'CleanInterpretation',
    **kwargs,  # Passed to `plots.plot_matrix`: max_classes, figsize, ax, ...
) -> Axes:
    """Estimated counts of items by given and likely true class; off the diagonal are the label
    errors. Raises TypeError unless items have one class."""
    need_classes(interp, 'plot_confident_joint')
    kwargs = {'title': 'Confident joint (items)', 'xlabel': 'likely true', **kwargs}
    return plots.plot_matrix(interp.joint, list(interp.vocab), **{'ylabel': 'given', **kwargs})


def plot_noise_matrix(
    interp: 'CleanInterpretation',
    **kwargs,  # Passed to `plots.plot_matrix`: max_classes, figsize, ax, ...
) -> Axes:
    """Estimated probability of each given label (row) among the items that are truly of a class
    (column). Raises TypeError unless items have one class."""
    need_classes(interp, 'plot_noise_matrix')
    kwargs = {'title': 'Noise matrix P(given | true)', 'xlabel': 'true', **kwargs}
    matrix = issues.noise_matrix(interp.given, joint=interp.joint)
    return plots.plot_matrix(matrix, list(interp.vocab), **{'ylabel': 'given', **kwargs})


def plot_confusion_matrix(
    interp: 'CleanInterpretation',
    normalize: bool = False,  # Whether to show shares of each given class
    title: str = 'Confusion matrix',  # Title
    cmap: str | Colormap = 'Blues',  # Colormap
    norm_dec: int = 2,  # Decimals of the shares
    plot_txt: bool = True,  # Whether to write the numbers
    **kwargs,  # Passed to `plots.plot_matrix`: max_classes, figsize, ax, ...
) -> Axes:
    """fastai's confusion matrix, from the one inference: given class (row) and predicted class
    (column). Raises TypeError unless items have one class."""
    need_classes(interp, 'plot_confusion_matrix')
    matrix = confusion_matrix(interp)
    if normalize: matrix = matrix/matrix.sum(1, keepdims=True).clip(1)
    return plots.plot_matrix(matrix, list(interp.vocab), title=title, cmap=cmap, xlabel='predicted',
                             ylabel='given', fmt=f'.{norm_dec}f' if normalize else None,
                             annotate=None if plot_txt else False, **kwargs)


def plot_quality(
    interp: 'CleanInterpretation',
    **kwargs,  # Passed to `plots.plot_quality`: max_classes, bins, ncols, figsize
) -> np.ndarray:  # Axes, one per class
    """Histograms of the label quality by given class, with the issues in another colour; a single
    one of all items if they do not have one class each. If the score is self-confidence, a line
    marks the class's mean, which confident learning takes as the threshold of belonging to it."""
    quality = interp.issues.label_quality.sort_index().to_numpy()
    flagged = flagged_of(interp)
    if interp.task != 'classification':
        one = np.zeros(len(quality), dtype=int)
        return plots.plot_quality(quality, one, flagged, ['all items'], **kwargs)

    # The threshold is a mean of self-confidence: under any other score its line would mean nothing
    own = interp.probs[np.arange(len(interp.given)), interp.given]
    if np.array_equal(quality, own):
        kwargs = {'thresholds': issues.class_thresholds(interp.given, interp.probs), **kwargs}
    return plots.plot_quality(quality, interp.given, flagged, list(interp.vocab), **kwargs)


def plot_class_health(
    interp: 'CleanInterpretation',
    **kwargs,  # Passed to `plots.plot_class_health`: max_classes, figsize, ax
) -> Axes:
    """Bars of the estimated label noise, and inverse label noise, of the classes, the worst first.
    Raises TypeError unless items have one class."""
    need_classes(interp, 'plot_class_health')
    df = health(interp)
    return plots.plot_class_health(df.label_noise.to_numpy(), df.inverse_label_noise.to_numpy(),
                                   list(df.index), counts=df['items'].to_numpy(), **kwargs)


def plot_estimate(
    interp: 'CleanInterpretation',
    estimate: 'Estimate | ReviewSession',  # From `estimate`, or the session to make it from
    **kwargs,  # Passed to `plots.plot_found`: figsize, ax
) -> Axes:
    """Wrong labels found against items to review, worst first, with the 95 % interval; how many
    there are, and after how many items 95 % of them are found. Raises as `estimate` does."""
    estimate = reviewed.as_estimate(interp, estimate)
    curve = estimate.curve()
    return plots.plot_found(
        curve.reviewed, curve.found, curve.low, curve.high,
        **{'total': (estimate.wrong, estimate.low, estimate.high), 'stop': estimate.to_find().n,
           **kwargs})


def _title(o):
    "Two lines on a row of an issue table, whatever its task"
    given, predicted = map(_short_name, (o.given, o.predicted))
    if hasattr(o, 'residual'): second = f'off by {o.residual:.3g}'
    elif hasattr(o, 'worst_class'): second = f'worst {shorten(o.worst_class)}'
    elif hasattr(o, 'issue_pixels'): second = f'flagged pixels {o.issue_pixels:.1%}'
    else: second = f'conf {o.confidence:.2f}'
    quality = f'quality {o.label_quality:.3f}'
    return f'given {given} → predicted {predicted}\n{second}  {quality}  #{o.Index}'


def _short_name(x): return shorten(_name(x), 18 if isinstance(x, tuple) else 14)


def _name(x):
    if isinstance(x, tuple): return '; '.join(map(_name, x)) or 'nothing'
    return f'{x:.4g}' if isinstance(x, float) else str(x)
