"Finished folds on disk, each whole or not at all, so that a run goes on after it was killed"
import os
import shutil
import time
from pathlib import Path
from uuid import uuid4

from ..saved import load_arrays, save_arrays
from .jobs import FoldResult

__all__ = ['FoldCache']

KIND, STALE_SECONDS = 'cached fold', 3600


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
        self.path = Path(path)
        if self.path.exists() and not self.path.is_dir():
            raise FileExistsError(f"cache_dir {self.path} is a file: choose a folder")
        self.path.mkdir(parents=True, exist_ok=True)
        names = [o for o in self.path.iterdir() if not o.name.startswith('.')]
        if names and not (self.path/'key').is_dir():
            raise FileExistsError(f"cache_dir {self.path} holds other files: choose a new folder")
        for o in self.path.glob('.*-new'):
            if time.time() - o.stat().st_mtime > STALE_SECONDS: _remove(o)
        self._agree('key', run)

    def _agree(self, name, new, but=()):
        "Note `new`, or see that what was noted is the same"
        if not (self.path/name).exists(): self._save(name, {}, new)
        old = load_arrays(self.path/name, KIND, 'about.json', ())[1]['config']
        differs = [k for k in sorted({*old, *new}) if k not in but and old.get(k) != new.get(k)]
        if not differs: return
        both = {k: [str(o.get(k)) for o in (old, new)] for k in differs}
        said = [f'{k} ({a}, now {b})' if max(len(a), len(b)) < 16 else k for k, (a, b) in both.items()]
        seed = ' Seed the script before it makes data and model for a run to be repeated.' \
            if {'weights', 'labels', 'items'} & {*differs} else ''
        where = '' if name == 'key' else f' in {name.replace("-", " ")}'
        raise ValueError(f"cache_dir {self.path} holds the folds of another run, which differs{where} by "
                         f"{', '.join(said)}: choose a new folder, or delete this one.{seed}")

    def _save(self, name, arrays, config):
        meta = dict(vocab=[], items=[], config=config)
        try: save_arrays(self.path/name, KIND, 'about.json', arrays, meta)
        except OSError:
            if not (self.path/name/'about.json').exists(): raise

    def check_fit(self,
        j,  # Number of the fit
        fit,  # Name -> value, what the fit is: see `describe_fit`
    ):
        "Before a fit, of which only its end is not known, see that it is the one whose folds are here"
        if (self.path/f'fit-{j}').exists(): self._agree(f'fit-{j}', fit, but=('stop_at',))

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
        names = ['preds', *(o for o in ('masks',) if (path/f'{o}.npy').exists())]
        try: arrays, meta = load_arrays(path, KIND, 'about.json', names)
        except ValueError as e: raise ValueError(f"{path} in cache_dir is broken: delete it ({e})") from e
        return FoldResult(arrays['preds'], arrays.get('masks'), meta['config'])

    def keep(self,
        j,  # Number of the fit
        i,  # Number of the fold
        result,  # FoldResult
        state=None,  # What `state_bytes` gave
    ):
        "Write what fold `i` gave, then, for the next fit, where it stands"
        arrays = {'preds': result.preds, **({} if result.masks is None else {'masks': result.masks})}
        self._save(f'fit-{j}-fold-{i}', arrays, result.metrics)
        if state is None: return
        tmp = self.path/f'.fold-{i}-{uuid4().hex}-new'
        try:
            tmp.write_bytes(state)
            os.replace(tmp, self.path/f'fold-{i}.pt')
        finally: tmp.unlink(missing_ok=True)

    def state(self,
        i,  # Number of the fold
    ) -> bytes | None:
        "Where fold `i` stands after the last fit that was kept, or None"
        path = self.path/f'fold-{i}.pt'
        return path.read_bytes() if path.exists() else None


def _remove(path): shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
