"Several annotators: every form of their labels, what is refused, cleanlab as the oracle, a Learner's items, a session"
import warnings
from pathlib import Path
from runpy import run_path

import numpy as np
import pandas as pd
import pytest
import torch
from cleanlab.multiannotator import get_active_learning_scores, get_label_quality_multiannotator
from fastai.data.block import CategoryBlock, DataBlock, TransformBlock
from fastai.data.transforms import ColReader, RandomSplitter
from helpers import CLASSES, DIGITS, PIXELS, digit_dls, issue_table, tiny_learn

from fastai_clean.all import (
    CleanInterpretation,
    ConfidentLearningCallback,
    ReviewSession,
    find_annotator_issues,
    find_issues,
    majority_labels,
)
from fastai_clean.issues import annotators as module

NAMES = ['cat', 'dog', 'owl']
BENCHMARKS = Path(__file__).parents[1]/'examples'/'benchmarks'


def crowd(n=300, m=6, c=3, share=.5, seed=0, low=.4, high=.95):
    "True labels (n,), probabilities (n, c), annotations (n, m) with gaps, and how often each annotator is right"
    rng = np.random.default_rng(seed)
    true = rng.integers(0, c, n)
    probs = rng.dirichlet(np.ones(c), n) + 1.5*np.eye(c)[true]
    skill = np.linspace(low, high, m)
    wrong = (true[:, None] + rng.integers(1, c, (n, m))) % c
    labels = np.where(rng.random((n, m)) < skill, true[:, None], wrong).astype(float)
    labels[rng.random((n, m)) > share] = np.nan
    labels[np.isnan(labels).all(1), -1] = 0
    return true, probs/probs.sum(1, keepdims=True), labels, skill


TRUE, PROBS, LABELS, SKILL = crowd()
IDS = [f'{i}.png' for i in range(300)]
WIDE = pd.DataFrame(LABELS, IDS, list('abcdef')).map(lambda o: None if np.isnan(o) else NAMES[int(o)])
LONG = WIDE.rename_axis('id').reset_index().melt('id', var_name='annotator', value_name='label').dropna()


def same(a, b):
    for x, y in zip(a, b): pd.testing.assert_frame_equal(x, y)


def quietly(f, *args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return f(*args, **kwargs)


# cleanlab is the oracle

@pytest.mark.parametrize('m, share', [(3, 1.), (6, .5), (40, .08)])
def test_consensus_and_qualities_are_cleanlabs(m, share, capsys):
    _, probs, labels, _ = crowd(m=m, share=share)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        items, people, _ = find_annotator_issues(labels, probs)
    assert capsys.readouterr().out == ''
    found = get_label_quality_multiannotator(labels, probs, verbose=False)
    items, theirs = items.sort_index(), found['label_quality']
    assert (items.consensus == theirs.consensus_label).all() and (items.n_annotations == theirs.num_annotations).all()
    np.testing.assert_allclose(items.consensus_quality, theirs.consensus_quality_score)
    np.testing.assert_allclose(items.agreement, theirs.annotator_agreement)
    theirs = found['annotator_stats'].loc[people.index]
    np.testing.assert_allclose(people.quality, theirs.annotator_quality)
    np.testing.assert_allclose(people.agreement, theirs.agreement_with_consensus)
    assert (people.n_labels == theirs.num_examples_labeled).all()
    wrong = people.agreement < 1
    assert (people.worst_class[wrong] == theirs.worst_class[wrong]).all()


def test_label_quality_is_that_of_the_consensus_where_it_is_the_given_label():
    items = find_annotator_issues(LABELS, PROBS).items
    same_label = items.given == items.consensus
    assert (items.is_issue == ~same_label).all() and 0 < items.is_issue.sum() < 100
    np.testing.assert_allclose(items.label_quality[same_label], items.consensus_quality[same_label])
    assert (items.label_quality < items.consensus_quality)[~same_label].all()
    assert items.label_quality.is_monotonic_increasing


def test_scores_are_activelabs_at_the_same_temperature(monkeypatch):
    from cleanlab.internal import multiannotator_utils as utils
    theirs, _ = get_active_learning_scores(LABELS, PROBS)
    t = utils.find_best_temp_scaler(LABELS, PROBS)
    monkeypatch.setattr(module, 'fit_temperature', lambda *_: t)
    ask = find_annotator_issues(LABELS, PROBS).ask
    np.testing.assert_allclose(ask.score.sort_index(), theirs)
    assert ask.score.is_monotonic_increasing


def test_unlabelled_items_are_scored_as_cleanlab_does_and_have_no_consensus(monkeypatch):
    labels = LABELS.copy()
    labels[:20] = np.nan
    monkeypatch.setattr(module, 'fit_temperature', lambda *_: 1.)
    monkeypatch.setattr('cleanlab.multiannotator.find_best_temp_scaler', lambda *_: 1.)
    found = find_annotator_issues(labels, PROBS, vocab=NAMES)
    theirs = np.concatenate(get_active_learning_scores(labels[20:], PROBS[20:], PROBS[:20])[::-1])
    np.testing.assert_allclose(found.ask.score.sort_index(), theirs)
    none = found.items[found.items.n_annotations == 0]
    assert {*none.index} == {*range(20)} == {*found.items.index[-20:]}
    assert none.given.isna().all() and none.consensus.isna().all() and none.predicted.isin(NAMES).all()
    assert not none.is_issue.any() and none.label_quality.isna().all() and none.agreement.isna().all()


def test_good_annotators_and_right_consensus_are_recognised():
    true, probs, labels, skill = crowd(n=2000, m=12, share=.3)
    items, people, _ = find_annotator_issues(labels, probs)
    assert np.corrcoef(people.quality.sort_index(), skill)[0, 1] > .95
    items = items.sort_index()
    assert (items.consensus == true).mean() > (items.given == true).mean() + .05


# Forms

def test_every_form_gives_the_same_tables():
    found = find_annotator_issues(WIDE, PROBS, vocab=NAMES)
    assert found.items.id[0] == '0.png' and {*found.annotators.index} == {*'abcdef'}
    rng = np.random.default_rng(1)
    shuffled = WIDE.sample(frac=1, random_state=1)
    probs = pd.DataFrame(PROBS, IDS, NAMES)
    same(find_annotator_issues(shuffled, PROBS, vocab=NAMES, ids=IDS), found)
    same(find_annotator_issues(shuffled, probs), found)
    same(find_annotator_issues(shuffled, probs.iloc[::-1, ::-1], ids=IDS, vocab=NAMES), found)
    same(find_annotator_issues(shuffled.reset_index(names='file'), probs, id_column='file'), found)
    same(find_annotator_issues(WIDE.astype('category'), probs), found)
    order = LONG.annotator.map({o: k for k, o in enumerate('abcdef')}).sort_values(kind='stable').index
    long = LONG.loc[order].iloc[rng.permutation(np.arange(len(LONG)))]
    long = pd.concat([LONG[LONG.annotator == o] for o in 'abcdef'])  # Annotators in the same order
    same(find_annotator_issues(long, PROBS, ids=IDS, vocab=NAMES), found)
    same(find_annotator_issues(long, probs), found)
    long = long.set_axis(['file', 'who', 'said'], axis=1).astype('category')
    same(find_annotator_issues(long, probs, id_column='file', annotator_column='who', label_column='said'), found)


def test_arrays_of_every_dtype_give_the_same_tables():
    full = np.where(np.isnan(LABELS), 1, LABELS)
    found = find_annotator_issues(full, PROBS)
    for labels in (full.astype(int), full.astype(np.int8), full.tolist(), torch.tensor(full), full.astype(object),
                   pd.DataFrame(full.astype(int)).astype('Int64')):
        same(find_annotator_issues(labels, PROBS), found)
    found = find_annotator_issues(LABELS, PROBS)
    masked = np.ma.MaskedArray(np.nan_to_num(LABELS, nan=7).astype(int), np.isnan(LABELS))
    for labels in (masked, pd.DataFrame(LABELS).astype('Int64'), np.where(np.isnan(LABELS), None, LABELS),
                   LABELS.astype(np.float32), torch.tensor(LABELS)):
        same(find_annotator_issues(labels, torch.tensor(PROBS)), found)
    lists = WIDE.to_numpy().tolist()
    names = find_annotator_issues(WIDE.reset_index(drop=True).set_axis(range(6), axis=1), PROBS, vocab=NAMES)
    same(find_annotator_issues(lists, PROBS, vocab=NAMES), names)


def test_ids_of_a_frame_find_rows_by_its_row_labels():
    df = WIDE.reset_index(names='file').sample(frac=1, random_state=0)
    part = df.iloc[:100]
    at = [IDS.index(o) for o in part.file]
    found = find_annotator_issues(part[list('abcdef')], PROBS[at], ids=part.file, vocab=NAMES)
    same(find_annotator_issues(WIDE.iloc[at], PROBS[at], vocab=NAMES), found)
    with pytest.warns(UserWarning, match='labels has 200 items besides the 100 that are asked for'):
        same(find_annotator_issues(WIDE, PROBS[at], ids=part.file, vocab=NAMES), found)


def test_rows_without_a_label_only_name_an_item():
    long = pd.concat([LONG, pd.DataFrame({'id': ['new.png']})])
    probs = pd.DataFrame([*PROBS, [.2, .3, .5]], [*IDS, 'new.png'], NAMES)
    items, people, ask = find_annotator_issues(long, probs)
    new = items[items.id == 'new.png'].iloc[0]
    assert new.n_annotations == 0 and new.consensus is None and new.predicted == 'owl' and len(people) == 6
    assert ask.annotator[ask.id == 'new.png'].tolist() == [people.index[-1]]


def test_the_best_annotator_who_has_not_labelled_an_item_is_asked():
    items, people, ask = find_annotator_issues(LABELS, PROBS)
    best = people.index[::-1]
    for i in ask.index[:50]:
        assert ask.annotator[i] == next((k for k in best if np.isnan(LABELS[i, k])), None)
    full = np.where(np.isnan(LABELS), 1, LABELS)
    assert find_annotator_issues(full, PROBS).ask.annotator.isna().all()


def test_numbers_in_the_vocab_are_names():
    labels = pd.DataFrame([[1, 2, None], [3, 3, 1], [2, 2, 2]])
    assert quietly(find_annotator_issues, labels, vocab=[1, 2, 3]).items.sort_index().given.tolist() == [1, 3, 2]
    assert quietly(majority_labels, labels).tolist() == [1, 3, 2]
    truths = [[True, None], [False, True], [False, False]]
    for vocab in ([False, True], ['False', 'True']):
        found = find_annotator_issues(truths, PROBS[:3, :2]/PROBS[:3, :2].sum(1, keepdims=True), vocab=vocab)
        assert found.items.sort_index().given.tolist() == [vocab[1], vocab[1], vocab[0]]


# Refused, or said

@pytest.mark.parametrize('change, error', [
    (dict(labels=LABELS[:, :1]), 'no item with labels of two annotators, among 300: .* find_issues'),
    (dict(labels=LABELS[0]), r'labels has shape \(6,\): pass \(items, annotators\)'),
    (dict(labels=LABELS[:9]), 'labels has 9 rows for 300 items|pred_probs has 300 rows for 9 items'),
    (dict(labels=[[1, 2], [1]]), 'labels is not a table'),
    (dict(labels=LABELS + .5), 'annotations outside 0..2, first 0.5|first 1.5|first 2.5'),
    (dict(labels=np.nan_to_num(LABELS, nan=-1)), r'annotations outside 0..2, first -1 of \d+ by \d: mark a gap by NaN'),
    (dict(labels=np.where(LABELS == 2, 3, LABELS)), r'labels has \d+ annotations outside 0..2, first 3 of \d+ by \d'),
    (dict(labels=WIDE.replace('owl', 'awl'), vocab=NAMES), "outside the vocab .*, first 'awl' of '0.png' by 'c'"),
    (dict(labels=WIDE.astype(object), vocab=None), "annotations outside 0..2, first '"),
    (dict(labels=WIDE.iloc[1:], ids=IDS, vocab=NAMES), "1 of 300 items are missing from it, first '0.png'"),
    (dict(labels=LONG, vocab=NAMES), 'long form, while pred_probs is an array, whose rows no id names: pass ids'),
    (dict(labels=LONG[LONG.id != '7.png'], ids=IDS, vocab=NAMES), "1 of 300 items are missing .* '7.png'"),
    (dict(labels=LONG.drop(columns='id'), ids=IDS, vocab=NAMES), "but not 'id': name the column of ids with id_column"),
    (dict(labels=LONG.set_axis(['id', 'who', 'label'], axis=1), ids=IDS, vocab=NAMES), "'label', but not 'annotator': name"),
    (dict(labels=LONG.set_axis(['id', 'who', 'said'], axis=1), ids=IDS, vocab=NAMES), "labels has the id '.*' twice"),
    (dict(labels=WIDE.assign(label='cat'), vocab=NAMES), "the column 'label', but not 'annotator': .* or drop it"),
    (dict(labels=LONG.assign(annotator=None), ids=IDS, vocab=NAMES), r"\d+ rows without 'annotator', first at"),
    (dict(labels=WIDE.set_axis([*'aacdef'], axis=1), vocab=NAMES), "labels has the column 'a' twice"),
    (dict(labels=WIDE, id_column='file', vocab=NAMES), "labels has no column 'file'"),
    (dict(labels=WIDE, vocab=['cat', 'dog']), 'vocab has 2 different names in 2, but pred_probs has 3'),
    (dict(pred_probs=PROBS*2), 'rows that are not probabilities'),
    (dict(pred_probs=PROBS[:9]), 'pred_probs has 9 rows for 300 items'),
    (dict(given=TRUE[:9]), r'given has shape \(9,\)'),
    (dict(given=(TRUE + 1) % 3), r'given has another label than all annotators .* for \d+ of 300 items, first 0'),
])
def test_what_does_not_fit_is_refused_with_counts_and_an_example(change, error):
    with pytest.raises(ValueError, match=error):
        find_annotator_issues(**dict(labels=LABELS, pred_probs=PROBS) | change)


def test_labels_that_are_no_classes_are_refused():
    with pytest.raises(TypeError, match='labels holds values that are not classes'):
        find_annotator_issues(pd.DataFrame({'a': [[0], [1]], 'b': [[0], [0]]}), PROBS[:2])


def test_one_annotator_with_two_labels_of_an_item_is_refused():
    first = LONG.iloc[0]
    other = next(o for o in NAMES if o != first.label)
    long = pd.concat([LONG, first.to_frame().T.assign(label=other)])
    error = f"labels has 1 items that an annotator labelled twice, differently, first '{first.id}', which 'a' called " \
            f"'{first.label}' and '{other}'"
    with pytest.raises(ValueError, match=error): find_annotator_issues(long, PROBS, ids=IDS, vocab=NAMES)
    with pytest.raises(ValueError, match=error): majority_labels(long)


def test_repeated_annotations_count_once_and_are_said():
    long = pd.concat([LONG, LONG.head(5), LONG.head(2)])
    with pytest.warns(UserWarning, match='labels has 7 annotations more than once'):
        found = find_annotator_issues(long, PROBS, ids=IDS, vocab=NAMES)
    same(found, find_annotator_issues(LONG, PROBS, ids=IDS, vocab=NAMES))


def test_numbers_that_are_texts_of_other_classes_are_refused():
    labels = [[1, 2, 2], [1, 1, 2]]
    with pytest.raises(ValueError, match='labels has the number 1, which is a position .* at position 0: pass texts'):
        majority_labels(labels, vocab=['1', '2', '3'])
    assert majority_labels(labels, vocab=['0', '1', '2']).tolist() == ['2', '1']


def test_a_column_of_ids_is_not_taken_for_an_annotator():
    df = WIDE.reset_index(names='path')
    with pytest.raises(ValueError, match="the column 'path', whose 300 values all differ"): majority_labels(df)
    pd.testing.assert_series_equal(quietly(majority_labels, df, id_column='path'), quietly(majority_labels, WIDE))
    with pytest.raises(ValueError, match="the text 'nan', which numpy makes of a gap"):
        majority_labels(np.array([['cat', np.nan], ['dog', 'cat']]))


def test_without_a_model_the_majority_is_said_to_be_the_consensus():
    with pytest.warns(UserWarning, match='pred_probs is missing: the consensus is the majority'):
        items, people, ask = find_annotator_issues(WIDE)
    assert 'predicted' not in items and not items.is_issue.any()
    assert (items.consensus == items.given).all() and (items.consensus_quality == items.agreement).all()
    assert items.sort_index().consensus.tolist() == quietly(majority_labels, WIDE).tolist()
    theirs = np.corrcoef(people.quality.loc[list('abcdef')], SKILL)[0, 1]
    assert theirs > .9 and ask.score.between(0, 1).all()


@pytest.mark.parametrize('probs', [PROBS, np.full((300, 3), 1/3)])
def test_annotators_of_one_item_of_none_and_classes_that_nobody_used(probs, capsys):
    labels = np.column_stack([LABELS, np.full((300, 3), np.nan)])
    labels[5, 6] = 1  # The seventh annotator labelled one item, the eighth one that nobody else did, the ninth none
    labels[9] = np.nan
    labels[9, 7] = 2
    probs = np.column_stack([probs*.9, np.full(300, .1)])
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        found = find_annotator_issues(labels, probs, vocab=[*NAMES, 'emu'])
    assert capsys.readouterr() == ('', '')
    people = found.annotators
    assert people.n_labels[[6, 7, 8]].tolist() == [1, 1, 0]
    assert np.isfinite(people.quality[6]) and people.quality[[7, 8]].isna().all()
    assert people.index[-2:].tolist() == [7, 8] and not found.ask.annotator.isin([7, 8]).any()


@pytest.mark.parametrize('labels', [np.zeros((6, 3)), np.tile(TRUE[:6, None], 3), [[0, 1], [1, 2], [2, 0]]*2])
def test_annotators_who_always_or_never_agree_are_no_warning(labels, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        items, people, _ = find_annotator_issues(labels, PROBS[:6])
    assert capsys.readouterr().out == '' and items.consensus_quality.between(0, 1).all()
    if len(labels[0]) == 3: assert people.worst_class.isna().all() and not items.is_issue.any()


def test_cleanlabs_chance_leaves_no_trace_and_is_always_the_same():
    labels = np.array([[0, 1], [1, 0], [2, 2], [0, 1]])
    probs = np.full((4, 3), 1/3)
    np.random.seed(5)
    before = str(np.random.get_state())
    first = find_annotator_issues(labels, probs)
    assert str(np.random.get_state()) == before
    np.random.seed(6)
    same(find_annotator_issues(labels, probs), first)


def test_nothing_of_the_users_changes():
    wide, long, probs = WIDE.copy(), LONG.copy(), pd.DataFrame(PROBS, IDS, NAMES)
    find_annotator_issues(wide, probs)
    find_annotator_issues(long, probs)
    pd.testing.assert_frame_equal(wide, WIDE)
    pd.testing.assert_frame_equal(long, LONG)
    assert (probs.to_numpy() == PROBS).all()


# The majority

def test_ties_go_to_the_rarer_class_in_any_order_and_are_said():
    df = pd.DataFrame({'x': ['cat', 'dog', 'dog', 'cat'], 'y': ['dog', 'cat', 'dog', 'cat'],
                       'z': [None, None, 'dog', None]}, list('pqrs'))
    with pytest.warns(UserWarning, match=r"2 of 4 items without a majority, first 'p' with \['cat', 'dog'\]") as caught:
        found = majority_labels(df)
    assert len(caught) == 1 and found.to_dict() == {'p': 'cat', 'q': 'cat', 'r': 'dog', 's': 'cat'}
    assert quietly(majority_labels, df.iloc[::-1, ::-1]).to_dict() == found.to_dict()


def test_the_majority_needs_no_second_annotator_and_none_is_said():
    with pytest.warns(UserWarning, match="labels has no label of 1 of 3 items, first 'b'"):
        found = majority_labels(pd.DataFrame({'x': [1., np.nan, 0.]}, list('abc')))
    assert found.tolist() == [1, None, 0] and found.name == 'label' and found.index.name == 'id'


def test_the_majority_is_cleanlabs_but_for_ties():
    from cleanlab.multiannotator import get_majority_vote_label
    theirs = get_majority_vote_label(LABELS, verbose=False)
    ours = quietly(majority_labels, LABELS).to_numpy()
    votes = (LABELS[:, :, None] == np.arange(3)).sum(1)
    clear = (votes == votes.max(1, keepdims=True)).sum(1) == 1
    assert (ours == theirs)[clear].all() and (votes[np.arange(300), ours] == votes.max(1)).all()
    assert (ours == theirs).mean() > .98


def test_given_labels_that_are_one_annotators_are_no_mistake():
    labels = np.column_stack([LABELS, TRUE])
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        items = find_annotator_issues(labels, PROBS, given=TRUE).items
    assert (items.sort_index().given == TRUE).all()
    majority = quietly(majority_labels, LABELS).to_numpy()
    minority = np.where(np.isnan(LABELS[:, 5]), majority, LABELS[:, 5]).astype(int)
    with pytest.warns(UserWarning, match=r'given is not the majority .* for \d+ of 300 items, first \d+: '):
        find_annotator_issues(LABELS, PROBS, given=minority)


# With a Learner

@pytest.fixture(scope='module')
def interp():
    "The first 120 digits as three annotators saw them, and an interpretation of their majority"
    rng = np.random.default_rng(0)
    labels = np.tile(DIGITS.target[:, None], 3)
    wrong = rng.random(labels.shape) < [.05, .2, .3]
    labels[wrong] = (labels[wrong] + rng.integers(1, 10, wrong.sum())) % 10
    given = quietly(majority_labels, labels).to_numpy()
    learn = tiny_learn(digit_dls(range(400), range(400, 520), labels=given))
    learn.fit(3, 1e-2)
    return quietly(CleanInterpretation.from_learner, learn, ds_idx=1), labels[400:520]


def test_an_interpretation_matches_annotations_by_id(interp):
    interp, labels = interp
    found = interp.annotators(labels)
    same(found, interp.annotators(pd.DataFrame(labels, interp.ids).sample(frac=1, random_state=0)))
    long = pd.DataFrame(labels, interp.ids).rename_axis('id').reset_index().melt('id', var_name='annotator',
                                                                                 value_name='label')
    same(found, interp.annotators(long.rename(columns={'annotator': 'who'}), annotator_column='who'))
    assert found.items.id.tolist() == [interp.ids[i] for i in found.items.index]
    given = interp.given[found.items.index]
    assert (found.items.given.astype(int) == given).all() and found.annotators.index[-1] == 0
    right = DIGITS.target[400:520][found.items.index]
    assert (found.items.consensus.astype(int) == right).mean() > (given == right).mean()


def test_an_interpretation_refuses_annotations_of_other_items(interp):
    interp, labels = interp
    with pytest.raises(ValueError, match=r'another label than all annotators of the item for \d+ of 120 items'):
        interp.annotators(labels[::-1])
    with pytest.raises(ValueError, match='3 of 120 items are missing'):
        interp.annotators(pd.DataFrame(labels, interp.ids)[3:])
    with pytest.raises(ValueError, match='labels has 119 rows for 120 items'): interp.annotators(labels[1:])
    one = labels.copy()
    one[:] = interp.given[:, None]
    one[7:9, 1:] = one[7:9, 1:] + 1
    one[9, 0] += 1
    with pytest.warns(UserWarning, match=r'not the majority of the annotators for 2 of 120 items, first .407.'):
        interp.annotators(one % 10)


@pytest.mark.slow
def test_from_a_csv_in_long_form_to_the_majority_a_fit_and_the_consensus(tmp_path):
    rng = np.random.default_rng(0)
    n = 300
    said = np.tile(DIGITS.target[:n, None], 4)
    wrong = rng.random(said.shape) < [.05, .1, .2, .4]
    said[wrong] = (said[wrong] + rng.integers(1, 10, wrong.sum())) % 10
    long = pd.DataFrame(said, [f'digit_{i}' for i in range(n)], ['ann', 'bob', 'cy', 'di']).stack().sample(
        frac=.7, random_state=0).rename_axis(['id', 'annotator']).rename('label').reset_index()
    long.to_csv(tmp_path/'labels.csv', index=False)

    labels = pd.read_csv(tmp_path/'labels.csv')
    with pytest.warns(UserWarning, match='items without a majority'): df = majority_labels(labels).to_frame()
    number = df.index.str.removeprefix('digit_').astype(int)
    df['i'] = number
    dls = DataBlock((TransformBlock, CategoryBlock), get_x=lambda r: PIXELS[int(r['i'])], get_y=ColReader('label'),
                    splitter=RandomSplitter(.2, seed=0)).dataloaders(df, bs=16, num_workers=0, device='cpu')
    learn = tiny_learn(dls, cbs=ConfidentLearningCallback(n_folds=2))
    learn.fit(6, 1e-2)
    with pytest.warns(UserWarning, match=r'labels has \d+ items besides the \d+ that are asked for'):
        items, people, ask = CleanInterpretation.from_learner(learn).annotators(labels)
    true = DIGITS.target[items.id.str.removeprefix('digit_').astype(int)]
    assert (items.consensus == true).mean() > (items.given == true).mean()
    assert people.index.tolist() == ['di', 'cy', 'bob', 'ann'] and {*ask.annotator.dropna()} <= {*people.index}
    assert (df.label[items.id].array == items.given.array).all()


# Reviewers

def test_reviewers_of_a_session_are_annotators(tmp_path):
    table = issue_table(12)
    path = tmp_path/'j.jsonl'
    ann = ReviewSession(table, path, vocab=list(CLASSES), user='ann')
    ann.delete('i6')
    with pytest.raises(ValueError, match='no reviewer has given an item a label yet'): ann.annotators()
    ann.relabel(['i3', 'i4'], 'owl')
    ann.keep('i5')
    ann.unsure('i7')
    bob = ReviewSession(table, path, vocab=list(CLASSES), user='bob')
    bob.relabel(['i3', 'i8'], 'owl')
    bob.relabel('i9', 'dog')
    bob.undo()
    long = ann.annotations()
    own = long[long.annotator != 'given'].set_index(['annotator', 'id']).label.to_dict()
    assert own == {('ann', 'i3'): 'owl', ('ann', 'i4'): 'owl', ('ann', 'i5'): 'owl', ('bob', 'i3'): 'owl',
                   ('bob', 'i8'): 'owl'}
    given = dict(zip(table.id, table.given))
    reviewed = {o: given[o] for o in ('i3', 'i4', 'i5', 'i8')}
    assert long[long.annotator == 'given'].set_index('id').label.to_dict() == reviewed
    found = quietly(ann.annotators)
    items = found.items.set_index('id')
    assert items.given.to_dict() == reviewed
    assert [table.id[i] for i in found.items.index] == [*items.index] and {*found.ask.index} == {3, 4, 5, 8}
    # Two against the given label win; one does not
    assert items.consensus['i3'] == 'owl' and items.is_issue[['i3', 'i4']].tolist() == [True, False]
    assert found.annotators.n_labels.to_dict() == {'ann': 3, 'bob': 2, 'given': 4}
    probs = pd.DataFrame(np.full((12, 3), 1/3), table.id, list(CLASSES))
    assert ann.annotators(probs).items.id.tolist() == ann.annotators(probs.sample(frac=1)).items.id.tolist()
    with pytest.raises(TypeError, match='whose rows no id names'): ann.annotators(probs.to_numpy())
    given = ReviewSession(table, path, vocab=list(CLASSES), user='given')
    given.keep('i0')
    with pytest.raises(ValueError, match="given is 'given', which is a reviewer's name too"): ann.annotators()
    assert quietly(ann.annotators, given='before').annotators.n_labels['before'] == 5


def test_an_interpretation_takes_a_session(interp, tmp_path):
    interp, _ = interp
    session = interp.review(tmp_path/'j.jsonl', user='ann')
    worst = interp.issues[interp.issues.is_issue]
    session.relabel(worst.id.tolist(), worst.predicted.tolist())
    with pytest.warns(UserWarning, match="'ann' is the only reviewer"): found = interp.annotators(session)
    assert {*found.annotators.index} == {'ann', 'given'} and found.annotators.n_labels['ann'] == len(worst)
    assert {*found.items.index} == {*worst.index} and found.items.is_issue.all()
    assert found.items.id.tolist() == [interp.ids[i] for i in found.items.index]
    assert found.items.set_index('id').consensus[worst.id].tolist() == worst.predicted.tolist()


def test_items_can_be_reviewed(tmp_path):
    items = find_annotator_issues(WIDE, PROBS, vocab=NAMES).items
    session = ReviewSession(items, tmp_path/'j.jsonl', vocab=NAMES)
    assert session.progress()['flagged'] == items.is_issue.sum()
    assert {*find_issues(TRUE, PROBS)} <= {*items}


@pytest.mark.slow
def test_the_benchmark_leaves_out_rows_that_contradict(tmp_path, monkeypatch, capsys):
    true, probs, said, _ = crowd(n=300, m=3, c=10, share=1., low=.6)
    order = np.argsort(true, kind='stable')
    number = pd.Series(true).groupby(true).cumcount()
    path = [f'train/c{t}_{k:04}.png' for t, k in zip(true, number)]
    names = pd.Series(said[:, 2].astype(int)).map('c{}'.format)
    folder = tmp_path/'cifar10n'
    folder.mkdir()
    pd.DataFrame({'path': path, 'split': 'train', 'true': [f'c{o}' for o in true], 'aggre': names}).iloc[order].to_csv(
        folder/'labels.csv', index=False)
    wide = pd.DataFrame(said.astype(int), path, ['annotator1', 'annotator2', 'annotator3']).map('c{}'.format)
    wide.rename_axis('path').to_csv(folder/'annotators.csv')
    noisy = said[:, 2].astype(int)
    noisy[250] = (noisy[250] + 1) % 10
    np.savez(folder/'published_resnet18_oof.npz', pred_probs=probs, noisy=noisy, true=true)
    np.savez(tmp_path/'f.npz', names=path, X=probs)
    monkeypatch.syspath_prepend(BENCHMARKS)
    tables = run_path(str(BENCHMARKS/'annotators.py'))['main'](data=tmp_path, features=tmp_path/'f.npz', scale=.01)
    assert 'the first in row 250; 250 come before' in capsys.readouterr().out
    assert tables['consensus'].images.tolist() == [250, 300, 250, 250]
    assert (tables['consensus'].consensus > tables['consensus'].majority).all()


@pytest.mark.slow
def test_many_items_take_seconds():
    import time
    _, probs, labels, _ = crowd(n=50_000, m=20, c=10, share=.2)
    start = time.process_time()
    find_annotator_issues(labels, probs)
    assert time.process_time() - start < 20
