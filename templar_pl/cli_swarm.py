"""`swarm` on the command line: the options of `fit`, which all nodes get, and those of the swarm."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import fields, replace
from pathlib import Path

from jsonargparse import ActionYesNo
from lightning.pytorch.cli import LightningArgumentParser
from rich.console import Console

from templar_pl.chain import verify
from templar_pl.cli import set_up_log
from templar_pl.cli_roles import RoleCLI, run_role
from templar_pl.errors import ConfigError
from templar_pl.roles.node import Node
from templar_pl.roles.supervisor import Command, Program, RestartPolicy
from templar_pl.roles.swarm import Node as SwarmNode
from templar_pl.roles.swarm import Swarm, exit_code, run_swarm
from templar_pl.roles.swarm_folder import MARK, own_folder
from templar_pl.roles.swarm_history import Watched, Watcher
from templar_pl.roles.swarm_plan import ADVERSARIES, SENDERS, Kind, SwarmConfig
from templar_pl.roles.swarm_table import Lines, LiveTable, Screen, show_verdict
from templar_pl.roles.swarm_verdict import Verdict, as_json
from templar_pl.training import LocalNetwork, LocalView

log = logging.getLogger(__name__)

LOGS = "logs"

_COMMANDS = {
    Kind.MINER: ("fit",),
    Kind.VALIDATOR: ("score",),
    Kind.AGGREGATOR: ("aggregate",),
    **{kind: ("adversary", str(kind)) for kind in ADVERSARIES},
}
_MORE: Mapping[Kind, tuple[str, ...]] = dict.fromkeys(
    (Kind.COPYCAT, Kind.NOISY), ("--trainer.limit_train_batches", "1")
)
"""Who does not use what it trains trains little, to save what training costs."""

_FLAGS = {
    "validator": "Whether somebody scores.",
    "aggregator": "Whether somebody writes down what each window was.",
    "fresh": "Delete the folder of an earlier swarm first.",
    "json": "Print the verdict as JSON.",
}
_REPEATED = {
    "kill": "Kill a node: UID@WINDOW, or UID@WINDOW:WINDOWS to hold it down so long. May be given several times.",
    "join": "Start honest miners later: COUNT@WINDOW. May be given several times.",
}
_WIDTH = 140
_KEPT_REPORTS = 10**6


class SwarmCLI(RoleCLI):
    """Run a whole network on this machine: miners, a validator and an aggregator as processes."""

    command = "swarm"
    own_options = tuple(field.name for field in fields(SwarmConfig))

    def add_own_options(self, parser: LightningArgumentParser) -> None:
        """Add the options of `SwarmConfig`, at the top level."""
        parser.add_class_arguments(SwarmConfig, None, skip={*_FLAGS, *_REPEATED})
        for name, words in _FLAGS.items():
            parser.add_argument(f"--{name}", action=ActionYesNo, default=getattr(SwarmConfig, name), help=words)
        for name, words in _REPEATED.items():
            parser.add_argument(f"--{name}", action="append", type=str, default=[], help=words)

    def node(self, check_interrupt: Callable[[], None]) -> Node:
        """See `RoleCLI.node`; what follows from the options of the swarm is laid over those of its nodes."""
        config = SwarmConfig(**{name: self.config[name] for name in self.own_options})
        if self.config["chain.pace"] != "wall" or self.config["store.kind"] != "local":
            raise ConfigError("a swarm needs chain.pace wall and store.kind local, as in configs/swarm.yaml")
        self.config["chain.seconds_per_block"] = config.seconds_per_window / self.config["window.blocks_per_window"]
        self.config["follow.aggregator"] = str(Kind.AGGREGATOR) if config.aggregator else None
        self.config["follow.validator"] = str(Kind.VALIDATOR) if config.validator else None
        self.config["recovery.debug_windows"] = _KEPT_REPORTS  # the table and the verdict are made of them
        node = super().node(check_interrupt)
        return replace(node, options={"config": config, "settings": self._settings_of_nodes()})

    def _settings_of_nodes(self) -> str:
        """Return the options of every node as YAML: those that were given, without the swarm's own."""
        given = self.config.clone()
        for name in (*self.own_options, "config"):
            given.pop(name, None)
        return self.parser.dump(given, skip_validation=True)


def swarm_command(arguments: Sequence[str]) -> int:
    """Run a swarm and say what became of it; return 0, 1 if that is bad, 2 for wrong settings, 130 or 143.

    Args:
        arguments: of the command line.
    """
    return run_role(arguments, SwarmCLI, run)


def run(node: Node) -> int:
    """Make a folder, a chain and keys, run the swarm, and print the verdict."""
    config, network = node.options["config"], node.network
    assert isinstance(config, SwarmConfig)
    assert isinstance(network, LocalNetwork)
    root, console = network.run_dir.parents[1], Console(stderr=True)
    set_up_log(console, debug=False, trace=False)
    digest = node.replica().digest
    with own_folder(root, fresh=config.fresh) as lock:
        (root / MARK).write_text(node.options["settings"])
        view = network.found(digest, node.hparams.window, nodes=_nodes(config), wait_s=config.start_s)
        screen: Screen = LiveTable(console) if console.is_terminal else Lines(console)
        with closing(view.chain):
            verdict, ended_by = run_swarm(_swarm(config, root, view, digest, screen, lock), screen)
        if verdict is None:
            log.error("no window was counted; %s has a log of every node", root / LOGS)
        else:
            _print(verdict, root, json=config.json)
        return exit_code(verdict, ended_by)


def _nodes(config: SwarmConfig) -> dict[str, bool | None]:
    """Return the name of each node and whether it sends; None for those who register when they come."""
    members = config.members()
    return {member.name: member.kind in SENDERS if member.joins_at is None else None for member in members}


def _swarm(config: SwarmConfig, root: Path, view: LocalView, digest: bytes, screen: Screen, lock: int) -> Swarm:
    """Put the swarm together; nothing is started."""
    (root / LOGS).mkdir()
    environment = {**os.environ, "OMP_NUM_THREADS": str(config.threads)}
    nodes = []
    for member in config.members():
        command = Command(
            module="templar_pl",
            arguments=[
                *_COMMANDS[member.kind],
                *("--config", str(root / MARK), "--wallet.hotkey", member.name),
                *_MORE.get(member.kind, ()),
            ],
            log_file=root / LOGS / f"{member.name}.log",
            environment=environment,
            keeps_open=(lock,),
        )
        nodes.append(SwarmNode(member, view.hotkeys[member.name], Program(member.name, command, RestartPolicy())))
    watched = Watched(
        run=view.run,
        digest=digest,
        chain=view.chain,
        buckets=view.buckets,
        verify=verify,
        aggregator=view.hotkeys.get(Kind.AGGREGATOR),
        validator=view.hotkeys.get(Kind.VALIDATOR),
    )
    return Swarm(config, nodes, Watcher(watched), screen)


def _print(verdict: Verdict, root: Path, *, json: bool) -> None:
    """Print a verdict to standard output, and keep it in the folder of the swarm."""
    (root / "verdict.json").write_text(as_json(verdict) + "\n")
    if json:
        sys.stdout.write(as_json(verdict) + "\n")
        return
    show_verdict(verdict, Console(file=sys.stdout, width=None if sys.stdout.isatty() else _WIDTH, highlight=False))
