# SPDX-License-Identifier: BSD-3-Clause
"""What ftmem.dcp keeps in the nodes' memory: two jobs and the versions in them.

In job NAME each rank has one tensor of bytes, "dcp.RANK", with all that it writes into a
checkpoint. After a restart any rank can ask for any part of any of them. What lies where, and
what DCP itself wants to know, is the description. It is kept by rank 0 in job NAME.meta, together
with that of the version before, and is committed before the data is. So whichever version of the
data is found after a crash is described.

DCP lets only its coordinator finish a checkpoint, and only there is the description complete. The
other ranks have cast their votes by then: a snapshot is no barrier, and waits for rank 0's.
"""

from __future__ import annotations

import pickle
import threading
from dataclasses import dataclass
from typing import Any

import torch
from torch.distributed.checkpoint.metadata import Metadata

from . import _abi, launch
from ._objects import LEAST, ObjectRegion, capacity_for
from ._peers import Peers, failed
from .errors import FtmemError
from .session import Result, Session

DESCRIPTION = "dcp.description"
# Every rank has this one, so that its size can be found out whichever node is lost: one byte, and
# one more for each factor of 4 by which the description's capacity is above the least.
SCALE = "dcp.scale"
# Units of what is asked for, in bytes: fewer and larger parts, and aligned for every type.
UNIT = 64 * 1024
RESERVED = ("comm", "when_busy", "private_rule", "private_from")

_stores: dict[str, Store] = {}


@dataclass(frozen=True)
class Description:
    """Of one version: bytes of each rank's tensor, and DCP's metadata, whose storage_data says
    where in them the items are."""

    version: int
    capacities: list[int]
    metadata: Metadata


@dataclass
class Pending:
    """On rank 0: a version for which the other ranks have voted, in these sessions."""

    version: int
    thread: threading.Thread
    unvoted: dict[Session, int]


class Part:
    """Bytes start to end of the tensor of old rank, in memory."""

    def __init__(self, rank: int, start: int, end: int) -> None:
        self.rank, self.start, self.end = rank, start, end
        self.memory = torch.empty(end - start, dtype=torch.uint8)


def store_of(job: str, opts: dict[str, Any]) -> Store:
    """This process's store of the job; collective where there is none yet."""
    store = _stores.get(job)
    if store is None:
        store = _stores[job] = Store(job, opts)
    elif opts and opts != store.opts:
        raise failed(f"job {job} is open with other options: {store.opts}")
    return store


class Store:
    """This rank's part in a job's checkpoints. Collective: every method but commit() and drop(),
    which are rank 0's."""

    def __init__(self, job: str, opts: dict[str, Any]) -> None:
        for name in RESERVED:
            if name in opts:
                raise TypeError(f"ftmem.dcp sets {name} itself")
        self.job, self.opts = job, opts
        self.peers = Peers(launch.world().ranks)
        self.last = 0  # version that was asked for
        self._edition = 0  # version of the description: those of the data may come again
        self._version: int | None = None  # committed, as far as this rank knows
        self._blobs: dict[int, bytes] = {}  # rank 0's: descriptions of what may be found
        self._pending: Pending | None = None
        self._capacities = [0] * self.peers.ranks
        self._buffer = torch.empty(0, dtype=torch.uint8)
        self._registered: set[str] = set()
        self._description: ObjectRegion | None = None
        self._meta_names: set[str] = set()
        self._scale = 0
        self._described = 0
        self._data = Session(job, when_busy="wait", **opts)
        try:
            # Its versions count saves, which would only confuse beside those of the data.
            quiet = {"log_level": "warn", **opts}
            self._meta = Session(f"{job}.meta", when_busy="wait", private_rule="drop", **quiet)
        except BaseException:
            self._data.close()
            raise
        try:
            self._look()
        except BaseException:
            self._close()
            raise

    # --- restart ---

    def _look(self) -> None:
        """What is stored, and its description, which from then on is protected again."""
        failure = None
        described, scale = self._meta.stored(SCALE)
        if described is not None and scale == 0:
            raise failed(f"job {self._meta.job} holds something else", _abi.ELAYOUT)
        if described is not None:
            self._set_scale(scale)
            described = self._meta.restore()
            try:
                self._blobs = pickle.loads(self._description.load()) if self._description else {}
            except Exception as caught:
                failure = caught
        self._version, _ = self._data.stored()
        self.loaded = self._version is None
        self.last, self._edition = self._version or 0, described or 0
        self.peers.agree(failure)

    def describe(self) -> Description:
        """The newest version's. NothingStored; FtmemError if a save is under way."""
        problem, blob = None, None
        if self._under_way():
            problem = (_abi.EINVAL, f"job {self.job}: a save is under way: wait for its future")
        elif self._version is None:
            problem = (_abi.FRESH, f"job {self.job} holds no checkpoint")
        elif self._version not in self._blobs:
            problem = (_abi.ELAYOUT, f"job {self.job} holds version {self._version}, of which job "
                       f"{self._meta.job} knows nothing: was it stored by something else?")
        else:
            blob = self._blobs[self._version]
        problem, blob = self.peers.of_first((problem, blob))
        if problem:
            raise failed(problem[1], problem[0])
        description = pickle.loads(blob)
        self._version = description.version
        return description

    def fetch(
        self,
        description: Description,
        wanted: dict[int, list[tuple[int, int]]],
        failure: BaseException | None,
    ) -> list[Part]:
        """The parts of old ranks' tensors that this rank wants. All of what is stored is taken by
        some rank, so that all of it stays stored."""
        parts: list[Part] = []
        try:
            for old, capacity in enumerate(description.capacities):
                if old % self.peers.ranks == self.peers.rank:
                    ranges = [(0, capacity)]
                else:
                    ranges = _merged(wanted.get(old, []), capacity)
                parts += [Part(old, start, end) for start, end in ranges]
        except BaseException as caught:
            failure = failure or caught
        self.peers.agree(failure)
        self._unregister()
        for part in parts:
            self._register(part.rank, part.memory, description.capacities[part.rank], part.start)
        self._data.seal()
        found = self._data.restore()
        self._unregister()
        self.loaded = True
        if found != description.version:
            self._version = found
            raise failed(f"job {self.job}: version {description.version} cannot be restored, but "
                         f"{found}: load again", _abi.ELAYOUT)
        return parts

    # --- storing ---

    def make_room(
        self, failure: BaseException | None, version: int, size: int, described: int
    ) -> torch.Tensor:
        """This rank's buffer, of at least size bytes, which no snapshot reads. described: bytes of
        description that come from this rank."""
        try:
            failure = failure or self._refusal(version)
            self._data.fence()
            self._meta.fence()
        except BaseException as caught:
            failure = failure or caught
        asked = self.peers.agree(failure, (max(size, 1), described))
        if any(need > has for (need, _), has in zip(asked, self._capacities)):
            self._grow([need for need, _ in asked])
        described = sum(need for _, need in asked)
        scale = _scale_for(max(described, self._described))
        if scale > self._scale:
            self._set_scale(scale)
        return self._buffer

    def vote(self, version: int, failure: BaseException | None) -> None:
        """Rank 0 votes in commit(), or in drop(), which it also does here if a rank failed."""
        self.last = version
        self._edition += 1
        votes = {self._meta: self._edition, self._data: version}
        if self.peers.rank == 0:
            self._pending = Pending(version, threading.current_thread(), votes)
        else:
            for session, number in votes.items():
                try:
                    if failure:
                        session.skip(number)
                    else:
                        _snapshot(session, number)
                except BaseException as caught:
                    failure = failure or caught
        try:
            self.peers.agree(failure)
        except BaseException:
            self.drop()
            raise

    def commit(self, metadata: Metadata, timeout_s: float) -> None:
        """Returns when the version is committed, and with it all that was written."""
        pending = self._pending
        assert pending and self._description
        version = pending.version
        try:
            blob = pickle.dumps(Description(version, list(self._capacities), metadata))
            payload = pickle.dumps({**self._blobs, version: blob})
            if not self._description.store(payload):
                self._described = len(payload)
                raise failed(f"version {version}: its description of {len(payload)} bytes has more "
                             "than doubled; the next checkpoint makes room for it", _abi.DROPPED)
            self._take(pending, self._meta, timeout_s)
            self._blobs[version] = blob
            try:
                self._take(pending, self._data, timeout_s)
            except FtmemError as caught:
                if caught.code != _abi.ETIMEOUT:
                    del self._blobs[version]
                raise
        finally:
            self.drop()
        self._version, self._blobs = version, {version: blob}

    def drop(self) -> None:
        """The pending version, as far as rank 0 has not voted for it."""
        pending, self._pending = self._pending, None
        for session, number in pending.unvoted.items() if pending else ():
            session.skip(number)

    def _take(self, pending: Pending, session: Session, timeout_s: float) -> None:
        number = pending.unvoted.pop(session)
        _snapshot(session, number)
        if session.wait(number, timeout_s) != Result.OK:
            raise _dropped(session, number, _abi.DROPPED)

    def _under_way(self) -> bool:
        """A save that was broken off in this thread, or whose thread is gone, is dropped."""
        pending = self._pending
        if pending and (pending.thread is threading.current_thread()
                        or not pending.thread.is_alive()):
            self.drop()
        return self._pending is not None

    def _refusal(self, version: int) -> FtmemError | None:
        if self._under_way():
            return failed(f"job {self.job}: another save is under way: wait for its future first")
        if not self.loaded:
            return failed(f"job {self.job} holds version {self._version} of an earlier start: "
                          "dcp.load() it first, or begin anew with Writer.forget()")
        if not self.last < version < _abi.VERSION_MAX:
            return failed(f"version {version} does not grow: it must be above {self.last}")
        return None

    # --- layout ---

    def _register(self, rank: int, memory: torch.Tensor, capacity: int, start: int) -> None:
        name = f"dcp.{rank}"
        self._data.add(name, memory.data_ptr(), memory.numel(), elem_bytes=1, shape=(capacity,),
                       start=(start,), extent=(memory.numel(),), keep=memory)
        self._registered.add(name)

    def _unregister(self) -> None:
        self._capacities = [0] * self.peers.ranks
        for name in list(self._registered):
            self._data.remove(name)
            self._registered.discard(name)
        self._buffer = torch.empty(0, dtype=torch.uint8)

    def _grow(self, needs: list[int]) -> None:
        """With some room, since pickled values change in length."""
        capacities = [max(has, _rounded(need + need // 64 + 1)) if need > has else has
                      for need, has in zip(needs, self._capacities)]
        rank = self.peers.rank
        self._unregister()
        self._buffer = torch.empty(capacities[rank], dtype=torch.uint8)
        if capacities[rank] > 0:
            self._register(rank, self._buffer, capacities[rank], 0)
        self._data.seal()
        self._capacities = capacities

    def _set_scale(self, scale: int) -> None:
        """Seals NAME.meta with a description of that capacity."""
        for name in list(self._meta_names):
            self._meta.remove(name)
            self._meta_names.discard(name)
        self._scale = 0
        self._meta.add_tensor(SCALE, torch.zeros(scale, dtype=torch.uint8))
        self._meta_names.add(SCALE)
        if self.peers.rank == 0:
            self._description = ObjectRegion(LEAST * 4 ** (scale - 1))
            memory = self._description.tensor
            self._meta.add(DESCRIPTION, memory.data_ptr(), memory.numel(), elem_bytes=1,
                           shape=(memory.numel(),), start=(0,), extent=(memory.numel(),),
                           keep=memory)
            self._meta_names.add(DESCRIPTION)
        self._meta.seal()
        self._scale = scale

    # --- end ---

    def forget(self) -> None:
        """Erases every stored version."""
        busy = self._under_way()
        self.peers.agree(failed("a save is under way: wait for its future first") if busy else None)
        self._data.forget()
        self._meta.forget()
        self.loaded, self.last, self._edition = True, 0, 0
        self._version, self._blobs = None, {}

    def stats(self) -> dict[str, Any]:
        return self._data.stats()

    def close(self) -> None:
        if _stores.get(self.job) is self:
            del _stores[self.job]
        self._close()

    def _close(self) -> None:
        self.drop()
        self._meta.close()
        self._data.close()


def _snapshot(session: Session, version: int) -> None:
    result = session.snapshot(version)
    if result != Result.OK:
        raise _dropped(session, version, result)


def _dropped(session: Session, version: int, code: int) -> FtmemError:
    return failed(f"job {session.job}: version {version} was not stored: {session.message()}", code)


def _rounded(size: int) -> int:
    return -(-size // UNIT) * UNIT


def _scale_for(described: int) -> int:
    scale, capacity = 1, capacity_for(described)
    while LEAST * 4 ** (scale - 1) < capacity:
        scale += 1
    return scale


def _merged(ranges: list[tuple[int, int]], capacity: int) -> list[tuple[int, int]]:
    """The same bytes and some more, in whole units, as few ranges that do not touch."""
    out: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        start, end = start // UNIT * UNIT, min(_rounded(end), capacity)
        if out and start <= out[-1][1]:
            out[-1] = (out[-1][0], max(out[-1][1], end))
        else:
            out.append((start, end))
    return out
