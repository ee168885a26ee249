"The page of a review: answers the messages of web/review.js, whatever host carries them"
import json
import stat
from collections import OrderedDict
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock, RLock

import numpy as np
import pandas as pd

from .._files import sibling
from .._strength import weakness
from .._text import as_text, brief, capital, name_of, plain
from .session import ReviewSession
from .shown import MAX_REASON, picture, shower

WEB = Path(__file__).with_name('web')
STATUSES = {'any': 'all', 'todo': 'to do', 'done': 'decided'}
ORDERS = {'worst': 'worst first', 'confident': 'most confident first',
          'pair': 'by given and predicted', 'id': 'by id'}
SHOWS = {True: 'label issues', False: 'all items'}
NEEDED = {'act': {'act', 'rows', 'value', 'at'}, 'thumbs': {'rows'}}  # In a message, by its `do`
FIRST = dict(set=None, given=None, predicted=None, issues=True, status='any', order='worst')
MAX_VIEWS = 64
ENOUGH = 20  # Decisions from which the page estimates how many labels are wrong
STEP = 10  # and how many more change before it does so again
MAX_ANSWERS = 100  # Replies kept per view, for messages that come twice


@dataclass
class View:
    "What one view of the page shows, in a cell's output or a browser's tab"
    place: dict  # Filters and order, see `FIRST`
    found: np.ndarray  # Row numbers in `session.issues` that the filters leave, in order
    size: int  # Items per page
    number: int = 0  # Page, from 0
    at: int | None = None  # Row number of the current item
    answers: OrderedDict = field(default_factory=OrderedDict)  # Message id -> the reply to it

    @property
    def rows(self) -> list[int]:
        "Row numbers of the items on the page"
        return self.found[self.number*self.size:(self.number + 1)*self.size].tolist()

    @property
    def pages(self) -> int:
        "Number of pages, at least 1"
        return max(1, -(-len(self.found)//self.size))


class Page:
    """The views of one session, and the actions that they send to it.

    Every decision goes to the `session`, which returns once it is on disk; only then is it shown as
    made. Each view has filters, a page number and a current item of its own: if views shared them,
    turning the page of one would make the other show saved decisions as undecided. The last place
    is kept beside the journal, in `<journal>.place`, so that the user's next view opens where this
    one was left. Data is sent as text, never as markup. Raises TypeError if `session` is not a
    ReviewSession, ValueError for a page_size below 1 and a `show` that does not tell sets apart."""

    def __init__(self,
        session: ReviewSession,  # The review
        show=None,  # CleanInterpretation, function of a row, or {set: either}: see `shower`
        page_size: int = 24,  # Items per page
    ):
        if not isinstance(session, ReviewSession):
            raise TypeError(f"session is a {type(session).__name__}: pass a ReviewSession, such as "
                            "interp.review(path)")
        if page_size < 1:
            raise ValueError(f"page_size is {page_size}: show at least 1 item per page")

        self.session = session
        self.page_size = page_size
        self.table = session.issues
        self.ids = session.ids
        self.sets = sorted(set(map(str, self.table['set']))) if 'set' in self.table else []
        self.show = shower(show, self.sets)
        self.names = [name_of(o) for o in session.vocab]
        self.notice = plain(_notice(session, show), 500)
        self.memory = Path(f'{session.path}.place')
        self.views: OrderedDict[str, View] = OrderedDict()
        # Handlers run in threads: a turn must not wait for the journal, nor a decision for images
        self.journal_lock = RLock()
        self.lock = RLock()
        self.picture_lock = RLock()
        self.flagged = set(self.ids[self.table['is_issue'].to_numpy(dtype=bool)])
        self.state: dict = {}  # What is known to be on disk, see `ReviewSession.state`
        self.counts = dict(reviewed=0, flagged=len(self.flagged))
        self.estimate = ''
        self._estimated: dict = {}  # The state that it was made from
        self.estimate_lock = Lock()
        self._answered = 0
        self._remembered = None
        self._read()

    def answer(self,
        msg: dict,  # `do` (open, look, act, poll, tables, thumbs), `view`, `re` (its id), arguments
    ) -> tuple[dict, list[bytes]]:  # The message to send back, and its buffers
        """Do what a view asks, strictly one action after the other, and each message id once: if it
        comes again, the reply is the same. Errors are part of the reply, since only the page can
        tell the reviewer."""
        buffers: list[bytes] = []
        match msg.get('do'):
            case 'thumbs':
                reply = {'re': msg.get('re')}
                with self.picture_lock, _told(reply):
                    _check_message(msg)
                    reply['thumbs'] = self._thumbs(msg['rows'], buffers)
            case 'look':
                with self.lock: reply = self._answer(msg)
            case _:
                with self.journal_lock: reply = self._answer(msg)
        # Not under a lock that a decision waits for
        if msg.get('do') == 'poll': reply['estimate'] = self._estimate_now()
        return reply, buffers

    def _answer(self, msg):
        if msg.get('re') is None: return {'re': None, 'error': 'the message has no id `re`'}
        re = str(msg['re'])
        with self.lock:
            view = self._view(str(msg.get('view')))
            if re in view.answers: return view.answers[re]
        reply = {'re': re}
        with _told(reply): self._do(view, msg, reply)
        with self.lock:
            reply['states'] = self.states(view)
            reply['progress'] = self.counts
            # Replies may overtake each other on their way: the page believes the highest number
            self._answered += 1
            reply['order'] = self._answered
            view.answers[re] = reply
            if len(view.answers) > MAX_ANSWERS: view.answers.popitem(last=False)
        return reply

    def _do(self, view, msg, reply):
        _check_message(msg)
        match msg.get('do'):
            case 'open':
                reply['options'] = self.options()
                reply['page'] = self.shown_page(view)
                self._read()
            case 'look':
                self.look(view, msg.get('number', 0), msg.get('place'))
                reply['page'] = self.shown_page(view)
            case 'act':
                # `count` says that the action is saved, whatever goes wrong after it
                reply['count'] = self.act(view, msg['act'], msg['rows'], msg['value'], msg['at'])
                self._read()
            case 'tables':
                self._read()
                reply['tables'] = self.tables()
            case 'poll': self._read()
            case other: raise ValueError(f"do is {brief(other)}, which a page cannot do")

    def _estimate_now(self) -> str:
        "How many labels are wrong, in words; '' before there are enough decisions to say so"
        # Whoever comes while it is made gets the one before
        if not self.estimate_lock.acquire(blocking=False): return self.estimate
        try:
            state = self.state
            enough = len(state) >= ENOUGH
            if enough and _changes(self._estimated, state) < STEP: return self.estimate
            self._estimated = state if enough else {}
            self.estimate = plain(capital(str(self.session.estimate())), 500) if enough else ''
        # Such as items without a score: the review goes on without it
        except (ValueError, ArithmeticError): self.estimate = ''
        finally: self.estimate_lock.release()
        return self.estimate

    def _read(self):
        "Take in what is on disk"
        self.session.refresh()
        state = self.session.state
        if state is self.state: return
        # `session.progress` counts classes too, which takes longer than an action
        reviewed = sum(i in self.flagged for i, o in state.items() if o['action'] is not None)
        with self.lock:
            self.state = state
            self.counts = dict(reviewed=reviewed, flagged=len(self.flagged))

    def look(self,
        view: View,  # Changed in place
        number: int = 0,  # Page, from 0
        place: dict | None = None,  # Filters and order to change, see `FIRST`
        at: int | None = None,  # Row number of the item to go to, instead of `number`
    ):
        "Filter, sort and turn to a page. A turn alone does not filter again: decided items stay"
        if type(number) is not int: raise ValueError(f"number is {brief(number)}: pass an integer")
        if not isinstance(place, dict | None):
            raise ValueError(f"place is {brief(place)}: pass the filters to change, by their names")
        if place:
            view.found = self._find({**view.place, **place})
            view.place = {**view.place, **place}

        where = np.flatnonzero(view.found == (-1 if at is None else at))
        if len(where): number = int(where[0])//view.size
        view.number = min(max(number, 0), view.pages - 1)
        view.at = at if at in view.rows else next(iter(view.rows), None)
        self._remember(view)

    def act(self,
        view: View,  # The view that asks
        act: str,  # One of accept, relabel, keep, delete, unsure, note, undo, redo
        rows=(),  # Row numbers in `session.issues`
        value=None,  # Index of the class for relabel, text for note
        at: int | None = None,  # Row number of the item that the reviewer is at now
    ) -> int:  # Number of items that it was done to, 0 if there is nothing to undo or redo
        "Have the session do it; returns once it is on disk. ValueError or OSError if it is refused"
        if act in ('undo', 'redo'): return len(getattr(self.session, act)() or ())

        rows = self._checked(rows)
        ids = [str(self.ids[o]) for o in rows]
        if act == 'relabel': self.session.relabel(ids, self.session.vocab[self._class(value)])
        elif act == 'accept': self.session.relabel(ids, self.table['predicted'].iloc[rows].tolist())
        elif act == 'note': self.session.note(ids, value)
        elif act in ('keep', 'delete', 'unsure'): getattr(self.session, act)(ids)
        else: raise ValueError(f"act is {brief(act)}, which is not an action of a review")
        with self.lock:
            # A page turn may have overtaken the action: the reviewer is elsewhere then
            if at in view.rows:
                view.at = at
                self._remember(view)
        return len(ids)

    def options(self) -> dict:
        """What the filters offer: classes and sets by index, value and text of other choices; and a
        sentence that stays in view, or ''"""
        return dict(notice=self.notice, names=self.names, sets=[plain(o) for o in self.sets],
                    shows=list(SHOWS.items()), statuses=list(STATUSES.items()),
                    orders=list(ORDERS.items()))

    def shown_page(self, view: View) -> dict:
        "The page's cards and where it is"
        return dict(cards=[self.card(o) for o in view.rows], place=view.place, number=view.number,
                    pages=view.pages, total=len(view.found), at=view.at)

    def card(self, row: int) -> dict:
        "What a card says about an item: strings that are safe to show, and numbers or None"
        o = self.table.iloc[row]
        return dict(
            row=row, id=plain(o['id']), set=plain(o['set']) if len(self.sets) > 1 else '',
            given=name_of(o['given']), predicted=name_of(o['predicted']), issue=bool(o['is_issue']),
            confidence=_number(o['confidence']), quality=_number(o['label_quality']))

    def states(self, view: View) -> dict:
        "Row number -> [action, label, other user, note] of each item on the page, or None"
        return {row: self._described(self.state.get(self.ids[row])) for row in view.rows}

    def _described(self, o):
        if o is None: return None
        user = '' if o['user'] == self.session.user else plain(o['user'])
        label = '' if o['label'] is None else name_of(o['label'])
        return [o['action'] or '', label, user, plain(o['note'] or '', MAX_REASON)]

    def tables(self) -> dict:
        "`classes`: name, reviewed, flagged; `pairs`: two users, items of both, agreement, kappa"
        classes = self.session.progress()['per_class'][['class', 'reviewed', 'flagged']]
        pairs = self.session.agreement()[['user', 'other', 'n', 'agree', 'kappa']]
        return dict(
            classes=[[name_of(o), int(done), int(flagged)]
                     for o, done, flagged in classes.itertuples(False)],
            pairs=[[plain(a), plain(b), int(n), _number(agree), _number(kappa)]
                   for a, b, n, agree, kappa in pairs.itertuples(False)])

    def _thumbs(self, rows, buffers):
        res = []
        for row in self._checked(rows):
            kind, text, data, mime, width = picture(self.show, self.table.iloc[row])
            res.append(dict(row=row, kind=kind, text=text, mime=mime, width=width, at=len(buffers)))
            if data: buffers.append(data)
        return res

    def _checked(self, rows):
        known = range(len(self.ids))
        if not isinstance(rows, list) or any(type(o) is not int or o not in known for o in rows):
            raise ValueError(f"rows has {brief(rows)}: pass row numbers of this review")
        return rows

    def _class(self, value):
        # -1 would relabel as the last class
        if type(value) is not int or not 0 <= value < len(self.names):
            raise ValueError(f"value is {brief(value)}: pass the index of one of the classes")
        return value

    def _find(self, place):
        "Row numbers that the filters leave, in order"
        classes = [None, *range(len(self.names))]
        choices = dict(set=[None, *range(len(self.sets))], given=classes, predicted=classes,
                       issues=SHOWS, status=STATUSES, order=ORDERS)
        for k, v in place.items():
            # To Python True is 1, and 1.0 too: neither is the index of a class
            if not any(type(v) is type(o) and v == o for o in choices.get(k, ())):
                raise ValueError(f"{k} is {brief(v)}, which is not one of its choices")

        table = self.table
        mask = np.ones(len(table), dtype=bool)
        if place['set'] is not None:
            mask &= (table['set'].map(str) == self.sets[place['set']]).to_numpy()
        for k in ('given', 'predicted'):
            if place[k] is not None: mask &= (table[k] == self.session.vocab[place[k]]).to_numpy()
        if place['issues']: mask &= table['is_issue'].to_numpy(dtype=bool)
        if place['status'] != 'any':
            actions = [(self.state.get(o) or {}).get('action') for o in self.ids]
            done = np.array([o is not None for o in actions])
            mask &= done == (place['status'] == 'done')
        return np.flatnonzero(mask)[_order(table[mask], place['order'])]

    def _view(self, name):
        "The view of that name; a new one opens where this user left off, if that still exists"
        if name not in self.views:
            todo = {'status': 'todo'} if self.session.news and self.session.carried else {}
            place = FIRST | {'issues': bool(self.table['is_issue'].any())} | todo
            view = View(place, self._find(place), self.page_size)
            view.at = next(iter(view.rows), None)
            with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
                kept = self._kept()[str(self.session.user)] | todo
                at = next(iter(np.flatnonzero(self.ids == kept.pop('at')).tolist()), None)
                self.look(view, 0, kept, at)
            self.views[name] = view
            if len(self.views) > MAX_VIEWS: self.views.popitem(last=False)
        self.views.move_to_end(name)
        return self.views[name]

    def _kept(self):
        "What the file of places holds. OSError for a link that another writer may have put there"
        if not stat.S_ISREG(self.memory.lstat().st_mode):
            raise OSError(f"{self.memory} is not a regular file")
        return json.loads(self.memory.read_text(encoding='utf-8'))

    def _remember(self, view):
        mine = {**view.place, 'at': None if view.at is None else str(self.ids[view.at])}
        if mine == self._remembered: return
        # The decision is on disk already: failing to keep the place must not suggest otherwise
        with suppress(OSError):
            kept = {}
            with suppress(FileNotFoundError, ValueError): kept = self._kept()
            kept = {**(kept if isinstance(kept, dict) else {}), str(self.session.user): mine}
            # An unpredictable name and a rename, which follows no link: nobody else who may write
            # in this folder can make us overwrite another file
            with sibling(self.memory) as tmp:
                tmp.touch(mode=0o600, exist_ok=False)
                tmp.write_text(json.dumps(kept), encoding='utf-8')
                tmp.replace(self.memory)
            self._remembered = mine


def script() -> str:
    "The page as one ES module, whose default export renders it into an element"
    return ''.join((WEB/o).read_text(encoding='utf-8') for o in ('kernel.js', 'review.js'))


def style() -> str:
    "The page's style sheet"
    return (WEB/'review.css').read_text(encoding='utf-8')


def _notice(session, show):
    "That the model is too weak to judge the labels, or ''"
    shows = show.values() if isinstance(show, dict) else [show]
    known = [o.weakness for o in (session, *shows) if getattr(o, 'weakness', None) is not None]
    if not known and not session.issues['is_issue'].all():
        at = {o: i for i, o in enumerate(session.classes)}
        codes = [session.issues[o].map(as_text).map(at).to_numpy() for o in ('given', 'predicted')]
        # A CSV does not tell whether it has all items, and issues alone agree with no label
        known = [o and f'unless items were left out of the table, {o}' for o in [weakness(*codes)]]
    found = next(filter(None, known), '')
    return f'{capital(found)}.' if found else ''


def _changes(old, new):
    "Number of items whose decision is another one"
    return sum(old.get(i) != new.get(i) for i in old.keys() | new.keys())


def _check_message(msg):
    missing = NEEDED.get(str(msg.get('do')), set()) - msg.keys()
    if missing: raise ValueError(f"the message lacks {', '.join(sorted(missing))}: send them too")


@contextmanager
def _told(reply):
    "Put what is raised into `reply` as its `error`: a full disk, a lost journal, whatever it is"
    try: yield
    except Exception as e: reply['error'] = plain(f'{type(e).__name__}: {e}', 500)  # noqa: BLE001


def _number(x): return round(float(x), 4) if np.isfinite(x) else None


def _order(table, order):
    "Positions of the rows in that order; ties stay worst first"
    if order == 'worst': return np.arange(len(table))
    if order == 'confident':
        return np.argsort(-table['confidence'].to_numpy(dtype=float), kind='stable')
    keys = ['given', 'predicted'] if order == 'pair' else ['id']
    by = pd.DataFrame({k: table[k].map(str).to_numpy() for k in keys})
    return by.sort_values(keys, kind='stable').index.to_numpy()
