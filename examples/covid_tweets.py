"""The seed's tweet experiments: which planted errors are found, at which noise level, with which loss?

    python examples/covid_tweets.py --path DIR                       AWD_LSTM from scratch, without network
    python examples/covid_tweets.py --path DIR --model FOLDER        a transformer that lies in FOLDER
    python examples/covid_tweets.py --path DIR --model vinai/bertweet-base      downloads it; a GPU helps

DIR holds train.tsv, valid.tsv and test.tsv of WNUT-2020 Task 2. For each noise level and loss, in --out:
    train    one fit, followed by ConfidentLearningCallback: runs/<loss>/noisy<level> holds its weights and `oof`
    eval     accuracy and F1 of INFORMATIVE on valid.tsv and test.tsv, from those weights: scores.json beside them
    predict  the flagged training rows, worst first, as the seed kept them:
             <loss>/<prune method>/noisy<level>_train_predictions.csv
             and <loss>/noisy<level>_text.csv, those of test.tsv, as the seed's noisy_text.csv
and then experiments.csv, the table of how many planted errors each file finds, which is printed, too. Level 0 plants
none; its flagged rows are errors of the people who labelled.

What is there is not made again, so that an interrupted run goes on where it stopped; --overwrite makes it anew."""
import itertools
import math
from functools import partial
from pathlib import Path

import pandas as pd
from fastai.text.core import tokenize_df
from fastai.torch_core import set_seed
from fastcore.script import call_parse
from runs import (
    check_positive,
    check_settings,
    digest,
    keep,
    keep_scores,
    made_with,
    need,
    plan,
    run_path,
    said,
    scores_of,
    with_weights,
    working,
    written,
)
from seed_data import PRUNES, csv_path, tweet_rows
from sklearn.metrics import average_precision_score

from fastai_clean.all import (
    CleanInterpretation,
    CleanWandbCallback,
    ConfidentLearningCallback,
    OutOfFold,
    find_issues,
    label_quality,
)
from fastai_clean.text import covid_tweets, transformer_learner, tweet_learner

LOSSES = 'covid_labelsmoothing', 'covid_no_labelsmoothing'
LEVELS = 0, 1, 5, 15, 25, 30, 50
SETS = 'train', 'valid', 'test'
COLUMNS = 'noise loss prune planted flagged found precision recall f1 auprc'.split()


def read(path, level, settings):
    "train.tsv with planted errors and valid.tsv, and test.tsv; of each the first rows where the settings limit them"
    with said(): df = covid_tweets(path, SETS, level, settings['seed'])
    if settings['n_items']: df = df.groupby('set').head(settings['n_items'])
    return df[df.set != 'test'].reset_index(drop=True), df[df.set == 'test'].reset_index(drop=True)


def learner(df, settings, loss, cbs):
    "The classifier that the settings name, not trained yet"
    set_seed(settings['seed'])
    model, common = settings['model'], dict(bs=settings['bs'], label_smoothing=loss == LOSSES[0], cbs=cbs)
    if model != 'awd':
        with said(): return transformer_learner(df, model, max_length=settings['max_length'], **common)
    n_hid = settings['n_hid']
    return tweet_learner(df, pretrained=False, config=dict(emb_sz=n_hid//2, n_hid=n_hid, n_layers=2), **common)


def train(folder, df, settings, loss, wandb):
    "Fit and keep the weights and `learn.oof`"
    if (folder/'weights.pth').exists(): return
    cbs = [ConfidentLearningCallback(settings['n_folds'], seed=settings['seed'])]
    if wandb: cbs.append(CleanWandbCallback(project='covid_tweets', name='-'.join(folder.parts[-2:])))
    learn, lr = learner(df, settings, loss, cbs), settings['lr']
    learn.fit_one_cycle(settings['epochs'], lr if settings['model'] == 'awd' else slice(lr/20, lr))
    if wandb: cbs[1].finish()
    keep(folder, learn, settings)


def trained(folder, df, settings, loss):
    "The Learner that `train` kept"
    return with_weights(partial(learner, df, settings, loss), folder)


def test_dl(learn, df, settings):
    "A labelled DataLoader; an AWD_LSTM wants its texts tokenized"
    return learn.dls.test_dl(tokenize_df(df, 'text')[0] if settings['model'] == 'awd' else df, with_labels=True)


def evaluate(folder, df, test, settings, loss):
    "Loss, accuracy and F1 of INFORMATIVE on valid.tsv and test.tsv"
    if scores_of(folder): return
    learn, names = trained(folder, df, settings, loss), ('loss', 'accuracy', 'f1')
    dls = {'valid': learn.dls.valid, 'test': test_dl(learn, test, settings)}
    with learn.no_bar(): keep_scores(folder, {o: dict(zip(names, learn.validate(dl=dl))) for o, dl in dls.items()})


def predict_test(folder, file, df, test, settings, loss):
    "The tweets of test.tsv whose labels look wrong, in the seed's columns"
    if file.exists(): return
    learn = trained(folder, df, settings, loss)
    with learn.no_bar(): interp = CleanInterpretation.from_learner(learn, dl=test_dl(learn, test, settings))
    rows = tweet_rows(test[['id', 'text', 'label']], interp.issues)
    written(file, lambda o: rows.to_csv(o, header=False))


def predict(folder, file, prune, df):
    "The training rows that the filter flags, worst first, with prediction and confidence"
    if file.exists(): return
    need(folder/'weights.pth')
    oof = OutOfFold.load(folder/'oof')
    issues = find_issues(oof.targets, oof.pred_probs, PRUNES[prune], vocab=oof.vocab)
    issues = issues[issues.is_issue]
    rows = df[df.set == 'train'].iloc[issues.index]
    rows = rows.assign(predictions=issues.predicted.to_numpy(), confidence=issues.confidence.to_numpy())
    written(file, lambda o: rows.to_csv(o, index=False))


def score_row(out, loss, prune, level, df):
    "How many of the planted errors one file names, and how well the probabilities rank them; NaN for what is 0/0"
    train, folder = df[df.set == 'train'], run_path(out, loss, level)
    wrong = train.label != train.true_label
    rows = pd.read_csv(csv_path(out, loss, prune, level), dtype=str, keep_default_na=False)
    planted, flagged, found = int(wrong.sum()), len(rows), int((rows.label != rows.true_label).sum())
    ratios = [a/b if b else math.nan for a, b in ((found, flagged), (found, planted), (2*found, planted + flagged))]
    oof = OutOfFold.load(folder/'oof')
    auprc = average_precision_score(wrong, -label_quality(oof.targets, oof.pred_probs)) if planted else math.nan
    row = dict(zip(COLUMNS, (level, loss, prune, planted, flagged, found, *ratios, auprc)))
    return row | {f'{k}_{name}': v[k] for name, v in scores_of(folder).items() for k in ('accuracy', 'f1')}


@call_parse
def main(
    path: Path = Path('covid_tweets'),  # Folder of train.tsv, valid.tsv and test.tsv
    out: Path = Path('data'),  # Folder to write to
    steps: str = 'train,eval,predict',  # What to do, separated by commas
    noise: str = '5,15,30',  # Planted errors in per cent, separated by commas: of 0, 1, 5, 15, 25, 30, 50
    smoothing: str = 'both',  # Label smoothing: yes, no or both
    prune: str = 'prune_noise_rate,prune_noise_rate_class',  # Prune methods, separated by commas
    model: str = 'awd',  # awd: AWD_LSTM from scratch; else folder or name of a Hugging Face model
    n_hid: int = 256,  # Units of AWD_LSTM's hidden layers
    max_length: int = 128,  # Tokens of a tweet that a transformer reads
    n_items: int = 0,  # Tweets of each file; 0: all
    epochs: int = 5,  # Epochs of each fit
    lr: float = None,  # Maximum learning rate; left out: 5e-3 for awd, 2e-4 for a transformer's head
    n_folds: int = 4,  # Folds
    bs: int = 32,  # Batch size
    seed: int = 0,  # Seed of the errors, the weights, the batches and the folds
    wandb: bool = False,  # Log the fits to Weights & Biases
    overwrite: bool = False,  # Make anew what is there
) -> pd.DataFrame:  # Columns noise, loss, prune, planted, flagged, found, precision, recall, f1, auprc, and the scores
    "Do the steps that are not done yet; returns the table, None where no file was predicted yet"
    steps, levels, prunes, losses = plan(steps, noise, prune, smoothing, LEVELS, LOSSES)
    if lr is None: lr = 5e-3 if model == 'awd' else 2e-4
    check_positive(n_hid=n_hid, max_length=max_length, epochs=epochs, n_folds=n_folds, bs=bs)
    if n_items < 0: raise SystemExit(f'--n-items {n_items}: give 0, which means all, or more')
    frames = {o: read(path, o, dict(seed=seed, n_items=n_items)) for o in levels}
    settings = dict(model=model, n_hid=n_hid, max_length=max_length, n_items=n_items, epochs=epochs, lr=lr,
                    n_folds=n_folds, bs=bs, seed=seed, data=digest(*(path/f'{o}.tsv' for o in SETS)))
    runs = [(level, loss, run_path(out, loss, level), out/loss/f'noisy{level}_text.csv',
             [csv_path(out, loss, o, level) for o in PRUNES]) for level in levels for loss in losses]
    for *_, folder, test_file, files in runs:
        if not (overwrite and 'train' in steps): check_settings(folder, [test_file, *files], settings)
    for level, loss, folder, test_file, files in runs:
        df, test = frames[level]
        print(f'{loss}, {level} % noise', flush=True)
        with working(folder, [test_file, *files], settings, steps, overwrite):
            if 'train' in steps: train(folder, df, settings, loss, wandb)
            if 'eval' in steps: evaluate(folder, df, test, settings, loss)
            if 'predict' in steps: predict_test(folder, test_file, df, test, settings, loss)
            for o in prunes if 'predict' in steps else []: predict(folder, csv_path(out, loss, o, level), o, df)
    done = [o for o in itertools.product(losses, prunes, levels) if csv_path(out, *o).exists() and
            made_with(run_path(out, o[0], o[2]), settings)]
    if not done: return None
    table = pd.DataFrame([score_row(out, *o, frames[o[-1]][0]) for o in sorted(done, key=lambda o: o[-1])])
    written(out/'experiments.csv', lambda o: table.to_csv(o, index=False))
    print(table.to_string(index=False, float_format='{:.3f}'.format))
    return table
