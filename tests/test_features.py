"Heads on features of the untrained body: what they find, that they never look, the cache, and the choice of 'auto'"
import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastai.losses import BCEWithLogitsLossFlat, CrossEntropyLossFlat, MSELossFlat
from fastai.tabular.all import (
    Categorify,
    FillMissing,
    Normalize,
    TabDataLoader,
    TabularPandas,
    tabular_learner,
)
from fastai.text.all import (
    AWD_LSTM,
    SortedDL,
    TextDataLoaders,
    awd_lstm_clas_config,
    text_classifier_learner,
)
from fastai.torch_core import set_seed
from fastai.vision.all import ImageDataLoaders, create_head
from helpers import DIGITS, PIXELS, digit_dls, plant, quiet, tiny_learn, tiny_model
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import average_precision_score, r2_score
from torch import nn
from torch.nn import functional as F
from transformers import BertConfig, BertForSequenceClassification

from fastai_clean._strength import strength_of
from fastai_clean.all import CleanInterpretation, ConfidentLearningCallback
from fastai_clean.data import fold_numbers
from fastai_clean.oof import FitRecord, FoldLearners, FoldOptions
from fastai_clean.oof.auto import AutoFolds
from fastai_clean.oof.features import FeatureHeads, feature_layer
from fastai_clean.oof.heads import (
    Parts,
    _fit,
    _start,
    _trusted,
    held_out_heads,
    held_out_preds,
    predict_head,
    standardise,
)
from fastai_clean.text import SequenceLogits

TRAIN, VALID = np.arange(400), np.arange(400, 500)
LABELS, WRONG = plant(DIGITS.target, .15)


def two_groups(model): return [list(o.parameters()) for o in model.children()]


@pytest.fixture(scope='module')
def body():
    "Weights of a small net trained on 700 other digits, rightly labelled"
    torch.manual_seed(0)
    model = tiny_model(2)
    learn = tiny_learn(digit_dls(np.arange(600, 1300), VALID, bs=64, shuffle=True), model)
    with learn.no_logging(): learn.fit_one_cycle(20, 1e-2)
    return {k: v.clone() for k, v in model[0].state_dict().items()}


def pretrained(body=None, labels=LABELS, train=TRAIN, valid=VALID, bs=16):
    model = tiny_model(3)
    if body: model[0].load_state_dict(body)
    return tiny_learn(digit_dls(train, valid, labels, bs), model)


def heads_of(learn, n_folds=5, **kwargs):
    record = FitRecord(learn, None)
    cache_dir = kwargs.pop('cache_dir', None)
    options = FoldOptions(n_folds, mode='features', **kwargs)
    engine = FeatureHeads(FoldLearners(record, options), cache_dir)
    engine.run(record)
    return engine


def auprc(oof, wrong):
    "Average precision of the planted errors by self-confidence"
    return average_precision_score(wrong, -oof.pred_probs[range(len(oof)), oof.targets])


# what they find

@pytest.mark.slow
def test_pretrained_body_finds_planted_errors_far_better_than_in_sample_and_an_untrained_body(body):
    learn = pretrained(body, bs=64)
    oof, wrong = heads_of(learn).learn.oof, WRONG[TRAIN]
    found, untrained = auprc(oof, wrong), auprc(heads_of(pretrained()).learn.oof, wrong)
    learn.fit(60, 2e-2)
    probs, targs = learn.get_preds(dl=learn.dls.test_dl(learn.dls.train_ds.items, with_labels=True))
    in_sample = average_precision_score(wrong, -probs[range(len(targs)), targs])
    assert found > .9 and found > in_sample + .25 and found > untrained + .02, (found, in_sample, untrained)
    assert oof.config['mode'] == 'features' and oof.done.all() and len(oof.config['fold_metrics']) == 5


def test_result_is_used_as_that_of_the_folds(body, tmp_path):
    learn = pretrained(body)
    oof = heads_of(learn).learn.oof
    interp = CleanInterpretation.from_learner(learn)
    flagged = interp.issues.sort_index().is_issue.to_numpy()
    assert WRONG[TRAIN][flagged].mean() > .7 and oof.ids == [str(o) for o in TRAIN]
    again = type(oof).load(oof.save(tmp_path/'oof'))
    assert np.array_equal(again.pred_probs, oof.pred_probs) and again.config == json.loads(json.dumps(oof.config))


def test_features_are_the_inputs_of_the_head_and_the_heads_scikit_learns(body):
    learn = pretrained(body)
    engine = heads_of(learn)
    with torch.no_grad(): expected = learn.model[0].eval()(PIXELS[TRAIN]).numpy()
    assert np.allclose(engine.features, expected, atol=1e-5) and engine.layer == '1.1'
    x, y, penalty = torch.from_numpy(standardise(expected)), torch.from_numpy(LABELS[TRAIN]), .03
    assert np.allclose(x.mean(0), 0, atol=1e-5)
    w = _fit(Parts(x, y, np.arange(400), 10), penalty, 'classification', _start(y, x.shape[1], 'classification', 10), 1e-9)
    other = LogisticRegression(C=1/(penalty*len(x)), tol=1e-8, max_iter=1000).fit(x, y)
    assert np.allclose((x @ w[:-1] + w[-1]).softmax(1), other.predict_proba(x), atol=2e-3)
    z = torch.randn(400, 2, generator=torch.Generator().manual_seed(0)) + x[:, :2]
    w = _fit(Parts(x, z, np.arange(400), 2), penalty, 'regression', torch.zeros(x.shape[1] + 1, 2), 1e-9)
    assert np.allclose(x @ w[:-1] + w[-1], Ridge(penalty*len(x)).fit(x, z).predict(x), atol=2e-3)


@pytest.mark.parametrize('n_folds', [2, 3, 5])
def test_label_of_a_held_out_item_changes_nothing_in_the_head_that_predicts_it(n_folds):
    x, y = torch.from_numpy(standardise(DIGITS.data[TRAIN])), torch.from_numpy(LABELS[TRAIN])
    fold = fold_numbers(y.numpy(), n_folds)
    other = y.clone()
    other[fold == 0] = (other[fold == 0] + 3) % 10
    one, two = (dict(held_out_heads(x, o, fold, 'classification', 10, 0)) for o in (y, other))
    assert torch.equal(one[0].weights, two[0].weights) and one[0].penalty == two[0].penalty
    assert not any(torch.equal(one[k].weights, two[k].weights) for k in range(1, n_folds))


def test_noise_without_signal_is_predicted_by_the_frequency_of_the_classes():
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(300, 50)).astype('float32'))
    y = torch.from_numpy(rng.choice(2, 300, p=[.8, .2]))
    fold = fold_numbers(y.numpy(), 5)
    for k, head in held_out_heads(x, y, fold, 'classification', 2, 0):
        assert abs(predict_head(head, x[fold == k], 'classification')[:, 0].mean() - .8) < .05 and head.penalty > .3


def test_class_without_items_keeps_its_column_and_a_single_item_is_predicted(body):
    labels = np.where(LABELS == 9, 8, LABELS)
    labels[3] = 9
    oof = heads_of(pretrained(body, labels)).learn.oof
    assert oof.pred_probs.shape == (400, 10) and np.allclose(oof.pred_probs.sum(1), 1, atol=1e-5)
    assert oof.pred_probs[3, 9] < .02
    labels[3] = 8
    oof = heads_of(pretrained(body, labels)).learn.oof
    assert oof.pred_probs[:, 9].max() < .05 and oof.vocab == list(range(10))


def test_repeats_are_other_folds_averaged(body):
    runs = [heads_of(pretrained(body), seed=s) for s in (7, 8)]
    both = heads_of(pretrained(body), seed=7, n_repeats=2).learn.oof
    assert np.array_equal(both.fold, runs[0].learn.oof.fold) and both.config['n_repeats'] == 2
    mean = (runs[0].learn.oof.pred_probs + runs[1].learn.oof.pred_probs)/2
    assert np.allclose(both.pred_probs, mean, atol=1e-6)


# every kind of data

def test_kept_features_are_those_of_these_callbacks(tmp_path):
    class Power(Callback):
        def __init__(self, by): self.by = by
        def before_batch(self): self.learn.xb = tuple(x**self.by for x in self.xb)

    def probs(by, cache_dir=tmp_path):
        learn = tiny_learn(digit_dls(range(60), range(60, 80)), cbs=Power(by))
        return learn.oof_preds(mode='features', n_folds=2, cache_dir=cache_dir).pred_probs
    assert np.array_equal(probs(1.), probs(1.)) and not np.array_equal(probs(1.), probs(3.))
    assert np.array_equal(probs(3.), probs(3., None)) and len(list(tmp_path.iterdir())) == 2


def test_images_in_files_with_a_resnet(digit_folder):
    root, df = digit_folder
    dls = ImageDataLoaders.from_df(df, root, bs=16, num_workers=0, device='cpu')
    learn = image_learner(dls)
    engine = heads_of(learn, 2)
    linear = [m for m in learn.model[1].modules() if isinstance(m, nn.Linear)]
    assert engine.features.shape == (len(dls.train_ds), linear[0].in_features) and len(linear) == 2
    assert learn.oof.ids == [str(o) for o in dls.train_ds.items.index]


def image_learner(dls):
    "A Learner as `vision_learner` makes it: a body and fastai's head"
    body = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU())
    return quiet(Learner(dls, nn.Sequential(body, create_head(8, 10)), CrossEntropyLossFlat(), splitter=two_groups))


def test_texts_come_back_in_order_and_find_planted_errors():
    rng = np.random.default_rng(0)
    words = [[f'w{i}{j}' for j in range(8)] for i in range(2)]
    true = np.arange(120) % 2
    texts = [' '.join(rng.choice(words[t], rng.integers(3, 30))) for t in true]
    given = true.copy()
    wrong = rng.choice(120, 15, replace=False)
    given[wrong] = 1 - given[wrong]
    df = pd.DataFrame({'text': texts, 'label': given.astype(str), 'is_valid': False})
    df.loc[100:, 'is_valid'] = True
    dls = TextDataLoaders.from_df(df, text_col='text', label_col='label', valid_col='is_valid', bs=16, device='cpu')
    assert isinstance(dls.train, SortedDL)
    config = {**awd_lstm_clas_config, 'emb_sz': 24, 'n_hid': 32, 'n_layers': 2}
    learn = quiet(text_classifier_learner(dls, AWD_LSTM, pretrained=False, config=config))
    engine = heads_of(learn)
    assert engine.features.shape == (100, 72)
    one = heads_of(learn, n_folds=5).features
    assert np.array_equal(one, engine.features)
    assert auprc(learn.oof, given[:100] != true[:100]) > .8


def test_transformer_averages_the_states_of_real_tokens():
    config = BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                                     intermediate_size=16, num_labels=2)
    model = SequenceLogits(BertForSequenceClassification(config), 0).eval()
    rng, n = np.random.default_rng(0), 24
    ids = [torch.from_numpy(rng.integers(1, 50, rng.integers(2, 9))) for _ in range(n)]
    padded = [(F.pad(o, (0, 9 - len(o))), i % 2) for i, o in enumerate(ids)]
    dls = DataLoaders(DataLoader(padded, bs=5), DataLoader(padded, bs=5))
    learn = quiet(Learner(dls, model, loss_func=CrossEntropyLossFlat()))
    engine = heads_of(learn, 2)
    with torch.no_grad(): alone = [model.model.bert(o[None]).last_hidden_state[0].mean(0) for o in ids]
    assert engine.layer == 'model.bert' and np.allclose(engine.features, torch.stack(alone), atol=1e-5)


def test_table_finds_planted_errors():
    df = pd.DataFrame(DIGITS.data[:400], columns=[f'p{i}' for i in range(64)])
    df = df.assign(kind=np.where(DIGITS.target[:400] % 2, 'odd', 'even'), y=LABELS[:400].astype(str))
    to = TabularPandas(df, [Categorify, FillMissing, Normalize], ['kind'], [f'p{i}' for i in range(64)], 'y',
                       splits=(list(range(350)), list(range(350, 400))))
    learn = quiet(tabular_learner(to.dataloaders(bs=32, dl_type=TabDataLoader, device='cpu'), layers=[20, 10]))
    engine = heads_of(learn)
    assert engine.features.shape == (350, 64 + learn.model.embeds[0].embedding_dim)
    assert auprc(learn.oof, WRONG[:350]) > .9


def test_several_labels_and_numbers():
    x, true = DIGITS.data[TRAIN].astype('float32')/16, DIGITS.target[TRAIN]
    several = np.stack([true % 2 == 0, true > 4, true < 2], 1)
    flipped = np.random.default_rng(0).random(several.shape) < .05
    data = [(torch.from_numpy(a), torch.from_numpy((b ^ f).astype('float32'))) for a, b, f in zip(x, several, flipped)]
    learn = plain(data, 3, BCEWithLogitsLossFlat())
    heads_of(learn)
    assert learn.oof.task == 'multilabel' and learn.oof.pred_probs.shape == (400, 3)
    doubt = np.abs(learn.oof.targets - learn.oof.pred_probs)
    assert average_precision_score(flipped.ravel(), doubt.ravel()) > .4
    data = [(torch.from_numpy(a), torch.tensor(float(a[20] + a[30])*100 + 7)) for a in x]
    learn = plain(data, 1, MSELossFlat())
    heads_of(learn)
    assert learn.oof.pred_probs.shape == (400,) and r2_score(learn.oof.targets, learn.oof.pred_probs) > .95
    assert np.isclose(np.mean([o['r2'] for o in learn.oof.config['fold_metrics']]), 1, atol=.05)


def plain(data, n_out, loss, model=None):
    dls = DataLoaders(DataLoader(data, bs=32), DataLoader(data[:50], bs=32))
    return quiet(Learner(dls, model or nn.Sequential(nn.Linear(64, n_out)), loss_func=loss))


def test_models_without_features_are_refused_and_so_are_masks():
    net = nn.Sequential(nn.Conv2d(1, 10, 8), nn.Flatten())
    with pytest.raises(ValueError, match="no linear layer .* mode='folds'"):
        heads_of(quiet(Learner(digit_dls(TRAIN, VALID), net, loss_func=CrossEntropyLossFlat())))
    masks = [(torch.rand(3, 4, 4), torch.randint(0, 2, (4, 4))) for _ in range(8)]
    with pytest.raises(TypeError, match="segmentation, .* mode='folds'"):
        heads_of(plain(masks, 2, CrossEntropyLossFlat(axis=1), nn.Conv2d(3, 2, 1)), 2)
    with pytest.raises(ValueError, match='tta'): heads_of(pretrained(), tta='flip')
    with pytest.raises(ValueError, match='average'): heads_of(pretrained(), average='epochs')


@pytest.mark.parametrize('model, splitter, name', [
    (tiny_model(), two_groups, '1.1'), (tiny_model(), lambda m: list(m.parameters()), '1.1'),
    (nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))), two_groups, '1.0')])
def test_features_are_taken_before_the_head(model, splitter, name):
    assert feature_layer(model, splitter)[0] == name


# rounds

def rounds(x, y, n_rounds, n_folds=5, fold=None):
    fold = fold_numbers(y, n_folds, seed=0) if fold is None else fold
    x = torch.from_numpy(standardise(x))
    return held_out_preds(x, torch.from_numpy(y), [fold], 'classification', 10, 0, n_rounds)


def pairs(share=.3, n=600):
    "Digits, of which a share has the label of the next digit"
    true = DIGITS.target[:n].astype(int)
    wrong = np.random.default_rng(0).random(n) < share
    return DIGITS.data[:n].astype('float32'), (true + wrong) % 10, wrong


def test_rounds_rank_wrong_labels_that_are_alike_higher_and_leave_more_and_more_of_them_out():
    x, y, wrong = pairs()
    found = [rounds(x, y, n) for n in (1, 3)]
    one, three = (average_precision_score(wrong, -o.preds[range(len(y)), y]) for o in found)
    assert three > one + .03 and len(found[1].heads) == 15
    none, few, more = found[1].left_out
    assert none == 0 < few < more < .5 and np.allclose(found[1].preds.sum(1), 1, atol=1e-5)


@pytest.mark.parametrize('n_folds', [2, 3, 5])
def test_no_round_knows_the_labels_that_it_predicts(n_folds):
    x, y, _ = pairs()
    fold = fold_numbers(y, n_folds, seed=0)
    changed = y.copy()
    changed[fold == 1] = np.roll(y[fold == 1], 1)
    one, two = rounds(x, y, 3, fold=fold).preds, rounds(x, changed, 3, fold=fold).preds
    assert np.array_equal(one[fold == 1], two[fold == 1]) and not np.array_equal(one, two)


def test_rounds_agree_with_labels_drawn_at_random_no_more_than_by_chance():
    x, y, _ = pairs(0)
    found = []
    for seed in range(4):
        drawn = np.random.default_rng(seed).permutation(y)
        found.append(strength_of(drawn, rounds(x, drawn, 3).preds.argmax(1)).kappa)
    assert abs(np.mean(found)) < .025, found


def test_rounds_keep_every_class_and_work_for_a_few_items():
    x, y, _ = pairs()
    probs = np.eye(10)[(y + 1) % 10]
    kept = y[_trusted(probs, y, 1.)]
    assert np.array_equal(np.bincount(kept, minlength=10), np.ceil(np.bincount(y)/4))
    for n, n_folds in ((3, 2), (5, 2), (6, 3), (4, 4)):
        found = rounds(x[:n], np.arange(n) % 2, 3, n_folds)
        assert np.isfinite(found.preds).all() and len(found.heads) == 3*n_folds


def test_option_sets_the_rounds(body):
    one, three = (heads_of(pretrained(body), n_rounds=n).learn.oof for n in (1, 3))
    assert one.config['n_rounds'] == 1 and len(three.config['left_out']) == 3
    assert auprc(three, WRONG[TRAIN]) > auprc(one, WRONG[TRAIN]) - .02 and not np.array_equal(one.pred_probs, three.pred_probs)


# in bounded memory

def test_many_parts_train_as_one(monkeypatch):
    x, y, _ = pairs()
    once = rounds(x, y, 3).preds
    monkeypatch.setattr('fastai_clean.oof.heads.PART', 20_000)
    assert len(Parts(torch.from_numpy(x), torch.from_numpy(y), np.arange(600), 10).rows) == 4
    assert np.abs(rounds(x, y, 3).preds - once).max() < .02


def test_features_are_in_a_file_that_is_gone_with_them(body, tmp_path, monkeypatch):
    monkeypatch.setattr('tempfile.tempdir', str(tmp_path))
    features = heads_of(pretrained(body)).features
    assert isinstance(features.base, np.memmap) and not list(tmp_path.iterdir())


# the size of pictures

def fixed_or_not(fixed, **attrs):
    torch.manual_seed(0)
    pool = nn.Flatten() if fixed else nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    body = nn.Sequential(nn.Conv2d(1, 8, 3, 2), nn.ReLU(), pool)
    for k, v in attrs.items(): setattr(body, k, v)
    return nn.Sequential(body, nn.Sequential(nn.Linear(72 if fixed else 8, 10)))


def sized(model, **kwargs):
    learn = quiet(Learner(digit_dls(range(60), range(60, 80)), model, loss_func=CrossEntropyLossFlat(), splitter=two_groups))
    return heads_of(learn, 2, **kwargs).learn.oof


def test_pictures_have_the_size_of_the_body_or_of_the_user_and_it_is_said(tmp_path):
    own = {'default_cfg': {'input_size': (3, 16, 16)}}
    for kwargs, pixels, seen in (({}, 16, 16), ({'feature_size': 12}, 12, 12), ({'feature_size': 0}, None, 8)):
        for _ in range(2):
            config = sized(fixed_or_not(False, **own), cache_dir=tmp_path, **kwargs).config
            assert config['feature_size'] == pixels and config['image_size'] == [8, 8] and config['seen_size'] == [seen]*2
    assert len(list(tmp_path.iterdir())) == 3
    plain = sized(fixed_or_not(False))
    assert plain.config['feature_size'] is None and 'names no size' in plain.config['feature_size_from']
    assert np.array_equal(plain.pred_probs, sized(fixed_or_not(False, **own), feature_size=0).pred_probs)


def test_layers_that_fit_one_size_only_see_pictures_as_they_are(tmp_path):
    own = {'default_cfg': {'input_size': (3, 16, 16)}}
    one = sized(fixed_or_not(True, **own), cache_dir=tmp_path)
    assert one.config['feature_size'] is None and 'at 16 pixels' in one.config['feature_size_from']
    assert 'the model fails: RuntimeError' in one.config['feature_size_from']
    assert np.array_equal(one.pred_probs, sized(fixed_or_not(True), cache_dir=tmp_path).pred_probs)
    with pytest.raises(RuntimeError): sized(fixed_or_not(True), feature_size=16)


def test_size_of_pictures_is_refused_for_other_inputs_and_checked():
    data = [(torch.rand(64), i % 3) for i in range(40)]
    with pytest.raises(ValueError, match='feature_size is 64, but the inputs are not pictures'):
        heads_of(plain(data, 3, CrossEntropyLossFlat()), 2, feature_size=64)
    assert 'feature_size' not in heads_of(plain(data, 3, CrossEntropyLossFlat()), 2).learn.oof.config
    with pytest.raises(ValueError, match='feature_size is -1: pass a whole number, 0 or more'): FoldOptions(feature_size=-1)
    with pytest.raises(ValueError, match='n_rounds is 0'): FoldOptions(n_rounds=0)


# what is left as it was

def test_training_is_bit_identical_with_and_without(body):
    def run(features):
        set_seed(5)
        learn = pretrained(body)
        learn.fit(1, 1e-3)
        record = FitRecord(learn, learn.opt)
        if features:
            engine = FeatureHeads(FoldLearners(record, FoldOptions(3)))
            engine.prepare(record)
            engine.follow(record)
        learn.fit(1, 1e-3)
        state = {k: v.clone() for k, v in learn.model.state_dict().items()}
        return state, torch.rand(3), np.random.rand(3), learn.recorder.values, len(learn.recorder.losses)

    (one, *rest), (two, *others) = run(False), run(True)
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert torch.equal(rest[0], others[0]) and np.array_equal(rest[1], others[1]) and rest[2:] == others[2:]


def test_features_are_those_before_the_fit_and_stay(body):
    learn = pretrained(body)
    before = heads_of(pretrained(body)).features
    record = FitRecord(learn, None)
    engine = FeatureHeads(FoldLearners(record, FoldOptions()))
    engine.prepare(record)
    learn.fit(3, 1e-2)
    engine.follow(record)
    assert np.array_equal(engine.features, before)
    oof = learn.oof
    engine.prepare(FitRecord(learn, None))
    learn.fit(1, 1e-2)
    engine.follow(FitRecord(learn, None))
    assert learn.oof is oof
    learn.dls = digit_dls(TRAIN, VALID, DIGITS.target)
    with pytest.raises(ValueError, match='other training labels'): engine.prepare(FitRecord(learn, None))


def test_interrupted_heads_are_finished_later(body, monkeypatch):
    learn, whole = pretrained(body), heads_of(pretrained(body)).learn.oof
    record = FitRecord(learn, None)
    engine = FeatureHeads(FoldLearners(record, FoldOptions()))
    engine.prepare(record)
    def stop(*_): raise KeyboardInterrupt
    monkeypatch.setattr('fastai_clean.oof.heads.predict_head', stop)
    with pytest.raises(KeyboardInterrupt): engine.follow(record)
    assert learn.oof is None and not learn.model[1][1]._forward_pre_hooks
    monkeypatch.undo()
    monkeypatch.setattr(FeatureHeads, 'features_of', stop)
    engine.follow()
    assert np.array_equal(learn.oof.pred_probs, whole.pred_probs)


# the cache

def test_cache_is_reused_for_the_same_inputs_and_weights_whatever_the_labels(body, tmp_path, monkeypatch):
    first = heads_of(pretrained(body), cache_dir=tmp_path).learn.oof
    names = [o.name for o in tmp_path.iterdir()]
    assert len(names) == 1 and {o.name for o in (tmp_path/names[0]).iterdir()} == {'features.json', 'features.npy'}
    def refuse(*_): raise AssertionError('computed again')
    monkeypatch.setattr(FeatureHeads, '_pass', refuse)
    assert np.array_equal(heads_of(pretrained(body), cache_dir=tmp_path).learn.oof.pred_probs, first.pred_probs)
    heads_of(pretrained(body, DIGITS.target), cache_dir=tmp_path)
    assert [o.name for o in tmp_path.iterdir()] == names
    with pytest.raises(AssertionError, match='computed again'):
        heads_of(pretrained(body), cache_dir=tmp_path, cache_key='edited')
    other = {k: v + .001 if v.is_floating_point() else v for k, v in body.items()}
    for learn in (pretrained(other), pretrained(body, train=TRAIN[:-1]), pretrained(body, train=TRAIN[::-1])):
        with pytest.raises(AssertionError, match='computed again'): heads_of(learn, cache_dir=tmp_path)


def test_changed_input_is_computed_anew(body, tmp_path, monkeypatch):
    one = heads_of(pretrained(body), cache_dir=tmp_path).features
    changed = PIXELS.clone()
    changed[7] = 1 - changed[7]
    monkeypatch.setattr('helpers.PIXELS', changed)
    two = heads_of(pretrained(body), cache_dir=tmp_path).features
    assert (one != two).any(1).nonzero()[0].tolist() == [7]


def test_changed_image_file_is_computed_anew(digit_folder, tmp_path):
    root, df = digit_folder
    shutil.copytree(root, tmp_path/'images')
    def made():
        torch.manual_seed(0)
        dls = ImageDataLoaders.from_df(df, tmp_path/'images', bs=8, num_workers=0, device='cpu', seed=1)
        return image_learner(dls)
    learn = made()
    one = heads_of(learn, 2, cache_dir=tmp_path/'cache').features
    heads_of(made(), 2, cache_dir=tmp_path/'cache')
    assert len(list((tmp_path/'cache').iterdir())) == 1
    item = learn.dls.train_ds.items.iloc[-1].path
    shutil.copy(root/df.path[df.label != item.split('/')[0]].iloc[0], tmp_path/'images'/item)
    two = heads_of(made(), 2, cache_dir=tmp_path/'cache').features
    assert len(list((tmp_path/'cache').iterdir())) == 2 and (one != two).any(1).nonzero()[0].tolist() == [len(one) - 1]


@pytest.mark.parametrize('broken', ['cut', 'other', 'lost', 'json', 'empty'])
def test_broken_cache_is_computed_anew(broken, body, tmp_path):
    first = heads_of(pretrained(body), cache_dir=tmp_path).features
    folder = next(tmp_path.iterdir())
    file = folder/'features.npy'
    if broken == 'cut': file.write_bytes(file.read_bytes()[:-100])
    if broken == 'other': np.save(file, first + 1)
    if broken == 'lost': file.unlink()
    if broken == 'json': (folder/'features.json').write_text('{')
    if broken == 'empty': file.write_bytes(b'')
    assert np.array_equal(heads_of(pretrained(body), cache_dir=tmp_path).features, first)
    assert np.array_equal(np.load(file), first)


# auto

def auto(learn, n_folds=2):
    record = FitRecord(learn, None)
    return record, AutoFolds(FoldLearners(record, FoldOptions(n_folds)))


def followed(learn, engine, epochs, lr):
    "Fits, followed as the callback does"
    for n in epochs:
        learn.create_opt()
        record = FitRecord(learn, learn.opt)
        engine = engine or AutoFolds(FoldLearners(record, FoldOptions(2)))
        record.n_epoch = n
        engine.prepare(record)
        learn.fit(n, lr)
        engine.follow(record)
    return engine


def test_auto_takes_features_that_beat_the_trained_model(body):
    learn = pretrained(body)
    followed(learn, None, [1], 1e-4)
    config = learn.oof.config
    assert config['mode'] == 'features' and 'no lower than' in config['mode_reason']
    assert 'validation set' in config['mode_reason']


def test_auto_trains_the_folds_where_the_model_beats_its_random_body():
    learn = pretrained()
    learn.model[0][1].weight.data.mul_(0)
    engine = followed(learn, None, [1, 8], 1e-2)
    assert learn.oof.config['mode'] == 'folds' and 'lower than' in learn.oof.config['mode_reason']
    assert len(engine.folds.fits) == 2 and learn.oof.done.all()
    assert auprc(learn.oof, WRONG[TRAIN]) > .6


@pytest.mark.parametrize('epochs, mode', [(1, 'features'), (8, 'folds')])
def test_auto_without_validation_set_compares_one_fold(epochs, mode, body):
    learn = pretrained(body) if mode == 'features' else pretrained()
    if mode == 'folds': learn.model[0][1].weight.data.mul_(0)
    record, engine = auto(learn)
    before = {k: v.clone() for k, v in learn.model.state_dict().items()}
    engine.run(record, lambda o: o.fit(epochs, 1e-2 if mode == 'folds' else 1e-4))
    assert learn.oof.config['mode'] == mode and 'first fold' in learn.oof.config['mode_reason']
    assert all(torch.equal(v, before[k]) for k, v in learn.model.state_dict().items())


# mode=

def test_callback_with_features_follows_fine_tune_and_changes_nothing(body, tmp_path):
    def run(cbs):
        set_seed(0)
        learn = pretrained(body)
        learn.fine_tune(1, 1e-2, cbs=cbs)
        return learn
    cb = ConfidentLearningCallback(3, mode='features', cache_dir=tmp_path)
    plain, learn = run(None), run(cb)
    assert all(torch.equal(a, b) for a, b in zip(plain.model.parameters(), learn.model.parameters()))
    assert learn.oof.config['mode'] == 'features' and cb.oof is learn.oof
    assert np.array_equal(pretrained(body).oof_preds(n_folds=3, mode='features').pred_probs, learn.oof.pred_probs)


@pytest.mark.slow
def test_callback_with_auto_says_what_it_chose_and_again_from_its_cache(body, tmp_path):
    for _ in range(2):
        set_seed(0)
        learn = pretrained(body)
        learn.fine_tune(1, 1e-4, cbs=ConfidentLearningCallback(2, mode='auto', cache_dir=tmp_path/'good'))
        assert learn.oof.config['mode'] == 'features' and 'validation' in learn.oof.config['mode_reason']
        set_seed(0)
        learn = pretrained()
        learn.model[0][1].weight.data.mul_(0)
        learn.fine_tune(8, 1e-2, cbs=ConfidentLearningCallback(2, mode='auto', cache_dir=tmp_path/'random'))
        assert learn.oof.config['mode'] == 'folds' and learn.oof.done.all()


def test_unknown_mode_and_missing_fit_are_named():
    with pytest.raises(ValueError, match="mode is 'fast'"): pretrained().oof_preds(lambda o: o.fit(1), mode='fast')
    with pytest.raises(TypeError, match='fit is None'): pretrained().oof_preds()
