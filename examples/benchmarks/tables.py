"""What label issues of many items and classes cost: cleanlab, its batched function and the streaming path.

    python examples/benchmarks/tables.py
    python examples/benchmarks/tables.py --n 1280000 --cleanlab-repeats 1

Writes generated float32 probabilities (items x classes) and labels to a folder, deleted at the end, and loads them as a
memory map in a new process for each measurement, which reads the whole map first. A row a filter and a score: the
median seconds of each side, its peak resident memory less that before the call and less the pages of the map itself in
MB, cleanlab's seconds over ours, and whether both gave the same bits. Then all filters and scores together, where
cleanlab's side is the sum of its rows; its batched function, which has one filter of its own, against our
low_self_confidence; and one read of the map. n_jobs is 1 unless a row says otherwise."""
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
from fastcore.script import call_parse
from memory import generate

CHILD = '''
import hashlib, json, statistics, sys, threading, time
import numpy as np
folder, side, what, repeats = sys.argv[1:]
probs, labels = np.load(folder + '/probs.npy', mmap_mode='r'), np.load(folder + '/labels.npy')

def anonymous():
    return next(int(o.split()[1]) for o in open('/proc/self/status') if o.startswith('RssAnon'))/1024

def read(): return float(np.asarray(probs).max())

if side == 'cleanlab':
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores
    from cleanlab.experimental.label_issues_batched import find_label_issues_batched
    scores = 'self_confidence', 'normalized_margin', 'confidence_weighted_entropy'
    if what == 'batched': f = lambda: find_label_issues_batched(labels, probs, n_jobs=1, verbose=False)
    elif what in scores: f = lambda: get_label_quality_scores(labels, probs, method=what)
    else: f = lambda: find_label_issues(labels, probs, filter_by=what, n_jobs=1)
elif side == 'streamed':
    from fastai_clean.issues import SCORES, StreamedIssues, find_issues_by
    if what.startswith('all'): f = lambda: find_issues_by(labels, probs, n_jobs=int(what.split()[1]))
    elif what in SCORES: f = lambda: StreamedIssues(labels, probs, entropy=what == SCORES[-1], n_jobs=1).score(what)
    else: f = lambda: StreamedIssues(labels, probs, n_jobs=1).mask(what)
else: f = read

peak, done = [0.], []
def watch():
    while not done:
        peak[0] = max(peak[0], anonymous())
        time.sleep(.002)
read()
before, seconds = anonymous(), []
threading.Thread(target=watch, daemon=True).start()
for _ in range(int(repeats)):
    start = time.perf_counter()
    result = f()
    seconds.append(time.perf_counter() - start)
done.append(1)
if side == 'streamed' and what.startswith('all'): result = result.to_numpy(float)
print(json.dumps(dict(seconds=statistics.median(seconds), mb=peak[0] - before,
                      digest=hashlib.sha256(np.ascontiguousarray(result)).hexdigest())))
'''
FILTERS = ('prune_by_noise_rate', 'prune_by_class', 'both', 'confident_learning', 'predicted_neq_given',
           'low_normalized_margin', 'low_self_confidence')
SCORES = 'self_confidence', 'normalized_margin', 'confidence_weighted_entropy'


def measure(folder, side, what, repeats):
    "Median seconds, peak memory and a digest of the result of `repeats` runs in a process of their own"
    out = subprocess.run([sys.executable, '-W', 'ignore', '-c', CHILD, folder, side, what, str(repeats)],
                         stdout=subprocess.PIPE, text=True, check=True).stdout
    return json.loads(out.splitlines()[-1])


def row(what, theirs, ours):
    return dict(what=what, cleanlab_s=theirs['seconds'], cleanlab_mb=theirs['mb'], streamed_s=ours['seconds'],
                streamed_mb=ours['mb'], ratio=theirs['seconds']/ours['seconds'],
                same=theirs['digest'] == ours['digest'] if 'digest' in theirs else None)


@call_parse
def main(
    n: int = 200_000,  # Items
    c: int = 1_000,  # Classes
    repeats: int = 3,  # Runs a measurement, of which the median counts
    cleanlab_repeats: int = None,  # Runs of cleanlab; as many if not given
    n_jobs: int = 2,  # Threads of the last row of all filters and scores
    seed: int = 0,  # Seed of the probabilities
    only: str = None,  # Filters and scores to measure, separated by commas; None: all, and those together
    folder: str = None,  # Where to put the generated files; a temporary folder if not given
):
    "Print a row a measurement; returns them as a DataFrame"
    rows, theirs = [], {}
    with tempfile.TemporaryDirectory(dir=folder) as path:
        generate(Path(path), n, c, seed)
        for what in only.split(',') if only else FILTERS + SCORES:
            theirs[what] = measure(path, 'cleanlab', what, cleanlab_repeats or repeats)
            rows.append(row(what, theirs[what], measure(path, 'streamed', what, repeats)))
            print(f"{what}: {rows[-1]['ratio']:.1f}x", flush=True)
        total = dict(seconds=sum(o['seconds'] for o in theirs.values()), mb=max(o['mb'] for o in theirs.values()))
        for jobs in () if only else sorted({1, n_jobs}):
            rows.append(row(f'all, {jobs} threads', total, measure(path, 'streamed', f'all {jobs}', repeats)))
        batched = measure(path, 'cleanlab', 'batched', cleanlab_repeats or repeats)
        del batched['digest']
        rows.append(row('batched', batched, measure(path, 'streamed', 'low_self_confidence', repeats)))
        once = measure(path, 'read', 'read', repeats)
    df = pd.DataFrame(rows)
    print(f"{n:,} x {c:,}, {n*c*4/2**20:,.0f} MB; one read {once['seconds']:.3f} s")
    print(df.to_string(index=False, float_format='{:.2f}'.format))
    return df
