"Views of data sets and the DataLoaders of folds"
import numpy as np
import pytest
from fastai.callback.data import WeightedDL
from helpers import digit_dls

from fastai_clean.data import fewer, fold_dls, new_dl, plain_dl, view


def test_fold_loaders_hold_the_right_items_and_leave_the_users_alone():
    dls = digit_dls(range(40), range(40, 50), shuffle=True)
    held = np.arange(40) % 4 == 1
    before = dls.train.rng.getstate(), dls.train_ds.split_idx, dls.valid_ds.split_idx
    fold = fold_dls(dls, held)
    assert list(fold.train_ds.items) == list(np.flatnonzero(~held))
    assert list(fold.valid_ds.items) == list(np.flatnonzero(held))
    assert fold.train.shuffle and not fold.valid.shuffle and not fold.valid.drop_last
    assert (fold.train_ds.split_idx, fold.valid_ds.split_idx) == (0, 1)
    assert (dls.train.rng.getstate(), dls.train_ds.split_idx, dls.valid_ds.split_idx) == before


def test_fold_without_training_items_is_refused():
    with pytest.raises(ValueError, match='no training items: use fewer folds'):
        fold_dls(digit_dls(range(8), range(8, 12)), np.ones(8, dtype=bool))


def test_weights_go_with_their_items_and_are_equal_if_none_is_left():
    dl = digit_dls(range(8), range(8, 12), dl_type=WeightedDL,
                   dl_kwargs=({'wgts': np.arange(8)}, {})).train
    idxs = np.array([6, 2])
    assert new_dl(dl, view(dl.dataset, idxs, 0), idxs).wgts.tolist() == [.75, .25]
    alone = np.array([0])
    assert new_dl(dl, view(dl.dataset, alone, 0), alone).wgts.tolist() == [1]


def test_plain_loader_reads_each_item_once_in_the_order_asked_for():
    dl = digit_dls(range(10, 20), range(5), shuffle=True).train
    plain = plain_dl(dl, [7, 0, 3], bs=2)
    assert [len(y) for _, y in plain] == [2, 1] and list(plain.dataset.items) == [17, 10, 13]
    assert list(plain_dl(dl).dataset.items) == list(range(10, 20))


@pytest.mark.parametrize('n, drop_single, expected', [
    (40, True, {'bs': 16}), (33, True, {'bs': 16, 'drop_last': True}), (33, False, {'bs': 16}),
    (9, True, {'bs': 9})])
def test_fewer_items_fill_their_batches_and_leave_no_single_one(n, drop_single, expected):
    dl = digit_dls(range(40), range(40, 44), bs=16).train
    assert fewer(dl, n, drop_single) == expected
