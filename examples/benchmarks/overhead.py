"""What following a fit on K folds costs beside the fits themselves.

    python examples/benchmarks/overhead.py

Times a fit with ConfidentLearningCallback(K, mode='folds') on scikit-learn's digits against K + 1 plain fits on
the same data, and against one plain fit and K fits by hand, each on what a fold trains on, with the
prediction of what it holds out. All run in turn; the medians and the ratios are printed. Seconds
are the process's, so that what else the machine does is not counted; with a GPU they are the
clock's."""
import time

import pandas as pd
from fastai.vision.all import *
from fastcore.script import call_parse
from sklearn.datasets import load_digits

from fastai_clean.all import ConfidentLearningCallback
from fastai_clean.data import fold_numbers

CLOCK = time.perf_counter if torch.cuda.is_available() else time.process_time


class Take:
    "Item number -> its entry in a list"
    def __init__(self, values): self.values = values
    def __call__(self, i): return self.values[i]


def digit_dls(train, valid, bs=32):
    "DataLoaders over the digits with these numbers"
    digits = load_digits()
    train = L(map(int, train))
    valid = L(map(int, valid))
    pixels = torch.tensor(digits.images, dtype=torch.float32)[:, None]/16
    labels = [Take(digits.target.tolist()), Categorize(list(range(10)))]
    ds = Datasets(train + valid, [[Take(pixels)], labels],
                  splits=[range(len(train)), range(len(train), len(train) + len(valid))])
    return ds.dataloaders(bs=bs, num_workers=0, device='cpu')


def new_learner(train, valid):
    net = nn.Sequential(ConvLayer(1, 32), ConvLayer(32, 64, stride=2), ConvLayer(64, 64),
                        nn.Flatten(), nn.Linear(1024, 10))
    return Learner(digit_dls(train, valid), net, CrossEntropyLossFlat(), metrics=accuracy)


def seconds(epochs, learn, then=None, cbs=None):
    with learn.no_bar(), learn.no_logging():
        start = CLOCK()
        learn.fit_one_cycle(epochs, 3e-3, cbs=cbs)
        if then is not None: then(learn)
        return CLOCK() - start


@call_parse
def main(
    n: int = 1000,  # Training items; 300 more validate
    epochs: int = 5,  # Epochs of every fit
    n_folds: int = 5,  # Folds
    runs: int = 3,  # Times that each is measured
):
    "Print medians and ratios; returns them as a DataFrame"
    train = range(n)
    valid = range(n, n + 300)
    fold = fold_numbers(load_digits().target[:n], n_folds)
    seconds(1, new_learner(train, valid))
    rows = []
    for _ in range(runs):
        followed = seconds(epochs, new_learner(train, valid),
                           cbs=ConfidentLearningCallback(n_folds, mode='folds'))
        plain = [seconds(epochs, new_learner(train, valid)) for _ in range(n_folds + 1)]
        hand = []
        for k in range(n_folds):
            learn = new_learner((fold != k).nonzero()[0], (fold == k).nonzero()[0])
            hand.append(seconds(epochs, learn, lambda o: o.get_preds()))
        rows.append(dict(followed=followed, plain=sum(plain), by_hand=plain[0] + sum(hand)))
    table = pd.DataFrame(rows)
    res = table.median().to_frame().T
    res['to_plain'] = (table.followed/table.plain).median()
    res['to_by_hand'] = (table.followed/table.by_hand).median()
    print(f'a fit of {n:,} items with {n_folds} folds, {epochs} epochs: medians of {runs}, seconds '
          'and ratios')
    print(res.to_string(index=False, float_format='{:.3f}'.format))
    return res
