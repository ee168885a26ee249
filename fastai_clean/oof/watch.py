"What the user's own callbacks, and those that folds leave out, do in the user's own fit"
import random
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Number
from operator import itemgetter
from pathlib import Path
from warnings import warn

import numpy as np
import torch
from fastai.callback.core import (
    Callback,
    CancelBatchException,
    CancelEpochException,
    CancelFitException,
    CancelStepException,
    CancelTrainException,
    CancelValidException,
)
from fastai.learner import Learner

from ..data.sampling import is_ours

EVENTS = ('before_fit', 'before_epoch', 'before_train', 'before_batch', 'after_pred', 'after_loss',
          'before_backward', 'after_cancel_backward', 'after_backward', 'before_step',
          'after_cancel_step', 'after_step', 'after_cancel_batch', 'after_batch',
          'after_cancel_train', 'after_train', 'before_validate', 'after_cancel_validate',
          'after_validate', 'after_cancel_epoch', 'after_epoch', 'after_cancel_fit', 'after_fit')
_CANCELS = (CancelBatchException, CancelEpochException, CancelFitException, CancelStepException,
            CancelTrainException, CancelValidException)
_BEFORE_BATCHES = 'before_fit', 'before_epoch', 'before_train'
_INTS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_MANY = 50


def is_own(
    cb: Callback,
) -> bool:
    """Whether `cb` is the user's: neither fastai's nor ours, and it does not say whether folds need
    it (`in_folds`)"""
    if hasattr(type(cb), 'in_folds'): return False
    # `Callback(after_epoch=f)` is fastai's class with a function of the user's
    if type(cb) is Callback: return True
    return not is_ours(type(cb))


class Watch:
    """Looks at the Learner before and after each event of some callbacks, for one fit.

    `changes` then holds what the callbacks that folds leave out set in the hyperparameters: share
    of the fit, name -> values of the groups. Of the user's own, `end` tells those that changed
    nothing that training depends on: batch, prediction, loss, weights, gradients, optimizer, layers
    and their settings, attributes of loss and other callbacks, DataLoaders, data set and their
    transforms, random numbers; and that cancelled nothing. Such a callback only looks on, and folds
    without it are the same to the last bit. Changes of other global state are not seen."""

    def __init__(self,
        learn: Learner,
        own: list[Callback],  # The user's own, to be watched
        left_out: list[Callback],  # Those that folds leave out
        hypers: list[dict],  # The hyperparameters of the groups as the fit began
    ):
        self.learn = learn
        # The first epoch's `before_epoch` is past
        self.first = _changed(_by_name(hypers), _hypers(learn.opt))
        self.early = [o for o in own if hasattr(o, 'before_epoch') or hasattr(o, 'before_train')]
        self.changes: list[tuple[float, dict]] = []
        # A callback that overrides `__call__` need not have events
        self.idle = [o for o in own if type(o).__call__ is Callback.__call__]
        self.writes: list[Callback] = []
        self.events = [o for cb in own for o in _events(cb, self._look)]
        self.events += [o for cb in left_out for o in _events(cb, self._note)]

    def _look(self, cb, name, event):
        if not _in(cb, self.idle): return event()
        before = _state(self.learn, cb)
        written = _written()
        done = False
        try:
            event()
            done = True
        finally:
            if not done or before != _state(self.learn, cb):
                self.idle = [o for o in self.idle if o is not cb]
            if written is None or written != _written(): self.writes.append(cb)

    def _note(self, cb, name, event):
        learn = self.learn
        before = _hypers(learn.opt)
        try: event()
        finally:
            changed = _changed(before, _hypers(learn.opt))
            if changed and hasattr(learn, 'epoch'):
                self.changes.append((self._share(name), changed))

    def _share(self, name):
        learn = self.learn
        if name in _BEFORE_BATCHES: return learn.epoch/learn.n_epoch
        in_batch = learn.training and ('train' not in name) and ('epoch' not in name)
        # Of an epoch that was cut short, the rest counts as done
        return learn.pct_train if in_batch else (learn.epoch + 1)/learn.n_epoch

    def end(self) -> tuple[list[Callback], list[Callback]]:
        """Take the watch off. Returns the callbacks that only looked on: those that wrote while
        they did, and the others"""
        late = [o.cb for o in self.events if o.name == 'after_fit' and not o.called]
        for o in self.events: o.end()
        self.events = []
        # What is still to come, such as averaged weights, may change the Learner
        idle = [o for o in self.idle if not _in(o, late)]
        looking = [o for o in idle if not _in(o, self.writes)]
        writing = [o for o in idle if _in(o, self.writes)]
        # If one that folds have may have set these, it sets them there too
        if self.first and all(_in(o, writing) for o in self.early):
            self.changes.insert(0, (0., self.first))
        return writing, looking


@contextmanager
def looking_on(
    learn: Learner,  # A fold Learner
    cbs: list[Callback],  # Copies of callbacks that only looked on in the user's fit
) -> Iterator[None]:
    """Context in which `cbs` are callbacks of `learn`. What they did in the `before_fit` of the
    user's fit is in the copies, so that is not called again; one that fails is left out."""
    events = []
    with learn.added_cbs(cbs):
        for cb in cbs: events += _events(cb, _try)
        try: yield
        finally:
            for o in events: o.end()


def _try(cb, name, event):
    if name == 'before_fit': return
    try: event()
    except _CANCELS: raise
    except Exception as e:
        cb.run = False
        warn(f"{type(cb).__name__} fails in the folds, where it is left out from there on, "
             f"{type(e).__name__}: {str(e)[:200]}; set in_folds = False in its class, or pass "
             "validate=True if it reads the validation loss", stacklevel=2)


def is_looking(
    cb: Callback,  # A callback of a fold Learner
) -> bool:
    "Whether `cb` only looks on, see `looking_on`"
    return any(isinstance(o, _Event) and o.call is _try for o in vars(cb).values())


class _Event:
    """Stands in for an event of a callback, until `end`: `call` is called with the callback, the
    name and the event. Copies and pickles of the callback have the event itself."""
    def __init__(self, cb, name, call):
        self.cb = cb
        self.name = name
        self.call = call
        self.called = False
        # An attribute of the instance comes before the method of its class
        self.before = vars(cb).get(name)
        self.event = getattr(cb, name)
        vars(cb)[name] = self

    def __call__(self):
        self.called = True
        return self.call(self.cb, self.name, self.event)

    def end(self):
        vars(self.cb).pop(self.name, None)
        if self.before is not None: vars(self.cb)[self.name] = self.before

    def __reduce__(self):
        if self.before is None: return getattr, (self.cb, self.name)
        return itemgetter(0), ((self.before,),)


def _events(cb, call): return [_Event(cb, o, call) for o in EVENTS if hasattr(cb, o)]


def _in(cb, cbs): return any(o is cb for o in cbs)


def _hypers(opt):
    "Name -> the values of the groups of parameters"
    return {} if opt is None else _by_name(opt.hypers)


def _by_name(hypers):
    res = {}
    for k in hypers[0]: res[k] = [o[k] for o in hypers]
    return res


def _changed(before, now): return {k: v for k, v in now.items() if before.get(k) != v}


def _written():
    "Bytes that this process has written until now; None if the system does not tell"
    try: lines = Path('/proc/self/io').read_text().splitlines()
    except OSError: return None
    return next((o for o in lines if o.startswith('wchar')), None)


def _state(learn, cb):
    "What training depends on, as something that can be compared"
    model = learn.model
    opt = learn.opt
    params = list(model.parameters())
    grads = [p.grad for p in params]
    batch = [getattr(learn, o, None) for o in ('xb', 'yb', 'pred', 'loss', 'loss_grad')]
    parts = 'model', 'opt', 'loss_func', 'dls', 'dl', 'opt_func'
    shown = [learn.loss_func, *model.modules(), *(o for o in learn.cbs if o is not cb)]
    for dl in learn.dls.loaders: shown += _readers(dl)
    numpy = np.random.get_state()
    return (
        [id(getattr(learn, o, None)) for o in parts],
        getattr(learn, 'n_epoch', None),
        _mark(batch), [_mark(o) for o in [*params, *grads]],
        # Writing into `p.data` or `p.grad.data` leaves no trace but the values themselves
        _bits([*params, *model.buffers(), *grads, *_tensors(batch)]),
        [p.requires_grad for p in params],
        None if opt is None else (opt.frozen_idx, _hypers(opt), _mark(_averages(opt))),
        [_settings(o) for o in shown],
        torch.get_rng_state().numpy().tobytes(),
        (numpy[1].tobytes(), numpy[2:]), random.getstate())


def _averages(opt):
    "The state of an optimizer: running averages and step counts"
    return list(getattr(getattr(opt, 'opt', opt), 'state', {}).values())


def _readers(dl):
    "A DataLoader, its data set, and the transforms of both"
    ds = getattr(dl, 'dataset', None)
    pipes = [getattr(dl, o, None) for o in ('after_item', 'before_batch', 'after_batch')]
    pipes += [getattr(o, 'tfms', None) for o in getattr(ds, 'tls', ())]
    res = [dl, ds]
    for o in pipes: res += getattr(o, 'fs', ())
    return res


def _tensors(o):
    if isinstance(o, torch.Tensor): return [o]
    return sum(map(_tensors, o), []) if isinstance(o, (tuple, list)) else []


def _bits(tensors):
    "The sum of the bits of each tensor, read as whole numbers"
    sums = []
    for o in tensors:
        if o is None: continue
        o = o.detach().as_subclass(torch.Tensor)
        # A sparse gradient has no bits of its own
        try: o = o.contiguous().view(-1)
        except RuntimeError: continue
        # Whole numbers of eight bytes are summed five times as fast as others
        try: sums.append(o.view(torch.int64).sum())
        except RuntimeError: sums.append(o.view(_INTS.get(o.element_size(), o.dtype)).sum())
    if len({o.device for o in sums}) == 1: return torch.stack(sums).tolist()
    return [o.item() for o in sums]


def _mark(o):
    "An object and how often it was changed in place"
    if isinstance(o, torch.Tensor): return id(o), o._version
    if isinstance(o, (Number, str, type(None))): return o
    if isinstance(o, dict): o = list(o.values())
    # Items of a data set are many
    if isinstance(o, (tuple, list)) and len(o) <= _MANY: return [_mark(v) for v in o]
    return id(o)


def _settings(o):
    values = vars(o) if hasattr(o, '__dict__') else {}
    return id(o), [(k, _mark(v)) for k, v in values.items()]
