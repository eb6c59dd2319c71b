"""The command line in one process: what it accepts, what it refuses, what wins over what."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from templar_pl.__main__ import main
from templar_pl.chain import BittensorConfig, LocalChainConfig
from templar_pl.cli import TemplarCLI, choose_device, run_command
from templar_pl.cli_network import NetworkOptions, node_network
from templar_pl.command_line import hparams_files
from templar_pl.errors import ConfigError
from templar_pl.exchange import R2Options
from templar_pl.hparams import SECTIONS, HParams, load_hparams
from templar_pl.node_config import FollowConfig, StoreConfig, WalletConfig
from templar_pl.training import Network
from tests.end_to_end.node import TINY

pytestmark = pytest.mark.usefixtures("own_folder_and_log")

ROOT = Path(__file__).parents[1]
MINER = str(ROOT / "configs" / "miner.yaml")


class LocalAllTheSame(TemplarCLI):
    """The command line on a local chain, whichever network its options name; all else is as ever."""

    def node_network(self, options: NetworkOptions, hparams: HParams) -> Network:
        return node_network(replace(options, bittensor=replace(options.bittensor, network=None)), hparams)


def printed_config(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    with pytest.raises(SystemExit) as stop:
        run_command(["fit", *arguments, "--print_config"])
    assert stop.value.code in (0, None)
    return yaml.safe_load(capsys.readouterr().out)


def test_help_answers_at_once_without_torch_and_lists_the_commands() -> None:
    code = (
        "import sys, runpy; sys.argv = ['templar_pl', '--help']\n"
        "try: runpy.run_module('templar_pl', run_name='__main__')\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "slow = {'torch', 'lightning', 'transformers', 'jsonargparse'} & sys.modules.keys()\n"
        "sys.exit(f'imported {slow}' if slow else 0)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )

    assert result.returncode == 0, result.stderr
    for command in ("fit", "validate", "test", "predict"):
        assert f"python -m templar_pl {command} --config configs/miner.yaml" in result.stdout


def test_no_command_is_a_call_for_help(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["templar_pl"])

    assert main() == 0
    assert "usage:" in capsys.readouterr().out


def test_the_numbers_of_the_network_are_the_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    config = printed_config(capsys)

    assert config["llama"]["hidden_size"] == 2048
    assert config["compression"]["topk"] == 32
    assert config["netuid"] == 268


def test_local_lays_the_toy_model_over_them(capsys: pytest.CaptureFixture[str]) -> None:
    config = printed_config(capsys, "--local")

    toy = load_hparams(*hparams_files(None, local=True))
    assert config["llama"]["hidden_size"] == toy.llama.hidden_size
    assert config["compression"]["topk"] == 32


def test_a_config_wins_over_the_numbers_and_the_command_line_over_both(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "own.yaml").write_text("local: true\ncompression: {topk: 8, chunk_size: 16}\n")

    config = printed_config(capsys, "--config", "own.yaml", "--compression.topk=16")

    assert config["compression"]["topk"] == 16
    assert config["compression"]["chunk_size"] == 16
    assert config["pages"]["tokenizer_name"] == "bytes"


def test_the_command_line_can_take_local_back(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed_config(capsys, "--config", MINER, "--no_local")["llama"]["hidden_size"] == 2048


def test_another_file_of_numbers_can_be_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    numbers = json.loads((ROOT / "hparams.json").read_text()) | {"topk_compression": 5}
    (tmp_path / "mine.json").write_text(json.dumps(numbers))

    assert printed_config(capsys, "--hparams=mine.json")["compression"]["topk"] == 5


def test_every_knob_is_documented_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run_command(["fit", "--help"])
    text = " ".join(capsys.readouterr().out.split())

    assert "Coefficients sent per chunk; 1..chunk_size ** 2." in text
    for section in SECTIONS:
        assert f"--{section}." in text


OWN_COMMAND = {"aggregator.yaml": "aggregate", "swarm.yaml": "swarm", "validator.yaml": "score"}
"""Which command a config is for, if not `fit`."""


def test_every_config_of_the_project_loads(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    configs = sorted((ROOT / "configs").glob("*.yaml"))

    assert OWN_COMMAND.keys() < {path.name for path in configs}
    for path in configs:
        command = OWN_COMMAND.get(path.name, "fit")
        monkeypatch.setattr(sys, "argv", ["templar_pl", command, "--config", str(path), "--print_config"])
        with pytest.raises(SystemExit) as stop:
            main()
        assert stop.value.code in (0, None), path
        assert yaml.safe_load(capsys.readouterr().out)["trainer"]["strategy"] == "templar", path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--compression.topk=0"], r"topk must be a whole number in 1..4096, got 0"),
        (["--schedule.learning_rate=7"], "learning_rate must be in 1e-09..1, got 7"),
        (["--device=abacus"], "device must be cpu, cuda or cuda:N, got 'abacus'"),
        (["--chain.pace=gallop"], "lockstep"),
        (["--compression.tpk=3"], "tpk"),
        (["--llama.vocab_size=100"], "vocab_size"),
        (["--data.page_set.folder=nowhere"], "nowhere"),
        (["--wallet.hotkey=../alice"], "hotkey"),
        (["--config=absent.yaml"], "absent.yaml"),
        (["--store.run=Bad Name"], "run must be 1 to 40 of a-z"),
        (["--store.kind=r3"], "kind"),
        (["--store.kind=r2"], "set TEMPLAR_R2_ACCOUNT_ID"),
        (["--r2.retry_for_s=-1"], "retry_for_s must be in 0..3600, got -1"),
    ],
)
def test_a_wrong_value_says_what_is_allowed_and_stops_before_the_first_window(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    try:
        code = run_command(["fit", "--config", MINER, *TINY, "--trainer.max_epochs=1", *arguments])
    except SystemExit as stop:  # jsonargparse ends the program by itself
        code = stop.code

    assert code == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_fit_validate_test_and_predict(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("def main(\nimport \n")
    common = ["--config", MINER, *TINY, "--trainer.max_epochs=2", "--trainer.check_val_every_n_epoch=1"]
    assert run_command(["fit", *common]) == 0

    for command in ("validate", "test"):
        assert run_command([command, *common[2:], "--config", MINER, "--ckpt_path=last"]) == 0
        printed = capsys.readouterr().out
        for metric in ("loss", "perplexity", "bits_per_byte"):
            assert f"{'val' if command == 'validate' else 'test'}/{metric}" in printed
    assert run_command(["predict", "--config", MINER, *TINY, "--ckpt_path=last", "--data.prompts=prompts.txt"]) == 0

    assert "def main(" in capsys.readouterr().out
    node = next(tmp_path.glob("runs/net268/local-*/nodes/miner"))
    assert [path.name for path in (node / "checkpoints").iterdir()] == ["window-000000002.ckpt"]
    assert list((node / "logs").rglob("metrics.csv"))


def test_a_model_that_was_never_trained_is_not_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["validate", "--config", MINER, *TINY, "--ckpt_path=last"]) == 2

    assert "run `fit` with the same options first" in capsys.readouterr().err


def test_other_initial_weights_are_refused_by_the_chain_of_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    common = ["fit", "--config", MINER, *TINY, "--trainer.max_epochs=1"]
    assert run_command(common) == 0

    assert run_command([*common, "--wallet.hotkey=other", "--model.init_seed=7"]) == 2

    assert "run" in capsys.readouterr().err


def test_local_needs_no_config(tmp_path: Path) -> None:
    assert run_command(["fit", "--local", *TINY, "--trainer.max_epochs=1"]) == 0

    assert list(tmp_path.glob("runs/net268/local-*/nodes/miner/checkpoints/window-000000001.ckpt"))


def test_what_may_be_secret_in_an_endpoint_gets_into_no_file_and_no_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.yaml").write_text("bittensor: {network: 'wss://one:s3cret@example.org:443/s3cret?key=s3cret'}\n")
    given = "--bittensor.network=wss://two:s3cret@example.com:9944/s3cret?key=s3cret"

    for chosen, shown in (("--config=mine.yaml", "wss://example.org:443"), (given, "wss://example.com:9944")):
        assert run_command(["fit", "--config", MINER, *TINY, "--trainer.max_epochs=1", chosen], LocalAllTheSame) == 0

        saved = max(tmp_path.glob("runs/net268/local-*/nodes/miner/logs/*/config.yaml"))
        assert yaml.safe_load(saved.read_text())["bittensor"]["network"] == shown
    written = [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert any(path.suffix == ".ckpt" for path in written)
    assert [path for path in written if b"s3cret" in path.read_bytes()] == []
    said = "".join(capsys.readouterr())
    assert given.partition("two:")[0] in said
    assert "s3cret" not in said


def test_netuid_run_and_hotkey_keep_nodes_apart(tmp_path: Path) -> None:
    assert (
        run_command(
            [
                "fit",
                "--config",
                MINER,
                *TINY,
                "--trainer.max_epochs=1",
                "--netuid=3",
                "--store.run=mine",
                "--wallet.hotkey=bob",
            ]
        )
        == 0
    )

    assert list(tmp_path.glob("runs/net3/mine-*/nodes/bob"))


def test_hotkeys_of_one_name_in_two_wallets_are_two_nodes() -> None:
    def node_dir(**names: str) -> Path:
        options = NetworkOptions(
            netuid=3,
            store=StoreConfig(),
            wallet=WalletConfig(**names),
            chain=LocalChainConfig(),
            bittensor=BittensorConfig(network="test"),
            r2=R2Options(),
            follow=FollowConfig(),
        )
        return node_network(options, load_hparams(*hparams_files(None, local=True))).node_dir

    wallets = [("a", "default"), ("b", "default"), ("a.b", "c"), ("a", "b.c"), ("a-b", "c"), ("a", "b-c")]

    folders = {node_dir(name=name, hotkey=hotkey) for name, hotkey in wallets}
    assert len(folders) == len(wallets)
    assert len({folder.parent for folder in folders}) == 1


def test_test_applies_the_payloads_of_all_peers_and_makes_another_run(tmp_path: Path) -> None:
    for flags in ([], ["--test"]):
        assert run_command(["fit", "--config", MINER, *TINY, "--trainer.max_epochs=1", *flags]) == 0

    assert len(list(tmp_path.glob("runs/net268/local-*"))) == 2


@pytest.mark.parametrize(
    ("logger", "trace"),
    [
        (["TensorBoardLogger", "--trainer.logger.save_dir=logs"], "logs/**/events.out.tfevents.*"),
        (
            ["WandbLogger", "--trainer.logger.offline=true", "--trainer.logger.save_dir=logs"],
            "logs/wandb/offline-run-*",
        ),
    ],
)
def test_other_loggers_are_a_matter_of_config(tmp_path: Path, logger: list[str], trace: str) -> None:
    (tmp_path / "logs").mkdir()
    name, *settings = logger

    assert (
        run_command(["fit", "--config", MINER, *TINY, "--trainer.max_epochs=2", "--trainer.logger", name, *settings])
        == 0
    )

    assert list(tmp_path.glob(trace))


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        (None, {"precision": "32-true"}),
        ("cpu", {"accelerator": "cpu", "devices": 1, "precision": "32-true"}),
        ("cuda:1", {"accelerator": "cuda", "devices": [1], "precision": "32-true"}),
    ],
)
def test_a_device_becomes_the_arguments_of_the_trainer(device: str | None, expected: dict[str, Any]) -> None:
    assert choose_device(device, {"accelerator": "auto", "precision": None}) == expected


def test_a_given_precision_is_kept() -> None:
    assert "precision" not in choose_device("cpu", {"accelerator": "auto", "precision": "bf16-mixed"})


@pytest.mark.parametrize("device", ["mps", "mps:0", None])
def test_mps_is_refused_with_the_reason_and_what_to_use(device: str | None) -> None:
    with pytest.raises(ConfigError, match=r"float64, which mps does not have.*use --device cpu"):
        choose_device(device, {"accelerator": "mps", "precision": None})


def test_a_trainer_that_would_choose_mps_gets_the_cpu() -> None:
    chosen = choose_device(None, {"accelerator": "auto", "precision": None}, has_mps=True)

    assert chosen == {"accelerator": "cpu", "precision": "32-true"}


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(ConfigError, match="got 'gpu:x'"):
        choose_device("gpu:x", {"accelerator": "auto", "precision": None})
