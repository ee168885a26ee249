"The seed's data: downloads, frames of images and of tweets with wrong labels"
import gzip
import os
import re
import shutil
import zlib
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from uuid import uuid4

import fastai.data
import numpy as np
import pandas as pd
from fastai.data.external import URLs, fastai_cfg, untar_data
from fastai.data.transforms import get_image_files
from fastcore.net import urlopen
from fastdownload.core import checks_module, path_stats, read_checks
from fastprogress.fastprogress import progress_bar


def fetch(
    url,  # Address of a .tgz, for example `URLs.IMAGENETTE_160`
    timeout=60,  # Seconds without an answer until the download is given up
    instead='pass path=, the folder that it holds',  # What else the person may do, for messages
) -> Path:  # The folder where `untar_data(url)` unpacks to
    """What `untar_data` gives, without what it lets pass: it keeps a file that failed its check, hashes the first
    megabyte alone and none where it does not know the address, a folder that was half copied counts as there, and in
    fastcore 2.2 a connection that broke off is a NameError.

    Here the archive gets its name once its size, fastai's checksum and gzip's own checksums are right, and the folder
    once it is unpacked. Raises ConnectionError or ValueError that name the address, the file and where to put it."""
    name = url.rsplit('/', 1)[-1]
    archive, folder = fastai_cfg().path('archive')/name, fastai_cfg().path('data')/name.rsplit('.', 1)[0]
    if folder.exists(): return folder
    _download(url, archive, timeout, instead)
    tmp = folder.with_name(f'.{folder.name}-{uuid4().hex}')
    try:
        os.replace(untar_data(url, base=str(tmp), archive=str(archive.parent), data=str(tmp/'data')), folder)
    except shutil.ReadError as e:
        archive.unlink(missing_ok=True)
        raise ValueError(f"{url} gave an archive that cannot be unpacked ({e}), which is not used: {instead}") from e
    except OSError:
        if not folder.exists(): raise
    finally: shutil.rmtree(tmp, ignore_errors=True)
    return folder


def _download(url, archive, timeout, instead):
    wanted = read_checks(checks_module(fastai.data)).get(url)
    if archive.exists() and _flaw(archive, wanted) is None: return
    tmp = archive.with_name(f'.{archive.name}-{uuid4().hex}')
    todo = f"get {archive.name} elsewhere and put it at {archive}, or {instead}"
    try:
        _save(url, tmp, timeout)
        flaw = _flaw(tmp, wanted)
        if flaw: raise ValueError(f"{url} gave {flaw}, which is not used: {todo}")
        os.replace(tmp, archive)
    except (OSError, HTTPException) as e:
        raise ConnectionError(f"{url} could not be downloaded ({e}): {todo}") from e
    finally: tmp.unlink(missing_ok=True)


def _save(url, file, timeout):
    file.parent.mkdir(parents=True, exist_ok=True)
    with urlopen(url, timeout=timeout) as response, open(file, 'wb') as f:
        said = int(response.headers.get('Content-Length') or 0)
        blocks = iter(lambda: response.read(2**20), b'')
        for block in progress_bar(blocks, total=-(-said//2**20) or 'noinfer'): f.write(block)
        if f.tell() < said: raise ConnectionError(f"only {f.tell()} of {said} bytes came")


def _flaw(file, wanted):
    "What is wrong with an archive, or None; `wanted` is its size and the MD5 of its first megabyte, where known"
    size, md5 = path_stats(file)
    if wanted and size != wanted[0]: return f"a file of {size} bytes where fastai knows one of {wanted[0]}"
    if wanted and md5 != wanted[1]: return f"a file with the checksum {md5} where fastai knows {wanted[1]}"
    try:
        with gzip.open(file) as f:
            while f.read(2**20): pass
    except (OSError, EOFError, zlib.error) as e: return f"a broken .tgz ({e})"
    return None


def check_frame(
    df,  # What a person passed
    needed=('text', 'label', 'is_valid'),  # Columns that it needs; text and path must hold text
    source='covid_tweets',  # The function that makes such a frame, for messages
):
    """Raise TypeError or ValueError where `df` is no frame to train and validate on: a column or a value is missing,
    is_valid is not True or False, or the same in every row, or a label occurs in validation rows alone."""
    if not isinstance(df, pd.DataFrame):
        raise TypeError(f"df is a {type(df).__name__}: pass a DataFrame as of {source}, or DataLoaders")
    lacking = [o for o in needed if o not in df]
    if lacking: raise ValueError(f"df lacks the column {' and '.join(lacking)}: see {source}")
    check_values(df, needed)
    if df.is_valid.nunique() != 2:
        raise ValueError(f"df has is_valid {df.is_valid.unique().tolist()} alone: training and validation rows needed")
    if 'label' not in needed: return
    valid = df.is_valid.astype(bool)
    _none(valid & ~df.label.isin(df.label[~valid]), df.label, 'validation rows with a label that no training row has')


def check_values(
    df,  # A frame
    needed,  # Columns of it to look at
):
    "Raise ValueError where a value of `needed` is missing, one of is_valid no boolean, or of text or path no text"
    for name in needed:
        _none(df[name].isna(), df[name], f'missing values in {name}')
        if name == 'is_valid': _none(~df[name].isin([True, False]), df[name], 'values in is_valid that are no booleans')
        if name in ('text', 'path'):
            _none(~df[name].map(_is_text), df[name], f'values in {name} that are no text of UTF-8')


def _none(bad, values, what):
    if not bad.any(): return
    i = int(bad.to_numpy().argmax())
    first = ascii(values.tolist()[i])[:80]
    raise ValueError(f"df has {int(bad.sum())} {what}, first {first} in row {i}: correct them or leave the rows out")


def _is_text(o):
    if not isinstance(o, str): return False
    try: o.encode()
    except UnicodeEncodeError: return False
    return True

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

CLASSES = 'INFORMATIVE', 'UNINFORMATIVE'
SETS = 'train', 'valid', 'test'
MASKS = 'HTTPURL', '@USER'

def covid_tweets(
    path,  # Folder of train.tsv, valid.tsv and test.tsv of WNUT-2020 Task 2, with or without the line Id, Text, Label
    sets=('train', 'valid'),  # Which of them to read
    pct_noise=0,  # Wrong training labels to plant in per cent, 0 to 100
    seed=42,  # Seed of what is wrong
    masks=False,  # Whether to keep the words HTTPURL and @USER, which stand for links and names; the seed drops them
) -> pd.DataFrame:  # Columns id, text, label, true_label, hashtags, set, is_valid; a row a tweet
    """Tweets on COVID-19, INFORMATIVE or UNINFORMATIVE (Nguyen et al., "WNUT-2020 Task 2", W-NUT 2020).

    Quotation marks mean nothing, so texts are as they were written. `hashtags` are what follows a #, without it, parted
    by spaces; NA where there are none. `is_valid` is True but for train.tsv; `label` is true_label, but for the share
    `pct_noise` of train.tsv. Raises FileNotFoundError where a file is missing, ValueError for a line without three
    columns, for other labels, an unknown set and a share outside 0 to 100."""
    if not 0 <= pct_noise <= 100: raise ValueError(f"pct_noise is {pct_noise!r}: pass per cent, 0 to 100")
    sets = [sets] if isinstance(sets, str) else list(sets)
    if not sets or not {*sets} <= {*SETS} or len({*sets}) < len(sets):
        raise ValueError(f"sets is {sets!r}: choose of train, valid and test, each once")
    df = pd.concat([_read(Path(path)/f'{o}.tsv').assign(set=o) for o in sets], ignore_index=True)
    if not masks: df['text'] = [' '.join(w for w in o.split(' ') if w not in MASKS) for o in df.text]
    true, label, train = df.label, df.label.to_numpy(dtype=object, copy=True), np.flatnonzero(df.set == 'train')
    wrong = np.random.default_rng(seed).choice(train, round(pct_noise/100*len(train)), replace=False)
    label[wrong] = np.where(label[wrong] == CLASSES[0], *reversed(CLASSES))
    tags = [' '.join(re.findall(r'#(\S+)', o)) or 'NA' for o in df.text]
    df = df.assign(label=label, true_label=true, hashtags=tags, is_valid=df.set != 'train')
    return df[['id', 'text', 'label', 'true_label', 'hashtags', 'set', 'is_valid']]


def _read(file):
    "id, text and label of one file"
    if not file.is_file():
        raise FileNotFoundError(f"{file} is not there: get {file.name} of WNUT-2020 Task 2 "
                                "(github.com/VinAIResearch/COVID19Tweet) and put it there")
    try:
        with open(file, encoding='utf-8-sig', newline='\n') as f: lines = [o.rstrip('\r\n').split('\t') for o in f]
    except UnicodeDecodeError as e: raise ValueError(f"{file} is not UTF-8 ({e}): save it so") from e
    if lines and [o.lower() for o in lines[0]] == ['id', 'text', 'label']: lines[0] = ['']
    for i, o in enumerate(lines, 1):
        if o == ['']: continue
        if len(o) != 3: raise ValueError(f"{file}, line {i} has {len(o)} columns: id, text and label needed")
        if o[2] not in CLASSES:
            raise ValueError(f"{file}, line {i} has the label {o[2][:80]!r}: {' or '.join(CLASSES)} needed")
    return pd.DataFrame([o for o in lines if o != ['']], columns=['id', 'text', 'label'], dtype=object)

