#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Prints what protecting and rebuilding cost here, as a table in Markdown.

It reads table-*.json from a folder of results that bench/measure.sh table made.
"""
import argparse
import sys

import runs

ROWS = (
    # text, parity, what, lost
    ("protect, `m` = 1 (s)", 1, "protect_s", 0),
    ("protect, `m` = 2 (s)", 2, "protect_s", 0),
    ("rebuild 1 lost, `m` = 2 (s)", 2, "rebuild_s", 1),
    ("rebuild 2 lost, `m` = 2 (s)", 2, "rebuild_s", 2),
    ("restore, nothing lost, `m` = 2 (s)", 2, "restore_s", 0),
    ("snapshot call, `m` = 1 (us)", 1, "call_us", 0),
    ("snapshot call, `m` = 2 (us)", 2, "call_us", 0),
)
# Rows of which the least share of the floor is told.
FLOORED = ROWS[:4]
LIMITS = ("memcpy", "checksum", "verify", "mpi", "encode")
MEMORY_BUDGET = 64  # MiB
BUSY = 0.5  # load average before the first run, beyond which times mean little


def percent(share):
    return f"{100 * share:.0f}%"


def cell(time, what):
    digits = 0 if what == "call_us" else 3
    text = f"{time.median:.{digits}f} ({time.least:.{digits}f} to {time.most:.{digits}f})"
    return text if time.reached is None else f"{text}, {percent(time.reached)}"


def title_of(run):
    if not runs.over_network(run):
        return "shared memory"
    return "TCP between hosts" if run["name"].startswith("table-tcp-") else "several hosts"


def columns(found):
    """Titles and the runs below them, by parity. One run of a parity in each."""
    out = {}
    for run in sorted(found, key=runs.over_network):
        title = title_of(run)
        if run["parity"] in out.setdefault(title, {}):
            raise runs.Failure(f"{title}, m = {run['parity']}: measured twice: "
                               f"{out[title][run['parity']]['name']}, {run['name']}")
        out[title][run["parity"]] = run
    return out


def times(row, by_parity):
    _, parity, what, lost = row
    run = by_parity.get(parity)
    return runs.time_of(run, what, lost) if run else None


def markdown(head, rows):
    """Lines of a table whose columns line up."""
    widths = [max(len(line[i]) for line in [head, *rows]) for i in range(len(head))]
    lines = [[text.ljust(width) for text, width in zip(line, widths)] for line in [head, *rows]]
    lines.insert(1, ["-" * width for width in widths])
    return ["| " + " | ".join(line) + " |" for line in lines]


def time_rows(found):
    for row in ROWS:
        cells = [times(row, by_parity) for by_parity in found.values()]
        if any(cells):
            yield [row[0], *(cell(time, row[2]) if time else "-" for time in cells)]
    least = []
    for by_parity in found.values():
        reached = [time.reached for row in FLOORED
                   if (time := times(row, by_parity)) and time.reached is not None]
        least.append(f"{percent(min(reached))} to {percent(max(reached))}" if reached else "-")
    yield ["of the floor, protect and rebuild", *least]


def cost_rows(found):
    """What it costs beside time: the most of the runs of a column."""
    def row(text, digits, value_of):
        cells = []
        for by_parity in found.values():
            values = [v for run in by_parity.values() if (v := value_of(run)) is not None]
            cells.append(f"{max(values):.{digits}f}" if values else "-")
        return [text, *cells]

    yield row(f"private memory, peak, of {MEMORY_BUDGET} (MiB)", 1,
              lambda run: run["rss_extra_bytes"] / runs.MIB)
    yield row("idle, nothing under way (% of a core)", 2, lambda run: run["idle"]["rest_percent"])
    yield row("idle, waiting for a rank (% of a core)", 2,
              lambda run: run["idle"]["waiting_percent"])


def settings(run):
    return (f"{run['block_bytes'] // 1024} KiB x {run['window']}, "
            f"{run['copy_threads']} thread(s)")


def limit_rows(found):
    def row(text, value_of):
        return [text, *("; ".join(value_of(run) for _, run in sorted(by_parity.items()))
                        for by_parity in found.values())]

    for name in LIMITS:
        def limit(run, key=f"{name}_GBps"):
            value = run["limits"].get(key)
            return "-" if value is None else f"{value:.1f}"
        yield row(name, limit)
    yield row("blocks x window, copying", settings)


def describe(found):
    """What the runs have in common, in words."""
    common = {key: runs.setting(found, key)
              for key in ("ranks", "nodes", "bytes", "repeat", "cpus_on_host")}
    return (f"{common['ranks']} ranks on {common['nodes']} nodes, "
            f"{runs.size_text(common['bytes'])} each, {common['cpus_on_host']} CPUs. Medians of "
            f"{common['repeat']}, their range, and the floor of the same run over the median.")


def table(found):
    """The whole text; found: runs of the set."""
    if not found:
        raise runs.Failure("no results of the set table: run bench/measure.sh table")
    by_column = columns(found)
    lines = [describe(found), ""]
    lines += markdown(["", *by_column], [*time_rows(by_column), *cost_rows(by_column)])
    parities = sorted({run["parity"] for run in found})
    lines += ["", "Limits, all ranks at once (GB/s), in the runs with `m` = "
              + ", ".join(map(str, parities)) + ":", ""]
    lines += markdown(["", *by_column], list(limit_rows(by_column)))
    compared = sum(run["verified_bytes"] for run in found)
    lines += ["", f"Verified: every byte of every restore, {runs.size_text(compared)}."]
    busy = min(run["load_before"] or 0 for run in found)
    if busy > BUSY:
        lines += ["", f"The machine was busy before (load {busy:.1f}): times mean little."]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", default=runs.RESULTS, metavar="FOLDER",
                        help="where the JSON files are (default: bench/results)")
    args = parser.parse_args()
    try:
        print(table(runs.of_set(runs.read_all(args.results), "table")))
    except runs.Failure as failure:
        print(f"table.py: {failure}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
