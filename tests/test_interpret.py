"CleanInterpretation: one inference, the right items, safe files, and fastai's own methods"
import warnings
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import DIGITS, digit_dls, plant, quiet, tiny_learn
from fastai.callback.core import Callback
from fastai.interpret import ClassificationInterpretation
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.vision.all import ImageDataLoaders, aug_transforms
from PIL import Image
from torch import nn

from fastai_clean.all import CleanInterpretation, ConfidentLearningCallback, OutOfFold, find_issues
from fastai_clean.interpret.show import readable

N = 200


class Forwards(Callback):
    "Counts the items that went through the model"
    order, seen = 5, 0
    def after_pred(self): self.seen += len(self.pred)


@pytest.fixture(scope='module')
def trained():
    "A Learner that learned digits of which 15 % are labelled wrong, and the mask of those"
    torch.manual_seed(0)
    labels, wrong = plant(DIGITS.target, .15)
    learn = tiny_learn(digit_dls(range(N), range(N, N + 60), labels, shuffle=True))
    learn.fit_one_cycle(15, 2e-2, cbs=ConfidentLearningCallback(4))
    return learn, wrong


def test_training_set_with_oof_uses_it_without_inference(trained):
    learn, wrong = trained
    with learn.added_cbs(count := Forwards()):
        interp = CleanInterpretation.from_learner(learn)
        interp.confusion_matrix()
        interp.find_issues('both', 'normalized_margin')
        interp.plot_noisy()
        interp.top_losses(5)
        assert count.seen == 0
    assert np.array_equal(interp.preds, learn.oof.pred_probs)
    assert np.allclose(interp.losses, -np.log(learn.oof.pred_probs[range(N), learn.oof.targets]))
    assert interp.find_issues().equals(find_issues(learn.oof.targets, learn.oof.pred_probs, items=learn.oof.items,
                                                   vocab=learn.oof.vocab))
    flagged = interp.noisy_idxs()
    assert wrong[:N][flagged].mean() > .6 and wrong[:N][flagged].sum() > .6*wrong[:N].sum()


def test_validation_set_is_predicted_once_and_equals_get_preds(trained):
    learn, wrong = trained
    with learn.added_cbs(count := Forwards()):
        interp = CleanInterpretation.from_learner(learn, ds_idx=1)
        interp.confusion_matrix()
        interp.most_confused()
        interp.plot_noisy()
        interp.print_classification_report()
        interp[range(4)]
        assert count.seen == 60
    preds, targs = learn.get_preds()
    assert torch.equal(interp.preds, preds) and torch.equal(interp.targs, targs)
    fastai = ClassificationInterpretation.from_learner(learn)
    assert torch.allclose(fastai.losses, interp.losses) and np.array_equal(fastai.confusion_matrix(),
                                                                            interp.confusion_matrix())
    assert fastai.most_confused() == interp.most_confused()
    for i in interp.noisy_idxs(): assert int(learn.dls.valid_ds[i][1]) == interp.issues.given[i]


def test_test_set_given_as_items_is_checked(trained):
    learn, _ = trained
    dl = learn.dls.test_dl(list(range(300, 340)), with_labels=True)
    interp = CleanInterpretation.from_learner(learn, dl=dl)
    assert len(interp.issues) == 40
    with pytest.raises(TypeError, match='with_labels=True'):
        CleanInterpretation.from_learner(learn, dl=learn.dls.test_dl(list(range(300, 340))))


def test_training_loader_given_as_dl_is_read_in_order(trained):
    learn, _ = trained
    interp = CleanInterpretation.from_learner(learn, dl=learn.dls.train)
    assert np.array_equal(interp.targs, learn.oof.targets) and interp.items == learn.oof.items


def test_training_set_without_oof_warns_that_it_is_in_sample():
    learn = tiny_learn(digit_dls(range(40), range(40, 60)))
    with pytest.warns(UserWarning, match='in-sample'): CleanInterpretation.from_learner(learn, ds_idx=0)
    with warnings.catch_warnings():
        warnings.filterwarnings('error', '.*in-sample')
        assert len(CleanInterpretation.from_learner(learn).issues) == 20


def test_loss_without_reduction_gives_log_losses():
    learn = tiny_learn(digit_dls(range(40), range(40, 60)), loss_func=lambda p, y: nn.functional.cross_entropy(p, y))
    with pytest.raises(ValueError, match='pass act='): CleanInterpretation.from_learner(learn)
    interp = CleanInterpretation.from_learner(learn, act=partial(torch.softmax, dim=-1))
    assert torch.allclose(interp.losses, -interp.preds[range(20), interp.targs].log())


def test_oof_of_another_training_set_is_refused(trained):
    learn, _ = trained
    oof, mine = learn.oof, learn.oof.targets
    try:
        learn.oof = OutOfFold(oof.pred_probs[:9], mine[:9])
        with pytest.raises(ValueError, match='9 items, which are not the 200'): CleanInterpretation.from_learner(learn)
        learn.oof = OutOfFold(oof.pred_probs, (mine + 1) % 10, items=oof.items)
        with pytest.raises(ValueError, match='200 of 200 differ'): CleanInterpretation.from_learner(learn)
        with pytest.raises(ValueError, match='ds_idx is 4'): CleanInterpretation.from_learner(learn, ds_idx=4)
    finally: learn.oof = oof


@pytest.fixture(scope='module')
def images(digit_folder):
    root, df = digit_folder
    df = df.assign(label=np.where(np.arange(80) % 10 == 0, '<b>$x$', df.label), note='kept')
    dls = ImageDataLoaders.from_df(df, root, bs=16, num_workers=0, device='cpu', batch_tfms=aug_transforms(size=12))
    learn = quiet(Learner(dls, nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
                                             nn.Linear(32, dls.c)), CrossEntropyLossFlat()))
    learn.fit(2, 1e-2, cbs=ConfidentLearningCallback(2))
    return learn, df, root


def test_items_are_shown_without_augmentation(images):
    learn, df, root = images
    interp = CleanInterpretation.from_learner(learn)
    i = int(interp.issues.index[0])
    path = root/learn.dls.train_ds.items.path.iloc[i]
    assert np.array_equal(interp.shown(i), np.asarray(Image.open(path).convert('RGB')))
    assert torch.equal(interp[[i]][0], interp[[i]][0])


def test_titles_say_given_and_predicted_label_confidence_and_quality(images):
    interp = CleanInterpretation.from_learner(images[0])
    axs, rows = interp.plot_noisy(6, ncols=3), interp.issues[interp.issues.is_issue].head(6)
    assert len(axs) == len(rows)
    for ax, o in zip(axs, rows.itertuples()):
        assert ax.get_title() == (f'given {o.given} → predicted {o.predicted}\n'
                                  f'confidence {o.confidence:.2f}  quality {o.label_quality:.3f}')
    axs[0].figure.canvas.draw()


def test_csv_has_the_frames_columns_then_predictions_and_confidence(images, tmp_path):
    learn, df, _ = images
    interp = CleanInterpretation.from_learner(learn)
    out = pd.read_csv(interp.to_csv(tmp_path/'noisy.csv'), dtype={'predictions': str})
    assert list(out.columns) == ['path', 'label', 'note', 'predictions', 'confidence']
    flagged = interp.noisy_idxs()
    assert list(out.path) == list(learn.dls.train_ds.items.path.iloc[flagged])
    assert list(out.label) == list(interp.issues.given[flagged])
    assert list(out.predictions) == list(interp.issues.predicted[flagged])
    with pytest.raises(FileExistsError, match='overwrite=True'): interp.to_csv(tmp_path/'noisy.csv')
    everything = interp.to_csv(tmp_path/'noisy.csv', only_issues=False, overwrite=True)
    assert len(pd.read_csv(everything)) == len(interp.issues)
    with pytest.raises(OSError): interp.to_csv(tmp_path/'no folder'/'noisy.csv')
    assert [o.name for o in tmp_path.iterdir()] == ['noisy.csv']


def test_fastais_pictures_work_on_it(images):
    interp = CleanInterpretation.from_learner(images[0])
    interp.plot_top_losses(3)
    interp.plot_confusion_matrix()
    interp.plot_top_losses([0, 2])
    interp.print_classification_report()
    interp.show_results([0, 1])


def test_nothing_found_warns_and_shows_nothing():
    learn = tiny_learn(digit_dls(range(40), range(40, 50)))
    learn.oof = OutOfFold.from_arrays([int(learn.dls.train_ds[i][1]) for i in range(40)],
                                      np.eye(10)[[int(learn.dls.train_ds[i][1]) for i in range(40)]])
    with pytest.raises(ValueError, match='not the 40'):
        learn.oof.items = ['x']*40
        CleanInterpretation.from_learner(learn)
    learn.oof.items = [str(i) for i in range(40)]
    with pytest.warns(UserWarning, match='no label issues'): assert not len(
        CleanInterpretation.from_learner(learn).plot_noisy())


@pytest.mark.parametrize('tokens, text', [
    ('xxbos xxmaj we xxup wow xxrep 3 ! ok', 'We WOW !!! ok'), ('xxwrep 2 no xxunk', 'no no xxunk'), ('xxmaj', ''),
    ('xxrep 999999999 a', 'a'*100), ('xxrep x y', 'xxrep x y')])
def test_texts_are_shown_as_people_write_them(tokens, text): assert readable(tokens.split()) == text
