"""Pure values and bytes all nodes agree on: keys, pages, schedule, payloads, fingerprints."""

from templar_pl.protocol.aggregate import (
    AggregateHead,
    Shapes,
    decode_aggregate,
    encode_aggregate,
    max_aggregate_bytes,
    shapes_digest,
)
from templar_pl.protocol.aggregate_notice import (
    MAX_NOTICE_BYTES,
    AggregateNotice,
    decode_notice,
    encode_notice,
)
from templar_pl.protocol.agreement import Agreement, Settlement
from templar_pl.protocol.document import Document, JsonMap, JsonValue, open_document, sign_document
from templar_pl.protocol.fingerprint import TensorSum, combine_sums, fingerprint, partial_sum
from templar_pl.protocol.header import Header
from templar_pl.protocol.keys import (
    PayloadKey,
    WindowKeys,
    aggregate_keys,
    debug_keys,
    manifest_keys,
    notice_keys,
    parse_payload_key,
    payload_key,
    payload_keys,
    payload_prefix,
    run_key,
    trial_key,
)
from templar_pl.protocol.manifest import (
    MAX_MANIFEST_BYTES,
    Exclusion,
    Manifest,
    decode_manifest,
    encode_manifest,
)
from templar_pl.protocol.pages import next_pages, pages_digest
from templar_pl.protocol.payload import Expected, Payload, decode_payload, encode_payload, payload_bytes
from templar_pl.protocol.peer import Peer
from templar_pl.protocol.run_file import MAX_RUN_FILE_BYTES, RunFile, StoredFile, decode_run_file, encode_run_file
from templar_pl.protocol.schedule import learning_rate_at
from templar_pl.protocol.selection import select_peers
from templar_pl.protocol.signing import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, Signer, Verify

__all__ = [
    "MAX_MANIFEST_BYTES",
    "MAX_NOTICE_BYTES",
    "MAX_RUN_FILE_BYTES",
    "PUBLIC_KEY_BYTES",
    "SIGNATURE_BYTES",
    "AggregateHead",
    "AggregateNotice",
    "Agreement",
    "Document",
    "Exclusion",
    "Expected",
    "Header",
    "JsonMap",
    "JsonValue",
    "Manifest",
    "Payload",
    "PayloadKey",
    "Peer",
    "RunFile",
    "Settlement",
    "Shapes",
    "Signer",
    "StoredFile",
    "TensorSum",
    "Verify",
    "WindowKeys",
    "aggregate_keys",
    "combine_sums",
    "debug_keys",
    "decode_aggregate",
    "decode_manifest",
    "decode_notice",
    "decode_payload",
    "decode_run_file",
    "encode_aggregate",
    "encode_manifest",
    "encode_notice",
    "encode_payload",
    "encode_run_file",
    "fingerprint",
    "learning_rate_at",
    "manifest_keys",
    "max_aggregate_bytes",
    "next_pages",
    "notice_keys",
    "open_document",
    "pages_digest",
    "parse_payload_key",
    "partial_sum",
    "payload_bytes",
    "payload_key",
    "payload_keys",
    "payload_prefix",
    "run_key",
    "select_peers",
    "shapes_digest",
    "sign_document",
    "trial_key",
]
