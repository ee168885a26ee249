"""What the scripts of the seed's experiments share: options, files that are whole, and folders of
fits.

A fit's folder holds settings.json and weights.pth; the weights come last, so that they stand for a
finished fit. One run at a time works in a folder, and results of other settings or data are never
mixed."""
import hashlib
import json
import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import torch
from filelock import FileLock, Timeout

STEPS = 'train', 'eval', 'predict'


def run_path(out, loss, level):
    "Where one fit is kept"
    return Path(out)/'runs'/loss/f'noisy{level}'


@contextmanager
def said():
    "End the script with one sentence on what is not there: network, files, weights, timm"
    try: yield
    except (OSError, ValueError, ImportError) as e: raise SystemExit(str(e)) from e


def written(file, write):
    "Let `write` make `file` under another name first, so that it is whole or not there"
    file.parent.mkdir(parents=True, exist_ok=True)
    tmp = file.with_name(f'.{file.name}-{uuid4().hex}{file.suffix}')
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


def plan(
    steps,  # Comma-separated option: some of `STEPS`
    noise,  # Comma-separated option: some of `levels`
    prune,  # Comma-separated option: some of `prunes`
    smoothing,  # Option: yes, no or both
    levels,  # Noise levels that there are
    prunes,  # Prune methods that there are
    losses,  # Names of the two losses: with label smoothing, without
):
    "The steps, noise levels, prune methods and losses that the options ask for"
    smooth, plain = losses
    asked = dict(yes=[smooth], no=[plain], both=[smooth, plain])
    steps = chosen('steps', steps, STEPS)
    noise = chosen('noise', noise, levels)
    prune = chosen('prune', prune, prunes)
    if smoothing not in asked: raise SystemExit(f'--smoothing {smoothing}: give yes, no or both')
    return steps, noise, prune, asked[smoothing]


def check_positive(**options):
    "SystemExit for an option that is below 1, or n_folds below 2"
    for name, value in options.items():
        least = 2 if name == 'n_folds' else 1
        if value < least:
            raise SystemExit(f'--{name.replace("_", "-")} {value}: give {least} or more')


def digest(*files):
    "The first 16 letters of the SHA-256 of the files' contents, one after the other"
    found = hashlib.sha256()
    for file in files: found.update(file.read_bytes())
    return found.hexdigest()[:16]


def need(file):
    "SystemExit if `file`, which a fit makes, is not there"
    if not file.exists(): raise SystemExit(f'{file} is not there: run the step train first')


def made_with(folder, settings):
    "Whether `folder` holds a finished fit of these settings"
    return (folder/'weights.pth').exists() and settings_of(folder) == settings


def settings_of(folder):
    "The settings of the fit in `folder`, empty if there are none"
    file = folder/'settings.json'
    return json.loads(file.read_text('utf-8')) if file.exists() else {}


def check_settings(folder, files, settings):
    "SystemExit if the finished fit in `folder`, or one of `files`, its results, was made otherwise"
    todo = 'choose another --out, or --overwrite'
    if (folder/'weights.pth').exists():
        old = settings_of(folder)
        other = [f'{k} {old.get(k)}, not {v}' for k, v in settings.items() if old.get(k) != v]
        if other: raise SystemExit(f'{folder} holds a fit with {"; ".join(other)}: {todo}')
    elif found := [o for o in files if o.exists()]:
        raise SystemExit(f'{found[0]} is not of a fit in {folder}, where there is none: {todo}')


@contextmanager
def working(
    folder,  # Folder of one fit
    files,  # Its results, which lie elsewhere
    settings,  # Settings of the fit, see `check_settings`
    steps,  # Steps of this run
    overwrite,  # Whether to remove first what the `steps` make
):
    "Work in `folder` alone, on what these settings made"
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_name(f'.{folder.name}.lock'), timeout=0)
    try: lock.acquire()
    except Timeout as e: raise SystemExit(f'{folder}: another run works there, wait for it') from e
    try:
        if not (overwrite and 'train' in steps): check_settings(folder, files, settings)
        if overwrite: _remove(folder, files, steps)
        if not (folder/'weights.pth').exists() and 'train' in steps:
            shutil.rmtree(folder, ignore_errors=True)
        yield
    finally: lock.release()


def _remove(folder, files, steps):
    # The weights after what was made of them, and before the rest of their fit: a run that is
    # killed here leaves no results without a fit, and no weights with other settings
    if 'train' in steps or 'predict' in steps:
        for o in files: o.unlink(missing_ok=True)
    if 'train' in steps or 'eval' in steps: (folder/'scores.json').unlink(missing_ok=True)
    if 'train' in steps: (folder/'weights.pth').unlink(missing_ok=True)


def keep(folder, learn, settings):
    "Write what `train` made: the out-of-fold probabilities, the settings, and last the weights"
    learn.oof.save(folder/'oof', overwrite=True)
    text = json.dumps(settings)
    written(folder/'settings.json', lambda o: o.write_text(text, encoding='utf-8'))
    written(folder/'weights.pth', lambda o: torch.save(learn.model.state_dict(), o))


def with_weights(make, folder):
    "The Learner that `keep` kept; `make` gives it untrained"
    file = folder/'weights.pth'
    need(file)
    learn = make([])
    learn.model.load_state_dict(torch.load(file, map_location='cpu', weights_only=True))
    return learn


def scores_of(folder):
    "What the step eval measured, empty if it was not run"
    file = folder/'scores.json'
    return json.loads(file.read_text('utf-8')) if file.exists() else {}


def keep_scores(folder, scores):
    "Write what the step eval measured"
    text = json.dumps(scores)
    return written(folder/'scores.json', lambda o: o.write_text(text, encoding='utf-8'))
