# SPDX-License-Identifier: BSD-3-Clause
"""A training that is killed goes on bit for bit: examples/pytorch with DDP and with FSDP2."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from conftest import Job

pytest.importorskip("torch")

STEPS = 14
RANKS = 3
NODES = [f"node{i}" for i in range(RANKS)]
SCRIPTS = {"ddp": "train", "fsdp": "train_fsdp"}
# So that of two snapshots one after another the first is committed: what must be restored
# is then known.
WAIT = {"FTMEM_WHEN_BUSY": "wait"}


@dataclass
class Blow:
    """Where a training is killed: after the snapshot of a step, on a rank."""

    step: int
    rank: int

    def options(self) -> list[object]:
        return ["--crash-at", self.step, "--crash-rank", self.rank]

    def newest(self) -> tuple[int, int]:
        """The versions that may be the newest: it was killed before or after the commit."""
        return self.step - 1, self.step


@dataclass
class Story:
    """What two trainings went through, one with DDP and one with FSDP2, and what they printed.

    Starting PyTorch takes seconds, so trainings of both kinds share processes where they can.
    """

    undisturbed: dict[str, str] = field(default_factory=dict)   # kind: digest
    rank_lost: dict[str, Blow] = field(default_factory=dict)
    node_lost: dict[str, Blow] = field(default_factory=dict)
    second: dict[str, str] = field(default_factory=dict)        # after the rank, with the node
    last: dict[str, str] = field(default_factory=dict)          # after the node
    fewer: str = ""                                             # DDP, without one node


def digests(output: str) -> list[str]:
    """One for each training that came to its end."""
    return re.findall(r"^digest ([0-9a-f]{64})$", output, re.MULTILINE)


def restored(output: str) -> int:
    """The version from which the first training that restored one went on, or 0."""
    found = re.search(r"^restored version (\d+) ", output, re.MULTILINE)
    return int(found[1]) if found else 0


def text_file(folder: Path) -> Path:
    """Words that a seed chose: nobody edits them between two runs."""
    words = ["every", "rank", "keeps", "a", "part", "of", "each", "tensor"]
    path = folder / "text"
    path.write_text(" ".join(random.Random(7).choices(words, k=4000)))
    return path


def tell(story: Story, job: Job, text: Path) -> None:
    def phase(kind: str, *options: object, steps: int = STEPS) -> list[object]:
        return ["+", SCRIPTS[kind], "--dim", 32, "--context", 32, "--steps", steps,
                "--job", kind, "--text", text, *options]

    def run(*phases: list[object], nodes: list[str] = NODES, lose_node: bool = False,
            status: int | None = 0) -> str:
        env = {**WAIT, **({"CRASH_NODE": 1} if lose_node else {})}
        words = [word for one in phases for word in one]
        return job(len(nodes), "train_phases.py", *words, nodes=nodes, env=env,
                   status=status).stdout

    def lose_rank(kind: str) -> list[object]:
        return phase(kind, *story.rank_lost[kind].options())

    def lose_node(kind: str) -> str:
        return run(phase(kind, *story.node_lost[kind].options()), lose_node=True, status=None)

    plain = [phase(kind, "--unprotected") for kind in SCRIPTS]
    first = run(*plain, lose_rank("ddp"), status=None)
    story.undisturbed = dict(zip(SCRIPTS, digests(first), strict=True))
    story.second["ddp"] = lose_node("ddp")
    story.last["ddp"] = run(phase("ddp"), lose_rank("fsdp"), status=None)
    story.second["fsdp"] = lose_node("fsdp")
    story.last["fsdp"] = run(phase("fsdp"))
    story.fewer = run(phase("ddp"), phase("ddp", steps=STEPS + 2), nodes=NODES[:-1])


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    seed = int(os.environ.get("FTMEM_SEED") or random.SystemRandom().randrange(10**6))
    chance = random.Random(seed)
    told = Story()
    for kind in SCRIPTS:
        steps = sorted(chance.sample(range(3, STEPS), 2))
        told.rank_lost[kind], told.node_lost[kind] = (
            Blow(step, chance.randrange(RANKS)) for step in steps)
    print(f"FTMEM_SEED={seed}: ranks lost {told.rank_lost}, nodes lost {told.node_lost}")
    job = Job()
    try:
        tell(told, job, text_file(tmp_path_factory.mktemp("text")))
        yield told
    finally:
        job.end()


@pytest.mark.parametrize("kind", SCRIPTS)
def test_killed_rank_and_killed_node_leave_no_trace(kind: str, story: Story) -> None:
    second, last = story.second[kind], story.last[kind]
    assert not digests(second), "it was not killed"
    assert restored(second) in story.rank_lost[kind].newest()
    assert f"ftmem-smp of node{story.node_lost[kind].rank} killed" in second
    assert restored(last) in story.node_lost[kind].newest()
    assert digests(last) == [story.undisturbed[kind]]


def test_fewer_ranks_get_the_same_state_and_go_on(story: Story) -> None:
    assert restored(story.fewer) == STEPS
    same, later = digests(story.fewer)
    assert same == story.undisturbed["ddp"]
    assert later != same
    assert re.search(rf"^step +{STEPS + 2} ", story.fewer, re.MULTILINE)
