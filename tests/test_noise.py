"Noise estimates, class tables and calibration against cleanlab and scipy called directly, and by property"
import cleanlab
import numpy as np
import pytest
from helpers import case
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from fastai_clean.all import (
    class_health,
    confident_joint,
    find_issues,
    label_quality,
    top_pairs,
)
from fastai_clean.issues import (
    apply_temperature,
    class_thresholds,
    fit_temperature,
    health_score,
    noise_matrix,
)


@pytest.mark.parametrize('seed', range(4))
def test_class_health_equals_cleanlab(seed):
    labels, probs = case(seed, 200)
    df = class_health(labels, probs, vocab=list('wxyz'))
    expected = cleanlab.dataset.rank_classes_by_label_quality(labels, probs)
    assert list(df.index) == ['wxyz'[i] for i in expected['Class Index']]
    assert np.allclose(df.label_noise, expected['Label Noise']) and np.allclose(df.label_quality, 1 - df.label_noise)
    assert np.allclose(df.inverse_label_noise, expected['Inverse Label Noise'])
    assert list(df.estimated_wrong) == list(expected['Label Issues'])
    assert df['items'].sum() == 200 and df['items']['w'] == (labels == 0).sum()


@pytest.mark.parametrize('seed', range(4))
def test_a_joint_that_is_there_gives_what_the_probabilities_give(seed):
    labels, probs = case(seed, 200)
    joint = confident_joint(labels, probs)
    assert health_score(labels, joint=joint) == health_score(labels, probs)
    assert np.array_equal(noise_matrix(labels, joint=joint), noise_matrix(labels, probs))
    assert class_health(labels, joint=joint).equals(class_health(labels, probs))
    overall = cleanlab.dataset.overall_label_health_score(labels=None, pred_probs=None, joint=joint/joint.sum(),
                                                          num_examples=200, verbose=False)
    assert health_score(labels, joint=joint) == pytest.approx(overall)


def test_thresholds_are_the_mean_self_confidence_of_each_class():
    labels, probs = case(3, 200)
    expected = [probs[labels == k, k].mean() for k in range(4)]
    assert np.allclose(class_thresholds(labels, probs), expected)
    assert np.isnan(class_thresholds(np.minimum(labels, 2), probs)[3])


def test_top_pairs_count_the_issues_of_each_pair():
    labels, probs = case(5, 400, sharp=.3)
    issues = find_issues(labels, probs, 'prune_by_noise_rate', vocab=list('wxyz'))
    flagged = issues.is_issue.sort_index().to_numpy()
    joint = confident_joint(labels, probs)
    pairs = top_pairs(labels, probs.argmax(1), flagged, joint, vocab=list('wxyz'), n=None)
    assert pairs['count'].sum() == flagged.sum() > 20 and pairs['count'].is_monotonic_decreasing
    expected = issues[issues.is_issue].groupby(['given', 'predicted']).size()
    assert {(o.given, o.predicted): o.count for o in pairs.itertuples()} == expected.to_dict()
    first = pairs.iloc[0]
    g, p = 'wxyz'.index(first.given), 'wxyz'.index(first.predicted)
    assert first.error_rate == joint[g, p]/(labels == g).sum()
    assert len(top_pairs(labels, probs.argmax(1), flagged, joint, n=2)) == 2


def test_top_pairs_of_small_integers_are_those_of_large_ones():
    labels, probs = case(5, 400, c=50, sharp=.3)
    joint, wrong = confident_joint(labels, probs), labels != probs.argmax(1)
    assert top_pairs(labels.astype(np.uint8), probs.argmax(1), wrong, joint.tolist()).equals(
        top_pairs(labels, probs.argmax(1), wrong, joint))
    with pytest.raises(ValueError, match='is_issue as booleans'):
        top_pairs(labels, probs.argmax(1), wrong.astype(int), joint)


def test_no_issues_give_no_pairs():
    assert not len(top_pairs([0, 1], np.array([0, 1]), np.zeros(2, bool), np.eye(2)))


# any score

@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_ensemble_of_scores_ranks_by_mean_rank_and_ignores_units(seed):
    labels, probs = case(seed)
    own = np.random.default_rng(seed).random(60)
    mixed = label_quality(labels, probs, ['self_confidence', own])
    assert np.allclose(mixed, label_quality(labels, probs, ['self_confidence', 100*own - 7]))
    assert mixed.min() > 0 and mixed.max() <= 1
    assert np.array_equal(label_quality(labels, probs, own), own)
    assert np.array_equal(label_quality(labels, probs, lambda y, p: p[np.arange(60), y]),
                          label_quality(labels, probs).astype(float))
    alone = find_issues(labels, probs, score=['self_confidence'])
    assert np.array_equal(alone.label_quality.rank(), find_issues(labels, probs).label_quality.rank())


@pytest.mark.parametrize('score, match', [
    ('loss', 'choose one of'), (np.zeros(3), '3 scores for 60 items'), (['loss'], 'choose'),
    (np.full(60, np.nan), '60 values that are not finite'), (lambda y, p: 1., r'shape \(\)')])
def test_scores_that_do_not_fit_are_named(score, match):
    labels, probs = case(0)
    with pytest.raises(ValueError, match=match): find_issues(labels, probs, score=score)


# temperature

@pytest.mark.parametrize('t', [.4, 1., 3.])
def test_temperature_of_a_miscalibrated_model_is_recovered(t):
    rng = np.random.default_rng(0)
    logits = 2*rng.normal(size=(20_000, 5))
    labels = np.array([rng.choice(5, p=p) for p in softmax(logits, 1)])
    found = fit_temperature(labels, softmax(logits*t, 1))
    assert found == pytest.approx(t, rel=.05)
    assert np.allclose(apply_temperature(softmax(logits*t, 1), t), softmax(logits, 1), atol=1e-9)


def test_temperature_keeps_the_argmax_and_the_dtype():
    labels, probs = case(2)
    res = apply_temperature(probs, 2.5)
    assert res.dtype == np.float32 and np.allclose(res.sum(1), 1) and (res.argmax(1) == probs.argmax(1)).all()
    with pytest.raises(ValueError, match='temperature is 0'): apply_temperature(probs, 0)


def test_temperature_of_one_hot_probabilities_is_finite():
    labels = np.arange(100) % 4
    assert np.isfinite(apply_temperature(np.eye(4)[labels], fit_temperature(labels[::-1], np.eye(4)[labels]))).all()
