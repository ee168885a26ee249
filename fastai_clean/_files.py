"Files and folders that are written whole or not at all, and arrays on disk without pickle"
import glob
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Literal
from uuid import uuid4

import numpy as np

END = 4096  # Values at each end of a mapped array that are compared


def free_path(
    path,  # File to write
    overwrite: bool = False,  # Whether an existing file may be replaced
) -> Path:
    "`path`, links followed, if a file may be written there. Raises an OSError if not"
    path = Path(path)
    if path.is_dir(): raise IsADirectoryError(f"path {path} is a folder: name a file in it")
    if (path.exists() or path.is_symlink()) and not overwrite: raise _exists(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"path {path} is in a folder that does not exist: make "
                                f"{path.parent} first")
    return path.resolve()


def write_file(
    path,  # File to write
    write: Callable[[Path], object],  # Function that writes the file at the path it is passed
    overwrite: bool = False,  # Whether to replace an existing file
) -> Path:
    """Have `write` make a file, and only then give it its name. Raises FileExistsError if `path` is
    taken and `overwrite` is False, even if it was taken while `write` ran."""
    given = Path(path)
    path = free_path(path, overwrite)
    with sibling(path) as tmp:
        write(tmp)
        if path.exists(): shutil.copymode(path, tmp)
        if overwrite: os.replace(tmp, path)
        else: _place(tmp, path)
    return given


@contextmanager
def sibling(
    path,  # File or folder that is to be made
) -> Iterator[Path]:
    "A hidden path beside `path`, with its suffixes; whatever is left there at the end is removed"
    path = Path(path)
    # Beside it, since a file can only be renamed within one file system
    # torch.save refuses a hidden name that has no suffix
    suffix = ''.join(path.suffixes[-2:])[:20] or '.tmp'
    tmp = path.with_name(f'.{path.name[:40]}-{uuid4().hex}{suffix}')
    try: yield tmp
    finally:
        if tmp.is_dir(): shutil.rmtree(tmp, ignore_errors=True)
        else: tmp.unlink(missing_ok=True)


def _exists(path):
    return FileExistsError(f"path {path} exists: choose another or pass overwrite=True")


def _place(tmp, path):
    "Name `tmp` as `path`, unless another process has taken that name since"
    # A hard link fails if the name is taken, whereas a rename would replace the file
    try: os.link(tmp, path)
    except FileExistsError: raise _exists(path) from None
    except OSError:  # a file system without hard links
        if path.exists(): raise _exists(path) from None
        os.replace(tmp, path)


def sync_folder(
    path,  # A folder
):
    "Sync the folder, so that a new file in it survives a power cut; does nothing on Windows"
    if os.name == 'nt': return
    fd = os.open(path, os.O_RDONLY)
    try: os.fsync(fd)
    finally: os.close(fd)


def write_all(
    fd: int,  # Descriptor of an open file
    data: bytes,
) -> None:
    "Write all of `data`, although the system may take less at a time"
    rest = memoryview(data)
    while rest:
        n = os.write(fd, rest)
        if n <= 0:
            raise OSError(f"the file took {len(data) - len(rest)} of {len(data)} bytes: is the "
                          "disk full?")
        rest = rest[n:]


def save_arrays(
    path,  # Folder to make
    kind: str,  # Name of the class of the result, for messages
    file: str,  # Name of the JSON file
    arrays: dict[str, np.ndarray],  # Name -> array
    meta: dict,  # What the JSON file holds; must have `vocab`
    overwrite: bool = False,  # Whether to replace a result of this kind that was saved there before
    default: Callable | None = None,  # Converts what JSON cannot hold, as in `json.dumps`
) -> Path:
    """Write the new folder `path`, which appears whole or not at all.

    Raises FileExistsError if `path` holds other files, or holds a result and `overwrite` is False,
    and TypeError if a name in the vocab is not text, a number or a boolean."""
    path = Path(path)
    for o in meta['vocab']:
        if not isinstance(o, (str, int, float)):
            raise TypeError(f"vocab holds {o!r}: use text or numbers")
    if path.exists():
        if not path.is_dir() or {o.name for o in path.iterdir()} - _files(file, arrays):
            raise FileExistsError(f"path {path} holds other files: choose a new folder")
        if any(path.iterdir()) and not overwrite:
            raise FileExistsError(f"path {path} holds {kind} already: choose a new folder or pass "
                                  "overwrite=True")

    sums = {name: _sha1(array) for name, array in arrays.items()}
    ends = {name: _sha1(_ends(array)) for name, array in arrays.items()}
    meta = {**meta, 'sha1': sums, 'sha1_ends': ends}
    with sibling(path) as tmp, sibling(path) as old:
        tmp.mkdir(parents=True)
        for name, array in arrays.items(): np.save(tmp/f'{name}.npy', array, allow_pickle=False)
        (tmp/file).write_text(json.dumps(meta, default=default), encoding='utf-8')
        try:
            # A folder cannot be replaced by a rename, as a file can: the old one steps aside
            if path.exists(): os.replace(path, old)
            os.replace(tmp, path)
        finally:
            if old.exists() and not path.exists(): os.replace(old, path)
    return path


def load_arrays(
    path,  # Folder that `save_arrays` made
    kind: str,  # Name of the class of the result, for messages
    file: str,  # Name of the JSON file
    names: Iterable[str],  # Names of the arrays
    mapped: Iterable[str] = (),  # Names of those to leave on disk, as memory maps
) -> tuple[dict, dict]:  # Name -> array, and what JSON held
    """Read what `save_arrays` wrote. Raises a FileNotFoundError that names the missing files, and
    ValueError for broken ones and for arrays that were exchanged since; mapped ones are known by
    shape, first and last values, and not by what is between"""
    path = Path(path)
    missing = sorted(o for o in _files(file, names) if not (path/o).is_file())
    if missing and not path.exists(): _name_left(path, kind, file)
    if missing:
        raise FileNotFoundError(f"path {path} is not a saved {kind}: {', '.join(missing)} missing")
    meta = json.loads((path/file).read_text(encoding='utf-8'))
    # Version 0.1 wrote the ids as `items`
    if isinstance(meta, dict) and 'items' in meta: meta['ids'] = meta.pop('items')
    keys = meta.keys() if isinstance(meta, dict) else set()
    if lost := sorted({'ids', 'vocab', 'config'} - keys):
        raise ValueError(f"path {path} is a broken {kind}: {file} lacks {', '.join(lost)}")

    arrays = {}
    for name in names:
        mode: Literal['r'] | None = 'r' if name in mapped else None
        arrays[name] = np.load(path/f'{name}.npy', mmap_mode=mode, allow_pickle=False)
    # Files of another folder may have the same shape: one result's labels, another's ids
    for name, array in arrays.items():
        # What is mapped is not read here, but for its ends
        kind_of = 'sha1_ends' if name in mapped else 'sha1'
        found = _sha1(_ends(array) if name in mapped else array)
        # Older versions kept no sums
        if kind_of not in meta or meta[kind_of].get(name) == found: continue
        raise ValueError(f"path {path} is a broken {kind}: {name}.npy is not the one that was "
                         f"saved with {file}; save it again")
    return arrays, meta


def _ends(array):
    flat = array.ravel('F' if np.isfortran(array) else 'C')
    return np.concatenate([flat[:END], flat[-END:]])


def _sha1(array):
    array = np.ascontiguousarray(array)
    hashed = hashlib.sha1(f'{array.dtype.str} {array.shape}'.encode())
    hashed.update(array.reshape(-1).view(np.uint8))
    return hashed.hexdigest()


def scratch_array(
    shape: tuple[int, int],
    folder=None,  # Folder to have the file in; None: that of the system's temporary files
) -> np.ndarray:  # float32, undefined
    """An array in a memory map of a file without a name, which is gone when the array is. Raises
    OSError if there is no room for it"""
    size = 4*int(np.prod(shape))
    if not size: return np.zeros(shape, np.float32)
    with TemporaryFile(dir=folder) as f:
        # On a disk that fills up later, writing to the map would kill the process
        if hasattr(os, 'posix_fallocate'): os.posix_fallocate(f.fileno(), 0, size)
        return np.asarray(np.memmap(f, np.float32, 'w+', shape=shape))


def _name_left(path, kind, file):
    "Raise FileNotFoundError if a save that was killed left the folder beside its place"
    # As `sibling` names them: 32 digits, so that those of a path that begins alike are not meant
    hidden = path.parent.glob(f'.{glob.escape(path.name[:40])}-{"[0-9a-f]"*32}*')
    left = [o.name for o in hidden if (o/file).exists()]
    if not left: return
    raise FileNotFoundError(f"path {path} does not exist, but saving {kind} there was interrupted, "
                            f"and {', '.join(sorted(left))} in {path.parent} has it: rename that "
                            f"folder to {path.name}")


def _files(file, names): return {file, *(f'{o}.npy' for o in names)}
