"The journal of a review: a file of JSON lines that only grows"
import os
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from threading import RLock
from typing import BinaryIO
from uuid import uuid4
from warnings import warn

from filelock import lock_descriptor, unlock_descriptor

from .._files import sync_folder, write_all
from .._rows import check_same_labels
from .._text import brief
from .header import check_path, hashes_of, header_of, old_name, read_header
from .marks import Marks
from .replay import Replay, encode
from .rounds import ADVICE, news, opening

WAIT = 60  # Seconds that an action waits for other writers
TAIL = 256  # Bytes of the last line by which a journal is recognised


class Journal:
    """The decisions of a review on disk, and the state that they add up to.

    Each action is one line of JSON: `do`, `ids`, `given`, the label that the items had then (or one
    per id), `label` (or `labels`, one per id), `text` of a note, `user`, `time` (ISO, UTC) and
    `key`, its name. It is appended under a lock that other processes heed, synced, and only then
    taken in. An `undo` or `redo` names the action (`of`) that it switches off or on, so that a
    later decision of another user stands. The first four lines say what the journal was made for:
    counts, SHA-1s and the set; the ids; the classes; the given label of each id, as its number
    among the classes. If it is opened with another table, a line (`round`) says what is gone, new
    and renamed, and which labels are others, see `rounds.opening`.

    A line that a crash tore is skipped with a warning. Files of version 0.1 (format 1), which named
    long ids by their SHA-1 and cut an action into parts, are read and continued. Threads may share
    a journal, and a forked process may go on with it."""

    def __init__(self,
        path: Path,  # The file, made if it does not exist
        ids: Iterable[str],  # Unique ids of the items
        labels: dict[str, object],  # Text of a class -> the class
        given: dict[str, str],  # Id of each item -> text of its given class
        set: str | None = None,  # The one set that the items are, if that is known
        *,
        user: str = 'reviewer',  # Who opens it
        table: str | None = None,  # What tells the table from another model's, see `table_hash`
        marks: Marks | None = None,  # What the items hold
    ):
        """Raises ValueError if `path` is a journal of other items or another set, naming the
        difference, or another file, FileNotFoundError if its folder does not exist, and OSError if
        it cannot be read and written. Nothing is written to what is refused."""
        self.path = Path(path)
        check_path(self.path)

        self._lock = RLock()
        self._fd: int | None = None  # The open file, while it is locked
        self._file: tuple[int, int] | None = None  # Its device and inode
        self._labels = labels
        self._given = given
        self._table = table
        self._marks = marks
        self.set = set
        self.news: list[str] = []  # What has changed since the last opening, a sentence each
        self._mine: str | None = None  # Key of the last opening when this one was made
        self._first: dict[str, str | None]  # Name -> given class when the journal was made
        self._before: int  # Number of actions when it was opened
        self._other: bool  # Whether that was something else, which is known by a hash only
        self._replay: Replay
        self._offset: int  # Up to where it was read
        self._tail: bytes  # The bytes just before that
        self._changed: dict[str, None]  # Ids that others changed since the last refresh
        self._snapshot: dict[str, dict] | None
        self._stale: bool  # Whether a fork made it start again
        with self._locked(os.O_CREAT) as fd:
            self._file = _file_of(os.fstat(fd))
            with _reader(fd) as f: self._open(fd, f, sorted(ids))
            self._restart()
            self._read(fd)
            self._check_hash()
            self._begin(fd, user)
        self._changed.clear()
        _journals.add(self)

    @property
    def unreadable(self) -> int:
        "Number of lines that could not be read"
        return self._replay.unreadable

    @property
    def state(self) -> dict[str, dict]:
        "The decisions in force, of all that was read, see `ReviewSession.state`"
        with self._lock:
            if self._stale: self.read()
            if self._snapshot is None: self._snapshot = dict(self._replay.state)
            return self._snapshot

    def act(self,
        do: str,  # One of `ACTIONS`
        ids: list[str],  # Ids of items
        user: str,  # Who does it
        label: str | None = None,  # Text of the class that all items get
        labels: list[str] | None = None,  # or of the class of each
        text: str | None = None,  # Note
    ):
        "Do something to items; returns once it is on disk, raises as `_append` does if it is not"
        given = [self.name_of(self._given[o]) for o in ids]
        what: dict[str, object] = {'do': do, 'ids': [self.name_of(o) for o in ids],
                                   'given': given if len({*given}) > 1 else given[0]}
        if label is not None: what['label'] = self.name_of(label)
        if labels is not None: what['labels'] = [self.name_of(o) for o in labels]
        if text is not None: what['text'] = text
        if self._marks is not None and do != 'note' and any(marks := self._marks.of(ids)):
            what['marks'] = marks

        def record():
            if moved := [o for o in what['ids'] if o in self._replay.moved]:
                raise ValueError(f"ids has {brief(moved[0])}, which names another item since this "
                                 "session was opened: open a new one")
            return what
        self._append(record, user)

    def again(self,
        do: str,  # 'undo' or 'redo'
        user: str,  # Whose last action it is
    ) -> list[str]:  # The ids of the action, none if there is nothing to undo or redo
        "Undo the last action of `user` that is in force, or redo the last that was undone"
        found: list[str] = []

        def record():
            key = self._replay.last(user, do)
            if key is None: return None
            found.extend(map(self._id_of, self._replay.actions[key].items))
            return {'do': do, 'of': key}
        self._append(record, user)
        return found

    def read(self) -> None:
        "Take in what others appended. Raises ValueError if the file was replaced or cut short"
        with self._locked() as fd: self._read(fd)

    def refresh(self) -> list[str]:
        "`read`, and return the ids that others changed since the last refresh"
        with self._lock:
            self.read()
            changed = list(self._changed)
            self._changed.clear()
            return changed

    @property
    def replay(self) -> Replay:
        "All that was read; to be looked at only"
        with self._lock:
            if self._stale: self.read()
            return self._replay

    def check_given(self) -> None:
        "Raise ValueError if others decided on items with other labels since it was opened"
        with self._lock:
            # What contradicted then was said then, and may be to decide again after an undo
            new = [(i, n, a) for i, (n, a) in self._replay.against.items()
                   if a.number >= self._before]
            if not new: return
            was = [a.given_of(n) or self._replay.first[n] for _, n, a in new]
        check_same_labels([i for i, *_ in new], [self._given[i] for i, *_ in new], was,
                          str(self.path), 'the issue table', ADVICE)
        i, n, a = new[0]
        raise ValueError(f"others gave {len(new)} items classes that vocab lacks, first {brief(i)} "
                         f"{brief(a.label_of(n))}: open a session with the classes of all")

    def votes(self) -> dict[str, dict[str, tuple[str, str | None]]]:
        "`Replay.votes`, with what others appended"
        with self._lock:
            self.read()
            return self._replay.votes()

    def decisions(self) -> list[tuple[str, str | None, str, str | None, str]]:
        "`Replay.decisions`, with what others appended"
        with self._lock:
            self.read()
            return self._replay.decisions()

    def _append(self, record: Callable[[], dict | None], user: str) -> None:
        """Write what `record` makes of all that is in the journal, sync it, and only then take it
        in. Raises OSError if it cannot be written and synced: the file is cut back to what it was,
        and nothing is taken in. Raises ValueError if the file was replaced."""
        with self._locked() as fd:
            self._read(fd)
            what = record()
            if what is not None: self._write(fd, what, user)

    def _write(self, fd, what, user) -> str:
        "Write a record, sync it, and only then take it in; its key"
        now = datetime.now(timezone.utc).isoformat(timespec='milliseconds')
        what = {**what, 'user': user, 'time': now, 'key': uuid4().hex[:16]}
        line = encode(what).encode() + b'\n'
        # A line that a crash tore must not swallow this one
        if not self._tail.endswith(b'\n'): line = b'\n' + line
        try:
            write_all(fd, line)
            getattr(os, 'fdatasync', os.fsync)(fd)
        except BaseException:
            # A line left here would be in force for everyone, though the caller hears it is not
            with suppress(OSError):
                os.ftruncate(fd, self._offset)
                os.fsync(fd)
            raise
        # From memory: reading the file again could fail, and the action would seem unsaved
        self._take_in(line.splitlines(keepends=True))
        return what['key']

    def _read(self, fd: int) -> None:
        old = self._replay.unreadable, self._replay.unknown
        with _reader(fd) as f:
            # A copy in the journal's place may look like the same file to the system, no shorter
            head = f.read(len(self._head))
            f.seek(self._offset - len(self._tail))
            if head != self._head or f.read(len(self._tail)) != self._tail: raise self._replaced()
            self._changed.update(dict.fromkeys(self._take_in(f)))
        self._stale = False
        news = self._replay.unreadable - old[0], self._replay.unknown - old[1]
        for n, what in zip(news, ("lines that cannot be read, torn by a crash or changed by hand",
                                  "actions of a newer version")):
            if n: warn(f"{self.path} has {n} {what}: they are skipped", stacklevel=4)

    def _take_in(self, lines: Iterable[bytes]) -> list[str]:
        "Replay `lines`, and return the ids that they touched"
        def followed():
            for line in lines:
                self._offset += len(line)
                self._tail = line[-TAIL:]
                yield line
        try: changed = self._replay.feed(followed())
        except BaseException:
            # Interrupted between two lines: what was counted as read may not have been replayed
            self._restart()
            raise
        if changed: self._snapshot = None
        return changed

    def _restart(self) -> None:
        "Forget what was read, so that the next reading begins at the first record"
        self._offset, self._tail = self._start
        texts = {self.name_of(o): o for o in self._labels}
        classes = {o: texts.get(o, o) for o in self._classes}
        self._replay = Replay(self._first, classes, self._first_table, texts)
        # After a fork others may have opened it with other tables since
        if self._mine == '': self._bind()
        elif self._mine is not None: self._replay.expect(self._mine, self._bind)
        self._changed = {}
        self._snapshot = None
        self._stale = True

    def _begin(self, fd, user):
        "Compare the table with that of the last opening, and write down what is another"
        ids = {self.name_of(i): (i, self._given[i]) for i in sorted(self._given)}
        names = [self.name_of(o) for o in self._labels]
        marks_of = self._marks.of if self._marks is not None else lambda ids: [None]*len(ids)
        what = opening(self._replay, ids, names, self._labels, self._table, marks_of, self.path)
        if what is not None: self._write(fd, what, user)
        self._mine = self._replay.rounds[-1]['key'] if self._replay.rounds else ''
        self._bind()
        self._before = len(self._replay.actions)
        self.news = news(self._replay, what)
        self._snapshot = None

    def _bind(self):
        ids = {self.name_of(i): (i, label) for i, label in self._given.items()}
        self._replay.bind(ids, self._labels)

    def _id_of(self, n):
        "What the session calls an item, or the journal, if it is gone"
        return self._replay.bound.get(n, self._replay.names[n])

    def _open(self, fd: int, f: BinaryIO, ids: list[str]) -> None:
        "Check what the journal is about, or write its header if it is new"
        classes = sorted(self._labels)
        header = header_of(ids, classes, self._given, self.set, self._table)
        there = f.read(len(header))
        self._first = {o: self._given[o] for o in ids}
        self._first_table = self._table
        self._classes = classes
        self._other = False
        self.name_of: Callable[[str], str] = str  # An id or a class -> what the journal calls it
        if header.startswith(there):
            # It is new, or a crash tore it before anything was decided
            if len(there) < len(header):
                write_all(fd, header[len(there):])
                os.fsync(fd)
                sync_folder(self.path.parent)
        else:
            first, given, names, self._classes = read_header(f, self.path)
            if first['format'] == 1: self.name_of = old_name
            self._first = {o: given.get(o) for o in names}
            table = first.get('table')
            self._first_table = table if type(table) is str else None
            self._check_set(first.get('set'))
            same = {*names} == {*ids}
            if first['format'] == 2 and type(hashes := first.get('given_sha1')) is dict and same:
                self._other = hashes != hashes_of(self._given, hashes)
                if not self._other: self._first = {o: self._given[o] for o in names}
            end = f.tell()
            f.seek(0)
            header = f.read(end)
        self._head = header[:header.index(b'\n') + 1]
        self._start = len(header), header[-TAIL:]

    def _check_set(self, theirs):
        "Positions and numbers name items of every set: the same ids and labels may be other items"
        if self.set is not None and type(theirs) is str and self.set != theirs:
            raise ValueError(f"{self.path} is about the set {brief(theirs)}, but these issues are "
                             f"of {brief(self.set)}: pass another path")
        if type(theirs) is str: self.set = theirs

    def _check_hash(self):
        "As `check_given` for format 2, which has no labels but a hash of them"
        # Decisions that were applied since change the hash, and then nobody can say what it was
        if not self._other: return
        replay = self._replay
        at = {i: replay.known[i] for i in self._given}
        made = any(now in replay.made(at[i]) for i, now in self._given.items())
        if not made or any(replay.in_force(at[i], now)[1] for i, now in self._given.items()):
            raise ValueError(f"{self.path} was made with other given labels than the issue table "
                             "has: pass the data that it was made with, or another path")

    @contextmanager
    def _locked(self, flags: int = 0) -> Iterator[int]:
        "A descriptor of the journal; no other thread or process gets one in the meantime"
        flags |= os.O_RDWR | os.O_APPEND | getattr(os, 'O_BINARY', 0)
        with self._lock:
            # A new one each time: the lock belongs to the open file, which a fork would share
            try: fd = os.open(self.path, flags, 0o600)
            except FileNotFoundError as e:
                raise FileNotFoundError(f"{self.path} was removed since it was opened: restore it, "
                                        "or open a new session") from e
            self._fd = fd
            try:
                self._wait(fd)
                try:
                    if self._file: self._check_file(fd)
                    yield fd
                finally: unlock_descriptor(fd)
            finally:
                self._fd = None
                os.close(fd)

    def _wait(self, fd):
        end = time.monotonic() + WAIT
        while not lock_descriptor(fd, blocking=False):
            if time.monotonic() > end:
                raise TimeoutError(f"{self.path} was locked by another process for {WAIT} seconds: "
                                   "end that process, or try again")
            # Short, since a writer that goes on at once leaves the lock free for less than 1 ms
            time.sleep(.0005)

    def _check_file(self, fd):
        if _file_of(os.stat(self.path)) != self._file: raise self._replaced()
        if os.fstat(fd).st_size < self._offset: raise self._replaced()

    def _replaced(self):
        return ValueError(f"{self.path} was replaced or cut short since it was opened: open a new "
                          "session")

    def _after_fork(self):
        "In a forked child, which has none of the parent's other threads, but all that they held"
        if self._lock.acquire(blocking=False): self._lock.release()
        else:
            # One of them was in the middle of an action, which may be half taken in
            self._restart()
            if self._fd is not None: os.close(self._fd)
            self._fd = None
        self._lock = RLock()


_journals: 'weakref.WeakSet[Journal]' = weakref.WeakSet()


def _after_fork():
    for o in list(_journals): o._after_fork()


if hasattr(os, 'register_at_fork'): os.register_at_fork(after_in_child=_after_fork)


def _file_of(stat):
    "What tells one file from another"
    return stat.st_dev, stat.st_ino


@contextmanager
def _reader(fd):
    with os.fdopen(fd, 'rb', closefd=False) as f:
        f.seek(0)
        yield f
