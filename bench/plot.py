#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Draws the figures of docs/performance.md from the results that bench/measure.sh made, and
that of docs/gpu.md from those of bench/ftmem_gpu_bench.py called gpu-NAME.json.

Equal results give equal files, byte for byte, with the same release of matplotlib. The
figures have no background, and colours that can be told apart on white and on black.
"""
import argparse
import pathlib
import sys

import runs

FIGURES = runs.ROOT.parent / "docs" / "figures"
GREY = "#7a7f85"
COLOURS = ("#3f87d6", "#d9772b", "#35a06a", "#b266c7", "#d1505a")
NO_MATPLOTLIB = """\
plot.py: {python} has no matplotlib, which draws the figures.
Install it: apt-get install python3-matplotlib (then {system} has it), or
{python} -m pip install matplotlib"""
STYLE = {
    "svg.hashsalt": "libftmem", "svg.fonttype": "none",
    "font.size": 10, "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans", "Verdana"],
    "figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none",
    "legend.facecolor": "none", "legend.edgecolor": "none", "legend.framealpha": 0,
    "text.color": GREY, "axes.labelcolor": GREY, "axes.titlecolor": GREY,
    "axes.edgecolor": GREY, "xtick.color": GREY, "ytick.color": GREY,
    "axes.grid": True, "axes.grid.axis": "y", "grid.color": GREY, "grid.alpha": 0.3,
    "grid.linewidth": 0.6, "axes.spines.top": False, "axes.spines.right": False,
}


class Panel:
    """One set of axes. All lines of it go through here, so that they look alike."""

    def __init__(self, axes, title, x, y):
        self.axes, self.lines = axes, 0
        axes.set_title(title, fontsize=10)
        axes.set_xlabel(x)
        axes.set_ylabel(y)

    def colour(self):
        self.lines += 1
        return COLOURS[(self.lines - 1) % len(COLOURS)]

    def times(self, points, text):
        """Medians with their range, and the floor of each run as a dashed line."""
        if not points:
            return
        colour = self.colour()
        xs, times = [p.x for p in points], [p.time for p in points]
        self.axes.errorbar(xs, [t.median for t in times], label=text, color=colour,
                           marker="o", markersize=4, linewidth=1.5, capsize=2, elinewidth=0.8,
                           yerr=([t.median - t.least for t in times],
                                 [t.most - t.median for t in times]))
        floors = [(x, t.floor) for x, t in zip(xs, times) if t.floor is not None]
        if floors:
            self.axes.plot(*zip(*floors), color=colour, linestyle="--", linewidth=1)

    def shares(self, points, text):
        """How much of the floor was reached, in percent."""
        reached = [(p.x, 100 * p.time.reached) for p in points if p.time.reached is not None]
        if reached:
            self.axes.plot(*zip(*reached), color=self.colour(), label=text, marker="o",
                           markersize=4, linewidth=1.5)
            self.axes.set_ylim(0, max(100, 10 + max(y for _, y in reached)))

    def counts(self, points, text):
        """Simulated values, and dotted what they are without the table of ranks."""
        if not points:
            return
        colour = self.colour()
        ranks, values, less = zip(*points)
        self.axes.plot(ranks, values, color=colour, label=text, marker="o", markersize=3,
                       linewidth=1.5)
        if None not in less and less != values:
            self.axes.plot(ranks, less, color=colour, linestyle=":", linewidth=1.5)

    def bars(self, groups, values, text):
        """One bar of a colour beside each group's name; None: there is none."""
        width, colour = 0.26, self.colour()
        at = [i + width * (self.lines - 1) for i, v in enumerate(values) if v is not None]
        drawn = self.axes.bar(at, [v for v in values if v is not None], width, color=colour,
                              label=text)
        self.axes.bar_label(drawn, fmt="%.3g", fontsize=7, color=GREY, padding=2)
        middle = width * (self.lines - 1) / 2
        self.axes.set_xticks([i + middle for i in range(len(groups))], groups, fontsize=8)

    def log_x(self, ticks, texts):
        self.axes.set_xscale("log", base=2)
        self.axes.set_xticks(ticks, texts)
        self.axes.minorticks_off()

    def done(self):
        if self.lines:
            self.axes.legend(fontsize=9, labelcolor=GREY)


def size_ticks(panel, found):
    sizes = sorted({run["bytes"] for run in found})
    panel.log_x(sizes, [runs.size_text(size).replace(" ", "\n") for size in sizes])


def rank_ticks(panel, ranks, apart=2):
    """A tick for each count that is at least so many times the one before."""
    ticks = []
    for count in ranks:
        if not ticks or count >= apart * ticks[-1]:
            ticks.append(count)
    panel.log_x(ticks, [f"{count:,}" for count in ticks])


def lost_text(m):
    return f"{m} node may be lost" if m == 1 else f"{m} nodes may be lost"


# Each figure: sets of results that it needs, panels side by side, and what draws them.

def protect_size(figure, found):
    sizes = runs.of_set(found, "size")
    panel = Panel(figure.subplots(), f"Protect, {runs.setting(sizes, 'ranks')} ranks, each its "
                  "own node", "state of each rank", "seconds, dashed: floor")
    for m, those in runs.by_parity(sizes).items():
        panel.times(runs.line(those, "bytes", "protect_s"), lost_text(m))
    panel.axes.set_yscale("log")
    size_ticks(panel, sizes)
    panel.done()


def protect_nodes(figure, found):
    nodes = runs.of_set(found, "nodes")
    panel = Panel(figure.subplots(), f"Protect, {runs.size_text(runs.setting(nodes, 'bytes'))} "
                  f"a rank, all on {runs.setting(nodes, 'cpus_on_host')} CPUs",
                  "nodes of the group, one rank each", "seconds, dashed: floor")
    for m, those in runs.by_parity(nodes).items():
        panel.times(runs.line(those, "nodes", "protect_s"), lost_text(m))
    panel.axes.set_ylim(bottom=0)
    panel.done()


def of_floor(figure, found):
    sizes, nodes = runs.of_set(found, "size"), runs.of_set(found, "nodes")
    left, right = figure.subplots(1, 2, sharey=True)
    left = Panel(left, f"Protect, {runs.setting(sizes, 'ranks')} ranks", "state of each rank",
                 "floor over time, %")
    right = Panel(right, f"Protect, {runs.size_text(runs.setting(nodes, 'bytes'))} a rank",
                  "nodes of the group", "")
    for m, those in runs.by_parity(sizes).items():
        left.shares(runs.line(those, "bytes", "protect_s"), lost_text(m))
    for m, those in runs.by_parity(nodes).items():
        right.shares(runs.line(those, "nodes", "protect_s"), lost_text(m))
    size_ticks(left, sizes)
    left.done()
    right.done()


def restore(figure, found):
    sizes = runs.of_set(found, "size")
    m = max(run["parity"] for run in sizes)
    sizes = runs.by_parity(sizes)[m]
    left, right = figure.subplots(1, 2)
    left = Panel(left, f"Restore, {runs.setting(sizes, 'ranks')} ranks, {lost_text(m)}",
                 "state of each rank", "seconds, dashed: floor")
    right = Panel(right, "How much of the floor", "state of each rank", "floor over time, %")
    for lost in range(m + 1):
        points = runs.line(sizes, "bytes", "rebuild_s" if lost else "restore_s", lost)
        text = f"{lost} lost" if lost else "nothing lost"
        left.times(points, text)
        right.shares(points, text)
    left.axes.set_yscale("log")
    size_ticks(left, sizes)
    size_ticks(right, sizes)
    left.done()


def growth_ranks(figure, found):
    grown = runs.of_set(found, "ranks")
    panel = Panel(figure.subplots(), f"{runs.size_text(runs.setting(grown, 'bytes'))} a rank, "
                  f"all ranks on {runs.setting(grown, 'cpus_on_host')} CPUs",
                  "ranks, each its own node", "seconds, dashed: floor")
    for what, text in (("seal_s", "first seal"), ("restore_s", "restore, nothing lost"),
                       ("protect_s", "protect")):
        panel.times(runs.line(grown, "ranks", what), text)
    panel.axes.set_yscale("log")
    rank_ticks(panel, sorted({run["ranks"] for run in grown}))
    panel.done()


def growth_simulated(figure, found):
    simulations = runs.of_set(found, "growth")
    if len(simulations) != 1:
        raise runs.Failure("there can be one result of the growth simulator, not "
                           + ", ".join(run["name"] for run in simulations))
    run = simulations[0]
    ranks = sorted({row["ranks"] for row in run["growth"]})
    panels = (("messages", "Messages sent by a rank"), ("bytes", "Bytes sent by a rank"),
              ("memory", "Bytes of memory of a rank"), ("steps", "Steps of a rank"))
    all_axes = figure.subplots(2, 2, sharex=True)
    for axes, (key, title) in zip(all_axes.flat, panels):
        panel = Panel(axes, title, "ranks" if axes in all_axes[1] else "", "")
        for phase in runs.phases(run):
            panel.counts(runs.grown(run, phase, key), phase)
        axes.set_yscale("log")
        rank_ticks(panel, ranks, apart=4)
        if key == "steps":
            panel.done()


def gpu(figure, found):
    found = runs.of_set(found, "gpu")
    names = [run["name"].partition("-")[2].replace("-", "\n") or "gpu" for run in found]
    left, right = figure.subplots(1, 2)
    left = Panel(left, "Step of training, over that without snapshots", "", "%")
    right = Panel(right, "Copies, all ranks together", "", "GB/s")
    for kind, text in (("ideal", "ideal copies"), ("ftmem", "libftmem")):
        left.bars(names, [runs.gpu_median(run, "train", "overhead_percent", kind)
                          for run in found], text)
    for section, key, text in (("raw", "d2h_GBps", "one array to the host"),
                               ("copy", "d2h_GBps", "snapshot"),
                               ("copy", "h2d_GBps", "restore")):
        right.bars(names, [runs.gpu_median(run, section, key, join=sum) for run in found], text)
    for panel in (left, right):
        panel.axes.margins(y=0.35)
        panel.done()


FIGURE_OF = {
    # name: (has its results, inches, drawing)
    "protect-size": (("size",), (6.4, 4), protect_size),
    "protect-nodes": (("nodes",), (6.4, 4), protect_nodes),
    "of-floor": (("size", "nodes"), (9.6, 4), of_floor),
    "restore-size": (("size",), (9.6, 4), restore),
    "growth-ranks": (("ranks",), (6.4, 4), growth_ranks),
    "growth-simulated": (("growth",), (9.6, 7), growth_simulated),
    "gpu": (("gpu",), (9.6, 4), gpu),
}


def wanted(found, names):
    """Names of figures for which there are results, and of the others what they lack."""
    have = {run["set"] for run in found}
    draw, lack = [], {}
    for name in names:
        missing = [part for part in FIGURE_OF[name][0] if part not in have]
        if missing:
            lack[name] = missing
        else:
            draw.append(name)
    return draw, lack


def draw_all(found, names, out):
    # Here, so that all else does without it.
    import matplotlib
    matplotlib.use("svg")
    from matplotlib import pyplot
    matplotlib.rcParams.update(STYLE)
    out.mkdir(parents=True, exist_ok=True)
    for name in names:
        _, inches, drawing = FIGURE_OF[name]
        figure = pyplot.figure(figsize=inches, layout="constrained")
        drawing(figure, found)
        path = out / f"{name}.svg"
        figure.savefig(path, metadata={"Date": None, "Creator": None, "Title": name})
        pyplot.close(figure)
        # matplotlib leaves blanks at the ends of lines.
        text = "\n".join(part.rstrip() for part in path.read_text().splitlines())
        path.write_text(text + "\n")
        print(f"plot.py: {path}, {len(text) // 1024 + 1} KiB")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", default=runs.RESULTS, metavar="FOLDER",
                        help="where the JSON files are (default: bench/results)")
    parser.add_argument("--out", default=FIGURES, type=pathlib.Path, metavar="FOLDER",
                        help="where the figures go (default: docs/figures)")
    parser.add_argument("figure", nargs="*",
                        help=f"which to draw, of: {', '.join(FIGURE_OF)} (default: all "
                             "for which there are results)")
    args = parser.parse_args()
    unknown = sorted(set(args.figure) - set(FIGURE_OF))
    if unknown:
        parser.error(f"no figure is called {unknown[0]}; there are {', '.join(FIGURE_OF)}")
    try:
        found = runs.read_all(args.results)
        names, lack = wanted(found, args.figure or list(FIGURE_OF))
        for name, missing in lack.items():
            print(f"plot.py: {name} is not drawn: no results {missing[0]}*.json in "
                  f"{args.results}", file=sys.stderr)
        if names:
            draw_all(found, names, args.out)
    except ModuleNotFoundError as error:
        if error.name.split(".")[0] != "matplotlib":
            raise
        print(NO_MATPLOTLIB.format(python=sys.executable, system="/usr/bin/python3"),
              file=sys.stderr)
        return 2
    except runs.Failure as failure:
        print(f"plot.py: {failure}", file=sys.stderr)
        return 1
    return 1 if not names or (args.figure and lack) else 0


if __name__ == "__main__":
    sys.exit(main())
