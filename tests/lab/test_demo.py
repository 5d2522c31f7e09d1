"""scripts/demo, as a stranger runs it."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.lab.demo import KEPT
from tests.support.netns import LAB, run

pytestmark = LAB

DEMO = Path(__file__).parent.parent.parent / "scripts" / "demo"


@pytest.mark.parametrize("options", [(), ("--nat",),
                                     pytest.param(("--peer", "strongswan"), marks=pytest.mark.interop),
                                     pytest.param(("--peer", "strongswan", "--nat"), marks=pytest.mark.interop)],
                         ids=" ".join)
def test_demo_holds_and_leaves_nothing_behind(options: tuple[str, ...]) -> None:
    process = subprocess.Popen((str(DEMO), *options), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    said, _ = process.communicate(timeout=100)
    assert process.returncode == 0, said
    assert "Everything held." in said
    assert " 0 others, 0 with an inner address" in said
    assert left_by(process.pid) == []


def test_demo_keeps_standing_until_it_is_cleaned() -> None:
    process = subprocess.Popen((str(DEMO), "--keep"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        said, _ = process.communicate(timeout=100)
        assert process.returncode == 0, said
        assert len(left_by(process.pid)) == 5
    finally:
        subprocess.run((str(DEMO), "--clean"), check=True, timeout=30)
    assert left_by(process.pid) == []
    assert list(Path(tempfile.gettempdir()).glob(f"ipsecd-lab-*/{KEPT}")) == []


def left_by(pid: int) -> list[str]:
    """Return the namespaces that a demo left; scripts/demo becomes the Python process, so it has that pid."""
    assert os.geteuid() == 0
    return [line for line in run("ip", "netns", "list").splitlines() if line.startswith(f"il{pid}-")]
