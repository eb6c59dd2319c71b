"""What an S3 store or the way to it did wrong, in words that say how to mend it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    ReadTimeoutError,
    SSLError,
)
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError, NameResolutionError
from urllib3.exceptions import ReadTimeoutError as BodyTimeoutError

from templar_pl.errors import ObjectMissingError, StoreError, TransientError

_ODD_ANSWERS = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)

NETWORK_ERRORS = (BotoCoreError, ClientError, HTTPError, ResponseParserError, *_ODD_ANSWERS)
"""What a call of a client, or reading its answer, may raise. botocore does not check answers: one that lacks a field,
has one twice, XML inside of it or a time beyond all calendars, or is nested too deeply, raises whatever comes of it."""

_TRANSIENT_CODES = frozenset({"BadDigest", "OperationAborted", "RequestTimeout", "SlowDown", "TooManyRequests"})
_TRANSIENT_INSIDE = frozenset({"InternalError", "ServiceUnavailable"})  # of one key in an answer to many
_BROKEN: tuple[tuple[type[Exception], str], ...] = (
    (ConnectTimeoutError, "no connection within the time-out"),
    (EndpointConnectionError, "no connection"),
    (ReadTimeoutError, "the store fell silent"),
    (BodyTimeoutError, "the store fell silent"),
    (ResponseParserError, "the answer is not that of an S3 store"),
)
_TRANSIENT_STATUS = frozenset({408, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Place:
    """Where a bucket is, for requests and for messages."""

    endpoint_url: str
    bucket: str

    keys: str
    """How messages call the key in use: the variables it comes from, or whose it is."""

    account: str
    """How messages call what decides over endpoint and bucket."""

    def __str__(self) -> str:
        return f"bucket {self.bucket} at {self.endpoint_url}"


def explain(error: Exception, action: str, place: Place) -> StoreError:
    """Turn a library's error into ours. It keeps no reference to the old one, whose request holds a signature.

    Args:
        error: one of `NETWORK_ERRORS`.
        action: what was tried, such as `read run/a`.
        place: the bucket.
    """
    if isinstance(error, ClientError):
        return _refused(error, f"cannot {action} in {place}", place)
    return _broken(error, f"cannot {action} in {place}", place)


def refusal(codes: Sequence[str], count: int, place: Place) -> StoreError:
    """Turn the errors inside an answer into ours; `codes` are the different ones of `count` errors."""
    what = f"{count} of them were refused: {_printable(', '.join(codes)[:200])}"
    if all(code in _TRANSIENT_CODES or code in _TRANSIENT_INSIDE for code in codes):
        return TransientError(what)
    advice = f": {_denied('AccessDenied', place)}" if "AccessDenied" in codes else ""
    return StoreError(f"{what}{advice}")


def status_of(error: ClientError) -> int:
    """Return the HTTP status of an answer."""
    return _dict(error.response, "ResponseMetadata").get("HTTPStatusCode", 0)


def answered_at(answer: dict[str, Any]) -> float | None:
    """Return the store's time, in UTC seconds, when it gave an answer; whole seconds. None if it does not say."""
    headers = _dict(_dict(answer, "ResponseMetadata"), "HTTPHeaders")
    try:
        date = parsedate_to_datetime(headers["date"])
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    # A date that knows no time zone would be taken for one of this machine's.
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()


def code_of(error: ClientError) -> str:
    """Return the store's word for what is wrong. Answers to HEAD have no body: there it is the status."""
    return _printable(str(_dict(error.response, "Error").get("Code", ""))[:100])


def _refused(error: ClientError, what: str, place: Place) -> StoreError:
    status, code = status_of(error), code_of(error)
    if code == "NoSuchBucket":
        reason = f"there is no such bucket. Create it, or check {place.account}"
        return ObjectMissingError(f"{what}: {reason}", answered_at=answered_at(error.response))
    if code == "NoSuchKey" or status == 404:
        reason = f"there is no such object{'' if code == 'NoSuchKey' else ', or no bucket'}"
        return ObjectMissingError(f"{what}: {reason}", answered_at=answered_at(error.response))
    if code in _TRANSIENT_CODES or status in _TRANSIENT_STATUS:
        return TransientError(f"{what}: the store answered {_answer_of(status, code)}")
    return StoreError(f"{what}: {_remedy(error, place)}")


def _remedy(error: ClientError, place: Place) -> str:
    """Say what is wrong with a request that would be refused again, and how to mend it."""
    status, code = status_of(error), code_of(error)
    if code == "RequestTimeTooSkewed":
        return _skew(error)
    if status in (401, 403):
        return _denied(code, place)
    if status == 501:
        return f"this store does not know the request (501 {code})"
    if 300 <= status < 400:
        return f"the store sends us elsewhere ({status} {code}). Check {place.account}"
    return f"the store answered {_answer_of(status, code)}"


def _answer_of(status: int, code: str) -> str:
    """Name an answer once: where it had no body, as those to HEAD, the code is the status again."""
    return str(status) if code in ("", str(status)) else f"{status} {code}"


def _denied(code: str, place: Place) -> str:
    if code == "SignatureDoesNotMatch":
        return f"the secret is not that of the key id ({code}). Check {place.keys}"
    if code in ("InvalidAccessKeyId", "Unauthorized"):
        return f"the store does not know the key id ({code}). Check {place.keys}"
    if code == "AccessDenied":
        return f"the key has no right to do that ({code}). Give it the right, or check {place.keys}"
    return f"the store refuses the key or what it was used for ({code}). Check {place.keys}"


def _skew(error: ClientError) -> str:
    """Compare the two clocks."""
    stores_time = answered_at(error.response)
    if stores_time is None:
        return "this machine's clock differs too much from the store's. Set it (NTP)"
    ahead_s = time.time() - stores_time
    return f"this machine's clock is {abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} the store's. Set it"


def _broken(error: Exception, what: str, place: Place) -> StoreError:
    cause = error.kwargs.get("error") if isinstance(error, BotoCoreError) else None
    if isinstance(cause, StoreError):
        return type(cause)(f"{what}: {cause}")
    if isinstance(error, SSLError):
        return StoreError(f"{what}: no secure connection: {_cut(cause)}. Check {place.account} and the system's clock")
    if isinstance(cause, NameResolutionError):
        return TransientError(f"{what}: its name cannot be resolved. Check the network and {place.account}")
    for kind, reason in _BROKEN:
        if isinstance(error, kind):
            return TransientError(f"{what}: {reason}. Check the network and {place.account}")
    if isinstance(error, _ODD_ANSWERS):
        why = f"{type(error).__name__}: {_cut(error)}"
        return TransientError(f"{what}: the answer is not that of an S3 store ({why}). Check {place.account}")
    return TransientError(f"{what}: the connection broke ({type(error).__name__}: {_cut(cause or error)})")


def _cut(cause: object) -> str:
    """Return the end of a chain of errors, the part that says why; never a request."""
    return _printable(str(cause).rpartition(": ")[2][:200])


def _printable(text: str) -> str:
    """Return a stranger's text without what could forge a line of a log or move a cursor."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _dict(parent: Any, key: str) -> dict[str, Any]:
    found = parent.get(key, {})
    return found if isinstance(found, dict) else {}
