#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Signals, and what schedulers do: what was committed is there at the next start.

lifecycle.py has more of mpirun's end and of ftmem-smp's own.
"""
import argparse
import configparser
import os
import pathlib
import pwd
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time

import cases
from cases import Skipped
from harness import add_arguments, alive, end_on_sigterm, expect, expect_nothing_left, kill, \
    let_go, memory_of, pids, processes_of, programs, smp, smp_memory, start_held, survives, \
    train, wait_for

NODES = ("n0", "n1", "n2")
EXAMPLES = pathlib.Path(__file__).resolve().parents[2] / "examples"
STEP = "FTMEM_TEST_STEP"      # in the environment of all that a step starts
AT_A_TIME = 4                 # tests: mostly they wait
LIMITS_S = (4, 16, 64)        # on mpirun's time: the next if nothing was committed in it


# --- trainers ---

def terminated_rank_ends_the_job_and_loses_nothing(job):
    survives(job, lambda process: kill(pids(job)[1], signal.SIGTERM))


def interrupted_ranks_end_the_job_and_lose_nothing(job):
    survives(job, lambda process: [kill(pid, signal.SIGINT) for pid in pids(job)])


def terminated_ranks_end_the_job_and_lose_nothing(job):
    survives(job, lambda process: [kill(pid, signal.SIGTERM) for pid in pids(job)])


def hang_up_of_the_terminal_loses_nothing(job):
    """What the kernel sends to the foreground: mpirun's process group."""
    survives(job, lambda process: os.killpg(process.pid, signal.SIGHUP))


def limit_on_time_loses_nothing(job):
    for limit_s in LIMITS_S:
        done = job.run("--steps", 100000, "--step-ms", 5, MPIEXEC_TIMEOUT=limit_s)
        expect(done.status != 0, "mpirun ended well")
        wait_for(lambda: not processes_of(job.folder), 60, "all ranks are gone")
        if job.committed():
            break
    committed = job.committed()
    expect(committed > 0, f"nothing was committed within {LIMITS_S[-1]} s")
    version = train(job)
    expect(version != "fresh" and version >= committed, f"restored {version} after {committed}")


# --- ftmem-smp ---

def served_by(job, node, memory):
    """The process that holds the node's memory, once there is one."""
    def there():
        site = job.status().get(node)
        return site and memory_of(site["pid"]) == memory and site["pid"]
    return wait_for(there, 20, f"an ftmem-smp has the memory of {node}")


def memory_outlives(job, *numbers):
    """Signals to each ftmem-smp, one by one, while ranks are attached."""
    start_held(job)
    for number, (node, site) in zip(numbers, sorted(job.status().items())):
        memory = memory_of(site["pid"])
        expect(memory, "ftmem-smp holds no memory")
        kill(site["pid"], number)
        wait_for(lambda pid=site["pid"]: not alive(pid), 10, f"the one of {node} has ended")
        expect(served_by(job, node, memory) != site["pid"], "the old one serves")
    job.kill_trainers()
    expect(train(job) == 3, "the version is lost")


def ended_smp_leaves_the_memory_to_its_ranks(job):
    memory_outlives(job, signal.SIGTERM, signal.SIGINT, signal.SIGKILL)


def all_smps_ended_in_training_lose_nothing(job):
    job.start("--steps", 100000, "--step-ms", 5)
    wait_for(lambda: job.committed() >= 5, 30, "versions are committed")
    before = {node: site["pid"] for node, site in job.status().items()}
    for pid in before.values():
        kill(pid, signal.SIGTERM)
    wait_for(lambda: not any(map(alive, before.values())), 10, "they have ended")
    wait_for(lambda: set(job.status()) == set(NODES) and all(
        site["arenas"] for site in job.status().values()), 30, "others have the memory")
    seen = job.committed()
    wait_for(lambda: job.committed() > seen, 30, "versions go on being committed")
    job.kill_trainers()
    committed, version = job.committed(), train(job)
    expect(version != "fresh" and version >= committed, f"restored {version} after {committed}")


def smp_does_not_hang_up(job):
    start_held(job)
    before = {node: site["pid"] for node, site in job.status().items()}
    here = smp(job, "--foreground", node="n9")
    wait_for(lambda: "n9" in job.status(), 10, "the one in the foreground serves")
    for pid in (*before.values(), here.pid):
        kill(pid, signal.SIGHUP)
    # Signals that were not ignored have been acted upon when the next request is answered.
    after = {node: site["pid"] for node, site in job.status().items()}
    expect(after == {**before, "n9": here.pid}, f"were {before}, are {after}")
    # The other half of termination_leaves_nothing.
    kill(here.pid, signal.SIGINT)
    expect(here.wait(10) == 0, "the one in the foreground failed")
    here.stdout.close()
    expect(let_go(job).status == 0, "the run failed")
    expect(not list(job.dir.glob("*@n9.*")), "its files are left")
    expect(train(job) == 3, "the version is lost")


def interrupted_smps_leave_nothing(job):
    train(job)
    memory = smp_memory(job)
    for site in job.status().values():
        kill(site["pid"], signal.SIGINT)
    wait_for(lambda: not processes_of(job.root), 10, "ftmem-smp has ended")
    expect_nothing_left(job, memory)


def ended_smp_of_no_rank_is_made_up_for(job):
    train(job)
    pid = job.status()["n1"]["pid"]
    kill(pid, signal.SIGTERM)
    wait_for(lambda: not alive(pid), 10, "ftmem-smp has ended")
    expect(train(job) == 3, "the version is lost")


def stopped_smp_ends_the_start_in_time_and_loses_nothing(job):
    train(job)
    pid = job.status()["n1"]["pid"]
    kill(pid, signal.SIGSTOP)
    done = job.run("--steps", 3, "--timeout-ms", 1500)
    expect(done.status == 3, f"status {done.status}, not that of an error\n{done.tail()}")
    expect("ftmem-smp" in done.text, f"no word of ftmem-smp:\n{done.tail()}")
    kill(pid, signal.SIGCONT)
    expect(train(job) == 3, "the version is lost")


# --- schedulers ---

def step_of(value):
    """What runs in a step: whatever it started, in whatever session, as a control group."""
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            environment = pathlib.Path(f"/proc/{entry}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if f"{STEP}={value}".encode() in environment and alive(entry):
            found.append(int(entry))
    return found


def end_of_a_step_leaves_what_was_started_outside(job):
    """Of three ftmem-smp two were started beforehand: the third is the step's, and dies with
    it."""
    for node in NODES[:2]:
        begun = smp(job, node=node)
        text = begun.communicate(timeout=20)[0]
        expect(begun.returncode == 0, f"ftmem-smp: {text}")
    before = {node: site["pid"] for node, site in job.status().items()}
    job.start("--steps", 100000, "--step-ms", 5, **{STEP: job.root.name})
    wait_for(lambda: job.committed() >= 5, 30, "versions are committed")
    third = job.status()["n2"]["pid"]
    # All at once, as the scheduler does: nobody is to see the others go and act on it.
    everything = step_of(job.root.name)
    expect(third in everything and not set(before.values()) & set(everything), "the step's")
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in everything:
            kill(pid, number)
    job.process.wait(30)
    wait_for(lambda: not step_of(job.root.name), 10, "the step has ended")
    committed = job.committed()
    expect({n: s["pid"] for n, s in job.status().items()} == before, "one from outside is gone")
    version = train(job)
    expect(version != "fresh" and version >= committed, f"restored {version} after {committed}")


def unit_line(unit, key, job, runtime):
    """A command of the unit as the service manager would run it."""
    values = {"%i": job.name, "%t": str(runtime), "%%": "%"}
    words = shlex.split(unit["Service"][key])
    for name, value in values.items():
        words = [word.replace(name, value) for word in words]
    expect(not any("%" in word for word in words), f"{key}: {words}")
    return [job.args.smp, *words[1:]]


def service_unit_serves_the_job(job):
    """Type=forking: the command returns when the service is up."""
    path = EXAMPLES / "systemd" / "ftmem-smp@.service"
    unit = configparser.ConfigParser(strict=True, interpolation=None)
    unit.optionxform = str
    unit.read_string(path.read_text())
    expect(unit["Service"]["Type"] == "forking", "the test does not fit the unit")
    runtime = job.root / "t"
    job.dir = runtime / unit["Service"]["RuntimeDirectory"]
    job.dir.mkdir(parents=True, mode=int(unit["Service"]["RuntimeDirectoryMode"], 8))
    job.nodes = [socket.gethostname()] * 2
    command = unit_line(unit, "ExecStart", job, runtime)
    done = subprocess.run(command, env=job.environment(FTMEM_DIR=None), timeout=30, check=False,
                          stdin=subprocess.DEVNULL, capture_output=True, text=True)
    expect(done.returncode == 0, f"{command}: {done.stdout}{done.stderr}")
    before = job.status()[job.nodes[0]]["pid"]
    train(job)
    expect(train(job) == 3, "the version is lost")
    expect(job.status()[job.nodes[0]]["pid"] == before, "trainers started another")
    # Status 3 is a failure: the manager gives up after StartLimitBurst attempts.
    done = subprocess.run(command, env=job.environment(FTMEM_DIR=None), timeout=30, check=False,
                          stdin=subprocess.DEVNULL, capture_output=True, text=True)
    expect(done.returncode == 3, f"a second one: status {done.returncode}")
    memory = smp_memory(job)
    kill(before, signal.SIGTERM)
    wait_for(lambda: not alive(before), 10, "the service has stopped")
    expect_nothing_left(job, memory)


def service_unit_is_valid(job):
    if not shutil.which("systemd-analyze"):
        raise Skipped("there is no systemd-analyze: THE UNIT WAS NOT CHECKED")
    unit = job.root / "ftmem-smp@.service"
    text = (EXAMPLES / "systemd" / unit.name).read_text()
    unit.write_text(text.replace("/usr/bin/ftmem-smp", job.args.smp))
    done = subprocess.run(["systemd-analyze", "verify", "--user", "--man=no", str(unit)],
                          env=job.environment(XDG_RUNTIME_DIR=job.root, HOME=job.root),
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
                          check=False)
    text = done.stdout + done.stderr
    expect(done.returncode == 0 and not text.strip(), f"status {done.returncode}: {text}")


class Slurm:
    """The environment in which slurmd would run the scripts."""

    def __init__(self, job):
        self.job = job
        self.base = job.root / "run"
        job.dir = self.base / str(os.getuid())
        job.nodes = [socket.gethostname()] * 2
        self.bin = job.root / "bin"
        self.bin.mkdir()
        (self.bin / "ftmem").symlink_to(job.args.ftmem)

    def script(self, name, number, comment=None, uid=None, smp_path=None):
        user = pwd.getpwuid(os.getuid() if uid is None else uid)
        env = {"SLURM_JOB_ID": str(number), "SLURM_JOB_UID": str(user.pw_uid),
               "SLURM_JOB_USER": user.pw_name, "FTMEM_BASE": str(self.base),
               "FTMEM_SMP": smp_path or self.job.args.smp, "FTMEM_COMMAND": self.job.args.ftmem}
        if comment is not None:
            env["SLURM_JOB_COMMENT"] = comment
        done = subprocess.run([EXAMPLES / "slurm" / name], env=env, stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=30, check=False)
        expect(done.returncode == 0, f"{name}: status {done.returncode}: {done.stderr}")
        return done.stderr

    def served(self):
        return {node: site["pid"] for node, site in self.job.status().items()}


def slurm_prolog_and_epilog(job):
    slurm, wish = Slurm(job), f"ftmem:{job.name}"
    for comment in ("", "run7", "ftmem:", "ftmem:../x", f"xftmem:{job.name}"):
        expect(not slurm.script("prolog", 1, comment), f"{comment}: it complains")
        expect(not slurm.base.exists(), f"{comment}: it did something")
    expect(not slurm.script("epilog", 1), "the epilog of another job complains")

    expect(not slurm.script("prolog", 10, f"other,{wish}:keep"), "the prolog complains")
    before = slurm.served()
    expect(len(before) == 1, f"the prolog started {before}")
    expect(train(job) == "fresh" and slurm.served() == before, "trainers started another")
    # It is kept for the next job, which comes before the epilog of this one or after it.
    expect(not slurm.script("epilog", 10), "the epilog complains")
    expect(not slurm.script("prolog", 11, wish), "the prolog complains")
    expect(train(job) == 3 and slurm.served() == before, "the version is lost")
    expect(not slurm.script("prolog", 12, wish), "the prolog complains")
    expect(not slurm.script("epilog", 11), "the epilog complains")
    expect(slurm.served() == before, "it was freed, though another allocation uses it")
    expect(train(job) == 6, "the version is lost")
    memory = smp_memory(job)
    # A job of that name of a user whose number ends like this one's is another.
    other = slurm.base / "slurm" / "14"
    other.write_text(f"1{os.getuid()} {job.name} end\n")
    expect(not slurm.script("epilog", 12), "the epilog complains")
    expect_nothing_left(job, memory)
    other.unlink()
    expect(not slurm.script("epilog", 12), "a second epilog complains")
    # A node where it cannot be started is no failed node.
    text = slurm.script("prolog", 13, wish, smp_path="/nonexistent")
    expect("no ftmem-smp" in text, f"the prolog said: {text}")


def slurm_prolog_starts_it_as_the_user(job):
    if os.getuid() != 0:
        raise Skipped("not root: A PROLOG FOR ANOTHER USER WAS NOT TRIED")
    slurm = Slurm(job)
    nobody = pwd.getpwnam("nobody").pw_uid
    # The build may lie where others must not read.
    job.root.chmod(0o755)
    copy = job.root / "ftmem-smp"
    shutil.copy(job.args.smp, copy)
    shutil.copy(job.args.ftmem, job.root / "ftmem")
    job.args = argparse.Namespace(**{**vars(job.args), "ftmem": str(job.root / "ftmem")})
    job.dir = slurm.base / str(nobody)
    expect(not slurm.script("prolog", 20, f"ftmem:{job.name}", nobody, str(copy)), "it complains")
    found = processes_of(job.dir)
    expect(len(found) == 1, f"the prolog started {found}")
    owner = os.stat(f"/proc/{next(iter(found))}").st_uid
    expect(owner == nobody, f"it runs as user {owner}")
    expect(not slurm.script("epilog", 20, uid=nobody), "the epilog complains")
    expect(not processes_of(job.dir), "it was not ended")


def slurm_job_goes_on(job):
    """job.sbatch with an srun that runs mpirun: the first step is killed in training."""
    slurm = Slurm(job)
    slurm.script("prolog", 30, f"ftmem:{job.name}:keep")
    before = slurm.served()
    trainer = ["mpirun", "--oversubscribe", "--bind-to", "none", "-n", "2"]
    trainer[0] = job.args.mpirun
    srun = slurm.bin / "srun"
    srun.write_text(f"""#!/usr/bin/env bash
while [[ $1 = --* ]]; do shift; done
[ "$1" != ftmem ] || exec "$@"
run=$(cat {job.root}/runs 2>/dev/null || echo 0)
echo $((run + 1)) >{job.root}/runs
exec {shlex.join(trainer)} "$@" --run $((run + 1)) --steps $((run ? 3 : 100000))
""")
    srun.chmod(0o755)
    text = (EXAMPLES / "slurm" / "job.sbatch").read_text()
    script = job.root / "job.sbatch"
    script.write_text(text.replace("run7", job.name))
    job.log = job.root / "sbatch.log"
    with open(job.log, "wb") as log:
        job.process = subprocess.Popen(
            ["bash", script, job.args.trainer, "--folder", job.folder, "--nodes",
             ",".join(job.nodes), "--job", job.name, "--step-ms", "5"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            start_new_session=True, env=job.environment(
                PAUSE_S=0, TRIES=3, PATH=f"{slurm.bin}:{os.environ['PATH']}"))
    job.started = time.monotonic()
    wait_for(lambda: job.committed() >= 5, 30, "versions are committed")
    expect(slurm.served() == before, "trainers started another")
    memory = smp_memory(job)
    kill(pids(job)[0])
    done = job.wait()
    expect(done.status == 0, f"status {done.status}\n{done.tail()}")
    job.runs = 2
    versions, ranks = job.restored()
    expect(ranks == 2 and "fresh" not in versions and min(versions) >= 5, f"restored {versions}")
    # It was trained to the end: nothing is kept for another.
    expect_nothing_left(job, memory)
    slurm.script("epilog", 30)


TESTS = [
    terminated_rank_ends_the_job_and_loses_nothing, terminated_ranks_end_the_job_and_lose_nothing,
    interrupted_ranks_end_the_job_and_lose_nothing, hang_up_of_the_terminal_loses_nothing,
    limit_on_time_loses_nothing, ended_smp_leaves_the_memory_to_its_ranks,
    all_smps_ended_in_training_lose_nothing, smp_does_not_hang_up,
    interrupted_smps_leave_nothing, ended_smp_of_no_rank_is_made_up_for,
    stopped_smp_ends_the_start_in_time_and_loses_nothing,
    end_of_a_step_leaves_what_was_started_outside, service_unit_serves_the_job,
    slurm_prolog_and_epilog, slurm_job_goes_on,
]
ALONE = [service_unit_is_valid, slurm_prolog_starts_it_as_the_user]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    cases.add_argument(parser)
    args = parser.parse_args()
    programs(args)
    end_on_sigterm()
    return cases.run(cases.choose(args, TESTS, ALONE), cases.with_job(args, NODES), AT_A_TIME)


if __name__ == "__main__":
    sys.exit(main())
