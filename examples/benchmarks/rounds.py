"""Three rounds of a review on real Imagenette with 5 % wrong labels: review, apply, train again.

    python examples/benchmarks/rounds.py --features FILE.npz --labels noisy_imagenette.csv

FILE.npz has `X` (n, d), features of a pretrained body, and `names` (n,), the image files. In each
round heads on the features give out-of-fold probabilities of the labels as they are now,
`find_issues` makes the table, and a ReviewSession on one and the same journal opens it. The
reviewer, who knows the true labels, decides on every issue that is not decided yet; `apply` makes
the labels of the next round. Prints what each round says, and a table: wrong labels before and
after, decisions, those carried over, minutes at `seconds` a decision, and the accuracy of a head
trained on the labels, on the validation set, whose labels are true."""
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np
import pandas as pd
import torch
from fastcore.script import call_parse

from fastai_clean.data import fold_numbers
from fastai_clean.issues import find_issues
from fastai_clean.oof.heads import held_out_heads, predict_head, standardise
from fastai_clean.review import ReviewSession


def load(features, labels, column):
    "Frame of path, label, true and is_valid, and the features (n, d) of its rows"
    df = pd.read_csv(labels)
    with np.load(features) as file: names, x = file['names'], file['X']
    at = {'/'.join(o.split('/')[-3:]): i for i, o in enumerate(names)}
    df = df[df.path.isin(at.keys())].reset_index(drop=True)
    frame = pd.DataFrame({'path': df.path, 'label': df[column], 'true': df.noisy_labels_0,
                          'is_valid': df.is_valid})
    return frame, x[[at[o] for o in df.path]]


def out_of_fold(x, codes, c, n_folds, seed):
    "Probabilities (n, c) of heads that did not see the item"
    fold = fold_numbers(codes, n_folds, seed=seed)
    probs = np.zeros((len(codes), c), dtype=np.float32)
    heads = held_out_heads(x, torch.as_tensor(codes), fold, 'classification', c, seed)
    for k, head in heads:
        held = np.flatnonzero(fold == k)
        probs[held] = predict_head(head, x[held], 'classification').numpy()
    return probs


def accuracy(x, codes, xv, true, c, seed):
    "That of one head, trained on all items, on the validation set"
    # The head that is held out of a fold without items has seen all
    fold = np.r_[fold_numbers(codes, 4, seed=seed) + 1]
    _, head = next(held_out_heads(x, torch.as_tensor(codes), fold, 'classification', c, seed))
    return float((predict_head(head, xv, 'classification').argmax(1).numpy() == true).mean())


def review(session, true, keep_right=True):
    "Decide on every issue that nobody decided on; how many those are"
    mask = session.issues.is_issue.to_numpy() & ~np.isin(session.ids, list(session.state))
    ids = session.ids[mask]
    given = session.given.to_numpy()[mask]
    want = true.loc[ids].to_numpy()
    if (given == want).any(): session.keep(ids[given == want])
    if (given != want).any(): session.relabel(ids[given != want], want[given != want])
    return len(ids), int((given != want).sum())


@call_parse
def main(
    features: str = '/work/est/imagenette_160.npz',  # Features and file names (.npz)
    labels: str = '/work/shared/data/noisy_imagenette/noisy_imagenette.csv',  # The given labels
    column: str = 'noisy_labels_5',  # Which of them
    n_rounds: int = 3,
    n_folds: int = 5,
    seconds: float = 3.,  # A decision takes
    seed: int = 0,
):
    "Print what each round says, and a row for each"
    torch.set_num_threads(1)
    df, x = load(Path(features), labels, column)
    x = torch.as_tensor(standardise(x, x[~df.is_valid.to_numpy()]))
    vocab = sorted(df.true.unique())
    code = {o: i for i, o in enumerate(vocab)}
    valid = df.is_valid.to_numpy()
    frame = df[~valid].set_index('path')
    true = frame.true
    xt = x[np.flatnonzero(~valid)]
    xv = x[np.flatnonzero(valid)]
    truth = df.true[valid].map(code).to_numpy()
    rows = []
    with TemporaryDirectory() as folder:
        for k in range(n_rounds + 1):
            start = perf_counter()
            codes = frame.label.map(code).to_numpy()
            score = accuracy(xt, codes, xv, truth, len(vocab), seed)
            wrong = int((frame.label != true).sum())
            row = dict(round=k + 1, wrong=wrong, accuracy=score)
            if k == n_rounds:
                rows.append(dict(row, round='after'))
                break
            probs = out_of_fold(xt, codes, len(vocab), n_folds, seed)
            issues = find_issues(codes, probs, vocab=vocab, ids=list(frame.index))
            session = ReviewSession(issues, f'{folder}/journal.jsonl', vocab=vocab, user='truth')
            carried = len(session.carried)
            n, corrected = review(session, true)
            print(f'round {k + 1}:', *session.news, f'({perf_counter() - start:.0f} s)', flush=True)
            frame = session.apply(frame)
            rows.append(row | dict(
                issues=int(issues.is_issue.sum()), reviewed=n, corrected=corrected, carried=carried,
                contradicting=len(session.contradicting), minutes=n*seconds/60,
                left=int((frame.label != true).sum())))
        print(session.rounds.drop(columns='time').to_string(index=False))
    print(pd.DataFrame(rows).to_string(index=False, float_format='{:.4g}'.format, na_rep=''))
