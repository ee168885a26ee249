"The page of the HTML report: one file that needs no network, runs no script and shows data as text"
import base64
from collections.abc import Iterable
from html import escape
from io import BytesIO

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from PIL import Image

from .._images import Unreadable, encoded, thumbnail
from .._text import neutral

NAMES = {'id', 'item', 'given', 'predicted', 'label', 'class', 'true', 'path', 'position'}
MAX_TEXT, MAX_LINES, MAX_CELL, MAX_LIST, MAX_TABLE, DPI = 600, 16, 160, 20, 200, 144
CSP = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
DARK_PANEL = '#1c2128'
CSS = """
:root { --page: #f4f5f7; --panel: #fff; --well: #eceef1; --text: #1c2128; --muted: #57606a; --line: #d5d9df;
  --accent: #0a58ca; --notice: #fff4d6; --mark: #b7791f; --pad: 1rem; color-scheme: light; }
a { color: var(--accent); } dl, dd, figure { margin: 0; } .dark { display: none !important; }
@media screen and (prefers-color-scheme: dark) { :root { --page: #12151a; --panel: #1c2128; --well: #272d36;
  --text: #e6e9ee; --muted: #a3adb9; --line: #39414c; --accent: #7cb2ff; --notice: #332a14; --mark: #d9a441;
  color-scheme: dark; } .light { display: none !important; } .dark { display: block !important; } }
body { margin: 0 auto; padding: 2rem 1.25rem 3rem; max-width: 80rem; background: var(--page); color: var(--text);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif; overflow-wrap: anywhere; }
h1 { margin: 0 0 .5rem; font-size: 1.75rem; line-height: 1.25; } h2 { margin: 2.5rem 0 1rem; font-size: 1.25rem; }
h3 { margin: 0 0 .375rem; font-size: 1rem; line-height: 1.35; } * { box-sizing: border-box; print-color-adjust: exact; }
dt, .note, .rank, .given, thead th, .missing .shown { color: var(--muted); }
dt, .note, .rank, thead th, .about dd, .missing .shown { font-size: .875rem; }
dd, .n, .rank { font-variant-numeric: tabular-nums; } h1, .notice, .about, dd, td, th { overflow: hidden; }
nav ul, ol { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; margin: 0; padding: 0; list-style: none; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: 1rem; margin: 1.5rem 0; }
.figures div, .how dl, .scroll, figure, li[class] { background: var(--panel); border: 1px solid var(--line);
  border-radius: .5rem; }
.figures div { padding: .75rem 1rem; display: flex; flex-direction: column-reverse; justify-content: flex-end; }
.figures dd { font-size: 1.5rem; font-weight: 600; line-height: 1.3; }
.notice { margin: .75rem 0 0; padding: .625rem 1rem; background: var(--notice); border-left: 4px solid var(--mark); }
.pictures, .tables { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; }
figure, .scroll, .how dl { padding: 1rem; max-width: 100%; overflow-x: auto; }
img { display: block; max-width: 100%; height: auto; } .tiny { image-rendering: pixelated; }
figcaption, caption { padding-bottom: .75rem; font-weight: 600; text-align: left; }
table { border-collapse: collapse; font-size: .9375rem; }
th, td { padding: .375rem calc(.75*var(--pad)); border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; overflow-wrap: break-word; max-width: 24rem; } .n { text-align: right; }
ol { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(13.5rem, 45%), 1fr)); gap: var(--pad); }
.texts { grid-template-columns: repeat(auto-fill, minmax(min(20rem, 100%), 1fr)); align-items: start; }
li[class] { overflow: hidden; } .about { padding: .75rem var(--pad); border-top: 1px solid var(--line); }
.shown { display: flex; align-items: center; justify-content: center; min-height: 11rem; padding: .5rem;
  background: var(--well); text-align: center; }
.text .shown { display: block; min-height: 6rem; padding: 1rem; white-space: pre-wrap; text-align: start; }
.about div { display: flex; flex-wrap: wrap; justify-content: space-between; gap: 0 .5rem; }
.about dd { margin-left: auto; } .rank { float: right; margin-left: .5rem; } .given { font-weight: 400; }
.how div { display: grid; grid-template-columns: minmax(7rem, 14rem) 1fr; align-items: baseline; gap: 0 1.5rem; }
.sr { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
@media (max-width: 30rem) { :root { --pad: .5rem; } } @page { margin: 14mm; }
@media print { :root { --pad: .5rem; font-size: 75%; } body { padding: 0; max-width: none; background: none; }
  .pictures, .tables { display: block; } figure, .scroll { width: fit-content; margin-bottom: 1rem; overflow: visible; }
  figure img { max-height: 115mm; width: auto; } td, th { overflow-wrap: anywhere; } .shown { min-height: 0; }
  nav { display: none; } ol { grid-template-columns: repeat(4, 1fr); } .texts { grid-template-columns: 1fr 1fr; }
  .figures div, li, figure, .scroll, tr, .notice, .how div { break-inside: avoid; } h2 { break-after: avoid; } }
"""


def page(
    title,  # Heading of the page
    *,
    summary,  # Figures at its top: name -> str, int or float
    warnings=(),  # Sentences shown as notices
    tables=(),  # (caption, DataFrame) each; an index with a name or of names is shown
    pictures=(),  # (caption, function that makes one matplotlib figure and returns its Axes or an array of them) each
    rows=(),  # Worst items first, a dict each: `shown`, an image, a text or an Unreadable, and `cells`, name -> value
    how=None,  # How the probabilities were made: name -> value
) -> str:  # A whole HTML document, which UTF-8 can hold
    """The report as one page without scripts or links, whose policy forbids it to load anything.

    Every value is shown as text: markup is escaped, what could reorder or hide text around it is replaced by U+FFFD.
    Pictures are drawn twice, light and dark, and their figures closed. Values in columns such as `given` and `item`
    are names and stay as they are; other numbers are written as .913 and 1,437, missing ones as –. An image that
    cannot be drawn gives a placeholder with the reason."""
    worst = f'The {len(rows):,} worst items' if len(rows) != 1 else 'The worst item'
    sections = [o for o in (('pictures', 'Pictures', ''.join(_picture(*o) for o in pictures)),
                            ('tables', 'Tables', ''.join(_table(*o) for o in tables)), ('worst', worst, _cards(rows)),
                            ('how', 'How the probabilities were made', how and f'<dl>{_pairs(how)}</dl>')) if o[2]]
    links = ''.join(f'<li><a href="#{name}">{heading}</a></li>' for name, heading, _ in sections)
    body = ''.join(f'<section aria-labelledby="{name}"><h2 id="{name}">{heading}</h2><div class="{name}">{content}'
                   '</div></section>\n' for name, heading, content in sections)
    notices = ''.join(f'<p class="notice" role="note">{_data(o, MAX_TEXT)}</p>' for o in warnings)
    return ('<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<meta http-equiv="Content-Security-Policy" content="{CSP}">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f'<title>{_escaped(_cut(str(title)))}</title><link rel="icon" href="data:,"><style>{CSS}</style></head>\n'
            f'<body><header><h1>{_data(title)}</h1>{f"<nav><ul>{links}</ul></nav>" if links else ""}</header>\n'
            f'<main>{notices}<dl class="figures">{_pairs(summary)}</dl>\n{body}</main></body></html>\n')


def _uri(data, mime): return f'data:{mime};base64,{base64.b64encode(data).decode()}'


def _escaped(text):
    "The one way of data into the page: no markup, nothing that reorders what follows, nothing UTF-8 cannot hold"
    return escape(neutral(text.replace('\r\n', '\n')))


def _cut(text, n=MAX_CELL): return text if len(text) <= n else f'{text[:n]}… ({len(text):,} characters)'


def _data(value, n=MAX_CELL, name=False):
    "Markup of one value, or of several after each other, isolated from the direction of the text around it"
    if hasattr(value, 'tolist') and not isinstance(value, (np.datetime64, np.timedelta64)): value = value.tolist()
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes, dict)):
        values = list(value)
        more = [f'… ({len(values):,})'] if len(values) > MAX_LIST else []
        return ', '.join([_data(o, n, name) for o in values[:MAX_LIST]] + more) or _data(None)
    text = _cut(str(value) if name and not _is_missing(value) else _written(value), n)
    return f'<bdi>{_escaped(text)}</bdi>' if text.strip() else '<span class="note">(empty)</span>'


def _written(value):
    "A value as people write it: 1,437 and .913"
    if _is_missing(value): return '–'
    if isinstance(value, bool): return 'yes' if value else 'no'
    if isinstance(value, int): return f'{value:,}'
    if not isinstance(value, float): return str(value)
    size = abs(value)
    if 0 < size < .0005: return '<.001' if value > 0 else '>−.001'
    digits = 3 if size < 10 else 2 if size < 100 else 1 if size < 1000 else 0
    text = f'{size:,.{digits}f}' if size < 1e15 else f'{size:g}'
    return '−'*(value < 0) + (text[1:] if text.startswith('0.') else text)


def _is_missing(value): return value is None or (pd.api.types.is_scalar(value) and bool(pd.isna(value)))


def _pairs(values):
    return ''.join(f'<div><dt>{_data(k, name=True)}</dt><dd>{_data(v, name=k in NAMES)}</dd></div>'
                   for k, v in values.items())


def _table(caption, df):
    if not isinstance(df, pd.DataFrame):
        raise TypeError(f"tables has a {type(df).__name__} under {str(caption)[:80]!r}: pass a pandas DataFrame")
    indexed = not isinstance(df.index, pd.RangeIndex) or df.index.name is not None
    cols = [(c, ' class="n"' if pd.api.types.is_numeric_dtype(o) and c not in NAMES else '')
            for c, o in df.dtypes.items()]
    head = ''.join(f'<th scope="col"{css}>{_data(c, name=True)}</th>' for c, css in cols)
    if indexed: head = f'<th scope="col">{"" if df.index.name is None else _data(df.index.name, name=True)}</th>{head}'
    body = ''
    for index, *values in df.head(MAX_TABLE).itertuples(name=None):
        row = ''.join(f'<td{css}>{_data(v, name=c in NAMES)}</td>' for v, (c, css) in zip(values, cols))
        body += '<tr>' + (f'<th scope="row">{_data(index, name=True)}</th>' if indexed else '') + row + '</tr>\n'
    more = f'<p class="note">and {len(df) - MAX_TABLE:,} more rows</p>' if len(df) > MAX_TABLE else ''
    return (f'<div class="scroll" role="region" tabindex="0" aria-label="{_escaped(_cut(str(caption)))}">'
            f'<table><caption>{_data(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
            f'{more}</div>')


def _picture(caption, draw):
    "Both versions, since a browser that prints does not choose again among the sources of one picture"
    alt, colours = _escaped(_cut(str(caption))), plt.style.library['dark_background']
    panel = dict.fromkeys(('figure.facecolor', 'axes.facecolor', 'savefig.facecolor'), DARK_PANEL)
    styles = {'light': {o: plt.rcParamsDefault[o] for o in colours}, 'dark': {**colours, **panel}}
    images = [f'<img class="{name}" src="{uri}" alt="{alt}" width="{width}" height="{height}">'
              for name, style in styles.items() for uri, width, height in _drawn(draw, style)]
    shown = ''.join(images) or '<p class="note">Nothing to show.</p>'
    return f'<figure><figcaption>{_data(caption)}</figcaption>{shown}</figure>'


def _drawn(draw, style):
    "The picture as [(data URI, CSS width, CSS height)], none where there are no Axes; closes what figures `draw` made"
    before, file = set(plt.get_fignums()), BytesIO()
    try:
        with plt.ioff(), plt.style.context(style):
            axes = [o for o in np.ravel(draw()) if o is not None]
            if not axes: return []
            axes[0].figure.canvas.figure.savefig(file, format='png', dpi=DPI, bbox_inches='tight')
    finally:
        for n in set(plt.get_fignums()) - before: plt.close(n)
    im = Image.open(file).convert('RGB')
    few = im.quantize(256) if im.getcolors(4096) else im
    return [(_uri(*encoded(few, lossless=few is not im)), *(round(o*96/DPI) for o in im.size))]


def _cards(rows):
    texts = any(isinstance(o['shown'], str) and not isinstance(o['shown'], Unreadable) for o in rows)
    cards = ''.join(_card(i, o) for i, o in enumerate(rows, 1))
    return cards and f'<ol{" class=texts" if texts else ""}>{cards}</ol>'


def _card(rank, row):
    kind, shown = _item(row['shown'], rank)
    cells = {str(k).replace('_', ' '): v for k, v in row['cells'].items()}
    if 'given' in cells and 'predicted' in cells:
        given, predicted = (_data(cells.pop(o), name=True) for o in ('given', 'predicted'))
        head = (f'<span class="given"><span class="sr">given </span>{given} <span aria-hidden="true">→</span></span> '
                f'<span class="sr">predicted </span>{predicted}')
    else: head = f'Item {rank}'
    return (f'<li class="{kind}"><div class="shown">{shown}</div><div class="about"><span class="rank">{rank}</span>'
            f'<h3>{head}</h3><dl>{_pairs(cells)}</dl></div></li>\n')


def _item(shown, rank):
    "What kind of card an item makes, and the markup of the item"
    if isinstance(shown, str) and not isinstance(shown, Unreadable):
        lines = shown[:MAX_TEXT].splitlines()
        text = '\n'.join(lines[:MAX_LINES]) if len(lines) > MAX_LINES else shown[:MAX_TEXT]
        more = f' <span class="note">… ({len(shown):,} characters)</span>' if len(text) < len(shown) else ''
        return 'text', _data(text, MAX_TEXT) + more
    if isinstance(shown, Unreadable): return 'missing', f'<p>{_data(str(shown), MAX_TEXT)}</p>'
    try: data, mime, width, height = thumbnail(shown)
    except ValueError as e: return _item(Unreadable(e), rank)
    scale = max(1, min(12, 128//max(width, height)))
    return 'image', (f'<img src="{_uri(data, mime)}" alt="item {rank}" width="{width*scale}" height="{height*scale}"'
                     f'{" class=tiny" if scale > 1 else ""}>')
