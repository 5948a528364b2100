# SPDX-License-Identifier: BSD-3-Clause
"""A training in which all that Guard takes is guarded goes on bit for bit."""

from __future__ import annotations

import re

import pytest
from conftest import Job

pytest.importorskip("torch")

KILL_AT = 5


def started_from(output: str) -> set[int]:
    # Lines of ranks may meet.
    return {int(step) for step in re.findall(r"starts from (\d+)", output)}


def test_killed_ranks_of_data_parallel_training_go_on_bit_for_bit(mpirun: Job) -> None:
    first = mpirun(2, "guard_train.py", KILL_AT, nodes=2, status=None)
    assert first.returncode != 0 and started_from(first.stdout) == {0}
    second = mpirun(2, "guard_train.py", 0, nodes=2)
    # They were killed while the version was under way, or after it was committed.
    assert started_from(second.stdout) in ({KILL_AT - 1}, {KILL_AT})
    assert second.stdout.count("equal to the undisturbed training") == 2
