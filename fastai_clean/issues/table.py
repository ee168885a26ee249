"Labels and predicted probabilities in, the issue table out"
import numpy as np
import pandas as pd
from cleanlab.filter import find_label_issues
from cleanlab.rank import get_label_quality_scores

from .checks import check_labels_probs
from .columns import any_score, as_is, check_choice, id_column, names_of, worst_first
from .options import check_options, workers
from .stream import FILTERS, PRUNE, SCORES, StreamedIssues, check_two_classes, is_large


def find_issues(
    labels,  # Given labels: class indices (n,), or values of `vocab`
    pred_probs,  # Probabilities (n, c), out-of-fold where the model was trained on these labels
    filter_by='prune_by_noise_rate',  # Which items are issues: one of `FILTERS`
    score='self_confidence',  # What ranks the items: one of `SCORES`, scores (n,), a function or a list, see below
    *,
    ids=None,  # Stable names of the items (n,); None: their positions
    vocab=None,  # Names of the c classes; None: their indices
    frac_noise=1.,  # Share of the estimated issues to flag, the likeliest first; cleanlab's, as are those below
    num_to_remove_per_class=None,  # How many to flag of each class (c,), instead of the estimate
    min_examples_per_class=1,  # Classes with no more items than this are not flagged
    n_jobs=1,  # Processes of cleanlab, of which one is the fastest at every size tried; threads from 1e8 values on
) -> pd.DataFrame:  # Columns id, given, predicted, confidence, label_quality, is_issue; n rows
    """The issue table: every item, the likeliest wrong label first, indexed by the item's position in the data set.

    `confidence` is the probability of the predicted class, 0 to 1, and `label_quality` what `label_quality` makes of
    `score`, for a name also 0 to 1. Ties keep the order of the data set. Confident learning: Northcutt,
    Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR 2021. Raises ValueError or
    TypeError as `check_labels_probs` does, and for an unknown filter or score."""
    check_choice('filter_by', filter_by, FILTERS)
    large, n_jobs = is_large(pred_probs), workers(n_jobs)
    if large:
        entropy = isinstance(score, str) and score == SCORES[-1]
        streamed = StreamedIssues(labels, pred_probs, vocab=vocab, entropy=entropy, n_jobs=n_jobs)
        labels, predicted, confidence = streamed.labels, streamed.predicted, streamed.confidence
    else:
        labels, pred_probs = check_labels_probs(labels, pred_probs, vocab)
        predicted = pred_probs.argmax(1)
        confidence = pred_probs[np.arange(len(labels)), predicted]
    check_two_classes(labels)
    options = check_options(np.shape(pred_probs)[1], frac_noise, num_to_remove_per_class, min_examples_per_class)
    ids = id_column(ids, len(labels))
    if large: quality, flagged = _streamed_quality(streamed, score), streamed.mask(filter_by, **options)
    else:
        quality = _quality(labels, pred_probs, score)
        flagged = find_label_issues(labels, pred_probs, filter_by=filter_by, n_jobs=n_jobs, **options)
    names = names_of(np.shape(pred_probs)[1], vocab)
    return worst_first(pd.DataFrame({
        'id': as_is(ids), 'given': as_is(names[labels]), 'predicted': as_is(names[predicted]),
        'confidence': confidence, 'label_quality': quality, 'is_issue': flagged}))


def find_issues_by(
    labels,  # Given labels: class indices (n,), or values of `vocab`
    pred_probs,  # Probabilities (n, c), out-of-fold where the model was trained on these labels; a memory map too
    filters=FILTERS,  # Which of `FILTERS`
    scores=SCORES,  # Which of `SCORES`
    *,
    vocab=None,  # Names of the c classes; None: their indices
    frac_noise=1.,  # As in `find_issues`, for the filters that prune, as are those below
    num_to_remove_per_class=None,  # How many to flag of each class (c,), instead of the estimate
    min_examples_per_class=1,  # Classes with no more items than this are not flagged
    n_jobs=None,  # Threads; None: one a processor
) -> pd.DataFrame:  # n rows in the order of the data set; a boolean column a filter, a column of 0 to 1 a score
    """What each filter flags and each score gives, all from one or two passes over the probabilities, see
    `StreamedIssues`. Each column is that of `find_issues` with the filter or score alone, but in the order of the data
    set, and without given and predicted labels. Raises ValueError and TypeError as `find_issues` does."""
    filters, scores = (_names(*o) for o in (('filters', filters, FILTERS), ('scores', scores, SCORES)))
    streamed = StreamedIssues(labels, pred_probs, vocab=vocab, entropy=SCORES[-1] in scores, n_jobs=n_jobs)
    prune = dict(frac_noise=frac_noise, num_to_remove_per_class=num_to_remove_per_class)
    masks = {o: streamed.mask(o, min_examples_per_class=min_examples_per_class, **(prune if o in PRUNE else {}))
             for o in filters}
    index = pd.RangeIndex(len(streamed.labels), name='position')
    return pd.DataFrame({**masks, **{o: streamed.score(o) for o in scores}}, index)


def _names(name, value, choices):
    if value is None: return list(choices)
    found = [value] if isinstance(value, str) or not np.iterable(value) else list(value)
    for o in found: check_choice(name, o, choices)
    return found


def label_quality(
    labels,  # Given labels: class indices (n,)
    pred_probs,  # Probabilities (n, c)
    score='self_confidence',  # One of `SCORES`, a function of labels and pred_probs, scores (n,), or a list of such
) -> np.ndarray:  # (n,), low where the label is likely wrong
    """Label quality scores of cleanlab, 0 to 1 (Kuan and Mueller, "Model-agnostic label quality scoring", 2022), or any
    others, in the order of the data set. Of a list, the mean of each item's rank by every score, 1/n to 1: their units
    do not matter then (Borda's count). Raises ValueError for an unknown name and for scores that are not n numbers."""
    if is_large(pred_probs): return _streamed_quality(StreamedIssues(labels, pred_probs), score)
    return _quality(*check_labels_probs(labels, pred_probs), score)


def _streamed_quality(streamed, score):
    probs = streamed.checked() if callable(score) or isinstance(score, (list, tuple)) else None
    return any_score(score, streamed.score, streamed.labels, probs)


def _quality(labels, pred_probs, score):
    def named(name):
        check_choice('score', name, SCORES)
        return get_label_quality_scores(labels, pred_probs, method=name)
    return any_score(score, named, labels, pred_probs)
