"Metrics with bootstrap intervals against scikit-learn and the normal approximation"
import numpy as np
import pytest
from sklearn.metrics import accuracy_score

from fastai_clean.interpret.tables import METRICS, bootstrap_metrics


def test_interval_of_accuracy_is_that_of_a_proportion():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 800)
    p = np.where(rng.random(800) < .8, y, (y + 1) % 3)
    df = bootstrap_metrics({'all': (y, p)}, {'accuracy': accuracy_score}, n_boot=800)
    row = df.iloc[0]
    acc = accuracy_score(y, p)
    half = 1.96*np.sqrt(acc*(1 - acc)/800)
    assert row.value == acc and row.low == pytest.approx(acc - half, abs=.01)
    assert row.high == pytest.approx(acc + half, abs=.01) and row['items'] == 800
    assert df.equals(bootstrap_metrics({'all': (y, p)}, {'accuracy': accuracy_score}, n_boot=800))


@pytest.mark.parametrize('task, y', [
    ('classification', np.arange(20) % 4), ('multilabel', np.eye(4, dtype=bool)[[0, 1, 2, 3]*5]),
    ('regression', np.arange(20.)), ('segmentation', np.arange(80).reshape(20, 2, 2) % 3)])
def test_every_task_has_metrics_that_are_best_for_perfect_predictions(task, y):
    df = bootstrap_metrics({'all': (y, y)}, METRICS[task], n_boot=20)
    assert set(df.metric) == set(METRICS[task])
    assert all(df.value == np.where(df.metric == 'mae', 0, 1))


def test_one_item_has_no_interval_and_none_no_row():
    one, none = (np.zeros(1), np.zeros(1)), (np.zeros(0), np.zeros(0))
    df = bootstrap_metrics({'one': one, 'none': none}, METRICS['classification'])
    assert set(df.labels) == {'one'} and all(df.value == 1) and df.low.isna().all()


def test_pixels_without_a_label_do_not_count():
    y = np.array([[[0, 1], [-1, -1]]]*4)
    df = bootstrap_metrics({'all': (y, np.ones_like(y))}, METRICS['segmentation'], n_boot=10)
    assert df.value.tolist() == [.5]
