"""Checks of a subnet of Bittensor that a node would join: key, chain, clock, register, commitment, start of the run."""

from __future__ import annotations

from collections.abc import Iterator

from templar_pl.config import WindowConfig
from templar_pl.errors import ChainError, ConfigError
from templar_pl.roles.doctor_rows import Row, State
from templar_pl.training import refuse_late_uploads, refuse_short_gathers
from templar_pl.training.outlook import Commitment, OwnPlace, RunSeen, RunStart, SubnetOutlook, SubnetSeen

LATE_BLOCKS = 3.0
"""Lengths of a block that the newest head may be old: chains skip slots."""

AHEAD_S = 2.0
"""Seconds a head may seem to come from the future."""

_RUN_ROWS = ("commitment", "payloads count", "start of the run")
_NEEDS_KEYS = "needs the keys of the own bucket, see `keys`"
_COMMITMENTS = {
    Commitment.NONE: "none yet: `fit` commits to the own bucket once",
    Commitment.SAME: "the own bucket, as it should be: `fit` commits to nothing",
    Commitment.OTHER: "another bucket or read key: `fit` replaces it",
}


def check_subnet(seen: SubnetOutlook, window: WindowConfig) -> Iterator[Row]:
    """Judge what was seen of a subnet.

    Args:
        seen: of it.
        window: length of a window and its exchange.
    """
    yield _wallet(seen)
    if seen.has_local_buckets:
        advice = "lay configs/r2.yaml over the other configs, and put the keys of a bucket into the environment"
        found = "folders of this machine (store.kind: local), where nobody else on the subnet finds its payloads"
        yield Row("buckets", State.WARNING, found, advice)
    subnet = seen.subnet
    if isinstance(subnet, (ChainError, ConfigError)):
        yield Row("chain", State.FAILED, str(subnet))
        yield judge_window(window, None)
        for name in ("newest block", "hotkey", *_RUN_ROWS):
            yield Row(name, State.SKIPPED, "needs the chain, see above")
        return
    where = f"{seen.network} at block {subnet.block}, window {subnet.window}"
    yield Row("chain", State.OK, f"{where}; subnet {seen.netuid} has {subnet.num_registered} registered")
    yield judge_head(subnet.head_age_s, subnet.block_s, subnet.block_s * window.blocks_per_window)
    yield judge_window(window, subnet.block_s)
    yield _hotkey(seen, subnet.place)
    yield from _of_run(subnet)


def judge_head(age_s: float, block_s: float, window_s: float) -> Row:
    """Say whether the newest block is as old as it should be.

    Args:
        age_s: seconds since it was made, by the clock of this machine.
        block_s: seconds a block takes.
        window_s: seconds a window lasts.
    """
    name, found = (
        "newest block",
        f"made {abs(age_s):.1f} s {'ago' if age_s >= 0 else 'from now'} by this machine's clock",
    )
    if -AHEAD_S <= age_s <= LATE_BLOCKS * block_s:
        return Row(name, State.OK, f"{found}; one takes {block_s:g} s")
    state = State.FAILED if abs(age_s) > window_s else State.WARNING
    if age_s < 0:
        return Row(name, state, f"{found}, which is behind", "set the clock by NTP, such as `timedatectl set-ntp true`")
    advice = (
        "if the row `clock` says that this clock is right, choose another endpoint by --bittensor.network wss://...; "
        "else set it by NTP, such as `timedatectl set-ntp true`"
    )
    return Row(name, state, f"{found}: the endpoint lags behind the chain, or the clock is ahead", advice)


def judge_window(window: WindowConfig, block_s: float | None) -> Row:
    """Say whether uploads and gathers fit into a window.

    Args:
        window: length of a window and its exchange.
        block_s: seconds a block takes; None if the chain could not be asked.
    """
    delta_s, gather_s = window.time_window_delta_seconds, window.gather_timeout_seconds
    found = f"payloads land in the {delta_s:g} s after a window, which is gathered for at most {gather_s:g} s"
    try:
        refuse_short_gathers(window)
        if block_s is None:
            return Row("window", State.OK, f"{window.blocks_per_window} blocks; {found}")
        window_s = window.blocks_per_window * block_s
        refuse_late_uploads(delta_s, window_s)
    except ConfigError as error:
        return Row("window", State.FAILED, str(error))
    found = f"{window.blocks_per_window} blocks of {block_s:g} s, {window_s:g} s; {found}"
    if gather_s >= window_s:
        advice = "lower window.gather_timeout_seconds, as all nodes of the run do"
        return Row("window", State.WARNING, f"{found}: one silent bucket costs the next window", advice)
    return Row("window", State.OK, found)


def _wallet(seen: SubnetOutlook) -> Row:
    if isinstance(seen.hotkey, ConfigError):
        return Row("wallet", State.FAILED, str(seen.hotkey))
    lock = f"encrypted, password from {seen.password}" if seen.password else "not encrypted"
    return Row("wallet", State.OK, f"{seen.hotkey_file}, {lock}")


def _hotkey(seen: SubnetOutlook, place: OwnPlace | None) -> Row:
    if isinstance(seen.hotkey, ConfigError):
        return Row("hotkey", State.SKIPPED, "needs the wallet, see above")
    if place is None:
        found = f"{seen.hotkey} is not registered on subnet {seen.netuid} of {seen.network}"
        advice = f"see what it costs, then register it:\n  {seen.cost_command}\n  {seen.register_command}"
        return Row("hotkey", State.FAILED, found, advice)
    permit = "with a validator permit" if place.is_validator else "no validator permit"
    return Row("hotkey", State.OK, f"{seen.hotkey}, uid {place.uid}, stake {place.stake:g}, {permit}")


def _of_run(subnet: SubnetSeen) -> Iterator[Row]:
    run = subnet.run
    if isinstance(run, ConfigError):
        for name in _RUN_ROWS:
            yield Row(name, State.SKIPPED, _NEEDS_KEYS)
        return
    if subnet.place is None:
        for name in _RUN_ROWS[:2]:
            yield Row(name, State.SKIPPED, "needs a registered hotkey, see above")
    else:
        yield Row("commitment", State.OK, _COMMITMENTS[run.commitment])
        yield Row("payloads count", State.OK, _counts(run))
    yield _start(run, subnet)


def _counts(run: RunSeen) -> str:
    known = "all nodes know of this hotkey and its bucket"
    if run.counts_in_s <= 0:
        return f"now: {known}"
    minutes = f"in {run.counts_in_s / 60:.1f} min"
    if run.commitment is Commitment.SAME:
        return f"{minutes}, when {known}"
    return f"{minutes} at the earliest, when {known}, which takes `fit` to commit before"


def _start(run: RunSeen, subnet: SubnetSeen) -> Row:
    name, start = "start of the run", run.start
    if not isinstance(start, RunStart):
        return Row(name, State.FAILED, str(start))
    if start.teller is not None:
        found = f"window {start.window}, by the run file of uid {start.teller} (stake {start.stake:g})"
        return Row(name, State.OK, found)
    found = f"window {start.window}, by --bittensor.start_window"
    if start.is_published:
        return Row(name, State.OK, f"{found} and the run file in the own bucket")
    if start.window < subnet.window:
        advice = f"to begin a new run, give a window to come, such as {subnet.window + 2}"
        return Row(name, State.WARNING, f"{found}, which is {subnet.window - start.window} windows ago", advice)
    return Row(name, State.OK, f"{found}: `fit` publishes a run file in the own bucket, once and for all")
