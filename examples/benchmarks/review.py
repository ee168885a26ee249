"""What a review is worth: the 500 worst items of CIFAR-10N get their true labels, and a fresh
Learner is trained.

    python examples/benchmarks/review.py --data DIR

DIR as for cifar10n.py, which must lie beside this file. For each seed a Learner is trained with the
callback, its training items are ranked, and a ReviewSession gives the worst `reviewed` items their
true labels; another gives them to as many random items. Items whose given label is right are kept.
`apply_dls` makes the DataLoaders of fresh Learners of the same weights and batches. It prints how
many wrong labels each review corrected, and the accuracy on the validation set, whose labels are
true: mean and range over the seeds, also for the labels as given and for all labels true."""
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
from cifar10n import convnet, load_images, make_dls, timed_fit
from fastai.vision.all import Learner, accuracy, set_seed
from fastcore.script import call_parse

from fastai_clean.all import CleanInterpretation, ConfidentLearningCallback


def review(interp, true, rows, path):
    """A session that gives the items at the positions `rows` their true labels, and how many were
    wrong"""
    session = interp.review(path, user='truth')
    ids = pd.Series(session.ids, session.issues.index).loc[rows].to_numpy()
    labels = true[ids.astype(int)]
    right = session.issues.given.loc[rows].to_numpy() == labels
    if right.any(): session.keep(ids[right])
    if not right.all(): session.relabel(ids[~right], labels[~right])
    return session, int((~right).sum())


def new_learner(make, seed):
    """A Learner on the DataLoaders that `make` makes; weights and order of the items follow from
    the seed alone"""
    set_seed(seed)
    dls = make()
    set_seed(seed)
    return Learner(dls, convnet(), metrics=accuracy)


def last_accuracy(learn): return learn.recorder.values[-1][-1]


def measure(df, images, column, epochs, lr, bs, n_folds, reviewed, seed):
    "The rows of one seed"
    learn = new_learner(partial(make_dls, df, images, column, bs), seed)
    timed_fit(learn, epochs, lr, ConfidentLearningCallback(n_folds, seed=seed, mode='folds'))
    interp, true = CleanInterpretation.from_learner(learn), df.true.to_numpy()
    worst = interp.issues.index
    some = np.random.default_rng(seed).choice(worst, min(reviewed, len(worst)), replace=False)
    chosen = {f'{reviewed} random': some, f'{reviewed} worst': worst[:reviewed], 'all true': worst}
    rows = [dict(labels='as given', corrected=0, accuracy=last_accuracy(learn))]
    with TemporaryDirectory() as folder:
        for name, items in chosen.items():
            session, corrected = review(interp, true, items, Path(folder)/f'{name}.jsonl')
            fresh = new_learner(partial(session.apply_dls, learn), seed)
            timed_fit(fresh, epochs, lr)
            rows.append(dict(labels=name, corrected=corrected, accuracy=last_accuracy(fresh)))
    return [dict(column=column, seed=seed, **o) for o in rows]


def summary(table):
    """Mean and range of the accuracy, and of its gain over the labels as given: one row per kind of
    labels"""
    before = table[table.labels == 'as given'].set_index(['column', 'seed']).accuracy
    gain = table.accuracy - before.loc[list(zip(table.column, table.seed))].to_numpy()
    groups = table.assign(gain=gain).groupby(['column', 'labels'], sort=False)
    return groups.agg(corrected=('corrected', 'mean'), accuracy=('accuracy', 'mean'),
                      low=('accuracy', 'min'), high=('accuracy', 'max'), gain=('gain', 'mean'),
                      gain_low=('gain', 'min'), gain_high=('gain', 'max')).reset_index()


def show(df): print(df.to_string(index=False, float_format='{:.3f}'.format), flush=True)


@call_parse
def main(
    data: Path = Path('.'),  # Folder with labels.csv and images.tar or the images
    columns: str = 'worse',  # Noisy label columns, separated by commas
    n: int = 3000,  # Number of training images, the first
    reviewed: int = 500,  # Items that get their true labels
    epochs: int = 8,  # Epochs of every fit
    lr: float = 3e-3,  # Maximum learning rate
    bs: int = 64,  # Batch size
    n_folds: int = 3,  # Folds
    seeds: int = 3,  # Number of seeds
):
    "Print one row per seed and kind of labels, then the summary; returns the rows as a DataFrame"
    df = pd.read_csv(data/'labels.csv')
    df = pd.concat([df[df.split == 'train'].head(n), df[df.split == 'test']], ignore_index=True)
    images, rows = load_images(data, df.path), []
    for column in columns.split(','):
        for seed in range(seeds):
            rows += measure(df, images, column, epochs, lr, bs, n_folds, reviewed, seed)
            show(pd.DataFrame(rows[-4:]))
    table = pd.DataFrame(rows)
    show(summary(table))
    return table
