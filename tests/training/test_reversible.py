"""Updates are tried on a model and leave no trace, to the bit."""

from __future__ import annotations

import random
import weakref
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from templar_pl.training.reversible import ReversibleModel, isolated_random

# Every kind of number that arithmetic could bring back changed: zeros of both signs, subnormals, infinities, and NaNs
# with payloads of their own, as bits of fp32.
ODD_BITS = st.sampled_from([0x80000000, 0x00000000, 0x00000001, 0x7F800000, 0xFF800000, 0x7FC00001, 0xFF812345])
BITS = st.lists(st.one_of(ODD_BITS, st.integers(0, 2**32 - 1)), min_size=1, max_size=12)
RATES = st.floats(1e-6, 10)


class Tied(nn.Module):
    """Two layers that share a weight, a buffer, and a parameter of another dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
        self.second.weight = self.first.weight
        self.short = nn.Parameter(torch.linspace(-1, 1, 5).to(torch.bfloat16))
        self.norm = nn.BatchNorm1d(3)
        self.calls = 0


def bits(tensor: Tensor) -> bytes:
    return tensor.detach().flatten().view(torch.uint8).numpy().tobytes()


def all_bits(module: nn.Module) -> dict[str, bytes]:
    return {name: bits(tensor) for name, tensor in module.state_dict(keep_vars=True).items()}


def from_bits(values: list[int]) -> Tensor:
    return torch.from_numpy(np.array(values, dtype=np.uint32).view(np.float32))


def signs(module: nn.Module, seed: int = 0) -> Iterator[tuple[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        yield name, torch.randint(-1, 2, parameter.shape, generator=generator).float()


@given(BITS, RATES, st.integers(0, 5))
def test_whatever_bits_parameters_have_they_have_them_again(values: list[int], rate: float, trials: int) -> None:
    module = nn.Module()
    module.weight = nn.Parameter(from_bits(values))
    module.short = nn.Parameter(from_bits(values).to(torch.bfloat16))
    before = all_bits(module)

    with ReversibleModel(module, dict(module.named_parameters())) as reversible:
        for trial in range(trials):
            reversible.apply_(signs(module, trial), rate)

    assert all_bits(module) == before


def test_no_tensor_of_an_update_is_held_while_the_next_one_is_made() -> None:
    module = Tied()
    made: list[weakref.ref[Tensor]] = []
    held: list[int] = []

    def fresh(parameter: Tensor) -> Tensor:
        held.append(sum(tensor() is not None for tensor in made))
        tensor = torch.ones_like(parameter)
        made.append(weakref.ref(tensor))
        return tensor

    with ReversibleModel(module, dict(module.named_parameters())) as reversible:
        reversible.apply_(((name, fresh(parameter)) for name, parameter in module.named_parameters()), 0.5)

    assert held == [0] * len(list(module.named_parameters()))


def test_every_update_starts_from_the_first_parameters() -> None:
    module = Tied()
    parameters = dict(module.named_parameters())
    first = {name: parameter.detach().clone() for name, parameter in parameters.items()}

    with ReversibleModel(module, parameters) as reversible:
        for seed in range(3):
            reversible.apply_(signs(module, seed), 0.25)

            for name, direction in signs(module, seed):
                expected = first[name] + (-0.25 * direction).to(first[name].dtype)
                assert torch.equal(parameters[name], expected)


def test_what_an_update_does_not_name_is_as_in_the_beginning() -> None:
    module = Tied()
    first = all_bits(module)
    with ReversibleModel(module, dict(module.named_parameters())) as reversible:
        reversible.apply_(signs(module), 0.5)
        assert all_bits(module) != first

        reversible.apply_([], 0.5)

        assert all_bits(module) == first


def test_tied_parameters_stay_tied_under_both_of_their_names() -> None:
    module = Tied()
    both = dict(module.named_parameters(remove_duplicate=False))
    assert {"first.weight", "second.weight"} <= both.keys()
    before = all_bits(module)

    with ReversibleModel(module, both) as reversible:
        reversible.apply_([(name, torch.ones(both[name].shape)) for name in both], 0.5)
        assert torch.equal(module.first.weight, module.second.weight)

    assert module.first.weight is module.second.weight
    assert all_bits(module) == before


class Interruption(BaseException):
    """Neither an error of ours nor one of anybody else."""


@pytest.mark.parametrize("error", [ValueError("a bug"), Interruption(), KeyboardInterrupt()])
def test_an_exception_in_the_middle_of_an_update_leaves_no_trace(error: BaseException) -> None:
    module = Tied()
    before = all_bits(module)

    def broken() -> Iterator[tuple[str, Tensor]]:
        yield from list(signs(module))[:2]
        raise error

    def try_twice() -> None:
        with ReversibleModel(module, dict(module.named_parameters())) as reversible:
            reversible.apply_(signs(module), 0.1)
            reversible.apply_(broken(), 0.1)

    with pytest.raises(type(error)):
        try_twice()

    assert all_bits(module) == before


def test_buffers_modes_and_attributes_are_put_back() -> None:
    module = Tied()
    module.second.eval()
    before, average = all_bits(module), module.norm.running_mean
    modes = [part.training for part in module.modules()]

    with ReversibleModel(module, {}) as reversible:
        module.eval()
        module.norm.train()
        module.norm(torch.randn(4, 3))
        module.norm.running_mean = torch.full((3,), 7.0)
        module.calls += 1
        module.cache = torch.zeros(2)
        assert all_bits(module) != before

        reversible.settle_()

        assert all_bits(module) == before
        module.norm.train()
        module.norm(torch.randn(4, 3))

    assert all_bits(module) == before
    assert module.norm.running_mean is average
    assert [part.training for part in module.modules()] == modes
    assert module.calls == 0
    assert not hasattr(module, "cache")


def test_an_update_of_another_model_is_refused() -> None:
    module = Tied()
    with (
        pytest.raises(ValueError, match="parameters of this model, got 'third'"),
        ReversibleModel(module, dict(module.named_parameters())) as reversible,
    ):
        reversible.apply_([("third", torch.zeros(1))], 0.1)


def test_nothing_can_be_tried_outside_of_with() -> None:
    module = Tied()
    reversible = ReversibleModel(module, dict(module.named_parameters()))
    with reversible:
        pass

    for call in (lambda: reversible.apply_([], 0.1), reversible.undo_, reversible.settle_):
        with pytest.raises(RuntimeError, match="within `with`"):
            call()


def test_random_numbers_go_on_as_if_nothing_had_happened() -> None:
    def three() -> tuple[float, float, float]:
        return random.random(), float(np.random.random()), float(torch.rand(()))  # noqa: S311

    def seed_all() -> None:
        torch.manual_seed(1)
        random.seed(1)
        np.random.seed(1)

    with isolated_random(5):
        first = three()
    seed_all()
    expected = three()
    seed_all()

    with isolated_random(5):
        again = three()

    assert again == first
    assert three() == expected


def test_random_numbers_are_put_back_after_an_error_too() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)

    def fail() -> None:
        with isolated_random(5):
            raise ValueError(f"a bug after {torch.rand(4)}")

    with pytest.raises(ValueError, match="a bug after"):
        fail()

    assert torch.equal(torch.rand(3), expected)
