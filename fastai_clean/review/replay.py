"The lines of a journal: what each of them says, and what they add up to"
import json
import sys
from collections.abc import Callable, Iterable

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
    """What one user did to some items at once, and whether it is in force. Items are numbers, see
    `Replay`"""
    __slots__ = ('do', 'items', 'given', 'marks', 'label', 'text', 'user', 'time', 'round',
                 'number', 'active')

    def __init__(self,
        record: dict,
        items: list[int],
        label: str | dict[int, str] | None,
        round: int,  # Number of the opening that it follows
        number: int,  # Among all actions
    ):
        self.do = sys.intern(record['do'])
        self.items = items
        self.given = record.get('given')
        self.marks = record.get('marks')
        self.round = round
        self.number = number
        self.label = label
        self.text = record.get('text')
        self.user = sys.intern(record['user'])
        self.time = record['time']
        self.active = True

    def label_of(self, n: int) -> str | None:
        "Text of the class that item `n` was given, or None"
        return self.label[n] if isinstance(self.label, dict) else self.label

    def given_of(self, n: int) -> str | None:
        "Text of the class that item `n` had then; None in files that do not say"
        return self.given[n] if isinstance(self.given, dict) else self.given

    def mark_of(self, n: int) -> str | None:
        "What item `n` held then, see `Marks`, or None"
        return self.marks.get(n) if self.marks else None


class Replay:
    """The state that the lines of a journal, in their order, add up to.

    An item is a number here, the place that it has in `names`: its id may change, as that of a file
    does whose folder is renamed, and another item may get the id that it had. The decisions in
    force are those on the items of one table, see `bind`."""

    def __init__(self,
        items: dict[str, str | None],  # What the header calls an item -> text of its class
        classes: dict[str, str],  # What the journal calls a class -> its text
        table: str | None = None,  # What the header says of the predictions, see `table_hash`
        texts: dict[str, str] | None = None,  # What the journal calls other classes -> their texts
    ):
        self.known = {name: n for n, name in enumerate(items)}  # What it was ever called -> item
        self.names = [*items]  # What each item is called now
        self.first = [*items.values()]  # The label that it had at first
        self.given = [*items.values()]  # and in the last table that it was in
        self.made_with = len(items)  # Number of items at first
        self.present = dict.fromkeys(range(len(items)))  # Items of the last table
        self.classes = {**classes}
        self.texts = texts or {}
        self.table = table
        self.rounds: list[dict] = []  # The records of openings with another table
        self.bound: dict[int, str] = {}  # Item -> id in the session's table
        self.now: dict[int, str] = {}  # Item -> text of its given class there
        self.labels: dict[str, object] = {}  # Text of a class -> the class there
        self.against: dict[str, tuple[int, Action]] = {}  # Id -> decision that it contradicts
        self.moved: set[str] = set()  # Ids of the session's table that name other items since
        self.begin: Callable[[], object] | None = None  # Called after the record of the key `mine`
        self.mine = ''
        self.unreadable = 0  # Lines that are not records
        self.unknown = 0  # Actions of a newer version
        self.state: dict[str, dict] = {}
        self.actions: dict[str, Action] = {}  # By key
        self.done: dict[str, list[str]] = {}  # User -> keys of actions, the next to undo at the end
        self.undone: dict[str, list[str]] = {}
        self.history: dict[int, tuple[list[Action], list[Action]]] = {}  # Item -> decisions, notes
        self.parts: dict[str, dict[int, dict]] = {}  # Key -> number -> part of an unfinished action

    def feed(self,
        lines: Iterable[bytes],  # What follows in the journal
    ) -> list[str]:  # The ids that it touched, of the session's table
        "Take lines in; those that are not records are counted and skipped"
        changed: dict[int, None] = {}
        try:
            for line in lines:
                if line.isspace(): continue
                o = self._record(line)
                if o is None: self.unreadable += 1
                elif o['do'] in ACTIONS: changed.update(dict.fromkeys(self._act(o)))
                elif o['do'] in ('undo', 'redo'): changed.update(dict.fromkeys(self._again(o)))
                elif o['do'] == 'round': self._round(o)
                else: self.unknown += 1
        finally:
            for n in changed: self._settle(n)
        return [self.bound[n] for n in changed if n in self.bound]

    def last(self,
        user: str,
        do: str,  # 'undo' or 'redo'
    ) -> str | None:
        "Key of the action that `user` would undo or redo"
        keys = (self.done if do == 'undo' else self.undone).get(user)
        return keys[-1] if keys else None

    def bind(self,
        ids: dict[str, tuple[str, str]],  # What the journal calls an item -> id, text of its class
        labels: dict[str, object],  # Text of a class -> the class
    ):
        "Have `state` be about the items of a table, each of which the journal must know"
        self.bound = {self.known[name]: i for name, (i, _) in ids.items()}
        self.now = {self.known[name]: label for name, (_, label) in ids.items()}
        self.labels = labels
        self.state = {}
        self.against = {}
        for n in self.history: self._settle(n)

    def expect(self,
        key: str,  # Of the record of an opening
        begin: Callable[[], object],  # To call after it
    ):
        "Bind the state where the session was opened: names may mean other items later"
        self.mine = key
        self.begin = begin

    def votes(self) -> dict[str, dict[str, tuple[str, str | None]]]:
        """User -> id -> what that user's last decision in force does, and the text of its class,
        that of the given one for keep if the file says it"""
        res: dict[str, dict[str, tuple[str, str | None]]] = {}
        for n, i in self.bound.items():
            for a in self.history.get(n, ([], []))[0]:
                label = a.given_of(n) if a.do == 'keep' else a.label_of(n)
                if a.active: res.setdefault(a.user, {})[i] = a.do, label
        return res

    def decisions(self) -> list[tuple[str, str | None, str, str | None, str]]:
        """Each decision in force, an item's own in their order: its id, the texts of the label that
        it had then, if that is known, of what was done and of the class it got, and the user"""
        return [(self.bound[n], a.given_of(n), a.do, a.label_of(n), a.user)
                for n, (decisions, _) in self.history.items() if n in self.bound
                for a in decisions if a.active]

    def made(self,
        n: int,  # An item
    ) -> list[str | None]:
        "Texts of the classes that decisions gave to it, in force or not"
        return [a.label_of(n) for a in self.history.get(n, ([], []))[0] if a.do == 'relabel']

    def in_force(self,
        n: int,  # An item
        now: str,  # Text of its given class
    ) -> tuple[Action | None, bool]:  # The decision, and whether the label contradicts one
        """The decision on an item that has the label `now`: the last that was not undone, if the
        label is one that the item had at first or when something was decided, or got by a decision,
        undone or not, since the data may have been made before. What is kept must have the label
        that was kept, unless it had got it by a relabel, which is then in force again."""
        decisions = self.history.get(n, ([], []))[0]
        last = _last_active(decisions)
        if last is None: return None, False
        if self._fits(n, last, now): return last, False
        if last.do == 'keep':
            kept = last.given_of(n)
            for a in reversed(decisions):
                same = a.active and a.do == 'relabel' and a.label_of(n) == kept
                if same and self._fits(n, a, now): return a, False
        return None, True

    def _fits(self, n, a, now):
        was = a.given_of(n) or self.first[n]
        # Files of old formats do not say
        if was is None or now == was: return True
        if a.do == 'keep': return False
        decisions = self.history[n][0]
        before = decisions[:decisions.index(a) + 1]
        # What was given to a later decision that was undone is what contradicted this one
        had = [o.given_of(n) for o in before if o.active]
        return now in (self.first[n], *had, *self.made(n))

    def _record(self, line):
        "The record of a line, its items and classes as they are called here; None if it is not one"
        o = loaded(line)
        if type(o) is not dict: return None
        for name in ('do', 'user', 'time', 'key'):
            if type(o.get(name)) is not str: return None
        do = o['do']
        if do in ('undo', 'redo'): return o if type(o.get('of')) is str else None
        if do == 'round': return o if _is_round(o) else None
        if do not in ACTIONS: return o

        o['ids'] = _renamed(o.get('ids'), self.known)
        if o['ids'] is None or 'part' in o and not _is_part(o['part']): return None
        if do == 'note' and type(o.get('text')) is not str: return None
        if 'given' in o and not self._take_given(o): return None
        marks = o.get('marks')
        fits = type(marks) is list and len(marks) == len(o['ids'])
        o['marks'] = dict(zip(o['ids'], marks)) if fits else None
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
        a = Action(o, *whole, len(self.rounds), len(self.actions))
        self.actions[o['key']] = a
        kind = int(a.do == 'note')
        for n in dict.fromkeys(a.items): self.history.setdefault(n, ([], []))[kind].append(a)
        self.done.setdefault(a.user, []).append(o['key'])
        self.undone[a.user] = []
        return a.items

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
        return a.items

    def _round(self, o):
        "Take in that the journal was opened with another table"
        for name in o.get('classes', ()):
            self.classes.setdefault(name, self.texts.get(name, name))
        for name in o.get('gone', ()): self.present.pop(self.known.get(name), None)
        for old, name in o.get('renamed', ()):
            if old not in self.known: continue
            n = self.known[old]
            self.known[name] = n
            self.names[n] = name
            self.present[n] = None
        for name in o.get('other', ()):
            # What was called so before goes on under the name that it has now
            if name in self.known and self.known[name] in self.bound: self.moved.add(name)
            self.known.pop(name, None)
        for label, names in o.get('new', {}).items():
            for name in names: self._see(name, self.classes.get(label, label))
        for label, names in o.get('given', {}).items():
            for name in names: self._see(name, self.classes.get(label, label))
        self.table = o.get('table')
        self.rounds.append(o)
        if o['key'] == self.mine and self.begin is not None: self.begin()

    def _see(self, name, label):
        "An item of the last table, new or known, and its label there"
        if name not in self.known:
            self.known[name] = len(self.names)
            self.names.append(name)
            self.first.append(label)
            self.given.append(label)
        n = self.known[name]
        self.present[n] = None
        self.given[n] = label
        if self.first[n] is None: self.first[n] = label

    def _settle(self, n):
        i = self.bound.get(n)
        if i is None: return
        decisions, notes = self.history[n]
        decision, contradicts = self.in_force(n, self.now[n])
        # A class that the vocab lost cannot be given
        if decision is not None and decision.do == 'relabel':
            contradicts = decision.label_of(n) not in self.labels
        self.against.pop(i, None)
        if contradicts:
            self.against[i] = n, _last_active(decisions)
            decision = None
        note = _last_active(notes)
        if note is not None and not note.text: note = None
        by = note if decision is None else decision
        if by is None:
            self.state.pop(i, None)
            return
        label = None if decision is None else decision.label_of(n)
        self.state[i] = {'action': decision and decision.do,
                         'label': None if label is None else self.labels[label],
                         'note': note and note.text, 'user': by.user, 'time': by.time}


def _is_round(o):
    "Whether a record of an opening has lists and dicts of texts where they should be"
    def texts(names): return type(names) is list and all(type(n) is str for n in names)
    pairs = o.get('renamed', [])
    groups = [o.get(name, {}) for name in ('new', 'given')]
    if not all(texts(o.get(name, [])) for name in ('gone', 'other', 'classes')): return False
    if type(pairs) is not list or not all(texts(p) and len(p) == 2 for p in pairs): return False
    if not all(type(g) is dict and all(map(texts, g.values())) for g in groups): return False
    counts = o.get('counts', {})
    return type(counts) is dict and all(type(n) is int for n in counts.values())


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
