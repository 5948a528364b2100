# SPDX-License-Identifier: BSD-3-Clause
"""The fence before what is known to write tensors: steps of optimizers, load_state_dict()."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

from . import _tensors
from ._sources import ModuleSource, OptimizerSource, Source


class Hook:
    """Calls a method of an object that it does not keep alive. A copy of it, as in a copied or
    pickled module, does nothing."""

    def __init__(self, method: Callable[[], object] | None = None) -> None:
        self._method = weakref.WeakMethod(method) if method is not None else _nothing

    def __call__(self, *_: Any, **__: Any) -> None:
        method = self._method()
        if method is not None:
            method()

    def __reduce__(self) -> tuple[Any, ...]:
        return Hook, ()


class StepHook(Hook):
    """Of an optimizer's step. PyTorch's own optimizers call a closure before they write: there the
    method is called after it, so that forward and backward passes in it run beside the copy."""

    def __call__(self, optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        named = kwargs.get("closure")
        closure = named if named is not None else args[1] if len(args) == 2 else None
        if closure is None or not type(optimizer).__module__.startswith("torch.optim."):
            super().__call__()
            return None

        def then_fence() -> Any:
            result = closure()
            super(StepHook, self).__call__()
            return result

        if named is not None:
            return args, {**kwargs, "closure": then_fence}
        return (args[0], then_fence), kwargs


def install(sources: Sequence[Source], method: Callable[[], object]) -> list[Any]:
    """Lets the objects call method before they write their tensors. Returns handles whose
    remove() ends it."""
    handles = []
    for source in sources:
        if isinstance(source, OptimizerSource):
            handles.append(source.inner.register_step_pre_hook(StepHook(method)))
            handles.append(source.inner.register_load_state_dict_pre_hook(Hook(method)))
        elif isinstance(source, ModuleSource):
            module = _tensors.unwrap(source.target)
            handles.append(module.register_load_state_dict_pre_hook(Hook(method)))
    return handles


def weak(method: Callable[..., Any]) -> Callable[..., Any]:
    """The method as a function that does not keep its object alive; without it returns None."""
    reference = weakref.WeakMethod(method)

    def call(*args: Any) -> Any:
        target = reference()
        return target(*args) if target is not None else None

    return call


def _nothing() -> None:
    return None
