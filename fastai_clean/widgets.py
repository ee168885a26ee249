"The review in a notebook: its page, carried by anywidget"
from typing import Any

import anywidget

from .review import ReviewSession
from .review.page import Page, script, style


class Cleaner:
    """Decide on the items of a review in the notebook: make it the last line of a cell.

    Every decision goes to the `session`, which returns once it is on disk; only then is it shown as
    made. If it is refused, or if no answer comes in time, the page says NOT SAVED and offers to try
    again. Each output that shows the cleaner has its own filters and page; the last place is kept
    beside the journal, in `<journal>.place`. Data is shown as text, never as markup. Press ? to
    see the keys. Raises as `Page` does."""

    def __init__(self,
        session: ReviewSession,  # The review, such as interp.review(path)
        show: Any = None,  # CleanInterpretation, function of a row, or {set: either}: see `shower`
        page_size: int = 24,  # Items per page
    ):
        self.session = session
        self.page = Page(session, show, page_size)
        self.widget = _Widget()
        # With ipykernel 7 this does not run in the thread of the cells, so the page has locks
        self.widget.on_msg(lambda widget, msg, buffers: widget.send(*self.page.answer(msg)))

    def __repr__(self):
        return f'Cleaner({len(self.session.ids)} items, {len(self.session.state)} decided)'

    def _repr_mimebundle_(self, **kwargs): return self.widget._repr_mimebundle_(**kwargs)


class _Widget(anywidget.AnyWidget):
    # Cards and thumbnails are messages and their buffers: traits would be saved with the notebook
    _esm = script()
    _css = style()
