# SPDX-License-Identifier: BSD-3-Clause
"""The short way: a few lines in a training script."""

from __future__ import annotations

import operator
import os
import time
from contextlib import suppress
from typing import Any

import torch

from . import _abi, _hooks, _report, launch
from ._differ import differences, explained
from ._library import forked
from ._registry import Layout, Registry
from ._sources import mismatch, sources_of
from ._values import Values, unpack
from .errors import FtmemError, FtmemWarning
from .session import Result, Session

OBJECTS = "ftmem.objects"


class Guard:
    """Protects the state of a training loop:

        guard = ftmem.Guard(model, optimizer, scheduler, job="run1", parity=1)
        step = guard.restore()               # 0 on a first start
        for step in range(step, steps):
            ...
            optimizer.step()
            guard.snapshot(step + 1)

    Every rank makes one, with the same kinds of objects in the same order, and calls its methods
    at the same steps: __init__, restore(), repair(), forget() and close() are collective, and so
    is the first snapshot(). From one thread at a time.

    Tensors are captured in place, so they must not be written between snapshot() and fence().
    Steps of the optimizers and their and the modules' load_state_dict() call fence() by
    themselves; what else writes parameters or optimizer state calls it before, and so does what
    replays a CUDA graph of an optimizer's step. Buffers of modules and what a gradient scaler
    holds are copied by snapshot(), and may be written at any time. Random numbers of Python,
    NumPy and PyTorch, on all devices, are part of the state.

    Tensors that are replaced or get other memory are noticed at the next snapshot(), which
    registers them; but if an optimizer of torch.optim has many, and single ones of its state get
    other memory by tensor.data = ..., some snapshots later, and the logger "ftmem" names them.
    With several ranks replace tensors on all of them in the same step. Ranks then agree through
    torch.distributed when to register, and up to five versions are skipped; without
    torch.distributed each one registers at once, and a rank that does so alone waits in vain.

    Args:
        objects: modules, optimizers, torch.amp.GradScalers, learning rate schedulers, anything
            else with state_dict() and load_state_dict(), torch.Generators; dicts and lists of
            values that can be pickled. All of them are restored in place.
        job: its name, the same across restarts.
        parity: nodes of each group that may be lost; None: FTMEM_PARITY, else 1.
        strict: on restore all names, shapes and dtypes must be equal to what is stored. With
            False what is not stored stays as it is, and what is stored besides is left out.
        replicated: whether plain parameters and their optimizer state are equal on all ranks, so
            that each stores a share only; None: those of DistributedDataParallel are. A DTensor
            says itself what it is a part of. Where the process group or the mesh is a part of
            torch.distributed's ranks, as in a pipeline's stage, only these share the tensor, and
            the job restarts on as many ranks alone; with True all ranks outside have it, too.
        on_error: "warn": a snapshot that fails warns, once for each text, and training goes on.
            "raise": it raises FtmemError.
        objects_bytes: memory for what is no tensor, if not what snapshot() finds fit. It grows
            by itself, in several ranks if torch.distributed is initialised.
        staging: bytes of each device's memory, see device_staging in ftmem.h.
        when_busy: "skip" or "wait", if the version before is still under way.
        log_every_s: seconds from one line of progress in the logger "ftmem" to the next.
        opts: further options of Session.

    Raises FtmemError (also for a second guard of the job in this process, and under torchrun)
    and, for an object of no such kind, TypeError.
    """

    def __init__(
        self,
        *objects: Any,
        job: str,
        parity: int | None = None,
        strict: bool = True,
        replicated: bool | None = None,
        on_error: str = "warn",
        objects_bytes: int | None = None,
        staging: int | None = None,
        when_busy: str | None = None,
        log_every_s: float = 60,
        **opts: Any,
    ) -> None:
        if on_error not in ("warn", "raise"):
            raise ValueError(f'on_error is "warn" or "raise", not {on_error!r}')
        if not objects:
            raise TypeError("Guard needs at least one object to protect")
        self._sources = sources_of(objects, replicated)
        self._strict, self._raises = strict, on_error == "raise"
        self._pid = os.getpid()
        self._dir = opts.get("dir")
        opts.setdefault("log", _report.forward)
        opts.setdefault("private_from", _hooks.weak(self._private_from))
        self._session = Session(
            job, parity=parity, device_staging=staging, when_busy=when_busy, **opts
        )
        self._registry = Registry(self._session)
        ranks = launch.world().ranks if opts.get("comm") is None else 0
        self._values = Values(self._sources, ranks, objects_bytes or 0)
        self._reporter = _report.Reporter(job, log_every_s)
        self._marks: dict[str, torch.Tensor] = {}
        self._added_ranks = False
        self._last: tuple[int, Result] | None = None
        self._pending = False
        self._fenced: set[tuple[int, int]] = set()  # devices and streams, since the snapshot
        self._steps = self._skipped_objects = 0
        self._snapshot_s = self._fence_s = 0.0
        self._handles = _hooks.install(self._sources, self._fence_before_write)

    # --- restart ---

    def restore(self) -> int:
        """Collective. Fills all objects with the newest state that can be recovered. Returns its
        step, or 0 if nothing is stored: then nothing was changed.

        FtmemError: ELAYOUT, the objects are not those that were stored; it names what differs,
        and nothing was changed. TooMuchLost and others as of ftmem_restore() in ftmem.h.
        """
        self.fence()
        version, capacity = self._session.stored(OBJECTS)
        if version is None:
            return 0
        if not capacity:
            raise mismatch(f"version {version} of job {self._session.job} holds no objects of a "
                           "Guard: it was stored by another program")
        layout = Layout(self._sources, overwritten=True)
        markers, only = self._markers(layout), None
        if self._strict:
            self._refuse_others(layout, markers)
        else:
            markers = {}
            only = self._stored_of(layout, next(iter(self._marks)))
            if only is not None:
                layout.keep(only)
        self._take(layout, capacity, markers, only)
        self._registry.seal(anyway=True)
        self._registry.synchronize()
        self._added_ranks = False
        try:
            version = self._session.restore()
        except FtmemError as cause:
            raise explained(cause) from cause
        if version is None:
            return 0
        self._registry.load_shadows()
        payload = self._values.region.load()
        unpack(payload, self._sources, self._strict, random_too=not self._added_ranks)
        return version

    def repair(self) -> int | None:
        """Collective. Verifies what is stored of the newest step and mends damaged memory from
        parity, as of Session.repair(): how many blocks were mended on all ranks."""
        self._enter()
        return self._session.repair()

    def forget(self) -> None:
        """Collective. Erases every stored version of the job."""
        self._enter()
        self._session.forget()

    def _refuse_others(self, layout: Layout, markers: dict[str, torch.Tensor]) -> None:
        """Before anything is sealed. Where ranks guard different tensors they cannot ask for
        them together: then ftmem_restore() refuses."""
        for name in markers:
            if self._stored(name) == 0:
                layout.undo()
                raise mismatch(differences(self._session, self._dir, layout))

    def _stored_of(self, layout: Layout, marker: str) -> set[str] | None:
        """The names of a layout that are stored; None, all of them, where ranks guard different
        tensors and so cannot ask for them one after the other: ftmem_restore() refuses then."""
        if self._stored(marker) is None:
            return None
        return {name for name in layout.names if self._stored(name) != 0}

    def _stored(self, name: str) -> int | None:
        """Bytes of a region, None if other ranks ask for others."""
        try:
            return self._session.stored(name)[1]
        except FtmemError as cause:
            if cause.code != _abi.EINVAL:
                raise
            return None

    def _private_from(self, name: str, rank: int, _: int, old_ranks: int) -> int:
        """With another number of ranks: what has one element, and objects, are taken to be alike
        on all ranks, random numbers apart."""
        if name in self._registry.private:
            raise mismatch(
                f"{name} is private to its rank, and the number of ranks has changed from "
                f"{old_ranks}. If it is equal on all ranks say so from the start: replicated=True"
            )
        self._added_ranks = rank >= old_ranks
        return rank % old_ranks

    # --- versions ---

    def snapshot(self, step: int) -> Result:
        """Captures all objects as of now, as version step. Ranks pass the same growing numbers.

        Takes microseconds; what has to be done goes on behind the training. OK: it is under way.
        BUSY: skipped, since the version before is not yet complete. DROPPED: given up; where it
        was this rank's fault a warning says why or, with on_error="raise", an exception. In a
        forked process: FtmemError.
        """
        began = time.perf_counter()
        self._enter()
        self._steps += 1
        self._last = (0, Result.DROPPED)
        result = Result.DROPPED
        try:
            result = self._snapshot(operator.index(step))
            self._last = (step, result)
        except Exception as failure:
            if self._raises:
                raise
            if not isinstance(failure, FtmemWarning):  # a filter made an error of it
                with suppress(Exception):
                    self._reporter.failed(failure)
        self._snapshot_s = time.perf_counter() - began
        with suppress(Exception):
            if self._reporter.due():
                self._reporter.progress(self._session.stats())
        return result

    def fence(self) -> None:
        """Before tensors are written again: what is queued from now on on the current streams
        waits until they have been captured; for host memory this call waits. Does nothing if
        these streams wait already, or if no snapshot was taken. FtmemError: they may not be
        written yet."""
        self._enter()
        if not self._pending:
            return
        began = time.perf_counter()
        streams = self._registry.streams()
        # Other streams may come later, so it stays pending with devices.
        missing = [s for s in streams if (s.device_index, s.cuda_stream) not in self._fenced]
        for stream in missing:
            self._session.fence(stream)
            self._fenced.add((stream.device_index, stream.cuda_stream))
        if not streams:
            self._session.fence(None)
            self._pending = False
        if missing or not streams:
            self._fence_s = time.perf_counter() - began

    def wait(self, timeout_s: float = 60) -> Result:
        """Waits until what the last snapshot() began is committed, OK, or DROPPED. Without one
        OK; BUSY if it was skipped. FtmemError ETIMEOUT. Ctrl-C interrupts it."""
        self._enter()
        if self._last is None:
            return Result.OK
        step, result = self._last
        return self._session.wait(step, timeout_s) if result == Result.OK else result

    def stats(self) -> dict[str, Any]:
        """Those of Session, and: steps, calls of snapshot(); skipped_objects, versions skipped
        since objects_bytes, reserved for what is no tensor, were too few; snapshot_host_s and
        fence_host_s, seconds that the last snapshot() and the last fence took here."""
        self._enter()
        return {
            **self._session.stats(),
            "steps": self._steps,
            "skipped_objects": self._skipped_objects,
            "objects_bytes": self._values.region.capacity if self._values.region else 0,
            "snapshot_host_s": self._snapshot_s,
            "fence_host_s": self._fence_s,
        }

    def _snapshot(self, step: int) -> Result:
        try:
            complaint = self._fill()
        except BaseException:
            self._skip(step)
            raise
        if complaint is not None:
            self._skip(step)
            if complaint:
                self._reporter.warn(complaint)
            return Result.DROPPED
        self._fenced.clear()
        self._pending = True
        result = self._session.snapshot(step, self._registry.joined_stream())
        if result == Result.DROPPED:
            self._reporter.warn(self._session.message())
        return result

    def _fill(self) -> str | None:
        """Brings all that is captured by value up to date. Returns None, or why there can be no
        version: "" if only ranks have not agreed yet to register anew."""
        values = self._values
        values.pack()
        current = self._registry.current()
        self._tell_late()
        capacity = values.turn(stale=not current)
        if capacity is not None:
            if not self._register(capacity):
                return ""
            values.pack()  # objects may tell their tensors from the rest otherwise now
        elif not current:
            return ""
        self.fence()
        complaint = values.store()
        if complaint:
            self._skipped_objects += 1
            return complaint
        self._registry.save_shadows()
        return None

    def _register(self, capacity: int) -> bool:
        """Registers anew what there is, on all ranks if they can ask each other. Returns False if
        another rank could not: then none seals, and they will agree on another time."""
        agreement, failure = self._values.agreement, None
        try:
            self.fence()
            layout = Layout(self._sources, overwritten=False)
            self._take(layout, capacity, self._markers(layout))
        except BaseException as caught:
            failure = caught
        failed = agreement.any(failure is not None)
        if failure is not None:
            raise failure
        if not failed:
            self._registry.seal(anyway=agreement.possible)
        return not failed

    def _take(
        self,
        layout: Layout,
        capacity: int,
        markers: dict[str, torch.Tensor],
        only: set[str] | None = None,
    ) -> None:
        """Registers what there is now, with a region of objects of that capacity."""
        region = self._values.sized(capacity)
        self._registry.take(layout, {OBJECTS: region.tensor, **markers}, only)
        self._values.region = region

    def _tell_late(self) -> None:
        names, versions = self._registry.late()
        if names and versions > 0:
            self._reporter.late(names, versions)

    def _markers(self, layout: Layout) -> dict[str, torch.Tensor]:
        """Regions whose names tell of all tensors and objects: others do not find them stored."""
        names = (f"ftmem.layout.{layout.tensors}", f"ftmem.kinds.{layout.objects}")
        self._marks = {
            name: self._marks.get(name, torch.ones(1, dtype=torch.uint8)) for name in names
        }
        return self._marks

    def _skip(self, step: int) -> None:
        """The other ranks drop the version, too."""
        try:
            self._session.skip(step)
        except FtmemError:
            pass  # nothing is sealed, or no version can be stored any more: nobody waits

    def _fence_before_write(self) -> None:
        """The fence of hooks, which raises nothing, and does nothing in forked processes."""
        if not self._pending or os.getpid() != self._pid:
            return
        if self._fenced and _capturing():
            return  # nothing is written before the graph is replayed
        try:
            self.fence()
        except FtmemError as failure:
            with suppress(Exception):
                self._reporter.failed(failure)
            self._settle()

    def _settle(self) -> None:
        """Where there can be no fence: waits until the version is complete or dropped."""
        try:
            self.wait()
            self._pending = False
        except FtmemError as failure:
            with suppress(Exception):
                self._reporter.failed(failure)

    # --- end ---

    def close(self) -> None:
        """Collective. Waits for versions under way; what is stored stays. Again, and in a forked
        process, it does nothing. Also at the end of a with block, when the guard is garbage,
        and when the interpreter exits."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._pending = False
        self._session.close()
        self._values.agreement.end()

    def __enter__(self) -> Guard:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _enter(self) -> None:
        if os.getpid() != self._pid:
            raise forked("Guard")


def _capturing() -> bool:
    """Whether what is queued goes into a CUDA graph."""
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()
