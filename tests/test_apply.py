"""`apply` on frames at random: it changes exactly the rows that were decided on, or refuses. A column that the session
never sees says which row is which. APPLY_CASES: how many"""
import os
import warnings
from collections import Counter
from inspect import signature

import numpy as np
import pandas as pd
import pytest
from fastai.data.block import CategoryBlock, DataBlock, TransformBlock
from fastai.data.transforms import ColReader
from fastai.tabular.all import Categorify, TabularPandas, tabular_learner
from helpers import DIGITS, PIXELS, digit_dls, tiny_learn
from helpers import issue_table as table

from fastai_clean._text import as_text
from fastai_clean.interpret import CleanInterpretation
from fastai_clean.review import ReviewSession
from fastai_clean.review.match import said

CASES = int(os.environ.get('APPLY_CASES', 1000))
KINDS = ['cat dog owl', 'cat dog', '1 2 10', 'True False']
ACTIONS = [None, None, 'keep', 'relabel', 'relabel', 'delete', 'unsure']


# A frame as a user has it, its issue table and its decisions

def user_frame(rng):
    "Rows with labels, what a Learner may read, and `row`, which says which is which; and the items among them"
    n = rng.integers(4, 40)
    classes = rng.choice(KINDS).split()
    kind = rng.choice(['text', 'category'])
    if classes[0] == '1': classes, kind = ([1, 2, 10], rng.choice(['int64', 'int8', 'float64']))
    elif classes[0] == 'True': classes, kind = ([True, False], 'bool')
    label = pd.Series([classes[i] for i in rng.integers(0, len(classes), n)], dtype=object)
    if rng.random() < .15: label[:] = classes[0]
    df = pd.DataFrame({'label': label if kind == 'text' else label.astype(kind)})
    columns = {'path': [f'img/{i}.png' for i in rng.permutation(n)], 'x': rng.normal(size=n).astype(rng.choice(['f4', 'f8'])),
               'text': [f'words {i}' for i in rng.integers(0, max(2, n//2), n)], 'serial': np.arange(n),
               'age': np.where(rng.random(n) < .2, np.nan, rng.integers(0, 90, n)), 'site': rng.choice(['a', 'b'], n)}
    for name in rng.choice([*columns], rng.integers(1, 4), replace=False): df[name] = columns[name]
    index = rng.choice(['range', 'text', 'numbers', 'levels', 'range'])
    if index == 'text': df.index = [f'r{i}' for i in rng.permutation(n)]
    elif index == 'numbers': df.index = rng.permutation(n*3)[:n]
    elif index == 'levels': df.index = pd.MultiIndex.from_arrays([np.arange(n)//3, rng.permutation(n)])
    df['row'] = [f'#{i}' for i in range(n)]
    key = None
    if rng.random() < .25:
        df['name'] = [f'n{i}' for i in rng.permutation(n)]
        key = 'name'
    items = np.sort(rng.permutation(n)[:rng.integers(max(2, n//2), n + 1)])
    return df, items, key, classes


def reviewed(rng, df, items, key, classes, path, with_rows):
    "A session about the items, and row -> action and label of what was decided"
    mine = df.iloc[items]
    given = [int(o) if isinstance(o, float) else o for o in mine.label.tolist()]
    ids = [as_text(o) for o in (mine.index if key is None else mine[key])]
    issues = pd.DataFrame({'id': pd.Series(ids, dtype=object), 'given': pd.Series(given, dtype=object),
                           'predicted': pd.Series(given, dtype=object), 'confidence': .5,
                           'label_quality': rng.random(len(ids)), 'is_issue': True})
    known = with_rows and 'rows' in signature(ReviewSession.__init__).parameters
    kw = dict(rows=mine.drop(columns=['row', 'label'])) if known else {}
    session = ReviewSession(issues, path, vocab=classes, user='ann', **kw)
    decided = {}
    for i, row, label in zip(ids, mine.row, given):
        action = ACTIONS[rng.integers(len(ACTIONS))]
        if action is None: continue
        other = [o for o in classes if o != label][0]
        decided[row] = action, other
        getattr(session, action)(i, *([other] if action == 'relabel' else []))
    return session, decided


# What may have become of it until the decisions are applied

def anew(df): return df.reset_index(drop=True)


def shuffled(df, rng): return df.sample(frac=1, random_state=int(rng.integers(2**31)))


def within_classes(df, rng):
    "Rows of a class in another order, in the places of that class: no label changes"
    order = np.arange(len(df))
    for o in df.label.unique():
        at = np.flatnonzero((df.label == o).to_numpy())
        order[at] = rng.permutation(at)
    return df.iloc[order].set_index(df.index)


def swapped_ids(df, rng):
    index = df.index.tolist()
    i, j = rng.choice(len(df), 2, replace=False)
    index[i], index[j] = index[j], index[i]
    names = pd.MultiIndex.from_tuples(index) if isinstance(df.index, pd.MultiIndex) else pd.Index(index)
    return df.set_axis(names)


def with_copies(df, rng, fresh=False):
    copies = df.iloc[rng.integers(0, len(df), rng.integers(1, 4))]
    # Nobody decided on them
    copies = copies.assign(row=copies.row + ' copied')
    return pd.concat([df, copies], ignore_index=fresh)


def without_some(df, rng): return df[rng.random(len(df)) > .2]


def renamed(df, rng):
    "Two classes' names swapped, or one that is new"
    texts = df.label.astype(object)
    a, *rest = texts.unique()
    b = rest[0] if rest and rng.random() < .5 else 'other'
    return df.assign(label=texts.map(lambda o: b if o == a else a if o == b else o))


def from_csv(df, rng, path):
    df.to_csv(path)
    levels = list(range(df.index.nlevels))
    return pd.read_csv(path, index_col=levels if len(levels) > 1 else 0)


def edited(df, rng):
    "A column that was cleaned after the review"
    name = rng.choice([o for o in df if o not in ('label', 'row', 'name')])
    if df[name].dtype.kind in 'fi': return df.assign(**{name: df[name].fillna(0)*2 + 1})
    return df.assign(**{name: df[name].str.upper()})


def gaps(df, rng):
    "Ids that are missing"
    if 'name' in df: return df.assign(name=df.name.where(rng.random(len(df)) > .2))
    return df


def twice(df, rng):
    "An id that two rows have"
    if 'name' not in df: return df.set_axis([df.index[0], *df.index[1:-1], df.index[0]]) if df.index.nlevels == 1 else df
    return df.assign(name=[*df.name[:-1], df.name.iloc[0]])


CHANGES = {
    'as it was': lambda df, rng, o: df,
    'shuffled': lambda df, rng, o: shuffled(df, rng),
    'shuffled, numbered anew': lambda df, rng, o: anew(shuffled(df, rng)),
    'within classes': lambda df, rng, o: within_classes(df, rng),
    'within classes, numbered anew': lambda df, rng, o: anew(within_classes(df, rng)),
    'sorted, numbered anew': lambda df, rng, o: anew(df.sort_values([*df][1], kind='stable')),
    'numbered anew': lambda df, rng, o: anew(df),
    'two ids swapped': lambda df, rng, o: swapped_ids(df, rng),
    'rows left out': lambda df, rng, o: without_some(df, rng),
    'rows left out, numbered anew': lambda df, rng, o: anew(without_some(df, rng)),
    'deleted rows left out': lambda df, rng, o: df[~df.row.isin(o['deleted'])],
    'deleted left out, numbered anew': lambda df, rng, o: anew(df[~df.row.isin(o['deleted'])]),
    'deleted left out, shuffled anew': lambda df, rng, o: anew(shuffled(df[~df.row.isin(o['deleted'])], rng)),
    'copies': lambda df, rng, o: with_copies(df, rng),
    'copies, numbered anew': lambda df, rng, o: with_copies(df, rng, True),
    'classes renamed': lambda df, rng, o: renamed(df, rng),
    'classes renamed, shuffled anew': lambda df, rng, o: anew(shuffled(renamed(df, rng), rng)),
    'from a CSV': lambda df, rng, o: from_csv(df, rng, o['path']),
    'from a CSV, shuffled anew': lambda df, rng, o: anew(shuffled(from_csv(df, rng, o['path']), rng)),
    'column edited': lambda df, rng, o: edited(df, rng),
    'column edited, shuffled anew': lambda df, rng, o: anew(shuffled(edited(df, rng), rng)),
    'ids missing': lambda df, rng, o: gaps(df, rng),
    'id twice': lambda df, rng, o: twice(df, rng),
    'applied before': lambda df, rng, o: o['applied'](df),
    'applied before, numbered anew': lambda df, rng, o: anew(o['applied'](df)),
    'labels as text': lambda df, rng, o: df.assign(label=df.label.map(lambda v: as_text(v).removesuffix('.0'))),
}


def wrongs(df, res, decided):
    "Rows of `df` to which something else was done than decided"
    got = iter(zip(res.row, res.label.tolist(), res.drop(columns='label').to_numpy(dtype=object).tolist()))
    bad = 0
    for row, label, rest in zip(df.row, df.label.tolist(), df.drop(columns='label').to_numpy(dtype=object).tolist()):
        action, other = decided.get(row, (None, None))
        if action == 'delete': continue
        new = next(got, None)
        want = as_text(other) if action == 'relabel' else as_text(label)
        if new is None or new[0] != row or as_text(new[1]).removesuffix('.0') != want.removesuffix('.0') or \
                [as_text(o) for o in new[2]] != [as_text(o) for o in rest]: bad += 1
    return bad + sum(1 for _ in got)


def outcome(seed, tmp_path, with_rows=True):
    "What became of one random case: its kind, and 'right', 'found by content', 'refused' or 'WRONG'"
    rng = np.random.default_rng(seed)
    df, items, key, classes = user_frame(rng)
    path = tmp_path/f'{seed}.jsonl'
    session, decided = reviewed(rng, df, items, key, classes, path, with_rows)
    kind = list(CHANGES)[seed % len(CHANGES)]
    deleted = [row for row, (action, _) in decided.items() if action == 'delete']
    what = dict(deleted=deleted, path=tmp_path/'frame.csv', applied=lambda df: session.apply(df, id_column=key))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        try:
            changed = CHANGES[kind](df, rng, what)
            before = changed.copy()
            res = session.apply(changed, id_column=key)
        except ValueError as e: return kind, 'refused', str(e)
    assert changed.equals(before)
    if wrongs(changed, res, decided): return kind, 'WRONG', ''
    found = any('found by what they hold' in str(o.message) for o in said)
    return kind, 'found by content' if found else 'right', ''


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore')
def test_random_frames_are_changed_where_decided_or_refused(tmp_path, monkeypatch):
    for name in ('fdatasync', 'fsync'): monkeypatch.setattr(os, name, lambda fd: None)
    got = [outcome(seed, tmp_path) for seed in range(CASES)]
    table = pd.DataFrame([o[:2] for o in got], columns=['kind', 'outcome']).value_counts().unstack(fill_value=0)
    print('\n', table.to_string(), '\n', Counter(o[1] for o in got))
    assert not [i for i, o in enumerate(got) if o[1] == 'WRONG']
    # Neither may it refuse what is plain
    plain = table.loc[['as it was', 'shuffled', 'deleted rows left out', 'applied before', 'labels as text']]
    assert not plain.get('refused', pd.Series(0)).any()


# One by one

LABELS = pd.Series(['cat', 'dog', 'owl', 'cat', 'dog', 'owl'])
FRAME = pd.DataFrame({'label': LABELS, 'path': [f'{o}.png' for o in 'abcdef'], 'x': [.1, 2., np.nan, 3, 1/3, 5]})


def decided(tmp_path, df=FRAME, **kw):
    "A session in which row 0 is an owl, row 1 deleted, row 2 kept"
    issues = table(ids=[*map(str, range(6))])
    session = ReviewSession(issues, tmp_path/'j.jsonl', user='ann', rows=df.drop(columns='label'), **kw)
    session.relabel('0', 'owl')
    session.delete('1')
    session.keep('2')
    return session


def after(res): return dict(zip(res.path, res.label))


EXPECTED = {'a.png': 'owl', 'c.png': 'owl', 'd.png': 'cat', 'e.png': 'dog', 'f.png': 'owl'}


@pytest.mark.parametrize('how', ['reversed', 'csv', 'repeated index', 'extra rows', 'no index name', 'float labels'])
def test_a_frame_that_was_numbered_anew_is_found_by_content_with_a_warning(how, tmp_path):
    df = {'reversed': FRAME[::-1], 'repeated index': FRAME[::-1].set_axis([0, 0, 1, 1, 2, 2]),
          'extra rows': pd.concat([FRAME.iloc[[0]].assign(path='g.png'), FRAME]),
          'no index name': FRAME.set_axis(list('uvwxyz'))}.get(how, FRAME[::-1])
    if how != 'repeated index' and how != 'no index name': df = df.reset_index(drop=True)
    if how == 'csv':
        df.to_csv(tmp_path/'f.csv')
        df = pd.read_csv(tmp_path/'f.csv')
    before = df.copy()
    session = decided(tmp_path)
    with pytest.warns(UserWarning, match=r"df has other ids than the issue table: the rows of 6 items were found by what "
                                         r"they hold, in 'path', 'x'"): res = session.apply(df)
    expected = dict(EXPECTED, **({'g.png': 'cat'} if how == 'extra rows' else {}))
    assert after(res) == expected and df.equals(before)
    with pytest.warns(UserWarning, match='the rows of 5 items were found'):
        assert after(session.apply(res.reset_index(drop=True)[::-1].reset_index(drop=True))) == expected


@pytest.mark.parametrize('change, match', [
    (lambda df: df.iloc[[3, 1, 2, 0, 4, 5]].reset_index(drop=True).assign(path=df.path.str.upper()), "other values in 'path' for 6 of 6 items"),
    (lambda df: df.iloc[[5, 1, 2, 3, 4, 0]].reset_index(drop=True).drop(columns=['path', 'x']), 'gives 1 of 6 items another label'),
    (lambda df: df.iloc[[3, 1, 2, 0, 4, 5]].reset_index(drop=True).assign(path='a'), "other values in 'path' for 6 of 6 items"),
    (lambda df: df.iloc[2:].reset_index(drop=True), '2 of 6 items of the issue table are not in df|another label'),
    (lambda df: pd.concat([df, df]), "has the item '0' twice")])
def test_a_frame_that_cannot_be_told_is_refused(change, match, tmp_path):
    with pytest.raises(ValueError, match=match): decided(tmp_path).apply(change(FRAME))


def test_labels_that_agree_by_chance_do_not_hide_another_order(tmp_path):
    anew = FRAME.iloc[[3, 4, 5, 0, 1, 2]].reset_index(drop=True)
    assert anew.label.equals(FRAME.label)
    with pytest.warns(UserWarning, match='found by what they hold'): res = decided(tmp_path).apply(anew)
    assert after(res) == EXPECTED


@pytest.mark.parametrize('change', [
    lambda df: df.assign(path='/data/' + df.path), lambda df: df.assign(x=df.x.fillna(0)), lambda df: df.drop(columns='path'),
    lambda df: df.assign(x=df.x.astype('f4')), lambda df: df.assign(new=1), lambda df: df[['label']], lambda df: df[::-1],
    lambda df: df.astype({'path': 'category', 'label': 'category'}), lambda df: df.rename(columns={'x': 'path2'}),
    lambda df: df.drop(1), lambda df: pd.concat([df, df.set_axis(range(10, 16))]), lambda df: df.set_axis(df.index.astype(str))])
def test_a_frame_with_its_ids_is_changed_without_a_word_whatever_else_was_edited(change, tmp_path, recwarn):
    df = change(FRAME)
    res = decided(tmp_path).apply(df)
    want = df.drop(1, errors='ignore') if df.index.dtype.kind == 'i' else df.drop('1')
    expected = ['owl' if str(i) == '0' else label for i, label in zip(want.index, want.label)]
    assert res.index.equals(want.index) and res.label.tolist() == expected and not len(recwarn)


def test_copies_are_told_apart_by_their_labels_or_share_what_was_decided(tmp_path):
    df = FRAME.assign(path=[*'aab', *'bcc'], x=0.)
    anew = df.iloc[[5, 4, 1, 0, 3, 2]].reset_index(drop=True)
    with pytest.warns(UserWarning, match='found by what they hold'): res = decided(tmp_path, df).apply(anew)
    assert sorted(zip(res.path, res.label)) == [('a', 'owl'), ('b', 'cat'), ('b', 'owl'), ('c', 'dog'), ('c', 'owl')]
    same = df.assign(path='a')
    with pytest.raises(ValueError, match='another label'): decided(tmp_path, same).apply(same[::-1].reset_index(drop=True))


def test_ids_that_are_missing_or_repeated_are_refused_if_a_deleted_item_may_be_behind_them(tmp_path):
    df = FRAME[['label']].assign(name=[*map(str, range(6))])
    session = ReviewSession(table(ids=df.name), tmp_path/'n.jsonl', user='ann')
    session.delete('1')
    for names in (['0', None, '2', '3', '4', '5', None], ['0', 'q', '2', '3', '4', '5', 'q']):
        other = pd.concat([df, df[:1]], ignore_index=True).assign(name=names)
        with pytest.raises(ValueError, match='rows without an id of their own, which may be the 1 deleted items'):
            session.apply(other, id_column='name')
    extra = pd.concat([df, df[:1].assign(name=None)], ignore_index=True)
    assert session.apply(extra, id_column='name').name.tolist()[:5] == ['0', '2', '3', '4', '5']
    with pytest.raises(ValueError, match="has the item '0' twice"):
        session.apply(df.assign(name=['0', '0', *'2345']), id_column='name')


def test_a_deleted_row_under_another_number_is_no_deleted_item_that_is_gone(tmp_path):
    rows = FRAME.assign(path=[f'{i}' for i in 'pqrstu'])
    session = ReviewSession(table(ids=list('0124'), given=['cat', 'dog', 'owl', 'dog']), tmp_path/'g.jsonl',
                            user='ann', rows=rows.iloc[[0, 1, 2, 4]].drop(columns='label'))
    session.delete('4')
    with pytest.raises(ValueError, match="lacks 1 deleted items, but has rows that hold what 1 of them hold, first '4'"):
        session.apply(rows.drop([3, 5]).reset_index(drop=True))
    assert session.apply(rows.drop(4)).equals(rows.drop(4))


@pytest.mark.parametrize('index', [
    pd.MultiIndex.from_tuples([(i//2, 'ab'[i % 2]) for i in range(6)]), pd.date_range('2020-01-01', periods=6),
    pd.Index([1.5, 2, 3, 4, 5, 6]), pd.Index([True, 'True ', None, 1, 2, 3], dtype=object)])
def test_any_index_of_unique_texts_names_rows(index, tmp_path):
    df = FRAME.set_axis(index)
    session = ReviewSession(table(ids=[*map(as_text, index)]), tmp_path/'i.jsonl', user='ann')
    session.delete([*map(as_text, index)][1])
    assert session.apply(df[::-1]).path.tolist() == ['f.png', 'e.png', 'd.png', 'c.png', 'a.png']


def test_whole_numbers_beside_a_gap_are_the_classes_that_they_were(tmp_path):
    df = pd.DataFrame({'label': [1, 2, 10, 1, 2, 10]})
    session = ReviewSession(table(ids=range(6)).assign(given=df.label, predicted=1), tmp_path/'w.jsonl', user='ann')
    session.relabel('0', 10)
    floats = pd.concat([df, pd.DataFrame({'label': [np.nan]})], ignore_index=True)
    assert floats.label.dtype == float
    assert session.apply(floats).label.tolist()[:6] == [10, 2, 10, 1, 2, 10]


@pytest.mark.parametrize('values', [[1, 2, 30], [1., 2.5, np.nan], [.1, 1/3, 1e-7], [10**17, -3, 0], ['a', '', '01x'],
                                    [True, False, True], ['x,y', '"q"', ' b'], [2.0, 3.0, 2.**70]])
@pytest.mark.parametrize('text', [False, True])
def test_values_say_the_same_after_a_csv(values, text, tmp_path):
    df = pd.DataFrame({'v': values})
    df.to_csv(tmp_path/'v.csv', index=False)
    back = pd.read_csv(tmp_path/'v.csv', **(dict(dtype=str, keep_default_na=False) if text else {}))
    assert said(back.v).tolist() == said(df.v).tolist() and len({*said(df.v)}) == len({*values})
    if df.v.dtype == float: assert said(df.v.astype('f4')).tolist() == said(df.v).tolist()


# Of a Learner

def frame_learner(df, splits):
    block = DataBlock((TransformBlock, CategoryBlock), get_x=lambda r: PIXELS[int(r.i)], get_y=ColReader('label'),
                      splitter=lambda o: splits)
    dls = block.dataloaders(df, bs=16, num_workers=0, device='cpu')
    return tiny_learn(dls)


def interp_of(learn, **kw):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return CleanInterpretation.from_learner(learn, **kw)


def digit_frame(n=80):
    return pd.DataFrame({'i': range(n), 'label': [f'd{o}' for o in DIGITS.target[:n]]})


def test_a_review_of_a_learner_finds_the_rows_of_its_frame_in_any_order(tmp_path):
    df = digit_frame()
    interp = interp_of(frame_learner(df, (list(range(60)), list(range(60, 80)))), ds_idx=0)
    session = interp.review(tmp_path/'j.jsonl')
    chosen = session.ids[:10].tolist()
    session.delete(chosen[:6])
    session.relabel(chosen[6:], 'd0')
    assert session.set == 'train'
    expected = df.drop([int(o) for o in chosen[:6]])
    expected.loc[[int(o) for o in chosen[6:]], 'label'] = 'd0'
    assert session.apply(df).equals(expected)
    anew = pd.concat([df[:60].sample(frac=1, random_state=0), df[60:]]).reset_index(drop=True)
    with pytest.warns(UserWarning, match="found by what they hold, in 'i'"): res = session.apply(anew)
    assert res.sort_values('i').reset_index(drop=True).equals(expected.reset_index(drop=True))


@pytest.mark.parametrize('again', [True, False])
def test_a_learner_on_a_frame_that_was_numbered_anew_is_refused_or_found(again, tmp_path):
    df = digit_frame()
    splits = list(range(60)), list(range(60, 80))
    session = interp_of(frame_learner(df, splits), ds_idx=0).review(tmp_path/'j.jsonl')
    session.delete(session.ids[:10].tolist())
    gone = {int(o) for o in session.ids[:10]}
    order = df[:60].groupby('label', group_keys=False).sample(frac=1, random_state=0).sort_values('label')
    other = pd.concat([order, df[60:]]).reset_index(drop=True) if again else df
    learn = frame_learner(other, splits)
    if again:
        with pytest.raises(ValueError, match='another label'): interp_of(learn, ds_idx=0).review(tmp_path/'j.jsonl')
        with pytest.warns(UserWarning, match='the DataLoader has other ids'): dls = session.apply_dls(learn)
    else: dls = session.apply_dls(learn)
    assert {*dls.train.items.i} == {*range(60)} - gone and len(dls.valid.items) == 20


@pytest.mark.parametrize('kind', ['frame', 'numbers'])
def test_a_review_of_another_set_leaves_the_training_set_alone(kind, tmp_path):
    # The same items in both, so that nothing but the set tells them apart
    if kind == 'frame': learn = frame_learner(digit_frame(40), (list(range(40)), list(range(40))))
    else: learn = tiny_learn(digit_dls(range(40), range(40)))
    valid = interp_of(learn, ds_idx=1).review(tmp_path/'valid.jsonl')
    test = interp_of(learn, dl=learn.dls.test_dl(learn.dls.valid.items, with_labels=True)).review(tmp_path/'test.jsonl')
    for session in (valid, test): session.delete(session.ids[:5].tolist())
    assert (valid.set, test.set) == ('valid', 'test')
    for session in (valid, test):
        with pytest.raises(ValueError, match="set is 'train', but the session is about the"): session.apply_dls(learn, set='train')
    dls = valid.apply_dls(learn)
    assert dls.train is learn.dls.train and len(dls.valid.dataset) == 35
    with pytest.raises(ValueError, match="set is .'test'., but the Learner has"): test.apply_dls(learn)
    # From its journal alone
    again = ReviewSession(test.issues, tmp_path/'test.jsonl', vocab=test.vocab, user='ann')
    with pytest.raises(ValueError, match="set is .'test'., but the Learner has"): again.apply_dls(learn)
    with pytest.raises(ValueError, match="is about the set 'valid', but these issues are of 'train'"):
        interp_of(learn, ds_idx=0).review(tmp_path/'valid.jsonl')


def test_a_csv_of_the_users_columns_finds_them_too(tmp_path):
    issues = table(ids=[*map(str, range(6))]).assign(path=FRAME.path, x=FRAME.x)
    issues.to_csv(tmp_path/'issues.csv', index=False)
    session = ReviewSession(tmp_path/'issues.csv', tmp_path/'j.jsonl', user='ann')
    session.delete('1')
    with pytest.warns(UserWarning, match="found by what they hold, in 'path', 'x'"):
        res = session.apply(FRAME[::-1].reset_index(drop=True))
    assert res.path.tolist() == ['f.png', 'e.png', 'd.png', 'c.png', 'a.png']


def test_a_table_that_was_encoded_is_known_by_the_columns_that_were_not(tmp_path):
    df = pd.DataFrame({'kind': list('ab')*20, 'name': [f'n{i}' for i in range(40)], 'label': list('xyxx')*10})
    to = TabularPandas(df, [Categorify], ['kind'], [], 'label', y_block=CategoryBlock(), splits=(list(range(30)), list(range(30, 40))))
    session = interp_of(tabular_learner(to.dataloaders(bs=8), layers=[4]), ds_idx=0).review(tmp_path/'t.jsonl')
    session.delete('3')
    assert session.apply(df).equals(df.drop(3))
    with pytest.warns(UserWarning, match="found by what they hold, in 'name'"):
        res = session.apply(df[::-1].reset_index(drop=True))
    assert res.name.tolist() == [f'n{i}' for i in range(39, -1, -1) if i != 3]
