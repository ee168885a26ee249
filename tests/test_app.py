"The browser app without a browser: its CSVs, command line and pages; tests/e2e/test_browser.py has the browser"
import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
from urllib.request import urlopen

import numpy as np
import pandas as pd
import pytest
from conftest import digit_dls, plant, tiny_learn
from fastai.callback import progress  # noqa: F401  a Learner shows its progress only then
from PIL import Image
from sklearn.datasets import load_digits
from streamlit.testing.v1 import AppTest

from fastai_clean.all import CleanInterpretation
from fastai_clean.app import cards, clicks, launch, main, read_issues
from fastai_clean.app.cards import picture
from fastai_clean.app.predict import predict_text
from fastai_clean.app.text import plain, unmarked
from fastai_clean.review import ReviewSession


def table(n=30, classes=3):
    "An issue table of `n` items, every third no issue"
    names = [f'class {i}' for i in range(classes)]
    return pd.DataFrame({'item': [f'item {i}' for i in range(n)], 'given': [names[i % classes] for i in range(n)],
                         'predicted': [names[(i + 1) % classes] for i in range(n)], 'is_issue': np.arange(n) % 3 > 0,
                         'confidence': np.linspace(.9, .5, n), 'label_quality': np.linspace(0, 1, n),
                         'text': [f'text {i}' for i in range(n)]})


@pytest.fixture
def run(tmp_path, monkeypatch):
    "Runs the app on a table"
    def run_it(df, *args, query=()):
        df.to_csv(tmp_path/'issues.csv', index=False)
        monkeypatch.setattr(sys, 'argv', ['script.py', str(tmp_path/'issues.csv'), '--user', 'ann', *map(str, args)])
        launch.opened.cache_clear()
        app = AppTest.from_file(str(launch.SCRIPT), default_timeout=30)
        for k, v in dict(query).items(): app.query_params[k] = v
        return app.run()
    return run_it


def session_of(tmp_path): return ReviewSession(tmp_path/'issues.csv', tmp_path/'issues.decisions.jsonl', user='bob')
def texts(app): return [o.value for o in app.text]
def ids_of(app): return [o.key.removeprefix('select-') for o in app.checkbox]


def test_issue_table_is_left_to_the_session(tmp_path):
    table().to_csv(tmp_path/'issues.csv', index=False)
    assert read_issues(tmp_path/'issues.csv') == tmp_path/'issues.csv'
    assert len(ReviewSession(read_issues(tmp_path/'issues.csv'), tmp_path/'j.jsonl').issues) == 30


def test_seed_file_without_header_is_read_whole_and_in_its_order(tmp_path):
    rows = [('1978', '1248198153888616452', 'a "b", <i>c</i>\nd', 'NA', 'x', 'INFORMATIVE', '0.99'),
            ('5', '1241039898271985670', 'e', 'INFORMATIVE', 'NA', 'NA', '0.98')]
    with open(tmp_path/'noisy_text.csv', 'w', newline='', encoding='utf-8') as f: csv.writer(f).writerows(rows)
    df = ReviewSession(read_issues(tmp_path/'noisy_text.csv'), tmp_path/'j.jsonl').issues
    found = df[['position', 'item', 'text', 'given', 'hashtags', 'predicted', 'confidence']].astype(str)
    assert [*found.itertuples(index=False, name=None)] == rows and df.is_issue.all()


def test_what_to_csv_wrote_reads_back_as_its_issues(tmp_path):
    labels, _ = plant(load_digits().target[:200], .2)
    learn = tiny_learn(digit_dls(range(200), range(10), labels=labels))
    learn.fit(5, 1e-2)
    with pytest.warns(UserWarning): interp = CleanInterpretation.from_learner(learn, dl=learn.dls.train)
    flagged = interp.issues[interp.issues.is_issue]
    df = ReviewSession(read_issues(interp.to_csv(tmp_path/'noisy.csv')), tmp_path/'j.jsonl').issues
    for name in ('item', 'given', 'predicted'): assert df[name].tolist() == flagged[name].map(str).tolist()
    assert len(df) > 10 and np.allclose(df.confidence, flagged.confidence) and df.is_issue.all()


def test_own_columns_of_the_same_names_are_not_taken_for_the_predictions(tmp_path):
    pd.DataFrame({'name': ['a', 'b'], 'y': ['1', '2'], 'predictions': ['old', 'old'], 'confidence': ['x', 'x'],
                  'predictions_1': ['2', '2'], 'confidence_1': [.5, .25]}).to_csv(tmp_path/'noisy.csv', index=False)
    df = read_issues(tmp_path/'noisy.csv', label_column='y')
    assert df.predicted.tolist() == ['2', '2'] and df.confidence.tolist() == [.5, .25]
    assert df['item'].tolist() == ['a', 'b'] and df.is_issue.tolist() == [True, False]


@pytest.mark.parametrize('change, options, message', [
    ({'label': None}, {}, "no column 'label', only 'path', 'predictions', 'confidence'"),
    ({}, {'id_column': 'key'}, "no column 'key'"),
    ({'path': ['a', 'a']}, {}, 'name the column that names the items with --id-column'),
    ({'confidence': [.5, 'high']}, {}, "'high' in 'confidence': pass numbers from 0 to 1"),
    ({'confidence': [.5, 1.5]}, {}, "'1.5' in 'confidence'")])
def test_unfit_csv_is_named(tmp_path, change, options, message):
    good = {'path': ['a', 'b'], 'label': ['x', 'y'], 'predictions': ['y', 'y'], 'confidence': [.5, .5]}
    df = pd.DataFrame({k: v for k, v in {**good, **change}.items() if v is not None})
    df.to_csv(tmp_path/'noisy.csv', index=False)
    with pytest.raises(ValueError, match=message): read_issues(tmp_path/'noisy.csv', **options)


def test_text_is_shown_without_what_reorders_or_breaks_it():
    assert plain('a\u202eb\x00c\ud800d\ne\tf<b>') == 'a\ufffdb\ufffdc\ufffdd\ne\tf<b>'
    assert plain('x'*30, 10) == 'x'*10 + '… (30 characters)' and plain('') == '(empty)'


def test_text_for_markdown_has_no_mark_left():
    assert unmarked('a_b ![x](y)') == r'a\_b \!\[x\]\(y\)' and unmarked(' \n a  b') == 'a b'
    assert unmarked(':x: <->') == '\\:\u2060x\\:\u2060 \\<\u2060\\-\u2060\\>' and unmarked('  ') == r'\(blank\)'


def test_without_streamlit_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(launch, 'find_spec', lambda name: None)
    with pytest.raises(SystemExit, match=r"pip install 'fastai_clean\[app\]'"): main([tmp_path/'issues.csv'])


def test_package_needs_no_streamlit_to_be_imported():
    code = "import sys; sys.modules['streamlit'] = None; import fastai_clean.app; print('fastai' in sys.modules)"
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout == 'False\n'


@pytest.mark.parametrize('args, message', [
    (['gone.csv'], 'No such file'), (['issues.csv', '--images', 'gone'], '--images gone is no folder'),
    (['issues.csv', '--model', 'gone.pkl'], '--model gone.pkl is no file'),
    (['issues.csv', '--journal', 'issues.csv'], 'is no journal of fastai_clean')])
def test_what_cannot_be_opened_is_said_before_a_server_starts(tmp_path, monkeypatch, args, message):
    monkeypatch.chdir(tmp_path)
    table().to_csv('issues.csv', index=False)
    monkeypatch.setattr('streamlit.web.cli.main', None)
    with pytest.raises(SystemExit, match=message): main(args)


def test_server_is_started_for_this_machine_alone_and_its_status_is_returned(tmp_path, monkeypatch):
    table().to_csv(tmp_path/'issues.csv', index=False)
    said = []

    def fake(args, name):
        said.extend(args)
        raise SystemExit(3)
    monkeypatch.setattr('streamlit.web.cli.main', fake)
    assert main([tmp_path/'issues.csv', '--port', '8123']) == 3
    command, end = said[:said.index('--')], said[said.index('--') + 1:]
    assert {'--server.address=127.0.0.1', '--browser.gatherUsageStats=false', '--server.headless=true',
            '--server.fileWatcherType=none', '--server.port=8123'} <= {*command}
    assert end == [str(tmp_path/'issues.csv'), '--port', '8123']


@pytest.mark.parametrize('name, status', [('SIGTERM', 0), ('SIGINT', 0), ('SIGKILL', -9)])
def test_server_is_one_process_that_a_signal_ends(tmp_path, name, status):
    table().to_csv(tmp_path/'issues.csv', index=False)
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    code = 'import sys; from fastai_clean.app import main; sys.exit(main())'
    process = subprocess.Popen([sys.executable, '-c', code, 'issues.csv', '--port', str(port)], cwd=tmp_path,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               env={**os.environ, 'HOME': str(tmp_path)})

    def answers():
        try: return urlopen(f'http://127.0.0.1:{port}/_stcore/health', timeout=5).read() == b'ok'
        except OSError: return False
    try:
        end = time.monotonic() + 60
        while not answers() and time.monotonic() < end: time.sleep(.1)
        assert answers()
        process.send_signal(getattr(signal, name))
        assert process.wait(20) == status and not answers()
    finally: process.kill()


def test_buttons_write_the_journal_and_show_what_is_in_force(run, tmp_path):
    app = run(table())
    first = ids_of(app)[:4]
    for do, i in zip(('keep', 'delete', 'unsure'), first): app.button(f'{do}-{i}').click().run()
    app.button(f'label-0-{first[3]}').click().run()
    assert not app.exception
    state = session_of(tmp_path).state
    assert [(state[i]['action'], state[i]['label']) for i in first] == [
        ('keep', None), ('delete', None), ('unsure', None), ('relabel', 'class 0')]
    shown = '\n'.join(texts(app.run()))
    for o in ('Kept as given', 'Deleted', 'Unsure', 'Relabelled: class 0'): assert f'{o}\nSaved · ann' in shown
    assert '4 of 20 issues reviewed' in shown and 'Given: class 1' in shown


def test_filters_list_what_passes_and_decided_items_stay_in_place(run):
    df = table()
    app = run(df)
    assert ids_of(app) == df['item'][df.is_issue].tolist()[:12]
    app.toggle('only').set_value(False).run()
    assert ids_of(app) == df['item'].tolist()[:12]
    app.selectbox('given').set_value(2).run()
    assert ids_of(app) == df['item'][df.given == 'class 1'].tolist()
    app.selectbox('order').set_value('Surest prediction first').run()
    app.selectbox('decision').set_value('Undecided').run()
    before = ids_of(app)
    app.button(f'keep-{before[0]}').click().run()
    assert ids_of(app) == before
    app.selectbox('order').set_value('By given label').run()
    assert ids_of(app) == before[1:]
    app.selectbox('decision').set_value('Unsure').run()
    assert 'No item passes the filters.' in [o.value for o in app.info] and not app.exception


def test_pages_turn_and_what_was_decided_elsewhere_is_seen(run, tmp_path):
    df = table()
    app = run(df)
    next(o for o in app.button if o.label == 'Next').click().run()
    assert ids_of(app) == df['item'][df.is_issue].tolist()[12:]
    session_of(tmp_path).relabel(ids_of(app)[:2], 'class 2')
    assert '\n'.join(texts(app.run())).count('Relabelled: class 2\nSaved · bob') == 2


def test_nothing_selected_changes_nothing_and_a_batch_is_one_action(run, tmp_path):
    app = run(table())
    app.button('batch-delete').click().run()
    assert app.toast[0].value == 'Select cards first' and session_of(tmp_path).state == {}
    next(o for o in app.button if o.label == 'Select all').click().run()
    app.button('batch-delete').click().run()
    assert session_of(tmp_path).progress()['reviewed'] == 12 and not any(o.value for o in app.checkbox)
    next(o for o in app.button if o.label == 'Undo').click().run()
    assert session_of(tmp_path).state == {} and not app.exception


def test_accepted_predictions_are_each_items_own_and_one_action(run, tmp_path):
    df = table()
    df.loc[1, 'predicted'] = df.given[1]
    app = run(df)
    first, *rest = ids_of(app)
    assert 'accept-item 1' not in [o.key for o in app.button] and first == 'item 1'
    app.button(f'accept-{rest[0]}').click().run()
    assert session_of(tmp_path).state[rest[0]]['label'] == df.set_index('item').predicted[rest[0]]
    for i in rest[1:]: app.checkbox(f'select-{i}').check()
    app.button('batch-accept').click().run()
    state = session_of(tmp_path).state
    assert {i: o['label'] for i, o in state.items()} == df.set_index('item').predicted[rest].to_dict()
    next(o for o in app.button if o.label == 'Undo').click().run()
    assert session_of(tmp_path).state.keys() == {rest[0]} and not app.exception


@pytest.mark.parametrize('text, given', [('1', 'class 1'), ('0', 'class 0'), ('3', None), ('-1', None), ('1.0', None),
                                         ('\u0661', None), ('<img src=x>', None), ('9'*30, None), ('', None)])
def test_classes_asked_for_by_the_address_are_listed_where_they_exist(run, text, given):
    df = table()
    app = run(df, query={'given': text, 'predicted': text})
    assert not app.exception and (app.selectbox('given').value, app.selectbox('predicted').value) == (
        (int(text) + 1,)*2 if given else (0, 0))
    app.selectbox('predicted').set_value(0).run()
    assert ids_of(app) == df['item'][df.is_issue & (given is None or df.given == given)].tolist()[:12]
    app.selectbox('given').set_value(3).run()
    assert app.query_params['given'] == '2' and 'predicted' not in app.query_params


def test_counts_by_class_and_reviewer_are_there_once_opened(run, tmp_path, monkeypatch):
    df = table()
    items = df['item'].tolist()
    app = run(df)
    called = []
    agreement = ReviewSession.agreement
    monkeypatch.setattr(ReviewSession, 'agreement', lambda self: (called.append(1), agreement(self))[1])
    session_of(tmp_path).keep(items[:6])
    other = ReviewSession(tmp_path/'issues.csv', tmp_path/'issues.decisions.jsonl', user='![x](y)')
    other.keep(items[:3])
    other.delete(items[3:6])
    assert not app.run().dataframe and not called
    app.session_state['counts'] = True
    app.run()
    classes, pairs = (o.value for o in app.dataframe)
    assert classes['class'].tolist() == sorted({*df.given}) and classes.flagged.sum() == df.is_issue.sum()
    assert classes.reviewed.sum() == df.is_issue[:6].sum()
    assert pairs[['user', 'other', 'n', 'agree']].values.tolist() == [['![x](y)', 'bob', 6, .5]]
    assert not app.run().exception and called == [1]


def clicks_in(monkeypatch, tmp_path):
    "Clicks, and a function that says which fragments Streamlit runs"
    table().to_csv(tmp_path/'issues.csv', index=False)
    now = [None]
    monkeypatch.setattr(clicks, '_fragments', lambda: now[0])
    return clicks.Clicks(session_of(tmp_path)), lambda o: now.__setitem__(0, o)


def test_clicks_given_latest_first_are_done_in_their_order_and_the_page_turns_last(monkeypatch, tmp_path):
    o, running = clicks_in(monkeypatch, tmp_path)
    o.seen = {'item 1': None}
    running(['page', 'card'])
    for do in ((o.turn, 1), (o.decide, 'item 1', 'delete'), (o.decide, 'item 1', 'keep')): o.later(*do)
    assert o.session.state == {} and o.page == 0
    o.do_all()
    assert o.session.state['item 1']['action'] == 'delete' and o.page == 1
    o.do_all()
    assert o.session.undo() == ['item 1'] and o.session.state['item 1']['action'] == 'keep'


def test_click_that_a_timer_sends_too_is_done_once(monkeypatch, tmp_path):
    o, running = clicks_in(monkeypatch, tmp_path)
    running(['timer'])
    o.is_timer()
    for ids in (['timer'], ['card']):
        running(ids)
        o.later(o.decide, 'item 1', 'keep')
        o.do_all()
    running(['timer', 'card'])
    o.later(o.decide, 'item 2', 'keep')
    o.do_all()
    assert sorted(o.session.undo() + o.session.undo()) == ['item 1', 'item 2'] and not o.session.undo()


def test_click_that_a_timer_sends_with_what_waits_is_done_once(monkeypatch, tmp_path):
    o, running = clicks_in(monkeypatch, tmp_path)
    running(['timer'])
    o.is_timer()
    acts, records = (('keep',), ('relabel', 'class 0'), ('unsure',), ('note', 'so')), o.session.path
    for do in acts:
        for ids in (['timer', 'other card'], ['card']):
            running(ids)
            o.later(o.decide, 'item 1', *do)
            o.do_all()
    assert [json.loads(x)['do'] for x in records.read_text().splitlines() if '"do"' in x] == [do for do, *_ in acts]
    for drawn in (object(), object()):
        for _ in range(2): o.later(o.again, 'undo', drawn)
        o.do_all()
    assert o.session.state['item 1']['action'] == 'relabel'
    o.later(o.again, 'redo', drawn)
    o.do_all()
    assert o.session.state['item 1']['action'] == 'unsure'


def test_decision_of_another_and_one_that_failed_are_decided_again(monkeypatch, tmp_path):
    o, _ = clicks_in(monkeypatch, tmp_path)
    other = ReviewSession(tmp_path/'issues.csv', tmp_path/'issues.decisions.jsonl', user='eve')
    for do in ('keep', 'delete'):
        getattr(other, do)('item 1')
        o.decide('item 1', 'keep')
        assert (o.session.state['item 1']['user'], o.session.state['item 1']['action']) == (o.session.user, 'keep')
    other.unsure('item 1')
    for text in ('why', ''):
        for _ in range(2): o.decide('item 1', 'note', text)
    assert o.session.path.read_text().count('"do":"note"') == 2
    with monkeypatch.context() as m:
        m.setattr(ReviewSession, 'delete', lambda *_: (_ for _ in ()).throw(OSError('full')))
        o.decide('item 1', 'delete')
    assert o.failed == {'item 1': 'full'}
    o.decide('item 1', 'keep')
    assert not o.failed and o.session.state['item 1']['action'] == 'keep'


def test_key_that_reaches_the_card_before_decides_on_the_one_shown_alone(monkeypatch, tmp_path):
    o, running = clicks_in(monkeypatch, tmp_path)
    o.seen = {'item 2': None}
    for i in ('item 1', 'item 2'): o.later(o.decide, i, 'keep')
    o.do_all()
    assert o.session.state.keys() == {'item 2'}


def test_what_could_not_be_saved_is_said_until_it_is(run, tmp_path, monkeypatch):
    app = run(table())

    def full(self, ids): raise OSError('the disk is full <b>')
    with monkeypatch.context() as m:
        m.setattr(ReviewSession, 'keep', full)
        app.button(f'keep-{ids_of(app)[0]}').click().run()
        assert [o.value for o in app.error] == ['NOT SAVED'] and 'the disk is full <b>' in texts(app)
        assert 'Kept as given' not in '\n'.join(texts(app))
    app.button(f'keep-{ids_of(app)[0]}').click().run()
    assert not app.error and session_of(tmp_path).state.keys() == {ids_of(app)[0]}


def test_of_many_classes_any_label_is_found_by_a_search(run, tmp_path):
    app = run(table(40, classes=40))
    i = ids_of(app)[0]
    assert [o.label for o in app.button if o.key and o.key.startswith('label-') and o.key.endswith(f'-{i}')] == [
        'class 2']
    app.text_input(f'find-{i}').set_value('ss 33').run()
    found = [o for o in app.button if o.key and o.key.startswith('found-') and o.key.endswith(f'-{i}')]
    assert [o.label for o in found] == ['class 33']
    found[0].click().run()
    assert session_of(tmp_path).state[i]['label'] == 'class 33' and not app.exception


def test_pickle_is_loaded_only_after_the_click_and_its_failure_is_shown(tmp_path):
    (tmp_path/'export.pkl').write_bytes(
        f"cbuiltins\nopen\n(V{tmp_path/'loaded'}\nVw\ntR.".encode())
    def page(path):
        from fastai_clean.app.predict import predict_page
        predict_page(path)
    app = AppTest.from_function(page, args=(tmp_path/'export.pkl',), default_timeout=30).run()
    assert 'pickle' in app.warning[0].value and not app.text_area and not (tmp_path/'loaded').exists()
    app.button[0].click().run()
    assert not (tmp_path/'loaded').exists()
    app.text_area[0].set_value('a tweet')
    next(o for o in app.button if o.label == 'Predict').click().run()
    assert (tmp_path/'loaded').exists() and 'cannot be loaded' in app.error[0].value and not app.exception


def test_prediction_lists_every_class_the_likeliest_first():
    learn = tiny_learn(digit_dls(range(100), range(100, 110)))
    learn.fit(3, 1e-2)
    label, ranked = predict_text(learn, 5)
    probs = learn.get_preds(dl=learn.dls.test_dl([5]), reorder=False)[0][0].numpy()
    assert [k for k, _ in ranked] == [str(o) for o in np.argsort(-probs)] and label == ranked[0][0]
    assert np.allclose([p for _, p in ranked], np.sort(probs)[::-1], atol=1e-6)


def test_picture_is_upright_and_no_larger_than_a_card(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new('RGB', (2000, 1000), 'red').save(tmp_path/'a.jpg', exif=exif)
    Image.fromarray(np.arange(0, 60000, 600, dtype=np.uint16).reshape(10, 10)).save(tmp_path/'b.png')
    (data, width), reason = picture(tmp_path, 'a.jpg')
    (tmp_path/'out').write_bytes(data)
    with Image.open(tmp_path/'out') as im: assert im.size == (cards.PIXELS//2, cards.PIXELS) and reason == ''
    (tmp_path/'out').write_bytes(picture(tmp_path, 'b.png')[0][0])
    with Image.open(tmp_path/'out') as im: assert im.convert('L').getextrema() == (0, 255)


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
    made, why = picture(folder, item)
    assert made is None and reason in why
