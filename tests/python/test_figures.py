#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""What table.py, plot.py and model.py of bench/ make of results, and that those stored are good.

usage: test_figures.py FOLDER [CLASS...]    FOLDER: the source tree's bench/

Exit status: 77 if all tests of these classes were skipped, as Drawing is without matplotlib.
"""
import json
import math
import pathlib
import subprocess
import sys
import tempfile
import unittest

BENCH = pathlib.Path(sys.argv.pop(1)).resolve()
sys.path.insert(0, str(BENCH))
sys.dont_write_bytecode = True
import runs  # noqa: E402
import model  # noqa: E402
import table  # noqa: E402
import plot  # noqa: E402
import gpu_report  # noqa: E402

MIB = 1 << 20
LARGEST = 60 << 10  # of a figure
PHASES = {"open": 40, "seal": 90, "commit": 5, "recovery": 120}
TABLE_ROW = 64  # bytes of a rank in the table of ranks
SIZES = [2 ** i for i in (3, 5, 7, 9, 10, 12, 14)]


def series(median):
    return {"min": 0.9 * median, "median": median, "max": 1.2 * median}


def bench_run(ranks=4, parity=2, size=256 * MIB, hosts=1, seconds=0.2):
    lost = [str(i) for i in range(1, parity + 1)]
    return {
        "ranks": ranks, "nodes": ranks, "hosts": hosts, "ranks_on_host": ranks,
        "cpus_on_host": 2, "bytes": size, "repeat": 7, "parity": parity, "load_before": 0.1,
        "groups": 1, "group_nodes": ranks, "rss_extra_bytes": 8 * MIB,
        "idle": {"rest_percent": 0.01, "waiting_percent": 2.5},
        "block_bytes": 131072, "window": 2, "copy_threads": 1,
        "call_us": series(10), "copy_s": series(seconds / 3), "protect_s": series(seconds),
        "restore_s": series(seconds / 2), "seal_s": {"first": series(seconds)},
        "rebuild_s": {i: series(seconds * int(i) * 2) for i in lost},
        "limits": {"memcpy_GBps": 12.5, "checksum_GBps": 150, "verify_GBps": 40,
                   "mpi_GBps": 14, "encode_GBps": 100},
        "floor_s": {"all": seconds / 2}, "of_floor": 0.5,
        "restore_floor_s": {"all": seconds / 8}, "of_restore_floor": 0.25,
        "rebuild_floor_s": {i: {"all": seconds} for i in lost},
        "of_rebuild_floor": {i: 0.5 / int(i) for i in lost},
        "verified_bytes": 3 * MIB, "verified": True,
    }


def simulation():
    growth = [{"nodes": nodes, "ranks": 8 * nodes, "phase": phase,
               "messages": each * math.log2(8 * nodes), "steps": 1000 * each, "memory": 4096,
               "bytes": each * math.log2(8 * nodes) + TABLE_ROW * 8 * nodes,
               "table_bytes": TABLE_ROW * 8 * nodes}
              for phase, each in PHASES.items() for nodes in SIZES]
    return {"growth": growth, "fit": {}}


def gpu_run(ranks=1, ideal=1.5, ours=1.7):
    train = {"verified": True, "overhead_percent": {"ideal": ideal, "ftmem": ours}}
    copy = {"verified": True, "d2h_GBps": series(54), "h2d_GBps": series(53)}
    return {"gpu_bench": 1, "ranks": ranks, "machine": {"gpu": "GPU"}, "failed": {},
            "options": {"model": "medium", "every": 1, "kinds": ["baseline", "ideal", "ftmem"]},
            "sections": {"raw": [{"d2h_GBps": series(55)}] * ranks, "copy": [copy] * ranks,
                         "train": [train] * ranks}}


def all_results():
    out = {f"table-{how}-m{m}": bench_run(parity=m, hosts=hosts)
           for m in (1, 2) for how, hosts in (("shm", 1), ("tcp", 4))}
    out |= {f"size-m{m}-{size}M": bench_run(parity=m, size=size * MIB, seconds=size / 1000)
            for m in (1, 2) for size in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)}
    out |= {f"nodes-n{n}-m{m}": bench_run(ranks=n, parity=m)
            for m in (1, 2, 3) for n in range(m + 1, 9)}
    out |= {f"ranks-{n}": bench_run(ranks=n, parity=1) for n in (4, 8, 16, 32, 64)}
    out |= {"gpu-medium": gpu_run(), "gpu-medium-4": gpu_run(4)}
    return out | {"growth": simulation()}


class WithFolder(unittest.TestCase):
    def setUp(self):
        holder = tempfile.TemporaryDirectory()
        self.addCleanup(holder.cleanup)
        self.folder = pathlib.Path(holder.name)

    def store(self, results):
        for name, run in results.items():
            (self.folder / f"{name}.json").write_text(json.dumps(run))
        return runs.read_all(self.folder)


class Reading(WithFolder):
    def test_results_know_their_set(self):
        found = self.store(all_results())
        self.assertEqual({run["set"] for run in found},
                         {"table", "size", "nodes", "ranks", "gpu", "growth"})
        self.assertEqual(len(runs.of_set(found, "size")), 20)

    def test_what_is_no_result_is_refused(self):
        (self.folder / "size-1.json").write_text("{")
        with self.assertRaisesRegex(runs.Failure, "size-1.json: cannot be read"):
            runs.read_all(self.folder)
        with self.assertRaisesRegex(runs.Failure, "size-1.json: neither"):
            self.store({"size-1": {"ranks": 4}})
        with self.assertRaisesRegex(runs.Failure, "no such folder"):
            runs.read_all(self.folder / "none")

    def test_results_of_another_version_are_refused(self):
        run = bench_run()
        del run["idle"]["waiting_percent"]
        with self.assertRaisesRegex(runs.Failure, "size-1.json: made by another version: "
                                    "measure again.*idle.waiting_percent"):
            self.store({"size-1": run})
        row = simulation()["growth"][0]
        del row["table_bytes"]
        (self.folder / "size-1.json").unlink()
        with self.assertRaisesRegex(runs.Failure, "another version.*table_bytes"):
            self.store({"growth": {"growth": [row], "fit": {}}})
        with self.assertRaisesRegex(runs.Failure, "nothing was simulated"):
            self.store({"growth": {"growth": []}})

    def test_a_run_with_a_wrong_byte_is_refused(self):
        with self.assertRaisesRegex(runs.Failure, "not every byte was right"):
            self.store({"size-1": bench_run() | {"verified": False}})

    def test_so_is_one_of_a_gpu(self):
        run = gpu_run()
        for section in ("copy", "train"):
            run["sections"][section][0] |= {"verified": False}
            with self.assertRaisesRegex(runs.Failure, "not every byte was right"):
                self.store({"gpu-1": run})
            run["sections"][section][0] |= {"verified": True}
        del run["machine"]["gpu"]
        with self.assertRaisesRegex(runs.Failure, "another version.*machine.gpu"):
            self.store({"gpu-1": run})

    def test_of_ranks_on_gpus_times_are_the_worst_and_rates_the_sum(self):
        run = gpu_run(2)
        run["sections"]["train"] = [{"overhead_percent": {"ftmem": x}} for x in (1, 3)]
        self.assertEqual(runs.gpu_median(run, "train", "overhead_percent", "ftmem"), 3)
        self.assertEqual(runs.gpu_median(run, "copy", "d2h_GBps", join=sum), 108)
        self.assertIsNone(runs.gpu_median(run, "train", "overhead_percent", "ideal"))
        self.assertIsNone(runs.gpu_median(run, "dcp", "call_s"))

    def test_what_is_stored_can_be_shown(self):
        if not list((BENCH / "results").glob("*.json")):
            self.skipTest("bench/results is empty: bench/measure.sh all fills it")
        found = runs.read_all(BENCH / "results")
        self.assertIn("protect", table.table(runs.of_set(found, "table")))
        self.assertEqual(plot.wanted(found, plot.FIGURE_OF)[1], {})


class Times(unittest.TestCase):
    def test_each_has_the_floor_of_its_run(self):
        run = bench_run(seconds=1)
        self.assertEqual(runs.time_of(run, "protect_s"), runs.Time(1, 0.9, 1.2, 0.5, 0.5))
        self.assertEqual(runs.time_of(run, "rebuild_s", 2).reached, 0.25)
        self.assertEqual(runs.time_of(run, "restore_s").floor, 0.125)
        self.assertIsNone(runs.time_of(run, "call_us").floor)

    def test_what_was_not_measured_is_none(self):
        run = bench_run() | {"rebuild_s": {}, "protect_s": dict.fromkeys(("min", "median"))}
        self.assertIsNone(runs.time_of(run, "rebuild_s", 1))
        self.assertIsNone(runs.time_of(run, "protect_s"))
        self.assertIsNone(runs.time_of({}, "restore_s"))

    def test_a_line_ascends(self):
        points = runs.line([bench_run(size=size) for size in (4, 1, 2)], "bytes", "protect_s")
        self.assertEqual([point.x for point in points], [1, 2, 4])

    def test_a_line_does_not_mix_two_runs(self):
        with self.assertRaisesRegex(runs.Failure, "two runs with bytes = 4.*: a, b"):
            runs.line([bench_run(size=4) | {"name": name} for name in "ab"], "bytes", "protect_s")

    def test_runs_of_one_figure_have_the_same_size(self):
        with self.assertRaisesRegex(runs.Failure, "bytes differs.*a: 1, b: 2"):
            runs.setting([bench_run(size=1) | {"name": "a"}, bench_run(size=2) | {"name": "b"}],
                         "bytes")

    def test_growth_tells_the_table_of_ranks_apart(self):
        points = runs.grown(simulation(), "seal", "bytes")
        self.assertEqual([ranks for ranks, _, _ in points], [8 * nodes for nodes in SIZES])
        for ranks, value, less in points:
            self.assertAlmostEqual(less, PHASES["seal"] * math.log2(ranks))
            self.assertAlmostEqual(value, less + TABLE_ROW * ranks)
        self.assertEqual(runs.grown(simulation(), "seal", "steps")[0], (64, 90000, None))
        self.assertEqual(runs.grown(simulation(), "seal", "none"), [])


class Table(unittest.TestCase):
    def test_has_a_column_for_each_transport_and_the_floor_beside_each_time(self):
        found = [run | {"name": name} for name, run in all_results().items() if "table" in name]
        lines = table.table(found).splitlines()
        self.assertEqual(lines[2].replace(" ", ""), "||sharedmemory|TCPbetweenhosts|")
        row = next(line for line in lines if "rebuild 2 lost" in line)
        self.assertEqual(row.count("0.800 (0.720 to 0.960), 25%"), 2)
        row = next(line for line in lines if "snapshot call, `m` = 2" in line)
        self.assertEqual(row.count("10 (9 to 12) "), 2)
        row = next(line for line in lines if "of the floor" in line)
        self.assertEqual(row.count("25% to 50%"), 2)
        self.assertFalse([line for line in lines if "busy" in line])
        for text, value in (("private memory", "8.0"), ("nothing under way", "0.01"),
                            ("waiting for a rank", "2.50")):
            row = next(line for line in lines if text in line)
            self.assertEqual([part.strip() for part in row.split("|")[2:4]], [value] * 2)

    def test_only_what_is_measured_so_is_called_tcp(self):
        text = table.table([bench_run(hosts=4) | {"name": "table-cluster"}])
        self.assertIn("several hosts", text)
        self.assertNotIn("TCP", text)

    def test_leaves_out_what_was_not_measured(self):
        text = table.table([bench_run(parity=1) | {"name": "a", "load_before": 3}])
        self.assertNotIn("TCP", text)
        self.assertNotIn("`m` = 2", text)
        self.assertIn("The machine was busy before (load 3.0)", text)

    def test_does_not_choose_between_two_runs(self):
        with self.assertRaisesRegex(runs.Failure, "m = 1: measured twice: a, b"):
            table.table([bench_run(parity=1) | {"name": name} for name in "ab"])
        with self.assertRaisesRegex(runs.Failure, "no results of the set table"):
            table.table([])


class Model(WithFolder):
    def run_it(self, *options):
        done = subprocess.run([sys.executable, BENCH / "model.py", *options], text=True,
                              stdin=subprocess.DEVNULL, capture_output=True, check=False)
        return done.returncode, done.stdout + done.stderr

    def test_its_floor_is_that_of_the_run(self):
        gb, per_rank = 256 * MIB / 1e9, 4
        for cpus, overlap in ((2, 1), (4, 1), (6, 1.5), (64, 2)):
            run = bench_run(parity=2) | {"cpus_on_host": cpus}
            # n = 4, k = m = 2: 1 + 2 + 1/2 times checked, twice sent and encoded.
            want = gb * per_rank / overlap * (1 / 12.5 + 3.5 / 150 + 2 / 14 + 2 / 100)
            work = model.protect_work(run["bytes"], 2, 2, model.core_rates(run))
            got = model.floor(run, work, model.protect_sent(run["bytes"], 2))
            self.assertAlmostEqual(got / want, 1, 9, f"{cpus} CPUs")

    def test_it_prints_a_table(self):
        phases = {name: {key: {"constant": 1, "log2": 1, "linear": 0, "error": 0}
                         for key in ("messages", "table_bytes", "steps")} for name in PHASES}
        self.store({"ranks-4": bench_run(), "growth": simulation() | {"fit": phases}})
        status, text = self.run_it(self.folder / "ranks-4.json", self.folder / "growth.json")
        self.assertEqual(status, 0, text)
        self.assertIn("| 16,384 | 131,072 |", text)
        self.assertIn("| rebuild, 2 lost |", text)

    def test_what_it_cannot_use_is_refused(self):
        self.store({"ranks-4": bench_run(), "growth": simulation()})
        bench, growth = self.folder / "ranks-4.json", self.folder / "growth.json"
        for options, status, why in (((self.folder / "no", growth), 1, "no: cannot be read"),
                                     ((growth, bench), 1, "ftmem_bench's result comes first"),
                                     ((bench, bench), 1, "not of the growth simulator"),
                                     ((bench, growth), 1, "3 sizes or more"),
                                     ((bench, growth, "--group", "2", "--parity", "2"), 2,
                                      "a group of 2 nodes may lose 1 to 1")):
            found = self.run_it(*options)
            self.assertEqual(found[0], status, found[1])
            self.assertIn(why, found[1])


class GpuReport(unittest.TestCase):
    def results(self):
        run = gpu_run(2) | {"versions": {"torch": "2"}}
        run["machine"] |= {"cpus": 16}
        run["options"] |= {"hold": "share"}
        for section in ("copy", "train"):
            run["sections"][section][0] |= {"tensors": 87, "bytes": 4.9e9, "parity": 1}
        step = {kind: {"median": ms, "p99": ms} for kind, ms in
                (("baseline", 100), ("ideal", 101), ("ftmem", 102))}
        for figures in run["sections"]["train"]:
            figures |= {"step_ms": step, "paired_percent": {"ideal": series(1),
                                                            "ftmem": series(2)}}
        return run

    def row(self, text, of):
        return [cell.strip() for cell in next(
            line for line in text.splitlines() if line.startswith(f"| {of} ")).split("|")[1:-1]]

    def test_rates_of_ranks_are_added_and_steps_are_the_worst(self):
        text = gpu_report.text(self.results())
        self.assertEqual(self.row(text, "snapshot, device to host"),
                         ["snapshot, device to host", "110", "-", "108", "98.2%"])
        self.assertEqual(self.row(text, "libftmem")[-3:], ["102", "+1.70", "+2.00"])

    def test_failures_and_what_was_not_compared_are_told(self):
        run = self.results() | {"failed": {"dcp": "no room"}}
        del run["sections"]["train"][0]["verified"]
        text = gpu_report.text(run)
        self.assertIn("FAILED: dcp: no room", text)
        self.assertIn("NOT DONE", text)


class WithPlots(WithFolder):
    def plot(self, python, *options, **environment):
        done = subprocess.run(
            [python, BENCH / "plot.py", "--results", self.folder, *options], text=True,
            env=environment or None, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        return done.returncode, done.stdout + done.stderr


class Figures(WithPlots):
    def test_those_without_results_are_named(self):
        found = self.store({"size-m1-1M": bench_run()})
        draw, lack = plot.wanted(found, plot.FIGURE_OF)
        self.assertEqual(draw, ["protect-size", "restore-size"])
        self.assertEqual(lack["of-floor"], ["nodes"])
        self.assertEqual(self.plot(sys.executable, "growth-ranks")[0], 1)

    def test_without_matplotlib_it_says_how_to_install_it(self):
        self.store({"size-m1-1M": bench_run()})
        broken = self.folder / "without" / "matplotlib.py"
        broken.parent.mkdir()
        broken.write_text("raise ModuleNotFoundError('none', name='matplotlib')\n")
        status, text = self.plot(sys.executable, PYTHONPATH=str(broken.parent),
                                 PYTHONDONTWRITEBYTECODE="1")
        self.assertEqual(status, 2, text)
        self.assertIn("apt-get install python3-matplotlib", text)


class Drawing(WithPlots):
    def test_figures_are_small_and_the_same_every_time(self):
        python = drawing_python()
        if not python:
            self.skipTest("no matplotlib: figures are NOT drawn")
        self.store(all_results())
        for folder in ("one", "two"):
            status, text = self.plot(python, "--out", self.folder / folder)
            self.assertEqual(status, 0, text)
        names = {path.stem for path in (self.folder / "one").iterdir()}
        self.assertEqual(names, set(plot.FIGURE_OF))
        for name in names:
            one, two = ((self.folder / folder / f"{name}.svg").read_bytes()
                        for folder in ("one", "two"))
            self.assertEqual(one, two, f"{name} differs from one time to the next")
            self.assertLess(len(one), LARGEST, name)


def drawing_python():
    """An interpreter that has matplotlib; None: there is none."""
    for python in (sys.executable, "/usr/bin/python3"):
        if subprocess.run([python, "-c", "import matplotlib"], stdin=subprocess.DEVNULL,
                          capture_output=True, check=False).returncode == 0:
            return python
    return None


if __name__ == "__main__":
    outcome = unittest.main(verbosity=2, exit=False).result
    if not outcome.wasSuccessful():
        sys.exit(1)
    sys.exit(77 if len(outcome.skipped) == outcome.testsRun else 0)
