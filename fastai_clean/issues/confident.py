"Confident learning on a table of any size: cleanlab's results, in one or two passes"
from collections.abc import Iterable, Sequence
from functools import cached_property
from multiprocessing.pool import ThreadPool
from typing import Any
from warnings import warn

import numpy as np
import pandas as pd
from scipy.special import xlogy

from . import channel as channels
from .checks import (
    as_probs,
    check_labels,
    check_options,
    check_rows,
    check_two_classes,
    float_of,
    lined_up,
    workers,
)
from .columns import check_choice
from .prune import lowest, prune_by_class, prune_by_noise_rate, prune_counts, round_rows

CLEANLAB = ('prune_by_noise_rate', 'prune_by_class', 'both', 'confident_learning',
            'predicted_neq_given', 'low_normalized_margin', 'low_self_confidence')
FILTERS = ('auto', *CLEANLAB)
SCORES = 'self_confidence', 'normalized_margin', 'confidence_weighted_entropy'
PRUNE = FILTERS[:4]  # Those that take all options of `find_issues`
EPS = 1e-6  # cleanlab's tolerance when it compares probabilities
CHUNK = 2**18  # Probabilities in a chunk: 1 MB, which stays in the cache of a processor


class StreamedIssues:
    """cleanlab's results for labels and probabilities of any size: a memory map is read in chunks
    and never copied whole.

    One pass over the probabilities checks them and keeps about 50 bytes per item; before it, the
    probability of each given label is read. From these come `thresholds`, `joint`, `predicted`,
    `confidence`, the scores and most filters. A second pass, over the pairs of classes that matter,
    makes the filters `prune_by_noise_rate` and `both`; one more makes the score
    `confidence_weighted_entropy`, unless `entropy` had the first pass make it. All results are
    those of cleanlab 2.9, except that the first of several equal items are flagged. Northcutt,
    Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR 2021.
    The filter `auto`, `noise_rate` and `error_probability` are our own, see `find_issues`; they
    read at most 10,000 items once more, and then all of them.
    Raises ValueError or TypeError as `check_labels_probs` does."""

    def __init__(self,
        labels: Any,  # Given labels: class indices (n,), or values of `vocab`
        pred_probs: Any,  # Probabilities (n, c), out-of-fold if trained on these labels
        *,
        vocab: Sequence | None = None,  # Names of the c classes; None: their indices
        entropy: bool = False,  # Whether the first pass also makes the entropy of every item
        chunk: int | None = None,  # Probabilities in a chunk; None: `CHUNK`
        n_jobs: int | None = 1,  # Threads; -1 or None: one per processor
    ):
        labels, pred_probs, vocab = lined_up(labels, pred_probs, vocab)
        self.vocab = vocab
        self.probs = as_probs(pred_probs)
        n, c = self.probs.shape
        self.labels = check_labels(labels, n, c, vocab)
        self.n_jobs = workers(n_jobs)
        self.counts = np.bincount(self.labels, minlength=c)
        # numpy sorts small integers by radix, much faster than those of 64 bits
        order = np.argsort(self.labels.astype(np.min_scalar_type(c)), kind='stable')
        self._groups = np.split(order, np.cumsum(self.counts)[:-1])
        # No chunk is a single row, unless the table is: numpy would add it up in another order
        starts = [*range(0, max(1, n - 1), max(2, (chunk or CHUNK)//c)), n]
        self._parts = [slice(i, j) for i, j in zip(starts, starts[1:])]
        self._beyond = False
        self._rates: dict[tuple, np.ndarray] = {}
        self._first_pass(entropy)

    def _first_pass(self, entropy):
        n, c = self.probs.shape
        dtype = float_of(self.probs.dtype)
        given = self.probs[np.arange(n), self.labels]
        self._given = given.astype(dtype, copy=False).clip(0, 1)
        self._other = np.empty(n, dtype)
        self._best = np.empty(n, np.int32)
        self._guess = np.empty(n, np.int32)
        self._entropy = np.empty(n, dtype) if entropy else None
        # No probability reaches 2, the threshold of a class without items
        means = [np.mean(self._given[idx]) if len(idx) else 2 for idx in self._groups]
        self._cut = np.clip(means, 2*EPS, None)

        clear = self._each(self._read, self._parts)
        unclear = [part for part, ok in zip(self._parts, clear) if not ok]
        if unclear:
            self._beyond = check_rows(self.probs)
            self._each(self._read, unclear)

    def _each(self, f, args):
        "The results of `f` for `args`, in order; computed in threads if there are several"
        if self.n_jobs == 1 or len(args) < 2: return [f(o) for o in args]
        # This pool gives a thread several calls at a time: one by one, short calls of numpy would
        # wait for each other
        with ThreadPool(self.n_jobs) as pool: return pool.map(f, args)

    def _read(self, part):
        "The first pass over one chunk; whether its rows clearly are probabilities"
        y = self.labels[part]
        at = np.arange(len(y))
        rows = self._values(part)
        p = np.array(rows, order='C')
        clear = p.min() >= 0 and np.abs(p@np.ones_like(p[0]) - 1).max() <= 5e-3
        given = p[at, y]
        p[at, y] = -1  # So that the argmax is the best of the other classes
        best = p.argmax(1)
        other = p[at, best]
        self._best[part] = best
        self._other[part] = other
        p[at, y] = self._given[part]
        self._guess[part] = _confident(p, self._cut - EPS, *self._top(part))
        if self._entropy is not None: self._entropy[part] = _entropy(rows)
        return clear and max(given.max(), other.max()) <= 1

    def _read_entropy(self, part): return _entropy(self._values(part))

    def _values(self, idx):
        "Probabilities at the index `idx`, as `check_labels_probs` returns them"
        p = self.probs[idx]
        p = p.astype(float_of(p.dtype), copy=False)
        return p.clip(0, 1) if self._beyond else p

    def checked(self) -> np.ndarray:
        """The probabilities (n, c) as `check_labels_probs` returns them: copied only if a value
        had to change"""
        return self._values(slice(None))

    def _ahead(self, given, part=slice(None)):
        "Whether the given label would be the argmax if it had the probabilities `given`"
        other = self._other[part]
        return (given > other) | ((given == other) & (self.labels[part] < self._best[part]))

    def _top(self, part=slice(None)):
        "Predicted classes and their probabilities"
        given = self._given[part]
        predicted = np.where(self._ahead(given, part), self.labels[part], self._best[part])
        return predicted, np.maximum(given, self._other[part])

    @property
    def thresholds(self) -> np.ndarray:
        "Confident learning's threshold of each class (c,), see `class_thresholds`"
        return np.where(self.counts > 0, self._cut.astype(float), np.nan)

    @property
    def predicted(self) -> np.ndarray:
        "Predicted class indices (n,)"
        return self._top()[0]

    @property
    def confidence(self) -> np.ndarray:
        "Probabilities of the predicted classes (n,), 0 to 1"
        return np.maximum(self._given, self._other)

    @cached_property
    def joint(self) -> np.ndarray:
        "The confident joint (c, c), see `confident_joint`"
        c = len(self.counts)
        known = self._guess >= 0
        pairs = self._guess[known].astype(np.int64)*c + self.labels[known]
        # Transposed, as cleanlab's is: the order in memory decides how numpy adds it up
        joint = np.bincount(pairs, minlength=c*c).reshape(c, c).T
        np.fill_diagonal(joint, joint.diagonal().clip(1))
        scaled = (joint.T/joint.sum(1)*self.counts).T
        return round_rows(scaled/scaled.sum()*len(self.labels))

    @cached_property
    def channel(self) -> channels.Channel:
        "The noise channel that explains the labels, see `channel.fit_channel`"
        idx = channels.sample(self.labels, self._given, self._other, len(self.counts))
        # The table at these indices is a copy
        return channels.fit_channel(self.labels[idx], channels.log_of(self._values(idx)))

    @cached_property
    def error_probability(self) -> np.ndarray:
        "How likely each given label is wrong (n,), by `channel`"
        def read(part):
            return channels.error_probability(self.channel, self.labels[part], self._values(part))
        # Before any thread asks for it
        self.channel  # noqa: B018
        return np.concatenate(self._each(read, self._parts))

    @property
    def noise_rate(self) -> float:
        "Estimated share of wrong labels, 0 to 1: the mean of `error_probability`"
        return float(self.error_probability.mean())

    def score(self,
        name: str = 'self_confidence',  # One of `SCORES`
    ) -> np.ndarray:  # (n,), 0 to 1, low if the label is likely wrong
        "cleanlab's label quality score `name`. Raises ValueError for an unknown one"
        check_choice('score', name, SCORES)
        if name == 'self_confidence': return self._given.copy()
        if name == 'normalized_margin': return (self._given - self._other + 1)/2
        if self._entropy is None:
            self._entropy = np.concatenate(self._each(self._read_entropy, self._parts))
        weighted = -self._entropy/np.log(len(self.counts))/self._given.clip(EPS)
        return np.log(weighted + 1)/weighted.clip(EPS)

    def mask(self,
        filter_by: str = 'auto',  # One of `FILTERS`
        frac_noise: float = 1.,  # Share of the estimated issues to flag
        num_to_remove_per_class: Sequence[int] | None = None,  # How many to flag of each class (c,)
        min_examples_per_class: int = 1,  # Classes with no more items than this are not flagged
    ) -> np.ndarray:  # Boolean mask (n,)
        """Which items are issues: by 'auto', see `find_issues`; by another filter those that
        cleanlab's `find_label_issues` flags, of equal ones the first. Raises ValueError for an
        unknown filter, labels of a single class, and options that do not fit."""
        check_choice('filter_by', filter_by, FILTERS)
        check_two_classes(self.labels)
        options = check_options(len(self.counts), frac_noise, num_to_remove_per_class,
                                min_examples_per_class, self.vocab)
        if filter_by not in PRUNE and num_to_remove_per_class is not None:
            raise ValueError(f"num_to_remove_per_class is for {', '.join(PRUNE)}, but filter_by is "
                             f"{filter_by!r}: leave it out or choose one of these")
        if filter_by not in PRUNE and frac_noise != 1:
            warn(f"frac_noise is {frac_noise}, but filter_by is {filter_by!r}, which ignores it: "
                 f"leave it out or choose one of {', '.join(PRUNE)}", stacklevel=2)

        # cleanlab flags no label whose probability is within EPS of the best one
        agrees = self._ahead(self._given + EPS)
        if filter_by == 'auto': return self._likely(agrees, **options)
        if filter_by in PRUNE: return self._pruned(filter_by, *options.values()) & ~agrees
        if filter_by == 'predicted_neq_given': return ~self._ahead(self._given) & ~agrees
        off = (self._guess >= 0) & (self._guess != self.labels) & ~agrees
        if filter_by == 'confident_learning': return off
        return lowest(self.score(filter_by.removeprefix('low_')), int(off.sum()))

    def _few(self, min_examples):
        "Classes with too few items to be flagged (c,), with a warning"
        few = (self.counts > 0) & (self.counts <= min_examples)
        if few.any():
            # One warning for all, whereas cleanlab gives one for each of thousands of classes
            warn(f"{few.sum()} of {len(few)} classes, first {few.argmax()}, have at most "
                 f"min_examples_per_class={min_examples}: their items are not flagged",
                 stacklevel=4)
        return few

    def _likely(self, agrees, frac_noise, num_to_remove_per_class, min_examples_per_class):
        "Items that are likely wrong, by `channel`; the options mean what they mean for cleanlab"
        likely = self.error_probability
        spared = agrees | self._few(min_examples_per_class)[self.labels]
        if num_to_remove_per_class is None:
            found = channels.likely_wrong(likely, spared)
            if frac_noise == 1: return found
            return lowest(np.where(found, -likely, 1), round(frac_noise*found.sum()))
        found = np.zeros(len(likely), dtype=bool)
        for idx, num in zip(self._groups, num_to_remove_per_class):
            idx = idx[~spared[idx]]
            found[idx] = lowest(-likely[idx], num)
        return found

    def _pruned(self, filter_by, frac_noise, num_to_remove, min_examples):
        self._few(min_examples)
        prune = prune_counts(self.joint, self.counts, frac_noise, num_to_remove, min_examples)
        if filter_by == 'prune_by_class':
            return prune_by_class(self._given, self._groups, prune, min_examples)

        key = frac_noise, None if num_to_remove is None else tuple(num_to_remove), min_examples
        if key not in self._rates:
            self._rates[key] = prune_by_noise_rate(self._values, self._given, self._other,
                                                   self._groups, prune, min_examples, self._each)
        if filter_by == 'prune_by_noise_rate': return self._rates[key]
        return self._rates[key] & prune_by_class(self._given, self._groups, prune, min_examples)

    def table(self,
        filters: str | Iterable[str] | None = FILTERS,  # Which of `FILTERS`; None: all
        scores: str | Iterable[str] | None = SCORES,  # Which of `SCORES`; None: all
        *,
        frac_noise: float = 1.,  # For the filters that prune, as is the next
        num_to_remove_per_class: Sequence[int] | None = None,  # How many to flag of each class (c,)
        min_examples_per_class: int = 1,  # Classes with no more items than this are not flagged
    ) -> pd.DataFrame:  # n rows in the order of the data set
        """The results of the filters and scores: a boolean column per filter, a column of
        0 to 1 per score. Raises ValueError as `mask` does."""
        filters = _chosen('filters', filters, FILTERS)
        scores = _chosen('scores', scores, SCORES)

        columns = {}
        for o in filters:
            prune = (frac_noise, num_to_remove_per_class) if o in PRUNE else (1., None)
            columns[o] = self.mask(o, *prune, min_examples_per_class)
        columns |= {o: self.score(o) for o in scores}
        return pd.DataFrame(columns, pd.RangeIndex(len(self.labels), name='position'))


def _entropy(p):
    "Sum of p log p of each row, added up in the order in which `p` lies in memory, as in cleanlab"
    return xlogy(p, p).sum(1)


def _confident(p, cut, predicted, top):
    "Class of each row of `p` that reaches its threshold, the predicted one if several do, or -1"
    sure = top >= cut[predicted]
    guess = np.where(sure, predicted, -1)
    rest = np.flatnonzero(~sure & (top >= cut.min()))
    row, column = np.nonzero(p[rest] >= cut)
    guess[rest[row]] = column
    several = rest[np.bincount(row, minlength=len(rest)) > 1]
    guess[several] = predicted[several]
    return guess


def _chosen(name, value, choices):
    "The names among `choices` that the user chose"
    if value is None: return list(choices)
    found = [value] if isinstance(value, str) or not np.iterable(value) else list(value)
    for o in found: check_choice(name, o, choices)
    return found


def predicted_classes(
    pred_probs: np.ndarray,  # Probabilities (n, c), or (n, c, ...)
) -> np.ndarray:  # (n,), or (n, ...)
    "`argmax` over the classes"
    # Chunk by chunk, since numpy's argmax copies a read-only array, such as a memory map, whole
    size = max(1, CHUNK//max(1, pred_probs[:1].size))
    parts = [pred_probs[i:i + size].argmax(1) for i in range(0, len(pred_probs), size)]
    return np.concatenate(parts)
