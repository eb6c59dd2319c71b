"""Pure values and bytes all nodes agree on: keys, pages, schedule, payloads, fingerprints."""

from templar_pl.protocol.aggregate import (
    AggregateHead,
    Shapes,
    check_aggregate,
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
    peers_key,
    run_key,
    score_keys,
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
from templar_pl.protocol.peer_list_file import (
    MAX_PEER_LIST_BYTES,
    HeldList,
    PeerListFile,
    decode_peer_list,
    encode_peer_list,
)
from templar_pl.protocol.run_file import MAX_RUN_FILE_BYTES, RunFile, StoredFile, decode_run_file, encode_run_file
from templar_pl.protocol.schedule import learning_rate_at
from templar_pl.protocol.score_document import MAX_SCORE_BYTES, decode_score_record, encode_score_record
from templar_pl.protocol.score_record import (
    UNKNOWN,
    EvaluationNote,
    MeasuredLosses,
    PenaltyNote,
    ScoredMiner,
    ScoreRecord,
)
from templar_pl.protocol.selection import select_peers
from templar_pl.protocol.signing import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, Signer, Verify

__all__ = [
    "MAX_MANIFEST_BYTES",
    "MAX_NOTICE_BYTES",
    "MAX_PEER_LIST_BYTES",
    "MAX_RUN_FILE_BYTES",
    "MAX_SCORE_BYTES",
    "PUBLIC_KEY_BYTES",
    "SIGNATURE_BYTES",
    "UNKNOWN",
    "AggregateHead",
    "AggregateNotice",
    "Agreement",
    "Document",
    "EvaluationNote",
    "Exclusion",
    "Expected",
    "Header",
    "HeldList",
    "JsonMap",
    "JsonValue",
    "Manifest",
    "MeasuredLosses",
    "Payload",
    "PayloadKey",
    "Peer",
    "PeerListFile",
    "PenaltyNote",
    "RunFile",
    "ScoreRecord",
    "ScoredMiner",
    "Settlement",
    "Shapes",
    "Signer",
    "StoredFile",
    "TensorSum",
    "Verify",
    "WindowKeys",
    "aggregate_keys",
    "check_aggregate",
    "combine_sums",
    "debug_keys",
    "decode_aggregate",
    "decode_manifest",
    "decode_notice",
    "decode_payload",
    "decode_peer_list",
    "decode_run_file",
    "decode_score_record",
    "encode_aggregate",
    "encode_manifest",
    "encode_notice",
    "encode_payload",
    "encode_peer_list",
    "encode_run_file",
    "encode_score_record",
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
    "peers_key",
    "run_key",
    "score_keys",
    "select_peers",
    "shapes_digest",
    "sign_document",
    "trial_key",
]
