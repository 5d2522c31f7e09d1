"""`ipsecd --check`, a start with a broken file, and the guard's way to its state."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from ipsecd.cli import exits
from ipsecd.cli.ipsecctl import main as ipsecctl
from ipsecd.cli.ipsecd import main
from ipsecd.cli.state import find_state
from ipsecd.runtime.state import note_directory

BROKEN = """\
gateway: {interfaces: ipsec0}
peers:
  hq: {address: not a name}
"""


@pytest.fixture(autouse=True)
def signal_mask() -> Iterator[None]:
    """A start blocks SIGHUP until the daemon hears it; here the process goes on after a start that fails."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    yield
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_check_lists_every_error_and_exits_78(tmp_path: Path) -> None:
    file = written(tmp_path, BROKEN)

    result = CliRunner().invoke(main, ["--check", str(file)])

    assert result.exit_code == exits.CONFIG == 78
    assert f"{file}:1:" in result.output and f"{file}:3:" in result.output


def test_check_as_json_is_versioned(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["--check", str(written(tmp_path, BROKEN)), "--json"])

    answer = json.loads(result.output)
    assert (answer["version"], answer["ok"], result.exit_code) == (1, False, 78)
    assert len(answer["problems"]) >= 2


def test_check_of_a_good_file_is_silent_about_its_keys(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["--check", str(good(tmp_path))])

    assert result.exit_code == exits.OK, result.output
    assert "swordfish" not in result.output


def test_start_with_a_broken_file_exits_78_with_every_error(tmp_path: Path) -> None:
    file = written(tmp_path, f"{BROKEN}control: {{socket: {tmp_path}/c.sock}}\n")

    result = CliRunner().invoke(main, ["--config", str(file)])

    assert result.exit_code == exits.CONFIG
    lines = [json.loads(line) for line in result.output.splitlines() if line.startswith("{")]
    assert {(line["event"], line["level"]) for line in lines} == {("config_problem", "error")}
    assert len(lines) >= 2


def test_start_with_a_directory_for_a_file_exits_78(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["--config", str(tmp_path)])

    assert (result.exit_code, "no regular file" in result.output) == (exits.CONFIG, True), result.output


def test_guard_without_an_accepted_policy_says_so(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["--guard", "--config", str(good(tmp_path))])

    assert (result.exit_code, "no policy was accepted yet" in result.output) == (exits.OK, True)


def test_modes_exclude_each_other(tmp_path: Path) -> None:
    assert CliRunner().invoke(main, ["--guard", "--check", str(good(tmp_path))]).exit_code == exits.USAGE


@pytest.mark.parametrize(("text", "expected"), [
    ("control: {socket: /tmp/a.sock}\n", "/tmp/a.state"),
    ("gateway: {state: /tmp/s}\ncontrol: {socket: /tmp/a.sock}\n", "/tmp/s"),
    ("gateway: {unknown: 1}\ncontrol:\n  socket: /tmp/a.sock\n", "/tmp/a.state"),
    ("control: {socket: /tmp/a.sock}\npeers: {{{\n", "/tmp/a.state"),
    ("peers: [\ngateway: {state: '/tmp/s'}\n\tx", "/tmp/s"),
    ("", "/var/lib/ipsecd/control"),
])
def test_state_is_found_whatever_else_the_file_holds(tmp_path: Path, text: str, expected: str) -> None:
    assert find_state(written(tmp_path, text)) == Path(expected)


def test_state_of_a_missing_file_is_the_default(tmp_path: Path) -> None:
    assert find_state(tmp_path / "none.yaml") == Path("/var/lib/ipsecd/control")


def test_state_of_a_file_that_cannot_be_read_is_where_the_daemon_noted_it(tmp_path: Path) -> None:
    file, root = tmp_path / "none.yaml", tmp_path / "state"
    root.mkdir()
    assert find_state(file, str(root)) == Path("/var/lib/ipsecd/control")
    for place in ("first", "elsewhere"):
        note_directory(root, file, tmp_path / place)
    assert find_state(file, str(root)) == tmp_path / "elsewhere"
    assert find_state(tmp_path / "other.yaml", str(root)) == Path("/var/lib/ipsecd/control")


def test_flush_without_yes_does_nothing(tmp_path: Path) -> None:
    result = CliRunner().invoke(ipsecctl, ["--socket", str(tmp_path / "c.sock"), "flush"])

    assert result.exit_code == exits.USAGE
    assert "--yes" in result.output


def good(tmp_path: Path) -> Path:
    """Write a configuration that runs."""
    key = tmp_path / "hq.psk"
    key.write_text("swordfish-swordfish-swordfish-swordfish\n")
    key.chmod(0o600)
    return written(tmp_path, f"""\
gateway: {{identity: branch.example.net}}
peers:
  hq:
    address: [203.0.113.7]
    auth: {{psk_file: {key}}}
    children:
      office: {{local: [10.1.0.0/16], remote: [10.2.0.0/16]}}
control: {{socket: {tmp_path}/c.sock}}
""")


def written(tmp_path: Path, text: str) -> Path:
    """Write a configuration."""
    path = tmp_path / "ipsecd.yaml"
    path.write_text(text)
    return path
