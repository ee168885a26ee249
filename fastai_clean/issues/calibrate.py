"Temperature scaling on the given labels"
import numpy as np
from scipy.optimize import minimize_scalar

from .checks import check_labels_probs

CHUNK = 2**22


def fit_temperature(
    labels,  # Given labels: class indices (n,)
    pred_probs,  # Probabilities (n, c)
) -> float:  # Above 1: the model was too sure of itself
    """The temperature that makes the given labels likeliest: Guo et al., "On Calibration of Modern Neural Networks",
    ICML 2017, on log-probabilities instead of logits, which is the same. Wrong labels among the given ones make a
    sharp model softer, as they should here: its probabilities are then those of the labels as they are given."""
    labels, pred_probs = check_labels_probs(labels, pred_probs)

    def loss(log_t):
        total = 0.
        for i, p in _chunks(pred_probs):
            z = np.log(p)/np.exp(log_t)
            z -= z.max(1, keepdims=True)
            total += (np.log(np.exp(z).sum(1)) - z[np.arange(len(z)), labels[i:i + len(z)]]).sum(dtype=float)
        return total/len(labels)

    return float(np.exp(minimize_scalar(loss, bounds=(np.log(.05), np.log(20)), method='bounded').x))


def apply_temperature(
    pred_probs,  # Probabilities (n, c)
    temperature,  # What `fit_temperature` gives
) -> np.ndarray:  # (n, c), a new array
    "Probabilities with their logarithms divided by `temperature`; no item's ranking of the classes changes"
    pred_probs = check_labels_probs(np.zeros(len(pred_probs), dtype=int), pred_probs)[1]
    if not temperature > 0: raise ValueError(f"temperature is {temperature}: pass a number above 0")
    res = np.empty_like(pred_probs)
    for i, p in _chunks(pred_probs):
        z = np.log(p)/temperature
        p = np.exp(z - z.max(1, keepdims=True))
        res[i:i + len(p)] = p/p.sum(1, keepdims=True)
    return res


def _chunks(probs):
    rows = max(1, CHUNK//probs.shape[1])
    for i in range(0, len(probs), rows): yield i, np.clip(probs[i:i + rows], np.finfo(probs.dtype).tiny, None)
