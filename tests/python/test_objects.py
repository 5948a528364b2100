# SPDX-License-Identifier: BSD-3-Clause
"""What is no tensor: the region of bytes it lies in, and the generators of random numbers."""

from __future__ import annotations

import pickle
import random
import struct
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from ftmem import FtmemError, _objects, _rng


def test_a_payload_comes_back_whatever_was_there_before() -> None:
    region = _objects.ObjectRegion(1000)
    for length in (region.room, 0, 1, 500, region.room):
        payload = random.Random(length).randbytes(length)
        assert region.store(payload)
        assert region.load() == payload


def test_a_payload_that_does_not_fit_leaves_the_one_before() -> None:
    region = _objects.ObjectRegion(1000)
    assert region.store(b"before")
    assert not region.store(bytes(region.room + 1))
    assert region.load() == b"before"


def test_the_region_is_one_piece_of_host_memory_of_its_capacity() -> None:
    region = _objects.ObjectRegion(4096)
    assert region.tensor.shape == (4096,) and region.tensor.dtype == torch.uint8
    region.store(b"a payload")
    copy = _objects.ObjectRegion(4096)
    copy.tensor.copy_(region.tensor)
    assert copy.load() == b"a payload"


def test_the_header_is_as_documented() -> None:
    region = _objects.ObjectRegion(100)
    region.store(b"123456789")
    raw = bytes(region.tensor.tolist())
    assert struct.unpack_from("<8sQII", raw) == (b"ftmobj01", 9, 0xCBF43926, 0)
    assert raw[24:33] == b"123456789"


def test_damage_anywhere_is_found() -> None:
    region = _objects.ObjectRegion(100)
    region.store(b"123456789")
    for place in [*range(8), 8, 15, *range(16, 20), 24, 32]:
        region.tensor[place] ^= 0x80
        with pytest.raises(FtmemError) as caught:
            region.load()
        assert caught.value.name == "ECORRUPT"
        region.tensor[place] ^= 0x80
    assert region.load() == b"123456789"
    for empty in (_objects.ObjectRegion(100), _objects.ObjectRegion(10), _objects.ObjectRegion(0)):
        with pytest.raises(FtmemError):
            empty.load()


@pytest.mark.parametrize("needed", [0, 1, 10_000, 32_755, 32_757, 1_000_000, 123_456_789])
def test_a_capacity_has_room_for_twice_the_need_and_is_one_of_few(needed: int) -> None:
    capacity = _objects.capacity_for(needed)
    assert _objects.ObjectRegion(capacity).room >= 2 * needed
    while capacity > _objects.LEAST:
        assert capacity % 4 == 0
        capacity //= 4
    assert capacity == _objects.LEAST


def test_a_capacity_is_not_larger_than_it_must_be() -> None:
    assert _objects.capacity_for(32_756) == 65_536
    assert _objects.capacity_for(32_757) == 262_144


def draws() -> list[object]:
    """Some of everything; an odd number of normal ones, so that half of a pair is in store."""
    numpy = pytest.importorskip("numpy")
    return [
        random.random(),
        random.gauss(0.0, 1.0),
        torch.rand(3).tolist(),
        torch.randn(1).tolist(),
        numpy.random.rand(),
        numpy.random.standard_normal(),
    ]


def test_random_numbers_repeat_after_their_state_was_put_back() -> None:
    for seed in (random.seed, torch.manual_seed, pytest.importorskip("numpy").random.seed):
        seed(3)
    for _ in range(5):
        state = pickle.loads(pickle.dumps(_rng.get()))
        first = draws()
        assert draws() != first
        _rng.set(state)
        assert draws() == first


def test_the_second_of_a_pair_of_normal_numbers_of_numpy_is_not_forgotten() -> None:
    """It comes from store, and leaves the generator's own words as they are."""
    numpy = pytest.importorskip("numpy")
    for _ in range(3):
        states = [_rng.get() for _ in range(2)]
        assert states[0] == states[1]
        numpy.random.standard_normal()
        half = _rng.get()
        second = numpy.random.standard_normal()
        whole = _rng.get()
        third = numpy.random.standard_normal()
        _rng.set(half)
        assert numpy.random.standard_normal() == second
        _rng.set(whole)
        assert numpy.random.standard_normal() == third


def test_each_draw_of_python_is_seen() -> None:
    """Also beyond the words that are made at once, and of the number that gauss() keeps."""
    for _ in range(700):
        state = _rng.get()
        number = random.choice([random.random, lambda: random.gauss(0.0, 1.0)])()
        after = _rng.get()
        _rng.set(state)
        assert random.choice([random.random, lambda: random.gauss(0.0, 1.0)])() == number
        assert _rng.get() == after != state


def test_numpy_is_asked_itself_where_its_memory_does_not_tell(monkeypatch: Any) -> None:
    numpy = pytest.importorskip("numpy")
    assert _rng._numpy_draws_show(numpy)
    assert not _rng._numpy_draws_show(SimpleNamespace(random=SimpleNamespace()))
    monkeypatch.setattr(_rng, "_object_memory", lambda _: b"")  # not the number in store
    assert not _rng._numpy_draws_show(numpy)
    monkeypatch.setattr(_rng, "_numpy_shows", None)
    test_the_second_of_a_pair_of_normal_numbers_of_numpy_is_not_forgotten()
    assert _rng._numpy_shows is False


def test_other_generators_of_numpy_are_kept() -> None:
    numpy = pytest.importorskip("numpy")
    before = numpy.random.get_bit_generator()
    try:
        numpy.random.set_bit_generator(numpy.random.PCG64(5))
        state = pickle.loads(pickle.dumps(_rng.get()))
        first = numpy.random.rand()
        numpy.random.rand()
        _rng.set(state)
        assert numpy.random.rand() == first
    finally:
        numpy.random.set_bit_generator(before)


def test_states_without_numpy_leave_it_as_it_is() -> None:
    numpy = pytest.importorskip("numpy")
    state = {name: value for name, value in _rng.get().items() if name != "numpy"}
    numpy.random.seed(4)
    expected = numpy.random.rand()
    numpy.random.seed(4)
    _rng.set(state)
    assert numpy.random.rand() == expected


def test_a_state_that_a_script_puts_back_itself_is_seen() -> None:
    numpy = pytest.importorskip("numpy")
    before = random.getstate()
    number = random.random()
    _rng.get()
    random.setstate(before)
    state = _rng.get()
    random.seed(1)
    _rng.set(state)
    assert random.random() == number
    numpy.random.standard_normal()
    half = numpy.random.get_state()
    second = numpy.random.standard_normal()
    _rng.get()
    numpy.random.set_state(half)  # differs in nothing but the number in store
    state = _rng.get()
    numpy.random.seed(1)
    _rng.set(state)
    assert numpy.random.standard_normal() == second
