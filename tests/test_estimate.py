"Counting by review: what is drawn, and what decisions on it say of all items"
import numpy as np
import pandas as pd
import pytest
from helpers import DIGITS, digit_dls, plant, quiet, tiny_learn

from fastai_clean.interpret import CleanInterpretation
from fastai_clean.review import ReviewSession
from fastai_clean.review.estimate import Estimate
from fastai_clean.review.sample import sample

NONE = pd.DataFrame({'id': [], 'action': []}, dtype=object)


def table(seed=0, n=1500, rate=.08, sharp=3., scale='quality', classes=3):
    "An issue table whose labels are wrong the likelier the lower their quality, and which are wrong"
    rng = np.random.default_rng(seed)
    wrong = rng.random(n) < rate
    score = rng.normal(size=n) - sharp*wrong
    quality = {'quality': 1/(1 + np.exp(-score)), 'any': score*100, 'ties': score.round(), 'zeros': (score > -1)*1.}[scale]
    ids = pd.Series([f'{i}.png' for i in range(n)], dtype=object)
    given = rng.choice(list('abcdefgh')[:classes], n)
    return pd.DataFrame({'id': ids, 'given': given, 'predicted': 'a', 'confidence': .5, 'label_quality': quality,
                         'is_issue': quality < .5}), pd.Series(wrong, ids)


def decide(ids, wrong, user='ann'):
    return pd.DataFrame({'id': ids, 'action': ['delete' if wrong[o] else 'keep' for o in ids], 'user': user}, dtype=object)


def reviewed(df, wrong, n=100, seed=0):
    return decide(sample(df, NONE, n, seed), wrong)


@pytest.fixture
def session(tmp_path):
    df, wrong = table(n=300)
    s = ReviewSession(df, tmp_path/'decisions.jsonl', user='ann')
    s.wrong = wrong
    return s


def decide_in(session, ids):
    for i in ids: (session.delete if session.wrong[i] else session.keep)(i)


@pytest.mark.parametrize('rate, sharp', [(.02, 4.), (.1, 3.), (.4, 2.)])
def test_a_sample_of_100_gives_an_interval_that_holds(rate, sharp):
    held = []
    for seed in range(12):
        df, wrong = table(seed, rate=rate, sharp=sharp)
        e = Estimate(df, reviewed(df, wrong, seed=seed), seed)
        held.append(e.low <= wrong.sum() <= e.high)
        assert e.high - e.low < 4*wrong.sum()
    assert np.mean(held) >= .8


@pytest.mark.parametrize('scale', ['quality', 'any', 'ties', 'zeros'])
def test_scores_of_any_kind_give_a_probability_that_falls_in_them(scale):
    df, wrong = table(scale=scale)
    e = Estimate(df, reviewed(df, wrong))
    decided = e.probs.index.isin(reviewed(df, wrong).id)
    left = e.probs[~decided]
    quality = df.set_index('id').label_quality[left.index]
    assert left.between(0, 1).all() and quality.is_monotonic_increasing
    assert (np.diff(left) <= 1e-12).all()
    assert e.low <= wrong.sum() <= e.high


def test_decided_items_are_known():
    df, wrong = table()
    d = reviewed(df, wrong)
    e = Estimate(df, d)
    assert (e.probs[d.id] == wrong[d.id]).all()
    assert e.found == wrong[d.id].sum() <= e.low
    issue = e.cut().is_issue
    assert (issue[d.id] == wrong[d.id]).all()
    assert e.decided == e.sampled == 100 and e.high <= len(df) - (~wrong[d.id]).sum()


def test_probabilities_add_up_to_about_the_number():
    df, wrong = table(rate=.2)
    e = Estimate(df, reviewed(df, wrong))
    assert e.probs.sum() == pytest.approx(e.wrong, rel=.05)
    assert e.share == e.wrong/e.items


def test_a_sample_asked_again_goes_on_without_repeats_until_none_is_left():
    df, wrong = table(n=150)
    d = NONE
    seen = []
    for _ in range(4):
        ids = sample(df, d, 40)
        assert not {*ids} & {*seen}
        seen += ids
        d = pd.concat([d, decide(ids, wrong)])
    assert sorted(seen) == sorted(df.id)
    assert sample(df, d, 40) == []
    e = Estimate(df, d)
    assert e.low == e.wrong == e.high == wrong.sum() and e.to_find().n == 0
    assert 'you can stop' in e.advice.lower()


def test_a_sample_is_the_same_whatever_the_order_of_the_rows_and_another_with_another_seed():
    df, wrong = table()
    mixed = df.sample(frac=1, random_state=1)
    assert sample(df, NONE, 50) == sample(mixed, NONE, 50) != sample(df, NONE, 50, seed=1)
    d = reviewed(df, wrong)
    a = Estimate(df, d)
    b = Estimate(mixed, d.sample(frac=1, random_state=2))
    # Sums of floats depend on their order
    pd.testing.assert_series_equal(a.probs, b.probs, rtol=1e-6)
    assert str(a) == str(b)


def test_a_short_sample_is_the_beginning_of_a_long_one():
    df, _ = table()
    assert sample(df, NONE, 20) == sample(df, NONE, 60)[:20]


def test_a_sample_is_dense_where_the_scores_doubt_and_thin_elsewhere():
    df, wrong = table(n=3000, rate=.1, sharp=4.)
    d = decide(sample(df, NONE, 40), wrong)
    rank = df.label_quality.rank().set_axis(df.id)[sample(df, d, 60)]
    doubt = rank.between(200, 450).sum()/250
    assert doubt > 2*(rank < 150).sum()/150 and doubt > 5*(rank > 1500).sum()/1500
    assert (rank > 1500).any()


def test_a_sample_uses_what_was_decided():
    df, wrong = table(n=3000, rate=.3)
    once = sample(df, NONE, 100)
    d = decide(sample(df, NONE, 25), wrong)
    for _ in range(3): d = pd.concat([d, decide(sample(df, d, 25), wrong)])

    def width(e): return e.high - e.low
    assert width(Estimate(df, d)) < width(Estimate(df, decide(once, wrong)))


def test_who_decides_only_on_what_looks_wrong_does_not_raise_the_number():
    df, wrong = table(rate=.05)
    d = reviewed(df, wrong)
    worst = df.sort_values('label_quality').id[:300]
    picked = [o for o in worst if wrong[o] and o not in {*d.id}][::2]
    e = Estimate(df, pd.concat([d, decide(picked, wrong)]))
    assert e.low <= wrong.sum() <= e.high
    assert e.sampled < e.decided and 'known facts' in str(e)


def test_who_decides_on_all_the_worst_is_used():
    df, wrong = table(rate=.05)
    worst = df.sort_values('label_quality').id[:300].tolist()
    e = Estimate(df, decide(worst, wrong))
    assert e.low <= wrong.sum() <= e.high and e.sampled > 200


def test_decisions_that_were_not_drawn_are_said():
    df, wrong = table()
    ids = df.sort_values('label_quality').id[10:600:12].tolist()
    assert 'session.sample() did not draw' in str(Estimate(df, decide(ids, wrong)))


def test_no_decisions_are_refused_in_one_sentence():
    df, _ = table()
    for d in (NONE, decide(['0.png'], {'0.png': True}).assign(action='unsure')):
        with pytest.raises(ValueError, match=r'^decisions .* decide on those that session\.sample\(\) names first$'):
            Estimate(df, d)


def test_three_decisions_give_a_wide_interval():
    df, wrong = table()
    few = Estimate(df, reviewed(df, wrong, 3))
    many = Estimate(df, reviewed(df, wrong, 100))
    assert few.low <= wrong.sum() <= few.high
    assert few.high - few.low > 2*(many.high - many.low)
    assert 'since the interval is wide' in few.advice


@pytest.mark.parametrize('rate', [0., 1.])
def test_all_right_or_all_wrong_is_not_taken_for_certain(rate):
    df, wrong = table(rate=rate)
    e = Estimate(df, reviewed(df, wrong))
    # What never occurs, that all are wrong, is missed by less than 1 %
    assert e.low <= wrong.sum() <= 1.01*e.high and e.low < e.high
    assert e.share < .05 if rate == 0 else e.share > .8
    assert len(e.curve()) > 1 and e.cut().n >= 0


def test_tables_of_a_few_items_are_estimated():
    for n in (1, 2, 9):
        df, wrong = table(n=n, rate=.5)
        e = Estimate(df, reviewed(df, wrong, max(1, n//2)))
        assert 0 <= e.low <= e.high <= n
        assert 'of' in str(e) and e.advice


def test_unsure_decisions_widen_the_interval():
    df, wrong = table(rate=.2)
    d = reviewed(df, wrong)
    unsure = d.assign(action=d.action.where(np.arange(100) % 4 > 0, 'unsure'))
    e = Estimate(df, unsure)
    sure = Estimate(df, d)
    assert e.unsure == 25 and e.decided == 75
    assert e.high - e.low > 1.2*(sure.high - sure.low)
    assert '25 more are unsure' in str(e)


def test_two_reviewers_who_disagree_widen_the_interval_and_leave_those_items_open():
    df, wrong = table(rate=.2)
    d = reviewed(df, wrong)
    differs = [*d.id[::10]]
    bob = decide(d.id, {o: wrong[o] != (o in differs) for o in d.id}, 'bob')
    agreed = Estimate(df, pd.concat([d, decide(d.id, wrong, 'bob')]))
    e = Estimate(df, pd.concat([d, bob]))
    assert e.high - e.low > agreed.high - agreed.low
    assert e.probs[differs].between(.001, .999).any()
    assert agreed.low <= wrong.sum() <= agreed.high


def test_a_second_reviewer_corrects_the_errors_of_both():
    df, wrong = table(rate=.02, n=3000)
    ids = sample(df, NONE, 150)
    rng = np.random.default_rng(0)

    def erring(user): return decide(ids, {o: wrong[o] != (rng.random() < .07) for o in ids}, user)
    ann, bob = erring('ann'), erring('bob')
    alone = Estimate(df, ann)
    both = Estimate(df, pd.concat([ann, bob]))
    assert abs(both.wrong - wrong.sum()) < abs(alone.wrong - wrong.sum())
    assert both.low <= wrong.sum() <= both.high
    assert 'no second reviewer' in str(alone) and 'no second reviewer' not in str(both)


def test_a_decision_on_another_label_is_not_used():
    df, wrong = table()
    d = reviewed(df, wrong).merge(df[['id', 'given']])
    other = d.assign(given=d.given.where(np.arange(100) > 4, 'zebra'))
    e = Estimate(df, other)
    assert e.decided == 95 and e.unused == 5
    assert '5 decisions on other items or labels not used' in str(e)
    with pytest.raises(ValueError, match='says of no item'): Estimate(df, d.assign(given='zebra'))


def test_relabelling_to_the_given_label_keeps_it():
    df, wrong = table(n=40)
    d = pd.DataFrame({'id': df.id, 'action': 'relabel', 'label': df.given})
    assert Estimate(df, d).high == 0


def test_an_unknown_action_and_missing_columns_are_named():
    df, wrong = table(n=40)
    with pytest.raises(ValueError, match="has no column 'action'"): Estimate(df, df[['id']])
    d = decide(df.id[:5], wrong)
    with pytest.raises(ValueError, match="the action 'skip'"): Estimate(df, d.assign(action='skip'))
    with pytest.raises(ValueError, match='missing for 1 of 40'):
        Estimate(df.assign(label_quality=df.label_quality.where(df.id != '3.png')), d)
    with pytest.raises(ValueError, match='^n is 0: '): sample(df, NONE, 0)


def test_a_table_without_scores_is_in_its_order():
    df, wrong = table()
    df = df.sort_values('label_quality').assign(label_quality=np.nan)
    e = Estimate(df, reviewed(df, wrong))
    assert e.low <= wrong.sum() <= e.high and e.probs.index[0] == df.id.iloc[0]


def test_a_regression_table_is_estimated():
    df, wrong = table()
    df = df.assign(given=np.linspace(0, 1, len(df)), predicted=.5)
    e = Estimate(df, reviewed(df, wrong).merge(df[['id', 'given']]))
    assert e.decided == 100 and e.low <= wrong.sum() <= e.high


def test_classes_with_ten_decisions_have_an_estimate_of_their_own():
    df, wrong = table(n=4000, rate=.1, classes=2)
    bad = df.given == 'a'
    # All of the errors are in one of the classes
    wrong &= bad.to_numpy()
    e = Estimate(df, reviewed(df, wrong, 300))
    a, b = e.per_class.itertuples()
    assert a.low <= wrong[bad.to_numpy()].sum() <= a.high
    assert b.wrong < a.wrong/4
    few = Estimate(df, reviewed(df, wrong, 8)).per_class
    assert few.wrong.isna().all() and few['items'].sum() == 4000


def test_cuts_reach_what_was_wanted():
    df, wrong = table(rate=.2)
    e = Estimate(df, reviewed(df, wrong))
    best, sure, wide = e.cut(), e.cut(precision=.97), e.cut(recall=.97)
    assert sure.n < best.n < wide.n
    assert sure.precision >= .97 and wide.recall >= .97 and best.f1 >= max(sure.f1, wide.f1)
    assert best.is_issue.sum() == best.n
    true = wrong[best.is_issue.index]
    assert 2*(true & best.is_issue).sum()/(true.sum() + best.n) == pytest.approx(best.f1, abs=.1)
    with pytest.raises(ValueError, match='pass one of them$'): e.cut(.5, .5)
    with pytest.raises(ValueError, match='^recall is 2: '): e.cut(recall=2)


def test_a_precision_that_no_item_has_is_refused():
    df, wrong = table(rate=0.)
    with pytest.raises(ValueError, match='ask for less$'): Estimate(df, reviewed(df, wrong)).cut(precision=.99)


def test_what_is_found_grows_with_what_is_reviewed():
    df, wrong = table(rate=.2)
    e = Estimate(df, reviewed(df, wrong))
    c = e.curve()
    assert c.columns.tolist() == ['reviewed', 'found', 'low', 'high']
    assert c.iloc[0].tolist() == [0, e.found, e.found, e.found]
    assert c.iloc[-1].tolist()[1:] == [e.wrong, e.low, e.high] and c.reviewed.iloc[-1] == 1400
    assert c.found.is_monotonic_increasing and (c.low <= c.found).all() and (c.found <= c.high).all()
    assert e.among_next(0).n == 0 <= e.among_next(50).n <= e.among_next(200).n
    assert e.among_next(10**9).n == pytest.approx(e.wrong - e.found, rel=.1)
    with pytest.raises(ValueError, match='^k is -1: '): e.among_next(-1)


def test_reviewing_the_advised_number_finds_the_wanted_share():
    held = []
    for seed in range(10):
        df, wrong = table(seed, rate=.15)
        d = reviewed(df, wrong, seed=seed)
        e = Estimate(df, d, seed)
        left = e.probs.index[~e.probs.index.isin(d.id)]
        n, low, high = e.to_find()
        assert low <= n <= high
        held.append(e.found + wrong[left[:int(n)]].sum() >= .95*wrong.sum())
        assert e.to_find(.5).n <= n <= e.to_find(1).n
    assert np.mean(held) >= .8
    with pytest.raises(ValueError, match='^share is 0: '): e.to_find(0)


def test_the_estimate_says_what_it_found_in_plain_english():
    df, wrong = table(rate=.2)
    text = str(Estimate(df, reviewed(df, wrong)))
    assert text.startswith('about ') and ' of 1,500 labels are wrong (' in text
    assert '; 95 % of them are in the next ' in text and text.endswith('This rests on 100 decisions; no second reviewer checked any.')


def test_flags_fit_other_orders_of_the_items_and_refuse_other_labels():
    df, wrong = table()
    e = Estimate(df, reviewed(df, wrong))
    mixed = df.sample(frac=1, random_state=3)
    mask = e.flagged(mixed.id, mixed.given)
    assert (e.cut().is_issue[mixed.id].to_numpy() == mask).all()
    with pytest.raises(ValueError, match='has another label for 1 of'):
        e.flagged(df.id, df.given.where(df.id != '5.png', 'zebra'))
    with pytest.raises(ValueError, match="lacks 1 of the 1500 items, first 'new.png'"):
        e.flagged(df.id.where(df.id != '5.png', 'new.png'), df.given)


def test_a_session_draws_and_estimates(session):
    first = session.sample(30)
    assert session.sample(30) == first
    decide_in(session, first[:10])
    session.unsure(first[10])
    assert not {*first[:11]} & {*session.sample(30)}
    decide_in(session, session.sample(30))
    e = session.estimate()
    assert e.decided == e.sampled == 40 and e.unsure == 1
    assert e.low <= session.wrong.sum() <= e.high
    session.undo()
    assert session.estimate().decided == 39


def test_another_session_on_the_journal_goes_on_with_the_sample(session):
    decide_in(session, session.sample(20))
    other = ReviewSession(session.issues, session.path, user='bob')
    assert other.sample(20) == session.sample(20)
    other.wrong = session.wrong
    decide_in(other, [session.decisions.id.iloc[0]])
    votes = session.votes
    assert votes.columns.tolist() == ['id', 'given', 'action', 'label', 'user', 'carried']
    assert not votes.carried.any()
    assert votes.user.value_counts().to_dict() == {'ann': 20, 'bob': 1}


def test_decisions_of_an_earlier_round_are_known_facts_and_do_not_form_the_curve(session):
    def decide(on, ids):
        given = on.issues.set_index('id').given
        for i in ids:
            if session.wrong[i] and i not in on.carried: on.relabel(i, 'b' if given[i] == 'a' else 'a')
            else: on.keep(i)

    decide(session, session.sample(100))
    first = session.estimate()
    assert first.carried == 0 and first.low <= session.wrong.sum() <= first.high
    frame = session.issues.set_index('id')[['given']].rename(columns={'given': 'label'})
    labels = session.apply(frame).label
    applied = session.issues.assign(given=labels.loc[session.issues.id].to_numpy())
    again = ReviewSession(applied, session.path, user='ann', vocab=session.vocab)
    left = session.wrong.sum() - first.found

    # What was drawn is right now, whatever the rest is
    alone = again.estimate()
    assert alone.carried == alone.decided == 100 and alone.sampled == 0 and alone.low <= left <= alone.high
    assert '100 decisions of earlier rounds alone' in str(alone)
    more = again.sample(60)
    assert not {*more} & {*again.carried}
    decide(again, more)
    second = again.estimate()
    assert second.sampled == 60 and second.low <= left <= second.high
    assert second.high - second.low < (alone.high - alone.low)/2


def test_a_label_that_was_decided_and_applied_is_right(session, tmp_path):
    decide_in(session, session.sample(20))
    worst = session.ids[0]
    now = 'b' if session.issues.given.iloc[0] == 'a' else 'a'
    session.relabel(worst, now)
    applied = session.issues.assign(given=session.issues.given.where(session.issues.id != worst, now))
    after = ReviewSession(applied, session.path, user='ann', vocab=session.vocab)
    assert session.estimate().unused == 0 and after.estimate().unused == 0
    assert after.estimate().carried == 21 and after.estimate().probs[worst] == 0


def test_ids_of_a_session_with_sets_are_drawn_whole(tmp_path):
    df, wrong = table(n=60)
    both = pd.concat([df.assign(set='train'), df.assign(set='valid')])
    s = ReviewSession(both, tmp_path/'d.jsonl')
    ids = s.sample(10)
    assert all(o.startswith(('train:', 'valid:')) for o in ids)
    s.keep(ids)
    assert s.estimate().items == 120


@pytest.fixture(scope='module')
def interp():
    labels, wrong = plant(DIGITS.target[:400], .1)
    learn = quiet(tiny_learn(digit_dls(range(100), range(100, 400), labels)))
    probs = np.full((300, 10), .02)
    probs[np.arange(300), DIGITS.target[100:400]] = .5 + .3*np.random.default_rng(0).random(300)
    res = CleanInterpretation(learn, learn.dls.valid, None, preds=probs/probs.sum(1, keepdims=True),
                              targs=labels[100:400], vocab=list(range(10)), how={'data set': 'validation set'})
    res.wrong = pd.Series(wrong[100:400], res.ids)
    return res


def decided_session(interp, path, n=60):
    s = interp.review(path/'d.jsonl', user='ann')
    true = dict(zip(interp.ids, DIGITS.target[100:400]))
    for i in s.sample(n): s.relabel(i, true[i]) if interp.wrong[i] else s.keep(i)
    return s


def test_an_interpretation_estimates_and_flags_by_it(interp, tmp_path):
    s = decided_session(interp, tmp_path)
    e = interp.estimate(s)
    assert str(e) == str(s.estimate())
    assert e.low <= interp.wrong.sum() <= e.high
    df = interp.find_issues(filter_by=e)
    assert df.is_issue.sum() == e.cut().n and interp.filter_by == 'estimate'
    assert (df.set_index('id').is_issue[s.decisions.id] == interp.wrong[s.decisions.id]).all()
    # A table of decisions fits every task
    assert interp.estimate(s.votes).wrong == e.wrong
    with pytest.raises(TypeError, match='^decisions is a list: '): interp.estimate([1])


def test_an_estimate_of_other_labels_is_refused(interp, tmp_path):
    e = decided_session(interp, tmp_path).estimate()
    e.given = e.given.where(e.given.index != interp.ids[0], 11)
    with pytest.raises(ValueError, match='has another label for 1 of 300 items'): interp.find_issues(filter_by=e)
    interp.find_issues()


@pytest.mark.filterwarnings('ignore:metrics without')
def test_decisions_of_a_session_are_corrections(interp, tmp_path):
    s = decided_session(interp, tmp_path)
    table = interp.evaluate(s, n_boot=5).set_index(['labels', 'metric'])
    fixed = interp.given.copy()
    at = {o: i for i, o in enumerate(interp.ids)}
    for o in s.decisions.itertuples():
        if o.action == 'relabel': fixed[at[o.id]] = o.label
    row = table.loc['corrected by a reviewer', 'accuracy']
    assert row.value == (fixed == interp.predicted).mean() and row['items'] == 300

    gone = s.decisions.id[s.decisions.action == 'relabel'].tolist()[:3]
    s.delete(gone)
    keep = np.array([o not in gone for o in interp.ids])
    row = interp.evaluate(s, n_boot=5).set_index(['labels', 'metric']).loc['corrected by a reviewer', 'accuracy']
    assert row.value == (fixed == interp.predicted)[keep].mean() and row['items'] == 297


@pytest.mark.filterwarnings('ignore:metrics without')
def test_corrections_of_another_data_set_are_refused(interp, tmp_path):
    df = interp.issues.copy()
    df.loc[df.id == interp.ids[5], 'given'] = (interp.given[5] + 1) % 10
    other = ReviewSession(df, tmp_path/'d.jsonl', vocab=list(range(10)))
    other.keep(interp.ids[5])
    with pytest.raises(ValueError, match='corrections has another label for 1 of 1 items'): interp.evaluate(other)
    assert 'other items or labels' in str(interp.estimate(pd.concat([other.votes, decide(interp.ids[:3], interp.wrong)])))
    few = ReviewSession(df.assign(id='new' + df.id), tmp_path/'e.jsonl', vocab=list(range(10)))
    few.keep(few.ids[0])
    with pytest.raises(ValueError, match='decides on 1 items that are not in the data set'): interp.evaluate(few)
