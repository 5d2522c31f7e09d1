"""A daemon whose native engine leaves out its ciphers: the limit of the path, for scripts/bench alone.

The module is a build of the crate with the feature `no-crypto` under another name, in another directory.  ipsecd cannot
load it, and its self test would refuse it; this program puts it in the place of both.

    python -m tests.lab.no_crypto --config FILE
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from ipsecd.engine.native_plane import NativePlane

CRATE = Path(__file__).parents[2] / "ipsecd/engine/native"
TARGET = CRATE / "target/no-crypto"
MODULE = TARGET / "release/lib_native.so"
NAME = "_native_no_crypto"
PROGRAM = (sys.executable, "-m", "tests.lab.no_crypto")
BUILD_S = 900


def build() -> str:
    """Build the module where it is not up to date; return why that failed, or nothing."""
    if shutil.which("cargo") is None:
        return "no cargo"
    done = subprocess.run(
        ("cargo", "build", "--release", "--locked", "--quiet", "--lib", "--features", "no-crypto", "--target-dir",
         str(TARGET)), cwd=CRATE, env={**os.environ, "PYO3_PYTHON": sys.executable}, capture_output=True, text=True,
        timeout=BUILD_S, check=False)
    return "" if done.returncode == 0 else f"cargo build failed: {done.stderr[-500:]}"


def load() -> Callable[[], NativePlane]:
    """Return what makes a data plane without ciphers."""
    spec = importlib.util.spec_from_file_location(NAME, MODULE)
    if spec is None or spec.loader is None:
        raise ImportError(f"{MODULE} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    engine: Callable[[], NativePlane] = module.Engine
    return engine


def run() -> None:
    """Run `ipsecd` with that module."""
    from ipsecd.cli import ipsecd
    from ipsecd.engine import choose, native

    new_plane = load()
    native.load = choose.load = lambda: new_plane
    choose.self_test = lambda _: ""
    ipsecd.main(prog_name="ipsecd")


if __name__ == "__main__":
    run()
