"What a CleanInterpretation writes: the Learner's own classes, the user's columns, nothing that a program would run"
import json
import os
import shutil
import warnings

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
from fastai.data.transforms import ColReader, IndexSplitter, get_image_files, parent_label
from fastai.learner import Learner
from fastai.losses import BaseLoss, BCEWithLogitsLossFlat, CrossEntropyLossFlat, MSELossFlat
from fastai.tabular.core import Categorify, Normalize, TabularPandas
from fastai.tabular.learner import tabular_learner
from fastai.text.data import TextDataLoaders
from fastai.torch_core import TensorMask
from fastai.vision.data import ImageDataLoaders
from helpers import CLASSES, DIGITS, PIXELS, quiet
from torch import nn

from fastai_clean._images import Unreadable
from fastai_clean._text import as_written, brief, inert, shorten
from fastai_clean.all import CleanInterpretation, ConfidentLearningCallback, ReviewSession
from fastai_clean.app import _home, shown
from fastai_clean.interpret.decisions import decided
from fastai_clean.review.tables import read_issues

N = 60
SPLIT = IndexSplitter(range(45, N))
TRUE = DIGITS.target[:N] % 3
NASTY = ['=1+1', '+1', '-1', '-1;-2.5', '-', '@SUM(A1)', '\tx', '\rx', "'=1", "''", "'", "''=1", ' =1', '\uff1d1', '\n=1',
         '-3.jpg', "it's", '', 'a=b', '+', '1e5', '-1e5', '"=1"', '=cmd|"/c calc"!A1', '\x1b[31mred', '\u202egpj']


def pixels_of_row(row): return PIXELS[int(row.i)]


def learner(block, loss, c, splitter=SPLIT, items=None, get_x=lambda i: PIXELS[i], **kwargs):
    torch.manual_seed(0)
    dls = DataBlock(block, get_x=get_x, splitter=splitter, **kwargs).dataloaders(
        list(range(N)) if items is None else items, bs=16, num_workers=0, device='cpu')
    return quiet(Learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(64, c)), loss))


def framed(df, get_y, c=3, **kwargs):
    return learner((TransformBlock, CategoryBlock), CrossEntropyLossFlat(), c, items=df, get_x=pixels_of_row,
                   get_y=get_y, **kwargs)


def interp_of(learn, ds_idx=1):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # Weak, and some in-sample
        return CleanInterpretation.from_learner(learn, ds_idx=ds_idx)


def frame(**columns): return pd.DataFrame({'i': range(N), **columns})


# The given class

def name_of_code(row): return CLASSES[row.label]
def name_in_file(row): return CLASSES[int(row['name'].split('_')[0])]


@pytest.mark.parametrize('columns, get_y', [
    ({'label': TRUE}, name_of_code),
    ({'name': [f'{y}_{i}.jpg' for i, y in enumerate(TRUE)]}, name_in_file),
    ({'given': TRUE, 'label': TRUE, 'predicted': 'mine', 'id': 'mine', 'set': 'a', 'is_issue': 'maybe',
      'label_quality': 'good', 'confidence': 'high'}, name_of_code)])
def test_every_file_has_the_learners_classes_whatever_the_users_columns_hold(columns, get_y, tmp_path):
    interp = interp_of(framed(frame(**columns), get_y))
    issues = interp.issues
    files = [read_issues(interp.to_csv(tmp_path/'a.csv', only_issues=False)), read_issues(interp.to_review(tmp_path/'b.csv')),
             pd.read_parquet(interp.to_parquet(tmp_path/'a.parquet', only_issues=False)), interp.to_frame(only_issues=False)]
    for found in files:
        assert found.given.tolist() == issues.given.tolist() and found.predicted.tolist() == issues.predicted.tolist()
        assert found['id'].tolist() == issues['id'].tolist() and found.is_issue.tolist() == issues.is_issue.tolist()
        assert np.allclose(found.label_quality, issues.label_quality) and set(found.given) == {*CLASSES}
    assert ReviewSession(files[0], tmp_path/'j.jsonl').vocab == list(CLASSES)
    back = pd.read_csv(tmp_path/'a.csv', dtype=str)
    for name in columns:
        own = f'{name}_1' if name in issues or name == 'set' else name
        expected = frame(**columns)[name].iloc[45:].iloc[issues.index].astype(str)
        assert back[own].tolist() == expected.tolist(), name


@pytest.mark.slow
def test_report_has_the_learners_classes(tmp_path):
    interp = interp_of(framed(frame(label=TRUE), name_of_code))
    page = interp.report(tmp_path/'r.html', n=15).read_text(encoding='utf-8')
    assert all(o in page for o in CLASSES)


@pytest.mark.parametrize('block, loss, c, get_y, first', [
    (MultiCategoryBlock, BCEWithLogitsLossFlat(), 2, lambda i: ['a', 'b'] if i % 2 else ['b'], {'a;b', 'b'}),
    (RegressionBlock, MSELossFlat(), 1, lambda i: float(i), {f'{float(i)}' for i in range(45, N)}),
    (RegressionBlock(n_out=2), MSELossFlat(), 2, lambda i: [float(i), -1.], {f'{float(i)};-1.0' for i in range(45, N)})])
def test_every_task_has_given_and_predicted(block, loss, c, get_y, first, tmp_path):
    interp = interp_of(learner((TransformBlock, block), loss, c, get_y=get_y))
    back = pd.read_csv(interp.to_csv(tmp_path/'a.csv', only_issues=False), dtype=str)
    assert set(back.given) == first and back.predicted.notna().any() and back.columns[-1] == 'id'
    assert len(pd.read_parquet(interp.to_parquet(tmp_path/'a.parquet', only_issues=False))) == len(back)


def test_masks_have_given_and_predicted(tmp_path):
    interp = masks(CrossEntropyLossFlat(axis=1))
    back = pd.read_csv(interp.to_csv(tmp_path/'a.csv', only_issues=False), dtype=str)
    assert {'given', 'predicted', 'id'} <= {*back} and set(back.given.dropna()) <= {'0', '1'}


@pytest.mark.parametrize('way', ['frame', 'function'])
@pytest.mark.parametrize('how', ['apply_dls', 'relabel'])
def test_files_have_the_labels_that_were_trained_on(how, way, tmp_path):
    names = np.array(CLASSES)[TRUE]
    df = frame(label=names)
    learn = framed(df, ColReader('label') if way == 'frame' else lambda o: str(o.label))
    if how == 'apply_dls':
        interp = interp_of(learn, 0)
        session = interp.review(tmp_path/'j.jsonl')
        for i in (0, 1): session.relabel(interp.issues['id'][i], 'owl')
        new = quiet(Learner(session.apply_dls(learn), learn.model, learn.loss_func))
        changed = {0: 'owl', 1: 'owl'}
    else:
        result = learn.clean_fit(1, strategy='relabel', method='fit', n_folds=2)
        new = result.learn
        flagged = result.interp.issues[result.interp.issues.is_issue]
        changed = dict(zip(flagged.index, flagged.predicted))
    interp = interp_of(new, 0)
    expected = [changed.get(i, names[i]) for i in interp.issues.index]
    assert changed and interp.issues.given.tolist() == expected
    back = interp.to_frame(only_issues=False)
    assert back.given.tolist() == expected and read_issues(interp.to_review(tmp_path/'a.csv')).given.tolist() == expected
    # The frame's copy says the same; with a function in between its column stays as it was
    assert back.label.tolist() == (expected if way == 'frame' else [names[i] for i in interp.issues.index])
    assert df.label.tolist() == names.tolist()


# The user's own columns

OWN = {'tags': [['=x', f't{i}'] for i in range(N)], 'vector': [np.arange(3) + i for i in range(N)],
       'whole': pd.array([None if i % 4 == 0 else i for i in range(N)], dtype='Int64'),
       'flag': pd.array([None, True]*(N//2), dtype='boolean'), 'day': pd.date_range('2020-01-01', periods=N, tz='UTC'),
       'kind': pd.Categorical(['a', 'b', None]*(N//3), categories=['b', 'a', 'c']),
       'objects': pd.Series([1, None]*(N//2), dtype=object), 'box': [{'a': 1} if i % 2 else {'b': 2} for i in range(N)]}


@pytest.mark.parametrize('made', ['images', 'texts'])
def test_users_columns_come_back_as_they_were(made, tmp_path):
    texts = [f'The "BIG"  dog, no. {i}, isn\'t <br /> there' for i in range(N)]
    df = frame(label=np.array(CLASSES)[TRUE], text=texts, **OWN).set_axis([f'r{i}' for i in range(N)])
    if made == 'images': learn = framed(df, ColReader('label'))
    else:
        dls = TextDataLoaders.from_df(df, text_col='text', label_col='label', valid_pct=.2, seed=0, bs=16, num_workers=0,
                                      seq_len=8, device='cpu')
        net = nn.Sequential(nn.EmbeddingBag(500, 3))
        learn = quiet(Learner(dls, net, CrossEntropyLossFlat()))
    interp = interp_of(learn, 0)
    back = interp.to_frame(only_issues=False)
    pd.testing.assert_frame_equal(back[df.columns], df.loc[back.index])
    assert back.index.equals(df.loc[back['id']].index)
    csv = pd.read_csv(interp.to_csv(tmp_path/'a.csv', only_issues=False))
    assert csv.tags.map(json.loads).tolist() == back.tags.tolist() and csv.text.tolist() == back.text.tolist()
    assert csv.vector.map(json.loads).tolist() == [o.tolist() for o in back.vector]
    assert csv.whole.astype('Int64').tolist() == back.whole.tolist()
    parquet = pd.read_parquet(interp.to_parquet(tmp_path/'a.parquet', only_issues=False))
    for name in ('whole', 'flag', 'kind'): assert parquet[name].dtype == back[name].dtype
    assert (parquet.day == back.day.to_numpy()).all() and parquet.box.tolist() == back.box.map(str).tolist()
    assert [o.tolist() for o in parquet.tags] == back.tags.tolist() and (parquet.text == back.text.to_numpy()).all()
    if made == 'images': return
    review = read_issues(interp.to_review(tmp_path/'b.csv'))
    assert review.text.tolist() == back.text.tolist() and interp.shown(interp.issues.index[0]) == back.text.iloc[0]


def test_whole_numbers_of_a_normalized_table_come_back_whole(tmp_path):
    df = pd.DataFrame({'age': np.arange(N), 'pay': np.linspace(.5, 9, N), 'job': ['a', 'b']*(N//2), 'y': list('xy')*(N//2)})
    to = TabularPandas(df, [Categorify, Normalize], ['job'], ['age', 'pay'], 'y', splits=(list(range(45)), list(range(45, N))))
    learn = quiet(tabular_learner(to.dataloaders(bs=8, device='cpu'), layers=[4], path=tmp_path))
    back = interp_of(learn).to_frame(only_issues=False)
    own = df.loc[back.index]
    assert back.age.tolist() == own.age.tolist() and back.age.dtype == np.int64 and back.job.tolist() == own.job.tolist()
    assert np.allclose(back.pay, own.pay) and back.given.tolist() == own.y.tolist()


# On another machine

def image_learner(folder, root, way):
    files = sorted(get_image_files(folder))
    if way == 'frame':
        df = pd.DataFrame({'file': [str(o.relative_to(folder)) for o in files], 'label': [o.parent.name for o in files]})
        dls = ImageDataLoaders.from_df(df, folder, fn_col='file', label_col='label', valid_pct=.2, bs=8, num_workers=0,
                                       device='cpu')
    else:
        dls = ImageDataLoaders.from_path_func(root, files, parent_label, valid_pct=.2, bs=8, num_workers=0, device='cpu')
    return quiet(Learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(768, dls.c)), CrossEntropyLossFlat(), path=root))


@pytest.mark.parametrize('way', ['frame', 'inside the folder of the Learner', 'outside'])
def test_moved_images_are_found(way, digit_folder, tmp_path, monkeypatch):
    here = tmp_path/'here'
    shutil.copytree(digit_folder[0], here/'digits')
    learn = image_learner(here/'digits', tmp_path/'models' if way == 'outside' else here, way)
    interp = interp_of(learn, 0)
    at = interp.issues.index[:5]
    expected = [interp.shown(i) for i in at]
    csv = interp.to_review(tmp_path/'review.csv')
    (tmp_path/'there').mkdir()
    monkeypatch.chdir(tmp_path/'there')
    shutil.move(here, tmp_path/'there/moved')
    issues = read_issues(csv)
    home = _home(issues.path)
    for folder in ('moved', 'moved/digits'):
        found = [shown(issues.iloc[k], folder, 'text', home) for k in range(5)]
        assert all(np.array_equal(a, b) for a, b in zip(found, expected)), folder
    # What tells the items apart is never left out: that would be another item's image
    shutil.copytree('moved/digits/0', 'moved/other')
    assert all(isinstance(shown(issues.iloc[k], 'moved/other', 'text', home), Unreadable) for k in range(5))


@pytest.mark.skipif(os.name == 'nt', reason='file names are texts there')
def test_stray_byte_in_a_file_name_is_written_and_found(digit_folder, tmp_path):
    shutil.copytree(digit_folder[0], tmp_path/'digits')
    file = sorted(get_image_files(tmp_path/'digits'))[0]
    os.rename(file, os.path.join(os.fsencode(file.parent), b'\xff\x1b[31m.png'))
    interp = interp_of(image_learner(tmp_path/'digits', tmp_path, 'files'), 0)
    odd = [i for i in interp.issues.index if '\udcff' in interp.ids[i]]
    issues = read_issues(interp.to_review(tmp_path/'a.csv'))
    assert len(issues) == len(interp.issues) and issues['id'].is_unique
    for i in odd:
        row = issues[issues['id'].str.contains('udcff')].iloc[0]
        assert np.array_equal(shown(row, tmp_path/'digits', 'text'), interp.shown(i))
    for o in (interp.to_csv(tmp_path/'b.csv', only_issues=False), interp.to_parquet(tmp_path/'a.parquet')):
        assert o.stat().st_size


# Nothing live

def test_formulas_are_texts_in_a_spreadsheet_and_come_back_exactly(tmp_path):
    for o in NASTY:
        assert as_written(inert(o)) == o
        assert as_written(inert(inert(o))) == inert(o)
    assert [inert(o) for o in ('-1', '+1', '-1;-2.5', "it's", 'a=b', -1, None)] == ['-1', '+1', '-1;-2.5', "it's", 'a=b', -1, None]
    for o in ('=1', '@x', '\t', '-3.jpg', ' =1', '\uff1d1', "'=1", '\n=1', '-'): assert inert(o) == f"'{o}"

    vocab = ['=a', '-1', "'=a"]
    notes = (NASTY*3)[:N]
    df = frame(label=np.array(vocab)[TRUE], note=notes, **{'=live': notes}).set_axis([f'=r{i}' for i in range(N)])
    interp = interp_of(framed(df, ColReader('label')), 0)
    back = read_issues(interp.to_csv(tmp_path/'a.csv', only_issues=False))
    own = df.loc[interp.issues['id']]
    for name in ('note', '=live'): assert back[name].tolist() == own[name].tolist()
    assert back.given.tolist() == own.label.tolist() and back['id'].tolist() == own.index.tolist()
    raw = pd.read_csv(tmp_path/'a.csv', dtype=str, keep_default_na=False)
    cells = [*raw.columns, *raw.to_numpy().ravel()]
    numbers = {'-1', '+1', '-1;-2.5', '-1e5'}
    assert not [o for o in cells if o and o.lstrip()[:1] in '=+-@\uff1d' and o not in numbers and '\n' not in o]

    session = interp.review(tmp_path/'j.jsonl')
    session.relabel(interp.issues['id'].iloc[0], "'=a")
    session.note(interp.issues['id'].iloc[0], '=note')
    said = pd.read_csv(session.to_csv(tmp_path/'d.csv'), dtype=str).iloc[0]
    assert said.note == "'=note" and said['id'].startswith("'=r") and said.label == "''=a"
    decisions = session.decisions.iloc[0]
    for name in ('id', 'note', 'label'): assert as_written(said[name]) == decisions[name]


def test_escapes_are_not_printed_and_tables_keep_the_names(capsys, tmp_path):
    names = ['\x1b[31mred', '\u202egpj', 'plain']
    learn = framed(frame(label=np.array(names)[TRUE]), ColReader('label'))
    interp = interp_of(learn)
    interp.print_classification_report()
    out = capsys.readouterr().out
    with pytest.warns(UserWarning): compared = CleanInterpretation.compare(learn)
    for text in (out, repr(interp), interp.weakness, *compared.worst_pairs, brief(names[0]), shorten(names[1])):
        assert '\x1b' not in text and '\u202e' not in text
    assert 'plain' in out and set(interp.health().index) == {*names} and set(interp.issues.given) == {*names}
    class Odd:
        def __repr__(self): return '\x1b[2J'
    assert '\x1b' not in brief(Odd())


# The Learner's own decision

class Threshold(CrossEntropyLossFlat):
    def decodes(self, x): return (x[:, 1] > .2).long()


class Costs(CrossEntropyLossFlat):
    def decodes(self, x): return (x*torch.tensor([4., 1., 1.])).argmax(1, keepdim=True)


class OwnThresholds(BCEWithLogitsLossFlat):
    def decodes(self, x): return x > torch.tensor([.3, .6, .45])


class Logarithm(BaseLoss):
    def __init__(self): super().__init__(nn.MSELoss, floatify=True, is_2d=False)
    def __call__(self, inp, targ, **kwargs): return super().__call__(inp, torch.log1p(targ), **kwargs)
    def decodes(self, x): return torch.expm1(x)


class DarkPixels(CrossEntropyLossFlat):
    def __init__(self): super().__init__(axis=1)
    def decodes(self, x): return (x[:, 1] > .55).long()


def masks(loss):
    torch.manual_seed(0)
    dls = DataBlock((TransformBlock, TransformBlock(type_tfms=[lambda m: TensorMask(m)])), get_x=lambda i: PIXELS[i], splitter=SPLIT,
                    get_y=lambda i: (PIXELS[i][0] > .5).long()).dataloaders(list(range(N)), bs=16, num_workers=0, device='cpu')
    dls.vocab = [0, 1]
    learn = quiet(Learner(dls, nn.Conv2d(1, 2, 1), loss))
    learn.fit(1, 1e-2)
    return interp_of(learn)


def tags(i): return [o for o, k in zip(CLASSES, (i % 2, i % 3, True)) if k]


@pytest.mark.parametrize('block, loss, c, get_y', [
    (CategoryBlock, Threshold(), 2, lambda i: CLASSES[i % 2]), (CategoryBlock, Costs(), 3, lambda i: CLASSES[i % 3]),
    (MultiCategoryBlock, BCEWithLogitsLossFlat(thresh=.2), 3, tags), (MultiCategoryBlock, OwnThresholds(), 3, tags),
    (RegressionBlock, Logarithm(), 1, lambda i: float(i))])
@pytest.mark.parametrize('out_of_fold', [False, True])
def test_predictions_are_those_of_learn_predict(block, loss, c, get_y, out_of_fold, tmp_path):
    learn = learner((TransformBlock, block), loss, c, get_y=get_y)
    learn.fit(1, 1e-2, cbs=ConfidentLearningCallback(2, mode='folds') if out_of_fold else None)
    interp = interp_of(learn, 0 if out_of_fold else 1)
    own = loss.decodes(interp.preds).numpy().reshape(interp.predicted.shape)
    assert np.array_equal(interp.predicted, own)
    plain = decided(nn.Identity(), interp.probs, interp.task)
    assert not np.array_equal(own, plain)
    vocab = np.array(interp.vocab, dtype=object)
    at = interp.issues.index
    if interp.task == 'regression':
        expected = own[at].tolist()
        assert np.allclose(interp.issues.residual, own[at] - interp.given[at])
    elif interp.task == 'multilabel': expected = [tuple(vocab[o]) for o in own[at]]
    else:
        expected = vocab[own[at]].tolist()
        assert np.allclose(interp.issues.confidence, interp.probs[at, own[at]])
        assert interp.agreement == (own == interp.given).mean()
        assert interp.confusion_matrix().sum(0).tolist() == np.bincount(own, minlength=c).tolist()
    assert interp.issues.predicted.tolist() == expected and len(interp.to_frame(only_issues=False)) == len(expected)
    if not out_of_fold:
        said = learn.predict(interp.dl.dataset.items[int(at[0])])[1]
        assert np.allclose(np.asarray(said, dtype=float), np.asarray(own[at[0]], dtype=float))


def test_clean_fit_relabels_with_what_the_learner_predicts():
    learn = learner((TransformBlock, CategoryBlock), Threshold(), 2, get_y=lambda i: CLASSES[i % 2])
    result = learn.clean_fit(1, strategy='relabel', method='fit', n_folds=2)
    flagged = result.interp.issues[result.interp.issues.is_issue]
    probs = learn.oof.pred_probs[flagged.index]
    assert flagged.predicted.tolist() == [CLASSES[int(p > .2)] for p in probs[:, 1]] and (probs[:, 1] > .2).any()
    new = interp_of(result.learn, 0).issues
    assert new.given[flagged.index].tolist() == flagged.predicted.tolist()


def test_masks_are_decided_by_the_own_threshold_too():
    interp = masks(DarkPixels())
    own = (interp.preds[:, 1] > .55).numpy()
    assert np.array_equal(interp.predicted, own) and not np.array_equal(own, interp.probs.argmax(1))
    assert interp.agreement == (own == interp.given).mean()


class OneRow(CrossEntropyLossFlat):
    def decodes(self, x): return (x > .5).float()


class Outside(CrossEntropyLossFlat):
    def decodes(self, x): return x.argmax(1) + 5


class Failing(CrossEntropyLossFlat):
    def decodes(self, x): raise RuntimeError('wants logits')


@pytest.mark.parametrize('loss, match', [
    (OneRow(), r'OneRow, whose decodes .* returns the shape \(40, 3\), not \(40,\): the likeliest class is taken'),
    (Outside(), r'returns [567], which is none of 0\.\.2'), (Failing(), 'fails on them, RuntimeError: wants logits')])
def test_decodes_that_gives_no_classes_is_said_and_the_likeliest_class_taken(loss, match):
    probs = np.random.default_rng(0).dirichlet(np.ones(3), 40).astype(np.float32)
    with pytest.warns(UserWarning, match=match): found = decided(loss, probs, 'classification')
    assert np.array_equal(found, probs.argmax(1))


def test_threshold_asked_for_is_that_of_the_table_and_the_pictures():
    learn = learner((TransformBlock, MultiCategoryBlock), BCEWithLogitsLossFlat(thresh=.2), 3, get_y=tags)
    interp = interp_of(learn)
    df = interp.find_issues(threshold=.6)
    assert np.array_equal(interp.predicted, interp.probs >= .6)
    assert [*map(len, df.predicted)] == (interp.probs >= .6).sum(1)[df.index].tolist()
