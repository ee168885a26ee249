"One card: an item, its labels, and a button for every decision"
from functools import lru_cache, partial
from io import BytesIO
from pathlib import Path

import streamlit as st
from PIL import Image, ImageOps

from .text import MAX_NAME, MAX_REASON, plain, unmarked

DONE = {'keep': 'Kept as given', 'delete': 'Deleted', 'unsure': 'Unsure', 'relabel': 'Relabelled'}
KEYS = {'keep': 'K', 'delete': 'D', 'unsure': 'N'}
MAX_LABELS, MAX_NOTE, PIXELS, LEAST = 9, 200, 320, 160


def card(
    session,  # The ReviewSession
    clicks,  # The Clicks of this tab
    options,  # Of the command line
    row,  # Row of `session.issues`
    keys=False,  # Whether its buttons have keys
):
    "Draw the card of one item; a fragment, so that one card's buttons do not wait for another's"
    clicks.do_all()
    i, state = row['id'], session.state.get(row['id'])
    clicks.seen[i] = state
    action, later = state and state['action'], partial(clicks.later, clicks.decide, i)
    with st.container(border=True, gap='xsmall'):
        st.checkbox(unmarked(row['item']), key=f'select-{i}')
        _item(options, row)
        quality = f" · label quality {row.label_quality:.3f}" if row.label_quality == row.label_quality else ''
        st.text(f"Given: {_name(row['given'])}")
        st.text(f"Predicted: {_name(row['predicted'])}\nConfidence {row['confidence']:.3f}{quality}")
        label_buttons(session, later, i, state, row, keys)
        with st.container(horizontal=True):
            if row['predicted'] != row['given']:
                st.button('Accept prediction', key=f'accept-{i}', on_click=later, args=('relabel', row['predicted']),
                          shortcut='A' if keys else None)
            for do in ('keep', 'delete', 'unsure'):
                st.button(do.capitalize(), key=f'{do}-{i}', on_click=later, args=(do,),
                          type='primary' if action == do else 'secondary', shortcut=KEYS[do] if keys else None)
            _note(clicks, i, state)
        _status(clicks, i, state)


def label_buttons(
    session,  # The ReviewSession
    later,  # Callback, given 'relabel' and the label
    key,  # Of the widgets
    state=None,  # The item's decision, see `session.state`
    row=None,  # The item's row; None: several items
    keys=False,  # Whether the buttons have keys
):
    "One button a label, but for the given one, which is kept; of many classes the likely ones, the rest by a search"
    labels = dict(enumerate(session.vocab))
    decided = state['label'] if state and state['action'] == 'relabel' else None
    if len(labels) <= MAX_LABELS: few = {j: o for j, o in labels.items() if row is None or o != row['given']}
    else: few = {} if row is None else {j: o for j, o in labels.items() if o == decided or (
        o == row['predicted'] != row['given'])}

    def buttons(some, part):
        with st.container(horizontal=True):
            for j, o in some.items():
                st.button(unmarked(o), key=f'{part}-{j}-{key}', on_click=later, args=('relabel', o),
                          type='primary' if o == decided else 'secondary',
                          shortcut=str(j + 1) if keys and j < MAX_LABELS else None)
    buttons(few, 'label')
    if len(labels) <= MAX_LABELS: return
    with st.popover('Other label'):
        find = st.text_input('Find a label', key=f'find-{key}', max_chars=MAX_NAME).casefold()
        keys, found = False, {j: o for j, o in labels.items() if find in str(o).casefold()}
        buttons(dict([*found.items()][:MAX_LABELS]), 'found')
        if len(found) > MAX_LABELS: st.text(f'and {len(found) - MAX_LABELS:,} more')


def picture(
    folder,  # Of the images
    item,  # Path in it
) -> tuple[bytes | None, str]:  # A PNG or JPEG, and ''; or None, and why there is none
    "A thumbnail, upright as its EXIF data say, of a file that lies in `folder`, links followed"
    try:
        root = Path(folder).resolve()
        path = (root/item).resolve()
        if not path.is_relative_to(root): return None, f'it is not in the folder {folder}'
        if not path.is_file(): return None, f'there is no such file in {folder}'
        return _thumbnail(path, path.stat().st_mtime_ns), ''
    except Exception as e:  # noqa: BLE001  a broken file may raise anything; the reason is shown
        return None, f'{type(e).__name__}: {e}'


@lru_cache(maxsize=256)
def _thumbnail(path, changed):
    with Image.open(path) as im:
        im.draft('RGB', (2*PIXELS, 2*PIXELS))
        im = ImageOps.exif_transpose(im)
        if im.mode[0] in 'IF':
            low, high = im.getextrema()
            im = im.convert('F').point(lambda o: (o - low)*(255/((high - low) or 1)) + 0)
        im = im.convert('RGBA' if im.has_transparency_data else 'RGB')
        im.thumbnail((PIXELS, PIXELS))
    file = BytesIO()
    small = max(im.size) <= 64 or im.mode == 'RGBA'
    im.save(file, 'PNG' if small else 'JPEG', **({} if small else {'quality': 88}))
    return file.getvalue(), max(im.width, min(LEAST, LEAST*im.width//im.height))


def _item(options, row):
    if options.images is not None:
        made, reason = picture(options.images, row['path' if 'path' in row else 'item'])
        if made: st.image(made[0], width=made[1])
        else:
            with st.container(border=True, height=LEAST): st.text(f'No image: {plain(reason, MAX_REASON)}')
    if options.text_column in row: st.text(plain(row[options.text_column]))


def _name(o): return ' '.join(plain(o, MAX_NAME).split()) or '(blank)'


def _note(clicks, i, state):
    def save(): clicks.decide(i, 'note', st.session_state[f'note-{i}'])
    with st.popover('Note'), st.form(f'form-{i}', border=False):
        st.text_input('Note', value=state and state['note'] or '', key=f'note-{i}', max_chars=MAX_NOTE)
        st.form_submit_button('Save note', on_click=clicks.later, args=(save,))


def _status(clicks, i, state):
    if reason := clicks.failed.get(i):
        st.error('NOT SAVED')
        st.text(reason)
    if not state: return st.text('Undecided')
    label = f": {_name(state['label'])}" if state['action'] == 'relabel' else ''
    who = f"{plain(state['user'], MAX_NAME)}, {state['time'][:16].replace('T', ' ')} UTC"
    st.text(f"{DONE.get(state['action'], 'Undecided')}{label}\nSaved · {who}")
    if state['note']: st.text(f"Note: {plain(state['note'], MAX_REASON)}")
