"""The loss before and after one payload, by whatever step a module has."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

from templar_pl.config import PagesConfig, ScheduleConfig
from templar_pl.data import IGNORED_LABEL, PageSetConfig
from templar_pl.errors import ConfigError
from templar_pl.scoring import Draw
from templar_pl.training import LlamaModule, TemplarDataModule
from templar_pl.training.evaluation import Model, evaluate_payloads, mean_losses, step_losses
from templar_pl.training.evaluation_pages import EvaluationBatches, draw_batches
from templar_pl.units import Uid, Window
from tests.data.helpers import write_page_set
from tests.training.scored_modules import Regression, Sums, sums_loader
from tests.training.test_llama_module import SCHEDULE, TINY, slow_costs

CPU = torch.device("cpu")
DRAW = Draw(bytes(range(32)))
RATE = 0.02


def model_of(module: LightningModule) -> Model:
    return Model(module, dict(module.named_parameters()), CPU)


def signs(module: LightningModule, seed: int) -> Iterator[tuple[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        yield name, torch.randint(-1, 2, parameter.shape, generator=generator).float()


def state_of(module: LightningModule) -> dict[str, object]:
    return {
        **{name: tensor.detach().flatten().view(torch.uint8).tolist() for name, tensor in module.state_dict().items()},
        "modes": [part.training for part in module.modules()],
        "calls": getattr(module, "calls", 0),
        "random": torch.get_rng_state().tolist(),
    }


def slow_loss(module: Regression, batches: list[tuple[Tensor, Tensor]]) -> float:
    """Compute the mean absolute error with running statistics, without dropout and without noise."""
    weight, bias, scale, shift = (
        part.detach().double()
        for part in (module.layer.weight, module.layer.bias, module.norm.weight, module.norm.bias)
    )
    means = []
    for inputs, targets in batches:
        scaled = inputs.double() / math.sqrt(1 + module.norm.eps) * scale + shift
        guesses = scaled @ weight.T + bias
        means.append(float((guesses.squeeze(-1) - targets).abs().mean()))
    return sum(means) / len(means)


def test_a_foreign_module_is_measured_by_its_own_loss_before_and_after() -> None:
    module = Regression()
    batches = draw_batches(sums_loader(), DRAW, Window(3), [Uid(0), Uid(1)], 0.5)

    found = evaluate_payloads(model_of(module), {Uid(u): (lambda u=u: signs(module, u)) for u in (1, 0)}, batches, RATE)

    assert [evaluation.uid for evaluation in found] == [0, 1]
    for evaluation in found:
        changed = Regression()
        with torch.no_grad():
            for name, direction in signs(module, evaluation.uid):
                changed.get_parameter(name).sub_(RATE * direction)
        for losses, chosen in ((evaluation.own, batches.own[evaluation.uid]), (evaluation.random, batches.random)):
            assert abs(losses.before - slow_loss(module, list(chosen))) < 2e-3  # the step adds noise of 1e-3
            assert abs(losses.after - slow_loss(changed, list(chosen))) < 2e-3
            # The noise is the same before and after, so that it has no part in the difference.
            gain = slow_loss(module, list(chosen)) - slow_loss(changed, list(chosen))
            assert abs((losses.before - losses.after) - gain) < 1e-4


def test_evaluation_leaves_no_trace_in_a_module() -> None:
    module = Regression()
    module.norm.eval()
    batches = draw_batches(sums_loader(), DRAW, Window(3), [Uid(0)], 1.0)
    before, average = state_of(module), module.average

    evaluate_payloads(model_of(module), {Uid(0): lambda: signs(module, 0)}, batches, RATE)

    assert state_of(module) == before
    assert module.average is average
    assert all(parameter.grad is None for parameter in module.parameters())


class Breaks(Regression):
    """Its step fails at the third batch."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        if self.calls == 2:
            raise ArithmeticError("a bug of the module")
        return super().training_step(batch, batch_idx)


def test_a_step_that_fails_leaves_no_trace_either() -> None:
    module = Breaks()
    batches = draw_batches(sums_loader(), DRAW, Window(3), [Uid(0)], 1.0)
    before = state_of(module)

    with pytest.raises(ArithmeticError, match="a bug of the module"):
        evaluate_payloads(model_of(module), {Uid(0): lambda: signs(module, 0)}, batches, RATE)

    assert state_of(module) == before


def test_losses_do_not_depend_on_who_else_is_evaluated() -> None:
    module = Regression()
    uids = [Uid(0), Uid(1), Uid(2)]
    payloads = {uid: (lambda uid=uid: signs(module, uid)) for uid in uids}
    batches = draw_batches(sums_loader(), DRAW, Window(3), uids, 0.5)

    together = evaluate_payloads(model_of(module), payloads, batches, RATE)

    alone = [evaluate_payloads(model_of(module), {uid: payloads[uid]}, batches, RATE)[0] for uid in uids]
    assert together == alone


def test_a_payload_that_breaks_the_loss_counts_and_harms_nobody_else() -> None:
    module = Regression()
    batches = draw_batches(sums_loader(), DRAW, Window(3), [Uid(0), Uid(1)], 0.5)

    def broken() -> Iterator[tuple[str, Tensor]]:
        for name, parameter in module.named_parameters():
            yield name, torch.full(parameter.shape, math.nan)

    payloads = {Uid(0): broken, Uid(1): lambda: signs(module, 1)}
    first, second = evaluate_payloads(model_of(module), payloads, batches, RATE)

    assert math.isnan(first.own.after)
    assert math.isnan(first.random.after)
    only = evaluate_payloads(model_of(module), {Uid(1): payloads[Uid(1)]}, batches, RATE)
    assert [second] == only


def test_a_model_of_our_own_that_is_broken_evaluates_nobody(caplog: pytest.LogCaptureFixture) -> None:
    module = Regression()
    with torch.no_grad():
        module.layer.bias.fill_(math.inf)
    batches = draw_batches(sums_loader(), DRAW, Window(3), [Uid(0)], 0.5)

    with caplog.at_level(logging.WARNING, "templar_pl"):
        found = evaluate_payloads(model_of(module), {Uid(0): lambda: signs(module, 0)}, batches, RATE)

    assert found == []
    assert "uid 0 is not evaluated" in caplog.text


class Picky(LightningModule):
    """Skips batches as Lightning allows: always the second one, and all whose loss is no number."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def training_step(self, batch: Tensor) -> Tensor | None:
        loss = (self.weight * batch).mean()
        return None if batch[0] == 1 or loss.isnan() else loss


def test_batches_without_a_loss_are_left_out_and_hiding_a_loss_gains_nothing() -> None:
    module = Picky()
    chosen = [torch.full((2,), float(value)) for value in range(4)]
    batches = EvaluationBatches({Uid(0): chosen}, chosen, bytes(32), 0)

    def payload(value: float) -> Iterator[tuple[str, Tensor]]:
        yield "weight", torch.tensor(value)

    good = evaluate_payloads(model_of(module), {Uid(0): lambda: payload(1.0)}, batches, 0.5)
    hidden = evaluate_payloads(model_of(module), {Uid(0): lambda: payload(math.nan)}, batches, 0.5)

    assert (good[0].own.before, good[0].own.after) == (5 / 3, 2.5 / 3)
    assert math.isnan(hidden[0].own.after)


@given(st.lists(st.tuples(st.none() | st.floats(-1e6, 1e6), st.none() | st.floats()), min_size=1))
def test_the_mean_is_over_the_batches_that_had_a_loss_before(pairs: list[tuple[float | None, float | None]]) -> None:
    known = [(first, second) for first, second in pairs if first is not None]
    if not known:
        return

    losses = mean_losses([first for first, _ in pairs], [second for _, second in pairs])

    assert math.isclose(losses.before, math.fsum(first for first, _ in known) / len(known), abs_tol=1e-6)
    if any(second is None or math.isnan(second) for _, second in known):
        assert math.isnan(losses.after)


class Drifting(Regression):
    """Its loss hangs on what earlier steps left in a buffer and in an attribute."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        loss = super().training_step(batch, batch_idx)["loss"]
        return {"loss": loss + self.average + self.calls}


def test_what_a_step_leaves_behind_has_no_part_in_what_a_payload_did() -> None:
    module = Drifting()
    batches = draw_batches(sums_loader(), DRAW, Window(3), [Uid(0), Uid(1)], 0.5)

    def nothing() -> Iterator[tuple[str, Tensor]]:
        return iter(())

    for found in evaluate_payloads(model_of(module), {Uid(0): nothing, Uid(1): nothing}, batches, RATE):
        assert found.own.before == found.own.after
        assert found.random.before == found.random.after


class Wordy(Picky):
    def training_step(self, batch: Tensor) -> Tensor | None:
        return torch.zeros(3)


def test_a_step_that_returns_no_loss_is_refused() -> None:
    with pytest.raises(ConfigError, match="training_step of Wordy must return a loss"):
        step_losses(Wordy(), [torch.ones(1)], CPU, 0)


def test_batches_are_a_share_of_own_and_of_random_pages_and_hang_on_the_secret_alone() -> None:
    loader = sums_loader(rows=80, batch_size=4)

    batches = draw_batches(loader, DRAW, Window(5), [Uid(2), Uid(7)], 0.25)

    assert isinstance(loader.dataset, Sums)
    assert loader.dataset.begun == [(2, 5), (7, 5), DRAW.pages()]
    assert {uid: len(own) for uid, own in batches.own.items()} == {2: 5, 7: 5}
    assert len(batches.random) == 5
    loader.dataset.begin_window(Uid(7), Window(5))
    everything = list(loader)
    expected = [everything[number] for number in DRAW.choose("own/7", 20, 0.25)]
    assert all(torch.equal(got[0], want[0]) for got, want in zip(batches.own[Uid(7)], expected, strict=True))


def test_data_that_knows_no_windows_is_refused() -> None:
    loader = DataLoader(torch.zeros(4, 2), batch_size=2)  # type: ignore[arg-type]  # a tensor is a dataset to torch

    with pytest.raises(ConfigError, match="which data was assigned to whom"):
        draw_batches(loader, DRAW, Window(0), [Uid(0)], 0.5)


def test_a_loader_without_batches_is_refused() -> None:
    with pytest.raises(ConfigError, match="no batches for uid 3 in window 2"):
        draw_batches(sums_loader(rows=0), DRAW, Window(2), [Uid(3)], 0.5)


def test_a_llama_is_measured_in_nats_a_token(tmp_path: Path) -> None:
    write_page_set(tmp_path, 60)
    pages = PagesConfig(tokenizer_name="bytes", sequence_length=16, pages_per_window=2, batch_size=4)
    data = TemplarDataModule(pages, PageSetConfig(folder=str(tmp_path), rows_per_page=3, num_validation_pages=2))
    data.prepare_data()
    data.setup("fit")
    module = LlamaModule(TINY, ScheduleConfig(**vars(SCHEDULE)))

    batches = draw_batches(data.any_window_dataloader(), DRAW, Window(4), [Uid(1)], 0.3)
    found = evaluate_payloads(model_of(module), {Uid(1): lambda: signs(module, 1)}, batches, 0.001)

    with torch.no_grad():
        means = []
        for batch in batches.own[Uid(1)]:
            costs = slow_costs(module(batch["input_ids"]), batch["labels"])
            assert len(costs) == int((batch["labels"][:, 1:] != IGNORED_LABEL).sum())
            means.append(sum(costs) / len(costs))
    assert math.isclose(found[0].own.before, sum(means) / len(means), rel_tol=1e-5)
    assert found[0].own.before != found[0].own.after
    data.teardown("fit")
