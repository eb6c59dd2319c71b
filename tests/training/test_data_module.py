"""Pages of text as Lightning's loaders."""

from __future__ import annotations

import math
import threading
from pathlib import Path

import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import Trainer

from templar_pl.config import LlamaConfig, PagesConfig, ScheduleConfig
from templar_pl.data.page_set import PageSetConfig
from templar_pl.data.windowed import WindowedDataset
from templar_pl.errors import ConfigError
from templar_pl.protocol.pages import next_pages
from templar_pl.training.data_module import TemplarDataModule
from templar_pl.training.module import GenerationConfig, LlamaModule
from templar_pl.units import Uid, Window
from tests.data.helpers import write_page_set

PAGES = PagesConfig(tokenizer_name="bytes", sequence_length=16, pages_per_window=2, batch_size=4)


def settings_of(folder: Path) -> PageSetConfig:
    return PageSetConfig(folder=str(folder), rows_per_page=3, num_validation_pages=2)


@pytest.fixture
def texts(tmp_path: Path) -> list[str]:
    return write_page_set(tmp_path / "set", 36)


@pytest.fixture
def data(tmp_path: Path, texts: list[str]) -> TemplarDataModule:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("def f\nimport \n", encoding="utf-8")
    return TemplarDataModule(PAGES, settings_of(tmp_path / "set"), prompts=str(prompts))


def tokens_of(batches: list[dict[str, torch.Tensor]]) -> list[int]:
    ids = torch.cat([batch["input_ids"].flatten() for batch in batches])
    labels = torch.cat([batch["labels"].flatten() for batch in batches])
    return ids[labels != -100].tolist()


def stream(texts: list[str]) -> list[int]:
    return [token for text in texts for token in [*text.encode(), 256]]


def test_the_training_loader_follows_the_windows(data: TemplarDataModule, texts: list[str]) -> None:
    data.prepare_data()
    data.setup("fit")
    loader = data.train_dataloader()
    assert isinstance(loader.dataset, WindowedDataset)
    for window in range(4):
        loader.dataset.begin_window(Uid(6), Window(window))

        batches = list(loader)

        rows = [text for page in next_pages(window * 2, 2, 6, 10) for text in texts[page * 3 : page * 3 + 3]]
        assert tokens_of(batches) == stream(rows)
        assert all(batch["input_ids"].shape == (4, 16) for batch in batches[:-1])
    data.teardown("fit")


def test_the_pages_of_any_node_can_be_read_beside_the_own_ones(data: TemplarDataModule) -> None:
    data.setup("fit")
    own, any_window = data.train_dataloader(), data.any_window_dataloader()
    assert isinstance(own.dataset, WindowedDataset)
    assert isinstance(any_window.dataset, WindowedDataset)
    own.dataset.begin_window(Uid(1), Window(0))
    before = tokens_of(list(own))

    digests = {}
    for uid, window in [(6, 2), (9, 2)]:
        digests[uid] = any_window.dataset.begin_window(Uid(uid), Window(window))
        read = list(any_window)
        own.dataset.begin_window(Uid(uid), Window(window))
        assert tokens_of(read) == tokens_of(list(own))
        assert read[0]["input_ids"].shape == (4, 16)

    own.dataset.begin_window(Uid(1), Window(0))
    assert tokens_of(list(own)) == before
    assert digests[6] != digests[9]
    data.teardown("fit")


def test_reading_pages_of_other_nodes_needs_setup(data: TemplarDataModule) -> None:
    with pytest.raises(RuntimeError, match="call setup"):
        data.any_window_dataloader()


def test_validation_is_the_held_out_pages_with_their_bytes(data: TemplarDataModule, texts: list[str]) -> None:
    data.setup("validate")

    batches = list(data.val_dataloader())

    assert tokens_of(batches) == stream(texts[30:])
    predicted = [label for batch in batches for row in batch["labels"].tolist() for label in row[1:]]
    assert sum(int(batch["num_bytes"].sum()) for batch in batches) == sum(0 <= label < 256 for label in predicted)
    data.teardown("validate")


def open_parquet_files(folder: Path) -> list[str]:
    """Return the parquet files below a folder that this process has open."""
    names = [str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    return [name for name in names if name.startswith(str(folder)) and name.endswith(".parquet")]


def test_teardown_closes_the_windows_and_the_files(data: TemplarDataModule, tmp_path: Path) -> None:
    data.setup("fit")
    sequences = iter(data.train_dataloader().dataset)  # type: ignore[call-overload]  # it is iterable
    next(sequences)
    assert open_parquet_files(tmp_path)

    data.teardown("fit")

    with pytest.raises(RuntimeError, match="went on after it was closed"):
        next(sequences)
    assert not open_parquet_files(tmp_path)


def test_prompts_are_the_lines_of_the_file(data: TemplarDataModule) -> None:
    data.setup("predict")

    assert list(data.predict_dataloader()) == [["def f", "import "]]


def test_an_ordinary_trainer_fits_validates_tests_and_predicts(data: TemplarDataModule, tmp_path: Path) -> None:
    llama = LlamaConfig(
        vocab_size=258,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        intermediate_size=48,
        max_position_embeddings=32,
    )
    module = LlamaModule(llama, ScheduleConfig(), generation=GenerationConfig(max_new_tokens=4))
    trainer = Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        max_epochs=2,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    before = [parameter.detach().clone() for parameter in module.parameters()]

    trainer.fit(module, data)
    assert not any(torch.equal(old, new) for old, new in zip(before, module.parameters(), strict=True))
    (validated,) = trainer.validate(module, data, verbose=False)
    (tested,) = trainer.test(module, data, verbose=False)
    predicted = trainer.predict(module, data)

    assert validated["val/loss"] == pytest.approx(math.log(258), abs=0.3)
    assert validated["val/perplexity"] == pytest.approx(math.exp(validated["val/loss"]), rel=1e-3)
    assert 7 < validated["val/bits_per_byte"] < 9
    assert {name.replace("test", "val"): value for name, value in tested.items()} == validated
    assert predicted is not None
    assert [text[:5] for text in predicted[0]] == ["def f", "impor"]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("pages of window")]


def test_constructing_reads_and_writes_nothing(tmp_path: Path) -> None:
    source = PageSetConfig(cache=str(tmp_path / "cache"), rows_per_page=1)

    TemplarDataModule(PAGES, source, prompts=str(tmp_path / "none"))

    assert list(tmp_path.iterdir()) == []


def test_too_few_pages_for_a_window_stop_before_the_first(tmp_path: Path, texts: list[str]) -> None:
    many = PagesConfig(tokenizer_name="bytes", sequence_length=16, pages_per_window=11, batch_size=4)

    with pytest.raises(ConfigError, match="has 12 pages of 3 rows; 2 for validation and 11 to train on are needed"):
        TemplarDataModule(many, settings_of(tmp_path / "set")).prepare_data()


@pytest.mark.parametrize(
    ("prompts", "message"),
    [(None, "predict needs prompts"), ("absent.txt", "cannot read the prompts"), ("empty.txt", "holds no prompts")],
)
def test_predict_without_prompts_says_how_to_mend_it(tmp_path: Path, prompts: str | None, message: str) -> None:
    (tmp_path / "empty.txt").touch()
    data = TemplarDataModule(PAGES, prompts=None if prompts is None else str(tmp_path / prompts))

    with pytest.raises(ConfigError, match=message):
        data.setup("predict")


def test_a_negative_number_of_workers_is_refused() -> None:
    with pytest.raises(ConfigError, match="num_workers must be at least 0, got -1"):
        TemplarDataModule(PAGES, num_workers=-1)


def test_every_setting_can_be_given_on_a_command_line(tmp_path: Path) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(TemplarDataModule, "data")
    parser.add_class_arguments(LlamaModule, "model")

    config = parser.parse_args(
        [
            "--data.pages.sequence_length=8",
            "--data.page_set.rows_per_page=2",
            f"--data.page_set.folder={tmp_path}",
            "--data.num_workers=1",
            "--model.llama.hidden_size=64",
            "--model.llama.intermediate_size=8",
            "--model.llama.num_hidden_layers=1",
            "--model.schedule.warmup_steps=3",
            "--model.generation.max_new_tokens=5",
        ]
    )

    made = parser.instantiate(config)
    assert isinstance(made["data"], TemplarDataModule)
    assert made["model"].hparams["schedule"]["warmup_steps"] == 3
    assert made["model"].hparams["generation"]["max_new_tokens"] == 5
