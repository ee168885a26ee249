"The filters that prune: how many items of each class pair to flag, and which"
from collections.abc import Callable, Sequence

import numpy as np

BLOCK = 2**22  # Probabilities of one class held at a time


def prune_counts(
    joint: np.ndarray,  # `confident_joint` (c, c)
    counts: np.ndarray,  # Items of each given class (c,)
    frac_noise: float,  # Share of the estimated issues to flag
    num_to_remove: Sequence[int] | None,  # How many to flag of each class (c,), or None
    min_examples: int,  # Items that each class keeps
) -> np.ndarray:  # (c, c) integers, row: likely true label, column: given label
    """How many items of each pair to flag, and on the diagonal to keep, as cleanlab's
    `find_label_issues` counts them.

    If fewer than `min_examples` of a class would be kept, its pairs give up the difference evenly.
    Then every pair gives up the share `1 - frac_noise`."""
    prune = joint.T
    keep = np.maximum(prune.diagonal(), min_examples)
    pairs = np.maximum(np.count_nonzero(prune, axis=0) - 1., 1.)
    prune = prune - (keep - prune.diagonal())/pairs
    prune[prune < 0] = 0
    np.fill_diagonal(prune, keep)
    less = prune*frac_noise
    np.fill_diagonal(less, keep)
    np.fill_diagonal(less, keep + (prune - less).sum(0))
    # In C order, as in cleanlab: the order decides how numpy adds up the rows below
    prune = less.astype(int, order='C')
    if num_to_remove is None: return prune

    # A class without estimated errors divides 0 by 0: none of its items is flagged
    with np.errstate(divide='ignore', invalid='ignore'):
        share = prune/prune.sum(1)
        wrong = share.sum(1) - share.diagonal()
        wanted = np.nan_to_num((share.T*num_to_remove/wrong).T)
    np.fill_diagonal(wanted, counts - num_to_remove)
    return round_rows(wanted)


def round_rows(
    x: np.ndarray,  # Numbers (m, n)
) -> np.ndarray:  # Integers (m, n)
    """`x` rounded so that the rows keep their rounded totals: cleanlab's
    `round_preserving_row_totals`, which takes most of the time of a small table"""
    # In C order numpy adds up a row as it adds up that row alone, as cleanlab does
    x = np.ascontiguousarray(x)
    res = x.round()
    total = x.sum(1).round()
    for i in np.flatnonzero(res.sum(1) != total):
        while off := int(total[i] - res[i].sum()):
            # Not a stable sort, as in cleanlab: equal remainders must be rounded as it rounds them
            order = np.argsort(x[i] - res[i])
            res[i, order[:-off] if off < 0 else order[::-1][:off]] += np.sign(off)
    return res.astype(int)


def lowest(
    values: np.ndarray,  # Numbers (n,)
    num: int,  # How many
) -> np.ndarray:  # Boolean mask (n,)
    "The `num` lowest of `values`; of equal ones, the first"
    mask = np.zeros(len(values), dtype=bool)
    if num > 0: mask[np.argsort(values, kind='stable')[:num]] = True
    return mask


def prune_by_class(
    given: np.ndarray,  # Probability of the given label (n,)
    groups: Sequence[np.ndarray],  # Positions of the items of each class, in their order
    prune: np.ndarray,  # Result of `prune_counts`
    min_examples: int,  # Classes with no more items than this are not flagged
) -> np.ndarray:  # Boolean mask (n,)
    "The items of each class that are least likely to be of it"
    found = np.zeros(len(given), dtype=bool)
    for k, idx in enumerate(groups):
        if len(idx) > max(min_examples, 1):
            found[idx] = lowest(given[idx], len(idx) - prune[k, k])
    return found


def prune_by_noise_rate(
    values: Callable,  # Function from an index of the table (n, c) to the probabilities there
    given: np.ndarray,  # Probability of the given label (n,)
    other: np.ndarray,  # Highest probability of another class (n,)
    groups: Sequence[np.ndarray],  # Positions of the items of each class, in their order
    prune: np.ndarray,  # Result of `prune_counts`
    min_examples: int,  # Classes with no more items than this are not flagged
    each: Callable = map,  # Calls a function with every class, maybe in threads
) -> np.ndarray:  # Boolean mask (n,)
    """For each pair of classes, the items whose probability of the other class exceeds that of
    their own by most. Class by class, at most `BLOCK` probabilities at a time and thread."""
    found = np.zeros(len(given), dtype=bool)

    def prune_class(k):
        idx = groups[k]
        pairs = np.flatnonzero(prune[:, k] > 0)
        # First only items that another class fits at least as well as their own. They rank before
        # all others, so a pair that finds enough of them need not read the others
        short = flag(k, idx[given[idx] <= other[idx]], pairs[pairs != k], 0)
        flag(k, idx, short, np.inf)

    def flag(k, rows, pairs, limit):
        "Flag items among `rows` for pairs with enough of them up to `limit`; return the others"
        if not len(rows): return pairs
        short = [pairs[:0]]
        width = max(1, BLOCK//len(rows))
        for i in range(0, len(pairs), width):
            cols = pairs[i:i + width]
            less = given[rows] - values((rows[:, None], cols)).T
            low, last = _lowest_of_rows(less, prune[cols, k])
            enough = last <= limit
            found[rows[low[enough].any(0)]] = True
            short.append(cols[~enough])
        return np.concatenate(short)

    classes = [k for k, idx in enumerate(groups) if len(idx) > max(min_examples, 1)]
    for _ in each(prune_class, classes): pass
    return found


def _lowest_of_rows(values, nums):
    """A mask of the `nums[i]` lowest of each row i of `values` (m, n), the first of equal ones; and
    the highest value among them (m,), infinity if there are fewer"""
    at = np.minimum(nums, values.shape[1]) - 1
    last = np.sort(values)[np.arange(len(nums)), at]
    last[nums > values.shape[1]] = np.inf
    low = values <= last[:, None]
    for i in np.flatnonzero(np.count_nonzero(low, 1) > nums): low[i] = lowest(values[i], nums[i])
    return low, last
