# SPDX-License-Identifier: BSD-3-Clause
"""Checkpoints of torch.distributed.checkpoint in the nodes' memory."""

from __future__ import annotations

from typing import Callable, Iterator

import pytest
from conftest import Job

RANKS = 2


@pytest.fixture(scope="module")
def story() -> Iterator[Callable[[str], tuple[str, int]]]:
    """What one job goes through, start after start, each as soon as it is asked for: its output
    and number of ranks.

    first: saves on two nodes, and crashes. again: without the node of rank 0, which held the
    description. fewer: one rank, which needs no group.
    """
    job = Job()
    done: dict[str, tuple[str, int]] = {}

    def start(name: str) -> tuple[str, int]:
        if name not in done:
            done[name] = starts[name]()
        return done[name]

    def first() -> tuple[str, int]:
        return job(RANKS, "dcp_save.py", nodes=["a", "b"], status=None).stdout, RANKS

    def again() -> tuple[str, int]:
        start("first")
        job.lose_node("a")
        return job(RANKS, "dcp_load.py", 14, 0, nodes=["c", "b"], status=None).stdout, RANKS

    def fewer() -> tuple[str, int]:
        start("again")
        return job(1, "dcp_load.py", 15, 1, nodes=["b"], status=None).stdout, 1

    starts = {"first": first, "again": again, "fewer": fewer}
    yield start
    job.end()


@pytest.mark.parametrize("claim", [
    "where nothing is stored NothingStored is raised",
    "save returns when the version is committed",
    "a version that does not grow is refused",
    "after a save that failed the version before is loaded",
    "a state that grows finds room",
    "planners that keep their plans are served",
    "async_save stores what there was when it returned",
    "all before the crash",
])
def test_while_the_job_runs(story: Callable[[str], tuple[str, int]], claim: str) -> None:
    output, ranks = story("first")
    assert output.count(f"holds: {claim}") == ranks, output


@pytest.mark.parametrize("start", ["again", "fewer"])
@pytest.mark.parametrize("claim", [
    "what is stored is not overwritten before it was loaded",
    "a key that is not stored is DCP's error",
    "only the newest version can be asked for",
    "parts, then all of it, is loaded",
    "saves go on where the version found ends",
])
def test_after_a_restart(
    story: Callable[[str], tuple[str, int]], start: str, claim: str
) -> None:
    output, ranks = story(start)
    assert output.count(f"holds: {claim}") == ranks, output


def test_a_lost_node_is_rebuilt_before_it_is_loaded(
    story: Callable[[str], tuple[str, int]]
) -> None:
    output, _ = story("again")
    assert "rebuilt" in output, output


@pytest.mark.parametrize("claim", [
    "one process needs no group",
    "one save at a time",
    "after forget() versions begin anew",
    "async_save in a process is refused",
])
def test_a_process_alone(story: Callable[[str], tuple[str, int]], claim: str) -> None:
    output, _ = story("fewer")
    assert f"holds: {claim}" in output, output
