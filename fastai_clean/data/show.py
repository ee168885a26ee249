"One item of a data set, as a reviewer can look at it"
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from fastai.data.core import Datasets
from fastai.tabular.core import FillMissing, Tabular
from fastai.text.core import BOS, PAD, TK_MAJ, TK_REP, TK_UP, TK_WREP
from fastai.text.data import Numericalize
from fastai.torch_core import no_random
from fastai.vision.core import PILBase
from fastcore.foundation import L
from fastcore.xtras import is_listy
from matplotlib import colormaps
from matplotlib import pyplot as plt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from .._images import Unreadable, pixels_of, upright
from .subsets import plain_dl

MAX_CHANNELS = 16  # Of an image (Sentinel-2 has 13); more are something else


def show_item(
    ds: Any,  # The data set of a DataLoader without augmentation
    i: int,  # Position of the item
) -> np.ndarray | str:  # An image (h, w, 3) or (h, w); a text for texts and rows of tables
    """Item `i`, or `Unreadable` with the reason if loading it raises anything. Images are turned
    upright as their EXIF data say, which fastai does not do."""
    try:
        if isinstance(ds, Tabular):
            row = decoded_frame(ds.new(ds.items.iloc[[i]])).iloc[0]
            # What FillMissing added is among the names, but no longer in the user's own values
            return _table_row(row, [o for o in ds.x_names if o in row.index])
        if not isinstance(ds, Datasets): return _shown(ds[i][0])
        if (text := _own_text(ds, i)) is not None: return text
        return _beside([_shown_input(o, i) for o in ds.tls[:max(1, ds.n_inp)]])
    except Exception as e:  # noqa: BLE001  the user's code may raise anything: the reason is shown
        return Unreadable(f'{type(e).__name__}: {e}')


def show_masks(
    dl: Any,  # DataLoader without augmentation, whose targets are masks
    i: int,  # Position of the item
    given: np.ndarray,  # Mask (h, w) of class indices
    predicted: np.ndarray,  # Mask (h, w) of class indices
) -> np.ndarray | str:  # (h, 3w + gaps, 3), floats 0 to 1
    """Image, given mask and predicted mask of item `i`, side by side; or `Unreadable` with the
    reason"""
    try:
        # Decoded from a batch, not read from the file: the masks have the size that the model saw
        one = plain_dl(dl, [i])
        with no_random(): image = _shown(one.decode_batch(next(iter(one)), max_n=1)[0][0])
        if isinstance(image, str): raise ValueError(f'the input of the masks is no image: {image}')
    except Exception as e:  # noqa: BLE001  as above
        return Unreadable(f'{type(e).__name__}: {e}')

    h, w = given.shape
    if image.dtype != np.uint8: image = (image*255).astype(np.uint8)
    image = Image.fromarray(image).convert('RGB').resize((w, h))
    gap = np.ones((h, max(1, w//32), 3))
    masks = [colormaps['tab20'](np.asarray(o) % 20)[..., :3] for o in (given, predicted)]
    return np.concatenate([np.asarray(image)/255, gap, masks[0], gap, masks[1]], 1)


def image_path(
    ds: Any,  # A data set
    i: int,  # Position of the item
) -> Path | None:
    "The image file of item `i`, or None if the item is not loaded from one"
    if not isinstance(ds, Datasets) or not any(map(_opens_image, ds.tls[0].tfms.fs)): return None
    x = _item(ds.tls[0], i)
    try:
        for f in ds.tls[0].tfms.fs:
            if _opens_image(f): return Path(x) if isinstance(x, (str, Path)) else None
            x = f(x, split_idx=1)
    except Exception: pass  # `show_item` gives the reason
    return None


def readable(
    tokens: Iterable,  # fastai's tokens of one text
) -> str:
    "The text of fastai's tokens, with its marks for capitals and repetitions undone"
    words = []
    tokens = iter(map(str, tokens))
    for o in tokens:
        if o in (BOS, PAD): continue
        if o == TK_MAJ: o = next(tokens, '').capitalize()
        elif o == TK_UP: o = next(tokens, '').upper()
        elif o in (TK_REP, TK_WREP): o = _repeated(o, next(tokens, ''), tokens)
        words.append(o)
    return ' '.join(words)


def _repeated(mark, n, tokens):
    if not n.isdecimal(): return f'{mark} {n}'
    sep = ' ' if mark == TK_WREP else ''
    # The number is data: "xxrep 999999999 a" would be a gigabyte
    return sep.join([next(tokens, '')]*min(int(n), 100))


def decoded_frame(
    to: Tabular,  # A fastai table
) -> pd.DataFrame:
    "Its rows in the user's own values; what FillMissing made up is missing again"
    # `decode` changes its table in place: give it a copy
    df = to.new(to.items).decode().items
    # By what the procs did, not by the name: a column `x_na` may be the user's own
    filled = [o for f in to.procs.fs if isinstance(f, FillMissing) and f.add_col for o in f.na_dict]
    made = [f'{o}_na' for o in filled if f'{o}_na' in df]
    for o in made: df[o[:-3]] = df[o[:-3]].where(~df[o].astype(str).eq('True'))
    for o in to.cat_names: df[o] = df[o].where(df[o].astype(str) != '#na#')
    return df.drop(columns=made)


def own_frame(
    ds: Any,  # A data set
) -> pd.DataFrame | None:
    """The rows of the user's DataFrame that the items of `ds` are made from, or None.

    A tokenizer that reads a DataFrame replaces its texts by tokens, but only in the input's own
    copy: the target's has the texts."""
    if not isinstance(ds, Datasets):
        items = getattr(ds, 'items', None)
        return items if isinstance(items, pd.DataFrame) else None
    return next((o.items for o in reversed(ds.tls) if isinstance(o.items, pd.DataFrame)), None)


def _own_text(ds, i):
    "The text of item `i` before it was tokenized, or None if fastai has not kept it"
    frame = own_frame(ds)
    names = next((f.text_cols for f in ds.tls[0].tfms.fs if hasattr(f, 'text_cols')), None)
    if frame is None or names is None: return None
    names = [frame.columns[o] if isinstance(o, int) else o for o in L(names)]
    texts = [frame[o].iloc[i] for o in names if o in frame]
    whole = len(texts) == len(names) and all(isinstance(o, str) for o in texts)
    return '\n'.join(texts) if whole else None


def _table_row(row, names, n=10):
    lines = []
    for o in names[:n]:
        number = isinstance(row[o], (float, np.floating))
        lines.append(f'{o}: {row[o]:.5g}' if number else f'{o}: {row[o]}')
    if len(names) > n: lines.append(f'… {len(names) - n} more')
    return '\n'.join(lines)


def _item(tl, i): return tl.items.iloc[i] if hasattr(tl.items, 'iloc') else tl.items[i]


def _opens_image(f): return 'PIL' in getattr(f, 'name', '')


def _shown_input(tl, i):
    "Item `i` of one of the inputs"
    x = _item(tl, i)
    path = None
    for f in tl.tfms.fs:
        # Only for fastai's own way to open a file: what a class of the user opens, PIL may not
        plain = getattr(f, 'name', '') == PILBase.create.__qualname__
        if plain and isinstance(x, (str, Path)): path = Path(x)
        # As in validation: the user's transforms of `split_idx` 0 are augmentations
        x = f(x, split_idx=1)
    if isinstance(x, Image.Image): return _shown(upright(x, path))
    if _is_picture(x): return _shown(x)
    tokens = _tokens(tl, i)
    return readable(str(tl.decode(x)).split(' ') if tokens is None else tokens)


def _tokens(tl, i):
    """The tokens of item `i`, or None. The numbers that stand for them have lost words outside the
    vocab"""
    x = _item(tl, i)
    for f in tl.tfms.fs:
        if isinstance(f, Numericalize): return x if is_listy(x) else None
        x = f(x, split_idx=1)


def _is_picture(x):
    "Whether `x` is shown as pixels"
    if _own_show(x) or isinstance(x, Image.Image): return True
    if isinstance(x, (tuple, L)): return len(x) > 0 and all(map(_is_picture, x))
    return isinstance(x, (np.ndarray, torch.Tensor)) and x.ndim > 1


def _own_show(x):
    "Whether the class of `x` draws itself, by a method that is not fastai's"
    show = getattr(type(x), 'show', None)
    home = (getattr(show, '__module__', None) or '').split('.')[0]
    return callable(show) and home not in ('', 'fastai', 'fastcore', 'PIL', 'torch')


def _shown(x):
    if _own_show(x): return _drawn(x)
    if isinstance(x, Image.Image):
        # 16-bit and float images would be clipped to 255 by a conversion to RGB
        if x.mode[0] in 'IF': return _as_image(np.asarray(x, dtype=np.float32))
        return np.asarray(x.convert('RGB'))
    if isinstance(x, (tuple, L)) and _is_picture(x): return _beside([_shown(o) for o in x])
    if isinstance(x, torch.Tensor):
        x = x.detach().cpu().resolve_conj()
        # NumPy has no bfloat16
        x = (x.float() if x.is_floating_point() else x).numpy()
    return _as_image(x) if isinstance(x, np.ndarray) else str(x)


def _beside(shown):
    "Pictures side by side, as high as the highest; texts one below the other"
    if len(shown) == 1: return shown[0]
    if not all(isinstance(o, np.ndarray) for o in shown):
        return '\n'.join(o if isinstance(o, str) else '(image)' for o in shown)
    images = [Image.fromarray(pixels_of(o)).convert('RGB') for o in shown]
    height = max(o.height for o in images)
    gap = max(2, height//40)
    width = sum(o.width for o in images) + gap*(len(images) - 1)
    whole = Image.new('RGB', (width, height), 'white')
    x = 0
    for o in images:
        whole.paste(o, (x, (height - o.height)//2))
        x += o.width + gap
    return np.asarray(whole)


def _drawn(x):
    "What the own `show` of `x` draws, as pixels"
    before = set(plt.get_fignums())
    try:
        fig = Figure(figsize=(3, 3), dpi=100)
        ax = fig.add_axes((0, 0, 1, 1))
        ax.axis('off')
        with plt.ioff(): x.show(ctx=ax)
        new = sorted(set(plt.get_fignums()) - before)
        # It may not know `ctx`, and have made a figure of its own
        if not ax.has_data() and new: fig = plt.figure(new[-1])
        canvas = FigureCanvasAgg(fig)
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()
    finally:
        for o in set(plt.get_fignums()) - before: plt.close(o)


def _as_image(x):
    """Numbers (h, w), (c, h, w), (h, w, c) or more as an image of floats 0 to 1, stretched: they
    may be normalized in any way. Of more than three channels the first three are the colours, each
    stretched by itself; of two, they are red and green; of frames four, of a volume the middle."""
    x = np.abs(x) if x.dtype.kind == 'c' else x
    if x.ndim not in (2, 3, 4) or not x.size or x.dtype.kind not in 'biuf':
        return f'tensor of shape {tuple(x.shape)}'
    if x.ndim == 4 and x.shape[1] in (1, 3):
        at = np.linspace(0, len(x) - 1, min(4, len(x))).astype(int)
        return _beside([_as_image(x[i]) for i in at])
    if x.ndim == 4: x = x[:, x.shape[1]//2]
    x = x.astype(np.float32)
    if x.ndim == 2: return _stretched(x)

    # A tensor has its channels first, most arrays last; few of them are fewer than the pixels
    first, height, last = x.shape
    if first in (1, 3) or first <= MAX_CHANNELS and not last <= 4 < min(first, height):
        x = x.transpose(1, 2, 0)
    if x.shape[-1] > MAX_CHANNELS: return f'tensor of shape {(first, height, last)}'
    if x.shape[-1] == 1: return _stretched(x[..., 0])
    if x.shape[-1] == 3: return _stretched(x)
    bands = [_stretched(x[..., k]) for k in range(min(3, x.shape[-1]))]
    if len(bands) == 2: bands.append(np.zeros_like(bands[0]))
    return np.stack(bands, -1)


def _stretched(x):
    fits = np.isfinite(x)
    low, high = (x[fits].min(), x[fits].max()) if fits.any() else (0, 0)
    res = (x - low)/np.float32(max(high - low, 1e-12))
    return np.where(fits, res, 0)
