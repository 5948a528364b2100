# SPDX-License-Identifier: BSD-3-Clause
"""The section of ftmem_gpu_bench.py that trains: alone, with ideal copies and with the library,
by turns in one process.
"""
import statistics

import gpu_device
import gpu_model
import gpu_state
from gpu_binding import Result
from gpu_series import series, timed

KINDS = ("baseline", "ideal", "ftmem")
WARM_STEPS = 3
COUNTED = ("committed", "skipped", "dropped", "waited", "wait_s", "stalls", "stall_s")
SHOWN = ("staged_bytes", "device_bytes", "data_bytes", "held_bytes", "device_copy_s",
         "protect_s", "parity", "nodes")


class Nothing:
    """Training alone."""

    def snapshot(self):
        pass

    def fence(self):
        pass

    def drain(self):
        pass

    def close(self):
        pass


class Protected(Nothing):
    """Training with the library: a snapshot where a step begins, a fence before it ends."""

    def __init__(self, bench):
        self.bench, self.session = bench, bench.session
        self.stream = bench.device.stream()
        self.forget()

    def forget(self):
        self.snapshot_s, self.fence_s, self.results = [], [], []
        self.before = self.session.stats()

    def snapshot(self):
        self.bench.version += 1
        took, result = timed(self.session.snapshot, self.bench.version, self.stream)
        self.snapshot_s.append(took)
        self.results.append(result)

    def fence(self):
        self.fence_s.append(timed(self.session.fence, self.stream)[0])

    def drain(self):
        self.session.wait(self.bench.version)
        self.bench.device.synchronize()

    def figures(self):
        after, asked = self.session.stats(), max(1, len(self.results))
        counted = {key: after[key] - self.before[key] for key in COUNTED}
        return {"snapshot_us": series(self.snapshot_s, 1e6),
                "fence_us": series(self.fence_s, 1e6),
                "snapshots": len(self.results),
                "busy": self.results.count(Result.BUSY), **counted,
                "stall_ms": 1e3 * counted["stall_s"] / asked,
                "wait_ms": 1e3 * counted["wait_s"] / asked,
                **{key: after[key] for key in SHOWN}}


class Train:
    def __init__(self, bench):
        self.bench, self.args = bench, bench.args
        self.world, self.device = bench.world, bench.device
        args = bench.args
        self.training = gpu_model.Training(bench.shape, args.batch, args.seq, self.device.torch,
                                           bench.seed, args.nccl)
        for _ in range(WARM_STEPS):
            self.training.forward_backward()
            self.training.update()
        self.pieces = gpu_state.pieces_of(self.training.state(), self.world, args.hold)
        self.kinds, self.buffer = {"baseline": Nothing()}, None

    def run(self):
        out = {"tensors": len(self.pieces), "every": self.args.every,
               "staging": self.args.staging, "batch": self.args.batch,
               "bytes": sum(piece.bytes for piece in self.pieces)}
        try:
            if "ftmem" in self.args.kinds:
                out["first"] = self.open()
                self.kinds["ftmem"] = Protected(self.bench)
            if "ideal" in self.args.kinds:
                self.kinds["ideal"] = self.ideal()
            out |= self.alternate()
            if "ftmem" in self.kinds:
                out |= self.kinds["ftmem"].figures() | self.restored()
        finally:
            for hooks in self.kinds.values():
                hooks.close()
            if self.buffer:
                self.buffer.free()
            out["memory"] = self.device.memory()
        return out

    def open(self):
        out = self.bench.open(self.pieces, self.args.staging, self.args.when_busy)
        self.bench.session.forget()
        return out

    def ideal(self):
        parts = self.bench.parts(self.pieces)
        _, room = gpu_state.host_pairs(parts, 0)
        self.buffer = gpu_device.HostBuffer(self.device, room)
        pairs, _ = gpu_state.host_pairs(parts, self.buffer.addr)
        return gpu_device.Ideal(self.device, pairs)

    # --- steps ---

    def step(self, hooks, first, ends):
        """One step of any kind. The host is at most a step ahead of the device, or, synced,
        waits for the end of each, like a loop that prints its loss."""
        if not self.args.nccl:
            self.world.barrier()
        if first:
            hooks.snapshot()
        self.training.forward_backward()
        hooks.fence()
        self.training.update()
        ends.append(self.device.event(sleeping=True))
        ends[-1].record()
        if self.args.loop == "synced":
            ends[-1].synchronize()
        elif len(ends) > 1:
            ends[-2].synchronize()

    def block(self, hooks, cycles):
        """Milliseconds of a step, of each cycle of --every steps but the first."""
        marks, ends = [], []
        self.device.synchronize()
        self.world.barrier()
        for _ in range(1 + cycles):
            marks.append(self.device.event())
            marks[-1].record()
            for i in range(self.args.every):
                self.step(hooks, i == 0, ends)
        marks.append(self.device.event())
        marks[-1].record()
        self.device.synchronize()
        hooks.drain()
        return [a.elapsed_time(b) / self.args.every for a, b in zip(marks[1:], marks[2:])]

    def alternate(self):
        """Blocks of all kinds by turns, each round in another order."""
        every = self.args.every
        cycles = max(1, min(self.args.block, self.args.steps) // every)
        rounds = max(1, -(-self.args.steps // (cycles * every)))
        order = [kind for kind in self.args.kinds if kind in self.kinds]
        steps, rounds_ms = {kind: [] for kind in order}, {kind: [] for kind in order}
        for kind in order:
            self.block(self.kinds[kind], 1)
        if "ftmem" in self.kinds:
            self.kinds["ftmem"].forget()
        for i in range(rounds):
            turn = i % len(order)
            for kind in order[turn:] + order[:turn]:
                took = self.block(self.kinds[kind], cycles)
                steps[kind] += took
                rounds_ms[kind].append(statistics.fmean(took))
        step_ms = {kind: series(took) for kind, took in steps.items()}
        return {"steps": rounds * cycles * every, "loss": float(self.training.loss),
                "step_ms": step_ms, "rounds_ms": rounds_ms, **overheads(step_ms, rounds_ms)}

    # --- whether it was the state ---

    def restored(self):
        """A snapshot taken beside the training is what the state was: a few steps later the
        state is restored in another session, and all of it compared."""
        hooks = Protected(self.bench)
        self.device.synchronize()
        self.world.barrier()
        wanted, ends = gpu_state.fingerprints(self.pieces), []
        for i in range(3):
            self.step(hooks, i == 0, ends)
        hooks.drain()
        if hooks.results[0] is not Result.OK:
            raise gpu_device.Failure("the snapshot that was to be restored was skipped")
        moved = int((gpu_state.fingerprints(self.pieces) != wanted).sum())
        self.bench.close()
        self.bench.open(self.pieces, self.args.staging, "wait")
        found = self.bench.session.restore()
        if found != self.bench.version:
            raise gpu_device.Failure(f"restored version {found}, not {self.bench.version}")
        wrong = (gpu_state.fingerprints(self.pieces) != wanted).nonzero().flatten().tolist()
        self.bench.check([self.pieces[i].name for i in wrong], "of a training")
        return {"verified": True, "changed_pieces": moved}


def overheads(step_ms, rounds_ms):
    """Percent of a step, over that of training alone: of the medians, and of the means of
    each round, whose blocks ran one after the other."""
    others = [kind for kind in step_ms if kind != "baseline" and "baseline" in step_ms]
    return {
        "overhead_percent": {
            kind: 100 * (step_ms[kind]["median"] / step_ms["baseline"]["median"] - 1)
            for kind in others},
        "paired_percent": {
            kind: series(100 * (one / base - 1)
                         for one, base in zip(rounds_ms[kind], rounds_ms["baseline"]))
            for kind in others},
    }
