"How users call the public names: read by mypy (see pyproject.toml), never run"
from pathlib import Path

import numpy as np
import pandas as pd
from fastai.learner import Learner

from fastai_clean.all import (
    CleanInterpretation,
    ConfidentLearningCallback,
    Dynamics,
    GeneralizedCrossEntropy,
    OutOfFold,
    ReviewSession,
    StreamedIssues,
    class_health,
    confident_joint,
    find_issues,
    find_multilabel_issues,
    find_regression_issues,
    label_quality,
    noise_rate,
    top_pairs,
)


def arrays(labels: np.ndarray, pred_probs: np.ndarray) -> pd.DataFrame:
    df: pd.DataFrame = find_issues(labels, pred_probs, 'both', ['self_confidence', 'normalized_margin'])
    find_issues(labels.tolist(), pred_probs, score=lambda labels, probs: probs[:, 0], vocab=['cat', 'dog'])
    find_multilabel_issues([[0], [0, 1]], pred_probs, ids=['a', 'b'])
    find_regression_issues(labels, pred_probs)
    quality: np.ndarray = label_quality(labels, pred_probs, 'normalized_margin')
    joint: np.ndarray = confident_joint(labels, pred_probs)
    share: float = noise_rate(labels, pred_probs)
    worst: pd.DataFrame = class_health(labels, joint=joint, vocab=['cat', 'dog'])
    top_pairs(labels, pred_probs.argmax(1), quality < share, joint, n=None)
    flagged: np.ndarray = StreamedIssues(labels, pred_probs).mask('prune_by_class', frac_noise=.5)
    return pd.concat([df[flagged], worst])


def training(learn: Learner, path: Path) -> CleanInterpretation:
    learn.fit(1, cbs=ConfidentLearningCallback(n_folds=3, cache_dir=path, mode='auto', cache_key='second try'))
    learn.loss_func = GeneralizedCrossEntropy(.5)
    oof = OutOfFold.load(path, mmap_mode='r')
    saved: Path = oof.save(str(path), overwrite=True)
    Dynamics.load(saved).table()
    interp: CleanInterpretation = CleanInterpretation.from_learner(learn, ds_idx=1, score='aum')
    return interp


def deciding(interp: CleanInterpretation, df: pd.DataFrame) -> pd.DataFrame:
    session: ReviewSession = interp.review('decisions.jsonl')
    session.relabel(session.ids[0], 'cat')
    session.delete(session.ids[1:3])
    session.keep(['a.png', 'b.png'])
    session.apply_folder('images', Path('clean_images'))
    ReviewSession(interp.issues, 'decisions.jsonl', user='ann')
    return session.apply(df, column='label')
