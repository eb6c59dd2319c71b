"""Miners that do not do what they should, made of the parts that honest ones are made of.

Their payloads pass every check of format, sender and time; what is wrong with them only a validator can find out.
Nothing else in the package knows of them.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.data import DataLoader, IterableDataset

from templar_pl.data import WindowedDataset
from templar_pl.errors import ChainError, PayloadError, StoreError
from templar_pl.exchange.round_trip import RoundTrip
from templar_pl.exchange.sending import Sending
from templar_pl.exchange.window_values import Outgoing, Training
from templar_pl.protocol.fingerprint import fingerprint
from templar_pl.protocol.keys import payload_key
from templar_pl.protocol.payload import Payload
from templar_pl.protocol.peer import Peer
from templar_pl.training import TemplarStrategy
from templar_pl.units import Uid, Window

log = logging.getLogger(__name__)

BEHIND = 3
"""Windows by which the parameters of a stale miner are old."""

_POLL_S = 0.1
_RESERVE_S = 0.5
"""Seconds before the end of uploads at which a copycat stops waiting: it must sign and put what it has."""

_ALWAYS = Window(0)


class TakenRoundTrip(RoundTrip):
    """The exchange of an honest node, taken over by a dishonest one."""

    def __init__(self, honest: RoundTrip) -> None:
        """Take the parts of an exchange."""
        super().__init__(
            honest._codec,
            honest._identity,
            buckets=honest._buckets,
            record=honest.record,
            source=honest._source,
            timeout_s=honest._timeout_s,
        )


class CopyingRoundTrip(TakenRoundTrip):
    """Sends what another miner sent for the window, under the own header and signature."""

    def __init__(self, honest: RoundTrip, victims: Callable[[], Mapping[Uid, Peer]]) -> None:
        """Take the parts of an exchange.

        Args:
            honest: the exchange.
            victims: returns who may be copied; the first that has sent is.
        """
        super().__init__(honest)
        self._victims = victims

    def put(self, outgoing: Outgoing, *, is_open: bool, sending: Sending | None = None) -> Outgoing:
        """Wait for somebody's payload and put that; the own one if nobody's comes in time."""
        stolen = self._steal(outgoing.window) if is_open and sending is None else None
        if stolen is not None:
            own = outgoing.payload.header
            training = Training(own.pages, own.fingerprint, own.loss, own.batches, own.tokens)
            outgoing = self.encode(outgoing.window, training, stolen.chunks)
        return super().put(outgoing, is_open=is_open, sending=sending)

    def _steal(self, window: Window) -> Payload | None:
        """Return the first payload of somebody else that is there; None if none is while there is time."""
        left_s = min(self._timeout_s, self.record.seconds_to_put(window)) - _RESERVE_S
        deadline = time.monotonic() + left_s
        while True:
            for uid, peer in self._victims().items():
                try:
                    bucket = self._buckets.of(peer.address)
                    data = bucket.get(payload_key(self._identity.run, window, uid), max_bytes=self.payload_size)
                    payload = self._source.decode(uid, peer.public_key, window, data)
                except (StoreError, PayloadError):
                    continue  # not there yet, or nothing that could be sent again
                log.info("window %d: copied from uid %d", window, uid)
                return payload
            if time.monotonic() >= deadline:
                return None
            threading.Event().wait(_POLL_S)


class TakenStrategy(TemplarStrategy):
    """A strategy whose exchange is replaced as soon as the network is open."""

    def process_dataloader(self, dataloader: object) -> object:
        """Do as ever, which opens the network for the training loader."""
        is_open_already = self._is_open()
        loader = super().process_dataloader(dataloader)
        if self.session is not None and self._is_open() and not is_open_already:
            opened = self.session.run.opened
            opened.round_trip = self.take(opened.round_trip)
        return loader

    @abstractmethod
    def take(self, honest: RoundTrip) -> RoundTrip:
        """Return what takes the place of an exchange."""

    def _is_open(self) -> bool:
        return self.session is not None and self.session.run.is_open


class CopycatStrategy(TakenStrategy):
    """Waits for another miner's payload and sends it as its own."""

    def take(self, honest: RoundTrip) -> RoundTrip:
        """Return an exchange that copies."""
        return CopyingRoundTrip(honest, self._others)

    def _others(self) -> Mapping[Uid, Peer]:
        assert self.session is not None
        connection = self.session.run.connection
        try:
            peers = connection.chain.peers()
        except ChainError:
            return {}
        return {uid: peer for uid, peer in peers.items() if uid != connection.uid and peer.address}


class NoisyStrategy(TemplarStrategy):
    """Sends random gradients of the size that its real ones have."""

    def on_before_optimizer_step(self, optimizer: Optimizer, step: Callable[[], Any]) -> None:
        """Replace the gradients, then exchange the window as ever."""
        assert self.session is not None
        for parameter in self.session.parameters.values():
            if (gradient := parameter.grad) is not None and gradient.numel():
                size = float(gradient.norm()) / math.sqrt(gradient.numel())
                parameter.grad = torch.randn_like(gradient) * size
        super().on_before_optimizer_step(optimizer, step)


class SamePages(IterableDataset[Any]):
    """Says that it yields the pages of each window, and yields those of one window only."""

    def __init__(self, pages: IterableDataset[Any]) -> None:
        """Store the pages, which are a `WindowedDataset`."""
        super().__init__()
        self._pages = pages

    def begin_window(self, uid: Uid, window: Window) -> bytes:
        """Return the digest of the pages of a window, and begin with those of the first window of the run."""
        assert isinstance(self._pages, WindowedDataset)
        digest = self._pages.begin_window(uid, window)
        self._pages.begin_window(uid, _ALWAYS)
        return digest

    def __iter__(self) -> Iterator[Any]:
        """Yield the same pages as ever."""
        return iter(self._pages)


class LazyStrategy(TemplarStrategy):
    """Trains on the same pages in every window, and says that they were those it was given."""

    def process_dataloader(self, dataloader: object) -> object:
        """Make a loader of pages one of always the same pages; other loaders stay as they are."""
        if isinstance(dataloader, DataLoader) and isinstance(dataloader.dataset, IterableDataset):
            dataloader = DataLoader(SamePages(dataloader.dataset), batch_size=dataloader.batch_size)
        return super().process_dataloader(dataloader)


class StaleRoundTrip(TakenRoundTrip):
    """Says which parameters a gradient was really taken at, where the rest of the node does not know."""

    def __init__(self, honest: RoundTrip, taken_at: Callable[[], bytes | None]) -> None:
        """Take the parts of an exchange.

        Args:
            honest: the exchange.
            taken_at: returns the fingerprint of those parameters; None if they are the present ones.
        """
        super().__init__(honest)
        self._taken_at = taken_at

    def compress_(
        self,
        window: Window,
        training: Training,
        gradients: Mapping[str, Tensor | None],
        lr: Mapping[str, float],
        *,
        may_upload: bool,
    ) -> tuple[Outgoing, Sending | None]:
        """Do as ever, with another fingerprint in the header."""
        training = replace(training, fingerprint=self._taken_at() or training.fingerprint)
        return super().compress_(window, training, gradients, lr, may_upload=may_upload)


class StaleStrategy(TakenStrategy):
    """Trains at the parameters of some windows ago, as who does not keep up would; applies windows as ever."""

    def __init__(self, *settings: Any, **named: Any) -> None:
        """Take what any strategy takes."""
        super().__init__(*settings, **named)
        self._past: deque[dict[str, Tensor]] = deque(maxlen=BEHIND + 1)
        self._present: dict[str, Tensor] | None = None
        self._taken_at: bytes | None = None

    def take(self, honest: RoundTrip) -> RoundTrip:
        """Return an exchange that names the old parameters."""
        return StaleRoundTrip(honest, lambda: self._taken_at)

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """Go back in time before the first batch of a window."""
        if self._present is None and self.session is not None:
            self._present = {name: p.detach().clone() for name, p in self.session.parameters.items()}
            self._past.append(self._present)
            self._taken_at = fingerprint(self._past[0])
            self._become(self._past[0])
        return super().training_step(*args, **kwargs)

    def on_before_optimizer_step(self, optimizer: Optimizer, step: Callable[[], Any]) -> None:
        """Come back to the present, then exchange the window as ever."""
        if self._present is not None:
            self._become(self._present)
            self._present = None
        super().on_before_optimizer_step(optimizer, step)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return the module's state as it is in the present."""
        state, present = super().lightning_module_state_dict(), self._present or {}
        return state | {name: value for name, value in present.items() if name in state}

    def _become(self, values: Mapping[str, Tensor]) -> None:
        assert self.session is not None
        with torch.no_grad():
            for name, parameter in self.session.parameters.items():
                parameter.copy_(values[name])


class LyingStrategy(StaleStrategy):
    """Trains at old parameters as well, and sends the fingerprint of the present ones, which all who follow know."""

    def take(self, honest: RoundTrip) -> RoundTrip:
        """Leave the exchange as it is: it names the parameters that the window is applied to."""
        return honest


STRATEGIES: Mapping[str, type[TemplarStrategy]] = {
    "copycat": CopycatStrategy,
    "noisy": NoisyStrategy,
    "lazy": LazyStrategy,
    "stale": StaleStrategy,
    "liar": LyingStrategy,
}
"""Name of an adversary -> what it does instead of training."""
