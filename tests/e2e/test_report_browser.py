"A report of hostile data in a real browser, where Debian's chromium and PyPI's playwright are here"
from io import BytesIO

import chromium
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fastai_clean.interpret.report import page
from fastai_clean.plots import Unreadable, plot_items

pytestmark, browser = chromium.needed, chromium.browser
HOSTILE = ['<img src=x onerror=alert(1)>', '<script>alert(1)</script>', '</style></title><svg onload=alert(1)>',
           '"\' onmouseover=alert(1) x="', '<img src=http://example.com/x.png>', '<a href="javascript:alert(1)">x</a>',
           '<link rel=stylesheet href=//example.com/x.css>', '\u202eright to left\u2066', 'x'*10_000, '😀'*300, '',
           '\x00\ud800', 'a\n'*500, '&lt;img src=x&gt;', r'$\frac{1}{0']


def bar():
    fig, ax = plt.subplots(figsize=(5, 3))
    ax.bar(['cat', 'dog'], [2, 3])
    return ax


@pytest.fixture(scope='module')
def report(tmp_path_factory):
    "The file, and how many images it should hold"
    rng = np.random.default_rng(0)
    images = [rng.random((8, 8)), rng.integers(0, 256, (224, 300, 3), dtype=np.uint8), rng.random((32, 32, 3)),
              rng.integers(0, 256, (40, 40, 4), dtype=np.uint8), np.ones((2, 4000))]
    shown = [*images, *HOSTILE, *map(Unreadable, HOSTILE)]
    rows = [dict(shown=o, cells=dict(given=h, predicted=(h, 'b'), confidence=.5, label_quality=1e-9, id=h))
            for o, h in zip(shown, HOSTILE*3)]
    df = pd.DataFrame([HOSTILE]*2, columns=pd.Index(HOSTILE, dtype=object), dtype=object)
    text = page(HOSTILE[2], summary={**dict.fromkeys(HOSTILE, 1437), 'x': HOSTILE[0]}, warnings=HOSTILE,
                tables=[(o, df) for o in HOSTILE[:2]], rows=rows, how=dict(zip(HOSTILE, HOSTILE)),
                pictures=[(HOSTILE[0], bar), (HOSTILE[1], lambda: plot_items(images[:2], HOSTILE[:2]))])
    path = tmp_path_factory.mktemp('report')/'report.html'
    path.write_text(text, encoding='utf-8')
    return path, len(images) + 2


@pytest.fixture
def opened(browser, report):
    "Opens the report; the page, and all that it said, asked and requested"
    pages = []

    def open_it(width=1280, scheme='light'):
        tab, said = browser.new_page(viewport=dict(width=width, height=900), color_scheme=scheme), []
        pages.append(tab)
        tab.on('dialog', lambda o: (said.append(f'dialog {o.message}'), o.dismiss()))
        tab.on('console', lambda o: said.append(f'console {o.text}'))
        tab.on('pageerror', lambda o: said.append(f'error {o}'))
        tab.on('request', lambda o: said.append(f'request {o.url}') if not o.url.startswith('data:') else None)
        tab.goto(report[0].as_uri())
        tab.wait_for_load_state('networkidle')
        return tab, said
    yield open_it
    for o in pages: o.close()


@pytest.mark.parametrize('width', [390, 1280])
@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_hostile_report_runs_nothing_and_loads_nothing(opened, report, tmp_path, width, scheme):
    tab, said = opened(width, scheme)
    tab.mouse.move(200, 200)
    tab.screenshot(path=tmp_path/f'{scheme}-{width}.png', full_page=True)
    assert said == [f'request {report[0].as_uri()}']
    assert tab.evaluate('document.scripts.length') == 0
    assert tab.evaluate('[...document.images].map(o => o.complete && o.naturalWidth > 0)') == [True]*report[1]
    assert tab.evaluate("document.querySelectorAll('svg, a:not([href^=\"#\"]), main link, main style').length") == 0
    assert tab.evaluate('document.documentElement.scrollWidth <= innerWidth')


def test_hostile_texts_are_on_the_page_as_they_were(opened):
    tab, _ = opened()
    shown = tab.evaluate("[...document.querySelectorAll('.text .shown bdi')].map(o => o.textContent)")
    marks = str.maketrans(dict.fromkeys('\u202e\u2066\x00\ud800', '\ufffd'))
    assert shown == ['\n'.join(o[:600].translate(marks).split('\n')[:16]) for o in HOSTILE if o]


def test_markup_in_the_page_would_have_been_caught(opened):
    tab, said = opened()
    tab.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x.png onerror=alert(1)>')")
    tab.wait_for_timeout(300)
    assert any('Content Security Policy' in o for o in said[1:])
    assert not tab.evaluate('[...document.images].every(o => o.naturalWidth > 0)')


def pictures(tab):
    "Per picture, as the screen shows it: the colour of its corner, and its darkest and lightest pixel"
    found = []
    for o in tab.locator('figure img').all():
        pixels = np.asarray(Image.open(BytesIO(o.screenshot())).convert('RGB'))
        sums = pixels.reshape(-1, 3).sum(1)
        found.append((pixels[1, 1].tolist(), sums.min() < 60, sums.max() > 700))
    return found


@pytest.mark.parametrize('scheme, panel, colour', [
    ('light', ([255]*3, True, True), [244, 245, 247]), ('dark', ([28, 33, 40], False, True), [18, 21, 26])])
def test_colours_follow_the_system_and_paper_is_light(opened, tmp_path, scheme, panel, colour):
    tab, _ = opened(scheme=scheme)
    assert pictures(tab) == [panel]*2
    background = 'getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).map(Number)'
    assert tab.evaluate(background) == colour
    tab.emulate_media(media='print')
    assert pictures(tab) == [([255]*3, True, True)]*2 and tab.evaluate(background) == [0, 0, 0, 0]
    assert tab.evaluate("getComputedStyle(document.querySelector('h1')).color") == 'rgb(28, 33, 40)'
    tab.pdf(path=tmp_path/'report.pdf', prefer_css_page_size=True)
    assert (tmp_path/'report.pdf').stat().st_size > 10_000


def test_wide_tables_are_not_clipped_on_paper(opened):
    tab, _ = opened(width=700)
    clipped = "[...document.querySelectorAll('.scroll')].map(o => o.scrollWidth > o.clientWidth + 1)"
    assert tab.evaluate(clipped) == [True]*2
    tab.emulate_media(media='print')
    assert tab.evaluate(clipped) == [False]*2


def test_screen_readers_find_their_way(opened):
    tab, _ = opened()
    assert tab.evaluate("[...document.images].every(o => o.alt)")
    assert tab.evaluate("['header', 'nav', 'main', 'h1', 'html[lang]'].map(o => document.querySelectorAll(o).length)"
                        ) == [1]*5
    assert tab.evaluate("[...document.querySelectorAll('section')].every(o => "
                        "document.getElementById(o.getAttribute('aria-labelledby')).tagName == 'H2')")
    tab.get_by_role('link', name='How the probabilities were made').click()
    assert tab.evaluate('scrollY') > 1000
