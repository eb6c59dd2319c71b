"""Parameter shapes of Llamas that the benchmarks measure."""

from __future__ import annotations

VOCABULARY = 32_000


def layer(hidden: int, intermediate: int, prefix: str = "") -> dict[str, tuple[int, ...]]:
    """Return name -> shape of the parameters of one decoder layer with as many key heads as query heads."""
    return {
        **{f"{prefix}self_attn.{part}_proj.weight": (hidden, hidden) for part in "qkvo"},
        **{f"{prefix}mlp.{part}_proj.weight": (intermediate, hidden) for part in ("gate", "up")},
        f"{prefix}mlp.down_proj.weight": (hidden, intermediate),
        f"{prefix}input_layernorm.weight": (hidden,),
        f"{prefix}post_attention_layernorm.weight": (hidden,),
    }


def model(hidden: int, intermediate: int, layers: int) -> dict[str, tuple[int, ...]]:
    """Return name -> shape of all parameters of a Llama with an untied head."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, hidden)}
    for number in range(layers):
        shapes |= layer(hidden, intermediate, f"model.layers.{number}.")
    return shapes | {"model.norm.weight": (hidden,), "lm_head.weight": (VOCABULARY, hidden)}


SCOPES: dict[str, dict[str, tuple[int, ...]]] = {
    "layer_150m": layer(768, 2560),
    "layer_1b2": layer(2048, 8192),
    "model_150m": model(768, 2560, 12),
}
"""What is measured: a decoder layer of a 148 M and of the 1.2 B Llama, and the whole 148 M."""
