"Labels and predictions in, label issues out: the only part that imports cleanlab"
import warnings

# cleanlab comes first, inside this guard: if its extra `datalab` is installed, importing it
# silences every warning of the process
with warnings.catch_warnings():
    import cleanlab  # noqa: F401

from .annotations import majority_labels
from .annotators import AnnotatorIssues, find_annotator_issues
from .audit import audit
from .calibrate import apply_temperature, fit_temperature
from .channel import Channel
from .classification import find_issues, label_quality
from .confident import CLEANLAB, FILTERS, SCORES, StreamedIssues, predicted_classes
from .multilabel import find_class_issues, find_multilabel_issues
from .noise import (
    class_health,
    class_thresholds,
    confident_joint,
    health_score,
    noise_matrix,
    noise_rate,
    top_pairs,
)
from .regression import REGRESSION_SCORES, find_regression_issues
from .segmentation import SEGMENTATION_SCORES, find_segmentation_issues, segmentation_pixel_issues

__all__ = ['AnnotatorIssues', 'CLEANLAB', 'Channel', 'FILTERS', 'REGRESSION_SCORES', 'SCORES',
           'SEGMENTATION_SCORES', 'StreamedIssues', 'apply_temperature', 'audit', 'class_health',
           'class_thresholds', 'confident_joint', 'find_annotator_issues', 'find_class_issues',
           'find_issues', 'find_multilabel_issues', 'find_regression_issues',
           'find_segmentation_issues', 'fit_temperature', 'health_score', 'label_quality',
           'majority_labels', 'noise_matrix', 'noise_rate', 'predicted_classes',
           'segmentation_pixel_issues', 'top_pairs']
