# SPDX-License-Identifier: BSD-3-Clause
"""Guards of several ranks.

usage: guard_ranks.py store|restore    restore: with another number of ranks
"""

from __future__ import annotations

import signal
import sys
import warnings
from typing import Any

import ftmem
import torch
from ftmem._agree import EVERY, LATER
from guard_util import Loop, Net, taken
from session_util import hear, refused, tell
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

EXPECTED = 11.0


def _guard(*objects: Any, job: str, **options: Any) -> ftmem.Guard:
    return ftmem.Guard(*objects, job=job, **{"on_error": "raise", "when_busy": "wait", **options})


def _last_warning(guard: ftmem.Guard, step: int) -> str:
    """Of a snapshot that is dropped."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert guard.snapshot(step) == ftmem.Result.DROPPED
    return str(caught[-1].message) if caught else ""


def store(rank: int) -> None:
    """Before ranks can ask each other through torch.distributed."""
    values: list[int] = []
    with _guard(values, job="alone", on_error="warn") as guard:
        taken(guard, 1)
        values.extend(range(100_000))
        assert "objects_bytes=1048576" in _last_warning(guard, 2)
        assert guard.stats()["skipped_objects"] == 1
    ftmem.init_process_group("gloo")
    values_grow_if_one_rank_needs_more(rank)
    a_rank_that_fails_drops_the_version_of_all(rank)
    a_rank_that_cannot_register_keeps_no_other_waiting(rank)
    ranks_register_anew_together(rank)
    empty_shards_are_restored_without_strict(rank)
    ranks_may_guard_different_tensors(rank)
    ctrl_c_ends_a_wait(rank)
    _leave_behind(rank)


def values_grow_if_one_rank_needs_more(rank: int) -> None:
    values: list[int] = []
    with _guard(values, job="grows", on_error="warn") as guard:
        taken(guard, 1)
        values.extend(range(100_000 if rank == 1 else 3))
        if rank == 1:
            assert "until all ranks have more" in _last_warning(guard, 2)
        else:
            guard.snapshot(2)
        for step in range(3, EVERY + LATER + 1):
            guard.snapshot(step)
        assert guard.wait() == ftmem.Result.OK
        stats, expected = guard.stats(), list(values)
        assert stats["newest"] == EVERY + LATER and stats["committed"] == 2
        assert stats["skipped_objects"] == (EVERY + LATER - 2 if rank == 1 else 0)
        values.clear()
        assert guard.restore() == EVERY + LATER and values == expected
    restarted: list[int] = []
    with _guard(restarted, job="grows", on_error="warn") as guard, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first, before = guard.restore(), guard.stats()["objects_bytes"]
        restarted.extend(range(300_000 if rank == 0 else 0))
        for step in range(first + 1, first + EVERY + LATER + 1):
            guard.snapshot(step)
        assert guard.wait() == ftmem.Result.OK
        assert guard.stats()["objects_bytes"] > before


def a_rank_that_cannot_register_keeps_no_other_waiting(rank: int) -> None:
    made = ftmem.guard.Layout

    def failing(*args: Any, **options: Any) -> Any:
        ftmem.guard.Layout = made
        raise MemoryError("not now")

    with _guard(Net(), job="registers", on_error="warn") as guard:
        if rank == 1:
            ftmem.guard.Layout = failing
            assert "not now" in _last_warning(guard, 1)
        else:
            assert guard.snapshot(1) == ftmem.Result.DROPPED
        assert guard.stats()["held_bytes"] == 0
        for step in range(2, EVERY + LATER):
            assert guard.snapshot(step) == ftmem.Result.DROPPED
        taken(guard, EVERY + LATER)


def ranks_register_anew_together(rank: int) -> None:
    """Though it is one rank alone that must."""
    net = Net()
    with _guard(net, job="together") as guard:
        taken(guard, 1)
        if rank == 1:
            net.norm.running_mean = torch.ones(9)
        for step in range(2, EVERY + LATER):
            result = guard.snapshot(step)
            assert (result == ftmem.Result.DROPPED) == (rank == 1)
        taken(guard, EVERY + LATER)
        assert guard.stats()["committed"] == 2
        if rank == 1:
            net.norm.running_mean.zero_()
        assert guard.restore() == EVERY + LATER
        assert len(net.norm.running_mean) == (9 if rank == 1 else 4)
        assert rank == 0 or bool((net.norm.running_mean == 1).all())


def empty_shards_are_restored_without_strict(rank: int) -> None:
    mesh = init_device_mesh("cpu", (2,))
    full = [torch.ones(1, 3), torch.arange(12.0).reshape(4, 3)]
    shards = [distribute_tensor(tensor, mesh, [Shard(0)]) for tensor in full]
    model = nn.ParameterList(map(nn.Parameter, shards))
    with _guard(model, job="empty") as guard:
        taken(guard, 1)
    with _guard(model, job="empty", strict=False) as guard:
        for shard in model:
            shard.to_local().data.fill_(7.0)
        assert guard.restore() == 1
        for shard, tensor in zip(model, full):
            assert torch.equal(shard.full_tensor(), tensor)


def a_rank_that_fails_drops_the_version_of_all(rank: int) -> None:
    values: dict[str, Any] = {}
    with _guard(values, job="fails", on_error="warn") as guard:
        for step in range(1, 5):
            values["fails"] = (lambda: None) if rank == 1 and step % 2 else None
            if rank == 1 and step == 1:
                assert "value holds what cannot be pickled" in _last_warning(guard, step)
            else:
                guard.snapshot(step)
            assert guard.wait() == (ftmem.Result.DROPPED if step % 2 else ftmem.Result.OK)
        assert guard.stats()["committed"] == 2


def ranks_may_guard_different_tensors(rank: int) -> None:
    loop = Loop(nn.Sequential(*(nn.Linear(3, 3) for _ in range(1 + rank))))
    loop.step()
    with _guard(loop.model, loop.optimizer, job="parts") as guard:
        taken(guard, 1)
        state = loop.state()
        loop.step()
    with _guard(loop.model, loop.optimizer, job="parts") as guard:
        assert guard.restore() == 1 and loop.state() == state
        loop.step()
    with _guard(loop.model, loop.optimizer, job="parts", strict=False) as guard:
        assert guard.restore() == 1 and loop.state() == state
    other = Net() if rank == 1 else loop.model
    with _guard(other, loop.optimizer, job="parts") as guard:
        refused("ELAYOUT", "the objects that a rank guards are not", guard.restore)


def ctrl_c_ends_a_wait(rank: int) -> None:
    """The other rank takes its snapshot only when the wait was interrupted."""
    with _guard({}, job="waits") as guard:
        taken(guard, 1)
        if rank == 0:
            guard.snapshot(2)
            signal.signal(signal.SIGALRM, signal.default_int_handler)
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            try:
                guard.wait()
            except KeyboardInterrupt:
                tell("interrupted")
            else:
                raise AssertionError("not interrupted")
        else:
            hear("interrupted")
            guard.snapshot(2)
        assert guard.wait() == ftmem.Result.OK


def _leave_behind(rank: int) -> None:
    """For other numbers of ranks, and guards in the middle of a snapshot when Python exits."""
    torch.manual_seed(5)
    loop = Loop()
    loop.step(2)
    torch.manual_seed(rank)
    with _guard(loop.model, loop.optimizer, {"rank": rank}, job="equal", replicated=True) as guard:
        taken(guard, 1)
    with _guard(loop.model, loop.optimizer, job="own") as guard:
        taken(guard, 1)
    global left
    big = nn.Parameter(torch.full((1 << 23,), EXPECTED))
    left = _guard(nn.ParameterList([big]), job="left", replicated=True)
    taken(left, 1)
    left.snapshot(2)
    print("exits", flush=True)


def restore(rank: int) -> None:
    loop, values = Loop(), {}
    torch.manual_seed(5)
    expected = Loop()
    expected.step(2)
    torch.manual_seed(99)
    with _guard(loop.model, loop.optimizer, values, job="equal", replicated=True) as guard:
        assert guard.restore() == 1
        assert values == {"rank": rank % 2}
        assert torch.equal(loop.model.first.weight, expected.model.first.weight)
        drawn = torch.rand(3)
        seed = rank if rank < 2 else 99  # a rank that there was not keeps its random numbers
        assert torch.equal(drawn, torch.rand(3, generator=torch.Generator().manual_seed(seed)))
    with _guard(loop.model, loop.optimizer, job="own") as guard:
        refused("ELAYOUT", "private to its rank", guard.restore)
    big = nn.Parameter(torch.zeros(1 << 23))
    with _guard(nn.ParameterList([big]), job="left", replicated=True) as guard:
        assert guard.restore() in (1, 2) and bool((big == EXPECTED).all())


if __name__ == "__main__":
    globals()[sys.argv[1]](ftmem.world().rank)
