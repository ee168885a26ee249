"One item of a data set, as a person can look at it"
from pathlib import Path

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
from . import plain_dl


def show_item(
    ds,  # The data set of a DataLoader without augmentation
    i,  # Position of the item
):
    """Item `i` as an array (h, w, 3) or (h, w) or, for text and tables, a string; `Unreadable`, with the reason, where
    loading it raises anything. Images are turned upright as their EXIF data say, which fastai does not do."""
    try:
        if isinstance(ds, Tabular):
            row = decoded_frame(ds.new(ds.items.iloc[[i]])).iloc[0]
            return _table_row(row, [*ds.x_names])
        if not isinstance(ds, Datasets): return _shown(ds[i][0], ds, i)
        x, path = _load(ds.tls[0], i)
        return _shown(upright(x, path) if isinstance(x, Image.Image) else x, ds, i)
    except Exception as e:  # noqa: BLE001  a person's loading code may raise anything; the reason is shown
        return Unreadable(f'{type(e).__name__}: {e}')


def show_masks(
    dl,  # DataLoader without augmentation, whose targets are masks
    i,  # Position of the item
    given,  # Mask (h, w) of class indices
    predicted,  # Mask (h, w)
):
    "Image, given mask and predicted mask of item `i`, side by side, (h, 3w + gaps, 3); or `Unreadable`"
    try:
        one = plain_dl(dl, [i])
        with no_random(): image = _as_image(one.decode_batch(next(iter(one)), max_n=1)[0][0])
    except Exception as e:  # noqa: BLE001  as above
        return Unreadable(f'{type(e).__name__}: {e}')
    h, w = given.shape
    image = np.asarray(Image.fromarray((image*255).astype(np.uint8)).convert('RGB').resize((w, h)))/255
    gap = np.ones((h, max(1, w//32), 3))
    masks = [colormaps['tab20'](np.asarray(o) % 20)[..., :3] for o in (given, predicted)]
    return np.concatenate([image, gap, masks[0], gap, masks[1]], 1)


def image_path(
    ds,  # A data set
    i,  # Position of the item
) -> Path | None:
    "The image file of item `i`, or None where it is not loaded from one"
    if not isinstance(ds, Datasets) or not any(map(_opens_image, ds.tls[0].tfms.fs)): return None
    x = _item(ds.tls[0], i)
    try:
        for f in ds.tls[0].tfms.fs:
            if _opens_image(f): return Path(x) if isinstance(x, (str, Path)) else None
            x = f(x, split_idx=1)
    except Exception: return None  # `show_item` gives the reason


def readable(
    tokens,  # fastai's tokens of one text
) -> str:
    "The text of fastai's tokens, its marks for capitals and repetitions undone"
    res, tokens = [], iter(map(str, tokens))
    for o in tokens:
        if o in (BOS, PAD): continue
        if o == TK_MAJ: o = next(tokens, '').capitalize()
        elif o == TK_UP: o = next(tokens, '').upper()
        elif o in (TK_REP, TK_WREP):
            n, sep = next(tokens, ''), ' ' if o == TK_WREP else ''
            o = sep.join([next(tokens, '')]*min(int(n), 100)) if n.isdecimal() else f'{o} {n}'
        res.append(o)
    return ' '.join(res)


def decoded_frame(
    to,  # A fastai Tabular
) -> pd.DataFrame:
    "Its rows in the person's own values; what was missing, and FillMissing made up, is missing again"
    df = to.new(to.items).decode().items
    made = [o for o in to.cat_names if o.endswith('_na') and o[:-3] in to.cont_names]
    for o in made: df[o[:-3]] = df[o[:-3]].where(~df[o].astype(str).eq('True'))
    for o in to.cat_names: df[o] = df[o].where(df[o].astype(str) != '#na#')
    return df.drop(columns=made)


def _table_row(row, names, n=10):
    lines = [f'{o}: {row[o]:.5g}' if isinstance(row[o], (float, np.floating)) else f'{o}: {row[o]}' for o in names[:n]]
    return '\n'.join([*lines, *([f'… {len(names) - n} more'] if len(names) > n else [])])


def _item(tl, i): return tl.items.iloc[i] if hasattr(tl.items, 'iloc') else tl.items[i]


def _opens_image(f): return 'PIL' in getattr(f, 'name', '')


def _load(tl, i):
    "Input `i`, and the image file it came from or None"
    x, path = _item(tl, i), None
    for f in tl.tfms.fs:
        if _opens_image(f) and isinstance(x, (str, Path)): path = Path(x)
        x = f(x, split_idx=1)
    return x, path


def _shown(x, ds, i):
    text = isinstance(ds, Datasets)
    if isinstance(x, Image.Image):
        return _as_image(torch.as_tensor(np.asarray(x, dtype=np.float32))) if x.mode[0] in 'IF' else np.asarray(
            x.convert('RGB'))
    if isinstance(x, torch.Tensor) and (not text or x.ndim > 1): return _as_image(x)
    if not text: return str(x)
    tokens = _tokens(ds.tls[0], i)
    return readable(str(ds.tls[0].decode(x)).split(' ') if tokens is None else tokens)


def _tokens(tl, i):
    "The tokens of item `i` before numbers stand for them, which lose the words outside the vocab; or None"
    x = _item(tl, i)
    for f in tl.tfms.fs:
        if isinstance(f, Numericalize): return x if is_listy(x) else None
        x = f(x, split_idx=1)


def _as_image(x):
    x = x.detach().cpu().float()
    if x.ndim == 3 and x.shape[0] in (1, 3): x = x.permute(1, 2, 0)
    if x.ndim == 3 and x.shape[-1] == 1: x = x[..., 0]
    if x.ndim not in (2, 3): return f'tensor of shape {tuple(x.shape)}'
    lo, hi = x.min(), x.max()
    return ((x - lo)/(hi - lo).clamp_min(1e-12)).numpy()
