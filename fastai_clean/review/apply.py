"What the decisions make of the data"
import copy
import os
import shutil
from pathlib import Path
from uuid import uuid4

import numpy as np
import pandas as pd

from .folder import place_file, tree_places
from .names import as_column_like, as_objects, as_text, brief, short_name


class Applied:
    "Part of ReviewSession: new data, the old stay as they are"

    def apply(self,
        df,  # The DataFrame whose items the issue table is of; it stays as it is
        *,
        column='label',  # Its column of labels
        id_column=None,  # Its column of the items' names, such as paths; None: its index
        set=None,  # The set that `df` is, where the issue table has several; None: all
    ) -> pd.DataFrame:
        """A new DataFrame, relabelled and without the deleted rows; rows that the issue table does not know stay. Its
        own result gives itself.

        Raises ValueError where items of the table are missing from `df`, unless they were deleted, or appear twice,
        and where a decided item's label is neither the given nor the decided one."""
        for name in (column, *(() if id_column is None else (id_column,))):
            if list(df.columns).count(name) != 1:
                raise ValueError(f"df has {list(df.columns).count(name)} columns {name!r}, not 1: see column= and "
                                 "id_column=")
        values = as_objects(df[column])
        keep, new = self._plan(df.index if id_column is None else df[id_column], set, values, 'df')
        known = {short_name(o): o for o in values[::-1]}
        for i, key in new.items(): values[i] = known.get(key, self._labels[key])
        res = df.copy()
        if new: res[column] = as_column_like(values, df[column])
        return res.iloc[keep]

    def apply_dls(self,
        learn,  # Learner whose data the issue table is of; it and its DataLoaders stay as they are
        set='train',  # 'train' or 'valid': the set that the table is of, where it has no column `set`
    ):
        """New DataLoaders, relabelled and without the deleted items, in the training and the validation set where the
        table has a column `set`. Nothing is fitted again: vocab and transforms stay. Where a ColReader reads the labels
        of a DataFrame its copy is changed, elsewhere what the target's transforms get. Pass them to a new Learner.

        Raises as `apply` does, ValueError where no item of a set is left or a label is not in its vocab, and TypeError
        where there is not one class an item."""
        if not hasattr(learn, 'dls'): raise TypeError(f"learn is a {type(learn).__name__}: pass the Learner")
        names = ('train', 'valid')[:len(learn.dls.loaders)]
        found = {*self.issues['set']} if 'set' in self.issues else {set}
        if not found & {*names}: raise ValueError(f"set is {sorted(map(str, found))}, none of the Learner's {names}")
        res = copy.copy(learn.dls)
        res.loaders = list(learn.dls.loaders)
        for i, name in enumerate(names):
            if name in found: res.loaders[i] = self._cleaned(learn, i, name if 'set' in self.issues else None)
        return res

    def _cleaned(self, learn, i, name):
        from ..data import fewer, ids_of, labels_of, new_dl, view
        from ..data.subsets import relabelled
        dl, labels = learn.dls.loaders[i], labels_of(learn.dls.loaders[i])
        if labels.task != 'classification':
            raise TypeError(f"the Learner's labels are of {labels.task}: decisions are on one class an item")
        vocab = range(labels.targets.max() + 1) if labels.vocab is None else labels.vocab
        codes = {short_name(o): (j, o) for j, o in enumerate(vocab)}
        ids = ids_of(dl.dataset, learn.path)
        keep, new = self._plan(ids, name, [vocab[o] for o in labels.targets], 'the DataLoader')
        if not keep: raise ValueError(f"no item of data set {i} of the Learner is left: undo some deletions")
        if lost := sorted({o for o in new.values() if o not in codes}):
            raise ValueError(f"the Learner's vocab lacks {len(lost)} decided classes, first {brief(lost[0])}")
        at = {o: j for j, o in enumerate(keep)}
        ds = relabelled(view(dl.dataset, keep, min(i, 1)), {at[o]: codes[k] for o, k in new.items()},
                         [ids[o] for o in keep])
        return new_dl(dl, ds, np.array(keep), **(fewer(dl, len(keep)) if i == 0 else {}))

    def apply_folder(self,
        source,  # Folder that the items are paths in, such as `learn.path`; it stays as it is
        target,  # Folder to make, outside of `source`; may exist if empty
        *,
        copy=False,  # Whether to copy the files; False: hard links, copies where the file system has none
    ) -> Path:
        """A new folder tree, target/label/name, or target/set/label/name where the table has a column `set`, of all
        items of the table but the deleted. A hard link is the same file: writing into one changes both.

        Files of one name and label get their path in `source`, joined by '__'. A label or name that is no safe file
        name is made one, with a hash. The tree is made whole or not at all. Raises ValueError for items that are, or
        link, outside of `source`, FileNotFoundError for those that are no file, FileExistsError for a `target` with
        anything in it."""
        source, target = Path(source).resolve(), Path(target)
        if target.is_symlink() or target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise FileExistsError(f"target {target} exists, and is not an empty folder: choose another")
        if target.resolve().is_relative_to(source) or source.is_relative_to(target.resolve()):
            raise ValueError(f"target {target} and source {source} lie within each other: choose a target outside")
        files = tree_places(self._finals(), source)
        tmp = target.with_name(f'.{uuid4().hex}')
        try:
            tmp.mkdir(parents=True)
            for folder in dict.fromkeys(o for place in files for o in reversed(place.parents)):
                if folder.parts: (tmp/folder).mkdir()
            for place, file in files.items(): place_file(file, tmp/place, copy)
            if target.exists(): target.rmdir()
            os.replace(tmp, target)
        finally: shutil.rmtree(tmp, ignore_errors=True)
        return target

    def _finals(self):
        "Set or None, class, and item of every item that was not deleted, in the order of their ids"
        state, df = self._current(), self.issues
        sets = df['set'] if 'set' in df else [None]*len(df)
        for i, name, item, given in sorted(zip(df.id, sets, df.item, df.given), key=lambda o: o[0]):
            o = state.get(i, {'action': None})
            if o['action'] != 'delete': yield name, o['label'] if o['action'] == 'relabel' else given, item

    def _plan(self, names, set, labels, what):
        "Positions (m,) of the items to keep, and position -> class key for the relabelled; see `apply`"
        rows = self.issues
        if set is not None:
            rows = rows[rows['set'].map(as_text) == set] if 'set' in rows else rows[:0]
            if rows.empty: raise ValueError(f"set is {set!r}, which the issue table does not have")
        items = rows.item.map(as_text)
        if twice := items[items.duplicated()].tolist():
            raise ValueError(f"the issue table has {brief(twice[0])} in several sets: say which with set=")
        given, ids, at = dict(zip(items, rows.given.map(short_name))), dict(zip(items, rows.id)), {}
        for i, name in enumerate(map(as_text, names)):
            if name in at: raise ValueError(f"{what} has the item {brief(name)} twice: items need names of their own")
            if name in ids: at[name] = i
        state = self._current()
        action = {o: state[i]['action'] for o, i in ids.items() if i in state}
        gone = [o for o in ids if o not in at and action.get(o) != 'delete']
        if gone or (not at and len(names)):
            first, other = (gone or list(ids))[0], as_text(next(iter(names), ''))
            raise ValueError(f"{len(gone) or len(ids)} of {len(ids)} items of the issue table are not in {what}, first "
                             f"{brief(first)}; it has {brief(other)}: pass the data that the table was made from (see "
                             f"{'id_column=' if what == 'df' else 'set='})")
        new = {at[o]: short_name(state[ids[o]]['label']) for o in at if action.get(o) == 'relabel'}
        for name, i in at.items():
            if action.get(name) in (None, 'delete'): continue
            if short_name(labels[i]) not in (given[name], new.get(i)):
                raise ValueError(f"{what} gives the item {brief(name)} the label {brief(labels[i])}, but the issue "
                                 f"table {brief(given[name])}: pass the data that the table was made from")
        drop = {i for name, i in at.items() if action.get(name) == 'delete'}
        return [i for i in range(len(names)) if i not in drop], new
