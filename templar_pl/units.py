"""Integers and names that must not be mixed up."""

from __future__ import annotations

from typing import NewType

Block = NewType("Block", int)
"""A height of the chain, 0 upwards."""

Window = NewType("Window", int)
"""`block // blocks_per_window`; the unit of exchange and of the optimizer step, 0 upwards."""

Uid = NewType("Uid", int)
"""The number of a peer in the register of the chain, 0 upwards."""

Hotkey = NewType("Hotkey", str)
"""The public name of a peer: the SS58 address of its sr25519 key."""
