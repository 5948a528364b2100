# SPDX-License-Identifier: BSD-3-Clause
"""A training that draws random numbers wherever it can: it is killed, or goes on from what is
stored and at its end is compared with one that was never disturbed.

usage: guard_train.py KILL_AT    0: to the end
"""

from __future__ import annotations

import os
import random
import signal
import sys
from typing import Any

import ftmem
import numpy
import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader, Dataset

STEPS = 9
SKIPPED_STEP = 3  # by the gradient scaler
BATCH = 8


class Noisy(Dataset):
    """Items that a worker process draws at random."""

    def __len__(self) -> int:
        return 2 * BATCH

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.randn(6) + index + random.random()


class Running(nn.Module):
    """Binds its buffer anew in each forward, as many layers do."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return x - self.mean


class Training:
    """All that a step changes."""

    def __init__(self) -> None:
        rank = dist.get_rank()
        torch.manual_seed(7)
        model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Dropout(0.4), Running(),
                              nn.Linear(16, 3))
        for seed in (torch.manual_seed, random.seed, numpy.random.seed):
            seed(rank)
        self.model = nn.parallel.DistributedDataParallel(model)
        first, second = list(model[0].parameters()), list(model[1:].parameters())
        self.optimizers = [torch.optim.AdamW(first, lr=torch.tensor(0.01), foreach=False),
                           torch.optim.SGD(second, lr=0.05, momentum=0.9)]
        self.schedulers = [torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizers[0], STEPS),
                           torch.optim.lr_scheduler.ReduceLROnPlateau(self.optimizers[1])]
        self.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=3)
        self.order = torch.Generator().manual_seed(rank)
        self.loader = DataLoader(Noisy(), BATCH, shuffle=True, num_workers=2, generator=self.order)
        self.log: dict[str, Any] = {"seen": 0}
        self.losses: list[float] = []

    def objects(self) -> list[Any]:
        return [self.model, *self.optimizers, *self.schedulers, self.scaler, self.order, self.log,
                self.losses]

    def step(self, number: int) -> None:
        for batch in self.loader:
            for optimizer in self.optimizers:
                optimizer.zero_grad()
            factor = random.random() + numpy.random.standard_normal() ** 2
            loss = (self.model(batch) ** 2).mean() * factor
            huge = float("inf") if number == SKIPPED_STEP else 1.0
            self.scaler.scale(loss * huge).backward()
            for optimizer in self.optimizers:
                self.scaler.step(optimizer)
            self.scaler.update()
            self.log["seen"] += len(batch)
            self.losses.append(loss.item())
        self.schedulers[0].step()
        self.schedulers[1].step(loss.item())

    def state(self) -> list[Any]:
        """All of it, for comparing bit by bit."""
        tensors = list(self.model.state_dict().values())
        for optimizer in self.optimizers:
            tensors += [t for state in optimizer.state.values() for t in state.values()]
        rest = [*(o.state_dict() for o in (*self.schedulers, self.scaler)), self.log, self.losses]
        rest += [o.param_groups[0]["lr"] for o in self.optimizers]
        rest += [random.random(), numpy.random.rand(), torch.rand(1), torch.rand(1,
                 generator=self.order)]
        return [*(t.numpy().tobytes() for t in tensors), *map(repr, rest)]


def undisturbed() -> Training:
    training = Training()
    for number in range(STEPS):
        training.step(number)
    return training


def main() -> None:
    kill_at = int(sys.argv[1])
    ftmem.init_process_group("gloo")
    training = Training()
    guard = ftmem.Guard(*training.objects(), job="train", on_error="raise", when_busy="wait")
    start = guard.restore()
    print(f"starts from {start}", flush=True)
    for number in range(start, STEPS):
        training.step(number)
        guard.snapshot(number + 1)
        if number + 1 == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
    assert guard.wait() == ftmem.Result.OK
    if kill_at == 0:
        found = training.state()
        for a, b in zip(undisturbed().state(), found, strict=True):
            assert a == b, f"{a!r} != {b!r}"
        print("equal to the undisturbed training", flush=True)
    guard.close()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
