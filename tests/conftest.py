"Seeds, and small real data: scikit-learn's handwritten digits, with wrong labels planted by a seeded generator"
import sys

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from fastai.data.core import Datasets
from fastai.data.transforms import Categorize
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.torch_core import params, set_seed
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn

DIGITS = load_digits()
torch.set_num_threads(1)
PIXELS = torch.tensor(DIGITS.images, dtype=torch.float32)[:, None]/16


@pytest.fixture(autouse=True)
def seeded():
    set_seed(0)
    yield
    plt.close('all')


@pytest.fixture(autouse=True)
def own_main(monkeypatch):
    "Streamlit's AppTest leaves its script as `__main__`, which every process spawned later would import and run"
    monkeypatch.setitem(sys.modules, '__main__', sys.modules['__main__'])


def plant(true, rate, seed=0):
    "Labels of which a share `rate` is changed to another class, and the mask of those changed"
    rng, labels = np.random.default_rng(seed), np.array(true)
    wrong = rng.choice(len(labels), round(rate*len(labels)), replace=False)
    labels[wrong] = (labels[wrong] + rng.integers(1, 10, len(wrong))) % 10
    return labels, labels != true


class Pixels:
    "Item number -> its pixels"
    def __call__(self, i): return PIXELS[i]


class Label:
    "Item number -> its label"
    def __init__(self, labels): self.labels = labels
    def __call__(self, i): return int(self.labels[i])


def digit_dls(train, valid, labels=DIGITS.target, bs=16, shuffle=False, num_workers=0, **kwargs):
    "DataLoaders over the digits numbered `train` and `valid`; deterministic unless `shuffle`"
    train, valid = list(map(int, train)), list(map(int, valid))
    n = len(train)
    ds = Datasets([*train, *valid], [[Pixels()], [Label(labels), Categorize(list(range(10)))]],
                  splits=[range(n), range(n, n + len(valid))])
    return ds.dataloaders(bs=bs, shuffle=shuffle, num_workers=num_workers, device='cpu', **kwargs)


def tiny_model(seed=1, dropout=0.):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.BatchNorm1d(24), nn.ReLU()),
                             nn.Sequential(nn.Dropout(dropout), nn.Linear(24, 10)))


def two_groups(model): return [params(model[0]), params(model[1])]


def quiet(learn):
    learn.remove_cb(learn.progress)
    learn.logger = lambda *_: None
    return learn


def tiny_learn(dls, model=None, loss_func=None, **kwargs):
    return quiet(Learner(dls, model or tiny_model(), loss_func or CrossEntropyLossFlat(), splitter=two_groups,
                         **kwargs))


@pytest.fixture(scope='session')
def digit_folder(tmp_path_factory):
    "80 digits as PNG files in class folders, and a frame of them with `path` and `label`"
    root, rows = tmp_path_factory.mktemp('digits'), []
    for i in range(80):
        name = f'{DIGITS.target[i]}/{i:03}.png'
        (root/name).parent.mkdir(exist_ok=True)
        Image.fromarray((DIGITS.images[i]*15.9).astype('uint8')).resize((16, 16)).save(root/name)
        rows.append((name, str(DIGITS.target[i])))
    return root, pd.DataFrame(rows, columns=['path', 'label'])
