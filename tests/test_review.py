"The journal against a model in memory, torn at every byte, of other data; and what the decisions make of the data"
import hashlib
import json
import os
import re
import select
import shutil
import subprocess
import sys
import threading
import warnings
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
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
from fastai.vision.all import ImageDataLoaders
from filelock import lock_descriptor, unlock_descriptor
from helpers import CLASSES, DIGITS, PIXELS, digit_dls, tiny_learn, tiny_model
from helpers import issue_table as table
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from fastai_clean._text import as_text
from fastai_clean.data import ids_of, labels_of
from fastai_clean.review import ACTIONS, ReviewSession, journal
from fastai_clean.review.replay import Replay

DATA = Path(__file__).with_name('data')
HOSTILE = ['a\nb', 'nul\0', 'stray\udcff', 'x'*10_000, '<img src=x onerror=alert(1)>', '../../up', '/etc/passwd', '',
           ' ', '\u202eright', '"quoted"\\', 'CON', '{"do":"delete"}', '😀'*200, '.hidden', 'a/b\\c', 'line\r\nend\r',
           'NA']


def opened(tmp_path, user='ann', issues=None, **kw):
    return ReviewSession(table() if issues is None else issues, tmp_path/'j.jsonl', user=user, **kw)


def outcome(session): return {i: (o['action'], o['label'], o['note'], o['user']) for i, o in session.state.items()}


class Model:
    "The simplest replay: a list of what was done, anew each time"
    def __init__(self): self.log, self.done, self.undone = [], {}, {}

    def act(self, user, do, ids, value=None):
        self.log.append([user, do, ids, value, True])
        self.done.setdefault(user, []).append(len(self.log) - 1)
        self.undone[user] = []

    def again(self, user, back):
        source, target = (self.undone, self.done) if back else (self.done, self.undone)
        if not source.get(user): return False
        i = source[user].pop()
        target.setdefault(user, []).append(i)
        self.log[i][-1] = back
        return True

    def state(self):
        decisions, notes = {}, {}
        for user, do, ids, value, active in self.log:
            for k, i in enumerate(ids if active else ()):
                if do == 'note': notes[i] = (value, user)
                else: decisions[i] = (do, value[k] if isinstance(value, list) else value, user)
        notes = {i: o for i, o in notes.items() if o[0]}
        return {i: (*decisions.get(i, (None, None))[:2], notes.get(i, (None,))[0],
                    decisions[i][2] if i in decisions else notes[i][1]) for i in decisions.keys() | notes.keys()}


IDS = st.lists(st.sampled_from([f'i{i}' for i in range(6)]), min_size=1, max_size=6, unique=True)
STEPS = st.tuples(st.sampled_from(['ann', 'bob']), st.integers(0, 1),
                  st.sampled_from([*ACTIONS, 'each', 'undo', 'undo', 'redo', 'reopen']), IDS, st.sampled_from(CLASSES),
                  st.text(max_size=20).filter(lambda o: not re.search('[\ud800-\udfff]', o)))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEPS, max_size=25))
def test_any_interleaving_of_actions_and_undo_replays_to_the_model(steps, tmp_path, monkeypatch):
    monkeypatch.setattr(os, 'fdatasync', lambda fd: None)
    (tmp_path/'j.jsonl').unlink(missing_ok=True)
    sessions = {(u, i): opened(tmp_path, u) for u in ('ann', 'bob') for i in range(2)}
    model = Model()
    for user, i, do, ids, label, text in steps:
        session = sessions[user, i]
        if do == 'reopen': sessions[user, i] = opened(tmp_path, user)
        elif do in ('undo', 'redo'): assert bool(getattr(session, do)()) == model.again(user, do == 'redo')
        else:
            several = [CLASSES[(CLASSES.index(label) + len(i) + int(i[1:])) % 3] for i in ids]
            value = {'relabel': (label,), 'each': (several,), 'note': (text,)}.get(do, ())
            do = 'relabel' if do == 'each' else do
            getattr(session, do)(ids, *value)
            model.act(user, do, ids, *value)
        assert outcome(session if do != 'reopen' else sessions[user, i]) == model.state()
    for session in [*sessions.values(), opened(tmp_path)]:
        session.refresh()
        assert outcome(session) == model.state()


@pytest.mark.parametrize('act', [lambda o: o.refresh(), lambda o: o.keep('i3')])
def test_interrupt_while_lines_are_taken_in_forgets_none_of_them(act, tmp_path, monkeypatch):
    session, other = opened(tmp_path), opened(tmp_path, user='bob')
    session.keep('i0')
    other.delete(['i1'])
    record = Replay._record
    def interrupted(*args):
        monkeypatch.setattr(Replay, '_record', record)
        raise KeyboardInterrupt
    monkeypatch.setattr(Replay, '_record', interrupted)
    with pytest.raises(KeyboardInterrupt): act(session)
    session.refresh()
    assert session.state == opened(tmp_path, user='eve').state and {'i0', 'i1'} <= session.state.keys()


def test_an_action_is_one_line_synced_before_it_returns(tmp_path, monkeypatch):
    ids = ['é'*40 + str(i) for i in range(300)]
    session, synced = opened(tmp_path, issues=table(ids=ids)), []
    real = os.fdatasync
    monkeypatch.setattr(os, 'fdatasync', lambda fd: (real(fd), synced.append(os.fstat(fd).st_size)))
    session.note(list(session.ids), 'ü'*2000)
    session.relabel(ids[0], 'owl')
    assert synced[-1] == os.path.getsize(session.path) and len(synced) == 2
    assert len(session.state) == 300
    note, relabel = map(json.loads, session.path.read_text(encoding='utf-8').splitlines()[4:])
    assert note['do'] == 'note' and note['text'] == 'ü'*2000
    assert note['ids'] == session.ids.tolist() and note['given'] == session.given.tolist()
    assert relabel.keys() == {'do', 'ids', 'given', 'label', 'user', 'time', 'key'}
    assert relabel['given'] == 'cat'
    assert (relabel['do'], relabel['ids'], relabel['label'], relabel['user']) == (
        'relabel', [ids[0]], 'owl', 'ann')


def test_the_first_lines_say_what_the_journal_is_of(tmp_path):
    session = opened(tmp_path, issues=table(set=['train', 'valid']*3))
    lines = session.path.read_bytes().splitlines()
    first, ids, classes, given = map(json.loads, lines)
    assert first['journal'] == 'fastai_clean' and first["format"] == 4
    assert first['ids'] == 6 and first['classes'] == 3
    assert ids == {'ids': sorted(session.ids)} and classes == {'classes': list(CLASSES)}
    assert first['ids_sha1'] == hashlib.sha1(lines[1][len('{"ids":'):-1]).hexdigest()
    of = dict(zip(session.ids, session.given))
    assert [CLASSES[o] for o in given['given']] == [of[o] for o in ids['ids']]
    assert first['given_sha1'] == hashlib.sha1(lines[3][len('{"given":'):-1]).hexdigest() and 'set' not in first
    other = opened(tmp_path, issues=table(set=['train', 'valid']*3).sample(frac=1, random_state=0))
    assert other.path.read_bytes().splitlines() == lines


@pytest.mark.skipif(os.name == 'nt', reason='Windows has no such modes')
def test_a_new_journal_is_for_the_accounts_eyes_only_and_an_old_keeps_its_mode(tmp_path):
    session = opened(tmp_path)
    assert session.path.stat().st_mode & 0o777 == 0o600
    session.path.chmod(0o664)
    session.keep('i0')
    opened(tmp_path).keep('i1')
    assert session.path.stat().st_mode & 0o777 == 0o664 and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize('n', [1, 6, 300])
def test_a_label_for_each_id_is_one_action(tmp_path, n):
    session = opened(tmp_path, issues=table(n))
    ids, labels = session.ids.tolist(), list(session.issues.predicted)
    session.relabel(ids, session.issues.predicted)
    assert len(session.path.read_bytes().splitlines()) == 4 + 1
    other = opened(tmp_path, issues=table(n))
    assert [other.state[i]['label'] for i in ids] == [session.state[i]['label'] for i in ids] == labels
    torn = session.path.read_bytes().splitlines(keepends=True)
    (tmp_path/'torn.jsonl').write_bytes(b''.join(torn[:-1]))
    assert ReviewSession(table(n), tmp_path/'torn.jsonl').state == {}
    assert set(session.undo()) == set(ids) and session.state == {} and not session.undo()
    assert set(session.redo()) == set(ids) and [session.state[i]['label'] for i in ids] == labels


def test_labels_that_are_not_one_an_id_are_refused(tmp_path):
    session = opened(tmp_path)
    with pytest.raises(ValueError, match='label has 2 classes, but there are 1 different ids'):
        session.relabel(['i0', 'i0'], ['cat', 'dog'])
    with pytest.raises(ValueError, match="label is 'cow'"): session.relabel(['i0', 'i1'], ['cat', 'cow'])
    assert session.state == {}


@pytest.mark.parametrize('call', ['fdatasync', 'write'])
def test_an_action_that_could_not_be_saved_is_raised_and_in_force_for_nobody(call, tmp_path,
                                                                             monkeypatch):
    session, other, real = opened(tmp_path), opened(tmp_path, 'bob'), os.write
    session.unsure('i2')
    before, state = session.path.read_bytes(), session.state
    assert set(other.refresh()) == {'i2'}

    def fail(fd, data=b''):
        if len(data) > 20: return real(fd, data[:20])
        raise OSError('no space')
    with monkeypatch.context() as m:
        m.setattr(os, call, fail)
        for act in (lambda: session.keep('i0'), lambda: session.relabel(['i0', 'i1'], 'owl'),
                    session.undo):
            with pytest.raises(OSError, match='no space'): act()
            assert session.state is state and session.path.read_bytes() == before
        assert other.refresh() == [] and set(opened(tmp_path).state) == {'i2'}
    session.delete('i1')
    assert set(session.state) == {'i1', 'i2'} == set(opened(tmp_path).state)
    assert session.unreadable == 0


def test_a_disk_that_takes_a_few_bytes_at_a_time_gets_the_whole_line(tmp_path, monkeypatch):
    session, real = opened(tmp_path), os.write
    monkeypatch.setattr(os, 'write', lambda fd, data: real(fd, data[:7]))
    session.keep('i0')
    assert set(session.state) == {'i0'} == set(opened(tmp_path).state)


def test_a_file_that_cannot_be_cut_back_is_survived(tmp_path, monkeypatch):
    session, real = opened(tmp_path), os.write

    def write(fd, data):
        if len(data) < 60: raise OSError('no space')
        return real(fd, data[:20])

    def fail(*_): raise OSError('no space')
    with monkeypatch.context() as m:
        m.setattr(os, 'write', write)
        m.setattr(os, 'ftruncate', fail)
        with pytest.raises(OSError, match='no space'): session.keep('i0')
    with pytest.warns(UserWarning, match='1 lines that cannot be read'): session.keep('i1')
    assert set(session.state) == {'i1'}


@pytest.mark.slow
def test_a_journal_torn_at_every_byte_opens_and_takes_the_next_record(tmp_path, monkeypatch):
    monkeypatch.setattr(os, 'fdatasync', lambda fd: None)
    monkeypatch.setattr(os, 'fsync', lambda fd: None)
    issues = table(ids=[f'{i}' + 'x'*80 for i in range(5)])
    session, ends = opened(tmp_path, issues=issues), []
    ids = session.ids.tolist()
    states = [{}]
    for act in (lambda: session.relabel(ids[0], 'owl'), lambda: session.delete(ids), lambda: session.undo()):
        act()
        ends.append(os.path.getsize(session.path) - 1)
        states.append(outcome(session))
    whole = session.path.read_bytes()
    assert whole.count(b'"do":"delete"') == 1
    for cut in range(len(whole)):
        session.path.write_bytes(whole[:cut])
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            again = opened(tmp_path, issues=issues)
            assert outcome(again) == states[sum(cut >= o for o in ends)], cut
            assert len(caught) == again.unreadable <= 1
            again.keep(ids[-1])
            if cut % 5 == 0: assert outcome(opened(tmp_path, issues=issues)) == outcome(again)
            assert again.state[ids[-1]]['action'] == 'keep'


@pytest.mark.parametrize('line', [
    b'\xff\xfe', b'[1]', b'null', b'{}', b'[' * 10_000, b'{"do":"delete","ids":["i0"]}', b'x'*100_000,
    b'{"do":"delete","ids":["other"],"user":"a","time":"t","key":"k"}',
    b'{"do":"delete","ids":"i0","user":"a","time":"t","key":"k"}',
    b'{"do":"delete","ids":["i0"],"user":"a","time":"t","key":"k","part":[2,1]}',
    b'{"do":"delete","ids":["i0"],"user":"a","time":"t","key":"k","part":[1,true]}',
    b'{"do":"relabel","ids":["i0"],"label":"cow","user":"a","time":"t","key":"k"}',
    b'{"do":"note","ids":["i0"],"text":1,"user":"a","time":"t","key":"k"}',
    b'{"do":"relabel","ids":["i0"],"labels":["cat","dog"],"user":"a","time":"t","key":"k"}',
    b'{"do":"relabel","ids":["i0"],"labels":["cow"],"user":"a","time":"t","key":"k"}',
    b'{"do":"relabel","ids":["i0"],"labels":null,"label":"cat","user":"a","time":"t","key":"k"}',
    b'{"do":"keep","ids":["i0"],"user":"\\ud800","time":"t","key":"k"}',
    b'{"do":"note","ids":["i0"],"text":"\\udcff","user":"a","time":"t","key":"k"}',
    b'{"do":"rotate","ids":["\\ud800"],"user":"a","time":"t","key":"k"}',
    b'{"do":"undo","user":"a","time":"t","key":"k"}', b'{"do":["undo"],"user":"a","time":"t","key":"k"}'])
def test_lines_that_are_no_records_are_skipped_with_a_warning(line, tmp_path):
    session = opened(tmp_path)
    session.keep('i1')
    with session.path.open('ab') as f: f.write(line + b'\n')
    with pytest.warns(UserWarning, match='1 lines that cannot be read'): again = opened(tmp_path)
    assert set(again.state) == {'i1'} and again.unreadable == 1


NAMES = st.sampled_from(['i0', 'i1', 'cat', 'dog', 'other', 'k', 'a', '', '\ud800', None, 1, True])
VALUES = st.one_of(NAMES, st.lists(NAMES, max_size=3), st.lists(st.integers(-1, 3), max_size=3),
                   st.dictionaries(st.text(max_size=2), NAMES, max_size=2))
RECORDS = st.fixed_dictionaries(
    {'do': st.sampled_from([*ACTIONS, 'undo', 'redo', 'rotate', 1]), 'user': st.sampled_from('ab'),
     'ids': st.one_of(st.lists(st.sampled_from(['i0', 'i1', 'i2']), max_size=3), VALUES),
     'time': st.just('t'), 'key': st.sampled_from('klm')},
    optional={'label': st.one_of(st.sampled_from(CLASSES), VALUES), 'labels': VALUES,
              'given': st.sampled_from([None, 1, [], 'cow', {}, ['cow']]),
              'text': VALUES, 'of': VALUES,
              'part': st.one_of(st.sampled_from([[1, 2], [2, 2], [1, 1]]), VALUES)})


@settings(max_examples=200, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(records=st.lists(RECORDS, max_size=12))
@pytest.mark.filterwarnings('ignore:.*are skipped')
def test_whatever_the_records_say_a_journal_opens_and_goes_on(records, tmp_path, monkeypatch):
    monkeypatch.setattr(os, 'fdatasync', lambda fd: None)
    monkeypatch.setattr(os, 'fsync', lambda fd: None)
    (tmp_path/'j.jsonl').unlink(missing_ok=True)
    session = opened(tmp_path)
    with session.path.open('a') as f: f.writelines(json.dumps(o) + '\n' for o in records)
    again = opened(tmp_path)
    again.undo()
    again.keep('i0')
    session.refresh()
    assert session.state == again.state and again.state['i0']['action'] == 'keep'
    assert {o['label'] for o in again.state.values()} <= {*CLASSES, None}
    assert len(session.agreement().columns) == 5 and len(session.decisions) == len(again.state)


def test_actions_of_a_newer_version_are_skipped_with_a_warning(tmp_path):
    session = opened(tmp_path)
    with session.path.open('ab') as f: f.write(b'{"do":"rotate","ids":["i0"],"user":"a","time":"t","key":"k"}\n')
    with pytest.warns(UserWarning, match='1 actions of a newer version'): session.keep('i1')
    assert set(session.state) == {'i1'}


def old_table():
    "The issue table of tests/data/journal_1.jsonl, which version 0.1 wrote"
    ids = [*HOSTILE, *(f'train/class/{i:03}.png' for i in range(30))]
    given = (HOSTILE*3)[:len(ids)]
    return table(ids=ids).assign(given=pd.Series(given, dtype=object),
                                 predicted=pd.Series(given[::-1], dtype=object))


def old_state():
    "The state that version 0.1 had of it: id -> action, label, note, user, time"
    texts = [as_text(o) for o in old_table()['id']]
    rows = (DATA/'journal_1.json').read_text(encoding='utf-8').replace('LONG', HOSTILE[3])
    names = 'action', 'label', 'note', 'user', 'time'
    return {texts[i]: dict(zip(names, o)) for i, *o in json.loads(rows)}


def test_a_journal_of_version_01_opens_with_the_same_state(tmp_path):
    shutil.copy(DATA/'journal_1.jsonl', tmp_path/'j.jsonl')
    with pytest.warns(UserWarning, match='1 lines that cannot be read'):
        session = opened(tmp_path, issues=old_table())
    assert len(old_state()) == 48 and {o['action'] for o in old_state().values()} == {
        'delete', 'relabel', 'unsure'}
    assert session.state == old_state()


def test_a_journal_of_version_01_is_continued(tmp_path):
    shutil.copy(DATA/'journal_1.jsonl', tmp_path/'j.jsonl')
    before = (tmp_path/'j.jsonl').read_bytes()
    with pytest.warns(UserWarning): ann = opened(tmp_path, issues=old_table())
    with pytest.warns(UserWarning): bob = opened(tmp_path, 'bob é', old_table())
    assert set(bob.redo()) == {'train/class/024.png', 'train/class/025.png'}
    assert len(bob.undo()) == 2 and len(bob.undo()) == 1 and len(bob.undo()) == 48
    assert len(bob.redo()) == 48 and len(bob.redo()) == 1
    ann.refresh()
    assert outcome(ann) == outcome(bob)
    assert outcome(ann) == {k: tuple(o.values())[:4] for k, o in old_state().items()}
    long, empty = HOSTILE[3], HOSTILE[7]
    ann.relabel(long, empty)
    ann.relabel([empty, 'a\nb'], [long, 'NA'])
    ann.note(empty, 'x'*2000)
    with pytest.warns(UserWarning): again = opened(tmp_path, issues=old_table())
    assert again.state == ann.state and bob.refresh() and bob.state == ann.state
    assert [ann.state[o]['label'] for o in (long, empty, 'a\nb')] == [empty, long, 'NA']
    assert (tmp_path/'j.jsonl').read_bytes().startswith(before + b'\n')


def test_a_journal_of_version_01_of_other_data_is_refused_with_the_difference(tmp_path):
    shutil.copy(DATA/'journal_1.jsonl', tmp_path/'j.jsonl')
    before = (tmp_path/'j.jsonl').read_bytes()
    for issues, match in ((table(), 'another data set: 48 items are only in the journal'),
                          (old_table().assign(given='NA', predicted='CON'), 'vocab: 16 classes')):
        with pytest.raises(ValueError, match=match): opened(tmp_path, issues=issues)
    (tmp_path/'j.jsonl').write_bytes(before[:700])
    with pytest.raises(ValueError, match='changed or cut short'):
        opened(tmp_path, issues=old_table())
    assert (tmp_path/'j.jsonl').read_bytes() == before[:700]


def test_a_batch_without_its_last_part_is_not_in_force_and_not_undone(tmp_path):
    session = opened(tmp_path)
    session.keep('i0')
    parts = [{'do': 'delete', 'ids': [f'i{i}'], 'user': 'ann', 'time': 't', 'key': 'k',
              'part': [i, 5]} for i in range(1, 6)]
    with session.path.open('a') as f: f.writelines(json.dumps(o) + '\n' for o in parts[:-1])
    again = opened(tmp_path)
    assert len(again.state) == 1
    with session.path.open('a') as f: f.write(json.dumps(parts[-1]) + '\n')
    assert len(again.refresh()) == 5 and len(again.undo()) == 5
    assert again.undo() == ['i0'] and again.undo() is False


def test_a_batch_is_one_action_for_undo_and_redo(tmp_path):
    session = opened(tmp_path, issues=table(200))
    session.keep('i3')
    session.relabel([f'i{i}' for i in range(200)], 'owl')
    assert len(session.undo()) == 200 and outcome(session) == {'i3': ('keep', None, None, 'ann')}
    assert len(session.redo()) == 200 and session.redo() is False
    assert {o['label'] for o in session.state.values()} == {'owl'} and len(session.state) == 200


def test_undo_is_of_the_users_own_last_action(tmp_path):
    ann, bob = opened(tmp_path), opened(tmp_path, 'bob')
    ann.relabel('i0', 'owl')
    bob.delete('i0')
    assert ann.undo() == ['i0'] and ann.state['i0']['action'] == 'delete'
    assert bob.undo() == ['i0'] and bob.state == {} and bob.undo() is False


def test_two_sessions_see_each_other_by_refresh(tmp_path):
    ann, bob = opened(tmp_path), opened(tmp_path, 'bob')
    ann.keep(['i0', 'i1'])
    assert bob.state == {} and bob.refresh() == ['i0', 'i1'] and bob.refresh() == []
    bob.note('i1', 'blurred')
    ann.unsure('i5')
    assert ann.refresh() == ['i1'] and ann.state['i1'] | {'time': ''} == {
        'action': 'keep', 'label': None, 'note': 'blurred', 'user': 'ann', 'time': ''}
    ann.undo()
    assert bob.refresh() == ['i5'] and outcome(ann) == outcome(bob) == outcome(opened(tmp_path))


def test_threads_share_a_session_and_lose_nothing(tmp_path):
    session = opened(tmp_path, issues=table(80))
    def work(k):
        for i in range(20): session.relabel(f'i{k*20 + i}', CLASSES[k % 3])
    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for o in threads: o.start()
    for o in threads: o.join()
    assert len(session.state) == 80 and outcome(session) == outcome(opened(tmp_path, issues=table(80)))
    assert session.unreadable == 0


def test_a_journal_replaced_or_cut_while_open_is_refused(tmp_path):
    session = opened(tmp_path)
    session.keep('i0')
    whole = session.path.read_bytes()
    session.path.write_bytes(whole[:-5])
    with pytest.raises(ValueError, match='cut short since it was opened'): session.keep('i1')
    other = tmp_path/'other'
    other.write_bytes(whole)
    os.replace(other, session.path)
    with pytest.raises(ValueError, match='replaced'): session.refresh()
    assert session.path.read_bytes() == whole


def test_other_content_in_the_same_file_is_refused(tmp_path):
    session = opened(tmp_path)
    session.keep('i0')
    (tmp_path/'b').mkdir()
    (tmp_path/'k').mkdir()
    backup = tmp_path/'b'/'j.jsonl'
    shutil.copy(session.path, backup)
    session.delete('i1')
    whole = session.path.read_bytes()
    opened(tmp_path/'b').relabel(['i2', 'i3', 'i4'], 'owl')
    ids = [f'k{i}' for i in range(6)]
    opened(tmp_path/'k', issues=table(ids=ids)).keep(ids)
    foreign = (tmp_path/'k'/'j.jsonl').read_bytes()
    padded = foreign[:-1] + b' '*len(whole) + b'\n'
    first = b'\n'.join(foreign.split(b'\n')[:4])
    shifted = b' '*len(whole) + whole
    for content in (backup.read_bytes(), padded, first + whole[len(first):], shifted):
        assert len(content) >= len(whole)
        session.path.write_bytes(content)  # as cp does: the same file, and no shorter
        for act in (session.refresh, lambda: session.keep('i2'), session.undo, session.progress):
            with pytest.raises(ValueError, match='replaced'): act()
        assert session.path.read_bytes() == content and set(session.state) == {'i0', 'i1'}
    session.path.write_bytes(whole)
    session.keep('i2')
    assert set(opened(tmp_path).state) == {'i0', 'i1', 'i2'}


@pytest.mark.parametrize('how', ['moved over', 'emptied', 'begun anew', 'another reviewer\'s', 'link turned'])
def test_a_journal_that_became_another_is_refused(how, tmp_path):
    for name in 'ab': (tmp_path/name).mkdir()
    if how == 'link turned': (tmp_path/'a'/'j.jsonl').symlink_to(tmp_path/'real')
    session, other = opened(tmp_path/'a'), opened(tmp_path/'b', 'bob')
    session.keep('i0')
    copy = Path(shutil.copy(session.path, tmp_path/'copy'))
    session.delete('i1')
    other.delete([f'i{i}' for i in range(6)])
    other.keep([f'i{i}' for i in range(6)])
    if how == 'moved over': os.replace(copy, session.path)
    elif how in ('emptied', 'begun anew'): session.path.write_bytes(b'')
    elif how == 'link turned':
        session.path.unlink()
        session.path.symlink_to(copy)
    else: session.path.write_bytes(other.path.read_bytes())
    if how == 'begun anew': opened(tmp_path/'a', 'eve').keep([f'i{i}' for i in range(6)]*9)
    before = session.path.read_bytes()
    for act in (lambda: session.keep('i2'), session.refresh, session.undo):
        with pytest.raises(ValueError, match='was replaced or cut short since it was opened'): act()
    assert session.path.read_bytes() == before


def test_a_journal_that_was_removed_is_not_made_again(tmp_path):
    session = opened(tmp_path)
    session.path.unlink()
    with pytest.raises(FileNotFoundError, match='was removed since it was opened'): session.keep('i0')
    assert not session.path.exists()


@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='no pipes')
def test_a_pipe_or_a_device_is_no_journal(tmp_path):
    os.mkfifo(tmp_path/'j.jsonl')
    with pytest.raises(ValueError, match='is a device or a pipe'): opened(tmp_path)
    with pytest.raises(ValueError, match='is a device or a pipe'): ReviewSession(table(), os.devnull)


@pytest.mark.parametrize('room', [0, 100, 300, 330, 420])
def test_a_disk_that_is_full_in_the_first_lines_leaves_a_journal_to_go_on_with(room, tmp_path, monkeypatch):
    real, left = os.write, [room]

    def write(fd, data):
        n = min(len(data), left[0])
        if not n: raise OSError('no space')
        left[0] -= n
        return real(fd, data[:n])
    with monkeypatch.context() as m:
        m.setattr(os, 'write', write)
        with pytest.raises(OSError, match='no space'): opened(tmp_path).keep('i0')
    session = opened(tmp_path)
    assert session.state == {} and session.unreadable == 0
    session.keep('i1')
    assert set(opened(tmp_path).state) == {'i1'}


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='no fork')
@pytest.mark.filterwarnings('ignore:.*multi-threaded.*:DeprecationWarning')
def test_workers_of_a_data_loader_go_on_while_a_thread_decides(tmp_path):
    session, stop = opened(tmp_path), threading.Event()

    def busy():
        while not stop.is_set(): session.unsure('i0')
    thread = threading.Thread(target=busy)
    thread.start()

    class Noted(torch.utils.data.Dataset):
        def __len__(self): return 6
        def __getitem__(self, i): return session.note(f'i{i}', 'seen') or i
    try: got = [*torch.utils.data.DataLoader(Noted(), num_workers=2, timeout=60)]
    finally:
        stop.set()
        thread.join()
    session.refresh()
    assert len(got) == 6 and session.unreadable == 0 and all(o['note'] == 'seen' for o in session.state.values())
    assert outcome(session) == outcome(opened(tmp_path))


def test_a_locked_journal_is_waited_for_and_then_named(tmp_path, monkeypatch):
    session = opened(tmp_path)
    before = session.path.read_bytes()
    with session.path.open('rb') as f:
        assert lock_descriptor(f.fileno(), blocking=False)
        later = threading.Timer(.2, lambda: unlock_descriptor(f.fileno()))
        later.start()
        session.keep('i0')
        later.join()
        assert set(session.state) == {'i0'} and not later.is_alive()
        assert lock_descriptor(f.fileno(), blocking=False)
        monkeypatch.setattr(journal, 'WAIT', .1)
        with pytest.raises(TimeoutError, match='locked by another process for 0.1 seconds'):
            session.keep('i1')
    assert set(session.state) == {'i0'} and len(before.splitlines()) == 4
    assert set(opened(tmp_path).state) == {'i0'}


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='no fork')
@pytest.mark.filterwarnings('ignore:.*multi-threaded.*:DeprecationWarning')
def test_a_fork_goes_on_while_a_thread_of_the_parent_is_inside_an_action(tmp_path, monkeypatch):
    session, inside, leave = opened(tmp_path), threading.Event(), threading.Event()
    session.keep('i0')
    real = os.fdatasync

    def slow(fd):
        inside.set()
        leave.wait()
        real(fd)
    monkeypatch.setattr(os, 'fdatasync', slow)
    thread = threading.Thread(target=session.delete, args=('i1',))
    thread.start()
    inside.wait()
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.close(read)
            with session._journal._lock: os.write(write, b'1')
            monkeypatch.undo()
            os.write(write, b'2' if set(session.refresh()) >= {'i1'} else b'x')
            session.unsure('i2')
            os.write(write, b'3' if set(session.state) == {'i0', 'i1', 'i2'} else b'x')
        finally: os._exit(0)
    os.close(write)
    with open(read, 'rb', buffering=0) as f:
        assert f.read(1) == b'1'  # the child is past the lock that the other thread held
        assert not select.select([f], [], [], .2)[0]  # and waits for that on the file
        leave.set()
        thread.join(10)
        assert select.select([f], [], [], 10)[0]
        assert f.read(1) == b'2' and f.read(1) == b'3'
    os.waitpid(pid, 0)
    assert set(session.refresh()) == {'i2'} and session.unreadable == 0
    assert outcome(session) == outcome(opened(tmp_path))


@pytest.mark.parametrize('issues, kw, match', [
    (table(ids=['a', 'b']), {}, r"another data set: 6 items are only in the journal, such as 'i0'.*'a', 'b'"),
    (table(set='train'), {}, r"6 items are only in the journal, such as 'i0'.*'train:i0'"),
])
def test_a_journal_of_another_data_set_is_refused_with_the_difference(issues, kw, match, tmp_path):
    opened(tmp_path).keep('i0')
    before = (tmp_path/'j.jsonl').read_bytes()
    with pytest.raises(ValueError, match=match): opened(tmp_path, issues=issues, **kw)
    assert (tmp_path/'j.jsonl').read_bytes() == before


def given(*labels, **kw): return table(**kw).assign(given=pd.Series(labels, dtype=object))


@pytest.mark.parametrize('acts', [[], ['keep'], ['delete'], ['unsure'], ['note'], ['relabel']])
def test_a_journal_of_other_given_labels_is_refused_decided_or_not(acts, tmp_path):
    session = opened(tmp_path)
    for do in acts: getattr(session, do)('i0', *{'note': ['x'], 'relabel': ['owl']}.get(do, []))
    before = session.path.read_bytes()
    for labels, match in ((('dog', 'cat', 'owl', 'cat', 'dog', 'owl'),
                           "has another label for 2 of 6 items than the issue table, first 'i[01]': '(cat|dog)' instead of"),
                          (('owl', 'dog', 'cat', 'cat', 'dog', 'cat'), "for 3 of 6 items .*'i[02]': '(cat|owl)' instead of '(cat|owl)'")):
        if 'relabel' in acts: match = match.replace('for 3', 'for 2')
        with pytest.raises(ValueError, match=match): opened(tmp_path, issues=given(*labels), vocab=CLASSES)
    assert session.path.read_bytes() == before


@pytest.mark.parametrize('n', [4, 6, 60])
def test_a_journal_of_rows_that_were_shuffled_and_numbered_anew_is_refused(n, tmp_path):
    rng = np.random.default_rng(n)
    labels = np.array(CLASSES)[np.arange(n) % 3].astype(object)
    opened(tmp_path, issues=table(n)).delete('i1')
    before = (tmp_path/'j.jsonl').read_bytes()
    for _ in range(20):
        other = table(n).assign(given=rng.permutation(labels))
        if (other.given == labels).all(): continue
        with pytest.raises(ValueError, match=f'of {n} items than the issue table'): opened(tmp_path, issues=other)
    assert (tmp_path/'j.jsonl').read_bytes() == before


def test_a_journal_opens_with_what_was_decided_applied_again_and_again(tmp_path):
    session = opened(tmp_path)
    session.relabel('i0', 'owl')
    session.relabel('i1', 'owl')
    session.undo()
    session.keep('i2')
    applied = given('owl', 'dog', 'owl', 'cat', 'dog', 'owl')
    second = opened(tmp_path, 'bob', applied)
    second.relabel('i0', 'dog')
    second.keep('i3')
    third = given('dog', 'dog', 'owl', 'cat', 'dog', 'owl')
    for issues in (table(), applied, third):
        assert opened(tmp_path, issues=issues).state == second.state
    # Undone since, but the data may have been made before
    opened(tmp_path, issues=given('dog', 'owl', 'owl', 'cat', 'dog', 'owl'))


def test_an_item_that_was_kept_must_have_the_label_that_was_kept_or_had_before(tmp_path):
    session = opened(tmp_path)
    session.relabel('i0', 'owl')
    applied = given('owl', 'cat', 'owl', 'cat', 'dog', 'owl')
    bob = opened(tmp_path, 'bob', applied, vocab=CLASSES)
    bob.keep('i0')
    assert opened(tmp_path, issues=applied, vocab=CLASSES).state['i0']['action'] == 'keep'
    # That owl is right says more about a cat than that nobody decided
    assert opened(tmp_path).state['i0']['label'] == 'owl' and session.apply(FRAME).label['i0'] == 'owl'
    bob.keep('i1')
    # The open session, of the old label, reads it only now
    with pytest.raises(ValueError, match="first 'i1': 'cat' instead of 'dog'"): session.apply(FRAME)


def test_other_items_filters_scores_and_orders_change_nothing(tmp_path):
    session = opened(tmp_path, issues=table().assign(set='train'))
    other = table().assign(set='train', label_quality=.5, is_issue=False, predicted='cat', confidence=.1)
    assert opened(tmp_path, issues=other.sample(frac=1, random_state=0), vocab=CLASSES[::-1]).state == session.state


@pytest.mark.parametrize('sets, fits', [
    (('train', 'train'), True), (('train', None), True), ((None, 'valid'), True), ((None, None), True),
    (('train', 'valid'), False), (('valid', 'test'), False), (('train', 'data set 2'), False)])
def test_a_journal_knows_its_set(sets, fits, tmp_path):
    first, other = sets
    opened(tmp_path, set=first).keep('i0')
    before = (tmp_path/'j.jsonl').read_bytes()
    if fits: assert opened(tmp_path, set=other).set == (first or other)
    else:
        with pytest.raises(ValueError, match=f"is about the set '{first}', but these issues are of '{other}'"):
            opened(tmp_path, set=other)
    assert (tmp_path/'j.jsonl').read_bytes() == before


def old_header(issues, sets):
    "The first lines of format 2, which had a hash of each set's given labels"
    ids = sorted(issues['set'] + ':' + issues['id'] if sets else issues['id'])
    rows = {}
    for name, i, label in zip(issues['set'] if sets else ['']*len(issues), issues['id'], issues.given):
        rows.setdefault(name, []).append([f'{name}:{i}' if sets else i, label])
    def sha1(o): return hashlib.sha1(json.dumps(o, separators=(',', ':'), ensure_ascii=False).encode()).hexdigest()
    first = {'journal': 'fastai_clean', 'format': 2, 'ids': len(ids), 'classes': 3, 'ids_sha1': sha1(ids),
             'classes_sha1': sha1(CLASSES), 'given_sha1': {o: sha1(sorted(rows[o])) for o in sorted(rows)}}
    return ''.join(json.dumps(o, separators=(',', ':')) + '\n' for o in (first, {'ids': ids}, {'classes': CLASSES}))


@pytest.mark.parametrize('sets', [False, True])
def test_a_journal_of_format_2_is_continued_and_refused_by_its_hash(sets, tmp_path):
    issues = table().assign(set=['train', 'valid']*3) if sets else table()
    other = issues.assign(given=issues.given[::-1].to_numpy())
    applied = issues.assign(given=pd.Series(['owl', *issues.given[1:]], dtype=object))
    one = 'train:i0' if sets else 'i0'
    header = old_header(issues, sets)
    old = {'do': 'relabel', 'ids': [one], 'label': 'owl', 'user': 'ann', 'time': 't', 'key': 'k'}
    (tmp_path/'j.jsonl').write_text(header)
    for wrong in (other, applied):
        with pytest.raises(ValueError, match='was made with other given labels than the issue table'):
            opened(tmp_path, issues=wrong)
    assert (tmp_path/'j.jsonl').read_text() == header
    (tmp_path/'j.jsonl').write_text(header + json.dumps(old) + '\n')
    for fits in (issues, applied): assert opened(tmp_path, issues=fits).state[one]['label'] == 'owl'
    opened(tmp_path, issues=issues).keep('valid:i1' if sets else 'i1')
    with pytest.raises(ValueError, match='another label for [126] of 6 items|other given labels'):
        opened(tmp_path, issues=other.assign(given=['owl', 'cat', *other.given[2:]]), vocab=CLASSES)


@pytest.mark.parametrize('line, match', [
    (b'{"given":[0,1,2,0,1]}', 'were changed'), (b'{"given":[0,1,2,0,1,3]}', 'were changed'),
    (b'{"given":[0,1,2,0,1,true]}', 'were changed'), (b'{"given":[0,1,2,0,1,-1]}', 'were changed'),
    (b'{"given":{"0":1}}', 'were changed'), (b'{}', 'were changed'), (b'x', 'were changed')])
def test_first_lines_that_were_changed_are_refused(line, match, tmp_path):
    path = opened(tmp_path).path
    lines = path.read_bytes().splitlines()
    path.write_bytes(b'\n'.join([*lines[:3], line, b'']))
    before = path.read_bytes()
    with pytest.raises(ValueError, match=match): opened(tmp_path)
    assert path.read_bytes() == before


@pytest.mark.parametrize('given', [b'"cow"', b'["cat","dog"]', b'[]', b'null', b'1', b'{"i0":"cat"}', b'[["cat"]]'])
def test_records_whose_given_label_is_none_are_skipped(given, tmp_path):
    session = opened(tmp_path)
    with session.path.open('ab') as f:
        f.write(b'{"do":"keep","ids":["i0"],"given":' + given + b',"user":"a","time":"t","key":"k"}\n')
    with pytest.warns(UserWarning, match='1 lines that cannot be read'): assert opened(tmp_path).state == {}


def test_a_journal_opens_whatever_the_order_of_items_classes_and_predictions(tmp_path):
    opened(tmp_path).relabel('i0', 'owl')
    other = table().sample(frac=1, random_state=0).assign(predicted='cat', label_quality=.5)
    assert opened(tmp_path, issues=other, vocab=CLASSES[::-1]).state['i0']['label'] == 'owl'


@pytest.mark.parametrize('content, match', [
    (b'some,csv\n1,2\n', 'is not a journal'), (b'{"journal":"other"}\n', 'is not a journal'),
    (b'{"journal":"fastai_clean","format":9}\n',
     'of format 9, but this version reads formats 1 to 4')])
def test_another_file_is_refused_and_left_alone(content, match, tmp_path):
    (tmp_path/'j.jsonl').write_bytes(content)
    with pytest.raises(ValueError, match=match): opened(tmp_path)
    assert (tmp_path/'j.jsonl').read_bytes() == content


@pytest.mark.parametrize('change, kw, error, match', [
    (dict(id='a'), {}, ValueError, "5 items twice, first 'a'"),
    (dict(given=['cat', None]*3), {}, ValueError, "3 missing values in 'given'"),
    (dict(given=1.5), {}, TypeError, '1.5 in .given.: a review needs one class'),
    (dict(given=[('a', 'b')]*6), {}, TypeError, 'a review needs one class'),
    ({}, dict(vocab=['cat', 'dog']), ValueError, "2 labels in 'given' outside the vocab, first 'owl'"),
    ({}, dict(vocab=[*CLASSES, 'cat']), ValueError, '3 different names in 4'),
    ({}, dict(user='x'*60), ValueError, 'printable name of at most'),
    ({}, dict(user='a\nb'), ValueError, 'printable name'),
])
def test_bad_tables_are_named(change, kw, error, match, tmp_path):
    with pytest.raises(error, match=match): opened(tmp_path, issues=table().assign(**change), **kw)
    assert not (tmp_path/'j.jsonl').exists()


def test_bad_arguments_are_named(tmp_path):
    session = opened(tmp_path)
    for f, match in ((lambda: session.keep(['i0', 'i9']), "ids has 1 .* first 'i9'"),
                     (lambda: session.keep([]), 'empty'), (lambda: session.keep(3), 'first 3'),
                     (lambda: session.relabel('i0', 'cow'), "label is 'cow'"),
                     (lambda: session.note('i0', 'x'*2001),
                      'text has 2001 characters, but a note holds at most 2,000')):
        with pytest.raises(ValueError, match=match): f()
    with pytest.raises(TypeError, match='text is a int'): session.note('i0', 3)
    with pytest.raises(ValueError, match="lacks the columns .'is_issue'"):
        opened(tmp_path, issues=table().drop(columns='is_issue'))
    with pytest.raises(TypeError, match='issues is a list'): opened(tmp_path, issues=[1])
    with pytest.raises(FileNotFoundError, match='is in a folder that does not exist'): opened(tmp_path/'none')
    assert session.state == {} and session.undo() is False and session.redo() is False


def test_hostile_items_and_labels_are_reviewed_and_the_same_from_a_csv(tmp_path):
    df = table(ids=HOSTILE).assign(given=pd.Series(HOSTILE, dtype=object), predicted='NA')
    session = opened(tmp_path, issues=df)
    decided = list(zip(session.ids, session.issues.index))[:9]
    for i, row in decided:
        session.relabel(i, HOSTILE[row - 1])
        session.note(i, HOSTILE[row][:40] + '\udcff\n\0')
    assert session.ids.tolist() == [as_text(o) for o in session.issues['id']]
    assert len(set(session.ids)) == len(df)
    assert all(json.loads(o) for o in session.path.read_bytes().splitlines())
    df.to_csv(tmp_path/'issues.csv', index=False, errors='backslashreplace', quoting=2)
    again = opened(tmp_path, issues=tmp_path/'issues.csv')
    assert set(again.ids) == set(session.ids) and outcome(again).keys() == outcome(session).keys()
    for i, row in decided:
        assert session.state[i]['label'] == HOSTILE[row - 1]
        assert again.state[i]['label'] == HOSTILE[row - 1].replace('\udcff', '\\udcff')
    session.to_csv(tmp_path/'out.csv')
    read = pd.read_csv(tmp_path/'out.csv', dtype=str, keep_default_na=False)
    assert len(read) == 9 and list(read.columns) == list(session.decisions.columns)
    names = df.set_index('id')[['given']]
    clean = session.apply(names, column='given')
    assert all(clean.given[o] == session.state[i]['label'] if i in session.state else True
               for i, o in zip(session.ids, session.issues['id']))


def test_the_tables_own_ids_stay_and_item_is_their_old_name(tmp_path):
    df = table(ids=range(6)).assign(item=list('abcdef'))
    session = opened(tmp_path, issues=df)
    assert session.issues['id'].tolist() == [5, 4, 3, 2, 1, 0]
    assert session.issues['item'].tolist() == list('fedcba')
    assert session.ids.tolist() == ['5', '4', '3', '2', '1', '0']
    session.keep('3')
    assert session.decisions['id'].tolist() == [3]
    old = df.drop(columns='item').rename(columns={'id': 'item'})
    again = opened(tmp_path, issues=old)
    assert again.issues['id'].tolist() == [5, 4, 3, 2, 1, 0] and 'item' not in again.issues
    assert 'id' not in old and again.state == session.state
    old.to_csv(tmp_path/'old.csv', index=False)
    assert opened(tmp_path, issues=tmp_path/'old.csv').state == session.state


@pytest.mark.parametrize('flags, match', [
    (['False', 'True']*3, None), ([0, 1]*3, None), ([True, None]*3, 'None in issues'),
    ([2, 1]*3, '2 in issues'), (['no', 'yes']*3, "'no' in issues")])
def test_flags_that_are_not_boolean_are_read_or_named(flags, match, tmp_path):
    issues = table().assign(is_issue=pd.Series(flags, dtype=object))
    if match:
        with pytest.raises(ValueError, match=f'is_issue has {match}: write True or False'):
            opened(tmp_path, issues=issues)
    else: assert opened(tmp_path, issues=issues).issues.is_issue.tolist() == [True, False]*3


def test_a_csv_of_numbers_is_the_same_review(tmp_path):
    df = table(12, ids=range(12)).assign(given=np.arange(12), predicted=3)
    opened(tmp_path, issues=df).relabel('2', 11)
    df.to_csv(tmp_path/'issues.csv')
    session = opened(tmp_path, issues=str(tmp_path/'issues.csv'))
    assert session.state['2']['label'] == '11' and session.vocab == [str(i) for i in range(12)]
    session.relabel('3', 4)
    frame = pd.DataFrame({'label': np.arange(12)})
    clean = session.apply(frame)
    assert clean.label.dtype == frame.label.dtype and clean.label[2] == 11 and clean.label[3] == 4


def test_decisions_progress_and_issues(tmp_path):
    session = opened(tmp_path, issues=table(set=['train', 'valid']*3))
    assert list(session.issues['id']) == [f'i{i}' for i in (5, 4, 3, 2, 1, 0)]
    assert list(session.ids[:2]) == ['valid:i5', 'train:i4']
    session.relabel('valid:i5', 'cat')
    session.keep('train:i0')
    session.note('train:i4', 'dark')
    d = session.decisions
    assert list(d.columns) == ['id', 'set', 'given', 'predicted', 'action', 'label', 'note', 'user',
                               'time']
    assert list(d['id']) == ['i5', 'i4', 'i0'] and list(d.action) == ['relabel', None, 'keep']
    assert list(d.label) == ['cat', None, None] and list(d.note) == [None, 'dark', None]
    progress = session.progress()
    assert (progress['reviewed'], progress['flagged'], progress['decided']) == (1, 3, 2)
    assert progress['per_class'].to_dict('list') == {
        'class': list(CLASSES), 'reviewed': [0, 0, 1], 'flagged': [1, 1, 1]}
    with pytest.raises(FileExistsError, match='overwrite=True'): session.to_csv(session.path)
    assert session.to_csv(tmp_path/'d.csv').exists() and session.to_csv(tmp_path/'d.csv', overwrite=True).exists()
    assert sorted(o.name for o in tmp_path.iterdir()) == ['d.csv', 'j.jsonl']


def test_agreement_equals_scikit_learns_kappa(tmp_path):
    rng, votes = np.random.default_rng(0), {}
    issues = table(60)
    given = dict(zip(issues['id'], issues.given))
    for user in ('ann', 'bob', 'cy'):
        session, votes[user] = opened(tmp_path, user, issues), {}
        for i in rng.permutation(60)[:40]:
            do = rng.choice(['relabel', 'keep', 'keep', 'delete', 'unsure'])
            label = str(rng.choice(CLASSES))
            getattr(session, do)(f'i{i}', *([label] if do == 'relabel' else []))
            votes[user][f'i{i}'] = {'relabel': label, 'keep': given[f'i{i}']}.get(do, do)
        session.keep(f'i{i}')
        session.undo()
    found = session.agreement().set_index(['user', 'other'])
    assert len(found) == 3
    for a, b in combinations(votes, 2):
        both = [i for i in votes[a] if i in votes[b]]
        x, y = ([votes[u][i] for i in both] for u in (a, b))
        assert found.n[a, b] == len(both) > 20
        assert found.agree[a, b] == pytest.approx(np.mean(np.array(x) == np.array(y)))
        assert found.kappa[a, b] == pytest.approx(cohen_kappa_score(x, y))


def test_agreement_without_common_items_or_with_one_outcome_is_nan(tmp_path):
    ann, bob = opened(tmp_path), opened(tmp_path, 'bob')
    ann.delete(['i0', 'i1'])
    assert len(ann.agreement()) == 0
    bob.delete('i2')
    ann.refresh()
    assert ann.agreement().n[0] == 0 and np.isnan(ann.agreement().kappa[0])
    bob.delete(['i0', 'i1'])
    assert bob.agreement().n[0] == 2 and bob.agreement().agree[0] == 1 and np.isnan(bob.agreement().kappa[0])


FRAME = table()[['given']].set_axis([f'i{i}' for i in range(6)]).rename(columns={'given': 'label'}).assign(x=range(6))


def reviewed(tmp_path, **kw):
    "A session in which i0 becomes an owl, i1 is deleted, i2 kept, i3 left unsure"
    session = opened(tmp_path, **kw)
    session.relabel('i0', 'owl')
    session.delete('i1')
    session.keep('i2')
    session.unsure('i3')
    return session


@pytest.mark.parametrize('dtype', [object, 'str', 'category'])
def test_apply_gives_a_new_frame_idempotently_and_from_the_journal_alone(dtype, tmp_path):
    df = FRAME.astype({'label': dtype})
    before, session = df.copy(), reviewed(tmp_path)
    clean = session.apply(df)
    assert list(clean.index) == ['i0', 'i2', 'i3', 'i4', 'i5']
    assert list(clean.label) == ['owl', 'owl', 'cat', 'dog', 'owl']
    assert list(clean.x) == [0, 2, 3, 4, 5] and df.equals(before) and clean.label.dtype == df.label.dtype
    assert session.apply(clean).equals(clean) and opened(tmp_path).apply(df).equals(clean)
    by_path = df.reset_index(names='path')
    assert session.apply(by_path, id_column='path').label.tolist() == clean.label.tolist()
    shuffled = df.sample(frac=1, random_state=0)
    assert session.apply(shuffled).sort_index().equals(clean)


def test_apply_gives_classes_that_a_category_lacks(tmp_path):
    session = opened(tmp_path, vocab=[*CLASSES, 'yak'])
    session.relabel('i0', 'yak')
    assert session.apply(FRAME.astype({'label': 'category'})).label['i0'] == 'yak'


def test_apply_of_one_set_of_several(tmp_path):
    both = pd.concat([table(set='train'), table(set='valid')])
    session = opened(tmp_path, issues=both)
    session.delete(['train:i0', 'valid:i1'])
    assert 'i0' not in session.apply(FRAME, set='train').index and 'i1' in session.apply(FRAME, set='train').index
    assert 'i1' not in session.apply(FRAME, set='valid').index
    with pytest.raises(ValueError, match='in several sets: say which with set='): session.apply(FRAME)
    with pytest.raises(ValueError, match="set is 'test', which the issue table does not have"):
        session.apply(FRAME, set='test')


@pytest.mark.parametrize('change, kw, match', [
    (lambda df: df.reset_index(drop=True), {}, "5 of 6 items of the issue table are not in df, first 'i5'; it has '0'"),
    (lambda df: df.drop('i4'), {}, "1 of 6 items .* first 'i4'"),
    (lambda df: pd.concat([df, df]), {}, "the item 'i0' twice"),
    (lambda df: df.assign(label=df.label[::-1].to_numpy()), {}, "gives 3 of 6 items another label than .*, first 'i2' 'cat' instead of 'owl'"),
    (lambda df: df, dict(column='y'), "no columns named 'y'"), (lambda df: df, dict(id_column='path'), "no columns named 'path'")])
def test_apply_to_other_data_is_refused(change, kw, match, tmp_path):
    with pytest.raises(ValueError, match=match): reviewed(tmp_path).apply(change(FRAME), **kw)


def test_apply_to_a_frame_shuffled_and_indexed_anew_is_refused_whatever_was_decided(tmp_path):
    df = pd.DataFrame({'label': [list('abcd')[i] for i in DIGITS.target[:60] % 4]})
    issues = table(60, ids=df.index).assign(given=df.label.to_numpy(), predicted='a')
    for seed in range(20):
        session = ReviewSession(issues, tmp_path/f'{seed}.jsonl', vocab=list('abcd'))
        for act in (session.delete, session.unsure, session.keep)[:seed % 4]: act(str(seed))
        assert len(session.apply(df)) == 60 - len(session.state)*(session.state.get(str(seed), {}).get('action') == 'delete')
        anew = df.sample(frac=1, random_state=seed).reset_index(drop=True)
        with pytest.raises(ValueError, match='of 60 items another label than the issue table'): session.apply(anew)


def learner_and_session(tmp_path, labels, kind):
    "A Learner over 30 digits of one kind of data set, its session, and its items' labels by name"
    n = 30
    x, y = PIXELS[:n + 10], labels[:n + 10]
    if kind == 'datasets': learn = tiny_learn(digit_dls(range(n), range(n, n + 10), labels))
    elif kind == 'torch':
        ds = [list(zip(x[a:b], torch.as_tensor(y[a:b]))) for a, b in ((0, n), (n, n + 10))]
        learn = Learner(DataLoaders(*(DataLoader(o, bs=8, n_inp=1) for o in ds)), tiny_model(), CrossEntropyLossFlat())
    elif kind == 'table':
        df = pd.DataFrame(x.flatten(1).numpy()[:, :12], columns=[f'x{i}' for i in range(12)], index=range(100, 140))
        to = TabularPandas(df.assign(y=[f'd{o}' for o in y]), [Categorify, Normalize], [], list(df), 'y',
                           y_block=CategoryBlock(), splits=(list(range(n)), list(range(n, n + 10))))
        learn = tabular_learner(to.dataloaders(bs=8, dl_type=TabDataLoader), layers=[8])
    elif kind == 'text':
        df = pd.DataFrame({'tweet': ['wash your hands '*(i % 3 + 1) for i in range(n)], 'label': y[:n].astype(str)},
                          index=[f't{i}' for i in range(n)])
        dls = TextDataLoaders.from_df(df, text_col='tweet', label_col='label', valid_pct=.3, seed=0, bs=8)
        learn = Learner(dls, tiny_model(), CrossEntropyLossFlat())
    else:
        root, df = kind
        files = [root/o for o in df.path[:n + 10]]
        kw = dict(bs=8, valid_pct=.25, seed=0)
        dls = ImageDataLoaders.from_df(df[:n + 10], root, **kw) if tmp_path.name.endswith('df') else \
            ImageDataLoaders.from_path_func(root, files, lambda o: Path(o).parent.name, **kw)
        learn = Learner(dls, tiny_model(), CrossEntropyLossFlat())
    parts = []
    for name, dl in zip(('train', 'valid'), learn.dls.loaders):
        got = labels_of(dl)
        vocab = got.vocab or range(10)
        given = [vocab[o] for o in got.targets]
        parts.append(table(ids=ids_of(dl.dataset, learn.path)).assign(set=name, given=given, predicted=given))
    vocab = labels_of(learn.dls.train).vocab or range(10)
    return learn, opened(tmp_path, issues=pd.concat(parts), vocab=vocab)


@pytest.mark.parametrize('kind', ['datasets', 'torch', 'table', 'text', 'images', 'df'])
def test_apply_dls_relabels_and_leaves_out_in_both_sets(kind, tmp_path, digit_folder):
    tmp_path = tmp_path/kind
    tmp_path.mkdir()
    learn, session = learner_and_session(tmp_path, DIGITS.target, digit_folder if kind in ('images', 'df') else kind)
    expected = {}
    for name, dl in zip(('train', 'valid'), learn.dls.loaders):
        ids, got = ids_of(dl.dataset, learn.path), labels_of(dl)
        vocab = list(got.vocab or range(10))
        new = [(o + 1) % len(vocab) if i in (2, 5) else o for i, o in enumerate(got.targets.tolist())]
        for i in (2, 5): session.relabel(f'{name}:{ids[i]}', vocab[new[i]])
        session.delete([f'{name}:{ids[i]}' for i in (0, 4)])
        expected[name] = [(o, new[i]) for i, o in enumerate(ids) if i not in (0, 4)]
    before = [(ids_of(o.dataset, learn.path), labels_of(o).targets.tolist()) for o in learn.dls.loaders]
    dls = session.apply_dls(learn)
    def seen(dls): return {name: list(zip(ids_of(dl.dataset, learn.path), labels_of(dl).targets.tolist()))
                           for name, dl in zip(('train', 'valid'), dls.loaders)}
    assert seen(dls) == expected
    assert before == [(ids_of(o.dataset, learn.path), labels_of(o).targets.tolist()) for o in learn.dls.loaders]
    xs, ys = zip(*[(b[0], b[-1]) for b in dls.valid])
    assert sorted(torch.cat([o.flatten() for o in ys]).tolist()) == sorted(o for _, o in expected['valid'])
    again = SimpleNamespace(dls=dls, path=learn.path)
    assert seen(session.apply_dls(again)) == expected
    assert seen(opened(tmp_path, issues=session.issues, vocab=session.vocab).apply_dls(learn)) == expected
    assert len(vocab) > 5


def test_apply_dls_still_gives_labelled_test_loaders(tmp_path, digit_folder):
    root, df = digit_folder
    for kind in ('df', 'images'):
        (tmp_path/kind).mkdir()
        learn, session = learner_and_session(tmp_path/kind, DIGITS.target, digit_folder)
        first = ids_of(learn.dls.train.dataset, learn.path)[0]
        session.relabel(f'train:{first}', learn.dls.vocab[0])
        dls = session.apply_dls(learn)
        items = df[50:60] if kind == 'df' else [root/o for o in df.path[50:60]]
        got = labels_of(dls.test_dl(items, with_labels=True))
        assert [got.vocab[o] for o in got.targets] == df.label[50:60].tolist()


def test_apply_dls_trains_and_refuses_other_data(tmp_path):
    learn = tiny_learn(digit_dls(range(30), range(30, 40)))
    other = tiny_learn(digit_dls(range(40, 70), range(30, 40)))
    issues = table(ids=[str(i) for i in range(30)]).assign(given=DIGITS.target[:30], predicted=0)
    session = opened(tmp_path, issues=issues, vocab=range(10))
    session.delete([str(i) for i in range(20)])
    dls = session.apply_dls(learn)
    assert len(dls.train.dataset) == 10 and dls.valid is learn.dls.valid
    fitted = tiny_learn(dls)
    fitted.fit(1)
    assert np.isfinite(fitted.recorder.values[-1]).all()
    with pytest.raises(ValueError, match='10 of 30 items of the issue table are not in the DataLoader'):
        session.apply_dls(other)
    with pytest.raises(ValueError, match="set is .'test'., but the Learner has"): session.apply_dls(learn, set='test')
    session.delete([str(i) for i in range(30)])
    with pytest.raises(ValueError, match='no item of data set 0 .* is left'): session.apply_dls(learn)


@pytest.fixture
def source(tmp_path):
    "A folder of six files in two folders, of three names, and their session"
    root = tmp_path/'source'
    items = [f'{a}/{b}.png' for a in ('a', 'b') for b in ('x', 'y', 'z')]
    for o in items:
        (root/o).parent.mkdir(parents=True, exist_ok=True)
        (root/o).write_text(o)
    return root, opened(tmp_path, issues=table(ids=items))


def tree(root): return {o.relative_to(root).as_posix(): o.read_text() for o in root.rglob('*') if o.is_file()}


@pytest.mark.parametrize('copy', [False, True])
def test_apply_folder_links_or_copies_without_collisions(copy, source, tmp_path):
    root, session = source
    before = tree(root)
    session.relabel(['a/y.png', 'b/y.png'], 'cat')
    session.delete('b/z.png')
    target = session.apply_folder(root, tmp_path/'new'/'tree', copy=copy, only_reviewed=True)
    assert tree(target) == {'cat/a__x.png': 'a/x.png', 'cat/b__x.png': 'b/x.png', 'cat/a__y.png': 'a/y.png',
                            'cat/b__y.png': 'b/y.png', 'owl/z.png': 'a/z.png'}
    assert os.path.samefile(target/'owl'/'z.png', root/'a'/'z.png') is not copy
    assert tree(root) == before and sorted(o.name for o in target.parent.iterdir()) == ['tree']
    assert tree(opened(tmp_path, issues=session.issues).apply_folder(root, tmp_path/'again', only_reviewed=True)) == tree(target)


def test_apply_folder_finds_the_file_of_items_that_are_copies(source, tmp_path):
    root, _ = source
    (root/'a'/'x.png#9').write_text('a name of its own')
    ids = ['a/x.png', 'a/x.png#2', 'a/x.png#3', 'a/x.png#9', 'a/y.png']
    (tmp_path/'journal').mkdir()
    session = opened(tmp_path/'journal', issues=table(ids=ids))
    session.relabel(ids, 'cat')
    got = session.apply_folder(root, tmp_path/'new', only_reviewed=True)
    assert sorted(tree(got).values()) == ['a name of its own', *['a/x.png']*3, 'a/y.png']
    assert sorted(o.suffix for o in got.rglob('*.*')) == ['.png']*4 + ['.png#9']
    with pytest.raises(FileNotFoundError, match='1 items are not files .*, first .a/no.png#2'):
        opened(root, issues=table(ids=['a/x.png', 'a/no.png#2'])).apply_folder(root, tmp_path/'other', only_reviewed=True)


def test_apply_folder_copies_where_links_fail(source, tmp_path, monkeypatch):
    root, session = source
    def fail(*_): raise OSError('no links here')
    monkeypatch.setattr(os, 'link', fail)
    assert len(tree(session.apply_folder(root, tmp_path/'new', only_reviewed=True))) == 6


def test_apply_folder_keeps_sets_apart(source, tmp_path):
    root, session = source
    issues = session.issues.assign(set=['train', 'valid']*3)
    (tmp_path/'other').mkdir()
    target = opened(tmp_path/'other', issues=issues).apply_folder(root, tmp_path/'new', only_reviewed=True)
    assert {o.split('/')[0] for o in tree(target)} == {'train', 'valid'} and len(tree(target)) == 6


def test_apply_folder_stays_in_the_target_whatever_the_label(tmp_path):
    root = tmp_path/'source'
    root.mkdir()
    names = [f'{i}.png' for i in range(len(HOSTILE))]
    for o in names: (root/o).write_text(o)
    session = opened(tmp_path, issues=table(ids=names).assign(given=pd.Series(HOSTILE, dtype=object), predicted='NA'))
    before = {o for o in tmp_path.rglob('*')}
    target = session.apply_folder(root, tmp_path/'deep'/'new', only_reviewed=True)
    made = tree(target)
    assert sorted(made.values()) == sorted(names) and all(o.count('/') == 1 for o in made)
    assert len({o.split('/')[0] for o in made}) == len(HOSTILE)
    assert not any(o.startswith('.') for o in made) and 'NA/17.png' in made
    outside = {o for o in tmp_path.rglob('*') if not o.is_relative_to(tmp_path/'deep')}
    assert outside == before


@pytest.mark.parametrize('item, error', [
    ('../secret.png', ValueError), ('link.png', ValueError), ('folder/secret.png', ValueError),
    ('/etc/passwd', ValueError), ('none.png', FileNotFoundError), ('nul\0.png', FileNotFoundError),
    ('x'*10_000, FileNotFoundError), ('', FileNotFoundError)])
def test_apply_folder_takes_no_file_outside_of_the_source(item, error, tmp_path):
    root, outside = tmp_path/'source', tmp_path/'outside'
    root.mkdir()
    outside.mkdir()
    for o in (outside/'secret.png', tmp_path/'secret.png', root/'fine.png'): o.write_text('secret')
    (root/'link.png').symlink_to(outside/'secret.png')
    (root/'folder').symlink_to(outside)
    session = opened(tmp_path, issues=table(ids=['fine.png', item]))
    with pytest.raises(error, match='source'): session.apply_folder(root, tmp_path/'new', only_reviewed=True)
    assert not (tmp_path/'new').exists() and len(list(tmp_path.iterdir())) == 4


def test_apply_folder_refuses_a_target_in_use_or_within_the_source(source, tmp_path):
    root, session = source
    full = tmp_path/'full'
    full.mkdir()
    session.apply_folder(root, full, only_reviewed=True)
    with pytest.raises(FileExistsError, match='not an empty folder'): session.apply_folder(root, full, only_reviewed=True)
    with pytest.raises(ValueError, match='one is inside the other'): session.apply_folder(root, root/'new', only_reviewed=True)
    (tmp_path/'link').symlink_to(tmp_path/'elsewhere')
    with pytest.raises(FileExistsError): session.apply_folder(root, tmp_path/'link', only_reviewed=True)
    assert not (tmp_path/'elsewhere').exists()


def test_a_hundred_thousand_records_are_read_in_seconds(tmp_path):
    issues = table(1000)
    session = opened(tmp_path, issues=issues)
    line = '{{"do":"relabel","ids":["i{}"],"label":"{}","user":"u","time":"2025-01-01T00:00:00Z","key":"{:016x}"}}\n'
    with session.path.open('a') as f: f.writelines(line.format(i % 1000, CLASSES[i % 3], i) for i in range(100_000))
    before = os.times().user
    again = opened(tmp_path, issues=issues)
    assert len(again.state) == 1000 and os.times().user - before < 4
    assert again.state['i999']['label'] == CLASSES[99_999 % 3]


def test_tables_and_results_hold_what_others_decided(tmp_path):
    session, other = opened(tmp_path), opened(tmp_path, 'bob')
    other.delete(['i1', 'i2'])
    df = pd.DataFrame({'label': table().given.to_numpy()}, index=table()['id'])
    assert session.progress()['decided'] == 2 and set(session.decisions['id']) == {'i1', 'i2'}
    other.relabel('i3', 'owl')
    assert session.apply(df).loc['i3', 'label'] == 'owl' and 'i1' not in session.apply(df).index
    other.keep('i0')
    session.keep('i0')
    assert session.agreement().n.tolist() == [1]
    assert set(session.refresh()) == {'i0', 'i1', 'i2', 'i3'}


def test_blank_numbers_of_a_csv_are_read_and_wrong_ones_named(tmp_path):
    df = table()
    df.assign(label_quality=np.nan).to_csv(tmp_path/'a.csv', index=False)
    assert ReviewSession(tmp_path/'a.csv', tmp_path/'a.jsonl').issues.label_quality.isna().all()
    df.assign(confidence='much').to_csv(tmp_path/'b.csv', index=False)
    with pytest.raises(ValueError, match="has 'much' in 'confidence'"):
        ReviewSession(tmp_path/'b.csv', tmp_path/'b.jsonl')


def test_the_review_imports_neither_torch_nor_fastai_nor_plots():
    code = ("import sys, fastai_clean.review; print([o for o in ('torch', 'fastai', 'matplotlib', "
            "'cleanlab', 'sklearn', 'scipy', 'IPython') if o in sys.modules])")
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == '[]'
