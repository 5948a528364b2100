#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Checkpoints of torch.distributed.checkpoint in the nodes' memory instead of files.

    mpirun -n 2 python examples/pytorch/dcp_checkpoint.py --crash-at 12
    mpirun -n 2 python examples/pytorch/dcp_checkpoint.py
    ftmem drop dcp; ftmem drop dcp.meta

The first is killed at step 12; the second loads the newest checkpoint and goes on from there. It
prints the digest that a training prints which nobody killed. Another number of ranks loads it too:
DCP reshards. Two writers of DCP are shown: dcp.save() at every 10th step, which waits, and
dcp.async_save() at the others at which there is a checkpoint.
"""
import argparse
import hashlib
import os
import signal

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

import ftmem


class Training:
    """A tiny model, sharded over the ranks, that learns to add. DCP takes it as a Stateful."""

    def __init__(self) -> None:
        torch.manual_seed(1)
        cuda = torch.cuda.is_available()
        self.device = torch.device("cuda", ftmem.world().local_rank) if cuda else "cpu"
        if cuda:
            torch.cuda.set_device(self.device)
        self.model = torch.nn.Sequential(
            torch.nn.Linear(8, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1)).to(self.device)
        fully_shard(self.model, mesh=init_device_mesh("cuda" if cuda else "cpu",
                                                      (dist.get_world_size(),)))
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.01)
        self.step, self.losses = 0, []

    def train(self) -> None:
        data = torch.Generator().manual_seed(self.step)  # the same rows on all ranks
        rows = torch.rand(16, 8, generator=data).to(self.device)
        loss = (self.model(rows) - rows.sum(1, keepdim=True)).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.step += 1
        self.losses.append(loss.item())

    def state_dict(self) -> dict:
        model, optimizer = get_state_dict(self.model, self.optimizer)
        return {"model": model, "optimizer": optimizer, "step": self.step, "losses": self.losses}

    def load_state_dict(self, state: dict) -> None:
        set_state_dict(self.model, self.optimizer, model_state_dict=state["model"],
                       optim_state_dict=state["optimizer"])
        self.step, self.losses = state["step"], state["losses"]

    def digest(self) -> str:
        """Of all weights, Adam's state and the losses; collective."""
        model, optimizer = get_state_dict(self.model, self.optimizer)
        sha = hashlib.sha256(repr(self.losses).encode())
        for values in [model, *(optimizer["state"][name] for name in sorted(model))]:
            for key in sorted(values):
                value = values[key]
                value = value.full_tensor() if isinstance(value, DTensor) else value
                sha.update(bytes(value.cpu().contiguous().flatten().view(torch.uint8).tolist()))
        return sha.hexdigest()[:16]


def main() -> None:
    parser = argparse.ArgumentParser(description="Checkpoints in the nodes' memory, by DCP.")
    parser.add_argument("--steps", type=int, default=30, help="train up to this step")
    parser.add_argument("--every", type=int, default=5, help="steps between checkpoints")
    parser.add_argument("--crash-at", type=int, default=0, metavar="STEP",
                        help="kill -9 this rank after the step; 0: never")
    parser.add_argument("--job", default="dcp", help="name of the job, the same across restarts")
    args = parser.parse_args()

    torch.set_num_threads(1)
    # async_save() needs a backend for the CPU, too.
    ftmem.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    # Its messages go beside those of the training, from another thread: a group of its own.
    group = dist.new_group(backend="gloo")
    training = Training()
    writer = ftmem.dcp.Writer(args.job, parity=1)
    reader = ftmem.dcp.Reader(writer)

    say = print if dist.get_rank() == 0 else lambda *_: None
    if reader.version() is not None:
        dcp.load({"training": training}, storage_reader=reader, process_group=group)
        say(f"goes on from step {training.step}")
    future = None
    while training.step < args.steps:
        training.train()
        step = training.step
        if step == args.crash_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if step % args.every != 0:
            continue
        if future:
            future.result()  # of the checkpoint before; raises if that could not be stored
        # The step is the version.
        where = {"checkpoint_id": step, "storage_writer": writer, "process_group": group}
        if step % 10 == 0:
            dcp.save({"training": training}, **where)
            say(f"step {step}: stored, loss {training.losses[-1]:.4f}")
        else:
            future = dcp.async_save({"training": training}, **where)
            say(f"step {step}: on its way, loss {training.losses[-1]:.4f}")
    if future:
        future.result()
    say(f"digest {training.digest()}")
    writer.close()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
