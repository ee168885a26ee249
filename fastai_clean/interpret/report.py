"""The HTML report: one file that needs no network, runs no script and shows data as text.

`report.html.jinja` is the page and `report.css` its looks. Every value that the template writes
goes through `_safe_text` and then through jinja2's autoescape, whether or not the template asks for
it: markup in the data stays text, and nothing in it can reorder or hide the text around it."""
import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache, partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from .._images import Unreadable, encoded, small, thumbnail
from .._text import capital, neutral
from ..data.show import image_path
from .reviewed import as_estimate
from .tables import class_issues, health, top_pairs

if TYPE_CHECKING:
    from ..review import ReviewSession
    from ..review.estimate import Estimate
    from .base import CleanInterpretation

# Numbers in these columns are names: the class 2019 is not 2,019
NAMES = {'id', 'given', 'predicted', 'label', 'class', 'true', 'path', 'position'}
MAX_TEXT = 600  # Characters of an item's text
MAX_LINES = 16  # Lines of it
MAX_CELL = 160  # Characters of any other value
MAX_LIST = 20  # Values of a list
MAX_TABLE = 200  # Rows of a table
DPI = 144  # Of pictures: one and a half times what a screen shows
WEAK = .3  # A model that contradicts a larger share of the labels than this is called weak

FLATTERS = ('Probabilities are in-sample: the model has learned the wrong labels too, so it finds '
            'fewer of them than out-of-fold probabilities would.')
TEST = ('Leaving out, or relabelling, the items that a model disagrees with flatters the model: '
        'measure it on the labels as given, or on labels that a reviewer corrected.')
WEAK_MODEL = ('The model contradicts many of the labels. Unless it is a good model, some of these '
              'are its own mistakes, counted as label errors here: assume that the noise rate is '
              'too high, and look at the items.')


def page(
    title: Any,  # Heading of the page
    *,
    summary: Mapping,  # Figures at its top: name -> str, int or float
    warnings: Sequence[str] = (),  # Sentences shown as notices
    tables: Sequence[tuple[str, pd.DataFrame]] = (),  # (caption, table); a named index is shown
    pictures: Sequence[tuple[str, Callable]] = (),  # (caption, function that returns Axes)
    rows: Sequence[Mapping] = (),  # Worst items first: `shown`, see `pictures.shown`, and `cells`
    how: Mapping | None = None,  # How the probabilities were made: name -> value
) -> str:  # A whole HTML document, which UTF-8 can hold
    """The report as one page without scripts or links, whose policy forbids it to load anything.

    Every value is shown as text: markup is escaped, what could reorder or hide text around it is
    replaced by U+FFFD. Pictures are charts: they are drawn on white, which a dark screen inverts,
    and their figures closed. Values in columns such as `given` and `id` are names and stay as they
    are; other numbers are written as .913 and 1,437, missing ones as –. An image that cannot be
    drawn gives a placeholder with the reason. Raises TypeError for a table that is not a
    DataFrame."""
    return _template().render(
        title=title, summary=summary, warnings=warnings, how=how or {},
        pictures=[(caption, _drawn(f)) for caption, f in pictures],
        tables=[_table(caption, df) for caption, df in tables],
        cards=[_card(o['shown'], o['cells']) for o in rows])


@lru_cache(maxsize=1)
def _template():
    env = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True,
                      finalize=_safe_text, undefined=StrictUndefined, trim_blocks=True,
                      lstrip_blocks=True)
    env.filters.update(values=_values, cut=_cut)
    env.globals.update(names=NAMES, max_text=MAX_TEXT)
    return env.get_template('report.html.jinja')


def _safe_text(o):
    "What the template writes in place of `o`, before it is escaped"
    # What has `__html__` comes from a macro of the template, whose data went through here already
    if not isinstance(o, str) or hasattr(o, '__html__'): return o
    return neutral(o.replace('\r\n', '\n'))


def _values(value, n=MAX_CELL, name=False):
    "The texts that stand for `value`: one, or several of a list"
    # `tolist` would turn numpy's dates into numbers of nanoseconds
    dated = isinstance(value, (np.datetime64, np.timedelta64))
    if hasattr(value, 'tolist') and not dated: value = value.tolist()
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes, dict)):
        values = list(value)
        texts = [text for o in values[:MAX_LIST] for text in _values(o, n, name)]
        if len(values) > MAX_LIST: texts.append(f'… ({len(values):,})')
        return texts or _values(None)
    return [_cut(str(value) if name and not _is_missing(value) else _written(value), n)]


def _cut(o, n=MAX_CELL):
    text = str(o)
    return text if len(text) <= n else f'{text[:n]}… ({len(text):,} characters)'


def _written(value):
    "A value as people write it: 1,437 and .913"
    if _is_missing(value): return '–'
    if isinstance(value, bool): return 'yes' if value else 'no'
    if isinstance(value, int): return f'{value:,}'
    if not isinstance(value, float): return str(value)
    size = abs(value)
    if 0 < size < .0005: return '<.001' if value > 0 else '>−.001'
    digits = 3 - sum(size >= o for o in (10, 100, 1000))
    text = f'{size:,.{digits}f}' if size < 1e15 else f'{size:g}'
    return '−'*(value < 0) + (text[1:] if text.startswith('0.') else text)


def _is_missing(value):
    return value is None or (pd.api.types.is_scalar(value) and bool(pd.isna(value)))


def _table(caption, df):
    if not isinstance(df, pd.DataFrame):
        raise TypeError(f"tables has a {type(df).__name__} under {str(caption)[:80]!r}: pass a "
                        "pandas DataFrame")
    numeric = pd.api.types.is_numeric_dtype
    columns = [(c, numeric(o) and c not in NAMES) for c, o in df.dtypes.items()]
    return dict(caption=caption, columns=columns, index=df.index.name,
                indexed=not isinstance(df.index, pd.RangeIndex) or df.index.name is not None,
                rows=df.head(MAX_TABLE).itertuples(name=None), more=max(0, len(df) - MAX_TABLE))


def _drawn(f):
    "The picture as a dict of its `uri` and size in CSS pixels; None if there are no Axes"
    # The user's own style may be that of a dark notebook, and report.css inverts what is white
    style = {o: plt.rcParamsDefault[o] for o in plt.style.library['dark_background']}
    before = set(plt.get_fignums())
    file = BytesIO()
    try:
        with plt.ioff(), plt.style.context(style):
            axes = [o for o in np.ravel(f()) if o is not None]
            if not axes: return None
            # Not bbox_inches='tight', which draws twice: the layouts leave no wide margins
            axes[0].figure.canvas.figure.savefig(file, format='png', dpi=DPI)
    finally:
        for n in set(plt.get_fignums()) - before: plt.close(n)
    im = Image.open(file).convert('RGB')
    # Charts have few colours, so a palette takes fewer bytes
    few = im.quantize(256) if im.getcolors(4096) else im
    width, height = (round(o*96/DPI) for o in im.size)
    return dict(uri=_uri(*encoded(few, lossless=few is not im)), width=width, height=height)


def _uri(data, mime): return f'data:{mime};base64,{base64.b64encode(data).decode()}'


def _card(shown, cells):
    "What the template needs of an item: `kind`, what that kind has, and the `cells`"
    cells = {str(k).replace('_', ' '): v for k, v in cells.items()}
    labels = None
    if 'given' in cells and 'predicted' in cells:
        labels = cells.pop('given'), cells.pop('predicted')
    return dict(cells=cells, labels=labels, **_item(shown))


def _item(shown):
    if isinstance(shown, Unreadable): return dict(kind='missing', reason=str(shown))
    if isinstance(shown, str):
        text = shown[:MAX_TEXT]
        lines = text.splitlines()
        if len(lines) > MAX_LINES: text = '\n'.join(lines[:MAX_LINES])
        return dict(kind='text', text=text, length=len(shown))
    try: data, mime, width, height = thumbnail(shown)
    except ValueError as e: return dict(kind='missing', reason=str(e))
    # A digit of 8 pixels is enlarged in whole steps, so that its pixels stay sharp
    scale = max(1, min(12, 128//max(width, height)))
    return dict(kind='image', uri=_uri(data, mime), width=width*scale, height=height*scale,
                tiny=scale > 1)


def parts_of(
    interp: 'CleanInterpretation',
    n: int,  # Number of items, the worst first
    estimate: 'Estimate | ReviewSession | None' = None,  # See `outputs.report`
) -> dict:  # Arguments of `page`
    "What the report of `interp` says"
    how = dict(interp.how)
    folds = how.pop('fold_metrics', None)
    summary = {'items': len(interp.issues), 'label issues': int(interp.issues.is_issue.sum())}
    if interp.task == 'regression':
        summary['R² of the model on the given labels'] = interp.agreement
    else: summary['labels the model agrees with'] = f'{interp.agreement:.1%}'
    if interp.weakness: summary['model'] = 'too weak to judge these labels'
    tables = []
    warnings = []
    pictures = [('Label quality', interp.plot_quality)]
    if interp.task == 'classification':
        summary |= {'classes': len(interp.vocab),
                    'estimated noise rate': f'{interp.noise_rate:.1%}',
                    "cleanlab's health score": f'{interp.health_score:.3f}'}
        tables = [('Class pairs with most label issues', top_pairs(interp)),
                  ('Classes, the worst first', health(interp).head(25))]
        pictures = [('Confident joint: given and likely true class', interp.plot_confident_joint),
                    ('Noise matrix: how each true class is labelled', interp.plot_noise_matrix),
                    ('Health of the classes', interp.plot_class_health),
                    ('Label quality by given class', interp.plot_quality),
                    ('Confusion matrix of the model', interp.plot_confusion_matrix)]
        if interp.agreement < 1 - WEAK and not interp.weakness: warnings = [WEAK_MODEL]
    if interp.task == 'multilabel':
        tables = [('Worst single labels', class_issues(interp).head(25))]
    if isinstance(folds, list) and folds:
        tables.append(('Metrics of the folds on their held-out items', pd.DataFrame(folds)))

    if estimate is not None:
        estimate = as_estimate(interp, estimate)
        about = f'{estimate.wrong:,.0f} ({estimate.low:,.0f} to {estimate.high:,.0f})'
        summary |= {'wrong labels, from decisions': about}
        warnings = [f'{capital(str(estimate))} {estimate.advice}', *warnings]
        pictures = [('Wrong labels found against items to review',
                     partial(interp.plot_estimate, estimate)), *pictures]
        known = estimate.per_class.dropna(subset='wrong').round()
        known = known.astype(dict.fromkeys(('wrong', 'low', 'high'), int))
        if len(known): tables = [('Wrong labels of the classes, from decisions', known), *tables]

    how |= {'made': f'{datetime.now():%Y-%m-%d %H:%M}', 'task': interp.task}
    how |= {'filter': interp.filter_by, 'model': type(interp.learn.model).__name__}
    weak = interp.weakness
    if weak: warnings = [f'{capital(weak)}.', *warnings]
    if interp.how.get('probabilities') == 'in-sample': warnings.append(FLATTERS)
    if interp.how.get('probabilities') == 'held-out': warnings.append(TEST)
    rows = [dict(shown=_shrunk(interp.shown(i)), cells=_cells(interp, i, row))
            for i, row in interp.issues.head(n).iterrows()]
    return dict(summary=summary, warnings=warnings, tables=tables, pictures=pictures, rows=rows,
                how=how)


def _cells(interp, i, row):
    "What a card says about an item; of the audit's flags, only those that are set"
    audited = () if interp.audited is None else interp.audited.columns
    cells = {k: v for k, v in row.items() if k not in audited}
    for k in ('given', 'predicted'):
        one = cells[k]
        cells[k] = tuple(map(_number, one)) if isinstance(one, tuple) else _number(one)
    file = image_path(interp.dl.dataset, i)
    if file is not None and file.name not in str(cells['id']): cells['file'] = file.name
    # As text: positions are names here, 1234 and not 1,234
    cells['position'] = str(i)
    also = [k[3:-6].replace('_', ' ') for k in audited
            if k.startswith('is_') and k != 'is_label_issue' and row[k]]
    return {**cells, 'also': also} if also else cells


def _number(o): return f'{o:.4g}' if isinstance(o, float) else o


def _shrunk(shown, size=320):
    "An image of bytes, shrunk, so that a hundred photographs fit into memory"
    if not isinstance(shown, np.ndarray) or shown.dtype != np.uint8: return shown
    return small(shown, size)
