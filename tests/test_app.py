"The browser app without a browser: its CSVs, command line and server; tests/e2e/test_browser.py has the browser"
import csv
import http.client
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from types import SimpleNamespace
from urllib.parse import urlsplit

import numpy as np
import pandas as pd
import pytest
from fastai.callback import progress  # noqa: F401  a Learner shows its progress only then
from helpers import digit_dls, plant, tiny_learn
from PIL import Image
from sklearn.datasets import load_digits

from fastai_clean import app
from fastai_clean._images import Unreadable, thumbnail
from fastai_clean.all import CleanInterpretation
from fastai_clean.app import Server, main, opened, predict_text, shown
from fastai_clean.review import ReviewSession, read_issues
from fastai_clean.review.page import Page


def table(n=30, classes=3):
    "An issue table of `n` items, every third no issue"
    names = [f'class {i}' for i in range(classes)]
    return pd.DataFrame({'id': [f'item {i}' for i in range(n)], 'given': [names[i % classes] for i in range(n)],
                         'predicted': [names[(i + 1) % classes] for i in range(n)], 'is_issue': np.arange(n) % 3 > 0,
                         'confidence': np.linspace(.9, .5, n), 'label_quality': np.linspace(0, 1, n),
                         'text': [f'text {i}' for i in range(n)]})


class Client:
    "A server in a thread, and what a browser would ask it"
    def __init__(self, folder, **kwargs):
        self.session = ReviewSession(table(), folder/'journal.jsonl', user='ann')
        self.server = Server(Page(self.session, lambda row: row.text, 12), **kwargs)
        self.port, self.root = self.server.server_port, urlsplit(self.server.url).path
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def ask(self, method='GET', name='', body=None, root=None, host=None, **headers):
        "Status, headers and body of the answer"
        connection = http.client.HTTPConnection('127.0.0.1', self.port, timeout=20)
        headers = {k.replace('_', '-'): v for k, v in headers.items()}
        headers['Host'] = f'127.0.0.1:{self.port}' if host is None else host
        if isinstance(body, dict):
            body = json.dumps(body)
            headers.setdefault('Content-Type', 'application/json')
        connection.request(method, f'{self.root if root is None else root}{name}', body, headers)
        answer = connection.getresponse()
        got = answer.status, dict(answer.getheaders()), answer.read()
        connection.close()
        return got

    def post(self, do, name='msg', **what):
        "The reply to a message, and its buffers"
        status, _, body = self.ask('POST', name, {'do': do, 're': f'v.{time.monotonic()}', 'view': 'v', **what})
        assert status == 200
        return json.loads(body)

    def close(self):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def client(tmp_path):
    client = Client(tmp_path)
    yield client
    client.close()


KEEP = {'do': 'act', 're': 'v.keep', 'view': 'v', 'act': 'keep', 'rows': [1], 'value': None, 'at': None}


# What is read

def test_issue_table_is_read_as_the_session_reads_it(tmp_path):
    table().to_csv(tmp_path/'issues.csv', index=False)
    assert len(ReviewSession(read_issues(tmp_path/'issues.csv'), tmp_path/'j.jsonl').issues) == 30


def test_seed_file_without_header_is_read_whole_and_in_its_order(tmp_path):
    rows = [('1978', '1248198153888616452', 'a "b", <i>c</i>\nd', 'NA', 'x', 'INFORMATIVE', '0.99'),
            ('5', '1241039898271985670', 'e', 'INFORMATIVE', 'NA', 'NA', '0.98')]
    with open(tmp_path/'noisy_text.csv', 'w', newline='', encoding='utf-8') as f: csv.writer(f).writerows(rows)
    df = ReviewSession(read_issues(tmp_path/'noisy_text.csv'), tmp_path/'j.jsonl').issues
    found = df[['position', 'id', 'text', 'given', 'hashtags', 'predicted', 'confidence']].astype(str)
    assert [*found.itertuples(index=False, name=None)] == rows and df.is_issue.all()


def test_what_to_csv_wrote_reads_back_as_its_issues(tmp_path):
    labels, _ = plant(load_digits().target[:200], .2)
    learn = tiny_learn(digit_dls(range(200), range(10), labels=labels))
    learn.fit(5, 1e-2)
    with pytest.warns(UserWarning): interp = CleanInterpretation.from_learner(learn, dl=learn.dls.train, filter_by='prune_by_noise_rate')
    flagged = interp.issues[interp.issues.is_issue]
    df = ReviewSession(read_issues(interp.to_csv(tmp_path/'noisy.csv')), tmp_path/'j.jsonl').issues
    for name in ('id', 'given', 'predicted'): assert df[name].tolist() == flagged[name].map(str).tolist()
    assert len(df) > 10 and np.allclose(df.confidence, flagged.confidence) and df.is_issue.all()


def test_own_columns_of_the_same_names_are_not_taken_for_the_predictions(tmp_path):
    pd.DataFrame({'name': ['a', 'b'], 'y': ['1', '2'], 'predictions': ['old', 'old'], 'confidence': ['x', 'x'],
                  'predictions_1': ['2', '2'], 'confidence_1': [.5, .25]}).to_csv(tmp_path/'noisy.csv', index=False)
    df = read_issues(tmp_path/'noisy.csv', label_column='y')
    assert df.predicted.tolist() == ['2', '2'] and df.confidence.tolist() == [.5, .25]
    assert df['id'].tolist() == ['a', 'b'] and df.is_issue.tolist() == [True, False]


@pytest.mark.parametrize('change, options, message', [
    ({'label': None}, {}, "no column 'label', only 'path', 'predictions', 'confidence'"),
    ({}, {'id_column': 'key'}, "no column 'key'"),
    ({'path': ['a', 'a']}, {}, "pass the column of the items' ids with --id-column"),
    ({'confidence': [.5, 'high']}, {}, "'high' in 'confidence': pass numbers from 0 to 1"),
    ({'confidence': [.5, 1.5]}, {}, "'1.5' in 'confidence'")])
def test_unfit_csv_is_named(tmp_path, change, options, message):
    good = {'path': ['a', 'b'], 'label': ['x', 'y'], 'predictions': ['y', 'y'], 'confidence': [.5, .5]}
    df = pd.DataFrame({k: v for k, v in {**good, **change}.items() if v is not None})
    df.to_csv(tmp_path/'noisy.csv', index=False)
    with pytest.raises(ValueError, match=message): read_issues(tmp_path/'noisy.csv', **options)


# The command

@pytest.mark.parametrize('args, message', [
    (['gone.csv'], 'No such file'), (['issues.csv', '--images', 'gone'], '--images gone is not a folder'),
    (['issues.csv', '--model', 'gone.pkl'], '--model gone.pkl is not a file'),
    (['issues.csv', '--journal', 'issues.csv'], 'issues.csv is not a journal'),
    (['issues.csv', '--page-size', '0'], 'page_size is 0'), (['issues.csv', '--port', '99999'], 'port'),
    (['issues.csv', '--user', 'a\nb'], 'user is'),
    (['empty.csv'], 'empty.csv is empty'), (['bytes.csv'], 'bytes.csv is not in UTF-8, first in line 2')])
def test_what_cannot_be_opened_is_said_in_one_sentence(tmp_path, monkeypatch, args, message):
    monkeypatch.chdir(tmp_path)
    table().to_csv('issues.csv', index=False)
    (tmp_path/'empty.csv').touch()
    (tmp_path/'bytes.csv').write_bytes(bytes(range(256)))
    monkeypatch.setattr(Server, 'serve_forever', None)
    with pytest.raises(SystemExit, match=message) as e: main([*args, '--no-browser'])
    assert str(e.value).startswith('fastai_clean_review: ') and len(str(e.value).splitlines()) == 1


def test_port_that_is_taken_is_said(tmp_path, monkeypatch, client):
    table().to_csv(tmp_path/'issues.csv', index=False)
    with pytest.raises(SystemExit, match='Address already in use'):
        main([tmp_path/'issues.csv', '--port', client.port, '--no-browser'])


@pytest.mark.parametrize('more, opens', [([], True), (['--no-browser'], False)])
def test_browser_is_opened_at_an_address_that_is_not_the_one_that_is_printed(tmp_path, monkeypatch, capsys, more, opens):
    table().to_csv(tmp_path/'issues.csv', index=False)
    urls, servers, opened_one = [], [], threading.Event()
    monkeypatch.setattr('webbrowser.open', lambda url: (urls.append(url), opened_one.set()))
    monkeypatch.setattr(signal, 'signal', lambda *_: None)

    def serve(self):
        servers.append(self)
        if opens: assert opened_one.wait(20)
        raise KeyboardInterrupt
    monkeypatch.setattr(Server, 'serve_forever', serve)
    assert main([tmp_path/'issues.csv', *more]) == 0
    address = re.search(r'http://127\.0\.0\.1:\d+/[\w-]{22}/', capsys.readouterr().out).group()
    # The browser's arguments can be listed by other users: they do not hold the token
    server, = servers
    assert address == server.url and urls == [server.url_once]*opens and server.token not in server.url_once


def test_address_that_a_browser_is_started_with_leads_to_the_page_once(client):
    name = urlsplit(client.server.url_once).path
    assert client.ask(root=name, host='evil.example')[0] == 403
    status, headers, _ = client.ask(root=name)
    assert status == 302 and headers['Location'] == client.root and client.ask(root=headers['Location'])[0] == 200
    assert client.ask(root=name)[0] == 403


@pytest.mark.parametrize('name, status', [('SIGTERM', 0), ('SIGINT', 0), ('SIGKILL', -9)])
def test_server_is_one_process_that_a_signal_ends(tmp_path, name, status):
    table().to_csv(tmp_path/'issues.csv', index=False)
    code = 'import sys; from fastai_clean.app import main; sys.exit(main())'
    command = [sys.executable, '-c', code, 'issues.csv', '--no-browser']
    process = subprocess.Popen(command, cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               env={**os.environ, 'HOME': str(tmp_path)})
    try:
        url = urlsplit(process.stdout.readline().split()[-1])

        def answers():
            with socket.socket() as s: return s.connect_ex((url.hostname, url.port)) == 0
        assert answers()
        connection = http.client.HTTPConnection(url.netloc)
        connection.request('POST', f'{url.path}msg', json.dumps(KEEP), {'Content-Type': 'application/json'})
        assert json.loads(connection.getresponse().read())['reply']['count'] == 1
        process.send_signal(getattr(signal, name))
        assert process.wait(20) == status and not answers()
        assert 'Traceback' not in process.stdout.read()
    finally: process.kill()
    assert len(ReviewSession(tmp_path/'issues.csv', tmp_path/'issues.decisions.jsonl').state) == 1


@pytest.mark.slow
def test_server_is_up_in_about_a_second_without_torch(tmp_path):
    table().to_csv(tmp_path/'issues.csv', index=False)
    code = ("import sys; from fastai_clean import app; app.Server.serve_forever = lambda _: None; app.main(); "
            "print(*{'torch', 'fastai', 'cleanlab'} & {*sys.modules})")
    began = time.monotonic()
    command = [sys.executable, '-c', code, 'issues.csv', '--no-browser']
    out = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    print(f'up and down in {time.monotonic() - began:.2f} s')
    assert out.splitlines()[-1] == '' and time.monotonic() - began < 15


# What is served

def test_page_and_its_files_are_served_behind_the_token(client):
    status, headers, body = client.ask()
    assert status == 200 and headers['Content-Type'] == 'text/html; charset=utf-8'
    for name in {*re.findall(r'(?:src|href)="([\w.]+)"', body.decode())} | {'review.js', 'predict.js'}:
        status, headers, body = client.ask(name=name)
        assert status == 200 and body and headers['Content-Type'].endswith('; charset=utf-8'), name
    assert b'class 1' not in client.ask()[2]


def test_messages_are_answered_and_decisions_are_in_the_journal_and_the_csv(client):
    reply = client.post('open')['reply']
    row = reply['page']['cards'][0]['row']
    assert client.post('act', act='delete', rows=[row], value=None, at=None)['reply']['count'] == 1
    assert client.post('thumbs', rows=[row])['reply']['thumbs'][0]['text'] == f'text {row}'
    assert client.session.state[f'item {row}']['action'] == 'delete'
    status, headers, body = client.ask(name='decisions.csv')
    assert status == 200 and 'attachment' in headers['Content-Disposition']
    assert pd.read_csv(io.BytesIO(body), dtype=str)[['id', 'action']].values.tolist() == [[f'item {row}', 'delete']]


@pytest.mark.parametrize('root', ['/', '', '/wrong/', '/{0}x/', '//{0}/', '/{1}/', '/%2e%2e/', '/é/', '/../{0}/'])
def test_without_the_token_nothing_is_served_nor_done(client, root):
    root = root.format(client.server.token, client.server.token[:-1]).encode().decode('latin-1')
    if root == f'//{client.server.token}/': return  # More slashes in front are the same address
    for method, name, body in (('GET', '', None), ('GET', 'review.js', None), ('GET', 'decisions.csv', None),
                               ('POST', 'msg', KEEP), ('POST', 'predict', {})):
        try: status, _, answer = client.ask(method, name, body, root=root or '/')
        except UnicodeEncodeError: return  # http.client itself refuses such an address
        assert status == 403 and b'token' in answer
    assert client.session.state == {}


@pytest.mark.parametrize('host', ['evil.example', 'evil.example:{0}', '127.0.0.1', '127.0.0.1:1', 'localhost.evil:{0}',
                                  '0.0.0.0:{0}', '[::1]:{0}', ''])
def test_other_hosts_are_refused_although_the_token_is_right(client, host):
    host = host.format(client.port)
    assert client.ask(host=host)[0] == 403 and client.ask('POST', 'msg', KEEP, host=host)[0] == 403
    assert client.session.state == {}


def test_localhost_is_this_server_too(client):
    host = f'localhost:{client.port}'
    assert client.ask(host=host)[0] == 200
    assert client.ask('POST', 'msg', KEEP, host=host, Origin=f'http://{host}', Sec_Fetch_Site='same-origin')[0] == 200


@pytest.mark.parametrize('headers', [
    {'Origin': 'http://evil.example'}, {'Origin': 'null'}, {'Origin': 'http://127.0.0.1:1'}, {'Origin': ''},
    {'Sec_Fetch_Site': 'cross-site'}, {'Sec_Fetch_Site': 'same-site'}, {'Sec_Fetch_Site': 'none'}])
def test_messages_of_foreign_pages_are_refused(client, headers):
    status, _, body = client.ask('POST', 'msg', KEEP, **headers)
    assert status == 403 and b'another site' in body and client.session.state == {}


@pytest.mark.parametrize('body, headers, status', [
    ('{', {}, 400), ('[]', {}, 400), ('"text"', {}, 400), ('[' * 100_000, {}, 400), (b'\xff\xfe', {}, 400),
    ('{}', {'Content_Type': 'text/plain'}, 415), ('{}', {'Content_Type': 'application/x-www-form-urlencoded'}, 415),
    ('{}', {'Content_Length': '-1'}, 411), ('{}', {'Content_Length': 'x'}, 411),
    ('{}', {'Content_Length': '2000000'}, 413), ('{}', {'Content_Length': '9'*30}, 413)])
def test_bad_messages_get_a_clear_status(client, body, headers, status):
    got, _, answer = client.ask('POST', 'msg', body, **{'Content_Type': 'application/json', **headers})
    assert got == status and b'message' in answer and b'Traceback' not in answer


@pytest.mark.parametrize('name', ['gone', '../page.py', '..%2fpage.py', '/etc/passwd', 'page.py', '.', '..', 'a/b',
                                  'kernel.js/', '\\..\\page.py', '%00'])
def test_no_other_file_can_be_reached(client, name):
    status, _, body = client.ask(name=name)
    assert status == 404 and body == b'There is no such page'
    assert client.ask('POST', name, {})[0] == 404


@pytest.mark.parametrize('method', ['PUT', 'DELETE', 'OPTIONS', 'HEAD', 'TRACE'])
def test_other_methods_are_refused(client, method):
    status, headers, _ = client.ask(method)
    assert status == 501 and 'default-src' in headers['Content-Security-Policy']


@pytest.mark.parametrize('method, name, root', [('GET', '', None), ('GET', 'review.js', None), ('GET', 'gone', None),
                                                ('POST', 'msg', None), ('GET', '', '/wrong/')])
def test_every_answer_forbids_scripts_frames_guesses_and_copies(client, method, name, root):
    headers = client.ask(method, name, KEEP if method == 'POST' else None, root=root)[1]
    policy = dict(o.split(' ', 1) for o in headers['Content-Security-Policy'].split('; '))
    assert policy['default-src'] == policy['frame-ancestors'] == policy['base-uri'] == "'none'"
    assert policy['script-src'] == policy['connect-src'] == "'self'" and 'unsafe' not in str(policy)
    assert headers['X-Frame-Options'] == 'DENY' and headers['X-Content-Type-Options'] == 'nosniff'
    assert headers['Referrer-Policy'] == 'no-referrer' and headers['Cache-Control'] == 'no-store'
    assert 'Python' not in headers['Server']


def test_only_this_machine_can_connect(client):
    assert client.server.server_address[0] == '127.0.0.1'
    with open('/proc/net/tcp') as f: listening = [o.split()[1] for o in f if o.split()[3] == '0A']
    assert f'0100007F:{client.port:04X}' in listening and f'00000000:{client.port:04X}' not in listening
    if os.path.exists('/proc/net/tcp6'):
        with open('/proc/net/tcp6') as f: assert f':{client.port:04X} ' not in f.read()


def test_tokens_differ(tmp_path, client):
    other = Server(client.server.page)
    assert other.token != client.server.token and len(other.token) >= 22
    other.server_close()


def test_what_fails_inside_is_one_sentence_and_no_traceback(client, monkeypatch, capfd):
    def broken(*_): raise RuntimeError('broken <b>')
    monkeypatch.setattr(app, '_decisions', broken)
    status, _, body = client.ask(name='decisions.csv')
    assert status == 500 and body == b'RuntimeError: broken <b>'
    assert client.ask()[0] == 200 and 'Traceback' not in capfd.readouterr().err


def test_connection_that_breaks_off_ends_no_server(client, capfd):
    for text in (b'', b'POST', f'POST {client.root}msg HTTP/1.1\r\nHost: 127.0.0.1:{client.port}\r\n'
                 'Content-Type: application/json\r\nContent-Length: 99\r\n\r\n{'.encode()):
        with socket.create_connection(('127.0.0.1', client.port)) as s:
            s.sendall(text)
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b'\1\0\0\0\0\0\0\0')
    assert client.ask()[0] == 200 and 'Traceback' not in capfd.readouterr().err


def test_message_sent_twice_is_done_once(client):
    size = []
    for _ in range(3):
        assert json.loads(client.ask('POST', 'msg', KEEP)[2])['reply']['count'] == 1
        size.append(client.session.path.stat().st_size)
    assert size == size[:1]*3


# What is shown

def test_picture_is_upright_and_no_larger_than_a_card(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new('RGB', (2000, 1000), 'red').save(tmp_path/'a.jpg', exif=exif)
    Image.fromarray(np.arange(0, 60000, 600, dtype=np.uint16).reshape(10, 10)).save(tmp_path/'b.png')
    assert thumbnail(shown(pd.Series({'id': 'a.jpg'}), tmp_path, 'text'), app.SIZE)[2:] == (app.SIZE//2, app.SIZE)
    data, *_ = thumbnail(shown(pd.Series({'id': 'b.png'}), tmp_path, 'text'))
    with Image.open(io.BytesIO(data)) as im: assert im.convert('L').getextrema() == (0, 255)
    assert shown(pd.Series({'id': 'x', 'path': 'b.png'}), tmp_path, 'text').shape == (10, 10)


def test_path_that_starts_where_the_learner_was_run_is_found_in_the_folder(tmp_path, monkeypatch):
    (tmp_path/'images').mkdir()
    Image.new('RGB', (9, 9)).save(tmp_path/'images'/'a.png')
    monkeypatch.chdir(tmp_path)
    for path in ('a.png', 'images/a.png', tmp_path/'images'/'a.png'):
        assert shown(pd.Series({'id': 'x', 'path': str(path)}), 'images', 'text').shape == (9, 9, 3)


@pytest.mark.parametrize('item, reason', [
    ('gone.jpg', 'there is no such file'), ('../secret.png', 'it is not in the folder'),
    ('link.png', 'it is not in the folder'), ('/etc/passwd', 'it is not in the folder'), ('a\0b', 'ValueError'),
    ('text.jpg', 'UnidentifiedImageError'), ('cut.jpg', 'OSError'), ('', 'there is no such file')])
def test_what_is_no_image_of_the_folder_gives_the_reason(tmp_path, item, reason):
    folder = tmp_path/'images'
    folder.mkdir()
    Image.new('RGB', (99, 99)).save(tmp_path/'secret.png')
    (folder/'link.png').symlink_to(tmp_path/'secret.png')
    (folder/'text.jpg').write_text('no image')
    Image.effect_noise((200, 200), 50).save(folder/'cut.jpg')
    (folder/'cut.jpg').write_bytes((folder/'cut.jpg').read_bytes()[:2000])
    session = ReviewSession(table(1).assign(id='x', path=item), tmp_path/'j.jsonl')
    page = Page(session, lambda row: shown(row, folder, 'text'))
    (thumb,) = page.answer({'do': 'thumbs', 'rows': [0]})[0]['thumbs']
    assert thumb['kind'] == 'missing' and reason in thumb['text']


def test_without_images_the_text_is_shown_and_no_file_is_read(tmp_path):
    Image.new('RGB', (9, 9)).save(tmp_path/'a.png')
    row = pd.Series({'id': str(tmp_path/'a.png'), 'text': 'a <b>', 'words': 'w'})
    assert shown(row, None, 'text') == 'a <b>' and shown(row, None, 'words') == 'w'
    assert isinstance(shown(row, None, 'gone'), Unreadable)


def test_options_of_the_command_reach_the_page(tmp_path):
    table().rename(columns={'text': 'words'}).to_csv(tmp_path/'issues.csv', index=False)
    page = opened(SimpleNamespace(csv=tmp_path/'issues.csv', journal=None, images=None, text_column='words', model=None,
                                  label_column='label', id_column=None, user='<b>', page_size=5))
    assert page.session.path == tmp_path/'issues.decisions.jsonl' and page.session.user == '<b>'
    assert page.show(page.table.iloc[0]) == 'text 0' and page.page_size == 5


# What is predicted

def test_pickle_is_loaded_only_once_a_text_is_sent_and_its_failure_is_shown(tmp_path):
    (tmp_path/'export.pkl').write_bytes(
        f"cbuiltins\nopen\n(V{tmp_path/'loaded'}\nVw\ntR.".encode())
    client = Client(tmp_path, model=tmp_path/'export.pkl')
    try:
        assert b'pickle' in client.ask(name='predict.html')[2]
        assert client.post(None, 'predict') == {'model': str(tmp_path/'export.pkl')}
        assert not (tmp_path/'loaded').exists()
        assert 'cannot be loaded' in client.post(None, 'predict', text='a tweet')['error']
        assert (tmp_path/'loaded').exists()
    finally: client.close()


def test_without_a_model_nothing_is_predicted(client):
    assert client.post(None, 'predict', text='a') == {'model': None}
    assert b'predict.html' not in client.ask()[2]


def test_page_leads_to_the_prediction_if_there_is_a_model(tmp_path):
    client = Client(tmp_path, model='model.pkl')
    try: assert b'predict.html' in client.ask()[2]
    finally: client.close()


def test_prediction_lists_every_class_the_likeliest_first():
    learn = tiny_learn(digit_dls(range(100), range(100, 110)))
    learn.fit(3, 1e-2)
    label, ranked = predict_text(learn, 5)
    probs = learn.get_preds(dl=learn.dls.test_dl([5]), reorder=False)[0][0].numpy()
    assert [k for k, _ in ranked] == [str(o) for o in np.argsort(-probs)] and label == ranked[0][0]
    assert np.allclose([p for _, p in ranked], np.sort(probs)[::-1], atol=1e-6)
