# SPDX-License-Identifier: BSD-3-Clause
"""For programs that try Guard: a small training, and running all checks of a program."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ftmem
import torch
from torch import nn

JOB = "checks"


class Net(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.first = nn.Linear(3, width)
        self.norm = nn.BatchNorm1d(width)
        self.second = nn.Linear(width, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.norm(self.first(x)))


class Loop:
    """A model, its optimizer, and steps of it."""

    def __init__(self, model: nn.Module | None = None, kind: Any = torch.optim.AdamW,
                 **options: Any) -> None:
        self.model = model or Net()
        self.optimizer = kind(self.model.parameters(), lr=0.1, **options)

    def step(self, count: int = 1) -> None:
        for _ in range(count):
            self.optimizer.zero_grad()
            self.model(torch.randn(5, 3)).square().sum().backward()
            self.optimizer.step()

    def tensors(self) -> list[torch.Tensor]:
        inner = [t for state in self.optimizer.state.values() for t in state.values()]
        return [t for t in [*self.model.state_dict().values(), *inner] if torch.is_tensor(t)]

    def state(self) -> list[bytes]:
        return [tensor.detach().numpy().tobytes() for tensor in self.tensors()]


@contextmanager
def guarded(*objects: Any, forget: bool = True, **options: Any) -> Iterator[ftmem.Guard]:
    """A guard that raises what goes wrong, of a job that is empty again afterwards."""
    options = {"on_error": "raise", "when_busy": "wait", **options}
    with ftmem.Guard(*objects, job=JOB, **options) as guard:
        yield guard
        if forget:
            guard.forget()


def store(*objects: Any, step: int = 1) -> None:
    """Leaves a version of the objects behind."""
    with guarded(*objects, forget=False) as guard:
        taken(guard, step)


def taken(guard: ftmem.Guard, step: int) -> None:
    """A snapshot, committed."""
    assert guard.snapshot(step) == ftmem.Result.OK
    assert guard.wait() == ftmem.Result.OK


def restored(*objects: Any, **options: Any) -> int:
    """Restores what is stored, and erases it."""
    with guarded(*objects, **options) as guard:
        return guard.restore()


def run(checks: dict[str, Any]) -> None:
    """All functions of a program whose names do not begin with an underscore, in order. No
    warning may come that a check does not catch."""
    warnings.simplefilter("error", ftmem.FtmemWarning)
    for name, check in list(checks.items()):
        local = isinstance(check, Callable) and getattr(check, "__module__", "") == "__main__"
        if local and not name.startswith("_") and not isinstance(check, type):
            check()
            print(f"holds: {name}", flush=True)
