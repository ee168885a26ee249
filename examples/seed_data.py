"""Write the `data` directory that the seed project published, from its two data sets.

    python examples/seed_data.py --imagenette DIR --tweets DIR --out data

--imagenette: a folder with noisy_imagenette.csv and the images it names, such as
train/n02979186/n02979186_9036.JPEG. For each noise level and each loss one network is trained with
ConfidentLearningCallback; its out-of-fold probabilities give
    imagenette_labelsmoothing|imagenette_no_labelsmoothing /
    prune_noise_rate|prune_noise_rate_class / noisy{5,25,50}_train_predictions.csv
which hold the flagged training rows, worst first. At the end precision, recall and F1 of every file
are printed.

--tweets: WNUT-2020 Task 2's train.tsv, valid.tsv and test.tsv. A text classifier that learned from
train.tsv checks the labels of test.tsv; covid/noisy/noisy_text.csv holds the flagged tweets:
position in test.tsv, id, text, label, hashtags, prediction and confidence, without a header.

Files that are there are kept, so that an interrupted run goes on from where it stopped; --overwrite
makes them anew."""
import itertools
import math
import re
from pathlib import Path

import pandas as pd
from fastai.text.all import *
from fastai.vision.all import *
from fastcore.script import call_parse
from runs import written

from fastai_clean.all import CleanInterpretation, ConfidentLearningCallback

LOSSES = {'imagenette_labelsmoothing': LabelSmoothingCrossEntropy,
          'imagenette_no_labelsmoothing': CrossEntropyLossFlat}
PRUNES = {'prune_noise_rate': 'prune_by_noise_rate', 'prune_noise_rate_class': 'both'}
LEVELS = (1, 5, 25, 50)


def csv_path(
    out,  # The data directory
    loss,  # One of `LOSSES`
    prune,  # One of `PRUNES`
    level,  # Noise level in per cent
) -> Path:
    "Where the seed keeps the flagged rows of one noise level, loss and filter"
    return Path(out)/loss/prune/f'noisy{level}_train_predictions.csv'


# Imagenette

def read_truth(
    file,  # noisy_imagenette.csv
    levels=LEVELS,  # Noise levels whose columns are needed
) -> pd.DataFrame:  # path, noisy_labels_0, ..., is_valid
    "Imagenette's true and noisy labels; SystemExit if the file or a column is missing"
    file = Path(file)
    if not file.is_file():
        raise SystemExit(f'{file} is not there: it holds the labels of Noisy Imagenette')
    df = pd.read_csv(file)
    needed = {'path', 'is_valid', 'noisy_labels_0', *(f'noisy_labels_{o}' for o in levels)}
    missing = sorted(needed - set(df.columns))
    if missing: raise SystemExit(f'{file} lacks the column {" and ".join(missing)}')
    return df


def image_learner(
    df,  # What `read_truth` gives
    folder,  # The folder of its paths
    level,  # Noise level in per cent
    loss_func,  # Loss function
    arch='resnet34',  # Name in fastai.vision.models, or a function as vision_learner takes it
    pretrained=False,  # Whether to start from ImageNet's weights, which are downloaded
    size=128,  # Side of the images in pixels
    bs=64,  # Batch size
    num_workers=defaults.cpus,  # Processes that load images; 0: none
    seed=0,  # Seed of the weights and batches
    cbs=None,  # Callbacks
) -> Learner:
    """A Learner on the noisy training rows, validated on the clean rest; SystemExit for an unknown
    architecture"""
    model = arch
    if not callable(arch):
        model = getattr(models, arch, None) or getattr(models.xresnet, arch, None)
    if not callable(model):
        raise SystemExit(f'--arch {arch} is not in fastai.vision.models: choose one of it, for '
                         'example resnet34')
    set_seed(seed)
    dls = ImageDataLoaders.from_df(df, folder, fn_col='path', label_col=f'noisy_labels_{level}',
                                   valid_col='is_valid', bs=bs, num_workers=num_workers,
                                   item_tfms=[RandomResizedCrop(size, min_scale=.35), FlipItem()])
    return vision_learner(dls, model, loss_func=loss_func, pretrained=pretrained, metrics=accuracy,
                          cbs=cbs)


def write_imagenette(
    folder,  # Folder of noisy_imagenette.csv and the images
    out,  # The data directory
    levels=(5, 25, 50),  # Noise levels in per cent
    epochs=5,  # Epochs of each fit
    lr=3e-3,  # Maximum learning rate
    n_folds=4,  # Folds
    pretrained=False,  # Whether to start from ImageNet's weights and fine-tune
    seed=0,  # Seed of the weights, the batches and the folds
    overwrite=False,  # Whether to make files anew that are there
    **kwargs,  # Passed to `image_learner`: arch, size, bs, num_workers
) -> list:  # Paths of the files written
    "One fit per noise level and loss, one file per filter; SystemExit if anything is missing"
    folder = Path(folder)
    df = read_truth(folder/'noisy_imagenette.csv', levels)
    files = []
    for level, loss in itertools.product(levels, LOSSES):
        prunes = [o for o in PRUNES if overwrite or not csv_path(out, loss, o, level).exists()]
        if not prunes: continue
        lost = [o for o in df.path if not (folder/o).is_file()]
        if lost:
            raise SystemExit(f'{len(lost)} of {len(df)} images are not there, first '
                             f'{folder/lost[0]}')
        print(f'{loss}, {level} % noise', flush=True)
        learn = image_learner(df, folder, level, LOSSES[loss](), pretrained=pretrained, seed=seed,
                              cbs=ConfidentLearningCallback(n_folds, seed=seed, mode='folds'),
                              **kwargs)
        if pretrained: learn.fine_tune(epochs, lr)
        else: learn.fit_one_cycle(epochs, lr)
        interp = CleanInterpretation.from_learner(learn)
        for prune in prunes:
            file = csv_path(out, loss, prune, level)
            interp.find_issues(PRUNES[prune])
            file.parent.mkdir(parents=True, exist_ok=True)
            files.append(interp.to_csv(file, overwrite=overwrite))
    return files


def score_table(
    csv_dir,  # The data directory
    truth_csv,  # noisy_imagenette.csv
) -> pd.DataFrame:  # noise, loss, prune, planted, flagged, found, precision, recall, f1
    """How many of the planted errors each file in `csv_dir` names, one row per file.

    `planted` counts the training rows whose noisy label is not noisy_labels_0, `found` those of
    them that are among the `flagged`; precision, recall and f1 lie in 0 to 1, NaN if they would be
    0/0. SystemExit if there is no file, or one names other rows than the training rows of
    `truth_csv`."""
    there = [o for o in itertools.product(LEVELS, LOSSES, PRUNES)
             if csv_path(csv_dir, *o[1:], o[0]).exists()]
    df = read_truth(truth_csv, sorted({level for level, *_ in there}))
    if not there:
        first = csv_path(csv_dir, [*LOSSES][0], [*PRUNES][0], 5)
        raise SystemExit(f'{first} is not there, nor any other to score')

    train = df[~df.is_valid.astype(bool)].set_index('path')
    rows = []
    for level, loss, prune in there:
        file = csv_path(csv_dir, loss, prune, level)
        paths = pd.read_csv(file).path
        if not paths.isin(train.index).all() or paths.duplicated().any():
            raise SystemExit(f'{file} has rows that are no training rows of {truth_csv}, or has '
                             'them twice: were they made from other labels?')
        wrong = train[f'noisy_labels_{level}'] != train.noisy_labels_0
        counts = [int(wrong.sum()), len(paths), int(wrong[paths].sum())]
        rows.append((level, loss, prune, *counts, *ratios(*counts)))
    names = 'noise loss prune planted flagged found precision recall f1'
    return pd.DataFrame(rows, columns=names.split())


def ratios(planted, flagged, found):
    "Precision, recall and F1, NaN for what is 0/0"
    parts = (found, flagged), (found, planted), (2*found, planted + flagged)
    return [a/b if b else math.nan for a, b in parts]


# Tweets

def read_tweets(
    file,  # A .tsv of id, text and label, with or without the header Id, Text, Label
) -> pd.DataFrame:  # id, text, label: strings
    """Tweets as they were written: quotation marks mean nothing. SystemExit if `file` is missing or
    malformed"""
    file = Path(file)
    if not file.is_file():
        raise SystemExit(f'{file} is not there: it holds tweets of WNUT-2020 Task 2')
    with open(file, encoding='utf-8-sig', newline='\n') as f:
        lines = [o.rstrip('\r\n').split('\t') for o in f]
    if lines and lines[0] == ['Id', 'Text', 'Label']: lines[0] = ['']
    for i, o in enumerate(lines, 1):
        if o != [''] and len(o) != 3:
            raise SystemExit(f'{file}, line {i} has {len(o)} columns: id, text, label needed')
    return pd.DataFrame([o for o in lines if o != ['']], columns=['id', 'text', 'label'])


def tweet_learner(
    train,  # Tweets to learn from, as `read_tweets` gives them
    valid,  # Tweets to validate on
    n_hid=256,  # Units of the hidden layers
    bs=64,  # Batch size
    seed=0,  # Seed of the weights and batches
) -> Learner:
    "A text classifier, AWD_LSTM of two layers, not trained yet"
    set_seed(seed)
    df = pd.concat([train.assign(is_valid=False), valid.assign(is_valid=True)], ignore_index=True)
    dls = TextDataLoaders.from_df(df, text_col='text', label_col='label', valid_col='is_valid',
                                  bs=bs)
    config = awd_lstm_clas_config | dict(emb_sz=n_hid//2, n_hid=n_hid, n_layers=2)
    return text_classifier_learner(dls, AWD_LSTM, config=config, pretrained=False, metrics=accuracy)


def tweet_rows(
    test,  # The tweets that were checked, as `read_tweets` gives them
    issues,  # Their issue table, indexed by position
) -> pd.DataFrame:  # By position: id, text, label, hashtags, prediction, confidence, as the seed's
    """The flagged tweets, worst first; hashtags are what follows a # up to a space, NA if there are
    none"""
    rows = issues[issues.is_issue]
    df = test.iloc[rows.index]
    tags = [' '.join(re.findall(r'#(\S+)', o)) or 'NA' for o in df.text]
    return df.assign(hashtags=tags, prediction=rows.predicted.to_numpy(),
                     confidence=rows.confidence.to_numpy())


def write_tweets(
    folder,  # Folder of train.tsv, valid.tsv and test.tsv
    out,  # The data directory
    epochs=5,  # Epochs
    lr=3e-3,  # Maximum learning rate
    overwrite=False,  # Whether to make the file anew if it is there
    **kwargs,  # Passed to `tweet_learner`: n_hid, bs, seed
) -> dict:  # items, flagged, estimated_noise, accuracy on valid.tsv; empty if the file was there
    """Learn from train.tsv, check test.tsv; SystemExit if a file is missing or test.tsv has a label
    of its own"""
    folder = Path(folder)
    file = Path(out)/'covid'/'noisy'/'noisy_text.csv'
    if file.exists() and not overwrite: return {}
    train, valid, test = [read_tweets(folder/f'{o}.tsv') for o in ('train', 'valid', 'test')]
    unknown = sorted({*valid.label, *test.label} - {*train.label})
    if unknown:
        raise SystemExit(f'{folder} has the label {unknown[0][:80]!r}, which train.tsv lacks')

    learn = tweet_learner(train, valid, **kwargs)
    learn.fit_one_cycle(epochs, lr)
    accuracy_valid = learn.recorder.values[-1][-1]
    dl = learn.dls.test_dl(tokenize_df(test, 'text')[0], with_labels=True)
    interp = CleanInterpretation.from_learner(learn, dl=dl)
    df = tweet_rows(test, interp.issues)
    written(file, lambda o: df.to_csv(o, header=False))
    return dict(items=len(test), flagged=len(df), estimated_noise=interp.noise_rate,
                accuracy=accuracy_valid)


@call_parse
def main(
    imagenette: Path = None,  # Folder of noisy_imagenette.csv and Imagenette's train and val
    tweets: Path = None,  # Folder of WNUT-2020 Task 2's train.tsv, valid.tsv and test.tsv
    out: Path = Path('data'),  # Folder to write to
    noise: str = '5,25,50',  # Noise levels in per cent, separated by commas: of 1, 5, 25, 50
    arch: str = 'resnet34',  # Architecture for the images: a name in fastai.vision.models
    pretrained: bool = False,  # Fine-tune ImageNet's weights, which fastai downloads
    size: int = 128,  # Side of the images in pixels
    n_folds: int = 4,  # Folds
    n_hid: int = 256,  # Units of the text classifier's hidden layers
    epochs: int = 5,  # Epochs of each fit
    lr: float = 3e-3,  # Maximum learning rate
    bs: int = 64,  # Batch size
    num_workers: int = defaults.cpus,  # Processes that load images; 0: none
    seed: int = 0,  # Seed of the weights, the batches and the folds
    overwrite: bool = False,  # Make files anew that are there
):
    "Write what is not there yet; returns the images' table and the figures of the tweets' file"
    if imagenette is None and tweets is None:
        raise SystemExit('pass --imagenette DIR, --tweets DIR or both')
    levels = noise.split(',')
    if not {*levels} <= {*map(str, LEVELS)}:
        raise SystemExit(f'--noise {noise}: give some of 1, 5, 25, 50, as 5,25')

    common = dict(epochs=epochs, lr=lr, bs=bs, seed=seed, overwrite=overwrite)
    table = None
    figures = None
    if tweets is not None:
        figures = write_tweets(tweets, out, n_hid=n_hid, **common)
        for name, value in figures.items():
            print(f'{name:16}{value:.3f}' if isinstance(value, float) else f'{name:16}{value}')
    if imagenette is not None:
        write_imagenette(imagenette, out, [int(o) for o in levels], n_folds=n_folds, arch=arch,
                         pretrained=pretrained, size=size, num_workers=num_workers, **common)
        table = score_table(out, imagenette/'noisy_imagenette.csv')
        print(table.to_string(index=False, float_format='{:.3f}'.format))
    return table, figures
