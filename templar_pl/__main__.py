"""`python -m templar_pl`: answers `--help` at once, and hands everything else to the command that is named."""

from __future__ import annotations

import os
import sys

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
               python -m templar_pl score --config configs/miner.yaml --config configs/validator.yaml
  aggregate  say what each window of a run consisted of, so that others can follow and catch up; it trains nothing
               python -m templar_pl aggregate --config configs/aggregator.yaml
  doctor     find what would stop a run before it begins: settings, wallet, keys of the bucket, chain, clock, disk
               python -m templar_pl doctor --config configs/miner.yaml
  audit      replay the windows of a run from what is stored, and find the first that does not agree
               python -m templar_pl audit --config configs/miner.yaml
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


def main() -> int:
    """Run the command line and return its exit code."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(HELP)
        return 0
    # Read when torch is loaded. Threads that spin while they wait for one another cost everything where cores are
    # shared: with a second program on two cores a window of the toy model took 2.6 to 11.7 s, sleeping 0.6 to 1.1 s.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Imported here: torch and Lightning take seconds, and `--help` needs neither.
    if arguments[0] == "compress-report":
        from templar_pl.roles.compress_report import run_compress_report  # noqa: PLC0415 - see above

        return run_compress_report(arguments[1:])
    if arguments[0] == "score":
        from templar_pl.cli_score import score_command  # noqa: PLC0415 - see above

        return score_command(arguments[1:])
    if arguments[0] == "doctor":
        from templar_pl.cli_doctor import doctor_command  # noqa: PLC0415 - see above

        return doctor_command(arguments[1:])
    if arguments[0] == "audit":
        from templar_pl.cli_audit import audit_command  # noqa: PLC0415 - see above

        return audit_command(arguments[1:])
    if arguments[0] == "aggregate":
        from templar_pl.cli_aggregate import aggregate_command  # noqa: PLC0415 - see above

        return aggregate_command(arguments[1:])
    from templar_pl.cli import run_command  # noqa: PLC0415 - see above

    return run_command(arguments)


if __name__ == "__main__":
    sys.exit(main())
