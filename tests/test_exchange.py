"Decisions to Label Studio, FiftyOne, Hugging Face and frames, and back: the same decisions, and nothing that is not sure"
import json
import os
from xml.etree import ElementTree

import pandas as pd
import pytest
from helpers import CLASSES, files_in
from helpers import issue_table as table

from fastai_clean.review import ReviewSession, exchange

HOSTILE = ['a\nb', 'nul\0', 'stray\udcff', '<img src=x onerror=alert(1)>', '&amp;"\'', '\u202eright', '{"do":"delete"}',
           'NA', ' ', 'delete', '\ufffe', '=1+1']


def decided(tmp_path, issues=None, name='j.jsonl', **kw):
    session = ReviewSession(table() if issues is None else issues, tmp_path/name, user='ann', **kw)
    i = session.ids.tolist()
    session.relabel(i[0], session.vocab[0] if session.given.iloc[0] != session.vocab[0] else session.vocab[1])
    session.delete(i[1])
    session.keep(i[2])
    session.unsure(i[3])
    session.note([i[0], i[4]], 'a "note",\nof <b>two</b> lines\u202e')
    return session


def outcome(session): return {i: (o['action'], o['label'], o['note']) for i, o in session.state.items()}


def hostile():
    # pandas would take them for its string type, and fail
    given = pd.Series(HOSTILE, dtype=object)
    ids = [f'{k}/{o}.png' for k, o in enumerate(HOSTILE)]
    return table(ids=ids).assign(given=given, predicted=pd.Series(HOSTILE[::-1], dtype=object))


WAYS = {
    'frame': (lambda s, p: exchange.to_frame(s).to_pickle(p), lambda s, p: exchange.from_frame(s, pd.read_pickle(p))),
    'label studio': (lambda s, p: exchange.to_label_studio(s, p, only_issues=False), exchange.from_label_studio),
    'fiftyone': (lambda s, p: exchange.to_fiftyone(s, p), exchange.from_fiftyone),
    'hugging face': (exchange.to_hugging_face, exchange.from_hugging_face)}


@pytest.mark.parametrize('issues', [table, hostile])
@pytest.mark.parametrize('way', WAYS)
def test_what_goes_out_comes_in_again_as_the_same_decisions(way, issues, tmp_path):
    write, read = WAYS[way]
    session = decided(tmp_path, issues())
    write(session, tmp_path/'out')
    other = ReviewSession(issues(), tmp_path/'other.jsonl', user='bob')
    refused = read(other, tmp_path/'out')
    assert refused.empty and outcome(other) == outcome(session)
    # Again, and into itself: nothing is new
    size = os.path.getsize(other.path), os.path.getsize(session.path)
    read(other, tmp_path/'out')
    read(session, tmp_path/'out')
    assert (os.path.getsize(other.path), os.path.getsize(session.path)) == size


def test_a_frame_has_what_the_review_knows(tmp_path):
    df = exchange.to_frame(decided(tmp_path))
    assert [*df] == ['id', 'given', 'predicted', 'confidence', 'label_quality', 'is_issue', 'label', 'action', 'note', 'user', 'time']
    assert df.set_index('id').label.to_dict() == {'i5': 'cat', 'i4': None, 'i3': 'cat', 'i2': 'owl', 'i1': 'dog', 'i0': 'cat'}


@pytest.mark.parametrize('change, reason', [
    (dict(id='i99'), 'the review has no such id'), (dict(given='dog'), "the given label is 'dog' there, 'owl' here"),
    (dict(given=None), 'does not say which label was given'), (dict(label='cow'), "'cow' is not a class"),
    (dict(action='burn'), "'burn' is not an action"), (dict(id='i4'), 'the id is there twice')])
def test_rows_that_are_not_sure_are_refused_kept_and_said(change, reason, tmp_path):
    session = ReviewSession(table(), tmp_path/'j.jsonl', user='ann', vocab=CLASSES)
    rows = [dict(id='i5', given='owl', label='cat', action=None) | change, dict(id='i4', given='dog', label='cat', action=None),
            dict(id='i3', given='cat', label='cat', action=None)]
    with pytest.warns(UserWarning, match='df has [12] of 3 rows that were refused, first .*; they are returned'):
        refused = exchange.from_frame(session, pd.DataFrame(rows, index=[7, 8, 9]))
    assert refused.index[0] == 7 and reason in refused.reason.iloc[0]
    assert {*session.state} == ({'i4'} if len(refused) == 1 else set())


@pytest.mark.parametrize('df', [pd.DataFrame({'id': ['i0'], 'label': ['cat']}), pd.DataFrame({'id': ['i0'], 'given': ['cat']})])
def test_a_frame_without_the_columns_is_named(df, tmp_path):
    session = ReviewSession(table(), tmp_path/'j.jsonl')
    with pytest.raises(ValueError, match='give it id, given, and label or action'): exchange.from_frame(session, df)


def test_numbers_that_gaps_made_floats_are_the_classes(tmp_path):
    session = ReviewSession(table(classes=(1, 2, 3)), tmp_path/'j.jsonl')
    exchange.from_frame(session, pd.DataFrame({'id': ['i0', 'i1'], 'given': [1., 2.], 'label': [3., None]}))
    assert session.state['i0']['label'] == 3 and len(session.state) == 1


def test_a_frame_may_come_from_a_csv(tmp_path):
    session = decided(tmp_path)
    exchange.to_frame(session).to_csv(tmp_path/'f.csv', index=False)
    other = ReviewSession(table(), tmp_path/'other.jsonl', user='bob')
    assert exchange.from_frame(other, pd.read_csv(tmp_path/'f.csv')).empty and outcome(other) == outcome(session)


# Label Studio

def test_label_studios_page_holds_every_class_once_as_xml(tmp_path):
    session = ReviewSession(hostile(), tmp_path/'j.jsonl')
    root = ElementTree.fromstring(exchange.label_config(session))
    values = [o.get('value') for o in root.find("Choices[@name='label']")]
    assert len({*values}) == len(HOSTILE) and {'delete', 'unsure'}.isdisjoint(values)
    assert root.find('Image').get('value') == '$image' and ElementTree.fromstring(exchange.label_config(session, 'text')).find('Text') is not None


def test_tasks_are_those_of_label_studios_format(tmp_path):
    session = decided(tmp_path)
    tasks = json.loads(exchange.to_label_studio(session, tmp_path/'t.json', prefix='/data/local-files/?d=').read_text())
    assert [o['data']['id'] for o in tasks] == ['i5', 'i4', 'i3', 'i2', 'i1'] and tasks[0]['data']['image'] == '/data/local-files/?d=i5'
    for task in tasks:
        assert task.keys() <= {'data', 'predictions', 'annotations'} and task['data']['given'] in CLASSES
        for part in (*task['predictions'], *task.get('annotations', [])):
            for o in part['result']:
                assert o.keys() == {'from_name', 'to_name', 'type', 'value'} and o['to_name'] == 'item'
                assert o['type'] in ('choices', 'textarea') and all(isinstance(v, list) for v in o['value'].values())
    with pytest.raises(FileExistsError): exchange.to_label_studio(session, tmp_path/'t.json')
    with pytest.raises(ValueError, match="kind is 'video'"): exchange.to_label_studio(session, tmp_path/'u.json', kind='video')


def annotation(*labels, cancelled=False):
    result = [dict(id='x', origin='manual', from_name='label', to_name='item', type='choices', value={'choices': [o]}) for o in labels]
    return dict(id=1, completed_by=1, was_cancelled=cancelled, ground_truth=False, result=result, lead_time=1.5)


@pytest.mark.parametrize('annotations, expected', [
    ([annotation('cat')], ('relabel', 'cat', None)), ([annotation('owl')], ('keep', None, None)), ([annotation('cow')], "'cow' is not a class"),
    ([annotation('cat'), annotation('cat')], ('relabel', 'cat', None)), ([annotation('cat'), annotation('dog')], 'contradict each other'),
    ([annotation('dog', cancelled=True), annotation('cat')], ('relabel', 'cat', None)), ([annotation(cancelled=True)], ('unsure', None, None)),
    ([annotation()], None), ([], None), (None, None), ([3], None), ([dict(result=[dict(value=3), 4])], None)])
def test_annotations_of_label_studio_are_taken_in(annotations, expected, tmp_path):
    session = ReviewSession(table(), tmp_path/'j.jsonl', vocab=CLASSES)
    task = dict(id=3, data=dict(id='i5', given='owl', image='x'), annotations=annotations, project=1)
    (tmp_path/'export.json').write_text(json.dumps([task]))
    if isinstance(expected, str):
        with pytest.warns(UserWarning, match='refused'): refused = exchange.from_label_studio(session, tmp_path/'export.json')
        assert expected in refused.reason.iloc[0] and session.state == {}
    else:
        assert exchange.from_label_studio(session, tmp_path/'export.json').empty
        assert outcome(session) == ({'i5': expected} if expected else {})


@pytest.mark.parametrize('read', [exchange.from_label_studio, exchange.from_fiftyone, exchange.from_hugging_face])
@pytest.mark.parametrize('text', ['[1]', 'x', '{"a": [', '[' * 100_000, '3'])
def test_files_of_another_kind_are_named(read, text, tmp_path):
    (tmp_path/'f').write_text(text)
    session = ReviewSession(table(), tmp_path/'j.jsonl')
    with pytest.raises(ValueError, match='path .*f'): read(session, tmp_path/'f')


# FiftyOne

def test_labels_are_those_of_fiftyones_format(tmp_path):
    session = decided(tmp_path, table(ids=[f'train/cat/{i}.png' for i in range(6)]))
    file = json.loads(exchange.to_fiftyone(session, tmp_path/'labels.json').read_text())
    assert file.keys() == {'classes', 'labels'} and file['classes'] == list(CLASSES)
    assert {*file['labels']} == {f'train/cat/{i}' for i in range(6)}
    for o in file['labels'].values():
        assert o.keys() <= {'label', 'confidence', 'attributes'} and type(o['label']) is int and isinstance(o['attributes'], dict)
    absolute = json.loads(exchange.to_fiftyone(session, tmp_path/'a.json', root=tmp_path).read_text())
    assert {*absolute['labels']} == {f'{tmp_path}/train/cat/{i}.png' for i in range(6)}
    twins = ReviewSession(table(ids=['a.png', 'a.jpg']), tmp_path/'k.jsonl')
    with pytest.raises(ValueError, match="'a' is the key of two items"): exchange.to_fiftyone(twins, tmp_path/'b.json')


def test_labels_that_were_changed_in_fiftyone_are_taken_in(tmp_path):
    session = decided(tmp_path)
    path = exchange.to_fiftyone(session, tmp_path/'labels.json')
    file = json.loads(path.read_text())
    file['labels']['i0']['label'] = 2
    file['labels']['i5']['label'] = 2
    # As strings, and without attributes: nobody can say which label they had
    file['labels']['i1'] = 1
    path.write_text(json.dumps(file))
    with pytest.warns(UserWarning, match="1 of 6 rows that were refused, first 'i1'"): refused = exchange.from_fiftyone(session, path)
    assert refused.id.tolist() == ['i1'] and session.state['i0']['label'] == 'owl' and session.state['i5']['action'] == 'keep'
    assert session.state['i4']['action'] == 'delete'


# Hugging Face

class Dataset:
    "What is used of a `datasets.Dataset`"
    def __init__(self, df, **names): self.df, self.features = df, {k: type('ClassLabel', (), dict(names=v)) for k, v in names.items()}
    def to_pandas(self): return self.df.copy()


def test_names_of_a_class_label_are_taken(tmp_path):
    session = ReviewSession(table(), tmp_path/'j.jsonl', vocab=CLASSES)
    df = pd.DataFrame({'id': ['i0', 'i1'], 'given': [0, 1], 'label': [2, None]})
    assert exchange.from_hugging_face(session, Dataset(df, label=list(CLASSES), given=list(CLASSES))).empty
    assert outcome(session) == {'i0': ('relabel', 'owl', None)}
    lines = [json.loads(o) for o in exchange.to_hugging_face(session, tmp_path/'metadata.jsonl').read_text().splitlines()]
    assert lines[-1]['file_name'] == 'i0' and lines[-1]['label'] == 'owl' and len({tuple(o) for o in lines}) == 1


# A clean copy of the whole folder

ITEMS = ['train/cat/1.png', 'train/cat/2.png', 'train/dog/1.png', 'train/dog/4.png']


def folder(tmp_path):
    for o in [*ITEMS, 'valid/cat/1.png', 'valid/dog/9.png', 'labels.csv', 'models/m.pth']:
        (tmp_path/'source'/o).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path/'source'/o).write_text(o)
    issues = table(ids=ITEMS).assign(given=['cat', 'cat', 'dog', 'dog'], predicted='cat')
    return tmp_path/'source', ReviewSession(issues, tmp_path/'j.jsonl', vocab=CLASSES)


@pytest.mark.parametrize('copy', [True, False])
def test_a_whole_folder_is_copied_with_what_was_decided(copy, tmp_path):
    root, session = folder(tmp_path)
    session.relabel('train/cat/1.png', 'dog')
    session.relabel('train/dog/4.png', 'owl')
    session.delete('train/cat/2.png')
    before = files_in(root)
    got = {k: o.decode() for k, o in files_in(session.apply_folder(root, tmp_path/'new', copy=copy)).items()}
    moved = next(o for o in got if got[o] == 'train/cat/1.png')
    assert moved.startswith('train/dog/1-') and moved.endswith('.png') and got.pop(moved)
    assert got == {o: o for o in ['train/dog/1.png', 'valid/cat/1.png', 'valid/dog/9.png', 'labels.csv', 'models/m.pth']} | {
        'train/owl/4.png': 'train/dog/4.png'}
    assert files_in(root) == before and os.path.samefile(tmp_path/'new'/'labels.csv', root/'labels.csv') is not copy
    # The next round knows them, the moved file too, whose name is another
    new = table(ids=sorted(o for o in [*got, moved] if o.startswith('train'))).assign(predicted='cat')
    new = new.assign(given=[o.split('/')[1] for o in new['id']])
    again = ReviewSession(new, tmp_path/'j.jsonl', vocab=CLASSES)
    assert again.state['train/owl/4.png']['label'] == 'owl'


def test_folders_that_do_not_say_the_class_are_named(tmp_path):
    root, session = folder(tmp_path)
    (root/'x.png').write_text('x')
    other = ReviewSession(table(ids=['x.png', 'labels.csv']), tmp_path/'k.jsonl')
    other.delete('labels.csv')
    assert 'x.png' in files_in(other.apply_folder(root, tmp_path/'a')) and 'labels.csv' not in files_in(tmp_path/'a')
    other.relabel('x.png', 'dog')
    with pytest.raises(ValueError, match="'x.png' is in no folder that is named as its class 'cat': pass only_reviewed=True"):
        other.apply_folder(root, tmp_path/'b')
    assert not (tmp_path/'b').exists()


def test_a_whole_folder_with_links_that_lead_out_is_refused(tmp_path):
    root, session = folder(tmp_path)
    (tmp_path/'out').mkdir()
    (root/'link').symlink_to(tmp_path/'out')
    with pytest.raises(ValueError, match='links to a folder, or outside'): session.apply_folder(root, tmp_path/'new')
    (root/'link').unlink()
    for o in ('../j.jsonl', 'none.png', 'nul\0'):
        other = ReviewSession(table(ids=['labels.csv', o]), tmp_path/'k.jsonl')
        with pytest.raises(FileNotFoundError, match='1 items are not files in source'): other.apply_folder(root, tmp_path/'new')
        (tmp_path/'k.jsonl').unlink()
    assert not (tmp_path/'new').exists()
