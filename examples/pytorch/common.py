# SPDX-License-Identifier: BSD-3-Clause
"""What both trainings need that has nothing to do with training: options, start, digest."""
import argparse
import hashlib
import logging
import os
import signal
import socket
from collections.abc import Iterator

import ftmem
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor


def arguments(description: str, words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("--steps", type=int, default=60, help="train up to this step")
    add("--batch", type=int, default=12, help="windows of text per step, of all ranks")
    add("--context", type=int, default=64, help="bytes of a window")
    add("--dim", type=int, default=64, help="width of the model")
    add("--heads", type=int, default=4)
    add("--layers", type=int, default=2)
    add("--dropout", type=float, default=0.1)
    add("--rate", type=float, default=3e-3, help="the highest learning rate")
    add("--seed", type=int, default=1)
    add("--text", nargs="+", default=[], metavar="FILE", help="what to learn; none: our docs")
    add("--job", default="gpt", help="name of the training, the same across restarts")
    add("--parity", type=int, default=1, help="nodes that may be lost")
    add("--unprotected", action="store_true", help="without libftmem, to compare")
    add("--digests", action="store_true", help="print the digest after each step")
    add("--crash-at", type=int, default=0, metavar="STEP",
        help="kill -9 a rank in the snapshot of this step; 0: none")
    add("--crash-rank", type=int, default=0, metavar="R", help="which one")
    return parser.parse_args(words)


def start() -> torch.device:
    """Joins the ranks that mpirun or srun started, and says where each of them is."""
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", ftmem.world().local_rank)
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(1)  # several ranks share this machine's processors
    ftmem.init_process_group()
    logging.basicConfig(level=logging.INFO,
                        format=f"%(name)s[{dist.get_rank()}]: %(levelname)s: %(message)s")
    node = os.environ.get("FTMEM_NODE", socket.gethostname())
    places = [None] * dist.get_world_size()
    dist.all_gather_object(places, (node, os.getpid()))
    for rank, (node, pid) in enumerate(places):
        say(f"rank {rank}: node {node}, pid {pid}")
    return device


def end() -> None:
    """All ranks leave together: no message is under way when the interpreter ends."""
    dist.barrier()
    dist.destroy_process_group()


def say(text: str) -> None:
    if dist.get_rank() == 0:
        print(text, flush=True)


def mean(loss: torch.Tensor) -> float:
    """The mean of all ranks' losses, the same number on all of them."""
    total = loss.detach().float().clone()
    dist.all_reduce(total)
    return total.item() / dist.get_world_size()


def crash(args: argparse.Namespace, step: int) -> None:
    if step == args.crash_at and dist.get_rank() == args.crash_rank:
        os.kill(os.getpid(), signal.SIGKILL)


def digest(model: nn.Module, optimizer: torch.optim.Optimizer, losses: list[float]) -> str:
    """SHA-256 of weights, optimizer state and loss curve. Collective.

    It does not depend on how many ranks hold the tensors, nor on how they are cut.
    RuntimeError: ranks that must be equal are not.
    """
    own = hashlib.sha256()
    for name, value in _state(model, optimizer):
        own.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        own.update(value.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    own.update(",".join(map(float.hex, losses)).encode())
    digests = [""] * dist.get_world_size()
    dist.all_gather_object(digests, own.hexdigest())
    if len(set(digests)) > 1:
        raise RuntimeError(f"ranks have come apart: {digests}")
    return digests[0]


def _state(model: nn.Module,
           optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, torch.Tensor]]:
    bare = getattr(model, "module", model)  # without DistributedDataParallel
    for name, parameter in bare.named_parameters():
        values = {"weight": parameter, **optimizer.state.get(parameter, {})}
        for key in sorted(values):
            value = values[key].detach()
            yield f"{name}.{key}", (value.full_tensor() if isinstance(value, DTensor)
                                    else value).cpu()
