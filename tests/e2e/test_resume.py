"kill -9 at random moments: every finished fold is used again, and the end is the same to the last bit (KILL_RUNS)"
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from fastai.callback.mixup import MixUp
from fastai.callback.schedule import Learner
from helpers import digit_dls, tiny_learn, tiny_model

from fastai_clean.all import ConfidentLearningCallback, OutOfFold
from fastai_clean.oof.fit import FoldLearner

KILLS, FOLDS, FITS, TESTS = int(os.environ.get('KILL_RUNS', 4)), 5, 2, Path(__file__).parents[1]
pytestmark = pytest.mark.slow
assert hasattr(Learner, 'fine_tune')


def script(cache_dir, out):
    "What a user's script does, and how many fits its folds did"
    torch.manual_seed(0)
    fits, repeat = [], FoldLearner.repeat
    FoldLearner.repeat = lambda *args: (fits.append(1), repeat(*args))
    learn = tiny_learn(digit_dls(range(100), range(100, 150), shuffle=True), tiny_model(dropout=.3), cbs=MixUp())
    learn.fine_tune(2, 1e-2, cbs=ConfidentLearningCallback(FOLDS, cache_dir=cache_dir, mode='folds'))
    learn.oof.save(out, overwrite=True)
    (Path(out).parent/'fits').write_text(str(len(fits)))


def started(*args):
    "The number of a process that runs the script, forked from one that has imported everything"
    pid = os.fork()
    if pid: return pid
    try: script(*args)
    except BaseException as e: print(repr(e), file=sys.stderr, flush=True)
    else: os._exit(0)
    os._exit(1)


def ended(pid): return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def finished(cache): return {o.name: o.stat().st_mtime_ns for o in cache.glob('fit-*-fold-*')}


def killed_runs(folder, kills, seed=0):
    "Figures of runs that are killed up to three times each, and then let run to their end"
    rng, folder = random.Random(seed), Path(folder)
    start = time.perf_counter()
    assert ended(started(None, folder/'whole')) == 0
    seconds, whole = time.perf_counter() - start, OutOfFold.load(folder/'whole').pred_probs
    sums = dict(kills=0, runs=0, finished=0, used_again=0, fits_done_twice=0, identical=0, half_files=0)
    while sums['kills'] < kills:
        cache, killed = folder/f'cache-{sums["runs"]}', 0
        for _ in range(min(3, kills - sums['kills'])):
            pid = started(cache, folder/'oof')
            time.sleep(rng.uniform(0, seconds))
            os.kill(pid, signal.SIGKILL)
            killed += ended(pid) == -signal.SIGKILL
        before = finished(cache)
        assert ended(started(cache, folder/'oof')) == 0
        after, got = finished(cache), OutOfFold.load(folder/'oof').pred_probs
        again = sum(after[o] == before[o] for o in before)
        # A fold that lacks its last fit repeats the first, even if its result is known
        begun = [i for i in range(FOLDS) if f'fit-0-fold-{i}' in before and f'fit-1-fold-{i}' not in before]
        extra = int((folder/'fits').read_text()) - (FITS*FOLDS - len(before)) - len(begun)
        new = dict(kills=killed, runs=1, finished=len(before), used_again=again, fits_done_twice=extra,
                   identical=np.array_equal(got, whole), half_files=sum(not json.loads(
                       (cache/o/'about.json').read_text())['config'] for o in after))
        for k, n in new.items(): sums[k] += int(n)
    return sums


def test_killed_runs_lose_at_most_the_fold_they_were_at(tmp_path):
    code = f'import test_resume as t; print(t.json.dumps(t.killed_runs({str(tmp_path)!r}, {KILLS})))'
    out = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], text=True, capture_output=True,
                         cwd=Path(__file__).parent, timeout=120 + 30*KILLS,
                         env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(TESTS)})
    assert out.returncode == 0, out.stderr
    sums = json.loads(out.stdout.splitlines()[-1])
    print(sums)
    assert sums['kills'] >= KILLS and sums['used_again'] == sums['finished'] > 0
    assert sums['identical'] == sums['runs'] and sums['half_files'] == 0
    assert sums['fits_done_twice'] == 0
