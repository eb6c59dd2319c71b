"""Aggregates, manifests and notices to test with, and a slow reference for every byte of them."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from templar_pl.errors import Fault
from templar_pl.protocol import AggregateHead, AggregateNotice, Exclusion, Manifest, Signer, encode_aggregate
from templar_pl.units import Uid, Window
from tests.compression.ternary import DENSITIES, in_runs, slow_block
from tests.protocol.documents import digests, slow_document
from tests.protocol.samples import RUN, HashSigner

BLOCK = 2**18
Update = dict[str, Tensor]


def head(**changes: object) -> AggregateHead:
    values = {
        "run": RUN,
        "window": Window(1234),
        "public_key": HashSigner().public_key,
        "manifest": hashlib.sha256(b"manifest").digest(),
    }
    return AggregateHead(**(values | changes))  # pyright: ignore[reportArgumentType]  # a table of mixed types


def shapes_of(update: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in update.items()}


def by_name(update: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    return ((name, update[name]) for name in sorted(update))


def encoded(update: Mapping[str, Tensor], signer: Signer | None = None, **changes: object) -> bytes:
    signer = signer or HashSigner()
    about = head(**({"public_key": signer.public_key} | changes))
    return b"".join(encode_aggregate(about, by_name(update), shapes_of(update), signer))


def cut(data: bytes, size: int) -> Iterable[bytes]:
    """Hand over bytes in pieces of a size."""
    return (data[start : start + size] for start in range(0, len(data), size))


@st.composite
def updates(draw: st.DrawFn) -> Update:
    """A few parameters: scalars, vectors, matrices and more, prime and odd sides, empty ones; any zeros, any dtype."""
    sides = st.sampled_from([0, 1, 2, 3, 7, 8, 13, 31])
    names = st.text(st.characters(codec="utf-8"), max_size=6)
    shapes = draw(st.dictionaries(names, st.lists(sides, max_size=3), max_size=4))
    update = {}
    for name, shape in shapes.items():
        zeros, run, seed = draw(st.sampled_from(DENSITIES)), draw(st.sampled_from([1, 7])), draw(st.integers(0, 2**31))
        dtype = draw(st.sampled_from([torch.int8, torch.float32, torch.bfloat16, torch.float64]))
        values = in_runs(int(np.prod(shape, dtype=int)), zeros, seed, run)
        update[name] = torch.from_numpy(values).reshape(shape).to(dtype)
    return update


def small_update() -> Update:
    """The update of the golden file: every form of a block, an empty parameter, a scalar, more than one block."""
    sign = np.where(np.arange(BLOCK + 5) * 2654435761 % 2**32 < 2**31, 1, -1).astype(np.int8)
    few = np.where(np.arange(500) % 97 == 5, 0, sign[:500])
    most = np.where(np.arange(500) % 41 != 5, 0, sign[:500])
    runs = np.where(np.arange(2000) // 64 % 3 == 1, 0, sign[:2000])
    random = np.frombuffer(b"".join(hashlib.sha256(bytes([n])).digest() for n in range(64)), dtype=np.uint8)
    third = np.where(random[:2000] % 3 == 0, 0, sign[:2000])
    arrays = {
        "layers.10.weight": few.reshape(20, 25), "layers.2.weight": most.reshape(4, 5, 25), "runs": runs,
        "thirds": third.reshape(8, 250), "scalar": np.array(-1), "zero": np.array([0]), "empty": np.zeros((3, 0)),
        "two blocks": sign,
    }  # fmt: skip
    return {name: torch.from_numpy(array.astype(np.int8)) for name, array in arrays.items()}


def slow_head(about: AggregateHead, update: Mapping[str, Tensor]) -> bytes:
    shapes = hashlib.sha256(b"templar_pl/shapes/1\0")
    for name in sorted(update):
        shapes.update(struct.pack("<I", len(name.encode())) + name.encode())
        shapes.update(
            struct.pack("<I", update[name].dim()) + b"".join(struct.pack("<Q", n) for n in update[name].shape)
        )
    fields = about.run + about.public_key + about.manifest + shapes.digest()
    return b"TMPA" + struct.pack("<IQ", 1, about.window) + fields


def slow_aggregate(about: AggregateHead, update: Mapping[str, Tensor], signer: Signer) -> bytes:
    """A whole aggregate, kept in memory and hashed anew each time."""
    data = slow_head(about, update)
    for name in sorted(update):
        values = update[name].flatten().tolist()
        for start in range(0, len(values), BLOCK):
            data += slow_block([int(value) for value in values[start : start + BLOCK]])
        data += hashlib.sha256(data).digest()
    return signed(data, signer)


def signed(data: bytes, signer: Signer) -> bytes:
    """Put a good end behind any bytes: a hostile aggregator can sign what it likes."""
    digest = hashlib.sha256(data).digest()
    return data + digest + signer.sign(b"templar_pl/aggregate/1\0" + digest)


words = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=120)
times = st.floats(0, 2.0**40, allow_subnormal=True).map(abs)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    uids = draw(st.lists(st.integers(0, 2**32 - 1).map(Uid), unique=True, max_size=6))
    count = draw(st.integers(0, len(uids)))
    opened_at, closed_at = sorted([draw(times), draw(times)])
    return Manifest(
        run=draw(digests),
        window=Window(draw(st.integers(0, 10**9 - 1))),
        payloads={uid: draw(digests) for uid in uids[:count]},
        left_out={uid: Exclusion(draw(st.sampled_from(Fault)), draw(words)) for uid in uids[count:]},
        opened_at=opened_at,
        closed_at=closed_at,
        before=draw(digests),
        after=draw(digests),
        steps=draw(st.integers(1, 2**53 - 1)),
        learning_rate=abs(draw(st.floats(0, allow_infinity=False))),
    )


def manifest(**changes: object) -> Manifest:
    values = {
        "run": RUN,
        "window": Window(1234),
        "payloads": {Uid(7): b"p" * 32, Uid(100): b"q" * 32},
        "left_out": {Uid(20): Exclusion(Fault.LATE, 'it landed 3.5 s after the end, at "12:00"')},
        "opened_at": 1_700_000_000.0,
        "closed_at": 1_700_000_010.0,
        "before": b"b" * 32,
        "after": b"a" * 32,
        "steps": 35,
        "learning_rate": 4e-4,
    }
    return Manifest(**(values | changes))  # pyright: ignore[reportArgumentType]  # a table of mixed types


def manifest_statement(wanted: Manifest) -> dict[str, object]:
    taken = {str(uid): {"sha256": sha256.hex()} for uid, sha256 in wanted.payloads.items()}
    left = {str(uid): {"fault": str(why.fault), "words": why.words} for uid, why in wanted.left_out.items()}
    return {
        "after": wanted.after.hex(),
        "before": wanted.before.hex(),
        "closed_at": wanted.closed_at.hex(),
        "learning_rate": wanted.learning_rate.hex(),
        "opened_at": wanted.opened_at.hex(),
        "peers": taken | left,
        "run": wanted.run.hex(),
        "steps": wanted.steps,
        "window": wanted.window,
    }


def slow_manifest(wanted: Manifest, signer: Signer | None = None) -> bytes:
    return slow_document("manifest", manifest_statement(wanted), signer or HashSigner())


def notice(**changes: object) -> AggregateNotice:
    values = {"run": RUN, "window": Window(1234), "manifest": b"m" * 32, "sha256": b"s" * 32, "size": 150_000_000}
    return AggregateNotice(**(values | changes))  # pyright: ignore[reportArgumentType]  # a table of mixed types


notices = st.builds(
    AggregateNotice,
    run=digests,
    window=st.integers(0, 10**9 - 1).map(Window),
    manifest=digests,
    sha256=digests,
    size=st.integers(1, 2**53 - 1),
)


def notice_statement(wanted: AggregateNotice) -> dict[str, object]:
    return {
        "manifest": wanted.manifest.hex(),
        "run": wanted.run.hex(),
        "sha256": wanted.sha256.hex(),
        "size": wanted.size,
        "window": wanted.window,
    }
