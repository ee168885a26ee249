"Weights & Biases offline: what a run's files hold, read back; whose run it is; and that training does not notice"
import json
import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import fastai.callback.wandb
import numpy as np
import pandas as pd
import pytest
import torch
import wandb
from fastai.callback.core import Callback
from fastai.callback.wandb import WandbCallback
from fastai.data.block import DataBlock, MultiCategoryBlock, TransformBlock
from fastai.data.transforms import IndexSplitter
from fastai.learner import Learner, load_learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy, accuracy_multi
from fastai.vision.all import ImageDataLoaders
from helpers import DIGITS, digit_dls, plant, quiet, tiny_learn
from PIL import Image
from torch import nn
from wandb.proto.wandb_internal_pb2 import Record

from fastai_clean.all import CleanInterpretation, ConfidentLearningCallback, OutOfFold
from fastai_clean.callbacks.wandb import (
    CleanWandbCallback,
    _counts,
    fold_summary,
    log_interpretation,
)

ROOT = Path(__file__).parents[1]
HOSTILE = '<img src=x onerror=alert(1)> ![a](http://e) $\\frac{1}$ \x00 \ud800 =1+1'


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    for name in ('DIR', 'DATA_DIR', 'CACHE_DIR', 'CONFIG_DIR', 'ARTIFACT_DIR'):
        monkeypatch.setenv(f'WANDB_{name}', str(tmp_path))
    for name, value in dict(MODE='offline', SILENT='true', CONSOLE='off').items():
        monkeypatch.setenv(f'WANDB_{name}', value)
    monkeypatch.delenv('WANDB_RUN_GROUP', raising=False)
    wandb.teardown()
    yield
    while wandb.run is not None: wandb.run.finish()
    wandb.teardown()


def records(path):
    "Records of a `.wandb` file: a LevelDB log behind a header of 7 bytes"
    data, part, pos = path.read_bytes(), b'', 7
    assert data[:4] == b':W&B'
    while pos + 7 <= len(data):
        left = 32768 - pos % 32768
        if left < 7:
            pos += left
            continue
        size, kind = int.from_bytes(data[pos + 4:pos + 6], 'little'), data[pos + 6]
        part, pos = part + data[pos + 7:pos + 7 + size], pos + 7 + size
        if kind in (1, 4):
            yield Record.FromString(part)
            part = b''


def values(items): return {o.key or '/'.join(o.nested_key): json.loads(o.value_json) for o in items}


def read_run(path):
    "One offline run, as its files have it"
    res = SimpleNamespace(how={}, rows=[], summary={}, config={}, artifacts={}, ended=False)
    for o in records(path):
        kind = o.WhichOneof('record_type')
        if kind == 'run':
            res.id, res.group, res.job, res.name = o.run.run_id, o.run.run_group, o.run.job_type, o.run.display_name
            res.config |= values(o.run.config.update)
        elif kind == 'config': res.config |= values(o.config.update)
        elif kind == 'history': res.rows.append(values(o.history.item))
        elif kind == 'summary': res.summary |= values(o.summary.update)
        elif kind == 'artifact':
            files = {c.path: c.local_path for c in o.artifact.manifest.contents}
            res.artifacts[o.artifact.name] = o.artifact.type, files
        elif kind == 'exit': res.ended = True
    logged = {k.removesuffix('/path'): v for o in res.rows for k, v in o.items() if k.endswith('/path')}
    res.tables = {name: frame(path.parent/'files'/o) for name, o in logged.items()}
    res.n_tables = sum('worst_items/path' in o for o in res.rows)
    return res


def pictures_of(run):
    "The pictures of the one table, which wandb keeps in an artifact of its own"
    [files] = [files for kind, files in run.artifacts.values() if kind == 'run_table']
    return [Image.open(o) for name, o in files.items() if name.startswith('media/images')]


def frame(path):
    table = json.loads(path.read_text())
    return pd.DataFrame(table['data'], columns=table['columns'], dtype=object)


def read_runs(root):
    "The main runs and the runs of folds below `root`, once wandb has written them out"
    wandb.teardown()
    runs = [read_run(o) for o in sorted(root.rglob('*.wandb'), key=lambda o: o.stat().st_ctime_ns)]
    return [o for o in runs if o.job != 'fold'], [o for o in runs if o.job == 'fold']


def noisy_learn(n=80, **kwargs):
    dls = digit_dls(range(n), range(n, n + 20), plant(DIGITS.target, .15)[0], shuffle=True)
    return tiny_learn(dls, metrics=accuracy, **kwargs)


@pytest.fixture(scope='module')
def clean():
    "A Learner with out-of-fold probabilities, that was not logged"
    torch.manual_seed(0)
    learn = noisy_learn()
    learn.fit(1, 1e-2, cbs=ConfidentLearningCallback(2, mode='folds'))
    return learn


def test_images_leave_table_pictures_artifact_curves_and_fold_runs(tmp_path, digit_folder):
    root, _ = digit_folder
    dls = ImageDataLoaders.from_folder(root, valid_pct=.2, seed=0, bs=16, num_workers=0, device='cpu')
    net = nn.Sequential(nn.Flatten(), nn.Linear(3*16*16, 10))
    learn = quiet(Learner(dls, net, CrossEntropyLossFlat(), metrics=accuracy))
    learn.fit_one_cycle(2, 1e-2, cbs=[ConfidentLearningCallback(2, mode='folds'), cb := CleanWandbCallback('labels', n_items=7)])
    cb.finish()
    [run], folds = read_runs(tmp_path)
    interp = CleanInterpretation.from_learner(learn)

    table = run.tables['worst_items']
    assert list(table.columns) == [*interp.issues.columns, 'image']
    top = interp.issues.head(7)
    for name in ('id', 'given', 'predicted', 'is_issue'): assert table[name].tolist() == top[name].tolist()
    assert np.allclose(table[['confidence', 'label_quality']].astype(float), top[['confidence', 'label_quality']])
    pictures = [np.asarray(o.convert('RGB')) for o in pictures_of(run)]
    given = [np.asarray(Image.open(root/o).convert('RGB')) for o in top.id]
    assert len(pictures) == 7 and all(any(np.array_equal(a, b) for b in pictures) for a in given)

    kind, files = run.artifacts[f'label_issues-{run.id}']
    csv = pd.read_csv(files['label_issues.csv'], dtype=str)
    assert kind == 'label-issues' and list(files) == ['label_issues.csv']
    assert csv.equals(pd.read_csv(interp.to_csv(tmp_path/'own.csv'), dtype=str))

    batches = [o for o in run.rows if 'raw_loss' in o]
    assert len(batches) == 2*len(dls.train) and batches[-1]['epoch'] == 2 and {'train_loss', 'lr_0'} <= set(batches[0])
    epochs = [o for o in run.rows if 'valid_loss' in o]
    for row, want in zip(epochs, learn.recorder.values, strict=True):
        assert np.allclose([row['valid_loss'], row['accuracy']], want[1:])
    assert run.job == 'train' and run.config['learner']['bs'] == 16 and run.config['oof']['n_folds'] == 2
    assert run.summary['n_issues'] == interp.issues.is_issue.sum() and run.summary['noise_rate'] == interp.noise_rate
    assert run.summary.get('weakness', '') == interp.weakness

    metrics = learn.oof.config['fold_metrics']
    assert len(folds) == len(metrics) == 2 and run.group == f'cv-{run.id}' == folds[0].group == folds[1].group
    for k, (fold, row) in enumerate(zip(sorted(folds, key=lambda o: o.name), metrics), 1):
        assert (fold.name, fold.config['fold'], fold.config['run'], fold.ended) == (f'fold {k}', k, run.id, True)
        hits = (learn.oof.pred_probs.argmax(1) == learn.oof.targets)[learn.oof.fold == k - 1].mean()
        assert np.isclose([fold.rows[0]['accuracy'], run.summary[f'fold_{k}/accuracy']], hits).all()
        assert fold.rows[0]['valid_loss'] == row['valid_loss'] == run.summary[f'fold_{k}/valid_loss']
    assert np.isclose(run.summary['folds/accuracy_mean'], np.mean([o['accuracy'] for o in metrics]))


@pytest.mark.parametrize('weakness, more', [('', {}), ('=weak', {'weakness': "'=weak"})])
def test_counts_of_a_weak_model_say_so(weakness, more):
    interp = SimpleNamespace(issues=pd.DataFrame({'is_issue': [True, False]}), noise_rate=.5, weakness=weakness)
    assert _counts(interp) == {'noise_rate': .5, 'n_issues': 1, 'n_items': 2, **more}


def test_fold_summary_of_known_numbers_gives_names_mean_and_sample_deviation():
    rows = [{'fold': 0, 'items': 4, 'accuracy': .5}, {'fold': 1, 'items': 4, 'accuracy': .7}]
    assert fold_summary(rows) == pytest.approx({'fold_1/accuracy': .5, 'fold_2/accuracy': .7, 'folds/accuracy_mean': .6,
                                                'folds/accuracy_std': .02**.5})
    assert fold_summary(rows[:1]) == {'fold_1/accuracy': .5, 'folds/accuracy_mean': .5}
    assert fold_summary([]) == {}


def stub(shown, **columns):
    "An interpretation of as many items as `shown` has"
    n = len(shown)
    columns = {name: pd.Series(o, dtype=object) for name, o in columns.items()}
    issues = pd.DataFrame({'id': [str(i) for i in range(n)], 'is_issue': [True]*n, **columns})
    def to_csv(path):
        issues.to_csv(path, index=False, errors='replace')
        return path
    return SimpleNamespace(how={}, issues=issues, shown=shown.__getitem__, noise_rate=.5, weakness='', to_csv=to_csv)


def test_hostile_texts_stay_plain_cells_of_the_table(tmp_path):
    interp = stub([HOSTILE, 'fine'], given=[HOSTILE, 'b'], predicted=[1, HOSTILE])
    with wandb.init() as run: log_interpretation(interp, run)
    [run], _ = read_runs(tmp_path)
    table = run.tables['worst_items']
    plain = HOSTILE.replace('\ud800', '?')
    table = run.tables['worst_items']
    assert list(table.columns) == ['id', 'is_issue', 'given', 'predicted', 'text']
    assert table.text.tolist() == [plain, 'fine'] and table.given.tolist() == [plain, 'b']
    assert table.predicted.tolist() == ['1', plain]
    [files] = [files for kind, files in run.artifacts.values() if kind == 'run_table']
    assert not any(o.endswith('.html') for o in files)


def test_formulas_in_cells_are_texts_for_a_spreadsheet(tmp_path):
    interp = stub(['=1+1', "'=1"], given=['@x', '-1'], predicted=[('+a', 'b'), ()])
    with wandb.init() as run: log_interpretation(interp, run)
    table = read_runs(tmp_path)[0][0].tables['worst_items']
    assert table.text.tolist() == ["'=1+1", "''=1"] and table.given.tolist() == ["'@x", '-1']
    assert table.predicted.tolist() == ["'+a, b", '']


def test_several_labels_an_item_are_cells_of_text(tmp_path):
    pixels, digits = DIGITS.images.astype('float32')/16, DIGITS.target
    block = DataBlock((TransformBlock, MultiCategoryBlock), splitter=IndexSplitter(range(60, 80)),
                      get_x=lambda i: torch.tensor(pixels[i][None]),
                      get_y=lambda i: ['odd' if digits[i] % 2 else 'even', *(['big'] if digits[i] > 4 else [])])
    dls = block.dataloaders(range(80), bs=16, num_workers=0, device='cpu')
    learn = quiet(Learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(64, dls.c)), metrics=accuracy_multi))
    learn.fit(1, 1e-2, cbs=[ConfidentLearningCallback(2, mode='folds'), cb := CleanWandbCallback(n_items=60)])
    cb.finish()
    [run], folds = read_runs(tmp_path)
    table = run.tables['worst_items']
    assert len(table) == 60 and set(table.given) == {'even', 'odd', 'big, even', 'big, odd'}
    assert len(folds) == 2 and 'fold_2/accuracy_multi' in run.summary


def test_unreadable_and_large_pictures_give_a_reason_and_a_thumbnail(tmp_path):
    large = np.random.default_rng(0).random((900, 300))
    with wandb.init() as run: log_interpretation(stub([large, 'cannot be read: truncated']), run, name='worst_valid',
                                                 artifact='valid_issues')
    [run], _ = read_runs(tmp_path)
    table = run.tables['worst_valid']
    assert table.text.tolist() == [None, 'cannot be read: truncated'] and table.image[1] is None
    [picture] = pictures_of(run)
    assert picture.size == (85, 256) and run.artifacts['valid_issues'][0] == 'label-issues'


def test_validation_set_can_be_logged_to_the_active_run(tmp_path, clean):
    with wandb.init():
        log_interpretation(CleanInterpretation.from_learner(clean, ds_idx=1), n_items=3, name='worst_valid')
    [run], _ = read_runs(tmp_path)
    assert len(run.tables['worst_valid']) == 3
    assert run.artifacts[f'label_issues_validation_set-{run.id}'][0] == 'label-issues'


def test_active_run_is_used_and_left_open(tmp_path):
    own = wandb.init(project='mine', group='my group', config={'bs': 'untouched'})
    own.log({'before': 1})
    learn = noisy_learn()
    learn.fit(1, cbs=[ConfidentLearningCallback(2, mode='folds'), cb := CleanWandbCallback('other', group='other', fold_runs=False)])
    cb.finish()
    assert wandb.run is own
    own.log({'after': 1})
    own.finish()
    [run], folds = read_runs(tmp_path)
    assert not folds and run.group == 'my group' and 'after' in run.rows[-1] and len(run.tables['worst_items']) == 50
    assert run.config['bs'] == 'untouched' and run.config['learner']['n_train'] == 80
    assert {'fold_1/accuracy', 'folds/valid_loss_std'} <= set(run.summary)


def test_fits_in_a_row_share_a_run_that_finish_ends(tmp_path):
    learn, cb = noisy_learn(), CleanWandbCallback(group='g')
    learn.fine_tune(1, 1e-2, cbs=[ConfidentLearningCallback(2, mode='folds'), cb])
    assert wandb.run is cb.wandb_run
    cb.finish()
    assert wandb.run is None and cb.wandb_run is None
    [run], folds = read_runs(tmp_path)
    assert [o['epoch'] for o in run.rows if 'valid_loss' in o] == [1, 2] and run.ended
    assert sorted(o.name for o in folds) == ['fold 1', 'fold 1, fit 2', 'fold 2', 'fold 2, fit 2']
    assert {o.group for o in [run, *folds]} == {'g'} and run.n_tables == 2


def test_another_callback_starts_a_run_of_its_own(tmp_path):
    for lr in (1e-2, 1e-3): noisy_learn().fit(1, lr, cbs=CleanWandbCallback())
    wandb.finish()
    runs, _ = read_runs(tmp_path)
    assert len({o.id for o in runs}) == 2 and all(o.ended for o in runs)
    assert [[o['lr_0'] for o in run.rows if 'lr_0' in o] for run in runs] == [[1e-2]*5, [1e-3]*5]


def test_validation_within_a_fit_changes_nothing_that_is_logged(tmp_path):
    class Peek(Callback):
        order = 200
        def after_epoch(self):
            if not self.learn.lock.locked(): self.learn.validate()
    learn = noisy_learn()
    learn.fit(2, cbs=[ConfidentLearningCallback(2, mode='folds'), cb := CleanWandbCallback(), Peek()])
    cb.finish()
    [run], folds = read_runs(tmp_path)
    assert [o['epoch'] for o in run.rows if 'valid_loss' in o] == [1, 2]
    assert sum('raw_loss' in o for o in run.rows) == 10 and len(folds) == 2 and run.n_tables == 1


def test_what_is_no_fit_starts_no_run(tmp_path):
    learn = noisy_learn(cbs=CleanWandbCallback())
    learn.lr_find(num_it=3, show_plot=False, suggest_funcs=None)
    learn.validate()
    learn.get_preds()
    assert wandb.run is None
    with pytest.raises(ValueError, match='n_folds'): learn.fit(1, cbs=ConfidentLearningCallback(1, mode='folds'))
    assert wandb.run is None and not list(tmp_path.rglob('*.wandb'))


def test_folds_of_an_earlier_fit_are_not_logged_again(tmp_path, clean):
    before = clean.oof
    clean.fit(1, 0., cbs=(cb := CleanWandbCallback()))
    assert clean.oof is before
    cb.log_oof(clean)
    cb.finish()
    [run], folds = read_runs(tmp_path)
    assert run.n_tables == 1 and len(folds) == 2


def test_probabilities_made_elsewhere_are_logged_without_folds(tmp_path, clean):
    learn = noisy_learn()
    class Sets(Callback):
        order = ConfidentLearningCallback.order
        def after_fit(self):
            oof = clean.oof
            self.learn.oof = OutOfFold(oof.pred_probs, oof.targets, ids=oof.ids, vocab=oof.vocab)
    learn.fit(1, cbs=[Sets(), cb := CleanWandbCallback()])
    cb.finish()
    [run], folds = read_runs(tmp_path)
    assert not folds and len(run.tables['worst_items']) == 50 and not any(o.startswith('fold') for o in run.summary)


def test_weights_and_random_numbers_are_the_same_with_and_without():
    got = []
    for cbs in ([], [CleanWandbCallback()]):
        for f in (random.seed, np.random.seed, torch.manual_seed): f(3)
        learn = noisy_learn()
        learn.fine_tune(1, 1e-2, cbs=[ConfidentLearningCallback(2, mode='folds'), *cbs])
        got.append((learn.model.state_dict(), learn.oof.pred_probs, torch.get_rng_state(), np.random.get_state()[1],
                    random.getstate()))
    (a, p, *rng), (b, q, *rng2) = got
    assert all(torch.equal(a[o], b[o]) for o in a) and np.array_equal(p, q)
    assert torch.equal(rng[0], rng2[0]) and np.array_equal(rng[1], rng2[1]) and rng[2] == rng2[2]


def test_interrupted_fit_leaves_a_learner_that_trains_on_in_the_same_run(tmp_path):
    class Stop(Callback):
        order = 100
        def after_batch(self):
            if self.training and self.iter == 2: raise KeyboardInterrupt
    learn = noisy_learn(cbs=(cb := CleanWandbCallback()))
    with pytest.raises(KeyboardInterrupt): learn.fit(1, cbs=Stop())
    learn.lr_find(num_it=3, show_plot=False, suggest_funcs=None)
    learn.validate()
    learn.fit(1, cbs=ConfidentLearningCallback(2, mode='folds'))
    cb.finish()
    [run], folds = read_runs(tmp_path)
    assert sum('raw_loss' in o for o in run.rows) == 3 + 5 and len(folds) == 2 and len(run.tables['worst_items']) == 50


def test_exported_learner_loads_without_the_run(tmp_path):
    learn = noisy_learn(cbs=(cb := CleanWandbCallback('p', n_items=3)))
    learn.fit(1)
    learn.export(tmp_path/'l.pkl')
    loaded = load_learner(tmp_path/'l.pkl')
    assert loaded.clean_wandb.wandb_run is None and loaded.clean_wandb.n_items == 3
    assert cb.wandb_run is wandb.run
    with pytest.raises(ValueError, match='no run to log to'): loaded.clean_wandb.log_oof(loaded)


def test_beside_fastais_callback_every_row_arrives_once(tmp_path, monkeypatch):
    init_args = fastai.callback.wandb.init_args
    monkeypatch.setattr(fastai.callback.wandb, 'init_args', lambda o: init_args(o) if hasattr(o, '__dict__') else {})
    theirs = WandbCallback(log_preds=False)
    with wandb.init(): noisy_learn().fine_tune(1, cbs=[theirs, ConfidentLearningCallback(2, mode='folds'), CleanWandbCallback()])
    [run], folds = read_runs(tmp_path)
    assert sum('raw_loss' in o for o in run.rows) == 2*5 and run.n_tables == 2
    assert sum({'raw_loss', 'train_samples_per_sec', 'valid_loss'} <= set(o) for o in run.rows) == 2
    assert sum('valid_loss' in o for o in run.rows) == 2
    assert len(folds) == 4


def test_disabled_wandb_trains_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv('WANDB_MODE', 'disabled')
    learn = noisy_learn()
    learn.fit(1, cbs=[ConfidentLearningCallback(2, mode='folds'), CleanWandbCallback()])
    assert learn.oof.done.all() and wandb.run.disabled and not list(tmp_path.rglob('*.wandb'))


def test_without_wandb_it_is_silent_and_does_nothing(monkeypatch, recwarn, capsys):
    learn = noisy_learn()
    with monkeypatch.context() as m:
        m.setitem(sys.modules, 'wandb', None)
        learn.fit(1, cbs=[ConfidentLearningCallback(2, mode='folds'), cb := CleanWandbCallback()])
        with pytest.raises(ImportError, match='wandb is not installed'): log_interpretation(stub(['a']))
    assert learn.oof.done.all() and cb.wandb_run is None and wandb.run is None
    assert capsys.readouterr() == ('', '') and not [o for o in recwarn if 'wandb' in str(o.message)]


def test_a_folder_of_runs_is_not_taken_for_wandb_and_nothing_imports_it(tmp_path):
    (tmp_path/'wandb').mkdir()
    code = f'''
import sys, importlib.machinery
find = importlib.machinery.PathFinder.find_spec
importlib.machinery.PathFinder.find_spec = lambda name, path=None, target=None: find(
    name, [{str(tmp_path)!r}] if name == 'wandb' else path, target)
sys.path.append({str(Path(__file__).parent)!r})
from helpers import digit_dls, tiny_learn
from fastai_clean.callbacks.wandb import CleanWandbCallback
tiny_learn(digit_dls(range(40), range(40, 50))).fit(1, cbs=CleanWandbCallback())
assert 'wandb' not in sys.modules
import wandb
print(wandb.__path__)
'''
    out = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True, cwd=ROOT)
    assert out.returncode == 0, out.stderr
    assert str(tmp_path/'wandb') in out.stdout


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match='n_items is 0'): CleanWandbCallback(n_items=0)
    with pytest.raises(ValueError, match='n_items is -1'): log_interpretation(stub(['a']), n_items=-1)
    with pytest.raises(ValueError, match='run is None and no run is active'): log_interpretation(stub(['a']))
