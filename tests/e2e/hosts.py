#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Jobs on several hosts, each a network namespace with a name of its own, over TCP.

Each test starts scripts/netns.sh, which runs this program again among the hosts. After
each, nothing of it may be left on the machine.
"""
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

from harness import RUN_S, Failure, alive, end_on_sigterm, expect, kill, wait_for

STEPS = 40
LOSE_AT = 12
JOB = "hosts"


class Skipped(Exception):
    """What a test needs is not to be had here."""


# --- among the hosts: netns.sh has set the environment ---

def names():
    return os.environ["NETNS_HOSTS"].split()


def output_of(*words):
    return subprocess.run(words, text=True, stdout=subprocess.PIPE, check=True).stdout


class Run:
    """mpirun across hosts, a rank on each; its output is in a file."""

    def __init__(self, args, hosts, log, *words):
        self.log = args.folder / log
        with open(self.log, "wb") as out:
            self.process = subprocess.Popen(
                [args.mpirun, "--host", ",".join(hosts), *map(str, words)],
                stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)

    def text(self):
        return self.log.read_text(errors="replace")

    def tail(self):
        return "\n".join("    | " + line for line in self.text().splitlines()[-25:])

    def wait(self):
        try:
            return self.process.wait(RUN_S)
        except subprocess.TimeoutExpired:
            raise Failure(f"mpirun hung for {RUN_S:.0f} s\n{self.tail()}") from None

    def succeed(self):
        status = self.wait()
        expect(status == 0, f"mpirun ended with status {status}\n{self.tail()}")
        return self.text()


def lose(host):
    """Ends all that runs on a host. Returns the names of the programs."""
    programs = []
    while pids := output_of("ip", "netns", "pids", host).split():
        for pid in map(int, pids):
            try:
                programs.append(os.path.basename(os.readlink(f"/proc/{pid}/exe")))
            except OSError:
                pass
            kill(pid)
        wait_for(lambda: not any(alive(int(pid)) for pid in pids), 10, f"{host} is gone")
        # What waits to be reaped is still listed.
        if not any(alive(int(pid)) for pid in output_of("ip", "netns", "pids", host).split()):
            break
    return programs


def carried(host):
    """Bytes that a host has sent."""
    port = f"port{names().index(host)}"
    told = json.loads(output_of("ip", "-n", "switch", "-s", "-j", "link", "show", port))
    return told[0]["stats64"]["rx"]["bytes"]


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


def faults(args, hosts, run, steps):
    return Run(args, hosts, f"faults.{run}", args.trainer, "--folder", args.folder, "--job", JOB,
               "--run", run, "--nodes", ",".join(hosts), "--steps", steps).succeed()


def lost_host_is_rebuilt(args):
    """A trainer that checks each restored byte itself."""
    *hosts, spare = names()
    faults(args, hosts, 1, 3)
    lost = lose(hosts[1])
    expect("ftmem-smp" in lost, f"{hosts[1]} ran only {lost}")
    faults(args, [hosts[0], spare, *hosts[2:]], 2, 2)
    for path in args.folder.glob("result.2.*"):
        expect(path.read_text().startswith("restored 3\n"), f"{path.name}: {path.read_text()}")
    expect(len(list(args.folder.glob("result.2.*"))) == len(hosts), "a rank is missing")


def queues(host):
    """What is set at both ends of a host's link, and whether packets had to wait there."""
    port = f"port{names().index(host)}"
    return [(queue["kind"], queue.get("overlimits", 0) > 0)
            for where, interface in ((host, "eth0"), ("switch", port))
            for queue in json.loads(output_of("tc", "-n", where, "-s", "-j", "qdisc", "show",
                                              "dev", interface))]


def slow_links_lose_nothing(args):
    lost_host_is_rebuilt(args)
    found = queues(names()[0])
    # Whether packets wait in the switch depends on who sends at the same time.
    expect(found[0] == ("tbf", True) and [kind for kind, _ in found] == ["tbf", "tbf"],
           f"the links were not slow: {found}")


def long_links_lose_nothing(args):
    lost_host_is_rebuilt(args)
    kinds = [kind for kind, _ in queues(names()[0])]
    expect(kinds.count("netem") == 2 and kinds.count("tbf") == 2, f"the links have {kinds}")


def stay(args):
    """For the tests of netns.sh itself: a job's memory is held, and nobody ends."""
    faults(args, names(), 1, 1)
    (args.folder / "ready").touch()
    time.sleep(RUN_S)


# --- outside ---

def namespaces():
    """Those that some process of the machine is in, without this one's own."""
    found = set()
    for path in pathlib.Path("/proc").glob("[0-9]*/ns/[pnu]*"):
        try:
            found.add(os.readlink(path))
        except OSError:
            pass
    return found - {os.readlink(path) for path in pathlib.Path("/proc/self/ns").iterdir()}


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
            status = self.process.wait(4 * RUN_S)
        except subprocess.TimeoutExpired:
            raise Failure("netns.sh hung") from None
        mine = self.recorded()
        wait_for(lambda: not mine & namespaces(), 10, "all namespaces are gone")
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
    hosts = Hosts(args, test, *options)
    try:
        status, text = hosts.end()
        if status == 77:
            raise Skipped(text.strip())
        expect(status == 0, f"status {status}\n{text}")
        left = sorted(path.name for path in hosts.folder.glob("netns.??????"))
        expect(not left, f"left: {left}")
        expect(hosts.recorded(), "the test did not run")
    finally:
        hosts.close()


def host(args):
    succeed(args, training_goes_on_bit_exact_without_a_lost_host, "--hosts", "5")


def rate(args):
    succeed(args, slow_links_lose_nothing, "--hosts", "4", "--rate", "20mbit")


def delay(args):
    succeed(args, long_links_lose_nothing, "--hosts", "4", "--rate", "100mbit", "--delay", "2ms")


def signals(args):
    """However it ends, the processes end with it, ftmem-smp too."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        hosts = Hosts(args, stay, "--hosts", "2")
        try:
            wait_for(lambda: (hosts.folder / "ready").exists() or hosts.process.poll() is not None,
                     RUN_S, "the job is there")
            if hosts.process.poll() == 77:
                raise Skipped(hosts.end()[1].strip())
            expect(hosts.recorded() & namespaces(), "the namespaces are not seen")
            hosts.process.send_signal(number)
            status, text = hosts.end()
            expect(status == {signal.SIGTERM: 143, signal.SIGKILL: -9}[number],
                   f"status {status}\n{text}")
        finally:
            hosts.close()


TESTS = [host, rate, signals]
ALONE = [delay]


def attempt(test, args):
    """ok, SKIPPED or FAILED, and why."""
    try:
        test(args)
        return "ok", ""
    except Skipped as reason:
        return "SKIPPED", str(reason)
    except Exception as failure:
        return "FAILED", f"{type(failure).__name__}: {failure}"


def inside(args):
    record_namespaces(args.folder)
    try:
        globals()[args.inside](args)
    except Failure as failure:
        print(failure)
        return 1
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--netns", help="scripts/netns.sh")
    parser.add_argument("--gpt", required=True, help="the program train_gpt")
    parser.add_argument("--trainer", required=True, help="the program fault_trainer")
    parser.add_argument("--mpirun", default="mpirun")
    parser.add_argument("--case", action="append", default=[], help="only tests of this name")
    parser.add_argument("--inside", help="used by this program itself")
    parser.add_argument("--folder", type=pathlib.Path, help="with --inside")
    args = parser.parse_args()
    if args.inside:
        return inside(args)
    end_on_sigterm()
    # Tests that may have to be skipped are run by name alone.
    tests = [t for t in TESTS + ALONE if t.__name__ in args.case] or TESTS
    results = []
    for test in tests:
        begin = time.monotonic()
        result, why = attempt(test, args)
        results.append(result)
        print(f"{result:7}  {test.__name__:10} {time.monotonic() - begin:5.1f} s", flush=True)
        if why:
            print(f"    {why}", flush=True)
    print(f"{results.count('ok')} of {len(tests)} good")
    if "FAILED" in results:
        return 1
    return 77 if "SKIPPED" in results else 0


if __name__ == "__main__":
    sys.exit(main())
