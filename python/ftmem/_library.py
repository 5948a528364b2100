# SPDX-License-Identifier: BSD-3-Clause
"""Finding libftmem.so, and calling it.

It is, in this order: what is given, what the environment variable FTMEM_LIBRARY names, what is
installed where the loader looks or below sys.prefix, and what was built last in a build folder of
the source tree that this package lies in.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import _abi
from .errors import FtmemError, error

SONAME = "libftmem.so.0"

_loaded: dict[str, Library] = {}
_lock = threading.Lock()


class Library:
    """libftmem.so. Calls are c.ftmem_open() and so on; they release the GIL."""

    def __init__(self, path: str) -> None:
        # Global: what Open MPI loads later looks for symbols of its libraries, which come along.
        self.c = ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
        self.path = path
        self.pid: int | None = None
        for name, (result, *arguments) in _abi.SIGNATURES.items():
            try:
                function = getattr(self.c, name)
            except AttributeError:
                setattr(self.c, name, _missing(name, path))
            else:
                function.restype, function.argtypes = result, arguments

    def check(self, call: str, result: int) -> int:
        """The result if it is 0 or above, else the exception for it."""
        if result < 0:
            raise error(call, result, self.message() or self.text(result))
        return result

    def enter(self, call: str) -> None:
        """Before the first calls: MPI belongs to the process that initialised it, and not to
        those forked from it."""
        if self.pid is None:
            self.pid = os.getpid()
        if self.pid != os.getpid():
            raise forked(call)

    def program(self, name: str) -> str | None:
        """The path of a program that belongs to it, such as "ftmem"."""
        lib = Path(self.path).resolve().parent if "/" in self.path else Path("/usr/lib")
        for folder in (lib, lib.parent / "bin", lib.parent.parent / "bin"):
            if os.access(folder / name, os.X_OK):
                return str(folder / name)
        return shutil.which(name)

    def message(self) -> str:
        """What the calling thread's last call that failed has to say; "" if there was none."""
        return (self.c.ftmem_errmsg() or b"").decode(errors="replace")

    def text(self, result: int) -> str:
        return (self.c.ftmem_strerror(result) or b"").decode(errors="replace")


def forked(call: str) -> FtmemError:
    """The error of a call in a forked process."""
    return error(
        call,
        _abi.EINVAL,
        f"process {os.getpid()} was forked from one that uses libftmem, and cannot use it itself: "
        "DataLoader workers and other children must leave it alone",
    )


def load(path: str | os.PathLike[str] | None = None) -> Library:
    """The library, loaded once. FtmemError if there is none or it cannot be loaded."""
    wanted = os.fspath(path) if path is not None else os.environ.get("FTMEM_LIBRARY", "")
    with _lock:
        if wanted not in _loaded:
            _loaded[wanted] = _open(wanted) if wanted else _search()
        return _loaded[wanted]


def _open(path: str) -> Library:
    if not Path(path).is_file():
        raise _failure(f"there is no file {path}, which FTMEM_LIBRARY or the caller names")
    try:
        return Library(os.path.abspath(path))
    except OSError as cause:
        raise _failure(f"{path} cannot be loaded: {cause}") from cause


def _search() -> Library:
    reasons = []
    for candidate in [SONAME, *_below_prefix(), *_built()]:
        try:
            return Library(candidate)
        except OSError as cause:
            reasons.append(f"{candidate}: {cause}")
    raise _failure(
        "libftmem.so cannot be loaded. Install it (cmake --install BUILD --prefix "
        f"{sys.prefix}), or set FTMEM_LIBRARY to its path. Tried:\n    " + "\n    ".join(reasons)
    )


def _below_prefix() -> list[str]:
    paths = (Path(sys.prefix, lib, SONAME) for lib in ("lib", "lib64"))
    return [str(path) for path in paths if path.is_file()]


def _built() -> list[str]:
    """Of the source tree's build folders, newest first; none that a sanitizer has to be loaded
    before."""
    root = Path(__file__).resolve().parents[2]
    if not (root / "include" / "ftmem.h").is_file():
        return []
    found = [*root.glob("build/bin/libftmem.so"), *root.glob("build/*/bin/libftmem.so")]
    plain = [path for path in found if not _sanitized(path.parents[1] / "CMakeCache.txt")]
    return [str(path) for path in sorted(plain, key=lambda p: p.stat().st_mtime, reverse=True)]


def _sanitized(cache: Path) -> bool:
    if not cache.is_file():
        return False
    text = cache.read_text(errors="replace")
    return bool(re.search(r"^FTMEM_SANITIZE:\w+=.", text, re.MULTILINE))


def _missing(name: str, path: str) -> Callable[..., Any]:
    def fail(*_: object) -> int:
        raise error(name, _abi.EINVAL, f"{path} is older than this package and does not have it")

    return fail


def _failure(message: str) -> FtmemError:
    return error("loading libftmem", _abi.EINVAL, message)


def _in_child() -> None:
    """Another thread of the parent may have held it."""
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_in_child)
