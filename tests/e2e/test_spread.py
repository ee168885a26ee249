"One journal, reviewed in two outputs of a notebook and in the browser app at the same time, with hostile data"
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
Cleaner(other, show, page_size={PAGE})'''
PATIENCE = 15_000


class Spread:
    "One journal: ann in JupyterLab, cyd in the output beneath, bob in the app. Cards are numbered"
    def __init__(self, book, app):
        self.book, self.app = book, app
        book.tab.set_viewport_size(dict(width=1400, height=3000))
        book.run()
        self.cards = {'ann': book.cards(), 'cyd': book.cards(1)}
        self.tab = app.open()
        self.cards['bob'] = self.tab.locator('.card')
        for o in self.cards.values(): expect(o).to_have_count(PAGE, timeout=PATIENCE)

    def click(self, user, name, card):
        self.cards[user].nth(card).get_by_role('button', name=name, exact=True).click()

    def press(self, key, card):
        "As ann"
        self.cards['ann'].nth(card).locator('.facts').click()
        self.book.tab.keyboard.press(key)

    def undo(self, user):
        root = self.tab if user == 'bob' else self.book.tab.locator('.fastai-clean').nth(1)
        root.get_by_role('button', name='Undo', exact=True).click()

    def sees(self, user, card, words):
        expect(self.cards[user].nth(card).locator('.state')).to_have_text(words, timeout=PATIENCE)

    def decided(self):
        "Number of the item -> user, as a new session reads the journal"
        session = ReviewSession(test_notebook.table(), self.app.journal, vocab=VOCAB, user='dan')
        return {int(o.id.split()[0]): (o.user, o.action) for o in session.decisions.itertuples()}


@pytest.fixture
def spread(browser, server, start):
    book = Book(browser, server, 'lab', OTHER)
    journal = book.folder/'journal.jsonl'
    yield Spread(book, start(book.folder/'issues.csv', '--page-size', PAGE, journal=journal, user='bob'))
    book.close()


def test_decisions_and_undo_in_each_of_three_views_appear_in_the_others(spread, tmp_path):
    s = spread
    s.press('a', 0)
    s.click('bob', '✓ ant', 3)
    s.click('cyd', 'delete', 5)
    for user in ('bob', 'cyd'): s.sees(user, 0, f'relabelled {BAD} by ann')
    for user in ('ann', 'cyd'): s.sees(user, 3, 'relabelled ant by bob')
    for user in ('ann', 'bob'): s.sees(user, 5, 'deleted by cyd')
    s.click('bob', 'keep', 0)
    s.sees('ann', 0, 'kept by bob')
    s.tab.screenshot(path=tmp_path/'app.png')
    s.book.tab.screenshot(path=tmp_path/'lab.png')
    s.undo('bob')
    s.sees('ann', 0, f'relabelled {BAD}')
    s.press('u', 1)
    s.sees('bob', 0, '')
    s.sees('cyd', 0, '')
    s.undo('cyd')
    s.sees('bob', 5, '')
    s.sees('ann', 5, '')
    assert sorted((o['user'], o['do']) for o in s.app.records()) == [
        ('ann', 'relabel'), ('ann', 'undo'), ('bob', 'keep'), ('bob', 'relabel'), ('bob', 'undo'),
        ('cyd', 'delete'), ('cyd', 'undo')]
    assert s.decided() == {3: ('bob', 'relabel')}
    for i in (1, 4):
        s.press('k', i)
        s.click('bob', 'delete', i + 1)
    s.click('cyd', 'unsure', 0)
    for i in (1, 4): s.sees('bob', i, 'kept by ann')
    for i in (2, 5): s.sees('ann', i, 'deleted by bob')
    s.sees('ann', 0, 'unsure by cyd')
    assert s.decided() == {0: ('cyd', 'unsure'), 1: ('ann', 'keep'), 2: ('bob', 'delete'), 3: ('bob', 'relabel'),
                           4: ('ann', 'keep'), 5: ('bob', 'delete')}
    assert len(s.app.records()) == 12 and s.app.said == [] and s.book.outside() == []
