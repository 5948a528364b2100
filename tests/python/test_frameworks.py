# SPDX-License-Identifier: BSD-3-Clause
"""The callbacks for Lightning and Hugging Face's Trainer: with stand-ins for their hooks and, where
they are installed, examples/pytorch with the packages themselves."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import random
import re
import sys
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Job

torch = pytest.importorskip("torch")

import fake_frameworks as fake  # noqa: E402

EPOCHS = 3
LAST = EPOCHS * fake.STEPS
# In an epoch, at its last step, at its first, and with the next one.
KILLS = (4, fake.STEPS, fake.STEPS + 1, 2 * fake.STEPS - 1, LAST)


@pytest.fixture
def memory() -> fake.Memory:
    return fake.Memory()


def with_fakes(
    monkeypatch: pytest.MonkeyPatch, name: str, modules: dict[str, Any], memory: fake.Memory
) -> Any:
    """ftmem.<name>, loaded with stand-ins for what it needs."""
    for module, stand_in in modules.items():
        monkeypatch.setitem(sys.modules, module, stand_in)
    monkeypatch.delitem(sys.modules, f"ftmem.{name}", raising=False)
    module = importlib.import_module(f"ftmem.{name}")
    # Not for tests that want the packages themselves.
    monkeypatch.delitem(sys.modules, f"ftmem.{name}")
    monkeypatch.setattr(module, "Guard", memory.guard)
    monkeypatch.setattr(module, "world", lambda: types.SimpleNamespace(ranks=memory.ranks))
    return module


@pytest.fixture
def lightning(monkeypatch: pytest.MonkeyPatch, memory: fake.Memory) -> Any:
    monkeypatch.delitem(sys.modules, "pytorch_lightning", raising=False)
    return with_fakes(monkeypatch, "lightning", fake.lightning_modules(), memory)


@pytest.fixture
def huggingface(monkeypatch: pytest.MonkeyPatch, memory: fake.Memory) -> Any:
    module = with_fakes(monkeypatch, "huggingface", fake.transformers_modules(), memory)
    monkeypatch.setattr(module, "Session", memory.session)
    return module


class LightningJob:
    """One training, started again and again."""

    def __init__(self, lightning: Any, **options: Any) -> None:
        self.lightning, self.options = lightning, options

    def start(self, kill_at: int = 0, epochs: int = EPOCHS) -> fake.LightningTrainer:
        callback = self.lightning.Callback(job="j", **self.options)
        trainer = fake.LightningTrainer(callback, epochs, kill_at)
        callback._objects = (trainer.losses,)
        return run(trainer, trainer.fit, kill_at)


class HuggingFaceJob:
    def __init__(self, huggingface: Any, **options: Any) -> None:
        self.huggingface, self.options = huggingface, options

    def start(self, kill_at: int = 0, epochs: int = EPOCHS) -> fake.HuggingFaceTrainer:
        callback = self.huggingface.FtmemCallback(job="j", **self.options)
        trainer = fake.HuggingFaceTrainer(callback, epochs, kill_at)
        callback._objects = (trainer.losses,)
        return run(trainer, lambda: trainer.train(callback.checkpoint(trainer)), kill_at)


def run(trainer: Any, start: Any, kill_at: int) -> Any:
    if kill_at:
        with pytest.raises(fake.Killed):
            start()
        torch.manual_seed(0)
    else:
        start()
    return trainer


@pytest.mark.parametrize("every", (1, 2, 4))
def test_lightning_training_that_is_killed_ends_as_if_it_were_not(
    every: int, lightning: Any, memory: fake.Memory
) -> None:
    undisturbed = fake.LightningTrainer(None, EPOCHS)
    undisturbed.fit()
    job = LightningJob(lightning, every_n_steps=every)
    for kill_at in KILLS:
        trainer = job.start(kill_at)
        assert (memory.version or 0) in range(kill_at - every, kill_at)
        assert trainer.result() != undisturbed.result()
    assert job.start().result() == undisturbed.result()
    assert job.start().global_step == LAST, "it had ended"


@pytest.mark.parametrize("every", (1, 2, 4))
def test_huggingface_training_that_is_killed_ends_as_if_it_were_not(
    every: int, huggingface: Any, memory: fake.Memory
) -> None:
    undisturbed = fake.HuggingFaceTrainer(None, EPOCHS)
    undisturbed.train()
    job = HuggingFaceJob(huggingface, every_n_steps=every)
    for kill_at in KILLS:
        trainer = job.start(kill_at)
        assert (memory.version or 0) in range(kill_at - every, kill_at)
        assert trainer.result() != undisturbed.result()
    for _ in ("goes on", "had ended"):
        assert job.start().result() == undisturbed.result()


@pytest.mark.parametrize("kind", ("lightning", "huggingface"))
def test_multiples_of_n_and_the_last_step_are_stored(
    kind: str, request: pytest.FixtureRequest, memory: fake.Memory
) -> None:
    jobs = {"lightning": LightningJob, "huggingface": HuggingFaceJob}
    job = jobs[kind](request.getfixturevalue(kind), every_n_steps=4)
    job.start(epochs=1)
    assert memory.log == [4, 6]
    # The last one is no multiple: the next is the multiple that follows it.
    job.start()
    assert memory.log == [4, 6, 8, 12, 16, 18]


@pytest.mark.parametrize("kind", ("lightning", "huggingface"))
@pytest.mark.parametrize("every", (0, -1, 1.5, "1"))
def test_a_pace_that_is_none_is_refused(
    kind: str, every: Any, request: pytest.FixtureRequest
) -> None:
    module = request.getfixturevalue(kind)
    callback = module.Callback if kind == "lightning" else module.FtmemCallback
    with pytest.raises(ftmem_error(), match="every_n_steps"):
        callback(job="j", every_n_steps=every)


@pytest.mark.parametrize("kind", ("lightning", "huggingface"))
def test_another_number_of_ranks_is_told(
    kind: str, request: pytest.FixtureRequest, memory: fake.Memory
) -> None:
    jobs = {"lightning": LightningJob, "huggingface": HuggingFaceJob}
    job = jobs[kind](request.getfixturevalue(kind))
    job.start(kill_at=4)
    memory.ranks = 2
    with pytest.warns(UserWarning, match="stored by 1 ranks and restored on 2"):
        job.start(kill_at=5)


def test_lightning_uses_memory_before_a_file(lightning: Any) -> None:
    job = LightningJob(lightning)
    job.start(kill_at=4)
    callback = lightning.Callback(job="j")
    trainer = fake.LightningTrainer(callback, EPOCHS)
    callback._objects = (trainer.losses,)
    trainer.ckpt_path = "file"
    trainer._checkpoint_connector = types.SimpleNamespace(_loaded_checkpoint={"loops": {}})
    callback.on_fit_start(trainer, trainer.model)
    assert trainer._checkpoint_connector._loaded_checkpoint == {}
    trainer.strategy.restore_checkpoint_after_setup = True
    with pytest.raises(ftmem_error(), match="ftmem drop j"):
        callback.on_train_start(trainer, trainer.model)


def test_lightning_brings_back_callbacks_and_data_module(
    lightning: Any, memory: fake.Memory
) -> None:
    for value in ("stored", ""):
        callback = lightning.Callback(job="j")
        trainer = fake.LightningTrainer(callback, EPOCHS, kill_at=4 if value else 5)
        trainer.callbacks.append(Stateful(value))
        trainer.datamodule = Stateful(value and value.upper())
        run(trainer, trainer.fit, trainer.kill_at)
    assert trainer.callbacks[1].value == "stored"
    assert trainer.datamodule.value == "STORED"


class Stateful:
    state_key = "Stateful"

    def __init__(self, value: str) -> None:
        self.value = value

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value, "best": torch.tensor(0.5)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert state["best"] == 0.5
        self.value = state["value"]


def test_huggingface_checkpoint_names_all_weights_and_holds_none(
    huggingface: Any, memory: fake.Memory
) -> None:
    callback = huggingface.FtmemCallback(job="j", on_error="raise", parity=1)
    trainer = fake.HuggingFaceTrainer(callback, EPOCHS)
    assert callback.checkpoint(trainer) is None
    assert callback.checkpoint(trainer, otherwise="file") == "file"
    memory.version = 7
    folder = Path(callback.checkpoint(trainer, otherwise="file"))
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(trainer.model.state_dict())
    for file in {*index["weight_map"].values(), "adapter_model.safetensors"}:
        assert (folder / file).stat().st_size == 16
    state = json.loads((folder / "trainer_state.json").read_text())
    assert state["global_step"] == 7 and state["logging_steps"] == fake.LOGS
    assert state["train_batch_size"] == fake.BATCH and state["save_steps"] == 0.5


def test_huggingface_training_without_the_checkpoint_is_refused(huggingface: Any) -> None:
    message = r"trainer\.train\(resume_from_checkpoint="
    callback = huggingface.FtmemCallback(job="j")
    with pytest.raises(ftmem_error(), match=message):
        fake.HuggingFaceTrainer(callback, EPOCHS).train()
    HuggingFaceJob(huggingface).start(kill_at=4)
    trainer = fake.HuggingFaceTrainer(callback, EPOCHS)
    callback._objects = (trainer.losses,)
    assert callback.checkpoint(trainer) is not None
    with pytest.raises(ftmem_error(), match=message):
        trainer.train()


def test_huggingface_keeps_the_last_step_not_the_best_weights(
    huggingface: Any, memory: fake.Memory
) -> None:
    callback = huggingface.FtmemCallback(job="j", every_n_steps=4)
    trainer = fake.HuggingFaceTrainer(callback, 1)
    trainer.args.load_best_model_at_end = True
    on_train_end = callback.on_train_end
    callback.on_train_end = lambda *a, **k: (  # the Trainer loads them before this hook
        torch.nn.init.zeros_(trainer.model[0].weight), on_train_end(*a, **k))
    trainer.train(callback.checkpoint(trainer))
    assert memory.log == [4, 6]
    assert memory.states[0]["0.weight"].any()
    trainer.epochs, trainer.stop_after_epoch = EPOCHS, True
    trainer.train(callback.checkpoint(trainer))
    assert memory.log == [4, 6, 8], "stopped early"


@pytest.mark.parametrize(
    ("world_size", "fsdp", "replicated"), ((1, None, None), (2, None, True), (2, "fsdp", None)))
def test_huggingface_shares_weights_among_ranks_under_ddp(
    world_size: int, fsdp: str | None, replicated: bool | None, huggingface: Any
) -> None:
    args = types.SimpleNamespace(world_size=world_size, fsdp=fsdp)
    assert huggingface._replicated(args, torch.nn.Linear(2, 2)) is replicated


@pytest.mark.parametrize(
    ("name", "packages"),
    (("lightning", ("lightning", "lightning.fabric", "lightning.pytorch", "lightning_fabric",
                    "pytorch_lightning")),
     ("huggingface", ("transformers",))))
def test_a_missing_package_is_named(
    name: str, packages: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    finder = types.SimpleNamespace(find_spec=lambda found, *_: missing(found, packages))
    monkeypatch.setattr(sys, "meta_path", [finder, *sys.meta_path])
    for package in (*packages, f"ftmem.{name}"):
        monkeypatch.delitem(sys.modules, package, raising=False)
    with pytest.raises(ImportError, match="pip install"):
        importlib.import_module(f"ftmem.{name}")


def missing(name: str, packages: tuple[str, ...]) -> None:
    if name in packages:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def test_values_on_a_device_are_copied_when_they_change() -> None:
    from ftmem import _framework

    class OnDevice(torch.Tensor):
        copies = 0

        @property
        def device(self) -> torch.device:
            return torch.device("cuda")

        def cpu(self) -> torch.Tensor:
            OnDevice.copies += 1
            return self.as_subclass(torch.Tensor).clone()

    best = torch.tensor(1.5).as_subclass(OnDevice)
    progress = _framework.Progress(lambda: {"best": [best]})
    states = [progress.state_dict() for _ in range(3)]
    assert OnDevice.copies == 1 and states[0] == states[2]
    best.add_(1)
    progress.load_state_dict(progress.state_dict())
    assert OnDevice.copies == 2 and progress.loaded == {"best": [torch.tensor(2.5)]}


def test_a_closure_runs_before_the_fence_of_an_optimizer_that_calls_it_first() -> None:
    from ftmem import _hooks

    class Fence:
        def now(self) -> None:
            order.append("fence")

    class WritesFirst(torch.optim.SGD):
        """What sharpness-aware optimizers do."""

    fence, weight = Fence(), torch.nn.Parameter(torch.ones(2))
    weight.register_post_accumulate_grad_hook(lambda _: order.append("backward"))

    def closure() -> torch.Tensor:
        with torch.enable_grad():
            loss = weight.sum()
            loss.backward()
        return loss

    for kind, expected in ((torch.optim.SGD, ["backward", "fence"]),
                           (WritesFirst, ["fence", "backward"])):
        optimizer = kind([weight], lr=0.1)
        handle = optimizer.register_step_pre_hook(_hooks.StepHook(fence.now))
        for args, kwargs in (((closure,), {}), ((), {"closure": closure})):
            order: list[str] = []
            assert optimizer.step(*args, **kwargs) is not None
            assert order == expected
        order = []
        optimizer.step()
        assert order == ["fence"]
        handle.remove()


def test_the_epoch_reaches_samplers_however_they_are_nested() -> None:
    from ftmem import _framework

    class Sampler:
        epoch = -1

        def set_epoch(self, epoch: int) -> None:
            self.epoch = epoch

    sampler = Sampler()
    inner = types.SimpleNamespace(sampler=sampler, batch_sampler=None)
    outer = types.SimpleNamespace(batch_sampler=inner)
    outer.sampler = outer  # a cycle ends
    loader = types.SimpleNamespace(sampler=None, batch_sampler=outer)
    _framework.set_sampler_epoch(loader, 4)
    assert sampler.epoch == 4
    _framework.set_sampler_epoch(None, 5)


def ftmem_error() -> type[Exception]:
    import ftmem

    return ftmem.FtmemError


# --- the packages themselves ---


@pytest.fixture
def text(tmp_path: Path) -> Path:
    source = random.Random(7)
    words = "a rank keeps its part of every tensor".split()
    path = tmp_path / "text"
    path.write_text(" ".join(source.choices(words, k=6000)))
    return path


@pytest.fixture(params=("lightning_callback", "huggingface_trainer"))
def example(request: pytest.FixtureRequest, mpirun: Job, text: Path) -> Iterator[Any]:
    """Runs an example under mpirun: what it prints."""
    needed = {"lightning_callback": ("lightning",),
              "huggingface_trainer": ("transformers", "accelerate")}
    for package in needed[request.param]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if importlib.util.find_spec(package) is None:
                pytest.skip(f"{package} is not installed: pip install {package}")
    script = str(ROOT / "examples" / "pytorch" / f"{request.param}.py")

    def start(*options: object, status: int | None = 0) -> str:
        return mpirun(2, script, "--text", text, *options, status=status).stdout

    yield start


def test_examples_that_are_killed_end_as_if_they_were_not(example: Any) -> None:
    seed = int(os.environ.get("FTMEM_SEED") or random.SystemRandom().randrange(10**6))
    chance = random.Random(seed)
    every, kill_at = chance.choice((1, 2, 5)), chance.randint(12, 35)
    workers = chance.choice((0, 2))
    print(f"FTMEM_SEED={seed}: every {every}, killed at {kill_at}, {workers} workers")
    options = ("--workers", workers)
    expected = digests(example(*options, "--unprotected"))
    assert set(expected) == {"0", "1"}

    options = (*options, "--every", every)
    assert not digests(example(*options, "--crash-at", kill_at, status=None))
    output = example(*options)
    begun = re.search(r"^from step (\d+),", output, re.MULTILINE)
    # A version that was skipped or cut short by the kill is not there.
    assert begun and kill_at - 3 * every <= int(begun[1]) < kill_at, output
    assert digests(output) == expected


def digests(output: str) -> dict[str, str]:
    """By rank."""
    return dict(re.findall(r"rank (\d+): digest ([0-9a-f]{64})", output))
