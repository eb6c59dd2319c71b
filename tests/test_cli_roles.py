"""Roles take the options of `fit`, and end as it does."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import torch
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.utilities.exceptions import SIGTERMException

from templar_pl.cli_roles import EXIT_INTERRUPTED, RoleCLI, run_role
from templar_pl.command_line import EXIT_SETTINGS, EXIT_SIGTERM, EXIT_STOPPED
from templar_pl.errors import ChainError
from templar_pl.roles.node import Node
from templar_pl.training import LlamaModule, LocalNetwork, TemplarDataModule

pytestmark = pytest.mark.usefixtures("own_folder_and_log")

MINER = str(Path(__file__).parents[1] / "configs" / "miner.yaml")


class TrialCLI(RoleCLI):
    """A role with an option of its own."""

    command = "trial"
    own_options = ("windows",)

    def add_own_options(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--windows", type=int | None, default=None, help="Stop after so many.")


def run_trial(tmp_path: Path, *arguments: str) -> tuple[int, list[Node]]:
    nodes: list[Node] = []

    def role(node: Node) -> int:
        nodes.append(node)
        return 7

    chosen = ["--config", MINER, f"--store.root={tmp_path}", *arguments]
    return run_role(chosen, TrialCLI, role), nodes


def end_with(tmp_path: Path, error: BaseException) -> int:
    def role(_: Node) -> int:
        raise error

    return run_role(["--local", f"--store.root={tmp_path}"], TrialCLI, role)


def test_a_role_gets_the_parts_of_the_node_that_fit_would_run(tmp_path: Path) -> None:
    code, [node] = run_trial(tmp_path, "--windows=3", "--device=cpu", "--schedule.learning_rate=1e-3")

    assert code == 7
    assert node.options == {"windows": 3}
    assert isinstance(node.module, LlamaModule)
    assert isinstance(node.data, TemplarDataModule)
    assert isinstance(node.network, LocalNetwork)
    assert node.device == torch.device("cpu")
    assert node.precision == "32-true"
    assert node.hparams.schedule.learning_rate == 1e-3
    assert list(tmp_path.iterdir()) == [], "nothing is made before the role asks for it"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to be found")
@pytest.mark.parametrize("chosen", ["--trainer.accelerator=gpu", "--trainer.accelerator=cuda", "--device=cuda"])
def test_a_gpu_that_is_not_there_is_refused(tmp_path: Path, chosen: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_trial(tmp_path, chosen) == (EXIT_SETTINGS, [])

    assert "the trainer refuses its settings: " in (said := capsys.readouterr().err)
    assert "No supported gpu backend found" in said or "accelerator is not available" in said.replace("\n", " ")


def test_a_role_has_parameters_of_the_precision_of_fit(tmp_path: Path) -> None:
    code, [node] = run_trial(tmp_path, "--trainer.precision=64", "--device=cpu")

    assert (code, node.precision) == (7, "64-true")
    assert {parameter.dtype for parameter in node.replica().parameters.values()} == {torch.float64}


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ("--trainer.precision=bf16-true", "precision must be one of 32-true, 64-true, bf16-mixed, got bf16-true"),
        ("--trainer.plugins=lightning.pytorch.plugins.DoublePrecision", "must have no plugin of precision here"),
        ("--trainer.devices=2", "devices must be 1, got 2"),
    ],
)
def test_what_a_role_cannot_compute_with_is_refused(
    tmp_path: Path, chosen: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_trial(tmp_path, "--trainer.accelerator=cpu", chosen) == (EXIT_SETTINGS, [])

    assert message in capsys.readouterr().err


def test_what_ends_a_role_is_said_by_its_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert end_with(tmp_path, ChainError("the chain is gone")) == EXIT_STOPPED
    assert "error: the chain is gone" in capsys.readouterr().err
    assert end_with(tmp_path, KeyboardInterrupt()) == EXIT_INTERRUPTED
    assert end_with(tmp_path, SIGTERMException()) == EXIT_SIGTERM
    assert run_trial(tmp_path, "--hparams=nowhere.json")[0] == EXIT_SETTINGS
    with pytest.raises(SystemExit) as stop:
        run_trial(tmp_path, "--chain.pace=never")
    assert stop.value.code == EXIT_SETTINGS


def test_sigterm_ends_the_next_wait_of_a_role(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def role(node: Node) -> int:
        node.check_interrupt()
        os.kill(os.getpid(), signal.SIGTERM)
        give_up = time.monotonic() + 10
        while time.monotonic() < give_up:
            node.check_interrupt()
        return 0

    assert run_role(["--local", f"--store.root={tmp_path}"], TrialCLI, role) == EXIT_SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before
