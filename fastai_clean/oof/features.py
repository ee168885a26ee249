"Out-of-fold predictions without training the model: linear heads on its untrained features"
from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager

import numpy as np
import torch
from fastai.learner import SkipToEpoch
from fastai.tabular.model import TabularModel
from fastcore.imports import noop
from fastprogress.fastprogress import progress_bar
from torch import nn

from ..data import plain_dl, predict
from ..data.predict import MAX_FEATURES, item_features
from .cache import load_features, save_features
from .fingerprint import features_key
from .fit import FitRecord, FoldLearner, copy_model
from .folds import FoldLearners
from .heads import held_out_heads, predict_head, standardise
from .job import fold_random
from .result import OutOfFold, set_oof

METRICS = {'classification': 'accuracy', 'multilabel': 'accuracy_multi', 'regression': 'r2'}
PASS = .8  # Share of the progress bar


class FeatureHeads:
    """Linear heads on the features that the body of a Learner had before its first fit: as cheap as
    one prediction of the training set, and as good as the body, which should be pretrained; one
    with random weights is of no use.

    The body runs once, without augmentation; the features are taken at `feature_layer`, averaged
    over positions. Then K regularised heads (`heads.held_out_heads`) are trained, each without its
    fold. Only the Learner's `oof` is changed; the global random state is not.

    Raises, before anything is trained, TypeError for masks and ValueError if there is no layer to
    take features from, besides what `FoldLearners` raises."""

    def __init__(self,
        folds: FoldLearners,  # Not fitted: only their folds, labels and model are used
        cache_dir=None,  # Folder to keep features in, found again by inputs and weights; None: none
    ):
        if folds.labels.task not in METRICS:
            raise TypeError(f"the task is {folds.labels.task}, whose items have no features: use "
                            "mode='folds'")
        self.folds = folds
        self.learn = folds.learn
        self.labels = folds.labels
        self.cache_dir = cache_dir
        self.layer, _ = feature_layer(folds.snapshot, self.learn.splitter)
        self.c = self.labels.c
        self.record = self.features = self.result = None
        self.heads = []

    def prepare(self,
        record: FitRecord,  # Record of the fit that begins
        fit: Callable | None = None,  # The function that trains, if `record` says nothing about it
    ) -> None:
        """Check that the labels are those that were split and that the model predicts; raises what
        `FoldLearners.prepare` raises"""
        self.folds.prepare(record, fit)
        if self.record is None: self.record = record

    def leave_idle(self, record: FitRecord, writing: list, looking: list) -> None:
        "As `FoldLearners.leave_idle`"
        self.folds.leave_idle(record, writing, looking)

    def follow(self,
        record: FitRecord | None = None,  # Record of a fit that ended; it changes no feature
    ) -> None:
        "Make the features and the heads if there are none yet, and set `learn.oof`"
        if record is not None: self.folds.note(record)
        if self.result is None:
            bar = _bar(hasattr(self.learn, 'progress'))
            with fold_random(self.folds.seed):
                # Features of a trained body would know the labels that they are to judge
                if self.features is None:
                    self.features = self.features_of(self.record.dls.train, bar)
                self.result = self._held_out(bar)
            bar(1)
        set_oof(self.learn, self.result)

    def run(self,
        record: FitRecord,  # The Learner as it is
        fit: Callable | None = None,  # Not needed: only heads are trained
    ) -> None:
        "Make the features and the heads, set `learn.oof`"
        self.prepare(record, fit)
        self.follow()

    def features_of(self,
        dl,  # A DataLoader of the Learner
        tick: Callable = noop,  # Called with the share of the work that is done
    ) -> np.ndarray:
        """Features (n, d) float32 of the items of `dl`, in their order, by the body as it was
        before the first fit"""
        folds = self.folds
        loaders = self.record.dls.loaders
        fold = FoldLearner(self.learn, copy_model(folds.snapshot), folds.leave_out)
        with fold.learn.added_cbs(fold.set_up(self.record, folds.fold == 0)):
            dl = plain_dl(dl, None, loaders[1] if len(loaders) > 1 else None)
            if self.c is None:
                self.c = self._predicted(fold.learn, [next(iter(dl))]).preds.shape[1]
            if self.cache_dir is None: return self._pass(fold.learn, dl, tick)

            key = features_key(fold.learn, dl, self.layer, folds.options.cache_key)
            found = load_features(self.cache_dir, key, len(dl.dataset))
            if found is None:
                found = self._pass(fold.learn, dl, tick)
                save_features(self.cache_dir, key, found)
            return found

    def _pass(self, learn, dl, tick):
        n = len(dl.dataset)
        _, layer = feature_layer(learn.model, learn.splitter)
        with _watched(layer, lambda done: tick(PASS*min(1, done/n))) as seen:
            self._predicted(learn, dl)
        found = np.zeros((0, 0), np.float32)
        if len({o.shape[1] for o in seen}) == 1: found = torch.cat(seen).numpy()
        if len(found) != n or not found.shape[1]:
            raise ValueError(f"the inputs of {self.layer} are not one row of up to {MAX_FEATURES} "
                             "features per item: use mode='folds'")
        if (bad := ~np.isfinite(found).all(1)).any():
            raise ValueError(f"the features of {bad.sum()} items are NaN or infinite: use other "
                             "weights, or mode='folds'")
        # Sorted DataLoaders give the items in an order of their own
        return found[np.argsort(list(dl.get_idxs()))] if hasattr(dl, 'get_idxs') else found

    def _predicted(self, learn, dl):
        learn.remove_cbs(SkipToEpoch)
        return predict(learn, dl, self.folds.act, self.c, self.labels.task)

    def _held_out(self, tick):
        targets, vocab, task = self.labels
        numbers = self.folds.numbers
        x = self._tensor(standardise(self.features))
        y = self._tensor(targets)
        preds = np.zeros((len(y), self.c))
        rows = []
        heads = []
        for r, fold in enumerate(numbers):
            for k, head in held_out_heads(x, y, fold, task, self.c, self.folds.seed + r):
                held_out = np.flatnonzero(fold == k)
                got = predict_head(head, x[held_out], task).numpy()
                preds[held_out] += got/len(numbers)
                heads.append(head)
                repeat = {'repeat': r} if len(numbers) > 1 else {}
                rows.append({**repeat, 'fold': k, 'items': len(held_out),
                             'penalty': float(f'{head.penalty:.3g}'),
                             METRICS[task]: agreement(got, targets[held_out], task)})
                tick(PASS + (1 - PASS)*len(heads)/self.folds.n_folds/len(numbers))
        self.heads = heads
        if task == 'regression':
            preds = preds.reshape(targets.shape)
            vocab = []
        config = {**self.folds.config, 'mode': 'features', 'layer': self.layer,
                  'n_features': x.shape[1], 'fold_metrics': rows}
        return OutOfFold(preds.astype(np.float32), targets.copy(), self.folds.fold.copy(),
                         self.folds.ids, vocab, config, task)

    def predict(self,
        dl,  # A DataLoader of items that no head was trained on
    ) -> np.ndarray:
        "Mean predictions (m, c) of the heads for the items of `dl`, in their order; float32"
        with fold_random(self.folds.seed): found = self.features_of(dl)
        x = self._tensor(standardise(found, self.features))
        preds = [predict_head(o, x, self.labels.task) for o in self.heads]
        return torch.stack(preds).mean(0).numpy()

    def _tensor(self, array):
        device = next((o.device for o in self.folds.snapshot.parameters()), None)
        return torch.from_numpy(array).to(device)


def agreement(
    preds: np.ndarray,  # Probabilities (n, c), or numbers (n,) or (n, k)
    targets: np.ndarray,  # Given targets of the task
    task: str,  # 'classification', 'multilabel' or 'regression'
) -> float:
    "Share of the given classes, or of the single labels, that are predicted; for numbers R²"
    if task == 'classification': return float((preds.argmax(1) == targets).mean())
    if task == 'multilabel': return float(((preds > .5) == targets).mean())
    targets = targets.reshape(len(targets), -1)
    spread = np.square(targets - targets.mean(0)).sum()
    return float(1 - np.square(preds.reshape(targets.shape) - targets).sum()/max(spread, 1e-12))


def feature_layer(
    model: nn.Module,
    splitter: Callable,  # The Learner's: model -> parameters, or lists of parameters
) -> tuple[str, nn.Module]:
    """Name and module of the layer at which features are taken.

    For a Hugging Face classifier that is its encoder, and the last hidden states of the tokens are
    averaged. For other models it is a linear layer, and its inputs are taken: the first one in the
    last parameter group, the head that `fine_tune` trains while the body is frozen; for a tabular
    model, which has no body, its first; for a model with one group, its last. Raises ValueError if
    the model has no linear layer."""
    modules = dict(model.named_modules())
    for name, m in modules.items():
        if hasattr(m, 'base_model_prefix') and getattr(m, 'base_model', m) is not m:
            return f'{name}.{m.base_model_prefix}'.lstrip('.'), m.base_model
    linear = [(name, m) for name, m in modules.items() if isinstance(m, nn.Linear)]
    if not linear:
        raise ValueError(f"the model, a {type(model).__name__}, has no linear layer whose inputs "
                         "could be its features: use mode='folds'")

    groups = list(splitter(model))
    # A splitter may return a flat list of parameters, in which there is no head
    split = len(groups) > 1 and not isinstance(groups[0], torch.Tensor)
    last = {id(p) for p in groups[-1]} if split else set()
    for o in linear:
        if id(o[1].weight) in last: return o
    return linear[0 if isinstance(model, TabularModel) else -1]


@contextmanager
def _watched(layer, tick):
    "A list that the features (batch, d) are added to while the model runs"
    seen = []

    def add(x):
        seen.append(x.detach().float().as_subclass(torch.Tensor).cpu())
        tick(sum(map(len, seen)))

    def hidden(_, args, kwargs, out):
        states = out.last_hidden_state
        mask = kwargs.get('attention_mask')
        # Encoders of images give (batch, channels, height, width)
        if states.ndim == 4: states = states.flatten(2).mT
        if mask is None: mask = torch.ones_like(states[..., :1])
        else: mask = mask[..., None].to(states.dtype)
        add((states*mask).sum(1)/mask.sum(1).clamp(min=1))

    def inputs(_, args): add(item_features(args[0], len(args[0])))

    if isinstance(layer, nn.Linear): handle = layer.register_forward_pre_hook(inputs)
    else: handle = layer.register_forward_hook(hidden, with_kwargs=True)
    try: yield seen
    finally: handle.remove()


def _bar(show):
    "A function that draws the share of the work that is done"
    if not show: return noop
    bar = progress_bar(range(100), leave=False)
    bar.update(0)
    return lambda share: bar.update(int(100*share))
