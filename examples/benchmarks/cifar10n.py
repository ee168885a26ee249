"""Find real human label errors: CIFAR-10N, a small convnet from scratch, with and without folds.

    python examples/benchmarks/cifar10n.py --data DIR

DIR holds labels.csv (path, split, true and the noisy columns) and images.tar, or the images
themselves. For each noisy column it prints: the ranking by self-confidence against the true errors
(AUROC, AUPRC; out-of-fold and, for comparison, in-sample), the filters' F1,
prune_by_class after temperature scaling, the seconds of the plain fit and of the fit with the
callback, and their ratio. Both fits are measured in the same run."""
import tarfile
import time
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
from fastai.vision.all import *
from fastcore.script import call_parse
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from fastai_clean.all import CleanInterpretation, ConfidentLearningCallback


def load_images(data, paths):
    """Images (n, 3, h, w) uint8 of `paths`, from `data` or the images.tar in it, which is not
    unpacked"""
    tar = tarfile.open(data/'images.tar') if (data/'images.tar').exists() else None
    images = []
    for path in paths:
        file = BytesIO(tar.extractfile(path).read()) if tar else data/path
        images.append(np.asarray(Image.open(file).convert('RGB')).transpose(2, 0, 1))
    return np.stack(images)


class Pixels:
    "Item number -> TensorImage"
    def __init__(self, images): self.images = images
    def __call__(self, i): return TensorImage(self.images[i])


class Label:
    "Item number -> label"
    def __init__(self, labels): self.labels = labels
    def __call__(self, i): return self.labels[i]


def make_dls(df, images, column, bs):
    "Training items labelled by `column`, validation items by the truth; flips as augmentation"
    labels = df[column].where(df.split == 'train', df.true).to_numpy()
    splits = [np.flatnonzero(df.split == o).tolist() for o in ('train', 'test')]
    dset = Datasets(range(len(df)), [[Pixels(images)], [Label(labels), Categorize]], splits=splits)
    tfms = [IntToFloatTensor, Flip, Normalize.from_stats(*cifar_stats)]
    return dset.dataloaders(bs=bs, after_batch=tfms, num_workers=0, drop_last=True)


def convnet(width=32):
    "Five convolutions and a linear layer, about 0.4 million weights"
    def conv(i, o, stride=1): return ConvLayer(i, o, 3, stride=stride)
    return nn.Sequential(conv(3, width), conv(width, 2*width, 2), conv(2*width, 2*width),
                         conv(2*width, 4*width, 2), conv(4*width, 8*width, 2),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(.2),
                         nn.Linear(8*width, 10))


def make_learner(df, images, column, bs, seed):
    set_seed(seed)
    return Learner(make_dls(df, images, column, bs), convnet(), metrics=accuracy)


def timed_fit(learn, epochs, lr, cbs=None):
    with learn.no_bar(), learn.no_logging():
        start = time.perf_counter()
        learn.fit_one_cycle(epochs, lr, cbs=cbs)
        return time.perf_counter() - start


def measure(df, images, column, epochs, lr, bs, n_folds, seed, tta=None):
    "What one noisy column gives, name -> figure"
    plain = make_learner(df, images, column, bs, seed)
    seconds = timed_fit(plain, epochs, lr)
    learn = make_learner(df, images, column, bs, seed)
    cb = ConfidentLearningCallback(n_folds, seed=seed, tta=tta, mode='folds')
    seconds_oof = timed_fit(learn, epochs, lr, cb)
    interp = CleanInterpretation.from_learner(learn)
    train = df.iloc[[int(o) for o in interp.ids]]
    wrong = (train[column] != train.true).to_numpy()

    def in_order(table, name): return table.sort_index()[name].to_numpy()
    doubt = 1 - in_order(interp.issues, 'label_quality')
    row = dict(column=column, items=len(wrong), noise=wrong.mean(), estimated=interp.noise_rate,
               auroc=roc_auc_score(wrong, doubt), auprc=average_precision_score(wrong, doubt))
    for name in ('auto', 'prune_by_noise_rate', 'predicted_neq_given', 'prune_by_class'):
        row[f'f1_{name}'] = f1_score(wrong, in_order(interp.find_issues(name), 'is_issue'))
    scaled = CleanInterpretation.from_learner(learn, filter_by='prune_by_class',
                                              calibrate='temperature')
    row |= dict(temperature=scaled.how['temperature'],
                f1_prune_by_class_scaled=f1_score(wrong, in_order(scaled.issues, 'is_issue')))
    train_dl = plain.dls.test_dl(plain.dls.train_ds.items, with_labels=True)
    with plain.no_bar(): preds, targs = plain.get_preds(dl=train_dl)
    in_sample = 1 - preds[range(len(targs)), targs].numpy()
    row |= dict(auprc_in_sample=average_precision_score(wrong, in_sample),
                accuracy=learn.recorder.values[-1][-1], seconds_plain=seconds,
                seconds_callback=seconds_oof, ratio=seconds_oof/seconds)
    return row


@call_parse
def main(
    data: Path = Path('.'),  # Folder with labels.csv and images.tar or the images
    columns: str = 'worse,aggre',  # Noisy label columns, separated by commas
    epochs: int = 10,  # Epochs of every fit
    lr: float = 3e-3,  # Maximum learning rate
    bs: int = 128,  # Batch size
    n_folds: int = 5,  # Folds
    seed: int = 0,  # Seed of weights, batches and folds
    n: int = None,  # Number of training images, the first; all by default
    tta: str = None,  # 'flip': predict held-out images and their mirror images
):
    "Print a table per column; returns them as a DataFrame, one row per column"
    df = pd.read_csv(data/'labels.csv')
    if n is not None:
        train = df[df.split == 'train'].head(n)
        df = pd.concat([train, df[df.split == 'test']], ignore_index=True)
    images = load_images(data, df.path)
    rows = []
    for column in columns.split(','):
        rows.append(measure(df, images, column, epochs, lr, bs, n_folds, seed, tta))
        print(pd.Series(rows[-1]).to_string(float_format='{:.3f}'.format), flush=True)
    return pd.DataFrame(rows)
