"""Checks of the own bucket on R2 or another S3 store: what each key may do, and what the store's clock says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

from templar_pl.errors import ObjectMissingError, StoreError
from templar_pl.exchange import R2Bucket, R2Buckets, R2Credentials, R2Options, R2Reader
from templar_pl.exchange import credentials as names
from templar_pl.exchange.r2_errors import TransientError
from templar_pl.protocol import trial_key
from templar_pl.roles.doctor_rows import Row, State

SKEW_RESOLUTION_S = 1.0
"""A store dates its answers to the second."""

_WORRYING_SKEW_S = 2.0
_CONTENT = b"templar_pl doctor"
_PATIENCE = {"connect_timeout_s": 5.0, "read_timeout_s": 10.0, "request_timeout_s": 15.0, "retry_for_s": 5.0}


@dataclass(frozen=True, slots=True)
class OwnStore:
    """The own bucket, opened with either key."""

    credentials: Callable[[], R2Credentials]
    """Reads the keys. May raise `ConfigError`."""

    options: R2Options
    key: str
    """Of the object that is written and deleted."""

    @classmethod
    def of(cls, run: str, nonce: str, credentials: Callable[[], R2Credentials], options: R2Options) -> OwnStore:
        """Prepare checks of a run's bucket, with bounded patience.

        Args:
            run: first part of every key.
            nonce: so that two nodes that look at the same time do not delete what the other wrote.
            credentials: reads the keys.
            options: of the run.
        """
        impatient = replace(options, **{name: min(getattr(options, name), most) for name, most in _PATIENCE.items()})
        return cls(credentials, impatient, trial_key(run, nonce))

    def buckets(self) -> R2Buckets:
        """Return the buckets of the run."""
        return R2Buckets(self.credentials, self.options)


def check_keys(store: OwnStore) -> Iterator[Row]:
    """Try out what each of the two keys may do; what is written is deleted again."""
    buckets = store.buckets()
    own, reader = buckets.own(), buckets.own_with_read_key()
    try:
        yield Row("keys", State.OK, f"set in the environment, for {own.place}")
        reached = _reach(own, reader)
        yield reached
        yield from _try_keys(store.key, own, reader) if reached.state == State.OK else _unreached()
    finally:
        buckets.close()


def check_clock(store: OwnStore, window_delta_s: float) -> Iterator[Row]:
    """Compare the clocks of this machine and the store, with either key.

    Args:
        store: the own bucket.
        window_delta_s: seconds after the end of a window in which payloads count.
    """
    buckets = store.buckets()
    try:
        try:
            skew_s = buckets.own().clock_skew_s()
        except StoreError:
            skew_s = buckets.own_as_read().clock_skew_s()
        yield judge_skew(skew_s, window_delta_s)
    except StoreError:
        yield Row("clock", State.SKIPPED, "the store does not tell its time, see what is said of bucket and keys")
    finally:
        buckets.close()


def judge_skew(skew_s: float, window_delta_s: float) -> Row:
    """Say whether a run can live with a clock.

    Args:
        skew_s: seconds by which this machine is ahead of the store, to `SKEW_RESOLUTION_S`.
        window_delta_s: seconds after the end of a window in which payloads count.
    """
    if abs(skew_s) <= SKEW_RESOLUTION_S:
        return Row("clock", State.OK, f"within {SKEW_RESOLUTION_S:g} s of the store's, which is as finely as it tells")
    where = "ahead of" if skew_s > 0 else "behind"
    found = f"this machine is {abs(skew_s):.0f} s {where} the store (measured to {SKEW_RESOLUTION_S:g} s)"
    advice = "set the clock by NTP, such as `timedatectl set-ntp true`"
    if abs(skew_s) > window_delta_s + SKEW_RESOLUTION_S:
        found += f": payloads land outside of the {window_delta_s:g} s in which they count"
        return Row("clock", State.FAILED, found, advice)
    if abs(skew_s) > _WORRYING_SKEW_S:
        return Row("clock", State.WARNING, found, advice)
    return Row("clock", State.OK, found)


def _reach(own: R2Bucket, reader: R2Reader) -> Row:
    """See that the bucket is there, with either key: what is wrong with one of them is said of that key."""
    found = f"{own.place} is there"
    tries = [_attempt("bucket", found, call) for call in (own.check, reader.check)]
    if any(row.state == State.OK for row in tries):
        return Row("bucket", State.OK, found)
    advice = (
        f"if that is not the bucket that is meant, check {names.ACCOUNT_ID}, {names.BUCKET} and {names.ENDPOINT_URL}"
    )
    return replace(tries[0], mend=advice)


def _try_keys(key: str, own: R2Bucket, reader: R2Bucket) -> Iterator[Row]:
    """Write an object with one key, read it with both, and see that the other can neither change nor delete it."""
    try:
        written = _attempt("write key", "puts, gets and deletes", lambda: _put_and_get(own, key))
        read = _attempt("read key", "gets and lists", lambda: _get_and_list(reader, key, written.state == State.OK))
        rights = _judge_rights(reader, key) if State.FAILED not in (written.state, read.state) else None
    finally:
        deleted = _attempt("write key", "puts, gets and deletes", lambda: _delete(own, key))
    yield deleted if written.state == State.OK else written
    yield read
    yield rights or Row("rights of the read key", State.SKIPPED, "needs both keys to work, see above")


def _put_and_get(own: R2Bucket, key: str) -> None:
    own.put(key, _CONTENT)
    _expect(own, key)


def _get_and_list(reader: R2Reader, key: str, is_written: bool) -> None:
    reader.check()
    if is_written:
        _expect(reader, key)


def _expect(reader: R2Reader, key: str) -> None:
    found = reader.get(key, max_bytes=len(_CONTENT))
    if found != _CONTENT:
        raise StoreError(f"{key} in {reader.place} holds other bytes than were written")


def _delete(own: R2Bucket, key: str) -> None:
    own.delete([key])
    with suppress(ObjectMissingError):
        own.head(key)
        raise StoreError(f"{key} in {own.place} was deleted and is still there; delete it by hand")


def _judge_rights(reader: R2Bucket, key: str) -> Row:
    """See whether the store refuses what the published key must not do."""
    name = "rights of the read key"
    tries = {"overwrite": lambda: reader.put(key, _CONTENT), "delete": lambda: reader.delete([key])}
    try:
        may = [right for right, call in tries.items() if _is_allowed(call)]
    except TransientError as error:
        return Row(name, State.FAILED, f"cannot find out whether the store refuses writes with it: {error}")
    if not may:
        return Row(name, State.OK, "the store refuses to let it write or delete")
    return Row(
        name,
        State.WARNING,
        f"DANGER: the key that is PUBLISHED FOR EVERYBODY may {' and '.join(may)} objects: whoever reads the chain can "
        "destroy this bucket",
        f"revoke this key now, make one that may only read, and put it into "
        f"{names.READ_KEY_ID} and {names.READ_SECRET}",
    )


def _is_allowed(call: Callable[[], None]) -> bool:
    """Whether the store does it. Raises `TransientError` if it did not get to an answer."""
    try:
        call()
    except TransientError:
        raise
    except StoreError:
        return False
    return True


def _attempt(name: str, done: str, call: Callable[[], None]) -> Row:
    """Return a row about a call that returns or raises a `StoreError`, which says how to mend it."""
    try:
        call()
    except StoreError as error:
        return Row(name, State.FAILED, str(error))
    return Row(name, State.OK, done)


def _unreached() -> Iterator[Row]:
    for name in ("write key", "read key", "rights of the read key"):
        yield Row(name, State.SKIPPED, "needs a bucket that can be reached, see above")
