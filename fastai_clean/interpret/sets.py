"Which data set `from_learner` was asked for, and whether what was saved about it belongs to it"
import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from fastai.learner import Learner

from .._rows import check_same_labels
from .._text import as_text, brief
from ..data import Labels, labels_of
from ..data.labels import is_binary_loss
from ..dynamics import DYNAMICS_SCORES, dynamics_of
from ..issues.columns import Score
from ..oof.result import OutOfFold, oof_of


class Found(NamedTuple):
    "The data set that `from_learner` was asked for"
    dl: Any  # Its DataLoader, as it is in the Learner or was passed
    name: str  # 'training set', ...
    labels: Labels  # Its labels
    oof: OutOfFold | None  # Out-of-fold probabilities to use
    is_train: bool  # Whether it is the training set


def find_set(
    learn: Learner,
    ds_idx: int | None,  # As for `from_learner`, as is `dl`
    dl: Any,
) -> Found:
    "The data set, its labels and its out-of-fold probabilities; raises as `from_learner` does"
    loaders = learn.dls.loaders
    if dl is not None and not hasattr(dl, 'dataset'):
        raise TypeError(f"dl is a {type(dl).__name__}: pass a DataLoader, such as "
                        "learn.dls.test_dl(items, with_labels=True)")
    # A copy of the training DataLoader is the training set: its predictions would be in-sample
    own = [i for i, o in enumerate(loaders) if dl is not None and dl.dataset is o.dataset]
    if own:
        ds_idx = own[0]
        dl = None
    if dl is not None: return Found(dl, 'test set', _labels(learn, dl), None, ds_idx == 0)

    if ds_idx is not None and -len(loaders) <= ds_idx < 0: ds_idx += len(loaders)
    oof = oof_of(learn) if ds_idx in (None, 0) else None
    if ds_idx is None: ds_idx = 1 if oof is None else 0
    if not 0 <= ds_idx < len(loaders):
        raise ValueError(f"ds_idx is {ds_idx}, but the Learner has {len(loaders)} data sets: "
                         "choose one of them, or train with ConfidentLearningCallback to check the "
                         "training set")
    dl = learn.dls[ds_idx]
    name = {0: 'training set', 1: 'validation set'}.get(ds_idx, f'data set {ds_idx}')
    return Found(dl, name, _labels(learn, dl), oof, ds_idx == 0)


def _labels(learn, dl): return labels_of(dl, is_binary_loss(learn.loss_func))


def has_reduction(
    loss_func: Callable,
) -> bool:
    "Whether the loss can be told to give one number per item"
    return hasattr(loss_func, 'reduction') or 'reduction' in inspect.signature(loss_func).parameters


def check_oof(
    oof: OutOfFold,
    labels: Labels,  # Those of the training set
    ids: list[str],  # Likewise
) -> None:
    """Raise ValueError if `oof` is not of the training set with these labels and ids, or is not
    finished"""
    n = len(ids)
    if len(oof) != n or oof.ids != ids:
        raise ValueError(f"learn.oof holds {len(oof)} items, which are not the {n} of the training "
                         "set: was dls changed? Set learn.oof to the OutOfFold of this training "
                         "set, or to None")
    if oof.task != labels.task:
        raise ValueError(f"learn.oof is of the task {oof.task}, but the training set's labels are "
                         f"of {labels.task}: set learn.oof to the OutOfFold of this training set, "
                         "or to None")
    _check_vocab('learn.oof', oof.vocab, labels.vocab)
    # The ids alone are not enough: a DataFrame's rows keep theirs while their labels are corrected
    if labels.targets is not None and not np.array_equal(oof.targets, labels.targets):
        differ = (oof.targets != labels.targets).reshape(n, -1).any(1)
        i = differ.argmax()
        was, now = (labels.said(o[i]) for o in (oof.targets, labels.targets))
        raise ValueError(f"learn.oof was made for other labels: {differ.sum()} of {n} differ from "
                         f"the training set's, first that of {brief(ids[i])}, which was {was} and "
                         f"is {now}; train a new Learner with ConfidentLearningCallback")
    if not oof.done.all():
        missing = sorted(set(oof.fold[~oof.done].tolist()))
        raise ValueError(f"the folds {missing} of learn.oof are missing, since training was "
                         "interrupted: finish them with the callback's resume(), or train again")


def _check_vocab(what, theirs, ours):
    "Raise ValueError if two lists of class names differ; the class indices stand for no names"
    if not theirs or ours is None or list(theirs) == list(range(len(ours))): return
    names = [*map(as_text, theirs)]
    known = [*map(as_text, ours)]
    if names == known: return
    if len(names) != len(known):
        raise ValueError(f"{what} has {len(names)} classes, but the training set has {len(known)}: "
                         "was it made with another data set?")
    i = next(i for i, (a, b) in enumerate(zip(names, known)) if a != b)
    raise ValueError(f"{what} has the class {brief(names[i])} where the training set's vocab has "
                     f"{brief(known[i])}: it was made with other classes, or in another order of "
                     "them")


def with_dynamics(
    learn: Learner,
    score: Score | None,  # As for `from_learner`
    ids: Sequence[str] | None,  # Those of the training set; None: it is another set
    labels: Labels,  # Likewise
) -> Any:  # What `label_quality` takes
    """`score` with the names of scores of training dynamics replaced by their values. Raises
    ValueError if `learn.dynamics` is not of this training set with these labels"""
    if isinstance(score, (list, tuple)):
        return [with_dynamics(learn, o, ids, labels) for o in score]
    if not isinstance(score, str) or score not in DYNAMICS_SCORES: return score
    found = dynamics_of(learn)
    if found is None or ids is None or found.ids != ids:
        raise ValueError(f"score is {score!r}, which needs learn.dynamics of this very training "
                         "set: train with TrainingDynamicsCallback, and pass ds_idx=0")
    _check_vocab('learn.dynamics', found.vocab, labels.vocab)
    names = labels.vocab or found.vocab
    check_same_labels(ids, [names[k] for k in labels.targets], [names[k] for k in found.targets],
                      'learn.dynamics', 'the training set',
                      "train a new Learner on these labels with TrainingDynamicsCallback")
    return found.score(score, oof_of(learn))
