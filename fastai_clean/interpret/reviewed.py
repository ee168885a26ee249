"What reviewers decided, brought to the items of a CleanInterpretation"
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .._rows import check_same_labels
from .._text import as_text

if TYPE_CHECKING:
    from ..review import ReviewSession
    from ..review.estimate import Estimate
    from .base import CleanInterpretation

SETS = {'training set': 'train', 'validation set': 'valid', 'test set': 'test'}
_ADVICE = "pass a session about this very data set"


def estimate(
    interp: 'CleanInterpretation',
    # Of the items, or some; or a table with the columns id and action ('keep', 'relabel', 'delete',
    # 'unsure'), and given, label and user if there are any, which fits every task
    decisions: 'ReviewSession | pd.DataFrame',
    seed: int = 0,  # That of `session.sample`
) -> 'Estimate':
    """How many labels are wrong, with a 95 % interval, which ones, and how many more to review,
    from decisions on some, see `review.estimate.Estimate`. A decision on an item that has another
    label now is not used. Raises ValueError if there is none left, TypeError for anything else.

    >>> session = interp.review('decisions.jsonl')  # doctest: +SKIP
    >>> session.sample(25)  # doctest: +SKIP
    >>> interp.find_issues(filter_by=interp.estimate(session))  # doctest: +SKIP
    """
    # Imported here: the review is a layer below, and looking at a table must not need it
    from ..review.estimate import Estimate
    if not isinstance(decisions, pd.DataFrame):
        if not hasattr(decisions, 'votes'):
            raise TypeError(f"decisions is a {type(decisions).__name__}: pass a ReviewSession, or "
                            "a table with the columns id and action")
        session = decisions
        decisions = session.votes
        if 'set' in session.issues:
            # The ids there begin with the set's name
            prefix = f'{set_of(interp)}:'
            mine = decisions.id.str.startswith(prefix)
            decisions = decisions[mine].assign(id=decisions.id[mine].str.removeprefix(prefix))
    return Estimate(interp.issues, decisions, seed)


def as_estimate(
    interp: 'CleanInterpretation',
    o: 'Estimate | ReviewSession',
) -> 'Estimate':
    """`o`, or the Estimate from its decisions. Raises ValueError if it is about other items or
    labels, and TypeError for anything else"""
    # By what it can do: the review is a layer below
    if not hasattr(o, 'flagged'): return estimate(interp, o)
    df = interp.issues
    o.flagged(df.id.tolist(), df.given.tolist())
    return o


def flag(
    interp: 'CleanInterpretation',
    found: 'Estimate',
) -> None:
    "Make the items that an estimate flags the issues, whatever its order of items"
    df = interp.issues
    interp.issues = df.assign(is_issue=found.flagged(df.id.tolist(), df.given.tolist()))


def corrections_of(
    interp: 'CleanInterpretation',
    session: 'ReviewSession',
) -> tuple[pd.DataFrame, np.ndarray]:  # Corrections; mask of the deleted (n,)
    """A session's decisions as corrections: relabelled items, and apart from them the deleted ones,
    which have no right label. Raises ValueError if the session is about other labels or items."""
    df = session.decisions
    if 'set' in session.issues: df = df[df['set'].map(as_text) == set_of(interp)]
    df = df[df.action.notna()]
    at = pd.Index(interp.ids).get_indexer(df.id.map(as_text))
    if (lost := at < 0).any():
        raise ValueError(f"corrections decides on {lost.sum()} items that are not in the data set, "
                         f"first {df.id[lost].iloc[0]!r}: {_ADVICE}")
    given = [interp.vocab[int(o)] for o in interp.given[at]]
    check_same_labels(df.id.tolist(), given, df.given.tolist(), 'corrections', 'the data set',
                      _ADVICE)
    deleted = np.zeros(len(interp.given), bool)
    deleted[at[(df.action == 'delete').to_numpy(bool)]] = True
    return df[df.action == 'relabel'], deleted


def set_of(
    interp: 'CleanInterpretation',
) -> str | None:
    "What a review calls the data set"
    name = interp.how.get('data set')
    return SETS.get(name, name)
