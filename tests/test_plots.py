"Pictures of hostile and odd items, of class pairs and of classes: what is drawn is what was given"
import re
import time
import warnings
from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from helpers import DIGITS
from matplotlib.text import Text

from fastai_clean.plots import (
    Unreadable,
    _names,
    plot_class_health,
    plot_found,
    plot_items,
    plot_matrix,
    plot_quality,
    shorten,
)

HOSTILE = ['<img src=x onerror=alert(1)>', r'$\frac{1}{0', 'x'*10_000, '', 'a\n\nb', '$$', '\u202eright to left', '\\',
           '\x00\x07', '\ud800', '\u65e5\u672c \U0001f9ec', 'a\u200b\u2066b\tc']
DRAWN = ['right to left', '\\', '\ufffd\ufffd', '\ufffd', '\ufffd\ufffd \ufffd', 'ab c']
NAMES = ['$x$', '<b>cat</b>', 'a very long name of a class, number 1', 'a very long name of a class, number 2', '',
         'line\nbreak', '\u202etac', '_hidden', '\u65e5', '%d']


@pytest.fixture(autouse=True)
def no_warnings():
    "Drawing warns of nothing, missing glyphs and log scales of nothing included"
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        yield


def draw(axs):
    "Render, and return the figure"
    fig = np.ravel(axs)[0].figure
    fig.canvas.draw()
    return fig


def markup(axs):
    "Texts in the figures of `axs` that could be read as mathematics or tags"
    return [o for fig in {ax.figure for ax in axs} for o in fig.findobj(Text) if set(o.get_text()) & set('$<')]


def confusion(c, seed=0):
    rng = np.random.default_rng(seed)
    return rng.poisson(.5, (c, c)) + np.diag(rng.integers(100, 200, c))


def cells(ax):
    "(row, column) -> text drawn there"
    return {(int(o.get_position()[1]), int(o.get_position()[0])): o.get_text() for o in ax.texts}


def tick_names(axis): return [o.get_text() for o in axis.get_ticklabels()]


def test_hostile_texts_and_titles_are_drawn_as_text():
    with pytest.warns(UserWarning, match='lacks 3 characters'): axs = plot_items(HOSTILE, HOSTILE)
    draw(axs)
    titles = [ax.get_title(loc='left') for ax in axs]
    assert titles[:2] + titles[3:6] == HOSTILE[:2] + HOSTILE[3:6] and titles[6:] == DRAWN
    assert len(titles[2]) < 400 and titles[2].startswith('xxxx') and titles[2].endswith('…')
    assert [ax.texts[0].get_text() for ax in axs[6:]] == DRAWN and axs[3].texts[0].get_text() == '(empty)'
    assert len(markup(axs)) == 6 and not any(o.get_parse_math() for o in markup(axs))
    assert len(axs[2].texts[0].get_text().splitlines()) == 8


def test_emoji_without_a_glyph_is_replaced_in_the_font_in_use():
    with plt.rc_context({'font.family': ['cmr10'], 'axes.formatter.use_mathtext': True}):
        with pytest.warns(UserWarning, match='cmr10 lacks 1 character') as said:
            axs = plot_items([np.ones((2, 2))], ['a\U0001f600b'])
        assert len(said) == 1 and "['cmr10', 'DejaVu Sans']" in str(said[0].message)
        assert axs[0].get_title() == 'a?b'
        draw(axs)


@pytest.mark.parametrize('n, shape', [(1, (1, 1)), (4, (2, 2)), (5, (2, 3)), (9, (3, 3))])
def test_images_make_a_square_grid(n, shape):
    axs = plot_items([np.zeros((4, 5, 3)), *[np.ones((3, 3))]*(n - 1)], ['t']*n)
    assert len(axs) == n and axs[0].get_subplotspec().get_gridspec().get_geometry() == shape


def test_unreadable_items_get_a_placeholder_among_images():
    axs = plot_items([np.ones((3, 3)), Unreadable('cannot identify $image$ <b> ' + 'x'*10_000), Unreadable(''),
                      *[np.ones((3, 3))]*2], list('abcde'))
    fig = draw(axs)
    assert axs[0].get_subplotspec().get_gridspec().get_geometry() == (2, 3) and not axs[0].texts
    assert [len(ax.patches) for ax in axs] == [0, 1, 1, 0, 0] and [ax.get_title() for ax in axs] == list('abcde')
    assert not axs[1].images
    reason, box = axs[1].texts[0], axs[1].patches[0].get_window_extent()
    assert reason.get_text().startswith('cannot identify') and '$image$' in reason.get_text()
    extent = reason.get_window_extent(fig.canvas.get_renderer())
    assert box.x0 <= extent.x0 < extent.x1 <= box.x1 and box.y0 <= extent.y0 < extent.y1 <= box.y1
    assert axs[2].texts[0].get_text() == 'unreadable'


def test_titles_stay_inside_the_figure_and_apart():
    title = 'given airplane → predicted automobile\nconfidence 0.98  quality 0.001'
    axs = plot_items([np.ones((8, 8)), np.ones((600, 200)), np.ones((3, 600)), *[np.ones((8, 8, 3))]*6],
                     [title, 'a', 'many words '*99, *['a']*4, title, title])
    fig = draw(axs)
    boxes = [axs[i].title.get_window_extent() for i in (0, 2, 7, 8)]
    assert boxes[2].x1 < boxes[3].x0 and [axs[i].get_title().count('\n') for i in (0, 2)] == [2, 3]
    assert all(o.y1 <= fig.bbox.y1 and o.x0 >= 0 and o.x1 <= fig.bbox.x1 for o in boxes)
    assert len({round(ax.bbox.y1, 3) for ax in axs[:3]}) == 1, 'images of a row start at different heights'


DIGIT = DIGITS.images[1]


@pytest.mark.parametrize('image, expected', [
    (DIGIT.astype('uint8')*15, DIGIT*15/255), (DIGIT/16, DIGIT/16), (DIGIT*15, DIGIT*15/255),
    (DIGIT[..., None]/16, DIGIT/16), (DIGIT.astype(int)*15, DIGIT*15/255), (DIGIT > 8, (DIGIT > 8)*1.),
    (DIGIT/8 - 1, DIGIT/16), ((DIGIT*4000).astype('uint16'), DIGIT/16), (DIGIT/16 + .02, np.minimum(DIGIT/16 + .02, 1)),
    (np.where(DIGIT > 15, np.nan, DIGIT/16), np.where(DIGIT > 15, 0, DIGIT/16)),
], ids=['uint8', '0..1', '0..255', '(h, w, 1)', 'int64', 'bool', '-1..1', 'uint16', 'overshoot', 'nan'])
def test_numbers_of_any_kind_are_drawn_as_the_same_picture(image, expected):
    im = plot_items([image], ['t'])[0].images[0]
    assert np.allclose(im.norm(im.get_array()), expected, atol=1e-6)


def test_colour_images_are_drawn_in_colour_and_a_constant_one_is_not_stretched():
    rgba = np.dstack([DIGIT/16]*3 + [np.ones_like(DIGIT)])
    axs = plot_items([rgba, rgba[..., :3]*255, np.full((4, 4), .5)], ['t']*3)
    shown = [ax.images[0] for ax in axs]
    assert np.allclose(shown[0].get_array(), rgba) and np.allclose(shown[1].get_array(), rgba[..., :3], atol=1e-6)
    assert np.allclose(shown[2].norm(shown[2].get_array()), .5)


@pytest.mark.parametrize('c, size', [(2, 2), (10, 10), (200, 25)])
def test_matrix_names_and_numbers_are_those_of_the_worst_classes(c, size):
    m, kept = confusion(c), []
    for i, j in sorted(combinations(range(c), 2), key=lambda o: (-m[o] - m.T[o], o)):
        kept += [k for k in (i, j) if k not in kept]
    kept = sorted(kept[:size])
    ax = plot_matrix(m, [f'n{i}' for i in range(c)], title='Joint')
    draw(ax)
    assert tick_names(ax.xaxis) == tick_names(ax.yaxis) == [f'n{i}' for i in kept]
    assert cells(ax) == {(i, j): str(m[a, b]) for i, a in enumerate(kept) for j, b in enumerate(kept) if m[a, b]}
    note = '\n25 of 200 classes, those with most off the diagonal' if c == 200 else ''
    assert ax.get_title() == 'Joint' + note


def test_matrix_of_all_classes_has_ticks_that_do_not_overlap():
    ax = plot_matrix(confusion(200), max_classes=None)
    draw(ax)
    boxes = [o.get_window_extent() for o in ax.yaxis.get_ticklabels()]
    assert ax.get_images()[1].get_array().shape == (200, 200) and not ax.texts and 20 < len(boxes) < 101
    assert all(a.y0 >= b.y1 for a, b in zip(boxes, boxes[1:]))
    assert all(int(name) == at for name, at in zip(tick_names(ax.yaxis), ax.get_yticks()))


def test_matrix_of_a_thousand_classes_writes_no_numbers():
    ax = plot_matrix(confusion(1000), max_classes=None)
    draw(ax)
    assert not ax.texts and len(ax.images) == 2


def test_matrix_colours_rank_what_is_off_the_diagonal():
    m = confusion(10) + 0.
    m[7, 2], m[4, 4] = 90, 1e6
    grey, im = plot_matrix(m).images
    assert im.get_clim() == (0, 90) and im.get_array().mask[range(10), range(10)].all()
    assert np.array_equal(im.get_array().mask, np.eye(10, dtype=bool) | (m == 0))
    assert np.array_equal(grey.get_array().mask, ~np.eye(10, dtype=bool))


@pytest.mark.parametrize('style', ['default', 'dark_background'])
def test_matrix_colours_start_at_the_background_and_numbers_stand_out(style):
    m = confusion(10)
    m[7, 2] = 90
    with plt.style.context(style):
        ax = plot_matrix(m)
        im, light = ax.images[1], lambda o: np.dot(plt.matplotlib.colors.to_rgb(o), [.299, .587, .114])
        back = light(ax.get_facecolor())
        assert abs(light(im.cmap(0.)) - back) < abs(light(im.cmap(1.)) - back)
        for o in ax.texts:
            j, i = map(int, o.get_position())
            if i != j: assert abs(light(o.get_color()) - light(im.cmap(im.norm(m[i, j])))) >= .5 - 1e-6
            else: assert o.get_color() == plt.rcParams['text.color']


def test_colormap_object_is_used_as_it_is_and_a_name_turned_to_the_background():
    assert plot_matrix(confusion(3), cmap=plt.get_cmap('viridis')).images[1].cmap == plt.get_cmap('viridis')
    assert np.allclose(plot_matrix(confusion(3), cmap='Blues_r').images[1].cmap(1.), plt.get_cmap('Blues')(1.))


@pytest.mark.parametrize('value, text', [
    (7, '7'), (9999, '9999'), (12_345, '12k'), (999_400, '999k'), (999_600, '1.0M'), (1_234_567, '1.2M'),
    (56_000_000, '56M'), (2.5, '2.5'), (0.25, '0.25'), (1234.5, '1234')])
def test_counts_in_cells_are_short(value, text):
    assert cells(plot_matrix([[3, value], [0, 3]])) == {(0, 0): '3', (0, 1): text, (1, 1): '3'}


def test_probabilities_in_cells_are_percent():
    m = np.array([[.97, .034, 0], [.0299, .9659, .4], [1e-5, 1e-4, .6]])
    assert cells(plot_matrix(m)) == {(0, 0): '97%', (0, 1): '3.4%', (1, 0): '3.0%', (1, 1): '97%', (1, 2): '40%',
                                     (2, 0): '<.1%', (2, 1): '<.1%', (2, 2): '60%'}
    assert cells(plot_matrix(m, fmt='.3f'))[1, 0] == '0.030'
    assert cells(plot_matrix([[5., 0], [2, 3]], fmt='03d')) == {(0, 0): '005', (1, 0): '002', (1, 1): '003'}


def test_numbers_are_written_where_they_fit_or_when_asked():
    assert not plot_matrix(confusion(10), annotate=False).texts
    assert not plot_matrix(confusion(25), figsize=(3, 3)).texts
    assert plot_matrix(confusion(25), figsize=(3, 3), annotate=True).texts
    fig, axs = plt.subplots(1, 2)
    assert plot_matrix(confusion(3), ax=axs[1]) is axs[1] and axs[1].texts and not axs[0].texts


def test_hostile_class_names_are_drawn_as_different_text():
    shown = ['$x$', '<b>cat</b>', 'a very long name of… #2', 'a very long name of… #3', '(empty)', 'line break', 'tac',
             '_hidden', '\ufffd', '%d']
    with pytest.warns(UserWarning, match='lacks 1 character'):
        matrix = plot_matrix(confusion(10), NAMES)
        health = plot_class_health(np.linspace(.9, .1, 10), np.zeros(10), NAMES, counts=range(10))
        quality = plot_quality(np.linspace(0, 1, 10), range(10), np.ones(10, dtype=bool), NAMES, max_classes=None)
    assert tick_names(matrix.xaxis) == tick_names(matrix.yaxis) == shown
    assert tick_names(health.yaxis) == [f'{o} ({i})' for i, o in enumerate(shown)]
    assert [ax.get_title().split(':')[0] for ax in quality][:2] == shown[:2]
    for axs in (matrix, health, quality): draw(axs)
    found = markup([matrix, health, *quality])
    assert len(found) >= 8 and not any(o.get_parse_math() for o in found)


def test_matrix_without_anything_off_the_diagonal_is_drawn():
    ax = plot_matrix(np.diag([3, 4, 0]))
    draw(ax)
    assert cells(ax) == {(0, 0): '3', (1, 1): '4'}


def scores(n=4000, c=12, seed=0):
    rng = np.random.default_rng(seed)
    given = rng.integers(0, c, n)
    quality = np.r_[0, 1, .3, rng.random(n - 3)]
    return quality, given, (quality < .2) & (rng.random(n) < given/c)


def test_quality_histograms_equal_numpys_in_each_class():
    quality, given, issue = scores()
    axs = plot_quality(quality, given, issue, bins=20, max_classes=None)
    draw(axs)
    assert len(axs) == 12
    for k, ax in enumerate(axs):
        top, bottom = [o.get_data() for o in ax.patches]
        assert np.array_equal(bottom.values, np.histogram(quality[(given == k) & issue], 20, (0, 1))[0])
        assert np.array_equal(top.values, np.histogram(quality[given == k], 20, (0, 1))[0])
        assert np.array_equal(top.baseline, bottom.values) and top.values.sum() == (given == k).sum()
        assert ax.get_title() == f'{k}: {issue[given == k].sum()} issues of {(given == k).sum()}'


def test_quality_shows_the_classes_with_most_issues_and_says_so():
    quality, given, issue = scores()
    axs = plot_quality(quality, given, issue, [f'n{i}' for i in range(12)], max_classes=4)
    count = np.bincount(given[issue], minlength=12)
    shown = [int(re.match(r'n(\d+):', ax.get_title())[1]) for ax in axs]
    assert shown == sorted(shown) and sorted(count[shown]) == sorted(count)[-4:]
    assert draw(axs).get_suptitle() == '4 of 12 classes, those with most issues'
    assert draw(plot_quality(quality, given, issue, max_classes=12)).get_suptitle() == ''


def test_quality_thresholds_are_lines_and_in_one_legend():
    quality, given, issue = scores(c=3)
    axs = plot_quality(quality, given, issue, thresholds=[.25, np.nan, .75])
    fig = draw(axs)
    assert [[float(o.get_xdata()[0]) for o in ax.lines] for ax in axs] == [[.25], [], [.75]]
    assert [o.get_text() for o in fig.legends[0].get_texts()] == ['other items', 'issues', 'mean of the class']
    assert len(fig.legends) == 1 and not any(ax.get_legend() for ax in axs)


def test_quality_counts_are_logarithmic_only_where_a_bar_would_flatten_the_others():
    n = 2000
    flat, given = np.linspace(0, 1, n), np.zeros(n, dtype=int)
    peak = np.where(np.arange(n) < 100, flat, 1)
    assert plot_quality(flat, given, flat < .1)[0].get_yscale() == 'linear'
    ax = plot_quality(peak, given, peak < .01)[0]
    draw(ax)
    assert ax.get_yscale() == 'log' and ax.get_ylim()[0] < 1 < 1900 < ax.get_ylim()[1]


def test_quality_of_a_class_without_items_is_an_empty_panel():
    axs = plot_quality([.1, .9], [0, 2], [True, False], ['a', 'b', 'c'])
    draw(axs)
    assert [ax.get_title() for ax in axs] == ['a: 1 issues of 1', 'b: 0 issues of 0', 'c: 0 issues of 1']


def test_class_health_bars_are_the_rates_worst_first():
    noise, inverse = [.02, .3, np.nan, .3], [.1, .05, .2, .06]
    ax = plot_class_health(noise, inverse, ['a', 'b', 'c', 'd'], counts=[1000, 2, 3, 4])
    draw(ax)
    assert tick_names(ax.yaxis) == ['d (4)', 'b (2)', 'a (1,000)', 'c (3)'] and ax.yaxis_inverted()
    widths = [[o.get_width() for o in bars] for bars in ax.containers]
    assert widths == [[.3, .3, .02, 0], [.06, .05, .1, .2]]
    assert [o.get_text() for o in ax.texts] == ['30.0%', '30.0%', '2.0%', '', '6.0%', '5.0%', '10.0%', '20.0%']


def test_class_health_shows_the_worst_classes_and_says_so():
    noise = np.random.default_rng(0).random(200)
    ax = plot_class_health(noise, noise/2, max_classes=7)
    draw(ax)
    assert tick_names(ax.yaxis) == [str(k) for k in np.argsort(-noise)[:7]]
    assert ax.get_title() == '7 of 200 classes, those with most label noise'
    legend, title = ax.get_legend().get_window_extent(), ax.title.get_window_extent()
    assert title.y0 >= legend.y1 - 1 and legend.y0 >= ax.bbox.y1


def test_found_curve_has_its_band_its_total_and_ends_beyond_the_stop():
    x = np.arange(0, 9001, 10)
    y = 430*(1 - np.exp(-x/200))
    ax = plot_found(x, y, y*.9, y*1.1, total=(430.4, 383, 478), stop=612)
    curve, total, stop = ax.lines
    # One point beyond four thirds of the stop, so that the curve reaches the edge
    assert curve.get_xdata().tolist() == x[:83].tolist() and np.array_equal(curve.get_ydata(), y[:83])
    assert ax.get_xlim() == (0, 816) and set(total.get_ydata()) == {430.4} and set(stop.get_xdata()) == {612}
    band = ax.collections[0].get_paths()[0].vertices
    assert {*band[:, 1].round(6)} >= {*(y[:83]*.9).round(6), *(y[:83]*1.1).round(6)}
    texts = [o.get_text() for o in ax.get_legend().get_texts()]
    assert texts == ['95% interval', 'wrong labels found', 'all wrong labels: about 430 (380 to 480)', '95% found after 620 more']
    _, mine = plt.subplots()
    assert plot_found([0], [1], [0], [2], ax=mine) is mine and not mine.get_legend().get_texts()[2:]


@pytest.mark.parametrize('text, n, expected', [
    ('short', 14, 'short'), ('exactly14chars', 14, 'exactly14chars'), ('fifteen letters', 14, 'fifteen lette…'),
    ('a\r\nb', 14, 'a b'), ('x'*10_000, 3, 'xx…'), ('\n'*10_000, 5, '    …'), (12, 14, '12'), ('ab', 1, '…')])
def test_shorten_keeps_one_line_of_n_characters(text, n, expected):
    assert shorten(text, n) == expected


ONE = np.ones((2, 2))


@pytest.mark.parametrize('call, message', [
    (lambda: plot_items([], []), 'items is empty'),
    (lambda: plot_items(['a', 'b'], ['t']), '1 entries for 2'),
    (lambda: plot_items(['a'], ['t'], ncols=0), 'ncols is 0'),
    (lambda: plot_items([ONE, np.ones((3, 8, 8))], ['a', 'b']), r'items\[1\] has shape \(3, 8, 8\)'),
    (lambda: plot_items([np.ones((0, 3))], ['a']), r'items\[0\] has shape \(0, 3\)'),
    (lambda: plot_matrix(np.ones((2, 3))), r'matrix has shape \(2, 3\)'),
    (lambda: plot_matrix([[1, np.nan], [0, 1]]), 'matrix has 1 values .* first nan in row 0, column 1'),
    (lambda: plot_matrix([[1, 0], [-1, 1]]), 'first -1.0 in row 1, column 0'),
    (lambda: plot_matrix(ONE, ['a']), 'vocab has 1 names, but matrix has 2 classes'),
    (lambda: plot_matrix(ONE, max_classes=0), 'max_classes is 0'),
    (lambda: plot_quality([.5], [0, 1], [True, False]), r'given has shape \(2,\)'),
    (lambda: plot_quality([], [], []), r'quality has shape \(0,\)'),
    (lambda: plot_quality([.5, np.nan], [0, 1], [True, False]), 'quality has 1 values .* at position 1'),
    (lambda: plot_quality([.5], [.5], [True]), 'given has dtype float64'),
    (lambda: plot_quality([.5], [-1], [True]), 'least value -1'),
    (lambda: plot_quality([.5], [0], [7]), 'is_issue has dtype int64'),
    (lambda: plot_quality([.5], [2], [True], ['a', 'b']), 'given has the class 2'),
    (lambda: plot_quality([.5], [0], [True], ['a', 'b'], thresholds=[.5]), r'thresholds has shape \(1,\) for 2'),
    (lambda: plot_quality([.5], [0], [True], max_classes=0), 'max_classes is 0'),
    (lambda: plot_quality([.5], [0], [True], bins=0), 'bins is 0'),
    (lambda: plot_class_health([.1, .2], [.1]), r'inverse_noise has shape \(1,\) for 2'),
    (lambda: plot_class_health([.1, 2], [.1, 0]), 'noise has values from 0.1 to 2'),
    (lambda: plot_class_health([.1], [.1], ['a', 'b']), 'vocab has 2 names'),
    (lambda: plot_class_health([.1], [.1], counts=[1, 2]), 'counts has 2 entries'),
    (lambda: plot_class_health([.1], [.1], max_classes=0), 'max_classes is 0'),
    (lambda: plot_found([], [], [], []), r'reviewed has shape \(0,\)'),
    (lambda: plot_found([0, 1], [1, 2], [1], [3, 3]), r'low has shape \(1,\)'),
    (lambda: plot_found([0, 1], [1, np.nan], [1, 1], [3, 3]), 'found has .* not finite'),
    (lambda: plot_found([1, 0], [1, 2], [1, 1], [3, 3]), 'reviewed falls'),
    (lambda: plot_found([0, 1], [1, 4], [1, 1], [3, 3]), 'found is 4 at point 1, outside of its interval from 1 to 3'),
    (lambda: shorten('a', 0), 'n is 0'),
])
def test_bad_input_is_named_and_leaves_no_figure(call, message):
    with pytest.raises(ValueError, match=message): call()
    assert not plt.get_fignums()


@pytest.mark.parametrize('vocab, script, font', [
    (['猫', '狗'], 'CJK', 'Noto Sans CJK SC'), (['แมว', 'หมา'], 'Thai', 'Noto Sans Thai'),
    (['बिल्ली', 'कुत्ता'], 'Devanagari', 'Noto Sans Devanagari'), (['개', '말'], 'Hangul', 'Noto Sans CJK SC'),
    (['🐴', '🐶'], 'Emoji', 'Noto Emoji')])
def test_font_without_the_script_of_the_names_is_said_once_per_picture(vocab, script, font, monkeypatch):
    monkeypatch.setattr('matplotlib.font_manager.fontManager.ttflist', [])
    _names._font_advice.cache_clear()
    plots = [lambda: plot_matrix(confusion(2), vocab), lambda: plot_items(vocab, vocab),
             lambda: plot_class_health([.1, .2], [0, 0], vocab),
             lambda: plot_quality(np.linspace(0, 1, 4), [0, 1, 0, 1], np.ones(4, dtype=bool), vocab)]
    for f in plots:
        with pytest.warns(UserWarning) as said: draw(np.ravel(f()))
        text = str(said[0].message)
        assert len(said) == 1 and f'({script})' in text and f"install a font that has them, such as {font}" in text
        assert f"plt.rcParams[\"font.family\"] = ['sans-serif', '{font}']" in text
    _names._font_advice.cache_clear()


def test_thousands_of_class_names_take_no_time():
    names = [f'c{i:04d}' for i in range(30_000)]
    start = time.perf_counter()
    assert _names.class_names(names, len(names), 'matrix') == names
    assert time.perf_counter() - start < 1
