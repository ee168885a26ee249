"Splits, views of data sets, fold DataLoaders and predictions: what out-of-fold training needs from fastai's data"
from .labels import Labels, ids_of, labels_of
from .predict import Predicted, predict
from .splits import fold_numbers
from .subsets import fewer, fold_dls, new_dl, plain_dl, view

__all__ = ['fold_numbers', 'labels_of', 'ids_of', 'view', 'new_dl', 'fewer', 'plain_dl', 'fold_dls', 'predict',
           'Predicted', 'Labels']
