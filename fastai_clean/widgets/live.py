"The view made with anywidget: the page sends row numbers and actions, thumbnails go to it as buffers"
from importlib import import_module
from pathlib import Path

from .items import plain


def live_view(
    cleaner,  # A Cleaner
):  # The widget
    "Raises ImportError where anywidget (extra `widgets`) is not installed"
    try: anywidget = import_module('anywidget')
    except ImportError as e:
        raise ImportError("Cleaner needs anywidget: pip install 'fastai_clean[widgets]', or choose "
                          "backend='ipywidgets', which is slower and has no keys") from e
    source = dict(_esm=_read('kernel.js') + _read('review.js'), _css=_read('review.css'))
    widget = type('CleanerWidget', (anywidget.AnyWidget,), source)()
    widget.on_msg(lambda _, msg, buffers: widget.send(*answer(cleaner, msg)))
    return widget


def answer(
    cleaner,  # A Cleaner
    msg,  # What the page sent: `do`, `re`, and what that needs
) -> tuple[dict, list[bytes]]:  # The message to send back, and its buffers
    "Do what a page asks. What goes wrong is in the answer, for only the page can tell the person."
    reply, buffers, do = {'re': msg.get('re')}, [], msg.get('do')
    with cleaner.lock:
        try:
            news = do in ('open', 'look', 'act')
            if do != 'thumbs': news = len(cleaner.session.refresh()) > 0 or news
            if do == 'open': reply['options'] = cleaner.options()
            elif do == 'look': cleaner.look(msg.get('number', 0), **msg.get('place', {}))
            elif do == 'act':
                reply['count'] = cleaner.act(msg['act'], msg['rows'], msg['value'], msg['at'])
            elif do == 'thumbs': reply['thumbs'] = _thumbs(cleaner, msg['rows'], buffers)
            if do in ('open', 'look'): reply['page'] = cleaner.shown_page()
            if news: reply |= {'states': cleaner.states(), 'progress': cleaner.progress()}
        except Exception as e:  # noqa: BLE001  a full disk, a lost journal: whatever it is, the person must see it
            reply['error'] = plain(f'{type(e).__name__}: {e}', 500)
    return reply, buffers


def _thumbs(cleaner, rows, buffers):
    res = []
    for row in rows:
        kind, text, data, mime, width = cleaner.picture(row)
        res.append(dict(row=row, kind=kind, text=text, mime=mime, width=width, at=len(buffers)))
        if data: buffers.append(data)
    return res


def _read(name): return Path(__file__).with_name(name).read_text(encoding='utf-8')
