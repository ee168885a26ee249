"The reviewers of a session as annotators"
from typing import TYPE_CHECKING, Any
from warnings import warn

import pandas as pd

from .._columns import objects
from .._text import brief

if TYPE_CHECKING:
    from ..issues import AnnotatorIssues
    from .session import ReviewSession


def annotations(
    session: 'ReviewSession',
    given: str = 'given',  # What to call the annotator who gave the given labels
) -> pd.DataFrame:  # Columns id, annotator, label
    """The labels of reviewers, each one's last decision on an item, and the given labels of these
    items, in long form: kept is the given label, deleted and unsure are none. With what others
    appended. Warns if there is but one reviewer. Raises ValueError if one is called `given`, and if
    no item got a label."""
    votes = session._journal.votes()
    if given in votes:
        raise ValueError(f"given is {brief(given)}, which is a reviewer's name too: choose another")
    own = dict(zip(session.ids, session.given))
    rows = []
    for user, decisions in votes.items():
        for i, (do, label) in decisions.items():
            if do == 'keep': label = own[i]
            if label is not None: rows.append((i, user, session.classes[label]))
    if not rows:
        raise ValueError("no reviewer has given an item a label yet: relabel or keep some first")
    if len({user for _, user, _ in rows}) < 2:
        warn(f"{brief(rows[0][1])} is the only reviewer, and between one and the given label only "
             "a model can decide: take the decisions themselves, or have another review the same "
             "items", stacklevel=3)
    # Those of the other items would say nothing about anyone
    rows += [(i, given, session.classes[own[i]]) for i in dict.fromkeys(o[0] for o in rows)]
    return pd.DataFrame({name: pd.Series(objects(o), dtype=object)
                         for name, o in zip(('id', 'annotator', 'label'), zip(*rows))})


def annotators(
    session: 'ReviewSession',
    pred_probs: Any = None,  # Probabilities, a DataFrame by id; None: by the votes alone
    given: str = 'given',  # What to call the annotator who gave the given labels
) -> 'AnnotatorIssues':
    """The consensus on the items that reviewers labelled, with the given label as one annotator
    more, how good each is, and which items to have decided on by another, see
    `issues.find_annotator_issues`; with the model too, of which a session knows no probabilities,
    in `interp.annotators(session)`.

    Reviewers see doubtful items, so that qualities are lower than they would be elsewhere: compare
    them with each other only. Raises ValueError as `annotations` does, TypeError for probabilities
    without ids."""
    # Imported here: cleanlab takes a second
    from ..issues import find_annotator_issues
    if pred_probs is not None and not isinstance(pred_probs, pd.DataFrame):
        raise TypeError(f"pred_probs is a {type(pred_probs).__name__}, whose rows no id names, "
                        "while a session is not in the data set's order: pass a DataFrame indexed "
                        "by session.ids, or the session to interp.annotators")
    long = annotations(session, given)
    at = pd.Index(session.ids).isin(long.id)
    table = session.issues[at]
    return find_annotator_issues(long, pred_probs, ids=list(session.ids[at]), vocab=session.vocab,
                                 given=table.given.tolist()).at(table.index.to_numpy())
