# SPDX-License-Identifier: BSD-3-Clause
"""examples/train_gpt on simulated nodes, and what it says of its versions."""
import os
import pathlib
import re
import subprocess
import time

from harness import Job, expect, processes_of

MODEL = ("--layers", 1, "--dim", 32, "--context", 32, "--print", 1)
STATE_BYTES = 362000  # of that model
STEP_MS = 40
TIMEOUT_MS = 4000     # the library's


class Training(Job):
    """train_gpt on simulated nodes, again and again until it is done."""

    def __init__(self, args, names, parity, ranks, group_nodes, bandwidth):
        super().__init__(args, names, parity, name="soak")
        self.ranks = ranks            # on each node
        self.group_nodes = group_nodes
        self.bandwidth = bandwidth    # bytes per second of each
        self.dump = self.folder / "end.bin"
        self.began = False            # this run: past its restore, or begun afresh
        self.restored_version = 0
        self.newest = 0               # known to be committed
        self.committed_count = 0
        self.last_step = time.monotonic()

    def launch(self):
        """A run on self.nodes."""
        command = ["nice", "-n", "5", self.args.mpirun, "--oversubscribe", "--bind-to", "none"]
        for name in self.nodes:
            command += [] if name == self.nodes[0] else [":"]
            command += ["-n", str(self.ranks), "env", f"FTMEM_NODE={name}", self.args.trainer,
                        "--job", self.name, "--steps", str(self.args.steps), "--pause-ms",
                        str(STEP_MS), "--parity", str(self.parity), "--dump", str(self.dump),
                        *map(str, MODEL)]
        self.runs += 1
        self.log = self.root / f"run.{self.runs}"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True, env=self.environment(
                    FTMEM_TIMEOUT_MS=TIMEOUT_MS, FTMEM_GROUP_NODES=self.group_nodes,
                    FTMEM_EXPIRE_S=600,
                    FTMEM_BLOCK_BYTES=4096, FTMEM_MAX_BANDWIDTH=self.bandwidth,
                    OMPI_MCA_mpi_yield_when_idle=1))
        self.reader = open(self.log, "r", errors="replace", encoding="utf-8")
        self.part = ""
        self.began = False
        self.last_step = time.monotonic()

    def read(self):
        """Takes note of what rank 0 has said."""
        self.part += self.reader.read()
        *lines, self.part = self.part.split("\n")
        for line in lines:
            self.take(line)

    def take(self, line):
        if found := re.match(r"restored version (\d+)", line):
            self.restored_version = int(found[1])
            expect(self.restored_version >= self.newest,
                   f"version {found[1]} was restored, though {self.newest} was committed")
            self.began = True
            self.last_step = time.monotonic()
        elif found := re.match(r"step +(\d+) .*?(?:committed +(\d+)|$)", line):
            expect(self.began or not self.newest,
                   f"it began afresh, though version {self.newest} was committed")
            if not self.began:
                self.restored_version = 0
            self.began = True
            self.last_step = time.monotonic()
            if found[2] and int(found[2]) > self.newest:
                self.newest = int(found[2])
                self.committed_count += 1

    # --- its processes ---

    def trainers(self, node=None):
        """Process ids of ranks."""
        found = []
        for pid in processes_of(self.folder):
            try:
                if os.readlink(f"/proc/{pid}/exe") != self.args.trainer:
                    continue
                environment = pathlib.Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if node is None or f"FTMEM_NODE={node}".encode() in environment:
                found.append(pid)
        return sorted(found)

    def keepers(self, node):
        """Process ids of a node's ftmem-smp."""
        return sorted(pid for pid, line in processes_of(self.dir).items()
                      if f" --node {node} " in line + " ")

    def not_whole(self):
        """Nodes of which an ftmem-smp does not hold a version, for each of the ranks, that is at
        least as new as the restored one."""
        bad, sites = set(self.nodes), self.status()
        for node in self.nodes:
            held = {arena["rank"] for arena in sites.get(node, {"arenas": []})["arenas"] if any(
                slot["state"] == "committed" and slot["version"] >= self.restored_version
                for slot in arena["slots"])}
            if len(held) >= self.ranks:
                bad.discard(node)
        return bad
