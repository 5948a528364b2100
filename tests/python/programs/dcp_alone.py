# SPDX-License-Identifier: BSD-3-Clause
"""What one process is enough for: without torch.distributed, and then what is refused."""

from __future__ import annotations

import threading
import warnings
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from dcp_state import State, claim, failures
from torch.distributed.checkpoint.state_dict_saver import AsyncCheckpointerType

import ftmem

# DCP says that it is not distributed.
warnings.simplefilter("ignore", UserWarning)


def in_one_process() -> None:
    state = State(1)
    writer = ftmem.dcp.Writer("alone")
    reader = ftmem.dcp.Reader("alone")
    for version in 1, 2:
        dcp.save(state.of(version), storage_writer=ftmem.dcp.Writer("alone"))
    sparse = torch.eye(4).to_sparse()
    dcp.save({**state.of(3), "sparse": sparse}, storage_writer=writer)
    loaded = {**state.of(0), "sparse": sparse * 0}
    dcp.load(loaded, storage_reader=reader)
    assert torch.equal(loaded.pop("sparse").to_dense(), torch.eye(4))
    state.check(loaded, 3)
    claim("one process needs no group")

    go = threading.Event()
    take = writer._store._take

    def take_late(*args: Any) -> None:
        assert go.wait(60)
        take(*args)

    writer._store._take = take_late
    future = dcp.async_save(state.of(4), storage_writer=writer)
    while writer._store._pending is None:
        assert not future.done(), future.result()
    for call in (
        lambda: dcp.save(state.of(5), storage_writer=writer),
        lambda: dcp.load(state.of(0), storage_reader=reader),
    ):
        for failure in failures(call).values():
            assert "under way" in str(failure), failure
    go.set()
    future.result()
    assert reader.version() == 4
    claim("one save at a time")

    writer.forget()
    assert reader.version() is None
    dcp.save(state.of(1), storage_writer=writer)
    assert reader.version() == 1
    claim("after forget() versions begin anew")

    ftmem.init_process_group("gloo")
    future = dcp.async_save(state.of(6), storage_writer=writer,
                            async_checkpointer_type=AsyncCheckpointerType.PROCESS)
    refusal = future.exception()
    assert isinstance(refusal, ftmem.FtmemError) and "THREAD" in str(refusal), repr(refusal)
    dcp.async_save(state.of(7), storage_writer=writer).result()
    claim("async_save in a process is refused")
    writer.close()
