"Pictures of hostile and odd items"
import numpy as np
import pytest

from fastai_clean.all import plot_items

HOSTILE = ['<img src=x onerror=alert(1)>', r'$\frac{1}{0', 'x'*10_000, '', 'a\n\nb', '$$', '\u202eright to left', '\\',
           '\x00\x07', '\ud800']


def test_hostile_texts_and_titles_are_drawn_as_text():
    axs = plot_items(HOSTILE, HOSTILE)
    axs[0].figure.canvas.draw()
    assert [ax.get_title(loc='left') for ax in axs[:-2]] == HOSTILE[:-2]
    assert all(not o.get_parse_math() for ax in axs for o in ax.texts)
    assert len(axs[2].texts[0].get_text().splitlines()) == 8


@pytest.mark.parametrize('n, shape', [(1, (1, 1)), (4, (2, 2)), (5, (2, 3)), (9, (3, 3))])
def test_images_make_a_square_grid(n, shape):
    axs = plot_items([np.zeros((4, 5, 3)), *[np.ones((3, 3))]*(n - 1)], ['t']*n)
    assert len(axs) == n and axs[0].get_subplotspec().get_gridspec().get_geometry() == shape


def test_bad_input_is_named():
    with pytest.raises(ValueError, match='items is empty'): plot_items([], [])
    with pytest.raises(ValueError, match='1 entries for 2'): plot_items(['a', 'b'], ['t'])
