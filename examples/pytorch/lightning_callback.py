# SPDX-License-Identifier: BSD-3-Clause
"""A small GPT trained by Lightning, with ftmem's callback.

    mpirun -n 2 python examples/pytorch/lightning_callback.py --crash-at 20
    mpirun -n 2 python examples/pytorch/lightning_callback.py
    ftmem drop lightning

The first is killed at step 20, in the middle of an epoch; the second goes on from there. It
prints the digest that a training prints which nobody killed (--unprotected).
"""
import argparse
import hashlib
import os
import signal

import lightning
import torch
import torch.nn.functional as F
from lightning.pytorch.strategies import DDPStrategy
from torch.utils.data import DataLoader, Dataset

import ftmem
from gpt import GPT
from text import read_text

CONTEXT = 32


class Windows(Dataset):
    """Windows of a text: int64 (CONTEXT + 1,)."""

    def __init__(self, text: torch.Tensor, count: int) -> None:
        self.text, self.count = text, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> torch.Tensor:
        return self.text[i * CONTEXT:(i + 1) * CONTEXT + 1].long()


class Model(lightning.LightningModule):
    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.gpt = GPT(context=CONTEXT, dim=32, heads=2, layers=2, dropout=0.1)
        self.losses: list[str] = []

    def loss(self, rows: torch.Tensor) -> torch.Tensor:
        logits = self.gpt(rows[:, :-1])
        return F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())

    def training_step(self, rows: torch.Tensor, i: int) -> torch.Tensor:
        loss = self.loss(rows)
        self.losses.append(loss.item().hex())
        return loss

    def validation_step(self, rows: torch.Tensor, i: int) -> None:
        self.log("held out", self.loss(rows), sync_dist=True)

    def configure_optimizers(self) -> dict:
        optimizer = torch.optim.AdamW(self.parameters(), lr=3e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        return {"optimizer": optimizer,
                "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Crash(lightning.Callback):
    """SIGKILL for rank 1, or 0 if it is alone, after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer, *_) -> None:
        if self.step and trainer.global_step == self.step and (
                trainer.global_rank == trainer.world_size - 1):
            os.kill(os.getpid(), signal.SIGKILL)


class Report(lightning.Callback):
    def on_train_start(self, trainer, _) -> None:
        if trainer.is_global_zero:
            print(f"from step {trainer.global_step}, epoch {trainer.current_epoch}", flush=True)


def digest(model: Model, optimizer: torch.optim.Optimizer) -> str:
    """SHA-256 of weights, optimizer state and this rank's loss curve."""
    out = hashlib.sha256(",".join(model.losses).encode())
    for name, parameter in model.named_parameters():
        for key, value in sorted({"": parameter, **optimizer.state[parameter]}.items()):
            out.update(f"{name}.{key}".encode())
            out.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return out.hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--job", default="lightning")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--workers", type=int, default=0, help="of the data loader")
    parser.add_argument("--every", type=int, default=1, help="steps from snapshot to snapshot")
    parser.add_argument("--text", nargs="+", default=[], metavar="FILE", help="none: our docs")
    parser.add_argument("--crash-at", type=int, default=0, metavar="STEP")
    parser.add_argument("--unprotected", action="store_true", help="without libftmem, to compare")
    args = parser.parse_args()

    torch.set_num_threads(1)
    environment = ftmem.lightning.Environment()
    lightning.seed_everything(1, verbose=False)
    text = read_text(args.text)
    train = DataLoader(Windows(text, 192), batch_size=4, shuffle=True, num_workers=args.workers)
    held_out = DataLoader(Windows(text[200 * CONTEXT:], 16), batch_size=4)
    model = Model(steps=args.epochs * 12)
    callbacks = [Report(), Crash(args.crash_at)]
    if not args.unprotected:
        callbacks.insert(0, ftmem.lightning.Callback(
            model.losses, job=args.job, every_n_steps=args.every))
    trainer = lightning.Trainer(
        accelerator="cpu", devices=environment.devices, num_nodes=environment.nodes,
        # With more than two ranks gradients are else added in another order after a restart.
        strategy=DDPStrategy(find_unused_parameters=True), plugins=[environment],
        callbacks=callbacks, max_epochs=args.epochs, accumulate_grad_batches=2,
        val_check_interval=8, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False)
    torch.manual_seed(1000 + environment.global_rank())  # dropout: other units on each rank
    trainer.fit(model, train, held_out)
    print(f"rank {trainer.global_rank}: digest {digest(model, trainer.optimizers[0])}", flush=True)


if __name__ == "__main__":
    main()
