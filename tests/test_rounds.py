"A journal outlives its data: deletions, new items, third labels, renamed folders, new models, against a simple model"
import json
import os
import random
import warnings

import pandas as pd
import pytest
from helpers import CLASSES, digit_dls, tiny_learn
from helpers import issue_table as table

from fastai_clean.all import CleanInterpretation
from fastai_clean.review import ReviewSession
from fastai_clean.review.page import Page

CASES = int(os.environ.get('ROUNDS_CASES', 40))


def opened(tmp_path, issues=None, user='ann', **kw):
    return ReviewSession(table() if issues is None else issues, tmp_path/'j.jsonl', user=user, **kw)


def given(labels, ids=None, **kw):
    ids = [f'i{i}' for i in range(len(labels))] if ids is None else ids
    return table(ids=ids, **kw).assign(given=pd.Series(labels, dtype=object), predicted='cat')


# Random rounds. An item of the test is an object; the journal must know it by its id and label

class Thing:
    "An item as it is: its name and label, all that was decided on it, and the labels that this explains"
    def __init__(self, name, label):
        self.name, self.label, self.log, self.first, self.before = name, label, [], label, []

    def last(self): return next((o for o in reversed(self.log) if o['active']), None)

    def known(self):
        made = [o['label'] for o in self.log if o['do'] == 'relabel']
        return {self.first, *made, *(o['given'] for o in self.log if o['active'])}

    def expected(self):
        "The action and label in force, 'against' if the label contradicts them, or None"
        last = self.last()
        if last is None: return None
        verdict = last['given'] if last['do'] == 'keep' else last['label']
        if self.label in self.known() and last['do'] != 'keep': return last['do'], last['label']
        if last['do'] == 'keep' and self.label == verdict: return 'keep', None
        if last['do'] == 'keep':
            for k in range(len(self.log) - 1, -1, -1):
                o = self.log[k]
                if o['active'] and o['do'] == 'relabel' and o['label'] == verdict:
                    before = {self.first, *(p['given'] for p in self.log[:k + 1] if p['active'])}
                    made = {p['label'] for p in self.log if p['do'] == 'relabel'}
                    if self.label in before | made: return 'relabel', verdict
        return 'against'


class World:
    "The data, and the session on it"
    def __init__(self, seed, path):
        self.rng, self.path, self.n = random.Random(seed), path, 0
        self.things, self.done, self.undone, self.files, self.used = [], [], [], [], set()
        self.add(18)

    def add(self, n=None):
        for _ in range(n or self.rng.randrange(1, 4)):
            # The same file names in two folders, and some that are unique
            top = self.things[0].name.split('/')[0] if self.things else 'top0'
            file = f'{self.n//2 if self.rng.random() < .5 else f"f{self.n}"}.png'
            inner = self.rng.choice('abc')
            name = f'{top}/{inner}/{file}'
            self.n += 1
            # The same name and label is the same item, even if it is not
            if (inner, file) in self.used: continue
            self.used.add((inner, file))
            self.files.append(file)
            self.things.append(Thing(name, self.rng.choice(CLASSES)))

    def delete(self):
        for _ in range(self.rng.randrange(1, 3)): self.things.remove(self.rng.choice(self.things))

    def rename(self):
        top = f'top{self.rng.randrange(10**6)}'
        for o in self.things: o.name = '/'.join([top, *o.name.split('/')[1:]])

    def inner(self):
        "One of the folders, whose files may be called as those of another"
        old, new = self.rng.choice('abc'), f'd{self.rng.randrange(10**6)}'
        for o in self.things:
            top, folder, name = o.name.split('/')
            if folder == old: o.name = f'{top}/{new}/{name}'

    def other(self):
        "Somebody else corrects a label"
        o = self.rng.choice(self.things)
        o.label = self.rng.choice(CLASSES)

    def apply(self):
        # `Session.apply` must do the same
        frame = pd.DataFrame({'label': [o.label for o in self.things]}, index=[o.name for o in self.things])
        got = self.session.apply(frame).label.to_dict()
        kept = []
        for o in self.things:
            what = o.expected()
            if what and what[0] == 'delete': continue
            if what and what[0] == 'relabel': o.label = what[1]
            kept.append(o)
        assert got == {o.name: o.label for o in kept}
        if len(kept) > 5: self.things = kept

    def open(self):
        # Any order, any predictions
        things = self.rng.sample(self.things, len(self.things))
        df = pd.DataFrame({'id': [o.name for o in things], 'given': [o.label for o in things],
                           'predicted': [self.rng.choice(CLASSES) for _ in things], 'confidence': .5,
                           'label_quality': [self.rng.random() for _ in things], 'is_issue': True})
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            self.session = ReviewSession(df, self.path, vocab=CLASSES, user='ann')

    def decide(self):
        s = self.session
        for _ in range(self.rng.randrange(1, 6)):
            do = self.rng.choice(['relabel', 'relabel', 'delete', 'keep', 'unsure', 'undo', 'redo'])
            if do in ('undo', 'redo'):
                source = [o for o in self.done if o['active'] == (do == 'undo')]
                changed = getattr(s, do)()
                if do == 'undo':
                    assert bool(changed) == bool(source)
                    if source: source[-1]['active'] = False
                elif changed: self.undone.pop()['active'] = True
                if do == 'undo' and source: self.undone.append(source[-1])
                continue
            thing, label = self.rng.choice(self.things), self.rng.choice(CLASSES)
            getattr(s, do)(thing.name, *([label] if do == 'relabel' else []))
            what = dict(do=do, label=label if do == 'relabel' else None, given=thing.label, active=True)
            thing.log.append(what)
            self.done = [o for o in self.done if o['active']] + [what]
            self.undone = []

    def check(self, unsure):
        "Every decision is on the item that it was made on, and none is lost; `unsure`: names that may mean another item"
        s = self.session
        state, against = s.state, {*s.contradicting}
        for o in self.things:
            got, want = state.get(o.name), o.expected()
            got = (got['action'], got['label']) if got else 'against' if o.name in against else None
            acts = s.history(o.name).action.tolist()
            if o.name in unsure and not acts and o.log:
                # It was taken for a new item, since nobody can say which of two it is
                o.before.append((o.log, o.first))
                o.log, o.first = [], o.label
                continue
            for log in o.before:
                # And then it had its old name again
                if not o.log and acts and [p['do'] for p in log[0]] == acts:
                    o.log, o.first = log
                    want = o.expected()
            assert got == want, (o.name, got, want, o.log)
            assert s.history(o.name).action.tolist() == [p['do'] for p in o.log]
        assert {*state} | against <= {o.name for o in self.things}


@pytest.mark.parametrize('seed', range(CASES))
def test_random_rounds_keep_each_decision_on_its_item(seed, tmp_path, monkeypatch):
    for name in ('fdatasync', 'fsync'): monkeypatch.setattr(os, name, lambda fd: None)
    world = World(seed, tmp_path/'j.jsonl')
    world.open()
    for _ in range(8):
        world.decide()
        world.check(())
        # One change of folders a round: after two nobody could tell
        steps = world.rng.sample(['add', 'delete', 'other', 'apply', 'rename', 'inner', 'none'], 3)
        if 'inner' in steps and 'rename' in steps: steps.remove('rename')
        before = {o: o.name for o in world.things}
        for step in sorted(steps, key=lambda o: o != 'apply'): getattr(world, step, lambda: None)()
        renamed = {o.name for o in world.things if before.get(o, o.name) != o.name}
        fuzzy = renamed if 'inner' in steps else set()
        # A third label and another name at once: it may be another item
        if 'rename' in steps or 'inner' in steps: fuzzy |= {o.name for o in world.things if o.name in renamed and o.label not in o.known()}
        world.open()
        world.check(fuzzy)
    kinds = {o['do'] for line in (tmp_path/'j.jsonl').read_text().splitlines() if 'do' in (o := json.loads(line))}
    assert 'round' in kinds and len(world.session.rounds) > 4


# One by one

def test_what_is_gone_new_and_carried_over_is_said_with_counts(tmp_path):
    session = opened(tmp_path)
    assert session.news == [] and len(session.rounds) == 1
    session.relabel('i0', 'owl')
    session.delete('i1')
    session.keep('i2')
    applied = table(ids=['i0', 'i2', 'i3', 'i4', 'i7']).assign(given=['owl', 'owl', 'cat', 'dog', 'yak'], predicted='cat')
    again = opened(tmp_path, applied, 'bob')
    assert again.news == [
        "2 items are gone, first 'i1', 1 of them decided: their decisions are kept.", "1 item is new, first 'i7'.",
        "1 class is new, first 'yak'.", '4 items are carried over, and 2 are decided.']
    assert repr(again).splitlines() == ['ReviewSession(5 items, 2 decided)', *again.news]
    assert again.carried == ['i2', 'i0'] and again.contradicting == []
    row = again.rounds.iloc[1].to_dict()
    assert row.pop('time') and row == dict(user='bob', items=5, new=1, gone=2, renamed=0, carried=4, decided=2, contradicting=0)
    again.relabel('i3', 'yak')
    assert again.state['i3']['label'] == 'yak' and again.carried == ['i2', 'i0']
    # The same table again is no round, and the first one is another
    assert opened(tmp_path, applied).news == [] and len(opened(tmp_path, applied).rounds) == 2
    back = opened(tmp_path)
    assert {i: o['action'] for i, o in back.state.items()} == {'i0': 'relabel', 'i1': 'delete', 'i2': 'keep'}
    assert back.contradicting == ['i3'] and 'i3' not in back.state  # whose class the vocab lacks
    assert back.history('i3')[['action', 'label', 'given', 'round']].values.tolist() == [['relabel', 'yak', 'cat', 1]]
    assert back.history('i7').empty and back.history('i1').action.tolist() == ['delete']
    with pytest.raises(ValueError, match="id is 'i99', which .* does not know"): back.history('i99')


def test_another_model_is_a_round_in_which_all_stay_decided(tmp_path):
    session = opened(tmp_path)
    session.relabel('i0', 'owl')
    model = table().assign(predicted='cat', label_quality=.5)
    again = opened(tmp_path, model)
    assert again.state == session.state and again.news == ['6 items are carried over, and 1 is decided.']
    model.to_csv(tmp_path/'t.csv', index=False)
    assert len(opened(tmp_path, tmp_path/'t.csv').rounds) == 2


def test_a_third_label_contradicts_and_is_shown_again(tmp_path):
    session = opened(tmp_path)
    session.relabel('i0', 'owl')
    session.note('i0', 'blurred')
    third = given(['dog', 'dog', 'owl', 'cat', 'dog', 'owl'])
    with pytest.warns(UserWarning, match="1 item is to be decided again.*'i0': relabel when it was 'cat', now 'dog'"):
        again = opened(tmp_path, third)
    assert again.contradicting == ['i0'] and again.state['i0']['action'] is None
    frame = pd.DataFrame({'label': third.given.to_numpy()}, index=third['id'])
    assert again.apply(frame).label['i0'] == 'dog'
    again.keep('i0')
    assert again.contradicting == [] and again.state['i0']['action'] == 'keep'
    again.undo()
    assert again.contradicting == ['i0']
    # Undone in a session that was opened while it was in force
    again.redo()
    later = opened(tmp_path, third)
    later.undo()
    assert later.contradicting == ['i0'] and later.apply(frame).label['i0'] == 'dog'
    # The old label again: the decision stands
    assert opened(tmp_path).state['i0']['label'] == 'owl'
    assert opened(tmp_path, given(['owl', 'dog', 'owl', 'cat', 'dog', 'owl'])).state['i0']['label'] == 'owl'
    again.redo()
    with pytest.warns(UserWarning, match="keep when it was 'dog', now 'cat'"): opened(tmp_path)


def test_an_undone_decision_whose_label_was_applied_is_undone(tmp_path):
    session = opened(tmp_path)
    session.relabel('i0', 'owl')
    session.undo()
    again = opened(tmp_path, given(['owl', 'dog', 'owl', 'cat', 'dog', 'owl']))
    assert again.state == {} and again.contradicting == []
    assert again.redo() == ['i0'] and again.state['i0']['label'] == 'owl'


def test_deleted_items_that_are_gone_stay_deleted_in_the_first_frame(tmp_path):
    session = opened(tmp_path)
    session.delete(['i1', 'i3'])
    frame = pd.DataFrame({'label': table().given.to_numpy()}, index=table()['id'])
    again = opened(tmp_path, table().iloc[[0, 2, 4, 5]])
    assert again.apply(frame).index.tolist() == ['i0', 'i2', 'i4', 'i5']
    # Another label, another item
    assert again.apply(frame.assign(label=['cat', 'owl', 'owl', 'cat', 'dog', 'owl'])).index.tolist() == ['i0', 'i1', 'i2', 'i4', 'i5']
    again.undo()
    assert again.apply(frame).equals(frame)


FILES = ['train/cat/1.png', 'train/cat/2.png', 'train/dog/1.png', 'train/dog/a.png']
LABELS = ['cat', 'cat', 'dog', 'dog']


@pytest.mark.parametrize('new', [
    ['new/cat/1.png', 'new/cat/2.png', 'new/dog/1.png', 'new/dog/a.png'],
    ['/data/train/cat/1.png', '/data/train/cat/2.png', '/data/train/dog/1.png', '/data/train/dog/a.png'],
    ['cat/1.png', 'cat/2.png', 'dog/1.png', 'dog/a.png'],
    ['train\\cat\\1.png', 'train\\cat\\2.png', 'train\\dog\\1.png', 'train\\dog\\a.png']])
def test_a_renamed_folder_of_the_same_files_is_known(new, tmp_path):
    session = opened(tmp_path, given(LABELS, FILES))
    session.delete(FILES[0])
    session.keep(FILES[3])
    again = opened(tmp_path, given(LABELS, new), 'ann')
    assert {i: o['action'] for i, o in again.state.items()} == {new[0]: 'delete', new[3]: 'keep'}
    assert f"4 items are known by another id, such as {FILES[0]!r}, now {new[0]!r}." in again.news
    again.relabel(new[1], 'dog')
    # With the old name in an open session, and back again
    assert session.refresh() == [FILES[1]] and session.state[FILES[1]]['label'] == 'dog'
    session.unsure(FILES[2])
    assert opened(tmp_path, given(LABELS, new)).state[new[2]]['action'] == 'unsure'
    assert {*opened(tmp_path, given(LABELS, FILES)).state} == {*FILES}
    assert again.undo() == [new[2]] and again.undo() == [new[1]]


BATCH = ['one/1.png', 'one/2.png', 'one/3.png', 'two/3.png', 'two/4.png']


@pytest.mark.parametrize('new, labels, known', [
    # A whole folder, but for what is called as another file
    (['x/1.png', 'x/2.png', 'x/3.png', 'two/3.png', 'two/4.png'], 'ccccd', {'x/1.png', 'x/2.png', 'two/3.png', 'two/4.png'}),
    (['x/1.png', 'x/2.png', 'y/2.png', 'two/3.png', 'two/4.png'], 'ccccd', {'two/3.png', 'two/4.png'}),
    # One file of a folder, or less than half of it: the next batch begins with the same numbers
    (['one/2.png', 'one/3.png', 'three/1.png', 'two/3.png', 'two/4.png'], 'ccccd', {'one/2.png', 'one/3.png', 'two/3.png', 'two/4.png'}),
    (['one/1.png', 'one/2.png', 'one/3.png', 'two/3.png', 'three/4.png'], 'ccccd', {*BATCH[:4]}),
    # Another label, another item
    (['x/1.png', 'x/2.png', 'x/9.png', 'two/3.png', 'two/4.png'], 'cdccd', {'x/1.png', 'two/3.png', 'two/4.png'}),
    # Into the folder of the class that it got
    (['one/1.png', 'one/2.png', 'one/3.png', 'two/3.png', 'owl/4.png'], 'cccco', {*BATCH[:4], 'owl/4.png'})])
def test_ends_that_are_not_unique_or_have_other_labels_are_not_taken_for_an_item(new, labels, known, tmp_path):
    names = dict(c='cat', d='dog', o='owl')
    session = opened(tmp_path, given([names[o] for o in 'ccccd'], BATCH), vocab=CLASSES)
    session.keep(BATCH[:4])
    session.relabel(BATCH[4], 'owl')
    again = opened(tmp_path, given([names[o] for o in labels], new), vocab=CLASSES)
    assert {*again.state} == known and len(again.history('one/1.png')) == 1


def test_folders_of_other_sets_are_not_renamed_ones(tmp_path):
    opened(tmp_path, given(LABELS, FILES)).delete(FILES[0])
    with pytest.raises(ValueError, match='another data set'):
        opened(tmp_path, given(LABELS, [o.replace('train', 'valid') for o in FILES]))


@pytest.mark.parametrize('same', [True, False])
def test_files_of_the_same_names_must_hold_the_same(same, tmp_path):
    for k, o in enumerate(FILES):
        for folder in ('jan', 'feb'):
            path = tmp_path/folder/o
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f'{k}' if same else f'{k} {folder}')
    opened(tmp_path, given(LABELS, [f'jan/{o}' for o in FILES]), root=tmp_path).delete(f'jan/{FILES[0]}')
    new = given(LABELS, [f'feb/{o}' for o in FILES])
    if same: assert {*opened(tmp_path, new, root=tmp_path).state} == {f'feb/{FILES[0]}'}
    else:
        with pytest.raises(ValueError, match='another data set'): opened(tmp_path, new, root=tmp_path)


def test_new_files_of_an_old_name_are_other_items(tmp_path):
    opened(tmp_path, given(LABELS, FILES)).delete(FILES)
    moved = [o.replace('train', 'old') for o in FILES]
    session = opened(tmp_path, given(LABELS, moved))
    both = opened(tmp_path, given(LABELS + LABELS, moved + FILES))
    assert {*both.state} == {*moved}
    both.keep(FILES[0])
    assert both.state[FILES[0]]['action'] == 'keep' and both.state[moved[0]]['action'] == 'delete'
    session.keep(moved[1])
    assert opened(tmp_path, given(LABELS + LABELS, moved + FILES)).state == both.current()


ROWS = pd.DataFrame({'text': [f'text {i}' for i in range(8)], 'kind': ['x', 'y']*4})


@pytest.mark.parametrize('rows', [True, False])
def test_rows_that_were_numbered_anew_are_refused(rows, tmp_path):
    def frame(df): return dict(rows=df) if rows else {}
    issues = given(['cat']*4 + ['dog']*4, [*map(str, range(8))])
    opened(tmp_path, issues, **frame(ROWS)).delete(['1', '6'])
    before = (tmp_path/'j.jsonl').read_bytes()
    # Sorted labels: after a deletion in the middle all but one agree
    less = given(['cat']*3 + ['dog']*4, [*map(str, range(7))])
    with pytest.raises(ValueError, match='another label for 1 of 7 items|hold something else now'):
        opened(tmp_path, less, **frame(ROWS.drop(2).reset_index(drop=True)))
    with pytest.raises(ValueError, match='numbered 0 to 6, perhaps anew|hold something else now'):
        opened(tmp_path, issues.iloc[:7], **frame(ROWS.drop(5).reset_index(drop=True)))
    if rows:
        with pytest.raises(ValueError, match="decisions on 2 rows that hold something else now, first '1'"):
            opened(tmp_path, issues, rows=ROWS.iloc[[1, 0, 2, 3, 4, 5, 7, 6]].reset_index(drop=True))
    assert (tmp_path/'j.jsonl').read_bytes() == before
    # Their own row labels: nothing was numbered anew; a column that was edited tells nothing
    edited = ROWS.assign(kind='z').iloc[[0, 1, 3, 4, 6, 7]]
    session = opened(tmp_path, issues.iloc[[0, 1, 3, 4, 6, 7]], **frame(edited))
    assert {*session.state} == {'1', '6'} and session.news[0].startswith('2 items are gone')


def test_first_deletions_of_the_last_rows_open(tmp_path):
    issues = given(['cat', 'dog']*3, [*map(str, range(6))])
    opened(tmp_path, issues).delete(['4', '5'])
    assert opened(tmp_path, issues.iloc[:4]).news[0].startswith("2 items are gone, first '4', 2 of them decided")


@pytest.mark.parametrize('line', [
    b'{"do":"round","user":"a","time":"t","key":"k","gone":"i0"}', b'{"do":"round","user":"a","time":"t","key":"k","new":["i0"]}',
    b'{"do":"round","user":"a","time":"t","key":"k","renamed":[["i0"]]}', b'{"do":"round","user":"a","time":"t","key":"k","given":{"cat":[1]}}',
    b'{"do":"round","user":"a","time":"t","key":"k","counts":[]}', b'{"do":"round","user":"a","time":"t","key":"k","classes":{}}',
    b'{"do":"round","user":"a","time":"t","key":"k","gone":["i0"],"new":{"ca'])
def test_lines_that_are_no_rounds_are_skipped_with_a_warning(line, tmp_path):
    session = opened(tmp_path)
    session.keep('i0')
    with session.path.open('ab') as f: f.write(line + b'\n')
    with pytest.warns(UserWarning, match='1 lines that cannot be read'): again = opened(tmp_path)
    assert again.state == session.state and len(again.rounds) == 1


def test_a_journal_that_was_torn_in_a_round_opens_and_writes_it_again(tmp_path):
    opened(tmp_path).relabel('i0', 'owl')
    size = (tmp_path/'j.jsonl').stat().st_size
    issues = given(['owl', 'dog', 'owl', 'cat'])
    session = opened(tmp_path, issues)
    session.keep('i1')
    whole = (tmp_path/'j.jsonl').read_bytes()
    for cut in range(size, len(whole)):
        (tmp_path/'j.jsonl').write_bytes(whole[:cut])
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            again = opened(tmp_path, issues)
        assert again.state['i0']['label'] == 'owl' and len(again.rounds) == 2
        again.keep('i2')
        assert opened_quietly(tmp_path, issues).state == again.state


def opened_quietly(*args):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return opened(*args)


def test_what_is_refused_writes_nothing(tmp_path):
    opened(tmp_path).keep('i0')
    before = (tmp_path/'j.jsonl').read_bytes()
    for issues in (given(['dog', 'cat', 'owl', 'cat', 'dog', 'owl']), table(ids=['a', 'b'])):
        with pytest.raises(ValueError): opened(tmp_path, issues)
    assert (tmp_path/'j.jsonl').read_bytes() == before


def test_a_session_that_is_open_goes_on_while_others_open_other_tables(tmp_path):
    first = opened(tmp_path)
    first.relabel('i0', 'owl')
    second = opened(tmp_path, given(['owl', 'dog', 'owl', 'cat', 'yak']), 'bob')
    second.relabel('i1', 'yak')
    first.keep('i2')
    assert first.state['i0']['label'] == 'owl' and first.contradicting == ['i1']
    with pytest.raises(ValueError, match="gave 1 items classes that vocab lacks, first 'i1' 'yak'"):
        first.apply(pd.DataFrame({'label': table().given.to_numpy()}, index=table()['id']))
    assert {*second.current()} == {'i0', 'i1', 'i2'}
    pid = os.fork()
    if not pid:
        ok = first.keep('i3') is None and {*first.state} >= {'i0', 'i2', 'i3'}
        os._exit(0 if ok else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert {*first.refresh()} >= {'i3'} and second.current()['i3']['action'] == 'keep'


def test_a_learner_is_reviewed_again_and_again_with_one_journal(tmp_path):
    learn = tiny_learn(digit_dls(range(60), range(60, 80)))
    interp = CleanInterpretation.from_learner(learn, ds_idx=0)
    session = interp.review(tmp_path/'j.jsonl', user='ann')
    a, b, *_ = session.ids
    label = next(o for o in session.vocab if o != session.given.iloc[0])
    session.relabel(str(a), label)
    session.delete(str(b))
    other = tiny_learn(session.apply_dls(learn))
    again = CleanInterpretation.from_learner(other, ds_idx=0).review(tmp_path/'j.jsonl', user='ann')
    assert again.state[a]['label'] == label and again.carried == [a] and b not in again.ids
    assert again.news == [f"1 item is gone, first {str(b)!r}, 1 of them decided: their decisions are kept.",
                          '59 items are carried over, and 1 is decided.']
    third = CleanInterpretation.from_learner(tiny_learn(again.apply_dls(other)), ds_idx=0).review(tmp_path/'j.jsonl')
    assert third.state == again.state and len(third.rounds) == 2


def test_in_the_next_round_the_page_opens_on_what_is_to_do(tmp_path):
    def places(session):
        page = Page(session, lambda row: '')
        reply, _ = page.answer(dict(do='open', view='v', re='1'))
        return {o['id'] for o in reply['page']['cards']}, page, reply['page']['place']
    session = opened(tmp_path)
    ids, page, place = places(session)
    page.answer(dict(do='look', view='v', re='2', place={'given': 0}))
    session.keep(['i3', 'i5'])
    assert ids == {'i3', 'i4', 'i5'} and place['status'] == 'any'
    again = opened(tmp_path, table(7, is_issue=True))
    ids, page, place = places(again)
    assert ids == {'i0', 'i6'} and place['status'] == 'todo' and place['given'] == 0
