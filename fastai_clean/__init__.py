"""Find, rank, show and fix wrong labels, starting from the fastai `Learner` you already have.

Users start with `from fastai_clean.all import *`. What follows is the map for readers of the
code.

The package has five layers. A module imports only from parts above its own in this list, never
from those below (tests/test_house.py). A leading underscore in a file's name means: shared inside
the package, not for users.

    _files, _text, _images, _columns    files written whole, safe text, upright images
    _rows                     tables brought into the items' order, or refused
    _strength                 whether a model is too weak to judge the labels

  1 arrays: NumPy, pandas, scikit-learn, cleanlab; no fastai, and torch only in `losses`
    issues                    labels and probabilities in, the issue table out; how much noise
    plots                     matrices, classes, items, what a review finds; with matplotlib
    losses                    soft targets, and losses that wrong labels mislead less

  2 data: fastai's data sets and predictions; nothing is trained
    data                      labels, ids, folds, views, loaders, predictions in data set order

  3 training
    oof                       fold Learners that repeat a fit, and their out-of-fold probabilities
    dynamics                  what one ordinary fit says about each item, epoch by epoch
    interpret                 `CleanInterpretation`: tables, pictures, files and a report
    callbacks                 what follows or shapes a fit

  4 deciding: neither torch nor fastai, so that importing it takes a second
    review                    `ReviewSession`, its journal, what applies decisions, the review page

  5 hosts and doors
    widgets, app              the review page in a notebook, and at a local address
    datasets, vision, text    ready-made data and Learners
    learner                   patches `Learner`: oof, dynamics, oof_preds, clean_fit
    all                       the public names

Two parts import `review` although it is below them, each inside a function: `data`, to apply
decisions to data sets, and `interpret`, to start a session.

An id is a text that names an item for good: a file's path relative to `learn.path`, a DataFrame's
row label, or the item itself. `data.labels.ids_of` makes ids, and nothing else does. Issue
tables, saved probabilities and journals carry them as `id` or `ids`. A position is the index in
one data set and means nothing in another.

A held-out mask starts in `data.splits.fold_numbers`, which gives the fold (n,) that holds out
each item. `oof.folds` turns it into one mask per fold, `fold == k`. `data.subsets.fold_dls` makes
the DataLoaders that train on the rest and predict the held-out items. `OutOfFold.fold` keeps it
beside the probabilities.

A decision starts in `review.journal`: one JSON line, appended under a lock and synced before the
call returns. `review.session` replays the lines, and `review.apply` turns them into a new frame,
folder or DataLoaders. The page only asks the session, so a decision that it shows as made is on
disk.
"""
__version__ = '0.2.0'
