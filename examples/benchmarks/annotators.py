"""Several annotators: the consensus against the truth, annotators' qualities, whom to ask, time.

    python examples/benchmarks/annotators.py --data DIR [--features FILE]

DIR holds cifar10n/annotators.csv (path and the three labels that people gave to each of 10,000
images), cifar10n/labels.csv (the truth) and published_resnet18_oof.npz (out-of-fold probabilities
of CIFAR-10's 50,000 images, of which the file names none). FILE is an .npz of `names` and features
`X` (n, d); without it they are made here, by EfficientNet-lite0 at 112 px (see pretrained.py),
from cifar10n/images.tar. The heads are the product's own, trained on the majority labels."""
import contextlib
import io
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from cifar10n import load_images
from cleanlab.multiannotator import get_active_learning_scores
from fastcore.script import call_parse
from pretrained import efficientnet_lite0
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score, precision_recall_fscore_support
from torch.nn import functional as F

from fastai_clean.all import ReviewSession, find_annotator_issues, label_quality, majority_labels
from fastai_clean.data import fold_numbers
from fastai_clean.oof.heads import held_out_heads, predict_head, standardise


def published(file, labels, classes):
    """Probabilities of the images that the file surely knows, a DataFrame by path. The k-th image of
    a class is that class's k-th row in it; from the first row on whose label is another one than
    that of labels.csv, the rows are those of other images, and are left out"""
    with np.load(file) as d: probs, noisy, true = d['pred_probs'], d['noisy'], d['true']
    place = {}
    for k in range(len(classes)):
        place |= {(k, i): row for i, row in enumerate(np.flatnonzero(true == k))}
    number = labels.path.str.extract(r'_(\d+)\.', expand=False).astype(int)
    code = {o: k for k, o in enumerate(classes)}
    rows = np.array([place[code[t], k] for t, k in zip(labels.true, number)])
    contradicts = noisy[rows] != labels.aggre.map(code).to_numpy()
    sure = rows < rows[contradicts].min()
    print(f'published probabilities: {contradicts.sum()} of {len(rows)} rows have another label '
          f'than labels.csv, the first in row {rows[contradicts].min()}; {sure.sum()} come before')
    return pd.DataFrame(probs[rows[sure]], labels.path[sure], classes)


def made_features(data, paths, size=112):
    "Features (n, 1280) of EfficientNet-lite0"
    body = efficientnet_lite0().eval()
    mean = torch.tensor([.485, .456, .406])[:, None, None]
    std = torch.tensor([.229, .224, .225])[:, None, None]
    found = []
    for i in range(0, len(paths), 64):
        x = torch.tensor(load_images(data, paths[i:i + 64]))/255
        x = F.interpolate(x, (size, size), mode='bilinear')
        with torch.inference_mode(): found.append(body((x - mean)/std).flatten(1))
    return torch.cat(found).numpy()


def heads(features, labels, classes, seed=0):
    "Out-of-fold probabilities (n, c) of linear heads, trained on `labels`"
    y = np.array([classes.index(o) for o in labels])
    x = torch.from_numpy(standardise(features))
    fold = fold_numbers(y, 5, seed=seed)
    probs = np.empty((len(y), len(classes)), dtype=np.float32)
    targets = torch.from_numpy(y)
    for k, head in held_out_heads(x, targets, fold, 'classification', len(classes), seed):
        probs[fold == k] = predict_head(head, x[fold == k], 'classification')
    return probs


def compare(name, wide, true, probs, given):
    "One row: right labels of the majority, the model and the consensus, and wrong ones found"
    start = time.process_time()
    items = find_annotator_issues(wide, probs).items.set_index('id').loc[probs.index]
    seconds = time.process_time() - start
    true = true[probs.index]
    given = given[probs.index]
    wrong = given != true
    found = precision_recall_fscore_support(wrong, items.is_issue, average='binary')[:3]
    codes = given.map({o: k for k, o in enumerate(probs)}).to_numpy()
    alone = label_quality(codes, probs.to_numpy())
    return dict(
        probabilities=name, images=len(probs), majority=1 - wrong.mean(),
        model=(items.predicted == true).mean(), consensus=(items.consensus == true).mean(),
        precision=found[0], recall=found[1], f1=found[2],
        auprc=average_precision_score(wrong, 1 - items.label_quality),
        auprc_model_alone=average_precision_score(wrong, 1 - alone), seconds=seconds)


def people_table(wide, true, probs):
    "Quality of each annotator beside the share of true labels among theirs"
    people = find_annotator_issues(wide, probs).annotators
    truth = {o: (wide[o].dropna() == true[wide.index][wide[o].notna()]).mean() for o in wide}
    return people.assign(accuracy=pd.Series(truth))


def simulated(true, classes, m, share, rng):
    "`m` annotators, right in 40 to 98 % of the labels that they give, each to a share of the items"
    skill = np.linspace(.4, .98, m)
    code = true.map({o: k for k, o in enumerate(classes)}).to_numpy()
    n = len(code)
    said = (code[:, None] + rng.integers(1, len(classes), (n, m))) % len(classes)
    said = np.where(rng.random((n, m)) < skill, code[:, None], said)
    said = np.array(classes, dtype=object)[said]
    said[rng.random((n, m)) > share] = None
    return pd.DataFrame(said, true.index)


def asked(wide, true, probs, k, rng):
    """The third label is bought for `k` images of which two labels are known: right consensus
    labels before, and after by the product's scores, cleanlab's own, and by chance"""
    two = wide.copy()
    two[two.columns[2]] = None
    codes = two.apply(lambda o: o.map({name: j for j, name in enumerate(probs)})).astype(float)
    # It refuses annotators without labels, and prints
    with contextlib.redirect_stdout(io.StringIO()):
        theirs, _ = get_active_learning_scores(codes.iloc[:, :2].to_numpy(), probs.to_numpy())
    found = find_annotator_issues(two, probs)
    orders = {'the product': found.ask.id, 'cleanlab': two.index[np.argsort(theirs, kind='stable')],
              'chance': two.index[rng.permutation(len(two))]}
    row = {'images': k, 'two labels': accuracy(found, true)}
    for name, order in orders.items():
        more = two.copy()
        bought = list(order[:k])
        more.loc[bought, more.columns[2]] = wide.loc[bought, more.columns[2]]
        row[name] = accuracy(find_annotator_issues(more, probs), true)
    row['three labels'] = accuracy(find_annotator_issues(wide, probs), true)
    return row


def accuracy(found, true):
    items = found.items.set_index('id')
    return (items.consensus == true[items.index]).mean()


def reviewed(folder, true, probs, items, skills, n, rng):
    """Reviewers, each right in a share of decisions, decide on the `n` worst of `items`: right labels
    of these by the last decision, by votes, and with the model"""
    path = folder/('-'.join(map(str, skills)) + '.jsonl')
    session = ReviewSession(items, path, vocab=list(probs), user='r0')
    worst = session.ids[:n].tolist()
    for i, skill in enumerate(skills):
        session.user = f'r{i}'
        other = rng.choice(list(probs), n)
        session.relabel(worst, [true[o] if rng.random() < skill else k for o, k in zip(worst, other)])
    last = pd.Series({o: session.state[o]['label'] for o in worst})
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        votes = session.annotators()
        both = session.annotators(probs)
    quality = both.annotators.quality
    return dict(right=', '.join(map(str, skills)), items=n,
                given=(session.issues.given.head(n).array == true[worst].array).mean(),
                last=(last == true[worst]).mean(), votes=accuracy(votes, true),
                with_model=accuracy(both, true),
                qualities=', '.join(f'{quality[f"r{i}"]:.2f}' for i in range(len(skills))))


def timed(n, m, c, share, rng):
    "Seconds of the product and of cleanlab's scores alone, for `n` items"
    probs = rng.dirichlet(np.ones(c), n)
    labels = np.where(rng.random((n, m)) < .7, probs.argmax(1)[:, None], rng.integers(0, c, (n, m)))
    labels = np.where(rng.random((n, m)) < share, labels, np.nan)
    labels[np.isnan(labels).all(1), 0] = 0
    labels = labels[:, ~np.isnan(labels).all(0)]
    start = time.process_time()
    find_annotator_issues(labels, probs)
    ours = time.process_time() - start
    start = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()): get_active_learning_scores(labels, probs)
    return dict(items=n, annotators=m, classes=c, labels=int((~np.isnan(labels)).sum()),
                seconds=ours, cleanlab_scores_alone=time.process_time() - start)


@call_parse
def main(
    data: Path = Path('.'),  # Folder with cifar10n
    features: Path = None,  # .npz of names and X; None: they are made here
    seed: int = 0,  # Seed of what is simulated
    scale: float = 1.,  # Of the numbers of items that are asked for, reviewed and timed
):
    "Print a table per question; returns them"
    from tempfile import TemporaryDirectory
    torch.set_num_threads(1)
    rng = np.random.default_rng(seed)
    folder = data/'cifar10n'
    labels = pd.read_csv(folder/'labels.csv')
    labels = labels[labels.split == 'train'].reset_index(drop=True)
    true = labels.set_index('path').true
    classes = sorted({*true})
    wide = pd.read_csv(folder/'annotators.csv', index_col='path')
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        given = majority_labels(wide, vocab=classes, ids=true.index)
    print(*(o.message for o in caught))

    resnet = published(folder/'published_resnet18_oof.npz', labels, classes)
    if features is None: x = made_features(folder, list(true.index))
    else:
        with np.load(features) as d: x = pd.DataFrame(d['X'], d['names']).loc[true.index].to_numpy()
    lite = pd.DataFrame(heads(x, given, classes), true.index, classes)
    short = lite.loc[resnet.index]
    tables = {}
    tables['consensus'] = pd.DataFrame([
        compare('published ResNet-18', wide, true, resnet, given),
        compare('heads on EfficientNet-lite0', wide, true, lite, given),
        compare('heads, the same images', wide, true, short, given),
        compare('their mean', wide, true, (resnet + short)/2, given)])
    tables['columns'] = people_table(wide, true, lite)

    rows = []
    for m, share in ((10, .3), (30, .1), (100, .03)):
        crowd = simulated(true, classes, m, share, rng).dropna(how='all')
        for name, probs in (('heads', lite.loc[crowd.index]), ('votes alone', None)):
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')
                found = find_annotator_issues(crowd, probs, vocab=classes)
                people = found.annotators.quality
            skill = pd.Series(np.linspace(.4, .98, m))[people.index]
            rows.append(dict(annotators=m, images=len(crowd), labels=int(crowd.notna().sum().sum()),
                             model=name, correlation=np.corrcoef(people, skill)[0, 1],
                             spearman=spearmanr(people, skill)[0], mean_error=(people - skill).mean(),
                             majority=(found.items.given == true[found.items.id].array).mean(),
                             consensus=accuracy(found, true)))
    tables['simulated crowds'] = pd.DataFrame(rows)
    tables['ask'] = pd.DataFrame([asked(wide, true, lite, round(k*scale), rng)
                                  for k in (500, 1000, 2000, 4000)])
    with TemporaryDirectory() as tmp:
        items = find_annotator_issues(wide, lite).items
        tables['review'] = pd.DataFrame([
            reviewed(Path(tmp), true, lite, items, o, round(300*scale), rng)
            for o in ([.97], [.97, .97], [.97, .8], [.9, .9, .9])])
    tables['time'] = pd.DataFrame([timed(round(n*scale), *o, rng) for n, *o in (
        (50_000, 3, 10, 1.), (50_000, 20, 10, .2), (50_000, 20, 100, .2), (10_000, 500, 10, .01))])
    for name, df in tables.items():
        print(f'\n{name}', df.to_string(float_format='{:.3f}'.format), sep='\n')
    return tables
