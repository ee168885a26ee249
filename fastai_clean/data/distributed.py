"A Learner seen through fastai's DistributedTrainer and ParallelTrainer, which wrap its model and its DataLoaders"
import copy
from contextlib import contextmanager

from fastai.learner import Learner
from fastai.torch_core import num_distrib
from torch.nn import DataParallel
from torch.nn.parallel import DistributedDataParallel


def is_distributed(
    o,  # A callback or a DataLoader
) -> bool:
    "Whether `o` is one with which fastai trains in several processes or on several GPUs at once"
    return any(c.__module__ == 'fastai.distributed' for c in type(o).__mro__)


def shared_parts(
    cbs,  # Callbacks
) -> dict:
    "What their copies have in common, for the memo of `copy.deepcopy`: Accelerate's one state of this process"
    found = [cb.accelerator for cb in cbs if is_distributed(cb) and hasattr(cb, 'accelerator')]
    return {id(o): o for o in found}


def bare_model(
    model,  # Any nn.Module
):
    "The model in its wrapper, if it is in one"
    return model.module if isinstance(model, (DistributedDataParallel, DataParallel)) else model


def bare_dl(
    dl,  # A DataLoader
):
    "The DataLoader of which `dl` gives this process its share, if it does"
    return dl.dl if is_distributed(dl) else dl


def bare_dls(
    dls,  # DataLoaders
):
    "`dls`, or where they give this process its share, a copy that gives all"
    if not any(map(is_distributed, dls.loaders)): return dls
    res = copy.copy(dls)
    res.loaders = [bare_dl(o) for o in dls.loaders]
    return res


@contextmanager
def alone(
    learn,  # A Learner
):
    "Have `learn` predict all items in this process, and gather nothing from others, which do the same"
    wrappers = [o for o in learn.cbs if is_distributed(o)]
    if num_distrib() <= 1 and not wrappers:
        yield
        return
    with learn.removed_cbs(wrappers):
        learn.to_detach = lambda b, cpu=True, gather=True: Learner.to_detach(learn, b, cpu, False)
        try: yield
        finally: del learn.to_detach


def check_one_process(
    n_jobs,  # What a person passed
    cache_dir,  # What a person passed
):
    "Raise ValueError where this is one of several processes that train together, for what only one of them can do"
    if num_distrib() <= 1: return
    for name, value, default in (('n_jobs', n_jobs, 1), ('cache_dir', cache_dir, None)):
        if value != default:
            raise ValueError(f"{name} is {value!r}, but this is one of {num_distrib()} processes that train each fold "
                             f"together (WORLD_SIZE): pass {name}={default}, or start one process")
