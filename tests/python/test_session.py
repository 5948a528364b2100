# SPDX-License-Identifier: BSD-3-Clause
"""Session: what it stores it gives back, what it must refuse it refuses, and it ends cleanly."""

from __future__ import annotations


def test_restarts_find_every_byte_on_as_many_ranks_and_on_fewer(mpirun):
    for part, ranks in (("first", 2), ("again", 2), ("fewer", 1), ("more", 2)):
        done = mpirun(ranks, "session_restart.py", part, nodes=ranks)
        assert done.stdout.count("done") == ranks


def test_bad_input_is_refused_by_name(mpirun):
    done = mpirun(0, "session_refuses.py")
    assert done.stdout.count("done") == 1


def test_threads_signals_and_callbacks_in_the_midst_of_calls_are_harmless(mpirun):
    done = mpirun(0, "session_midst.py", timeout_s=60)
    assert done.stdout.count("done") == 1


def test_an_exit_without_close_in_mid_snapshot_stores_it(mpirun):
    # About a second that the exchange takes.
    mpirun(2, "session_ends.py", "exit", 5, nodes=2, env={"FTMEM_MAX_BANDWIDTH": "8M"})
    mpirun(2, "session_ends.py", "look", 5, nodes=2)


def test_an_exit_after_an_exception_does_not_wait_for_ranks_that_are_stuck(mpirun):
    done = mpirun(2, "session_ends.py", "raise", 5, nodes=2, status=1, timeout_s=60,
                  env={"FTMEM_TIMEOUT_MS": 600_000})
    assert "ValueError: as the test wants" in done.stdout
    assert "Fatal" not in done.stdout
    assert "freed" not in done.stdout, "the version under way still reads it"
    mpirun(2, "session_ends.py", "look", 5, nodes=2)


def test_ctrl_c_interrupts_a_wait_and_the_version_is_stored(mpirun):
    mpirun(2, "session_ends.py", "interrupt", 5, nodes=2)
    mpirun(2, "session_ends.py", "look", 5, nodes=2)
