# SPDX-License-Identifier: BSD-3-Clause
"""What ftmem_gpu_bench.py needs of a device beside PyTorch: host memory that is pinned fast,
copies of many tensors queued by one call, and the ideal that the library is compared with.
On the CPU all of it works too, so that the bench can be tried where there is no GPU.
"""
import concurrent.futures
import ctypes
import mmap
import queue
import re
import threading
import time

import torch

PIECE = 1 << 30        # bytes of host memory that a thread touches at a time
TOUCHERS = 8           # threads that do so
SOURCE_ORDER_STREAM = 1
TO_HOST, TO_DEVICE = 2, 1
BATCH_SINCE, BATCH_WITHOUT_FAILED_INDEX = 12080, 13000  # versions of the CUDA runtime


class Failure(Exception):
    """What does not work, and why."""


class Location(ctypes.Structure):
    _fields_ = [("type", ctypes.c_int), ("id", ctypes.c_int)]


class Attributes(ctypes.Structure):
    """struct cudaMemcpyAttributes"""
    _fields_ = [("order", ctypes.c_int), ("source", Location), ("destination", Location),
                ("flags", ctypes.c_uint)]


class Runtime:
    """The CUDA runtime that PyTorch brought, for what PyTorch does not show."""

    def __init__(self):
        torch.cuda.current_stream()
        with open("/proc/self/maps", encoding="utf-8") as maps:
            paths = re.findall(r"(/\S*libcudart[^/\s]*\.so\S*)", maps.read())
        if not paths:
            raise Failure("this process has no libcudart.so; PyTorch has it linked in otherwise")
        self.c = ctypes.CDLL(paths[0])
        version = ctypes.c_int()
        self.check("cudaRuntimeGetVersion", self.c.cudaRuntimeGetVersion(ctypes.byref(version)))
        self.version = version.value
        self.batches = self.version >= BATCH_SINCE and hasattr(self.c, "cudaMemcpyBatchAsync")

    def check(self, call, result):
        if result != 0:
            self.c.cudaGetErrorString.restype = ctypes.c_char_p
            raise Failure(f"{call}: {self.c.cudaGetErrorString(result).decode()}")


class CudaBatch:
    """Copies between pairs of (device address, host address, bytes), queued by one call
    that lets go of Python's lock."""

    def __init__(self, runtime, pairs, to_host):
        self.runtime, self.count = runtime, len(pairs)
        device = (ctypes.c_void_p * len(pairs))(*(pair[0] for pair in pairs))
        host = (ctypes.c_void_p * len(pairs))(*(pair[1] for pair in pairs))
        self.sizes = (ctypes.c_size_t * len(pairs))(*(pair[2] for pair in pairs))
        self.to, self.source = (host, device) if to_host else (device, host)
        self.kind = TO_HOST if to_host else TO_DEVICE

    def queue(self, stream):
        if self.runtime.batches:
            self.queue_batch(stream)
        else:
            self.queue_each(stream)

    def queue_batch(self, stream):
        attributes, first = Attributes(order=SOURCE_ORDER_STREAM), ctypes.c_size_t(0)
        failed = ctypes.c_size_t(0)
        arguments = [self.to, self.source, self.sizes, ctypes.c_size_t(self.count),
                     ctypes.byref(attributes), ctypes.byref(first), ctypes.c_size_t(1)]
        if self.runtime.version < BATCH_WITHOUT_FAILED_INDEX:
            arguments.append(ctypes.byref(failed))
        arguments.append(ctypes.c_void_p(stream.cuda_stream))
        self.runtime.check("cudaMemcpyBatchAsync",
                           self.runtime.c.cudaMemcpyBatchAsync(*arguments))

    def queue_each(self, stream):
        for to, source, size in zip(self.to, self.source, self.sizes):
            self.runtime.check("cudaMemcpyAsync", self.runtime.c.cudaMemcpyAsync(
                ctypes.c_void_p(to), ctypes.c_void_p(source), ctypes.c_size_t(size),
                ctypes.c_int(self.kind), ctypes.c_void_p(stream.cuda_stream)))


class CpuBatch:
    def __init__(self, pairs, to_host):
        self.pairs, self.to_host = pairs, to_host

    def queue(self, _stream):
        for device, host, size in self.pairs:
            to, source = (host, device) if self.to_host else (device, host)
            ctypes.memmove(to, source, size)


class CpuEvent:
    """torch.cuda.Event where all is done when it was called."""

    def __init__(self):
        self.time = None

    def record(self, _stream=None):
        self.time = time.perf_counter()

    def synchronize(self):
        pass

    def elapsed_time(self, end):
        return 1e3 * (end.time - self.time)


class Cuda:
    kind = "cuda"

    def __init__(self, index, own_stream=False):
        if not torch.cuda.is_available():
            raise Failure("PyTorch sees no GPU: --device cpu tries the bench without one")
        self.torch = torch.device("cuda", index)
        torch.cuda.set_device(self.torch)
        self.main = torch.cuda.Stream() if own_stream else torch.cuda.default_stream()
        self.enter()
        self.runtime = Runtime()

    def enter(self):
        """First on each thread that queues work."""
        torch.cuda.set_device(self.torch)
        torch.cuda.set_stream(self.main)

    def stream(self):
        """The training's stream, as the library wants it: NULL is the default stream."""
        return torch.cuda.current_stream().cuda_stream or None

    def side_stream(self):
        return torch.cuda.Stream(priority=0)

    def event(self, sleeping=False):
        return torch.cuda.Event(enable_timing=True, blocking=sleeping)

    def synchronize(self):
        torch.cuda.synchronize()

    def batch(self, pairs, to_host):
        return CudaBatch(self.runtime, pairs, to_host)

    def wait(self, stream, event):
        stream = torch.cuda.current_stream() if stream is None else stream
        stream.wait_event(event)

    def pin(self, addr, size):
        error = torch.cuda.cudart().cudaHostRegister(addr, size, 0)
        if int(error) != 0:
            raise Failure(f"cudaHostRegister: error {int(error)}")

    def unpin(self, addr):
        torch.cuda.cudart().cudaHostUnregister(addr)

    def free(self):
        torch.cuda.empty_cache()

    def memory(self):
        free, total = torch.cuda.mem_get_info()
        return {"free_bytes": free, "total_bytes": total,
                "most_allocated_bytes": torch.cuda.max_memory_allocated()}


class Cpu:
    kind = "cpu"
    torch = torch.device("cpu")

    def enter(self):
        pass

    def stream(self):
        return None

    def side_stream(self):
        return None

    def event(self, sleeping=False):  # pylint: disable=unused-argument
        return CpuEvent()

    def synchronize(self):
        pass

    def batch(self, pairs, to_host):
        return CpuBatch(pairs, to_host)

    def wait(self, stream, event):
        pass

    def pin(self, addr, size):
        pass

    def unpin(self, addr):
        pass

    def free(self):
        pass

    def memory(self):
        return {}


class HostBuffer:
    """Pinned host memory of exactly so many bytes. PyTorch's own allocator takes the next
    power of two, and touches it with one thread."""

    def __init__(self, device, size):
        self.device, self.size = device, size
        self.map = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            self.map.madvise(mmap.MADV_HUGEPAGE)
        self.bytes = torch.frombuffer(self.map, dtype=torch.uint8)
        self.addr = self.bytes.data_ptr()
        with concurrent.futures.ThreadPoolExecutor(TOUCHERS) as pool:
            list(pool.map(self.touch, range(0, size, PIECE)))
        # In one piece: a copy must not go across the border of two.
        self.device.pin(self.addr, size)

    def touch(self, offset):
        ctypes.memset(self.addr + offset, 0, min(PIECE, self.size - offset))

    def free(self):
        """Nothing is copied any more."""
        self.device.unpin(self.addr)
        self.bytes, self.map = None, None


class Ideal:
    """A copy of the state as fast as it can be: one call queues all copies to pinned memory
    on a side stream, on a thread, and one event holds up the optimizer. Nothing is checked,
    kept apart or protected. Used like the library: snapshot(), fence()."""

    def __init__(self, device, pairs):
        self.device = device
        self.batch, self.side = device.batch(pairs, to_host=True), device.side_stream()
        self.begin, self.end = device.event(), device.event()
        self.issued, self.jobs = threading.Event(), queue.SimpleQueue()
        self.issued.set()
        self.failure = None
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        self.device.enter()
        while self.jobs.get():
            try:
                self.device.wait(self.side, self.begin)
                self.batch.queue(self.side)
                self.end.record(self.side)
            except Exception as error:  # told by fence()
                self.failure = error
            self.issued.set()

    def snapshot(self):
        self.issued.clear()
        self.begin.record()
        self.jobs.put(True)

    def fence(self):
        if not self.issued.wait(60):
            raise Failure("the ideal's copies were not queued within a minute")
        if self.failure:
            raise self.failure
        self.device.wait(None, self.end)

    def drain(self):
        self.issued.wait(60)
        self.device.synchronize()

    def close(self):
        self.drain()
        self.jobs.put(False)
        self.thread.join(60)
