"Data sets of a Learner with decided labels"
import pandas as pd

from .names import as_column_like, as_objects

__all__ = ['relabelled']


class _Decided:
    "Stands for an item whose label was decided, among the items of a target's transforms"
    def __init__(self, value): self.value = value


class _Passing:
    "A transform before the one that has the vocab; a decided label passes it, and the last gives it out"
    def __init__(self, f, last): self.f, self.last = f, last
    def decode(self, o, **kwargs): return self.f.decode(o, **kwargs)

    def __call__(self, o, **kwargs):
        if isinstance(o, _Decided): return o.value if self.last else o
        return self.f(o, **kwargs)

    def __getattr__(self, name):
        if name.startswith('__') or name == 'f': raise AttributeError(name)
        return getattr(self.f, name)


class _Relabelled:
    "A plain data set with decided class indices, whose items keep their names when some are left out"
    def __init__(self, ds, new, items): self.ds, self.new, self.items = ds, new, items
    def __len__(self): return len(self.ds)

    def __getitem__(self, i):
        o = self.ds[i]
        return (*o[:-1], o[-1]*0 + self.new[i]) if i in self.new else o

    def __getattr__(self, name):
        if name.startswith('__') or name == 'ds': raise AttributeError(name)
        return getattr(getattr(self.ds, 'dataset', self.ds), name)


def relabelled(ds, new, names):
    "`ds`, a `folds.view`, with the labels `new`: position -> (class index, class); `names` of its items"
    if hasattr(ds, 'tls'): return _relabelled_lists(ds, new) if new else ds
    if not hasattr(ds, 'procs'): return _Relabelled(ds, {i: code for i, (code, _) in new.items()}, names)
    column = ds.items.columns.get_loc(ds.y_names[0])
    for i, (code, _) in new.items(): ds.items.iloc[i, column] = code
    return ds


def _relabelled_lists(ds, new):
    tl = ds.tls[ds.n_inp]
    items, fs = tl.items, list(tl.tfms.fs)
    k = next((i for i, f in enumerate(fs) if getattr(f, 'vocab', None) is not None), len(fs))
    if isinstance(items, pd.DataFrame) and k == 1 and (column := _column_read(fs[0], items)) is not None:
        values = as_objects(items[column])
        for i, (_, value) in new.items(): values[i] = value
        labels = as_column_like(values, items[column])
        return type(ds)(tls=[o._new(_with_column(o.items, column, labels)) for o in ds.tls], n_inp=ds.n_inp)
    items = [items.iloc[i] for i in range(len(items))] if hasattr(items, 'iloc') else list(items)
    for i, (code, value) in new.items():
        if k == len(fs): value = tl[i]*0 + code
        items[i] = _Decided(value) if k else value
    target = tl._new(items)
    target.tfms.fs = type(tl.tfms.fs)([*(_Passing(f, j == k - 1) for j, f in enumerate(fs[:k])), *fs[k:]])
    return type(ds)(tls=[*ds.tls[:ds.n_inp], target], n_inp=ds.n_inp)


def _with_column(items, name, column):
    "A copy of the DataFrame `items` with that column replaced; the inputs' frame of a text data set may lack it"
    if not isinstance(items, pd.DataFrame) or name not in items: return items
    items = items.copy()
    items[name] = column.array
    return items


def _column_read(f, df):
    "The one column of `df` that fastai's ColReader `f` gives as it is, or None"
    cols = getattr(f, 'cols', None)
    plain = not any(getattr(f, o, None) for o in ('pref', 'suff', 'label_delim'))
    return cols[0] if cols and plain and len(cols) == 1 and isinstance(cols[0], str) and cols[0] in df else None
