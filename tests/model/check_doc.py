#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""The table of docs/protocol.md that ties the model to the code names what there is: all
transitions of the model, functions of src/, tests."""
import pathlib
import re
import sys

HEAD = "| transition | code | tests |"


def rows(text):
    """The cells of the table, row by row."""
    lines = text.splitlines()
    for line in lines[lines.index(HEAD) + 2:]:
        if not line.startswith("|"):
            return
        yield [cell.strip() for cell in line.strip("|").split("|")]


def contents(folder, suffixes):
    return "\n".join(path.read_text(errors="replace") for path in sorted(folder.rglob("*"))
                     if path.is_file() and path.suffix in suffixes)


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
    model = contents(root / "tests/model", {".pml"})
    labels = set(re.findall(r"^([A-Z_]+):$", model, re.M))
    code = contents(root / "src", {".c"})
    tests = contents(root / "tests", {".c", ".py"})
    named, problems = set(), []
    for transition, functions, names in rows((root / "docs/protocol.md").read_text()):
        named |= set(re.findall(r"`([A-Z_]+)`", transition))
        for name in re.findall(r"`(\w+)\(\)`", functions):
            if not re.search(rf"^[a-z][^;=]*\b{name}\(", code, re.M):
                problems.append(f"{transition}: no function {name}() in src")
        for name in re.findall(r"`(\w+)`", names):
            if not re.search(rf"(^static void|^def) {name}\(", tests, re.M):
                problems.append(f"{transition}: no test {name}")
    problems += [f"{name}: not in the model" for name in sorted(named - labels)]
    problems += [f"{name}: not in docs/protocol.md" for name in sorted(labels - named)]
    for line in problems:
        print(line)
    print(f"{len(labels)} transitions, {len(problems)} problem(s)")
    return 1 if problems or not labels else 0


if __name__ == "__main__":
    sys.exit(main())
