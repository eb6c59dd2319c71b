"""The numbers all nodes of a run agree on, grouped by the room that uses them. `hparams.py` reads them from files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from templar_pl.errors import ConfigError

IndexCoding = Literal["elias_fano", "compact"]
"""How the places of coefficients travel."""

MAX_CHUNK_SIZE = 64  # the exact update needs 64 * 1023 * 256 < 2**24 (docs/design.md, section 5)
MAX_PEERS = 512  # 512 * 2**15 == 2**24: the most payloads whose sum is exact in fp32


def check_ranges(numbers: object, **ranges: tuple[float, float]) -> None:
    """Refuse a field outside its range, or with a fraction where the default has none. Raises `ConfigError`."""
    for name, (low, high) in ranges.items():
        value, is_whole = getattr(numbers, name), isinstance(getattr(type(numbers), name), int)
        kind = int if is_whole else int | float
        if isinstance(value, bool) or not isinstance(value, kind) or not low <= value <= high:
            raise ConfigError(f"{name} must be {'a whole number ' if is_whole else ''}in {low}..{high}, got {value!r}")


@dataclass(frozen=True, kw_only=True)
class LlamaConfig:
    """The shape of the Llama that is trained."""

    vocab_size: int = 32_000
    """Rows of the embedding, in tokens; 1..2**20; at least the size of the tokenizer."""

    hidden_size: int = 2048
    """Width of the residual stream, in elements; 1..65536; a multiple of num_attention_heads."""

    num_hidden_layers: int = 16
    """Decoder layers; 1..1024."""

    num_attention_heads: int = 8
    """Query heads a layer; 1..1024."""

    num_key_value_heads: int = 8
    """Key and value heads a layer; 1..num_attention_heads; divides it."""

    intermediate_size: int = 8192
    """Width of the feed-forward layer, in elements; 1..262144."""

    max_position_embeddings: int = 2048
    """Longest sequence the positions are made for, in tokens; 1..2**20."""

    def __post_init__(self) -> None:
        check_ranges(
            self,
            vocab_size=(1, 2**20),
            hidden_size=(1, 65_536),
            num_hidden_layers=(1, 1024),
            num_attention_heads=(1, 1024),
            intermediate_size=(1, 262_144),
            max_position_embeddings=(1, 2**20),
        )
        check_ranges(self, num_key_value_heads=(1, self.num_attention_heads))
        if self.hidden_size % (2 * self.num_attention_heads):
            raise ConfigError(
                f"hidden_size must be a multiple of 2 * num_attention_heads ({2 * self.num_attention_heads}), "
                f"got {self.hidden_size}"
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise ConfigError(
                f"num_key_value_heads must divide num_attention_heads ({self.num_attention_heads}), "
                f"got {self.num_key_value_heads}"
            )


@dataclass(frozen=True, kw_only=True)
class PagesConfig:
    """Which text a miner trains on in one window, and how it is cut into sequences."""

    tokenizer_name: str = "togethercomputer/LLaMA-2-7B-32K"
    """A tokenizer of `transformers` by hub name or folder, or `bytes` (256 bytes and end-of-text)."""

    sequence_length: int = 2048
    """Tokens a sequence; 2..2**20."""

    pages_per_window: int = 6
    """Pages a miner is given each window; 1..65536."""

    batch_size: int = 6
    """Sequences a batch; 1..65536."""

    def __post_init__(self) -> None:
        if not self.tokenizer_name:
            raise ConfigError("tokenizer_name must be `bytes`, a name or a folder, got an empty string")
        check_ranges(self, sequence_length=(2, 2**20), pages_per_window=(1, 65_536), batch_size=(1, 65_536))


@dataclass(frozen=True, kw_only=True)
class CompressionConfig:
    """How one window of momentum becomes a payload, and payloads become an update."""

    chunk_size: int = 64
    """Side of the square DCT chunk, in elements; 1..64."""

    topk: int = 32
    """Coefficients sent per chunk; 1..chunk_size ** 2."""

    momentum_decay: float = 0.999
    """Share of the momentum that stays from one window to the next; 0..1."""

    combine: Literal["mean", "sum"] = "mean"
    """How the payloads' coefficients meet: the mean over those who sent a coefficient, or their sum."""

    equalise: Literal["norm", "clip", "none"] = "norm"
    """`norm` gives each payload the same L2 norm in every parameter before they meet; `clip` only brings those above
    the median norm down to it; `none` takes them as they are."""

    value_bits: Literal[1, 2, 3, 8] = 1
    """Bits a value: 1 sends the sign, with one magnitude for all values of a chunk; 2, 3 and 8 send 2, 4 and 128 levels
    of magnitude besides, for research."""

    transform: Literal["dct", "none"] = "dct"
    """What chunks of the gradient become before the largest coefficients are chosen: their DCT, or `none`: they stay as
    they are, for research."""

    index_coding: IndexCoding = "elias_fano"
    """How the places of coefficients travel: `elias_fano` costs no time; `compact` takes 6 % fewer bytes at the
    defaults and some microseconds a chunk each way up to a topk of 93, with values of more than one bit some tens of
    them; beyond that up to 10 milliseconds."""

    def __post_init__(self) -> None:
        check_ranges(self, chunk_size=(1, MAX_CHUNK_SIZE), momentum_decay=(0, 1))
        # 1 and 1.0 are one number, and must be one run.
        object.__setattr__(self, "momentum_decay", float(self.momentum_decay))
        check_ranges(self, topk=(1, self.chunk_size**2))
        if self.combine not in ("mean", "sum"):
            raise ConfigError(f"combine must be mean or sum, got {self.combine!r}")
        if self.equalise not in ("norm", "clip", "none"):
            raise ConfigError(f"equalise must be norm, clip or none, got {self.equalise!r}")
        if self.transform not in ("dct", "none"):
            raise ConfigError(f"transform must be dct or none, got {self.transform!r}")
        if self.value_bits not in (1, 2, 3, 8) or type(self.value_bits) is not int:  # 1.0 and True are equal to 1
            raise ConfigError(f"value_bits must be 1, 2, 3 or 8, got {self.value_bits!r}")
        if self.index_coding not in ("elias_fano", "compact"):
            raise ConfigError(f"index_coding must be elias_fano or compact, got {self.index_coding!r}")


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """The learning rate as a function of the number of windows applied."""

    learning_rate: float = 4e-4
    """Peak step of every parameter in one window; 1e-9..1."""

    warmup_steps: int = 250
    """Windows of linear warm-up from a tenth of the peak; 0..10**6."""

    t_max: int = 20_000
    """Windows of the first cosine cycle; each next one is twice as long; 1..10**7."""

    alpha_f: float = 0.1
    """Floor of the cosine, as a share of the peak; 0..1."""

    weight_decay: float = 0.0
    """Share of lr * parameter that each window takes off; 0..1."""

    def __post_init__(self) -> None:
        check_ranges(
            self,
            learning_rate=(1e-9, 1),
            warmup_steps=(0, 10**6),
            t_max=(1, 10**7),
            alpha_f=(0, 1),
            weight_decay=(0, 1),
        )


@dataclass(frozen=True, kw_only=True)
class WindowConfig:
    """How long a window is, and how payloads are exchanged around its end."""

    blocks_per_window: int = 7
    """Blocks of the chain a window lasts; 1..10**6. A block of Bittensor is 12 s."""

    time_window_delta_seconds: float = 10.0
    """Seconds after the window's end in which a payload may still land; 0..3600."""

    gather_timeout_seconds: float = 35.0
    """Seconds after which a gather goes on with what it has; 0.1..3600."""

    stale_retention: int = 100
    """Windows a payload stays in its bucket; 1..10**9."""

    checkpoint_frequency: int = 100
    """Windows between two checkpoints; 1..10**9."""

    def __post_init__(self) -> None:
        check_ranges(
            self,
            blocks_per_window=(1, 10**6),
            time_window_delta_seconds=(0, 3600),
            gather_timeout_seconds=(0.1, 3600),
            stale_retention=(1, 10**9),
            checkpoint_frequency=(1, 10**9),
        )


@dataclass(frozen=True, kw_only=True)
class PeersConfig:
    """Whose payloads are gathered."""

    max_topk_peers: int = 15
    """Peers gathered at most; 1..512."""

    minimum_peers: int = 5
    """Peers a list must keep; 1..max_topk_peers."""

    peers_to_replace: int = 1
    """Peers exchanged at each replacement; 0..max_topk_peers."""

    peer_replacement_frequency: int = 5
    """Windows between two replacements; 1..10**6."""

    peer_list_window_margin: int = 2
    """Windows between publishing a peer list and following it; 0..10**6."""

    recent_windows: int = 5
    """Windows a peer may be silent and still count as active; 1..10**6."""

    reset_inactivity_windows: int = 25
    """Silent windows after which a peer's score starts anew; 1..10**6."""

    def __post_init__(self) -> None:
        check_ranges(self, max_topk_peers=(1, MAX_PEERS))
        check_ranges(self, minimum_peers=(1, self.max_topk_peers))
        check_ranges(self, peers_to_replace=(0, self.max_topk_peers))
        check_ranges(
            self,
            peer_replacement_frequency=(1, 10**6),
            peer_list_window_margin=(0, 10**6),
            recent_windows=(1, 10**6),
            reset_inactivity_windows=(1, 10**6),
        )


@dataclass(frozen=True, kw_only=True)
class ScoringConfig:
    """How validators judge what miners sent."""

    validator_offset: int = 2
    """Windows a validator stays behind; 1..1000."""

    windows_per_weights: int = 50
    """Windows between two settings of weights; 1..10**6."""

    uids_per_window: int = 4
    """Miners evaluated each window; 2..512: a rating compares."""

    validator_sample_rate: float = 0.1
    """Share of the batches a miner is evaluated on; 1e-6..1."""

    eval_lr_factor: float = 0.2
    """Share of the learning rate a single payload is applied with in evaluation; 1e-6..1."""

    binary_score_ma_alpha: float = 0.05
    """Weight of the newest window in the moving average of the binary indicator; 1e-6..1."""

    sync_max_steps_behind: float = 3.0
    """Steps behind at which the sync score reaches zero; 1e-6..10**6."""

    power_normalisation: float = 2.0
    """Exponent that turns positive scores into weights; 0..100."""

    openskill_beta: float = 20.0
    """Spread of a performance in the Plackett-Luce rating; 1e-6..10**6."""

    openskill_tau: float = 0.1
    """Uncertainty added to a rating by each match; 0..10**6."""

    def __post_init__(self) -> None:
        check_ranges(
            self,
            validator_offset=(1, 1000),
            windows_per_weights=(1, 10**6),
            uids_per_window=(2, MAX_PEERS),
            validator_sample_rate=(1e-6, 1),
            eval_lr_factor=(1e-6, 1),
            binary_score_ma_alpha=(1e-6, 1),
            sync_max_steps_behind=(1e-6, 10**6),
            power_normalisation=(0, 100),
            openskill_beta=(1e-6, 10**6),
            openskill_tau=(0, 10**6),
        )
