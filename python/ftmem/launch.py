# SPDX-License-Identifier: BSD-3-Clause
"""From an MPI launcher to torch.distributed: ranks, and where they meet.

A script that is started with `mpirun -n 4 python train.py` or `srun --mpi=pmix python train.py`
calls init_process_group() of this module instead of torch.distributed's.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import sys
import threading
from dataclasses import dataclass
from typing import Any

from . import _abi, _library
from .errors import error

# Rank and number of ranks, as MPI launchers give them.
MPI_VARIABLES = (
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("SLURM_PROCID", "SLURM_NTASKS"),
    ("PMI_RANK", "PMI_SIZE"),
)

_world: World | None = None
_lock = threading.Lock()


@dataclass(frozen=True)
class World:
    """This process among those that the launcher started.

    Attributes:
        rank, ranks: of the whole job.
        local_rank, local_ranks: among those of this machine.
        host, port: where rank 0 can be reached; the port was free a moment ago.
    """

    rank: int
    ranks: int
    local_rank: int
    local_ranks: int
    host: str
    port: int


def world() -> World:
    """Where this process is. Asked once, then remembered.

    The first call is collective over all processes that the launcher started, and initialises
    MPI if nobody did. A process that no launcher started is a world of one. FtmemError under
    torchrun, without libftmem, or if not all processes come within FTMEM_TIMEOUT_MS.
    Any thread.
    """
    global _world
    library = _library.load()
    # Before the lock: in a forked process there may be nobody to unlock it.
    library.enter("world")
    with _lock:
        if _world is None:
            check_launcher("world")
            found = _abi.WorldStruct()
            library.check("ftmem_world", library.c.ftmem_world(ctypes.byref(found)))
            _world = World(
                rank=found.rank,
                ranks=found.ranks,
                local_rank=found.local_rank,
                local_ranks=found.local_ranks,
                host=found.host.decode(),
                port=found.port,
            )
        return _world


def set_environ() -> World:
    """Sets the variables that torch.distributed and its launchers use: RANK, LOCAL_RANK,
    WORLD_SIZE, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT. Those that are set stay as they are.
    Collective and errors as of world(), whose result it returns."""
    here = world()
    for name, value in (
        ("RANK", here.rank),
        ("LOCAL_RANK", here.local_rank),
        ("WORLD_SIZE", here.ranks),
        ("LOCAL_WORLD_SIZE", here.local_ranks),
        ("MASTER_ADDR", here.host),
        ("MASTER_PORT", here.port),
    ):
        os.environ.setdefault(name, str(value))
    return here


def init_process_group(backend: str | None = None, **options: Any) -> World:
    """set_environ(), then torch.distributed.init_process_group(backend, **options).

    Collective. Messages of PyTorch and of libftmem go separate ways: through gloo or NCCL here,
    through MPI there."""
    here = set_environ()
    import torch.distributed

    torch.distributed.init_process_group(backend, **options)
    return here


def check_launcher(call: str) -> None:
    """Refuses torchrun, which starts no MPI job, with the command to use instead. It may run
    below an MPI launcher: then that one's ranks have to be those of torchrun, too. Those of an
    allocation of Slurm in which torchrun starts several processes are not."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return
    own = (os.environ.get("RANK"), os.environ.get("WORLD_SIZE"))
    for rank, size in MPI_VARIABLES:
        if None not in own and own == (os.environ.get(rank), os.environ.get(size)):
            return
    ranks = os.environ.get("WORLD_SIZE", "N")
    script = shlex.join(arg for arg in sys.argv if arg) or "train.py"
    raise error(
        call,
        _abi.EINVAL,
        "this process was started by torchrun, which starts no MPI job, and libftmem's ranks "
        f"meet through MPI. Use instead: mpirun -n {ranks} python {script}",
    )
