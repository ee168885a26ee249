"Importing has no side effects, arrows go one way, every callback keeps the contract, the README's words are true"
import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import digit_dls, tiny_learn, tiny_model
from fastai.callback.core import Callback
from fastai.callback.progress import ProgressCallback
from fastai.callback.tracker import SaveModelCallback

import fastai_clean.all as everything
from fastai_clean import callbacks

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT/'fastai_clean'
MODULES = sorted(o.relative_to(PACKAGE).as_posix() for o in PACKAGE.rglob('*.py'))
SOURCE = ([str(i) for i in range(40)], np.full((40, 10), .1))
CALLBACKS = {**{getattr(callbacks, o): () for o in callbacks.__all__}, everything.CleanWandbCallback: (),
             everything.SoftPseudoLabelCallback: (SOURCE,), everything.ItemWeightsCallback: (SOURCE,),
             everything.CoTeachingCallback: (tiny_model(7),)}
AT_THE_END = [everything.ConfidentLearningCallback, everything.CleanWandbCallback, everything.TrainingDynamicsCallback]


def test_import_changes_no_state_and_opens_no_connection():
    code = '''
import random, socket, sys
import numpy, torch, warnings, matplotlib
import fastai.vision.all, fastai.text.all, fastai.tabular.all
from fastai.learner import Learner, defaults
def no(*_, **__): raise SystemExit('a connection')
socket.socket.connect = no
before = (random.getstate(), str(numpy.random.get_state()), torch.get_rng_state().sum(), list(warnings.filters),
          dict(matplotlib.rcParams), list(defaults.callbacks), set(vars(Learner)))
import fastai_clean.all
after = (random.getstate(), str(numpy.random.get_state()), torch.get_rng_state().sum(), list(warnings.filters),
         dict(matplotlib.rcParams), list(defaults.callbacks), set(vars(Learner)))
for a, b in zip(before[:-1], after[:-1]): assert a == b, (a, b)
with warnings.catch_warnings(record=True) as caught: warnings.warn('still heard')
assert len(caught) == 1
print(sorted(after[-1] - before[-1]))
'''
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT)
    assert out.returncode == 0, out.stderr
    assert out.stdout.strip() == "['clean_fit', 'dynamics', 'oof', 'oof_preds']"


@pytest.mark.parametrize('module', MODULES)
def test_only_issues_imports_cleanlab_and_array_modules_know_no_learner(module):
    tree = ast.parse((PACKAGE/module).read_text())
    part = module.removesuffix('.py').split('/')[0]
    names = {o.name if isinstance(n, ast.Import) else n.module or '' for n in ast.walk(tree)
             if isinstance(n, (ast.Import, ast.ImportFrom)) for o in n.names}
    if part != 'issues': assert not any(o.startswith('cleanlab') for o in names)
    if part in ('issues', 'plots'): assert not any(o.startswith('fastai.') for o in names)


@pytest.mark.parametrize('name', everything.__all__)
def test_public_names_have_docstrings_and_parameter_docs(name):
    o = getattr(everything, name)
    if isinstance(o, tuple): return
    assert inspect.getdoc(o)
    if inspect.isclass(o) and '__init__' not in vars(o): return
    f = o.__init__ if inspect.isclass(o) else o
    lines = inspect.getsource(f).splitlines()
    for name in inspect.signature(f).parameters:
        if name == 'self': continue
        assert any(re.match(rf'\s*\*{{0,2}}{name}\b[^#]*,  # \S', line) for line in lines), f'{name} has no comment'


@pytest.mark.parametrize('cls', AT_THE_END)
def test_callbacks_that_end_a_fit_come_after_saving_and_progress(cls):
    assert issubclass(cls, Callback) and cls.order > max(SaveModelCallback.order, ProgressCallback.order)


@pytest.mark.parametrize('cls', [o for o in CALLBACKS if o is not everything.EarlyLearningRegularizationCallback])
def test_callbacks_that_know_the_items_stay_out_of_folds(cls): assert cls.in_folds is False


@pytest.mark.parametrize('cls', CALLBACKS)
def test_callbacks_leave_no_trace_on_the_learner(cls, monkeypatch):
    monkeypatch.setenv('WANDB_MODE', 'disabled')
    learn = tiny_learn(digit_dls(range(40), range(40, 50)))
    before, cbs = set(vars(learn)), list(learn.cbs)
    plain = tiny_learn(digit_dls(range(40), range(40, 50)))
    plain.fit(1)
    learn.fit(1, cbs=cls(*CALLBACKS[cls]))
    assert set(vars(learn)) - before == set(vars(plain)) - before and list(learn.cbs) == cbs


def test_python_examples_in_the_readme_parse():
    blocks = re.findall(r'```python\n(.*?)```', (ROOT/'README.md').read_text(), re.S)
    assert blocks
    for block in blocks: ast.parse(block)
