"""Names of the objects of a run in a bucket.

Layout: `{run}/run.json`, `{run}/payload/{window:09d}/{uid}.bin`, `{run}/manifest/{window:09d}.json`,
`{run}/aggregate/{window:09d}.bin`, its notice `{run}/aggregate/{window:09d}.json`,
`{run}/checkpoint/{window:09d}/{name}`, `{run}/checkpoint/latest.json`, `{run}/scores/{window:09d}.json`,
`{run}/peers.json`, `{run}/debug/{window:09d}/{uid}.json`, and `{run}/trial/{name}.bin` while `doctor` tries out the
keys of a bucket.
Windows have nine digits, so that the order of the names is the order of time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from templar_pl.units import Uid, Window

MAX_WINDOW = 10**9 - 1
"""The last window whose key has nine digits; at 12 s a window it lies 380 years ahead."""

MAX_UID = 2**32 - 1
"""The largest uid: payloads carry it in 32 bits."""

_RUN = "[a-z0-9][a-z0-9._-]{0,63}"
_PAYLOAD_KEY = re.compile(rf"(?P<run>{_RUN})/payload/(?P<window>[0-9]{{9}})/(?P<uid>0|[1-9][0-9]{{0,9}})\.bin")


@dataclass(frozen=True, slots=True)
class PayloadKey:
    """What the key of a payload says."""

    run: str
    window: Window
    uid: Uid


@dataclass(frozen=True, slots=True)
class WindowKeys:
    """Keys of what one node writes once a window."""

    prefix: str
    """What all of them begin with."""

    ending: str

    def key(self, window: Window) -> str:
        """Return the key of a window. Raises `ValueError` if it is outside 0..MAX_WINDOW."""
        if not 0 <= window <= MAX_WINDOW:
            raise ValueError(f"window must be in 0..{MAX_WINDOW}, got {window}")
        return f"{self.prefix}{window:09d}{self.ending}"

    def window_of(self, key: str) -> Window | None:
        """Return the window of a key, None if it is none of these."""
        digits = key.removeprefix(self.prefix).removesuffix(self.ending)
        if re.fullmatch("[0-9]{9}", digits) is None or key != self.key(Window(int(digits))):
            return None
        return Window(int(digits))


def run_key(run: str) -> str:
    """Return the key of the object that describes a run. Raises `ValueError` for an unsafe run name."""
    return f"{_checked_run(run)}/run.json"


def trial_key(run: str, name: str) -> str:
    """Return the key of an object that is written to be deleted. Raises `ValueError` for an unsafe run name."""
    return f"{_checked_run(run)}/trial/{name}.bin"


def payload_prefix(run: str) -> str:
    """Return what the keys of all payloads of a run begin with. Raises `ValueError` for an unsafe run name."""
    return f"{_checked_run(run)}/payload/"


def payload_key(run: str, window: Window, uid: Uid) -> str:
    """Return the key under which a peer publishes its payload of a window.

    Raises:
        ValueError: the run name is unsafe, the window is outside 0..MAX_WINDOW or the uid outside 0..MAX_UID.
    """
    return payload_keys(run, uid).key(window)


def payload_keys(run: str, uid: Uid) -> WindowKeys:
    """Return the keys of a peer's payloads. Raises `ValueError` for an unsafe run name or a uid outside 0..MAX_UID."""
    return WindowKeys(payload_prefix(run), f"/{_checked_uid(uid)}.bin")


def debug_keys(run: str, uid: Uid) -> WindowKeys:
    """Return the keys under which a node says what it did in a window. Raises `ValueError` as `payload_keys`."""
    return WindowKeys(f"{_checked_run(run)}/debug/", f"/{_checked_uid(uid)}.json")


def aggregate_keys(run: str) -> WindowKeys:
    """Return the keys of the updates of a run. Raises `ValueError` for an unsafe run name."""
    return WindowKeys(f"{_checked_run(run)}/aggregate/", ".bin")


def notice_keys(run: str) -> WindowKeys:
    """Return the keys of the notices of aggregates. Raises `ValueError` for an unsafe run name."""
    return WindowKeys(f"{_checked_run(run)}/aggregate/", ".json")


def manifest_keys(run: str) -> WindowKeys:
    """Return the keys of the manifests of a run. Raises `ValueError` for an unsafe run name."""
    return WindowKeys(f"{_checked_run(run)}/manifest/", ".json")


def score_keys(run: str) -> WindowKeys:
    """Return the keys of what a validator says of the windows of a run. Raises `ValueError` for an unsafe run name."""
    return WindowKeys(f"{_checked_run(run)}/scores/", ".json")


def peers_key(run: str) -> str:
    """Return the key of a validator's list of peers. Raises `ValueError` for an unsafe run name."""
    return f"{_checked_run(run)}/peers.json"


def checkpoint_prefix(run: str) -> str:
    """Return what the keys of all checkpoints of a run begin with. Raises `ValueError` for an unsafe run name."""
    return f"{_checked_run(run)}/checkpoint/"


def checkpoint_keys(run: str, name: str) -> WindowKeys:
    """Return the keys of one file of every checkpoint of a run. Raises `ValueError` for an unsafe run name."""
    return WindowKeys(checkpoint_prefix(run), f"/{name}")


def latest_key(run: str) -> str:
    """Return the key of what names the newest checkpoint. Raises `ValueError` for an unsafe run name."""
    return f"{checkpoint_prefix(run)}latest.json"


def parse_payload_key(key: str) -> PayloadKey:
    """Undo `payload_key`.

    Raises:
        ValueError: the key is none that `payload_key` returns.
    """
    match = _PAYLOAD_KEY.fullmatch(key)
    if match is None or int(match["uid"]) > MAX_UID:
        raise ValueError(
            f"a payload key reads RUN/payload/WINDOW/UID.bin with nine digits of window and a uid in 0..{MAX_UID} "
            f"without leading zeros, got {key!r}"
        )
    return PayloadKey(match["run"], Window(int(match["window"])), Uid(int(match["uid"])))


def _checked_run(run: str) -> str:
    """Return the name of a run if it is safe in keys, paths and addresses. Raises `ValueError` if not."""
    if re.fullmatch(_RUN, run) is None:
        raise ValueError(
            "a run name has 1..64 characters of a-z, 0-9, dot, underscore and hyphen and begins with a letter or a "
            f"digit, got {run!r}"
        )
    return run


def _checked_uid(uid: Uid) -> Uid:
    if not 0 <= uid <= MAX_UID:
        raise ValueError(f"uid must be in 0..{MAX_UID}, got {uid}")
    return uid
