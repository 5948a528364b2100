# SPDX-License-Identifier: BSD-3-Clause
"""A GPT-2 and its training step in PyTorch: what ftmem_gpu_bench.py snapshots.

Parameters and AdamW's moments are 32-bit floats, 12 bytes of state for each parameter; matrix
products run in bf16 (autocast). Embedding and output layer are separate tensors, as in most
models of today.
"""
import dataclasses

import torch
from torch import nn
from torch.nn import functional


@dataclasses.dataclass(frozen=True)
class Shape:
    layers: int
    heads: int
    width: int
    vocabulary: int
    batch: int  # unless asked otherwise
    positions: int = 1024


SHAPES = {
    # The vocabulary of 50,257 is padded to a multiple of 64, for the matrix units.
    "medium": Shape(layers=24, heads=16, width=1024, vocabulary=50304, batch=16),
    "xl": Shape(layers=48, heads=25, width=1600, vocabulary=50304, batch=8),
    "tiny": Shape(layers=2, heads=2, width=64, vocabulary=512, batch=4),
}


class Block(nn.Module):
    def __init__(self, shape):
        super().__init__()
        width = shape.width
        self.heads = shape.heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def attention(self, x):
        batch, length, width = x.shape
        parts = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).reshape(batch, length, width))

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.down(functional.gelu(self.up(self.norm2(x)), approximate="tanh"))


class Gpt(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.tokens = nn.Embedding(shape.vocabulary, shape.width)
        self.positions = nn.Embedding(shape.positions, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(shape.width)
        self.head = nn.Linear(shape.width, shape.vocabulary, bias=False)

    def forward(self, tokens, targets):
        where = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.tokens(tokens) + self.positions(where)
        for block in self.blocks:
            x = block(x)
        logits = self.head(self.norm(x))
        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def state_shapes(shape):
    """(name, shape) of all tensors of the state, as Training.state() has them."""
    with torch.device("meta"):
        model = Gpt(shape)
    return [(f"{kind}.{name}", tuple(parameter.shape)) for kind in ("p", "m", "v")
            for name, parameter in model.named_parameters()]


class Training:
    """A model and its optimizer. A step is forward_backward() and update(); only the second
    writes the state."""

    POOL = 8  # batches of random tokens, used in turn

    def __init__(self, shape, batch, length, device, seed, parallel):
        torch.manual_seed(seed)
        self.device = device
        with torch.device(device):
            self.model = Gpt(shape)
            self.pool = torch.randint(shape.vocabulary, (self.POOL, batch, length + 1))
        self.runner = self.model
        if parallel:
            ids = [device.index] if device.type == "cuda" else None
            self.runner = nn.parallel.DistributedDataParallel(
                self.model, device_ids=ids, gradient_as_bucket_view=True)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4,
                                           fused=device.type == "cuda")
        self.steps, self.loss = 0, None

    def forward_backward(self):
        tokens = self.pool[self.steps % self.POOL]
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            loss = self.runner(tokens[:, :-1], tokens[:, 1:])
        loss.backward()
        self.loss = loss.detach()

    def update(self):
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.steps += 1

    def state(self):
        """(name, tensor) of parameters and moments, which are there after the first step."""
        named = list(self.model.named_parameters())
        moments = self.optimizer.state
        return ([(f"p.{name}", p.detach()) for name, p in named]
                + [(f"m.{name}", moments[p]["exp_avg"]) for name, p in named]
                + [(f"v.{name}", moments[p]["exp_avg_sq"]) for name, p in named])
