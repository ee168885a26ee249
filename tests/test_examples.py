"The examples run, on small data, and return what they computed"
import gzip
import inspect
import runpy
import shutil
import sys
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

EXAMPLES = Path(__file__).parents[1]/'examples'
pytestmark = pytest.mark.slow


def main_globals(name): return runpy.run_path(str(EXAMPLES/name))


def main(name): return main_globals(name)['main']


def test_quickstart_finds_planted_errors_and_writes_both_files(tmp_path):
    res = main('quickstart.py')(out=tmp_path, epochs=4, n_folds=3)
    assert res['planted'] == 144 and res['found'] > 100 and res['precision'] > .8 and res['auprc'] > .8
    assert res['accuracy_after'] > .9
    df = pd.read_csv(tmp_path/'noisy.csv')
    assert len(df) == res['flagged'] and list(df.columns)[-6:] == ['given', 'predicted', 'confidence',
                                                                               'label_quality', 'is_issue', 'id']
    assert ((df.label != df.true).mean() == pytest.approx(res['precision']))
    assert Image.open(tmp_path/'noisy.png').size[0] > 300
    assert (tmp_path/'report.html').read_text(encoding='utf-8').count('<li class="image">') == 100


@pytest.mark.parametrize('kind', ['folder', 'csv'])
def test_quickstart_runs_on_a_users_own_images(kind, digit_folder, tmp_path):
    root, df = digit_folder
    data = root
    if kind == 'csv':
        data = root/'labels.csv'
        df.to_csv(data, index=False)
    files = sorted(root.rglob('*'))
    res = main('quickstart.py')(data=data, out=tmp_path, epochs=1, n_folds=2, size=16)
    assert res['items'] == 64 and (tmp_path/'noisy.csv').exists() and sorted(root.rglob('*')) == files


def test_quickstart_with_a_weak_model_says_so_and_drops_nothing(digit_folder, tmp_path, capsys):
    root, df = digit_folder
    shutil.copytree(root, tmp_path/'images', ignore=shutil.ignore_patterns('*.csv'))
    # Labels that nothing can learn
    shuffled = df.assign(label=df.label.sample(frac=1, random_state=0).to_numpy())
    shuffled.to_csv(tmp_path/'images/labels.csv', index=False)
    res = main('quickstart.py')(data=tmp_path/'images/labels.csv', out=tmp_path, epochs=1, n_folds=2, size=16)
    said = capsys.readouterr().out
    assert 'accuracy_after' not in res and 'accuracy_before' in res
    assert 'nothing was dropped: the model agrees with' in said and '--epochs 5' in said
    assert 'too weak to judge these labels' in (tmp_path/'report.html').read_text(encoding='utf-8')


@pytest.mark.parametrize('content, match', [(None, 'does not exist'), ('a,b\n1,2\n', 'label and path'),
                                            ('path,label\nx.png,1\n', '1 missing files')])
def test_quickstart_names_what_is_wrong_with_a_users_data(content, match, tmp_path):
    data = tmp_path/'data.csv'
    if content: data.write_text(content)
    with pytest.raises(SystemExit, match=match): main('quickstart.py')(data=data, out=tmp_path/'out')


def test_filters_benchmark_measures_every_filter_on_every_case(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES/'benchmarks'))
    cases = main('benchmarks/cases.py')(data=tmp_path, out=tmp_path/'cases.npz')
    assert list(cases) == ['digits even 2%', 'digits even 10%', 'digits even 30%', 'digits pair 20%']
    table = main('benchmarks/filters.py')(cases=tmp_path/'cases.npz', out=tmp_path/'filters.md', leave_out=False)
    assert (table.auto > table['best cut'] - .05).all() and 'mean loss' in (tmp_path/'filters.md').read_text()
    assert (table.estimated - table.wrong).abs().max() < .05 and table['by pairs'].tolist() == [False]*3 + [True]


def test_tasks_benchmark_ranks_planted_errors_of_every_task():
    table = main('benchmarks/tasks.py')(n=200, epochs=6, n_folds=2).set_index('task')
    assert list(table.index) == ['several labels', 'regression', 'segmentation']
    assert (table.out_of_fold > 2*table.chance).all() and (table.planted == 20).all()


def test_memory_benchmark_measures_each_process(capsys):
    table = main('benchmarks/memory.py')(n=2_000, c=50).set_index('what')
    assert list(table.index) == ['cleanlab', 'issues', 'health', 'interpretation'] and (table.seconds > 0).all()


@pytest.fixture
def people(tmp_path):
    "A folder as of CIFAR-10N: 90 training items, 10 of them with a wrong label, and 30 of a test set"
    rng, rows = np.random.default_rng(0), []
    for i in range(120):
        true, split = i % 10, 'train' if i < 90 else 'test'
        (tmp_path/split).mkdir(exist_ok=True)
        pixels = rng.integers(0, 60, (32, 32, 3)) + 15*true
        Image.fromarray(pixels.astype('uint8')).save(tmp_path/split/f'{i}.png')
        rows.append((f'{split}/{i}.png', split, f'c{true}', f'c{(true + 1) % 10}' if i % 9 == 0 else f'c{true}'))
    pd.DataFrame(rows, columns=['path', 'split', 'true', 'worse']).to_csv(tmp_path/'labels.csv', index=False)
    return tmp_path


def test_cifar10n_benchmark_prints_its_table(people, capsys):
    table = main('benchmarks/cifar10n.py')(data=people, columns='worse', epochs=1, bs=16, n_folds=2)
    assert table['items'].item() == 90 and 0 < table['auprc'].item() <= 1 and table['ratio'].item() > 1
    assert 'auprc' in capsys.readouterr().out


def test_review_benchmark_corrects_the_worst_and_all_items(people, capsys, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES/'benchmarks')
    table = main('benchmarks/review.py')(data=people, n=90, reviewed=20, epochs=6, bs=16, n_folds=2, seeds=1)
    assert list(table.labels) == ['as given', '20 random', '20 worst', 'all true']
    given, random, worst, everything = table.corrected
    assert (given, everything) == (0, 10) and random < worst <= 10 and table.accuracy.between(0, 1).all()
    assert 'gain_low' in capsys.readouterr().out


@pytest.fixture
def benchmarks(monkeypatch): monkeypatch.syspath_prepend(EXAMPLES/'benchmarks')


def test_tables_benchmark_gives_what_cleanlab_gives(benchmarks, capsys):
    run = main('benchmarks/tables.py')
    table = run(sizes='1000x10', seconds=0, only='both,self_confidence').set_index('what')
    assert list(table.index) == ['find_issues', 'both', 'self_confidence'] and table.same.all()
    assert (table.ratio > 0).all() and '1,000 x 10' in capsys.readouterr().out


def test_overhead_benchmark_compares_with_plain_fits(capsys):
    row = main('benchmarks/overhead.py')(n=200, epochs=1, n_folds=2, runs=1).iloc[0]
    assert row.followed > 0 and row.to_plain == pytest.approx(row.followed/row.plain) and row.to_by_hand > 0


@pytest.fixture
def few_digits(tmp_path):
    "A folder with MNIST's test set, of 400 of scikit-learn's digits"
    from sklearn.datasets import load_digits
    digits = load_digits()
    big = np.kron(digits.images[:400, 1:, 1:], np.ones((4, 4)))*15
    (tmp_path/'mnist').mkdir()
    for kind, head, values in (('images-idx3', 16, big), ('labels-idx1', 8, digits.target[:400])):
        data = bytes(head) + values.astype('uint8').tobytes()
        (tmp_path/f'mnist/t10k-{kind}-ubyte.gz').write_bytes(gzip.compress(data, 1))
    return tmp_path


def test_modes_benchmark_ranks_by_every_mode_and_goes_on(benchmarks, few_digits, tmp_path, capsys):
    args = dict(data=few_digits, out=tmp_path/'modes.csv', n=120, epochs=6, cases='scratch:mnist:symmetric')
    table = main('benchmarks/modes.py')(**args)
    rows = pd.read_csv(tmp_path/'modes.csv').set_index('name')
    assert {'in-sample, last epoch', 'in-sample, mean over epochs', '5 folds', '2 folds', 'features', 'auto'} <= {*rows.index}
    assert rows.loc['5 folds', 'seconds'] > rows.loc['2 folds', 'seconds'] and rows.auprc.between(0, 1).all()
    assert rows.loc['auto', 'chose'] in ('features', 'folds') and len(table) == len(rows) == 9
    assert rows.loc['features', 'auprc'] > .4
    rows.drop('3 folds').reset_index().to_csv(tmp_path/'modes.csv', index=False)
    main('benchmarks/modes.py')(**args)
    assert set(pd.read_csv(tmp_path/'modes.csv').name) == set(rows.index)


def test_robust_benchmark_compares_recipes(benchmarks, people, tmp_path, capsys):
    tables = main('benchmarks/robust.py')(data=people, out=tmp_path/'robust.csv', columns='worse', n=90, epochs=1,
                                          seeds=1, only='plain cross-entropy;weight;true labels')
    assert {'short', 'long', 'ranking', 'found with', 'share of the gap closed'} == {*tables}
    assert list(tables['long'].index) == ['plain cross-entropy', 'weight', 'true labels']


def test_pretrained_benchmark_finds_planted_errors(benchmarks, people, tmp_path, capsys):
    with tarfile.open(people/'images.tar', 'w') as tar:
        for name in ('train', 'test'): tar.add(people/name, name)
    table = main('benchmarks/pretrained.py')(data=people, out=tmp_path/'rows.csv', cases='20', n=90, epochs=1, size=32,
                                             bs=16, n_folds=2)
    assert list(table.body) == ['pretrained', 'from scratch'] and (table.wrong == .2).all()
    assert table.auprc.between(0, 1).all() and len(pd.read_csv(tmp_path/'rows.csv')) == 2


def test_speed_benchmark_calls_each_of_the_others(benchmarks, monkeypatch):
    import modes
    import overhead
    import tables
    calls = []
    for module in (modes, overhead, tables):
        def call(name=module.__name__, of=module.main, **kwargs):
            given = inspect.signature(of).bind(**kwargs).arguments
            calls.append((name, given.get('n', given.get('sizes'))))
        monkeypatch.setattr(module, 'main', call)
    main('benchmarks/speed.py')(sizes='200x10', n=300)
    for name in ('speed', 'modes', 'overhead', 'tables'): sys.modules.pop(name, None)
    assert calls == [('overhead', None), ('tables', '200x10'), ('modes', 300)]
