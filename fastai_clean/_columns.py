"Columns of values of any type, which numpy and pandas would change"
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd


def objects(
    values: Iterable,  # Any values, tuples among them
) -> np.ndarray:  # One axis, dtype object
    "`values` unchanged, in an array of one axis"
    # Texts that pandas keeps in Arrow are read one by one at three times the cost
    if isinstance(values, pd.Series): values = values.tolist()
    # numpy would make a second axis of tuples of one length; the None at the end prevents it
    return np.array([*values, None], dtype=object)[:-1]


def column_like(
    values: Sequence | np.ndarray,  # (n,)
    column: pd.Series,  # (n,)
) -> pd.Series:
    "`values` in the type of `column` if it can hold them; categories get those that are missing"
    if isinstance(column.dtype, pd.CategoricalDtype):
        known = column.cat.categories
        added = [o for o in dict.fromkeys(values) if not pd.isna(o) and o not in known]
        return pd.Series(values, column.index, dtype=column.cat.add_categories(added).dtype)
    res = pd.Series(values, column.index, dtype=object)
    try: typed = res.astype(column.dtype)
    except (TypeError, ValueError, OverflowError): return res
    # A cast may succeed and change the values: every text is a true bool, 200 is -56 in an int8
    missing = res.isna()
    kept = typed[~missing].astype(object) == res[~missing]
    return typed if kept.all() and (typed.isna() == missing).all() else res
