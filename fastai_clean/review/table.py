"The issue table and its reviewers, checked"
import getpass
import os

import numpy as np
import pandas as pd

from .names import USER, as_json, as_text, brief, short_name

COLUMNS = 'item', 'given', 'predicted', 'confidence', 'label_quality', 'is_issue'


def issue_table(issues):
    "The issue table with its `id`, worst first"
    if isinstance(issues, (str, os.PathLike)): issues = _read_table(issues)
    if not isinstance(issues, pd.DataFrame):
        raise TypeError(f"issues is a {type(issues).__name__}: pass the table of find_issues, or its CSV's path")
    if 'item' not in issues and 'id' in issues: issues = issues.rename(columns={'id': 'item'})
    if lacks := [o for o in COLUMNS if o not in issues]:
        raise ValueError(f"issues lacks the columns {lacks}: pass the table of find_issues or its CSV")
    if issues.empty: raise ValueError("issues has no rows: pass at least one item")
    texts = ['item', 'given', 'predicted', *(['set'] if 'set' in issues else [])]
    for name in texts:
        if n := issues[name].isna().sum():
            raise ValueError(f"issues has {n} missing values in {name!r}: leave those items out, or read the CSV with "
                             "keep_default_na=False")
    for name in ('given', 'predicted'):
        if odd := [o for o in issues[name] if isinstance(o, (tuple, list, float, np.floating, np.ndarray))]:
            raise TypeError(f"issues has {brief(odd[0])} in {name!r}: a review needs one class an item")
    items = issues.item if 'set' not in issues else issues['set'].map(as_text) + ':' + issues.item.map(as_text)
    ids = np.array([short_name(o) for o in items], dtype=object)
    if len(twice := ids[pd.Series(ids).duplicated()]):
        raise ValueError(f"issues has {len(twice)} items twice, first {brief(twice[0])}: give each its own name")
    df = issues.assign(id=ids, is_issue=issues.is_issue.astype(bool))
    return df.sort_values('label_quality', kind='stable')


def _read_table(path):
    "The table as text, but for its numbers: a class may be called NA"
    df = pd.read_csv(path, dtype=str, keep_default_na=False, encoding_errors='backslashreplace', index_col=False)
    for name in {'confidence', 'label_quality'} & {*df}:
        blank = df[name].isna() | df[name].isin(['', 'nan'])
        numbers = pd.to_numeric(df[name].mask(blank), errors='coerce')
        if (bad := numbers.isna() & ~blank).any():
            raise ValueError(f"{path} has {brief(df[name][bad].iloc[0])} in {name!r}: write numbers")
        df[name] = numbers
    if 'is_issue' in df:
        flags = df.is_issue.str.lower().map({'true': True, 'false': False, '1': True, '0': False})
        if flags.isna().any():
            raise ValueError(f"is_issue has {brief(df.is_issue[flags.isna()].iloc[0])} in {path}: write True or False")
        df['is_issue'] = flags.astype(bool)
    return df


def reviewer(user):
    "The reviewer's name: `user`, or the account's. Raises ValueError for one that a record cannot hold"
    if user is None:
        try: user = getpass.getuser()
        except (ImportError, KeyError, OSError): user = 'reviewer'  # an account without a name, as in containers
    if not isinstance(user, str) or not user.isprintable() or not user.strip() or len(as_json(as_text(user))) > USER:
        raise ValueError(f"user is {brief(user)}: pass a printable name of at most {USER - 2} bytes")
    return as_text(user)


def cohen_kappa(pairs):
    "Share of `pairs` that agree, and Cohen's kappa"
    n = len(pairs)
    if not n: return np.nan, np.nan
    a, b = (pd.Series([o[i] for o in pairs]).value_counts() for i in (0, 1))
    agree, chance = sum(x == y for x, y in pairs)/n, sum(a[o]*b[o] for o in a.index if o in b.index)/n**2
    return agree, np.nan if chance == 1 else (agree - chance)/(1 - chance)
