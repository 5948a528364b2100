# SPDX-License-Identifier: BSD-3-Clause
"""Where a tensor lies: in this process's memory, and in the global tensor it is a part of."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ._abi import EINVAL, MAX_DIMS
from .errors import FtmemError, error


@dataclass(frozen=True, eq=False)
class Box:
    """A box of a global tensor, in elements: where it starts and how far it goes in each of
    the dimensions of shape. Dimensions are in the order of memory, the last runs fastest."""

    shape: tuple[int, ...]
    start: tuple[int, ...]
    extent: tuple[int, ...]


@dataclass(eq=False)
class Entry:
    """One tensor of the state.

    Attributes:
        name: the same across restarts, at most 255 bytes.
        tensor: the plain local tensor whose memory it is, never a DTensor.
        box: which part of the global tensor it is; None: private to the rank.
        shadow: it may be written before the fence, so that a copy must be captured.
        shape: of the global tensor.
        dtype: of its elements.
    """

    name: str
    tensor: torch.Tensor
    box: Box | None
    shadow: bool
    shape: tuple[int, ...]
    dtype: torch.dtype


def refusal(name: str, why: str) -> FtmemError:
    """The error for a tensor that cannot be protected."""
    return error("Guard", EINVAL, f"{name}: {why}")


def is_dtensor(tensor: object) -> bool:
    """Whether it is a DTensor; imports nothing."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def local_part(tensor: Any) -> Any:
    """The plain tensor that a DTensor holds; anything else as it is."""
    return tensor._local_tensor if is_dtensor(tensor) else tensor


def mark_of(ranks: Sequence[int]) -> str:
    """What a name ends in if the tensor is one of these global ranks alone, and not of all that
    torch.distributed has, so that others may have another of this name."""
    return f"@{min(ranks)}" if len(ranks) < torch.distributed.get_world_size() else ""


def entry_of(
    name: str, tensor: Any, replicated: bool, shadow: bool = False, mark: str | None = None
) -> Entry:
    """The entry of a tensor or DTensor. replicated: plain tensors are equal on all ranks.

    mark: mark_of() the ranks that share the tensor, if any do; None: a DTensor's mesh tells, plain
    ones have none. Raises FtmemError for a DTensor whose local part is no box of the global tensor.
    """
    if torch.nn.parameter.is_lazy(tensor):
        raise refusal(name, "has no shape yet: run the module once, or give its sizes")
    shape = tuple(tensor.shape)
    if is_dtensor(tensor):
        local = tensor._local_tensor
        box = _dtensor_box(name, tensor, local)
        end = mark_of(tensor.device_mesh.mesh.flatten().tolist()) if mark is None else mark
        return Entry(name + end, local, box, shadow, shape, tensor.dtype)
    box = _whole(tensor) if replicated else None
    end = mark or "" if replicated else ""
    return Entry(name + end, tensor, box, shadow, shape, tensor.dtype)


def memory_order(tensor: torch.Tensor) -> tuple[int, ...] | None:
    """Dimensions of more than one element from slowest to fastest in memory, or None if the
    tensor does not fill one piece of memory with each byte once."""
    shape, strides = tensor.shape, tensor.stride()
    order = sorted((d for d in range(len(shape)) if shape[d] != 1), key=lambda d: -strides[d])
    expected = 1
    for d in reversed(order):
        if strides[d] != expected:
            return None
        expected *= shape[d]
    return tuple(order)


def is_row_major(order: tuple[int, ...]) -> bool:
    """Whether an order as of memory_order() is that of a C array."""
    return list(order) == sorted(order)


def _whole(tensor: torch.Tensor) -> Box | None:
    """The box of a tensor that is the whole global tensor; None if checked() will refuse it."""
    if tensor.layout is not torch.strided:
        return None
    order = memory_order(tensor)
    if order is None:
        return None
    shape = tuple(tensor.shape)
    if not is_row_major(order):
        shape = tuple(shape[d] for d in order)
    if not 1 <= len(shape) <= MAX_DIMS:
        shape = (tensor.numel(),)
    return Box(shape, (0,) * len(shape), shape)


def _dtensor_box(name: str, tensor: Any, local: torch.Tensor) -> Box | None:
    """The box of a DTensor's local part; None if that is empty."""
    if local.numel() == 0:
        return None
    shape = tuple(tensor.shape)
    if len(shape) > MAX_DIMS:
        raise refusal(name, f"a DTensor of {len(shape)} dimensions, more than {MAX_DIMS}")
    if local.layout is not torch.strided or not local.is_contiguous():
        raise refusal(name, "the local part of this DTensor is not contiguous")
    pieces = local_pieces(name, shape, tensor.device_mesh, tensor.placements)
    _check_order(name, tensor)
    start = []
    for d, ranges in enumerate(pieces):
        if len(ranges) != 1 or ranges[0][1] != local.shape[d]:
            raise refusal(
                name,
                f"its local part of shape {tuple(local.shape)} is no box of the global tensor of "
                f"shape {shape} under placements {tuple(tensor.placements)}",
            )
        start.append(ranges[0][0])
    if not shape:
        return Box((1,), (0,), (1,))
    return Box(shape, tuple(start), tuple(local.shape))


def local_pieces(
    name: str, shape: tuple[int, ...], mesh: Any, placements: Iterable[Any]
) -> list[list[tuple[int, int]]]:
    """For each dimension of the global tensor the (start, length) ranges of indices that this
    rank holds, in the order in which it holds them."""
    here = mesh.get_coordinate()
    if here is None:
        raise refusal(name, "this rank has a part of a DTensor, but is not in its mesh")
    pieces = [[(0, size)] for size in shape]
    for mesh_dim, placement in enumerate(placements):
        if placement.is_replicate():
            continue
        kind = type(placement).__name__
        if kind not in ("Shard", "_StridedShard"):
            raise refusal(name, f"a DTensor placed as {kind} does not hold a part of it")
        factor = placement.split_factor if kind == "_StridedShard" else 1
        ranges = pieces[placement.dim]
        pieces[placement.dim] = _shard(ranges, factor, mesh.size(mesh_dim), here[mesh_dim])
    return pieces


def _shard(
    ranges: list[tuple[int, int]], factor: int, ranks: int, rank: int
) -> list[tuple[int, int]]:
    """Of indices given as ranges: cut into factor chunks, and of each the rank-th of ranks."""
    size = sum(length for _, length in ranges)
    out: list[tuple[int, int]] = []
    for part in range(factor):
        start, length = _chunk(size, factor, part)
        offset, length = _chunk(length, ranks, rank)
        out += _select(ranges, start + offset, length)
    return _merge(out)


def _chunk(size: int, chunks: int, index: int) -> tuple[int, int]:
    """(start, length) of a chunk, as torch.chunk() cuts, missing ones being empty."""
    most = -(-size // chunks)
    start = min(size, most * index)
    return start, min(most, size - start)


def _select(ranges: list[tuple[int, int]], start: int, length: int) -> list[tuple[int, int]]:
    """The indices at positions start to start + length of those that ranges enumerate."""
    out = []
    for first, count in ranges:
        low, high = max(start, 0), min(start + length, count)
        if low < high:
            out.append((first + low, high - low))
        start -= count
    return out


def _merge(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same indices in the same order, in as few ranges as possible."""
    out: list[tuple[int, int]] = []
    for start, length in ranges:
        if out and sum(out[-1]) == start:
            out[-1] = (out[-1][0], out[-1][1] + length)
        else:
            out.append((start, length))
    return out


def _check_order(name: str, tensor: Any) -> None:
    """Refuses a DTensor whose mesh dimensions shard it in another order than they have."""
    order = getattr(tensor._spec, "shard_order", None)
    for item in order or ():
        if list(item.mesh_dims) != sorted(item.mesh_dims):
            raise refusal(name, f"a DTensor sharded by mesh dimensions in the order {order}")
