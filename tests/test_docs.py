"The examples in the docstrings of the names that users meet first run, and print what they say"
import doctest

import matplotlib.pyplot as plt
import pytest

import fastai_clean.all as public
from fastai_clean.losses import soft_targets

FIRST = [public.find_issues, public.label_quality, public.noise_rate, public.confident_joint,
         public.find_multilabel_issues, public.find_regression_issues, public.OutOfFold, public.ReviewSession,
         public.GeneralizedCrossEntropy, public.ConfidentLearningCallback, public.Dynamics, soft_targets]


@pytest.mark.parametrize('o', FIRST, ids=lambda o: o.__name__)
def test_the_example_in_the_docstring_runs(o, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    for example in doctest.DocTestFinder(recurse=False).find(o, o.__name__):
        assert example.examples, f'{o.__name__} has no example'
        assert runner.run(example).failed == 0
    plt.close('all')
