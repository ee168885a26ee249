"CleanInterpretation: one inference, and the tables made from it"
import inspect
from warnings import warn

import numpy as np
import pandas as pd
import torch
from fastai.interpret import ClassificationInterpretation, Interpretation
from fastai.torch_core import no_random, to_cpu
from fastcore.basics import detuplify
from fastcore.foundation import L

from ..data import ids_of, labels_of, plain_dl, predict
from ..data.labels import is_binary_loss
from ..data.predict import infer_act
from ..issues import (
    apply_temperature,
    find_issues,
    find_multilabel_issues,
    find_regression_issues,
    find_segmentation_issues,
    fit_temperature,
    predicted_classes,
)
from ..issues.checks import check_labels_probs
from ..oof.result import oof_of
from ..review import ReviewSession
from .outputs import Outputs
from .pictures import Pictures
from .sources import check_oof, with_dynamics
from .tables import Tables

IN_SAMPLE, HELD_OUT, OUT_OF_FOLD = 'in-sample', 'held-out', 'out-of-fold'


class CleanInterpretation(Tables, Pictures, Outputs, ClassificationInterpretation):
    """Ranks, shows and exports the items of a data set whose labels look wrong.

    One inference, in `from_learner`, or none where out-of-fold probabilities are there; every table and plot reuses its
    `preds`, `targs`, `decoded` and `losses` (n,), which follow the data set's order: of classification (n, c), (n,),
    (n,); of several labels an item all (n, c); of regression all (n,) or (n, k); of segmentation (n, c, h, w),
    (n, h, w), (n, h, w). `issues` is the table of `find_issues`, or of the task's own function. Everything of fastai's
    ClassificationInterpretation works on it; items are loaded without augmentation."""

    def __init__(self,
        learn,  # The Learner
        dl,  # DataLoader over the data set, neither shuffled nor augmented
        losses,  # Losses (n,); None: -log p(given), squared errors for regression
        act=None,  # Activation that was used
        preds=None,  # Probabilities (n, c), or the task's predictions
        targs=None,  # Given class indices (n,), or the task's targets
        vocab=None,  # Class names (c,); None: the class indices
        filter_by=None,  # Which items are issues: one of `FILTERS`; None: the first
        score=None,  # What ranks the items, see `label_quality`; None: self-confidence, or the task's own
        *,
        task='classification',  # One of `checks.TASKS`
        calibrate=None,  # 'temperature': scale the probabilities so that the given labels are likeliest
        features=None,  # Features (n, d), where the inference gave them
        how=None,  # How the predictions were made, name -> value
    ):
        self.task, self.how, self.features, self.audited = task, dict(how or {}), features, None
        if task == 'classification': targs, preds = check_labels_probs(targs, preds)
        self.probs, self.given = preds, targs
        if losses is None: losses = _losses(preds, targs, task)
        Interpretation.__init__(self, learn, dl, losses, act)
        if calibrate is not None: self._calibrate(calibrate)
        self.predicted = _decode(self.probs, task)
        c = 0 if task == 'regression' else preds.shape[1]
        self.vocab = L(range(c) if vocab is None else vocab)
        self.ids = ids_of(dl.dataset, learn.path)
        self.find_issues(filter_by, score)

    @property
    def preds(self):
        "Probabilities, or predictions, as a tensor"
        return torch.as_tensor(self.probs)

    @property
    def targs(self):
        "Given labels as a tensor"
        return torch.as_tensor(self.given)

    @property
    def decoded(self):
        "Predicted labels as a tensor"
        return torch.as_tensor(self.predicted)

    @classmethod
    def from_learner(cls,
        learn,  # A trained Learner
        ds_idx=None,  # 0: training set, 1: validation set; None: training where `learn.oof` is there, else validation
        dl=None,  # Labelled DataLoader, such as `learn.dls.test_dl(items, with_labels=True)`, instead of `ds_idx`
        act=None,  # Activation that turns outputs into probabilities; None: the loss's
        filter_by=None,  # Which items are issues: one of `FILTERS`; None: prune_by_noise_rate
        score=None,  # See `label_quality`; or one of `DYNAMICS_SCORES`; None: self-confidence, or the task's own
        calibrate=None,  # 'temperature': scale the probabilities so that the given labels are likeliest
        tta=None,  # 'flip': the mean over an image and its mirror image; for the training set, pass it to the callback
    ):
        """Predict a data set once, or take `learn.oof` for the training set; losses are then -log p(given), as they are
        for a loss function that cannot give one an item.

        The training set without out-of-fold probabilities is allowed, with a warning: a network has learned its wrong
        labels. Raises ValueError where the data set is missing or not that of `learn.oof`, TypeError where it has no
        labels."""
        if dl is not None and not hasattr(dl, 'dataset'):
            raise TypeError(f"dl is a {type(dl).__name__}: pass a DataLoader, such as learn.dls.test_dl(items, "
                            "with_labels=True)")
        own = [i for i, o in enumerate(learn.dls.loaders) if dl is not None and dl.dataset is o.dataset]
        if own: ds_idx, dl = own[0], None
        if ds_idx is not None and -len(learn.dls.loaders) <= ds_idx < 0: ds_idx += len(learn.dls.loaders)
        oof = oof_of(learn) if dl is None and ds_idx in (None, 0) else None
        name = 'test set'
        if dl is None:
            if ds_idx is None: ds_idx = 0 if oof is not None else 1
            if not 0 <= ds_idx < len(learn.dls.loaders):
                raise ValueError(f"ds_idx is {ds_idx}, but the Learner has {len(learn.dls.loaders)} data sets: choose "
                                 "one of them, or train with ConfidentLearningCallback to check the training set")
            dl = learn.dls[ds_idx]
            name = {0: 'training set', 1: 'validation set'}.get(ds_idx, f'data set {ds_idx}')
        labels = labels_of(dl, is_binary_loss(learn.loss_func))
        targs, vocab, task = labels
        score = with_dynamics(learn, score, ids_of(dl.dataset, learn.path) if ds_idx == 0 else None)
        kw = dict(vocab=vocab, task=task, filter_by=filter_by, score=score, calibrate=calibrate)
        dl = plain_dl(dl, like=learn.dls[1] if ds_idx == 0 and len(learn.dls.loaders) > 1 else None)
        how = {'data set': name, 'items': len(dl.dataset)}
        if oof is not None:
            if tta: raise ValueError("tta is for predictions made here: pass it to ConfidentLearningCallback instead")
            check_oof(oof, labels, ids_of(dl.dataset, learn.path))
            return cls(learn, dl, None, act, oof.pred_probs, oof.targets, **kw,
                       how={**oof.config, **how, 'probabilities': OUT_OF_FOLD})
        if ds_idx == 0:
            warn("the Learner has no out-of-fold probabilities (learn.oof): these are in-sample, from a model that has "
                 "learned the wrong labels too; train with ConfidentLearningCallback to find more", stacklevel=2)
        act, loss_func = infer_act(learn.loss_func, act, task), learn.loss_func
        with_loss = hasattr(loss_func, 'reduction') or 'reduction' in inspect.signature(loss_func).parameters
        got = predict(learn, dl, act, labels.c, task, with_loss=with_loss, tta=tta, features=True)
        how |= {'probabilities': IN_SAMPLE if ds_idx == 0 else HELD_OUT, 'tta': tta}
        targs, losses = targs if got.masks is None else got.masks, None if tta else got.losses
        return cls(learn, dl, losses, act, got.preds, targs, **kw, features=got.features, how=how)

    @classmethod
    def compare(cls,
        learn,  # A trained Learner
        test=None,  # A labelled test DataLoader, or several as name -> DataLoader
        **kwargs,  # Passed to `from_learner`: act, filter_by, score, calibrate
    ) -> pd.DataFrame:
        """One row a data set of the Learner, and one a test set: `items`; `probabilities`, out-of-fold, in-sample
        (with the warning of `from_learner`) or held-out; `agreement`, see there; `noise_rate`; `n_issues`;
        `worst_pairs`, given → predicted with their counts, or for several labels an item the classes with most
        issues."""
        loaders = {{0: 'train', 1: 'valid'}.get(i, str(i)): i for i in range(len(learn.dls.loaders))}
        tests = {} if test is None else test if isinstance(test, dict) else {'test': test}
        if taken := sorted(loaders.keys() & tests.keys()):
            raise ValueError(f"test has the name {taken[0]!r}, which is that of a set of the Learner: choose another")
        rows = {}
        for name, dl in {**loaders, **tests}.items():
            where = dict(ds_idx=dl) if isinstance(dl, int) else dict(dl=dl)
            interp = cls.from_learner(learn, **where, **kwargs)
            rows[name] = dict(items=len(interp.ids), probabilities=interp.how['probabilities'],
                              agreement=interp.agreement, noise_rate=interp.noise_rate,
                              n_issues=len(interp.noisy_idxs()), worst_pairs=interp._worst())
        worst = pd.Series({name: o.pop('worst_pairs') for name, o in rows.items()}, dtype=object)
        return pd.DataFrame.from_dict(rows, orient='index').assign(worst_pairs=worst).rename_axis('set')

    def find_issues(self,
        filter_by=None,  # Which items are issues: one of `FILTERS`; None: prune_by_noise_rate
        score=None,  # What ranks the items, see `label_quality`; None: self-confidence, or the task's own
        **kwargs,  # Passed to `issues.find_issues`, or to the task's own function
    ) -> pd.DataFrame:
        """Make `issues` anew from the same probabilities, for this and every picture, table and file to come; returns
        it. What `audit` found stays joined."""
        kwargs |= {k: v for k, v in dict(filter_by=filter_by, score=score).items() if v is not None}
        if 'filter_by' in kwargs and self.task not in ('classification', 'multilabel'):
            raise ValueError(f"filter_by is {filter_by!r}, but {self.task} has no filters: leave it out")
        f = {'classification': find_issues, 'multilabel': find_multilabel_issues,
             'regression': find_regression_issues, 'segmentation': find_segmentation_issues}[self.task]
        if self.task != 'regression': kwargs['vocab'] = list(self.vocab)
        self.issues = f(self.given, self.probs, ids=self.ids, **kwargs)
        self.filter_by = kwargs.get('filter_by', 'prune_by_noise_rate') if 'filter_by' in inspect.signature(
            f).parameters else None
        if self.audited is not None: self._join_audit()
        return self.issues

    def noisy_idxs(self) -> np.ndarray:
        "Positions in the data set of the label issues, the likeliest first"
        return self.issues.index[self.issues.is_issue].to_numpy()

    def __getitem__(self, idxs):
        """Inputs, probabilities, targets, predictions and losses at `idxs` (positions, or a mask of all items), in that
        order, from the one inference"""
        idxs = np.asarray(list(L(idxs.tolist() if hasattr(idxs, 'tolist') else idxs)))
        if idxs.dtype == bool: idxs = np.flatnonzero(idxs)
        if not len(idxs): raise IndexError("idxs is empty: ask for at least one item")
        dl = plain_dl(self.dl, idxs, bs=len(idxs))
        order = np.argsort(list(dl.get_idxs())) if hasattr(dl, 'get_idxs') else slice(None)
        with no_random(): batch = to_cpu(next(iter(dl)))
        inps = tuple(o[order] for o in batch[:getattr(self.dl, 'n_inp', len(batch) - 1)])
        rows = (torch.as_tensor(o[idxs]) for o in (self.probs, self.given, self.predicted))
        return detuplify(inps), *rows, self.losses[idxs]

    def review(self,
        path,  # Journal of decisions (.jsonl); made where there is none
        user=None,  # The reviewer's name; None: that of the account
    ) -> ReviewSession:
        "A `ReviewSession` over `issues`: decide on them, undo, apply. One class an item; see there for what it raises"
        self._needs_classes('review')
        return ReviewSession(self.issues, path, vocab=list(self.vocab), user=user)

    def _calibrate(self, how):
        if how != 'temperature': raise ValueError(f"calibrate is {how!r}: choose 'temperature' or None")
        self._needs_classes('calibrate')
        self.how['temperature'] = fit_temperature(self.given, self.probs)
        self.probs = apply_temperature(self.probs, self.how['temperature'])
        self.losses = _losses(self.probs, self.given, self.task)


def _decode(preds, task):
    if task == 'regression': return preds
    if task == 'multilabel': return preds >= .5
    return predicted_classes(preds) if task == 'classification' else preds.argmax(1)


def _losses(preds, targs, task):
    tiny = np.finfo(np.float32).tiny
    if task == 'classification':
        return torch.as_tensor(-np.log(preds[np.arange(len(targs)), targs].clip(tiny)))
    if task == 'regression': res = np.square(preds - targs)
    elif task == 'multilabel': res = -np.log(np.where(targs, preds, 1 - preds).clip(tiny))
    else: res = -np.log(np.take_along_axis(preds, targs[:, None].clip(0, preds.shape[1] - 1), 1).clip(tiny))
    return torch.as_tensor(res.reshape(len(res), -1).mean(1))
