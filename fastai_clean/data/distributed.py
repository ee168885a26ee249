"A Learner as it is inside fastai's DistributedTrainer and ParallelTrainer, which wrap its parts"
import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.torch_core import num_distrib
from torch import distributed, nn
from torch.nn import DataParallel
from torch.nn.parallel import DistributedDataParallel


def is_distributed(
    o: Any,  # A callback or a DataLoader
) -> bool:
    "Whether fastai trains with `o` in several processes or on several GPUs at once"
    # By name, since importing fastai.distributed patches Learner
    return any(c.__module__ == 'fastai.distributed' for c in type(o).__mro__)


def shared_parts(
    cbs: Iterable[Callback],  # Callbacks
) -> dict:
    "What copies of `cbs` must have in common, for the memo of `copy.deepcopy`"
    # Accelerate keeps one state per process, and refuses a second
    found = [cb.accelerator for cb in cbs if is_distributed(cb) and hasattr(cb, 'accelerator')]
    return {id(o): o for o in found}


def bare_model(
    model: nn.Module,  # Any module
) -> nn.Module:
    "The model in its wrapper, if it is in one"
    return model.module if isinstance(model, (DistributedDataParallel, DataParallel)) else model


def bare_dl(
    dl: Any,  # A DataLoader
) -> Any:
    "The DataLoader behind `dl` if `dl` gives this process only its share, else `dl`"
    return dl.dl if is_distributed(dl) else dl


def bare_dls(
    dls: DataLoaders,  # DataLoaders of a Learner
) -> DataLoaders:
    "`dls`, or a copy that gives all items if they give this process only its share"
    if not any(map(is_distributed, dls.loaders)): return dls
    res = copy.copy(dls)
    res.loaders = [bare_dl(o) for o in dls.loaders]
    return res


@contextmanager
def alone(
    learn: Learner,  # A Learner
) -> Iterator[None]:
    """Have `learn` predict all items in this process, and gather nothing from others, which do the
    same"""
    wrappers = [o for o in learn.cbs if is_distributed(o)]
    if num_distrib() <= 1 and not wrappers:
        yield
        return
    with learn.removed_cbs(wrappers):
        # fastai's own gathers whenever WORLD_SIZE is above 1, even for a model that is not wrapped
        learn.to_detach = lambda b, cpu=True, gather=True: Learner.to_detach(learn, b, cpu, False)
        try: yield
        finally: del learn.to_detach


def same_everywhere(
    value: Any,  # Anything that can be pickled
) -> Any:
    "What the first of several processes that train together passes, in all of them; else `value`"
    if not (distributed.is_available() and distributed.is_initialized()): return value
    box = [value]
    distributed.broadcast_object_list(box)
    return box[0]


def check_one_process(
    n_jobs: Any,  # What the user passed
    cache_dir: Any,  # What the user passed
) -> None:
    """Raise ValueError in one of several processes that train together, for options that work in a
    single process only"""
    if num_distrib() <= 1: return
    for name, value, default in (('n_jobs', n_jobs, 1), ('cache_dir', cache_dir, None)):
        if value != default:
            raise ValueError(f"{name} is {value!r}, but this is one of {num_distrib()} processes "
                             f"that train each fold together (WORLD_SIZE): pass {name}={default}, "
                             "or start one process")
