"Whether a callback of the user's shapes training, seen in the user's own fit"
import random
from functools import partial
from numbers import Number

import numpy as np
import torch
from fastai.callback.core import Callback
from fastai.learner import Learner

EVENTS = ('after_create', 'before_fit', 'before_epoch', 'before_train', 'before_batch',
          'after_pred', 'after_loss', 'before_backward', 'after_cancel_backward', 'after_backward',
          'before_step', 'after_cancel_step', 'after_step', 'after_cancel_batch', 'after_batch',
          'after_cancel_train', 'after_train', 'before_validate', 'after_cancel_validate',
          'after_validate', 'after_cancel_epoch', 'after_epoch', 'after_cancel_fit', 'after_fit')


def is_own(
    cb: Callback,
) -> bool:
    """Whether `cb` is the user's: neither fastai's nor ours, and it does not say whether folds need
    it (`in_folds`)"""
    if hasattr(type(cb), 'in_folds'): return False
    # `Callback(after_epoch=f)` is fastai's class with a function of the user's
    if type(cb) is Callback: return True
    return type(cb).__module__.split('.')[0] not in ('fastai', 'fastai_clean')


class Watch:
    """Looks at the Learner before and after each event of the user's callbacks, for one fit.

    `idle` then holds those that changed nothing that training depends on: batch, prediction, loss,
    weights, gradients, hyperparameters, layers and their settings, attributes of the loss, the
    DataLoader and its data set, random numbers; and that cancelled nothing. Such a callback only
    looks, and folds without it are the same to the last bit. Changes of other global state are not
    seen."""

    def __init__(self,
        learn: Learner,
        cbs: list[Callback],  # The callbacks to watch
    ):
        self.learn = learn
        self.idle = list(cbs)
        self.watched = []
        for cb in cbs:
            for name in EVENTS:
                # An attribute of the instance comes before the method of its class
                if not hasattr(cb, name): continue
                before = vars(cb).get(name)
                setattr(cb, name, partial(self._call, cb, getattr(cb, name)))
                self.watched.append((cb, name, before))

    def _call(self, cb, event):
        if not any(o is cb for o in self.idle): return event()
        before = _state(self.learn)
        done = False
        try:
            res = event()
            done = True
        finally:
            if not done or before != _state(self.learn):
                self.idle = [o for o in self.idle if o is not cb]
        return res

    def end(self) -> list[Callback]:
        "Take the watch off; returns the callbacks that only looked"
        for cb, name, before in self.watched:
            vars(cb).pop(name, None)
            if before is not None: setattr(cb, name, before)
        self.watched = []
        return self.idle


def _state(learn):
    "What training depends on, as something that can be compared"
    model = learn.model
    opt = learn.opt
    batch = [getattr(learn, o, None) for o in ('xb', 'yb', 'pred', 'loss', 'loss_grad')]
    parts = 'model', 'opt', 'loss_func', 'dls', 'dl', 'opt_func'
    numpy = np.random.get_state()
    return (
        [_mark(o) for o in batch],
        [id(getattr(learn, o, None)) for o in parts],
        getattr(learn, 'n_epoch', None),
        None if opt is None else (opt.frozen_idx, [dict(o) for o in opt.hypers]),
        [(id(p), p._version, p.requires_grad, _mark(p.grad)) for p in model.parameters()],
        [(id(o), o._version) for o in model.buffers()],
        [_settings(m) for m in model.modules()],
        [_settings(o) for o in (learn.loss_func, getattr(learn, 'dl', None))],
        _settings(getattr(getattr(learn, 'dl', None), 'dataset', None)),
        torch.get_rng_state().numpy().tobytes(),
        (numpy[1].tobytes(), numpy[2:]), random.getstate())


def _mark(o):
    "An object and how often it was changed in place; None for what is not there"
    if isinstance(o, (tuple, list)): return [_mark(v) for v in o]
    return (id(o), o._version) if isinstance(o, torch.Tensor) else id(o)


def _settings(o):
    values = vars(o) if hasattr(o, '__dict__') else {}
    found = [(k, v if isinstance(v, (Number, str, type(None))) else id(v))
             for k, v in values.items()]
    hooks = [len(values.get(k) or ()) for k in ('_forward_hooks', '_forward_pre_hooks')]
    return id(o), found, hooks
