"""Decisions and issues to other tools and back: as frames and plain JSON for Label Studio, FiftyOne
and Hugging Face `datasets`, none of which is needed"""
import json
import re
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import quote
from warnings import warn
from xml.sax.saxutils import quoteattr

import numpy as np
import pandas as pd

from .._columns import objects
from .._files import write_file
from .._text import as_text, brief, neutral, plain
from .match import class_text
from .session import ReviewSession

ISSUE = 'predicted', 'confidence', 'label_quality', 'is_issue'
DECISION = 'action', 'note', 'user', 'time'
_NO_XML = re.compile('[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]')
NAMES = 'label', 'review', 'note'  # Of the controls of the labelling page


def to_frame(
    session: ReviewSession,
) -> pd.DataFrame:
    """A row per item, worst first: `id` as in `session.ids`, `given`, the issue table's columns,
    `label`, the class that the item has after the review (None if it is deleted), and `action`,
    `note`, `user` and `time` of the decision in force, or None. Classes are texts"""
    state = session.current()
    rows = []
    for i, given in zip(session.ids, session.given):
        o = state.get(i, dict.fromkeys(DECISION) | {'label': None})
        label = as_text(o['label']) if o['action'] == 'relabel' else given
        rows.append([i, given, None if o['action'] == 'delete' else label,
                     *(o[name] for name in DECISION)])
    df = pd.DataFrame(rows, columns=['id', 'given', 'label', *DECISION], dtype=object)
    for k, name in enumerate(ISSUE):
        values = session.issues[name]
        df.insert(2 + k, name, objects(map(as_text, values)) if name == 'predicted'
                  else values.to_numpy())
    return df


def from_frame(
    session: ReviewSession,
    df: pd.DataFrame,  # `id`, `given` and `label` or `action`; may have `note`
    what: str = 'df',  # What messages call it
) -> pd.DataFrame:
    """Take decisions in, and return the rows that were refused, with a column `reason`.

    A row decides if it has an `action` (keep, relabel, delete or unsure), or if its `label` is
    another one than `given`; a row with neither is passed over, as is one that says what is in
    force already. It is refused, with a warning, if the review does not have the id, or another
    given label for it; if it does not say the given label; if an id is there twice; if the label is
    no class. Every action on many items is one, so that a crash leaves no half of it. Raises
    ValueError if columns are missing."""
    if not {'id', 'given'} <= {*df} or not {'label', 'action'} & {*df}:
        raise ValueError(f"{what} has the columns {brief(list(df))}: give it id, given, and label "
                         "or action")

    given = dict(zip(session.ids, session.given))
    state = session.current()
    texts = {name: [_text(o, session.classes) for o in df[name]] if name in df else [None]*len(df)
             for name in ('id', 'given', 'label', 'action', 'note')}
    twice = {*pd.Series(texts['id'], dtype=object)[lambda s: s.duplicated()]}
    todo: dict[str, list] = {'keep': [], 'relabel': [], 'delete': [], 'unsure': []}
    labels = []
    notes: dict[str, list[str]] = {}
    reasons: dict[int, str] = {}
    for k, (i, was, label, action, note) in enumerate(zip(*texts.values())):
        if not action and label is not None and label != was: action = 'relabel'
        why = _refusal(i, was, label, action, given, twice, session.classes)
        now = state.get(i, {'action': None, 'label': None, 'note': None}) if i else {}
        if why: reasons[k] = why
        else:
            if note and note != now['note']: notes.setdefault(note, []).append(i)
            new = action, label if action == 'relabel' else None
            if action and new != (now['action'], now['label'] and as_text(now['label'])):
                todo[action].append(i)
                if action == 'relabel': labels.append(session.classes[label])

    if todo['relabel']: session.relabel(todo['relabel'], labels)
    for name in ('keep', 'delete', 'unsure'):
        if todo[name]: getattr(session, name)(todo[name])
    for note, ids in notes.items(): session.note(ids, note)
    refused = df.iloc[[*reasons]].assign(reason=objects(reasons.values()))
    if len(refused):
        k = next(iter(reasons))
        warn(f"{what} has {len(refused)} of {len(df)} rows that were refused, first "
             f"{brief(texts['id'][k])}: {reasons[k]}; they are returned", stacklevel=3)
    return refused


def label_config(
    session: ReviewSession,
    kind: str = 'image',  # 'image' or 'text': what the items are
) -> str:
    "The labelling page of Label Studio for `to_label_studio`, to be pasted into the project (XML)"
    tag = _kind(kind).capitalize()
    choices = ''.join(f'\n    <Choice value={quoteattr(o)}/>' for o in _shown(session).values())
    return f"""<View>
  <{tag} name="item" value="${kind}"/>
  <Header value="given: $given, predicted: $predicted"/>
  <Choices name="label" toName="item" choice="single">{choices}
  </Choices>
  <Choices name="review" toName="item" choice="single">
    <Choice value="delete"/>
    <Choice value="unsure"/>
  </Choices>
  <TextArea name="note" toName="item"/>
</View>
"""


def to_label_studio(
    session: ReviewSession,
    path: str | Path,  # JSON file to write
    *,
    kind: str = 'image',  # 'image' or 'text': what the items are
    prefix: str = '',  # What stands before the path of an image, as '/data/local-files/?d='
    only_issues: bool = True,  # Whether to leave out items that are no issues and not decided
    overwrite: bool = False,  # Whether to replace a file
) -> Path:
    """Write tasks for Label Studio: the item, its id, given label and quality as data, the model's
    prediction, and what is decided as an annotation. Paste `label_config` into the project, import
    the file, and take its JSON export in with `from_label_studio`. A text is the column `text` of
    the table, or the id. Raises FileExistsError, see `overwrite`, and ValueError for another
    kind.

    Format: https://labelstud.io/guide/task_format"""
    _kind(kind)
    shown = _shown(session)
    rows = session.issues
    tasks = []
    for k, o in enumerate(to_frame(session).itertuples(index=False)):
        if only_issues and not (o.is_issue or o.action or o.note): continue
        name = as_text(rows['id'].iloc[k])
        text = as_text(rows['text'].iloc[k]) if 'text' in rows else name
        value = text if kind == 'text' else prefix + (quote(name) if prefix else name)
        data = {kind: value, 'id': o.id, 'given': o.given, 'predicted': o.predicted,
                'confidence': _number(o.confidence), 'label_quality': _number(o.label_quality),
                'is_issue': bool(o.is_issue)}
        guess = {'model_version': 'fastai_clean', 'score': _number(o.confidence),
                 'result': [_choice('label', shown[o.predicted])]}
        task: dict[str, Any] = {'data': data, 'predictions': [guess]}
        if o.action or o.note: task['annotations'] = [_annotation(o, shown)]
        tasks.append(task)
    return _write_json(path, tasks, overwrite)


def from_label_studio(
    session: ReviewSession,
    path: str | Path,  # What Label Studio exported as JSON
) -> pd.DataFrame:
    """Take in what was annotated, and return the refused tasks, see `from_frame`. A task's
    annotation counts, of several the ones that were not skipped; if they contradict each other, it
    is refused. A skipped task is unsure. Raises ValueError if the file is not such an export."""
    tasks = _read_json(path)
    fits = isinstance(tasks, list) and all(isinstance(o, dict) and isinstance(o.get('data'), dict)
                                           for o in tasks)
    if not fits:
        raise ValueError(f"path {path} is not a list of tasks with data: export it as JSON, not as "
                         "JSON-MIN or CSV")
    names = {value: text for text, value in _shown(session).items()}
    rows = []
    for task in tasks:
        made = [_decided(o, task['data'], names) for o in task.get('annotations') or []]
        made = [o for o in made if o]
        if not made: continue
        real = [o for o in made if o['action'] != 'unsure'] or made
        same = len({(o['action'], o['label']) for o in real}) == 1
        rows.append({'id': task['data'].get('id'), 'given': task['data'].get('given'),
                     **(real[-1] if same else dict(action='several', label=None, note=None))})
    df = pd.DataFrame(rows, columns=['id', 'given', 'label', 'action', 'note'], dtype=object)
    return from_frame(session, df, str(path))


def to_fiftyone(
    session: ReviewSession,
    path: str | Path,  # labels.json to write
    *,
    root: str | Path | None = None,  # Folder of the images; None: keys are relative to data/
    overwrite: bool = False,  # Whether to replace a file
) -> Path:
    """Write the labels after the review as labels.json of a FiftyOneImageClassificationDataset,
    with attributes: the id, the given label, the issue and the decision, as `delete` on the items
    that are to be left out.
    With `root`, keys are absolute paths, and the images may stay where they are; otherwise they are
    paths in data/ without their suffix. Raises ValueError if two items get one key.

    Format: https://docs.voxel51.com, "FiftyOneImageClassificationDataset\""""
    classes = list(session.classes)
    at = {o: k for k, o in enumerate(classes)}
    labels: dict[str, Any] = {}
    frame = to_frame(session)
    for name, o in zip(session.issues['id'].map(as_text), frame.itertuples(index=False)):
        key = _key(name, root)
        if key in labels:
            raise ValueError(f"{brief(key)} is the key of two items: pass root=")
        info = {'id': o.id, 'given': o.given, 'predicted': o.predicted, 'action': o.action,
                'label_quality': _number(o.label_quality), 'is_issue': bool(o.is_issue),
                'note': o.note}
        label = o.given if o.label is None else o.label
        labels[key] = {'label': at[label], 'attributes': info}
        if label == o.predicted: labels[key]['confidence'] = _number(o.confidence)
    return _write_json(path, {'classes': classes, 'labels': labels}, overwrite)


def from_fiftyone(
    session: ReviewSession,
    path: str | Path,  # labels.json that FiftyOne exported, with include_attributes=True
    *,
    root: str | Path | None = None,  # As for `to_fiftyone`
) -> pd.DataFrame:
    """Take in labels that were changed, and return the refused rows, see `from_frame`: an image
    with another label than the given one is relabelled; for the others the attribute `action`
    counts, such as delete. An image without the attribute `given` is refused, since its key alone
    does not say that it is the same item. Raises ValueError if the file is not such an export."""
    file = _read_json(path)
    if not isinstance(file, dict) or not isinstance(file.get('labels'), dict):
        raise ValueError(f"path {path} has no labels: pass the labels.json of a "
                         "FiftyOneImageClassificationDataset")
    classes = file.get('classes')
    at = {_key(as_text(o), root): i for o, i in zip(session.issues['id'], session.ids)}
    rows = []
    for key, target in file['labels'].items():
        whole = target if isinstance(target, dict) else {'label': target}
        info = whole.get('attributes') or {}
        label = whole.get('label')
        if classes is not None and type(label) is int and 0 <= label < len(classes):
            label = classes[label]
        action = None if label != info.get('given') else info.get('action')
        # Back to the given label, in the other tool
        if action == 'relabel': action = 'keep'
        rows.append({'id': info.get('id', at.get(key, key)), 'given': info.get('given'),
                     'label': label, 'action': action, 'note': info.get('note')})
    df = pd.DataFrame(rows, columns=['id', 'given', 'label', 'action', 'note'], dtype=object)
    return from_frame(session, df, str(path))


def to_hugging_face(
    session: ReviewSession,
    path: str | Path,  # JSON Lines file to write, such as metadata.jsonl beside the images
    *,
    overwrite: bool = False,  # Whether to replace a file
) -> Path:
    """Write `to_frame` as JSON Lines, which `load_dataset('json', data_files=path)` reads; with
    `file_name`, so that a folder of images with it as metadata.jsonl is a Hugging Face imagefolder.
    Deleted items have no label."""
    frame = to_frame(session)
    frame.insert(0, 'file_name', objects(session.issues['id'].map(as_text)))
    lines = [_json({k: _number(o) if isinstance(o, float) else o for k, o in row.items()})
             for row in frame.to_dict('records')]
    text = '\n'.join(lines) + '\n'
    return write_file(path, lambda tmp: tmp.write_text(text, encoding='utf-8'), overwrite)


def from_hugging_face(
    session: ReviewSession,
    data: Any,  # A `datasets.Dataset`, its DataFrame, or the path of JSON Lines
) -> pd.DataFrame:
    """Take in decisions, and return the refused rows, see `from_frame`. Of a Dataset with a
    ClassLabel the names are taken. Raises ValueError if columns are missing."""
    if isinstance(data, pd.DataFrame): return from_frame(session, data, 'data')
    if isinstance(data, (str, Path)):
        lines = Path(data).read_text(encoding='utf-8').split('\n')
        rows = [_loads(o, data) for o in lines if o.strip()]
        if not all(isinstance(o, dict) for o in rows):
            raise ValueError(f"path {data} has lines that are not objects: pass JSON Lines")
        return from_frame(session, pd.DataFrame(rows, dtype=object), str(data))
    df = data.to_pandas()
    for name in ('label', 'given'):
        names = getattr(data.features.get(name), 'names', None)
        if names: df[name] = objects(None if pd.isna(o) else names[int(o)] for o in df[name])
    return from_frame(session, df, 'data')


def _refusal(i, was, label, action, given, twice, classes):
    "Why a row is not taken in, or nothing"
    if i not in given: return 'the review has no such id'
    if i in twice: return 'the id is there twice'
    if was is None: return 'the row does not say which label was given'
    if was != given[i]: return f'the given label is {brief(was)} there, {brief(given[i])} here'
    if action == 'several': return 'annotations contradict each other'
    if action and action not in ('keep', 'relabel', 'delete', 'unsure'):
        return f'{brief(action)} is not an action'
    if action == 'relabel' and label not in classes: return f'{brief(label)} is not a class'
    return None


def _text(o, classes):
    "The text of a value, None for a gap, and for an empty text unless that is a class"
    if isinstance(o, (list, tuple, dict, np.ndarray)): return as_text(o)
    missing = o is None or pd.isna(o) or (o == '' and '' not in classes)
    return None if missing else class_text(o, classes)


def _shown(session):
    "Text of each class -> what the labelling page calls it: what XML can hold, unique"
    res: dict[str, str] = {}
    for k, text in enumerate(session.classes):
        value = ' '.join(_NO_XML.sub('\ufffd', neutral(text)).split()) or '(empty)'
        if value in res.values() or value in ('delete', 'unsure'): value = f'{value} ({k})'
        res[text] = value
    return res


def _choice(name, value):
    return {'from_name': name, 'to_name': 'item', 'type': 'choices', 'value': {'choices': [value]}}


def _annotation(o, shown):
    result = []
    if o.action in ('keep', 'relabel'): result.append(_choice('label', shown[o.label]))
    if o.action in ('delete', 'unsure'): result.append(_choice('review', o.action))
    if o.note:
        result.append({'from_name': 'note', 'to_name': 'item', 'type': 'textarea',
                       'value': {'text': [o.note]}})
    return {'result': result, 'was_cancelled': False}


def _decided(annotation, data, names):
    "Action, label and note of an annotation; None if it says nothing"
    if not isinstance(annotation, dict): return None
    found: dict[str, str] = {}
    results = annotation.get('result')
    for o in results if isinstance(results, list) else []:
        value = o.get('value') if isinstance(o, dict) else None
        if not isinstance(value, dict) or o.get('from_name') not in NAMES: continue
        texts = value.get('choices') or value.get('text')
        if isinstance(texts, list) and texts: found[o['from_name']] = str(texts[-1])
    note = found.get('note')
    if annotation.get('was_cancelled'): return dict(action='unsure', label=None, note=note)
    if 'review' in found: return dict(action=found['review'], label=None, note=note)
    if 'label' not in found: return dict(action=None, label=None, note=note) if note else None
    label = names.get(found['label'], found['label'])
    same = label == as_text(data.get('given'))
    return dict(action='keep' if same else 'relabel', label=label, note=note)


def _key(name, root):
    path = PurePath(name)
    if root is not None: return (Path(root).resolve()/path).as_posix()
    return path.with_suffix('').as_posix() if path.name else name


def _kind(kind):
    if kind not in ('image', 'text'):
        raise ValueError(f"kind is {kind!r}: choose 'image' or 'text'")
    return kind


def _number(x): return round(float(x), 6) if np.isfinite(x) else None


def _json(o, **kwargs): return json.dumps(o, ensure_ascii=False, allow_nan=False, **kwargs)


def _write_json(path, o, overwrite):
    text = _json(o, indent=1)
    return write_file(path, lambda tmp: tmp.write_text(text, encoding='utf-8'), overwrite)


def _read_json(path): return _loads(Path(path).read_text(encoding='utf-8'), path)


def _loads(text, path):
    try: return json.loads(text)
    except (ValueError, RecursionError) as e:
        raise ValueError(f"path {path} is not JSON ({plain(e, 80)}): export it again") from e
