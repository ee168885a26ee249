"""The seed's Imagenette experiments: which planted errors are found, at which noise level and loss?

    python examples/noisy_imagenette.py    downloads Imagenette and ResNet-34's weights; a GPU helps
    python examples/noisy_imagenette.py --path DIR --arch xresnet18 --scratch    without network

For each noise level and loss, in --out:
    train    one fit, followed by ConfidentLearningCallback: runs/<loss>/noisy<level> holds its
             weights and `oof`
    eval     the accuracy on the clean validation images, from those weights: scores.json beside
             them
    predict  the flagged training rows, worst first, as the seed kept them:
             <loss>/<prune method>/noisy<level>_train_predictions.csv
and then experiments.csv, the table of how many planted errors each file finds, also printed.

What is there is not made again, so that an interrupted run goes on from where it stopped;
--overwrite makes it anew."""
import itertools
from pathlib import Path

import pandas as pd
from fastai.torch_core import defaults, set_seed
from fastcore.script import call_parse
from runs import (
    check_positive,
    check_settings,
    digest,
    keep,
    keep_scores,
    made_with,
    need,
    plan,
    run_path,
    said,
    scores_of,
    with_weights,
    working,
    written,
)
from seed_data import LEVELS, LOSSES, PRUNES, csv_path, read_truth, score_table

from fastai_clean.all import CleanWandbCallback, ConfidentLearningCallback, OutOfFold, find_issues
from fastai_clean.vision import (
    gradual_unfreeze,
    imagenette_learner,
    imagenette_path,
    imagenette_version,
)


def train(folder, make, settings, wandb):
    "Fit and keep the weights and `learn.oof`"
    if (folder/'weights.pth').exists(): return
    cbs = [ConfidentLearningCallback(settings['n_folds'], seed=settings['seed'], mode='folds')]
    if wandb:
        name = '-'.join(folder.parts[-2:])
        cbs.append(CleanWandbCallback(project='noisy_imagenette', name=name))
    learn = make(cbs)
    epochs = settings['epochs']
    lr = settings['lr']
    if settings['unfreeze']: gradual_unfreeze(learn, epochs, lr)
    elif settings['pretrained']: learn.fine_tune(epochs, lr)
    else: learn.fit_one_cycle(epochs, lr)
    if wandb: cbs[1].finish()
    keep(folder, learn, settings)


def evaluate(folder, make):
    "Loss and accuracy, 0 to 1, on the validation images"
    if scores_of(folder): return
    learn = with_weights(make, folder)
    with learn.no_bar(): keep_scores(folder, dict(zip(('loss', 'accuracy'), learn.validate())))


def predict(folder, file, prune, truth):
    "The rows of `truth` that the filter flags, worst first, with prediction and confidence"
    if file.exists(): return
    need(folder/'weights.pth')
    oof = OutOfFold.load(folder/'oof')
    issues = find_issues(oof.targets, oof.pred_probs, PRUNES[prune], ids=oof.ids, vocab=oof.vocab)
    issues = issues[issues.is_issue]
    # The id of an image is its row's label in the frame, here its number
    rows = truth.loc[issues.id.astype(int)]
    rows = rows.assign(predictions=issues.predicted.to_numpy(),
                       confidence=issues.confidence.to_numpy())
    written(file, lambda o: rows.to_csv(o, index=False))


def table_of(out, truth_csv, settings=None):
    """seed_data's table, with the validation accuracy of each fit, NaN if eval was not run; of
    these settings alone"""
    table = score_table(out, truth_csv)
    folders = [run_path(out, o.loss, o.noise) for o in table.itertuples()]
    table = table.assign(accuracy=[scores_of(o).get('accuracy', float('nan')) for o in folders])
    if settings is None: return table
    return table[[made_with(o, settings) for o in folders]].reset_index(drop=True)


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
) -> pd.DataFrame:  # noise, loss, prune, planted, flagged, found, precision, recall, f1, accuracy
    "Do the steps that are not done yet; returns the table, None if no file was predicted yet"
    steps, levels, prunes, losses = plan(steps, noise, prune, smoothing, LEVELS, PRUNES, LOSSES)
    check_positive(size=size, epochs=epochs, n_folds=n_folds, bs=bs)
    smooth, _ = LOSSES
    with said(): path = path or imagenette_path(imagenette_version(size), woof)
    truth_csv = path/f'noisy_image{"woof" if woof else "nette"}.csv'
    truth = read_truth(truth_csv, levels)
    settings = dict(arch=arch, pretrained=not scratch, unfreeze=unfreeze, size=size, epochs=epochs,
                    lr=lr, n_folds=n_folds, bs=bs, seed=seed, woof=woof, data=digest(truth_csv))
    todo = []
    for level, loss in itertools.product(levels, losses):
        files = [csv_path(out, loss, o, level) for o in PRUNES]
        todo.append((level, loss, run_path(out, loss, level), files))
    for *_, folder, files in todo:
        if not (overwrite and 'train' in steps): check_settings(folder, files, settings)

    for level, loss, folder, files in todo:
        def make(cbs, level=level, loss=loss):
            set_seed(seed)
            with said():
                return imagenette_learner(level, arch, size, loss == smooth, not scratch, path=path,
                                          woof=woof, bs=bs, num_workers=num_workers, cbs=cbs)
        print(f'{loss}, {level} % noise', flush=True)
        with working(folder, files, settings, steps, overwrite):
            if 'train' in steps: train(folder, make, settings, wandb)
            if 'eval' in steps: evaluate(folder, make)
            for o in prunes if 'predict' in steps else []:
                predict(folder, csv_path(out, loss, o, level), o, truth)
    if not any(o.exists() for *_, files in todo for o in files): return None
    table = table_of(out, truth_csv, settings)
    written(out/'experiments.csv', lambda o: table.to_csv(o, index=False))
    print(table.to_string(index=False, float_format='{:.3f}'.format))
    return table
