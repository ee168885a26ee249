"Folds on a Dask cluster and on Ray, in separate processes: as in this one, also where a process is killed at a fold"
import os
import signal
import threading
import time
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback
from fastai.callback.mixup import MixUp
from fastai.callback.schedule import Learner
from helpers import digit_dls, tiny_learn, tiny_model
from joblib import parallel_config

from fastai_clean.all import ConfidentLearningCallback

N, TESTS = 120, Path(__file__).parents[1]
pytestmark = pytest.mark.slow
assert hasattr(Learner, 'fit_one_cycle')


class KillsOnce(Callback):
    "Ends its process in the middle of a fold, once over all processes; not the user's own"
    def __init__(self, marker): self.marker, self.user = str(marker), os.getpid()

    def after_batch(self):
        if os.getpid() == self.user or self.learn.pct_train < .5: return
        try: os.close(os.open(self.marker, os.O_CREAT | os.O_EXCL))
        except FileExistsError: return
        os.kill(os.getpid(), signal.SIGKILL)


def probabilities(n_jobs, *cbs):
    "Of a fit with shuffling, dropout and MixUp"
    torch.manual_seed(0)
    learn = tiny_learn(digit_dls(range(N), range(N, 150), shuffle=True), tiny_model(dropout=.3), cbs=[MixUp(), *cbs])
    learn.fit_one_cycle(2, 1e-2, cbs=ConfidentLearningCallback(5, n_jobs=n_jobs, mode='folds'))
    return learn.oof.pred_probs


@contextmanager
def dask_cluster():
    from dask.distributed import Client, LocalCluster
    with LocalCluster(processes=True, n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        with Client(cluster), parallel_config(backend='dask'): yield


@contextmanager
def ray_cluster():
    # Ray gives its daemon 30 seconds to start, which a loaded machine may need for itself
    os.environ.setdefault('RAY_raylet_start_wait_time_s', '240')
    import ray
    from ray.util.joblib import register_ray
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        register_ray()
        with parallel_config(backend='ray'): yield
    finally: ray.shutdown()


CLUSTERS = {'loky': nullcontext, 'dask': dask_cluster, 'ray': ray_cluster}


@pytest.mark.parametrize('name', CLUSTERS)
def test_five_folds_on_an_engine_equal_those_here_though_a_process_is_killed(name, tmp_path, monkeypatch):
    monkeypatch.setenv('PYTHONPATH', os.pathsep.join([str(TESTS), str(Path(__file__).parent), str(TESTS.parent)]))
    with CLUSTERS[name](): there = probabilities(2, KillsOnce(tmp_path/'killed'))
    assert (tmp_path/'killed').exists() and np.array_equal(there, probabilities(1))


class Waits(Callback):
    "In the last fold, says that it has begun and goes on for a minute"
    def __init__(self, begun): self.begun = str(begun)

    def before_train(self):
        if len(self.dls.train_ds) < N and N - 1 not in self.dls.train_ds.items:
            Path(self.begun).touch()
            time.sleep(60)


@pytest.fixture
def interruptible():
    "A shell starts what is to run in the background with SIGINT ignored"
    old = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, old)


def test_ctrl_c_ends_the_processes_and_keeps_finished_folds(tmp_path, interruptible):
    def interrupt():
        while not (tmp_path/'begun').exists() or learn.oof is None: time.sleep(.1)
        os.kill(os.getpid(), signal.SIGINT)
    learn = tiny_learn(digit_dls(range(N), range(N, 150)), cbs=Waits(tmp_path/'begun'))
    cb = ConfidentLearningCallback(3, splits=np.arange(N)*3//N, n_jobs=2, mode='folds')
    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt): learn.fit(1, cbs=cb)
    assert 0 < learn.oof.done.sum() < N and not learn.oof.done[-1]
    assert time.time() - (tmp_path/'begun').stat().st_mtime < 55
