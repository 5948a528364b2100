# SPDX-License-Identifier: BSD-3-Clause
"""For programs that try Session without PyTorch: memory to register, what must be refused, and
how ranks wait for one another without a message."""

from __future__ import annotations

import ctypes
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import ftmem

LIMIT_S = 60


class Memory:
    """Bytes that a region may lie in."""

    def __init__(self, size: int) -> None:
        self.array = (ctypes.c_char * size)()
        self.addr, self.size = ctypes.addressof(self.array), size

    def fill(self, seed: object) -> None:
        ctypes.memmove(self.array, expected(self.size, seed), self.size)

    def holds(self, seed: object) -> bool:
        return bytes(self.array) == expected(self.size, seed)


def expected(size: int, seed: object) -> bytes:
    return random.Random(str(seed)).randbytes(size)


def refused(name: str, text: str, call: Callable[..., object], *args: object,
            **kwargs: object) -> ftmem.FtmemError:
    """The call raises FtmemError of this name, and its message has this text."""
    try:
        call(*args, **kwargs)
    except ftmem.FtmemError as error:
        assert error.name == name and text in str(error), f"{name}, {text!r}: {error}"
        return error
    raise AssertionError(f"not refused: {text}")


def tell(what: str) -> None:
    """Other ranks that hear() this go on."""
    Path(os.environ["FTMEM_DIR"], f"told-{what}").touch()


def hear(what: str) -> None:
    until(Path(os.environ["FTMEM_DIR"], f"told-{what}").exists, what)


def until(holds: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + LIMIT_S
    while not holds():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.005)
