# SPDX-License-Identifier: BSD-3-Clause
"""Names and memory of an optimizer's state, and how to make it exist before the first step."""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.optim import Optimizer

from ._placement import Entry, entry_of, refusal

_KNOWN = {
    getattr(torch.optim, name)
    for name in (
        "SGD Adam AdamW NAdam RAdam Adamax Adadelta Adagrad RMSprop Rprop ASGD SparseAdam "
        "Adafactor Muon"
    ).split()
    if hasattr(torch.optim, name)
}


def unwrap_optimizer(optimizer: Any) -> Optimizer:
    """The optimizer inside of ZeroRedundancyOptimizer, or of a framework's wrapper."""
    return _unwrapped(optimizer)[-1]


def is_partitioned(optimizer: Any) -> bool:
    """Whether ranks hold the state of different parameters (ZeroRedundancyOptimizer)."""
    return _is_wrapped_by("ZeroRedundancyOptimizer", optimizer)


def refuse_local_steps(name: str, optimizer: Any) -> None:
    """Refuses PostLocalSGDOptimizer, whose ranks step on their own between averages."""
    if _is_wrapped_by("PostLocalSGDOptimizer", optimizer):
        raise refusal(
            name,
            "PostLocalSGDOptimizer lets parameters differ between ranks: give Guard its .optim, an "
            "object with state_dict() that has its averager's step, and replicated=False",
        )


def optimizer_entries(
    prefix: str,
    optimizer: Optimizer,
    names: Mapping[torch.Tensor, str],
    replicated: bool,
    marks: Mapping[torch.Tensor, str | None] | None = None,
) -> list[Entry]:
    """Entries of the tensors that an optimizer's state holds for each parameter, named
    f"{prefix}.{name of the parameter}.{key}", and of parameters that are in no module.

    names: of the parameters that modules own. replicated: plain tensors are equal on all ranks.
    marks: of parameters, as of entry_of().
    Raises FtmemError for state that is no tensor, number or other plain value.
    """
    replicated = replicated and not is_partitioned(optimizer)
    inner = unwrap_optimizer(optimizer)
    _refuse_unknown_keys(prefix, inner)
    entries = []
    for parameter, name in _named(inner, names):
        mark = (marks or {}).get(parameter)
        if parameter not in names:
            entries.append(entry_of(f"{prefix}.{name}", parameter, replicated, mark=mark))
        for key, value in inner.state.get(parameter, {}).items():
            full = f"{prefix}.{name}.{key}"
            if isinstance(value, torch.Tensor):
                entries.append(entry_of(full, value, replicated, mark=mark))
            elif _holds_tensors(value):
                what = f"{type(inner).__name__} holds tensors in a {type(value).__name__} there"
                raise refusal(full, f"{what}, which is not supported")
    return entries


def optimizer_values(
    optimizer: Optimizer, names: Mapping[torch.Tensor, str]
) -> dict[tuple[str, str], Any]:
    """What the state holds besides tensors (a step counted as int, for example), by name of
    the parameter and key; by "" and key what it holds for no parameter. FtmemError: there are
    tensors in that."""
    inner = unwrap_optimizer(optimizer)
    values = {("", key): value for key, value in shared_state(inner).items()}
    for (_, key), value in values.items():
        _refuse_shared_tensors(type(inner).__name__, inner, key, value)
    for parameter, name in _named(inner, names):
        for key, value in inner.state.get(parameter, {}).items():
            if not isinstance(value, torch.Tensor):
                values[name, key] = value
    return values


def shared_state(optimizer: Optimizer) -> dict[Any, Any]:
    """What the state holds under keys that are no tensors."""
    return {k: v for k, v in optimizer.state.items() if not isinstance(k, torch.Tensor)}


def load_optimizer_values(
    optimizer: Optimizer,
    names: Mapping[torch.Tensor, str],
    values: Mapping[tuple[str, str], Any],
) -> None:
    """Puts back what optimizer_values() returned; what is not known any more is ignored."""
    inner = unwrap_optimizer(optimizer)
    parameters = {name: parameter for parameter, name in _named(inner, names)}
    for (name, key), value in values.items():
        if not name:
            inner.state[key] = value
        elif name in parameters:
            inner.state[parameters[name]][key] = value


def materialize(optimizer: Optimizer, *, overwritten: bool = False) -> None:
    """Makes the state exist of all parameters that require a gradient and have none: with
    the values it has before the first step, so that training goes on as if it had not been.

    Parameters, gradients, groups and random numbers stay untouched and hooks do not run. Beside
    the state, memory of a few copies of the largest parameter is taken for a while.
    One thing may round otherwise: torch.optim.SGD with foreach leaves its usual kernels in a step
    in which only some parameters of a group have a momentum, and now all have one.

    overwritten: a restore follows, so that the values do not matter. Else FtmemError is raised
    for optimizers of which they are not known, or have no equivalent.
    """
    inner = unwrap_optimizer(optimizer)
    kind = _kind(inner)
    with _shared_state_kept(inner):
        for group in inner.param_groups:
            for index, parameter in enumerate(group["params"]):
                if parameter.requires_grad and not inner.state.get(parameter):
                    if _has_no_state(kind, group):
                        break
                    _refuse_to_materialize(inner, kind, group, index, overwritten)
                    _materialize_one(inner, kind, group, parameter)


def _unwrapped(optimizer: Any) -> list[Any]:
    """It, and what is inside of it, layer by layer."""
    layers = [optimizer]
    while True:
        inside = (getattr(layers[-1], name, None) for name in ("optim", "optimizer"))
        inner = next((o for o in inside if isinstance(o, Optimizer) and o is not layers[-1]), None)
        if inner is None:
            return layers
        layers.append(inner)


def _is_wrapped_by(name: str, optimizer: Any) -> bool:
    """Whether a layer of it is of this class of torch.distributed.optim."""
    cls = getattr(sys.modules.get("torch.distributed.optim"), name, None)
    return cls is not None and any(isinstance(layer, cls) for layer in _unwrapped(optimizer))


@contextmanager
def _shared_state_kept(optimizer: Optimizer) -> Iterator[None]:
    """Meanwhile steps write into copies of what the state holds for no parameter."""
    kept = shared_state(optimizer)
    optimizer.state.update(copy.deepcopy(kept))
    try:
        yield
    finally:
        for key in shared_state(optimizer).keys() - kept.keys():
            del optimizer.state[key]
        optimizer.state.update(kept)


def _named(
    optimizer: Optimizer, names: Mapping[torch.Tensor, str]
) -> Iterator[tuple[torch.Tensor, str]]:
    """Parameters with their names, or their places in the groups if they are in no module."""
    for g, group in enumerate(optimizer.param_groups):
        for i, parameter in enumerate(group["params"]):
            yield parameter, names.get(parameter, f"group{g}.{i}")


def _holds_tensors(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return True
    if isinstance(value, Mapping):
        return any(_holds_tensors(v) for v in value.values())
    return isinstance(value, (list, tuple, set)) and any(_holds_tensors(v) for v in value)


def _refuse_unknown_keys(prefix: str, optimizer: Optimizer) -> None:
    """Refuses LBFGS, and state that belongs to no parameter of a group."""
    if isinstance(optimizer, torch.optim.LBFGS):
        raise refusal(prefix, "LBFGS holds lists of tensors, which is not supported")
    known = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for key, value in optimizer.state.items():
        if not isinstance(key, torch.Tensor):
            _refuse_shared_tensors(prefix, optimizer, key, value)
        elif id(key) not in known and value:
            what = f"{type(optimizer).__name__} holds state for a tensor that is in none of its"
            raise refusal(f"{prefix}.state", f"{what} groups, of shape {tuple(key.shape)}")


def _refuse_shared_tensors(prefix: str, optimizer: Optimizer, key: Any, value: Any) -> None:
    if _holds_tensors(value):
        what = f"{type(optimizer).__name__} holds tensors for {key}, which is no parameter"
        raise refusal(f"{prefix}.state", what)


def _kind(optimizer: Optimizer) -> type[Optimizer] | None:
    """The optimizer of torch.optim whose steps it makes; None if it makes its own."""
    cls = type(optimizer)
    for base in cls.__mro__:
        if base in _KNOWN:
            same_step = inspect.unwrap(cls.step) is inspect.unwrap(base.step)
            same_start = getattr(cls, "_init_group", None) is getattr(base, "_init_group", None)
            return base if same_step and same_start else None
    return None


def _has_no_state(kind: type[Optimizer] | None, group: dict[str, Any]) -> bool:
    return kind is torch.optim.SGD and group["momentum"] == 0


def _refuse_to_materialize(
    optimizer: Optimizer,
    kind: type[Optimizer] | None,
    group: dict[str, Any],
    index: int,
    overwritten: bool,
) -> None:
    name = type(optimizer).__name__
    if isinstance(optimizer, torch.optim.LBFGS):
        raise refusal(name, "it holds lists of tensors, which is not supported")
    if overwritten:
        return
    why = None
    if kind is None:
        why = "what its state is before the first step is not known"
    elif kind is torch.optim.SGD and group["dampening"] != 0:
        why = "with dampening its first step is unlike all others"
    elif kind is torch.optim.SGD and group["params"][index].is_complex():
        why = "its momentum has no neutral complex value"
    if why:
        raise refusal(
            name,
            f"parameter {index} of a group, of shape {tuple(group['params'][index].shape)}, has no "
            f"state yet, and {why}: take a snapshot after a step in which all parameters have "
            "gradients, and let unused ones not require any",
        )


def _materialize_one(
    optimizer: Optimizer,
    kind: type[Optimizer] | None,
    group: dict[str, Any],
    parameter: torch.Tensor,
) -> None:
    """Lets the optimizer step over a twin of the parameter and takes the state of that."""
    twin = torch.zeros_like(parameter, requires_grad=False)
    twin.grad = _empty_gradient(optimizer, twin)
    step = inspect.unwrap(type(optimizer).step)  # without hooks and without the profiler
    groups = optimizer.param_groups
    optimizer.param_groups = [{**group, "params": [twin]}]
    try:
        with torch.no_grad():
            step(optimizer)
    except Exception as cause:
        raise refusal(type(optimizer).__name__, f"its state cannot be made: {cause}") from cause
    finally:
        optimizer.param_groups = groups
        state = optimizer.state.pop(twin, None)
    if state is None:
        raise refusal(type(optimizer).__name__, "a step makes no state for a parameter")
    for key, value in state.items():
        if isinstance(value, torch.Tensor):
            value.fill_(_initial(kind, group, key, value.is_complex()))
        elif key == "step":
            state[key] = type(value)(0)
    optimizer.state[parameter] = state


def _empty_gradient(optimizer: Optimizer, twin: torch.Tensor) -> torch.Tensor:
    if not isinstance(optimizer, torch.optim.SparseAdam):
        return torch.zeros_like(twin)
    indices = torch.empty((1, 0), dtype=torch.int64, device=twin.device)
    values = torch.empty((0, *twin.shape[1:]), dtype=twin.dtype, device=twin.device)
    return torch.sparse_coo_tensor(indices, values, twin.shape, check_invariants=False)


def _initial(
    kind: type[Optimizer] | None, group: dict[str, Any], key: str, is_complex: bool
) -> complex:
    """The value that a tensor of the state has before the first step."""
    value = 0.0
    if kind is torch.optim.SGD:
        value = -0.0  # plus a gradient it is that gradient, also one of -0
    elif (kind, key) in ((torch.optim.NAdam, "mu_product"), (torch.optim.ASGD, "mu")):
        value = 1.0
    elif (kind, key) in ((torch.optim.Rprop, "step_size"), (torch.optim.ASGD, "eta")):
        value = float(group["lr"])
    elif (kind, key) == (torch.optim.Adagrad, "sum"):
        value = group["initial_accumulator_value"]
    return complex(value, value) if is_complex else value
