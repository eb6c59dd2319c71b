"""Checks of the run that a node would join: its numbers, its chain, its pages, its checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from templar_pl.config import PagesConfig, WindowConfig
from templar_pl.data import load_tokenizer
from templar_pl.errors import ConfigError
from templar_pl.roles.doctor_rows import Row, State
from templar_pl.roles.doctor_subnet import check_subnet
from templar_pl.training import Network, TemplarDataModule, refuse_small_vocabulary
from templar_pl.training.outlook import SubnetOutlook

_NAMED = 3
"""Other runs that are named in one line."""


def check_numbers(run_dir: Path, name: str) -> Iterator[Row]:
    """Look for runs of the same name with other numbers.

    Args:
        run_dir: folder of the run, named `NAME-DIGEST`; it need not be there.
        name: of the run, without the digest of its numbers.
    """
    digest = run_dir.name.removeprefix(f"{name}-")
    # A name may go on behind the dash: `local-2-0a80d816` is a run called `local-2`.
    others = sorted(
        path.name
        for path in run_dir.parent.glob(f"{name}-*")
        if path != run_dir and len(path.name.removeprefix(f"{name}-")) == len(digest) and path.is_dir()
    )
    found = f"their digest {digest} makes the run {run_dir.name}"
    if others and not run_dir.is_dir():
        listed = ", ".join(others[:_NAMED]) + (", ..." if len(others) > _NAMED else "")
        advice = (
            "use the numbers of the run that is meant (hparams.json, --local, options), or give another --store.run"
        )
        found += f", which is not there; others of that name have other numbers: {listed}"
        yield Row("hparams digest", State.WARNING, found, advice)
    else:
        yield Row("hparams digest", State.OK, f"{found}{'' if run_dir.is_dir() else ', a new one'}")


def check_chain(network: Network, digest: bytes, window: WindowConfig) -> Iterator[Row]:
    """Look at the chain and at the own hotkey there. Raises as joining would, for a digest of another run too.

    Args:
        network: of the run.
        digest: 32 bytes, of all that nodes must share.
        window: length of a window and its exchange.
    """
    seen = network.look(digest, window)
    if isinstance(seen, SubnetOutlook):
        yield from check_subnet(seen, window)
        return
    if seen.peers is None:
        yield Row("chain", State.OK, f"{seen.chain} is made by the first node that joins")
    else:
        yield Row("chain", State.OK, f"{seen.chain} is of this run, {len(seen.peers)} registered")
    if seen.hotkey is None:
        yield Row("hotkey", State.OK, f"{seen.hotkey_file} is made and registered when the node joins")
        return
    uid = next((uid for uid, peer in (seen.peers or {}).items() if peer.hotkey == seen.hotkey), None)
    yield Row("hotkey", State.OK, f"{seen.hotkey}, {'registered when it joins' if uid is None else f'uid {uid}'}")


def check_pages(data: TemplarDataModule) -> Iterator[Row]:
    """See that there is text to train on. Raises `ConfigError` if there is not."""
    pages = data.look()
    if pages is not None:
        yield Row("pages", State.OK, f"{pages} to train on")
        return
    yield Row("pages", State.OK, "of the Python standard library, built in some seconds at the first start")


def check_tokenizer(pages: PagesConfig, vocab_size: int) -> Iterator[Row]:
    """Load the tokenizer if it is here. Raises `ConfigError` if the model is too small for it.

    Args:
        pages: names it.
        vocab_size: rows of the model's embedding.
    """
    name = pages.tokenizer_name
    try:
        tokenizer = load_tokenizer(name, offline=True)
    except ConfigError as error:
        advice = "if it is a name on the Hugging Face hub, `fit` fetches it; else set pages.tokenizer_name"
        yield Row("tokenizer", State.WARNING, f"not on this machine yet: {error}", advice)
        return
    refuse_small_vocabulary(tokenizer, name, vocab_size)
    yield Row("tokenizer", State.OK, f"{name}, {tokenizer.vocab_size} tokens; the model has {vocab_size}")


def check_checkpoint(ckpt_path: str | None, folder: Path) -> Iterator[Row]:
    """Say where training goes on.

    Args:
        ckpt_path: what `fit` is given.
        folder: of the checkpoints of this node; it need not be there.
    """
    if ckpt_path is None:
        yield Row("checkpoint", State.OK, "none asked for: training starts anew")
    elif ckpt_path == "last":
        is_there = any(folder.glob("window-*.ckpt"))
        found = f"goes on from the newest in {folder}" if is_there else f"none in {folder} yet: training starts anew"
        yield Row("checkpoint", State.OK, found)
    elif Path(ckpt_path).is_file():
        yield Row("checkpoint", State.OK, f"goes on from {ckpt_path}")
    else:
        advice = "name a file by --ckpt_path, or `last` for the newest of this node"
        yield Row("checkpoint", State.FAILED, f"there is no file {ckpt_path}", advice)
