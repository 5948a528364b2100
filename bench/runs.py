# SPDX-License-Identifier: BSD-3-Clause
"""Results of ftmem_bench, of ftmem_gpu_bench.py and of the growth simulator, read for table.py,
plot.py and model.py.

A file NAME.json belongs to the set that its name begins with: size-m2-64M is of "size".
"""
import dataclasses
import json
import pathlib

ROOT = pathlib.Path(__file__).resolve().parent
RESULTS = ROOT / "results"
MIB = 1 << 20

# What is needed of a result, with a dot in an object of it. Others may be left out.
KEYS = ("ranks", "nodes", "hosts", "ranks_on_host", "cpus_on_host", "bytes", "repeat", "groups",
        "group_nodes", "parity", "load_before", "block_bytes", "window", "copy_threads",
        "call_us", "protect_s", "restore_s", "rebuild_s", "seal_s", "rss_extra_bytes",
        "idle.rest_percent", "idle.waiting_percent", "limits.memcpy_GBps",
        "limits.checksum_GBps", "limits.verify_GBps", "limits.mpi_GBps", "limits.encode_GBps",
        "floor_s", "of_floor", "verified_bytes")
GPU_KEYS = ("ranks", "options.model", "options.every", "machine.gpu", "sections", "failed")
GROWTH_KEYS = ("nodes", "ranks", "phase", "messages", "bytes", "table_bytes", "memory", "steps")


class Failure(Exception):
    """What is wrong with a result, and in which file."""


@dataclasses.dataclass(frozen=True)
class Time:
    """A measured time: median and range, in the unit of the key, and the floor of the
    same run with how much of it was reached; None where there is no floor."""
    median: float
    least: float
    most: float
    floor: float | None = None
    reached: float | None = None


@dataclasses.dataclass(frozen=True)
class Point:
    x: float
    time: Time


def is_simulated(run):
    return "growth" in run


def is_gpu(run):
    return "gpu_bench" in run


def has(values, key):
    for part in key.split("."):
        if not isinstance(values, dict) or part not in values:
            return False
        values = values[part]
    return True


def need_keys(path, values, keys):
    missing = [key for key in keys if not has(values, key)]
    if missing:
        raise Failure(f"{path}: made by another version: measure again (it has no "
                      + ", ".join(missing) + ")")


def check_simulated(path, run):
    if not isinstance(run["growth"], list) or not run["growth"]:
        raise Failure(f"{path}: nothing was simulated: measure again: bench/measure.sh growth")
    for row in run["growth"]:
        need_keys(path, row, GROWTH_KEYS)
    need_keys(path, run, ["fit"])


def check_gpu(path, run):
    need_keys(path, run, GPU_KEYS)
    for name in ("copy", "train"):
        for figures in run["sections"].get(name, []):
            if figures.get("verified", "ftmem" not in run["options"]["kinds"]) is not True:
                raise Failure(f"{path}: not every byte was right in this run: measure it again")


def read(path):
    """One result, with its name and set added."""
    try:
        run = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise Failure(f"{path}: cannot be read: {error}") from error
    if not isinstance(run, dict) or not (
            "protect_s" in run or is_simulated(run) or is_gpu(run)):
        raise Failure(f"{path}: neither a bench nor the growth simulator wrote this")
    if is_simulated(run):
        check_simulated(path, run)
    elif is_gpu(run):
        check_gpu(path, run)
    elif run.get("verified") is not True:
        raise Failure(f"{path}: not every byte was right in this run: measure it again")
    else:
        need_keys(path, run, KEYS)
    return run | {"name": path.stem, "set": path.stem.split("-")[0]}


def read_all(folder):
    """All results of a folder, sorted by name."""
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise Failure(f"{folder}: no such folder: bench/measure.sh makes it")
    return [read(path) for path in sorted(folder.glob("*.json"))]


def of_set(runs, name):
    return [run for run in runs if run["set"] == name]


def over_network(run):
    """Whether ranks talk over TCP: they are on hosts of different names."""
    return run["hosts"] > 1


def time_of(run, what, lost=0):
    """The time of what: "call_us", "copy_s", "seal_s", "protect_s", "restore_s", or with
    lost nodes "rebuild_s". None if it was not measured."""
    floor, reached = {
        "protect_s": (run.get("floor_s"), run.get("of_floor")),
        "restore_s": (run.get("restore_floor_s"), run.get("of_restore_floor")),
        "rebuild_s": (run.get("rebuild_floor_s", {}).get(str(lost)),
                      run.get("of_rebuild_floor", {}).get(str(lost))),
    }.get(what, (None, None))
    series = run.get(what)
    if what == "rebuild_s":
        series = (series or {}).get(str(lost))
    elif what == "seal_s":
        series = (series or {}).get("first")
    if not series or series["median"] is None:
        return None
    return Time(series["median"], series["min"], series["max"],
                floor["all"] if floor else None, reached)


def line(runs, x, what, lost=0):
    """Points of a figure: of each run its number x (a key) and a time, by ascending x."""
    points = []
    for run in runs:
        time = time_of(run, what, lost)
        if time:
            points.append(Point(run[x], time))
    points.sort(key=lambda point: point.x)
    for a, b in zip(points, points[1:]):
        if a.x == b.x:
            raise Failure(f"two runs with {x} = {a.x} where one is to be shown: "
                          + ", ".join(sorted(run["name"] for run in runs if run[x] == a.x)))
    return points


def by_parity(runs):
    """Runs by how many nodes may be lost, ascending."""
    return {m: [run for run in runs if run["parity"] == m]
            for m in sorted({run["parity"] for run in runs})}


def most_parity(runs):
    """Those with the largest parity."""
    return by_parity(runs)[max(run["parity"] for run in runs)]


def setting(runs, key):
    """What all runs have in common. Failure: they have not."""
    values = {run[key] for run in runs}
    if len(values) != 1:
        raise Failure(f"{key} differs between runs of one figure: "
                      + ", ".join(f"{run['name']}: {run[key]}" for run in runs))
    return values.pop()


def gpu_median(run, section, key, of="", join=max):
    """The worst of all ranks in a section of ftmem_gpu_bench.py, or what join makes of them;
    of: a member of what key is. None where it was not measured."""
    found = []
    for figures in run["sections"].get(section, []):
        value = figures.get(key)
        value = value.get(of) if of and value else value
        found.append(value["median"] if isinstance(value, dict) else value)
    return join(found) if found and None not in found else None


def size_text(size):
    """Bytes as the options of ftmem_bench have them, with unit."""
    for unit, text in ((MIB << 10, "GiB"), (MIB, "MiB"), (1 << 10, "KiB")):
        if size >= unit:
            return f"{size / unit:.4g} {text}"
    return f"{size} bytes"


def phases(run):
    """Of the simulator, in the order of the file."""
    return list(dict.fromkeys(row["phase"] for row in run["growth"]))


def grown(run, phase, key):
    """Of the simulator: (ranks, value, value without the table of ranks) of one rank in a
    phase, ascending. The last is None where the file does not tell; where nothing is left
    it is 0."""
    points = []
    for row in run["growth"]:
        if row["phase"] != phase or key not in row:
            continue
        table = row.get(f"table_{key}")
        points.append((row["ranks"], row[key], None if table is None else
                       max(0, row[key] - table)))
    return sorted(points)
