"""Does what `session.estimate()` says hold? Simulated reviewers decide on 100 items, drawn by `sample`.

    python examples/benchmarks/cases.py --data DIR --out cases.npz
    python examples/benchmarks/estimate.py --cases cases.npz --sims 200

A row per case and kind of reviewer:
  'four times 25'   asks four times for 25 items, and decides rightly
  'once 100'        asks once for 100
  'then the worst'  and decides on the 200 worst too
  'picks'           and, without a look at the order, relabels the wrong ones among the 300 worst that strike him (80 %)
  'errs'            5 % of the decisions are wrong
  'two who err'     two reviewers decide on the same 100, each errs in 5 %
  'unsure'          says unsure of 3 in 10 wrong labels and of 1 in 20 right ones
Columns: `covers`, the share of simulations whose 95 % interval holds the true number of wrong labels; `below` and
`above`, where it lies beside it; medians of the `width` of the interval and of the `estimate`, both divided by the true
number; `f1` of the cut alone, as if nothing were decided, `best` that of the best cut of the same ranking in hindsight,
and `f1_known` that of the items that `cut` flags, the decided ones known; `advice`, the share of simulations in which reviewing the
advised number finds 95 % of the errors; the medians of the advised and the needed number; `classes`, the coverage of the
intervals of single classes, where there are any."""
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from cases import load
from fastcore.script import call_parse
from sklearn.metrics import f1_score

from fastai_clean.review.estimate import Estimate
from fastai_clean.review.sample import sample

KINDS = 'four times 25', 'once 100', 'then the worst', 'picks', 'errs', 'two who err', 'unsure'
PX = ' 160 px'
TEN = (*(f'imagenette{PX} {o}%' for o in (1, 5, 25, 50)), 'CIFAR-10N aggre', 'CIFAR-10N worse',
       'CIFAR-10N aggre, published ResNet-18', 'mnist even 5%', 'tweets TF-IDF 15%', 'digits even 10%',
       f'100 classes{PX} even 5%')


def table_of(case):
    "Issue table of a `Case`; which labels are wrong"
    n = np.arange(len(case.labels))
    table = pd.DataFrame({'id': pd.Series([f'{i}.png' for i in n], dtype=object), 'given': case.labels,
                          'label_quality': case.pred_probs[n, case.labels].astype(float)})
    return table, np.asarray(case.wrong, bool)


class Reviewer:
    "Decides on items of a table of which `wrong` is known"
    def __init__(self, table, wrong, kind, seed):
        self.table, self.wrong, self.seed = table, wrong, seed
        self.rng = np.random.default_rng(seed)
        self.errs = .05 if 'err' in kind else 0.
        self.unsure = kind == 'unsure'
        self.rows = []

    @property
    def decisions(self): return pd.DataFrame(self.rows, columns=['id', 'action', 'user'], dtype=object)

    def draw(self, n): return [int(o.split('.')[0]) for o in sample(self.table, self.decisions, n, self.seed)]

    def decide(self, items, user='ann'):
        for i in items:
            wrong = self.wrong[i] != (self.rng.random() < self.errs)
            action = 'relabel' if wrong else 'keep'
            if self.unsure and self.rng.random() < (.3 if self.wrong[i] else .05): action = 'unsure'
            self.rows.append((f'{i}.png', action, user))


def review(table, wrong, kind, seed):
    "The decisions of one reviewer"
    who = Reviewer(table, wrong, kind, seed)
    if kind == 'four times 25':
        for _ in range(4): who.decide(who.draw(25))
        return who.decisions
    drawn = who.draw(100)
    who.decide(drawn)
    worst = table.label_quality.to_numpy().argsort(kind='stable')
    if kind == 'two who err': who.decide(drawn, 'bob')
    if kind == 'then the worst': who.decide(worst[:200])
    if kind == 'picks': who.decide([i for i in worst[:300] if wrong[i] and who.rng.random() < .8])
    return who.decisions


def best_f1(quality, wrong):
    "F1 of the best cut in hindsight"
    hits = wrong[quality.argsort(kind='stable')].cumsum()
    return (2*hits/(np.arange(1, len(hits) + 1) + hits[-1])).max()


def needed(found, wrong, order, share=.95):
    "How many of `order`, the undecided, it takes to find `share` of the wrong labels"
    missing = np.ceil(share*wrong.sum() - 1e-9) - found
    return 0 if missing <= 0 else int(np.searchsorted(wrong[order].cumsum(), missing)) + 1


def measure(table, wrong, kind, seed):
    "What one reviewer gets"
    decisions = review(table, wrong, kind, seed)
    e = Estimate(table, decisions, seed)
    true, quality = wrong.sum(), table.label_quality.to_numpy()
    decided = decisions[decisions.action != 'unsure']
    rows = np.unique([int(o.split('.')[0]) for o in decided.id])
    undecided = np.ones(len(wrong), bool)
    undecided[rows] = False
    flagged = e.cut().is_issue.reindex(table.id).to_numpy()
    # The cut alone: what is decided is flagged as an undecided item beside it would be
    by_cut = quality <= e.cut().label_quality
    at = e.probs.index.str.removesuffix('.png').astype(int).to_numpy()
    k = needed(wrong[rows].sum(), wrong, at[undecided[at]])
    advised = e.to_find()
    # The slowest part, and one simulation has several of them
    classes = e.per_class.dropna() if seed % 4 == 0 else pd.DataFrame(columns=['class', 'low', 'high'])
    per_class = [lo <= wrong[table.given == o].sum() <= hi for o, lo, hi in zip(classes['class'], classes.low, classes.high)]
    return dict(covers=e.low <= true <= e.high, below=true < e.low, above=true > e.high, width=(e.high - e.low)/true,
                estimate=e.wrong/true, f1=f1_score(wrong, by_cut), best=best_f1(quality, wrong),
                f1_known=f1_score(wrong, flagged), advice=advised.n >= k, advised=advised.n, needed=k,
                classes=np.mean(per_class) if per_class else np.nan)


def summary(df):
    "The mean of each column by case and kind, the median of those that are numbers of items"
    by = df.groupby(['kind', 'case'], sort=False)
    medians = by[['estimate', 'width', 'advised', 'needed']].median()
    return by.mean(numeric_only=True).drop(columns='seed').assign(**medians, n=by.size())


@call_parse
def main(
    cases: Path = Path('cases.npz'),  # What cases.py made
    sims: int = 200,  # Simulated reviewers of the first kind
    others: int = 40,  # Of the others
    out: Path = Path('estimate.csv'),  # A row per simulation; those that are there are not made again
    only: str = '; '.join(TEN),  # Names of cases, separated by semicolons
    kinds: str = ','.join(KINDS),  # Kinds of reviewers, separated by commas
):
    "Print a row per case and kind; returns them as a DataFrame"
    found, out = load(cases), Path(out)
    names, kinds = [o.strip() for o in only.split(';')], kinds.split(',')
    done = pd.read_csv(out) if out.exists() else pd.DataFrame(columns=['kind', 'case', 'seed'])
    seen = {*zip(done.kind, done.case, done.seed)}
    for kind, name in product(kinds, names):
        table, wrong = table_of(found[name])
        for seed in range(sims if kind == KINDS[0] else others):
            if (kind, name, seed) in seen: continue
            row = dict(kind=kind, case=name, seed=seed, **measure(table, wrong, kind, seed))
            pd.DataFrame([row]).to_csv(out, mode='a', index=False, header=not out.exists())
    df = pd.read_csv(out)
    res = summary(df[df.kind.isin(kinds) & df.case.isin(names)])
    with pd.option_context('display.width', 250): print(res.round(3).to_string())
    return res
