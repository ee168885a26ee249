"The pictures of a CleanInterpretation"
from warnings import warn

import numpy as np

from ..data.show import show_item, show_masks
from ..issues import class_thresholds, noise_matrix
from ..plots import plot_class_health, plot_items, plot_matrix, plot_quality, shorten


class Pictures:
    "Part of CleanInterpretation: each picture returns its Axes and reuses the one inference"

    def shown(self,
        i,  # Position in the data set
    ):
        "Item `i` as an array (h, w[, 3]), a text, or `Unreadable`; masks are put beside their image"
        if self.task == 'segmentation': return show_masks(self.dl, i, self.given[i], self.predicted[i])
        return show_item(self.dl.dataset, i)

    def plot_noisy(self,
        k=9,  # Number of items
        **kwargs,  # Passed to `plot_items`: ncols, figsize
    ) -> np.ndarray:  # Axes, one an item
        """Show the `k` likeliest label issues, fewer where fewer were found, with given and predicted label, the
        prediction's confidence, the given label's quality and the item's position (#). An item that cannot be
        loaded is shown as a placeholder with the reason. Warns where no issue was found; k < 1 raises ValueError."""
        if k < 1: raise ValueError(f"k is {k}: show at least 1 item")
        rows = self.issues[self.issues.is_issue].head(k)
        if not len(rows):
            warn("no label issues were found: there is nothing to show; `issues` ranks all items", stacklevel=2)
            return np.empty(0, dtype=object)
        if self.task == 'segmentation': kwargs = {'ncols': min(2, len(rows)), 'figsize': (9, 2 + 2*len(rows)), **kwargs}
        return plot_items([self.shown(i) for i in rows.index], [_title(o) for o in rows.itertuples()], **kwargs)

    def plot_confident_joint(self,
        **kwargs,  # Passed to `plot_matrix`: max_classes, figsize, ax, ...
    ):  # Axes
        "Estimated counts of items by given and likely true class; off the diagonal are the label errors"
        self._needs_classes('plot_confident_joint')
        return plot_matrix(self.joint, list(self.vocab), **{'title': 'Confident joint (items)', 'xlabel': 'likely true',
                                                            'ylabel': 'given', **kwargs})

    def plot_noise_matrix(self,
        **kwargs,  # Passed to `plot_matrix`: max_classes, figsize, ax, ...
    ):  # Axes
        "Estimated probability of each given label (row) of the items that are truly of a class (column)"
        self._needs_classes('plot_noise_matrix')
        return plot_matrix(noise_matrix(self.given, joint=self.joint), list(self.vocab), **{
            'title': 'Noise matrix P(given | true)', 'xlabel': 'true', 'ylabel': 'given', **kwargs})

    def plot_confusion_matrix(self,
        normalize=False,  # Whether to show shares of each given class
        title='Confusion matrix',  # Title
        cmap='Blues',  # Colormap
        norm_dec=2,  # Decimals of the shares
        plot_txt=True,  # Whether to write the numbers
        **kwargs,  # Passed to `plot_matrix`: max_classes, figsize, ax, ...
    ):  # Axes
        "fastai's confusion matrix, from the one inference: given class (row) and predicted class (column)"
        self._needs_classes('plot_confusion_matrix')
        matrix = self.confusion_matrix()
        if normalize: matrix = matrix/matrix.sum(1, keepdims=True).clip(1)
        return plot_matrix(matrix, list(self.vocab), title=title, cmap=cmap, xlabel='predicted', ylabel='given',
                           fmt=f'.{norm_dec}f' if normalize else None, annotate=None if plot_txt else False, **kwargs)

    def plot_quality(self,
        **kwargs,  # Passed to `plot_quality` of `plots`: max_classes, bins, ncols, figsize
    ) -> np.ndarray:  # Axes, one a class
        """Histograms of the label quality by given class, issues apart; one of all items where an item has not just one
        class. Where the score is self-confidence, a line marks the class's mean, which confident learning takes as the
        threshold of belonging to the class."""
        table = self.issues.sort_index()
        if self.task != 'classification':
            return plot_quality(table.label_quality.to_numpy(), np.zeros(len(table), dtype=int),
                                table.is_issue.to_numpy(), ['all items'], **kwargs)
        own = self.probs[np.arange(len(self.given)), self.given]
        thresholds = class_thresholds(self.given, self.probs) if np.array_equal(table.label_quality, own) else None
        return plot_quality(table.label_quality.to_numpy(), self.given, table.is_issue.to_numpy(), list(self.vocab),
                            thresholds=thresholds, **kwargs)

    def plot_class_health(self,
        **kwargs,  # Passed to `plot_class_health` of `plots`: max_classes, figsize, ax
    ):  # Axes
        "Estimated label noise and inverse label noise of the classes, the worst first"
        self._needs_classes('plot_class_health')
        df = self.health()
        return plot_class_health(df.label_noise.to_numpy(), df.inverse_label_noise.to_numpy(), list(df.index),
                                 counts=df['items'].to_numpy(), **kwargs)


def _title(o):
    "Two lines on a row of an issue table, whatever its task"
    given, predicted = (shorten(_name(x), 18 if isinstance(x, tuple) else 14) for x in (o.given, o.predicted))
    if hasattr(o, 'residual'): second = f'off by {o.residual:.3g}'
    elif hasattr(o, 'worst_class'): second = f'worst {shorten(o.worst_class)}'
    elif hasattr(o, 'issue_pixels'): second = f'flagged pixels {o.issue_pixels:.1%}'
    else: second = f'conf {o.confidence:.2f}'
    return f'given {given} → predicted {predicted}\n{second}  quality {o.label_quality:.3f}  #{o.Index}'


def _name(x):
    if isinstance(x, tuple): return '; '.join(map(_name, x)) or 'nothing'
    return f'{x:.4g}' if isinstance(x, float) else str(x)
