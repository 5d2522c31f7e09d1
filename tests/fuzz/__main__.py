"""Fuzz one target, guided by coverage: `python -m tests.fuzz TARGET [libFuzzer arguments]`; scripts/fuzz calls it."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["ipsecd"]):
    from tests.fuzz.mutate import CORPUS
    from tests.fuzz.targets import TARGETS


def main() -> None:
    name, *arguments = sys.argv[1:]
    target, kept = TARGETS[name], CORPUS / name
    kept.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as seeds:
        for number, seed in enumerate(target.seeds()):
            Path(seeds, str(number)).write_bytes(seed)
        atheris.Setup([sys.argv[0], *arguments, str(kept), seeds], target.run)
        atheris.Fuzz()


main()
