"The page of a review without a host: views, actions, what is sent, and what is left behind"
import io
import json
import os
import re
import subprocess
import sys
import threading
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fastai_clean._images import Unreadable
from fastai_clean._text import name_of, plain
from fastai_clean.review import ReviewSession
from fastai_clean.review.page import WEB, Page, script, style
from fastai_clean.review.shown import picture, shower

N = 60
VOCAB = ['ant', 'bee', 'cat']
HOSTILE = ['<img src=x onerror=alert(1)>', '\u202eleft', 'a\x00b', '\ud800', 'x'*10_000, '', '$\\frac{1}{0}$',
           '../../etc']
NUMBERS = count()


def table(n=N, seed=0):
    "Issue table of `n` items, two of three flagged, in three sets"
    rng = np.random.default_rng(seed)
    return pd.DataFrame({
        'id': [f'{i:03}.png' for i in range(n)], 'given': [VOCAB[i % 3] for i in range(n)],
        'predicted': [VOCAB[(i + 1 + i % 2) % 3] for i in range(n)], 'confidence': rng.random(n),
        'label_quality': np.sort(rng.random(n)), 'is_issue': np.arange(n) % 3 < 2,
        'set': [('train', 'valid', 'test')[i % 5 % 3] for i in range(n)]})


def shown(row): return np.full((8, 8), int(row['id'][:3]), dtype=np.uint8)
def open_session(path, user='ann'): return ReviewSession(table(), path, vocab=VOCAB, user=user)


@pytest.fixture
def session(tmp_path): return open_session(tmp_path/'journal.jsonl')


@pytest.fixture
def page(session): return Page(session, shown, page_size=10)


def ask(page, do, view='v', **what):
    "What a view would get, through JSON as ipykernel writes it"
    reply, buffers = page.answer({'do': do, 're': f'{view}.{next(NUMBERS)}', 'view': view, **what})
    json.dumps(reply, ensure_ascii=False, allow_nan=False).encode()
    return reply, buffers


def act(page, name, rows=(), value=None, at=None, view='v'):
    return ask(page, 'act', view, act=name, rows=list(rows), value=value, at=at)[0]


def view_of(page, name='v'): return page.views[name]
def decided(reply): return {k: o for k, o in reply['states'].items() if o is not None}
def rows_of(reply): return [o['row'] for o in reply['page']['cards']]


@pytest.fixture
def rows(page):
    "The rows of the first page of the view `v`"
    return rows_of(ask(page, 'open')[0])


def test_opening_gives_first_page_of_issues_worst_first(page):
    reply, _ = ask(page, 'open')
    expected = np.flatnonzero(table().is_issue)[:10].tolist()
    assert rows_of(reply) == expected and reply['re'].startswith('v.')
    assert reply['page']['total'] == 40 and reply['page']['pages'] == 4
    assert reply['options']['names'] == VOCAB and reply['progress'] == dict(reviewed=0, flagged=40)
    row = table().iloc[1]
    assert reply['page']['cards'][1] == dict(
        row=1, id='001.png', given='bee', predicted='ant', issue=True, set='valid',
        confidence=round(row.confidence, 4), quality=round(row.label_quality, 4))


@pytest.mark.parametrize('place, mask', [
    (dict(issues=False), lambda t: t.given.notna()), (dict(set=0, issues=False), lambda t: t.set == 'test'),
    (dict(given=1), lambda t: t.is_issue & (t.given == 'bee')),
    (dict(predicted=2, issues=False), lambda t: t.predicted == 'cat'),
    (dict(status='done'), lambda t: t.index.isin([0, 4])),
    (dict(status='todo'), lambda t: t.is_issue & ~t.index.isin([0, 4]))])
def test_filters_leave_what_a_mask_leaves(page, place, mask):
    act(page, 'keep', [0, 4])
    act(page, 'note', [1], 'only a note')
    reply, _ = ask(page, 'look', place=place)
    expected = np.flatnonzero(mask(table()))
    assert view_of(page).found.tolist() == expected.tolist() and reply['page']['total'] == len(expected)


@pytest.mark.parametrize('order, by', [
    ('worst', ['label_quality']), ('id', ['id']), ('pair', ['given', 'predicted', 'label_quality'])])
def test_orders_sort_as_pandas_does(page, order, by):
    ask(page, 'look', place=dict(order=order, issues=False))
    assert view_of(page).found.tolist() == table().sort_values(by, kind='stable').index.tolist()


def test_most_confident_first_sorts_down(page):
    ask(page, 'look', place=dict(order='confident'))
    assert (np.diff(table().confidence[view_of(page).found]) <= 0).all()


def test_pages_cover_all_items_once_and_stop_at_the_ends(page):
    rows = [o for k in range(4) for o in rows_of(ask(page, 'look', number=k)[0])]
    assert rows == np.flatnonzero(table().is_issue).tolist()
    assert ask(page, 'look', number=99)[0]['page']['number'] == 3
    assert ask(page, 'look', number=-5)[0]['page']['number'] == 0


def test_page_stays_while_its_items_are_decided_on(page):
    before = rows_of(ask(page, 'look', place=dict(status='todo'))[0])
    act(page, 'delete', before[:3])
    assert view_of(page).rows == before
    assert not {*before[:3]} & {*rows_of(ask(page, 'look', place=dict(status='todo'))[0])}


def test_turning_pages_of_what_is_to_do_skips_nothing(page):
    seen = []
    reply = ask(page, 'look', place=dict(status='todo'))[0]
    for number in range(1, 5):
        seen += rows_of(reply)
        act(page, 'keep', rows_of(reply))
        reply = ask(page, 'look', number=number)[0]
    assert seen == np.flatnonzero(table().is_issue).tolist()


def test_every_action_reaches_the_session_and_the_journal(page, session, rows):
    for name, value in dict(keep=None, delete=None, unsure=None, relabel=2, accept=None, note='hm').items():
        row = list(dict(keep=0, delete=1, unsure=3, relabel=4, accept=6, note=7)).index(name)
        reply = act(page, name, [rows[row]], value)
        assert reply['count'] == 1 and 'error' not in reply
    again = open_session(session.path)
    got = [again.state[again.ids[o]] for o in rows[:6]]
    assert [o['action'] for o in got] == ['keep', 'delete', 'unsure', 'relabel', 'relabel', None]
    assert [o['label'] for o in got[3:5]] == ['cat', table().predicted[rows[4]]] and got[5]['note'] == 'hm'


def test_batch_is_one_action_and_undo_and_redo_give_it_back(page, rows):
    assert decided(act(page, 'relabel', rows[:5], 1)) == {o: ['relabel', 'bee', '', ''] for o in rows[:5]}
    undone = act(page, 'undo')
    assert decided(undone) == {} and {*undone['states']} == {*rows} and undone['count'] == 5
    assert act(page, 'undo')['count'] == 0
    assert {*decided(act(page, 'redo'))} == {*rows[:5]}


def test_accepting_several_gives_each_its_own_prediction(page, session, rows):
    act(page, 'accept', rows)
    act(page, 'undo')
    assert not session.state
    act(page, 'redo')
    assert [session.state[session.ids[o]]['label'] for o in rows] == table().predicted[rows].tolist()


@pytest.mark.parametrize('name, rows, value', [
    ('keep', [N], None), ('keep', [-1], None), ('keep', [.5], None), ('keep', [True], None), ('keep', ['0'], None),
    ('relabel', [0], 3), ('relabel', [0], -1), ('relabel', [0], None), ('relabel', [0], 1.), ('relabel', [0], True),
    ('explode', [0], None), ('__init__', [0], None), ('note', [0], 'x'*5000), ('note', [0], None), ('keep', [], None)])
def test_bad_action_is_told_and_changes_nothing(page, session, name, rows, value):
    reply = act(page, name, rows, value)
    assert reply['error'] and 'count' not in reply and session.state == {}


@pytest.mark.parametrize('what', [
    dict(place=dict(order='best')), dict(place=dict(set=7)), dict(place=dict(given=3)), dict(place=dict(colour=1)),
    dict(place=dict(status=None)), dict(number=.5), dict(number='1')])
def test_unknown_filter_or_page_is_told_and_the_page_stays(page, what, rows):
    assert re.search('is not one of its choices|pass an integer', ask(page, 'look', **what)[0]['error'])
    assert view_of(page).rows == rows and rows_of(ask(page, 'look')[0]) == rows


def test_disk_that_cannot_be_written_is_told(page, session, monkeypatch):
    def full(*_): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(session, 'keep', full)
    reply = act(page, 'keep', [0])
    assert reply['error'] == 'OSError: [Errno 28] No space left on device' and 'count' not in reply


def test_action_that_is_saved_says_so_whatever_fails_after_it(page, session, rows, monkeypatch):
    def gone(): raise OSError('the journal is gone')
    monkeypatch.setattr(session, 'refresh', gone)
    reply = act(page, 'keep', rows[:1])
    assert reply['count'] == 1 and 'gone' in reply['error'] and len(session.state) == 1


def test_message_that_comes_twice_is_done_once_and_answered_alike(page, session, rows):
    msg = {'do': 'act', 're': 'v.twice', 'view': 'v', 'act': 'keep', 'rows': rows[:2], 'value': None, 'at': None}
    first = page.answer(msg)
    size = session.path.stat().st_size
    act(page, 'undo')
    assert page.answer(msg) == first and session.path.stat().st_size > size and session.state == {}


@pytest.mark.parametrize('msg, message', [
    ({'do': 'look', 'place': [1]}, 'place is [1]'), ({'do': 'look', 'place': 'todo'}, 'place is '),
    ({'do': 'look', 'place': {'view': 1}}, 'view is 1'), ({'do': 'look', 'place': {'given': 1.}}, 'given is 1.0'),
    ({'do': 'look', 'place': {'given': True}}, 'given is True'), ({'do': 'look', 'place': {'issues': 1}}, 'issues is 1'),
    ({'do': 'act', 'act': 'keep', 'rows': [0]}, 'the message lacks at, value'), ({'do': 'thumbs'}, 'the message lacks rows'),
    ({'do': 'act', 'act': 'keep', 'rows': 5, 'value': None, 'at': 0}, 'rows has 5'),
    ({'do': 'act', 'act': 'relabel', 'rows': [0], 'value': -1, 'at': 0}, 'value is -1'),
    ({'do': 'look', 'place': {'at': 5}}, 'at is 5'), ({'do': ['x']}, "do is ['x']"), ({}, 'do is None')])
def test_malformed_message_is_told_what_it_lacks(page, session, msg, message):
    reply, _ = page.answer({'re': 'v.1', 'view': 'v', **msg})
    assert message in reply['error'] and reply['error'].startswith('ValueError: ') and session.state == {}


def test_message_without_an_id_is_refused(page, session, rows):
    for row in rows[:2]:
        msg = {'do': 'act', 'view': 'v', 'act': 'keep', 'rows': [row], 'value': None, 'at': None}
        assert 'no id' in page.answer(msg)[0]['error']
    assert session.state == {}


def test_actions_of_many_threads_are_done_one_after_the_other(page, session, rows):
    threads = [threading.Thread(target=act, args=(page, 'keep', [row]), kwargs={'view': f'view {row}'}) for row in rows]
    for o in threads: o.start()
    for o in threads: o.join()
    assert len(session.state) == 10 and len(open_session(session.path).state) == 10
    assert ask(page, 'poll')[0]['order'] == 12


def test_each_view_has_a_page_of_its_own(page, rows):
    "Turning one view's page made the other show saved decisions as undecided"
    there = rows_of(ask(page, 'open', 'w')[0])
    assert there == rows
    act(page, 'keep', rows[:4])
    assert rows_of(ask(page, 'look', 'w', number=2, place=dict(issues=False))[0]) != rows
    for do in ('poll', 'poll'): assert {*decided(ask(page, do)[0])} == {*rows[:4]}
    assert {*decided(act(page, 'delete', [rows[5]]))} == {*rows[:4], rows[5]}
    assert rows_of(ask(page, 'look')[0]) == rows and view_of(page).place['issues'] is True
    assert view_of(page, 'w').number == 2 and view_of(page, 'w').place['issues'] is False


def test_item_of_an_action_that_a_page_turn_overtook_is_not_the_current_one(page, rows):
    after = rows_of(ask(page, 'look', number=1)[0])
    act(page, 'keep', [rows[-1]], at=rows[-1])
    assert view_of(page).at == after[0]


def test_views_and_answers_that_are_kept_are_bounded(page):
    for i in range(200): ask(page, 'poll', f'view {i}')
    for _ in range(300): ask(page, 'poll')
    assert len(page.views) <= 64 and len(view_of(page).answers) <= 100


def test_place_that_cannot_be_kept_is_no_lost_decision(page, session, rows):
    page.memory.mkdir()
    assert act(page, 'keep', [rows[0]], at=rows[1])['count'] == 1 and len(session.state) == 1


def test_reopening_goes_where_the_user_left_off(page, session):
    rows = rows_of(ask(page, 'look', number=1, place=dict(order='id', issues=False))[0])
    act(page, 'keep', [rows[3]], at=rows[4])
    again = Page(open_session(session.path), shown, page_size=10)
    there = ask(again, 'open')[0]['page']
    assert there['number'] == 1 and there['at'] == rows[4] and there['place'] == view_of(page).place
    other = ask(Page(open_session(session.path, 'bob'), shown, page_size=10), 'open')[0]['page']
    assert other['number'] == 0 and other['place']['order'] == 'worst'


@pytest.mark.parametrize('kept', [
    '', '[]', '{"ann": 3}', '{"ann": {"at": "gone"}}', '{"ann": {"at": null, "set": 9}}', '\xff',
    '{"ann": {"at": null, "x": 1}}', '{"ann": {"at": null, "order": []}}'])
def test_place_that_does_not_fit_is_the_beginning(session, kept):
    Path(f'{session.path}.place').write_bytes(kept.encode('latin-1'))
    there = ask(Page(session, shown), 'open')[0]['page']
    assert there['number'] == 0 and there['at'] == 0 and there['place']['issues'] is True


@pytest.mark.skipif(os.name == 'nt', reason='needs links')
def test_place_follows_no_link_and_is_for_its_user_alone(page, session, rows, tmp_path):
    ask(page, 'look', number=1)
    assert page.memory.stat().st_mode & 0o777 == 0o600
    victim = tmp_path/'victim.txt'
    victim.write_text('{"ann": {"at": null, "order": "id"}}')
    page.memory.unlink()
    page.memory.symlink_to(victim)
    ask(page, 'look', number=2)
    act(page, 'keep', rows[:1])
    assert victim.read_text() == '{"ann": {"at": null, "order": "id"}}' and page.memory.is_symlink()
    assert ask(Page(session, shown), 'open')[0]['page']['place']['order'] == 'worst'
    page.memory.unlink()
    os.mkfifo(page.memory)
    assert ask(Page(session, shown), 'open')[0]['page']['number'] == 0


def test_decisions_of_another_writer_come_with_the_next_poll(page, session, rows):
    assert decided(ask(page, 'poll')[0]) == {}
    other = open_session(session.path, '<b>bob')
    other.delete(session.ids[1])
    reply, _ = ask(page, 'poll')
    assert decided(reply) == {1: ['delete', '', '<b>bob', '']} and reply['progress']['reviewed'] == 1


def test_later_answers_have_higher_numbers(page):
    orders = [ask(page, do)[0]['order'] for do in ('open', 'poll', 'look', 'poll', 'tables')]
    assert orders == sorted({*orders})


def test_tables_count_classes_and_agreement(page, session, rows):
    session.keep(session.ids[rows[:6]])
    other = open_session(session.path, '<b>bob')
    other.keep(session.ids[rows[:3]])
    other.delete(session.ids[rows[3:6]])
    tables = ask(page, 'tables')[0]['tables']
    flagged = table().given[table().is_issue].value_counts()
    assert [(name, n) for name, _, n in tables['classes']] == [(o, flagged.get(o, 0)) for o in VOCAB]
    assert sum(o[1] for o in tables['classes']) == 6
    assert [o[:4] for o in tables['pairs']] == [['<b>bob', 'ann', 6, .5]]


def test_thumbnails_go_as_buffers_and_unreadable_items_as_reasons(session):
    def show(row):
        if row['id'] == '001.png': raise OSError('cannot identify image file')
        return Unreadable('gone') if row['id'] == '003.png' else 'a text' if row['id'] == '004.png' else shown(row)
    reply, buffers = ask(Page(session, show), 'thumbs', rows=[0, 1, 3, 4, 6])
    assert [o['kind'] for o in reply['thumbs']] == ['image', 'missing', 'missing', 'text', 'image']
    assert [o['text'] for o in reply['thumbs'][1:4]] == ['OSError: cannot identify image file', 'gone', 'a text']
    assert [np.asarray(Image.open(io.BytesIO(buffers[reply['thumbs'][k]['at']]))).max() for k in (0, 4)] == [0, 6]
    assert len(buffers) == 2


def test_decision_does_not_wait_for_a_picture(session):
    started, go = threading.Event(), threading.Event()

    def show(row):
        started.set()
        assert go.wait(20)
        return 'a text'
    page, got = Page(session, show), []
    thread = threading.Thread(target=lambda: got.append(ask(page, 'thumbs', rows=[0])[0]))
    thread.start()
    assert started.wait(20) and act(page, 'keep', [0])['count'] == 1 and not got
    go.set()
    thread.join()
    assert got[0]['thumbs'][0]['text'] == 'a text'


def test_page_turn_waits_for_no_journal(page, session, rows, monkeypatch):
    started, go = threading.Event(), threading.Event()

    def slow(ids):
        started.set()
        assert go.wait(20)
    monkeypatch.setattr(session, 'keep', slow)
    thread = threading.Thread(target=act, args=(page, 'keep', rows[:1]))
    thread.start()
    assert started.wait(20) and ask(page, 'look', number=1)[0]['page']['number'] == 1
    assert ask(page, 'thumbs', rows=rows)[0]['thumbs'] and thread.is_alive()
    go.set()
    thread.join()


@pytest.mark.parametrize('rows', [[N], [-1], [None], None, 'ab'])
def test_rows_that_are_not_of_the_review_are_told(page, rows):
    assert ask(page, 'thumbs', rows=rows)[0]['error']


def test_hostile_names_are_sent_as_text_that_json_can_hold(tmp_path):
    df = pd.DataFrame({'id': HOSTILE, 'given': HOSTILE, 'predicted': HOSTILE[::-1], 'confidence': np.nan,
                       'label_quality': .1, 'is_issue': True}, dtype=object)
    session = ReviewSession(df, tmp_path/'journal.jsonl', user='ann')
    page = Page(session, lambda row: row['id'])
    cards = {o['row']: o for o in ask(page, 'open')[0]['page']['cards']}
    ask(page, 'thumbs', rows=list(cards))
    for row, card in cards.items():
        assert card['given'] == name_of(session.issues.given[row]) and card['confidence'] is None
        assert not {*'\u202e\x00\ud800'} & {*card['id'] + card['given']} and len(card['id']) < 200
    assert act(page, 'accept', list(cards))['count'] == 8
    assert len(session.state) == 8


@pytest.mark.parametrize('text, expected', [
    ('<b>', '<b>'), ('a\u202eb', 'a\ufffdb'), ('\x00\ud800', '\ufffd\ufffd'), ('a\nb\tc', 'a\nb\tc'), (7, '7'),
    ('x'*200, 'x'*120 + '… (200 characters)')])
def test_plain_keeps_text_and_replaces_what_hides_or_breaks(text, expected):
    assert plain(text) == expected


def test_labels_of_an_item_of_several_are_joined():
    assert name_of(('a', 'b')) == 'a; b' and name_of('') == name_of(()) == '(empty)' and name_of(3) == '3'


def test_image_files_are_shown_upright_and_others_say_why(tmp_path):
    im = Image.fromarray(np.concatenate([np.zeros((10, 40, 3)), np.full((10, 40, 3), 255)]).astype(np.uint8))
    exif = im.getexif()
    exif[0x0112] = 6
    im.save(tmp_path/'turned.png', exif=exif)
    (tmp_path/'broken.png').write_bytes(b'no image')
    show = shower(None)
    kind, _, data, mime, width = picture(show, pd.Series(dict(id=str(tmp_path/'turned.png'))))
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert('L'))
    assert (kind, mime, width) == ('image', 'image/png', 20) and pixels.shape == (40, 20)
    assert (pixels[:, :10] == 255).all() and (pixels[:, 10:] == 0).all()
    for i in (str(tmp_path/'broken.png'), str(tmp_path/'none.png'), 'a\x00b', 'x'*10_000, 7):
        kind, text, data, *_ = picture(show, pd.Series(dict(id=i), dtype=object))
        assert kind == 'missing' and text and not data
    assert picture(show, pd.Series(dict(id=3, text='<b>tweet', path='x'))) == ('text', '<b>tweet', b'', '', 0)


class Interp:
    "What `shower` needs of a CleanInterpretation"
    def __init__(self, ids, name): self.ids, self.name = ids, name
    def shown(self, i): return f'{self.name} {i}'


def test_interpretations_are_asked_by_set_and_id():
    show = shower({'train': Interp(['b', 'a'], 'train'), 'valid': Interp(['a'], 'valid')}, ['train', 'valid'])
    assert [show(pd.Series(dict(id='a', set=o))) for o in ('train', 'valid')] == ['train 1', 'valid 0']
    assert picture(show, pd.Series(dict(id='c', set='valid')))[:2] == ('missing', "KeyError: 'c'")
    assert shower(Interp([3, 5], 'one'))(pd.Series(dict(id='5'))) == 'one 1'


@pytest.mark.parametrize('show', [Interp(['a'], 'one'), {'train': shown}])
def test_show_that_does_not_tell_sets_apart_is_refused(session, show):
    with pytest.raises(ValueError, match='show'): Page(session, show)


def test_bad_argument_is_named(session):
    with pytest.raises(ValueError, match='page_size is'): Page(session, page_size=0)
    with pytest.raises(TypeError, match='session is a DataFrame: pass a ReviewSession'): Page(session.issues)


def test_page_needs_no_framework():
    code = ("import sys, fastai_clean.review.page, fastai_clean.app; "
            "print(*{'torch', 'fastai', 'matplotlib', 'ipywidgets', 'anywidget'} & {*sys.modules})")
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout == '\n'


def test_page_scripts_put_data_into_text_only():
    assert "fetch('" not in script()
    scripts = script() + ''.join((WEB/o).read_text() for o in ('host.js', 'predict.js'))
    for name in ('innerHTML', 'outerHTML', 'insertAdjacent', 'document.write', 'eval(', 'http', 'import('):
        assert name not in scripts
    assert {*re.findall(r"fetch\((.*?),", scripts)} == {"'msg'", "'predict'"}
    for css in (style(), (WEB/'app.css').read_text()): assert 'url(' not in css and '@import' not in css
    for page in WEB.glob('*.html'): assert not re.search('<script>|<style| on[a-z]+=|style=|http', page.read_text())


def judged(share, n=600, issues=None):
    "An issue table of a model that predicts the given label in a `share` of the items"
    df = table(n).assign(predicted=lambda t: t.given).drop(columns='set')
    others = np.flatnonzero(np.random.default_rng(1).random(n) >= share)
    df.loc[others, 'predicted'] = np.random.default_rng(2).choice(VOCAB, len(others))
    return df.assign(is_issue=df.given != df.predicted if issues is None else issues)


def notice(df, path, weakness=None, show=shown):
    session = ReviewSession(df, path/'journal.jsonl', vocab=VOCAB, user='ann')
    session.weakness = weakness
    return ask(Page(session, show), 'open')[0]['options']['notice']


@pytest.mark.parametrize('share, issues, said', [(0, None, True), (.02, None, True), (.6, None, False), (0, True, False)])
def test_weak_model_is_named_on_the_page_if_the_table_has_more_than_issues(share, issues, said, tmp_path):
    found = notice(judged(share, issues=issues), tmp_path)
    match = r'Unless items were left out of the table, the model agrees with 3\d\.\d% of the given labels, and 3\d\.\d% would be chance: .*\.$'
    assert bool(re.match(match, found)) == said and bool(found) == said


def test_page_repeats_what_the_interpretation_says_of_its_model(tmp_path):
    weak, good = (SimpleNamespace(weakness=o, ids=['a'], shown=str) for o in ('it is <b>weak', ''))
    assert notice(judged(0), tmp_path, weakness='') == '' and notice(judged(0), tmp_path, show=good) == ''
    assert notice(judged(.9), tmp_path, weakness='it is <b>weak') == notice(judged(.9), tmp_path, show=weak) == 'It is <b>weak.'


def test_estimate_is_told_from_twenty_decisions_on_and_made_again_after_ten_more(page, session, monkeypatch):
    made, estimate = [], ReviewSession.estimate
    monkeypatch.setattr(ReviewSession, 'estimate', lambda self: made.append(len(self.state)) or estimate(self))

    def told(*rows):
        for row in rows: act(page, 'keep' if row % 3 else 'delete', [row])
        return ask(page, 'poll')[0]['estimate']
    assert told(*range(19)) == '' and made == []
    first = told(19)
    assert re.match(r'About \d+ \(\d+ to \d+\) of 60 labels are wrong .*This rests on 20 decisions', first)
    assert told(*range(20, 29)) == first and made == [20]
    assert 'This rests on 30 decisions' in told(29) and made == [20, 30]
    for _ in range(15): act(page, 'undo')
    assert told() == '' and made == [20, 30]


def test_estimate_that_cannot_be_made_is_left_out_and_one_in_the_making_is_not_waited_for(page, monkeypatch):
    def fails(self): raise ValueError('label_quality is missing')
    monkeypatch.setattr(ReviewSession, 'estimate', fails)
    act(page, 'keep', range(20))
    assert ask(page, 'poll')[0]['estimate'] == '' and 'error' not in ask(page, 'poll')[0]
    page.estimate = 'About 3'
    with page.estimate_lock: assert ask(page, 'poll')[0]['estimate'] == 'About 3'
