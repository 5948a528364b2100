# SPDX-License-Identifier: BSD-3-Clause
"""The training loop, which libftmem protects with three lines."""
import argparse
import math
import sys
import time

import common
import ftmem
import torch
import torch.distributed as dist
import torch.nn.functional as F
from text import Batches, read_text
from torch import nn

WARM_STEPS = 5


def cosine(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LambdaLR:
    """Up in a few steps, then down along a cosine to a tenth."""
    def factor(step: int) -> float:
        if step < WARM_STEPS:
            return (step + 1) / WARM_STEPS
        done = min(1.0, (step - WARM_STEPS) / max(1, steps - WARM_STEPS))
        return 0.1 + 0.45 * (1 + math.cos(math.pi * done))
    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def loss_of(model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross entropy of the next bytes, a scalar; in mixed precision."""
    with torch.autocast(inputs.device.type, dtype=torch.bfloat16):
        logits = model(inputs)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def first_pass(model: nn.Module, args: argparse.Namespace, device: torch.device) -> None:
    """One pass that changes nothing, before the state is restored.

    After its first backward pass DistributedDataParallel puts the gradients into other
    buckets, in which more than two ranks add them up in another order. A job that starts
    again must not do its first real step with the first buckets.
    """
    nothing = torch.zeros(args.batch // dist.get_world_size(), args.context, dtype=torch.long,
                          device=device)
    loss_of(model, nothing, nothing).backward()
    model.zero_grad()


def train(model: nn.Module, args: argparse.Namespace, device: torch.device) -> None:
    """Trains up to step args.steps, from wherever the job was."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.rate, weight_decay=0.1)
    scheduler = cosine(optimizer, args.steps)
    batches = Batches(read_text(args.text), context=args.context, batch=args.batch,
                      rank=dist.get_rank(), ranks=dist.get_world_size(), seed=args.seed)
    losses: list[float] = []
    # Dropout: other units on each rank.
    torch.manual_seed(args.seed * 1000 + dist.get_rank())
    first_pass(model, args, device)
    first, guard = 0, None
    if not args.unprotected:
        guard = ftmem.Guard(model, optimizer, scheduler, batches, losses,
                            job=args.job, parity=args.parity)
        first = restore(guard)
    began = time.monotonic()
    for step in range(first + 1, args.steps + 1):
        inputs, targets = (part.to(device) for part in next(batches))
        loss = loss_of(model, inputs, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        losses.append(common.mean(loss))
        if guard:
            guard.snapshot(step)
        common.crash(args, step)
        common.say(f"step {step:6}  loss {losses[-1]:.4f}"
                   + (f"  committed {guard.stats()['newest']:6}" if guard else ""))
        if args.digests:
            common.say(f"digest of step {step}: {common.digest(model, optimizer, losses)}")
    if guard:
        guard.close()
    common.say(f"done: step {args.steps}, loss {losses[-1]:.4f}, "
               f"{time.monotonic() - began:.1f} s")
    common.say(f"digest {common.digest(model, optimizer, losses)}")


def restore(guard: ftmem.Guard) -> int:
    """The step to go on from; 0: nothing is stored. Status 3: too much is lost."""
    try:
        step = guard.restore()
    except ftmem.TooMuchLost as lost:
        common.say(f"ftmem: {lost}")
        sys.exit(3)
    if step:
        stats = guard.stats()
        common.say(f"restored version {step} in {1e3 * stats['restore_s']:.1f} ms, "
                   f"{1e3 * stats['rebuild_s']:.1f} ms of it to rebuild")
    return step
