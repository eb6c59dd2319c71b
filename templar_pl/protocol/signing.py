"""Signatures of hotkeys, as the pure rooms see them; the chain room brings the cryptography."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

SIGNATURE_BYTES = 64
PUBLIC_KEY_BYTES = 32

Verify = Callable[[bytes, bytes, bytes], bool]
"""(public key, message, signature) -> whether the signature is good; never raises on bytes of any content."""


class Signer(Protocol):
    """A hotkey that can sign."""

    @property
    def public_key(self) -> bytes:
        """The 32 bytes that others check with."""
        ...

    def sign(self, message: bytes) -> bytes:
        """Sign, in 64 bytes."""
        ...
