"Whether a model is good enough to judge the labels: one that is not is named wherever it counts"
from collections.abc import Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ._text import brief

# Cohen's kappa, or for regression the rank correlation, that a model must exceed by `SURE` errors.
# No more is asked: where half of the labels are wrong, even a perfect model has a kappa of .5
LEAST_KAPPA = .1
LEAST_CORRELATION = .2
SURE = 2  # Standard errors
# Kappa between repeats of the folds: models that are each wrong about half of the items have .25
LEAST_BETWEEN = .3
FEW = 50  # Items of a fold, or of a label, that are too few to judge it alone
ADVICE = 'train it longer, or take a better model'


class Strength(NamedTuple):
    """How far predictions agree with the given labels (`agreement`), how far they would with the
    labels shuffled (`chance`), both 0 to 1; `kappa`, the agreement beyond chance, 1 at best
    (Cohen, "A Coefficient of Agreement for Nominal Scales", 1960); and `error`, the standard
    deviation of kappa if the labels are shuffled."""
    agreement: float
    chance: float
    kappa: float
    error: float

    @property
    def is_weak(self) -> bool:
        "Whether the agreement is near what shuffled labels give"
        return self.kappa - SURE*self.error < LEAST_KAPPA


def strength_of(
    given: Any,  # Class indices (n,)
    predicted: Any,  # Class indices (n,)
) -> Strength | None:  # None if all items are given one class: then everything agrees by chance
    "The strength of a model that predicts one class per item"
    given = np.asarray(given, np.int64).ravel()
    predicted = np.asarray(predicted, np.int64).ravel()
    n = len(given)
    if n < 2 or (given == given[0]).all(): return None

    c = int(max(given.max(), predicted.max())) + 1
    a = np.bincount(given, minlength=c)/n
    b = np.bincount(predicted, minlength=c)/n
    both = a*b
    chance = both.sum()
    # Mean and variance over all n! orders of the labels, in closed form
    variance = ((both*(1 - a)*(1 - b)).sum() + chance**2 - (both**2).sum())/(n - 1)
    agreement = float(np.mean(given == predicted))
    scale = 1 - chance
    return Strength(agreement, float(chance), float((agreement - chance)/scale),
                    float(np.sqrt(max(variance, 0))/scale))


def weakness(
    given: np.ndarray,  # Given labels as a CleanInterpretation holds them; pixels < 0: no label
    predicted: np.ndarray,  # Predicted labels, of the same shape
    task: str = 'classification',  # One of `issues.checks.TASKS`
    vocab: Sequence | None = None,  # Names of the classes, for several labels per item
    fold: np.ndarray | None = None,  # Fold (n,) in which each item was predicted; None: unknown
    between: float | None = None,  # Kappa between repeats of the folds, see `kappa_between`
) -> str:  # Without a capital letter or a full stop; empty if the model is not weak
    """The sentence that names a weak model, with its figures. Agreement far above chance says
    nothing of a good model's mistakes; agreement near it says that counts of label errors are
    counts of the model's own."""
    if task == 'regression': return _weak_regression(given, predicted)
    if task == 'multilabel': return _weak_multilabel(given, predicted, vocab)
    labelled = given >= 0
    found = strength_of(given[labelled], predicted[labelled])
    if found is None: return ''
    if found.is_weak: return _sentence(found)
    if between is not None and max(found.kappa, between) < LEAST_BETWEEN:
        return (f"beyond chance, the model agrees with {found.kappa:.1%} of the given labels and "
                f"its repeats with {max(between, 0):.1%} of one another's predictions: it is too "
                f"weak to judge the labels, and its counts say little; {ADVICE}")
    return '' if task != 'classification' or fold is None else _weak_fold(given, predicted, fold)


def kappa_between(
    predicted: Sequence,  # Class indices (n,) that each repeat predicts
) -> float | None:  # 1 at best; None if there are no two repeats, or if all predict one class
    """How far repeats of the folds agree with each other: the mean kappa of their pairs. It tells a
    weak model from a good one on bad labels, whose repeats contradict the labels in the same way"""
    found = [strength_of(a, b) for a, b in combinations(predicted, 2)]
    kappas = [o.kappa for o in found if o is not None]
    return float(np.mean(kappas)) if kappas else None


def _sentence(found, what='labels'):
    return (f"the model agrees with {found.agreement:.1%} of the given {what}, and "
            f"{found.chance:.1%} would be chance: it is too weak to judge them, and its counts "
            f"say little; {ADVICE}")


def _weak_fold(given, predicted, fold):
    "A fold whose model failed, among others that did not"
    folds = {int(k): fold == k for k in np.unique(fold) if (fold == k).sum() >= FEW}
    for k, held_out in folds.items():
        found = strength_of(given[held_out], predicted[held_out])
        rest = strength_of(given[~held_out], predicted[~held_out])
        if found is None or rest is None or not found.is_weak or rest.is_weak: continue
        if found.kappa + 3*found.error > rest.kappa: continue
        return (f"the model of fold {k} agrees with {found.agreement:.1%} of the given labels of "
                f"its {held_out.sum()} items, and {found.chance:.1%} would be chance, while the "
                f"others agree with {rest.agreement:.1%}: it is too weak to judge them, and counts "
                "of these items say little; train the folds again, or longer")
    return ''


def _weak_multilabel(given, predicted, vocab):
    given = np.asarray(given, bool)
    predicted = np.asarray(predicted, bool)
    found = [strength_of(given[:, k], predicted[:, k]) for k in range(given.shape[1])]
    judged = [(k, o) for k, o in enumerate(found) if o is not None]
    if not judged: return ''
    # Over all labels: the chance of a rare label is near 1, that of a frequent one near 1/2
    agreement, chance = (np.mean([getattr(o, f) for _, o in judged])
                         for f in ('agreement', 'chance'))
    errors = [o.error*(1 - o.chance) for _, o in judged]
    scale = 1 - chance
    all_ = Strength(agreement, chance, (agreement - chance)/scale,
                    float(np.sqrt(np.square(errors).sum())/len(errors)/scale))
    if all_.is_weak: return _sentence(all_, 'single labels')

    often = [(k, o) for k, o in judged if FEW <= given[:, k].sum() <= len(given) - FEW]
    weak = [(k, o) for k, o in often if o.is_weak]
    if not weak: return ''
    k, o = weak[0]
    name = k if vocab is None else vocab[k]
    return (f"the model is too weak to judge {len(weak)} of the {len(found)} labels, for example "
            f"{brief(name)}, where it agrees with {o.agreement:.1%} and {o.chance:.1%} would be "
            f"chance: its counts of these say little; {ADVICE}")


def _weak_regression(given, predicted):
    columns = zip(np.reshape(given, (len(given), -1)).T, np.reshape(predicted, (len(given), -1)).T)
    # Of ranks: a single label of the wrong order of magnitude brings R² of a good model to 0
    found = [_rank_correlation(a, b) for a, b in columns if len(a) > 2 and (a != a[0]).any()]
    if not found: return ''
    mean = float(np.mean(found))
    error = 1/np.sqrt((len(given) - 1)*len(found))
    if mean - SURE*error >= LEAST_CORRELATION: return ''
    return (f"the model's predictions have a rank correlation of {mean:.2f} with the given "
            "numbers, and 0 would be chance: it is too weak to judge them, and its counts say "
            f"little; {ADVICE}")


def _rank_correlation(a, b):
    a, b = (pd.Series(o).rank().to_numpy() - (len(o) + 1)/2 for o in (a, b))
    size = np.sqrt((a @ a)*(b @ b))
    # The same prediction for all items follows nothing
    return float(a @ b/size) if size else 0.
