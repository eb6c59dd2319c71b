"""The command line on a fake subtensor: python -m tests.end_to_end.chain_node ADDRESS fit --config ..."""

from __future__ import annotations

import sys

from templar_pl.cli import TemplarCLI, run_command
from templar_pl.cli_network import NetworkOptions, node_network
from templar_pl.hparams import HParams
from templar_pl.training import Network
from tests.servers.subtensor_remote import RemoteSubstrate


class FakeChainCLI(TemplarCLI):
    """The command line whose connections lead to a server of the tests; all else is as ever."""

    address = ""

    def node_network(self, options: NetworkOptions, hparams: HParams) -> Network:
        return node_network(options, hparams, open_substrate=lambda: RemoteSubstrate(self.address))


if __name__ == "__main__":
    FakeChainCLI.address = sys.argv[1]
    sys.exit(run_command(sys.argv[2:], FakeChainCLI))
