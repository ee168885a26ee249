"What of a fold Learner between two fits is kept on disk, so that it goes on from there"
import io
from functools import partial
from types import FunctionType

import numpy as np
import torch
from fastai.optimizer import Lookahead, Optimizer, OptimWrapper
from torch import nn

_PLAIN = bool, int, float, str, type(None)


def plain_state(
    model,  # Any nn.Module
):
    """What `model.state_dict()` leaves out: each module's numbers, texts and buffers that are not saved. None where a
    module keeps tensors besides, as AWD_LSTM its hidden state, of which nobody knows what they are."""
    res = []
    for m in model.modules():
        saved = {id(o) for o in (*m._parameters.values(), *m._buffers.values())}
        for o in vars(m).values():
            tensors = [t for t in (o if isinstance(o, (list, tuple)) else [o]) if isinstance(t, torch.Tensor)]
            if any(id(t) not in saved for t in tensors): return None
        values = {k: v for k, v in vars(m).items() if isinstance(v, _PLAIN) and k != 'training'}
        buffers = {k: m._buffers[k] for k in sorted(m._non_persistent_buffers_set) if m._buffers[k] is not None}
        res.append([values, {k: v.tolist() for k, v in buffers.items()}])
    return res


def state_bytes(
    fold,  # A FoldLearner after a fit
    plain,  # `plain_state` of the model before its first fit
) -> bytes | None:
    """The weights and the optimizer's averages of `fold`, and how many fits it has seen, as `torch.save` writes them.

    None where they are not all that the next fit depends on: an optimizer, callback or loss that is not fastai's or
    torch's may hold more, and so may the model."""
    opt = fold.learn.opt
    if plain is None or plain_state(fold.learn.model) != plain or not all(map(_holds_nothing, fold.twins.values())):
        return None
    if type(opt.opt if type(opt) is Lookahead else opt) not in (Optimizer, OptimWrapper): return None
    weights = dict(fold.learn.model.state_dict())
    if not all(isinstance(o, torch.Tensor) for o in weights.values()): return None
    file = io.BytesIO()
    torch.save(_plain(dict(n_done=fold.n_done, model=weights, opt=opt.state_dict())), file)
    return file.getvalue()


def load_state(
    data,  # What `state_bytes` gave
) -> dict:
    "What `take_state` takes"
    return torch.load(io.BytesIO(data), map_location='cpu', weights_only=True)


def take_state(
    fold,  # A new FoldLearner, set up for the fits that it has seen in `state`
    state,  # What `load_state` gave
):
    "Give `fold` the weights, the optimizer's averages and the number of fits of `state`"
    fold.learn.model.load_state_dict(state['model'])
    device = next(fold.learn.model.parameters()).device
    opt = fold.learn.opt
    wrapped = isinstance(opt, OptimWrapper) or isinstance(getattr(opt, 'opt', None), OptimWrapper)
    opt.load_state_dict(state['opt'] if wrapped else _plain(state['opt'], device))
    fold.n_done = state['n_done']


def _holds_nothing(twin):
    if isinstance(twin, partial): return _holds_nothing(twin.func)
    if isinstance(twin, nn.Module) and any(True for _ in twin.parameters()): return False
    return isinstance(twin, FunctionType) or type(twin).__module__.split('.')[0] in ('fastai', 'torch', 'builtins')


def _plain(o, device=None):
    "Containers as dict and list, tensors as torch.Tensor: what torch.load(weights_only=True) reads"
    if isinstance(o, torch.Tensor):
        o = o.detach().as_subclass(torch.Tensor)
        return o if device is None else o.to(device)
    if isinstance(o, dict): return {k: _plain(v, device) for k, v in o.items()}
    if isinstance(o, np.generic): return o.item()
    return o if isinstance(o, _PLAIN) else [_plain(v, device) for v in o]
