"The cleaner without a notebook: messages through its widget; tests/e2e/test_notebook.py has the browser"
import pytest
from test_page import NUMBERS, open_session, shown

from fastai_clean.widgets import Cleaner


@pytest.fixture
def cleaner(tmp_path): return Cleaner(open_session(tmp_path/'journal.jsonl'), shown, page_size=10)


def ask(cleaner, do, **what):
    "What the widget sends back"
    got = []
    cleaner.widget.send = lambda *o: got.append(o)
    cleaner.widget._handle_custom_msg({'do': do, 're': f'v.{next(NUMBERS)}', 'view': 'v', **what}, [])
    assert len(got) == 1
    return got[0]


def test_messages_of_the_widget_reach_the_session(cleaner):
    reply, buffers = ask(cleaner, 'open')
    rows = [o['row'] for o in reply['page']['cards']]
    assert len(rows) == 10 and buffers == []
    assert ask(cleaner, 'act', act='keep', rows=rows[:2], value=None, at=None)[0]['count'] == 2
    assert len(ask(cleaner, 'thumbs', rows=rows)[1]) == 10 and len(cleaner.session.state) == 2


def test_saved_widget_holds_no_data(cleaner):
    rows = [o['row'] for o in ask(cleaner, 'open')[0]['page']['cards']]
    ask(cleaner, 'thumbs', rows=rows)
    state = cleaner.widget.get_state()
    assert not any('000.png' in str(v) or isinstance(v, bytes) for v in state.values())


def test_cleaner_shows_itself_as_its_widget(cleaner):
    data, _ = cleaner._repr_mimebundle_()
    assert data['application/vnd.jupyter.widget-view+json']['model_id'] == cleaner.widget.model_id
    assert repr(cleaner) == 'Cleaner(60 items, 0 decided)'
