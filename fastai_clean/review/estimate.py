"What the decisions on some items say of all: how many labels are wrong, which, and when to stop"
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.optimize import isotonic_regression
from scipy.special import expit, logit

from .._rows import check_same_labels
from .._text import about, as_text, brief
from .curve import DRAWS, UNSURE, curve, said
from .sample import decided, drawn_of, fitted, ranked, strata_of, text_of

ENOUGH = 10  # Drawn decisions that are enough to form the curve; and those on a class
_ADVICE = "make it from decisions on this very data set"
SURE = .95  # With what probability the advised number is enough


class Count(NamedTuple):
    "A number of items and its 95 % interval"
    n: float
    low: float
    high: float


class Cut(NamedTuple):
    "Which items to flag, and what that is expected to give"
    n: int  # Number of flagged items
    precision: float  # Share of the flagged that are wrong
    recall: float  # Share of the wrong that are flagged
    f1: float
    label_quality: float  # Undecided items are flagged up to this label quality
    is_issue: pd.Series  # By id


class Estimate:
    """How many labels of an issue table are wrong, which ones, and when to stop reviewing, given
    decisions on some of them. `str` says it in words.

    P(wrong) is a falling curve of the rank, see `curve.curve`; the other labels are drawn from the
    curves that agree with the decisions.

    An interval that holds needs items that were not chosen by what they look like. Those that
    `sample` draws are not, nor are those of a reviewer who goes from the worst on and leaves none
    out: only they form the curve, and whether such an item is decided depends on its score alone.
    Other decisions, as those of a reviewer who looks at many items and decides on what is wrong,
    are known facts and no more. With fewer than ten drawn ones all form the curve, and the text
    says so: then it is right if they were chosen by their score alone.

    If nobody decided on what another decided on, decisions are taken to be right: of data with 1 %
    wrong labels, one reviewer who errs in 5 % of decisions makes 5 %. If two users did, how often
    they err, each on his own, is learned from how often they differ. Unsure decisions leave an item
    open, and make the rest less sure. Raises ValueError if no item has a decision.

    `items` is the number of items; `decided` of those with a decision; `sampled` of those of them
    that were drawn, or decided from the worst on; `carried` of those that an earlier round decided,
    which are known facts, too, since its wrong ones may be right now; `unsure` of those left open;
    `unused` of the decisions on other items or labels; `found` of the wrong labels among the
    decided. `wrong` is the number of wrong labels, the found ones included, `low` to `high` its 95
    % interval; `share`, `share_low` and `share_high` are the same as shares. `probs` is the
    probability by id that a label is wrong, worst first, 0 or 1 if that is known; `given` has the
    labels that it is about. Numbers of wrong labels are medians, except in `among_next`.

    >>> ids = [f'{i}.png' for i in range(200)]
    >>> issues = pd.DataFrame({'id': ids, 'given': 'cat', 'label_quality': np.arange(200)/200})
    >>> from fastai_clean.review.sample import sample
    >>> some = sample(issues, pd.DataFrame({'id': [], 'action': []}), 50)
    >>> actions = ['relabel' if ids.index(o) < 40 else 'keep' for o in some]
    >>> e = Estimate(issues, pd.DataFrame({'id': some, 'action': actions}))
    >>> e.low <= 40 <= e.high, e.decided
    (True, 50)
    """

    def __init__(self,
        issues: pd.DataFrame,  # Issue table: columns id, given, label_quality
        # Columns id and action, 'keep', 'relabel', 'delete' or 'unsure'; given, label and user if
        # there are any
        decisions: pd.DataFrame,
        seed: int = 0,  # That of `sample`
    ):
        said_of = decided(issues, decisions)
        known = said_of.known
        if not known.any():
            raise ValueError("decisions says of no item whether its label is right: decide on "
                             "those that session.sample() names first")

        rank, lot = ranked(issues, seed)
        drawn = known & drawn_of(rank, strata_of(rank, lot), known | said_of.unsure,
                                 said_of.carried)
        self._all = drawn.sum() < ENOUGH
        fits = known & ~said_of.carried if self._all else drawn
        rng = np.random.default_rng(0)
        z = fitted(rank, said_of, fits, rng)
        p = curve(z, rank.centre)
        known_p = _known(z, p, rank, said_of)
        known_wrong = rng.random(known_p.shape) < known_p
        p_open, p_unsure = _with_unsure(p, int(known.sum()), int(said_of.unsure.sum()), rng)
        beside = known & ~fits
        beside_wrong = rank.sums(beside & (said_of.wrong > said_of.right))
        undecided = rank.sums(~known & ~said_of.unsure)
        left = _draw_left(rng, p_open, undecided, rank.sums(beside), beside_wrong)
        # Means of the draws would not fall in every step, those of the curves do
        mean = np.where(rank.sums(beside) > 0, left.mean(0)/undecided.clip(1), p_open.mean(0))
        mean = isotonic_regression(mean, weights=undecided + 1e-9, increasing=False).x
        unsure = rank.sums(said_of.unsure).astype(int)
        left = left + rng.binomial(unsure, p_unsure)

        self._found = known_wrong.sum(1)
        # The undecided of each bin, from the worst on, and how many of them are wrong
        self._left = np.c_[np.zeros(DRAWS, int), left.cumsum(1)]
        self._ahead = np.r_[0, (undecided + unsure).cumsum()]
        total = self._found + self._left[:, -1]
        self.items = len(issues)
        self.decided = int(known.sum())
        self.sampled = int(drawn.sum())
        self.unsure = int(said_of.unsure.sum())
        self.carried = int((known & said_of.carried).sum())
        self.unused = said_of.unused
        self._checked = bool((said_of.wrong + said_of.right > 1).any())
        self.found = int((said_of.wrong > said_of.right).sum())
        self.wrong, self.low, self.high = _count(total)
        self.share, self.share_low, self.share_high = (o/self.items for o in _count(total))
        probs = np.interp(rank.x, rank.centre, mean)
        probs[known] = known_p.mean(0)
        index = pd.Index(text_of(issues), name='id', dtype=object)
        order = rank.order
        self.given = pd.Series([*issues['given']], index, dtype=object, name='given').iloc[order]
        self.probs = pd.Series(probs, index, name='p_wrong').iloc[order]
        self._known = known[order]
        self._quality = np.asarray(issues['label_quality'], float)[order]
        # Half of the draws are enough for a class
        self._of_classes = [*issues['given']], rank, said_of, fits, z[::2], p_open[::2]

    @cached_property
    def per_class(self) -> pd.DataFrame:
        """Columns class, items, decided, wrong, low, high, the last three for classes with ten
        decisions that form the curve, which may be better or worse than it"""
        return _per_class(*self._of_classes, np.random.default_rng(0))

    def __repr__(self):
        text = (f"about {about(self.wrong)} ({about(self.low)} to {about(self.high)}) of "
                f"{self.items:,} labels are wrong ({100*self.share:.1f} %); ")
        likely, sure = (about(o, up=True) for o in np.quantile(self._needed(), [.5, SURE]))
        if sure == '0': text += "95 % of them have been found"
        elif likely == '0': text += f"95 % of them are probably found, nearly surely {sure} later"
        else: text += f"95 % of them are in the next {sure} to review"
        if '0' != likely != sure: text += f", probably in the next {likely}"
        return f"{text}. {self._rests_on()}"

    def _rests_on(self):
        text = f"This rests on {_decisions(self.decided)}"
        if self.carried == self.decided:
            text += " of earlier rounds alone, which say nothing of the other items"
        elif self._all and self.sampled < self.decided - self.carried:
            text += (", which session.sample() did not draw: it is right if they were chosen by "
                     "their score, not by what they look like")
        elif self.sampled < self.decided:
            text += (f", {self.sampled} of them as session.sample() draws; the others are known "
                     "facts and no more")
        if not self._checked: text += "; no second reviewer checked any"
        if self.unsure: text += f"; {self.unsure} more are unsure, which widens the interval"
        if self.unused: text += f"; {_decisions(self.unused)} on other items or labels not used"
        return f"{text}."

    @property
    def advice(self) -> str:
        "When to stop, in a sentence"
        more = self.to_find()
        total = self._found + self._left[:, -1]
        left = _count(total - self._found - self._found_after(more.n))
        rest = int(self._ahead[-1] - more.n)
        missed = (f"about {about(left.n)} ({about(left.low)} to {about(left.high)}) wrong labels "
                  f"are left among {rest:,}")
        if more.n <= 0: text = f"you can stop: 95 % of the wrong labels have been found, {missed}"
        elif rest <= 0: text = f"review all {int(self._ahead[-1]):,} that are left for 95 % of them"
        else: text = f"review the {about(more.n, up=True)} worst, then stop: {missed} by then"
        if self.high > 2*max(self.low, 1):
            text += "; decide on more of session.sample() first, since the interval is wide"
        return f"{text[0].upper()}{text[1:]}."

    def cut(self,
        precision: float | None = None,  # Flag as many as have at least this precision
        recall: float | None = None,  # Flag as few as have at least this recall
    ) -> Cut:
        """Which items to flag: the cut of the largest expected F1, or of a wanted precision or
        recall, 0 to 1. What was found is flagged, what was kept is not. Raises ValueError for both,
        and for a precision that no item has."""
        if precision is not None and recall is not None:
            raise ValueError(f"precision is {precision} and recall is {recall}: pass one of them")
        for name, o in (('precision', precision), ('recall', recall)):
            if o is not None and not 0 < o <= 1:
                raise ValueError(f"{name} is {o}: pass a share above 0, at most 1")

        p = self.probs.to_numpy()
        order = np.argsort(-p, kind='stable')
        hits = p[order].cumsum()
        flagged = np.arange(1, len(p) + 1)
        shares = hits/flagged, hits/max(hits[-1], 1e-300)
        f1 = 2*hits/(flagged + hits[-1])
        # Sums of floats may miss what they are meant to reach
        if precision is not None: fits = np.flatnonzero(shares[0] >= precision - 1e-9)[-1:]
        elif recall is not None: fits = np.flatnonzero(shares[1] >= recall - 1e-9)[:1]
        else: fits = f1.argmax(keepdims=True)
        if not len(fits):
            raise ValueError(f"precision is {precision}, but even the worst label is wrong with a "
                             f"probability of {p.max():.2f} only: ask for less")
        k = int(fits[0])
        mask = np.zeros(len(p), bool)
        mask[order[:k + 1]] = True
        quality = self._quality[mask & ~self._known]
        return Cut(k + 1, float(shares[0][k]), float(shares[1][k]), float(f1[k]),
                   float(quality.max(initial=-np.inf)), pd.Series(mask, self.probs.index))

    def among_next(self,
        k: int = 100,  # Number of items
    ) -> Count:
        "How many labels are wrong among the next `k` to review, worst first; the mean"
        if k < 0: raise ValueError(f"k is {k}: pass a number of items")
        found = self._found_after(k)
        return _count(found)._replace(n=float(found.mean()))

    def to_find(self,
        share: float = .95,  # Share of all wrong labels, 0 to 1
    ) -> Count:
        """How many more to review, worst first, until `share` of all wrong labels is found: `n` are
        enough with a probability of 95 %; `low` and `high` end the 95 % interval of how many it
        takes."""
        if not 0 < share <= 1: raise ValueError(f"share is {share}: pass one above 0, at most 1")
        low, n, high = np.ceil(np.quantile(self._needed(share), [.025, SURE, .975]))
        return Count(n, low, high)

    def curve(self,
        n: int = 200,  # Number of rows, at most
    ) -> pd.DataFrame:
        """`found`, how many wrong labels are known after `reviewed` more, worst first: the median,
        and `low` to `high`, the 95 % interval"""
        k = np.unique(np.linspace(0, self._ahead[-1], n).round().astype(int))
        found = np.array([[*_count(self._found + self._found_after(o))] for o in k])
        return pd.DataFrame({'reviewed': k, 'found': found[:, 0], 'low': found[:, 1],
                             'high': found[:, 2]})

    def flagged(self,
        ids: Sequence,  # Ids (n,) of a table's items
        given: Sequence,  # Their given labels (n,)
    ) -> np.ndarray:  # Booleans (n,)
        """The items that `cut` flags. Raises ValueError for items that it does not know, and for
        other given labels"""
        mask = self.cut().is_issue
        texts = [as_text(o) for o in ids]
        at = mask.index.get_indexer(pd.Index(texts, dtype=object))
        if (lost := at < 0).any():
            raise ValueError(f"the estimate lacks {lost.sum()} of the {len(at)} items, first "
                             f"{brief(texts[lost.argmax()])}: {_ADVICE}")
        check_same_labels(texts, [*given], [*self.given.iloc[at]], 'the estimate', 'the data set',
                          _ADVICE)
        return mask.to_numpy()[at]

    def _needed(self, share=.95):
        "How many it takes to find `share` of all wrong labels, in each draw"
        wanted = np.ceil(share*(self._found + self._left[:, -1]) - 1e-9) - self._found
        need = np.zeros(DRAWS)
        for i in np.flatnonzero(wanted > 0):
            # Where the wrong ones of a bin lie in it is not known: evenly
            b = np.searchsorted(self._left[i], wanted[i])
            part = (wanted[i] - self._left[i, b - 1])/(self._left[i, b] - self._left[i, b - 1])
            need[i] = self._ahead[b - 1] + part*(self._ahead[b] - self._ahead[b - 1])
        return need

    def _found_after(self, k):
        "Number of wrong labels among the next `k`, in each draw"
        b = int(np.searchsorted(self._ahead, k, side='right'))
        if b >= len(self._ahead): return self._left[:, -1]
        part = (k - self._ahead[b - 1])/(self._ahead[b] - self._ahead[b - 1])
        return np.round((1 - part)*self._left[:, b - 1] + part*self._left[:, b])


def _known(z, p, rank, said_of) -> np.ndarray:  # (DRAWS, m)
    "Probability that the label of each decided item is wrong: 0 or 1 if reviewers do not err"
    known = said_of.known
    if_wrong, if_right = said(z, said_of.wrong[known], said_of.right[known])
    at = p[:, rank.bin[known]]
    odds = at*if_wrong
    return odds/(odds + (1 - at)*if_right)


def _with_unsure(p, known, unsure, rng):
    """P(wrong) of undecided and of unsure items, (DRAWS, k) each. How the unsure ones differ from
    the decided nobody can say: their log-odds may be shifted, by another number in each draw"""
    if not unsure: return p, p
    shift = rng.normal(0, UNSURE, (DRAWS, 1))
    p_unsure = expit(logit(p) + shift)
    # So are those that a reviewer would be unsure about
    share = rng.beta(.5 + unsure, .5 + known, (DRAWS, 1))
    return (1 - share)*p + share*p_unsure, p_unsure


def _draw_left(rng, p, undecided, beside, beside_wrong) -> np.ndarray:  # (DRAWS, k)
    """How many of the undecided of each bin are wrong. If decided items were chosen by what they
    look like, those that were not chosen differ, but all that were not drawn do not: so many of
    them are wrong, and those that were found are no longer there"""
    both = rng.binomial((undecided + beside).astype(int), p)
    if not beside.any(): return both
    left = np.zeros(both.shape, int)
    missing = np.zeros(len(both), int)
    for k, n in enumerate(undecided.astype(int)):
        # What more was found in a bin than was to be expected is missing in the next
        wrong = both[:, k] - int(beside_wrong[k]) - missing
        left[:, k] = wrong.clip(0, n)
        missing = (-wrong).clip(0)
    return left


def _per_class(given, rank, said_of, fits, z, p, rng) -> pd.DataFrame:
    "The log-odds of each class may be shifted by a number of its own"
    classes = pd.Series(given, dtype=object)
    number, _ = pd.factorize(classes.map(as_text), sort=True)
    shifts = np.linspace(-3, 3, 25)
    rows = []
    log_odds = logit(p)
    for k in range(number.max() + 1):
        mine = number == k
        seen = mine & fits
        res = Count(np.nan, np.nan, np.nan)
        if seen.sum() >= ENOUGH:
            at = log_odds[:, rank.bin[seen]]
            if_wrong, if_right = said(z, said_of.wrong[seen], said_of.right[seen])
            fit = np.empty((len(z), len(shifts)))
            for j, shift in enumerate(shifts):
                q = expit(at + shift)
                fit[:, j] = np.log(q*if_wrong + (1 - q)*if_right).sum(1) - shift**2/2
            # The largest with a Gumbel number each is drawn by its probability
            drawn = shifts[(fit + rng.gumbel(size=fit.shape)).argmax(1)]
            left = rank.sums(mine & ~said_of.known).astype(int)
            wrong = rng.binomial(left, expit(log_odds + drawn[:, None])).sum(1)
            res = _count(wrong + (mine & (said_of.wrong > said_of.right)).sum())
        rows.append((classes[mine.argmax()], int(mine.sum()), int(seen.sum()), *res))
    names = ['class', 'items', 'decided', 'wrong', 'low', 'high']
    return pd.DataFrame(rows, columns=names)


def _count(draws):
    low, n, high = np.quantile(draws, [.025, .5, .975])
    return Count(float(n), float(low), float(high))


def _decisions(n): return f"{n:,} decision{'s'*(n != 1)}"
