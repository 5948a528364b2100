# SPDX-License-Identifier: BSD-3-Clause
"""What comes in the midst of a session's calls, in one process that no launcher started: other
threads, the garbage collector, Ctrl-C, and calls of the functions that the library calls."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import types
import weakref
from collections.abc import Callable
from pathlib import Path

import ftmem
from ftmem import _handle
from session_util import LIMIT_S, Memory, refused, until

MEMORY = Memory(4096)
raised_in_callbacks: list[object] = []


def opened(log: Callable[[int, str], object] | None = None) -> ftmem.Session:
    return ftmem.Session("midst", log=log, log_level="debug")


def usable(session: ftmem.Session) -> None:
    session.add("memory", MEMORY.addr, MEMORY.size, keep=MEMORY)
    session.seal()
    session.forget()
    assert session.snapshot(1) is ftmem.Result.OK
    session.fence()
    assert session.wait(1) is ftmem.Result.OK


def again() -> None:
    """The job can be opened again."""
    session = opened()
    usable(session)
    session.close()


def on_main() -> bool:
    return threading.current_thread() is threading.main_thread()


def ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def interrupted(call: Callable[[], object]) -> None:
    try:
        call()
    except KeyboardInterrupt:
        return
    raise AssertionError("KeyboardInterrupt was lost")


# --- garbage ---


def smps() -> list[int]:
    folder = os.environ["FTMEM_DIR"]
    lines = {int(p.name): (p / "cmdline") for p in Path("/proc").glob("[0-9]*")}
    return [pid for pid, line in lines.items()
            if line.exists() and "ftmem-smp" in (text := line.read_text()) and folder in text]


def garbage_in_a_library_thread() -> None:
    """There it cannot be closed, for closing waits for that thread."""
    collected = threading.Event()

    def log(level: int, line: str) -> None:
        if not on_main() and not collected.is_set():
            gc.collect()
            collected.set()

    session = opened(log)
    usable(session)
    watched = weakref.ref(session)
    holder = types.SimpleNamespace(session=session)
    holder.itself = holder
    gc.disable()
    del session, holder
    for pid in smps():
        os.kill(pid, signal.SIGKILL)
    assert collected.wait(LIMIT_S)
    gc.enable()
    assert watched() is None
    until(lambda: not _handle._open, "the thread that closes garbage")
    again()


# --- other threads ---


class Blocked:
    """A call of another thread's, in C until it is let go, and what is called meanwhile."""

    def __init__(self, session: ftmem.Session, call: str) -> None:
        self.handle, self.went, self.calls = session._handle, threading.Event(), []
        self.library = session._handle.library
        stand_in = types.SimpleNamespace(ftmem_close=self.close, **{f"ftmem_{call}": self.block})
        self.handle.library = types.SimpleNamespace(c=stand_in, check=self.library.check)
        session._c = stand_in
        self.thread = threading.Thread(target=getattr(session, call))
        self.thread.start()
        until(lambda: "begins" in self.calls, call)

    def block(self, *_: object) -> int:
        self.calls.append("begins")
        assert self.went.wait(LIMIT_S)
        self.calls.append("ends")
        return 0

    def close(self, address: int) -> None:
        self.calls.append("close")
        self.library.c.ftmem_close(address)

    def let_go(self) -> None:
        self.went.set()
        self.thread.join(LIMIT_S)


def close_beside(call: str) -> None:
    session = opened()
    blocked = Blocked(session, call)
    closer = threading.Thread(target=session.close)
    closer.start()
    closer.join(0.2)
    blocked.let_go()
    closer.join(LIMIT_S)
    assert blocked.calls == ["begins", "ends", "close"], f"{call}: {blocked.calls}"


# --- Ctrl-C ---


def ctrl_c_while_closing() -> None:
    """It leaves a session that other threads use open, and ends one that is closed."""
    session = opened()
    usable(session)
    blocked = Blocked(session, "fence")

    def when_waiting() -> None:
        until(lambda: session._handle.closing, "close()")
        ctrl_c()

    sender = threading.Thread(target=when_waiting)
    sender.start()
    interrupted(session.close)
    sender.join(LIMIT_S)
    session._c = blocked.library.c
    assert session.stats()["committed"] == 1
    blocked.let_go()

    def close(address: int) -> None:
        blocked.close(address)
        ctrl_c()

    session._handle.library.c.ftmem_close = close
    interrupted(session.close)
    session.close()
    assert blocked.calls == ["begins", "ends", "close"]
    again()


def ctrl_c_in_log() -> None:
    """It comes out of the call, and of ftmem_open() without a session."""
    armed = [True]

    def log(level: int, line: str) -> None:
        if armed and on_main():
            armed.clear()
            ctrl_c()

    interrupted(lambda: opened(log))
    assert not _handle._open and not raised_in_callbacks
    session = opened(log)
    session.add("memory", MEMORY.addr, MEMORY.size)
    armed.append(True)
    interrupted(lambda: [session.seal(), session.forget()])
    assert not raised_in_callbacks
    session.close()
    again()


# --- the functions that the library calls ---


def calls_in_log() -> None:
    """They are refused, as is close(); and what log raises is told."""
    sessions: list[ftmem.Session] = []

    def log(level: int, line: str) -> None:
        for session in sessions:
            refused("EINVAL", "called in log", session.close)
            refused("EINVAL", "called in log", session.seal)
            refused("EINVAL", "called in log", ftmem.Session, "other")
            session.stats()
            raise ValueError("as the test wants")

    sessions.append(opened(log))
    usable(sessions[0])
    assert raised_in_callbacks, "log was not called"
    assert all(isinstance(raised, ValueError) for raised in raised_in_callbacks)
    sessions.pop().close()
    raised_in_callbacks.clear()


def late_call_of_log() -> None:
    """In an interpreter that is ending it does nothing."""
    lines: list[str] = []
    session = opened(lambda level, line: lines.append(line))
    before = len(lines)
    is_finalizing, sys.is_finalizing = sys.is_finalizing, lambda: True
    session._handle.callbacks.members["log"](None, 1, b"late")
    sys.is_finalizing = is_finalizing
    assert len(lines) == before
    session.close()


def exit_with_one_that_cannot_be_closed() -> None:
    """The others are."""
    first, second = opened(), ftmem.Session("second")
    real = first._handle.library

    def close(address: int) -> None:
        real.c.ftmem_close(address)
        raise KeyboardInterrupt

    first._handle.library = types.SimpleNamespace(c=types.SimpleNamespace(ftmem_close=close))
    interrupted(_handle._close_all)
    refused("EINVAL", "is closed", second.stats)
    assert not _handle._open


def main() -> None:
    sys.unraisablehook = lambda unraisable: raised_in_callbacks.append(unraisable.exc_value)
    for call in ("fence", "stats", "seal"):
        close_beside(call)
    ctrl_c_while_closing()
    ctrl_c_in_log()
    calls_in_log()
    late_call_of_log()
    exit_with_one_that_cannot_be_closed()
    garbage_in_a_library_thread()
    assert not raised_in_callbacks, raised_in_callbacks
    print("done", flush=True)


main()
