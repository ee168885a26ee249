"A script that was changed is another run to the cache, and one that does the same is not"
import importlib
import os
import shutil
import subprocess
import sys
from types import ModuleType

import pytest

from fastai_clean.oof import FitRecord, FoldLearners, FoldOptions
from fastai_clean.oof.fingerprint import fit_fingerprint, run_fingerprint

SCRIPT = '''
import math
import numpy as np
import torch
from fastai.vision.all import *
from torch import nn

RATE = .5
TABLE = {'a': .5}
MATRIX = np.eye(10)
LOG = []

def deeper(x): return x*.5

def helper(x):
    "Say what it does"
    return deeper(x) + .5

class Options:
    rates = [.5, .25]
    table = np.full(3, .5)

class Base(Callback):
    def before_step(self): self.seen = .5

class Own(Base):
    share = .5
    def __init__(self, **kwargs): self.all = 1; vars(self).update(kwargs)
    @property
    def twice(self): return .5
    @staticmethod
    def fixed(): return .25
    def before_batch(self):
        "Count"
        LOG.append(self.share)
        self.count = helper(RATE) + TABLE['a']
        self.part = [o*.5 for o in Options.rates]

class Stored(Callback):
    def __init__(self, rate): store_attr()

class Small:
    __slots__ = 'by',
    def __init__(self, by): self.by = by

class Loss(nn.Module):
    scale = 1.
    def activation(self, o): return o.softmax(1)
    def forward(self, pred, y): return nn.functional.cross_entropy(pred@torch.tensor(MATRIX).float(), y)*self.scale

class Net(nn.Module):
    slope = .5
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 10)
    def forward(self, x): return self.linear(x).clamp(min=-.5)

class Data:
    vocab = range(10)
    def __init__(self, by): self.x = torch.arange(80.).reshape(20, 4)*by
    def __len__(self): return 20
    def __getitem__(self, i): return self.x[i]/.5, torch.tensor(i % 10)

class Twice(Transform):
    def encodes(self, x:torch.Tensor): return x*2. if x.is_floating_point() else x

def first(x): return x[0]*.5, x[1]

class Count(Metric):
    def __init__(self): self.n = 0

def score(pred, y): return (pred.argmax(1) == y).float().mean()/.5
def halves(model): return [[*model.parameters()][:1], [*model.parameters()][1:]]

set_seed(0)
dls = DataLoaders(*(DataLoader(Data(1.), bs=5, num_workers=0, before_iter=noop, after_item=first, after_batch=Pipeline([Twice()])) for _ in range(2)))
model = Net()
cb = Own(extra=.5)
cb.late = .5
stored = Stored(.5)
stored.rate = .25
cb.small = Small(.5)
cb.draws = torch.Generator().manual_seed(1)
learn = Learner(dls, model, Loss(), cbs=[cb, stored], metrics=score, splitter=halves)
def fit(l): l.fit(1, RATE)
'''
CHANGES = {  # What is changed in the script: from, to
    "a callback's code": ('LOG.append(self.share)', 'LOG.append(self.share + 1)'),
    'another method': ('LOG.append(self.share)', 'LOG.append(self.count)'),
    "a callback's class attribute": ('share = .5', 'share = .6'),
    "a callback's attribute, set later": ('cb.late = .5', 'cb.late = .6'),
    "a callback's argument, changed later": ('stored.rate = .25', 'stored.rate = .26'),
    "a callback's keyword": ('extra=.5', 'extra=.6'),
    "a callback's property": ('def twice(self): return .5', 'def twice(self): return .6'),
    'a static method': ('return .25', 'return .26'),
    'the class below': ('self.seen = .5', 'self.seen = .6'),
    'a global number': ('RATE = .5', 'RATE = .6'),
    'a global table': ("'a': .5", "'a': .6"),
    'a global array': ('np.eye(10)', 'np.eye(10)*2'),
    'a function that it calls': ('deeper(x) + .5', 'deeper(x) + .6'),
    'one that this calls': ('return x*.5', 'return x*.6'),
    'a comprehension': ('[o*.5 for', '[o*.6 for'),
    'data in a class': ('rates = [.5', 'rates = [.6'),
    'slots': ('Small(.5)', 'Small(.6)'),
    "a generator's seed": ('manual_seed(1)', 'manual_seed(2)'),
    "a loss's code": ('cross_entropy(', 'multi_margin_loss('),
    "a loss's class attribute": ('scale = 1.', 'scale = 2.'),
    "a model's code": ('clamp(min=-.5)', 'clamp(min=-.6)'),
    "a model's class attribute": ('slope = .5', 'slope = .6'),
    "a model's attribute, set later": ('model = Net()', 'model = Net(); model.late = .5'),
    "a transform's code": ('x*2.', 'x*3.'),
    "a function for each item": ('x[0]*.5', 'x[0]*.6'),
    "a data set's code": ('self.x[i]/.5', 'self.x[i]/.6'),
    "a data set's inputs": ('Data(1.)', 'Data(2.)'),
    "a metric's code": ('mean()/.5', 'mean()/.6'),
    "a splitter's code": ('return [[*model', 'model.train(); return [[*model'),
    'the function that trains': ('l.fit(1, RATE)', 'l.fit(2, RATE)'),
    'a loop around it': ('def fit(l): l', 'def fit(l):\n    for _ in range(2): l')}
SAME = {
    'a docstring': ('"Say what it does"', '"Say it in other words"'),
    'comments and lines': ('class Loss', '# A comment\n\n\nclass Loss'),
    'a global that nothing reads': ('LOG = []', 'LOG = []; OTHER = 1'),
    'a record of what was done': ('LOG = []', 'LOG = [1, 2, 3]'),
    'a class that nothing uses': ('self.n = 0', 'self.n = 1')}


def described(script):
    "The fingerprints of the run and of the fit of a script"
    module = ModuleType('script_of_a_user')
    exec(compile(script, 'script.py', 'exec'), vars(module))
    record = FitRecord(module.learn, None)
    folds = FoldLearners(record, FoldOptions(2))
    record.copy_parts((), [])
    return {**run_fingerprint(folds), **{f'fit {k}': v for k, v in fit_fingerprint(record, module.fit).items()}}


def changed(old, new):
    assert old in SCRIPT
    return SCRIPT.replace(old, new)


@pytest.fixture(scope='module')
def before(): return described(SCRIPT)


@pytest.mark.parametrize('name', CHANGES)
def test_changed_script_is_another_run(name, before):
    assert described(changed(*CHANGES[name])) != before


@pytest.mark.parametrize('name', SAME)
def test_script_that_does_the_same_is_the_same_run(name, before):
    assert described(changed(*SAME[name])) == before


@pytest.mark.parametrize('way', ['import own_helper', 'from own_helper import h', 'import own_helper as o'])
def test_code_in_another_file_of_the_users_is_seen(way, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    call = 'h(x)' if 'from' in way else f'{way.split()[-1]}.h(x)'
    script = SCRIPT.replace('import math', way).replace('deeper(x) + .5', call)

    def with_helper(by):
        (tmp_path/'own_helper.py').write_text(f'def deep(x): return x*{by}\ndef h(x): return deep(x)\n')
        shutil.rmtree(tmp_path/'__pycache__', ignore_errors=True)
        monkeypatch.delitem(sys.modules, 'own_helper', raising=False)
        importlib.invalidate_caches()
        return described(script)
    assert with_helper(1) == with_helper(1) != with_helper(2)


def test_another_process_describes_the_script_alike(before, tmp_path):
    code = f'import sys; sys.path.insert(0, {os.path.dirname(__file__)!r})\n' \
           'import test_fingerprint as t; print(sorted(t.described(t.SCRIPT).items()))'
    run = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True, cwd=tmp_path,
                         env={**os.environ, 'PYTHONHASHSEED': '7'}, check=True)
    assert run.stdout.strip().splitlines()[-1] == str(sorted(before.items()))
