# SPDX-License-Identifier: BSD-3-Clause
"""Host time of Guard.snapshot() and of the fence that an optimizer's step calls.

    python bench/ftmem_python_bench.py [--layers 145] [--width 64] [--steps 200] [--device cpu]

A layer has two parameters, and AdamW three tensors for each: 145 layers make 1,160 tensors.
Prints the median and the 95th percentile of each, in microseconds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "python"))

import ftmem
import torch


def percentiles(name: str, seconds: list[float]) -> str:
    cuts = statistics.quantiles(seconds, n=20)
    return f"{name}: median {cuts[9] * 1e6:.0f} us, 95 % below {cuts[18] * 1e6:.0f} us"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=145)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    model = torch.nn.Sequential(*(torch.nn.Linear(args.width, args.width)
                                  for _ in range(args.layers))).to(args.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.steps)
    snapshots, fences = [], []
    with ftmem.Guard(model, optimizer, schedule, job=f"bench.{time.time_ns()}") as guard:
        for step in range(args.steps):
            model(torch.randn(4, args.width, device=args.device)).sum().backward()
            optimizer.step()
            schedule.step()
            guard.wait()
            began = time.perf_counter()
            guard.snapshot(step + 1)
            taken = time.perf_counter()
            guard.fence()
            if step > 0:  # the first registers all tensors
                snapshots.append(taken - began)
                fences.append(time.perf_counter() - taken)
        tensors = 2 * args.layers * 4
        print(f"{tensors} tensors, {guard.stats()['region_bytes'] / 1e6:.1f} MB")
        print(percentiles("snapshot", snapshots))
        print(percentiles("fence, with what is left of the copy", fences))
        idle = [idle_fence(guard, args.steps + 1 + i) for i in range(args.steps)]
        print(percentiles("fence", idle))
        guard.forget()


def idle_fence(guard: ftmem.Guard, step: int) -> float:
    """When all has been copied: what the call itself takes."""
    guard.wait()
    guard.snapshot(step)
    guard.wait()
    began = time.perf_counter()
    guard.fence()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
