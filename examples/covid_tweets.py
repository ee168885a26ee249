"""The seed's tweet experiments: which planted errors are found, at which noise level and loss?

    python examples/covid_tweets.py --path DIR                    AWD_LSTM from scratch, no network
    python examples/covid_tweets.py --path DIR --model FOLDER     a transformer that lies in FOLDER
    python examples/covid_tweets.py --path DIR --model vinai/bertweet-base   downloads it, for a GPU

DIR holds train.tsv, valid.tsv and test.tsv of WNUT-2020 Task 2. For each noise level and loss, in
--out:
    train    one fit, followed by ConfidentLearningCallback: runs/<loss>/noisy<level> holds its
             weights and `oof`
    eval     accuracy and F1 of INFORMATIVE on valid.tsv and test.tsv, from those weights:
             scores.json beside them
    predict  the flagged training rows, worst first, as the seed kept them:
             <loss>/<prune method>/noisy<level>_train_predictions.csv
             and <loss>/noisy<level>_text.csv, those of test.tsv, as the seed's noisy_text.csv
and then experiments.csv, the table of how many planted errors each file finds, also printed. Level
0 plants none; its flagged rows are errors of the people who labelled.

What is there is not made again, so that an interrupted run goes on from where it stopped;
--overwrite makes it anew."""
import itertools
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
from seed_data import PRUNES, csv_path, ratios, tweet_rows
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
    """train.tsv with planted errors and valid.tsv, and test.tsv; of each the first rows if the
    settings limit them"""
    with said(): df = covid_tweets(path, SETS, level, settings['seed'])
    if settings['n_items']: df = df.groupby('set').head(settings['n_items'])
    return df[df.set != 'test'].reset_index(drop=True), df[df.set == 'test'].reset_index(drop=True)


def learner(df, settings, loss, cbs):
    "The classifier that the settings name, not trained yet"
    set_seed(settings['seed'])
    model = settings['model']
    n_hid = settings['n_hid']
    common = dict(bs=settings['bs'], label_smoothing=loss == LOSSES[0], cbs=cbs)
    if model != 'awd':
        length = settings['max_length']
        with said(): return transformer_learner(df, model, max_length=length, **common)
    config = dict(emb_sz=n_hid//2, n_hid=n_hid, n_layers=2)
    return tweet_learner(df, pretrained=False, config=config, **common)


def train(folder, df, settings, loss, wandb):
    "Fit and keep the weights and `learn.oof`"
    if (folder/'weights.pth').exists(): return
    cbs = [ConfidentLearningCallback(settings['n_folds'], seed=settings['seed'], mode='folds')]
    if wandb:
        name = '-'.join(folder.parts[-2:])
        cbs.append(CleanWandbCallback(project='covid_tweets', name=name))
    learn = learner(df, settings, loss, cbs)
    lr = settings['lr']
    learn.fit_one_cycle(settings['epochs'], lr if settings['model'] == 'awd' else slice(lr/20, lr))
    if wandb: cbs[1].finish()
    keep(folder, learn, settings)


def trained(folder, df, settings, loss):
    "The Learner that `train` kept"
    return with_weights(partial(learner, df, settings, loss), folder)


def test_dl(learn, df, settings):
    "A labelled DataLoader; an AWD_LSTM wants its texts tokenized"
    if settings['model'] == 'awd': df = tokenize_df(df, 'text')[0]
    return learn.dls.test_dl(df, with_labels=True)


def evaluate(folder, df, test, settings, loss):
    "Loss, accuracy and F1 of INFORMATIVE on valid.tsv and test.tsv"
    if scores_of(folder): return
    learn = trained(folder, df, settings, loss)
    scores = {}
    with learn.no_bar():
        for name, dl in (('valid', learn.dls.valid), ('test', test_dl(learn, test, settings))):
            scores[name] = dict(zip(('loss', 'accuracy', 'f1'), learn.validate(dl=dl)))
    keep_scores(folder, scores)


def predict_test(folder, file, df, test, settings, loss):
    "The tweets of test.tsv whose labels look wrong, in the seed's columns"
    if file.exists(): return
    learn = trained(folder, df, settings, loss)
    dl = test_dl(learn, test, settings)
    with learn.no_bar(): interp = CleanInterpretation.from_learner(learn, dl=dl)
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
    rows = rows.assign(predictions=issues.predicted.to_numpy(),
                       confidence=issues.confidence.to_numpy())
    written(file, lambda o: rows.to_csv(o, index=False))


def score_row(out, loss, prune, level, df):
    "How many of the planted errors one file names, and how well the probabilities rank them"
    train = df[df.set == 'train']
    folder = run_path(out, loss, level)
    wrong = train.label != train.true_label
    rows = pd.read_csv(csv_path(out, loss, prune, level), dtype=str, keep_default_na=False)
    counts = [int(wrong.sum()), len(rows), int((rows.label != rows.true_label).sum())]
    oof = OutOfFold.load(folder/'oof')
    auprc = float('nan')
    if wrong.any():
        auprc = average_precision_score(wrong, -label_quality(oof.targets, oof.pred_probs))
    row = dict(zip(COLUMNS, (level, loss, prune, *counts, *ratios(*counts), auprc)))
    for name, scores in scores_of(folder).items():
        for k in ('accuracy', 'f1'): row[f'{k}_{name}'] = scores[k]
    return row


@call_parse
def main(
    path: Path = Path('covid_tweets'),  # Folder of train.tsv, valid.tsv and test.tsv
    out: Path = Path('data'),  # Folder to write to
    steps: str = 'train,eval,predict',  # What to do, separated by commas
    noise: str = '5,15,30',  # Planted errors in per cent, of 0, 1, 5, 15, 25, 30, 50, with commas
    smoothing: str = 'both',  # Label smoothing: yes, no or both
    prune: str = 'prune_noise_rate,prune_noise_rate_class',  # Prune methods, separated by commas
    model: str = 'awd',  # awd: AWD_LSTM from scratch; else folder or name of a Hugging Face model
    n_hid: int = 256,  # Units of AWD_LSTM's hidden layers
    max_length: int = 128,  # Tokens of a tweet that a transformer reads
    n_items: int = 0,  # Tweets of each file; 0: all
    epochs: int = 5,  # Epochs of each fit
    lr: float = None,  # Maximum learning rate: 5e-3 for awd, 2e-4 for a transformer's head
    n_folds: int = 4,  # Folds
    bs: int = 32,  # Batch size
    seed: int = 0,  # Seed of the errors, the weights, the batches and the folds
    wandb: bool = False,  # Log the fits to Weights & Biases
    overwrite: bool = False,  # Make anew what is there
) -> pd.DataFrame:  # `COLUMNS`, and the scores
    "Do the steps that are not done yet; returns the table, None if no file was predicted yet"
    steps, levels, prunes, losses = plan(steps, noise, prune, smoothing, LEVELS, PRUNES, LOSSES)
    if lr is None: lr = 5e-3 if model == 'awd' else 2e-4
    check_positive(n_hid=n_hid, max_length=max_length, epochs=epochs, n_folds=n_folds, bs=bs)
    if n_items < 0: raise SystemExit(f'--n-items {n_items}: give 0, which means all, or more')

    frames = {o: read(path, o, dict(seed=seed, n_items=n_items)) for o in levels}
    settings = dict(model=model, n_hid=n_hid, max_length=max_length, n_items=n_items,
                    epochs=epochs, lr=lr, n_folds=n_folds, bs=bs, seed=seed,
                    data=digest(*(path/f'{o}.tsv' for o in SETS)))
    todo = []
    for level, loss in itertools.product(levels, losses):
        test_file = out/loss/f'noisy{level}_text.csv'
        files = [test_file, *(csv_path(out, loss, o, level) for o in PRUNES)]
        todo.append((level, loss, run_path(out, loss, level), test_file, files))
    for *_, folder, _, files in todo:
        if not (overwrite and 'train' in steps): check_settings(folder, files, settings)

    for level, loss, folder, test_file, files in todo:
        df, test = frames[level]
        print(f'{loss}, {level} % noise', flush=True)
        with working(folder, files, settings, steps, overwrite):
            if 'train' in steps: train(folder, df, settings, loss, wandb)
            if 'eval' in steps: evaluate(folder, df, test, settings, loss)
            if 'predict' in steps: predict_test(folder, test_file, df, test, settings, loss)
            for o in prunes if 'predict' in steps else []:
                predict(folder, csv_path(out, loss, o, level), o, df)
    rows = []
    for level, loss, prune in itertools.product(levels, losses, prunes):
        made = made_with(run_path(out, loss, level), settings)
        if made and csv_path(out, loss, prune, level).exists():
            rows.append(score_row(out, loss, prune, level, frames[level][0]))
    if not rows: return None
    table = pd.DataFrame(rows)
    written(out/'experiments.csv', lambda o: table.to_csv(o, index=False))
    print(table.to_string(index=False, float_format='{:.3f}'.format))
    return table
