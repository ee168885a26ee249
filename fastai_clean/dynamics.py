"What training tells of its items: the record of every epoch, and the scores made from it"
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd

from ._files import load_arrays, save_arrays
from .issues import find_issues, label_quality
from .issues.columns import any_score, check_choice

DYNAMICS_SCORES = ('aum', 'mean_prob', 'forgetting', 'data_map', 'ensemble')


class Dynamics:
    """Training dynamics of n items over the recorded epochs, all in-sample: the model learned these very labels.

    `probs` (epochs, n): probability of the given label; `margins` (epochs, n): its output minus the largest other,
    above 0 where it is the prediction; both as the item was met in training, the mean where it was met more than once
    in an epoch, NaN where it was not met. `pred_probs` (n, c): mean probabilities over the epochs; `targets` (n,) class
    indices; `items` n stable names; `vocab` c class names; `config` how it was made. `samples` (n,): True for the
    threshold samples, which were trained as an extra class: their rows of `probs` and `margins` speak of that class,
    and nothing is known of their own label. Raises ValueError where the lengths do not fit."""

    def __init__(self,
        probs,  # Probabilities of the given label (epochs, n)
        margins,  # Margins (epochs, n)
        pred_probs,  # Mean probabilities (n, c)
        targets,  # Given class indices (n,)
        samples=None,  # Boolean mask (n,) of the threshold samples; None: there are none
        ids=None,  # Stable names of the items (n,); None: their positions
        vocab=None,  # Class names (c,); None: the class indices
        config=None,  # How it was made: anything that JSON holds
    ):
        self.probs, self.margins, self.pred_probs = np.asarray(probs), np.asarray(margins), np.asarray(pred_probs)
        n, c = self.pred_probs.shape
        self.targets = np.asarray(targets)
        self.samples = np.zeros(n, dtype=bool) if samples is None else np.asarray(samples)
        self.ids = [str(i) for i in range(n)] if ids is None else [str(o) for o in ids]
        self.vocab = list(range(c)) if vocab is None else [o.item() if isinstance(o, np.generic) else o for o in vocab]
        self.config = dict(config or {})
        shape = (self.probs.shape[0], n)
        for name, found, want in (('probs', self.probs.shape, shape), ('margins', self.margins.shape, shape),
                                  ('targets', self.targets.shape, (n,)), ('samples', self.samples.shape, (n,)),
                                  ('ids', (len(self.ids),), (n,)), ('vocab', (len(self.vocab),), (c,))):
            if found != want:
                raise ValueError(f"{name} has shape {found}, but pred_probs has shape {(n, c)}: it must be {want}")

    def __len__(self): return len(self.pred_probs)

    def __repr__(self):
        return (f"Dynamics({len(self)} items, {len(self.vocab)} classes, {len(self.probs)} epochs, {self.done.sum()} "
                "items met)")

    @property
    def done(self):
        "Boolean mask (n,) of the items of whose own label something is known: met in training, and no sample"
        return np.isfinite(self.margins).any(0) & ~self.samples

    @property
    def aum(self):
        "Area under the margin (n,), the mean margin over the epochs (Pleiss et al., NeurIPS 2020); NaN where not met"
        return _mean(self.margins)

    @property
    def confidence(self):
        "Mean probability of the given label (n,), 0 to 1 (data maps: Swayamdipta et al., EMNLP 2020)"
        return _mean(self.probs)

    @property
    def variability(self):
        "Standard deviation of the probability of the given label (n,), 0 to .5 (data maps)"
        return np.sqrt(_mean(np.square(self.probs - self.confidence)))

    @property
    def forgetting(self):
        "`forgetting_events` of every item (n,)"
        return forgetting_events(self.margins)

    @property
    def threshold(self):
        """The AUM below which a label is an issue: the 99th percentile of the threshold samples' (Pleiss et al.), or
        None without samples"""
        aum = self.aum[self.samples]
        return float(np.nanpercentile(aum, 99)) if np.isfinite(aum).any() else None

    def score(self,
        score='aum',  # One of `DYNAMICS_SCORES`, or what else `label_quality` takes: a list, scores (n,), a function
        oof=None,  # OutOfFold of the same items, which 'ensemble' joins
    ) -> np.ndarray:  # (n,), low where the label is likely wrong
        """Label quality from 0 to 1, in the order of the data set, for `find_issues` and CleanInterpretation.

        'aum': its sigmoid; 'mean_prob': `confidence`; 'forgetting': 1 where the label was never forgotten, 0 where it
        was never learned; 'data_map': `confidence` plus `variability`, at most 1, low for what is hard to learn
        (variability alone changes its sign once the model knows the labels by heart); 'ensemble': mean rank of 'aum'
        and 'mean_prob', and where `oof` is given of 'aum' and its self-confidence. Items that are not `done` get the
        median of the others: nothing speaks against them, nor for them. Raises ValueError as `label_quality` does, and
        where `oof` has other items."""
        def named(name):
            check_choice('score', name, DYNAMICS_SCORES)
            if name == 'ensemble':
                other = 'mean_prob' if oof is None else self._self_confidence(oof)
                return any_score(['aum', other], named, self.targets, self.pred_probs)
            return self._fill(self._named(name))
        return any_score(score, named, self.targets, self.pred_probs)

    def _named(self, name):
        if name == 'aum': return .5*(1 + np.tanh(.5*self.aum.astype(float)))
        if name == 'mean_prob': return self.confidence.astype(float)
        if name == 'data_map': return (self.confidence + self.variability).clip(max=1)
        return 1 - self.forgetting/np.isfinite(self.margins).sum(0).clip(1)

    def _fill(self, values):
        if not self.done.any(): raise ValueError("no item was met in training: train for an epoch at least")
        return np.where(self.done, values, np.median(values[self.done]))

    def _self_confidence(self, oof):
        if oof.ids != self.ids:
            raise ValueError(f"oof holds {len(oof)} items, which are not the {len(self)} of the training dynamics: "
                             "pass the OutOfFold of the same training set")
        return label_quality(oof.targets, oof.pred_probs)

    def table(self,
        score='aum',  # What ranks the items, see `score`
        filter_by='prune_by_noise_rate',  # Which items are issues, of the mean probabilities: one of `FILTERS`
        oof=None,  # OutOfFold of the same items, which the score 'ensemble' joins
        **kwargs,  # Passed to `find_issues`
    ) -> pd.DataFrame:  # Columns id, given, predicted, confidence, label_quality, is_issue; a row an item `done`
        """The issue table, as `find_issues` makes it of the mean probabilities: worst first, indexed by position,
        without the items that are not `done`. With threshold samples and the score 'aum', the issues are the items
        whose AUM is below `threshold`. The probabilities are in-sample: once the model knows the labels by heart the
        order stays good, but few items are flagged."""
        values, at = self.score(score, oof), np.flatnonzero(self.done)
        df = find_issues(self.targets[at], self.pred_probs[at], filter_by, values[at], vocab=self.vocab,
                         ids=[self.ids[i] for i in at], **kwargs)
        df.index = pd.Index(at[df.index], name=df.index.name)
        if self.threshold is not None and isinstance(score, str) and score == 'aum':
            df['is_issue'] = self.aum[df.index] < self.threshold
        return df

    def save(self,
        path,  # Folder to make
        overwrite=False,  # Whether to replace Dynamics saved there before
    ) -> Path:
        """Write .npy and .json files, never a pickle, into the new folder `path`, which appears whole or not at all.

        Raises FileExistsError where `path` holds something else, or holds Dynamics and `overwrite` is False, and
        TypeError where a name of the vocab is not text, a number or a boolean."""
        meta = dict(format=1, ids=self.ids, vocab=self.vocab, config=self.config)
        return save_arrays(path, 'Dynamics', 'dynamics.json', {o: getattr(self, o) for o in _ARRAYS}, meta, overwrite)

    @classmethod
    def load(cls,
        path,  # Folder that `save` made
    ):
        "Read what `save` wrote. Raises FileNotFoundError or ValueError that name what is missing or does not fit"
        arrays, meta = load_arrays(path, 'Dynamics', 'dynamics.json', _ARRAYS)
        return cls(**arrays, **{o: meta[o] for o in ('ids', 'vocab', 'config')})


def margin(
    outputs,  # Outputs of a model (n, c): logits, or log-probabilities
    labels,  # Class indices (n,)
) -> np.ndarray:  # (n,)
    "The output of the label minus the largest other one (Pleiss et al., NeurIPS 2020)"
    rest, rows = np.array(outputs), np.arange(len(labels))
    given = rest[rows, labels]
    rest[rows, labels] = -np.inf
    return given - rest.max(1)


def forgetting_events(
    margins,  # Margins (epochs, n), above 0 where the label is the prediction, NaN where the item was not met
) -> np.ndarray:  # (n,) integers
    """How often the label was predicted when the item was met, and no longer when it was met next (Toneva et al., ICLR
    2019). An item whose label was never predicted counts as forgotten every time that it was met, as in their code."""
    met, right = np.isfinite(margins), np.asarray(margins) > 0
    (last, learned), events = np.zeros((2, met.shape[1]), dtype=bool), np.zeros(met.shape[1], dtype=int)
    for there, now in zip(met, right):
        events += there & last & ~now
        last = np.where(there, now, last)
        learned = learned | now
    return np.where(learned, events, met.sum(0))


def _mean(x):
    "Mean over the epochs (n,), of what is not NaN; NaN where there is nothing"
    met = np.isfinite(x)
    return np.divide(np.where(met, x, 0).sum(0), met.sum(0), out=np.full(x.shape[1], np.nan), where=met.any(0))


_ARRAYS = 'probs', 'margins', 'pred_probs', 'targets', 'samples'


_dynamics = WeakKeyDictionary()


def dynamics_of(
    learn,  # A Learner
) -> Dynamics | None:
    "The Dynamics of the training set of `learn`, as `learn.dynamics` gives it"
    return _dynamics.get(learn)


def set_dynamics(
    learn,  # A Learner
    value,  # Dynamics; None: forget them
):
    "Set `learn.dynamics`. It is kept beside the Learner, so that `learn.export()` leaves it out"
    if value is None: _dynamics.pop(learn, None)
    elif isinstance(value, Dynamics): _dynamics[learn] = value
    else: raise TypeError(f"dynamics is a {type(value).__name__}: set Dynamics, for example Dynamics.load(path)")
