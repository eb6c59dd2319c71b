"""One fit on one node: the run's windows tied to the parameters that are trained.

Knows parameters, but neither optimizer nor trainer; the strategy hands those in as callables.
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import Parameter

from templar_pl.compression import MAX_GRADIENT, MomentumCodec
from templar_pl.errors import ChainError, OutOfSyncError, PayloadError, StoreError
from templar_pl.exchange.window_values import Collected, Outgoing, Training
from templar_pl.protocol.fingerprint import fingerprint
from templar_pl.training.phases import Phase
from templar_pl.training.report import Norms, Tally, WindowReport, measure_norms
from templar_pl.training.window_run import WindowRun
from templar_pl.units import Uid, Window

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Exchanged:
    """One window between its gradient and its update."""

    own: Outgoing | None
    failure: str
    """Why the own payload is not part of the window; empty if it is."""

    collected: Collected
    parameters_before: bytes
    norms: Norms
    out_of_sync: tuple[Uid, ...]
    """Peers whose gradient was taken at other parameters than ours."""


class Session:
    """Trains, sends and receives window after window."""

    def __init__(
        self,
        parameters: Mapping[str, Parameter],
        buffers: Callable[[], Mapping[str, Tensor]],
        codec: MomentumCodec,
        run: WindowRun,
    ) -> None:
        """Store the parts.

        Args:
            parameters: what is trained and exchanged, in wire order.
            buffers: returns what else training changes in the model; each node has its own.
            codec: momentum of the parameters.
            run: the node's way through the windows.
        """
        self.parameters, self.run = dict(parameters), run
        self.tally = Tally()
        self.report: WindowReport | None = None
        """The last window applied by training; None before the first."""

        self.buffers_at_start: dict[str, Tensor] = {}
        """The buffers as they were when the window in training began; empty outside of a window."""

        self._codec, self._buffers = codec, buffers
        self._begun: tuple[Uid, Window] | None = None
        self._longest_batch_s = 0.0
        self._batch_since = math.nan

    def begin(self, max_applied: int | None) -> tuple[Uid, Window] | None:
        """Catch up and begin a window: whose pages of which window to train on; None when the run is over.

        Asked again before the first batch of a window, it answers the same. Everything random in the window follows
        from run, uid and window, so that it can be trained again.
        """
        if self._begun is None or self.tally.batches > 0:
            window = self.run.next_to_train(max_applied)
            self.tally = Tally()
            self._begun = None if window is None else (self.run.connection.uid, window)
        if self._begun is None:
            return None
        self.buffers_at_start = {name: buffer.detach().clone() for name, buffer in self._buffers().items()}
        self._batch_since = time.monotonic()
        self.seed(self._begun[1])
        return self._begun

    def seed(self, window: Window) -> None:
        """Make what is random from here on that of a window of this node."""
        torch.manual_seed(_seed(self.run.connection.run, self.run.connection.uid, window))

    def count_batch(self, loss: Tensor, tokens: Tensor | int) -> None:
        """Count a batch that was trained, and tell the chain that this node lives."""
        self.tally.add(loss, tokens)
        now = time.monotonic()
        self._longest_batch_s = max(self._longest_batch_s, now - self._batch_since)
        self._batch_since = now
        self.run.note_progress()

    def has_time(self, fetched: int) -> bool:
        """Whether another batch fits into the window after so many that were fetched.

        The trainer fetches one batch ahead, so the last one fetched is still to be trained. A window of the past has
        the batches it had.
        """
        if self.run.rebuilds is not None:
            return fetched < self.run.rebuilds.header.batches
        return self.run.seconds_left() > 2 * self._longest_batch_s

    def exchange(self, lr: Mapping[str, float], pages: bytes) -> Exchanged:
        """Send the window's gradient and set every parameter's gradient to the update all nodes agree on.

        A node that turns out to be lost has no gradients then, so that a step changes as little as possible.

        Args:
            lr: learning rate of every parameter.
            pages: 32 bytes, digest of the pages that were trained on.

        Raises:
            OutOfSyncError: the window cannot be applied, and this node cannot catch up.
        """
        self.run.phases.enter(Phase.COMPRESSION)
        parameters_before = fingerprint(self.parameters)
        gradients = self._gradients()
        loss = self.tally.loss
        training = Training(
            pages, parameters_before, loss if math.isfinite(loss) else 0.0, self.tally.batches, self.tally.tokens
        )
        own, failure = self._send(gradients, lr, training)
        norms = measure_norms(
            [g for g in gradients.values() if g is not None],
            list(self.parameters.values()),
            list(self._codec.momentum.values()),
        )
        # Nobody needs the gradients any more.
        collected, update = self.run.receive(own, parameters_before, out=gradients)
        strangers = self._strangers(collected, parameters_before)
        if self.run.lost:
            self.drop_gradients()
        else:
            self.set_gradients(update)
        failure = what_became_of_own(collected, self.run.connection.uid, failure)
        return Exchanged(own, failure, collected, parameters_before, norms, strangers)

    def set_gradients(self, update: Mapping[str, Tensor]) -> None:
        """Put an update where the optimizer takes it from."""
        for name, parameter in self.parameters.items():
            parameter.grad = update[name].to(parameter.dtype)

    def drop_gradients(self) -> None:
        """Leave the optimizer nothing to step with."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def finish(self, exchanged: Exchanged, lr: float) -> None:
        """Count the window as applied, once the optimizer has stepped, and report on it."""
        window, rebuilt = self.run.window, self.run.rebuilds is not None
        self._check_aggregate(exchanged.collected)
        self.run.total_tokens += self.tally.tokens
        self.run.finish()
        self.buffers_at_start, self._begun = {}, None
        collected, own = exchanged.collected, exchanged.own
        self.report = WindowReport(
            window=window,
            applied=self.run.applied,
            tally=self.tally,
            total_tokens=self.run.total_tokens,
            peers_tokens=sum(p.header.tokens for p in collected.payloads.values()),
            learning_rate=lr,
            parameters_before=exchanged.parameters_before,
            norms=exchanged.norms,
            participants=len(collected.settlement.payloads),
            peers=tuple(collected.payloads),
            skipped={uid: reason_of(error) for uid, error in collected.skipped.items()},
            out_of_sync=exchanged.out_of_sync,
            put_failed=exchanged.failure,
            has_manifest=collected.standing is not None if self.run.follows else None,
            gone="" if self.run.lost else collected.gone,
            aggregates=self.run.receiver.aggregates,
            lost=self.run.lost,
            resynchronisations=self.run.resynchronisations,
            rebuilt=rebuilt,
            bytes_up=0 if own is None or rebuilt else len(own.data),
            bytes_down=collected.bytes_down,
            seconds=self.run.phases.stop(),
        )
        self.run.tidy(window, self.report.to_json())

    def _check_aggregate(self, collected: Collected) -> None:
        """Compare the parameters with what the manifest says they are, where its aggregate was applied."""
        standing = collected.standing
        if self.run.lost or not collected.gone or standing is None:
            return
        after, mine = standing.manifest.after, fingerprint(self.parameters)
        if after != mine:
            self.run.catch_up.distrust_aggregate(standing.manifest.window)
            says = f"its manifest says {after.hex()[:16]}"
            self.run.lose(f"the aggregate leads to parameters {mine.hex()[:16]}, {says}")

    def _strangers(self, collected: Collected, parameters_before: bytes) -> tuple[Uid, ...]:
        """Return the peers with other parameters; they are no news to a node that is lost."""
        if self.run.lost:
            return ()
        try:
            return out_of_sync(collected, parameters_before)
        except OutOfSyncError as error:
            self.run.lose(str(error))
            return ()

    def _send(
        self, gradients: Mapping[str, Tensor | None], lr: Mapping[str, float], training: Training
    ) -> tuple[Outgoing | None, str]:
        try:
            return self.run.send(gradients, lr, training), ""
        except (StoreError, ChainError) as error:
            log.warning("window %d: own payload not sent, kept in the momentum: %s", self.run.window, error)
            return None, str(error)

    def _gradients(self) -> dict[str, Tensor | None]:
        """Return the gradients; none at all if one has diverged, since it would poison the momentum for ever."""
        gradients = {name: parameter.grad for name, parameter in self.parameters.items()}
        bad = [name for name, size in self._codec.largest(gradients).items() if not size <= MAX_GRADIENT]
        if not bad:
            return gradients
        log.warning(
            "window %d: the gradient of %s has diverged; none of it enters the momentum", self.run.window, bad[0]
        )
        return dict.fromkeys(gradients)


def out_of_sync(collected: Collected, own_fingerprint: bytes) -> tuple[Uid, ...]:
    """Return the peers whose gradient was taken at other parameters than ours.

    Raises:
        OutOfSyncError: at least two peers agree with each other, and none with this node; where a manifest says whose
            parameters count, peers do not.
    """
    prints = {uid: payload.header.fingerprint for uid, payload in collected.payloads.items()}
    strangers = tuple(uid for uid, fingerprint in prints.items() if fingerprint != own_fingerprint)
    window = collected.settlement.window
    is_alone = len({prints[uid] for uid in strangers}) == 1 and own_only(prints, own_fingerprint)
    if collected.standing is None and len(strangers) >= 2 and is_alone:
        raise OutOfSyncError(
            f"window {window}: the parameters of this node differ from those of all its {len(strangers)} peers, who "
            "agree: start from a checkpoint of one of them"
        )
    if strangers:
        log.warning("window %d: uid %s trained at other parameters than this node", window, strangers)
    return strangers


def what_became_of_own(collected: Collected, uid: Uid, failure: str) -> str:
    """Return why the own payload is not part of a window; empty if it is.

    Args:
        collected: what the window consists of.
        uid: of this node.
        failure: why it could not be sent; empty if it was.
    """
    if uid in collected.payloads:
        return ""  # maybe it had landed, and only the answer was lost
    if failure or collected.standing is None:
        return failure
    if uid in collected.settlement.payloads:
        return "the manifest lists another one of this node, which cannot be had"
    error = collected.skipped.get(uid)
    return "the manifest does not list it" if error is None else reason_of(error)


def reason_of(error: PayloadError | StoreError) -> str:
    """Return why a peer is left out, without its name."""
    return error.reason if isinstance(error, PayloadError) else str(error)


def own_only(prints: Mapping[Uid, bytes], own_fingerprint: bytes) -> bool:
    """Whether at most one payload, our own, was taken at our parameters."""
    return sum(fingerprint == own_fingerprint for fingerprint in prints.values()) <= 1


def _seed(run: str, uid: Uid, window: Window) -> int:
    """Draw the seed of a window's randomness, 0..2**63 - 1, from what identifies it."""
    return int.from_bytes(hashlib.sha256(f"{run}/{uid}/{window}".encode()).digest()[:8], "little") >> 1
