# SPDX-License-Identifier: BSD-3-Clause
"""Ways in which a script may end, two ranks: usage: session_ends.py WAY VERSION.

exit       while a snapshot is under way, without close
raise      the same, and rank 1 with an exception, while rank 0 goes on
interrupt  Ctrl-C in a wait; then all goes on
look       what is stored is VERSION
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from collections.abc import Callable

import ftmem
from session_util import Memory, hear, tell, until

WAY, VERSION = sys.argv[1], int(sys.argv[2])
BYTES = 8 << 20

# Not garbage when main() returns.
held: list[ftmem.Session] = []


class Kept:
    """What a session keeps with a region."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory

    def __del__(self, write: Callable[[int, bytes], int] = os.write) -> None:
        write(1, b"freed\n")


def interrupted(session: ftmem.Session) -> bool:
    """SIGINT comes when this thread waits for a version that cannot be complete."""
    def when_waiting() -> None:
        until(lambda: session._handle.users, "the wait")
        os.kill(os.getpid(), signal.SIGINT)

    sender = threading.Thread(target=when_waiting)
    sender.start()
    try:
        session.wait(VERSION)
    except KeyboardInterrupt:
        return True
    finally:
        sender.join(60)
    return False


def main() -> None:
    rank = ftmem.world().rank
    session = ftmem.Session("ends")
    held.append(session)
    memory = Memory(BYTES)
    session.add("memory", memory.addr, memory.size, keep=Kept(memory))
    session.seal()
    restored = session.restore()
    print("restored", restored, flush=True)
    if WAY == "look":
        assert restored == VERSION
        assert memory.holds((VERSION, rank))
        return
    memory.fill((VERSION, rank))
    if WAY == "interrupt" and rank == 1:
        hear("interrupted")
    assert session.snapshot(VERSION) is ftmem.Result.OK
    if WAY == "interrupt":
        if rank == 0:
            assert interrupted(session)
            tell("interrupted")
        assert session.wait(VERSION) is ftmem.Result.OK
    if WAY == "raise":
        if rank == 1:
            # Rank 0 never takes part in this one.
            session.wait(VERSION)
            session.snapshot(VERSION + 1)
            raise ValueError("as the test wants")
        session.wait(VERSION)
        hear("what nobody tells")


main()
