"Folds kept on disk: used again to the last bit, by the same run alone, and never half written"
import os
import re
import shutil
import time
from functools import partial
from operator import itemgetter

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.core import Callback
from fastai.callback.mixup import MixUp
from fastai.callback.schedule import Learner
from fastai.losses import CrossEntropyLossFlat, LabelSmoothingCrossEntropyFlat
from fastai.optimizer import SGD, OptimWrapper, ranger
from fastai.torch_core import set_seed
from fastai.vision.all import (
    DataBlock,
    DataLoaders,
    ImageBlock,
    ImageDataLoaders,
    Normalize,
    RandomSplitter,
    Resize,
    SegmentationDataLoaders,
    TensorMask,
    Transform,
    TransformBlock,
    WeightedDL,
    accuracy,
    aug_transforms,
    get_image_files,
)
from fastcore.foundation import L
from helpers import DIGITS, digit_dls, quiet, tiny_learn, tiny_model
from PIL import Image
from test_jobs import MAKERS
from torch import nn
from torch.nn import functional as F

from fastai_clean._files import sibling
from fastai_clean.all import ConfidentLearningCallback, EarlyLearningRegularizationCallback
from fastai_clean.oof import FitRecord, FoldLearners, FoldOptions, cache
from fastai_clean.oof.cache import FoldCache
from fastai_clean.oof.fingerprint import VERSIONS, _stat, fingerprint, run_fingerprint
from fastai_clean.oof.fit import FoldLearner
from fastai_clean.oof.job import FoldJob, FoldResult

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
    learn.add_cb(ConfidentLearningCallback(n_folds, cache_dir=cache_dir, **options(), mode='folds'))
    fits(learn)
    return learn.oof.pred_probs


def reset(work, left=10**9): work.update(fold=0, fit=0, left=left)


OPTS = {'adam': dict, 'sgd': lambda: dict(opt_func=partial(SGD, mom=.9)), 'ranger': lambda: dict(opt_func=ranger),
        'adamw': lambda: dict(opt_func=partial(OptimWrapper, opt=torch.optim.AdamW)),
        'callback with a state': lambda: dict(cbs=[EarlyLearningRegularizationCallback()], mix=())}


@pytest.mark.parametrize('opt', OPTS)
def test_interrupted_run_does_only_what_is_missing_and_gives_the_same(opt, tmp_path, work):
    whole = probabilities(**OPTS[opt]())
    assert work['fit'] == 9
    reset(work, left=7)
    with pytest.raises(KeyboardInterrupt): probabilities(tmp_path/'cache', **OPTS[opt]())
    reset(work)
    assert np.array_equal(probabilities(tmp_path/'cache', **OPTS[opt]()), whole)
    # Two of three folds are missing after the last fit; each repeats all three fits
    assert (work['fold'], work['fit']) == (2, 6)
    reset(work)
    assert np.array_equal(probabilities(tmp_path/'cache', **OPTS[opt]()), whole) and work['fold'] == 0


@pytest.mark.parametrize('options', [
    pytest.param(lambda: dict(n_repeats=2), id='repeats'), pytest.param(lambda: dict(average='epochs'), id='average'),
    pytest.param(lambda: dict(n_jobs=2), id='processes', marks=pytest.mark.slow)])
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
    'labels': dict(labels=np.roll(DIGITS.target, 1)), 'ids': dict(items=range(N)[::-1]), 'weights': dict(seed=2),
    'hypers': dict(fits=lambda o: o.fine_tune(2, 1e-2, wd=.3)),
    'schedule': dict(fits=lambda o: o.fine_tune(2, 2e-2)), 'n_epoch': dict(fits=lambda o: o.fine_tune(2, 1e-2,
                                                                                                    freeze_epochs=2)),
    'Mine': dict(cbs=[Mine(2)]), 'loss': dict(loss_func=LabelSmoothingCrossEntropyFlat()),
    'opt_func': dict(opt_func=SGD), 'batch_size': dict(bs=8),
    'cache_key': dict(options=lambda: dict(cache_key='edited my transform'))}


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


def test_other_order_of_the_items_is_another_run(tmp_path, work):
    def make(shuffle_fn):
        torch.manual_seed(0)
        dls = digit_dls(range(N), range(N, 80), shuffle=True, dl_kwargs=[dict(shuffle_fn=shuffle_fn), {}])
        return tiny_learn(dls, tiny_model(1))
    def backwards(idxs): return idxs[::-1]
    def as_it_is(idxs): return idxs
    probabilities(tmp_path, lambda o: o.fit(1), make=make, shuffle_fn=backwards)
    probabilities(tmp_path, lambda o: o.fit(1), make=make, shuffle_fn=backwards)
    assert work['fold'] == FOLDS
    with pytest.raises(ValueError, match=r'differs.* by .*shuffle_fn'):
        probabilities(tmp_path, lambda o: o.fit(1), make=make, shuffle_fn=as_it_is)


def test_text_that_names_a_file_is_known_by_the_file(tmp_path):
    file = tmp_path/'a.txt'
    file.write_text('one')
    before = _stat(str(file))
    file.write_text('three')
    assert _stat(str(file)) != before and _stat('no file') == _stat('no file')


def test_oof_preds_knows_fit_by_what_it_does(tmp_path, work):
    def oof(fit): return learner().oof_preds(fit, n_folds=2, cache_dir=tmp_path)
    def fit(n, lr=1e-2): return lambda o: o.fit(n, lr)
    oof(fit(1))
    oof(fit(1))
    assert work['fold'] == 2
    for other in (fit(2), fit(1, 1e-3), lambda o: o.fit_one_cycle(1, 1e-2)):
        with pytest.raises(ValueError, match='in fit 0 by fit:'): oof(other)


class Times(Transform):
    def __init__(self, by): self.by = by
    def encodes(self, x: torch.Tensor): return x*self.by if x.ndim > 2 else x


class Scaled(nn.Module):
    def __init__(self, by):
        super().__init__()
        self._by, self.net = by, tiny_model()

    def forward(self, x): return self.net(x*self._by)


class Kept(Callback):
    def __init__(self, by): self._by = by
    def before_fit(self): self.began = time.time()


class Listed(Callback):
    def __init__(self, by): self._all = list(by)


class Scale:
    def __init__(self, by): self.by = by
    def __call__(self, x): return scale(x, self.by)


def scale(x, by): return x*by if x.is_floating_point() else x


def digits(model=None, loss=None, cbs=(), **kw):
    return tiny_learn(digit_dls(range(N), range(N, 80), **kw), model, loss, cbs=cbs)


def weighted(wgts):
    train, valid = digit_dls(range(N), range(N, 80))
    return tiny_learn(DataLoaders(WeightedDL(train.dataset, wgts=wgts, bs=16, num_workers=0), valid))


def pictures(folder, item=None, batch=None):
    dls = ImageDataLoaders.from_folder(folder[0], valid_pct=.2, seed=1, bs=16, num_workers=0, item_tfms=item,
                                       batch_tfms=batch)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(36, 10))
    return quiet(Learner(dls, net, CrossEntropyLossFlat()))


ALIKE = {  # What differs, and two Learners that differ in it by an argument alone
    'loss': [lambda _, o=o: digits(loss=nn.CrossEntropyLoss(label_smoothing=o)) for o in (0., .5)],
    'Listed': [lambda _, o=o: digits(cbs=Listed([o])) for o in (1., 2.)],
    'batch_tfms, by a partial': [lambda _, o=o: digits(after_batch=[partial(scale, by=o)]) for o in (1., 2.)],
    'batch_tfms, by a callable': [lambda _, o=o: digits(after_batch=[Scale(o)]) for o in (1., 2.)],
    'MixUp': [lambda _, o=o: digits(cbs=MixUp(o)) for o in (.1, 4.)],
    'Kept': [lambda _, o=o: digits(cbs=Kept(o)) for o in (1, 2)],
    'item_tfms': [lambda _, o=o: digits(after_item=[Times(o)]) for o in (1., 2.)],
    'model': [lambda _, o=o: quiet(Learner(digit_dls(range(N), range(N, 80)), Scaled(o), CrossEntropyLossFlat()))
              for o in (1., 2.)],
    'wgts': [lambda _, o=o: weighted(np.r_[np.full(10, o), np.ones(N - 10)]) for o in (1., 9.)],
    'item_tfms, by size': [lambda f, o=o: pictures(f, Resize(o)) for o in (12, 24)],
    'batch_tfms, by degrees': [lambda f, o=o: pictures(f, batch=aug_transforms(max_rotate=o)) for o in (1., 90.)],
    'batch_tfms, by mean': [lambda f, o=o: pictures(f, batch=[Normalize.from_stats([o]*3, [.5]*3, cuda=False)])
                            for o in (.1, .5)]}


@pytest.mark.parametrize('name', ALIKE)
def test_an_argument_of_a_part_is_seen_and_the_same_is_not_refused(name, tmp_path, work, digit_folder):
    def run(make):
        set_seed(0)
        make(digit_folder).fit(1, 1e-2, cbs=ConfidentLearningCallback(2, cache_dir=tmp_path, mode='folds'))
    one, other = ALIKE[name]
    run(one)
    run(one)
    assert work['fold'] == 2
    with pytest.raises(ValueError, match=rf"differs.* by {name.split(',')[0]}:"): run(other)


class Counting(Transform):
    "Random, and counts"
    n = 0
    def __init__(self): self.n, self.do = 0, False

    def encodes(self, x: torch.Tensor):
        self.n, self.do = self.n + 1, bool(torch.rand(1) < .5)
        return x


def of_itself():
    "A Learner whose loss and callback reach its model"
    model = tiny_model()

    class Near(Callback):
        def __init__(self, net): self.net = net
    return digits(model, lambda o, y: F.cross_entropy(o, y) + sum(p.abs().sum() for p in model.parameters())*1e-4,
                  cbs=Near(model))


@pytest.mark.parametrize('make, fits', [(lambda: digits(after_item=[Counting()]), 1), (of_itself, 2)],
                         ids=['counts', 'of itself'])
def test_what_training_changes_is_not_taken_for_another_run(make, fits, tmp_path, work):
    for _ in range(2):
        set_seed(0)
        learn = make()
        cb = ConfidentLearningCallback(2, cache_dir=tmp_path, act=partial(torch.softmax, dim=1), mode='folds')
        learn.add_cb(cb)
        for _ in range(fits): learn.fit(1, 1e-2)
    assert work['fold'] == 2*fits


def test_fit_that_could_not_be_noted_is_noted_by_resume(tmp_path, monkeypatch):
    saves, save = [], cache.save_arrays

    def once(path, *args):
        saves.append(path.name)
        if saves.count('fit-0') == 1 and path.name == 'fit-0': raise OSError('disk full')
        return save(path, *args)
    monkeypatch.setattr(cache, 'save_arrays', once)
    cb = ConfidentLearningCallback(2, cache_dir=tmp_path, mode='folds')
    with pytest.raises(OSError, match='disk full'): digits().fit(1, 1e-2, cbs=cb)
    cb.resume()
    with pytest.raises(ValueError, match='differs in fit 0 by'):
        digits().fit(1, .5, cbs=ConfidentLearningCallback(2, cache_dir=tmp_path, mode='folds'))


def test_metrics_are_part_of_a_run(tmp_path):
    digits().fit(1, cbs=ConfidentLearningCallback(2, cache_dir=tmp_path, mode='folds'))
    learn = digits()
    learn.metrics = L(accuracy)
    with pytest.raises(ValueError, match='differs by metrics'):
        learn.fit(1, cbs=ConfidentLearningCallback(2, cache_dir=tmp_path, mode='folds'))


@pytest.mark.parametrize('name', VERSIONS)
def test_another_version_is_another_run(name, kept, work, monkeypatch):
    monkeypatch.setitem(VERSIONS, name, '0.0.1')
    with pytest.raises(ValueError, match=rf'differs by {name} \(.*now 0.0.1'): probabilities(kept, **ONE)
    assert work['fold'] == 0


def test_changed_mask_files_are_other_inputs(tmp_path):
    for i in range(12):
        Image.fromarray(np.full((8, 8), i, np.uint8)).save(tmp_path/f'{i}.png')
        Image.fromarray(np.eye(8, dtype=np.uint8)).save(tmp_path/f'{i}_mask.bmp')

    def inputs():
        dls = SegmentationDataLoaders.from_label_func(
            tmp_path, sorted(tmp_path.glob('*.png')), lambda o: o.with_name(f'{o.stem}_mask.bmp'),
            codes=['a', 'b'], valid_pct=.2, seed=1, bs=4, num_workers=0, device='cpu')
        learn = quiet(Learner(dls, nn.Conv2d(3, 2, 1), CrossEntropyLossFlat(axis=1)))
        record = FitRecord(learn, None)
        return run_fingerprint(FoldLearners(record, FoldOptions(2)))['inputs']
    before = inputs()
    assert inputs() == before
    for o in tmp_path.glob('*.bmp'): os.utime(o, ns=(1, 1))
    assert inputs() != before


def test_masks_that_the_users_function_reads_are_other_inputs(tmp_path):
    for i in range(12): Image.fromarray(np.full((8, 8), i, np.uint8)).save(tmp_path/f'{i}.png')

    def read(o): return TensorMask(np.load(o.with_suffix('.npy')))

    def inputs(wrong):
        for i in range(12): np.save(tmp_path/f'{i}.npy', np.eye(8, dtype=np.int64)*(i != wrong))
        dblock = DataBlock((ImageBlock, TransformBlock), get_items=get_image_files, get_y=read,
                           splitter=RandomSplitter(.2, seed=1))
        dls = dblock.dataloaders(tmp_path, bs=4, num_workers=0, device='cpu')
        learn = quiet(Learner(dls, nn.Conv2d(3, 2, 1), CrossEntropyLossFlat(axis=1)))
        return run_fingerprint(FoldLearners(FitRecord(learn, None), FoldOptions(2, act=partial(F.softmax, dim=1))))
    one = inputs(None)
    assert inputs(None) == one and inputs(5)['inputs'] != one['inputs']


def test_functions_are_known_by_keyword_defaults_and_closures():
    def make(lr):
        def f(learn, *, lr=lr): return lr
        return f

    def closed(lr):
        def f(learn): return lr
        return f
    for o in (make, closed): assert fingerprint(o(1)) == fingerprint(o(1)) != fingerprint(o(2))
    for a, b in ((slice(1, 2), slice(1, 3)), (itemgetter(0), itemgetter(1)), (re.compile('a'), re.compile('b'))):
        assert fingerprint(lambda o, x=a: x) != fingerprint(lambda o, x=b: x) and fingerprint(a) != fingerprint(b)


def test_long_arrays_in_the_cells_of_a_frame_are_seen_whole():
    def frame(by): return pd.DataFrame({'x': [np.r_[np.zeros(900), by, np.zeros(900)] for _ in range(3)]})
    assert fingerprint(frame(1)) == fingerprint(frame(1)) != fingerprint(frame(2))


def test_changed_file_and_changed_frame_are_other_inputs(digit_folder, tmp_path):
    root, df = digit_folder
    kw = dict(bs=16, num_workers=0, seed=1)

    def inputs(dls):
        learn = quiet(Learner(dls, nn.Sequential(nn.Flatten(), nn.LazyLinear(10)), CrossEntropyLossFlat()))
        learn.model(dls.one_batch()[0].cpu())
        cb = ConfidentLearningCallback(2, mode='folds')
        learn.fit(1, cbs=cb)
        return run_fingerprint(cb.folds)['inputs']
    before, frame = inputs(ImageDataLoaders.from_folder(root, valid_pct=.2, **kw)), inputs(
        ImageDataLoaders.from_df(df, root, **kw))
    assert inputs(ImageDataLoaders.from_folder(root, valid_pct=.2, **kw)) == before
    for o in root.rglob('*.png'): os.utime(o, ns=(1, 1))
    assert inputs(ImageDataLoaders.from_folder(root, valid_pct=.2, **kw)) != before
    changed = inputs(ImageDataLoaders.from_df(df, root, **kw))
    assert changed != frame and inputs(ImageDataLoaders.from_df(df, root, **kw)) == changed
    assert inputs(ImageDataLoaders.from_df(df.assign(other=1), root, **kw)) != changed


def test_fingerprint_has_no_addresses_and_sees_values_far_inside():
    class Scale:
        def __init__(self, by): self.by = by
    def make(by, words=('b', 'a')): return [partial(lambda x, s: x*s.by, s=Scale(by)), {*words}, pd.Series([by])]
    assert fingerprint(make(2)) == fingerprint(make(2, ('a', 'b'))) != fingerprint(make(3))
    assert '0x' not in fingerprint(make(2))


# files

def test_files_are_no_pickles(tmp_path):
    probabilities(tmp_path)
    files = [o for o in tmp_path.rglob('*') if o.is_file()]
    assert {o.suffix for o in files} == {'.npy', '.json'} and not list(tmp_path.rglob('.*'))
    for o in files:
        if o.suffix == '.npy': np.load(o, allow_pickle=False)


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


@pytest.mark.parametrize('change', ['bytes', 'other fold', 'config', 'key', 'no masks'])
def test_changed_files_are_refused_before_the_fit(change, tmp_path, work):
    def run(): return learner().oof_preds(lambda o: o.fit(1, 1e-2), n_folds=2, cache_dir=tmp_path)
    run()
    one, two = (tmp_path/f'fit-0-fold-{o}' for o in (0, 1))
    if change == 'bytes': np.save(two/'preds.npy', np.roll(np.load(two/'preds.npy'), 1, 1))
    elif change == 'other fold': shutil.copytree(one, two, dirs_exist_ok=True)
    elif change == 'config': (two/'about.json').write_text('{"config": [], "items": [], "vocab": []}')
    elif change == 'key': (tmp_path/'key'/'about.json').write_text('{')
    else: (two/'about.json').write_text((two/'about.json').read_text().replace('"preds":', '"masks":'))
    with pytest.raises((ValueError, FileNotFoundError), match='cache_dir is broken: delete it|masks.npy missing'):
        run()
    assert work['fold'] == 2


@pytest.mark.parametrize('other', [dict(seed=2), dict(fits=lambda o: o.fit(1, 2e-2))], ids=['run', 'fit'])
def test_fold_of_another_folder_is_refused(other, tmp_path):
    kw = dict(n_folds=2, fits=lambda o: o.fit(1, 1e-2))
    probabilities(tmp_path/'one', **kw)
    probabilities(tmp_path/'two', **{**kw, **other})
    shutil.copytree(tmp_path/'two'/'fit-0-fold-1', tmp_path/'one'/'fit-0-fold-1', dirs_exist_ok=True)
    with pytest.raises(ValueError, match='fit-0-fold-1 in cache_dir is broken: delete it .* that of another run'):
        probabilities(tmp_path/'one', **kw)


def test_resume_goes_on_after_a_write_that_failed(tmp_path, monkeypatch, work):
    def full(*_, **__): raise OSError('disk full')
    learn, cb = learner(), ConfidentLearningCallback(FOLDS, cache_dir=tmp_path, mode='folds')
    monkeypatch.setattr(np, 'save', full)
    with pytest.raises(OSError, match='cache_dir .* cannot be written to .*disk full.*resume'):
        learn.fit(1, 1e-2, cbs=cb)
    assert learn.oof.done.any()
    monkeypatch.undo()
    cb.resume()
    assert learn.oof.done.all() and np.array_equal(learn.oof.pred_probs, probabilities(fits=lambda o: o.fit(1, 1e-2)))


@pytest.mark.parametrize('mode', ['folds', 'features', 'auto'])
@pytest.mark.parametrize('bad, error', [(1, TypeError), ('a\0b', ValueError), ('file', FileExistsError),
                                        ('file/under', OSError), ('/proc/nope', OSError)])
def test_folder_that_cannot_be_is_refused_before_training(mode, bad, error, tmp_path, work):
    (tmp_path/'file').touch()
    bad = tmp_path/bad if isinstance(bad, str) and bad.startswith('file') else bad
    with pytest.raises(error, match='cache_dir'):
        learner().fit(1, cbs=ConfidentLearningCallback(2, cache_dir=bad, mode=mode))
    assert work['fold'] == 0


def test_finished_folds_are_told_of(tmp_path, capsys):
    for _ in range(2):
        learn = Learner(digit_dls(range(N), range(N, 80)), tiny_model(), CrossEntropyLossFlat())
        learn.oof_preds(lambda o: o.fit(1), n_folds=2, cache_dir=tmp_path)
    said = capsys.readouterr().out
    assert f'2 of 2 folds were taken from cache_dir {tmp_path}' in said and 'code' in said and 'another cache_key=' in said


def test_two_runs_in_one_folder_keep_the_first(tmp_path):
    one, two = (FoldCache(tmp_path, {'seed': 1}) for _ in range(2))
    for o in (one, two):
        o.note_fit(0, {'n_epoch': 1})
        o.keep(0, 0, FoldResult(np.eye(3, dtype=np.float32), None, {'fold': 0}))
    assert np.array_equal(two.result(0, 0).preds, np.eye(3)) and two.result(0, 1) is None
    with pytest.raises(ValueError, match=r'by seed \(1, now 2\)'): FoldCache(tmp_path, {'seed': 2})


def test_what_killed_runs_left_is_removed_when_it_is_old(tmp_path):
    FoldCache(tmp_path, {})
    for name in ('fit-0-fold-0', 'fit-0-fold-1'):
        with pytest.raises(KeyboardInterrupt), sibling(tmp_path/name) as tmp:
            tmp.mkdir()
            # A process that is killed leaves behind what `sibling` would remove
            tmp.rename(tmp_path/f'.{name}-{"0"*32}')
            raise KeyboardInterrupt
    os.utime(tmp_path/f'.fit-0-fold-0-{"0"*32}', (0, 0))
    FoldCache(tmp_path, {})
    assert [o.name for o in tmp_path.glob('.*')] == [f'.fit-0-fold-1-{"0"*32}']
