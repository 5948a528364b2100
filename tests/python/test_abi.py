# SPDX-License-Identifier: BSD-3-Clause
"""ftmem._abi has the structs, constants and calls of include/ftmem.h."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess

import pytest
from conftest import ROOT
from ftmem import _abi

INCLUDE = ROOT / "include"
COMPILER = os.environ.get("FTMEM_CC", "cc")
# Of the header, as that of _abi: constants whose names differ only in the prefix.
CONSTANTS = [*_abi.RESULTS, "MAX_DIMS", "NO_RANK", "NAME_MAX", "REGION_NAME_MAX", "VERSION_MAX",
             "PRIVATE_RANK", "PRIVATE_DROP", "BUSY_SKIP", "BUSY_WAIT", "SCRUB_OFF",
             "LOG_ERROR", "LOG_WARN", "LOG_INFO", "LOG_DEBUG"]


def header() -> str:
    """Without comments."""
    return re.sub(r"/\*.*?\*/", "", (INCLUDE / "ftmem.h").read_text(), flags=re.DOTALL)


def members(struct: str) -> list[str]:
    """Names of a struct's members, as the header has them. Padding can hide a new one from
    sizes and offsets."""
    body = re.search(rf"struct {struct} {{(.*?)}};", header(), re.DOTALL).group(1)
    names = []
    for declaration in body.split(";"):
        pointer = re.search(r"\(\*(\w+)\)", declaration)
        names += [pointer.group(1)] if pointer else re.findall(
            r"(\w+)\s*(?:\[\w+\])?\s*(?:,|$)", declaration.strip())
    return names


def declared_calls() -> dict[str, list[str]]:
    """The parameters of each exported function: none for (void)."""
    call = re.compile(r"^FTMEM_API .*?\b(ftmem_\w+)\(([^;]*)\);", re.MULTILINE | re.DOTALL)
    found = call.findall(header())
    return {name: [] if text == "void" else text.split(",") for name, text in found}


@pytest.fixture(scope="module")
def seen(tmp_path_factory) -> dict[str, int]:
    """Sizes, offsets and constants by name, as a C program sees them."""
    expressions = [f"FTMEM_{name}" for name in CONSTANTS]
    for name, struct in _abi.STRUCTS.items():
        expressions.append(f"sizeof(struct {name})")
        for member, _ in struct._fields_:
            expressions += [f"offsetof(struct {name}, {member})",
                            f"sizeof(((struct {name} *)0)->{member})"]
    shows = "\n".join(f'printf("%lld {text}\\n", (long long)({text}));' for text in expressions)
    folder = tmp_path_factory.mktemp("layout")
    source, binary = folder / "layout.c", folder / "layout"
    source.write_text("#include <ftmem.h>\n#include <stdio.h>\nint main(void)\n{\n" + shows
                      + "\nreturn 0;\n}\n")
    subprocess.run([COMPILER, "-I", INCLUDE, "-o", binary, source], check=True, timeout=60)
    shown = subprocess.run([binary], check=True, capture_output=True, text=True, timeout=60).stdout
    return {name: int(value) for value, name in
            (line.split(" ", 1) for line in shown.splitlines())}


@pytest.mark.parametrize("name", _abi.STRUCTS)
def test_structs_have_the_headers_members_sizes_and_offsets(seen, name):
    struct = _abi.STRUCTS[name]
    assert members(name) == [member for member, *_ in struct._fields_]
    assert seen[f"sizeof(struct {name})"] == ctypes.sizeof(struct)
    for member, *_ in struct._fields_:
        field = getattr(struct, member)
        assert seen[f"offsetof(struct {name}, {member})"] == field.offset, member
        assert seen[f"sizeof(((struct {name} *)0)->{member})"] == field.size, member


def test_constants_have_the_headers_values(seen):
    here = {**vars(_abi), **_abi.RESULTS}
    assert {name: here[name] for name in CONSTANTS} == {
        name: seen[f"FTMEM_{name}"] for name in CONSTANTS}


def test_every_result_of_the_header_is_there():
    assert set(re.findall(r"X\(FTMEM_(\w+),", header())) == set(_abi.RESULTS)


def test_every_constant_of_an_enum_is_there():
    named = set(re.findall(r"^\s*FTMEM_(\w+) = \d", header(), re.MULTILINE))
    assert named and named <= set(CONSTANTS)


def test_every_call_of_the_header_is_there_with_as_many_arguments():
    declared = {name: len(parameters) for name, parameters in declared_calls().items()}
    assert declared == {name: len(kinds) - 1 for name, kinds in _abi.SIGNATURES.items()}


def test_integers_of_calls_are_as_wide_as_the_headers():
    widths = {"uint64_t": ctypes.c_uint64, "uint32_t": ctypes.c_uint32, "int": ctypes.c_int}
    for name, parameters in declared_calls().items():
        for text, kind in zip(parameters, _abi.SIGNATURES[name][1:]):
            word = text.split()[0]
            if "*" not in text and word in widths:
                assert kind is widths[word], f"{name}: {text.strip()}"


def test_structs_are_led_by_their_size():
    for struct in _abi.STRUCTS.values():
        assert struct().size == ctypes.sizeof(struct)


def test_the_library_has_every_call():
    library = ctypes.CDLL(os.environ["FTMEM_LIBRARY"], mode=ctypes.RTLD_GLOBAL)
    assert [name for name in _abi.SIGNATURES if not hasattr(library, name)] == []


def test_the_package_has_the_headers_version():
    import ftmem

    parts = dict(re.findall(r"#define FTMEM_VERSION_(\w+) (\d+)", header()))
    assert ftmem.__version__ == f"{parts['MAJOR']}.{parts['MINOR']}.{parts['PATCH']}"
