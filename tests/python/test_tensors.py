# SPDX-License-Identifier: BSD-3-Clause
"""Names and memory of the tensors of modules and optimizers, and which are refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ftmem import _tensors as T
from ftmem.errors import FtmemError


def entries_of(module: nn.Module, replicated: bool = False) -> dict[str, T.Entry]:
    return {e.name: e for e in T.checked(T.module_entries("model", module, replicated))}


def entry(tensor: torch.Tensor, name: str = "t", shadow: bool = False) -> T.Entry:
    return T.Entry(name, tensor, None, shadow, tuple(tensor.shape), tensor.dtype)


def refuses(text: str, *tensors: torch.Tensor) -> None:
    with pytest.raises(FtmemError, match=text) as caught:
        T.checked(entry(t, f"t{i}") for i, t in enumerate(tensors))
    assert caught.value.name == "EINVAL"
    assert f"t{len(tensors) - 1}" in caught.value.message


class Tied(nn.Module):
    """Embedding and head of one weight, as in GPT."""

    def __init__(self) -> None:
        super().__init__()
        self.wte = nn.Embedding(5, 3)
        self.norm = nn.BatchNorm1d(3)
        self.lm_head = nn.Linear(3, 5, bias=False)
        self.lm_head.weight = self.wte.weight
        self.register_buffer("mask", torch.ones(4), persistent=False)
        self.register_buffer("nothing", None)
        self.again = self.norm


def test_parameters_and_persistent_buffers_are_listed_and_tied_ones_once():
    module = Tied()
    found = entries_of(module)
    assert list(found) == [
        "model.wte.weight", "model.norm.weight", "model.norm.bias", "model.norm.running_mean",
        "model.norm.running_var", "model.norm.num_batches_tracked",
    ]
    assert found["model.wte.weight"].tensor is module.wte.weight
    assert [e.shadow for e in found.values()] == [False] * 3 + [True] * 3
    every = {e.name for e in T.module_entries("model", module, False)}
    assert every == {f"model.{key}" for key in module.state_dict()}


def test_tied_parameters_have_their_first_name_in_the_optimizer():
    module = Tied()
    names = T.parameter_names("model", module)
    optimizer = torch.optim.Adam(module.parameters())
    T.materialize(optimizer)
    found = T.checked(T.optimizer_entries("optimizer", optimizer, names, False))
    assert [e.name for e in found if "wte" in e.name or "lm_head" in e.name] == [
        f"optimizer.model.wte.weight.{key}" for key in ("step", "exp_avg", "exp_avg_sq")
    ]
    assert not any(e.shadow for e in found)


def test_frozen_parameters_are_stored():
    module = nn.Linear(2, 2).requires_grad_(False)
    assert list(entries_of(module)) == ["model.weight", "model.bias"]


def test_wrappers_leave_no_trace_in_names():
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    plain = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    names = list(entries_of(plain))
    wrapped = nn.Sequential(torch.compile(plain[0]), checkpoint_wrapper(plain[1]))
    assert list(entries_of(torch.compile(wrapped))) == names
    assert list(entries_of(nn.DataParallel(plain))) == names
    assert T.unwrap(torch.compile(plain)) is plain
    assert list(T.parameter_names("model", torch.compile(wrapped)).values()) == names


@pytest.mark.filterwarnings("ignore")
def test_scripted_modules_are_listed():
    scripted = torch.jit.script(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
    assert list(entries_of(scripted)) == [f"model.{key}" for key in scripted.state_dict()]


def test_replicated_parameters_are_whole_boxes_and_buffers_private():
    module = nn.Conv2d(3, 4, 2, bias=False)
    module.scalar = nn.Parameter(torch.tensor(1.0))
    module.register_buffer("count", torch.zeros(2))
    found = entries_of(module, replicated=True)
    box = found["model.weight"].box
    assert (box.shape, box.start, box.extent) == ((4, 3, 2, 2), (0,) * 4, (4, 3, 2, 2))
    box = found["model.scalar"].box
    assert (box.shape, box.start, box.extent) == ((1,), (0,), (1,))
    assert found["model.count"].box is None
    module.to(memory_format=torch.channels_last)
    assert entries_of(module, replicated=True)["model.weight"].box.shape == (4, 2, 2, 3)


def test_a_replicated_tensor_of_many_dimensions_is_a_flat_box():
    module = nn.ParameterList([nn.Parameter(torch.zeros((2,) * 9))])
    assert entries_of(module, replicated=True)["model.0"].box.shape == (512,)


@pytest.mark.parametrize(
    "dtype", [torch.complex64, torch.bool, torch.bfloat16, torch.float8_e4m3fn, torch.int64]
)
def test_all_kinds_of_elements_have_their_memory(dtype):
    tensor = torch.zeros(6, dtype=dtype)
    assert T.checked([entry(tensor)])[0].tensor is tensor
    assert T.address(tensor) == (tensor.data_ptr(), 6 * dtype.itemsize)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last),
        torch.zeros(2, 3, 4).permute(2, 0, 1),
        torch.zeros(3, 1, 4).transpose(0, 1),
        torch.zeros(1, 5).as_strided((1, 5), (77, 1)),
        torch.zeros(20)[4:16].view(3, 4),
        torch.tensor(1.0),
    ],
)
def test_dense_tensors_of_any_order_are_one_piece_of_memory(tensor):
    addr, size = T.address(tensor)
    storage = tensor.untyped_storage()
    flat = torch.empty(0).set_(storage, (addr - storage.data_ptr()) // 4, (size // 4,))
    flat.copy_(torch.arange(tensor.numel()))
    assert sorted(tensor.flatten().tolist()) == list(range(tensor.numel()))
    assert T.checked([entry(tensor)])


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(3, 1).expand(3, 4),
        torch.zeros(4, 6)[:, ::2],
        torch.zeros(4, 6)[:, :3],
        torch.zeros(9).as_strided((3, 3), (2, 1)),
        torch.zeros(9).unfold(0, 3, 1),
    ],
)
def test_tensors_that_do_not_fill_one_piece_of_memory_are_refused(tensor):
    refuses("one piece of memory", tensor)
    with pytest.raises(FtmemError):
        T.address(tensor)


def test_views_of_one_flat_buffer_are_separate_and_overlapping_ones_refused():
    flat = torch.zeros(10)
    assert len(T.checked([entry(flat[:4], "a"), entry(flat[4:7], "b"), entry(flat[7:], "c")])) == 3
    refuses("part of its memory with t0", flat[:4], flat[3:7])
    refuses("part of its memory with t0", flat, flat[2:3])


def test_the_same_memory_counts_once_whatever_views_it():
    weight = torch.zeros(3, 4)
    found = T.checked([entry(weight, "a"), entry(weight.t(), "b"), entry(weight.view(-1), "c")])
    assert [e.name for e in found] == ["a"]


def test_tied_memory_is_a_shadow_if_one_of_the_tied_is():
    weight = torch.zeros(3)
    first = entry(weight, "a")
    found = T.checked([first, entry(weight, "b", shadow=True)])
    assert [(e.name, e.shadow) for e in found] == [("a", True)]
    assert not first.shadow


def test_tensors_are_shared_between_module_and_optimizer():
    parameter = nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.SGD([parameter], lr=1.0, momentum=0.9)
    optimizer.state[parameter]["momentum_buffer"] = parameter.data
    module = nn.ParameterList([parameter])
    names = T.parameter_names("model", module)
    found = T.checked(
        T.module_entries("model", module, False)
        + T.optimizer_entries("optimizer", optimizer, names, False)
    )
    assert [e.name for e in found] == ["model.0"]


def test_empty_tensors_are_left_out_but_change_the_digest():
    module = nn.ParameterList([nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(0, 3))])
    assert list(entries_of(module)) == ["model.0"]
    before = T.digest(T.module_entries("model", module, False))
    module[1] = nn.Parameter(torch.zeros(0, 4))
    assert T.digest(T.module_entries("model", module, False)) != before


class Subclass(torch.Tensor):
    pass


@pytest.mark.filterwarnings("ignore")
def test_tensors_without_memory_of_their_own_are_refused_by_name():
    refuses("meta device", torch.zeros(2), torch.zeros(3, device="meta"))
    refuses("layout", torch.eye(3).to_sparse())
    refuses("layout", torch.eye(3).to_sparse_csr())
    refuses("quantised", torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8))
    refuses("type Subclass", torch.ones(2).as_subclass(Subclass))
    refuses("conjugate", torch.ones(2, dtype=torch.complex64).conj())
    freed = torch.ones(4)
    freed.untyped_storage().resize_(0)
    refuses("freed", freed)


def test_fake_tensors_are_refused():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        module = nn.Linear(2, 2)
    with pytest.raises(FtmemError, match="model.weight.*FakeTensor"):
        entries_of(module)


def test_modules_without_sizes_yet_are_refused():
    with pytest.raises(FtmemError, match="model.weight.*no shape"):
        entries_of(nn.LazyLinear(3))


class Scaled(nn.Linear):
    """A layer that writes a value of its own into state_dict()."""

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "scale"] = 1.5


class Metric(nn.Module):
    """State in attributes, added by state_dict() itself."""

    def __init__(self) -> None:
        super().__init__()
        self.total = torch.zeros(2)

    def state_dict(self, *args, destination=None, prefix="", keep_vars=False):
        state = super().state_dict(destination=destination, prefix=prefix, keep_vars=keep_vars)
        state[prefix + "total"] = self.total.clone()
        return state


def test_what_state_dict_has_besides_tensors_and_extra_state_is_refused_by_name():
    for layer, name in ((Scaled(2, 2), "scale"), (Metric(), "total")):
        module = nn.Sequential(nn.Linear(2, 2), layer)
        with pytest.raises(FtmemError, match=rf"model\.1\.{name}: .*state_dict") as caught:
            entries_of(torch.compile(module))
        assert caught.value.name == "EINVAL"


def test_state_dict_may_name_tensors_otherwise():
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    module.register_state_dict_post_hook(lambda _, state, prefix, __: state.update(
        {prefix + "other": state.pop(prefix + "0.weight")}
    ))
    assert list(entries_of(module))[0] == "model.0.weight"


def test_two_tensors_of_one_name_are_refused():
    with pytest.raises(FtmemError, match="a: two tensors"):
        T.checked([entry(torch.zeros(1), "a"), entry(torch.zeros(1), "a")])


def test_long_names_are_shortened_to_different_ones():
    names = ["x" * 300 + end for end in ("a", "b")] + ["ü" * 200, "y" * 255, "z\0z"]
    found = T.checked([entry(torch.zeros(1), name) for name in names])
    assert all(len(e.name.encode()) <= 255 and "\0" not in e.name for e in found)
    assert len({e.name for e in found}) == 5
    assert found[3].name == "y" * 255
    assert [e.name for e in T.checked(found)] == [e.name for e in found]


def test_digest_changes_with_names_shapes_dtypes_and_order_alone():
    base = torch.zeros(2, 3)
    digest = T.digest([entry(base, "a"), entry(torch.zeros(1), "b")])
    assert len(digest) == 32
    assert digest == T.digest([entry(torch.zeros(1), "b", shadow=True), entry(base + 1, "a")])
    assert digest != T.digest([entry(base, "a"), entry(torch.zeros(1), "c")])
    assert digest != T.digest([entry(base.view(3, 2), "a"), entry(torch.zeros(1), "b")])
    assert digest != T.digest([entry(base.double(), "a"), entry(torch.zeros(1), "b")])
    assert digest != T.digest([entry(torch.zeros(3, 2).t(), "a"), entry(torch.zeros(1), "b")])
    assert digest != T.digest([entry(base, "a")])
    row, column = torch.zeros(1, 4), torch.zeros(4, 1).t()
    assert T.digest([entry(row)]) == T.digest([entry(column)])
    with pytest.raises(FtmemError):
        T.digest([entry(torch.eye(2).to_sparse())])


class WithExtra(nn.Linear):
    def __init__(self) -> None:
        super().__init__(2, 2)
        self.scale = 1.5

    def get_extra_state(self):
        return {"scale": self.scale}

    def set_extra_state(self, state):
        self.scale = state["scale"]


def test_extra_state_of_layers_is_found_and_put_back():
    module = nn.Sequential(nn.Linear(2, 2), WithExtra())
    assert len(entries_of(torch.compile(module))) == 4
    states = T.extra_states("model", module)
    assert states == {"model.1": {"scale": 1.5}}
    module[1].scale = 0.0
    T.load_extra_states("model", torch.compile(module), states)
    assert module[1].scale == 1.5
