"The positions of every batch, proven by items that are their own positions"
import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.core import Callback
from fastai.callback.data import PartialDL, WeightedDL
from fastai.data.core import TfmdDL
from fastai.data.load import DataLoader, SkipItemException
from fastai.tabular.all import CategoryBlock, FillMissing, TabDataLoader, TabularPandas
from fastai.tabular.data import TabWeightedDL
from fastai.text.data import LMDataLoader, SortedDL
from fastai.torch_basics import Transform
from helpers import digit_dls, tiny_learn
from torch.utils.data import DataLoader as TorchLoader
from torch.utils.data import IterableDataset, TensorDataset, WeightedRandomSampler

from fastai_clean.data.batch_items import BatchItems

N = 23


class Numbers:
    "Item i is (i, i), as often as it is read; some items are skipped"
    def __init__(self, skip=()): self.skip = skip
    def __len__(self): return N

    def __getitem__(self, i):
        if i in self.skip: raise SkipItemException
        return torch.full((1 + i % 3,), i), torch.tensor(i)


def padded(b): return [(torch.cat([x, x[:1].expand(4 - len(x))]), y) for x, y in b]
def plus_thousand(x): return x + 1000


def table_dl(cls, **kw):
    df = pd.DataFrame({'x': np.arange(N, dtype=float), 'y': np.arange(N) % 2})
    to = TabularPandas(df, [FillMissing], cont_names=['x'], y_names='y', y_block=CategoryBlock())
    return cls(to.new(to.items), bs=4, **kw)


LOADERS = {
    'shuffled': lambda **kw: DataLoader(Numbers(), bs=4, shuffle=True, before_batch=padded, **kw),
    'in order': lambda **kw: TfmdDL(Numbers(), bs=4, before_batch=padded, **kw),
    'skipped': lambda **kw: TfmdDL(Numbers({0, 3, 4, 5, 6, 7, 22}), bs=4, shuffle=True, before_batch=padded, **kw),
    'transformed': lambda **kw: TfmdDL(Numbers(), bs=4, shuffle=True, before_batch=padded,
                                         after_batch=plus_thousand, **kw),
    'last dropped': lambda **kw: TfmdDL(Numbers(), bs=4, shuffle=True, drop_last=True, before_batch=padded, **kw),
    'sorted': lambda **kw: SortedDL(Numbers(), sort_func=lambda o: len(o[0]), bs=4, shuffle=True,
                                     before_batch=padded, **kw),
    'weighted': lambda **kw: WeightedDL(Numbers(), wgts=np.arange(N), bs=4, shuffle=True, before_batch=padded, **kw),
    'partial': lambda **kw: PartialDL(Numbers(), partial_n=9, bs=4, shuffle=True, before_batch=padded, **kw),
    'one by one': lambda **kw: DataLoader(Numbers(), bs=None, shuffle=True, **kw),
    'table': lambda **kw: table_dl(TabDataLoader, shuffle=True, **kw),
    'weighted table': lambda **kw: table_dl(TabWeightedDL, shuffle=True, wgts=np.arange(1, N + 1), **kw),
    "torch's": lambda **kw: TorchLoader(TensorDataset(*[torch.arange(N)]*2), batch_size=4, shuffle=True, **kw),
    "torch's weighted": lambda **kw: TorchLoader(TensorDataset(*[torch.arange(N)]*2), batch_size=4,
                                                 sampler=WeightedRandomSampler(np.arange(1, N + 1), 12), **kw),
    "torch's one by one": lambda **kw: TorchLoader(TensorDataset(*[torch.arange(N)]*2), batch_size=None, **kw)}


def first_of(batch):
    x = batch[1] if len(batch) == 3 else batch[0]
    return (x if x.ndim < 2 else x[:, 0]).reshape(-1).long() % 1000


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('kind', LOADERS)
def test_every_batch_holds_the_items_at_its_positions(kind, workers):
    dl = LOADERS[kind](num_workers=workers)
    items, met = BatchItems(dl).start(), []
    for _ in range(2):
        for batch in dl:
            assert items.idxs.dtype == torch.long
            assert torch.equal(items.idxs, first_of(batch)[:len(items.idxs)])
            met += items.idxs.tolist()
    assert len(met) >= 2*9
    if kind == 'skipped': assert sorted(met) == sorted([*({*range(N)} - {0, 3, 4, 5, 6, 7, 22})]*2)


@pytest.mark.parametrize('kind', LOADERS)
def test_batches_and_attributes_are_as_without(kind):
    def batches(follow):
        torch.manual_seed(0)
        np.random.seed(0)
        dl = LOADERS[kind](num_workers=0)
        if hasattr(dl, 'rng'): dl.rng.seed(0)
        before, items = dict(vars(dl)), BatchItems(dl)
        if follow: items.start()
        first = list(dl)
        items.stop()
        after = dict(vars(dl))
        for name in ('rng', 'it', '_DataLoader__idxs', 'i', '_types', '_n_inp'):
            before.pop(name, None), after.pop(name, None)
        assert before.keys() == after.keys() and all(before[o] is after[o] for o in before)
        return first + list(dl), torch.get_rng_state(), np.random.get_state()[1]
    plain, followed = batches(False), batches(True)
    assert len(plain[0]) == len(followed[0])
    for a, b in zip(plain[0], followed[0]):
        assert type(a) is type(b) and all(type(x) is type(y) and str(x) == str(y) for x, y in zip(a, b))
    assert torch.equal(plain[1], followed[1]) and (plain[2] == followed[2]).all()


def test_two_that_follow_one_loader_stop_in_any_order():
    dl = LOADERS['shuffled']()
    a, b = BatchItems(dl).start(), BatchItems(dl).start()
    batch = next(iter(dl))
    assert torch.equal(a.idxs, first_of(batch)) and torch.equal(a.idxs, b.idxs)
    a.stop()
    a.stop()
    for batch in dl: assert torch.equal(b.idxs, first_of(batch))
    b.stop()
    assert not {'do_item', 'do_batch'} & vars(dl).keys()
    a.start()
    for batch in dl: assert torch.equal(a.idxs, first_of(batch))


def test_loaders_made_of_a_followed_one_follow_nothing():
    dl = LOADERS['transformed']()
    items = BatchItems(dl).start()
    next(iter(dl))
    kept = items.idxs.clone()
    new = dl.new(Numbers(), shuffle=False)
    batches = list(new)
    assert torch.equal(first_of(batches[0]), torch.arange(4)) and isinstance(batches[0], tuple)
    assert torch.equal(items.idxs, kept)


def test_predictions_between_batches_leave_the_positions(monkeypatch):
    learn = tiny_learn(digit_dls(range(40), range(40, 60)))
    seen = []

    class Watch(Callback):
        def before_train(self): self.items = BatchItems(self.dls.train).start()
        def after_train(self): self.items.stop()

        def after_batch(self):
            if not self.training: return
            rows = self.dls.train_ds.items
            targets = torch.tensor([int(self.dls.train_ds[int(i)][1]) for i in self.items.idxs])
            seen.append(torch.equal(targets, self.y.cpu().as_subclass(torch.Tensor)))
            assert len(rows) == 40
    with learn.no_bar(), learn.no_logging(): learn.fit(2, cbs=Watch())
    assert len(seen) > 2 and all(seen)


class PlusHundred(Transform):
    "A training augmentation"
    split_idx = 0
    def encodes(self, x: torch.Tensor): return x + 100 if x.is_floating_point() else x


def test_first_epoch_followed_is_augmented_and_validation_is_not():
    dls = digit_dls(range(20), range(20, 30), after_batch=[PlusHundred()])
    items = BatchItems(dls.train).start()
    assert next(iter(dls.train))[0].min() >= 100 and next(iter(dls.valid))[0].max() <= 1
    dls.train.after_batch.add([Transform(plus_thousand)])
    items.stop()
    assert next(iter(dls.train))[1].min() >= 1000


def test_torch_data_sets_read_in_whole_batches_are_still():
    class Batches(TensorDataset):
        def __getitems__(self, idxs): return [(self.tensors[0][i], torch.tensor(len(idxs))) for i in idxs]
    dl = TorchLoader(Batches(torch.arange(N)), batch_size=4, shuffle=True)
    items = BatchItems(dl).start()
    for x, y in dl: assert torch.equal(items.idxs, x) and (y == len(x)).all()


class MadeElsewhere(TfmdDL):
    "As fastai's DistributedDL"
    def create_batches(self, samps): return iter(samps)


class Endless(IterableDataset):
    def __iter__(self): return iter(range(5))


@pytest.mark.parametrize('make', [
    lambda: TorchLoader(Endless()), lambda: DataLoader(Endless(), bs=2), lambda: [1, 2],
    lambda: LMDataLoader([torch.arange(99)], bs=2, seq_len=8), lambda: MadeElsewhere(Numbers(), bs=2),
    lambda: DataLoader(Numbers(), bs=4, create_batches=iter),
    lambda: TorchLoader(Numbers(), num_workers=1, persistent_workers=True)])
def test_loaders_without_positions_are_refused(make):
    with pytest.raises(TypeError, match='have no position|persistent'): BatchItems(make())
