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

from .._files import scratch_array
from ..data import plain_dl, predict
from ..data.predict import MAX_FEATURES, item_features
from .cache import cache_folder, load_features, save_features
from .fingerprint import features_key
from .fit import FitRecord, FoldLearner, copy_model
from .folds import FoldLearners
from .heads import METRICS, held_out_preds, on_device, predict_head, standardise
from .job import fold_random
from .own_size import ImageSize, at_size, image_size
from .result import OutOfFold, set_oof

PASS = .8  # Share of the progress bar


class FeatureHeads:
    """Linear heads on the features that the body of a Learner had before its first fit: as cheap as
    one prediction of the training set, and as good as the body, which should be pretrained; one
    with random weights is of no use.

    The body runs once, without augmentation, and sees pictures at the size that it was trained at
    (`own_size.image_size`): with 224 pixels instead of 64, each costs 12 times as much, and ranks
    better. `oof.config` has both sizes. The features are taken at `feature_layer`, averaged over
    positions, and written into a memory map. Then K regularised heads are trained on them, each
    without its fold, in several rounds (`heads.held_out_preds`). Only the Learner's `oof` is
    changed; the global random state is not.

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
        self.size = image_size(self.learn, folds.snapshot, folds.options.feature_size)
        self.sizes: dict[str, list[int]] = {}
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
        # What callbacks save must not land in the folder of the user's Learner
        with (fold.own_folder(),
              fold.learn.added_cbs(fold.set_up(self.record, folds.fold == 0))):
            dl = plain_dl(dl, None, loaders[1] if len(loaders) > 1 else None)
            fold.learn.remove_cbs(SkipToEpoch)
            if self.c is None:
                batch = next(iter(dl))
                found = predict(fold.learn, [batch], folds.act, None, self.labels.task)
                self.c = found.preds.shape[1]
            try: return self._found_or_made(fold.learn, dl, tick)
            except (RuntimeError, ValueError, TypeError, AssertionError) as e:
                if self.size.wanted or self.size.pixels is None or self.features is not None: raise
                # Most models take any size, but the layers of some fit one only
                self.size = ImageSize(None, f'as the Learner gives them: at {self.size.pixels} '
                                            f'pixels, {self.size.reason}, the model fails: '
                                            f'{type(e).__name__}: {str(e)[:200]}')
                return self._found_or_made(fold.learn, dl, tick)

    def _found_or_made(self, learn, dl, tick):
        if self.cache_dir is None: return self._pass(learn, dl, tick)
        size = f' at {self.size.pixels}' if self.size.pixels else ''
        key = features_key(learn, dl, self.layer + size, self.learn.path,
                           self.folds.options.cache_key)
        found = load_features(self.cache_dir, key, len(dl.dataset))
        if found is not None:
            features, self.sizes = found
            return features
        cache_folder(self.cache_dir)
        features = self._pass(learn, dl, tick)
        save_features(self.cache_dir, key, features, self.sizes)
        return features

    def _pass(self, learn, dl, tick):
        n = len(dl.dataset)
        _, layer = feature_layer(learn.model, learn.splitter)
        # Sorted DataLoaders give the items in an order of their own
        order = np.array(list(dl.get_idxs())) if hasattr(dl, 'get_idxs') else np.arange(n)
        store = _Store(n, order, self.cache_dir, lambda done: tick(PASS*min(1, done/n)))
        with at_size(learn.model, self.size) as self.sizes, _watched(layer, store.add):
            # The predictions of many items for many classes would take more memory than all else
            predict(learn, dl, lambda out: out.new_ones(len(out), 1), 1)
        if self.size.wanted and self.size.pixels and not self.sizes:
            raise ValueError(f"feature_size is {self.size.pixels}, but the inputs are not pictures "
                             "(batch, channels, h, w): leave feature_size out")
        if not store.fits or store.done != n:
            raise ValueError(f"the inputs of {self.layer} are not one row of up to {MAX_FEATURES} "
                             "features per item: use mode='folds'")
        if store.bad:
            raise ValueError(f"the features of {store.bad} items are NaN or infinite: use other "
                             "weights, or mode='folds'")
        return store.features

    def _held_out(self, tick):
        targets, vocab, task = self.labels
        folds = self.folds
        x = on_device(standardise(self.features), self._device)
        found = held_out_preds(x, self._tensor(targets), folds.numbers, task, self.c, folds.seed,
                               folds.options.n_rounds,
                               lambda done: tick(PASS + (1 - PASS)*done))
        self.heads = found.heads
        preds = found.preds
        if task == 'regression':
            preds = preds.reshape(targets.shape)
            vocab = []
        config = {**folds.config, 'mode': 'features', 'layer': self.layer,
                  'n_features': x.shape[1], 'n_rounds': len(found.left_out),
                  'left_out': [round(o, 4) for o in found.left_out], 'fold_metrics': found.folds}
        if self.sizes:
            config.update(self.sizes, feature_size=self.size.pixels,
                          feature_size_from=self.size.reason)
        return OutOfFold(preds, targets.copy(), folds.fold.copy(), folds.ids, vocab, config, task)

    def predict(self,
        dl,  # A DataLoader of items that no head was trained on
    ) -> np.ndarray:
        "Mean predictions (m, c) of the heads for the items of `dl`, in their order; float32"
        with fold_random(self.folds.seed): found = self.features_of(dl)
        x = self._tensor(standardise(found, self.features))
        preds = [predict_head(o, x, self.labels.task) for o in self.heads]
        return torch.stack(preds).mean(0).numpy()

    @property
    def _device(self):
        return next((o.device for o in self.folds.snapshot.parameters()), torch.device('cpu'))

    def _tensor(self, array): return torch.from_numpy(array).to(self._device)


class _Store:
    "Features in a memory map that are added batch by batch; `fits` if they are a row for each item"

    def __init__(self, n, order, folder, tick):
        self.n = n
        self.order = order  # Item k of the pass is item `order[k]` of the data set
        self.folder = folder
        self.tick = tick
        self.features = np.zeros((0, 0), np.float32)
        self.done = 0
        self.bad = 0
        self.fits = n == len(order)

    def add(self, x):
        x = x.detach().float().as_subclass(torch.Tensor).cpu().numpy()
        if not self.done: self.features = scratch_array((self.n, x.shape[1]), self.folder)
        rows = self.order[self.done:self.done + len(x)]
        self.fits &= len(rows) == len(x) and 0 < x.shape[1] == self.features.shape[1]
        if not self.fits: return
        self.features[rows] = x
        self.bad += int((~np.isfinite(x).all(1)).sum())
        self.done += len(x)
        self.tick(self.done)


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
def _watched(layer, add):
    "Call `add` with the features (batch, d) while the model runs"
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
    try: yield
    finally: handle.remove()


def _bar(show):
    "A function that draws the share of the work that is done"
    if not show: return noop
    bar = progress_bar(range(100), leave=False)
    bar.update(0)
    return lambda share: bar.update(int(100*share))
