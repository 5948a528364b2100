# SPDX-License-Identifier: BSD-3-Clause
"""Input that a session must refuse, in one process that no launcher started."""

from __future__ import annotations

import faulthandler
import gc
import os
import pickle
import threading
from dataclasses import dataclass

import ftmem
import torch
from ftmem import _handle, _library, launch
from session_util import LIMIT_S, Memory, refused


@dataclass
class Box:
    shape: tuple[int, ...]
    start: tuple[int, ...]
    extent: tuple[int, ...]


def options() -> None:
    refused("EINVAL", "job", ftmem.Session, "no such name")
    refused("EINVAL", "job", ftmem.Session, "")
    refused("EINVAL", "zero byte", ftmem.Session, "a\0b")
    refused("EINVAL", "parity", ftmem.Session, "a", parity=99)
    refused("EINVAL", "not between", ftmem.Session, "a", parity=-1)
    refused("EINVAL", "not between", ftmem.Session, "a", window=1 << 32)
    refused("EINVAL", "skip, wait", ftmem.Session, "a", when_busy="now")
    error = refused("EINVAL", "/nowhere/libftmem.so", ftmem.Session, "a",
                    library="/nowhere/libftmem.so")
    assert error.code == -1 and error.call == "loading libftmem"
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is ftmem.FtmemError and str(again) == str(error)
    for wrong in ({"paritty": 1}, {"parity": "two"}, {"parity": 1.5}, {"size": 3}):
        try:
            ftmem.Session("a", **wrong)
        except TypeError as caught:
            assert next(iter(wrong)) in str(caught)
        else:
            raise AssertionError(f"not refused: {wrong}")


def regions(session: ftmem.Session) -> None:
    memory = Memory(4096)
    add = session.add
    refused("EINVAL", "name", add, "", memory.addr, 10)
    refused("EINVAL", "longer than 255", add, "n" * 256, memory.addr, 10)
    refused("EINVAL", "not between", add, "r", memory.addr, -1)
    refused("EINVAL", "bytes", add, "r", memory.addr, 0)
    box = {"elem_bytes": 4, "shape": (8, 4), "start": (0, 0), "extent": (2, 4)}
    refused("EINVAL", "r", add, "r", memory.addr, 31, **box)
    refused("EINVAL", "r", add, "r", memory.addr, 32, **{**box, "start": (7, 0)})
    refused("EINVAL", "not between", add, "r", memory.addr, 32, **{**box, "start": (-1, 0)})
    refused("EINVAL", "2, 1 and 2 dimensions", add, "r", memory.addr, 32, **{**box, "start": (0,)})
    refused("EINVAL", "up to 8", add, "r", memory.addr, 4, elem_bytes=4, shape=[1] * 9,
            start=[0] * 9, extent=[1] * 9)


def tensors(session: ftmem.Session) -> None:
    add, rows = session.add_tensor, torch.zeros(6, 4)
    refused("EINVAL", "layer.w is on the meta device", add, "layer.w", rows.to("meta"))
    refused("EINVAL", "layer.w has layout torch.sparse_coo", add, "layer.w", rows.to_sparse())
    refused("EINVAL", "holes or overlaps", add, "layer.w", rows[:, :2])
    refused("EINVAL", "holes or overlaps", add, "layer.w", torch.zeros(1).expand(6))
    refused("EINVAL", "not contiguous", add, "layer.w", rows.t(), Box((4, 6), (0, 0), (4, 6)))
    refused("EINVAL", "shape (6, 4), its box extent (4, 6)", add, "layer.w", rows,
            Box((4, 6), (0, 0), (4, 6)))
    add("transposed", torch.zeros(3, 4, 5).permute(2, 0, 1))
    add("channels last", torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last))


def order(session: ftmem.Session) -> None:
    refused("EINVAL", "seal", session.snapshot, 1)
    refused("EINVAL", "seal", session.restore)
    session.seal()
    session.forget()
    refused("EINVAL", "not between", session.snapshot, -1)
    refused("EINVAL", "version", session.snapshot, 1 << 56)
    refused("EINVAL", "version 3", session.wait, 3)
    refused("EINVAL", "already open in this process", ftmem.Session, "refuses")


def fork(session: ftmem.Session) -> None:
    """A child may not use the session, and its end leaves the parent's alone; not even if
    another thread of the parent held all locks."""
    locked, over = threading.Event(), threading.Event()

    def hold() -> None:
        with session._handle.lock, _handle._open_lock, _library._lock, launch._lock:
            locked.set()
            over.wait(LIMIT_S)

    holder = threading.Thread(target=hold)
    holder.start()
    assert locked.wait(LIMIT_S)
    child = os.fork()
    if child == 0:
        faulthandler.dump_traceback_later(20, exit=True)
        for call in (session.seal, session.fence, session.stats, lambda: session.snapshot(1),
                     lambda: ftmem.Session("of-a-child"), ftmem.world):
            refused("EINVAL", "was forked from", call)
        session.close()
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    over.set()
    holder.join(LIMIT_S)
    assert status == 0
    assert session.snapshot(1) is ftmem.Result.OK
    session.fence()
    assert session.wait(1, float("inf")) is ftmem.Result.OK


def threads(session: ftmem.Session) -> None:
    """Several may wait at a time."""
    session.snapshot(2)
    session.fence()
    results: list[ftmem.Result] = []
    waiters = [threading.Thread(target=lambda: results.append(session.wait(2))) for _ in range(4)]
    for waiter in waiters:
        waiter.start()
    for waiter in waiters:
        waiter.join(60)
    assert results == [ftmem.Result.OK] * 4


def closed(session: ftmem.Session) -> None:
    session.close()
    for call in (session.seal, session.fence, session.stats, session.restore, session.forget,
                 lambda: session.snapshot(5), lambda: session.wait(2),
                 lambda: session.add("r", 1, 1)):
        refused("EINVAL", "is closed", call)


def main() -> None:
    options()
    session = ftmem.Session("refuses")
    regions(session)
    tensors(session)
    order(session)
    fork(session)
    threads(session)
    closed(session)
    # One that is garbage is closed, so that its job can be opened again.
    session = ftmem.Session("refuses")
    del session
    gc.collect()
    ftmem.Session("refuses").close()
    print("done", flush=True)


if __name__ == "__main__":
    main()
