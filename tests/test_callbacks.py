"ConfidentLearningCallback on every kind of data, its refusals, interruptions, and what it leaves behind"
import copy
import threading
import warnings
from contextlib import nullcontext
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.core import Callback
from fastai.callback.fp16 import MixedPrecision
from fastai.callback.hook import ActivationStats, HookCallback
from fastai.callback.mixup import CutMix, MixUp
from fastai.data.block import CategoryBlock, DataBlock
from fastai.data.core import DataLoaders, Datasets
from fastai.data.load import DataLoader, SkipItemException
from fastai.data.transforms import Categorize, get_image_files, parent_label
from fastai.learner import AvgMetric, Learner, load_learner
from fastai.losses import (
    BCEWithLogitsLossFlat,
    CrossEntropyLossFlat,
    LabelSmoothingCrossEntropyFlat,
)
from fastai.metrics import accuracy
from fastai.optimizer import OptimWrapper
from fastai.tabular.all import Categorify, Normalize, TabDataLoader, TabularPandas, tabular_learner
from fastai.text.all import AWD_LSTM, SortedDL, TextDataLoaders, text_classifier_learner
from fastai.vision.all import ImageBlock, ImageDataLoaders, TensorPoint, aug_transforms
from helpers import DIGITS, PIXELS, digit_dls, plant, quiet, tiny_learn, tiny_model
from sklearn.metrics import average_precision_score
from torch import nn

from fastai_clean.all import CleanInterpretation, ConfidentLearningCallback
from fastai_clean.data import fold_dls

N = 120


def check(learn, n, c):
    "The result covers all training items, in order, as probabilities"
    oof = learn.oof
    assert oof.pred_probs.shape == (n, c) and oof.done.all() and oof.pred_probs.min() >= 0
    assert np.allclose(oof.pred_probs.sum(1), 1, atol=1e-4)
    assert len(set(oof.ids)) == n == len(learn.dls.train_ds)
    assert set(oof.fold) == {0, 1}
    return CleanInterpretation.from_learner(learn)


# images

def image_net(c): return nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
                                       nn.Flatten(), nn.Linear(4, c))


IMAGES = {
    'folder': lambda root, df, kw: ImageDataLoaders.from_folder(root, valid_pct=.2, **kw),
    'df': lambda root, df, kw: ImageDataLoaders.from_df(df, root, **kw),
    'lists': lambda root, df, kw: ImageDataLoaders.from_lists(root, [root/o for o in df.path], list(df.label), **kw),
    'block': lambda root, df, kw: DataBlock((ImageBlock, CategoryBlock), get_items=get_image_files, get_y=parent_label,
                                            batch_tfms=kw.pop('batch_tfms', None)).dataloaders(root, path=root, **kw),
}


@pytest.mark.parametrize('num_workers', [0, 2])
@pytest.mark.parametrize('kind', IMAGES)
def test_images_of_every_source_give_probabilities(kind, num_workers, digit_folder):
    root, df = digit_folder
    dls = IMAGES[kind](root, df, dict(bs=16, num_workers=num_workers, batch_tfms=aug_transforms(size=12)))
    learn = quiet(Learner(dls, image_net(dls.c), CrossEntropyLossFlat()))
    learn.fit(1, cbs=ConfidentLearningCallback(2, mode='folds'))
    interp = check(learn, len(dls.train_ds), 10)
    assert len(interp.plot_noisy(4)) <= 4
    if kind in ('folder', 'block'): assert all(len(o.split('/')) == 2 and (root/o).is_file() for o in learn.oof.ids)


@pytest.mark.parametrize('cb', [MixUp, CutMix, MixedPrecision, partial(MixedPrecision, 'bf16'), ActivationStats],
                         ids=['mixup', 'cutmix', 'fp16', 'bf16', 'hooks'])
def test_images_with_training_callbacks_give_probabilities(cb, digit_folder):
    root, df = digit_folder
    dls = ImageDataLoaders.from_df(df, root, bs=16, num_workers=0, device='cpu')
    learn = quiet(Learner(dls, image_net(10), LabelSmoothingCrossEntropyFlat(), cbs=cb()))
    learn.fit_one_cycle(1, cbs=ConfidentLearningCallback(2, mode='folds'))
    check(learn, len(dls.train_ds), 10)
    assert isinstance(learn.loss_func, LabelSmoothingCrossEntropyFlat)


def test_hooks_of_callbacks_see_the_users_model_alone():
    seen = []
    class Counts(HookCallback):
        def hook(self, m, i, o): seen.append(len(o))
    learn = tiny_learn(digit_dls(range(40), range(40, 50)), cbs=Counts())
    learn.fit(1)
    alone = len(seen)
    learn = tiny_learn(digit_dls(range(40), range(40, 50)), cbs=[Counts(), ConfidentLearningCallback(2, mode='folds')])
    learn.fit(1)
    assert len(seen) == 2*alone


def test_splits_left_behind_by_a_copy_are_asked_for():
    learn = tiny_learn(digit_dls(range(40), range(40, 50)), cbs=ConfidentLearningCallback(2, splits=np.arange(40) % 2, mode='folds'))
    twin = copy.deepcopy(learn)
    with pytest.raises(ValueError, match='splits was left behind'): twin.fit(1)
    learn.fit(1)
    assert np.array_equal(learn.oof.fold, np.arange(40) % 2)


# text

WORDS = {'good': 'fine lovely great nice warm bright', 'bad': 'poor awful grim cold sad broken'}


@pytest.fixture(scope='module')
def tweets():
    rng = np.random.default_rng(0)
    label = rng.choice(['good', 'bad'], 80)
    text = [' '.join(rng.choice(WORDS[o].split(), rng.integers(3, 30))) for o in label]
    return pd.DataFrame({'text': text, 'label': label})


def text_dls(df, **kw):
    return TextDataLoaders.from_df(df, text_col='text', label_col='label', bs=8, num_workers=0, device='cpu', **kw)


def small_lstm(dls, **kw):
    return quiet(text_classifier_learner(dls, AWD_LSTM, pretrained=False, config=dict(
        emb_sz=16, n_hid=24, n_layers=2, pad_token=1, bidir=False, output_p=.1, hidden_p=.1, input_p=.1, embed_p=.02,
        weight_p=.1), metrics=accuracy, **kw))


def test_text_gives_probabilities_and_pictures(tweets):
    learn = small_lstm(text_dls(tweets))
    learn.fine_tune(1, 1e-2, cbs=ConfidentLearningCallback(2, mode='folds'))
    interp = check(learn, len(learn.dls.train_ds), 2)
    assert set(interp.issues.given) == {'good', 'bad'}
    shown = interp.shown(0)
    assert isinstance(shown, str) and len(shown.split()) > 3


# tabular

@pytest.fixture(scope='module')
def table():
    rng = np.random.default_rng(0)
    df = pd.DataFrame({'num': rng.normal(size=150), 'cat': rng.choice(list('xyz'), 150)},
                      index=[f'row{i}' for i in range(150)])
    return df.assign(y=np.where(df.num + (df.cat == 'x') > 0, 'yes', 'no'))


@pytest.mark.parametrize('dl_type', [None, TabDataLoader], ids=['with replacement', 'without'])
def test_tabular_gives_probabilities_and_rows_in_the_users_values(dl_type, table, tmp_path):
    splits = list(range(120)), list(range(120, 150))
    to = TabularPandas(table, [Categorify, Normalize], ['cat'], ['num'], 'y', splits=splits)
    dls = to.dataloaders(bs=16, device='cpu', **({'dl_type': dl_type} if dl_type else {}))
    learn = quiet(tabular_learner(dls, layers=[16], metrics=accuracy, path=tmp_path))
    learn.fit_one_cycle(3, 1e-2, cbs=ConfidentLearningCallback(2, mode='folds'))
    interp = check(learn, 120, 2)
    assert learn.oof.ids == [f'row{i}' for i in range(120)]
    first = interp.issues.index[0]
    assert f"cat: {table.cat.iloc[first]}" in interp.shown(first)
    out = pd.read_csv(interp.to_csv(tmp_path/'all.csv', only_issues=False))
    assert np.allclose(out.num, table.num.iloc[interp.issues.index], atol=1e-4)
    assert list(out.y) == list(table.y.iloc[interp.issues.index])


# other DataLoaders

def datasets(labels=DIGITS.target, n=N):
    return Datasets(range(n + 30), [[lambda i: PIXELS[i]], [lambda i: int(labels[i]), Categorize(range(10))]],
                    splits=[range(n), range(n, n + 30)])


class Plain(torch.utils.data.Dataset):
    "An ordinary torch data set"
    def __init__(self, idxs, labels=DIGITS.target): self.idxs, self.labels = list(idxs), labels
    def __len__(self): return len(self.idxs)
    def __getitem__(self, i): return PIXELS[self.idxs[i]], int(self.labels[self.idxs[i]])


OTHERS = {
    'weighted': lambda: datasets().weighted_dataloaders(np.linspace(0, 1, N), bs=16, num_workers=0, device='cpu'),
    'partial': lambda: datasets().partial_dataloaders(48, bs=16, num_workers=0, device='cpu'),
    'limited': lambda: datasets().dataloaders(bs=16, n=60, num_workers=0, device='cpu'),
    'plain': lambda: DataLoaders(DataLoader(Plain(range(N)), bs=16, shuffle=True),
                                 DataLoader(Plain(range(N, N + 30)), bs=16)),
    'plain_tfmd': lambda: DataLoaders.from_dsets(Plain(range(N)), Plain(range(N, N + 30)), bs=16, num_workers=0,
                                                 device='cpu'),
    'torch': lambda: DataLoaders(torch.utils.data.DataLoader(Plain(range(N)), 16, shuffle=True),
                                 torch.utils.data.DataLoader(Plain(range(N, N + 30)), 16)),
}


@pytest.mark.parametrize('kind', OTHERS)
def test_other_data_loaders_give_probabilities(kind):
    dls = OTHERS[kind]()
    learn = tiny_learn(dls)
    learn.fit_one_cycle(10, 2e-2, cbs=ConfidentLearningCallback(2, mode='folds'))
    interp = check(learn, N, 10)
    assert (interp.decoded == interp.targs).float().mean() > .35


def test_training_set_alone_gives_probabilities():
    learn = tiny_learn(DataLoaders(DataLoader(Plain(range(N)), bs=16, shuffle=True)))
    learn.oof_preds(lambda o: o.fit_one_cycle(10, 2e-2), n_folds=2)
    interp = check(learn, N, 10)
    assert (interp.decoded == interp.targs).float().mean() > .35


def test_weights_partial_count_and_sorting_survive_in_folds(tweets):
    held = np.arange(N) % 2 == 0
    weighted = OTHERS['weighted']()
    assert np.allclose(fold_dls(weighted, held).train.wgts, weighted.train.wgts[~held]/weighted.train.wgts[~held].sum())
    assert fold_dls(OTHERS['partial'](), held).train.partial_n == 48
    limited = fold_dls(OTHERS['limited'](), held)
    assert limited.train.n == 30 and limited.valid.n == 60
    text = text_dls(tweets)
    held = np.arange(len(text.train_ds)) % 2 == 0
    fold = fold_dls(text, held)
    assert fold.train.res == [len(x) for x, _ in fold.train_ds] and fold.train.res == [
        o for o, h in zip(text.train.res, held) if not h]


def test_batches_larger_than_a_fold_still_train():
    learn = tiny_learn(digit_dls(range(40), range(40, 50), shuffle=True, bs=32, drop_last=True))
    untrained = [p.clone() for p in learn.model.parameters()]
    cb = ConfidentLearningCallback(2, mode='folds')
    learn.fit(1, 1e-2, cbs=cb)
    assert not any(map(torch.equal, untrained, cb.folds.folds[0].learn.model.parameters()))


def test_last_batch_of_one_item_does_not_break_batch_normalization():
    learn = tiny_learn(digit_dls(range(50), range(50, 60), bs=16))
    learn.fit(1, cbs=ConfidentLearningCallback(3, splits=np.repeat([0, 1, 2], [17, 16, 17]), mode='folds'))
    check_folds = np.bincount(learn.oof.fold)
    assert (50 - check_folds).tolist() == [33, 34, 33] and learn.oof.done.all()


# alignment

class Identity(nn.Module):
    "Says which item it saw: the pixel that is lit"
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1))
    def forward(self, x): return x.flatten(1)*20 + self.w*0


ONE_HOT = torch.eye(64)


def identity_dls(kind, num_workers=0):
    order = np.random.default_rng(0).permutation(64)
    ds = Datasets(list(order), [[lambda i: ONE_HOT[i]], [lambda i: int(i), Categorize(range(64))]],
                  splits=[range(64), range(8)])
    kw = dict(bs=8, shuffle=True, num_workers=num_workers, device='cpu')
    if kind == 'weighted': return ds.weighted_dataloaders(np.linspace(1, 2, 64), **kw)
    if kind == 'sorted':
        return ds.dataloaders(dl_type=SortedDL, sort_func=lambda o: int(o[1]) % 7, **kw)
    return ds.dataloaders(**kw)


@pytest.mark.parametrize('num_workers', [0, 2])
@pytest.mark.parametrize('kind', ['shuffled', 'sorted', 'weighted'])
def test_row_i_belongs_to_item_i(kind, num_workers):
    dls = identity_dls(kind, num_workers)
    learn = quiet(Learner(dls, Identity(), CrossEntropyLossFlat()))
    learn.fit(1, cbs=ConfidentLearningCallback(4, mode='folds'))
    items = np.array([int(i) for i in dls.train_ds.items])
    assert not np.array_equal(items, np.arange(64))
    assert np.array_equal(learn.oof.pred_probs.argmax(1), items)
    assert np.array_equal(learn.oof.targets, items)
    interp = CleanInterpretation.from_learner(learn)
    inps, *_ = interp[[5, 3]]
    assert np.array_equal(inps.argmax(1), items[[5, 3]])


# no leakage

@pytest.mark.slow
def test_out_of_fold_ranking_is_far_above_in_sample_ranking_of_a_model_that_memorised():
    labels, wrong = plant(DIGITS.target, .2)
    n = 400
    dls = DataLoaders(DataLoader(Plain(range(n), labels), bs=32, shuffle=True),
                      DataLoader(Plain(range(n, 450), labels), bs=50))
    learn = tiny_learn(dls, nn.Sequential(nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.ReLU()),
                                          nn.Sequential(nn.Linear(256, 10))))
    learn.fit(40, 1e-2, cbs=ConfidentLearningCallback(5, mode='folds'))
    out = CleanInterpretation.from_learner(learn)
    learn.oof = None
    with pytest.warns(UserWarning, match='in-sample'): within = CleanInterpretation.from_learner(learn, ds_idx=0)
    assert (within.decoded == within.targs).float().mean() > .98

    def auprc(interp): return average_precision_score(wrong[:n], 1 - interp.issues.label_quality.sort_index())
    assert auprc(out) > .75
    assert auprc(within) < auprc(out) - .3


# refusals

def refused(learn, match, error=TypeError, **kw):
    weights = [p.clone() for p in learn.model.parameters()]
    loss = learn.loss_func
    with pytest.raises(error, match=match): learn.fit(1, cbs=ConfidentLearningCallback(**kw, mode='folds'))
    assert all(map(torch.equal, weights, learn.model.parameters())) and learn.loss_func is loss and learn.oof is None
    with pytest.raises(error, match=match): learn.oof_preds(lambda o: o.fit(1), **kw)


def simple(y, n=40, vocab=None):
    "DataLoaders whose targets are `y` of the item"
    ds = Datasets(range(n), [[lambda i: PIXELS[i]], [y]], splits=[range(n - 8), range(n - 8, n)])
    return ds.dataloaders(bs=8, num_workers=0, device='cpu')


def test_language_model_is_refused(tweets):
    dls = text_dls(tweets, is_lm=True, seq_len=8)
    refused(quiet(Learner(dls, Identity(), CrossEntropyLossFlat())), 'language model')


@pytest.mark.parametrize('y, match', [
    (lambda i: 'x', 'of type str'), (lambda i: TensorPoint(torch.zeros(3, 2)), 'of type TensorPoint'),
    (lambda i: {'a': 1}, 'of type dict')])
def test_targets_of_no_known_task_are_refused(y, match): refused(tiny_learn(simple(y)), match)


@pytest.mark.parametrize('loss', [CrossEntropyLossFlat(), nn.functional.cross_entropy, nn.BCEWithLogitsLoss()])
def test_losses_for_classes_are_refused_for_numbers(loss):
    refused(tiny_learn(simple(lambda i: torch.tensor(.5*i)), loss_func=loss), 'regression', ValueError)


def test_several_columns_of_classes_are_refused(table):
    df = table.assign(z=table.y)
    to = TabularPandas(df, [Categorify], ['cat'], ['num'], ['y', 'z'], y_block=CategoryBlock(),
                       splits=(list(range(120)), list(range(120, 150))))
    refused(quiet(tabular_learner(to.dataloaders(bs=16, device='cpu'), layers=[8], n_out=2,
                                  loss_func=CrossEntropyLossFlat())), 'each with classes')


def test_unlabelled_data_is_refused():
    ds = Datasets(range(40), [[lambda i: PIXELS[i]]], n_inp=1, splits=[range(30), range(30, 40)])
    refused(tiny_learn(ds.dataloaders(bs=8, num_workers=0, device='cpu')), 'no labels')


def test_fewer_than_two_classes_are_refused(): refused(tiny_learn(simple(lambda i: 0)), 'two classes', ValueError)


@pytest.mark.parametrize('n_folds, match', [(33, '32 training items'), (1, 'at least 2'), (0, 'at least 2'),
                                            (2.5, '2.5')])
def test_impossible_numbers_of_folds_are_refused(n_folds, match):
    refused(tiny_learn(simple(lambda i: int(i) % 10)), match, ValueError, n_folds=n_folds)


@pytest.mark.parametrize('opt', ['wrapper', 'fastai', 'torch'])
def test_prebuilt_optimizers_are_refused(opt):
    learn = tiny_learn(simple(lambda i: int(i) % 10))
    built = torch.optim.SGD(learn.model.parameters(), lr=.1)
    learn.opt_func = OptimWrapper(opt=built) if opt == 'wrapper' else built
    if opt == 'wrapper': refused(learn, 'built OptimWrapper')
    else:
        with pytest.raises(TypeError, match='built SGD'): learn.oof_preds(lambda o: o.fit(1))


@pytest.mark.parametrize('loss, match', [
    (BCEWithLogitsLossFlat(), 'multi-label'), (nn.BCEWithLogitsLoss(), 'multi-label'),
    (lambda p, y: p.sum(), 'pass act=')])
def test_losses_without_class_probabilities_are_refused(loss, match):
    refused(tiny_learn(simple(lambda i: int(i) % 10), loss_func=loss), match, ValueError)


def test_activation_that_gives_no_probabilities_is_refused():
    refused(tiny_learn(simple(lambda i: int(i) % 10)), 'rows do not sum to 1', ValueError, act=lambda o: o)


def test_model_with_other_outputs_than_classes_is_refused():
    refused(tiny_learn(digit_dls(range(40), range(40, 50)), nn.Sequential(
        nn.Flatten(), nn.Sequential(nn.Linear(64, 12)))), '12 outputs, but the vocab has 10', ValueError)


@pytest.mark.parametrize('loss', [nn.CrossEntropyLoss(), nn.functional.cross_entropy,
                                  partial(nn.functional.cross_entropy, label_smoothing=.1)],
                         ids=['module', 'function', 'partial'])
def test_torch_losses_give_probabilities_and_not_logits(loss):
    learn = tiny_learn(digit_dls(range(40), range(40, 50)), loss_func=loss)
    learn.fit(1, cbs=ConfidentLearningCallback(2, mode='folds'))
    check(learn, 40, 10)


def test_items_that_are_skipped_while_loading_are_named():
    def pixels(i):
        if i == 7: raise SkipItemException
        return PIXELS[i]
    ds = Datasets(range(50), [[pixels], [lambda i: int(DIGITS.target[i]), Categorize(range(10))]],
                  splits=[range(40), range(40, 50)])
    with pytest.raises(ValueError, match='19 of 20 items'):
        tiny_learn(ds.dataloaders(bs=8, num_workers=0)).fit(1, cbs=ConfidentLearningCallback(2, mode='folds'))


def test_negative_seed_is_refused():
    refused(tiny_learn(simple(lambda i: int(i) % 10)), 'seed is -1', ValueError, seed=-1)


def test_torch_loader_with_its_own_sampler_is_refused():
    sampler = torch.utils.data.WeightedRandomSampler(torch.ones(N), N)
    dls = DataLoaders(torch.utils.data.DataLoader(Plain(range(N)), 16, sampler=sampler),
                      torch.utils.data.DataLoader(Plain(range(9)), 16))
    refused(tiny_learn(dls), 'WeightedRandomSampler')


def test_splitter_of_another_model_is_refused():
    learn = tiny_learn(digit_dls(range(40), range(40, 50)))
    mine = learn.model
    learn.splitter = lambda _: [list(mine.parameters())]
    with pytest.raises(ValueError, match='splitter'): learn.fit(1, cbs=ConfidentLearningCallback(2, mode='folds'))


def test_callback_that_cannot_be_copied_is_refused_and_left_out_on_demand(tmp_path):
    class Holds(Callback):
        def __init__(self): self.file = open(tmp_path/'log', 'w')
    learn = tiny_learn(digit_dls(range(40), range(40, 50)), cbs=Holds())
    with pytest.raises(TypeError, match='Holds cannot be copied'): learn.fit(1, cbs=ConfidentLearningCallback(2, mode='folds'))
    learn.fit(1, cbs=ConfidentLearningCallback(2, leave_out=Holds, mode='folds'))
    assert learn.oof.done.all()


# interruption

class InSecondFold(Callback):
    "Raises in the second fold Learner; its copies share one count of fits"
    in_folds = True
    error, fits = None, []
    def before_train(self):
        if self.epoch == 0: self.fits.append(1)
    def before_batch(self):
        if self.learn.training and len(self.fits) == 3 and self.error: raise self.error


@pytest.mark.parametrize('error', [KeyboardInterrupt(), RuntimeError('broken')], ids=['ctrl-c', 'error'])
def test_interrupted_fold_leaves_the_learner_usable_and_keeps_finished_folds(error):
    InSecondFold.error, InSecondFold.fits = error, []
    cb = ConfidentLearningCallback(3, mode='folds')
    dls = digit_dls(range(60), range(60, 80))
    learn = tiny_learn(dls, metrics=accuracy, cbs=[cb, InSecondFold()])
    with pytest.raises(type(error)): learn.fit(2, 1e-2)
    assert np.array_equal(learn.oof.done, learn.oof.fold == 0)
    with pytest.raises(ValueError, match=r'folds \[1, 2\]'): CleanInterpretation.from_learner(learn)
    InSecondFold.error = None
    assert len(learn.validate()) == 2 and learn.get_preds()[0].shape == (20, 10)
    kept = learn.oof.pred_probs[learn.oof.done].copy()
    resumed = cb.resume()
    assert resumed.done.all() and np.array_equal(resumed.pred_probs[resumed.fold == 0], kept)

    whole = tiny_learn(dls, cbs=ConfidentLearningCallback(3, mode='folds'))
    whole.fit(2, 1e-2)
    assert np.array_equal(resumed.pred_probs, whole.oof.pred_probs)


def test_interrupted_main_fit_is_no_fit_and_the_next_one_warns():
    class Stop(Callback):
        armed = True
        def after_batch(self):
            if self.armed and self.learn.training: raise KeyboardInterrupt
    stop = Stop()
    learn = tiny_learn(digit_dls(range(40), range(40, 50)), cbs=[ConfidentLearningCallback(2, mode='folds'), stop])
    with pytest.raises(KeyboardInterrupt): learn.fit(1)
    assert learn.oof is None
    Stop.armed = False
    with pytest.warns(UserWarning, match='weights changed'): learn.fit(1)
    assert learn.oof.done.all()


# what is left behind

def test_trained_learner_warns_and_a_new_one_does_not():
    learn = tiny_learn(digit_dls(range(40), range(40, 50)), metrics=accuracy)
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        learn.validate()
        learn.lr_find(num_it=6, show_plot=False)
        learn.fit(1, cbs=ConfidentLearningCallback(2, mode='folds'))
    with pytest.warns(UserWarning, match='trained before'): learn.fit(1, cbs=ConfidentLearningCallback(2, mode='folds'))


@pytest.mark.parametrize('train', [lambda o: o.fit(1), lambda o: o.fit_one_cycle(1), lambda o: (o.fit_one_cycle(1),
                                                                                                o.unfreeze())])
@pytest.mark.parametrize('look', [lambda o: o.get_preds(), lambda o: o.validate(),
                                  lambda o: CleanInterpretation.from_learner(o)])
def test_trained_learner_warns_after_a_look_at_its_predictions_too(train, look):
    learn = tiny_learn(digit_dls(range(40), range(40, 50)), metrics=accuracy)
    train(learn)
    look(learn)
    with pytest.warns(UserWarning, match='trained before'): learn.fit(1, cbs=ConfidentLearningCallback(2, mode='folds'))


def test_validation_prediction_and_lr_find_are_no_fits():
    learn = tiny_learn(digit_dls(range(40), range(40, 50)), cbs=ConfidentLearningCallback(2, mode='folds'))
    learn.validate()
    learn.get_preds()
    learn.lr_find(num_it=6, show_plot=False)
    assert learn.oof is None and learn.confident_learning.oof is None


def test_export_stays_small_and_loads(tmp_path):
    n = 400
    def exported(name, cbs):
        learn = tiny_learn(digit_dls(range(n), range(n, 450), bs=64), tiny_model(), path=tmp_path, cbs=cbs)
        learn.fit(1)
        learn.export(name)
        return (tmp_path/name).stat().st_size, learn
    plain, _ = exported('plain.pkl', [])
    size, learn = exported('cl.pkl', [ConfidentLearningCallback(2, splits=np.arange(n) % 2, mode='folds')])
    assert learn.oof.done.all() and size < plain + 2000
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        again = load_learner(tmp_path/'cl.pkl')
    assert again.oof is None and again.confident_learning.oof is None and again.confident_learning.n_folds == 2


def test_folds_show_a_progress_bar_unless_the_learner_shows_none(capsys):
    def printed(bar):
        learn = Learner(digit_dls(range(40), range(40, 50)), tiny_model(), CrossEntropyLossFlat())
        with nullcontext() if bar else learn.no_bar(), learn.no_logging():
            learn.fit(1, cbs=ConfidentLearningCallback(2, mode='folds'))
        return capsys.readouterr().out
    shown = printed(True)
    assert 'fold 1 of 2' in shown and 'fold 2 of 2' in shown and printed(False) == ''


def test_fit_that_trains_another_learner_is_refused():
    learn = tiny_learn(digit_dls(range(40), range(40, 50)))
    with pytest.raises(ValueError, match='did not train'): learn.oof_preds(lambda o: None, n_folds=2)


def test_progressive_resizing_is_followed_and_other_labels_are_refused(digit_folder):
    root, df = digit_folder
    learn = quiet(Learner(ImageDataLoaders.from_df(df, root, bs=16, num_workers=0, seed=1), image_net(10),
                          CrossEntropyLossFlat(), cbs=ConfidentLearningCallback(2, mode='folds')))
    learn.fit(1)
    learn.dls = ImageDataLoaders.from_df(df, root, bs=16, num_workers=0, seed=1, batch_tfms=aug_transforms(size=8))
    learn.fit(1)
    assert learn.oof.done.all()
    learn.dls = ImageDataLoaders.from_df(df, root, bs=16, num_workers=0, seed=2)
    with pytest.raises(ValueError, match='other training labels'): learn.fit(1)



# what attackers found

class Keeps(nn.Module):
    "Holds a computed tensor in a plain object, as unet_learner's hooks do"
    def __init__(self):
        super().__init__()
        self.store = type('Store', (), {})()
    def forward(self, x):
        self.store.value = x
        return x


def test_models_that_keep_activations_are_copied():
    learn = tiny_learn(digit_dls(range(40), range(40, 50)), nn.Sequential(
        nn.Sequential(nn.Flatten(), nn.Linear(64, 24), Keeps()), nn.Sequential(nn.Linear(24, 10))))
    learn.lr_find(num_it=4, show_plot=False)
    learn.fit(1, cbs=ConfidentLearningCallback(2, mode='folds'))
    assert learn.oof.done.all()


class Picky(AvgMetric):
    "Has no value of 20 items, which a fold has and the validation set has not"
    @property
    def value(self):
        if self.count == 20: raise KeyError('20')
        return super().value


@pytest.mark.parametrize('fails', ['batch', 'value', 'copy'])
def test_metric_that_fails_costs_its_value_and_not_the_probabilities(fails):
    def one(p, t):
        if fails == 'batch' and len(p) == 4: raise IndexError('four items')
        return (p.argmax(1) == t).float().mean()
    metric = (Picky if fails == 'value' else AvgMetric)(one)
    if fails == 'copy': metric.lock = threading.Lock()
    learn = tiny_learn(digit_dls(range(40), range(40, 56)), metrics=[accuracy, metric])
    with pytest.warns(UserWarning, match='has no value for the held-out items'):
        learn.fit(1, cbs=ConfidentLearningCallback(2, mode='folds'))
    assert learn.oof.done.all() and len(learn.recorder.values[-1]) == 4
    assert all('accuracy' in o and 'one' not in o for o in learn.oof.config['fold_metrics'])


def test_interruption_of_a_later_fit_leaves_no_stale_result():
    InSecondFold.error, InSecondFold.fits = None, []
    cb = ConfidentLearningCallback(3, mode='folds')
    learn = tiny_learn(digit_dls(range(60), range(60, 80)), cbs=[cb, InSecondFold()])
    learn.fit(1)
    InSecondFold.error, InSecondFold.fits = KeyboardInterrupt(), []
    with pytest.raises(KeyboardInterrupt): learn.fit(1)
    assert np.array_equal(learn.oof.done, learn.oof.fold == 0)
    InSecondFold.error = None
    assert cb.resume().config['n_epoch'] == [1, 1]


def test_loss_that_does_not_fit_is_refused_before_training():
    learn = tiny_learn(simple(lambda i: int(i) % 20), loss_func=nn.CrossEntropyLoss())
    refused(learn, 'fails on its first batch, IndexError.* check that model, loss and targets', ValueError)
    refused(tiny_learn(simple(lambda i: int(i) % 10), loss_func=nn.MSELoss()), 'make them floats', ValueError)
    refused(tiny_learn(simple(lambda i: int(i) % 10 if i < 20 else float('nan'))), 'the label of item', ValueError)
    refused(tiny_learn(simple(lambda i: int(i) % 10)), "act is 'sigmoid'", TypeError, act='sigmoid')
