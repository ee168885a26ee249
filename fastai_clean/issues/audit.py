"Everything else that can be wrong with a data set, by cleanlab's Datalab and by cleanvision"
import contextlib
import io
import re
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from .._columns import objects
from .._rows import aligned
from .checks import as_array, check_labels_probs, workers
from .columns import check_choice, check_numbers, index_of
from .multilabel import check_multilabel, find_multilabel_issues, indicators
from .regression import OUTRE_MAX, find_regression_issues, in_order_of

TASKS = 'classification', 'multilabel', 'regression'
# Modes of images that cleanvision can read
MODES = '1', 'L', 'P', 'RGB', 'RGBA', 'CMYK', 'YCbCr', 'HSV', 'I', 'I;16', 'F'


def audit(
    labels: Any,  # Class indices or values of `vocab` (n,); other tasks: see below
    pred_probs: Any = None,  # Probabilities (n, c), or predicted numbers; None: labels not checked
    features: Any = None,  # Numbers that describe each item (n, d), such as an embedding, or None
    *,
    task: str = 'classification',  # 'classification', 'multilabel' or 'regression'
    paths: Sequence | None = None,  # Image file of each item (n,), or None; None: no image checks
    n_jobs: int = 1,  # Processes that read images; -1: one per processor
    vocab: Sequence | None = None,  # Names of the c classes, in the order of the columns
) -> pd.DataFrame:  # n rows in the order of the data set
    """What may be wrong with each item: for each issue type a column `is_<type>_issue` and a score
    from 0, bad, to 1. Needs the extra `audit`.

    From Datalab, as it names them: `label` (needs `pred_probs`), `outlier` and `non_iid` (need
    `features`, or for classification `pred_probs`), `near_duplicate` (needs `features`) and
    `class_imbalance` (classification). From cleanvision, with `paths`: `dark`, `light`, `blurry`,
    `grayscale`, `low_information`, `odd_size`, `odd_aspect_ratio`, `exact_duplicates` and
    `near_duplicates` (of pixels, while `near_duplicate` is of features); `image_error` says why a
    file could not be read; its scores are NaN. The columns `near_duplicate_sets`,
    `exact_duplicates_sets` and `near_duplicates_sets` hold the positions of an item's duplicates.

    `label` of multilabel and regression is from `find_multilabel_issues` and
    `find_regression_issues`: Datalab itself shifts the columns if a class is given to no item, and
    its time and memory grow with n².

    `attrs['summary']` is a list of dicts issue_type, num_issues and score, the score of the whole
    data set. An issue type that Datalab fails to check gives a warning and no columns. numpy's
    random state is left as it was. `labels` of multilabel are 0 or 1 (n, c), those of regression
    numbers (n,) or (n, k). Raises ImportError without the extra, ValueError or TypeError
    for arguments that do not fit."""
    check_choice('task', task, TASKS)
    lab_class = _import('cleanlab.datalab.datalab', 'cleanlab[datalab]').Datalab
    imagelab = None if paths is None else _import('cleanvision', 'cleanvision').Imagelab
    index = index_of(labels, pred_probs)
    labels, pred_probs = _check(labels, pred_probs, task, vocab)
    features, paths = _check_inputs(features, paths, index, len(labels))
    n_jobs = workers(n_jobs)

    # Datalab seeds numpy's global generator, which belongs to the user
    state = np.random.get_state()
    try:
        parts = _label_issues(labels, pred_probs, task)
        parts += _datalab_issues(lab_class, labels, pred_probs, features, task)
        if paths is not None: parts.append(_image_issues(imagelab, paths, n_jobs))
    finally: np.random.set_state(state)

    df = pd.DataFrame(index=pd.RangeIndex(len(labels), name='position'))
    for columns, _ in parts:
        for name, values in columns.items(): df[f'image_{name}' if name in df else name] = values
    df.attrs['summary'] = [o for _, summary in parts for o in summary]
    return df


def _check_inputs(features, paths, index, n):
    "Features and paths, a list, in the order of the n labels"
    if index is not None:
        features = aligned(features, 'features', index)
        paths = aligned(paths, 'paths', index)
    if features is not None:
        features = check_numbers('features', features, (2,))
        if len(features) != n:
            raise ValueError(f"features has {len(features)} rows for {n} labels: pass one per item")
    if paths is not None and len(paths) != n:
        raise ValueError(f"paths has {len(paths)} files for {n} labels: pass one per item, None if "
                         "it has none")
    # A Series would be asked for its row labels
    return features, None if paths is None else list(paths)


def _check(labels, pred_probs, task, vocab):
    if task == 'multilabel':
        if pred_probs is not None: return check_multilabel(labels, pred_probs, vocab)[:2]
        if vocab is not None: labels = indicators(labels, len(vocab), vocab)
        return check_numbers('labels', labels, (2,)), None
    if task == 'regression':
        pred_probs = in_order_of(labels, pred_probs)
        labels = check_numbers('labels', labels, (1, 2))
        return labels, None if pred_probs is None else as_array(pred_probs, 'pred_probs')
    if pred_probs is not None: return check_labels_probs(labels, pred_probs, vocab)
    return _class_indices(labels, vocab), None


def _class_indices(labels, vocab):
    "Class indices if there are no probabilities; without a vocab, of the classes in `labels`"
    if isinstance(labels, (list, tuple)): labels = pd.Series(labels).to_numpy()
    labels = as_array(labels, 'labels')
    if labels.ndim != 1 or not len(labels):
        raise ValueError(f"labels has shape {labels.shape}: pass one per item, at least 1 item")
    if pd.isna(labels).any():
        raise ValueError(f"labels has {pd.isna(labels).sum()} missing values: leave them out")
    if vocab is None or labels.dtype.kind in 'iub': return pd.factorize(labels, sort=True)[0]

    codes = pd.Index(vocab).get_indexer(labels)
    if (codes < 0).any():
        raise ValueError(f"labels has {(codes < 0).sum()} values outside the vocab, first at "
                         f"position {(codes < 0).argmax()}: correct them or add them to vocab")
    return codes


def _label_issues(labels, pred_probs, task):
    "Label issues of the tasks for which Datalab is not used"
    if pred_probs is None or task == 'classification': return []
    if task == 'multilabel': df = find_multilabel_issues(labels, pred_probs)
    else:
        score = 'outre' if 4 <= len(labels) <= OUTRE_MAX else 'residual'
        df = find_regression_issues(labels, pred_probs, score)
    df = df.sort_index()
    flag = df.is_issue.to_numpy()
    score = df.label_quality.to_numpy()
    return [({'is_label_issue': flag, 'label_score': score}, [_row('label', flag, score)])]


def _datalab_issues(lab_class, labels, pred_probs, features, task):
    "Columns and summary of what Datalab can check with these inputs"
    k = {'k': min(10, len(labels) - 1)}
    types = {} if features is None else {'outlier': k, 'near_duplicate': k, 'non_iid': k}
    if task != 'classification':
        if not types: return []
        lab = lab_class({'position': np.arange(len(labels))}, verbosity=0)
        return [_run(lab, types, features=features)]

    parts = []
    if pred_probs is not None:
        # Datalab numbers the classes that it sees: one without items would shift those after it
        import datasets
        names = [str(i) for i in range(pred_probs.shape[1])]
        kind = datasets.Features({'label': datasets.ClassLabel(names=names)})
        data = datasets.Dataset.from_dict({'label': labels}, features=kind)
        types = {'label': {}, **(types or {'outlier': {}, 'non_iid': k})}
        lab = lab_class(data, label_name='label', verbosity=0)
        parts.append(_run(lab, types, pred_probs=pred_probs, features=features))
        types = {}
    # A separate Datalab without the names: with an empty class it would flag no other class
    lab = lab_class({'label': labels}, label_name='label', verbosity=0)
    parts.append(_run(lab, {**types, 'class_imbalance': {}}, features=features))
    return parts


def _run(lab, types, **inputs):
    "Columns and summary of one Datalab; a warning for each issue type that it could not check"
    with _quiet() as printed:
        lab.find_issues(issue_types={name: dict(o) for name, o in types.items()}, **inputs)
    done = lab.issue_summary.to_dict('records')
    for name in types.keys() - {o['issue_type'] for o in done}:
        # Datalab prints its errors and goes on
        why = re.search(f'^Error in {name}: (.*)', printed.getvalue(), re.M)
        reason = why[1] if why else 'Datalab does not say why'
        warnings.warn(f"audit could not check for {name} issues: {reason}", stacklevel=4)

    columns = {name: lab.issues[name].to_numpy() for name in lab.issues}
    if 'near_duplicate_score' in columns:
        sets = lab.get_issues('near_duplicate').near_duplicate_sets
        columns['near_duplicate_sets'] = objects(tuple(map(int, o)) for o in sets)
    summary = [{'issue_type': o['issue_type'], 'num_issues': int(o['num_issues']),
                'score': float(o['score'])} for o in done]
    return columns, summary


def _image_issues(imagelab, paths, n_jobs):
    "Columns and summary of cleanvision, of the files that can be read"
    errors = [_image_error(path) for path in paths]
    rows = [i for i, error in enumerate(errors) if error is None]
    columns = {'image_error': objects(errors)}
    summary: list[dict] = []
    if not rows: return columns, summary

    with _quiet():
        lab = imagelab(torchvision_dataset=_Images([paths[i] for i in rows]), verbose=False)
        lab.find_issues(n_jobs=n_jobs, verbose=False)
    for kind in sorted(lab.issue_summary.issue_type):
        flag = np.zeros(len(paths), dtype=bool)
        score = np.full(len(paths), np.nan)
        flag[rows] = lab.issues[f'is_{kind}_issue']
        score[rows] = lab.issues[f'{kind}_score']
        columns |= {f'is_{kind}_issue': flag, f'{kind}_score': score}
        summary.append(_row(kind, flag, score[rows]))
        if 'sets' in lab.info.get(kind, {}):
            sets: list[tuple] = [()]*len(paths)
            for group in lab.info[kind]['sets']:
                for i in group: sets[rows[i]] = tuple(rows[j] for j in group if j != i)
            columns[f'{kind}_sets'] = objects(sets)
    return columns, summary


class _Images:
    "Image files in the form of a torchvision data set, which cleanvision takes"
    # cleanvision opens paths through fsspec, which takes some file names for commands
    def __init__(self, paths): self.paths = paths
    def __len__(self): return len(self.paths)
    def __getitem__(self, i): return (_open(self.paths[i]),)


def _open(path):
    with Image.open(path) as image:
        image.load()
        if image.mode in MODES: return image.copy()
        return image.convert('L' if image.mode in ('LA', 'La') else 'RGB')


def _image_error(path):
    if path is None: return 'no path'
    try: _open(path)
    except Exception as e: return f'{type(e).__name__}: {e}'  # Decoders raise what they like
    return None


def _row(kind, flag, score):
    return {'issue_type': kind, 'num_issues': int(flag.sum()), 'score': float(score.mean())}


@contextlib.contextmanager
def _quiet() -> Iterator[io.StringIO]:
    "Catch what is printed in the text yielded, and drop progress bars; warnings still come"
    text = io.StringIO()
    with warnings.catch_warnings(record=True) as caught, contextlib.redirect_stdout(text), \
            contextlib.redirect_stderr(io.StringIO()):
        yield text
    for w in caught: warnings.warn_explicit(w.message, w.category, w.filename, w.lineno)


def _import(module, package):
    try:
        # Datalab's import silences every warning of the process
        with warnings.catch_warnings(): return __import__(module, fromlist=['*'])
    except ImportError as e:
        raise ImportError(f"audit needs {package}, but {e}: pip install "
                          "'fastai_clean[audit]'") from e
