"What one tab shows, and what was clicked there: done once each, in the order of the clicks"
from functools import partial

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from .text import MAX_REASON, plain


class Clicks:
    """The clicks of one tab: `later` is the callback of its buttons, `do_all` comes first in whatever draws.

    Streamlit 1.67 calls the callbacks of clicks that come while it draws together, the latest first; it may break a
    callback off where that touches `st`; a fragment's timer may send a click that is then sent again, alone or with
    what waits; and a key may reach the buttons of the card that is shown and of the one before it. So a callback only
    notes what to do, but for one that a timer's run alone calls; the page turns last; where one card is shown only that
    is decided on; and what is decided already is not decided again, nor undone twice by what was drawn once."""
    def __init__(self,
        session,  # The ReviewSession
    ):
        self.session, self.failed, self.seen, self.page = session, {}, {}, 0
        self._waiting, self._turned, self._timer, self._again = [], None, None, {}

    def later(self,
        do,  # Called without `st` before what must not be lost
        *args,  # Passed to it
    ):
        "Have `do_all` call it"
        if (ids := _fragments()) is None or ids != self._timer: self._waiting.append(partial(do, *args))

    def do_all(self):
        "Do what was clicked since"
        while self._waiting: self._waiting.pop()()
        if self._turned is not None: self.page, self._turned = self._turned, None

    def turn(self,
        page,  # From 0
    ):
        "Show another page, once all else is done"
        self._turned = page

    def is_timer(self):
        "Say, in a fragment with a timer and without buttons, that a run of it alone does not stand for a click"
        if (ids := _fragments()) is not None and len(ids) == 1: self._timer = ids

    def act(self,
        do,  # Method of the session
        *args,  # Passed to it
        key,  # Under what its failure is shown: an id, or 'page'
    ):
        "Do it and return what it gives; why it was not saved stands in `failed`, None is returned then"
        self.failed.pop(key, None)
        try: return getattr(self.session, do)(*args)
        except (OSError, ValueError) as e: self.failed[key] = plain(e, MAX_REASON)

    def decide(self,
        i,  # Id of the item
        do,  # Method of the session
        *args,  # Passed to it after the id
    ):
        "Decide on one item, see `act`; a note and this user's decision that are in force are not written again"
        if len(self.seen) == 1 and i not in self.seen:
            return st.toast('A card that is no longer shown was not decided on')
        self.act('refresh', key=i)
        if i not in self.failed and not self._decided(i, do, *args): self.act(do, i, *args, key=i)

    def _decided(self, i, do, *args):
        state = self.session.state.get(i)
        if do == 'note': return (state and state['note'] or '') == args[0]
        return state is not None and (state['action'], state['user']) == (do, self.session.user) and (
            do != 'relabel' or state['label'] == args[0])

    def again(self,
        do,  # 'undo' or 'redo'
        drawn,  # Object of the button that was drawn
    ):
        "Undo or redo, once a drawing of the button, and say how many items it changed"
        if self._again.get(do) is drawn: return
        self._again[do] = drawn
        ids = self.act(do, key='page')
        if 'page' not in self.failed: st.toast(f'{do.capitalize()}: {len(ids)} items' if ids else f'Nothing to {do}')

    def batch(self,
        shown,  # Ids of the cards
        do,  # Method of the session
        *args,  # Passed to it after the ids
    ):
        "Decide on the selected cards, which are no longer selected once it is saved"
        ids = self._selected(shown)
        if not ids: return
        self.act(do, ids, *args, key='page')
        if 'page' not in self.failed: self.select(shown, False)

    def accept(self,
        shown,  # Ids of the cards
    ):
        "Relabel the selected cards as predicted, see `batch`"
        df = self.session.issues
        predicted = dict(df[df.id.isin(shown)][['id', 'predicted']].itertuples(index=False))
        if ids := self._selected(shown): self.batch(ids, 'relabel', [predicted[i] for i in ids])

    def select(self,
        shown,  # Ids of the cards
        value,  # Whether they are selected then
    ):
        "Select cards, or none"
        for i in shown: st.session_state[f'select-{i}'] = value

    def _selected(self, shown):
        ids = [i for i in shown if st.session_state.get(f'select-{i}')]
        if not ids: st.toast('Select cards first')
        return ids


def clicks_of(
    session,  # The ReviewSession
) -> Clicks:
    "The clicks of this tab"
    if 'clicks' not in st.session_state: st.session_state.clicks = Clicks(session)
    return st.session_state.clicks


def _fragments(): return get_script_run_ctx().fragment_ids_this_run
