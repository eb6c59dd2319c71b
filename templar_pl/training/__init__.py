"""Everything that touches Lightning."""

from templar_pl.training.applying import exact_dtype
from templar_pl.training.checkpoints import WindowCheckpoint
from templar_pl.training.data_module import TemplarDataModule
from templar_pl.training.local_network import LocalNetwork, LocalView
from templar_pl.training.module import LlamaModule, refuse_small_vocabulary
from templar_pl.training.network import Connection, Network, refuse_late_uploads, refuse_short_gathers
from templar_pl.training.node_folder import NodeFolder
from templar_pl.training.outlook import Outlook
from templar_pl.training.predictions import PrintPredictions
from templar_pl.training.progress import WindowProgressBar
from templar_pl.training.recovery import RecoveryConfig
from templar_pl.training.replica import Replica
from templar_pl.training.report import WindowReport
from templar_pl.training.run_digest import run_digest
from templar_pl.training.strategy import ExchangeMixin, TemplarStrategy, register
from templar_pl.training.trial import try_trainer
from templar_pl.training.window_log import WindowLog

__all__ = [
    "Connection",
    "ExchangeMixin",
    "LlamaModule",
    "LocalNetwork",
    "LocalView",
    "Network",
    "NodeFolder",
    "Outlook",
    "PrintPredictions",
    "RecoveryConfig",
    "Replica",
    "TemplarDataModule",
    "TemplarStrategy",
    "WindowCheckpoint",
    "WindowLog",
    "WindowProgressBar",
    "WindowReport",
    "exact_dtype",
    "refuse_late_uploads",
    "refuse_short_gathers",
    "refuse_small_vocabulary",
    "run_digest",
    "try_trainer",
]

register()
