"Which items a batch holds: their positions travel with the batch, so that nothing can shift them"
from weakref import WeakKeyDictionary

import numpy as np
import torch
from fastai.data.load import DataLoader
from fastai.text.data import LMDataLoader
from fastai.torch_basics import Pipeline
from torch.utils.data import DataLoader as TorchLoader
from torch.utils.data import IterableDataset

KEY = 'fastai_clean_positions'


class BatchItems:
    """Between `start` and `stop`, `idxs` (bs,), a LongTensor on the CPU, holds the positions in `dl.dataset` of the
    items of the batch that `dl` gave last.

    The position goes with each item through workers, skipped items, sorting and weights, and is taken off before the
    batch is seen; batches and random numbers stay what they are. Several may follow one DataLoader at a time. Read
    `idxs` in `before_batch`: another pass over `dl` changes it. Where the data set's items are whole batches
    (`bs=None`), it is the one position of each. Raises TypeError for a DataLoader whose items have no position: of an
    iterable data set, a language model's, distributed, or with persistent workers."""

    def __init__(self,
        dl,  # fastai or torch DataLoader over a data set that can be indexed
    ):
        ours = isinstance(dl, DataLoader) and dl.indexed and not isinstance(dl, LMDataLoader) and \
            getattr(dl.create_batches, '__func__', None) is DataLoader.create_batches
        if not ours and (not isinstance(dl, TorchLoader) or isinstance(dl.dataset, IterableDataset)):
            found = f"{type(dl).__name__} over a {type(getattr(dl, 'dataset', None)).__name__}"
            raise TypeError(f"the DataLoader is a {found}, whose items have no position: use fastai's or torch's "
                            "DataLoader over a data set with __getitem__")
        if getattr(dl, 'persistent_workers', False):
            raise TypeError("the DataLoader has persistent workers, which keep the data set as it was: pass "
                            "persistent_workers=False")
        self.dl, self.kind, self.on = dl, _Fastai if ours else _Torch, None

    def start(self):
        "Follow the DataLoader from its next iteration on"
        if self.on is None:
            self.on = _followed.get(self.dl) or self.kind(self.dl)
            _followed[self.dl] = self.on
            self.on.users += 1
        return self

    def stop(self):
        "Leave the DataLoader as it was, once the last that follows it stops; not within a pass over it"
        if self.on is None: return
        self.on.users -= 1
        if not self.on.users:
            self.on.restore()
            del _followed[self.dl]
        self.on = None

    @property
    def idxs(self):
        "Positions (bs,) of the items of the batch that was given last; empty before the first"
        return self.on.idxs


_followed = WeakKeyDictionary()


class _Followed:
    "A DataLoader with other attributes for a while"
    def __init__(self, dl, names):
        self.dl, self.users, self.idxs = dl, 0, torch.zeros(0, dtype=torch.long)
        self.before = {o: vars(dl)[o] for o in names if o in vars(dl)}
        self.names = names

    def put(self, **attrs): vars(self.dl).update(attrs)

    def restore(self):
        for name in self.names: vars(self.dl).pop(name, None)
        self.put(**self.before)

    def bare(self, batch):
        "The batch as it would be, its positions noted"
        if not isinstance(batch, dict) or KEY not in batch: return batch
        self.idxs = torch.as_tensor(batch[KEY])
        return batch['batch']


class _Fastai(_Followed):
    def __init__(self, dl):
        super().__init__(dl, ('do_item', 'do_batch', 'after_batch'))
        self.item_of, self.batch_of, after = dl.do_item, dl.do_batch, dl.after_batch
        self.put(do_item=self.do_item, do_batch=self.do_batch, after_batch=_Bare(after, self))

    def do_item(self, s):
        item = self.item_of(s)
        return None if item is None else (s, item)

    def do_batch(self, b):
        idxs, items = ([b[0]], b[1]) if self.dl.prebatched else (list(o) for o in zip(*b))
        batch = self.batch_of(items)
        return batch if None in idxs else {KEY: np.array(idxs, dtype=np.int64), 'batch': batch}

    def bare(self, batch):
        "As above; pinned memory makes a list of a tuple"
        batch = super().bare(batch)
        return tuple(batch) if self.dl.pin_memory and type(batch) is list else batch


class _Bare(Pipeline):
    """A DataLoader's batch transforms, for batches that carry positions; what is set on it is set on them. A copy for
    another DataLoader is the transforms alone, or lets its batches through."""
    def __init__(self, after, followed): vars(self).update(after=after, followed=followed)
    def __call__(self, o): return self.after(self.followed.bare(o))
    def __setattr__(self, name, value): setattr(self.after, name, value)

    def __getattr__(self, name):
        if name.startswith('__') or name in ('after', 'followed'): raise AttributeError(name)
        if name == 'fs' and not isinstance(self.after, Pipeline): return []
        return getattr(self.after, name)


class _Torch(_Followed):
    def __init__(self, dl):
        super().__init__(dl, ('_get_iterator',))
        self.iterator = dl._get_iterator
        self.put(_get_iterator=self.bare_iterator)

    def bare_iterator(self):
        "torch's iterator, which takes data set and collate_fn over as it is made, of numbered items"
        dl = self.dl
        dataset, collate_fn = dl.dataset, dl.collate_fn
        self.put(dataset=_Numbered(dataset), collate_fn=_Collate(collate_fn, dl.batch_sampler is None))
        try: return map(self.bare, self.iterator())
        finally: self.put(dataset=dataset, collate_fn=collate_fn)


class _Numbered:
    "A data set whose items come with their positions"
    def __init__(self, ds):
        self.ds = ds
        if getattr(ds, '__getitems__', None): self.__getitems__ = self.items

    def items(self, idxs): return list(zip(idxs, self.ds.__getitems__(idxs), strict=True))
    def __len__(self): return len(self.ds)
    def __getitem__(self, i): return i, self.ds[i]


class _Collate:
    def __init__(self, f, one): self.f, self.one = f, one

    def __call__(self, b):
        idxs, items = ([b[0]], b[1]) if self.one else (list(o) for o in zip(*b))
        return {KEY: np.array(idxs, dtype=np.int64), 'batch': self.f(items)}
