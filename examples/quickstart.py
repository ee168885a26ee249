"""Find wrong labels in images, drop them, and see what that does: in three minutes on two cores.

    python examples/quickstart.py               scikit-learn's digits, 10 % of training labels wrong
    python examples/quickstart.py --data DIR    your own: class folders, or a CSV of path,label

Prints how many wrong labels were found (of the planted ones: precision, recall, AUPRC) and the
validation accuracy before and after dropping the flagged items; if the model is too weak to judge
the labels, it says so and drops nothing. Writes noisy.csv, the flagged items, noisy.png, the worst
nine, and report.html, one file with the whole picture."""
from pathlib import Path

import numpy as np
import pandas as pd
from fastai.vision.all import *
from fastcore.script import call_parse
from sklearn.datasets import load_digits
from sklearn.metrics import average_precision_score

from fastai_clean.all import CleanInterpretation, ConfidentLearningCallback


def digits_frame(folder, noise, seed):
    "The digits as PNG files in `folder`, and a frame of them, with wrong training labels planted"
    digits = load_digits()
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(digits.images):
        pixels = Image.fromarray((image*15.9).astype('uint8'))
        pixels.resize((24, 24)).save(folder/f'{i:04}.png')

    true = digits.target
    is_valid = rng.permutation(len(true)) < 360
    wrong = rng.choice(np.flatnonzero(~is_valid), round(noise*(~is_valid).sum()), replace=False)
    label = true.copy()
    label[wrong] = (label[wrong] + rng.integers(1, 10, len(wrong))) % 10
    return pd.DataFrame({'path': [f'{i:04}.png' for i in range(len(true))],
                         'label': label.astype(str), 'true': true.astype(str),
                         'is_valid': is_valid})


def own_frame(data, seed):
    "A frame of path, label and is_valid, and the folder of its paths"
    if data.is_dir():
        paths = get_image_files(data)
        folder = data
        df = pd.DataFrame({'path': [o.relative_to(data).as_posix() for o in paths],
                           'label': [o.parent.name for o in paths]})
        if not len(df):
            raise SystemExit(f'--data {data} holds no images: give a folder of class folders, or a '
                             'CSV')
    elif data.is_file():
        folder = data.parent
        df = pd.read_csv(data, dtype=str)
        missing = {'path', 'label'} - set(df.columns)
        if missing:
            raise SystemExit(f'--data {data} lacks the column {" and ".join(sorted(missing))}')
        lost = [o for o in df.path if not (folder/o).is_file()]
        if lost:
            raise SystemExit(f'--data {data} names {len(lost)} missing files, first '
                             f'{folder/lost[0]}')
    else:
        raise SystemExit(f'--data {data} does not exist: give a folder of class folders, or a CSV '
                         'of path,label')
    df['is_valid'] = np.random.default_rng(seed).permutation(len(df)) < len(df)//5
    return df, folder


def make_learner(df, folder, size, seed):
    "A small residual net from scratch"
    set_seed(seed)
    tfms = aug_transforms(do_flip=False, max_rotate=5, max_warp=0, max_lighting=.1)
    dls = ImageDataLoaders.from_df(df, folder, fn_col='path', label_col='label',
                                   valid_col='is_valid', bs=64, item_tfms=Resize(size),
                                   batch_tfms=tfms, num_workers=0)
    layers = [ConvLayer(3, 16), ConvLayer(16, 32, stride=2), ResBlock(1, 32, 32),
              ConvLayer(32, 64, stride=2), ResBlock(1, 64, 64), nn.AdaptiveAvgPool2d(1),
              nn.Flatten(), nn.Linear(64, dls.c)]
    return Learner(dls, nn.Sequential(*layers), metrics=accuracy)


def compared(df, issues):
    "How well the issue table, indexed by the rows of `df`, finds the planted errors"
    wrong = (df.label != df.true).loc[issues.index]
    found = int((wrong & issues.is_issue).sum())
    return dict(planted=int(wrong.sum()), found=found,
                precision=found/max(1, issues.is_issue.sum()), recall=found/wrong.sum(),
                auprc=average_precision_score(wrong, 1 - issues.label_quality))


@call_parse
def main(
    data: Path = None,  # Your own images: a folder of class folders, or a CSV; default: digits
    out: Path = Path('.'),  # Folder for noisy.csv, noisy.png, report.html, and the digits' images
    noise: float = .1,  # Share of the training labels to plant wrong in the digits
    epochs: int = 8,  # Epochs of each fit
    n_folds: int = 5,  # Folds
    size: int = None,  # Side of the images in pixels: 24 for the digits, 64 otherwise
    seed: int = 42,  # Seed of the planted errors, the split, the weights and the folds
):
    "Find wrong labels, drop them, retrain; returns what it printed"
    # On a busy machine many threads of so small a net wait for each other
    torch.set_num_threads(min(2, torch.get_num_threads()))
    out.mkdir(parents=True, exist_ok=True)
    if data is not None and data.resolve() == (out/'noisy.csv').resolve():
        raise SystemExit(f'--data {data} is the file that would be written: pass another --out')
    if data is None:
        folder = out/'quickstart_digits'
        df = digits_frame(folder, noise, seed)
    else: df, folder = own_frame(data, seed)
    size = size or (24 if data is None else 64)

    learn = make_learner(df, folder, size, seed)
    learn.fit_one_cycle(epochs, 5e-3, cbs=ConfidentLearningCallback(n_folds, seed=seed))
    interp = CleanInterpretation.from_learner(learn)
    # The id of an item is its row's label in the frame
    issues = interp.issues.set_index(interp.issues.id.astype(int))
    flagged = issues.index[issues.is_issue]
    res = dict(items=len(issues), flagged=len(flagged), estimated_noise=interp.noise_rate)
    if data is None: res |= compared(df, issues)
    interp.to_csv(out/'noisy.csv', overwrite=True)
    interp.report(out/'report.html', overwrite=True)
    if len(flagged): interp.plot_noisy(9)[0].figure.savefig(out/'noisy.png', dpi=80)

    res['accuracy_before'] = learn.recorder.values[-1][-1]
    # What a weak model flags are its own mistakes: dropping them would drop good items
    if not interp.weakness:
        again = make_learner(df.drop(flagged), folder, size, seed)
        again.fit_one_cycle(epochs, 5e-3)
        res['accuracy_after'] = again.recorder.values[-1][-1]
    for name, value in res.items():
        print(f'{name:16}{value:.3f}' if isinstance(value, float) else f'{name:16}{value}')
    if interp.weakness:
        print(f'nothing was dropped: {interp.weakness} (--epochs {5*epochs}, larger images by '
              '--size, or a pretrained Learner of your own)')
    names = ['noisy.csv', 'report.html', *(['noisy.png'] if len(flagged) else [])]
    print('wrote', ', '.join(str(out/o) for o in names))
    return res
