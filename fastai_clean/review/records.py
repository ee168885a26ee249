"Lines of a journal: made, packed, read, and what a journal is of"

from .names import DECODE, FORMAT, RECORD, as_json, brief, sha1_of


def header_lines(ids, labels):
    "The first lines of a journal: what it is of. The same for the same items and classes, in whatever order"
    ids, labels = sorted(ids), sorted(labels)
    first = {'journal': 'fastai_clean', 'format': FORMAT, 'items': len(ids), 'ids': sha1_of('\n'.join(ids)),
             'classes': len(labels), 'vocab': sha1_of('\n'.join(labels))}
    return b''.join([as_line(first), *_chunks({}, 'items', ids), *_chunks({}, 'vocab', labels)])


def difference(path, ids, labels):
    "Why the journal at `path` is not one of `ids` and `labels`"
    found = {'items': set(), 'vocab': set()}
    with open(path, 'rb') as f:
        first = loaded(f.readline())
        if not isinstance(first, dict) or first.get('journal') != 'fastai_clean':
            return f"path {path} is no journal of fastai_clean: name another file"
        if first.get('format') != FORMAT:
            return f"{path} is of format {brief(first.get('format'))}, and this version reads {FORMAT}: upgrade " \
                   "fastai_clean"
        for o in map(loaded, f):
            if not isinstance(o, dict) or not (name := o.keys() & found.keys()): break
            found[(name := name.pop())].update(map(str, o[name] if isinstance(o[name], list) else ()))
    if found['items'] != ids: return f"{path} is of another data set: {_differ(found['items'], ids, 'items')}"
    if found['vocab'] != labels: return f"{path} is of another vocab: {_differ(found['vocab'], labels, 'classes')}"
    return f"the first lines of {path} were changed: restore them, or name another file"


def _differ(old, new, what):
    parts = [f"{len(o)} {what} are only in {where}, such as {', '.join(map(brief, sorted(o)[:3]))}"
             for o, where in ((old - new, 'the journal'), (new - old, 'issues or vocab')) if o]
    return f"{'; '.join(parts)}; pass those it was made with, or another path"


def record_lines(groups, head):
    "The lines of one action, `groups` of what it does and the ids: one line, or as many as it takes, numbered"
    if len(groups) == 1:
        what, ids = groups[0]
        line = as_json({**what, **head, 'ids': ids}) + b'\n'
        if len(line) <= RECORD: return [line]
    most = [sum(len(ids) for _, ids in groups)]*2
    parts = [(what, o) for what, ids in groups
             for o in _packed(ids, RECORD - len(as_json({**what, **head, 'ids': [], 'part': most})) - 1)]
    return [as_line({**what, **head, 'ids': o, 'part': [i, len(parts)]}) for i, (what, o) in enumerate(parts, 1)]


def _chunks(head, name, values):
    return [as_line({**head, name: o}) for o in _packed(values, RECORD - len(as_json({**head, name: []})) - 1)]


def _packed(values, room):
    "`values` in lists of at most `room` bytes as JSON"
    res, used = [], room + 1
    for o in values:
        size = len(as_json(o)) + 1
        if used + size > room + 1:
            res.append([])
            used = 0
        res[-1].append(o)
        used += size
    return res


def as_line(record):
    "`record` as a line of the journal; ValueError where it is longer than one write may be"
    line = as_json(record) + b'\n'
    if len(line) > RECORD: raise ValueError(f"a record has {len(line)} bytes, but the journal takes {RECORD}")
    return line


def loaded(line):
    "The record of a line, or None where it is torn or no JSON"
    try: return DECODE(line.decode())
    except (ValueError, RecursionError): return None
