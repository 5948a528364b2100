# SPDX-License-Identifier: BSD-3-Clause
"""Trainings of examples/pytorch one after another in one process, which takes seconds to start.

usage: train_phases.py train|train_fsdp OPTION... [+ train|train_fsdp OPTION...]...

With CRASH_NODE in the environment the rank that kills itself takes its node along: its ftmem-smp.
"""

import argparse
import importlib
import itertools
import os
import signal
import sys
from pathlib import Path

import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "examples" / "pytorch"))

common = importlib.import_module("common")
loop = importlib.import_module("loop")


def kill_smp(job: str) -> None:
    """SIGKILL for the process that keeps this node's memory of a job."""
    needed = {os.environ["FTMEM_NODE"], job}
    for proc in Path("/proc").glob("[0-9]*"):
        try:
            words = (proc / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if "ftmem-smp" in words[0] and needed <= set(words) and any(
                os.environ["FTMEM_DIR"] in word for word in words):
            os.kill(int(proc.name), signal.SIGKILL)
            print(f"ftmem-smp of {os.environ['FTMEM_NODE']} killed", flush=True)


def crash_node(args: argparse.Namespace, step: int) -> None:
    if step == args.crash_at and dist.get_rank() == args.crash_rank:
        kill_smp(args.job)
        os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    if os.environ.get("CRASH_NODE"):
        common.crash = crash_node
    device = common.start()
    for plus, words in itertools.groupby(sys.argv[1:], lambda word: word == "+"):
        if not plus:
            script, *options = words
            args = common.arguments(script, options)
            model = importlib.import_module(script).build(args, device)
            loop.train(model, args, device)
    common.end()


if __name__ == "__main__":
    main()
