"""Updates pass by the aggregator and the validator tensor by tensor, in the same place of memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from templar_pl.compression import MomentumCodec
from templar_pl.config import CompressionConfig, PeersConfig, ScoringConfig
from templar_pl.protocol import Header
from templar_pl.protocol.payload import Payload
from templar_pl.roles.aggregator import Aggregator
from templar_pl.roles.own_copy import OwnCopy
from templar_pl.training import Replica
from templar_pl.training.optimizer import DecoupledSGD
from templar_pl.training.patience import Patience
from templar_pl.units import Uid, Window
from tests.exchange.manifests import standing_manifest
from tests.roles.scored_runs import loader

CPU, COMPRESSION = torch.device("cpu"), CompressionConfig(topk=4, chunk_size=64)
Update = Iterator[tuple[str, Tensor]]


class Large(LightningModule):
    """Three matrices, none of which is too small to get the one place."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList([torch.zeros(512, 512) for _ in range(3)])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return DecoupledSGD(self.parameters(), 0.5)


def payload_of(replica: Replica) -> Payload:
    shapes = {name: tuple(parameter.shape) for name, parameter in replica.parameters.items()}
    gradients = {name: torch.ones(shape) for name, shape in shapes.items()}
    chunks = MomentumCodec(shapes, COMPRESSION, CPU).send_(gradients, dict.fromkeys(gradients, 0.1))
    header = Header(
        run=replica.digest,
        window=Window(0),
        uid=Uid(0),
        public_key=bytes(32),
        pages=bytes(32),
        fingerprint=bytes(32),
        loss=1.0,
        batches=1,
        tokens=1,
    )
    return Payload(header, chunks)


class Outbox:
    """Stands for that of an aggregator which was cut off before the aggregate of its last window was out."""

    def __init__(self) -> None:
        self.update: Update = iter(())

    def newest(self) -> Window:
        return Window(0)

    def standing(self, window: Window) -> object:
        return standing_manifest({Uid(0): bytes(32)})

    def has_aggregate(self, standing: object) -> bool:
        return False

    def send(self, standing: object, update: Callable[[], Update], done: object) -> None:
        self.update = update()

    def flush(self) -> None:
        pass


class Payloads:
    def __init__(self, payload: Payload) -> None:
        self._payload = payload

    def listed(self, standing: object) -> dict[Uid, Payload]:
        return {Uid(0): self._payload}

    def forget(self, window: Window) -> None:
        pass


def of_an_aggregator(replica: Replica) -> Update:
    outbox: Any = Outbox()
    payloads: Any = Payloads(payload_of(replica))
    keeper: Any = None  # nothing is applied
    replica.applied = 1
    patience = Patience(1.0, lambda: None)
    Aggregator(replica, replica.digest, payloads=payloads, outbox=outbox, keeper=keeper, patience=patience).run(
        Window(0), 1
    )
    return outbox.update


def of_a_validator(replica: Replica) -> Update:
    guide: Any = None  # it goes nowhere
    copy = OwnCopy(replica, guide, loader(), ScoringConfig(), Patience(1.0, lambda: None))
    return copy.updates(payload_of(replica))


@pytest.mark.parametrize("update_of", [of_an_aggregator, of_a_validator])
def test_no_tensor_of_an_update_is_held_while_the_next_one_is_computed(update_of: Callable[[Replica], Update]) -> None:
    replica = Replica(Large(), COMPRESSION, PeersConfig(), b"settings", CPU)
    update = update_of(replica)

    names, places = [], set()
    for name, tensor in update:
        names.append(name)
        places.add(tensor.data_ptr())
        del tensor

    assert names == list(replica.parameters)
    assert len(places) == 1
