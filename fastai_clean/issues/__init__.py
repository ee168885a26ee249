"Labels and predictions in, label issues out: the only part that imports cleanlab"
from .table import FILTERS, SCORES, confident_joint, find_issues, label_quality, noise_matrix, noise_rate

__all__ = ['FILTERS', 'SCORES', 'confident_joint', 'find_issues', 'label_quality', 'noise_matrix', 'noise_rate']
