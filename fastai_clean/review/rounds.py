"Rounds of a review: what is gone, new and carried over if a journal meets another table"
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pandas as pd

from .._rows import check_same_labels
from .._text import brief, sha1_of
from .header import check_same
from .marks import same as same_mark
from .replay import Replay

# Folders of these names hold different items, though their files are often called the same
SETS = {'train': 'train', 'training': 'train', 'valid': 'valid', 'validation': 'valid',
        'val': 'valid', 'dev': 'valid', 'test': 'test', 'testing': 'test'}
COUNTS = 'items', 'new', 'gone', 'renamed', 'carried', 'decided', 'contradicting'
ADVICE = ("pass the data that it was made with, or what `apply` made of that; for other data, name "
          "another path")


def table_hash(
    issues: pd.DataFrame,  # Issue table
    ids: Sequence[str],  # Ids of its rows
) -> str:
    "What tells a table from that of another model: a hash of its predictions, in any order"
    rows = zip(ids, issues.predicted.tolist(), issues.label_quality.tolist())
    # A CSV changes the last digits
    return sha1_of('\n'.join(sorted([f'{i}\t{o}\t{q:.3g}' for i, o, q in rows])))[:16]


def opening(
    replay: Replay,  # What is in the journal
    ids: dict[str, tuple[str, str]],  # What it calls an item -> its id, and text of its given class
    classes: Iterable[str],  # What it calls the classes
    texts: Iterable[str],  # Texts of the classes
    table: str | None,  # See `table_hash`
    marks_of: Callable[[list[str]], list[str | None]],  # Marks of ids, see `Marks.of`
    path: Path,  # The journal, for messages
) -> dict | None:
    """The record of opening the journal with a table, None if that is the one of the last opening.

    An item is its id and its label. One whose id ends as an old one does is taken for that: the
    longest such end must be of one item on both sides, the label one that it had, and the file, if
    it was seen at the decision, the same. Raises ValueError if no item is there, and if so many
    labels differ that the ids seem to name other items, as rows that were numbered anew."""
    last = {replay.names[n]: replay.given[n] for n in replay.present}
    if table == replay.table and last == {name: label for name, (_, label) in ids.items()}:
        # As nearly always
        here = {o: replay.known[o] for o in ids} if replay.history else {}
        if here: _check_numbers(replay, ids, here, marks_of, path)
        if all(o in replay.classes for o in classes): return None

    known, renamed, other = _met(replay, ids, marks_of)
    if not known:
        check_same(path, [*replay.known], [*ids], 'data set', 'items')
    if None in replay.given: _check_old(replay, ids, classes, path)
    _check_labels(replay, ids, known, path)
    _check_numbers(replay, ids, known, marks_of, path)

    taken = {*known.values()}
    here = {replay.names[n]: n for n in replay.present}
    gone = [name for name, n in here.items() if n not in taken]
    new = [name for name in ids if name not in known]
    changed = {name: ids[name][1] for name, n in known.items()
               if ids[name][1] != replay.given[n] or n not in replay.present}
    classes = [o for o in classes if o not in replay.classes]
    told = {name: o for name, o in changed.items() if replay.given[known[name]] is not None}
    another = table is not None and replay.table is not None and table != replay.table
    if not (gone or new or renamed or told or classes or another): return None

    carried = [n for n in taken if n in replay.present]
    met = [(replay, n, ids[name][1], texts) for name, n in known.items()]
    decided = sum(_stands(*o) is True for o in met)
    against = sum(_stands(*o) is False for o in met)
    counts = dict(zip(COUNTS, (len(ids), len(new) + len(taken) - len(carried), len(gone),
                               len(renamed), len(carried), decided, against)))
    counts['lost'] = sum(bool(_last(replay, replay.known[name])) for name in gone)
    said = {'gone': gone, 'renamed': renamed, 'other': other, 'classes': classes,
            'new': _grouped({o: ids[o][1] for o in new}), 'given': _grouped(changed)}
    return {'do': 'round', **{k: o for k, o in said.items() if o}, 'counts': counts,
            **({} if table is None else {'table': table})}


def news(
    replay: Replay,  # What is in the journal, bound to the session's table
    record: dict | None,  # What `opening` returned
) -> list[str]:
    "What has changed since the last opening: a sentence each"
    res = []
    if record is not None:
        n = record['counts']
        gone, pairs = record.get('gone'), record.get('renamed')
        new = [o for names in record.get('new', {}).values() for o in names]
        if gone:
            res.append(f"{_items(n['gone'])} gone, first {brief(gone[0])}, {n['lost']:,} of them "
                       "decided: their decisions are kept.")
        if n['new']:
            first = f", first {brief(new[0])}" if new else ', and were there before'
            res.append(f"{_items(n['new'])} new{first}.")
        if pairs:
            res.append(f"{_items(len(pairs))} known by another id, such as {brief(pairs[0][0])}, "
                       f"now {brief(pairs[0][1])}.")
        if classes := record.get('classes'):
            what = 'class is' if len(classes) == 1 else 'classes are'
            res.append(f"{len(classes):,} {what} new, first {brief(classes[0])}.")
        verb = 'is' if n['decided'] == 1 else 'are'
        res.append(f"{_items(n['carried'])} carried over, and {n['decided']:,} {verb} decided.")
    if replay.against:
        i, (n, a) = next(iter(replay.against.items()))
        res.append(f"{_items(len(replay.against))} to be decided again, since the label "
                   f"contradicts the decision, first {brief(i)}: {a.do} when it was "
                   f"{brief(a.given_of(n) or replay.first[n])}, now {brief(replay.now[n])}.")
    return res


def rounds_of(
    session,  # A ReviewSession
) -> pd.DataFrame:
    """A row per opening of the journal with another table, by whomever, the first at the top:
    `time` (ISO, UTC; None for the first), `user`, how many `items` it had, `new` and `gone` ones,
    those `renamed` and `carried` over, and of all that the journal knew already, how many were
    `decided` and `contradicting`"""
    replay = session._journal.replay
    first = dict.fromkeys(COUNTS, 0) | dict.fromkeys(('items', 'new'), replay.made_with)
    rows: list[dict] = [{'time': None, 'user': None, **first}]
    for o in replay.rounds:
        counts = {name: o.get('counts', {}).get(name, 0) for name in COUNTS}
        rows.append({'time': o['time'], 'user': o['user'], **counts})
    return pd.DataFrame(rows, columns=['time', 'user', *COUNTS])


def history_of(
    session,  # A ReviewSession
    id: str,  # An id of an item, now or in an earlier round
) -> pd.DataFrame:
    """A row per action on the item in all rounds, the first at the top: `time`, `user`, `action`,
    `label` that it got, the `given` one that it had then, `note`, whether it was `undone`, and the
    number of the `round`, from 0. Raises ValueError if the journal does not know the item"""
    replay = session._journal.replay
    n = {i: n for n, i in replay.bound.items()}.get(id)
    if n is None: n = replay.known.get(session._journal.name_of(str(id)))
    if n is None:
        raise ValueError(f"id is {brief(id)}, which {session.path} does not know: pass one of "
                         "`session.ids`, or one that is gone")

    rows = [(a.time, a.user, a.do, a.label_of(n), a.given_of(n) or replay.first[n], a.text,
             not a.active, a.round) for a in replay.actions.values() if n in a.items]
    names = ['time', 'user', 'action', 'label', 'given', 'note', 'undone', 'round']
    return pd.DataFrame(rows, columns=names, dtype=object)


def deleted_before(
    session,  # A ReviewSession
    set: str | None = None,  # Name of one set; None: all
) -> dict[str, list[str]]:
    "Ids, in their set, of items that are gone and were deleted -> labels that they may have"
    replay = session._journal.replay
    res: dict[str, list[str]] = {}
    for n, (decisions, _) in replay.history.items():
        last = _last(replay, n)
        if n in replay.bound or last is None or last.do != 'delete': continue
        name = replay.names[n]
        if 'set' in session.issues:
            first, _, name = name.partition(':')
            if set is not None and first != set: continue
        had = {replay.first[n], replay.given[n], *(a.given_of(n) for a in decisions)}
        res[name] = [o for o in had if o is not None]
    return res


def contradicting_of(
    session,  # A ReviewSession
) -> list[str]:
    """Ids of the items whose given label contradicts what was decided: that is not in force, and
    they are to be decided again"""
    against = session._journal.replay.against
    return [str(i) for i in session.ids if i in against]


def carried_of(
    session,  # A ReviewSession
) -> list[str]:
    "Ids of the items of which an earlier round has the decision in force"
    replay = session._journal.replay
    mine = [n for n, i in replay.bound.items() if n in replay.history and i not in replay.against]
    found = [(n, replay.in_force(n, replay.now[n])[0]) for n in mine]
    return [replay.bound[n] for n, a in found if a is not None and a.round < len(replay.rounds)]


def _met(replay, ids, marks_of):
    "Name -> item of those that the journal knows; pairs of old and new names; names of others"
    known = {}
    back = []
    other = []
    for name in ids:
        n = replay.known.get(name)
        if n is None: continue
        now = replay.names[n]
        if now == name: known[name] = n
        # The old name of an item that is there, too: files of another name for the same folder
        elif now in ids: other.append(name)
        else:
            known[name] = n
            back.append((now, name))
    taken = {*known.values()}
    here = {replay.names[n]: n for n in replay.present}
    # First those of the last table: of what was gone before, one may end alike
    for names in (here, {o: n for n, o in enumerate(replay.names)}):
        left = {o: n for o, n in names.items() if n not in taken}
        new = [name for name in ids if name not in known and name not in other]
        if not left or not new or _numbers(ids): continue
        pairs = [(old, o, left[old]) for old, o in _same_ends(left, new, names, ids)]
        pairs = _moved(replay, ids, pairs, left if names is here else {})
        for old, name, n in _trusted(replay, ids, pairs, marks_of):
            known[name] = n
            taken.add(n)
            back.append((old, name))
    return known, [list(o) for o in back], other


def _same_ends(left, new, old_names, new_names):
    "Pairs of an old and a new id whose longest common end, whole parts of a path, is theirs only"
    old_ends = Counter(o for name in old_names for o in _ends(name))
    new_ends = Counter(o for name in new_names for o in _ends(name))
    at = {o: name for name in left for o in _ends(name)}
    pairs = []
    for name in new:
        end = next((o for o in _ends(name) if old_ends[o]), None)
        if end is None or old_ends[end] != 1 or new_ends[end] != 1 or end not in at: continue
        a = {*_sets(name)}
        b = {*_sets(at[end])}
        if not (a - b and b - a): pairs.append((at[end], name))
    return pairs


def _moved(replay, ids, pairs, left):
    """Those of old name, new name and item that have the name of a folder in common, too; or of
    whose folder, none of it `left`, most went to the same place; or which is now in the folder of
    the class that it got, as `apply_folder` makes them, as all such items are: 9.png of one batch
    may be another than that of the next"""
    homes = Counter(_folder(o) for o in left)
    ways = Counter((_folder(old), _folder(name)) for old, name, _ in pairs)
    stay = {_folder(o) for o in ids}
    made = {n: a.label_of(n) if a.do == 'relabel' else None for n in replay.present
            if (a := _last(replay, n)) and a.do in ('relabel', 'delete')}
    applied = not any(ids.get(replay.names[n], ('', o))[1] != o for n, o in made.items())
    found = []
    for old, name, n in pairs:
        label = ids[name][1]
        way = _folder(old), _folder(name)
        whole = way[0] not in stay and ways[way] > 1 and 2*ways[way] >= homes[way[0]] > 0
        decided = applied and made.get(n) == label and _folder(name)[-1:] == (label,)
        folder = _folder(old)[-1:]
        if whole or decided or folder and folder == _folder(name)[-1:]: found.append((old, name, n))
    return found


def _folder(name): return tuple(re.split(r'[/\\]', name)[:-1])


def _ends(name):
    "The ends of a path, the longest first, each with the set that stands before it"
    first, colon, rest = name.partition(':')
    if not colon or '/' in first: first, rest = '', name
    parts = re.split(r'[/\\]', rest)
    return [(first, *parts[i:]) for i in range(len(parts))]


def _sets(name):
    return [SETS[o] for o in re.split(r'[/\\:]', name.lower())[:-1] if o in SETS]


def _trusted(replay, ids, pairs, marks_of):
    "Those of old name, new name and item whose label and file are that item's"
    fits = [o for o in pairs if _had(replay, o[2], ids[o[1]][1])]
    if _by_chance([replay.given[n] for _, _, n in pairs], len(pairs) - len(fits)): return []
    seen = [(o, mark) for o in fits if (mark := _mark(replay, o[2]))]
    new = marks_of([ids[o[1]][0] for o, _ in seen])
    wrong = [o for (o, mark), b in zip(seen, new) if same_mark(mark, b) is False]
    # Other files under the same names: no reason to trust the rest of them
    if 2*len(wrong) > len(seen): return []
    return [o for o in fits if o not in wrong]


def _check_old(replay, ids, classes, path):
    "Formats 1 and 2 have no labels by which items are known: their ids and classes must be there"
    lost = [o for o in replay.classes if o not in classes]
    if lost: check_same(path, [*replay.classes], [*classes], 'vocab', 'classes')
    if _numbers(ids): check_same(path, [replay.names[n] for n in replay.present], [*ids],
                                 'data set', 'items')


def _check_labels(replay, ids, known, path):
    was = []
    for name, n in known.items():
        label = ids[name][1]
        was.append(label if _had(replay, n, label) else replay.given[n])
    now = [ids[name][1] for name in known]
    differ = sum(a != b for a, b in zip(was, now))
    if differ and (_numbers(ids) or _by_chance(was, differ)):
        check_same_labels([ids[name][0] for name in known], now, was, str(path), 'the issue table',
                          ADVICE)


def _check_numbers(replay, ids, known, marks_of, path):
    "Numbers name rows only as long as these are not numbered anew"
    if not _numbers(ids): return
    seen = [(name, mark) for name, n in known.items() if (mark := _mark(replay, n))]
    new = marks_of([ids[name][0] for name, _ in seen])
    told = [same_mark(mark, b) for (_, mark), b in zip(seen, new)]
    if False in told:
        name = seen[told.index(False)][0]
        raise ValueError(f"{path} has decisions on {told.count(False)} rows that hold something "
                         f"else now, first {brief(ids[name][0])}: pass the data with the row "
                         "labels that they had, or name another path")
    gone = [n for n in replay.present if replay.names[n] not in ids]
    kept = [n for n in gone if getattr(_last(replay, n), 'do', '') != 'delete']
    if kept and not any(told) and {*map(_number, ids)} == {*range(len(ids))}:
        raise ValueError(f"{path} has {len(kept)} rows that are not in the issue table, first "
                         f"{brief(replay.names[kept[0]])}, whose rows are numbered 0 to "
                         f"{len(ids) - 1}, perhaps anew: pass the data with the row labels that "
                         "they had, or name another path")


def _had(replay, n, label):
    "Whether the item had that label in the last table, at first, at a decision, or got it by one"
    if replay.given[n] is None or label in (replay.given[n], replay.first[n]): return True
    decisions = replay.history.get(n, ([], []))[0]
    return label in replay.made(n) or label in [a.given_of(n) for a in decisions]


def _by_chance(labels, differ):
    """Whether so many labels differ that the ids may name other items: more than a quarter of what
    any order of the labels would give; a label more or less says nothing"""
    n = len(labels)
    if differ < 2: return False
    alike = sum(k*k for k in Counter(labels).values())/n**2
    return differ/n >= (1 - alike)/4


def _numbers(names): return all(_number(o) is not None for o in names)


def _number(name):
    text = name.rpartition(':')[2]
    return int(text) if re.fullmatch('[0-9]{1,18}', text) else None


def _stands(replay, n, label, texts):
    "True if a decision on the item is in force, False if the label or the vocab contradicts it"
    a, against = replay.in_force(n, label)
    if a is None: return False if against else None
    return a.do != 'relabel' or a.label_of(n) in texts


def _last(replay, n):
    decisions = replay.history.get(n, ([], []))[0]
    return next((a for a in reversed(decisions) if a.active), None)


def _mark(replay, n):
    a = _last(replay, n)
    return None if a is None else a.mark_of(n)


def _grouped(labels):
    groups: dict[str, list[str]] = {}
    for name, label in labels.items(): groups.setdefault(label, []).append(name)
    return groups


def _items(n): return f'{n:,} item is' if n == 1 else f'{n:,} items are'
