"""The published completion scripts, and names that complete from a running daemon."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from ipsecd.cli.completion import PROGRAMS, script
from ipsecd.cli.ipsecctl import main
from tests.support.control import Running, run_with_server


@pytest.mark.parametrize("name", PROGRAMS)
def test_completion_script_is_current(name: str) -> None:
    # python -m ipsecd.cli.completion etc/completion
    published = Path(__file__).parents[3] / "etc" / "completion" / f"{name}.bash"

    assert published.read_text(encoding="utf-8") == script(name)


@pytest.mark.parametrize(("words", "incomplete", "expected"), [
    (["up"], "h", ["hq"]), (["rekey"], "lab/", ["lab/rack"]), (["status"], "", ["hq", "lab"]), ([], "rel", ["reload"]),
])
def test_peers_and_children_complete(tmp_path: Path, words: list[str], incomplete: str, expected: list[str]) -> None:
    async def use(running: Running) -> list[str]:
        return await asyncio.to_thread(complete, ["--socket", str(running.path), *words], incomplete)

    assert run_with_server(tmp_path / "c.sock", use) == expected


def test_without_a_daemon_nothing_completes(tmp_path: Path) -> None:
    assert complete(["--socket", str(tmp_path / "c.sock"), "up"], "") == []


def complete(words: list[str], incomplete: str) -> list[str]:
    """Ask click as a shell does."""
    return [item.value for item in ShellComplete(main, {}, "ipsecctl", "_X").get_completions(words, incomplete)]
