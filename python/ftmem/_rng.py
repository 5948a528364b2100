# SPDX-License-Identifier: BSD-3-Clause
"""The generators of random numbers that a training script draws from without naming them."""

from __future__ import annotations

import array
import ctypes
import random
import struct
import sys
from typing import Any

import torch

_PYTHON_WORDS = struct.Struct("<625I")

# What was in the memory of a generator, and the state that it stood for: to ask those of Python
# and NumPy takes as long as all else of a snapshot, and most training loops draw nothing from them.
_python_seen: tuple[Any, Any] | None = None
_numpy_seen: tuple[Any, Any] | None = None
# Whether NumPy's can be told from memory; None before it was tried.
_numpy_shows: bool | None = None


def get() -> dict[str, Any]:
    """The state of Python's `random`, of NumPy's global generator if NumPy is loaded, of
    PyTorch's on the CPU and, where CUDA is initialised, on every device.

    Bytes and small values only, which pickle fast. Waits for no device and initialises none.
    One call at a time; no other thread may draw from these generators meanwhile.
    """
    state: dict[str, Any] = {
        "python": _get_python(),
        "torch": bytes_of(torch.default_generator.get_state()),
    }
    if "numpy.random" in sys.modules:
        state["numpy"] = _get_numpy()
    if torch.cuda.is_initialized():
        state["cuda"] = [bytes_of(g.get_state()) for g in torch.cuda.default_generators]
    return state


def set(state: dict[str, Any]) -> None:
    """Puts back what get() returned. What it does not hold, and devices that are not here, stay
    as they are; a device that is not initialised gets its state when it is. Loads NumPy if the
    state holds a generator of it and NumPy can be had."""
    version, words, gauss = state["python"]
    random.setstate((version, _PYTHON_WORDS.unpack(words), gauss))
    torch.default_generator.set_state(tensor_of(state["torch"]))
    if "numpy" in state:
        _set_numpy(state["numpy"])
    present = torch.cuda.device_count() if "cuda" in state else 0
    for device, saved in enumerate(state.get("cuda", [])[:present]):
        torch.cuda.set_rng_state(tensor_of(saved), device)


def _get_python() -> Any:
    """The state as of random.getstate(), with bytes for its words."""
    global _python_seen
    generator = getattr(random.getstate, "__self__", None)
    memory = None
    if _WORDS_ARE_INSIDE and type(generator) is random.Random:
        memory = _object_memory(generator), generator.gauss_next
    if memory is not None and _python_seen is not None and _python_seen[0] == memory:
        return _python_seen[1]
    version, words, gauss = random.getstate()
    packed = (version, _PYTHON_WORDS.pack(*words), gauss)
    _python_seen = (memory, packed)
    return packed


def _get_numpy() -> Any:
    """The state as of numpy.random.get_state(), with bytes for the words of MT19937."""
    global _numpy_seen, _numpy_shows
    numpy = sys.modules["numpy"]
    if _numpy_shows is None:
        _numpy_shows = _numpy_draws_show(numpy)
    memory = _numpy_memory(numpy) if _numpy_shows else None
    if memory is not None and _numpy_seen is not None and _numpy_seen[0] == memory:
        return _numpy_seen[1]
    state = numpy.random.get_state(legacy=False)
    if state["bit_generator"] != "MT19937":
        return state
    words, position = state["state"]["key"].tobytes(), int(state["state"]["pos"])
    packed = ("MT19937", words, position, int(state["has_gauss"]), float(state["gauss"]))
    # A number in store goes without a trace in the generator's own words.
    _numpy_seen = (memory, packed) if not packed[3] else None
    return packed


def _numpy_memory(numpy: Any, holder: Any = None) -> Any:
    """What changes with each draw and each new state: the generator, its words and position, and
    the object with the number in store; of NumPy's global generator if no other is given. None if
    it cannot be told."""
    try:
        holder = numpy.random.mtrand._rand if holder is None else holder
        generator = holder._bit_generator
        if not isinstance(generator, numpy.random.MT19937):
            return None
        words = ctypes.string_at(generator.ctypes.state_address, 625 * 4)
    except AttributeError:
        return None
    return id(generator), words, _object_memory(holder)


def _numpy_draws_show(numpy: Any) -> bool:
    """Whether _numpy_memory() tells each state from the one before, on a generator of its own."""
    if sys.implementation.name != "cpython":
        return False
    try:
        holder = numpy.random.RandomState(1)
        seen = _numpy_memory(numpy, holder)
        for draw in (holder.random_sample, holder.standard_normal, holder.standard_normal):
            draw()
            before, seen = seen, _numpy_memory(numpy, holder)
            state = holder.get_state(legacy=False)["state"]
            words = state["key"].tobytes() + int(state["pos"]).to_bytes(4, sys.byteorder)
            if seen is None or seen[1:] == before[1:] or seen[1] != words:
                return False
    except Exception:
        return False
    return True


def _object_memory(obj: object) -> bytes:
    """What CPython has in the fixed part of an object, reference count included."""
    return ctypes.string_at(id(obj), type(obj).__basicsize__)


def _words_are_inside() -> bool:
    """Whether Python's generators hold their words there, so that each draw shows."""
    if sys.implementation.name != "cpython":
        return False
    size = _PYTHON_WORDS.size
    generator = random.Random(1)
    before = _object_memory(generator)
    generator.random()
    return len(before) >= size and _object_memory(generator) != before


_WORDS_ARE_INSIDE = _words_are_inside()


def _set_numpy(state: Any) -> None:
    try:
        import numpy
    except ImportError:
        return
    if not isinstance(state, dict):
        kind, keys, *rest = state
        words = array.array("I", keys)
        state = (kind, numpy.array(words, dtype=numpy.uint32), *rest)
    numpy.random.set_state(state)


def bytes_of(state: torch.Tensor) -> bytes:
    return ctypes.string_at(state.data_ptr(), state.numel())


def tensor_of(state: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(state), dtype=torch.uint8)
