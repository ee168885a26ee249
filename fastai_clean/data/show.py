"One item of a data set, as a reviewer can look at it"
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from fastai.data.core import Datasets
from fastai.tabular.core import Tabular
from fastai.text.core import BOS, PAD, TK_MAJ, TK_REP, TK_UP, TK_WREP
from fastai.text.data import Numericalize
from fastai.torch_core import no_random
from fastcore.xtras import is_listy
from matplotlib import colormaps
from PIL import Image

from .._images import Unreadable, upright
from .subsets import plain_dl


def show_item(
    ds: Any,  # The data set of a DataLoader without augmentation
    i: int,  # Position of the item
) -> np.ndarray | str:  # An image (h, w, 3) or (h, w); a text for texts and rows of tables
    """Item `i`, or `Unreadable` with the reason if loading it raises anything. Images are turned
    upright as their EXIF data say, which fastai does not do."""
    try:
        if isinstance(ds, Tabular):
            row = decoded_frame(ds.new(ds.items.iloc[[i]])).iloc[0]
            return _table_row(row, [*ds.x_names])
        if not isinstance(ds, Datasets): return _shown(ds[i][0], ds, i)
        x, path = _load(ds.tls[0], i)
        return _shown(upright(x, path) if isinstance(x, Image.Image) else x, ds, i)
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
        with no_random(): image = _as_image(one.decode_batch(next(iter(one)), max_n=1)[0][0])
    except Exception as e:  # noqa: BLE001  as above
        return Unreadable(f'{type(e).__name__}: {e}')

    h, w = given.shape
    image = Image.fromarray((image*255).astype(np.uint8)).convert('RGB').resize((w, h))
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
    made = [o for o in to.cat_names if o.endswith('_na') and o[:-3] in to.cont_names]
    for o in made: df[o[:-3]] = df[o[:-3]].where(~df[o].astype(str).eq('True'))
    for o in to.cat_names: df[o] = df[o].where(df[o].astype(str) != '#na#')
    return df.drop(columns=made)


def _table_row(row, names, n=10):
    lines = []
    for o in names[:n]:
        number = isinstance(row[o], (float, np.floating))
        lines.append(f'{o}: {row[o]:.5g}' if number else f'{o}: {row[o]}')
    if len(names) > n: lines.append(f'… {len(names) - n} more')
    return '\n'.join(lines)


def _item(tl, i): return tl.items.iloc[i] if hasattr(tl.items, 'iloc') else tl.items[i]


def _opens_image(f): return 'PIL' in getattr(f, 'name', '')


def _load(tl, i):
    "Input `i`, and the image file that it came from, or None"
    x = _item(tl, i)
    path = None
    for f in tl.tfms.fs:
        if _opens_image(f) and isinstance(x, (str, Path)): path = Path(x)
        # As in validation: the user's transforms of `split_idx` 0 are augmentations
        x = f(x, split_idx=1)
    return x, path


def _shown(x, ds, i):
    fastai_data = isinstance(ds, Datasets)
    if isinstance(x, Image.Image):
        # 16-bit and float images would be clipped to 255 by a conversion to RGB
        if x.mode[0] in 'IF': return _as_image(torch.as_tensor(np.asarray(x, dtype=np.float32)))
        return np.asarray(x.convert('RGB'))
    if isinstance(x, torch.Tensor) and (not fastai_data or x.ndim > 1): return _as_image(x)
    if not fastai_data: return str(x)
    tokens = _tokens(ds.tls[0], i)
    return readable(str(ds.tls[0].decode(x)).split(' ') if tokens is None else tokens)


def _tokens(tl, i):
    """The tokens of item `i`, or None. The numbers that stand for them have lost words outside the
    vocab"""
    x = _item(tl, i)
    for f in tl.tfms.fs:
        if isinstance(f, Numericalize): return x if is_listy(x) else None
        x = f(x, split_idx=1)


def _as_image(x):
    "A tensor as an image of floats 0 to 1, stretched: it may be normalized in any way"
    x = x.detach().cpu().float()
    if x.ndim == 3 and x.shape[0] in (1, 3): x = x.permute(1, 2, 0)
    if x.ndim == 3 and x.shape[-1] == 1: x = x[..., 0]
    if x.ndim not in (2, 3): return f'tensor of shape {tuple(x.shape)}'
    low = x.min()
    return ((x - low)/(x.max() - low).clamp_min(1e-12)).numpy()
