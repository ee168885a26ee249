"Learners whose items have several labels, a number or a mask: out-of-fold, ranked, shown, written"
import json
from importlib import import_module

import numpy as np
import pandas as pd
import pytest
import torch
import wandb
from fastai.data.block import DataBlock, MultiCategoryBlock, RegressionBlock, TransformBlock
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastai.losses import BCEWithLogitsLossFlat, CrossEntropyLossFlat, MSELossFlat
from fastai.metrics import accuracy_multi, mae
from fastai.tabular.all import Categorify, TabularPandas, tabular_learner
from fastai.vision.all import ImageBlock, MaskBlock, PILImage
from helpers import DIGITS, PIXELS, Forwards, quiet
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score
from torch import nn

from fastai_clean.all import CleanInterpretation, ConfidentLearningCallback, OutOfFold
from fastai_clean.callbacks.wandb import log_interpretation

N, N_VALID = 240, 40
NAMES = ['even', 'big', 'round']
TRAITS = {'even': {0, 2, 4, 6, 8}, 'big': {5, 6, 7, 8, 9}, 'round': {0, 3, 6, 8, 9}}


def net(c): return nn.Sequential(nn.Flatten(), nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, c))


def block_dls(block, ys, vocab=None):
    return DataBlock((TransformBlock(), block), get_x=lambda i: PIXELS[i], get_y=lambda i: ys[i],
                     splitter=lambda o: (list(range(N)), list(range(N, N + N_VALID)))).dataloaders(
                         list(range(N + N_VALID)), bs=16, num_workers=0, device='cpu')


def traits(rng, share=.1):
    ys = [[k for k in NAMES if d in TRAITS[k]] for d in DIGITS.target]
    wrong = rng.permutation(N) < share*N
    for i in np.flatnonzero(wrong): ys[i] = sorted({*ys[i]} ^ {rng.choice(NAMES)})
    return ys, wrong


def numbers(rng, share=.1):
    ys, wrong = [float(o) for o in DIGITS.target], rng.permutation(N) < share*N
    for i in np.flatnonzero(wrong): ys[i] = (ys[i] + rng.integers(3, 8)) % 10
    return ys, wrong


def squares(rng, share=.1, n=60):
    "Bright squares on a dark ground, and their masks, some of them shifted"
    images, masks, wrong = [], [], rng.permutation(n) < share*n
    for i in range(n):
        image, mask = rng.integers(0, 60, (16, 16, 3)), np.zeros((16, 16), np.uint8)
        top, left = rng.integers(1, 9, 2)
        image[top:top + 6, left:left + 6] += 180
        mask[top:top + 6, left:left + 6] = 1
        images.append(PILImage.create(image.astype(np.uint8)))
        masks.append(np.roll(mask, 5, int(rng.integers(2))) if wrong[i] else mask)
    return images, masks, wrong


def mask_dls(images, masks, n=50):
    return DataBlock((ImageBlock, MaskBlock(codes=['ground', 'square'])), get_x=lambda i: images[i],
                     get_y=lambda i: masks[i], splitter=lambda o: (list(range(n)), list(range(n, len(images))))
                     ).dataloaders(list(range(len(images))), bs=10, num_workers=0, device='cpu')


def mask_net(): return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 3, padding=1))


def learned(kind):
    "A Learner trained with the callback on labels of which a tenth is wrong, and which"
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    if kind == 'multilabel':
        ys, wrong = traits(rng)
        learn = quiet(Learner(block_dls(MultiCategoryBlock(vocab=NAMES), ys), net(3), BCEWithLogitsLossFlat(),
                              metrics=accuracy_multi))
    elif kind == 'regression':
        ys, wrong = numbers(rng)
        learn = quiet(Learner(block_dls(RegressionBlock(), ys), net(1), MSELossFlat(), metrics=mae))
    else:
        images, masks, wrong = squares(rng)
        learn = quiet(Learner(mask_dls(images, masks), mask_net(), CrossEntropyLossFlat(axis=1)))
        wrong = wrong[:50]
    learn.fit_one_cycle(25, 1e-2, cbs=ConfidentLearningCallback(3, mode='folds'))
    return learn, wrong


@pytest.fixture(scope='module')
def all_learned(): return {o: learned(o) for o in ('multilabel', 'regression', 'segmentation')}


pytestmark = pytest.mark.slow
KINDS = pytest.mark.parametrize('kind', ['multilabel', 'regression', 'segmentation'])


@KINDS
def test_planted_errors_rank_far_above_chance(kind, all_learned):
    learn, wrong = all_learned[kind]
    assert learn.oof.task == kind and learn.oof.done.all() and len(learn.oof) == len(wrong)
    interp = CleanInterpretation.from_learner(learn)
    table = interp.issues.sort_index()
    assert average_precision_score(wrong, -table.label_quality) > 3.5*wrong.mean()
    assert list(table.id) == learn.oof.ids and 0 < table.is_issue.sum() < len(wrong)/2


@KINDS
def test_untrained_model_does_not_find_them(kind, all_learned):
    learn, wrong = all_learned[kind]
    rng = np.random.default_rng(1)
    probs = learn.oof.pred_probs[rng.permutation(len(wrong))]
    kept = learn.oof
    learn.oof = OutOfFold(probs, kept.targets, ids=kept.ids, vocab=kept.vocab, task=kind)
    try: table = CleanInterpretation.from_learner(learn).issues.sort_index()
    finally: learn.oof = kept
    assert average_precision_score(wrong, -table.label_quality) < 2.5*wrong.mean()


@KINDS
def test_predictions_of_each_fold_have_its_metrics(kind, all_learned):
    learn, _ = all_learned[kind]
    folds = learn.oof.config['fold_metrics']
    assert [o['fold'] for o in folds] == [0, 1, 2] and sum(o['items'] for o in folds) == len(learn.oof)
    if kind == 'regression':
        for k, o in enumerate(folds):
            held = learn.oof.fold == k
            error = np.abs(learn.oof.pred_probs[held] - learn.oof.targets[held]).mean()
            assert o['mae'] == pytest.approx(error, rel=1e-4)
    if kind == 'multilabel': assert all(.5 < o['accuracy_multi'] <= 1 for o in folds)
    assert all(o['valid_loss'] > 0 for o in folds)


@KINDS
def test_oof_of_every_task_is_saved_and_loaded(kind, all_learned, tmp_path):
    oof = all_learned[kind][0].oof
    again = OutOfFold.load(oof.save(tmp_path/'oof'))
    assert again.task == kind and np.array_equal(again.pred_probs, oof.pred_probs)
    assert np.array_equal(again.targets, oof.targets) and again.vocab == oof.vocab and kind in repr(again)


@KINDS
def test_everything_is_made_from_one_inference(kind, all_learned, tmp_path):
    learn, wrong = all_learned[kind]
    n = len(learn.dls.valid_ds)
    with learn.added_cbs(count := Forwards()):
        interp = CleanInterpretation.from_learner(learn, ds_idx=1)
        interp.find_issues()
        interp.noise_rate, interp.evaluate(n_boot=20) if kind != 'segmentation' else None
        interp.to_csv(tmp_path/'a.csv', only_issues=False)
        interp.to_parquet(tmp_path/'a.parquet', only_issues=False)
        interp[[0, 1]]
        assert count.seen == n
    assert len(pd.read_csv(tmp_path/'a.csv')) == len(pd.read_parquet(tmp_path/'a.parquet')) == n
    with learn.added_cbs(count := Forwards()):
        train = CleanInterpretation.from_learner(learn)
        axs = train.plot_noisy(4)
        train.report(tmp_path/'r.html', n=5)
        assert count.seen == 0 and 0 < len(axs) <= 4
    assert 'given' in axs[0].get_title(loc='left') + axs[0].get_title()
    axs[0].figure.canvas.draw()


def test_validation_predictions_equal_get_preds(all_learned):
    for kind, (learn, _) in all_learned.items():
        interp = CleanInterpretation.from_learner(learn, ds_idx=1)
        preds, targs = learn.get_preds()
        assert torch.allclose(interp.preds, preds.squeeze(-1) if kind == 'regression' else preds, atol=1e-6)
        assert np.allclose(np.asarray(interp.given, dtype=float), targs.squeeze(-1) if kind == 'regression' else targs)


@KINDS
def test_scores_of_ones_own_rank_every_task(kind, all_learned):
    learn, wrong = all_learned[kind]
    interp = CleanInterpretation.from_learner(learn)
    flagged, n, default = interp.issues.is_issue.sort_index(), len(wrong), interp.issues.label_quality.sort_index()
    table = interp.find_issues(score=np.arange(n)[::-1])
    assert list(table.index) == list(range(n))[::-1] and table.is_issue.sort_index().equals(flagged)
    name = {'multilabel': 'self_confidence', 'regression': 'residual', 'segmentation': 'softmin'}[kind]
    ranks = interp.find_issues(score=[name, lambda y, p: wrong*-1.]).label_quality.sort_index()
    assert np.allclose(ranks, (rankdata(default) + rankdata(wrong*-1.))/2/n)
    assert len(interp.plot_quality()) == 1
    with pytest.raises(ValueError, match=f'3 scores for {n} items'): interp.find_issues(score=np.ones(3))


def test_agreement_is_that_of_model_and_given_labels(all_learned):
    for kind, (learn, _) in all_learned.items():
        interp = CleanInterpretation.from_learner(learn)
        if kind == 'regression':
            rest = np.square(interp.given - interp.predicted).sum()/np.square(interp.given - interp.given.mean()).sum()
            assert interp.agreement == pytest.approx(1 - rest, abs=1e-5)
        else: assert interp.agreement == np.mean(interp.given == interp.predicted) > .7
        with pytest.raises(TypeError, match='health_score needs one class'): _ = interp.health_score


def test_several_labels_list_their_single_issues(all_learned):
    interp = CleanInterpretation.from_learner(all_learned['multilabel'][0])
    single = interp.class_issues()
    assert set(single['class']) <= set(NAMES) and single.is_issue.all()
    worst = interp.issues.iloc[0]
    assert isinstance(worst.given, tuple) and set(worst.given) <= set(NAMES)
    for name in ('joint', 'health', 'top_pairs', 'confusion_matrix', 'plot_class_health'):
        with pytest.raises(TypeError, match='one class per item'):
            o = getattr(interp, name)
            o()


def test_pictures_of_masks_show_image_and_both_masks(all_learned):
    interp = CleanInterpretation.from_learner(all_learned['segmentation'][0])
    shown = interp.shown(3)
    assert shown.shape == (16, 3*16 + 2, 3)
    given = shown[:, 17:33].reshape(-1, 3)
    assert len(np.unique(given, axis=0)) == len(np.unique(interp.given[3]))


def test_large_masks_are_averaged_over_squares(all_learned, monkeypatch):
    monkeypatch.setattr(import_module('fastai_clean.data.predict'), 'MAX_MASK_VALUES', 50*2*8*8)
    learn, wrong = learned('segmentation')
    assert learn.oof.pred_probs.shape == (50, 2, 8, 8) and learn.oof.targets.shape == (50, 8, 8)
    full = all_learned['segmentation'][0].oof
    pooled = full.pred_probs.reshape(50, 2, 8, 2, 8, 2).mean((3, 5))
    assert np.allclose(learn.oof.pred_probs, pooled, atol=1e-5)
    table = CleanInterpretation.from_learner(learn).issues.sort_index()
    assert average_precision_score(wrong, -table.label_quality) > .5


def test_flip_averages_the_mirror_image():
    images, masks, _ = squares(np.random.default_rng(0), n=20)
    learn = quiet(Learner(mask_dls(images, masks, 15), mask_net(), CrossEntropyLossFlat(axis=1)))
    both = CleanInterpretation.from_learner(learn, ds_idx=1, tta='flip').probs
    x = torch.cat([b[0] for b in learn.dls.valid])
    with torch.no_grad():
        model = learn.model.eval()
        expected = (model(x).softmax(1) + model(x.flip(-1)).softmax(1).flip(-1))/2
    assert np.allclose(both, expected, atol=1e-6)
    learn.fit(1, cbs=ConfidentLearningCallback(2, tta='flip', mode='folds'))
    assert learn.oof.config['tta'] == 'flip' and learn.oof.done.all()


# tables and plain data sets

@pytest.fixture
def table():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 3)).astype(np.float32)
    a, b, c = x.T
    return pd.DataFrame(x, columns=list('abc')).assign(y=2*a - b, z=c, p=(a > 0)*1., q=(b > 0)*1.)


@pytest.mark.parametrize('y_names, block, task, c', [
    ('y', None, 'regression', 1), (['y', 'z'], None, 'regression', 2), ('y', RegressionBlock(), 'regression', 1),
    (['p', 'q'], MultiCategoryBlock(encoded=True, vocab=['p', 'q']), 'multilabel', 2)])
def test_tables_of_numbers_and_of_several_labels_are_ranked(y_names, block, task, c, table, tmp_path):
    to = TabularPandas(table, [Categorify], [], list('abc'), y_names, y_block=block,
                       splits=(list(range(100)), list(range(100, 120))))
    learn = quiet(tabular_learner(to.dataloaders(bs=20, device='cpu'), layers=[16], n_out=c, path=tmp_path,
                                  loss_func=BCEWithLogitsLossFlat() if task == 'multilabel' else MSELossFlat()))
    learn.fit_one_cycle(2, 1e-2, cbs=ConfidentLearningCallback(2, mode='folds'))
    assert learn.oof.task == task
    interp = CleanInterpretation.from_learner(learn)
    assert len(interp.issues) == 100 and 'a: ' in interp.shown(0)
    out = pd.read_csv(interp.to_csv(tmp_path/'x.csv', only_issues=False))
    assert {'given', 'predicted', 'id'} <= {*out} and ('confidence' in out) == (task == 'multilabel')


class Vectors(torch.utils.data.Dataset):
    "A torch data set whose targets are vectors"
    def __init__(self, n, make): self.n, self.make = n, make
    def __len__(self): return self.n
    def __getitem__(self, i): return PIXELS[i], self.make(i)


@pytest.mark.parametrize('make, task, loss', [
    (lambda i: torch.tensor([float(DIGITS.target[i] % 2), float(DIGITS.target[i] > 4)]), 'multilabel',
     nn.BCEWithLogitsLoss()),
    (lambda i: torch.tensor([DIGITS.target[i]/9., DIGITS.target[i] % 3.]).float(), 'regression', nn.MSELoss()),
    (lambda i: torch.full((8, 8), int(DIGITS.target[i] > 4)), 'segmentation', nn.CrossEntropyLoss())])
def test_plain_data_sets_say_their_task_by_their_targets(make, task, loss):
    model = nn.Sequential(nn.Conv2d(1, 2, 1)) if task == 'segmentation' else net(2)
    dls = DataLoaders(DataLoader(Vectors(40, make), bs=8, shuffle=True), DataLoader(Vectors(20, make), bs=8))
    learn = quiet(Learner(dls, model, loss))
    learn.fit(1, cbs=ConfidentLearningCallback(2, mode='folds'))
    assert learn.oof.task == task and learn.oof.done.all()
    assert len(CleanInterpretation.from_learner(learn).issues) == 40


def test_targets_that_are_all_the_same_are_refused():
    learn = quiet(Learner(block_dls(RegressionBlock(), [1.]*300), net(1), MSELossFlat()))
    with pytest.raises(ValueError, match='all the same'): learn.fit(1, cbs=ConfidentLearningCallback(2, mode='folds'))


def test_rare_labels_are_in_every_fold():
    from fastai_clean.data import fold_numbers
    rng = np.random.default_rng(0)
    labels = rng.random((200, 4)) < [.5, .3, .1, .025]
    folds = fold_numbers(labels, 5)
    counts = np.array([[labels[folds == k, j].sum() for k in range(5)] for j in range(4)])
    assert np.ptp(counts[3]) <= 1 and np.ptp(np.bincount(folds)) <= 1
    high = fold_numbers(np.arange(100.), 4)
    assert [np.arange(100)[high == k].mean() for k in range(4)] == pytest.approx([49.5]*4, abs=2)


@KINDS
def test_every_task_is_logged_to_wandb(kind, all_learned, tmp_path):
    interp = CleanInterpretation.from_learner(all_learned[kind][0])
    with wandb.init(project='test', mode='offline', dir=tmp_path, settings={'silent': True}) as run:
        log_interpretation(interp, run, n_items=5)
    table = json.loads(next(tmp_path.rglob('media/table/*.json')).read_text())
    assert len(table['data']) == 5 and {'id', 'given', 'predicted', 'label_quality'} <= set(table['columns'])
