# SPDX-License-Identifier: BSD-3-Clause
"""Which memory of a guard's objects is registered, and whether that still is where they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from . import _tensors
from ._placement import Entry
from ._sources import Source, outline, parameter_names
from ._watch import Watch, Watched, alike
from .session import Session


class Layout:
    """What the objects consist of now.

    Attributes:
        entries: the tensors to be stored.
        names: sorted, of all tensors: those that are empty on this rank alone, too.
        tensors, objects: digests of the tensors' names, shapes and dtypes, and of the rest that
            must be equal on restore.
        watched: where the tensors are held.
    """

    def __init__(self, sources: Sequence[Source], overwritten: bool) -> None:
        for source in sources:
            source.prepare(overwritten)
        names = parameter_names(sources)
        entries = [entry for source in sources for entry in source.entries(names)]
        self.entries = _tensors.checked(entries)
        self.names = sorted({_tensors._short(entry.name) for entry in entries})
        self.tensors = _tensors.digest(entries)
        self.objects = outline(sources, names)
        self._sources = sources
        self._look()

    def undo(self) -> None:
        """Takes back what was created for it."""
        for source in self._sources:
            source.undo()

    def keep(self, only: set[str]) -> None:
        """Takes back what was created for it and has no entry of these names; entries stay."""
        kept = {id(entry.tensor) for entry in self.entries if entry.name in only}
        for source in self._sources:
            source.undo(kept)
        self._look()

    def _look(self) -> None:
        self.watched = Watched()
        for source in self._sources:
            source.watch(self.watched)


class Registry:
    """What a session has registered: tensors in place, but of those that may be written before
    the fence, the shadows, a copy. One call at a time."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._added: dict[str, tuple[Any, ...]] = {}
        self._clones: dict[str, torch.Tensor] = {}
        self._watch: Watch | None = None
        self._sealed = self._whole = False
        self._devices: list[torch.device] = []
        self.private: set[str] = set()

    def take(
        self, layout: Layout, extra: dict[str, torch.Tensor], only: set[str] | None = None
    ) -> None:
        """Registers the entries of a layout, all or those of some names, and extra tensors, and
        takes back what is not among them; seal() comes next."""
        wanted: dict[str, tuple[Entry | None, torch.Tensor]] = {
            name: (None, tensor) for name, tensor in extra.items()
        }
        entries = [e for e in layout.entries if only is None or e.name in only]
        shadows = [entry for entry in entries if entry.shadow]
        self._clones = clones = {entry.name: self._clone_of(entry) for entry in shadows}
        for entry in entries:
            wanted[entry.name] = (entry, clones.get(entry.name, entry.tensor))
        self._watch = None
        self._register(wanted)
        self._watch = Watch(layout.watched, entries, shadows, list(clones.values()))
        self._devices = sorted(
            {e.tensor.device for e in entries if e.tensor.device.type != "cpu"}, key=str
        )
        self.private = {e.name for e in entries if e.box is None and not e.shadow and e.shape}
        self._whole = only is None

    def seal(self, anyway: bool) -> None:
        """Collective: anyway, where ranks have agreed to, or if take() changed anything."""
        if anyway or not self._sealed:
            self._sealed = False
            self._session.seal()
            self._sealed = True

    def current(self) -> bool:
        """Whether all tensors are those that are registered, and their memory where it was."""
        ready = self._sealed and self._whole and self._watch is not None
        return ready and self._watch.holds()

    def late(self) -> tuple[list[str], int]:
        """Once: names of tensors that were found to have moved only some snapshots later, and in
        how many versions before the old memory may be."""
        return self._watch.take_late() if self._watch is not None else ([], 0)

    def streams(self) -> list[torch.cuda.Stream]:
        """The current ones of all devices with tensors."""
        return [torch.cuda.current_stream(device) for device in self._devices]

    def joined_stream(self) -> torch.cuda.Stream | None:
        """One of them, behind what is queued on all; None without devices."""
        first, *others = self.streams() or [None]
        for stream in others:
            first.wait_stream(stream)
        return first

    def synchronize(self) -> None:
        for device in self._devices:
            torch.cuda.synchronize(device)

    def save_shadows(self) -> None:
        """Copies the live tensors into what is registered; after current()."""
        if self._watch is not None and self._watch.live:
            with torch.no_grad():
                torch._foreach_copy_(self._watch.clones, self._watch.live)

    def load_shadows(self) -> None:
        """The inverse, after a restore."""
        if self._watch is not None and self._watch.live:
            with torch.no_grad():
                torch._foreach_copy_(self._watch.live, self._watch.clones)

    def _clone_of(self, entry: Entry) -> torch.Tensor:
        """Memory for a shadow: what it has already if that fits."""
        former = self._clones.get(entry.name)
        if former is not None and alike(former, entry.tensor):
            return former
        return torch.clone(entry.tensor.detach(), memory_format=torch.preserve_format)

    def _register(self, wanted: dict[str, tuple[Entry | None, torch.Tensor]]) -> None:
        places = {name: _place(entry, tensor) for name, (entry, tensor) in wanted.items()}
        for name in [n for n, place in self._added.items() if places.get(n) != place]:
            self._sealed = False
            self._session.remove(name)
            del self._added[name]
        for name in [n for n in places if n not in self._added]:
            self._sealed = False
            addr, size, elem_bytes, shape, start, extent = places[name]
            self._session.add(
                name,
                addr,
                size,
                elem_bytes=elem_bytes,
                shape=shape,
                start=start,
                extent=extent,
                # An alias: the memory outlives that the tensor is given another.
                keep=wanted[name][1].detach(),
            )
            self._added[name] = places[name]


def _place(entry: Entry | None, tensor: torch.Tensor) -> tuple[Any, ...]:
    addr, size = _tensors.address(tensor)
    box = entry.box if entry else None
    if box is None:
        return addr, size, 0, (), (), ()
    return addr, size, tensor.element_size(), box.shape, box.start, box.extent
