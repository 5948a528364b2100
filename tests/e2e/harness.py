# SPDX-License-Identifier: BSD-3-Clause
"""Jobs for tests: mpirun with a deadline, in a folder of their own, nothing left behind; and
what tests of several programs do with them."""
import argparse
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import endings

JOB = "fault"
RUN_S = 240.0         # no mpirun of these tests takes so long
TRIES = 5


class Failure(Exception):
    """What must hold does not."""


def expect(condition, text):
    if not condition:
        raise Failure(text)


def wait_for(condition, seconds, text):
    """Polls until condition() is true and returns its value."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise Failure(f"not within {seconds} s: {text}")
        time.sleep(0.01)


def alive(pid):
    """Whether a process runs: one that only waits to be reaped does not."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def processes_of(folder):
    """Process ids and command lines that name the folder."""
    found = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            line = pathlib.Path(f"/proc/{entry}/cmdline").read_bytes()
        except OSError:
            continue
        if os.fsencode(str(folder)) in line and alive(entry):
            found[int(entry)] = line.replace(b"\0", b" ").decode(errors="replace").strip()
    return found


def kill(pid, sig=signal.SIGKILL):
    try:
        os.kill(pid, sig)
    except ProcessLookupError:
        pass


def groups_of(nodes, aim, parity):
    """The nodes of each group, as docs/architecture.md has it: neighbours in the order of their
    ranks, groups of near-equal size around the aim, each able to lose so many."""
    nodes = list(dict.fromkeys(nodes))
    count = max(1, min((len(nodes) + aim // 2) // aim, len(nodes) // (parity + 1)))
    size, more = divmod(len(nodes), count)
    ends = [(i + 1) * size + min(i + 1, more) for i in range(count)]
    return [nodes[begin:end] for begin, end in zip([0, *ends], ends)]


def add_arguments(parser: argparse.ArgumentParser):
    parser.add_argument("--trainer", required=True, help="the program fault_trainer")
    parser.add_argument("--smp", required=True, help="the program ftmem-smp")
    parser.add_argument("--ftmem", required=True, help="the program ftmem")
    parser.add_argument("--mpirun", default="mpirun")
    parser.add_argument("--keep", action="store_true", help="keep the folder of what failed")


def programs(args):
    """The arguments of add_arguments() again; ends the test if a program is not there."""
    given = []
    for name in ("trainer", "smp", "ftmem", "mpirun"):
        path = shutil.which(getattr(args, name))
        if not path:
            sys.exit(f"no program {getattr(args, name)}: build it, or say where with --{name}")
        given += [f"--{name}", os.path.abspath(path)]
    return given


class Result:
    """An mpirun that has ended."""

    def __init__(self, status, text, seconds):
        self.status = status
        self.text = text
        self.seconds = seconds

    def tail(self, lines=25):
        return "\n".join("    | " + line for line in self.text.splitlines()[-lines:])


class Job:
    """A job's folder, its processes and what they wrote down."""

    def __init__(self, args, nodes, parity=1, name=JOB, quick=False):
        self.args = args
        self.nodes = list(nodes)      # by rank
        self.parity = parity
        self.name = name
        self.quick = quick            # mpirun starts and ends the ranks faster
        self.root = pathlib.Path(tempfile.mkdtemp(prefix="fte."))
        self.dir = self.root / "d"
        self.folder = self.root / "s"
        self.folder.mkdir()
        self.runs = 0
        self.process = None
        self.closed = False

    # --- starting and ending ---

    def environment(self, **more):
        env = {k: v for k, v in os.environ.items() if not k.startswith(("FTMEM_", "OMPI_", "PMIX"))}
        # What is left behind in spite of all goes by itself.
        env.update(FTMEM_DIR=str(self.dir), FTMEM_SMP=self.args.smp, FTMEM_EXPIRE_S="600")
        # Open MPI refuses to start as root unless told twice.
        env.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
        # Two mpirun that end and start in one such folder get in each other's way.
        env.update(OMPI_MCA_orte_tmpdir_base=str(self.root))
        env.update(endings.ENVIRONMENT)
        if self.quick:
            # The transports of one machine alone; no second between SIGTERM and SIGKILL.
            env.update(OMPI_MCA_pml="ob1", OMPI_MCA_btl="self,vader",
                       OMPI_MCA_odls_base_sigkill_timeout="0")
        env.update({k: str(v) for k, v in more.items() if v is not None})
        return env

    def start(self, *options, fault=None, session=True, **env):
        """Starts mpirun, in a session of its own; its output goes to a file."""
        expect(not self.closed, "interrupted")
        self.runs += 1
        for path in self.folder.glob("pid.*"):
            path.unlink()
        command = [self.args.mpirun, "--oversubscribe", "--bind-to", "none", "-n",
                   str(len(self.nodes)), self.args.trainer, "--folder", str(self.folder),
                   "--job", self.name, "--run", str(self.runs), "--nodes", ",".join(self.nodes),
                   "--parity", str(self.parity), *map(str, options)]
        self.log = self.root / f"run.{self.runs}"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                env=self.environment(FTMEM_TEST_FAULT=fault, **env),
                start_new_session=session, process_group=None if session else 0)
        self.started = time.monotonic()
        return self.process

    def wait(self, seconds=RUN_S):
        """Until mpirun ends. It not ending is a failure, and so is a rank that crashed."""
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            text = self.output()
            self.kill_trainers()
            raise Failure(f"mpirun hung for {seconds:.0f} s\n{Result(0, text, 0).tail()}") from None
        self.expect_no_crash()
        return Result(status, self.output(), time.monotonic() - self.started)

    def run(self, *options, fault=None, **env):
        self.start(*options, fault=fault, **env)
        return self.wait()

    def output(self):
        return self.log.read_text(errors="replace")

    def expect_no_crash(self):
        crash = endings.crash(self.output())
        expect(not crash, f"a rank crashed: {crash}\n{Result(0, self.output(), 0).tail()}")

    def kill_trainers(self):
        """mpirun and all its ranks."""
        if self.process and self.process.poll() is None:
            kill(self.process.pid)
        for pid in processes_of(self.folder):
            kill(pid)
        if self.process:
            self.process.wait()

    def close(self):
        """Ends all there is and removes the folder."""
        self.closed = True
        self.kill_trainers()
        deadline = time.monotonic() + 60
        while (left := processes_of(self.root)) and time.monotonic() < deadline:
            for pid in left:
                kill(pid)
            time.sleep(0.01)
        if not self.args.keep:
            shutil.rmtree(self.root, ignore_errors=True)

    # --- ftmem ---

    def ftmem(self, *words, **more):
        return subprocess.run([self.args.ftmem, *words, "--dir", str(self.dir)], text=True,
                              capture_output=True, timeout=RUN_S, env=self.environment(),
                              check=False, **more)

    def status(self):
        """What `ftmem status --json` says of each node."""
        if not self.dir.exists():
            return {}
        for _ in range(TRIES):
            done = self.ftmem("status", "--json")
            try:
                return {site["node"]: site for site in json.loads(done.stdout)["jobs"]
                        if site["job"] == self.name and "pid" in site}
            except ValueError:
                time.sleep(0.1)
        raise Failure(f"ftmem status makes no sense: {done.stdout}{done.stderr}")

    def kill_smp(self, node):
        serving = self.status()
        expect(node in serving, f"no ftmem-smp of node {node}: there are {sorted(serving)}")
        pid = serving[node]["pid"]
        kill(pid)
        wait_for(lambda: not alive(pid), 60, f"ftmem-smp {pid} of node {node} is killed and gone")

    # --- what the trainers wrote down ---

    def lines(self, pattern):
        """By file. A line without an end was not written whole: its rank was killed."""
        found = {}
        for path in sorted(self.folder.glob(pattern)):
            found[path.name] = path.read_text(errors="replace").split("\n")[:-1]
        return found

    def all_committed(self):
        """Versions that some rank knows to be committed."""
        return {int(line.split()[0]) for lines in self.lines("committed.*").values()
                for line in lines}

    def committed(self):
        """The newest of them; 0: none."""
        return max(self.all_committed(), default=0)

    def restored(self):
        """What the ranks restored in the last run: a set of versions; "fresh". A rank that was
        killed while it wrote this down has not said it."""
        words = [lines[0].split()[1] for lines in self.lines(f"result.{self.runs}.*").values()
                 if lines]
        return {word if word == "fresh" else int(word) for word in words}, len(words)

    def fired(self):
        return [line for lines in self.lines("fired.*").values() for line in lines]

    def wrong(self):
        return [line for lines in self.lines("wrong").values() for line in lines]


def end_on_sigterm():
    """As on Ctrl-C: what was started is ended."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def natural(text):
    return [int(word) if word.isdigit() else word for word in re.split(r"(\d+)", text)]


# --- memory of ftmem-smp ---

def descriptors(pid):
    found = {}
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/{pid}/fd/{name}")
        except FileNotFoundError:
            pass
    return found


def memory_of(pid):
    """Device and inode of each memfd it holds."""
    found = set()
    for number, target in descriptors(pid).items():
        if target.startswith("/memfd:"):
            info = os.stat(f"/proc/{pid}/fd/{number}")
            found.add((info.st_dev, info.st_ino))
    return found


def holders(memory):
    """Processes that still hold or map one of these memfds."""
    found = set()
    inodes = {str(inode) for _, inode in memory}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            if memory & memory_of(entry):
                found.add(int(entry))
            for line in pathlib.Path(f"/proc/{entry}/maps").read_text().splitlines():
                if "/memfd:" in line and line.split()[4] in inodes:
                    found.add(int(entry))
        except OSError:
            pass
    return found


def smp_memory(job):
    return set().union(*(memory_of(site["pid"]) for site in job.status().values()))


def expect_nothing_left(job, memory):
    left = processes_of(job.root)
    expect(not left, f"processes are left: {left}")
    files = [str(p) for p in job.dir.iterdir()] if job.dir.exists() else []
    expect(not files, f"files are left: {files}")
    held = holders(memory)
    expect(not held, f"memory is still held by {held}")


# --- runs of fault_trainer, ftmem-smp by hand ---

def smp(job, *options, node="n0", **more):
    return subprocess.Popen([job.args.smp, "--job", job.name, "--node", node, "--dir",
                             str(job.dir), *options], env=job.environment(), text=True,
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, **more)


def train(job, *options, **env):
    """A run that must be good; returns what was restored."""
    done = job.run("--steps", 3, *options, **env)
    expect(done.status == 0, f"the run ended with status {done.status}\n{done.tail()}")
    versions, ranks = job.restored()
    expect(ranks == len(job.nodes) and len(versions) == 1, f"ranks restored {versions}")
    return versions.pop()


def pids(job):
    """Of the ranks of the run under way, once all have begun."""
    def all_there():
        found = [int(lines[0].split()[0]) for lines in job.lines("pid.*").values() if lines]
        return found if len(found) == len(job.nodes) else None
    return wait_for(all_there, 20, "all ranks have begun")


def start_held(job, *options, **env):
    """Starts a run that does its steps and then waits."""
    job.start("--steps", 3, "--hold", "go", *options, **env)
    wait_for(lambda: len(job.lines("holding.*")) == len(job.nodes) or
             job.process.poll() is not None, 30, "all ranks have done their steps")
    expect(job.process.poll() is None, f"the run ended:\n{Failure(job.output())}")


def let_go(job):
    (job.folder / "go").touch()
    done = job.wait()
    (job.folder / "go").unlink()
    for path in job.folder.glob("holding.*"):
        path.unlink()
    return done


def survives(job, end):
    """Ends mpirun in the middle of training with end(process), then goes on."""
    job.start("--steps", 100000, "--step-ms", 5)
    wait_for(lambda: job.committed() >= 5, 20, "versions are committed")
    before = {node: site["pid"] for node, site in job.status().items()}
    expect(set(before) == set(job.nodes), f"ftmem-smp of {set(before)} only")
    end(job.process)
    job.process.wait(30)
    job.expect_no_crash()
    wait_for(lambda: not processes_of(job.folder), 10, "all ranks are gone")
    committed = job.committed()
    after = {node: site["pid"] for node, site in job.status().items()}
    expect(before == after, f"ftmem-smp were {before}, are {after}")
    version = train(job)
    expect(version != "fresh" and version >= committed, f"restored {version} after {committed}")
