"Frames, DataLoaders and Learners of Imagenette and MNIST, on small folders in their layout"
import shutil
import sys
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.data.external import URLs
from fastai.layers import ConvLayer
from fastai.losses import CrossEntropyLossFlat, LabelSmoothingCrossEntropy
from fastai.torch_core import params, set_seed
from fastai.vision.learner import vision_learner
from fastai.vision.models import resnet18, resnet34, resnet50, xresnet
from helpers import DIGITS, digit_dls, quiet, tiny_learn
from PIL import Image
from torch import nn

from fastai_clean import datasets, vision
from fastai_clean.all import CleanInterpretation, ConfidentLearningCallback
from fastai_clean.vision import (
    gradual_unfreeze,
    imagenette_dls,
    imagenette_learner,
    imagenette_path,
    imagenette_version,
    mnist_learner,
    noisy_imagenette,
    noisy_mnist,
)

LEVELS = 0, 1, 5, 25, 50
CLASSES = ['n01440764', 'n02102040', 'n02979186']
SMALL = dict(size=32, bs=8, num_workers=0)


def tiny(pretrained=False):
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1))


def convnet(pretrained=False):
    return nn.Sequential(ConvLayer(3, 16, stride=2), ConvLayer(16, 32, stride=2), ConvLayer(32, 32),
                         nn.AdaptiveAvgPool2d(1))


@pytest.fixture(scope='module', params=['nette', 'woof'])
def folder(request, tmp_path_factory):
    "30 images in Imagenette's or Imagewoof's layout; of the training rows each third label is wrong at 25 %"
    root, rows = tmp_path_factory.mktemp(request.param), []
    for i in range(30):
        true, split = i % 3, 'train' if i < 24 else 'val'
        name = f'{split}/{CLASSES[true]}/{CLASSES[true]}_{i}.JPEG'
        (root/name).parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (40, 36), tuple(np.eye(3, dtype=int)[true]*200)).save(root/name)
        labels = [CLASSES[(true + (o == 25 and i < 24 and i // 3 % 3 == 0)) % 3] for o in LEVELS]
        rows.append((name, *labels, split == 'val'))
    df = pd.DataFrame(rows, columns=['path', *(f'noisy_labels_{o}' for o in LEVELS), 'is_valid'])
    df.to_csv(root/f'noisy_image{request.param}.csv', index=False)
    return SimpleNamespace(path=root, df=df, woof=request.param == 'woof', csv=root/f'noisy_image{request.param}.csv')


@pytest.fixture(scope='module')
def mnist(tmp_path_factory):
    "500 training and 80 test digits in the layout of fastai's MNIST"
    root = tmp_path_factory.mktemp('mnist')
    for i in range(580):
        file = root/('training' if i < 500 else 'testing')/str(DIGITS.target[i])/f'{i}.png'
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((DIGITS.images[i]*15.9).astype('uint8')).resize((28, 28)).save(file)
    return root


@pytest.mark.parametrize('level', LEVELS)
def test_frame_has_the_given_and_true_labels_of_the_csv(folder, level):
    df = noisy_imagenette(folder.path, level, woof=folder.woof)
    assert list(df.columns) == ['path', 'label', 'true_label', 'is_valid'] and df.is_valid.dtype == bool
    assert df.label.tolist() == folder.df[f'noisy_labels_{level}'].tolist()
    assert df.true_label.tolist() == folder.df.noisy_labels_0.tolist()
    assert (df.label != df.true_label).sum() == (9 if level == 25 else 0) and df.is_valid.sum() == 6


def test_wrong_argument_or_folder_is_named(folder, tmp_path):
    with pytest.raises(ValueError, match='pct_noise is 7: choose one of 0, 1, 5, 25 and 50'):
        noisy_imagenette(folder.path, 7)
    with pytest.raises(ValueError, match="size is 200: choose one of 160, 320 and 'full'"): imagenette_path(200)
    with pytest.raises(FileNotFoundError, match='noisy_imagenette.csv does not exist'): noisy_imagenette(tmp_path)
    (tmp_path/'noisy_imagenette.csv').write_text('path,noisy_labels_0\na.JPEG,x\n')
    with pytest.raises(ValueError, match='lacks the column is_valid and noisy_labels_5'): noisy_imagenette(tmp_path)
    for name, error, match in (('a.JPEG', FileNotFoundError, '1 of 1 images .* first .*a.JPEG: unpack'),
                               ('../a.JPEG', ValueError, r"names '\.\./a.JPEG', outside its folder"),
                               ('/a.JPEG', ValueError, "names '/a.JPEG', outside its folder")):
        (tmp_path/'noisy_imagenette.csv').write_text(f'path,noisy_labels_0,noisy_labels_5,is_valid\n{name},x,x,False\n')
        with pytest.raises(error, match=match): noisy_imagenette(tmp_path)
    for row, match in (('a.JPEG,,x,False', 'missing values in true_label'), (',x,x,False', 'missing values in path'),
                       ('a.JPEG,x,x,yes', "not booleans, first 'yes'")):
        (tmp_path/'noisy_imagenette.csv').write_text(f'path,noisy_labels_0,noisy_labels_5,is_valid\n{row}\n')
        with pytest.raises(ValueError, match=f'noisy_imagenette.csv is not as it was published: .*{match}'):
            noisy_imagenette(tmp_path)
    (tmp_path/'noisy_imagenette.csv').write_bytes(b'')
    with pytest.raises(ValueError, match='noisy_imagenette.csv is not a CSV'): noisy_imagenette(tmp_path)


@pytest.mark.parametrize('size, woof, url', [(160, False, 'IMAGENETTE_160'), (320, False, 'IMAGENETTE_320'),
                                             ('full', False, 'IMAGENETTE'), (160, True, 'IMAGEWOOF_160'),
                                             (320, True, 'IMAGEWOOF_320'), ('full', True, 'IMAGEWOOF')])
def test_each_version_has_its_own_address(size, woof, url, monkeypatch):
    asked = []
    monkeypatch.setattr(datasets, 'fetch', asked.append)
    imagenette_path(size, woof)
    assert asked == [getattr(URLs, url)]


def test_version_is_the_smallest_that_need_not_be_enlarged():
    assert [imagenette_version(o) for o in (128, 160, 192, 320, 321)] == [160, 160, 320, 320, 'full']


def test_dls_train_on_the_noisy_rows_and_validate_on_the_clean_ones(folder):
    df = noisy_imagenette(folder.path, 25, woof=folder.woof)
    dls = imagenette_dls(df, folder.path, **SMALL)
    given = [dls.vocab[y] for _, y in dls.train_ds]
    assert given == df.label[~df.is_valid].tolist() and list(dls.vocab) == CLASSES
    assert [dls.vocab[y] for _, y in dls.valid_ds] == df.true_label[df.is_valid].tolist()
    assert dls.one_batch()[0].shape == (8, 3, 32, 32)


def test_dls_of_a_frame_without_what_they_need_are_refused(folder):
    df = noisy_imagenette(folder.path, 5, woof=folder.woof)
    with pytest.raises(ValueError, match='df lacks the column is_valid'):
        imagenette_dls(df.drop(columns='is_valid'), folder.path)
    with pytest.raises(ValueError, match=r'only \[False\] in is_valid'): imagenette_dls(df[~df.is_valid], folder.path)
    with pytest.raises(ValueError, match='path is missing: pass the folder'): imagenette_learner(df=df, pretrained=False)
    strange = df.label.where(df.is_valid != True, 'x')  # noqa: E712
    for change, match in ((dict(label=df.label.where(df.index != 3)), r'1 missing values in label, first nan in row 3'),
                          (dict(is_valid=df.is_valid.astype(str)), "not booleans, first '(True|False)' in row 0"),
                          (dict(path=df.index), 'values in path that are not text'),
                          (dict(label=strange), "a label that no training row has, first 'x' in row")):
        with pytest.raises(ValueError, match=match): imagenette_dls(df.assign(**change), folder.path)
    with pytest.raises(TypeError, match='df is a list'): imagenette_dls([1], folder.path)


@pytest.mark.parametrize('arch, function', [('resnet18', resnet18), ('resnet34', resnet34), (resnet50, resnet50),
                                            ('xresnet18', xresnet.xresnet18), ('xse_resnet18', xresnet.xse_resnet18)])
def test_learner_is_the_vision_learner_of_its_architecture(folder, arch, function):
    learn = imagenette_learner(25, arch, pretrained=False, path=folder.path, woof=folder.woof, **SMALL)
    expected = vision_learner(learn.dls, function, pretrained=False)
    assert [o.shape for o in learn.model.parameters()] == [o.shape for o in expected.model.parameters()]
    assert type(learn.loss_func) is CrossEntropyLossFlat and [o.name for o in learn.metrics] == ['accuracy']
    with torch.no_grad(): assert learn.model(learn.dls.one_batch()[0]).shape == (8, 3)


def test_label_smoothing_and_learner_arguments_are_taken(folder):
    kwargs = dict(arch=tiny, pretrained=False, path=folder.path, woof=folder.woof, **SMALL)
    learn = imagenette_learner(label_smoothing=True, metrics=[], cbs=ConfidentLearningCallback(2, mode='folds'), **kwargs)
    assert type(learn.loss_func) is LabelSmoothingCrossEntropy and not learn.metrics
    assert hasattr(learn, 'confident_learning')
    own = CrossEntropyLossFlat()
    assert imagenette_learner(loss_func=own, **kwargs).loss_func is own
    with pytest.raises(ValueError, match='label_smoothing and loss_func are both given'):
        imagenette_learner(label_smoothing=True, loss_func=own, **kwargs)


def test_weights_that_cannot_be_downloaded_are_used_from_where_the_message_says(folder, monkeypatch, tmp_path):
    def down(*args, **kwargs): raise URLError('no route to host')
    monkeypatch.setattr(torch.hub, 'download_url_to_file', down)
    monkeypatch.setattr(torch.hub, '_hub_dir', str(tmp_path))
    kwargs = dict(path=folder.path, woof=folder.woof, **SMALL)
    with pytest.raises(ConnectionError, match='https://.*xrn50_940.pth with the weights of xresnet50'):
        imagenette_learner(arch='xresnet50', **kwargs)
    with pytest.raises(ConnectionError, match='https://.*no route to host') as e:
        imagenette_learner(arch='resnet18', **kwargs)
    file = tmp_path/'checkpoints/resnet18-f37072fd.pth'
    assert f'resnet18-f37072fd.pth elsewhere and put it at {file}' in str(e.value)
    weights = resnet18().state_dict()
    torch.save(weights, file)
    learn = imagenette_learner(arch='resnet18', **kwargs)
    assert torch.equal(learn.model[0][0].weight.cpu(), weights['conv1.weight'])
    assert learn.opt.frozen_idx == len(learn.opt.param_lists) - 1 == 2


def test_architecture_without_weights_or_unknown_is_refused(folder, monkeypatch):
    with pytest.raises(ValueError, match='arch xresnet18 has no published weights: pass pretrained=False'):
        imagenette_learner(arch='xresnet18', path=folder.path)
    monkeypatch.setitem(sys.modules, 'timm', None)
    with pytest.raises(ImportError, match="'convnext_tiny' is not one of fastai's .* pip install timm"):
        imagenette_learner(arch='convnext_tiny', path=folder.path)
    monkeypatch.setitem(sys.modules, 'timm', SimpleNamespace(is_model=lambda o: o == 'convnext_tiny',
                                                                 list_models=lambda: ['convnext_tiny']))
    for name, near in (('resnet43', 'resnet34'), ('convnext_tin', 'convnext_tiny')):
        with pytest.raises(ValueError, match=fr"'{name}' is neither .* \(did you mean {near}\?\)"):
            imagenette_learner(arch=name, path=folder.path)


def test_timm_name_goes_to_vision_learner_as_it_is(folder, monkeypatch):
    asked, real = [], vision_learner
    def spy(dls, arch, **kwargs):
        asked.append(arch)
        return real(dls, tiny, **kwargs)
    monkeypatch.setitem(sys.modules, 'timm', SimpleNamespace(is_model=lambda o: o == 'convnext_tiny'))
    monkeypatch.setattr(vision, 'vision_learner', spy)
    imagenette_learner(arch='convnext_tiny', pretrained=False, path=folder.path, woof=folder.woof, **SMALL)
    assert asked == ['convnext_tiny']


def unfrozen_learn(**kwargs):
    set_seed(3)
    model = nn.Sequential(nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU()),
                          nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 10)))
    learn = tiny_learn(digit_dls(range(60), range(60, 80)), model, **kwargs)
    learn.splitter = lambda m: [params(m[0]), params(m[1][0]), params(m[1][1])]
    return learn


def test_gradual_unfreezing_is_the_fits_of_ulmfit_done_by_hand():
    learn, hand, seen = unfrozen_learn(), unfrozen_learn(), []
    start = [o.detach().clone() for o in learn.model.parameters()]
    set_seed(0)
    gradual_unfreeze(learn, [1, 2, 1], lr=8e-3, lr_mult=10, wd=.1)
    set_seed(0)
    for groups, epochs, lr in ((1, 1, slice(8e-3)), (2, 2, slice(4e-4, 4e-3)), (3, 1, slice(2e-4, 2e-3))):
        hand.freeze_to(-groups)
        hand.fit_one_cycle(epochs, lr, wd=.1)
        seen.append([not torch.equal(o, p) for o, p in zip(start, hand.model.parameters())])
    assert all(torch.equal(o, p) for o, p in zip(learn.model.parameters(), hand.model.parameters()))
    assert learn.opt.frozen_idx == 0 and seen == [[False]*4 + [True]*2, [False]*2 + [True]*4, [True]*6]


@pytest.mark.parametrize('where', ['learner', 'fit'])
def test_gradual_unfreezing_is_followed_by_the_folds(where):
    cb = ConfidentLearningCallback(2, seed=1, mode='folds')
    learn = unfrozen_learn(cbs=cb if where == 'learner' else None)
    gradual_unfreeze(learn, 2, cbs=cb if where == 'fit' else None)
    hand = unfrozen_learn(cbs=ConfidentLearningCallback(2, seed=1, mode='folds'))
    for groups, lr in ((1, slice(2e-3)), (2, slice(1e-5, 1e-3)), (3, slice(5e-6, 5e-4))):
        hand.freeze_to(-groups)
        hand.fit_one_cycle(2, lr)
    assert learn.oof.done.all() and np.array_equal(learn.oof.pred_probs, hand.oof.pred_probs)


def test_gradual_unfreezing_with_another_number_of_epochs_than_groups_is_refused():
    with pytest.raises(ValueError, match='epochs has 2 numbers, but the Learner has 3 groups'):
        gradual_unfreeze(unfrozen_learn(), [1, 2])


@pytest.mark.parametrize('pct', [0, 10, 100])
def test_planted_errors_are_the_wanted_share_of_training_and_move_no_file(mnist, pct):
    files = sorted(mnist.rglob('*'))
    df, again, other = noisy_mnist(mnist, pct), noisy_mnist(mnist, pct), noisy_mnist(mnist, pct, seed=1)
    wrong = df.label != df.true_label
    assert wrong.sum() == 5*pct and not wrong[df.is_valid].any() and df.is_valid.sum() == 80
    assert df.true_label.tolist() == [o.split('/')[1] for o in df.path] and set(df.label) == set('0123456789')
    assert df.equals(again) and (pct == 0 or not df.label.equals(other.label)) and sorted(mnist.rglob('*')) == files


def test_planted_errors_fall_on_every_other_class_alike():
    true = np.repeat(np.array(list('0123456789')), 2000)
    label = datasets._planted(true, .5, 0)
    counts = pd.crosstab(true, label).to_numpy()
    off = counts[~np.eye(10, dtype=bool)]
    assert counts.sum() - np.trace(counts) == 10_000 and abs(off - 10_000/90).max() < 5*np.sqrt(10_000/90)


@pytest.mark.slow
def test_mnist_learner_finds_its_planted_errors(mnist):
    learn = quiet(mnist_learner(mnist, 10, convnet, num_workers=0, bs=32, label_smoothing=True))
    assert type(learn.loss_func) is LabelSmoothingCrossEntropy and learn.dls.one_batch()[0].shape == (32, 3, 28, 28)
    learn.fit_one_cycle(8, 1e-2, cbs=ConfidentLearningCallback(2, mode='folds'))
    issues = CleanInterpretation.from_learner(learn).to_frame(only_issues=False)
    wrong = issues.label != issues.true_label
    assert wrong.sum() == 50 and wrong[:50].sum() >= 35, 'chance is 5'
    assert learn.recorder.values[-1][-1] > .6, 'chance is .1'


def test_image_outside_the_classes_folders_is_named(mnist, tmp_path):
    shutil.copytree(mnist, tmp_path/'mnist')
    file = next((tmp_path/'mnist').rglob('*.png'))
    shutil.copy(file, file.parents[1]/'stray.png')
    with pytest.raises(ValueError, match="stray.png, which is not in the folder of a class"): noisy_mnist(tmp_path/'mnist')


def test_folder_without_mnist_is_named(mnist, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match='lacks images in training and testing'): noisy_mnist(tmp_path)
    (tmp_path/'training').mkdir()
    (tmp_path/'testing').mkdir()
    with pytest.raises(FileNotFoundError, match='lacks images in training and testing'): noisy_mnist(tmp_path)
    with pytest.raises(ValueError, match='pct_noise is 101: pass a percentage'): noisy_mnist(mnist, 101)
    monkeypatch.setattr(datasets, 'fetch', lambda url: mnist)
    with pytest.raises(FileNotFoundError, match='holds 580 images, but MNIST has 70000: delete the folder'):
        noisy_mnist()
    monkeypatch.setattr(datasets, 'MNIST_ITEMS', 580)
    assert len(mnist_learner(arch=tiny, num_workers=0).dls.train_ds) == 500
