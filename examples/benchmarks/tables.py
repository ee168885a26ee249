"""How fast label issues are found, beside cleanlab on the same arrays, at six sizes.

    python examples/benchmarks/tables.py
    python examples/benchmarks/tables.py --sizes 200000x1000,1280000x1000 --each

Makes float32 probabilities and labels from a seed, and prints a row per size: `find_issues` with
cleanlab's default filter against cleanlab doing the same (`find_label_issues`, `get_label_quality_scores`,
argmax and its probability, a table sorted by quality), and against cleanlab's `find_label_issues`
alone. Both sides take turns in one process, so that a busy machine slows both; a row gives minimum
and median in milliseconds and the ratio of the minima. With --each, also a row per filter and
score, one for all of them together, and one for cleanlab's batched function, which has one filter
of its own, against `low_self_confidence`; `same` says whether both gave the same bits. n_jobs is 1
unless a row says otherwise. Arrays of more than 2 GB are memory maps, of which ours never copies
much (memory.py measures it)."""
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from cleanlab.experimental.label_issues_batched import find_label_issues_batched
from cleanlab.filter import find_label_issues
from cleanlab.rank import get_label_quality_scores
from fastcore.script import call_parse
from memory import generate

from fastai_clean.issues import FILTERS, SCORES, StreamedIssues, find_issues

SIZES = '1000x10,10000x10,50000x10,50000x100,100000x500,200000x1000'
MAPPED = 2**31  # Bytes from which on the probabilities are a memory map


def cleanlab_table(labels, probs):
    "What `find_issues` gives with cleanlab's default filter, by cleanlab and pandas"
    is_issue = find_label_issues(labels, probs, n_jobs=1)
    predicted = probs.argmax(1)
    df = pd.DataFrame({
        'id': np.arange(len(labels)), 'given': labels, 'predicted': predicted,
        'confidence': probs[np.arange(len(labels)), predicted],
        'label_quality': get_label_quality_scores(labels, probs), 'is_issue': is_issue})
    return df.sort_values('label_quality', kind='stable').rename_axis('position')


def cleanlab_all(labels, probs):
    "Every filter and score of cleanlab, one after the other"
    columns = {o: find_label_issues(labels, probs, filter_by=o, n_jobs=1) for o in FILTERS}
    columns |= {o: get_label_quality_scores(labels, probs, method=o) for o in SCORES}
    return pd.DataFrame(columns).rename_axis('position')


def single_jobs(labels, probs, n_jobs):
    "Name -> cleanlab's function and ours, of each filter and score, and of all together"
    def filters(o):
        return (lambda: find_label_issues(labels, probs, filter_by=o, n_jobs=1),
                lambda: StreamedIssues(labels, probs).mask(o))

    def scores(o):
        return (lambda: get_label_quality_scores(labels, probs, method=o),
                lambda: StreamedIssues(labels, probs, entropy=o == SCORES[-1]).score(o))

    def together(threads):
        return (lambda: cleanlab_all(labels, probs),
                lambda: StreamedIssues(labels, probs, entropy=True, n_jobs=threads).table())

    jobs = {o: filters(o) for o in FILTERS} | {o: scores(o) for o in SCORES}
    jobs |= {f'all, n_jobs={o}': together(o) for o in sorted({1, n_jobs})}
    jobs['batched'] = (lambda: find_label_issues_batched(labels, probs, n_jobs=1, verbose=False),
                       lambda: StreamedIssues(labels, probs).mask('low_self_confidence'))
    return jobs


def take_turns(functions, seconds, runs):
    "Milliseconds of each run of each function, and what it gave; at least `runs`, up to 50"
    times = [[] for _ in functions]
    results = [None]*len(functions)
    begin = time.perf_counter()
    while len(times[0]) < runs or (time.perf_counter() - begin < seconds and len(times[0]) < 50):
        for i, f in enumerate(functions):
            start = time.perf_counter()
            results[i] = f()
            times[i].append(1000*(time.perf_counter() - start))
    return times, results


def row(what, probs, functions, seconds, runs):
    "A row of the table: cleanlab's function, ours, and maybe one more of cleanlab"
    times, (theirs, ours, *_) = take_turns(functions, seconds, runs)
    same = theirs.equals(ours) if isinstance(ours, pd.DataFrame) else np.array_equal(theirs, ours)
    low = [min(o) for o in times]
    alone = dict(alone=low[2], ratio_alone=low[2]/low[1]) if len(low) > 2 else {}
    return dict(what=what, items=len(probs), classes=probs.shape[1], runs=len(times[0]),
                cleanlab=low[0], cleanlab_median=statistics.median(times[0]), ours=low[1],
                ours_median=statistics.median(times[1]), ratio=low[0]/low[1], same=same, **alone)


def table_jobs(labels, probs):
    "The same for the issue table, and cleanlab's function that flags alone"
    return {'find_issues': (lambda: cleanlab_table(labels, probs),
                            lambda: find_issues(labels, probs, 'prune_by_noise_rate'),
                            lambda: find_label_issues(labels, probs, n_jobs=1))}


def made(folder, n, c, seed):
    "Labels and probabilities, in memory unless they are large"
    generate(folder, n, c, seed)
    mapped = 'r' if 4*n*c > MAPPED else None
    return np.load(folder/'labels.npy'), np.load(folder/'probs.npy', mmap_mode=mapped)


@call_parse
def main(
    sizes: str = SIZES,  # Items x classes, separated by commas
    seconds: float = 10.,  # Time for a row
    runs: int = 3,  # Runs of a row at least
    each: bool = False,  # Also each filter and score
    only: str = None,  # Filters and scores of --each to measure, separated by commas; None: all
    n_jobs: int = 2,  # Threads of the last row of all filters and scores
    seed: int = 0,  # Seed of the probabilities
    folder: str = None,  # Where to put the generated files; a temporary folder if not given
):
    "Print a row per measurement; returns them as a DataFrame"
    rows = []
    for size in sizes.split(','):
        n, c = map(int, size.split('x'))
        with tempfile.TemporaryDirectory(dir=folder) as path:
            labels, probs = made(Path(path), n, c, seed)
            jobs = table_jobs(labels, probs)
            single = single_jobs(labels, probs, n_jobs) if each or only else {}
            jobs |= {o: single[o] for o in only.split(',')} if only else single
            for what, functions in jobs.items():
                rows.append(row(what, probs, functions, seconds, runs))
                print(f"{what}, {n:,} x {c:,}: {rows[-1]['ratio']:.1f} times as fast", flush=True)
    df = pd.DataFrame(rows)
    print(df.to_string(index=False, float_format='{:.2f}'.format))
    return df
