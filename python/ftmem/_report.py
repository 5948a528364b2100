# SPDX-License-Identifier: BSD-3-Clause
"""What a guard tells people: through warnings, and the logger "ftmem"."""

from __future__ import annotations

import logging
import re
import time
import warnings
from typing import Any

from . import _abi
from .errors import FtmemError, FtmemWarning

_log = logging.getLogger("ftmem")
_LEVELS = {
    _abi.LOG_ERROR: logging.ERROR,
    _abi.LOG_WARN: logging.WARNING,
    _abi.LOG_INFO: logging.INFO,
    _abi.LOG_DEBUG: logging.DEBUG,
}
# Frames from warn() up to the training script, which the warning shows.
_SCRIPT = 4


def forward(level: int, line: str) -> None:
    """A line of the library's own log. Any thread."""
    _log.log(_LEVELS.get(level, logging.INFO), "%s", line)


class Reporter:
    """Warnings, once for each text, and progress."""

    def __init__(self, job: str, every_s: float) -> None:
        self._job, self._every_s = job, every_s
        self._last = time.monotonic()
        self._warned: set[str] = set()

    def failed(self, failure: Exception) -> None:
        known = isinstance(failure, FtmemError)
        self.warn(str(failure) if known else f"{type(failure).__name__}: {failure}")

    def warn(self, text: str) -> None:
        """Texts that differ in numbers only count as one."""
        kind = re.sub(r"\d+", "#", text)
        if kind not in self._warned:
            self._warned.add(kind)
            _log.warning("job %s: %s", self._job, text)
            warnings.warn(f"ftmem job {self._job}: {text}", FtmemWarning, stacklevel=_SCRIPT)

    def late(self, names: list[str], versions: int) -> None:
        """Tensors whose memory changed up to so many versions ago."""
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        _log.warning(
            "job %s: %s%s got other memory by tensor.data = ..., which is seen only now: up to %d "
            "versions before this one may hold what was in the old memory",
            self._job,
            ", ".join(names[:3]),
            more,
            versions,
        )

    def due(self) -> bool:
        """Whether progress() should be told: so many seconds after the last time."""
        now = time.monotonic()
        if now - self._last < self._every_s:
            return False
        self._last = now
        return True

    def progress(self, stats: dict[str, Any]) -> None:
        newest = stats["newest"] if stats["stored"] else "none"
        _log.info(
            "job %s: newest version %s; %d committed, %d dropped, %d skipped; %.1f MB in %.2f s, "
            "protected in %.2f s",
            self._job,
            newest,
            stats["committed"],
            stats["dropped"],
            stats["skipped"],
            stats["data_bytes"] / 1e6,
            stats["copy_s"],
            stats["protect_s"],
        )
