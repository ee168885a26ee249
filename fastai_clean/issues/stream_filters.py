"cleanlab's filters that prune, from the counts of the confident joint and little of the probabilities at a time"
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from cleanlab.internal.util import round_preserving_row_totals
from fastcore.basics import chunked

BLOCK = 2**22  # Probabilities of one class held at a time
BLOCKS = 32  # Of the rows of one class, at least
BATCHES = 8  # Of the calls of one thread


def each(
    f,  # Function of one argument
    args,  # Its arguments, one a call
    n_jobs,  # Threads; numpy's work runs side by side
) -> list:  # What it gives for each
    "`f` of every argument, in their order; a thread takes several at a time, as the calls may be short"
    if n_jobs == 1: return [f(o) for o in args]
    batches = chunked(args, n_chunks=BATCHES*n_jobs)
    with ThreadPoolExecutor(n_jobs) as pool:
        return [o for some in pool.map(lambda batch: [f(o) for o in batch], batches) for o in some]


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
    other,  # Highest probability of another class (n,)
    groups,  # Positions of the items of each class, in their order
    prune,  # What `prune_counts` gives
    min_examples,  # Classes with no more items than this are not flagged
    n_jobs=1,  # Threads
) -> np.ndarray:  # Boolean mask (n,)
    """For each pair of classes, the items whose probability of the other class exceeds that of their own by most.

    Class by class, at most `BLOCK` probabilities at a time and thread. First those of items that another class fits
    better than their own: for a pair that has as many of them to flag, the rest need not be read."""
    found = np.zeros(len(given), dtype=bool)

    def prune_one(k):
        idx, pairs = groups[k], np.flatnonzero(prune[:, k] > 0)
        pairs = prune_pairs(k, idx[given[idx] <= other[idx]], pairs[pairs != k], 0)
        prune_pairs(k, idx, pairs, np.inf)

    def prune_pairs(k, rows, pairs, limit):
        "Flag the items among `rows` of those pairs of which no item beyond `limit` can be one; returns the others"
        if not len(rows): return pairs
        left, width = [pairs[:0]], max(1, BLOCK//len(rows))
        for i in range(0, len(pairs), width):
            cols = pairs[i:i + width]
            whole = len(cols) > len(prune)/20 and len(rows)*len(prune) <= BLOCK
            probs = values(rows).take(cols, 1) if whole else values((rows[:, None], cols))
            less = np.subtract(given[rows, None], probs, order='C')
            low, tied, beyond = _lowest_of_columns(less, prune[cols, k], limit)
            found[rows[low]] = True
            for j in cols[tied]:  # which of them the unstable sort takes, only the sort of all can tell
                idx = groups[k]
                found[idx[np.argsort(given[idx] - values((idx, j)))[:prune[j, k]]]] = True
            left.append(cols[beyond])
        return np.concatenate(left)

    each(prune_one, [k for k, idx in enumerate(groups) if len(idx) > max(min_examples, 1)], n_jobs)
    return found


def _lowest_of_columns(less, nums, limit):
    """Which rows are among the `nums[j]` lowest of any column j of `less` (n, m), and masks of the columns where a tie
    leaves that open, and where these lowest go beyond `limit`. Of the lowest of each of many blocks of rows, one rank
    more than is asked for bounds what has to be sorted."""
    n, most = len(less), nums.max()
    if most >= n and limit == np.inf: return np.arange(n), nums < 0, nums < 0
    most = min(most, n - 1)
    blocks = min(n, max(BLOCKS, 2*most + 2))
    heads = less[:n//blocks*blocks].reshape(blocks, n//blocks, -1).min(1)
    row, column = np.divmod(np.flatnonzero(less <= np.partition(heads, most, axis=0)[most]), less.shape[1])
    values = less[row, column]
    order = np.lexsort((values, column))
    ranked, at = values[order], np.searchsorted(column[order], np.arange(len(nums))) + np.minimum(nums, most)
    last = ranked[at - 1]
    beyond = (nums > most) | (last > limit)
    tied = (last == ranked[at]) & ~beyond
    return row[(values <= last[column]) & ~(tied | beyond)[column]], tied, beyond
