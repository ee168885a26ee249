"The tables of a CleanInterpretation that are more than the issue table"
from collections.abc import Mapping
from functools import cached_property
from importlib.util import find_spec
from warnings import warn

import numpy as np
import pandas as pd
import sklearn.metrics as skm
from fastcore.xtras import is_listy
from sklearn.metrics import r2_score

from ..data import predict
from ..data.predict import infer_act
from ..data.show import image_path
from ..issues import advise_filter, audit, class_health, confident_joint, find_class_issues, noise_rate, top_pairs
from .evaluate import METRICS, bootstrap_metrics


class Tables:
    "Part of CleanInterpretation: everything here reuses its predictions"

    def _needs_classes(self, name):
        if self.task != 'classification':
            raise TypeError(f"{name} needs one class an item, but these labels are of the task {self.task}: see "
                            "`issues`")

    @cached_property
    def joint(self):
        "The confident joint (c, c), see `issues.confident_joint`"
        self._needs_classes('confident_joint')
        return confident_joint(self.given, self.probs)

    @property
    def noise_rate(self):
        """Estimated fraction of wrong labels, 0 to 1; where an item has not just one class, that of flagged items. The
        mistakes of a weak model count as label errors: with one that is often wrong it is far too high."""
        if self.task != 'classification': return float(self.issues.is_issue.mean())
        return noise_rate(self.given, joint=self.joint)

    @property
    def agreement(self):
        """How far the model agrees with the given labels: the share of labels (single labels, pixels) that it predicts;
        for regression R², 1 at best. A low one means a weak model or bad labels, and no estimate here tells which."""
        if self.task == 'regression': return float(r2_score(self.given, self.predicted))
        labelled = self._labelled()
        return float(np.mean((labelled == self.predicted)[labelled >= 0]))

    def _labelled(self):
        "Given labels, those of pixels without one of the vocab made -1"
        if self.task != 'segmentation': return self.given
        return np.where((self.given >= 0) & (self.given < len(self.vocab)), self.given, -1)

    def health(self) -> pd.DataFrame:
        "`class_health` of every class, the worst first"
        self._needs_classes('health')
        return class_health(self.given, joint=self.joint, vocab=list(self.vocab))

    @property
    def health_score(self):
        "Overall label-health score, 0 to 1: the estimated share of right labels, cleanlab's from the joint alone"
        self._needs_classes('health_score')
        return 1 - self.noise_rate

    def top_pairs(self,
        n=10,  # Number of pairs; None: all
    ) -> pd.DataFrame:
        "The class pairs with most label issues: given, predicted, count, estimated error_rate; see `issues.top_pairs`"
        self._needs_classes('top_pairs')
        return top_pairs(self.given, self.predicted, self.issues.is_issue.sort_index().to_numpy(), self.joint,
                         vocab=list(self.vocab), n=n)

    def advise_filter(self):
        "Which filter fits these data, and why; see `issues.advise_filter`"
        self._needs_classes('advise_filter')
        return advise_filter(self.given, self.probs, joint=self.joint)

    def _worst(self, n=3):
        if self.task == 'classification':
            return ', '.join(f'{o.given} → {o.predicted} ({o.count})' for o in self.top_pairs(n).itertuples())
        if self.task != 'multilabel': return ''
        counts = self.issues.worst_class[self.issues.is_issue].value_counts().head(n)
        return ', '.join(f'{k} ({v})' for k, v in counts.items())

    def class_issues(self,
        **kwargs,  # Passed to `issues.find_class_issues`: filter_by, score, only_issues
    ) -> pd.DataFrame:
        "Of several labels an item, the issues one class at a time, the worst first; see `issues.find_class_issues`"
        if self.task != 'multilabel': raise TypeError(f"class_issues is for several labels an item, not {self.task}")
        return find_class_issues(self.given, self.probs, ids=self.ids, vocab=list(self.vocab), **kwargs)

    def confusion_matrix(self):
        "Counts (c, c), row: given label, column: prediction; int64, in memory of n + c^2"
        self._needs_classes('confusion_matrix')
        c = len(self.vocab)
        return np.bincount(self.given*c + self.predicted, minlength=c*c).reshape(c, c)

    def print_classification_report(self):
        "Print scikit-learn's classification report"
        self._needs_classes('print_classification_report')
        names = [str(o) for o in self.vocab]
        print(skm.classification_report(self.given, self.predicted, labels=range(len(names)), target_names=names))

    def evaluate(self,
        corrections=None,  # A person's labels, position -> label as in `vocab`; None: the flagged get the predicted
        metrics=None,  # Name -> function of true and predicted labels; None: accuracy and F1, or the task's own
        n_boot=1000,  # Bootstrap samples
        seed=42,  # Seed of the bootstrap
    ) -> pd.DataFrame:  # Columns labels, metric, value, low, high, items
        """The model's metrics on the labels as given, with the flagged items left out, and with them corrected, each
        with its 95 % bootstrap interval. Warns that leaving out, and correcting to, what the model says flatters the
        model: only `corrections` by a person make an honest test set. Raises ValueError where they fit no item or
        class."""
        if metrics is not None and not isinstance(metrics, Mapping):
            raise TypeError(f"metrics is a {type(metrics).__name__}: pass name -> function, for example "
                            "{'accuracy': sklearn.metrics.accuracy_score}")
        if corrections is not None and not isinstance(corrections, (Mapping, pd.Series)):
            raise TypeError(f"corrections is a {type(corrections).__name__}: pass a dict, position -> label")
        y, p = self._labelled(), self.predicted
        flagged = self.issues.is_issue.sort_index().to_numpy()
        fixed = np.array(y)
        if corrections is None: fixed[flagged] = np.where(y[flagged] < 0, y[flagged], p[flagged]) if (
            self.task == 'segmentation') else p[flagged]
        else:
            corrections = dict(corrections)
            if bad := [o for o in corrections if not (isinstance(o, (int, np.integer)) and 0 <= o < len(y))]:
                raise ValueError(f"corrections has the position {bad[0]!r}: pass positions 0..{len(y) - 1}")
            for i, label in corrections.items(): fixed[i] = self._encode(label)
        warn("metrics without the items that the model itself flags, or with its own predictions as labels, flatter "
             "the model: report those on the given labels, or on labels that a person corrected", stacklevel=2)
        variants = {'as given': (y, p), 'flagged left out': (y[~flagged], p[~flagged]),
                    'flagged corrected' if corrections is None else 'corrected by a person': (fixed, p)}
        return bootstrap_metrics(variants, metrics or METRICS[self.task], n_boot=n_boot, seed=seed)

    def _encode(self, label):
        if self.task == 'regression': return label
        if self.task == 'multilabel':
            names = label.split(';') if isinstance(label, str) else label
            names = [o for o in names if o != ''] if is_listy(names) or isinstance(names, (set, tuple)) else [names]
            if bad := [o for o in names if o not in self.vocab]:
                raise ValueError(f"corrections has the label {bad[0]!r}, which is not in the vocab")
            return [o in names for o in self.vocab]
        if self.task != 'classification': raise TypeError(f"corrections of {self.task} labels are not supported")
        if label not in self.vocab: raise ValueError(f"corrections has the label {label!r}, which is not in the vocab")
        return list(self.vocab).index(label)

    def audit(self,
        **kwargs,  # Passed to `issues.audit`
    ) -> pd.DataFrame:
        """What else is wrong with the data, by cleanlab's Datalab (extra `audit`): outliers, near-duplicates, class
        imbalance, items that are not drawn independently, and of image files what cleanvision, where it is installed,
        sees (dark, blurry, ...). Its columns are joined to `issues`, which is returned, with the number of issues of
        each type in `attrs['summary']`. Datalab gets the predictions and the inputs of the model's last linear layer;
        where the predictions are out-of-fold, one pass over the data makes those, once. Raises TypeError for masks."""
        if self.task == 'segmentation': raise TypeError("audit knows no masks: see `issues` for their label issues")
        if self.audited is None:
            if self.features is None:
                act = infer_act(self.learn.loss_func, self.act, self.task)
                self.features = predict(self.learn, self.dl, act, None, self.task, features=True).features
            found = len(self.ids) if find_spec('cleanvision') else 0
            paths = [image_path(self.dl.dataset, i) for i in range(found)]
            self.audited = audit(self.given, self.probs, self.features, task=self.task,
                                 paths=paths if any(paths) else None, **kwargs)
            if self.task != 'classification':
                self.audited = self.audited.drop(columns=['is_label_issue', 'label_score'])
            self._join_audit()
        return self.issues

    def _join_audit(self):
        self.issues = self.issues.join(self.audited)
        self.issues.attrs['summary'] = self.audited.attrs['summary']
