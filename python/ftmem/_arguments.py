# SPDX-License-Identifier: BSD-3-Clause
"""Python's values as arguments of the calls of ftmem.h."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import TYPE_CHECKING, Any

from . import _abi
from .errors import FtmemError, error

if TYPE_CHECKING:
    import torch

WORDS = {
    "log_level": {
        "error": _abi.LOG_ERROR,
        "warn": _abi.LOG_WARN,
        "info": _abi.LOG_INFO,
        "debug": _abi.LOG_DEBUG,
    },
    "private_rule": {"rank": _abi.PRIVATE_RANK, "drop": _abi.PRIVATE_DROP},
    "when_busy": {"skip": _abi.BUSY_SKIP, "wait": _abi.BUSY_WAIT},
    "scrub_mib_s": {"off": _abi.SCRUB_OFF},
}


def invalid(call: str, message: str) -> FtmemError:
    return error(call, _abi.EINVAL, message)


def encoded(what: str, text: str | os.PathLike[str]) -> bytes:
    if isinstance(text, str):
        out = text.encode(errors="surrogateescape")
    else:
        out = os.fsencode(text)
    if b"\0" in out:
        raise invalid(what, f"{text!r} contains a zero byte")
    return out


def number(what: str, value: int, bits: int) -> int:
    """An unsigned integer, since ctypes would cut off what does not fit."""
    try:
        out = value.__index__()
    except AttributeError:
        raise TypeError(f"{what} must be an integer, not {type(value).__name__}") from None
    if not 0 <= out < 1 << bits:
        raise invalid(what, f"{out} is not between 0 and 2^{bits} - 1")
    return out


def members(opts: dict[str, Any]) -> dict[str, Any]:
    """Options as members of struct ftmem_opts."""
    kinds = {field[0]: field[1] for field in _abi.Opts._fields_ if field[0] != "size"}
    out: dict[str, Any] = {}
    for name, value in opts.items():
        if name not in kinds:
            raise TypeError(f"Session has no option {name!r}; there are {', '.join(kinds)}")
        if value is None:
            continue
        if name == "comm":
            out[name] = _communicator(value)
        elif kinds[name] is ctypes.c_char_p:
            out[name] = encoded(name, value)
        elif isinstance(value, str):
            out[name] = _word(name, value)
        else:
            out[name] = number(name, value, 8 * ctypes.sizeof(kinds[name]))
    return out


def _word(name: str, word: str) -> int:
    words = WORDS.get(name)
    if words is None:
        raise TypeError(f"{name} must be an integer, not {word!r}")
    if word not in words:
        raise invalid(name, f"{word!r} is none of {', '.join(words)}")
    return words[word]


def _communicator(comm: Any) -> int:
    """The address of the MPI_Comm."""
    mpi4py = sys.modules.get("mpi4py.MPI")
    if mpi4py is not None and isinstance(comm, mpi4py.Comm):
        return mpi4py._addressof(comm)
    return number("comm", comm, 64)


def stream_of(stream: Any) -> int | None:
    return getattr(stream, "cuda_stream", stream)


def tensor_bytes(name: str, tensor: torch.Tensor, box: Any) -> int:
    """The bytes of a tensor that can be registered; its name is in the error if it cannot."""
    import torch

    problem = None
    if hasattr(tensor, "to_local"):
        problem = "is a DTensor: register to_local() with its box"
    elif tensor.layout != torch.strided:
        problem = f"has layout {tensor.layout}: only strided tensors have one piece of memory"
    elif tensor.device.type == "meta":
        problem = "is on the meta device: it has no memory"
    elif box is None and not _dense(tensor):
        problem = "is a view with holes or overlaps: register what it is a view of, or a copy"
    elif box is not None and not tensor.is_contiguous():
        problem = "is not contiguous, as the box of a tensor must be"
    elif box is not None and tuple(box.extent) != tuple(tensor.shape):
        problem = f"has shape {tuple(tensor.shape)}, its box extent {tuple(box.extent)}"
    if problem:
        raise invalid("Session.add_tensor", f"{name} {problem}")
    return tensor.numel() * tensor.element_size()


def _dense(tensor: torch.Tensor) -> bool:
    """Whether its elements fill a piece of memory, in whatever order."""
    expected = 1
    for stride, length in sorted(zip(tensor.stride(), tensor.shape)):
        if length != 1 and stride != expected:
            return False
        expected *= length
    return True
