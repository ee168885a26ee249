"The page that predicts a typed text with an exported Learner"
from functools import lru_cache
from threading import Lock

import streamlit as st

from .text import MAX_NAME, plain

PICKLE = ('Loading a Learner runs whatever code its file holds: it is a pickle. Load it only where you made it, or '
          'trust who did.')
LOCK, MAX_CHARS, MAX_CLASSES = Lock(), 5000, 20


def predict_page(
    path,  # Exported Learner, as the person named it on the command line, or None
):
    "Draw the page; the file is loaded only after a warning and a click"
    st.title('Predict a text')
    if path is None: return st.info('To predict, start the app with --model and the file that learn.export() wrote.')
    st.text(f'Learner: {plain(path)}')
    if not st.session_state.get('trusted'):
        st.warning(PICKLE)
        return st.button('I trust this file: load it', on_click=_trust)
    with st.form('text'):
        text = st.text_area('Text, such as a tweet', key='typed', max_chars=MAX_CHARS)
        asked = st.form_submit_button('Predict', type='primary')
    if not asked: return None
    if not text.strip(): return st.info('Type a text first.')
    try:
        with st.spinner('Predicting'): label, ranked = predict_text(_learner(path), text)
    except Exception as e:  # noqa: BLE001  a pickle runs a person's code, which may raise anything; the reason is shown
        st.error('The Learner cannot be loaded, or does not predict texts:')
        return st.text(plain(f'{type(e).__name__}: {e}'))
    st.text(f'Predicted: {plain(label, MAX_NAME)}')
    for name, p in ranked[:MAX_CLASSES]:
        st.text(f'{p:.3f}  {plain(name, MAX_NAME)}')
        st.progress(p)


def predict_text(
    learn,  # Learner of one class a text
    text,  # The text
) -> tuple[str, list]:  # The predicted class, and (class, probability) of all, the likeliest first
    "What the Learner says of one text; one thread at a time, since predicting changes the Learner"
    with LOCK, learn.no_bar(), learn.no_logging(): label, _, probs = learn.predict(text)
    vocab = learn.dls.vocab
    names = vocab if isinstance(vocab[-1], (str, int)) else vocab[-1]
    return str(label), sorted(zip(map(str, names), map(float, probs)), key=lambda o: -o[1])


def _trust(): st.session_state.trusted = True


@lru_cache(maxsize=1)
def _learner(path):
    from fastai.callback import progress  # noqa: F401  gives a Learner its no_bar
    from fastai.learner import load_learner
    return load_learner(path)
