"One journal, reviewed in both widgets and in the browser app at the same time, in a real browser, with hostile data"
import re

import chromium
import pytest
import test_browser
import test_notebook
from chromium import expect
from test_notebook import BAD, PAGE, VOCAB, Book

from fastai_clean.review import ReviewSession

pytestmark, browser = chromium.needed, chromium.browser
server, start = test_notebook.server, test_browser.start
OTHER = f'''
other = ReviewSession('issues.csv', 'journal.jsonl', vocab={VOCAB!r}, user='cyd')
Cleaner(other, show, backend='ipywidgets', page_size={PAGE})'''
PATIENCE = 15_000


class Spread:
    "One journal: ann in JupyterLab with anywidget, cyd beneath with ipywidgets, bob in the app. Cards are numbered"
    def __init__(self, book, app):
        self.book, self.app = book, app
        book.run()
        self.live, self.plain = book.cards(), book.cards('ipywidgets')
        expect(self.plain).to_have_count(PAGE, timeout=PATIENCE)
        self.tab = app.open()
        self.boxes = self.tab.locator('[data-testid=stMain] [data-testid=stColumn]')
        expect(self.boxes.get_by_text('Undecided')).to_have_count(12, timeout=PATIENCE)

    def ann(self, key, card):
        self.live.nth(card).locator('.facts').click()
        self.book.tab.keyboard.press(key)

    def bob(self, name, card): _press(self.boxes.nth(card), name)
    def cyd(self, name, card): _press(self.plain.nth(card), name)

    def ann_sees(self, card, words):
        expect(self.live.nth(card).locator('.state')).to_have_text(words, timeout=PATIENCE)

    def bob_sees(self, card, words): expect(self.boxes.nth(card)).to_contain_text(words, timeout=PATIENCE)

    def cyd_sees(self, card, words):
        "Once asked, for this widget does not ask by itself"
        _press(self.book.tab, 'Refresh')
        said = re.compile(f'^{re.escape(words)}\n')
        expect(self.plain.nth(card).locator('textarea').last).to_have_value(said, timeout=PATIENCE)

    def decided(self):
        "Number of the item -> user, as a new session reads the journal"
        session = ReviewSession(test_notebook.table(), self.app.journal, vocab=VOCAB, user='dan')
        return {int(o.item.split()[0]): (o.user, o.action) for o in session.decisions.itertuples()}


def _press(box, name): box.get_by_role('button', name=name, exact=True).first.click()


@pytest.fixture
def spread(browser, server, start):
    book = Book(browser, server, 'lab', 'anywidget', OTHER)
    yield Spread(book, start(book.folder/'issues.csv', journal=book.folder/'journal.jsonl', user='bob'))
    book.close()


def test_decisions_and_undo_in_each_of_three_views_appear_in_the_others(spread, tmp_path):
    s = spread
    s.ann('a', 0)
    s.bob('ant', 3)
    s.cyd('Delete', 5)
    s.bob_sees(0, f'Relabelled: {BAD} Saved · ann')
    s.bob_sees(5, 'Deleted Saved · cyd')
    s.ann_sees(3, 'relabelled ant by bob')
    s.ann_sees(5, 'deleted by cyd')
    s.cyd_sees(0, f'relabelled {BAD} by ann')
    s.cyd_sees(3, 'relabelled ant by bob')
    s.bob('Keep', 0)
    s.ann_sees(0, 'kept by bob')
    s.tab.screenshot(path=tmp_path/'app.png')
    s.book.tab.screenshot(path=tmp_path/'lab.png')
    s.tab.get_by_role('button', name='Undo').click()
    s.ann_sees(0, f'relabelled {BAD}')
    s.ann('u', 1)
    s.bob_sees(0, 'Undecided')
    s.cyd_sees(0, 'not decided')
    s.book.tab.get_by_role('button', name='Undo', exact=True).last.click()
    s.bob_sees(5, 'Undecided')
    s.ann_sees(5, '')
    assert sorted((o['user'], o['do']) for o in s.app.records()) == [
        ('ann', 'relabel'), ('ann', 'undo'), ('bob', 'keep'), ('bob', 'relabel'), ('bob', 'undo'),
        ('cyd', 'delete'), ('cyd', 'undo')]
    assert s.decided() == {3: ('bob', 'relabel')}
    for i in (1, 4):
        s.ann('k', i)
        s.bob('Delete', i + 1)
    s.cyd('Unsure', 0)
    for i in (1, 4): s.bob_sees(i, 'Kept as given Saved · ann')
    for i in (2, 5): s.ann_sees(i, 'deleted by bob')
    s.ann_sees(0, 'unsure by cyd')
    assert s.decided() == {0: ('cyd', 'unsure'), 1: ('ann', 'keep'), 2: ('bob', 'delete'), 3: ('bob', 'relabel'),
                           4: ('ann', 'keep'), 5: ('bob', 'delete')}
    assert len(s.app.records()) == 12 and s.app.said == [] and s.book.outside() == []
