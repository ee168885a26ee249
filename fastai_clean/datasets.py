"Data of the first experiments: downloads, and frames of images and tweets with wrong labels"
import gzip
import os
import re
import tarfile
import zlib
from collections.abc import Iterable
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import Any

import fastai.data
import numpy as np
import pandas as pd
from fastai.data.external import URLs, fastai_cfg
from fastai.data.transforms import get_image_files
from fastai.losses import CrossEntropyLossFlat, LabelSmoothingCrossEntropy
from fastcore.net import urlopen
from fastdownload.core import checks_module, path_stats, read_checks
from fastprogress.fastprogress import progress_bar

from ._files import sibling, write_file

NOISE_LEVELS = 0, 1, 5, 25, 50  # Per cent of wrong labels that Noisy Imagenette has columns for
VERSIONS = 160, 320, 'full'
MNIST_ITEMS = 70_000
MNIST_SPLITS = ('training', 'testing'), ('train', 'valid')
CLASSES = 'INFORMATIVE', 'UNINFORMATIVE'
SETS = 'train', 'valid', 'test'
MASKS = 'HTTPURL', '@USER'

# Downloads

def fetch(
    url: str,  # Address of a .tgz, for example `URLs.IMAGENETTE_160`
    timeout: float = 60,  # Seconds without an answer after which the download is given up
    instead: str = 'pass path=, the folder that it holds',  # What else to do, for messages
) -> Path:  # The folder to which `untar_data(url)` would unpack
    """Do what `untar_data` does, with checks: the archive gets its name once its size, fastai's
    checksum and gzip's own checksums are right, and the folder once all of it is unpacked.

    Raises a ConnectionError or ValueError that names the address, the file and where to put it."""
    # `untar_data` itself renames a file before checking it, hashes only its first megabyte (nothing
    # at all if it does not know the address), and takes a half-unpacked folder for a whole one; and
    # fastcore 2.2's `urlretrieve` raises NameError if the connection breaks
    name = url.rsplit('/', 1)[-1]
    archive = fastai_cfg().path('archive')/name
    folder = fastai_cfg().path('data')/name.rsplit('.', 1)[0]
    if folder.exists(): return folder
    _download(url, archive, timeout, instead)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with sibling(folder) as tmp:
        try: os.replace(_unpack(archive, tmp), folder)
        except tarfile.TarError as e:
            archive.unlink(missing_ok=True)
            raise ValueError(f"{url} gave an archive that cannot be unpacked ({e}), which is not "
                             f"used: {instead}") from e
        except OSError:
            # Another process may have been faster
            if not folder.exists(): raise
    return folder


def _unpack(archive, folder):
    "What `archive` holds, in the new `folder`: its one folder, or all of it"
    with tarfile.open(archive) as tar:
        # Members with an absolute path, or behind a link, would be written outside of `folder`
        tar.extractall(folder, filter='data')
    found = list(folder.iterdir())
    return found[0] if len(found) == 1 else folder


def _download(url, archive, timeout, instead):
    wanted = read_checks(checks_module(fastai.data)).get(url)
    if archive.exists() and _flaw(archive, wanted) is None: return
    todo = f"get {archive.name} elsewhere and put it at {archive}, or {instead}"

    def write(tmp):
        _save(url, tmp, timeout)
        flaw = _flaw(tmp, wanted)
        if flaw: raise ValueError(f"{url} gave {flaw}, which is not used: {todo}")

    try:
        archive.parent.mkdir(parents=True, exist_ok=True)
        write_file(archive, write, overwrite=True)
    except (OSError, HTTPException) as e:
        raise ConnectionError(f"{url} could not be downloaded ({e}): {todo}") from e


def _save(url, file, timeout):
    with urlopen(url, timeout=timeout) as response, open(file, 'wb') as f:
        said = int(response.headers.get('Content-Length') or 0)
        blocks = iter(lambda: response.read(2**20), b'')
        for block in progress_bar(blocks, total=-(-said//2**20) or 'noinfer'): f.write(block)
        if f.tell() < said: raise ConnectionError(f"only {f.tell()} of {said} bytes arrived")


def _flaw(file, wanted):
    "What is wrong with an archive, or None; `wanted`: its size and first megabyte's MD5, if known"
    size, md5 = path_stats(file)
    if wanted and size != wanted[0]:
        return f"a file of {size} bytes, but fastai expects {wanted[0]}"
    if wanted and md5 != wanted[1]:
        return f"a file with the checksum {md5}, but fastai expects {wanted[1]}"
    # gzip's checksum at the end covers all bytes, but is only checked when they have been read
    try:
        with gzip.open(file) as f:
            while f.read(2**20): pass
    except (OSError, EOFError, zlib.error) as e: return f"a broken .tgz ({e})"
    return None


# Checks that images and tweets share

def check_frame(
    df: Any,  # What the user passed
    needed: Iterable[str] = ('text', 'label', 'is_valid'),  # Columns; text and path must hold text
    source: str = 'covid_tweets',  # The function that makes such a frame, for messages
) -> None:
    """Raise TypeError if `df` is not a DataFrame, and ValueError if it cannot be trained and
    validated on: a column or a value is missing, is_valid is not True or False, or is the same in
    every row, or a label occurs only in validation rows."""
    if not isinstance(df, pd.DataFrame):
        raise TypeError(f"df is a {type(df).__name__}: pass a DataFrame such as {source} returns, "
                        "or DataLoaders")
    missing = [o for o in needed if o not in df]
    if missing: raise ValueError(f"df lacks the column {' and '.join(missing)}: see {source}")
    check_values(df, needed)
    if df.is_valid.nunique() != 2:
        found = df.is_valid.unique().tolist()
        raise ValueError(f"df has only {found} in is_valid: give it training and validation rows")

    if 'label' not in needed: return
    valid = df.is_valid.astype(bool)
    unknown = valid & ~df.label.isin(df.label[~valid])
    _refuse(unknown, df.label, 'validation rows with a label that no training row has')


def check_values(
    df: pd.DataFrame,  # A frame
    needed: Iterable[str],  # Columns to check
) -> None:
    """Raise ValueError if a value of `needed` is missing, one of is_valid is not a boolean, or one
    of text or path is not text."""
    for name in needed:
        values = df[name]
        _refuse(values.isna(), values, f'missing values in {name}')
        if name == 'is_valid':
            _refuse(~values.isin([True, False]), values, 'values in is_valid that are not booleans')
        if name in ('text', 'path'):
            _refuse(~values.map(_is_text), values, f'values in {name} that are not text of UTF-8')


def _refuse(bad, values, what):
    if not bad.any(): return
    i = int(bad.to_numpy().argmax())
    first = ascii(values.tolist()[i])[:80]
    raise ValueError(f"df has {int(bad.sum())} {what}, first {first} in row {i}: correct them or "
                     "leave the rows out")


def _is_text(o):
    if not isinstance(o, str): return False
    # Half a surrogate pair is a str that no file, tokenizer or page accepts
    try: o.encode()
    except UnicodeEncodeError: return False
    return True


def check_share(
    pct_noise: float,  # Per cent of wrong labels that the user asked for
) -> None:
    "Raise ValueError if it is not within 0 to 100"
    if not 0 <= pct_noise <= 100:
        raise ValueError(f"pct_noise is {pct_noise!r}: pass a percentage, 0 to 100")


def with_loss(
    label_smoothing: bool,  # Whether the loss is LabelSmoothingCrossEntropy, not cross-entropy
    metrics: Any,  # Metrics, unless the user passed some
    kwargs: dict,  # Arguments of the Learner that the user passed
) -> dict:
    "`kwargs` with a loss and metrics. Raises ValueError if there are two losses"
    if label_smoothing and 'loss_func' in kwargs:
        raise ValueError("label_smoothing and loss_func are both given: pass one of them")
    loss_func = LabelSmoothingCrossEntropy() if label_smoothing else CrossEntropyLossFlat()
    return {'loss_func': loss_func, 'metrics': metrics, **kwargs}


# Imagenette and Imagewoof

def imagenette_version(
    size: int,  # Side in pixels of the images that a model is to see
) -> int | str:  # One of `VERSIONS`
    "The smallest version of Imagenette whose images need not be enlarged to `size`"
    return next((o for o in VERSIONS[:-1] if size <= o), VERSIONS[-1])


def imagenette_path(
    size: int | str = 160,  # Shorter side, of `VERSIONS`: 99 MB, 342 MB or 1.6 GB to download
    woof: bool = False,  # Whether to use Imagewoof, ten breeds of dogs
) -> Path:
    """The folder of Imagenette as fastai publishes it, downloaded if it is missing.

    Raises ValueError for an unknown size or a wrong download, ConnectionError without network; both
    say which file to put where."""
    if size not in VERSIONS:
        raise ValueError(f"size is {size!r}: choose one of 160, 320 and 'full'")
    name = 'IMAGEWOOF' if woof else 'IMAGENETTE'
    return fetch(getattr(URLs, name if size == 'full' else f'{name}_{size}'))


def noisy_imagenette(
    path: Path | str | None = None,  # Folder of images and CSV; None: `imagenette_path(size, woof)`
    pct_noise: int = 5,  # Wrong training labels in per cent, one of `NOISE_LEVELS`
    size: int | str = 160,  # Which images to download if `path` is None, see `imagenette_path`
    woof: bool = False,  # Whether it is Imagewoof
) -> pd.DataFrame:  # Columns path, label, true_label, is_valid; one row per image
    """Noisy Imagenette (tmabraham.github.io/blog/noisy_imagenette): `label` is true_label, except
    in the wrong share of the training rows. `path` is relative to the folder.

    Raises FileNotFoundError if the CSV or an image is missing, ValueError for an unknown noise
    level and for a CSV in which a column is missing or that names files outside the folder, and
    what `imagenette_path` raises."""
    if pct_noise not in NOISE_LEVELS:
        raise ValueError(f"pct_noise is {pct_noise!r}: choose one of 0, 1, 5, 25 and 50")
    todo = ('unpack the archive again elsewhere, or pass imagenette_learner a df of the rows whose '
            'images exist')
    if path is None: todo = 'delete the folder to have it downloaded and unpacked again'

    path = imagenette_path(size, woof) if path is None else Path(path)
    file = path/('noisy_imagewoof.csv' if woof else 'noisy_imagenette.csv')
    df = _read_noisy(file, {'path': 'path', 'label': f'noisy_labels_{int(pct_noise)}',
                            'true_label': 'noisy_labels_0', 'is_valid': 'is_valid'})
    _check_images(path, df.path, file, todo)
    return df.astype({'is_valid': bool})


def _read_noisy(file, columns):
    "The published CSV with its columns renamed; `columns`: our name -> theirs"
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist: fastai's archives since 2022 hold it, so "
                                "pass the folder of one of those, or delete an older folder and "
                                "leave path out to have it downloaded")
    try: df = pd.read_csv(file)
    except ValueError as e:
        raise ValueError(f"{file} is not a CSV ({e}): take the published file") from e
    missing = sorted({*columns.values()} - {*df.columns})
    if missing:
        raise ValueError(f"{file} lacks the column {' and '.join(missing)}: take the published "
                         "file")
    df = pd.DataFrame({name: df[o] for name, o in columns.items()})
    try: check_values(df, columns)
    except ValueError as e: raise ValueError(f"{file} is not as it was published: {e}") from e
    return df


def _check_images(path, names, file, todo):
    outside = [o for o in names if _leads_out(PurePosixPath(o))]
    if outside:
        raise ValueError(f"{file} names {outside[0]!r}, outside its folder: take the published "
                         "file")
    lost = [o for o in names if not (path/o).is_file()]
    if lost:
        raise FileNotFoundError(f"{len(lost)} of {len(names)} images that {file} names do not "
                                f"exist, first {path/lost[0]}: {todo}")


def _leads_out(path): return path.is_absolute() or '..' in path.parts


# MNIST

def mnist_path() -> Path:
    """The folder of MNIST as fastai publishes it, downloaded if it is missing. Raises as
    `imagenette_path` does."""
    return fetch(URLs.MNIST)


def noisy_mnist(
    path: Path | str | None = None,  # Folder of training/<digit>/*.png, testing; None: download
    pct_noise: float = 5,  # Wrong training labels in per cent, 0 to 100
    seed: int = 42,  # Seed of the planted errors
) -> pd.DataFrame:  # Columns path, label, true_label, is_valid; one row per image, sorted by name
    """MNIST with planted errors: exactly the share `pct_noise` of the training rows is labelled as
    another class, all others equally likely. Only the frame differs: no file is renamed or moved.
    `path` is relative to the folder, whose parts may be called train and valid too.

    Raises FileNotFoundError if the folder does not hold MNIST, ValueError for an image outside the
    classes' folders and for a share outside 0 to 100, and ConnectionError or ValueError if it
    cannot be downloaded."""
    check_share(pct_noise)
    root = mnist_path() if path is None else Path(path)
    train, valid = _mnist_files(root)
    if path is None and len(train) + len(valid) != MNIST_ITEMS:
        raise FileNotFoundError(f"{root} holds {len(train) + len(valid)} images, but MNIST has "
                                f"{MNIST_ITEMS}: delete the folder to have it unpacked again")
    files = [*train, *valid]
    stray = [o for o in files if len(o.relative_to(root).parts) != 3]
    if stray:
        raise ValueError(f"path {root} holds {stray[0]}, which is not in the folder of a class: "
                         "move it elsewhere")

    true = np.array([o.parent.name for o in files])
    label = true.copy()
    label[:len(train)] = _planted(true[:len(train)], pct_noise/100, seed)
    return pd.DataFrame({'path': [o.relative_to(root).as_posix() for o in files], 'label': label,
                         'true_label': true, 'is_valid': np.arange(len(true)) >= len(train)})


def _mnist_files(root):
    for names in MNIST_SPLITS:
        files = [sorted(get_image_files(root/o)) for o in names]
        if all(files): return files
    raise FileNotFoundError(f"path {root} lacks images in training and testing (or train and "
                            "valid): pass the folder that fastai's mnist_png.tgz holds")


def _planted(true, share, seed):
    rng = np.random.default_rng(seed)
    vocab, codes = np.unique(true, return_inverse=True)
    if len(vocab) < 2 and share:
        raise ValueError(f"path has images of class {vocab[0]} only: wrong labels need 2 classes")
    wrong = rng.choice(len(true), round(share*len(true)), replace=False)
    # A step of 1 to c - 1 never ends at the true class
    steps = rng.integers(1, max(2, len(vocab)), len(wrong))
    codes[wrong] = (codes[wrong] + steps) % len(vocab)
    return vocab[codes]


# Tweets

def covid_tweets(
    path: Path | str,  # Folder of train.tsv, valid.tsv and test.tsv of WNUT-2020 Task 2
    sets: str | Iterable[str] = ('train', 'valid'),  # Which of them to read
    pct_noise: float = 0,  # Wrong training labels to plant in per cent, 0 to 100
    seed: int = 42,  # Seed of the planted errors
    masks: bool = False,  # Whether to keep the words HTTPURL and @USER, for links and names
) -> pd.DataFrame:  # Columns id, text, label, true_label, hashtags, set, is_valid; one per tweet
    """Tweets on COVID-19, INFORMATIVE or UNINFORMATIVE (Nguyen et al., "WNUT-2020 Task 2", W-NUT
    2020), from files with or without the line Id, Text, Label.

    Quotation marks are plain characters, so texts are as they were written. `hashtags` are the
    words after a #, separated by spaces; NA if there are none. `is_valid` is False for train.tsv
    alone; `label` is true_label, except in the share `pct_noise` of train.tsv.

    Raises FileNotFoundError if a file is missing, ValueError for a line without three columns, for
    other labels, an unknown set and a share outside 0 to 100."""
    check_share(pct_noise)
    sets = [sets] if isinstance(sets, str) else list(sets)
    if not sets or not {*sets} <= {*SETS} or len({*sets}) < len(sets):
        raise ValueError(f"sets is {sets!r}: choose from train, valid and test, each once")

    df = pd.concat([_read_tweets(Path(path)/f'{o}.tsv').assign(set=o) for o in sets],
                   ignore_index=True)
    if not masks: df['text'] = [_without_masks(o) for o in df.text]
    train = np.flatnonzero(df.set == 'train')
    n_wrong = round(pct_noise/100*len(train))
    wrong = np.random.default_rng(seed).choice(train, n_wrong, replace=False)
    label = df.label.to_numpy(dtype=object, copy=True)
    label[wrong] = np.where(label[wrong] == CLASSES[0], *reversed(CLASSES))
    tags = [' '.join(re.findall(r'#(\S+)', o)) or 'NA' for o in df.text]
    df = df.assign(label=label, true_label=df.label, hashtags=tags, is_valid=df.set != 'train')
    return df[['id', 'text', 'label', 'true_label', 'hashtags', 'set', 'is_valid']]


def _without_masks(text): return ' '.join(w for w in text.split(' ') if w not in MASKS)


def _read_tweets(file):
    "id, text and label of one file"
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist: get {file.name} of WNUT-2020 Task 2 "
                                "(github.com/VinAIResearch/COVID19Tweet) and put it there")
    # Read by hand, since a CSV reader takes the quotation marks in tweets for quotes, and U+2028
    # and the like for line ends
    try:
        with open(file, encoding='utf-8-sig', newline='\n') as f:
            lines = [o.rstrip('\r\n').split('\t') for o in f]
    except UnicodeDecodeError as e: raise ValueError(f"{file} is not UTF-8 ({e}): save it "
                                                     "as UTF-8") from e
    if lines and [o.lower() for o in lines[0]] == ['id', 'text', 'label']: lines[0] = ['']
    for i, o in enumerate(lines, 1):
        if o == ['']: continue
        if len(o) != 3:
            raise ValueError(f"{file}, line {i} has {len(o)} columns: it needs id, text and label")
        if o[2] not in CLASSES:
            raise ValueError(f"{file}, line {i} has the label {o[2][:80]!r}: "
                             f"it must be {' or '.join(CLASSES)}")
    rows = [o for o in lines if o != ['']]
    return pd.DataFrame(rows, columns=['id', 'text', 'label'], dtype=object)
