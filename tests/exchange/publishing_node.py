"""Publishes checkpoint after checkpoint until it is killed. Arguments: folder, first number of windows applied."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import torch

from templar_pl.exchange.checkpoint_publisher import Moment
from templar_pl.exchange.local_store import LocalBuckets
from templar_pl.protocol.model_state import ModelState
from templar_pl.units import Window
from tests.exchange.models import START, publisher

if __name__ == "__main__":
    folder, first = Path(sys.argv[1]), int(sys.argv[2])
    one = publisher(LocalBuckets(folder / "store", "peer").own(), folder)
    one.resume()
    for applied in itertools.count(first):
        one.wait(60)
        parameters = {f"p{i}": torch.full((500, 500), float(applied)) for i in range(4)}
        assert one.offer(Moment(Window(START + applied), applied), ModelState(parameters))
        sys.stdout.write(".")
        sys.stdout.flush()
