"""What do value bits, the transform and the rule of combining do to the loss of a small model, and to its bytes?

    python benchmarks/training_comparison.py [--quick] [--windows 300] [--peers 4] [--seeds 0 1 2] [--variants NAME ...]
        [--runs runs/training_comparison.jsonl] [--json out.json]

Trains the toy Llama of hparams.local.json on the embedded text once for each variant and seed, with simulated peers
that share one set of parameters (`simulated_training.py`). A seed stands for the initial weights and for the pages of
every peer; all variants get the same. The peak of the learning rate is tuned for each family of variants, on a seed
that is not reported: a grid of factors of two, extended until its best is not at an end, and refined around that. All
use one schedule: linear warm-up over a twentieth of the windows, then cosine to zero.

Each finished training is one line of the file `--runs`; what is in it is not trained again, so an interrupted study
goes on, and several processes with different `--variants` or `--seeds` can share it. `--quick` trains a few windows
with the middle of each grid and keeps nothing: it shows that the script works.

Keys of the JSON file:
    setting                              windows, peers, sequences a peer and window, warmup, parameters of the model
    families.F.learning_rate             the peak that was chosen for family F
    families.F.tuning                    [peak, held-out loss] of all that were tried
    variants.V.family, .learning_rate    of variant V
    variants.V.payload_bytes             of one peer in one window, without header and signature
    variants.V.times_smaller             4 bytes a parameter / payload_bytes
    variants.V.losses                    held-out loss in nats a token at the end, by seed
    variants.V.mean, .standard_error     of the losses; null with one seed
    variants.V.over_default.mean, .standard_error
                                         of the differences to the variant `default` with the same seed
"""

from __future__ import annotations

import argparse
import fcntl
import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))  # run as a script, its folder is on the path, not its parent

from benchmarks.simulated_training import FP32_BYTES, Outcome, Setting, Text, Variant, train
from templar_pl.config import CompressionConfig
from templar_pl.hparams import load_hparams
from templar_pl.training.module import build_llama

ROOT = Path(__file__).parent.parent
TUNING_SEED = 1000
GRIDS: dict[str, tuple[float, ...]] = {
    "dct": (0.5e-3, 1e-3, 2e-3),
    "dct, fp32": (0.5e-3, 1e-3, 2e-3),
    "no transform": (2e-3, 4e-3, 8e-3),
    "sign": (0.5e-3, 1e-3, 2e-3),
    "adamw": (1e-3, 2e-3, 4e-3),
}
"""Family -> the first peaks that are tried, ascending, in factors of two."""


def variants_of(base: CompressionConfig) -> list[Variant]:
    """Return what is compared, the default first and the one that each family is tuned with before its others."""
    found: list[Variant] = []

    def add(name: str, family: str, kind: Any, **changes: Any) -> None:
        found.append(Variant(name=name, family=family, kind=kind, compression=replace(base, **changes)))

    add("default", "dct", "wire")
    add("2-bit", "dct", "wire", value_bits=2)
    add("3-bit", "dct", "wire", value_bits=3)
    add("8-bit", "dct", "wire", value_bits=8)
    add("fp32", "dct, fp32", "float")
    add("sum", "dct", "wire", combine="sum")
    add("8-bit, sum", "dct", "wire", value_bits=8, combine="sum")
    add("fp32, sum", "dct, fp32", "float", combine="sum")
    add("no transform", "no transform", "wire", transform="none")
    add("no transform, 8-bit", "no transform", "wire", transform="none", value_bits=8)
    add("no transform, fp32", "no transform", "float", transform="none")
    add("not equalised", "dct", "wire", equalise="none")
    add("k = 64", "dct", "wire", topk=64)
    add("decay 0.999", "dct", "wire", momentum_decay=0.999)
    add("published scheme", "dct, fp32", "published")
    add("sign", "sign", "sign", momentum_decay=0.0)
    add("adamw", "adamw", "adamw")
    return found


@dataclass(frozen=True)
class Ledger:
    """The finished trainings, one JSON object a line."""

    path: Path | None
    """None keeps nothing."""

    def find(self, key: dict[str, Any]) -> Outcome | None:
        """Return how a training ended if it is in the file."""
        if self.path is None or not self.path.exists():
            return None
        for line in self.path.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            if record["key"] == key:
                return Outcome(**record["outcome"])
        return None

    def add(self, key: dict[str, Any], outcome: Outcome) -> None:
        """Write one line, whole, also beside other processes."""
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(json.dumps({"key": key, "outcome": asdict(outcome)}) + "\n")


@dataclass(frozen=True)
class Study:
    """Trainings with one setting, none of them twice."""

    setting: Setting
    text: Text
    ledger: Ledger

    def outcome(self, variant: Variant, learning_rate: float, seed: int) -> Outcome:
        """Look a training up, or do it."""
        key = {
            "kind": variant.kind,
            "compression": asdict(variant.compression),
            "learning_rate": learning_rate,
            "seed": seed,
            **sizes(self.setting),
        }
        found = self.ledger.find(key)
        if found is None:
            found = train(variant, learning_rate, seed, self.setting, self.text)
            self.ledger.add(key, found)
            print(f"{variant.name:>20} {learning_rate:.2g} seed {seed}: {found.loss:.4f}", file=sys.stderr, flush=True)
        return found


def tune(loss_at: Callable[[float], float], grid: Sequence[float]) -> list[tuple[float, float]]:
    """Try learning rates in factors of two until the best is not at an end, then half a factor to both of its sides.

    Args:
        loss_at: the loss with a peak; not below that of both neighbours for ever.
        grid: the first peaks, at least two, ascending.

    Returns:
        (peak, loss) of all that were tried, ascending.
    """
    tried = [(peak, loss_at(peak)) for peak in grid]
    while (best := min(tried, key=lambda entry: entry[1])) in (tried[0], tried[-1]):
        if best is tried[0]:
            tried.insert(0, (best[0] / 2, loss_at(best[0] / 2)))
        else:
            tried.append((best[0] * 2, loss_at(best[0] * 2)))
    halfway = [best[0] * factor for factor in (0.5**0.5, 2**0.5)]
    return sorted([*tried, *((peak, loss_at(peak)) for peak in halfway)])


def sizes(setting: Setting) -> dict[str, int]:
    """Return the numbers of a setting that the command line can change."""
    return {name: getattr(setting, name) for name in ("windows", "peers", "sequences", "warmup")}


def spread(values: Sequence[float]) -> dict[str, float | None]:
    """Return the mean and its standard error."""
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "standard_error": error}


def tune_families(study: Study, variants: Sequence[Variant], chosen: set[str], *, tunes: bool) -> dict[str, Any]:
    """Return the families' part of the report: each is tuned with the first of its variants, compared or not."""
    families: dict[str, Any] = {}
    for variant in variants:
        if variant.family in chosen and variant.family not in families:
            grid = GRIDS[variant.family]
            tried = tune(lambda peak, v=variant: study.outcome(v, peak, TUNING_SEED).loss, grid) if tunes else []
            best = min(tried, key=lambda entry: entry[1])[0] if tried else grid[len(grid) // 2]
            families[variant.family] = {"learning_rate": best, "tuning": tried}
    return families


def compare(
    study: Study, variants: Sequence[Variant], families: Mapping[str, Any], seeds: Sequence[int]
) -> dict[str, Any]:
    """Train, and return the variants' part of the report."""
    results: dict[str, Any] = {}
    for variant in variants:
        peak = families[variant.family]["learning_rate"]
        outcomes = {seed: study.outcome(variant, peak, seed) for seed in seeds}
        losses = {seed: outcome.loss for seed, outcome in outcomes.items()}
        results[variant.name] = {
            "family": variant.family,
            "learning_rate": peak,
            "payload_bytes": next(iter(outcomes.values())).payload_bytes,
            "losses": losses,
            **spread(list(losses.values())),
        }
        if "default" in results:
            differences = [losses[seed] - results["default"]["losses"][seed] for seed in seeds]
            results[variant.name]["over_default"] = spread(differences)
    return results


def show(report: dict[str, Any]) -> None:
    """Print the report as a Markdown table."""
    print("| variant | bytes | times smaller | peak | loss | over the default |\n| --- | --: | --: | --: | --: | --: |")
    for name, got in report["variants"].items():
        over = _plus_minus(got["over_default"], "+") if "over_default" in got else ""
        print(
            f"| {name} | {got['payload_bytes']} | {got['times_smaller']:.0f} | {got['learning_rate']:.2g} "
            f"| {_plus_minus(got)} | {over} |"
        )


def _plus_minus(got: dict[str, float | None], sign: str = "") -> str:
    error = "" if got["standard_error"] is None else f" ± {got['standard_error']:.4f}"
    return f"{got['mean']:{sign}.4f}{error}"


def main() -> None:
    """Train, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--quick", action="store_true", help="some seconds: 3 windows, 2 peers, one seed, no tuning")
    parser.add_argument("--windows", type=int, default=300, help="updates of one training")
    parser.add_argument("--peers", type=int, default=4, help="simulated peers")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="other than 1000, the seed for tuning")
    parser.add_argument("--variants", nargs="+", help="names to compare; all if not given")
    parser.add_argument("--runs", type=Path, default=Path("runs/training_comparison.jsonl"), help="finished trainings")
    parser.add_argument("--cache", type=Path, default=Path(".templar/pages"), help="where the page set is or goes")
    options = parser.parse_args()
    torch.set_num_threads(1)  # the same sums in the same order on every machine of one kind
    hparams = load_hparams(ROOT / "hparams.json", ROOT / "hparams.local.json")
    if options.quick:
        setting = Setting(hparams=hparams, windows=3, peers=2, sequences=1, warmup=1, validation_pages=1)
    else:
        setting = Setting(
            hparams=hparams, windows=options.windows, peers=options.peers, sequences=4, warmup=options.windows // 20
        )
    variants = variants_of(hparams.compression)
    if unknown := set(options.variants or ()) - {variant.name for variant in variants}:
        parser.error(f"unknown variants {sorted(unknown)}; there are {[variant.name for variant in variants]}")
    chosen = [variant for variant in variants if not options.variants or variant.name in options.variants]
    study = Study(setting, Text(setting, options.cache), Ledger(None if options.quick else options.runs))
    families = tune_families(study, variants, {variant.family for variant in chosen}, tunes=not options.quick)
    results = compare(study, chosen, families, options.seeds[:1] if options.quick else options.seeds)
    parameters = sum(p.numel() for p in build_llama(hparams.llama, 0).parameters())
    report = {"setting": {**sizes(setting), "parameters": parameters}, "families": families, "variants": results}
    for got in results.values():
        got["times_smaller"] = FP32_BYTES * parameters / got["payload_bytes"]
    show(report)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
