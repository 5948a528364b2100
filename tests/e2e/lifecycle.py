#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""How ftmem-smp comes, stays and goes: with mpirun, without it, by hand, by force."""
import argparse
import contextlib
import fcntl
import json
import os
import pathlib
import re
import signal
import socket
import stat
import struct
import sys
import time

import cases
from cases import Skipped
from endings import adopt
from harness import Job, add_arguments, alive, descriptors, end_on_sigterm, expect, \
    expect_nothing_left, kill, let_go, memory_of, pids, processes_of, programs, smp, \
    smp_memory, start_held, survives, train, wait_for

NODES = ("n0", "n1", "n2")
RETURN_S = 10.0           # mpirun's, after its ranks' end
LAUNCHER = re.compile(r"^(OMPI_|PMIX_|PMI|PRTE|ORTE_|SLURM_|HYDRA|MPI_|MPICH)")


# --- what the kernel knows of a process ---

def stat_of(pid):
    """Parent, session and controlling terminal."""
    words = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return {"parent": int(words[1]), "session": int(words[3]), "tty": int(words[4])}


# --- with mpirun ---

def mpirun_returns_though_smps_live(job):
    start_held(job)
    ranks = pids(job)
    (job.folder / "go").touch()
    wait_for(lambda: not any(map(alive, ranks)), 20, "all ranks have ended")
    ended = time.monotonic()
    done = job.wait()
    late = time.monotonic() - ended
    expect(done.status == 0, f"mpirun ended with status {done.status}\n{done.tail()}")
    expect(late < RETURN_S, f"mpirun returned {late:.1f} s after its ranks' end")
    expect(len(job.status()) == len(NODES), f"an ftmem-smp is gone: {job.status()}")


def smp_keeps_nothing_of_mpirun(job):
    start_held(job)
    mpirun = {job.process.pid, *pids(job)}
    for node, site in job.status().items():
        pid = site["pid"]
        environment = pathlib.Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        names = [v.decode(errors="replace").split("=")[0] for v in environment]
        expect("FTMEM_DIR" in names, "its environment cannot be read")
        bad = [name for name in names if LAUNCHER.match(name)]
        expect(not bad, f"{node}: has the launcher's variables {bad}")
        about = stat_of(pid)
        expect(about["session"] == pid, f"{node}: is in session {about['session']}")
        expect(about["tty"] == 0, f"{node}: has a terminal")
        expect(about["parent"] not in mpirun, f"{node}: is a child of {about['parent']}")
        expect(os.readlink(f"/proc/{pid}/cwd") == "/", f"{node}: stays in a folder")
        own = re.compile(r"/dev/null|/memfd:|anon_inode:|socket:|" + re.escape(str(job.dir)))
        for number, target in descriptors(pid).items():
            expect(own.match(target), f"{node}: descriptor {number} is {target}")
    expect(let_go(job).status == 0, "the run failed")
    for node, site in job.status().items():
        wait_for(lambda pid=site["pid"]: sum(t.startswith("socket:") for t in
                                             descriptors(pid).values()) == 1,
                 5, f"{node}: one socket is left when the clients have gone")


def smp_survives_mpirun_killed(job):
    survives(job, lambda process: kill(process.pid))


def smp_survives_control_c(job):
    survives(job, lambda process: os.killpg(process.pid, signal.SIGINT))


def smp_survives_mpirun_terminated(job):
    survives(job, lambda process: process.send_signal(signal.SIGTERM))


def smp_that_dies_is_replaced_while_ranks_are_idle(job):
    start_held(job)
    old = job.status()["n1"]["pid"]
    memory = memory_of(old)
    expect(memory, "ftmem-smp holds no memory")
    job.kill_smp("n1")
    wait_for(lambda: job.status().get("n1", {}).get("arenas"), 10, "another one has the memory")
    new = job.status()["n1"]["pid"]
    expect(new != old and memory_of(new) == memory, "it is not the same memory")
    job.kill_trainers()
    version = train(job)
    expect(version == 3, f"restored {version}, not 3")


# --- going ---

def drop_leaves_nothing(job):
    train(job)
    memory = smp_memory(job)
    expect(len(memory) == len(NODES), f"{len(memory)} arenas are held")
    done = job.ftmem("drop", job.name)
    expect(done.returncode == 0, f"ftmem drop: {done.stderr}")
    expect_nothing_left(job, memory)
    done = job.ftmem("drop", job.name)
    expect(done.returncode == 3, f"a second drop ended with status {done.returncode}")
    expect(train(job) == "fresh", "something was restored after drop")


def drop_is_refused_while_ranks_are_attached(job):
    start_held(job)
    done = job.ftmem("drop", job.name)
    expect(done.returncode == 4 and "attached" in done.stderr,
           f"status {done.returncode}: {done.stderr}")
    expect(len(job.status()) == len(NODES), "it was dropped all the same")
    expect(let_go(job).status == 0, "the run failed")
    expect(train(job) == 3, "the version is gone")


def expiry_leaves_nothing(job):
    start_held(job, FTMEM_EXPIRE_S=1)
    memory = smp_memory(job)
    time.sleep(2.5)
    expect(len(job.status()) == len(NODES), "expired while ranks are attached")
    expect(let_go(job).status == 0, "the run failed")
    wait_for(lambda: not processes_of(job.root), 10, "ftmem-smp has expired")
    expect_nothing_left(job, memory)


def termination_leaves_nothing(job):
    train(job)
    memory = smp_memory(job)
    for site in job.status().values():
        kill(site["pid"], signal.SIGTERM)
    wait_for(lambda: not processes_of(job.root), 10, "ftmem-smp has ended")
    expect_nothing_left(job, memory)


# --- looking ---

def status_tells_what_is_held(job):
    train(job)
    sites = job.status()
    expect(set(sites) == set(NODES), f"nodes: {set(sites)}")
    for rank, node in enumerate(NODES):
        site = sites[node]
        expect(site["clients"] == 0 and len(site["arenas"]) == 1, f"{node}: {site}")
        arena = site["arenas"][0]
        expect(arena["rank"] == rank and arena["bytes"] > 0 and arena["holder"] == 0, f"{arena}")
        versions = {s["version"]: s["state"] for s in arena["slots"]}
        expect(versions == {2: "committed", 3: "committed"}, f"{node}: {versions}")
        expect(site["bytes"] == arena["bytes"], f"{node}: {site['bytes']} bytes")
    text = job.ftmem("status").stdout
    for word in (*NODES, "committed 3", "committed 2", "expires in"):
        expect(word in text, f"ftmem status does not say {word}:\n{text}")
    one = json.loads(job.ftmem("status", "--json", "--node", "n1").stdout)["jobs"]
    expect([site["node"] for site in one] == ["n1"], f"--node n1 gave {one}")
    expect(job.ftmem("status", "other").returncode == 3, "another job's status")
    done = job.ftmem("verify", job.name)
    expect(done.returncode == 0 and "6 snapshots checked, 0 damaged" in done.stdout, done.stdout)


def flip(job, node, part):
    """Flips a bit of the newest slot of a node: part says how far into the slot."""
    arena = job.status()[node]["arenas"][0]
    at = max((0, 1), key=lambda i: arena["slots"][i]["version"])
    pid = job.status()[node]["pid"]
    number = next(n for n, t in descriptors(pid).items() if t.startswith("/memfd:"))
    with open(f"/proc/{pid}/fd/{number}", "r+b", buffering=0) as memory:
        # struct arena_header: slot_offset[2] at 96, slot_bytes at 112.
        offsets = struct.unpack("<3Q", os.pread(memory.fileno(), 24, 96))
        where = offsets[at] + int(part(offsets[2]))
        byte = os.pread(memory.fileno(), 1, where)[0]
        os.pwrite(memory.fileno(), bytes([byte ^ 0x10]), where)


def flipped_bits_are_found_and_repaired(job):
    parts = {"data": lambda size: size // 3, "parity": lambda size: size - 20000,
             "checksums": lambda size: 4096 + 8, "header": lambda size: 8}
    train(job)
    for name, part in parts.items():
        version = job.committed()
        flip(job, "n0", part)
        done = job.ftmem("verify", job.name)
        expect(done.returncode == 1 and "DAMAGED" in done.stdout, f"{name}: {done.stdout}")
        expect("1 damaged" in done.stdout, f"{name}: {done.stdout}")
        restored = train(job)
        expect(restored == version, f"{name}: restored {restored}, not {version}")
        done = job.ftmem("verify", job.name)
        expect(done.returncode == 0, f"{name}: not repaired: {done.stdout}")


# --- beginnings ---

def smp_started_by_hand_is_used(job):
    begun = smp(job)
    text = begun.communicate(timeout=20)[0]
    expect(begun.returncode == 0 and text.startswith("ready: "), f"ftmem-smp: {text}")
    here = smp(job, "--foreground", node="n1")
    wait_for(lambda: "n1" in job.status(), 10, "the one in the foreground serves")
    second = smp(job)
    text = second.communicate(timeout=20)[0]
    expect(second.returncode == 3 and "another" in text, f"a second one: {text}")
    before = {node: site["pid"] for node, site in job.status().items()}
    expect(before["n1"] == here.pid, f"n1 is served by {before['n1']}")
    train(job)
    after = {node: site["pid"] for node, site in job.status().items()}
    expect({n: after[n] for n in before} == before, f"were {before}, are {after}")
    expect(set(after) == set(NODES), f"only {after}")
    kill(here.pid, signal.SIGTERM)
    expect(here.wait(10) == 0, "the one in the foreground failed")
    here.stdout.close()
    # Its memory is gone: the others make up for it.
    expect(train(job) == 3, "the version is lost")


def two_jobs_live_side_by_side(job):
    other = Job(job.args, NODES, name="other")
    other.dir = job.dir
    try:
        other.start("--steps", 3, "--hold", "go")
        start_held(job)
        wait_for(lambda: len(other.lines("holding.*")) == len(NODES), 30, "the other job has begun")
        expect(set(job.status()) == set(other.status()) == set(NODES), "an ftmem-smp is missing")
        let_go(other)
        let_go(job)
        expect(other.ftmem("drop", "other").returncode == 0, "ftmem drop other")
        expect(not other.status() and len(job.status()) == len(NODES), "the wrong job was dropped")
        expect(train(job) == 3, "the version is lost")
        expect(train(other) == "fresh", "a dropped job was restored")
    finally:
        other.close()


def stale_files_are_no_hindrance(job):
    job.dir.mkdir(mode=0o700)
    stale = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    stale.bind(str(job.dir / f"{job.name}@n0.sock"))
    stale.close()
    (job.dir / f"{job.name}@n0.lock").touch(mode=0o600)
    (job.dir / f"{job.name}@n1.sock").touch(mode=0o600)
    expect(train(job) == "fresh", "something was restored")
    # One that was killed leaves its socket behind.
    job.kill_smp("n2")
    expect(train(job) == 3, "the version is lost")


def refused(job, *words):
    done = job.run("--steps", 3, "--timeout-ms", 2500)
    expect(done.status == 3, f"the run ended with status {done.status}\n{done.tail()}")
    for word in words:
        expect(word in done.text, f"no word of {word}:\n{done.tail()}")


def folders_that_others_may_use_are_refused(job):
    job.dir.mkdir(mode=0o755)
    job.dir.chmod(0o755)
    refused(job, str(job.dir), "0700")
    job.dir.chmod(0o700)
    if os.getuid() == 0:
        os.chown(job.dir, 65534, 65534)
        refused(job, str(job.dir))
        os.chown(job.dir, 0, 0)
    train(job)


def smp_of_another_format_is_refused(job):
    """A server that speaks a later version, and has the lock."""
    job.dir.mkdir(mode=0o700)
    server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server.bind(str(job.dir / f"{job.name}@n0.sock"))
    server.listen(8)
    lock = open(job.dir / f"{job.name}@n0.lock", "w", encoding="ascii")
    fcntl.flock(lock, fcntl.LOCK_EX)
    answer = bytearray(400)
    struct.pack_into("<IIiI", answer, 0, 0x504D5446, 99, 0, 1)
    job.start("--steps", 3, "--timeout-ms", 2500)
    server.settimeout(20)
    peer, _ = server.accept()
    peer.recv(1024)
    peer.send(answer)
    done = job.wait()
    server.close()
    lock.close()
    expect(done.status == 3 and "version" in done.text and "99" in done.text,
           f"status {done.status}\n{done.tail()}")


@contextlib.contextmanager
def adopting():
    """Orphans become children of this process. A stopped rank whose parent is in this
    session then stays stopped when mpirun dies, as a hung one would."""
    adopt(True)
    try:
        yield
    finally:
        adopt(False)


def hung_rank_of_an_earlier_start_is_named(job):
    with adopting():
        hang(job)
        job.close()
        while reaped():
            pass


def reaped():
    try:
        return os.waitpid(-1, os.WNOHANG)[0]
    except ChildProcessError:
        return 0


def hang(job):
    start_held(job, session=False)
    hung = pids(job)[1]
    kill(hung, signal.SIGSTOP)
    kill(job.process.pid)
    job.process.wait(10)
    wait_for(lambda: set(processes_of(job.folder)) == {hung}, 10, "only the hung rank is left")
    for path in job.folder.glob("holding.*"):
        path.unlink()
    refused(job, str(hung), "attached")
    kill(hung)
    expect(train(job) == 3, "the version is lost")


# --- memory ---

def cgroup_of_own():
    """A control group below this process's own: its folder, its limit's name."""
    kinds = {}
    for line in pathlib.Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            kinds["memory.limit_in_bytes"] = "/sys/fs/cgroup/memory" + path
        elif not controllers:
            kinds["memory.max"] = "/sys/fs/cgroup" + path
    reasons = []
    for limit, parent in kinds.items():
        folder = pathlib.Path(parent) / f"ftmem-test-{os.getpid()}"
        try:
            folder.mkdir()
        except OSError as error:
            reasons.append(str(error))
            continue
        if (folder / limit).exists():
            return folder, limit
        reasons.append(f"no {limit} in {folder}")
        folder.rmdir()
    raise Skipped("no control group can be made to limit memory: " + "; ".join(reasons))


def memory_limit_gives_an_error_not_a_kill(job):
    """512 MiB: too little for one rank's arena, then for those of the two on a node."""
    folder, limit = cgroup_of_own()
    mpirun = job.args.mpirun
    wrapper = job.root / "limited"
    wrapper.write_text(f"#!/bin/sh\necho $$ >{folder}/cgroup.procs && exec {mpirun} \"$@\"\n")
    wrapper.chmod(stat.S_IRWXU)
    try:
        try:
            (folder / limit).write_text(str(512 << 20))
        except OSError as error:
            raise Skipped(f"the control group's limit cannot be set: {error}") from None
        job.args = argparse.Namespace(**{**vars(job.args), "mpirun": str(wrapper)})
        for nodes, size in ((NODES, 400 << 20), (("n0", "n0", "n0", "n1", "n1", "n1"), 110 << 20)):
            job.nodes = list(nodes)
            done = job.run("--steps", 1, "--bytes", size)
            expect(done.status == 3, f"status {done.status}, not that of an error\n{done.tail()}")
            expect("out of memory" in done.text, f"no word of memory:\n{done.tail()}")
            held = sum(site["bytes"] for site in job.status().values())
            expect(held == 0, f"{held} bytes are held after the refusal")
        job.nodes = list(NODES)
        train(job)
    finally:
        job.close()
        wait_for(lambda: not (folder / "cgroup.procs").read_text(), 10, "the group is empty")
        folder.rmdir()


TESTS = [
    mpirun_returns_though_smps_live, smp_keeps_nothing_of_mpirun, smp_survives_mpirun_killed,
    smp_survives_control_c, smp_survives_mpirun_terminated,
    smp_that_dies_is_replaced_while_ranks_are_idle,
    drop_leaves_nothing, drop_is_refused_while_ranks_are_attached, expiry_leaves_nothing,
    termination_leaves_nothing, status_tells_what_is_held, flipped_bits_are_found_and_repaired,
    smp_started_by_hand_is_used, two_jobs_live_side_by_side, stale_files_are_no_hindrance,
    folders_that_others_may_use_are_refused, smp_of_another_format_is_refused,
    hung_rank_of_an_earlier_start_is_named,
]
ALONE = [memory_limit_gives_an_error_not_a_kill]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    cases.add_argument(parser)
    args = parser.parse_args()
    programs(args)
    end_on_sigterm()
    return cases.run(cases.choose(args, TESTS, ALONE), cases.with_job(args, NODES))


if __name__ == "__main__":
    sys.exit(main())
