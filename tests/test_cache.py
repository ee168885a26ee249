"Folds kept on disk: used again to the last bit, by the same run alone, and never half written"
import os
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import DIGITS, digit_dls, quiet, tiny_learn, tiny_model
from fastai.callback.core import Callback
from fastai.callback.mixup import MixUp
from fastai.callback.schedule import Learner
from fastai.losses import CrossEntropyLossFlat, LabelSmoothingCrossEntropyFlat
from fastai.optimizer import SGD, OptimWrapper, ranger
from fastai.vision.all import ImageDataLoaders
from test_jobs import MAKERS
from torch import nn

from fastai_clean.all import ConfidentLearningCallback, EarlyLearningRegularizationCallback
from fastai_clean.oof.cache import FoldCache
from fastai_clean.oof.describe import describe, describe_run
from fastai_clean.oof.jobs import FoldJob, FoldResult
from fastai_clean.oof.replay import FoldLearner

N, FOLDS = 60, 3


@pytest.fixture
def work(monkeypatch):
    "What folds do: 'fold' for each that is trained, 'fit' for each fit of it; raises as often as `left` says"
    done, fold, fit = dict(fold=0, fit=0, left=10**9), FoldJob.run, FoldLearner.repeat

    def counted(name, f, self, *args):
        done[name] += 1
        if done[name] > done['left'] and name == 'fit': raise KeyboardInterrupt
        return f(self, *args)
    monkeypatch.setattr(FoldJob, 'run', lambda *args: counted('fold', fold, *args))
    monkeypatch.setattr(FoldLearner, 'repeat', lambda *args: counted('fit', fit, *args))
    return done


def learner(labels=DIGITS.target, items=range(N), cbs=(), seed=1, bs=16, mix=(MixUp,), **kw):
    torch.manual_seed(0)
    return tiny_learn(digit_dls(items, range(N, 80), labels, shuffle=True, bs=bs), tiny_model(seed, dropout=.3),
                      cbs=[*(o() for o in mix), *cbs], **kw)


def in_a_row(learn):
    learn.fine_tune(2, 1e-2)
    learn.fit_one_cycle(1, 1e-2)


def probabilities(cache_dir=None, fits=in_a_row, n_folds=FOLDS, make=learner, options=dict, **kw):
    learn = make(**kw)
    learn.add_cb(ConfidentLearningCallback(n_folds, cache_dir=cache_dir, **options()))
    fits(learn)
    return learn.oof.pred_probs


def reset(work, left=10**9): work.update(fold=0, fit=0, left=left)


OPTS = {'adam': dict, 'sgd': lambda: dict(opt_func=partial(SGD, mom=.9)), 'ranger': lambda: dict(opt_func=ranger),
        'adamw': lambda: dict(opt_func=partial(OptimWrapper, opt=torch.optim.AdamW))}


@pytest.mark.parametrize('opt', OPTS)
def test_interrupted_run_does_only_what_is_missing_and_gives_the_same(opt, tmp_path, work):
    whole = probabilities(**OPTS[opt]())
    assert work['fit'] == 9
    reset(work, left=7)
    with pytest.raises(KeyboardInterrupt): probabilities(tmp_path/'cache', **OPTS[opt]())
    reset(work)
    assert np.array_equal(probabilities(tmp_path/'cache', **OPTS[opt]()), whole)
    assert (work['fold'], work['fit']) == (2, 2)
    reset(work)
    assert np.array_equal(probabilities(tmp_path/'cache', **OPTS[opt]()), whole) and work['fold'] == 0


def test_fold_whose_state_is_not_all_in_weights_and_optimizer_repeats_its_fits(tmp_path, work):
    def cbs(): return dict(cbs=[EarlyLearningRegularizationCallback()], mix=())
    whole = probabilities(**cbs())
    reset(work, left=7)
    with pytest.raises(KeyboardInterrupt): probabilities(tmp_path/'cache', **cbs())
    assert not list((tmp_path/'cache').glob('*.pt'))
    reset(work)
    assert np.array_equal(probabilities(tmp_path/'cache', **cbs()), whole) and work['fit'] == 6


@pytest.mark.parametrize('options', [lambda: dict(n_repeats=2), lambda: dict(average='epochs'),
                                     lambda: dict(n_jobs=2)], ids=['repeats', 'average', 'processes'])
def test_every_option_goes_on_where_it_was(options, tmp_path, work):
    def fits(learn): learn.fine_tune(2, 1e-2)
    whole = probabilities(fits=fits, options=options)
    assert np.array_equal(probabilities(tmp_path/'cache', fits, options=options), whole)
    for o in tmp_path.glob('cache/fit-1-fold-2/*'): o.unlink()
    (tmp_path/'cache'/'fit-1-fold-2').rmdir()
    reset(work)
    assert np.array_equal(probabilities(tmp_path/'cache', fits, options=options), whole)
    assert work['fold'] == (0 if 'n_jobs' in options() else 1)
    reset(work)
    assert np.array_equal(probabilities(tmp_path/'cache', fits, options=options), whole) and work['fold'] == 0


@pytest.mark.parametrize('kind', ['image', 'text', 'multilabel', 'regression', 'segmentation'])
def test_every_kind_of_data_and_task_is_kept(kind, tmp_path, work, digit_folder):
    def oof():
        torch.manual_seed(0)
        return MAKERS[kind](digit_folder).oof_preds(lambda o: o.fit(1, 1e-2), n_folds=2, cache_dir=tmp_path/'cache')
    one, two = oof(), oof()
    assert work['fold'] == 2 and two.done.all() and np.array_equal(one.pred_probs, two.pred_probs)
    assert np.array_equal(one.targets, two.targets) and one.config == two.config


# other runs

class Mine(Callback):
    def __init__(self, strength): self.strength = strength


OTHERS = {
    'n_folds': dict(n_folds=2), 'seed': dict(options=lambda: dict(seed=5)),
    'average': dict(options=lambda: dict(average='epochs')), 'n_repeats': dict(options=lambda: dict(n_repeats=2)),
    'act': dict(options=lambda: dict(act=lambda o: o.softmax(1))),
    'folds': dict(options=lambda: dict(splits=np.arange(N) % 3)),
    'labels': dict(labels=np.roll(DIGITS.target, 1)), 'items': dict(items=range(N)[::-1]), 'weights': dict(seed=2),
    'hypers': dict(fits=lambda o: o.fine_tune(2, 1e-2, wd=.3)),
    'schedule': dict(fits=lambda o: o.fine_tune(2, 2e-2)), 'n_epoch': dict(fits=lambda o: o.fine_tune(2, 1e-2,
                                                                                                    freeze_epochs=2)),
    'Mine': dict(cbs=[Mine(2)]), 'loss': dict(loss_func=LabelSmoothingCrossEntropyFlat()),
    'opt_func': dict(opt_func=SGD), 'batch_size': dict(bs=8)}


ONE = dict(fits=lambda o: o.fine_tune(2, 1e-2), cbs=[Mine(1)])


@pytest.fixture(scope='module')
def kept(tmp_path_factory):
    "A folder with the folds of one run"
    path = tmp_path_factory.mktemp('kept')
    probabilities(path, **ONE)
    return path


def test_same_run_is_not_refused(kept, work):
    probabilities(kept, **ONE)
    assert work['fold'] == 0


@pytest.mark.parametrize('name', OTHERS)
def test_other_run_is_refused_and_told_what_differs(name, kept, work):
    with pytest.raises(ValueError, match=rf'differs.* by .*\b{name}\b.*: choose a new folder'):
        probabilities(kept, **{**ONE, **OTHERS[name]})
    assert work['fold'] == 0


def test_oof_preds_knows_fit_by_what_it_does(tmp_path, work):
    def oof(fit): return learner().oof_preds(fit, n_folds=2, cache_dir=tmp_path)
    def fit(n, lr=1e-2): return lambda o: o.fit(n, lr)
    oof(fit(1))
    oof(fit(1))
    assert work['fold'] == 2
    for other in (fit(2), fit(1, 1e-3), lambda o: o.fit_one_cycle(1, 1e-2)):
        with pytest.raises(ValueError, match='in fit 0 by fit:'): oof(other)


def test_changed_file_and_changed_frame_are_other_inputs(digit_folder, tmp_path):
    root, df = digit_folder
    kw = dict(bs=16, num_workers=0, seed=1)

    def inputs(dls):
        learn = quiet(Learner(dls, nn.Sequential(nn.Flatten(), nn.LazyLinear(10)), CrossEntropyLossFlat()))
        learn.model(dls.one_batch()[0].cpu())
        cb = ConfidentLearningCallback(2)
        learn.fit(1, cbs=cb)
        return describe_run(cb.folds)['inputs']
    before, frame = inputs(ImageDataLoaders.from_folder(root, valid_pct=.2, **kw)), inputs(
        ImageDataLoaders.from_df(df, root, **kw))
    assert inputs(ImageDataLoaders.from_folder(root, valid_pct=.2, **kw)) == before
    for o in root.rglob('*.png'): os.utime(o, ns=(1, 1))
    assert inputs(ImageDataLoaders.from_folder(root, valid_pct=.2, **kw)) != before
    changed = inputs(ImageDataLoaders.from_df(df, root, **kw))
    assert changed != frame and inputs(ImageDataLoaders.from_df(df, root, **kw)) == changed
    assert inputs(ImageDataLoaders.from_df(df.assign(other=1), root, **kw)) != changed


def test_description_has_no_addresses_and_sees_values_far_inside():
    class Scale:
        def __init__(self, by): self.by = by
    def make(by, words=('b', 'a')): return [partial(lambda x, s: x*s.by, s=Scale(by)), {*words}, pd.Series([by])]
    assert describe(make(2)) == describe(make(2, ('a', 'b'))) != describe(make(3))


# files

def test_files_are_no_pickles(tmp_path):
    probabilities(tmp_path)
    files = [o for o in tmp_path.rglob('*') if o.is_file()]
    assert {o.suffix for o in files} == {'.npy', '.json', '.pt'} and not list(tmp_path.rglob('.*'))
    for o in files:
        if o.suffix == '.npy': np.load(o, allow_pickle=False)
        if o.suffix == '.pt': assert torch.load(o, weights_only=True)['n_done'] == 3


def test_fold_that_cannot_be_written_is_not_there(tmp_path, monkeypatch):
    def full(*_, **__): raise OSError('disk full')
    monkeypatch.setattr(np, 'save', full)
    with pytest.raises(OSError, match='disk full'): probabilities(tmp_path)
    assert sorted(o.name for o in tmp_path.iterdir()) == ['fit-0', 'key']
    monkeypatch.undo()
    assert np.array_equal(probabilities(tmp_path), probabilities())


def test_other_folders_are_refused(tmp_path):
    (tmp_path/'thesis.txt').write_text('years')
    for path, match in ((tmp_path, 'other files'), (tmp_path/'thesis.txt', 'is a file')):
        with pytest.raises(FileExistsError, match=match): probabilities(path)
    assert [o.name for o in tmp_path.iterdir()] == ['thesis.txt']


def test_broken_file_is_named(tmp_path):
    probabilities(tmp_path)
    path = tmp_path/'fit-2-fold-1'/'preds.npy'
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match='fit-2-fold-1.* broken'): probabilities(tmp_path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match='fit-2-fold-1.*preds.npy missing'): probabilities(tmp_path)


def test_two_runs_in_one_folder_keep_the_first(tmp_path):
    one, two = (FoldCache(tmp_path, {'seed': 1}) for _ in range(2))
    for cache in (one, two):
        cache.note_fit(0, {'n_epoch': 1})
        cache.keep(0, 0, FoldResult(np.eye(3, dtype=np.float32), None, {'fold': 0}), b'state')
    assert np.array_equal(two.result(0, 0).preds, np.eye(3)) and two.result(0, 1) is None
    with pytest.raises(ValueError, match=r'by seed \(1, now 2\)'): FoldCache(tmp_path, {'seed': 2})


def test_what_killed_runs_left_is_removed_when_it_is_old(tmp_path):
    FoldCache(tmp_path, {})
    for name in ('.fit-0-fold-0-abc-new', '.fit-0-fold-1-abc-new'): (tmp_path/name).mkdir()
    os.utime(tmp_path/'.fit-0-fold-0-abc-new', (0, 0))
    FoldCache(tmp_path, {})
    assert [o.name for o in tmp_path.glob('.*')] == ['.fit-0-fold-1-abc-new']
