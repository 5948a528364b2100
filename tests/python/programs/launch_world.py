# SPDX-License-Identifier: BSD-3-Clause
"""Ranks from MPI, with mpi4py or without it: usage: launch_world.py absent|before|after."""

from __future__ import annotations

import os
import sys

import ftmem

WHEN = sys.argv[1]
NAMES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def main() -> None:
    if WHEN == "absent":
        sys.modules["mpi4py"] = None  # type: ignore[assignment]
    if WHEN == "before":
        from mpi4py import MPI
    here = ftmem.world()
    assert ftmem.world() is here
    assert (here.local_rank, here.local_ranks) == (here.rank, here.ranks)
    if WHEN == "after":
        from mpi4py import MPI  # noqa: F811

    os.environ["RANK"] = "kept"
    assert ftmem.set_environ() is here
    assert os.environ.pop("RANK") == "kept"
    for name in NAMES[1:]:
        del os.environ[name]
    ftmem.set_environ()
    assert [os.environ[name] for name in NAMES] == [
        str(value) for value in (here.rank, here.local_rank, here.ranks, here.local_ranks,
                                 here.host, here.port)]
    assert here.host == "127.0.0.1" and 0 < here.port < 65536

    comm = None
    if WHEN != "absent":
        assert (MPI.COMM_WORLD.rank, MPI.COMM_WORLD.size) == (here.rank, here.ranks)
        assert MPI.COMM_WORLD.bcast(here.port) == here.port
        comm = MPI.COMM_WORLD.Split(0, -here.rank)
    with ftmem.Session("world", comm=comm) as session:
        session.seal()
        assert session.snapshot(1) is ftmem.Result.OK
        assert session.wait(1) is ftmem.Result.OK
    if WHEN != "absent":
        assert MPI.COMM_WORLD.allreduce(1) == here.ranks
    print(f"rank {here.rank} of {here.ranks}", flush=True)


main()
