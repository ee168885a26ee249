"How labels went wrong: a noise channel fitted to the probabilities, and what is wrong by it"
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar

ITEMS = 10_000  # Items that the fit looks at
VALUES = 800_000  # Probabilities that it looks at
CHUNK = 2**14  # Probabilities in work at a time
PER_CLASS = 20  # Items per class that rates of pairs of classes need
EVEN = .75  # Share of the plain temperature that the temperature is at most
PAIRS = .5  # Share of it that the temperature is where errors are those of pairs of classes
SURE = 2.5  # Standard errors by which pairs of classes must explain held-out labels better
PRIOR = 1.  # Weight of an even error against a counted one
LEAST = .1  # Probability of an error below which nothing is flagged
TINY = 1e-6


class Channel(NamedTuple):
    """How likely an item's label came about. The item truly has the class probabilities
    softmax(log p / `temperature`); an item of class j was then labelled k with the probability
    `matrix[j, k]`, or if that is None, wrongly with the probability `rate` and as any other class
    alike. `plain` is the temperature if no label were wrong."""
    temperature: float
    rate: float
    matrix: np.ndarray | None
    plain: float


def fit_channel(
    labels: np.ndarray,  # Given class indices (n,), in the order of `sample`
    log_p: np.ndarray,  # Their `log_of` the probabilities (n, c)
) -> Channel:
    """The noise channel that explains the labels, in two steps.

    1. With errors that hit every other class alike, at a rate r: the temperature T and r of largest
       likelihood, P(y) = (1 - r) s_y + r/(c - 1) (1 - s_y), where s = softmax(log p / T). T0 is
       that for r = 0. People err where the model is unsure, too, and the likelihood takes their
       errors for its doubts: T is at most .75 T0 (.5 T0 for two classes), with the r that is
       likeliest then.
    2. Rates of their own for each pair of classes, by expectation maximization, shrunk towards the
       even ones by one even item per class: if, fitted to one half of the items, they explain the
       labels of the other half better, by more than 2.5 standard errors, errors are those of pairs,
       and T is .5 T0.

    One set of probabilities cannot tell a model that is rightly unsure from labels that are
    ambiguous: .75 and .5 are the compromise that lost little on the cases that `find_issues`
    names. Deterministic, and the same for any order of the items or classes."""
    c = log_p.shape[1]
    plain, even = _temperatures(labels, log_p)
    # Of two classes, errors are always those of a pair
    temperature = min(even, (EVEN if c > 2 else PAIRS)*plain)

    if len(labels) >= PER_CLASS*c and c > 2 and _come_in_pairs(labels, log_p, temperature):
        temperature = PAIRS*plain
        true = _softmax(log_p, temperature)
        matrix = _pair_rates(labels, true)
        rate = 1 - np.average(np.diag(matrix), weights=true.sum(0, dtype=float))
        return Channel(temperature, float(rate), matrix, plain)
    rate = _even_rate(_own(labels, log_p, temperature), c)
    return Channel(temperature, rate, None, plain)


def error_probability(
    channel: Channel,
    labels: np.ndarray,  # Given class indices (n,)
    probs: np.ndarray,  # Probabilities (n, c)
) -> np.ndarray:  # (n,), 0 to 1
    "How likely each given label is wrong, by Bayes' rule"
    log_p = log_of(probs.copy())
    if channel.matrix is None:
        own = _own(labels, log_p, channel.temperature)
        return _wrong_evenly(own, channel.rate, probs.shape[1])
    true = _softmax(log_p, channel.temperature)
    own = true[np.arange(len(labels)), labels]*channel.matrix[labels, labels]
    return 1 - own/_as_given(labels, true, channel.matrix)


def likely_wrong(
    probability: np.ndarray,  # Result of `error_probability` (n,)
    agrees: np.ndarray,  # Items that are not to be flagged (n,), booleans
) -> np.ndarray:  # Boolean mask (n,)
    """The items to flag: as many of the likeliest as have the largest expected F1, 2*S_m/(m + S),
    where S_m is the sum of their probabilities and S that of all, if at least one in ten is wrong
    at the cut"""
    likely = np.where(agrees, 0, probability)
    ranked = -np.sort(-likely)
    number = np.arange(1, len(ranked) + 1)
    last = ranked[(2*np.cumsum(ranked)/(number + ranked.sum())).argmax()]
    # Equal items come out a rounding error apart if the classes have another order
    return likely >= max(last*(1 - 1e-6), LEAST)


def sample(
    labels: np.ndarray,  # Given class indices (n,)
    given: np.ndarray,  # Probability of each given label (n,)
    other: np.ndarray,  # Highest probability of another class (n,)
    c: int,  # Number of classes
) -> np.ndarray:  # At most ITEMS positions, by class
    """Positions of the items that the fit looks at, in an order that does not depend on that of the
    items: all of them, or evenly from the likeliest right to the least"""
    margin = np.log(given.clip(TINY)) - np.log(other.clip(TINY))
    most = max(1, min(ITEMS, VALUES//c))
    chosen = np.arange(len(given))
    if len(given) > most:
        chosen = np.lexsort((given, margin))[((np.arange(most) + .5)*len(given)/most).astype(int)]
    return chosen[np.lexsort((given[chosen], margin[chosen], labels[chosen]))]


def log_of(
    probs: np.ndarray,  # Probabilities, which are overwritten if they are float32
) -> np.ndarray:  # float32
    "Their logarithms; of 0, that of one in a million"
    # In single precision, which halves the memory: probabilities say no more than that
    res = probs.astype(np.float32, copy=False)
    np.clip(res, TINY, None, out=res)
    return np.log(res, out=res)


def _temperatures(labels, log_p):
    "The temperatures of largest likelihood, without errors and with even ones"
    c = log_p.shape[1]

    def right(log_t): return -np.log(_own(labels, log_p, np.exp(log_t))).sum()

    def even(log_t):
        own = _own(labels, log_p, np.exp(log_t))
        rate = _even_rate(own, c)
        return -np.log((1 - rate)*own + rate/(c - 1)*(1 - own)).sum()

    plain = _least(right, np.log(.05), np.log(20))
    # A grid first, since this likelihood may have several maxima
    grid = plain + np.linspace(np.log(.1), np.log(1.1), 9)
    at = int(np.argmin([even(o) for o in grid]))
    log_t = _least(even, grid[max(at - 1, 0)], grid[min(at + 1, 8)])
    return float(np.exp(plain)), float(np.exp(log_t))


def _least(f, low, high):
    return minimize_scalar(f, bounds=(low, high), method='bounded', options=dict(xatol=.01)).x


def _softmax(log_p, temperature):
    # Not a numpy float, which would make the result double
    e = log_p/float(temperature)
    e -= e.max(1, keepdims=True)
    np.exp(e, out=e)
    e /= e.sum(1, keepdims=True)
    return e


def _own(labels, log_p, temperature):
    "Probability of the given class (n,), away from 0 and 1"
    own = np.empty(len(labels))
    rows = max(1, CHUNK//log_p.shape[1])
    for i in range(0, len(labels), rows):
        y = labels[i:i + rows]
        # In double precision, so that the likeliest temperature hangs on no order of summing up
        p = _softmax(log_p[i:i + rows].astype(float), temperature)
        own[i:i + rows] = p[np.arange(len(y)), y]
    return own.clip(1e-12, 1 - 1e-12)


def _even_rate(own, c):
    "Rate of errors that hit every other class alike, by expectation maximization"
    rate = .1
    for _ in range(100):
        before = rate
        rate = min(_wrong_evenly(own, rate, c).mean(), 1 - 1/c)
        if abs(rate - before) < 1e-6: break
    return float(rate)


def _wrong_evenly(own, rate, c):
    wrong = rate/(c - 1)*(1 - own)
    return wrong/((1 - rate)*own + wrong)


def _as_given(labels, true, matrix):
    "Probability of each given label (n,)"
    given = np.empty(len(labels))
    # One class at a time: the columns of all labels at once would be another table
    for k in np.unique(labels): given[labels == k] = true[labels == k] @ matrix[:, k]
    return given


def _pair_rates(labels, true):
    """Rates (c, c) of labels (columns) for true classes (rows), by expectation maximization; the
    labels are sorted"""
    n, c = true.shape
    edges = np.searchsorted(labels, np.arange(c + 1))
    matrix = _even_matrix(.1, c)
    for _ in range(20):
        counts = np.zeros((c, c))
        for k in range(c):
            joint = true[edges[k]:edges[k + 1]]*matrix[:, k]
            counts[:, k] = (joint/joint.sum(1, keepdims=True)).sum(0)
        rate = 1 - np.trace(counts)/n
        matrix = counts + PRIOR*c*_even_matrix(rate, c)
        matrix /= matrix.sum(1, keepdims=True)
    return matrix


def _even_matrix(rate, c):
    matrix = np.full((c, c), rate/(c - 1))
    np.fill_diagonal(matrix, 1 - rate)
    return matrix


def _come_in_pairs(labels, log_p, temperature):
    "Whether rates of pairs of classes explain labels that they were not fitted to better"
    n, c = log_p.shape
    true = _softmax(log_p, temperature)
    own = true[np.arange(n), labels].astype(float).clip(1e-12, 1 - 1e-12)
    gain = np.empty(n)
    # The items are ordered by class and margin: every second one halves them alike
    for test, fit in ((slice(0, n, 2), slice(1, n, 2)), (slice(1, n, 2), slice(0, n, 2))):
        rate = _even_rate(own[fit], c)
        even = (1 - rate)*own[test] + rate/(c - 1)*(1 - own[test])
        pairs = _as_given(labels[test], true[test], _pair_rates(labels[fit], true[fit]))
        gain[test] = np.log(pairs) - np.log(even)
    return gain.mean() > SURE*gain.std()/n**.5
