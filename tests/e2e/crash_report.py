#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""The table of crash.py in docs/faults.md, and a check that no crash point lacks a row."""
import difflib
import itertools
import pathlib
import re
import sys

import crash_cases

BEGIN = "<!-- crash matrix: begin -->"
END = "<!-- crash matrix: end -->"
COLUMNS = {"kill-rank": "rank", "kill-smp": "SMP", "kill-node": "both", "kill-job": "all ranks"}
TITLES = {
    "start": "The job starts; the version is the one stored",
    "version": "A version is stored; it is the one under way",
    "recovery": "Recovery in place after the loss of a node; the version is the one restored",
    "move": "Recovery on other nodes, into a new epoch; the version is the one restored",
    "epoch": "The layout is sealed anew; the version is the first of the new epoch",
    "repair": "`ftmem_repair` while the job runs; the version is the one mended",
}
# Cells, or versions of them, that cannot be.
NOTES = {
    ("start", "attach"): "nothing stored: there is no memory to attach to",
    ("version", "retire"): "passed at the first commit since a start alone; later ones below, "
                           "where the layout is sealed anew",
    ("repair", "reclear"): "with the first version alone: nothing older is to be kept then",
}


def cell(outcomes, section, point, what):
    """Versions that were tried, and how often it ended well."""
    mine = [(case.version, good) for case, good in outcomes
            if (case.section, case.point, case.what) == (section, point, what)]
    if not mine:
        return "–"
    versions = " ".join(str(v) if v else "none" for v in sorted({v for v, _ in mine}))
    good = sum(good for _, good in mine)
    return f"{versions}: {good}" + ("" if good == len(mine) else f" of {len(mine)} **FAILED**")


def section_table(outcomes, section, notes):
    yield f"**{TITLES[section]}**"
    yield ""
    yield "| point | " + " | ".join(COLUMNS.values()) + " |"
    yield "|---|" + "---|" * len(COLUMNS)
    for point in crash_cases.SECTIONS[section]:
        mark = ""
        if (section, point) in NOTES:
            notes.append(NOTES[section, point])
            mark = f" ({len(notes)})"
        cells = (cell(outcomes, section, point, what) for what in COLUMNS)
        yield f"| `{point}`{mark} | " + " | ".join(cells) + " |"
    yield ""


def lines(outcomes, seed):
    """outcomes: pairs of a case and whether it ended well."""
    notes = []
    good = sum(good for _, good in outcomes)
    cells = {(c.section, c.point, c.what, c.version) for c, _ in outcomes if c.section}
    yield ""
    yield f"{good} of {len(outcomes)} cases ended well (`crash.py --full --seed {seed}`); they " \
          f"cover {len(cells)} cells."
    yield "A cell shows the versions tried, then in how many cases all was well."
    yield ""
    for section in crash_cases.SECTIONS:
        yield from section_table(outcomes, section, notes)
    for number, note in enumerate(notes, 1):
        yield from wrapped(f"({number}) {note}")
    yield ""
    rest = [(case.name, good) for case, good in outcomes if not case.section]
    yield f"Besides, {sum(good for _, good in rest)} of {len(rest)} cases that are no cells:"
    yield from wrapped(", ".join(f"`{name}`" + ("" if good else " **FAILED**")
                                 for name, good in rest))
    yield ""


def wrapped(text, width=100):
    line = ""
    for word in text.split(" "):
        if line and len(line) + 1 + len(word) > width:
            yield line
            line = word
        else:
            line = f"{line} {word}".strip()
    yield line + "."


def split(text):
    """What is before the markers, between, and after them; None if they are not there."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        return None
    head, _, rest = text.partition(BEGIN)
    table, _, tail = rest.partition(END)
    return head, table, tail


def write(path, outcomes, seed):
    """Replaces what is between the markers in the file."""
    parts = split(pathlib.Path(path).read_text())
    if parts is None:
        sys.exit(f"{path}: the table goes between {BEGIN} and {END}, each once")
    table = "\n".join(lines(outcomes, seed))
    pathlib.Path(path).write_text(parts[0] + BEGIN + "\n" + table + END + parts[2])


def points(source):
    """Names of the points in the list of tests/util/fault.c."""
    rows = re.findall(r"\[POINT_\w+\] = \{\"([\w-]*)\", \"([\w-]*)\"\}", source)
    return list(dict.fromkeys(name for row in rows for name in row if name))


def check(document, source):
    """The table is that of a run of all the cases that there are, all good; there is a case for
    each point."""
    parts = split(document)
    if parts is None:
        yield "no table of crash points between its markers"
        return
    known = points(source)
    if not known:
        yield "no crash points found in tests/util/fault.c"
    rows = {point for points_of in crash_cases.SECTIONS.values() for point in points_of}
    for point in sorted(set(known) ^ rows):
        yield f"{point}: a crash point without a row, or a row without a crash point"
    for section, points_of in crash_cases.SECTIONS.items():
        tried = {(c.point, c.what) for c in crash_cases.full() if c.section == section}
        for point, what in itertools.product(points_of, COLUMNS):
            if (point, what) not in tried:
                yield f"no case of {what} at {point} ({section})"
    seed = re.search(r"`crash.py --full --seed (\d+)`", parts[1])
    if not seed:
        yield "the table does not tell its seed"
        return
    should = lines([(case, True) for case in crash_cases.full()], seed[1])
    for line in difflib.ndiff(parts[1].split("\n"), ["", *should]):
        if line.startswith(("- ", "+ ")):
            yield f"the table {'has' if line[0] == '-' else 'lacks'}: {line[2:]}"


def main():
    if len(sys.argv) != 3:
        sys.exit("usage: crash_report.py DOCS/FAULTS.MD TESTS/UTIL/FAULT.C")
    if not pathlib.Path(sys.argv[1]).exists():
        sys.exit(f"no {sys.argv[1]}")
    document, source = (pathlib.Path(path).read_text() for path in sys.argv[1:])
    problems = list(check(document, source))
    for problem in problems:
        print(problem)
    print(f"crash points: {len(points(source))}, {len(problems)} problem(s); "
          "crash.py --full --report writes the table")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
