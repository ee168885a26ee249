"""What heads on features cost: time and peak memory for many items and classes.

    python examples/benchmarks/scale.py --out scale.csv

Features (n, 1280) with the falling spectrum of a real body's are generated into a .npy file, with classes that overlap
and 10 % wrong labels. A process for each cell loads them as a memory map and makes the out-of-fold probabilities of three
rounds of heads, five folds. Rows are kept in --out as they come: seconds of the process (of one thread), the peak of
anonymous resident memory less that before the call, and that without the probabilities that are returned. With
`--one-fold` only the first of the five folds is trained and its time multiplied: folds cost the same."""
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from fastcore.script import call_parse

CHILD = '''
import json, sys, threading, time
import numpy as np
import torch
from fastai_clean.data import fold_numbers
from fastai_clean.oof.heads import held_out_preds, standardise
folder, c, one_fold, threads = sys.argv[1], *map(int, sys.argv[2:])
torch.set_num_threads(threads)
features, labels = np.load(folder + '/x.npy', mmap_mode='r'), np.load(folder + '/y.npy')

def anonymous():
    return next(int(o.split()[1]) for o in open('/proc/self/status') if o.startswith('RssAnon'))/1024

peak, done = [0.], []
def watch():
    while not done:
        peak[0] = max(peak[0], anonymous())
        time.sleep(.01)

class Enough(Exception): pass
def tick(share):
    if one_fold and share > .2 - 1e-6: raise Enough

before, start, clock = anonymous(), time.process_time(), time.time()
threading.Thread(target=watch, daemon=True).start()
x = torch.from_numpy(standardise(features))
prepared = time.process_time() - start
try: held_out_preds(x, torch.from_numpy(labels), [fold_numbers(labels, 5)], 'classification', c, 0, tick=tick)
except Enough: pass
seconds = time.process_time() - start - prepared
done.append(1)
print(json.dumps(dict(seconds=prepared + seconds*(5 if one_fold else 1), wall=time.time() - clock, peak_mb=peak[0] - before,
                      one_fold=bool(one_fold))))
'''


def generate(folder, n, d, c, seed, rows=5_000):
    "x.npy (n, d) float32 and y.npy (n,) in `folder`"
    rng = np.random.default_rng(seed)
    scale = np.arange(1, d + 1)**-.5
    turn = np.linalg.qr(rng.standard_normal((d, d)))[0].astype(np.float32)
    means = rng.standard_normal((c, d))*scale*.7
    labels = rng.integers(0, c, n)
    x = np.lib.format.open_memmap(folder/'x.npy', 'w+', np.float32, (n, d))
    for i in range(0, n, rows):
        part = means[labels[i:i + rows]] + rng.standard_normal((min(rows, n - i), d))*scale
        x[i:i + rows] = part.astype(np.float32) @ turn
    x.flush()
    wrong = rng.random(n) < .1
    np.save(folder/'y.npy', np.where(wrong, rng.integers(0, c, n), labels))


@call_parse
def main(
    out: Path = Path('scale.csv'),  # CSV that is gone on with
    n: str = '10000,30000,100000',  # Numbers of items
    c: str = '10,100,1000',  # Numbers of classes
    d: int = 1280,  # Features of an item
    one_fold: bool = False,  # Whether to train one fold of five, and multiply
    threads: int = 1,  # Threads of torch
    seed: int = 0,  # Seed of the features
):
    "Print a row per number of items and classes"
    done = pd.read_csv(out) if out.exists() else pd.DataFrame(columns=['items', 'classes'])
    for items in map(int, n.split(',')):
        for classes in map(int, c.split(',')):
            if ((done['items'] == items) & (done.classes == classes)).any(): continue
            with tempfile.TemporaryDirectory(dir=out.parent) as folder:
                generate(Path(folder), items, d, classes, seed)
                args = [sys.executable, '-W', 'ignore', '-c', CHILD, folder, classes, int(one_fold), threads]
                result = subprocess.run([*map(str, args)], capture_output=True, text=True, check=True).stdout
            row = dict(items=items, classes=classes, **json.loads(result.splitlines()[-1]))
            row.update(features_mb=4*items*d/2**20, probs_mb=4*items*classes/2**20)
            done = pd.concat([done, pd.DataFrame([row])], ignore_index=True)
            done.to_csv(out, index=False)
            print(row, flush=True)
    print(done.to_string(index=False, float_format='{:.0f}'.format))
