"""What the tables of many items and classes cost: time and peak memory above the probabilities' own.

    python examples/benchmarks/memory.py

Writes generated float32 probabilities (items x classes) and labels to a folder, loads them as a memory map in a new
process each, and there makes the issue table, the health of the classes and the confusion matrix, as
CleanInterpretation does, or calls cleanlab's find_label_issues alone. A row per process: seconds, and the peak resident
memory less that before the call and less the pages of the map itself, in MB."""
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from fastcore.script import call_parse

CHILD = '''
import json, resource, sys, time
import numpy as np
from fastai_clean.all import *
from fastai_clean.interpret import CleanInterpretation
from cleanlab.filter import find_label_issues
folder, what = sys.argv[1:]
probs, labels = np.load(folder + '/probs.npy', mmap_mode='r'), np.load(folder + '/labels.npy')

def memory(name):
    return next(int(o.split()[1]) for o in open('/proc/self/status') if o.startswith(name))/1024

def anonymous(): return memory('RssAnon')

import threading
peak, done = [0.], []
def watch():
    while not done:
        peak[0] = max(peak[0], anonymous())
        time.sleep(.002)
before = anonymous()
threading.Thread(target=watch, daemon=True).start()
start = time.perf_counter()
if what == 'issues': find_issues(labels, probs)
elif what == 'health': class_health(labels, probs)
elif what == 'cleanlab': find_label_issues(labels, probs, n_jobs=1)
elif what == 'interpretation':
    class Items:
        def __len__(self): return len(labels)
        def __getitem__(self, i): return i, int(labels[i])
    class Loader: dataset = Items()
    class Learn:
        path = None
        loss_func = None
    interp = CleanInterpretation(Learn(), Loader(), None, None, probs, labels)
    interp.health(), interp.confusion_matrix(), interp.top_pairs(), interp.noise_rate
seconds = time.perf_counter() - start
done.append(1)
print(json.dumps(dict(what=what, seconds=seconds, peak_mb=peak[0] - before)))
'''


def generate(folder, n, c, seed, rows=10_000):
    "probs.npy and labels.npy in `folder`: a model that is right of most labels"
    rng = np.random.default_rng(seed)
    probs = np.lib.format.open_memmap(folder/'probs.npy', 'w+', np.float32, (n, c))
    labels = rng.integers(0, c, n)
    for i in range(0, n, rows):
        part = rng.random((min(rows, n - i), c), dtype=np.float32)
        seen = np.where(rng.random(len(part)) < .8, labels[i:i + rows], rng.integers(0, c, len(part)))
        part[np.arange(len(part)), seen] += rng.random(len(part), dtype=np.float32)*c
        probs[i:i + rows] = part/part.sum(1, keepdims=True)
    probs.flush()
    np.save(folder/'labels.npy', labels)


@call_parse
def main(
    n: int = 200_000,  # Items
    c: int = 1_000,  # Classes
    seed: int = 0,  # Seed of the probabilities
):
    "Print a row per process; returns them as a DataFrame"
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder), n, c, seed)
        for what in ('cleanlab', 'issues', 'health', 'interpretation'):
            out = subprocess.run([sys.executable, '-W', 'ignore', '-c', CHILD, folder, what], capture_output=True,
                                 text=True, check=True).stdout
            rows.append(json.loads(out.splitlines()[-1]))
    df = pd.DataFrame(rows).assign(array_mb=n*c*4/2**20)
    print(df.to_string(index=False, float_format='{:.1f}'.format))
    return df
