# SPDX-License-Identifier: BSD-3-Clause
"""Jobs whose hosts lose each other: links cut, networks split, hosts that stand still.

None may hang, none may get a wrong byte, and each is told whom it waits for.
"""
import os
import signal
import time

from harness import RUN_S, expect, wait_for
from hosts_lab import TIMEOUT_MS, Faults, cut, cut_inside, freeze, heal, keepers, lose, mend, \
    names, processes, split, thaw, throttle


def expect_named(said, names_of):
    """Each rank names one of the ranks that it cannot reach, and its host."""
    for rank, line in said.items():
        expect(any(f"rank {r} ({host})" in line for r, host in names_of(rank).items()),
               f"rank {rank} does not name one of {names_of(rank)}: {line}")


def others(hosts, rank):
    """Whom each rank cannot reach when this one's link is cut."""
    return lambda r: ({q: h for q, h in enumerate(hosts) if q != r} if r == rank
                      else {rank: hosts[rank]})


def cut_at(faults, hosts, fault, how, *options):
    """Rank 1's link is cut at a point of the library's work. Returns what the ranks say."""
    before = keepers()
    run = faults.start_short(hosts, 6, *options, fault=f"{fault}:stop")
    pid = faults.await_stop(1, run)
    since = time.monotonic_ns()
    how(hosts[1])
    os.kill(pid, signal.SIGCONT)
    said = faults.farewells(run, range(len(hosts)), since)
    faults.end(run)
    after = keepers()
    for host, pids in before.items():
        expect(not pids or pids == after[host], f"ftmem-smp of {host}: {pids}, {after[host]}")
    return said


def link_is_cut_while_versions_are_exchanged(args):
    hosts = names()[:4]
    faults = Faults(args)
    for fault, how in (("exchange@3:1:4", cut), ("before-prepare@5:1:1", cut_inside)):
        said = cut_at(faults, hosts, fault, how)
        expect_named(said, others(hosts, 1))
        mend(hosts[1])
        faults.restore(hosts)


def link_is_cut_while_a_host_is_rebuilt(args):
    """Then the rebuilding is begun anew."""
    hosts = names()
    faults = Faults(args)
    faults.start(hosts, 3).succeed()
    for lost, fault, how in ((2, "rebuild-send:1:4", cut), (3, "agree:1:9", cut_inside)):
        expect("ftmem-smp" in lose(hosts[lost]), f"{hosts[lost]} ran no ftmem-smp")
        said = cut_at(faults, hosts, fault, how)
        expect_named(said, others(hosts, 1))
        mend(hosts[1])
        faults.restore(hosts)


def link_is_cut_in_the_vote(args):
    """Another host takes the place of the one that is out of reach, but lives; then it is
    back."""
    *hosts, spare = names()
    faults = Faults(args)
    said = cut_at(faults, hosts, "vote@3:1:1", cut)
    expect_named(said, others(hosts, 1))
    newer = faults.restore([hosts[0], spare, *hosts[2:]], 2)
    mend(hosts[1])
    expect(faults.restore(hosts) > newer, "what the other host stored is not gone on from")


def short_cut_loses_nothing(args):
    """Shorter than the deadline: versions take longer, and are committed. A host that stands
    still for a moment is the same."""
    hosts = names()[:4]
    faults = Faults(args)
    run = faults.start(hosts, 6, fault="exchange@3:1:4:stop,vote@5:2:1:stop")
    for rank in (1, 2):
        pid = faults.await_stop(rank, run)
        cut(hosts[rank])
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.7)
        mend(hosts[rank])
        faults.await_committed(2 * rank + 1, run)
    found = freeze(hosts[3])
    time.sleep(0.5)
    thaw(found)
    run.succeed()
    expect(faults.committed() == 6, f"only version {faults.committed()} was committed")
    expect("still waiting" not in run.text(), run.tail())
    expect(faults.restore(hosts) == 6, "not all of it was stored")


def network_is_split(args):
    hosts = names()[:4]
    near, far = hosts[:2], hosts[2:]
    faults = Faults(args)
    before = faults.start_short(hosts, 6, fault="exchange@3:1:4:stop,exchange@3:2:4:stop")
    stopped = [faults.await_stop(rank, before) for rank in (1, 2)]
    since = time.monotonic_ns()
    split(far)
    for pid in stopped:
        os.kill(pid, signal.SIGCONT)
    said = faults.farewells(before, range(4), since)
    expect_named(said, lambda rank: {r: hosts[r] for r in ((2, 3) if rank < 2 else (0, 1))})
    faults.end(before)

    # Neither half has enough, says so, and destroys nothing.
    for half, rest in ((near, far), (far, near)):
        run = faults.start(half, 1, at=("nsenter", f"--net=/run/netns/{half[0]}"))
        expect(run.wait() == 5, f"not refused\n{run.tail()}")
        for host in rest:
            expect(f"{host}" in run.text(), f"the refusal does not name {host}\n{run.tail()}")
    heal(far)
    expect(faults.restore(hosts) == 2, "not the version that all had committed")


def one_slow_link_is_waited_for(args):
    """A version takes longer than the deadline of a peer that gives no sign."""
    hosts = names()[:4]
    faults = Faults(args)
    slow = ("--timeout-ms", TIMEOUT_MS, "--wait-ms", int(RUN_S * 1000), "--bytes", 800000)
    throttle(hosts[1], "2mbit")
    faults.start(hosts, 2, *slow).succeed()
    expect(faults.committed() == 2, f"only version {faults.committed()} was committed")
    # In the name of the host that was lost another one joins.
    expect("ftmem-smp" in lose(hosts[2]), f"{hosts[2]} ran no ftmem-smp")
    run = faults.start(hosts, 1, *slow)
    run.succeed()
    expect(faults.restored(run, 2) == 2, "not restored")


def frozen_host_is_replaced_and_comes_back(args):
    *hosts, spare = names()
    faults = Faults(args)
    run = faults.start_short(hosts, 1000, "--step-ms", 20)
    faults.await_committed(3, run)
    since = time.monotonic_ns()
    found = freeze(hosts[2])
    expect({"fault_trainer", "ftmem-smp"} <= set(found.values()), f"{hosts[2]} ran {found}")
    live = [0, 1, 3]
    said = faults.farewells(run, live, since)
    expect_named(said, lambda _: {2: hosts[2]})
    faults.end(run, [hosts[rank] for rank in live])
    faults.restore([*hosts[:2], spare, hosts[3]], 3)
    newest = faults.committed()

    # Its ranks find the others gone, its ftmem-smp serves again: what it holds is old.
    thaw(found)
    wait_for(lambda: "fault_trainer" not in processes(hosts[2]).values(), RUN_S,
             f"the trainer of {hosts[2]} has ended")
    expect("ftmem-smp" in processes(hosts[2]).values(), "ftmem-smp is gone")
    expect(faults.restore(hosts) == newest, f"not version {newest}")
