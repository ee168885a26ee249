"Every kind of source reviewed end to end: errors found by a trained Learner, decided in each view, applied, retrained"
import base64
import io
import json
from collections import Counter
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import pandas as pd
import pytest
from fastai.data.transforms import get_image_files
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.tabular.all import (
    Categorify,
    CategoryBlock,
    Normalize,
    TabDataLoader,
    TabularPandas,
    tabular_learner,
)
from fastai.text.all import TextDataLoaders
from fastai.torch_core import set_seed
from fastai.vision.all import ImageDataLoaders
from helpers import DIGITS, files_in, quiet
from PIL import Image
from torch import nn

from fastai_clean.all import CleanInterpretation, ConfidentLearningCallback
from fastai_clean.app import Server, opened
from fastai_clean.data import ids_of, labels_of
from fastai_clean.review import ReviewSession
from fastai_clean.widgets import Cleaner

CLASSES, N, N_TEST, RATE = list('abcd'), 160, 80, .12
WORDS = {'a': 'fine lovely great nice', 'b': 'poor awful grim cold', 'c': 'tall wide long deep', 'd': 'red blue pink'}
SOURCES = 'folder', 'frame', 'text', 'table', 'test set'
pytestmark = pytest.mark.slow


@dataclass
class Source:
    "What is reviewed and, known independently of the package, what is right"
    learn: Learner
    interp: CleanInterpretation
    new_learner: Any  # DataLoaders -> an untrained Learner
    data: pd.DataFrame  # A row an item, by its name: `label`, `true`, and `shown`, pixels or text that its card shows
    frame: pd.DataFrame  # What the person has, for `apply`
    id_column: str | None = None
    root: Path | None = None  # Folder of the images
    tested: bool = False  # Whether it is a test set, and none of the Learner's


def planted(n, seed):
    "True labels, and labels of which a share is wrong, (n,)"
    rng = np.random.default_rng(seed)
    true = np.arange(n) % len(CLASSES)
    given, wrong = true.copy(), rng.choice(n, round(RATE*n), replace=False)
    given[wrong] = (given[wrong] + rng.integers(1, len(CLASSES), len(wrong))) % len(CLASSES)
    return [[CLASSES[i] for i in o] for o in (true, given)]


def write_images(root, name, n, skip=0):
    "Digits 0 to 3 as files of class folders, some in a wrong one; rows path, label, true, shown, in order of paths"
    rows, used = [], [np.flatnonzero(DIGITS.target == o)[skip:] for o in range(len(CLASSES))]
    for i, (true, label) in enumerate(zip(*planted(n, skip))):
        pixels = (DIGITS.images[used[CLASSES.index(true)][i//len(CLASSES)]]*15.9).astype(np.uint8)
        file = root/name/label/f'{i:03}.png'
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file)
        rows.append((file.relative_to(root).as_posix(), label, true, pixels))
    return pd.DataFrame(rows, columns=['path', 'label', 'true', 'shown']).sort_values('path', ignore_index=True)


def trained(new_learner, dls, epochs, lr):
    set_seed(0)
    learn = new_learner(dls)
    learn.fit_one_cycle(epochs, lr, cbs=ConfidentLearningCallback(2, mode='folds'))
    return learn


def image_learner(dls):
    return quiet(Learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(192, 32), nn.BatchNorm1d(32), nn.ReLU(),
                                            nn.Linear(32, len(CLASSES))), CrossEntropyLossFlat()))


class Mean(nn.Module):
    def forward(self, x): return x.mean(1)


def text_learner(dls):
    return quiet(Learner(dls, nn.Sequential(nn.Embedding(len(dls.vocab[0]), 16), Mean(), nn.Linear(16, len(CLASSES))),
                         CrossEntropyLossFlat()))


def image_source(root, kind):
    df = write_images(root, 'train', N)
    kw = dict(bs=16, num_workers=0, device='cpu', valid_pct=.15, seed=0)
    if kind == 'frame':
        df.index = [f'row {i}' for i in range(N)]
        dls = ImageDataLoaders.from_df(df[['path', 'label']], root, fn_col='path', label_col='label', **kw)
    else: dls = ImageDataLoaders.from_folder(root, **kw)
    learn = trained(image_learner, dls, 12, 2e-2)
    if kind != 'test set':
        interp = CleanInterpretation.from_learner(learn)
        data = df if kind == 'frame' else df.set_index('path')
        return Source(learn, interp, image_learner, data.loc[interp.ids], df[['path', 'label']],
                      None if kind == 'frame' else 'path', root)
    test = write_images(root, 'test', N_TEST, skip=N//len(CLASSES))
    dl = learn.dls.test_dl(sorted(get_image_files(root/'test')), with_labels=True)
    interp = CleanInterpretation.from_learner(learn, dl=dl)
    return Source(learn, interp, image_learner, test.set_index('path'), test[['path', 'label']], 'path', root,
                  tested=True)


def text_source(_, kind):
    rng = np.random.default_rng(0)
    true, label = planted(N, 0)
    text = [' '.join([*rng.choice(WORDS[o].split(), 6), f'@user{i}']) for i, o in enumerate(true)]
    df = pd.DataFrame({'text': text, 'label': label}, index=[f'tweet {i}' for i in range(N)])
    dls = TextDataLoaders.from_df(df, text_col='text', label_col='label', bs=16, num_workers=0, device='cpu', seed=0)
    learn = trained(text_learner, dls, 12, 5e-2)
    interp = CleanInterpretation.from_learner(learn)
    data = df.assign(true=true, shown=text)
    return Source(learn, interp, text_learner, data.loc[interp.ids], df)


def table_source(root, kind):
    rng = np.random.default_rng(0)
    true, label = planted(N, 0)
    codes = np.array([CLASSES.index(o) for o in true])
    df = pd.DataFrame({'num': rng.normal(codes//2*4, .7).round(1) + 20, 'kind': np.where(codes % 2, 'odd', 'even'),
                       'serial': np.arange(N), 'label': label}, index=range(1000, 1000 + N))
    to = TabularPandas(df, [Categorify, Normalize], ['kind'], ['num', 'serial'], 'label', y_block=CategoryBlock(),
                       splits=(list(range(N - 20)), list(range(N - 20, N))))

    def new_learner(dls): return quiet(tabular_learner(dls, layers=[16], path=root))
    learn = trained(new_learner, to.dataloaders(bs=16, dl_type=TabDataLoader, device='cpu'), 12, 2e-2)
    interp = CleanInterpretation.from_learner(learn)
    shown = [f'kind: {k}\nnum: {x:.5g}\nserial: {i}' for k, x, i in zip(df.kind, df.num, df.serial)]
    data = df.assign(true=true, shown=shown).set_index(df.index.map(str))
    return Source(learn, interp, new_learner, data.loc[interp.ids], df)


@pytest.fixture(scope='module', params=SOURCES)
def source(request, tmp_path_factory):
    make = {'text': text_source, 'table': table_source}.get(request.param, image_source)
    return make(tmp_path_factory.mktemp('source'), request.param)


# What a person decides, and what must come of it

def decisions(source, issues):
    "Id -> (action, label) of every flagged item: every fifth is deleted, the rest get their true labels"
    flagged, res = issues[issues.is_issue], {}
    for k, row in enumerate(flagged.itertuples()):
        true = source.data.true[row.id]
        res[row.id] = ('delete', None) if k % 5 == 4 else ('keep', None) if true == row.given else ('relabel', true)
    return res


def expected(source, decided):
    "Item -> label once they are applied"
    res = source.data.label.to_dict()
    for i, (action, label) in decided.items():
        if action == 'delete': del res[i]
        elif action == 'relabel': res[i] = label
    return res


def check_shown(source, item, shown):
    "What is shown, a text, a picture file or pixels (h, w, 3), is of that item"
    right = source.data.shown[item]
    if isinstance(right, str):
        assert ''.join(shown.lower().split()) == ''.join(right.lower().split())
        return
    if not isinstance(shown, np.ndarray): shown = np.asarray(Image.open(io.BytesIO(shown)).convert('RGB'))
    off = np.abs(np.stack([*source.data.shown]) - shown[..., 0].astype(float)).mean((1, 2))
    assert source.data.index[off.argmin()] == item and off.min() < 4  # A thumbnail may be a JPEG


# The hosts

def decide(ask, source, session, decided):
    "As the page does, by messages; a prediction is accepted if it is right"
    page, number, seen = ask('open')[0]['page'], 0, []
    while True:
        rows = [o['row'] for o in page['cards']]
        reply, buffers = ask('thumbs', rows=rows)
        for card, o in zip(page['cards'], reply['thumbs']):
            i = session.ids[card['row']]
            assert card['id'] == i and card['given'] == source.data.label[i]
            check_shown(source, i, buffers[o['at']] if o['kind'] == 'image' else o['text'])
            (action, label), value = decided[i], None
            if action == 'relabel':
                if label == card['predicted']: action = 'accept'
                else: value = session.vocab.index(label)
            assert ask('act', act=action, rows=[card['row']], value=value, at=None)[0]['count'] == 1
            seen.append(i)
        number += 1
        if number == page['pages']: break
        page = ask('look', number=number)[0]['page']
    assert number > 1 and sorted(seen) == sorted(decided)


def decide_in_notebook(source, session, decided):
    "Through the widget's own handler"
    cleaner, got, numbers = Cleaner(session, source.interp, page_size=7), [], count()
    cleaner.widget.send = lambda *o: got.append(o)

    def ask(do, **what):
        cleaner.widget._handle_custom_msg({'do': do, 're': f'v.{next(numbers)}', 'view': 'v', **what}, [])
        assert 'error' not in got[-1][0]
        return got[-1]
    decide(ask, source, session, decided)


def decide_in_app(source, session, decided):
    "Over HTTP, with the CSV of the issues and the same journal"
    path = source.interp.to_review(session.path.with_name('issues.csv'))
    images = None if isinstance(source.data.shown.iloc[0], str) else source.root
    server = Server(opened(SimpleNamespace(
        csv=path, journal=session.path, images=images, text_column='text', label_column='label', id_column=None,
        user='ann', model=None, page_size=7)))
    thread, numbers = Thread(target=server.serve_forever), count()
    thread.start()

    def ask(do, **what):
        msg = json.dumps({'do': do, 're': f'v.{next(numbers)}', 'view': 'v', **what}).encode()
        with urlopen(Request(f'{server.url}msg', msg, {'Content-Type': 'application/json'})) as f: got = json.load(f)
        assert 'error' not in got['reply']
        return got['reply'], [base64.b64decode(o) for o in got['buffers']]
    try: decide(ask, source, server.page.session, decided)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    session.refresh()


VIEWS = {'notebook': decide_in_notebook, 'app': decide_in_app}


# What comes of it

def labels_in(dl, learn):
    "Item -> label of a DataLoader, in its data set's order"
    got = labels_of(dl)
    return dict(zip(ids_of(dl.dataset, learn.path), [got.vocab[i] for i in got.targets]))


def check_frame(source, session, right):
    "The person's frame is the same but for the decided labels and the deleted rows"
    before, df, key = source.frame.copy(), source.frame, source.id_column
    new = session.apply(df, id_column=key)
    pd.testing.assert_frame_equal(df, before)
    for o in (df, new): pd.testing.assert_frame_equal(session.apply(o, id_column=key), new)
    names = pd.Series(df[key] if key else df.index, df.index).astype(str)
    labels = names.map({**dict(zip(names, df.label)), **right})
    stays = ~names.isin({*source.data.index} - {*right})
    pd.testing.assert_frame_equal(new, df.assign(label=labels)[stays])
    assert not new.equals(df)


def check_folder(source, session, right, target):
    "A tree of the right files in the folders of their labels, the same a second time; the source as it was"
    before = files_in(source.root)
    got = files_in(session.apply_folder(source.root, target, only_reviewed=True))
    assert files_in(session.apply_folder(source.root, target.with_name(f'{target.name} again'), only_reviewed=True)) == got
    assert files_in(source.root) == before
    assert sorted((Path(o).parent.as_posix(), data) for o, data in got.items()) == sorted(
        (label, before[item]) for item, label in right.items())


def check_loaders(source, session, right):
    "New DataLoaders hold the right labels beside the right inputs, and train a new Learner; the old are as they were"
    learn, before = source.learn, [labels_in(o, source.learn) for o in source.learn.dls.loaders]
    dls = session.apply_dls(learn)
    assert labels_in(dls.train, learn) == labels_in(session.apply_dls(learn).train, learn) == right
    assert labels_in(session.apply_dls(SimpleNamespace(dls=dls, path=learn.path)).train, learn) == right
    assert labels_in(dls.valid, learn) == before[1] and [labels_in(o, learn) for o in learn.dls.loaders] == before
    batches, vocab = [o[-1].flatten().tolist() for o in dls.train], labels_of(dls.train).vocab
    left = Counter(right.values()) - Counter(vocab[i] for o in batches for i in o)
    assert sum(map(len, batches)) + left.total() == len(right) and left.total() < 16
    fresh = source.new_learner(dls)
    fresh.fit(1)
    assert np.isfinite(fresh.recorder.values[-1]).all() and fresh.train_iter == len(batches)
    with pytest.warns(UserWarning, match='in-sample'): interp = CleanInterpretation.from_learner(fresh, ds_idx=0)
    assert dict(zip(interp.ids, [interp.vocab[i] for i in interp.given])) == right
    for i, item in enumerate(interp.ids): check_shown(source, item, interp.shown(i))


def check_test_set(source, session, right, target):
    "A test set is none of the Learner's sets; its new tree is one whose labels the model agrees with more"
    with pytest.raises(ValueError, match="set is .'test'., but the Learner has"): session.apply_dls(source.learn, set='test')
    # Read from a CSV, the session knows it from its journal
    with pytest.raises(ValueError, match="set is .'test'., but the Learner has"): session.apply_dls(source.learn)
    with pytest.raises(ValueError, match="set is 'train', but the session is about the test set"):
        session.apply_dls(source.learn, set='train')
    root = session.apply_folder(source.root, target, only_reviewed=True)
    dl = source.learn.dls.test_dl(get_image_files(root), with_labels=True)
    after = CleanInterpretation.from_learner(source.learn, dl=dl)
    assert sorted(labels_of(dl).vocab[i] for i in after.given) == sorted(right.values())
    assert after.agreement > source.interp.agreement + .05


@pytest.mark.parametrize('view', VIEWS)
def test_flagged_items_decided_in_a_view_become_the_data(view, source, tmp_path):
    session = source.interp.review(tmp_path/'journal.jsonl', user='ann')
    decided = decisions(source, session.issues)
    VIEWS[view](source, session, decided)
    assert {i: (o['action'], o['label']) for i, o in session.state.items()} == decided
    assert session.progress()['reviewed'] == session.progress()['flagged'] == len(decided)
    right = expected(source, decided)
    source.interp.issues.to_csv(tmp_path/'again.csv', index=False)
    again = ReviewSession(tmp_path/'again.csv', tmp_path/'journal.jsonl', user='bob')
    for o in (session, again): check_frame(source, o, right)
    if source.id_column: check_folder(source, session, right, tmp_path/'tree')
    if source.tested: return check_test_set(source, again, right, tmp_path/'test tree')
    check_loaders(source, session, right)
    assert labels_in(again.apply_dls(source.learn).train, source.learn) == right


def test_training_finds_the_planted_errors_and_few_others(source):
    issues = source.interp.issues
    wrong = (source.data.label != source.data.true)[issues['id']].to_numpy()
    flagged = issues.is_issue.to_numpy()
    assert wrong.sum() >= 10 and (flagged & wrong).sum() >= .7*wrong.sum() and flagged.sum() < 2*wrong.sum()
