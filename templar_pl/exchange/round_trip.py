"""The round trip of one window: momentum to payload, out to the bucket, back as the update all nodes agree on.

No Lightning and no model in here: the strategy, catch-up and whoever scores others call the same object.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping

from torch import Tensor

from templar_pl.compression import Body, MomentumCodec, SparseChunks, travels_as_made
from templar_pl.errors import ChainError, PayloadError, StoreError
from templar_pl.exchange.publish import publish
from templar_pl.exchange.record import PayloadSource, WindowRecord
from templar_pl.exchange.sending import Sending
from templar_pl.exchange.store import Buckets, StreamingBucket
from templar_pl.exchange.window_values import Collected, Identity, Outgoing, Training
from templar_pl.protocol.keys import payload_key
from templar_pl.protocol.payload import Header, Payload, encode_payload
from templar_pl.units import Window

log = logging.getLogger(__name__)

MIN_STREAMED_BYTES = 2**20
"""Payloads below this size are sent whole: they leave in one piece anyway."""


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
        header = self._header(window, training)
        data = encode_payload(header, chunks, self._codec.grids, self._identity.signer)
        return Outgoing(window, data, Payload(header, chunks))

    def compress_(
        self,
        window: Window,
        training: Training,
        gradients: Mapping[str, Tensor | None],
        lr: Mapping[str, float],
        *,
        may_upload: bool,
    ) -> tuple[Outgoing, Sending | None]:
        """Fold the gradients into the momentum, take the largest of it out, and sign it.

        Args:
            window: the window in training.
            training: what the header says about it.
            gradients: as `MomentumCodec.send_` wants them.
            lr: of every parameter.
            may_upload: whether the payload may land already: then its first parts leave while later ones are made,
                where the bucket allows it and it is worth it.

        Returns:
            The payload, and what is putting it if that was begun.
        """
        sending = self._start_sending(window, training) if may_upload else None
        if sending is None:
            return self.encode(window, training, self._codec.send_(gradients, lr)), None
        is_signed = False
        try:
            outgoing = sending.sign(self._codec.send_(gradients, lr, ready=sending.add))
            is_signed = True
        finally:
            if not is_signed:
                sending.give_up()
        return outgoing, sending

    def put(self, outgoing: Outgoing, *, is_open: bool, sending: Sending | None = None) -> Outgoing:
        """Put the payload into the own bucket and announce it, if the window is still open.

        A payload is written once: if an earlier life of this node already published one for the window, that one
        stands, and the momentum gives up what *it* says.

        Args:
            outgoing: the payload.
            is_open: whether the window is still open.
            sending: what is putting it already, if it was begun before it was compressed.

        Returns:
            What is published: the given payload or the earlier one.

        Raises:
            StoreError: the put failed for as long as it could count; the momentum is as before it was compressed.
            ChainError: the window was closed without this node; the momentum is as before it was compressed.
        """
        key = payload_key(self._identity.run, outgoing.window, self._identity.uid)
        try:
            deadline = time.monotonic() + self._seconds_to_put(outgoing.window, is_open=is_open)
            if sending is None:
                published = publish(self._buckets.own(), key, outgoing.data, deadline=deadline)
            else:
                published = sending.publication.finish(deadline)
            standing = self._read_back(published.existing, outgoing)
            if is_open:
                self.record.confirm(standing, published)
        except (StoreError, ChainError):
            if sending is not None:
                sending.publication.stop()
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

    def updates(self, collected: Collected) -> Iterator[tuple[str, Tensor]]:
        """Return what `update` does, one parameter after the other, by name."""
        return self._codec.updates([payload.chunks for payload in collected.payloads.values()])

    def _seconds_to_put(self, window: Window, *, is_open: bool) -> float:
        """Return the seconds for which a put is worth trying."""
        return min(self._timeout_s, self.record.seconds_to_put(window)) if is_open else self._timeout_s

    def _start_sending(self, window: Window, training: Training) -> Sending | None:
        """Begin to put a payload of which nothing is compressed yet; None where that gains nothing."""
        bucket = self._buckets.own()
        if (
            not isinstance(bucket, StreamingBucket)
            or self.payload_size < MIN_STREAMED_BYTES
            or not travels_as_made(self._codec.grids)
        ):
            return None
        key = payload_key(self._identity.run, window, self._identity.uid)
        return Sending(bucket, key, self._header(window, training), self.payload_size, self._identity.signer)

    def _header(self, window: Window, training: Training) -> Header:
        return Header(
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
