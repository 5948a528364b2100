# SPDX-License-Identifier: BSD-3-Clause
"""One process, one job: what a guard captures is the state as of snapshot(), whatever the training
loop does next to it."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import signal
import sys
import unittest
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import ftmem
import guard_util
import torch
from ftmem._watch import AT_ONCE, FIRST
from guard_util import JOB, Loop, Net, guarded, taken
from session_util import refused
from torch import nn

BIG = 1 << 24  # elements: a step's writes overtake the copy unless there is a fence


def a_snapshot_before_any_step_can_be_restored() -> None:
    first, second = Loop(), Loop()
    with guarded(first.model, first.optimizer, forget=False) as guard:
        taken(guard, 1)
        assert all(not t.any() for s in first.optimizer.state.values() for t in s.values())
        state = first.state()
    with guarded(second.model, second.optimizer) as guard:
        assert guard.restore() == 1 and second.state() == state
        torch.manual_seed(1)
        second.step(3)
    torch.manual_seed(1)
    first.step(3)
    assert first.state() == second.state()


def a_step_right_after_the_snapshot_is_fenced() -> None:
    _fenced(lambda model, optimizer: optimizer.step())


def loading_a_state_right_after_the_snapshot_is_fenced() -> None:
    other = {"weight": torch.full((BIG,), 7.0)}
    _fenced(lambda model, optimizer: model.load_state_dict(other))


def _fenced(write: Callable[..., object]) -> None:
    model = nn.Module()
    model.weight = nn.Parameter(torch.arange(BIG, dtype=torch.float32))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    with guarded(model, optimizer) as guard:
        taken(guard, 1)
        before = model.weight.detach().clone()
        model.weight.grad = torch.ones(BIG)
        assert guard.snapshot(2) == ftmem.Result.OK
        write(model, optimizer)
        assert guard.wait() == ftmem.Result.OK
        assert not torch.equal(model.weight, before)
        assert guard.restore() == 2 and torch.equal(model.weight, before)


def buffers_may_change_right_after_the_snapshot() -> None:
    model = nn.BatchNorm1d(1 << 22)
    with guarded(model) as guard:
        taken(guard, 1)
        model(torch.randn(2, 1 << 22))
        before = copy.deepcopy(model.state_dict())
        guard.snapshot(2)
        model.running_mean.fill_(3.0)
        model.running_var = torch.zeros(1 << 22)
        model.num_batches_tracked.add_(5)
        guard.wait()
        assert guard.restore() == 2
        after = model.state_dict()
        assert all(torch.equal(before[key], after[key]) for key in before)


def tensors_that_got_other_memory_are_followed() -> None:
    loop = Loop()
    state = loop.optimizer.state

    def give_data() -> None:
        loop.model.second.weight.data = loop.model.second.weight.data.clone()

    def load() -> None:
        loop.optimizer.load_state_dict(copy.deepcopy(loop.optimizer.state_dict()))

    def bind_state() -> None:
        inner = state[loop.model.first.bias]
        inner["exp_avg"] = inner["exp_avg"] + 1

    def bind_step() -> None:
        inner = state[loop.model.first.bias]
        inner["step"] = inner["step"].clone()

    def bind_parameter() -> None:
        loop.model.second.bias = nn.Parameter(torch.ones(2))
        loop.optimizer.add_param_group({"params": [loop.model.second.bias]})

    def replace_layer() -> None:
        loop.model.second = nn.Linear(4, 2)

    def offload() -> None:
        for inner in state.values():
            for tensor in inner.values():
                tensor.data = tensor.data.clone()

    with guarded(loop.model, loop.optimizer) as guard:
        number = 0
        for change in (give_data, bind_state, bind_step, offload, load, bind_parameter,
                       replace_layer):
            loop.step()
            taken(guard, number + 1)
            change()
            state = loop.optimizer.state
            loop.step()
            taken(guard, number + 2)
            after = loop.state()
            loop.step()
            assert guard.restore() == number + 2
            assert loop.state() == after, change.__name__
            number += 2


def a_state_that_moves_late_is_followed_in_a_large_optimizer() -> None:
    """When it is not looked at as a whole any more in each snapshot."""
    loop = Loop(nn.Sequential(*(nn.Linear(3, 3) for _ in range(AT_ONCE))))
    with guarded(loop.model, loop.optimizer) as guard:
        loop.step()
        for number in range(1, FIRST + 3):
            taken(guard, number)
        for inner in loop.optimizer.state.values():
            inner["exp_avg"].data = inner["exp_avg"].data.clone()
        loop.step()
        with unittest.TestCase().assertLogs("ftmem", "WARNING") as log:
            taken(guard, FIRST + 3)
        assert "optimizer.model.0.weight.exp_avg, " in log.output[0]
        assert "up to 1 versions before" in log.output[0]
        after = loop.state()
        loop.step()
        assert guard.restore() == FIRST + 3 and loop.state() == after


def each_stream_has_a_fence_of_its_own() -> None:
    """Though no device is here: two optimizers that step on different streams."""
    loop = Loop()
    with guarded(loop.model, loop.optimizer) as guard:
        taken(guard, 1)
        stream, fenced = SimpleNamespace(device_index=0, cuda_stream=1), []
        guard._registry.streams = lambda: [stream]
        guard._session.fence = lambda of: fenced.append(of.cuda_stream)
        for stream.cuda_stream in (1, 1, 2, 1, 2):
            loop.step()
        assert fenced == [1, 2]
        del guard._registry.streams, guard._session.fence
        taken(guard, 2)
        loop.step()
        taken(guard, 3)


def nothing_reaches_the_loop_though_warnings_are_errors() -> None:
    values: dict[str, Any] = {}
    with guarded(values, on_error="warn", log_every_s=0) as guard, warnings.catch_warnings():
        warnings.simplefilter("error")
        taken(guard, 1)
        values["fails"] = lambda: None
        assert guard.snapshot(2) == ftmem.Result.DROPPED
        values["fails"] = bytes(1 << 20)
        guard._session.stats = lambda: 1 / 0
        assert guard.snapshot("three") == ftmem.Result.DROPPED
        del guard._session.stats
        taken(guard, 4)


def a_model_without_memory_warns_by_name_and_training_goes_on() -> None:
    loop = Loop()
    with guarded(loop.model, loop.optimizer, on_error="warn") as guard:
        taken(guard, 1)
        held = loop.model.first.weight.detach().clone()
        loop.model.first.weight.untyped_storage().resize_(0)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert guard.snapshot(2) == guard.wait() == ftmem.Result.DROPPED
        assert ["model.first.weight" in str(w.message) for w in caught] == [True]
        assert caught[0].filename == __file__
        loop.model.first.weight.data = held
        loop.step()
        taken(guard, 3)


def a_snapshot_that_fails_warns_once_and_does_not_raise() -> None:
    values: dict[str, Any] = {"callback": lambda: None}
    with guarded(values, on_error="warn") as guard:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for step in (1, 2, 3):
                assert guard.snapshot(step) == ftmem.Result.DROPPED
        assert len(caught) == 1 and "value holds what cannot be" in str(caught[0].message)
        assert issubclass(caught[0].category, ftmem.FtmemWarning)
        del values["callback"]
        taken(guard, 4)
        assert guard.stats()["steps"] == 4 and guard.stats()["committed"] == 1


def a_snapshot_that_fails_raises_if_asked_to() -> None:
    values: dict[str, Any] = {"callback": lambda: None}
    with guarded(values, on_error="raise") as guard:
        refused("EINVAL", "value holds what cannot be pickled", guard.snapshot, 1)
        values.clear()
        refused("EINVAL", "not between", guard.snapshot, -1)


def values_grow_out_of_their_memory() -> None:
    values: list[int] = []
    with guarded(values) as guard:
        for step in range(1, 6):
            values.extend(range(20_000 * step))
            taken(guard, step)
        expected = list(values)
        assert guard.stats()["objects_bytes"] > 500_000
        values.clear()
        assert guard.restore() == 5 and values == expected
    guard_util.store(values)
    with guarded(values, objects_bytes=4_000_000) as guard:
        assert guard.restore() == 1 and values == expected
        taken(guard, 2)
        assert guard.stats()["objects_bytes"] >= 4_000_000


class _Average:
    """Has a large tensor that it updates in place, a small one that it binds anew, a count."""

    def __init__(self) -> None:
        self.mean, self.last, self.count = torch.zeros(1 << 15), torch.zeros(2), 0

    def update(self) -> None:
        self.mean += torch.rand(1 << 15)
        self.last = torch.rand(2)
        self.count += 1

    def state_dict(self) -> dict[str, Any]:
        return {"tensors": {"mean": self.mean, "last": self.last}, "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.mean.copy_(state["tensors"]["mean"])
        self.last, self.count = state["tensors"]["last"], state["count"]


def objects_with_a_state_dict_are_captured_with_their_tensors() -> None:
    average = _Average()
    with guarded(average) as guard:
        taken(guard, 1)
        assert guard.stats()["objects_bytes"] < average.mean.nbytes
        average.update()
        mean, last = average.mean.clone(), average.last.clone()
        guard.snapshot(2)
        average.update()
        guard.wait()
        assert guard.restore() == 2
        assert torch.equal(average.mean, mean) and torch.equal(average.last, last)
        assert average.count == 1


class _Counting(torch.optim.Optimizer):
    """Counts steps in an int, and binds its momentum anew in each."""

    def __init__(self, parameters: Any, lr: float) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for parameter in self.param_groups[0]["params"]:
            state = self.state[parameter]
            state["step"] = state.get("step", 0) + 1
            state["momentum"] = 0.9 * state.get("momentum", 0.0) + parameter.grad
            parameter.sub_(state["momentum"], alpha=self.param_groups[0]["lr"])


def optimizers_of_others_are_captured_as_they_are() -> None:
    loop = Loop(kind=_Counting)
    with guarded(loop.model, loop.optimizer) as guard:
        for step in (1, 2, 3):
            loop.step()
            taken(guard, step)
        state = loop.state()
        loop.step()
        assert guard.restore() == 3 and loop.state() == state
        assert loop.optimizer.state[loop.model.first.weight]["step"] == 3
    other = Loop(kind=_Counting)
    with guarded(other.model, other.optimizer) as guard:
        refused("EINVAL", "no state yet", guard.snapshot, 1)


def a_forked_process_cannot_use_the_guard_and_leaves_it_alone() -> None:
    loop = Loop()
    with guarded(loop.model, loop.optimizer) as guard:
        loop.step()
        taken(guard, 1)
        guard.snapshot(2)
        child = os.fork()
        if child == 0:
            _in_child(guard, loop)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert guard.wait() == ftmem.Result.OK
        taken(guard, 3)


def _in_child(guard: ftmem.Guard, loop: Loop) -> None:
    try:
        refused("EINVAL", "forked", guard.snapshot, 3)
        for call in (guard.restore, guard.fence, guard.wait, guard.stats, guard.forget):
            refused("EINVAL", "forked", call)
        loop.optimizer.step()
        guard.close()
    except BaseException as failure:
        print(f"forked process: {failure!r}", file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def a_guard_that_is_garbage_is_closed() -> None:
    loop = Loop()
    guard = ftmem.Guard(loop.model, loop.optimizer, job=JOB)
    taken(guard, 1)
    del guard
    gc.collect()
    loop.step()
    with guarded(loop.model, loop.optimizer) as again:
        assert again.restore() == 1


def guarded_models_can_be_copied_and_pickled() -> None:
    loop = Loop()
    with guarded(loop.model, loop.optimizer) as guard:
        taken(guard, 1)
        guard.snapshot(2)
        for twin in (copy.deepcopy(loop.model), pickle.loads(pickle.dumps(loop.model))):
            twin.load_state_dict(loop.model.state_dict())
        guard.wait()


def ctrl_c_in_a_snapshot_leaves_a_guard_that_goes_on() -> None:
    class Interrupting:
        armed = True

        def state_dict(self) -> dict[str, int]:
            if self.armed:
                os.kill(os.getpid(), signal.SIGINT)
            return {"a": 1}

        def load_state_dict(self, state: dict[str, int]) -> None:
            assert state == {"a": 1}

    interrupting, loop = Interrupting(), Loop()
    interrupting.armed = False
    with guarded(loop.model, interrupting, on_error="warn") as guard:
        taken(guard, 1)
        interrupting.armed = True
        try:
            guard.snapshot(2)
        except KeyboardInterrupt:
            interrupting.armed = False
        assert not interrupting.armed, "not interrupted"
        assert guard.wait() == ftmem.Result.DROPPED
        taken(guard, 3)


def stats_and_results_tell_what_became_of_versions() -> None:
    with guarded(Net()) as guard:
        assert guard.wait() == ftmem.Result.OK
        taken(guard, 10)
        stats = guard.stats()
        assert (stats["newest"], stats["committed"], stats["steps"]) == (10, 1, 1)
        assert stats["snapshot_host_s"] > 0 and stats["objects_bytes"] == 65536
        refused("EINVAL", "", guard.snapshot, 10)


if __name__ == "__main__":
    guard_util.run(globals())
