# SPDX-License-Identifier: BSD-3-Clause
"""Hugging Face Trainer: a callback that keeps its whole state in the nodes' memory.

    ftmem.set_environ()                  # before TrainingArguments: ranks as MPI gave them
    callback = ftmem.huggingface.FtmemCallback(job="run1", parity=1)
    trainer = Trainer(model, args, train_dataset=data, callbacks=[callback])
    trainer.train(resume_from_checkpoint=callback.checkpoint(trainer))

Started with `mpirun -n 4 python train.py`; after a failure, with the same command again.

A Trainer skips the batches that were trained only if it is told to resume from a checkpoint
folder. checkpoint() makes one for it, which holds the number of the step and no weights: all else
comes from memory when the training begins. Where nothing is stored, it returns None.

What comes back: weights, optimizer, LR scheduler, gradient scaler, random numbers, TrainerState
with its log, the loss summed up since the last log, the counters of callbacks such as
EarlyStoppingCallback, and the place in the epoch with the same order of samples. State of your
own goes to FtmemCallback(*objects).

What does not: random numbers that a data set or collator draws, for the batches fetched ahead
and, with dataloader_num_workers, in the workers; the Trainer's own checkpoints do not bring them
back either. Let them draw from the index of the sample where it matters.
"""

from __future__ import annotations

import json
import struct
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from . import _framework, _rng
from .guard import Guard
from .launch import world
from .session import Session

try:
    from transformers import TrainerCallback
except ModuleNotFoundError as _missing:
    raise ImportError(
        "ftmem.huggingface needs transformers: pip install transformers accelerate") from _missing

# Of TrainerState: the rest follows from the arguments of this run.
_STATE = ("epoch", "global_step", "num_input_tokens_seen", "total_flos", "log_history",
          "best_metric", "best_global_step", "best_model_checkpoint")
# Arguments of Guard that a session does not have.
_GUARD_ONLY = ("strict", "replicated", "on_error", "objects_bytes", "staging", "log_every_s")


class FtmemCallback(TrainerCallback):
    """Takes a snapshot after every n-th optimizer step, and restores when train() begins.

    The version of a snapshot is state.global_step. It is taken when the next step begins, after
    log, evaluation and save, and copied during forward and backward; the fence comes before the
    optimizer writes. The last step is stored as well.

    Args:
        objects: more state, as for Guard: anything with state_dict() and load_state_dict(),
            dicts, lists.
        job: the run's name, the same across restarts.
        every_n_steps: of the optimizer (global_step), from 1 on.
        options: the other arguments of Guard, such as parity.

    Attributes:
        guard: the Guard while train() runs, else None.

    Raises FtmemError from train() if the state cannot be restored; a snapshot that fails warns,
    unless on_error="raise". DeepSpeed and FSDP 1 are refused. Called by the Trainer, on its thread.
    """

    def __init__(self, *objects: Any, job: str, every_n_steps: int = 1, **options: Any) -> None:
        self._objects, self._options = objects, {"job": job, **options}
        self._every_n_steps = every_n_steps
        self._pace = _framework.Pace(every_n_steps)
        self._trainer: Any = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._resume_epoch: int | None = None
        self._rng_step: dict[str, Any] | None = None
        self._rng_epoch: dict[str, Any] | None = None
        self.guard: Guard | None = None

    def checkpoint(self, trainer: Any, otherwise: str | bool | None = None) -> str | bool | None:
        """What trainer.train(resume_from_checkpoint=...) is to be given, before each train().

        Collective. A folder that lasts until the training begins if memory holds a version of the
        job, else otherwise: None, or a checkpoint on disk as train() takes it. FtmemError, as
        TooMuchLost if what is left of the job does not suffice.
        """
        self._trainer = trainer
        options = {name: value for name, value in self._options.items()
                   if name not in _GUARD_ONLY}
        # The guard opens the same job soon, and what is to be said is said then.
        with Session(**{"log": _silent, **options}) as session:
            version, _ = session.stored()
        if version is None:
            return otherwise
        self._folder = tempfile.TemporaryDirectory(prefix="ftmem-")
        _write_folder(Path(self._folder.name), trainer, version)
        return self._folder.name

    # --- the beginning ---

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._close()
        if self._trainer is None:
            raise self._misused("is needed at each start: memory may hold a version")
        if getattr(args, "deepspeed", None):
            raise _framework.invalid("FtmemCallback", "DeepSpeed keeps its state to itself, where "
                                     "no callback reaches it: use DDP or FSDP 2")
        self._pace = _framework.Pace(self._every_n_steps)
        self._state = state
        progress = _SummedUp(self)
        self._rng_epoch = _rng.get()
        model, optimizer = kwargs["model"], kwargs["optimizer"]
        scaler = getattr(optimizer, "scaler", None)
        options = {"replicated": _replicated(args, model), **self._options}
        self.guard = Guard(model, optimizer, kwargs["lr_scheduler"],
                           *([scaler] if scaler is not None else []), progress, *self._objects,
                           **options)
        step = self._pace.last = self.guard.restore()
        if step > 0:
            self._check_begin(step, state.global_step)
            self._load(args, progress.loaded)
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _check_begin(self, step: int, begun: int) -> None:
        if step != begun:
            raise self._misused(f"was not what train() was given: memory holds step {step}, and "
                                f"the trainer begins with the data of step {begun}")

    def _misused(self, what: str) -> Exception:
        return _framework.invalid(
            "FtmemCallback", f"callback.checkpoint(trainer) {what}. Use "
            "trainer.train(resume_from_checkpoint=callback.checkpoint(trainer))")

    def _load(self, args: Any, stored: dict[str, Any]) -> None:
        _framework.warn_of_other_ranks(stored["ranks"], world().ranks)
        for name, value in stored["state"].items():
            setattr(self._state, name, value)
        self._state.compute_steps(args, self._state.max_steps)
        if self.loss() is not None:
            self._trainer._globalstep_last_logged = stored["last_logged"]
            # Not of the steps of this train(), whose mean it tells at its end.
            self._trainer._total_loss_scalar -= self.loss().item()
        for callback, attributes in zip(self._stateful(), stored["callbacks"]):
            vars(callback).update(attributes)
        self._resume_epoch = int(self._state.epoch)
        self._rng_step, self._rng_epoch = _rng.get(), stored["rng_epoch"]

    # --- the loop ---

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._resume_epoch is None:
            self._rng_epoch = _rng.get()
            return
        # The samples' order may be drawn from either.
        _rng.set(self._rng_epoch)
        _framework.set_sampler_epoch(kwargs.get("train_dataloader"), self._resume_epoch)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._rng_step is not None:
            _rng.set(self._rng_step)
            self._rng_step = self._resume_epoch = None
        elif self._pace.due(state.global_step):
            self._pace.last = state.global_step
            self.guard.snapshot(state.global_step)

    # --- the end ---

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # At the end of the training the model has the best weights, not those of the last step.
        if args.load_best_model_at_end and state.global_step >= state.max_steps:
            self._store_last(state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not args.load_best_model_at_end:
            self._store_last(state.global_step)
        self._close()

    def _store_last(self, step: int) -> None:
        if self.guard is not None and step > self._pace.last:
            self._pace.last = step
            _framework.store_last(self.guard, step, self._options)

    def _close(self) -> None:
        guard, self.guard = self.guard, None
        self._resume_epoch = self._rng_step = None
        if guard is not None:
            guard.close()

    # --- what is kept ---

    def collect(self) -> dict[str, Any]:
        trainer = self._trainer
        return {
            "state": {name: getattr(self._state, name) for name in _STATE
                      if hasattr(self._state, name)},
            "last_logged": getattr(trainer, "_globalstep_last_logged", 0),
            "callbacks": [callback.state()["attributes"] for callback in self._stateful()],
            "rng_epoch": self._rng_epoch,
            "ranks": world().ranks,
        }

    def loss(self) -> torch.Tensor | None:
        """The loss summed up since the last log; not in all versions of transformers."""
        return getattr(self._trainer, "_tr_loss", None)

    def _stateful(self) -> list[Any]:
        return [callback for callback in self._trainer.callback_handler.callbacks
                if callback is not self and callable(getattr(callback, "state", None))]


class _SummedUp(_framework.Progress):
    """With the loss since the last log, which lies on the device."""

    def __init__(self, callback: FtmemCallback) -> None:
        super().__init__(callback.collect)
        self._callback = callback

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "loss": self._callback.loss()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        loss = self._callback.loss()
        if loss is not None and state["loss"] is not None:
            loss.copy_(state["loss"])


def _silent(level: int, line: str) -> None:
    return None


def _write_folder(folder: Path, trainer: Any, step: int) -> None:
    """A checkpoint of all the model's weights that changes none: the file that its index names
    for each of them is empty."""
    names = trainer.model.state_dict().keys()
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "none.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    empty = struct.pack("<Q", 8) + b"{}      "
    for name in ("none.safetensors", "adapter_model.safetensors"):
        (folder / name).write_bytes(empty)
    state = asdict(trainer.state)
    state.update(global_step=step, train_batch_size=trainer.args.train_batch_size)
    for kind in ("logging_steps", "eval_steps", "save_steps"):
        given = getattr(trainer.args, kind)
        if given is not None:
            state[kind] = given
    (folder / "trainer_state.json").write_text(json.dumps(state))


def _replicated(args: Any, model: Any) -> bool | None:
    """Under DDP the callback is given the model inside of it: all ranks have equal weights."""
    if args.world_size < 2 or getattr(args, "fsdp", None):
        return None
    if any(hasattr(parameter, "placements") for parameter in model.parameters()):
        return None
    return True
