"Folds in other processes, through joblib: loky, Dask, Ray"
import io
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from threading import RLock

import cloudpickle
import torch
from joblib import Parallel, delayed
from joblib.parallel import get_active_backend

TRIES = 4
# By name, since neither Dask nor Ray need be installed
_LOST = {'TerminatedWorkerError', 'BrokenProcessPool', 'KilledWorker', 'CommClosedError',
         'RayError', 'WorkerLostError'}
_SETTINGS = [(torch.get_num_threads, torch.set_num_threads),
             (torch.get_default_dtype, torch.set_default_dtype),
             (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
             (torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms)]
_one_at_a_time = RLock()


def dumps(
    o,  # Anything that can be pickled
) -> bytes:
    """`o` as bytes for another process, by cloudpickle: lambdas and what a script or notebook
    defines travel too"""
    # Through torch.save, which keeps memory shared between tensors; pickling them one by one
    # would copy it
    file = io.BytesIO()
    torch.save(o, file, pickle_module=cloudpickle, pickle_protocol=5)
    return file.getvalue()


def loads(
    data: bytes,  # What `dumps` returned
    device: torch.device | None = None,  # The GPU for what was on one; None: the same one
):
    "What `dumps` was given, in this process. Not for files: it runs any code that they hold"
    def place(storage, location): return storage if location == 'cpu' else storage.to(device)
    return torch.load(io.BytesIO(data), None if device is None else place, weights_only=False)


def run_job(
    i: int,  # Number of the fold
    data: bytes | Exception,  # What `dumps` made of its FoldJob, or the exception that it raised
    settings: list,  # Values of torch's settings in the process that asks
) -> tuple:
    """In another process: (i, FoldResult, its FoldLearner as bytes or None, warnings) or
    (i, exception, its traceback)"""
    if isinstance(data, Exception): return i, data, ''
    # Dask runs several tasks in threads of one process, which share random numbers and settings
    with _one_at_a_time, _set(settings), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('default')
        try:
            device = _device(i)
            job = loads(data, device)
            if isinstance(job.fold, bytes): job.fold = loads(job.fold, device)
            if device is not None: _move(job, device)
            res = job.run()
            fold = dumps(job.fold) if job.follows else None
            return i, res, fold, [(str(o.message), o.category) for o in caught]
        except (Exception, KeyboardInterrupt) as e:
            return i, _sendable(e), traceback.format_exc()


@contextmanager
def _set(settings):
    old = [get() for get, _ in _SETTINGS]
    try:
        for (_, put), value in zip(_SETTINGS, settings): put(value)
        yield
    finally:
        for (_, put), value in zip(_SETTINGS, old): put(value)


def _sendable(e):
    try: return cloudpickle.loads(cloudpickle.dumps(e))
    except Exception: return RuntimeError(f'{type(e).__name__}: {e}')


def _device(i):
    if torch.cuda.device_count() < 2: return None
    return torch.device('cuda', i % torch.cuda.device_count())


def _move(job, device):
    "If the user's data goes to a GPU, send the fold's data to the fold's own"
    torch.cuda.set_device(device)
    for record in job.fits:
        for dl in record.dls.loaders:
            if getattr(getattr(dl, 'device', None), 'type', None) == 'cuda': dl.to(device)


def run_jobs(
    jobs: dict[int, Callable],  # Fold -> function for its `dumps`, called when it can start
    n_jobs: int,  # Processes, as joblib counts them: -1 for one per core
) -> Iterator[tuple]:
    """Each fold as it ends, in the order of ending: its number, FoldResult, FoldLearner as bytes.

    The work of a killed process is done again. Raises what a fold raises, and RuntimeError if
    processes are lost again and again."""
    left = list(jobs)
    lost = 0
    while left:
        done = _ended(jobs, list(left), n_jobs)
        while left:
            try: i, res, *rest = next(done)
            except Exception as e:
                lost += 1
                if not {o.__name__ for o in type(e).__mro__} & _LOST: raise
                if lost < TRIES: break
                raise RuntimeError(f"folds {left} were lost {lost} times, since their processes "
                                   "ended: check that there is memory for n_jobs of them, or use "
                                   "fewer") from e
            if isinstance(res, BaseException):
                raise res from RuntimeError(f'fold {i} in another process:\n{rest[0]}')
            left.remove(i)
            fold, caught = rest
            for message, category in caught: warnings.warn(message, category, stacklevel=2)
            yield i, res, fold


def _ended(jobs, left, n_jobs):
    "The results of `run_job`, fold by fold"
    settings = [get() for get, _ in _SETTINGS]
    backend = get_active_backend()[0]
    if n_jobs > 0: n_jobs = min(n_jobs, max(2, len(left)))
    tasks = (delayed(run_job)(i, _made(i, jobs[i]), settings) for i in left)
    if backend.supports_return_generator:
        yield from Parallel(n_jobs, return_as='generator_unordered', batch_size=1,
                            pre_dispatch='n_jobs')(tasks)
        return
    # Ray hands over all results together: in groups of one per process, finished folds are kept
    with Parallel(n_jobs, batch_size=1) as pool:
        while group := list(islice(tasks, max(1, backend.effective_n_jobs(n_jobs)))):
            yield from pool(group)


def _made(i, make):
    # joblib asks for tasks in threads of its own, where an exception would be lost
    try: return make()
    except Exception as e:
        return TypeError(f"fold {i} cannot be sent to another process, {type(e).__name__}: "
                         f"{str(e)[:200]}; leave out of the Learner what cannot be pickled, or "
                         "pass n_jobs=1")
