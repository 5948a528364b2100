# SPDX-License-Identifier: BSD-3-Clause
"""The calls of ftmem.h, one by one. What they do exactly is said there."""

from __future__ import annotations

import ctypes
import enum
import time
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from . import _abi, _library
from ._arguments import encoded, invalid, members, number, stream_of, tensor_bytes
from ._handle import Callbacks, Handle, keep_forever
from .launch import check_launcher

if TYPE_CHECKING:
    import torch

# Of a wait. Signals are seen in between, so that Ctrl-C works.
SLICE_S = 0.1


class Result(enum.IntEnum):
    """What becomes of a version, where it is no error."""

    OK = _abi.OK
    BUSY = _abi.BUSY  # skipped: the spare slot is still in use
    FRESH = _abi.FRESH  # nothing is stored
    DROPPED = _abi.DROPPED  # given up on all ranks


class Session:
    """One rank's part in a protected job.

    Opening is collective: every rank calls it, and so it is with what is marked collective below.
    One call at a time, which a lock sees to; fence(), wait() and stats() may be called from any
    thread at any time. The GIL is released while a call waits. All methods raise FtmemError.

    Args:
        job: its name, the same across restarts: up to 63 characters of [A-Za-z0-9._-].
        library: path of libftmem.so, if not as FTMEM_LIBRARY says or as installed.
        opts: members of struct ftmem_opts by name, those that are None left out: node, rack,
            dir, smp_path, group_nodes, parity, timeout_ms, expire_s, block_bytes, window,
            copy_threads, log_level ("error", "warn", "info", "debug"), max_bandwidth,
            private_rule ("rank", "drop"), compare_every, progress_cpus, device_staging,
            when_busy ("skip", "wait"), scrub_mib_s (or "off"); comm, a communicator of mpi4py
            or the address of an MPI_Comm; log, a function (level, line) that any thread may
            call; private_from, a function (name, rank, ranks, old_ranks) that returns the old
            rank, or None.

    It is closed by close(), at the end of a with block, when it is garbage, or when the
    interpreter exits, before MPI ends. What is garbage a thread of its own closes.
    """

    def __init__(self, job: str, *, library: str | None = None, **opts: Any) -> None:
        check_launcher("ftmem_open")
        lib = _library.load(library)
        lib.enter("ftmem_open")
        callbacks = Callbacks(opts.pop("log", None), opts.pop("private_from", None))
        own = members({"job": job, **opts})
        self._c = lib.c
        self._handle = Handle(lib, job, callbacks)
        self._finalizer = weakref.finalize(self, self._handle.abandon)
        self._finalizer.atexit = False
        self._handle.open(_abi.Opts(**own, **callbacks.members))

    @property
    def job(self) -> str:
        return self._handle.job

    @property
    def library(self) -> _library.Library:
        return self._handle.library

    # --- regions ---

    def add(
        self,
        name: str,
        addr: int,
        size: int,
        *,
        elem_bytes: int = 0,
        shape: Sequence[int] = (),
        start: Sequence[int] = (),
        extent: Sequence[int] = (),
        keep: object = None,
    ) -> None:
        """Registers size bytes of host or device memory at addr; it counts from the next seal().

        Without a shape they are private to the rank. With it they are the box of the tensor
        called name that begins at start and extends over extent, all in elements of elem_bytes
        bytes; one entry for each dimension, up to 8. keep is held until the region is removed or
        the session closed.
        """
        if not len(shape) == len(start) == len(extent) <= _abi.MAX_DIMS:
            raise invalid("ftmem_region_add", f"region {name}: shape, start and extent have "
                           f"{len(shape)}, {len(start)} and {len(extent)} dimensions: they must "
                           f"have equally many, up to {_abi.MAX_DIMS}")
        region = _abi.Region(
            name=encoded("name", name),
            addr=number("addr", addr, 64),
            bytes=number("size", size, 64),
            elem_bytes=number("elem_bytes", elem_bytes, 32),
            ndim=len(shape),
        )
        for member, values in (("shape", shape), ("start", start), ("extent", extent)):
            array = getattr(region, member)
            for i, value in enumerate(values):
                array[i] = number(f"region {name}: {member}", value, 64)
        with self._handle.alone("ftmem_region_add") as pointer:
            kept = self._handle.kept.setdefault(name, [])
            kept.append(keep)
            result = self._c.ftmem_region_add(pointer, region)
            if result < 0:
                kept.pop()
            self._check("ftmem_region_add", result)

    def add_tensor(self, name: str, tensor: torch.Tensor, box: Any = None) -> None:
        """Registers a tensor's memory, and holds it until it is removed.

        Without a box it is private to the rank, and may be any strided tensor without holes.
        box has shape, start and extent, tuples in elements: the tensor, contiguous and of that
        extent, is this part of the tensor called name. As for ftmem_region, ranks that register
        the same elements must have equal ones.
        """
        size = tensor_bytes(name, tensor, box)
        if box is None:
            self.add(name, tensor.data_ptr(), size, keep=tensor)
            return
        self.add(
            name,
            tensor.data_ptr(),
            size,
            elem_bytes=tensor.element_size(),
            shape=box.shape,
            start=box.start,
            extent=box.extent,
            keep=tensor,
        )

    def remove(self, name: str) -> None:
        """Takes back what was registered under name, and waits until no snapshot reads it."""
        key = encoded("name", name)
        with self._handle.alone("ftmem_region_remove") as pointer:
            self._check("ftmem_region_remove", self._c.ftmem_region_remove(pointer, key))
            self._handle.kept.pop(name, None)

    def seal(self) -> None:
        """Collective. Freezes the layout and takes all memory it needs. Again after regions were
        added or removed; what is stored stays until the next version is committed."""
        with self._handle.alone("ftmem_seal") as pointer:
            self._check("ftmem_seal", self._c.ftmem_seal(pointer))

    # --- restart ---

    def stored(self, region: str | None = None) -> tuple[int | None, int]:
        """Collective; needs no seal and changes nothing. What restore() would find.

        Returns the newest version that can be restored, or None; and the bytes of the region of
        that name in it, the largest that any rank has whose memory is at hand, 0 if there is
        none or no name is given. All ranks get the same.
        """
        version, size = ctypes.c_uint64(), ctypes.c_uint64()
        name = None if region is None else encoded("region", region)
        with self._handle.alone("ftmem_stored") as pointer:
            result = self._c.ftmem_stored(pointer, name, version, size)
            self._check("ftmem_stored", result)
        return (None, 0) if result == Result.FRESH else (version.value, size.value)

    def restore(self) -> int | None:
        """Collective, after seal(). Fills the regions with the newest version that can be
        recovered and returns it, or None if nothing is stored. Device memory is filled when it
        returns; what uses it must be over before."""
        version = ctypes.c_uint64()
        handle = self._handle
        with handle.alone("ftmem_restore") as pointer:
            result = self._c.ftmem_restore(pointer, version)
            if result in (_abi.ETIMEOUT, _abi.ENET):
                # Late messages may still be written there.
                keep_forever({name: list(kept) for name, kept in handle.kept.items()})
            self._check("ftmem_restore", result)
        return None if result == Result.FRESH else version.value

    def repair(self) -> int | None:
        """Collective, after seal(). Verifies what all ranks hold of the newest version and mends
        it from parity, in place; regions stay as they are. Returns how many blocks were mended on
        all ranks, 0: nothing was wrong; None if nothing is stored. FtmemError: ECORRUPT, more is
        damaged than parity covers."""
        blocks = ctypes.c_uint64()
        with self._handle.alone("ftmem_repair") as pointer:
            result = self._c.ftmem_repair(pointer, blocks)
            self._check("ftmem_repair", result)
        return None if result == Result.FRESH else blocks.value

    def forget(self) -> None:
        """Collective. Erases every stored version of the job."""
        with self._handle.alone("ftmem_forget") as pointer:
            self._check("ftmem_forget", self._c.ftmem_forget(pointer))

    # --- versions ---

    def snapshot(self, version: int, stream: Any = None) -> Result:
        """Captures the regions, in microseconds: those of the host as of now, those of devices
        as of the work queued on stream, a torch.cuda.Stream or its cuda_stream; None is the
        legacy default stream. They must not be written before fence().

        Ranks pass the same growing versions, below 2^56. OK: it is under way, and wait() tells
        what becomes of it. BUSY, DROPPED: it will not be stored; training goes on.
        """
        handle = self._handle
        checked = number("version", version, 64)
        with handle.alone("ftmem_snapshot") as pointer:
            result = self._c.ftmem_snapshot(pointer, checked, stream_of(stream))
            self._check("ftmem_snapshot", result)
            handle.newest = version
        return Result(result)

    def skip(self, version: int) -> Result:
        """Instead of snapshot(), where this rank cannot capture its state: the version is
        dropped on all ranks."""
        handle = self._handle
        checked = number("version", version, 64)
        with handle.alone("ftmem_skip") as pointer:
            result = self._check("ftmem_skip", self._c.ftmem_skip(pointer, checked))
            handle.newest = version
        return Result(result)

    def fence(self, stream: Any = None) -> None:
        """Before the regions are written again. What is queued on stream from now on waits until
        they have been read; for host memory this call waits. Any thread."""
        with self._handle.beside("ftmem_fence") as pointer:
            self._check("ftmem_fence", self._c.ftmem_fence(pointer, stream_of(stream)))

    def wait(self, version: int, timeout_s: float = 60) -> Result:
        """Waits until a version is committed, OK, or given up, DROPPED (message() says why).
        FtmemError ETIMEOUT after timeout_s seconds. Any thread; Ctrl-C interrupts it."""
        checked = number("version", version, 64)
        end = time.monotonic() + timeout_s
        while True:
            left_s = end - time.monotonic()
            slice_ms = round(1000 * max(0, min(left_s, SLICE_S)))
            with self._handle.beside("ftmem_wait") as pointer:
                result = self._c.ftmem_wait(pointer, checked, slice_ms)
                if result != _abi.ETIMEOUT or left_s <= SLICE_S:
                    return Result(self._check("ftmem_wait", result))

    def stats(self) -> dict[str, Any]:
        """The members of struct ftmem_stats by name, of this rank since the session was opened.
        Seconds, bytes, counts of versions. Any thread."""
        out = _abi.Stats()
        with self._handle.beside("ftmem_stats") as pointer:
            self._check("ftmem_stats", self._c.ftmem_stats(pointer, out))
        return out.values()

    def message(self) -> str:
        """The calling thread's last detailed message: after BUSY or DROPPED it says why."""
        return self._handle.library.message()

    # --- end ---

    def close(self) -> None:
        """Collective. Waits for versions under way; what is stored survives. Tensors may be
        freed afterwards. Again: does nothing. EINVAL in log and private_from. Ctrl-C while it
        waits for other threads leaves the session open, later it is closed all the same."""
        self._handle.close()
        self._finalizer.detach()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check(self, call: str, result: int) -> int:
        return self._handle.library.check(call, result)
