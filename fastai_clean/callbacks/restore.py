"What a callback changes in a Learner is put back, whatever ends the fit"
from weakref import WeakKeyDictionary

from fastai.callback import core
from fastai.learner import Learner

CANCELS = tuple(getattr(core, o) for o in dir(core) if o.startswith('Cancel') and o.endswith('Exception'))
_guards = WeakKeyDictionary()


def restored_on_error(
    learn,  # A Learner in a fit
    restore,  # Function without arguments that puts things back, called at most once
):  # Function to call where the fit ended well: it forgets `restore`
    """Have `restore` called where an exception other than fastai's Cancel... leaves the fit: of the model, the loss,
    the data or any callback's event, also a KeyboardInterrupt. fastai tells callbacks of its own exceptions only."""
    guard = _guards.get(learn) or _Guard(learn)
    guard.add(restore)
    return lambda: guard.forget(restore)


class _Guard:
    "Between a Learner and its events, as long as there is something to put back"
    def __init__(self, learn): self.learn, self.restores = learn, []

    def add(self, restore):
        self.restores.append(restore)
        _guards[self.learn] = self
        vars(self.learn).update(_call_one=self._call_one, _with_events=self._with_events)

    def forget(self, restore):
        if restore in self.restores: self.restores.remove(restore)
        if self.restores: return
        for name in ('_call_one', '_with_events'): vars(self.learn).pop(name, None)
        _guards.pop(self.learn, None)

    def _call_one(self, name):
        "What is left as a fit begins is of one that failed as it began"
        if name == 'before_fit': self._restore_outside()
        ends, begins = name in ('after_fit', 'after_cancel_fit'), name == 'before_fit'
        caught = () if ends else core.CancelFitException if begins else CANCELS
        self._run(Learner._call_one, caught, name)

    def _with_events(self, f, event_type, *args, **kwargs):
        "What an epoch lets out ends the fit, but for CancelFitException, which the fit itself catches"
        caught = core.CancelFitException if event_type == 'epoch' else CANCELS
        self._run(Learner._with_events, caught, f, event_type, *args, **kwargs)

    def _run(self, f, caught, *args, **kwargs):
        try: f(self.learn, *args, **kwargs)
        except caught: raise
        except BaseException:
            self._restore_outside()
            raise

    def _restore_outside(self):
        "Prediction and validation, which hold the Learner's lock, may be within the fit, and fail there alone"
        if self.learn.lock.locked(): return
        for restore in self.restores[::-1]:
            self.forget(restore)
            restore()
