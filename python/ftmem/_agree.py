# SPDX-License-Identifier: BSD-3-Clause
"""What all ranks need: asked now and then, on the side, so that they register anew together."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

EVERY, LATER = 4, 2
# For what is still under way at the end, and never answered if another rank has died.
LAST_WAIT = timedelta(seconds=1)


class Agreement:
    """The largest need of all ranks, and whether any must register anew. With several ranks they
    must all make the same calls in the same order; they meet through torch.distributed, on the
    CPU, in a group that is made once, whatever comes of it.

    Attributes:
        alone: there is one rank.
        possible: ranks can ask each other: torch.distributed was initialised at the first turn().
    """

    def __init__(self, ranks: int) -> None:
        self.alone = ranks == 1
        self.possible = False
        self._ranks = ranks
        self._group: Any = None
        self._most = 0
        self._turn = 0
        self._asked: tuple[torch.Tensor, Any] | None = None

    def turn(self, need: int, stale: bool) -> tuple[int, bool] | None:
        """Once for each snapshot: what this rank needs, and whether it must register anew.

        Returns the largest need and whether any rank must, the same on all ranks: at the first
        turn as of now, later as of LATER snapshots ago, and None in most snapshots. Alone what was
        given. Ranks that cannot ask each other: a need of 0, and what was given. Errors as of
        torch.distributed; after one no rank is asked any more.
        """
        self._turn += 1
        self._most = max(self._most, need)
        if self._turn == 1:
            self._begin()
        if self.alone:
            return need, stale
        if not self.possible:
            return 0, stale
        if self._turn == 1:
            return self._largest(self._reduced(need, stale))
        if self._turn % EVERY == 0:
            self._asked = self._reduced(self._most, stale)
        elif self._turn % EVERY == LATER and self._asked is not None:
            asked, self._asked = self._asked, None
            return self._largest(asked)
        return None

    def any(self, here: bool) -> bool:
        """Whether it is so on any rank, where they can ask each other; waits for them."""
        if not self.possible:
            return here
        return self._largest(self._reduced(0, here))[1]

    def end(self) -> None:
        """After the last turn of all ranks."""
        asked, self._asked = self._asked, None
        self.possible = False
        if asked is not None:
            with suppress(Exception):
                asked[1].wait(LAST_WAIT)

    def _begin(self) -> None:
        ready = not self.alone and dist.is_available() and dist.is_initialized()
        if ready and dist.get_world_size() == self._ranks:
            self._group = dist.new_group(backend="gloo")
            self.possible = True

    def _reduced(self, need: int, stale: bool) -> tuple[torch.Tensor, Any]:
        largest = torch.tensor([need, int(stale)])
        self.possible = False
        work = dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=self._group, async_op=True)
        self.possible = True
        return largest, work

    def _largest(self, asked: tuple[torch.Tensor, Any]) -> tuple[int, bool]:
        largest, work = asked
        self.possible = False
        work.wait()
        self.possible = True
        need, stale = largest.tolist()
        return need, bool(stale)
