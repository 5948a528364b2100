# SPDX-License-Identifier: BSD-3-Clause
"""A small GPT-2 trained by Hugging Face's Trainer, with ftmem's callback; nothing is downloaded.

    mpirun -n 2 python examples/pytorch/huggingface_trainer.py --crash-at 20
    mpirun -n 2 python examples/pytorch/huggingface_trainer.py
    ftmem drop huggingface

The first is killed at step 20, in the middle of an epoch; the second goes on from there. It
prints the digest that a training prints which nobody killed (--unprotected).
"""
import argparse
import hashlib
import os
import signal
import tempfile

import torch
from torch.utils.data import Dataset
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

import ftmem
from text import read_text

CONTEXT = 32


class Windows(Dataset):
    """Windows of a text: int64 (CONTEXT,), the labels the same."""

    def __init__(self, text: torch.Tensor, count: int) -> None:
        self.text, self.count = text, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        window = self.text[i * CONTEXT:(i + 1) * CONTEXT].long()
        return {"input_ids": window, "labels": window}


class Crash(TrainerCallback):
    """SIGKILL for the last rank, after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_begin(self, args, state, control, **_) -> None:
        if state.is_world_process_zero:
            print(f"from step {state.global_step}, epoch {state.epoch:.2f}", flush=True)

    def on_step_end(self, args, state, control, **_) -> None:
        if state.global_step == self.step and args.process_index == args.world_size - 1:
            os.kill(os.getpid(), signal.SIGKILL)


def digest(trainer: Trainer) -> str:
    """SHA-256 of weights, optimizer state and the logged losses."""
    losses = [(log["step"], log.get("loss"), log.get("eval_loss"))
              for log in trainer.state.log_history if "train_loss" not in log]
    out = hashlib.sha256(repr(losses).encode())
    for name, parameter in trainer.model.named_parameters():
        state = trainer.optimizer.state[parameter]
        for key, value in sorted({"": parameter, **state}.items()):
            out.update(f"{name}.{key}".encode())
            out.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return out.hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--job", default="huggingface")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--workers", type=int, default=0, help="of the data loader")
    parser.add_argument("--every", type=int, default=1, help="steps from snapshot to snapshot")
    parser.add_argument("--text", nargs="+", default=[], metavar="FILE", help="none: our docs")
    parser.add_argument("--crash-at", type=int, default=0, metavar="STEP")
    parser.add_argument("--unprotected", action="store_true", help="without libftmem, to compare")
    args = parser.parse_args()

    torch.set_num_threads(1)
    here = ftmem.set_environ()  # before TrainingArguments
    text = read_text(args.text)
    set_seed(1)
    model = GPT2LMHeadModel(GPT2Config(
        vocab_size=256, n_positions=CONTEXT, n_embd=32, n_layer=2, n_head=2,
        bos_token_id=0, eos_token_id=0))
    arguments = TrainingArguments(
        output_dir=os.path.join(tempfile.gettempdir(), "huggingface_trainer"), use_cpu=True,
        num_train_epochs=args.epochs, per_device_train_batch_size=4, gradient_accumulation_steps=2,
        learning_rate=3e-3, lr_scheduler_type="cosine", logging_steps=5, eval_strategy="steps",
        eval_steps=8, save_strategy="no", report_to=[], disable_tqdm=True, seed=1,
        dataloader_num_workers=args.workers)
    callback = ftmem.huggingface.FtmemCallback(job=args.job, every_n_steps=args.every)
    trainer = Trainer(
        model, arguments, train_dataset=Windows(text, 192),
        eval_dataset=Windows(text[200 * CONTEXT:], 16),
        callbacks=[Crash(args.crash_at)] if args.unprotected else [callback, Crash(args.crash_at)])
    torch.manual_seed(1000 + here.rank)  # dropout: other units on each rank
    trainer.train(
        resume_from_checkpoint=None if args.unprotected else callback.checkpoint(trainer))
    print(f"rank {here.rank}: digest {digest(trainer)}", flush=True)


if __name__ == "__main__":
    main()
