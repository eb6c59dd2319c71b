"""What a node holds of a run while it takes part: connection, chain, exchange, and what goes on in the background."""

from __future__ import annotations

from templar_pl.compression import MomentumCodec
from templar_pl.exchange.retention import Retention
from templar_pl.exchange.window_values import Limits
from templar_pl.protocol.keys import debug_keys, payload_keys
from templar_pl.training.heartbeat import Heartbeat
from templar_pl.training.network import Connection
from templar_pl.training.opening import open_round_trip
from templar_pl.training.patient_chain import PatientChain
from templar_pl.training.phases import PhaseClock
from templar_pl.units import Window

CLOSE_TIMEOUT_S = 5.0  # a thread is at most in one call to a store or chain


class OpenRun:
    """A run that this node takes part in."""

    def __init__(
        self,
        connection: Connection,
        codec: MomentumCodec,
        digest: bytes,
        limits: Limits,
        *,
        phases: PhaseClock,
        debug_windows: int,
    ) -> None:
        """Put the exchange together, and start to tell the chain that this node lives, where it wants to know.

        Args:
            connection: the open network.
            codec: momentum of all parameters.
            digest: 32 bytes, of the settings and parameter shapes all nodes of the run share.
            limits: of the exchange.
            phases: where the time goes.
            debug_windows: windows that objects for debugging stay in the own bucket; 0 for none.
        """
        self.connection = connection
        self.chain = PatientChain(
            connection.chain, phases, patience_s=limits.patience_s, check_interrupt=limits.check_interrupt
        )
        identity = connection.identity(digest)
        self.round_trip = open_round_trip(codec, identity, connection, limits, chain=self.chain)
        payloads, self._debug_keys = (make(connection.run, connection.uid) for make in (payload_keys, debug_keys))
        keep = {payloads: limits.keep_windows, self._debug_keys: debug_windows}
        self._retention, self._writes_debug = Retention(connection.buckets.own(), keep), debug_windows > 0
        self._heartbeat: Heartbeat | None = None
        if connection.agreement is not None:
            self._heartbeat = Heartbeat(connection.agreement.touch, limits.patience_s)
            self._heartbeat.start()

    def note_progress(self) -> None:
        """Note that training goes on, so that the others keep waiting for this node."""
        if self._heartbeat is not None:
            self._heartbeat.progress()

    def tidy(self, window: Window, report: bytes) -> None:
        """Have old objects deleted in the background, and what there is to report of an applied window written."""
        notes = {self._debug_keys.key(window): report} if report and self._writes_debug else {}
        self._retention.request(window, notes)

    def close(self) -> None:
        """Take part no more."""
        if self._heartbeat is not None:
            self._heartbeat.stop(CLOSE_TIMEOUT_S)
        self._retention.close(CLOSE_TIMEOUT_S)
        self.connection.close()
