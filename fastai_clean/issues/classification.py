"Labels and predicted probabilities in, the issue table out"
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from .checks import check_options, check_two_classes
from .columns import (
    Score,
    any_score,
    as_is,
    check_filter,
    id_column,
    index_of,
    names_of,
    score_of,
    warn_of_twins,
    worst_first,
)
from .confident import FILTERS, SCORES, StreamedIssues

Filter: TypeAlias = str | Sequence[bool] | np.ndarray | pd.Series  # What `find_issues` takes


def find_issues(
    labels: Any,  # Given labels: class indices (n,), or values of `vocab`
    pred_probs: Any,  # Probabilities (n, c), out-of-fold if the model was trained on these labels
    filter_by: Filter = 'auto',  # Which items are issues: one of `FILTERS`, or booleans (n,)
    score: Score = 'self_confidence',  # Ranks items: one of `SCORES`, or see `label_quality`
    *,
    ids: Sequence | None = None,  # Stable names of the items (n,); None: their positions
    vocab: Sequence | None = None,  # Names of the c classes; None: their indices
    frac_noise: float = 1.,  # Share of the estimated issues to flag, the likeliest first
    num_to_remove_per_class: Sequence[int] | None = None,  # How many to flag of each class (c,)
    min_examples_per_class: int = 1,  # Classes with no more items than this are not flagged
    n_jobs: int | None = 1,  # Threads; -1 or None: one per processor
) -> pd.DataFrame:  # n rows; columns id, given, predicted, confidence, label_quality, is_issue
    """The issue table: every item, the likeliest wrong label first, indexed by the item's position
    in the data set.

    `confidence` is the probability of the predicted class, 0 to 1; `label_quality` is the result of
    the function `label_quality`, also 0 to 1 if `score` is a name. Ties keep the data set's order.
    pandas means its labels: a DataFrame of probabilities is brought into the order of the index of
    `labels` and of `vocab` (its columns, if there is no other), `ids` and `score` into that of
    `labels`; what does not fit is refused. Numbers in a `vocab` are names. A memory map is read in
    chunks.

    filter_by='auto' flags as many of the likeliest errors as promise the largest F1, by the noise
    channel that explains the labels (`channel.fit_channel` has the formula). On 41 cases of errors
    by people and planted ones, 1 to 50 %, with weak and strong models and 2 to 100 classes
    (examples/benchmarks/filters.py), it loses .015 of F1 on average against the best cut on the
    margin in hindsight, cleanlab's default .081; with its two numbers chosen anew without the data
    set that is judged .015, too, and .36 at most: 2 % errors among classes that look alike. Errors
    that two classes share are the hardest: there it can be .08 below cleanlab's default.
    The other filters are cleanlab's, and a mask is taken as it is, a Series by its index. The
    options below are for 'auto' and the filters that prune. Method of cleanlab's filters:
    Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels",
    JAIR 2021. Raises as `check_labels_probs` does, and ValueError for an unknown filter or score.

    >>> probs = [[.9, .1], [.8, .2], [.05, .95], [.1, .9], [.1, .9]]
    >>> df = find_issues([0, 0, 0, 1, 1], probs, vocab=['cat', 'dog'])
    >>> df.is_issue.tolist()
    [True, False, False, False, False]
    >>> df[['given', 'predicted', 'label_quality']].head(1).to_dict('index')
    {2: {'given': 'cat', 'predicted': 'dog', 'label_quality': 0.05}}
    """
    index = index_of(labels, pred_probs)
    streamed = StreamedIssues(labels, pred_probs, vocab=vocab, n_jobs=n_jobs,
                              entropy=isinstance(score, str) and score == SCORES[-1])
    c = len(streamed.counts)
    check_two_classes(streamed.labels)
    options = check_options(c, frac_noise, num_to_remove_per_class, min_examples_per_class,
                            streamed.vocab)
    column = id_column(ids, len(streamed.labels), index)
    mask = check_filter(filter_by, FILTERS, len(column), index, column)
    if mask is None: mask = streamed.mask(str(filter_by), **options)
    score = score_of(score, labels, pred_probs)

    warn_of_twins(streamed.vocab)
    names = names_of(c, streamed.vocab)
    return worst_first(pd.DataFrame({
        'id': as_is(column), 'given': as_is(names[streamed.labels]),
        'predicted': as_is(names[streamed.predicted]), 'confidence': streamed.confidence,
        'label_quality': _quality(streamed, score),
        'is_issue': mask}))


def with_names(
    df: pd.DataFrame,  # Table of `find_issues`, made without a vocab
    vocab: Sequence,  # Names of the classes
) -> pd.DataFrame:
    """The table with the classes' names. For tables of class indices whose vocab holds numbers:
    `find_issues` could not tell the two apart"""
    names = names_of(len(vocab), vocab)
    warn_of_twins(vocab)
    named = {o: pd.Series(as_is(names[df[o]])).set_axis(df.index) for o in ('given', 'predicted')}
    return df.assign(**named)


def label_quality(
    labels: Any,  # Given labels: class indices (n,)
    pred_probs: Any,  # Probabilities (n, c)
    score: Score = 'self_confidence',  # One of `SCORES`, scores (n,), function, or list of these
) -> np.ndarray:  # (n,), low if the label is likely wrong
    """Label quality scores of cleanlab, 0 to 1, or any others, in the order of the data set: Kuan
    and Mueller, "Model-agnostic label quality scoring to detect real-world label errors", 2022.

    A function gets labels (n,) and pred_probs (n, c), and returns scores (n,). For a list, the
    result is the mean of each item's rank by every score, 1/n to 1, so that their units do not
    matter (Borda's count). Raises ValueError for an unknown name and for scores that are not n
    numbers.

    >>> label_quality([0, 1], [[.9, .1], [.7, .3]])
    array([0.9, 0.3])
    >>> label_quality([0, 1], [[.9, .1], [.7, .3]], ['self_confidence', [.5, .4]])
    array([1. , 0.5])
    """
    streamed = StreamedIssues(labels, pred_probs)
    return _quality(streamed, score_of(score, labels, pred_probs))


def _quality(streamed, score):
    # Only a function needs the whole table of probabilities
    plain = isinstance(score, (str, np.ndarray, pd.Series))
    probs = streamed.probs if plain else streamed.checked()
    return any_score(score, streamed.score, streamed.labels, probs)
