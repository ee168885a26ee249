"""fastai's data sets as out-of-fold training needs them: labels, ids, folds, views and predictions.

Nothing is trained here. Ids come from `labels.ids_of`, a held-out mask comes from
`splits.fold_numbers` and becomes DataLoaders in `subsets.fold_dls`, and every prediction is made by
`predict.predict`."""
from .labels import Labels, ids_of, labels_of
from .predict import Predicted, predict
from .splits import fold_numbers
from .subsets import fewer, fold_dls, new_dl, plain_dl, view

__all__ = ['Labels', 'Predicted', 'fewer', 'fold_dls', 'fold_numbers', 'ids_of', 'labels_of',
           'new_dl', 'plain_dl', 'predict', 'view']
