"Several annotators: the consensus on each item, how good each annotator is, and whom to ask next"
import warnings
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from cleanlab.multiannotator import get_label_quality_multiannotator

from .._columns import objects
from .._rows import aligned
from .._text import as_text, brief
from .annotations import check_vocab_alone, count_votes, in_order, read_annotations
from .calibrate import apply_temperature, fit_temperature
from .checks import check_labels, check_probs, check_vocab, lined_up
from .columns import as_is, names_of, warn_of_twins, worst_first

CALIBRATE = 20_000  # Annotations that choose the temperature


class AnnotatorIssues(NamedTuple):
    """What `find_annotator_issues` found, as three tables.

    `items` is an issue table, worst first, indexed by the item's position: `id`; `given`, the label
    that the items have, or the majority; `predicted` and `confidence`, if there is a model;
    `label_quality`, how likely `given` is right in the light of annotators and model, 0 to 1;
    `is_issue`, whether the consensus is another label; `consensus` and `consensus_quality`, as
    likely; `agreement`, the share of the item's annotators who gave the consensus; and
    `n_annotations`. An item that nobody labelled has neither a given label nor a consensus.

    `annotators` has a row per annotator, worst first: `quality`, 0 to 1; `n_labels`; `agreement`
    with the consensus; `worst_class`, given by the annotator and wrong most often, or None. Quality
    ranks annotators, and is lower than their share of right labels; that of one who shares no item
    with others is not known.

    `ask` has a row per item, by position, those that another label tells most about first: `id`,
    `score`, 0 to 1, `n_annotations`, and `annotator`, the best of those who have not labelled it,
    or None."""
    items: pd.DataFrame
    annotators: pd.DataFrame
    ask: pd.DataFrame

    def __repr__(self):
        return (f'AnnotatorIssues({len(self.items):,} items, {len(self.annotators):,} annotators, '
                f'{int(self.items.is_issue.sum()):,} label issues)')

    def at(self,
        positions: np.ndarray,  # Positions (n,) in the data set
    ) -> 'AnnotatorIssues':
        "The same, of items that are only a part of a data set"
        items, ask = (o.set_axis(pd.Index(positions[o.index], name='position'))
                      for o in (self.items, self.ask))
        return AnnotatorIssues(items, self.annotators, ask)


def find_annotator_issues(
    labels: Any,  # Labels (n, m) with gaps, or in long form: a DataFrame of id, annotator, label
    pred_probs: Any = None,  # Probabilities (n, c), out-of-fold; None: by the votes alone
    *,
    vocab: Sequence | None = None,  # Names of the c classes; None: their indices
    ids: Sequence | None = None,  # Stable names of the items (n,); None: row labels, or positions
    given: Sequence | None = None,  # Labels (n,) that the items have; None: `majority_labels`
    id_column: Hashable = 'id',  # Column of the ids, in long form, or beside those of annotators
    annotator_column: Hashable = 'annotator',  # In long form, the column of annotators' names
    label_column: Hashable = 'label',  # In long form, the column of labels
) -> AnnotatorIssues:
    """The consensus of several annotators and a model, the quality of each annotator, and which
    items to have labelled again, by whom.

    `labels` is an array or a DataFrame with a column per annotator, NaN, None or NA where they gave
    no label; or a DataFrame in long form, a row per annotation. A DataFrame finds its items by row
    label or id, in any order: those of `ids`, or of `pred_probs` if it is a DataFrame. In long form
    a row without a label says only that there is such an item.

    With `pred_probs`, consensus and qualities are cleanlab's CROWDLAB (Goh, Tkachenko and Mueller,
    "CROWDLAB: Supervised learning to infer consensus labels and quality scores for data with
    multiple annotators", 2022), and the scores of `ask` ActiveLab's (Goh and Mueller, 2023), on
    probabilities that `fit_temperature` scales. Without, the consensus is the majority, qualities
    are shares of annotators who agree, and a warning says so. Ties are broken as in
    `majority_labels`, but leave the given label if it is one of the most frequent.

    The items that several labelled are taken for a fair sample. If they were chosen because they
    look wrong, leave the others out: annotators who disagree there would count little everywhere.

    Raises ValueError if no item has labels of two annotators, an annotator gave an item two labels,
    labels are not in the vocab, items do not fit, or `given` has labels that none of the item's
    annotators gave; TypeError for arguments of another kind. Warns if `given` is not the majority,
    nor one annotator's labels.

    >>> labels = [[0, 0, 1], [1, None, 1], [0, 1, None], [1, 1, 1]]
    >>> probs = [[.9, .1], [.2, .8], [.1, .9], [.3, .7]]
    >>> found = find_annotator_issues(labels, probs, vocab=['cat', 'dog'])
    >>> found.items[['given', 'consensus', 'agreement']].head(1).to_dict('index')
    {2: {'given': 'cat', 'consensus': 'dog', 'agreement': 0.5}}
    >>> found.annotators[['n_labels', 'worst_class']].to_dict('index')[0]
    {'n_labels': 4, 'worst_class': 'cat'}
    >>> found.ask[['n_annotations', 'annotator']].to_dict('index')[2]
    {'n_annotations': 2, 'annotator': 2}
    """
    table = read_annotations(labels, id_column, annotator_column, label_column)
    names, codes, probs, vocab = _aligned(table, pred_probs, vocab, ids)
    c = len(vocab) if probs is None else probs.shape[1]

    warn_of_twins(vocab)
    votes = count_votes(codes, c)
    if given is None: own = votes.majority
    else: own = _check_given(given, codes, votes, names, c, vocab)
    if probs is None:
        warnings.warn("pred_probs is missing: the consensus is the majority of the annotators, and "
                      "qualities are shares of those who agree; pass out-of-fold probabilities to "
                      "weigh annotators and model", stacklevel=2)
        found = _by_votes(codes, votes, own, c)
    else: found = _by_crowdlab(codes, probs, own)
    people = _annotators(names_of(c, vocab), codes, table.annotators, found)
    return AnnotatorIssues(_items(names, names_of(c, vocab), codes, probs, own, found), people,
                           _ask(names, codes, table.annotators, people, found))


def _aligned(table, pred_probs, vocab, ids):
    "Ids (n,), class indices (n, m), probabilities (n, c) or None, and vocab, if items fit"
    _, pred_probs, vocab = lined_up(table.whole(), pred_probs, vocab)
    if pred_probs is None:
        vocab = table.vocab if vocab is None else vocab
        names, codes = in_order(table, table.codes(check_vocab_alone(vocab), vocab), ids,
                                stacklevel=4)
        _check_shared(codes)
        return names, codes, None, vocab
    probs = check_probs(pred_probs)
    c = probs.shape[1]
    check_vocab(vocab, c)
    index = pred_probs.index if isinstance(pred_probs, pd.DataFrame) else None
    if table.form == 'long' and ids is None and index is None:
        raise ValueError("labels is in long form, while pred_probs is an array, whose rows no id "
                         "names: pass ids, in the order of pred_probs")
    names, codes = in_order(table, table.codes(c, vocab), ids, index, stacklevel=4)
    _check_shared(codes)
    return names, codes, _probs_in_order(pred_probs, probs, names, ids), vocab


def _check_shared(codes):
    if np.count_nonzero(~np.isnan(codes), 1).max(initial=0) < 2:
        raise ValueError(f"labels has no item with labels of two annotators, among {len(codes)}: "
                         "for one label per item there is find_issues")


def _probs_in_order(pred_probs, probs, names, ids):
    if isinstance(pred_probs, pd.DataFrame) and ids is not None:
        index = ids.index if isinstance(ids, pd.Series) else None
        df = aligned(pd.DataFrame(probs, pred_probs.index), 'pred_probs', index,
                     [as_text(o) for o in names])
        probs = df.to_numpy()
    if len(probs) != len(names):
        raise ValueError(f"pred_probs has {len(probs)} rows for {len(names)} items: pass one per "
                         "item")
    return probs


def _check_given(given, codes, votes, names, c, vocab):
    "Class indices (n,) of `given`"
    if isinstance(given, pd.Series): given = aligned(given, 'given', None, [*map(as_text, names)])
    try: own = check_labels(given, len(codes), c, vocab)
    except (TypeError, ValueError) as e:
        raise type(e)(str(e).replace('labels', 'given', 1)) from e
    classes = names_of(c, vocab)
    agree = (codes == own[:, None]).sum(1)
    labelled = votes.majority >= 0
    if (odd := labelled & (agree == 0)).any():
        i = odd.argmax()
        raise ValueError(f"given has another label than all annotators of the item for {odd.sum()} "
                         f"of {len(codes)} items, first {brief(names[i])}: {brief(classes[own[i]])}"
                         f", while most say {brief(classes[votes.majority[i]])}; pass the "
                         "annotations of these very items, or those labels too, as an annotator's")
    # Labels of one annotator are no mistake, as those that a review began with
    if (codes == own[:, None]).all(0).any(): return own
    if (odd := agree < votes.most).any():
        i = odd.argmax()
        warnings.warn(f"given is not the majority of the annotators for {odd.sum()} of "
                      f"{len(codes)} items, first {brief(names[i])}: {brief(classes[own[i]])}, "
                      f"while most say {brief(classes[votes.majority[i]])}; see majority_labels",
                      stacklevel=3)
    return own


class _Found(NamedTuple):
    consensus: np.ndarray  # Class indices (n,), -1 for none
    quality: np.ndarray  # Of the consensus (n,)
    label_quality: np.ndarray  # Of the given label (n,)
    annotator_quality: np.ndarray  # (m,)
    ask: np.ndarray  # Scores (n,)


def _by_votes(codes, votes, own, c):
    "Without a model: the majority, and shares of votes"
    has = ~np.isnan(codes)
    n = has.sum(1)
    mine = (codes == own[:, None]).sum(1)
    consensus = np.where((mine == votes.most) & (mine > 0), own, votes.majority)
    shared = has & (n > 1)[:, None]
    right = codes == consensus[:, None]
    # ActiveLab's mean of quality and chance, with the weight 1 for each annotator
    ask = (votes.most + 1/c)/(n + 1)
    return _Found(consensus, _divided(votes.most, n), _divided(mine, n),
                  _divided((right & shared).sum(0), shared.sum(0)), ask)


def _divided(a, b): return np.divide(a, b, out=np.full(len(a), np.nan), where=b > 0)


def _by_crowdlab(codes, probs, own):
    has = ~np.isnan(codes)
    n, c = probs.shape
    # cleanlab refuses items and annotators without labels
    rows = has.any(1)
    columns = has.any(0)
    part = codes[np.ix_(rows, columns)]
    table, stats, weights, model = _crowdlab(part, probs[rows], annotators=True)
    consensus = np.full(n, -1)
    consensus[rows] = table.consensus_label
    quality = np.full(n, np.nan)
    quality[rows] = table.consensus_quality_score
    label_quality = np.full(n, np.nan)
    several = table.num_annotations > 1
    likelihood = table.annotator_agreement[several].mean()
    label_quality[rows] = _likelihood(part, probs[rows], own[rows], weights, model, likelihood)
    annotator_quality = np.full(len(columns), np.nan)
    annotator_quality[columns] = stats.annotator_quality.sort_index()
    return _Found(consensus, quality, label_quality, annotator_quality,
                  _scores(codes, probs, rows, columns))


def _crowdlab(codes, probs, annotators):
    with warnings.catch_warnings(), _seeded():
        # What it says of them, the tables say too
        warnings.filterwarnings('ignore', 'Annotators do not agree on any example')
        warnings.filterwarnings('ignore', 'breaking ties of examples')
        found = get_label_quality_multiannotator(
            codes, probs, return_detailed_quality=False, return_annotator_stats=annotators,
            return_weights=True, verbose=False)
    return (found['label_quality'], found.get('annotator_stats'), found['annotator_weight'],
            found['model_weight'])


@contextmanager
def _seeded() -> Iterator[None]:
    "cleanlab breaks its last ties by chance: always alike, and without a trace on the generator"
    state = np.random.get_state()
    np.random.seed(0)
    try: yield
    finally: np.random.set_state(state)


def _likelihood(codes, probs, label, weights, model, likelihood):
    """CROWDLAB's probability (n,) of a label that need not be the consensus: the weighted mean of
    the model's, and of what annotators who gave it, or another one, say about it"""
    has = ~np.isnan(codes)
    same = codes == label[:, None]
    other = (1 - likelihood)/(probs.shape[1] - 1)
    said = (same @ weights)*likelihood + ((has & ~same) @ weights)*other
    return (probs[np.arange(len(probs)), label]*model + said)/(has @ weights + model)


def _scores(codes, probs, rows, columns):
    "ActiveLab's scores (n,)"
    # cleanlab's own function (2.9) counts labels beside gaps, which are floats, for other classes,
    # so that the temperature that it fits to them is wrong; it also prints, and takes 20 seconds
    # for 50,000 items
    row, column = np.nonzero(~np.isnan(codes))
    some = np.random.default_rng(0).permutation(len(row))[:CALIBRATE]
    label = codes[row[some], column[some]].astype(np.int64)
    scaled = apply_temperature(probs, fit_temperature(label, probs[row[some]]))
    part = codes[np.ix_(rows, columns)]
    table, _, weights, model = _crowdlab(part, scaled[rows], annotators=False)
    quality = scaled.max(1).astype(float)
    quality[rows] = table.consensus_quality_score
    total = np.full(len(probs), model)
    total[rows] += (~np.isnan(part)) @ weights
    mean = weights.mean()
    return (quality*total + mean/probs.shape[1])/(total + mean)


def _items(names, classes, codes, probs, own, found):
    model = {}
    if probs is not None:
        model = {'predicted': as_is(classes[probs.argmax(1)]), 'confidence': probs.max(1)}
    n_annotations = (~np.isnan(codes)).sum(1)
    agree = (codes == found.consensus[:, None]).sum(1)
    return worst_first(pd.DataFrame({
        'id': as_is(names), 'given': _named(classes, own), **model,
        'label_quality': found.label_quality,
        'is_issue': (found.consensus != own) & (found.consensus >= 0),
        'consensus': _named(classes, found.consensus), 'consensus_quality': found.quality,
        'agreement': _divided(agree, n_annotations), 'n_annotations': n_annotations}))


def _named(classes, codes):
    return as_is(objects([*classes, None])[codes] if (codes < 0).any() else classes[codes])


def _annotators(classes, codes, annotators, found):
    row, column = np.nonzero(~np.isnan(codes))
    m = len(annotators)
    cells = pd.DataFrame({'annotator': column, 'label': codes[row, column].astype(np.int64)})
    cells['right'] = cells.label.to_numpy() == found.consensus[row]
    each = cells.groupby(['annotator', 'label']).right.agg(['mean', 'size']).reset_index()
    # Of classes that are wrong as often, that with most labels
    each = each.sort_values(['mean', 'size', 'label'], ascending=[True, False, True])
    worst = each[each['mean'] < 1].drop_duplicates('annotator').set_index('annotator').label
    worst = worst.reindex(range(m), fill_value=-1).to_numpy()
    n_labels = np.bincount(column, minlength=m)
    right = np.bincount(column, cells.right, minlength=m)
    df = pd.DataFrame({
        'quality': found.annotator_quality, 'n_labels': n_labels,
        'agreement': _divided(right, n_labels), 'worst_class': _named(classes, worst)})
    df = df.set_axis(pd.Index(objects(annotators), dtype=object, name='annotator'))
    return df.sort_values(['quality', 'agreement'], kind='stable')


def _ask(names, codes, annotators, people, found):
    known = people.index[people.quality.notna()]
    best_first = pd.Index(objects(annotators)).get_indexer(known)[::-1]
    has = ~np.isnan(codes)
    free = ~has[:, best_first]
    some = free.any(1)
    whom = np.full(len(names), None, dtype=object)
    whom[some] = objects(annotators)[best_first[free[some].argmax(1)]]
    df = pd.DataFrame({'id': as_is(names), 'score': found.ask, 'n_annotations': has.sum(1),
                       'annotator': as_is(whom)})
    return df.iloc[np.argsort(found.ask, kind='stable')].rename_axis('position')
