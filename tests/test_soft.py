"Soft targets against torch and plain loops, on every kind of Learner, and nothing left behind"
import copy
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.core import Callback
from fastai.callback.fp16 import MixedPrecision
from fastai.callback.mixup import CutMix, MixUp
from fastai.callback.schedule import *
from fastai.learner import load_learner
from fastai.losses import CrossEntropyLossFlat, FocalLossFlat, LabelSmoothingCrossEntropyFlat
from fastai.metrics import accuracy
from fastai.tabular.all import (
    Categorify,
    CategoryBlock,
    TabDataLoader,
    TabularPandas,
    tabular_learner,
)
from fastai.text.all import TextDataLoaders
from helpers import DIGITS, digit_dls, plant, quiet, tiny_learn, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score
from torch import nn
from torch.nn import functional as F

import fastai_clean.learner  # noqa: F401  # Patches Learner.oof
from fastai_clean.callbacks import (
    ConfidentLearningCallback,
    ItemWeightsCallback,
    SoftPseudoLabelCallback,
)
from fastai_clean.data import ids_of, labels_of
from fastai_clean.data.batch_items import BatchItems
from fastai_clean.interpret import CleanInterpretation
from fastai_clean.losses import GeneralizedCrossEntropy, SoftLoss, soft_targets
from fastai_clean.oof import OutOfFold

WEIGHT = torch.tensor([.5, 1., 2., 3.])


def batch(n=7, c=4, seed=0):
    g = torch.Generator().manual_seed(seed)
    pred, soft = (torch.randn(n, c, generator=g)*3 for _ in range(2))
    return pred, soft.softmax(1), torch.randint(c, (n,), generator=g)


@pytest.mark.parametrize('reduction', ['mean', 'sum', 'none'])
@pytest.mark.parametrize('base, kw', [
    (lambda r: CrossEntropyLossFlat(reduction=r), {}), (lambda r: nn.CrossEntropyLoss(reduction=r), {}),
    (lambda r: partial(F.cross_entropy, reduction=r), {}), (lambda r: F.cross_entropy, {}),
    (lambda r: nn.CrossEntropyLoss(label_smoothing=.2, reduction=r), dict(label_smoothing=.2)),
    (lambda r: CrossEntropyLossFlat(label_smoothing=.2, reduction=r), dict(label_smoothing=.2)),
    (lambda r: LabelSmoothingCrossEntropyFlat(eps=.2, reduction=r), dict(label_smoothing=.2)),
    (lambda r: CrossEntropyLossFlat(weight=WEIGHT, reduction=r), dict(weight=WEIGHT)),
    (lambda r: nn.CrossEntropyLoss(weight=WEIGHT, label_smoothing=.1, reduction=r),
     dict(weight=WEIGHT, label_smoothing=.1))])
def test_soft_targets_give_torchs_cross_entropy_with_probabilities(base, kw, reduction):
    pred, soft, hard = batch()
    loss = SoftLoss(base(reduction))
    if not hasattr(loss.base, 'reduction'): loss.reduction = reduction
    if isinstance(loss.base, partial): loss.reduction = reduction
    pred.requires_grad_()
    got, want = loss(pred, soft), F.cross_entropy(pred, soft, reduction=reduction, **kw)
    torch.testing.assert_close(torch.as_tensor(got), want, rtol=1e-6, atol=1e-6)
    a, b = (torch.autograd.grad(o.sum(), pred, retain_graph=True)[0] for o in (got, want))
    torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
    kwargs = {} if hasattr(loss.base, 'reduction') else dict(reduction=reduction)
    assert torch.equal(torch.as_tensor(loss(pred, hard)), torch.as_tensor(loss.base(pred, hard, **kwargs)))


@pytest.mark.parametrize('base', [FocalLossFlat(gamma=2.), LabelSmoothingCrossEntropyFlat(eps=.1), F.multi_margin_loss,
                                  GeneralizedCrossEntropy(), CrossEntropyLossFlat(ignore_index=2)])
def test_any_loss_is_its_expectation_over_the_classes(base):
    pred, soft, _ = batch()
    one = lambda i, k: float(base(pred[i:i + 1], torch.tensor([k])).nan_to_num())
    want = [sum(float(soft[i, k])*one(i, k) for k in range(4)) for i in range(len(pred))]
    loss = SoftLoss(base)
    loss.base = copy.deepcopy(base)
    assert float(loss(pred, soft)) == pytest.approx(np.mean(want), abs=1e-5)
    assert float(loss(pred, soft*torch.arange(7.)[:, None])) == pytest.approx(np.mean(want*np.arange(7)), abs=1e-5)


def test_one_hot_targets_are_the_labels():
    pred, _, hard = batch()
    for base in (CrossEntropyLossFlat(), FocalLossFlat(), LabelSmoothingCrossEntropyFlat()):
        torch.testing.assert_close(torch.as_tensor(SoftLoss(base)(pred, F.one_hot(hard, 4).float())),
                                   torch.as_tensor(base(pred, hard)), rtol=0, atol=1e-6)


def test_loss_is_its_base_in_everything_else():
    base = CrossEntropyLossFlat()
    loss = SoftLoss(base)
    loss.reduction = 'sum'
    assert base.reduction == 'sum' and loss.y_int and loss.axis == -1
    out = torch.randn(2, 4)
    assert torch.equal(loss.decodes(out), out.argmax(1)) and torch.equal(loss.activation(out), out.softmax(1))


def test_a_loss_without_items_is_refused():
    def flat(pred, target, reduction='mean'): return pred.mean()
    with pytest.raises(TypeError, match='soft targets need one per item'): SoftLoss(flat)(*batch()[:2])


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(['issues', 'confident', 'all']), st.floats(0, 1), st.floats(.1, 10),
       st.floats(0, 1))
def test_soft_targets_match_a_loop(seed, which, threshold, temperature, mix):
    rng = np.random.default_rng(seed)
    probs, labels, issue = rng.dirichlet(np.ones(3)*.5, 8), rng.integers(0, 3, 8), rng.random(8) < .5
    probs[3] = np.nan
    mask, targets = soft_targets(probs, labels, issue, which=which, threshold=threshold, temperature=temperature,
                                 mix=mix)
    for i in range(8):
        want = i != 3 and (which == 'all' or (probs[i].max() >= threshold and (which == 'confident' or issue[i])))
        assert mask[i] == want
        hard = np.eye(3)[labels[i]]
        p = np.exp((np.log(probs[i]) - np.log(probs[i]).max())/temperature) if want else hard
        np.testing.assert_allclose(targets[i], mix*p/p.sum() + (1 - mix)*hard if want else hard, atol=1e-6)


@pytest.mark.parametrize('kw, match', [(dict(which='some'), 'which'), (dict(threshold=2), 'threshold is 2'),
                                       (dict(temperature=0), 'temperature is 0'), (dict(mix=-1), 'mix is -1'),
                                       (dict(warmup=-1), 'warmup is -1')])
def test_values_out_of_range_are_refused_at_once(kw, match):
    with pytest.raises(ValueError, match=match): SoftPseudoLabelCallback('nowhere', **kw)


LABELS, WRONG = plant(DIGITS.target[:100], .3)


def digits(**kw): return tiny_learn(digit_dls(range(80), range(80, 100), LABELS, shuffle=True, **kw), metrics=accuracy)


def known(learn, seed=0, labels=None, c=10):
    "An OutOfFold of the learner's training set whose probabilities are random"
    ids = ids_of(learn.dls.train_ds, learn.path)
    labels = np.array([int(o[-1]) for o in learn.dls.train_ds]) if labels is None else labels
    return OutOfFold(np.random.default_rng(seed).dirichlet(np.ones(c), len(ids)), labels, ids=ids,
                     vocab=list(learn.dls.vocab) if hasattr(learn.dls, 'vocab') else None)


class Watch(Callback):
    "What the loss gets, and the items it is of"
    order = 100
    def __init__(self): self.seen = []
    def before_train(self): self.items = BatchItems(self.dls.train).start()
    def after_train(self): self.items.stop()

    def after_pred(self):
        idxs = self.items.idxs.clone() if self.training else None
        self.seen.append((self.training, idxs, [torch.as_tensor(o).clone() for o in self.learn.yb]))

    def after_batch(self): self.seen[-1] += ([o.clone() for o in self.learn.yb],)


@pytest.mark.parametrize('workers', [0, 2])
def test_chosen_items_get_their_probabilities_and_the_rest_their_labels(workers, capsys):
    learn, watch = digits(num_workers=workers), Watch()
    oof = known(learn)
    cb = SoftPseudoLabelCallback(oof, threshold=.5, which='confident')
    learn.fit(2, cbs=[cb, watch])
    mask, targets = soft_targets(oof.pred_probs, oof.targets, which='confident', threshold=.5)
    assert 0 < mask.sum() < 80 and cb.n_soft == mask.sum()
    assert f'{mask.sum()} of 80 training items get soft targets' in capsys.readouterr().out
    soft = [o for o in watch.seen if o[0] and mask[o[1].numpy()].any()]
    assert len(soft) > 4
    for training, idxs, yb, after in watch.seen:
        if not training: assert not yb[0].is_floating_point()
        elif mask[idxs.numpy()].any(): torch.testing.assert_close(yb[0], torch.as_tensor(targets)[idxs])
        if training: assert after[0].tolist() == oof.targets[idxs.numpy()].tolist()


def test_ids_in_any_order_and_classes_by_name_are_matched():
    learn = digits()
    oof = known(learn)
    order = np.random.default_rng(1).permutation(80)
    shuffled = OutOfFold(oof.pred_probs[order][:, ::-1], 9 - oof.targets[order], ids=[oof.ids[i] for i in order],
                         vocab=list(oof.vocab)[::-1])
    a, b = (SoftPseudoLabelCallback(o, which='all') for o in (oof, shuffled))
    for cb in (a, b): digits().fit(1, cbs=cb)
    assert torch.equal(a._targets, b._targets)
    some = SoftPseudoLabelCallback((oof.ids[:5], oof.pred_probs[:5]), which='all')
    digits().fit(1, cbs=some)
    assert some.n_soft == 5


def test_a_saved_out_of_fold_and_an_interpretation_are_sources(tmp_path):
    learn = digits()
    learn.fit(1, cbs=ConfidentLearningCallback(2, mode='folds'))
    learn.oof.save(tmp_path/'oof')
    interp = CleanInterpretation.from_learner(learn, filter_by='predicted_neq_given')
    a, b = (SoftPseudoLabelCallback(o, threshold=0) for o in (tmp_path/'oof', interp))
    for cb in (a, b): digits().fit(1, cbs=cb)
    assert b.n_soft == interp.issues.is_issue.sum() and a.n_soft == (
        CleanInterpretation.from_learner(learn).issues.is_issue.sum())


@pytest.mark.parametrize('source, error, match', [
    (lambda o: (['x', 'y'], np.eye(10)[:2]), ValueError, 'source has none of the 80 training items'),
    (lambda o: (o.ids, o.pred_probs[:, :5]), ValueError, '5 classes, but the training set has 10'),
    (lambda o: (o.ids[:3], o.pred_probs), ValueError, 'source has 3 ids'),
    (lambda o: (['0', '0'], np.eye(10)[:2]), ValueError, '1 ids twice'),
    (lambda o: (o.ids, o.pred_probs*3), ValueError, 'not probabilities'), (lambda o: 7, TypeError, 'source is a int'),
    (lambda o: 'nowhere', FileNotFoundError, 'nowhere'),
    (lambda o: OutOfFold(o.pred_probs, o.targets, ids=o.ids, vocab=[*'abcdefghij']), ValueError, "the class '0'")])
def test_sources_of_other_items_are_refused_before_the_first_batch(source, error, match):
    learn = digits()
    before = copy.deepcopy(learn.model.state_dict())
    loss, attrs = learn.loss_func, set(vars(learn.dls.train))
    with pytest.raises(error, match=match):
        learn.fit(1, cbs=SoftPseudoLabelCallback(source(known(learn)), which='all'))
    assert all(torch.equal(v, before[k]) for k, v in learn.model.state_dict().items())
    assert learn.loss_func is loss and set(vars(learn.dls.train)) == attrs


@pytest.mark.parametrize('kind', [partial(SoftPseudoLabelCallback, which='all'), ItemWeightsCallback])
@pytest.mark.parametrize('form', ['oof', 'folder', 'interp', 'other vocab'])
def test_source_with_other_labels_is_refused_with_count_and_example(kind, form, tmp_path):
    learn = digits()
    oof = known(learn)
    wrong = oof.targets.copy()
    wrong[[3, 5]] = (wrong[[3, 5]] + 1) % 10
    source = OutOfFold(oof.pred_probs, wrong, ids=oof.ids, vocab=oof.vocab)
    if form == 'folder': source = source.save(tmp_path/'oof')
    if form == 'other vocab':
        source = OutOfFold(oof.pred_probs[:, ::-1], 9 - wrong, ids=oof.ids, vocab=oof.vocab[::-1])
    if form == 'interp':
        source = CleanInterpretation(learn, learn.dls.train, None, None, oof.pred_probs, wrong, oof.vocab)
    match = f"another label for 2 of 80 items than the training set, first '3': {wrong[3]} instead of {oof.targets[3]}"
    with pytest.raises(ValueError, match=match): learn.fit(1, cbs=kind(source))
    # The labels of two items were corrected since: that is for the user to say
    digits().fit(1, cbs=kind(source, changed_labels=True))


def test_source_of_a_shuffled_frame_is_refused_even_with_changed_labels():
    learn = digits()
    oof = known(learn)
    order = np.random.default_rng(0).permutation(80)
    anew = OutOfFold(oof.pred_probs[order], oof.targets[order], ids=oof.ids, vocab=oof.vocab)
    for changed in (False, True):
        cb = SoftPseudoLabelCallback(anew, which='all', changed_labels=changed)
        with pytest.raises(ValueError, match='source has another label for .. of 80 items'): learn.fit(1, cbs=cb)


def test_probabilities_in_a_frame_are_taken_by_ids_and_class_names():
    oof = known(digits())
    df = pd.DataFrame(oof.pred_probs, index=oof.ids, columns=oof.vocab)
    a, b = (SoftPseudoLabelCallback((oof.ids, o), which='all') for o in (df, df.iloc[::-1, ::-1]))
    for cb in (a, b): digits().fit(1, cbs=cb)
    assert torch.equal(a._targets, b._targets)
    with pytest.raises(ValueError, match='index that does not fit'):
        digits().fit(1, cbs=SoftPseudoLabelCallback((oof.ids, df.rename({'3': 'x'})), which='all'))


def test_corrected_labels_train_with_the_old_probabilities_if_that_is_said(tmp_path):
    learn = digits()
    learn.fit(1, cbs=ConfidentLearningCallback(2, mode='folds'))
    session = CleanInterpretation.from_learner(learn).review(tmp_path/'j.jsonl', user='me')
    first = session.issues.iloc[0]
    session.relabel(first.id, next(o for o in session.vocab if o != first.given))
    new = tiny_learn(session.apply_dls(learn))
    with pytest.raises(ValueError, match='another label for 1 of 80 items'):
        new.fit(1, cbs=ItemWeightsCallback(learn.oof))
    new.fit(1, cbs=ItemWeightsCallback(learn.oof, changed_labels=True))


def test_nothing_softened_is_told_with_the_reason(capsys):
    learn = digits()
    learn.fit(1, cbs=SoftPseudoLabelCallback(known(learn), threshold=1., which='confident'))
    assert 'the 80 items have a confidence of at most 0.' in capsys.readouterr().out
    oof = known(learn)
    sure = OutOfFold(np.eye(10)[oof.targets], oof.targets, ids=oof.ids, vocab=oof.vocab)
    quiet_one = digits()
    with quiet_one.no_logging(): quiet_one.fit(1, cbs=SoftPseudoLabelCallback(sure))
    assert capsys.readouterr().out == ''
    digits().fit(1, cbs=SoftPseudoLabelCallback(sure))
    assert 'none of them is a label issue' in capsys.readouterr().out


def test_hard_targets_alone_train_as_without():
    def weights(cb):
        torch.manual_seed(0)
        learn = digits()
        learn.dls.train.rng.seed(0)
        learn.fit(2, cbs=cb)
        return learn.model.state_dict(), learn.recorder.values
    sure = OutOfFold(np.eye(10)[LABELS[:80]], LABELS[:80], ids=[str(i) for i in range(80)], vocab=list(range(10)))
    (a, values), (b, same) = weights(None), weights(SoftPseudoLabelCallback(sure))
    assert all(torch.equal(a[k], b[k]) for k in a) and values == same
    c, _ = weights(SoftPseudoLabelCallback(sure, which='all'))
    assert all(torch.allclose(a[k].float(), c[k].float(), atol=1e-5) for k in a)


def test_class_weights_divide_every_batch_alike_where_some_have_no_softened_item():
    learn, seen = digits(), []
    weight = torch.linspace(1, 20, 10)
    learn.loss_func = CrossEntropyLossFlat(weight=weight)

    class Look(Callback):
        order = 50
        def after_loss(self):
            if self.training: seen.append((learn.pred.detach().clone(), self.y.clone(), float(learn.loss)))
    oof = known(learn)
    one = (oof.ids[:1], np.eye(10)[oof.targets[:1]])
    learn.fit(1, cbs=[SoftPseudoLabelCallback(one, which='all'), Look()])
    for pred, y, loss in seen:
        want = F.cross_entropy(pred, torch.as_tensor(y), weight=weight, reduction='none').mean()
        assert loss == pytest.approx(float(want), abs=1e-4)


def test_warmup_keeps_the_labels_for_its_epochs():
    learn, watch = digits(), Watch()
    learn.fit(3, cbs=[SoftPseudoLabelCallback(known(learn), which='all', warmup=2), watch])
    soft = [yb[0].is_floating_point() for training, _, yb, _ in watch.seen if training]
    assert soft == [False]*10 + [True]*5


@pytest.mark.parametrize('mixer', [MixUp, CutMix, None])
@pytest.mark.parametrize('loss', [CrossEntropyLossFlat(), LabelSmoothingCrossEntropyFlat(), F.cross_entropy,
                                  CrossEntropyLossFlat(weight=torch.linspace(.5, 2, 10)), FocalLossFlat()])
def test_mixing_and_other_losses_train(mixer, loss):
    learn = digits()
    learn.loss_func = loss
    cbs = [SoftPseudoLabelCallback(known(learn), which='confident', threshold=.4), ItemWeightsCallback(known(learn)),
           *([] if mixer is None else [mixer(.4)])]
    learn.fit(2, cbs=cbs)
    assert learn.loss_func is loss and np.isfinite(learn.recorder.losses[-1])


def test_mixup_mixes_the_soft_targets():
    learn = digits()
    oof, seen = known(learn), []

    class Both(Callback):
        order = 50
        def after_pred(self):
            if self.training:
                lam = learn.mix_up.lam[:, None]
                seen.append((self.learn.pred.detach().clone(), torch.lerp(learn.mix_up.yb1[0], self.learn.yb[0], lam)))

        def after_loss(self):
            if self.training: seen[-1] += (self.learn.loss.detach().clone(),)
    learn.fit(1, cbs=[SoftPseudoLabelCallback(oof, which='all'), MixUp(), Both()])
    for pred, mixed, loss in seen: assert float(loss) == pytest.approx(float(F.cross_entropy(pred, mixed)), abs=1e-5)


def test_text_and_tables_train_and_their_items_line_up():
    df = pd.DataFrame({'text': [f'word{i % 3} and {"more "*(i % 4)}end' for i in range(40)], 'label': [*'ab']*20})
    dls = TextDataLoaders.from_df(df, text_col='text', label_col='label', bs=8, valid_pct=.2, seed=0, seq_len=8)

    class Bag(nn.Module):
        def __init__(self):
            super().__init__()
            self.e = nn.EmbeddingBag(200, 2)
        def forward(self, x): return self.e(x)
    learn = tiny_learn_of(dls, Bag())
    to = TabularPandas(pd.DataFrame({'x': [*'pqrs']*10, 'y': [*'ab']*20}), [Categorify], cat_names=['x'], y_names='y',
                       y_block=CategoryBlock(), splits=([*range(30)], [*range(30, 40)]))
    table = quiet(tabular_learner(to.dataloaders(bs=8, dl_type=TabDataLoader), layers=[8]))
    for o in (learn, table):
        vocab = o.dls.vocab[-1] if isinstance(o.dls.vocab[0], list) else list(o.dls.vocab)
        n = len(o.dls.train_ds)
        ids = ids_of(o.dls.train_ds, o.path)
        probs = np.random.default_rng(0).dirichlet(np.ones(2), n)
        watch = Watch()
        oof = OutOfFold(probs, labels_of(o.dls.train).targets, ids=ids, vocab=vocab)
        o.fit(1, cbs=[SoftPseudoLabelCallback(oof, which='all'), watch])
        for training, idxs, yb, _ in watch.seen:
            if training: np.testing.assert_allclose(yb[0], probs[idxs], atol=1e-6)


def tiny_learn_of(dls, model):
    from fastai.learner import Learner
    return quiet(Learner(dls, model, CrossEntropyLossFlat()))


EVENTS = ['before_fit', 'before_epoch', 'before_train', 'before_batch', 'after_pred', 'after_loss', 'before_backward',
          'after_backward', 'before_step', 'after_step', 'after_batch', 'after_train', 'before_validate',
          'after_validate', 'after_epoch', 'after_fit']


@pytest.mark.parametrize('order', [-5, 100])
@pytest.mark.parametrize('event', [*EVENTS, 'model', 'interrupt'])
def test_loss_and_loader_are_put_back_after_an_exception_in_any_event(event, order):
    learn = digits()
    loss, attrs = learn.loss_func, dict(vars(learn.dls.train))

    class Fail(Callback):
        pass
    Fail.order = order
    def fail(self): raise KeyboardInterrupt if event == 'interrupt' else RuntimeError('broken')
    if event == 'model': learn.model.forward = lambda x: fail(None)
    else: setattr(Fail, 'after_pred' if event == 'interrupt' else event, fail)
    with pytest.raises((RuntimeError, KeyboardInterrupt)):
        learn.fit(2, cbs=[SoftPseudoLabelCallback(known(learn), which='all'), ItemWeightsCallback(known(learn)),
                          MixUp(), Fail()])
    assert learn.loss_func is loss
    assert {'do_item', 'do_batch'}.isdisjoint(vars(learn.dls.train))
    assert vars(learn.dls.train)['after_batch'] is attrs['after_batch']
    guards = {'_call_one', '_with_events'}
    assert event == 'before_fit' or guards.isdisjoint(vars(learn))
    if event == 'model': return
    learn.fit(1)
    assert learn.loss_func is loss
    learn.fit(1, cbs=SoftPseudoLabelCallback(known(learn), which='all'))
    assert learn.loss_func is loss and guards.isdisjoint(vars(learn)) and 'do_item' not in vars(learn.dls.train)


def test_validation_prediction_and_lr_find_are_as_ever():
    learn = digits()
    cb = SoftPseudoLabelCallback(known(learn), which='all')
    learn.add_cb(cb)
    learn.fit(1)
    loss = learn.validate()
    learn.remove_cb(cb)
    assert loss == learn.validate()
    preds, targs = learn.get_preds()
    assert accuracy_score(targs, preds.argmax(1)) == pytest.approx(learn.recorder.values[-1][-1])
    learn.add_cb(cb)
    learn.lr_find(num_it=5, show_plot=False)
    assert learn.loss_func is cb.loss_func and not isinstance(learn.loss_func, SoftLoss)


def test_export_holds_no_probabilities_and_loads(tmp_path):
    learn = digits()
    learn.path = tmp_path
    learn.add_cb(SoftPseudoLabelCallback(known(learn), which='all'))
    learn.fit(1)
    learn.export('a.pkl')
    loaded = load_learner(tmp_path/'a.pkl')
    cb = next(o for o in loaded.cbs if isinstance(o, SoftPseudoLabelCallback))
    assert cb.source is None and cb._targets is None
    loaded.dls = learn.dls
    with pytest.raises(ValueError, match='source is None'): loaded.fit(1)


def test_mixed_precision_trains():
    learn = digits()
    learn.add_cb(MixedPrecision(amp_mode='bf16') if 'amp_mode' in MixedPrecision.__init__.__code__.co_varnames
                 else MixedPrecision())
    learn.fit(1, cbs=SoftPseudoLabelCallback(known(learn), which='all'))
    assert np.isfinite(learn.recorder.losses[-1])


def test_folds_of_the_same_fit_see_no_soft_target():
    def oof(*cbs):
        torch.manual_seed(0)
        learn = digits()
        learn.fit(1, cbs=[*cbs, ConfidentLearningCallback(2, mode='folds')])
        return learn.oof.pred_probs
    source = known(digits())
    np.testing.assert_array_equal(oof(), oof(SoftPseudoLabelCallback(source, which='all')))


def test_item_weights_weigh_each_items_loss():
    learn, seen = digits(), []
    oof = known(learn)
    cb = ItemWeightsCallback(oof)

    class Look(Callback):
        order = 50
        def after_loss(self):
            if self.training: seen.append((learn.pred.detach().clone(), self.items.idxs.clone(), float(learn.loss)))
        def before_train(self): self.items = BatchItems(self.dls.train).start()
        def after_train(self): self.items.stop()
    learn.fit(1, cbs=[cb, Look()])
    quality = oof.pred_probs[np.arange(80), oof.targets]
    weights = torch.as_tensor(quality/quality.mean())
    for pred, idxs, loss in seen:
        losses = F.cross_entropy(pred, torch.as_tensor(oof.targets)[idxs], reduction='none')
        assert loss == pytest.approx(float((losses*weights[idxs]).mean()), abs=1e-5)


def test_labels_changed_in_the_loop_are_refused():
    learn = digits()

    class Change(Callback):
        order = -5
        def before_batch(self): self.learn.yb = (self.y.flip(0),)
    with pytest.raises(ValueError, match="the batch's labels are not those of its items"):
        learn.fit(1, cbs=[Change(), SoftPseudoLabelCallback(known(learn), which='all')])


@pytest.mark.slow
def test_soft_labels_of_true_probabilities_beat_the_wrong_labels():
    labels, wrong = plant(DIGITS.target[:600], .4)
    def accuracy_of(cb):
        torch.manual_seed(0)
        dls = digit_dls(range(600), range(600, 900), np.concatenate([labels, DIGITS.target[600:]]), shuffle=True)
        learn = tiny_learn(dls, tiny_model(), metrics=accuracy)
        learn.fit(15, 3e-3, cbs=cb)
        return learn.recorder.values[-1][-1]
    smooth = np.eye(10)[DIGITS.target[:600]]*.9 + .01
    source = ([str(i) for i in range(600)], smooth)
    assert accuracy_of(SoftPseudoLabelCallback(source, which='all')) > accuracy_of(None) + .05
