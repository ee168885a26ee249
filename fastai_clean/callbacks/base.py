"""Callbacks that follow a fit and leave nothing behind, whatever ends it; and those that change the
targets of items"""
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from fastai.callback.core import Callback, CancelFitException
from fastai.callback.mixup import MixHandler
from fastai.imports import noop
from fastai.torch_core import no_random

from ..data import ids_of, labels_of
from ..data.batch_items import BatchItems
from ..data.labels import Labels
from ..losses import SoftLoss


class FitCallback(Callback):
    """Base of callbacks that follow a fit, and put back what they changed when it ends: after its
    last epoch, by one of fastai's Cancel exceptions, by any other exception or by a
    KeyboardInterrupt.

    A subclass says what it does in `check`, as the fit begins; in `start`, at its first epoch; in
    `end_epoch`; and in `stop`, when the fit ends. In the events of a batch, `_on` says whether a
    fit is followed, and `_idxs` (bs,) holds the positions of the batch's items. `validate`,
    `get_preds` and, unless `in_lr_find`, `lr_find` are not followed, neither on their own nor
    within a fit."""
    run_valid = False
    follows_items = True  # Whether `_idxs` is needed; the items must then have positions
    in_lr_find = False  # Whether `lr_find` is followed too

    # fastai drops these when the Learner is exported, and reading one afterwards fails with an
    # error about the Learner's model. So `_init_state`, which runs when the callback is loaded too,
    # sets every one of them
    _stateattrs: tuple[str, ...] = ('_in_fit', '_on', '_items', '_idxs', '_loss', '_of')

    def __init__(self): self._init_state()

    def _init_state(self):
        super()._init_state()
        vars(self).update(dict.fromkeys(self._stateattrs))

    def check(self):
        "Refuse, before any callback has changed the Learner, what this one cannot work with"

    def start(self):
        "Get ready for a fit, at its first epoch"

    def end_epoch(self):
        """Close the training part of an epoch, also of one that was cut short; only if
        `follows_items`"""

    def stop(self):
        "Put back what `start` and the events of a batch changed"

    @property
    def same_learner(self) -> bool:
        "Whether the last fit that was followed was one of this Learner too"
        return self._of is self.learn

    def in_force(self,
        kinds: type[Callback] | tuple[type[Callback], ...],  # Callback class, or a tuple of them
    ) -> list[Callback]:
        "The Learner's callbacks of `kinds` that take part in this fit"
        return [o for o in self.learn.cbs if isinstance(o, kinds) and o.run]

    def refuse(self,
        kinds: type[Callback] | tuple[type[Callback], ...],  # Callback class, or a tuple of them
        why: str,  # What they do, in words
    ):
        "Raise ValueError if a callback of `kinds` takes part in this fit"
        for o in self.in_force(kinds):
            raise ValueError(f"{type(self).__name__} cannot be used with {type(o).__name__}, "
                             f"{why}: leave one out")

    def before_fit(self):
        """Look at what begins, but start nothing: fastai fires this event in `validate` and
        `get_preds` too"""
        # They hold the Learner's lock while they run, also within a fit
        if self.learn.lock.locked(): return
        # If another callback's `before_fit` fails, no event follows, and what this one did then is
        # still there
        self._leave()
        self.check()
        self._loss = self.learn.loss_func
        self._in_fit = True
        watch_errors(self.learn)

    def before_train(self):
        "Start: unlike `before_fit`, this event fires in fits only, and in `lr_find`, which is one"
        learn = self.learn
        if hasattr(learn, 'lr_finder') and not self.in_lr_find: return
        try:
            if not self._on: self.start()
            self._on = True
            if self.follows_items: self._items = BatchItems(learn.dls.train).start()
        except BaseException:
            # MixUp has put its own loss into the Learner by now, and takes it back after Cancel
            # exceptions only
            learn.loss_func = self._loss
            raise
        self._of = learn

    def before_batch(self):
        "Note the items now, since a prediction within the fit may go over the same DataLoader"
        if self._items is not None: self._idxs = self._items.idxs

    def after_train(self):
        "Leave the DataLoader alone between the epochs"
        self._end_epoch()

    def after_epoch(self):
        "Close an epoch that CancelEpochException cut short, for which `after_train` does not fire"
        if not self.learn.lock.locked(): self._end_epoch()

    def after_cancel_fit(self):
        """Close the epoch at once: callbacks whose `after_fit` comes before this one's may use the
        DataLoader"""
        self._end_epoch()

    def after_fit(self):
        "Put everything back"
        if not self.learn.lock.locked(): self._leave()

    def __setattr__(self, name, value):
        "Put everything back when the callback leaves the Learner, as those of `fit(cbs=...)` do"
        if name == 'learn' and value is None and self.learn is not None: self._leave()
        super().__setattr__(name, value)

    def _end_epoch(self):
        if self._items is None: return
        self._items.stop()
        self._items = None
        self.end_epoch()

    def _leave(self):
        self._end_epoch()
        if self._on:
            self._on = False
            self.stop()
        self._in_fit = False
        self._loss = None
        unwatch_errors(self.learn)


def watch_errors(
    learn,  # A Learner
):
    "Have every callback of `learn` that has a `_leave` call it if an error ends the fit"
    # fastai tells callbacks only of its own Cancel exceptions, so the two methods of the Learner
    # through which an error must pass are wrapped until the fit ends
    for f in (_with_events, _call_one): vars(learn)[f.__name__] = _Wrapped(learn, f)


class _Wrapped:
    "A method of a Learner, for a while; a Learner that is exported meanwhile has its own method"
    def __init__(self, learn, f):
        self.learn = learn
        self.f = f

    def __call__(self, *args, **kwargs): return self.f(self.learn, *args, **kwargs)
    def __reduce__(self): return getattr, (self.learn, self.f.__name__)


def unwatch_errors(
    learn,  # A Learner
):
    "Take that off, unless a callback is still in a fit"
    if any(getattr(o, '_in_fit', False) for o in learn.cbs): return
    for name in ('_with_events', '_call_one'): vars(learn).pop(name, None)


def _with_events(learn, f, event_type, *args, **kwargs):
    "Learner._with_events: an error that leaves an epoch ends the fit"
    run = partial(type(learn)._with_events, learn, f, event_type, *args, **kwargs)
    if event_type != 'epoch': return run()
    # The fit itself catches this one, and then tells the callbacks
    with _left_on_error(learn, CancelFitException): run()


def _call_one(learn, name):
    "Learner._call_one: if one callback's last event fails, the others never get theirs"
    if name not in ('after_fit', 'after_cancel_fit'): return type(learn)._call_one(learn, name)
    with _left_on_error(learn): type(learn)._call_one(learn, name)


@contextmanager
def _left_on_error(learn, but=()) -> Iterator[None]:
    try: yield
    except but: raise
    except BaseException:
        # A prediction within the fit, which holds the lock, fails alone: the fit may catch that and
        # go on
        if not learn.lock.locked():
            # The last to change the loss puts it back first
            for cb in reversed(learn.cbs.sorted('order')):
                if hasattr(cb, '_leave'): cb._leave()
        raise


class TargetsCallback(FitCallback):
    """Base of callbacks that give training items other targets than their labels, item by item.

    During a fit, and during `lr_find`, the Learner's loss takes soft targets and weights too
    (`SoftLoss`, which is the same for class indices), and every training batch gets what
    `targets_of` makes of its items, before MixUp and CutMix mix them. After the loss the batch has
    its labels back, so metrics, validation and predictions do not change."""
    # Callbacks are sorted by `order` alone; `run_after` does nothing in fastai 2.8
    order = MixHandler.order - 2
    in_folds = False
    in_lr_find = True
    _stateattrs = (*FitCallback._stateattrs, '_labels', '_base', '_hard', '_said')

    def setup(self,
        ids: list[str],  # Ids of the n training items, whose labels are in `_labels`
    ) -> str:
        "Prepare `targets_of`; returns the sentence that the fit prints about it"
        raise NotImplementedError

    def targets_of(self,
        idxs: torch.Tensor,  # LongTensor (bs,): positions of the items
        yb: tuple,  # Their targets now: class indices (bs,), or what another callback made of them
    ) -> tuple:
        "The targets (bs, c) of the items, in a tuple of one"
        raise NotImplementedError

    def start(self):
        "Take the labels of the training items, and the loss"
        learn = self.learn
        dl = learn.dls.train
        # Reading an item may augment it, but the fit must draw the random numbers that it would
        # draw if nothing had been read
        with no_random(): labels = labels_of(dl)
        if labels.task != 'classification':
            raise TypeError(f"the training set's labels are of the task {labels.task}: "
                            f"{type(self).__name__} needs one class per item")
        self._labels = labels
        said = f'{type(self).__name__}: {self.setup(ids_of(dl.dataset, learn.path))}'
        # `no_logging`, in which `lr_find` runs too, sets this logger; fastcore has another `noop`
        if said != self._said and learn.logger is not noop: print(said)
        self._said = said
        if isinstance(learn.loss_func, SoftLoss): return
        self._base = learn.loss_func
        learn.loss_func = SoftLoss(learn.loss_func)

    def before_batch(self):
        "Give the batch its targets"
        super().before_batch()
        if not self._on: return
        idxs = self._idxs
        y = self.learn.yb[0]
        if not y.is_floating_point():
            given = torch.as_tensor(self._labels.targets[idxs.numpy()])
            shown = y.detach().cpu().long()
            if y.shape[:1] != given.shape or not torch.equal(shown.reshape(-1), given):
                raise ValueError("the batch's labels are not those of its items: leave out what "
                                 f"changes labels in the data or before {type(self).__name__}")
            self._hard = self.learn.yb
        self.learn.yb = tuple(o.to(y.device) for o in self.targets_of(idxs, self.learn.yb))

    def after_loss(self):
        "Give the batch its labels back, which metrics need"
        if self._hard is None: return
        self.learn.yb = self._hard
        self._hard = None

    def after_cancel_batch(self):
        "Give its labels back to a batch that was cancelled before its loss"
        self.after_loss()

    def stop(self):
        "Put the loss back"
        if self._base is not None: self.learn.loss_func = self._base
        self._base = None
        self._hard = None


def n_classes(
    labels: Labels,  # Labels of a data set, one class per item
) -> int:
    "Number of classes: those of the vocab, or without one as many as the labels show"
    return labels.c or int(labels.targets.max()) + 1
