#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Kills ranks, ftmem-smp and nodes at chosen points, and checks what comes back.

A case is a row of mpiruns in which something goes wrong (crash_cases.py). Then the job
is started undisturbed, and must restore a version no older than the newest that any
rank knew to be committed, exact and the same on all ranks. That its redundancy is whole
is proved by the trainer, which spoils the memory of every set of nodes that parity covers,
of what was restored and again of what was stored then: each time all must come back, with
the same parity. Then `ftmem verify` must find every rank's memory good. In every fourth case,
and in all with --full or --case, as many nodes as parity covers are then lost in earnest: the
job must come back once more.
"""
import argparse
import collections
import concurrent.futures
import json
import os
import pathlib
import random
import re
import shlex
import sys
import threading
import time

import crash_cases
import crash_report
from endings import Orphans
from harness import Failure, Job, add_arguments, end_on_sigterm, expect, groups_of, natural, \
    processes_of, programs, wait_for

# Rank processes are gone so soon after mpirun has ended.
GONE_S = 60


class Trial:
    """One case being tried."""

    def __init__(self, case, args, lose):
        self.case = case
        self.args = args
        self.lose_again = lose
        self.random = random.Random(f"{args.seed} {case.name}")
        self.job = Job(args, case.nodes, case.parity, quick=True)
        self.replaced = {}       # original node: times replaced
        self.hidden = {}         # rank: node
        self.history = []        # restored versions
        self.last = None         # mpirun

    # --- nodes ---

    def replace(self, node):
        """Another machine takes the place of a node that is lost."""
        if self.case.same:
            return
        base = node.split("-")[0]
        self.replaced[base] = self.replaced.get(base, 0) + 1
        name = f"{base}-{self.replaced[base]}"
        self.job.nodes = [name if n == node else n for n in self.job.nodes]

    def replace_lost(self):
        """Nodes whose ftmem-smp is gone count as lost."""
        serving = self.job.status()
        for node in dict.fromkeys(self.job.nodes):
            if self.job.runs and node not in serving:
                self.replace(node)

    def lose(self, nodes):
        for node in nodes:
            self.job.kill_smp(node)

    def choose(self, count, among=None):
        """Nodes to lose: rather those that were not lost before."""
        serving = self.job.status()
        nodes = [n for n in among or dict.fromkeys(self.job.nodes) if n in serving]
        self.random.shuffle(nodes)
        nodes.sort(key=lambda n: "-" in n)
        return nodes[:count]

    def hide(self, count):
        for rank in range(count):
            self.hidden[rank] = self.job.nodes[rank]
            self.job.nodes[rank] = f"away{rank}"

    def show(self):
        for rank, node in self.hidden.items():
            self.job.nodes[rank] = node
        self.hidden = {}

    # --- runs ---

    def run(self, act, steps):
        if act.hide:
            self.hide(act.hide)
        elif act.show:
            self.show()
        else:
            self.replace_lost()
        if act.permute:
            self.job.nodes = self.job.nodes[1:] + self.job.nodes[:1]
        floor = self.job.committed()
        before = collections.Counter(self.job.fired())
        self.last = self.job.run("--steps", steps, "--group-nodes", self.case.group_nodes,
                                 *self.case.options, *act.options, fault=act.fault or None)
        wait_for(lambda: not processes_of(self.job.folder), GONE_S,
                 "all ranks are gone after mpirun has ended")
        self.check_end(act, collections.Counter(self.job.fired()) - before)
        self.check_restored(act, floor)
        expect(not act.dropped or act.dropped not in self.job.all_committed(),
               f"version {act.dropped} was committed")
        self.lose(dict.fromkeys(self.job.nodes[rank] for rank in act.lose_of))
        if act.lose:
            self.lose(self.choose(act.lose))

    def check_end(self, act, fired):
        wrong = self.job.wrong()
        expect(not wrong, f"a rank says: {wrong[0] if wrong else ''}")
        wanted = sorted(filter(None, act.fault.split(",")))
        fired = sorted(fired.elements())
        expect(fired == wanted, f"went wrong: {fired}, wanted: {wanted}")
        expect(self.last.status in crash_cases.ENDS[act.end],
               f"mpirun ended with status {self.last.status}, expected: {act.end}")
        for node in self.hidden.values() if act.end == "lost" else ():
            expect(f"{node}," in self.last.text or f"{node}:" in self.last.text,
                   f"the refusal does not name node {node}")

    def check_restored(self, act, floor):
        """What the ranks say they restored; a run that crashed early may not say."""
        versions, ranks = self.job.restored()
        expect(len(versions) <= 1, f"ranks restored different versions: {versions}")
        if act.end == "ok":
            expect(ranks == len(self.job.nodes), f"only {ranks} ranks restored")
        for version in versions:
            self.history.append(version)
            if floor:
                expect(version != "fresh" and version >= floor,
                       f"restored {version}, but version {floor} was committed")

    # --- the whole ---

    def verify(self):
        """`ftmem verify` finds what was committed last, good, in the memory of every rank."""
        committed = self.job.committed()
        found = []
        for node in dict.fromkeys(self.job.nodes):
            done = self.job.ftmem("verify", self.job.name, "--node", node)
            expect(done.returncode == 0, f"ftmem verify: {done.stdout}{done.stderr}")
            found += re.findall(rf"rank (\d+), .*: version {committed} good", done.stdout)
        expect(sorted(map(int, found)) == list(range(len(self.job.nodes))),
               f"version {committed} was committed; ftmem verify finds it of ranks {found}")

    def prove_whole(self):
        """Undisturbed, then perhaps without some nodes: what was committed last must come
        back."""
        self.run(crash_cases.Act("", "ok", options=("--prove",)), 2)
        wanted = self.case.restores
        known = [v for v in self.history if v != "fresh"]
        expect(not wanted or known[:1] == [wanted],
               f"restored {self.history}, where {wanted} was to come back first")
        self.verify()
        if not self.lose_again:
            return
        committed = self.job.committed()
        groups = groups_of(self.job.nodes, self.case.group_nodes, self.case.parity)
        nodes = [n for group in groups for n in self.choose(self.case.parity, group)]
        self.lose(nodes)
        self.run(crash_cases.Act("", "ok"), 0)
        expect(self.history[-1] == committed,
               f"after the loss of {', '.join(nodes)}: restored {self.history[-1]}, but version "
               f"{committed} was committed")

    def all(self):
        for act in self.case.acts:
            self.run(act, self.case.steps)
        self.prove_whole()


stop = threading.Event()
running = set()


def attempt(case, args, lose, orphans):
    """The case, result text or None if good, what was restored, seconds; None: not begun."""
    if stop.is_set() or time.monotonic() > args.end:
        return None
    trial = Trial(case, args, lose)
    running.add(trial)
    begin = time.monotonic()
    problem = None
    try:
        trial.all()
    except Failure as failure:
        problem = str(failure)
    except Exception as failure:  # what a helper thread meets must be told
        problem = f"{type(failure).__name__}: {failure}"
    problem = "\n    ".join([*orphans.of(trial.job.dir), *([problem] if problem else [])]) or None
    if problem and trial.last:
        nodes = " ".join(trial.job.nodes)
        problem += f"\n    run {trial.job.runs} of {nodes}:\n{trial.last.tail()}"
    trial.job.close()
    running.discard(trial)
    if problem and args.keep:
        problem += f"\n    kept: {trial.job.root}"
    return case, problem, trial.history, time.monotonic() - begin


def describe(case):
    faults = " | ".join(filter(None, (act.fault for act in case.acts)))
    return f"{len(set(case.nodes))}/{case.parity}", faults or "-"


def show(again, case, problem, history, seconds):
    group, faults = describe(case)
    versions = " ".join(map(str, history)).replace("fresh", "-")
    print(f"{'ok' if problem is None else 'FAILED':6}  {case.name:44} {group:4} {seconds:5.1f} s  "
          f"{versions:14}  {faults}", flush=True)
    if problem is not None:
        print(f"    {problem}\n    again: {again} --case {case.name}", flush=True)


class Outcomes:
    """How cases ended, by name; perhaps kept in a file, for a matrix run in pieces."""

    def __init__(self, path):
        self.path = path and pathlib.Path(path)
        self.good = {}
        if self.path and self.path.exists():
            self.good = json.loads(self.path.read_text())

    def note(self, case, good):
        self.good[case.name] = good
        if self.path:
            self.path.write_text(json.dumps(self.good, indent=0))

    def pairs(self):
        return [(c, self.good[c.name]) for c in crash_cases.full() if c.name in self.good]


def choose(args, outcomes):
    if args.full or args.case:
        cases = crash_cases.full()
    else:
        cases = crash_cases.selected(args.sample, args.seed)
    if args.case:
        cases = [c for c in cases if c.name in args.case] or \
            [c for c in cases if any(text in c.name for text in args.case)]
    return [c for c in cases if not args.resume or not outcomes.good.get(c.name)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    parser.add_argument("--full", action="store_true",
                        default=bool(os.environ.get("FTMEM_TEST_FULL")),
                        help="the whole matrix; so with FTMEM_TEST_FULL=1")
    parser.add_argument("--sample", type=int, default=0, metavar="N",
                        help="so many cases of the rest of the matrix too, chosen by the seed")
    parser.add_argument("--case", action="append", default=[], metavar="TEXT",
                        help="only the case of this name, or those whose name contains it")
    parser.add_argument("--list", action="store_true", help="only print the cases")
    parser.add_argument("--jobs", type=int, default=2, help="cases at once (default 2)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32),
                        help="of the sample, and of the choice of nodes to lose; default: random")
    parser.add_argument("--results", metavar="FILE", help="note there how each case ended")
    parser.add_argument("--resume", action="store_true",
                        help="without the cases that ended well by that file")
    parser.add_argument("--seconds", type=float, default=float("inf"), metavar="N",
                        help="begin no case later than that: for a matrix run in pieces")
    parser.add_argument("--report", metavar="FILE",
                        help="write the table of all results between the markers in FILE")
    args = parser.parse_args()
    end_on_sigterm()
    again = shlex.join([sys.executable, sys.argv[0], *programs(args), "--seed", str(args.seed)])

    outcomes = Outcomes(args.results)
    cases = choose(args, outcomes)
    if args.list or not cases and not args.resume:
        for case in sorted(cases, key=lambda c: natural(c.name)):
            print(f"{case.name:44}", *describe(case))
        print(f"{len(cases)} cases")
        return 0 if args.list else 2
    lose_all = args.full or args.case
    begin = time.monotonic()
    print(f"{len(cases)} cases, seed {args.seed}")
    print(f"{'':6}  {'case':44} {'n/m':4} {'time':>7}  {'restored':14}  what goes wrong",
          flush=True)
    args.end = begin + args.seconds
    failed = left = 0
    orphans = Orphans(args.smp)
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        try:
            futures = [pool.submit(attempt, case, args, lose_all or i % 4 == 0, orphans)
                       for i, case in enumerate(cases)]
            for future in concurrent.futures.as_completed(futures):
                outcome = future.result()
                if outcome is None:
                    left += 1
                    continue
                failed += outcome[1] is not None
                outcomes.note(outcome[0], outcome[1] is None)
                show(again, *outcome)
        finally:
            stop.set()
            for trial in list(running):
                trial.job.close()
    if args.report:
        crash_report.write(args.report, outcomes.pairs(), args.seed)
    tried = len(cases) - left
    print(f"{tried - failed} of {tried} cases good, {time.monotonic() - begin:.0f} s"
          + (f"; {left} not begun" if left else ""))
    crashed = orphans.rest()
    for text in crashed:
        print(f"FAILED  {text}, in a case that had ended")
    return 1 if failed or crashed else 0


if __name__ == "__main__":
    sys.exit(main())
