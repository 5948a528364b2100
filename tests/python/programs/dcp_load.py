# SPDX-License-Identifier: BSD-3-Clause
"""Loads version FOUND, with shards of dimension SHARDED_BY, and saves the next, of the same
number as one that was broken off. A rank alone has no group, and goes on with dcp_alone.py.

usage: dcp_load.py FOUND SHARDED_BY
"""

from __future__ import annotations

import sys

import dcp_alone
import torch
import torch.distributed.checkpoint as dcp
from dcp_state import State, claim, failures

import ftmem


def main() -> None:
    found, sharded_by = int(sys.argv[1]), int(sys.argv[2])
    here = ftmem.world()
    if here.ranks > 1:
        ftmem.init_process_group("gloo")
    reader = ftmem.dcp.Reader("run", parity=1)
    writer = ftmem.dcp.Writer("run")
    state = State(here.ranks, sharded_by)

    assert reader.version() == found, reader.version()
    for failure in failures(dcp.save, state.of(0), storage_writer=writer).values():
        assert f"holds version {found}" in str(failure), failure
    claim("what is stored is not overwritten before it was loaded")

    loaded = {**state.of(0), "not there": torch.zeros(3)}
    for failure in failures(dcp.load, loaded, storage_reader=reader).values():
        assert "not there" in str(failure) and not isinstance(failure, ftmem.FtmemError), failure
    claim("a key that is not stored is DCP's error")

    for failure in failures(dcp.load, state.of(0), storage_reader=reader, checkpoint_id=3).values():
        assert isinstance(failure, ftmem.NothingStored) and str(found) in str(failure), failure
    claim("only the newest version can be asked for")

    some = {key: value for key, value in state.of(0).items() if key in ("plain", "matrix")}
    dcp.load(some, storage_reader=reader)
    loaded = state.of(0)
    dcp.load(loaded, storage_reader=reader)
    assert torch.equal(some["plain"], loaded["plain"])
    state.check(loaded, found)
    claim("parts, then all of it, is loaded")

    dcp.save(state.of(found + 1), storage_writer=writer, checkpoint_id=found + 1)
    writer.close()
    claim("saves go on where the version found ends")
    if here.ranks == 1:
        dcp_alone.in_one_process()


if __name__ == "__main__":
    main()
