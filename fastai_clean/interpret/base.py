"CleanInterpretation: one inference, and everything made from it"
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from warnings import warn

import numpy as np
import pandas as pd
import torch
from fastai.interpret import ClassificationInterpretation, Interpretation
from fastai.learner import Learner
from fastai.torch_core import no_random, to_cpu
from fastcore.basics import detuplify
from fastcore.foundation import L
from sklearn.metrics import r2_score

from .. import issues
from ..data import ids_of, plain_dl, predict
from ..data.predict import infer_act
from ..issues.checks import check_labels_probs, of_classes
from ..issues.classification import with_names
from ..issues.columns import Score
from . import crowd, joins, outputs, pictures, reviewed, tables
from .decisions import decided, put_decisions
from .sets import check_oof, find_set, has_reduction, with_dynamics

if TYPE_CHECKING:
    from ..review import ReviewSession
    from ..review.estimate import Estimate

FINDERS = {'classification': issues.find_issues,
           'multilabel': issues.find_multilabel_issues,
           'regression': issues.find_regression_issues,
           'segmentation': issues.find_segmentation_issues}


class CleanInterpretation(ClassificationInterpretation):
    """Ranks, shows and exports the items of a data set whose labels look wrong.

    One inference, in `from_learner`, or none if there are out-of-fold probabilities; every table
    and plot reuses its `preds`, `targs`, `decoded` and `losses` (n,), which follow the data set's
    order: for classification (n, c), (n,), (n,); for several labels per item all (n, c); for
    regression all (n,) or (n, k); for segmentation (n, c, h, w), (n, h, w), (n, h, w). `issues` is
    the table of `find_issues`, or of the task's own function; `ids` (n,) name the items.
    All methods of fastai's ClassificationInterpretation work on it; items are loaded without
    augmentation."""

    def __init__(self,
        learn: Learner,  # The Learner
        dl: Any,  # DataLoader over the data set, neither shuffled nor augmented
        losses: torch.Tensor | None,  # (n,); None: -log p(given), for regression squared errors
        act: Callable | None = None,  # Activation that was used
        preds: np.ndarray | None = None,  # Probabilities (n, c), or the task's predictions
        targs: np.ndarray | None = None,  # Given class indices (n,), or the task's targets
        vocab: Sequence | None = None,  # Class names (c,); None: the class indices
        filter_by: str | None = None,  # Which items are issues, see `find_issues`
        score: Score | None = None,  # What ranks the items, see `find_issues`
        *,
        task: str = 'classification',  # One of `checks.TASKS`
        calibrate: str | None = None,  # 'temperature': scale so that the given labels are likeliest
        features: np.ndarray | None = None,  # Features (n, d), if the inference made them
        how: Mapping | None = None,  # How the predictions were made, name -> value
    ):
        self.task = task
        self.how = dict(how or {})
        self.features = features
        self.audited = None
        if task == 'classification': targs, preds = check_labels_probs(targs, preds)
        self.probs = preds
        self.given = targs
        if losses is None: losses = _losses(preds, targs, task)
        Interpretation.__init__(self, learn, dl, losses, act)
        # Before probabilities are scaled: the Learner's threshold is one of its own
        self.predicted = decided(learn.loss_func, preds, task)
        if calibrate is not None: self._calibrate(calibrate)
        c = 0 if task == 'regression' else preds.shape[1]
        self.vocab = L(range(c) if vocab is None else vocab)
        self.ids = ids_of(dl.dataset, learn.path)
        self.find_issues(filter_by, score)

    @property
    def preds(self) -> torch.Tensor:
        "Probabilities, or predictions"
        return torch.as_tensor(self.probs)

    @property
    def targs(self) -> torch.Tensor:
        "Given labels"
        return torch.as_tensor(self.given)

    @property
    def decoded(self) -> torch.Tensor:
        "Predicted labels"
        return torch.as_tensor(self.predicted)

    @classmethod
    def from_learner(cls,
        learn: Learner,  # A trained Learner
        ds_idx: int | None = None,  # 0: training set, 1: validation; None: 0 if `learn.oof` is set
        dl: Any = None,  # Instead, a DataLoader: `learn.dls.test_dl(items, with_labels=True)`
        act: Callable | None = None,  # Makes probabilities of outputs; None: the loss's activation
        filter_by: str | None = None,  # Which items are issues, see `find_issues`
        score: Score | None = None,  # See `find_issues`; or one of `dynamics.DYNAMICS_SCORES`
        calibrate: str | None = None,  # 'temperature': scale so that the given labels are likeliest
        tta: str | None = None,  # 'flip': mean of an image and its mirror image, not for an `oof`
    ) -> 'CleanInterpretation':
        """Predict a data set once, or take `learn.oof` for the training set; losses are then -log
        p(given), as they are for a loss function that cannot give one per item.

        The training set without out-of-fold probabilities is allowed, with a warning: a network has
        learned its wrong labels. A model that is too weak to judge the labels is named in a
        warning, see `weakness`. Raises ValueError if the data set is missing or not that of
        `learn.oof`, TypeError if it has no labels."""
        found = find_set(learn, ds_idx, dl)
        ids = ids_of(found.dl.dataset, learn.path)
        score = with_dynamics(learn, score, ids if found.is_train else None, found.labels)
        # The training set's own DataLoader augments: its items are loaded as the validation set's
        like = learn.dls[1] if found.is_train and len(learn.dls.loaders) > 1 else None
        dl = plain_dl(found.dl, like=like)
        labels = found.labels
        kw = dict(vocab=labels.vocab, task=labels.task, filter_by=filter_by, score=score,
                  calibrate=calibrate)
        how = {'data set': found.name, 'items': len(dl.dataset)}
        if found.oof is not None:
            if tta:
                raise ValueError("tta is for predictions made here: pass it to "
                                 "ConfidentLearningCallback instead")
            check_oof(found.oof, labels, ids)
            how = {**found.oof.config, **how, 'probabilities': 'out-of-fold'}
            return tables.warn_if_weak(cls(
                learn, dl, None, act, found.oof.pred_probs, found.oof.targets, **kw, how=how))

        if found.is_train:
            warn("the Learner has no out-of-fold probabilities (learn.oof): these are in-sample, "
                 "from a model that has learned the wrong labels too; train with "
                 "ConfidentLearningCallback to find more", stacklevel=2)
        act = infer_act(learn.loss_func, act, labels.task)
        got = predict(learn, dl, act, labels.c, labels.task, tta=tta, features=True,
                      with_loss=has_reduction(learn.loss_func))
        how |= {'probabilities': 'in-sample' if found.is_train else 'held-out', 'tta': tta}
        # Masks are as the model saw them, which only the loaded batches show
        targs = labels.targets if got.masks is None else got.masks
        # The losses would be those of the plain image, not of the mean with its mirror image
        losses = None if tta else got.losses
        return tables.warn_if_weak(cls(
            learn, dl, losses, act, got.preds, targs, **kw, features=got.features, how=how))

    @classmethod
    def compare(cls,
        learn: Learner,  # A trained Learner
        test: Any = None,  # A labelled test DataLoader, or several as name -> DataLoader
        **kwargs,  # Passed to `from_learner`: act, filter_by, score, calibrate
    ) -> pd.DataFrame:
        """One row per data set of the Learner, and one per test set: `items`; `probabilities`,
        out-of-fold, in-sample (with the warning of `from_learner`) or held-out; `agreement`, see
        there; `noise_rate`; `n_issues`; `worst_pairs`, given → predicted with their counts, or for
        several labels per item the classes with most issues. Empty sets are left out. Raises
        ValueError if a test set has the name of a set of the Learner, and if all are empty."""
        n = len(learn.dls.loaders)
        names = ['train', 'valid', *map(str, range(2, n))][:n]
        sets = {name: dict(ds_idx=i) for i, name in enumerate(names)}
        if test is None: test = {}
        for name, dl in (test if isinstance(test, dict) else {'test': test}).items():
            if name in sets:
                raise ValueError(f"test has the name {name!r}, which is that of a set of the "
                                 "Learner: choose another")
            sets[name] = dict(dl=dl)

        rows = {}
        worst = {}
        for name, where in sets.items():
            dl = where['dl'] if 'dl' in where else learn.dls.loaders[where['ds_idx']]
            # Trained on all data, or exported: there is nothing in it to compare
            if not len(dl.dataset): continue
            interp = cls.from_learner(learn, **where, **kwargs)
            worst[name] = tables.worst_named(interp)
            rows[name] = dict(items=len(interp.ids), probabilities=interp.how['probabilities'],
                              agreement=interp.agreement, noise_rate=interp.noise_rate,
                              n_issues=len(interp.noisy_idxs()))
        if not rows:
            raise ValueError("the Learner's data sets are empty, as an exported Learner's are: "
                             "pass test=learn.dls.test_dl(items, with_labels=True)")
        df = pd.DataFrame.from_dict(rows, orient='index').rename_axis('set')
        # pandas' text columns refuse class names that UTF-8 cannot hold
        return df.assign(worst_pairs=pd.Series(worst, dtype=object))

    def find_issues(self,
        # One of `issues.FILTERS`, or an Estimate, for its `cut`; None: 'auto'
        filter_by: 'str | Estimate | None' = None,
        score: Score | None = None,  # See `issues.label_quality`; None: the task's first
        **kwargs,  # Passed to `issues.find_issues`, or to the task's own function
    ) -> pd.DataFrame:
        """Make `issues` again from the same probabilities, for this and every picture, table and
        file to come; returns it. What `audit` found stays joined. Raises ValueError for a filter if
        the task has none, and what the task's own function raises."""
        # By what it can do: the review is a layer below
        estimate = filter_by if hasattr(filter_by, 'flagged') else None
        if estimate is not None: filter_by = None
        kwargs |= {k: v for k, v in dict(filter_by=filter_by, score=score).items() if v is not None}
        if 'filter_by' in kwargs and self.task not in ('classification', 'multilabel'):
            raise ValueError(f"filter_by is {filter_by!r}, but {self.task} has no filters: leave "
                             "it out")

        f = FINDERS[self.task]
        # By the classes' names, which `find_issues` is not given here
        if (num := kwargs.get('num_to_remove_per_class')) is not None:
            kwargs['num_to_remove_per_class'] = of_classes(num, list(self.vocab))
        if self.task not in ('regression', 'classification'): kwargs['vocab'] = list(self.vocab)
        preds = self.predicted if self.task == 'regression' else self.probs
        self.issues = f(self.given, preds, ids=self.ids, **kwargs)
        if self.task == 'multilabel' and 'threshold' in kwargs:
            self.predicted = self.probs >= kwargs['threshold']
        put_decisions(self)
        # A vocab of numbers could not be told from the class indices: name the classes afterwards
        if self.task == 'classification': self.issues = with_names(self.issues, list(self.vocab))
        self.filter_by = None
        if 'filter_by' in inspect.signature(f).parameters:
            name = kwargs.get('filter_by', 'auto')
            self.filter_by = name if isinstance(name, str) else 'a mask'
        if estimate is not None:
            reviewed.flag(self, estimate)
            self.filter_by = 'estimate'
        if self.audited is not None: tables.join_audit(self)
        return self.issues

    def __repr__(self):
        found = f"{len(self.ids):,} items of the {self.how.get('data set', 'data set')}"
        parts = [found, f"{self.how.get('probabilities', 'given')} predictions",
                 f"{int(self.issues.is_issue.sum()):,} label issues"]
        parts.append(f"R² {self.agreement:.2f}" if self.task == 'regression' else
                     f"agreement {self.agreement:.1%}")
        if self.weakness: parts.append('too weak to judge the labels')
        return f"CleanInterpretation({', '.join(parts)})"

    def noisy_idxs(self) -> np.ndarray:
        "Positions in the data set of the label issues, the likeliest first"
        return self.issues.index[self.issues.is_issue].to_numpy()

    def __getitem__(self,
        idxs: Any,  # Positions, or a mask of all items
    ) -> tuple:
        """Inputs, probabilities, targets, predictions and losses at `idxs` (positions, or a mask of
        all items), in that order, from the one inference. Raises IndexError if `idxs` is empty."""
        idxs = np.asarray(list(L(idxs.tolist() if hasattr(idxs, 'tolist') else idxs)))
        if idxs.dtype == bool: idxs = np.flatnonzero(idxs)
        if not len(idxs): raise IndexError("idxs is empty: ask for at least one item")

        dl = plain_dl(self.dl, idxs, bs=len(idxs))
        # A DataLoader of texts sorts its batch by length: put it back in the order asked for
        order = np.argsort(list(dl.get_idxs())) if hasattr(dl, 'get_idxs') else slice(None)
        with no_random(): batch = to_cpu(next(iter(dl)))
        inps = tuple(o[order] for o in batch[:getattr(self.dl, 'n_inp', len(batch) - 1)])
        rows = (torch.as_tensor(o[idxs]) for o in (self.probs, self.given, self.predicted))
        return detuplify(inps), *rows, self.losses[idxs]

    @cached_property
    def joint(self) -> np.ndarray:
        """The confident joint (c, c), see `issues.confident_joint`. Raises TypeError unless items
        have one class"""
        tables.need_classes(self, 'confident_joint')
        return issues.confident_joint(self.given, self.probs)

    @property
    def noise_rate(self) -> float:
        """Estimated share of wrong labels, 0 to 1; if items do not have one class each, that of
        flagged items. The mistakes of a weak model count as label errors: if the model is often
        wrong, the rate is far too high. Warns, once, of a model that is named in `weakness`."""
        tables.warn_if_weak(self)
        if self.task != 'classification': return float(self.issues.is_issue.mean())
        return self._noise_rate

    @cached_property
    def _noise_rate(self): return issues.noise_rate(self.given, self.probs)

    @property
    def agreement(self) -> float:
        """How far the model agrees with the given labels: the share of labels (single labels,
        pixels) that it predicts; for regression R², 1 at best. A low value means a weak model or
        bad labels, and no estimate here tells which."""
        if self.task == 'regression': return float(r2_score(self.given, self.predicted))
        labelled = tables.labelled_of(self)
        return float(np.mean((labelled == self.predicted)[labelled >= 0]))

    @property
    def health_score(self) -> float:
        """cleanlab's overall label health, 0 to 1: the share of right labels that confident
        learning estimates; `noise_rate` is the better estimate. Warns as it does. Raises TypeError
        unless items have one class."""
        tables.need_classes(self, 'health_score')
        tables.warn_if_weak(self)
        return issues.health_score(self.given, joint=self.joint)

    weakness = cached_property(tables.weakness)
    health = tables.health
    top_pairs = tables.top_pairs
    class_issues = tables.class_issues
    confusion_matrix = tables.confusion_matrix
    print_classification_report = tables.print_classification_report
    evaluate = tables.evaluate
    audit = tables.audit
    rows = joins.rows
    estimate = reviewed.estimate
    annotators = crowd.annotators

    shown = pictures.shown
    plot_noisy = pictures.plot_noisy
    plot_confident_joint = pictures.plot_confident_joint
    plot_noise_matrix = pictures.plot_noise_matrix
    plot_confusion_matrix = pictures.plot_confusion_matrix
    plot_quality = pictures.plot_quality
    plot_class_health = pictures.plot_class_health
    plot_estimate = pictures.plot_estimate

    to_frame = outputs.to_frame
    to_csv = outputs.to_csv
    to_parquet = outputs.to_parquet
    to_review = outputs.to_review
    report = outputs.report

    def review(self,
        path: str | Path,  # Journal of decisions (.jsonl); made if it does not exist
        user: str | None = None,  # The reviewer's name; None: that of the account
    ) -> 'ReviewSession':
        """A `ReviewSession` over `issues`: decide on them, undo, apply, train again, and review
        again with the same journal. Raises TypeError unless items have one class, and what
        ReviewSession raises."""
        # Imported here: the review is a layer below, and looking at a table must not need it
        from ..review import ReviewSession
        tables.need_classes(self, 'review')
        session = ReviewSession(self.issues, path, vocab=list(self.vocab), user=user,
                                set=reviewed.set_of(self), rows=joins.own_rows(self),
                                root=self.learn.path)
        session.weakness = self.weakness
        return session

    def _calibrate(self, how):
        if how != 'temperature':
            raise ValueError(f"calibrate is {how!r}: choose 'temperature' or None")
        tables.need_classes(self, 'calibrate')
        self.how['temperature'] = issues.fit_temperature(self.given, self.probs)
        self.probs = issues.apply_temperature(self.probs, self.how['temperature'])
        self.losses = _losses(self.probs, self.given, self.task)


def _losses(preds, targs, task):
    # A probability that is rounded to 0 would be an infinite loss, which spoils every mean
    tiny = np.finfo(np.float32).tiny
    if task == 'classification':
        return torch.as_tensor(-np.log(preds[np.arange(len(targs)), targs].clip(tiny)))
    if task == 'regression': res = np.square(preds - targs)
    elif task == 'multilabel': res = -np.log(np.where(targs, preds, 1 - preds).clip(tiny))
    else:
        given = targs[:, None].clip(0, preds.shape[1] - 1)
        res = -np.log(np.take_along_axis(preds, given, 1).clip(tiny))
    return torch.as_tensor(res.reshape(len(res), -1).mean(1))
