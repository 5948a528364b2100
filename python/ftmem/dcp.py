# SPDX-License-Identifier: BSD-3-Clause
"""Checkpoints of torch.distributed.checkpoint (DCP) in the nodes' memory instead of files.

    writer = ftmem.dcp.Writer(job="run1", parity=1)
    reader = ftmem.dcp.Reader(writer)
    if reader.version() is not None:
        dcp.load(state_dict, storage_reader=reader)
    for step in range(...):
        ...
        dcp.save(state_dict, storage_writer=writer)
        # or: future = dcp.async_save(state_dict, storage_writer=writer)

It survives what libftmem survives: the end of the processes, and the loss of as many nodes as
parity covers. DCP plans and reshards, so a checkpoint can be loaded by another number of ranks,
with other placements, and by parts. The newest checkpoint is kept, and until it is committed the
one before.

For training ftmem.Guard is the better way: it registers tensors where they are, and returns in
microseconds. DCP writes each checkpoint through a buffer in host memory, in addition to the room
that ftmem takes, and async_save() copies the state dict once more before it returns.

DCP wraps what goes wrong on any rank in its CheckpointException, which is no Exception: its
failures attribute has the FtmemError, NothingStored or TooMuchLost of each rank that had one.
"""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any, NoReturn

from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from . import _abi, _dcp
from ._dcp import Description
from ._dcp_items import Items, load, span
from ._peers import failed
from .errors import NothingStored

__all__ = ["Reader", "Writer"]


class Writer(StorageWriter):
    """Stores checkpoints of a job, for dcp.save() and dcp.async_save().

    dcp.save() returns when the checkpoint is committed, and so does the future of async_save()
    end; else they raise. What async_save() stores is the state as of its return. It works in a
    thread, not in a process (AsyncCheckpointerType.PROCESS is refused), and one at a time: wait
    for its future before the next save.

    checkpoint_id is the version, such as the step: an integer or its digits, above all that this
    process saved, or tried to, and above the one that was loaded. Without one versions are
    counted on.

    All ranks that the launcher started take part, through torch.distributed's default group or
    one of all of them. If the training's own messages go through gloo, give async_save() another:
    process_group=dist.new_group(backend="gloo").

    Creating a Writer is collective, and so are its other methods: one call at a time, in the same
    order on all ranks. It raises FtmemError, TooMuchLost if more nodes are lost than parity
    covers. Writers and Readers of a job share what they have open. What an earlier start stored
    has to be loaded, or forgotten, before the first save.

    Args:
        job: its name, the same across restarts, of up to 58 characters. A second job of that name
            and ".meta" is used as well. Neither can be the job of a Guard or a Session.
        commit_timeout_s: seconds for each of the two commits of a checkpoint.
        opts: as of Session: parity, group_nodes, dir, node, ...
    """

    def __init__(self, job: str, *, commit_timeout_s: float = 600, **opts: Any) -> None:
        super().__init__()
        self._store = _dcp.store_of(job, opts)
        self._timeout_s = commit_timeout_s
        self._asked: int | None = None
        self._version = 0
        self._planned = 0

    def forget(self) -> None:
        """Erases every stored checkpoint."""
        self._store.forget()

    def stats(self) -> dict[str, Any]:
        """As Session.stats(), of the data. Not collective."""
        return self._store.stats()

    def close(self) -> None:
        """Closes the job for all its Writers and Readers in this process. What is stored stays."""
        self._store.close()

    # --- what DCP calls ---

    def reset(self, checkpoint_id: Any = None) -> None:
        self._asked = _version(checkpoint_id)

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        if not kwargs.get("use_collectives", True):
            raise failed("use_collectives=False is not supported: ranks store one checkpoint")
        if is_coordinator != (self._store.peers.rank == 0):
            raise failed("the process group must have the world's rank 0 as its first")
        self._version = self._store.last + 1 if self._asked is None else self._asked
        self._asked = None

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        _check_group(len(plans), self._store.peers.ranks)
        self._planned = len(pickle.dumps(plans))
        return plans

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        store, failure, items, size, described = self._store, None, None, 0, 0
        try:
            items = Items(plan, planner, store.peers.rank)
            size, described = items.size, len(pickle.dumps(items.results))
            if store.peers.rank == 0:
                metadata = getattr(planner, "metadata", None)
                described += len(pickle.dumps(metadata)) if metadata else self._planned
        except BaseException as caught:
            failure = caught
        buffer = store.make_room(failure, self._version, size, described)
        assert items
        try:
            items.fill(buffer, planner)
        except BaseException as caught:
            failure = caught
        store.vote(self._version, failure)
        return _done(items.results)

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        places = {result.index: result.storage_data for of_rank in results for result in of_rank}
        self._store.commit(replace(metadata, storage_data=places), self._timeout_s)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        return _is_version(checkpoint_id)

    def __reduce__(self) -> NoReturn:
        raise failed("a Writer cannot go to another process: dcp.async_save() has to be called "
                     "with async_checkpointer_type=AsyncCheckpointerType.THREAD, its default")


class Reader(StorageReader):
    """Loads the newest checkpoint of a job, for dcp.load().

    A checkpoint_id, if there is one, must be the newest version; else, and if nothing is stored,
    there is NothingStored in DCP's CheckpointException. Lost memory is rebuilt first, and all of
    the checkpoint stays stored, whatever part of it is loaded. Collective as of Writer; wait for
    the future of async_save() first.

    Args:
        writer: a Writer, or the name of its job; with a name, opts as of Writer.
    """

    def __init__(self, writer: Writer | str, **opts: Any) -> None:
        super().__init__()
        if isinstance(writer, Writer) and opts:
            raise TypeError("options are given to the Writer")
        self._store = (
            writer._store if isinstance(writer, Writer) else _dcp.store_of(writer, opts)
        )
        self._asked: int | None = None
        self._description: Description | None = None
        self._failure: Exception | None = None

    def version(self) -> int | None:
        """The newest version, or None if nothing is stored. FtmemError."""
        try:
            return self._store.describe().version
        except NothingStored:
            return None

    def close(self) -> None:
        """As of Writer."""
        self._store.close()

    # --- what DCP calls ---

    def reset(self, checkpoint_id: Any = None) -> None:
        self._asked = _version(checkpoint_id)

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """DCP hides what is raised here: set_up_storage_reader() raises it."""
        asked, self._asked = self._asked, None
        self._description = self._failure = None
        try:
            self._description = self._store.describe()
            version = self._description.version
            if asked not in (None, version):
                raise failed(f"version {asked} is not stored, but {version}", _abi.FRESH)
        except Exception as caught:
            self._failure = caught
        return Metadata({}) if self._failure else self._description.metadata

    def set_up_storage_reader(
        self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any
    ) -> None:
        if self._failure:
            raise self._failure

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        _check_group(len(plans), self._store.peers.ranks)
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        assert self._description
        places = self._description.metadata.storage_data
        wanted: dict[int, list[tuple[int, int]]] = {}
        failure = None
        try:
            for item in plan.items:
                piece = places[item.storage_index]
                start, end = span(piece, item)
                if start < end:
                    wanted.setdefault(piece.rank, []).append((start, end))
        except BaseException as caught:
            failure = caught
        parts = self._store.fetch(self._description, wanted, failure)
        for item in plan.items:
            load(item, places[item.storage_index], parts, planner)
        return _done(None)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        return _is_version(checkpoint_id)


def _done(value: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(value)
    return future


def _is_version(checkpoint_id: Any) -> bool:
    return isinstance(checkpoint_id, int) or str(checkpoint_id).isdecimal()


def _version(checkpoint_id: Any) -> int | None:
    if checkpoint_id is None:
        return None
    if not _is_version(checkpoint_id):
        raise failed(f"checkpoint_id {checkpoint_id!r} is no version: it must be an integer, such "
                     "as the step")
    return int(checkpoint_id)


def _check_group(ranks: int, world: int) -> None:
    if ranks != world:
        raise failed(f"{ranks} of {world} ranks take part: a checkpoint is of all of them")
