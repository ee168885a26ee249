"What several test files share: small real data, wrong labels planted by a seeded generator, tiny Learners, tables"
import numpy as np
import pandas as pd
import torch
from fastai.callback.core import Callback
from fastai.data.core import Datasets
from fastai.data.transforms import Categorize
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.torch_core import params
from sklearn.datasets import load_digits
from sklearn.metrics import average_precision_score
from torch import nn

# Two threads on a busy machine of two cores can be five times slower than one. Here rather than in conftest.py,
# since a process that unpickles a Learner of the tests imports this module
torch.set_num_threads(1)

DIGITS = load_digits()
PIXELS = torch.tensor(DIGITS.images, dtype=torch.float32)[:, None]/16
CLASSES = 'cat', 'dog', 'owl'


def plant(true, rate, seed=0):
    "Labels of which a share `rate` is changed to another of ten classes, and the mask of those changed"
    rng = np.random.default_rng(seed)
    labels = np.array(true)
    wrong = rng.choice(len(labels), round(rate*len(labels)), replace=False)
    labels[wrong] = (labels[wrong] + rng.integers(1, 10, len(wrong))) % 10
    return labels, labels != true


def case(seed, n=60, c=4, dtype=np.float32, sharp=1.):
    "Labels (n,) and probabilities (n, c) that agree more often than by chance; every class has a label"
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(c), rng.integers(0, c, n - c)])
    probs = rng.dirichlet(np.full(c, .5), n)
    probs[np.arange(n), labels] += sharp*rng.random(n)
    return labels, (probs/probs.sum(1, keepdims=True)).astype(dtype)


def auprc(wrong, quality):
    "Average precision of finding `wrong` (n,) by a low `quality` (n,); chance is the share of wrong ones"
    return average_precision_score(wrong, -np.asarray(quality))


class Pixels:
    "Item number -> its pixels"
    def __call__(self, i): return PIXELS[i]


class Label:
    "Item number -> its label"
    def __init__(self, labels): self.labels = labels
    def __call__(self, i): return int(self.labels[i])


def digit_dls(train, valid, labels=DIGITS.target, bs=16, shuffle=False, num_workers=0, **kwargs):
    "DataLoaders over the digits numbered `train` and `valid`; deterministic unless `shuffle`"
    train = list(map(int, train))
    valid = list(map(int, valid))
    n = len(train)
    ds = Datasets([*train, *valid], [[Pixels()], [Label(labels), Categorize(list(range(10)))]],
                  splits=[range(n), range(n, n + len(valid))])
    return ds.dataloaders(bs=bs, shuffle=shuffle, num_workers=num_workers, device='cpu', **kwargs)


def tiny_model(seed=1, dropout=0.):
    "A net for the digits in two parts, body and head; its weights depend on `seed` alone"
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        body = nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.BatchNorm1d(24), nn.ReLU())
        return nn.Sequential(body, nn.Sequential(nn.Dropout(dropout), nn.Linear(24, 10)))


def two_groups(model): return [params(model[0]), params(model[1])]


def quiet(learn):
    "`learn` without a progress bar, and with a logger that prints nothing"
    # Without `fastai.callback.progress` imported, a Learner has none
    if hasattr(learn, 'progress'): learn.remove_cb(learn.progress)
    learn.logger = lambda *_: None
    return learn


def tiny_learn(dls, model=None, loss_func=None, **kwargs):
    "A quiet Learner of a `tiny_model`, in two parameter groups"
    return quiet(Learner(dls, model or tiny_model(), loss_func or CrossEntropyLossFlat(), splitter=two_groups,
                         **kwargs))


def weights(model): return torch.cat([o.detach().flatten() for o in model.parameters()])


class Forwards(Callback):
    "Counts the items that went through the model"
    order, seen = 5, 0
    def after_pred(self): self.seen += len(self.pred)


def issue_table(n=6, classes=CLASSES, ids=None, **columns):
    """An issue table of `n` items with the ids i0, i1, ...; the worst is the last, and the last half are issues.
    `columns` replace those that it has, or are added."""
    ids = [f'i{i}' for i in range(n)] if ids is None else ids
    n = len(ids)
    given = pd.Series([classes[i % len(classes)] for i in range(n)], dtype=object)
    df = pd.DataFrame({'id': pd.Series(ids, dtype=object), 'given': given, 'predicted': given[::-1].to_numpy(),
                       'confidence': np.linspace(.5, 1, n), 'label_quality': np.linspace(1, 0, n),
                       'is_issue': np.arange(n) >= n//2})
    return df.assign(**columns)


def tweet(i, label):
    "A tweet whose words give its class away, with what breaks careless readers"
    words = 'deaths confirmed hospital report' if label == 'INFORMATIVE' else 'home feeling music today'
    return f'"{i} <b>&amp; $x$ ' + ('#COVID-19, @USER #Stay ' if i // 2 % 2 else 'HTTPURL ') + words


def files_in(root):
    "Relative path -> bytes of every file below `root`"
    return {o.relative_to(root).as_posix(): o.read_bytes() for o in root.rglob('*') if o.is_file()}


def broken(a, at, value):
    "A copy of `a` in floats with `value` at the index `at`"
    a = np.array(a, dtype=float)
    a[at] = value
    return a
