"""Memory for large tensors that pass by."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from templar_pl.compression.passing import OnePlace

LARGE = [(512, 512), (2**19,), (1, 2**18 + 1), (64, 128, 64)]
DTYPES = [torch.float32, torch.int32, torch.float64]


@given(st.lists(st.sampled_from(LARGE), min_size=1, max_size=6), st.sampled_from(DTYPES))
def test_large_tensors_come_one_after_the_other_in_the_same_place(
    shapes: list[tuple[int, ...]], dtype: torch.dtype
) -> None:
    one = OnePlace(shapes, dtype)
    places = set()

    for shape in shapes:
        tensor = one.empty(shape)
        assert (tensor.shape, tensor.dtype) == (shape, dtype)
        tensor.fill_(7)
        places.add(tensor.data_ptr())
        del tensor

    assert len(places) == 1


@given(st.lists(st.sampled_from([*LARGE, (), (3,), (0, 4)]), min_size=1, max_size=6))
def test_no_two_tensors_that_are_held_share_memory(shapes: list[tuple[int, ...]]) -> None:
    one = OnePlace(shapes, torch.float32)

    held = [one.empty(shape).fill_(number) for number, shape in enumerate(shapes)]

    assert all(bool((tensor == number).all()) for number, tensor in enumerate(held))


@pytest.mark.parametrize("hold", [lambda t: t.view(-1)[5:6], lambda t: t.detach(), lambda t: t.numpy()])
def test_a_tensor_of_which_anything_is_held_keeps_its_place(hold: object) -> None:
    assert callable(hold)
    one = OnePlace([(512, 512)], torch.float32)
    part = hold(one.empty((512, 512)).fill_(1))

    one.empty((512, 512)).fill_(2)

    assert bool(torch.as_tensor(part).eq(1).all())


def test_a_tensor_outlives_the_place() -> None:
    tensor = OnePlace([(512, 512)], torch.float32).empty((512, 512)).fill_(3)

    assert bool((tensor == 3).all())
