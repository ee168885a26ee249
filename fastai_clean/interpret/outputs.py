"The files of a CleanInterpretation"
import csv
from datetime import datetime
from importlib import import_module
from itertools import count
from pathlib import Path

import numpy as np
import pandas as pd
from fastai.tabular.core import Tabular
from fastcore.xtras import is_listy

from .._files import free_path, write_file
from .._images import small
from .._text import as_text
from ..data.show import decoded_frame, image_path, readable
from .report import page

FLATTERS = ('Probabilities are in-sample: the model has learned the wrong labels too, so it finds fewer of them than '
            'out-of-fold probabilities would.')
TEST = ('Leaving out, or relabelling, the items that a model dislikes flatters the model: measure it on the labels as '
        'given, or on labels that a person corrected.')

WEAK_MODEL = ('The model contradicts many of the labels. Unless it is a good model, part of that is its own mistakes, '
              'counted as label errors here: take the noise rate for too high, and look at the items.')
WEAK = .3


class Outputs:
    "Part of CleanInterpretation: files are written whole or not at all, and never over another without `overwrite`"

    def to_frame(self,
        only_issues=True,  # Whether to leave out the items that are no issues
    ) -> pd.DataFrame:
        """The worst items first: the columns of the data set's DataFrame, or path and label, then `predictions`,
        `confidence` (for regression none; `issues` is the full table, with what `audit` found) and, of texts and
        tables, `id`, the label of the row; or `predictions_1` where the person has such a column. Several labels are
        joined by ';'."""
        rows = self.issues[self.issues.is_issue] if only_issues else self.issues
        ds, items = self.dl.dataset, getattr(self.dl.dataset, 'items', None)
        if isinstance(ds, Tabular): df = decoded_frame(ds).iloc[rows.index]
        elif isinstance(items, pd.DataFrame):
            df = items.iloc[rows.index].map(lambda o: readable(o) if is_listy(o) else o)
        else: df = pd.DataFrame({'path': rows.id, 'label': _column(rows.given)}, dtype=object)
        added = {'predictions': _column(rows.predicted).to_numpy()}
        if 'confidence' in rows: added['confidence'] = rows.confidence.to_numpy()
        if isinstance(ds, Tabular) or isinstance(items, pd.DataFrame) and items.iloc[0].map(is_listy).any():
            added['id'] = rows.id.to_numpy(dtype=object)
        for name, values in added.items():
            column = pd.Series(values, df.index, dtype=object if values.dtype == object else None)
            df = df.assign(**{_free_name(name, df): column})
        return df

    def to_csv(self,
        path,  # File to write
        only_issues=True,  # Whether to leave out the items that are no issues
        overwrite=False,  # Whether to replace a file
    ) -> Path:
        """Write `to_frame` as CSV; the full table is `issues`. Raises FileExistsError where `path` exists, see
        `overwrite`."""
        return write_file(path, lambda tmp: _to_csv(self.to_frame(only_issues), tmp), overwrite)

    def to_review(self,
        path,  # File to write
        overwrite=False,  # Whether to replace a file
    ) -> Path:
        """Write all of `issues` as the CSV that `fastai_clean_review` shows, with a column `path` of the image files,
        or `text` of what else is shown of an item. Raises FileExistsError where `path` exists, see `overwrite`, and
        TypeError where there is not one class an item."""
        self._needs_classes('review')
        rows, ds = self.issues, self.dl.dataset
        files = [image_path(ds, i) for i in rows.index]
        shown = {'path': [o.as_posix() for o in files]} if all(files) else {'text': [self._said(i) for i in rows.index]}
        return write_file(path, lambda tmp: _to_csv(rows.assign(**shown), tmp), overwrite)

    def _said(self, i):
        shown = self.shown(i)
        return shown if isinstance(shown, str) else '' if isinstance(shown, np.ndarray) else str(shown)

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
        if df.columns.has_duplicates:
            raise ValueError(f"the column {df.columns[df.columns.duplicated()][0]!r} is there twice, which Parquet "
                             "cannot hold: rename one, or use to_csv")
        for name in [o for o in df if pd.api.types.is_object_dtype(df[o])]:
            df[name] = pd.Series([o if pd.api.types.is_scalar(o) and pd.isna(o) else as_text(o) for o in df[name]],
                                 df.index, dtype=object)
        return write_file(path, lambda tmp: df.to_parquet(tmp, index=False), overwrite)

    def report(self,
        path='report.html',  # File to write
        n=100,  # Number of items, the worst first
        title=None,  # Title of the page; None: by the data set
        overwrite=False,  # Whether to replace a file
    ) -> Path:
        """Write one HTML file that needs nothing else: the summary, the pictures, the `n` worst items, and how the
        probabilities were made. Raises FileExistsError where `path` exists, see `overwrite`."""
        if n < 1: raise ValueError(f"n is {n}: show at least 1 item")
        free_path(path, overwrite)
        text = page(title or f"Label report: {self.how.get('data set', 'data')}", **self._report_parts(n))
        return write_file(path, lambda tmp: tmp.write_text(text, encoding='utf-8'), overwrite)

    def _cells(self, i, row):
        "What a card of the report says of an item: audit's findings only where they are true"
        audited = () if self.audited is None else self.audited.columns
        cells = {k: v for k, v in row.items() if k not in audited}
        for k in ('given', 'predicted'):
            cells[k] = tuple(map(_number, cells[k])) if isinstance(cells[k], tuple) else _number(cells[k])
        file = image_path(self.dl.dataset, i)
        if file is not None and file.name not in str(cells['id']): cells['file'] = file.name
        also = [k[3:-6].replace('_', ' ') for k in audited if k.startswith('is_') and k != 'is_label_issue' and row[k]]
        return {**cells, 'position': str(i), **({'also': also} if also else {})}

    def _report_parts(self, n):
        rows, how = self.issues.head(n), dict(self.how)
        folds, tables, pictures, warnings = how.pop('fold_metrics', None), [], [], []
        summary = {'items': len(self.issues), 'label issues': int(self.issues.is_issue.sum())}
        if self.task == 'regression': summary['R² of the model on the given labels'] = self.agreement
        else: summary['labels the model agrees with'] = f'{self.agreement:.1%}'
        if self.task == 'classification':
            advice = self.advise_filter()
            summary |= {'classes': len(self.vocab), 'estimated noise rate': f'{self.noise_rate:.1%}',
                        'label-health score': f'{self.health_score:.3f}'}
            tables = [('Class pairs with most label issues', self.top_pairs()),
                      ('Classes, the worst first', self.health().head(25))]
            pictures = [('Confident joint: given and likely true class', self.plot_confident_joint),
                        ('Noise matrix: how each true class is labelled', self.plot_noise_matrix),
                        ('Health of the classes', self.plot_class_health),
                        ('Label quality by given class', self.plot_quality),
                        ('Confusion matrix of the model', self.plot_confusion_matrix)]
            warnings.append(f'Filter in use: {self.filter_by}; advised for these data: {advice.filter_by}. '
                            f'{advice.reason}.')
            if advice.disagreement > WEAK: warnings.append(WEAK_MODEL)
        else: pictures = [('Label quality', self.plot_quality)]
        if self.task == 'multilabel':
            tables = [('Worst single labels', self.class_issues().head(25))]
        if isinstance(folds, list) and folds:
            tables.append(('Metrics of the folds on their held-out items', pd.DataFrame(folds)))
        how |= {'made': f'{datetime.now():%Y-%m-%d %H:%M}', 'task': self.task}
        how |= {'filter': self.filter_by, 'model': type(self.learn.model).__name__}
        if self.how.get('probabilities') == 'in-sample': warnings.append(FLATTERS)
        if self.how.get('probabilities') == 'held-out': warnings.append(TEST)
        shown = [{'shown': _shrunk(self.shown(i)), 'cells': self._cells(i, o)} for i, o in rows.iterrows()]
        return dict(summary=summary, warnings=warnings, tables=tables, pictures=pictures, rows=shown, how=how)


def _number(o): return f'{o:.4g}' if isinstance(o, float) else o


def _joined(o): return ';'.join(map(str, o)) if isinstance(o, tuple) else o


def _column(values): return pd.Series([_joined(o) for o in values], values.index, dtype=values.dtype)


def _free_name(name, df):
    "`name`, or the first of name_1, name_2, ... that `df` has not"
    names = (name if i == 0 else f'{name}_{i}' for i in count())
    return next(o for o in names if o not in df)


def _to_csv(df, tmp):
    "CSV that reads back: pandas leaves a lone carriage return unquoted, which ends a row"
    stray = any(isinstance(o, str) and '\r' in o for name in df.columns for o in df[[name]].to_numpy().ravel())
    df.to_csv(tmp, index=False, errors='backslashreplace',
              quoting=csv.QUOTE_NONNUMERIC if stray else csv.QUOTE_MINIMAL)


def _shrunk(shown, size=320):
    "An image of bytes, shrunk, so that a hundred photographs fit into memory"
    if not isinstance(shown, np.ndarray) or shown.dtype != np.uint8: return shown
    return small(shown, size)
