"Numbers as targets: the issue table of given and predicted numbers"
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from cleanlab.regression.rank import get_label_quality_scores

from .._columns import objects
from .._rows import aligned
from .checks import by_column
from .columns import (
    Score,
    any_score,
    as_is,
    check_choice,
    check_numbers,
    id_column,
    index_of,
    names_of,
    score_of,
    worst_first,
)

REGRESSION_SCORES = 'residual', 'outre'
OUTRE_MAX = 10_000  # Most items that 'outre' is computed for


def find_regression_issues(
    targets: Any,  # Given numbers (n,), or (n, k) for k outputs per item
    predictions: Any,  # Predicted numbers, same shape; out-of-fold if trained on these targets
    score: Score = 'residual',  # Ranks items: one of `REGRESSION_SCORES`, or see `label_quality`
    *,
    threshold: float = .05,  # Items are issues below this share of the median quality, 0 to 1
    ids: Sequence | None = None,  # Stable names of the items (n,); None: their positions
    names: Sequence | None = None,  # Names of the k outputs; None: their indices
) -> pd.DataFrame:  # n rows; id, given, predicted, residual, label_quality, is_issue (worst_output)
    """The issue table of numeric targets: every item, the likeliest wrong one first, indexed by its
    position.

    `residual` is predicted minus given, in the unit of the target; `label_quality` is 0 to 1. The
    rule of `is_issue` is that of cleanlab's Datalab, on the quality of `REGRESSION_SCORES[0]` if
    `score` is not a name. 'residual' is cleanlab's exp(-|residual|), with the residual in units of
    its median size, so that neither ranks nor issues depend on the target's unit: at the default
    threshold an issue is a residual 4 times the median one, 2.7 standard deviations of normal
    noise. 'outre' (Zhou et al., "Detecting Errors in Numerical Data via any Regression Model",
    2023) compares every item with half of the others: it ranked planted errors no better (average
    precision within .01 on 24 data sets of 442 or 800 items) and is refused for more than 10,000
    items, for which it takes 10 s and 1 GB, growing with n².

    If k > 1, each output is scored alone; the quality is exp(-root mean square of the outputs' -log
    quality). It ranked items with one wrong output as well as the minimum does, and items with all
    outputs wrong almost as well as the mean does; each of these is poor at the other. `given` and
    `predicted` are tuples, `residual` is that of the worst output, and `worst_output` names it.

    pandas means its labels: of two Series or DataFrames, `predictions` is brought into the order of
    the index and the columns of `targets`. Raises ValueError or TypeError for arguments that do not
    fit.

    >>> df = find_regression_issues([1., 2., 3., 40.], [1.1, 2.2, 2.9, 4.])
    >>> df[['given', 'predicted', 'is_issue']].head(1).to_dict('index')
    {3: {'given': 40.0, 'predicted': 4.0, 'is_issue': True}}
    """
    index = index_of(targets, predictions)
    score = score_of(score, targets, predictions)
    predictions = in_order_of(targets, predictions)
    targets, predictions = _check_regression(targets, predictions, threshold, names)
    n, k = targets.shape
    column = id_column(ids, n, index)
    residual = predictions - targets
    own = score if isinstance(score, str) else 'residual'
    quality = _output_quality(targets, predictions, own)
    total = _total(quality)

    def named(o): return total if o == own else _total(_output_quality(targets, predictions, o))

    worst = quality.argmin(1)
    df = pd.DataFrame({
        'id': as_is(column), 'given': _numbers(targets), 'predicted': _numbers(predictions),
        'residual': residual[np.arange(n), worst],
        'label_quality': any_score(score, named, targets, predictions),
        'is_issue': total < threshold*np.median(total)})
    if k > 1: df['worst_output'] = names_of(k, names)[worst]
    return worst_first(df)


def in_order_of(
    targets: Any,  # Given numbers
    predictions: Any,  # Predicted numbers
) -> Any:
    """`predictions` with the rows and columns of `targets`, if both are pandas'. Raises ValueError
    if these do not fit"""
    frames = pd.Series, pd.DataFrame
    if not (isinstance(targets, frames) and isinstance(predictions, frames)): return predictions
    predictions = aligned(predictions, 'predictions', targets.index)
    if not (isinstance(targets, pd.DataFrame) and isinstance(predictions, pd.DataFrame)):
        return predictions
    columns = list(targets.columns)
    # One column of each cannot be in another order, nor can columns that are only numbered
    if len(columns) < 2 or columns == [*range(len(columns))]: return predictions
    return by_column(predictions, 'predictions', columns, 'targets')


def _output_quality(targets, predictions, score):
    "Quality (n, k) of each output of each item"
    check_choice('score', score, REGRESSION_SCORES)
    n, k = targets.shape
    if score == 'residual':
        return np.stack([_residual_quality(r) for r in (predictions - targets).T], 1)
    if not 4 <= n <= OUTRE_MAX:
        raise ValueError(f"score is 'outre', which compares items with each other and takes 4 to "
                         f"{OUTRE_MAX:,} items, but there are {n:,}: pass score='residual'")
    columns = [get_label_quality_scores(targets[:, j], predictions[:, j], method='outre')
               for j in range(k)]
    return np.stack(columns, 1)


def _residual_quality(residual):
    size = np.abs(residual)
    scale = np.median(size) or size.mean() or 1.
    return np.exp(-size/scale)


def _total(quality):
    "Quality (n,) over the outputs"
    if quality.shape[1] == 1: return quality[:, 0]
    loss = np.log(np.maximum(quality, np.finfo(float).tiny))
    return np.exp(-np.sqrt(np.square(loss).mean(1)))


def _numbers(x): return x[:, 0] if x.shape[1] == 1 else objects(map(tuple, x.tolist()))


def _check_regression(targets, predictions, threshold, names):
    targets = check_numbers('targets', targets, (1, 2)).astype(float)
    predictions = check_numbers('predictions', predictions, (1, 2)).astype(float)
    if targets.ndim == 1: targets = targets[:, None]
    if predictions.ndim == 1: predictions = predictions[:, None]
    if targets.shape != predictions.shape:
        raise ValueError(f"targets has {targets.shape[0]} items of {targets.shape[1]} numbers, but "
                         f"predictions has {predictions.shape[0]} of {predictions.shape[1]}: pass "
                         "one prediction per target")
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold is {threshold!r}: pass a share from 0 to 1")
    if names is not None and len(names) != targets.shape[1]:
        raise ValueError(f"names has {len(names)} names for {targets.shape[1]} outputs: pass one "
                         "per output")
    return targets, predictions
