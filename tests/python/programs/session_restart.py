# SPDX-License-Identifier: BSD-3-Clause
"""A job that is started four times: usage: session_restart.py first|again|fewer|more.

Each rank has private bytes, and its half of the rows of a tensor.
"""

from __future__ import annotations

import sys

import ftmem
from session_util import Memory, expected, refused

PRIVATE_BYTES = 70_001
ROWS, COLUMNS, ELEMENT = 6, 1000, 4


class Part:
    """A rank's regions, in an open session."""

    def __init__(self, **opts: object) -> None:
        self.here = ftmem.world()
        self.lines: list[tuple[int, str]] = []
        rows = ROWS // self.here.ranks
        self.first_row = rows * self.here.rank
        self.private, self.half = Memory(PRIVATE_BYTES), Memory(rows * COLUMNS * ELEMENT)
        self.session = ftmem.Session("steps", log=self.on_log, log_level="debug", **opts)

    def on_log(self, level: int, line: str) -> None:
        self.lines.append((level, line))

    def add(self) -> None:
        self.session.add("position", self.private.addr, self.private.size, keep=self.private)
        self.session.add(
            "weights", self.half.addr, self.half.size, elem_bytes=ELEMENT, shape=(ROWS, COLUMNS),
            start=(self.first_row, 0), extent=(ROWS // self.here.ranks, COLUMNS), keep=self.half)
        self.session.seal()

    def fill(self, version: int) -> None:
        self.private.fill((version, self.here.rank))
        whole = expected(ROWS * COLUMNS * ELEMENT, version)
        at = self.first_row * COLUMNS * ELEMENT
        self.half.array[:] = whole[at:at + self.half.size]

    def holds(self, version: int, private_of: int) -> bool:
        whole = expected(ROWS * COLUMNS * ELEMENT, version)
        at = self.first_row * COLUMNS * ELEMENT
        return (self.private.holds((version, private_of))
                and bytes(self.half.array) == whole[at:at + self.half.size])

    def snapshot(self, version: int) -> None:
        """A version is committed, then the memory is used for something else."""
        self.fill(version)
        assert self.session.snapshot(version) is ftmem.Result.OK
        self.session.fence()
        self.fill(99)
        assert self.session.wait(version) is ftmem.Result.OK, self.session.message()


def first() -> None:
    part = Part()
    assert part.session.stored() == (None, 0)
    assert part.session.stored("weights") == (None, 0)
    part.add()
    assert part.session.restore() is None
    assert part.session.repair() is None
    part.snapshot(1)
    part.snapshot(2)
    assert part.session.repair() == 0
    assert part.session.skip(3) is ftmem.Result.OK
    assert part.session.wait(3) is ftmem.Result.DROPPED
    stats = part.session.stats()
    assert (stats["committed"], stats["skipped"], stats["newest"]) == (2, 1, 2), stats
    assert stats["nodes"] == 2 and stats["stored"] == 1, stats
    assert any(level == 4 for level, _ in part.lines), part.lines
    part.session.close()
    part.session.close()
    refused("EINVAL", "job steps is closed", part.session.snapshot, 4)


def again() -> None:
    with Part().session as session:
        assert session.stored() == (2, 0)
        assert session.stored("position") == (2, PRIVATE_BYTES)
        assert session.stored("weights") == (2, ROWS // 2 * COLUMNS * ELEMENT)
        assert session.stored("nothing of that name") == (2, 0)
    part = Part()
    part.add()
    refused("EINVAL", "ftmem_restore()", part.session.repair)
    assert part.session.restore() == 2
    assert part.holds(2, part.here.rank)
    # Another layout: the next version is of what is registered then.
    part.session.remove("position")
    refused("EINVAL", "position", part.session.remove, "position")
    refused("EINVAL", "regions changed", part.session.snapshot, 7)
    part.session.add("position", part.private.addr, part.private.size)
    part.session.seal()
    part.snapshot(7)
    # Left open: closed when the interpreter exits.


def fewer() -> None:
    """One rank takes over, and says whose private regions it gets."""
    asked: list[tuple[str, int, int, int]] = []

    def private_from(name: str, rank: int, ranks: int, old_ranks: int) -> int:
        asked.append((name, rank, ranks, old_ranks))
        return 1

    part = Part(private_from=private_from)
    part.add()
    assert part.session.restore() == 7
    assert asked == [("position", 0, 1, 2)], asked
    assert part.holds(7, private_of=1)
    part.snapshot(8)


def more() -> None:
    """Two again, with a function that fails: its exception comes out of restore()."""

    def private_from(name: str, rank: int, ranks: int, old_ranks: int) -> int:
        raise KeyError(name)

    part = Part(private_from=private_from)
    part.add()
    try:
        part.session.restore()
        raise AssertionError("the exception of private_from was lost")
    except KeyError as error:
        assert error.args == ("position",)
    part.session.forget()
    assert part.session.stored() == (None, 0)


{"first": first, "again": again, "fewer": fewer, "more": more}[sys.argv[1]]()
assert "torch" not in sys.modules, "the long way does not need PyTorch"
print("done", flush=True)
