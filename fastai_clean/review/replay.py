"The lines of a journal: what each of them says, and what they add up to"
import json
import sys
from collections.abc import Iterable

ACTIONS = 'relabel', 'delete', 'keep', 'unsure', 'note'
decode = json.JSONDecoder().decode
encode = json.JSONEncoder(ensure_ascii=False, separators=(',', ':')).encode


def loaded(
    line: bytes,  # A line of a journal
) -> object:
    "Its JSON, or None if it is torn, is not JSON, or holds text that UTF-8 cannot"
    try:
        o = decode(line.decode())
        # Only an escape can bring a lone surrogate in, which no file, page or terminal takes later
        if b'\\u' in line: encode(o).encode()
        return o
    except (ValueError, RecursionError): return None


class Action:
    "What one user did to some items at once, and whether it is in force"
    __slots__ = 'do', 'ids', 'given', 'label', 'text', 'user', 'time', 'active'

    def __init__(self, record: dict, ids: list[str], label: str | dict[str, str] | None):
        self.do = sys.intern(record['do'])
        self.ids = ids
        self.given = record.get('given')
        self.label = label
        self.text = record.get('text')
        self.user = sys.intern(record['user'])
        self.time = record['time']
        self.active = True

    def label_of(self, i: str) -> str | None:
        "Text of the class that item `i` was given, or None"
        return self.label[i] if isinstance(self.label, dict) else self.label

    def given_of(self, i: str) -> str | None:
        "Text of the class that item `i` had then; None in files that do not say"
        return self.given[i] if isinstance(self.given, dict) else self.given


class Replay:
    "The state that the lines of a journal, in their order, add up to"

    def __init__(self,
        ids: dict[str, str],  # What the journal calls an item -> its id
        classes: dict[str, str],  # What the journal calls a class -> its text
        labels: dict[str, object],  # Text of a class -> the class
    ):
        self.ids = ids
        self.classes = classes
        self.labels = labels
        self.unreadable = 0  # Lines that are not records
        self.unknown = 0  # Actions of a newer version
        self.state: dict[str, dict] = {}
        self.actions: dict[str, Action] = {}  # By key
        self.done: dict[str, list[str]] = {}  # User -> keys of actions, the next to undo at the end
        self.undone: dict[str, list[str]] = {}
        self.history: dict[str, tuple[list[Action], list[Action]]] = {}  # Id -> decisions, notes
        self.parts: dict[str, dict[int, dict]] = {}  # Key -> number -> part of an unfinished action

    def feed(self,
        lines: Iterable[bytes],  # What follows in the journal
    ) -> list[str]:  # The ids that it touched
        "Take lines in; those that are not records are counted and skipped"
        changed: dict[str, None] = {}
        try:
            for line in lines:
                if line.isspace(): continue
                o = self._record(line)
                if o is None: self.unreadable += 1
                elif o['do'] in ACTIONS: changed.update(dict.fromkeys(self._act(o)))
                elif o['do'] in ('undo', 'redo'): changed.update(dict.fromkeys(self._again(o)))
                else: self.unknown += 1
        finally:
            for i in changed: self._settle(i)
        return list(changed)

    def last(self,
        user: str,
        do: str,  # 'undo' or 'redo'
    ) -> str | None:
        "Key of the action that `user` would undo or redo"
        keys = (self.done if do == 'undo' else self.undone).get(user)
        return keys[-1] if keys else None

    def votes(self) -> dict[str, dict[str, tuple[str, str | None]]]:
        "User -> id -> what that user's last decision in force does, and the text of its class"
        res: dict[str, dict[str, tuple[str, str | None]]] = {}
        for i, (decisions, _) in self.history.items():
            for a in decisions:
                if a.active: res.setdefault(a.user, {})[i] = a.do, a.label_of(i)
        return res

    def decisions(self) -> list[tuple[str, str | None, str, str | None, str]]:
        """Each decision in force, an item's own in their order: its id, the texts of the label that
        it had then, if that is known, of what was done and of the class it got, and the user"""
        return [(i, a.given_of(i), a.do, a.label_of(i), a.user)
                for i, (decisions, _) in self.history.items() for a in decisions if a.active]

    def made(self,
        i: str,  # Id of an item
    ) -> list[str | None]:
        "Texts of the classes that decisions gave to it, in force or not"
        return [a.label_of(i) for a in self.history.get(i, ([], []))[0] if a.do == 'relabel']

    def given(self,
        i: str,  # Id of an item
        first: str | None,  # Text of its given class when the journal was made, if that is known
    ) -> list[str | None]:
        """Texts of the classes that it may have now: what it had at first or in a decision, or got
        by one that was then applied, in force or not; nothing if the journal does not say. If it is
        kept, only what it had then"""
        decisions, notes = self.history.get(i, ([], []))
        last = _last_active(decisions)
        if last is not None and last.do == 'keep':
            was = last.given_of(i) or first
            return [] if was is None else [was]
        seen = [first, *(a.given_of(i) for a in (*decisions, *notes))]
        seen = [o for o in seen if o is not None]
        return [*self.made(i), *seen] if seen else []

    def _record(self, line):
        "The record of a line, its items and classes as they are called here; None if it is not one"
        o = loaded(line)
        if type(o) is not dict: return None
        for name in ('do', 'user', 'time', 'key'):
            if type(o.get(name)) is not str: return None
        do = o['do']
        if do in ('undo', 'redo'): return o if type(o.get('of')) is str else None
        if do not in ACTIONS: return o

        o['ids'] = _renamed(o.get('ids'), self.ids)
        if o['ids'] is None or 'part' in o and not _is_part(o['part']): return None
        if do == 'note' and type(o.get('text')) is not str: return None
        if 'given' in o and not self._take_given(o): return None
        if do != 'relabel': return o | {'label': None}
        several = 'labels' in o
        if several and 'part' in o: return None
        labels = _renamed(o['labels'] if several else [o.get('label')], self.classes)
        if labels is None or several and len(labels) != len(o['ids']): return None
        o['label'] = dict(zip(o['ids'], labels)) if several else labels[0]
        return o

    def _take_given(self, o):
        several = type(o['given']) is list
        given = _renamed(o['given'] if several else [o['given']], self.classes)
        if given is None or several and len(given) != len(o['ids']): return False
        o['given'] = dict(zip(o['ids'], given)) if several else given[0]
        return True

    def _act(self, o):
        if o['key'] in self.actions: return ()
        whole = self._joined(o) if o.get('part', [1, 1])[1] > 1 else (o['ids'], o.get('label'))
        if whole is None: return ()
        a = Action(o, *whole)
        self.actions[o['key']] = a
        for i in a.ids: self.history.setdefault(i, ([], []))[a.do == 'note'].append(a)
        self.done.setdefault(a.user, []).append(o['key'])
        self.undone[a.user] = []
        return a.ids

    def _joined(self, o):
        "Ids and classes of an action that version 0.1 cut into lines; None until the last has come"
        number, n = o['part']
        parts = self.parts.setdefault(o['key'], {})
        parts[number] = o
        if len(parts) < n: return None
        del self.parts[o['key']]
        labels = {i: parts[k].get('label') for k in sorted(parts) for i in parts[k]['ids']}
        return list(labels), labels

    def _again(self, o):
        a = self.actions.get(o['of'])
        back = o['do'] == 'redo'
        if a is None or a.active == back or a.user != o['user']: return ()
        a.active = back
        source, target = (self.undone, self.done) if back else (self.done, self.undone)
        # Nearly always the last, unless two sessions of one user undid at the same moment
        keys = source.get(a.user, [])
        if o['of'] in keys[-1:]: keys.pop()
        elif o['of'] in keys: keys.remove(o['of'])
        target.setdefault(a.user, []).append(o['of'])
        return a.ids

    def _settle(self, i):
        decision, note = map(_last_active, self.history[i])
        if note is not None and not note.text: note = None
        by = note if decision is None else decision
        if by is None:
            self.state.pop(i, None)
            return
        label = None if decision is None else decision.label_of(i)
        self.state[i] = {'action': decision and decision.do,
                         'label': None if label is None else self.labels[label],
                         'note': note and note.text, 'user': by.user, 'time': by.time}


def _renamed(names, known):
    "What `known` has for each of `names`, or None if that is not a list of texts that it knows"
    if type(names) is not list: return None
    res = [known.get(o) if type(o) is str else None for o in names]
    return None if None in res else res


def _is_part(part):
    if type(part) is not list or [type(o) for o in part] != [int, int]: return False
    return 1 <= part[0] <= part[1]


def _last_active(actions):
    return next((a for a in reversed(actions) if a.active), None)
