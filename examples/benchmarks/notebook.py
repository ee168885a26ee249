"""What a review costs in JupyterLab: Cleaner beside fastai's ImageClassifierCleaner.

    python examples/benchmarks/notebook.py

Needs `pip install playwright jupyterlab` and Debian's chromium (or `playwright install chromium`). Makes JPEGs of 320 x
240 in a temporary folder, serves one JupyterLab on 127.0.0.1, and opens a notebook with a kernel of its own for each
view. A row a view: seconds to make it (with its ReviewSession; ImageClassifierCleaner: with the predictions of a tiny
model), milliseconds from its display to the first image and to 8 of them, seconds of making and first image together;
messages of the browser's WebSockets, both ways, their kB, and the resident memory that the kernel gained, in MB; then
medians of `turns` page turns, which for ImageClassifierCleaner are changes of the class. Below, the same as multiples
of ImageClassifierCleaner's. The last row is a table of `many` issues of the same images."""
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from urllib.request import urlopen

import numpy as np
import pandas as pd
from fastcore.script import call_parse
from PIL import Image
from playwright.sync_api import sync_playwright

SETUP = '''
import gc, json, re, warnings
warnings.simplefilter('ignore')
from fastai.vision.all import *
from fastai.vision.widgets import ImageClassifierCleaner
from fastai_clean.review import ReviewSession
from fastai_clean.widgets import Cleaner
torch.set_num_threads(1)
folder = Path('../images')
dls = ImageDataLoaders.from_folder(folder, valid_pct=.2, seed=0, item_tfms=Resize(32), bs=50, num_workers=0)
model = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 2))
learn = Learner(dls, model, loss_func=CrossEntropyLossFlat())
learn.remove_cb(ProgressCallback)

def session(n):
    files = [*map(str, sorted(folder.rglob('*.jpg')))]
    df = pd.DataFrame(dict(id=[f'{i:06}' for i in range(n)], path=[files[i % len(files)] for i in range(n)]))
    df = df.assign(given=[f'c{i % 2}' for i in range(n)], predicted=[f'c{1 - i % 2}' for i in range(n)])
    return ReviewSession(df.assign(confidence=.9, label_quality=np.arange(n)/n, is_issue=True), 'journal.jsonl')

def resident():
    gc.collect()
    return int(re.search(r'VmRSS:\\s+(\\d+)', Path('/proc/self/status').read_text()).group(1))/1024
before = resident()'''
RUN = '''async i => {
    const book = jupyterapp.shell.currentWidget.content, start = performance.now()
    book.activeCellIndex = i
    await jupyterapp.commands.execute('notebook:run-cell')
    return performance.now() - start }'''
OUTPUTS = 'i => jupyterapp.shell.currentWidget.content.widgets[i].model.sharedModel.getOutputs()'
SHOWN = '''async ([i, how, enough]) => {
    const book = jupyterapp.shell.currentWidget.content, cell = book.widgets[i].node
    const ready = () => [...cell.querySelectorAll('img')].filter(o => o.complete && o.naturalWidth && o.offsetParent)
    const old = new Set(ready().map(o => o.src)), start = performance.now()
    let first = null
    if (how == 'run') {
        book.activeCellIndex = i
        jupyterapp.commands.execute('notebook:run-cell')
    } else if (how == 'next') [...cell.querySelectorAll('button')].find(o => o.textContent.startsWith('Next')).click()
    else {
        const classes = cell.querySelector('select')
        classes.selectedIndex = 1 - classes.selectedIndex
        classes.dispatchEvent(new Event('change', { bubbles: true }))
    }
    while (performance.now() - start < 60000) {
        const n = ready().filter(o => !old.has(o.src)).length, now = performance.now() - start
        if (n) first ??= now
        if (n >= enough) return [first, now]
        await new Promise(done => setTimeout(done, 4))
    }
    throw new Error(`${how}: no ${enough} new images in 60 seconds`) }'''
IDLE = ("window.jupyterapp?.shell?.currentWidget?.context?.isReady && "
        "jupyterapp.shell.currentWidget.sessionContext.session?.kernel?.status == 'idle'")
SETTLED, ENOUGH, RIVAL = 1500, 8, 'ImageClassifierCleaner'


def make_images(folder, n, seed):
    "`n` JPEGs of smooth noise, in a folder for each of two classes"
    rng = np.random.default_rng(seed)
    for i in range(n):
        path = folder/f'c{i % 2}'/f'{i:06}.jpg'
        path.parent.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        small.resize((320, 240), Image.Resampling.BICUBIC).save(path)


@contextmanager
def jupyterlab(home):
    "Address of a JupyterLab that serves `home`/root and writes in `home` alone"
    settings = home/'config/labconfig'
    settings.mkdir(parents=True)
    (settings/'page_config.json').write_text(json.dumps(
        {'disabledExtensions': {'@jupyterlab/apputils-extension:announcements': True}}))
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    env = {**os.environ, 'HOME': str(home), 'JUPYTER_CONFIG_DIR': str(home/'config'),
           'JUPYTER_DATA_DIR': str(home/'data'), 'JUPYTER_RUNTIME_DIR': str(home/'runtime')}
    command = [sys.executable, '-m', 'jupyterlab', '--no-browser', '--allow-root', '--expose-app-in-browser',
               '--ServerApp.ip=127.0.0.1', f'--ServerApp.port={port}', '--IdentityProvider.token=T',
               f'--ServerApp.root_dir={home}/root']
    with (home/'log').open('wb') as log: process = subprocess.Popen(command, env=env, stdout=log, stderr=log)
    try:
        url, end = f'http://127.0.0.1:{port}', time.monotonic() + 120
        while True:
            try:
                urlopen(f'{url}/api/status?token=T', timeout=5).close()
                break
            except OSError:
                if time.monotonic() > end or process.poll() is not None:
                    raise RuntimeError(f"JupyterLab did not start: {(home/'log').read_text()[-2000:]}") from None
                time.sleep(.25)
        yield url
    finally:
        process.terminate()
        process.wait(60)


def write_notebook(path, cells):
    path.parent.mkdir(parents=True)
    cells = [dict(cell_type='code', metadata={}, source=o, outputs=[], execution_count=None, id=f'c{i}')
             for i, o in enumerate(cells)]
    kernel = dict(name='python3', display_name='Python 3', language='python')
    path.write_text(json.dumps(dict(cells=cells, nbformat=4, nbformat_minor=5, metadata=dict(kernelspec=kernel))))


def run_cell(tab, i):
    "Run a cell; its seconds, and what it printed. Raises RuntimeError where it failed"
    seconds = tab.evaluate(RUN, i)/1000
    outputs = tab.evaluate(OUTPUTS, i)
    for o in outputs:
        if o['output_type'] == 'error': raise RuntimeError(f"{o['ename']}: {o['evalue']}")
    return seconds, ''.join(''.join(o['text']) for o in outputs if o.get('name') == 'stdout')


def measure(browser, url, root, name, code, how, turns):
    "The row of one view: `code` makes it, `how` turns its page"
    place, sizes = name.replace(' ', '-').replace(',', ''), []
    write_notebook(root/place/'a.ipynb', [SETUP, f'view = {code}', 'view', 'print(resident() - before)'])
    tab = browser.new_page(viewport=dict(width=1400, height=1400))
    tab.set_default_timeout(120_000)
    tab.on('websocket', lambda o: [o.on(k, lambda sent: sizes.append(len(sent)))
                                   for k in ('framesent', 'framereceived')])
    tab.goto(f'{url}/lab/workspaces/{place}/tree/{place}/a.ipynb?token=T')
    tab.wait_for_function(IDLE)
    run_cell(tab, 0)

    def counted(i, how):
        times = tab.evaluate(SHOWN, [i, how, ENOUGH])
        tab.wait_for_timeout(SETTLED)
        counts = len(sizes), sum(sizes)/1000
        sizes.clear()
        return *times, *counts
    sizes.clear()
    made = run_cell(tab, 1)[0]
    first, page, messages, kb = counted(2, 'run')
    row = dict(made_s=made, first_ms=first, page_ms=page, card_s=made + first/1000, messages=messages, kb=kb,
               kernel_mb=float(run_cell(tab, 3)[1]))
    sizes.clear()
    rows = [counted(2, how) for _ in range(turns)]
    tab.close(run_before_unload=False)
    turned = zip(('turn_first_ms', 'turn_page_ms', 'turn_messages', 'turn_kb'), zip(*rows))
    return dict(view=name, **row, **{k: median(o) for k, o in turned})


@call_parse
def main(
    n: int = 500,  # Images
    many: int = 100_000,  # Issues of the last row
    page_size: int = 24,  # Images a page
    turns: int = 5,  # Page turns, at most n/page_size - 1
    seed: int = 0,  # Of the images
):
    "Print a row a view, and multiples of ImageClassifierCleaner's; returns the rows as a DataFrame"
    views = [(RIVAL, f'ImageClassifierCleaner(learn, max_n={page_size})', 'class'),
             ('Cleaner', f'Cleaner(session({n}), page_size={page_size})', 'next'),
             (f'Cleaner, {many:,} issues', f'Cleaner(session({many}), page_size={page_size})', 'next')]
    with TemporaryDirectory(ignore_cleanup_errors=True) as home, sync_playwright() as p:
        make_images(Path(home)/'root/images', n, seed)
        browser = p.chromium.launch(executable_path=shutil.which('chromium'), args=['--no-sandbox', '--disable-gpu'])
        with jupyterlab(Path(home)) as url:
            df = pd.DataFrame([measure(browser, url, Path(home)/'root', *o, turns) for o in views]).set_index('view')
        browser.close()
    print(df.T.to_string(float_format='{:,.1f}'.format))
    print(f'\nmultiples of {RIVAL}')
    print((df/df.loc[RIVAL]).T.drop(columns=RIVAL).to_string(float_format='{:.2f}'.format))
    return df
