"What the records of a journal add up to"

from .names import WHOLE


class _Action:
    "What one person did at once to some items, and whether it is in force"
    __slots__ = 'do', 'ids', 'label', 'text', 'user', 'time', 'active'

    def __init__(self, do, ids, label, text, user, time):
        self.do, self.ids, self.label, self.text, self.user, self.time = do, ids, label, text, user, time
        self.active = True

    def label_of(self, i):
        "Class key that item `i` was given, or None"
        return self.label[i] if isinstance(self.label, dict) else self.label


class Replay:
    "The state that records, in the order of the journal, add up to"

    def __init__(self, labels):
        self.labels, self.actions, self.state, self.done, self.undone = labels, {}, {}, {}, {}
        self.parts, self.history, self.shared = {}, {}, {}

    def feed(self, records):
        "Take `records` in; the ids that they touched"
        changed = {}
        try:
            for o in records:
                for i in (self._again(o) if o['do'] in ('undo', 'redo') else self._act(o)): changed[i] = None
        finally:
            for i in changed: self._settle(i)
        return list(changed)

    def last(self, user, do):
        "Key of the action that `user` would undo or redo, or None"
        keys = (self.done if do == 'undo' else self.undone).get(user)
        return keys[-1] if keys else None

    def votes(self):
        "User -> id -> that user's last decision in force"
        res = {}
        for i, (actions, _) in self.history.items():
            for a in actions:
                if a.active: res.setdefault(a.user, {})[i] = a
        return res

    def _act(self, o):
        key, ids = o['key'], o['ids']
        if key in self.actions: return ()
        k, n = o.get('part', WHOLE)
        same = self.shared.setdefault
        label = same(o.get('label'), o.get('label'))
        if n > 1:
            parts = self.parts.setdefault(key, {})
            parts[k] = ids, label
            if len(parts) < n: return ()
            parts = [parts[j] for j in sorted(parts)]
            ids = [i for part, _ in parts for i in part]
            if len({name for _, name in parts}) > 1: label = {same(i, i): name for part, name in parts for i in part}
            del self.parts[key]
        a = _Action(same(o['do'], o['do']), [same(i, i) for i in ids], label, o.get('text'),
                    same(o['user'], o['user']), o['time'])
        self.actions[key] = a
        for i in a.ids: self.history.setdefault(i, ([], []))[a.do == 'note'].append(a)
        self.done.setdefault(a.user, []).append(key)
        self.undone[a.user] = []
        return a.ids

    def _again(self, o):
        a, back = self.actions.get(o['of']), o['do'] == 'redo'
        if a is None or a.active == back or a.user != o['user']: return ()
        a.active = back
        source, target = (self.undone, self.done) if back else (self.done, self.undone)
        keys = source.get(a.user) or ['']
        if keys[-1] == o['of']: keys.pop()
        elif o['of'] in keys: keys.remove(o['of'])
        target.setdefault(a.user, []).append(o['of'])
        return a.ids

    def _settle(self, i):
        decision, note = (next((a for a in reversed(o) if a.active), None) for o in self.history[i])
        if note is not None and not note.text: note = None
        if decision is None and note is None: self.state.pop(i, None)
        else:
            by = decision or note
            label = decision and self.labels.get(decision.label_of(i))
            self.state[i] = {'action': decision and decision.do, 'label': label,
                             'note': note and note.text, 'user': by.user, 'time': by.time}
