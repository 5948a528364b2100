# SPDX-License-Identifier: BSD-3-Clause
"""Checkpoints of all kinds, then a crash between the commits of description and data."""

from __future__ import annotations

import os
import signal
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from dcp_state import State, claim, failures
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner

import ftmem


class Broken(DefaultSavePlanner):
    """Fails on one rank, when data is copied."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.calls, self.rank = 0, rank

    def resolve_data(self, write_item: Any) -> Any:
        self.calls += write_item.tensor_data is not None
        tensors = sum(item.tensor_data is not None for item in self.plan.items)
        if self.calls > tensors and here.rank == self.rank:
            raise OSError("no device")
        return super().resolve_data(write_item)


class Unfinished(DefaultSavePlanner):
    """Its description cannot be pickled."""

    def create_global_plan(self, all_plans: Any) -> Any:
        plans, metadata = super().create_global_plan(all_plans)
        self.metadata = None
        metadata.planner_data["matrix"] = lambda: None
        return plans, metadata


here = ftmem.init_process_group("gloo")
writer = ftmem.dcp.Writer("run", parity=1)
reader = ftmem.dcp.Reader(writer)
state = State(here.ranks)


def saved(version: int, **kwargs: Any) -> None:
    dcp.save(state.of(version), storage_writer=writer, **kwargs)
    # Rank 0 has seen the commit; the others hear of it a moment later.
    assert here.rank or writer.stats()["newest"] == version, writer.stats()


assert reader.version() is None
for failure in failures(dcp.load, state.of(0), storage_reader=reader).values():
    assert isinstance(failure, ftmem.NothingStored), repr(failure)
claim("where nothing is stored NothingStored is raised")

saved(1)
saved(4, checkpoint_id=4)
saved(5, checkpoint_id="5")
saved(6)
claim("save returns when the version is committed")

for wrong in (6, "2"):
    for failure in failures(dcp.save, state.of(0), storage_writer=writer,
                            checkpoint_id=wrong).values():
        assert "above 6" in str(failure), failure
try:
    dcp.save(state.of(0), storage_writer=writer, checkpoint_id="/tmp/run")
    raise AssertionError("a path is no version")
except ftmem.FtmemError as refusal:
    assert "must be an integer" in str(refusal)
claim("a version that does not grow is refused")

for planner in Broken(rank=1), Broken(rank=0), Unfinished():
    found = failures(dcp.save, state.of(0), storage_writer=writer, planner=planner)
    assert any("no device" in str(f) or "pickle" in str(f) for f in found.values()), found
assert reader.version() == 6
loaded = state.of(0)
dcp.load(loaded, storage_reader=reader)
state.check(loaded, 6)
claim("after a save that failed the version before is loaded")

grown = state.of(10, extra=300_000)
dcp.save(grown, storage_writer=writer, checkpoint_id=10)
loaded = state.of(0, extra=300_000)
dcp.load(loaded, storage_reader=reader, checkpoint_id=10)
state.check(loaded, 10, extra=300_000)
many = {f"key{i}": torch.tensor([i]) for i in range(600)}
dcp.save(many, storage_writer=writer)
wanted = {f"key{i}": torch.tensor([-1]) for i in range(0, 600, 7)}
dcp.load(wanted, storage_reader=reader)
assert all(int(value) == int(key[3:]) for key, value in wanted.items())
claim("a state that grows finds room")

for version in 12, 13:
    saved(version, planner=DefaultSavePlanner(enable_plan_caching=True))
loaded = state.of(0)
dcp.load(loaded, storage_reader=reader)
state.check(loaded, 13)
claim("planners that keep their plans are served")

trained = state.of(14)
future = dcp.async_save(trained, storage_writer=writer)
trained["plain"].fill_(-1.0)
trained["half"].fill_(-1.0)
trained["values"]["step"] = -1
future.result()
assert here.rank or writer.stats()["newest"] == 14
loaded = state.of(0)
dcp.load(loaded, storage_reader=reader)
state.check(loaded, 14)
claim("async_save stores what there was when it returned")

take = writer._store._take


def die_before_the_data(pending: Any, session: ftmem.Session, timeout_s: float) -> None:
    if not session.job.endswith(".meta"):
        os.kill(os.getpid(), signal.SIGKILL)
    take(pending, session, timeout_s)


writer._store._take = die_before_the_data
claim("all before the crash")
dcp.save(state.of(15), storage_writer=writer)
