# SPDX-License-Identifier: BSD-3-Clause
"""What tests of the binding share: the paths, and jobs under mpirun.

A test that needs ranks has a program in programs/ and takes the fixture mpirun:

    def test_something_holds(mpirun):
        mpirun(2, "write.py", "--steps", 3)              # fails the test unless it exits with 0
        done = mpirun(2, "read.py", nodes=["a", "b"])    # the same job folder: finds what is stored
        assert "restored 3" in done.stdout

Without MPI's launcher, for a single process: mpirun(0, "program.py").
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PROGRAMS = HERE / "programs"

sys.path.insert(0, str(ROOT / "python"))
sys.dont_write_bytecode = True
# The one of the build that is tested; by hand that of the dev build.
os.environ.setdefault("FTMEM_LIBRARY", str(ROOT / "build" / "dev" / "bin" / "libftmem.so"))

# A program of its own.
collect_ignore = ["test_figures.py"]

TIMEOUT_S = 120
MINE = ("FTMEM_LIBRARY", "FTMEM_SMP", "FTMEM_LOG_LEVEL")
LAUNCHERS = ("OMPI_", "PMIX_", "PMI_", "SLURM_", "TORCHELASTIC_")
RANKS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class Job:
    """Starts processes that share a folder of sockets: what one run stores, the next finds."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ftm."))  # mode 0700, short: a socket's path
        self.started: list[subprocess.Popen[str]] = []

    def __call__(
        self,
        ranks: int,
        program: str,
        *args: object,
        nodes: int | Sequence[str] = 1,
        env: dict[str, Any] | None = None,
        timeout_s: float = TIMEOUT_S,
        status: int | None = 0,
    ) -> subprocess.CompletedProcess[str]:
        """Runs a program of programs/ to its end; stderr is in stdout. nodes: how many, or their
        names; ranks are dealt to them in blocks. env: variables added, or with None taken
        away. status: the exit status that the test expects, None for any."""
        process = self.start(ranks, program, *args, nodes=nodes, env=env)
        try:
            output, _ = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            end(process)
            output, _ = process.communicate()
            pytest.fail(f"{program} did not end within {timeout_s} s:\n{output}")
        if status is not None and process.returncode != status:
            pytest.fail(f"{program} exited with {process.returncode}, not {status}:\n{output}")
        return subprocess.CompletedProcess(process.args, process.returncode, output)

    def start(
        self,
        ranks: int,
        program: str,
        *args: object,
        nodes: int | Sequence[str] = 1,
        env: dict[str, Any] | None = None,
    ) -> subprocess.Popen[str]:
        """The same without waiting: for tests that kill it."""
        command = [sys.executable, self.path(program), *map(str, args)]
        if ranks > 0:
            command = mpirun_command(ranks, node_names(ranks, nodes), command)
        process = subprocess.Popen(
            command,
            env=self.environ(env or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    @staticmethod
    def path(program: str) -> str:
        return str(PROGRAMS / program)

    def environ(self, changes: dict[str, Any]) -> dict[str, str]:
        """Of processes that are started: nothing of a launcher's, and a folder of their own."""
        keep = {
            name: value
            for name, value in os.environ.items()
            if name not in RANKS
            and not name.startswith(LAUNCHERS)
            and (name in MINE or not name.startswith("FTMEM_"))
        }
        out = {
            **keep,
            "FTMEM_DIR": str(self.folder),
            # Two mpirun that end and start in one such folder get in each other's way.
            "OMPI_MCA_orte_tmpdir_base": str(self.folder),
            "OMPI_ALLOW_RUN_AS_ROOT": "1",
            "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(ROOT / "python"), str(PROGRAMS)]),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONFAULTHANDLER": "1",
        }
        for name, value in changes.items():
            if value is None:
                out.pop(name, None)
            else:
                out[name] = str(value)
        return out

    def smps(self, node: str | None = None) -> list[int]:
        """The processes that keep this job's memory, of one node or of all."""
        found = []
        for proc in Path("/proc").glob("[0-9]*"):
            try:
                words = (proc / "cmdline").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            serves = "ftmem-smp" in words[0] and any(str(self.folder) in word for word in words)
            if serves and (node is None or node in words):
                found.append(int(proc.name))
        return found

    def lose_node(self, node: str) -> None:
        """Kills what keeps a node's memory; its ranks must have ended."""
        lost = self.smps(node)
        assert lost, f"nothing keeps memory of node {node}"
        for pid in lost:
            os.kill(pid, signal.SIGKILL)

    def end(self) -> None:
        for process in self.started:
            end(process)
        for politely in (True, False):
            for pid in self.smps():
                signal_if_there(pid, signal.SIGTERM if politely else signal.SIGKILL)
            limit = time.monotonic() + 5
            while self.smps() and time.monotonic() < limit:
                time.sleep(0.01)
        shutil.rmtree(self.folder, ignore_errors=True)


def end(process: subprocess.Popen[str]) -> None:
    """mpirun ends its ranks if it is asked to. What still is there of its session is killed:
    ftmem-smp has one of its own."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
    for proc in Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(proc.name)) == process.pid:
                os.kill(int(proc.name), signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue


def signal_if_there(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def node_names(ranks: int, nodes: int | Sequence[str]) -> list[str]:
    """The node of each rank."""
    names = [f"node{i}" for i in range(nodes)] if isinstance(nodes, int) else list(nodes)
    return [names[rank * len(names) // ranks] for rank in range(ranks)]


def mpirun_command(ranks: int, nodes: Sequence[str], command: Sequence[str]) -> list[str]:
    """mpirun with a part of its own for the ranks of each node."""
    mpirun = os.environ.get("FTMEM_MPIRUN", "mpirun")
    out = [mpirun, "--oversubscribe", "--bind-to", "none"]
    for i, node in enumerate(dict.fromkeys(nodes)):
        out += [":"] if i else []
        out += ["-n", str(nodes.count(node)), "-x", f"FTMEM_NODE={node}", *command]
    return out


@pytest.fixture
def mpirun() -> Iterator[Job]:
    """Runs programs under mpirun, in a folder that this test has for itself; see Job."""
    job = Job()
    yield job
    job.end()
