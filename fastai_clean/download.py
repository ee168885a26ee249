"An archive of fastai's, downloaded and unpacked: whole, or not at all"
import gzip
import os
import shutil
import zlib
from http.client import HTTPException
from pathlib import Path
from uuid import uuid4

import fastai.data
from fastai.data.external import fastai_cfg, untar_data
from fastcore.net import urlopen
from fastdownload.core import checks_module, path_stats, read_checks
from fastprogress.fastprogress import progress_bar

__all__ = ['fetch']


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
