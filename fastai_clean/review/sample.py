"Which items to decide on, so that a few decisions say most of all of them"
from contextlib import suppress
from typing import NamedTuple

import numpy as np
import pandas as pd

from .._columns import objects
from .._text import as_text, brief
from .curve import DRAWS, Ranking, curve, posterior, ranking

FIRST = 8  # Items of the worst stratum; each one after it is half as large again
GROWTH = 1.5
ACTIONS = 'keep', 'relabel', 'delete', 'unsure'


class Decided(NamedTuple):
    "What reviewers say of each of n items"
    wrong: np.ndarray  # How many say that its label is wrong (n,)
    right: np.ndarray  # and right (n,)
    unsure: np.ndarray  # Whether someone looked and no one decided (n,)
    carried: np.ndarray  # Whether an earlier round decided (n,)
    unused: int = 0  # Decisions on items that have another label now

    @property
    def known(self) -> np.ndarray:
        "Items with a decision (n,)"
        return self.wrong + self.right > 0


def decided(
    issues: pd.DataFrame,  # Issue table: columns id and given
    # Columns id and action, perhaps given, label, user, carried; see `Estimate`
    decisions: pd.DataFrame,
) -> Decided:
    """What `decisions` say of the rows of `issues`. Relabelled and deleted items were wrong, kept
    ones right, as are those whose decided label was applied since; the last decision of each user
    counts. A decision on an item that has a third label now is not used, as one on an item that is
    not in the table."""
    if lost := [o for o in ('id', 'action') if o not in decisions]:
        raise ValueError(f"decisions has no column {lost[0]!r}: pass a ReviewSession, or a table "
                         "with the columns id and action, as session.votes has")
    n = len(issues)
    row = {o: i for i, o in enumerate(text_of(issues))}
    now = objects(issues['given'])
    column = {o: [*decisions[o]] if o in decisions else [None]*len(decisions)
              for o in ('id', 'action', 'given', 'label', 'user', 'carried')}
    last: dict[tuple, tuple[int, str]] = {}
    unused = 0
    carried = np.zeros(n, bool)
    for key, do, given, label, user, earlier in zip(*column.values()):
        i = row.get(as_text(key))
        # A row may be there for its note alone
        if _missing(do): continue
        if do not in ACTIONS:
            raise ValueError(f"decisions has the action {brief(do)}: use 'keep', 'relabel', "
                             "'delete' or 'unsure'")
        other = i is None or not _missing(given) and as_text(given) != as_text(now[i])
        same = (i is not None and do == 'relabel' and not _missing(label)
                and as_text(label) == as_text(now[i]))
        if i is None or other and not same:
            unused += 1
            continue
        last[i, as_text(user)] = i, 'keep' if same else do
        # What was wrong has been corrected since: those that were drawn then look better than the
        # rest, whether or not a table knows of rounds
        carried[i] |= other or not _missing(earlier) and bool(earlier)
    res = Decided(np.zeros(n, int), np.zeros(n, int), np.zeros(n, bool), carried, unused)
    for i, do in last.values():
        if do == 'unsure': res.unsure[i] = True
        elif do == 'keep': res.right[i] += 1
        else: res.wrong[i] += 1
    res.unsure[res.known] = False
    return res


def _missing(o): return o is None or isinstance(o, float) and np.isnan(o)


def sample(
    issues: pd.DataFrame,  # Issue table: columns id, given, label_quality
    decisions: pd.DataFrame,  # What was decided, see `Estimate`; may be empty
    n: int = 100,  # Number of items
    seed: int = 0,  # Another one gives other items
) -> list[str]:  # At most n ids
    """Items to decide on, so that `Estimate` knows most afterwards: many where the decisions so
    far, or at first the ranks, leave it open whether labels are wrong, few elsewhere. Every start
    of the list is a sample too. Decided items are never in it.

    The ranking is cut into strata, and each has its items in a random order that depends on their
    ids and `seed` alone. It is followed in each, and the decisions say how far: a stratum's share
    is as its number of items times the standard deviation of right and wrong in it (Neyman, "On the
    two different aspects of the representative method", 1934). Raises ValueError if n < 1."""
    if n < 1: raise ValueError(f"n is {n}: ask for at least 1 item")

    found = decided(issues, decisions)
    rank, lot = ranked(issues, seed)
    strata = strata_of(rank, lot)
    done = found.known | found.unsure
    drawn = drawn_of(rank, strata, done, found.carried)
    # A quarter of the draws are enough to share items out by
    z = fitted(rank, found, drawn & found.known, np.random.default_rng(0), DRAWS//4)
    p = curve(z, rank.centre).mean(0)
    size = np.diff(rank.edges)
    spread = np.r_[0, np.cumsum(size*np.sqrt(p*(1 - p)))]
    ends = np.cumsum([0, *map(len, strata)])
    weight = np.diff(np.interp(ends, rank.edges, spread))
    got = np.array([drawn[o].sum() for o in strata])
    left = [o[~done[o]].tolist() for o in strata]
    texts = text_of(issues)
    res: list[str] = []
    while len(res) < n and any(left):
        # The largest weight per item drawn comes next, as seats go to parties (Webster's method)
        k = int(np.where([bool(o) for o in left], weight/(got + .5), -1).argmax())
        res.append(texts[left[k].pop(0)])
        got[k] += 1
    return res


def text_of(
    issues: pd.DataFrame,  # Column id
) -> np.ndarray:  # (n,)
    "The ids as texts"
    ids = objects(issues['id'])
    # They nearly always are, and then no one needs to look at each
    with suppress(TypeError):
        if ''.join(ids).isascii(): return ids
    return objects(map(as_text, ids))


def ranked(
    issues: pd.DataFrame,  # Columns id and label_quality
    seed: int,
) -> tuple[Ranking, np.ndarray]:
    "The ranking, and the lot of each item: numbers in a random order, by its id and the seed alone"
    quality = np.asarray(issues['label_quality'], float)
    missing = np.isnan(quality)
    # A CSV without scores is in their order
    if missing.all(): quality = np.arange(len(quality), dtype=float)
    elif missing.any():
        raise ValueError(f"label_quality is missing for {missing.sum()} of {len(missing)} items: "
                         "score them, or leave them out")
    lot = pd.util.hash_array(text_of(issues), hash_key=f'{seed:016d}'[-16:], categorize=False)
    return ranking(quality, lot), lot


def strata_of(
    rank: Ranking,
    lot: np.ndarray,  # (n,)
) -> list[np.ndarray]:
    "Positions of the items of each stratum, in the order of their lot"
    ends = [0]
    size = float(FIRST)
    while ends[-1] + size < len(lot):
        ends.append(ends[-1] + int(size))
        size *= GROWTH
    # No last stratum that is much smaller than the one before
    if len(ends) > 1 and len(lot) - ends[-1] < size/3: ends.pop()
    parts = np.split(rank.order, ends[1:])
    return [o[np.argsort(lot[o], kind='stable')] for o in parts]


def drawn_of(
    rank: Ranking,
    strata: list[np.ndarray],
    done: np.ndarray,  # Items that someone looked at (n,)
    carried: np.ndarray,  # Items of earlier rounds (n,), which are left out
) -> np.ndarray:  # Mask (n,)
    """Decided items that follow their stratum's order, as a sample does, or the ranking from its
    worst item on, as a review does; up to the first that was left out"""
    res = np.zeros(len(done), bool)
    for items in (*strata, rank.order):
        fresh = items[~carried[items]]
        # No gap is forgiven: right labels are the ones that a reviewer passes over
        res[fresh[done[fresh].cumprod() == 1]] = True
    return res


def fitted(
    rank: Ranking,
    found: Decided,
    fits: np.ndarray,  # Which decisions count (n,)
    rng: np.random.Generator,
    draws: int = DRAWS,
) -> np.ndarray:  # (draws, 5 or 6)
    "`posterior` of the curve; without decisions what is thought before any"
    at = rank.centre[rank.bin[fits]]
    return posterior(at, found.wrong[fits], found.right[fits], rng, draws)
