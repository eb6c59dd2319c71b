"""What `doctor` says of a machine, and its estimates of memory and disk against the real thing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from templar_pl.compression import native_fault
from templar_pl.config import CompressionConfig, LlamaConfig, PagesConfig, ScheduleConfig
from templar_pl.hparams import HParams
from templar_pl.roles.doctor_machine import check_disk, check_memory, check_native, disk_free
from templar_pl.roles.doctor_memory import Need, activation_elements, estimate_need, free_bytes
from templar_pl.roles.doctor_rows import State
from templar_pl.training import LlamaModule
from templar_pl.training.text_metrics import token_loss

CPU = torch.device("cpu")
SMALL = LlamaConfig(
    vocab_size=300,
    hidden_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=160,
    max_position_embeddings=256,
)
BATCH, LENGTH = 4, 128


def kept_for_backward(model: LlamaModule) -> int:
    """Return the bytes of all tensors, each once, that autograd keeps of one batch besides the weights."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    tokens = torch.zeros(BATCH, LENGTH, dtype=torch.int64)
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = token_loss(model(tokens), tokens).mean
    assert loss.requires_grad
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize(
    "llama",
    [
        SMALL,
        LlamaConfig(**{**vars(SMALL), "num_hidden_layers": 5}),
        LlamaConfig(**{**vars(SMALL), "num_key_value_heads": 4, "intermediate_size": 700}),
        LlamaConfig(**{**vars(SMALL), "vocab_size": 4000}),
    ],
)
def test_activations_are_those_that_autograd_keeps(llama: LlamaConfig) -> None:
    kept = kept_for_backward(LlamaModule(llama, ScheduleConfig()))

    counted = activation_elements(llama, checkpointed=False) - 2 * llama.vocab_size  # logits are not kept, only needed

    assert 4 * BATCH * LENGTH * counted == pytest.approx(kept, rel=0.05)


def test_with_checkpointing_the_layers_but_one_keep_their_input_only() -> None:
    deep = LlamaConfig(**{**vars(SMALL), "num_hidden_layers": 9})
    kept = kept_for_backward(LlamaModule(deep, ScheduleConfig(), gradient_checkpointing=True))
    one_layer = activation_elements(deep, checkpointed=False) - activation_elements(
        LlamaConfig(**{**vars(SMALL), "num_hidden_layers": 8}), checkpointed=False
    )

    counted = activation_elements(deep, checkpointed=True) - 2 * deep.vocab_size - one_layer

    assert 4 * BATCH * LENGTH * counted == pytest.approx(kept, rel=0.05)


def test_the_need_of_a_model_is_counted_by_hand() -> None:
    hparams = HParams(llama=SMALL, pages=PagesConfig(sequence_length=LENGTH, batch_size=BATCH))
    model = LlamaModule(SMALL, ScheduleConfig())
    numel = sum(parameter.numel() for parameter in model.parameters())
    with torch.device("meta"):
        shapes_only = LlamaModule(SMALL, ScheduleConfig())

    need = estimate_need(shapes_only, hparams)

    assert need.parameters == need.gradients == 4 * numel
    assert numel * 4 <= need.momentum <= 1.3 * numel * 4  # padded to whole chunks
    assert need.payloads == hparams.peers.max_topk_peers * need.payload
    assert need.activations == 4 * BATCH * LENGTH * activation_elements(SMALL, checkpointed=False)
    assert estimate_need(shapes_only, hparams, 8).parameters == 8 * numel


@pytest.mark.parametrize(
    ("free", "state"), [(999, State.FAILED), (1000, State.WARNING), (1249, State.WARNING), (1250, State.OK)]
)
def test_memory_is_enough_if_the_need_fits_with_some_to_spare(free: int, state: State) -> None:
    need = Need(parameters=200, gradients=200, momentum=200, activations=300, payloads=100, payload=10)

    (row,) = check_memory(need, CPU, free)

    assert row.state == state
    assert "activations 300 B" in row.found


def test_memory_of_which_nothing_is_known_is_not_judged() -> None:
    (row,) = check_memory(Need(1, 1, 1, 1, 1, 1), CPU, None)

    assert row.state == State.SKIPPED


def test_free_memory_is_a_part_of_what_the_machine_has() -> None:
    free = free_bytes(CPU)

    assert free is not None
    pages = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    assert 2**20 < free <= 1024 * int(pages["MemTotal"].split()[0])


@pytest.mark.parametrize(("free", "state"), [(99, State.FAILED), (110, State.WARNING), (200, State.OK)])
def test_a_disk_that_fills_up_is_found_before_it_does(tmp_path: Path, free: int, state: State) -> None:
    (row,) = check_disk(100, "4 checkpoints", tmp_path / "runs" / "not" / "there", free)

    assert row.state == state
    assert "4 checkpoints" in row.found
    assert bool(row.mend) == (state != State.OK)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_behind_a_file_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "runs").touch()

    (row,) = check_disk(1, "a checkpoint", tmp_path / "runs" / "net268", 10**9)

    assert row.state == State.FAILED
    assert "--store.root" in row.mend


def test_free_space_is_that_of_the_disk_a_folder_would_be_on(tmp_path: Path) -> None:
    assert disk_free(tmp_path / "not" / "there") == pytest.approx(disk_free(tmp_path), rel=0.1)


def test_native_compression_is_said_to_work_where_it_does() -> None:
    (row,) = check_native(CPU, CompressionConfig())

    assert row.state == (State.WARNING if native_fault() else State.OK)


def test_native_compression_is_not_missed_where_it_is_not_used() -> None:
    (other_device,) = check_native(torch.device("meta"), CompressionConfig())
    (unknown_form,) = check_native(CPU, CompressionConfig(transform="none"))

    assert {other_device.state, unknown_form.state} == {State.OK}
    assert "transform: none" in unknown_form.found
