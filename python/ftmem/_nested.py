# SPDX-License-Identifier: BSD-3-Clause
"""Tensors in and out of what state_dict() returns: dicts, lists and tuples in one another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Region:
    """In place of the tensor that has a region of this name."""

    name: str


def split(
    value: Any, name: str, out: dict[str, torch.Tensor], take: Callable[[str, torch.Tensor], bool]
) -> Any:
    """A copy in which the tensors for which take(name, tensor) is true are replaced by Regions,
    and put into out. Their names are name and the keys on the way to them; where two are alike
    the second tensor stays."""
    if isinstance(value, torch.Tensor):
        if name in out or not take(name, value):
            return value
        out[name] = value
        return Region(name)
    if isinstance(value, dict):
        copy = {k: split(v, f"{name}.{k}", out, take) for k, v in value.items()}
        return copy if type(value) is dict else _like(value, copy.items())
    if type(value) in (list, tuple):
        return type(value)(split(v, f"{name}.{i}", out, take) for i, v in enumerate(value))
    return value


def joined(value: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """The inverse of split(), with copies of the tensors."""
    if isinstance(value, Region):
        return tensors[value.name].detach().clone()
    if isinstance(value, dict):
        copy = {k: joined(v, tensors) for k, v in value.items()}
        return copy if type(value) is dict else _like(value, copy.items())
    if type(value) in (list, tuple):
        return type(value)(joined(v, tensors) for v in value)
    return value


def _like(container: Any, items: Any) -> Any:
    """A dict of the same class, such as OrderedDict or defaultdict, with other values."""
    other = container.copy()
    other.update(items)
    return other
