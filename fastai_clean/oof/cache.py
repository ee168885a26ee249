"Finished folds on disk, each whole or not at all, so that a run goes on after it was killed"
import io
import os
import shutil
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from uuid import uuid4
from zipfile import ZipFile

from .._files import load_arrays, save_arrays
from .describe import describe
from .jobs import FoldResult

KIND, FILE, STALE_SECONDS = 'cached fold', 'about.json', 3600


def cache_folder(
    cache_dir,  # What a person passed
) -> Path:
    "The folder, made where there is none. Raises TypeError, ValueError or OSError, naming it, where it cannot be used"
    if not isinstance(cache_dir, (str, os.PathLike)):
        raise TypeError(f"cache_dir is {cache_dir!r}: pass the path of a folder, or None")
    try:
        path = Path(cache_dir)
        path.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=path): return path
    except FileExistsError as e:
        raise FileExistsError(f"cache_dir {cache_dir} is a file, or a link to nowhere: choose a folder") from e
    except (OSError, ValueError) as e:
        kind = ValueError if isinstance(e, ValueError) else type(e)
        raise kind(f"cache_dir {cache_dir!r} cannot be written to ({e}): choose another folder") from e


class FoldCache:
    """A folder with what the folds of one run gave: `key` says which run, `fit-0` what its first fit was,
    `fit-0-fold-2` holds the predictions of the third fold after it, and `fold-2.pt` that fold's weights and optimizer
    after its last fit. All are written under another name first. Runs that are alike may share the folder at the same
    time.

    Raises ValueError, naming what differs, where the folder is another run's, FileExistsError where it holds other
    files."""

    def __init__(self,
        path,  # The folder; made where there is none
        run,  # Name -> value, what the run is: see `describe_run`
    ):
        self.path = cache_folder(path)
        names = [o for o in self.path.iterdir() if not o.name.startswith('.')]
        if names and not (self.path/'key').is_dir():
            raise FileExistsError(f"cache_dir {self.path} holds other files: choose a new folder")
        for o in self.path.glob('.*-new'):
            with suppress(FileNotFoundError):  # another run's, which is done by now
                if time.time() - o.stat().st_mtime > STALE_SECONDS: _remove(o)
        self._agree('key', run)

    def _agree(self, name, new, but=()):
        "Note `new`, or see that what was noted is the same"
        if not (self.path/name).exists(): self._save(name, {}, new)
        with _whole(self.path/name): old = dict(load_arrays(self.path/name, KIND, FILE, ())[1]['config'])
        differs = [k for k in sorted({*old, *new}) if k not in but and old.get(k) != new.get(k)]
        if not differs: return
        both = {k: [str(o.get(k)) for o in (old, new)] for k in differs}
        said = [f'{k} ({a}, now {b})' if max(len(a), len(b)) < 16 else k for k, (a, b) in both.items()]
        seed = ' Seed the script just before it makes the model, and not before its data alone.' \
            if {'weights', 'labels', 'items'} & {*differs} else ''
        where = '' if name == 'key' else f' in {name.replace("-", " ")}'
        raise ValueError(f"cache_dir {self.path} holds the folds of another run, which differs{where} by "
                         f"{', '.join(said)}: choose a new folder, or delete this one.{seed}")

    def _save(self, name, arrays, config):
        meta = dict(vocab=[], ids=[], config=config)
        try: save_arrays(self.path/name, KIND, FILE, arrays, meta)
        except OSError as e:
            if not (self.path/name/FILE).exists(): raise self._unwritten(e) from e

    def _unwritten(self, e):
        return OSError(f"cache_dir {self.path} cannot be written to ({e}): make room there; cb.resume(), or the same "
                       "script run again, goes on")

    def check_fit(self,
        j,  # Number of the fit
        fit,  # Name -> value, what the fit is: see `describe_fit`
    ):
        "Before a fit, of which only its end is not known, see that it is the one whose folds are here, and are whole"
        if (self.path/f'fit-{j}').exists(): self._agree(f'fit-{j}', fit, but=('stop_at',))
        for o in self.path.glob(f'fit-{j}-fold-*'):
            if (i := o.name.rpartition('-')[2]).isdecimal(): self.result(j, int(i))

    def note_fit(self,
        j,  # Number of the fit
        fit,  # Name -> value, what the fit is
    ):
        "After a fit, note it, or see that it is the one whose folds are here"
        self._agree(f'fit-{j}', fit)

    def result(self,
        j,  # Number of the fit
        i,  # Number of the fold, over all repeats
    ) -> FoldResult | None:
        "What fold `i` gave after fit `j`, or None. Raises FileNotFoundError or ValueError for broken files"
        path = self.path/f'fit-{j}-fold-{i}'
        if not path.exists(): return None
        with _whole(path):
            about = load_arrays(path, KIND, FILE, ())[1]['config']
            arrays, _ = load_arrays(path, KIND, FILE, about['values'])
            if about['of'] != [j, i] or about['values'] != {k: describe(v) for k, v in arrays.items()}:
                raise ValueError('its arrays are not those that were written')
            return FoldResult(arrays['preds'], arrays.get('masks'), about['metrics'])

    def keep(self,
        j,  # Number of the fit
        i,  # Number of the fold
        result,  # FoldResult
        state=None,  # What `state_bytes` gave
    ):
        "Write what fold `i` gave, then, for the next fit, where it stands"
        arrays = {'preds': result.preds, **({} if result.masks is None else {'masks': result.masks})}
        about = {'of': [j, i], 'values': {k: describe(v) for k, v in arrays.items()}, 'metrics': result.metrics}
        self._save(f'fit-{j}-fold-{i}', arrays, about)
        if state is None: return
        tmp = self.path/f'.fold-{i}-{uuid4().hex}-new'
        try:
            tmp.write_bytes(state)
            os.replace(tmp, self.path/f'fold-{i}.pt')
        except OSError as e: raise self._unwritten(e) from e
        finally: tmp.unlink(missing_ok=True)

    def state(self,
        i,  # Number of the fold
    ) -> bytes | None:
        "Where fold `i` stands after the last fit that was kept, or None. Raises ValueError for a broken file"
        path = self.path/f'fold-{i}.pt'
        if not path.exists(): return None
        with _whole(path):
            data = path.read_bytes()
            if ZipFile(io.BytesIO(data)).testzip() is not None: raise ValueError('its checksums differ')
            return data


@contextmanager
def _whole(path):
    try: yield
    except FileNotFoundError: raise
    except Exception as e:  # what reading garbage raises has no end
        raise ValueError(f"{path} in cache_dir is broken: delete it ({type(e).__name__}: {e})") from e


def _remove(path): shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
