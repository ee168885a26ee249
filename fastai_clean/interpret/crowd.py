"Several annotators of the items of a CleanInterpretation"
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .. import issues
from .._columns import objects
from ..data.labels import row_labels
from .tables import need_classes

if TYPE_CHECKING:
    from .base import CleanInterpretation


def annotators(
    interp: 'CleanInterpretation',
    labels: Any,  # Annotations (n, m), or in long form; or a ReviewSession over these items
    **kwargs,  # Passed to `issues.find_annotator_issues`: id_column, annotator_column, label_column
) -> issues.AnnotatorIssues:
    """The consensus of several annotators and the model, each annotator's quality, and what to have
    labelled again, see `issues.find_annotator_issues`. Train on `majority_labels` first.

    The annotations in a DataFrame belong to `ids` or, if the items are rows of a DataFrame, to row
    labels; those in an array to the items in the data set's order. Of a session, see
    `ReviewSession.annotators`, the tables have the items that a reviewer labelled only.

    Raises TypeError unless items have one class, and ValueError as `find_annotator_issues` does, as
    if items are missing from `labels` or none of an item's annotators gave it the label that was
    trained on; warns if that is not their majority."""
    # Imported here: the review is a layer below
    from ..review import ReviewSession
    need_classes(interp, 'annotators')
    at = np.arange(len(interp.ids))
    if isinstance(labels, ReviewSession):
        labels = labels.annotations()
        at = np.flatnonzero(pd.Index(interp.ids).isin(labels.id))
    index = row_labels(interp.dl.dataset)
    ids = pd.Series(objects(interp.ids), index).iloc[at]
    vocab = list(interp.vocab)
    given = objects(vocab)[interp.given[at]].tolist()
    return issues.find_annotator_issues(
        labels, interp.probs[at], ids=ids if index is not None else ids.tolist(), vocab=vocab,
        given=given, **kwargs).at(at)
