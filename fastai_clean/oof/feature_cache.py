"Features on disk, found again by what they were made of: inputs and weights, not labels"
from pathlib import Path

from fastai.data.load import DataLoader

from .._files import load_arrays, save_arrays
from ..data import ids_of
from .describe import describe, digest
from .runs import describe_item, input_files

_FILE, _NAMES = 'features.json', ('features',)


def features_key(
    learn,  # The Learner that is to read `dl`
    dl,  # A DataLoader that is not shuffled
    layer,  # Name of the module whose inputs or outputs are the features
) -> str:
    """A digest of the model with its weights, of `layer`, the callbacks and what is read.

    Of images in files that is their names, sizes, times of change and the first batch, which shows the transforms; of
    anything else every batch, loaded without the model."""
    ds, cbs = dl.dataset, [describe(o) for o in learn.cbs.sorted('order')]
    files = input_files(ds)
    stats = None if files is None else [describe_item(o) for o in files]
    batches = dl if files is None else [dl.one_batch() if isinstance(dl, DataLoader) else next(iter(dl))]
    inputs = [describe(b[:getattr(learn.dls, 'n_inp', max(1, len(b) - 1))]) for b in batches]
    return digest([describe(learn.model), layer, cbs, ids_of(ds, learn.path), stats, inputs])


def save_features(
    folder,  # Folder of the cache
    key,  # Of `features_key`
    features,  # (n, d) float32
):
    "Write the features, whole or not at all, as .npy and .json in a folder of their own"
    meta = dict(ids=[], vocab=[], config={'key': key, 'values': describe(features)})
    try: save_arrays(_path(folder, key), 'features', _FILE, {'features': features}, meta, overwrite=True)
    except OSError:  # another process may have written the same
        if load_features(folder, key, len(features)) is None: raise


def load_features(
    folder,  # Folder of the cache
    key,  # Of `features_key`
    n,  # Number of items
):
    "The features saved under `key`, or None where there are none or they are not as they were written"
    try: arrays, meta = load_arrays(_path(folder, key), 'features', _FILE, _NAMES)
    except (OSError, ValueError, EOFError): return None
    features, config = arrays['features'], meta['config']
    fits = features.ndim == 2 and len(features) == n and isinstance(config, dict) and config.get('key') == key
    return features if fits and config.get('values') == describe(features) else None


def _path(folder, key): return Path(folder)/f'features-{key}'
