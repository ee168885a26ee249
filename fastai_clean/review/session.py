"A review of label issues: decisions that nothing loses"
import csv
import os
import threading
from collections.abc import Iterable
from datetime import datetime, timezone
from functools import cached_property
from itertools import combinations
from pathlib import Path
from uuid import uuid4

import numpy as np
import pandas as pd

from .apply import Applied
from .journal import Journal
from .names import NOTE, as_json, as_objects, as_text, brief, natural_key, short_name
from .records import as_line, record_lines
from .replay import Replay
from .table import cohen_kappa, issue_table, reviewer


class ReviewSession(Journal, Applied):
    """Decisions of one or several people on the items of an issue table, kept in a journal: a file of JSON lines that
    only grows.

    An action returns once its records are on disk: each under 512 bytes, written at once to the end of the file, under
    a lock that other processes heed, then synced. An action on many items that does not fit one record is several,
    numbered, and in force only once the last is there: whole or not at all, also after a crash. Lines torn by one are
    skipped, with a warning. What is in force follows from the journal alone: the actions in its order, without those
    undone. A redo puts an action back where it was, so that a later decision of another person stands. Items and
    classes are named by text that is short and stable, the SHA-1 where theirs is not. Threads may share a session."""

    def __init__(self,
        issues,  # Issue table (DataFrame, see `find_issues`), optionally with a column `set`, or the path of its CSV
        path,  # The journal (.jsonl), made if absent
        *,
        vocab=None,  # Class names; None: those given or predicted, sorted
        user=None,  # Who reviews; None: the name of the account
    ):
        """Raises ValueError where the table lacks columns, names an item twice or has labels outside `vocab`, and where
        the journal is of another data set or vocab, naming the difference. TypeError: not one class an item."""
        self.path, self.user = Path(path), reviewer(user)
        df = issue_table(issues)
        values = sorted({short_name(o): o for o in [*df.given, *df.predicted]}.values(), key=natural_key) if (
            vocab is None) else list(vocab)
        self.vocab = [o.item() if isinstance(o, np.generic) else o for o in values]
        self._labels = {short_name(o): o for o in self.vocab}
        if len(self._labels) < len(self.vocab) or not self.vocab:
            raise ValueError(f"vocab has {len(self._labels)} different names in {len(self.vocab)}: give each class one")
        for name in ('given', 'predicted'): df[name] = self._as_vocab(df[name])
        self.issues = df
        self._ids = set(df.id)
        self._replay, self._changed, self._snapshot = Replay(self._labels), {}, None
        self._lock, self._offset, self._ended, self.unreadable, self.unknown = threading.RLock(), 0, True, 0, 0
        self._open()

    def relabel(self,
        ids,  # One id or many
        label,  # Class that they are of, one of `vocab`; or a list of as many as there are ids, such as the predicted
    ):
        "Give items another label, or each its own; raises ValueError for an unknown id or label"
        if not isinstance(label, (list, np.ndarray, pd.Series)):
            return self._act('relabel', ids, label=self._key(label))
        ids, keys = self._known(ids), [self._key(o) for o in label]
        if len(keys) != len(ids):
            raise ValueError(f"label has {len(keys)} classes, but there are {len(ids)} different ids: pass one an id")
        self._do([({'do': 'relabel', 'label': k}, [i for i, o in zip(ids, keys) if o == k])
                  for k in dict.fromkeys(keys)])

    def delete(self,
        ids,  # One id or many
    ):
        "Leave items out; raises ValueError for an unknown id"
        self._act('delete', ids)

    def keep(self,
        ids,  # One id or many
    ):
        "Confirm the given label of items; raises ValueError for an unknown id"
        self._act('keep', ids)

    def unsure(self,
        ids,  # One id or many
    ):
        "Say that items were looked at, and undecided; raises ValueError for an unknown id"
        self._act('unsure', ids)

    def note(self,
        ids,  # One id or many
        text,  # At most 220 bytes as JSON; '': no note any more
    ):
        "Attach a note to items, beside their decision; raises ValueError for an unknown id and a text too long"
        if not isinstance(text, str): raise TypeError(f"text is a {type(text).__name__}: pass a string")
        text = as_text(text)
        if (n := len(as_json(text))) > NOTE:
            raise ValueError(f"text has {n} bytes as JSON, but a record of the journal holds {NOTE}: shorten it")
        self._act('note', ids, text=text)

    def undo(self) -> list | bool:  # The ids of the action, or False
        "Undo this user's last action that is in force, of any process, a batch as a whole; False where there is none"
        return self._again('undo')

    def redo(self) -> list | bool:  # The ids of the action, or False
        "Put this user's last undone action back, unless another came since; False where there is none"
        return self._again('redo')

    def refresh(self) -> list:  # ids
        "Read what others appended; the ids that changed by it since the last refresh"
        with self._lock:
            with self._locked() as fd: self._read(fd)
            changed, self._changed = list(self._changed), {}
            return changed

    def _current(self):
        "`state` with what others appended until now, which `refresh` still tells of"
        with self._lock:
            with self._locked() as fd: self._read(fd)
            return self.state

    @property
    def state(self) -> dict:
        """id -> `action` (None where there is but a note), `label` (of a relabel), `note`, and `user` and `time` (ISO,
        UTC) of the action, or of the note where there is no action; a snapshot, of all users' decisions that the
        session has read"""
        with self._lock:
            if self._snapshot is None: self._snapshot = dict(self._replay.state)
            return self._snapshot

    @property
    def decisions(self) -> pd.DataFrame:
        "One row an item with a decision or a note, the worst first: the columns of the table, then those of `state`"
        state, rows = self._current(), self.issues
        rows = rows[rows.id.isin(state.keys())]
        names = ('item', 'set', 'given', 'predicted')
        data = {o: as_objects(rows[o]) if o in rows else [None]*len(rows) for o in names}
        for name in ('action', 'label', 'note', 'user', 'time'): data[name] = [state[i][name] for i in rows.id]
        return pd.DataFrame(data, index=rows.index, dtype=object)

    @cached_property
    def _given(self):
        "The given classes as the journal names them"
        return self.issues.given.map(short_name)

    def progress(self) -> dict:
        """`reviewed`: flagged items with a decision, `flagged`: all of them, `decided`: items with a decision, flagged
        or not; `per_class`: DataFrame of class (as given), reviewed, flagged"""
        decided = self.issues.id.isin([i for i, o in self._current().items() if o['action']]).to_numpy()
        flagged = self.issues.is_issue.to_numpy(dtype=bool)
        keys = self._given
        per_class = pd.DataFrame({
            'class': pd.Series(self.vocab, dtype=object),
            'reviewed': keys[decided & flagged].value_counts().reindex(list(self._labels), fill_value=0).to_numpy(),
            'flagged': keys[flagged].value_counts().reindex(list(self._labels), fill_value=0).to_numpy()})
        return {'reviewed': int((decided & flagged).sum()), 'flagged': int(flagged.sum()),
                'decided': int(decided.sum()), 'per_class': per_class}

    def agreement(self) -> pd.DataFrame:
        """One row a pair of users: `user`, `other`, `n` items that both decided on, `agree`, the share with the same
        outcome, and Cohen's `kappa` ("A coefficient of agreement for nominal scales", 1960; NaN where n is 0 or both
        gave all items one outcome). An outcome is a class, deleted, or unsure; keep means the given class."""
        given = dict(zip(self.issues.id, self.issues.given.map(short_name)))
        with self._lock:
            self._current()
            votes = self._replay.votes()
        outcome = {u: {i: ('class', a.label_of(i) if a.do == 'relabel' else given[i]) if a.do in ('relabel', 'keep')
                       else (a.do, '') for i, a in o.items()} for u, o in votes.items()}
        rows = []
        for a, b in combinations(sorted(outcome), 2):
            both = [(x, outcome[b][i]) for i, x in outcome[a].items() if i in outcome[b]]
            rows.append((a, b, len(both), *cohen_kappa(both)))
        return pd.DataFrame(rows, columns=['user', 'other', 'n', 'agree', 'kappa'])

    def to_csv(self,
        path,  # File to write
        overwrite=False,  # Whether to replace a file
    ) -> Path:
        "Write `decisions` as CSV, whole or not at all. Raises FileExistsError where `path` exists, see `overwrite`"
        path = Path(path)
        tmp = path.with_name(f'.{uuid4().hex}.csv')
        try:
            self.decisions.to_csv(tmp, index=False, quoting=csv.QUOTE_NONNUMERIC, errors='backslashreplace')
            if not overwrite: path.open('x').close()
            os.replace(tmp, path)
        except FileExistsError as e:
            raise FileExistsError(f"path {path} exists: choose another or pass overwrite=True") from e
        finally: tmp.unlink(missing_ok=True)
        return path

    def _as_vocab(self, column):
        keys = column.map(short_name)
        if (bad := ~keys.isin(self._labels.keys())).any():
            raise ValueError(f"issues has {bad.sum()} labels in {column.name!r} outside the vocab, first "
                             f"{brief(column[bad].iloc[0])}: pass the vocab of its Learner")
        values = [self._labels[o] for o in keys]
        return pd.Series(values, column.index, dtype=object if any(isinstance(o, str) for o in values) else None)

    def _key(self, label):
        key = short_name(label)
        if key not in self._labels:
            raise ValueError(f"label is {brief(label)}, which is not in the vocab of {len(self.vocab)} classes")
        return key

    def _act(self, do, ids, **what): self._do([({'do': do, **what}, self._known(ids))])
    def _do(self, groups): self._append(lambda: record_lines(groups, self._signature()))

    def _known(self, ids):
        ids = list(ids) if isinstance(ids, Iterable) and not isinstance(ids, str) else [ids]
        if bad := [o for o in ids if not isinstance(o, str) or o not in self._ids]:
            raise ValueError(f"ids has {len(bad)} that are not in the issue table, first {brief(bad[0])}: pass texts "
                             "of the column `id` of `issues`")
        if not ids: raise ValueError("ids is empty: pass at least one")
        return [str(o) for o in dict.fromkeys(ids)]

    def _again(self, do):
        with self._lock:
            ids = []
            def records():
                key = self._replay.last(self.user, do)
                if key is None: return []
                ids.extend(self._replay.actions[key].ids)
                return [as_line({'do': do, 'of': key, **self._signature()})]
            self._append(records)
            return ids or False

    def _signature(self):
        time = datetime.now(timezone.utc).isoformat(timespec='milliseconds')
        return {'user': self.user, 'time': time, 'key': uuid4().hex[:16]}
