"""How patiently and how widely a node talks to an S3 store."""

from __future__ import annotations

from dataclasses import dataclass

from templar_pl.config import check_ranges

MIB = 2**20
MIN_PART_BYTES = 5 * MIB  # S3 takes no smaller part but the last
MAX_PARTS = 10_000  # of one upload, by S3 and R2


@dataclass(frozen=True, kw_only=True)
class R2Options:
    """Time-outs, retries and parallelism of one node."""

    connect_timeout_s: float = 5.0
    """Seconds to open a connection in; 0.1..60."""

    read_timeout_s: float = 10.0
    """Seconds the store may be silent before a connection is given up; 0.1..300."""

    request_timeout_s: float = 120.0
    """Seconds one request may take with its body, however steadily that trickles; 0.1..3600."""

    retry_for_s: float = 10.0
    """Seconds after the start of a call in which it is tried again, if the store answered 429 or 5xx or the
    connection broke; 0..3600. 0 leaves all retries to the caller."""

    retry_pause_s: float = 1.0
    """Seconds between two tries at least; 0.01..60. Pauses grow, with some chance in them."""

    max_connections: int = 32
    """Connections to one store with one key at the same time; 1..1024. At least the number of threads that ask."""

    multipart_bytes: int = 64 * MIB
    """Objects above this size travel in parts; 5 MiB..5 GiB."""

    part_bytes: int = 16 * MIB
    """Size of a part of a large object; 5 MiB..1 GiB. Doubled as needed to stay below 10 000 parts."""

    parallel_parts: int = 4
    """Parts of one large object that travel at the same time, each held in memory; 1..max_connections."""

    def __post_init__(self) -> None:
        check_ranges(
            self,
            connect_timeout_s=(0.1, 60),
            read_timeout_s=(0.1, 300),
            request_timeout_s=(0.1, 3600),
            retry_for_s=(0, 3600),
            retry_pause_s=(0.01, 60),
            max_connections=(1, 1024),
            multipart_bytes=(MIN_PART_BYTES, 5 * 1024 * MIB),
            part_bytes=(MIN_PART_BYTES, 1024 * MIB),
        )
        check_ranges(self, parallel_parts=(1, self.max_connections))
