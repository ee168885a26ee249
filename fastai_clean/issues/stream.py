"Label issues of tables beyond memory: cleanlab's numbers, bit for bit, from one or two passes in chunks of rows"
from functools import cached_property
from math import prod
from warnings import warn

import numpy as np
from cleanlab.count import calibrate_confident_joint, estimate_latent
from scipy.special import xlogy

from .checks import as_probs, check_labels, check_rows, float_of
from .columns import check_choice
from .options import check_options, workers
from .stream_filters import each, lowest, prune_by_class, prune_by_noise_rate, prune_counts

FILTERS = ('prune_by_noise_rate', 'prune_by_class', 'both', 'confident_learning', 'predicted_neq_given',
           'low_normalized_margin', 'low_self_confidence')
SCORES = ('self_confidence', 'normalized_margin', 'confidence_weighted_entropy')
PRUNE = FILTERS[:3]  # Those that take all options of `find_issues`
LARGE = 10**8  # Probabilities from which on tables are streamed
EPS = 1e-6     # cleanlab's, as probabilities are compared
CHUNK = 2**20  # Probabilities in a chunk: with fewer threads wait for each other, more do not fit the cache


class StreamedIssues:
    """What cleanlab makes of labels and probabilities, without a copy of the probabilities, which may be a memory map.

    Made with one pass over the probabilities, chunk by chunk, that checks them and keeps some 50 bytes an item; before
    it those of the given labels are picked out, one an item. From these come `thresholds`, `joint`, `noise_matrix`,
    `predicted`, `confidence`, the scores and most filters. A second pass, over the pairs of classes that matter and
    once for the same options, makes the filters `prune_by_noise_rate` and `both`; where `entropy` did not have the
    first pass make it, one more makes the score `confidence_weighted_entropy`. All are identical to those of cleanlab
    2.9, ties included. Raises ValueError or TypeError as `check_labels_probs` does."""

    def __init__(self,
        labels,  # Given labels: class indices (n,), or values of `vocab`
        pred_probs,  # Probabilities (n, c), out-of-fold where the model was trained on these labels
        *,
        vocab=None,  # Names of the c classes; None: their indices
        entropy=False,  # Whether the first pass also makes what `confidence_weighted_entropy` needs
        chunk=None,  # Probabilities in a chunk; None: `CHUNK`
        n_jobs=None,  # Threads; None: one a processor
    ):
        self.probs = as_probs(pred_probs)
        self.labels = check_labels(labels, *self.probs.shape, vocab)
        n, c = self.probs.shape
        self.counts = np.bincount(self.labels, minlength=c)
        order = np.argsort(self.labels.astype(np.min_scalar_type(c)), kind='stable')
        self._groups = np.split(order, np.cumsum(self.counts)[:-1])
        self._parts, self._beyond, self._rates = self._chunks(chunk or CHUNK), False, {}
        self.n_jobs = workers(n_jobs)
        self._first_pass(entropy)

    def _first_pass(self, entropy):
        n, c = self.probs.shape
        dtype = float_of(self.probs.dtype)
        self._given = self.probs[np.arange(n), self.labels].astype(dtype, copy=False).clip(0, 1)
        self._other, self._best, self._guess = np.empty(n, dtype), np.empty(n, np.int32), np.empty(n, np.int32)
        self._entropy = np.empty(n, dtype) if entropy else None
        means = [np.mean(self._given[idx]) if len(idx) else 2 for idx in self._groups]  # 2, as cleanlab has it
        self._cut = np.clip(means, 2*EPS, None)
        unclear = [o for o, right in zip(self._parts, each(self._read, self._parts, self.n_jobs)) if not right]
        if unclear:
            self._beyond = check_rows(self.probs)
            each(self._read, unclear, self.n_jobs)

    def _read(self, part):
        "The first pass over one chunk; whether its rows clearly are probabilities"
        rows, at, y = self._values(part), np.arange(part.stop - part.start), self.labels[part]
        p = np.array(rows, order='C')
        right = p.min() >= 0 and np.abs(p@np.ones_like(p[0]) - 1).max() <= 5e-3
        given, p[at, y] = p[at, y], -1
        self._best[part] = best = p.argmax(1)
        self._other[part] = other = p[at, best]
        p[at, y] = self._given[part]
        self._guess[part] = _confident(p, self._cut - EPS, *self._top(part))
        if self._entropy is not None: self._entropy[part] = _entropy(rows, p)
        return right and max(given.max(), other.max()) <= 1

    def _chunks(self, size):
        "Slices of `size` probabilities; no last one of a single item, which numpy would add up in another order"
        n, c = self.probs.shape
        starts = [*range(0, max(1, n - 1), max(2, size//c)), n]
        return [slice(i, j) for i, j in zip(starts, starts[1:])]

    def _values(self, idx):
        "Probabilities at the index `idx`, as `check_labels_probs` gives them"
        p = self.probs[idx]
        p = p.astype(float_of(p.dtype), copy=False)
        return p.clip(0, 1) if self._beyond else p

    def checked(self):
        "The probabilities (n, c) as `check_labels_probs` gives them: copied whole only where a value had to change"
        return self._values(slice(None))

    def _ahead(self, given, part=slice(None)):
        "Where the given label is the argmax, had it the probabilities `given`"
        other, y, best = self._other[part], self.labels[part], self._best[part]
        return (given > other) | ((given == other) & (y < best))

    def _top(self, part=slice(None)):
        "Predicted classes and their probabilities"
        given = self._given[part]
        return (np.where(self._ahead(given, part), self.labels[part], self._best[part]),
                np.maximum(given, self._other[part]))

    @property
    def thresholds(self):
        "Confident learning's threshold of each class (c,), see `class_thresholds`"
        return np.where(self.counts > 0, self._cut.astype(float), np.nan)

    @property
    def predicted(self):
        "Predicted class indices (n,)"
        return self._top()[0]

    @property
    def confidence(self):
        "Probabilities of the predicted classes (n,), 0 to 1"
        return self._top()[1]

    @cached_property
    def joint(self):
        "The confident joint (c, c), see `confident_joint`"
        c, known = self.probs.shape[1], self._guess >= 0
        pairs = self._guess[known].astype(np.int64)*c + self.labels[known]
        joint = np.bincount(pairs, minlength=c*c).reshape(c, c).T
        np.fill_diagonal(joint, joint.diagonal().clip(1))
        return calibrate_confident_joint(joint, self.labels)

    @property
    def noise_matrix(self):
        "Estimated P(given label = row | true label = column) (c, c), see `noise_matrix`"
        return estimate_latent(self.joint, self.labels)[1]

    def score(self,
        name='self_confidence',  # One of `SCORES`
    ) -> np.ndarray:  # (n,), 0 to 1, low where the label is likely wrong
        "cleanlab's label quality score `name`; raises ValueError for an unknown one"
        check_choice('score', name, SCORES)
        if name == 'self_confidence': return self._given.copy()
        if name == 'normalized_margin': return (self._given - self._other + 1)/2
        if self._entropy is None:
            self._entropy = np.concatenate(each(lambda o: _entropy(self._values(o)), self._parts, self.n_jobs))
        weighted = -self._entropy/np.log(self.probs.shape[1])/self._given.clip(EPS)
        return np.log(weighted + 1)/weighted.clip(EPS)

    def mask(self,
        filter_by='prune_by_noise_rate',  # One of `FILTERS`
        frac_noise=1.,  # Share of the estimated issues to flag; it and those below as in `find_issues`
        num_to_remove_per_class=None,  # How many to flag of each class (c,), instead of the estimate
        min_examples_per_class=1,  # Classes with no more items than this are not flagged
    ) -> np.ndarray:  # Boolean mask (n,)
        """Which items cleanlab's `find_label_issues` flags. Raises ValueError for an unknown filter, labels of one
        class alone, and `num_to_remove_per_class` that does not fit."""
        check_choice('filter_by', filter_by, FILTERS)
        check_two_classes(self.labels)
        options = check_options(len(self.counts), frac_noise, num_to_remove_per_class, min_examples_per_class)
        agrees = self._ahead(self._given + EPS)
        off = (self._guess >= 0) & (self._guess != self.labels) & ~agrees
        if filter_by in PRUNE: return self._pruned(filter_by, *options.values()) & ~agrees
        if num_to_remove_per_class is not None:
            raise ValueError(f"num_to_remove_per_class is for {', '.join(PRUNE)}, but filter_by is "
                             f"{filter_by!r}: leave it out or choose one of these")
        if frac_noise != 1:
            warn(f"frac_noise is {frac_noise}, but filter_by is {filter_by!r}, which flags all: it is for "
                 f"{', '.join(PRUNE)}", stacklevel=2)
        if filter_by == 'confident_learning': return off
        if filter_by == 'predicted_neq_given': return ~self._ahead(self._given) & ~agrees
        mask = np.zeros(len(self.labels), dtype=bool)
        mask[lowest(self.score(filter_by[4:]), off.sum())] = True
        return mask

    def _pruned(self, filter_by, frac_noise, num_to_remove, min_examples):
        few = (self.counts > 0) & (self.counts <= min_examples)
        if few.any():
            warn(f"{few.sum()} classes, first {few.argmax()}, have no more items than min_examples_per_class="
                 f"{min_examples}: their items are not flagged", stacklevel=3)
        prune = prune_counts(self.joint, self.counts, frac_noise, num_to_remove, min_examples)
        if filter_by == 'prune_by_class': return prune_by_class(self._given, self._groups, prune, min_examples)
        key = frac_noise, None if num_to_remove is None else tuple(num_to_remove), min_examples
        if key not in self._rates:
            self._rates[key] = prune_by_noise_rate(self._values, self._given, self._other, self._groups, prune,
                                                   min_examples, self.n_jobs)
        if filter_by == 'prune_by_noise_rate': return self._rates[key]
        return self._rates[key] & prune_by_class(self._given, self._groups, prune, min_examples)

    def ranked(self,
        filter_by='prune_by_noise_rate',  # One of `FILTERS`
        score='self_confidence',  # One of `SCORES`
        **kwargs,  # Passed to `mask`
    ) -> np.ndarray:  # Positions of the flagged items
        "The flagged items, the likeliest wrong label first: `find_label_issues` with `return_indices_ranked_by`"
        found = np.flatnonzero(self.mask(filter_by, **kwargs))
        return found[np.argsort(self.score(score)[found])]


def _entropy(p, scratch=None):
    "Sum of p log p of each row, in the order in which numpy adds up an array of the layout of `p`"
    return xlogy(p, p, out=scratch if p.flags.c_contiguous else None).sum(1)


def _confident(p, cut, predicted, top):
    "Class of each row of `p` that reaches its threshold, the predicted one where several do, or -1"
    sure = top >= cut[predicted]
    guess = np.where(sure, predicted, -1)
    rest = np.flatnonzero(~sure & (top >= cut.min()))
    over = p[rest] >= cut
    at, first = np.arange(len(rest)), over.argmax(1)
    known = over[at, first]
    over[at, first] = False
    guess[rest] = np.where(known, np.where(over.any(1), predicted[rest], first), -1)
    return guess


def check_two_classes(
    labels,  # Class indices (n,)
):
    "Raise ValueError where all labels are the same, as confident learning needs two"
    if (labels == labels[0]).all():
        raise ValueError(f"labels has {labels[0]} alone: confident learning needs items of at least 2 given classes")


def predicted_classes(
    pred_probs,  # Probabilities (n, c)
) -> np.ndarray:  # (n,)
    "`argmax` of each row, chunk by chunk: numpy's own copies an array whole that is read-only, as a memory map is"
    step = max(1, CHUNK//pred_probs.shape[1])
    return np.concatenate([pred_probs[i:i + step].argmax(1) for i in range(0, len(pred_probs), step)])


def is_large(
    pred_probs,  # Probabilities (n, c)
) -> bool:
    "Whether the probabilities are so many that they are streamed; lists are in memory several times over anyway"
    return hasattr(pred_probs, 'shape') and prod(pred_probs.shape) >= LARGE
