"Results on disk: a folder of .npy files and one of JSON, never a pickle"
import json
import os
import shutil
from pathlib import Path
from uuid import uuid4

import numpy as np

__all__ = ['load_arrays', 'save_arrays']


def save_arrays(
    path,  # Folder to make
    kind,  # Name of the class of the result, for messages
    file,  # Name of the JSON file
    arrays,  # Name -> array
    meta,  # What JSON holds; `vocab` among it
    overwrite=False,  # Whether to replace a result of this kind saved there before
    default=None,  # Function that makes what JSON does not know into what it does
) -> Path:
    """Write the new folder `path`, which appears whole or not at all.

    Raises FileExistsError where `path` holds something else, or holds a result and `overwrite` is False, and TypeError
    where a name of the vocab is not text, a number or a boolean."""
    path = Path(path)
    for o in meta['vocab']:
        if not isinstance(o, (str, int, float)): raise TypeError(f"vocab holds {o!r}: use text or numbers")
    if path.exists():
        if not path.is_dir() or {o.name for o in path.iterdir()} - _files(file, arrays):
            raise FileExistsError(f"path {path} holds other files: choose a new folder")
        if any(path.iterdir()) and not overwrite:
            raise FileExistsError(f"path {path} holds {kind} already: choose a new folder or overwrite=True")
    tmp, old = (path.with_name(f'.{path.name}-{uuid4().hex}-{o}') for o in ('new', 'old'))
    tmp.mkdir(parents=True)
    try:
        for name, array in arrays.items(): np.save(tmp/f'{name}.npy', array, allow_pickle=False)
        (tmp/file).write_text(json.dumps(meta, default=default), encoding='utf-8')
        if path.exists(): os.replace(path, old)
        os.replace(tmp, path)
    finally:
        if old.exists() and not path.exists(): os.replace(old, path)
        for o in (tmp, old): shutil.rmtree(o, ignore_errors=True)
    return path


def load_arrays(
    path,  # Folder that `save_arrays` made
    kind,  # Name of the class of the result, for messages
    file,  # Name of the JSON file
    names,  # Names of the arrays
    mapped=(),  # Names of those to leave on disk, as memory maps
) -> tuple[dict, dict]:  # Name -> array, and what JSON held
    "Read what `save_arrays` wrote. Raises FileNotFoundError that names what is missing, ValueError for broken files"
    path = Path(path)
    if missing := sorted(o for o in _files(file, names) if not (path/o).is_file()):
        raise FileNotFoundError(f"path {path} is no saved {kind}: {', '.join(missing)} missing")
    meta = json.loads((path/file).read_text(encoding='utf-8'))
    if lost := sorted({'items', 'vocab', 'config'} - (meta.keys() if isinstance(meta, dict) else set())):
        raise ValueError(f"path {path} is a broken {kind}: {file} lacks {', '.join(lost)}")
    arrays = {o: np.load(path/f'{o}.npy', mmap_mode='r' if o in mapped else None, allow_pickle=False) for o in names}
    return arrays, meta


def _files(file, names): return {file, *(f'{o}.npy' for o in names)}
