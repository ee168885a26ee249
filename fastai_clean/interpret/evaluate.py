"What label errors in a test set do to a model's figures"
import numpy as np
import pandas as pd
from scipy.stats import bootstrap
from sklearn.metrics import accuracy_score, f1_score, mean_absolute_error, r2_score


def _f1_macro(y, p): return f1_score(y, p, average='macro', zero_division=0)
def _f1_micro(y, p): return f1_score(y, p, average='micro', zero_division=0)
def _pixel_accuracy(y, p): return (y == p)[y >= 0].mean()


METRICS = {'classification': {'accuracy': accuracy_score, 'f1_macro': _f1_macro},
           'multilabel': {'f1_micro': _f1_micro, 'f1_macro': _f1_macro},
           'regression': {'mae': mean_absolute_error, 'r2': r2_score},
           'segmentation': {'pixel_accuracy': _pixel_accuracy}}


def bootstrap_metrics(
    variants,  # Name -> (true labels, predictions), arrays whose first axis is the items
    metrics,  # Name -> function of true labels and predictions
    *,
    n_boot=1000,  # Bootstrap samples
    seed=42,  # Seed of the samples
) -> pd.DataFrame:  # Columns labels, metric, value, low, high, items
    """Each metric on each variant with its 95 % percentile bootstrap interval over the items (Efron 1979; scipy's
    `bootstrap`), NaN for a single item. A variant without items has no rows. Labels below 0, as of pixels without one,
    do not count in pixel accuracy."""
    rows = []
    for variant, (y, p) in variants.items():
        if not len(y): continue
        for name, f in metrics.items():
            ends = (np.nan, np.nan)
            if len(y) > 1:
                ends = bootstrap((np.arange(len(y)),), lambda idx, y=y, p=p, f=f: float(f(y[idx], p[idx])), batch=64,
                                 vectorized=False, n_resamples=n_boot, method='percentile',
                                 rng=np.random.default_rng(seed)).confidence_interval
            rows.append((variant, name, float(f(y, p)), *map(float, ends), len(y)))
    return pd.DataFrame(rows, columns=['labels', 'metric', 'value', 'low', 'high', 'items'])
