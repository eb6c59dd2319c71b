"""The command line on a fake subtensor: python -m tests.end_to_end.chain_node ADDRESS fit --config ..."""

from __future__ import annotations

import sys

from templar_pl.cli import TemplarCLI, run_command
from templar_pl.cli_aggregate import AggregateCLI, aggregate_command
from templar_pl.cli_audit import AuditCLI, audit_command
from templar_pl.cli_network import NetworkOptions, node_network
from templar_pl.cli_score import ScoreCLI, score_command
from templar_pl.hparams import HParams
from templar_pl.training import Network
from tests.servers.subtensor_remote import RemoteSubstrate


class FakeChain(TemplarCLI):
    """The command line whose connections lead to a server of the tests; all else is as ever."""

    address = ""

    def node_network(self, options: NetworkOptions, hparams: HParams) -> Network:
        return node_network(options, hparams, open_substrate=lambda: RemoteSubstrate(self.address))


class FakeChainAggregate(FakeChain, AggregateCLI):
    """`aggregate` there."""


class FakeChainScore(FakeChain, ScoreCLI):
    """`score` there."""


class FakeChainAudit(FakeChain, AuditCLI):
    """`audit` there."""


def main(address: str, arguments: list[str]) -> int:
    FakeChain.address = address
    command, *options = arguments
    if command == "aggregate":
        return aggregate_command(options, FakeChainAggregate)
    if command == "score":
        return score_command(options, FakeChainScore)
    if command == "audit":
        return audit_command(options, FakeChainAudit)
    return run_command(arguments, FakeChain)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
