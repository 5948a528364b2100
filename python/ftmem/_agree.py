# SPDX-License-Identifier: BSD-3-Clause
"""How much memory all ranks need for what is no tensor: asked now and then, on the side."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

EVERY, LATER = 16, 8


class Agreement:
    """The largest need of all ranks. With several ranks they must all make the same calls in the
    same order; they meet through torch.distributed, on the CPU.

    Attributes:
        alone: there is one rank.
        possible: ranks can ask each other: torch.distributed was initialised at first().
    """

    def __init__(self, ranks: int) -> None:
        self.alone = ranks == 1
        self.possible = False
        self._ranks = ranks
        self._group: Any = None
        self._most = 0
        self._turn = 0
        self._asked: tuple[torch.Tensor, Any] | None = None

    def first(self, need: int) -> int:
        """The largest need at the beginning; waits for the others. Without a way to ask 0."""
        ready = not self.alone and dist.is_available() and dist.is_initialized()
        self.possible = ready and dist.get_world_size() == self._ranks
        if not self.possible:
            return need if self.alone else 0
        self._group = dist.new_group(backend="gloo")
        largest = torch.tensor([need])
        dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=self._group)
        return int(largest)

    def note(self, need: int) -> None:
        """What this rank needs now."""
        self._most = max(self._most, need)

    def turn(self) -> int:
        """Once for each snapshot. Sometimes the largest need of all ranks, as of LATER snapshots
        ago; else 0. Errors as of torch.distributed; after one no rank is asked any more."""
        self._turn += 1
        if not self.possible:
            return 0
        if self._turn % EVERY == 0:
            largest = torch.tensor([self._most])
            self.possible = False
            work = dist.all_reduce(
                largest, op=dist.ReduceOp.MAX, group=self._group, async_op=True
            )
            self._asked, self.possible = (largest, work), True
        elif self._turn % EVERY == LATER and self._asked is not None:
            (largest, work), self._asked = self._asked, None
            self.possible = False
            work.wait()
            self.possible = True
            return int(largest)
        return 0
