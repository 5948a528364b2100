# SPDX-License-Identifier: BSD-3-Clause
"""What goes wrong, in Python's terms."""

from __future__ import annotations

from . import _abi

_NAMES = {code: name for name, code in _abi.RESULTS.items()}


class FtmemError(RuntimeError):
    """A call that failed.

    Attributes:
        code: the result as of enum ftmem_result in ftmem.h, below 0 (NothingStored: 2).
        name: that result's name without its prefix, such as "ELAYOUT".
        call: what was called, such as "ftmem_seal" or "Session.add_tensor".
        message: which rank, node, region or version, and what to do.
    """

    def __init__(self, call: str, code: int, message: str) -> None:
        super().__init__(call, code, message)
        self.call, self.code, self.message = call, code, message

    @property
    def name(self) -> str:
        return _NAMES.get(self.code, str(self.code))

    def __str__(self) -> str:
        return f"{self.call}: {self.message} ({self.name})"


class NothingStored(FtmemError):
    """The job holds no version, and one is needed."""


class TooMuchLost(FtmemError):
    """More nodes are lost than parity covers. Nothing is destroyed: when a missing node comes
    back, the same call succeeds."""


class FtmemWarning(UserWarning):
    """What the training goes on after: a version that could not be stored, for example."""


def error(call: str, code: int, message: str) -> FtmemError:
    """The exception for a result: NothingStored, TooMuchLost, or FtmemError itself."""
    kind = {_abi.FRESH: NothingStored, _abi.ELOST: TooMuchLost}.get(code, FtmemError)
    return kind(call, code, message)
