"The labels, the task and the ids of a data set, read without its inputs if the data set allows it"
import hashlib
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple
from warnings import warn

import numpy as np
import pandas as pd
import torch
from fastai.data.core import Datasets
from fastai.data.transforms import EncodedMultiCategorize
from fastai.tabular.core import Tabular
from fastai.text.data import LMDataLoader
from fastai.torch_core import no_random
from fastai.vision.core import AddMaskCodes
from fastcore.xtras import is_listy
from torch import nn
from torch.nn import functional as F
from torch.utils.data import IterableDataset

from .._text import brief, shorten

LONGEST_ID = 200  # Characters; a text that reaches this length is named by its hash


class Labels(NamedTuple):
    """The labels of a data set of n items.

    `targets` are class indices (n,), booleans (n, c) for several labels per item, or float32 (n,)
    or (n, k) for regression; None for masks, which only a loaded batch shows as the model sees
    them. `vocab` holds the c class names, or is None if there are none. `task` is one of
    `issues.checks.TASKS`."""
    targets: np.ndarray | None
    vocab: list | None
    task: str

    @property
    def c(self) -> int | None:
        "Number of outputs that a model needs, or None if it is not known"
        if self.task == 'regression': return 1 if self.targets.ndim == 1 else self.targets.shape[1]
        return None if self.vocab is None else len(self.vocab)

    def said(self,
        target: Any,  # One of such targets
    ) -> str:
        "A target as a message shows it"
        if self.task == 'classification' and self.vocab is not None:
            return brief(self.vocab[int(target)])
        return brief(np.asarray(target).tolist())


def labels_of(
    dl,  # A fastai or torch DataLoader
    binary: bool = False,  # Whether vectors of 0 and 1 are several labels, see `is_binary_loss`
) -> Labels:
    """The labels of the data set behind `dl`, item by item.

    Raises TypeError if the data set has no labels, or labels that are neither classes, masks nor
    numbers, and ValueError for an empty data set and for labels outside the vocab."""
    ds = dl.dataset
    _check_data_set(dl, ds)

    if isinstance(ds, Tabular): return _table_labels(ds)
    try:
        found = _lists_targets(ds) if isinstance(ds, Datasets) else _plain_targets(dl, ds)
        first, ys, vocab = found
        if ys is not None: ys = list(ys)
    except (KeyError, TypeError, AttributeError, ValueError) as e:
        if found := _unreadable(ds): raise ValueError(found) from e
        raise
    if ys is None:
        raise TypeError("the data set has no labels: build it with a target, or pass "
                        "with_labels=True to test_dl")
    task = task_of(first)
    # A plain data set's float vectors look alike for both tasks, whereas fastai has types
    if task == 'regression' and binary and not isinstance(ds, Datasets) and np.ndim(first):
        task = 'multilabel'
    if task == 'segmentation': return Labels(None, _unique(_codes(dl) or vocab), task)
    # A text data set has a vocab of words and one of labels; the labels' is the last
    if vocab is not None and len(vocab) and not isinstance(vocab[0], str) and is_listy(vocab[0]):
        vocab = vocab[-1]
    return _checked(ds, [_array(y) for y in ys], vocab, task)


def warn_if_unreadable(
    dl,  # DataLoader of the validation set
) -> None:
    """Warn, naming items, if labels of fastai's Datasets cannot be read, on which a fit fails at
    the end of its first epoch. Not an error: a fit may leave validation out. Inputs are not read"""
    ds = dl.dataset
    # Without a vocab every label can be read; that of a mask would open a file
    if not isinstance(ds, Datasets) or not hasattr(ds.tls[-1], 'vocab'): return
    with no_random(): found = _unreadable(ds)
    if found:
        warn(f"in the validation set, {found}; otherwise a fit that validates ends with an error",
             stacklevel=2)


def _unreadable(ds):
    """A sentence that names items whose labels cannot be read, such as a missing one or a class
    that the vocab lacks, on which fastai fails with an error that names none; or ''"""
    if not isinstance(ds, Datasets) or len(ds.tls) != ds.n_inp + 1: return ''
    target = ds.tls[ds.n_inp]
    bad = []
    for i in range(len(ds)):
        try: target[i]
        except Exception as e: bad.append((i, e))  # noqa: BLE001  of a function of the user's
    # The tokenizer, or a function of the user's, fails for every item: that is no label's fault
    if not bad or len(bad) == len(ds): return ''
    i, e = bad[0]
    why = shorten(e.args[0] if e.args else e, 60)
    return (f"{len(bad)} labels are missing or outside the vocab, first that of item "
            f"{shorten(ids_of(ds)[i], 80)} ({why}): correct them or leave the items out")


def _check_data_set(dl, ds):
    if isinstance(dl, LMDataLoader):
        raise TypeError("the DataLoaders are a language model's, whose targets are the next words: "
                        "label issues need a classifier, for example "
                        "TextDataLoaders.from_df(..., is_lm=False)")
    indexed = hasattr(ds, '__getitem__') and hasattr(ds, '__len__')
    if isinstance(ds, IterableDataset) or not indexed:
        raise TypeError(f"the data set is a {type(ds).__name__}, which cannot be indexed: "
                        "out-of-fold training needs a data set with __getitem__ and __len__")
    # `learn.export()` keeps empty DataLoaders
    if len(ds) == 0:
        raise ValueError("the data set is empty, as an exported Learner's is: pass a labelled one")


def _lists_targets(ds):
    "First target, targets and vocab of fastai's Datasets; the inputs are not read"
    tls = ds.tls[ds.n_inp:]
    if len(tls) > 1:
        raise TypeError(f"there are {len(tls)} targets per item: pass Datasets with one (see "
                        "n_inp)")
    if not len(tls): return None, None, None
    return tls[0][0], tls[0], getattr(tls[0], 'vocab', None)


def _plain_targets(dl, ds):
    "First target, targets and vocab of any other data set, whose items must all be read"
    first = ds[0]
    vocab = getattr(ds, 'vocab', None)
    if not is_listy(first): return None, None, vocab
    n_inp = getattr(dl, 'n_inp', max(1, len(first) - 1))
    if len(first) != n_inp + 1: return None, None, vocab
    return first[n_inp], (ds[i][n_inp] for i in range(len(ds))), vocab


def _table_labels(to):
    names = [o for o in to.y_names if o in to.items.columns]
    if not names:
        raise TypeError("the table has no target column: pass y_names, or with_labels=True to "
                        "test_dl")
    vocab = getattr(to.procs, 'vocab', None)
    encoded = any(isinstance(o, EncodedMultiCategorize) for o in to.procs.fs)
    if len(names) > 1 and vocab is not None and not encoded:
        raise TypeError(f"there are {len(names)} target columns {names}, each with classes: pass "
                        "one, or MultiCategoryBlock(encoded=True) for columns of 0 and 1")

    ys = to.items[names].to_numpy(dtype=np.float32)
    if len(names) > 1 and vocab is not None: return _checked(to, list(ys), names, 'multilabel')
    if len(names) == 1: ys = ys[:, 0]
    return _checked(to, list(ys), vocab, 'regression' if vocab is None else 'classification')


def _codes(dl):
    "Class names of masks, if MaskBlock was given them"
    for o in getattr(getattr(dl, 'after_item', None), 'fs', ()):
        if isinstance(o, AddMaskCodes) and o.codes is not None: return list(o.codes)
    return None


def _array(y): return np.asarray(y.cpu() if isinstance(y, torch.Tensor) else y)


def _checked(ds, ys, vocab, task):
    "`Labels` of the arrays `ys`, one per item; ValueError if one is not in the vocab or not finite"
    if task == 'classification': targets, bad = _classes(ys, vocab)
    else: targets, bad = _vectors(ys, vocab, task)
    if bad.any():
        kind = 'missing or infinite' if task == 'regression' else 'outside the vocab'
        first = shorten(ids_of(ds)[bad.argmax()], 80)
        raise ValueError(f"{bad.sum()} labels are {kind}, first that of item {first}: correct them "
                         "or leave the items out")
    return Labels(targets, None if task == 'regression' else _unique(vocab), task)


def _classes(ys, vocab):
    targets = np.array([_class_index(i, y) for i, y in enumerate(ys)], dtype=np.int64)
    c = targets.max() + 1 if vocab is None else len(vocab)
    return targets, (targets < 0) | (targets >= c)


def _vectors(ys, vocab, task):
    if len({y.shape for y in ys}) > 1:
        raise ValueError("the targets have different lengths: give every item the same number of "
                         "them")
    targets = np.stack(ys).astype(np.float32)
    if targets.ndim == 2 and targets.shape[1] == 1 and task == 'regression': targets = targets[:, 0]
    bad = ~np.isfinite(targets.reshape(len(targets), -1)).all(1)
    if task == 'regression': return targets, bad

    c = targets.shape[1] if vocab is None else len(vocab)
    bad |= ~np.isin(targets, (0, 1)).all(1) | (targets.shape[1] != c)
    return targets.astype(bool), bad


def _class_index(i, y):
    try: return int(y)
    except (TypeError, ValueError) as e:
        raise ValueError(f"the label of item {i} is {y.tolist()!r}, but the first was a class "
                         "index: give every item one class index") from e


def _unique(vocab):
    if vocab is None: return None
    if len(set(vocab)) < len(vocab):
        raise ValueError(f"vocab has {len(set(vocab))} different names in {len(vocab)}: give each "
                         "class its own")
    return list(vocab)


def task_of(
    first: Any,  # The first target of the data set, as the data set returns it
) -> str:  # One of `issues.checks.TASKS`
    """The kind of labels that a target belongs to.

    An integer is a class, and fastai's TensorMultiCategory is several; a mask or a matrix of
    integers is one class per pixel; a float or a vector of floats is numbers to predict. Raises
    TypeError for anything else."""
    # By name, since fastai's types subclass Tensor and a new version may move them
    kinds = {o.__name__ for o in type(first).__mro__}
    if kinds & {'TensorMultiCategory', 'MultiCategory'}: return 'multilabel'
    if kinds & {'PILMask', 'TensorMask'}: return 'segmentation'

    kind = first.dtype.kind if isinstance(first, (np.generic, np.ndarray)) else 'i'
    known = isinstance(first, (int, float, np.generic, np.ndarray, torch.Tensor)) and kind in 'biuf'
    if known and not kinds & {'TensorPoint', 'TensorBBox', 'TensorImageBase'}:
        t = torch.as_tensor(first)
        if t.ndim == 0: return 'regression' if t.is_floating_point() else 'classification'
        if t.ndim == 1 and t.is_floating_point(): return 'regression'
        if t.ndim == 2 and not t.is_floating_point(): return 'segmentation'
    raise TypeError(f"the targets are of type {type(first).__name__}, but label issues need one "
                    "class (CategoryBlock or an integer), several (MultiCategoryBlock), a mask "
                    "(MaskBlock) or numbers (RegressionBlock) per item")


def is_binary_loss(
    loss_func: Callable,  # Loss function of a Learner
) -> bool:
    """Whether `loss_func` is fastai's or torch's binary cross-entropy, whose targets are several
    labels"""
    base = loss_func.func if isinstance(loss_func, partial) else loss_func
    if base in (F.binary_cross_entropy, F.binary_cross_entropy_with_logits): return True
    return isinstance(getattr(base, 'func', base), (nn.BCELoss, nn.BCEWithLogitsLoss))


def ids_of(
    ds,  # A data set: Datasets, Tabular, or any torch Dataset
    path: Path | str | None = None,  # Folder that file paths are made relative to
) -> list[str]:  # n different texts
    """The ids of the items of `ds`, by which they are known everywhere.

    An id is a file's relative path, a DataFrame's row label, a number or a short text itself, or
    the hash of a long text; that of a tuple or list is its first element's. Items of any other kind
    are named by their position. If that gives two items the same id, tuples and lists are named by
    another element, or by several; copies are counted, `a.png` and `a.png#2`; and rows that share
    a row label are named by row label and position, `7@12`, with a warning."""
    items = getattr(ds, 'items', None)
    if items is None or callable(items): return [str(i) for i in range(len(ds))]
    # The index is the only thing that fastai's splits and tokenization leave as it was: find the
    # rows of a frame by its row labels, never by `df.iloc[positions]`
    if isinstance(items, (pd.DataFrame, pd.Series)):
        names = [str(o) for o in items.index]
        return names if _all_differ(names) else _placed(names, _SHARED_LABEL)
    names = [_id_of(o, i, path) for i, o in enumerate(items)]
    return names if _all_differ(names) else _longer(list(items), names, path)


def row_labels(
    ds,  # A data set
) -> pd.Index | None:
    "The row labels (n,) of the items of `ds` if they are rows of a DataFrame or Series"
    items = getattr(ds, 'items', None)
    return items.index if isinstance(items, (pd.DataFrame, pd.Series)) else None


def label_column(
    ds,  # A data set
) -> Any:
    "The column of a DataFrame that `ds` reads its labels from as they are, or None"
    if isinstance(ds, Tabular): return ds.y_names[0] if len(ds.y_names) == 1 else None
    if not isinstance(ds, Datasets) or ds.n_inp >= len(ds.tls): return None
    fs = list(getattr(ds.tls[ds.n_inp].tfms, 'fs', ()))
    # A function between the column and the vocab may map one to the other
    if len(fs) != 2 and not (len(fs) == 1 and hasattr(fs[0], 'cols')): return None
    return column_read(fs[0], ds.tls[ds.n_inp].items)


def column_read(
    f,  # A transform
    items,  # What it reads
) -> Any:
    "The one column of the frame `items` that fastai's ColReader `f` returns unchanged, or None"
    if not isinstance(items, pd.DataFrame): return None
    cols = getattr(f, 'cols', None)
    changed = any(getattr(f, o, None) for o in ('pref', 'suff', 'label_delim'))
    if not cols or len(cols) > 1 or changed: return None
    return cols[0] if isinstance(cols[0], str) and cols[0] in items else None


_SHARED_LABEL = "give each row its own row label, for example with df.reset_index(drop=True)"
_SHARED_NAME = "give each item a first element of its own"


def _all_differ(names): return len({*names}) == len(names)


def _id_of(o, position, path):
    if is_listy(o) and len(o): o = o[0]
    name = _name(o, path)
    return str(position) if name is None else name


def _name(o, path):
    "What a number, a path or a text is called; None for anything else"
    if isinstance(o, (int, np.integer)): return str(o)
    if isinstance(o, Path):
        if path and o.is_relative_to(path): o = o.relative_to(path)
        return o.as_posix()
    if not isinstance(o, str): return None
    if len(o) < LONGEST_ID and o.isprintable(): return o
    # Saved probabilities and journals hold these hashes: another way to make them would orphan them
    return 'sha1:' + hashlib.sha1(o.encode(errors='surrogatepass')).hexdigest()


def _longer(items, names, path):
    "Different ids for `items`, of which some have the same among `names`"
    rows = [o if is_listy(o) and len(o) else (o,) for o in items]
    sizes = {len(o) for o in rows}
    columns = _columns(rows, min(sizes), path)
    # Two paths, one of them relative, may be the same text only because one was made relative
    if path and len({*zip(*_columns(rows, min(sizes), None))}) > len({*zip(*columns)}):
        columns = _columns(rows, min(sizes), None)
    if not columns: return _counted(names)

    # The fewest elements that tell as many items apart as all of them do: what they leave alike
    # are copies, whichever is counted first
    several = (columns[:i] for i in range(2, len(columns) + 1))
    most = len({*zip(*columns)})
    tried = chain(columns, map(_joined, several))
    names = next((o for o in tried if len({*o}) == most), names)
    whole = len(sizes) == 1 and len(columns) == min(sizes)
    return _counted(names) if whole else _placed(names, _SHARED_NAME)


def _columns(rows, k, path):
    "The names of each of the first `k` elements of all `rows`, but not where one has no name"
    found = map(partial(_column, rows, path), range(k))
    return [o for o in found if None not in o]


def _column(rows, path, j): return [_name(o[j], path) for o in rows]


def _joined(columns): return [_name(';'.join(o), None) for o in zip(*columns)]


def _counted(names):
    "`names` with #2, #3, ... behind those that were there before"
    taken = {*names}
    count: dict[str, int] = {}
    res = []
    for name in names:
        k = count.get(name, 0) + 1
        while k > 1 and f'{name}#{k}' in taken: k += 1
        count[name] = k
        res.append(name if k == 1 else f'{name}#{k}')
    return res


def _placed(names, advice):
    "`names` with the position behind those that are there twice, and a warning if there are any"
    count = Counter(names)
    shared = [o for o in names if count[o] > 1]
    if shared:
        warn(f"{len(shared)} of {len(names)} items share their name, first {brief(shared[0])}: "
             "they are named by name and position, which another order or selection of the items "
             f"changes; {advice}", stacklevel=2)
    return _counted([f'{o}@{i}' if count[o] > 1 else o for i, o in enumerate(names)])
