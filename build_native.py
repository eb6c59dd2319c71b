"""Compile the C sources of `templar_pl/compression/native` into shared libraries beside them.

    python build_native.py            # for who changes them: a warning or an error ends it with exit code 1
    python build_native.py --package  # what the build of the package runs: goes on without what does not compile

Without a C compiler both do nothing but say so. On x86-64 there is one library for all processors, one for those with
AVX2 and one for those with AVX-512, chosen when the package runs; other platforms get one.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

SOURCES = Path(__file__).resolve().parent / "templar_pl" / "compression" / "native"
FLAGS = ["-std=gnu11", "-O3", "-fPIC", "-shared", "-pthread"]  # no -ffast-math
STRICT = ["-Wall", "-Wextra", "-Werror", "-Wno-unused-function"]
QUIET = ["-Wno-psabi"]  # says how wide vectors are handed over; all functions that take some are inlined
X86_LEVELS = {"avx2": ["-march=x86-64-v3"], "avx512": ["-march=x86-64-v4"]}
TIMEOUT_S = 300.0


def find_compiler() -> str | None:
    """Return the path of a C compiler, the one that CC names first; None if there is none."""
    names = [os.environ["CC"]] if os.environ.get("CC") else ["cc", "gcc", "clang"]
    return next((found for name in names if (found := shutil.which(name))), None)


def targets() -> dict[str, list[str]]:
    """Return name of the library -> flags that choose the processor."""
    levels: dict[str, list[str]] = {"default": []}
    if platform.machine().lower() in ("x86_64", "amd64"):
        levels |= X86_LEVELS
    return {f"kernels_{level}.so": flags for level, flags in levels.items()}


def build(compiler: str, warnings: list[str]) -> list[str]:
    """Compile all libraries, the old ones being removed first; print what is made. Return what could not be made."""
    for old in SOURCES.glob("kernels_*.so"):
        old.unlink()
    sources, faults = sorted(str(path) for path in SOURCES.glob("*.c")), []
    for name, flags in targets().items():
        command = [compiler, *FLAGS, *warnings, *QUIET, *flags, "-o", str(SOURCES / name), *sources]
        try:
            subprocess.run(command, check=True, timeout=TIMEOUT_S)  # noqa: S603  # fixed arguments and our own files
        except (OSError, subprocess.SubprocessError) as error:
            faults.append(f"{name} was not built: {error}")
        else:
            print(SOURCES / name)  # noqa: T201
    return faults


def main(*, is_package: bool) -> int:
    """Build, and return the exit code."""
    compiler = find_compiler()
    if compiler is None:
        print("no C compiler found: compression will run in torch, several times slower", file=sys.stderr)  # noqa: T201
        return 0
    faults = build(compiler, [] if is_package else STRICT)
    for fault in faults:
        print(fault, file=sys.stderr)  # noqa: T201
    return 0 if is_package or not faults else 1


if __name__ == "__main__":
    sys.exit(main(is_package="--package" in sys.argv[1:]))
