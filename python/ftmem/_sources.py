# SPDX-License-Identifier: BSD-3-Clause
"""The kinds of objects that Guard takes: which tensors they hold, and how the rest of them is
saved and loaded as a value that can be pickled."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from . import _abi, _rng, _tensors
from ._nested import joined, split
from ._placement import Entry, entry_of, local_part
from ._watch import Watched
from .errors import FtmemError, error

Names = Mapping[torch.Tensor, str]

# Tensors of objects with a state_dict() that are at least so large have a region of their own.
LARGE_BYTES = 64 * 1024


class Source:
    """One guarded object under its name. Methods raise FtmemError for what cannot be guarded."""

    kind = "state"

    def __init__(self, name: str, target: Any) -> None:
        self.name = name
        self.target = target

    def prepare(self, overwritten: bool) -> None:
        """Creates tensors that do not exist yet. overwritten: a restore follows."""

    def undo(self, kept: Container[int] = ()) -> None:
        """Takes back what the last prepare() created, unless one of its tensors is among kept: the
        id() of tensors of entries."""

    def entries(self, names: Names) -> list[Entry]:
        """The tensors. names: of the parameters of all modules."""
        return []

    def watch(self, watched: Watched) -> None:
        """Adds where the tensors are held."""

    def outline(self, names: Names) -> Any:
        """What else must be equal on restore; compared by its repr()."""
        return self.kind

    def value(self) -> Any:
        """The rest of the object."""

    def load(self, value: Any, strict: bool) -> None:
        """Puts back what value() returned; tensors are restored already."""


class ModuleSource(Source):
    """Parameters and persistent buffers, and what layers return as extra state."""

    kind = "model"

    def __init__(self, name: str, target: nn.Module, replicated: bool | None) -> None:
        super().__init__(name, target)
        known = _tensors.is_replicated(target)
        self.replicated = known if replicated is None else replicated
        self._given = replicated
        self._has_extra = bool(_tensors.extra_states(name, target))

    def entries(self, names: Names) -> list[Entry]:
        return _tensors.module_entries(self.name, self.target, self.replicated, self.mark())

    def mark(self) -> str | None:
        """As of entry_of(): who says that tensors are equal on all ranks means just that."""
        if self._given:
            return ""
        return (_tensors.replicas_mark(self.target) if self.replicated else "") or None

    def watch(self, watched: Watched) -> None:
        for layer in self.target.modules():
            watched.dicts += [d for d in (layer._parameters, layer._modules) if d]
            watched.slots += _tensor_slots(layer._buffers)
            watched.sized += [layer._buffers] if layer._buffers else []

    def value(self) -> Any:
        return _tensors.extra_states(self.name, self.target) if self._has_extra else None

    def load(self, value: Any, strict: bool) -> None:
        if value is not None:
            _tensors.load_extra_states(self.name, self.target, value)


class OptimizerSource(Source):
    """State of each parameter, and the groups' options."""

    kind = "optimizer"

    def __init__(self, name: str, target: Optimizer, replicated: bool | None) -> None:
        super().__init__(name, target)
        self.inner = _tensors.unwrap_optimizer(target)
        _tensors.refuse_local_steps(type(target).__name__, target)
        self._given = replicated
        self._names: Names = {}
        self._has_values = False
        self._made: list[torch.Tensor] = []
        self.modules: list[ModuleSource] = []

    def prepare(self, overwritten: bool) -> None:
        before = {id(parameter) for parameter, state in self.inner.state.items() if state}
        self._made = []
        try:
            _tensors.materialize(self.target, overwritten=overwritten)
        except FtmemError:
            self._made = self._since(before) if overwritten else []
            self.undo()
            raise
        self._made = self._since(before)

    def _since(self, before: set[int]) -> list[torch.Tensor]:
        keys = self.inner.state
        return [key for key in keys if isinstance(key, torch.Tensor) and id(key) not in before]

    def undo(self, kept: Container[int] = ()) -> None:
        for parameter in self._made:
            state = self.inner.state[parameter]
            if not any(id(local_part(value)) in kept for value in state.values()):
                del self.inner.state[parameter]
        self._made = []

    def entries(self, names: Names) -> list[Entry]:
        self._names = names
        self._has_values = bool(_tensors.optimizer_values(self.target, names))
        entries = _tensors.optimizer_entries(
            self.name, self.target, names, self._replicated(names), self._marks()
        )
        for g, group in enumerate(self.inner.param_groups):
            for key, value in group.items():
                if isinstance(value, torch.Tensor):
                    entries.append(_shadow(f"{self.name}.group{g}.{key}", value))
        return entries

    def _marks(self) -> dict[torch.Tensor, str | None]:
        """Of the modules' parameters, and of its own if all of them are equal on all ranks."""
        every = [p for group in self.inner.param_groups for p in group["params"]]
        marks: dict[torch.Tensor, str | None] = dict.fromkeys(every, "") if self._given else {}
        for module in self.modules:
            marks.update(dict.fromkeys(module.target.parameters(), module.mark()))
        return marks

    def _replicated(self, names: Names) -> bool:
        if self._given is not None:
            return self._given
        equal = [module.name for module in self.modules if module.replicated]
        parameters = [p for group in self.inner.param_groups for p in group["params"]]
        return bool(equal) and all(_is_in(names.get(p, ""), equal) for p in parameters)

    def watch(self, watched: Watched) -> None:
        inner = self.inner
        watched.roots += [(inner, "state"), (inner, "param_groups")]
        states = {k: s for k, s in inner.state.items() if isinstance(k, torch.Tensor)}
        if len(states) == len(inner.state):
            watched.dicts.append(inner.state)
        else:  # counters and the like change in each step
            watched.sized.append(inner.state)
            watched.slots += [(inner.state, parameter) for parameter in states]
        watched.lists.append(inner.param_groups)
        own_step = type(inner).step.__module__.startswith("torch.optim.")
        for state in filter(_is_dict, states.values()):
            if own_step:
                watched.steady.append(list(filter(torch.is_tensor, state.values())))
            if all(isinstance(value, torch.Tensor) for value in state.values()):
                watched.dicts.append(state)
            else:
                watched.sized.append(state)
                watched.slots += _tensor_slots(state)
        for group in inner.param_groups:
            watched.lists.append(group["params"])
            watched.slots += _tensor_slots(group)

    def outline(self, names: Names) -> Any:
        groups = [
            [names.get(p, tuple(p.shape)) for p in group["params"]]
            for group in self.inner.param_groups
        ]
        return self.kind, groups

    def value(self) -> Any:
        groups = [
            {k: v for k, v in group.items() if k != "params" and not isinstance(v, torch.Tensor)}
            for group in self.inner.param_groups
        ]
        values = _tensors.optimizer_values(self.target, self._names) if self._has_values else {}
        return groups, values

    def load(self, value: Any, strict: bool) -> None:
        saved, values = value
        groups = self.inner.param_groups
        if strict and len(saved) != len(groups):
            raise mismatch(f"{self.name} has {len(groups)} parameter groups, {len(saved)} are "
                           "stored")
        for g, (group, options) in enumerate(zip(groups, saved)):
            missing = [
                key
                for key, option in group.items()
                if key not in options and key != "params" and not isinstance(option, torch.Tensor)
            ]
            if strict and missing:
                raise mismatch(f"group {g} of {self.name} has {', '.join(missing)}, "
                               "which is not stored")
            group.update((k, v) for k, v in options.items()
                         if not isinstance(group.get(k), torch.Tensor))
        _tensors.load_optimizer_values(self.target, self._names, values)


class ScalerSource(Source):
    """A gradient scaler: its scale stays on the device."""

    kind = "scaler"
    TENSORS = ("_scale", "_growth_tracker")
    OPTIONS = ("growth_factor", "backoff_factor", "growth_interval")

    def prepare(self, overwritten: bool) -> None:
        if self.target.is_enabled() and self.target._scale is None:
            device = torch.device(getattr(self.target, "_device", "cuda"))
            self.target._lazy_init_scale_growth_tracker(device)

    def entries(self, names: Names) -> list[Entry]:
        if not self.target.is_enabled():
            return []
        tensors = {key: getattr(self.target, key) for key in self.TENSORS}
        return [_shadow(f"{self.name}.{key[1:]}", tensor) for key, tensor in tensors.items()]

    def watch(self, watched: Watched) -> None:
        if self.target.is_enabled():
            watched.slots += [(self.target.__dict__, key) for key in self.TENSORS]

    def value(self) -> Any:
        if not self.target.is_enabled():
            return {}
        return {key: getattr(self.target, f"get_{key}")() for key in self.OPTIONS}

    def load(self, value: Any, strict: bool) -> None:
        for key, option in value.items():
            if self.target.is_enabled():
                getattr(self.target, f"set_{key}")(option)


class StateSource(Source):
    """Anything with state_dict() and load_state_dict(). Large tensors, and those on a device, that
    it returns from the same memory each time, have a region of their own; others are pickled."""

    def __init__(self, name: str, target: Any, kind: str) -> None:
        super().__init__(name, target)
        self.kind = kind
        self._live: dict[str, torch.Tensor] = {}
        self._own: frozenset[str] | None = None

    def prepare(self, overwritten: bool) -> None:
        first: dict[str, torch.Tensor] = {}
        second: dict[str, torch.Tensor] = {}
        split(self.target.state_dict(), self.name, first, _is_large)
        if first:
            split(self.target.state_dict(), self.name, second, _is_large)
        self._own = frozenset(
            name
            for name, tensor in first.items()
            if name in second and second[name].data_ptr() == tensor.data_ptr()
        )
        self.value()

    def entries(self, names: Names) -> list[Entry]:
        return [_shadow(name, tensor) for name, tensor in self._live.items()]

    def watch(self, watched: Watched) -> None:
        watched.slots += _tensor_slots(self._live)

    def value(self) -> Any:
        if self._own is None:
            self.prepare(False)
        own, state = self._own, self.target.state_dict()
        if not own:
            return state
        self._live.clear()
        return split(state, self.name, self._live, lambda name, _: name in own)

    def load(self, value: Any, strict: bool) -> None:
        self.target.load_state_dict(joined(value, self._live))


class GeneratorSource(Source):
    """A torch.Generator, such as a data loader's."""

    kind = "generator"

    def value(self) -> Any:
        return _rng.bytes_of(self.target.get_state())

    def load(self, value: Any, strict: bool) -> None:
        self.target.set_state(_rng.tensor_of(value))


class ContainerSource(Source):
    """A dict or list of plain values, which is restored in place."""

    kind = "value"

    def outline(self, names: Names) -> Any:
        return self.kind, isinstance(self.target, dict)

    def value(self) -> Any:
        return self.target

    def load(self, value: Any, strict: bool) -> None:
        if isinstance(value, dict) != isinstance(self.target, dict):
            raise mismatch(f"{self.name} is a {type(self.target).__name__}, "
                           f"a {type(value).__name__} is stored")
        self.target.clear()
        (self.target.update if isinstance(value, dict) else self.target.extend)(value)


def sources_of(objects: Sequence[Any], replicated: bool | None) -> list[Source]:
    """The sources of a guard's objects, named by kind and order. TypeError: an object of no kind
    that can be restored."""
    out: list[Source] = []
    count: dict[str, int] = {}
    for target in objects:
        source = _source_of(target, replicated)
        number = count.get(source.kind, 0)
        count[source.kind] = number + 1
        source.name = f"{source.kind}{number}" if number else source.kind
        out.append(source)
    modules = [source for source in out if isinstance(source, ModuleSource)]
    for source in out:
        if isinstance(source, OptimizerSource):
            source.modules = modules
    return out


def parameter_names(sources: Sequence[Source]) -> dict[torch.Tensor, str]:
    """The names of the parameters of all modules."""
    names: dict[torch.Tensor, str] = {}
    for source in sources:
        if isinstance(source, ModuleSource):
            found = _tensors.parameter_names(source.name, source.target)
            names = {**found, **names}
    return names


def outline(sources: Sequence[Source], names: Names) -> str:
    """32 hexadecimal digits that change with the kinds of objects and the parameters of groups."""
    text = repr([(source.name, source.outline(names)) for source in sources])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def mismatch(message: str) -> FtmemError:
    """The error for state that is not what is stored."""
    return error("Guard.restore", _abi.ELAYOUT, message)


def _source_of(target: Any, replicated: bool | None) -> Source:
    if isinstance(target, nn.Module):
        return ModuleSource(ModuleSource.kind, target, replicated)
    if isinstance(target, Optimizer):
        return OptimizerSource(OptimizerSource.kind, target, replicated)
    if isinstance(target, torch.amp.GradScaler):
        return ScalerSource(ScalerSource.kind, target)
    if isinstance(target, torch.Generator):
        return GeneratorSource(GeneratorSource.kind, target)
    if hasattr(target, "state_dict") and hasattr(target, "load_state_dict"):
        kind = "scheduler" if isinstance(target, torch.optim.lr_scheduler.LRScheduler) else "state"
        return StateSource(kind, target, kind)
    if isinstance(target, (dict, list)):
        return ContainerSource(ContainerSource.kind, target)
    raise TypeError(
        f"Guard cannot restore a {type(target).__name__} in place: give it modules, optimizers, "
        "objects with state_dict() and load_state_dict(), torch.Generators, dicts or lists"
    )


def _shadow(name: str, tensor: Any) -> Entry:
    return entry_of(name, tensor, False, shadow=True)


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict)


def _is_in(name: str, modules: Sequence[str]) -> bool:
    return any(name.startswith(f"{module}.") for module in modules)


def _tensor_slots(container: dict[Any, Any]) -> list[tuple[Any, Any]]:
    return [(container, k) for k, value in container.items() if isinstance(value, torch.Tensor)]


def _is_large(_: str, tensor: torch.Tensor) -> bool:
    if tensor.layout is not torch.strided or tensor.is_meta:
        return False
    return tensor.device.type != "cpu" or tensor.nbytes >= LARGE_BYTES
