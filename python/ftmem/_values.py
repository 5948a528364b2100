# SPDX-License-Identifier: BSD-3-Clause
"""What is no tensor, of all guarded objects, as bytes: pickled values and random numbers."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any

from . import _abi, _rng
from ._agree import Agreement
from ._objects import ObjectRegion, capacity_for
from ._sources import Source, mismatch
from .errors import error

FORMAT = 1


class Values:
    """The bytes of a guard's objects, and the region that they lie in.

    Attributes:
        region: the one that is registered, None before.
        agreement: with the other ranks.
    """

    def __init__(self, sources: Sequence[Source], ranks: int, least_bytes: int) -> None:
        self.region: ObjectRegion | None = None
        self._sources = sources
        self.agreement = Agreement(ranks)
        self._least_bytes = least_bytes
        self._payload = b""
        self._failure: Exception | None = None

    def pack(self) -> None:
        """Makes the bytes as of now. It raises nothing: an error is of this rank alone, and
        collective calls come before store() raises it."""
        self._payload, self._failure = b"", None
        try:
            self._payload = pack(self._sources)
        except Exception as cause:
            self._failure = cause

    def turn(self, stale: bool) -> int | None:
        """Once for each snapshot, after pack(); stale: this rank must register anew. The capacity
        of the region with which all ranks register in this snapshot, None if none does: the same
        on all that can ask each other. Errors as of torch.distributed."""
        agreed = self.agreement.turn(len(self._payload), stale)
        if agreed is None:
            return None
        wanted, stale = agreed
        if self.region is None:
            # Ranks that cannot ask each other all begin with the same.
            return max(capacity_for(wanted), self._least_bytes)
        present = self.region.capacity
        capacity = max(present, self._least_bytes)
        if wanted > self.region.room:
            capacity = max(capacity, capacity_for(wanted))
        return capacity if stale or capacity != present else None

    def sized(self, capacity: int) -> ObjectRegion:
        """The region if it has that capacity, else a new one."""
        if self.region is not None and self.region.capacity == capacity:
            return self.region
        return ObjectRegion(capacity)

    def store(self) -> str:
        """Writes the bytes into the region. Returns "", or why they do not fit. Raises what
        pack() met with."""
        assert self.region is not None
        if self._failure is not None:
            raise self._failure
        if self.region.store(self._payload):
            return ""
        cure = (
            " until all ranks have more"
            if self.agreement.possible
            else f"; make the Guard with objects_bytes={capacity_for(len(self._payload))}"
        )
        return (f"what is no tensor takes {len(self._payload)} bytes, {self.region.room} are "
                f"reserved for it, and versions are skipped{cure}")


def pack(sources: Sequence[Source]) -> bytes:
    """FtmemError names the object whose value cannot be pickled."""
    values = {source.name: source.value() for source in sources}
    try:
        return pickle.dumps((FORMAT, _rng.get(), values), protocol=5)
    except Exception:
        for name, value in values.items():
            _refuse_unpicklable(name, value)
        raise


def unpack(payload: bytes, sources: Sequence[Source], strict: bool, random_too: bool) -> None:
    """Loads what pack() returned into the objects and, if asked to, the generators of random
    numbers. FtmemError: an object is not stored, or not as it is now."""
    form, random_numbers, values = pickle.loads(payload)
    if form != FORMAT:
        raise mismatch(f"objects are stored in format {form}, this version reads {FORMAT}")
    for source in sources:
        if source.name in values:
            source.load(values[source.name], strict)
        elif strict:
            raise mismatch(f"{source.name} is not stored")
    if random_too:
        _rng.set(random_numbers)


def _refuse_unpicklable(name: str, value: Any) -> None:
    try:
        pickle.dumps(value, protocol=5)
    except Exception as cause:
        raise error(
            "Guard.snapshot", _abi.EINVAL, f"{name} holds what cannot be pickled: {cause}"
        ) from cause
