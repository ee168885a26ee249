"What training reveals about its items: a record of every epoch, and the scores made from it"
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd

from ._files import load_arrays, save_arrays
from ._rows import check_same_labels
from .issues import find_issues, label_quality
from .issues.checks import of_classes
from .issues.classification import with_names
from .issues.columns import Score, any_score, check_choice

DYNAMICS_SCORES = ('aum', 'mean_prob', 'forgetting', 'data_map', 'ensemble')
ARRAYS = 'probs', 'margins', 'pred_probs', 'targets', 'samples'


class Dynamics:
    """Training dynamics of n items over the recorded epochs, all in-sample: the model learned these
    very labels.

    >>> margins = np.array([[1., -2., 1., 2.], [3., -1., 2., 3.]])  # 2 epochs of 4 items
    >>> probs = 1/(1 + np.exp(-margins))
    >>> means = [[.84, .16], [.19, .81], [.19, .81], [.08, .92]]
    >>> dyn = Dynamics(probs, margins, means, [0, 0, 1, 1], vocab=['cat', 'dog'])
    >>> dyn.aum
    array([ 2. , -1.5,  1.5,  2.5])
    >>> dyn.table()[['id', 'given', 'predicted', 'label_quality']].round(2)
             id given predicted  label_quality
    position
    1         1   cat       dog           0.18
    2         2   dog       dog           0.82
    0         0   cat       cat           0.88
    3         3   dog       dog           0.92

    `probs` (epochs, n) are the probabilities of the given label, `margins` (epochs, n) its output
    minus the largest other, above 0 if it is the prediction. Both are recorded as training meets
    the item: the mean if it is met more than once in an epoch, NaN if it is not met. `pred_probs`
    (n, c) are the mean probabilities over the epochs; `targets` (n,) class indices; `ids` n texts
    that name the items; `vocab` c class names; `config` how it was made. `samples` (n,) is True for
    the threshold samples, which were trained as an extra class: their rows of `probs` and `margins`
    are about that class, and nothing is known of their own label. Raises ValueError if the lengths
    do not fit or an id is there twice, TypeError for pandas' Series and DataFrames."""

    def __init__(self,
        probs: np.ndarray,  # Probabilities of the given label (epochs, n)
        margins: np.ndarray,  # Margins (epochs, n)
        pred_probs: np.ndarray,  # Mean probabilities (n, c)
        targets: np.ndarray | Sequence[int],  # Given class indices (n,)
        samples: np.ndarray | None = None,  # Mask (n,) of the threshold samples; None: none
        ids: Sequence | None = None,  # Texts (n,) that name the items; None: their positions
        vocab: Sequence | None = None,  # Class names (c,); None: the class indices
        config: dict | None = None,  # How it was made: anything that JSON holds
    ):
        given = dict(probs=probs, margins=margins, pred_probs=pred_probs, targets=targets,
                     samples=samples, ids=ids)
        for name, values in given.items():
            # Epochs and items have no labels in common by which all of them could be lined up
            if isinstance(values, (pd.Series, pd.DataFrame)):
                raise TypeError(f"{name} is a {type(values).__name__}, whose index would be "
                                "ignored: pass all as arrays, in one order of the items")

        self.probs = np.asarray(probs)
        self.margins = np.asarray(margins)
        self.pred_probs = np.asarray(pred_probs)
        self.targets = np.asarray(targets)
        n, c = self.pred_probs.shape
        self.samples = np.zeros(n, dtype=bool) if samples is None else np.asarray(samples)
        self.ids = [str(o) for o in (range(n) if ids is None else ids)]
        if vocab is None: vocab = range(c)
        # JSON does not know numpy's numbers
        self.vocab = [o.item() if isinstance(o, np.generic) else o for o in vocab]
        self.config = dict(config or {})

        n_epoch = len(self.probs)
        for name, found, want in (('probs', self.probs.shape, (n_epoch, n)),
                                  ('margins', self.margins.shape, (n_epoch, n)),
                                  ('targets', self.targets.shape, (n,)),
                                  ('samples', self.samples.shape, (n,)),
                                  ('ids', (len(self.ids),), (n,)),
                                  ('vocab', (len(self.vocab),), (c,))):
            if found != want:
                raise ValueError(f"{name} has shape {found}, but pred_probs has shape {(n, c)}: "
                                 f"it must be {want}")
        if twice := n - len({*self.ids}):
            raise ValueError(f"ids has {twice} ids twice: give each item its own")

    def __len__(self): return len(self.pred_probs)

    def __repr__(self):
        return (f"Dynamics({len(self)} items, {len(self.vocab)} classes, {len(self.probs)} epochs, "
                f"{self.done.sum()} items met)")

    @property
    def done(self) -> np.ndarray:
        """Mask (n,) of the items whose own label the record tells something about: met in training,
        and not a sample"""
        return np.isfinite(self.margins).any(0) & ~self.samples

    @property
    def aum(self) -> np.ndarray:
        """Area under the margin (n,): its mean over the epochs, NaN if the item was not met (Pleiss
        et al., NeurIPS 2020)"""
        return _mean(self.margins)

    @property
    def confidence(self) -> np.ndarray:
        """Mean probability of the given label (n,), 0 to 1 (data maps: Swayamdipta et al., EMNLP
        2020)"""
        return _mean(self.probs)

    @property
    def variability(self) -> np.ndarray:
        "Standard deviation of the probability of the given label (n,), 0 to .5 (data maps)"
        return np.sqrt(_mean(np.square(self.probs - self.confidence)))

    @property
    def forgetting(self) -> np.ndarray:
        "`forgetting_events` of every item (n,)"
        return forgetting_events(self.margins)

    @property
    def threshold(self) -> float | None:
        """The AUM below which a label is an issue: the 99th percentile of the threshold samples'
        (Pleiss et al.), or None without samples"""
        aum = self.aum[self.samples]
        return float(np.nanpercentile(aum, 99)) if np.isfinite(aum).any() else None

    def score(self,
        score: Score = 'aum',  # One of `DYNAMICS_SCORES`, or anything that `label_quality` takes
        oof: Any = None,  # OutOfFold of the same items, for 'ensemble'
    ) -> np.ndarray:  # (n,), low if the label is likely wrong
        """Label quality from 0 to 1, in the order of the data set, for `find_issues` and
        CleanInterpretation.

        'aum': its sigmoid; 'mean_prob': `confidence`; 'forgetting': 1 if the label was never
        forgotten, 0 if it was never learned; 'data_map': `confidence` plus `variability`, at most
        1, low for what is hard to learn; 'ensemble': mean rank of 'aum' and 'mean_prob', or, given
        `oof`, of 'aum' and its self-confidence. Items that are not `done` get the median of the
        others, as there is no evidence for or against them. Raises ValueError as `label_quality`
        does, and if `oof` has other items."""
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
        # Variability alone changes its sign once the model has memorised the labels
        if name == 'data_map': return (self.confidence + self.variability).clip(max=1)
        return 1 - self.forgetting/np.isfinite(self.margins).sum(0).clip(1)

    def _fill(self, values):
        if not self.done.any():
            raise ValueError("no item was met in training: train for at least one epoch")
        return np.where(self.done, values, np.median(values[self.done]))

    def _self_confidence(self, oof):
        if oof.ids != self.ids:
            raise ValueError(f"oof holds {len(oof)} items, which are not the {len(self)} of the "
                             "training dynamics: pass the OutOfFold of the same training set")
        # An OutOfFold made without a vocab has the class indices in its place
        names = self.vocab if oof.vocab == list(range(len(self.vocab))) else oof.vocab
        check_same_labels(self.ids, [self.vocab[k] for k in self.targets],
                          [names[k] for k in oof.targets], 'oof', 'the training dynamics',
                          "pass the OutOfFold of the same training set")
        return label_quality(oof.targets, oof.pred_probs)

    def table(self,
        score: Score = 'aum',  # What ranks the items, see `score`
        filter_by: str = 'auto',  # Which items are issues: one of `FILTERS`
        oof: Any = None,  # OutOfFold of the same items, for the score 'ensemble'
        **kwargs,  # Passed to `find_issues`
    ) -> pd.DataFrame:  # Columns id, given, predicted, confidence, label_quality, is_issue
        """The issue table, as `find_issues` makes it of the mean probabilities: worst first,
        indexed by position, one row per item that is `done`.

        With threshold samples and the score 'aum', the issues are the items whose AUM is below
        `threshold`. The probabilities are in-sample: once the model has memorised the labels the
        order stays good, but few items are flagged."""
        values = self.score(score, oof)
        at = np.flatnonzero(self.done)
        if (num := kwargs.get('num_to_remove_per_class')) is not None:
            kwargs['num_to_remove_per_class'] = of_classes(num, self.vocab)
        df = find_issues(self.targets[at], self.pred_probs[at], filter_by, values[at],
                         ids=[self.ids[i] for i in at], **kwargs)
        df = with_names(df, self.vocab)
        # `find_issues` counted the positions among the items that are done
        df.index = pd.Index(at[df.index], name=df.index.name)
        if self.threshold is not None and isinstance(score, str) and score == 'aum':
            df['is_issue'] = self.aum[df.index] < self.threshold
        return df

    def save(self,
        path: str | Path,  # Folder to make
        overwrite: bool = False,  # Whether to replace Dynamics saved there before
    ) -> Path:
        """Write .npy and .json files, never a pickle, into the new folder `path`, which appears
        whole or not at all.

        Raises FileExistsError if `path` holds something else, or holds Dynamics and `overwrite` is
        False, and TypeError if a name of the vocab is not text, a number or a boolean."""
        meta = dict(format=1, ids=self.ids, vocab=self.vocab, config=self.config)
        arrays = {o: getattr(self, o) for o in ARRAYS}
        return save_arrays(path, 'Dynamics', 'dynamics.json', arrays, meta, overwrite)

    @classmethod
    def load(cls,
        path: str | Path,  # Folder that `save` made
    ) -> 'Dynamics':
        """Read what `save` wrote. Raises a FileNotFoundError or ValueError that names what is
        missing or does not fit"""
        arrays, meta = load_arrays(path, 'Dynamics', 'dynamics.json', ARRAYS)
        return cls(**arrays, **{o: meta[o] for o in ('ids', 'vocab', 'config')})


def margin(
    outputs: np.ndarray,  # Outputs of a model (n, c): logits, or log-probabilities
    labels: np.ndarray,  # Class indices (n,)
) -> np.ndarray:  # (n,)
    "The output of the label minus the largest other one (Pleiss et al., NeurIPS 2020)"
    rest = np.array(outputs)
    rows = np.arange(len(labels))
    given = rest[rows, labels]
    rest[rows, labels] = -np.inf
    return given - rest.max(1)


def forgetting_events(
    margins: np.ndarray,  # Margins (epochs, n), NaN if the item was not met
) -> np.ndarray:  # (n,) integers
    """How often the label was predicted (a margin above 0) when the item was met, but not the next
    time (Toneva et al., ICLR 2019)."""
    met = np.isfinite(margins)
    right = np.asarray(margins) > 0
    last = np.zeros(met.shape[1], dtype=bool)
    learned = np.zeros(met.shape[1], dtype=bool)
    events = np.zeros(met.shape[1], dtype=int)
    for there, now in zip(met, right):
        events += there & last & ~now
        last = np.where(there, now, last)
        learned = learned | now
    # Items never learned would count as never forgotten, so they count as forgotten every time, as
    # in the authors' code
    return np.where(learned, events, met.sum(0))


def _mean(x):
    "Mean over the epochs (n,) of what is not NaN; NaN if there is nothing"
    met = np.isfinite(x)
    # Not np.nanmean, which warns of every item that was not met
    return np.divide(np.where(met, x, 0).sum(0), met.sum(0), out=np.full(x.shape[1], np.nan),
                     where=met.any(0))


# Learner -> its Dynamics. Kept beside the Learner, so that `learn.export()` does not pickle them,
# and in weak references, so that they vanish with it
_dynamics: WeakKeyDictionary = WeakKeyDictionary()


def dynamics_of(
    learn: Any,  # A Learner
) -> Dynamics | None:
    "The Dynamics of the training set of `learn`, as `learn.dynamics` gives it"
    # Without fastai_clean.learner, `learn.dynamics = ...` sets a plain attribute: take it
    return vars(learn).get('dynamics', _dynamics.get(learn))


def set_dynamics(
    learn: Any,  # A Learner
    value: Dynamics | None,  # Its Dynamics; None: forget them
) -> None:
    "Set `learn.dynamics`. Raises TypeError for anything other than Dynamics or None"
    vars(learn).pop('dynamics', None)
    if value is None: _dynamics.pop(learn, None)
    elif isinstance(value, Dynamics): _dynamics[learn] = value
    else:
        raise TypeError(f"dynamics is a {type(value).__name__}: set Dynamics, for example "
                        "Dynamics.load(path)")
