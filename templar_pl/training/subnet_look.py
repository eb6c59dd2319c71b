"""Looks at a subnet of Bittensor as joining would, and writes nothing: neither to the chain nor to a bucket."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from templar_pl.chain import HotkeySigner, verify
from templar_pl.chain.bittensor_chain import BittensorChain
from templar_pl.errors import ConfigError, ObjectMissingError, StoreError
from templar_pl.exchange import Buckets, own_run_file
from templar_pl.protocol.peer import Peer
from templar_pl.training.outlook import Commitment, OwnPlace, RunSeen, RunStart, SubnetSeen
from templar_pl.training.run_start import RunTerms
from templar_pl.units import Hotkey, Uid, Window


def look_at_subnet(
    chain: BittensorChain,
    signer: HotkeySigner,
    terms: RunTerms,
    buckets: Buckets,
    address_of: Callable[[HotkeySigner], str],
) -> SubnetSeen:
    """Return what an open chain tells a node.

    Args:
        chain: to be asked.
        signer: hotkey of the node.
        terms: of the run.
        buckets: of the run.
        address_of: what the node would commit to. May raise `ConfigError`.

    Raises:
        ChainError: the chain does not answer.
    """
    block, neurons = chain.block(), chain.snapshot().neurons
    own = next((neuron for neuron in neurons.values() if neuron.peer.hotkey == signer.hotkey), None)
    try:
        address = address_of(signer)
    except ConfigError as error:
        run: RunSeen | ConfigError = error
    else:
        run = RunSeen(
            commitment=_commitment(chain.peers(), signer.hotkey, address),
            counts_in_s=_counts_in_s(chain, signer.hotkey, address),
            start=_start(chain, signer, terms, buckets),
        )
    return SubnetSeen(
        block=block,
        window=chain.window(),
        block_s=chain.block_s,
        head_age_s=time.time() - chain.timestamp(chain.block()),
        num_registered=len(neurons),
        place=None if own is None else OwnPlace(own.peer.uid, own.stake, own.is_validator),
        run=run,
    )


def _commitment(peers: Mapping[Uid, Peer], hotkey: Hotkey, address: str) -> Commitment:
    committed = next((peer.address for peer in peers.values() if peer.hotkey == hotkey), "")
    if not committed:
        return Commitment.NONE
    return Commitment.SAME if committed == address else Commitment.OTHER


def _counts_in_s(chain: BittensorChain, hotkey: Hotkey, address: str) -> float:
    """Return the seconds until the register that windows go by has a hotkey with its address; 0 if it has."""
    counting = chain.candidates(Window(chain.window() + 1)).values()
    counts = any(peer.hotkey == hotkey and peer.address == address for peer in counting)
    return 0.0 if counts else chain.seconds_to_next_register()


def _start(
    chain: BittensorChain, signer: HotkeySigner, terms: RunTerms, buckets: Buckets
) -> RunStart | ConfigError | StoreError:
    """Return where the run begins, or why nobody could join it."""
    try:
        start = terms.start(chain, buckets)
        return start if start.teller is not None else _own_start(start, signer, terms, buckets)
    except (ConfigError, StoreError) as error:
        return error


def _own_start(start: RunStart, signer: HotkeySigner, terms: RunTerms, buckets: Buckets) -> RunStart:
    """Return a start by the own settings. Raises `ConfigError` if the own bucket says something else already."""
    try:
        own_run_file(buckets.own(), terms.file(start.window), signer.public_key, verify)
    except ObjectMissingError:
        return start
    return replace(start, is_published=True)
