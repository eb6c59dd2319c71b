"""`python -m templar_pl`: answers `--help` at once, and hands everything else to the command that is named."""

from __future__ import annotations

import os
import sys
from importlib import import_module

HELP = """\
usage: python -m templar_pl COMMAND [--config FILE ...] [options]

Train one language model with PyTorch Lightning on many machines that do not trust each other.

commands
  fit        train: take part in every window of a run
               python -m templar_pl fit --config configs/miner.yaml
  validate   measure the loss of a checkpoint on the held-out pages
               python -m templar_pl validate --config configs/miner.yaml --ckpt_path last
  test       the same under the name of a test
               python -m templar_pl test --config configs/miner.yaml --ckpt_path last
  predict    continue the prompts of a text file, one a line
               python -m templar_pl predict --config configs/miner.yaml --ckpt_path last --data.prompts prompts.txt
  score      judge what miners sent: publish records, a list of peers and checkpoints, set weights
               python -m templar_pl score --config configs/validator.yaml --follow.aggregator aggregator
  aggregate  say what each window of a run consisted of, so that others can follow and catch up; it trains nothing
               python -m templar_pl aggregate --config configs/aggregator.yaml
  doctor     find what would stop a run before it begins: settings, wallet, keys of the bucket, chain, clock, disk
               python -m templar_pl doctor --config configs/miner.yaml
  audit      replay the windows of a run from what is stored, and find the first that does not agree
               python -m templar_pl audit --config configs/miner.yaml
  swarm      a whole network on this machine: miners, a validator and an aggregator, kept alive and judged
               python -m templar_pl swarm --config configs/swarm.yaml --miners 4
  compress-report
             what a window costs a model in bytes, seconds and memory, beside fp32 and the entropy bound
               python -m templar_pl compress-report --model hparams.json

short options of all but the last, after the command
  --local              the toy model and its numbers instead of the full ones (hparams.local.json)
  --wallet.hotkey NAME the key this node signs with; made on first use on a local chain
  --wallet.name NAME   the wallet it is in, for a run on Bittensor (configs/bittensor.yaml, docs/miner.md)
  --netuid N           number of the subnet; 268 if not given
  --device NAME        cpu, cuda or cuda:1; chosen by itself if not given
  --test               apply the payloads of all peers, not only of max_topk_peers of them
  --debug, --trace     a detailed log of this package, or of all libraries too
  --ckpt_path last     resume from the newest checkpoint of this node
  --print_config       show every setting and stop; each can be given as an option:
                         --compression.topk=16  --trainer.max_epochs=400  --schedule.learning_rate=1e-3

`python -m templar_pl COMMAND --help` lists every option of a command (takes some seconds).
"""


COMMANDS = {
    "adversary": ("templar_pl.cli_adversary", "adversary_command"),
    "aggregate": ("templar_pl.cli_aggregate", "aggregate_command"),
    "audit": ("templar_pl.cli_audit", "audit_command"),
    "compress-report": ("templar_pl.roles.compress_report", "run_compress_report"),
    "doctor": ("templar_pl.cli_doctor", "doctor_command"),
    "score": ("templar_pl.cli_score", "score_command"),
    "swarm": ("templar_pl.cli_swarm", "swarm_command"),
}
"""Command that is not Lightning's -> module and function, which takes the other arguments and returns the exit code.

They are imported when they are asked for: torch and Lightning take seconds, and `--help` needs neither."""


def main() -> int:
    """Run the command line and return its exit code."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(HELP)
        return 0
    # Read when torch is loaded. Threads that spin while they wait for one another cost everything where cores are
    # shared: with a second program on two cores a window of the toy model took 2.6 to 11.7 s, sleeping 0.6 to 1.1 s.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if arguments[0] in COMMANDS:
        module, function = COMMANDS[arguments[0]]
        return getattr(import_module(module), function)(arguments[1:])
    from templar_pl.cli import run_command  # noqa: PLC0415 - as COMMANDS says

    return run_command(arguments)


if __name__ == "__main__":
    sys.exit(main())
