"""The round trip of one window: momentum to payload, out to the bucket, back as the update all nodes agree on.

No Lightning and no model in here: the strategy, catch-up and whoever scores others call the same object.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

from torch import Tensor

from templar_pl.compression import Body, MomentumCodec, SparseChunks
from templar_pl.errors import ChainError, PayloadError, StoreError
from templar_pl.exchange.publish import publish
from templar_pl.exchange.record import PayloadSource, WindowRecord
from templar_pl.exchange.store import Buckets
from templar_pl.exchange.window_values import Collected, Identity, Outgoing, Training
from templar_pl.protocol.keys import payload_key
from templar_pl.protocol.payload import Header, Payload, encode_payload
from templar_pl.units import Window

log = logging.getLogger(__name__)


class RoundTrip:
    """Publishes, collects and applies the payloads of windows, one after the other."""

    def __init__(
        self,
        codec: MomentumCodec,
        identity: Identity,
        *,
        buckets: Buckets,
        record: WindowRecord,
        source: PayloadSource,
        timeout_s: float,
    ) -> None:
        """Store the parts.

        Args:
            codec: momentum of all parameters; `put` gives it back what was not published.
            identity: who signs.
            buckets: of which the own one is written.
            record: what each window consists of.
            source: reads payloads.
            timeout_s: seconds for a put.
        """
        self._codec, self._identity, self._buckets = codec, identity, buckets
        self._source, self._timeout_s = source, timeout_s
        self.record = record

    @property
    def payload_size(self) -> int:
        """Bytes of every payload of this run."""
        return self._source.payload_size

    def encode(self, window: Window, training: Training, chunks: Mapping[str, SparseChunks]) -> Outgoing:
        """Sign what the codec took out of the momentum just now."""
        header = Header(
            run=self._identity.digest,
            window=window,
            uid=self._identity.uid,
            public_key=self._identity.signer.public_key,
            pages=training.pages,
            fingerprint=training.fingerprint,
            loss=training.loss,
            batches=training.batches,
            tokens=training.tokens,
        )
        data = encode_payload(header, chunks, self._codec.grids, self._identity.signer)
        return Outgoing(window, data, Payload(header, chunks))

    def put(self, outgoing: Outgoing, *, is_open: bool) -> Outgoing:
        """Put the payload into the own bucket and announce it, if the window is still open.

        A payload is written once: if an earlier life of this node already published one for the window, that one
        stands, and the momentum gives up what *it* says.

        Returns:
            What is published: the given payload or the earlier one.

        Raises:
            StoreError: the put failed until the deadline; the momentum is as before it was compressed.
            ChainError: the window was closed without this node; the momentum is as before it was compressed.
        """
        key = payload_key(self._identity.run, outgoing.window, self._identity.uid)
        deadline = time.monotonic() + self._timeout_s
        try:
            published = publish(self._buckets.own(), key, outgoing.data, deadline=deadline)
            standing = self._read_back(published.existing, outgoing)
            if is_open:
                self.record.confirm(standing, published)
        except (StoreError, ChainError):
            self._codec.restore_()
            raise
        if not _same_chunks(standing.payload.chunks, outgoing.payload.chunks):
            log.warning("window %d: the payload published earlier differs from the one computed now", outgoing.window)
            self._codec.restore_()
            self._codec.subtract_(standing.payload.chunks)
        return standing

    def update(self, collected: Collected, *, out: Mapping[str, Tensor | None] | None = None) -> dict[str, Tensor]:
        """Return the sign update of the window, {parameter name: fp32 tensor of -1, 0, +1 in its shape}.

        Args:
            collected: what the window consists of.
            out: tensors that may be written to, as `MomentumCodec.update` says.
        """
        return self._codec.update([payload.chunks for payload in collected.payloads.values()], out=out)

    def _read_back(self, existing: bytes | None, outgoing: Outgoing) -> Outgoing:
        """Return the payload that stands in the own bucket."""
        if existing is None:
            return outgoing
        own = self._identity
        try:
            payload = self._source.decode(own.uid, own.signer.public_key, outgoing.window, existing)
        except PayloadError as error:
            raise StoreError(f"the own bucket holds another payload for this window: {error.reason}") from error
        return Outgoing(outgoing.window, existing, payload)


def _same_chunks(left: Mapping[str, SparseChunks], right: Mapping[str, SparseChunks]) -> bool:
    """Whether two payloads say the same of every parameter."""
    if isinstance(left, Body) and isinstance(right, Body):
        return left.data == right.data
    return all(left[name].says_what(right[name]) for name in left)
