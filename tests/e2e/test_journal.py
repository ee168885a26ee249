"kill -9 at random moments: no acknowledged record is lost, no batch is half in force (JOURNAL_RUNS: how many runs)"
import json
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pandas as pd
import pytest

from fastai_clean.review import ReviewSession

RECORD = b'{"do":"keep","ids":["train/class/image_000000.jpg"],"user":"writer 0","time":"","key":"torn"'
RUNS, WRITERS, ITEMS = int(os.environ.get('JOURNAL_RUNS', 20)), 4, 120
pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name == 'nt', reason='Windows has no kill -9')]


def table():
    ids = [f'train/class/image_{i:06}.jpg' for i in range(ITEMS)]
    return pd.DataFrame({'id': ids, 'given': 'cat', 'predicted': 'dog', 'confidence': .9,
                         'label_quality': .1, 'is_issue': True})


def write(path, k, seed):
    "Decide without end; a line on stdout, a token and how many items it is on, once an action has returned"
    session, rng = ReviewSession(table(), path, user=f'writer {k}'), random.Random(seed)
    ids = session.ids.tolist()
    for n in range(10**9):
        token, what = f'{os.getpid()}-{n}', rng.random()
        chosen = [rng.choice(ids)] if what < .7 else rng.sample(ids, rng.randrange(20, ITEMS))
        if what > .95 and session.undo(): continue
        session.note(chosen, token)
        os.write(1, f'{token} {len(chosen)}\n'.encode())


def started(path, k, seed):
    "A process that writes, forked from one that has imported everything; its number, and where it acknowledges"
    read, out = os.pipe()
    pid = os.fork()
    if pid:
        os.close(out)
        return pid, read
    try:
        os.close(read)
        os.dup2(out, 1)
        write(path, k, seed)
    finally: os._exit(1)


def crash(path, rng):
    "Start writers on one journal, kill each at a moment of its own; token -> items, as acknowledged"
    writers = [started(path, k, rng.random()) for k in range(WRITERS)]
    for i in rng.sample(range(WRITERS), WRITERS):
        time.sleep(rng.uniform(0, .12))
        os.kill(writers[i][0], signal.SIGKILL)
    told = {}
    for pid, read in writers:
        with open(read, 'rb') as f: lines = f.read().decode().splitlines(True)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        told |= {o.split()[0]: int(o.split()[1]) for o in lines if o.endswith('\n')}
    return told


def in_journal(path):
    "Token -> ids of each note, read without the package; and the lines that cannot be read"
    found, bad = {}, 0
    for line in path.read_bytes().split(b'\n'):
        try: o = json.loads(line) if line else {}
        except ValueError:
            bad += 1
            continue
        if o.get('do') == 'note': found[o['text']] = o['ids']
    return found, bad


def killed_runs(folder, runs, seed=0):
    """Figures of `runs` runs, two on each journal, between which half a record is put at its end: SIGKILL itself hardly
    tears a write of a few kB, a power failure does"""
    rng = random.Random(seed)
    sums = dict(runs=runs, acknowledged=0, items=0, lost=0, torn_here=0, unreadable=0, longest=0)
    for run in range(0, runs, 2):
        path = Path(folder)/f'{run}.jsonl'
        told = crash(path, rng)
        if told and run + 1 < runs:
            with path.open('ab') as f: f.write(RECORD[:rng.randrange(2, len(RECORD))])
            sums['torn_here'] += 1
            told |= crash(path, rng)
        if not path.exists(): continue
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            session = ReviewSession(table(), path, user='reader')
        found, bad = in_journal(path)
        assert session.unreadable == bad and bool(caught) == bool(bad)
        assert {o['note'] for o in session.state.values()} <= set(found)
        lost = {k for k, n in told.items() if len(found.get(k, ())) != n}
        new = {'acknowledged': len(told), 'items': sum(told.values()), 'lost': len(lost),
               'unreadable': bad}
        for k, n in new.items(): sums[k] += n
        sums['longest'] = max(sums['longest'], *map(len, path.read_bytes().split(b'\n')))
    return sums


def test_killed_writers_lose_no_acknowledged_record(tmp_path):
    code = f'import test_journal as t; print(t.json.dumps(t.killed_runs({str(tmp_path)!r}, {RUNS})))'
    out = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], cwd=Path(__file__).parent, text=True,
                         capture_output=True, timeout=60 + 5*RUNS, env={**os.environ, 'OMP_NUM_THREADS': '1'})
    assert out.returncode == 0, out.stderr
    sums = json.loads(out.stdout.splitlines()[-1])
    print(sums)
    assert sums['acknowledged'] > 5*RUNS and sums['lost'] == 0
    assert sums['unreadable'] >= sums['torn_here'] > 0
