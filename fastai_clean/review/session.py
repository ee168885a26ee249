"A review of label issues, whose decisions are never lost"
import csv
from collections.abc import Hashable, Iterable
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any
from warnings import warn

import numpy as np
import pandas as pd

from .._columns import objects
from .._files import write_file
from .._text import as_text, brief, inert, natural_key
from . import crowd
from .apply import apply_dls, apply_folder, apply_frame
from .journal import Journal
from .marks import Marks
from .rounds import carried_of, contradicting_of, history_of, rounds_of, table_hash
from .tables import cohen_kappa, issue_table, own_rows, reviewer, text_ids

if TYPE_CHECKING:
    from .estimate import Estimate

NOTE = 2000  # Characters of a note


class ReviewSession:
    """Decisions of one or several reviewers on the items of an issue table, kept in a journal: a
    file of JSON lines that only grows.

    An action returns once its line is on disk: appended under a lock that other processes heed,
    then synced. An action on many items is one line, in force whole or not at all, even after a
    crash. An action that raises (ValueError for wrong arguments and for a journal that was
    replaced, OSError if it cannot be written) has written nothing and changed nothing. Ctrl-C is
    the exception: it may come when the action is already on disk, and then the action counts.

    What is in force follows from the journal alone: the actions in its order, without those that
    were undone. Threads may share a session, a forked process may go on with it, and any number of
    sessions may be open on one journal: `refresh` reads what the others decided.

    `issues` is the table, worst first. `ids` (n,) has the unique text of each row's id, after
    `set:` if the table has a column `set`: the actions take those.

    >>> from tempfile import TemporaryDirectory
    >>> issues = pd.DataFrame({'id': ['a.png', 'b.png', 'c.png'], 'given': ['cat', 'dog', 'cat'],
    ...                        'predicted': ['dog', 'dog', 'cat'], 'confidence': [.9, .8, .7],
    ...                        'label_quality': [.1, .8, .7], 'is_issue': [True, False, False]})
    >>> folder = TemporaryDirectory()
    >>> session = ReviewSession(issues, f'{folder.name}/decisions.jsonl', user='ann')
    >>> session.ids.tolist()
    ['a.png', 'c.png', 'b.png']
    >>> session.relabel('a.png', 'dog')
    >>> session.delete(['b.png', 'c.png'])
    >>> session.undo()
    ['b.png', 'c.png']
    >>> session.decisions[['id', 'given', 'action', 'label']].values.tolist()
    [['a.png', 'cat', 'relabel', 'dog']]
    >>> frame = pd.DataFrame({'label': ['cat', 'dog', 'cat']}, index=['a.png', 'b.png', 'c.png'])
    >>> session.apply(frame).label.tolist()
    ['dog', 'dog', 'cat']
    >>> folder.cleanup()
    """
    weakness: str | None = None  # What `interp.weakness` says of the table's model; None: unknown

    def __init__(self,
        # Issue table (see `find_issues`) or its CSV; may have a column `set`
        issues: pd.DataFrame | str | Path,
        path: str | Path,  # The journal (.jsonl); made if missing, readable by you only
        *,
        vocab: Iterable | None = None,  # Class names; None: those given or predicted, sorted
        user: str | None = None,  # Who reviews; None: the name of the account
        set: str | None = None,  # The data set, 'train', 'valid' or 'test', if there is one
        rows: pd.DataFrame | None = None,  # Rows of the user's (n,), by which `apply` finds items
        root: str | Path | None = None,  # Folder that paths of items are in; None: the working one
    ):
        """`rows` are the items' own rows, one per row of `issues`: with them, `apply` finds the
        items in a frame that was shuffled and numbered anew.

        The journal may be of an earlier round: another model, items that are gone or new, labels
        that were decided and applied, a new class, a renamed folder. `news` says what is another.
        Decisions stay in force for each item that has the label it had or got; one with a third
        label is to be decided again, with a warning, see `contradicting`.

        Raises ValueError if the table lacks columns, has an id twice or labels outside `vocab`, and
        if the journal belongs to another data set or set, or so many labels differ that the ids
        seem to be of other items; TypeError if the table does not have one class per item."""
        self.path = Path(path)
        self.user = reviewer(user)
        df = issue_table(issues)
        self.rows = own_rows(issues, df, rows)
        self.ids: np.ndarray = text_ids(df)
        if vocab is None:
            found = {as_text(o): o for o in [*df.given, *df.predicted]}
            vocab = sorted(found.values(), key=natural_key)
        self.vocab: list = [o.item() if isinstance(o, np.generic) else o for o in vocab]
        self.classes = {as_text(o): o for o in self.vocab}  # Text of a class -> the class
        if len(self.classes) < len(self.vocab) or not self.vocab:
            raise ValueError(f"vocab has {len(self.classes)} different names in {len(self.vocab)}: "
                             "give each class its own")

        for name in ('given', 'predicted'): df[name] = self._as_vocab(df[name])
        self.issues: pd.DataFrame = df
        self._at = {o: i for i, o in enumerate(self.ids)}
        given = dict(zip(self.ids, self.given.tolist()))
        marks = Marks(self.ids.tolist(), df['id'].tolist(), self.rows, root)
        self._journal = Journal(self.path, self.ids, self.classes, given, set, user=self.user,
                                table=table_hash(df, self.ids.tolist()), marks=marks)
        self.news: list[str] = self._journal.news
        if self.contradicting:
            warn(f"{self.path}: {self.news[-1]}", stacklevel=2)

    def __repr__(self):
        return '\n'.join([f'ReviewSession({len(self.ids)} items, {len(self.state)} decided)',
                          *self.news])

    @cached_property
    def given(self) -> pd.Series:
        "The text of each row's given class, n of them"
        return self.issues.given.map(as_text)

    @property
    def set(self) -> str | None:
        "The set that the items are, 'train', 'valid' or 'test', if session or journal know it"
        return self._journal.set

    @property
    def unreadable(self) -> int:
        "Number of lines of the journal that could not be read and were skipped"
        return self._journal.unreadable

    def relabel(self,
        ids: str | Iterable[str],  # One id or many
        label: Any,  # Right class, one of `vocab`; or a list of one per id, such as the predicted
    ):
        "Give items another label, or each its own; raises ValueError for an unknown id or label"
        ids = self._checked(ids)
        if not isinstance(label, (list, np.ndarray, pd.Series)):
            return self._journal.act('relabel', ids, self.user, label=self._key(label))

        labels = [self._key(o) for o in label]
        if len(labels) != len(ids):
            raise ValueError(f"label has {len(labels)} classes, but there are {len(ids)} different "
                             "ids: pass one per id")
        self._journal.act('relabel', ids, self.user, labels=labels)

    def delete(self,
        ids: str | Iterable[str],  # One id or many
    ):
        "Mark items to be left out; raises ValueError for an unknown id"
        self._journal.act('delete', self._checked(ids), self.user)

    def keep(self,
        ids: str | Iterable[str],  # One id or many
    ):
        "Confirm the given label of items; raises ValueError for an unknown id"
        self._journal.act('keep', self._checked(ids), self.user)

    def unsure(self,
        ids: str | Iterable[str],  # One id or many
    ):
        "Mark items as looked at but undecided; raises ValueError for an unknown id"
        self._journal.act('unsure', self._checked(ids), self.user)

    def note(self,
        ids: str | Iterable[str],  # One id or many
        text: str,  # At most 2,000 characters; '': remove the note
    ):
        """Attach a note to items, beside their decision; raises ValueError for an unknown id and
        for a text that is too long"""
        if not isinstance(text, str):
            raise TypeError(f"text is a {type(text).__name__}: pass a string")
        text = as_text(text)
        if len(text) > NOTE:
            raise ValueError(f"text has {len(text)} characters, but a note holds at most {NOTE:,}: "
                             "shorten it")
        self._journal.act('note', self._checked(ids), self.user, text=text)

    def undo(self) -> list[str] | bool:  # The ids of the action, or False
        """Undo this user's last action that is in force, in whatever session it was made, a batch
        as a whole; False if there is none"""
        return self._journal.again('undo', self.user) or False

    def redo(self) -> list[str] | bool:  # The ids of the action, or False
        "Put this user's last undone action back, unless another came since; False if there is none"
        return self._journal.again('redo', self.user) or False

    def refresh(self) -> list[str]:
        "Read what others appended, and return the ids that they changed since the last refresh"
        return self._journal.refresh()

    @property
    def state(self) -> dict[str, dict]:
        """Id -> `action` (None if there is only a note), `label` (of a relabel), `note`, and `user`
        and `time` (ISO, UTC) of the action, or of the note if there is no action: the decisions of
        all users that the session has read. It is the same dict until one of them changes, and
        never changes itself."""
        return self._journal.state

    def current(self) -> dict[str, dict]:
        "`state` with what others appended until now, which `refresh` will still report"
        self._journal.read()
        return self.state

    def checked(self) -> dict[str, dict]:
        "`current`; raises ValueError if what others decided is about items with other labels"
        state = self.current()
        self._journal.check_given()
        return state

    @property
    def decisions(self) -> pd.DataFrame:
        """One row per item with a decision or a note, worst first: the columns `id`, `set`, `given`
        and `predicted` of the table, then `action`, `label`, `note`, `user` and `time` as in
        `state`, with what others appended"""
        state = self.current()
        mask = np.array([i in state for i in self.ids], dtype=bool)
        rows = self.issues[mask]
        data = {}
        for name in ('id', 'set', 'given', 'predicted'):
            data[name] = objects(rows[name]) if name in rows else [None]*len(rows)
        for name in ('action', 'label', 'note', 'user', 'time'):
            data[name] = [state[i][name] for i in self.ids[mask]]
        return pd.DataFrame(data, index=rows.index, dtype=object)

    @property
    def votes(self) -> pd.DataFrame:
        """Every decision in force of every user, an item's own in their order, with what others
        appended: the columns `id` as in `ids`, `given`, the text of the label that the item had
        then (None in old journals), `action`, `label`, the text of the class it got, `user`, and
        `carried`, whether the item was decided in an earlier round"""
        names = ['id', 'given', 'action', 'label', 'user']
        df = pd.DataFrame(self._journal.decisions(), columns=names, dtype=object)
        return df.assign(carried=df.id.isin(self.carried))

    def sample(self,
        n: int = 100,  # Number of items
        seed: int = 0,  # Another one gives other items; pass `estimate` the same
    ) -> list[str]:  # At most n ids, none that is decided or unsure
        """Items to decide on, so that `estimate` knows most afterwards: many where it is open
        whether labels are wrong, few elsewhere. Decide on them in this order, and stop anywhere. It
        uses what was decided: four times 25 say more than once 100. See `sample.sample`."""
        from .sample import sample  # Here: scipy's statistics take half a second
        return sample(self._scored(), self.votes, n, seed)

    def estimate(self,
        seed: int = 0,  # That of `sample`
    ) -> 'Estimate':
        """How many labels of the table are wrong, with a 95 % interval, which ones, and how many
        more to review, from the decisions so far, see `Estimate`. Raises ValueError if there are
        none."""
        from .estimate import Estimate
        return Estimate(self._scored(), self.votes, seed)

    def _scored(self):
        return self.issues.assign(id=self.ids)

    def progress(self) -> dict:
        """`reviewed`: flagged items with a decision; `flagged`: all of them; `decided`: items with
        a decision, flagged or not; `per_class`: DataFrame of class (as given), reviewed, flagged"""
        decided = np.zeros(len(self.ids), dtype=bool)
        for i, o in self.current().items():
            if o['action'] is not None and i in self._at: decided[self._at[i]] = True
        flagged = self.issues.is_issue.to_numpy(dtype=bool)

        def count(mask):
            found = self.given[mask].value_counts()
            return found.reindex(list(self.classes), fill_value=0).to_numpy()
        per_class = pd.DataFrame({
            'class': pd.Series(self.vocab, dtype=object), 'reviewed': count(decided & flagged),
            'flagged': count(flagged)})
        return {'reviewed': int((decided & flagged).sum()), 'flagged': int(flagged.sum()),
                'decided': int(decided.sum()), 'per_class': per_class}

    rounds = property(rounds_of)
    contradicting = property(contradicting_of)
    carried = property(carried_of)
    history = history_of

    def agreement(self) -> pd.DataFrame:
        """One row per pair of users: `user`, `other`, `n` items that both decided on, `agree`, the
        share with the same outcome, and Cohen's `kappa` ("A coefficient of agreement for nominal
        scales", 1960; NaN if n is 0 or both gave all items one outcome). An outcome is a class,
        deleted, or unsure; keep means the given class."""
        given = dict(zip(self.ids, self.given))
        outcome: dict[str, dict] = {}
        for user, votes in self._journal.votes().items():
            found = outcome.setdefault(user, {})
            for i, (do, label) in votes.items():
                if do == 'keep': label = label or given[i]
                found[i] = do if label is None else ('class', label)
        rows = []
        for a, b in combinations(sorted(outcome), 2):
            both = [(x, outcome[b][i]) for i, x in outcome[a].items() if i in outcome[b]]
            rows.append((a, b, len(both), *cohen_kappa(both)))
        return pd.DataFrame(rows, columns=['user', 'other', 'n', 'agree', 'kappa'])

    annotations = crowd.annotations
    annotators = crowd.annotators

    def to_csv(self,
        path: str | Path,  # File to write
        overwrite: bool = False,  # Whether to replace a file
    ) -> Path:
        "Write `decisions` as CSV, whole or not at all; raises FileExistsError, see `overwrite`"
        options = dict(index=False, quoting=csv.QUOTE_NONNUMERIC, errors='backslashreplace')
        # A note or an id that a spreadsheet would run
        df = self.decisions
        for name in df: df[name] = pd.Series([*map(inert, df[name])], df.index, df[name].dtype)
        return write_file(path, lambda tmp: df.to_csv(tmp, **options), overwrite)

    def apply(self,
        df: pd.DataFrame,  # The DataFrame that the table is about; it is not changed
        *,
        column: Hashable = 'label',  # Its column of labels
        id_column: Hashable | None = None,  # Its column of ids, such as paths; None: its index
        set: str | None = None,  # The set that `df` is, if the table has several; None: all
    ) -> pd.DataFrame:
        """A new DataFrame, relabelled and without the rows that were deleted, now or in an earlier
        round. Rows that the journal does not know stay. Applied to its own result, it gives the
        same again.

        Items are found by their ids, and their labels must be the given or the decided ones, those
        of undecided items too. If they are not, as in a frame that was shuffled and numbered anew,
        and the session has the items' own `rows`, they are found by their content, with a warning.
        Otherwise it raises ValueError, as it does if items of the table are missing from `df`,
        unless they were deleted, or appear twice."""
        return apply_frame(self, df, column, id_column, set)

    def apply_dls(self,
        learn: Any,  # Learner that the table is about; it and its DataLoaders are not changed
        set: str | None = None,  # 'train' or 'valid'; None: the session's own set, else 'train'
    ):  # DataLoaders
        """New DataLoaders, relabelled and without the deleted items, in the training and the
        validation set if the table has a column `set`. Pass them to a new Learner. Nothing is
        fitted again: vocab and transforms stay. If a ColReader reads the labels of a DataFrame, a
        copy of it is changed, otherwise the input of the target's transforms.

        Raises as `apply` does, ValueError if the session is about another set, no item of a set is
        left or a label is not in its vocab, and TypeError if there is not one class per item."""
        return apply_dls(self, learn, set)

    def apply_folder(self,
        source: str | Path,  # Folder that the ids are paths in, such as `learn.path`
        target: str | Path,  # Folder to make, outside of `source`; may exist if it is empty
        *,
        copy: bool = False,  # Whether to copy the files; False: hard links, if they can be made
        only_reviewed: bool = False,  # Whether to take the table's items only, in folders of labels
    ) -> Path:
        """A clean copy of `source`: all its files, also those that the table does not have, such as
        the validation set, each where it was, but for deleted items, and relabelled ones, which are
        in the folder of their new class. A hard link is the same file: writing into one changes
        both.

        With `only_reviewed` target/label/name, or target/set/label/name if the table has a column
        `set`, of all items of the table except the deleted ones, whatever folders they were in.
        Files with the same name and label are named by their path in `source`, joined by '__'. A
        label or name that is not a safe file name is turned into one, with a hash. The tree is made
        whole or not at all.
        Raises ValueError for items that are, or link, outside of `source`, FileNotFoundError for
        those that are not files, and FileExistsError if `target` has anything in it."""
        return apply_folder(self, source, target, copy, only_reviewed)

    def _as_vocab(self, column):
        "`column` with the classes of `vocab` in place of their texts"
        keys = column.map(as_text)
        if (bad := ~keys.isin(self.classes.keys())).any():
            raise ValueError(f"issues has {bad.sum()} labels in {column.name!r} outside the vocab, "
                             f"first {brief(column[bad].iloc[0])}: pass the vocab of its Learner")
        values = [self.classes[o] for o in keys]
        # pandas would take text that UTF-8 cannot hold for its string type, and fail
        dtype = object if any(isinstance(o, str) for o in values) else None
        return pd.Series(values, column.index, dtype=dtype)

    def _key(self, label):
        key = as_text(label)
        if key not in self.classes:
            raise ValueError(f"label is {brief(label)}, which is not in the vocab of "
                             f"{len(self.vocab)} classes: pass one of `session.vocab`")
        return key

    def _checked(self, ids) -> list[str]:
        "`ids` as a list without repeats, or ValueError"
        several = isinstance(ids, Iterable) and not isinstance(ids, str)
        found = list(ids) if several else [ids]
        if bad := [o for o in found if not isinstance(o, str) or o not in self._at]:
            raise ValueError(f"ids has {len(bad)} that are not in the issue table, first "
                             f"{brief(bad[0])}: pass texts of `session.ids`")
        if not found: raise ValueError("ids is empty: pass at least one")
        return [str(o) for o in dict.fromkeys(found)]
