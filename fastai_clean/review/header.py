"The first lines of a journal: what it is about"
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from .._text import brief, sha1_of
from .replay import encode, loaded

FORMAT = 4
OLD_NAME = 96  # Bytes of JSON up to which format 1 named ids and classes by their text


def check_path(
    path: Path,  # Of a journal, new or old
) -> None:
    "Raise an OSError or a ValueError unless a journal may be there"
    if not path.parent.is_dir():
        raise FileNotFoundError(f"path {path} is in a folder that does not exist: make "
                                f"{path.parent} first")
    if path.is_dir(): raise IsADirectoryError(f"path {path} is a folder: name a file in it")
    # A pipe would wait for ever, and a device forget
    if path.exists() and not path.is_file():
        raise ValueError(f"path {path} is a device or a pipe: name a file")


def header_of(
    ids: Sequence[str],  # Ids of the items, sorted
    classes: Sequence[str],  # Texts of the classes, sorted
    given: dict[str, str],  # Id -> text of its given class
    set: str | None,  # The set that the items are, if that is known
    table: str | None = None,  # What tells the table from another model's, see `table_hash`
) -> bytes:
    "The first lines: the same bytes for the same items, classes and given labels, in any order"
    at = {o: i for i, o in enumerate(classes)}
    numbers = [at[given[o]] for o in ids]
    first = {'journal': 'fastai_clean', 'format': FORMAT, 'ids': len(ids), 'classes': len(classes),
             'ids_sha1': sha1_of(encode(ids)), 'classes_sha1': sha1_of(encode(classes)),
             'given_sha1': sha1_of(encode(numbers))}
    if set is not None: first['set'] = set
    if table is not None: first['table'] = table
    lines = first, {'ids': ids}, {'classes': classes}, {'given': numbers}
    return b''.join(encode(o).encode() + b'\n' for o in lines)


def read_header(
    f: BinaryIO,  # A journal, left at the first record
    path: Path,  # Where it is
) -> tuple[dict, dict[str, str], list[str], list[str]]:
    "Its first line, the given label of each id as far as it says, its ids and its classes"
    f.seek(0)
    first: Any = loaded(f.readline())
    if type(first) is not dict or first.get('journal') != 'fastai_clean':
        raise ValueError(f"path {path} is not a journal of fastai_clean: name another file")
    form: Any = first.get('format')
    if form not in range(1, FORMAT + 1):
        raise ValueError(f"{path} is of format {brief(form)}, but this version reads formats 1 to "
                         f"{FORMAT}: upgrade fastai_clean")

    # Format 1 has each list on many lines, and counts the ids as `items`; 2 has no given labels
    names = ('items', 'vocab') if form == 1 else ('ids', 'classes')
    counts = [first.get(o) for o in (names[0], 'classes')]
    found: dict[str, list] = {o: [] for o in names}
    while [len(o) for o in found.values()] != counts:
        o: Any = loaded(f.readline())
        name = next((k for k in names if type(o) is dict and type(o.get(k)) is list), None)
        if name is None: raise _changed(path)
        found[name].extend(map(str, o[name]))
    ids, classes = found.values()
    given = {} if form < 3 else _read_given(f, path, ids, classes)
    return first, given, ids, classes


def _read_given(f, path, ids, classes):
    o: Any = loaded(f.readline())
    numbers = o.get('given') if type(o) is dict else None
    known = dict(enumerate(classes))
    fits = type(numbers) is list and len(numbers) == len(ids)
    if not fits or not all(type(o) is int and o in known for o in numbers): raise _changed(path)
    return {i: known[o] for i, o in zip(ids, numbers)}


def hashes_of(
    given: dict[str, str],  # Id -> text of its given class
    sets: Iterable[str],  # Names of the sets, '' if there are none
) -> dict[str, str]:
    "What format 2 has of the given labels: a hash for each set"
    rows: dict[str, list] = {o: [] for o in sets}
    for i, label in given.items():
        # An id is then its set, a colon and its name in the set
        for o in sets:
            if not o or i.startswith(f'{o}:'): rows[o].append([i, label])
    return {o: sha1_of(encode(sorted(found))) for o, found in rows.items()}


def _changed(path):
    return ValueError(f"the first lines of {path} were changed or cut short: restore them, or name "
                      "another file")


def check_same(
    path: Path,
    old: Collection[str],  # Names in the journal
    new: Collection[str],  # and in the table
    of: str,  # What they make up, for the message
    what: str,  # What they are
) -> None:
    "Raise ValueError if they differ, saying how many of which"
    old = {*old}
    new = {*new}
    if old == new: return
    parts = []
    for names, where in ((old - new, 'the journal'), (new - old, 'issues or vocab')):
        some = ', '.join(map(brief, sorted(names)[:3]))
        if names: parts.append(f"{len(names)} {what} are only in {where}, such as {some}")
    raise ValueError(f"{path} belongs to another {of}: {'; '.join(parts)}; pass those it was made "
                     "with, or another path")


def old_name(
    text: str,  # An id, or the text of a class
) -> str:
    "What format 1 calls an id or class: its text, or the SHA-1 of a long, empty or unprintable one"
    fits = text and text.isprintable() and len(encode(text).encode()) <= OLD_NAME
    return text if fits else f'sha1:{sha1_of(text)}'
