"Arrays in, matplotlib Axes out"
from .items import *
