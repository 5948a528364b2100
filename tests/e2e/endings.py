# SPDX-License-Identifier: BSD-3-Clause
"""How processes ended: what tests kill is meant to die, but nothing is meant to crash."""
import ctypes
import os
import pathlib
import re
import signal
import threading

CRASHES = (signal.SIGILL, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGSEGV)
# Ranks that meet one of them say so, also when mpirun tells only of another that ended first.
ENVIRONMENT = {"OMPI_MCA_opal_signal": ",".join(str(int(number)) for number in CRASHES)}
NUMBERS = "|".join(str(int(number)) for number in CRASHES)
SAID = re.compile(rf"^.*(?:exited on signal (?:{NUMBERS})\b|"
                  rf"(?P<who>\[[^]]*\]) Signal: [\w ]+ \((?:{NUMBERS})\)).*$", re.MULTILINE)
LAUNCHER = r"/(?:mpirun|mpiexec|orterun|orted)\("
LOOK_S = 0.05
PR_SET_CHILD_SUBREAPER = 36


def crash(text):
    """The line in which mpirun or a rank says that a rank crashed, or nothing. Open MPI's own
    programs may: now and then mpirun does when a signal comes while it ends a job."""
    for found in SAID.finditer(text):
        if not (found["who"] and re.search(
                rf"^{re.escape(found['who'])} .*{LAUNCHER}", text, re.MULTILINE)):
            return found[0]
    return ""


def adopt(wanted):
    """Whether orphans become children of this process."""
    if ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, int(wanted), 0, 0, 0) != 0:
        raise OSError("no orphans can be adopted")


class Orphans:
    """Adopts what these programs leave behind, and learns how it ends: nobody else would tell
    of an ftmem-smp that crashes, since another one takes its place."""

    def __init__(self, *programs):
        # The kernel keeps so much of a name.
        self.names = {os.path.basename(program)[:15] for program in programs}
        self.crashed = {}             # process id: what it was, and its signal
        self.lock = threading.Lock()
        adopt(True)
        threading.Thread(target=self.watch, daemon=True).start()

    def watch(self):
        while not threading.Event().wait(LOOK_S):
            self.look()

    def look(self):
        """Others wait for the children that they started themselves: these are of other names."""
        with self.lock:
            for path in pathlib.Path("/proc/self/task").glob("*/children"):
                for pid in map(int, self.read(path).split()):
                    about = self.read(f"/proc/{pid}/stat")
                    name, state = about[about.find("(") + 1:].rpartition(")")[::2]
                    if name in self.names and state[1:2] == "Z":
                        self.note(name, *os.waitpid(pid, 0))

    @staticmethod
    def read(path):
        try:
            return pathlib.Path(path).read_text()
        except OSError:
            return ""

    def note(self, name, pid, status):
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) in CRASHES:
            self.crashed[pid] = f"{name} {pid} ended by signal {os.WTERMSIG(status)}"

    def of(self, folder):
        """The ftmem-smp that crashed and left a log in this folder; they are told once."""
        self.look()
        logs = "".join(self.read(path) for path in pathlib.Path(folder).glob("*.log"))
        return [self.crashed.pop(pid) for pid in list(self.crashed)
                if re.search(rf"\bprocess {pid}\b", logs)]

    def rest(self):
        """What else crashed since this was asked last."""
        self.look()
        return [self.crashed.pop(pid) for pid in list(self.crashed)]
