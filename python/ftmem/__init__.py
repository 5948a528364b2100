# SPDX-License-Identifier: BSD-3-Clause
"""libftmem for PyTorch: a consistent copy of a training job's state in its nodes' memory.

    guard = ftmem.Guard(model, optimizer, scheduler, job="run1")
    step = guard.restore()               # 0 on a first start
    for step in range(step, steps):
        ...
        optimizer.step()                 # the fence hooks in before it by itself
        guard.snapshot(step + 1)

Guard is the short way and Session the long one, call by call. What other packages are needed for
is loaded when it is asked for: ftmem.dcp (torch.distributed.checkpoint), ftmem.lightning,
ftmem.huggingface.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .errors import FtmemError, FtmemWarning, NothingStored, TooMuchLost
from .launch import World, init_process_group, set_environ, world
from .session import Result, Session

if TYPE_CHECKING:
    from .guard import Guard

__version__ = "0.1.0"

__all__ = [
    "FtmemError",
    "FtmemWarning",
    "Guard",
    "NothingStored",
    "Result",
    "Session",
    "TooMuchLost",
    "World",
    "init_process_group",
    "set_environ",
    "world",
]

_MODULES = ("dcp", "guard", "huggingface", "lightning")


def __getattr__(name: str) -> Any:
    """Guard and the modules that need PyTorch or more, when they are first asked for."""
    if name == "Guard":
        return importlib.import_module(".guard", __name__).Guard
    if name in _MODULES:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
