"""What a trainer would say to its settings, found out without training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer

from templar_pl.errors import ConfigError
from templar_pl.training.refusals import refuse_settings, refuse_several_devices
from templar_pl.training.strategy import TemplarStrategy

_WITHOUT_TRACE: dict[str, Any] = {
    "logger": False,
    "callbacks": None,
    "plugins": None,
    "profiler": None,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def try_trainer(settings: Mapping[str, Any]) -> tuple[torch.device, str]:
    """Return the device and the precision that a trainer of these settings trains with.

    Args:
        settings: arguments of `Trainer`. Those that show or write something are left out: loggers, callbacks, plugins,
            the profiler.

    Raises:
        ConfigError: Lightning or the strategy refuses them, or the device is not there.
    """
    try:
        strategy = TemplarStrategy()
        trainer = Trainer(**{**settings, **_WITHOUT_TRACE, "strategy": strategy})
    except (MisconfigurationException, ValueError) as error:
        raise ConfigError(f"the trainer refuses its settings: {error}") from error
    refuse_settings(trainer)
    refuse_several_devices(strategy.num_devices)
    return strategy.root_device, str(trainer.precision)
