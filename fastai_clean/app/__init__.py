"The review in the browser, a view of a `ReviewSession`, and predictions of typed texts (extra `app`: Streamlit)"
from .launch import main
from .tables import read_issues

__all__ = ['main', 'read_issues']
