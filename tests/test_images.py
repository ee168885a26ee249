"Images in bytes: any numbers become the picture that they are, small and upright"
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError

from fastai_clean._images import open_upright, scaled, thumbnail


@pytest.mark.parametrize('image, expected', [
    (np.uint8([[0, 200]]), [[0, 200]]), ([[0., 1.]], [[0, 255]]), ([[.5, .25]], [[128, 64]]), ([[0, 1]], [[0, 1]]),
    ([[0., 255.]], [[0, 255]]), ([[True, False]], [[255, 0]]), (np.uint16([[0, 65535]]), [[0, 255]]),
    ([[-1., 1.]], [[0, 255]]), ([[np.nan, np.inf]], [[0, 0]]), ([[7000, 7000]], [[0, 0]]),
    (np.uint8([[[9], [8]]]), [[9, 8]]), (np.uint8([[[1, 2, 3]]]), [[[1, 2, 3]]])])
def test_thumbnail_keeps_the_pixels_of_small_images(image, expected):
    data, mime, *size = thumbnail(image)
    im = Image.open(BytesIO(data))
    assert mime == 'image/png' and size == [*im.size] and np.asarray(im).tolist() == expected


def test_thumbnail_is_small_and_keeps_the_shape():
    noise = np.random.default_rng(0).integers(0, 256, (300, 600, 3), dtype=np.uint8)
    data, mime, width, height = thumbnail(noise)
    assert (mime, width, height) == ('image/jpeg', 160, 80) and Image.open(BytesIO(data)).size == (160, 80)
    assert thumbnail(np.zeros((300, 300)))[1] == 'image/png'
    assert thumbnail(np.zeros((1, 5000)), size=50)[2:] == (50, 1)
    assert Image.open(BytesIO(thumbnail(np.full((90, 90, 4), 7, np.uint8))[0])).mode == 'RGBA'


@pytest.mark.parametrize('image', [np.zeros(3), np.zeros((0, 3)), np.zeros((2, 2, 2)), 'text', None,
                                   np.zeros((2, 2), complex)])
def test_what_is_no_image_is_named(image):
    with pytest.raises(ValueError, match='image has shape'): thumbnail(image)


@pytest.mark.parametrize('image, expected', [
    ([[.25, 1.02]], [[.25, 1]]), ([[0, 255]], [[0, 1]]), ([[-3, 1]], [[0, 1]]), ([[0., 51.]], [[0, .2]]),
    ([[True, False]], [[1, 0]]), ([[np.nan, .5]], [[0, .5]]), (np.ones((1, 1, 1)), [[1]])])
def test_scaled_keeps_what_bytes_would_round(image, expected):
    assert np.allclose(scaled(image), expected, atol=1e-12)


def test_bytes_are_not_copied_and_an_error_names_the_argument():
    image = np.zeros((2, 3), np.uint8)
    assert scaled(image) is image
    with pytest.raises(ValueError, match=r'items\[3\] has shape \(2,\)'): scaled([1, 2], 'items[3]')

def test_file_of_another_format_than_its_name_is_not_opened(tmp_path):
    eps = tmp_path/'a.jpg'
    Image.new('RGB', (9, 9)).save(eps, 'EPS')
    with pytest.raises(UnidentifiedImageError, match=r'a.jpg is not a file that is opened here .*show=interp'):
        open_upright(eps)
    Image.new('RGB', (9, 5)).save(tmp_path/'b.jpg', 'PNG')
    assert open_upright(tmp_path/'b.jpg').shape == (5, 9, 3)


def test_image_of_too_many_pixels_is_refused_and_a_large_photograph_is_not(tmp_path):
    Image.new('1', (7000, 7000)).save(tmp_path/'a.png')
    with pytest.raises(ValueError, match='7000 x 7000 pixels: the most that is shown is 40,000,000'):
        open_upright(tmp_path/'a.png', 160)
    Image.new('L', (8000, 6000)).save(tmp_path/'b.jpg')
    assert open_upright(tmp_path/'b.jpg', 160).shape[:2] == (750, 1000)
