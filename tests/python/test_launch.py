# SPDX-License-Identifier: BSD-3-Clause
"""Ranks come from MPI, torchrun is refused with the command to use, and the library is found or
its absence told."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import ftmem
import pytest
from conftest import ROOT
from ftmem import _library, launch

PYTHON = ROOT / "python"
TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "4", "RANK": "0"}


@pytest.mark.parametrize("mpi4py", ["absent", "before", "after"])
def test_all_ranks_learn_who_they_are(mpirun, mpi4py):
    if mpi4py != "absent" and find_spec("mpi4py") is None:
        pytest.skip("no mpi4py")
    done = mpirun(3, "launch_world.py", mpi4py)
    # Lines of ranks may meet.
    assert sorted(re.findall(r"rank \d of \d", done.stdout)) == [
        "rank 0 of 3", "rank 1 of 3", "rank 2 of 3"]


def test_torch_distributed_works_beside_a_session(mpirun):
    assert mpirun(2, "launch_group.py").stdout.count("done") == 2


def test_a_process_that_no_launcher_started_is_a_world_of_one(mpirun):
    assert "rank 0 of 1" in mpirun(0, "launch_world.py", "absent").stdout


def test_torchrun_is_refused_with_the_command_to_use(mpirun):
    done = mpirun(0, "launch_world.py", "absent", env=TORCHRUN, status=1)
    assert "FtmemError: world: this process was started by torchrun" in done.stdout
    script = mpirun.path("launch_world.py")
    assert f"Use instead: mpirun -n 4 python {script} absent" in done.stdout


def test_a_session_under_torchrun_is_refused(monkeypatch):
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ftmem.FtmemError, match="started by torchrun"):
        ftmem.Session("any")


@pytest.mark.parametrize(("launcher", "taken"), [
    ({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "4"}, True),
    ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "PMIX_RANK": "0"}, True),
    ({"PMI_RANK": "0", "PMI_SIZE": "4"}, True),
    # One torchrun for each node of an allocation.
    ({"SLURM_PROCID": "0", "SLURM_NTASKS": "2", "PMIX_RANK": "0"}, False),
    ({"SLURM_PROCID": "1", "SLURM_NTASKS": "4"}, False),
    ({"SLURM_PROCID": "0"}, False),
    ({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"}, False),
])
def test_torchrun_is_taken_where_an_mpi_launcher_started_the_same_ranks(
        monkeypatch, launcher, taken):
    for name in (name for pair in launch.MPI_VARIABLES for name in pair):
        monkeypatch.delenv(name, raising=False)
    for name, value in {**TORCHRUN, **launcher}.items():
        monkeypatch.setenv(name, value)
    if taken:
        launch.check_launcher("any")
    else:
        with pytest.raises(ftmem.FtmemError, match="mpirun -n 4"):
            launch.check_launcher("any")


# --- the interpreter of the scripts ---


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def shell(folder: Path, text: str, **env: str) -> subprocess.CompletedProcess[str]:
    """A shell in folder with the functions of scripts/setup.sh, none of which installs packages."""
    setup = f". {ROOT}/scripts/setup.sh; ftmem_root={folder}; ftmem_setup() {{ echo PACKAGES; }}; "
    return subprocess.run(["bash", "-c", setup + text], cwd=folder, env={**os.environ, **env},
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)


def test_a_relative_interpreter_is_that_of_where_the_script_was_called(tmp_path):
    python = script(tmp_path / "bin" / "python", "exit 0")
    done = shell(tmp_path, "cd /; ftmem_venv && echo $FTMEM_PYTHON", FTMEM_PYTHON="bin/python")
    assert done.stdout == f"{python}\n"


def test_an_interpreter_without_pytest_is_told(tmp_path):
    python = script(tmp_path / "python", 'case "$*" in *pytest*) exit 1;; esac')
    function = f"eval \"$(sed -n '/^python_environment/,/^}}/p' {ROOT}/scripts/test.sh)\"; "
    done = shell(tmp_path, function + "python_environment; echo \"$?$without_python\"",
                 FTMEM_PYTHON=str(python), FTMEM_REQUIRE_ALL="1")
    assert done.stdout.startswith("1\n") and "pytest cannot be had" in done.stdout


@pytest.mark.parametrize("works", [True, False])
def test_packages_are_asked_for_only_if_no_environment_can_be_made(tmp_path, works):
    made = "for last; do :; done; mkdir -p $last/bin; cp $0 $last/bin/python"
    fails_once = f"[ -e {tmp_path}/tried ] || {{ >{tmp_path}/tried; exit 1; }}"
    lines = ['[ "$2" = venv ] || exit 0', ":" if works else fails_once, made]
    script(tmp_path / "path" / "python3", "\n".join(lines))
    done = shell(tmp_path, "ftmem_has_wheels() { false; }; ftmem_venv && echo $FTMEM_PYTHON",
                 FTMEM_PYTHON="", PATH=f"{tmp_path}/path:{os.environ['PATH']}")
    assert done.stdout.endswith(f"{tmp_path}/build/venv/bin/python\n")
    assert ("PACKAGES" in done.stdout) is not works


# --- where the library is ---


@pytest.fixture
def loadable(monkeypatch):
    """The paths that can be loaded in this test, as if nothing were loaded yet."""
    paths: set[str] = set()

    def library(path: str) -> str:
        if path not in paths:
            raise OSError(f"{path}: not in this test")
        return path

    monkeypatch.setattr(_library, "Library", library)
    monkeypatch.setattr(_library, "_loaded", {})
    monkeypatch.delenv("FTMEM_LIBRARY")
    return paths


@pytest.fixture
def tree(monkeypatch, tmp_path):
    """A source tree with three builds, oldest first: release, dev, and one with a sanitizer."""
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "ftmem.h").touch()
    for i, (build, sanitize) in enumerate([("release", ""), ("dev", ""), ("asan", "address")]):
        folder = tmp_path / "build" / build
        (folder / "bin").mkdir(parents=True)
        (folder / "CMakeCache.txt").write_text(f"FTMEM_SANITIZE:STRING={sanitize}\n")
        (folder / "bin" / "libftmem.so").touch()
        os.utime(folder / "bin" / "libftmem.so", (i, i))
    monkeypatch.setattr(_library, "__file__", str(tmp_path / "python" / "ftmem" / "_library.py"))
    return tmp_path


def test_what_is_installed_is_loaded_before_what_was_built(loadable, tree, monkeypatch):
    dev, release = (str(tree / "build" / name / "bin" / "libftmem.so") for name in ("dev",
                                                                                 "release"))
    in_prefix = tree / "lib" / "libftmem.so.0"
    in_prefix.parent.mkdir()
    in_prefix.touch()
    monkeypatch.setattr(sys, "prefix", str(tree))
    for path in (release, dev, str(in_prefix), "libftmem.so.0"):
        loadable.add(path)
        _library._loaded.clear()
        assert _library.load() == path


def test_a_build_with_a_sanitizer_is_not_loaded(tree):
    assert [Path(path).parts[-3] for path in _library._built()] == ["dev", "release"]


def test_a_missing_library_is_told_with_all_places_tried(loadable, tree):
    with pytest.raises(ftmem.FtmemError) as caught:
        _library.load()
    text = str(caught.value)
    assert "FTMEM_LIBRARY" in text and f"--prefix {sys.prefix}" in text
    for path in ("libftmem.so.0", "build/dev/bin/libftmem.so"):
        assert f"{path}: not in this test" in text


def test_a_library_that_is_named_but_not_there_is_told(loadable, monkeypatch):
    monkeypatch.setenv("FTMEM_LIBRARY", "/nowhere/libftmem.so")
    with pytest.raises(ftmem.FtmemError, match="no file /nowhere/libftmem.so"):
        _library.load()


def test_what_is_no_library_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(_library, "_loaded", {})
    path = tmp_path / "libftmem.so"
    path.write_text("not a library")
    with pytest.raises(ftmem.FtmemError, match="cannot be loaded: .*invalid ELF header|too short"):
        _library.load(path)


def test_a_call_that_an_older_library_lacks_is_told(monkeypatch):
    monkeypatch.setitem(_library._abi.SIGNATURES, "ftmem_of_tomorrow", (_library.ctypes.c_int,))
    library = _library.Library(os.environ["FTMEM_LIBRARY"])
    with pytest.raises(ftmem.FtmemError, match="older than this package"):
        library.c.ftmem_of_tomorrow()


# --- the package ---


def test_importing_the_package_imports_no_torch():
    code = "import sys, ftmem; dir(ftmem); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60,
                   env={**os.environ, "PYTHONPATH": str(PYTHON)})


def test_what_the_package_does_not_have_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Gard'"):
        getattr(ftmem, "Gard")


def test_pip_installs_the_package(tmp_path):
    if find_spec("setuptools") is None:
        pytest.skip("no setuptools")
    source, target = tmp_path / "python", tmp_path / "site"
    shutil.copytree(PYTHON, source, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
           "--no-deps", "--no-build-isolation", "--no-index", "--target", str(target), str(source)]
    subprocess.run(pip, check=True, timeout=110)
    have = {path.name for path in (target / "ftmem").iterdir()} - {"__pycache__"}
    assert have == {path.name for path in (PYTHON / "ftmem").iterdir()} - {"__pycache__"}
    code = "import ftmem; print(ftmem.__file__); print(ftmem._library.load().path)"
    done = subprocess.run([sys.executable, "-c", code], check=True, timeout=60, text=True,
                          capture_output=True, env={**os.environ, "PYTHONPATH": str(target)})
    assert done.stdout.split() == [str(target / "ftmem" / "__init__.py"),
                                   os.environ["FTMEM_LIBRARY"]]
    metadata = next(target.glob("ftmem-*.dist-info/METADATA")).read_text()
    assert "Requires-Python: >=3.10" in metadata
    assert [line for line in metadata.splitlines() if line.startswith("Requires-Dist")] == [
        "Requires-Dist: torch"]
