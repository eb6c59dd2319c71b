"""Building the C part: loud for who changes it, quiet for who installs it; and all that was built works."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from build_native import find_compiler
from templar_pl.compression import native_fault

ROOT = Path(__file__).resolve().parents[2]
NATIVE = Path("templar_pl/compression/native")
LOWER_LEVELS = {"AVX512": ["avx2", "default"], "AVX2": ["default"]}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Copy what the build needs, without libraries."""
    shutil.copy(ROOT / "build_native.py", tmp_path)
    shutil.copytree(ROOT / NATIVE, tmp_path / NATIVE, ignore=shutil.ignore_patterns("*.so"))
    return tmp_path


def build(project: Path, *arguments: str, compiler: str) -> subprocess.CompletedProcess[str]:
    """Run the build with a shell script as compiler."""
    path = project / "compiler"
    path.write_text(f"#!/bin/sh\n{compiler}\n")
    path.chmod(0o755)
    command = [sys.executable, str(project / "build_native.py"), *arguments]
    environment = os.environ | {"CC": str(path)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_where_a_compiler_is_the_native_backend_works() -> None:
    assert find_compiler() is None or native_fault() == ""


@pytest.mark.parametrize("level", LOWER_LEVELS.get(torch.backends.cpu.get_cpu_capability(), []))
def test_the_libraries_for_lesser_processors_work_too(level: str) -> None:
    if find_compiler() is None:
        pytest.skip("there is no compiler")
    # native_fault compares momentum, bytes and update with torch; the other file needs it.
    code = (
        "import sys, pytest\n"
        "from templar_pl.compression import native_fault\n"
        "fault = native_fault()\n"
        f"assert 'kernels_{level}.so' in open('/proc/self/maps').read()\n"
        "options = ['-q', '-p', 'no:cacheprovider']\n"
        "sys.exit(fault or pytest.main([*options, 'tests/compression/test_native_extremes.py']))\n"
    )
    environment = os.environ | {"ATEN_CPU_CAPABILITY": level}

    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout


def test_a_compiler_that_fails_ends_the_command_with_its_message(project: Path) -> None:
    done = build(project, compiler="echo no such register >&2; exit 4")

    assert done.returncode == 1
    assert "no such register" in done.stderr
    assert "kernels_default.so was not built" in done.stderr


def test_a_compiler_that_fails_does_not_end_the_build_of_the_package(project: Path) -> None:
    done = build(project, "--package", compiler="exit 4")

    assert done.returncode == 0
    assert "kernels_default.so was not built" in done.stderr


def test_a_failed_build_leaves_no_old_library(project: Path) -> None:
    (project / NATIVE / "kernels_default.so").write_text("old")

    build(project, compiler="exit 4")

    assert not list((project / NATIVE).glob("*.so"))


def test_without_a_compiler_the_build_says_what_that_means(project: Path) -> None:
    command = [sys.executable, str(project / "build_native.py")]
    environment = os.environ | {"CC": "no-such-compiler"}

    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0
    assert "compression will run in torch" in done.stderr
