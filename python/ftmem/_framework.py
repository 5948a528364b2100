# SPDX-License-Identifier: BSD-3-Clause
"""What the callbacks for training frameworks share: pace, final snapshot, pickled progress."""

from __future__ import annotations

import io
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import torch

from . import _abi
from .errors import FtmemError, FtmemWarning, error


class Progress:
    """What a framework's trainer knows besides tensors: one value among a guard's objects.

    It is pickled here and not by the guard, which would otherwise take tensors of it as memory
    that stays where it is. Tensors on a device are copied to the host once, not for every
    snapshot: a metric's value changes seldom, and each copy waits for the device.

    Args:
        collect: called for every snapshot, returns what to keep.

    Attributes:
        loaded: what a restore found, or None.
    """

    def __init__(self, collect: Callable[[], dict[str, Any]]) -> None:
        self._collect = collect
        self._copies: dict[int, _HostCopy] = {}
        self.loaded: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, bytes]:
        buffer = io.BytesIO()
        pickler = _Pickler(buffer, self._copies)
        pickler.dump(self._collect())
        self._copies = pickler.used
        return {"pickled": buffer.getvalue()}

    def load_state_dict(self, state: dict[str, bytes]) -> None:
        self.loaded = pickle.loads(state["pickled"])


class _HostCopy:
    """A device tensor as it was at one version of it, and its value on the host."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor, self._version = tensor, tensor._version
        self.value = tensor.detach().cpu()

    def is_of(self, tensor: torch.Tensor) -> bool:
        return self._tensor is tensor and self._version == tensor._version


class _Pickler(pickle.Pickler):
    def __init__(self, buffer: io.BytesIO, copies: dict[int, _HostCopy]) -> None:
        super().__init__(buffer, protocol=pickle.HIGHEST_PROTOCOL)
        self._copies = copies
        self.used: dict[int, _HostCopy] = {}

    def reducer_override(self, obj: object) -> Any:
        if not isinstance(obj, torch.Tensor) or obj.device.type == "cpu":
            return NotImplemented
        copy = self._copies.get(id(obj))
        if copy is None or not copy.is_of(obj):
            copy = _HostCopy(obj)
        self.used[id(obj)] = copy
        return copy.value.__reduce_ex__(pickle.HIGHEST_PROTOCOL)


class Pace:
    """Which steps are stored: those at which a multiple of every_n_steps is reached or passed."""

    def __init__(self, every_n_steps: int) -> None:
        if not isinstance(every_n_steps, int) or every_n_steps < 1:
            raise invalid("every_n_steps", f"{every_n_steps!r} is not a number from 1 on")
        self._every = every_n_steps
        self.last = 0

    def due(self, step: int) -> bool:
        return step // self._every > self.last // self._every


def store_last(guard: Any, step: int, options: dict[str, Any]) -> None:
    """The snapshot at a training's end, with room made for it and its commit waited for. What
    goes wrong is a warning: the training has ended well. options: those of the guard."""
    try:
        guard.wait()
        guard.snapshot(step)
        guard.wait()
    except FtmemError as problem:
        if options.get("on_error") == "raise":
            raise
        warnings.warn(f"the training's last step, {step}: {problem}", FtmemWarning, stacklevel=2)


def warn_of_other_ranks(then: int, now: int) -> None:
    if then != now:
        warnings.warn(
            f"stored by {then} ranks and restored on {now}: weights and optimizer state are the "
            "same, but batches are divided among ranks in another way, so that the rest of this "
            "epoch sees some samples twice or not at all", FtmemWarning, stacklevel=2)


def set_sampler_epoch(loader: object, epoch: int) -> None:
    """set_epoch(epoch) on the samplers of a data loader, however they are nested."""
    pending, seen = [loader], set()
    while pending:
        node = pending.pop()
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        if node is not loader and callable(getattr(node, "set_epoch", None)):
            node.set_epoch(epoch)
        pending += [getattr(node, name, None) for name in ("sampler", "batch_sampler")]


def invalid(call: str, message: str) -> FtmemError:
    return error(call, _abi.EINVAL, message)
