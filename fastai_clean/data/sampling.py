"What draws the items of a DataLoader, for one over a part of its data set"
import inspect
import random
from collections.abc import Callable
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import pandas as pd
import torch
from fastai.data.load import DataLoader
from fastcore.xtras import is_listy


class Mapped:
    "The user's own `create_item`, for positions in a part of the data set"
    def __init__(self, create_item, idxs):
        self.create_item = create_item
        self.idxs = idxs

    def __call__(self, s): return self.create_item(int(self.idxs[s or 0]))


class InOrder:
    "A `get_idxs` that draws nothing"
    def __init__(self, n): self.n = n
    def __call__(self): return list(range(self.n))


class Apart:
    "Draws as `draw` does, but leaves the user's random `generators` where they were"
    def __init__(self, draw: Callable, generators: list):
        self.draw = draw
        self.generators = generators
        self.states = [_state(o) for o in generators]

    def __call__(self):
        before = [_state(o) for o in self.generators]
        for o, state in zip(self.generators, self.states): _set_state(o, state)
        try: return list(self.draw())
        finally:
            self.states = [_state(o) for o in self.generators]
            for o, state in zip(self.generators, before): _set_state(o, state)


_GENERATORS = random.Random, np.random.Generator, np.random.RandomState, torch.Generator


def _state(o):
    if isinstance(o, np.random.Generator): return o.bit_generator.state
    return o.getstate() if isinstance(o, random.Random) else o.get_state()


def _set_state(o, state):
    if isinstance(o, np.random.Generator): o.bit_generator.state = state
    elif isinstance(o, random.Random): o.setstate(state)
    else: o.set_state(state)


def generators_of(
    *fs: Callable,  # Functions, or methods
) -> list:
    "The random generators of the user's that `fs` refer to"
    found = {}
    seen = {}
    for f in fs: _find(f, found, seen, 0)
    return list(found.values())


def _find(o, found, seen, depth):
    if id(o) in seen or depth > 6: return
    seen[id(o)] = o
    if isinstance(o, _GENERATORS):
        found[id(o)] = o
        return
    if isinstance(o, (type, ModuleType, torch.Tensor, np.ndarray)): return
    if isinstance(o, MethodType):
        parts = [o.__func__, o.__self__]
    elif isinstance(o, FunctionType):
        # fastai draws from the DataLoader's `rng` and the global generators, which are apart
        if is_ours(o): return
        parts = [o.__globals__.get(name) for name in o.__code__.co_names]
        parts += [_cell(c) for c in o.__closure__ or ()] + [*(o.__defaults__ or ())]
    elif isinstance(o, partial):
        parts = [o.func, *o.args, *o.keywords.values()]
    else:
        # The values of a data set are many, and none of them draws
        parts = [v for k, v in getattr(o, '__dict__', {}).items()
                 if k not in ('dataset', 'rng', 'fake_l')]
    for part in parts: _find(part, found, seen, depth + 1)


def _cell(c):
    # A name that is not bound yet
    try: return c.cell_contents
    except ValueError: return None


def is_ours(
    f: Callable,  # A function, a method, or a class
) -> bool:
    "Whether `f` is fastai's or fastai_clean's, not the user's"
    module = getattr(f, '__module__', None) or ''
    return module.split('.')[0] in ('fastai', 'fastcore', 'fastai_clean')


class Drawn:
    """The positions that the user's own `get_idxs` or `shuffle_fn` draws, as positions in a part of
    the data set: what is not in the part is left out"""
    def __init__(self, dl, idxs):
        self.dl = dl
        self.at = {int(i): k for k, i in enumerate(idxs)}
        self.rng = random.Random(random.randint(0, 2**32 - 1))

    def __call__(self):
        # Drawing must not move the random numbers of the user's own DataLoader on
        own = self.dl.rng
        self.dl.rng = self.rng
        try: drawn = self.dl.get_idxs()
        finally: self.dl.rng = own
        return [self.at[int(i)] for i in drawn if int(i) in self.at]


def own_arguments(
    dl: DataLoader,  # The user's DataLoader
    idxs: np.ndarray,  # Positions (m,) in `dl.dataset` of the items of the part
    needed: bool,  # Whether no argument may be missing, since the part is drawn from
) -> dict[str, Any]:  # Name -> value
    """The arguments that a subclass of the user's own takes, those of one value per item shortened.

    Raises TypeError for one that is `needed` and not kept as an attribute."""
    init = type(dl).__init__
    if is_ours(init): return {}
    known = {*inspect.signature(DataLoader.__init__).parameters, *dl._methods}
    for cls in type(dl).__mro__:
        if cls.__module__.startswith('fastai.'):
            known |= {*inspect.signature(cls.__init__).parameters}
    own = [o for o in inspect.signature(init).parameters.values()
           if o.name not in known and o.kind not in (o.VAR_POSITIONAL, o.VAR_KEYWORD)]
    lost = [o.name for o in own if not hasattr(dl, o.name)]
    own = [o for o in own if o.name not in lost]
    if lost and needed:
        raise TypeError(f"the DataLoader is a {type(dl).__name__}, whose argument {lost[0]} cannot "
                        f"be passed on to a part of the data: keep it as self.{lost[0]} in "
                        "__init__")
    return {o.name: _part(getattr(dl, o.name), idxs, len(dl.dataset)) for o in own}


def _part(value, idxs, n):
    "The part of `value` for the items `idxs`, if it has one entry per item"
    if isinstance(value, (pd.Series, pd.DataFrame)):
        return value.iloc[idxs] if len(value) == n else value
    if isinstance(value, (np.ndarray, torch.Tensor)):
        return value[idxs] if value.ndim and len(value) == n else value
    if not is_listy(value) or len(value) != n: return value
    return type(value)(value[int(i)] for i in idxs)
