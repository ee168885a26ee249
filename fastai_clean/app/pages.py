"The pages of the app: cards of one page of the review, and beside them what is listed and the batch actions"
import streamlit as st

from .cards import act, card, label_buttons
from .launch import opened
from .predict import predict_page
from .text import MAX_NAME, plain

__all__ = ['show']

ORDERS = {'Likeliest wrong first': None, 'Surest prediction first': 'confidence', 'By given label': 'given'}
DECISIONS = 'All', 'Undecided', 'Decided', 'Unsure'
SIZES, SECONDS = (1, 6, 12, 24, 48), 2
KEYS = 'One card a page has keys: 1-9 label, K keep, D delete, N unsure. Always: U undo, Y redo, arrows turn pages.'


def show(
    args,  # Arguments of the command line, see `fastai_clean_review --help`
):
    "Draw the app once"
    options, session = opened(tuple(args))
    st.set_page_config(page_title='Review of labels', layout='wide')
    st.session_state.seen = {}

    def review(): _review_page(session, options)
    def predict(): predict_page(options.model)
    st.navigation([st.Page(review, title='Review', url_path='review', default=True),
                   st.Page(predict, title='Predict', url_path='predict')]).run()


def _review_page(session, options):
    session.refresh()
    with st.sidebar:
        st.fragment(_progress, run_every=SECONDS)(session)
        _again_buttons(session)
        selected = st.container(border=True)
        with st.expander('Filters', expanded=True): ids, size = _chosen(session)
        st.caption(KEYS)
    pages = max(1, -(-len(ids)//size))
    page = st.session_state.page = min(max(st.session_state.page, 0), pages - 1)
    st.query_params['page'] = page + 1
    shown = ids[page*size:(page + 1)*size]
    with selected: _batch(session, shown)
    if reason := st.session_state.get('failed', {}).get('page'):
        st.error('NOT SAVED')
        st.text(reason)
    with st.container(horizontal=True, vertical_alignment='center'):
        st.button('Previous', on_click=_turn, args=(-1,), disabled=page == 0, shortcut='Left')
        st.button('Next', on_click=_turn, args=(1,), disabled=page == pages - 1, shortcut='Right')
        st.text(f'Page {page + 1:,} of {pages:,} · {len(ids):,} items')
    if not shown: st.info('No item passes the filters.')
    _cards(session, options, shown, size)


def _cards(session, options, shown, size):
    rows = session.issues[session.issues.id.isin(shown)].set_index('id', drop=False)
    st.session_state.seen = {i: session.state.get(i) for i in shown}
    width = 1 if size == 1 else 2 if options.images is None else 3
    for start in range(0, len(shown), width):
        for column, i in zip(st.columns(width), shown[start:start + width]):
            with column: st.fragment(card)(session, options, rows.loc[i], keys=size == 1)


def _turn(step): st.session_state.page += step


def _progress(session):
    "Reads what other writers appended; draws the page anew where that changed what it shows"
    session.refresh()
    counted, state = st.session_state.get('counted', (None, None)), session.state
    if counted[0] is not state: counted = st.session_state.counted = state, session.progress()
    done, flagged = counted[1]['reviewed'], counted[1]['flagged']
    st.progress(done/flagged if flagged else 1.)
    st.text(f'{done:,} of {flagged:,} issues reviewed')
    if any(state.get(i) != o for i, o in st.session_state.seen.items()): st.rerun()


def _again_buttons(session):
    with st.container(horizontal=True):
        st.button('Undo', on_click=_again, args=(session, 'undo'), shortcut='U')
        st.button('Redo', on_click=_again, args=(session, 'redo'), shortcut='Y')
        st.download_button('Decisions', data=lambda: session.decisions.to_csv(index=False).encode(
            errors='backslashreplace'), file_name='decisions.csv', mime='text/csv', on_click='ignore')


def _again(session, do):
    ids = act(session, do, key='page')
    if 'page' not in st.session_state.failed:
        st.toast(f'{do.capitalize()}: {len(ids)} items' if ids else f'Nothing to {do}')


def _chosen(session):
    "The ids that pass the filters, listed anew only where a filter changes: a decided item stays in its place"
    labels, kept = ['All', *session.vocab], dict(bind='query-params')
    sets = ['All', *sorted({*session.issues['set'].map(str)})] if 'set' in session.issues else ['All']
    name = st.selectbox('Set', sets, key='set', format_func=_named, **kept) if len(sets) > 2 else 'All'
    given, predicted = (st.selectbox(f'{o} label', range(len(labels)), key=o.lower(), format_func=lambda i: _named(
        labels[i])) for o in ('Given', 'Predicted'))
    decision = st.selectbox('Decision', DECISIONS, key='decision', **kept)
    order = st.selectbox('Order', list(ORDERS), key='order', **kept)
    size = st.selectbox('Cards a page', SIZES, index=2, key='size', **kept)
    only = st.toggle('Only issues', value=True, key='only', **kept)
    asked = name, given - 1, predicted - 1, decision, order, only, size
    if st.session_state.get('asked') != asked:
        st.session_state.page = 0 if 'asked' in st.session_state else _asked_page()
        st.session_state.asked, st.session_state.ids = asked, _listed(session, *asked[:-1])
    return st.session_state.ids, size


def _named(o): return plain(o, MAX_NAME)


def _asked_page():
    page = st.query_params.get('page', '1')
    return int(page) - 1 if page.isascii() and page.isdecimal() and len(page) < 9 else 0


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


def _batch(session, shown):
    st.text('Selected cards')
    with st.container(horizontal=True):
        st.button('Select all', on_click=_select, args=(shown, True))
        st.button('Select none', on_click=_select, args=(shown, False))

    def selected(do, *args):
        ids = [i for i in shown if st.session_state.get(f'select-{i}')]
        if not ids: return st.toast('Select cards first')
        act(session, do, ids, *args, key='page')
        if 'page' not in st.session_state.failed: _select(shown, False)
    label_buttons(session, selected, 'batch')
    with st.container(horizontal=True):
        for do in ('keep', 'delete', 'unsure'):
            st.button(do.capitalize(), key=f'batch-{do}', on_click=selected, args=(do,))


def _select(shown, value):
    for i in shown: st.session_state[f'select-{i}'] = value
