# SPDX-License-Identifier: BSD-3-Clause
"""Names and memory of an optimizer's state, and how to make it exist before the first step."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Mapping
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
    while True:
        for attribute in ("optim", "optimizer"):
            inner = getattr(optimizer, attribute, None)
            if isinstance(inner, Optimizer) and inner is not optimizer:
                optimizer = inner
                break
        else:
            return optimizer


def is_partitioned(optimizer: Any) -> bool:
    """Whether ranks hold the state of different parameters (ZeroRedundancyOptimizer)."""
    module = sys.modules.get("torch.distributed.optim")
    zero = getattr(module, "ZeroRedundancyOptimizer", None)
    return zero is not None and isinstance(optimizer, zero)


def optimizer_entries(
    prefix: str, optimizer: Optimizer, names: Mapping[torch.Tensor, str], replicated: bool
) -> list[Entry]:
    """Entries of the tensors that an optimizer's state holds for each parameter, named
    f"{prefix}.{name of the parameter}.{key}", and of parameters that are in no module.

    names: of the parameters that modules own. replicated: plain tensors are equal on all ranks.
    Raises FtmemError for state that is no tensor, number or other plain value.
    """
    replicated = replicated and not is_partitioned(optimizer)
    inner = unwrap_optimizer(optimizer)
    _refuse_unknown_keys(prefix, inner)
    entries = []
    for parameter, name in _named(inner, names):
        if parameter not in names:
            entries.append(entry_of(f"{prefix}.{name}", parameter, replicated))
        for key, value in inner.state.get(parameter, {}).items():
            full = f"{prefix}.{name}.{key}"
            if isinstance(value, torch.Tensor):
                entries.append(entry_of(full, value, replicated))
            elif _holds_tensors(value):
                what = f"{type(inner).__name__} holds tensors in a {type(value).__name__} there"
                raise refusal(full, f"{what}, which is not supported")
    return entries


def optimizer_values(
    optimizer: Optimizer, names: Mapping[torch.Tensor, str]
) -> dict[tuple[str, str], Any]:
    """What the state holds besides tensors (a step counted as int, for example), by name of
    the parameter and key."""
    inner = unwrap_optimizer(optimizer)
    return {
        (name, key): value
        for parameter, name in _named(inner, names)
        for key, value in inner.state.get(parameter, {}).items()
        if not isinstance(value, torch.Tensor)
    }


def load_optimizer_values(
    optimizer: Optimizer,
    names: Mapping[torch.Tensor, str],
    values: Mapping[tuple[str, str], Any],
) -> None:
    """Puts back what optimizer_values() returned; what is not known any more is ignored."""
    inner = unwrap_optimizer(optimizer)
    parameters = {name: parameter for parameter, name in _named(inner, names)}
    for (name, key), value in values.items():
        if name in parameters:
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
    for group in inner.param_groups:
        for index, parameter in enumerate(group["params"]):
            if parameter.requires_grad and not inner.state.get(parameter):
                if _has_no_state(kind, group):
                    break
                _refuse_to_materialize(inner, kind, group, index, overwritten)
                _materialize_one(inner, kind, group, parameter)


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
        if id(key) not in known and _holds_tensors(value):
            what = key if isinstance(key, str) else "a parameter that is in none of its groups"
            raise refusal(f"{prefix}.state", f"{type(optimizer).__name__} holds tensors for {what}")


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
