# SPDX-License-Identifier: BSD-3-Clause
"""Lightning: a callback that keeps a trainer's whole state in the nodes' memory.

    environment = ftmem.lightning.Environment()
    trainer = lightning.Trainer(
        strategy="ddp", devices=environment.devices, num_nodes=environment.nodes,
        plugins=[environment], callbacks=[ftmem.lightning.Callback(job="run1", parity=1)])
    trainer.fit(model, loader)           # after a failure: start the same command again

Started with `mpirun -n 4 python train.py`. Works with the package lightning and with
pytorch_lightning, whichever the script has imported.

What comes back: weights, optimizers, LR schedulers, the gradient scaler, random numbers, the
progress of Lightning's loops, the other callbacks, a data module with state_dict(), and the place
in the epoch. A data loader with state_dict() and load_state_dict(), such as torchdata's
StatefulDataLoader, is set to its place; any other is read again from the epoch's start up to
there, with the same order of samples. What data sets draw at random in this process is
drawn again as it was; in workers too, but not with persistent_workers after the first epoch.

What does not: averages over the epoch of what self.log(..., on_epoch=True) got before the
restart, metrics that are not persistent, and what LightningModule.on_save_checkpoint() adds.
State of your own goes to Callback(*objects).

Gradients are not stored: under gradient accumulation a snapshot is taken where the optimizer has
just stepped. With more than two ranks, DistributedDataParallel adds gradients in another order in
the first step after a restart, unless it is DDPStrategy(find_unused_parameters=True).
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from collections.abc import Iterator
from typing import Any

from . import _framework, _rng
from .guard import Guard
from .launch import set_environ, world


def _package(part: str) -> Any:
    """lightning.<part>, or its twin of pytorch_lightning if that is what the script uses."""
    twins = {"pytorch": "pytorch_lightning", "fabric": "lightning_fabric"}
    names = [f"lightning.{part}", twins[part]]
    if "pytorch_lightning" in sys.modules and "lightning.pytorch" not in sys.modules:
        names.reverse()
    for name in names:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as missing:
            if missing.name not in (name, name.partition(".")[0]):
                raise
    raise ImportError("ftmem.lightning needs Lightning: pip install lightning")


_package("fabric")
_ClusterEnvironment = importlib.import_module(
    f"{_package('fabric').__name__}.plugins.environments").ClusterEnvironment


class Callback(_package("pytorch").Callback):
    """Takes a snapshot after every n-th optimizer step, and restores when fit() begins.

    The version of a snapshot is trainer.global_step. It is taken when the next batch begins, after
    validation and whatever else follows a step, and copied during forward and backward; the fence
    comes before the optimizer writes. At the end of fit() the last step is stored as well.

    If fit() is given a ckpt_path and memory holds a version, memory is what is used.

    Args:
        objects: more state, as for Guard: anything with state_dict() and load_state_dict(),
            dicts, lists.
        job: the run's name, the same across restarts.
        every_n_steps: of the optimizer, from 1 on.
        options: the other arguments of Guard, such as parity.

    Attributes:
        guard: the Guard while fit() runs, else None.

    Raises FtmemError from fit() if the state cannot be restored; a snapshot that fails warns,
    unless on_error="raise". Hooks are called by the trainer, on its thread.
    """

    def __init__(self, *objects: Any, job: str, every_n_steps: int = 1, **options: Any) -> None:
        self._objects, self._options = objects, {"job": job, **options}
        self._every_n_steps = every_n_steps
        self._pace = _framework.Pace(every_n_steps)
        self._resumed: dict[str, Any] | None = None
        self._rng_step: dict[str, Any] | None = None
        self._rng_fit: dict[str, Any] | None = None
        self._rng_epoch: dict[str, Any] | None = None
        self._before_fetch: dict[str, Any] = {}
        self._loop: dict[str, Any] = {}
        self.guard: Guard | None = None

    # --- the beginning ---

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Restores, before the trainer sets up its data."""
        self._close()
        self._pace = _framework.Pace(self._every_n_steps)
        self._trainer = trainer
        progress = _framework.Progress(self._collect)
        self._rng_fit = self._rng_epoch = _rng.get()
        self._before_fetch = {"rng": self._rng_fit, "loaders": None}
        self._loop = self._loop_state(False)
        self.guard = Guard(*_guarded(trainer), progress, *self._objects, **self._options)
        self._pace.last = self.guard.restore()
        if progress.loaded is not None:
            self._load(progress.loaded)

    def _load(self, state: dict[str, Any]) -> None:
        trainer = self._trainer
        _drop_file(trainer)
        _framework.warn_of_other_ranks(state["ranks"], world().ranks)
        trainer.fit_loop.load_state_dict(state["loop"])
        for callback in self._others():
            if callback.state_key in state["callbacks"]:
                callback.load_state_dict(state["callbacks"][callback.state_key])
        if state["datamodule"] and trainer.datamodule is not None:
            trainer.datamodule.load_state_dict(state["datamodule"])
        self._resumed, self._rng_step = state, _rng.get()
        self._rng_fit, self._rng_epoch = state["rng_fit"], state["rng_epoch"]
        # It takes a loader without a state for one that begins anew.
        warnings.filterwarnings("ignore", message="You're resuming from a checkpoint that ended")
        _rng.set(self._rng_fit)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Brings the data to their place; the trainer has just made their iterator."""
        if self._resumed is None:
            return
        if trainer.ckpt_path and trainer.strategy.restore_checkpoint_after_setup:
            raise _framework.invalid(
                "lightning.Callback", "memory holds this job's state, and this strategy has loaded "
                "fit()'s ckpt_path over it: leave that out, or forget what is in memory with "
                f"`ftmem drop {self._options['job']}`")
        fetcher = trainer.fit_loop._data_fetcher
        for loader in fetcher.combined_loader.flattened:
            _framework.set_sampler_epoch(loader, trainer.current_epoch)
        if self._resumed["mid_epoch"]:
            self._find_batch(fetcher, trainer.current_epoch)
        else:
            _rng.set(self._rng_step)
            iter(fetcher)
            self._resumed = None

    def _find_batch(self, fetcher: Any, epoch: int) -> None:
        """The next batch is the one that was about to be trained when the snapshot was taken."""
        batches = self._resumed["loop"]["epoch_loop.batch_progress"]["current"]["completed"]
        stateful = self._resumed["loaders"] is not None
        _rng.set(self._rng_epoch)
        if not stateful:
            if epoch > 0:
                iter(fetcher)
            source = fetcher.iterator if _knows_length(fetcher) else fetcher
            for _ in range(batches):
                next(source)
        if batches > 0:
            _rng.set(self._resumed["rng_fetch"])
        if _knows_length(fetcher):
            fetcher.iterator = _put_back(next(fetcher.iterator), fetcher.iterator)

    # --- the loop ---

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self._rng_epoch = _rng.get()
        self._before_fetch = {"rng": self._rng_epoch, "loaders": None}

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._resumed is not None:
            self._resume_batch(trainer.fit_loop.epoch_loop)
        elif self._pace.due(trainer.global_step):
            self._loop = self._loop_state(True)
            self._pace.last = trainer.global_step
            self.guard.snapshot(trainer.global_step)

    def _resume_batch(self, epoch_loop: Any) -> None:
        """Counters that a restart of the loops leaves one too high, and random numbers."""
        loop = self._resumed["loop"]
        epoch_loop.batch_progress.total.ready = loop["epoch_loop.batch_progress"]["total"]["ready"]
        stepped = loop["epoch_loop.state_dict"].get("_batches_that_stepped")
        if stepped is not None:
            epoch_loop._batches_that_stepped = stepped
        _rng.set(self._rng_step)
        self._resumed = self._rng_step = None

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._pace.due(trainer.global_step):
            self._mark(_rng.get())

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if self.guard is not None and not trainer.sanity_checking \
                and self._pace.due(trainer.global_step):
            self._mark(_rng.get())

    def _mark(self, rng: dict[str, Any]) -> None:
        """Before the next batch is fetched."""
        self._before_fetch = {"rng": rng, "loaders": _loader_states(self._trainer)}

    # --- the end ---

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        if self.guard is not None and trainer.global_step > self._pace.last:
            self._loop = self._loop_state(False)
            self._pace.last = trainer.global_step
            _framework.store_last(self.guard, trainer.global_step, self._options)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self._close()

    def _close(self) -> None:
        guard, self.guard, self._resumed = self.guard, None, None
        if guard is not None:
            guard.close()

    # --- what is kept ---

    def _collect(self) -> dict[str, Any]:
        states = {other.state_key: other.state_dict() for other in self._others()}
        module = self._trainer.datamodule
        return {
            **self._loop,
            "callbacks": {key: state for key, state in states.items() if state},
            "datamodule": module.state_dict() if module is not None else {},
            "rng_fit": self._rng_fit,
            "rng_epoch": self._rng_epoch,
            "rng_fetch": self._before_fetch["rng"],
            "ranks": world().ranks,
        }

    def _loop_state(self, mid_epoch: bool) -> dict[str, Any]:
        """The loops' progress; in an epoch, as of the batch that was fetched last but not yet
        trained, so that the trainer does not take the epoch for finished."""
        loop = self._trainer.fit_loop.state_dict()
        inner = loop["state_dict"] = dict(loop.get("state_dict", {}))
        inner.pop("combined_loader", None)
        loaders = self._before_fetch["loaders"] if mid_epoch else None
        if loaders is not None:
            inner["combined_loader"] = loaders
        if mid_epoch:
            loop["epoch_loop.batch_progress"]["is_last_batch"] = False
        return {"loop": loop, "loaders": loaders, "mid_epoch": mid_epoch}

    def _others(self) -> list[Any]:
        return [callback for callback in self._trainer.callbacks if callback is not self]


def _guarded(trainer: Any) -> list[Any]:
    """What a Guard is given for a trainer that is set up."""
    schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return [trainer.model, *trainer.optimizers, *schedulers, *([scaler] if scaler else [])]


def _drop_file(trainer: Any) -> None:
    """Of a checkpoint file that fit() was given as well, the rest is not loaded."""
    if trainer.ckpt_path:
        trainer._checkpoint_connector._loaded_checkpoint = {}


def _knows_length(fetcher: Any) -> bool:
    """False: it fetches one batch ahead, to know which is the last."""
    return fetcher.length is not None


def _put_back(first: Any, rest: Iterator[Any]) -> Iterator[Any]:
    """Not itertools.chain: iter() of what is the rest here begins anew."""
    yield first
    while True:
        try:
            yield next(rest)
        except StopIteration:
            return


def _loader_states(trainer: Any) -> list[dict[str, Any]] | None:
    """The state of the data loaders, if all have one that counts what has been trained."""
    fetcher = trainer.fit_loop._data_fetcher
    loaders = fetcher.combined_loader.flattened
    if not _knows_length(fetcher) or not all(
            hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict")
            for loader in loaders):
        return None
    return [loader.state_dict() for loader in loaders]


class Environment(_ClusterEnvironment):
    """Ranks as the MPI launcher gave them: Trainer(plugins=[ftmem.lightning.Environment()]).

    Collective: every process of the job makes one. FtmemError as from ftmem.world().

    Attributes:
        devices: processes on each node, for Trainer(devices=...).
        nodes: machines, for Trainer(num_nodes=...).
    """

    def __init__(self) -> None:
        super().__init__()
        self._world = set_environ()
        self.devices = self._world.local_ranks
        self.nodes = max(1, self._world.ranks // self.devices)

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return os.environ["MASTER_ADDR"]

    @property
    def main_port(self) -> int:
        return int(os.environ["MASTER_PORT"])

    @staticmethod
    def detect() -> bool:
        return world().ranks > 1

    def world_size(self) -> int:
        return self._world.ranks

    def set_world_size(self, size: int) -> None:
        """Nothing: the launcher has set it."""

    def global_rank(self) -> int:
        return self._world.rank

    def set_global_rank(self, rank: int) -> None:
        """Nothing: the launcher has set it."""

    def local_rank(self) -> int:
        return self._world.local_rank

    def node_rank(self) -> int:
        return self._world.rank // self.devices
