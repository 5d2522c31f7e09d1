"""A reload in words: settings beside the policy, and what only a restart changes."""

from __future__ import annotations

from pathlib import Path

from ipsecd.config.change import change_lines, needs_restart
from tests.unit.config.support import GOOD, compiled


def test_reload_names_the_settings_that_change(tmp_path: Path) -> None:
    before, after = compiled(tmp_path, GOOD), compiled(tmp_path, f"{GOOD}log: {{level: debug}}\n")

    assert change_lines(before, after) == ["~ log.level changed; applied to what runs, nothing is disturbed"]
    assert needs_restart(before, after) == []
    assert change_lines(before, before) == ["no change: nothing is disturbed"]


def test_plan_says_what_a_reload_would_refuse(tmp_path: Path) -> None:
    before = compiled(tmp_path, GOOD)
    after = compiled(tmp_path, GOOD.replace("gateway:\n", "gateway:\n  interface: ipsec9\n", 1)
                     + "metrics: {listen: \"127.0.0.1:9999\"}\n")

    assert needs_restart(before, after) == [
        "gateway.interface, mark, tables and priority take effect at a restart only",
        "metrics.listen takes effect at a restart only"]
    lines = change_lines(before, after)
    assert sum("needs a restart" in line for line in lines) == 2, lines
