"""The seed's Imagenette experiments: which planted errors are found, at which noise level, with which loss?

    python examples/noisy_imagenette.py                      downloads Imagenette and ResNet-34's weights; a GPU helps
    python examples/noisy_imagenette.py --path DIR --arch xresnet18 --scratch     what is there, without network

For each noise level and loss, in --out:
    train    one fit, followed by ConfidentLearningCallback: runs/<loss>/noisy<level> holds its weights and `oof`
    eval     the accuracy on the clean validation images, from those weights: accuracy.json beside them
    predict  the flagged training rows, worst first, as the seed kept them:
             <loss>/<prune method>/noisy<level>_train_predictions.csv
and then experiments.csv, the table of how many planted errors each file finds, which is printed, too.

What is there is not made again, so that an interrupted run goes on where it stopped; --overwrite makes it anew."""
import itertools
import json
import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pandas as pd
import torch
from fastai.torch_core import defaults, set_seed
from fastcore.script import call_parse
from seed_data import LEVELS, LOSSES, PRUNES, csv_path, read_truth, score_table

from fastai_clean.all import CleanWandbCallback, ConfidentLearningCallback, OutOfFold, find_issues
from fastai_clean.vision import gradual_unfreeze, imagenette_learner, imagenette_path, imagenette_version

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


def check_settings(folder, settings):
    "SystemExit where the fit in `folder` was made otherwise"
    file = folder/'settings.json'
    if not file.exists(): return
    old = json.loads(file.read_text(encoding='utf-8'))
    other = [f'{k} {old.get(k)}, not {v}' for k, v in settings.items() if old.get(k) != v]
    if other: raise SystemExit(f'{folder} holds a fit with {"; ".join(other)}: choose another --out, or --overwrite')


def forget(folder, files, steps):
    "Remove what the `steps` are to make anew"
    if 'train' in steps: shutil.rmtree(folder, ignore_errors=True)
    if 'eval' in steps: (folder/'accuracy.json').unlink(missing_ok=True)
    for o in files if 'predict' in steps else []: o.unlink(missing_ok=True)


def train(folder, make, settings, wandb):
    "Fit and keep the weights and `learn.oof`; the weights come last, so that they stand for a finished fit"
    if (folder/'weights.pth').exists(): return
    cbs = [ConfidentLearningCallback(settings['n_folds'], seed=settings['seed'])]
    if wandb: cbs.append(CleanWandbCallback(project='noisy_imagenette', name='-'.join(folder.parts[-2:])))
    learn, epochs, lr = make(cbs), settings['epochs'], settings['lr']
    written(folder/'settings.json', lambda o: o.write_text(json.dumps(settings), encoding='utf-8'))
    if settings['unfreeze']: gradual_unfreeze(learn, epochs, lr)
    elif settings['pretrained']: learn.fine_tune(epochs, lr)
    else: learn.fit_one_cycle(epochs, lr)
    if wandb: cbs[1].finish()
    learn.oof.save(folder/'oof', overwrite=True)
    written(folder/'weights.pth', lambda o: torch.save(learn.model.state_dict(), o))


def with_weights(make, folder):
    "The Learner that `train` kept"
    need(folder/'weights.pth')
    learn = make([])
    learn.model.load_state_dict(torch.load(folder/'weights.pth', map_location='cpu', weights_only=True))
    return learn


def evaluate(folder, make):
    "Accuracy on the validation images, 0 to 1"
    if (folder/'accuracy.json').exists(): return
    learn = with_weights(make, folder)
    with learn.no_bar(): loss, accuracy = learn.validate()
    written(folder/'accuracy.json', lambda o: o.write_text(json.dumps(dict(loss=loss, accuracy=accuracy))))


def predict(folder, file, prune, truth):
    "The rows of `truth` that the filter flags, worst first, with prediction and confidence"
    if file.exists(): return
    need(folder/'weights.pth')
    oof = OutOfFold.load(folder/'oof')
    issues = find_issues(oof.targets, oof.pred_probs, PRUNES[prune], items=[int(o) for o in oof.items], vocab=oof.vocab)
    issues = issues[issues.is_issue]
    rows = truth.loc[issues['item']]  # an item's name is its row's number
    rows = rows.assign(predictions=issues.predicted.to_numpy(), confidence=issues.confidence.to_numpy())
    written(file, lambda o: rows.to_csv(o, index=False))


def need(file):
    if not file.exists(): raise SystemExit(f'{file} is not there: run the step train first')


def table_of(out, truth_csv):
    "seed_data's table, with the validation accuracy of each fit, NaN where eval was not run"
    def accuracy(o):
        file = run_path(out, o.loss, o.noise)/'accuracy.json'
        return json.loads(file.read_text())['accuracy'] if file.exists() else float('nan')
    table = score_table(out, truth_csv)
    return table.assign(accuracy=[accuracy(o) for o in table.itertuples()])


@call_parse
def main(
    path: Path = None,  # Folder of Imagenette and its CSV; left out: fastai downloads it
    out: Path = Path('data'),  # Folder to write to
    steps: str = 'train,eval,predict',  # What to do, separated by commas
    noise: str = '5,25,50',  # Noise levels in per cent, separated by commas: of 1, 5, 25, 50
    smoothing: str = 'both',  # Label smoothing: yes, no or both
    prune: str = 'prune_noise_rate,prune_noise_rate_class',  # Prune methods, separated by commas
    arch: str = 'resnet34',  # Architecture: a name of fastai's, torchvision's or timm's
    scratch: bool = False,  # Start from random weights, not from ImageNet's, which are downloaded
    unfreeze: bool = False,  # Unfreeze group by group, --epochs each
    size: int = 128,  # Side of the images in pixels
    epochs: int = 5,  # Epochs of each fit
    lr: float = 3e-3,  # Maximum learning rate
    n_folds: int = 4,  # Folds
    bs: int = 64,  # Batch size
    num_workers: int = defaults.cpus,  # Processes that load images; 0: none
    seed: int = 0,  # Seed of the weights, the batches and the folds
    woof: bool = False,  # Imagewoof instead
    wandb: bool = False,  # Log the fits to Weights & Biases
    overwrite: bool = False,  # Make anew what is there
) -> pd.DataFrame:  # Columns noise, loss, prune, planted, flagged, found, precision, recall, f1, accuracy
    "Do the steps that are not done yet; returns the table, None where no file was predicted yet"
    steps, levels, prunes, losses = plan(steps, noise, prune, smoothing, LEVELS, LOSSES)
    smooth, _ = LOSSES
    settings = dict(arch=arch, pretrained=not scratch, unfreeze=unfreeze, size=size, epochs=epochs, lr=lr,
                    n_folds=n_folds, bs=bs, seed=seed, woof=woof)
    runs = [(level, loss, run_path(out, loss, level)) for level in levels for loss in losses]
    for *_, folder in runs:
        if not (overwrite and 'train' in steps): check_settings(folder, settings)
    with said(): path = path or imagenette_path(imagenette_version(size), woof)
    truth_csv = path/f'noisy_image{"woof" if woof else "nette"}.csv'
    truth = read_truth(truth_csv, levels)
    for level, loss, folder in runs:
        def make(cbs, level=level, loss=loss):
            set_seed(seed)
            with said():
                return imagenette_learner(level, arch, size, loss == smooth, not scratch, path=path, woof=woof, bs=bs,
                                          num_workers=num_workers, cbs=cbs)
        files = {o: csv_path(out, loss, o, level) for o in prunes}
        if overwrite: forget(folder, files.values(), steps)
        print(f'{loss}, {level} % noise', flush=True)
        if 'train' in steps: train(folder, make, settings, wandb)
        if 'eval' in steps: evaluate(folder, make)
        if 'predict' in steps:
            for o, file in files.items(): predict(folder, file, o, truth)
    if not any(csv_path(out, *o).exists() for o in itertools.product(LOSSES, PRUNES, LEVELS)): return None
    table = table_of(out, truth_csv)
    written(out/'experiments.csv', lambda o: table.to_csv(o, index=False))
    print(table.to_string(index=False, float_format='{:.3f}'.format))
    return table
