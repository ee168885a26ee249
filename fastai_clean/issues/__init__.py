"Labels and predictions in, label issues out: the only part that imports cleanlab"
from .table import *
