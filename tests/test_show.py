"Items as they are shown: tables with gaps, images of any channels, what only the user's class can open"
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from fastai.data.block import CategoryBlock, DataBlock, TransformBlock
from fastai.data.transforms import IndexSplitter
from fastai.tabular.core import Categorify, FillMissing, Normalize, TabularPandas
from fastai.vision.core import PILImage, TensorImage
from fastai.vision.data import ImageBlock
from PIL import Image

from fastai_clean.data.show import decoded_frame, show_item

COLOURS = np.stack([*np.mgrid[:6, :9]/8, np.ones((6, 9))]).astype(np.float32)  # (3, 6, 9)


def shown(*blocks, x=None, **kwargs):
    "What is shown of the first of two items"
    items = ['a', 'b']
    db = DataBlock((*(blocks or (TransformBlock,)), CategoryBlock), get_x=x, get_y=lambda o: o, splitter=IndexSplitter([1]),
                   **kwargs)
    return show_item(db.datasets(items).train, 0)


@pytest.mark.parametrize('procs', [[Categorify, FillMissing, Normalize], [FillMissing], [Normalize, FillMissing]])
def test_table_with_gaps_shows_its_rows_and_the_gap(procs):
    df = pd.DataFrame({'age': [1., 2, 3, 4], 'edu': [5, np.nan, 7, 8], 'y': list('abab')})
    for to in (TabularPandas(df, procs, [], ['age', 'edu'], 'y'),
               TabularPandas(df, procs, [], ['age', 'edu'], 'y', splits=([0, 1], [2, 3])).train):
        assert [show_item(to, i) for i in (0, 1)] == ['age: 1\nedu: 5', 'age: 2\nedu: nan']


def test_column_that_only_looks_like_one_of_fill_missing_is_kept():
    df = pd.DataFrame({'edu': [5., 6, 7, 8], 'edu_na': ['yes', 'no', 'yes', 'no'], 'y': list('abab')})
    to = TabularPandas(df, [Categorify, Normalize], ['edu_na'], ['edu'], 'y')
    assert show_item(to, 0) == 'edu_na: yes\nedu: 5' and 'edu_na' in decoded_frame(to)


@pytest.mark.parametrize('channels', [2, 3, 4, 5, 8, 12, 13])
@pytest.mark.parametrize('kind', [torch.as_tensor, np.asarray])
def test_image_of_any_channels_is_shown_by_its_first_three(kind, channels):
    bands = np.concatenate([COLOURS]*5)[:channels]*np.arange(1, channels + 1)[:, None, None] - 3
    image = shown(x=lambda _: kind(bands.astype(np.float32)))
    assert image.shape == (6, 9, 3) and (image.min(), image.max()) == (0, 1)
    if channels == 3: return
    # Each by itself, since one band may be a thousand times as bright as another
    assert np.allclose(image[..., 0], COLOURS[0]/COLOURS[0].max()) and image[0, -1, 1] == 1
    assert channels > 2 or not image[..., 2].any()


@pytest.mark.parametrize('value, shape', [
    (COLOURS[0]*60_000, (6, 9)), ((COLOURS[0]*60_000).astype(np.uint16), (6, 9)), (COLOURS.transpose(1, 2, 0), (6, 9, 3)),
    (np.tile(COLOURS.transpose(1, 2, 0), (4, 4, 2)), (24, 36, 3)), (-COLOURS, (6, 9, 3)), (COLOURS > .5, (6, 9, 3)),
    (COLOURS[None], (6, 9, 3)), (COLOURS[None, :1].repeat(2, 0), (6, 20, 3)), (np.ones((1, 5, 6, 9)), (6, 9)),
    (COLOURS*1j, (6, 9, 3))])
def test_arrays_and_tensors_of_any_kind_are_images(value, shape):
    for kind in (np.asarray, torch.as_tensor): assert shown(x=lambda _, kind=kind: kind(value)).shape == shape


def test_missing_pixels_are_black_and_do_not_hide_the_others():
    image = shown(x=lambda _: np.array([[np.nan, 2.], [4, np.inf]]))
    assert image.tolist() == [[0, 0], [1, 0]]
    assert shown(x=lambda _: torch.ones(2, 3, dtype=torch.bfloat16)).tolist() == [[0]*3]*2


class Raw(PILImage):
    "Files that PIL cannot open"
    @classmethod
    def create(cls, fn, **kwargs): return cls(Image.fromarray(np.load(fn)))


class Bands(TensorImage):
    "Draws itself"
    def show(self, ctx=None, **kwargs): return ctx.imshow(np.full((2, 2, 3), (255, 0, 0)))


class Curve:
    "Draws itself in a figure of its own"
    def show(self, **kwargs): plt.figure(facecolor='lime')


def test_file_that_only_the_users_class_can_open_is_opened_by_it(tmp_path):
    pixels = (COLOURS.transpose(1, 2, 0)*255).astype(np.uint8)
    np.save(tmp_path/'a.npy', pixels)
    assert (shown(ImageBlock(Raw), x=lambda _: tmp_path/'a.npy') == pixels).all()


def test_class_with_a_show_of_its_own_is_shown_by_it():
    before = plt.get_fignums()
    image = shown(x=lambda _: Bands(torch.zeros(5, 4, 4)))
    assert (image[150, 150] == (255, 0, 0)).all()
    assert (shown(x=lambda _: Curve())[0, 0] == (0, 255, 0)).all() and plt.get_fignums() == before


def test_several_inputs_are_shown_side_by_side(tmp_path):
    Image.new('RGB', (9, 6), 'red').save(tmp_path/'a.png')
    def path(_): return tmp_path/'a.png'
    image = shown(ImageBlock, ImageBlock, x=[path, lambda _: Image.new('RGB', (4, 4))], n_inp=2)
    assert image.shape == (6, 15, 3) and (image[0, 0] == (255, 0, 0)).all() and not image[3, -1].any()
    assert shown(ImageBlock, TransformBlock, x=[path, lambda _: 'said'], n_inp=2) == '(image)\nsaid'
