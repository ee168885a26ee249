"The page of the report: hostile data stays text, whatever it holds"
import base64
import re
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from helpers import DIGITS, digit_dls, plant, tiny_learn
from markupsafe import Markup
from PIL import Image

from fastai_clean.interpret import CleanInterpretation, report
from fastai_clean.interpret.report import page, parts_of
from fastai_clean.plots import Unreadable

BAD = '\ufffd'
HOSTILE = {  # What goes in -> what is read on the page
    '<img src=x onerror=alert(1)>': '<img src=x onerror=alert(1)>',
    '<script>alert(1)</script>': '<script>alert(1)</script>',
    '</bdi></title></style><b>': '</bdi></title></style><b>',
    '"\'><svg onload=alert(1)>': '"\'><svg onload=alert(1)>',
    '&lt;b&gt; &amp;': '&lt;b&gt; &amp;',
    '\u202eright\u2066 to \u2069left': f'{BAD}right{BAD} to {BAD}left',
    '\u05d0\u200f': '\u05d0\u200f',
    '\x00\x07\x85\u2028': BAD*4,
    '\ud800': BAD,
    'a\r\nb\rc': f'a\nb{BAD}c',
    '': '(empty)',
    '😀👩\u200d👧': '😀👩\u200d👧',
    'javascript:alert(1)': 'javascript:alert(1)',
}
VOID = {'meta', 'link', 'img'}


class Tree(HTMLParser):
    "The tags of a page with their attributes and text, in their order; fails where tags do not nest"
    def __init__(self, text):
        super().__init__()
        self.found, self.open, self.pieces = [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.found.append([tag, dict(attrs), '', tuple(o[0] for o in self.open)])
        if tag not in VOID: self.open.append(self.found[-1])

    def handle_endtag(self, tag): assert self.open.pop()[0] == tag

    def handle_data(self, data):
        self.pieces.append((self.open[-1][0] if self.open else None, data))
        for o in self.open: o[2] += data

    def texts(self, tag): return [o[2] for o in self.found if o[0] == tag]
    def attrs(self, tag): return [o[1] for o in self.found if o[0] == tag]


def bar():
    fig, ax = plt.subplots(figsize=(2, 1))
    ax.bar(['a'], [1])
    return ax


def row(shown, **cells):
    return dict(shown=shown, cells={'given': 'cat', 'predicted': 'dog', 'confidence': .913, **cells})


def cells(**values): return Tree(page('t', summary=values)).texts('dd')


@pytest.fixture(scope='module')
def hostile():
    names = list(HOSTILE)
    df = pd.DataFrame([names], columns=pd.Index(names, dtype=object), index=pd.Index(names[:1], name=names[1]),
                      dtype=object)
    return Tree(page(names[0], summary={o: o for o in names}, warnings=names, tables=[(names[1], df)],
                     rows=[row(o, id=o, given=o, predicted=(o, o), **{o: o}) for o in names] +
                          [row(Unreadable(o)) for o in names],
                     pictures=[(names[3], bar)], how={o: [o] for o in names}))


def test_hostile_data_adds_no_tags_and_no_attributes(hostile):
    tags = {o[0] for o in hostile.found}
    assert not tags & {'script', 'svg', 'b', 'iframe', 'object', 'form', 'base', 'picture'}
    attrs = [(k, v) for o in hostile.found for k, v in o[1].items()]
    assert {k for k, _ in attrs} <= {'lang', 'charset', 'http-equiv', 'content', 'name', 'rel', 'href', 'class', 'id',
                                     'src', 'alt', 'width', 'height', 'role', 'tabindex', 'scope', 'aria-label',
                                     'aria-labelledby', 'aria-hidden'}
    assert all(v.startswith(('#', 'data:')) for k, v in attrs if k in ('src', 'href'))
    assert len(hostile.attrs('img')) == 1


def test_hostile_data_reads_as_it_was(hostile):
    expected = list(HOSTILE.values())
    assert [o[2] for o in hostile.found if o[0] == 'p' and o[1].get('class') == 'notice'] == expected
    assert hostile.texts('th')[1:-1] == expected and hostile.texts('td') == expected
    assert hostile.texts('th')[::len(expected) + 1] == [expected[1], expected[0]]
    assert hostile.texts('title') == hostile.texts('h1') == [expected[0]]
    assert hostile.texts('caption') == [expected[1]] and hostile.texts('figcaption') == [expected[3]]
    shown = [o[2] for o in hostile.found if o[1].get('class') == 'shown']
    assert shown == expected*2
    assert hostile.texts('h3')[:len(expected)] == [f'given {o} → predicted {o}, {o}' for o in expected]
    assert hostile.texts('dt')[:len(expected)] == hostile.texts('dd')[:len(expected)] == expected
    assert hostile.texts('dt')[-len(expected):] == hostile.texts('dd')[-len(expected):] == expected


def test_data_is_isolated_from_the_text_around_it(hostile):
    assert [tag for tag, text in hostile.pieces if '\u05d0' in text] == ['bdi']*15


def test_page_is_utf8_with_a_policy_against_loading():
    text = page('\ud800', summary={'\udfff': '\ud800'})
    tree = Tree(text.encode().decode())
    policy = [o['content'] for o in tree.attrs('meta') if 'http-equiv' in o]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    assert tree.attrs('html') == [{'lang': 'en'}] and tree.attrs('meta')[0] == {'charset': 'utf-8'}
    assert 'url(' not in text and '@import' not in text and 'http:' not in text and 'https:' not in text


def test_nothing_in_the_template_goes_round_the_escaping():
    folder = Path(report.__file__).parent
    template = (folder/'report.html.jinja').read_text(encoding='utf-8')
    assert not re.search(r'\|\s*safe\b|Markup|autoescape', template)
    assert not re.search('Markup|autoescape=False|select_autoescape', Path(report.__file__).read_text(encoding='utf-8'))


def test_data_that_calls_itself_safe_markup_is_escaped_all_the_same():
    bad = Markup('<b>x</b>')
    df = pd.DataFrame({bad: [bad]}, index=pd.Index([bad], name=bad), dtype=object)
    text = page(bad, summary={bad: bad}, warnings=[bad], tables=[(bad, df)], how={bad: [bad]},
                pictures=[(bad, bar)], rows=[row(bad, given=bad, predicted=bad), row(Unreadable(bad))])
    assert '<b>' not in text and text.count('&lt;b&gt;x&lt;/b&gt;') == 19


def test_rows_become_cards_of_their_kind():
    tree = Tree(page('t', summary={}, rows=[row('text'), row(np.zeros((8, 8))), row(Unreadable('file is gone')),
                                            row(np.zeros((8, 8, 5))), row(None)]))
    cards = [o for o in tree.found if o[0] == 'li' and 'ol' in o[3]]
    assert [o[1]['class'] for o in cards] == ['text', 'image', 'missing', 'missing', 'missing']
    assert 'file is gone' in cards[2][2] and 'shape (8, 8, 5)' in cards[3][2]
    assert tree.attrs('img')[0]['alt'] == 'item 2' and tree.attrs('img')[0]['width'] == '96'
    assert tree.texts('h2') == ['The 5 worst items'] and tree.texts('a') == ['The 5 worst items']


def test_long_text_is_cut_and_its_length_told():
    tree = Tree(page('t', summary={'s': 'y'*161, 'fits': 'y'*160},
                     rows=[row('x'*10_000), row('x'*600), row('a\n'*200), row('<'*600)]))
    shown = [o[2] for o in tree.found if o[1].get('class') == 'shown']
    assert shown[:2] == ['x'*600 + ' … (10,000 characters)', 'x'*600]
    assert shown[2] == '\n'.join('a'*16) + ' … (400 characters)' and shown[3] == '<'*600
    assert tree.texts('dd')[:2] == ['y'*160 + '… (161 characters)', 'y'*160]


@pytest.mark.parametrize('value, text', [
    (.913, '.913'), (1437, '1,437'), (0., '.000'), (1., '1.000'), (1e-7, '<.001'), (-1e-7, '>−.001'), (-.25, '−.250'),
    (12.345, '12.35'), (123.45, '123.5'), (1234.5, '1,234'), (1e20, '1e+20'), (float('inf'), 'inf'), (True, 'yes'),
    (np.float32(.5), '.500'), (np.int64(50_000), '50,000'), (np.bool_(False), 'no'), (np.array(3), '3'),
    (None, '–'), (float('nan'), '–'), (np.float32('nan'), '–'), (pd.NA, '–'), (pd.NaT, '–'), ('nan', 'nan'),
    (('a', 'b,c'), 'a, b,c'), ([], '–'), (np.array([.5, 2]), '.500, 2.000'), (range(30), ', '.join(
        map(str, range(20))) + ', … (30)'), (Path('a/b'), 'a/b'), (np.datetime64('2024-02-03'), '2024-02-03'),
    (pd.Timestamp('2024-02-03'), '2024-02-03 00:00:00'), (b'<', "b'<'")])
def test_values_are_written_as_people_do(value, text): assert cells(x=value) == [text]


def test_names_that_are_numbers_stay_as_they_are():
    df = pd.DataFrame({'given': [2019], 'count': [2019]}, index=pd.Index([1234], name='class'))
    rows = [row('x', given=2019, predicted=2020, id=np.int64(1234))]
    tree = Tree(page('t', summary={}, tables=[('c', df)], rows=rows))
    assert tree.texts('td') == ['2019', '2,019'] and tree.texts('th') == ['class', 'given', 'count', '1234']
    assert tree.texts('h3') == ['given 2019 → predicted 2020'] and tree.texts('dd') == ['.913', '1234']


def test_tables_have_scoped_headers_and_say_what_they_leave_out():
    tree = Tree(page('t', summary={}, tables=[('c', pd.DataFrame({'a': range(203), 'b': ['x']*203})),
                                              ('d', pd.DataFrame([[1, 2]], columns=['a', 'a'], index=['r']))]))
    assert [o['scope'] for o in tree.attrs('th')] == ['col']*5 + ['row']
    assert len(tree.texts('tr')) == 1 + 200 + 2 and 'and 3 more rows' in tree.texts('p')
    assert [o.get('class') for o in tree.attrs('td')][:2] == ['n', None] and tree.texts('td')[-2:] == ['1', '2']
    with pytest.raises(TypeError, match="a list under 'c'"): page('t', summary={}, tables=[('c', [[1]])])


def test_pictures_are_drawn_on_white_whatever_the_style_and_closed():
    mine = plt.figure()
    with plt.style.context('dark_background'): tree = Tree(page('t', summary={}, pictures=[('A <b>', bar)]))
    assert plt.get_fignums() == [mine.number]
    image, = tree.attrs('img')
    pixels = _pixels(image['src'])
    # Text and axes are dark: what a dark screen makes of it is in tests/e2e/test_report_browser.py
    assert pixels[0, 0].tolist() == [255, 255, 255] and (pixels.sum(2) < 60).any()
    assert image['alt'] == 'A <b>' and abs(int(image['width'])*1.5 - pixels.shape[1]) <= 1


def test_picture_without_axes_says_so_and_a_failing_one_leaves_no_figure():
    tree = Tree(page('t', summary={}, pictures=[('none', lambda: np.empty(0, dtype=object))]))
    assert tree.texts('p') == ['Nothing to show.'] and not tree.attrs('img')
    with pytest.raises(ZeroDivisionError): page('t', summary={}, pictures=[('fails', lambda: bar() and 1/0)])
    assert not plt.get_fignums()


def _pixels(uri):
    return np.asarray(Image.open(BytesIO(base64.b64decode(uri.split(',')[1]))).convert('RGB'))


def test_report_of_100_photographs_is_a_few_megabytes():
    rng = np.random.default_rng(0)
    photo = np.asarray(Image.fromarray(rng.integers(0, 256, (28, 28, 3), dtype=np.uint8)).resize((224, 224)))
    assert len(page('t', summary={}, rows=[row(photo)]*100)) < 2e6


@pytest.fixture(scope='module')
def reviewed(tmp_path_factory):
    "An interpretation of 200 digits, 20 % of them labelled wrong, and a session with 60 decisions"
    labels, wrong = plant(DIGITS.target, .2)
    learn = tiny_learn(digit_dls(range(400), range(400, 600), labels))
    learn.fit(3, 1e-2)
    interp = CleanInterpretation.from_learner(learn, ds_idx=1)
    session = interp.review(tmp_path_factory.mktemp('review')/'j.jsonl', user='ann')
    wrong = dict(zip(interp.ids, wrong[400:600]))
    ids = session.sample(60)
    session.delete([o for o in ids if wrong[o]])
    session.keep([o for o in ids if not wrong[o]])
    return interp, session


def test_estimate_is_in_the_report_if_it_is_asked_for(reviewed):
    interp, session = reviewed
    estimate = interp.estimate(session)
    parts = parts_of(interp, 1, session)
    about = f'{estimate.wrong:,.0f} ({estimate.low:,.0f} to {estimate.high:,.0f})'
    assert parts['summary']['wrong labels, from decisions'] == about
    assert parts['warnings'][0] == f'{str(estimate).capitalize()[0]}{str(estimate)[1:]} {estimate.advice}'
    ax = parts['pictures'][0][1]()
    assert ax.get_ylabel() == 'wrong labels' and ax.lines[1].get_ydata()[0] == estimate.wrong
    known = estimate.per_class.wrong.notna()
    caption, df = parts['tables'][0]
    assert (caption == 'Wrong labels of the classes, from decisions') == known.any()
    if known.any(): assert df['class'].tolist() == estimate.per_class['class'][known].tolist() and df.wrong.dtype == int
    plt.close('all')
    assert 'wrong labels, from decisions' not in parts_of(interp, 1)['summary']


def test_estimate_is_plotted_from_a_session_or_as_it_is_and_refused_for_other_labels(reviewed):
    interp, session = reviewed
    estimate = interp.estimate(session)
    _, ax = plt.subplots()
    assert interp.plot_estimate(estimate, ax=ax) is ax
    curve = interp.plot_estimate(session).lines[0]
    assert np.array_equal(curve.get_ydata(), ax.lines[0].get_ydata()) and curve.get_ydata()[0] == estimate.found
    plt.close('all')
    other = CleanInterpretation.from_learner(tiny_learn(digit_dls(range(400), range(400, 600))), ds_idx=1)
    with pytest.raises(ValueError, match='estimate'): other.plot_estimate(estimate)
    with pytest.raises(TypeError, match='decisions is a str'): interp.plot_estimate('decisions.jsonl')
    assert not plt.get_fignums()
