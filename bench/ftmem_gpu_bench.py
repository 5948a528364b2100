#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""What snapshots of a training on a GPU cost, beside what the link could do at most, an ideal
copy of the same bytes, and PyTorch's own ways to save them. bench/README.md explains it.

    python3 bench/ftmem_gpu_bench.py --model medium --json gpu-medium.json
    mpirun -n 4 python3 bench/ftmem_gpu_bench.py --batch 4 --json gpu-medium-4.json

Ranks share the GPUs of this machine evenly. With parity each rank counts as a node.
Exit status: 0 all measured and every byte right; 1 something failed; 2 bad arguments.
"""
import argparse
import gc
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import traceback

import torch
import torch.distributed as dist

import gpu_device
import gpu_model
import gpu_report
import gpu_state
import gpu_train
from gpu_binding import Result, ftmem, load
from gpu_series import series, timed

SECTIONS = ("raw", "copy", "calls", "train", "dcp")
BIG = 4 << 30           # bytes of the device array that the one big raw copy goes to and from
ISSUED_S = 0.01         # after it all copies are queued
EXPIRE_S = 600          # memory of a bench that was killed is freed then
POSITION_BYTES = 4096   # of host memory, in each snapshot: step, random numbers


def busy(seconds):
    """As a trainer is between two calls: the processor does not sleep."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


class Bench:
    def __init__(self, args, world, device):
        self.args, self.world, self.device = args, world, device
        self.library = load(args.library)
        self.shape = gpu_model.SHAPES[args.model]
        self.position = torch.zeros(POSITION_BYTES, dtype=torch.uint8)
        self.session, self.version, self.plain, self.held = None, 0, None, False
        seeds = world.gather(int.from_bytes(os.urandom(4), "little"))
        self.seed = seeds[0] + (0 if args.hold == "replicas" else 7919 * world.rank)
        self.job = f"gpubench-{world.name}"
        self.dir = os.environ.get("FTMEM_DIR")
        self.own_dir = None
        if not self.dir:
            self.own_dir = self.dir = f"{tempfile.gettempdir()}/ftmem-gpu-bench-{world.name}"
            pathlib.Path(self.dir).mkdir(mode=0o700, exist_ok=True)

    # --- what sections need ---

    def pieces(self):
        """A state with nothing else on the device."""
        if self.plain is None:
            self.plain = gpu_state.plain_pieces(self.shape, self.world, self.args.hold,
                                                self.device.torch)
            gpu_state.fill(self.plain, self.seed, self.device.torch)
        return self.plain

    def parts(self, pieces):
        return gpu_state.copied_parts(pieces, self.world, self.args.hold)

    def free_plain(self):
        self.plain = None
        gc.collect()
        self.device.free()

    def node(self):
        if "FTMEM_NODE" in os.environ or self.world.size == 1 or self.args.parity == 0:
            return None
        return f"node{self.world.rank}"

    def open(self, pieces, staging, busy):
        """A session with these pieces sealed. Seconds of ftmem_open() and ftmem_seal()."""
        opts = {"dir": self.dir, "node": self.node(), "expire_s": EXPIRE_S,
                "log_level": None if "FTMEM_LOG_LEVEL" in os.environ else "warn",
                "device_staging": staging, "when_busy": busy}
        if self.world.size > 1 and self.args.parity > 0:
            opts["parity"] = self.args.parity
        self.held = True
        self.device.synchronize()
        self.world.barrier()
        open_s, self.session = timed(
            lambda: ftmem.Session(self.job, library=self.library.path, **opts))
        for piece in pieces:
            self.session.add(piece.name, piece.tensor.data_ptr(), piece.bytes, **piece.box())
        self.session.add("position", self.position.data_ptr(), POSITION_BYTES)
        seal_s, _ = timed(self.session.seal)
        on_device = self.session.stats()["device_bytes"]
        if self.device.kind == "cuda" and on_device == 0:
            raise gpu_device.Failure(f"{self.library.path} was built without CUDA: it would "
                                     "take device memory for the host's")
        return {"open_s": open_s, "seal_s": seal_s}

    def close(self):
        if self.session is not None:
            self.session.close()
            self.session = None

    def drop(self):
        """The job's memory is freed, on all nodes of this machine."""
        self.close()
        self.world.barrier()
        if self.held and self.world.local_rank == 0:
            self.drop_now()
        self.held = False
        self.world.barrier()

    def drop_now(self, *options):
        command = self.library.program("ftmem")
        if command:
            subprocess.run([command, "drop", *options, "--dir", self.dir, self.job], check=False,
                           stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)

    def abandon(self):
        """Ends this rank, and with it the others; memory is freed whoever still uses it."""
        if self.held:
            self.drop_now("--force")
        if self.own_dir:
            shutil.rmtree(self.own_dir, ignore_errors=True)
        os._exit(1)

    def snapshot_now(self):
        """One snapshot from begin to end; the statistics."""
        self.version += 1
        stream = self.device.stream()
        self.session.snapshot(self.version, stream)
        self.session.fence(stream)
        self.device.synchronize()
        if self.session.wait(self.version) is not Result.OK:
            raise gpu_device.Failure(f"version {self.version} was dropped: "
                                     + self.session.message())
        return self.session.stats()

    def check(self, wrong, when):
        if wrong:
            raise gpu_device.Failure(f"WRONG BYTES {when}: {len(wrong)} of the pieces, first "
                                     f"{wrong[0]}")

    # --- raw copies ---

    def raw_rates(self, queue, size):
        """GB/s of what queue() puts into a stream, again and again, by the device's clock."""
        stream, rates, calls = self.device.side_stream(), [], []
        begin, end = self.device.event(), self.device.event()
        for _ in range(1 + self.args.repeat):
            self.device.synchronize()
            self.world.barrier()
            begin.record(stream)
            calls.append(timed(queue, stream)[0])
            end.record(stream)
            self.device.synchronize()
            rates.append(size / 1e6 / max(begin.elapsed_time(end), 1e-6))
        return series(rates[1:]), series(calls[1:], 1e3)

    def raw(self):
        parts = self.parts(self.pieces())
        _, room = gpu_state.host_pairs(parts, 0)
        size = sum(part.numel() * gpu_state.ELEMENT for part in parts)
        buffer_s, buffer = timed(gpu_device.HostBuffer, self.device, room)
        out = {"bytes": size, "tensors": len(parts), "pin_s": buffer_s}
        try:
            pairs, _ = gpu_state.host_pairs(parts, buffer.addr)
            big = torch.empty(min(size, BIG), dtype=torch.uint8, device=self.device.torch)
            whole = [(big.data_ptr(), buffer.addr + at, min(big.numel(), size - at))
                     for at in range(0, size, big.numel())]
            for name, some in (("", whole), ("tensors_", pairs)):
                for way in ("d2h", "h2d"):
                    batch = self.device.batch(some, to_host=way == "d2h")
                    rates, calls = self.raw_rates(batch.queue, size)
                    out[f"{name}{way}_GBps"], out[f"{name}{way}_call_ms"] = rates, calls
        finally:
            self.device.synchronize()
            buffer.free()
        return out

    # --- the library's copies ---

    def copy(self):
        pieces = self.pieces()
        out = {"bytes": sum(piece.bytes for piece in pieces), "tensors": len(pieces)}
        out["first"] = self.open(pieces, 0, "wait")
        self.session.forget()
        samples = [self.snapshot_now() for _ in range(1 + self.args.repeat)][1:]
        gpu_state.fill(pieces, self.seed + 1, self.device.torch)
        last = self.snapshot_now()
        out |= {key: last[key] for key in ("data_bytes", "device_bytes", "held_bytes", "nodes",
                                           "parity", "copy_threads", "block_bytes")}
        for key in ("device_copy_s", "copy_s", "protect_s"):
            out[key] = series(sample[key] for sample in samples)
        key = "device_copy_s" if self.device.kind == "cuda" else "copy_s"
        size = last["device_bytes"] or last["data_bytes"]
        out["d2h_GBps"] = series(size / 1e9 / sample[key] for sample in samples)
        out |= self.restores(pieces)
        return out

    def restores(self, pieces):
        """Of the newest version, first in a session of its own; all bytes compared."""
        self.close()
        again = None
        samples = []
        for i in range(1 + self.args.repeat):
            gpu_state.fill(pieces, self.seed + 2 + i, self.device.torch)
            if i == 0:
                again = self.open(pieces, 0, "wait")
            self.device.synchronize()
            self.world.barrier()
            took_s, found = timed(self.session.restore)
            if found != self.version:
                raise gpu_device.Failure(f"restored version {found}, not {self.version}")
            self.check(gpu_state.differing(pieces, self.seed + 1, self.device.torch),
                       "after a restore")
            samples.append({"took_s": took_s, **self.session.stats()})
        size = sum(piece.bytes for piece in pieces)
        return {"again": again, "verified": True, "verified_bytes": size * len(samples),
                "restore_s": series(sample["took_s"] for sample in samples),
                "fill_s": series(sample["move_s"] for sample in samples),
                "h2d_GBps": series(size / 1e9 / max(sample["move_s"], 1e-9)
                                   for sample in samples)}

    # --- host time of the calls ---

    def calls(self):
        if self.session is None:
            self.open(self.pieces(), 0, "wait")
            self.session.forget()
        stream = self.device.stream()
        took = {name: [] for name in ("snapshot_us", "snapshot_in_library_us", "fence_us",
                                      "fence_in_library_us", "fence_at_once_us")}
        for i in range(2 * self.args.calls):
            self.world.barrier()
            self.version += 1
            fence_s = self.session.stats()["fence_s"]
            busy(ISSUED_S)
            took["snapshot_us"].append(timed(self.session.snapshot, self.version, stream)[0])
            if i % 2:
                busy(ISSUED_S)
            fence = timed(self.session.fence, stream)[0]
            self.device.synchronize()
            self.session.wait(self.version)
            stats = self.session.stats()
            took["snapshot_in_library_us"].append(stats["call_s"])
            if i % 2:
                took["fence_us"].append(fence)
                took["fence_in_library_us"].append(stats["fence_s"] - fence_s)
            else:
                took["fence_at_once_us"].append(fence)
        return {key: series(values[2:] if len(values) > 4 else values, 1e6)
                for key, values in took.items()}

    # --- training, and PyTorch's ways to save ---

    def train(self):
        self.close()
        self.free_plain()
        try:
            return gpu_train.Train(self).run()
        finally:
            self.close()
            self.free_plain()

    def dcp(self):
        import gpu_dcp  # where this PyTorch lacks something, the other sections go on
        self.drop()
        state = [(piece.name, piece.tensor) for piece in self.pieces()]
        return {"bytes": sum(tensor.numel() * gpu_state.ELEMENT for _, tensor in state),
                "settings": gpu_dcp.measure(state, self.args.dcp_dir, self.args.dcp_repeat,
                                            self.device, self.world)}


def machine(device):
    out = {"host": platform.node(), "kernel": platform.release(), "cpus": os.cpu_count(),
           "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
           "gpu": None}
    if device.kind == "cuda":
        gpu = torch.cuda.get_device_properties(device.torch)
        out |= {"gpu": gpu.name, "gpus": torch.cuda.device_count(),
                "gpu_memory_bytes": gpu.total_memory}
        try:
            out["nvidia_smi"] = subprocess.run(
                ["nvidia-smi", "--format=csv,noheader", "--query-gpu=name,driver_version,"
                 "pcie.link.gen.current,pcie.link.width.current"], text=True, timeout=20,
                capture_output=True, check=True).stdout.strip().splitlines()
        except (OSError, subprocess.SubprocessError) as error:
            out["nvidia_smi"] = [str(error)]
    return out


def versions(device):
    out = {"python": platform.python_version(), "torch": torch.__version__,
           "cuda": torch.version.cuda}
    if device.kind == "cuda":
        out |= {"cuda_runtime": device.runtime.version, "batches": device.runtime.batches}
    return out


def byte_count(text):
    unit = {"K": 10, "M": 20, "G": 30, "T": 40}.get(text[-1:].upper())
    return int(text[:-1] if unit else text) << (unit or 0)


def words(allowed):
    def parse(text):
        chosen = text.split(",")
        if not set(chosen) <= set(allowed):
            raise argparse.ArgumentTypeError(f"of {', '.join(allowed)}, not {text}")
        return [word for word in allowed if word in chosen]
    return parse


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--library", help="libftmem.so (FTMEM_LIBRARY, else as installed, else built last here)")
    add("--device", choices=("cuda", "cpu"), default="cuda",
        help="cpu: tries the bench, with host memory; the figures say nothing")
    add("--model", choices=list(gpu_model.SHAPES), default="medium")
    add("--batch", type=int, help="sequences of a step, of each rank (medium 16, xl 8)")
    add("--seq", type=int, default=1024, help="tokens of a sequence (1024)")
    add("--every", type=int, default=1, metavar="N", help="steps to a snapshot (1)")
    add("--staging", type=byte_count, default=0, metavar="BYTES",
        help="device_staging while training, such as 8G (0)")
    add("--when-busy", choices=("wait", "skip"), default="wait",
        help="when_busy while training (wait)")
    add("--loop", choices=("free", "synced"), default="free",
        help="free: the host is up to a step ahead; synced: it waits for each (free)")
    add("--stream", choices=("default", "own"), default="default",
        help="own: the training is on a stream of its own (default)")
    add("--hold", choices=("whole", "share", "replicas"),
        help="what a rank registers: a state of its own, its part of each tensor, or all of "
             "each tensor as the other ranks (share, of one rank whole)")
    add("--parity", type=int, default=1,
        help="nodes that may be lost, each rank being one; 0: all ranks are one node (1)")
    add("--nccl", action="store_true", help="all-reduce the gradients, one rank for each GPU")
    add("--steps", type=int, default=60, help="timed steps of each kind (60)")
    add("--block", type=int, default=10, help="steps of a kind before the next kind (10)")
    add("--kinds", type=words(gpu_train.KINDS),
        default=list(gpu_train.KINDS), help=",".join(gpu_train.KINDS))
    add("--repeat", type=int, default=7, help="copies and restores (7)")
    add("--calls", type=int, default=40, help="calls of each sort that are timed (40)")
    add("--dcp-repeat", type=int, default=2, help="timed saves of each setting (2)")
    add("--dcp-dir", default="/dev/shm", help="where PyTorch saves (/dev/shm)")
    add("--no-dcp", action="store_true", help="leave PyTorch's ways to save out")
    add("--only", type=words(SECTIONS), default=list(SECTIONS), help=",".join(SECTIONS))
    add("--json", metavar="FILE", help="all figures and samples, written after each section")
    add("--quick", action="store_true", help="few repetitions: shows that all works")
    args = parser.parse_args()
    if args.quick:
        args.steps, args.block, args.repeat, args.calls = 4 * args.every, 2 * args.every, 2, 4
        args.dcp_repeat = 1
    if min(args.every, args.steps, args.block, args.repeat, args.calls, args.seq,
           args.dcp_repeat) < 1 or args.parity < 0:
        parser.error("counts are at least 1")
    if args.seq > gpu_model.SHAPES[args.model].positions:
        parser.error(f"--seq {args.seq} is more than the model's positions")
    if args.no_dcp:
        args.only = [name for name in args.only if name != "dcp"]
    args.batch = args.batch or gpu_model.SHAPES[args.model].batch
    return args


def make_device(args, world):
    if args.device == "cpu":
        return gpu_device.Cpu()
    count = torch.cuda.device_count()
    if args.nccl and world.size > count:
        raise gpu_device.Failure(f"--nccl needs a GPU for each rank: {world.size} ranks, {count} "
                                 "GPUs")
    return gpu_device.Cuda(world.local_rank % max(1, count), args.stream == "own")


def write_json(path, results):
    part = pathlib.Path(f"{path}.part")
    part.write_text(json.dumps(results, indent=1) + "\n")
    part.replace(path)


def run_section(bench, name, results):
    """Whether it succeeded. Where there are several ranks they would not meet again after a
    failure of one, so that is the end."""
    args, world = bench.args, bench.world
    try:
        took, figures = timed(getattr(bench, name))
        figures["section_s"] = took
    except Exception as error:
        traceback.print_exc()
        results["failed"][name] = f"{type(error).__name__}: {error}"
        print(f"rank {world.rank}: {name} failed: {error}", file=sys.stderr, flush=True)
        if world.size > 1:
            if world.rank == 0 and args.json:
                write_json(args.json, results)
            bench.abandon()
        bench.close()
        return False
    results["sections"][name] = world.gather(figures)
    if world.rank == 0 and args.json:
        write_json(args.json, results)
    return True


def run(args, world, device):
    bench = Bench(args, world, device)
    results = {"gpu_bench": 1, "machine": machine(device), "versions": versions(device),
               "options": vars(args), "ranks": world.size, "seed": bench.seed,
               "sections": {}, "failed": {}}
    try:
        for name in args.only:
            if world.rank == 0:
                print(f"ftmem_gpu_bench: {name}", file=sys.stderr, flush=True)
            run_section(bench, name, results)
        bench.drop()
    finally:
        bench.close()
        if bench.own_dir and world.local_rank == 0:
            shutil.rmtree(bench.own_dir, ignore_errors=True)
    if world.rank == 0:
        if args.json:
            write_json(args.json, results)
        print(gpu_report.text(results))
    return 1 if results["failed"] else 0


def main():
    args = parse_args()
    sys.setswitchinterval(0.0005)
    world = gpu_state.World(args.nccl and args.device == "cuda")
    args.hold = args.hold or ("share" if world.size > 1 else "whole")
    try:
        status = run(args, world, make_device(args, world))
    except (gpu_device.Failure, ftmem.FtmemError, OSError) as error:
        print(f"ftmem_gpu_bench: rank {world.rank}: {error}", file=sys.stderr, flush=True)
        status = 1
    if world.size == 1 or status == 0:
        dist.destroy_process_group()
    return status


if __name__ == "__main__":
    sys.exit(main())
