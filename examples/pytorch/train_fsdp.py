# SPDX-License-Identifier: BSD-3-Clause
"""Trains a small GPT, fully sharded (FSDP2): every rank has a part of each tensor.

usage: mpirun -n 4 python examples/pytorch/train_fsdp.py
"""
import argparse

import common
import loop
import torch
import torch.distributed as dist
from gpt import GPT
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard


def build(args: argparse.Namespace, device: torch.device) -> GPT:
    torch.manual_seed(args.seed)  # the same weights on all ranks, of which each keeps its part
    model = GPT(context=args.context, dim=args.dim, heads=args.heads, layers=args.layers,
                dropout=args.dropout).to(device)
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def main() -> None:
    args = common.arguments("Trains a small GPT with fully_shard (FSDP2).")
    device = common.start()
    loop.train(build(args, device), args, device)
    common.end()


if __name__ == "__main__":
    main()
