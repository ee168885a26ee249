"CleanInterpretation: one inference, the right items, safe files, and fastai's own methods"
import sys
import warnings
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import sklearn.metrics as skm
import torch
from fastai.interpret import ClassificationInterpretation
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.tabular.all import Categorify, FillMissing, Normalize, TabularPandas, tabular_learner
from fastai.text.all import TextDataLoaders
from fastai.vision.all import ImageDataLoaders, Resize, aug_transforms
from fastcore.foundation import L
from helpers import DIGITS, Forwards, digit_dls, plant, quiet, tiny_learn
from PIL import Image
from torch import nn

from fastai_clean._text import as_written
from fastai_clean.all import CleanInterpretation, ConfidentLearningCallback, OutOfFold, find_issues
from fastai_clean.data.show import readable
from fastai_clean.issues import noise_rate
from fastai_clean.plots import Unreadable

N = 200


def test_public_names_are_documented_and_come_from_no_mixin():
    assert CleanInterpretation.__bases__ == (ClassificationInterpretation,)
    names = {o for o in vars(CleanInterpretation) if not o.startswith('_')}
    assert names == {
        'preds', 'targs', 'decoded', 'from_learner', 'compare', 'find_issues', 'noisy_idxs', 'joint',
        'noise_rate', 'agreement', 'health_score', 'health', 'top_pairs', 'weakness',
        'rows',
        'class_issues', 'confusion_matrix', 'print_classification_report', 'evaluate', 'audit',
        'shown', 'plot_noisy', 'plot_confident_joint', 'plot_noise_matrix', 'plot_confusion_matrix',
        'plot_quality', 'plot_class_health', 'plot_estimate', 'estimate', 'annotators', 'to_frame', 'to_csv', 'to_parquet', 'to_review',
        'report', 'review'}
    assert all(getattr(CleanInterpretation, o).__doc__ for o in names)


@pytest.fixture(scope='module')
def trained():
    "A Learner that learned digits of which 15 % are labelled wrong, and the mask of those"
    torch.manual_seed(0)
    labels, wrong = plant(DIGITS.target, .15)
    learn = tiny_learn(digit_dls(range(N), range(N, N + 60), labels, shuffle=True))
    learn.fit_one_cycle(15, 2e-2, cbs=ConfidentLearningCallback(4, mode='folds'))
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
    assert interp.find_issues().equals(find_issues(learn.oof.targets, learn.oof.pred_probs, ids=learn.oof.ids,
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
    with pytest.raises(TypeError, match='dl is a DataFrame'): CleanInterpretation.from_learner(learn, dl=pd.DataFrame())


def test_training_loader_given_as_dl_is_read_in_order(trained):
    learn, _ = trained
    interp = CleanInterpretation.from_learner(learn, dl=learn.dls.train)
    assert np.array_equal(interp.targs, learn.oof.targets) and interp.ids == learn.oof.ids


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
        learn.oof = OutOfFold(oof.pred_probs, (mine + 1) % 10, ids=oof.ids)
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
    learn.fit(2, 1e-2, cbs=ConfidentLearningCallback(2, mode='folds'))
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
                                  f'conf {o.confidence:.2f}  quality {o.label_quality:.3f}  #{o.Index}')
    axs[0].figure.canvas.draw()


def test_csv_has_the_frames_columns_then_given_predicted_confidence_and_id(images, tmp_path):
    learn, df, _ = images
    interp = CleanInterpretation.from_learner(learn)
    out = pd.read_csv(interp.to_csv(tmp_path/'noisy.csv'), dtype=str)
    assert list(out.columns) == ['path', 'label', 'note', 'given', 'predicted', 'confidence', 'label_quality',
                                 'is_issue', 'id']
    flagged = interp.noisy_idxs()
    assert list(out.path) == list(learn.dls.train_ds.items.path.iloc[flagged])
    assert list(out.label) == list(interp.issues.given[flagged])
    assert list(out.predicted) == list(interp.issues.predicted[flagged])
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
        learn.oof.ids = ['x']*40
        CleanInterpretation.from_learner(learn)
    learn.oof.ids = [str(i) for i in range(40)]
    with pytest.warns(UserWarning, match='no label issues'): assert not len(
        CleanInterpretation.from_learner(learn).plot_noisy())


@pytest.mark.parametrize('tokens, text', [
    ('xxbos xxmaj we xxup wow xxrep 3 ! ok', 'We WOW !!! ok'), ('xxwrep 2 no xxunk', 'no no xxunk'), ('xxmaj', ''),
    ('xxrep 999999999 a', 'a'*100), ('xxrep x y', 'xxrep x y')])
def test_texts_are_shown_as_people_write_them(tokens, text): assert readable(tokens.split()) == text


# rankings

def test_any_score_and_ensembles_rank_the_items(trained):
    interp = CleanInterpretation.from_learner(trained[0], score=['self_confidence', 'normalized_margin'])
    oof = trained[0].oof
    assert interp.issues.equals(find_issues(oof.targets, oof.pred_probs, score=['self_confidence', 'normalized_margin'],
                                            ids=oof.ids, vocab=oof.vocab))
    own = np.arange(N)[::-1].astype(float)
    assert list(interp.find_issues(score=own).index) == list(range(N))[::-1]


def test_temperature_makes_the_given_labels_likeliest(trained):
    plain = CleanInterpretation.from_learner(trained[0])
    scaled = CleanInterpretation.from_learner(trained[0], calibrate='temperature')

    def loss(interp): return -np.log(interp.probs[range(N), interp.given]).mean()
    assert loss(scaled) < loss(plain) and scaled.how['temperature'] > 0
    assert np.array_equal(scaled.predicted, plain.predicted)
    assert np.array_equal(trained[0].oof.pred_probs, plain.probs)
    with pytest.raises(ValueError, match="calibrate is 'isotonic'"):
        CleanInterpretation.from_learner(trained[0], calibrate='isotonic')


def test_flip_of_inputs_that_are_no_images_is_refused(tmp_path):
    df = pd.DataFrame({'a': np.arange(60.), 'y': list('xyz')*20})
    to = TabularPandas(df, [Categorify], [], ['a'], 'y', splits=(list(range(40)), list(range(40, 60))))
    learn = quiet(tabular_learner(to.dataloaders(bs=8, device='cpu'), layers=[4], path=tmp_path))
    with pytest.raises(TypeError, match="tta is 'flip'"): CleanInterpretation.from_learner(learn, tta='flip')
    with pytest.raises(TypeError, match="tta is 'flip'"): learn.fit(1, cbs=ConfidentLearningCallback(2, tta='flip', mode='folds'))
    with pytest.raises(ValueError, match="tta is 'turn'"): CleanInterpretation.from_learner(learn, tta='turn')


# tables

def test_tables_agree_with_the_issue_table(trained):
    learn, wrong = trained
    interp = CleanInterpretation.from_learner(learn)
    health, pairs = interp.health(), interp.top_pairs(None)
    assert health['items'].sum() == N and len(health) == 10
    assert health.estimated_wrong.sum() == pytest.approx((1 - interp.health_score)*N, abs=10)
    assert pairs['count'].sum() <= interp.issues.is_issue.sum() and (pairs.given != pairs.predicted).any()
    assert interp.health_score == pytest.approx((~wrong[:N]).mean(), abs=.15)
    assert interp.noise_rate == noise_rate(interp.given, interp.probs) == pytest.approx(wrong[:N].mean(), abs=.1)
    assert np.array_equal(interp.confusion_matrix(), skm.confusion_matrix(interp.given, interp.predicted,
                                                                          labels=range(10)))


def test_compare_gives_a_row_a_set(trained):
    learn, _ = trained
    test = learn.dls.test_dl(list(range(300, 340)), with_labels=True)
    table = CleanInterpretation.compare(learn, test=test)
    assert list(table.index) == ['train', 'valid', 'test'] and list(table['items']) == [N, 60, 40]
    assert list(table.probabilities) == ['out-of-fold', 'held-out', 'held-out']
    interp = CleanInterpretation.from_learner(learn, ds_idx=1)
    assert table.noise_rate['valid'] == interp.noise_rate and table.n_issues['valid'] == len(interp.noisy_idxs())
    first = CleanInterpretation.from_learner(learn).top_pairs(1).iloc[0]
    assert table.agreement['valid'] == (interp.given == interp.predicted).mean()
    assert table.worst_pairs['train'].startswith(f'{first.given} → {first.predicted} ({first["count"]})')
    assert list(CleanInterpretation.compare(learn, {'a': test, 'b': test}).index) == ['train', 'valid', 'a', 'b']


def test_evaluation_warns_and_says_how_much_the_model_is_flattered(trained):
    learn, wrong = trained
    interp = CleanInterpretation.from_learner(learn, ds_idx=1)
    with pytest.warns(UserWarning, match='flatter the model'): table = interp.evaluate(n_boot=200)
    value = table.set_index(['labels', 'metric']).value
    assert value['as given', 'accuracy'] == pytest.approx((interp.given == interp.predicted).mean())
    given = value['as given', 'accuracy']
    assert value['flagged left out', 'accuracy'] > given < value['flagged corrected', 'accuracy']
    assert ((table.low <= table.value) & (table.value <= table.high)).all() and set(table['items']) == {
        60, 60 - len(interp.noisy_idxs())}
    true = {i: interp.vocab[int(DIGITS.target[N + i])] for i in range(60)}
    with pytest.warns(UserWarning): honest = interp.evaluate(true, n_boot=50).set_index(['labels', 'metric']).value
    right = (interp.predicted == DIGITS.target[N:N + 60]).mean()
    assert honest['corrected by a reviewer', 'accuracy'] == pytest.approx(right)
    with pytest.raises(ValueError, match='position 99'): interp.evaluate({99: 1})
    with pytest.raises(ValueError, match="label 'x'"): interp.evaluate({0: 'x'})
    with pytest.raises(TypeError, match='metrics is a function'): interp.evaluate(metrics=skm.accuracy_score)
    with pytest.raises(TypeError, match='corrections is a list'): interp.evaluate(corrections=[1, 2])


def test_audit_joins_its_columns_and_they_stay(trained):
    learn, _ = trained
    interp = CleanInterpretation.from_learner(learn)
    with learn.added_cbs(count := Forwards()):
        table = interp.audit()
        interp.audit()
        assert count.seen == N
    assert interp.features.shape == (N, 24)
    assert {'is_outlier_issue', 'outlier_score', 'is_near_duplicate_issue', 'is_label_issue'} <= set(table)
    assert list(table.columns[:6]) == ['id', 'given', 'predicted', 'confidence', 'label_quality', 'is_issue']
    assert np.array_equal(table.label_score.sort_index(), table.label_quality.sort_index())
    assert {o['issue_type'] for o in table.attrs['summary']} >= {'label', 'outlier', 'near_duplicate'}
    assert 'is_outlier_issue' in interp.find_issues('both') and table is not interp.issues
    with learn.added_cbs(count := Forwards()):
        CleanInterpretation.from_learner(learn, ds_idx=1).audit()
        assert count.seen == 60


def test_audit_without_cleanvision_checks_the_rest(images, monkeypatch):
    monkeypatch.setattr('fastai_clean.interpret.tables.find_spec', lambda _: None)
    table = CleanInterpretation.from_learner(images[0], ds_idx=1).audit()
    assert 'is_outlier_issue' in table and 'is_dark_issue' not in table


def test_audit_sees_the_image_files(images):
    table = CleanInterpretation.from_learner(images[0], ds_idx=1).audit()
    assert {'is_dark_issue', 'is_blurry_issue', 'image_error'} <= set(table) and table.dark_score.notna().all()


# pictures and files

def test_every_picture_returns_its_axes(trained):
    interp = CleanInterpretation.from_learner(trained[0])
    for name in ('confident_joint', 'noise_matrix', 'confusion_matrix', 'class_health'):
        assert isinstance(getattr(interp, f'plot_{name}')(), plt.Axes)
    assert interp.plot_confusion_matrix(normalize=True, plot_txt=False, title='t').get_title() == 't'
    axs = interp.plot_quality(max_classes=4)
    assert len(axs) == 4
    thresholds = {round(line.get_xdata()[0], 6) for ax in axs for line in ax.lines}
    means = {round(float(interp.probs[interp.given == k, k].mean()), 6) for k in range(10)}
    assert thresholds and thresholds <= means


def test_parquet_holds_what_the_csv_holds(images, tmp_path):
    interp = CleanInterpretation.from_learner(images[0])
    a = pd.read_csv(interp.to_csv(tmp_path/'a.csv'), dtype=str)
    b = pd.read_parquet(interp.to_parquet(tmp_path/'a.parquet'))
    assert list(a.columns) == list(b.columns) and list(a.path) == list(b.path)
    assert np.allclose(a.confidence.astype(float), b.confidence)
    with pytest.raises(FileExistsError, match='overwrite=True'): interp.to_parquet(tmp_path/'a.parquet')


def test_parquet_without_its_extra_names_the_command(images, tmp_path, monkeypatch):
    interp = CleanInterpretation.from_learner(images[0])
    monkeypatch.setitem(sys.modules, 'pyarrow', None)
    with pytest.raises(ImportError, match=r"pip install 'fastai_clean\[parquet\]'"):
        interp.to_parquet(tmp_path/'a.parquet')


@pytest.mark.slow
def test_report_is_one_file_with_everything(images, tmp_path):
    learn, _, _ = images
    interp = CleanInterpretation.from_learner(learn)
    with learn.added_cbs(count := Forwards()):
        path = interp.report(tmp_path/'r.html', n=7)
        assert count.seen == 0
    text = path.read_text(encoding='utf-8')
    assert text.count('<li class="image">') == 7 and '&lt;b&gt;$x$' in text and '<b>$x$' not in text
    assert 'out-of-fold' in text and 'Metrics of the folds' in text and text.count('<figure>') == 5
    with pytest.raises(FileExistsError, match='overwrite=True'): interp.report(path)
    with pytest.raises(IsADirectoryError, match='is a folder'): interp.report(tmp_path, overwrite=True)
    with pytest.raises(FileNotFoundError, match='make .*none first'): interp.report(tmp_path/'none'/'r.html')
    assert [o.name for o in tmp_path.iterdir()] == ['r.html'] and not plt.get_fignums()
    valid = CleanInterpretation.from_learner(learn, ds_idx=1).report(tmp_path/'v.html').read_text()
    assert 'flatters the model' in valid


def odd_images(folder):
    "One image of each kind that loaders trip over: name -> what is wrong with it"
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[:, :15, 0] = 255
    image = Image.fromarray(pixels)
    image.save(folder/'plain.png')
    image.convert('L').save(folder/'gray.png')
    image.convert('CMYK').save(folder/'cmyk.jpg')
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(folder/'turned.jpg', exif=exif)
    image.save(folder/'corrupt.png')
    image.save(folder/'missing.png')
    Image.fromarray((pixels[..., 0].astype(np.uint16)*200)).save(folder/'deep.png')
    return ['plain.png', 'gray.png', 'cmyk.jpg', 'turned.jpg', 'corrupt.png', 'missing.png', 'deep.png']


def test_images_that_cannot_be_shown_give_the_reason_and_turned_ones_are_upright(tmp_path):
    names = odd_images(tmp_path)
    df = pd.DataFrame({'path': names*6, 'label': list('abbaaba')*6, 'is_valid': [False]*35 + [True]*7})
    dls = ImageDataLoaders.from_df(df, tmp_path, valid_col='is_valid', bs=8, num_workers=0, device='cpu',
                                   item_tfms=Resize(16))
    learn = quiet(Learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(768, 2)), CrossEntropyLossFlat()))
    learn.fit(1, cbs=ConfidentLearningCallback(2, mode='folds'))
    (tmp_path/'corrupt.png').write_bytes(b'\x89PNG\r\n\x1a\nnothing')
    (tmp_path/'missing.png').unlink()
    interp = CleanInterpretation.from_learner(learn)
    shown = {n: interp.shown(list(dls.train_ds.items.path).index(n)) for n in names}
    assert shown['plain.png'].shape == (20, 30, 3) and shown['gray.png'].shape == (20, 30, 3)
    assert shown['cmyk.jpg'].shape == (20, 30, 3) and shown['deep.png'].shape[:2] == (20, 30)
    assert shown['turned.jpg'].shape == (30, 20, 3) and shown['turned.jpg'][2, :, 0].mean() > 200
    assert isinstance(shown['missing.png'], Unreadable) and 'FileNotFoundError' in shown['missing.png']
    assert isinstance(shown['corrupt.png'], Unreadable) and 'UnidentifiedImageError' in shown['corrupt.png']
    interp.find_issues(num_to_remove_per_class=[15, 15])
    axs = interp.plot_noisy(30)
    axs[0].figure.canvas.draw()
    text = interp.report(tmp_path/'r.html', n=35).read_text(encoding='utf-8')
    assert text.count('<li class="missing">') == 10 and text.count('<li class="image">') == 25


# review

def test_decisions_are_applied_to_the_learners_data(trained, tmp_path):
    learn, wrong = trained
    interp = CleanInterpretation.from_learner(learn)
    session = interp.review(tmp_path/'decisions.jsonl', user='ada')
    ids = dict(zip(session.issues['id'], session.ids))
    flagged = interp.noisy_idxs()
    for i in flagged[1:]: session.relabel(ids[str(i)], interp.vocab[int(DIGITS.target[i])])
    session.delete(ids[str(flagged[0])])
    assert session.progress()['reviewed'] == session.progress()['flagged'] == len(flagged)
    again = interp.review(tmp_path/'decisions.jsonl', user='ada')
    assert again.state == session.state and len(again.decisions) == len(flagged)
    dls = again.apply_dls(learn)
    kept = [int(o) for o in dls.train_ds.items]
    assert len(kept) == N - 1 and flagged[0] not in kept and len(learn.dls.train_ds) == N
    labels = {i: int(dls.train_ds[k][1]) for k, i in enumerate(kept)}
    assert all(labels[i] == DIGITS.target[i] for i in flagged[1:])
    assert (np.array([labels[i] for i in kept]) != DIGITS.target[kept]).sum() < wrong[:N].sum()/2


# what attackers found

def test_texts_come_with_their_own_labels_and_probabilities(tmp_path):
    rng = np.random.default_rng(0)
    text = [' '.join(rng.choice(list('abcdefgh'), rng.integers(2, 40))) for _ in range(60)]
    df = pd.DataFrame({'text': text, 'label': list('xyz')*20, 'is_valid': [False]*30 + [True]*30})
    dls = TextDataLoaders.from_df(df, text_col='text', label_col='label', valid_col='is_valid', bs=8, num_workers=0)
    net = nn.Sequential(nn.Embedding(40, 8), Mean(), nn.Linear(8, 3))
    interp = CleanInterpretation.from_learner(quiet(Learner(dls, net, CrossEntropyLossFlat())))
    idxs = [3, 17, 5, 20, *range(21, 30)]
    inps, probs, targs, decoded, losses = interp[idxs]
    assert torch.equal(probs, interp.preds[idxs]) and torch.equal(targs, interp.targs[idxs])
    for row, i in zip(inps, idxs):
        own = dls.valid_ds[i][0]
        assert torch.equal(row[row != 1], own) and len(row) >= len(own)
    mask = np.isin(np.arange(30), [2, 9])
    assert len(interp[mask][0]) == len(interp[mask][1]) == 2
    with pytest.raises(IndexError, match='idxs is empty'): interp[[]]


class Mean(nn.Module):
    def forward(self, x): return x.mean(1)


def test_looking_leaves_the_record_and_the_random_state():
    learn = tiny_learn(digit_dls(range(100), range(100, 150)))
    learn.fit(1, cbs=ConfidentLearningCallback(2, mode='folds'))
    torch.manual_seed(3)
    state, record = torch.get_rng_state(), {k: list(getattr(learn.recorder, k)) for k in ('losses', 'values', 'lrs')}
    interp = CleanInterpretation.from_learner(learn, ds_idx=1, tta=None)
    interp[[0, 1]], interp.audit(), CleanInterpretation.compare(learn)
    assert torch.equal(state, torch.get_rng_state()) and record['losses']
    assert all(list(getattr(learn.recorder, k)) == v for k, v in record.items())


def test_sets_are_recognised_however_they_are_given(trained):
    learn, _ = trained
    for where in (dict(dl=learn.dls.train.new(shuffle=False)), dict(ds_idx=-2)):
        assert CleanInterpretation.from_learner(learn, **where).how['probabilities'] == 'out-of-fold'
    assert CleanInterpretation.from_learner(learn, dl=learn.dls.valid).how['data set'] == 'validation set'
    with pytest.raises(ValueError, match="name 'valid'"):
        CleanInterpretation.compare(learn, {'valid': learn.dls.valid})


def test_series_of_scores_is_read_by_position(trained):
    interp = CleanInterpretation.from_learner(trained[0])
    first, quality = list(interp.issues.index), interp.issues.label_quality
    assert list(interp.find_issues(score=quality).index) == first
    with pytest.raises(ValueError, match='whose index is not the positions'): interp.find_issues(
        score=quality.set_axis(range(5, 5 + N)))


def test_set_of_one_class_is_named():
    learn = tiny_learn(digit_dls(range(40), np.flatnonzero(DIGITS.target == 3)[:9]))
    with pytest.raises(ValueError, match='labels has only 3'): CleanInterpretation.from_learner(learn)


def written(df, folder):
    "An interpretation of images whose frame is `df`, all of it issues"
    dls = ImageDataLoaders.from_df(df, folder, bs=16, num_workers=0, valid_pct=.5, seed=0, device='cpu')
    learn = quiet(Learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(768, dls.c)), CrossEntropyLossFlat()))
    return CleanInterpretation.from_learner(learn)


def test_csv_reads_back_whatever_the_values(digit_folder, tmp_path):
    root, df = digit_folder
    note = ['a\rb', 'c\nd', 'e"f', 'g,h', '', 'i\r\nj', '=1+1', '\u202e']*10
    interp = written(df.assign(label=list('ab')*40, note=note, predicted='mine', predicted_1='mine too'), root)
    for name in ('a.csv', 'a.csv.gz'):
        back = pd.read_csv(interp.to_csv(tmp_path/name, only_issues=False), keep_default_na=False, dtype=str,
                           lineterminator=None)
        assert len(back) == 40 and list(map(as_written, back.note)) == [note[i] for i in interp.dl.dataset.items.index[
            interp.issues.index]]
        assert list(back.columns)[-8:] == ['predicted_2', 'predicted_1', 'given', 'predicted',
                                          'confidence', 'label_quality', 'is_issue', 'id']
        assert set(back.predicted_2) == {'mine'} and '=1+1' not in set(back.note)


@pytest.mark.slow
def test_names_that_are_no_text_for_utf8_are_written(trained, tmp_path):
    interp = CleanInterpretation.from_learner(trained[0])
    interp.vocab, interp.ids = L(f'\udce9{i}' for i in range(10)), [f'\udcff{i}' for i in range(N)]
    interp.find_issues()
    assert interp.health().index[0].startswith('\udce9') and interp.top_pairs().given[0].startswith('\udce9')
    back = pd.read_csv(interp.to_csv(tmp_path/'a.csv'))
    assert list(back.path) == [f'\\udcff{i}' for i in interp.noisy_idxs()]
    assert len(pd.read_parquet(interp.to_parquet(tmp_path/'a.parquet'))) == len(back)
    assert 'udcff' not in interp.report(tmp_path/'a.html', n=3).read_text(encoding='utf-8')


def test_files_of_others_are_never_replaced(trained, tmp_path, monkeypatch):
    interp = CleanInterpretation.from_learner(trained[0])
    frame = interp.to_frame()
    def slow(only_issues):
        (tmp_path/'a.csv').write_text('theirs')
        return frame
    monkeypatch.setattr(interp, 'to_frame', slow)
    with pytest.raises(FileExistsError, match='overwrite=True'): interp.to_csv(tmp_path/'a.csv')
    assert (tmp_path/'a.csv').read_text() == 'theirs' and len(list(tmp_path.iterdir())) == 1
    monkeypatch.undo()
    (tmp_path/'a.csv').chmod(0o600)
    (tmp_path/'link.csv').symlink_to(tmp_path/'a.csv')
    interp.to_csv(tmp_path/'link.csv', overwrite=True)
    assert (tmp_path/'link.csv').is_symlink() and 'predicted' in (tmp_path/'a.csv').read_text()
    assert (tmp_path/'a.csv').stat().st_mode & 0o777 == 0o600
    (tmp_path/'dangling.csv').symlink_to(tmp_path/'none.csv')
    with pytest.raises(FileExistsError): interp.to_csv(tmp_path/'dangling.csv')
    with pytest.raises(ValueError, match='n is 0'): interp.report(tmp_path/'r.html', n=0)


def test_missing_values_of_a_table_stay_missing(tmp_path):
    df = pd.DataFrame({'age': [1., np.nan, 3., 4.]*20, 'city': ['a', 'b', None, 'a']*20, 'y': list('xy')*40})
    to = TabularPandas(df, [Categorify, FillMissing, Normalize], ['city'], ['age'], 'y',
                       splits=(list(range(60)), list(range(60, 80))))
    learn = quiet(tabular_learner(to.dataloaders(bs=8, device='cpu'), layers=[4], path=tmp_path))
    back = pd.read_csv(CleanInterpretation.from_learner(learn).to_csv(tmp_path/'a.csv', only_issues=False))
    assert list(back.columns) == ['age', 'city', 'y', 'given', 'predicted', 'confidence', 'label_quality',
                                  'is_issue', 'id']
    assert back.age.isna().sum() == 5 and back.city.isna().sum() == 5
    assert set(back.age.dropna().round(4)) == {1, 3, 4}
