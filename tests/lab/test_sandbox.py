"""What the unit forbids, the daemon must not need: its system calls, watched while it works."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.lab.daemon import Ipsecd
from tests.lab.rig import Rig, ping
from tests.support.netns import LAB, run

pytestmark = [*LAB, *(pytest.mark.skipif(shutil.which(tool) is None, reason=f"{tool} is missing")
                      for tool in ("strace", "systemd-analyze"))]

UNIT = Path(__file__).parent.parent.parent / "systemd" / "ipsecd.service"


def test_every_system_call_of_a_working_daemon_is_allowed_by_the_unit() -> None:
    with Rig() as rig:
        left, right = Ipsecd(rig, rig.a, rig.b), Ipsecd(rig, rig.b, rig.a)
        trace = left.directory / "calls"
        right.start()
        left.start(before=("strace", "-f", "-qq", "-o", str(trace)))
        left.wait_up(within_s=30)
        ping(rig.a.host, rig.b.host4)
        left.ctl("rekey", left.child, "--wait")
        left.change(lambda config: config["policies"].append(
            {"name": "added", "action": "bypass", "remote": ["10.2.9.0/24"]}))
        left.reload()
        left.ctl("doctor", "--json", check=False)
        daemon = int(run("pgrep", "-f", f"^[^ ]*python.* --config {left.file}").split()[0])
        subprocess.run(("kill", "-TERM", str(daemon)), check=True)
        left.wait_ended(within_s=10)
        used = set(re.findall(r"^\d+ +(?:\[[^]]*\] )?(\w+)\(", trace.read_text(), re.MULTILINE))
    assert len(used) > 30
    assert used - allowed() == set()


def allowed() -> set[str]:
    """Return the system calls that the unit lets pass; what begins with ~ is taken away again."""
    calls: set[str] = set()
    for line in UNIT.read_text().splitlines():
        if line.startswith("SystemCallFilter="):
            words = line.split("=")[1].split()
            if words[0].startswith("~"):
                calls -= {c for word in words for c in expand(word.lstrip("~"))}
            else:
                calls |= {c for word in words for c in expand(word)}
    return calls


def expand(word: str) -> set[str]:
    """Return the calls of a set such as @network-io, those of the sets inside of it too."""
    if not word.startswith("@"):
        return {word}
    lines = run("systemd-analyze", "--no-pager", "syscall-filter", word).splitlines()[1:]
    inside = [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
    return {call for entry in inside for call in expand(entry)}
