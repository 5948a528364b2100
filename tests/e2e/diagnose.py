# SPDX-License-Identifier: BSD-3-Clause
"""What processes that should have gone on are doing: for the reader of a failed test."""
import os
import pathlib
import shutil
import subprocess
import time

BACKTRACES_S = 90     # for those of all processes
FIELDS = ("State", "PPid", "SigPnd", "ShdPnd", "SigBlk", "Threads")


def read(path):
    try:
        return pathlib.Path(path).read_text(errors="replace").strip()
    except OSError as error:
        return f"({error.strerror})"


def threads(pid):
    """Where each thread waits in the kernel, as far as the kernel tells."""
    try:
        names = sorted(os.listdir(f"/proc/{pid}/task"), key=int)
    except OSError:
        return
    for thread in names:
        at = f"/proc/{pid}/task/{thread}"
        stack = " < ".join(line.split()[-1] for line in read(f"{at}/stack").splitlines()
                           if line.startswith("["))
        yield (f"  thread {thread} {read(f'{at}/comm')}: wchan {read(f'{at}/wchan')}; syscall "
               f"{read(f'{at}/syscall').split()[0]}; {stack}")


def backtraces(pid, seconds):
    if not shutil.which("gdb"):
        return "  no gdb: no backtraces"
    if seconds < 1:
        return "  no time for backtraces"
    try:
        done = subprocess.run(
            ["gdb", "-p", str(pid), "-batch", "-nx", "-ex", "thread apply all backtrace 16"],
            text=True, errors="replace", capture_output=True, timeout=min(seconds, 30), check=False,
            stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        return "  gdb did not answer"
    kept = [line for line in done.stdout.splitlines() if line.startswith(("#", "Thread"))]
    return "\n".join("  " + line for line in kept)


def describe(processes):
    """A text about processes: {pid: command line}."""
    told, end = [], time.monotonic() + BACKTRACES_S
    for pid, line in sorted(processes.items()):
        status = dict(line.split(":", 1) for line in read(f"/proc/{pid}/status").splitlines()
                      if ":" in line)
        told.append(f"process {pid}: {line}")
        told.append("  " + "; ".join(f"{name} {' '.join(status.get(name, '?').split())}"
                                     for name in FIELDS))
        told += threads(pid)
        told.append(backtraces(pid, end - time.monotonic()))
    return "\n".join(told)
