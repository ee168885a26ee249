"Images with wrong labels as frames of path, label, true_label and is_valid"
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from fastai.data.external import URLs
from fastai.data.transforms import get_image_files

from ..download import fetch
from ..frames import check_values

__all__ = ['NOISE_LEVELS', 'VERSIONS', 'imagenette_path', 'imagenette_version', 'noisy_imagenette', 'noisy_mnist']

NOISE_LEVELS = 0, 1, 5, 25, 50
VERSIONS = 160, 320, 'full'
MNIST_ITEMS = 70_000
_MNIST_SPLITS = ('training', 'testing'), ('train', 'valid')


def imagenette_version(
    size,  # Side in pixels of the images that a model is to see
) -> int | str:  # One of `VERSIONS`
    "The smallest version of Imagenette whose images need not be enlarged to `size`"
    return next((o for o in VERSIONS[:-1] if size <= o), VERSIONS[-1])


def imagenette_path(
    size=160,  # Pixels of the images' shorter side, one of `VERSIONS`: 99 MB, 342 MB or 1.6 GB to download
    woof=False,  # Whether to take Imagewoof, ten breeds of dogs
) -> Path:
    """The folder of Imagenette as fastai publishes it, downloaded where it is not there. Raises ValueError for an
    unknown size or a wrong download, ConnectionError without network; both say which file to put where."""
    if size not in VERSIONS: raise ValueError(f"size is {size!r}: choose one of 160, 320 and 'full'")
    name = 'IMAGEWOOF' if woof else 'IMAGENETTE'
    return fetch(getattr(URLs, name if size == 'full' else f'{name}_{size}'))


def noisy_imagenette(
    path=None,  # Folder of Imagenette and its CSV; None: `imagenette_path(size, woof)`
    pct_noise=5,  # Wrong training labels in per cent, one of `NOISE_LEVELS`
    size=160,  # Which images to download where `path` is None, see `imagenette_path`
    woof=False,  # Whether it is Imagewoof
) -> pd.DataFrame:  # Columns path, label, true_label, is_valid; a row an image
    """Noisy Imagenette (tmabraham.github.io/blog/noisy_imagenette): `label` is true_label, but for the wrong share of
    the training rows. `path` is relative to the folder.

    Raises FileNotFoundError where the CSV or an image is missing, ValueError for an unknown noise level and a CSV that
    lacks a column or names files outside the folder, and what `imagenette_path` raises."""
    if pct_noise not in NOISE_LEVELS: raise ValueError(f"pct_noise is {pct_noise!r}: choose one of 0, 1, 5, 25 and 50")
    todo = 'delete the folder to have it downloaded and unpacked anew' if path is None else \
        'unpack the archive anew elsewhere, or pass imagenette_learner a df of the rows that are there'
    path = imagenette_path(size, woof) if path is None else Path(path)
    file = path/('noisy_imagewoof.csv' if woof else 'noisy_imagenette.csv')
    if not file.is_file():
        raise FileNotFoundError(f"{file} is not there: fastai's archives of 2022 and later hold it, so pass the folder "
                                "of such a one, or leave path out, and delete an older folder, to have it downloaded")
    try: df = pd.read_csv(file)
    except ValueError as e: raise ValueError(f"{file} is no CSV ({e}): take the published file") from e
    columns = {'path': 'path', 'label': f'noisy_labels_{int(pct_noise)}', 'true_label': 'noisy_labels_0',
               'is_valid': 'is_valid'}
    lacking = {*columns.values()} - {*df.columns}
    if lacking: raise ValueError(f"{file} lacks the column {' and '.join(sorted(lacking))}: take the published file")
    df = pd.DataFrame({name: df[o] for name, o in columns.items()})
    try: check_values(df, columns)
    except ValueError as e: raise ValueError(f"{file} is not as it was published: {e}") from e
    _check_images(path, df.path, file, todo)
    return df.astype({'is_valid': bool})


def noisy_mnist(
    path=None,  # Folder with training/<digit>/*.png and testing/<digit>/*.png, or train and valid; None: download it
    pct_noise=5,  # Wrong training labels in per cent, 0 to 100
    seed=42,  # Seed of what is wrong
) -> pd.DataFrame:  # Columns path, label, true_label, is_valid; a row an image, in the order of their names
    """MNIST with planted errors: of the training rows exactly the share `pct_noise` is labelled as another class, each
    as likely as the next. Only the frame says so, no file is renamed or moved. `path` is relative to the folder.

    Raises FileNotFoundError where the folder does not hold MNIST, ValueError for an image outside the classes' folders
    and for a share outside 0 to 100, and ConnectionError or ValueError where it cannot be downloaded."""
    if not 0 <= pct_noise <= 100: raise ValueError(f"pct_noise is {pct_noise!r}: pass per cent, 0 to 100")
    root = mnist_path() if path is None else Path(path)
    splits = next((o for o in _MNIST_SPLITS if all((root/name).is_dir() for name in o)), None)
    files = [sorted(get_image_files(root/o)) for o in splits or ()]
    if not all(files) or splits is None:
        raise FileNotFoundError(f"path {root} lacks images in training and testing (or train and valid): pass the "
                                "folder that fastai's mnist_png.tgz holds")
    if path is None and len(files[0]) + len(files[1]) != MNIST_ITEMS:
        raise FileNotFoundError(f"{root} holds {len(files[0]) + len(files[1])} images where MNIST has {MNIST_ITEMS}: "
                                "delete the folder to have it unpacked anew")
    stray = [o for split in files for o in split if len(o.relative_to(root).parts) != 3]
    if stray: raise ValueError(f"path {root} holds {stray[0]}, which lies in no class's folder: take it out")
    true = np.array([o.parent.name for split in files for o in split])
    label, n = true.copy(), len(files[0])
    label[:n] = _plant(true[:n], pct_noise/100, seed)
    return pd.DataFrame({'path': [o.relative_to(root).as_posix() for split in files for o in split], 'label': label,
                         'true_label': true, 'is_valid': np.arange(len(true)) >= n})


def mnist_path() -> Path:
    "The folder of MNIST as fastai publishes it, downloaded where it is not there; raises as `imagenette_path` does"
    return fetch(URLs.MNIST)


def _plant(true, share, seed):
    rng, (vocab, codes) = np.random.default_rng(seed), np.unique(true, return_inverse=True)
    if len(vocab) < 2 and share: raise ValueError(f"path has images of {vocab[0]} alone: wrong labels need 2 classes")
    wrong = rng.choice(len(true), round(share*len(true)), replace=False)
    codes[wrong] = (codes[wrong] + rng.integers(1, max(2, len(vocab)), len(wrong))) % len(vocab)
    return vocab[codes]


def _check_images(path, names, file, todo):
    outside = [o for o in names if PurePosixPath(o).is_absolute() or '..' in PurePosixPath(o).parts]
    if outside: raise ValueError(f"{file} names {outside[0]!r}, outside its folder: take the published file")
    lost = [o for o in names if not (path/o).is_file()]
    if lost:
        raise FileNotFoundError(f"{len(lost)} of {len(names)} images that {file} names are not there, first "
                                f"{path/lost[0]}: {todo}")
