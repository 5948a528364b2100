#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""What every file of the tree keeps to: length, licence line, width, no leftovers."""
import pathlib
import re
import sys

FOLDERS = ("include", "src", "tests", "bench", "examples", "scripts", "python", "cmake", "docs")
CODE = {".c", ".h", ".py", ".sh", ".cu", ".pml"}
TEXT = CODE | {".md", ".cmake", ".in", ".txt", ".map", ".1", ".3", ".7"}
LINES_MAX = 700
WIDTH_MAX = 100
# Spelled apart, so that this file passes.
MARKS = re.compile(r"\b(" + "|".join(["TO" "DO", "FIX" "ME", "XX" "X", "HA" "CK"]) + r")\b")


def check(path, name):
    text = path.read_text(errors="replace")
    lines = text.splitlines()
    if path.suffix in CODE:
        if len(lines) > LINES_MAX:
            yield f"{name}: {len(lines)} lines; at most {LINES_MAX}"
        if "SPDX-License-Identifier: BSD-3-Clause" not in "\n".join(lines[:3]):
            yield f"{name}: begin with the SPDX line"
    for number, line in enumerate(lines, 1):
        if MARKS.search(line):
            yield f"{name}:{number}: a mark of unfinished work"
        if line != line.rstrip():
            yield f"{name}:{number}: blanks at the end of the line"
        if path.suffix in CODE and len(line.expandtabs(8)) > WIDTH_MAX:
            yield f"{name}:{number}: wider than {WIDTH_MAX} columns"
        if path.suffix in {".c", ".h"} and re.match(r" +\t", line):
            yield f"{name}:{number}: a tab after a blank"
    if text and not text.endswith("\n"):
        yield f"{name}: no newline at the end"


def unbuilt(root):
    """Sources that no CMakeLists.txt names: they would silently not be built or run."""
    for folder in ("src", "bench", "examples", "tests"):
        lists = "\n".join(p.read_text() for p in (root / folder).rglob("CMakeLists.txt"))
        for path in sorted((root / folder).rglob("*.c")):
            names = {path.name}
            if folder == "tests":
                names |= {path.stem.removeprefix("test_").removeprefix("sim_"),
                          path.stem.removeprefix("fuzz_"),
                          "alloc" if path.stem == "alloc_fail" else path.name}
            if path.name not in {"keep_modules.c"} and not any(
                    re.search(rf"\b{re.escape(name)}\b", lists) for name in names):
                yield f"{path.relative_to(root)}: in no CMakeLists.txt"


def dead_links(root, path):
    """Links of a document to files that are not there."""
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text()):
        if not (path.parent / target).exists():
            yield f"{path.relative_to(root)}: links to {target}, which is not there"


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
    paths = [p for p in root.iterdir() if p.is_file()]
    for folder in FOLDERS:
        paths += (root / folder).rglob("*")
    problems = []
    for path in sorted(paths):
        if path.is_file() and (path.suffix in TEXT or path.name == "run"):
            problems += check(path, path.relative_to(root))
        if path.suffix == ".md":
            problems += dead_links(root, path)
    problems += unbuilt(root)
    for line in problems:
        print(line)
    print(f"files: {len(problems)} problem(s)")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
