"OutOfFold: what it holds, and that saving it never loses anything"
import json

import numpy as np
import pandas as pd
import pytest
from helpers import digit_dls, tiny_learn

from fastai_clean.all import CleanInterpretation, OutOfFold

PROBS = np.array([[.9, .1], [.2, .8], [.6, .4]], dtype=np.float32)


def oof(**kw): return OutOfFold(PROBS, [0, 1, 1], **{'fold': [0, 1, 0], 'ids': ['a/b.png', 'ü', '<img>'], **kw})


@pytest.mark.parametrize('vocab', [['cat', 'dög <b>'], [0, 1], np.array([3, 4]), [True, False], [.5, 1.5]])
def test_saved_and_loaded_is_the_same_without_pickle(vocab, tmp_path):
    one = oof(vocab=vocab, config=dict(n_folds=2))
    two = OutOfFold.load(one.save(tmp_path/'new'/'oof'))
    for name in ('pred_probs', 'targets', 'fold'):
        assert np.array_equal(getattr(one, name), getattr(two, name))
        assert getattr(one, name).dtype == getattr(two, name).dtype
    assert (two.ids, two.vocab, two.config) == (one.ids, list(vocab), {'n_folds': 2})
    assert sorted(o.name for o in (tmp_path/'new'/'oof').iterdir()) == [
        'fold.npy', 'oof.json', 'pred_probs.npy', 'targets.npy']
    assert [o.name for o in (tmp_path/'new').iterdir()] == ['oof']


def test_saving_over_something_else_is_refused(tmp_path):
    (tmp_path/'mine').mkdir()
    (tmp_path/'mine'/'thesis.txt').write_text('years')
    for path in (tmp_path/'mine', tmp_path/'mine'/'thesis.txt'):
        with pytest.raises(FileExistsError, match='other files'): oof().save(path, overwrite=True)
    assert (tmp_path/'mine'/'thesis.txt').read_text() == 'years'
    path = oof().save(tmp_path/'oof')
    with pytest.raises(FileExistsError, match='overwrite=True'): oof().save(path)
    oof(ids=['x', 'y', 'z']).save(path, overwrite=True)
    assert OutOfFold.load(path).ids == ['x', 'y', 'z']


def test_failed_save_leaves_the_old_one_whole(tmp_path, monkeypatch):
    path = oof().save(tmp_path/'oof')
    def full(*_, **__): raise OSError('disk full')
    monkeypatch.setattr(np, 'save', full)
    with pytest.raises(OSError): oof(ids=list('xyz')).save(path, overwrite=True)
    with pytest.raises(OSError): oof().save(tmp_path/'other')
    monkeypatch.undo()
    assert OutOfFold.load(path).ids == oof().ids and [o.name for o in tmp_path.iterdir()] == ['oof']


def test_loading_what_is_no_oof_says_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match='oof.json'): OutOfFold.load(tmp_path)
    path = oof().save(tmp_path/'oof')
    (path/'fold.npy').unlink()
    with pytest.raises(FileNotFoundError, match='fold.npy missing'): OutOfFold.load(path)
    np.save(path/'fold.npy', [1])
    with pytest.raises(ValueError, match='fold.npy is not the one that was saved'): OutOfFold.load(path)


def test_vocab_that_json_cannot_hold_is_refused(tmp_path):
    with pytest.raises(TypeError, match='vocab'): oof(vocab=[('a', 'b'), 'c']).save(tmp_path/'oof')
    assert not (tmp_path/'oof').exists()


@pytest.mark.parametrize('kw, match', [
    (dict(ids=['a']), 'ids has length 1'), (dict(fold=[0]), 'fold has length 1'), (dict(vocab=['a']), 'vocab')])
def test_lengths_that_do_not_fit_are_named(kw, match):
    with pytest.raises(ValueError, match=match): oof(**kw)


def test_probabilities_made_elsewhere_are_checked_and_used():
    learn = tiny_learn(digit_dls(range(40), range(40, 50)))
    given = [int(learn.dls.train_ds[i][1]) for i in range(40)]
    probs = np.full((40, 10), .01)
    probs[range(40), given] = .91
    probs[7] = np.eye(10)[(given[7] + 1) % 10]
    learn.oof = OutOfFold.from_arrays(given, probs, ids=range(40), vocab=range(10))
    assert CleanInterpretation.from_learner(learn).noisy_idxs().tolist() == [7]
    with pytest.raises(ValueError, match='sum'): OutOfFold.from_arrays(given, probs*2)
    with pytest.raises(TypeError, match='oof is a str'): learn.oof = 'path'
    learn.oof = None
    assert learn.oof is None


def test_row_of_an_unfinished_fold_is_not_done():
    probs = PROBS.copy()
    probs[1] = np.nan
    assert OutOfFold(probs, [0, 1, 1]).done.tolist() == [True, False, True]


def test_probabilities_left_on_disk_are_used_from_there(tmp_path):
    rng = np.random.default_rng(0)
    oof = OutOfFold.from_arrays(np.arange(40) % 4, rng.dirichlet(np.ones(4), 40).astype(np.float32))
    again = OutOfFold.load(oof.save(tmp_path/'oof'), mmap_mode='r')
    assert isinstance(again.pred_probs.base, np.memmap) and again.done.all()
    assert np.array_equal(again.pred_probs, oof.pred_probs)


def test_broken_json_is_named(tmp_path):
    OutOfFold(np.eye(2), [0, 1]).save(tmp_path/'oof')
    (tmp_path/'oof'/'oof.json').write_text('{"ids": ["0", "1"]}')
    with pytest.raises(ValueError, match='broken OutOfFold: oof.json lacks config, vocab'):
        OutOfFold.load(tmp_path/'oof')


def test_ids_saved_by_an_older_version_as_items_are_read(tmp_path):
    file = oof().save(tmp_path/'oof')/'oof.json'
    saved = json.loads(file.read_text())
    assert saved['ids'] == oof().ids and 'items' not in saved
    saved['items'] = saved.pop('ids')
    file.write_text(json.dumps(saved))
    assert OutOfFold.load(tmp_path/'oof').ids == oof().ids


def test_ids_that_are_there_twice_are_refused():
    with pytest.raises(ValueError, match="ids has 1 ids twice, first 'a'"): oof(ids=['a', 'a', 'b'])
    with pytest.raises(ValueError, match='ids has 2 ids twice'): OutOfFold.from_arrays([0, 1, 1], PROBS, ids=[7, 7, 7])


IDS = ['a', 'b', 'c']
FRAME = pd.DataFrame(PROBS, index=IDS, columns=['cat', 'dog'])


def test_frames_and_series_are_brought_into_one_order_by_their_names():
    labels = pd.Series(['cat', 'dog', 'dog'], index=IDS)
    for got in (
            OutOfFold.from_arrays(labels, FRAME.iloc[::-1, ::-1], vocab=['cat', 'dog'], ids=IDS, fold=[0, 1, 2]),
            OutOfFold.from_arrays(labels.tolist(), FRAME.iloc[::-1], ids=IDS, fold=[0, 1, 2]),
            OutOfFold.from_arrays(labels, FRAME, ids=pd.Series(['c', 'b', 'a'], index=['c', 'b', 'a']),
                                  fold=pd.Series([2, 0, 1], index=['c', 'a', 'b'])),
            OutOfFold(FRAME.iloc[::-1], pd.Series([0, 1, 1], index=IDS), [0, 1, 2], IDS)):
        assert np.array_equal(got.pred_probs, PROBS) and got.targets.tolist() == [0, 1, 1]
        assert (got.ids, got.vocab, got.fold.tolist()) == (IDS, ['cat', 'dog'], [0, 1, 2])


def test_frames_and_series_of_other_rows_are_refused():
    labels = pd.Series([0, 1, 1], index=['a', 'b', 'q'])
    for f in (OutOfFold.from_arrays, lambda y, p: OutOfFold(p, y)):
        with pytest.raises(ValueError, match="1 of 3 items are missing from it, first 'q'"): f(labels, FRAME)
    with pytest.raises(ValueError, match='in the vocab'): OutOfFold(FRAME, [0, 1, 1], vocab=['cat', 'owl'])


def test_out_of_fold_of_other_labels_or_classes_is_refused_with_an_example():
    learn = tiny_learn(digit_dls(range(40), range(40, 50)))
    given = np.array([int(learn.dls.train_ds[i][1]) for i in range(40)])
    probs = np.full((40, 10), .1)
    other = given.copy()
    other[7] = (other[7] + 1) % 10
    learn.oof = OutOfFold(probs, other, ids=range(40), vocab=range(10))
    match = f"1 of 40 differ from the training set's, first that of '7', which was {other[7]} and is {given[7]}"
    with pytest.raises(ValueError, match=match): CleanInterpretation.from_learner(learn)
    learn.oof = OutOfFold(probs, given, ids=range(40), vocab=[1, 0, *range(2, 10)])
    with pytest.raises(ValueError, match="class '1' where the training set's vocab has '0'"):
        CleanInterpretation.from_learner(learn)
    learn.oof = OutOfFold(probs, given, ids=range(40))
    CleanInterpretation.from_learner(learn)
