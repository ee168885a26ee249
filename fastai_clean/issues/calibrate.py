"Temperature scaling on the given labels"
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar

from .checks import check_labels_probs, check_probs

CHUNK = 2**22  # Probabilities in work at a time


def fit_temperature(
    labels: Any,  # Given labels: class indices (n,)
    pred_probs: Any,  # Probabilities (n, c)
) -> float:  # Above 1: the model was too sure of itself
    """The temperature that makes the given labels likeliest: Guo et al., "On Calibration of Modern
    Neural Networks", ICML 2017, on log-probabilities instead of logits, which gives the same. Wrong
    labels make a sharp model softer, as they should here: its probabilities then fit the labels as
    they are given. Raises ValueError or TypeError as `check_labels_probs` does."""
    labels, pred_probs = check_labels_probs(labels, pred_probs)

    def loss(log_t):
        total = 0.
        for i, p in _chunks(pred_probs):
            z = np.log(p)/np.exp(log_t)
            z -= z.max(1, keepdims=True)
            own = z[np.arange(len(z)), labels[i:i + len(z)]]
            total += (np.log(np.exp(z).sum(1)) - own).sum(dtype=float)
        return total/len(labels)

    bounds = np.log(.05), np.log(20)
    return float(np.exp(minimize_scalar(loss, bounds=bounds, method='bounded').x))


def apply_temperature(
    pred_probs: Any,  # Probabilities (n, c)
    temperature: float,  # As `fit_temperature` returns it
) -> np.ndarray:  # (n, c), a new array
    """Probabilities with their logarithms divided by `temperature`, which changes no item's ranking
    of the classes. Raises ValueError if it is not above 0"""
    pred_probs = check_probs(pred_probs)
    if not temperature > 0: raise ValueError(f"temperature is {temperature}: pass a number above 0")

    res = np.empty_like(pred_probs)
    for i, p in _chunks(pred_probs):
        z = np.log(p)/temperature
        p = np.exp(z - z.max(1, keepdims=True))
        res[i:i + len(p)] = p/p.sum(1, keepdims=True)
    return res


def _chunks(probs):
    rows = max(1, CHUNK//probs.shape[1])
    tiny = np.finfo(probs.dtype).tiny  # The logarithm of 0 would be -inf
    for i in range(0, len(probs), rows): yield i, np.clip(probs[i:i + rows], tiny, None)
