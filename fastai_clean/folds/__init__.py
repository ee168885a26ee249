"Splits, views of data sets, fold DataLoaders and predictions: what out-of-fold training needs from fastai's data"
from .labels import Labels, item_ids, labels_of
from .loaders import fewer, fold_dls, new_dl, plain_dl, view
from .predictions import Predicted, predict
from .splits import fold_numbers

__all__ = ['fold_numbers', 'labels_of', 'item_ids', 'view', 'new_dl', 'fewer', 'plain_dl', 'fold_dls', 'predict',
           'Predicted', 'Labels']
