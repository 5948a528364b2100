# SPDX-License-Identifier: BSD-3-Clause
"""The state of optimizers: how it is named, and that making it early changes nothing."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn, optim

from ftmem import _tensors as T
from ftmem._registry import Layout
from ftmem._sources import sources_of
from ftmem._watch import Watch
from ftmem.errors import FtmemError

# Each as (class, options); all that torch.optim has, in all ways to compute a step.
CASES = [
    (optim.SGD, dict(lr=0.1)),
    (optim.SGD, dict(lr=0.1, momentum=0.9)),
    (optim.SGD, dict(lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1, foreach=True)),
    (optim.SGD, dict(lr=0.1, momentum=0.9, weight_decay=0.1, maximize=True, fused=True)),
    (optim.Adam, dict(lr=0.1, weight_decay=0.1)),
    (optim.Adam, dict(lr=0.1, weight_decay=0.1, amsgrad=True, foreach=True)),
    (optim.Adam, dict(lr=0.1, amsgrad=True, maximize=True, fused=True)),
    (optim.Adam, dict(lr=torch.tensor(0.1), eps=0.0)),
    (optim.AdamW, dict(lr=0.1)),
    (optim.AdamW, dict(lr=0.1, amsgrad=True, foreach=True)),
    (optim.AdamW, dict(lr=torch.tensor(0.1), fused=True)),
    (optim.NAdam, dict(lr=0.1, weight_decay=0.1)),
    (optim.NAdam, dict(lr=0.1, decoupled_weight_decay=True, weight_decay=0.1, foreach=True)),
    (optim.RAdam, dict(lr=0.1, weight_decay=0.1)),
    (optim.RAdam, dict(lr=0.1, foreach=True)),
    (optim.Adamax, dict(lr=0.1, weight_decay=0.1)),
    (optim.Adamax, dict(lr=0.1, foreach=True)),
    (optim.Adadelta, dict(lr=0.1, weight_decay=0.1)),
    (optim.Adadelta, dict(lr=0.1, foreach=True)),
    (optim.Adagrad, dict(lr=0.1, initial_accumulator_value=0.3, weight_decay=0.1)),
    (optim.Adagrad, dict(lr=0.1, lr_decay=0.1, fused=True)),
    (optim.RMSprop, dict(lr=0.1, momentum=0.9, centered=True, weight_decay=0.1)),
    (optim.RMSprop, dict(lr=0.1, foreach=True)),
    (optim.Rprop, dict(lr=0.1)),
    (optim.Rprop, dict(lr=100.0, foreach=True)),
    (optim.ASGD, dict(lr=0.1, lambd=0.1, t0=1.0, weight_decay=0.1)),
    (optim.ASGD, dict(lr=0.1, foreach=True)),
    (optim.Adafactor, dict(lr=0.1, weight_decay=0.1)),
    (optim.Adafactor, dict(lr=0.1, foreach=True)),
    (optim.SparseAdam, dict(lr=0.1)),
]
if hasattr(optim, "Muon"):
    CASES.append((optim.Muon, dict(lr=0.1, weight_decay=0.1)))
ON_DEVICES = [
    (cls, dict(lr=0.1, capturable=True, **more))
    for cls in (optim.Adam, optim.AdamW, optim.NAdam, optim.RAdam, optim.Adamax, optim.Adadelta,
                optim.RMSprop, optim.Rprop, optim.ASGD)
    for more in (dict(foreach=False), dict(foreach=True))
] + [(optim.AdamW, dict(lr=0.1, capturable=True, fused=True, amsgrad=True))]


def possible(cls: type, options: dict, dtype: torch.dtype) -> bool:
    """Whether PyTorch has it; complex momentum is refused, which another test shows."""
    if not dtype.is_complex:
        return True
    real = cls.__name__ in ("Adafactor", "Muon", "SparseAdam") or "fused" in options
    return not real and not (cls is optim.SGD and "momentum" in options)


WAYS = [
    pytest.param(
        cls, options, dtype, device,
        id="-".join([cls.__name__, *(k for k, v in options.items() if v is True), str(dtype)[6:],
                     device]),
    )
    for device in ("cpu", "cuda")[: 1 + torch.cuda.is_available()]
    for cls, options in (CASES if device == "cpu" else CASES + ON_DEVICES)
    for dtype in (torch.float32, torch.bfloat16, torch.complex64)
    if possible(cls, options, dtype)
]


def tensors(dtype: torch.dtype, device: str, cls: type) -> list[nn.Parameter]:
    """Parameters of several shapes and orders in memory, with zeros of both signs."""
    gen = torch.Generator().manual_seed(7)
    shapes = [(4, 6), (3, 4), (6, 2)] if cls is getattr(optim, "Muon", None) else [
        (4, 6), (5,), (), (2, 3, 4)
    ]
    out = []
    for shape in shapes:
        data = torch.randn(shape, generator=gen, dtype=torch.float64).to(dtype)
        if data.numel() > 1:
            data.view(-1)[:2] = torch.tensor([0.0, -0.0], dtype=dtype)
        out.append(nn.Parameter(data.to(device)))
    out[0].data = out[0].data.t()
    return out


def gradient(parameter: torch.Tensor, step: int, index: int) -> torch.Tensor:
    gen = torch.Generator().manual_seed(100 * step + index)
    grad = torch.randn(parameter.shape, generator=gen, dtype=torch.float64).to(parameter.dtype)
    if grad.numel() > 1:
        grad.view(-1)[1:4] = torch.tensor([-0.0, 0.0, -0.0], dtype=grad.dtype)
    return torch.empty_like(parameter.detach()).copy_(grad)


def train(optimizer: optim.Optimizer, parameters: list[nn.Parameter], steps: range) -> None:
    """The last parameter has no gradient in the first two steps, except for SGD in those ways
    that treat a group of which only some have a momentum otherwise (fused: fail)."""
    alike = any(optimizer.defaults.get(k) for k in ("foreach", "fused")) or parameters[0].is_cuda
    late = not (alike and isinstance(optimizer, optim.SGD))
    for step in steps:
        for index, parameter in enumerate(parameters):
            parameter.grad = None
            if index < len(parameters) - 1 or step >= 2 or not late:
                grad = gradient(parameter, step, index)
                sparse = isinstance(optimizer, optim.SparseAdam)
                parameter.grad = grad.to_sparse(1) if sparse and grad.dim() else grad
        optimizer.step()


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    def raw(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.detach().contiguous().reshape(-1).view(torch.uint8)

    same_memory = (a.shape, a.dtype, a.stride()) == (b.shape, b.dtype, b.stride())
    return same_memory and torch.equal(raw(a), raw(b))


def assert_same(a: optim.Optimizer, b: optim.Optimizer) -> None:
    """Parameters and state are equal bit for bit."""
    for group, other in zip(a.param_groups, b.param_groups, strict=True):
        for p, q in zip(group["params"], other["params"], strict=True):
            assert same_bits(p, q)
            state, twin = a.state.get(p, {}), b.state.get(q, {})
            assert list(state) == list(twin)
            for key, value in state.items():
                if isinstance(value, torch.Tensor):
                    assert same_bits(value, twin[key]), key
                else:
                    assert value == twin[key] and type(value) is type(twin[key])


def places(optimizer: optim.Optimizer) -> list[tuple[str, int]]:
    """Keys and addresses of the tensors of the state."""
    return [
        (key, value.data_ptr())
        for group in optimizer.param_groups
        for p in group["params"]
        for key, value in optimizer.state.get(p, {}).items()
        if isinstance(value, torch.Tensor)
    ]


def make(
    cls: type, options: dict, dtype: torch.dtype, device: str
) -> tuple[optim.Optimizer, list[nn.Parameter]]:
    parameters = tensors(dtype, device, cls)
    if cls is optim.SparseAdam:
        parameters = [p for p in parameters if p.dim()]
    options = copy.deepcopy(options)
    groups = [{"params": parameters[:1]}, {"params": parameters[1:]}]
    groups[1]["lr"] = options["lr"] * 0.5
    return cls(groups, **options), parameters


@pytest.mark.parametrize(("cls", "options", "dtype", "device"), WAYS)
@pytest.mark.parametrize("when", [0, 1], ids=["before_the_first_step", "after_one"])
def test_training_is_the_same_with_state_made_early(cls, options, dtype, device, when):
    plain, parameters = make(cls, options, dtype, device)
    train(plain, parameters, range(when))
    start = copy.deepcopy(parameters)
    train(plain, parameters, range(when, 4))
    early, others = make(cls, options, dtype, device)
    train(early, others, range(when))
    T.materialize(early)
    assert all(same_bits(p, q) for p, q in zip(start, others, strict=True))
    has_state = cls is not optim.SGD or "momentum" in options
    assert len(early.state) == (len(others) if has_state else 0)
    made = places(early)
    train(early, others, range(when, 4))
    assert_same(plain, early)
    assert places(early) == made  # what was registered goes on to be the state


def test_making_state_leaves_all_else_untouched():
    module = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    module[1].bias.requires_grad_(False)
    lr = torch.tensor(0.1)
    optimizer = optim.AdamW(module.parameters(), lr=lr)
    scheduler = optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    ran = []
    optimizer.register_step_pre_hook(lambda *_: ran.append("pre"))
    optimizer.register_step_post_hook(lambda *_: ran.append("post"))
    module[0].weight.grad = torch.full((4, 3), float("nan"))
    grad = module[0].weight.grad
    before = copy.deepcopy(list(module.parameters()))
    groups, random = optimizer.param_groups, torch.get_rng_state()
    content = [dict(group) for group in groups]
    count = scheduler.state_dict()
    T.materialize(optimizer)
    assert ran == []
    assert optimizer.param_groups is groups
    assert [list(g) for g in groups] == [list(g) for g in content]
    assert all(g[k] is c[k] for g, c in zip(groups, content, strict=True) for k in g)
    assert lr.item() == pytest.approx(0.1)
    assert torch.equal(torch.get_rng_state(), random)
    assert module[0].weight.grad is grad and module[0].bias.grad is None
    assert all(same_bits(p, q) for p, q in zip(module.parameters(), before, strict=True))
    assert scheduler.state_dict() == count
    assert set(optimizer.state) == {p for p in module.parameters() if p.requires_grad}
    made = {p: dict(state) for p, state in optimizer.state.items()}
    T.materialize(optimizer)
    assert all(optimizer.state[p][k] is v for p in made for k, v in made[p].items())


def test_an_optimizer_whose_state_was_cleared_gets_it_again():
    parameter = nn.Parameter(torch.ones(3))
    optimizer = optim.Adagrad([parameter], initial_accumulator_value=0.5)
    first = optimizer.state[parameter]["sum"].clone()
    optimizer.state.clear()
    T.materialize(optimizer)
    assert same_bits(optimizer.state[parameter]["sum"], first)


def test_state_of_momentum_with_dampening_is_made_for_a_restore_alone():
    parameter = nn.Parameter(torch.ones(3))
    optimizer = optim.SGD([parameter], lr=0.1, momentum=0.9, dampening=0.5)
    with pytest.raises(FtmemError, match="SGD.*parameter 0.*dampening"):
        T.materialize(optimizer)
    assert not optimizer.state
    T.materialize(optimizer, overwritten=True)
    assert list(optimizer.state[parameter]) == ["momentum_buffer"]


def test_complex_momentum_is_made_for_a_restore_alone():
    parameter = nn.Parameter(torch.ones(3, dtype=torch.complex64))
    optimizer = optim.SGD([parameter], lr=0.1, momentum=0.9)
    with pytest.raises(FtmemError, match="SGD.*complex"):
        T.materialize(optimizer)
    T.materialize(optimizer, overwritten=True)
    assert optimizer.state[parameter]["momentum_buffer"].dtype is torch.complex64


class Lion(optim.Optimizer):
    """One that is not of torch.optim, which counts steps in an int."""

    def __init__(self, parameters, lr=0.1):
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    state = self.state[p]
                    state.setdefault("step", 0)
                    state["step"] += 1
                    state.setdefault("average", torch.ones_like(p)).lerp_(p.grad, 0.1)
                    p.add_(state["average"].sign(), alpha=-group["lr"])


class Centred(optim.Adam):
    """Adam that does something else in a step."""

    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.grad -= p.grad.mean()
        return super().step(closure)


class Named(optim.Adam):
    """Adam, as it is."""


@pytest.mark.parametrize("cls", [Lion, Centred])
def test_state_of_unknown_optimizers_is_made_for_a_restore_alone(cls):
    parameters = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))]
    optimizer = cls(parameters)
    parameters[0].grad = torch.ones(3)
    optimizer.step()
    with pytest.raises(FtmemError, match=f"{cls.__name__}.*parameter 1 .*not known"):
        T.materialize(optimizer)
    T.materialize(optimizer, overwritten=True)
    assert list(optimizer.state[parameters[1]]) == list(optimizer.state[parameters[0]])
    assert torch.equal(parameters[1], torch.ones(2))
    parameters[1].grad = torch.ones(2)
    optimizer.step()


def test_a_subclass_that_steps_alike_is_known():
    optimizer = Named([nn.Parameter(torch.ones(3))])
    T.materialize(optimizer)
    assert len(optimizer.state) == 1


def test_values_that_are_no_tensors_are_found_and_put_back():
    parameter = nn.Parameter(torch.ones(3))
    names = {parameter: "model.w"}
    optimizer = Lion([parameter])
    parameter.grad = torch.ones(3)
    optimizer.step()
    assert T.optimizer_values(optimizer, names) == {("model.w", "step"): 1}
    found = T.optimizer_entries("optimizer", optimizer, names, False)
    assert [e.name for e in found] == ["optimizer.model.w.average"]
    T.load_optimizer_values(optimizer, names, {("model.w", "step"): 7, ("gone", "step"): 1})
    assert optimizer.state[parameter]["step"] == 7


def test_parameters_of_no_module_are_stored_by_their_place():
    inside, outside = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))
    optimizer = optim.Adam([{"params": [inside]}, {"params": [inside.detach(), outside]}])
    T.materialize(optimizer)
    found = T.checked(T.optimizer_entries("optimizer", optimizer, {inside: "model.w"}, True))
    assert [e.name for e in found if "group" in e.name] == [
        "optimizer.group1.0", "optimizer.group1.1", "optimizer.group1.1.step",
        "optimizer.group1.1.exp_avg", "optimizer.group1.1.exp_avg_sq",
    ]
    assert found[0].box.shape == (1,) and found[-1].box.shape == (2,)


def test_state_that_cannot_be_stored_is_refused_by_name():
    parameter = nn.Parameter(torch.ones(3))
    names = {parameter: "model.w"}
    lbfgs = optim.LBFGS([parameter])
    for overwritten in (False, True):
        with pytest.raises(FtmemError, match="LBFGS"):
            T.materialize(lbfgs, overwritten=overwritten)
    with pytest.raises(FtmemError, match="LBFGS"):
        T.optimizer_entries("optimizer", lbfgs, names, False)
    lion = Lion([parameter])
    lion.state[parameter]["history"] = [{"at": torch.ones(3)}]
    with pytest.raises(FtmemError, match="optimizer.model.w.history: Lion"):
        T.optimizer_entries("optimizer", lion, names, False)
    lion = Lion([parameter])
    lion.state["shared"] = torch.ones(3)
    with pytest.raises(FtmemError, match="optimizer.state: Lion.*shared"):
        T.optimizer_entries("optimizer", lion, names, False)


class Counting(Lion):
    """Lion that holds values for no parameter."""

    def step(self, closure=None):
        self.state["steps"] = self.state.get("steps", 0) + 1
        self.state.setdefault("log", []).append("step")
        return super().step(closure)


def test_values_for_no_parameter_are_found_and_put_back():
    parameter = nn.Parameter(torch.ones(3))
    optimizer = Counting([parameter])
    parameter.grad = torch.ones(3)
    optimizer.step()
    values = T.optimizer_values(optimizer, {})
    assert values == {("", "steps"): 1, ("", "log"): ["step"], ("group0.0", "step"): 1}
    other = Counting([nn.Parameter(torch.ones(3))])
    T.load_optimizer_values(other, {}, values)
    assert other.state["steps"] == 1 and other.state["log"] == ["step"]
    optimizer.state["log"] = [torch.ones(1)]
    with pytest.raises(FtmemError, match="tensors for log"):
        T.optimizer_values(optimizer, {})


def test_making_state_leaves_values_for_no_parameter_as_they_were():
    parameters = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))]
    optimizer = Counting(parameters)
    T.materialize(optimizer, overwritten=True)
    assert set(optimizer.state) == set(parameters)
    parameters[0].grad = torch.ones(3)
    optimizer.step()
    del optimizer.state[parameters[1]]
    log = optimizer.state["log"]
    T.materialize(optimizer, overwritten=True)
    assert parameters[1] in optimizer.state
    assert optimizer.state["steps"] == 1 and optimizer.state["log"] is log == ["step"]


def test_counters_for_no_parameter_do_not_ask_for_another_registration():
    parameter = nn.Parameter(torch.ones(3))
    optimizer = Counting([parameter])

    def step() -> None:
        parameter.grad = torch.ones(3)
        optimizer.step()

    step()
    layout = Layout(sources_of([optimizer], None), overwritten=False)
    watch = Watch(layout.watched, layout.entries, [], [])
    step()
    assert watch.holds()
    optimizer.state[parameter] = dict(optimizer.state[parameter], average=torch.ones(3))
    assert not watch.holds()


def test_state_of_a_tensor_that_is_in_no_group_is_refused():
    optimizer = Lion([nn.Parameter(torch.ones(3))])
    optimizer.state[nn.Parameter(torch.ones(2))]["step"] = 1
    with pytest.raises(FtmemError, match=r"optimizer.state: Lion.*none.*\(2,\)"):
        T.optimizer_entries("optimizer", optimizer, {}, False)


def test_made_state_of_which_nothing_is_stored_is_taken_back():
    kept, taken, had = (nn.Parameter(torch.ones(n)) for n in (2, 3, 4))
    optimizer = Lion([kept, taken, had])
    had.grad = torch.ones(4)
    optimizer.step()
    layout = Layout(sources_of([optimizer], None), overwritten=True)
    assert len(optimizer.state) == 3
    layout.keep({e.name for e in layout.entries if "group0.0" in e.name})
    assert set(optimizer.state) == {kept, had}
    Watch(layout.watched, layout.entries, [], [])  # what is taken back is not looked for


def test_state_is_taken_back_if_that_of_another_parameter_cannot_be_made():
    first, second = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))
    optimizer = Lion([first])
    optimizer.add_param_group({"params": [second], "lr": "wrong"})
    with pytest.raises(FtmemError, match="Lion: its state cannot be made"):
        Layout(sources_of([optimizer], None), overwritten=True)
    assert not optimizer.state


def test_optimizers_whose_ranks_step_on_their_own_are_refused():
    from torch.distributed.optim import PostLocalSGDOptimizer

    inner = optim.SGD([nn.Parameter(torch.ones(3))], lr=0.1)
    local = PostLocalSGDOptimizer(inner, None)
    for wrapped in (local, Wrapper(local)):
        with pytest.raises(FtmemError, match="PostLocalSGDOptimizer.*replicated=False"):
            sources_of([wrapped], None)


class Wrapper(optim.Optimizer):
    """As frameworks have them: all but the optimizer inside is borrowed from it."""

    def __init__(self, inner):
        self.optimizer = inner

    state = property(lambda self: self.optimizer.state)
    param_groups = property(lambda self: self.optimizer.param_groups)

    def step(self, closure=None):
        raise AssertionError("the wrapper must not step")


def test_wrapped_optimizers_are_unwrapped():
    parameter = nn.Parameter(torch.ones(3))
    inner = optim.Adam([parameter])
    wrapper = Wrapper(inner)
    assert T.unwrap_optimizer(wrapper) is inner
    T.materialize(wrapper)
    assert len(T.optimizer_entries("optimizer", wrapper, {parameter: "model.w"}, False)) == 3
