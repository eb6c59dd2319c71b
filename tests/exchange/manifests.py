"""Manifests of the window that the tests of records are about."""

from __future__ import annotations

from collections.abc import Mapping

from templar_pl.errors import Fault
from templar_pl.exchange import StandingManifest
from templar_pl.protocol import Exclusion, Manifest
from templar_pl.units import Uid
from tests.exchange.landed_worlds import CLOSED, DIGEST, NOW, OPEN

LATE = Exclusion(Fault.LATE, "written 0.5 s after uploads were accepted")


def manifest_of(listed: Mapping[Uid, bytes], **changes: object) -> Manifest:
    """Return the manifest of a window that consists of these payloads, by hash."""
    values = {
        "run": DIGEST,
        "window": NOW,
        "payloads": listed,
        "left_out": {},
        "opened_at": OPEN,
        "closed_at": CLOSED,
        "before": bytes(32),
        "after": bytes([1]) * 32,
        "steps": 6,
        "learning_rate": 0.1,
    }
    return Manifest(**(values | changes))  # pyright: ignore[reportArgumentType]  # a table of mixed types


def standing_manifest(listed: Mapping[Uid, bytes]) -> StandingManifest:
    """Return such a manifest as it would stand in a bucket; nobody has signed it."""
    return StandingManifest(manifest_of(listed), bytes(32), bytes(32))
