#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""A training in a restart loop, with random faults, that must end as if there were none.

Rounds of half a minute or so: examples/train_gpt on simulated nodes. Any process of the job is
killed, terminated or stopped at random times; never more than --parity nodes of a group are lost
before redundancy is whole again. Each round ends when the training does. Its parameters and
optimizer state must then equal those of an undisturbed run, and no restore may have been older than
what the ranks knew to be committed.
"""
import argparse
import collections
import dataclasses
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import diagnose
import endings
from endings import Orphans
from harness import Failure, end_on_sigterm, expect, groups_of, processes_of
from training import MODEL, STATE_BYTES, Training

# Nodes, parity, ranks on a node, nodes of a group.
SHAPES = ((4, 1, 1, 8), (3, 1, 2, 8), (5, 2, 1, 8), (2, 1, 2, 8), (4, 2, 1, 8), (6, 1, 1, 8),
          (6, 1, 1, 3), (7, 1, 1, 3), (6, 1, 1, 2), (8, 1, 1, 3), (6, 2, 1, 3))
EXCHANGE_S = (0, 0.02, 0.03, 0.03, 0.06)   # how long parity is made to take, so that faults hit it
FAULTS = 16           # in a round, at most
AGAIN_S = 0.2         # until a fault that met no process is tried again
FULL_MINUTES = 10
LEAST_MINUTES = 1     # from which on it is a failure if nothing went wrong
HANG_S = 120          # without a step, although nothing is stopped
LAUNCHER_S = 60       # the same, and mpirun has no rank
ROUND_S = 400
SHORT_S = (0.05, 1.5)  # a stop
LONG_S = (5.0, 8.0)    # the library's patience is training.TIMEOUT_MS

KINDS = {
    "rank killed": 4, "rank terminated": 2, "rank stopped": 4, "rank stopped for long": 1,
    "all ranks killed": 2, "all ranks terminated": 1,
    "ftmem-smp killed": 4, "ftmem-smp terminated": 3, "ftmem-smp stopped": 3,
    "ftmem-smp stopped for long": 1,
    "node killed": 5, "nodes killed": 2, "nodes of all groups killed": 3, "node stopped": 2,
    "node stopped for long": 1,
    "mpirun killed": 2, "mpirun terminated": 1, "mpirun interrupted": 1, "mpirun stopped": 1,
}
SIGNALS = {"killed": signal.SIGKILL, "terminated": signal.SIGTERM,
           "interrupted": signal.SIGINT, "stopped": signal.SIGSTOP}


@dataclasses.dataclass
class Fault:
    """Drawn beforehand. Where the kind must not be when its time has come, a rank is killed."""
    kind: str
    after_s: float      # the start, or the fault before
    pause_s: float
    which: float        # of those there are, 0 to 1
    replace: float      # how the job goes on if that ends it


def draw(dice):
    """The faults of a round."""
    faults = []
    for _ in range(FAULTS):
        kind = dice.choices(list(KINDS), list(KINDS.values()))[0]
        pause = dice.uniform(*(LONG_S if "for long" in kind else SHORT_S))
        faults.append(Fault(kind, dice.choice((0, dice.uniform(0, 4), dice.uniform(0, 4))), pause,
                            dice.random(), dice.random()))
    return faults


class Process:
    """One that exists; its number is not used again for another while this lives."""

    def __init__(self, pid):
        self.pid = pid
        self.handle = os.pidfd_open(pid)

    def send(self, number):
        try:
            signal.pidfd_send_signal(self.handle, number)
        except ProcessLookupError:
            pass

    def __del__(self):
        if hasattr(self, "handle"):
            os.close(self.handle)


def pick(items, which):
    return items[min(int(which * len(items)), len(items) - 1)]


class Round:
    """One training, from its first start to its end."""

    def __init__(self, args, number, counts, orphans):
        self.orphans = orphans
        self.dice = random.Random(f"{args.seed}.{number}")
        shape = self.dice.choice(SHAPES)
        count, parity, ranks, group = (given or drawn for given, drawn in zip(
            (args.nodes, args.parity, args.ranks_per_node, args.group_nodes), shape))
        expect(parity < count, f"--parity {parity} with {count} nodes")
        self.full = count
        self.counts = counts
        self.names = count            # given out so far
        self.away = []                # left out, while their memory is held
        self.lost = set()             # nodes, since redundancy was whole
        self.maps = []                # the groups of each start since then
        self.stopped = []             # (until when, processes)
        self.faults = draw(self.dice)
        self.story = []
        self.replace = 1.0
        self.started = time.monotonic()
        exchange_s = self.dice.choice(EXCHANGE_S)
        bandwidth = int(STATE_BYTES * parity / (count * ranks) / exchange_s) if exchange_s else 0
        self.job = Training(args, [f"n{i}" for i in range(count)], parity, ranks, group,
                            bandwidth)
        groups = len(self.groups())
        self.about = (f"{count} nodes of {ranks} rank{'s' * (ranks > 1)}, {groups} "
                      f"group{'s' * (groups > 1)}, {parity} may be lost, "
                      f"{bandwidth / 1e6:.1f} MB/s")

    def tell(self, text):
        self.story.append(f"{time.monotonic() - self.started:6.2f} s  {text}")

    # --- losses ---

    def groups(self):
        return groups_of(self.job.nodes, self.job.group_nodes, self.job.parity)

    def launch(self):
        """What an earlier start stored may be all there is until this one has made it whole: no
        group of either may lose more than parity covers."""
        self.maps.append(self.groups())
        self.job.launch()

    def may_lose(self, more):
        """Whether these nodes may be lost on top of those that are; first forgets what has
        been made whole."""
        job = self.job
        # Who is stopped does not answer.
        if (self.lost or len(self.maps) > 1) and job.began and not self.stopped:
            bad = job.not_whole()
            self.lost = {node for node in self.lost if node in bad or (
                node not in job.nodes and bad)}
            if not bad:
                self.maps = self.maps[-1:]
        lost = self.lost | set(more)
        return all(len(lost.intersection(group)) <= job.parity
                   for groups in self.maps for group in groups)

    # --- faults ---

    def victims(self, fault):
        """Kind, nodes that are lost by it, processes, what to send them."""
        job = self.job
        who, *rest = fault.kind.rsplit(" for long", 1)[0].split()
        number = SIGNALS[rest[-1]]
        node = pick(job.nodes, fault.which)
        if fault.kind == "nodes of all groups killed":
            lost = [group[(int(fault.which * len(group)) + i) % len(group)]
                    for group in self.groups() for i in range(min(job.parity, len(group)))]
        elif fault.kind.startswith("nodes"):
            first = job.nodes.index(node)
            lost = [job.nodes[(first + i) % len(job.nodes)] for i in range(job.parity)]
        else:
            lost = [node]
        lost = lost if number != signal.SIGSTOP else []
        if who == "mpirun":
            return fault.kind, [], [job.process.pid], number
        if who == "all":
            return fault.kind, [], job.trainers(), number
        if who == "ftmem-smp" and (not lost or self.may_lose(lost)):
            return fault.kind, lost, job.keepers(node), number
        if who == "node" and not lost:
            return fault.kind, [], job.trainers(node) + job.keepers(node), number
        if who in ("node", "nodes") and self.may_lose(lost):
            return fault.kind, lost, None, number
        kind = fault.kind if who == "rank" else "rank killed"
        ranks = job.trainers()
        return (kind, [], [pick(ranks, fault.which)] if ranks else [],
                number if who == "rank" else signal.SIGKILL)

    def kill_nodes(self, nodes):
        """All that runs there, until nothing of it is left."""
        quiet = 0
        while quiet < 2:
            pids = [pid for node in nodes
                    for pid in self.job.trainers(node) + self.job.keepers(node)]
            quiet = 0 if pids else quiet + 1
            self.send(pids, signal.SIGKILL)
            time.sleep(0.01)

    @staticmethod
    def send(pids, number):
        reached = []
        for pid in pids:
            try:
                reached.append(Process(pid))
                reached[-1].send(number)
            except ProcessLookupError:
                pass
        return reached

    def inject(self, fault):
        """Whether there was a process that it could strike."""
        kind, lost, pids, number = self.victims(fault)
        if pids == []:
            return False
        self.lost |= set(lost)
        if pids is None:
            self.kill_nodes(lost)
            self.tell(f"{kind}: {', '.join(lost)}")
        else:
            reached = self.send(pids, number)
            if number == signal.SIGSTOP:
                self.stopped.append((time.monotonic() + fault.pause_s, reached))
            self.tell(f"{kind}: {pids}" + (f" of {lost[0]}" if lost else "") + (
                f" for {fault.pause_s:.1f} s" if number == signal.SIGSTOP else ""))
        self.counts[kind] += 1
        self.replace = fault.replace
        return True

    def let_go(self, everything=False):
        for until, processes in list(self.stopped):
            if everything or time.monotonic() >= until:
                for process in processes:
                    process.send(signal.SIGCONT)
                self.stopped.remove((until, processes))
                self.job.last_step = time.monotonic()

    # --- going on ---

    def new_name(self):
        self.names += 1
        return f"n{self.names - 1}"

    def dead(self):
        return [node for node in self.job.nodes if node in self.lost
                and not self.job.keepers(node)]

    def rearrange(self):
        """On which nodes the job goes on: lost ones come back empty, are replaced by others, or
        left out; sometimes a good one is left out, or an absent one comes back."""
        nodes, how = self.job.nodes, self.replace
        for node in self.dead():
            at = nodes.index(node)
            if how < 0.4:
                self.counts["node replaced by another"] += 1
                nodes[at] = self.new_name()
            elif how < 0.6 and len(nodes) - 1 > self.job.parity:
                self.counts["job shrunk"] += 1
                nodes.pop(at)
        if 0.6 <= how < 0.75:
            node = pick(nodes, (how - 0.6) / 0.15)
            if self.may_lose([node]):
                self.counts["node out of reach"] += 1
                self.lost.add(node)
                self.away.append(node)
                nodes[nodes.index(node)] = self.new_name()
        elif how >= 0.75:
            while len(nodes) < self.full:
                self.counts["job grown again"] += 1
                nodes.append(self.away.pop() if self.away else self.new_name())
        self.replace = 1.0

    def expect_no_crash(self):
        found = [endings.crash(self.job.output()), *self.orphans.rest()]
        expect(not any(found), f"crashed: {' '.join(found)}\n{self.tail()}")

    def restart(self, status):
        job = self.job
        self.expect_no_crash()
        expect(status != 3, f"refused, though only {sorted(self.lost)} may be lost\n{self.tail()}")
        self.counts["starts again"] += 1
        self.rearrange()
        said = [line for line in job.output().splitlines() if line.startswith("train_gpt: ")]
        self.tell(f"mpirun ended with status {status}, version {job.newest} was committed: again "
                  "on " + " ".join(job.nodes) + "".join(f"\n          {s}" for s in said[:1]))
        job.reader.close()
        self.launch()

    def tail(self):
        return "\n".join("    | " + line for line in self.job.output().splitlines()[-30:])

    def end_launcher(self):
        """PMIx may lock itself up where ranks are killed while they connect to it: mpirun then
        stays when they are gone."""
        if self.stopped or self.job.trainers():
            return
        self.counts["mpirun hung, without ranks"] += 1
        self.tell(f"mpirun has no rank and no end for {LAUNCHER_S} s: killed")
        self.job.process.kill()
        self.job.last_step = time.monotonic()

    def look(self):
        now = time.monotonic()
        if LAUNCHER_S < now - self.job.last_step <= HANG_S:
            self.end_launcher()
        hung = not self.stopped and now - self.job.last_step > HANG_S
        if not hung and now - self.started < ROUND_S:
            return
        text = f"no step for {HANG_S} s" if hung else f"not done in {ROUND_S} s"
        found = diagnose.describe(processes_of(self.job.root))
        # A machine that is too busy shows in this.
        before, waited = self.job.last_step, time.monotonic() - now
        self.job.read()
        later = "it has gone on" if self.job.last_step != before else "nothing has changed"
        raise Failure(f"{text}\n{self.tail()}\n{found}\n{later} in the {waited:.0f} s since")

    def train(self):
        """Until a run ends well."""
        job = self.job
        self.launch()
        due = time.monotonic() + (self.faults[0].after_s if self.faults else 0)
        while True:
            time.sleep(0.03)
            self.let_go()
            status = job.process.poll()
            job.read()
            if status == 0:
                break
            if status is not None:
                self.restart(status)
            elif self.faults and time.monotonic() >= due:
                wait = AGAIN_S
                if self.inject(self.faults[0]):
                    self.faults.pop(0)
                    wait = self.faults[0].after_s if self.faults else 0
                due = time.monotonic() + wait
            self.look()
        self.let_go(everything=True)
        self.tell("done")

    def check(self, undisturbed):
        job = self.job
        end = job.dump.read_bytes()
        expect(end == undisturbed, "the result differs from that of the undisturbed run")
        # Nodes whose ftmem-smp was killed left a socket: that nobody answers there is told, too.
        done = job.ftmem("verify", job.name)
        expect(", 0 damaged" in done.stdout, f"ftmem verify: {done.stdout}{done.stderr}")
        done = job.ftmem("drop", job.name)
        deadline = time.monotonic() + 10
        while (left := processes_of(job.root)) and time.monotonic() < deadline:
            time.sleep(0.02)
        expect(not left, f"left after ftmem drop: {left}\n{done.stdout}{done.stderr}")
        self.expect_no_crash()

    def run(self, undisturbed):
        """Why it failed, or nothing."""
        try:
            self.train()
            self.check(undisturbed)
            return ""
        except Failure as failure:
            return str(failure)
        except Exception as failure:
            return f"{type(failure).__name__}: {failure}"
        finally:
            self.let_go(everything=True)
            self.job.close()


def undisturbed(args):
    """The result of one rank that nothing protects and nothing happens to."""
    job = Training(args, ["alone"], 1, 1, 2, 0)
    try:
        subprocess.run([args.trainer, "--no-protect", "--steps", str(args.steps), "--dump",
                        str(job.dump), *map(str, MODEL)], check=True, stdout=subprocess.DEVNULL,
                       env=job.environment(), timeout=ROUND_S)
        end = job.dump.read_bytes()
        expect(len(end) > 100000, f"the result is of {len(end)} bytes")
        return end
    finally:
        job.close()


def parse():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=2, help="no round begins after that (2); "
                        f"{FULL_MINUTES} at least with FTMEM_TEST_FULL=1")
    parser.add_argument("--seed", type=int, default=None, help="of the faults; default: random")
    parser.add_argument("--nodes", type=int, help="default: drawn for each round")
    parser.add_argument("--parity", type=int, help="how many may be lost at once; likewise")
    parser.add_argument("--ranks-per-node", type=int, help="likewise")
    parser.add_argument("--group-nodes", type=int, help="that protect each other; likewise")
    parser.add_argument("--steps", type=int, default=300, help="of each round (300)")
    parser.add_argument("--round", type=int, help="only this one, of the seed")
    parser.add_argument("--verbose", action="store_true", help="tell each fault, not only where "
                        "a round failed")
    parser.add_argument("--trainer", required=True, help="the program train_gpt")
    parser.add_argument("--smp", required=True, help="the program ftmem-smp")
    parser.add_argument("--ftmem", required=True, help="the program ftmem")
    parser.add_argument("--mpirun", default="mpirun")
    parser.add_argument("--keep", action="store_true", help="keep the folder of what failed")
    args = parser.parse_args()
    for name in ("trainer", "smp", "ftmem", "mpirun"):
        path = shutil.which(getattr(args, name))
        if not path:
            sys.exit(f"no program {getattr(args, name)}: build it, or say where with --{name}")
        setattr(args, name, os.path.realpath(path) if name == "trainer" else os.path.abspath(path))
    if os.environ.get("FTMEM_TEST_FULL"):
        args.minutes = max(args.minutes, FULL_MINUTES)
    if args.seed is None:
        args.seed = random.SystemRandom().randrange(1 << 32)
    return args


class Soak:
    """Rounds, and what happened in them."""

    def __init__(self, args):
        self.args = args
        self.counts = collections.Counter()
        self.rounds = self.good = 0
        self.began = time.monotonic()

    def round(self, number, expected):
        args, one = self.args, Round(self.args, number, self.counts, self.orphans)
        why = one.run(expected)
        self.rounds += 1
        self.good += not why
        self.counts["versions committed"] += one.job.committed_count
        print(f"{'FAILED' if why else 'ok':7} round {number}: {one.about}; {one.job.runs} runs, "
              f"{one.job.committed_count} versions, {time.monotonic() - one.started:.1f} s",
              flush=True)
        if why or args.verbose:
            print("\n".join(one.story), flush=True)
        if why:
            print(f"{why}\nAgain: --seed {args.seed} --round {number}", flush=True)

    def run(self):
        expected = undisturbed(self.args)
        self.orphans = Orphans(self.args.smp, self.args.trainer)
        if self.args.round is not None:
            self.round(self.args.round, expected)
            return
        while not self.rounds or time.monotonic() - self.began < 60 * self.args.minutes:
            self.round(self.rounds + 1, expected)

    def report(self):
        print(f"\nseed {self.args.seed}, {(time.monotonic() - self.began) / 60:.1f} minutes")
        others = sorted(set(self.counts) - set(KINDS))
        for kind in (*KINDS, *others):
            print(f"  {kind:28} {self.counts[kind]:6}")
        print(f"  {'faults in all':28} {self.faults():6}")
        print(f"{self.good} of {self.rounds} rounds good", flush=True)

    def faults(self):
        return sum(self.counts[kind] for kind in KINDS)


def main():
    args = parse()
    end_on_sigterm()
    print(f"seed {args.seed}", flush=True)
    soak = Soak(args)
    try:
        soak.run()
    finally:
        soak.report()
    if not soak.faults() and args.minutes >= LEAST_MINUTES:
        print("nothing went wrong: that proves nothing")
        return 1
    return 0 if soak.good == soak.rounds else 1


if __name__ == "__main__":
    sys.exit(main())
