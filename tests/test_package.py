"Importing has no side effects, public names are documented and typed, callbacks keep their contract"
import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fastai.callback.core import Callback
from fastai.callback.progress import ProgressCallback
from fastai.callback.tracker import SaveModelCallback
from fastcore.docments import docments
from helpers import digit_dls, tiny_learn, tiny_model

import fastai_clean.all as everything
from fastai_clean import callbacks

ROOT = Path(__file__).parents[1]
SOURCE = ([str(i) for i in range(40)], np.full((40, 10), .1))
CALLBACKS = {**{getattr(callbacks, o): () for o in callbacks.__all__}, everything.CleanWandbCallback: (),
             everything.SoftPseudoLabelCallback: (SOURCE,), everything.ItemWeightsCallback: (SOURCE,),
             everything.CoTeachingCallback: (tiny_model(7),)}
AT_THE_END = [everything.ConfidentLearningCallback, everything.CleanWandbCallback, everything.TrainingDynamicsCallback]


@pytest.mark.slow
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


def test_the_public_names_are_these():
    assert sorted(everything.__all__) == sorted("""
        CleanFit CleanInterpretation CleanWandbCallback Cleaner CoTeachingCallback ConfidentLearningCallback Dynamics
        EarlyLearningRegularizationCallback GeneralizedCrossEntropy ItemWeightsCallback OutOfFold ReviewSession
        SoftPseudoLabelCallback StreamedIssues SymmetricCrossEntropy TrainingDynamicsCallback audit class_health
        confident_joint find_annotator_issues find_issues find_multilabel_issues find_regression_issues
        find_segmentation_issues label_quality majority_labels noise_rate top_pairs""".split())


def public_functions(name):
    "Name -> function and its parameters, of a public function, or of a class's `__init__` and public methods"
    o = getattr(everything, name)
    if not inspect.isclass(o): return {name: (o, list(inspect.signature(o).parameters.values()))}
    ours = [b for b in o.__mro__[1:] if b.__module__.startswith('fastai_clean')]
    found = {}
    for k, f in vars(o).items():
        if k != '__init__' and (k.startswith('_') or any(k in vars(b) for b in ours)): continue
        f = getattr(f, '__func__', f)
        if inspect.isfunction(f): found[f'{name}.{k}'] = f, list(inspect.signature(f).parameters.values())[1:]
    return found


FUNCTIONS = {k: f for name in everything.__all__ for k, f in public_functions(name).items()}


@pytest.mark.parametrize('name', everything.__all__)
def test_public_names_have_docstrings(name): assert inspect.getdoc(getattr(everything, name))


@pytest.mark.parametrize('name', FUNCTIONS)
def test_public_parameters_have_types_and_comments(name):
    f, parameters = FUNCTIONS[name]
    comments = docments(f)
    for o in parameters:
        if o.kind is o.VAR_KEYWORD: assert re.search(rf'\*\*{o.name}(: \w+)?,  # \S', inspect.getsource(f)), o
        else:
            assert o.annotation is not o.empty, f'{o} has no type'
            assert comments[o.name], f'{o} has no comment'
    if not name.endswith('.__init__'): assert inspect.getdoc(f)


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
