"""Which filter flags best, what the advice says, and what temperature scaling does.

    python examples/benchmarks/filters.py --data DIR

DIR holds cifar10n/published_resnet18_oof.npz (people's errors; cleanlab's label-error-detection benchmark) and
covid_tweets/train.tsv, whose labels get 5, 15 and 30 % planted errors, as scikit-learn's digits do; out-of-fold
probabilities of these by logistic regression. What is not there is left out. A row per case: the F1 of every filter
against the true errors, the filter that `advise_filter` advises and how far it lies below the best one, prune_by_class
after temperature scaling, and the AUPRC of self-confidence before and after it."""
from pathlib import Path

import numpy as np
import pandas as pd
from fastcore.script import call_parse
from sklearn.datasets import load_digits
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, f1_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from fastai_clean.all import find_issues
from fastai_clean.issues import advise_filter, apply_temperature, fit_temperature

FILTERS = 'prune_by_noise_rate', 'prune_by_class', 'both', 'confident_learning', 'predicted_neq_given'


def out_of_fold(x, labels, c):
    "Probabilities (n, classes) by logistic regression of inverse regularisation `c`"
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    return cross_val_predict(LogisticRegression(C=c, max_iter=300), x, labels, cv=folds, method='predict_proba')


def plant(true, rate, rng):
    "Labels with a share `rate` changed to another class"
    labels, wrong = true.copy(), rng.random(len(true)) < rate
    labels[wrong] = (labels[wrong] + rng.integers(1, true.max() + 1, wrong.sum())) % (true.max() + 1)
    return labels


def cases(data, rates, rng):
    "Name, given labels, probabilities, true labels of each case"
    file = data/'cifar10n/published_resnet18_oof.npz'
    if file.exists():
        with np.load(file) as d: yield 'CIFAR-10N aggre', d['noisy'], d['pred_probs'], d['true']
    digits = load_digits()
    sets = {'digits': (digits.data/16, digits.target, 1.)}
    file = data/'covid_tweets/train.tsv'
    if file.exists():
        tweets = pd.read_csv(file, sep='\t', quoting=3)
        words = TfidfVectorizer(min_df=2, ngram_range=(1, 2)).fit_transform(tweets.Text)
        sets['tweets'] = words, (tweets.Label == 'INFORMATIVE').to_numpy().astype(int), 10.
    for name, (x, true, c) in sets.items():
        for rate in rates:
            labels = plant(true, rate, rng)
            yield f'{name} {rate:.0%}', labels, out_of_fold(x, labels, c), true


def measure(name, labels, probs, true):
    "The row of one case"
    wrong, scaled = labels != true, apply_temperature(probs, fit_temperature(labels, probs))

    def f1(filter_by, p): return f1_score(wrong, find_issues(labels, p, filter_by).sort_index().is_issue)

    def auprc(p): return average_precision_score(wrong, 1 - p[np.arange(len(labels)), labels])
    scores, advice = {o: f1(o, probs) for o in FILTERS}, advise_filter(labels, probs)
    return dict(case=name, noise=wrong.mean(), **scores, advised=advice.filter_by,
                below_best=max(scores.values()) - scores[advice.filter_by],
                temperature=fit_temperature(labels, probs), prune_by_class_scaled=f1('prune_by_class', scaled),
                auprc=auprc(probs), auprc_scaled=auprc(scaled))


@call_parse
def main(
    data: Path = Path('.'),  # Folder with cifar10n and covid_tweets
    rates: str = '.05,.15,.3',  # Shares of planted errors, separated by commas
    seed: int = 0,  # Seed of the planted errors
):
    "Print a row per case; returns them as a DataFrame"
    rng = np.random.default_rng(seed)
    df = pd.DataFrame([measure(*o) for o in cases(data, [float(o) for o in rates.split(',')], rng)])
    print(df.set_index('case').T.to_string(float_format='{:.3f}'.format))
    return df
