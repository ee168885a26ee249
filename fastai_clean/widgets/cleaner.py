"A page of a review: which items are on it, and the actions that go to the session"
import json
import os
from contextlib import suppress
from pathlib import Path
from threading import RLock

import numpy as np
import pandas as pd

from .fallback import fallback_view
from .items import name_of, picture, plain, shower
from .live import live_view

STATUSES = {'any': 'all', 'todo': 'to do', 'done': 'decided'}
ORDERS = {'worst': 'worst first', 'confident': 'most confident first', 'pair': 'by given and predicted',
          'item': 'by item'}
SHOWS = {True: 'label issues', False: 'all items'}
FIRST = dict(set=None, given=None, predicted=None, issues=True, status='any', order='worst')
VIEWS = {'anywidget': live_view, 'ipywidgets': fallback_view}
PLAIN_ACTS = 'keep', 'delete', 'unsure'


class Cleaner:
    """Decide on the items of a review in the notebook: make it the last line of a cell.

    Every decision goes to the `session`, which returns once it is on disk; only then is it shown as made. Where no
    answer comes in time the page says NOT SAVED (with backend='ipywidgets' the item just stays undecided). Filters and
    page are kept beside the journal, in `<journal>.place`, so that the user's next Cleaner opens where this one was
    left. Data is shown as text, never as markup. For the keys press ?. Raises ImportError where the backend is not
    installed, ValueError for another backend, a page_size below 1 and a `show` that does not tell the sets apart."""

    def __init__(self,
        session,  # A ReviewSession
        show=None,  # A CleanInterpretation, a function of a row, or a dict of set -> either, see `items.shower`
        backend='anywidget',  # 'anywidget', or 'ipywidgets', slower and without keys, where anywidget cannot be had
        page_size=24,  # Items a page
    ):
        if backend not in VIEWS: raise ValueError(f"backend is {backend!r}: choose one of {', '.join(VIEWS)}")
        if not hasattr(session, 'decisions'):
            raise TypeError(f"session is a {type(session).__name__}: pass a ReviewSession, such as interp.review(path)")
        if page_size < 1: raise ValueError(f"page_size is {page_size}: show at least 1 item a page")
        self.session, self.page_size, self.lock = session, page_size, RLock()
        self.table, self.ids = session.issues, session.issues['id'].to_numpy()
        self.sets = sorted(set(map(str, self.table['set']))) if 'set' in self.table else []
        self.show = shower(show, self.sets)
        self.names = [name_of(o) for o in session.vocab]
        self.memory, self.counted = Path(f'{session.path}.place'), (None, {})
        self._recall()
        self.widget = VIEWS[backend](self)

    def __repr__(self): return f'Cleaner({len(self.ids)} items, {len(self.session.state)} decided)'

    def _repr_mimebundle_(self, **kwargs): return self.widget._repr_mimebundle_(**kwargs)

    @property
    def rows(self):
        "Row numbers in `session.issues` of the items on the page"
        return self.found[self.number*self.page_size:(self.number + 1)*self.page_size].tolist()

    @property
    def pages(self): return max(1, -(-len(self.found)//self.page_size))

    def look(self,
        number=0,  # Page, from 0
        at=None,  # Row number of the item to go to, instead of `number`
        **place,  # Filters and order to change, see `FIRST`
    ):
        "Filter, sort and turn to a page, which stays as it is while its items are decided on"
        self.found = self._find({**self.place, **place})
        self.place |= place
        if at in self.found: number = int(np.flatnonzero(self.found == at)[0])//self.page_size
        self.number = min(max(number, 0), self.pages - 1)
        self.at = at if at in self.rows else next(iter(self.rows), None)
        self._remember()

    def act(self,
        act,  # One of accept, relabel, keep, delete, unsure, note, undo, redo
        rows=(),  # Row numbers in `session.issues`
        value=None,  # Index of the class for relabel, text for note
        at=None,  # Row number of the item the person is at now
    ) -> int:  # Number of items it was done to, 0 where there is nothing to undo or redo
        "Hand one action to the session; returns once it is on disk"
        if act in ('undo', 'redo'): return len(getattr(self.session, act)() or ())
        if any(not 0 <= o < len(self.ids) for o in rows): raise ValueError(f"rows has {rows}, not all of this review")
        ids = self.ids[list(rows)].tolist()
        if act == 'relabel': self.session.relabel(ids, self.session.vocab[range(len(self.names))[value]])
        elif act == 'accept': self.session.relabel(ids, self.table['predicted'].iloc[list(rows)].tolist())
        elif act == 'note': self.session.note(ids, value)
        elif act in PLAIN_ACTS: getattr(self.session, act)(ids)
        else: raise ValueError(f"act is {act!r}, which is no action of a review")
        if at is not None: self.at = at
        self._remember()
        return len(ids)

    def options(self):
        "What the filters offer: value and text of each choice, and the names of sets and classes by their index"
        return dict(names=self.names, sets=[plain(o) for o in self.sets], shows=list(SHOWS.items()),
                    statuses=list(STATUSES.items()), orders=list(ORDERS.items()))

    def shown_page(self):
        "The page's cards and where it is"
        return dict(cards=[self.card(o) for o in self.rows], place=self.place, number=self.number, pages=self.pages,
                    total=len(self.found), at=self.at)

    def card(self, row):
        "What is said of an item: strings fit to show, and numbers or None"
        o = self.table.iloc[row]
        number = lambda k: None if pd.isna(o.get(k)) else round(float(o[k]), 4)
        return dict(row=row, item=plain(o['item']), given=name_of(o['given']), predicted=name_of(o['predicted']),
                    confidence=number('confidence'), quality=number('label_quality'), issue=bool(o['is_issue']),
                    set=plain(o['set']) if len(self.sets) > 1 else '')

    def states(self):
        "Row number -> [action, label, other user, note] of the items on the page that have any"
        state, res = self.session.state, {}
        for row in self.rows:
            if (o := state.get(self.ids[row])) is None: continue
            other = '' if o['user'] == self.session.user else plain(o['user'])
            label = '' if o['label'] is None else name_of(o['label'])
            res[row] = [o['action'] or '', label, other, plain(o['note'] or '', 300)]
        return res

    def progress(self):
        "Numbers of flagged items reviewed, and flagged; counted anew only where `session.state` is another snapshot"
        if (state := self.session.state) is not self.counted[0]:
            p = self.session.progress()
            self.counted = state, {k: int(p[k]) for k in ('reviewed', 'flagged')}
        return self.counted[1]

    def picture(self, row):
        "The item of row number `row`, see `items.picture`"
        return picture(self.show, self.table.iloc[row])

    def _find(self, place):
        "Row numbers that the filters leave, in order"
        choices = dict(set=[None, *range(len(self.sets))], issues=SHOWS, status=STATUSES, order=ORDERS)
        choices |= dict.fromkeys(('given', 'predicted'), [None, *range(len(self.names))])
        for k, v in place.items():
            if k not in choices or v not in choices[k]: raise ValueError(f"{k} is {v!r}, which cannot be looked for")
        t, mask = self.table, np.ones(len(self.table), dtype=bool)
        if place['set'] is not None: mask &= (t['set'].map(str) == self.sets[place['set']]).to_numpy()
        for k in ('given', 'predicted'):
            if place[k] is not None: mask &= _has(t[k], self.session.vocab[place[k]])
        if place['issues']: mask &= t['is_issue'].to_numpy(dtype=bool)
        if place['status'] != 'any':
            done = {k for k, o in self.session.state.items() if o['action']}
            mask &= t['id'].isin(done).to_numpy() == (place['status'] == 'done')
        return np.flatnonzero(mask)[_order(t[mask], place['order'])]

    def _recall(self):
        "Go where this user left off; to the beginning where nothing fit is remembered"
        self.place, at = FIRST | {'issues': bool(self.table['is_issue'].any())}, None
        try:
            kept = json.loads(self.memory.read_text(encoding='utf-8'))[str(self.session.user)]
            at = next(iter(np.flatnonzero(self.ids == kept.pop('at')).tolist()), None)
            self.look(at=at, **kept)
        except (OSError, ValueError, KeyError, TypeError, AttributeError): self.look()

    def _remember(self):
        try: kept = json.loads(self.memory.read_text(encoding='utf-8'))
        except (OSError, ValueError): kept = {}
        mine = {**self.place, 'at': None if self.at is None else str(self.ids[self.at])}
        kept = {**(kept if isinstance(kept, dict) else {}), str(self.session.user): mine}
        tmp = Path(f'{self.memory}.{os.getpid()}')
        with suppress(OSError):  # the decision is on disk already: a place that cannot be kept must not say otherwise
            tmp.write_text(json.dumps(kept), encoding='utf-8')
            os.replace(tmp, self.memory)


def _has(column, label):
    return np.array([label in o if isinstance(o, (tuple, list)) else o == label for o in column], dtype=bool)


def _order(table, order):
    "Positions of the rows in that order; ties stay the worst first"
    if order == 'worst': return np.arange(len(table))
    if order == 'confident': return np.argsort(-table['confidence'].to_numpy(dtype=float), kind='stable')
    keys = ['given', 'predicted'] if order == 'pair' else ['item']
    by = pd.DataFrame({k: table[k].map(str).to_numpy() for k in keys})
    return by.sort_values(keys, kind='stable').index.to_numpy()
