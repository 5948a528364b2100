# SPDX-License-Identifier: BSD-3-Clause
"""PyTorch's own ways to save a state, timed for ftmem_gpu_bench.py: its distributed checkpoint,
asynchronous, in several settings, and torch.save. All write to one folder, which is memory by
default, so that no disk is measured.
"""
import gc
import inspect
import pathlib
import shutil
import time
import warnings

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import staging

WAIT_S = 300


def free_host_memory():
    """What PyTorch keeps pinned for later: the settings must not add up."""
    gc.collect()
    empty = getattr(torch._C, "_host_emptyCache", None)
    if empty:
        empty()


def with_known(function, **wanted):
    """Calls function with those of the arguments that this release of PyTorch has."""
    known = inspect.signature(function).parameters
    return function(**{key: value for key, value in wanted.items() if key in known})


def cached_pinned(_pinned):
    return staging.BlockingAsyncStager(cache_staged_state_dict=True, type_check=False)


def staged_by_thread(pinned):
    options = with_known(staging.StagingOptions, use_pinned_memory=pinned,
                         use_shared_memory=False, use_async_staging=True,
                         use_non_blocking_copy=pinned)
    return staging.DefaultStager(options)


SETTINGS = {
    # name: (what makes the stager, whether it needs a GPU)
    "async, staged into cached pinned memory": (cached_pinned, True),
    "async, staged by a thread into pinned memory": (staged_by_thread, False),
    "async, default": (lambda _pinned: None, False),
}


def save_once(state, folder, stager, group):
    """Seconds: the call; until the state may be written again; until all is done."""
    writer = with_known(dcp.FileSystemWriter, path=folder, single_file_per_rank=True,
                        sync_files=False, thread_count=4, overwrite=True)
    wanted = {"state_dict": state, "checkpoint_id": folder, "storage_writer": writer,
              "process_group": group}
    if stager is not None:
        wanted["async_stager"] = stager
    begin = time.perf_counter()
    response = dcp.async_save(**wanted)
    call = staged = time.perf_counter() - begin
    if hasattr(response, "staging_completion"):
        response.staging_completion.result(WAIT_S)
        staged = time.perf_counter() - begin
        response.upload_completion.result(WAIT_S)
    else:
        response.result(WAIT_S)
    return {"call_s": call, "staged_s": staged, "done_s": time.perf_counter() - begin}


def measure_setting(name, state, folder, repeat, device, world):
    """The first time, in which memory is taken, and the others."""
    make, needs_gpu = SETTINGS[name]
    if needs_gpu and device.kind != "cuda":
        return {"failed": "needs a GPU"}
    stager, samples = None, []
    try:
        stager = make(device.kind == "cuda")
        for _ in range(1 + repeat):
            device.synchronize()
            world.barrier()
            samples.append(save_once(state, folder, stager, world.control))
    except Exception as error:  # another release of PyTorch: the other settings go on
        return {"failed": f"{type(error).__name__}: {error}"[:500]}
    finally:
        if hasattr(stager, "close"):
            stager.close()
        stager = None
        free_host_memory()
    return {"first": samples[0],
            **{key: [sample[key] for sample in samples[1:]] for key in samples[0]}}


def measure_torch_save(state, folder, repeat, device, world):
    path, samples = pathlib.Path(folder, f"rank{world.rank}.pt"), []
    for _ in range(repeat):
        device.synchronize()
        world.barrier()
        begin = time.perf_counter()
        torch.save(state, path)
        samples.append(time.perf_counter() - begin)
    return {"call_s": samples, "staged_s": samples, "done_s": samples}


def measure(state, folder, repeat, device, world):
    """By the name of the setting; state is a list of (name, tensor)."""
    tensors = {f"rank{world.rank}.{name}": tensor for name, tensor in state}
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    folder = pathlib.Path(folder)
    free = shutil.disk_usage(folder).free
    if free < 1.1 * size * world.size:
        raise RuntimeError(f"{folder} has {free >> 20} MiB free, which is too little for "
                           f"{size * world.size >> 20} MiB: see --dcp-dir")
    out = {}
    # Each save overwrites the former one.
    warnings.filterwarnings("ignore", message="Detected an existing checkpoint")
    for name in (*SETTINGS, "torch.save"):
        where = folder / f"ftmem-gpu-bench-{world.name}"
        try:
            if world.local_rank == 0:
                where.mkdir(exist_ok=True)
            world.barrier()
            if name == "torch.save":
                out[name] = measure_torch_save(tensors, where, max(1, repeat - 1), device, world)
            else:
                out[name] = measure_setting(name, tensors, where, repeat, device, world)
        finally:
            world.barrier()
            if world.local_rank == 0:
                shutil.rmtree(where, ignore_errors=True)
    return out
