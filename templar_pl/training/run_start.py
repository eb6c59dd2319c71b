"""Where a run on a subnet began: a leader's run file tells."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version

from templar_pl.chain import verify
from templar_pl.chain.bittensor_chain import BittensorChain
from templar_pl.chain.metagraph_register import Neuron
from templar_pl.errors import ConfigError, DocumentError, ObjectMissingError, StoreError, TransientError
from templar_pl.exchange import Buckets, fetch_run_file
from templar_pl.protocol import RunFile
from templar_pl.training.outlook import RunStart
from templar_pl.units import Uid, Window

MAX_LEADERS = 5
"""Validators whose run file is asked for, by stake, where no leader is named."""


@dataclass(frozen=True, kw_only=True)
class RunTerms:
    """What a run is, and who says where it began."""

    name: str
    """First part of the keys of its run file."""

    digest: bytes
    """32 bytes, of the settings and parameter shapes all nodes share."""

    netuid: int
    blocks_per_window: int
    start_window: int | None
    """Where it begins, by the own settings."""

    leader: int | None
    """Uid whose word counts; None for the validators with the largest stakes."""

    def file(self, start_window: Window) -> RunFile:
        """Return the run file of this run, if it began with a window."""
        return RunFile(
            run=self.name,
            digest=self.digest,
            netuid=self.netuid,
            start_window=start_window,
            blocks_per_window=self.blocks_per_window,
            version=version("templar_pl"),
        )

    def start(self, chain: BittensorChain, buckets: Buckets) -> RunStart:
        """Return where the run began, by the own settings or by the first run file that a leader has.

        Args:
            chain: an open one.
            buckets: of the run.

        Raises:
            ConfigError: nobody tells, or the leader's run has other settings.
            StoreError: a bucket that may tell does not answer.
        """
        if self.start_window is not None:
            return RunStart(Window(self.start_window), None)
        missing: list[str] = []
        for uid, neuron in _leaders(chain, self.leader):
            try:
                told = fetch_run_file(buckets, neuron.peer, self.name, verify)
            except TransientError:
                raise  # it may well have one: an outage must not decide whose word counts
            except (DocumentError, StoreError) as error:
                missing.append(f"uid {uid}: {'has none' if isinstance(error, ObjectMissingError) else error}")
                continue
            self._refuse_other_settings(uid, told)
            return RunStart(told.start_window, uid, neuron.stake)
        asked = "; ".join(missing) or "no validator of the subnet has committed a bucket"
        raise ConfigError(
            f"nobody tells where run {self.name} began ({asked}). To begin it, give --bittensor.start_window a window "
            f"to come, such as {chain.window() + 2}; to join it, name by --bittensor.leader who publishes its run file"
        )

    def _refuse_other_settings(self, uid: Uid, told: RunFile) -> None:
        if (told.digest, told.netuid, told.blocks_per_window) != (self.digest, self.netuid, self.blocks_per_window):
            raise ConfigError(
                f"the run file of uid {uid} is of a run with other settings: {_words(told)}; this node has "
                f"{_words(self.file(told.start_window))}. Use the numbers of the run, or another --store.run"
            )


def _leaders(chain: BittensorChain, leader: int | None) -> list[tuple[Uid, Neuron]]:
    """Return whose word is asked for, the first one's first."""
    neurons = chain.snapshot().neurons
    if leader is not None:
        if leader not in neurons:
            raise ConfigError(f"bittensor.leader must be a uid of the subnet, which has none of number {leader}")
        return [(Uid(leader), neurons[Uid(leader)])]
    able = [(uid, neuron) for uid, neuron in neurons.items() if neuron.is_validator and neuron.peer.address]
    return sorted(able, key=lambda item: (-item[1].stake, item[0]))[:MAX_LEADERS]


def _words(run_file: RunFile) -> str:
    return (
        f"digest {run_file.digest.hex()[:16]}, subnet {run_file.netuid}, {run_file.blocks_per_window} blocks a window"
    )
