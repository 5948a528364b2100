#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Kills ranks, ftmem-smp and nodes at chosen points, and checks what comes back.

A case is a row of mpiruns in which something goes wrong (crash_cases.py). Then the job
is started undisturbed, and must restore a version no older than the newest that any
rank knew to be committed, exact and the same on all ranks. Then `ftmem verify` must
find nothing, and as many other nodes as parity covers are lost: the job must come back
again, which proves that its redundancy was whole.
"""
import argparse
import collections
import concurrent.futures
import itertools
import random
import shlex
import sys
import threading
import time

import crash_cases
from harness import Failure, Job, add_arguments, end_on_sigterm, expect, natural, \
    processes_of, programs, wait_for

# Rank processes are gone so soon after mpirun has ended.
GONE_S = 5


class Trial:
    """One case being tried."""

    def __init__(self, case, args):
        self.case = case
        self.args = args
        self.random = random.Random(f"{args.seed} {case.name}")
        self.job = Job(args, case.nodes, case.parity)
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

    def choose(self, count):
        """Nodes to lose: rather those that were not lost before."""
        serving = self.job.status()
        nodes = [n for n in dict.fromkeys(self.job.nodes) if n in serving]
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
        self.last = self.job.run("--steps", steps, *self.case.options, *act.options,
                                 fault=act.fault or None)
        wait_for(lambda: not processes_of(self.job.folder), GONE_S,
                 "all ranks are gone after mpirun has ended")
        self.check_end(act, collections.Counter(self.job.fired()) - before)
        self.check_restored(act, floor)
        expect(not act.dropped or act.dropped not in self.job.all_committed(),
               f"version {act.dropped} was committed")
        if act.lose:
            self.lose(self.choose(act.lose))

    def check_end(self, act, fired):
        wrong = self.job.wrong()
        expect(not wrong, f"a rank says: {wrong[0] if wrong else ''}")
        wanted = sorted(filter(None, act.fault.split(",")))
        fired = sorted(fired.elements())
        expect(fired == wanted, f"went wrong: {fired}, wanted: {wanted}")
        status = self.last.status
        good = {"ok": status == 0, "lost": status == 5, "failed": status == 3,
                "crash": status != 0, "any": True}[act.end]
        expect(good, f"mpirun ended with status {status}, expected: {act.end}")
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

    def prove_whole(self, nodes):
        """Loses nodes; what was committed last must come back."""
        committed = self.job.committed()
        for node in dict.fromkeys(self.job.nodes):
            done = self.job.ftmem("verify", self.job.name, "--node", node)
            expect(done.returncode == 0, f"ftmem verify: {done.stdout}{done.stderr}")
        self.lose(nodes)
        self.run(crash_cases.Act("", "ok"), 1)
        expect(self.history[-1] == committed,
               f"after the loss of {', '.join(nodes)}: restored {self.history[-1]}, but version "
               f"{committed} was committed")

    def subsets(self):
        if not self.args.full:
            yield self.choose(self.case.parity)
            return
        ranks = range(len(set(self.case.nodes)))
        for ranks_lost in itertools.combinations(ranks, self.case.parity):
            nodes = list(dict.fromkeys(self.job.nodes))
            yield [nodes[i] for i in ranks_lost]

    def all(self):
        for act in self.case.acts:
            self.run(act, self.case.steps)
        self.run(crash_cases.Act("", "ok"), 2)
        for nodes in self.subsets():
            self.prove_whole(nodes)


stop = threading.Event()
running = set()


def attempt(case, args):
    """Name, result text or None if good, what was restored, seconds."""
    if stop.is_set():
        return case, "not run", [], 0.0
    trial = Trial(case, args)
    running.add(trial)
    begin = time.monotonic()
    problem = None
    try:
        trial.all()
    except Failure as failure:
        problem = str(failure)
    except Exception as failure:  # what a helper thread meets must be told
        problem = f"{type(failure).__name__}: {failure}"
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
    print(f"{'ok' if problem is None else 'FAILED':6}  {case.name:42} {group:4} {seconds:5.1f} s  "
          f"{versions:14}  {faults}", flush=True)
    if problem is not None:
        print(f"    {problem}\n    again: {again} --case {case.name}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    parser.add_argument("--full", action="store_true", help="the whole matrix, all losses")
    parser.add_argument("--case", action="append", default=[], metavar="TEXT",
                        help="only the case of this name, or those whose name contains it")
    parser.add_argument("--list", action="store_true", help="only print the cases")
    parser.add_argument("--jobs", type=int, default=2, help="cases at once (default 2)")
    parser.add_argument("--seed", type=int, default=1, help="of the choice of nodes to lose")
    args = parser.parse_args()
    end_on_sigterm()
    again = shlex.join([sys.executable, sys.argv[0], *programs(args), "--seed", str(args.seed),
                        *(["--full"] if args.full else [])])

    cases = list(crash_cases.full() if args.full else crash_cases.selected())
    if args.case:
        cases = [c for c in cases if c.name in args.case] or \
            [c for c in cases if any(text in c.name for text in args.case)]
    if args.list or not cases:
        for case in sorted(cases, key=lambda c: natural(c.name)):
            print(f"{case.name:44}", *describe(case))
        print(f"{len(cases)} cases")
        return 0 if args.list else 2
    begin = time.monotonic()
    print(f"{len(cases)} cases, seed {args.seed}")
    print(f"{'':6}  {'case':42} {'n/m':4} {'time':>7}  {'restored':14}  what goes wrong",
          flush=True)
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        try:
            futures = [pool.submit(attempt, case, args) for case in cases]
            for future in concurrent.futures.as_completed(futures):
                outcome = future.result()
                failed += outcome[1] is not None
                show(again, *outcome)
        finally:
            stop.set()
            for trial in list(running):
                trial.job.close()
    print(f"{len(cases) - failed} of {len(cases)} cases good, {time.monotonic() - begin:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
