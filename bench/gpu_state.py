# SPDX-License-Identifier: BSD-3-Clause
"""The state that ftmem_gpu_bench.py protects: its pieces, how ranks share them, and whether
what is in them is what was put there. And who the ranks are.
"""
import dataclasses
import datetime
import math
import os
import re
import zlib

import torch
import torch.distributed as dist

import gpu_model

ELEMENT = 4  # bytes; all of the state are 32-bit floats
CHUNK = 1 << 24  # elements that are looked at together


@dataclasses.dataclass(frozen=True)
class Piece:
    """What a rank registers of a tensor of `total` elements, from element `start` on."""
    name: str
    tensor: torch.Tensor  # flat
    total: int
    start: int
    private: bool

    @property
    def bytes(self):
        return self.tensor.numel() * ELEMENT

    def box(self):
        if self.private:
            return {}
        return {"elem_bytes": ELEMENT, "shape": (self.total,), "start": (self.start,),
                "extent": (self.tensor.numel(),)}


class World:
    """The ranks, as mpirun started them; alone without it. Barriers and what ranks tell each
    other go through torch.distributed, so that the library's network is not in the way."""

    def __init__(self, nccl):
        def number(name, default):
            return int(os.environ.get(f"OMPI_COMM_WORLD_{name}", default))
        self.rank, self.size = number("RANK", 0), number("SIZE", 1)
        self.local_rank = number("LOCAL_RANK", 0)
        name = os.environ.get("PMIX_NAMESPACE") if self.size > 1 else None
        self.name = re.sub(r"\W", "", name or f"p{os.getpid()}")
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
        os.environ.setdefault("MASTER_PORT", str(20000 + zlib.crc32(self.name.encode()) % 12000))
        if os.environ["MASTER_ADDR"] == "127.0.0.1":
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        limit = datetime.timedelta(minutes=5)
        store = {"store": dist.HashStore()} if self.size == 1 else {}
        dist.init_process_group("cpu:gloo,cuda:nccl" if nccl else "gloo", rank=self.rank,
                                world_size=self.size, timeout=limit, **store)
        self.control = dist.new_group(backend="gloo", timeout=limit)

    def barrier(self):
        if self.size > 1:
            dist.barrier(self.control)

    def gather(self, value):
        """Everyone's values, on every rank."""
        if self.size == 1:
            return [value]
        out = [None] * self.size
        dist.all_gather_object(out, value, self.control)
        return out

    def share(self, elements):
        """Which part of so many elements is this rank's."""
        return (elements * self.rank // self.size, elements * (self.rank + 1) // self.size)


def pieces_of(state, world, hold):
    """hold "whole": private to the rank; "share": each rank has its part of each tensor, as
    with sharded data parallelism; "replicas": each rank has all of each tensor."""
    out = []
    for name, tensor in state:
        if not tensor.is_contiguous():
            raise ValueError(f"{name} is not contiguous")
        flat = tensor.view(-1)
        first, end = world.share(flat.numel()) if hold == "share" else (0, flat.numel())
        if end > first:
            out.append(Piece(name, flat[first:end], flat.numel(), first, hold == "whole"))
    return out


def plain_pieces(shape, world, hold, device):
    """A state like that of a training, but with nothing else on the device."""
    out = []
    for name, dimensions in gpu_model.state_shapes(shape):
        total = math.prod(dimensions)
        first, end = world.share(total) if hold == "share" else (0, total)
        if end > first:
            tensor = torch.empty(end - first, dtype=torch.float32, device=device)
            out.append(Piece(name, tensor, total, first, hold == "whole"))
    return out


def copied_parts(pieces, world, hold):
    """What this rank copies: of replicas its part, as the library deals them."""
    parts = []
    for piece in pieces:
        first, end = (world.share(piece.total) if hold == "replicas"
                      else (0, piece.tensor.numel()))
        if end > first:
            parts.append(piece.tensor[first:end])
    return parts


def host_pairs(parts, addr):
    """(device address, host address, bytes), one part after the other from addr on, each at a
    multiple of 64 as in a slot; and all bytes that are taken there."""
    pairs, at = [], 0
    for part in parts:
        size = part.numel() * ELEMENT
        pairs.append((part.data_ptr(), addr + at, size))
        at += (size + 63) // 64 * 64
    return pairs, at


def randoms(seed, device):
    generator = torch.Generator(device)
    generator.manual_seed(seed)
    return lambda ints: ints.random_(-(1 << 31), (1 << 31) - 1, generator=generator)


def fill(pieces, seed, device):
    draw = randoms(seed, device)
    for piece in pieces:
        draw(piece.tensor.view(torch.int32))


def differing(pieces, seed, device):
    """Names of the pieces that are not as fill() with that seed left them."""
    draw = randoms(seed, device)
    scratch = torch.empty(max(piece.tensor.numel() for piece in pieces), dtype=torch.int32,
                          device=device)
    out = []
    for piece in pieces:
        wanted = draw(scratch[:piece.tensor.numel()])
        if not torch.equal(wanted, piece.tensor.view(torch.int32)):
            out.append(piece.name)
    return out


def fingerprints(pieces):
    """Of each piece a sum over its elements, each weighted by where it is, mod 2^64. Made on
    the device, behind what is queued on the current stream."""
    weights = None
    sums = []
    for piece in pieces:
        ints, total = piece.tensor.view(torch.int32), None
        if weights is None:
            weights = 2 * torch.arange(CHUNK, dtype=torch.int64, device=ints.device) + 1
        for i, chunk in enumerate(ints.split(CHUNK)):
            # The chunk's number goes in too: equal chunks must not be exchanged unseen.
            part = (chunk * weights[:chunk.numel()]).sum() * (2654435762 * i + 1)
            total = part if total is None else total + part
        sums.append(total)
    return torch.stack(sums).cpu()
