"""Make one request of an S3 store, again if that may help, and bound every byte of it in time and number."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from itertools import count
from typing import Any, TypeVar

from botocore.exceptions import ParamValidationError

from templar_pl.errors import OversizedError, StoreError, TransientError
from templar_pl.exchange.r2_errors import NETWORK_ERRORS, Place, explain
from templar_pl.exchange.r2_options import R2Options
from templar_pl.exchange.store import retry_delay_s

T = TypeVar("T")


class Requests:
    """Calls one client for one bucket."""

    def __init__(self, client: Callable[[], Any], place: Place, options: R2Options) -> None:
        """Store the parts.

        Args:
            client: returns the client; called with every request.
            place: the bucket.
            options: time-outs and retries.
        """
        self._client, self.place, self.options = client, place, options

    def send(self, action: str, call: Callable[[Any, float], T]) -> T:
        """Return what `call` returns.

        Args:
            action: for messages, such as `read run/a`.
            call: makes one try; takes the client and the moment, in seconds of `time.monotonic()`, at which the try
                must have ended. Must be harmless to repeat.

        Raises:
            StoreError: as `explain` says, if another try cannot help or there is no time left for one.
        """
        client = self._client()  # making one takes a while, which is no fault of the store
        give_up = time.monotonic() + self.options.retry_for_s
        for tries in count(1):
            error = self._try(client, action, call)
            if not isinstance(error, StoreError):
                return error[0]
            delay = retry_delay_s(tries, self.options.retry_pause_s)
            if not isinstance(error, TransientError) or time.monotonic() + delay >= give_up:
                # Raised outside of any `except`, so that it drags no request with its signature along.
                raise error
            time.sleep(delay)
        raise AssertionError("unreachable: counting does not end")

    def _try(self, client: Any, action: str, call: Callable[[Any, float], T]) -> tuple[T] | StoreError:
        try:
            return (call(client, time.monotonic() + self.options.request_timeout_s),)
        except ParamValidationError:
            raise  # our bug
        except NETWORK_ERRORS as error:
            return explain(error, action, self.place)
        except StoreError as error:
            return type(error)(f"cannot {action} in {self.place}: {error}")


class TimedBody(io.BytesIO):
    """A body to send that stops being one at its deadline, however slowly the other side takes it."""

    def __init__(self, data: bytes, deadline: float) -> None:
        super().__init__(data)
        self._deadline = deadline

    def read(self, size: int | None = -1, /) -> bytes:
        """Read on. Raises `TransientError` after the deadline."""
        if time.monotonic() >= self._deadline:
            raise TransientError("the body took too long to send")
        return super().read(size)


def read_body(answer: dict[str, Any], *, max_bytes: int) -> bytes:
    """Read the body of an answer, of exactly the length that was promised.

    The connections of `BoundedHttp` see to it that this ends in time.

    Raises:
        OversizedError: more than `max_bytes` are promised; nothing is read then.
        StoreError: the length is not said, or is none.
        TransientError: the body ends early, or is not there at the deadline.
        HTTPError: the connection broke.
    """
    size = answer.get("ContentLength")
    with answer["Body"] as stream:  # closes the connection, unless it went back to the pool with the last byte
        if size is None:
            raise StoreError("the store does not say how long the object is")
        if size < 0:
            raise StoreError(f"the store says that the object has {size} bytes")
        if size > max_bytes:
            raise OversizedError(f"the object has {size} bytes, and no more than {max_bytes} are allowed")
        # One call: a loop of read1() gets 16 KiB at a time through TLS, 24 ms of a processor for 8 MiB against 10.
        data = stream.read(size)
    if len(data) != size:
        raise TransientError(f"the body ended after {len(data)} of {size} bytes")
    return data
