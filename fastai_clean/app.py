"The review in the browser: its page at a local address, and the command `fastai_clean_review`"
import argparse
import csv
import json
import posixpath
import re
import secrets
import signal
import sys
import webbrowser
from base64 import b64encode
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from threading import Lock, Thread

import pandas as pd

from ._images import Unreadable, open_upright
from ._text import plain
from .review import ReviewSession, read_issues
from .review.page import WEB, Page, script
from .review.shown import MAX_REASON, SIZE

MAX_BODY = 1_000_000  # Bytes of a message
MAX_CLASSES = 20  # Classes shown of a prediction
HEADERS = {
    # Whatever the data hold, only the page's own files are loaded, and no other page frames it
    'Content-Security-Policy': "default-src 'none'; script-src 'self'; style-src 'self'; "
                               "img-src blob: data:; connect-src 'self'; base-uri 'none'; "
                               "form-action 'none'; frame-ancestors 'none'",
    'X-Frame-Options': 'DENY',
    'X-Content-Type-Options': 'nosniff',
    'Referrer-Policy': 'no-referrer',  # The address holds the token
    'Cross-Origin-Resource-Policy': 'same-origin',
    'Cache-Control': 'no-store',
}
TYPES = {'.html': 'text/html', '.js': 'text/javascript', '.css': 'text/css'}
PREDICT_LINK = b'  <a href="predict.html">Predict a text</a>\n'
PREDICTING = Lock()


class Server(ThreadingHTTPServer):
    """Serves a page to this machine alone, at an address with a random token. Raises OSError if
    `port` is taken."""
    daemon_threads = True

    def __init__(self,
        page: Page,  # What is served
        port: int = 0,  # On 127.0.0.1; 0: a free one
        model: str | Path | None = None,  # Exported Learner for the page that predicts
    ):
        self.page = page
        self.model = model
        self.token = secrets.token_urlsafe(16)
        self.once = secrets.token_urlsafe(16)
        self.unopened = Lock()  # Free until the address with `once` was opened
        super().__init__(('127.0.0.1', port), Handler)
        # Browsers leave out the port of plain http
        shown_port = '' if self.server_port == 80 else f':{self.server_port}'
        hosts = [o + shown_port for o in ('127.0.0.1', 'localhost')]
        self.hosts = hosts
        self.origins = [f'http://{o}' for o in hosts]

    @property
    def url(self) -> str:
        "The address, with its token"
        return f'http://127.0.0.1:{self.server_port}/{self.token}/'

    @property
    def url_once(self) -> str:
        """An address that leads to `url` once: a browser is started with it as an argument, which
        other users of the machine can list"""
        return f'http://127.0.0.1:{self.server_port}/{self.once}'

    def handle_error(self, request, client_address):
        "A browser that closes a connection is not worth a traceback"
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    "One connection: the files of the page by GET, its messages by POST"
    server: Server
    protocol_version = 'HTTP/1.1'
    server_version = 'fastai_clean'
    sys_version = ''
    timeout = 60  # Seconds that a connection may be silent
    # Head and body are two writes: without this the second waits 40 ms for the client's answer
    disable_nagle_algorithm = True

    def do_GET(self):
        if (name := self._path()) is not None: self._do(self._get, name)

    def do_POST(self):
        if (name := self._path()) is not None: self._do(self._post, name)

    def _do(self, answer, name):
        try: answer(name)
        except ConnectionError: raise
        except Exception as e:  # noqa: BLE001  the browser gets one sentence, never a traceback
            self._refuse(500, plain(f'{type(e).__name__}: {e}', MAX_REASON))

    def _path(self):
        "What the address names after the token; None if the request was refused"
        server = self.server
        token, _, name = self.path.partition('?')[0].lstrip('/').partition('/')
        # A site that makes its name point to 127.0.0.1 (DNS rebinding) sends that name as Host
        if self.headers.get('host') not in server.hosts:
            self._refuse(403, 'The Host is not this server')
        elif not name and _same(token, server.once) and server.unopened.acquire(blocking=False):
            self._send(b'', 'text/plain', 302, location=f'/{server.token}/')
        elif not _same(token, server.token):
            self._refuse(403, 'The token in the address is missing or wrong: open the address that '
                              'fastai_clean_review printed')
        else: return name

    def _get(self, name):
        if name == 'decisions.csv':
            self._send(_decisions(self.server.page.session), 'text/csv', download=name)
        elif name == 'review.js': self._send(script().encode(), 'text/javascript')
        else:
            # Looked up among the folder's files: no path is built from what was asked for
            file = next((o for o in WEB.iterdir() if o.name == (name or 'review.html')), None)
            if file is None or file.suffix not in TYPES:
                return self._refuse(404, 'There is no such page')
            body = file.read_bytes()
            if self.server.model is None: body = body.replace(PREDICT_LINK, b'')
            self._send(body, TYPES[file.suffix])

    def _post(self, name):
        if (msg := self._message()) is None: return
        if name == 'msg':
            reply, buffers = self.server.page.answer(msg)
            self._send_json({'reply': reply, 'buffers': [b64encode(o).decode() for o in buffers]})
        elif name == 'predict': self._send_json(_predicted(self.server.model, msg))
        else: self._refuse(404, 'There is no such page')

    def _message(self):
        "The message that was posted; None if it was refused"
        length = self.headers.get('content-length', '')
        # A browser says where a message comes from; a program that knows the token need not
        origin = self.headers.get('origin')
        site = self.headers.get('sec-fetch-site', 'same-origin')
        kind = self.headers.get_content_type()
        if origin not in (None, *self.server.origins) or site != 'same-origin':
            return self._refuse(403, 'The message comes from another site')
        if kind != 'application/json': return self._refuse(415, 'A message is JSON')
        if not length.isascii() or not length.isdecimal():
            return self._refuse(411, 'The message has no length')
        if len(length) > 9 or int(length) > MAX_BODY:
            return self._refuse(413, 'The message is too long')
        try: msg = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError): msg = None
        if not isinstance(msg, dict): return self._refuse(400, 'The message is not a JSON object')
        return msg

    def _refuse(self, status, why):
        # A body that was not read would be taken for the next request
        self.close_connection = True
        self._send(why.encode(errors='replace'), 'text/plain', status)

    def _send_json(self, o): self._send(json.dumps(o, allow_nan=False).encode(), 'application/json')

    def _send(self, body, kind, status=200, download=None, location=None):
        self.send_response(status)
        self.send_header('Content-Type', f'{kind}; charset=utf-8')
        self.send_header('Content-Length', str(len(body)))
        if download is not None:
            self.send_header('Content-Disposition', f'attachment; filename="{download}"')
        if location is not None: self.send_header('Location', location)
        if self.close_connection: self.send_header('Connection', 'close')
        self.end_headers()
        self.wfile.write(body)

    def end_headers(self):
        "Add HEADERS to every answer, including the library's own refusals"
        for k, v in HEADERS.items(): self.send_header(k, v)
        super().end_headers()

    def log_message(self, *_):
        "Log nothing: the address holds the token"


def _same(token, ours): return secrets.compare_digest(token.encode(errors='replace'), ours.encode())


def main(
    args: list | None = None,  # Arguments of the command line; None: those of the process
) -> int:  # Exit status
    """Serve the review of a CSV on 127.0.0.1 until interrupted or terminated. Raises SystemExit,
    with one sentence, if the CSV, its journal, the folder of images, the model or the port cannot
    be opened."""
    options = _parser().parse_args([str(o) for o in (sys.argv[1:] if args is None else args)])
    try: server = Server(opened(options), options.port, options.model)
    except (ValueError, TypeError, OSError, OverflowError, csv.Error) as e:
        raise SystemExit(f"fastai_clean_review: {' '.join(str(e).split())}") from e
    # Whatever is acknowledged is on disk: the server may stop at any moment
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        print(f'Review of labels: {server.url}')
        print('The address holds a key: keep it to yourself. Stop with Ctrl-C.', flush=True)
        # In a thread of its own, since some browsers return only when they are closed
        if not options.no_browser:
            Thread(target=webbrowser.open, args=(server.url_once,), daemon=True).start()
        server.serve_forever()
    except KeyboardInterrupt: pass
    finally: server.server_close()
    return 0


def opened(
    options: argparse.Namespace,  # As `fastai_clean_review --help` lists them
) -> Page:
    "The page that the options describe. Raises ValueError, TypeError or OSError if it cannot open"
    o = options
    if o.images is not None and not Path(o.images).is_dir():
        raise ValueError(f'--images {o.images} is not a folder: name the one that holds the items')
    if o.model is not None and not Path(o.model).is_file():
        raise ValueError(f'--model {o.model} is not a file: name what learn.export() wrote')
    try: issues = read_issues(o.csv, o.label_column, o.id_column)
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as e:
        raise ValueError(f'{o.csv} cannot be read as a CSV: {e}') from e
    journal = o.journal or Path(o.csv).with_suffix('.decisions.jsonl')
    session = ReviewSession(issues, journal, user=o.user)
    home = _home(issues['path']) if 'path' in issues else ''
    return Page(session, lambda row: shown(row, o.images, o.text_column, home), o.page_size)


def _home(paths):
    "The folder that all of `paths` are below, or ''"
    try: return posixpath.commonpath([posixpath.dirname(str(o)) for o in paths])
    except ValueError: return ''


def shown(
    row: pd.Series,  # A row of `session.issues`
    folder: str | Path | None,  # Folder of the images; None: show texts
    text_column: str,  # Column with the texts
    home: str = '',  # Folder that all images were below where the table was made
):  # An array (h, w[, 3]), a text, or `Unreadable`
    """The image of an item, read only from inside `folder`, links followed; without one, its text.
    On another machine `folder` may stand for any part of `home`."""
    if folder is None:
        if text_column in row: return str(row[text_column])
        return Unreadable(f'there is no column {text_column!r}: see --text-column and --images')
    root = Path(folder).resolve()
    # `to_review` writes the paths that the Learner reads, which may start where it was run; on
    # another machine the id may be one that is relative to the Learner's folder
    names = [str(row[o]) for o in ('path', 'id') if o in row]
    if home and 'path' in row:
        parts = PurePosixPath(home).parts
        file = posixpath.relpath(names[0], home)
        # Never less than the path below `home`, by which alone the items differ
        names += [posixpath.join(*parts[k:], file) for k in range(1, len(parts) + 1)]
    # A stray byte of a file name, as `as_text` writes it
    names += [re.sub(r'\\u(dc[89a-f][0-9a-f])', lambda m: chr(int(m[1], 16)), o)
              for o in names if '\\udc' in o]
    paths = [(o/name).resolve() for name in names for o in (root, Path())]
    # A CSV from elsewhere must not show the reviewer's other files
    inside = [o.is_relative_to(root) for o in paths]
    found = next((o for o, ok in zip(paths, inside) if ok and o.is_file()), None)
    if found is not None: return open_upright(found, SIZE)
    if not any(inside[:2]): return Unreadable(f'it is not in the folder {folder}')
    return Unreadable(f'there is no such file in {folder}')


def predict_text(
    learn,  # Learner of one class per text
    text: str,  # The text
) -> tuple[str, list]:  # The predicted class, and (class, probability) of all, the likeliest first
    "What the Learner predicts; one thread at a time, since predicting changes the Learner"
    with PREDICTING, learn.no_bar(), learn.no_logging(): label, _, probs = learn.predict(text)
    vocab = learn.dls.vocab
    # A Learner of texts has two vocabularies: the words, and the classes
    names = vocab if isinstance(vocab[-1], (str, int)) else vocab[-1]
    return str(label), sorted(zip(map(str, names), map(float, probs)), key=lambda o: -o[1])


def _predicted(model, msg):
    "The model's name, and its prediction if the message has a text; only then is its file loaded"
    reply = {'model': None if model is None else plain(model)}
    if model is None or 'text' not in msg: return reply
    try: label, ranked = predict_text(_learner(model), str(msg['text']))
    except Exception as e:  # noqa: BLE001  a pickle runs a user's code, which may raise anything
        why = plain(f'{type(e).__name__}: {e}', MAX_REASON)
        return {**reply, 'error': f'The Learner cannot be loaded, or does not predict texts: {why}'}
    likeliest = [[plain(name), p] for name, p in ranked[:MAX_CLASSES]]
    return {**reply, 'label': plain(label), 'ranked': likeliest}


@lru_cache(maxsize=1)
def _learner(path):
    # Imported here, since torch takes seconds to import and the review does not need it;
    # `progress` gives a Learner its no_bar
    from fastai.callback import progress  # noqa: F401
    from fastai.learner import load_learner
    return load_learner(path)


def _decisions(session):
    with TemporaryDirectory() as folder:
        return session.to_csv(Path(folder)/'decisions.csv').read_bytes()


def _parser():
    parser = argparse.ArgumentParser('fastai_clean_review',
                                     description='Review label issues in the browser.')
    add = parser.add_argument
    add('csv', help='issue table, CSV of CleanInterpretation.to_csv, or noisy_text.csv')
    add('--journal', help='decisions (.jsonl), made if it does not exist; '
                          'default: CSV.decisions.jsonl beside the CSV')
    add('--images', help='folder that holds the items as image files')
    add('--text-column', default='text', help='column with the texts; default: text')
    add('--label-column', help='column with the given labels; default: given, else label')
    add('--id-column', help='column with the ids of the items; default: the first that fits')
    add('--user', help='who reviews; default: the name of the account')
    add('--model', help='exported Learner (.pkl) that predicts texts; loaded after a warning')
    add('--page-size', type=int, default=24, help='items per page; default: 24')
    add('--port', type=int, default=0, help='port on 127.0.0.1; default: a free one')
    add('--no-browser', action='store_true', help='do not open the browser')
    return parser
