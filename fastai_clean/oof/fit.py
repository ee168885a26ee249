"A fit, and the copy of a Learner that repeats it on all the training items but one fold"
import copy
from collections import OrderedDict
from collections.abc import Iterable
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FunctionType, MethodType, ModuleType
from warnings import warn

import numpy as np
import torch
from fastai.callback.core import (
    Callback,
    FetchPredsCallback,
)
from fastai.callback.hook import Hook, HookCallback
from fastai.learner import Learner
from fastai.optimizer import Lookahead, Optimizer, OptimWrapper
from fastcore.basics import Stateful
from fastcore.foundation import L
from fastcore.imports import noop
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.hooks import RemovableHandle

from ..data import fold_dls
from ..data.distributed import bare_dls, bare_model, shared_parts

_WATCHERS = {f'fastai.callback.{o}' for o in (
    'azureml', 'captum', 'comet', 'hook', 'neptune', 'progress', 'tensorboard', 'tracker', 'wandb')}
_LOADERS = 'load', 'load_encoder'  # Methods of Learners that read from the folder of models
_HOOKS = '_forward_hooks', '_forward_pre_hooks', '_backward_hooks', '_backward_pre_hooks'
_CONFIG = 'opt_func', 'lr', 'splitter', 'wd', 'wd_bn_bias', 'train_bn', 'moms'


def shapes_training(
    cb: Callback | type[Callback],
    leave_out: tuple,  # Callback classes that folds leave out
) -> bool:
    """Whether folds need `cb`: anything but progress bars, loggers, trackers and callbacks with
    `in_folds = False`"""
    cls = cb if isinstance(cb, type) else type(cb)
    if not getattr(cls, 'in_folds', True) or issubclass(cls, leave_out): return False
    return not any(o is FetchPredsCallback or o.__module__ in _WATCHERS for o in cls.__mro__)


def _is_clear(opt):
    "Whether `opt` holds no running averages: it is new, or `freeze` or `unfreeze` cleared it"
    if isinstance(opt, Lookahead): return opt.slow_weights is None and _is_clear(opt.opt)
    if isinstance(opt, OptimWrapper): return not opt.opt.state
    return all(set(o) <= set(opt._keep_on_clear) for o in opt.state.values())


def was_trained(
    learn: Learner,
) -> bool:
    """Whether `learn` shows traces of a fit: what the last one recorded, a schedule that it kept,
    or the optimizer's averages. Validation, prediction and `lr_find` leave none of these. Weights
    that were loaded leave no trace."""
    recorded = len(getattr(learn, 'final_record', ())) == 2 + len(learn.metrics)
    scheduled = hasattr(getattr(learn, 'recorder', None), 'hps')
    return recorded or scheduled or (learn.opt is not None and not _is_clear(learn.opt))


def warn_of_training(
    learn: Learner,  # The Learner whose labels are to be checked
) -> None:
    "Warn if `learn` was trained already: its weights know the labels that they are to judge"
    if was_trained(learn):
        warn("the Learner was trained before: its weights have seen every fold, so the "
             "probabilities are not out-of-fold; start from a new Learner", stacklevel=3)


def _groups(learn):
    "The position in the model of every parameter of every optimizer group"
    index = {id(p): i for i, p in enumerate(learn.model.parameters())}
    res = []
    for pg in learn.opt.param_lists: res.append([index.get(id(p), -1) for p in pg])
    return res


def copy_model(
    model: nn.Module,
    keep: Iterable = (),  # What hooks refer to and must not be copied: Learner, callbacks
    hooks: Iterable[int] = (),  # Ids of hooks that the copy must not have
) -> nn.Module:
    "A deep copy of `model`, even if it keeps computed tensors: AWD_LSTM and models with hooks do"
    res = copy.deepcopy(model, detached([vars(m) for m in model.modules()],
                                        {id(o): o for o in keep}))
    for m in res.modules():
        for i in hooks:
            for name in _HOOKS: getattr(m, name).pop(i, None)
    return res


def detached(
    parts: Iterable,  # What is to be copied
    memo: dict,  # For `copy.deepcopy`: id of what is not to be copied -> what takes its place
) -> dict:  # The same dict, with a detached clone for each computed tensor
    """Have `copy.deepcopy` copy objects that keep computed tensors, or handles of hooks, which it
    refuses to copy"""
    seen = {}

    def detach(o):
        if isinstance(o, torch.Tensor):
            if not o.is_leaf: memo[id(o)] = o.detach().clone()
            return
        if id(o) in memo or id(o) in seen: return
        if isinstance(o, RemovableHandle):
            memo[id(o)] = RemovableHandle(OrderedDict())
            return
        if isinstance(o, (nn.Module, type, ModuleType, FunctionType)): return
        if isinstance(o, dict): parts = o.values()
        elif isinstance(o, (list, tuple)): parts = o
        elif isinstance(o, MethodType): parts = [o.__self__]
        elif isinstance(o, partial): parts = [o.func, *o.args, *o.keywords.values()]
        else: parts = getattr(o, '__dict__', {}).values()
        seen[id(o)] = o
        for v in list(parts): detach(v)

    for o in parts: detach(o)
    return memo


def snapshot(
    learn: Learner,
) -> nn.Module:
    "A copy of the Learner's model as it is, without the hooks that callbacks put on it"
    watchers = [o for o in learn.cbs if isinstance(o, HookCallback)]
    hooks = [o.hook.id for cb in watchers for o in getattr(cb, 'hooks', ())]
    for m in learn.model.modules():
        for name in _HOOKS: hooks += _made_again(getattr(m, name), learn.cbs)
    return copy_model(bare_model(learn.model), [learn, learn.dls, *learn.cbs], hooks)


def _made_again(hooks, cbs):
    """The ids of `hooks` that call one of `cbs`, which has an event that comes before the batches:
    its copy makes them on the fold's model, where these would call the user's own"""
    res = []
    for i, f in hooks.items():
        owner = getattr(f, '__self__', None)
        if isinstance(owner, Hook): owner = getattr(owner.hook_func, '__self__', None)
        events = 'before_fit', 'before_epoch', 'before_train'
        if any(o is owner and any(hasattr(o, e) for e in events) for o in cbs): res.append(i)
    return res


class _StandIn:
    "In a record, the place of the user's Learner, model or optimizer, which folds fill with theirs"


class FitRecord:
    """The state of a Learner when a fit begins, after its callbacks' `before_fit`: all that fold
    Learners need to repeat the fit.

    It can be pickled: the user's Learner, model and optimizer then stay behind."""

    def __init__(self,
        learn: Learner,  # The user's Learner
        opt,  # Its optimizer; None: fold Learners make their own
    ):
        self.learn = learn
        self.model = bare_model(learn.model)
        self.dls = bare_dls(learn.dls)
        self.loss_func = learn.loss_func
        self.opt = opt
        self.config = {o: getattr(learn, o) for o in _CONFIG}
        self.n_epoch = learn.n_epoch
        self.stop_at = None
        self.changed = []  # Share of the fit, hyperparameters that a tracker set there
        self.looking = set()  # Positions in `originals` of callbacks that only look on
        self.opt_at = None
        self.described = None
        self.parts = []
        self.stand_ins = [_StandIn() for _ in range(3)]
        if opt is None: return
        self.hypers = [dict(o) for o in opt.hypers]
        self.groups = _groups(learn)
        self.frozen_idx = opt.frozen_idx
        self.clear = _is_clear(opt)
        self.requires_grad = [p.requires_grad for p in learn.model.parameters()]

    def __getstate__(self):
        # `parts` has stand-ins for these, so that no record drags the user's Learner along
        mine = 'learn', 'model', 'loss_func', 'opt'
        return {k: v for k, v in vars(self).items() if k not in mine}

    def copy_parts(self,
        leave_out: tuple,  # Callback classes that folds leave out
        originals: list,  # What was copied in earlier fits, and optimizers; new ones are added
    ) -> None:
        """Copy the loss and the callbacks that shape training as they are now, before the first
        batch. `parts` holds each copy with its original's position in `originals`, which is the
        same in every fit.

        Raises TypeError for a callback that cannot be copied."""
        if self.opt is not None: self.opt_at = _position(self.opt, originals)
        memo = {id(o): o for dl in self.dls.loaders for o in (dl, dl.dataset)}
        memo[id(self.dls)] = self.dls
        memo.update(self._stands_for(self.learn, self.model, self.opt))
        memo.update(shared_parts(self.learn.cbs))
        cbs = [o for o in self.learn.cbs if shapes_training(o, leave_out)]
        detached([vars(o) for o in cbs], memo)
        for o in [self.loss_func, *cbs]:
            try: self.parts.append((_position(o, originals), copy.deepcopy(o, memo)))
            except (TypeError, RuntimeError, AttributeError, ValueError) as e:
                raise TypeError(f"{type(o).__name__} cannot be copied for the fold Learners ({e}): "
                                "if it does not shape training, pass its class in leave_out=, or "
                                "set in_folds = False in it") from e

    def _stands_for(self, *mine):
        # id(None) would stand for every None within a callback
        return {id(o): s for o, s in zip(mine, self.stand_ins) if o is not None}

    def filled(self,
        learn: Learner,  # A fold Learner, with its model, optimizer and DataLoaders
    ) -> dict:
        "For `copy.deepcopy` of `parts`: what of `learn` takes the place of the user's"
        stand_ins = zip(self.stand_ins, (learn, learn.model, learn.opt))
        res = {id(s): o for s, o in stand_ins}
        res[id(self.dls)] = learn.dls
        res.update({id(a): b for a, b in zip(self.dls.loaders, learn.dls.loaders)})
        res.update(shared_parts(template for _, template in self.parts))
        return res


def _position(o, originals):
    "Where `o` itself is in `originals`, to which it is added if it is new"
    for i, p in enumerate(originals):
        if p is o: return i
    originals.append(o)
    return len(originals) - 1


class FoldLearner:
    """A fold Learner, and how far it has followed: `learn`; `n_done`, the number of fits that it
    repeated; `twins`, its own loss and callbacks, which go on from fit to fit."""

    def __init__(self,
        learn: Learner,  # The user's Learner
        model: nn.Module,  # The fold's own copy of the untrained model
        leave_out: tuple,  # Callback classes that folds leave out
    ):
        self.learn = copy.copy(learn)
        self.opt_of = None
        self.twins = {}
        self.n_done = 0
        new = self.learn
        # What callbacks put on a Learner (their names, wrapped methods) and what it was made with
        # refer to the user's model
        methods = [o for o in vars(new) if callable(getattr(Learner, o, None))]
        for name in [*(cb.name for cb in learn.cbs), *methods, '__stored_args__']:
            vars(new).pop(name, None)
        new.model = model
        new.opt = new.loss_func = new.metrics = None
        new.cbs = L()
        # fastprogress writes bars to stdout even if that is piped
        new.logger = noop
        new.create_mbar = False
        new.add_cb = lambda cb: Learner.add_cb(new, cb) if shapes_training(cb, leave_out) else new
        self._move_out(learn)
        self.rest()

    def _move_out(self, learn):
        """Have the fold read what the user saved, and save elsewhere: a callback that saves the
        model would overwrite the user's"""
        if not hasattr(learn, 'path'): return
        self.learn.model_dir = 'models'
        home = Path(learn.path)/learn.model_dir
        for name in _LOADERS:
            if hasattr(type(learn), name):
                setattr(self.learn, name, partial(_load, self.learn, name, home))

    @contextmanager
    def own_folder(self):
        "Context in which the fold has a folder of its own, which is deleted afterwards"
        path = self.learn.path
        with TemporaryDirectory(prefix='fastai_clean-fold-') as folder:
            self.learn.path = Path(folder)
            try: yield
            finally: self.learn.path = path

    def __getstate__(self):
        # fastcore's Stateful leaves `_stateattrs` out of every pickle, but the next fit of a fold
        # that was trained in another process needs them
        values = {i: dict(vars(o)) for i, o in self.twins.items() if isinstance(o, Stateful)}
        return {**vars(self), '_values': values}

    def __setstate__(self, state):
        values = state.pop('_values')
        vars(self).update(state)
        for i, o in values.items(): vars(self.twins[i]).update(o)

    def rest(self) -> None:
        "Let go of the data, between fits"
        self.learn._end_cleanup()
        vars(self.learn).pop('loss_grad', None)
        self.learn.dls = None

    def set_up(self,
        record: FitRecord,
        held_out: np.ndarray,  # Boolean mask (n,) of the items of the fold
    ) -> list:
        """Take over the data, optimizer, loss and callbacks of `record`; returns the callbacks, but
        for those that only look on"""
        learn = self.learn
        normalized = any(isinstance(m, _BatchNorm) for m in learn.model.modules())
        learn.dls = fold_dls(record.dls, held_out, normalized)
        for name, value in record.config.items(): setattr(learn, name, value)
        if record.opt_at is not None: self._set_up_opt(record)

        memo = record.filled(learn)
        # A callback that an earlier fit had too goes on: its copy is the twin from then
        memo.update({id(o): self.twins[i] for i, o in record.parts if i in self.twins})
        twins = [copy.deepcopy(template, memo) for _, template in record.parts]
        self.twins.update({i: twin for (i, _), twin in zip(record.parts, twins)})
        learn.loss_func, *cbs = twins
        return [o for (i, _), o in zip(record.parts[1:], cbs) if i not in record.looking]

    def lookers(self,
        record: FitRecord,  # For which the fold is set up
    ) -> list[Callback]:
        "Copies of the callbacks that only look on"
        return [self.twins[i] for i, _ in record.parts if i in record.looking]

    def _set_up_opt(self, record):
        learn = self.learn
        params = list(learn.model.parameters())
        if learn.opt is None or (record.clear and self.opt_of != record.opt_at):
            used = {i for pg in record.groups for i in pg}
            # The default splitter takes what requires gradients, but some may be frozen by now
            for i, p in enumerate(params): p.requires_grad_(i in used or record.requires_grad[i])
            learn.create_opt()
            self.opt_of = record.opt_at
            if _groups(learn) != record.groups:
                raise ValueError("splitter returns other parameters for a copy of the model than "
                                 "for the model itself: it must split the parameters of the model "
                                 "that it is given")
        elif record.clear: learn.opt.clear_state()
        for p, grad in zip(params, record.requires_grad): p.requires_grad_(grad)
        learn.opt.frozen_idx = record.frozen_idx
        for name in record.hypers[0]: learn.opt.set_hyper(name, [o[name] for o in record.hypers])

    def repeat(self,
        record: FitRecord,
    ) -> None:
        "Repeat the fit of `record`"
        names = [o for o in ('lr', 'wd') if o in record.hypers[0]]
        hypers = {}
        for o in names: hypers[o] = [h[o] for h in record.hypers]
        self.learn.fit(record.n_epoch, **hypers)


def _load(learn, name, home, file, *args, **kwargs):
    "What the fold saved itself, else what lies in the folder of the user's models"
    if isinstance(file, (str, Path)):
        own = Path(learn.path)/learn.model_dir/file
        if not (own.exists() or own.with_name(f'{own.name}.pth').exists()): file = home/file
    return getattr(type(learn), name)(learn, file, *args, **kwargs)


def check_opt_func(
    opt_func,  # `opt_func` of a Learner
) -> None:
    "Raise TypeError if `opt_func` is a built optimizer, which is tied to one model's parameters"
    if isinstance(opt_func, (OptimWrapper, Optimizer, torch.optim.Optimizer)):
        raise TypeError(f"opt_func is a built {type(opt_func).__name__}, tied to the parameters of "
                        "one model: pass a function that builds it, for example "
                        "opt_func=partial(OptimWrapper, opt=torch.optim.AdamW)")
