#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""ftmem_bench, short: that it measures what it says, on four simulated nodes.

usage: bench.py --run COMMAND... --bench PROGRAM --readme FILE

COMMAND is followed by a number of ranks and the program. Times are not judged.
"""
import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

SHARED = ["--bytes", "16M", "--replicas", "2", "--compare"]
LOADED = ["--bytes", "300000", "--with-load"]
SHAPES = ["--bytes", "400000", "--regions", "3", "--reshape", "--parity", "2"]
BASE = ["--ranks-per-node", "1", "--repeat", "1", "--lose", "none"]
SHAPE_NAMES = ["rows", "rotated", "columns", "grid", "whole", "fewer"]


class Failure(Exception):
    """What is not as it must be."""


def need(good, what):
    if not good:
        raise Failure(what)


def bench(args, ranks, *options, env=None):
    done = subprocess.run([*args.run, str(ranks), args.bench, *options], text=True,
                          env={**os.environ, **(env or {})}, stdin=subprocess.DEVNULL,
                          capture_output=True, check=False)
    return done.returncode, done.stdout + done.stderr


def measure(args, ranks, *options):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "out.json"
        status, text = bench(args, ranks, *BASE, *options, "--json", str(path))
        need(status == 0, f"{options}: status {status}\n{text}")
        out = json.loads(path.read_text())
    need(out["verified"] is True and out["verified_bytes"] > 0, f"{options}: not verified")
    return out


def keys_are_explained(args, out):
    explained = set(re.findall(r"`([a-z_A-Z.*]+)`", pathlib.Path(args.readme).read_text()))
    explained |= {key.split(".")[0] for key in explained}
    missing = sorted(set(out) - explained)
    need(not missing, f"keys that the README does not explain: {missing}")


def shares_are_a_half(args):
    out = measure(args, 4, *SHARED)
    shares = out["shares"]
    need(shares["checked"] and shares["right"], f"shares: {shares}")
    for key in ("stored_ratio", "arena_ratio", "sent_ratio"):
        need(abs(shares[key] * 2 - 1) <= 0.01, f"{key} is {shares[key]}")
    need(shares["registered_ratio"] == 1, "the replicas have not the state of one rank")
    need(set(out["compare"]) == {"off", "on"}, f"compare: {out['compare']}")
    need("restore_floor_s" not in out and not out["rebuild_floor_s"],
         "a restore of replicas has a floor")
    keys_are_explained(args, out)


def trainers_are_measured(args):
    out = measure(args, 2, *LOADED)
    load = out["load"]
    need(load["ceiling_Bps"] > 0, f"load: {load}")
    for trainer in ("compute", "collective"):
        need(set(load[trainer]) == {"free", "ceiling"}, f"{trainer}: {load[trainer]}")
        for found in load[trainer].values():
            need(found["snapshots"] > 0 and found["protect_s"]["min"] > 0, f"load: {found}")
            need(found["alone_s"]["min"] > 0 and found["beside_s"]["min"] > 0, f"{found}")
            need(0 < found["busy"]["min"] <= 1 and found["fence_s"]["min"] >= 0, f"{found}")
    need(out["idle"]["rest_percent"] >= 0, f"idle: {out['idle']}")
    keys_are_explained(args, out)


def one_node_has_no_ceiling(args):
    out = measure(args, 1, *LOADED)
    need(out["load"]["ceiling_Bps"] == 0, f"load: {out['load']}")
    need(set(out["load"]["compute"]) == {"free"}, f"load: {out['load']}")
    need(out["load"]["collective"] == {}, f"load: {out['load']}")
    need(out["idle"]["waiting_percent"] is None, f"idle: {out['idle']}")


def shapes_are_filled(args):
    out = measure(args, 4, *SHAPES)
    shapes = out["reshape"]
    rows, cols = shapes["shape"]
    whole = rows * cols * shapes["element_bytes"] * shapes["tensors"]
    for name in SHAPE_NAMES:
        filled = shapes[name]["filled_bytes"]
        need(filled == whole * (4 if name == "whole" else 1), f"{name}: {filled} bytes")
    moved = {name: shapes[name]["moved_bytes"] for name in SHAPE_NAMES}
    need(moved["rows"] == 0 and moved["rotated"] == whole, f"moved: {moved}")
    need(moved["columns"] == whole * 3 // 4 and moved["whole"] == whole * 3, f"moved: {moved}")
    need(shapes["fewer"]["ranks"] == 3, "fewer is not one rank less")
    keys_are_explained(args, out)


def what_cannot_be_is_not_measured(args):
    out = measure(args, 3, *SHAPES)["reshape"]
    need("grid" not in out and "fewer" not in out, f"3 nodes, parity 2: {sorted(out)}")


def floors_follow_from_limits(args):
    out = measure(args, 4, "--bytes", "1M", "--parity", "2", "--lose", "1,3")
    rate = {name: out["limits"][f"{name}_GBps_per_rank"]
            for name in ("memcpy", "checksum", "verify", "mpi", "encode")}
    cpus = min(out["cpus_on_host"] / out["ranks_on_host"], out["copy_threads"] + 1)
    size, n, m = out["bytes"] / 1e9, 4, 2
    k, lost = n - m, 2
    live = (n - lost) / n
    bytes_of = {
        "floor": {"memcpy": 1, "checksum": 1 + m + (m - 1) / k, "verify": 0, "mpi": m, "encode": m},
        "restore_floor": {"memcpy": 1, "checksum": 1, "verify": m / k, "mpi": 0, "encode": 0},
        "rebuild_floor": {"memcpy": 1, "checksum": live + (k - 1 + 2 * lost) / k,
                          "verify": live * m / k, "mpi": (k - 1 + lost) / k, "encode": lost},
    }
    taken = {"floor": out["protect_s"], "restore_floor": out["restore_s"],
             "rebuild_floor": out["rebuild_s"]["2"]}
    for name, parts in bytes_of.items():
        found, reached = out[f"{name}_s"], out[f"of_{name}"]
        if name == "rebuild_floor":
            need(set(found) == {"2"}, f"floors of rebuilds that were not measured: {found}")
            found, reached = found["2"], reached["2"]
        want = sum(size * part / rate[key] for key, part in parts.items()) / max(1, cpus)
        need(abs(found["all"] / want - 1) < 1e-6, f"{name} is {found['all']} and not {want}")
        want /= taken[name]["median"]
        need(abs(reached / want - 1) < 1e-6, f"of_{name} is {reached} and not {want}")
    sys.path.insert(0, str(pathlib.Path(args.readme).resolve().parent))
    import model
    work = model.protect_work(out["bytes"], k, m, model.core_rates(out))
    of_model = model.floor(out, work, model.protect_sent(out["bytes"], m))
    need(abs(of_model / out["floor_s"]["all"] - 1) < 1e-6, f"the model's floor is {of_model}")
    keys_are_explained(args, out)


def bad_options_are_refused(args):
    need(bench(args, 2, "--compare")[0] == 2, "--compare alone is not refused")
    need(bench(args, 2, "--replicas", "0")[0] == 2, "--replicas 0 is not refused")
    status, text = bench(args, 3, "--bytes", "1M", "--replicas", "2")
    need(status == 1 and "--replicas: 3 ranks" in text, f"2 replicas of 3 ranks: {text}")
    status, text = bench(args, 2, "--bytes", "64K", "--reshape")
    need(status == 1 and "larger --bytes" in text, f"--reshape of little: {text}")
    status, text = bench(args, 1, "--bytes", "1M", "--with-load",
                         env={"FTMEM_MAX_BANDWIDTH": "1M"})
    need(status == 1 and "FTMEM_MAX_BANDWIDTH" in text, f"--with-load with a ceiling: {text}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", nargs="+", required=True)
    parser.add_argument("--bench", required=True)
    parser.add_argument("--readme", required=True)
    args = parser.parse_args()
    failed = False
    for case in (bad_options_are_refused, floors_follow_from_limits, shares_are_a_half,
                 trainers_are_measured, one_node_has_no_ceiling, shapes_are_filled,
                 what_cannot_be_is_not_measured):
        try:
            case(args)
            print(f"{case.__name__}: good")
        except Failure as failure:
            print(f"{case.__name__}: FAILED: {failure}")
            failed = True
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
