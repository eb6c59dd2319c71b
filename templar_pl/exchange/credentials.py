"""Keys of buckets: what a node keeps to itself, and what it publishes so that others can read its bucket.

No secret is ever part of a `repr`, a log line, an error or a pickle: it sits in a `Secret`, and only the code that
signs a request takes it out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn
from urllib.parse import urlsplit

from templar_pl.errors import ConfigError

ACCOUNT_ID = "TEMPLAR_R2_ACCOUNT_ID"
BUCKET = "TEMPLAR_R2_BUCKET"
ENDPOINT_URL = "TEMPLAR_R2_ENDPOINT_URL"
WRITE_KEY_ID = "TEMPLAR_R2_WRITE_KEY_ID"
WRITE_SECRET = "TEMPLAR_R2_WRITE_SECRET"  # noqa: S105 - the name of a variable
READ_KEY_ID = "TEMPLAR_R2_READ_KEY_ID"
READ_SECRET = "TEMPLAR_R2_READ_SECRET"  # noqa: S105 - the name of a variable

ADDRESS_LENGTH = 128
"""Characters of a published address: account 32, key id 32, secret 64."""

_ACCOUNT = re.compile(r"[0-9a-f]{32}")
_KEY_ID = re.compile(r"[0-9a-f]{32}")
_SECRET = re.compile(r"[0-9a-f]{64}")
_ANY_KEY = re.compile(r"[!-~]{1,128}")  # what other stores than R2 hand out
_BUCKET = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")


class Secret:
    """A string that shows itself only when asked to; it can be neither printed nor pickled."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text. For whoever signs a request or publishes an address, and nobody else."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(***)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is never pickled or copied: read it again where it is needed")


@dataclass(frozen=True, slots=True)
class AccessKey:
    """One key of a store."""

    key_id: str
    """Name of the key; no secret."""

    secret: Secret


@dataclass(frozen=True, slots=True)
class BucketAddress:
    """What a node publishes on the chain: where its bucket is, and a key that may only read it."""

    account: str
    """32 of 0-9 and a-f."""

    key: AccessKey
    """Key id: 32, secret: 64 of 0-9 and a-f."""

    def __post_init__(self) -> None:
        for part, value, shape in (
            ("account", self.account, _ACCOUNT),
            ("key id", self.key.key_id, _KEY_ID),
            ("secret", self.key.secret.reveal(), _SECRET),
        ):
            if shape.fullmatch(value) is None:
                raise ValueError(f"the {part} of a bucket's address must be {_wanted(shape)}{_got(value)}")

    def to_text(self) -> str:
        """Return the 128 characters that are published."""
        return f"{self.account}{self.key.key_id}{self.key.secret.reveal()}"


@dataclass(frozen=True, slots=True)
class RunStore:
    """Where the buckets of all nodes of a run are, besides what their addresses say."""

    endpoint_url: str | None = None
    """Another S3 store than R2, for all nodes of the run; None for R2."""

    bucket: str | None = None
    """Name of every node's bucket, the same on all nodes: an address has no room for it. None: the account's id."""


@dataclass(frozen=True, slots=True)
class R2Credentials:
    """The own bucket and its two keys."""

    address: BucketAddress
    """What is published: the account and the key that may only read."""

    write_key: AccessKey

    endpoint_url: str | None = None
    """See `RunStore`."""

    bucket: str | None = None
    """See `RunStore`."""

    @property
    def store(self) -> RunStore:
        """Where all buckets are."""
        return RunStore(self.endpoint_url, self.bucket)


def parse_address(text: str) -> BucketAddress:
    """Turn what a peer published into an address.

    Raises:
        ValueError: the text is not 32 + 32 + 64 of 0-9 and a-f. The message does not repeat it.
    """
    if len(text) != ADDRESS_LENGTH:
        raise ValueError(f"a bucket's address must have {ADDRESS_LENGTH} characters, got {len(text)}")
    return BucketAddress(text[:32], AccessKey(text[32:64], Secret(text[64:])))


def credentials_from(environ: Mapping[str, str]) -> R2Credentials:
    """Read the own bucket and its keys from environment variables.

    `TEMPLAR_R2_ACCOUNT_ID`, `TEMPLAR_R2_WRITE_KEY_ID`, `TEMPLAR_R2_WRITE_SECRET`, `TEMPLAR_R2_READ_KEY_ID` and
    `TEMPLAR_R2_READ_SECRET` must be set. `TEMPLAR_R2_ENDPOINT_URL` names another S3 store than R2,
    `TEMPLAR_R2_BUCKET` the buckets of all nodes if they are not named after their accounts.

    Raises:
        ConfigError: a variable is missing, malformed, or both keys are the same; the message names the variable and
            never its value.
    """
    required = (ACCOUNT_ID, WRITE_KEY_ID, WRITE_SECRET, READ_KEY_ID, READ_SECRET)
    if missing := [name for name in required if not environ.get(name)]:
        raise ConfigError(f"set {', '.join(missing)} in the environment: the keys of the own bucket")
    store = run_store_from(environ)
    endpoint_url = store.endpoint_url
    key_id, secret = (_KEY_ID, _SECRET) if endpoint_url is None else (_ANY_KEY, _ANY_KEY)
    write_key = AccessKey(_checked(environ, WRITE_KEY_ID, key_id), Secret(_checked(environ, WRITE_SECRET, secret)))
    read_key = AccessKey(_checked(environ, READ_KEY_ID, _KEY_ID), Secret(_checked(environ, READ_SECRET, _SECRET)))
    # Whoever reads the chain could then delete the bucket.
    if write_key.key_id == read_key.key_id or write_key.secret == read_key.secret:
        raise ConfigError(
            f"{READ_KEY_ID} and {READ_SECRET} are published, so they must be another key than {WRITE_KEY_ID} and "
            f"{WRITE_SECRET}: make one that may only read"
        )
    return R2Credentials(
        BucketAddress(_checked(environ, ACCOUNT_ID, _ACCOUNT), read_key),
        write_key,
        endpoint_url,
        store.bucket,
    )


def run_store_from(environ: Mapping[str, str]) -> RunStore:
    """Read where all buckets are from environment variables, which may be unset.

    Raises:
        ConfigError: a variable is malformed; the message names it and never its value.
    """
    bucket = _checked(environ, BUCKET, _BUCKET) if environ.get(BUCKET) else None
    return RunStore(_endpoint_url(environ), bucket)


def _checked(environ: Mapping[str, str], name: str, shape: re.Pattern[str]) -> str:
    if shape.fullmatch(environ[name]) is None:
        raise ConfigError(f"{name} must be {_wanted(shape)}{_got(environ[name])}")
    return environ[name]


def _endpoint_url(environ: Mapping[str, str]) -> str | None:
    url = environ.get(ENDPOINT_URL)
    if not url:
        return None
    try:
        parts = urlsplit(url)
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        is_good = False
    else:
        is_good = is_good and not (parts.query or parts.fragment or parts.username or parts.password)
    if not is_good:
        # Not repeated: somebody may have put a key into it.
        raise ConfigError(f"{ENDPOINT_URL} must look like https://host or http://host:port, without a key or a query")
    return url.rstrip("/")


def _wanted(shape: re.Pattern[str]) -> str:
    return {
        _ACCOUNT: "32 characters of 0-9 and a-f",
        _SECRET: "64 characters of 0-9 and a-f",
        _ANY_KEY: "1 to 128 printable characters without a space",
        _BUCKET: "3 to 63 of a-z, 0-9 and dash, no dash first or last",
    }[shape]


def _got(value: str) -> str:
    """Say what is wrong without repeating it: people paste secrets into the wrong variable."""
    odd = len(set(value) - set("0123456789abcdef"))
    return f"; got {len(value)} characters, {odd} kinds of them others than 0-9 and a-f"
