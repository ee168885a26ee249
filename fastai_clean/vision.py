"DataLoaders and Learners for images with wrong labels"
from difflib import get_close_matches
from numbers import Integral
from pathlib import Path

import torch
import torchvision
from fastai.callback import schedule  # noqa: F401
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat, LabelSmoothingCrossEntropy
from fastai.metrics import accuracy
from fastai.torch_core import defaults
from fastai.vision.augment import FlipItem, RandomResizedCrop, Resize
from fastai.vision.data import ImageDataLoaders
from fastai.vision.learner import model_meta, vision_learner
from fastai.vision.models import xresnet

from .datasets import check_frame, imagenette_path, imagenette_version, mnist_path, noisy_imagenette, noisy_mnist

_XRN50 = 'https://s3.amazonaws.com/fast-ai-modelzoo/xrn50_940.pth'


def imagenette_dls(
    df,  # Frame with path, label and is_valid, as `noisy_imagenette` gives it
    path,  # Folder of its paths
    size=128,  # Side of the images in pixels
    bs=64,  # Batch size
    item_tfms=None,  # Transforms of an image; None: a random crop, resized, and a flip
    num_workers=defaults.cpus,  # Processes that load images; 0: none
    **kwargs,  # Passed to `ImageDataLoaders.from_df`: batch_tfms, device
) -> DataLoaders:
    """Images and labels of any such frame; more columns do not matter. Raises as `check_frame`: where it is no frame, a
    column or a value is missing, is_valid sets no row, or every row, aside, or a label is in validation rows alone."""
    check_frame(df, ('path', 'label', 'is_valid'), 'noisy_imagenette')
    if item_tfms is None: item_tfms = [RandomResizedCrop(size, min_scale=.35), FlipItem()]
    return ImageDataLoaders.from_df(df, path, fn_col='path', label_col='label', valid_col='is_valid', bs=bs,
                                    item_tfms=item_tfms, num_workers=num_workers, **kwargs)


def imagenette_learner(
    pct_noise=5,  # Wrong training labels in per cent: 0, 1, 5, 25 or 50
    arch='resnet34',  # Name of a model of fastai, torchvision or timm, or a function as `vision_learner` takes it
    size=128,  # Side of the images in pixels
    label_smoothing=False,  # Whether the loss is LabelSmoothingCrossEntropy, not cross-entropy
    pretrained=True,  # Whether to start from weights learned on ImageNet, which are downloaded; the body is frozen
    *,
    path=None,  # Folder of Imagenette and its CSV; None: download the smallest that has images of `size`
    woof=False,  # Whether to take Imagewoof
    df=None,  # Frame of `path`, with path, label and is_valid; None: `noisy_imagenette(path, pct_noise)`
    bs=64,  # Batch size
    num_workers=defaults.cpus,  # Processes that load images; 0: none
    **kwargs,  # Passed to `vision_learner`: cbs, metrics, opt_func, loss_func
) -> Learner:
    """A Learner on the noisy training images, validated on the clean rest; the seed's is
    `imagenette_learner(5, 'resnet34')`. A name that fastai and timm both have is fastai's.

    Raises what `noisy_imagenette` raises, ValueError for an unknown `arch` or one without weights, ImportError where
    it needs timm, and ConnectionError where the weights cannot be downloaded."""
    model = _model(arch, pretrained)
    if path is None:
        if df is not None: raise ValueError("df has no folder: pass path, which its paths are relative to")
        path = imagenette_path(imagenette_version(size), woof)
    if df is None: df = noisy_imagenette(path, pct_noise, woof=woof)
    dls = imagenette_dls(df, path, size, bs, num_workers=num_workers)
    return _learner(dls, model, label_smoothing, pretrained, kwargs)


def mnist_learner(
    path=None,  # Folder of MNIST, see `noisy_mnist`; None: download it
    pct_noise=5,  # Wrong training labels in per cent, 0 to 100
    arch='resnet18',  # Name of a model, or a function, see `imagenette_learner`
    size=28,  # Side of the images in pixels
    label_smoothing=False,  # Whether the loss is LabelSmoothingCrossEntropy, not cross-entropy
    pretrained=False,  # Whether to start from weights learned on ImageNet
    *,
    seed=42,  # Seed of what is wrong
    bs=128,  # Batch size
    num_workers=defaults.cpus,  # Processes that load images; 0: none
    **kwargs,  # Passed to `vision_learner`
) -> Learner:
    "A Learner on MNIST with planted errors; validation is clean. Raises as `noisy_mnist` and `imagenette_learner` do"
    model = _model(arch, pretrained)
    if path is None: df, path = noisy_mnist(None, pct_noise, seed), mnist_path()
    else: df = noisy_mnist(path, pct_noise, seed)
    dls = imagenette_dls(df, path, bs=bs, item_tfms=Resize(size), num_workers=num_workers)
    return _learner(dls, model, label_smoothing, pretrained, kwargs)


def gradual_unfreeze(
    learn,  # Learner whose splitter makes several parameter groups, for example of `imagenette_learner`
    epochs=1,  # Epochs of each fit, or a list: one number a fit, n fits for n groups
    lr=2e-3,  # Maximum learning rate of the first fit; each further one has half of the one before
    lr_mult=100,  # How many times less the first group learns than the last, once several do
    **kwargs,  # Passed to every `fit_one_cycle`: cbs, wd
):
    """Fit the last parameter group alone, then with the one before it, and so on until all are unfrozen (Howard and
    Ruder, "Universal Language Model Fine-tuning for Text Classification", ACL 2018, section 3.3).

    A ConfidentLearningCallback, on the Learner or in `cbs`, follows every fit. Raises ValueError where `epochs` has
    another number than one a group."""
    if learn.opt is None: learn.create_opt()
    n = len(learn.opt.param_lists)
    epochs = [epochs]*n if isinstance(epochs, Integral) else list(epochs)
    if len(epochs) != n:
        raise ValueError(f"epochs has {len(epochs)} numbers, but the Learner {n} parameter groups: pass one a group")
    for i, n_epoch in enumerate(epochs, 1):
        learn.freeze_to(-i)
        top = lr/2**(i - 1)
        learn.fit_one_cycle(n_epoch, slice(top) if i == 1 else slice(top/lr_mult, top), **kwargs)


def _model(arch, pretrained):
    "The function that `arch` names, or the name where timm has it"
    if callable(arch): model = arch
    else:
        names = {o: getattr(xresnet, o) for o in xresnet.__all__ if o.startswith('x')}
        names |= {o.__name__: o for o in model_meta}
        model = names.get(arch) or _timm_name(arch, names)
    if pretrained and not isinstance(model, str) and model.__module__ == xresnet.__name__ and \
       model is not xresnet.xresnet50:
        raise ValueError(f"arch {model.__name__} has no published weights: pass pretrained=False, or xresnet50")
    return model


def _timm_name(arch, known):
    try:
        import timm
    except ImportError as e:
        raise ImportError(f"arch {arch!r} is not one of fastai's models{_nearest(arch, known)}; timm, which has many "
                          "more, is not installed: pip install timm") from e
    if timm.is_model(arch): return arch
    raise ValueError(f"arch {arch!r} is neither one of fastai's models nor of timm's"
                     f"{_nearest(arch, [*known, *timm.list_models()])}: see timm.list_models()")


def _nearest(arch, known):
    found = get_close_matches(str(arch), known, 1)
    return f' (did you mean {found[0]}?)' if found else ''


def _learner(dls, model, label_smoothing, pretrained, kwargs):
    if label_smoothing and 'loss_func' in kwargs:
        raise ValueError("label_smoothing and loss_func are both given: pass one of them")
    loss_func = LabelSmoothingCrossEntropy() if label_smoothing else CrossEntropyLossFlat()
    try: return vision_learner(dls, model, pretrained=pretrained,
                               **{'loss_func': loss_func, 'metrics': accuracy, **kwargs})
    except OSError as e:
        if not pretrained or not (isinstance(model, str) or model in model_meta): raise
        raise ConnectionError(f"{_weights(model)}, or pass pretrained=False ({e})") from e


def _weights(model):
    "Which weights could not be loaded, and where to put them"
    if isinstance(model, str):
        import timm
        cfg = timm.get_pretrained_cfg(model)
        url = f'https://huggingface.co/{cfg.hf_hub_id}/resolve/main/model.safetensors' if cfg.hf_hub_id else cfg.url
        return (f"{url} with the weights of timm's {model} could not be loaded: get the file elsewhere and pass "
                "pretrained_cfg_overlay=dict(file=<where it is>)")
    name, url = model.__name__, _XRN50
    if model is not xresnet.xresnet50: url = torchvision.models.get_model_weights(name).DEFAULT.url
    file = url.rsplit('/', 1)[-1]
    return (f"{url} with the weights of {name} could not be downloaded: get {file} elsewhere and put it at "
            f"{Path(torch.hub.get_dir())/'checkpoints'/file}")
