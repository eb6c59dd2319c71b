"""Everything that touches Lightning."""

from templar_pl.training.checkpoints import WindowCheckpoint
from templar_pl.training.data_module import TemplarDataModule
from templar_pl.training.module import LlamaModule
from templar_pl.training.network import Connection, LocalNetwork, Network
from templar_pl.training.predictions import PrintPredictions
from templar_pl.training.progress import WindowProgressBar
from templar_pl.training.recovery import RecoveryConfig
from templar_pl.training.report import WindowReport
from templar_pl.training.strategy import ExchangeMixin, TemplarStrategy, register
from templar_pl.training.window_log import WindowLog

__all__ = [
    "Connection",
    "ExchangeMixin",
    "LlamaModule",
    "LocalNetwork",
    "Network",
    "PrintPredictions",
    "RecoveryConfig",
    "TemplarDataModule",
    "TemplarStrategy",
    "WindowCheckpoint",
    "WindowLog",
    "WindowProgressBar",
    "WindowReport",
]

register()
