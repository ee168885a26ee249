"Noisy Imagenette, Imagewoof and MNIST: frames, DataLoaders and Learners"
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from numbers import Integral
from pathlib import Path

import pandas as pd
import torch
import torchvision
from fastai.callback import schedule  # noqa: F401  patches fit_one_cycle into Learner
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.metrics import accuracy
from fastai.torch_core import defaults
from fastai.vision.augment import FlipItem, RandomResizedCrop, Resize
from fastai.vision.data import ImageDataLoaders
from fastai.vision.learner import model_meta, vision_learner
from fastai.vision.models import xresnet

from .datasets import (
    NOISE_LEVELS,
    check_frame,
    imagenette_path,
    imagenette_version,
    mnist_path,
    noisy_imagenette,
    noisy_mnist,
    with_loss,
)

__all__ = ['NOISE_LEVELS', 'gradual_unfreeze', 'imagenette_dls', 'imagenette_learner',
           'imagenette_path', 'imagenette_version', 'mnist_learner', 'noisy_imagenette',
           'noisy_mnist']

# fastai keeps this address inside a function, out of reach
XRN50 = 'https://s3.amazonaws.com/fast-ai-modelzoo/xrn50_940.pth'

# DataLoaders and Learners

def imagenette_dls(
    df: pd.DataFrame,  # Frame with path, label and is_valid, as `noisy_imagenette` returns it
    path: Path | str,  # Folder that its paths are relative to
    size: int = 128,  # Side of the images in pixels
    bs: int = 64,  # Batch size
    item_tfms: Callable | list | None = None,  # Of one image; None: a resized random crop, a flip
    num_workers: int = defaults.cpus,  # Processes that load images; 0: none
    **kwargs,  # Passed to `ImageDataLoaders.from_df`: batch_tfms, device
) -> DataLoaders:
    "Images and labels of any such frame; other columns are ignored. Raises as `check_frame` does"
    check_frame(df, ('path', 'label', 'is_valid'), 'noisy_imagenette')
    if item_tfms is None: item_tfms = [RandomResizedCrop(size, min_scale=.35), FlipItem()]
    return ImageDataLoaders.from_df(df, path, fn_col='path', label_col='label',
                                    valid_col='is_valid', bs=bs, item_tfms=item_tfms,
                                    num_workers=num_workers, **kwargs)


def imagenette_learner(
    pct_noise: int = 5,  # Wrong training labels in per cent: 0, 1, 5, 25 or 50
    arch: str | Callable = 'resnet34',  # A name known to fastai, torchvision or timm; a function
    size: int = 128,  # Side of the images in pixels
    label_smoothing: bool = False,  # Whether the loss smooths labels, instead of cross-entropy
    pretrained: bool = True,  # Whether to download ImageNet's weights and freeze the body
    *,
    path: Path | str | None = None,  # Folder of images and CSV; None: download the right version
    woof: bool = False,  # Whether to use Imagewoof
    df: pd.DataFrame | None = None,  # Frame of `path`; None: `noisy_imagenette(path, pct_noise)`
    bs: int = 64,  # Batch size
    num_workers: int = defaults.cpus,  # Processes that load images; 0: none
    **kwargs,  # Passed to `vision_learner`: cbs, metrics, opt_func, loss_func
) -> Learner:
    """A Learner on the noisy training images, validated on the clean ones; the first experiment
    used `imagenette_learner(5, 'resnet34')`. If fastai and timm both know a name, fastai's model
    is taken.

    Raises what `noisy_imagenette` raises, ValueError for an unknown `arch` or one without weights,
    ImportError if it needs timm, and ConnectionError if the weights cannot be downloaded."""
    model = _model(arch, pretrained)
    if path is None and df is not None:
        raise ValueError("path is missing: pass the folder that the paths of df are relative to")

    if path is None: path = imagenette_path(imagenette_version(size), woof)
    if df is None: df = noisy_imagenette(path, pct_noise, woof=woof)
    dls = imagenette_dls(df, path, size, bs, num_workers=num_workers)
    return _learner(dls, model, label_smoothing, pretrained, kwargs)


def mnist_learner(
    path: Path | str | None = None,  # Folder of MNIST, see `noisy_mnist`; None: download it
    pct_noise: float = 5,  # Wrong training labels in per cent, 0 to 100
    arch: str | Callable = 'resnet18',  # Name of a model, or a function, see `imagenette_learner`
    size: int = 28,  # Side of the images in pixels
    label_smoothing: bool = False,  # Whether the loss smooths labels, instead of cross-entropy
    pretrained: bool = False,  # Whether to start from weights learned on ImageNet
    *,
    seed: int = 42,  # Seed of the planted errors
    bs: int = 128,  # Batch size
    num_workers: int = defaults.cpus,  # Processes that load images; 0: none
    **kwargs,  # Passed to `vision_learner`
) -> Learner:
    """A Learner on MNIST with planted errors, validated on clean images. Raises as `noisy_mnist`
    and `imagenette_learner` do."""
    model = _model(arch, pretrained)
    df = noisy_mnist(path, pct_noise, seed)
    folder = mnist_path() if path is None else path
    dls = imagenette_dls(df, folder, bs=bs, item_tfms=Resize(size), num_workers=num_workers)
    return _learner(dls, model, label_smoothing, pretrained, kwargs)


def gradual_unfreeze(
    learn: Learner,  # Learner whose splitter makes several parameter groups
    epochs: int | Sequence[int] = 1,  # Epochs of each fit, or one number per fit: n for n groups
    lr: float = 2e-3,  # Maximum learning rate of the first fit; each further fit halves it
    lr_mult: float = 100,  # Learning rate of the last group over that of the first
    **kwargs,  # Passed to every `fit_one_cycle`: cbs, wd
) -> None:
    """Fit the last parameter group alone, then with the one before it, and so on until all are
    unfrozen (Howard and Ruder, "Universal Language Model Fine-tuning for Text Classification", ACL
    2018, section 3.3).

    A ConfidentLearningCallback, on the Learner or in `cbs`, follows every fit. Raises ValueError if
    there are more or fewer `epochs` than groups."""
    if learn.opt is None: learn.create_opt()
    n = len(learn.opt.param_lists)
    epochs = [epochs]*n if isinstance(epochs, Integral) else list(epochs)
    if len(epochs) != n:
        raise ValueError(f"epochs has {len(epochs)} numbers, but the Learner has {n} groups: "
                         "pass one per parameter group")

    for i, n_epoch in enumerate(epochs, 1):
        learn.freeze_to(-i)
        top = lr/2**(i - 1)
        learn.fit_one_cycle(n_epoch, slice(top) if i == 1 else slice(top/lr_mult, top), **kwargs)


# Architectures and their weights

def _model(arch, pretrained):
    "The function that `arch` names, or the name if timm has it"
    model = arch
    if not callable(arch):
        known = {o: getattr(xresnet, o) for o in xresnet.__all__ if o.startswith('x')}
        known |= {o.__name__: o for o in model_meta}
        model = known.get(arch) or _timm_name(arch, known)
    if isinstance(model, str) or not pretrained: return model
    # fastai gives every xresnet the weights of xresnet50, which fit no other
    if model.__module__ == xresnet.__name__ and model is not xresnet.xresnet50:
        raise ValueError(f"arch {model.__name__} has no published weights: pass pretrained=False, "
                         "or xresnet50")
    return model


def _timm_name(arch, known):
    try:
        import timm
    except ImportError as e:
        raise ImportError(f"arch {arch!r} is not one of fastai's models{_nearest(arch, known)}; "
                          "timm, which has many more, is not installed: pip install timm") from e
    if timm.is_model(arch): return arch
    nearest = _nearest(arch, [*known, *timm.list_models()])
    raise ValueError(f"arch {arch!r} is neither one of fastai's models nor of timm's{nearest}: see "
                     "timm.list_models()")


def _nearest(arch, known: Iterable[str]):
    found = get_close_matches(str(arch), known, 1)
    return f' (did you mean {found[0]}?)' if found else ''


def _learner(dls, model, label_smoothing, pretrained, kwargs):
    args = with_loss(label_smoothing, accuracy, kwargs)
    try: return vision_learner(dls, model, pretrained=pretrained, **args)
    except OSError as e:
        # A function of the user's own may fail for other reasons
        if not pretrained or not (isinstance(model, str) or model in model_meta): raise
        raise ConnectionError(f"{_weights(model)}, or pass pretrained=False ({e})") from e


def _weights(model):
    "Which weights could not be loaded, and where to put them"
    if isinstance(model, str): return _timm_weights(model)
    url = XRN50
    if model is not xresnet.xresnet50:
        url = torchvision.models.get_model_weights(model.__name__).DEFAULT.url
    file = url.rsplit('/', 1)[-1]
    return (f"{url} with the weights of {model.__name__} could not be downloaded: get {file} "
            f"elsewhere and put it at {Path(torch.hub.get_dir())/'checkpoints'/file}")


def _timm_weights(model):
    import timm
    cfg = timm.get_pretrained_cfg(model)
    url = cfg.url
    if cfg.hf_hub_id: url = f'https://huggingface.co/{cfg.hf_hub_id}/resolve/main/model.safetensors'
    return (f"{url} with the weights of timm's {model} could not be loaded: get the file elsewhere "
            "and pass pretrained_cfg_overlay=dict(file=<where it is>)")
