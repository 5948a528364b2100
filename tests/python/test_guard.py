# SPDX-License-Identifier: BSD-3-Clause
"""Guard in one process: what it captures, and what it refuses."""

from __future__ import annotations

import pytest
from conftest import Job

pytest.importorskip("torch")


def test_what_is_not_stored_is_refused_and_left_alone(mpirun: Job) -> None:
    mpirun(0, "guard_refuses.py")


def test_the_state_as_of_the_snapshot_is_kept(mpirun: Job) -> None:
    mpirun(0, "guard_keeps.py")
