#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""How long protect, commit and recovery take on clusters that are not at hand.

Rates come from a result of ftmem_bench (--json), messages and tables from the simulator
(test_sim_growth --json), the rest from the command line. What the model says of the run
that gave the rates is printed beside what was measured there. D is the state of a rank, n
the nodes of a group, m its parity, k = n - m, R the ranks of a node, P those of the job.
"""
import argparse
import json
import math
import pathlib
import sys

import runs

NODES = (8, 128, 1024, 16384)
GBITS = (50, 400)
GB = 1e9


def core_rates(bench):
    """Bytes per second of one core: the limits were taken with all cores of a machine at
    work. Those of messages are of the measured machine and are not used elsewhere."""
    cores = min(bench["cpus_on_host"], bench["ranks_on_host"])
    machines = bench["ranks"] / bench["ranks_on_host"]
    return {name: bench["limits"][f"{name}_GBps"] * GB / (cores * machines)
            for name in ("memcpy", "checksum", "verify", "encode", "mpi")
            if bench["limits"].get(f"{name}_GBps")}


def protect_work(d, k, m, rates):
    """Seconds on one core (bench/README.md, "protect"), by thread: the copy thread reads and
    checks; the progress thread checks what comes, encodes, and checks the parity but its first
    row, whose checksum follows from the others."""
    return {"copy": d / rates["memcpy"] + d / rates["checksum"],
            "progress": (m + max(m - 1, 0) / k) * d / rates["checksum"]
            + m * d / rates["encode"]}


def restore_work(d, k, m, rates):
    """Seconds on one core, nothing lost: data is checked while it is copied, parity read."""
    return {"copy": d / rates["memcpy"] + d / rates["checksum"],
            "progress": m / k * d / rates.get("verify", rates["checksum"])}


def rebuild_work(d, n, m, lost, rates):
    """Seconds on one core, the mean of the ranks of a rail (bench/README.md, "rebuild")."""
    k = n - m
    return {"copy": d / rates["memcpy"] + (n - lost) / n * d / rates["checksum"],
            "progress": (k - 1 + 2 * lost) / k * d / rates["checksum"]
            + (n - lost) / n * m / k * d / rates.get("verify", rates["checksum"])
            + lost * d / rates["encode"]}


def protect_sent(d, m):
    """Bytes that a rank sends, and receives."""
    return m * d


def rebuild_sent(d, n, m, lost):
    """Bytes of the busiest rank, either way. Of n rows of d / k bytes each a survivor in turn
    gets k - 1 blocks and sends lost ones; a lost rank gets data and parity."""
    k = n - m
    survivor = n / (n - lost) * (k - 1 + lost) / k * d
    return max(survivor, (1 + m / k) * d)


def threads_time(work, cores):
    """The stages overlap: the longer thread, or all work over the cores of a rank."""
    return max(max(work.values()), sum(work.values()) / cores)


def network_time(sent, ranks_per_node, node_rate, in_flight, latency):
    """All ranks of a node share its link. A rank has no more than in_flight bytes on their
    way, for one latency there and one back."""
    return sent / min(node_rate / ranks_per_node, in_flight / (2 * latency))


def growth_at(growth, phase, quantity, ranks):
    """From the simulator: as counted, or by its fit for sizes in between."""
    for row in growth["growth"]:
        if row["ranks"] == ranks and row["phase"] == phase:
            return row[quantity]
    fit = growth["fit"][phase][quantity]
    return max(0.0, fit["constant"] + fit["log2"] * math.log2(ranks) + fit["linear"] * ranks)


def agreement_time(growth, phases, ranks, ranks_per_node, node_rate, latency, step):
    """Messages one after the other, the tables of all ranks of a node over its link, and the
    library's own steps."""
    total = 0.0
    for phase in phases:
        total += growth_at(growth, phase, "messages", ranks) * latency
        total += (growth_at(growth, phase, "table_bytes", ranks) * ranks_per_node / node_rate)
        total += growth_at(growth, phase, "steps", ranks) * step
    return total


def commit_time(ranks, latency):
    """After the last block: checksums to the members of the rail (1 message), then an
    all-reduce of all ranks (2 ceil(log2 P))."""
    return (1 + 2 * math.ceil(math.log2(ranks))) * latency


def predict(bench, growth, args, nodes, gbits, m):
    """One line of the table. Data is moved in a time that does not depend on the number of
    nodes: groups work side by side. What does is commit and agreement."""
    n, k, ranks = args.group, args.group - m, nodes * args.ranks_per_node
    rates, rate = core_rates(bench), gbits * GB / 8
    in_flight = bench["window"] * m * k * bench["block_bytes"]
    sent = {"protect": protect_sent(args.bytes, m),
            "rebuild": rebuild_sent(args.bytes, n, m, 1)}
    work = {"protect": protect_work(args.bytes, k, m, rates),
            "restore": restore_work(args.bytes, k, m, rates),
            "rebuild": rebuild_work(args.bytes, n, m, 1, rates)}
    commit = commit_time(ranks, args.latency)
    agree = agreement_time(growth, ("open", "seal", "recovery"), ranks, args.ranks_per_node,
                           rate, args.latency, args.step)
    line = {"nodes": nodes, "ranks": ranks, "gbits": gbits, "parity": m,
            "commit_s": commit, "agree_s": agree}
    for what, cpu in work.items():
        seconds = threads_time(cpu, args.cores)
        wire = (network_time(sent[what], args.ranks_per_node, rate, in_flight, args.latency)
                if what in sent else 0.0)
        line[f"{what}_s"] = max(seconds, wire) + (commit if what == "protect" else agree)
        line[f"{what}_bound"] = "network" if wire > seconds else "cores"
    # Two slots of data and parity on the node that was replaced; a first touch costs as much
    # as eight copies (docs/performance.md).
    held = 2 * (1 + m / k) * args.bytes
    line["touch_s"] = held / (rates["memcpy"] / 8 * args.cores)
    return line


def measured(series):
    return series["median"] if series else None


def floor(bench, work, sent):
    """floor_s of the run that gave the rates: messages are work of the cores there, and all
    ranks share them."""
    cores = bench["cpus_on_host"] / bench["ranks_on_host"]
    overlap = min(max(cores, 1.0), bench["copy_threads"] + 1)
    seconds = sum(work.values()) + (sent / core_rates(bench)["mpi"] if sent else 0.0)
    return seconds * max(1.0, 1 / cores) / overlap


def validate(bench, growth, args):
    """What the model says of the measured run."""
    rates, d = core_rates(bench), bench["bytes"]
    n, m = bench["group_nodes"], bench["parity"]
    if m == 0 or "mpi" not in rates or bench.get("shares"):
        return []
    k = n - m
    ranks, node_ranks = bench["ranks"], bench["ranks"] / bench["nodes"]
    commit = commit_time(ranks, args.latency)
    agree = agreement_time(growth, ("recovery",), ranks, node_ranks, math.inf, args.latency,
                           args.step)
    lines = []

    def add(what, work, sent, series):
        told = measured(series)
        if told:
            seconds = floor(bench, work, sent) + (commit if what == "protect" else agree)
            lines.append({"what": what, "predicted_s": seconds, "measured_s": told,
                          "ratio": seconds / told})

    add("protect", protect_work(d, k, m, rates), protect_sent(d, m), bench.get("protect_s"))
    add("restore, nothing lost", restore_work(d, k, m, rates), 0, bench.get("restore_s"))
    for lost, series in sorted(bench.get("rebuild_s", {}).items()):
        if bench["groups"] == 1:
            add(f"rebuild, {lost} lost", rebuild_work(d, n, m, int(lost), rates),
                (k - 1 + int(lost)) / k * d, series)
    return lines


def table(lines, args):
    out = [f"D = {args.bytes / 2**30:g} GiB a rank, {args.ranks_per_node} ranks a node, "
           f"{args.cores:g} cores a rank, groups of {args.group}, {args.latency * 1e6:g} us a "
           "message; seconds:", "",
           "| nodes | ranks | Gbit/s | m | protect | bound by | commit | restore | rebuild, 1 lost "
           "| bound by | of which agreement | first touch of a new node |",
           "|---|---|---|---|---|---|---|---|---|---|---|---|"]
    for a in lines:
        out.append(f"| {a['nodes']:,} | {a['ranks']:,} | {a['gbits']} | {a['parity']} "
                   f"| {a['protect_s']:.2f} | {a['protect_bound']} | {a['commit_s']:.6f} "
                   f"| {a['restore_s']:.2f} | {a['rebuild_s']:.2f} | {a['rebuild_bound']} "
                   f"| {a['agree_s']:.3f} | {a['touch_s']:.1f} |")
    return "\n".join(out)


def validation_table(lines):
    out = ["The run that gave the rates, by the same formulae:", "",
           "| | predicted (s) | measured (s) | predicted / measured |", "|---|---|---|---|"]
    for a in lines:
        out.append(f"| {a['what']} | {a['predicted_s']:.3f} | {a['measured_s']:.3f} "
                   f"| {100 * a['ratio']:.0f}% |")
    return "\n".join(out)


def parse(argv):
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("bench", type=pathlib.Path, help="result of ftmem_bench --json")
    p.add_argument("growth", type=pathlib.Path, help="result of test_sim_growth --json")
    p.add_argument("--bytes", type=float, default=10 * 2**30, help="of a rank (10 GiB)")
    p.add_argument("--latency", type=float, default=5e-6, help="of a message, s (5e-6)")
    p.add_argument("--step", type=float, default=2e-9, help="of a step of the library, s (2e-9)")
    p.add_argument("--ranks-per-node", type=int, default=8)
    p.add_argument("--group", type=int, default=8, help="nodes that protect each other")
    p.add_argument("--cores", type=float, default=2, help="that work for a rank (2)")
    p.add_argument("--parity", type=int, nargs="+", default=[1, 2])
    p.add_argument("--json", type=pathlib.Path, help="write the figures there too")
    args = p.parse_args(argv)
    if min(args.parity) < 1 or max(args.parity) >= args.group:
        p.error(f"a group of {args.group} nodes may lose 1 to {args.group - 1}: see --group and "
                "--parity")
    for name in ("bytes", "latency", "ranks_per_node", "cores"):
        if not getattr(args, name) > 0:
            p.error(f"--{name.replace('_', '-')} is to be more than 0")
    return args


def read(args):
    """The two results."""
    bench, growth = runs.read(args.bench), runs.read(args.growth)
    if runs.is_simulated(bench) or runs.is_gpu(bench):
        raise runs.Failure(f"{args.bench}: ftmem_bench's result comes first")
    if not runs.is_simulated(growth):
        raise runs.Failure(f"{args.growth}: not of the growth simulator: "
                           "bench/measure.sh growth makes that")
    if not {"memcpy", "checksum", "encode"} <= set(core_rates(bench)):
        raise runs.Failure(f"{args.bench}: without rates of encoding: it needs 2 nodes or more")
    if not growth["fit"]:
        raise runs.Failure(f"{args.growth}: without a fit: simulate 3 sizes or more")
    return bench, growth


def main(argv=None):
    args = parse(argv)
    try:
        bench, growth = read(args)
    except runs.Failure as failure:
        print(f"model.py: {failure}", file=sys.stderr)
        return 1
    lines = [predict(bench, growth, args, nodes, gbits, m)
             for m in args.parity for gbits in GBITS for nodes in NODES]
    checked = validate(bench, growth, args)
    print(table(lines, args))
    if checked:
        print()
        print(validation_table(checked))
    if args.json:
        args.json.write_text(json.dumps({"model": lines, "checked": checked}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
