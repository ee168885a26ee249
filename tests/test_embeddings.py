"Out-of-fold predictions from features made elsewhere"
import numpy as np
import pandas as pd
import pytest
import torch
from helpers import DIGITS, plant
from sklearn.metrics import average_precision_score, r2_score

from fastai_clean.oof import OutOfFold

N = 300
X = DIGITS.data[:N].astype('float32')
TRUE = DIGITS.target[:N]
LABELS, WRONG = plant(DIGITS.target, .15)
LABELS, WRONG = LABELS[:N], WRONG[:N]


def made(features=X, labels=LABELS, **kwargs):
    return OutOfFold.from_features(features, labels, **{'n_folds': 3, 'n_rounds': 1, **kwargs})


def test_array_map_tensor_and_float16_give_the_same_and_find_planted_errors(tmp_path):
    oof = made(n_rounds=3)
    np.save(tmp_path/'x.npy', X)
    mapped = np.load(tmp_path/'x.npy', mmap_mode='r')
    for o in (mapped, torch.from_numpy(X), X.astype('float16')):
        assert np.array_equal(made(o, n_rounds=3).pred_probs, oof.pred_probs)
    given = oof.pred_probs[range(N), oof.targets]
    assert average_precision_score(WRONG, -given) > .85 and np.allclose(oof.pred_probs.sum(1), 1, atol=1e-5)
    assert oof.config['n_rounds'] == 3 and oof.config['left_out'][0] == 0 < min(oof.config['left_out'][1:])
    assert oof.vocab == list(range(10)) and oof.ids == list(map(str, range(N))) and len(oof.config['fold_metrics']) == 3


def test_frame_is_brought_into_the_order_of_the_labels():
    index = [f'img{i}' for i in range(N)]
    labels = pd.Series(LABELS, index).map('digit {}'.format)
    order = np.random.default_rng(0).permutation(N)
    oof, other = made(X, labels), made(pd.DataFrame(X, index).iloc[order], labels)
    assert np.array_equal(oof.pred_probs, other.pred_probs) and oof.ids == other.ids == index
    assert oof.vocab[0] == 'digit 0' and np.array_equal(oof.targets, LABELS)
    with pytest.raises(ValueError, match='features has an index .* 1 of 300 items are missing'):
        made(pd.DataFrame(X, index).iloc[1:], labels)


def test_names_numbers_and_a_vocab_mean_the_same_classes():
    names = np.array(list('zyxwvutsrq'))
    oof = made(labels=names[LABELS], vocab=names.tolist())
    assert np.array_equal(oof.pred_probs, made().pred_probs) and oof.vocab == names.tolist()
    assert made(labels=names[LABELS]).vocab == sorted(names.tolist())
    assert made(labels=LABELS*10).vocab == list(range(0, 100, 10))
    with pytest.raises(ValueError, match='values outside the vocab'): made(labels=LABELS, vocab=[0, 1])


def test_groups_and_equal_rows_share_a_fold():
    groups = np.arange(N)//10
    fold = made(splits=groups).fold
    assert all(len(set(fold[groups == o])) == 1 for o in range(30))
    twice = np.concatenate([X, X[:40]])
    with pytest.warns(UserWarning, match='40 of the 340 .* duplicates .* share a fold'):
        oof = made(twice, np.concatenate([LABELS, LABELS[:40]]))
    assert np.array_equal(oof.fold[:40], oof.fold[300:])


def test_no_prediction_depends_on_the_label_of_its_item_in_one_round():
    changed = LABELS.copy()
    held_out = made().fold == 1
    changed[held_out] = np.roll(LABELS[held_out], 1)
    splits = made().fold
    one, two = made(splits=splits), made(labels=changed, splits=splits)
    assert np.array_equal(one.pred_probs[held_out], two.pred_probs[held_out])
    assert not np.array_equal(one.pred_probs, two.pred_probs)


def test_several_labels_come_as_booleans_as_lists_or_as_a_frame():
    y = np.stack([TRUE % 2 == 0, TRUE > 4, TRUE < 2], 1)
    names = ['even', 'high', 'low']
    lists = [[n for n, o in zip(names, row) if o] for row in y]
    oof = made(labels=y, vocab=names)
    assert oof.task == 'multilabel' and oof.pred_probs.shape == (N, 3) and oof.config['n_rounds'] == 1
    for labels in (lists, pd.Series(lists), pd.DataFrame(y, columns=names), y.astype(int)):
        assert np.array_equal(made(labels=labels, vocab=names).pred_probs, oof.pred_probs)
    frame = pd.DataFrame(y, columns=names)[names[::-1]]
    assert np.array_equal(made(labels=frame, vocab=names).targets, y) and made(labels=frame).vocab == names[::-1]
    assert made(labels=lists).vocab == names


def test_floats_are_numbers_unless_the_task_says_classes():
    z = X[:, 20] + X[:, 30]
    oof = made(labels=z)
    assert oof.task == 'regression' and oof.pred_probs.shape == (N,) and r2_score(z, oof.pred_probs) > .95
    assert made(labels=np.stack([z, -z], 1)).pred_probs.shape == (N, 2)
    assert made(labels=LABELS, task='regression').task == 'regression'


@pytest.mark.parametrize('change, error, message', [
    (dict(labels=LABELS[1:]), ValueError, 'labels has length 299, but features has 300 rows'),
    (dict(features=X[0]), ValueError, 'features has shape .64,.'),
    (dict(features=np.where(X == X.max(), np.nan, X)), ValueError, 'features has .* rows with NaN'),
    (dict(labels=np.zeros(N, int)), ValueError, 'labels are all the same'),
    (dict(labels=np.full(N, np.nan)), ValueError, 'pass finite numbers'),
    (dict(labels=np.array([None, *'ab'*149, 'a'])), ValueError, 'labels has 1 missing values'),
    (dict(task='masks'), ValueError, "task is 'masks': choose one of classification"),
    (dict(ids=['a']), ValueError, 'ids has length 1, but features has 300 rows'),
    (dict(ids=['a']*N), ValueError, 'ids has 299 ids twice'),
    (dict(seed=True), ValueError, 'seed is True'), (dict(n_rounds=0), ValueError, 'n_rounds is 0'),
    (dict(n_folds=1), ValueError, 'n_folds is 1')])
def test_what_does_not_fit_is_named(change, error, message):
    with pytest.raises(error, match=message): made(**change)
