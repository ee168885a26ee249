"""Folds that two processes train together, through fastai's DistributedTrainer on Accelerate, over gloo on the CPU.
fastai's DistributedDL needs CUDA only to tell the order of the items: the test tells it over the CPU."""
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from fastai import distributed
from fastai.callback.core import Callback
from fastai.callback.schedule import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy
from helpers import digit_dls, plant, quiet, tiny_model
from sklearn.datasets import load_digits
from sklearn.metrics import average_precision_score

from fastai_clean.all import CleanInterpretation, ConfidentLearningCallback

N, TESTS = 300, Path(__file__).parents[1]
pytestmark = pytest.mark.slow
assert hasattr(Learner, 'fit_one_cycle')


class Batches(Callback):
    "Counts the batches that this process trains on"
    n = 0
    def after_step(self): Batches.n += 1


def over_cpu(self, idxs, rank):
    idxs = torch.tensor(idxs)
    torch.distributed.broadcast(idxs, rank)
    return idxs.tolist()


def learner(labels):
    torch.manual_seed(0)
    dls = digit_dls(range(N), range(N, N + 60), labels=labels, bs=16, shuffle=True)
    return quiet(Learner(dls, tiny_model(dropout=.2), CrossEntropyLossFlat(), metrics=accuracy, cbs=Batches()))


def one_of_two(out):
    "What each process does: the same folds by the callback and by a function that fits, and what came of it"
    distributed.DistributedDL._broadcast = over_cpu
    labels, wrong = plant(load_digits().target, .15)
    ctx, res = dict(cpu=True, sync_bn=False), {}

    def fit(learn):
        with learn.distrib_ctx(**ctx): learn.fit_one_cycle(8, 1e-2)
    learn = learner(labels)
    before = Batches.n
    learn.oof_preds(fit, n_folds=3)
    res['batches'], by_hand = Batches.n - before, learn.oof.pred_probs

    learn = learner(labels)
    with learn.distrib_ctx(**ctx):
        learn.fit_one_cycle(8, 1e-2, cbs=ConfidentLearningCallback(3, mode='folds'))
        interp = CleanInterpretation.from_learner(learn)
    res['same'] = float(np.abs(learn.oof.pred_probs - by_hand).max())
    res['auprc'] = average_precision_score(wrong[:N], 1 - interp.issues.sort_index().label_quality)
    res['fold_accuracy'] = [o['accuracy'] for o in learn.oof.config['fold_metrics']]
    res['accuracy'] = float((learn.oof.pred_probs.argmax(1) == learn.oof.targets).mean())
    res['model'], res['plain'] = learn.oof.config['model'], type(learn.model).__name__
    res['backend'] = torch.distributed.get_backend()
    learn = learner(labels)
    with learn.distrib_ctx(**ctx): learn.fit(2, cbs=ConfidentLearningCallback(2, average='epochs', mode='folds'))
    res['means'] = bool(np.isfinite(learn.oof.pred_probs).all())
    learn = learner(labels)
    # All features are the same: 'auto' must take the folds, in both processes
    learn.model[0][1].weight.data.mul_(0)
    with learn.distrib_ctx(**ctx): learn.fit_one_cycle(8, 1e-2, cbs=ConfidentLearningCallback(2))
    res['chose'] = learn.oof.config['mode'], learn.oof.config['mode_reason'], bool(learn.oof.done.all())
    learn = learner(labels)
    learn.oof_preds(mode='features', n_folds=2)
    res['features'] = bool(np.isfinite(learn.oof.pred_probs).all())
    for name, value in (('n_jobs', 2), ('cache_dir', out)):
        try: learner(labels).oof_preds(fit, n_folds=2, **{name: value})
        except ValueError as e: res[name] = str(e)
    rank = int(os.environ['RANK'])
    np.save(Path(out)/f'{rank}.npy', by_hand)
    (Path(out)/f'{rank}.json').write_text(json.dumps(res))


def test_two_processes_train_each_fold_together(tmp_path):
    run = subprocess.run([sys.executable, '-W', 'ignore', '-m', 'torch.distributed.run', '--nproc-per-node', '2',
                          '--rdzv-backend', 'c10d', '--rdzv-endpoint', 'localhost:0', __file__, str(tmp_path)],
                         env={**os.environ, 'PYTHONPATH': str(TESTS), 'OMP_NUM_THREADS': '1'}, text=True,
                         capture_output=True, timeout=300)
    assert run.returncode == 0, run.stderr[-4000:]
    ranks = [json.loads((tmp_path/f'{o}.json').read_text()) for o in (0, 1)]
    probs = [np.load(tmp_path/f'{o}.npy') for o in (0, 1)]
    assert np.allclose(*probs, atol=.2) and (probs[0].argmax(1) == probs[1].argmax(1)).mean() > .9
    print(ranks[0])
    assert ranks[0]['chose'] == ranks[1]['chose'] and ranks[0]['chose'][0] == 'folds' and ranks[0]['chose'][2]
    for o in ranks:
        assert o['backend'] == 'gloo' and o['same'] == 0 and o['auprc'] > .6 and o['accuracy'] > .6
        assert o['model'] == o['plain'] == 'Sequential' and o['means'] and o['features']
        assert o['batches'] == 3*8*6  # One process alone has 12 full batches of 16 in an epoch of 200 items
        assert np.isclose(np.mean(o['fold_accuracy']), o['accuracy'], atol=.02)
        for name in ('n_jobs', 'cache_dir'): assert f'{name} is' in o[name] and 'one of 2 processes' in o[name]


if __name__ == '__main__': one_of_two(sys.argv[1])
