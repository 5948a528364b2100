# SPDX-License-Identifier: BSD-3-Clause
"""Guards of several ranks: different, growing, and on another number of ranks."""

from __future__ import annotations

import pytest
from conftest import Job

pytest.importorskip("torch")


def test_ranks_that_differ_or_leave_in_mid_snapshot_store_what_all_have(mpirun: Job) -> None:
    first = mpirun(2, "guard_ranks.py", "store")
    assert first.stdout.count("exits") == 2
    mpirun(3, "guard_ranks.py", "restore")
