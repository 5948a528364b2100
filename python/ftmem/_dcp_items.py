# SPDX-License-Identifier: BSD-3-Clause
"""The items of DCP's plans, and the bytes that are kept of them."""

from __future__ import annotations

import ctypes
import io
import math
from typing import Any, NamedTuple

import torch
from torch.distributed.checkpoint.planner import (
    LoadItemType,
    LoadPlanner,
    ReadItem,
    SavePlan,
    SavePlanner,
)
from torch.distributed.checkpoint.storage import WriteResult

from . import _abi
from ._dcp import Part
from ._peers import failed

# Of items in a rank's bytes, so that a view of any type can be taken.
ALIGN = 64


class Piece(NamedTuple):
    """Where an item is: in which rank's bytes. Of a tensor these are its elements in row-major
    order; dtype is None for bytes that DCP or torch.save() made."""

    rank: int
    offset: int
    bytes: int
    dtype: torch.dtype | None
    shape: tuple[int, ...]


class Items:
    """What this rank writes, and where in its bytes. Values that are no tensors are kept as the
    bytes that DCP makes of them: these could have another length the next time."""

    def __init__(self, plan: SavePlan, planner: SavePlanner, rank: int) -> None:
        self.results: list[WriteResult] = []
        self.size = 0
        self._items: list[tuple[Any, Piece, io.BytesIO | None]] = []
        for item in plan.items:
            data = planner.resolve_data(item)
            made, dtype, shape = None, None, ()
            if isinstance(data, torch.Tensor) and _is_plain(data.detach()):
                dtype, shape = data.dtype, tuple(data.shape)
                size = data.numel() * data.element_size()
            else:
                made = _saved(data.detach()) if isinstance(data, torch.Tensor) else data
                size = made.getbuffer().nbytes
            piece = Piece(rank, self.size, size, dtype, shape)
            self.size += -(-size // ALIGN) * ALIGN
            self._items.append((item, piece, made))
            self.results.append(WriteResult(item.index, size, piece))

    def fill(self, buffer: torch.Tensor, planner: SavePlanner) -> None:
        for item, piece, made in self._items:
            target = buffer[piece.offset : piece.offset + piece.bytes]
            if piece.bytes == 0:
                continue
            if made is not None:
                target.copy_(torch.frombuffer(made.getbuffer(), dtype=torch.uint8))
                continue
            tensor = planner.resolve_data(item).detach()
            if (tensor.dtype, tuple(tensor.shape)) != (piece.dtype, piece.shape):
                raise failed(f"{item.index.fqn} changed its type or shape while it was saved")
            target.view(piece.dtype).view(piece.shape).copy_(tensor)


def _is_plain(tensor: torch.Tensor) -> bool:
    return (type(tensor) is torch.Tensor and tensor.layout == torch.strided
            and not tensor.is_quantized)


def _saved(tensor: torch.Tensor) -> io.BytesIO:
    made = io.BytesIO()
    torch.save(tensor.cpu(), made)
    return made


def _strides(shape: tuple[int, ...]) -> list[int]:
    return [math.prod(shape[i + 1 :]) for i in range(len(shape))]


def span(piece: Piece, item: ReadItem) -> tuple[int, int]:
    """From the first byte to behind the last of what is asked for, which has gaps if it is a
    part of a tensor with several dimensions."""
    if piece.dtype is None:
        return piece.offset, piece.offset + piece.bytes
    if 0 in item.lengths:
        return 0, 0
    strides = _strides(piece.shape)
    first = sum(offset * stride for offset, stride in zip(item.storage_offsets, strides))
    last = first + sum((n - 1) * stride for n, stride in zip(item.lengths, strides))
    return (piece.offset + first * piece.dtype.itemsize,
            piece.offset + (last + 1) * piece.dtype.itemsize)


def load(item: ReadItem, piece: Piece, parts: list[Part], planner: LoadPlanner) -> None:
    start, end = span(piece, item)
    memory = torch.empty(0, dtype=torch.uint8)
    for part in parts:
        if part.rank == piece.rank and part.start <= start < end <= part.end:
            memory = part.memory[start - part.start : end - part.start]
    if item.type == LoadItemType.BYTE_IO:
        planner.load_bytes(item, _bytes(memory))
        return
    if piece.dtype is None:
        tensor = torch.load(_bytes(memory), map_location="cpu", weights_only=True)
        for dim, (offset, length) in enumerate(zip(item.storage_offsets, item.lengths)):
            if length != tensor.shape[dim]:  # sparse tensors can be loaded as a whole
                tensor = tensor.narrow(dim, offset, length)
    elif start == end:
        tensor = torch.empty(item.lengths, dtype=piece.dtype)
    else:
        tensor = memory.view(piece.dtype).as_strided(item.lengths, _strides(piece.shape))
    # Not detach(): of a sparse tensor that would be another.
    target = planner.resolve_tensor(item)
    if target.shape != tensor.shape:
        raise failed(f"{item.dest_index.fqn} has shape {tuple(target.shape)} where the checkpoint "
                     f"has {tuple(tensor.shape)}", _abi.ELAYOUT)
    with torch.no_grad():
        target.copy_(tensor)
    planner.commit_tensor(item, target)


def _bytes(memory: torch.Tensor) -> io.BytesIO:
    return io.BytesIO(ctypes.string_at(memory.data_ptr(), memory.numel()))
