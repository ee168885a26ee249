"The options of the filters, checked before cleanlab or the streaming path has them"
import os
from numbers import Integral, Real

import numpy as np


def check_options(
    c,  # Number of classes
    frac_noise=1.,  # As in `find_issues`, as are those below
    num_to_remove_per_class=None,
    min_examples_per_class=1,
) -> dict:  # The same, `num_to_remove_per_class` as a list of ints or None
    "Raise ValueError where an option is no number that it can be"
    if not isinstance(frac_noise, Real) or not 0 <= frac_noise <= 1:
        raise ValueError(f"frac_noise is {frac_noise!r}: pass a share from 0 to 1")
    if not isinstance(min_examples_per_class, Integral) or min_examples_per_class < 0:
        raise ValueError(f"min_examples_per_class is {min_examples_per_class!r}: pass a whole number, 0 or more")
    num = num_to_remove_per_class
    if num is not None:
        try: num = np.asarray(num)
        except ValueError: num = np.asarray(num, dtype=object)
        if num.shape != (c,):
            raise ValueError(f"num_to_remove_per_class has shape {num.shape}, but pred_probs has {c} columns: pass one "
                             "number a column")
        if num.dtype.kind not in 'iu' or num.min() < 0:
            raise ValueError(f"num_to_remove_per_class has dtype {num.dtype} and values such as {num.tolist()[0]!r}: "
                             "pass whole numbers, 0 or more")
        num = num.tolist()
    return dict(frac_noise=frac_noise, num_to_remove_per_class=num, min_examples_per_class=min_examples_per_class)


def workers(
    n_jobs,  # What a person passed
) -> int:  # 1 to the number of processors
    "Processes or threads for None or -1, one a processor, or a number; raises ValueError for what is none"
    most = os.cpu_count() or 1
    if n_jobs is None: return most
    if isinstance(n_jobs, bool) or not isinstance(n_jobs, Integral) or n_jobs < -1 or not n_jobs:
        raise ValueError(f"n_jobs is {n_jobs!r}: pass 1 or more, -1 for one a processor")
    return most if n_jobs == -1 else min(int(n_jobs), most)
