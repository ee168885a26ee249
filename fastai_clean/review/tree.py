"A clean copy of a whole folder: every file at its place, but for what was decided"
import os
from pathlib import Path, PurePath

from .._text import as_text, brief, safe_name, sha1_of


def whole_tree(
    session,  # A ReviewSession whose ids are paths in `source`
    source: Path,  # The folder, links followed
) -> dict[PurePath, Path]:
    """Path in the new tree -> file in `source`, for all its files. The deleted ones are left out;
    one that was relabelled is in the folder of its new class, which stands where the last folder
    stood that is named as the given class.

    Raises FileNotFoundError for items that are not files in `source`, and ValueError for files that
    are, or link, outside of it, for copies of a file with different decisions, and if the folders
    do not say the classes."""
    files = _files(source)
    changes = _changes(session, files, source)
    res = {}
    for path, file in files.items():
        if path not in changes: res[PurePath(path)] = file
    for path, change in changes.items():
        if change is None: continue
        place = _moved(PurePath(path), *change)
        if place in res: place = place.with_stem(f'{place.stem[:60]}-{sha1_of(path)[:16]}')
        res[place] = files[path]
    return res


def _files(source):
    found = {}
    for folder, folders, names in os.walk(source):
        # A linked folder would be left out without a word
        for name in sorted([*names, *(o for o in folders if os.path.islink(Path(folder)/o))]):
            path = Path(folder)/name
            file = Path(os.path.realpath(path))
            if not file.is_relative_to(source) or file.is_dir():
                raise ValueError(f"{brief(str(path))} links to a folder, or outside of source "
                                 f"{source}: leave it out")
            # A pipe or a device has no content that could be copied
            if file.is_file(): found[as_text(path.relative_to(source))] = file
    return found


def _changes(session, files, source):
    "Path of each item that changes -> given class and new class, or None if it is deleted"
    state = session.checked()
    res = {}
    seen: dict[str, tuple | None] = {}
    lost = []
    for i, name, given in zip(session.ids, session.issues['id'], session.given):
        path = _path(as_text(name), files, source)
        if path is None:
            lost.append(name)
            continue
        o = state.get(i, {'action': None})
        change: tuple | None = ()
        if o['action'] == 'delete': change = None
        elif o['action'] == 'relabel' and (label := as_text(o['label'])) != given:
            change = given, label
        if seen.setdefault(path, change) != change:
            raise ValueError(f"the file {brief(path)} is several items, which were decided "
                             "differently: decide alike on them")
        if change != (): res[path] = change
    if lost:
        raise FileNotFoundError(f"{len(lost)} items are not files in source {source}, first "
                                f"{brief(lost[0])}: pass the folder that the items are relative "
                                "to; if they are rows of a DataFrame, use apply")
    return res


def _path(name, files, source):
    "What `files` calls an item, or None"
    # The ids of copies of a file are `a.png`, `a.png#2`
    first, mark, k = name.rpartition('#')
    for o in (name, first if mark and k.isdecimal() else name):
        path = os.path.normpath(source/o)
        path = os.path.relpath(path, source) if os.path.isabs(path) else path
        path = PurePath(path).as_posix()
        if path in files: return path
    return None


def _moved(path, given, label):
    parts = list(path.parts)
    named = [k for k, o in enumerate(parts[:-1]) if o in (given, safe_name(given))]
    if not named:
        raise ValueError(f"the item {brief(str(path))} is in no folder that is named as its class "
                         f"{brief(given)}: pass only_reviewed=True, which makes such folders")
    parts[named[-1]] = safe_name(label)
    return PurePath(*parts)
