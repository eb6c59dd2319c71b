"""One secret decides on what payloads are evaluated."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from templar_pl.scoring import Draw

SECRETS = st.binary(min_size=32, max_size=32)


@given(SECRETS, st.integers(1, 200), st.floats(1e-6, 1))
def test_a_share_of_things_is_chosen_and_at_least_one(secret: bytes, total: int, share: float) -> None:
    chosen = Draw(secret).choose("own/3", total, share)

    assert chosen == sorted(set(chosen))
    assert set(chosen) <= set(range(total))
    assert abs(len(chosen) - share * total) <= 0.5 or (len(chosen) == 1 and share * total < 0.5)
    assert chosen == Draw(secret).choose("own/3", total, share)


def test_everything_is_chosen_as_often_as_anything_else() -> None:
    times = [0] * 10
    for number in range(2000):
        for chosen in Draw(number.to_bytes(32, "little")).choose("random", 10, 0.3):
            times[chosen] += 1

    # 2000 draws of 3 in 10: five standard deviations.
    assert all(abs(count - 600) < 5 * math.sqrt(2000 * 0.3 * 0.7) for count in times)


def test_kinds_of_things_are_drawn_apart() -> None:
    draws = [Draw(number.to_bytes(32, "little")) for number in range(50)]

    same = sum(draw.choose("own/1", 20, 0.5) == draw.choose("own/2", 20, 0.5) for draw in draws)

    assert same == 0


@given(SECRETS)
def test_random_pages_belong_to_a_uid_that_no_chain_gives(secret: bytes) -> None:
    uid, window = Draw(secret).pages()

    assert 2**31 <= uid < 2**32
    assert 0 <= window < 10**9
    assert 0 <= Draw(secret).seed("steps") < 2**63


def test_other_secrets_give_other_pages_and_seeds() -> None:
    draws = [Draw(bytes(31) + bytes([number])) for number in range(200)]

    assert len({draw.pages() for draw in draws}) == 200
    assert len({draw.seed("steps") for draw in draws}) == 200


def test_what_a_published_secret_stands_for_never_changes() -> None:
    draw = Draw(bytes(range(32)))

    assert draw.pages() == (3655991632, 368023899)
    assert draw.choose("own/7", 40, 0.1) == [8, 12, 26, 28]
    assert draw.seed("steps") == 2751735638113142345


@pytest.mark.parametrize("secret", [b"", bytes(31), bytes(33)])
def test_a_secret_of_another_length_is_refused(secret: bytes) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Draw(secret)


@pytest.mark.parametrize(("total", "share"), [(0, 0.5), (3, 0.0), (3, 1.5), (3, -1.0), (3, math.nan)])
def test_a_choice_from_nothing_or_of_no_share_is_refused(total: int, share: float) -> None:
    with pytest.raises(ValueError, match="total must be"):
        Draw(bytes(32)).choose("own/1", total, share)
