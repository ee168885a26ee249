"""What the filter 'auto' finds, beside the best cut in hindsight and cleanlab's seven filters, and what it counts.

    python examples/benchmarks/cases.py --data DIR --out cases.npz
    python examples/benchmarks/filters.py --cases cases.npz --out filters.md

A row per case: F1 of the flagged items against the true errors, for 'auto' and for each of cleanlab's filters; `best cut`,
the largest F1 of any cut on the margin log p(best other) - log p(given), which nobody can know; and the share of wrong
labels, as it is, as `noise_rate` estimates it, and as confident learning does. Below it the mean and the worst of what is
lost against the best cut. The two numbers in the formula, EVEN and PAIRS of `issues.channel`, are then chosen anew from
a grid for each data set, by the mean loss on the others, and judged on the one left out."""
from pathlib import Path

import numpy as np
import pandas as pd
from cases import load
from fastcore.script import call_parse
from sklearn.metrics import f1_score

from fastai_clean.issues import CLEANLAB, StreamedIssues, channel, health_score

GRID = {'EVEN': (.55, .6, .65, .7, .75, .8, 1.), 'PAIRS': (.4, .5, .6, .7)}


def best_cut(case):
    "The largest F1 of a cut on the margin"
    at = np.arange(len(case.labels))
    given, other = case.pred_probs[at, case.labels], case.pred_probs.copy()
    other[at, case.labels] = 0
    margin = np.log(other.max(1).clip(1e-6)) - np.log(given.clip(1e-6))
    hits = np.cumsum(case.wrong[np.argsort(-margin, kind='stable')])
    return (2*hits/(np.arange(1, len(at) + 1) + case.wrong.sum())).max()


def measure(case):
    "The row of one case"
    streamed = StreamedIssues(case.labels, case.pred_probs)
    f1 = {o: f1_score(case.wrong, streamed.mask(o)) for o in ('auto', *CLEANLAB)}
    return {'wrong': case.wrong.mean(), 'estimated': streamed.noise_rate,
            'confident learning': 1 - health_score(case.labels, joint=streamed.joint),
            'by pairs': streamed.channel.matrix is not None, 'best cut': best_cut(case), **f1}


def losses(case, grid=GRID):
    "Best cut minus F1 of 'auto', for every pair of numbers in the grid"
    kept, best = (channel.EVEN, channel.PAIRS), best_cut(case)
    res = np.empty((len(grid['EVEN']), len(grid['PAIRS'])))
    try:
        for i, channel.EVEN in enumerate(grid['EVEN']):
            for j, channel.PAIRS in enumerate(grid['PAIRS']):
                streamed = StreamedIssues(case.labels, case.pred_probs)
                res[i, j] = best - f1_score(case.wrong, streamed.mask())
                # Where errors are not those of pairs, the second number does not matter
                if streamed.channel.matrix is None and case.pred_probs.shape[1] > 2:
                    res[i] = res[i, j]
                    break
    finally: channel.EVEN, channel.PAIRS = kept
    return res


def left_out(cases, grid=GRID):
    "Loss of each case with the numbers that lose least on the other data sets, and these numbers"
    table, groups = np.stack([losses(o, grid) for o in cases.values()]), np.array([o.group for o in cases.values()])
    rows = []
    for i, group in enumerate(groups):
        # Each data set counts alike
        others = np.stack([table[groups == o].mean(0) for o in np.unique(groups[groups != group])]).mean(0)
        a, b = np.unravel_index(others.argmin(), others.shape)
        rows.append({'left-out loss': table[i, a, b], 'EVEN': grid['EVEN'][a], 'PAIRS': grid['PAIRS'][b]})
    return pd.DataFrame(rows, list(cases))


def summary(df):
    "Mean and worst of what each filter loses against the best cut, and against prune_by_noise_rate"
    rows = {}
    for o in ('auto', *CLEANLAB):
        lost, default = df['best cut'] - df[o], df['prune_by_noise_rate'] - df[o]
        rows[o] = {'mean loss': lost.mean(), 'worst loss': lost.max(), 'worst case': lost.idxmax(),
                   'cases over .05': (lost > .05).sum(), 'most below cleanlab\'s default': default.max()}
    return pd.DataFrame(rows).T


def markdown(df):
    def cell(o): return f'{o:.3f}' if isinstance(o, float) else str(o)
    lines = [['', *map(str, df)], ['---']*(df.shape[1] + 1), *([str(i), *map(cell, row)] for i, row in zip(df.index, df.values))]
    return '\n'.join(f"| {' | '.join(o)} |" for o in lines)


@call_parse
def main(
    cases: Path = Path('cases.npz'),  # File that cases.py wrote
    out: Path = None,  # Markdown file to write
    leave_out: bool = True,  # Whether the numbers in the formula are judged on data sets left out
):
    "Print a row per case, and sums; returns the rows as a DataFrame"
    every = load(cases)
    df = pd.DataFrame({name: measure(o) for name, o in every.items()}).T.infer_objects()
    if leave_out: df = df.join(left_out(every))
    ratio = df[['estimated', 'confident learning']].div(df.wrong, axis=0).astype(float)
    rates = pd.DataFrame({'typical factor off': np.exp(np.log(ratio).abs().median()), 'worst factor off': np.exp(np.log(ratio).abs().max())})
    text = '\n\n'.join(map(markdown, (df, summary(df), rates)))
    if leave_out: text += f"\n\nLeft out: mean loss {df['left-out loss'].mean():.3f}, worst {df['left-out loss'].max():.3f}"
    print(text)
    if out is not None: Path(out).write_text(text + '\n', encoding='utf-8')
    return df
