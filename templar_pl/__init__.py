"""Train one language model with PyTorch Lightning on many machines that do not trust each other."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for editors and type checkers, which do not run `__getattr__`
    from templar_pl.training import (
        LlamaModule,
        LocalNetwork,
        TemplarDataModule,
        TemplarStrategy,
        WindowCheckpoint,
        WindowLog,
    )

__all__ = ["LlamaModule", "LocalNetwork", "TemplarDataModule", "TemplarStrategy", "WindowCheckpoint", "WindowLog"]


def __getattr__(name: str) -> Any:
    """Import a public class at its first use: torch and Lightning take seconds, and `--help` needs neither."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module("templar_pl.training"), name)
