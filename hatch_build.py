"""Build hook: compile the C part of compression, if there is a compiler that can; else the wheel is pure Python."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

LIBRARIES = "templar_pl/compression/native/kernels_*.so"


class NativeBuildHook(BuildHookInterface):
    """Runs `build_native.py` before the files of the wheel are collected; also for editable installs."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002  # hatchling calls it
        """Compile, and add what was made to the wheel."""
        root = Path(self.root)
        subprocess.run([sys.executable, str(root / "build_native.py"), "--package"], check=True)  # noqa: S603  # our own script
        if not list(root.glob(LIBRARIES)):
            return
        build_data["artifacts"].append(LIBRARIES)
        build_data["pure_python"] = False
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{platform}"  # the C part knows nothing of Python
