"""Writes docs/hostile.md: `python -m tests.exchange.hostile.table`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.exchange.hostile.answer_rows import ANSWERS
from tests.exchange.hostile.payload_rows import ADDRESSES, HEADER, LEGAL, OBJECTS, SIGNATURES
from tests.exchange.hostile.row import FORBIDDEN, Row
from tests.exchange.hostile.section_rows import SECTIONS

PAGE = Path(__file__).parents[3] / "docs" / "hostile.md"

SHARED = {
    "the signature is not one of": "whatever was changed, the signature does not cover it",
    FORBIDDEN: "an answer to HEAD has no more than its status, and what is no S3 refusal is not believed to say more",
    "the body of the answer took too long": "it does not matter what drips",
    "the head of the answer is longer than 131072 bytes": "it does not matter what the head is made of",
}
"""Reasons that several rows share, and why they do."""

SECTIONS_OF_PAGE: dict[str, Sequence[Row]] = {
    "Objects": OBJECTS,
    "Headers of payloads": HEADER,
    "Signatures": SIGNATURES,
    "Bodies, validly signed": SECTIONS,
    "Addresses": ADDRESSES,
    "Servers": ANSWERS,
}

_HEAD = """# Hostile payloads

Everything a stranger publishes is hostile: the object in its bucket, the address of the bucket, and the server behind
it. Each row below is a test (`tests/exchange/test_hostile_payloads.py`) of a whole gather, in which an honest peer
stands beside the stranger: the stranger is skipped with this fault and this reason, the honest payload arrives, time
and memory are bounded. This page is written by `python -m tests.exchange.hostile.table`.

The fault `store` is an error of the store, which is asked again until the deadline (but not for a malformed address);
all others are the peer's. Bytes are those of bodies: 0, or P, the length of one payload; of a refusal at most 64 KiB
are read, behind a head of at most 128 KiB. Nothing is unpacked on the way, no redirect is followed.
"""


def page() -> str:
    """Return the text of the page."""
    parts = [_HEAD]
    for title, rows in SECTIONS_OF_PAGE.items():
        parts += [
            f"## {title}\n",
            "| way to be wrong | skipped as | because | bytes read at most |",
            "|---|---|---|---|",
        ]
        parts += [f"| {row.name} | {row.word} | {_shown(row.reason)} | {row.reads} |" for row in rows]
        parts.append("")
    parts.append("## Not skipped\n\nWell formed and validly signed; only scores can tell that it is wrong.\n")
    parts += [f"- {name}" for name in LEGAL]
    parts.append("\nReasons that several rows share:\n")
    parts += [f"- {_shown(reason)}: {why}" for reason, why in SHARED.items()]
    return "\n".join(parts) + "\n"


def _shown(reason: str) -> str:
    longest = 80
    text = reason if len(reason) <= longest else f"{reason[:longest]}…"
    return f"`{text}`"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
