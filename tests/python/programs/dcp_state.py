# SPDX-License-Identifier: BSD-3-Clause
"""The state that dcp_*.py save and load: every kind of value, made of a version's number."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch.distributed.checkpoint import CheckpointException
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor


def claim(words: str) -> None:
    """What the test looks for in the output: it held on this rank. One write, one line."""
    sys.stdout.write(f"holds: {words}\n")
    sys.stdout.flush()


def failures(call: Any, *args: Any, **kwargs: Any) -> dict[int, BaseException]:
    """Of a call of DCP that must fail: each rank's exception."""
    try:
        call(*args, **kwargs)
    except CheckpointException as caught:
        return {rank: failure for rank, (failure, _) in caught.failures.items()}
    raise AssertionError("it did not fail")


class State:
    """A plain and a sharded state dict, on however many ranks there are.

    extra: elements of a tensor that grows from version to version.
    """

    def __init__(self, ranks: int, sharded_by: int = 0) -> None:
        self.mesh = init_device_mesh("cpu", (ranks,)) if ranks > 1 else None
        self.sharded_by = sharded_by
        torch.manual_seed(1)
        self.model = torch.nn.Sequential(torch.nn.Linear(13, 7), torch.nn.Linear(7, 5))
        if self.mesh:
            fully_shard(self.model, mesh=self.mesh)

    def of(self, version: int, extra: int = 8) -> dict[str, Any]:
        matrix = torch.arange(17 * 11, dtype=torch.float64).reshape(17, 11) * (version + 1)
        with torch.no_grad():
            for i, parameter in enumerate(self.model.parameters()):
                local = parameter.to_local() if isinstance(parameter, DTensor) else parameter
                local.fill_(version * 100 + i)
        return {
            "model": self.model.state_dict(),
            "matrix": self._dtensor(matrix, Shard(self.sharded_by)),
            "replica": self._dtensor(matrix.T.contiguous(), Replicate()),
            "plain": torch.full((5, 3), float(version)),
            "view": torch.arange(24.0).reshape(4, 6)[:, ::2] + version,
            "half": torch.full((7,), version, dtype=torch.bfloat16),
            "flags": torch.tensor([True, False, version % 2 == 0]),
            "scalar": torch.tensor(version, dtype=torch.int64),
            "none": torch.empty(0, 4),
            "large": torch.arange(50_000).roll(version),
            "grows": torch.arange(extra, dtype=torch.int32) + version,
            "values": {"step": version, "text": "x" * version, "list": [1, (2.5, None)]},
        }

    def _dtensor(self, whole: torch.Tensor, placement: Any) -> torch.Tensor:
        return distribute_tensor(whole, self.mesh, [placement]) if self.mesh else whole

    def check(self, loaded: dict[str, Any], version: int, extra: int = 8) -> None:
        """Bit for bit, what this rank has of it. Overwrites the model."""
        loaded = {**loaded, "model": {k: v.clone() for k, v in loaded["model"].items()}}
        _same(loaded, self.of(version, extra), f"version {version}")


def _same(got: Any, wanted: Any, name: str) -> None:
    if isinstance(wanted, dict):
        assert got.keys() == wanted.keys(), f"{name}: {got.keys()}"
        for key, value in wanted.items():
            _same(got[key], value, f"{name}.{key}")
    elif isinstance(wanted, torch.Tensor):
        if isinstance(wanted, DTensor):
            got, wanted = got.to_local(), wanted.to_local()
        assert got.dtype == wanted.dtype and torch.equal(got, wanted), f"{name}: {got}"
    else:
        assert got == wanted, f"{name}: {got}"
