"The cleaner in JupyterLab and Notebook 7, in a real browser, with hostile data and a kernel that dies"
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import chromium
import pandas as pd
import pytest
from chromium import click_fast, records, wait_until

from fastai_clean.review import ReviewSession

pytestmark, browser = chromium.needed, chromium.browser
pytest.importorskip('jupyterlab')
pytest.importorskip('notebook')
PATHS = {'lab': 'lab/workspaces/{0}/tree', 'notebook': 'notebooks'}
BAD = '<img src=http://example.com/x.png onerror=alert(1)>'
VOCAB = ['ant', BAD, '</script><script>alert(1)</script>', r'$\href{javascript:alert(1)}{\frac{1}{0}}$']
N, PAGE, DEADLINE = 40, 6, 120_000
CODE = '''
import os
from pathlib import Path
import numpy as np
from fastai_clean._images import Unreadable
from fastai_clean.review import ReviewSession
from fastai_clean.widgets import Cleaner
Path('pid').write_text(str(os.getpid()))
BAD = {bad!r}
def show(row):
    i = int(row['id'].split()[0])
    if i == 1: return BAD
    if i == 2: return Unreadable(BAD)
    return np.full((120, 160, 3), (4*i, 120, 200), dtype=np.uint8)
session = ReviewSession('issues.csv', 'journal.jsonl', vocab={vocab!r}, user='ann')
'''


def table():
    return pd.DataFrame({'id': [f'{i} {BAD}' for i in range(N)], 'given': [VOCAB[i % 4] for i in range(N)],
                         'predicted': [VOCAB[(i + 1) % 4] for i in range(N)], 'confidence': .9,
                         'label_quality': [i/N for i in range(N)], 'is_issue': True})


@pytest.fixture(scope='module')
def server(tmp_path_factory):
    "Address and folder of a Jupyter server that serves both, with everything it writes in a temporary folder"
    home = tmp_path_factory.mktemp('jupyter')
    root, config = home/'root', home/'config'
    for o in (root, config/'labconfig', home/'tmp'): o.mkdir(parents=True)
    (config/'labconfig/page_config.json').write_text(json.dumps(
        {'disabledExtensions': {'@jupyterlab/apputils-extension:announcements': True}}))
    port = chromium.free_port()
    env = {**os.environ, 'HOME': str(home), 'TMPDIR': str(home/'tmp'), 'JUPYTER_CONFIG_DIR': str(config),
           'JUPYTER_DATA_DIR': str(home/'data'), 'JUPYTER_RUNTIME_DIR': str(home/'runtime'), 'OMP_NUM_THREADS': '1'}
    command = [sys.executable, '-m', 'jupyterlab', '--no-browser', '--allow-root', '--expose-app-in-browser',
               '--ServerApp.ip=127.0.0.1', f'--ServerApp.port={port}', '--IdentityProvider.token=T',
               f'--ServerApp.root_dir={root}', '--JupyterNotebookApp.expose_app_in_browser=True']
    with (home/'log').open('wb') as log: process = subprocess.Popen(command, env=env, stdout=log, stderr=log)
    url = f'http://127.0.0.1:{port}'
    for _ in range(240):
        try:
            urllib.request.urlopen(f'{url}/api/status?token=T', timeout=5).close()
            break
        except OSError: time.sleep(.25)
    else: raise TimeoutError((home/'log').read_text()[-2000:])
    yield url, root
    process.terminate()
    try: process.wait(20)
    except subprocess.TimeoutExpired: process.kill()


class Book:
    "A notebook (`more`: code of further cells) open in the browser, its folder, and all it said, asked and requested"

    def __init__(self, browser, server, app, *more, page_size=PAGE):
        url, root = server
        self.app, name = app, f'{app}-{time.time_ns()}'
        self.folder, self.server = root/name, url
        self.folder.mkdir()
        table().to_csv(self.folder/'issues.csv', index=False)
        last = f'cleaner = Cleaner(session, show, page_size={page_size})\ncleaner'
        cells = [dict(cell_type='code', metadata={}, source=o, outputs=[], execution_count=None, id=f'c{i}')
                 for i, o in enumerate([CODE.format(bad=BAD, vocab=VOCAB), last, *more])]
        kernel = dict(name='python3', display_name='Python 3', language='python')
        (self.folder/'review.ipynb').write_text(json.dumps(
            dict(cells=cells, nbformat=4, nbformat_minor=5, metadata=dict(kernelspec=kernel))))
        self.tab, self.said = browser.new_page(viewport=dict(width=1400, height=1400)), []
        self.tab.set_default_timeout(DEADLINE)
        self.tab.on('dialog', self.dialog)
        for o in ('request', 'websocket'): self.tab.on(o, lambda o: self.said.append(f'request {o.url}'))
        self.tab.goto(f'{url}/{PATHS[app].format(name)}/{name}/review.ipynb?token=T')

    def dialog(self, dialog):
        "Jupyter itself asks before it leaves a notebook; nothing else may"
        if dialog.type != 'beforeunload': self.said.append(f'dialog {dialog.message}')
        dialog.accept()

    def run(self):
        "Run the notebook, and wait for the cards"
        self.tab.wait_for_function("window.jupyterapp?.shell?.currentWidget?.context?.isReady && "
                                   "jupyterapp.shell.currentWidget.sessionContext.session?.kernel?.status == 'idle'")
        self.tab.evaluate("jupyterapp.commands.execute('notebook:run-all-cells')")
        self.cards()

    def cards(self, view=0):
        "The cards of one view of those in the notebook"
        root = self.tab.locator('.fastai-clean').nth(view)
        root.locator('.card .shown.image img').first.wait_for()
        return root.locator('.card')

    def records(self): return records(self.folder/'journal.jsonl')
    def decided(self): return [(int(o['ids'][0].split()[0]), o['do']) for o in self.records()]
    def pid(self): return int((self.folder/'pid').read_text())
    def kill(self): os.kill(self.pid(), signal.SIGKILL)

    def state(self, n=None):
        "Decisions in the journal, by the number of the item; waits for `n` of them"
        path = self.folder/'journal.jsonl'
        for _ in range(100):
            state = ReviewSession(table(), path, vocab=VOCAB, user='test').decisions if path.exists() else ()
            if n is None or len(state) == n: break
            self.tab.wait_for_timeout(100)
        return {int(o.id.split()[0]): (o.action, o.label) for o in state.itertuples()}

    def outside(self):
        own = re.compile(r'request ((http|ws)://127\.0\.0\.1:|blob:|data:)')
        return [o for o in self.said if not own.match(o)]

    def close(self):
        self.tab.close(run_before_unload=False)
        sessions = json.loads(self.ask('sessions').read())
        for o in sessions:
            try: self.ask(f'sessions/{o["id"]}', 'DELETE').close()
            except urllib.error.HTTPError as e: print(f'a kernel that is slow to end, which the server ends later: {e}')

    def ask(self, path, method='GET'):
        return urllib.request.urlopen(urllib.request.Request(
            f'{self.server}/api/{path}', method=method, headers={'Authorization': 'token T'}), timeout=60)


@pytest.fixture(scope='module', params=['lab', 'notebook'])
def app(request): return request.param


@pytest.fixture
def book(browser, server, app, request):
    book = Book(browser, server, app)
    yield book
    picture(book, f'end-of-{request.function.__name__}')
    book.close()


@pytest.fixture
def lab(browser, server, request):
    "A notebook in JupyterLab, for what does not depend on the front end; parameters are those of `Book`"
    more, kwargs = getattr(request, 'param', ((), {}))
    book = Book(browser, server, 'lab', *more, **kwargs)
    yield book
    book.close()


def picture(book, name):
    folder = os.environ.get('FASTAI_CLEAN_SCREENSHOTS')
    if folder: book.tab.screenshot(path=Path(folder)/f'{book.app}-{name}.png')


def test_review_by_click_and_key_is_in_the_journal_and_survives_a_reload(book):
    book.run()
    cards, tab, press = book.cards(), book.tab, book.tab.keyboard.press
    assert cards.count() == PAGE
    cards.nth(0).get_by_role('button', name='keep').click()
    assert book.state(1) == {0: ('keep', None)}
    cards.nth(1).locator('.facts').click()
    for key in ('a', 'd', 'd', '1'): press(key)
    assert book.state(5) == {0: ('keep', None), 1: ('relabel', VOCAB[2]), 2: ('delete', None), 3: ('delete', None),
                             4: ('relabel', 'ant')}
    tab.wait_for_function("document.querySelectorAll('.card.is-delete').length == 2")
    assert tab.locator('.jp-Cell').count() == 2
    picture(book, 'keys')
    press('u')
    press('u')
    assert set(book.state(3)) == {0, 1, 2}
    press('r')
    assert book.state(4)[3] == ('delete', None)
    press('Shift+A')
    press('m')
    assert book.state(PAGE) == dict.fromkeys(range(PAGE), ('unsure', None))
    press('u')
    assert len(book.state(4)) == 4
    press('?')
    assert tab.locator('.fastai-clean .help').is_visible()
    picture(book, 'help')
    press('PageDown')
    tab.wait_for_function("document.querySelector('.fastai-clean .card').ariaLabel.includes('6 <img')")
    for key in ('n', *'hm', 'Enter', 'x', 'ArrowRight', 'x', 'l'): press(key)
    tab.get_by_label('Relabel as').select_option(index=3)
    press('Enter')
    assert book.state(7)[7] == ('relabel', VOCAB[3])
    tab.wait_for_function("document.querySelectorAll('.card.is-relabel').length == 2")
    tab.evaluate("jupyterapp.commands.execute('docmanager:save')")
    tab.wait_for_timeout(500)
    tab.reload()
    book.cards()
    tab.wait_for_function("document.querySelectorAll('.card.is-relabel').length == 2")
    assert 'Page 2 of 7' in tab.locator('.fastai-clean nav').inner_text()
    assert (book.folder/'review.ipynb').stat().st_size < 4000
    assert book.outside() == []


def test_killed_kernel_loses_nothing_acknowledged_and_says_not_saved(book):
    book.run()
    cards, tab = book.cards(), book.tab
    cards.nth(0).locator('.facts').click()
    tab.keyboard.press('k')
    tab.wait_for_selector('.card.is-keep')
    for _ in range(PAGE - 3): tab.keyboard.press('k')
    book.kill()
    tab.evaluate("[...document.querySelectorAll('.fastai-clean .card .own')].at(-1).children[2].click()")
    tab.wait_for_selector('.fastai-clean .alarm:has-text("NOT SAVED")')
    chromium.expect(tab.locator('.card.unsaved').last).to_contain_text('NOT SAVED')
    picture(book, 'killed')
    shown = tab.evaluate("[...document.querySelectorAll('.card')].map(o => o.classList.contains('is-keep'))")
    deleted = tab.evaluate("document.querySelectorAll('.card.is-delete').length")
    state = book.state()
    assert {i for i, o in enumerate(shown) if o} <= {i for i, o in state.items() if o == ('keep', None)}
    assert deleted == 0 and PAGE - 1 not in state
    accept = tab.locator('.jp-Dialog .jp-mod-accept')
    accept.wait_for(timeout=20_000)
    accept.click()
    book.run()
    tab.wait_for_function(f"document.querySelectorAll('.card.is-keep').length == {len(state)}")
    assert book.outside() == []


def test_alarm_of_a_dead_kernel_stays_in_view_at_the_end_of_a_long_page(book):
    book.run()
    cards, tab = book.cards(), book.tab
    cards.nth(0).locator('.facts').click()
    tab.set_viewport_size(dict(width=700, height=600))
    book.kill()
    tab.keyboard.press('k')
    tab.wait_for_selector('.fastai-clean .alarm:has-text("NOT SAVED")')
    tab.locator('.jp-Dialog .jp-mod-accept').click(timeout=20_000)
    seen = """() => {
        const box = document.querySelector('.fastai-clean .alarm').getBoundingClientRect(), x = (box.left + box.right)/2
        return [box.top + 2, box.bottom - 2].every(y => document.elementFromPoint(x, y)?.matches('.alarm')) }"""
    for scrolling in ('disable', 'enable'):
        tab.evaluate(f"jupyterapp.commands.execute('notebook:{scrolling}-output-scrolling')")
        cards.last.evaluate("o => o.scrollIntoView({ block: 'end' })")
        chromium.expect(cards.last).to_be_in_viewport()
        chromium.expect(cards.first).not_to_be_in_viewport()
        tab.wait_for_function(seen)
        picture(book, f'alarm-{scrolling}')


def test_decision_of_another_process_appears_by_itself(book):
    book.run()
    session = ReviewSession(table(), book.folder/'journal.jsonl', vocab=VOCAB, user='bob')
    session.relabel(session.issues.id[2], VOCAB[1])
    box = book.tab.locator('.card.is-relabel')
    box.wait_for(timeout=15_000)
    assert box.locator('.state').inner_text() == f'relabelled {BAD} by bob'


def test_screen_readers_find_their_way(book):
    book.run()
    tab = book.tab
    assert tab.get_by_role('region', name='Review of labels').count() == 1
    assert tab.get_by_role('list', name='Items').get_by_role('listitem').count() == PAGE
    assert tab.locator('.fastai-clean').get_by_role('listitem').first.get_attribute('aria-label') == (
        f'Item 1 of {PAGE}: 0 {BAD}, given ant, predicted {BAD}, confidence 0.900, not decided')
    unnamed = ("[...document.querySelectorAll('.fastai-clean :is(button, input, select, img)')].filter("
               "o => !(o.ariaLabel || o.textContent.trim() || o.alt || o.labels?.length)).length")
    assert tab.evaluate(unnamed) == 0
    stops = "[...document.querySelectorAll('.fastai-clean .grid *')].filter(o => o.tabIndex >= 0).length"
    assert tab.evaluate(stops) == 1
    assert tab.locator('.shown.missing').inner_text() == f'cannot be shown: {BAD}'
    assert tab.locator('.shown.text').inner_text() == BAD


@pytest.mark.slow
@pytest.mark.parametrize('ms', [5, 40, 150])
@pytest.mark.parametrize('lab', [((), dict(page_size=25))], indirect=True)
def test_of_200_fast_clicks_none_is_lost_doubled_or_out_of_order(lab, ms):
    lab.run()
    began = time.monotonic()
    want = click_fast(lab.tab, 200, 25, ms, "[...document.querySelectorAll('.fastai-clean button')].find(o => "
                                            "o.textContent.startsWith('Next')).click()")
    chromium.expect(lab.tab.locator('.fastai-clean nav')).to_contain_text('Page 2 of 2')
    wait_until(lambda: len(lab.records()) >= 200)
    got = lab.decided()
    print(f'JupyterLab, a click every {ms} ms: {len(got)} of 200 saved, in order: {got == want}, '
          f'{time.monotonic() - began:.1f} s')
    assert got == want


def test_50_times_k_is_one_record_per_item_and_the_end_says_so(lab):
    "The last card of a page swallowed every further key: 50 records on 24 items"
    lab.run()
    lab.cards().nth(0).locator('.facts').click()
    for _ in range(50): lab.tab.keyboard.press('k')
    wait_until(lambda: len(lab.records()) >= N)
    chromium.expect(lab.tab.locator('.status')).to_contain_text('end of the list')
    assert lab.decided() == [(i, 'keep') for i in range(N)]
    chromium.expect(lab.tab.locator('.fastai-clean nav')).to_contain_text('Page 7 of 7')


def test_refused_write_is_kept_marked_and_offered_again(lab):
    "A refused write marked no card, and the next action that succeeded cleared the banner"
    lab.run()
    cards, journal = lab.cards(), lab.folder/'journal.jsonl'
    for i, size in enumerate((journal.stat().st_size, resource.RLIM_INFINITY)):
        resource.prlimit(lab.pid(), resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        cards.nth(i).get_by_role('button', name='keep', exact=True).click()
        if i == 0: chromium.expect(cards.nth(0)).to_contain_text('NOT SAVED (kept): OSError')
    chromium.expect(cards.nth(1)).to_have_class(re.compile('is-keep'))
    chromium.expect(lab.tab.locator('.card.unsaved')).to_have_count(1)
    alarm = lab.tab.locator('.fastai-clean .alarm')
    chromium.expect(alarm).to_contain_text('NOT SAVED: 1 item: OSError')
    alarm.get_by_role('button', name='Try again').click()
    chromium.expect(cards.nth(0)).to_have_class(re.compile('is-keep'))
    chromium.expect(alarm).to_be_hidden()
    assert lab.decided() == [(1, 'keep'), (0, 'keep')]


@pytest.mark.parametrize('lab', [(('cleaner',), {})], indirect=True)
def test_two_outputs_of_one_cleaner_have_pages_of_their_own(lab):
    "Turning one view's page made the other show saved decisions as undecided"
    lab.tab.set_viewport_size(dict(width=1400, height=3000))
    lab.run()
    first, second = lab.cards(), lab.cards(1)
    for i in range(3): first.nth(i).get_by_role('button', name='keep', exact=True).click()
    kept = lab.tab.locator('.fastai-clean').nth(0).locator('.card.is-keep')
    chromium.expect(kept).to_have_count(3)
    chromium.expect(lab.tab.locator('.fastai-clean').nth(1).locator('.card.is-keep')).to_have_count(3, timeout=15_000)
    lab.tab.locator('.fastai-clean').nth(1).get_by_role('button', name='Next').click()
    chromium.expect(second.nth(0)).to_have_attribute('aria-label', re.compile('6 <img'))
    first.nth(4).get_by_role('button', name='delete', exact=True).click()
    chromium.expect(first.nth(4)).to_have_class(re.compile('is-delete'))
    lab.tab.wait_for_timeout(5000)
    chromium.expect(kept).to_have_count(3)
    chromium.expect(first.nth(0)).to_have_attribute('aria-label', re.compile('Item 1 of 6: 0 <img'))
    chromium.expect(second.nth(0)).to_have_attribute('aria-label', re.compile('6 <img.*not decided'))
