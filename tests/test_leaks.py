"Out-of-fold is checked: copies share a fold, weights that know the labels are named, labels stay"
import random
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.data.block import CategoryBlock, DataBlock, MultiCategoryBlock, TransformBlock
from fastai.data.core import DataLoaders, Datasets, TfmdLists
from fastai.data.transforms import ColReader, RandomSplitter
from fastai.losses import BCEWithLogitsLossFlat
from fastai.tabular.core import Categorify
from fastai.tabular.data import TabularDataLoaders
from fastai.torch_core import TensorCategory
from fasttransform import Transform
from helpers import DIGITS, PIXELS, digit_dls, tiny_learn, tiny_model
from torch.utils.data import Subset, TensorDataset

from fastai_clean.all import ConfidentLearningCallback
from fastai_clean.data import fold_numbers
from fastai_clean.data.labels import Labels
from fastai_clean.oof.leaks import copies_of, warn_of_known_labels

# Copies

FRAME = pd.DataFrame({'i': [0, 1, 2, 1, 0], 'text': list('abcba'), 'label': list('xyxxy')})
T = torch.arange(6.).reshape(3, 2)


def lists(items, **kwargs):
    return Datasets(items, [[kwargs.get('get_x', lambda o: o)], [lambda o: 0]])


@pytest.mark.parametrize('ds', [
    DataBlock((TransformBlock, CategoryBlock), get_x=ColReader('i'), get_y=ColReader('label')).datasets(FRAME).train,
    lists(list('abcba')), lists([0, 1, 2, 1, 0]), lists([['a', 1], ['b', 2], ['c', 3], ['b', 2], ['a', 1]]),
    [(T[i], y) for i, y in zip([0, 1, 2, 1, 0], range(5))], TensorDataset(T[[0, 1, 2, 1, 0]], torch.arange(5)),
    Subset(TensorDataset(T, torch.arange(3)), [0, 1, 2, 1, 0])],
    ids=['frame', 'texts', 'numbers', 'lists', 'tuples', 'tensors', 'subset'])
def test_copies_have_the_same_number_whatever_their_label(ds):
    if isinstance(ds, Datasets) and isinstance(ds.items, pd.DataFrame):
        assert len(set(zip(ds.items.i, copies_of(ds)))) == ds.items.i.nunique() == len(set(copies_of(ds)))
    else: assert copies_of(ds).tolist() == [0, 1, 2, 1, 0]


def test_rows_of_a_frame_that_a_function_reads_are_copies_if_all_but_the_label_is_equal():
    block = DataBlock((TransformBlock, CategoryBlock), get_x=lambda r: r.i, get_y=ColReader('label'), splitter=lambda o: (range(5), []))
    assert copies_of(block.datasets(FRAME).train).tolist() == [0, 1, 2, 1, 0]
    assert copies_of(block.datasets(FRAME.assign(text=range(5))).train).tolist() == [0, 1, 2, 3, 4]


def test_copies_in_a_table_are_rows_with_equal_inputs():
    df = pd.DataFrame({'a': [1., 2, 1, 2, 3], 'b': list('xyxxy'), 'y': list('pqqpq')})
    dls = TabularDataLoaders.from_df(df, cat_names=['b'], cont_names=['a'], y_names='y', procs=[Categorify], valid_idx=[3], bs=2)
    assert copies_of(dls.train_ds).tolist() == [0, 1, 0, 2]


def test_data_sets_that_are_read_from_elsewhere_are_not_read_for_it():
    class Reads(torch.utils.data.Dataset):
        def __len__(self): return 3
        def __getitem__(self, i): raise RuntimeError
    assert copies_of(Reads()) is None and copies_of(Subset(Reads(), [0, 2, 0])).tolist() == [0, 1, 0]


def test_folds_without_copies_are_those_of_before():
    y = DIGITS.target[:90]
    assert np.array_equal(fold_numbers(y, 3, copies=np.arange(90)), fold_numbers(y, 3))


@pytest.mark.parametrize('seed', range(5))
def test_copies_share_a_fold_and_every_fold_has_its_share(seed):
    rng = np.random.default_rng(seed)
    copies = rng.integers(0, 40, 200)
    y = (copies + rng.integers(0, 2, 200)) % 3
    fold = fold_numbers(y, 4, seed=seed, copies=copies)
    assert pd.Series(fold).groupby(copies).nunique().max() == 1 and np.bincount(fold).min() > 20


def repeated(copies):
    items = np.random.default_rng(0).permutation(np.repeat(np.arange(60), copies))
    ds = Datasets([*items.tolist(), *range(60, 80)], [[lambda i: PIXELS[i]], [lambda i: int(DIGITS.target[i])]],
                  splits=[range(60*copies), range(60*copies, 60*copies + 20)])
    return ds.dataloaders(bs=16, device='cpu', num_workers=0), items


def test_copies_are_said_and_copies_that_splits_parts_too():
    dls, items = repeated(3)
    learn = tiny_learn(dls)
    with pytest.warns(UserWarning, match='120 of the 180 training items are duplicates of others, for example .*: copies share a fold'):
        learn.fit(1, cbs=ConfidentLearningCallback(3, mode='folds'))
    assert pd.Series(learn.oof.fold).groupby(items).nunique().max() == 1
    with pytest.warns(UserWarning, match='splits puts copies of 60 items in several folds'):
        tiny_learn(dls).fit(1, cbs=ConfidentLearningCallback(3, splits=pd.Series(items).groupby(items).cumcount().to_numpy(), mode='folds'))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        tiny_learn(dls).fit(1, cbs=ConfidentLearningCallback(3, splits=items % 3, mode='folds'))
        tiny_learn(repeated(1)[0]).fit(1, cbs=ConfidentLearningCallback(3, mode='folds'))


# Weights that know the labels

@pytest.mark.parametrize('how', ['load', 'state_dict', 'model', 'oof_preds'])
def test_weights_that_know_the_labels_are_named(how, tmp_path):
    dls = digit_dls(range(120), range(120, 150))
    old = tiny_learn(dls, path=tmp_path)
    old.fit(25, 1e-2)
    old.save('stage-1')
    new = tiny_learn(dls, path=tmp_path, model=old.model if how == 'model' else None)
    if how in ('load', 'oof_preds'): new.load('stage-1', with_opt=False)
    if how == 'state_dict': new.model.load_state_dict(old.model.state_dict())
    with pytest.warns(UserWarning, match='seems to have been trained before: it predicts 100% of the training labels'):
        if how == 'oof_preds': new.oof_preds(lambda o: o.fit(1), n_folds=2)
        else: new.fit(1, cbs=ConfidentLearningCallback(2, mode='folds'))


@pytest.mark.parametrize('seed', range(10))
def test_new_weights_are_not_taken_for_trained_ones(seed):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        tiny_learn(digit_dls(range(120), range(120, 150)), tiny_model(seed)).fit(1, cbs=ConfidentLearningCallback(2, mode='folds'))


# Labels that are drawn at each reading

class Pairs(Transform):
    def encodes(self, i):
        j = random.randrange(300)
        return torch.cat([PIXELS[i], PIXELS[j]]), TensorCategory(int(DIGITS.target[i] == DIGITS.target[j] or random.random() < .4))


def drawn(kind):
    kw = dict(bs=16, device='cpu', num_workers=0)
    noisy = lambda i: int(DIGITS.target[i]) if random.random() < .9 else random.randrange(10)  # noqa: E731
    if kind == 'pairs': return TfmdLists(list(range(120)), Pairs(), splits=[range(90), range(90, 120)]).dataloaders(**kw)
    if kind == 'plain':
        class Plain(list):
            def __getitem__(self, i): return PIXELS[i], torch.randint(0, 10, ()).item()
        return DataLoaders.from_dsets(Plain(range(90)), Plain(range(20)), **kw)
    blocks = TransformBlock, MultiCategoryBlock(encoded=True, vocab=[0, 1]) if kind == 'several' else CategoryBlock
    get_y = (lambda i: [random.randrange(2), 1]) if kind == 'several' else noisy
    return DataBlock(blocks, get_x=lambda i: PIXELS[i], get_y=get_y, splitter=RandomSplitter(seed=0)).dataloaders(list(range(120)), **kw)


@pytest.mark.parametrize('kind', ['noise', 'pairs', 'plain', 'several'])
def test_labels_that_change_from_reading_to_reading_are_refused_before_the_first_batch(kind):
    learn = tiny_learn(drawn(kind))
    before = learn.model[0][1].weight.clone()
    with pytest.raises(ValueError, match='labels are different when they are read again, first that of item .*: draw the labels once'):
        learn.fit(1, cbs=ConfidentLearningCallback(2, mode='folds'))
    assert torch.equal(before, learn.model[0][1].weight)


def test_a_file_under_several_names_is_one_item(tmp_path):
    (tmp_path/'a').write_text('a')
    (tmp_path/'soft').symlink_to(tmp_path/'a')
    (tmp_path/'hard').hardlink_to(tmp_path/'a')
    names = [tmp_path/o for o in ('a', 'soft', 'hard', f'../{tmp_path.name}/a', 'lost')]
    assert copies_of(Datasets(names, [[lambda o: o]])).tolist() == [0, 0, 0, 0, 1]


def test_files_that_a_function_reads_of_a_frame_are_compared(tmp_path):
    from fastai.vision.core import PILImage
    for o in 'ab': PILImage.create(np.zeros((2, 2, 3), np.uint8)).save(tmp_path/f'{o}.png')
    df = pd.DataFrame({'uid': range(4), 'name': list('abab'), 'label': list('xxyy')})
    ds = Datasets(df, [[lambda r: tmp_path/f"{r['name']}.png", PILImage.create], [ColReader('label')]], n_inp=1)
    assert copies_of(ds).tolist() == [0, 1, 0, 1]


def several(i): return [str(DIGITS.target[i]), *(['even'] if DIGITS.target[i] % 2 == 0 else [])]


def several_learn(seed):
    block = DataBlock((TransformBlock, MultiCategoryBlock), get_x=lambda i: PIXELS[i], get_y=several, splitter=lambda o: (range(120), range(120, 150)))
    dls = block.dataloaders(list(range(150)), bs=16, device='cpu', num_workers=0)
    model = tiny_model(seed)
    model[1][1] = torch.nn.Linear(24, 11)
    return tiny_learn(dls, model, BCEWithLogitsLossFlat())


@pytest.mark.parametrize('trained', [False, True])
def test_weights_that_know_several_labels_are_named(trained):
    learn = several_learn(0)
    torch.nn.init.constant_(learn.model[1][1].bias, -3)
    if trained: learn.fit(40, 1e-2)
    new = several_learn(1)
    new.model.load_state_dict(learn.model.state_dict())
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        new.fit(1, cbs=ConfidentLearningCallback(2, mode='folds'))
    assert any('trained before' in str(o.message) for o in seen) is trained


@pytest.mark.parametrize('sure', [.2, .9])
def test_masks_that_are_known_are_named(sure):
    given = np.random.default_rng(0).integers(0, 3, (20, 4, 4))
    given[:, 0] = 255
    rest = (1 - sure)/2
    probs = np.moveaxis(np.where(np.eye(3)[given % 3] == 1, sure, rest), -1, 1)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        warn_of_known_labels(lambda at: (probs[at], given[at]), Labels(None, list('abc'), 'segmentation'), 20)
    assert len(seen) == (sure == .9)


def test_empty_texts_among_the_labels_are_named_once():
    labels = ['', *'ab'*9, '']
    block = DataBlock((TransformBlock, CategoryBlock), get_x=lambda i: PIXELS[i], get_y=lambda i: labels[i], splitter=lambda o: (range(20), []))
    dls = block.dataloaders(list(range(20)), bs=4, device='cpu', num_workers=0)
    model = tiny_model()
    model[1][1] = torch.nn.Linear(24, 3)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        tiny_learn(dls, model).fit(1, cbs=ConfidentLearningCallback(2, mode='folds'))
    assert [str(o.message)[:60] for o in seen if 'empty texts' in str(o.message)] == ['2 of 20 labels are empty texts, first that of item 0: they a']
