"Labels, tasks and ids, read from a data set"
import warnings
from operator import itemgetter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.core import Callback, CancelValidException
from fastai.data.core import Datasets
from fastai.data.load import DataLoader
from fastai.data.transforms import Categorize
from fastai.losses import BCEWithLogitsLossFlat, CrossEntropyLossFlat
from fastai.torch_core import TensorMultiCategory
from fastai.vision.core import TensorMask, TensorPoint
from helpers import DIGITS, digit_dls, tiny_learn
from torch.nn import functional as F

from fastai_clean.all import ConfidentLearningCallback
from fastai_clean.data import ids_of, labels_of
from fastai_clean.data.labels import is_binary_loss, task_of, warn_if_unreadable


def test_item_ids_are_relative_paths_row_labels_or_texts(tmp_path):
    class Items:
        def __init__(self, items): self.items = items
        def __len__(self): return len(self.items)
    assert ids_of(Items([tmp_path/'a'/'b.png']), tmp_path) == ['a/b.png']
    assert ids_of(Items(pd.DataFrame({'x': [1, 2]}, index=[7, 'k']))) == ['7', 'k']
    short, long, lines = ids_of(Items(['hello', 'x'*500, 'a\nb']))
    assert short == 'hello' and long != lines
    assert long.startswith('sha1:') and lines.startswith('sha1:')
    assert ids_of(Items([(tmp_path/'c.png', 'label')]), tmp_path) == ['c.png']
    assert ids_of(Items([7, np.int64(9)])) == ['7', '9'] and ids_of([10, 20]) == ['0', '1']


class Holds:
    "A data set with these items"
    def __init__(self, items): self.items = items
    def __len__(self): return len(self.items)


@pytest.mark.parametrize('items, ids', [
    ([[0, 5, 1], [0, 6, 0], [1, 5, 0]], ['0;5', '0;6', '1;5']), ([['cat', 7], ['dog', 8], ['cat', 9]], ['7', '8', '9']),
    ([('x', Path('/d/a.png')), ('x', Path('/d/b.png'))], ['a.png', 'b.png']),
    ([Path('/d/a.png'), Path('/d/b.png'), Path('/d/a.png')], ['a.png', 'b.png', 'a.png#2']),
    ([Path('/d/a.png'), Path('a.png')], ['/d/a.png', 'a.png']),
    (['a', 'b', 'a', 'a#2', 'a'], ['a', 'b', 'a#3', 'a#2', 'a#4']), ([True, False, True], ['True', 'False', 'True#2']),
    ([('a.png', 'cat'), ('a.png', 'cat'), ('b.png', 'cat')], ['a.png', 'a.png#2', 'b.png']),
    ([('a.png', 'cat'), ('a.png', 'dog'), ('b.png', 'dog')], ['a.png;cat', 'a.png;dog', 'b.png;dog']),
    ([1, torch.ones(1), 5], ['1', '1#2', '5'])])
def test_ids_fall_back_to_other_elements_or_count_the_copies(items, ids, recwarn):
    assert ids_of(Holds(items), '/d') == ids and not recwarn
    assert ids_of(Holds(items), '/d') == ids


@pytest.mark.parametrize('index, ids', [
    ([0, 1, 0], ['0@0', '1', '0@2']), ([1, '1', 2], ['1@0', '1@1', '2']), ([1., np.nan, np.nan], ['1.0', 'nan@1', 'nan@2']),
    ([True, False, True], ['True@0', 'False', 'True@2']), ([0, '0@2', 0], ['0@0', '0@2', '0@2#2'])])
def test_rows_that_share_a_row_label_are_named_by_position_too_with_a_warning(index, ids):
    for items in (pd.DataFrame({'x': range(3)}, index=index), pd.Series([*'xyz'], index=index)):
        with pytest.warns(UserWarning, match='2 of 3 items share their name, first .*reset_index'):
            assert ids_of(Holds(items)) == ids


def test_items_that_no_element_tells_apart_are_named_by_position_too():
    with pytest.warns(UserWarning, match='give each item a first element of its own'):
        assert ids_of(Holds([(0, torch.ones(1)), (0, torch.zeros(1)), (1, torch.ones(1))])) == ['0@0', '0@1', '1']


@pytest.mark.parametrize('index, ids', [
    (pd.MultiIndex.from_tuples([('a', 1), ('a', 2)]), ["('a', 1)", "('a', 2)"]), ([.5, np.nan], ['0.5', 'nan']),
    (pd.to_datetime(['2020-01-01', '2020-01-02']), ['2020-01-01 00:00:00', '2020-01-02 00:00:00'])])
def test_row_labels_of_any_kind_that_differ_are_the_ids(index, ids, recwarn):
    assert ids_of(Holds(pd.DataFrame({'x': [1, 2]}, index=index))) == ids and not recwarn


def test_labels_are_the_targets_of_the_data_set_and_its_vocab():
    labels = labels_of(digit_dls(range(30), range(30, 40)).train)
    assert labels.targets.tolist() == DIGITS.target[:30].tolist()
    assert labels.vocab == list(range(10)) and labels.c == 10 and labels.task == 'classification'


class Pairs(list):
    "A plain data set of (input, target)"
    def __init__(self, targets): super().__init__((torch.zeros(2), o) for o in targets)


@pytest.mark.parametrize('targets, binary, task, shape', [
    ([0, 2, 1], False, 'classification', (3,)), ([.5, 2.], False, 'regression', (2,)),
    ([torch.tensor([1., 0]), torch.tensor([1., 1])], False, 'regression', (2, 2)),
    ([torch.tensor([1., 0]), torch.tensor([1., 1])], True, 'multilabel', (2, 2))])
def test_task_of_plain_targets_follows_their_type_and_the_loss(targets, binary, task, shape):
    labels = labels_of(DataLoader(Pairs(targets), bs=1), binary)
    assert labels.task == task and labels.targets.shape == shape


@pytest.mark.parametrize('targets, error, match', [
    ([], ValueError, 'the data set is empty'),
    ([0, -1, 7], ValueError, '1 labels are outside the vocab, first that of item 1'),
    ([1., float('nan')], ValueError, '1 labels are missing or infinite, first that of item 1'),
    ([torch.ones(1), torch.ones(2)], ValueError, 'different lengths'),
    ([0, 'x'], ValueError, "the label of item 1 is 'x'"), (['a', 'b'], TypeError, 'of type str')])
def test_labels_that_cannot_be_used_are_named(targets, error, match):
    with pytest.raises(error, match=match): labels_of(DataLoader(Pairs(targets), bs=1))


@pytest.mark.parametrize('label', [None, float('nan'), '', 'new'])
def test_validation_label_that_cannot_be_read_is_named_in_a_warning(label):
    df = pd.DataFrame({'x': range(12), 'y': ['a', 'b']*6}, index=range(100, 112)).astype({'y': object})
    df.loc[110, 'y'] = label
    dsets = Datasets(df, [[itemgetter('x')], [itemgetter('y'), Categorize()]], splits=[range(8), range(8, 12)])
    dls = dsets.dataloaders(bs=4, num_workers=0, device='cpu')
    match = 'in the validation set, 1 labels are missing or outside the vocab, first that of item 110 .*included'
    with pytest.warns(UserWarning, match=match): warn_if_unreadable(dls.valid)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        warn_if_unreadable(dls.train)


class NoValidation(Callback):
    def before_validate(self): raise CancelValidException


def test_fit_that_leaves_validation_out_needs_no_readable_validation_labels():
    labels = DIGITS.target.copy()
    labels[45] = 11
    dls = digit_dls(range(40), range(40, 50), labels)
    match = 'in the validation set, 1 labels are .* first that of item 45 '
    learn = tiny_learn(dls, cbs=[ConfidentLearningCallback(n_folds=2, mode='folds', leave_out=NoValidation), NoValidation()])
    with pytest.warns(UserWarning, match=match): learn.fit(1)
    assert len(learn.oof) == 40
    learn = tiny_learn(dls, cbs=ConfidentLearningCallback(n_folds=2, mode='folds'))
    with pytest.warns(UserWarning, match=match), pytest.raises(KeyError, match='11'): learn.fit(1)


@pytest.mark.parametrize('target, task', [
    (TensorMultiCategory([1., 0]), 'multilabel'), (np.float32(1), 'regression'),
    (TensorMask(torch.zeros(2, 2).long()), 'segmentation'), (3, 'classification'),
    (torch.zeros(3, 3).long(), 'segmentation')])
def test_task_follows_fastais_types(target, task): assert task_of(target) == task


def test_points_are_no_numbers_to_predict():
    with pytest.raises(TypeError, match='of type TensorPoint'): task_of(TensorPoint(torch.zeros(2)))


def test_binary_losses_are_known_in_every_form():
    binary = BCEWithLogitsLossFlat(), torch.nn.BCELoss(), F.binary_cross_entropy_with_logits
    assert all(map(is_binary_loss, binary)) and not is_binary_loss(CrossEntropyLossFlat())
