"""The secret of crash tokens outlives a restart, for its owner alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from ipsecd.events import Event
from ipsecd.runtime.crash_secret import crash_secret


def test_secret_is_the_same_after_a_restart_and_for_nobody_else(tmp_path: Path) -> None:
    said: list[Event] = []
    directory = tmp_path / "state"
    first = crash_secret(directory, said.append)
    assert first is not None
    assert len(first.reveal()) == 32
    assert crash_secret(directory, said.append) == first
    file, = directory.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert not said


@pytest.mark.parametrize("damage", ["short", "readable"])
def test_secret_that_others_may_know_is_made_anew(tmp_path: Path, damage: str) -> None:
    first = crash_secret(tmp_path, [].append)
    file, = tmp_path.iterdir()
    if damage == "short":
        file.write_bytes(b"short")
    else:
        file.chmod(0o644)
    second = crash_secret(tmp_path, [].append)
    assert second is not None
    assert second != first
    assert crash_secret(tmp_path, [].append) == second


def test_directory_that_cannot_be_written_switches_detection_off_with_a_warning(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    said: list[Event] = []
    assert crash_secret(tmp_path / "state", said.append) is None
    assert said[0].name == "warned"
