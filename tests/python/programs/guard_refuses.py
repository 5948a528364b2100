# SPDX-License-Identifier: BSD-3-Clause
"""One process, one job: what a guard refuses to restore, and leaves as it is."""

from __future__ import annotations

from typing import Any

import ftmem
import guard_util
import torch
from guard_util import JOB, Loop, Net, guarded, restored, store, taken
from session_util import refused
from torch import nn


def _refused_and_untouched(text: str, loop: Loop, *others: Any) -> None:
    """Before anything is sealed: no memory is taken for the other layout."""
    before = [t.clone() for t in loop.model.state_dict().values() if not t.is_meta]
    with guarded(loop.model, loop.optimizer, *others, forget=False) as guard:
        refused("ELAYOUT", text, guard.restore)
        assert guard.stats()["held_bytes"] == 0 and not loop.optimizer.state
    after = [t for t in loop.model.state_dict().values() if not t.is_meta]
    assert all(map(torch.equal, before, after))


def nothing_stored_is_step_0_and_takes_no_memory() -> None:
    loop = Loop()
    with guarded(loop.model, loop.optimizer) as guard:
        assert guard.restore() == 0
        assert guard.stats()["held_bytes"] == 0 and not loop.optimizer.state


def other_tensors_are_refused_by_name() -> None:
    stored = Loop()
    stored.step()
    store(stored.model, stored.optimizer)
    renamed = Net()
    renamed.third = renamed.second
    del renamed.second
    renamed.forward = lambda x: x
    for text, loop in (
        ("not stored: model.third.bias", Loop(renamed)),
        ("stored but not here: model.second.bias", Loop(renamed)),
        ("model.first.weight (96 bytes, 48 stored)", Loop(Net(width=8))),
        ("model.first.weight (24 bytes, 48 stored)", Loop(Net().bfloat16())),
        ("not stored: optimizer.model.first.bias.max_exp_avg_sq", Loop(amsgrad=True)),
        ("optimizer.model.first.bias.exp_avg", Loop(kind=torch.optim.SGD)),
    ):
        _refused_and_untouched(text, loop)
    extra = Net()
    extra.register_buffer("more", torch.zeros(2))
    _refused_and_untouched("not stored: model.more", Loop(extra))
    missing = Net()
    missing.norm = nn.Identity()
    _refused_and_untouched("stored but not here: model.norm.bias", Loop(missing))
    swapped = Net()
    swapped.first.weight = nn.Parameter(swapped.first.weight.detach().reshape(3, 4).clone())
    _refused_and_untouched("names and sizes are equal", Loop(swapped))
    _forget()


def other_groups_and_objects_are_refused() -> None:
    stored = Loop()
    stored.step()
    store(stored.model, stored.optimizer, {"a": 1})
    groups = Loop()
    groups.optimizer = torch.optim.AdamW(
        [{"params": groups.model.first.parameters()},
         {"params": [*groups.model.norm.parameters(), *groups.model.second.parameters()]}])
    for loop, others in ((groups, [{}]), (Loop(), []), (Loop(), [{}, {}]), (Loop(), [[]])):
        _refused_and_untouched("kinds of objects or the parameters of", loop, *others)
    _forget()


def tensors_on_meta_are_refused_by_name() -> None:
    stored = Loop()
    store(stored.model)
    with guarded(Net().to("meta"), forget=False) as guard:
        refused("EINVAL", "model.first.weight", guard.restore)
    _forget()
    with guarded(Net().to("meta")) as guard:
        refused("EINVAL", "model.first.weight", guard.snapshot, 1)


def what_another_program_stored_is_refused() -> None:
    with ftmem.Session(JOB) as session:
        session.add_tensor("model.weight", torch.ones(3))
        session.seal()
        session.snapshot(4)
        session.wait(4)
    with guarded(Net()) as guard:
        refused("ELAYOUT", "stored by another program", guard.restore)


def without_strict_what_fits_is_restored() -> None:
    stored, values = Loop(), {"step": 5}
    stored.step()
    store(stored.model, stored.optimizer, values, step=5)
    adapted = Loop(nn.Sequential())
    adapted.model = Net()
    adapted.model.adapter = nn.Linear(2, 2)
    kept = adapted.model.adapter.weight.clone()
    adapted.optimizer = torch.optim.AdamW(adapted.model.parameters(), lr=0.5)
    found: dict[str, int] = {}
    with guarded(adapted.model, adapted.optimizer, found, [], strict=False) as guard:
        assert guard.restore() == 5
        assert found == values and adapted.optimizer.param_groups[0]["lr"] == 0.1
        assert torch.equal(adapted.model.first.weight, stored.model.first.weight)
        assert torch.equal(adapted.model.adapter.weight, kept)
        state = adapted.optimizer.state[adapted.model.first.weight]
        assert torch.equal(state["exp_avg"],
                           stored.optimizer.state[stored.model.first.weight]["exp_avg"])
        taken(guard, 6)
        state = adapted.state()
        adapted.step()
        adapted.model.adapter.weight.data.fill_(2.0)
        assert guard.restore() == 6 and adapted.state() == state


def without_strict_other_shapes_are_refused() -> None:
    store(Net())
    with guarded(Net(width=8), strict=False) as guard:
        refused("ELAYOUT", "model.first.weight", guard.restore)


def stored_versions_stay_until_they_are_restored_or_forgotten() -> None:
    store(Net(), step=3)
    with guarded(Net(), forget=False) as guard:
        refused("EINVAL", "restore", guard.snapshot, 4)
    assert restored(Net()) == 3


def a_second_guard_of_one_job_is_refused() -> None:
    loop = Loop()
    with guarded(loop.model) as guard:
        refused("EINVAL", "already open", ftmem.Guard, loop.model, job=JOB)
        taken(guard, 1)


def objects_of_no_kind_are_refused() -> None:
    for objects, options, expected in (
        ([3], {}, TypeError), ([], {}, TypeError), ([Net()], {"on_error": "no"}, ValueError)
    ):
        try:
            ftmem.Guard(*objects, job=JOB, **options)
        except expected:
            continue
        raise AssertionError(f"not refused: {objects} {options}")


def _forget() -> None:
    with guarded({}):
        pass


if __name__ == "__main__":
    guard_util.run(globals())
