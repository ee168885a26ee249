"The tables of a CleanInterpretation besides `issues`: the public functions here are its methods"
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from warnings import warn

import numpy as np
import pandas as pd
import sklearn.metrics as skm
from scipy.stats import bootstrap

from .. import _strength, issues
from .._columns import objects
from .._text import plain
from ..data import predict
from ..data.predict import infer_act
from ..data.show import image_path
from ..oof.result import oof_of
from .joins import corrected
from .reviewed import corrections_of

if TYPE_CHECKING:
    from ..review import ReviewSession
    from .base import CleanInterpretation

Metrics = Mapping[str, Callable[[np.ndarray, np.ndarray], float]]


def need_classes(
    interp: 'CleanInterpretation',
    name: str,  # What was asked for, for the message
) -> None:
    "Raise TypeError unless every item has one class"
    if interp.task != 'classification':
        raise TypeError(f"{name} needs one class per item, but these labels are of the task "
                        f"{interp.task}: see `issues`")


def weakness(
    interp: 'CleanInterpretation',
) -> str:
    """A sentence with figures if the model is too weak to judge these labels: its counts say little
    then. Empty if it is not. A model is weak if it agrees with the labels hardly more than it would
    if they were shuffled (Cohen's kappa not surely above .1; for regression a rank correlation not
    above .2), or if that is so of one fold, or of single labels; or if both kappas, with the labels
    and between repeats of the folds, are below .3."""
    oof = oof_of(interp.learn) if interp.how.get('probabilities') == 'out-of-fold' else None
    fold = oof.fold if oof is not None and len(oof) == len(interp.given) else None
    return _strength.weakness(labelled_of(interp), interp.predicted, interp.task, interp.vocab,
                              fold, interp.how.get('kappa_between_repeats'))


def warn_if_weak(
    interp: 'CleanInterpretation',
) -> 'CleanInterpretation':  # The same
    "Warn that the model is weak, once, in the name of the caller of the function that calls this"
    if interp.weakness and not getattr(interp, '_warned', False):
        interp._warned = True
        warn(interp.weakness, stacklevel=3)
    return interp


def health(
    interp: 'CleanInterpretation',
) -> pd.DataFrame:
    """`issues.class_health` of every class, the worst first. Raises TypeError unless items have one
    class"""
    need_classes(interp, 'health')
    df = issues.class_health(interp.given, joint=interp.joint)
    # A vocab of numbers could not be told from the class indices: name the classes afterwards
    return df.set_axis(pd.Index(objects(interp.vocab)[df.index], dtype=object, name='class'))


def top_pairs(
    interp: 'CleanInterpretation',
    n: int | None = 10,  # Number of pairs; None: all
) -> pd.DataFrame:  # Columns given, predicted, count, error_rate
    """The class pairs with most label issues, see `issues.top_pairs`: `error_rate` is an estimate.
    Raises TypeError unless items have one class."""
    need_classes(interp, 'top_pairs')
    return issues.top_pairs(interp.given, interp.predicted, flagged_of(interp), interp.joint,
                            vocab=list(interp.vocab), n=n)


def flagged_of(
    interp: 'CleanInterpretation',
) -> np.ndarray:  # Booleans (n,), in the order of the data set
    "Which items are label issues"
    # The issue table is worst first, every other array is in the order of the data set
    return interp.issues.is_issue.sort_index().to_numpy()


def worst_named(
    interp: 'CleanInterpretation',
    n: int = 3,  # Number of pairs or classes
) -> str:
    """The class pairs with most issues and their counts, in words; for several labels per item the
    classes with most issues; otherwise nothing"""
    if interp.task == 'classification':
        pairs = top_pairs(interp, n).itertuples()
        return ', '.join(f'{plain(o.given)} → {plain(o.predicted)} ({o.count})' for o in pairs)
    if interp.task != 'multilabel': return ''
    counts = interp.issues.worst_class[interp.issues.is_issue].value_counts().head(n)
    return ', '.join(f'{plain(k)} ({v})' for k, v in counts.items())


def class_issues(
    interp: 'CleanInterpretation',
    **kwargs,  # Passed to `issues.find_class_issues`: filter_by, score, only_issues
) -> pd.DataFrame:
    """If items have several labels, the issues one class at a time, the worst first, see
    `issues.find_class_issues`. Raises TypeError for other tasks."""
    if interp.task != 'multilabel':
        raise TypeError(f"class_issues is for several labels per item, but these labels are of the "
                        f"task {interp.task}: see `issues`")
    return issues.find_class_issues(interp.given, interp.probs, ids=interp.ids,
                                    vocab=list(interp.vocab), **kwargs)


def confusion_matrix(
    interp: 'CleanInterpretation',
) -> np.ndarray:  # Counts (c, c), int64; row: given label, column: prediction
    "fastai's confusion matrix from the one inference. Raises TypeError unless items have one class"
    need_classes(interp, 'confusion_matrix')
    c = len(interp.vocab)
    # fastai compares every item with every pair: c * c * n booleans, 50 GB for 1,000 classes
    return np.bincount(interp.given*c + interp.predicted, minlength=c*c).reshape(c, c)


def print_classification_report(
    interp: 'CleanInterpretation',
) -> None:
    """Print scikit-learn's classification report, without what in a name would drive a terminal.
    Raises TypeError unless items have one class."""
    need_classes(interp, 'print_classification_report')
    names = [plain(o) for o in interp.vocab]
    print(skm.classification_report(interp.given, interp.predicted, labels=range(len(names)),
                                    target_names=names))


def audit(
    interp: 'CleanInterpretation',
    **kwargs,  # Passed to `issues.audit`
) -> pd.DataFrame:
    """What else is wrong with the data, by cleanlab's Datalab (extra `audit`): outliers,
    near-duplicates, class imbalance, items that are not drawn independently, and, for image files,
    what cleanvision sees if it is installed (dark, blurry, ...).

    The columns are joined to `issues`, which is returned, with the number of issues of each type in
    `attrs['summary']`. Datalab gets the predictions and the inputs of the model's last linear
    layer; if the predictions are out-of-fold, one pass over the data makes those, once. Raises
    TypeError for masks, and what `issues.audit` raises."""
    if interp.task == 'segmentation':
        raise TypeError("audit cannot check masks: see `issues` for their label issues")

    if interp.audited is None:
        if interp.features is None:
            act = infer_act(interp.learn.loss_func, interp.act, interp.task)
            found = predict(interp.learn, interp.dl, act, None, interp.task, features=True)
            interp.features = found.features
        files = len(interp.ids) if find_spec('cleanvision') else 0
        paths = [image_path(interp.dl.dataset, i) for i in range(files)]
        audited = issues.audit(interp.given, interp.probs, interp.features, task=interp.task,
                               paths=paths if any(paths) else None, **kwargs)
        # `issues` judges the labels of these tasks already, by the filter and the score in use
        if interp.task != 'classification':
            audited = audited.drop(columns=['is_label_issue', 'label_score'])
        interp.audited = audited
        join_audit(interp)
    return interp.issues


def join_audit(
    interp: 'CleanInterpretation',
) -> None:
    "Join what `audit` found to the issue table"
    interp.issues = interp.issues.join(interp.audited)
    # pandas does not keep the attrs of the right side of a join
    interp.issues.attrs['summary'] = interp.audited.attrs['summary']


def labelled_of(
    interp: 'CleanInterpretation',
) -> np.ndarray:  # As `given`
    "The given labels, with -1 for pixels whose label is not in the vocab, such as a void class"
    if interp.task != 'segmentation': return interp.given
    known = (interp.given >= 0) & (interp.given < len(interp.vocab))
    return np.where(known, interp.given, -1)


def evaluate(
    interp: 'CleanInterpretation',
    # A ReviewSession; or position or id -> label; or a DataFrame of id and label
    corrections: 'ReviewSession | Mapping[Any, Any] | pd.Series | pd.DataFrame | None' = None,
    metrics: Metrics | None = None,  # Name -> function of true and predicted labels
    n_boot: int = 1000,  # Bootstrap samples
    seed: int = 42,  # Seed of the bootstrap
) -> pd.DataFrame:  # Columns labels, metric, value, low, high, items
    """The model's metrics on the labels as given, with the flagged items left out, and with them
    corrected, each with its 95 % bootstrap interval.

    `corrections` are a reviewer's: a session, whose deleted items are left out, for they have no
    right label; a DataFrame; a dict, which names items by position or id; or a Series, by the row
    labels of its index if the items are rows of a DataFrame. Without them the flagged items get the
    predicted label; without `metrics`, accuracy and F1, or the task's own. Warns that leaving out
    the flagged items, or giving them the predicted labels, flatters the model: only corrections
    make an honest test set. Raises TypeError for arguments of the wrong kind, and ValueError for
    corrections that fit no item or class, differ about one item or were made for other labels."""
    if metrics is not None and not isinstance(metrics, Mapping):
        raise TypeError(f"metrics is a {type(metrics).__name__}: pass name -> function, for "
                        "example {'accuracy': sklearn.metrics.accuracy_score}")
    deleted = np.zeros(len(interp.given), bool)
    if hasattr(corrections, 'decisions'): corrections, deleted = corrections_of(interp, corrections)
    kinds = Mapping, pd.Series, pd.DataFrame
    if corrections is not None and not isinstance(corrections, kinds):
        raise TypeError(f"corrections is a {type(corrections).__name__}: pass a ReviewSession, or "
                        "a dict, position -> label as in `vocab`")

    y = labelled_of(interp)
    p = interp.predicted
    kept = ~flagged_of(interp)
    name = 'flagged corrected' if corrections is None else 'corrected by a reviewer'
    variants = {'as given': (y, p), 'flagged left out': (y[kept], p[kept]),
                name: (_corrected(interp, y, corrections)[~deleted], p[~deleted])}
    warn("metrics without the items that the model itself flags, or with its own predictions as "
         "labels, flatter the model: report those on the given labels, or on labels that a "
         "reviewer corrected", stacklevel=2)
    return bootstrap_metrics(variants, metrics or METRICS[interp.task], n_boot=n_boot, seed=seed)


def _corrected(interp, y, corrections):
    if corrections is not None: return corrected(interp, y, corrections)
    flagged = flagged_of(interp)
    fixed = np.array(y)
    fixed[flagged] = interp.predicted[flagged]
    # Pixels without a label stay so: nothing says whether the model is right there
    return np.where(y < 0, y, fixed) if interp.task == 'segmentation' else fixed


def _f1_macro(y, p): return skm.f1_score(y, p, average='macro', zero_division=0)
def _f1_micro(y, p): return skm.f1_score(y, p, average='micro', zero_division=0)
def _pixel_accuracy(y, p): return (y == p)[y >= 0].mean()


METRICS = {'classification': {'accuracy': skm.accuracy_score, 'f1_macro': _f1_macro},
           'multilabel': {'f1_micro': _f1_micro, 'f1_macro': _f1_macro},
           'regression': {'mae': skm.mean_absolute_error, 'r2': skm.r2_score},
           'segmentation': {'pixel_accuracy': _pixel_accuracy}}


def bootstrap_metrics(
    variants: Mapping[str, tuple[np.ndarray, np.ndarray]],  # Name -> (true labels, predictions)
    metrics: Metrics,  # Name -> function of true labels and predictions
    *,
    n_boot: int = 1000,  # Bootstrap samples
    seed: int = 42,  # Seed of the samples
) -> pd.DataFrame:  # Columns labels, metric, value, low, high, items
    """Each metric on each variant with its 95 % percentile bootstrap interval over the items (Efron
    1979; scipy's `bootstrap`), NaN for a single item. A variant without items has no rows. Labels
    below 0, which mark pixels without one, do not count in pixel accuracy."""
    rows = []
    for variant, (y, p) in variants.items():
        if not len(y): continue
        for name, f in metrics.items():
            rows.append((variant, name, float(f(y, p)), *_interval(f, y, p, n_boot, seed), len(y)))
    return pd.DataFrame(rows, columns=['labels', 'metric', 'value', 'low', 'high', 'items'])


def _interval(f, y, p, n_boot, seed):
    if len(y) < 2: return np.nan, np.nan
    # Positions are drawn, so that label and prediction stay together; batches bound the memory
    ends = bootstrap((np.arange(len(y)),), lambda at: float(f(y[at], p[at])), batch=64,
                     vectorized=False, n_resamples=n_boot, method='percentile',
                     rng=np.random.default_rng(seed)).confidence_interval
    return float(ends.low), float(ends.high)
