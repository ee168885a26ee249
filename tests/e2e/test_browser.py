"The browser app in a real browser: Debian's chromium and PyPI's playwright"
import fcntl
import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import chromium
import numpy as np
import pandas as pd
import pytest
from chromium import click_fast, expect, records, wait_until
from fastai.data.block import DataBlock
from fastai.data.transforms import ColReader, ColSplitter
from fastai.text.data import CategoryBlock, TextBlock
from fastai.text.learner import text_classifier_learner
from fastai.text.models.awdlstm import AWD_LSTM, awd_lstm_clas_config
from PIL import Image

from fastai_clean.review import ReviewSession, read_issues

pytestmark, browser = chromium.needed, chromium.browser
NAMES = 'INFORMATIVE', 'UNINFORMATIVE'
START = 'import sys; from fastai_clean.app import main; sys.exit(main())'
HOSTILE = ['![x](http://127.0.0.1:9/x.png)', '<img src=http://127.0.0.1:9/y.png onerror=alert(1)>',
           ':red[x] :smile: $x^2$', '<script>alert(1)</script>', '[b](http://127.0.0.1:9) **d** `c` -> <- --',
           ':material/home: :streamlit: a_b_c', '# head & &amp; \\ http://example.com', '"\' onmouseover=alert(1) x="']
SAVED = '.card:is(.is-keep, .is-delete, .is-unsure, .is-relabel)'


def write_tweets(path, n=40):
    "A file in the layout of the seed's noisy_text.csv"
    rows = [(i, 1240000000000000000 + i, f'Tweet {i}: #covid &amp; more', NAMES[i % 2], 'covid', NAMES[1 - i % 2],
             round(.99 - i/1000, 4)) for i in range(n)]
    pd.DataFrame(rows).to_csv(path, header=False, index=False)
    return [str(o[1]) for o in rows]


class App:
    "A running app, a tab that shows it, and what the tab said and asked of others"
    def __init__(self, browser, folder, args, journal=None, user='ann'):
        self.journal, self.said, self.browser = journal or folder/'decisions.jsonl', [], browser
        self.log = folder/'log.txt'
        args = [*map(str, args), '--journal', str(self.journal), '--user', user, '--no-browser']
        with self.log.open('w') as log:
            self.process = subprocess.Popen([sys.executable, '-c', START, *args], stdout=log, stderr=log,
                                            env={**os.environ, 'HOME': str(folder)}, cwd=folder)
        wait_until(lambda: '/\n' in self.log.read_text() or self.process.poll() is not None)
        self.url = re.search('http://127.0.0.1:[0-9]+/[^/]+/', self.log.read_text()).group()
        self.tab = self.new_tab()

    def new_tab(self):
        tab = self.browser.new_page(viewport=dict(width=1280, height=1400))
        tab.set_default_timeout(20_000)
        tab.on('dialog', self.dialog)
        for o in ('request', 'websocket'): tab.on(o, self.asked)
        # What the Content-Security-Policy refuses, and what a script raises
        tab.on('console', lambda o: self.said.append(o.text) if o.type == 'error' else None)
        tab.on('pageerror', lambda o: self.said.append(str(o)))
        return tab

    def open(self, path='', tab=None):
        tab = tab or self.tab
        tab.goto(self.url + path)
        if not path: tab.locator('.card').first.wait_for()
        return tab

    def dialog(self, dialog):
        self.said.append(f'dialog {dialog.type} {dialog.message}')
        dialog.dismiss()

    def asked(self, request):
        "Anything but this app and what is in the page itself"
        if not request.url.startswith(('data:', 'blob:', self.url)): self.said.append(f'request {request.url}')

    def card(self, i): return self.tab.locator('.card').nth(i)
    def click(self, name, i): self.card(i).get_by_role('button', name=name, exact=True).click()
    def records(self): return records(self.journal)
    def decided(self): return [(o['ids'][0], o['do']) for o in self.records()]
    def session(self, folder, user='dan'): return ReviewSession(issues_in(folder), self.journal, user=user)

    def close(self):
        self.tab.close()
        self.process.terminate()
        try: self.process.wait(20)
        except subprocess.TimeoutExpired: self.process.kill()


@pytest.fixture
def start(browser, tmp_path):
    "Starts the app on a CSV"
    apps = []

    def start_it(*args, **kwargs):
        apps.append(App(browser, tmp_path, args, **kwargs))
        return apps[-1]
    yield start_it
    for o in apps: o.close()


@pytest.fixture
def tweets(start, tmp_path):
    "The app on 40 tweets, and their ids"
    ids = write_tweets(tmp_path/'noisy_text.csv')
    return start(tmp_path/'noisy_text.csv', '--page-size', 12), ids


def issues_in(folder): return read_issues(folder/'noisy_text.csv')
def page_is(tab, text): expect(tab.locator('.fastai-clean nav')).to_contain_text(text)


def test_fast_clicks_are_all_saved_shown_and_still_there_after_a_reload(tweets, tmp_path):
    app, ids = tweets
    tab = app.open()
    for page in range(3):
        page_is(tab, f'Page {page + 1} of 4')
        for i in range(12): app.click(('keep', 'delete', 'unsure')[i % 3], i)
        expect(tab.locator(SAVED)).to_have_count(12)
        if page < 2: tab.get_by_role('button', name='Next').click()
    assert app.decided() == [*zip(ids[:36], ['keep', 'delete', 'unsure']*12)]
    expect(tab.locator('.count').first).to_have_text('36 reviewed, 40 flagged')
    tab.screenshot(path=tmp_path/'reviewed.png')
    tab.reload()
    page_is(tab, 'Page 3 of 4')
    expect(tab.locator(SAVED)).to_have_count(12)
    assert len(app.records()) == 36 and app.said == []


def test_keys_work_as_the_page_opens(tweets):
    app, ids = tweets
    app.open().keyboard.press('k')
    wait_until(lambda: app.decided() == [(ids[0], 'keep')])


@pytest.mark.slow
@pytest.mark.parametrize('ms', [5, 40, 150])
def test_of_200_fast_clicks_none_is_lost_doubled_or_out_of_order(start, tmp_path, ms):
    ids = write_tweets(tmp_path/'noisy_text.csv', 90)
    app = start(tmp_path/'noisy_text.csv', '--page-size', 60)
    tab = app.open()
    began = time.monotonic()
    want = click_fast(tab, 200, 60, ms, "[...document.querySelectorAll('button')].find(o => o.textContent.startsWith("
                                        "'Next')).click()")
    page_is(tab, 'Page 2 of 2')
    wait_until(lambda: len(app.records()) >= 200)
    expect(tab.locator('.way')).to_have_text('')
    got = app.decided()
    print(f'app, a click every {ms} ms: {len(got)} of 200 saved, in order: {got == [(ids[i], do) for i, do in want]}, '
          f'{time.monotonic() - began:.1f} s')
    assert got == [(ids[i], do) for i, do in want]
    tab.get_by_role('button', name='Previous').click()
    expect(tab.locator(SAVED)).to_have_count(60)


@pytest.mark.parametrize('ms', [40, 150, 300])
def test_decision_followed_by_the_arrow_is_not_lost(start, tmp_path, ms):
    "In Streamlit, 17 of 30 were kept at 300 ms"
    ids = write_tweets(tmp_path/'noisy_text.csv', 31)
    app = start(tmp_path/'noisy_text.csv', '--page-size', 1)
    tab = app.open()
    for i in range(30):
        page_is(tab, f'Page {i + 1} of 31')
        tab.evaluate("document.querySelectorAll('.card .own button')[1].click()")
        tab.wait_for_timeout(ms)
        tab.locator('.card').focus()
        tab.keyboard.press('ArrowRight')
    page_is(tab, 'Page 31 of 31')
    wait_until(lambda: len(app.records()) >= 30)
    assert app.decided() == [(o, 'keep') for o in ids[:30]]


@pytest.mark.parametrize('ms', [0, 40])
def test_50_times_k_is_one_record_per_item_and_the_end_says_so(tweets, ms):
    "The last card of a page swallowed every further key: 50 records on 24 items"
    app, ids = tweets
    tab = app.open()
    app.card(0).focus()
    for _ in range(50): tab.keyboard.press('k', delay=ms)
    wait_until(lambda: len(app.records()) >= 40)
    expect(tab.locator('.status')).to_contain_text('end of the list')
    assert app.decided() == [(o, 'keep') for o in ids]
    page_is(tab, 'Page 4 of 4')
    for key in ('ArrowLeft', 'ArrowRight', 'd'): tab.keyboard.press(key)
    wait_until(lambda: len(app.records()) == 41)
    assert app.decided()[-1] == (ids[-1], 'delete')


def test_batch_is_one_action_and_undo_takes_it_back(tweets, tmp_path):
    app, ids = tweets
    tab = app.open()
    for i in range(3): app.card(i).get_by_role('checkbox').check()
    tab.get_by_label('Relabel as', exact=True).select_option(index=0)
    tab.get_by_role('button', name='Relabel', exact=True).click()
    expect(tab.get_by_text('relabelled INFORMATIVE')).to_have_count(3)
    expect(tab.locator('.card input:checked')).to_have_count(0)
    app.click('delete', 5)
    expect(tab.locator(SAVED)).to_have_count(4)
    for left in (3, 0):
        tab.get_by_role('button', name='Undo').click()
        expect(tab.locator(SAVED)).to_have_count(left)
    tab.get_by_role('button', name='Redo').click()
    expect(tab.locator(SAVED)).to_have_count(3)
    assert app.session(tmp_path).state.keys() == {*ids[:3]}
    assert [o['do'] for o in app.records()] == ['relabel', 'delete', 'undo', 'undo', 'redo']


def test_keys_decide_turn_pages_and_write_while_typing(start, tmp_path):
    ids = write_tweets(tmp_path/'noisy_text.csv')
    app = start(tmp_path/'noisy_text.csv', '--page-size', 1)
    tab = app.open()
    app.card(0).focus()
    for i, (key, name) in enumerate({'2': 'is-relabel', 'k': 'is-keep', 'd': 'is-delete', 'm': 'is-unsure',
                                     'a': 'is-relabel'}.items()):
        page_is(tab, f'Page {i + 1} of 40')
        tab.keyboard.press(key)
        page_is(tab, f'Page {i + 2} of 40')
        for back in ('PageUp', 'PageDown'):
            tab.keyboard.press(back)
            if back == 'PageUp': tab.locator(f'.card.{name}').wait_for()
    page_is(tab, 'Page 6 of 40')
    tab.keyboard.press('u')
    wait_until(lambda: len(app.records()) == 6)
    tab.keyboard.press('n')
    tab.keyboard.type('dunk 12')
    tab.keyboard.press('Enter')
    wait_until(lambda: len(app.records()) == 7)
    tab.keyboard.press('r')
    tab.keyboard.press('l')
    tab.get_by_label('Relabel as', exact=True).select_option(index=1)
    tab.keyboard.press('Enter')
    page_is(tab, 'Page 7 of 40')
    tab.keyboard.press('?')
    expect(tab.locator('.help')).to_be_visible()
    wait_until(lambda: len(app.records()) == 8)
    assert [o['do'] for o in app.records()] == ['relabel', 'keep', 'delete', 'unsure', 'relabel', 'undo', 'note',
                                                'relabel']
    note = app.records()[6]
    assert note['text'] == 'dunk 12' and note['ids'] == [ids[5]] and app.records()[-1]['ids'] == [ids[5]]


def refuse_writes(app, yes):
    "Have the system refuse what makes the journal longer, or not"
    size = app.journal.stat().st_size if yes else resource.RLIM_INFINITY
    resource.prlimit(app.process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def test_refused_write_is_kept_marked_and_offered_again(tweets, tmp_path):
    "A refused write marked no card, and the next action that succeeded cleared the banner"
    app, ids = tweets
    tab = app.open()
    refuse_writes(app, True)
    app.click('keep', 0)
    app.click('delete', 1)
    unsaved, alarm = tab.locator('.card.unsaved'), tab.locator('.alarm')
    expect(unsaved).to_have_count(2)
    expect(app.card(0)).to_contain_text('NOT SAVED (kept): OSError')
    expect(alarm).to_contain_text('NOT SAVED: 2 items: OSError')
    expect(tab.locator(SAVED)).to_have_count(0)
    tab.screenshot(path=tmp_path/'refused.png')
    alarm.get_by_role('button', name='Try again').click()
    expect(tab.locator('.way')).to_have_text('')
    expect(unsaved).to_have_count(2)
    refuse_writes(app, False)
    app.click('unsure', 2)
    app.click('unsure', 1)
    expect(app.card(1)).to_have_class(re.compile('is-unsure'))
    expect(unsaved).to_have_count(1)
    expect(alarm).to_contain_text('NOT SAVED: 1 item: OSError')
    alarm.get_by_role('button', name='Try again').click()
    expect(app.card(0)).to_have_class(re.compile('is-keep'))
    expect(unsaved).to_have_count(0)
    expect(alarm).to_be_hidden()
    assert app.decided() == [(ids[2], 'unsure'), (ids[1], 'unsure'), (ids[0], 'keep')] and app.said == []


def test_undo_after_a_refused_write_forgets_it_and_leaves_the_saved_one(tweets):
    app, ids = tweets
    tab = app.open()
    app.card(0).focus()
    tab.keyboard.press('k')
    expect(tab.locator(SAVED)).to_have_count(1)
    refuse_writes(app, True)
    tab.keyboard.press('d')
    expect(tab.locator('.card.unsaved')).to_have_count(1)
    tab.keyboard.press('u')
    expect(tab.locator('.card.unsaved')).to_have_count(0)
    expect(tab.locator('.alarm')).to_be_hidden()
    expect(tab.locator('.status')).to_have_text('undone: 1 item')
    refuse_writes(app, False)
    tab.keyboard.press('m')
    wait_until(lambda: len(app.records()) == 2)
    assert app.decided() == [(ids[0], 'keep'), (ids[2], 'unsure')]


def test_while_the_journal_lags_pages_turn_and_leaving_warns(tweets):
    app, ids = tweets
    tab = app.open()
    tab.locator('.card .shown.text').nth(11).wait_for()
    with app.journal.open('r+') as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        for i in range(5): app.click('keep', i)
        expect(tab.locator('.way')).to_have_text('5 on their way')
        expect(tab.locator('.card.waiting')).to_have_count(5)
        tab.get_by_role('button', name='Next').click()
        page_is(tab, 'Page 2 of 4')
        tab.locator('.card .shown.text').nth(11).wait_for()
        app.click('delete', 0)
        expect(tab.locator('.way')).to_have_text('6 on their way')
        tab.evaluate('setTimeout(() => location.reload())')
        wait_until(lambda: tab.wait_for_timeout(50) or app.said == ['dialog beforeunload '])
        expect(tab.locator('.alarm')).to_contain_text('NOT SAVED: 6 actions without an answer')
        assert app.records() == []
    wait_until(lambda: len(app.records()) == 6)
    expect(tab.locator('.way')).to_have_text('')
    expect(tab.locator('.alarm')).to_be_hidden()
    assert app.decided() == [*((o, 'keep') for o in ids[:5]), (ids[12], 'delete')]
    tab.get_by_role('button', name='Previous').click()
    expect(tab.locator('.card.is-keep')).to_have_count(5)


def test_two_views_have_pages_of_their_own(tweets, tmp_path):
    "Turning one view's page made the other show saved decisions as undecided"
    app, ids = tweets
    tab = app.open()
    for i in range(4): app.click('keep', i)
    expect(tab.locator('.card.is-keep')).to_have_count(4)
    other = app.open(tab=app.new_tab())
    other.get_by_role('button', name='Next').click()
    page_is(other, 'Page 2 of 4')
    other.get_by_label('Decided', exact=True).select_option(label='decided')
    page_is(other, 'Page 1 of 1')
    app.click('delete', 5)
    tab.wait_for_timeout(5000)
    page_is(tab, 'Page 1 of 4')
    expect(tab.locator('.card.is-keep')).to_have_count(4)
    expect(tab.locator('.card')).to_have_count(12)
    other.locator('.card').nth(0).get_by_role('button', name='unsure', exact=True).click()
    expect(tab.locator('.card.is-unsure')).to_have_count(1)
    expect(tab.locator('.card.is-keep')).to_have_count(3)
    expect(other.locator('.card')).to_have_count(4)


def test_weak_model_and_the_estimate_are_said_above_the_cards(start, tmp_path):
    rng = np.random.default_rng(0)
    given, predicted = rng.choice(NAMES, (2, 300))
    pd.DataFrame({'id': [f'{i}.txt' for i in range(300)], 'given': given, 'predicted': predicted, 'confidence': .9,
                  'label_quality': np.arange(300)/300, 'is_issue': given != predicted, 'text': 'a tweet'}
                 ).to_csv(tmp_path/'issues.csv', index=False)
    app = start(tmp_path/'issues.csv', '--page-size', 24)
    tab = app.open()
    expect(tab.locator('.notice')).to_contain_text('Unless items were left out of the table, the model agrees with')
    estimate = tab.get_by_text(re.compile(r'^About \d+ \(\d+ to \d+\) of 300 labels are wrong'))
    expect(estimate).to_have_count(0)
    for key in 'Ad': tab.keyboard.press(key)
    expect(estimate).to_be_visible(timeout=15_000)
    tab.screenshot(path=tmp_path/'estimate.png')
    assert len(app.records()[0]['ids']) == 24 and app.said == []


def test_filters_survive_a_reload(start, tmp_path):
    write_tweets(tmp_path/'noisy_text.csv')
    app = start(tmp_path/'noisy_text.csv', '--page-size', 12)
    tab = app.open()
    tab.get_by_label('Given', exact=True).select_option(label=NAMES[1])
    for _ in range(2):
        page_is(tab, 'Page 1 of 2, 20 items')
        assert tab.get_by_label('Given', exact=True).evaluate('o => o.selectedOptions[0].text') == NAMES[1]
        tab.reload()


def test_decisions_of_another_writer_appear_and_clicks_meanwhile_are_kept(tweets, tmp_path):
    app, ids = tweets
    tab = app.open()
    other = app.session(tmp_path, user='bob')
    for i in range(6):
        other.keep(ids[i])
        app.click('delete', 6 + i)
        tab.wait_for_timeout(100)
    expect(tab.get_by_text('kept by bob')).to_have_count(6)
    expect(tab.locator('.card.is-delete')).to_have_count(6)
    other.refresh()
    assert app.said == []
    assert {i: o['user'] for i, o in other.state.items()} == {**dict.fromkeys(ids[:6], 'bob'),
                                                              **dict.fromkeys(ids[6:12], 'ann')}


def test_server_killed_amid_clicks_has_saved_all_that_was_shown_as_saved(tweets, tmp_path):
    app, ids = tweets
    tab = app.open()
    for i in range(4): app.click('keep', i)
    tab.locator(SAVED).first.wait_for()
    tab.evaluate("""[...document.querySelectorAll('.card')].slice(4, 8).forEach(
                    o => o.querySelectorAll('.own button')[1].click())""")
    app.process.send_signal(signal.SIGKILL)
    app.process.wait()
    app.click('keep', 8)
    expect(tab.locator('.alarm')).to_contain_text('NOT SAVED')
    expect(app.card(8)).to_contain_text('NOT SAVED: no answer')
    shown = tab.evaluate("[...document.querySelectorAll('.card')].map(o => o.classList.contains('is-keep'))")
    shown = {i for i, o in zip(ids, shown) if o}
    assert shown and shown <= app.session(tmp_path).state.keys() <= {*ids[:8]}
    tab.screenshot(path=tmp_path/'killed.png')


def test_hostile_texts_are_shown_as_they_are_and_call_nobody(start, tmp_path):
    n = len(HOSTILE)
    pd.DataFrame({'id': HOSTILE, 'given': HOSTILE, 'predicted': HOSTILE[1:] + HOSTILE[:1], 'confidence': .5,
                  'label_quality': [i/10 for i in range(n)], 'is_issue': True, 'text': HOSTILE, 'set': HOSTILE}
                 ).to_csv(tmp_path/'issues.csv', index=False)
    app = start(tmp_path/'issues.csv')
    tab = app.open()
    expect(tab.locator('.card .shown.text')).to_have_count(n)
    assert tab.locator('.card .shown').all_inner_texts() == HOSTILE
    assert tab.locator('.card .about > div:first-child bdi').all_inner_texts() == [
        o for pair in zip(HOSTILE, HOSTILE[1:] + HOSTILE[:1]) for o in pair]
    assert tab.locator('.card .facts bdi:last-child').all_inner_texts() == HOSTILE
    for name in ('Set', 'Given', 'Predicted', 'Relabel as'):
        options = tab.get_by_label(name, exact=True).locator('option').all_text_contents()
        assert {*HOSTILE} <= {re.sub('^[1-9]  ', '', o) for o in options}
    app.card(n - 1).get_by_role('button').first.click()
    expect(app.card(n - 1).locator('.state')).to_have_text(f'relabelled {HOSTILE[0]}')
    tab.get_by_role('button', name='Note').click()
    tab.get_by_label('Note', exact=True).first.fill(HOSTILE[1])
    tab.keyboard.press('Enter')
    expect(app.card(n - 1).locator('.state')).to_contain_text(f'note: {HOSTILE[1]}')
    tab.get_by_role('button', name='Counts').click()
    tab.locator('.tables table').wait_for()
    assert sorted(tab.locator('.tables td bdi').all_inner_texts()) == sorted(HOSTILE)
    tab.screenshot(path=tmp_path/'hostile.png', full_page=True)
    assert app.said == [] and tab.locator('main :is(img, a, script, [onerror], [onmouseover])').count() == 0


def test_images_are_shown_and_a_missing_one_gives_its_reason(start, tmp_path):
    rows = []
    (tmp_path/'images').mkdir()
    for i in range(6):
        Image.new('RGB', (300 + 100*i, 300), (40*i, 90, 200)).save(tmp_path/f'images/{i}.jpg')
        rows.append((f'{i}.jpg', 'cat', 'dog', .9))
    rows += [('gone.jpg', 'cat', 'dog', .8), ('../issues.csv', 'dog', 'cat', .7)]
    df = pd.DataFrame(rows, columns=['path', 'label', 'predictions', 'confidence'])
    df.to_csv(tmp_path/'issues.csv', index=False)
    app = start(tmp_path/'issues.csv', '--images', tmp_path/'images')
    tab = app.open()
    expect(tab.locator('.card .shown.image img')).to_have_count(6)
    wait_until(lambda: tab.evaluate("[...document.querySelectorAll('.shown img')].every(o => o.naturalWidth >= 170)"))
    tab.get_by_text('cannot be shown: there is no such file').wait_for()
    tab.get_by_text('cannot be shown: it is not in the folder').wait_for()
    tab.screenshot(path=tmp_path/'images.png', full_page=True)
    assert app.said == []


def test_decisions_are_downloaded_as_csv_and_dark_mode_is_followed(tweets, tmp_path):
    app, ids = tweets
    tab = app.open()
    app.click('keep', 1)
    expect(tab.locator(SAVED)).to_have_count(1)
    with tab.expect_download() as got: tab.get_by_role('link', name='Decisions as CSV').click()
    got.value.save_as(tmp_path/'decisions.csv')
    df = pd.read_csv(tmp_path/'decisions.csv', dtype=str)
    assert df[['id', 'action', 'user']].values.tolist() == [[ids[1], 'keep', 'ann']]
    colour = "getComputedStyle(document.querySelector('.card')).backgroundColor"
    light = tab.evaluate(colour)
    tab.emulate_media(color_scheme='dark')
    assert light == 'rgb(255, 255, 255)' and tab.evaluate(colour) == 'rgb(28, 33, 40)' and app.said == []


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


def test_tweet_is_predicted_once_the_reviewer_trusts_the_file(start, tmp_path, exported):
    write_tweets(tmp_path/'noisy_text.csv')
    app = start(tmp_path/'noisy_text.csv', '--model', exported)
    tab = app.open()
    tab.get_by_role('link', name='Predict a text').click()
    tab.get_by_text('it is a pickle').wait_for()
    assert tab.get_by_role('textbox').count() == 0
    tab.get_by_role('button', name='I trust this file').click()
    tab.get_by_role('textbox').fill('deaths confirmed in hospital')
    tab.get_by_role('button', name='Predict', exact=True).click()
    tab.get_by_text('Predicted: INFORMATIVE').wait_for(timeout=60_000)
    shown = [o.split() for o in tab.locator('#ranked tr').all_inner_texts()]
    assert [o[1] for o in shown] == [*NAMES] and abs(sum(float(o[0]) for o in shown) - 1) < .002
    tab.screenshot(path=tmp_path/'predict.png')
    assert app.said == []


def test_without_a_model_the_page_that_predicts_says_how_to_name_one(tweets):
    app, _ = tweets
    tab = app.open('predict.html')
    tab.get_by_text('start the app with --model').wait_for()
    assert tab.locator('button:visible').count() == 0 and app.said == []


@pytest.fixture
def elsewhere(tmp_path):
    "The address of a page of another origin"
    (tmp_path/'elsewhere').mkdir()
    (tmp_path/'elsewhere/index.html').write_text('<!DOCTYPE html><title>elsewhere</title>')
    server = ThreadingHTTPServer(('127.0.0.1', 0), partial(SimpleHTTPRequestHandler, directory=tmp_path/'elsewhere'))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f'http://127.0.0.1:{server.server_port}/'
    server.shutdown()
    thread.join()
    server.server_close()


def test_page_of_another_origin_that_knows_the_token_cannot_decide_read_nor_frame(tweets, elsewhere):
    app, _ = tweets
    tab, failed = app.browser.new_page(), []
    tab.on('requestfailed', lambda o: failed.append(o.failure))
    tab.goto(elsewhere)
    msg = {'do': 'act', 're': 'v.1', 'view': 'v', 'act': 'keep', 'rows': [0], 'value': None, 'at': None}
    ask = """async ([url, options]) => { try { return (await fetch(url, options)).status } catch { return 'refused' } }"""
    body = {'method': 'POST', 'body': json.dumps(msg)}
    for more in ({'mode': 'no-cors'}, {'headers': {'content-type': 'application/json'}}):
        assert tab.evaluate(ask, [f'{app.url}msg', {**body, **more}]) == 'refused'
    assert tab.evaluate(ask, [f'{app.url}decisions.csv', {}]) == 'refused'
    assert 'NotSameOrigin' in failed[0]
    tab.evaluate("src => { document.body.append(Object.assign(document.createElement('iframe'), { src })) }", app.url)
    tab.wait_for_timeout(1500)
    assert [o.url.split(':')[0] for o in tab.frames] == ['http', 'chrome-error']
    tab.close()
    assert app.records() == []
