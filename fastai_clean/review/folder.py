"A folder tree of decided labels"
import os
import shutil
import unicodedata
from pathlib import Path, PurePath

import pandas as pd

from .names import brief, safe_name, sha1_of


def tree_places(finals, source):
    "Path in the new tree -> file, for the (set, class, item) of `finals`"
    found, folders, lost = [], {}, []
    for where in finals:
        names, item = [str(o) for o in where[:2] if o is not None], str(where[2])
        folder = PurePath(*map(safe_name, names))
        if folders.setdefault(folder, names) != names:
            raise ValueError(f"two classes get the folder {brief(str(folder))}: rename one")
        file = source if '\0' in item else Path(os.path.realpath(source/item))
        if not file.is_relative_to(source):
            raise ValueError(f"the item {brief(item)} is, or links, outside of source {source}: leave it out")
        if os.path.isfile(file): found.append((folder, item, file))
        else: lost.append(item)
    if lost:
        raise FileNotFoundError(f"{len(lost)} items are no files in source {source}, first {brief(lost[0])}: pass the "
                                "folder that the items are relative to; where they are rows of a DataFrame, use apply")
    counts = pd.Series([_same(folder/safe_name(PurePath(item).name)) for folder, item, _ in found]).value_counts()
    res, taken = {}, set()
    for folder, item, file in found:
        place = folder/safe_name(PurePath(item).name)
        if counts[_same(place)] > 1: place = folder/safe_name('__'.join(o for o in PurePath(item).parts if o != os.sep))
        if _same(place) in taken: place = place.with_stem(f'{place.stem[:60]}-{sha1_of(item)[:16]}')
        taken.add(_same(place))
        res[place] = file
    return res


def _same(path):
    "What two paths share that some file system takes for one"
    return unicodedata.normalize('NFC', str(path)).casefold()


def place_file(file, place, copy):
    "`file` at `place`, as a hard link where that works and not `copy`. Raises FileExistsError where `place` is taken"
    if os.path.lexists(place): raise FileExistsError(f"target has {place} already: its file system takes names for one")
    if not copy:
        try: return os.link(file, place)
        except OSError: copy = True  # a file system without hard links, another one, or too many links
    if copy: shutil.copy2(file, place)
