"""Which parameters are found in numbers and in files, and what is refused."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import Module

from templar_pl import LlamaModule, WindowCheckpoint
from templar_pl.config import LlamaConfig, ScheduleConfig
from templar_pl.errors import ConfigError
from templar_pl.roles.parameter_shapes import file_shapes, llama_shapes
from tests.training.local import ConvClassifier, local_strategy, quiet_trainer, stripes

TINY = LlamaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1)


def shapes_of(module: Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}


def test_the_shapes_of_a_llama_are_those_of_the_module_that_is_trained() -> None:
    expected = shapes_of(LlamaModule(TINY, ScheduleConfig()))

    assert llama_shapes(TINY) == expected
    assert list(llama_shapes(TINY)) == list(expected)


def test_the_random_numbers_of_the_program_are_not_touched() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)

    llama_shapes(TINY)

    assert torch.equal(torch.rand(4), expected)


def test_a_checkpoint_counts_what_was_exchanged_and_no_buffers(tmp_path: Path) -> None:
    module = ConvClassifier()
    checkpoint = WindowCheckpoint(str(tmp_path / "checkpoints"))
    trainer = quiet_trainer(local_strategy(tmp_path / "runs"), 1, checkpoint, enable_checkpointing=True)
    trainer.fit(module, stripes())

    found = file_shapes(tmp_path / "checkpoints" / "window-000000001.ckpt")

    assert found == shapes_of(module)
    assert len(found) < len(module.state_dict())


def test_a_safetensors_file_counts_its_floating_point_tensors(tmp_path: Path) -> None:
    tensors = {
        "a": torch.zeros(3, 5),
        "b": torch.zeros(7, dtype=torch.bfloat16),
        "steps": torch.zeros((), dtype=torch.int64),
    }
    save_file(tensors, tmp_path / "m.safetensors")

    assert file_shapes(tmp_path / "m.safetensors") == {"a": (3, 5), "b": (7,)}


class Hostile:
    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> Any:
        return Path.touch, (self.victim,)


def test_a_checkpoint_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    torch.save({"state_dict": Hostile(tmp_path / "victim")}, tmp_path / "x.ckpt")

    with pytest.raises(ConfigError, match="holds more than tensors"):
        file_shapes(tmp_path / "x.ckpt")

    assert not (tmp_path / "victim").exists()


def whole_checkpoint(folder: Path) -> bytes:
    torch.save({"state_dict": {"w": torch.zeros(100)}}, folder / "whole.ckpt")
    return (folder / "whole.ckpt").read_bytes()


@pytest.mark.parametrize("content", [b"", b"no checkpoint at all", pickle.dumps({"a": 1}), b"{}", None])
@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_another_file_is_refused_in_one_line(tmp_path: Path, content: bytes | None, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(whole_checkpoint(tmp_path)[:-50] if content is None else content)

    with pytest.raises(ConfigError, match=r"x\.\w+ is no "):
        file_shapes(path)


def test_a_checkpoint_without_momentum_is_refused(tmp_path: Path) -> None:
    whole_checkpoint(tmp_path)

    with pytest.raises(ConfigError, match="holds no momentum"):
        file_shapes(tmp_path / "whole.ckpt")


def test_a_file_without_parameters_is_refused(tmp_path: Path) -> None:
    save_file({"steps": torch.zeros((), dtype=torch.int64), "empty": torch.zeros(0, 3)}, tmp_path / "m.safetensors")

    with pytest.raises(ConfigError, match="holds no parameters"):
        file_shapes(tmp_path / "m.safetensors")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no file"):
        file_shapes(tmp_path)
