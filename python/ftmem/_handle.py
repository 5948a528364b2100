# SPDX-License-Identifier: BSD-3-Clause
"""A session of libftmem from open to close, whoever closes it: its user, the garbage collector or
the end of the interpreter; and the functions that the library calls back.

Threads: calls that are "alone" hold the handle's lock. The others are "beside" them: they are
counted, and a handle is closed when none is left. Between two lines of this file Ctrl-C may raise
KeyboardInterrupt; each step leaves a state that close() can end.
"""

from __future__ import annotations

import _thread
import atexit
import ctypes
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

from . import _abi, _library
from ._arguments import invalid, number

# What a version under way gets at an exit after an exception: the other ranks may be stuck.
LAST_WAIT_MS = 1000

_open: dict[str, Handle] = {}
_open_lock = threading.RLock()
# Whether this thread is in a function that the library called.
_callback = threading.local()


class Handle:
    """What lasts until the job is closed. pointer is NULL before and after."""

    def __init__(self, library: _library.Library, job: str, callbacks: Callbacks) -> None:
        self.library, self.job, self.callbacks = library, job, callbacks
        self.pid = os.getpid()
        self.lock = threading.RLock()
        self.pointer = ctypes.c_void_p()
        self.kept: dict[str, list[object]] = {}
        self.newest: int | None = None
        self._abandoned = False
        # The threads of all calls under way, as often as they are in one.
        self.users: list[int] = []
        self._changed = threading.Condition()
        self.closing = False

    def open(self, opts: _abi.Opts) -> None:
        refuse_in_callback("ftmem_open")
        with _open_lock:
            try:
                for other in list(_open.values()):
                    if other._abandoned:
                        other.close()
                if self.job in _open and _open[self.job].pid == self.pid:
                    raise invalid("ftmem_open", f"job {self.job} is already open in this process: "
                                  "close that session or guard first")
                with self.lock:
                    _open[self.job] = self
                    result = self.library.c.ftmem_open(opts, self.pointer)
                    self.callbacks.raise_caught()
                    self.library.check("ftmem_open", result)
            except BaseException:
                self.close()
                raise

    def alone(self, call: str) -> Use:
        """For the time of a call that is no other's, which gets the pointer."""
        return Use(self, call, alone=True)

    def beside(self, call: str) -> Use:
        """For the time of a call that may be beside any other."""
        return Use(self, call, alone=False)

    def wake_closer(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def settled(self) -> bool:
        """Whether no call and no version is under way, or will not be for long."""
        if not self.lock.acquire(timeout=LAST_WAIT_MS / 1000):
            return False
        try:
            if self.newest is None or not self.pointer:
                return True
            wait = self.library.c.ftmem_wait
            return wait(self.pointer, self.newest, LAST_WAIT_MS) != _abi.ETIMEOUT
        finally:
            self.lock.release()

    def close(self) -> None:
        """Again, and in a forked process, where all of this is a copy of what still is in use,
        it does nothing."""
        if self.pid != os.getpid():
            return
        refuse_in_callback("ftmem_close")
        with self.lock:
            address = self.pointer.value
            try:
                if address is not None:
                    self._await_users()
                    self.library.c.ftmem_close(address)
            finally:
                if not self.pointer:
                    self.callbacks.end()
                    self.kept.clear()
                    if _open.get(self.job) is self:
                        del _open[self.job]
            self.callbacks.raise_caught()

    def _await_users(self) -> None:
        """The pointer is NULL, and no thread has the one before. A call that this thread was in
        when a signal came is no such use: it gets NULL, or is over."""
        me, address = threading.get_ident(), self.pointer.value
        try:
            self.closing = True
            self.pointer.value = None
            with self._changed:
                while any(user != me for user in self.users):
                    self._changed.wait(0.1)
        except BaseException:
            self.pointer.value = address
            raise
        finally:
            self.closing = False

    def abandon(self) -> None:
        """The session is garbage. This may be the library's thread, in a callback, or any other in
        the midst of anything: a thread of its own closes it. If there can be none the next
        open() does, or the exit."""
        if self.pid != os.getpid() or not self.pointer:
            return
        self._abandoned = True
        try:
            _thread.start_new_thread(self.close, ())
        except RuntimeError:
            pass

    def leave(self) -> None:
        """Neither closed nor freed: what the library still reads and calls outlasts Python."""
        self.callbacks.end()
        keep_forever(self)


class Use:
    """The time of a call. It gets the pointer, which is NULL as soon as another thread closes the
    handle; after it comes what Ctrl-C raised in a callback."""

    __slots__ = ("_alone", "_call", "_handle", "_thread")

    def __init__(self, handle: Handle, call: str, alone: bool) -> None:
        self._handle, self._call, self._alone = handle, call, alone
        self._thread = threading.get_ident()

    def __enter__(self) -> ctypes.c_void_p:
        handle = self._handle
        # Before any lock: in a forked process there is nobody to unlock it.
        if handle.pid != os.getpid():
            raise _library.forked(self._call)
        if self._alone:
            refuse_in_callback(self._call)
            handle.lock.acquire()
        handle.users.append(self._thread)
        if not handle.pointer:
            self.__exit__()
            raise invalid(self._call, f"the session of job {handle.job} is closed")
        return handle.pointer

    def __exit__(self, *_: object) -> None:
        handle = self._handle
        handle.users.remove(self._thread)
        if self._alone:
            handle.lock.release()
        if handle.closing:
            handle.wake_closer()
        if handle.callbacks.caught:
            handle.callbacks.raise_caught()


class Callbacks:
    """Functions that C calls. They last as long as the process: a thread of a device that is
    stuck may call them after the session was closed."""

    def __init__(
        self,
        log: Callable[[int, str], object] | None,
        private_from: Callable[[str, int, int, int], int | None] | None,
    ) -> None:
        self._log, self._private_from = log, private_from
        # By thread: what the C call that it is in must raise when it is over.
        self.caught: dict[int, BaseException] = {}
        self.members: dict[str, Any] = {}
        if log is not None:
            self.members["log"] = _abi.LogFunction(self._on_log)
        if private_from is not None:
            self.members["private_from"] = _abi.PrivateFromFunction(self._on_private)
        for function in self.members.values():
            keep_forever(function)
        if self.members:
            _hear_interrupts()

    def raise_caught(self) -> None:
        """What private_from raised, or Ctrl-C in any; regions it was asked for are as they
        were."""
        caught = self.caught.pop(threading.get_ident(), None)
        if caught is not None:
            raise caught

    def catch(self, caught: BaseException) -> None:
        self.caught[threading.get_ident()] = caught

    def end(self) -> None:
        self._log = self._private_from = None

    def _on_log(self, _: int, level: int, line: bytes) -> None:
        log = self._log
        if log is None or sys.is_finalizing():
            return
        within = getattr(_callback, "within", False)
        try:
            _callback.within = True
            log(level, line.decode(errors="replace"))
        finally:
            _callback.within = within

    def _on_private(self, _: int, name: bytes, rank: int, ranks: int, old_ranks: int) -> int:
        private_from = self._private_from
        if private_from is None or sys.is_finalizing():
            return _abi.NO_RANK
        try:
            _callback.within = True
            old = private_from(name.decode(errors="replace"), rank, ranks, old_ranks)
            return _abi.NO_RANK if old is None else number("private_from()", old, 32)
        except BaseException as caught:
            self.catch(caught)
            return _abi.NO_RANK
        finally:
            _callback.within = False


def refuse_in_callback(call: str) -> None:
    if getattr(_callback, "within", False):
        raise invalid(call, "called in log or private_from, which the library waits for")


def keep_forever(something: object) -> None:
    """Not even the end of the interpreter frees it."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(something))


_CALLED_BY_C = (Callbacks._on_log.__code__, Callbacks._on_private.__code__)
_hears_interrupts = False


def _hear_interrupts() -> None:
    """A signal that comes during a C call is seen when Python next runs: in the first instruction
    of a callback, where no try reaches. What its handler raises there ctypes hands to
    sys.unraisablehook, and is raised after the call instead. Other exceptions of log go on to
    the hook that was there."""
    global _hears_interrupts
    if _hears_interrupts:
        return
    _hears_interrupts = True
    former = sys.unraisablehook

    def hook(unraisable: Any, /) -> None:
        trace, raised = unraisable.exc_traceback, unraisable.exc_value
        main = threading.get_ident() == threading.main_thread().ident
        ours = trace is not None and trace.tb_frame.f_code in _CALLED_BY_C
        if main and ours and raised is not None and not isinstance(raised, Exception):
            trace.tb_frame.f_locals["self"].catch(raised)
        else:
            former(unraisable)

    sys.unraisablehook = hook


def _close_all() -> None:
    """When the interpreter exits: earlier than MPI, which ends with the process. After an
    exception the other ranks may never take part in the version under way: it is left behind,
    and the job with it."""
    failed = getattr(sys, "last_value", None) is not None
    failure: BaseException | None = None
    for handle in list(_open.values()):
        try:
            if handle.pid == os.getpid() and failed and not handle.settled():
                handle.leave()
            else:
                handle.close()
        except BaseException as caught:
            failure = caught
    if failure is not None:
        raise failure


def _in_child() -> None:
    global _open_lock
    _open_lock = threading.RLock()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_in_child)
