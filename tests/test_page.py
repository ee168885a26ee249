"The notebook's cleaner without a notebook: pages, actions, what is sent, and what is left behind"
import io
import json
import subprocess
import sys
from pathlib import Path

import ipywidgets
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fastai_clean.plots import Unreadable
from fastai_clean.review import ReviewSession
from fastai_clean.widgets import Cleaner
from fastai_clean.widgets.items import name_of, picture, plain, shower
from fastai_clean.widgets.live import answer

N = 60
VOCAB = ['ant', 'bee', 'cat']
HOSTILE = ['<img src=x onerror=alert(1)>', '\u202eleft', 'a\x00b', '\ud800', 'x'*10_000, '', '$\\frac{1}{0}$',
           '../../etc']


def table(n=N, seed=0):
    "Issue table of `n` items, two of three flagged, in three sets"
    rng = np.random.default_rng(seed)
    return pd.DataFrame({
        'item': [f'{i:03}.png' for i in range(n)], 'given': [VOCAB[i % 3] for i in range(n)],
        'predicted': [VOCAB[(i + 1 + i % 2) % 3] for i in range(n)], 'confidence': rng.random(n),
        'label_quality': np.sort(rng.random(n)), 'is_issue': np.arange(n) % 3 < 2,
        'set': [('train', 'valid', 'test')[i % 5 % 3] for i in range(n)]})


def shown(row): return np.full((8, 8), int(row['item'][:3]), dtype=np.uint8)


@pytest.fixture
def session(tmp_path): return ReviewSession(table(), tmp_path/'journal.jsonl', vocab=VOCAB, user='ann')


@pytest.fixture
def cleaner(session): return Cleaner(session, shown, page_size=10)


def ask(cleaner, do, **what):
    "What the page would get, through JSON as ipykernel writes it"
    reply, buffers = answer(cleaner, {'do': do, 're': 'v.1', **what})
    json.dumps(reply, ensure_ascii=False, allow_nan=False).encode()
    return reply, buffers


def act(cleaner, name, rows=(), value=None, at=None):
    return ask(cleaner, 'act', act=name, rows=list(rows), value=value, at=at)[0]


def test_opening_gives_first_page_of_issues_worst_first(cleaner):
    reply, _ = ask(cleaner, 'open')
    expected = np.flatnonzero(table().is_issue)[:10].tolist()
    assert [o['row'] for o in reply['page']['cards']] == expected
    assert reply['page']['total'] == 40 and reply['page']['pages'] == 4 and reply['re'] == 'v.1'
    assert reply['options']['names'] == VOCAB and reply['progress'] == dict(reviewed=0, flagged=40)
    row = table().iloc[1]
    assert reply['page']['cards'][1] == dict(
        row=1, item='001.png', given='bee', predicted='ant', issue=True, set='valid',
        confidence=round(row.confidence, 4), quality=round(row.label_quality, 4))


@pytest.mark.parametrize('place, mask', [
    (dict(issues=False), lambda t: t.given.notna()), (dict(set=0, issues=False), lambda t: t.set == 'test'),
    (dict(given=1), lambda t: t.is_issue & (t.given == 'bee')),
    (dict(predicted=2, issues=False), lambda t: t.predicted == 'cat'),
    (dict(status='done'), lambda t: t.index.isin([0, 4])),
    (dict(status='todo'), lambda t: t.is_issue & ~t.index.isin([0, 4]))])
def test_filters_leave_what_a_mask_leaves(cleaner, place, mask):
    act(cleaner, 'keep', [0, 4])
    act(cleaner, 'note', [1], 'only a note')
    reply, _ = ask(cleaner, 'look', place=place)
    expected = np.flatnonzero(mask(table()))
    assert cleaner.found.tolist() == expected.tolist() and reply['page']['total'] == len(expected)


@pytest.mark.parametrize('order, by', [
    ('worst', ['label_quality']), ('item', ['item']), ('pair', ['given', 'predicted', 'label_quality'])])
def test_orders_sort_as_pandas_does(cleaner, order, by):
    ask(cleaner, 'look', place=dict(order=order, issues=False))
    assert cleaner.found.tolist() == table().sort_values(by, kind='stable').index.tolist()


def test_most_confident_first_sorts_down(cleaner):
    ask(cleaner, 'look', place=dict(order='confident'))
    assert (np.diff(table().confidence[cleaner.found]) <= 0).all()


def test_pages_cover_all_items_once_and_stop_at_the_ends(cleaner):
    rows = [o['row'] for k in range(4) for o in ask(cleaner, 'look', number=k)[0]['page']['cards']]
    assert rows == np.flatnonzero(table().is_issue).tolist()
    assert ask(cleaner, 'look', number=99)[0]['page']['number'] == 3
    assert ask(cleaner, 'look', number=-5)[0]['page']['number'] == 0


def test_page_stays_while_its_items_are_decided_on(cleaner):
    ask(cleaner, 'look', place=dict(status='todo'))
    before = cleaner.rows
    act(cleaner, 'delete', before[:3])
    assert cleaner.rows == before
    assert not set(before[:3]) & {o['row'] for o in ask(cleaner, 'look', place=dict(status='todo'))[0]['page']['cards']}


def test_every_action_reaches_the_session_and_the_journal(cleaner, session):
    for name, value in dict(keep=None, delete=None, unsure=None, relabel=2, accept=None, note='hm').items():
        row = list(dict(keep=0, delete=1, unsure=3, relabel=4, accept=6, note=7)).index(name)
        reply = act(cleaner, name, [cleaner.rows[row]], value)
        assert reply['count'] == 1 and 'error' not in reply
    again = ReviewSession(table(), session.path, vocab=VOCAB, user='ann')
    got = [again.state[again.issues.id[o]] for o in cleaner.rows[:6]]
    assert [o['action'] for o in got] == ['keep', 'delete', 'unsure', 'relabel', 'relabel', None]
    assert [o['label'] for o in got[3:5]] == ['cat', table().predicted[cleaner.rows[4]]] and got[5]['note'] == 'hm'


def test_batch_is_one_action_and_undo_and_redo_give_it_back(cleaner):
    rows = cleaner.rows[:5]
    assert act(cleaner, 'relabel', rows, 1)['states'] == {o: ['relabel', 'bee', '', ''] for o in rows}
    undone = act(cleaner, 'undo')
    assert undone['states'] == {} and undone['count'] == 5
    assert act(cleaner, 'undo')['count'] == 0
    assert set(act(cleaner, 'redo')['states']) == set(rows)


def test_accepting_several_gives_each_its_own_prediction(cleaner, session):
    act(cleaner, 'accept', cleaner.rows)
    act(cleaner, 'undo')
    assert not session.state
    act(cleaner, 'redo')
    labels = [session.state[session.issues.id[o]]['label'] for o in cleaner.rows]
    assert labels == table().predicted[cleaner.rows].tolist()


@pytest.mark.parametrize('name, rows, value', [
    ('keep', [N], None), ('keep', [-1], None), ('relabel', [0], 3), ('relabel', [0], None), ('explode', [0], None),
    ('__init__', [0], None), ('note', [0], 'x'*5000), ('keep', [], None)])
def test_bad_action_is_told_and_changes_nothing(cleaner, session, name, rows, value):
    reply = act(cleaner, name, rows, value)
    assert reply['error'] and 'count' not in reply and session.state == {}


@pytest.mark.parametrize('place', [dict(order='best'), dict(set=7), dict(given=3), dict(colour=1), dict(status=None)])
def test_unknown_filter_is_told_and_the_page_stays(cleaner, place):
    before = cleaner.rows
    assert 'cannot be looked for' in ask(cleaner, 'look', place=place)[0]['error'] and cleaner.rows == before


def test_disk_that_cannot_be_written_is_told(cleaner, session, monkeypatch):
    def full(*_): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(session, 'keep', full)
    reply = act(cleaner, 'keep', [0])
    assert reply['error'] == 'OSError: [Errno 28] No space left on device' and 'count' not in reply


def test_place_that_cannot_be_kept_is_no_lost_decision(cleaner, session):
    cleaner.memory.unlink()
    cleaner.memory.mkdir()
    assert act(cleaner, 'keep', [0])['count'] == 1 and len(session.state) == 1


def test_reopening_goes_where_the_user_left_off(cleaner, session):
    ask(cleaner, 'look', number=1, place=dict(order='item', issues=False))
    act(cleaner, 'keep', [cleaner.rows[3]], at=cleaner.rows[4])
    again = Cleaner(ReviewSession(table(), session.path, vocab=VOCAB, user='ann'), shown, page_size=10)
    page = ask(again, 'open')[0]['page']
    assert page['number'] == 1 and page['at'] == cleaner.rows[4] and page['place'] == cleaner.place
    other = Cleaner(ReviewSession(table(), session.path, vocab=VOCAB, user='bob'), shown, page_size=10)
    assert other.number == 0 and other.place['order'] == 'worst'


@pytest.mark.parametrize('kept', [
    '', '[]', '{"ann": 3}', '{"ann": {"at": "gone"}}', '{"ann": {"at": null, "set": 9}}', '\xff',
    '{"ann": {"at": null, "x": 1}}', '{"ann": {"at": null, "order": []}}'])
def test_place_that_does_not_fit_is_the_beginning(session, kept):
    Path(f'{session.path}.place').write_bytes(kept.encode('latin-1'))
    cleaner = Cleaner(session, shown)
    assert cleaner.number == 0 and cleaner.at == 0 and cleaner.place['issues'] is True


def test_decisions_of_another_writer_come_with_the_next_poll(cleaner, session):
    assert 'states' not in ask(cleaner, 'poll')[0]
    other = ReviewSession(table(), session.path, vocab=VOCAB, user='<b>bob')
    other.delete(session.issues.id[1])
    reply, _ = ask(cleaner, 'poll')
    assert reply['states'] == {1: ['delete', '', '<b>bob', '']} and reply['progress']['reviewed'] == 1


def test_thumbnails_go_as_buffers_and_unreadable_items_as_reasons(session):
    def show(row):
        if row['item'] == '001.png': raise OSError('cannot identify image file')
        return Unreadable('gone') if row['item'] == '003.png' else 'a text' if row['item'] == '004.png' else shown(row)
    reply, buffers = ask(Cleaner(session, show), 'thumbs', rows=[0, 1, 3, 4, 6])
    assert [o['kind'] for o in reply['thumbs']] == ['image', 'missing', 'missing', 'text', 'image']
    assert [o['text'] for o in reply['thumbs'][1:4]] == ['OSError: cannot identify image file', 'gone', 'a text']
    assert [np.asarray(Image.open(io.BytesIO(buffers[reply['thumbs'][k]['at']]))).max() for k in (0, 4)] == [0, 6]
    assert len(buffers) == 2


def test_hostile_names_are_sent_as_text_that_json_can_hold(tmp_path):
    df = pd.DataFrame({'item': HOSTILE, 'given': HOSTILE, 'predicted': HOSTILE[::-1], 'confidence': np.nan,
                       'label_quality': .1, 'is_issue': True}, dtype=object)
    session = ReviewSession(df, tmp_path/'journal.jsonl', user='ann')
    cleaner = Cleaner(session, lambda row: row['item'])
    cards = {o['row']: o for o in ask(cleaner, 'open')[0]['page']['cards']}
    ask(cleaner, 'thumbs', rows=list(cards))
    for row, card in cards.items():
        assert card['given'] == name_of(session.issues.given[row]) and card['confidence'] is None
        assert not set('\u202e\x00\ud800') & set(card['item'] + card['given']) and len(card['item']) < 200
    assert act(cleaner, 'accept', list(cards))['count'] == 8
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
    kind, _, data, mime, width = picture(show, pd.Series(dict(item=str(tmp_path/'turned.png'))))
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert('L'))
    assert (kind, mime, width) == ('image', 'image/png', 20) and pixels.shape == (40, 20)
    assert (pixels[:, :10] == 255).all() and (pixels[:, 10:] == 0).all()
    for item in (str(tmp_path/'broken.png'), str(tmp_path/'none.png'), 'a\x00b', 'x'*10_000, 7):
        kind, text, data, *_ = picture(show, pd.Series(dict(item=item), dtype=object))
        assert kind == 'missing' and text and not data
    assert picture(show, pd.Series(dict(item=3, text='<b>tweet', path='x'))) == ('text', '<b>tweet', b'', '', 0)


class Interp:
    "What `shower` needs of a CleanInterpretation"
    def __init__(self, items, name): self.items, self.name = items, name
    def shown(self, i): return f'{self.name} {i}'


def test_interpretations_are_asked_by_set_and_name():
    show = shower({'train': Interp(['b', 'a'], 'train'), 'valid': Interp(['a'], 'valid')}, ['train', 'valid'])
    assert [show(pd.Series(dict(item='a', set=o))) for o in ('train', 'valid')] == ['train 1', 'valid 0']
    assert picture(show, pd.Series(dict(item='c', set='valid')))[:2] == ('missing', "KeyError: 'c'")
    assert shower(Interp([3, 5], 'one'))(pd.Series(dict(item='5'))) == 'one 1'


@pytest.mark.parametrize('show', [Interp(['a'], 'one'), {'train': shown}])
def test_show_that_does_not_tell_sets_apart_is_refused(session, show):
    with pytest.raises(ValueError, match='show'): Cleaner(session, show)


@pytest.mark.parametrize('kwargs', [dict(backend='tk'), dict(page_size=0)])
def test_bad_argument_is_named(session, kwargs):
    with pytest.raises(ValueError, match=f'{next(iter(kwargs))} is'): Cleaner(session, **kwargs)


def test_without_anywidget_the_error_says_what_to_install_and_the_fallback_works(tmp_path):
    code = f'''
import sys
sys.modules['anywidget'] = None
import pandas as pd
from fastai_clean.review import ReviewSession
from fastai_clean.widgets import Cleaner
df = pd.DataFrame(dict(item=['x'], given=['a'], predicted=['b'], confidence=[.5], label_quality=[.1], is_issue=[True]))
session = ReviewSession(df, {str(tmp_path/'journal.jsonl')!r})
try: Cleaner(session)
except ImportError as e: print(e)
print(type(Cleaner(session, backend='ipywidgets').widget).__name__)
'''
    out = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True,
                         cwd=Path(__file__).parents[1])
    assert out.returncode == 0, out.stderr
    assert "pip install 'fastai_clean[widgets]'" in out.stdout and out.stdout.split()[-1] == 'VBox'


def test_saved_widget_holds_no_data(cleaner):
    ask(cleaner, 'open')
    ask(cleaner, 'thumbs', rows=cleaner.rows)
    state = cleaner.widget.get_state()
    assert not any('000.png' in str(v) or isinstance(v, bytes) for v in state.values())


def test_cleaner_shows_itself_as_its_widget(cleaner):
    data, _ = cleaner._repr_mimebundle_()
    assert data['application/vnd.jupyter.widget-view+json']['model_id'] == cleaner.widget.model_id
    assert repr(cleaner) == 'Cleaner(60 items, 0 decided)'


def test_page_scripts_put_data_into_text_only():
    folder = Path(sys.modules['fastai_clean.widgets'].__file__).parent
    scripts = ''.join((folder/o).read_text() for o in ('kernel.js', 'review.js'))
    for name in ('innerHTML', 'outerHTML', 'insertAdjacent', 'document.write', 'eval(', 'http', 'import(', 'fetch(\''):
        assert name not in scripts
    assert 'url(' not in (folder/'review.css').read_text() and '@import' not in (folder/'review.css').read_text()


def find(root, kind, text=None):
    "Widgets of a kind in `root`, in order, of that description where given"
    res = [root] if isinstance(root, kind) and text in (None, getattr(root, 'description', None)) else []
    return res + [o for kid in getattr(root, 'children', ()) for o in find(kid, kind, text)]


@pytest.fixture
def fallback(session): return Cleaner(session, shown, backend='ipywidgets', page_size=4)


def test_fallback_decides_pages_and_undoes(fallback, session):
    root, cards = fallback.widget, find(fallback.widget, ipywidgets.Checkbox)
    find(root, ipywidgets.Button, 'Keep')[1].click()
    assert session.state[session.issues.id[0]]['action'] == 'keep'
    find(root, ipywidgets.Button, 'Next ›')[0].click()
    for o in cards[:2]: o.value = True
    find(root, ipywidgets.Dropdown, 'Relabel as')[0].value = 2
    find(root, ipywidgets.Button, 'Relabel')[0].click()
    assert [session.state[session.issues.id[o]]['label'] for o in fallback.rows[:2]] == ['cat', 'cat']
    assert not any(o.value for o in cards)
    find(root, ipywidgets.Button, 'Undo')[0].click()
    assert len(session.state) == 1
    find(root, ipywidgets.Button, 'Delete')[0].click()
    assert find(root, ipywidgets.Text)[1].value == 'Select items first' and len(session.state) == 1


def test_fallback_filters_and_shows_what_the_session_says(fallback, session):
    find(fallback.widget, ipywidgets.Dropdown, 'Given')[0].value = 1
    assert all(table().given[o] == 'bee' for o in fallback.rows)
    session.delete(session.issues.id[fallback.rows[0]])
    find(fallback.widget, ipywidgets.Button, 'Refresh')[0].click()
    abouts = [o.value for o in find(fallback.widget, ipywidgets.Textarea)[1::2]]
    assert abouts[0].startswith('deleted\nbee → ') and abouts[1].startswith('not decided')


def test_fallback_tells_what_was_not_saved(fallback, session, monkeypatch):
    def full(*_): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(session, 'keep', full)
    find(fallback.widget, ipywidgets.Button, 'Keep')[1].click()
    assert find(fallback.widget, ipywidgets.Text)[1].value == 'NOT SAVED: OSError: [Errno 28] No space left on device'


def test_fallback_gives_data_to_no_widget_that_reads_markup_or_mathematics(tmp_path):
    hostile = HOSTILE[0] + HOSTILE[6]
    df = pd.DataFrame({'item': [hostile], 'given': [hostile], 'predicted': ['b'], 'confidence': .5, 'label_quality': .1,
                       'is_issue': True})
    session = ReviewSession(df, tmp_path/'journal.jsonl', user='ann')
    root = Cleaner(session, lambda row: hostile, backend='ipywidgets').widget
    find(root, ipywidgets.Button, 'Keep')[1].click()
    safe = ipywidgets.Textarea, ipywidgets.Text, ipywidgets.Dropdown
    unsafe = [o for o in find(root, ipywidgets.Widget) if not isinstance(o, safe)]
    assert unsafe and not any(hostile in str(v) for o in unsafe for k, v in o.get_state().items() if k != 'children')
    assert any(hostile in o.value for o in find(root, ipywidgets.Textarea))
