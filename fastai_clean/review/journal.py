"The file of a review"
import os
from contextlib import contextmanager
from warnings import warn

from .files import file_of, lock, sync_folder, unlock, write_all
from .names import ACTIONS, WHOLE
from .records import difference, header_lines, loaded


class Journal:
    "Part of ReviewSession: its file"

    def _append(self, records):
        "Write what records() makes of all that is in the journal, sync it, and only then take it in"
        with self._lock, self._locked() as fd:
            self._read(fd)
            lines = records()
            if not lines: return
            if not self._ended: lines[0] = b'\n' + lines[0]
            for line in lines: write_all(fd, line)
            getattr(os, 'fdatasync', os.fsync)(fd)
            self._read(fd, own=True)

    def _read(self, fd, own=False):
        before = self.unreadable, self.unknown
        with os.fdopen(fd, 'rb', closefd=False) as f: changed = self._replay.feed(self._lines(f))
        if changed:
            self._snapshot = None
            if not own: self._changed.update(dict.fromkeys(changed))
        for n, what in ((self.unreadable - before[0], "lines that cannot be read, torn by a crash or changed by hand"),
                        (self.unknown - before[1], "actions of a newer version")):
            if n: warn(f"{self.path} has {n} {what}: they are skipped", stacklevel=4)

    def _lines(self, f):
        "The records from where the last reading ended"
        f.seek(self._offset)
        for line in f:
            record = None if line.isspace() else self._parsed(line)
            if record is None: self.unreadable += not line.isspace()
            elif record['do'] not in (*ACTIONS, 'undo', 'redo'): self.unknown += 1
            else: yield record
            self._offset += len(line)
            self._ended = line.endswith(b'\n')

    def _parsed(self, line):
        "The record, or None where it is none"
        o = loaded(line)
        if type(o) is not dict: return None
        get = o.get
        do = get('do')
        if not (type(do) is type(get('user')) is type(get('time')) is type(get('key')) is str): return None
        if do in ('undo', 'redo'): return o if type(get('of')) is str else None
        if do not in ACTIONS: return o
        ids, part = get('ids'), get('part', WHOLE)
        if type(ids) is not list: return None
        for i in ids:
            if type(i) is not str or i not in self._ids: return None
        if part is not WHOLE and not (type(part) is list and [type(i) for i in part] == [int, int]
                                      and 1 <= part[0] <= part[1]): return None
        if do == 'relabel' and not (type(get('label')) is str and o['label'] in self._labels): return None
        return None if do == 'note' and type(get('text')) is not str else o

    def _open(self):
        if not self.path.parent.is_dir():
            raise FileNotFoundError(f"path {self.path} is in no folder: make {self.path.parent} first")
        if self.path.is_dir(): raise IsADirectoryError(f"path {self.path} is a folder: name a file in it")
        header = header_lines(self.issues.id, self._labels)
        self._file = None
        with self._locked(os.O_CREAT) as fd:
            self._file = file_of(os.fstat(fd))
            with os.fdopen(fd, 'rb', closefd=False) as f: there = f.read(len(header))
            if not header.startswith(there):
                raise ValueError(difference(self.path, set(self.issues.id), set(self._labels)))
            if len(there) < len(header):
                write_all(fd, header[len(there):])
                os.fsync(fd)
                sync_folder(self.path.parent)
            self._offset = len(header)
            self._read(fd)
        self._changed = {}

    @contextmanager
    def _locked(self, flags=0):
        "A descriptor of the journal while no other one, of any process, is in here; a new one a time, for forks' sake"
        fd = os.open(self.path, os.O_RDWR | os.O_APPEND | getattr(os, 'O_BINARY', 0) | flags, 0o666)
        try:
            lock(fd)
            try:
                size = os.fstat(fd).st_size
                if self._file and file_of(os.stat(self.path)) != self._file or size < self._offset:
                    raise ValueError(f"{self.path} was replaced or cut short since it was opened: open a new session")
                yield fd
            finally: unlock(fd)
        finally: os.close(fd)
