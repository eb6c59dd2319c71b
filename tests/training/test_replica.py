"""A model without a trainer: it applies what the strategy applies, to the bit."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from templar_pl.config import CompressionConfig, PeersConfig, ScheduleConfig
from templar_pl.errors import ConfigError
from templar_pl.protocol import fingerprint
from templar_pl.training import Replica
from templar_pl.training.applying import STEP_NUMEL
from templar_pl.training.optimizer import DecoupledSGD, WindowSchedule
from tests.training.local import ConvClassifier, local_strategy, quiet_trainer, stripes

CPU = torch.device("cpu")
SCHEDULE = ScheduleConfig(learning_rate=0.01, warmup_steps=3, t_max=5)
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "decoupled": lambda params: DecoupledSGD(params, 0.01, weight_decay=0.1),
    "adamw": lambda params: torch.optim.AdamW(params, lr=0.01, weight_decay=0.1, amsgrad=True),
    "momentum": lambda params: torch.optim.SGD(params, lr=0.01, momentum=0.9, nesterov=True, weight_decay=0.1),
    "norms": lambda params: NormalisedSGD(params, lr=0.01),
}


class NormalisedSGD(torch.optim.SGD):
    """Looks at all gradients together."""

    def step(self, closure: Any = None) -> Any:
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
        for gradient in gradients:
            gradient.div_(norm)
        return super().step(closure)


class Scheduled(ConvClassifier):
    """Has a schedule, and a weight that two layers share."""

    def __init__(self, optimizer: Callable[[Any], torch.optim.Optimizer]) -> None:
        super().__init__(optimizer)
        self.again = nn.Linear(8 * 36, 3)
        self.again.weight = self.net.get_parameter("4.weight")
        nn.init.zeros_(self.again.bias)
        self.frozen = Parameter(torch.ones(3), requires_grad=False)

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": WindowSchedule(optimizer, SCHEDULE)}}


def gradients_of(module: LightningModule) -> dict[str, Tensor]:
    return {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}


def replica(module: LightningModule) -> Replica:
    return Replica(module, CompressionConfig(topk=8), PeersConfig(), b"settings", CPU)


def signs(parameters: dict[str, Parameter], seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.randint(-1, 2, p.shape, generator=generator).float() for n, p in parameters.items()}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_updates_applied_tensor_by_tensor_are_those_applied_at_once(name: str) -> None:
    made, module = replica(Scheduled(OPTIMIZERS[name])), Scheduled(OPTIMIZERS[name])
    answer = module.configure_optimizers()
    optimizer, schedule = answer["optimizer"], answer["lr_scheduler"]["scheduler"]
    parameters = {n: p for n, p in module.named_parameters() if p.requires_grad}

    for window in range(6):
        update = signs(parameters, window)
        for parameter_name, parameter in parameters.items():
            parameter.grad = update[parameter_name].clone()
        optimizer.step()
        schedule.step()
        shuffled = list(update.items())[window % 4 :] + list(update.items())[: window % 4]
        made.apply((n, u.to(torch.int8) if window % 2 else u.clone()) for n, u in shuffled)

    assert made.applied == 6
    assert made.learning_rate == optimizer.param_groups[0]["lr"]
    assert made.parameters.keys() == parameters.keys()
    for parameter_name, parameter in parameters.items():
        mine = made.parameters[parameter_name]
        assert torch.equal(mine.view(torch.int32), parameter.view(torch.int32)), parameter_name
        assert made.state.optimizer is not None
        kept, wanted = made.state.optimizer.state[mine], optimizer.state[parameter]
        assert kept.keys() == wanted.keys()
        assert all(kept[key] is wanted[key] is None or torch.equal(kept[key], wanted[key]) for key in wanted)


@pytest.mark.parametrize("name", ["decoupled", "adamw", "momentum"])
def test_it_holds_what_the_strategy_holds_after_the_same_windows(tmp_path: Path, name: str) -> None:
    config = CompressionConfig(topk=8, momentum_decay=0.9)
    strategy = local_strategy(tmp_path, compression=config, settings_digest=b"s")
    updates: list[dict[str, Tensor]] = []

    class Spied(ConvClassifier):
        def on_before_zero_grad(self, optimizer: torch.optim.Optimizer) -> None:
            updates.append(gradients_of(self))  # before the first batch of a window: the update of the last one

    trained = Spied(OPTIMIZERS[name])
    quiet_trainer(strategy, 4).fit(trained, stripes())
    made = Replica(ConvClassifier(OPTIMIZERS[name]), config, PeersConfig(), b"s", CPU)

    assert strategy.session is not None
    assert made.digest == strategy.session.run.digest
    assert list(made.parameters) == list(strategy.session.parameters)
    applied = [update for update in [*updates, gradients_of(trained)] if update]
    assert len(applied) == 4
    for update in applied:
        made.apply(update.items())
    assert made.fingerprint() == fingerprint(strategy.session.parameters)


def test_a_parameter_of_two_names_is_exchanged_once_and_a_frozen_one_never() -> None:
    made = replica(Scheduled(OPTIMIZERS["decoupled"]))

    assert "net.4.weight" in made.parameters
    assert not {"again.weight", "frozen"} & made.parameters.keys()


class TwoLarge(LightningModule):
    """Three matrices, each of which is stepped alone."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList([torch.zeros(2, STEP_NUMEL // 2) for _ in range(3)])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return DecoupledSGD(self.parameters(), 0.5)


def test_no_gradient_of_a_large_tensor_is_kept_while_the_next_one_is_made() -> None:
    made = replica(TwoLarge())
    held: list[int] = []

    def update() -> Iterator[tuple[str, Tensor]]:
        for name, parameter in made.parameters.items():
            held.append(sum(p.grad is not None for p in made.parameters.values()))
            yield name, torch.ones_like(parameter)

    made.apply(update())

    assert held == [0, 0, 0]
    assert all(p.grad is None and bool((p == -0.5).all()) for p in made.parameters.values())


def test_no_large_tensor_of_an_update_is_held_while_the_next_one_is_made() -> None:
    made = replica(TwoLarge())
    yielded: list[weakref.ref[Tensor]] = []
    held: list[int] = []

    def fresh(parameter: Tensor) -> Tensor:
        held.append(sum(tensor() is not None for tensor in yielded))
        tensor = torch.ones_like(parameter)
        yielded.append(weakref.ref(tensor))
        return tensor

    made.apply((name, fresh(parameter)) for name, parameter in made.parameters.items())

    assert held == [0, 0, 0]


@pytest.mark.parametrize("change", ["missing", "unknown", "twice"])
def test_an_update_of_other_parameters_is_refused(change: str) -> None:
    made = replica(ConvClassifier())
    update = list(signs(made.parameters, 0).items())
    wrong = {"missing": update[:-1], "unknown": [("other", update[0][1]), *update[1:]], "twice": [*update, update[0]]}

    with pytest.raises(ValueError, match="an update has each parameter"):
        made.apply(wrong[change])

    assert made.applied == 0


def _module(answer: Callable[[torch.optim.Optimizer, LambdaLR], object]) -> LightningModule:
    class Answers(ConvClassifier):
        def configure_optimizers(self) -> Any:
            optimizer = super().configure_optimizers()
            return answer(optimizer, LambdaLR(optimizer, lambda windows: 1.0 / (1 + windows)))

    return Answers()


@pytest.mark.parametrize(
    "answer",
    [
        lambda o, s: {"optimizer": o, "lr_scheduler": s},
        lambda o, s: {"optimizer": o, "lr_scheduler": {"scheduler": s, "interval": "step"}},
        lambda o, s: ([o], [s]),
        lambda o, s: ([o], s),
        lambda o, s: [[o], [{"scheduler": s, "interval": "epoch", "frequency": 1}]],
        lambda o, s: [{"optimizer": o, "lr_scheduler": s}],
        lambda o, s: ({"optimizer": o, "lr_scheduler": {"scheduler": s}},),
    ],
)
def test_every_format_of_a_schedule_is_stepped_once_a_window(answer: Any) -> None:
    made = replica(_module(answer))

    for window in range(3):
        assert made.learning_rate == pytest.approx(0.005 / (1 + window))
        made.apply(signs(made.parameters, window).items())


@pytest.mark.parametrize("answer", [lambda o, _: o, lambda o, _: [o], lambda o, _: (o,), lambda o, _: {"optimizer": o}])
def test_every_format_without_a_schedule_is_taken(answer: Any) -> None:
    made = replica(_module(answer))

    assert made.learning_rate == 0.005
    assert made.state.schedules == ()


def _plateau(optimizer: torch.optim.Optimizer, _: object) -> object:
    return {"optimizer": optimizer, "lr_scheduler": ReduceLROnPlateau(optimizer), "monitor": "loss"}


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda *_: None, "configure_optimizers must return"),
        (lambda *_: {"lr_scheduler": None}, "configure_optimizers must return"),
        (lambda *_: [], "must return one optimizer, got 0"),
        (lambda o, _: [o, o], "must return one optimizer, got 2"),
        (lambda o, _: torch.optim.LBFGS(o.param_groups[0]["params"]), "LBFGS cannot be used"),
        (_plateau, "ReduceLROnPlateau cannot be used"),
        (lambda o, s: ([o], [{"scheduler": s, "reduce_on_plateau": True}]), "ReduceLROnPlateau cannot be used"),
        (lambda o, s: ([o], [{"scheduler": s, "frequency": 2}]), "frequency of a learning rate scheduler must be 1"),
        (lambda o, _: ([o], [object()]), "a scheduler must be one of"),
    ],
)
def test_what_no_run_takes_is_refused(answer: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replica(_module(answer))


def test_a_module_that_asks_its_trainer_is_refused_with_its_own_words() -> None:
    with pytest.raises(ConfigError, match=r"must work without a trainer, it says: .* is not attached to a `Trainer`"):
        replica(_module(lambda o, s: [o, s.lr_lambdas, module_of(o).trainer]))


def module_of(_: object) -> LightningModule:
    return ConvClassifier()
