"Folds in other processes, through joblib: loky, Dask, Ray"
import io
import pickle
import traceback
import warnings
from contextlib import contextmanager
from copyreg import __newobj__
from itertools import islice
from numbers import Integral
from threading import RLock

import cloudpickle
import torch
from fastcore.basics import Stateful
from joblib import Parallel, delayed
from joblib.parallel import get_active_backend

TRIES = 4
_LOST = 'TerminatedWorkerError', 'BrokenProcessPool', 'KilledWorker', 'CommClosedError', 'RayError', 'WorkerLostError'
_SETTINGS = [(torch.get_num_threads, torch.set_num_threads), (torch.get_default_dtype, torch.set_default_dtype),
             (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
             (torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms)]
_one_at_a_time = RLock()


class _Person:
    "In another process, in the place of what stays with the person: the Learner, its models and optimizers"


def _person(i): raise NotImplementedError("resolved by `loads`")


def _set_vars(o, state): vars(o).update(state)


def dumps(
    o,  # Anything
    kept=(),  # Objects that are not to travel: their positions do, for `loads` to put others in their place
) -> bytes:
    """`o` as bytes for another process, by cloudpickle: lambdas and what a script or notebook defines go too. Tensors
    that share memory do so afterwards, and callbacks keep what they leave out of an export."""
    at = {id(p): i for i, p in enumerate(kept) if p is not None}

    class Pickler(cloudpickle.Pickler):
        def reducer_override(self, o):
            if id(o) in at: return _person, (at[id(o)],)
            if isinstance(o, Stateful): return __newobj__, (type(o),), vars(o), None, None, _set_vars
            return super().reducer_override(o)

    file = io.BytesIO()
    torch.save(o, file, pickle_module=_module(Pickler=Pickler), pickle_protocol=5)
    return file.getvalue()


def loads(
    data,  # What `dumps` gave
    person=_Person,  # Function of a position in `kept` that gives what to put there
    device=None,  # The GPU to put on what was on one; None: the same
):
    "What `dumps` was given, in this process. Not for files: it runs what it is told to"
    class Unpickler(pickle.Unpickler):
        def find_class(self, module, name):
            return person if (module, name) == (__name__, '_person') else super().find_class(module, name)

    def place(storage, location): return storage if location == 'cpu' else storage.to(device)
    return torch.load(io.BytesIO(data), None if device is None else place, _module(Unpickler=Unpickler),
                      weights_only=False)


def _module(**names): return type('_module', (), {'__name__': 'cloudpickle', 'load': None, **names})


class _People(dict):
    def __missing__(self, i): return self.setdefault(i, _Person())


def run_job(
    i,  # Number of the fold
    data,  # What `dumps` made of its FoldJob, or the exception that it raised
    settings,  # Values of torch's settings where it was made
):
    "In another process: (i, FoldResult, its FoldLearner and state as bytes, warnings) or (i, exception, its traceback)"
    if isinstance(data, Exception): return i, data, ''
    with _one_at_a_time, _set(settings), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('default')
        try:
            people, device = _People(), _device(i)
            job = loads(data, people.__getitem__, device)
            if isinstance(job.fold, bytes): job.fold = loads(job.fold, people.__getitem__, device)
            if device is not None: _move(job, device)
            res = job.run()
            kept = [people.get(k) for k in range(max(people, default=-1) + 1)]
            fold = dumps(job.fold, kept) if job.follows else None
            return i, res, fold, job.kept_state(), [(str(o.message), o.category) for o in caught]
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
    "Where the person's data goes to a GPU, have the fold's go to its own"
    torch.cuda.set_device(device)
    for record in job.fits:
        for dl in record.dls.loaders:
            if getattr(getattr(dl, 'device', None), 'type', None) == 'cuda': dl.to(device)


def run_jobs(
    jobs,  # Number of a fold -> function that gives its `dumps`; called as a process becomes free
    n_jobs,  # Processes, as joblib counts them: -1 for one a core
):
    """Each fold as it ends, in the order of ending: its number, FoldResult, FoldLearner and state as bytes.

    Raises what a fold raises; RuntimeError where processes are lost again and again; what a killed process was at is
    done once more."""
    left, lost = list(jobs), 0
    while left:
        done = _ended(jobs, list(left), n_jobs)
        while left:
            try: i, res, *rest = next(done)
            except Exception as e:
                lost += 1
                if not {o.__name__ for o in type(e).__mro__} & {*_LOST}: raise
                if lost < TRIES: break
                raise RuntimeError(f"folds {left} were lost {lost} times, since their processes ended: see that there "
                                   "is memory for n_jobs of them, or use fewer") from e
            if isinstance(res, BaseException): raise res from RuntimeError(f'fold {i} in another process:\n{rest[0]}')
            left.remove(i)
            for message, category in rest.pop(): warnings.warn(message, category, stacklevel=2)
            yield i, res, *rest


def _ended(jobs, left, n_jobs):
    "What `run_job` gives of each fold; by Ray, which hands over results together, in groups of one a process"
    settings, backend = [get() for get, _ in _SETTINGS], get_active_backend()[0]
    if n_jobs > 0: n_jobs = min(n_jobs, max(2, len(left)))
    tasks = (delayed(run_job)(i, _made(i, jobs[i]), settings) for i in left)
    if backend.supports_return_generator:
        yield from Parallel(n_jobs, return_as='generator_unordered', batch_size=1, pre_dispatch='n_jobs')(tasks)
        return
    with Parallel(n_jobs, batch_size=1) as pool:
        while group := list(islice(tasks, max(1, backend.effective_n_jobs(n_jobs)))): yield from pool(group)


def _made(i, make):
    try: return make()
    except Exception as e:
        return TypeError(f"fold {i} cannot be sent to another process, {type(e).__name__}: {str(e)[:200]}; leave "
                         "out of the Learner what cannot be pickled, or pass n_jobs=1")


def check_jobs(
    n_jobs,  # What a person passed
) -> int:
    "`n_jobs` as it is; raises ValueError where it is no number of processes"
    if isinstance(n_jobs, bool) or not isinstance(n_jobs, Integral) or not n_jobs:
        raise ValueError(f"n_jobs is {n_jobs!r}: pass a number of processes, -1 for one a core")
    return int(n_jobs)
