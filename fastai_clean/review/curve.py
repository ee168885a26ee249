"How likely a label is wrong at each place of the ranking, as far as some decisions tell"
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.special import expit, logit, logsumexp, xlogy
from scipy.stats import multivariate_normal, multivariate_t, rankdata

BINS = 150  # Bins of equal size, and as many whose size grows with the rank
DRAWS = 1000  # Curves that stand for all that are possible
# Mean and standard deviation, before anything is decided, of what a curve is made of: the log of
# its slope; the log-odds of the share of items above its middle; log10 of the share of the errors
# that lie anywhere, whatever the rank; the log-odds of the highest probability; the log of how much
# steeper it is below the middle than above. And of the log-odds that a reviewer errs
PRIOR = np.array([(1., .8), (-3., 2.), (-2., .8), (3., 2.), (0., .7), (-3.9, 1.)])
UNSURE = 1.5  # Standard deviation of what an unsure decision may do to the log-odds of an error


class Ranking(NamedTuple):
    "Items (n,) from the worst to the best, and the bins that they are in"
    order: np.ndarray  # Positions (n,), the worst first
    edges: np.ndarray  # Where bins begin and end in `order` (k + 1,)
    bin: np.ndarray  # The bin of each item (n,)
    x: np.ndarray  # Log-odds of the share of items that are worse (n,), the same for ties
    centre: np.ndarray  # Mean of `x` in each bin (k,)

    def sums(self,
        values: np.ndarray,  # One per item (n,), such as a mask
    ) -> np.ndarray:  # (k,)
        "The sum of `values` in each bin"
        return np.bincount(self.bin, values, len(self.centre))


def ranking(
    quality: np.ndarray,  # Label quality (n,), low if the label is likely wrong
    lot: np.ndarray,  # Random numbers (n,) that order items of the same quality
) -> Ranking:
    """Items by rank. A score of any kind and unit has ranks, those that are 0 or 1 too, and the
    log-odds of ranks are as good to fit on as those of scores: F1 within .002 over 22 cases."""
    n = len(quality)
    order = np.lexsort((lot, quality))
    x = logit((rankdata(quality) - .5)/n)
    # Fine among the worst, where the curve falls fast
    edges = np.r_[0, np.geomspace(1, n, BINS).round(), np.linspace(0, n, BINS).round()]
    edges = np.unique(edges.astype(int))
    bin = np.empty(n, int)
    bin[order] = np.repeat(np.arange(len(edges) - 1), np.diff(edges))
    return Ranking(order, edges, bin, x, np.bincount(bin, x)/np.diff(edges))


def curve(
    z: np.ndarray,  # Standard normal numbers (d, 5 or 6), one row per curve
    x: np.ndarray,  # Log-odds of ranks (k,)
) -> np.ndarray:  # P(wrong) (d, k), falling in `x`
    """Curves of the form f + (1 - f) c expit(a (s - x)), with another slope a on each side of the
    middle s. The highest value c is needed where classes are confused in pairs: there even the
    worst labels are right half of the time. The lowest, f, is for errors that no score sees."""
    mean, sd = PRIOR[:5].T
    log_slope, place, log_hidden, top, bend = (mean + sd*z[:, :5]).T[:, :, None]
    floor = 10**np.minimum(log_hidden, 0)*expit(place)/2
    slope = np.exp(np.where(x < place, log_slope - bend, log_slope))
    return floor + (1 - floor)*expit(top)*expit(slope*(place - x))


def said(
    z: np.ndarray,  # Standard normal numbers (d, 5 or 6)
    wrong: np.ndarray,  # How many reviewers call each item wrong (m,)
    right: np.ndarray,  # and how many right (m,)
) -> tuple[np.ndarray, np.ndarray]:  # Two of (d or 1, m)
    """Probability of these decisions if the label is wrong, and if it is right. Without a sixth
    number reviewers do not err"""
    if z.shape[1] < 6: return (right == 0)[None] + 0., (wrong == 0)[None] + 0.
    e = expit(PRIOR[5, 0] + PRIOR[5, 1]*z[:, 5:])
    likely = [np.exp(xlogy(a, 1 - e) + xlogy(b, e)) for a, b in ((wrong, right), (right, wrong))]
    return likely[0], likely[1]


def posterior(
    x: np.ndarray,  # Log-odds of the ranks of the decided items (m,)
    wrong: np.ndarray,  # How many reviewers call each wrong (m,)
    right: np.ndarray,  # and how many right (m,)
    rng: np.random.Generator,
    draws: int = DRAWS,
) -> np.ndarray:  # (draws, 5 or 6), for `curve` and `said`
    """Curves drawn by how well they agree with the decisions and with `PRIOR`, which was chosen on
    ten cases other than those of the benchmark. If two reviewers decided on the same items, it is
    also learned how often they err, independently of each other; one alone is taken at his word."""
    several = bool((wrong + right > 1).any())
    if not len(x): return rng.standard_normal((draws, 5))
    cells, counts = np.unique(np.stack([x, wrong, right]), axis=1, return_counts=True)

    def log_likelihood(z):
        p = curve(z, cells[0])
        if_wrong, if_right = said(z, cells[1], cells[2])
        return np.log(p*if_wrong + (1 - p)*if_right + 1e-300)@counts
    return _draw(log_likelihood, 5 + several, rng, draws)


def _draw(log_likelihood: Callable[[np.ndarray], np.ndarray], d: int, rng, draws) -> np.ndarray:
    """Adaptive importance sampling (Cappé et al., "Adaptive importance sampling in general mixture
    classes", 2008) under a standard normal prior"""
    n = 4*draws
    mean = np.zeros(d)
    cov = np.eye(d)
    prior = multivariate_normal(mean, cov)
    for _ in range(12):
        proposal = multivariate_t(mean, cov, df=6, seed=rng)
        z = np.atleast_2d(proposal.rvs(n))
        log_weight = prior.logpdf(z) + log_likelihood(z) - proposal.logpdf(z)
        # Many decisions leave a thousandth of the prior: go there in steps
        heat = 1.
        while _effective(heat*log_weight) < n/20: heat *= .7
        weight = np.exp(heat*log_weight - logsumexp(heat*log_weight))
        if heat == 1 and _effective(log_weight) > n/4: break
        mean = weight@z
        cov = np.cov(z.T, aweights=weight) + 1e-6*np.eye(d)
    return z[rng.choice(n, draws, p=weight)]


def _effective(log_weight):
    "How many draws of equal weight these are worth"
    return np.exp(2*logsumexp(log_weight) - logsumexp(2*log_weight))
