"Tweets with wrong labels as frames of text, label, true_label and is_valid, and what their classifiers share"
import re
from pathlib import Path

import numpy as np
import pandas as pd
from fastai.losses import CrossEntropyLossFlat, LabelSmoothingCrossEntropy
from fastai.metrics import accuracy, skm_to_fastai
from sklearn.metrics import f1_score

__all__ = ['classifier_args', 'covid_tweets', 'informative_f1']

CLASSES = 'INFORMATIVE', 'UNINFORMATIVE'
SETS = 'train', 'valid', 'test'
MASKS = 'HTTPURL', '@USER'


def covid_tweets(
    path,  # Folder of train.tsv, valid.tsv and test.tsv of WNUT-2020 Task 2, with or without the line Id, Text, Label
    sets=('train', 'valid'),  # Which of them to read
    pct_noise=0,  # Wrong training labels to plant in per cent, 0 to 100
    seed=42,  # Seed of what is wrong
    masks=False,  # Whether to keep the words HTTPURL and @USER, which stand for links and names; the seed drops them
) -> pd.DataFrame:  # Columns id, text, label, true_label, hashtags, set, is_valid; a row a tweet
    """Tweets on COVID-19, INFORMATIVE or UNINFORMATIVE (Nguyen et al., "WNUT-2020 Task 2", W-NUT 2020).

    Quotation marks mean nothing, so texts are as they were written. `hashtags` are what follows a #, without it, parted
    by spaces; NA where there are none. `is_valid` is True but for train.tsv; `label` is true_label, but for the share
    `pct_noise` of train.tsv. Raises FileNotFoundError where a file is missing, ValueError for a line without three
    columns, for other labels, an unknown set and a share outside 0 to 100."""
    if not 0 <= pct_noise <= 100: raise ValueError(f"pct_noise is {pct_noise!r}: pass per cent, 0 to 100")
    sets = [sets] if isinstance(sets, str) else list(sets)
    if not sets or not {*sets} <= {*SETS} or len({*sets}) < len(sets):
        raise ValueError(f"sets is {sets!r}: choose of train, valid and test, each once")
    df = pd.concat([_read(Path(path)/f'{o}.tsv').assign(set=o) for o in sets], ignore_index=True)
    if not masks: df['text'] = [' '.join(w for w in o.split(' ') if w not in MASKS) for o in df.text]
    true, label, train = df.label, df.label.to_numpy(dtype=object, copy=True), np.flatnonzero(df.set == 'train')
    wrong = np.random.default_rng(seed).choice(train, round(pct_noise/100*len(train)), replace=False)
    label[wrong] = np.where(label[wrong] == CLASSES[0], *reversed(CLASSES))
    tags = [' '.join(re.findall(r'#(\S+)', o)) or 'NA' for o in df.text]
    df = df.assign(label=label, true_label=true, hashtags=tags, is_valid=df.set != 'train')
    return df[['id', 'text', 'label', 'true_label', 'hashtags', 'set', 'is_valid']]


def informative_f1(
    vocab,  # Class names, INFORMATIVE among them
):
    "fastai metric: F1, 0 to 1, of the class INFORMATIVE, as WNUT-2020 Task 2 ranks; 0 where none is found"
    return skm_to_fastai(f1_score, labels=[list(vocab).index(CLASSES[0])], average='macro', zero_division=0.)


def classifier_args(
    vocab,  # Class names
    label_smoothing,  # Whether the loss is LabelSmoothingCrossEntropy, not cross-entropy
    kwargs,  # Arguments of the Learner that a person passed
) -> dict:
    "`kwargs` with a loss and with metrics: accuracy, and `informative_f1` where there is such a class"
    if label_smoothing and 'loss_func' in kwargs:
        raise ValueError("label_smoothing and loss_func are both given: pass one of them")
    loss_func = LabelSmoothingCrossEntropy() if label_smoothing else CrossEntropyLossFlat()
    metrics = [accuracy, informative_f1(vocab)] if CLASSES[0] in list(vocab) else [accuracy]
    return {'loss_func': loss_func, 'metrics': metrics, **kwargs}


def _read(file):
    "id, text and label of one file"
    if not file.is_file():
        raise FileNotFoundError(f"{file} is not there: get {file.name} of WNUT-2020 Task 2 "
                                "(github.com/VinAIResearch/COVID19Tweet) and put it there")
    try:
        with open(file, encoding='utf-8-sig', newline='\n') as f: lines = [o.rstrip('\r\n').split('\t') for o in f]
    except UnicodeDecodeError as e: raise ValueError(f"{file} is not UTF-8 ({e}): save it so") from e
    if lines and [o.lower() for o in lines[0]] == ['id', 'text', 'label']: lines[0] = ['']
    for i, o in enumerate(lines, 1):
        if o == ['']: continue
        if len(o) != 3: raise ValueError(f"{file}, line {i} has {len(o)} columns: id, text and label needed")
        if o[2] not in CLASSES:
            raise ValueError(f"{file}, line {i} has the label {o[2][:80]!r}: {' or '.join(CLASSES)} needed")
    return pd.DataFrame([o for o in lines if o != ['']], columns=['id', 'text', 'label'], dtype=object)
