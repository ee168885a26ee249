"Finished folds and features on disk, each whole or not at all: a killed run can go on"
import os
import shutil
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np

from .._files import load_arrays, save_arrays
from .fingerprint import digest
from .job import FoldResult

KIND = 'cached fold'
FILE = 'about.json'
STALE_SECONDS = 3600


def cache_folder(
    cache_dir,  # What the user passed
) -> Path:
    """The folder, made if it does not exist. Raises TypeError, ValueError or OSError, naming it, if
    it cannot be used"""
    if not isinstance(cache_dir, (str, os.PathLike)):
        raise TypeError(f"cache_dir is {cache_dir!r}: pass the path of a folder, or None")
    try:
        path = Path(cache_dir)
        path.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=path): return path
    except FileExistsError as e:
        raise FileExistsError(f"cache_dir {cache_dir} is a file, or a link to nowhere: choose a "
                              "folder") from e
    except (OSError, ValueError) as e:
        kind = ValueError if isinstance(e, ValueError) else type(e)
        raise kind(f"cache_dir {cache_dir!r} cannot be written to ({e}): choose another "
                   "folder") from e


class FoldCache:
    """A folder with the results of one run's folds: `key` says which run it is, `fit-0` what its
    first fit was, and `fit-0-fold-2` holds the predictions of the third fold after it. All are
    written under another name first. Runs that are alike may share the folder at the same time.

    Raises ValueError, naming what differs, if the folder is another run's, FileExistsError if it
    holds other files."""

    def __init__(self,
        path,  # The folder; made if it does not exist
        run: dict[str, str],  # What the run is, see `run_fingerprint`
    ):
        self.path = cache_folder(path)
        names = [o for o in self.path.iterdir() if not o.name.startswith('.')]
        if names and not (self.path/'key').is_dir():
            raise FileExistsError(f"cache_dir {self.path} holds other files: choose a new folder")
        # Recent ones may belong to another run that is at work in the same folder
        for o in (*self.path.glob('.fit-*'), *self.path.glob('.key-*')):
            with suppress(FileNotFoundError):
                if time.time() - o.stat().st_mtime > STALE_SECONDS: shutil.rmtree(o)
        self._agree('key', run)

    def _agree(self, name, new, but=()):
        "Note `new`, or check that what was noted is the same"
        if not (self.path/name).exists(): self._save(name, {}, new)
        with _whole(self.path/name):
            old = dict(load_arrays(self.path/name, KIND, FILE, ())[1]['config'])
        differs = [k for k in sorted({*old, *new}) if k not in but and old.get(k) != new.get(k)]
        if not differs: return

        said = []
        for k in differs:
            a = str(old.get(k))
            b = str(new.get(k))
            said.append(f'{k} ({a}, now {b})' if max(len(a), len(b)) < 16 else k)
        seed = ''
        if {'weights', 'labels', 'ids'} & {*differs}:
            seed = (' Seed the script just before it makes the model, and not only before it makes '
                    'its data.')
        where = '' if name == 'key' else f' in {name.replace("-", " ")}'
        raise ValueError(f"cache_dir {self.path} holds the folds of another run, which differs"
                         f"{where} by {', '.join(said)}: choose a new folder, or delete this "
                         f"one.{seed}")

    def _save(self, name, arrays, config):
        meta = dict(vocab=[], ids=[], config=config)
        try: save_arrays(self.path/name, KIND, FILE, arrays, meta)
        except OSError as e:
            # A run like this one may have written it meanwhile
            if (self.path/name/FILE).exists(): return
            raise OSError(f"cache_dir {self.path} cannot be written to ({e}): make room there; "
                          "cb.resume(), or the same script run again, goes on") from e

    def check_fit(self,
        j: int,  # Number of the fit
        fit: dict[str, str],  # What the fit is, see `fit_fingerprint`
    ) -> None:
        """Check before a fit, when only its end is unknown, that it is the one whose folds are
        here, and that they are whole"""
        if (self.path/f'fit-{j}').exists(): self._agree(f'fit-{j}', fit, but=('stop_at',))
        for o in self.path.glob(f'fit-{j}-fold-*'):
            if (i := o.name.rpartition('-')[2]).isdecimal(): self.result(j, int(i))

    def note_fit(self,
        j: int,  # Number of the fit
        fit: dict[str, str],  # What the fit is
    ) -> None:
        "After a fit, note it, or check that it is the one whose folds are here"
        self._agree(f'fit-{j}', fit)

    def result(self,
        j: int,  # Number of the fit
        i: int,  # Number of the fold, over all repeats
    ) -> FoldResult | None:
        """The result of fold `i` after fit `j`, or None. Raises FileNotFoundError or ValueError for
        broken files"""
        path = self.path/f'fit-{j}-fold-{i}'
        if not path.exists(): return None
        with _whole(path):
            about = load_arrays(path, KIND, FILE, ())[1]['config']
            arrays, _ = load_arrays(path, KIND, FILE, about['arrays'])
            if about['of'] != [j, i, self._run(j)]: raise ValueError('it is that of another run')
            return FoldResult(arrays['preds'], arrays.get('masks'), about['metrics'])

    def keep(self,
        j: int,  # Number of the fit
        i: int,  # Number of the fold
        result: FoldResult,
    ) -> None:
        "Write the result of fold `i`"
        arrays = {'preds': result.preds}
        if result.masks is not None: arrays['masks'] = result.masks
        about = {'of': [j, i, self._run(j)], 'arrays': [*arrays], 'metrics': result.metrics}
        self._save(f'fit-{j}-fold-{i}', arrays, about)


    def _run(self, j):
        "What tells the folds of fit `j` from those of another folder"
        return digest(b''.join((self.path/o/FILE).read_bytes() for o in ('key', f'fit-{j}')))


@contextmanager
def _whole(path):
    try: yield
    except FileNotFoundError: raise
    # Reading a damaged file may raise almost anything
    except Exception as e:
        raise ValueError(f"{path} in cache_dir is broken: delete it ({type(e).__name__}: "
                         f"{e})") from e


def save_features(
    folder,  # Folder of the cache
    key: str,  # As `features_key` returns it
    features: np.ndarray,  # (n, d) float32
    about: dict,  # What else is to be known of them, in what JSON holds
) -> None:
    "Write the features, whole or not at all, as .npy and .json in a folder of their own"
    meta = dict(ids=[], vocab=[], config={'key': key, 'about': about})
    path = Path(folder)/f'features-{key}'
    try: save_arrays(path, 'features', 'features.json', {'features': features}, meta, True)
    except OSError:
        # Another process may have written the same
        if load_features(folder, key, len(features)) is None: raise


def load_features(
    folder,  # Folder of the cache
    key: str,  # As `features_key` returns it
    n: int,  # Number of items
) -> tuple[np.ndarray, dict] | None:
    """The features saved under `key`, in a memory map, and what `save_features` was told about
    them, or None if there are none or they are not as they were written"""
    names = 'features',
    path = Path(folder)/f'features-{key}'
    try: arrays, meta = load_arrays(path, 'features', 'features.json', names, mapped=names)
    except (OSError, ValueError, EOFError): return None
    features = np.asarray(arrays['features'])
    config = meta['config']
    if features.ndim != 2 or len(features) != n or not isinstance(config, dict): return None
    return (features, config.get('about', {})) if config.get('key') == key else None
