"""Builds of the native engine's crate with a feature that no daemon may have, each under a name of its own.

The name keeps ipsecd from loading one; a program that wants it puts it in the place of the module (see `run`).
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ipsecd.engine.native_plane import NativePlane

CRATE = Path(__file__).parents[2] / "ipsecd/engine/native"
TARGET = CRATE / "target/variants"
BUILD_S = 900


@dataclass(frozen=True, slots=True)
class Variant:
    """The crate with one feature."""

    feature: str

    @property
    def name(self) -> str:
        """The module's own name (python.rs)."""
        return "_native_" + self.feature.replace("-", "_")

    @property
    def file(self) -> Path:
        """Where `build` leaves it."""
        return TARGET / f"{self.name}.so"

    def build(self) -> str:
        """Build the module where it is not up to date; return why that failed, or nothing."""
        if shutil.which("cargo") is None:
            return "no cargo"
        done = subprocess.run(
            ("cargo", "build", "--release", "--locked", "--quiet", "--lib", "--features", self.feature, "--target-dir",
             str(TARGET)), cwd=CRATE, env={**os.environ, "PYO3_PYTHON": sys.executable}, capture_output=True, text=True,
            timeout=BUILD_S, check=False)
        if done.returncode:
            return f"cargo build failed: {done.stderr[-500:]}"
        shutil.copyfile(TARGET / "release/lib_native.so", self.file)
        return ""

    def load(self) -> Callable[[], NativePlane]:
        """Return what makes its data plane; raises ImportError."""
        spec = importlib.util.spec_from_file_location(self.name, self.file)
        if spec is None or spec.loader is None:
            raise ImportError(f"{self.file} cannot be loaded")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        engine: Callable[[], NativePlane] = module.Engine
        return engine

    def run(self) -> None:
        """Run `ipsecd` in this process with it for its native engine, self test or not."""
        from ipsecd.cli import ipsecd
        from ipsecd.engine import choose, native

        new_plane = self.load()
        native.load = choose.load = lambda: new_plane
        choose.self_test = lambda _: ""
        ipsecd.main(prog_name="ipsecd")
