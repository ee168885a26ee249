"Issue tables of other labels than one class an item: several classes, numbers, and masks (of .segmentation)"
import numpy as np
import pandas as pd
from cleanlab.multilabel_classification.filter import find_multilabel_issues_per_class
from cleanlab.rank import get_label_quality_scores
from cleanlab.regression import rank as regression

from .checks import check_vocab
from .columns import any_score, as_is, check_choice, check_numbers, id_column, names_of, objects, worst_first
from .table import FILTERS, SCORES

REGRESSION_SCORES = 'residual', 'outre'
OUTRE_MAX = 10_000


def find_multilabel_issues(
    labels,  # Given labels (n, c): 1 or True where the item has the class, else 0
    pred_probs,  # Probabilities (n, c) of each class, 0 to 1; rows need not sum to 1
    filter_by='prune_by_noise_rate',  # Which classes of an item are issues: one of `FILTERS`
    score='self_confidence',  # What ranks the items: one of `SCORES`, or as in `label_quality`
    *,
    ids=None,  # Stable names of the items (n,); None: their positions
    vocab=None,  # Names of the c classes; None: their indices
    threshold=.5,  # Probability from which a class counts as predicted
    **kwargs,  # `frac_noise`, `num_to_remove_per_class` and `min_examples_per_class` of cleanlab
) -> pd.DataFrame:  # n rows; columns of `find_issues`, and worst_class, n_classes_flagged
    """The issue table of a multi-label data set: every item, the likeliest wrong one first, indexed by its position.

    `given` and `predicted` are tuples of class names, `worst_class` the class whose label is the likeliest wrong and
    `confidence` the larger of the probabilities that the item has it and that it has not. `label_quality` is
    cleanlab's moving average over the classes, dominated by the worst; an item is an issue where any class is flagged.
    (For the two `low_` filters cleanlab itself would flag as many items, those of the lowest `label_quality`.)
    A class given to no item or to all of them cannot be flagged. Method: Thyagarajan et al., "Identifying Incorrect
    Annotations in Multi-Label Classification Data", 2022. Raises ValueError or TypeError for arguments that do not
    fit."""
    labels, pred_probs = _check_multilabel(labels, pred_probs, vocab)
    ids = id_column(ids, len(labels))
    flagged = _class_issues(labels, pred_probs, filter_by, **kwargs)
    quality = _class_quality(labels, pred_probs, score if isinstance(score, str) else 'self_confidence')
    names = names_of(labels.shape[1], vocab)
    ranked = any_score(score, lambda o: _moving_average(_class_quality(labels, pred_probs, o)), labels, pred_probs)
    worst = quality.argmin(1)
    p = pred_probs[np.arange(len(labels)), worst]
    df = pd.DataFrame({
        'id': as_is(ids), 'given': _tuples(names, labels), 'predicted': _tuples(names, pred_probs >= threshold),
        'confidence': np.maximum(p, 1 - p), 'label_quality': ranked, 'is_issue': flagged.any(1),
        'worst_class': as_is(names[worst]), 'n_classes_flagged': flagged.sum(1)})
    return worst_first(df)


def find_class_issues(
    labels,  # Given labels (n, c): 1 or True where the item has the class, else 0
    pred_probs,  # Probabilities (n, c) of each class, 0 to 1
    filter_by='prune_by_noise_rate',  # Which classes of an item are issues: one of `FILTERS`
    score='self_confidence',  # What ranks the rows: one of `SCORES`
    *,
    ids=None,  # Stable names of the items (n,); None: their positions
    vocab=None,  # Names of the c classes; None: their indices
    only_issues=True,  # Leave out what is not flagged; False: n*c rows
    **kwargs,  # `frac_noise`, `num_to_remove_per_class` and `min_examples_per_class` of cleanlab
) -> pd.DataFrame:  # Columns id, class, given, probability, label_quality, is_issue
    """Which classes of which items are wrong: one row an item and class, the likeliest wrong first, indexed by the
    item's position (an item with several flagged classes has several rows). `given` says whether the item was given
    the class, `probability` is that of its having it. Method and errors as `find_multilabel_issues`."""
    labels, pred_probs = _check_multilabel(labels, pred_probs, vocab)
    (n, c), ids = labels.shape, id_column(ids, len(labels))
    flagged, quality = _class_issues(labels, pred_probs, filter_by, **kwargs), _class_quality(labels, pred_probs, score)
    keep = np.flatnonzero(flagged) if only_issues else np.arange(n*c)
    df = pd.DataFrame({
        'id': as_is(ids[keep // c]), 'class': as_is(names_of(c, vocab)[keep % c]), 'given': labels.ravel()[keep],
        'probability': pred_probs.ravel()[keep], 'label_quality': quality.ravel()[keep],
        'is_issue': flagged.ravel()[keep]})
    return worst_first(df.set_axis(keep // c))


def find_regression_issues(
    targets,  # Given numbers (n,), or (n, k) for k outputs an item
    predictions,  # Predicted numbers, the same shape; out-of-fold where the model was trained on these targets
    score='residual',  # What ranks the items: one of `REGRESSION_SCORES`, or as in `label_quality`
    *,
    threshold=.05,  # Items are issues whose quality is below this share of the median quality, 0 to 1
    ids=None,  # Stable names of the items (n,); None: their positions
    names=None,  # Names of the k outputs; None: their indices
) -> pd.DataFrame:  # Columns id, given, predicted, residual, label_quality, is_issue; for k > 1 worst_output; n rows
    """The issue table of numeric targets: every item, the likeliest wrong one first, indexed by its position.

    `residual` is predicted minus given, in the unit of the target; `label_quality` is 0 to 1. The rule of `is_issue` is
    that of cleanlab's Datalab, on the quality of `REGRESSION_SCORES[0]` where `score` is no name. 'residual' is
    cleanlab's exp(-|residual|), with the residual in units of its median size, so that neither ranks nor issues depend
    on the target's unit: at the default threshold an issue is a residual 4 times the median one, 2.7 standard
    deviations of normal noise. 'outre' (Zhou et al., "Detecting Errors in Numerical Data via any Regression Model",
    2023) compares every item with half of the others: it ranked planted errors no better (average precision within .01
    on 24 data sets of 442 or 800 items) and is refused over 10,000 items, where it takes 10 s and 1 GB, growing with
    n².

    With k > 1 outputs, each is scored alone; the quality is exp(-root mean square of the outputs' -log quality). It
    ranked one wrong output like the minimum and all wrong outputs almost like the mean, each poor at the other.
    `given` and `predicted` are tuples, and `residual` is that of the worst output.

    Raises ValueError or TypeError for arguments that do not fit."""
    targets, predictions = _check_regression(targets, predictions, threshold, names)
    (n, k), ids = targets.shape, id_column(ids, len(targets))
    residual = predictions - targets
    own = score if isinstance(score, str) else 'residual'
    quality = _output_quality(targets, predictions, own)
    worst, total = quality.argmin(1), _total(quality)
    ranked = any_score(score, lambda name: _total(_output_quality(targets, predictions, name)), targets, predictions)
    df = pd.DataFrame({
        'id': as_is(ids), 'given': _numbers(targets), 'predicted': _numbers(predictions),
        'residual': residual[np.arange(n), worst], 'label_quality': ranked,
        'is_issue': total < threshold*np.median(total)})
    if k > 1: df['worst_output'] = names_of(k, names)[worst]
    return worst_first(df)


def _output_quality(targets, predictions, score):
    "Quality (n, k) of each output of each item"
    check_choice('score', score, REGRESSION_SCORES)
    n, k = targets.shape
    if score == 'residual': return np.stack([_residual_quality((predictions - targets)[:, j]) for j in range(k)], 1)
    if not 4 <= n <= OUTRE_MAX:
        raise ValueError(f"score is 'outre', which compares items with each other and takes 4 to {OUTRE_MAX:,} items, "
                         f"but there are {n:,}: pass score='residual'")
    return np.stack([regression.get_label_quality_scores(targets[:, j], predictions[:, j], method='outre')
                     for j in range(k)], 1)


def _total(quality):
    "Quality (n,) over the outputs"
    if quality.shape[1] == 1: return quality[:, 0]
    return np.exp(-np.sqrt(np.square(np.log(np.maximum(quality, np.finfo(float).tiny))).mean(1)))


def _class_issues(labels, pred_probs, filter_by, frac_noise=1., num_to_remove_per_class=None,
                  min_examples_per_class=1):
    "Which classes of which items (n, c) are flagged"
    check_choice('filter_by', filter_by, FILTERS)
    c, remove = labels.shape[1], num_to_remove_per_class
    if remove is not None and len(remove) != c:
        raise ValueError(f"num_to_remove_per_class has {len(remove)} numbers for {c} classes: pass one a class")
    flagged = np.zeros(labels.shape, dtype=bool)
    both = np.flatnonzero(labels.any(0) & ~labels.all(0))  # cleanlab raises for the others
    if len(both):
        flagged[:, both] = find_multilabel_issues_per_class(
            [np.flatnonzero(row).tolist() for row in labels[:, both]], pred_probs[:, both], filter_by=filter_by,
            frac_noise=frac_noise, num_to_remove_per_class=None if remove is None else [remove[i] for i in both],
            min_examples_per_class=min_examples_per_class, n_jobs=1, verbose=False)
    return flagged


def _class_quality(labels, pred_probs, score):
    "Quality (n, c) of each class of each item"
    check_choice('score', score, SCORES)
    return np.stack([get_label_quality_scores(y.astype(int), np.stack([1 - p, p], 1), method=score)
                     for y, p in zip(labels.T, pred_probs.T)], 1).astype(float)


def _moving_average(quality, alpha=.8):
    "cleanlab's aggregate of the classes: from the best to the worst, each weighs `alpha` against those before it"
    best_first = -np.sort(-quality, 1)
    total = best_first[:, 0]
    for q in best_first.T[1:]: total = alpha*q + (1 - alpha)*total
    return total


def _residual_quality(residual):
    size = np.abs(residual)
    scale = np.median(size) or size.mean() or 1.
    return np.exp(-size/scale)


def _tuples(names, mask): return objects(tuple(names[row].tolist()) for row in mask)


def _numbers(x): return x[:, 0] if x.shape[1] == 1 else objects(map(tuple, x.tolist()))


def _check_multilabel(labels, pred_probs, vocab):
    labels, probs = check_numbers('labels', labels, (2,)), check_numbers('pred_probs', pred_probs, (2,))
    if labels.shape != probs.shape:
        raise ValueError(f"labels has shape {labels.shape}, but pred_probs has {probs.shape}: pass (items, classes) "
                         "for both, 1 where the item has the class")
    bad = ((labels != 0) & (labels != 1)).any(1)
    if bad.any():
        raise ValueError(f"labels has {bad.sum()} rows with values other than 0 and 1, first row {bad.argmax()}: pass "
                         "1 where the item has the class and 0 where not")
    bad = ((probs < 0) | (probs > 1)).any(1)
    if bad.any():
        row = bad.argmax()
        raise ValueError(f"pred_probs has {bad.sum()} rows outside 0..1, first row {row} with values from "
                         f"{probs[row].min():.4g} to {probs[row].max():.4g}: pass probabilities, not logits")
    check_vocab(vocab, probs.shape[1])
    return labels.astype(bool), probs if probs.dtype in (np.float32, np.float64) else probs.astype(np.float32)


def _check_regression(targets, predictions, threshold, names):
    targets, predictions = (check_numbers(name, x, (1, 2)).astype(float) for name, x in
                            (('targets', targets), ('predictions', predictions)))
    targets, predictions = (x[:, None] if x.ndim == 1 else x for x in (targets, predictions))
    if targets.shape != predictions.shape:
        raise ValueError(f"targets has {targets.shape[0]} items of {targets.shape[1]} numbers, but predictions has "
                         f"{predictions.shape[0]} of {predictions.shape[1]}: pass one prediction a target")
    if not 0 <= threshold <= 1: raise ValueError(f"threshold is {threshold!r}: pass a share from 0 to 1")
    if names is not None and len(names) != targets.shape[1]:
        raise ValueError(f"names has {len(names)} names for {targets.shape[1]} outputs: pass one an output")
    return targets, predictions
