# SPDX-License-Identifier: BSD-3-Clause
"""include/ftmem.h for Python: a thin layer over ctypes.

The structs repeat those of the header member by member; tests/python/test_ctypes.py compares
sizes and offsets with what a C compiler makes of the header. Results below 0 become the
exception Error, those from 0 on are returned.
"""
import ctypes
import os
import pathlib
from ctypes import c_char_p, c_double, c_int, c_size_t, c_uint32, c_uint64, c_void_p

MAX_DIMS = 8
NO_RANK = 0xffffffff
OK, BUSY, FRESH, DROPPED = 0, 1, 2, 3
PRIVATE_RANK, PRIVATE_DROP = 1, 2
BUSY_SKIP, BUSY_WAIT = 1, 2
LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG = 1, 2, 3, 4

LogFunction = ctypes.CFUNCTYPE(None, c_void_p, c_int, c_char_p)
PrivateFromFunction = ctypes.CFUNCTYPE(c_uint32, c_void_p, c_char_p, c_uint32, c_uint32, c_uint32)


class Sized(ctypes.Structure):
    """A struct led by its size."""

    def __init__(self, **members):
        super().__init__(size=ctypes.sizeof(self), **members)


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
    ]

    def values(self):
        return {name: getattr(self, name) for name, _ in self._fields_ if name != "size"}


SIGNATURES = {
    "ftmem_open": (c_int, ctypes.POINTER(Opts), ctypes.POINTER(c_void_p)),
    "ftmem_close": (None, c_void_p),
    "ftmem_region_add": (c_int, c_void_p, ctypes.POINTER(Region)),
    "ftmem_region_remove": (c_int, c_void_p, c_char_p),
    "ftmem_seal": (c_int, c_void_p),
    "ftmem_restore": (c_int, c_void_p, ctypes.POINTER(c_uint64)),
    "ftmem_snapshot": (c_int, c_void_p, c_uint64, c_void_p),
    "ftmem_fence": (c_int, c_void_p, c_void_p),
    "ftmem_wait": (c_int, c_void_p, c_uint64, c_uint32),
    "ftmem_forget": (c_int, c_void_p),
    "ftmem_stats": (c_int, c_void_p, ctypes.POINTER(Stats)),
    "ftmem_strerror": (c_char_p, c_int),
    "ftmem_errmsg": (c_char_p,),
}


class Error(Exception):
    """A call that failed: its name, the result, and what ftmem_errmsg() said."""

    def __init__(self, call, result, text):
        super().__init__(f"{call}: {text} (result {result})")
        self.call, self.result = call, result


def find_library(given=None):
    """The path of libftmem.so: as given, as FTMEM_LIBRARY says, the one built last in a
    build folder of this source tree, or the system's."""
    path = given or os.environ.get("FTMEM_LIBRARY")
    if path:
        return path
    root = pathlib.Path(__file__).resolve().parent.parent
    built = [*root.glob("build/bin/libftmem.so"), *root.glob("build/*/bin/libftmem.so")]
    return str(max(built, key=lambda p: p.stat().st_mtime)) if built else "libftmem.so.0"


class Library:
    def __init__(self, path=None):
        self.path = find_library(path)
        # Global: Open MPI's modules find the symbols of its libraries, which come with it.
        self.c = ctypes.CDLL(self.path, mode=ctypes.RTLD_GLOBAL)
        for name, (result, *arguments) in SIGNATURES.items():
            function = getattr(self.c, name)
            function.restype, function.argtypes = result, arguments

    def check(self, call, result):
        if result < 0:
            detail = self.c.ftmem_errmsg() or self.c.ftmem_strerror(result)
            raise Error(call, result, detail.decode(errors="replace"))
        return result


class Session:
    """One rank's part in a job. Strings and options live as long as it does."""

    def __init__(self, library, **opts):
        encoded = {key: value.encode() if isinstance(value, str) else value
                   for key, value in opts.items() if value is not None}
        self.lib, self.c = library, library.c
        self.opts = Opts(**encoded)
        self.handle = c_void_p()
        library.check("ftmem_open",
                      self.c.ftmem_open(ctypes.byref(self.opts), ctypes.byref(self.handle)))

    def add(self, name, addr, size, elem_bytes=0, shape=(), start=(), extent=()):
        """A private region, or with a shape the box of a tensor."""
        region = Region(name=name.encode(), addr=addr, bytes=size, ndim=len(shape),
                        elem_bytes=elem_bytes if shape else 0)
        for i, values in enumerate(zip(shape, start, extent)):
            region.shape[i], region.start[i], region.extent[i] = values
        self.lib.check("ftmem_region_add",
                           self.c.ftmem_region_add(self.handle, ctypes.byref(region)))

    def seal(self):
        self.lib.check("ftmem_seal", self.c.ftmem_seal(self.handle))

    def restore(self):
        """The version that was restored, or None: nothing is stored."""
        version = c_uint64()
        result = self.lib.check(
            "ftmem_restore", self.c.ftmem_restore(self.handle, ctypes.byref(version)))
        return None if result == FRESH else version.value

    def snapshot(self, version, stream=None):
        """OK, BUSY or DROPPED."""
        result = self.c.ftmem_snapshot(self.handle, version, stream)
        return result if result >= 0 else self.lib.check("ftmem_snapshot", result)

    def fence(self, stream=None):
        result = self.c.ftmem_fence(self.handle, stream)
        return result if result >= 0 else self.lib.check("ftmem_fence", result)

    def wait(self, version, timeout_ms=60000):
        """OK: committed. DROPPED."""
        return self.lib.check("ftmem_wait",
                                  self.c.ftmem_wait(self.handle, version, timeout_ms))

    def forget(self):
        self.lib.check("ftmem_forget", self.c.ftmem_forget(self.handle))

    def stats(self):
        out = Stats()
        self.lib.check("ftmem_stats", self.c.ftmem_stats(self.handle, ctypes.byref(out)))
        return out.values()

    def message(self):
        return (self.c.ftmem_errmsg() or b"").decode(errors="replace")

    def close(self):
        if self.handle:
            self.c.ftmem_close(self.handle)
            self.handle = c_void_p()
