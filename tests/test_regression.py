"The table of regression issues: against cleanlab called directly, and on planted errors"
import warnings

import numpy as np
import pytest
import torch
from cleanlab import Datalab
from cleanlab.regression.rank import get_label_quality_scores as regression_quality
from helpers import broken
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from fastai_clean.issues import REGRESSION_SCORES, find_regression_issues


def numbers(seed, n=200, k=None, rate=.05):
    "Targets with a share `rate` moved by 2 to 4 standard deviations, predictions of the right ones, what was moved"
    rng = np.random.default_rng(seed)
    true = rng.normal(size=(n, k) if k else n)
    moved = rng.random(true.shape) < rate
    return true + moved*rng.uniform(2, 4, true.shape), true + .2*rng.normal(size=true.shape), moved


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(4, 60))
def test_outre_equals_cleanlab_and_the_issues_are_those_of_datalab(seed, n):
    targets, predictions, _ = numbers(seed, n)
    df = find_regression_issues(targets, predictions, 'outre').sort_index()
    assert np.array_equal(df.label_quality, regression_quality(targets, predictions, method='outre'))
    assert np.array_equal(df.residual, predictions - targets)
    lab = Datalab({'y': targets}, label_name='y', task='regression', verbosity=0)
    lab.find_issues(pred_probs=predictions, issue_types={'label': {}})
    assert np.array_equal(df.is_issue, lab.get_issues('label').is_label_issue)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), unit=st.sampled_from([1e-6, 1., 1000.]), shift=st.sampled_from([0., 5.]))
def test_residual_equals_cleanlab_in_units_of_the_median_residual(seed, unit, shift):
    targets, predictions, _ = numbers(seed)
    size = np.median(abs(predictions - targets))
    df = find_regression_issues(unit*(targets + shift), unit*(predictions + shift)).sort_index()
    expected = regression_quality(targets/size, predictions/size, method='residual')
    assert np.allclose(df.label_quality, expected, rtol=1e-6, atol=1e-12)
    assert np.array_equal(df.is_issue, expected < .05*np.median(expected))


@pytest.mark.parametrize('score', REGRESSION_SCORES)
@pytest.mark.parametrize('k', [None, 3])
def test_planted_number_errors_are_found(score, k):
    targets, predictions, moved = numbers(0, 400, k)
    wrong = moved if k is None else moved.any(1)
    df = find_regression_issues(targets, predictions, score).sort_index()
    assert average_precision_score(wrong, -df.label_quality) > .95 > 3*wrong.mean()
    assert (df.is_issue & wrong).sum() > .5*wrong.sum() and (df.is_issue & ~wrong).sum() <= .03*len(df)


def test_worst_output_is_named_with_its_residual():
    targets, predictions, _ = numbers(0, 50, 3, rate=0)
    predictions *= [1, 100, 1]
    targets = targets*[1, 100, 1]
    targets[7, 1] += 500
    row = find_regression_issues(targets, predictions, names=list('xyz')).iloc[0]
    assert row.name == 7 and row.is_issue and row.worst_output == 'y'
    assert row.residual == predictions[7, 1] - targets[7, 1]
    assert row.given == tuple(targets[7]) and row.predicted == tuple(predictions[7])
    assert find_regression_issues(targets, predictions).worst_output.iloc[0] == 1


def test_several_outputs_combine_by_the_root_mean_square():
    targets, predictions, _ = numbers(3, 50, 2)
    each = [find_regression_issues(targets[:, j], predictions[:, j]).sort_index().label_quality for j in range(2)]
    expected = np.exp(-np.sqrt((np.log(each[0])**2 + np.log(each[1])**2)/2))
    assert np.allclose(find_regression_issues(targets, predictions).sort_index().label_quality, expected)


def test_one_output_with_an_axis_of_its_own_is_the_same_table():
    targets, predictions, _ = numbers(0)
    expected = find_regression_issues(targets, predictions)
    assert list(expected.columns) == ['id', 'given', 'predicted', 'residual', 'label_quality', 'is_issue']
    assert find_regression_issues(targets[:, None], torch.tensor(predictions)[:, None]).equals(expected)


@pytest.mark.parametrize('k', [1, 2])
def test_perfect_or_constant_numbers_have_no_issues(k):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        perfect = find_regression_issues(np.arange(10.*k).reshape(10, k), np.arange(10.*k).reshape(10, k))
        constant = find_regression_issues(np.ones((10, k)), np.full((10, k), 1.1))
        single = find_regression_issues(np.ones((1, k)), np.zeros((1, k)))
    assert (perfect.label_quality == 1).all() and list(perfect.index) == list(range(10))
    assert not perfect.is_issue.any() and not constant.is_issue.any() and not single.is_issue.any()


def test_one_wrong_number_among_perfect_ones_is_first_and_an_issue():
    targets = np.arange(20.)
    wrong = targets.copy()
    wrong[13] = 1e6
    df = find_regression_issues(wrong, targets)
    assert df.index[0] == 13 and list(df.index[df.is_issue]) == [13]


NUMBERS, PREDICTED, _ = numbers(1, 12)


@pytest.mark.parametrize('targets, predictions, kw, error, match', [
    (NUMBERS[:-1], PREDICTED, {}, ValueError, 'targets has 11 items of 1 numbers, but predictions has 12 of 1'),
    (NUMBERS, np.ones((12, 2)), {}, ValueError, 'predictions has 12 of 2'),
    (NUMBERS[:0], PREDICTED[:0], {}, ValueError, r'targets has shape \(0,\)'),
    (np.ones((2, 2, 2)), np.ones((2, 2, 2)), {}, ValueError, r'targets has shape \(2, 2, 2\)'),
    (broken(NUMBERS, 4, np.nan), PREDICTED, {}, ValueError, 'targets has NaN or infinite values in 1 rows, .* row 4'),
    (NUMBERS, broken(PREDICTED, 4, -np.inf), {}, ValueError, 'predictions has NaN .* first in row 4'),
    (NUMBERS.astype(str), PREDICTED, {}, TypeError, 'targets has dtype <U'),
    (NUMBERS, PREDICTED, dict(score='loss'), ValueError, "score is 'loss': choose one of residual, outre"),
    (NUMBERS[:3], PREDICTED[:3], dict(score='outre'), ValueError, "takes 4 to 10,000 items, but there are 3: pass"),
    (np.ones(10_001), np.ones(10_001), dict(score='outre'), ValueError, "10,001: pass score='residual'"),
    (NUMBERS, PREDICTED, dict(threshold=2), ValueError, 'threshold is 2'),
    (NUMBERS, PREDICTED, dict(ids=['a']), ValueError, 'ids has 1 names for 12'),
    (NUMBERS, PREDICTED, dict(names=['a', 'b']), ValueError, 'names has 2 names for 1 outputs'),
])
def test_bad_regression_input_is_named(targets, predictions, kw, error, match):
    with pytest.raises(error, match=match): find_regression_issues(targets, predictions, **kw)
