# SPDX-License-Identifier: BSD-3-Clause
"""Real text without a download, as bytes, and a loader whose position is a number."""
from collections.abc import Sequence
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]


def read_text(paths: Sequence[str]) -> torch.Tensor:
    """The files one after another, uint8; without files: this project's own pages."""
    files = [Path(path) for path in paths]
    if not files:
        files = [ROOT / "LICENSE", ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    data = b"".join(file.read_bytes() for file in files)
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


class Batches:
    """Endless batches of windows of a text, each epoch in another order.

    Of every batch of the job this rank gets the windows rank, rank + ranks, ... How many
    windows all ranks have drawn is the whole state. It does not depend on the number of
    ranks, so another number goes on at the same place.
    """

    def __init__(self, text: torch.Tensor, *, context: int, batch: int, rank: int, ranks: int,
                 seed: int) -> None:
        if batch % ranks:
            raise ValueError(f"a batch of {batch} cannot be divided among {ranks} ranks")
        self.text, self.context, self.batch = text, context, batch
        self.rank, self.ranks, self.seed = rank, ranks, seed
        self.windows = (len(text) - 1) // context
        if self.windows < batch:
            raise ValueError(f"the text has {self.windows} windows of {context} bytes: "
                             f"not enough for a batch of {batch}")
        self.drawn = 0
        self.epoch = -1
        self.order = torch.empty(0)

    def state_dict(self) -> dict[str, int]:
        return {"drawn": self.drawn}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.drawn = state["drawn"]

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Bytes and the bytes that follow them, both int64 (batch / ranks, context)."""
        mine = range(self.drawn + self.rank, self.drawn + self.batch, self.ranks)
        starts = [self._window(number) * self.context for number in mine]
        self.drawn += self.batch
        rows = torch.stack([self.text[s:s + self.context + 1] for s in starts]).long()
        return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()

    def _window(self, number: int) -> int:
        epoch, place = divmod(number, self.windows)
        if epoch != self.epoch:
            generator = torch.Generator().manual_seed(self.seed + epoch)
            self.order = torch.randperm(self.windows, generator=generator)
            self.epoch = epoch
        return int(self.order[place])
