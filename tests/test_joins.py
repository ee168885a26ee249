"The user's rows and corrections, matched to the items: the right ones, or an error"
import numpy as np
import pandas as pd
import pytest
import torch
from fastai.data.block import (
    CategoryBlock,
    DataBlock,
    MultiCategoryBlock,
    RegressionBlock,
    TransformBlock,
)
from fastai.data.transforms import ColReader
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.tabular.all import Categorify, Normalize, TabularPandas, tabular_learner
from helpers import DIGITS, PIXELS, digit_dls, quiet, tiny_learn, tiny_model

import fastai_clean.learner  # noqa: F401  # Patches Learner.oof
from fastai_clean.callbacks import TrainingDynamicsCallback
from fastai_clean.interpret import CleanInterpretation
from fastai_clean.oof import OutOfFold

pytestmark = pytest.mark.filterwarnings('ignore::UserWarning')
N = 60
ORDER = np.random.default_rng(0).permutation(N)


def frame(index=None):
    df = pd.DataFrame({'i': range(N), 'label': [f'd{o}' for o in DIGITS.target[:N]]})
    # In another order, as of a frame that was shuffled and kept its row labels
    return df.iloc[ORDER] if index is None else df.set_axis(index)


VALID = sorted(np.random.default_rng(1).permutation(N)[:30].tolist())


def splitter(o): return [i for i in range(N) if i not in VALID], VALID


def learner(df, get_y='label', block=CategoryBlock, n_out=None):
    dls = DataBlock((TransformBlock, block), get_x=lambda r: PIXELS[int(r['i'])],
                    get_y=ColReader(get_y) if isinstance(get_y, (str, int)) else get_y,
                    splitter=splitter).dataloaders(df, bs=16, num_workers=0, device='cpu')
    return quiet(Learner(dls, tiny_model(), CrossEntropyLossFlat()))


def interp_of(df, **kw): return CleanInterpretation.from_learner(learner(df, **kw), ds_idx=1)


GET_YS = ['label', 1, lambda r: r['label'], lambda r: f'the {r["label"]}', ColReader('label', pref='p')]


@pytest.mark.parametrize('get_y', GET_YS)
@pytest.mark.parametrize('index', [
    None, [f'r{i}' for i in range(N)], pd.date_range('2020-01-01', periods=N), np.arange(N)*.5,
    pd.MultiIndex.from_product([range(6), range(10)])])
def test_rows_are_the_users_in_the_order_of_issues(get_y, index):
    df = frame(index)
    interp = interp_of(df, get_y=get_y)
    for given in (df, df.iloc[ORDER[::-1]]):
        rows = interp.rows(given)
        assert rows.i.tolist() == df.i.iloc[VALID].iloc[interp.issues.index].tolist()
        assert list(map(str, rows.index)) == interp.issues.id.tolist()
        pd.testing.assert_frame_equal(rows, df.loc[rows.index])


@pytest.mark.parametrize('get_y', GET_YS)
def test_rows_of_a_frame_that_was_shuffled_and_indexed_anew_are_refused(get_y):
    df = frame()
    interp = interp_of(df, get_y=get_y)
    for anew in (df.reset_index(drop=True), df.sort_values('label').reset_index(drop=True),
                 df.assign(label=df.label.sample(frac=1, random_state=0).to_numpy())):
        with pytest.raises(ValueError, match=r'data set has another label for \d+ of 30 items than df, first .* instead'):
            interp.rows(anew)


def test_rows_that_are_missing_or_there_twice_are_refused():
    df = frame()
    interp = interp_of(df)
    lost = int(interp.ids[0])
    with pytest.raises(ValueError, match=f'df lacks 1 of the 30 items, first {lost}'): interp.rows(df.drop(lost))
    with pytest.raises(ValueError, match='appears twice in df'): interp.rows(pd.concat([df, df[:1]]))
    with pytest.raises(ValueError, match="column is 'x', but df has no columns of that name"): interp.rows(df, 'x')
    with pytest.raises(TypeError, match='df is a list'): interp.rows([])
    with pytest.raises(TypeError, match='not made from a DataFrame'):
        CleanInterpretation.from_learner(tiny_learn(digit_dls(range(40), range(40, 60))), ds_idx=1).rows(df)


def test_rows_of_a_data_set_with_shared_row_labels_are_refused():
    df = pd.concat([frame()[:30].reset_index(drop=True), frame()[30:].reset_index(drop=True)])
    interp = interp_of(df)
    assert len({*interp.ids}) == 30
    with pytest.raises(ValueError, match='appears twice in df'): interp.rows(df)
    with pytest.raises(ValueError, match='appears twice in the data set'): interp.rows(df.reset_index(drop=True))


def test_rows_are_compared_in_the_column_that_is_named():
    df = frame()
    interp = interp_of(df)
    corrected = df.assign(old=df.label, label='d0')
    with pytest.raises(ValueError, match="instead of 'd0'|: 'd. instead"): interp.rows(corrected)
    assert len(interp.rows(corrected, 'old')) == 30
    # Without any label there is nothing to compare
    assert len(interp.rows(df[['i']])) == 30


@pytest.mark.parametrize('block, get_y', [
    (MultiCategoryBlock, lambda r: [r['label'], 'odd'] if r['i'] % 2 else [r['label']]),
    (MultiCategoryBlock, ColReader('tags', label_delim=' ')), (RegressionBlock, ColReader('age'))])
def test_rows_of_other_tasks_are_compared_too(block, get_y):
    df = frame().assign(tags=lambda o: o.label + ' x', age=lambda o: o.i/7)
    dls = DataBlock((TransformBlock, block), get_x=lambda r: PIXELS[int(r['i'])], get_y=get_y,
                    splitter=splitter).dataloaders(df, bs=16, num_workers=0, device='cpu')
    c = 1 if block is RegressionBlock else len(dls.vocab)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, c))
    interp = CleanInterpretation.from_learner(quiet(Learner(dls, model)), ds_idx=1)
    assert interp.rows(df).i.tolist() == df.i.iloc[VALID].iloc[interp.issues.index].tolist()
    with pytest.raises(ValueError, match='another label'): interp.rows(df.reset_index(drop=True))


@pytest.mark.parametrize('y, block', [('label', CategoryBlock()), ('age', RegressionBlock())])
def test_rows_of_a_table_are_the_users(y, block):
    df = frame().assign(age=lambda o: o.i/7, cat=[*'ab']*30)
    to = TabularPandas(df, [Categorify, Normalize], ['cat'], ['i'], y, y_block=block, splits=splitter(df))
    interp = CleanInterpretation.from_learner(quiet(tabular_learner(to.dataloaders(bs=16), layers=[4])), ds_idx=1)
    rows = interp.rows(df)
    assert rows.i.tolist() == df.i.iloc[VALID].iloc[interp.issues.index].tolist()
    with pytest.raises(ValueError, match='another label'): interp.rows(df.reset_index(drop=True))


# Corrections

def accuracy_of(interp, corrections):
    table = interp.evaluate(corrections, n_boot=2).set_index(['labels', 'metric']).value
    return table['corrected by a reviewer', 'accuracy']


def test_corrections_are_taken_by_position_id_or_row_label():
    df = frame([f'r{i}' for i in range(N)])
    interp = interp_of(df)
    want = {3: 'd1', 7: 'd2', 20: 'd5'}
    y = np.array([interp.vocab[k] for k in interp.given], dtype=object)
    for i, label in want.items(): y[i] = label
    right = np.mean(y == np.array([interp.vocab[k] for k in interp.predicted], dtype=object))
    by_id = {interp.ids[i]: label for i, label in want.items()}
    decisions = pd.DataFrame({'id': [*by_id, interp.ids[0]], 'label': [*want.values(), None],
                              'given': [interp.vocab[interp.given[i]] for i in (*want, 0)]})
    everything = pd.Series(y, index=interp.ids).sample(frac=1, random_state=0)
    for o in (want, by_id, pd.Series(by_id), everything, decisions, pd.Series(want).rename_axis('position')):
        assert accuracy_of(interp, o) == pytest.approx(right)


def test_corrections_in_a_series_go_by_row_labels_unless_both_readings_differ():
    interp = interp_of(frame())
    labels = pd.Series({int(interp.ids[i]): interp.vocab[interp.predicted[i]] for i in range(30)})
    assert accuracy_of(interp, labels) == 1
    key = next(i for i in range(30) if str(i) in interp.ids and interp.ids[i] != str(i))
    with pytest.raises(ValueError, match=f'{key}, which is the row label of one item and the position of another'):
        interp.evaluate(pd.Series({key: 'd1'}))
    assert accuracy_of(interp, {key: 'd1'}) == accuracy_of(interp, pd.Series({key: 'd1'}).rename_axis('position'))


@pytest.mark.parametrize('corrections, match', [
    (lambda o: {'nowhere': 'd1'}, "the position 'nowhere', which is none of the items"),
    (lambda o: {True: 'd1'}, 'position True'), (lambda o: {0: None}, 'label None'), (lambda o: {0: 3}, 'label 3'),
    (lambda o: {0: 'd1', o.ids[0]: 'd2'}, "two labels for .*, 'd1' and 'd2': decide on one"),
    (lambda o: pd.Series(['d1', 'd2'], index=o.ids[:1]*2), 'two labels for'),
    (lambda o: pd.Series({-5: 'd1'}), 'position -5'),
    (lambda o: pd.DataFrame({'item': [1]}), "without the column 'id'"),
    (lambda o: pd.DataFrame({'id': o.ids[:1], 'label': [None], 'action': ['delete']}), '1 deleted items'),
    (lambda o: pd.DataFrame({'id': o.ids[:1], 'label': ['d1'], 'given': ['d77']}), 'corrections has another label for 1')])
def test_corrections_that_fit_no_item_or_class_are_refused(corrections, match):
    interp = interp_of(frame([f'r{i}' for i in range(N)]))
    with pytest.raises(ValueError, match=match): interp.evaluate(corrections(interp), n_boot=2)


def test_the_same_correction_twice_is_one():
    interp = interp_of(frame([f'r{i}' for i in range(N)]))
    assert accuracy_of(interp, {0: 'd1', interp.ids[0]: 'd1'}) == accuracy_of(interp, {0: 'd1'})


# What was saved about other labels

def test_dynamics_of_other_labels_are_refused():
    labels = DIGITS.target.copy()
    learn = tiny_learn(digit_dls(range(40), range(40, 60), labels))
    learn.fit(1, cbs=TrainingDynamicsCallback())
    CleanInterpretation.from_learner(learn, ds_idx=0, score='aum')
    labels[3] = (labels[3] + 1) % 10
    other = tiny_learn(digit_dls(range(40), range(40, 60), labels))
    other.dynamics = learn.dynamics
    with pytest.raises(ValueError, match="learn.dynamics has another label for 1 of 40 items .*, first '3'"):
        CleanInterpretation.from_learner(other, ds_idx=0, score='aum')
    oof = OutOfFold(np.full((40, 10), .1), labels[:40], ids=range(40))
    with pytest.raises(ValueError, match="oof has another label for 1 of 40 items .*, first '3'"):
        learn.dynamics.score('ensemble', oof)
