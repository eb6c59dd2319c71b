"""Compile the C sources of `templar_pl/compression/native` into shared libraries beside them.

    python build_native.py

The build of the package runs it; without a C compiler it does nothing but say so. On x86-64 there is one library for
processors with AVX2 and one for AVX-512, chosen when the package runs; other processors get one for the platform.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

SOURCES = Path(__file__).resolve().parent / "templar_pl" / "compression" / "native"
FLAGS = [
    "-std=gnu11",
    "-O3",
    "-fPIC",
    "-shared",
    "-pthread",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wno-unused-function",
]  # no -ffast-math
X86_LEVELS = {"avx2": "x86-64-v3", "avx512": "x86-64-v4"}
TIMEOUT_S = 300.0


def find_compiler() -> str | None:
    """Return the path of a C compiler, the one that CC names first; None if there is none."""
    names = [os.environ["CC"]] if os.environ.get("CC") else ["cc", "gcc", "clang"]
    return next((found for name in names if (found := shutil.which(name))), None)


def targets() -> dict[str, list[str]]:
    """Return name of the library -> flags that choose the processor."""
    if platform.machine().lower() in ("x86_64", "amd64"):
        return {f"kernels_{name}.so": [f"-march={level}"] for name, level in X86_LEVELS.items()}
    return {"kernels_default.so": []}


def build() -> list[Path]:
    """Compile, and return the libraries that were made; old ones are removed first."""
    for old in SOURCES.glob("kernels_*.so"):
        old.unlink()
    compiler, made = find_compiler(), []
    if compiler is None:
        print("no C compiler found: compression will run in torch, several times slower", file=sys.stderr)  # noqa: T201
        return []
    sources = sorted(str(path) for path in SOURCES.glob("*.c"))
    for name, flags in targets().items():
        command = [compiler, *FLAGS, *flags, "-o", str(SOURCES / name), *sources]
        try:
            subprocess.run(command, check=True, timeout=TIMEOUT_S)  # noqa: S603  # fixed arguments and our own files
        except (OSError, subprocess.SubprocessError) as error:
            print(f"{name} was not built, torch will be used instead: {error}", file=sys.stderr)  # noqa: T201
        else:
            made.append(SOURCES / name)
    return made


if __name__ == "__main__":
    for library in build():
        print(library)  # noqa: T201
