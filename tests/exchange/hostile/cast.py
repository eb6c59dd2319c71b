"""Who is on stage: an honest peer, a stranger with a key of its own, and the node that gathers from both."""

from __future__ import annotations

import hashlib
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from templar_pl.chain import load_or_create_hotkey, verify
from templar_pl.compression import ChunkGrid, chunk_grid
from templar_pl.exchange.gather import Gathered, Interval, Request, gather
from templar_pl.exchange.r2_store import R2Buckets
from templar_pl.protocol.keys import payload_key
from templar_pl.protocol.payload import Expected, Payload, decode_payload, payload_bytes
from templar_pl.protocol.signing import Signer
from templar_pl.units import Uid, Window
from tests.compression.records import Section, good_section

RUN, RUN_DIGEST, OTHER_RUN_DIGEST = "run", hashlib.sha256(b"run").digest(), hashlib.sha256(b"other run").digest()
WINDOW = Window(7)
HONEST, STRANGER = Uid(0), Uid(1)
KEYS = {uid: payload_key(RUN, WINDOW, uid) for uid in (HONEST, STRANGER)}

# Every part of a record has bits of padding behind it.
_grid = partial(chunk_grid, (180, 60), chunk_size=60, topk=5)
FORMS: dict[str, ChunkGrid] = {
    "one bit": _grid(),
    "levels": _grid(value_bits=3),
    "compact": _grid(index_coding="compact"),
    "compact levels": _grid(value_bits=3, index_coding="compact"),
}

_HEADER = struct.Struct("<4sI32sQI32s32s32sfIQQ")
_TAG = b"templar_pl/payload/1\0"


@dataclass(frozen=True)
class Cast:
    """The keys in play, and the form of the run's payloads."""

    honest: Signer
    stranger: Signer
    form: str = "one bit"

    @property
    def grids(self) -> Mapping[str, ChunkGrid]:
        return {"w": FORMS[self.form]}

    @property
    def size(self) -> int:
        """Bytes of every payload."""
        return payload_bytes(self.grids)

    def section(self) -> Section:
        """Return a section without a fault."""
        return good_section(FORMS[self.form])

    def body(self, change: Callable[[Section], None] | None = None) -> bytes:
        """Write a body, after a change to its section."""
        section = self.section()
        if change is not None:
            change(section)
        return section.encode_compact() if self.form.startswith("compact") else section.encode()

    def payload(self, *, body: bytes | None = None, signer: Signer | None = None, **fields: object) -> bytes:
        """Return what the stranger signs: its own payload of the window, but for the fields of the header given."""
        body = self.body() if body is None else body
        signer = signer or self.stranger
        values: dict[str, object] = {
            "magic": b"TMPL",
            "version": 1,
            "run": RUN_DIGEST,
            "window": WINDOW,
            "uid": STRANGER,
            "public_key": signer.public_key,
            "pages": bytes(32),
            "fingerprint": bytes(32),
            "loss": 2.5,
            "batches": 6,
            "tokens": 73_728,
            "length": len(body),
        }
        assert fields.keys() <= values.keys()
        head = _HEADER.pack(*(values | fields).values())
        return head + body + signer.sign(_TAG + head + hashlib.sha256(body).digest())

    def honest_payload(self) -> bytes:
        return self.payload(signer=self.honest, uid=HONEST)

    def gather(
        self,
        buckets: R2Buckets,
        addresses: Mapping[Uid, str],
        *,
        deadline_s: float,
        poll_s: float,
        interval: Interval | None = None,
        hashes: Mapping[Uid, bytes] | None = None,
    ) -> Gathered[Payload]:
        """Fetch the payload of the window from every address, as the round trip does."""
        signers = {HONEST: self.honest, STRANGER: self.stranger}

        def decode(uid: Uid, data: bytes) -> Payload:
            expected = Expected(run=RUN_DIGEST, window=WINDOW, uid=uid, public_key=signers[uid].public_key)
            return decode_payload(data, self.grids, expected, verify)

        requests = {
            uid: Request(
                open_bucket=partial(buckets.of, address),
                key=KEYS[uid],
                size=self.size,
                peer=uid,
                window=WINDOW,
                sha256=None if hashes is None else hashes.get(uid),
            )
            for uid, address in addresses.items()
        }
        deadline = time.monotonic() + deadline_s
        return gather(requests, decode=decode, interval=interval, deadline=deadline, poll_s=poll_s)


def make_cast(folder: Path) -> Cast:
    """Return two peers with real keys, kept in a folder."""
    return Cast(load_or_create_hotkey(folder, "honest"), load_or_create_hotkey(folder, "stranger"))
