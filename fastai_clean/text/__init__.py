"COVID tweets: frames, DataLoaders, and Learners of an AWD-LSTM or a Hugging Face transformer"
from .awd import save_encoder, tweet_dls, tweet_learner, tweet_lm_learner
from .transformer import transformer_dls, transformer_learner, transformer_splitter
from .tweets import covid_tweets, informative_f1

__all__ = ['covid_tweets', 'informative_f1', 'save_encoder', 'transformer_dls', 'transformer_learner',
           'transformer_splitter', 'tweet_dls', 'tweet_learner', 'tweet_lm_learner']
