"cleanlab's filters that prune, from the counts of the confident joint and little of the probabilities at a time"
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from cleanlab.internal.util import round_preserving_row_totals

__all__ = ['BLOCK', 'each', 'lowest', 'prune_by_class', 'prune_by_noise_rate', 'prune_counts']

BLOCK = 2**22  # Probabilities of one class held at a time


def each(
    f,  # Function of one argument
    args,  # Its arguments, one a call
    n_jobs,  # Threads; numpy's work runs side by side
) -> list:  # What it gives for each
    "`f` of every argument, in their order"
    if n_jobs == 1: return [f(o) for o in args]
    with ThreadPoolExecutor(n_jobs) as pool: return list(pool.map(f, args))


def lowest(
    values,  # Numbers (n,)
    num,  # How many
) -> np.ndarray:  # At most `num` positions, in no order
    """The positions `np.argsort(values)[:num]`, in O(n) unless a tie crosses the boundary: which of the tied items the
    unstable sort takes, only the sort itself can tell."""
    if num <= 0 or num >= len(values): return np.arange(len(values) if num > 0 else 0)
    top = np.partition(values, num)
    last = top[:num].max()
    return np.argsort(values)[:num] if last == top[num] else np.flatnonzero(values <= last)


def prune_counts(
    joint,  # `confident_joint` (c, c)
    counts,  # Items of each given class (c,)
    frac_noise,  # Share of the estimated issues to flag
    num_to_remove,  # How many to flag of each class (c,), or None
    min_examples,  # Items that each class keeps
) -> np.ndarray:  # (c, c) integers, row: likely true label, column: given label
    """How many items of each pair to flag, and on the diagonal to keep, as cleanlab's `find_label_issues` has it.

    What a class is short of `min_examples` is taken evenly from its pairs, then `1 - frac_noise` of each pair."""
    prune = joint.T
    keep = np.maximum(prune.diagonal(), min_examples)
    prune = prune - (keep - prune.diagonal())/np.maximum(np.count_nonzero(prune, axis=0) - 1., 1.)
    prune[prune < 0] = 0
    np.fill_diagonal(prune, keep)
    less = prune*frac_noise
    np.fill_diagonal(less, keep)
    np.fill_diagonal(less, keep + (prune - less).sum(0))
    prune = less.astype(int, order='C')  # as cleanlab's is: sums of its rows depend on it
    if num_to_remove is None: return prune
    share = prune/prune.sum(1)
    wrong = share.sum(1) - share.diagonal()
    wanted = (share.T*num_to_remove/wrong).T
    np.fill_diagonal(wanted, counts - num_to_remove)
    return round_preserving_row_totals(wanted)


def prune_by_class(
    given,  # Probability of the given label (n,)
    groups,  # Positions of the items of each class, in their order
    prune,  # What `prune_counts` gives
    min_examples,  # Classes with no more items than this are not flagged
) -> np.ndarray:  # Boolean mask (n,)
    "The items of each class least likely to be of it"
    found = np.zeros(len(given), dtype=bool)
    for k, idx in enumerate(groups):
        if len(idx) > max(min_examples, 1): found[idx[lowest(given[idx], len(idx) - prune[k, k])]] = True
    return found


def prune_by_noise_rate(
    values,  # Function that gives the probabilities at an index of the table (n, c)
    given,  # Probability of the given label (n,)
    groups,  # Positions of the items of each class, in their order
    prune,  # What `prune_counts` gives
    min_examples,  # Classes with no more items than this are not flagged
    n_jobs=1,  # Threads
) -> np.ndarray:  # Boolean mask (n,)
    """For each pair of classes, the items whose probability of the other class exceeds that of their own by most.

    One pass over those of the probabilities that matter, class by class, at most `BLOCK` at a time and thread."""
    found = np.zeros(len(given), dtype=bool)

    def prune_one(k):
        idx, others = groups[k], np.flatnonzero(prune[:, k] > 0)
        others, width = others[others != k], max(1, BLOCK//len(idx))
        for i in range(0, len(others), width):
            cols = others[i:i + width]
            whole = len(cols) > len(prune)/20 and len(idx)*len(prune) <= BLOCK
            probs = values(idx)[:, cols] if whole else values((idx[:, None], cols))
            less = np.subtract(given[idx], probs.T, order='C')
            found[idx] |= _largest_margins(less, prune[cols, k])

    each(prune_one, [k for k, idx in enumerate(groups) if len(idx) > max(min_examples, 1)], n_jobs)
    return found


def _largest_margins(less, nums):
    "Which items are among the `nums[i]` lowest of any row i of `less` (m, n), as `np.argsort` of that row has it"
    found = np.zeros(less.shape[1], dtype=bool)
    if (nums >= less.shape[1]).any(): return ~found
    most = nums.max()
    top = np.sort(np.partition(less, most, axis=1)[:, :most + 1], axis=1)
    at = np.arange(len(nums))
    last = top[at, nums - 1]
    tied = last == top[at, nums]
    found |= (less[~tied] <= last[~tied, None]).any(0)
    for row, num in zip(less[tied], nums[tied]): found[np.argsort(row)[:num]] = True
    return found
