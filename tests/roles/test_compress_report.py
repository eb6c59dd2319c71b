"""`compress-report` as a user sees it: figures, options, exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from templar_pl.__main__ import HELP, main
from templar_pl.cli import run_command
from templar_pl.compression import chunk_grid, native_fault
from templar_pl.config import CompressionConfig
from templar_pl.roles.compress_report import run_compress_report
from templar_pl.roles.compression_timing import MAX_ELEMENTS, Stopwatch
from tests.end_to_end.node import TINY

ROOT = Path(__file__).parents[2]
HEADER_BYTES, SIGNATURE_BYTES = 172, 64  # docs/design.md, section 5
MATRIX_CHUNK, VECTOR_CHUNK, BASE = 1 + 8 + 28 + 4, 1 + 8 + 4 + 4, 2

# The toy model by hand: rows, columns and number of its matrices, in chunks of 64 x 64; and its vectors.
TOY_MATRICES = [(258, 128, 2), (128, 128, 8), (384, 128, 4), (128, 384, 2)]
TOY_VECTORS = [(128, 5)]


def report(folder: Path, *arguments: str) -> dict[str, Any]:
    path = folder / "report.json"
    assert run_compress_report([*arguments, "--json", str(path)]) == 0
    return json.loads(path.read_text())


def test_the_toy_model_has_the_figures_that_a_hand_counts(tmp_path: Path) -> None:
    chunks = sum(-(-rows // 64) * -(-columns // 64) * count for rows, columns, count in TOY_MATRICES)
    pieces = sum(numel // 64 * count for numel, count in TOY_VECTORS)
    tensors = sum(entry[-1] for entry in (*TOY_MATRICES, *TOY_VECTORS))
    sent = MATRIX_CHUNK * chunks + VECTOR_CHUNK * pieces + BASE * tensors
    parameters = sum(rows * columns * count for rows, columns, count in TOY_MATRICES) + 128 * 5

    got = report(tmp_path, "--local", "--no_seconds", "--peers=3", "--mbits=8")

    total = got["total"]
    assert (total["tensors"], total["parameters"], total["chunks"]) == (tensors, parameters, chunks + pieces)
    assert total["sent_bytes"] == sent
    assert got["payload_bytes"] == got["upload_bytes"] == HEADER_BYTES + sent + SIGNATURE_BYTES
    assert got["download_bytes"] == 3 * got["payload_bytes"]
    assert got["upload_s"] == pytest.approx(got["payload_bytes"] / 1e6)
    assert total["ratio_fp32"] == pytest.approx(4 * parameters / sent) == 2 * total["ratio_bf16"]
    assert got["published_bytes"] == {
        "int64 + fp32": 384 * (chunks + pieces),
        "int16 + fp32": 192 * (chunks + pieces),
    }


def test_groups_are_the_layers_together(tmp_path: Path) -> None:
    groups = {group["name"]: group for group in report(tmp_path, "--local", "--no_seconds")["groups"]}

    up = groups["model.model.layers.*.mlp.up_proj.weight"]
    assert (up["tensors"], up["shape"], up["chunks"]) == (2, [384, 128], 24)
    assert up["sent_bytes"] == 24 * MATRIX_CHUNK + 2 * BASE
    assert len(groups) == 12


@pytest.mark.parametrize("value_bits", [1, 2])
def test_places_in_compact_form_are_counted_as_they_travel_and_measured(tmp_path: Path, value_bits: int) -> None:
    options = ("--compression.index_coding=compact", f"--compression.value_bits={value_bits}")

    got = report(tmp_path, "--local", "--peers=1", *options)

    up = {group["name"]: group for group in got["groups"]}["model.model.layers.*.mlp.up_proj.weight"]
    assert up["sent_bytes"] == 2 * (BASE + 12 + -(-12 * (267 + 32 * value_bits) // 8))
    assert got["total"]["seconds"]["send"] > 0


def test_the_keys_of_the_file_are_the_documented_ones(tmp_path: Path) -> None:
    figures = {"tensors", "parameters", "chunks", "coefficients", "sent_bytes", "bound_bytes", "ratio_fp32"}
    figures |= {"ratio_bf16", "seconds"}

    got = report(tmp_path, "--local", "--peers=2")

    assert got.keys() == {
        *("model", "compression", "peers", "mbits", "backend", "threads", "groups", "total", "payload_bytes"),
        *("upload_bytes", "download_bytes", "upload_s", "download_s", "momentum_bytes", "published_bytes"),
    }
    assert got["total"].keys() == figures
    for group in got["groups"]:
        assert group.keys() == {"name", "shape", *figures}
        assert all(group["seconds"][what] > 0 for what in ("send", "receive_one", "receive_all"))


@pytest.mark.parametrize(
    ("backend", "expected"), [("torch", "torch"), ("auto", "torch" if native_fault() else "native")]
)
def test_the_backend_that_is_asked_for_is_measured(tmp_path: Path, backend: str, expected: str) -> None:
    assert report(tmp_path, "--local", "--peers=1", f"--backend={backend}")["backend"] == expected


def test_the_numbers_of_compression_can_be_given(tmp_path: Path) -> None:
    got = report(tmp_path, "--local", "--no_seconds", "--compression.topk=1", "--compression.chunk_size=32")

    assert got["compression"]["topk"] == 1
    assert got["compression"]["momentum_decay"] == 0.95, "what is not given comes from the files"
    assert got["total"]["coefficients"] == got["total"]["chunks"]
    embedding = got["groups"][0]
    assert embedding["chunks"] == 9 * 4  # 258 x 128 in chunks of 32


def test_the_speed_that_a_line_needs_is_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    payload = report(tmp_path, "--local", "--no_seconds", "--peers=3", "--mbits=8")["payload_bytes"]

    printed = capsys.readouterr().out

    # 8 Mbit/s are 10**6 bytes a second; the limits are those of hparams.json.
    assert f"{payload / 1e6:.3g} s at 8 Mbit/s; {8e-6 * payload / 10:.3g} Mbit/s do it within time_window" in printed
    assert f"{3 * payload / 1e6:.3g} s at 8 Mbit/s; {24e-6 * payload / 35:.3g} Mbit/s do it within gather_t" in printed


def test_more_bits_a_value_are_counted(tmp_path: Path) -> None:
    got = report(tmp_path, "--local", "--peers=1", "--compression.value_bits=3", "--compression.transform=none")

    assert got["groups"][1]["sent_bytes"] == 8 * (MATRIX_CHUNK + 32 * 2 // 8) + 2 * BASE
    assert got["total"]["seconds"]["send"] > 0


def test_another_file_of_numbers_is_another_model(tmp_path: Path) -> None:
    numbers = json.loads((ROOT / "hparams.json").read_text()) | {"num_hidden_layers": 3, "max_topk_peers": 7}
    (tmp_path / "mine.json").write_text(json.dumps(numbers))

    got = report(tmp_path, "--no_seconds", "--model", str(tmp_path / "mine.json"))

    assert got["groups"][1]["tensors"] == 3
    assert got["peers"] == 7


def test_a_checkpoint_gives_the_size_of_the_payloads_that_were_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    miner = ["fit", "--config", str(ROOT / "configs" / "miner.yaml"), *TINY]
    assert run_command([*miner, "--trainer.max_epochs=1"]) == 0
    (checkpoint,) = tmp_path.rglob("window-*.ckpt")
    (payload,) = (path for path in tmp_path.rglob("*.bin") if "payload" in path.parts)

    got = report(tmp_path, "--model", str(checkpoint), "--no_seconds")

    assert got["payload_bytes"] == payload.stat().st_size


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model=absent.ckpt"], "there is no file absent.ckpt"),
        (["--model=absent.json"], "cannot read absent.json"),
        (["--model=README.md"], "model must be a .json, .ckpt or .safetensors file, got README.md"),
        (["--compression.topk=0"], "topk must be a whole number in 1..4096, got 0"),
        (["--compression.topk=many"], "compression.topk"),
        (["--compression.tpk=3"], "--compression.tpk=3"),
        (["--peers=0"], "peers must be in 1..512, got 0"),
        (["--peers=513"], "peers must be in 1..512, got 513"),
        (["--mbits=0"], "mbits must be above 0 and at most 1000000, got 0.0"),
        (["--mbits=1e7"], "mbits must be above 0 and at most 1000000, got 10000000.0"),
        (["--backend=abacus"], "backend"),
        (["--json=absent/report.json"], "json must be a file in a folder that exists, got absent/report.json"),
        (["surplus"], "unrecognized arguments: surplus"),
    ],
)
def test_a_wrong_argument_is_answered_in_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run_compress_report(["--local", "--no_seconds", *arguments]) == 2

    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1


def test_a_file_that_cannot_be_written_is_said_after_the_table(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run_compress_report(["--local", "--no_seconds", "--json", str(tmp_path)]) == 1

    printed = capsys.readouterr()
    assert "payload" in printed.out
    assert printed.err.startswith("error: ")


def test_large_tensors_are_measured_in_part_and_count_in_proportion() -> None:
    watch = Stopwatch(CompressionConfig(topk=1), backend="auto", peers=2)
    grid = chunk_grid((MAX_ELEMENTS // 64 + 64, 64), chunk_size=64, topk=1)

    one, three = watch.measure({"a": grid}), watch.measure({"a": grid, "b": grid, "c": grid})

    assert three.send == pytest.approx(3 * one.send)
    assert three.receive_all == pytest.approx(3 * one.receive_all)


def test_nothing_takes_no_time() -> None:
    watch = Stopwatch(CompressionConfig(), backend="auto", peers=1)

    assert watch.measure({"empty": chunk_grid((0, 4), chunk_size=64, topk=1)}).send == 0


def test_the_command_is_reached_and_listed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["templar_pl", "compress-report", "--local", "--no_seconds"])

    assert main() == 0
    assert "model.model.layers.*.mlp.up_proj.weight" in capsys.readouterr().out
    assert "compress-report" in HELP


def test_the_full_model_is_reported_in_a_process_of_less_than_a_gigabyte(tmp_path: Path) -> None:
    code = (
        "import runpy, sys, pathlib; sys.argv = ['templar_pl', 'compress-report', '--json', 'full.json']\n"
        "try: runpy.run_module('templar_pl', run_name='__main__')\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')))\n"
        "sys.exit('lightning.pytorch.cli' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )

    assert result.returncode == 0, result.stderr
    peak_kib = int(result.stdout.split()[-2])
    assert peak_kib < 10**6
    got = json.loads((tmp_path / "full.json").read_text())
    assert got["total"]["parameters"] == 1_204_881_408
    chunks, pieces = 2 * 500 * 32 + 16 * (4 * 32 * 32 + 3 * 128 * 32), 33 * 32
    sent = MATRIX_CHUNK * chunks + VECTOR_CHUNK * pieces + BASE * 147
    assert got["payload_bytes"] == HEADER_BYTES + sent + SIGNATURE_BYTES
