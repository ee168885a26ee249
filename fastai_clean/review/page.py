"The page of a review: answers the messages of web/review.js, whatever host carries them"
import json
import stat
from collections import OrderedDict
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import RLock

import numpy as np
import pandas as pd

from .._files import sibling
from .._images import Unreadable, open_upright, thumbnail
from .._text import brief, name_of, neutral, plain
from .session import ReviewSession

WEB = Path(__file__).with_name('web')
STATUSES = {'any': 'all', 'todo': 'to do', 'done': 'decided'}
ORDERS = {'worst': 'worst first', 'confident': 'most confident first',
          'pair': 'by given and predicted', 'id': 'by id'}
SHOWS = {True: 'label issues', False: 'all items'}
FIRST = dict(set=None, given=None, predicted=None, issues=True, status='any', order='worst')
MAX_TEXT = 4000  # Characters of an item's text
MAX_REASON = 300  # Characters of a note, or of why an item is not shown
SIZE = 176  # Pixels of a thumbnail's longest side
MAX_VIEWS = 64
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
    one was left, in a new round without what is decided. Data is sent as text, never as markup.
    Raises TypeError if `session` is not a ReviewSession, ValueError for a page_size below 1 and a
    `show` that does not tell the sets apart."""

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
        self.memory = Path(f'{session.path}.place')
        self.views: OrderedDict[str, View] = OrderedDict()
        # Handlers run in threads: a turn must not wait for the journal, nor a decision for images
        self.journal_lock = RLock()
        self.lock = RLock()
        self.picture_lock = RLock()
        self.flagged = set(self.ids[self.table['is_issue'].to_numpy(dtype=bool)])
        self.state: dict = {}  # What is known to be on disk, see `ReviewSession.state`
        self.counts = dict(reviewed=0, flagged=len(self.flagged))
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
                    reply['thumbs'] = self._thumbs(msg['rows'], buffers)
            case 'look':
                with self.lock: reply = self._answer(msg)
            case _:
                with self.journal_lock: reply = self._answer(msg)
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
        match msg.get('do'):
            case 'open':
                reply['options'] = self.options()
                reply['page'] = self.shown_page(view)
                self._read()
            case 'look':
                self.look(view, msg.get('number', 0), **msg.get('place', {}))
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
        at: int | None = None,  # Row number of the item to go to, instead of `number`
        **place,  # Filters and order to change, see `FIRST`
    ):
        "Filter, sort and turn to a page. A turn alone does not filter again: decided items stay"
        if type(number) is not int: raise ValueError(f"number is {brief(number)}: pass an integer")
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
        "What the filters offer: classes and sets by index, value and text of other choices"
        return dict(names=self.names, sets=[plain(o) for o in self.sets],
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
        rows = list(rows)
        if any(type(o) is not int or not 0 <= o < len(self.ids) for o in rows):
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
            if k not in choices or v not in choices[k]:
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
                self.look(view, at=at, **kept)
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


def shower(
    show,  # As for `Page`
    sets=(),  # Names of the sets of the review
) -> Callable[[pd.Series], np.ndarray | str]:
    """A function of a row of `session.issues` that returns an array (h, w[, 3]), a text or an
    `Unreadable`.

    A CleanInterpretation (anything with `shown` and `ids`) shows its item with the row's id; a dict
    has one for each set. None shows the row's `text`, or the image file named by its `path`, else
    by its id, upright as its EXIF data say. Raises ValueError if it is unclear which set is
    shown."""
    if show is None: return _from_table
    if isinstance(show, dict):
        if missing := [o for o in sets if o not in map(str, show)]:
            raise ValueError(f"show has nothing for the set {missing[0]!r}: give one for each of "
                             f"{', '.join(sets)}")
        shows = {str(k): shower(o) for k, o in show.items()}
        return lambda row: shows[str(row['set'])](row)
    if not hasattr(show, 'shown'): return show
    if len(sets) > 1:
        raise ValueError(f"show is one {type(show).__name__}, but the review has the sets "
                         f"{', '.join(sets)}: give a dict of set -> interpretation, since items of "
                         "different sets may have the same id")
    where = {str(o): i for i, o in enumerate(show.ids)}
    return lambda row: show.shown(where[str(row['id'])])


def picture(
    show: Callable[[pd.Series], np.ndarray | str],  # Result of `shower`
    row: pd.Series,  # A row of `session.issues`
) -> tuple[str, str, bytes, str, int]:  # Kind, text or reason, thumbnail, its MIME type and width
    "An item as an image, as text, or missing: what its loading raises is the reason"
    try:
        shown = show(row)
        if isinstance(shown, Unreadable): return 'missing', plain(shown, MAX_REASON), b'', '', 0
        if isinstance(shown, str): return 'text', neutral(shown, MAX_TEXT), b'', '', 0
        data, mime, width, _ = thumbnail(shown, SIZE)
        return 'image', '', data, mime, width
    except Exception as e:  # noqa: BLE001  a user's loading code may raise anything
        return 'missing', plain(f'{type(e).__name__}: {e}', MAX_REASON), b'', '', 0


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


def _from_table(row):
    if isinstance(row.get('text'), str): return row['text']
    path = Path(str(row['path'] if 'path' in row else row['id']))
    if not path.is_file():
        return Unreadable(f'{path} is not a file here: pass Cleaner(session, show=...)')
    return open_upright(path, SIZE)
