"""Planted errors in items that do not have just one class: several labels, a number, a mask.

    python examples/benchmarks/tasks.py

For each task it trains once with ConfidentLearningCallback and ranks the training items by label quality: the AUPRC of
the planted errors out-of-fold, in-sample (the same Learner's predictions of its own training set), and by chance (the
share of planted errors). Several labels: what scikit-learn's digits are (even, prime, above 4, with a loop, with a
straight stroke), single labels flipped. Regression: the digit as a number, replaced by another. Masks: generated
rectangles and discs on noise, the mask shifted, one shape missing, or given the other shape's class."""
import warnings

import numpy as np
import pandas as pd
from fastai.vision.all import *
from fastcore.script import call_parse
from sklearn.datasets import load_digits
from sklearn.metrics import average_precision_score

from fastai_clean.all import CleanInterpretation, ConfidentLearningCallback

TRAITS = {'even': {0, 2, 4, 6, 8}, 'prime': {2, 3, 5, 7}, 'above 4': {5, 6, 7, 8, 9}, 'loop': {0, 6, 8, 9},
          'straight': {1, 4, 7}}
CODES = ['background', 'rectangle', 'disc']


class Take:
    "Item number -> its entry in a list"
    def __init__(self, values, kind=None): self.values, self.kind = values, kind
    def __call__(self, i): return self.values[i] if self.kind is None else self.kind(self.values[i])


def digits_as(true, wrong, block, n, bs):
    "DataLoaders over the digits with targets `true`, those of the training items in `wrong` replaced"
    images = [PILImageBW.create((o*15.9).astype(np.uint8)) for o in load_digits().images]
    labels = [wrong.get(i, o) for i, o in enumerate(true)]
    return DataBlock((TransformBlock(batch_tfms=IntToFloatTensor), block), get_x=Take(images), get_y=Take(labels),
                     item_tfms=ToTensor, splitter=lambda o: (list(range(n)), list(range(n, n + 300)))).dataloaders(
                         list(range(n + 300)), bs=bs, num_workers=0)


def traits_dls(n, noise, rng, bs):
    "Digits with several labels each; the mask (n,) of items with a flipped label"
    true = [[k for k, v in TRAITS.items() if d in v] for d in load_digits().target]
    wrong = {int(i): sorted({*true[i]} ^ {rng.choice([*TRAITS])}) for i in rng.choice(n, round(noise*n), replace=False)}
    return digits_as(true, wrong, MultiCategoryBlock(vocab=[*TRAITS]), n, bs), np.isin(np.arange(n), list(wrong))


def number_dls(n, noise, rng, bs):
    "Digits as numbers; the mask (n,) of items with another number"
    true = [float(o) for o in load_digits().target]
    wrong = {int(i): (true[i] + rng.integers(1, 10)) % 10 for i in rng.choice(n, round(noise*n), replace=False)}
    return digits_as(true, wrong, RegressionBlock(n_out=1), n, bs), np.isin(np.arange(n), list(wrong))


def shapes(n, noise, rng, size=32):
    "Images (size, size, 3) uint8 of a rectangle and a disc, their masks, and the mask (n,) of those with a wrong mask"
    images, masks, bad = [], [], rng.permutation(n) < round(noise*n)
    rows, cols = np.mgrid[:size, :size]
    for i in range(n):
        top, left, y, x = *rng.integers(0, size//2, 2), *rng.integers(size//4, 3*size//4, 2)
        parts = [(rows >= top) & (rows < top + size//3) & (cols >= left) & (cols < left + size//3),
                 (rows - y)**2 + (cols - x)**2 < (size//6)**2]
        image = rng.normal(90, 40, (size, size, 3))
        mask = np.zeros((size, size), np.uint8)
        for k, (part, colour) in enumerate(zip(parts, ((30, 0, 10), (0, 20, 25))), 1):
            image[part] += colour
            mask[part] = k
        if bad[i]:
            kind = rng.integers(3)
            if kind == 0: mask = np.roll(mask, size//8, axis=int(rng.integers(2)))
            else: mask[mask == rng.integers(1, 3)] = 0 if kind == 1 else 1 + (mask.max() == 1)
            if kind == 2: mask = np.where(mask == 0, 0, 3 - mask).astype(np.uint8)
        images.append(image.clip(0, 255).astype(np.uint8))
        masks.append(mask)
    return images, masks, bad


def mask_dls(n, noise, rng, bs):
    "Shapes with masks; the mask (n,) of items whose mask is wrong"
    images, masks, bad = shapes(n, noise, rng)
    valid = shapes(100, 0, rng)
    block = DataBlock((ImageBlock, MaskBlock(codes=CODES)), get_x=Take([*images, *valid[0]]), get_y=Take(
        [*masks, *valid[1]]), splitter=lambda o: (list(range(n)), list(range(n, n + 100))))
    return block.dataloaders(list(range(n + 100)), bs=bs, num_workers=0), bad


def conv_net(c_in, c_out):
    return nn.Sequential(ConvLayer(c_in, 32), ConvLayer(32, 64, stride=2), ConvLayer(64, 64), nn.Flatten(),
                         nn.Linear(1024, 128), nn.ReLU(), nn.Linear(128, c_out))


def mask_net(c_out):
    return nn.Sequential(ConvLayer(3, 24), ConvLayer(24, 32), ConvLayer(32, 32), nn.Conv2d(32, c_out, 1))


TASKS = {'several labels': (traits_dls, lambda: conv_net(1, len(TRAITS)), BCEWithLogitsLossFlat()),
         'regression': (number_dls, lambda: conv_net(1, 1), MSELossFlat()),
         'segmentation': (mask_dls, lambda: mask_net(len(CODES)), CrossEntropyLossFlat(axis=1))}


@call_parse
def main(
    n: int = 1000,  # Training items of each task
    noise: float = .1,  # Share of the items with a planted error
    epochs: int = 25,  # Epochs of every fit
    n_folds: int = 5,  # Folds
    seed: int = 0,  # Seed of the errors, the weights and the folds
):
    "Print a row per task; returns them as a DataFrame"
    rows = []
    for name, (make, net, loss) in TASKS.items():
        set_seed(seed)
        dls, wrong = make(n, noise, np.random.default_rng(seed), 32)
        learn = Learner(dls, net(), loss)
        with learn.no_bar(), learn.no_logging():
            learn.fit_one_cycle(epochs, 3e-3, cbs=ConfidentLearningCallback(n_folds, seed=seed, mode='folds'))

            def auprc(wrong=wrong, learn=learn):
                interp = CleanInterpretation.from_learner(learn, ds_idx=0)
                table = interp.issues.sort_index()
                return average_precision_score(wrong, -table.label_quality), table.is_issue.to_numpy()
            out, flagged = auprc()
            learn.oof = None
            with warnings.catch_warnings():
                warnings.filterwarnings('ignore', 'the Learner has no out-of-fold')
                within, _ = auprc()
        rows.append(dict(task=name, items=n, chance=wrong.mean(), in_sample=within, out_of_fold=out,
                         flagged=int(flagged.sum()), found=int((flagged & wrong).sum()), planted=int(wrong.sum())))
        print(pd.DataFrame(rows[-1:]).to_string(index=False, header=len(rows) == 1, float_format='{:.3f}'.format),
              flush=True)
    return pd.DataFrame(rows)
