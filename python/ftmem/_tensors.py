# SPDX-License-Identifier: BSD-3-Clause
"""Names and memory of the tensors that make up a training state."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ._abi import REGION_NAME_MAX
from ._optimizer import (
    load_optimizer_values,
    materialize,
    optimizer_entries,
    optimizer_values,
    refuse_local_steps,
    unwrap_optimizer,
)
from ._placement import Box, Entry, entry_of, is_row_major, mark_of, memory_order, refusal

__all__ = [
    "Box",
    "Entry",
    "address",
    "checked",
    "digest",
    "extra_states",
    "is_replicated",
    "load_extra_states",
    "load_optimizer_values",
    "materialize",
    "module_entries",
    "optimizer_entries",
    "optimizer_values",
    "parameter_names",
    "refuse_local_steps",
    "replicas_mark",
    "unwrap",
    "unwrap_optimizer",
]

_PLAIN = (torch.Tensor, nn.Parameter)
_CHECKPOINT = "_checkpoint_wrapped_module"
_EXTRA = "_extra_state"


def unwrap(module: nn.Module) -> nn.Module:
    """The module inside of DistributedDataParallel, DataParallel, torch.compile and
    activation checkpointing wrappers."""
    while True:
        inner = _wrapped(module)
        if inner is None:
            return module
        module = inner


def is_replicated(module: nn.Module) -> bool:
    """Whether it is wrapped by DistributedDataParallel: its parameters are equal on all ranks of
    that one's process group."""
    return _data_parallel(module) is not None


def replicas_mark(module: nn.Module) -> str:
    """For names of the parameters that DistributedDataParallel keeps equal on a part of all ranks
    only, such as those of a pipeline's stage: "@" and the lowest of the ranks; else ""."""
    layer = _data_parallel(module)
    if layer is None:
        return ""
    return mark_of(torch.distributed.get_process_group_ranks(layer.process_group))


def module_entries(
    prefix: str, module: nn.Module, replicated: bool, mark: str | None = None
) -> list[Entry]:
    """Entries of all parameters, and of the buffers that state_dict() has, tied ones by each
    of their names. Wrappers leave no trace in names. Buffers are private unless they are
    DTensors. Parameters that FSDP2 has gathered are resharded first, as by state_dict().

    replicated: plain parameters are equal on all ranks. mark: as of entry_of(). FtmemError: a
    module of FSDP1; a tensor that has no shape yet; a DTensor that is no box; parameters that DDP
    leaves out; what state_dict() has besides parameters, buffers and extra state.
    """
    _reshard(module)
    if replicated:
        _refuse_ignored(prefix, module)
    entries = []
    for path, layer in _layers(module, prefix):
        for key, parameter in layer._parameters.items():
            if parameter is not None:
                entries.append(entry_of(f"{path}.{key}", parameter, replicated, mark=mark))
        transient = getattr(layer, "_non_persistent_buffers_set", ())
        for key, buffer in layer._buffers.items():
            if buffer is not None and key not in transient:
                entries.append(entry_of(f"{path}.{key}", buffer, False, True, mark))
    _refuse_unknown_state(prefix, module)
    return entries


def parameter_names(prefix: str, module: nn.Module) -> dict[torch.Tensor, str]:
    """The name of each parameter as of module_entries(), the first one if it has several."""
    _reshard(module)
    names: dict[torch.Tensor, str] = {}
    for path, layer in _layers(module, prefix):
        for key, parameter in layer._parameters.items():
            if parameter is not None:
                names.setdefault(parameter, f"{path}.{key}")
    return names


def extra_states(prefix: str, module: nn.Module) -> dict[str, Any]:
    """What get_extra_state() of its layers returns, by name of the layer."""
    return {path: layer.get_extra_state() for path, layer in _with_extra_state(prefix, module)}


def load_extra_states(prefix: str, module: nn.Module, states: dict[str, Any]) -> None:
    """Puts back what extra_states() returned."""
    for path, layer in _with_extra_state(prefix, module):
        if path in states:
            layer.set_extra_state(states[path])


def checked(entries: Iterable[Entry]) -> list[Entry]:
    """The entries to be stored: those of the same memory once, under the first name (a shadow if
    any of them is one); empty ones left out; long names shortened.

    FtmemError names the tensor that cannot be stored: on meta, freed, sparse, quantised, not in
    one piece of memory, of a subclass, overlapping another, of the same name as another.
    """
    kept: dict[tuple[torch.device, int, int], Entry] = {}
    for entry in entries:
        _refuse_kind(entry)
        if entry.tensor.numel() == 0:
            continue
        place = (entry.tensor.device, *address(entry.tensor))
        first = kept.get(place)
        if first is None:
            kept[place] = replace(entry, name=_short(entry.name))
        elif entry.shadow:
            kept[place] = replace(first, shadow=True)
    _refuse_overlap(kept)
    _refuse_same_names(kept.values())
    return list(kept.values())


def address(tensor: torch.Tensor) -> tuple[int, int]:
    """Address and bytes of the one piece of memory that a dense tensor fills, in whatever
    order of dimensions. FtmemError: it is not dense."""
    if memory_order(tensor) is None:
        raise refusal("tensor", _NOT_DENSE)
    return tensor.data_ptr(), tensor.numel() * tensor.element_size()


def digest(entries: Iterable[Entry]) -> str:
    """32 hexadecimal digits that change with the names, global shapes, dtypes and orders in memory
    of tensors, but not with how they are sharded: of the entries before checked(), which leaves
    out what is empty on this rank alone. FtmemError as checked(), but not for overlaps."""
    lines = set()
    for entry in entries:
        _refuse_kind(entry)
        order = memory_order(entry.tensor) if entry.tensor.numel() else ()
        permuted = order if order and not is_row_major(order) else ()
        lines.add(repr((_short(entry.name), tuple(entry.shape), str(entry.dtype), permuted)))
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:32]


_NOT_DENSE = "does not fill one piece of memory: use .contiguous(), or .clone() if it is expanded"


def _data_parallel(module: nn.Module) -> Any:
    """The wrapper that is a DistributedDataParallel, or None."""
    layer: nn.Module | None = module
    while layer is not None and not isinstance(layer, nn.parallel.DistributedDataParallel):
        layer = _wrapped(layer)
    return layer


def _wrapped(module: nn.Module) -> nn.Module | None:
    """What a wrapper wraps; None if it is not one."""
    parallel = (nn.parallel.DistributedDataParallel, nn.DataParallel)
    if isinstance(module, parallel):
        return module.module
    for key in ("_orig_mod", _CHECKPOINT):
        if key in module._modules:
            return module._modules[key]
    return None


def _layers(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
    """All layers with their names, those that are used in several places with each."""
    module = unwrap(module)
    fsdp1 = sys.modules.get("torch.distributed.fsdp")
    if fsdp1 and isinstance(module, fsdp1.FullyShardedDataParallel):
        what = "FullyShardedDataParallel (FSDP1) flattens parameters, which is not supported"
        raise refusal(path, f"{what}: use torch.distributed.fsdp.fully_shard")
    yield path, module
    for key, child in module._modules.items():
        if child is not None:
            yield from _layers(child, f"{path}.{key}")


def _reshard(module: nn.Module) -> None:
    """Lets FSDP2 put its sharded parameters back in place of gathered ones."""
    fsdp = getattr(sys.modules.get("torch.distributed.fsdp"), "FSDPModule", None)
    if fsdp is not None:
        for layer in module.modules():
            if isinstance(layer, fsdp):
                layer.reshard()


def _with_extra_state(prefix: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for path, layer in _layers(module, prefix):
        if type(layer).get_extra_state is not nn.Module.get_extra_state:
            yield path, layer


def _refuse_unknown_state(prefix: str, module: nn.Module) -> None:
    """Refuses what state_dict() has besides parameters, buffers and extra state, by name."""
    module = unwrap(module)
    tensors = [
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ]
    known = {key for key, _ in tensors}
    known |= {
        f"{path}.{_EXTRA}" if path else _EXTRA
        for path, _ in module.named_modules(remove_duplicate=False)
    }
    known |= {key.replace(_CHECKPOINT + ".", "") for key in known}
    held = {id(tensor) for _, tensor in tensors}  # by whatever name
    for key, value in module.state_dict(keep_vars=True).items():
        if key not in known and id(value) not in held:
            raise refusal(
                f"{prefix}.{key}",
                "state_dict() has it, but it is neither a parameter, nor a buffer, nor extra "
                "state: make it one, or leave it out of there and give Guard an object with "
                "state_dict() and load_state_dict() of its own for it",
            )


def _refuse_ignored(prefix: str, module: nn.Module) -> None:
    """Refuses parameters that DDP does not keep equal on all ranks."""
    layer: nn.Module | None = module
    while layer is not None:
        names = getattr(layer, "parameters_to_ignore", None)
        if isinstance(layer, nn.parallel.DistributedDataParallel) and names:
            for name, _ in layer.module.named_parameters(remove_duplicate=False):
                if name in names:
                    why = "DistributedDataParallel is told to ignore it: with replicated=False"
                    raise refusal(f"{prefix}.{name}", f"{why} each rank stores its own")
        layer = _wrapped(layer)


def _refuse_kind(entry: Entry) -> None:
    tensor = entry.tensor
    why = None
    if type(tensor) not in _PLAIN:
        why = f"tensors of type {type(tensor).__name__} are not supported"
    elif tensor.is_meta:
        why = "is on the meta device, without memory"
    elif tensor.device.type not in ("cpu", "cuda"):
        why = f"memory of device {tensor.device} is not supported"
    elif tensor.is_quantized:
        why = "quantised tensors are not supported"
    elif tensor.layout is not torch.strided:
        why = f"tensors of layout {tensor.layout} are not supported"
    elif tensor.is_conj() or tensor.is_neg():
        why = "is a lazy conjugate or negative: use .resolve_conj() or .resolve_neg()"
    elif memory_order(tensor) is None:
        why = _NOT_DENSE
    elif not _has_memory(tensor):
        why = "its memory was freed"
    if why:
        raise refusal(entry.name, why)


def _has_memory(tensor: torch.Tensor) -> bool:
    """Whether its storage still reaches as far as the tensor does."""
    end = (tensor.storage_offset() + tensor.numel()) * tensor.element_size()
    return tensor.numel() == 0 or tensor.untyped_storage().nbytes() >= end


def _refuse_overlap(kept: dict[tuple[torch.device, int, int], Entry]) -> None:
    last: dict[torch.device, tuple[int, str]] = {}  # end of the memory before, and whose it is
    for (device, addr, size), entry in sorted(kept.items(), key=lambda item: item[0][1]):
        end, name = last.get(device, (0, ""))
        if addr < end:
            raise refusal(entry.name, f"shares a part of its memory with {name}")
        last[device] = (addr + size, entry.name)


def _refuse_same_names(entries: Iterable[Entry]) -> None:
    names: set[str] = set()
    for entry in entries:
        if entry.name in names:
            raise refusal(entry.name, "two tensors of the state have this name")
        names.add(entry.name)


def _short(name: str) -> str:
    """The name as that of a region: a long one ends in a hash."""
    raw = name.encode(errors="surrogatepass")
    if len(raw) <= REGION_NAME_MAX and b"\0" not in raw:
        return name
    tail = "~" + hashlib.sha256(raw).hexdigest()[:32]
    head = raw[: REGION_NAME_MAX - len(tail)].replace(b"\0", b"?")
    return head.decode(errors="ignore") + tail
