"""What an aggregator published, as others read it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors.torch import load_file

from templar_pl.chain import verify
from templar_pl.exchange import read_aggregate
from templar_pl.protocol import (
    MAX_RUN_FILE_BYTES,
    Manifest,
    RunFile,
    decode_run_file,
    encode_manifest,
    manifest_keys,
    payload_key,
    run_key,
)
from templar_pl.training import Replica
from templar_pl.units import Uid, Window
from tests.roles.past_runs import DELTA_S, PastRun, replica


def manifests(run: PastRun, windows: int) -> list[Manifest]:
    return [run.source().fetch_manifest(Window(window)).manifest for window in range(windows)]


def run_file(run: PastRun) -> RunFile:
    return decode_run_file(run.bucket().get(run_key("run"), max_bytes=MAX_RUN_FILE_BYTES), verify)[1]


def caught_up(run: PastRun, windows: int, folder: Path) -> Replica:
    """Return a model that took the parameters of the start of the run and all aggregates, each of them checked."""
    joiner = joined(run, folder)
    for window in range(windows):
        standing = run.source().fetch_manifest(Window(window))
        run.source().fetch_aggregate(run.source().fetch_notice(standing), run.shapes, folder / "update")
        assert joiner.fingerprint() == standing.manifest.before
        assert joiner.learning_rate == standing.manifest.learning_rate
        joiner.apply(read_aggregate(folder / "update", run.shapes, standing.head, verify))
        assert (joiner.fingerprint(), joiner.applied) == (standing.manifest.after, standing.manifest.steps)
    return joiner


def joined(run: PastRun, folder: Path) -> Replica:
    """Return a model with the parameters that the run file names."""
    named = run_file(run).checkpoint
    assert named is not None
    data = run.bucket().get(named.key, max_bytes=named.size)
    assert hashlib.sha256(data).digest() == named.sha256
    (folder / "first.safetensors").write_bytes(data)
    joiner = replica(seed=1, precision=run.precision)
    with torch.no_grad():
        for name, tensor in load_file(folder / "first.safetensors").items():
            joiner.parameters[name].copy_(tensor)
    return joiner


def followed(run: PastRun, windows: int) -> Replica:
    """Return a model that drew its parameters itself, and applied at once what each manifest lists."""
    node = replica(precision=run.precision)
    by_uid = {sender.uid: sender for sender in run.senders.values()}
    for manifest in manifests(run, windows):
        for uid, sha256 in manifest.payloads.items():
            data = by_uid[uid].bucket.get(payload_key("run", manifest.window, uid), max_bytes=10**6)
            assert hashlib.sha256(data).digest() == sha256
        node.apply(run.update(manifest.window, manifest.payloads).items())
    return node


def standing(past: PastRun, windows: int, leave_out: Uid) -> Manifest:
    """Publish a manifest of the next window by hand, which leaves out somebody whose payload landed."""
    node = followed(past, windows)
    before, rate = node.fingerprint(), node.learning_rate
    window = Window(windows)
    payloads = {}
    for sender in past.senders.values():
        if sender.uid != leave_out:
            data = sender.bucket.get(payload_key("run", window, sender.uid), max_bytes=10**6)
            payloads[sender.uid] = hashlib.sha256(data).digest()
    node.apply(past.update(window, payloads).items())
    opened = past.end_of(windows)
    manifest = Manifest(
        run=past.digest,
        window=window,
        payloads=payloads,
        left_out={},
        opened_at=opened,
        closed_at=opened + DELTA_S,
        before=before,
        after=node.fingerprint(),
        steps=node.applied,
        learning_rate=rate,
    )
    assert past.bucket().put_once(manifest_keys("run").key(window), encode_manifest(manifest, past.signer()))
    return manifest
