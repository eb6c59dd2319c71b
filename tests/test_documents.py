"""The guides for miners and validators keep their promises: commands, options, messages, files, and the image."""

from __future__ import annotations

import configparser
import os
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from templar_pl.__main__ import HELP
from templar_pl.errors import ChainError
from templar_pl.units import Uid
from tests.documents import ROOT, blocks, commands, first_column, is_said, links, messages

MINER, VALIDATOR = ((ROOT / "docs" / f"{name}.md").read_text() for name in ("miner", "validator"))
DOCKERFILE = (ROOT / "Dockerfile").read_text()
MESSAGES = "What the messages mean"
BTCLI = [words for text in (MINER, VALIDATOR) for words in commands(text, "btcli")]
SAID = messages()

named = pytest.mark.parametrize("text", [MINER, VALIDATOR], ids=["miner", "validator"])


@named
def test_every_file_that_is_linked_to_exists(text: str) -> None:
    for link in links(text):
        assert (ROOT / "docs" / link).exists(), link


@named
def test_every_command_of_the_package_is_accepted_as_it_stands(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from templar_pl.cli import run_command  # noqa: PLC0415 - torch would slow down collecting this file

    monkeypatch.chdir(ROOT)
    lines = [words for words in commands(text, "python", "docker") if "fit" in words or "doctor" in words]
    assert len(lines) >= 3
    for words in lines:
        options = words[next(place for place, word in enumerate(words) if word in ("fit", "doctor")) + 1 :]
        with pytest.raises(SystemExit) as stop:
            run_command(["fit", *options, "--print_config"])
        assert stop.value.code in (0, None), words


def test_every_command_of_a_role_is_accepted_as_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    from templar_pl.cli import run_command  # noqa: PLC0415 - torch would slow down collecting this file
    from templar_pl.cli_aggregate import AggregateCLI  # noqa: PLC0415
    from templar_pl.cli_audit import AuditCLI  # noqa: PLC0415
    from templar_pl.cli_score import ScoreCLI  # noqa: PLC0415
    from templar_pl.cli_swarm import SwarmCLI  # noqa: PLC0415

    parsers = {cli.command: cli for cli in (AggregateCLI, AuditCLI, ScoreCLI, SwarmCLI)}
    monkeypatch.chdir(ROOT)
    texts = [path.read_text() for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))]
    lines = [words for text in texts for words in commands(text, "python") if words[1:3] == ["-m", "templar_pl"]]
    assert {words[3] for words in lines} >= parsers.keys()
    for words in lines:
        if words[3] in parsers:
            options = [word for word in words[4:] if word != "&"]
            with pytest.raises(SystemExit) as stop:
                run_command([*options, "--print_config"], parsers[words[3]])
            assert stop.value.code in (0, None), words


@named
def test_no_command_of_the_package_is_named_that_does_not_exist(text: str) -> None:
    listed = set(re.findall(r"^  (\S+)", HELP.split("commands\n")[1].split("\n\n")[0], flags=re.MULTILINE))
    said = set(re.findall(r"-m templar_pl ([\w-]+)", text))

    assert "fit" in said
    assert said <= listed


@pytest.mark.parametrize("words", BTCLI, ids=lambda words: " ".join(words[1:4]))
def test_every_btcli_command_has_the_options_it_is_given(words: list[str], tmp_path: Path) -> None:
    group, command, *given = words[1:]
    environment = os.environ | {"COLUMNS": "300", "HOME": str(tmp_path), "NO_COLOR": "1", "TERM": "dumb"}
    program = [str(Path(sys.executable).with_name("btcli")), group, command, "--help"]

    told = subprocess.run(program, env=environment, capture_output=True, text=True, check=True, timeout=120).stdout

    options = {word for word in given if word.startswith("--")}
    assert options <= set(re.findall(r"--[\w-]+", told))
    takes_a_value = {option for option in options if re.search(rf"{option}\s.*<", told)}
    places = [w for before, w in zip([command, *given], given, strict=False) if before not in takes_a_value]
    positional = [word for word in places if not word.startswith("--")]
    assert len(positional) == len(re.findall(r"{\w+}", told.split("\n\n")[0])), told


def test_btcli_commands_were_found() -> None:
    assert {" ".join(words[1:3]) for words in BTCLI} >= {"wallet create", "subnets register", "subnets burn-cost"}


@pytest.mark.parametrize("message", first_column(MINER, MESSAGES))
def test_every_message_that_is_explained_is_said_by_the_code(message: str) -> None:
    assert is_said(message, SAID), message


@named
def test_every_line_of_the_log_that_is_shown_is_said_by_the_code(text: str) -> None:
    shown = [line for block in blocks(text, "") for line in block.splitlines() if re.match(r"[a-z]", line)]
    assert len(shown) >= 3
    for line in shown:
        shape = re.sub(r"\b\d[\d.]*\b|finney", "...", line)
        fixed = [part.strip() for part in shape.split("...") if part.strip()]
        assert any(all(part in text for part in fixed) for text in SAID), line


def test_a_message_that_the_code_does_not_say_is_found_out() -> None:
    assert first_column(MINER, MESSAGES)
    assert is_said("there is no wallet ... in ...", SAID)
    assert not is_said("there is no moon ... in ...", SAID)


@named
def test_every_variable_of_the_environment_that_is_named_is_read(text: str) -> None:
    for name in set(re.findall(r"TEMPLAR_\w+", text)):
        assert name in SAID, name


def test_the_program_in_the_guide_for_validators_can_be_read_and_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = blocks(VALIDATOR, "python")

    space: dict[str, object] = {}
    exec(compile(code, "validator.md", "exec"), space)  # noqa: S102 - our own document

    assert space["command"] == "btcli subnets register --netuid 268 --network test --wallet NAME --wallet-hotkey HOTKEY"


def test_the_program_in_the_guide_for_validators_gets_weights_set_that_are_refused_first(tmp_path: Path) -> None:
    from tests.chain.nodes import wait_until  # noqa: PLC0415 - bittensor would slow down collecting this file
    from tests.chain.subnets import Subnet  # noqa: PLC0415

    space: dict[str, Any] = {}
    exec(compile(blocks(VALIDATOR, "python")[0], "validator.md", "exec"), space)  # noqa: S102 - our own document
    subnet, ended = Subnet(tmp_path, head=100, seconds_per_block=0.1), threading.Event()
    one, two = subnet.join("one"), subnet.join("two")
    asked = iter([{9: 1.0}])
    subnet.fake.refuse("NotEnoughStakeToSetWeights", times=2)
    chain, seer = subnet.node("one"), subnet.opened("two")

    with subnet.fake.mining(0.1), ThreadPoolExecutor(1) as pool:
        running = pool.submit(space["keep_setting"], chain, lambda: next(asked, {two: 1.0}), ended, pause_s=1.0)
        try:
            wait_until(lambda: seer.weights().get(Uid(one)) == {two: 1.0})
        finally:
            ended.set()
        running.result(30)

    with pytest.raises(ChainError, match="not open"):
        chain.weights()
    subnet.close()


def test_looking_with_docker_mounts_what_the_run_mounts() -> None:
    looks, runs = (
        [word.removesuffix(":ro") for before, word in pairwise(words) if before == "--volume"]
        for words in commands(MINER, "docker")
        if words[1] == "run"
    )

    assert looks == runs
    assert any(mount.endswith(":/text") for mount in runs)


@pytest.mark.parametrize("checkpointed", [False, True])
def test_figures_of_the_full_model_are_those_that_are_counted(checkpointed: bool) -> None:
    import torch  # noqa: PLC0415 - would slow down collecting this file, as the package would

    from templar_pl.hparams import load_hparams  # noqa: PLC0415
    from templar_pl.roles.doctor_memory import estimate_need  # noqa: PLC0415
    from templar_pl.training import LlamaModule  # noqa: PLC0415

    hparams = load_hparams(ROOT / "hparams.json")
    with torch.device("meta"):
        model = LlamaModule(hparams.llama, hparams.schedule, gradient_checkpointing=checkpointed)
    need = estimate_need(model, hparams)

    for count in (need.memory, need.activations, need.parameters, need.checkpoint, 4 * need.checkpoint):
        assert f"{count / 2**30:.1f} GiB" in MINER
    assert f"{need.payload:,} bytes".replace(",", " ") in MINER
    assert f"{need.payloads / 2**20:.1f} MiB" in MINER


def test_the_service_is_a_unit_that_stops_and_starts_as_the_guide_says() -> None:
    (code,) = blocks(MINER, "ini")
    unit = configparser.ConfigParser(strict=True, interpolation=None)
    unit.optionxform = str  # pyright: ignore[reportAttributeAccessIssue] - as its documentation says
    unit.read_string(code)

    assert unit["Service"]["KillSignal"] == "SIGTERM"
    assert unit["Service"]["SuccessExitStatus"] == "143"
    assert unit["Service"]["RestartPreventExitStatus"] == "2"


def test_the_image_copies_what_exists_and_what_is_let_into_the_build() -> None:
    sources = [
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, flags=re.MULTILINE)
        for source in line.split()[:-1]
    ]
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]

    assert rules[0] == "*"
    assert {"pyproject.toml", "templar_pl", "configs"} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists(), source
        assert f"!{source}" in rules, source
    assert {rule.removeprefix("!") for rule in rules if rule.startswith("!")} == set(sources)


def test_no_secret_gets_into_the_build() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]

    for path in ("runs", ".git", "miner.env", ".env", "wallets", ".templar", "benchmarks"):
        assert not any(fnmatch(path, rule.removeprefix("!")) for rule in rules if rule.startswith("!")), path
    assert not re.search(r"TEMPLAR_R2|PASSWORD|SECRET", DOCKERFILE)


def test_the_node_in_the_image_gets_signals_itself_and_is_no_root() -> None:
    assert re.search(r'^ENTRYPOINT \["python", "-m", "templar_pl"\]$', DOCKERFILE, flags=re.MULTILINE)
    user = re.findall(r"^USER (\S+)$", DOCKERFILE, flags=re.MULTILINE)
    assert user
    assert user[-1] not in ("root", "0")


def test_the_files_that_the_wheel_is_made_of_are_copied() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    wanted = {*re.findall(r'^"(hparams\S*json)" =', project, flags=re.MULTILINE), "README.md", "hatch_build.py"}

    assert wanted <= set(DOCKERFILE.split())
