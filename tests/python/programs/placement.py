# SPDX-License-Identifier: BSD-3-Clause
"""Four ranks over gloo: are the boxes of sharded tensors where their content says they are?"""

from __future__ import annotations

import copy
import sys
import tempfile
from collections.abc import Callable

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn, optim
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

from ftmem import _tensors as T
from ftmem._registry import Layout
from ftmem._sources import sources_of
from ftmem.errors import FtmemError

RANKS = 4


class Net(nn.Module):
    """Sizes that four ranks divide, and some that they do not, down to one row."""

    def __init__(self, inner: int = 8) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.up = nn.Linear(4, inner)
        self.down = nn.Linear(inner, 4)
        self.odd = nn.Linear(4, 5)
        self.one = nn.Parameter(torch.randn(1, 3))
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.down(self.up(x).relu()))
        return self.odd(x).sum() * self.one.sum()


def entries_of(
    model: nn.Module, *optimizers: optim.Optimizer, mark: str | None = None
) -> list[T.Entry]:
    replicated = T.is_replicated(model)
    names = T.parameter_names("model", model)
    found = T.module_entries("model", model, replicated, mark)
    marks = dict.fromkeys(model.parameters(), mark)
    for optimizer in optimizers:
        found += T.optimizer_entries("optimizer", optimizer, names, replicated, marks)
    return found


def of_box(box: T.Box, whole: torch.Tensor) -> torch.Tensor:
    for d, (start, extent) in enumerate(zip(box.start, box.extent, strict=True)):
        whole = whole.narrow(d, start, extent)
    return whole


def check_boxes(
    model: nn.Module, optimizer: optim.Optimizer, mark: str | None = None
) -> None:
    """Each box holds what the whole model has there, and all ranks' boxes cover it."""
    whole = {f"model.{k}": v for k, v in Net().named_parameters()}
    names = T.parameter_names("model", model)
    for parameter, name in names.items():  # the state is a function of the parameter
        if optimizer.state.get(parameter):
            optimizer.state[parameter]["exp_avg"].copy_(parameter.detach() * 2)
            whole[f"optimizer.{name}.exp_avg"] = whole[name] * 2
    checked = T.checked(entries_of(model, optimizer, mark=mark))
    boxes = [(e.name, e.box) for e in checked if e.box is not None]
    for e in checked:
        assert not isinstance(e.tensor, DTensor) and e.tensor.numel() > 0
        if e.name in whole:
            assert e.box is not None and e.box.shape == tuple(whole[e.name].shape) == e.shape
            assert torch.equal(e.tensor, of_box(e.box, whole[e.name])), e.name
    gathered: list = [None] * RANKS
    dist.all_gather_object(gathered, boxes)
    covered = {name: torch.zeros_like(tensor) for name, tensor in whole.items()}
    for name, box in (item for items in gathered for item in items):
        if name in covered:
            of_box(box, covered[name].data).fill_(1)
    assert all(bool(c.all()) for c in covered.values())


def check_digest(
    model: nn.Module, optimizer: optim.Optimizer, mark: str | None = None
) -> None:
    """It is that of the same model on one rank."""
    alone = Net()
    other = optim.Adam(alone.parameters())
    T.materialize(other)
    found = entries_of(model, optimizer, mark=mark)
    assert T.digest(found) == T.digest(entries_of(alone, other))


def shard_all(model: nn.Module, **options: object) -> nn.Module:
    for layer in (model.up, model.down):
        fully_shard(layer, **options)
    return fully_shard(model, **options)


def fsdp2(rank: int) -> None:
    model = shard_all(Net())
    optimizer = optim.Adam(model.parameters())
    T.materialize(optimizer)
    check_boxes(model, optimizer)
    check_digest(model, optimizer)
    optimizer.zero_grad()
    before = [e.tensor.data_ptr() for e in T.checked(entries_of(model, optimizer))]
    with torch.no_grad():
        model(torch.ones(2, 4))  # gathers the root's own parameters, and leaves them so
    assert [e.tensor.data_ptr() for e in T.checked(entries_of(model, optimizer))] == before
    check_boxes(model, optimizer)
    model(torch.ones(2, 4)).backward()
    optimizer.step()
    assert [e.tensor.data_ptr() for e in T.checked(entries_of(model, optimizer))] == before


def hybrid(rank: int) -> None:
    """Replicas of shards."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replica", "shard"))
    model = shard_all(Net(), mesh=mesh)
    optimizer = optim.Adam(model.parameters())
    T.materialize(optimizer)
    check_boxes(model, optimizer)
    check_digest(model, optimizer)


def shard_by_columns(rank: int) -> None:
    model = Net()
    fully_shard(model.up, shard_placement_fn=lambda p: Shard(p.dim() - 1))
    fully_shard(model)
    optimizer = optim.Adam(model.parameters())
    T.materialize(optimizer)
    check_boxes(model, optimizer)


def tensor_parallel_and_fsdp2(rank: int) -> None:
    """Rows are cut by the second mesh dimension first (_StridedShard)."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    model = Net()
    parallelize_module(model, mesh["tp"], {"up": ColwiseParallel(), "down": RowwiseParallel()})
    shard_all(model, mesh=mesh["dp"])
    strided = model.up.weight.placements[0]
    assert type(strided).__name__ == "_StridedShard", strided
    optimizer = optim.Adam(model.parameters())
    T.materialize(optimizer)
    # What is not parallel is sharded by "dp" alone: nobody tells if ranks of "tp" have the same.
    assert any(e.name == f"model.one@{rank % 2}" for e in entries_of(model))
    check_boxes(model, optimizer, mark="")
    check_digest(model, optimizer, mark="")


def training_is_the_same(rank: int) -> None:
    """FSDP2, with state made early and without."""
    ways: list[tuple[type, dict]] = [
        (optim.Adam, dict(weight_decay=0.1, amsgrad=True, foreach=True)),
        (optim.AdamW, dict(fused=True)),
        (optim.SGD, dict(lr=0.1, momentum=0.9)),
        (optim.RMSprop, dict(momentum=0.9, centered=True)),
        (optim.NAdam, {}),
    ]
    start = shard_all(Net()).state_dict()
    for cls, options in ways:
        results = []
        for early in (False, True):
            model = shard_all(Net())
            model.load_state_dict(copy.deepcopy(start))
            optimizer = cls(model.parameters(), **options)
            if early:
                T.materialize(optimizer)
            for step in range(3):
                optimizer.zero_grad()
                torch.manual_seed(10 * step + rank)
                model(torch.randn(3, 4)).backward()
                optimizer.step()
            results.append({e.name: e.tensor for e in T.checked(entries_of(model, optimizer))})
        first, second = results
        assert list(first) == list(second)
        for name, tensor in first.items():
            same = tensor.contiguous().view(-1).view(torch.uint8)
            assert torch.equal(same, second[name].contiguous().view(-1).view(torch.uint8)), name


def ddp(rank: int) -> None:
    model = DistributedDataParallel(Net())
    optimizer = optim.Adam(model.parameters())
    T.materialize(optimizer)
    assert T.is_replicated(model) and not T.is_replicated(model.module)
    assert T.is_replicated(torch.compile(model))
    found = {e.name: e for e in T.checked(entries_of(torch.compile(model), optimizer))}
    assert list(found) == [e.name for e in T.checked(entries_of(model.module, optimizer))]
    assert found["model.up.weight"].box.extent == (8, 4)
    assert found["optimizer.model.up.weight.exp_avg"].box.extent == (8, 4)
    assert found["optimizer.model.up.weight.step"].box.extent == (1,)
    assert found["model.norm.running_mean"].box is None
    check_boxes(model, optimizer)
    check_digest(model, optimizer)
    zero = ZeroRedundancyOptimizer(model.parameters(), optim.Adam)
    T.materialize(zero)
    found = {e.name: e for e in T.checked(entries_of(model, zero))}
    held = [e for name, e in found.items() if name.startswith("optimizer.")]
    assert 0 < len(held) < 3 * len(list(model.parameters()))
    assert all(e.box is None for e in held)
    assert found["model.up.weight"].box is not None


def stages(rank: int) -> None:
    """Two stages of two ranks each: what they have of equal names is not the same."""
    groups = [dist.new_group(ranks) for ranks in ([0, 2], [1, 3])]
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "stage"))
    mark = f"@{rank % 2}"
    ddp = DistributedDataParallel(Net(), process_group=groups[rank % 2])
    for model, replicated in ((ddp, True), (shard_all(Net(), mesh=mesh["data"]), False)):
        optimizer = optim.Adam(model.parameters())
        T.materialize(optimizer)
        for given in (None, True):
            found = collected(given, torch.compile(model), optimizer)
            boxed = [e for e in found if e.box is not None]
            assert len(boxed) > len(list(model.parameters()))
            assert all(e.name.endswith(mark) == (given is None) for e in boxed)
            assert not any("@" in e.name for e in found if e.box is None)
        names = [e.name for e in collected(None, model, optimizer)]
        assert f"model.up.weight{mark}" in names
        assert f"optimizer.model.up.weight.exp_avg{mark}" in names
    assert not any("@" in e.name for e in collected(None, DistributedDataParallel(Net())))


def collected(replicated: bool | None, *objects: object) -> list[T.Entry]:
    return Layout(sources_of(objects, replicated), overwritten=True).entries


def zero_inside_of_a_wrapper(rank: int) -> None:
    model = DistributedDataParallel(Net())
    zero = ZeroRedundancyOptimizer(model.parameters(), optim.Adam)
    wrapper = Wrapper.__new__(Wrapper)
    wrapper.optimizer = zero
    wrapper.param_groups, wrapper.state = zero.param_groups, zero.state
    found = collected(None, model, wrapper)
    held = [e for e in found if e.name.startswith("optimizer.")]
    assert held and all(e.box is None for e in held)


class Wrapper(optim.Optimizer):
    """As frameworks have them."""


def ignored_by_ddp(rank: int) -> None:
    inner = Net()
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(inner, ["odd.weight"])
    model = DistributedDataParallel(inner)
    try:
        T.module_entries("model", model, True)
        raise AssertionError("not refused")
    except FtmemError as error:
        assert "model.odd.weight" in str(error)
    assert T.module_entries("model", model, False)


def fsdp1_is_refused(rank: int) -> None:
    from torch.distributed.fsdp import FullyShardedDataParallel

    layer = nn.Sequential(FullyShardedDataParallel(nn.Linear(4, 4), device_id=torch.device("cpu")))
    try:
        T.module_entries("model", layer, False)
        raise AssertionError("not refused")
    except FtmemError as error:
        assert "model.0" in str(error) and "fully_shard" in str(error)


def uneven_shards(rank: int) -> None:
    """As many rows as make some ranks' parts smaller, or empty, in one and two mesh dimensions."""
    for shape in ((4,), (2, 2)):
        mesh = init_device_mesh("cpu", shape)
        for rows in (1, 2, 3, 5, 6, 7, 9):
            whole = torch.arange(rows * 3.0).view(rows, 3)
            tensor = distribute_tensor(whole, mesh, [Shard(0)] * len(shape))
            entry = T.module_entries("m", nn.ParameterList([tensor]), False)[0]
            local = tensor.to_local()
            assert (entry.box is None) == (local.numel() == 0) == (not T.checked([entry]))
            if entry.box is not None:
                assert torch.equal(of_box(entry.box, whole), local)


CHECKS: list[Callable[[int], None]] = [
    fsdp2, hybrid, shard_by_columns, tensor_parallel_and_fsdp2, training_is_the_same, ddp,
    stages, zero_inside_of_a_wrapper, ignored_by_ddp, fsdp1_is_refused, uneven_shards,
]


def rank_main(rank: int, store: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=RANKS)
    for check in CHECKS:
        check(rank)
        dist.barrier()
        if rank == 0:
            print(f"{check.__name__}: holds", flush=True)
    dist.destroy_process_group()


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="ftm.") as folder:
        mp.start_processes(rank_main, args=(f"{folder}/store",), nprocs=RANKS, start_method="fork")
    return 0


if __name__ == "__main__":
    sys.exit(main())
