"The pages of the app: cards of one page of the review, above them the batch actions, beside them what is listed"
from functools import partial

import streamlit as st

from .cards import card, label_buttons
from .clicks import clicks_of
from .launch import opened
from .predict import predict_page
from .progress import progress
from .text import MAX_NAME, plain

ORDERS = {'Likeliest wrong first': None, 'Surest prediction first': 'confidence', 'By given label': 'given'}
DECISIONS = 'All', 'Undecided', 'Decided', 'Unsure'
SIZES, SECONDS = (1, 6, 12, 24, 48), 2
KEYS = ('One card a page has keys: 1-9 label, A accept the prediction, K keep, D delete, N unsure. Always: U undo, '
        'Y redo, arrows turn pages.')


def show(
    args,  # Arguments of the command line, see `fastai_clean_review --help`
):
    "Draw the app once"
    options, session = opened(tuple(args))
    st.set_page_config(page_title='Review of labels', layout='wide')
    clicks = clicks_of(session)
    clicks.do_all()
    clicks.seen = {}

    def review(): _review_page(session, clicks, options)
    def predict(): predict_page(options.model)
    st.navigation([st.Page(review, title='Review', url_path='review', default=True),
                   st.Page(predict, title='Predict', url_path='predict')]).run()


def _review_page(session, clicks, options):
    session.refresh()
    with st.sidebar:
        st.fragment(progress, run_every=SECONDS)(session, clicks)
        with st.expander('Filters', expanded=True): ids, size = _chosen(session, clicks)
        st.caption(KEYS)
    st.fragment(_page)(session, clicks, options, ids, size)


def _page(session, clicks, options, ids, size):
    """One page, and what turns it or decides on it. A fragment: when the whole app is asked for, Streamlit 1.67 forgets
    a click on a card that still waits"""
    clicks.do_all()
    pages = max(1, -(-len(ids)//size))
    page = clicks.page = min(max(clicks.page, 0), pages - 1)
    st.query_params['page'] = page + 1
    shown = ids[page*size:(page + 1)*size]
    with st.container(border=True, gap='xsmall'): _tools(session, clicks, shown)
    if reason := clicks.failed.get('page'):
        st.error('NOT SAVED')
        st.text(reason)
    with st.container(horizontal=True, vertical_alignment='center'):
        for name, key, to in (('Previous', 'Left', page - 1), ('Next', 'Right', page + 1)):
            st.button(name, on_click=clicks.later, args=(clicks.turn, to), disabled=not 0 <= to < pages, shortcut=key)
        st.text(f'Page {page + 1:,} of {pages:,} · {len(ids):,} items')
    if not shown: st.info('No item passes the filters.')
    _cards(session, clicks, options, shown, size)


def _cards(session, clicks, options, shown, size):
    rows = session.issues[session.issues.id.isin(shown)].set_index('id', drop=False)
    clicks.seen = {i: session.state.get(i) for i in shown}
    width = 1 if size == 1 else 2 if options.images is None else 3
    for start in range(0, len(shown), width):
        for column, i in zip(st.columns(width), shown[start:start + width]):
            with column: st.fragment(card)(session, clicks, options, rows.loc[i], keys=size == 1)


def _tools(session, clicks, shown):
    with st.container(horizontal=True):
        for do, key in (('undo', 'U'), ('redo', 'Y')):
            st.button(do.capitalize(), on_click=clicks.later, args=(clicks.again, do, object()), shortcut=key)
        st.download_button('Decisions', data=lambda: session.decisions.to_csv(index=False).encode(
            errors='backslashreplace'), file_name='decisions.csv', mime='text/csv', on_click='ignore')
        for name, value in (('Select all', True), ('Select none', False)):
            st.button(name, on_click=clicks.later, args=(clicks.select, shown, value))
    st.text('Selected cards')
    later = partial(clicks.later, clicks.batch, shown)
    label_buttons(session, later, 'batch')
    with st.container(horizontal=True):
        st.button('Accept predictions', key='batch-accept', on_click=clicks.later, args=(clicks.accept, shown))
        for do in ('keep', 'delete', 'unsure'):
            st.button(do.capitalize(), key=f'batch-{do}', on_click=later, args=(do,))


def _chosen(session, clicks):
    "The ids that pass the filters, listed anew only where a filter changes: a decided item stays in its place"
    kept = dict(bind='query-params')
    sets = ['All', *sorted({*session.issues['set'].map(str)})] if 'set' in session.issues else ['All']
    name = st.selectbox('Set', sets, key='set', format_func=_named, **kept) if len(sets) > 2 else 'All'
    given, predicted = (_chosen_class(session, o) for o in ('Given', 'Predicted'))
    decision = st.selectbox('Decision', DECISIONS, key='decision', **kept)
    order = st.selectbox('Order', list(ORDERS), key='order', **kept)
    size = st.selectbox('Cards a page', SIZES, index=2, key='size', **kept)
    only = st.toggle('Only issues', value=True, key='only', **kept)
    asked = name, given, predicted, decision, order, only, size
    if st.session_state.get('asked') != asked:
        clicks.page = 0 if 'asked' in st.session_state else _asked_number('page', 1) - 1
        st.session_state.asked, st.session_state.ids = asked, _listed(session, *asked[:-1])
    return st.session_state.ids, size


def _chosen_class(session, name):
    "Index of the class to list, -1: all; the query parameters hold it, which name no class"
    key, labels = name.lower(), ['All', *session.vocab]
    if key not in st.session_state:
        st.session_state[key] = asked if 0 < (asked := _asked_number(key, -1) + 1) < len(labels) else 0
    i = st.selectbox(f'{name} label', range(len(labels)), key=key, format_func=lambda i: _named(labels[i])) - 1
    if i >= 0: st.query_params[key] = i
    else: st.query_params.pop(key, None)
    return i


def _named(o): return plain(o, MAX_NAME)


def _asked_number(key, default):
    "The whole number that a query parameter holds, else `default`"
    text = st.query_params.get(key, '')
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 9 else default


def _listed(session, name, given, predicted, decision, order, only):
    df = session.issues
    actions = df.id.map({i: o['action'] for i, o in session.state.items()})
    keep = df.is_issue | (not only)
    if name != 'All': keep &= df['set'].map(str) == name
    if given >= 0: keep &= df.given == session.vocab[given]
    if predicted >= 0: keep &= df.predicted == session.vocab[predicted]
    if decision == 'Unsure': keep &= actions == 'unsure'
    elif decision != 'All': keep &= actions.isna() if decision == 'Undecided' else actions.notna()
    df, by = df[keep], ORDERS[order]
    if by: df = df.sort_values(by, ascending=by != 'confidence', kind='stable')
    return df.id.tolist()

