"Tweets: reading them, an AWD-LSTM and a Hugging Face transformer on them, and the experiments"
import copy
import json
import pickle
import runpy
import shutil
import sys
import tarfile
import warnings
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import helpers
import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.core import Callback
from fastai.learner import load_learner
from fastai.text import learner
from fastai.text.all import AWD_LSTM, SortedDL
from fastai.torch_core import params, set_seed, to_detach
from fastcore.xtras import Config
from filelock import FileLock
from helpers import quiet
from sklearn.metrics import average_precision_score, f1_score
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DistilBertConfig,
    GPT2Config,
    PreTrainedTokenizerFast,
    RobertaConfig,
)

from fastai_clean import datasets
from fastai_clean import text as texts
from fastai_clean.all import (
    CleanInterpretation,
    ConfidentLearningCallback,
    SoftPseudoLabelCallback,
    TrainingDynamicsCallback,
)
from fastai_clean.app import predict_text
from fastai_clean.text import (
    covid_tweets,
    informative_f1,
    save_encoder,
    transformer_dls,
    transformer_learner,
    transformer_splitter,
    tweet_dls,
    tweet_learner,
    tweet_lm_learner,
)

EXAMPLES = Path(__file__).parents[1]/'examples'
NAMES = 'INFORMATIVE', 'UNINFORMATIVE'
SPECIAL = dict(unk_token='[UNK]', pad_token='[PAD]', cls_token='[CLS]', sep_token='[SEP]', mask_token='[MASK]')
LOSS, WRONG = 'covid_no_labelsmoothing', (7, 20)
SMALL = dict(emb_sz=16, n_hid=24, n_layers=2)
quick = dict(n_hid=32, epochs=6, n_folds=2, bs=16, lr=2e-2)


def tweet(i, label): return helpers.tweet(i, label) + ' so'*(i % 7)


def write(root, name, start, end, header=False):
    lines = ['Id\tText\tLabel']*header + [f'124{i:016}\t{tweet(i, NAMES[i % 2])}\t{NAMES[i % 2]}'
                                          for i in range(start, end)]
    (root/f'{name}.tsv').write_text('\n'.join(lines) + '\n', encoding='utf-8')


@pytest.fixture(scope='session')
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp('wnut')
    write(root, 'train', 0, 120, header=True)
    write(root, 'valid', 120, 160)
    write(root, 'test', 160, 200)
    lines = (root/'test.tsv').read_text(encoding='utf-8').split('\n')
    for i in WRONG: lines[i] = lines[i].replace(*(NAMES if i % 2 == 0 else NAMES[::-1]))
    (root/'test.tsv').write_text('\n'.join(lines), encoding='utf-8')
    return root


@pytest.fixture(scope='session')
def df(folder): return covid_tweets(folder)


@pytest.fixture(scope='session')
def tokenizer(df):
    "WordPiece trained on the tweets"
    tok = Tokenizer(models.WordPiece(unk_token='[UNK]'))
    tok.normalizer, tok.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tok.train_from_iterator(df.text, trainers.WordPieceTrainer(vocab_size=200, special_tokens=[*SPECIAL.values()],
                                                               show_progress=False))
    cls, sep = (('[CLS]', tok.token_to_id('[CLS]')), ('[SEP]', tok.token_to_id('[SEP]')))
    tok.post_processor = processors.BertProcessing(sep, cls)
    return PreTrainedTokenizerFast(tokenizer_object=tok, model_max_length=64, **SPECIAL)


@pytest.fixture(scope='session')
def config():
    return BertConfig(vocab_size=200, hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=48,
                      max_position_embeddings=64, hidden_dropout_prob=0., attention_probs_dropout_prob=0.,
                      initializer_range=.2)


@pytest.fixture
def make(config, tokenizer):
    def made(df, model=config, tokenizer=tokenizer, **kwargs):
        set_seed(0)
        return quiet(transformer_learner(df, model, tokenizer, **{'bs': 8, 'device': 'cpu', 'lr': 3e-3, **kwargs}))
    return made


def planted(df, share=.15):
    "`df` with wrong training labels, and their mask"
    n, label = int((~df.is_valid).sum()), df.true_label.to_numpy(dtype=object, copy=True)
    wrong = np.random.default_rng(1).choice(n, round(share*n), replace=False)
    label[wrong] = np.where(label[wrong] == NAMES[0], NAMES[1], NAMES[0])
    return df.assign(label=label), np.isin(np.arange(n), wrong)


# reading

def test_tweets_with_and_without_header_give_one_frame(folder, df):
    assert list(df) == ['id', 'text', 'label', 'true_label', 'hashtags', 'set', 'is_valid']
    assert len(df) == 160 and df.set.value_counts().to_dict() == {'train': 120, 'valid': 40}
    assert (df.is_valid == (df.set == 'valid')).all() and df.id[120] == f'124{120:016}'
    assert list(df.label) == [NAMES[i % 2] for i in range(160)] == list(df.true_label)
    assert covid_tweets(folder, 'test').is_valid.all()


def test_masks_are_dropped_and_everything_else_is_as_written(folder, df):
    assert df.text[0] == '"0 <b>&amp; $x$ deaths confirmed hospital report' and df.hashtags[0] == 'NA'
    assert df.text[2] == '"2 <b>&amp; $x$ #COVID-19, #Stay deaths confirmed hospital report so so'
    assert df.hashtags[2] == 'COVID-19, Stay'
    kept = covid_tweets(folder, masks=True)
    assert list(kept.text) == [tweet(i, NAMES[i % 2]) for i in range(160)] and kept.hashtags.equals(df.hashtags)


def test_planted_share_is_exact_seeded_and_in_training_rows_only(folder):
    one, same, other = (covid_tweets(folder, pct_noise=15, seed=o) for o in (0, 0, 1))
    wrong = one.label != one.true_label
    assert wrong.sum() == 18 and not wrong[one.is_valid].any() and {*one.label} == {*NAMES}
    assert one.equals(same) and not one.label.equals(other.label)
    assert (covid_tweets(folder, pct_noise=100).query('not is_valid').eval('label != true_label')).all()


@pytest.mark.parametrize('text, match', [
    ('1 x\n', 'train.tsv, line 1 has 1 columns'), ('Id\tText\tLabel\n1\tx\tNO\n', "line 2 has the label 'NO'")])
def test_malformed_file_is_named_with_its_line(text, match, tmp_path):
    (tmp_path/'train.tsv').write_text(text)
    with pytest.raises(ValueError, match=match): covid_tweets(tmp_path, 'train')


def test_missing_file_and_bad_arguments_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match='train.tsv does not exist: get train.tsv of WNUT'): covid_tweets(tmp_path)
    with pytest.raises(ValueError, match='pct_noise is 101'): covid_tweets(tmp_path, pct_noise=101)
    with pytest.raises(ValueError, match='choose from train, valid and test'): covid_tweets(tmp_path, 'dev')
    with pytest.raises(ValueError, match='each once'): covid_tweets(tmp_path, ('train', 'train'))
    (tmp_path/'train.tsv').write_bytes('1\té\tINFORMATIVE\n'.encode('latin-1'))
    with pytest.raises(ValueError, match='train.tsv is not UTF-8'): covid_tweets(tmp_path, 'train')


def test_f1_is_that_of_informative_as_scikit_learn_computes_it():
    rng = np.random.default_rng(0)
    y, p = torch.tensor(rng.integers(0, 2, 50)), torch.tensor(rng.random((50, 2)))
    for vocab, label in ((NAMES, 0), (NAMES[::-1], 1)):
        metric = informative_f1(vocab)
        metric.reset()
        for i in (0, 30):
            metric.accumulate(SimpleNamespace(pred=p[i:i + 30], y=y[i:i + 30], to_detach=to_detach))
        assert metric.value == pytest.approx(f1_score(y.numpy(), p.argmax(1).numpy(), pos_label=label))


# AWD-LSTM

@pytest.fixture(scope='module')
def lm(df):
    set_seed(0)
    return quiet(tweet_lm_learner(df, pretrained=False, config=SMALL, bs=8))


def test_encoder_of_the_language_model_reaches_the_classifier_by_file_and_by_learner(lm, df, tmp_path):
    lm.fit_one_cycle(1, 1e-2)
    assert np.isfinite(lm.recorder.values[-1]).all()
    file = save_encoder(lm, tmp_path/'deep'/'encoder')
    assert {*torch.load(file, weights_only=True)} == {'vocab', 'weights'}
    for source, config in ((lm, SMALL), (file, {**SMALL, 'tie_weights': False, 'out_bias': True})):
        learn = tweet_learner(df, encoder=source, config=config, bs=8)
        assert torch.equal(learn.model[0].module.encoder.weight, lm.model[0].encoder.weight)
        assert list(learn.dls.vocab[0]) == list(lm.dls.vocab) and learn.opt.frozen_idx > 0


def test_encoder_of_other_sizes_or_words_is_refused(lm, df, tmp_path):
    with pytest.raises(ValueError, match='encoder has other sizes'): tweet_learner(df, encoder=lm, config={**SMALL,
                                                                                                          'n_hid': 8})
    with pytest.raises(ValueError, match='other words than the encoder'):
        tweet_learner(tweet_dls(df.assign(text='one word ' + df.text), bs=8), encoder=lm, config=SMALL)
    with pytest.raises(FileNotFoundError, match='write it with fastai_clean.text.save_encoder'):
        tweet_learner(df, encoder=tmp_path/'no')
    (tmp_path/'no').write_text('no tensors')
    with pytest.raises(ValueError, match='is not a file of fastai_clean.text.save_encoder'):
        tweet_learner(df, encoder=tmp_path/'no')
    with pytest.raises(ValueError, match='of a language model'): tweet_learner(lm.dls, pretrained=False)
    with pytest.raises(ValueError, match='DataLoaders of a classifier'):
        tweet_lm_learner(tweet_dls(df, bs=8), pretrained=False)
    with pytest.raises(ValueError, match="arch is 'Linear'"): tweet_learner(df, nn.Linear)


@pytest.mark.slow
def test_awd_lstm_from_scratch_learns_and_its_folds_find_planted_errors(df):
    noisy, wrong = planted(df)
    set_seed(0)
    learn = quiet(tweet_learner(noisy, pretrained=False, config=SMALL, bs=8, label_smoothing=True))
    learn.fit_one_cycle(5, 2e-2, cbs=ConfidentLearningCallback(2, mode='folds'))
    quality = CleanInterpretation.from_learner(learn).issues.label_quality.sort_index()
    _, accuracy, f1 = learn.recorder.values[-1][1:]
    assert min(accuracy, f1) > .9 and average_precision_score(wrong, -quality) > .7


@pytest.fixture
def weights(tmp_path, monkeypatch):
    "Where fastai keeps archives, with an address that nobody answers"
    home = Config(Path(tmp_path), 'config.ini', create=dict(data='data', archive='archive', model='models'))
    for module in (texts, datasets): monkeypatch.setattr(module, 'fastai_cfg', lambda: home)
    monkeypatch.setattr('fastai.data.external.fastai_cfg', lambda: home)
    monkeypatch.setitem(learner._model_meta[AWD_LSTM], 'url', 'http://127.0.0.1:9/wt103-fwd.tgz')
    (tmp_path/'archive').mkdir()
    return tmp_path/'archive'/'wt103-fwd.tgz'


def archive_of(lm, file):
    "An archive as fastai publishes it"
    folder = file.parents[1]/'made'/'wt103-fwd'
    folder.mkdir(parents=True)
    torch.save(lm.model.state_dict(), folder/'lstm_fwd.pth')
    (folder/'itos.pkl').write_bytes(pickle.dumps([*map(str, lm.dls.vocab)]))
    with tarfile.open(file, 'w:gz') as f: f.add(folder, 'wt103-fwd')


def test_weights_that_cannot_be_had_are_named_with_their_place(df, lm, weights):
    message = f'AWD_LSTM .*127.0.0.1:9/wt103-fwd.tgz .* get wt103-fwd.tgz elsewhere and put it at {weights}, or pass'
    for make in (tweet_learner, tweet_lm_learner):
        with pytest.raises(ConnectionError, match=message): make(df)
    archive_of(lm, weights)
    weights.write_bytes(weights.read_bytes()[:-2000])
    with pytest.raises(ConnectionError, match=message): tweet_learner(df, config=SMALL)


def test_weights_put_in_their_place_are_loaded_without_network(df, lm, weights):
    archive_of(lm, weights)
    learn, again = tweet_learner(df, config=SMALL, bs=8), tweet_lm_learner(df, config=SMALL, bs=8)
    words = [learn.dls.vocab[0].index(o) for o in ('deaths', 'music')]
    known = [lm.dls.vocab.index(o) for o in ('deaths', 'music')]
    expected = lm.model[0].encoder.weight[known]
    assert torch.equal(learn.model[0].module.encoder.weight[words], expected) and learn.opt.frozen_idx > 0
    assert torch.equal(again.model[0].rnns[0].weight_hh_l0_raw, lm.model[0].rnns[0].weight_hh_l0_raw)


# transformers

def test_batches_are_sorted_padded_to_their_longest_and_masked(df, make, tokenizer):
    learn = make(df)
    dl = learn.dls.valid
    assert isinstance(dl, SortedDL)
    batches, order = list(dl), dl.get_idxs()
    assert len({o[0].shape[1] for o in batches}) > 1
    texts = df.text[df.is_valid].to_numpy()[np.array(order)]
    assert [len(o) for o in texts] == sorted(map(len, texts), reverse=True)
    first = tokenizer(list(texts[:8]), padding=True, return_tensors='pt')
    assert torch.equal(batches[0][0].as_subclass(torch.Tensor), first['input_ids'])
    learn.model.eval()
    with torch.no_grad():
        reference = learn.model.model(**first).logits
        alone = learn.model(torch.tensor([tokenizer(texts[7])['input_ids']]))
    torch.testing.assert_close(learn.model(batches[0][0]), reference)
    torch.testing.assert_close(alone[0], reference[7], atol=1e-5, rtol=1e-5)


def test_special_tokens_in_a_text_are_letters_and_long_texts_are_cut(df, make, tokenizer):
    learn = make(df)
    ids = learn.dls.test_dl(['[PAD] [SEP] so', 'so '*200]).one_batch()[0]
    assert ids.shape == (2, 64)
    row = sorted(ids.tolist(), key=lambda o: o.count(tokenizer.pad_token_id))[1]
    assert row.count(tokenizer.sep_token_id) == 1 and row.index(tokenizer.pad_token_id) > 5


def test_transformer_learns_predicts_and_exports(df, make, tmp_path, capsys):
    learn = make(df)
    assert learn.validate()[1] < .8
    learn.fit_one_cycle(3)
    assert min(learn.recorder.values[-1][2:]) > .9
    text = 'deaths confirmed hospital report'
    label, probs = predict_text(learn, text)
    assert label == NAMES[0] and probs[0][1] > .8
    learn.export(tmp_path/'export.pkl')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', UserWarning)
        again = load_learner(tmp_path/'export.pkl')
    assert predict_text(again, text) == (label, probs)
    assert str(learn.predict('<b>music</b> today')[0]) == NAMES[1]


def test_show_batch_shows_words_and_labels(df, make, monkeypatch):
    frames = []
    monkeypatch.setattr('fastai.text.data.display_df', frames.append)
    make(df).dls.show_batch(max_n=3)
    assert frames[0].shape == (3, 2) and {*frames[0].category} <= {*NAMES}
    assert frames[0].text.str.contains('today|report').all() and not frames[0].text.str.contains('PAD').any()


@pytest.mark.slow
def test_folds_find_planted_errors_and_texts_are_shown_as_written(df, make):
    noisy, wrong = planted(df)
    learn = make(noisy)
    learn.fit_one_cycle(8, cbs=[ConfidentLearningCallback(2, mode='folds'), TrainingDynamicsCallback()])
    interp = CleanInterpretation.from_learner(learn)
    quality = interp.issues.label_quality.sort_index()
    assert average_precision_score(wrong, -quality) > .8 and learn.dynamics is not None
    worst = int(interp.issues.index[0])
    assert interp.shown(worst) == noisy.text[worst] and interp.shown(worst).startswith('"')
    assert interp.to_frame().text.iloc[0] == noisy.text[worst]
    soft = make(noisy)
    soft.fit_one_cycle(8, cbs=SoftPseudoLabelCallback(learn.oof, threshold=.6))
    assert soft.recorder.values[-1][2] > .9, f'{soft.recorder.values}'


@pytest.mark.parametrize('kind, names', [
    (BertConfig, {}), (RobertaConfig, {}), (GPT2Config, dict(n_embd=32, n_layer=3, n_head=2, n_positions=64)),
    (DistilBertConfig, dict(dim=32, n_layers=3, n_heads=2, hidden_dim=48))])
def test_splitter_parts_all_parameters_from_embeddings_to_head(kind, names, df, make):
    names = names or dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=48)
    config = kind(vocab_size=200, **names)
    learn = make(df.head(140), config)
    groups, model = transformer_splitter(learn.model), learn.model.model
    assert len(groups) == 4 and [id(o) for g in groups for o in g] == [id(o) for o in model.parameters()]
    embeddings = [id(o) for o in params(model.get_input_embeddings())]
    head = {id(o) for n, o in model.named_parameters() if n.startswith(('classifier', 'score', 'pre_classifier'))}
    assert embeddings[0] == id(groups[0][0]) and head <= {id(o) for o in groups[3]}
    learn.freeze()
    learn.fit(1, 1e-3)
    assert not groups[0][0].requires_grad and groups[3][0].requires_grad


def test_frozen_groups_stay_and_slices_give_each_group_its_rate(df, make):
    learn = make(df)
    learn.freeze()
    before = [o[0].detach().clone() for o in transformer_splitter(learn.model)]
    learn.fit(1, 1e-2)
    moved = [not torch.equal(a, b[0]) for a, b in zip(before, transformer_splitter(learn.model))]
    assert moved[:3] == [False]*3 and moved[3]
    learn.unfreeze()
    learn.fit(1, slice(1e-5, 1e-2))
    assert [round(float(o), 8) for o in learn.opt.hypers.attrgot('lr')] == [1e-5, 1e-4, 1e-3, 1e-2]


def test_folder_is_loaded_without_network(df, config, tokenizer, make, tmp_path, monkeypatch):
    config = copy.deepcopy(config)
    config.num_labels = 3
    saved = AutoModelForSequenceClassification.from_config(config)
    saved.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    def refuse(*args, **kwargs): raise AssertionError('network')
    monkeypatch.setattr('socket.socket.connect', refuse)
    monkeypatch.setattr('socket.getaddrinfo', refuse)
    learn = make(df, tmp_path, None)
    inner = learn.model.model
    assert torch.equal(inner.get_input_embeddings().weight, saved.get_input_embeddings().weight)
    assert inner.classifier.weight.shape == (2, 32) and learn.dls.one_batch()[0].shape[0] == 8


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_folder_trains_in_full_precision_and_has_our_class_names(dtype, df, config, tokenizer, make,
                                                                                tmp_path):
    saved = AutoModelForSequenceClassification.from_config(config).to(dtype)
    saved.config.id2label, saved.config.label2id = {0: 'POS', 1: 'NEG'}, {'POS': 0, 'NEG': 1}
    saved.save_pretrained(tmp_path)
    learn = make(df, tmp_path, tokenizer)
    learn.fit(1)
    assert {o.dtype for o in learn.model.parameters()} == {torch.float32}
    assert learn.model.model.config.id2label == dict(enumerate(NAMES))


def test_model_that_counts_positions_from_the_padding_reads_as_many_tokens_as_it_can(df, tokenizer, make):
    config = RobertaConfig(vocab_size=200, hidden_size=8, num_attention_heads=1, num_hidden_layers=1,
                           intermediate_size=8, max_position_embeddings=24)
    long = df.assign(text='so '*100 + df.text)
    learn = make(long, config, tokenizer)
    learn.fit(1)
    assert learn.dls.one_batch()[0].shape[1] == 24 - tokenizer.pad_token_id - 1
    with pytest.raises(ValueError, match='max_length is 0'): make(df, config, tokenizer, max_length=0)


def test_empty_texts_and_a_tokenizer_without_special_tokens_train(df, tokenizer, config, make):
    tok = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    tok.post_processor = processors.TemplateProcessing(single='$A', pair='$A $B')
    plain = PreTrainedTokenizerFast(tokenizer_object=tok, model_max_length=64, **SPECIAL)
    learn = make(df.assign(text=df.text.where(df.index % 2 == 0, '')), config, plain)
    learn.fit(1)
    assert np.isfinite(learn.get_preds()[0].numpy()).all()


def test_what_cannot_be_loaded_is_named(df, config, tokenizer, make, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match='is not a folder of a Hugging Face model'): make(df, tmp_path, None)
    with pytest.raises(ValueError, match='pass tokenizer='): make(df, config, None)
    for name in ('./no', 'no/such/folder', Path('no/such')):
        with pytest.raises(FileNotFoundError, match=f'model {name} is not a folder'): make(df, name, None)
    small = BertConfig(vocab_size=50, hidden_size=8, num_attention_heads=1, num_hidden_layers=1)
    with pytest.raises(ValueError, match='tokens, but the model has 50'): make(df, small)
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    with pytest.raises(ConnectionError, match='https://huggingface.co/no/such could not be downloaded.*the path of'):
        make(df, 'no/such', None)
    monkeypatch.setitem(sys.modules, 'transformers', None)
    with pytest.raises(ImportError, match=r"pip install 'fastai_clean\[transformers\]'"): make(df)


@pytest.mark.parametrize('change, match', [
    (lambda o: o.drop(columns='label'), 'lacks the column label'), (lambda o: o.assign(text=None), 'missing values in'),
    (lambda o: o.assign(is_valid=True), 'is_valid'), (lambda o: o.text.tolist(), 'df is a list'),
    (lambda o: o.assign(is_valid=o.is_valid.astype(str)), 'not booleans'),
    (lambda o: o.assign(text=range(len(o))), 'not text of UTF-8, first 0 in row 0'),
    (lambda o: o.assign(text=pd.Series('\ud800', o.index, object)), r"not text of UTF-8, first '\\ud800' in row 0"),
    (lambda o: o.assign(label=o.label.where(~o.is_valid, 'new')), "label that no training row has, first 'new'")])
def test_frames_that_are_none_of_tweets_are_refused(change, match, df, make):
    for made in (make, partial(tweet_learner, pretrained=False)):
        with pytest.raises((ValueError, TypeError), match=match): made(change(df))


def test_dataloaders_are_taken_and_others_refused(df, make, tokenizer, config):
    dls = transformer_dls(df, tokenizer, bs=4, device='cpu')
    assert make(dls, tokenizer=None).dls is dls
    short = BertConfig(vocab_size=200, hidden_size=8, num_attention_heads=1, max_position_embeddings=32)
    with pytest.raises(ValueError, match='of 64 tokens, but the model reads 32'): make(dls, short, None)
    with pytest.raises(ValueError, match='both given'): make(dls)
    with pytest.raises(ValueError, match='without a Hugging Face tokenizer'): make(tweet_dls(df, bs=8), tokenizer=None)
    with pytest.raises(ValueError, match='label_smoothing and loss_func'):
        make(df, label_smoothing=True, loss_func=nn.CrossEntropyLoss())


# the example

@pytest.fixture
def main(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    return runpy.run_path(str(EXAMPLES/'covid_tweets.py'))['main']


@pytest.mark.slow
def test_script_finds_planted_errors_and_goes_on_where_it_stopped(folder, tmp_path, main, monkeypatch):
    table = main(path=folder, out=tmp_path, noise='15', **quick)
    assert list(table.columns[:10]) == 'noise loss prune planted flagged found precision recall f1 auprc'.split()
    assert len(table) == 4 and (table.planted == 18).all() and (table.auprc > .7).all() and (table.f1_test > .85).all()
    file = tmp_path/LOSS/'prune_noise_rate'/'noisy15_train_predictions.csv'
    rows = pd.read_csv(file, dtype=str)
    row = table[(table.loss == LOSS) & (table.prune == 'prune_noise_rate')].iloc[0]
    assert len(rows) == row.flagged and (rows.label != rows.true_label).sum() == row.found
    assert (rows.predictions != rows.label).any() and pd.read_csv(tmp_path/'experiments.csv').shape == table.shape
    text = pd.read_csv(tmp_path/LOSS/'noisy15_text.csv', header=None, dtype=str,
                       keep_default_na=False)
    assert list(text.columns) == [*range(7)] and {'7', '20'} <= {*text[0]} and {*text[4]} <= {'NA', 'COVID-19, Stay'}
    file.unlink()
    monkeypatch.setattr(Callback, 'before_fit', lambda self: 1/0, raising=False)
    again = main(path=folder, out=tmp_path, noise='15', **quick)
    pd.testing.assert_frame_equal(again, table)
    assert file.exists()


@pytest.mark.slow
def test_script_takes_a_transformers_folder_one_step_at_a_time(folder, tmp_path, main, config, tokenizer):
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path/'model')
    tokenizer.save_pretrained(tmp_path/'model')
    args = dict(path=folder, out=tmp_path/'out', noise='15', smoothing='no', **quick | dict(epochs=8, lr=8e-3, bs=8),
                model=str(tmp_path/'model'))
    with pytest.raises(SystemExit, match='run the step train first'): main(steps='predict', **args)
    assert main(steps='train', **args) is None
    table = main(steps='eval,predict', **args)
    assert (table.auprc > .7).all() and (table.f1_test > .85).all()
    with pytest.raises(SystemExit, match='epochs 8, not 9'): main(**{**args, 'epochs': 9})
    settings = json.loads((tmp_path/'out'/'runs'/LOSS/'noisy15'/'settings.json').read_text())
    assert settings['model'] == str(tmp_path/'model')


@pytest.mark.slow
def test_fits_of_other_data_or_settings_never_mix(folder, tmp_path, main, monkeypatch):
    args = dict(out=tmp_path/'out', noise='15', smoothing='no', **quick | dict(epochs=1))
    with pytest.raises(SystemExit, match='model ./no is not a folder'): main(path=folder, model='./no', **args)
    with monkeypatch.context() as m:
        m.setattr('shutil.rmtree', lambda *args, **kwargs: None)
        table = main(path=folder, **args)
    assert len(table) == 2
    shutil.copytree(folder, tmp_path/'other')
    write(tmp_path/'other', 'train', 1, 121)
    with pytest.raises(SystemExit, match='holds a fit with data .*, not .*--overwrite'):
        main(path=tmp_path/'other', **args)
    fit = tmp_path/'out'/'runs'/LOSS/'noisy15'
    with FileLock(fit.with_name('.noisy15.lock')), pytest.raises(SystemExit, match='another run works there'):
        main(path=folder, **args)
    def die(*args, **kwargs): raise KeyboardInterrupt
    with monkeypatch.context() as m:
        m.setattr('shutil.rmtree', die)
        with pytest.raises(KeyboardInterrupt): main(path=folder, overwrite=True, **args | dict(epochs=2))
    assert (fit/'oof').exists() and not (fit/'weights.pth').exists() and not [*tmp_path.rglob('noisy15_t*.csv')]
    assert len(main(path=folder, **args | dict(epochs=2))) == 2
    assert json.loads((fit/'settings.json').read_text())['epochs'] == 2
    (fit/'weights.pth').unlink()
    with pytest.raises(SystemExit, match='noisy15_text.csv is not of a fit in'): main(path=folder, **args)


@pytest.mark.parametrize('bad, match', [(dict(epochs=0), '--epochs 0: give 1'), (dict(noise='7'), '--noise 7'),
                                        (dict(n_folds=1), '--n-folds 1: give 2'), (dict(n_items=-5), '--n-items -5'),
                                        (dict(smoothing='maybe'), '--smoothing maybe'),
                                        (dict(steps='all'), '--steps all'), (dict(prune='x'), '--prune x')])
def test_script_names_a_wrong_option(bad, match, folder, tmp_path, main):
    with pytest.raises(SystemExit, match=match): main(path=folder, out=tmp_path, **bad)
    with pytest.raises(SystemExit, match='train.tsv does not exist'): main(path=tmp_path, out=tmp_path)
