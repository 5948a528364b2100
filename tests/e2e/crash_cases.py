# SPDX-License-Identifier: BSD-3-Clause
"""The cases of crash.py: what is lost, when, and again during the recovery.

Points, counts and what happens are those of tests/util/fault.h. Rank r of a case of n
nodes runs on node n<r> unless `nodes` says otherwise; the last rank's state is tiny.
"""
import dataclasses
import itertools


@dataclasses.dataclass(frozen=True)
class Act:
    """One mpirun with something going wrong in it."""
    fault: str = ""
    end: str = "crash"     # how mpirun ends: crash, ok, lost (refused), failed, any
    lose: int = 0          # nodes lost besides, once it has ended
    hide: int = 0          # nodes replaced before it though their ftmem-smp lives
    show: bool = False     # the hidden ones are back
    permute: bool = False  # ranks on other nodes than before, from now on
    options: tuple = ()
    dropped: int = 0       # a version that must not be committed in it


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    acts: tuple
    nodes: tuple
    parity: int = 1
    same: bool = False     # replacements have the names of what they replace
    options: tuple = ()    # of the trainer, in all runs
    steps: int = 6         # of a run


def names(ranks):
    return tuple(f"n{i}" for i in range(ranks))


SMALL = names(3)                      # tolerates the loss of one
LARGE = names(4)                      # with parity 2
TWO_EACH = ("n0", "n0", "n1", "n1", "n2", "n2")
UNEQUAL = ("n0", "n1", "n1", "n2")

COUNT = {"copy": 7, "exchange": 4, "encode": 3, "trailer": 2, "recopy": 3, "rebuild": 3,
         "rebuild-send": 4, "rebuilt": 5, "reexchange": 2, "reencode": 2}


def fault(point, what, rank=1, version=None):
    at = "" if version is None else f"@{version}"
    return f"{point}{at}:{rank}:{COUNT.get(point, 1)}:{what}"


def end_of(what):
    return "ok" if what == "kill-smp" else "crash"


SNAPSHOT = ("begin-fill", "copy", "exchange", "encode", "trailer", "before-prepare",
            "after-prepare", "vote", "before-commit", "after-commit")
# Passed by the rank whose node was lost, by one that survived.
BY_LOST = ("refill", "rebuilt", "reprepare", "fill", "before-recommit", "recommit",
           "reclear", "retire", "restored")
BY_LIVE = ("attach", "rebuild", "rebuild-send", "rebuilt", "fill", "before-recommit",
           "recommit", "reclear", "retire", "restored")


def snapshot_case(point, what, version, rank=1, **more):
    act = Act(fault(point, what, rank, version), end_of(what), lose=more.pop("lose", 0))
    at = more.pop("at", "")
    return Case(f"{point}@{version}-{what}-r{rank}{at}", (act,), more.pop("nodes", SMALL), **more)


def recovery_case(point, what, rank=1, **more):
    """A node (rank 1's) is lost in mid-exchange; then something happens in the recovery."""
    first = Act(fault("exchange", "kill-node", 1, 3), lose=more.pop("lose", 0))
    second = Act(fault(point, what, rank), end_of(what))
    at = more.pop("at", "")
    return Case(f"recovery-{point}-{what}-r{rank}{at}", (first, second),
                more.pop("nodes", SMALL), **more)


def move_case(point, what, rank=1):
    """All ranks killed, restarted on permuted nodes: data moves, and something happens."""
    return Case(f"move-{point}-{what}-r{rank}",
                (Act(fault("copy", "kill-job", 0, 3)),
                 Act(fault(point, what, rank), end_of(what), permute=True)), SMALL)


def epoch_case(point, what, version, rank=1):
    """A region is added after version 3: the layout is sealed anew."""
    return Case(f"epoch-{point}@{version}-{what}-r{rank}",
                (Act(fault(point, what, rank, version), end_of(what)),), SMALL,
                options=("--grow", 3))


LARGE_2 = {"nodes": LARGE, "parity": 2, "lose": 1, "at": "+1"}


def selected():
    """Those that CI runs."""
    for point in SNAPSHOT:
        yield snapshot_case(point, "kill-node", 4)
    yield snapshot_case("exchange", "kill-rank", 4)
    yield snapshot_case("after-prepare", "kill-rank", 4, rank=0)
    yield snapshot_case("before-commit", "kill-rank", 4)
    yield snapshot_case("copy", "kill-job", 3)
    yield snapshot_case("after-prepare", "kill-job", 3)
    yield snapshot_case("after-commit", "kill-job", 3, rank=0)
    yield snapshot_case("copy", "kill-job", 1)
    yield snapshot_case("after-prepare", "kill-node", 1)
    yield snapshot_case("before-commit", "kill-node", 1)
    yield snapshot_case("after-commit", "kill-node", 1, rank=0)
    yield known_to_one(SMALL, 1)
    yield known_to_one(LARGE, 2, "kill-smp", "kill-job")
    yield snapshot_case("exchange", "kill-node", 2)
    yield snapshot_case("after-prepare", "kill-node", 3, rank=2)
    yield snapshot_case("after-commit", "kill-node", 3, same=True, at="-same-name")
    for point in ("copy", "after-prepare", "after-commit"):
        yield snapshot_case(point, "kill-smp", 3)
    yield Case("respawn-kill-rank", (Act("copy@3:1:2:kill-smp,respawn:1:1:kill-rank"),), SMALL)
    yield Case("copy@3-flip", (Act(fault("copy", "flip", 1, 3), "ok", dropped=3),), SMALL)
    yield Case("exchange-fails", (Act(fault("exchange", "fail", 1, 3)),), SMALL)
    yield Case("retire-fails", (Act("retire:1:1:fail", "ok"),), SMALL)
    yield Case("touch-fails", (Act("touch:1:1:fail", "failed"),), SMALL)
    yield after_kill_job("match-kill-rank", Act("match:1:2:kill-rank"))
    yield after_kill_job("attach-fails", Act("attach:1:1:fail", "failed"))
    yield Case("exchange-stop", (Act(fault("exchange", "stop", 1, 3),
                                     options=("--timeout-ms", 1500)),), SMALL)
    yield Case("exchange-kill-rank-async", (Act("exchange:1:40:kill-rank"),), SMALL,
               options=("--async", "--step-ms", 3), steps=200)

    for point in ("copy", "exchange", "after-prepare", "before-commit", "after-commit"):
        yield snapshot_case(point, "kill-node", 3, **LARGE_2)
    yield snapshot_case("after-prepare", "kill-node", 1, **LARGE_2)

    for point in ("rebuilt", "reprepare", "before-recommit", "restored"):
        yield recovery_case(point, "kill-node")
    yield recovery_case("rebuild-send", "kill-rank", rank=0)
    yield recovery_case("fill", "kill-job", rank=0)
    yield recovery_case("recommit", "kill-node", rank=0)
    yield recovery_case("recommit", "kill-job", rank=0)
    yield recovery_case("reclear", "kill-rank", rank=0)
    yield recovery_case("attach", "kill-rank", rank=0)
    yield recovery_case("fill", "kill-smp", rank=0)
    yield recovery_case("rebuild", "kill-node", rank=0, nodes=LARGE, parity=2)
    yield recovery_case("before-recommit", "kill-node", rank=0, **LARGE_2)

    yield move_case("verify", "kill-rank")
    yield move_case("move", "kill-node")
    yield move_case("plan", "kill-rank")
    yield move_case("fill", "kill-node")
    yield move_case("move-send", "kill-rank")
    yield move_case("reexchange", "kill-node")
    yield move_case("recommit", "kill-job")
    yield move_case("retire", "kill-rank", rank=0)

    yield epoch_case("create", "kill-job", 3)
    yield epoch_case("exchange", "kill-node", 4)
    yield epoch_case("after-prepare", "kill-job", 4)
    yield epoch_case("after-commit", "kill-node", 4, rank=0)

    yield snapshot_case("exchange", "kill-node", 3, rank=2, nodes=TWO_EACH, at="-two-each")
    yield snapshot_case("after-prepare", "kill-node", 3, rank=1, nodes=UNEQUAL, at="-unequal")
    yield refused(SMALL, 1)
    yield refused(LARGE, 2)


def after_kill_job(name, act):
    return Case(name, (Act(fault("copy", "kill-job", 0, 3)), act), SMALL)


def known_to_one(nodes, parity, *what):
    """One rank knows that version 3 is committed, and trains on; all others are stopped
    before they can note it; then all are killed, and perhaps the memory of that one."""
    faults = [fault("before-commit", "stop", rank, 3) for rank in range(1, len(nodes))]
    faults += [fault("begin-fill", each, 0, 4) for each in what or ("kill-job",)]
    return Case(f"commit-known-to-one-m{parity}",
                (Act(",".join(faults), options=("--step-ms", 300)),), nodes, parity)


def refused(nodes, parity):
    """More nodes away than parity covers: refused, and fine when they are back."""
    return Case(f"too-many-lost-then-back-m{parity}",
                (Act(fault("copy", "kill-job", 0, 4)), Act("", "lost", hide=parity + 1),
                 Act("", "ok", show=True)), nodes, parity)


def full():
    """The whole matrix; what is selected comes first."""
    seen = set()
    for case in itertools.chain(selected(), matrix()):
        if (case.name, case.nodes) not in seen:
            seen.add((case.name, case.nodes))
            yield case


def failures():
    """Calls that fail, ftmem-smp lost where a rank is not looking after it."""
    yield Case("create-fails", (Act("create:1:1:fail", "failed"),), SMALL)
    yield Case("create-kill-smp", (Act("create:1:1:kill-smp", "any"),), SMALL)
    yield Case("touch-kill-smp", (Act("touch:1:1:kill-smp", "any"),), SMALL)
    yield Case("vote-fails", (Act("vote@3:1:1:fail"),), SMALL)
    yield Case("respawn-fails-once", (Act("copy@3:1:2:kill-smp,respawn:1:1:fail", "ok"),), SMALL)
    for count in (1, 4, 8):
        yield Case(f"agree-fails-{count}", (Act(f"agree:1:{count}:fail",
                                                options=("--timeout-ms", 1500)),), SMALL)
    yield after_kill_job("touch-fails-in-restart", Act("touch:1:1:fail", "failed"))
    for point, rank in (("attach", 0), ("touch", 1), ("fill", 0)):
        yield after_kill_job(f"{point}-kill-smp-r{rank}",
                             Act(fault(point, "kill-smp", rank), "any"))


def matrix():
    yield from failures()
    kills = ("kill-rank", "kill-node", "kill-job", "kill-smp")
    for point, what, version, rank in itertools.product(SNAPSHOT, kills, (1, 2, 4), (0, 1)):
        yield snapshot_case(point, what, version, rank)
    for point, version, rank in itertools.product(SNAPSHOT, (1, 2, 4), (0, 1)):
        yield snapshot_case(point, "kill-node", version, rank, **LARGE_2)
    for point, what in itertools.product(BY_LOST, kills):
        yield recovery_case(point, what, 1)
    for point, what in itertools.product(BY_LIVE, ("kill-rank", "kill-job", "kill-smp")):
        yield recovery_case(point, what, 0)
    # With one node lost, parity 1 lets another one go only when it is whole again.
    for point in ("before-recommit", "recommit", "reclear", "retire", "restored"):
        yield recovery_case(point, "kill-node", 0)
    for rank, points in ((0, BY_LIVE), (1, BY_LOST)):
        for point in points:
            yield recovery_case(point, "kill-node", rank, nodes=LARGE, parity=2)
    for point in BY_LOST:
        yield recovery_case(point, "kill-node", 1, **LARGE_2)
    moves = ("match", "create", "verify", "plan", "move", "fill", "move-send", "recopy", "reexchange",
             "before-reprepare", "reprepare", "revote", "before-recommit", "recommit", "retire")
    for point, what in itertools.product(moves, kills[:3]):
        yield move_case(point, what)
    for point, what, rank in itertools.product(SNAPSHOT, kills[:3], (0, 1)):
        yield epoch_case(point, what, 4, rank)
    for nodes, rank in ((TWO_EACH, 2), (TWO_EACH, 1), (UNEQUAL, 1), (UNEQUAL, 0)):
        for point in SNAPSHOT:
            at = "-two-each" if nodes is TWO_EACH else "-unequal"
            yield snapshot_case(point, "kill-node", 3, rank=rank, nodes=nodes, at=at)
