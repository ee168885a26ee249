"The browser app in a real browser: Debian's chromium and PyPI's playwright"
import json
import os
import signal
import subprocess
import sys
import time
from urllib.request import urlopen

import chromium
import pandas as pd
import pytest
from fastai.data.block import DataBlock
from fastai.data.transforms import ColReader, ColSplitter
from fastai.text.data import CategoryBlock, TextBlock
from fastai.text.learner import text_classifier_learner
from fastai.text.models.awdlstm import AWD_LSTM, awd_lstm_clas_config
from PIL import Image

from fastai_clean.app import read_issues
from fastai_clean.review import ReviewSession

pytestmark, browser = chromium.needed, chromium.browser
NAMES = 'INFORMATIVE', 'UNINFORMATIVE'
START = 'import sys; from fastai_clean.app import main; sys.exit(main())'
HOSTILE = ['![x](http://127.0.0.1:9/x.png)', '<img src=http://127.0.0.1:9/y.png onerror=alert(1)>',
           ':red[x] :smile: $x^2$', '<script>alert(1)</script>', '[b](http://127.0.0.1:9) **d** `c` -> <- --',
           ':material/home: :streamlit: a_b_c', '# head & &amp; \\ http://example.com', '"\' onmouseover=alert(1) x="']


def write_tweets(path, n=40):
    "A file in the layout of the seed's noisy_text.csv"
    rows = [(i, 1240000000000000000 + i, f'Tweet {i}: #covid &amp; more', NAMES[i % 2], 'covid', NAMES[1 - i % 2],
             round(.99 - i/100, 4)) for i in range(n)]
    pd.DataFrame(rows).to_csv(path, header=False, index=False)
    return [str(o[1]) for o in rows]


class App:
    "A running app, a tab that shows it, and what the tab said and asked of others"
    def __init__(self, browser, folder, args, journal=None, user='ann'):
        self.journal, self.said = journal or folder/'decisions.jsonl', []
        port = chromium.free_port()
        self.url, self.log = f'http://127.0.0.1:{port}', open(folder/'log.txt', 'w')
        self.process = subprocess.Popen([sys.executable, '-c', START, *map(str, args), '--journal', str(self.journal),
                                         '--port', str(port), '--user', user], stdout=self.log, start_new_session=True,
                                        stderr=subprocess.STDOUT, env={**os.environ, 'HOME': str(folder)}, cwd=folder)
        self.tab = browser.new_page(viewport=dict(width=1280, height=1400))
        self.tab.set_default_timeout(20_000)
        self.tab.on('dialog', lambda o: (self.said.append(f'dialog {o.message}'), o.dismiss()))
        for o in ('request', 'websocket'): self.tab.on(o, self.asked)

    def open(self, path=''):
        end = time.monotonic() + 60
        while time.monotonic() < end and self.process.poll() is None:
            try:
                if urlopen(f'{self.url}/_stcore/health', timeout=5).read() == b'ok': break
            except OSError: time.sleep(.1)
        self.tab.goto(self.url + path)
        return self.tab

    def asked(self, request):
        "Anything but this app and what is in the page itself"
        own = request.url.startswith(('data:', 'blob:')) or request.url.split('://')[1].startswith(self.url[7:] + '/')
        if not own: self.said.append(f'request {request.url}')

    def button(self, key): return self.tab.locator(f'.st-key-{key} button').first
    def records(self): return [json.loads(o) for o in self.journal.read_text().splitlines() if '"do"' in o]
    def kill(self): os.killpg(self.process.pid, signal.SIGKILL)

    def close(self):
        self.tab.close()
        self.process.terminate()
        try: self.process.wait(20)
        except subprocess.TimeoutExpired: self.kill()
        self.log.close()


@pytest.fixture
def start(browser, tmp_path):
    "Starts the app on a CSV"
    apps = []

    def start_it(*args, **kwargs):
        apps.append(App(browser, tmp_path, args, **kwargs))
        return apps[-1]
    yield start_it
    for o in apps: o.close()


def journal_of(folder, app): return read_issues(folder/'noisy_text.csv'), app.journal


def click_twice(tab, ids, ms, then=''):
    "Two decisions on each card, one every `ms`, then the JavaScript `then`; ids and decisions in their order"
    want = [(o, do) for i, o in enumerate(ids) for do in (('keep', 'delete'), ('delete', 'keep'))[i % 2]]
    tab.evaluate(f"""async keys => {{ for (const o of keys) {{ document.querySelector(`${{o}} button`).click();
        await new Promise(done => setTimeout(done, {ms})) }} {then} }}""", [f'.st-key-{do}-{o}' for o, do in want])
    return want


def wait_until(true, seconds=15):
    "Wait for what Python alone can see"
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end: time.sleep(.05)
    assert true()


def test_fast_clicks_are_all_saved_shown_and_still_there_after_a_reload(start, tmp_path):
    ids = write_tweets(tmp_path/'noisy_text.csv')
    app = start(tmp_path/'noisy_text.csv')
    tab = app.open()
    for page in range(3):
        tab.get_by_text(f'Page {page + 1} of 4').wait_for()
        mine = ids[12*page:12*page + 12]
        app.button(f'keep-{mine[-1]}').wait_for()
        for i, o in enumerate(mine): app.button(f'{("keep", "delete", "unsure")[i % 3]}-{o}').click()
        chromium.expect(tab.get_by_text('Saved · ann')).to_have_count(12)
        if page < 2: tab.get_by_role('button', name='Next').click()
    assert sorted((o['ids'][0], o['do']) for o in app.records()) == [*zip(ids[:36], ['keep', 'delete', 'unsure']*12)]
    tab.get_by_text('36 of 40 issues reviewed').wait_for()
    tab.screenshot(path=tmp_path/'reviewed.png')
    tab.reload()
    tab.get_by_text('Page 3 of 4').wait_for()
    chromium.expect(tab.get_by_text('Saved · ann')).to_have_count(12)
    assert len(app.records()) == 36 and app.said == []


def test_batch_is_one_action_and_undo_takes_it_back(start, tmp_path):
    ids = write_tweets(tmp_path/'noisy_text.csv')
    app = start(tmp_path/'noisy_text.csv')
    tab = app.open()
    for o in ids[:3]: tab.locator(f'.st-key-select-{o} label').click()
    app.button('label-0-batch').click()
    chromium.expect(tab.get_by_text('Relabelled: INFORMATIVE')).to_have_count(3)
    chromium.expect(tab.locator('[class*=st-key-select-] input:checked')).to_have_count(0)
    app.button(f'delete-{ids[5]}').click()
    chromium.expect(tab.get_by_text('Saved · ann')).to_have_count(4)
    for left in (3, 0):
        tab.get_by_role('button', name='Undo').click()
        chromium.expect(tab.get_by_text('Saved · ann')).to_have_count(left)
    tab.get_by_role('button', name='Redo').click()
    chromium.expect(tab.get_by_text('Saved · ann')).to_have_count(3)
    assert ReviewSession(*journal_of(tmp_path, app)).state.keys() == {*ids[:3]}


def test_keys_decide_on_the_one_card_of_a_page_but_not_while_typing(start, tmp_path):
    ids = write_tweets(tmp_path/'noisy_text.csv')
    app = start(tmp_path/'noisy_text.csv')
    tab = app.open('/?size=1')
    for i, (key, done) in enumerate({'2': 'Relabelled: UNINFORMATIVE', 'k': 'Kept as given', 'd': 'Deleted',
                                     'n': 'Unsure', 'a': 'Relabelled: UNINFORMATIVE'}.items()):
        tab.get_by_text(f'Page {i + 1} of 40').wait_for()
        app.button(f'keep-{ids[i]}').wait_for()
        tab.get_by_text('Undecided').wait_for()
        tab.locator('[data-test-script-state=notRunning]').wait_for()
        tab.keyboard.press(key)
        tab.get_by_text(f'{done} Saved · ann').wait_for()
        tab.keyboard.press('ArrowRight')
    tab.get_by_text('Page 6 of 40').wait_for()
    app.button(f'keep-{ids[5]}').wait_for()
    tab.keyboard.press('u')
    wait_until(lambda: len(app.records()) == 6)
    tab.get_by_role('button', name='Note').click()
    tab.get_by_role('textbox', name='Note').press_sequentially('dunk 12')
    tab.get_by_role('button', name='Save note').click()
    wait_until(lambda: len(app.records()) == 7)
    assert [o['do'] for o in app.records()] == ['relabel', 'keep', 'delete', 'unsure', 'relabel', 'undo', 'note']
    assert app.records()[-1]['text'] == 'dunk 12' and app.records()[-1]['ids'] == [ids[5]]


def test_fast_clicks_are_journaled_in_their_order_and_none_is_lost_to_a_turned_page(start, tmp_path):
    ids = write_tweets(tmp_path/'noisy_text.csv')
    app = start(tmp_path/'noisy_text.csv')
    tab = app.open()
    app.button(f'keep-{ids[11]}').wait_for()
    tab.locator('[data-test-script-state=notRunning]').wait_for()
    want = click_twice(tab, ids[:12], 40, "[...document.querySelectorAll('button')].find("
                                          "o => o.innerText.startsWith('Next')).click()")
    tab.get_by_text('Page 2 of 4').wait_for()
    wait_until(lambda: len(app.records()) == len(want))
    assert [(o['ids'][0], o['do']) for o in app.records()] == want


def test_clicks_that_the_timer_sends_too_are_journaled_once(start, tmp_path):
    ids = write_tweets(tmp_path/'noisy_text.csv')
    app = start(tmp_path/'noisy_text.csv')
    app.tab.add_init_script("""const [timeout, interval] = [setTimeout, setInterval];
        window.setTimeout = (f, t, ...a) => timeout(f, t || 90, ...a);
        window.setInterval = (f, t, ...a) => interval(f, Math.min(t, 131), ...a)""")
    tab = app.open()
    app.button(f'keep-{ids[11]}').wait_for()
    want = click_twice(tab, ids[:12], 100)
    chromium.expect(tab.get_by_text('Saved · ann')).to_have_count(12)
    wait_until(lambda: app.records()[-1]['do'] == want[-1][1])
    assert [(o['ids'][0], o['do']) for o in app.records()] == want
    for n in range(25, 31):
        tab.get_by_role('button', name='Undo').click()
        wait_until(lambda n=n: len(app.records()) >= n)
        tab.wait_for_timeout(400)
        assert [o['do'] for o in app.records()[24:]] == ['undo']*(n - 24)


def test_classes_that_are_listed_are_listed_after_a_reload(start, tmp_path):
    write_tweets(tmp_path/'noisy_text.csv')
    app = start(tmp_path/'noisy_text.csv')
    tab = app.open('/?given=1&predicted=7')
    for _ in range(2):
        tab.get_by_text('Page 1 of 2 · 20 items').wait_for()
        assert tab.evaluate('location.search').count('given=1') == 1 and 'predicted' not in tab.url
        tab.reload()


def test_decisions_of_another_writer_appear_and_clicks_meanwhile_are_kept(start, tmp_path):
    ids = write_tweets(tmp_path/'noisy_text.csv')
    app = start(tmp_path/'noisy_text.csv')
    tab = app.open()
    app.button(f'keep-{ids[11]}').wait_for()
    other = ReviewSession(*journal_of(tmp_path, app), user='bob')
    for i in range(6):
        other.keep(ids[i])
        app.button(f'delete-{ids[6 + i]}').click()
        tab.wait_for_timeout(400)
    chromium.expect(tab.get_by_text('Saved · bob')).to_have_count(6)
    chromium.expect(tab.get_by_text('Saved · ann')).to_have_count(6)
    other.refresh()
    assert {i: o['user'] for i, o in other.state.items()} == {**dict.fromkeys(ids[:6], 'bob'),
                                                              **dict.fromkeys(ids[6:12], 'ann')}


def test_server_killed_amid_clicks_has_saved_all_that_was_shown_as_saved(start, tmp_path):
    ids = write_tweets(tmp_path/'noisy_text.csv')
    app = start(tmp_path/'noisy_text.csv')
    tab = app.open()
    app.button(f'keep-{ids[11]}').wait_for()
    for o in ids[:4]: app.button(f'keep-{o}').click()
    tab.get_by_text('Saved · ann').first.wait_for()
    for o in ids[4:8]: app.button(f'keep-{o}').click(no_wait_after=True)
    app.kill()
    app.process.wait()
    tab.wait_for_timeout(1000)
    cards = {o: tab.locator(f'.st-key-select-{o}').evaluate(
        "o => { while (!o.innerText.includes('Given:')) o = o.parentElement; return o.innerText }") for o in ids[:12]}
    shown = {o for o, text in cards.items() if 'Saved' in text}
    assert shown and shown <= ReviewSession(*journal_of(tmp_path, app)).state.keys() <= {*ids[:8]}
    tab.screenshot(path=tmp_path/'killed.png')


def test_hostile_texts_are_shown_as_they_are_and_call_nobody(start, tmp_path):
    n = len(HOSTILE)
    pd.DataFrame({'item': HOSTILE, 'given': HOSTILE, 'predicted': HOSTILE[1:] + HOSTILE[:1], 'confidence': .5,
                  'label_quality': [i/10 for i in range(n)], 'is_issue': True, 'text': HOSTILE, 'set': HOSTILE}
                 ).to_csv(tmp_path/'issues.csv', index=False)
    app = start(tmp_path/'issues.csv', '--images', tmp_path)
    tab = app.open()
    chromium.expect(tab.get_by_text('Undecided')).to_have_count(n)
    chromium.expect(tab.get_by_text('No image:')).to_have_count(n)
    chromium.expect(tab.get_by_text('Given: ')).to_have_count(n)
    texts = tab.locator('[data-testid=stText]').all_inner_texts()
    for o in HOSTILE: assert texts.count(o) == 1 and f'Given: {o}' in texts
    buttons = tab.locator('[class*=st-key-label-] button p')
    chromium.expect(buttons).to_have_count(n*n)
    labels = [o.replace('\u2060', '') for o in buttons.all_inner_texts()]
    assert {o: labels.count(o) for o in HOSTILE} == dict.fromkeys(HOSTILE, n)
    ticks = tab.locator('[class*=st-key-select-] label p')
    chromium.expect(ticks).to_have_count(n)
    names = [o.replace('\u2060', '') for o in ticks.all_inner_texts()]
    assert sorted(names) == sorted(HOSTILE)
    for name in ('set', 'given', 'predicted'):
        tab.locator(f'.st-key-{name} input').click()
        wait_until(lambda: {*HOSTILE} <= {*tab.get_by_role('option').all_inner_texts()})
        tab.keyboard.press('Escape')
    tab.locator('[class*=st-key-label-] button').last.click()
    tab.get_by_text('Relabelled: ').wait_for()
    tab.get_by_text('By class and by reviewer').click()
    tab.get_by_test_id('stDataFrame').wait_for()
    cells = tab.get_by_test_id('stDataFrame').locator('[role=gridcell]')
    wait_until(lambda: {*HOSTILE} <= {*cells.all_text_contents()})
    tab.screenshot(path=tmp_path/'hostile.png', full_page=True)
    drawn = tab.locator(':is([data-testid=stMain], [data-testid=stDataFrame]) :is(img, a, svg.katex)')
    assert app.said == [] and drawn.count() == 0


def test_images_are_shown_and_a_missing_one_gives_its_reason(start, tmp_path):
    rows = []
    for i in range(6):
        (tmp_path/'images').mkdir(exist_ok=True)
        Image.new('RGB', (300 + 100*i, 300), (40*i, 90, 200)).save(tmp_path/f'images/{i}.jpg')
        rows.append((f'{i}.jpg', 'cat', 'dog', .9))
    rows += [('gone.jpg', 'cat', 'dog', .8), ('../issues.csv', 'dog', 'cat', .7)]
    df = pd.DataFrame(rows, columns=['path', 'label', 'predictions', 'confidence'])
    df.to_csv(tmp_path/'issues.csv', index=False)
    app = start(tmp_path/'issues.csv', '--images', tmp_path/'images')
    tab = app.open()
    chromium.expect(tab.locator('[data-testid=stMain] img')).to_have_count(6)
    wait_until(lambda: tab.evaluate("[...document.querySelectorAll('[data-testid=stMain] img')].every(o => "
                                    "o.naturalWidth >= 300)"))
    tab.get_by_text('No image: there is no such file').wait_for()
    tab.get_by_text('No image: it is not in the folder').wait_for()
    tab.screenshot(path=tmp_path/'images.png', full_page=True)
    assert app.said == []


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
    "A Learner that tells deaths from music, exported"
    words = {'INFORMATIVE': 'deaths confirmed hospital', 'UNINFORMATIVE': 'music home today'}
    df = pd.DataFrame([(f'{words[o]} {i}', o, i >= 60) for i in range(80) for o in NAMES],
                      columns=['text', 'label', 'is_valid'])
    dls = DataBlock((TextBlock.from_df('text', n_workers=1, seq_len=20), CategoryBlock), get_x=ColReader('text'),
                    get_y=ColReader('label'), splitter=ColSplitter()).dataloaders(df, bs=16, num_workers=0)
    learn = text_classifier_learner(dls, AWD_LSTM, pretrained=False, config={**awd_lstm_clas_config, 'n_hid': 16,
                                                                             'emb_sz': 16, 'n_layers': 1})
    with learn.no_bar(), learn.no_logging(): learn.fit(3, 3e-2)
    path = tmp_path_factory.mktemp('model')/'export.pkl'
    learn.export(path)
    return path


def test_tweet_is_predicted_once_the_person_trusts_the_file(start, tmp_path, exported):
    write_tweets(tmp_path/'noisy_text.csv')
    app = start(tmp_path/'noisy_text.csv', '--model', exported)
    tab = app.open('/predict')
    tab.get_by_text('it is a pickle').wait_for()
    assert tab.get_by_role('textbox').count() == 0
    tab.get_by_role('button', name='I trust this file').click()
    tab.get_by_role('textbox').fill('deaths confirmed in hospital')
    tab.get_by_role('button', name='Predict', exact=True).click()
    tab.get_by_text('Predicted: INFORMATIVE').wait_for(timeout=60_000)
    shown = [o for o in tab.locator('[data-testid=stText]').all_inner_texts() if o[0] in '01']
    assert [o.split()[1] for o in shown] == [*NAMES] and abs(sum(float(o.split()[0]) for o in shown) - 1) < .002
    tab.screenshot(path=tmp_path/'predict.png')
    assert app.said == []
