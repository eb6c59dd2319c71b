"""A payload that is compressed, signed and uploaded at the same time."""

from __future__ import annotations

from collections.abc import Mapping

from templar_pl.compression import SparseChunks
from templar_pl.exchange.growing import GrowingBody
from templar_pl.exchange.publish import Publication
from templar_pl.exchange.store import StreamingBucket
from templar_pl.exchange.window_values import Outgoing
from templar_pl.protocol.header import HEADER_BYTES, Header
from templar_pl.protocol.payload import Payload, PayloadWriter
from templar_pl.protocol.signing import SIGNATURE_BYTES, Signer


class Sending:
    """One payload on its way, of which parts are added in their order. `sign` or `give_up` must end it."""

    def __init__(self, bucket: StreamingBucket, key: str, header: Header, size: int, signer: Signer) -> None:
        """Send the header.

        Args:
            bucket: the own bucket.
            key: of the payload.
            header: of the payload.
            size: bytes of the whole payload.
            signer: the hotkey of this node.
        """
        self._header = header
        self._writer = PayloadWriter(header, size - HEADER_BYTES - SIGNATURE_BYTES, signer)
        self._object = GrowingBody(size, self._writer.head)
        self.publication = Publication(bucket, key, self._object)
        """The put that is under way."""

    def add(self, part: memoryview) -> None:
        """Send the next bytes of the body."""
        self._writer.add(part)
        self._object.append(part)

    def sign(self, chunks: Mapping[str, SparseChunks]) -> Outgoing:
        """Send the signature behind the last part; return the payload, whose parts said `chunks`."""
        self._object.append(self._writer.sign())
        return Outgoing(self._header.window, self._object.whole(), Payload(self._header, chunks))

    def give_up(self) -> None:
        """Send no more: what is under way is broken off, and not tried again."""
        self.publication.stop()
        self._object.give_up()
