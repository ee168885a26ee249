"pandas means its labels: rows by the index, columns by the vocab, or it is refused"
import numpy as np
import pandas as pd
import pytest
import torch
from fastai.data.core import Datasets
from fastai.data.transforms import Categorize
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastcore.foundation import L
from helpers import DIGITS, PIXELS, Pixels, case, quiet, tiny_learn
from torch import nn

import fastai_clean.learner  # noqa: F401, it patches Learner
from fastai_clean._columns import column_like
from fastai_clean._rows import aligned, check_same_labels
from fastai_clean.callbacks import ConfidentLearningCallback
from fastai_clean.data import fold_numbers
from fastai_clean.interpret import CleanInterpretation
from fastai_clean.issues import (
    StreamedIssues,
    apply_temperature,
    audit,
    class_health,
    class_thresholds,
    confident_joint,
    find_issues,
    find_multilabel_issues,
    find_regression_issues,
    fit_temperature,
    health_score,
    label_quality,
    noise_matrix,
    noise_rate,
    top_pairs,
)
from fastai_clean.issues.checks import check_labels, check_labels_probs
from fastai_clean.oof.options import FoldOptions

VOCAB = ['cat', 'dog', 'owl', 'ant']
Y, P = case(0)
N = len(Y)
ORDER = np.random.default_rng(1).permutation(N)
INDEX = [f'r{i}' for i in range(N)]
PLAIN = find_issues(Y, P, vocab=VOCAB)


def names(y): return [VOCAB[k] for k in y]


# Rows of _rows

def test_series_is_brought_into_the_order_of_row_labels_or_of_ids():
    s = pd.Series(range(4), index=[3, 1, 7, 0])
    assert aligned(s, 's', pd.Index([7, 0])).tolist() == [2, 3]
    assert aligned(s, 's', None, ['0', '1', '3', '7']).tolist() == [3, 1, 0, 2]
    assert aligned(pd.Series([1, 2]), 's', None, ['a.png', 'b.png']).tolist() == [1, 2]
    assert aligned([1, 2], 's', pd.Index([5, 6])) == [1, 2]


@pytest.mark.parametrize('s, index, ids, words', [
    (pd.Series([1, 2], index=[1, 1]), [1], None, 'the index of s has 1 twice'),
    (pd.Series([1, 2]), pd.Index([5, 6]), None, '2 of 2 items are missing from it, first 5'),
    (pd.Series([1, 2], index=['x', 'y']), None, ['a', 'b'], "2 of 2 items are missing from it, first .a"),
    (pd.Series([1, 2, 3]), None, ['0', '1'], None), (pd.Series([1, 2]), None, ['1', '0'], 'positions and as ids')])
def test_series_that_cannot_be_aligned_is_refused(s, index, ids, words):
    if words is None: assert aligned(s, 's', index, ids).tolist() == [1, 2]
    else:
        with pytest.raises(ValueError, match=words): aligned(s, 's', index, ids)


def test_labels_that_contradict_are_counted_with_an_example():
    check_same_labels(['a', 'b'], [1, 2], ['1', '2'], 'x', 'y', 'z')
    with pytest.raises(ValueError, match="^x has another label for 2 of 3 items than y, first 'b': 2 instead of 5; z$"):
        check_same_labels(['a', 'b', 'c'], [1, 5, 6], [1, 2, 3], 'x', 'y', 'z')


# Probabilities

@pytest.mark.parametrize('labels, probs, vocab', [
    (Y, pd.DataFrame(P, columns=VOCAB).iloc[:, [2, 0, 3, 1]], VOCAB),
    (names(Y), pd.DataFrame(P, columns=VOCAB), None), (Y, pd.DataFrame(P), VOCAB),
    (pd.Series(Y, INDEX), pd.DataFrame(P, INDEX, VOCAB).iloc[ORDER], VOCAB),
    (pd.Series(names(Y), INDEX), pd.DataFrame(P, INDEX, VOCAB).iloc[ORDER, [3, 1, 0, 2]], None),
    (pd.Series(Y), pd.DataFrame(P, columns=VOCAB).iloc[ORDER], VOCAB), (Y, pd.DataFrame(P, INDEX, VOCAB), VOCAB),
    (pd.Series(Y, [7]*N), pd.DataFrame(P, [7]*N, VOCAB), VOCAB), (pd.DataFrame({'y': Y}), P, VOCAB),
    (pd.Series(Y, pd.MultiIndex.from_product([range(6), range(10)])),
     pd.DataFrame(P, pd.MultiIndex.from_product([range(6), range(10)])).iloc[ORDER], VOCAB),
    (pd.Series(pd.Categorical(names(Y))), P, VOCAB), (pd.Series(Y, dtype='Int64'), P, VOCAB),
    (pd.Series(Y, INDEX), pd.DataFrame(np.r_[P, P], [*INDEX, *map(str, range(N))], VOCAB), VOCAB)],
    ids=['columns', 'columns name', 'numbered', 'index', 'both', 'default', 'labels without', 'twice', 'one column',
         'two levels', 'categories', 'nullable', 'more rows'])
def test_frame_of_probabilities_is_aligned_to_vocab_and_labels(labels, probs, vocab):
    df = find_issues(labels, probs, vocab=vocab)
    order = VOCAB if vocab else list(probs)
    assert df.given.tolist() == PLAIN.given.tolist() and df.is_issue.tolist() == PLAIN.is_issue.tolist()
    assert np.allclose(df.label_quality, PLAIN.label_quality) and set(df.predicted) <= set(order)
    assert df.index.tolist() == PLAIN.index.tolist()


@pytest.mark.parametrize('labels, probs, vocab, words', [
    (Y, pd.DataFrame(P, columns=[*VOCAB[:3], 'bat']), VOCAB, "no column 'ant'"),
    (Y, pd.DataFrame(P, columns=[*VOCAB[:3], 'cat']), VOCAB, "the column 'cat' twice"),
    (Y, pd.DataFrame(P, columns=[1, 2, 3, 4]), VOCAB, "no column 'cat'"),
    (Y, pd.DataFrame(P), [3, 2, 1, 0], 'can be read as positions in the vocab and as values of it'),
    (Y, pd.DataFrame(P, columns=list('1023')), None, "labels are integers, while column 0 of pred_probs is called '1'"),
    (pd.Series(Y, ORDER), pd.DataFrame(P), VOCAB, 'is that of new rows, 0..59, while the items have the same numbers'),
    (pd.Series(Y, range(N)), pd.DataFrame(P, list(map(str, range(N)))), VOCAB, "60 of 60 .* first 0, while it has '0'"),
    (pd.Series(Y, INDEX), pd.DataFrame(P), VOCAB, '60 of 60 items are missing'),
    (pd.Series(Y, INDEX), pd.DataFrame(P, ['r0']*N), VOCAB, "'r0' twice"),
    (pd.Series(Y, INDEX), pd.DataFrame(P, INDEX).drop('r3'), VOCAB, "1 of 60 items are missing from it, first 'r3'")])
def test_frame_of_probabilities_that_does_not_fit_is_refused(labels, probs, vocab, words):
    for f in (find_issues, check_labels_probs):
        with pytest.raises(ValueError, match=words): f(labels, probs, vocab=vocab)


@pytest.mark.parametrize('f', [
    label_quality, noise_rate, confident_joint, noise_matrix, class_thresholds, fit_temperature,
    health_score, lambda y, p: StreamedIssues(y, p).mask()])
def test_every_estimate_aligns_a_frame_of_probabilities(f):
    assert np.array_equal(f(pd.Series(Y, INDEX), pd.DataFrame(P, INDEX).iloc[ORDER]), f(Y, P))


def test_classes_of_a_frame_are_named_by_its_columns():
    df = class_health(names(Y), pd.DataFrame(P, columns=VOCAB).iloc[:, [2, 0, 3, 1]])
    assert df['items'].to_dict() == dict(zip(VOCAB, np.bincount(Y)))
    assert apply_temperature(pd.DataFrame(P, columns=[3, 0, 1, 2]), 1.) == pytest.approx(P)
    df = find_issues(Y == 1, pd.DataFrame({True: P[:, 1], False: 1 - P[:, 1]}))
    assert df.sort_index().given.tolist() == (Y == 1).tolist()
    df = find_issues(Y == 1, pd.DataFrame({False: 1 - P[:, 1], True: P[:, 1]}), vocab=[True, False])
    assert df.sort_index().given.tolist() == (Y == 1).tolist()


def test_pairs_are_counted_of_columns_in_any_order():
    df = PLAIN.replace({v: k for k, v in enumerate(VOCAB)}).infer_objects()
    wanted = top_pairs(df.given, df.predicted, df.is_issue, np.eye(4))
    got = top_pairs(df.given, df.predicted.iloc[ORDER], df.is_issue.sort_index(), np.eye(4))
    pd.testing.assert_frame_equal(got, wanted)


def test_scores_ids_and_numbers_per_class_go_by_their_labels():
    y = pd.Series(Y, INDEX)
    score = pd.Series(np.linspace(0, 1, N), INDEX)
    df = find_issues(y, P, score=score.iloc[ORDER], ids=pd.Series(INDEX, INDEX).iloc[ORDER], vocab=VOCAB)
    assert df.id.tolist() == INDEX and np.array_equal(label_quality(y, P, score.iloc[ORDER]), score)
    assert np.array_equal(label_quality(y, P, (score.iloc[ORDER], 'self_confidence')),
                          label_quality(Y, P, [score.to_numpy(), 'self_confidence']))
    longer = pd.Series(['x', *INDEX], ['x', *INDEX])
    assert find_issues(y, P, ids=longer).sort_index().id.tolist() == INDEX
    # The columns of an issue table are indexed by position, whatever the labels' index
    shuffled = pd.Series(Y, ORDER)
    quality = find_issues(shuffled, P).label_quality
    assert np.allclose(label_quality(shuffled, P, quality), label_quality(Y, P))
    remove = pd.Series({'owl': 2, 'ant': 1, 'cat': 0, 'dog': 3})
    assert find_issues(Y, P, 'prune_by_class', vocab=VOCAB, num_to_remove_per_class=remove).is_issue.tolist() == \
        find_issues(Y, P, 'prune_by_class', vocab=VOCAB, num_to_remove_per_class=[0, 3, 2, 1]).is_issue.tolist()
    mask = StreamedIssues(Y, P).mask('prune_by_class', num_to_remove_per_class=[0, 3, 2, 1])
    for vocab, num in ((VOCAB, remove), (None, pd.Series([2, 3, 0, 1], [2, 1, 0, 3])), (VOCAB, pd.Series([0, 3, 2, 1]))):
        got = StreamedIssues(Y, P, vocab=vocab).mask('prune_by_class', num_to_remove_per_class=num)
        assert np.array_equal(got, mask)
    with pytest.raises(ValueError, match="4 classes, and the vocab 4, 'bat' is not in both"):
        find_issues(Y, P, vocab=VOCAB, num_to_remove_per_class={'bat': 1, 'cat': 0, 'dog': 0, 'owl': 0})
    with pytest.raises(ValueError, match="positions in another order, but not named 'position'"):
        label_quality(Y, P, pd.Series(range(N), ORDER))
    assert np.array_equal(label_quality(pd.Series(Y), P, pd.Series(ORDER, ORDER)), np.arange(N))
    with pytest.raises(ValueError, match='1 values that are not finite'):
        label_quality(Y, P, pd.Series([pd.NA, *range(N - 1)]))


@pytest.mark.parametrize('splits, targets', [
    (pd.Series(np.arange(N)//5, INDEX).iloc[ORDER], pd.Series(Y, INDEX)),
    (pd.DataFrame({'group': np.arange(N)//5}), Y), (pd.Series(np.arange(N)//5).astype('category'), Y),
    (pd.Series(np.arange(N + 9)//5, [*INDEX, *range(9)]), pd.Series(Y, INDEX))])
def test_groups_go_by_their_labels(splits, targets):
    assert np.array_equal(fold_numbers(targets, 3, splits), fold_numbers(Y, 3, np.arange(N)//5))


def test_folds_of_a_learner_go_by_row_labels_of_its_frame():
    df = pd.DataFrame({'i': range(60), 'label': [f'd{v}' for v in DIGITS.target[:60]]}, [f'r{i}' for i in range(60)])
    df['fold'] = np.random.default_rng(0).permutation(60) % 3
    ds = Datasets(df, [[lambda r: PIXELS[r.i]], [lambda r: r.label, Categorize]],
                  splits=[np.random.default_rng(1).permutation(60)[:45], range(2)])
    learn = tiny_learn(ds.dataloaders(bs=15, num_workers=0, device='cpu'))
    learn.fit(1, cbs=ConfidentLearningCallback(n_folds=3, splits=df.fold.sample(frac=1, random_state=0), mode='folds'))
    assert np.array_equal(learn.oof.fold, learn.dls.train_ds.items.fold)
    with pytest.raises(ValueError, match='splits has an index that does not fit'):
        learn.oof_preds(lambda o: o.fit(1), n_folds=3, splits=df.fold.reset_index(drop=True))


def test_audit_takes_features_and_paths_by_row_labels(tmp_path):
    features = np.random.default_rng(0).random((N, 3))
    wanted = audit(Y, P, features, vocab=VOCAB)
    y = pd.Series(names(Y), INDEX)
    got = audit(y, pd.DataFrame(P, INDEX, VOCAB).iloc[ORDER], pd.DataFrame(features, INDEX).iloc[ORDER])
    pd.testing.assert_frame_equal(got, wanted)
    paths = pd.Series([f'{tmp_path}/{o}' for o in INDEX], INDEX).iloc[ORDER]
    assert [o.split('/')[-1][:-1] for o in audit(y, paths=paths).image_error.str.split("'").str[1] + "'"] == INDEX


@pytest.mark.parametrize('splits, words', [
    ([0]*N, "splits has 0 for all 60 training items: give them at least 2 fold numbers"),
    (pd.Series([pd.NA, *range(N - 1)], INDEX, dtype='Int64'), 'missing values'),
    (pd.Series(range(N)), '60 of 60 items are missing from it')])
def test_groups_that_make_no_folds_are_refused(splits, words):
    with pytest.raises(ValueError, match=words): fold_numbers(pd.Series(Y, INDEX), 2, splits)
    assert len(np.unique(fold_numbers(Y, 3, [1, 'a', 2.5]*20))) == 3


@pytest.mark.parametrize('f', [lambda: fold_numbers(Y, 3, seed=True), lambda: FoldOptions(seed=True),
                               lambda: FoldOptions(n_jobs=-5), lambda: FoldOptions(n_jobs=True)])
def test_truth_is_no_seed_and_minus_five_no_number_of_processes(f):
    with pytest.raises(ValueError, match='(seed|n_jobs) is (True|-5): pass'): f()

def test_numbers_of_regression_go_by_their_labels():
    y = pd.Series(np.arange(20.), [f'r{i}' for i in range(20)])
    assert np.allclose(find_regression_issues(y, (y + .1).iloc[::-1]).residual, .1)
    with pytest.raises(ValueError, match='missing from it'): find_regression_issues(y, pd.Series(np.arange(20.)))
    y = pd.DataFrame({'x': y, 'y': -y})
    assert np.allclose(find_regression_issues(y, (y + .1)[['y', 'x']].iloc[::-1]).residual, .1)
    assert np.allclose(find_regression_issues(y, (y + .1).set_axis([0, 1], axis=1)).residual, .1)
    with pytest.raises(ValueError, match="predictions has no column 'x', which is in targets"):
        find_regression_issues(y, y.set_axis(['u', 'v'], axis=1))


# Numbers in a vocab are names

@pytest.mark.parametrize('labels, vocab, wanted', [
    ([3, 5, 7, 3], [3, 5, 7, 9], [0, 1, 2, 0]), ([1, 2, 2], [1, 2, 3, 4], None), ([0, 1], [0, 1, 2, 3], [0, 1]),
    ([3, 0], [3, 2, 1, 0], None), ([2, 0], [10, 20, 30, 40], [2, 0]), ([4], [1, 2, 3, 4], [3]),
    (np.array([3, 5], np.uint8), [3, 5, 7, 300], [0, 1]), ([3., 5.], [3, 5, 7, 9], [0, 1]),
    (pd.Series([3, 5], dtype=object), [3, 5, 7, 9], [0, 1])])
def test_numbers_of_a_vocab_are_names_and_what_has_two_readings_is_refused(labels, vocab, wanted):
    if wanted is not None: assert check_labels(labels, len(labels), 4, vocab).tolist() == wanted
    else:
        with pytest.raises(ValueError, match='can be read as values of the vocab and as positions'):
            check_labels(labels, len(labels), 4, vocab)


@pytest.mark.parametrize('vocab, wanted', [
    ([False, True], [1, 0]), ([True, False], [0, 1]), (['False', 'True'], [1, 0]), (['True', 'False'], [0, 1]),
    (['yes', 'no'], None), ([1, 0], [0, 1])])
@pytest.mark.parametrize('kind', [list, np.array, lambda o: np.array(o, object), lambda o: pd.Series(o, dtype='boolean')])
def test_booleans_are_values_of_the_vocab(vocab, wanted, kind):
    labels = kind([True, False])
    if wanted is not None: assert check_labels(labels, 2, 2, vocab).tolist() == wanted
    else:
        with pytest.raises(ValueError, match='labels are booleans'): check_labels(labels, 2, 2, vocab)


@pytest.mark.parametrize('labels, vocab, words', [
    ([3, 5, 9], [3, 5, 7], "1 values outside the vocab, for example 9"), (['1'], [1, 2], "for example '1'"),
    ([2**70], ['a', 'b'], f'first {2**70} at position 0'), ([0, 1], [True, False], 'values of the vocab and as positions'),
    (np.array([-56], np.int8), list(range(100)), '-56')])
def test_labels_that_the_vocab_lacks_are_named(labels, vocab, words):
    with pytest.raises(ValueError, match=words): check_labels(labels, len(labels), len(vocab), vocab)


@pytest.mark.parametrize('vocab', [[1, 2, 3], [3, 5, 7], [False, True]])
def test_learner_whose_classes_are_numbers_has_them_in_every_table(vocab):
    labels = [vocab[d % len(vocab)] for d in DIGITS.target[:60]]
    tfms = [[Pixels()], [lambda i: labels[i], Categorize(vocab)]]
    ds = Datasets(list(range(60)), tfms, splits=[range(40), range(40, 60)])
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, len(vocab)))
    learn = quiet(Learner(ds.dataloaders(bs=20, num_workers=0, device='cpu'), model, CrossEntropyLossFlat()))
    interp = CleanInterpretation.from_learner(learn, ds_idx=1)
    assert interp.issues.sort_index().given.tolist() == labels[40:]
    assert interp.health()['items'].to_dict() == pd.Series(labels[40:]).value_counts().to_dict()
    df = interp.find_issues('prune_by_class', num_to_remove_per_class={o: 2 for o in reversed(vocab)})
    assert df[df.is_issue].given.value_counts().max() <= 2


@pytest.mark.parametrize('values, dtype', [(['False', 'True'], bool), ([200, 1], np.int8), ([-1, 1], np.uint8), ([300, 1], np.uint8)])
def test_column_keeps_its_type_only_if_that_keeps_the_values(values, dtype):
    assert column_like(values, pd.Series([1, 0], dtype=dtype)).tolist() == values


# Several labels

@pytest.mark.parametrize('labels', [
    [[0], [1, 2], []]*10, [['a'], ['b', 'c'], []]*10, pd.Series(['a', 'b;c', '']*10), pd.Series(['a', 'b c', '']*10),
    [{'a'}, {'c', 'b'}, set()]*10, [('a',), ('b', 'c', 'b'), ()]*10,
    pd.DataFrame({'c': [0, 1, 0]*10, 'a': [1, 0, 0]*10, 'b': [0, 1, 0]*10}),
    pd.DataFrame({'tags': ['a', 'c; b', '']*10}), L([L('a'), L('b', 'c'), L()]*10),
    [torch.tensor([0]), torch.tensor([1, 2]), torch.tensor([])]*10,
    np.array([[0], [1, 2], []]*10, dtype=object), [np.array(['a']), np.array(['b', 'c']), np.array([])]*10])
def test_lists_of_labels_are_those_of_the_matrix(labels):
    probs = np.random.default_rng(0).random((30, 3))
    wanted = find_multilabel_issues([[1, 0, 0], [0, 1, 1], [0, 0, 0]]*10, probs, vocab=['a', 'b', 'c'])
    pd.testing.assert_frame_equal(find_multilabel_issues(labels, probs, vocab=['a', 'b', 'c']), wanted)


@pytest.mark.parametrize('labels, words', [
    ([['a'], ['d']], "labels has 'd' for the item at position 1"), ([[0], [3]], 'labels has 3 for the item at position 1'),
    ([[0], [-1]], 'has -1'), ([['a'], None], 'has None for the item at position 1: pass a list of its classes'),
    (pd.Series(['a', np.nan]), 'has nan for the item at position 1'), ([[[0]], [1]], r'has \[0\] for the item at position 0'),
    ([[1, 0, 0], [0, 1]], 'rows of 0 and 1 of other lengths than 3'), (['a', 'b,c'], "has 'b,c' for"), (['a', 'b;x'], "has 'x' for the item at position 1"), ([[0], [True, 1]], 'has True')])
def test_label_that_no_class_has_is_named(labels, words):
    with pytest.raises(ValueError, match=words): find_multilabel_issues(labels, np.full((2, 3), .5), vocab=['a', 'b', 'c'])


@pytest.mark.parametrize('labels, vocab, given', [
    ([[3], [5, 7]], [3, 5, 7], [(3,), (5, 7)]), ([[0], [1, 2]], [3, 5, 7], [(3,), (5, 7)]),
    ([[1], [2, 3]], [1, 2, 3], [(1,), (2, 3)]), ([[1], [2]], [1, 2, 3], 'values of the vocab and as positions'),
    ([['b c'], ['b']], ['b', 'b c', 'd'], [('b c',), ('b',)]), (['b c', 'b'], ['b', 'b c', 'c'], 'one class and also 2'),
    ([[True], [False]], [False, True, 'x'], [(True,), (False,)]), ([[3], [0]], [3, 5, 7], 'has 0 for the item')])
def test_numbers_in_lists_of_labels_are_names_of_the_vocab(labels, vocab, given):
    probs = np.full((2, 3), .5)
    if isinstance(given, str):
        with pytest.raises(ValueError, match=given): find_multilabel_issues(labels, probs, vocab=vocab)
    else: assert find_multilabel_issues(labels, probs, vocab=vocab).sort_index().given.tolist() == given


def test_numbers_per_class_of_several_labels_go_by_name():
    rng = np.random.default_rng(0)
    labels = rng.random((40, 3)) < .5
    probs = rng.random((40, 3))
    num = [1, 7, 3]
    def flags(num): return find_multilabel_issues(labels, probs, vocab=list('abc'), num_to_remove_per_class=num).is_issue
    assert flags(pd.Series(num[::-1], list('cba'))).equals(flags(num)) and not flags(num).equals(flags(num[::-1]))
    with pytest.raises(ValueError, match='pass one number per column'): flags([[1, 2]]*3)


def test_hundreds_of_rare_labels_give_one_warning_with_a_count():
    labels = np.zeros((40, 300), dtype=bool)
    labels[np.arange(300) % 40, np.arange(300)] = True
    with pytest.warns(UserWarning, match='300 of 300 classes, first 0, are given to, or not given to') as said:
        find_multilabel_issues(labels, np.random.default_rng(0).random((40, 300)), 'both')
    assert len(said) == 1


# Masked values

@pytest.mark.parametrize('f', [
    lambda: find_issues(np.ma.masked_equal(Y, 1), P), lambda: noise_rate(Y, np.ma.masked_less(P, .1)),
    lambda: find_multilabel_issues(np.ma.masked_equal([[1, 0], [0, 1]], 1), np.full((2, 2), .5)),
    lambda: find_regression_issues(np.ma.masked_less([1., 2.], 2), [1., 2.]),
    lambda: top_pairs([0, 1], [1, 1], np.ma.masked_equal([True, False], False), np.eye(2)),
    lambda: health_score(Y, joint=np.ma.masked_equal(np.eye(4), 0)), lambda: audit(np.ma.masked_equal(Y, 1), P),
    lambda: fold_numbers(Y, 3, np.ma.masked_equal(np.arange(N) % 3, 1)),
    lambda: label_quality(Y, P, np.ma.masked_less(np.linspace(0, 1, N), .5))])
def test_masked_values_are_not_read_as_if_they_were_there(f):
    with pytest.raises(ValueError, match='masked values'): f()
