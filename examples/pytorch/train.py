# SPDX-License-Identifier: BSD-3-Clause
"""Trains a small GPT, data parallel: every rank has the whole model.

usage: mpirun -n 4 python examples/pytorch/train.py
"""
import argparse

import common
import loop
import torch
from gpt import GPT
from torch.nn.parallel import DistributedDataParallel


def build(args: argparse.Namespace, device: torch.device) -> DistributedDataParallel:
    torch.manual_seed(args.seed)  # the same weights on all ranks
    model = GPT(context=args.context, dim=args.dim, heads=args.heads, layers=args.layers,
                dropout=args.dropout).to(device)
    return DistributedDataParallel(model)


def main() -> None:
    args = common.arguments("Trains a small GPT with DistributedDataParallel.")
    device = common.start()
    loop.train(build(args, device), args, device)
    common.end()


if __name__ == "__main__":
    main()
