"""What noisy_imagenette.py and covid_tweets.py share: options, and folders of fits that are kept and gone on with.

A fit's folder holds settings.json and weights.pth; the weights come last, so that they stand for a finished fit. Files
are whole or not there, one run at a time works in a folder, and results of other settings or data are never mixed."""
import hashlib
import json
import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import torch
from filelock import FileLock, Timeout
from seed_data import PRUNES

STEPS = 'train', 'eval', 'predict'


def run_path(out, loss, level):
    "Where one fit is kept"
    return Path(out)/'runs'/loss/f'noisy{level}'


@contextmanager
def said():
    "End the script with the sentence of what cannot be had: network, files, weights, timm"
    try: yield
    except (OSError, ValueError, ImportError) as e: raise SystemExit(str(e)) from e


def written(file, write):
    "Let `write` make `file` under another name first, so that it is whole or not there"
    file.parent.mkdir(parents=True, exist_ok=True)
    tmp = file.with_name(f'.{file.name}-{uuid4().hex}')
    try:
        write(tmp)
        os.replace(tmp, file)
    finally: tmp.unlink(missing_ok=True)
    return file


def chosen(option, text, choices):
    "The comma-separated `text` as a list of `choices`; SystemExit for anything else"
    found = [o.strip() for o in text.split(',')]
    if not {*found} <= {*map(str, choices)}:
        raise SystemExit(f'--{option} {text}: give some of {",".join(map(str, choices))}')
    return [o for o in choices if str(o) in found]


def plan(steps, noise, prune, smoothing, levels, losses):
    "Steps, noise levels, prune methods and losses that the options ask for; `losses`: with smoothing, without"
    steps, noise, prune = (chosen(*o) for o in (('steps', steps, STEPS), ('noise', noise, levels),
                                                ('prune', prune, [*PRUNES])))
    smooth, plain = losses
    losses = dict(yes=[smooth], no=[plain], both=[smooth, plain]).get(smoothing)
    if losses is None: raise SystemExit(f'--smoothing {smoothing}: give yes, no or both')
    return steps, noise, prune, losses


def check_positive(**options):
    "SystemExit for an option that is below 1, n_folds below 2"
    for name, value in options.items():
        least = 2 if name == 'n_folds' else 1
        if value < least: raise SystemExit(f'--{name.replace("_", "-")} {value}: give {least} or more')


def digest(*files):
    "The first 16 letters of the SHA-256 of the files' contents, one after the other"
    found = hashlib.sha256()
    for file in files: found.update(file.read_bytes())
    return found.hexdigest()[:16]


def need(file):
    "SystemExit where the fit that `file` is of was not made"
    if not file.exists(): raise SystemExit(f'{file} is not there: run the step train first')


def made_with(folder, settings):
    "Whether `folder` holds a finished fit of these settings"
    file = folder/'settings.json'
    return file.exists() and (folder/'weights.pth').exists() and json.loads(file.read_text('utf-8')) == settings


def check_settings(folder, files, settings):
    "SystemExit where the finished fit in `folder`, or one of `files`, results of a fit, was made otherwise"
    file, todo = folder/'settings.json', 'choose another --out, or --overwrite'
    if (folder/'weights.pth').exists():
        old = json.loads(file.read_text('utf-8')) if file.exists() else {}
        other = [f'{k} {old.get(k)}, not {v}' for k, v in settings.items() if old.get(k) != v]
        if other: raise SystemExit(f'{folder} holds a fit with {"; ".join(other)}: {todo}')
    elif found := [o for o in files if o.exists()]:
        raise SystemExit(f'{found[0]} is not of a fit in {folder}, where there is none: {todo}')


@contextmanager
def working(folder, files, settings, steps, overwrite):
    """One run at a time works in `folder`, and on what is of these settings, see `check_settings`; with `overwrite`,
    what the `steps` make is removed first, the weights before the rest of their fit and after what was made of it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_name(f'.{folder.name}.lock'), timeout=0)
    try: lock.acquire()
    except Timeout as e: raise SystemExit(f'{folder}: another run works there, wait for it') from e
    try:
        if not (overwrite and 'train' in steps): check_settings(folder, files, settings)
        if overwrite: _remove(folder, files, steps)
        if not (folder/'weights.pth').exists() and 'train' in steps: shutil.rmtree(folder, ignore_errors=True)
        yield
    finally: lock.release()


def _remove(folder, files, steps):
    if 'train' in steps or 'predict' in steps:
        for o in files: o.unlink(missing_ok=True)
    if 'train' in steps or 'eval' in steps: (folder/'scores.json').unlink(missing_ok=True)
    if 'train' in steps: (folder/'weights.pth').unlink(missing_ok=True)


def keep(folder, learn, settings):
    "Write what `train` made: the out-of-fold probabilities, the settings, and last the weights"
    learn.oof.save(folder/'oof', overwrite=True)
    written(folder/'settings.json', lambda o: o.write_text(json.dumps(settings), encoding='utf-8'))
    written(folder/'weights.pth', lambda o: torch.save(learn.model.state_dict(), o))


def with_weights(make, folder):
    "The Learner that `keep` kept; `make` gives it untrained"
    need(folder/'weights.pth')
    learn = make([])
    learn.model.load_state_dict(torch.load(folder/'weights.pth', map_location='cpu', weights_only=True))
    return learn


def scores_of(folder):
    "What the step eval measured, empty where it was not run"
    file = folder/'scores.json'
    return json.loads(file.read_text('utf-8')) if file.exists() else {}


def keep_scores(folder, scores):
    "Write what the step eval measured"
    return written(folder/'scores.json', lambda o: o.write_text(json.dumps(scores), encoding='utf-8'))
