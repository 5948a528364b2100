# SPDX-License-Identifier: BSD-3-Clause
"""The cases of crash.py: what is lost, when, and again during the recovery.

Points, counts and what happens are those of tests/util/fault.h. Rank r of a case of n
nodes runs on node n<r> unless `nodes` says otherwise; the last rank's state is tiny.

Most cases are cells of a matrix: a point of a section (when the job starts, in the life of
a version, ...), what is killed there, and a version: the first, one in the middle, or the
last of a run. What is no cell of it has no section.
"""
import dataclasses
import itertools
import random
import signal


# The exit status of mpirun: that of the first rank that ends other than well.
ENDS = {"ok": {0}, "lost": {5}, "failed": {3}, "crash": {128 + signal.SIGKILL}, "any": {0, 3}}


@dataclasses.dataclass(frozen=True)
class Act:
    """One mpirun with something going wrong in it."""
    fault: str = ""
    end: str = "crash"     # how mpirun ends: one of ENDS
    lose: int = 0          # nodes lost besides, once it has ended
    lose_of: tuple = ()    # and the nodes of these ranks
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
    group_nodes: int = 8
    same: bool = False     # replacements have the names of what they replace
    options: tuple = ()    # of the trainer, in all runs
    steps: int = 6         # of a run
    section: str = ""      # the cell of the matrix
    point: str = ""
    what: str = ""
    version: int = 0       # under way, or in recovery restored; 0: nothing is stored
    restores: int = 0      # the first that must come back, if that is known


def names(ranks):
    return tuple(f"n{i}" for i in range(ranks))


SMALL = names(3)                      # tolerates the loss of one
LARGE = names(4)                      # with parity 2
TWO_EACH = ("n0", "n0", "n1", "n1", "n2", "n2")
UNEQUAL = ("n0", "n1", "n1", "n2")
TWO_GROUPS = {"nodes": names(6), "group_nodes": 3}   # n0 to n2, n3 to n5
PAIRS_OF_TWO = {"nodes": tuple(f"n{i // 2}" for i in range(8)), "group_nodes": 2}
UNEQUAL_GROUPS = {"nodes": names(7), "group_nodes": 3}   # of four and of three
LARGE_2 = {"nodes": LARGE, "parity": 2, "lose": 1, "at": "-two-lost"}

LAST = 6
VERSIONS = (1, 3, LAST)
KILLS = ("kill-rank", "kill-smp", "kill-node", "kill-job")

COUNT = {"copy": 7, "tell": 2, "exchange": 4, "encode": 3, "trailer": 2, "agree": 4, "match": 2,
         "recopy": 3, "retell": 2, "reexchange": 2, "reencode": 2, "retrailer": 2,
         "reagree": 6, "rebuild": 3, "rebuild-send": 4, "rebuilt": 5}

START = ("agree", "match", "create", "touch", "attach")
SNAPSHOT = ("begin-fill", "copy", "tell", "exchange", "encode", "trailer", "before-prepare",
            "after-prepare", "vote", "before-commit", "after-commit")
# In place; passed by the rank whose node was lost, by one that survived.
BY_LOST = ("refill", "rebuilt", "before-reprepare", "reprepare", "fill", "before-recommit",
           "recommit", "reclear", "retire", "restored")
BY_LIVE = ("attach", "reagree", "rebuild", "rebuild-send", "rebuilt", "fill", "before-recommit",
           "recommit", "reclear", "retire", "restored")
# With one node lost, parity 1 lets another one go only when it is whole again.
BY_WHOLE = ("before-recommit", "recommit", "reclear", "retire", "restored")
# By one of a group that lost nothing.
BY_OTHERS = ("attach", "reagree", "rebuilt", "fill", "before-recommit", "recommit", "reclear",
             "retire", "restored")
# By the rank whose slot is mended, by another one.
MEND = ("reagree", "refill", "rebuilt", "before-reprepare", "reprepare", "before-recommit",
        "recommit", "reclear", "retire")
MEND_LIVE = ("reagree", "verify", "rebuild", "rebuild-send", "before-recommit", "recommit",
             "reclear", "retire")
# What else they count was passed when the job started.
MEND_COUNT = {"retire": {1: 2, 3: 2, LAST: 2}, "reagree": {1: 14, 3: 24, LAST: 36},
              "reclear": {1: 3}}
MOVE = ("match", "create", "reagree", "verify", "plan", "move", "fill", "move-send", "refill",
        "recopy", "retell", "reexchange", "reencode", "retrailer", "before-reprepare", "reprepare",
        "revote", "before-recommit", "recommit", "retire", "restored")
SEAL = ("match", "create", "touch")

# The sections, and their points in the order in which they are passed.
SECTIONS = {
    "start": START,
    "version": (*SNAPSHOT, "retire", "clear", "respawn"),
    "recovery": ("attach", "reagree", "refill", "rebuild", "rebuild-send", "rebuilt", "fill",
                 "before-reprepare", "reprepare", *BY_WHOLE),
    "move": MOVE,
    "epoch": (*SEAL, *SNAPSHOT, "retire"),
    "repair": ("reagree", "verify", "refill", "rebuild", "rebuild-send", *MEND[2:]),
}


def fault(point, what, rank=1, version=None, count=None):
    at = "" if version is None else f"@{version}"
    return f"{point}{at}:{rank}:{count or COUNT.get(point, 1)}:{what}"


def end_of(what, point=""):
    """Without an ftmem-smp the job goes on, but for a seal: that may fail."""
    if what != "kill-smp":
        return "crash"
    return "any" if point in START else "ok"


# --- what a recovery begins with ---


def node_lost(version, lose=0):
    """The node of rank 1; what is restored next is that version."""
    at = ("after-commit", LAST) if version == LAST else ("exchange", version + 1)
    return Act(fault(at[0], "kill-node", 1, at[1]), lose=lose)


def all_killed(version):
    """All ranks, but no ftmem-smp."""
    at = ("after-commit", LAST) if version == LAST else ("copy", version + 1)
    return Act(fault(at[0], "kill-job", 0, at[1]))


# --- two groups ---


def both_groups(point, version, ranks=(1, 4)):
    """The nodes of two ranks of different groups are lost at one point: one rank stands still
    there until the other's node is killed."""
    return Act(f"{fault(point, 'stop', ranks[1], version)},"
               f"{fault(point, 'kill-node', ranks[0], version)}", lose_of=ranks[1:])


def group_cells():
    """Besides the cells with one group: as much is lost in each group as parity covers."""
    for point in SNAPSHOT:
        yield Case(f"{point}@3-kill-node-both-groups", (both_groups(point, 3),), **TWO_GROUPS,
                   section="version", point=point, what="kill-node", version=3)
    for point in ("exchange", "after-prepare", "after-commit"):
        yield Case(f"{point}@3-kill-node-unequal-groups", (both_groups(point, 3, (1, 5)),),
                   **UNEQUAL_GROUPS, section="version", point=point, what="kill-node", version=3)
        yield Case(f"{point}@3-kill-node-groups-of-two", (both_groups(point, 3, (2, 6)),),
                   **PAIRS_OF_TWO, section="version", point=point, what="kill-node", version=3)
        act = dataclasses.replace(both_groups(point, 3), lose_of=(4, 2, 5))
        yield Case(f"{point}@3-kill-node-both-groups-m2", (act,), parity=2, **TWO_GROUPS,
                   section="version", point=point, what="kill-node", version=3)
    lost = both_groups("exchange", 4)
    for point in BY_LOST:
        yield Case(f"recovery-{point}@3-kill-node-both-groups", (lost, both_groups(point, None)),
                   **TWO_GROUPS, section="recovery", point=point, what="kill-node", version=3,
                   restores=3)
    # The other group lost nothing, and waits.
    for point, what in itertools.product(BY_OTHERS, KILLS):
        yield recovery_case(point, what, 3, 4, at="-two-groups", **TWO_GROUPS)
    for point in BY_LOST:
        yield recovery_case(point, "kill-node", 3, 1, at="-two-groups", **TWO_GROUPS)
    for point, what in itertools.product(("reagree", "verify", *BY_WHOLE[:2]), KILLS):
        yield repair_case(point, what, 3, 4, at="-two-groups", **TWO_GROUPS)
    # Those who meet in new groups were in others.
    for point in MOVE:
        act = dataclasses.replace(both_groups(point, None), permute=True)
        yield Case(f"move-{point}@3-kill-node-both-groups", (all_killed(3), act), **TWO_GROUPS,
                   section="move", point=point, what="kill-node", version=3, restores=3)


# --- the sections ---


def start_case(point, what, version, rank=1):
    """A start with nothing stored, or with that version."""
    first = () if version == 0 else (node_lost(version) if point == "create" else
                                     all_killed(version),)
    act = Act(fault(point, what, rank), end_of(what, point))
    return Case(f"start-{point}@{version}-{what}-r{rank}", (*first, act), SMALL,
                section="start", point=point, what=what, version=version, restores=version)


def snapshot_case(point, what, version, rank=1, lose=0, at="", **more):
    act = Act(fault(point, what, rank, version), end_of(what), lose=lose)
    return Case(f"{point}@{version}-{what}-r{rank}{at}", (act,), more.pop("nodes", SMALL),
                section="version", point=point, what=what, version=version, **more)


def retire_case(what, rank=1):
    """After the first commit of a run, which has nothing to give up yet."""
    return Case(f"retire@1-{what}-r{rank}", (Act(fault("retire", what, rank), end_of(what)),),
                SMALL, section="version", point="retire", what=what, version=1)


def clear_case(what, version, rank):
    """A version is dropped, since a bit flipped; its slot is emptied."""
    flip = fault("copy", "flip", 1, version)
    act = Act(f"{flip},{fault('clear', what, rank, version)}", end_of(what), dropped=version)
    return Case(f"clear@{version}-{what}-r{rank}", (act,), SMALL, section="version",
                point="clear", what=what, version=version,
                restores=0 if what == "kill-smp" else version - 1)


def respawn_case(what, version):
    """ftmem-smp is killed, and something happens when the memory is handed to another."""
    act = Act(f"{fault('copy', 'kill-smp', 1, version)},{fault('respawn', what)}", end_of(what))
    return Case(f"respawn@{version}-{what}", (act,), SMALL, section="version", point="respawn",
                what=what, version=version)


def recovery_case(point, what, version, rank=1, lose=0, at="", **more):
    """Rank 1's node is lost; then something happens in the recovery."""
    act = Act(fault(point, what, rank), end_of(what))
    return Case(f"recovery-{point}@{version}-{what}-r{rank}{at}",
                (node_lost(version, lose), act), more.pop("nodes", SMALL), section="recovery",
                point=point, what=what, version=version, restores=version, **more)


def move_case(point, what, version, rank=1):
    """All ranks killed, restarted on permuted nodes: data moves, and something happens."""
    act = Act(fault(point, what, rank), end_of(what, point), permute=True)
    return Case(f"move-{point}@{version}-{what}-r{rank}", (all_killed(version), act), SMALL,
                section="move", point=point, what=what, version=version, restores=version)


def epoch_case(point, what, version, rank=1):
    """A region is added before that version: the layout is sealed anew."""
    grow = version - 1
    if point in SEAL:
        text = fault(point, what, rank, grow)
    elif point == "retire":
        text = fault(point, what, rank, count=2)
    else:
        text = fault(point, what, rank, version)
    return Case(f"epoch-{point}@{version}-{what}-r{rank}", (Act(text, end_of(what, point)),), SMALL,
                options=("--grow", grow), section="epoch", point=point, what=what,
                version=version)


def repair_case(point, what, version, rank=1, at="", **more):
    """Rank 1's memory of that version is spoilt while the job runs, and mended."""
    act = Act(fault(point, what, rank, count=MEND_COUNT.get(point, {}).get(version)),
              end_of(what), options=("--repair", version))
    return Case(f"repair-{point}@{version}-{what}-r{rank}{at}", (act,), more.pop("nodes", SMALL),
                section="repair", point=point, what=what, version=version, **more)


# --- the matrix ---


def start_cells():
    for point, what, version in itertools.product(START, KILLS, (0, *VERSIONS)):
        if point != "attach" or version > 0:
            yield start_case(point, what, version)


def version_cells():
    for point, what, version, rank in itertools.product(SNAPSHOT, KILLS, VERSIONS, (1, 0)):
        yield snapshot_case(point, what, version, rank)
    for what in KILLS:
        yield retire_case(what)
    for what, version, rank in itertools.product(KILLS, VERSIONS, (1, 0)):
        # Rank 0 notices the flipped bit. Without it too much is lost of a first version that
        # is prepared elsewhere, and nothing is older: refused.
        if version > 1 or rank == 1:
            yield clear_case(what, version, rank)
    for what, version in itertools.product(KILLS, VERSIONS):
        yield respawn_case(what, version)
    for point, version in itertools.product(SNAPSHOT, VERSIONS):
        yield snapshot_case(point, "kill-node", version, **LARGE_2)
    for nodes, rank in ((TWO_EACH, 2), (TWO_EACH, 1), (UNEQUAL, 1), (UNEQUAL, 0)):
        for point in SNAPSHOT:
            at = "-two-each" if nodes is TWO_EACH else "-unequal"
            yield snapshot_case(point, "kill-node", 3, rank=rank, nodes=nodes, at=at)
    yield snapshot_case("after-commit", "kill-node", 3, same=True, at="-same-name")


def recovery_cells():
    for point, what, version in itertools.product(BY_LOST, KILLS, VERSIONS):
        yield recovery_case(point, what, version, 1)
    for point, what, version in itertools.product(BY_LIVE, KILLS, VERSIONS):
        if what != "kill-node" or point in BY_WHOLE:
            yield recovery_case(point, what, version, 0)
        else:
            yield recovery_case(point, what, version, 0, nodes=LARGE, parity=2, at="-of-four")
    for point in BY_LOST:
        yield recovery_case(point, "kill-node", 3, 1, **LARGE_2)
    for point in BY_WHOLE:
        yield recovery_case(point, "kill-node", 3, 0, **LARGE_2)


def move_cells():
    for point, what, version in itertools.product(MOVE, KILLS, VERSIONS):
        yield move_case(point, what, version)


def epoch_cells():
    for point, what, version in itertools.product(SECTIONS["epoch"], KILLS, (2, 4, LAST)):
        yield epoch_case(point, what, version)
    for point in SNAPSHOT:
        yield epoch_case(point, "kill-node", 4, 0)


def repair_cells():
    for point, what, version in itertools.product(MEND, KILLS, VERSIONS):
        if version in MEND_COUNT.get(point, VERSIONS):
            yield repair_case(point, what, version, 1)
    for point, what, version in itertools.product(MEND_LIVE, KILLS, VERSIONS):
        if version not in MEND_COUNT.get(point, VERSIONS):
            continue
        # What rank 1 cannot read counts as lost until it is whole again.
        if what != "kill-node" or point in BY_WHOLE:
            yield repair_case(point, what, version, 0)
        else:
            yield repair_case(point, what, version, 0, nodes=LARGE, parity=2, at="-of-four")


# --- what is no cell ---


def after_kill_job(name, act):
    return Case(name, (all_killed(3), act), SMALL)


def known_to_one(nodes, parity, *what, at="", **more):
    """One rank knows that version 3 is committed, and trains on; all others are stopped
    before they can note it; then all are killed, and perhaps the memory of that one."""
    faults = [fault("before-commit", "stop", rank, 3) for rank in range(1, len(nodes))]
    faults += [fault("begin-fill", each, 0, 4) for each in what or ("kill-job",)]
    return Case(f"commit-known-to-one-m{parity}{at}", (Act(",".join(faults)),), nodes, parity,
                restores=3, **more)


def refused(nodes, parity, at="", **more):
    """More nodes away than parity covers: refused, and fine when they are back."""
    return Case(f"too-many-lost-then-back-m{parity}{at}",
                (all_killed(3), Act("", "lost", hide=parity + 1), Act("", "ok", show=True)),
                nodes, parity, restores=3, **more)


def stopped():
    """Peers wait for a rank that is stopped: mostly waiting, so they come first."""
    few = {"options": ("--timeout-ms", 5000)}
    yield Case("exchange-stop", (Act(fault("exchange", "stop", 1, 3), "failed", **few),), SMALL)
    for count in (1, 4, 8):
        yield Case(f"agree-fails-{count}", (Act(f"agree:1:{count}:fail", "failed", **few),), SMALL)


def others():
    """Calls that fail, bits that flip, too much lost, loss at a time nobody chose."""
    yield Case("copy@3-flip", (Act(fault("copy", "flip", 1, 3), "ok", dropped=3),), SMALL,
               restores=6)
    yield known_to_one(SMALL, 1)
    yield known_to_one(LARGE, 2, "kill-smp", "kill-job")
    yield refused(SMALL, 1)
    yield refused(LARGE, 2)
    yield known_to_one(names(6), 1, "kill-smp", "kill-job", at="-two-groups", group_nodes=3)
    yield refused(names(6), 1, at="-of-one-group", group_nodes=3)
    yield Case("exchange-kill-rank-async", (Act("exchange:1:40:kill-rank"),), SMALL,
               options=("--async", "--step-ms", 3), steps=2000)
    yield Case("exchange-fails", (Act(fault("exchange", "fail", 1, 3), "failed"),), SMALL)
    yield Case("vote-fails", (Act("vote@3:1:1:fail", "failed"),), SMALL)
    yield Case("retire-fails", (Act("retire:1:1:fail", "ok"),), SMALL, restores=6)
    yield Case("create-fails", (Act("create:1:1:fail", "failed"),), SMALL)
    yield Case("touch-fails", (Act("touch:1:1:fail", "failed"),), SMALL)
    yield after_kill_job("attach-fails", Act("attach:1:1:fail", "failed"))
    yield after_kill_job("touch-fails-in-restart", Act("touch:1:1:fail", "failed"))
    yield Case("respawn-fails-once", (Act(f"{fault('copy', 'kill-smp', 1, 3)},respawn:1:1:fail",
                                          "ok"),), SMALL)


def full():
    """The whole matrix."""
    return list(itertools.chain(stopped(), others(), start_cells(), version_cells(),
                                recovery_cells(), move_cells(), epoch_cells(),
                                repair_cells(), group_cells()))


# --- what CI runs ---

CI_OTHERS = ("exchange-stop", "agree-fails-4", "copy@3-flip", "commit-known-to-one-m1",
             "commit-known-to-one-m2", "too-many-lost-then-back-m1", "too-many-lost-then-back-m2",
             "exchange-kill-rank-async", "touch-fails", "attach-fails", "retire-fails",
             "exchange@3-kill-node-both-groups", "before-commit@3-kill-node-both-groups",
             "recovery-rebuilt@3-kill-node-both-groups",
             "recovery-reagree@3-kill-node-r4-two-groups",
             "move-recommit@3-kill-node-both-groups")


# Points that these sections share with others, passed by the same code.
CI_POINTS = {"epoch": (*SEAL, "exchange", "after-prepare", "after-commit", "retire"),
             "repair": ("verify", "rebuilt", "recommit")}


def selected(sample=0, seed=1):
    """One case of each point, what is killed and the version taking turns; some others; and a
    sample of the rest."""
    cases = full()
    chosen = [c for c in cases if c.name in CI_OTHERS]
    cells = {}
    for case in cases:
        cells.setdefault((case.section, case.point), []).append(case)
    rows = [(section, point) for section, points in SECTIONS.items()
            for point in CI_POINTS.get(section, points)]
    for turn, row in enumerate(rows):
        what = KILLS[turn % len(KILLS)]
        of_kind = [c for c in cells[row] if c.what == what]
        chosen.append(of_kind[(turn // len(KILLS)) % len(of_kind)])
    rest = [c for c in cases if c not in chosen]
    return chosen + random.Random(seed).sample(rest, min(sample, len(rest)))
