"A fit, and the copy of a Learner that repeats it on all the training items but one fold"
import copy
from functools import partial
from types import FunctionType, MethodType, ModuleType
from warnings import warn

import torch
from fastai.callback.core import Callback, CancelFitException, CancelValidException, FetchPredsCallback
from fastai.callback.hook import HookCallback
from fastai.learner import Learner
from fastai.optimizer import Lookahead, Optimizer, OptimWrapper
from fastcore.foundation import L
from fastcore.imports import noop
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..data import fold_dls
from ..data.distributed import bare_dls, bare_model, shared_parts

_WATCHERS = {f'fastai.callback.{o}' for o in
             'azureml captum comet hook neptune progress tensorboard tracker wandb'.split()}

def _shapes_training(cb, leave_out):
    "Whether folds need `cb`: everything but progress bars, loggers, trackers and what says `in_folds = False`"
    cls = cb if isinstance(cb, type) else type(cb)
    return (getattr(cls, 'in_folds', True) and not issubclass(cls, leave_out)
            and not any(o is FetchPredsCallback or o.__module__ in _WATCHERS for o in cls.__mro__))


def _is_clear(opt):
    "Whether `opt` holds no running averages: it is new, or `freeze` or `unfreeze` cleared it"
    if isinstance(opt, Lookahead): return opt.slow_weights is None and _is_clear(opt.opt)
    if isinstance(opt, OptimWrapper): return not opt.opt.state
    return all(set(o) <= set(opt._keep_on_clear) for o in opt.state.values())


def was_trained(
    learn,  # A Learner
):
    """Whether a fit of `learn` shows: in what the last one recorded, a schedule it kept or the optimizer's averages.
    Validation, prediction and `lr_find` leave none of these; weights that were loaded show nothing."""
    recorded = len(getattr(learn, 'final_record', ())) == 2 + len(learn.metrics)
    scheduled = hasattr(getattr(learn, 'recorder', None), 'hps')
    return recorded or scheduled or (learn.opt is not None and not _is_clear(learn.opt))


def warn_of_training(
    learn,  # A Learner that is to be checked
):
    "Warn where `learn` was trained already: its weights know the labels that they are to judge"
    if was_trained(learn):
        warn("the Learner was trained before: its weights have seen every fold, so the probabilities are not "
             "out-of-fold; start from a new Learner", stacklevel=3)


def _groups(learn):
    "The position in the model of every parameter of every optimizer group"
    index = {id(p): i for i, p in enumerate(learn.model.parameters())}
    return [[index.get(id(p), -1) for p in pg] for pg in learn.opt.param_lists]


def copy_model(
    model,  # Any nn.Module
    keep=(),  # Objects that its hooks may refer to and that are not to be copied: the Learner, its callbacks
    hooks=(),  # Ids of forward and backward hooks that the copy is to be without
):
    "A deep copy of `model`, also where it keeps computed tensors that `copy.deepcopy` refuses: AWD_LSTM's, hooks'"
    res = copy.deepcopy(model, detached([vars(m) for m in model.modules()], {id(o): o for o in keep}))
    for m in res.modules():
        for i in hooks:
            for found in (m._forward_hooks, m._backward_hooks): found.pop(i, None)
    return res


def detached(
    parts,  # What is to be copied
    memo,  # For `copy.deepcopy`: ids of what is not to be copied, with what takes its place
) -> dict:  # The same, with a detached clone for each computed tensor
    "Have `copy.deepcopy` copy what keeps computed tensors"
    seen = {}

    def detach(o):
        if isinstance(o, torch.Tensor):
            if not o.is_leaf: memo[id(o)] = o.detach().clone()
            return
        if id(o) in memo or id(o) in seen or isinstance(o, (nn.Module, type, ModuleType, FunctionType)): return
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
    learn,  # The user's Learner
):
    "A copy of its model as it is, without the hooks that callbacks put on it"
    hooks = [o.hook.id for cb in learn.cbs if isinstance(cb, HookCallback) for o in getattr(cb, 'hooks', ())]
    return copy_model(bare_model(learn.model), [learn, learn.dls, *learn.cbs], hooks)


class FitRecord:
    "What a Learner is when a fit begins, after its callbacks' `before_fit`, so that fold Learners can repeat the fit"

    def __init__(self,
        learn,  # The user's Learner
        opt,  # Its optimizer; None: fold Learners make their own
    ):
        self.learn, self.model, self.dls = learn, bare_model(learn.model), bare_dls(learn.dls)
        self.loss_func, self.opt = learn.loss_func, opt
        self.config = {o: getattr(learn, o) for o in 'opt_func lr splitter wd wd_bn_bias train_bn moms'.split()}
        self.n_epoch, self.stop_at, self.parts, self.described = learn.n_epoch, None, [], None
        if opt is None: return
        self.hypers = [dict(o) for o in opt.hypers]
        self.groups, self.frozen_idx, self.clear = _groups(learn), opt.frozen_idx, _is_clear(opt)
        self.requires_grad = [p.requires_grad for p in learn.model.parameters()]

    def copy_parts(self,
        leave_out,  # Tuple of callback classes that folds leave out
        originals,  # List of what was copied in fits before; what is new is added
    ):
        """Copy the loss and the callbacks that shape training as they are now, before the first batch. `parts` holds
        each copy with its original's position in `originals`, the same in every fit.

        Raises TypeError for a callback that cannot be copied."""
        memo = {id(o): o for o in (self.learn, self.model, self.dls, self.opt, *self.dls.loaders,
                                   *(dl.dataset for dl in self.dls.loaders))}
        memo.update(shared_parts(self.learn.cbs))
        for o in [self.loss_func, *(cb for cb in self.learn.cbs if _shapes_training(cb, leave_out))]:
            known = [i for i, p in enumerate(originals) if p is o]
            if not known: originals.append(o)
            try: self.parts.append((known[0] if known else len(originals) - 1, copy.deepcopy(o, memo)))
            except (TypeError, RuntimeError, AttributeError, ValueError) as e:
                raise TypeError(f"{type(o).__name__} cannot be copied for the fold Learners ({e}): if it does not "
                                "shape training, pass its class in leave_out=, or set in_folds = False in it") from e


class InFold(Callback):
    "In a fold Learner: no validation, stop where the user's Learner stopped, tell the progress bar"
    order, fitted, fitting = -5, False, False
    def __init__(self, tick, stop_at=None): self.tick, self.stop_at = tick, stop_at
    def before_train(self): self.fitting = self.fitted = True
    def after_fit(self): self.fitting = False

    def before_validate(self):
        if self.fitting and not hasattr(self.learn, 'gather_preds'): raise CancelValidException

    def after_batch(self):
        if not self.learn.training: return
        self.tick(self.pct_train)
        if self.stop_at is not None and self.pct_train > self.stop_at - .5/(self.n_iter*self.n_epoch):
            raise CancelFitException


class FoldLearner:
    "A fold Learner, and how far it has followed"
    def __init__(self, learn, model, leave_out):
        self.learn, self.opt_of, self.twins, self.n_done = copy.copy(learn), None, {}, 0
        new = self.learn
        for name in [*(cb.name for cb in learn.cbs), *(o for o in vars(new) if callable(getattr(Learner, o, None)))]:
            vars(new).pop(name, None)
        new.model, new.opt, new.cbs, new.metrics, new.logger, new.create_mbar = model, None, L(), None, noop, False
        new.add_cb = lambda cb: Learner.add_cb(new, cb) if _shapes_training(cb, leave_out) else new
        self.rest()

    def rest(self):
        "Let go of the data, between fits"
        self.learn._end_cleanup()
        vars(self.learn).pop('loss_grad', None)
        self.learn.dls = None

    def set_up(self, record, held_out):
        "Take over the data, optimizer, loss and callbacks of `record`; returns the callbacks"
        learn = self.learn
        learn.dls = fold_dls(record.dls, held_out, any(isinstance(m, _BatchNorm) for m in learn.model.modules()))
        for name, value in record.config.items(): setattr(learn, name, value)
        if record.opt is not None: self._set_up_opt(record)
        main = record.dls
        memo = {id(record.learn): learn, id(record.model): learn.model, id(record.opt): learn.opt,
                id(main): learn.dls, **{id(a): b for a, b in zip(main.loaders, learn.dls.loaders)}}
        memo.update({id(template): self.twins[i] for i, template in record.parts if i in self.twins})
        memo.update(shared_parts(template for _, template in record.parts))
        twins = [copy.deepcopy(template, memo) for _, template in record.parts]
        self.twins.update({i: twin for (i, _), twin in zip(record.parts, twins)})
        learn.loss_func, *cbs = twins
        return cbs

    def _set_up_opt(self, record):
        learn, params = self.learn, list(self.learn.model.parameters())
        if learn.opt is None or (record.clear and self.opt_of is not record.opt):
            used = {i for pg in record.groups for i in pg}
            for i, p in enumerate(params): p.requires_grad_(i in used or record.requires_grad[i])
            learn.create_opt()
            self.opt_of = record.opt
            if _groups(learn) != record.groups:
                raise ValueError("splitter gives other parameters for a copy of the model than for the model itself: "
                                 "it must split the parameters of the model that it is given")
        elif record.clear: learn.opt.clear_state()
        for p, grad in zip(params, record.requires_grad): p.requires_grad_(grad)
        learn.opt.frozen_idx = record.frozen_idx
        for name in record.hypers[0]: learn.opt.set_hyper(name, [o[name] for o in record.hypers])

    def repeat(self, record):
        "The fit of `record`, once more"
        hypers = {o: [h[o] for h in record.hypers] for o in ('lr', 'wd') if o in record.hypers[0]}
        self.learn.fit(record.n_epoch, **hypers)


def check_opt_func(
    opt_func,  # `opt_func` of a Learner
):
    "Raise TypeError where `opt_func` is a built optimizer, which is tied to the parameters of one model"
    if isinstance(opt_func, (OptimWrapper, Optimizer, torch.optim.Optimizer)):
        raise TypeError(f"opt_func is a built {type(opt_func).__name__}, tied to the parameters of one model: pass a "
                        "function that builds it, for example opt_func=partial(OptimWrapper, opt=torch.optim.AdamW)")

