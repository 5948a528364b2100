# SPDX-License-Identifier: BSD-3-Clause
"""Stand-ins for Lightning, Hugging Face's Trainer and Guard: the hooks that ftmem's callbacks
use, in the order in which the originals call them, around a small real training."""

from __future__ import annotations

import copy
import json
import math
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from ftmem import _rng

SAMPLES, BATCH = 22, 2
BATCHES = SAMPLES // BATCH  # of an epoch
ACCUMULATE = 2  # but the last batch of an epoch is alone
STEPS = (BATCHES + 1) // ACCUMULATE  # of an epoch
LOGS = 0.22  # of the steps, from log to log


class Killed(Exception):
    """The process ends here."""


class Memory:
    """What outlives a killed process: one version."""

    def __init__(self) -> None:
        self.version: int | None = None
        self.states: list[Any] = []
        self.rng: dict[str, Any] = {}
        self.log: list[int] = []  # versions
        self.ranks = 1

    def guard(self, *objects: Any, **options: Any) -> StandInGuard:
        return StandInGuard(self, objects, options)

    def session(self, **options: Any) -> Memory:
        return self

    def stored(self) -> tuple[int | None, int]:
        return self.version, 0

    def __enter__(self) -> Memory:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class StandInGuard:
    """A Guard that commits at once."""

    def __init__(self, memory: Memory, objects: tuple[Any, ...], options: dict[str, Any]) -> None:
        self.memory, self.objects, self.options, self.closed = memory, objects, options, False

    def restore(self) -> int:
        if self.memory.version is None:
            return 0
        for target, state in zip(self.objects, copy.deepcopy(self.memory.states), strict=True):
            if isinstance(target, list):
                target[:] = state
            else:
                target.load_state_dict(state)
        _rng.set(self.memory.rng)
        return self.memory.version

    def snapshot(self, step: int) -> None:
        self.memory.states = copy.deepcopy([
            target if isinstance(target, list) else target.state_dict()
            for target in self.objects])
        self.memory.rng, self.memory.version = _rng.get(), step
        self.memory.log.append(step)

    def wait(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


class Noisy(Dataset):
    """Numbers, with noise drawn in this process where it is wanted. Items: (1,)."""

    def __init__(self, noise: float) -> None:
        self.noise = noise

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, i: int) -> torch.Tensor:
        return torch.tensor([i / SAMPLES]) + self.noise * torch.randn(1)


class Training:
    """What both trainers have: a model with dropout, an optimizer, a schedule, losses."""

    def __init__(self) -> None:
        torch.manual_seed(3)
        self.model = nn.Sequential(nn.Linear(1, 8), nn.Dropout(0.5), nn.Linear(8, 1))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 5, 0.9)
        self.losses: list[float] = []

    def backward(self, batch: torch.Tensor) -> torch.Tensor:
        loss = (self.model(batch) - batch.sin()).square().mean()
        loss.backward()
        self.losses.append(loss.item())
        return loss.detach()

    def step(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.scheduler.step()

    def result(self) -> list[Any]:
        """All that must be equal to that of an undisturbed training."""
        weights = [p.tolist() for p in self.model.parameters()]
        moments = [v.tolist() for s in self.optimizer.state.values() for v in s.values()]
        return [weights, moments, self.scheduler.last_epoch, list(self.losses)]


# --- Lightning ---


def lightning_modules() -> dict[str, types.ModuleType]:
    """For sys.modules."""
    names = ("lightning", "lightning.pytorch", "lightning.fabric", "lightning.fabric.plugins",
             "lightning.fabric.plugins.environments")
    modules = {name: types.ModuleType(name) for name in names}
    modules["lightning.pytorch"].Callback = type("Callback", (), {})
    modules["lightning.fabric.plugins.environments"].ClusterEnvironment = type("Base", (), {})
    return modules


class _Combined:
    """As Lightning's: its own iterator, and iter() of it begins anew."""

    def __init__(self, loader: DataLoader) -> None:
        self.flattened = [loader]

    def __iter__(self) -> _Combined:
        self._batches = iter(self.flattened[0])
        return self

    def __next__(self) -> torch.Tensor:
        return next(self._batches)


class _Fetcher:
    length = BATCHES

    def __init__(self, loader: DataLoader) -> None:
        self.combined_loader = _Combined(loader)

    def __iter__(self) -> _Fetcher:
        self.iterator: Iterator[torch.Tensor] = iter(self.combined_loader)
        return self

    def __next__(self) -> torch.Tensor:
        return next(self.iterator)


@dataclass
class _Counts:
    ready: int = 0
    completed: int = 0


@dataclass
class _BatchProgress:
    total: _Counts = field(default_factory=_Counts)
    current: _Counts = field(default_factory=_Counts)
    is_last_batch: bool = False


class _EpochLoop:
    def __init__(self) -> None:
        self.batch_progress = _BatchProgress()
        self._batches_that_stepped = 0


class _FitLoop:
    def __init__(self) -> None:
        self.epoch_loop, self.epoch, self.restarting = _EpochLoop(), 0, False
        self.steps = 0
        self._data_fetcher: _Fetcher | None = None

    def state_dict(self) -> dict[str, Any]:
        progress = self.epoch_loop.batch_progress
        return copy.deepcopy({
            "state_dict": {"combined_loader": "of Lightning"}, "epoch": self.epoch,
            "steps": self.steps,
            "epoch_loop.state_dict": {
                "_batches_that_stepped": self.epoch_loop._batches_that_stepped},
            "epoch_loop.batch_progress": {"total": vars(progress.total),
                                          "current": vars(progress.current),
                                          "is_last_batch": progress.is_last_batch}})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert "combined_loader" not in state["state_dict"], "the loader has no state"
        self.epoch, self.steps = state["epoch"], state["steps"]
        saved = state["epoch_loop.batch_progress"]
        self.restarting = saved["current"]["completed"] < BATCHES  # an epoch begun
        self.epoch_loop.batch_progress = _BatchProgress(
            _Counts(**saved["total"]), _Counts(**saved["current"]), saved["is_last_batch"])


class LightningTrainer(Training):
    """lightning.Trainer, as far as it matters here."""

    def __init__(self, callback: Any, epochs: int, kill_at: int = 0, noise: float = 1.0) -> None:
        super().__init__()
        self.callbacks = [callback] if callback else []
        self.epochs, self.kill_at, self.noise = epochs, kill_at, noise
        self.fit_loop = _FitLoop()
        self.optimizers = [self.optimizer]
        self.lr_scheduler_configs = [types.SimpleNamespace(scheduler=self.scheduler)]
        self.precision_plugin, self.datamodule, self.ckpt_path = object(), None, None
        self.strategy = types.SimpleNamespace(restore_checkpoint_after_setup=False)
        self.sanity_checking = False

    @property
    def global_step(self) -> int:
        return self.fit_loop.steps

    @property
    def current_epoch(self) -> int:
        return self.fit_loop.epoch

    def call(self, hook: str, *args: Any) -> None:
        for callback in self.callbacks:
            if hasattr(callback, hook):
                getattr(callback, hook)(self, self.model, *args)

    def fit(self) -> None:
        self.call("on_fit_start")
        loop = self.fit_loop
        loop._data_fetcher = _Fetcher(DataLoader(Noisy(self.noise), BATCH, shuffle=True))
        iter(loop._data_fetcher)
        if loop.epoch < self.epochs:
            self.call("on_train_start")
            while loop.epoch < self.epochs:
                self.epoch(loop, loop._data_fetcher)
            self.call("on_train_end")
        self.call("teardown", "fit")

    def epoch(self, loop: _FitLoop, fetcher: _Fetcher) -> None:
        progress = loop.epoch_loop.batch_progress
        if loop.restarting:
            progress.current.ready = progress.current.completed
            torch.rand(1)  # validation is set up anew
        else:
            self.call("on_train_epoch_start")
            progress.current = _Counts()
            if loop.epoch > 0:
                iter(fetcher)
        while progress.current.ready < BATCHES and not progress.is_last_batch:
            self.batch(loop, next(fetcher.iterator))
            loop.restarting = False
        progress.is_last_batch = False
        loop.epoch += 1

    def batch(self, loop: _FitLoop, batch: torch.Tensor) -> None:
        progress = loop.epoch_loop.batch_progress
        index = progress.current.ready
        progress.current.ready += 1
        progress.total.ready += 1
        progress.is_last_batch = progress.current.ready == BATCHES
        self.call("on_train_batch_start", batch, index)
        self.backward(batch)
        if progress.current.ready % ACCUMULATE == 0 or progress.is_last_batch:
            self.step()
            loop.steps += 1
            loop.epoch_loop._batches_that_stepped += 1
        self.call("on_train_batch_end", None, batch, index)
        if self.kill_at and loop.steps == self.kill_at:
            raise Killed
        progress.current.completed += 1
        progress.total.completed += 1
        if progress.total.ready % 5 == 0:
            torch.rand(3)  # validation draws random numbers as well
            self.call("on_validation_end")

    def result(self) -> list[Any]:
        loop = self.fit_loop.epoch_loop
        return [*super().result(), self.fit_loop.steps, loop.batch_progress.total,
                loop._batches_that_stepped]


# --- Hugging Face ---


def transformers_modules() -> dict[str, types.ModuleType]:
    """For sys.modules."""
    module = types.ModuleType("transformers")
    module.TrainerCallback = type("TrainerCallback", (), {})
    return {"transformers": module}


@dataclass
class TrainerState:
    global_step: int = 0
    epoch: float = 0.0
    max_steps: int = 0
    train_batch_size: int | None = None
    log_history: list[Any] = field(default_factory=list)
    logging_steps: int = 500
    eval_steps: int = 500
    save_steps: int = 500

    def compute_steps(self, args: Any, max_steps: int) -> None:
        self.logging_steps = math.ceil(max_steps * args.logging_steps)


class Patience:
    """As EarlyStoppingCallback: a callback with a state of its own."""

    def __init__(self) -> None:
        self.counter = 0

    def state(self) -> dict[str, Any]:
        return {"args": {}, "attributes": {"counter": self.counter}}


class HuggingFaceTrainer(Training):
    """transformers.Trainer, as far as it matters here."""

    def __init__(self, callback: Any, epochs: int, kill_at: int = 0) -> None:
        super().__init__()
        self.callback, self.epochs, self.kill_at = callback, epochs, kill_at
        self.stop_after_epoch = False
        self.patience = Patience()
        self.callback_handler = types.SimpleNamespace(callbacks=[callback, self.patience])
        self.args = types.SimpleNamespace(
            world_size=1, train_batch_size=BATCH, logging_steps=LOGS, eval_steps=None,
            save_steps=0.5, load_best_model_at_end=False)
        self.state = TrainerState()

    def call(self, hook: str) -> None:
        if self.callback is not None:
            getattr(self.callback, hook)(
                self.args, self.state, None, model=self.model, optimizer=self.optimizer,
                lr_scheduler=self.scheduler, train_dataloader=None)

    def train(self, resume_from_checkpoint: str | None = None) -> None:
        self.state, begun = TrainerState(), 0
        if resume_from_checkpoint is not None:
            saved = json.loads((Path(resume_from_checkpoint) / "trainer_state.json").read_text())
            self.state, begun = TrainerState(**saved), saved["global_step"]
        self.state.max_steps = self.epochs * STEPS
        if not begun:
            self.state.compute_steps(self.args, self.state.max_steps)
        self._tr_loss, self._total_loss_scalar = torch.tensor(0.0), 0.0
        self._globalstep_last_logged = begun
        self.call("on_train_begin")
        for epoch in range(begun // STEPS, self.epochs):
            self.call("on_epoch_begin")
            order = torch.randperm(SAMPLES).view(BATCHES, BATCH)
            skipped = begun % STEPS if epoch == begun // STEPS else 0
            for step in range(skipped, STEPS):
                self.update(epoch, step, order[ACCUMULATE * step:ACCUMULATE * (step + 1)])
            self.call("on_epoch_end")
            self.state.log_history.append(f"evaluated at {self.state.global_step}")
            if self.stop_after_epoch:
                break
        self.call("on_train_end")

    def update(self, epoch: int, step: int, batches: torch.Tensor) -> None:
        self.call("on_step_begin")
        for samples in batches:
            self._tr_loss += self.backward((samples / SAMPLES).unsqueeze(1))
        self.step()
        self.state.global_step += 1
        self.state.epoch = epoch + (step + 1) / STEPS
        if self.kill_at and self.state.global_step == self.kill_at:
            raise Killed
        self.patience.counter += 1
        if self.state.global_step % self.state.logging_steps == 0:
            since = self.state.global_step - self._globalstep_last_logged
            self.state.log_history.append(self._tr_loss.item() / since)
            self._total_loss_scalar += self._tr_loss.item()
            self._tr_loss -= self._tr_loss
            self._globalstep_last_logged = self.state.global_step

    def result(self) -> list[Any]:
        return [*super().result(), self.state.global_step, self.state.epoch,
                self.state.log_history, self.patience.counter]
