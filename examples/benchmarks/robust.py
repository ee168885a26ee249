"""What training on wrong labels costs, and what each recipe wins back, on CIFAR-10N's human errors.

One run measures every recipe at a short and a three times longer schedule, and the rankings of the
wrong labels, for several seeds: same images, same first weights, same batches for all recipes of a
seed. Results are kept row by row in a CSV, so an interrupted run goes on where it was. Needs the
data's labels.csv and images.tar, see cifar10n.py."""
import time
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from cifar10n import load_images, make_dls
from fastai.callback.core import Callback, CancelValidException
from fastai.callback.mixup import MixUp
from fastai.callback.schedule import *  # noqa: F403
from fastai.layers import ConvLayer
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat, LabelSmoothingCrossEntropyFlat
from fastai.metrics import accuracy
from fastai.torch_core import set_seed
from fastcore.basics import store_attr
from fastcore.script import call_parse
from scipy.stats import rankdata, t
from sklearn.metrics import average_precision_score, precision_recall_fscore_support
from torch import nn

from fastai_clean.all import *  # noqa: F403

LEARNERS = dict(width=16, lr=3e-3, bs=64)
FIGURES = 'accuracy', 'auprc', 'cost', 'precision', 'recall', 'f1', 'seconds'


def small_net(width):
    "Four convolutions and a linear layer, about 0.1 million weights, cheap without a GPU"
    return nn.Sequential(
        ConvLayer(3, width, 3, stride=2), ConvLayer(width, 2*width, 3, stride=2),
        ConvLayer(2*width, 4*width, 3), ConvLayer(4*width, 8*width, 3, stride=2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(.2), nn.Linear(8*width, 10))


class ValidateLast(Callback):
    "Validation after the last epoch only"
    in_folds = False
    def before_validate(self):
        if self.epoch < self.n_epoch - 1: raise CancelValidException


class Setting:
    "One noisy column and seed: its Learners, and what the folds of the short schedule say"
    def __init__(self, df, images, column, seed, epochs):
        store_attr()
        self.found = {}
        self.train = df[df.split == 'train']
        self.wrong = (self.train[column] != self.train.true).to_numpy()

    def learner(self, labels=None, keep=None, loss_func=None, cbs=None):
        "A new Learner, on `labels` of the items `keep`"
        df = self.df.assign(used=self.df[self.column])
        if labels is not None: df.loc[df.split == 'train', 'used'] = np.asarray(labels)
        images = self.images
        if keep is not None:
            rows = np.concatenate([keep, np.ones(len(df) - len(keep), dtype=bool)])
            df = df[rows].reset_index(drop=True)
            images = images[rows]
        set_seed(self.seed)
        dls = make_dls(df, images, 'used', LEARNERS['bs'])
        return Learner(dls, small_net(LEARNERS['width']), metrics=accuracy,
                       loss_func=loss_func or CrossEntropyLossFlat(), cbs=cbs)

    def oof(self, n_folds=5, loss_func=None):
        "OutOfFold of the short schedule and the seconds it took beside the plain fit, made once"
        key = n_folds, type(loss_func).__name__
        if key not in self.found:
            learn = self.learner(loss_func=loss_func)
            start = time.perf_counter()
            with learn.no_bar(), learn.no_logging():
                learn.oof_preds(lambda o: o.fit_one_cycle(self.epochs, LEARNERS['lr']),
                                n_folds=n_folds, seed=self.seed)
            self.found[key] = learn.oof, time.perf_counter() - start
        return self.found[key]

    @property
    def issues(self):
        "The issue table of the 5 folds, in the order of the items"
        oof, _ = self.oof()
        return find_issues(oof.targets, oof.pred_probs, vocab=oof.vocab).sort_index()


def recipes():
    "Name -> function of a Setting that gives a Learner to fit"
    def soft(s, **kw): return SoftPseudoLabelCallback(s.oof()[0], **kw)

    def relabel(s):
        issues = s.issues
        return s.learner(np.where(issues.is_issue, issues.predicted, issues.given))

    def coteaching(s):
        return s.learner(cbs=CoTeachingCallback(small_net(LEARNERS['width']), s.wrong.mean(), .5))

    def soft_and_elr(s):
        return s.learner(cbs=[soft(s, which='all'), EarlyLearningRegularizationCallback()])

    return {
        'plain cross-entropy': lambda s: s.learner(),
        'label smoothing': lambda s: s.learner(loss_func=LabelSmoothingCrossEntropyFlat()),
        'MixUp': lambda s: s.learner(cbs=MixUp()),
        'drop': lambda s: s.learner(keep=~s.issues.is_issue.to_numpy()),
        'relabel': relabel,
        'weight': lambda s: s.learner(cbs=ItemWeightsCallback(s.oof()[0])),
        'weight + MixUp': lambda s: s.learner(cbs=[ItemWeightsCallback(s.oof()[0]), MixUp()]),
        'soft, issues': lambda s: s.learner(cbs=soft(s, threshold=.5)),
        'soft, all': lambda s: s.learner(cbs=soft(s, which='all')),
        'generalized cross-entropy': lambda s: s.learner(loss_func=GeneralizedCrossEntropy()),
        'symmetric cross-entropy': lambda s: s.learner(loss_func=SymmetricCrossEntropy()),
        'ELR': lambda s: s.learner(cbs=EarlyLearningRegularizationCallback()),
        'co-teaching': coteaching,
        'soft, all + ELR': soft_and_elr,
        'true labels': lambda s: s.learner(s.train.true)}


def seconds_of(learn, epochs):
    "Seconds of a fit of `epochs`, validated after the last"
    with learn.no_bar(), learn.no_logging():
        start = time.perf_counter()
        learn.fit_one_cycle(epochs, LEARNERS['lr'], cbs=ValidateLast())
        return time.perf_counter() - start


def trained(setting, make, epochs):
    "Accuracy on the true labels of the test set after `epochs`, and seconds of the fit"
    learn = make(setting)
    seconds = seconds_of(learn, epochs)
    return [dict(accuracy=float(learn.recorder.values[-1][-1]), seconds=seconds)]


def rankings(s):
    "Rows of name, AUPRC of the wrong labels, and seconds relative to a plain fit"
    plain = s.learner()
    once = seconds_of(plain, s.epochs)
    learn = s.learner(cbs=TrainingDynamicsCallback())
    spent = seconds_of(learn, s.epochs)
    with plain.no_bar():
        dl = plain.dls.test_dl(plain.dls.train_ds.items, with_labels=True)
        got, targs = plain.get_preds(dl=dl)
    quality = {'in-sample self-confidence': (got[range(len(targs)), targs].numpy(), once)}
    for n_folds in (5, 2):
        oof, seconds = s.oof(n_folds)
        values = label_quality(oof.targets, oof.pred_probs)
        quality[f'out-of-fold, {n_folds} folds'] = values, once + seconds
    for name in ('aum', 'mean_prob', 'forgetting', 'data_map'):
        quality[f'dynamics, {name}'] = learn.dynamics.score(name), spent
    for n_folds in (5, 2):
        folds, seconds = quality[f'out-of-fold, {n_folds} folds']
        for name in ('aum', 'mean_prob'):
            mean = rankdata(folds) + rankdata(quality[f'dynamics, {name}'][0])
            quality[f'ensemble, {n_folds} folds and {name}'] = mean, seconds + spent
    return [dict(name=name, auprc=average_precision_score(s.wrong, -values), cost=seconds/once)
            for name, (values, seconds) in quality.items()]


def found_with(s):
    "Rows of loss, and precision and recall of the issues that its folds find"
    rows = []
    losses = {'cross-entropy': None, 'label smoothing': LabelSmoothingCrossEntropyFlat()}
    for name, loss in losses.items():
        oof, _ = s.oof(loss_func=loss)
        for rule in ('prune_by_noise_rate', 'both', 'predicted_neq_given'):
            table = find_issues(oof.targets, oof.pred_probs, rule).sort_index()
            p, r, f1, _ = precision_recall_fscore_support(
                s.wrong, table.is_issue, average='binary', zero_division=0)
            auprc = average_precision_score(s.wrong, 1 - table.label_quality)
            rows.append(dict(name=f'{name}, {rule}', precision=p, recall=r, f1=f1, auprc=auprc))
    return rows


def jobs(s, only):
    "Part, name, and function that gives rows, of everything that is measured in a Setting"
    yield 'ranking', 'in-sample self-confidence', lambda: rankings(s)
    yield 'found with', 'cross-entropy, prune_by_noise_rate', lambda: found_with(s)
    for part, epochs in (('short', s.epochs), ('long', 3*s.epochs)):
        for name, make in recipes().items():
            if only is None or name in only: yield part, name, partial(trained, s, make, epochs)


def mean_and_interval(values):
    "The mean over the seeds and half of its 95 % interval (Student's t)"
    values = np.asarray(values)
    half = np.nan
    if len(values) > 1:
        half = t.ppf(.975, len(values) - 1)*values.std(ddof=1)/np.sqrt(len(values))
    return f'{values.mean():.3f} ± {half:.3f}'


def summary(rows):
    """Name -> DataFrame: the means over the seeds with their intervals, and the share of the gap
    between wrong and true labels that is closed"""
    df = pd.DataFrame(rows)
    tables = {}
    for part, some in df.groupby('part', sort=False):
        figures = [o for o in FIGURES if o in some and some[o].notna().any()]
        tables[part] = some.pivot_table(index='name', columns='column', values=figures, sort=False,
                                        aggfunc=mean_and_interval)
    means = df[df.accuracy.notna()].groupby(['part', 'column', 'name'], sort=False).accuracy.mean()
    low, high = (means.xs(o, level='name') for o in ('plain cross-entropy', 'true labels'))
    gap = means.groupby('name', sort=False).transform(
        lambda o: (o.droplevel('name') - low)/(high - low))
    tables['share of the gap closed'] = gap.unstack(['part', 'column']).round(2)
    return tables


@call_parse
def main(
    data: Path = Path('.'),  # Folder with labels.csv and images.tar or the images
    out: Path = Path('robust.csv'),  # Results, row by row; what is there is not run again
    columns: str = 'worse,aggre',  # Noisy label columns, separated by commas
    n: int = 10_000,  # Number of training images, the first
    epochs: int = 8,  # Epochs of the short schedule; the long one has three times as many
    seeds: int = 3,  # Number of seeds
    only: str = None,  # Recipes to run, separated by semicolons; None: all
    threads: int = None,  # Threads of torch; None: as it is
):
    "Print the tables; returns them, name -> DataFrame"
    if threads: torch.set_num_threads(threads)
    df = pd.read_csv(data/'labels.csv')
    df = pd.concat([df[df.split == 'train'].head(n), df[df.split == 'test']], ignore_index=True)
    images = load_images(data, df.path)
    rows = pd.read_csv(out).to_dict('records') if out.exists() else []
    done = {(o['part'], o['column'], o['seed'], o['name']) for o in rows}
    for seed in range(seeds):
        for column in columns.split(','):
            setting = Setting(df, images, column, seed, epochs)
            for part, name, run in jobs(setting, only.split(';') if only else None):
                if (part, column, seed, name) in done: continue
                what = dict(part=part, column=column, seed=seed, items=n, epochs=epochs, name=name)
                for row in run():
                    rows.append(what | row)
                    print(rows[-1], flush=True)
                pd.DataFrame(rows).to_csv(out, index=False)
    tables = summary(rows)
    for name, table in tables.items(): print(f'\n{name}\n{table.to_string()}')
    return tables
