"The size at which a body sees pictures"
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fastai.vision.core import TensorImage
from torch import nn
from torchvision.models import resnet18, vit_b_16

from fastai_clean.oof.own_size import ImageSize, at_size, image_size

LEARN = SimpleNamespace()


def net(**attrs):
    model = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1)), nn.Flatten())
    for k, v in attrs.items(): setattr(model[0], k, v)
    return model.eval()


@pytest.mark.parametrize('attrs, wanted', [
    (dict(default_cfg={'input_size': (3, 224, 192)}), 192),
    (dict(pretrained_cfg=SimpleNamespace(input_size=(3, 288, 288)), default_cfg={'input_size': (3, 224, 224)}), 288),
    (dict(config=SimpleNamespace(image_size=384)), 384), (dict(config=SimpleNamespace(image_size=[96, 128])), 96),
    (dict(_global_params=SimpleNamespace(image_size=280)), 280), (dict(config=SimpleNamespace(hidden_size=4)), None),
    (dict(default_cfg={}), None), (dict(config={'image_size': None}), None), ({}, None)])
def test_configuration_names_the_size(attrs, wanted):
    size = image_size(LEARN, net(**attrs))
    assert size.pixels == wanted and not size.wanted
    assert 'of 0' in size.reason if wanted else 'names no size' in size.reason


@pytest.mark.parametrize('arch, pretrained, wanted', [
    (resnet18, True, 224), (vit_b_16, True, 224), (resnet18, False, None), ('resnet18d', True, None), (net, True, None)])
def test_torchvision_weights_name_the_size(arch, pretrained, wanted):
    assert image_size(SimpleNamespace(arch=arch, pretrained=pretrained), net()).pixels == wanted


def test_size_of_the_user_comes_first():
    model = net(default_cfg={'input_size': (3, 224, 224)})
    assert image_size(LEARN, model, 64) == ImageSize(64, 'feature_size', True)
    assert image_size(LEARN, model, 0).pixels is None


@pytest.mark.parametrize('pixels, wanted, given, seen', [
    (32, False, (16, 16), [32, 32]), (32, False, (16, 24), [32, 48]), (32, False, (64, 48), [64, 48]),
    (32, True, (64, 48), [43, 32]), (224, False, (16, 16), [64, 64]), (224, True, (16, 16), [224, 224]),
    (None, False, (16, 16), [16, 16])])
def test_pictures_are_resized(pixels, wanted, given, seen):
    model = net()
    with at_size(model, ImageSize(pixels, '', wanted)) as sizes: model(torch.rand(2, 3, *given))
    assert sizes == {'image_size': [*given], 'seen_size': seen}


def test_outputs_are_those_of_a_resized_batch_and_the_model_predicts_as_before_afterwards():
    model = net()
    x = TensorImage(torch.rand(2, 3, 16, 16))
    with torch.no_grad():
        once = model(x)
        large = nn.functional.interpolate(x, [32, 32], mode='bilinear', antialias=True)
        wanted = model(large)
        with at_size(model, ImageSize(32, '')): found = model(x)
        assert torch.allclose(found, wanted, atol=1e-6) and torch.allclose(model(x), once, atol=1e-6)
    # Whoever works on in place, or trains, meets no inference tensor
    found += 1
    assert not found.is_inference() and isinstance(found, TensorImage)
    model(x).sum().backward()


def test_other_inputs_pass_as_they_are():
    seen = []
    model = nn.Linear(3, 2)
    model.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape))
    with at_size(model, ImageSize(32, '')) as sizes: model(torch.rand(4, 3))
    assert seen == [(4, 3)] and sizes == {}
    whole = nn.Embedding(9, 2)
    with at_size(whole, ImageSize(32, '', True)) as sizes: out = whole(torch.ones(1, 2, 3, 4, dtype=torch.long))
    assert out.shape == (1, 2, 3, 4, 2) and sizes == {} and np.isfinite(out.detach().numpy()).all()
