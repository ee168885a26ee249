"Labels and predictions in, label issues out: the only part that imports cleanlab"
from .advise import Advice, advise_filter
from .audit import audit
from .calibrate import apply_temperature, fit_temperature
from .noise import class_health, class_thresholds, confident_joint, noise_matrix, noise_rate, top_pairs
from .segmentation import SEGMENTATION_SCORES, find_segmentation_issues, segmentation_pixel_issues
from .stream import FILTERS, SCORES, StreamedIssues, predicted_classes
from .table import find_issues, find_issues_by, label_quality
from .tasks import REGRESSION_SCORES, find_class_issues, find_multilabel_issues, find_regression_issues

__all__ = ['FILTERS', 'REGRESSION_SCORES', 'SCORES', 'SEGMENTATION_SCORES', 'Advice', 'StreamedIssues',
           'advise_filter', 'apply_temperature', 'audit', 'class_health', 'class_thresholds', 'confident_joint',
           'find_class_issues', 'find_issues', 'find_issues_by', 'find_multilabel_issues', 'find_regression_issues',
           'find_segmentation_issues', 'fit_temperature', 'label_quality', 'noise_matrix', 'noise_rate',
           'predicted_classes', 'segmentation_pixel_issues', 'top_pairs']
