#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Jobs on several hosts, each a network namespace with a name of its own, over TCP.

Each test starts scripts/netns.sh, which runs this program again among the hosts. After
each, nothing of it may be left on the machine. Where hosts cannot be made, that is said,
and the status is 77; if FTMEM_REQUIRE_ALL is set, it is a failure.
"""
import argparse
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import cases
import hosts_cut
from cases import Skipped
from harness import RUN_S, Failure, end_on_sigterm, expect, wait_for
from hosts_lab import JOB, Faults, Run, carried, lose, names, output_of, queues

STEPS = 40
LOSE_AT = 12
DELAY_MS = 2


# --- among the hosts: netns.sh has set the environment ---

def train(args, hosts, job, *words):
    return Run(args, hosts, f"{job}.{time.monotonic_ns()}", args.gpt, "--job", job, "--print", 1,
               "--parity", 1, "--layers", 1, "--steps", STEPS,
               "--dump", args.folder / f"{job}.bin", *words)


def training_goes_on_bit_exact_without_a_lost_host(args):
    *hosts, spare = names()
    run = train(args, hosts, JOB, "--pause-ms", 10)
    wait_for(lambda: re.search(rf"^step +{LOSE_AT}\b", run.text(), re.M)
             or run.process.poll() is not None, RUN_S, f"step {LOSE_AT} is reached")
    expect(run.process.poll() is None, f"ended by itself\n{run.tail()}")
    lost = lose(hosts[2])
    expect({"train_gpt", "ftmem-smp"} <= set(lost), f"{hosts[2]} ran only {lost}")
    expect(run.wait() != 0, f"not the loss of a host ended it\n{run.tail()}")

    text = train(args, [*hosts[:2], spare, hosts[3]], JOB).succeed()
    version = re.search(r"^restored version (\d+)", text, re.M)
    expect(version and LOSE_AT - 1 <= int(version[1]) < STEPS, f"not restored:\n{text}")
    expect(re.search(rf"^rank 2: node {spare}, .* rebuilt: was on {hosts[2]}$", text, re.M),
           f"rank 2 was not rebuilt on {spare}:\n{text}")

    train(args, hosts, "undisturbed").succeed()
    ends = [(args.folder / f"{job}.bin").read_bytes() for job in (JOB, "undisturbed")]
    expect(len(ends[0]) > 100000 and ends[0] == ends[1], "the results differ")
    for host in (*hosts, spare):
        expect(carried(host) > 1000000, f"{host} has sent {carried(host)} bytes")


def lost_host_is_rebuilt(args):
    *hosts, spare = names()
    faults = Faults(args)
    faults.start(hosts, 3).succeed()
    lost = lose(hosts[1])
    expect("ftmem-smp" in lost, f"{hosts[1]} ran only {lost}")
    expect(faults.restore([hosts[0], spare, *hosts[2:]], 2) == 3, "not the newest version")


def slow_links_lose_nothing(args):
    lost_host_is_rebuilt(args)
    found = queues(names()[0])
    # Whether packets wait in the switch depends on who sends at the same time.
    expect(found[0] == ("tbf", True) and [kind for kind, _ in found] == ["tbf", "tbf"],
           f"the links were not slow: {found}")


def round_trip(host):
    """Of a connection that is refused, in seconds: the least of some."""
    least = RUN_S
    for _ in range(5):
        with socket.socket() as s:
            begin = time.monotonic()
            expect(s.connect_ex((host, 1)) != 0, f"something listens on {host}")
            least = min(least, time.monotonic() - begin)
    return least


def long_links_lose_nothing(args):
    lost_host_is_rebuilt(args)
    for host in names():
        seconds = round_trip(host)
        expect(seconds >= DELAY_MS * 2e-3, f"to {host} and back: {seconds:.4f} s")
    kinds = [kind for kind, _ in queues(names()[0])]
    expect(kinds.count("tbf") == 2, f"the links were not slow: {kinds}")


def stay(args):
    """For the tests of netns.sh itself: a job's memory is held, and nobody ends."""
    Faults(args).start(names(), 1).succeed()
    (args.folder / "ready").touch()
    time.sleep(RUN_S)


# --- outside ---

def inhabitants(namespaces, folder):
    """Processes in some of these namespaces. Their numbers are soon used again, by runs beside
    this one, but only what this one started names its folder."""
    found = set()
    for path in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            there = {os.readlink(link) for link in path.glob("ns/[pnu]*")}
            words = (path / "environ").read_bytes() + (path / "cmdline").read_bytes()
        except OSError:
            continue
        if there & namespaces and os.fsencode(str(folder)) in words:
            found.add(path.name)
    return found


def interfaces():
    return output_of("ip", "-o", "-br", "link") + output_of("ip", "netns", "list")


class Hosts:
    """netns.sh with this program in it."""

    def __init__(self, args, test, *options):
        if not shutil.which("ip"):
            raise Skipped("there is no program ip: install iproute2")
        self.before = interfaces()
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="fth."))
        self.log = self.folder / "netns.log"
        with open(self.log, "wb") as out:
            self.process = subprocess.Popen(
                [args.netns, *options, "--command", "--", sys.executable,
                 os.path.abspath(__file__), "--inside", test.__name__, "--folder", self.folder,
                 "--mpirun", args.mpirun, "--gpt", args.gpt, "--trainer", args.trainer],
                stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                env={**self.environment(), "TMPDIR": str(self.folder)})

    @staticmethod
    def environment():
        return {k: v for k, v in os.environ.items()
                if k == "FTMEM_SMP" or not k.startswith(("FTMEM_", "OMPI_", "PMIX"))}

    def end(self):
        """Status and output. Whatever was started is gone then."""
        try:
            status = self.process.wait(2 * RUN_S)
        except subprocess.TimeoutExpired:
            raise Failure("netns.sh hung") from None
        mine = self.recorded()
        wait_for(lambda: not inhabitants(mine, self.folder), RUN_S, "all namespaces are gone")
        expect(interfaces() == self.before, f"were\n{self.before}are\n{interfaces()}")
        return status, self.log.read_text(errors="replace")

    def recorded(self):
        """The namespaces that the program among the hosts was in, and the hosts'."""
        try:
            return set((self.folder / "namespaces").read_text().split())
        except FileNotFoundError:
            return set()

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def record_namespaces(folder):
    found = {os.readlink(path) for path in pathlib.Path("/proc/self/ns").glob("[pnu]*")}
    found |= {f"net:[{path.stat().st_ino}]" for path in pathlib.Path("/run/netns").iterdir()}
    found -= {os.readlink(f"/proc/self/ns/{kind}") for kind in ("user", "uts")}
    (folder / "namespaces").write_text("\n".join(found))


def succeed(args, test, *options):
    """Returns what it printed."""
    hosts = Hosts(args, test, *options)
    try:
        status, text = hosts.end()
        if status == 77:
            raise Skipped(text.strip())
        expect(status == 0, f"status {status}\n{text}")
        left = sorted(path.name for path in hosts.folder.glob("netns.??????"))
        expect(not left, f"left: {left}")
        expect(hosts.recorded(), "the test did not run")
        return text.strip()
    finally:
        hosts.close()


def host(args):
    return succeed(args, training_goes_on_bit_exact_without_a_lost_host, "--hosts", "5")


def rate(args):
    return succeed(args, slow_links_lose_nothing, "--hosts", "4", "--rate", "20mbit")


def delay(args):
    return succeed(args, long_links_lose_nothing, "--hosts", "4", "--rate", "100mbit",
                   "--delay", f"{DELAY_MS}ms")


def signals(args):
    """However it ends, the processes end with it, ftmem-smp too."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        hosts = Hosts(args, stay, "--hosts", "2")
        try:
            wait_for(lambda: (hosts.folder / "ready").exists() or hosts.process.poll() is not None,
                     RUN_S, "the job is there")
            if hosts.process.poll() == 77:
                raise Skipped(hosts.end()[1].strip())
            expect(inhabitants(hosts.recorded(), hosts.folder), "the namespaces are not seen")
            hosts.process.send_signal(number)
            status, text = hosts.end()
            expect(status == {signal.SIGTERM: 143, signal.SIGKILL: -9}[number],
                   f"status {status}\n{text}")
        finally:
            hosts.close()
    return ""


def cut_exchange(args):
    return succeed(args, hosts_cut.link_is_cut_while_versions_are_exchanged, "--hosts", "4")


def cut_rebuild(args):
    return succeed(args, hosts_cut.link_is_cut_while_a_host_is_rebuilt, "--hosts", "4")


def cut_vote(args):
    return succeed(args, hosts_cut.link_is_cut_in_the_vote, "--hosts", "5")


def cut_short(args):
    return succeed(args, hosts_cut.short_cut_loses_nothing, "--hosts", "4")


def split(args):
    return succeed(args, hosts_cut.network_is_split, "--hosts", "4")


def slow(args):
    return succeed(args, hosts_cut.one_slow_link_is_waited_for, "--hosts", "4", "--mtu", "9000")


def frozen(args):
    return succeed(args, hosts_cut.frozen_host_is_replaced_and_comes_back, "--hosts", "5")


# Those that take longest first.
TESTS = [cut_rebuild, host, slow, cut_exchange, cut_vote, frozen, split, cut_short, rate, signals]
ALONE = [delay]


def inside(args):
    record_namespaces(args.folder)
    test = globals().get(args.inside) or getattr(hosts_cut, args.inside)
    try:
        test(args)
    except Failure as failure:
        print(failure)
        return 1
    return 0


def parse():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--netns", help="scripts/netns.sh")
    parser.add_argument("--gpt", required=True, help="the program train_gpt")
    parser.add_argument("--trainer", required=True, help="the program fault_trainer")
    parser.add_argument("--mpirun", default="mpirun")
    cases.add_argument(parser)
    parser.add_argument("--jobs", type=int, default=4, help="tests at a time (4): most wait")
    parser.add_argument("--inside", help="used by this program itself")
    parser.add_argument("--folder", type=pathlib.Path, help="with --inside")
    return parser.parse_args()


def main():
    args = parse()
    if args.inside:
        return inside(args)
    end_on_sigterm()
    return cases.run(cases.choose(args, TESTS, ALONE), lambda test: test(args), args.jobs)


if __name__ == "__main__":
    sys.exit(main())
