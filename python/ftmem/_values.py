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
        region: None before resize().
    """

    def __init__(self, sources: Sequence[Source], ranks: int, least_bytes: int) -> None:
        self.region: ObjectRegion | None = None
        self._sources = sources
        self._agreement = Agreement(ranks)
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
        self._agreement.note(len(self._payload))

    def lacks(self) -> int:
        """Once for each snapshot, after pack(), on all ranks alike: the capacity of the region
        that is needed, 0 if the present one does. Errors as of torch.distributed."""
        wanted = self._agreement.turn()
        if self.region is None:
            # Ranks that cannot ask each other all begin with the same.
            first = self._agreement.first(len(self._payload))
            return max(capacity_for(first), self._least_bytes)
        if self._agreement.alone:
            wanted = len(self._payload)
        if wanted > self.region.room:
            return max(capacity_for(wanted), self._least_bytes)
        return self._least_bytes if self._least_bytes > self.region.capacity else 0

    def resize(self, capacity: int) -> ObjectRegion:
        """The region, of that capacity; a new one unless it has that."""
        if self.region is None or self.region.capacity != capacity:
            self.region = ObjectRegion(capacity)
        return self.region

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
            if self._agreement.possible
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
