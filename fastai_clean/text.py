"DataLoaders and Learners for texts with wrong labels: AWD-LSTM and transformers"
import copy
import os
import pickle
import sys
from pathlib import Path
from uuid import uuid4

import torch
from fastai.callback import schedule  # noqa: F401
from fastai.data.core import DataLoaders, Datasets
from fastai.data.external import fastai_cfg
from fastai.data.transforms import Categorize, ColReader, ColSplitter
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat, LabelSmoothingCrossEntropy
from fastai.metrics import Perplexity, accuracy, skm_to_fastai
from fastai.text.data import LMDataLoader, SortedDL, TensorText, TextDataLoaders
from fastai.text.learner import _model_meta, clean_raw_keys, language_model_learner, text_classifier_learner
from fastai.text.models.awdlstm import AWD_LSTM
from fastai.torch_core import TitledStr
from fasttransform import Transform
from sklearn.metrics import f1_score
from torch import nn

from .datasets import CLASSES, check_frame, fetch


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


def tweet_dls(
    df,  # Frame with text, label and is_valid, as `covid_tweets` gives it
    is_lm=False,  # Whether they are for a language model, whose targets are the next words
    text_vocab=None,  # Words that have a number, for example of a language model; None: the frequent ones of `df`
    bs=64,  # Batch size
    seq_len=72,  # Words a language model sees at once
    num_workers=0,  # Processes that load texts; 0: none
    **kwargs,  # Passed to `TextDataLoaders.from_df`: device, tok_tfm
) -> DataLoaders:
    """Texts, tokenized by fastai and sorted by length, and labels. Raises TypeError where `df` is no frame, ValueError
    where a column or a value is missing, or is_valid sets no row, or every row, aside."""
    check_frame(df, ('text', 'is_valid') if is_lm else ('text', 'label', 'is_valid'))
    return TextDataLoaders.from_df(df, text_col='text', label_col='label', valid_col='is_valid', is_lm=is_lm, bs=bs,
                                   text_vocab=text_vocab, seq_len=seq_len, num_workers=num_workers, **kwargs)


def tweet_lm_learner(
    df,  # Frame with text and is_valid, or DataLoaders of `tweet_dls(df, is_lm=True)`
    arch=AWD_LSTM,  # Architecture that fastai knows
    pretrained=True,  # Whether to start from weights learned on Wikipedia, which are downloaded
    config=None,  # What differs from fastai's configuration of `arch`, for example dict(n_hid=256)
    bs=64,  # Batch size
    **kwargs,  # Passed to `language_model_learner`: drop_mult, cbs
) -> Learner:
    """A language model, whose encoder `tweet_learner` takes once it is fine-tuned; labels are not looked at. Raises
    what `tweet_dls` raises, ValueError for an unknown `arch` and for DataLoaders of a classifier, and ConnectionError
    where the weights cannot be downloaded."""
    meta, dls = _meta(arch), df if isinstance(df, DataLoaders) else tweet_dls(df, is_lm=True, bs=bs)
    if not isinstance(dls.train, LMDataLoader):
        raise ValueError("df holds DataLoaders of a classifier: make them by tweet_dls(df, is_lm=True)")
    files = _weights(arch, meta, kwargs.get('backwards')) if pretrained else None
    learn = language_model_learner(dls, arch, config={**meta['config_lm'], **(config or {})}, pretrained=False,
                                   **{'metrics': [accuracy, Perplexity()], **kwargs})
    return learn.load_pretrained(*files) if files else learn


def save_encoder(
    learn,  # A Learner of `tweet_lm_learner`
    path,  # File to write; one that is there is replaced
) -> Path:
    "Write the encoder with the words it knows, for `tweet_learner`; tensors and strings alone, so that loading is safe"
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = path.with_name(f'.{path.name}-{uuid4().hex}.pth')
    try:
        torch.save(_encoder_of(learn), tmp)
        os.replace(tmp, path)
    finally: tmp.unlink(missing_ok=True)
    return path


def tweet_learner(
    df,  # Frame with text, label and is_valid, or DataLoaders of `tweet_dls`
    arch=AWD_LSTM,  # Architecture that fastai knows
    encoder=None,  # Learner of `tweet_lm_learner`, or the file that `save_encoder` wrote
    pretrained=True,  # Whether, without `encoder`, to start from weights learned on Wikipedia, which are downloaded
    config=None,  # What differs from fastai's configuration of `arch`; with `encoder`, what tweet_lm_learner got
    label_smoothing=False,  # Whether the loss is LabelSmoothingCrossEntropy, not cross-entropy
    bs=64,  # Batch size
    **kwargs,  # Passed to `text_classifier_learner`: drop_mult, metrics, cbs
) -> Learner:
    """A classifier of texts; all but its head is frozen where it starts from an encoder or weights.

    Raises what `tweet_dls` raises, ValueError for an unknown `arch`, for DataLoaders with other words than the encoder
    and an encoder of other sizes, FileNotFoundError without its file, ConnectionError where the weights cannot be
    downloaded."""
    meta, known = _meta(arch), None if encoder is None else _encoder_of(encoder)
    dls = df if isinstance(df, DataLoaders) else tweet_dls(df, text_vocab=known and known['vocab'], bs=bs)
    if isinstance(dls.train, LMDataLoader):
        raise ValueError("df holds DataLoaders of a language model: make them by tweet_dls(df)")
    if known and known['vocab'] != list(map(str, dls.vocab[0])):
        raise ValueError("df holds DataLoaders with other words than the encoder's: make them by "
                         "tweet_dls(df, text_vocab=lm.dls.vocab), or pass the DataFrame")
    files = _weights(arch, meta, kwargs.get('backwards')) if pretrained and known is None else None
    of_lm = meta['config_lm'].keys() - meta['config_clas'].keys()
    config = {**meta['config_clas'], **{k: v for k, v in (config or {}).items() if k not in of_lm}}
    learn = text_classifier_learner(dls, arch, config=config, pretrained=False,
                                    **classifier_args(dls.vocab[-1], label_smoothing, kwargs))
    if files: learn.load_pretrained(*files, model=learn.model[0])
    if known:
        try: learn.model[0].module.load_state_dict(clean_raw_keys(dict(known['weights'])))
        except RuntimeError as e:
            raise ValueError("encoder has other sizes than the classifier: pass the config that tweet_lm_learner got "
                             f"({str(e).splitlines()[-1].strip()[:200]})") from e
        learn.freeze()
    return learn


def _encoder_of(source):
    "vocab and weights"
    if isinstance(source, Learner):
        return {'vocab': [*map(str, source.dls.vocab)], 'weights': source.model[0].state_dict()}
    if not Path(source).is_file():
        raise FileNotFoundError(f"encoder {source} is not there: write it by fastai_clean.text.save_encoder(lm, path)")
    try:
        known = torch.load(source, map_location='cpu', weights_only=True)
        return {'vocab': [*map(str, known['vocab'])], 'weights': known['weights']}
    except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, TypeError) as e:
        raise ValueError(f"encoder {source} is not a file of fastai_clean.text.save_encoder, which keeps the words "
                         f"too (fastai's keeps weights alone): {type(e).__name__}") from e


def _meta(arch):
    if arch not in _model_meta:
        raise ValueError(f"arch is {getattr(arch, '__name__', arch)!r}: pass the class "
                         f"{', '.join(o.__name__ for o in _model_meta)} of fastai.text.all, or use transformer_learner")
    return _model_meta[arch]


def _weights(arch, meta, backwards):
    "The files of weights and words that fastai publishes, downloaded where they are not there"
    url = meta['url_bwd' if backwards else 'url']
    folder = fastai_cfg().path('model')/url.rsplit('/', 1)[-1].rsplit('.', 1)[0]
    if not folder.exists():
        try: folder = fetch(url, instead='pass pretrained=False')
        except (ConnectionError, ValueError) as e:
            raise type(e)(f"the weights of {arch.__name__} are not there, and {e}") from e
    files = [next(folder.glob(f'*.{o}'), None) for o in ('pth', 'pkl')]
    if None in files: raise FileNotFoundError(f"{folder} lacks weights: delete the folder to have it unpacked anew")
    return files


def as_written(text: str):
    "The text as an item, shown as it is; a function, since fastai dispatches on the type of the annotation"
    return TitledStr(text)


class TokenizeBatch(Transform):
    """Texts of a batch -> token numbers (batch, longest), padded to the longest text of the batch and cut after
    `max_length` tokens. What looks like a special token, as [PAD], is read as the letters that it is."""
    def __init__(self, tokenizer, max_length): self.tokenizer, self.max_length = tokenizer, max_length

    def encodes(self, samples: list):
        ids = self.tokenizer([str(o[0]) for o in samples], padding=True, truncation=True, max_length=self.max_length,
                             split_special_tokens=True, return_tensors='pt')['input_ids']
        if not ids.shape[1]: ids = torch.full((len(samples), 1), self.tokenizer.pad_token_id)
        return [(TensorText(i), *o[1:]) for i, o in zip(ids, samples)]

    def decodes(self, x: TensorText): return TitledStr(self.tokenizer.decode(x.tolist(), skip_special_tokens=True))


class SequenceLogits(nn.Module):
    "Token numbers (batch, n) -> logits (batch, classes) of a Hugging Face sequence classifier; padding is masked"
    def __init__(self, model, pad):
        super().__init__()
        self.model, self.pad = model, pad

    def forward(self, ids):
        ids = ids.as_subclass(torch.Tensor)
        return self.model(input_ids=ids, attention_mask=(ids != self.pad).long()).logits


def transformer_dls(
    df,  # Frame with text, label and is_valid, as `covid_tweets` gives it
    tokenizer,  # A Hugging Face tokenizer
    max_length=128,  # Tokens of a text that are read
    bs=32,  # Batch size
    num_workers=0,  # Processes that load texts; 0: none
    device=None,  # Device of the batches; None: the GPU where there is one
) -> DataLoaders:
    """Texts as they were written, sorted by length and tokenized batch by batch, and labels.

    Raises TypeError where `df` is no frame, ValueError where a column or a value is missing, or is_valid sets no row,
    or every row, aside, and for a tokenizer without padding."""
    check_frame(df)
    if tokenizer.pad_token_id is None:
        raise ValueError("tokenizer has no pad_token: set it, for example tokenizer.pad_token = tokenizer.eos_token")
    if max_length < 1: raise ValueError(f"max_length is {max_length}: pass 1 or more tokens")
    max_length = min(max_length, tokenizer.model_max_length)
    ds = Datasets(df, [[ColReader('text'), as_written], [ColReader('label'), Categorize()]],
                  splits=ColSplitter('is_valid')(df))
    return ds.dataloaders(bs=bs, dl_type=SortedDL, before_batch=TokenizeBatch(tokenizer, max_length), device=device,
                          num_workers=num_workers)


def transformer_splitter(
    model,  # `SequenceLogits`
) -> list:  # Two to four lists of parameters
    """Groups for discriminative learning rates and gradual unfreezing, from the input to the output: embeddings, the
    lower half of the layers, the upper half, and the head with whatever else comes after the layers."""
    inner = model.model
    stacks = [o for o in inner.modules() if isinstance(o, nn.ModuleList)]
    if not stacks: return [o for o in _body_and_head(inner) if o]
    layers = [[*o.parameters()] for o in max(stacks, key=lambda o: sum(p.numel() for p in o.parameters()))]
    lower, upper = (sum(o, []) for o in (layers[:len(layers)//2], layers[len(layers)//2:]))
    within, before, after, seen = {id(p) for p in lower + upper}, [], [], False
    for p in inner.parameters():
        if id(p) in within: seen = True
        else: (after if seen else before).append(p)
    return [o for o in (before, lower, upper, after) if o]


def transformer_learner(
    df,  # Frame with text, label and is_valid, or DataLoaders of `transformer_dls`
    model='vinai/bertweet-base',  # Name at huggingface.co, folder, or configuration, which starts from random weights
    tokenizer=None,  # A Hugging Face tokenizer, its name or folder; None: that of `model` or of the DataLoaders
    max_length=128,  # Tokens of a text that are read, unless the model allows fewer only
    bs=32,  # Batch size
    label_smoothing=False,  # Whether the loss is LabelSmoothingCrossEntropy, not cross-entropy
    num_workers=0,  # Processes that load texts; 0: none
    device=None,  # Device; None: the GPU where there is one
    **kwargs,  # Passed to `Learner`: cbs, metrics, lr (5e-5 unless given), opt_func, loss_func
) -> Learner:
    """A Learner whose model is a transformer with a head for the classes of `df`; `fit_one_cycle(n, slice(1e-6, 5e-5))`
    gives each group of `transformer_splitter` its own learning rate. A folder is read without network, code in it is
    not run, and weights become float32 (`to_fp16` mixes precisions). A head for as many classes is kept, whatever it
    called them; another is made anew.

    Raises ImportError without transformers, ConnectionError where `model` cannot be downloaded, FileNotFoundError where
    it looks like a folder and is none, ValueError for a folder that holds no model, a configuration without `tokenizer`
    and a tokenizer with more tokens than the model, and what `transformer_dls` raises."""
    hf = _transformers()
    dls = df if isinstance(df, DataLoaders) else None
    if dls is not None:
        if tokenizer is not None: raise ValueError("tokenizer and DataLoaders are both given: pass one of them")
        tokenizer = _batcher(dls).tokenizer
    else: check_frame(df)
    config = model if isinstance(model, hf.PretrainedConfig) else _load(hf.AutoConfig, model)
    if tokenizer is None:
        if config is model: raise ValueError("model is a configuration, which has no tokenizer: pass tokenizer=")
        tokenizer = model
    if isinstance(tokenizer, (str, os.PathLike)): tokenizer = _load(hf.AutoTokenizer, tokenizer)
    own = dls is None
    if own: dls = transformer_dls(df, tokenizer, max_length, bs, num_workers, device)
    if len(tokenizer) > config.vocab_size:
        raise ValueError(f"tokenizer has {len(tokenizer)} tokens, but the model {config.vocab_size}: pass its own")
    config = copy.deepcopy(config)
    config.num_labels, config.pad_token_id = len(dls.vocab), tokenizer.pad_token_id
    config.id2label = {i: str(o) for i, o in enumerate(dls.vocab)}
    config.label2id = {o: i for i, o in config.id2label.items()}
    if isinstance(model, hf.PretrainedConfig): inner = hf.AutoModelForSequenceClassification.from_config(config)
    else: inner = _load(hf.AutoModelForSequenceClassification, model, config=config, ignore_mismatched_sizes=True)
    inner, batcher, limit = inner.float(), _batcher(dls), _max_tokens(inner)
    if own: batcher.max_length = min(batcher.max_length, limit)
    elif batcher.max_length > limit:
        raise ValueError(f"df holds DataLoaders of {batcher.max_length} tokens, but the model reads {limit}: make them "
                         f"by transformer_dls(df, tokenizer, {limit})")
    return Learner(dls, SequenceLogits(inner, tokenizer.pad_token_id), splitter=transformer_splitter,
                   **{'lr': 5e-5, **classifier_args(dls.vocab, label_smoothing, kwargs)})


def _transformers():
    try:
        import transformers
    except ImportError as e:
        raise ImportError("transformer_learner needs transformers: pip install 'fastai_clean[transformers]'") from e
    return transformers


def _batcher(dls):
    found = [o for o in dls.train.before_batch.fs if isinstance(o, TokenizeBatch)]
    if not found: raise ValueError("df holds DataLoaders without a Hugging Face tokenizer: see transformer_dls")
    return found[0]


def _max_tokens(inner):
    "How many tokens a model reads; RoBERTa and its kin count positions from behind the number of the padding"
    limit = getattr(inner.config, 'max_position_embeddings', None) or 0
    if limit < 1: return sys.maxsize
    pads = [m.padding_idx for name, m in inner.named_modules()
            if name.endswith('position_embeddings') and getattr(m, 'padding_idx', None) is not None]
    return limit - pads[0] - 1 if pads else limit


def _body_and_head(inner):
    body = {id(p) for p in inner.base_model.parameters()} if inner.base_model is not inner else set()
    return [[p for p in inner.parameters() if (id(p) in body) == o] for o in (True, False)]


def _load(kind, model, **kwargs):
    "What `kind` loads of a folder, or downloads"
    folder = Path(model).is_dir()
    if not folder and (isinstance(model, Path) or model.startswith(('/', '.', '~')) or model.count('/') > 1):
        raise FileNotFoundError(f"model {model} is no folder: pass one that holds config.json, model.safetensors and "
                                "tokenizer.json, or a name at huggingface.co")
    try: return kind.from_pretrained(os.fspath(model), local_files_only=folder, trust_remote_code=False, **kwargs)
    except (OSError, ValueError) as e:
        why = str(e).strip().splitlines()[0][:200]
        if folder:
            raise ValueError(f"model {model} is no folder of a Hugging Face model with tokenizer: config.json, "
                             f"model.safetensors and tokenizer.json needed ({why})") from e
        raise ConnectionError(f"https://huggingface.co/{model} could not be downloaded ({why}): get its config.json, "
                              "model.safetensors and tokenizer files elsewhere, put them in a folder and pass model=, "
                              "the path of that folder") from e

