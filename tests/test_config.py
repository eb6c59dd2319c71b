"""hparams.json: complete, checked, and the same digest for the same numbers."""

from __future__ import annotations

import json
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest

from templar_pl.config import CompressionConfig, LlamaConfig
from templar_pl.errors import ConfigError
from templar_pl.hparams import SECTIONS, HParams, file_names, from_sections, load_hparams, read_flat, to_flat

ROOT = Path(__file__).parents[1]


def write(folder: Path, **numbers: Any) -> Path:
    path = folder / "numbers.json"
    path.write_text(json.dumps(numbers))
    return path


def test_the_file_of_the_project_names_every_number_and_holds_the_defaults() -> None:
    numbers = read_flat(ROOT / "hparams.json")

    assert numbers.keys() == file_names().keys()
    assert numbers == to_flat(HParams())


def test_numbers_that_nodes_of_the_network_agreed_on_are_unchanged() -> None:
    numbers = to_flat(load_hparams(ROOT / "hparams.json"))

    for name, value in {
        "sequence_length": 2048,
        "pages_per_window": 6,
        "batch_size": 6,
        "learning_rate": 4e-4,
        "blocks_per_window": 7,
        "momentum_decay": 0.999,
        "topk_compression": 32,
        "target_chunk": 64,
        "t_max": 20_000,
        "vocab_size": 32_000,
        "intermediate_size": 8192,
        "openskill_beta": 20,
        "stale_retention": 100,
    }.items():
        assert numbers[name] == value


def test_the_toy_model_is_laid_over_and_keeps_the_rest() -> None:
    local = load_hparams(ROOT / "hparams.json", ROOT / "hparams.local.json")

    assert local.llama.hidden_size < 256
    assert local.pages.tokenizer_name == "bytes"
    assert local.compression.topk == 32
    assert local.digest() != HParams().digest()


def test_an_unknown_name_is_refused_with_the_nearest_known_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown name `learning_rat`; did you mean `learning_rate`"):
        load_hparams(write(tmp_path, learning_rat=1e-3))


def test_a_name_unlike_any_other_is_refused_with_all_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown name `qqqq`; known names: alpha_f, "):
        load_hparams(write(tmp_path, qqqq=1))


@pytest.mark.parametrize("text", ["[1]", "{", '"x"'])
def test_a_file_that_is_no_object_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.json").write_text(text)

    with pytest.raises(ConfigError, match=r"bad\.json"):
        load_hparams(tmp_path / "bad.json")


def test_an_absent_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        load_hparams(tmp_path / "absent.json")


NUMBERS = [
    (section, f.name)
    for section, cls in SECTIONS.items()
    for f in fields(cls)
    if isinstance(f.default, int | float) and not isinstance(f.default, bool)
]


@pytest.mark.parametrize(("section", "name"), NUMBERS)
@pytest.mark.parametrize("value", [-1, 1e18, float("nan"), "7", True])
def test_every_number_has_a_range_that_is_named_when_it_is_left(section: str, name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"{name}|num_attention_heads|num_key_value_heads"):
        from_sections({section: {name: value}})


@pytest.mark.parametrize(
    ("section", "name"),
    [*NUMBERS, ("pages", "tokenizer_name"), ("compression", "combine"), ("compression", "index_coding")],
)
def test_every_field_is_documented(section: str, name: str) -> None:
    source = (ROOT / "templar_pl" / "config.py").read_text()
    start = source.index(f"    {name}:", source.index(f"class {SECTIONS[section].__name__}"))

    assert source[source.index("\n", start) :].lstrip().startswith('"""')


def test_every_number_changes_the_digest() -> None:
    digests = {HParams().digest()}
    for section, name in NUMBERS:
        numbers = getattr(HParams(), section)
        value = getattr(numbers, name)
        for other in (value * 2 or 0.5, value / 2, value // 2 if isinstance(value, int) else value):
            try:
                changed = replace(numbers, **{name: other})
                digest = replace(HParams(), **{section: changed}).digest()
            except ConfigError:
                continue
            if other != value:
                assert digest not in digests, name
                digests.add(digest)
                break
        else:
            pytest.fail(f"no other value of {name} was accepted")


def test_a_fraction_is_refused_where_only_whole_numbers_make_sense() -> None:
    with pytest.raises(ConfigError, match=r"t_max must be a whole number in 1\.\.10000000, got 2\.5"):
        from_sections({"schedule": {"t_max": 2.5}})


def test_a_real_number_written_as_a_whole_one_is_the_same_run() -> None:
    digests = {from_sections({"scoring": {"openskill_beta": beta}}).digest() for beta in (20, 20.0)}

    assert len(digests) == 1


def test_compression_settings_read_the_same_however_their_numbers_are_written() -> None:
    whole, real = (CompressionConfig(momentum_decay=decay) for decay in (1, 1.0))

    assert json.dumps(asdict(whole)) == json.dumps(asdict(real))


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ConfigError, match="hidden_size must be a multiple of 2 \\* num_attention_heads"):
        LlamaConfig(hidden_size=100, num_attention_heads=8)


def test_a_sequence_must_fit_the_positions() -> None:
    with pytest.raises(ConfigError, match=r"sequence_length must be in 2\.\.max_position"):
        from_sections({"pages": {"sequence_length": 4096}})


def test_topk_must_fit_a_chunk() -> None:
    with pytest.raises(ConfigError, match=r"topk must be a whole number in 1\.\.16, got 17"):
        CompressionConfig(chunk_size=4, topk=17)


def test_a_transform_is_dct_or_none() -> None:
    with pytest.raises(ConfigError, match="transform must be dct or none, got 'fft'"):
        CompressionConfig(transform="fft")  # pyright: ignore[reportArgumentType]  # a wrong value is the point


@pytest.mark.parametrize("bits", [0, 4, 16, True, "1", 1.0, 2.0])
def test_values_have_1_2_3_or_8_bits(bits: object) -> None:
    with pytest.raises(ConfigError, match=f"value_bits must be 1, 2, 3 or 8, got {bits!r}"):
        CompressionConfig(value_bits=bits)  # pyright: ignore[reportArgumentType]  # a wrong type is the point


def test_the_coding_of_indices_is_one_of_two_and_changes_the_digest() -> None:
    compact = from_sections({"compression": {"index_coding": "compact"}})

    assert compact.digest() != HParams().digest()
    with pytest.raises(ConfigError, match="index_coding must be elias_fano or compact, got 'rice'"):
        from_sections({"compression": {"index_coding": "rice"}})
