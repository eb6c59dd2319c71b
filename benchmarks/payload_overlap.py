"""How alike are payloads of miners who trained for themselves, and what do evaluations of them show?

    python benchmarks/payload_overlap.py [--windows 60] [--sequences 8] [--decay 0.999] [--topk 32] [--seed 1]

Trains the toy model with three honest miners; beside them, without being applied, a lazy miner (other pages than it was
given), a stale one (parameters four windows old) and a noisy one send payloads, and a copycat repeats the first one's.
Prints two Markdown tables: the agreement of payloads (`templar_pl.scoring.agreement_of`; 0 as by chance, 1 if equal) by
window, and the relative improvements on own and on random pages, each payload applied alone with a fifth of the rate.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))  # run as a script, its folder is on the path, not its parent

from benchmarks.simulated_training import SEED_STRIDE, Setting, Text, held_out_loss, mean_gradient
from templar_pl import LlamaModule
from templar_pl.compression import Body, MomentumCodec, encode_body
from templar_pl.config import CompressionConfig, ScheduleConfig, ScoringConfig
from templar_pl.hparams import load_hparams
from templar_pl.protocol.schedule import learning_rate_at
from templar_pl.scoring import Places, agreement_of, count_shared

ROOT = Path(__file__).parent.parent
HONEST = ("honest 1", "honest 2", "honest 3")
SENDERS = (*HONEST, "lazy", "stale", "noisy")
STALE_WINDOWS = 4
FIRST_EVALUATED = 3
OTHER_PAGES = 500  # added to a uid: pages that nobody was given

Gradients = dict[str, Tensor]


@dataclass
class Study:
    """A training and what was seen of it."""

    module: LlamaModule
    text: Text
    schedule: ScheduleConfig
    codecs: dict[str, MomentumCodec]
    seed: int
    past: deque[Gradients] = field(default_factory=lambda: deque(maxlen=STALE_WINDOWS + 1))
    agreements: dict[int, dict[tuple[str, str], float]] = field(default_factory=dict)
    improvements: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    @property
    def parameters(self) -> Gradients:
        """The parameters that all share."""
        return {name: parameter.detach() for name, parameter in self.module.named_parameters()}

    def set(self, parameters: Mapping[str, Tensor]) -> None:
        """Give the model other parameters."""
        for name, parameter in self.parameters.items():
            parameter.copy_(parameters[name])

    def uid(self, sender: str) -> int:
        """Return whose pages are a sender's own."""
        return self.seed * SEED_STRIDE + (*SENDERS, "copycat").index(sender)


def gradient(study: Study, sender: str, window: int) -> Gradients:
    """Return what a sender takes for its gradient."""
    if sender == "noisy":
        return {name: torch.randn_like(parameter) for name, parameter in study.parameters.items()}
    uid = study.uid(sender) + (OTHER_PAGES if sender == "lazy" else 0)
    if sender == "stale":
        study.set(study.past[0])
    found = mean_gradient(study.module, study.text.batch(uid, window))
    study.set(study.past[-1])
    return found


def send(study: Study, window: int) -> dict[str, Body]:
    """Return the payloads of a window."""
    rate = learning_rate_at(window, study.schedule)
    bodies = {}
    for sender, codec in study.codecs.items():
        own = gradient(study, sender, window)
        bodies[sender] = encode_body(codec.send_(own, dict.fromkeys(own, rate)), codec.grids)
    return bodies


def places(body: Body) -> dict[str, Places]:
    """Return what a payload sends, without signs and scales."""
    return {
        name: Places(part.indices.numpy(), part.counts.numpy(), body.grids[name].chunk_numel)
        for name, part in body.items()
    }


def agreements(bodies: Mapping[str, Body]) -> dict[tuple[str, str], float]:
    """Return the agreement of every two payloads."""
    sent = {sender: places(body) for sender, body in bodies.items()}
    return {
        (one, other): agreement_of(count_shared(sent[one][name], sent[other][name]) for name in sent[one])
        for one, other in itertools.combinations(sent, 2)
    }


def evaluate(study: Study, bodies: Mapping[str, Body], window: int) -> None:
    """Apply each payload alone and take it back."""
    step = learning_rate_at(window, study.schedule) * ScoringConfig().eval_lr_factor
    on_random = study.text.batch(study.seed * SEED_STRIDE + 2 * OTHER_PAGES - 1, window)
    codec = study.codecs[HONEST[0]]
    for sender, body in {**bodies, "copycat": bodies[HONEST[0]]}.items():
        batches = study.text.batch(study.uid(sender), window), on_random
        before = [held_out_loss(study.module, [batch]) for batch in batches]
        update = codec.update([body])
        study.set({name: value - step * update[name] for name, value in study.past[-1].items()})
        after = [held_out_loss(study.module, [batch]) for batch in batches]
        study.set(study.past[-1])
        own, other = (1 - late / early for early, late in zip(before, after, strict=True))
        study.improvements.setdefault(sender, []).append((own, other))


def train(study: Study, windows: int) -> None:
    """Let the honest miners train, and look at everybody."""
    codec = study.codecs[HONEST[0]]
    for window in range(windows):
        study.past.append({name: value.clone() for name, value in study.parameters.items()})
        bodies = send(study, window)
        study.agreements[window] = agreements(bodies)
        if window >= FIRST_EVALUATED:
            evaluate(study, bodies, window)
        update = codec.update([bodies[sender] for sender in HONEST])
        rate = learning_rate_at(window, study.schedule)
        study.set({name: value - rate * update[name] for name, value in study.past[-1].items()})


def print_tables(study: Study) -> None:
    """Print what was seen."""
    print("| window | honest pairs | with stale | with noisy |\n|---|---|---|---|")
    for window, found in study.agreements.items():
        if window < 10 or window % 10 == 0:
            honest = [value for pair, value in found.items() if set(pair) <= {*HONEST, "lazy"}]
            stale = [value for pair, value in found.items() if "stale" in pair and "noisy" not in pair]
            noisy = [abs(value) for pair, value in found.items() if "noisy" in pair]
            print(f"| {window} | {min(honest):.2f}..{max(honest):.2f} | {max(stale):.2f} | {max(noisy):.3f} |")
    print("\n| payload | own pages | random pages | own - random | own > random |\n|---|---|---|---|---|")
    for sender, found in study.improvements.items():
        own, other = zip(*found, strict=True)
        gaps = [one - another for one, another in found]
        columns = [f"{1e3 * statistics.mean(x):+.2f} ± {1e3 * statistics.pstdev(x):.2f}" for x in (own, other, gaps)]
        share = sum(gap > 0 for gap in gaps) / len(gaps)
        print(f"| {sender} | {' | '.join(columns)} | {share:.0%} |")
    print("\nImprovements in thousandths of the loss, mean ± standard deviation over windows.")


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=60)
    parser.add_argument("--sequences", type=int, default=8, help="of 128 tokens, a miner and window")
    parser.add_argument("--decay", type=float, default=0.999)
    parser.add_argument("--topk", type=int, default=32)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    hparams = load_hparams(ROOT / "hparams.json", ROOT / "hparams.local.json")
    setting = Setting(
        hparams=hparams, windows=options.windows, peers=len(HONEST), sequences=options.sequences, warmup=10
    )
    module = LlamaModule(hparams.llama, hparams.schedule, init_seed=options.seed)
    shapes = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    config = CompressionConfig(momentum_decay=options.decay, topk=options.topk)
    codecs = {sender: MomentumCodec(shapes, config, torch.device("cpu")) for sender in SENDERS}
    with tempfile.TemporaryDirectory() as cache:
        study = Study(module, Text(setting, Path(cache)), hparams.schedule, codecs, options.seed)
        train(study, options.windows)
    print_tables(study)


if __name__ == "__main__":
    main()
