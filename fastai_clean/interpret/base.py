"CleanInterpretation: rank, show and export the label issues of a Learner's data"
import inspect
import os
from pathlib import Path
from uuid import uuid4
from warnings import warn

import numpy as np
import pandas as pd
import sklearn.metrics as skm
import torch
from fastai.data.core import Datasets
from fastai.interpret import ClassificationInterpretation, Interpretation
from fastai.tabular.core import Tabular
from fastai.text.core import BOS, PAD, TK_MAJ, TK_REP, TK_UP, TK_WREP
from fastai.torch_core import to_cpu
from fastcore.basics import detuplify
from fastcore.foundation import L
from fastcore.xtras import is_listy

from ..checks import check_labels_probs, infer_act
from ..folds import item_ids, labels_of, plain_dl, predict
from ..issues import find_issues, noise_rate
from ..plots import plot_items

__all__ = ['CleanInterpretation']


class CleanInterpretation(ClassificationInterpretation):
    """Ranks, shows and exports the items of a data set whose labels look wrong.

    One inference, in `from_learner`, or none where out-of-fold probabilities are there; every table and plot reuses
    its `preds` (n, c), `targs` (n,), `decoded` (n,) and `losses` (n,), which follow the data set's order. `issues` is
    the table of `find_issues`. Everything of fastai's ClassificationInterpretation works on it; items are loaded
    without augmentation."""

    def __init__(self,
        learn,  # The Learner
        dl,  # DataLoader over the data set, neither shuffled nor augmented
        losses,  # Losses (n,)
        act=None,  # Activation that was used
        preds=None,  # Probabilities (n, c)
        targs=None,  # Given class indices (n,)
        vocab=None,  # Class names (c,); None: the class indices
        filter_by='prune_by_noise_rate',  # Which items are issues: one of `FILTERS`
        score='self_confidence',  # What ranks the items: one of `SCORES`
    ):
        Interpretation.__init__(self, learn, dl, losses, act)
        targs, preds = check_labels_probs(targs, preds)
        self.preds, self.targs, self.decoded = map(torch.as_tensor, (preds, targs, preds.argmax(1)))
        self.vocab = L(range(preds.shape[1]) if vocab is None else vocab)
        self.items = item_ids(dl.dataset, learn.path)
        self.find_issues(filter_by, score)

    @classmethod
    def from_learner(cls,
        learn,  # A trained Learner
        ds_idx=None,  # 0: training set, 1: validation set; None: training where `learn.oof` is there, else validation
        dl=None,  # Labelled DataLoader, such as `learn.dls.test_dl(items, with_labels=True)`, instead of `ds_idx`
        act=None,  # Activation that turns outputs into probabilities; None: the loss's
        filter_by='prune_by_noise_rate',  # Which items are issues: one of `FILTERS`
        score='self_confidence',  # What ranks the items: one of `SCORES`
    ):
        """Predict a data set once, or take `learn.oof` for the training set; losses are then -log p(given), as they are
        for a loss function that cannot give one an item.

        The training set without out-of-fold probabilities is allowed, with a warning: a network has learned its wrong
        labels. Raises ValueError where the data set is missing or not that of `learn.oof`, TypeError where it has no
        labels."""
        if dl is learn.dls.train: ds_idx, dl = 0, None
        oof = learn.oof if dl is None and ds_idx in (None, 0) else None
        if dl is None:
            if ds_idx is None: ds_idx = 0 if oof is not None else 1
            if not -len(learn.dls.loaders) <= ds_idx < len(learn.dls.loaders):
                raise ValueError(f"ds_idx is {ds_idx}, but the Learner has {len(learn.dls.loaders)} data sets: choose "
                                 "one of them, or train with ConfidentLearningCallback to check the training set")
            dl = learn.dls[ds_idx]
        targs, vocab = labels_of(dl)
        kw = dict(act=act, targs=targs, vocab=vocab, filter_by=filter_by, score=score)
        dl = plain_dl(dl, like=learn.dls[1] if ds_idx == 0 and len(learn.dls.loaders) > 1 else None)
        if oof is not None:
            _check_oof(oof, targs, item_ids(dl.dataset, learn.path))
            return cls(learn, dl, _log_losses(oof.pred_probs, targs), preds=oof.pred_probs, **kw)
        if ds_idx == 0:
            warn("the Learner has no out-of-fold probabilities (learn.oof): these are in-sample, from a model that has "
                 "learned the wrong labels too; train with ConfidentLearningCallback to find more", stacklevel=2)
        kw['act'] = infer_act(learn.loss_func, act)
        loss_func = learn.loss_func
        with_loss = hasattr(loss_func, 'reduction') or 'reduction' in inspect.signature(loss_func).parameters
        preds, losses = predict(learn, dl, kw['act'], vocab and len(vocab), with_loss)
        return cls(learn, dl, losses[0] if losses else _log_losses(preds, targs), preds=preds, **kw)

    def find_issues(self,
        filter_by='prune_by_noise_rate',  # Which items are issues: one of `FILTERS`
        score='self_confidence',  # What ranks the items: one of `SCORES`
        **kwargs,  # Passed to `issues.find_issues`
    ) -> pd.DataFrame:
        "Make `issues` anew from the same probabilities; returns it"
        self.issues = find_issues(self.targs.numpy(), self.preds.numpy(), filter_by, score, items=self.items,
                                  vocab=list(self.vocab), **kwargs)
        return self.issues

    def noisy_idxs(self) -> np.ndarray:
        "Positions in the data set of the label issues, the likeliest first"
        return self.issues.index[self.issues.is_issue].to_numpy()

    @property
    def noise_rate(self):
        "Estimated fraction of wrong labels, 0 to 1"
        return noise_rate(self.targs.numpy(), self.preds.numpy())

    def plot_noisy(self,
        k=9,  # Number of items
        **kwargs,  # Passed to `plot_items`: ncols, figsize
    ) -> np.ndarray:  # Axes, one an item
        """Show the `k` likeliest label issues, fewer where fewer were found, with given and predicted label, the
        prediction's confidence and the given label's quality. Warns where none was found; k < 1 raises ValueError."""
        if k < 1: raise ValueError(f"k is {k}: show at least 1 item")
        rows = self.issues[self.issues.is_issue].head(k)
        if not len(rows):
            warn("no label issues were found: there is nothing to show; `issues` ranks all items", stacklevel=2)
            return np.empty(0, dtype=object)
        titles = [f"given {_short(o.given)} → predicted {_short(o.predicted)}\nconfidence {o.confidence:.2f}  "
                  f"quality {o.label_quality:.3f}" for o in rows.itertuples()]
        return plot_items([self._shown(i) for i in rows.index], titles, **kwargs)

    def _shown(self, i):
        "Item `i` as a picture or a text"
        ds = self.dl.dataset
        if isinstance(ds, Tabular):
            row = _decoded_frame(ds.new(ds.items.iloc[[i]])).iloc[0]
            return '\n'.join(f'{name}: {row[name]}' for name in [*ds.x_names][:8])
        x, tl = (ds.tls[0][i], ds.tls[0]) if isinstance(ds, Datasets) else (ds[i][0], None)
        if hasattr(x, 'convert'): return np.asarray(x.convert('RGB'))
        if isinstance(x, torch.Tensor) and (tl is None or x.ndim > 1): return _as_image(x)
        if tl is None: return str(x)
        row = ds.items.iloc[i] if isinstance(ds.items, pd.DataFrame) else {}
        return _readable(row['text'] if 'text' in row and is_listy(row['text']) else str(tl.decode(x)).split(' '))

    def to_csv(self,
        path,  # File to write
        only_issues=True,  # Whether to leave out the items that are no issues
        overwrite=False,  # Whether to replace a file
    ) -> Path:
        """Write the worst items first: the columns of the data set's DataFrame, or path and label, then `predictions`
        and `confidence`. The full table is `issues`. Raises FileExistsError where `path` exists and not `overwrite`."""
        path = Path(path)
        if path.exists() and not overwrite:
            raise FileExistsError(f"path {path} exists: choose another or pass overwrite=True")
        rows = self.issues[self.issues.is_issue] if only_issues else self.issues
        ds, items = self.dl.dataset, getattr(self.dl.dataset, 'items', None)
        if isinstance(ds, Tabular): df = _decoded_frame(ds).iloc[rows.index]
        elif isinstance(items, pd.DataFrame):
            df = items.iloc[rows.index].map(lambda o: _readable(o) if is_listy(o) else o)
        else: df = pd.DataFrame({'path': rows.item.to_numpy(), 'label': rows.given.to_numpy()})
        df = df.assign(predictions=rows.predicted.to_numpy(), confidence=rows.confidence.to_numpy())
        tmp = path.with_name(f'.{path.name}-{uuid4().hex}')
        try:
            df.to_csv(tmp, index=False)
            os.replace(tmp, path)
        finally: tmp.unlink(missing_ok=True)
        return path

    def __getitem__(self, idxs):
        "Inputs, probabilities, targets, predictions and losses at `idxs`, from the one inference"
        idxs = list(L(idxs.tolist() if hasattr(idxs, 'tolist') else idxs))
        dl = plain_dl(self.dl, idxs)
        batches = [to_cpu(b) for b in dl]
        n_inp = getattr(self.dl, 'n_inp', len(batches[0]) - 1)
        inps = tuple(torch.cat([b[j] for b in batches]) for j in range(n_inp))
        return detuplify(inps), self.preds[idxs], self.targs[idxs], self.decoded[idxs], self.losses[idxs]

    def confusion_matrix(self):
        "Counts (c, c), row: given label, column: prediction; int64"
        c = len(self.vocab)
        return np.bincount(self.targs.numpy()*c + self.decoded.numpy(), minlength=c*c).reshape(c, c)

    def print_classification_report(self):
        "Print scikit-learn's classification report"
        c = len(self.vocab)
        names = [str(o) for o in self.vocab]
        print(skm.classification_report(self.targs, self.decoded, labels=range(c), target_names=names))


def _log_losses(probs, targs):
    p = torch.as_tensor(probs)[torch.arange(len(targs)), torch.as_tensor(targs)]
    return -p.clamp_min(torch.finfo(p.dtype).tiny).log()


def _check_oof(oof, targs, items):
    if len(oof) != len(targs) or oof.items != items:
        raise ValueError(f"learn.oof holds {len(oof)} items, which are not the {len(targs)} of the training set: "
                         "was dls changed? Set learn.oof to the OutOfFold of this training set, or to None")
    if not np.array_equal(oof.targets, targs):
        raise ValueError(f"learn.oof was made for other labels: {(oof.targets != targs).sum()} of {len(targs)} differ "
                         "from the training set's; train a new Learner with ConfidentLearningCallback")
    if not oof.done.all():
        raise ValueError(f"learn.oof lacks the folds {sorted(set(oof.fold[~oof.done].tolist()))}, which were "
                         "interrupted: finish them with the callback's resume(), or train again")


def _decoded_frame(to):
    "The DataFrame of a Tabular in the user's values"
    return to.new(to.items).decode().items


def _readable(tokens):
    "The text of fastai's tokens, its marks for capitals and repetitions undone"
    res, tokens = [], iter(map(str, tokens))
    for o in tokens:
        if o in (BOS, PAD): continue
        if o == TK_MAJ: o = next(tokens, '').capitalize()
        elif o == TK_UP: o = next(tokens, '').upper()
        elif o in (TK_REP, TK_WREP):
            n, sep = next(tokens, ''), ' ' if o == TK_WREP else ''
            o = sep.join([next(tokens, '')]*min(int(n), 100)) if n.isdecimal() else f'{o} {n}'
        res.append(o)
    return ' '.join(res)


def _as_image(x):
    x = x.detach().cpu().float()
    if x.ndim == 3 and x.shape[0] in (1, 3): x = x.permute(1, 2, 0)
    if x.ndim == 3 and x.shape[-1] == 1: x = x[..., 0]
    if x.ndim not in (2, 3): return f'tensor of shape {tuple(x.shape)}'
    lo, hi = x.min(), x.max()
    return ((x - lo)/(hi - lo).clamp_min(1e-12)).numpy()


def _short(o, n=14):
    o = str(o)
    return o if len(o) <= n else o[:n - 1] + '…'
