"""One round of heads on features against the mean of three: ranking and flags, for errors of people and planted ones.

    python examples/benchmarks/head_rounds.py --data DIR --folder FEATURES --out head_rounds.csv

DIR as for cases.py: Imagenette (noisy_imagenette.csv's labels, features at 160 px) and CIFAR-10N (at 112 px), `n` training
images each. EfficientNet-lite0's features are made once and kept in FEATURES. A row per case and number of rounds: AUPRC
of the ranking, F1 of what 'auto' and `prune_by_class` flag and of the best cut in hindsight. The cases `shuffled` have
labels in random order and only `kappa`, the agreement beyond chance: heads that knew something of the labels that they
predict would have one above 0. Rows are kept in --out as they come."""
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from cases import codes, features, plant
from fastcore.script import call_parse
from imagenette_features import one_and_three
from sklearn.metrics import average_precision_score, cohen_kappa_score, f1_score

from fastai_clean.all import find_issues


def jobs(data, folder):
    "Name, features, given and true labels of every case"
    x, df = imagenette(data, folder)
    vocab = sorted(df.noisy_labels_0.unique())
    for level in (1, 5, 25, 50):
        yield f'imagenette {level} %', x, codes(df[f'noisy_labels_{level}'], vocab), codes(df.noisy_labels_0, vocab)
    yield 'shuffled imagenette', x, np.random.default_rng(0).permutation(codes(df.noisy_labels_0, vocab)), None
    df = pd.read_csv(data/'cifar10n/labels.csv')
    df = df[df.split == 'train']
    found = features(data/'cifar10n/images.tar', folder/'cifar_112.npz', 112)
    x = np.stack([found.get(o, found.get(o.split('/', 1)[-1])) for o in df.path])
    vocab = sorted(df.true.unique())
    true = codes(df.true, vocab)
    for name in ('aggre', 'worse'): yield f'cifar10n {name}', x, codes(df[name], vocab), true
    rng = np.random.default_rng(0)
    yield 'shuffled cifar10', x, rng.permutation(true), None
    for kind in ('even', 'pair'):
        for rate in (.05, .15, .3): yield f'cifar10 {kind} {rate:.0%}', x, plant(true, rate, kind, rng), true


def imagenette(data, folder):
    "Features (n, d) at 160 px and frame of the training images"
    df = pd.read_csv(data/'noisy_imagenette/noisy_imagenette.csv')
    df = df[~df.is_valid]
    found = features(data/'imagenette/images.tar', folder/'imagenette_160.npz', 160)
    return np.stack([found[o] for o in df.path]), df


def figures(labels, probs, wrong):
    "AUPRC of the ranking and F1 of what is flagged, by name"
    given = probs[np.arange(len(labels)), labels].astype(float)
    res = dict(auprc=average_precision_score(wrong, -given))
    for name in ('auto', 'prune_by_class'):
        res[name] = f1_score(wrong, find_issues(labels, probs, name).sort_index().is_issue)
    return {**res, 'best cut': best_f1(-given, wrong)}


def best_f1(score, wrong):
    "The largest F1 that any cut of `score` has"
    hits = np.cumsum(wrong[np.argsort(-score)])
    return (2*hits/(np.arange(1, len(wrong) + 1) + wrong.sum())).max()


@call_parse
def main(
    data: Path = Path('data'),  # Folder with imagenette, noisy_imagenette and cifar10n
    folder: Path = Path('.'),  # Folder to keep features in
    out: Path = Path('head_rounds.csv'),  # CSV that is gone on with
    n: int = 4_000,  # Images of each data set
    seed: int = 0,  # Seed of the folds
    threads: int = 1,  # Threads of torch
):
    "Print a row per case and number of rounds"
    torch.set_num_threads(threads)
    done = pd.read_csv(out) if out.exists() else pd.DataFrame(columns=['case'])
    for name, x, labels, true in jobs(data, folder):
        if name in {*done.case}: continue
        at = np.random.default_rng(seed).permutation(len(labels))[:n]
        x, labels = x[at], labels[at]
        wrong = np.ones(len(at), bool) if true is None else labels != true[at]
        for r, probs in one_and_three(x, labels, seed, False).items():
            row = dict(case=name, wrong=wrong.mean(), n_rounds=r, kappa=cohen_kappa_score(labels, probs.argmax(1)))
            if true is not None: row.update(figures(labels, probs, wrong))
            done = pd.concat([done, pd.DataFrame([row])], ignore_index=True)
            print({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}, flush=True)
        done.to_csv(out, index=False)
    print(done.to_string(index=False, float_format='{:.3f}'.format))
