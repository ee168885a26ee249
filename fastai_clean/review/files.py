"One write, one lock, on POSIX and Windows"
import errno
import os

from .names import RECORD

LOCKED_BYTE = 2**31 - 2


def file_of(stat):
    "What tells one file from another, of an `os.stat_result`"
    return stat.st_dev, stat.st_ino


def write_all(fd, data):
    "Write `data` to `fd`: a record in one write or OSError, a longer header in several"
    n = os.write(fd, data)
    if n < len(data) and len(data) > RECORD + 1: return write_all(fd, data[n:])
    if n < len(data): raise OSError(f"the journal took {n} of {len(data)} bytes: is the disk full?")


def sync_folder(path):
    "Sync the folder `path`, so that a file new in it is still there after a power cut; not on Windows"
    if os.name == 'nt': return
    fd = os.open(path, os.O_RDONLY)
    try: os.fsync(fd)
    finally: os.close(fd)


def lock(fd):
    "Wait until no other writer has the file of `fd`, and take it"
    try:
        import fcntl
    except ImportError: return _lock_byte(fd)
    fcntl.flock(fd, fcntl.LOCK_EX)


def unlock(fd):
    "Give the file of `fd` back"
    try:
        import fcntl
    except ImportError: return _lock_byte(fd, unlock=True)
    fcntl.flock(fd, fcntl.LOCK_UN)


def _lock_byte(fd, unlock=False):
    "Windows: a byte beyond the file's end, so that others may still read it; tried anew every 10 seconds"
    import msvcrt
    while True:
        os.lseek(fd, LOCKED_BYTE, os.SEEK_SET)
        try: return msvcrt.locking(fd, msvcrt.LK_UNLCK if unlock else msvcrt.LK_LOCK, 1)
        except OSError as e:
            if e.errno != errno.EDEADLK or unlock: raise
