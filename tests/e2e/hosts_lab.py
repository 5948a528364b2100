# SPDX-License-Identifier: BSD-3-Clause
"""Among the hosts that netns.sh made: what can be done to them, and jobs across them."""
import errno
import json
import os
import pathlib
import re
import signal
import socket
import subprocess

from endings import ENVIRONMENT, crash
from harness import RUN_S, Failure, alive, expect, kill, wait_for

JOB = "hosts"
# Of a job whose peers are out of reach; every wait of the library follows from it.
TIMEOUT_MS = 2000
# From a cut until ranks are told, and for ftmem_close(): no hang, however busy the machine.
PATIENCE_S = 15 * TIMEOUT_MS / 1000


def names():
    return os.environ["NETNS_HOSTS"].split()


def output_of(*words):
    return subprocess.run(words, text=True, stdout=subprocess.PIPE, check=True).stdout


# --- hosts ---

def port(host):
    return f"port{names().index(host)}"


def processes(host):
    """Process ids and names of the programs that run on a host."""
    found = {}
    for pid in map(int, output_of("ip", "netns", "pids", host).split()):
        try:
            program = os.path.basename(os.readlink(f"/proc/{pid}/exe"))
        except OSError:
            continue
        # What waits to be reaped is still listed.
        if alive(pid):
            found[pid] = program
    return found


def end_processes(host, spare=()):
    """Ends all that runs on a host but programs of these names; returns the names of others."""
    ended = []
    while found := {p: n for p, n in processes(host).items() if n not in spare}:
        ended += found.values()
        for pid in found:
            kill(pid)
        wait_for(lambda: not any(map(alive, found)), 10, f"all processes of {host} are gone")
    return ended


def lose(host):
    return end_processes(host)


def keepers():
    """The ftmem-smp of each host: they must outlive whatever befalls the network."""
    return {host: [p for p, name in processes(host).items() if name == "ftmem-smp"]
            for host in names()}


def cut(host):
    """As if its cable were pulled."""
    output_of("ip", "-n", "switch", "link", "set", port(host), "down")


def cut_inside(host):
    """Its own system takes the interface down, and its routes with it."""
    output_of("ip", "-n", host, "link", "set", "eth0", "down")


def answers(host):
    """Whether packets come to a host and back: nothing listens there."""
    with socket.socket() as s:
        s.settimeout(1)
        return s.connect_ex((host, 1)) == errno.ECONNREFUSED


def await_answer(hosts):
    """A link that is up again carries packets up to a second later; an mpirun before that waits
    for ever, since its daemon on the host gives up."""
    for host in hosts:
        wait_for(lambda h=host: answers(h), 30, f"{host} is reached again")


def mend(host):
    output_of("ip", "-n", "switch", "link", "set", port(host), "up")
    output_of("ip", "-n", host, "link", "set", "eth0", "up")
    await_answer([host])


def split(hosts):
    """These reach each other still, but nobody else."""
    output_of("ip", "-n", "switch", "link", "add", "far", "type", "bridge")
    output_of("ip", "-n", "switch", "link", "set", "far", "up")
    for host in hosts:
        output_of("ip", "-n", "switch", "link", "set", port(host), "master", "far")


def heal(hosts):
    for host in hosts:
        output_of("ip", "-n", "switch", "link", "set", port(host), "master", "eth0")
    await_answer(hosts)


def throttle(host, rate):
    for where, interface in ((host, "eth0"), ("switch", port(host))):
        output_of("tc", "-n", where, "qdisc", "add", "dev", interface, "root", "tbf",
                  "rate", rate, "burst", "128kb", "latency", "5s")


def freeze(host):
    """All its processes stand still; its kernel goes on answering."""
    found = processes(host)
    for pid in found:
        os.kill(pid, signal.SIGSTOP)
    return found


def thaw(found):
    for pid in found:
        kill(pid, signal.SIGCONT)


def state_of(pid):
    return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def carried(host):
    """Bytes that a host has sent."""
    told = json.loads(output_of("ip", "-n", "switch", "-s", "-j", "link", "show", port(host)))
    return told[0]["stats64"]["rx"]["bytes"]


def queues(host):
    """What is set at both ends of a host's link, and whether packets had to wait there."""
    return [(queue["kind"], queue.get("overlimits", 0) > 0)
            for where, interface in ((host, "eth0"), ("switch", port(host)))
            for queue in json.loads(output_of("tc", "-n", where, "-s", "-j", "qdisc", "show",
                                              "dev", interface))]


# --- jobs ---

class Run:
    """mpirun across hosts, a rank on each; its output is in a file."""

    def __init__(self, args, hosts, log, *words, env=None, at=()):
        self.hosts = hosts
        self.log = args.folder / log
        with open(self.log, "wb") as out:
            self.process = subprocess.Popen(
                [*at, args.mpirun, "--host", ",".join(hosts), *map(str, words)],
                stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                env={**os.environ, **ENVIRONMENT, **(env or {})})

    def text(self):
        return self.log.read_text(errors="replace")

    def tail(self):
        return "\n".join("    | " + line for line in self.text().splitlines()[-25:])

    def wait(self):
        try:
            status = self.process.wait(RUN_S)
        except subprocess.TimeoutExpired:
            raise Failure(f"mpirun hung for {RUN_S:.0f} s\n{self.tail()}") from None
        self.expect_no_crash()
        return status

    def expect_no_crash(self):
        found = crash(self.text())
        expect(not found, f"a rank crashed: {found}\n{self.tail()}")

    def succeed(self):
        status = self.wait()
        expect(status == 0, f"mpirun ended with status {status}\n{self.tail()}")
        return self.text()


class Faults:
    """fault_trainer, started again and again: it checks each restored byte itself. Ranks
    that the library tells of a failure stay until end(), so that the launcher does not
    end the others before they are told."""

    def __init__(self, args):
        self.args = args
        self.folder = args.folder
        self.runs = 0
        self.said = []

    def start(self, hosts, steps, *options, fault="", at=()):
        self.runs += 1
        for path in self.folder.glob("pid.*"):
            path.unlink()
        (self.folder / "go").unlink(missing_ok=True)
        run = Run(self.args, hosts, f"faults.{self.runs}", self.args.trainer,
                  "--folder", self.folder, "--job", JOB, "--run", self.runs,
                  "--nodes", ",".join(hosts), "--steps", steps, *options,
                  env={"FTMEM_TEST_FAULT": fault}, at=at)
        run.number = self.runs
        return run

    def start_short(self, hosts, steps, *options, fault="", at=()):
        """One whose peers will be out of reach."""
        return self.start(hosts, steps, "--timeout-ms", TIMEOUT_MS, "--farewell", "--hold", "go",
                          *options, fault=fault, at=at)

    def committed(self):
        """The newest version that some rank knows to be committed."""
        return max((int(line.split()[0]) for path in self.folder.glob("committed.*")
                    for line in path.read_text().splitlines()), default=0)

    def await_committed(self, version, run):
        wait_for(lambda: self.committed() >= version or run.process.poll() is not None, RUN_S,
                 f"version {version} is committed")
        expect(run.process.poll() is None, f"ended by itself\n{run.tail()}")

    def restore(self, hosts, steps=1):
        """All ranks go on from what was committed last, or from something newer."""
        floor = self.committed()
        run = self.start(hosts, steps)
        run.succeed()
        return self.restored(run, floor)

    def restored(self, run, floor):
        said = {rank: (self.folder / f"result.{run.number}.{rank}").read_text().split()[1]
                for rank in range(len(run.hosts))}
        expect(len(set(said.values())) == 1 and said[0] != "fresh" and int(said[0]) >= floor,
               f"restored: {said}, but version {floor} was committed\n{run.tail()}")
        expect(not (self.folder / "wrong").exists(), "a rank found wrong bytes")
        return int(said[0])

    def await_stop(self, rank, run):
        """Until a rank was stopped by a fault; returns its process id."""
        def stopped():
            expect(run.process.poll() is None, f"ended by itself\n{run.tail()}")
            try:
                pid = int((self.folder / f"pid.{rank}").read_text().split()[0])
                return pid if state_of(pid) == "T" else 0
            except (OSError, IndexError):
                return 0
        return wait_for(stopped, RUN_S, f"rank {rank} has come to the fault")

    def farewells(self, run, ranks, since):
        """What the library told each of these ranks, once it has closed there too. since:
        time.monotonic_ns() when others came out of reach."""
        def told(rank):
            try:
                return (self.folder / f"failed.{run.number}.{rank}").read_text()
            except FileNotFoundError:
                return ""
        try:
            wait_for(lambda: all("\nclosed in" in told(r) for r in ranks), RUN_S,
                     "the library fails in time, and closes, on all ranks")
        except Failure as failure:
            raise Failure(f"{failure}; told: {[told(r) for r in ranks]}\n{run.tail()}") from None
        lines = {}
        for rank in ranks:
            lines[rank], at, closed = told(rank).splitlines()
            late = int(at.split()[2]) - since
            print(f"rank {rank}, after {late * 1e-9:.1f} s: {lines[rank]}; {closed}", flush=True)
            expect(0 <= late * 1e-9 <= PATIENCE_S and int(closed.split()[2]) <= PATIENCE_S * 1e3,
                   f"rank {rank}: told {late * 1e-9:.1f} s after the cut, {closed}")
            expect(re.match(r"ftmem_\w+: (deadline passed|message passing failed): .",
                            lines[rank]),
                   f"not told that a peer is out of reach: {lines[rank]}")
        return lines

    def end(self, run, hosts=None):
        """Ranks end by themselves, then what is left of the launcher is ended: it may wait
        for a host that is out of reach."""
        (self.folder / "go").touch()
        for host in hosts or run.hosts:
            wait_for(lambda h=host: "fault_trainer" not in processes(h).values(), 20,
                     f"no trainer is left on {host}")
        run.process.kill()
        run.process.wait()
        run.expect_no_crash()
        for host in hosts or run.hosts:
            end_processes(host, spare=("ftmem-smp",))
