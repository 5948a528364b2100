# SPDX-License-Identifier: BSD-3-Clause
"""include/ftmem.h for ctypes: its structs member by member, its constants, its calls.

tests/python/test_abi.py compares all of it with what a C compiler makes of the header.
"""

from __future__ import annotations

import ctypes
from ctypes import (
    POINTER,
    c_char,
    c_char_p,
    c_double,
    c_int,
    c_size_t,
    c_uint32,
    c_uint64,
    c_void_p,
)
from typing import Any

OK, BUSY, FRESH, DROPPED = 0, 1, 2, 3
EINVAL, ENOMEM, ESYS, ENET, EDEVICE, ESMP = -1, -2, -3, -4, -5, -6
ETIMEOUT, ELAYOUT, ECORRUPT, ELOST, EATTACHED = -7, -8, -9, -10, -11

RESULTS = {
    "OK": OK,
    "BUSY": BUSY,
    "FRESH": FRESH,
    "DROPPED": DROPPED,
    "EINVAL": EINVAL,
    "ENOMEM": ENOMEM,
    "ESYS": ESYS,
    "ENET": ENET,
    "EDEVICE": EDEVICE,
    "ESMP": ESMP,
    "ETIMEOUT": ETIMEOUT,
    "ELAYOUT": ELAYOUT,
    "ECORRUPT": ECORRUPT,
    "ELOST": ELOST,
    "EATTACHED": EATTACHED,
}

PRIVATE_RANK, PRIVATE_DROP = 1, 2
BUSY_SKIP, BUSY_WAIT = 1, 2
LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG = 1, 2, 3, 4
NO_RANK = 0xFFFFFFFF
SCRUB_OFF = 0xFFFFFFFF
NAME_MAX = 63
REGION_NAME_MAX = 255
VERSION_MAX = 1 << 56
MAX_DIMS = 8

LogFunction = ctypes.CFUNCTYPE(None, c_void_p, c_int, c_char_p)
PrivateFromFunction = ctypes.CFUNCTYPE(c_uint32, c_void_p, c_char_p, c_uint32, c_uint32, c_uint32)


class Sized(ctypes.Structure):
    """A struct that is led by its size; the other members are 0 where they are not given."""

    def __init__(self, **members: Any) -> None:
        super().__init__(size=ctypes.sizeof(self), **members)

    def values(self) -> dict[str, Any]:
        """All members but the size, by name."""
        return {field[0]: getattr(self, field[0]) for field in self._fields_ if field[0] != "size"}


class Opts(Sized):
    _fields_ = [
        ("size", c_size_t),
        ("job", c_char_p),
        ("node", c_char_p),
        ("rack", c_char_p),
        ("dir", c_char_p),
        ("smp_path", c_char_p),
        ("comm", c_void_p),
        ("group_nodes", c_uint32),
        ("parity", c_uint32),
        ("timeout_ms", c_uint32),
        ("expire_s", c_uint32),
        ("block_bytes", c_uint32),
        ("window", c_uint32),
        ("copy_threads", c_uint32),
        ("log_level", c_uint32),
        ("max_bandwidth", c_uint64),
        ("log", LogFunction),
        ("log_arg", c_void_p),
        ("private_rule", c_uint32),
        ("compare_every", c_uint32),
        ("private_from", PrivateFromFunction),
        ("private_arg", c_void_p),
        ("progress_cpus", c_char_p),
        ("device_staging", c_uint64),
        ("when_busy", c_uint32),
        ("scrub_mib_s", c_uint32),
    ]


class Region(Sized):
    _fields_ = [
        ("size", c_size_t),
        ("name", c_char_p),
        ("addr", c_void_p),
        ("bytes", c_uint64),
        ("elem_bytes", c_uint32),
        ("ndim", c_uint32),
        ("shape", c_uint64 * MAX_DIMS),
        ("start", c_uint64 * MAX_DIMS),
        ("extent", c_uint64 * MAX_DIMS),
    ]


class Stats(Sized):
    _fields_ = [
        ("size", c_size_t),
        ("committed", c_uint64),
        ("dropped", c_uint64),
        ("skipped", c_uint64),
        ("newest", c_uint64),
        ("stored", c_uint32),
        ("nodes", c_uint32),
        ("groups", c_uint32),
        ("group_nodes", c_uint32),
        ("parity", c_uint32),
        ("block_bytes", c_uint32),
        ("window", c_uint32),
        ("copy_threads", c_uint32),
        ("lost_members", c_uint32),
        ("data_bytes", c_uint64),
        ("held_bytes", c_uint64),
        ("staging_bytes", c_uint64),
        ("sent_bytes", c_uint64),
        ("repaired_blocks", c_uint64),
        ("call_s", c_double),
        ("copy_s", c_double),
        ("protect_s", c_double),
        ("rebuild_s", c_double),
        ("restore_s", c_double),
        ("fence_s", c_double),
        ("region_bytes", c_uint64),
        ("moved_bytes", c_uint64),
        ("move_s", c_double),
        ("compared", c_uint64),
        ("differing", c_uint64),
        ("waited", c_uint64),
        ("wait_s", c_double),
        ("device_bytes", c_uint64),
        ("staged_bytes", c_uint64),
        ("stalls", c_uint64),
        ("stall_s", c_double),
        ("last_stall_s", c_double),
        ("device_copy_s", c_double),
        ("device_copy_rate", c_double),
        ("damaged_blocks", c_uint64),
    ]


class WorldStruct(Sized):
    _fields_ = [
        ("size", c_size_t),
        ("rank", c_uint32),
        ("ranks", c_uint32),
        ("local_rank", c_uint32),
        ("local_ranks", c_uint32),
        ("port", c_uint32),
        ("host", c_char * 256),
    ]


STRUCTS = {
    "ftmem_opts": Opts,
    "ftmem_region": Region,
    "ftmem_stats": Stats,
    "ftmem_world": WorldStruct,
}

# Result and arguments of each call; a handle is a c_void_p.
SIGNATURES: dict[str, tuple[Any, ...]] = {
    "ftmem_world": (c_int, POINTER(WorldStruct)),
    "ftmem_open": (c_int, POINTER(Opts), POINTER(c_void_p)),
    "ftmem_close": (None, c_void_p),
    "ftmem_region_add": (c_int, c_void_p, POINTER(Region)),
    "ftmem_region_remove": (c_int, c_void_p, c_char_p),
    "ftmem_seal": (c_int, c_void_p),
    "ftmem_stored": (c_int, c_void_p, c_char_p, POINTER(c_uint64), POINTER(c_uint64)),
    "ftmem_restore": (c_int, c_void_p, POINTER(c_uint64)),
    "ftmem_snapshot": (c_int, c_void_p, c_uint64, c_void_p),
    "ftmem_skip": (c_int, c_void_p, c_uint64),
    "ftmem_fence": (c_int, c_void_p, c_void_p),
    "ftmem_wait": (c_int, c_void_p, c_uint64, c_uint32),
    "ftmem_repair": (c_int, c_void_p, POINTER(c_uint64)),
    "ftmem_forget": (c_int, c_void_p),
    "ftmem_stats": (c_int, c_void_p, POINTER(Stats)),
    "ftmem_strerror": (c_char_p, c_int),
    "ftmem_errmsg": (c_char_p,),
}
