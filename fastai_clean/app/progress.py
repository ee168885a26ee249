"How far the review is, and how far its reviewers agree; read anew every two seconds"
import streamlit as st

from .text import MAX_NAME, plain


def progress(
    session,  # The ReviewSession
    clicks,  # The Clicks of this tab
):
    """Draw it, having read what other writers appended; all is drawn anew where that changed a card that is shown.

    What the expander holds is counted only while it is open. Names are drawn by st.dataframe, on a canvas: st.table
    reads them as Markdown."""
    clicks.is_timer()
    clicks.do_all()
    session.refresh()
    done, flagged = (counts := _of_state(session, 'progress'))['reviewed'], counts['flagged']
    st.progress(done/flagged if flagged else 1.)
    st.text(f'{done:,} of {flagged:,} issues reviewed')
    with (box := st.expander('By class and by reviewer', key='counts', on_change='rerun')):
        if box.open: _tables(session, counts['per_class'])
    if any(session.state.get(i) != o for i, o in clicks.seen.items()): st.rerun()


def _tables(session, classes):
    column = st.column_config
    st.dataframe(classes.assign(**{'class': classes['class'].map(_named)}), hide_index=True, column_config={
        'class': column.Column(width=80), **{o: column.Column(width=62) for o in ('reviewed', 'flagged')}})
    pairs = _of_state(session, 'agreement')
    if pairs.empty: return st.text('Agreement is counted once two people have decided.')
    st.dataframe(pairs.assign(user=pairs.user.map(_named), other=pairs.other.map(_named)), hide_index=True,
                 column_config={**{o: column.Column(width=40) for o in ('user', 'other', 'n')}, **{
                     o: column.NumberColumn(format='%.2f', width=44) for o in ('agree', 'kappa')}})


def _of_state(session, what):
    "`session.progress()` or `session.agreement()`, counted anew only where a decision changed"
    state = session.state
    kept = st.session_state.get(what, (None, None))
    if kept[0] is not state: kept = st.session_state[what] = state, getattr(session, what)()
    return kept[1]


def _named(o): return plain(o, MAX_NAME)
