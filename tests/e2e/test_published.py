"Published out-of-fold probabilities of CIFAR-10N, where the project's shared data lies beside the checkout"
from pathlib import Path

import cleanlab
import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, precision_recall_curve, roc_auc_score

from fastai_clean.all import find_issues
from fastai_clean.issues import CLEANLAB, SCORES

FILE = Path(__file__).parents[3]/'shared/data/cifar10n/published_resnet18_oof.npz'
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not FILE.exists(), reason=f'{FILE} is not here')]


@pytest.fixture(scope='module')
def published():
    with np.load(FILE) as data: return data['noisy'], data['pred_probs'], data['noisy'] != data['true']


@pytest.mark.parametrize('filter_by', CLEANLAB)
def test_every_filter_agrees_with_cleanlab(published, filter_by):
    labels, probs, _ = published
    expected = cleanlab.filter.find_label_issues(labels, probs, filter_by=filter_by, n_jobs=1)
    assert np.array_equal(find_issues(labels, probs, filter_by).sort_index().is_issue, expected)


@pytest.mark.parametrize('score', SCORES)
def test_every_score_agrees_with_cleanlab(published, score):
    labels, probs, _ = published
    expected = cleanlab.rank.get_label_quality_scores(labels, probs, method=score)
    df = find_issues(labels, probs, score=score)
    assert np.array_equal(df.sort_index().label_quality, expected)
    assert np.array_equal(df.index, np.argsort(expected, kind='stable'))


def test_baseline_row_is_reproduced(published):
    labels, probs, wrong = published
    df = find_issues(labels, probs, 'prune_by_noise_rate').sort_index()
    doubt = 1 - df.label_quality
    precision, recall, _ = precision_recall_curve(wrong, doubt)
    found = dict(auroc=roc_auc_score(wrong, doubt), auprc=average_precision_score(wrong, doubt),
                 best_f1=(2*precision*recall/(precision + recall).clip(1e-12)).max(),
                 default=f1_score(wrong, df.is_issue),
                 neq=f1_score(wrong, find_issues(labels, probs, 'predicted_neq_given').sort_index().is_issue))
    assert {k: round(v, 3) for k, v in found.items()} == dict(auroc=.977, auprc=.875, best_f1=.792, default=.674,
                                                              neq=.747)
    assert wrong.sum() == 4505
