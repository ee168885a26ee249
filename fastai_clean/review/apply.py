"Applying the decisions of a review: a new frame, new DataLoaders, a new folder tree"
import copy as copies
import os
import shutil
import unicodedata
from pathlib import Path, PurePath

import numpy as np
import pandas as pd

from .._columns import column_like, objects
from .._files import sibling
from .._text import as_text, brief, safe_name, sha1_of
from .match import Item, class_text, rows_of
from .rounds import deleted_before
from .tree import whole_tree


def apply_frame(
    session,  # A ReviewSession
    df: pd.DataFrame,  # This and the rest as for `ReviewSession.apply`
    column='label',
    id_column=None,
    set: str | None = None,
) -> pd.DataFrame:
    "See `ReviewSession.apply`"
    for name in (column, *(() if id_column is None else (id_column,))):
        if (n := list(df.columns).count(name)) != 1:
            raise ValueError(f"df has {n or 'no'} columns named {name!r}: name the one to use with "
                             "column= or id_column=")

    values = objects(df[column])
    names: list[str | None] = [*map(as_text, df.index.tolist())]
    if id_column is not None:
        names = [None if pd.isna(o) else as_text(o) for o in df[id_column].tolist()]
    others = df.drop(columns=[column, *([] if id_column is None else [id_column])])
    keep, new = _plan(session, names, set, values, 'df', others)
    # The frame's own value of a class keeps its column's type: 3, even if the review has '3'
    known = {as_text(o): o for o in values[::-1]}
    written = all(isinstance(o, str) for o in values)
    for i, key in new.items():
        values[i] = known.get(key, key if written else session.classes[key])
    res = df.copy()
    if new: res[column] = column_like(values, df[column])
    return res.iloc[keep]


def apply_dls(
    session,  # A ReviewSession
    learn,  # This and the rest as for `ReviewSession.apply_dls`
    set: str | None = None,
):  # DataLoaders
    "See `ReviewSession.apply_dls`"
    if session.set is not None and set not in (None, session.set):
        raise ValueError(f"set is {set!r}, but the session is about the {session.set} set: leave "
                         "set out, or pass a session of the other set")
    set = set or session.set or 'train'
    if not hasattr(learn, 'dls'):
        raise TypeError(f"learn is a {type(learn).__name__}: pass the Learner")
    names = ('train', 'valid')[:len(learn.dls.loaders)]
    several = 'set' in session.issues
    found = {*session.issues['set']} if several else {set}
    if not found & {*names}:
        raise ValueError(f"set is {sorted(map(str, found))}, but the Learner has {names}: pass "
                         "the Learner that the issue table was made with, or set=")

    res = copies.copy(learn.dls)
    res.loaders = list(learn.dls.loaders)
    for i, name in enumerate(names):
        if name in found: res.loaders[i] = _clean_dl(session, learn, i, name if several else None)
    return res


def _clean_dl(session, learn, i, set):
    "The Learner's DataLoader `i`, relabelled and without the deleted items"
    # Imported here, so that a review needs neither torch nor fastai
    from ..data import fewer, ids_of, labels_of, new_dl, view
    from ..data.labels import label_column
    from ..data.show import own_frame
    from ..data.subsets import relabelled
    dl = learn.dls.loaders[i]
    labels = labels_of(dl)
    if labels.task != 'classification':
        raise TypeError(f"the Learner's labels are of the task {labels.task}: a review needs one "
                        "class per item")

    vocab = range(labels.targets.max() + 1) if labels.vocab is None else labels.vocab
    codes = {as_text(o): (j, o) for j, o in enumerate(vocab)}
    ids = ids_of(dl.dataset, learn.path)
    given = [vocab[o] for o in labels.targets]
    rows = own_frame(dl.dataset)
    if rows is not None and (column := label_column(dl.dataset)) in rows:
        rows = rows.drop(columns=column)
    keep, new = _plan(session, ids, set, given, 'the DataLoader', rows)
    if not keep:
        raise ValueError(f"no item of data set {i} of the Learner is left: undo some deletions")
    if lost := sorted({o for o in new.values() if o not in codes}):
        raise ValueError(f"the Learner's vocab lacks {len(lost)} decided classes, first "
                         f"{brief(lost[0])}: decide on its classes only")

    at = {o: j for j, o in enumerate(keep)}
    changes = {at[o]: codes[key] for o, key in new.items()}
    ds = relabelled(view(dl.dataset, keep, min(i, 1)), changes, [ids[o] for o in keep])
    return new_dl(dl, ds, np.array(keep), **(fewer(dl, len(keep)) if i == 0 else {}))


def _plan(session, names, set, labels, what, theirs=None):
    """Positions (m,) of the items to keep, and position -> text of the class for the relabelled.
    `names` and `labels` (n,) are those of the data, which messages call `what`; `theirs` its rows,
    if it has any"""
    items, ours = _items(session, set)
    labels = [class_text(o, session.classes) for o in labels]
    at = rows_of(items, names, labels, what, ours, theirs)
    new = {i: items[o].label for o, i in at.items() if items[o].label is not None}
    drop = {i for o, i in at.items() if items[o].action == 'delete'}
    if all(names[i] == o for o, i in at.items()):
        # Deleted in an earlier round, so that the table has them no more
        gone = deleted_before(session, set)
        drop |= {i for i, o in enumerate(names) if o not in at and labels[i] in gone.get(o, ())}
    return [i for i in range(len(names)) if i not in drop], new


def _items(session, set):
    "Text of each id of a set (None: of all) -> its item; and the user's rows of them, or None"
    rows = session.issues
    mask = np.ones(len(rows), dtype=bool)
    if set is not None:
        mask = (rows['set'].map(as_text) == set).to_numpy() if 'set' in rows else ~mask
        if not mask.any():
            raise ValueError(f"set is {set!r}, which the issue table does not have")
    names = rows['id'][mask].map(as_text)
    if twice := names[names.duplicated()].tolist():
        raise ValueError(f"the issue table has {brief(twice[0])} in several sets: say which with "
                         "set=")

    state = session.checked()
    items = {}
    for name, i, given in zip(names.tolist(), session.ids[mask], session.given[mask].tolist()):
        o = state.get(i, {'action': None})
        label = as_text(o['label']) if o['action'] == 'relabel' else None
        items[name] = Item(given, o['action'], label)
    return items, None if session.rows is None else session.rows[mask]


def apply_folder(
    session,  # A ReviewSession
    source,  # This and the rest as for `ReviewSession.apply_folder`
    target,
    copy: bool = False,
    only_reviewed: bool = False,
) -> Path:
    "See `ReviewSession.apply_folder`"
    source = Path(source).resolve()
    target = Path(target)
    used = target.exists() and (not target.is_dir() or any(target.iterdir()))
    if target.is_symlink() or used:
        raise FileExistsError(f"target {target} exists, and is not an empty folder: choose another")
    if target.resolve().is_relative_to(source) or source.is_relative_to(target.resolve()):
        raise ValueError(f"of target {target} and source {source}, one is inside the other: choose "
                         "a target outside")

    if only_reviewed: files = _places(_finals(session), source)
    else: files = whole_tree(session, source)
    with sibling(target) as tmp:
        tmp.mkdir(parents=True)
        # One by one, so that it fails on a file system that takes two folder names for the same
        parents = [o for place in files for o in reversed(place.parents) if o.parts]
        for folder in dict.fromkeys(parents): (tmp/folder).mkdir()
        for place, file in files.items(): _place_file(file, tmp/place, copy)
        if target.exists(): target.rmdir()
        os.replace(tmp, target)
    return target


def _finals(session):
    "Folder names (the set, if there are sets, and the class) and path of every item that stays"
    state = session.checked()
    df = session.issues
    sets = df['set'] if 'set' in df else [None]*len(df)
    rows = zip(session.ids, sets, df['id'], df.given)
    for i, name, path, label in sorted(rows, key=lambda o: o[0]):
        o = state.get(i, {'action': None})
        if o['action'] == 'delete': continue
        if o['action'] == 'relabel': label = o['label']
        yield [str(label)] if name is None else [str(name), str(label)], str(path)


def _places(finals, source):
    "Path in the new tree -> file in `source`"
    found = []
    lost = []
    folders: dict[PurePath, list[str]] = {}
    for names, name in finals:
        path = name
        folder = PurePath(*map(safe_name, names))
        if folders.setdefault(folder, names) != names:
            raise ValueError(f"two classes get the folder {brief(str(folder))}: rename one")
        file = _inside(source, path)
        # The ids of copies of a file are `a.png`, `a.png#2`
        first, mark, k = path.rpartition('#')
        if mark and k.isdecimal() and not os.path.isfile(file):
            path = first
            file = _inside(source, path)
        if os.path.isfile(file): found.append((folder, path, file, name))
        else: lost.append(name)
    if lost:
        raise FileNotFoundError(f"{len(lost)} items are not files in source {source}, first "
                                f"{brief(lost[0])}: pass the folder that the items are relative "
                                "to; if they are rows of a DataFrame, use apply")

    def short(folder, path): return folder/safe_name(PurePath(path).name)
    keys = [_same(short(folder, path)) for folder, path, *_ in found]
    counts = pd.Series(keys, dtype=object).value_counts()
    res = {}
    taken = set()
    for (folder, path, file, name), key in zip(found, keys):
        place = short(folder, path)
        if counts[key] > 1:
            parts = [o for o in PurePath(path).parts if o != os.sep]
            place = folder/safe_name('__'.join(parts))
        if _same(place) in taken:
            place = place.with_stem(f'{place.stem[:60]}-{sha1_of(name)[:16]}')
        taken.add(_same(place))
        res[place] = file
    return res


def _inside(source, path):
    "The file `path` in `source`, links followed"
    # realpath refuses a NUL, and a link in `source` may lead out of it
    file = source if '\0' in path else Path(os.path.realpath(source/path))
    if file.is_relative_to(source): return file
    raise ValueError(f"the item {brief(path)} is, or links, outside of source {source}: leave it "
                     "out")


def _same(path):
    "A text that is the same for two paths if some file system takes them for the same"
    return unicodedata.normalize('NFC', str(path)).casefold()


def _place_file(file, place, copy):
    "Put `file` at `place`, as a hard link if that works and not `copy`"
    if os.path.lexists(place):
        raise FileExistsError(f"target has {place} already: its file system takes two names for "
                              "the same; choose a target on another one")
    if not copy:
        try: return os.link(file, place)
        except OSError: pass  # a file system without hard links, another one, or too many links
    shutil.copy2(file, place)
