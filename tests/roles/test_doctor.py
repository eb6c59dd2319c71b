"""`doctor` on a local run: what it finds, what it says about wrong settings, and that it only looks."""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from templar_pl.__main__ import HELP, main
from templar_pl.cli import run_command
from templar_pl.cli_doctor import doctor_command
from tests.end_to_end.node import TINY
from tests.roles.doctor_runs import MINER, everything, examined

pytestmark = pytest.mark.usefixtures("own_folder_and_log")

Capture = pytest.CaptureFixture[str]


def trained(capsys: Capture, *arguments: str) -> None:
    assert run_command(["fit", MINER, *TINY, "--trainer.max_epochs=1", *arguments]) == 0
    capsys.readouterr()


def page_folder(folder: Path, rows: int) -> Path:
    folder.mkdir()
    pq.write_table(pa.table({"text": ["some text"] * rows}), folder / "a.parquet")
    return folder


def test_a_run_that_can_start_is_told_so_and_nothing_is_made(capsys: Capture, tmp_path: Path) -> None:
    report = examined(capsys)

    assert report.code == 0
    assert report.of_state("failed") == set()
    assert report.of_state("skipped") == {"keys", "clock"}
    assert everything(tmp_path) == {}


def test_a_run_that_began_is_recognised_and_not_a_byte_of_it_changes(capsys: Capture, tmp_path: Path) -> None:
    trained(capsys)
    before = everything(tmp_path)

    report = examined(capsys, *TINY)

    assert report.code == 0
    assert "is of this run, 1 registered" in report.found["chain"]
    assert "uid 0" in report.found["hotkey"]
    assert "goes on from the newest" in report.found["checkpoint"]
    assert "to train on" in report.found["pages"]
    assert everything(tmp_path) == before


def test_other_numbers_than_those_of_the_run_are_a_warning_that_names_both(capsys: Capture, tmp_path: Path) -> None:
    trained(capsys)
    (run,) = tmp_path.glob("runs/net268/local-*")

    report = examined(capsys, *TINY, "--compression.topk=7")

    assert report.code == 0
    assert report.states["hparams digest"] == "warning"
    assert run.name in report.found["hparams digest"]
    assert "--store.run" in report.found["hparams digest"]


def test_a_longer_name_is_no_other_numbers(capsys: Capture, tmp_path: Path) -> None:
    (tmp_path / "runs" / "net268" / "local-two-0a80d817").mkdir(parents=True)

    assert examined(capsys).states["hparams digest"] == "ok"


def test_a_chain_of_other_weights_stops_the_run(capsys: Capture) -> None:
    trained(capsys)

    report = examined(capsys, *TINY, "--model.init_seed=7")

    assert report.code == 1
    assert report.of_state("failed") == {"chain"}
    assert "was made with run = " in report.found["chain"]
    assert "or delete the file to start anew" in report.found["chain"]


def test_weights_of_another_precision_are_another_run(capsys: Capture) -> None:
    trained(capsys, "--trainer.precision=64-true")

    assert examined(capsys, *TINY, "--trainer.precision=64-true").states["chain"] == "ok"
    assert examined(capsys, *TINY).states["chain"] == "failed"


@pytest.mark.parametrize(
    ("arguments", "check"),
    [
        (["--compression.topk=0"], "settings: compression"),
        (["--schedule.learning_rate=7"], "settings: schedule"),
        (["--device=abacus"], "settings: device"),
        (["--pages.sequence_length=999"], "settings: hparams"),
        (["--model.generation.top_k=5"], "settings: model"),
        (["--data.num_workers=-1"], "settings: data"),
        (["--trainer.accumulate_grad_batches=4"], "settings: trainer"),
        (["--trainer.precision=bf16-true"], "settings: trainer"),
        (["--chain.pace=wall", "--chain.seconds_per_block=0.5"], "chain"),
        (["--chain.pace=gallop"], "settings: command line"),
        (["--compression.tpk=3"], "settings: command line"),
        (["--config=absent.yaml"], "settings: command line"),
        (["--hparams=absent.json"], "settings: command line"),
        (["--llama.vocab_size=100"], "tokenizer"),
        (["--data.page_set.folder=nowhere"], "pages"),
        (["--wallet.hotkey=../alice"], "settings: wallet"),
        (["--store.run=Bad Name"], "settings: store"),
    ],
)
def test_a_wrong_setting_is_said_in_the_words_of_fit(capsys: Capture, arguments: list[str], check: str) -> None:
    try:
        code = run_command(["fit", MINER, *TINY, "--trainer.max_epochs=1", *arguments])
    except SystemExit as stop:  # jsonargparse ends the program by itself
        code = stop.code
    said = " ".join(capsys.readouterr().err.rpartition("error: ")[2].split())
    assert code == 2
    assert len(said) > 10

    report = examined(capsys, *TINY, *arguments)

    assert report.code == 1
    assert report.of_state("failed") == {check}
    assert said in " ".join(report.found[check].split())


def test_what_does_not_depend_on_a_wrong_setting_is_examined_all_the_same(capsys: Capture) -> None:
    report = examined(capsys, "--compression.topk=0", "--chain.lease_s=0")

    assert report.of_state("failed") == {"settings: compression", "settings: chain"}
    assert {"software", "device and precision", "tokenizer", "pages"} <= report.of_state("ok")
    assert {"memory", "disk", "chain"} <= report.of_state("skipped")


def test_a_model_too_large_for_this_machine_is_found_out_without_making_it(capsys: Capture) -> None:
    sizes = ("hidden_size=65536", "intermediate_size=262144", "vocab_size=1048576", "num_hidden_layers=12")

    report = examined(capsys, *(f"--llama.{size}" for size in sizes))

    assert report.code == 1
    assert report.of_state("failed") == {"memory", "disk"}
    assert "--model.gradient_checkpointing" in report.found["memory"]
    assert "--store.root" in report.found["disk"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_missed(capsys: Capture) -> None:
    report = examined(capsys, "--device=cuda")

    assert report.code == 1
    assert "CUDAAccelerator" in report.found["settings: trainer"]
    assert "device and precision" in report.of_state("skipped")


def test_several_devices_for_one_node_are_refused(capsys: Capture) -> None:
    assert "devices must be 1, got 2" in examined(capsys, "--trainer.devices=2").found["settings: trainer"]


def test_bf16_on_a_processor_is_a_warning(capsys: Capture) -> None:
    report = examined(capsys, "--device=cpu", "--trainer.precision=bf16-mixed")

    assert report.code == 0
    assert report.states["device and precision"] == "warning"


def test_pages_are_counted_and_no_manifest_is_written(capsys: Capture, tmp_path: Path) -> None:
    folder = page_folder(tmp_path / "text", rows=100)
    before = everything(tmp_path)

    report = examined(capsys, f"--data.page_set.folder={folder}", "--data.page_set.rows_per_page=2")

    assert "42 to train on" in report.found["pages"]  # 50, less 8 held out
    assert everything(tmp_path) == before


def test_too_little_text_is_said_in_the_words_of_fit(capsys: Capture, tmp_path: Path) -> None:
    folder = page_folder(tmp_path / "text", rows=10)

    report = examined(capsys, f"--data.page_set.folder={folder}")

    assert report.code == 1
    assert "add text, or lower rows_per_page or num_validation_pages" in report.found["pages"]


def test_a_manifest_that_cuts_otherwise_is_named(capsys: Capture, tmp_path: Path) -> None:
    folder = page_folder(tmp_path / "text", rows=100)
    trained(capsys, f"--data.page_set.folder={folder}")

    report = examined(capsys, f"--data.page_set.folder={folder}", "--data.page_set.rows_per_page=3")

    assert "set rows_per_page to 1" in report.found["pages"]


def test_a_tokenizer_that_is_not_here_yet_is_a_warning_without_a_download(capsys: Capture) -> None:
    report = examined(capsys, "--pages.tokenizer_name=nobody/has-this-tokenizer")

    assert report.code == 0
    assert report.states["tokenizer"] == "warning"
    assert "nobody/has-this-tokenizer" in report.found["tokenizer"]


def test_a_checkpoint_that_is_not_there_stops_the_run(capsys: Capture) -> None:
    report = examined(capsys, "--ckpt_path=absent.ckpt")

    assert report.code == 1
    assert "there is no file absent.ckpt" in report.found["checkpoint"]


def test_a_logger_that_would_make_folders_makes_none(capsys: Capture, tmp_path: Path) -> None:
    options = ("--trainer.logger=WandbLogger", "--trainer.logger.offline=true", "--trainer.logger.save_dir=logs")

    assert examined(capsys, *options).code == 0

    assert everything(tmp_path) == {}


def test_people_get_a_table_with_a_sum(capsys: Capture) -> None:
    assert doctor_command([MINER, "--compression.topk=0"]) == 1

    printed = capsys.readouterr().out
    assert "✗   settings: compression   topk must be a whole number in 1..4096, got 0" in printed
    assert "✓   software" in printed
    assert "failed 1," in printed
    assert "something would stop the run" in printed
    assert max(map(len, printed.splitlines())) <= 120


def test_the_command_is_reached_and_listed(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["templar_pl", "doctor", "--local"])

    assert main() == 0
    assert "nothing here would stop the run" in capsys.readouterr().out
    assert "python -m templar_pl doctor --config configs/miner.yaml" in HELP
