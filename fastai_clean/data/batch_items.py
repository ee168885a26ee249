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

# Counting along (`get_idxs` in chunks of the batch size) would be shorter. But one item that raises
# SkipItemException shifts every position after it, and nobody would notice.


class BatchItems:
    """Between `start` and `stop`, `idxs` (bs,) holds the positions in `dl.dataset` of the items of
    the last batch of `dl`: a LongTensor on the CPU.

    The position goes with each item through workers, skipped items, sorting and weights, and is
    taken off before the batch is seen; batches and random numbers stay what they are. Several may
    follow one DataLoader at a time. Read `idxs` in `before_batch`: another pass over `dl` changes
    it. If the items of the data set are whole batches (`bs=None`), it is the one position of each.

    Raises TypeError for a DataLoader whose items have no position: one over an iterable data set,
    a language model's, a distributed one, or one with persistent workers."""

    def __init__(self,
        dl: DataLoader | TorchLoader,  # A DataLoader over a data set that can be indexed
    ):
        ours = _is_plain(dl)
        iterable = isinstance(getattr(dl, 'dataset', None), IterableDataset)
        if not ours and (not isinstance(dl, TorchLoader) or iterable):
            found = f"{type(dl).__name__} over a {type(getattr(dl, 'dataset', None)).__name__}"
            raise TypeError(f"the DataLoader is a {found}, whose items have no position: use "
                            "fastai's or torch's DataLoader over a data set with __getitem__")
        if getattr(dl, 'persistent_workers', False):
            raise TypeError("the DataLoader has persistent workers, which keep the data set as it "
                            "was: pass persistent_workers=False")

        self.dl = dl
        self.kind = _Fastai if ours else _Torch
        self.on = None

    def start(self) -> 'BatchItems':
        "Follow the DataLoader from its next iteration on"
        if self.on is None:
            # Nested wrappers could not be taken off in any order, so all followers share one
            self.on = _followed.get(self.dl) or self.kind(self.dl)
            _followed[self.dl] = self.on
            self.on.users += 1
        return self

    def stop(self) -> None:
        """Leave the DataLoader as it was, once its last follower stops; not within a pass
        over it"""
        if self.on is None: return
        self.on.users -= 1
        if not self.on.users:
            self.on.restore()
            del _followed[self.dl]
        self.on = None

    @property
    def idxs(self) -> torch.Tensor:
        "Positions (bs,) of the items of the last batch; empty before the first"
        return self.on.idxs


_followed = WeakKeyDictionary()


def _is_plain(dl):
    """Whether `dl` is a fastai DataLoader that makes its batches of indexed items in fastai's own
    way"""
    if not isinstance(dl, DataLoader) or isinstance(dl, LMDataLoader) or not dl.indexed:
        return False
    # DistributedDL overrides it, and a user may pass another as an argument
    return getattr(dl.create_batches, '__func__', None) is DataLoader.create_batches


class _Followed:
    "A DataLoader whose attributes are replaced for a while"
    def __init__(self, dl, names):
        self.dl = dl
        self.users = 0
        self.idxs = torch.zeros(0, dtype=torch.long)
        self.before = {o: vars(dl)[o] for o in names if o in vars(dl)}
        self.names = names

    # Into `vars`, since torch forbids setting `dataset` once a DataLoader is made
    def put(self, **attrs): vars(self.dl).update(attrs)

    def restore(self):
        for name in self.names: vars(self.dl).pop(name, None)
        self.put(**self.before)

    def bare(self, batch):
        "The batch without its positions, which are noted"
        if not isinstance(batch, dict) or KEY not in batch: return batch
        self.idxs = torch.as_tensor(batch[KEY])
        return batch['batch']


class _Fastai(_Followed):
    """A fastai DataLoader: `do_item` adds the position, `do_batch` gathers it, `after_batch` drops
    it"""
    def __init__(self, dl):
        super().__init__(dl, ('do_item', 'do_batch', 'after_batch'))
        self.item_of = dl.do_item
        self.batch_of = dl.do_batch
        self.put(do_item=self.do_item, do_batch=self.do_batch,
                 after_batch=_Bare(dl.after_batch, self))

    def do_item(self, s):
        item = self.item_of(s)
        # None is what fastai makes of SkipItemException
        return None if item is None else (s, item)

    def do_batch(self, b):
        idxs, items = _unzipped(b, self.dl.prebatched)
        batch = self.batch_of(items)
        return batch if None in idxs else {KEY: np.array(idxs, dtype=np.int64), 'batch': batch}

    def bare(self, batch):
        batch = super().bare(batch)
        # Pinning memory turns a tuple that is in a dict into a list
        return tuple(batch) if self.dl.pin_memory and type(batch) is list else batch


class _Bare(Pipeline):
    """A DataLoader's batch transforms, for batches that carry positions; what is set on it is set
    on them. Another DataLoader that takes it over gets the transforms alone, or batches without
    positions, which pass unchanged."""
    def __init__(self, after, followed): vars(self).update(after=after, followed=followed)
    def __call__(self, o): return self.after(self.followed.bare(o))
    def __setattr__(self, name, value): setattr(self.after, name, value)

    def __getattr__(self, name):
        if name.startswith('__') or name in ('after', 'followed'): raise AttributeError(name)
        if name == 'fs' and not isinstance(self.after, Pipeline): return []
        return getattr(self.after, name)


class _Torch(_Followed):
    "A torch DataLoader: its iterator is made over numbered items"
    def __init__(self, dl):
        super().__init__(dl, ('_get_iterator',))
        self.iterator = dl._get_iterator
        self.put(_get_iterator=self.bare_iterator)

    def bare_iterator(self):
        dl = self.dl
        dataset = dl.dataset
        collate_fn = dl.collate_fn
        # The iterator takes both over as it is made, so that they can be put back at once
        one = dl.batch_sampler is None
        self.put(dataset=_Numbered(dataset), collate_fn=_Collate(collate_fn, one))
        try: return map(self.bare, self.iterator())
        finally: self.put(dataset=dataset, collate_fn=collate_fn)


class _Numbered:
    "A data set whose items come with their positions"
    def __init__(self, ds):
        self.ds = ds
        # torch calls it, if it exists, to read a whole batch at once
        if getattr(ds, '__getitems__', None): self.__getitems__ = self.items

    def items(self, idxs): return list(zip(idxs, self.ds.__getitems__(idxs), strict=True))
    def __len__(self): return len(self.ds)
    def __getitem__(self, i): return i, self.ds[i]


class _Collate:
    "A collate function for numbered items; a class, since workers that are spawned pickle it"
    def __init__(self, f, one):
        self.f = f
        self.one = one

    def __call__(self, b):
        idxs, items = _unzipped(b, self.one)
        return {KEY: np.array(idxs, dtype=np.int64), 'batch': self.f(items)}


def _unzipped(b, one):
    "Positions and items of a batch, or of `one` numbered item that is a batch itself"
    if one: return [b[0]], b[1]
    idxs, items = zip(*b)
    return list(idxs), list(items)
