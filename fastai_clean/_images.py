"Images as a page can show them: upright, in bytes, small"
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageOps, UnidentifiedImageError

from ._text import plain

ORIENTATION = 0x0112  # EXIF's tag for how the camera was held
FORMATS = 'BMP', 'GIF', 'JPEG', 'JPEG2000', 'PNG', 'PPM', 'TGA', 'TIFF', 'WEBP'
MAX_PIXELS = 40_000_000
LOSSLESS = 64  # Pictures up to this many pixels a side are PNG, which loses nothing: digits, icons


class Unreadable(str):
    "Stands for an item that cannot be shown, and says why: pages draw it as a grey placeholder"


def open_upright(
    path: str | Path,  # An image file
    size: int | None = None,  # Longest side needed, so that JPEG decodes fewer pixels; None: all
) -> np.ndarray:  # (h, w, 3), or (h, w) if the file holds numbers, not colours
    """The image of a file, turned upright as its EXIF data say, which fastai and PIL do not do.
    Raises ValueError if it has more than `MAX_PIXELS`, beyond what JPEG decodes smaller."""
    # Whatever its name says: an EPS named .jpg would start Ghostscript
    try: opened = Image.open(path, formats=FORMATS)
    except UnidentifiedImageError as e:
        raise UnidentifiedImageError(
            f"{plain(Path(path).name)} is not a file that is opened here ({', '.join(FORMATS)}): "
            "show it as the Learner opens it, with Cleaner(session, show=interp)") from e

    with opened as file:
        if size is not None: file.draft('RGB', (2*size, 2*size))
        # A file of some kB can hold an image that takes gigabytes
        if file.width*file.height > MAX_PIXELS:
            raise ValueError(f"{path} has {file.width} x {file.height} pixels: the most that is "
                             f"shown is {MAX_PIXELS:,}")
        im = ImageOps.exif_transpose(file)
        # 16-bit and float images would be clipped to 255 by a conversion to RGB
        if im.mode[0] in 'IF': return np.asarray(im)
        return np.asarray(im.convert('RGBA' if im.has_transparency_data else 'RGB'))


def upright(
    im: Image.Image,  # An image that was loaded from a file
    path: Path | None,  # The file; None: the image is left as it is
) -> Image.Image:
    "`im`, turned upright as the EXIF data of its file say, which `im` may have lost"
    if path is None: return im
    with Image.open(path) as original: orientation = original.getexif().get(ORIENTATION, 1)
    if orientation == 1: return im
    im.getexif()[ORIENTATION] = orientation
    return ImageOps.exif_transpose(im)


def scaled(
    image: ArrayLike,  # (h, w[, 1, 3 or 4]): booleans, integers 0..255 or floats 0..1
    name: str = 'image',  # What the image is called in an error message
) -> np.ndarray:  # (h, w) or (h, w, 3 or 4): uint8 unchanged, everything else as floats 0..1
    """An image in a known range. Floats beyond 0..1 are read as 0..255, and numbers beyond that are
    stretched from the smallest to the largest; NaN is black. Raises ValueError for an array that
    is not an image."""
    a = np.asarray(image)
    if a.ndim == 3 and a.shape[2] == 1: a = a[..., 0]
    coloured = a.ndim == 3 and a.shape[2] in (3, 4)
    if a.dtype.kind not in 'biuf' or not a.size or not (a.ndim == 2 or coloured):
        raise ValueError(f"{name} has shape {a.shape} and dtype {a.dtype}: pass numbers of shape "
                         "(h, w) or (h, w, 3)")
    if a.dtype == np.uint8: return a

    tops = (1, 255) if a.dtype.kind in 'bf' else (255,)
    a = np.nan_to_num(a.astype(float), posinf=0, neginf=0)
    # Interpolation overshoots a little: 1.02 is still white, not the end of a range to stretch
    fitting = [o for o in tops if a.min() >= -.05 and a.max() <= o + .05]
    low, high = (0, fitting[0]) if fitting else (a.min(), a.max())
    return ((a - low)/((high - low) or 1)).clip(0, 1)


def pixels_of(
    image: ArrayLike,  # As for `scaled`
) -> np.ndarray:  # uint8 (h, w) or (h, w, 3 or 4)
    """An image as bytes, read as `scaled` reads it. Raises ValueError for an array that is not an
    image"""
    a = scaled(image)
    return a if a.dtype == np.uint8 else (a*255).round().astype(np.uint8)


def small(
    image: ArrayLike,  # As for `scaled`
    size: int,  # Longest side in pixels; a smaller image keeps its own
) -> np.ndarray:  # uint8
    "`image` in bytes, shrunk to `size`"
    im = Image.fromarray(pixels_of(image))
    im.thumbnail((size, size))
    return np.asarray(im)


def thumbnail(
    image: ArrayLike,  # As for `scaled`
    size: int = 160,  # Longest side in pixels; a smaller image keeps its own
) -> tuple[bytes, str, int, int]:  # The file, its MIME type, its width and height in pixels
    "A small PNG or JPEG of an image, whichever is smaller. Raises ValueError as `scaled` does"
    im = Image.fromarray(pixels_of(image))
    im.thumbnail((size, size))
    return *encoded(im, lossless=max(im.size) <= LOSSLESS), *im.size


def encoded(
    im: Image.Image,  # An image
    lossless: bool = False,  # Whether it must be PNG
) -> tuple[bytes, str]:  # The file and its MIME type
    "`im` as the smaller of PNG and JPEG"
    png = BytesIO()
    im.save(png, 'PNG', optimize=True)
    if lossless or im.mode == 'RGBA': return png.getvalue(), 'image/png'

    jpeg = BytesIO()
    im.save(jpeg, 'JPEG', quality=88, subsampling=0)
    if len(png.getvalue()) <= len(jpeg.getvalue()): return png.getvalue(), 'image/png'
    return jpeg.getvalue(), 'image/jpeg'
