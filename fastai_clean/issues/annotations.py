"Labels of several annotators, in whatever form they come, as one table; and their majority"
import warnings
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from .._columns import objects
from .._rows import aligned, as_series
from .._text import as_text, brief, natural_key
from .checks import as_array, check_labels, check_vocab
from .columns import id_column as names_from


def majority_labels(
    labels: Any,  # Labels (n, m) with gaps, or in long form, see `find_annotator_issues`
    *,
    vocab: Sequence | None = None,  # Names of the classes; None: the different labels, sorted
    ids: Sequence | None = None,  # Ids (n,) of the items to return; None: all of `labels`
    id_column: Hashable = 'id',  # Column of the ids, see `find_annotator_issues`
    annotator_column: Hashable = 'annotator',  # In long form, that of annotators' names
    label_column: Hashable = 'label',  # In long form, that of labels
) -> pd.Series:  # Labels (n,) indexed by id, called 'label'
    """The label that most annotators gave to each item, to train on.

    Of labels that are equally frequent for an item, that which is rarer in all annotations is
    taken, as cleanlab does, or else the first in the vocab; a warning says for how many items. An
    item that nobody labelled gets None, and a warning. Raises as `find_annotator_issues` does.

    >>> import pandas as pd
    >>> long = pd.DataFrame({'id': ['a', 'a', 'a', 'b'], 'annotator': ['x', 'y', 'z', 'x'],
    ...                      'label': ['cat', 'dog', 'dog', 'cat']})
    >>> majority_labels(long).to_dict()
    {'a': 'dog', 'b': 'cat'}
    """
    table = read_annotations(labels, id_column, annotator_column, label_column)
    vocab = table.vocab if vocab is None else vocab
    c = check_vocab_alone(vocab)
    names, codes = in_order(table, table.codes(c, vocab), ids)

    votes = count_votes(codes, c)
    classes = objects([*vocab, None])  # The last is that of -1
    if (tied := votes.n_most > 1).any():
        i = tied.argmax()
        said = codes[i][~np.isnan(codes[i])].astype(int)
        most = [classes[k] for k in np.unique(said) if (said == k).sum() == votes.most[i]]
        warnings.warn(f"labels has {tied.sum()} of {len(codes)} items without a majority, first "
                      f"{brief(names[i])} with {brief(most)}: each gets that of its most frequent "
                      "labels which is rarer in all annotations", stacklevel=2)
    if (none := votes.majority < 0).any():
        warnings.warn(f"labels has no label of {none.sum()} of {len(codes)} items, first "
                      f"{brief(names[none.argmax()])}: theirs is None, leave them out of training",
                      stacklevel=2)
    values = pd.Series(classes[votes.majority], pd.Index(names, name='id'), object, 'label')
    # Of numbers, a gap would make floats
    return values if none.any() else values.infer_objects()


class Annotations(NamedTuple):
    "Annotations as they were given: the label `values[which]` (k,) of item `row` by `column`"
    which: np.ndarray  # Number (k,) of the label in `values`
    values: list  # The different labels, whole numbers as integers
    row: np.ndarray  # (k,)
    column: np.ndarray  # (k,)
    index: pd.Index  # Row labels, or ids, of the items (n,)
    annotators: list  # Their names (m,)
    form: str  # 'array', 'wide' or 'long'

    @property
    def is_whole(self) -> bool:
        "Whether all labels are whole numbers, which may be positions in the vocab"
        return all(isinstance(o, int) and not isinstance(o, bool) for o in self.values)

    def whole(self) -> np.ndarray | None:
        "The different labels if they are whole numbers, or None"
        return np.array(self.values) if self.is_whole else None

    @property
    def vocab(self) -> list:
        """The different labels, sorted. Raises ValueError if there is none, or one that is no
        class"""
        if not self.values: raise ValueError("labels has no label at all: pass annotations")
        if self.form == 'array' and 'nan' in self.values:
            raise ValueError("labels has the text 'nan', which numpy makes of a gap beside texts: "
                             "pass a list, or an array of dtype object")
        # A column of ids or of remarks would become as many classes
        for k, name in enumerate(self.annotators if self.form == 'wide' else ()):
            mine = self.which[self.column == k]
            n = len(mine)
            if n == len(self.index) > 2 and n == len({*mine} - {*self.which[self.column != k]}):
                raise ValueError(f"labels has the column {brief(name)}, whose {n} values all "
                                 "differ and which no other column has: name it in id_column if "
                                 "it holds the ids, or pass the vocab")
        return sorted(self.values, key=natural_key)

    def codes(self,
        c: int,  # Number of classes
        vocab: Sequence | None,  # Their names, or None
    ) -> pd.DataFrame:
        "Class indices (n, m), NaN for gaps. Raises ValueError for what is not in the vocab"
        known = {*range(c)} if self.is_whole or vocab is None else set()
        if vocab is not None: known |= {*vocab}
        # fastai makes texts of booleans, which `check_labels` knows
        if all(isinstance(o, bool) for o in self.values) and {'False', 'True'} & known:
            known |= {o for o in self.values if str(o) in known}
        bad = np.array([o not in known for o in self.values], dtype=bool)[self.which]
        if bad.any():
            i = bad.argmax()
            value = self.values[self.which[i]]
            where = f"0..{c - 1}" if vocab is None else f"the vocab {brief(list(vocab))}"
            advice = "mark a gap by NaN or None" if value == -1 else "correct them, or the vocab"
            raise ValueError(f"labels has {bad.sum()} annotations outside {where}, first "
                             f"{brief(value)} of {brief(self.index[self.row[i]])} by "
                             f"{brief(self.annotators[self.column[i]])}: {advice}")
        if self.is_whole and vocab is not None: self._check_texts(vocab)
        res = np.full((len(self.index), len(self.annotators)), np.nan)
        if self.values:
            place = check_labels(objects(self.values), len(self.values), c, vocab)
            res[self.row, self.column] = place[self.which]
        return pd.DataFrame(res, self.index, self.annotators)

    def _check_texts(self, vocab):
        # A CSV makes numbers of the classes '1', '2' and '3', which would be taken for positions
        at = {o: k for k, o in enumerate(vocab) if isinstance(o, str)}
        other = [o for o in self.values if at.get(str(o), o) != o]
        if not other: return
        raise ValueError(f"labels has the number {other[0]}, which is a position in the vocab, and "
                         f"as a text the class at position {at[str(other[0])]}: pass texts")


def read_annotations(
    labels: Any,  # As `find_annotator_issues` takes them, as are the next three
    id_column: Hashable,
    annotator_column: Hashable,
    label_column: Hashable,
) -> Annotations:
    "The annotations in `labels`; raises as `find_annotator_issues` does"
    if isinstance(labels, pd.DataFrame):
        _check_unique(labels.columns, 'column')
        here = [o for o in (annotator_column, label_column) if o in labels]
        if len(here) == 2: return _read_long(labels, id_column, annotator_column, label_column)
        if here:
            lost = annotator_column if here[0] == label_column else label_column
            raise ValueError(f"labels has the column {brief(here[0])}, but not {brief(lost)}: name "
                             "the columns of the long form with annotator_column and label_column, "
                             "or drop it if the other columns are annotators")
        if id_column in labels: labels = labels.set_index(id_column)
        elif id_column != 'id':
            raise ValueError(f"labels has no column {brief(id_column)}: name the one that holds "
                             "the ids, or leave id_column out if its index does")
        _check_unique(labels.index, 'id')
        values = labels.to_numpy()
        row, column = np.nonzero(~pd.isna(values))
        which, found = _distinct(values[row, column])
        return Annotations(which, found, row, column, labels.index, list(labels.columns), 'wide')
    values = _as_table(labels)
    row, column = np.nonzero(~pd.isna(values))
    which, found = _distinct(values[row, column])
    return Annotations(which, found, row, column, pd.RangeIndex(len(values)),
                       [*range(values.shape[1])], 'array')


def _check_unique(index, what):
    if index.is_unique: return
    twice = index[index.duplicated()][0]
    raise ValueError(f"labels has the {what} {brief(twice)} twice: give each its own, or, if each "
                     "row is one annotation, name its columns with id_column, annotator_column and "
                     "label_column")


def _as_table(labels):
    # Behind the mask are values that are not meant to be there
    if isinstance(labels, np.ma.MaskedArray):
        labels = pd.DataFrame(labels.data).mask(np.ma.getmaskarray(labels))
    try: values = as_array(labels, 'labels')
    except ValueError as e:
        raise ValueError(f"labels is not a table ({e}): pass one row per item and one column per "
                         "annotator, with NaN or None for gaps") from e
    if values.ndim != 2 or not values.size:
        raise ValueError(f"labels has shape {values.shape}: pass (items, annotators), with NaN or "
                         "None for gaps, or a DataFrame of id, annotator and label")
    # Beside texts, numpy has made one of NaN
    return np.array(labels, dtype=object) if values.dtype.kind in 'US' else values


def _distinct(values):
    "Numbers (k,) of `values` among the different ones, and those"
    try: which, found = pd.factorize(pd.Series(values, dtype=object))
    except TypeError as e:
        raise TypeError(f"labels holds values that are not classes ({e}): pass one label per item "
                        "and annotator") from e
    return which, [_plain(o) for o in found]


def _plain(o):
    "Beside a gap, integers are floats"
    o = o.item() if isinstance(o, np.generic) else o
    return int(o) if isinstance(o, float) and o.is_integer() else o


def _read_long(df, id_column, annotator_column, label_column):
    if id_column not in df:
        raise ValueError(f"labels has the columns {brief(annotator_column)} and "
                         f"{brief(label_column)}, but not {brief(id_column)}: name the column of "
                         "ids with id_column")
    known = df[label_column].notna().to_numpy()
    for name, needed in ((id_column, True), (annotator_column, known)):
        lost = df[name].isna().to_numpy() & needed
        if lost.any():
            raise ValueError(f"labels has {lost.sum()} rows without {brief(name)}, first at "
                             f"position {lost.argmax()}: fill it, or leave them out")

    row, index = pd.factorize(df[id_column].to_numpy(dtype=object))
    column, annotators = pd.factorize(df[annotator_column].to_numpy(dtype=object))
    which, values = _distinct(df[label_column].to_numpy(dtype=object)[known])
    cells = pd.DataFrame({'row': row[known], 'column': column[known], 'which': which})
    firsts = cells.drop_duplicates(['row', 'column'])
    if len(firsts) < len(cells):
        both = cells.merge(firsts, on=['row', 'column'])
        differ = both[both.which_x != both.which_y]
        if len(differ):
            o = differ.iloc[0]
            n = len(differ.drop_duplicates(['row', 'column']))
            raise ValueError(f"labels has {n} items that an annotator labelled twice, differently, "
                             f"first {brief(index[o.row])}, which {brief(annotators[o.column])} "
                             f"called {brief(values[o.which_y])} and {brief(values[o.which_x])}: "
                             "keep one of the two")
        warnings.warn(f"labels has {len(cells) - len(firsts)} annotations more than once: each "
                      "counts once", stacklevel=4)
    return Annotations(firsts.which.to_numpy(), values, firsts.row.to_numpy(),
                       firsts.column.to_numpy(), pd.Index(index, dtype=object), list(annotators),
                       'long')


def check_vocab_alone(
    vocab: Sequence,  # Names of the classes
) -> int:  # How many
    "Raise TypeError if `vocab` is not a list, ValueError if it has a name twice"
    c = len(vocab) if hasattr(vocab, '__len__') else 0
    check_vocab(vocab, c)
    return c


def in_order(
    table: Annotations,
    codes: pd.DataFrame,  # Its class indices (n, m)
    ids: Sequence | None,  # As `find_annotator_issues` takes them
    index: pd.Index | None = None,  # Row labels of the items, if there are no `ids`
    stacklevel: int = 3,  # Of the warning: whose doing it is
) -> tuple[np.ndarray, np.ndarray]:  # Ids (n,) and class indices (n, m)
    "Ids and labels in the order of `ids`, or else of `index`, or else of the table"
    if ids is not None:
        ids = as_series(ids)
        names = names_from(ids, len(ids) if hasattr(ids, '__len__') else len(codes))
        index = ids.index if isinstance(ids, pd.Series) else None
    else: names = objects(codes.index if index is None else index)
    n = len(names)
    if table.form != 'array' and not (ids is None and index is None):
        more = len(codes) - n
        codes = aligned(codes, 'labels', index, [as_text(o) for o in names])
        if more > 0:
            warnings.warn(f"labels has {more} items besides the {n} that are asked for: they are "
                          "left out", stacklevel=stacklevel)
    if len(codes) != n:
        raise ValueError(f"labels has {len(codes)} rows for {n} items: pass one per item, with NaN "
                         "or None for gaps")
    return names, codes.to_numpy()


class Votes(NamedTuple):
    "Of each item (n,)"
    majority: np.ndarray  # Class index, -1 for none
    most: np.ndarray  # Its votes
    n_most: np.ndarray  # How many classes have as many


def count_votes(
    codes: np.ndarray,  # Class indices (n, m), NaN for gaps
    c: int,  # Number of classes
) -> Votes:
    "The most frequent label of each item; ties are broken as in `majority_labels`"
    n = len(codes)
    row, column = np.nonzero(~np.isnan(codes))
    # Pairs that occur, since a table of all items and classes may not fit into memory
    pair, votes = np.unique(row*c + codes[row, column].astype(np.int64), return_counts=True)
    item, label = np.divmod(pair, c)
    most = np.zeros(n, dtype=np.int64)
    np.maximum.at(most, item, votes)
    frequency = np.bincount(label, votes, minlength=c)
    top = votes == most[item]
    item = item[top]
    label = label[top]
    majority = np.full(n, -1)
    # The last that is written stays
    order = np.lexsort((label, frequency[label], item))[::-1]
    majority[item[order]] = label[order]
    return Votes(majority, most, np.bincount(item, minlength=n))
