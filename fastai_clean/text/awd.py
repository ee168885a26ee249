"Language model and classifier of an AWD-LSTM (Howard and Ruder, ULMFiT, ACL 2018), on tweets"
import os
import pickle
from pathlib import Path
from uuid import uuid4

import torch
from fastai.data.core import DataLoaders
from fastai.data.external import fastai_cfg
from fastai.learner import Learner
from fastai.metrics import Perplexity, accuracy
from fastai.text.data import LMDataLoader, TextDataLoaders
from fastai.text.learner import _model_meta, clean_raw_keys, language_model_learner, text_classifier_learner
from fastai.text.models.awdlstm import AWD_LSTM

from ..download import fetch
from ..frames import check_frame
from .tweets import classifier_args

__all__ = ['save_encoder', 'tweet_dls', 'tweet_learner', 'tweet_lm_learner']


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
