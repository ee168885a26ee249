"What was found while training, and whether it is of this training set"
import numpy as np

from ..dynamics import DYNAMICS_SCORES, dynamics_of
from ..oof.result import oof_of


def check_oof(
    oof,  # An OutOfFold
    labels,  # `folds.Labels` of the training set
    ids,  # Names of its items
):
    "Raise ValueError where `oof` is not of that training set, or lacks a fold"
    n = len(ids)
    if len(oof) != n or oof.ids != ids:
        raise ValueError(f"learn.oof holds {len(oof)} items, which are not the {n} of the training set: "
                         "was dls changed? Set learn.oof to the OutOfFold of this training set, or to None")
    if oof.task != labels.task:
        raise ValueError(f"learn.oof is of the task {oof.task}, but the training set's labels are of {labels.task}: "
                         "set learn.oof to the OutOfFold of this training set, or to None")
    if labels.targets is not None and not np.array_equal(oof.targets, labels.targets):
        differ = (oof.targets != labels.targets).reshape(n, -1).any(1).sum()
        raise ValueError(f"learn.oof was made for other labels: {differ} of {n} differ "
                         "from the training set's; train a new Learner with ConfidentLearningCallback")
    if not oof.done.all():
        raise ValueError(f"learn.oof lacks the folds {sorted(set(oof.fold[~oof.done].tolist()))}, which were "
                         "interrupted: finish them with the callback's resume(), or train again")


def with_dynamics(
    learn,  # The Learner
    score,  # What ranks the items, as the person passed it
    ids,  # Names of the training items; None: the data set is not the training set
):
    "`score` with the names that are scores of training dynamics replaced by their values"
    if isinstance(score, (list, tuple)): return [with_dynamics(learn, o, ids) for o in score]
    if not isinstance(score, str) or score not in DYNAMICS_SCORES: return score
    found = dynamics_of(learn)
    if found is None or ids is None or found.ids != ids:
        raise ValueError(f"score is {score!r}, which needs learn.dynamics of this very training set: train with "
                         "TrainingDynamicsCallback, and pass ds_idx=0")
    return found.score(score, oof_of(learn))
