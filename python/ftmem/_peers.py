# SPDX-License-Identifier: BSD-3-Clause
"""Small messages between the ranks of torch.distributed, for what ftmem.dcp has to agree on."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist

from . import _abi
from .errors import FtmemError, error


class Peers:
    """The ranks, as far as they have to agree: a group of its own, since async_save() works beside
    the training's messages. Created on all ranks, in the same order as other groups."""

    def __init__(self, ranks: int) -> None:
        started = dist.is_available() and dist.is_initialized()
        if started and dist.get_world_size() != ranks or not started and ranks > 1:
            there = f"one of {dist.get_world_size()}" if started else "none"
            raise failed(f"torch.distributed has to have a group of the {ranks} ranks that the "
                         f"launcher started, and has {there}: call ftmem.init_process_group()")
        self.ranks = ranks
        self.rank = dist.get_rank() if started else 0
        self._group = dist.new_group(backend="gloo") if ranks > 1 else None

    def gather(self, value: Any) -> list[Any]:
        if self._group is None:
            return [value]
        values: list[Any] = [None] * self.ranks
        dist.all_gather_object(values, value, group=self._group)
        return values

    def of_first(self, value: Any) -> Any:
        """Rank 0's value."""
        if self._group is None:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, group=self._group)
        return values[0]

    def agree(self, failure: BaseException | None, value: Any = None) -> list[Any]:
        """All ranks' values; raises on all ranks if one failed."""
        told = self.gather((repr(failure) if failure else None, value))
        if failure:
            raise failure
        for rank, (text, _) in enumerate(told):
            if text:
                raise failed(f"rank {rank} failed: {text}", _abi.DROPPED)
        return [value for _, value in told]


def failed(message: str, code: int = _abi.EINVAL) -> FtmemError:
    return error("ftmem.dcp", code, message)
