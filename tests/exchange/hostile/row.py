"""One way to be wrong, and what must be said of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from templar_pl.errors import Fault
from templar_pl.exchange.credentials import BucketAddress
from tests.exchange.hostile.cast import Cast
from tests.servers.proxy import Asked, Raw, Reply

NOTHING, PAYLOAD, HEAD, REFUSAL, TIMED = "0", "P", "128 KiB", "64 KiB", "until the deadline"
"""Bytes of a stranger that are read at most: none, a payload, the head of an answer, a refusal; or any number, one
after the other, of which none are kept."""

FORBIDDEN = "the store refuses the key or what it was used for (403)"


@dataclass(frozen=True, kw_only=True)
class Row:
    """What must be said of a way to be wrong, which a subclass makes."""

    name: str
    reason: str
    """A part of the reason that says what is wrong with it."""

    fault: Fault | None = None
    """What the peer did wrong; None for a `StoreError`."""

    reads: str = NOTHING

    @property
    def word(self) -> str:
        """How the fault is counted."""
        return "store" if self.fault is None else self.fault.value


@dataclass(frozen=True, kw_only=True)
class PayloadRow(Row):
    """Bytes in a stranger's bucket."""

    make: Callable[[Cast], bytes | None]
    """Returns what the stranger puts under the key; None for nothing."""

    form: str = "one bit"
    agreed: bool = False
    """Whether all nodes agreed on the hash of the stranger's good payload before."""


@dataclass(frozen=True, kw_only=True)
class AddressRow(Row):
    """What a stranger publishes as the address of its bucket."""

    make: Callable[[BucketAddress], str]
    """Returns the text; takes the address of a bucket with a good payload."""


@dataclass
class Stage:
    """What an answer is made of."""

    payload: bytes
    """A good one of the stranger."""

    elsewhere: str
    """Address of a server that nobody must connect to."""

    sent: int = 0
    """Bytes of the stranger that the other side, or the system, has taken."""

    def counted(self, reply: Reply | Raw | None) -> Reply | Raw | None:
        """Return the same answer, but count its bytes."""
        if isinstance(reply, Raw):
            return Raw(self._count(reply.parts))
        if isinstance(reply, Reply) and not isinstance(reply.body, bytes):
            return replace(reply, body=self._count(reply.body))
        return reply

    def _count(self, parts: Iterable[bytes]) -> Iterable[bytes]:
        for part in parts:
            yield part
            self.sent += len(part)


Answer = Callable[[Asked, Stage], Reply | Raw | None]


@dataclass(frozen=True, kw_only=True)
class AnswerRow(Row):
    """What a stranger's server answers."""

    answer: Answer

    is_heavy: bool = False
    """Whether it is there to fill the memory."""
