# SPDX-License-Identifier: BSD-3-Clause
"""What differs between the tensors that a script has and those that are stored."""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ._placement import Entry
from ._registry import Layout
from ._sources import mismatch
from .errors import FtmemError
from .session import Session

SHOWN = 5
TIMEOUT_S = 10


def differences(session: Session, folder: str | None, layout: Layout) -> str:
    """For people, as good as it can be found out: from `ftmem layout`, beside the library."""
    text = f"the guarded objects are not those that job {session.job} has stored"
    stored = _stored(session, folder)
    if stored is None:
        return f"{text}; `ftmem layout {session.job}` lists these"
    here = {entry.name: _bytes(entry) for entry in layout.entries}
    other = sorted(n for n in here if n in stored and here[n] != stored[n])
    parts = [
        _list("not stored", here.keys() - stored.keys()),
        _list("stored but not here", stored.keys() - here.keys()),
        _list("of another size", [f"{n} ({here[n]} bytes, {stored[n]} stored)" for n in other]),
    ]
    found = [part for part in parts if part]
    if not found:
        found.append("names and sizes are equal: shapes, dtypes, kinds of objects or the "
                     "parameters of the optimizers' groups differ")
    return f"{text}: {'; '.join(found)}. With strict=False what fits is restored"


def explained(cause: FtmemError) -> FtmemError:
    """An error of ftmem_restore() in terms of guarded objects: where ranks guard different ones
    only it finds out what differs."""
    if cause.name != "ELAYOUT" or '"ftmem.' not in cause.message:
        return cause
    return mismatch(f"the objects that a rank guards are not those that it stored: {cause.message}")


def _stored(session: Session, folder: str | None) -> dict[str, int] | None:
    """Bytes of the whole tensors and of private regions that are stored, by name; None if they
    cannot be told."""
    library = Path(session.library.path).resolve().parent
    beside = [library / "ftmem", library.parent / "bin" / "ftmem"]
    program = next((str(path) for path in beside if path.is_file()), "ftmem")
    command = [program, "layout", "--json", *(["--dir", folder] if folder else []), session.job]
    try:
        done = subprocess.run(command, capture_output=True, timeout=TIMEOUT_S, check=True)
        told = json.loads(done.stdout)
        regions: list[dict[str, Any]] = [*told["tensors"], *told["private"]]
        found = {region["name"]: int(region["bytes"]) for region in regions}
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError):
        return None
    return {name: size for name, size in found.items() if not name.startswith("ftmem.")}


def _bytes(entry: Entry) -> int:
    """Of the whole tensor."""
    return math.prod(entry.shape) * entry.tensor.element_size()


def _list(what: str, names: Iterable[str]) -> str:
    ordered = sorted(names)
    if not ordered:
        return ""
    more = f" and {len(ordered) - SHOWN} more" if len(ordered) > SHOWN else ""
    return f"{what}: {', '.join(ordered[:SHOWN])}{more}"
