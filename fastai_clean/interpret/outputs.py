"The files of a CleanInterpretation"
import os
from importlib import import_module
from pathlib import Path
from uuid import uuid4

import pandas as pd
from fastai.tabular.core import Tabular
from fastcore.xtras import is_listy

from .html import page
from .show import decoded_frame, readable

__all__ = ['Outputs']

FLATTERS = ('Probabilities are in-sample: the model has learned the wrong labels too, so it finds fewer of them than '
            'out-of-fold probabilities would.')
TEST = ('Leaving out, or relabelling, the items that a model dislikes flatters the model: measure it on the labels as '
        'given, or on labels that a person corrected.')


class Outputs:
    "Part of CleanInterpretation: files are written whole or not at all, and never over another without `overwrite`"

    def to_frame(self,
        only_issues=True,  # Whether to leave out the items that are no issues
    ) -> pd.DataFrame:
        """The worst items first: the columns of the data set's DataFrame, or path and label, then `predictions` and
        `confidence` (for regression none), or `predictions_1` where the person has such a column. Several labels are
        joined by ';'."""
        rows = self.issues[self.issues.is_issue] if only_issues else self.issues
        ds, items = self.dl.dataset, getattr(self.dl.dataset, 'items', None)
        if isinstance(ds, Tabular): df = decoded_frame(ds).iloc[rows.index]
        elif isinstance(items, pd.DataFrame):
            df = items.iloc[rows.index].map(lambda o: readable(o) if is_listy(o) else o)
        else: df = pd.DataFrame({'path': rows.item.to_numpy(), 'label': rows.given.map(_joined).to_numpy()})
        added = {'predictions': rows.predicted.map(_joined).to_numpy()}
        if 'confidence' in rows: added['confidence'] = rows.confidence.to_numpy()
        return df.assign(**{f'{k}_1' if k in df else k: v for k, v in added.items()})

    def to_csv(self,
        path,  # File to write
        only_issues=True,  # Whether to leave out the items that are no issues
        overwrite=False,  # Whether to replace a file
    ) -> Path:
        """Write `to_frame` as CSV; the full table is `issues`. Raises FileExistsError where `path` exists, see
        `overwrite`."""
        return _write(path, overwrite, lambda tmp: self.to_frame(only_issues).to_csv(tmp, index=False))

    def to_parquet(self,
        path,  # File to write
        only_issues=True,  # Whether to leave out the items that are no issues
        overwrite=False,  # Whether to replace a file
    ) -> Path:
        """Write `to_frame` as Parquet, columns of mixed types as text. Raises FileExistsError where `path` exists, see
        `overwrite`, and ImportError where pyarrow (extra `parquet`) is not installed."""
        try: import_module('pyarrow')
        except ImportError as e:
            raise ImportError("to_parquet needs pyarrow: pip install 'fastai_clean[parquet]'") from e
        df = self.to_frame(only_issues)
        mixed = [o for o in df if df[o].dtype == object and len(set(map(type, df[o]))) > 1 or df[o].dtype == object and
                 len(df) and isinstance(df[o].iloc[0], Path)]
        return _write(path, overwrite, lambda tmp: df.astype(dict.fromkeys(mixed, str)).to_parquet(tmp, index=False))

    def report(self,
        path='report.html',  # File to write
        n=100,  # Number of items, the worst first
        title='Label report',  # Title of the page
        overwrite=False,  # Whether to replace a file
    ) -> Path:
        """Write one HTML file that needs nothing else: the summary, the pictures, the `n` worst items, and how the
        probabilities were made. Raises FileExistsError where `path` exists, see `overwrite`."""
        path = Path(path)
        if path.exists() and not overwrite: raise _exists(path)
        text = page(title, **self._report_parts(n))
        return _write(path, overwrite, lambda tmp: tmp.write_text(text, encoding='utf-8'))

    def _report_parts(self, n):
        rows, how = self.issues.head(n), dict(self.how)
        folds, tables, pictures, warnings = how.pop('fold_metrics', None), [], [], []
        summary = {'items': len(self.issues), 'label issues': int(self.issues.is_issue.sum()),
                   'estimated noise rate': f'{self.noise_rate:.1%}', 'probabilities': self.how.get('probabilities', '')}
        if self.task == 'classification':
            advice = self.advise_filter()
            summary |= {'classes': len(self.vocab), 'label-health score': f'{self.health_score:.3f}'}
            tables = [('Class pairs with most label issues', self.top_pairs()),
                      ('Classes, the worst first', self.health().head(25).reset_index())]
            pictures = [('Confident joint: given and likely true class', self.plot_confident_joint),
                        ('Noise matrix: how each true class is labelled', self.plot_noise_matrix),
                        ('Health of the classes', self.plot_class_health),
                        ('Label quality by given class', self.plot_quality),
                        ('Confusion matrix of the model', self.plot_confusion_matrix)]
            warnings.append(f'Filter in use: {self.filter_by}; advised for these data: {advice.filter_by}. '
                            f'{advice.reason}.')
        if self.task == 'multilabel':
            tables = [('Worst single labels', self.class_issues().head(25))]
        if folds: tables.append(('Metrics of the folds on their held-out items', pd.DataFrame(folds)))
        how |= {'task': self.task, 'filter': self.filter_by, 'model': type(self.learn.model).__name__}
        if self.how.get('probabilities') == 'in-sample': warnings.append(FLATTERS)
        if self.how.get('probabilities') == 'held-out': warnings.append(TEST)
        cells = [{k: v for k, v in o._asdict().items() if k != 'Index'} for o in rows.itertuples()]
        shown = [{'shown': self.shown(i), 'cells': o} for i, o in zip(rows.index, cells)]
        return dict(summary=summary, warnings=warnings, tables=tables, pictures=pictures, rows=shown, how=how)


def _joined(o): return ';'.join(map(str, o)) if isinstance(o, tuple) else o


def _exists(path): return FileExistsError(f"path {path} exists: choose another or pass overwrite=True")


def _write(path, overwrite, write):
    path = Path(path)
    if path.exists() and not overwrite: raise _exists(path)
    tmp = path.with_name(f'.{path.name}-{uuid4().hex}')
    try:
        write(tmp)
        os.replace(tmp, path)
    finally: tmp.unlink(missing_ok=True)
    return path
