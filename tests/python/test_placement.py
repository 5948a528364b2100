# SPDX-License-Identifier: BSD-3-Clause
"""Which box of the global tensor a rank's part of a DTensor is."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.placement_types import _StridedShard

from ftmem import _placement as P
from ftmem.errors import FtmemError


class Mesh:
    """A rank's view of a mesh, without processes."""

    def __init__(self, shape: tuple[int, ...], here: tuple[int, ...] | None) -> None:
        self.shape, self.here = shape, here

    def size(self, dim: int) -> int:
        return self.shape[dim]

    def get_coordinate(self) -> list[int] | None:
        return None if self.here is None else list(self.here)


def indices(pieces: list[tuple[int, int]]) -> list[int]:
    return [i for start, length in pieces for i in range(start, start + length)]


def shard_rows(rows: torch.Tensor, shape, here, placements) -> torch.Tensor:
    """What a rank gets, cut by torch.chunk() in the order of the mesh's dimensions."""

    def chunk(tensor: torch.Tensor, chunks: int, index: int) -> torch.Tensor:
        parts = tensor.chunk(chunks)
        return parts[index] if index < len(parts) else tensor[:0]

    for ranks, rank, placement in zip(shape, here, placements, strict=True):
        if isinstance(placement, _StridedShard):
            factor = placement.split_factor
            rows = torch.cat([chunk(chunk(rows, factor, i), ranks, rank) for i in range(factor)])
        elif isinstance(placement, Shard):
            rows = chunk(rows, ranks, rank)
    return rows


@pytest.mark.parametrize(
    ("shape", "placements"),
    [
        ((1,), [Shard(0)]),
        ((4,), [Shard(0)]),
        ((2, 3), [Shard(0), Shard(0)]),
        ((2, 3), [Replicate(), Shard(0)]),
        ((2, 2), [_StridedShard(0, split_factor=2), Shard(0)]),
        ((3, 2), [_StridedShard(0, split_factor=2), Shard(0)]),
        ((2, 3), [_StridedShard(0, split_factor=3), Shard(0)]),
        ((2, 2, 2), [Replicate(), _StridedShard(0, split_factor=2), Shard(0)]),
        ((2, 2), [_StridedShard(0, split_factor=3), Replicate()]),
    ],
    ids=str,
)
def test_ranges_of_rows_are_those_that_torch_cuts(shape, placements):
    for size in range(1, 26):
        for here in itertools.product(*map(range, shape)):
            expected = shard_rows(torch.arange(size), shape, here, placements).tolist()
            pieces = P.local_pieces("t", (size, 2), Mesh(shape, here), placements)
            assert indices(pieces[0]) == expected
            assert pieces[1] == [(0, 2)]
            runs = [b for a, b in zip(expected, expected[1:], strict=False) if b != a + 1]
            assert len(pieces[0]) == (len(runs) + 1 if expected else 0)


def test_boxes_equal_those_that_torch_computes():
    from torch.distributed.tensor._utils import _compute_local_shape_and_global_offset as reference

    cases = [
        ((2, 2), [Shard(0), Shard(1)]),
        ((2, 2), [Shard(1), Shard(1)]),
        ((2, 2), [_StridedShard(0, split_factor=2), Shard(0)]),
    ]
    for (shape, placements), rows in itertools.product(cases, (4, 6, 7, 8)):
        for here in itertools.product(*map(range, shape)):
            pieces = P.local_pieces("t", (rows, 8), Mesh(shape, here), placements)
            size, start = reference((rows, 8), shape, list(here), placements)
            assert [sum(n for _, n in p) for p in pieces] == list(size)
            if all(size):
                assert [p[0][0] for p in pieces] == list(start)


@pytest.fixture(scope="module")
def mesh():
    """Rank 1 of a mesh of 2 x 2 whose collectives do nothing."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=1, world_size=4)
    yield init_device_mesh("cpu", (2, 2), mesh_dim_names=("a", "b"))
    dist.destroy_process_group()


def box_of(tensor: torch.Tensor) -> P.Box | None:
    return P.entry_of("t", tensor, False).box


def refuses(text: str, tensor: torch.Tensor) -> None:
    with pytest.raises(FtmemError, match=f"t: .*{text}") as caught:
        P.entry_of("t", tensor, False)
    assert caught.value.name == "EINVAL"


def test_an_entry_of_a_dtensor_has_local_memory_and_global_shape(mesh):
    tensor = distribute_tensor(torch.zeros(6, 5), mesh, [Shard(0), Shard(1)])
    entry = P.entry_of("t", torch.nn.Parameter(tensor), replicated=True, shadow=True)
    assert type(entry.tensor) is torch.Tensor and entry.tensor.shape == (3, 2)
    assert entry.tensor.data_ptr() == tensor.to_local().data_ptr()
    assert (entry.shape, entry.dtype, entry.shadow) == ((6, 5), torch.float32, True)
    assert (entry.box.shape, entry.box.start, entry.box.extent) == ((6, 5), (0, 3), (3, 2))


def test_replicated_dtensors_are_whole_boxes(mesh):
    box = box_of(distribute_tensor(torch.zeros(6, 5), mesh, [Replicate(), Replicate()]))
    assert (box.shape, box.start, box.extent) == ((6, 5), (0, 0), (6, 5))
    box = box_of(distribute_tensor(torch.tensor(1.0), mesh, [Replicate(), Replicate()]))
    assert (box.shape, box.start, box.extent) == ((1,), (0,), (1,))


def test_an_empty_local_part_has_no_box(mesh):
    assert box_of(distribute_tensor(torch.zeros(1, 5), mesh, [Replicate(), Shard(0)])) is None


def test_dtensors_that_are_no_box_are_refused_by_name(mesh):
    local = torch.zeros(4, 5)
    refuses("Partial", DTensor.from_local(local, mesh, [Replicate(), Partial()]))
    strided = [Replicate(), _StridedShard(0, split_factor=2)]
    refuses("no box", DTensor.from_local(local, mesh, strided, shape=(8, 5), stride=(5, 1)))
    refuses("no box", DTensor.from_local(local, mesh, [Shard(0)] * 2, shape=(9, 5), stride=(5, 1)))
    transposed = torch.zeros(5, 4).t()
    refuses("not contiguous", DTensor.from_local(transposed, mesh, [Replicate()] * 2))
    refuses("9 dimensions", DTensor.from_local(torch.zeros((1,) * 9), mesh, [Replicate()] * 2))


def test_a_dtensor_sharded_in_another_order_is_refused(mesh):
    tensor = distribute_tensor(torch.zeros(8, 5), mesh, [Shard(0), Shard(0)])
    if not hasattr(tensor._spec, "shard_order"):
        pytest.skip("this PyTorch knows one order alone")
    (entry,) = tensor._spec.shard_order
    tensor._spec.shard_order = (entry._replace(mesh_dims=(1, 0)),)
    refuses("order", tensor)


def test_a_rank_outside_of_the_mesh_has_no_box(mesh):
    other = DeviceMesh("cpu", [2, 3], mesh_dim_names=("c",))
    assert box_of(DTensor.from_local(torch.zeros(4), other, [Shard(0)])) is None
    with pytest.raises(FtmemError, match="t: .*not in its mesh"):
        P.local_pieces("t", (8,), Mesh((2,), None), [Shard(0)])


def test_boxes_of_four_ranks_hold_what_their_place_says(mpirun):
    output = mpirun(0, "placement.py").stdout
    assert output.count(": holds") == 11, output
