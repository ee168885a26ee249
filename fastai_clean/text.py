"COVID tweets: frames, DataLoaders, and Learners of an AWD-LSTM or a Hugging Face transformer"
import copy
import os
import pickle
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from fastai.callback import schedule  # noqa: F401  patches fit_one_cycle into Learner
from fastai.data.core import DataLoaders, Datasets
from fastai.data.external import fastai_cfg
from fastai.data.transforms import Categorize, ColReader, ColSplitter
from fastai.learner import Learner
from fastai.metrics import Perplexity, accuracy, skm_to_fastai
from fastai.text import learner as fastai_text
from fastai.text.data import LMDataLoader, SortedDL, TensorText, TextDataLoaders
from fastai.text.models.awdlstm import AWD_LSTM
from fastai.torch_core import TitledStr
from fasttransform import Transform
from sklearn.metrics import f1_score
from torch import nn

from ._files import write_file
from .datasets import CLASSES, check_frame, covid_tweets, fetch, with_loss

__all__ = ['covid_tweets', 'informative_f1', 'save_encoder', 'transformer_dls',
           'transformer_learner', 'transformer_splitter', 'tweet_dls', 'tweet_learner',
           'tweet_lm_learner']


def informative_f1(
    vocab: Sequence[str],  # Class names, INFORMATIVE among them
) -> Any:  # A fastai metric
    "F1, 0 to 1, of the class INFORMATIVE, as WNUT-2020 Task 2 ranks; 0 if none is found"
    label = list(vocab).index(CLASSES[0])
    return skm_to_fastai(f1_score, labels=[label], average='macro', zero_division=0.)


def _classifier_args(vocab, label_smoothing, kwargs):
    "`kwargs` with a loss and with metrics: accuracy, and `informative_f1` if there is such a class"
    metrics = [accuracy]
    if CLASSES[0] in list(vocab): metrics.append(informative_f1(vocab))
    return with_loss(label_smoothing, metrics, kwargs)


# AWD-LSTM

def tweet_dls(
    df: pd.DataFrame,  # Frame with text, label and is_valid, as `covid_tweets` returns it
    is_lm: bool = False,  # Whether they are for a language model, whose targets are the next words
    text_vocab: list | None = None,  # Words to tell apart; None: the frequent words of `df`
    bs: int = 64,  # Batch size
    seq_len: int = 72,  # Words that a language model sees at once
    num_workers: int = 0,  # Processes that load texts; 0: none
    **kwargs,  # Passed to `TextDataLoaders.from_df`: device, tok_tfm
) -> DataLoaders:
    "Texts, tokenized by fastai and sorted by length, and labels. Raises as `check_frame` does"
    # A NaN text would fail in a tokenizer process: 'float' object is not iterable
    check_frame(df, ('text', 'is_valid') if is_lm else ('text', 'label', 'is_valid'))
    return TextDataLoaders.from_df(df, text_col='text', label_col='label', valid_col='is_valid',
                                   is_lm=is_lm, bs=bs, text_vocab=text_vocab, seq_len=seq_len,
                                   num_workers=num_workers, **kwargs)


def tweet_lm_learner(
    df: pd.DataFrame | DataLoaders,  # Frame with text and is_valid, or `tweet_dls(df, is_lm=True)`
    arch: Callable = AWD_LSTM,  # Architecture that fastai knows
    pretrained: bool = True,  # Whether to start from weights learned on Wikipedia, downloaded
    config: dict | None = None,  # What differs from fastai's configuration, such as dict(n_hid=256)
    bs: int = 64,  # Batch size
    **kwargs,  # Passed to `language_model_learner`: drop_mult, cbs
) -> Learner:
    """A language model, trained without labels; `tweet_learner` takes its fine-tuned encoder.

    Raises what `tweet_dls` raises, ValueError for an unknown `arch` and for DataLoaders of a
    classifier, and ConnectionError if the weights cannot be downloaded."""
    meta = _meta(arch)
    dls = df if isinstance(df, DataLoaders) else tweet_dls(df, is_lm=True, bs=bs)
    if not isinstance(dls.train, LMDataLoader):
        raise ValueError("df holds DataLoaders of a classifier: make them with tweet_dls(df, "
                         "is_lm=True)")

    files = _weights(arch, meta, kwargs.get('backwards')) if pretrained else None
    args = {'metrics': [accuracy, Perplexity()], **kwargs}
    config = {**meta['config_lm'], **(config or {})}
    learn = fastai_text.language_model_learner(dls, arch, config, pretrained=False, **args)
    return learn.load_pretrained(*files) if files else learn


def save_encoder(
    learn: Learner,  # A Learner of `tweet_lm_learner`
    path: Path | str,  # File to write; an existing one is replaced
) -> Path:
    "Write the encoder with the words that it knows, for `tweet_learner`"
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # fastai's own `save_encoder` leaves out the words, without which the rows mean nothing. Only
    # tensors and strings are saved, so that loading runs no code
    return write_file(path, lambda tmp: torch.save(_encoder_of(learn), tmp), overwrite=True)


def tweet_learner(
    df: pd.DataFrame | DataLoaders,  # Frame with text, label and is_valid, or `tweet_dls(df)`
    arch: Callable = AWD_LSTM,  # Architecture that fastai knows
    encoder: Learner | Path | str | None = None,  # A `tweet_lm_learner`, or `save_encoder`'s file
    pretrained: bool = True,  # Whether to download Wikipedia's weights if there is no `encoder`
    config: dict | None = None,  # What differs from fastai's; with `encoder`, what its Learner got
    label_smoothing: bool = False,  # Whether the loss smooths labels, instead of cross-entropy
    bs: int = 64,  # Batch size
    **kwargs,  # Passed to `text_classifier_learner`: drop_mult, metrics, cbs
) -> Learner:
    """A classifier of texts; all but its head is frozen if it starts from an encoder or weights.

    Raises what `tweet_dls` raises, ValueError for an unknown `arch`, for DataLoaders with other
    words than the encoder and for an encoder of other sizes, FileNotFoundError if its file is gone,
    and ConnectionError if the weights cannot be downloaded."""
    meta = _meta(arch)
    known = None if encoder is None else _encoder_of(encoder)
    vocab = known and known['vocab']
    dls = df if isinstance(df, DataLoaders) else tweet_dls(df, text_vocab=vocab, bs=bs)
    if isinstance(dls.train, LMDataLoader):
        raise ValueError("df holds DataLoaders of a language model: make them with tweet_dls(df)")
    # The vocab of a text classifier holds two: that of the words, then that of the labels
    if known and vocab != list(map(str, dls.vocab[0])):
        raise ValueError("df holds DataLoaders with other words than the encoder's: make them with "
                         "tweet_dls(df, text_vocab=lm.dls.vocab), or pass the DataFrame")

    files = None
    if pretrained and known is None: files = _weights(arch, meta, kwargs.get('backwards'))
    # The classifier refuses what only a language model has, such as tied weights
    of_lm = meta['config_lm'].keys() - meta['config_clas'].keys()
    config = {k: v for k, v in (config or {}).items() if k not in of_lm}
    args = _classifier_args(dls.vocab[-1], label_smoothing, kwargs)
    learn = fastai_text.text_classifier_learner(dls, arch, config={**meta['config_clas'], **config},
                                                pretrained=False, **args)
    if files: learn.load_pretrained(*files, model=learn.model[0])
    if known: _load_encoder(learn, known)
    return learn


def _load_encoder(learn, known):
    try: learn.model[0].module.load_state_dict(fastai_text.clean_raw_keys(dict(known['weights'])))
    except RuntimeError as e:
        why = str(e).splitlines()[-1].strip()[:200]
        raise ValueError("encoder has other sizes than the classifier: pass the config that "
                         f"tweet_lm_learner got ({why})") from e
    learn.freeze()


def _encoder_of(source):
    "vocab and weights of a Learner or a file"
    if isinstance(source, Learner):
        return {'vocab': [*map(str, source.dls.vocab)], 'weights': source.model[0].state_dict()}
    if not Path(source).is_file():
        raise FileNotFoundError(f"encoder {source} does not exist: write it with "
                                "fastai_clean.text.save_encoder(lm, path)")
    try:
        known = torch.load(source, map_location='cpu', weights_only=True)
        return {'vocab': [*map(str, known['vocab'])], 'weights': known['weights']}
    except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, TypeError) as e:
        raise ValueError(f"encoder {source} is not a file of fastai_clean.text.save_encoder, which "
                         "keeps the words too (fastai's keeps weights alone): "
                         f"{type(e).__name__}") from e


def _meta(arch):
    if arch in fastai_text._model_meta: return fastai_text._model_meta[arch]
    names = ', '.join(o.__name__ for o in fastai_text._model_meta)
    raise ValueError(f"arch is {getattr(arch, '__name__', arch)!r}: pass the class {names} of "
                     "fastai.text.all, or use transformer_learner")


def _weights(arch, meta, backwards):
    "The files of weights and words that fastai publishes, downloaded if they are missing"
    url = meta['url_bwd' if backwards else 'url']
    folder = fastai_cfg().path('model')/url.rsplit('/', 1)[-1].rsplit('.', 1)[0]
    if not folder.exists():
        try: folder = fetch(url, instead='pass pretrained=False')
        except (ConnectionError, ValueError) as e:
            raise type(e)(f"the weights of {arch.__name__} are missing, and {e}") from e
    files = [next(folder.glob(f'*.{o}'), None) for o in ('pth', 'pkl')]
    if None in files:
        raise FileNotFoundError(f"{folder} lacks weights: delete the folder to have it unpacked "
                                "again")
    return files


# Transformers

def transformer_dls(
    df: pd.DataFrame,  # Frame with text, label and is_valid, as `covid_tweets` returns it
    tokenizer: Any,  # A Hugging Face tokenizer
    max_length: int = 128,  # Most tokens read of a text
    bs: int = 32,  # Batch size
    num_workers: int = 0,  # Processes that load texts; 0: none
    device: Any = None,  # Device of the batches; None: the GPU if there is one
) -> DataLoaders:
    """Texts as they were written, sorted by length and tokenized batch by batch, and labels.

    Raises as `check_frame` does, and ValueError for a tokenizer without padding or a `max_length`
    below 1."""
    check_frame(df)
    if tokenizer.pad_token_id is None:
        raise ValueError("tokenizer has no pad_token: set it, for example tokenizer.pad_token = "
                         "tokenizer.eos_token")
    if max_length < 1: raise ValueError(f"max_length is {max_length}: pass 1 or more tokens")

    max_length = min(max_length, tokenizer.model_max_length)
    ds = Datasets(df, [[ColReader('text'), as_written], [ColReader('label'), Categorize()]],
                  splits=ColSplitter('is_valid')(df))
    return ds.dataloaders(bs=bs, dl_type=SortedDL, device=device, num_workers=num_workers,
                          before_batch=TokenizeBatch(tokenizer, max_length))


# No return type: fastai would convert the result to it
def as_written(text: str):
    "The text as an item, shown as it is"
    return TitledStr(text)


class TokenizeBatch(Transform):
    """Texts of a batch -> token numbers (batch, longest), padded to the longest text of the batch
    and cut after `max_length` tokens. Text that looks like a special token, such as [PAD], is read
    as plain letters."""
    def __init__(self, tokenizer, max_length):
        # A tokenizer written in Python caches words as it is used, so two pickles of it differ
        self.tokenizer = tokenizer
        self.max_length = max_length

    def encodes(self, samples: list):
        texts = [str(o[0]) for o in samples]
        ids = self.tokenizer(texts, padding=True, truncation=True, max_length=self.max_length,
                             split_special_tokens=True, return_tensors='pt')['input_ids']
        # Without special tokens, a batch of empty texts has no column at all
        if not ids.shape[1]: ids = torch.full((len(samples), 1), self.tokenizer.pad_token_id)
        return [(TensorText(i), *o[1:]) for i, o in zip(ids, samples)]

    # This type only: plum merges functions of one name, and another `decodes` might take more
    def decodes(self, x: TensorText):
        return TitledStr(self.tokenizer.decode(x.tolist(), skip_special_tokens=True))


class SequenceLogits(nn.Module):
    "Token numbers (batch, n) -> logits (batch, classes); the token `pad` is masked"
    def __init__(self, model, pad):
        super().__init__()
        self.model = model
        self.pad = pad

    def forward(self, ids):
        ids = ids.as_subclass(torch.Tensor)
        return self.model(input_ids=ids, attention_mask=(ids != self.pad).long()).logits


def transformer_splitter(
    model: SequenceLogits,  # The model of a `transformer_learner`
) -> list[list]:  # Two to four lists of parameters
    """Groups for discriminative learning rates and gradual unfreezing, from input to output:
    embeddings, the lower half of the layers, the upper half, and the head with whatever else comes
    after the layers."""
    inner = model.model
    stacks = [o for o in inner.modules() if isinstance(o, nn.ModuleList)]
    if not stacks: return [o for o in _body_and_head(inner) if o]
    largest = max(stacks, key=lambda o: sum(p.numel() for p in o.parameters()))
    layers = [[*o.parameters()] for o in largest]
    lower = sum(layers[:len(layers)//2], [])
    upper = sum(layers[len(layers)//2:], [])

    within = {id(p) for p in lower + upper}
    every = [*inner.parameters()]
    start = next((i for i, p in enumerate(every) if id(p) in within), len(every))
    after = [p for p in every[start:] if id(p) not in within]
    return [o for o in (every[:start], lower, upper, after) if o]


def _body_and_head(inner):
    body = set() if inner.base_model is inner else set(map(id, inner.base_model.parameters()))
    outside = [p for p in inner.parameters() if id(p) not in body]
    return [[p for p in inner.parameters() if id(p) in body], outside]


def transformer_learner(
    df: pd.DataFrame | DataLoaders,  # Frame with text, label and is_valid, or `transformer_dls`
    model: Any = 'vinai/bertweet-base',  # Name at huggingface.co, folder, or configuration
    tokenizer: Any = None,  # A tokenizer, its name or folder; None: that of `model` or DataLoaders
    max_length: int = 128,  # Most tokens read of a text, if the model allows as many
    bs: int = 32,  # Batch size
    label_smoothing: bool = False,  # Whether the loss smooths labels, instead of cross-entropy
    num_workers: int = 0,  # Processes that load texts; 0: none
    device: Any = None,  # Device; None: the GPU if there is one
    **kwargs,  # Passed to `Learner`: cbs, metrics, lr (5e-5 unless given), opt_func, loss_func
) -> Learner:
    """A Learner whose model is a transformer with a head for the classes of `df`; `fit_one_cycle(n,
    slice(1e-6, 5e-5))` gives each group of `transformer_splitter` its own learning rate.

    A folder is read without network access, code in it is not run, and weights become float32
    (`to_fp16` mixes precisions). A configuration gives random weights. A head with the same number
    of classes is kept, whatever their names; any other is replaced by a new one.

    Raises ImportError without transformers, ConnectionError if `model` cannot be downloaded,
    FileNotFoundError if it looks like a folder and is not one, ValueError for a folder that holds
    no model, a configuration without `tokenizer` and a tokenizer with more tokens than the model,
    and what `transformer_dls` raises."""
    try:
        import transformers as hf
    except ImportError as e:
        raise ImportError("transformer_learner needs transformers: pip install "
                          "'fastai_clean[transformers]'") from e
    own = not isinstance(df, DataLoaders)
    if own: check_frame(df)
    elif tokenizer is not None:
        raise ValueError("tokenizer and DataLoaders are both given: pass one of them")

    config = model if isinstance(model, hf.PretrainedConfig) else _load(hf.AutoConfig, model)
    if own:
        tokenizer = _tokenizer(hf, tokenizer, model, config)
        dls = transformer_dls(df, tokenizer, max_length, bs, num_workers, device)
    else:
        dls = df
        tokenizer = _batcher(dls).tokenizer
    if len(tokenizer) > config.vocab_size:
        raise ValueError(f"tokenizer has {len(tokenizer)} tokens, but the model has "
                         f"{config.vocab_size}: pass the model's own tokenizer")
    inner = _classifier(hf, model, config, dls.vocab, tokenizer.pad_token_id)
    _fit_length(_batcher(dls), _max_tokens(inner), own)
    args = {'lr': 5e-5, **_classifier_args(dls.vocab, label_smoothing, kwargs)}
    return Learner(dls, SequenceLogits(inner, tokenizer.pad_token_id),
                   splitter=transformer_splitter, **args)


def _tokenizer(hf, tokenizer, model, config):
    if tokenizer is None:
        if config is model:
            raise ValueError("model is a configuration, which has no tokenizer: pass tokenizer=")
        tokenizer = model
    if not isinstance(tokenizer, (str, os.PathLike)): return tokenizer
    return _load(hf.AutoTokenizer, tokenizer)


def _classifier(hf, model, config, vocab, pad):
    "The sequence classifier of `model` with a head for `vocab`, in float32"
    config = copy.deepcopy(config)
    config.num_labels = len(vocab)
    config.pad_token_id = pad
    config.id2label = {i: str(o) for i, o in enumerate(vocab)}
    config.label2id = {o: i for i, o in config.id2label.items()}
    kind = hf.AutoModelForSequenceClassification
    if isinstance(model, hf.PretrainedConfig): return kind.from_config(config).float()
    return _load(kind, model, config=config, ignore_mismatched_sizes=True).float()


def _batcher(dls):
    for o in dls.train.before_batch.fs:
        if isinstance(o, TokenizeBatch): return o
    raise ValueError("df holds DataLoaders without a Hugging Face tokenizer: use transformer_dls")


def _fit_length(batcher, limit, own):
    "Have our DataLoaders read no more tokens than the model does; refuse the user's if they do"
    if own: batcher.max_length = min(batcher.max_length, limit)
    elif batcher.max_length > limit:
        raise ValueError(f"df holds DataLoaders of {batcher.max_length} tokens, but the model "
                         f"reads {limit}: make them with transformer_dls(df, tokenizer, {limit})")


def _max_tokens(inner):
    "How many tokens a model reads"
    limit = getattr(inner.config, 'max_position_embeddings', None) or 0
    if limit < 1: return sys.maxsize
    # RoBERTa and its kin start counting positions after the number of the padding token
    for name, module in inner.named_modules():
        pad = getattr(module, 'padding_idx', None)
        if name.endswith('position_embeddings') and pad is not None: return limit - pad - 1
    return limit


def _load(kind, model, **kwargs):
    "What `kind` loads from a folder, or downloads"
    folder = Path(model).is_dir()
    like_path = isinstance(model, Path) or model.startswith(('/', '.', '~')) or model.count('/') > 1
    if not folder and like_path:
        raise FileNotFoundError(f"model {model} is not a folder: pass one that holds config.json, "
                                "model.safetensors and tokenizer.json, or a name at huggingface.co")
    try:
        return kind.from_pretrained(os.fspath(model), local_files_only=folder,
                                    trust_remote_code=False, **kwargs)
    except (OSError, ValueError) as e:
        why = str(e).strip().splitlines()[0][:200]
        if folder:
            raise ValueError(f"model {model} is not a folder of a Hugging Face model with "
                             "tokenizer: it must hold config.json, model.safetensors and "
                             f"tokenizer.json ({why})") from e
        raise ConnectionError(f"https://huggingface.co/{model} could not be downloaded ({why}): "
                              "get its config.json, model.safetensors and tokenizer files "
                              "elsewhere, put them in a folder and pass model=, the path of that "
                              "folder") from e
