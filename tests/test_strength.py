"A model that is too weak to judge the labels is named, and a good one on bad labels is not"
import warnings

import numpy as np
import pytest
from helpers import digit_dls, tiny_learn

from fastai_clean._strength import kappa_between, strength_of, weakness
from fastai_clean.interpret import CleanInterpretation


def noisy(c, share, n=2000, seed=0, p=None):
    "Labels of `c` classes, and predictions of which a `share` is the label and the rest drawn like the labels"
    rng = np.random.default_rng(seed)
    given = rng.choice(c, n, p=p)
    return given, np.where(rng.random(n) < share, given, rng.permutation(given))


def test_chance_and_its_error_are_those_of_shuffled_labels():
    rng = np.random.default_rng(0)
    given, predicted = rng.choice(4, 80, p=[.5, .3, .1, .1]), rng.choice(4, 80, p=[.1, .6, .2, .1])
    found = strength_of(given, predicted)
    shuffled = np.array([(rng.permutation(given) == predicted).mean() for _ in range(20_000)])
    assert found.agreement == (given == predicted).mean()
    assert found.chance == pytest.approx(shuffled.mean(), abs=.002)
    assert found.error*(1 - found.chance) == pytest.approx(shuffled.std(), rel=.03)


@pytest.mark.parametrize('c, share, p', [(10, 0, None), (10, .02, None), (2, .05, None), (3, .0, [.9, .05, .05])])
def test_agreement_near_chance_is_named_with_both_figures(c, share, p):
    given, predicted = noisy(c, share, p=p)
    said = weakness(given, predicted)
    assert f'agrees with {(given == predicted).mean():.1%} of the given labels' in said
    assert f'{strength_of(given, predicted).chance:.1%} would be chance: it is too weak' in said


def test_majority_class_for_all_is_weak_however_often_it_is_right():
    given = np.repeat([0, 1], [950, 50])
    assert 'agrees with 95.0% of the given labels, and 95.0% would be chance' in weakness(given, np.zeros_like(given))


@pytest.mark.parametrize('c, share, p', [(10, .4, None), (100, .3, None), (2, .2, None), (2, .4, [.95, .05]),
                                         (1000, .3, None)])
def test_good_model_on_bad_labels_is_not_named(c, share, p):
    assert weakness(*noisy(c, share, p=p)) == ''


@pytest.mark.parametrize('given', [[0], [1, 1, 1, 1]])
def test_nothing_is_said_where_every_prediction_would_agree_by_chance(given):
    assert weakness(np.array(given), np.array(given)) == ''


def test_fold_that_failed_among_good_ones_is_named():
    given, predicted = noisy(5, .8, n=600)
    fold = np.arange(600) % 3
    assert weakness(given, predicted, fold=fold) == ''
    predicted[fold == 1] = 0
    assert weakness(given, predicted, fold=fold).startswith('the model of fold 1 agrees with')
    # A few items say nothing of a fold
    assert weakness(given, predicted, fold=np.where(np.arange(600) < 20, 1, 0)) == ''


@pytest.mark.parametrize('right, share_right_labels, weak', [(.5, .5, True), (.9, .25, False), (.5, 1, False)])
def test_repeats_that_agree_with_neither_labels_nor_each_other_are_named(right, share_right_labels, weak):
    true, given = noisy(5, share_right_labels, n=3000)
    rng = np.random.default_rng(3)
    votes = [np.where(rng.random(3000) < right, true, rng.permutation(true)) for _ in range(3)]
    between = kappa_between(votes)
    assert between == pytest.approx(right**2, abs=.05)
    said = weakness(given, votes[0], between=between)
    assert bool(said) == weak and weakness(given, votes[0]) == ''
    if weak: assert f"and its repeats with {between:.1%} of one another's predictions: it is too weak" in said


def test_one_repeat_says_nothing_of_agreement_between_repeats():
    assert kappa_between([]) is kappa_between([np.arange(3)]) is kappa_between([np.zeros(3), np.zeros(3)]) is None


def test_several_labels_per_item_are_judged_together_and_one_by_one():
    given = np.random.default_rng(0).random((400, 4)) < .3
    assert 'of the given single labels' in weakness(given, np.zeros_like(given), 'multilabel')
    predicted = given.copy()
    assert weakness(given, predicted, 'multilabel', list('abcd')) == ''
    predicted[:, 2] = False
    said = weakness(given, predicted, 'multilabel', list('abcd'))
    assert "too weak to judge 1 of the 4 labels, for example 'c'" in said


def test_regression_is_judged_by_ranks_which_one_gross_label_does_not_spoil():
    rng = np.random.default_rng(0)
    given = rng.normal(size=300)
    predicted = given + .5*rng.normal(size=300)
    given[0] = 1e9
    assert weakness(given, predicted, 'regression') == ''
    for bad in (np.zeros(300), rng.normal(size=300)):
        assert 'rank correlation of' in weakness(given, bad, 'regression')


def test_masks_of_background_alone_are_weak_and_void_pixels_do_not_count():
    given = np.zeros((4, 16, 16), int)
    given[:, :4, :4] = 1
    given[:, -1] = -1
    assert 'too weak' in weakness(given, np.zeros_like(given), 'segmentation')
    assert weakness(given, given.clip(0), 'segmentation') == ''


def test_weak_model_is_named_once_by_the_interpretation_and_with_each_file_and_a_good_one_is_not(tmp_path):
    learn = tiny_learn(digit_dls(range(100), range(100, 300)))
    with pytest.warns(UserWarning, match='too weak to judge') as said:
        interp = CleanInterpretation.from_learner(learn, ds_idx=1)
        assert interp.noise_rate > 0 and interp.health_score < .7 and interp.issues.is_issue.mean() > .3
    assert len([o for o in said if 'too weak' in str(o.message)]) == 1
    assert interp.weakness == str(said[0].message) and said[0].filename == __file__

    for write, name in ((interp.to_csv, 'a.csv'), (interp.to_review, 'b.csv'), (interp.to_parquet, 'c.parquet')):
        with pytest.warns(UserWarning, match=f'^{name} has the issues of a weak model: the model agrees with .* too weak') as said:
            assert write(tmp_path/name).exists()
        assert [o.filename for o in said] == [__file__]

    learn.dls = digit_dls(range(1000), range(1000, 1200))
    learn.fit(3, 1e-2)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        interp = CleanInterpretation.from_learner(learn, ds_idx=1)
        assert interp.weakness == '' and interp.to_csv(tmp_path/'good.csv').exists()
