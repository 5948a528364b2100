# SPDX-License-Identifier: BSD-3-Clause
"""Seeing in some ten microseconds whether a thousand tensors are still those that were registered,
and their memory where it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from operator import attrgetter, getitem
from typing import Any

import torch

from ._placement import Entry, is_dtensor

# Of steady tensors so many at least are looked at in each snapshot, and all in the first ones.
AT_ONCE, FIRST = 64, 16

_data_ptr = torch.Tensor.data_ptr
_local = attrgetter("_local_tensor")


@dataclass
class Watched:
    """Where tensors are held.

    Attributes:
        dicts: of which all values must stay the very same objects.
        steady: groups of tensors that are given other memory only as most groups are, or in each
            step.
        lists: of which all items must stay the very same objects.
        sized: containers whose number of items must stay.
        slots: (container, key) of single values; of shadows they are looked up at each snapshot.
        roots: (object, attribute) that must stay the very same object.
    """

    dicts: list[dict[Any, Any]] = field(default_factory=list)
    steady: list[list[torch.Tensor]] = field(default_factory=list)
    lists: list[list[Any]] = field(default_factory=list)
    sized: list[Any] = field(default_factory=list)
    slots: list[tuple[Any, Any]] = field(default_factory=list)
    roots: list[tuple[Any, str]] = field(default_factory=list)


class Watch:
    """What Watched says, and what it was when it was registered.

    Attributes:
        live: the tensors of shadows, as of the last holds().
        clones: what is registered for them.
    """

    def __init__(
        self,
        watched: Watched,
        entries: Sequence[Entry],
        shadows: Sequence[Entry],
        clones: list[torch.Tensor],
    ) -> None:
        self._lists, self._list_copies = watched.lists, [list(items) for items in watched.lists]
        self._sized, self._sizes = watched.sized, list(map(len, watched.sized))
        self._roots = [(obj, name, getattr(obj, name)) for obj, name in watched.roots]
        self._dicts, self._dict_copies = watched.dicts, [dict(d) for d in watched.dicts]
        in_place = {id(entry.tensor): entry.tensor for entry in entries if not entry.shadow}
        steady = [[t for t in group if in_place.pop(id(t), None) is not None]
                  for group in watched.steady]
        turns = max(1, sum(map(len, steady)) // AT_ONCE)
        self._in_turn = [_Addresses([*chain.from_iterable(steady[i::turns])]) for i in range(turns)]
        self._always = _Addresses([*in_place.values()])
        self._turn = 0
        self._holds = True
        self._names = {id(entry.tensor): entry.name for entry in entries}
        self._late: list[str] = []
        self._watch_shadows(watched.slots, shadows)
        self.clones = clones
        values = [v for d in watched.dicts for v in d.values()]
        values += [getitem(container, key) for container, key in watched.slots]
        self._dtensors = [value for value in values if is_dtensor(value)]
        self._locals = list(map(_local, self._dtensors))

    def _watch_shadows(self, slots: list[tuple[Any, Any]], shadows: Sequence[Entry]) -> None:
        """Shadows are looked up where they are held, since modules often bind a buffer anew."""
        held = {id(getitem(container, key)): (container, key) for container, key in slots}
        places = [held.pop(id(e.tensor), None) or ({0: e.tensor}, 0) for e in shadows]
        self.live = [entry.tensor for entry in shadows]
        self._live_in = [container for container, _ in places]
        self._live_keys = [key for _, key in places]
        others = list(held.values())
        self._others_in = [container for container, _ in others]
        self._other_keys = [key for _, key in others]
        self._others = list(map(getitem, self._others_in, self._other_keys))

    def holds(self) -> bool:
        """Once for each snapshot: whether all is as it was; once it is not it stays so. The first
        times all is looked at; later only a part of what is steady: to touch so many objects takes
        longer than all else."""
        self._turn += 1
        if self._holds and not self._hold_now():
            self._holds = False
            if self._turn > FIRST and len(self._in_turn) > 1:
                self._late = [self._names[id(t)] for part in self._in_turn for t in part.moved()]
        return self._holds

    def take_late(self) -> tuple[list[str], int]:
        """Once: names of steady tensors that had moved when holds() first returned False, and how
        many versions may have been captured since they did."""
        late, self._late = self._late, []
        return late, min(self._turn - FIRST, len(self._in_turn)) - 1

    def _hold_now(self) -> bool:
        all_parts, turn = self._in_turn, self._turn % len(self._in_turn)
        parts = all_parts if self._turn <= FIRST else all_parts[turn : turn + 1]
        try:
            return (
                all(getattr(obj, name) is value for obj, name, value in self._roots)
                and list(map(len, self._sized)) == self._sizes
                # Comparing tensors that are the very same object asks no more. Of others it is an
                # error or, of one element each, true while both have the same value: then it is not
                # seen before they differ, but until then what is registered is right.
                and self._dicts == self._dict_copies
                and self._lists == self._list_copies
                and list(map(getitem, self._others_in, self._other_keys)) == self._others
                and list(map(_local, self._dtensors)) == self._locals
                and self._always.hold()
                and all(part.hold() for part in parts)
                and self._shadows_hold()
            )
        except (KeyError, IndexError, AttributeError, RuntimeError, TypeError, ValueError):
            return False

    def _shadows_hold(self) -> bool:
        now = list(map(getitem, self._live_in, self._live_keys))
        for i, (tensor, known) in enumerate(zip(now, self.live)):
            if tensor is not known:
                if not alike(tensor, known):
                    return False
                self.live[i] = tensor
        return True


class _Addresses:
    """Tensors, and where their memory was."""

    def __init__(self, tensors: list[torch.Tensor]) -> None:
        self._tensors = tensors
        self._addresses = list(map(_data_ptr, tensors))

    def hold(self) -> bool:
        return list(map(_data_ptr, self._tensors)) == self._addresses

    def moved(self) -> list[torch.Tensor]:
        """Those whose memory is elsewhere now."""
        pairs = zip(self._tensors, self._addresses)
        return [tensor for tensor, address in pairs if _data_ptr(tensor) != address]


def alike(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether the bytes of one can be copied into the other as they are."""
    return (
        a.shape == b.shape
        and a.dtype == b.dtype
        and a.device == b.device
        and a.stride() == b.stride()
    )
