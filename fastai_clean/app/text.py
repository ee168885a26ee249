"Data as Streamlit shows it: as text, whatever it holds"
import re
import string

from .._text import neutral

MAX_TEXT, MAX_NAME, MAX_REASON = 2000, 60, 300


def plain(
    text,  # Anything; its `str` is taken
    n=MAX_TEXT,  # Characters at most
) -> str:
    "`text` for st.text, see `neutral`"
    return neutral(str(text), n) or '(empty)'


def unmarked(
    text,  # Anything; its `str` is taken
) -> str:
    """`text` on one line, for what Streamlit reads as Markdown, such as the text of a button, to be shown as it is.

    Streamlit undoes escapes before it looks for :red[...], :smile: and arrows: an invisible word joiner (U+2060) parts
    those."""
    text = ' '.join(plain(text, MAX_NAME).split()) or '(blank)'
    text = ''.join(f'\\{o}' if o in string.punctuation else o for o in text)
    return re.sub(r'(:|[-<>=](?=\\[-<>=]))', '\\1\u2060', text)
