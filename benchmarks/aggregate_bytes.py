"""How many bytes does the update of a window take, and how fast is it written and read?

    python benchmarks/aggregate_bytes.py [--quick] [--rounds 7] [--json out.json]

Prints a Markdown table: bits an element (1 is a sign alone, 1.585 is log2 3), and the speed of both ways in elements a
second, as medians of rounds in which all formats take turns. `ours` writes and reads a whole aggregate, with hashes and
checks, from fp32 and to int8; the others only turn the same fp32 values into bytes and back. `base 3` is five
elements a byte; `zlib` is int8 at level 1; `torch` is `torch.save` of int8. Real updates are those of the small Llama
of `hparams.local.json`, trained for some windows by so many peers; speed on them is that of many small tensors.

Keys of the JSON file: updates.U.elements, updates.U.zeros (their share), and for each format F updates.U.formats.F
with `bits`, `encode_per_s` and `decode_per_s` (elements), and `encode_ratio`, `decode_ratio`: ours over F.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import statistics
import sys
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))  # run as a script, its folder is on the path, not its parent

from benchmarks.simulated_training import Setting, Text, WireExchange, mean_gradient
from templar_pl import LlamaModule
from templar_pl.hparams import load_hparams
from templar_pl.protocol import AggregateHead, decode_aggregate, encode_aggregate
from templar_pl.units import Window

ROOT = Path(__file__).parent.parent
RATE = 2e-3
CHUNK_BYTES = 2**20
POWERS = np.array([1, 3, 9, 27, 81], dtype=np.uint8)

Update = Mapping[str, Tensor]
"""Name -> -1, 0, 1 for every element, fp32."""


class HashSigner:
    """Signs by hashing: a real signature takes 41 us, whatever the update."""

    public_key = b"K" * 32

    def sign(self, message: bytes) -> bytes:
        """Sign."""
        return hashlib.sha512(message).digest()


HEAD = AggregateHead(run=bytes(32), window=Window(1), public_key=HashSigner.public_key, manifest=bytes(32))


@dataclass(frozen=True)
class Format:
    """A way to write an update, and to read it."""

    encode: Callable[[Update], list[bytes]]
    decode: Callable[[list[bytes], Update], object]
    """The second argument tells names and shapes only."""


def encode_ours(update: Update) -> list[bytes]:
    """Write an aggregate."""
    shapes = {name: tuple(tensor.shape) for name, tensor in update.items()}
    return [b"".join(encode_aggregate(HEAD, ((name, update[name]) for name in sorted(update)), shapes, HashSigner()))]


def decode_ours(data: list[bytes], update: Update) -> object:
    """Read an aggregate in chunks, as from a file."""
    shapes = {name: tuple(tensor.shape) for name, tensor in update.items()}
    file = io.BytesIO(data[0])
    chunks = iter(lambda: file.read(CHUNK_BYTES), b"")
    return [tensor for _, tensor in decode_aggregate(chunks, shapes, HEAD, lambda *_: True)]


def encode_base3(update: Update) -> list[bytes]:
    """Write five elements a byte."""
    parts = []
    for tensor in update.values():
        digits = np.zeros(-(-tensor.numel() // 5) * 5, dtype=np.uint8)
        digits[: tensor.numel()] = (tensor.flatten() + 1).to(torch.uint8).numpy()
        parts.append((digits.reshape(-1, 5) @ POWERS).tobytes())
    return parts


def decode_base3(data: list[bytes], update: Update) -> object:
    """Read five elements a byte."""
    table = (np.arange(243)[:, None] // POWERS % 3 - 1).astype(np.int8)
    parts = zip(data, update.values(), strict=True)
    return [table[np.frombuffer(part, np.uint8)].reshape(-1)[: tensor.numel()] for part, tensor in parts]


def encode_zlib(update: Update) -> list[bytes]:
    """Write int8 through zlib."""
    return [zlib.compress(tensor.to(torch.int8).numpy().tobytes(), 1) for tensor in update.values()]


def decode_zlib(data: list[bytes], _: Update) -> object:
    """Read int8 through zlib."""
    return [np.frombuffer(zlib.decompress(part), np.int8) for part in data]


def encode_torch(update: Update) -> list[bytes]:
    """Write int8 by `torch.save`."""
    file = io.BytesIO()
    torch.save({name: tensor.to(torch.int8) for name, tensor in update.items()}, file)
    return [file.getvalue()]


def decode_torch(data: list[bytes], _: Update) -> object:
    """Read int8 by `torch.load`."""
    return torch.load(io.BytesIO(data[0]), weights_only=True)


FORMATS = {
    "ours": Format(encode_ours, decode_ours),
    "base 3": Format(encode_base3, decode_base3),
    "zlib": Format(encode_zlib, decode_zlib),
    "torch": Format(encode_torch, decode_torch),
}


def random_updates(numel: int) -> dict[str, Update]:
    """Return updates of one matrix, by what zeros they have."""
    chance = np.random.default_rng(0)
    signs = chance.choice(np.array([-1, 1], dtype=np.float32), numel)
    found = {}
    for share in (0.0, 1e-5, 1e-3, 0.1, 0.2, 1 / 3, 0.5, 0.98):
        values = np.where(chance.random(numel, dtype=np.float32) < share, np.float32(0), signs)
        found[f"{share:.3g} zeros anywhere"] = {"w": torch.from_numpy(values)}
    chunks = np.repeat(chance.random(numel // 64) < 0.5, 64)
    found["half of all rows of chunks zero"] = {"w": torch.from_numpy(np.where(chunks, np.float32(0), signs))}
    return found


def real_updates(peers: int, windows: int, cache: Path) -> dict[str, Update]:
    """Train a small Llama and return its first and its last update."""
    hparams = load_hparams(ROOT / "hparams.json", ROOT / "hparams.local.json")
    text = Text(Setting(hparams=hparams, windows=windows, peers=peers, sequences=4, warmup=1), cache)
    module = LlamaModule(hparams.llama, hparams.schedule, init_seed=0)
    parameters = dict(module.named_parameters())
    exchange = WireExchange({name: tuple(p.shape) for name, p in parameters.items()}, hparams.compression, peers)
    found = {}
    for window in range(windows):
        update = exchange.update([mean_gradient(module, text.batch(peer, window)) for peer in range(peers)], RATE)
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.sub_(RATE * update[name])
        if window in (0, windows - 1):
            found[f"real, {peers} peers, window {window}"] = {name: tensor.clone() for name, tensor in update.items()}
    return found


def measure(update: Update, rounds: int) -> dict[str, object]:
    """Return the figures of one update in all formats."""
    elements = sum(tensor.numel() for tensor in update.values())
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in FORMATS}
    bits = {}
    for _ in range(rounds + 1):  # the first one does not count
        for name, form in FORMATS.items():
            start = time.perf_counter()
            data = form.encode(update)
            middle = time.perf_counter()
            form.decode(data, update)
            seconds[name].append((middle - start, time.perf_counter() - middle))
            bits[name] = 8 * sum(map(len, data)) / elements
    medians = {
        name: [statistics.median(way) for way in zip(*taken[1:], strict=True)] for name, taken in seconds.items()
    }
    ours = medians["ours"]
    formats = {
        name: {
            "bits": bits[name],
            "encode_per_s": elements / encode,
            "decode_per_s": elements / decode,
            "encode_ratio": encode / ours[0],
            "decode_ratio": decode / ours[1],
        }
        for name, (encode, decode) in medians.items()
    }
    zeros = sum(int((tensor == 0).sum()) for tensor in update.values())
    return {"elements": elements, "zeros": zeros / elements, "formats": formats}


def show(name: str, figures: Mapping[str, dict[str, float]]) -> None:
    """Print one row."""
    cells = [
        f"{f['bits']:.4f} · {f['encode_per_s'] / 1e6:.0f} · {f['decode_per_s'] / 1e6:.0f}"
        + ("" if kind == "ours" else f" ({f['encode_ratio']:.1f}x, {f['decode_ratio']:.1f}x)")
        for kind, f in figures.items()
    ]
    print(f"| {name} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="some seconds: fewer elements, windows and rounds")
    parser.add_argument("--rounds", type=int, default=7, help="rounds that count")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--cache", type=Path, default=Path(".templar/pages"), help="where the page set is or goes")
    options = parser.parse_args()
    torch.set_num_threads(1)
    updates = random_updates(2**20 if options.quick else 2**24)
    for peers in (2,) if options.quick else (1, 3, 15):
        updates |= real_updates(peers, 2 if options.quick else 6, options.cache)
    print("bits an element · encode · decode in 10^6 elements a second (how many times faster ours is, both ways)\n")
    print(f"| update | {' | '.join(FORMATS)} |\n| --- | {' | '.join('--:' for _ in FORMATS)} |")
    report: dict[str, dict[str, object]] = {}
    for name, update in updates.items():
        report[name] = measure(update, 2 if options.quick else options.rounds)
        show(name, report[name]["formats"])  # pyright: ignore[reportArgumentType]  # a table of mixed types
    if options.json:
        options.json.write_text(json.dumps({"updates": report}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
