#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""That bench/ftmem_ctypes.py has the structs, constants and calls of include/ftmem.h.

usage: test_ctypes.py BENCH INCLUDE COMPILER LIBRARY [CLASS...]
"""
import ctypes
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

BENCH, INCLUDE, COMPILER, LIBRARY = (sys.argv.pop(1) for _ in range(4))
sys.path.insert(0, BENCH)
sys.dont_write_bytecode = True
import ftmem_ctypes  # noqa: E402

STRUCTS = {"ftmem_opts": ftmem_ctypes.Opts, "ftmem_region": ftmem_ctypes.Region,
           "ftmem_stats": ftmem_ctypes.Stats}
CONSTANTS = {
    "FTMEM_MAX_DIMS": "MAX_DIMS", "FTMEM_NO_RANK": "NO_RANK",
    "FTMEM_OK": "OK", "FTMEM_BUSY": "BUSY", "FTMEM_FRESH": "FRESH", "FTMEM_DROPPED": "DROPPED",
    "FTMEM_PRIVATE_RANK": "PRIVATE_RANK", "FTMEM_PRIVATE_DROP": "PRIVATE_DROP",
    "FTMEM_BUSY_SKIP": "BUSY_SKIP", "FTMEM_BUSY_WAIT": "BUSY_WAIT",
    "FTMEM_LOG_ERROR": "LOG_ERROR", "FTMEM_LOG_WARN": "LOG_WARN", "FTMEM_LOG_INFO": "LOG_INFO",
    "FTMEM_LOG_DEBUG": "LOG_DEBUG",
}


def header():
    return (pathlib.Path(INCLUDE) / "ftmem.h").read_text()


def members(struct):
    """Names of a struct's members, as the header has them. Padding can hide a new one from
    sizes and offsets."""
    text = re.sub(r"/\*.*?\*/", "", header(), flags=re.DOTALL)
    body = re.search(rf"struct {struct} {{(.*?)}};", text, re.DOTALL).group(1)
    names = []
    for declaration in body.split(";"):
        pointer = re.search(r"\(\*(\w+)\)", declaration)
        names += [pointer.group(1)] if pointer else re.findall(
            r"(\w+)\s*(?:\[\w+\])?\s*(?:,|$)", declaration.strip())
    return names


def ask_the_compiler():
    """Sizes, offsets and constants, by name, as a C program sees them."""
    lines = [f'show({name});' for name in CONSTANTS]
    for name, struct in STRUCTS.items():
        lines.append(f"show(sizeof(struct {name}));")
        for member, _ in struct._fields_:
            lines += [f"show(offsetof(struct {name}, {member}));",
                      f"show(sizeof(((struct {name} *)0)->{member}));"]
    program = ('#include <ftmem.h>\n#include <stdio.h>\n'
               '#define show(x) printf("%lld %s\\n", (long long)(x), #x)\n'
               "int main(void)\n{\n" + "\n".join(lines) + "\nreturn 0;\n}\n")
    with tempfile.TemporaryDirectory() as folder:
        source, binary = pathlib.Path(folder, "layout.c"), pathlib.Path(folder, "layout")
        source.write_text(program)
        subprocess.run([COMPILER, "-I", INCLUDE, "-o", binary, source], check=True)
        shown = subprocess.run([binary], check=True, capture_output=True, text=True).stdout
    return dict(reversed(line.split(" ", 1)) for line in shown.splitlines())


class Mirror(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.seen = {name: int(value) for name, value in ask_the_compiler().items()}

    def test_structs_have_the_header_s_sizes_and_offsets(self):
        for name, struct in STRUCTS.items():
            self.assertEqual(self.seen[f"sizeof(struct {name})"], ctypes.sizeof(struct), name)
            for member, _ in struct._fields_:
                field = getattr(struct, member)
                self.assertEqual(self.seen[f"offsetof(struct {name}, {member})"], field.offset,
                                 f"{name}.{member}")
                self.assertEqual(self.seen[f"sizeof(((struct {name} *)0)->{member})"],
                                 field.size, f"{name}.{member}")

    def test_constants_have_the_header_s_values(self):
        for name, here in CONSTANTS.items():
            self.assertEqual(self.seen[name], getattr(ftmem_ctypes, here), name)

    def test_structs_have_the_header_s_members(self):
        for name, struct in STRUCTS.items():
            self.assertEqual(members(name), [member for member, _ in struct._fields_], name)

    def test_every_call_of_the_header_is_there(self):
        calls = set(re.findall(r"^FTMEM_API .*?\b(ftmem_\w+)\(", header(), re.MULTILINE))
        self.assertEqual(calls, set(ftmem_ctypes.SIGNATURES))


class Calls(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.library = ftmem_ctypes.Library(LIBRARY)

    def test_structs_are_led_by_their_size(self):
        self.assertEqual(ftmem_ctypes.Stats().size, ctypes.sizeof(ftmem_ctypes.Stats))

    def test_errors_carry_the_library_s_message(self):
        with self.assertRaisesRegex(ftmem_ctypes.Error, "ftmem_open: .*job.*result -1"):
            ftmem_ctypes.Session(self.library, job="not a name")


if __name__ == "__main__":
    unittest.main(verbosity=2)
