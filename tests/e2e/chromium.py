"Debian's chromium, driven by PyPI's playwright, and what the tests of both hosts of the review share"
import json
import shutil
import socket
import time

import pytest

EXECUTABLE = shutil.which('chromium')
needed = [pytest.mark.skipif(EXECUTABLE is None, reason='chromium is not here'), pytest.mark.browser]
sync_api = pytest.importorskip('playwright.sync_api')
expect = sync_api.expect
FLAGS = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
         '--disable-background-networking', '--disable-component-update', '--disable-sync']
BUTTONS = 'accept', 'keep', 'delete', 'unsure'  # Of a card, in their order


@pytest.fixture(scope='module')
def browser():
    with sync_api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=EXECUTABLE, args=FLAGS)
        yield browser
        browser.close()


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def wait_until(true, seconds=30):
    "Wait for what Python alone can see"
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end: time.sleep(.05)
    assert true()


def records(journal):
    "The actions in a journal, in their order"
    lines = [json.loads(o) for o in journal.read_text().splitlines()]
    return [o for o in lines if isinstance(o, dict) and 'do' in o]


def click_fast(tab, n, cards, ms, then=''):
    """`n` decisions, one every `ms`, on `cards` cards in turn, another one each time round; then the JavaScript `then`.
    The place of each card and its action, in their order."""
    want = [(i % cards, ('keep', 'delete', 'unsure')[(i // cards + i) % 3]) for i in range(n)]
    tab.evaluate(f"""async clicks => {{
        const cards = [...document.querySelectorAll('.fastai-clean .card')]
        for (const [card, button] of clicks) {{
            cards[card].querySelectorAll('.own button')[button].click()
            await new Promise(done => setTimeout(done, {ms}))
        }}
        {then} }}""", [[card, BUTTONS.index(do)] for card, do in want])
    return want
